"""Clients that are many, slow, rude and gone: stress.py PORT PID few|all [sanitized].

While they come and go, others ask, and their answers have to keep every bit. Afterwards nothing is left of the rude ones:
no place, no file, and no memory. Prints a line for each check and what it measured; sanitizers keep memory of their own,
so it is not looked at with them."""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request

PORT, PID = int(sys.argv[1]), int(sys.argv[2])
FULL, SANITIZED = sys.argv[3] == "all", len(sys.argv) > 4
LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 1, "stream": True}
MIB = 1 << 20


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    r = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(r, timeout=300) as got:
        return got.read()


def metric(name):
    for line in ask("/metrics").decode().split("\n"):
        if line.startswith("corm_" + name + " "):
            return float(line.split()[1])
    raise AssertionError(name)


def until(what, seconds=120):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def dial():
    return socket.create_connection(("127.0.0.1", PORT), timeout=120)


def head(path, *more):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(body, path="/v1/completions"):
    data = json.dumps(body).encode()
    s = dial()
    s.sendall(head(path, f"Content-Length: {len(data)}") + data)
    return s


def cut(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


# ---- those whose answers are looked at ---------------------------------------------------------------

QUESTIONS = [{"prompt": p, "max_tokens": 20, "temperature": t, "seed": 5, "logprobs": 2}
             for p, t in (("The dog", 0), ("One day", 1), ("Mom said", 0), ("A girl named Sue", 1))]


def answers():
    return [json.loads(ask("/v1/completions", q))["choices"] for q in QUESTIONS]


class Others(threading.Thread):
    def __init__(self, want):
        super().__init__()
        self.want, self.n, self.wrong, self.over = want, 0, None, False

    def run(self):
        while not self.over and not self.wrong:
            try:
                got = answers()
                self.wrong = None if got == self.want else f"{got} is not {self.want}"
                self.n += 1
            except Exception as e:  # whatever it is, somebody got no answer
                self.wrong = repr(e)


# ---- the rude ones -----------------------------------------------------------------------------------


def many_connections():
    n = 1000 if FULL else 200
    some = [dial() for _ in range(n)]
    for i, s in enumerate(some):
        if i % 3 == 1:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        elif i % 3 == 2:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for s in some[2::3]:
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    for s in some:
        s.close()


def slow_readers():
    some = [post(LONG) for _ in range(8 if FULL else 3)]
    for s in some:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    time.sleep(3 if FULL else 0.5)
    for s in some:
        s.recv(100)
        s.close()


def slow_writers():
    data = json.dumps(QUESTIONS[0]).encode()
    some = [dial() for _ in range(20 if FULL else 5)]
    text = head("/v1/completions", f"Content-Length: {len(data)}") + data
    for at in range(0, len(text), 3):
        for s in some[1:]:
            s.sendall(text[at:at + 3])
    for s in some[1:]:
        assert s.recv(4096).startswith(b"HTTP/1.1 200"), "a slow writer got no answer"
    for s in some:
        s.close()


def half_closed():
    some = [post({**LONG, "stream": i % 2 == 0}) for i in range(40 if FULL else 6)]
    for s in some:
        s.shutdown(socket.SHUT_WR)
    for s in some:
        while s.recv(65536):
            pass
        s.close()


def long_bodies():
    size = (100 if FULL else 20) * MIB

    def one(chunked):
        s = dial()
        s.sendall(head("/v1/chat/completions", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"))
        for _ in range(size // MIB):
            s.sendall((b"%x\r\n" % MIB if chunked else b"") + b" " * MIB + (b"\r\n" if chunked else b""))
        if chunked:
            s.sendall(b"0\r\n\r\n")
        got.append(s.recv(4096)[:12])
        s.close()

    got = []
    threads = [threading.Thread(target=one, args=(i % 2 == 0,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(got) <= {b"HTTP/1.1 413", b"HTTP/1.1 429"} and len(got) == 4, got


def killed_in_mid_stream():
    for i in range(200 if FULL else 20):
        child = os.fork() if i % 2 else 0
        if i % 2 == 0:  # the same, without the pause of a process that is made
            s = post(LONG)
            s.recv(1)
            cut(s)
        elif child == 0:
            s = post(LONG)
            s.recv(1)
            time.sleep(60)
            os._exit(1)
        else:
            time.sleep(0.02 * (i % 5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


RUDE = [many_connections, slow_readers, slow_writers, half_closed, long_bodies, killed_in_mid_stream]


# ---- what is left ------------------------------------------------------------------------------------


def resident(key):
    with open(f"/proc/{PID}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))


def files():
    return len(os.listdir(f"/proc/{PID}/fd"))


def quiet():
    until(lambda: metric("requests_processing") == 0 and metric("requests_deferred") == 0)
    until(lambda: files() <= base + 2)


want = answers()
base = files()
after = []
for turn in range(4 if FULL else 1):
    for rude in RUDE:
        others = Others(want)
        others.start()
        rude()
        others.over = True
        others.join()
        assert not others.wrong, (rude.__name__, others.wrong)
        assert others.n > 0, rude.__name__
        if turn == 0:
            print(f"ok stress: {rude.__name__.replace('_', ' ')}, others keep every bit ({others.n} rounds)", flush=True)
    quiet()
    after.append(resident("VmRSS"))
plan = json.loads(ask("/props"))["memory_bytes"]
peak = resident("VmHWM")
print(f"# plan {plan / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB, at rest {', '.join(f'{x / MIB:.1f}' for x in after)} MiB,",
      f"{int(metric('sequences_left_total'))} sequences were left, {base} files", flush=True)
if not SANITIZED:
    # What sessions and freed bodies take comes in the first rounds.
    assert not FULL or after[3] - after[2] < 8 * MIB, "memory grows"
    assert peak < plan + 4 * 16 * MIB + 64 * MIB, "more memory than the plan and bodies"  # --max-body is 16M
print("ok stress: nothing is left of them", flush=True)
