"""Asks a running corm-serve for calls of tools: util_tools.py GROUP PORT FORM. Prints `ok NAME` or `not ok NAME` for
each check; the status is 1 where one failed."""

import json
import sys
import traceback
import urllib.error
import urllib.request

GROUP, PORT, FORM = sys.argv[1], int(sys.argv[2]), sys.argv[3]
failed = False

LOOK = {"type": "object", "required": ["word", "n", "kind"],
        "properties": {"word": {"type": "string", "maxLength": 10}, "n": {"type": "integer", "minimum": 1, "maximum": 99},
                       "kind": {"type": "string", "enum": ["red", "blue"]}}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "description": "Looks", "parameters": LOOK}},
         {"type": "function", "function": {"name": "off"}}]
CLAUDE = [{"name": "look_up", "input_schema": LOOK}, {"name": "off", "input_schema": {"type": "object"}}]
HI = [{"role": "user", "content": "Tell me of Tim."}]
FREE = FORM in ("qwen-coder", "glm", "gemma")  # strings without quotes, whose lengths nothing bounds


def ask(path, body):
    r = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode(),
                               {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(r, timeout=120) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def get(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=120) as got:
        return got.read().decode()


def good(path, body):
    status, text = ask(path, body)
    assert status == 200, (status, text)
    return text


def chat(**more):
    return json.loads(good("/v1/chat/completions", {"messages": HI, "tools": TOOLS, "max_tokens": 300, "seed": 1, **more}))


def events(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]


def check_arguments(name, a, whole=True):
    if name == "off":
        assert a == {}, a
        return
    assert name == "look_up" and list(a) == ["word", "n", "kind"], (name, a)
    assert isinstance(a["word"], str) and a["kind"] in ("red", "blue"), a
    assert type(a["n"]) is int and 1 <= a["n"] <= 99 and (FREE or len(a["word"]) <= 10), a


def check(f):
    global failed
    try:
        f()
        print("ok", f"{FORM}: {f.__doc__}")
    except Exception:
        failed = True
        print("not ok", f"{FORM}: {f.__doc__}")
        print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")


# ---- each form ----

NAMED = {"tool_choice": {"type": "function", "function": {"name": "look_up"}}, "parallel_tool_calls": False}


def required():
    "a required call is one of the tools, by its schema"
    whole = 0
    for seed in range(4):
        choice = chat(tool_choice="required", seed=seed)["choices"][0]
        message = choice["message"]
        if choice["finish_reason"] == "length":
            continue  # text without an end, or calls
        whole += 1
        assert choice["finish_reason"] == "tool_calls" and message["content"] is None, choice
        for call in message["tool_calls"]:
            assert call["type"] == "function"
            check_arguments(call["function"]["name"], json.loads(call["function"]["arguments"]))
        assert len({c["id"] for c in message["tool_calls"]}) == len(message["tool_calls"])
    assert whole, "no answer came to its end"


def named():
    "a named call is made once, and streamed in pieces that are the same"
    how = {**NAMED, "seed": 1, "max_tokens": 700 if FREE else 300, "logit_bias": {}}
    choice = chat(**how)["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert len(calls) == 1 and choice["finish_reason"] == "tool_calls", choice
    check_arguments("look_up", json.loads(calls[0]["function"]["arguments"]))
    text = good("/v1/chat/completions", {"messages": HI, "tools": TOOLS, "stream": True,
                                         "stream_options": {"include_usage": True}, **how})
    chunks = events(text)
    assert text.rstrip().endswith("data: [DONE]") and len({c["id"] for c in chunks}) == 1
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert deltas[0]["role"] == "assistant"
    parts = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert all(p["index"] == 0 for p in parts) and len(parts) > 2
    assert parts[0]["function"] == {"name": "look_up", "arguments": ""} and parts[0]["id"]
    assert all("id" not in p and "name" not in p["function"] for p in parts[1:])
    assert "".join(p["function"]["arguments"] for p in parts) == calls[0]["function"]["arguments"]
    assert not any(d.get("content") for d in deltas)
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "tool_calls"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0


def claude():
    "Anthropic's blocks"
    how = {"messages": HI, "tools": CLAUDE, "max_tokens": 700 if FREE else 300, "seed": 1,
           "tool_choice": {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True}}
    m = json.loads(good("/v1/messages", how))
    assert m["stop_reason"] == "tool_use" and [b["type"] for b in m["content"]] == ["tool_use"], m
    check_arguments("look_up", m["content"][0]["input"])
    got = events(good("/v1/messages", {**how, "stream": True}))
    types = [e["type"] for e in got]
    assert types[:2] == ["message_start", "content_block_start"] and types[-1] == "message_stop", types
    assert types[-3:-1] == ["content_block_stop", "message_delta"]
    start = got[1]["content_block"]
    assert start["type"] == "tool_use" and start["name"] == "look_up" and start["input"] == {} and start["id"]
    said = "".join(e["delta"]["partial_json"] for e in got if e["type"] == "content_block_delta")
    assert json.loads(said) == m["content"][0]["input"]
    assert got[-2]["delta"]["stop_reason"] == "tool_use"


def responses():
    "items of responses"
    tool = {"type": "function", **TOOLS[0]["function"]}
    how = {"input": "Tell me of Tim.", "tools": [tool, {"type": "web_search"}], "max_output_tokens": 700 if FREE else 300,
           "seed": 1, "tool_choice": {"type": "function", "name": "look_up"}, "parallel_tool_calls": False}
    r = json.loads(good("/v1/responses", how))
    call = [item for item in r["output"] if item["type"] == "function_call"][0]
    assert r["status"] == "completed" and call["name"] == "look_up" and call["id"] and call["call_id"], r
    check_arguments("look_up", json.loads(call["arguments"]))
    got = events(good("/v1/responses", {**how, "stream": True}))
    assert [e["sequence_number"] for e in got] == list(range(len(got)))
    mine = [e for e in got if e.get("item", {}).get("type") == "function_call" or "function_call" in e["type"]]
    assert [e["type"] for e in mine[:2]] == ["response.output_item.added", "response.function_call_arguments.delta"]
    assert [e["type"] for e in mine[-2:]] == ["response.function_call_arguments.done", "response.output_item.done"]
    assert len({e["output_index"] for e in mine}) == 1 and mine[-1]["item"]["status"] == "completed"
    assert "".join(e["delta"] for e in mine if e["type"].endswith("delta")) == mine[-2]["arguments"] == call["arguments"]
    end = got[-1]["response"]["output"]
    assert got[-1]["type"] == "response.completed" and end[mine[0]["output_index"]]["id"] == mine[-1]["item"]["id"], end
    again = good("/v1/responses", {"tools": [tool], "max_output_tokens": 4, "input": [
        {"role": "user", "content": "Tell me of Tim."}, *r["output"],
        {"type": "function_call_output", "call_id": call["call_id"], "output": "the result"}]})
    assert json.loads(again)["usage"]["input_tokens"] > r["usage"]["input_tokens"] + 20


CALLED = HI + [
    {"role": "assistant", "content": None,
     "tool_calls": [{"id": "call_1", "type": "function",
                     "function": {"name": "look_up", "arguments": '{"word": "b\\"", "n": 2, "a": 1}'}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "the result"}]}]
SHOWN = {
    "hermes": '<tool_call>\n{"name": "look_up", "arguments": {"word": "b\\"", "n": 2, "a": 1}}\n</tool_call>',
    "qwen-coder": "<function=look_up>\n<parameter=word>\nb\"\n</parameter>\n<parameter=n>\n2\n</parameter>\n"
                  "<parameter=a>\n1\n</parameter>\n</function>",
    "glm": "<tool_call>look_up\n<arg_key>word</arg_key>\n<arg_value>b\"</arg_value>\n<arg_key>n</arg_key>",
    "json": '{"name": "look_up", "parameters": {"word": "b\\"", "n": 2, "a": 1}}',
    "harmony": ' to=functions.look_up<|channel|>commentary json<|message|>{"word": "b\\"", "n": 2, "a": 1}<|call|>',
    "gemma": '<|tool_call>call:look_up{word:<|"|>b"<|"|>,n:2,a:1}<tool_call|>',
    "mistral": '[TOOL_CALLS]look_up[ARGS]{"word": "b\\"", "n": 2, "a": 1}',
    "kimi": '<|tool_calls_section_begin|><|tool_call_begin|>functions.look_up:0<|tool_call_argument_begin|>'
            '{"word": "b\\"", "n": 2, "a": 1}<|tool_call_end|><|tool_calls_section_end|>',
    "gigachat": '<|message_sep|>\n\nfunction call<|role_sep|>\n'
                '{"name": "look_up", "arguments": {"word": "b\\"", "n": 2, "a": 1}}<|message_sep|>',
    "mistral-list": '[TOOL_CALLS][{"name": "look_up", "arguments": {"word": "b\\"", "n": 2, "a": 1}, "id": "',
}


def before():
    "calls and results of before are the template's"
    prompt = json.loads(good("/apply-template", {"messages": CALLED, "tools": TOOLS}))["prompt"]
    assert SHOWN[FORM] in prompt and "the result" in prompt, prompt
    same = {"system": [], "messages": HI + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "look_up",
                                           "input": {"word": 'b"', "n": 2, "a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "the result"}]}]}
    n = json.loads(good("/v1/messages/count_tokens", {**same, "tools": CLAUDE}))["input_tokens"]
    m = len(json.loads(good("/tokenize", {"messages": CALLED, "tools": [
        {"type": "function", "function": {"name": t["name"], "parameters": t["input_schema"]}} for t in CLAUDE]}))["tokens"])
    assert n == m, (n, m)


def the_form():
    "the form is that of the template"
    assert json.loads(get("/props"))["tools"] == {"form": FORM, "of_template": GROUP not in ("plain", "two")}


def ids():
    "ids are as the template takes them"
    called = [{"function": {"name": "off", "arguments": "{}"}, **more} for more in ({"id": "call_1"}, {"id": "call_2"}, {})]
    called = called[:2] if FORM == "mistral-list" else called  # it refuses a call without an id
    of = [{"role": "tool", "tool_call_id": f"call_{n}", "content": f"result {n}"} for n in (2, 1)]
    prompt = json.loads(good("/apply-template", {"messages": [*HI, {"role": "assistant", "tool_calls": called}, *of]}))["prompt"]
    told = [t.split(")")[0] for t in prompt.split("(of ")[1:]]
    if FORM == "kimi":
        assert told == ["functions.off:1", "functions.off:0"] and "<|tool_call_begin|>functions.off:2<" in prompt, prompt
    elif FORM == "mistral-list":
        assert [len(id) for id in told] == [9, 9] and told[0] != told[1] and all(f'"id": "{id}"' in prompt for id in told), prompt
    else:
        assert told == ["call_2", "call_1"], prompt


def short_ids():
    "an answer's ids are as the template takes them"
    if FORM == "mistral-list":
        call = chat(**NAMED)["choices"][0]["message"]["tool_calls"][0]
        assert len(call["id"]) == 9 and call["id"].isalnum(), call


# ---- once ----

def text_or_calls():
    "nothing is a call that is not asked for"
    for how in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        choice = chat(max_tokens=8, **how)["choices"][0]
        assert choice["message"]["content"] and "tool_calls" not in choice["message"]
    line = good("/api/chat", {"messages": HI, "tools": TOOLS, "options": {"num_predict": 8}}).splitlines()[-1]
    assert json.loads(line)["done"]


def ollama():
    "Ollama's calls are whole, streamed or not"
    how = {"messages": HI, "tools": TOOLS, "options": {"num_predict": 300, "seed": 1, "temperature": 1},
           "tool_choice": NAMED["tool_choice"], "parallel_tool_calls": False}
    whole = json.loads(good("/api/chat", {**how, "stream": False}))
    call = whole["message"]["tool_calls"][0]["function"]
    check_arguments(call["name"], call["arguments"])
    lines = [json.loads(line) for line in good("/api/chat", how).splitlines()]
    assert lines[-1]["done"] and lines[-1]["done_reason"] == "stop" and whole["done_reason"] == "stop", lines
    assert [c["function"] for line in lines for c in line["message"].get("tool_calls", [])] == [call], lines
    again = good("/api/chat", {"options": {"num_predict": 2}, "stream": False, "messages": HI + [
        whole["message"], {"role": "tool", "tool_name": "look_up", "content": "the result"}]})
    assert json.loads(again)["prompt_eval_count"] > 30


def allowed_only():
    "tools that are not allowed are not called"
    for n in range(3):
        message = chat(seed=n, tool_choice={"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "off"}}]}})["choices"][0]["message"]
        assert {c["function"]["name"] for c in message["tool_calls"]} == {"off"}


def with_format():
    "a form of the answer, and calls, are either of the two"
    schema = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "maximum": 9, "minimum": 0}}}
    seen = set()
    for n in range(8):
        choice = chat(seed=n, parallel_tool_calls=False, temperature=3, response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": schema}})["choices"][0]
        message = choice["message"]
        if "tool_calls" in message:
            seen.add("call")
            check_arguments(message["tool_calls"][0]["function"]["name"],
                            json.loads(message["tool_calls"][0]["function"]["arguments"]))
        else:
            seen.add("form")
            assert 0 <= json.loads(message["content"])["age"] <= 9
    assert seen, seen


def left_out():
    "tools of other kinds are left out, and schemas loosened; strict ones are refused"
    odd = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "multipleOf": 7}}}
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    message = chat(tools=[{"type": "web_search"}, tool], tool_choice="required")["choices"][0]["message"]
    assert type(json.loads(message["tool_calls"][0]["function"]["arguments"])["n"]) is int
    tool["function"]["strict"] = True
    for choice in ("auto", "required"):
        status, text = ask("/v1/chat/completions", {"messages": HI, "tools": [tool], "tool_choice": choice})
        assert status == 400 and "multipleOf" in text, text


def refused():
    "mistakes are refused by name"
    for field, more in (("tools[0]", {"tools": [{"type": "function"}]}), ("tools", {"tools": {}}),
                        ("tools[0]", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
                        ("tool_choice", {"tool_choice": "sometimes"}), ("tool_choice", {"tools": [], "tool_choice": "required"}),
                        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "x"}}}),
                        ("grammar", {"grammar": 'root ::= "x"'}),
                        ("grammar", {"grammar": 'root ::= "x"', "tool_choice": "required"}),
                        ("response_format", {"response_format": {"type": "json_object"}, "tool_choice": "required"})):
        status, text = ask("/v1/chat/completions", {"messages": HI, "tools": TOOLS, **more})
        assert status == 400 and json.loads(text)["error"]["param"] == field, (field, text)


