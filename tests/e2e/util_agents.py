"""Asks a running corm-serve as agents do: util_agents.py PORT TEMPLATE FOLDER. A file of FOLDER is a request as one of
them sends it, with its headers and its path, and what it adds to the conversation for the next one. Prints `ok NAME` or
`not ok NAME` for each check; the status is 1 where one failed."""

import copy
import json
import os
import re
import sys
import traceback
import urllib.error
import urllib.request

PORT, TEMPLATE, FOLDER = int(sys.argv[1]), sys.argv[2], sys.argv[3]
PIECE = 64  # most tokens of a prompt's end that a second round may compute again


def ask(path, body, headers):
    r = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode(),
                               {**headers, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(r, timeout=300) as got:
            return got.status, got.headers["Content-Type"], got.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers["Content-Type"], e.read().decode()


def events(text):
    """[name or None, data] of each event."""
    found = []
    for part in text.strip().split("\n\n"):
        lines = [line for line in part.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            found.append((fields.get("event"), fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])))
    return found


# ---- the streams of each API: (usage of the prompt, of it cached, calls as (name, arguments)) -----------


def read_messages(text):
    got = events(text)
    assert all(name == data["type"] for name, data in got), got
    got = [data for _, data in got if data["type"] != "ping"]
    assert got[0]["type"] == "message_start" and got[-1]["type"] == "message_stop" and got[-2]["type"] == "message_delta", got
    message = got[0]["message"]
    assert message["role"] == "assistant" and message["content"] == [] and message["stop_reason"] is None, message
    blocks, block = [], None
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
    for e in got[1:-2]:
        if e["type"] == "content_block_start":
            assert block is None and e["index"] == len(blocks), e
            block = {**e["content_block"], "said": "", "signed": False}
            blocks.append(block)
        elif e["type"] == "content_block_delta":
            assert e["index"] == len(blocks) - 1 and not block["signed"], e
            block["signed"] = e["delta"]["type"] == "signature_delta"
            assert block["signed"] or e["delta"]["type"] == kinds[block["type"]], e
            block["said"] += next(v for k, v in e["delta"].items() if k != "type")
        else:
            assert e["type"] == "content_block_stop" and e["index"] == len(blocks) - 1, e
            assert block["signed"] == (block["type"] == "thinking"), block
            block = None
    assert blocks and block is None, got
    usage = got[-2]["usage"]
    assert usage["output_tokens"] > 0 and got[-2]["delta"]["stop_reason"] in ("end_turn", "max_tokens", "tool_use")
    calls = [(b["name"], b["said"]) for b in blocks if b["type"] == "tool_use"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"], calls


def read_responses(text):
    got = events(text)
    assert all(name == data["type"] for name, data in got), got
    got = [data for _, data in got]
    assert [e["sequence_number"] for e in got] == list(range(len(got))), got
    assert [e["type"] for e in got[:2]] == ["response.created", "response.in_progress"], got[:2]
    assert got[-1]["type"] in ("response.completed", "response.incomplete"), got[-1]
    assert len({e["response"]["id"] for e in got if "response" in e}) == 1
    items = []
    for e in got[2:-1]:
        if e["type"] == "response.output_item.added":
            assert e["output_index"] == len(items) and e["item"]["status"] == "in_progress", e
            items.append(e["item"])
        elif e["type"] == "response.output_item.done":
            assert e["output_index"] == len(items) - 1 and e["item"]["id"] == items[-1]["id"], e
            items[-1] = e["item"]
        else:
            assert e["item_id"] == items[-1]["id"] and e["output_index"] == len(items) - 1, e
    end = got[-1]["response"]
    assert items and end["output"] == items and end["status"] == got[-1]["type"][9:], end
    assert got[0]["response"]["tools"] == end["tools"]
    for tool in end["tools"]:
        assert tool["type"] == "function" and tool["name"] and type(tool["strict"]) is bool, tool
    calls = [(i["name"], i["arguments"]) for i in items if i["type"] == "function_call"]
    return end["usage"]["input_tokens"], end["usage"]["input_tokens_details"]["cached_tokens"], calls


def read_chunks(text, usage):
    got = events(text)
    assert all(name is None for name, _ in got) and got[-1][1] == "[DONE]", got[-1]
    got = [data for _, data in got[:-1]]
    assert len({e["id"] for e in got}) == 1
    choices = [e["choices"][0] for e in got if e["choices"]]
    assert [bool(c["finish_reason"]) for c in choices] == [False] * (len(choices) - 1) + [True], choices[-3:]
    if not usage:
        assert all(e["choices"] for e in got)
        return choices, None
    assert got[-1]["choices"] == [] and all(e["choices"] for e in got[:-1]), got[-1]
    return choices, got[-1]["usage"]


def read_chat(text, usage):
    choices, used = read_chunks(text, usage)
    deltas = [c["delta"] for c in choices]
    assert deltas[0]["role"] == "assistant" and not any("role" in d for d in deltas[1:]), deltas[:2]
    calls = []
    for part in [d["tool_calls"][0] for d in deltas if "tool_calls" in d]:
        if part["index"] == len(calls):
            assert part["id"] and part["type"] == "function", part
            calls.append([part["function"]["name"], ""])
        assert part["index"] == len(calls) - 1, part
        calls[-1][1] += part["function"]["arguments"]
    if used is None:
        return None, None, calls
    return used["prompt_tokens"], used["prompt_tokens_details"]["cached_tokens"], calls


def read_answer(fixture, body, text):
    path = fixture["path"].split("?")[0]
    if path == "/v1/messages":
        return read_messages(text)
    if path == "/v1/responses":
        return read_responses(text)
    usage = body.get("stream_options", {}).get("include_usage", False)
    if path == "/v1/chat/completions":
        return read_chat(text, usage)
    choices, _ = read_chunks(text, usage)
    assert "".join(c["text"] for c in choices), choices
    return None, None, []


# ---- what is asked -----------------------------------------------------------------------------------------


def body_of(fixture, number):
    """The first request, or the second one."""
    body = json.loads(json.dumps(fixture["first"]).replace("{round}", str(number)))
    said = next(k for k in ("messages", "input", "prompt") if k in body)
    if number == 2:
        body[said] += copy.deepcopy(fixture["then"])
    # An agent waits for tens of thousands of tokens, if it has to.
    names = ("max_tokens", "max_output_tokens", "max_completion_tokens")
    default = names[1] if said == "input" else names[0]
    body[next((n for n in names if n in body), default)] = 30
    return body


def asked(fixture, body):
    status, kind, text = ask(fixture["path"], body, fixture["headers"])
    assert status == 200 and kind == "text/event-stream", (status, kind, text)
    return read_answer(fixture, body, text)


def is_valid(schema, v):
    """Of what the fixtures' schemas say, that which their forms hold."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
             "null": type(None)}
    names = schema.get("type", list(types))
    names = [names] if isinstance(names, str) else names
    if not any(isinstance(v, types[n]) and (n == "boolean" or not isinstance(v, bool)) for n in names):
        return False
    if isinstance(v, dict):
        properties = schema.get("properties", {})
        return all(k in v for k in schema.get("required", [])) and all(
            is_valid(properties[k], x) if k in properties else schema.get("additionalProperties") is not False
            for k, x in v.items())
    if isinstance(v, list):
        return schema.get("minItems", 0) <= len(v) <= schema.get("maxItems", 1 << 30) and all(
            is_valid(schema.get("items", {}), x) for x in v)
    return v in schema.get("enum", [v])


def functions(tools):
    """Name: schema of those that may be called."""
    found = {}
    for tool in tools:
        f = tool.get("function", tool)
        if tool.get("type", "function") == "function":
            found[f["name"]] = f.get("parameters", f.get("input_schema"))
    return found


def rounds(fixture):
    "two rounds, and the second goes on from the first"
    n, cached, _ = asked(fixture, body_of(fixture, 1))
    more, again, _ = asked(fixture, body_of(fixture, 2))
    if n is not None:
        assert more > n + 20 and n - PIECE <= again <= n, (n, cached, more, again)


def calls(fixture):
    "a call that it insists on keeps to its schema"
    body = body_of(fixture, 2)
    if "tools" not in body:
        return
    for name in ("max_tokens", "max_output_tokens", "max_completion_tokens"):
        if name in body:
            body[name] = 400
    body["tool_choice"] = {"type": "any"} if "messages?" in fixture["path"] else "required"
    known = functions(body["tools"])
    for seed in range(3):
        _, _, made = asked(fixture, {**body, "seed": seed})
        assert made
        for name, arguments in made[:-1]:
            assert is_valid(known[name], json.loads(arguments)), (name, arguments)
        # The last one may have come to the end of the answer's length.
        assert made[-1][0] in known
        if len(made) == 1 and not body.get("parallel_tool_calls", True):
            assert is_valid(known[made[0][0]], json.loads(made[0][1])), made


def tells(fixture):
    "the functions of its request are told again"
    if fixture["path"] != "/v1/responses":
        return
    body = body_of(fixture, 1)
    _, _, text = ask(fixture["path"], {**body, "stream": False, "max_output_tokens": 1}, fixture["headers"])
    assert json.loads(text)["tools"] == [t for t in body["tools"] if t["type"] == "function"], text


def counts(fixture):
    "its count of tokens is that of the answer"
    if not fixture["path"].startswith("/v1/messages"):
        return
    body = body_of(fixture, 2)
    n, _, _ = asked(fixture, body)
    kept = {k: v for k, v in body.items() if k in ("model", "messages", "system", "tools", "thinking", "output_config")}
    status, _, text = ask("/v1/messages/count_tokens?beta=true", kept, fixture["headers"])
    assert status == 200 and json.loads(text) == {"input_tokens": n}, (text, n)


SAID = [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"},
        {"role": "system", "content": "d"}, {"role": "assistant", "content": "e"}, {"role": "system", "content": "f"},
        {"role": "system", "content": "g"}, {"role": "user", "content": "h"}]
PROMPTS = {
    "all": "[system]a[system]b[user]c[system]d[assistant]e[system]f[system]g[user]h[assistant]",
    "first": "[system]a\nb[user]c\n<system>\nd\n</system>[assistant]e"
             "[user]<system>\nf\n</system>\n<system>\ng\n</system>\nh[assistant]",
    "none": "[user]<system>\na\n</system>\n<system>\nb\n</system>\nc\n<system>\nd\n</system>[assistant]e"
            "[user]<system>\nf\n</system>\n<system>\ng\n</system>\nh[assistant]",
}


def systems():
    status, _, text = ask("/apply-template", {"messages": SAID}, {})
    assert status == 200 and json.loads(text)["prompt"] == PROMPTS[TEMPLATE], text


failed = False


def check(name, f, *args):
    global failed
    try:
        f(*args)
        print("ok", f"{TEMPLATE}: {name}", flush=True)
    except Exception:  # whatever it is, it is this check's
        failed = True
        print("not ok", f"{TEMPLATE}: {name}", flush=True)
        print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="", flush=True)


check("what the system says stays at its place", systems)
for file in sorted(os.listdir(FOLDER)):
    with open(os.path.join(FOLDER, file), encoding="utf-8") as f:
        agent = json.load(f)
    for test in (rounds, calls, counts, tells):
        check(f"{re.sub('.json$', '', file)}: {test.__doc__}", test, agent)
sys.exit(failed)
