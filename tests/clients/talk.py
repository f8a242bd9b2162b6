"""Asks corm-serve with the official clients, at the given port and at that of a server whose model thinks: what one of
them does not understand raises."""

import json
import sys

import anthropic
import openai

PORT = sys.argv[1]
HI = [{"role": "user", "content": "Hi"}]
o = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none")
a = anthropic.Anthropic(base_url=f"http://127.0.0.1:{PORT}", api_key="none")


def ok(name):
    print("ok", name, flush=True)


assert [m.id for m in o.models.list()] == ["fable"]
whole = o.chat.completions.create(model="fable", messages=HI, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2)
text = whole.choices[0].message.content
assert text and whole.usage.completion_tokens == 10 and whole.choices[0].finish_reason == "length"
assert "".join(t.token for t in whole.choices[0].logprobs.content) == text
assert all(t.logprob == t.top_logprobs[0].logprob for t in whole.choices[0].logprobs.content)
ok("openai: a turn")

parts, usage = "", None
for chunk in o.chat.completions.create(model="fable", messages=HI, max_tokens=10, temperature=0, stream=True,
                                       stream_options={"include_usage": True}):
    if chunk.choices:
        parts += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert parts == text and usage.completion_tokens == 10 and usage.prompt_tokens_details.cached_tokens > 0, usage
with o.chat.completions.stream(model="fable", messages=HI, max_tokens=10, temperature=0) as stream:
    assert "".join(event.delta for event in stream if event.type == "content.delta") == text
ok("openai: a turn as a stream")

scored = o.completions.create(model="fable", prompt="Once upon a time", max_tokens=1, temperature=0, logprobs=2, echo=True)
assert scored.choices[0].logprobs.token_logprobs[0] is None
assert len(scored.choices[0].logprobs.tokens) == 6, scored
ok("openai: a text with probabilities")

short = o.responses.create(model="fable", input="Hi", max_output_tokens=10, temperature=0)
assert short.output_text == text and short.status == "incomplete"
assert short.incomplete_details.reason == "max_output_tokens"
last = None
for last in o.responses.create(model="fable", input="Hi", max_output_tokens=10, temperature=0, stream=True):
    pass
assert last.type == "response.incomplete" and last.response.output_text == text
with o.responses.stream(model="fable", input="Once upon a time", temperature=0) as stream:
    said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert stream.get_final_response().output_text == said
ok("openai: responses")

try:
    o.chat.completions.create(model="fable", messages=HI, temperature=-3)
    raise AssertionError("a temperature below 0")
except openai.BadRequestError as e:
    assert e.param == "temperature" and "expected 0 to 100" in e.message, e
try:
    o.embeddings.create(model="fable", input="x")
    raise AssertionError("embeddings")
except openai.APIStatusError as e:
    assert e.status_code == 501, e
ok("openai: errors")

more = {"temperature": 0}
m = a.messages.create(model="fable", max_tokens=10, messages=HI, extra_body=more)
assert m.content[0].text == text and m.stop_reason == "max_tokens" and m.usage.output_tokens == 10
with a.messages.stream(model="fable", max_tokens=10, messages=HI, extra_body=more) as stream:
    assert "".join(stream.text_stream) == text
    assert stream.get_final_message().usage.output_tokens == 10
assert a.messages.count_tokens(model="fable", messages=HI).input_tokens == 3
assert [x.id for x in a.models.list()] == ["fable"]
ok("anthropic: a turn, a stream, counting")

look = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}}
tools = [{"type": "function", "function": {"name": "look", "parameters": look}}]
must = {"model": "fable", "messages": HI, "tools": tools, "tool_choice": "required", "max_tokens": 200,
        "parallel_tool_calls": False, "seed": 1}
called = o.chat.completions.create(**must).choices[0]
assert called.finish_reason == "tool_calls" and called.message.tool_calls[0].function.name == "look", called
assert 1 <= json.loads(called.message.tool_calls[0].function.arguments)["n"] <= 9
with o.chat.completions.stream(**must) as stream:
    kinds = {event.type for event in stream}
    same = stream.get_final_completion().choices[0].message.tool_calls[0].function
assert "tool_calls.function.arguments.done" in kinds and same.arguments == called.message.tool_calls[0].function.arguments
again = o.chat.completions.create(model="fable", max_tokens=4, tools=tools, messages=HI + [
    called.message, {"role": "tool", "tool_call_id": called.message.tool_calls[0].id, "content": "seen"}])
assert again.usage.prompt_tokens > 50
ok("openai: calls of tools")

