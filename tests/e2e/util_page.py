"""Asks corm-serve for its page: util_page.py PORT FOLDER KEY, where FOLDER has the files that the page is made of.
Prints `ok NAME` or `not ok NAME` for each check; the status is 1 where one failed."""

import base64
import hashlib
import json
import os
import re
import sys
import traceback
import urllib.error
import urllib.request

PORT, FOLDER, KEY = sys.argv[1:]


def ask(path, method="GET", key=None):
    r = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", method=method)
    if key:
        r.add_header("Authorization", "Bearer " + key)
    try:
        with urllib.request.urlopen(r, timeout=60) as got:
            return got.status, got.headers, got.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def file(name):
    with open(os.path.join(FOLDER, name), "rb") as f:
        return f.read()


def policy(headers):
    return {p.split()[0]: p.split()[1:] for p in headers["Content-Security-Policy"].split(";")}


def hashes(element, page):
    found = re.findall(rb"(?s)<%s>(.*?)</%s>" % (element, element), page)
    return found, ["'sha256-" + base64.b64encode(hashlib.sha256(x).digest()).decode() + "'" for x in found]


def test_bytes_are_those_of_the_files():
    status, headers, page = ask("/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8", headers
    want = []
    for line in file("index.html").split(b"\n"):
        script = re.fullmatch(rb'<script src="(.*)"></script>', line)
        style = re.fullmatch(rb'<link rel="stylesheet" href="(.*)">', line)
        element = b"script" if script else b"style"
        inside = (script or style) and file((script or style).group(1).decode())
        want.append(line if inside is None else b"<" + element + b">" + inside + b"</" + element + b">")
    assert page == b"\n".join(want), "the page is not made of its files"
    used = set(re.findall(r'(?:src|href)="([a-z]+\.(?:js|css))"', file("index.html").decode()))
    assert used == {n for n in os.listdir(FOLDER) if n.endswith((".js", ".css"))}, used
    assert ask("/icon.svg")[2] == file("icon.svg") and ask("/icon.svg")[1]["Content-Type"] == "image/svg+xml"


def test_hashes_are_those_of_scripts_and_styles():
    _, headers, page = ask("/")
    scripts, script_hashes = hashes(b"script", page)
    styles, style_hashes = hashes(b"style", page)
    p = policy(headers)
    assert len(scripts) > 3 and p["script-src"] == script_hashes, p
    assert len(styles) > 1 and p["style-src"] == style_hashes, p
    assert not re.search(rb'(?i)<[a-z][^>]*\s(?:on[a-z]+|style)\s*=', re.sub(rb"(?s)<script>.*?</script>", b"", page))


def test_headers_let_nothing_else_run():
    for path in ("/", "/icon.svg"):
        _, h, _ = ask(path)
        p = policy(h)
        for name, want in (("default-src", "'none'"), ("connect-src", "'self'"), ("img-src", "'self'"),
                           ("frame-ancestors", "'none'"), ("base-uri", "'none'"), ("form-action", "'none'"),
                           ("require-trusted-types-for", "'script'"), ("trusted-types", "'none'")):
            assert p[name] == [want], (name, p)
        assert h["X-Content-Type-Options"] == "nosniff" and h["Referrer-Policy"] == "no-referrer", h
        assert h["X-DNS-Prefetch-Control"] == "off" and h["X-Frame-Options"] == "DENY", h
        assert h["Cross-Origin-Opener-Policy"] == "same-origin" and h["Cache-Control"] == "no-store", h


def test_scripts_make_no_markup():
    """What Trusted Types forbid in one browser is not to be there for the others."""
    for name in os.listdir(FOLDER):
        if name.endswith(".js"):
            found = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|https?://(?!www\.w3\.org/2000/svg)[a-z]", file(name).decode())
            assert not found, (name, found)


def test_head_and_key():
    status, headers, body = ask("/", method="HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) == len(ask("/")[2])
    assert ask("/props")[0] == 401 and ask("/props", key=KEY)[0] == 200


failed = False
for name, run in list(globals().items()):
    if name.startswith("test_"):
        try:
            run()
            print("ok page:", name[5:].replace("_", " "), flush=True)
        except Exception:
            failed = True
            print("not ok page:", name[5:].replace("_", " "))
            print("".join("# " + line + "\n" for line in traceback.format_exc().split("\n")))
sys.exit(failed)