def none_allowed():
    "where no function of a list may be called, none is"
    for tools in ([], [{"type": "web_search"}]):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}
        status, text = ask("/v1/chat/completions", {"messages": HI, "tools": TOOLS, "tool_choice": choice, "max_tokens": 4})
        assert status in (200, 400) and "tool_calls" not in text, text
    message = {"role": "assistant", "content": "Once", "tool_calls": []}
    plain = {"role": "assistant", "content": "Once"}
    said, same = (chat(messages=[*HI, m], tools=[], max_tokens=1, temperature=0)["usage"] for m in (message, plain))
    assert said["prompt_tokens"] == same["prompt_tokens"], (said, same)


def cut():
    "a call that is cut short is told so"
    choice = chat(tool_choice="required", max_tokens=4)["choices"][0]
    assert choice["finish_reason"] == "length", choice


def no_special():
    "special tokens are no text"
    message = chat(max_tokens=3, ignore_eos=True, logit_bias={"0": 100}, temperature=0)["choices"][0]["message"]
    assert message["content"] == "" and "tool_calls" not in message, message


def several():
    "choices call by themselves"
    got = chat(n=2, **{**NAMED, "temperature": 1})["choices"]
    assert [c["index"] for c in got] == [0, 1]
    for c in got:
        check_arguments("look_up", json.loads(c["message"]["tool_calls"][0]["function"]["arguments"]))


