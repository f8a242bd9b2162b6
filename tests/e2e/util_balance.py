"""Asks two corm-serve through HAProxy: util_balance.py FRONT ONE TWO PID_OF_ONE. Prints a line for each check."""

import json
import os
import signal
import sys
import threading
import time
import traceback
import urllib.request

FRONT, ONE, TWO, PID = map(int, sys.argv[1:])


def ask(path, body, headers={}, port=FRONT):
    data = None if body is None else json.dumps(body).encode()
    h = {"Content-Type": "application/json", **headers} if data else headers
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, h), timeout=120) as got:
        return json.loads(got.read()) if data else got.read().decode()


def asked(port):
    for line in ask("/metrics", None, port=port).split("\n"):
        if line.startswith("corm_requests_total "):
            return int(line.split()[1])


def where(path, body, headers={}):
    """The answer, and which server gave it."""
    before = asked(ONE), asked(TWO)
    answer = ask(path, body, headers)
    after = asked(ONE), asked(TWO)
    assert after[0] + after[1] == before[0] + before[1] + 1, (before, after)
    return answer, int(after[1] > before[1])


def chat(messages, **more):
    return {"messages": messages, "max_tokens": 4, "temperature": 0, **more}


def talk_openai(i, turn):
    said = [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": f"Of number {i}"}]
    for k in range(turn):
        said += [{"role": "assistant", "content": f"Yes, {k}"}, {"role": "user", "content": f"And {k}?"}]
    return "/v1/chat/completions", chat(said), {}


def talk_bare(i, turn):
    path, body, _ = talk_openai(i, turn)
    return path, chat(body["messages"][1:]), {}


def talk_anthropic(i, turn):
    """Its last block has a mark that moves, and its system block changes with each request."""
    first = {"type": "text", "text": f"Of number {i}"}
    said = [{"role": "user", "content": [first]}]
    for k in range(turn):
        said += [{"role": "assistant", "content": "Yes"}, {"role": "user", "content": [{"type": "text", "text": f"And {k}?"}]}]
    said[-1]["content"][0]["cache_control"] = {"type": "ephemeral"}
    system = [{"type": "text", "text": f"x-anthropic-billing-header: {turn}"}, {"type": "text", "text": "You tell stories."}]
    return "/v1/messages", chat(said, system=system), {"anthropic-version": "2023-06-01"}


def talk_responses(i, turn):
    said = [{"role": "user", "content": [{"type": "input_text", "text": f"Of number {i}"}]}]
    for k in range(turn):
        said += [{"role": "assistant", "content": "Yes"}, {"role": "user", "content": f"And {k}?"}]
    return "/v1/responses", {"input": said, "max_output_tokens": 4}, {}


def talk_named(i, turn):
    return "/v1/completions", {"prompt": f"{turn} is not how it begins", "max_tokens": 4}, {"x-conversation": f"c{i}"}


TALKS = [talk_openai, talk_bare, talk_anthropic, talk_responses, talk_named]


def test_turns_stay_together():
    for talk in TALKS:
        used = set()
        for i in range(10):
            at = {where(*talk(i, turn))[1] for turn in range(3)}
            assert len(at) == 1, (talk.__name__, i, at)
            used |= at
        assert used == {0, 1}, talk.__name__


def test_what_was_read_is_used():
    path, body, headers = talk_openai(100, 0)
    body["messages"][0]["content"] = "You tell stories. " * 10
    first = ask(path, body, headers)
    said = first["choices"][0]["message"]
    body["messages"] += [said, {"role": "user", "content": "More"}]
    details = ask(path, body, headers)["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] >= first["usage"]["prompt_tokens"] - 2, details


def test_nothing_is_lost_while_one_goes():
    over, wrong, n = threading.Event(), [], [0]

    def talk(i):
        turn = 0
        while not over.is_set():
            try:
                path, body, headers = TALKS[i % len(TALKS)](i, turn % 4)
                ask(path, {**body, "stream": False}, headers)
                n[0] += 1
            except Exception as e:  # whatever it is, a request was lost
                wrong.append((i, turn, repr(e)))
            turn += 1

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(10)]
    for t in threads:
        t.start()
    time.sleep(1)
    os.kill(PID, signal.SIGTERM)
    end = time.time() + 40
    while time.time() < end and up(ONE):
        time.sleep(0.2)
    before = n[0]
    time.sleep(2)
    over.set()
    for t in threads:
        t.join()
    assert not up(ONE) and not wrong, wrong[:5]
    assert before > 20 and n[0] > before, (before, n)


def up(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).close()
        return True
    except OSError:
        return False


def test_its_conversations_go_on():
    for talk in TALKS:
        for i in range(5):
            path, body, headers = talk(i, 3)
            ask(path, body, headers)


for _ in range(100):  # HAProxy has looked at both
    try:
        ask("/health", None)
        break
    except OSError:
        time.sleep(0.1)
failed = 0
for name, test in list(globals().items()):
    if name.startswith("test_"):
        try:
            test()
            print("ok", name[5:].replace("_", " "), flush=True)
        except Exception:  # it is this check's
            failed = 1
            print("not ok", name[5:].replace("_", " "), flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().split("\n")), end="", flush=True)
sys.exit(failed)
