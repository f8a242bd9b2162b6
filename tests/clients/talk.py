"""Asks corm-serve at the given port with the official clients; what one of them does not understand raises."""

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

image = [{"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}]
try:
    a.messages.create(model="fable", max_tokens=10, messages=[{"role": "user", "content": image}])
    raise AssertionError("an image")
except anthropic.BadRequestError as e:
    assert "type image" in e.message, e
ok("anthropic: errors")
