"""Asks a running corm-serve: util_serve.py GROUP PORT FOLDER [...]. Prints `ok NAME` or `not ok NAME` for each check;
the status is 1 where one failed. FOLDER has what corm-run said of the same prompts."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.request
import urllib.error

PORT = int(sys.argv[2])
FOLDER = sys.argv[3]
ONCE = "Once upon a time"
KEY = None


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def ask(path, body=None, method=None, headers=None, timeout=120):
    """One request; `body` is sent as JSON where it is no bytes."""
    h = {"Content-Type": "application/json"} if body is not None else {}
    if KEY:
        h["Authorization"] = "Bearer " + KEY
    h.update(headers or {})
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    r = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, h, method=method)
    try:
        with urllib.request.urlopen(r, timeout=timeout) as got:
            return Answer(got.status, got.headers, got.read())
    except urllib.error.HTTPError as e:
        return Answer(e.code, e.headers, e.read())


def raw(head, body=b"", wait=True, timeout=20):
    """Bytes as they are; what comes back, or the socket."""
    s = socket.create_connection(("127.0.0.1", PORT), timeout=timeout)
    s.sendall(head.encode().replace(b"\n", b"\r\n") + b"\r\n" + body)
    if not wait:
        return s
    got = b""
    try:
        while True:
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
    except socket.timeout:
        pass
    s.close()
    return got.decode("utf-8", "replace")


def events(answer):
    """(name, data) of each event."""
    out = []
    for block in answer.body.decode().split("\n\n"):
        lines = [l for l in block.split("\n") if l and not l.startswith(":")]
        name = [l[7:] for l in lines if l.startswith("event: ")]
        data = [l[6:] for l in lines if l.startswith("data: ")]
        if data:
            out.append((name[0] if name else None, data[0]))
    return out


def chunks(answer):
    e = events(answer)
    assert e[-1][1] == "[DONE]", e[-1]
    return [json.loads(d) for _, d in e[:-1]]


def metric(name):
    for line in ask("/metrics").body.decode().split("\n"):
        if line.startswith("corm_" + name + " "):
            return float(line.split()[1])
    raise AssertionError("no metric " + name)


def until(what, seconds=30):
    end = time.time() + seconds
    while time.time() < end:
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def run_text(name):
    with open(os.path.join(FOLDER, name + ".json"), encoding="utf-8") as f:
        return json.load(f)["text"]


def complete(**more):
    return ask("/v1/completions", {"prompt": ONCE, "max_tokens": 40, "temperature": 0, **more})


def chat(messages, **more):
    return ask("/v1/chat/completions", {"messages": messages, "max_tokens": 30, "temperature": 0, **more})


STORY = [{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "About Tim"}]


def refused(answer, status, text, param=None):
    assert answer.status == status, (answer.status, answer.body)
    error = answer.json["error"]
    assert text in error["message"], error
    assert param is None or error["param"] == param, error


# ---- answers -----------------------------------------------------------------------------------------


def test_answers_health():
    assert ask("/health").json == {"status": "ok"}
    assert ask("/", method="HEAD").status == 200
    assert ask("/").status == 200
    models = ask("/v1/models").json
    assert models["object"] == "list" and models["data"][0]["id"] == "fable", models
    assert ask("/models").json == models
    assert ask("/v1/models/whatever").json["id"] == "fable"
    anthropic = ask("/v1/models", headers={"anthropic-version": "2023-06-01"}).json
    assert anthropic["data"][0]["type"] == "model" and anthropic["has_more"] is False, anthropic
    props = ask("/props").json
    assert props["total_slots"] == 3 and props["reuse"] == "exact", props
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert "# TYPE corm_requests_total counter" in ask("/metrics").body.decode()


def test_answers_greedy_is_corm_run():
    a = complete().json
    assert a["choices"][0]["text"] == run_text("greedy"), a
    assert a["choices"][0]["finish_reason"] == "length"
    assert a["usage"]["completion_tokens"] == 40 and a["usage"]["prompt_tokens"] == 5, a
    assert a["object"] == "text_completion" and a["model"] == "fable"
    assert complete(model="any name").json["model"] == "any name"


def test_answers_seed_is_corm_run():
    a = complete(temperature=1, seed=7, max_tokens=30).json
    assert a["choices"][0]["text"] == run_text("seed"), a


def test_answers_chat_is_corm_run():
    a = chat(STORY).json
    assert a["choices"][0]["message"]["content"] == run_text("chat"), a
    assert a["choices"][0]["message"]["role"] == "assistant"
    bare = ask("/chat/completions", {"messages": STORY, "max_tokens": 30, "temperature": 0}).json
    assert bare["choices"][0]["message"] == a["choices"][0]["message"]


def test_answers_stream_of_a_chat():
    a = chat(STORY, stream=True, stream_options={"include_usage": True})
    assert a.headers["Content-Type"] == "text/event-stream"
    c = chunks(a)
    assert len({x["id"] for x in c}) == 1 and c[0]["object"] == "chat.completion.chunk"
    assert c[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in x["choices"][0]["delta"] for x in c[1:-1])
    text = "".join(x["choices"][0]["delta"].get("content", "") for x in c[:-1])
    assert text == run_text("chat"), text
    assert [x["choices"][0]["finish_reason"] for x in c[:-1]][-1] == "length"
    assert c[-1]["choices"] == [] and c[-1]["usage"]["completion_tokens"] == 30, c[-1]
    assert "usage" not in chunks(chat(STORY, stream=True))[-1]


def test_answers_stream_of_a_text():
    c = chunks(complete(stream=True))
    assert "".join(x["choices"][0]["text"] for x in c) == run_text("greedy")
    assert c[-1]["choices"][0]["finish_reason"] == "length"


def test_answers_choices_draw_apart():
    a = complete(temperature=1, seed=7, max_tokens=30, n=3).json
    texts = [c["text"] for c in a["choices"]]
    assert [c["index"] for c in a["choices"]] == [0, 1, 2]
    assert texts[0] == run_text("seed") and len(set(texts)) == 3, texts
    assert complete(temperature=1, seed=7, max_tokens=30, n=3).json["choices"] == a["choices"]
    before = metric("prompt_tokens_total")
    complete(prompt="A prompt that nobody had before: " * 20, n=3, max_tokens=3)
    read = metric("prompt_tokens_total") - before
    whole = ask("/tokenize", {"prompt": "A prompt that nobody had before: " * 20}).json["count"]
    assert read < whole + 10, (read, whole)
    assert complete(temperature=1, max_tokens=30).json["choices"] != complete(temperature=1, max_tokens=30).json["choices"]
    streamed = ["", "", ""]
    for x in chunks(complete(temperature=1, seed=7, max_tokens=30, n=3, stream=True)):
        streamed[x["choices"][0]["index"]] += x["choices"][0]["text"]
    assert streamed == texts, streamed


def test_answers_prompts_of_all_kinds():
    ids = ask("/tokenize", {"content": ONCE, "add_special": True}).json["tokens"]
    one = run_text("greedy")
    assert complete(prompt=ids).json["choices"][0]["text"] == one
    both = complete(prompt=[ONCE, "The dog"]).json
    assert [c["text"] for c in both["choices"]][0] == one and len(both["choices"]) == 2
    assert [c["text"] for c in complete(prompt=[ids, ids]).json["choices"]] == [one, one]
    assert complete(prompt=["The dog"]).json["choices"][0]["text"] == both["choices"][1]["text"]
    bare = ask("/tokenize", {"content": ONCE}).json["tokens"]
    assert ids[1:] == bare, (ids, bare)
    assert ask("/detokenize", {"tokens": bare}).json["content"] == ONCE
    assert ask("/tokenize", {"prompt": ONCE}).json["count"] == len(ids)
    info = ask("/tokenizer_info").json
    assert info["bos_token"] == info["eos_token"] == "<|endoftext|>" and info["chat_template"], info
    assert ask("/tokenize", {"prompt": info["bos_token"], "add_special_tokens": False}).json["tokens"] == ids[:1]
    many = complete(prompt=[ONCE] * 20, max_tokens=2).json["choices"]
    assert [c["index"] for c in many] == list(range(20)) and len({c["text"] for c in many}) == 1


def test_answers_choices_have_an_end():
    refused(complete(prompt=["a"] * 1024, n=3), 400, "1024 prompts, expected 1 to 682 with n 3", "prompt")
    refused(complete(prompt=["a"] * 2049), 400, "2049 prompts, expected 1 to 2048", "prompt")
    stops = ["%02d" % i + "x" * 4000 for i in range(64)]
    refused(ask("/detokenize", b'{"tokens": [' + b"9," * 1048576 + b"9]}"), 400, "1048577 ids", "tokens")
    many = complete(prompt=["a", "b"], n=64, max_tokens=0, stop=stops).json["choices"]
    assert [c["index"] for c in many] == list(range(128)), len(many)


def test_answers_echo_is_streamed_at_once():
    name = "m" * 1000
    ids = ask("/tokenize", {"content": ONCE}).json["tokens"]
    got = chunks(complete(prompt=(ids * 300)[:1000], echo=True, max_tokens=1, stream=True, model=name))
    assert got[0]["choices"][0]["text"].count(ONCE) > 100 and len(got) <= 4, (len(got), got[0])


def test_answers_echo_and_length():
    assert complete(echo=True).json["choices"][0]["text"] == ONCE + run_text("greedy")
    nothing = complete(echo=True, max_tokens=0).json
    assert nothing["choices"][0]["text"] == ONCE and nothing["usage"]["completion_tokens"] == 0
    assert complete(max_tokens=1).json["usage"]["completion_tokens"] == 1
    assert ask("/v1/completions", {"prompt": ONCE}).json["usage"]["completion_tokens"] <= 16
    huge = complete(max_tokens=10**9, ignore_eos=True).json
    assert huge["usage"]["total_tokens"] == 1025 and huge["choices"][0]["finish_reason"] == "length", huge["usage"]


def test_answers_stop_texts():
    text = run_text("greedy")
    word = text.split()[6]
    a = complete(stop=["nowhere", word]).json["choices"][0]
    assert a["text"] == text[: text.index(word)] and a["finish_reason"] == "stop", a
    c = chunks(complete(stop=word, stream=True))
    assert "".join(x["choices"][0]["text"] for x in c) == a["text"]
    assert complete(stop=[]).json["choices"][0]["text"] == text
    m = ask("/v1/messages", {"max_tokens": 40, "temperature": 0, "stop_sequences": ["Tim"],
                             "messages": [{"role": "user", "content": ONCE}]}).json
    assert m["stop_reason"] in ("stop_sequence", "max_tokens", "end_turn"), m


def test_answers_probabilities():
    a = complete(max_tokens=5, logprobs=3).json["choices"][0]["logprobs"]
    assert "".join(a["tokens"]) == complete(max_tokens=5).json["choices"][0]["text"], a
    assert len(a["token_logprobs"]) == len(a["top_logprobs"]) == len(a["text_offset"]) == 5
    assert all(p == max(top.values()) and len(top) == 3 for p, top in zip(a["token_logprobs"], a["top_logprobs"])), a
    assert a["text_offset"][0] == 0 and a["text_offset"][1] == len(a["tokens"][0])
    b = chat(STORY, max_tokens=5, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert len(b) == 5 and all(t["top_logprobs"][0]["token"] == t["token"] and len(t["top_logprobs"]) == 2 for t in b), b
    assert bytes(b[1]["bytes"]).decode() == b[1]["token"]
    told = []
    for c in chunks(chat(STORY, max_tokens=5, logprobs=True, top_logprobs=2, stream=True)):
        told += (c["choices"][0]["logprobs"] or {"content": []})["content"]
    assert told == b, told
    ids = ask("/tokenize", {"content": ONCE}).json["tokens"]
    for prompt, n in ((ONCE, 5), (ids, 4)):
        for _ in range(2):
            c = complete(prompt=prompt, max_tokens=1, logprobs=2, echo=True).json
            p = c["choices"][0]["logprobs"]
            assert c["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            assert [len(p[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [n + 1] * 4, p
            assert p["token_logprobs"][0] is None and p["top_logprobs"][0] is None
            assert all(x < 0 and len(t) == 2 for x, t in zip(p["token_logprobs"][1:], p["top_logprobs"][1:])), p
            assert c["choices"][0]["text"] == "".join(p["tokens"][n - 4:]), c
            assert p["text_offset"][-1] == len(ONCE)
    scored = complete(prompt=ONCE + run_text("greedy"), max_tokens=0, logprobs=1, echo=True).json["choices"][0]["logprobs"]
    made = complete(logprobs=1).json["choices"][0]["logprobs"]
    assert scored["token_logprobs"][5:45] == made["token_logprobs"], (scored, made)


def test_answers_bias_and_penalties():
    first = complete(max_tokens=1, logprobs=1).json["choices"][0]["logprobs"]["tokens"][0]
    banned = ask("/tokenize", {"content": first}).json["tokens"]
    assert len(banned) == 1, banned
    assert complete(max_tokens=1, logit_bias={str(banned[0]): -100}).json["choices"][0]["text"] != first
    forced = complete(max_tokens=3, logit_bias={"500": 100}).json["choices"][0]["text"]
    assert forced == ask("/detokenize", {"tokens": [500] * 3}).json["content"], forced
    assert complete(frequency_penalty=1.5).json["choices"][0]["text"] != run_text("greedy")


def test_answers_parallel_are_the_same():
    prompts = ["The dog", "A girl named Sue", "One day", "The sun", "Mom said", "In the park"]
    alone = [complete(prompt=p).json["choices"][0]["text"] for p in prompts]

    def one(i):
        got[i] = complete(prompt=prompts[i]).json["choices"][0]["text"]

    for _ in range(3):
        got = [None] * len(prompts)
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert got == alone, (got, alone)
    assert metric("decode_calls_total") < metric("tokens_predicted_total")


def test_answers_second_turn_goes_on():
    messages = [{"role": "user", "content": "Tell me of a little cat and a big tree, and of the rain."}]
    first = chat(messages, max_tokens=60, seed=3, temperature=0.8).json
    said = first["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
    second = chat(messages, max_tokens=20).json
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 10, second["usage"]
    third = chat(messages, max_tokens=20).json
    used = third["usage"]
    assert used["prompt_tokens_details"]["cached_tokens"] == used["prompt_tokens"], used
    assert third["choices"][0]["message"] == second["choices"][0]["message"]
    m = ask("/v1/messages", {"max_tokens": 5, "messages": messages}).json["usage"]
    assert m["input_tokens"] == 0 and m["cache_read_input_tokens"] == used["prompt_tokens"], m


def test_answers_anthropic():
    body = {"max_tokens": 30, "temperature": 0, "system": [{"type": "text", "text": "Tell a story."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "About Tim"}]}]}
    a = ask("/v1/messages?beta=true", body, headers={"anthropic-version": "2023-06-01"}).json
    assert a["type"] == "message" and a["content"] == [{"type": "text", "text": run_text("chat")}], a
    assert a["stop_reason"] == "max_tokens" and a["stop_sequence"] is None
    assert a["usage"]["output_tokens"] == 30
    e = events(ask("/v1/messages", {**body, "stream": True}))
    names = [n for n, _ in e]
    assert names[:2] == ["message_start", "content_block_start"], names
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"], names
    assert set(names[2:-3]) == {"content_block_delta"}
    assert all(json.loads(d)["type"] == n for n, d in e)
    assert "".join(json.loads(d)["delta"]["text"] for _, d in e[2:-3]) == run_text("chat")
    assert json.loads(e[-2][1])["usage"]["output_tokens"] == 30
    billed = [{"type": "text", "text": "x-anthropic-billing-header: abc"}] + body["system"]
    n = ask("/v1/messages/count_tokens", {**body, "system": billed}).json
    assert n == ask("/v1/messages/count_tokens", body).json and n["input_tokens"] > 5, n
    bad = ask("/v1/messages", {"messages": body["messages"]})
    assert bad.status == 400 and bad.json["type"] == "error", bad.body
    assert bad.json["error"] == {"type": "invalid_request_error", "message": "max_tokens: Field required"}
    long = ask("/v1/messages", {**body, "system": "word " * 3000}).json["error"]["message"]
    assert long.startswith("prompt is too long: ") and long.endswith(" tokens > 1024 maximum"), long


def lines(answer):
    return [json.loads(l) for l in answer.body.decode().strip().split("\n")]


def test_answers_ollama():
    assert ask("/api/version").json["version"] and ask("/api/tags").json["models"][0]["name"] == "fable"
    assert ask("/api/ps").json["models"][0]["context_length"] == 1024
    show = ask("/api/show", {"model": "fable"}).json
    assert show["capabilities"] == ["completion", "tools"] and show["model_info"]["mixtral.context_length"] == 1024, show
    body = {"model": "x", "messages": STORY, "options": {"num_predict": 30, "temperature": 0}}
    a = ask("/api/chat", {**body, "stream": False}).json
    assert a["message"] == {"role": "assistant", "content": run_text("chat")} and a["done"] is True, a
    assert a["eval_count"] == 30 and a["done_reason"] == "length" and a["model"] == "x"
    got = ask("/api/chat", body)
    assert got.headers["Content-Type"] == "application/x-ndjson"
    parts = lines(got)
    assert "".join(p["message"]["content"] for p in parts) == run_text("chat")
    assert [p["done"] for p in parts] == [False] * (len(parts) - 1) + [True]
    raw_body = {"prompt": ONCE, "raw": True, "options": {"num_predict": 40, "temperature": 0}}
    assert "".join(p["response"] for p in lines(ask("/api/generate", raw_body))) == run_text("greedy")
    b = ask("/api/generate", {"prompt": "About Tim", "system": "Tell a story.", "stream": False,
                              "options": {"num_predict": 30, "temperature": 0}}).json
    assert b["response"] == run_text("chat"), b
    assert ask("/api/generate", {"model": "x"}).json["done_reason"] == "load"
    bad = ask("/api/chat", {**body, "format": "yaml"})
    assert bad.status == 400 and "format" in bad.json["error"], bad.body


def test_answers_responses():
    body = {"input": "About Tim", "instructions": "Tell a story.", "max_output_tokens": 30, "temperature": 0}
    a = ask("/v1/responses", body).json
    assert a["object"] == "response" and a["status"] == "incomplete", a
    assert a["output"][0]["content"][0]["text"] == run_text("chat"), a
    assert a["usage"]["output_tokens"] == 30
    items = [{"type": "message", "role": "developer", "content": "Tell a story."},
             {"type": "reasoning", "id": "x", "summary": []},
             {"role": "user", "content": [{"type": "input_text", "text": "About Tim"}]}]
    e = events(ask("/v1/responses", {**body, "input": items, "instructions": None, "stream": True}))
    data = [json.loads(d) for _, d in e]
    assert [n for n, _ in e] == [d["type"] for d in data]
    assert [d["sequence_number"] for d in data] == list(range(len(data)))
    names = [n for n, _ in e]
    assert names[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"], names
    assert names[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.incomplete"], names
    assert "".join(d["delta"] for d in data[4:-4]) == run_text("chat")
    assert len({d["response"]["id"] for d in data if "response" in d}) == 1
    refused(ask("/v1/responses", {**body, "previous_response_id": "r"}), 400, "previous_response_id")
    refused(ask("/v1/responses", {**body, "input": [{"type": "computer_call"}]}), 400, "computer_call")


CHILD = {"type": "object", "required": ["name", "age"], "properties": {
    "name": {"type": "string", "minLength": 2, "maxLength": 30}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
    "likes": {"type": "array", "maxItems": 4, "items": {"enum": ["cats", "dogs", "tea"]}}}}


def is_child(text):
    v = json.loads(text)
    assert 2 <= len(v["name"]) <= 30 and type(v["age"]) is int and 0 <= v["age"] <= 99, text
    assert set(v) <= set(CHILD["properties"]) and all(l in ("cats", "dogs", "tea") for l in v.get("likes", [])), text


def test_answers_have_a_form():
    form = {"type": "json_schema", "json_schema": {"name": "child", "strict": True, "schema": CHILD}}
    hot = {"temperature": 1.5, "max_tokens": 200}
    for seed in range(4):
        a = chat(STORY, **{**hot, "seed": seed}, response_format=form, n=2).json
        for c in a["choices"]:
            is_child(c["message"]["content"])
            assert c["finish_reason"] == "stop", c
    assert a["choices"][0] != a["choices"][1]
    again = chat(STORY, **{**hot, "seed": 3}, json_schema=CHILD).json
    assert again["choices"][0]["message"] == a["choices"][0]["message"], again
    streamed = chunks(chat(STORY, **{**hot, "seed": 3}, response_format=form, stream=True))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in streamed) == a["choices"][0]["message"]["content"]
    is_child(chat(STORY, temperature=1.5, max_tokens=45, response_format=form).json["choices"][0]["message"]["content"])
    b = complete(prompt=[ONCE, "Tim"], n=2, response_format={"type": "json_object"}, **hot).json
    assert all(type(json.loads(c["text"])) is dict for c in b["choices"] if c["finish_reason"] == "stop"), b
    c = complete(grammar='root ::= "yes" | "no"', logprobs=2, **hot).json["choices"][0]
    assert c["text"] in ("yes", "no") and c["finish_reason"] == "stop" and c["logprobs"]["tokens"], c
    o = {"messages": STORY, "stream": False, "options": {"num_predict": 200, "temperature": 1.5}}
    is_child(ask("/api/chat", {**o, "format": CHILD}).json["message"]["content"])
    is_child("".join(p["response"] for p in lines(ask("/api/generate", {"prompt": ONCE, "format": CHILD, "options": o["options"]}))))
    j = ask("/api/chat", {**o, "format": "json"}).json
    assert j["done_reason"] == "length" or type(json.loads(j["message"]["content"])) is dict, j
    r = ask("/v1/responses", {"input": "About Tim", "temperature": 1.5, "max_output_tokens": 200,
                              "text": {"format": {"type": "json_schema", "name": "child", "schema": CHILD}}}).json
    is_child(r["output"][0]["content"][0]["text"])
    m = {"messages": STORY[1:], "system": "Tell a story.", "max_tokens": 200, "temperature": 1.5, "seed": 3}
    form = {"type": "json_schema", "schema": CHILD}
    said = {}
    for field in ({"output_config": {"format": form}}, {"output_format": form}):
        made = ask("/v1/messages", {**m, **field}).json
        said[made["content"][0]["text"]] = made["stop_reason"]
    assert list(said.values()) == ["end_turn"], said
    e = [json.loads(d) for _, d in events(ask("/v1/messages", {**m, "output_config": {"format": form}, "stream": True}))]
    streamed = "".join(d["delta"]["text"] for d in e if d["type"] == "content_block_delta")
    assert [streamed] == list(said), (streamed, said)
    is_child(streamed)
    plain = chat(STORY, response_format={"type": "text"}).json["choices"][0]["message"]["content"]
    assert plain == run_text("chat"), plain


def test_answers_forms_at_once():
    """Each of several that are computed together keeps to its own form."""
    got = {}

    def one(i, words):
        got[i] = complete(prompt=f"{ONCE} {i}", grammar=f'root ::= ("{words[0]}" | "{words[1]}"){{8}}', temperature=2,
                          max_tokens=64).json["choices"][0]["text"]
    pairs = [("a", "b"), ("cc", "dd"), ("0", "1"), ("x", "yz")]
    threads = [threading.Thread(target=one, args=p) for p in enumerate(pairs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, (a, b) in enumerate(pairs):
        assert re.fullmatch(f"({a}|{b}){{8}}", got[i]), (i, got[i])


def test_answers_forms_refused():
    def schema(s):
        return {"response_format": {"type": "json_schema", "json_schema": {"schema": s}}}
    refused(chat(STORY, **schema({"properties": {"a": {"not": {}}}})), 400, '"not" is not supported', "response_format")
    refused(chat(STORY, **schema({"type": "thing"})), 400, "a type that there is not", "response_format")
    refused(chat(STORY, response_format={"type": "json_schema"}), 400, "a schema is missing", "response_format")
    refused(complete(json_schema={"multipleOf": 3}), 400, '"multipleOf" is not supported', "json_schema")
    refused(complete(grammar='root ::= "a" |\n  foo'), 400, "line 2, column 3", "grammar")
    refused(complete(grammar="root ::= [a]", json_schema={}), 400, "json_schema says the form already", "grammar")
    refused(complete(grammar="root ::= [a]", ignore_eos=True), 400, "where the text ends", "ignore_eos")
    refused(complete(grammar="root ::= [a]", stream=True, n=2, prompt=["a", "b"], stop="x", json_schema=5), 400, "already")
    refused(ask("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"if": {}}}}}), 400,
            '"if" is not supported', "text.format")
    schema = {"type": "json_schema", "schema": {"properties": {"a": {"contains": {}}}}}
    for field, more in (("output_format", {"output_format": schema}), ("output_config.format", {"output_config": {"format": schema}})):
        bad = ask("/v1/messages", {"messages": STORY[1:], "max_tokens": 5, **more})
        assert bad.status == 400 and field in bad.json["error"]["message"] and "contains" in bad.body.decode(), bad.body
    bad = ask("/v1/messages", {"messages": STORY[1:], "max_tokens": 5, "output_format": schema, "output_config": {"format": schema}})
    assert bad.status == 400 and "says the form already" in bad.body.decode(), bad.body
    bad = ask("/api/chat", {"messages": STORY, "format": {"uniqueItems": True}})
    assert bad.status == 400 and '"uniqueItems" is not supported' in bad.json["error"], bad.body
    assert complete().status == 200


def test_answers_messages_are_read_leniently():
    plain = ask("/apply-template", {"messages": STORY}).json["prompt"]
    for system in ({"role": "developer", "content": "Tell a story."},
                   {"role": "system", "content": [{"type": "text", "text": "Tell a story."}], "name": "x"}):
        assert ask("/apply-template", {"messages": [system, STORY[1]]}).json["prompt"] == plain
    more = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm"},
            {"role": "user", "content": []}]
    assert ask("/apply-template", {"messages": more}).json["prompt"] == "<|endoftext|>a\nb\n<|endoftext|>\n"
    control = [{"role": "user", "content": "a<|endoftext|>b"}]
    assert ask("/apply-template", {"messages": control}).json["prompt"] == "<|endoftext|>a<|endoftext|>b\n"
    ids = ask("/tokenize", {"messages": control}).json["tokens"]
    assert ids.count(ids[0]) == 1 and len(ids) > 6, ids
    assert chat(STORY, store=True, metadata={"a": 1}, user="u", service_tier="auto", logprobs=False, tools=[],
                presence_penalty=0, logit_bias={}, unknown=[1], response_format={"type": "text"}).status == 200
    begun = STORY + [{"role": "assistant", "content": "Tim had"}]
    assert ask("/apply-template", {"messages": begun}).json["prompt"] == plain + "Tim had"


def test_answers_refused_by_name():
    refused(chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), 400, "image_url",
            "messages[0]")
    refused(chat([]), 400, "expected a list", "messages")
    refused(chat([{"role": "king", "content": "x"}]), 400, "king")
    refused(chat([{"role": "user", "content": 5}]), 400, "expected a string")
    for name, value in (("logit_bias", {"-1": 1}), ("logprobs", 50), ("tools", {}),
                        ("presence_penalty", 500), ("grammar", "root ::= x"), ("response_format", {"type": "xml"})):
        refused(chat(STORY, **{name: value}), 400, name, name)
    refused(chat(STORY, temperature="hot"), 400, "expected a number", "temperature")
    refused(chat(STORY, temperature=-1), 400, "expected 0 to 100", "temperature")
    refused(chat(STORY, n=0), 400, "expected 1 to 128", "n")
    refused(chat(STORY, stream="yes"), 400, "true or false", "stream")
    refused(chat(STORY, stop=[5]), 400, "list of strings", "stop")
    refused(complete(prompt={}), 400, "expected a string", "prompt")
    refused(complete(prompt=[10**6]), 400, "expected integers", "prompt")
    refused(complete(prompt=[]), 400, "expected 1 to", "prompt")
    refused(ask("/v1/completions", {}), 400, "missing", "prompt")
    long = complete(prompt="word " * 3000)
    refused(long, 400, "This model's maximum context length is 1024 tokens")
    assert long.json["error"]["code"] == "context_length_exceeded"
    for body in (b"", b"{", b"[1]", b'{"prompt": "x"} x', b"\xff\xfe"):
        refused(ask("/v1/completions", body), 400, "no JSON")
    for path in ("/v1/embeddings", "/infill", "/v1/rerank", "/api/embed"):
        a = ask(path, {})
        assert a.status == 501 and "not supported" in a.body.decode(), a.body
    refused(ask("/v1/nothing"), 404, "nothing of that name")
    refused(ask("/v1/completions"), 405, "POST")
    assert ask("/v1/completions").headers["Allow"] == "POST"


# ---- refusals ----------------------------------------------------------------------------------------

TURN = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
POSTS = {  # every endpoint that takes a body: whose form its errors have, and a body that it takes
    "/v1/completions": ("openai", {"prompt": "Hi", "max_tokens": 2}),
    "/v1/chat/completions": ("openai", TURN),
    "/v1/responses": ("openai", {"input": "Hi", "max_output_tokens": 2}),
    "/tokenize": ("openai", {"content": "Hi"}),
    "/detokenize": ("openai", {"tokens": [5]}),
    "/apply-template": ("openai", TURN),
    "/v1/messages": ("anthropic", TURN),
    "/v1/messages/count_tokens": ("anthropic", TURN),
    "/api/chat": ("ollama", {"messages": TURN["messages"], "stream": False, "options": {"num_predict": 2}}),
    "/api/generate": ("ollama", {"prompt": "Hi", "stream": False, "options": {"num_predict": 2}}),
    "/api/show": ("ollama", {"model": "x"}),
}
GENERATE = [p for p in POSTS if p.rsplit("/", 1)[1] in ("completions", "responses", "messages", "chat", "generate")]


def message_in(form, body):
    """What an error says, where it has the form of its API."""
    e = json.loads(body)
    if form == "ollama":
        assert list(e) == ["error"], e
        return e["error"]
    if form == "anthropic":
        assert e["type"] == "error" and sorted(e["error"]) == ["message", "type"], e
    else:
        assert list(e) == ["error"] and sorted(e["error"]) == ["code", "message", "param", "type"], e
    return e["error"]["message"]


def body_of(text):
    return text.split("\r\n\r\n", 1)[1]


def test_refusals_have_the_form_of_their_api():
    kind = "Content-Type: application/json"
    for path, (form, good) in POSTS.items():
        assert ask(path, good).status == 200, path
        for bad, text in ((b"{", "no JSON"), (b"", "no JSON"), (b"[]", "no JSON object"), (b'{"a": 1}}', "no JSON")):
            a = ask(path, bad)
            assert a.status == 400 and text in message_in(form, a.body), (path, bad, a.body)
        a = ask(path, good, headers={"Content-Type": "text/plain"})
        assert a.status == 415 and "application/json" in message_in(form, a.body), (path, a.body)
        a = ask(path)
        assert a.status == 405 and "POST" in message_in(form, a.body), (path, a.body)
        a = ask(path, good, headers={"Origin": "https://evil.test"})
        assert a.status == 403 and "evil.test" in message_in(form, a.body), (path, a.body)
        got = raw(head("POST " + path, kind, "Content-Length: 100000000000"))
        assert status(got) == 413 and "a body of" in message_in(form, body_of(got)), (path, got)
        got = raw(head("POST " + path, kind, "Content-Length: 2", "Content-Length: 2"), b"{}")
        assert status(got) == 400 and "said twice" in message_in(form, body_of(got)), (path, got)
    for path, form in (("/api/nothing", "ollama"), ("/v1/nothing", "openai"), ("/v1/embeddings", "openai"),
                       ("/api/embed", "ollama")):
        a = ask(path, {})
        assert a.status in (404, 501) and message_in(form, a.body), (path, a.body)
    a = ask("/v1/nothing", {}, headers={"anthropic-version": "2023-06-01"})
    assert a.status == 404 and message_in("anthropic", a.body), a.body


def test_refusals_of_fields():
    for path in GENERATE:
        form, good = POSTS[path]
        options = good.get("options", {})
        for bad in ({"temperature": "hot"}, {"temperature": -1}, {"top_p": 2}, {"top_k": "x"}):
            body = {**good, "options": {**options, **bad}} if form == "ollama" else {**good, **bad}
            a = ask(path, body)
            name = list(bad)[0]
            assert a.status == 400 and name in message_in(form, a.body), (path, bad, a.body)
            assert form != "openai" or a.json["error"]["param"] == name, (path, a.body)
        for bad in ({"model": 5}, {"model": "m" * 2000}, {"stream": "yes"}):
            a = ask(path, {**good, **bad})
            assert a.status == 400 and list(bad)[0] in message_in(form, a.body), (path, bad, a.body)
        where = "messages" if "messages" in good else "input" if "input" in good else "prompt"
        long = "word " * 3000
        a = ask(path, {**good, where: [{"role": "user", "content": long}] if where == "messages" else long})
        assert a.status == 400 and "1024" in message_in(form, a.body), (path, a.body)
        if form == "openai":
            assert a.json["error"]["param"] == where, a.body
            assert a.json["error"]["code"] == "context_length_exceeded", a.body


def test_refusals_come_behind_the_body():
    """What is refused for its head is told when its body was sent: before, hardly any client looks."""
    for path, more, want in (("/v1/completions", [], 413), ("/v1/messages", ["Origin: null"], 403),
                             ("/api/chat", ["Origin: null"], 403)):
        s = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        size = 40 << 20
        s.sendall((f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   + "".join(m + "\r\n" for m in more) + f"Content-Length: {size}\r\n\r\n").encode())
        for _ in range(size >> 20):
            s.sendall(b" " * (1 << 20))
        got = s.recv(65536).decode()
        assert status(got) == want and message_in(POSTS[path][0], body_of(got)), got
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # on the same connection
        assert s.recv(65536).startswith(b"HTTP/1.1 200"), path
        s.close()
    asks = raw(head("POST /tokenize", "Content-Type: application/json", "Expect: 100-continue",
                    "Content-Length: 30000000"), wait=True)
    assert status(asks) == 413, asks


def test_refusals_of_chunks():
    for path in ("/tokenize", "/v1/messages", "/api/chat"):
        s = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        s.sendall((f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(18):
            s.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        got = s.recv(65536).decode()
        assert status(got) == 413 and "more than 4194304" in message_in(POSTS[path][0], body_of(got)), got
        s.close()


def test_refusals_of_what_leaves_no_token():
    bans = {str(i): -100 for i in range(4096)}
    for stream in (False, True):
        refused(complete(logit_bias=bans, stream=stream), 400, "bans every token", "logit_bias")
    del bans["0"]
    first = complete(logit_bias=bans, max_tokens=3).json["choices"][0]
    assert first["text"] in ("", ask("/detokenize", {"tokens": [0] * 3}).json["content"]), first
    no_ids = ask("/tokenize", {"content": "yes"}).json["tokens"] + ask("/tokenize", {"content": "y"}).json["tokens"]
    bans = {str(i): -100 for i in no_ids}
    refused(complete(grammar='root ::= "yes"', logit_bias={**bans, **banned_prefixes("yes")}), 400, "no token is left")


def banned_prefixes(word):
    ids = (ask("/tokenize", {"content": word[:n]}).json["tokens"][0] for n in range(1, len(word) + 1))
    return {str(i): -100 for i in ids}


def test_refusals_and_lengths():
    """-1 is as many as there is room for; what is not said, or null, is 16 for a text and -1 for a turn."""
    text = {"prompt": (ask("/tokenize", {"content": ONCE}).json["tokens"] * 300)[:1000], "temperature": 0, "ignore_eos": True}
    for more, made in (({"max_tokens": -1}, 25), ({"n_predict": -1}, 25), ({}, 16), ({"max_tokens": None}, 16),
                       ({"max_tokens": 3}, 3), ({"max_tokens": 10**9}, 25)):
        got = ask("/v1/completions", {**text, **more}).json
        assert got["usage"]["completion_tokens"] == made, (more, got)
    refused(ask("/v1/completions", {**text, "max_tokens": -2}), 400, "expected -1 to", "max_tokens")
    turn = {"messages": [{"role": "user", "content": "word " * 900}], "temperature": 0, "ignore_eos": True}
    for more in ({}, {"max_tokens": None}, {"max_tokens": -1}, {"max_completion_tokens": -1}):
        got = ask("/v1/chat/completions", {**turn, **more}).json
        assert got["usage"]["total_tokens"] == 1025, (more, got["usage"])


# ---- doors -------------------------------------------------------------------------------------------


def head(line, *more, host="127.0.0.1"):
    return "\n".join([line + " HTTP/1.1", f"Host: {host}", "Connection: close", *more]) + "\n"


def status(text):
    return int(text.split(" ")[1]) if text.startswith("HTTP/") else 0


def test_doors_host():
    for host, want in (("127.0.0.1", 200), (f"localhost:{PORT}", 200), ("[::1]:1", 200), ("LOCALHOST", 200),
                       ("evil.test", 403), ("127.0.0.1.evil.test", 403), ("", 403), ("[", 403)):
        got = raw(head("GET /health", host=host))
        assert status(got) == want, (host, got)
    assert status(raw("GET /health HTTP/1.1\nHost: 127.0.0.1\nHost: 127.0.0.1\nConnection: close\n")) == 400
    assert status(raw("GET /health HTTP/1.1\nConnection: close\n")) in (400, 403)


def test_doors_origin():
    for origin, want in (("null", 403), ("https://evil.test", 403), ("http://localhost:3000", 200),
                         ("http://127.0.0.1", 200), ("file://", 403)):
        got = raw(head("GET /health", f"Origin: {origin}"))
        assert status(got) == want, (origin, got)
        assert ("Access-Control-Allow-Origin: " + origin in got) == (want == 200), got
    asked = raw(head("OPTIONS /v1/chat/completions", "Origin: http://localhost:3000",
                     "Access-Control-Request-Method: POST",
                     "Access-Control-Request-Headers: authorization,content-type,x-stainless-os"))
    assert status(asked) == 204, asked
    assert "Access-Control-Allow-Headers: authorization,content-type,x-stainless-os" in asked, asked


def test_doors_content_type():
    for kind, want in ((None, 415), ("text/plain", 415), ("application/x-www-form-urlencoded", 415),
                       ("application/json; charset=utf-8", 200), ("Application/JSON", 200)):
        body = b'{"content": "x"}'
        more = [f"Content-Type: {kind}"] if kind else []
        got = raw(head("POST /tokenize", *more, f"Content-Length: {len(body)}"), body)
        assert status(got) == want, (kind, got)


def test_doors_lengths():
    post = "POST /tokenize"
    kind = "Content-Type: application/json"
    body = b'{"content": "x"}'
    n = f"Content-Length: {len(body)}"
    assert status(raw(head(post, kind, n, n), body)) == 400
    assert status(raw(head(post, kind, n, "Content-Length: 5"), body)) == 400
    assert status(raw(head(post, kind, n, "Transfer-Encoding: chunked"), b"0\r\n\r\n")) == 400
    assert status(raw(head(post, kind, "Content-Length: 1x"), body)) == 400
    assert status(raw(head(post, kind, "Content-Length: -1"), body)) == 400
    assert status(raw(head(post, kind, "Content-Length: 100000000000"))) == 413
    chunked = b"10\r\n" + body + b"\r\n0\r\n\r\n"
    assert status(raw(head(post, kind, "Transfer-Encoding: chunked"), chunked)) == 200
    for other in ("identity", "xchunked", "gzip, chunked"):
        assert status(raw(head(post, kind, "Transfer-Encoding: " + other), chunked)) == 400, other
    assert status(raw(head(post, kind, f"Content-Length : {len(body)}"), body)) == 400
    for request in ("GET /health", "OPTIONS /v1/completions"):
        assert status(raw(head(request, "Content-Length: 1000000"))) == 400, request
        assert status(raw(head(request, "Content-Length: 0"))) in (200, 204), request
    assert status(raw(head("GET /health", "X-Long: " + "x" * 200000))) in (400, 413, 431)
    assert status(raw("nonsense\n")) in (0, 400)
    assert status(raw("GET /health HTTP/1.0\nHost: localhost\n")) == 200


# ---- clients -----------------------------------------------------------------------------------------


def post(body, path="/v1/completions"):
    data = json.dumps(body).encode()
    return raw(head("POST " + path, "Content-Type: application/json", f"Content-Length: {len(data)}"), data, wait=False)


LONG = {"prompt": ONCE, "max_tokens": 900, "ignore_eos": True, "temperature": 1}


def test_clients_leave():
    left = metric("sequences_left_total")
    for i in range(30):
        s = post({**LONG, "stream": i % 2 == 0})
        if i % 3:
            s.recv(10 if i % 2 == 0 else 1, socket.MSG_DONTWAIT) if i % 6 == 0 else time.sleep(0.01)
        if i % 3 == 0:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    until(lambda: metric("requests_processing") == 0 and metric("requests_deferred") == 0)
    assert metric("sequences_left_total") > left
    test_answers_greedy_is_corm_run()


def test_clients_half_closed():
    left = metric("sequences_left_total")
    s = post({**LONG, "prompt": ["x"] * 40, "max_tokens": 1000})
    s.shutdown(socket.SHUT_WR)
    until(lambda: metric("sequences_left_total") > left)
    s.close()
    until(lambda: metric("requests_processing") == 0 and metric("requests_deferred") == 0)


def test_clients_read_slowly():
    s = post({**LONG, "stream": True})
    time.sleep(0.5)
    assert complete().json["choices"][0]["text"] == run_text("greedy")
    got = b""
    while b"[DONE]" not in got:
        piece = s.recv(1000)
        assert piece, got[-200:]
        got += piece
    s.close()


def test_clients_write_slowly():
    data = json.dumps({"content": ONCE}).encode()
    text = head("POST /tokenize", "Content-Type: application/json", f"Content-Length: {len(data)}")
    s = socket.create_connection(("127.0.0.1", PORT), timeout=30)
    for byte in text.encode().replace(b"\n", b"\r\n") + b"\r\n" + data:
        s.sendall(bytes([byte]))
    assert b'"count": 4' in b"".join(iter(lambda: s.recv(4096), b""))
    s.close()


def test_clients_many():
    sockets = [socket.create_connection(("127.0.0.1", PORT), timeout=30) for _ in range(600)]
    assert ask("/health").status == 200
    for s in sockets[:300]:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for s in sockets[:300]:
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    for s in sockets:
        s.close()


def test_clients_one_connection():
    import http.client

    c = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    for i in range(20):
        body = json.dumps({"prompt": ONCE, "max_tokens": 3, "temperature": 0, "stream": i % 2 == 0})
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        r = c.getresponse()
        assert r.status == 200 and r.read()
    c.close()


# ---- keys, a full queue, the end ---------------------------------------------------------------------


def test_keyed_keys():
    global KEY
    for path, want in (("/health", 200), ("/", 200), ("/metrics", 401), ("/props", 401), ("/v1/models", 401)):
        assert ask(path).status == want, path
    a = ask("/v1/completions", {"prompt": "x"})
    assert a.status == 401 and a.headers["WWW-Authenticate"] == "Bearer", a.headers
    for path, (form, good) in POSTS.items():
        a = ask(path, good)
        assert a.status == 401 and "key is needed" in message_in(form, a.body), (path, a.body)
    for key, want in (("first-key", 200), ("second-key", 200), ("first", 401), ("first-keyy", 401), ("", 401),
                      ("x" * 5000, 401)):
        assert ask("/props", headers={"Authorization": "Bearer " + key}).status == want, key
        assert ask("/props", headers={"x-api-key": key}).status == want, key
    assert status(raw(head("OPTIONS /props", "Origin: http://example.test"))) == 204
    assert status(raw(head("GET /health", host="example.test"))) == 200
    KEY = "second-key"
    assert complete(max_tokens=2).status == 200


def test_full_queue():
    global KEY
    KEY = "first-key"
    auth = f"Authorization: Bearer {KEY}"

    def begin():
        data = json.dumps({**LONG, "prompt": ["a", "b", "c"]}).encode()
        return raw(head("POST /v1/completions", auth, "Content-Type: application/json",
                        f"Content-Length: {len(data)}"), data, wait=False)

    held = [begin() for _ in range(2)]
    until(lambda: metric("requests_deferred") == 2)
    a = complete(max_tokens=1)
    assert a.status == 429 and a.headers["Retry-After"], (a.status, a.body)
    assert ask("/health").status == 200
    for s in held:
        s.close()
    until(lambda: metric("requests_processing") == 0 and metric("requests_deferred") == 0)
    assert complete(max_tokens=1).status == 200
    assert ask("/v1/completions", {"prompt": "x" * 100000}).status == 413
    # A short body whose values take much memory.
    many = ask("/v1/completions", b'{"prompt": [' + b'{"a":0},' * 7500 + b"{}]}")
    refused(many, 413, "--max-body")
    assert complete(max_tokens=1).status == 200


def test_ends_gracefully():
    global KEY
    KEY = "first-key"
    got = []

    def one():
        # Three texts, one after the other, so that it is seen at work on any machine.
        got.append(complete(prompt=[ONCE] * 3, max_tokens=600, ignore_eos=True, stream=True))

    t = threading.Thread(target=one)
    t.start()
    until(lambda: metric("requests_processing") == 1)
    os.kill(int(sys.argv[4]), signal.SIGTERM)
    t.join()
    assert sum(1 for _ in chunks(got[0])) >= 100
    until(lambda: gone())


def test_stops_what_is_at_work():
    """At the end of the grace, what has not begun to be answered gets 503, a stream an error, in its API's form."""
    got = {}
    bodies = {"/v1/completions": {**LONG, "prompt": [ONCE] * 40},
              "/v1/messages": {"messages": STORY[1:], "max_tokens": 900, "temperature": 1, "stop_sequences": []},
              "/api/generate": {"prompt": ONCE, "stream": False, "options": {"num_predict": 900}, "raw": True}}
    for path in bodies:
        got[path] = None

    def one(path):
        got[path] = ask(path, bodies[path])

    threads = [threading.Thread(target=one, args=(path,)) for path in bodies]
    threads[0].start()
    until(lambda: metric("requests_processing") == 1)
    for t in threads[1:]:
        t.start()
    stream = post({**LONG, "prompt": [ONCE] * 40, "stream": True})
    until(lambda: metric("requests_total") == 4)
    os.kill(int(sys.argv[4]), signal.SIGTERM)
    for t in threads:
        t.join()
    for path in bodies:
        a = got[path]
        assert a.status == 503 and a.headers["Retry-After"], (path, a.status, a.body)
        assert message_in(POSTS[path][0], a.body) == "the server stops", (path, a.body)
    told = b"".join(iter(lambda: stream.recv(65536), b"")).decode()
    assert '"the server stops"' in told and '"unavailable_error"' in told, told[-500:]
    stream.close()