# ---- a template that knows none ----

def told_plainly():
    "definitions, calls and results are told as texts"
    prompt = json.loads(good("/apply-template", {"messages": [{"role": "system", "content": "Be kind."}] + CALLED,
                                                 "tools": TOOLS}))["prompt"]
    for text in ("Be kind.", '"name": "look_up"', SHOWN["hermes"], "<tool_response>\nthe result\n</tool_response>"):
        assert text in prompt, prompt
    alone = json.loads(good("/apply-template", {"messages": CALLED}))["prompt"]
    assert SHOWN["hermes"] in alone and "You may call" not in alone, alone


def two_roles():
    "where the system has no say, the user tells of the tools, and of results together with what follows"
    prompt = json.loads(good("/apply-template", {"tools": TOOLS, "messages": CALLED + [{"role": "user", "content": "And?"}]}))[
        "prompt"]
    said = prompt.split("[user]")
    assert len(said) == 3 and said[1].startswith("You may call") and "\nTell me of Tim.[assistant]" in said[1], prompt
    assert said[2] == "<tool_response>\nthe result\n</tool_response>\nAnd?[assistant]", prompt


groups = {"two": [the_form, two_roles, named],
          "form": [the_form, required, named, claude, responses, before, ids, short_ids],
          "more": [text_or_calls, ollama, allowed_only, with_format, left_out, refused, none_allowed, cut, several, no_special],
          "plain": [the_form, told_plainly, required, named, claude, text_or_calls]}
for f in groups[GROUP]:
    check(f)
sys.exit(failed)
