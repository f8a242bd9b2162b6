"""What a server's users feel: serve.py BUILD_DIR MODEL TEXT RECURRENT_MODEL TEXT [PART...]

Prints tables of the parts named, else of all:
- turns: a second turn after 2,000 tokens: time to its first token, beside that of its new tokens alone;
- together: four answers at the same time beside one, with room for a quarter of the experts, and the bytes that a token reads;
- prompt: a prompt of 20,000 tokens with that room: time to the first token, bytes read, and the longest gap that another
  stream sees meanwhile.
Figures that are compared are measured in turn, and medians are printed with their range.
"""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time

BUILD, MODEL, TEXT, RECURRENT, RECURRENT_TEXT, *PARTS = sys.argv[1:]
FIGURE = re.compile(r"^corm_(\w+) (\S+)$", re.M)


class Server:
    """A corm-serve of its own, on a port that it chooses."""

    def __init__(self, model, *options):
        command = [os.path.join(BUILD, "corm-serve"), model, "--port", "0", "-q", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(r"listens on http://([\w.]+):(\d+)", line):
                self.port = int(match[2])
                break
        else:
            sys.exit("".join(self.said))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {text[:500]}")
        return text.decode()

    def figures(self):
        return {name: float(value) for name, value in FIGURE.findall(self.ask("GET", "/metrics"))}

    def ids(self, text):
        return json.loads(self.ask("POST", "/tokenize", {"content": text}))["tokens"]

    def stream(self, prompt, n, times=None):
        """Asks for n tokens; returns (seconds to the first, text, usage). `times` gets when each came."""
        body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        start = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first, text, usage = None, "", None
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                sys.exit(event["error"]["message"])
            now = time.monotonic()
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text += choice["text"]
                if first is None:
                    first = now - start
                if times is not None:
                    times.append(now)
        connection.close()
        return first, text, usage


def spread(values, form="%.2f"):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form} ({form}-{form})" % (middle, low, high)


def room_for(model, part, *options):
    """The budget in which that part of the experts has room beside all else. The options have to name --kv-size, whose
    default would follow the budget."""
    about = json.loads(subprocess.check_output([os.path.join(BUILD, "corm-prep"), "inspect", "--json", model]))
    with Server(model, *options) as s:
        whole = json.loads(s.ask("GET", "/props"))["memory_bytes"]
    return str(int(whole - (1 - part) * about["experts"]["raw_bytes"]))


def second_turn(model, words, rounds=5, before=2000, fresh=64):
    """Seconds to the first token of a second turn, and of as many tokens alone."""
    turns, alone, new = [], [], []
    with Server(model, "--parallel", "1", "--ctx-size", "4096") as s:
        ids = s.ids(words)
        for k in range(rounds):
            at = k * (before + 2 * fresh)
            first = ids[at : at + before]
            _, text, _ = s.stream(first, 32)
            turn = first + s.ids(text) + ids[at + before : at + before + fresh]
            seconds, _, usage = s.stream(turn, 1)
            n = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
            turns.append(seconds)
            new.append(n)
            alone.append(s.stream(ids[at + before + fresh :][:n], 1)[0])
    ratio = statistics.median(t / a for t, a in zip(turns, alone))
    print(f"| {os.path.basename(model)} | {before} | {spread(new, '%d')} | {spread([1e3 * t for t in turns], '%.0f')} "
          f"| {spread([1e3 * t for t in alone], '%.0f')} | {ratio:.2f} |", flush=True)


# Contexts and caches of the parts with a budget; a token takes 32 KiB in the layers of OLMoE's shape.
TOGETHER = ("--parallel", "4", "--ctx-size", "1024", "--kv-size", "192M")
PROMPT = ("--parallel", "2", "--ctx-size", "24576", "--kv-size", "1600M")


def together(model, words, ram, rounds=3, n=128):
    """Tokens a second of four answers at once and of one, and the bytes that were read for one token."""
    rates = {1: [], 4: []}
    read = {1: [], 4: []}
    with Server(model, *TOGETHER, "--ram", ram) as s:
        ids = s.ids(words)
        for k in range(rounds):
            for many in (1, 4):
                before = s.figures()
                prompts = [ids[(8 * k + many + i) * 64 :][:32] for i in range(many)]
                threads = [threading.Thread(target=s.stream, args=(p, n)) for p in prompts]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                after = s.figures()
                took = {name: after[name] - before[name] for name in after}
                made = took["tokens_predicted_total"]
                rates[many].append(made / took["tokens_predicted_seconds_total"])
                read[many].append(took["archive_bytes_read_total"] / made / 2**20)
    ratio = statistics.median(rates[4]) / statistics.median(rates[1])
    for many in (1, 4):
        print(f"| {many} | {spread(rates[many], '%.1f')} | {spread(read[many], '%.1f')} "
              f"| {ratio if many == 4 else 1:.2f} |", flush=True)


def long_prompt(model, words, ram, batch, n=20000):
    """A prompt of n tokens beside a stream that goes on."""
    times = []
    with Server(model, *PROMPT, "--ram", ram, "--batch", str(batch)) as s:
        ids = s.ids(words)
        other = threading.Thread(target=s.stream, args=(ids[-64:], 4000, times), daemon=True)
        other.start()
        while len(times) < 50:
            time.sleep(0.05)
        before, start = s.figures(), time.monotonic()
        first, _, usage = s.stream(ids[:n], 1)
        end, after = time.monotonic(), s.figures()
        alone = [b - a for a, b in zip(times, times[1:]) if b < start]
        beside = [b - a for a, b in zip(times, times[1:]) if a >= start and b <= end]
        read = (after["archive_bytes_read_total"] - before["archive_bytes_read_total"]) / 1e9
        print(f"| {batch} | {usage['prompt_tokens']} | {first:.1f} | {read:.1f} | {1e3 * statistics.median(alone):.0f} / "
              f"{1e3 * max(alone):.0f} | {1e3 * statistics.median(beside):.0f} / {1e3 * max(beside):.0f} "
              f"| {len(beside) / (end - start):.1f} |", flush=True)


def turns():
    print("| model | tokens before | new tokens | first token of the turn, ms | of the new tokens alone, ms | ratio |\n"
          "|---|---|---|---|---|---|")
    second_turn(MODEL, open(TEXT).read())
    second_turn(RECURRENT, open(RECURRENT_TEXT).read())


def answers():
    ram = room_for(MODEL, 0.25, *TOGETHER)
    print("| answers at once | tok/s, all | MiB read a token | ratio |\n|---|---|---|---|")
    together(MODEL, open(TEXT).read(), ram)


def prompts():
    print("| batch | prompt | first token, s | GB read | gaps of another stream before it, ms: median / longest "
          "| during it | tok/s of that stream |\n|---|---|---|---|---|---|---|")
    for batch in (256, 1024):
        ram = room_for(MODEL, 0.25, *PROMPT, "--batch", str(batch))
        long_prompt(MODEL, open(TEXT).read(), ram, batch)


ALL = {"turns": turns, "together": answers, "prompt": prompts}


def main():
    if unknown := [part for part in PARTS if part not in ALL]:
        sys.exit(f"{unknown[0]}: no part of this measurement; there are {', '.join(ALL)}")
    for part in PARTS or ALL:
        ALL[part]()
        print(flush=True)


main()