def gone():
    try:
        ask("/health", timeout=2)
        return False
    except (OSError, urllib.error.URLError):
        return True


def test_own_template():
    a = ask("/apply-template", {"messages": STORY}).json["prompt"]
    assert a == "system:Tell a story.;user:About Tim;>", a
    for _ in range(2):
        b = chat(STORY, max_tokens=3).json
        assert b["usage"]["prompt_tokens_details"]["cached_tokens"] == 0 and b["model"] == "a name", b


def test_thinks_apart():
    """The template says that the model thinks already, and it never ends to: all is thought."""
    want = ask("/v1/completions", {"prompt": ask("/tokenize", {"messages": STORY}).json["tokens"], "max_tokens": 30,
                                   "temperature": 0}).json["choices"][0]["text"].strip()
    assert want
    a = chat(STORY).json["choices"][0]["message"]
    assert a["content"] == "" and a["reasoning_content"].strip() == want, (a, want)
    formed = chat(STORY, grammar='root ::= "yes"').json["choices"][0]["message"]
    assert formed == a, formed  # a thought has no form
    deltas = [c["choices"][0]["delta"] for c in chunks(chat(STORY, stream=True))]
    assert "".join(d.get("reasoning_content", "") for d in deltas).strip() == want
    assert "".join(d.get("content", "") for d in deltas) == ""
    body = {"max_tokens": 30, "temperature": 0, "messages": STORY}
    m = ask("/v1/messages", body).json["content"]
    assert [b["type"] for b in m] == ["thinking", "text"] and m[0]["thinking"].strip() == want and m[1]["text"] == "", m
    e = [json.loads(d) for _, d in events(ask("/v1/messages", {**body, "stream": True}))]
    assert e[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}, e[1]
    assert "".join(d["delta"]["thinking"] for d in e if d.get("delta", {}).get("type") == "thinking_delta").strip() == want
    assert [d["type"] for d in e[-4:]] == ["content_block_delta", "content_block_stop", "message_delta", "message_stop"]
    assert e[-4]["delta"]["type"] == "signature_delta"
    o = ask("/api/chat", {"messages": STORY, "stream": False, "options": {"num_predict": 30, "temperature": 0}}).json
    assert o["message"]["thinking"].strip() == want and o["message"]["content"] == "", o
    r = ask("/v1/responses", {"input": STORY, "max_output_tokens": 30, "temperature": 0}).json
    assert r["status"] == "incomplete" and [i["type"] for i in r["output"]] == ["reasoning"], r
    assert r["output"][0]["content"][0]["text"].strip() == want and r["output"][0]["summary"] == []
    assert r["usage"]["output_tokens_details"]["reasoning_tokens"] == 30, r["usage"]