must = {"model": "fable", "input": "Hi", "tools": [{"type": "function", "name": "look", "parameters": look, "strict": True}],
        "tool_choice": "required", "max_output_tokens": 200, "parallel_tool_calls": False, "extra_body": {"seed": 1}}
item = [x for x in o.responses.create(**must).output if x.type == "function_call"][0]
assert item.name == "look" and 1 <= json.loads(item.arguments)["n"] <= 9, item
with o.responses.stream(**must) as stream:
    kinds = {event.type for event in stream}
    same = [x for x in stream.get_final_response().output if x.type == "function_call"][0]
assert "response.function_call_arguments.done" in kinds and same.arguments == item.arguments, kinds
ok("openai: calls of tools as items")

must = {"model": "fable", "max_tokens": 200, "messages": HI, "tools": [{"name": "look", "input_schema": look}],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True}, "extra_body": {"seed": 1}}
m = a.messages.create(**must)
assert m.stop_reason == "tool_use" and 1 <= m.content[0].input["n"] <= 9, m
with a.messages.stream(**must) as stream:
    assert "input_json" in {event.type for event in stream}
    assert stream.get_final_message().content[0].input == m.content[0].input
again = a.messages.create(model="fable", max_tokens=4, tools=must["tools"], messages=HI + [
    {"role": "assistant", "content": m.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": m.content[0].id, "content": "seen"}]}])
assert again.usage.input_tokens + again.usage.cache_read_input_tokens > 50
ok("anthropic: calls of tools")

image = [{"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}]
try:
    a.messages.create(model="fable", max_tokens=10, messages=[{"role": "user", "content": image}])
    raise AssertionError("an image")
except anthropic.BadRequestError as e:
    assert "type image" in e.message, e
ok("anthropic: errors")

# ---- thoughts: what the second server generates is all thought, unless biases make it end -----------

t = openai.OpenAI(base_url=f"http://127.0.0.1:{sys.argv[2]}/v1", api_key="none")
tokens = lambda **what: t.post("/tokenize", body=what, cast_to=object)["tokens"]
order = [700] + tokens(content="</think>")
bias = {str(i): -100 for i in range(4096)}
bias.update({str(token): 100 - 32 * k for k, token in enumerate(order)})
bias["500"] = -95  # each token is the likeliest until it was there; then something is said
more = {"logit_bias": bias, "presence_penalty": 100, "frequency_penalty": 100}
how = {"model": "fable", "input": "Hi", "temperature": 0, "max_output_tokens": 9, "extra_body": more}

r = t.responses.create(**how, reasoning={"effort": "low", "summary": "auto"})
assert [i.type for i in r.output] == ["reasoning", "message"], r
assert r.output[0].content[0].type == "reasoning_text" and r.output[0].content[0].text and r.output[0].summary == []
assert r.usage.output_tokens_details.reasoning_tokens > 0 and r.output_text, r.usage
parts = {"response.reasoning_text.delta": "", "response.output_text.delta": ""}
stop = next(c for c in r.output_text[1:] if c not in "</think>")  # the client wants a response that is completed
how["extra_body"] = {**more, "stop": stop}
with t.responses.stream(**how) as stream:
    numbers = []
    for event in stream:
        numbers.append(event.sequence_number)
        if event.type in parts:
            parts[event.type] += event.delta
    got = stream.get_final_response()
assert numbers == list(range(len(numbers))), numbers
assert [i.type for i in got.output] == ["reasoning", "message"] and got.status == "completed", got
assert list(parts.values()) == [r.output[0].content[0].text, r.output_text.split(stop)[0]], parts
again = t.responses.create(model="fable", max_output_tokens=3, input=[{"role": "user", "content": "Hi"}, *r.output,
                                                                       {"role": "user", "content": "Hi"}])
assert again.output[0].type == "reasoning" and again.usage.input_tokens > r.usage.input_tokens, again
c = t.chat.completions.create(model="fable", messages=HI, max_tokens=9, temperature=0, reasoning_effort="low", extra_body=more)
assert c.choices[0].message.reasoning_content == r.output[0].content[0].text, c
ok("openai: thoughts")

u = anthropic.Anthropic(base_url=f"http://127.0.0.1:{sys.argv[2]}", api_key="none")
with u.messages.stream(model="fable", max_tokens=9, messages=HI, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
    kinds = {event.type for event in stream}
    got = stream.get_final_message()
assert "thinking" in kinds and got.content[0].type == "thinking" and got.content[0].thinking, (kinds, got)
ok("anthropic: thoughts")
