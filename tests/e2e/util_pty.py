"""Runs a command on a terminal of its own and types into it, for tests/e2e/e2e_*.sh.

    util_pty.py STEPS COMMAND...

STEPS is a file of lines: `wait REGEX` (in what came since the last wait that succeeded), `type TEXT` (with Python's
escapes), `signal NAME`, `size ROWS COLUMNS`, `end STATUS` (the command ends so, by itself). What the terminal got goes
to standard output. Exit status 1 and a line on standard error where a step fails or takes 20 seconds.
"""
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import fcntl

LIMIT_S = 20


def fail(what):
    sys.stdout.flush()
    sys.exit(f"util_pty: {what}")


def main():
    steps = [line.rstrip("\n") for line in open(sys.argv[1], encoding="utf-8") if line.strip()]
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execvp(sys.argv[2], sys.argv[2:])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    seen = b""

    def more(until):
        nonlocal seen
        left = until - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return False
        try:
            got = os.read(fd, 65536)
        except OSError:
            return False
        sys.stdout.buffer.write(got)
        seen += got
        return bool(got)

    for step in steps:
        word, _, rest = step.partition(" ")
        until = time.monotonic() + LIMIT_S
        if word == "wait":
            while not (found := re.search(rest.encode(), seen)):
                if not more(until):
                    fail(f"{rest!r} did not come; got {seen!r}")
            seen = seen[found.end():]
        elif word == "type":
            os.write(fd, rest.encode().decode("unicode_escape").encode("latin-1") if rest.isascii() else rest.encode())
        elif word == "signal":
            os.kill(pid, getattr(signal, rest))
        elif word == "size":
            rows, columns = map(int, rest.split())
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        elif word == "end":
            while more(until):
                pass
            while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                if time.monotonic() > until:
                    fail("it does not end")
                time.sleep(0.01)
            status = ended[1]
            got = os.waitstatus_to_exitcode(status)
            if got != int(rest):
                fail(f"it ended with {got}, expected {rest}")
            sys.stdout.flush()
            return
        else:
            fail(f"no such step: {step}")
    fail("the steps do not end it")


main()