def thinks_of(token, free=False):
    """Biases and penalties under which a greedy model thinks this token, ends its thought, and says something: each
    token but the last is the likeliest until it was there. `free`: what it says then has no biases."""
    ids = [token] + ask("/tokenize", {"content": "</think>"}).json["tokens"]
    assert len(ids) == 6 == len(set(ids)), ids
    bias = {} if free else {str(i): -100 for i in range(4096)}
    bias.update({str(id): 100 - (16 if free else 32) * k for k, id in enumerate(ids)})
    if not free:
        bias["500"] = -95
    return {"logit_bias": bias, "presence_penalty": 100, "frequency_penalty": 100, "temperature": 0}


def test_thinks_then_has_a_form():
    """The thought is of words that the form has not, and what follows it has the form, in each API."""
    how, word = thinks_of(700, free=True), ask("/detokenize", {"tokens": [700]}).json["content"]
    form, most = {"type": "json_schema", "schema": CHILD}, 120

    def is_answer(thought, text):
        assert thought == word, (thought, word)
        is_child(text)

    body = {**how, "max_tokens": most, "response_format": {"type": "json_schema", "json_schema": {"schema": CHILD}}}
    a = chat(STORY, **body).json["choices"][0]
    is_answer(a["message"]["reasoning_content"], a["message"]["content"])
    assert a["finish_reason"] == "stop", a
    deltas = [c["choices"][0]["delta"] for c in chunks(chat(STORY, **body, stream=True))]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == word
    assert "".join(d.get("content", "") for d in deltas) == a["message"]["content"]
    r = ask("/v1/responses", {**how, "input": STORY, "max_output_tokens": most, "text": {"format": form}}).json
    assert [i["type"] for i in r["output"]] == ["reasoning", "message"] and r["status"] == "completed", r
    is_answer(*(i["content"][0]["text"] for i in r["output"]))
    free = {"messages": STORY, "options": {"num_predict": most, "temperature": 0}, "format": CHILD, "stream": False}
    assert ask("/api/chat", free).json["message"]["thinking"], "a thought that has no end is free as well"


def test_thinks_then_answers():
    how, word = thinks_of(700), ask("/detokenize", {"tokens": [700]}).json["content"]
    a = chat(STORY, **how, max_tokens=9).json
    m = a["choices"][0]["message"]
    assert m["reasoning_content"] == word and m["content"], m
    assert a["usage"]["completion_tokens_details"]["reasoning_tokens"] in (1, 2, 3, 4, 5), a["usage"]
    body = {"input": STORY, "max_output_tokens": 9, **how}
    r = ask("/v1/responses", body).json
    assert [(i["type"], i["status"]) for i in r["output"]] == [("reasoning", "completed"), ("message", "incomplete")], r
    thought, said = r["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": word}] and thought["id"] != said["id"], r
    assert said["content"][0]["text"] == m["content"], (said, m)
    assert r["usage"]["output_tokens_details"] == a["usage"]["completion_tokens_details"], r["usage"]
    e = events(ask("/v1/responses", {**body, "stream": True}))
    d = [json.loads(x) for _, x in e]
    assert [x["sequence_number"] for x in d] == list(range(len(d))) and all(n == x["type"] for (n, _), x in zip(e, d))
    kinds = [x["type"].replace("response.", "") for x in d]
    assert [k for i, k in enumerate(kinds) if k != kinds[i - 1]] == [
        "created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "incomplete"], kinds
    of = lambda kind, key: [x[key] for x in d if x["type"] == "response." + kind]
    assert of("output_item.added", "output_index") == of("output_item.done", "output_index") == [0, 1]
    assert "".join(of("reasoning_text.delta", "delta")) == of("reasoning_text.done", "text")[0] == word
    assert "".join(of("output_text.delta", "delta")) == of("output_text.done", "text")[0] == m["content"]
    ids = [i["id"] for i in of("output_item.added", "item")]
    assert len({x["item_id"] for x in d if "item_id" in x} - set(ids)) == 0
    assert d[-1]["response"]["output"] == of("output_item.done", "item"), d[-1]
    assert [i["content"] for i in d[-1]["response"]["output"]] == [i["content"] for i in r["output"]]


def test_thinks_past_a_stop():
    """What stops an answer does not stop a thought."""
    how, word = thinks_of(700), ask("/detokenize", {"tokens": [700]}).json["content"]
    said = chat(STORY, **how, max_tokens=7).json["choices"][0]["message"]["content"]
    assert len(said) > 1 and word not in said, said
    for stop in ([word], [word, "</think>", "think"]):
        a = chat(STORY, **how, max_tokens=7, stop=stop).json["choices"][0]
        assert a["message"]["reasoning_content"] == word and a["message"]["content"] == said, (stop, a)
        assert a["finish_reason"] == "length", a
    a = chat(STORY, **how, max_tokens=7, stop=[word, said]).json["choices"][0]
    assert a["message"]["reasoning_content"] == word and not a["message"]["content"] and a["finish_reason"] == "stop", a
    deltas = [c["choices"][0]["delta"] for c in chunks(chat(STORY, **how, max_tokens=7, stop=[word, said[1:]], stream=True))]
    assert "".join(d.get("content", "") for d in deltas) == said[:1], deltas


def test_thinks_as_much_as_is_asked_for():
    """The template shows what it is told."""
    said = [{"role": "user", "content": "Hi"}]

    def told(**more):
        p = ask("/apply-template", {"messages": said, **more}).json["prompt"]
        assert p.startswith("Hi") and p.endswith("<think>"), p
        return p[2:-7]

    assert told() == "" and told(reasoning_effort="low") == "|True|low" and told(reasoning_effort="none") == "|False|none"
    assert told(reasoning={"effort": "high", "summary": "auto"}) == "|True|high"
    assert told(reasoning={"summary": None}, reasoning_effort=None) == ""
    assert told(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}) == "|False|low"
    refused(ask("/apply-template", {"messages": said, "reasoning_effort": 5}), 400, "a word", "reasoning_effort")
    refused(ask("/v1/responses", {"input": "Hi", "reasoning": "low"}), 400, "an object", "reasoning")

    def tokens(path, **more):
        a = ask(path, {"messages": said, "max_tokens": 1, "stream": False, "options": {"num_predict": 1}, **more}).json
        return a["prompt_eval_count"] if path == "/api/chat" else a["input_tokens"]

    def count(text):
        return ask("/tokenize", {"content": text}).json["count"]

    for path, more, text in (
            ("/v1/messages/count_tokens", {}, ""),
            ("/v1/messages/count_tokens", {"thinking": {"type": "enabled", "budget_tokens": 77}}, "|True|77"),
            ("/v1/messages/count_tokens", {"thinking": {"type": "disabled"}}, "|False"),
            ("/v1/messages/count_tokens", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "|True|low"),
            ("/api/chat", {"think": False}, "|False"), ("/api/chat", {"think": "high"}, "|True|high")):
        assert tokens(path, **more) == count("Hi" + text + "<think>"), (path, more)
    a = ask("/v1/messages", {"messages": said, "max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": "x"}})
    assert a.status == 400 and "thinking.budget_tokens" in a.json["error"]["message"], a.body
    r = ask("/v1/responses", {"input": [{"role": "user", "content": "Hi"},
                                        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "no"}],
                                         "content": [{"type": "reasoning_text", "text": "hm"}]},
                                        {"type": "message", "role": "assistant", "content": "yes"},
                                        {"role": "user", "content": "Hi"}], "max_output_tokens": 1}).json
    assert r["usage"]["input_tokens"] == count("Hi[hm]yesHi<think>"), r["usage"]


# ------------------------------------------------------------------------------------------------------

failed = 0
for name, test in list(globals().items()):
    if name.startswith(f"test_{sys.argv[1]}_"):
        title = name[5:].replace("_", " ")
        try:
            test()
            print("ok", title, flush=True)
        except Exception:  # whatever it is, it is this check's
            failed = 1
            print("not ok", title, flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().split("\n")), end="", flush=True)
sys.exit(failed)
