"""Uses the page in Chromium: page.py FOLDER PORT_OF_FABLE PORT_OF_SHAPE PORT_WITH_KEY. Prints `ok NAME` or `not ok
NAME` for each check; the status is 1 where one failed. FOLDER gets a picture of the page at each failure."""

import http.client
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FOLDER, FABLE, SHAPE, KEYED = sys.argv[1], *map(int, sys.argv[2:])
HERE = os.path.dirname(os.path.abspath(__file__))
ANSWERS = {}  # by what was asked: a list of (delta, seconds before it)
CUT = []  # answers whose client left
BODIES = []  # of requests that were handed on


def text_of(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return f.read()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Between(Quiet):
    """Hands on to corm-serve, but for questions that ANSWERS knows."""

    def do_GET(self):
        self.hand_on(None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = json.loads(body).get("messages") or [{}]
        if said[-1].get("content") in ANSWERS:
            self.say(said[-1]["content"])
        else:
            BODIES.append(json.loads(body))
            self.hand_on(body)

    def hand_on(self, body):
        c = http.client.HTTPConnection("127.0.0.1", FABLE, timeout=60)
        c.request(self.command, self.path, body, {"Content-Type": "application/json"} if body else {})
        r = c.getresponse()
        self.send_response(r.status)
        for name, value in r.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "content-length"):
                self.send_header(name, value)
        self.end_headers()
        while piece := r.read1(4096):
            self.wfile.write(piece)
        c.close()

    def say(self, asked):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for delta, wait in ANSWERS[asked]:
                time.sleep(wait)
                event = delta if "error" in delta else {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            self.wfile.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")
        except OSError:
            CUT.append(asked)


class Listener(Quiet):
    """Where a hostile answer would report to."""

    asked = []

    def do_GET(self):
        Listener.asked.append((self.path, dict(self.headers)))
        self.send_response(204)
        self.end_headers()


def serve(handler):
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    s.daemon_threads = True
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_address[1]


BETWEEN, LISTENER = serve(Between), serve(Listener)
ELSEWHERE = f"http://127.0.0.1:{LISTENER}"
HOSTILE = text_of("hostile.md").replace("LISTENER", ELSEWHERE)
SAMPLE = text_of("sample.md")
ANSWERS["hostile"] = [({"content": HOSTILE[i:i + 7]}, 0.001) for i in range(0, len(HOSTILE), 7)]
ANSWERS["sample"] = [({"content": SAMPLE[i:i + 3]}, 0) for i in range(0, len(SAMPLE), 3)]
ANSWERS["slow"] = [({"content": f"word{i} "}, 0.05) for i in range(2000)]
ANSWERS["think"] = [({"reasoning_content": "Let me *see*."}, 0), ({"content": "Yes."}, 0.3)]
ANSWERS["fails"] = [({"content": "Half of "}, 0), ({"error": {"message": "the disk is broken"}}, 0)]


class Page:
    def __init__(self, port, width=1280, height=860, phone=False):
        self.profile = tempfile.mkdtemp(dir=FOLDER)
        o = webdriver.ChromeOptions()
        for a in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                  f"--window-size={width},{height}", f"--user-data-dir={self.profile}"):
            o.add_argument(a)
        if phone:
            o.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": 390, "height": 844, "pixelRatio": 2, "touch": True}})
        o.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.d = webdriver.Chrome(options=o, service=Service("/usr/bin/chromedriver"))
        self.port = port
        self.load()

    def load(self):
        self.d.get(f"http://127.0.0.1:{self.port}/")
        self.until(lambda: self.js("return document.body.classList.contains('ready')"))

    def js(self, text, *args):
        return self.d.execute_script(text, *args)

    def all(self, css):
        return self.d.find_elements(By.CSS_SELECTOR, css)

    def one(self, css):
        return self.d.find_element(By.CSS_SELECTOR, css)

    def until(self, what, seconds=40):
        end = time.time() + seconds
        while time.time() < end:
            got = what()
            if got:
                return got
            time.sleep(0.03)
        raise AssertionError("waited in vain")

    def running(self):
        return self.js("return shown !== null && runs.has(shown.id)")

    def say(self, text, wait=True):
        self.one("#entry").send_keys(text, Keys.ENTER)
        self.until(lambda: self.js("return $('entry').value === '' && shown !== null"))
        if wait:
            self.until(lambda: not self.running())

    def answers(self):
        return [n.text for n in self.all("#talk > .assistant > .markdown")]

    def set(self, **values):
        for name, value in values.items():
            self.js("settings.set(arguments[0], arguments[1])", name, value)

    def requests(self):
        """Addresses of all that the page asked for since the last call."""
        urls = []
        for entry in self.d.get_log("performance"):
            m = json.loads(entry["message"])["message"]
            if m["method"] == "Network.requestWillBeSent":
                urls.append(m["params"]["request"]["url"])
        return urls

    def close(self):
        self.d.quit()
        shutil.rmtree(self.profile, ignore_errors=True)


# ---- a conversation ----------------------------------------------------------------------------------


def test_talks_streams_and_outlives_a_reload(p):
    p.set(max_tokens="60", temperature="0")
    p.say("Once upon a time")
    first = p.answers()[-1]
    assert len(first) > 50, first
    assert "60 tokens" in p.one(".assistant .stats").text, p.one(".assistant .stats").text
    assert "ended at the limit" in p.one(".assistant .stats").text
    p.say("And then?")
    assert len(p.answers()) == 2
    p.load()
    p.until(lambda: len(p.answers()) == 2)
    assert p.answers()[0] == first and len(p.all("#talks .open")) == 1
    p.one("#new").click()
    assert p.answers() == [] and p.one("#welcome").is_displayed()
    p.one("#talks .open").click()
    assert p.answers()[0] == first


def test_edits_and_makes_again(p):
    p.set(max_tokens="20", temperature="1")
    p.one("#new").click()
    p.say("The dog")
    one = p.answers()[-1]
    p.one('.assistant button[aria-label="Make this answer again"]').click()
    p.until(lambda: p.all(".assistant .beside") and not p.running())
    assert p.one(".assistant .beside").text.strip() == "2 / 2" and p.answers()[-1] != one
    p.one('.assistant button[aria-label="Earlier version"]').click()
    assert p.answers() == [one] and p.one(".assistant .beside").text.strip() == "1 / 2"
    p.js("document.querySelector('.user button[aria-label=Edit]').click()")
    field = p.one("textarea.edit")
    field.clear()
    field.send_keys("The cat", Keys.ENTER)
    p.until(lambda: not p.running() and len(p.answers()) == 1)
    assert p.one(".user .said").text == "The cat" and p.one(".user .beside").text.strip() == "2 / 2"
    p.js("document.querySelector('.user button[aria-label=\"Earlier version\"]').click()")
    assert p.one(".user .said").text == "The dog"
    p.load()
    p.until(lambda: p.all(".user .said"))
    assert p.one(".user .said").text == "The dog" and p.one(".assistant .beside").text.strip().endswith("/ 2")


def test_goes_on_with_an_answer(p):
    p.set(max_tokens="10", temperature="0")
    p.one("#new").click()
    p.say("Once upon a time")
    short = p.answers()[-1]
    p.one('.assistant button[aria-label="Go on with this answer"]').click()
    p.until(lambda: not p.running() and p.answers()[-1] != short)
    assert p.answers()[-1].startswith(short) and len(p.all(".assistant")) == 1


def test_stops(p):
    p.one("#new").click()
    p.say("slow", wait=False)
    p.until(lambda: "word5" in p.answers()[-1])
    assert not p.one("#send").is_displayed()
    p.one("#stop").click()
    p.until(lambda: not p.running())
    assert "stopped" in p.all(".assistant .stats")[-1].text and p.one("#send").is_displayed()
    p.until(lambda: CUT == ["slow"])
    p.say("slow", wait=False)
    p.until(lambda: "word5" in p.answers()[-1])
    p.one("#entry").send_keys(Keys.ESCAPE)
    p.until(lambda: not p.running())


def test_a_reload_keeps_what_has_come(p):
    p.one("#new").click()
    p.say("slow", wait=False)
    p.until(lambda: "word30" in p.answers()[-1])
    p.load()
    p.until(lambda: p.answers())
    assert "word10" in p.answers()[-1] and "cut off" in p.one(".assistant .stats").text, p.answers()


def test_two_conversations_at_once(p):
    p.one("#new").click()
    p.say("slow", wait=False)
    p.until(lambda: "word3" in p.answers()[-1])
    p.one("#new").click()
    p.say("sample")
    p.until(lambda: len(p.all("#talks .pulse")) == 1)
    assert "Title" in p.answers()[-1]
    p.js("[...runs.values()][0].stop.abort()")
    p.until(lambda: not p.all("#talks .pulse"))


def test_errors_are_told(p):
    p.one("#new").click()
    p.say("fails")
    assert "the disk is broken" in p.one("#talk .error").text and "Half of" in p.answers()[-1]
    p.set(temperature="1000")
    p.say("Hello")
    assert "temperature" in p.all("#talk .error")[-1].text, p.all("#talk .error")[-1].text
    p.set(temperature="0")


def test_thoughts_are_folded(p):
    p.one("#new").click()
    p.say("think")
    assert p.answers()[-1] == "Yes." and p.one(".thought summary").text == "Thoughts"
    assert not p.one(".thought .markdown").is_displayed()
    p.one(".thought summary").click()
    p.until(lambda: p.one(".thought .markdown em").is_displayed())


def test_a_name_a_search_and_removal(p):
    p.js("document.querySelector('#talks .here button[aria-label=Rename]').click()")
    p.one("#talks .rename").send_keys(Keys.CONTROL, "a")
    p.one("#talks .rename").send_keys("My own name", Keys.ENTER)
    assert p.one("#title").text == "My own name"
    p.one("#find").send_keys("own na")
    assert len(p.all("#talks .open")) == 1
    p.js("document.querySelector('#talks .here button[aria-label=Remove]').click()")
    assert not p.all("#talks .open")
    p.one(".toast button").click()
    assert len(p.all("#talks .open")) == 1
    p.one("#find").clear()
    p.js("show_list()")


# ---- what is shown -----------------------------------------------------------------------------------


def test_markdown(p):
    p.one("#new").click()
    p.say("sample")
    q = lambda css: [n.text for n in p.all("#talk .markdown " + css)]
    assert q(".h1") == ["Title with code"] and q(".h1 code") == ["code"]
    assert q("p em")[0] == "soft" and "strong" in q("p strong") and q("del") == ["gone"], q("p em")
    assert "snake_case_name, 2 * 3 * 4, and *no*." in q("p")[0], q("p")[0]
    assert q("ol > li > ul > li strong") == ["bold"] and len(q("ol > li")) == 2 and "a paragraph" in q("ol > li > ul")[0]
    assert [n.is_selected() for n in p.all(".task input")] == [True, False]
    assert q("blockquote") == ["quoted\nmore"] and len(q("hr")) == 1
    assert q("td") == ["a|b", "10"] and p.js("return getComputedStyle(document.querySelector('td.right')).textAlign") == "right"
    assert q("figure.code pre") == ["int main(void) { return 0; } // </pre>"] and "int" in q("pre .t-k")
    links = [n.get_attribute("href") for n in p.all("#talk .markdown a")]
    assert links == ["https://example.test/a_b_(c)", "https://example.test/x"], links
    streamed = p.js("return document.querySelector('#talk .markdown').innerHTML")
    p.js("show_talk()")
    assert p.js("return document.querySelector('#talk .markdown').innerHTML") == streamed


def test_markdown_is_fast_on_bad_text(p):
    bad = ["*a " * 20000 + "b* " * 20000, "[" * 40000, "![](" * 20000, "`" * 30000 + "a" + "``" * 20000, "> " * 20000, "- " * 20000,
           "|a" * 20000 + "\n" + "|-" * 20000, "_*" * 30000, "<http://" * 10000, "# " + "#" * 50000 + "x", "1. " * 9000,
           "\n".join(" " * i + "- x" for i in range(400)), "**a** " * 20000, "http://" * 20000, "[a](<" * 20000, "~~" * 40000]
    for text in bad:
        took = p.js("const t = performance.now(); markdown_show(document.createElement('div'), arguments[0]); return performance.now() - t", text)
        assert took < 8000, (text[:10], took)


def test_a_hostile_answer_asks_nobody(p):
    p.one("#new").click()
    p.requests()
    p.say("hostile")
    time.sleep(1)
    assert p.js("return window.hostile") is None and Listener.asked == [], Listener.asked
    urls = p.requests()
    assert urls and all(u.startswith(f"http://127.0.0.1:{BETWEEN}/") for u in urls), urls
    assert not p.all("#talk img, #talk iframe, #talk script, #talk style, #talk svg image, #talk link, #talk meta, #talk base, #talk [onerror]")
    links = p.all("#talk .markdown a")
    assert len(links) >= 6, len(links)
    for a in links:
        assert a.get_attribute("href").startswith(ELSEWHERE), a.get_attribute("href")
        assert {"noopener", "noreferrer"} <= set(a.get_attribute("rel").split()), a.get_attribute("rel")
    for n in p.all("#talk .no-link"):
        p.js("arguments[0].click()", n)
    assert p.js("return window.hostile") is None
    assert "<script>window.hostile = 1;" in p.answers()[-1]
    good = [a for a in links if a.text == "good"][0]
    p.js("arguments[0].scrollIntoView()", good)
    good.click()
    p.until(lambda: Listener.asked)
    path, headers = Listener.asked[0]
    assert path == "/good" and "Referer" not in headers, (path, headers)
    Listener.asked.clear()


def test_the_policy_holds(p):
    """Were there a way to make markup, the browser would still ask nobody and run nothing."""
    p.js("window.broken = []; document.addEventListener('securitypolicyviolation', e => broken.push(e.effectiveDirective))")
    p.js("const i = new Image(); i.src = arguments[0]; document.body.append(i); fetch(arguments[0]).catch(() => 0);"
         "const f = document.createElement('iframe'); f.src = arguments[0]; document.body.append(f); setTimeout(() => f.remove(), 500)",
         ELSEWHERE + "/policy")
    p.until(lambda: {"img-src", "connect-src", "frame-src"} <= set(p.js("return broken")))
    assert p.js("try { document.createElement('p').innerHTML = '<b>x</b>'; return 'made' } catch (e) { return e.name }") == "TypeError"
    p.js("const s = document.createElement('style'); s.textContent = 'body{}'; document.head.append(s)")
    assert p.js("try { document.body.setAttribute('onclick', 'hostile=1'); return 'made' } catch (e) { return e.name }") == "TypeError"
    p.until(lambda: any("style" in b for b in p.js("return broken")))
    assert Listener.asked == [] and p.js("return window.hostile") is None


def test_nothing_is_complained_of(p):
    p.load()
    bad = [e for e in p.d.get_log("browser") if e["level"] == "SEVERE" and "temperature" not in e["message"]]
    mine = [e for e in bad if "policy" not in e["message"].lower() and "400" not in e["message"] and "TrustedHTML" not in e["message"]]
    assert not mine, mine


# ---- settings, keys, phones --------------------------------------------------------------------------


def test_settings_are_sent_and_kept(p):
    p.one("#new").click()
    p.one("#show-settings").click()
    for name, value in (("temperature", "0"), ("max_tokens", "7"), ("system", "Tell a story.")):
        p.one("#set-" + name).clear()
        p.one("#set-" + name).send_keys(value)
    assert p.one("#set-top_k").get_attribute("placeholder") != ""
    p.one("#set-done").click()
    p.say("About Tim")
    assert p.one(".assistant .stats").text.startswith("7 tokens")
    body = BODIES[-1]
    assert body["messages"] == [{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "About Tim"}], body
    assert body["temperature"] == 0 and body["max_tokens"] == 7 and not {"top_k", "top_p", "min_p", "seed"} & set(body), body
    p.set(system="")
    p.one('.assistant button[aria-label="Make this answer again"]').click()
    p.until(lambda: p.all(".beside") and not p.running())
    assert BODIES[-1]["messages"] == [{"role": "user", "content": "About Tim"}], BODIES[-1]
    p.load()
    assert p.js("return settings.get('max_tokens')") == "7"


def test_by_keyboard(p):
    p.js("document.activeElement.blur()")
    body = p.one("body")
    body.send_keys("n")
    assert p.one("#welcome").is_displayed()
    p.js("document.activeElement.blur()")
    body.send_keys("l")
    assert p.one("#panel").is_displayed()
    body.send_keys("l")
    body.send_keys("?")
    assert p.one("#keys").is_displayed()
    p.one("#keys").send_keys(Keys.ESCAPE)
    body.send_keys("s")
    assert p.one("#settings").is_displayed()
    p.one("#settings").send_keys(Keys.ESCAPE)
    body.send_keys("/")
    assert p.js("return document.activeElement.id") == "entry"
    unnamed = p.js("return [...document.querySelectorAll('button, input, select, textarea')].filter(n => !(n.getAttribute('aria-label') || n.textContent.trim() || n.closest('label') || n.hidden)).map(n => n.outerHTML)")
    assert not unnamed, unnamed


def test_export_and_import(p):
    text = p.js("return JSON.stringify({corm: 1, talks: [...talks.values()]})")
    path = os.path.join(FOLDER, "import.json")
    with open(path, "w", encoding="utf-8") as f:
        talk = json.loads(text)["talks"][0]
        f.write(json.dumps({"talks": [{**talk, "id": "other", "title": "From a file"}, {"id": 1}, {"id": "x", "nodes": [{}], "leaf": 0}]}))
    before = len(p.all("#talks .open"))
    p.one("#import-file").send_keys(os.path.abspath(path))
    p.until(lambda: len(p.all("#talks .open")) == before + 1)


def test_phone(p):
    p.set(max_tokens="30")
    p.one("#entry").send_keys("Once upon a time")
    p.one("#send").click()
    p.until(lambda: not p.running() and p.answers())
    assert p.js("return document.documentElement.scrollWidth") == 390
    assert not p.one("#side").is_displayed()
    p.one("#show-side").click()
    p.until(lambda: p.one("#side").is_displayed())
    p.js("$('shade').click()")
    p.until(lambda: not p.one("#side").is_displayed())
    p.one("#new") and p.js("open_talk(null)")
    p.one("#entry").send_keys("sample", Keys.ENTER)  # a new line there
    assert p.js("return $('entry').value").strip() == "sample"
    p.one("#send").click()
    p.until(lambda: not p.running() and "Title" in p.answers()[-1])
    assert p.js("return document.documentElement.scrollWidth") == 390
    p.one("#show-panel").click()
    p.until(lambda: p.one("#tiles").text)


def test_key(p):
    p.until(lambda: p.one("#settings").is_displayed())
    assert "asks for an API key" in p.one("#set-error").text
    p.one("#set-key").send_keys("wrong")
    p.one("#set-done").click()
    p.until(lambda: "does not know" in p.one("#set-error").text)
    p.one("#set-key").clear()
    p.one("#set-key").send_keys("a-key")
    p.one("#set-done").click()
    p.until(lambda: p.one("#model").text == "fable")
    p.set(max_tokens="5")
    p.say("Hello")
    assert p.answers()[-1]
    p.js("panel_toggle(true)")
    p.until(lambda: "in all" in p.one("#tiles").text)
    assert p.js("return localStorage.getItem('corm.key')") is None
    p.load()
    p.until(lambda: p.one("#model").text == "fable")


# ---- the panel, on a model whose experts come and go -------------------------------------------------


def test_panel_shows_figures(p):
    p.js("panel_toggle(true)")
    p.until(lambda: p.one("#phase").text == "idle")
    p.say("Once upon a time", wait=False)
    p.until(lambda: p.one("#phase").text == "answering")
    p.until(lambda: float(p.one("#speed").text) > 0)
    look = lambda: p.js("return panel.looks[panel.looks.length - 1]")
    p.until(lambda: look()["experts"]["evictions"] > 0)
    a = look()
    p.until(lambda: look()["work"]["made_tok"] > a["work"]["made_tok"] + 5)
    b = look()
    assert b["experts"]["read_bytes"] > a["experts"]["read_bytes"] and b["experts"]["hits"] > a["experts"]["hits"]
    assert b["experts"]["stall_s"] >= a["experts"]["stall_s"] and b["memory"]["streams"]
    assert len(b["map"]) == 16 and all(len(r["held"]) == 64 and "0" in r["held"] for r in b["map"])
    assert any(a["map"][i]["held"] != b["map"][i]["held"] for i in range(16))
    assert sum(c != "0" for r in b["map"] for c in r["held"]) > 16 * 8
    assert any("0" in r["age"] for r in b["map"])
    colours = p.js("const c = $('map'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, s = new Set();"
                   "for (let i = 0; i < d.length; i += 4) s.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]); return s.size")
    assert colours > 3, colours
    assert "/s" in p.one("#tiles").text and " of 1,024" in p.one("#map-sum").text, p.one("#map-sum").text
    assert "useful" in p.one("#guess-sum").text or "none yet" in p.one("#guess-sum").text
    box = p.one("#map")
    webdriver.ActionChains(p.d).move_to_element(box).perform()
    assert p.one("#map-tip").text.startswith(("Layer 7, expert 3", "Layer 8, expert 3")), p.one("#map-tip").text


def test_stop_frees_the_server(p):
    p.one("#stop").click()
    p.until(lambda: not p.running())
    p.until(lambda: p.one("#phase").text == "idle", 10)
    assert p.js("return panel.looks[panel.looks.length - 1].work.running") == 0


GROUPS = (
    (lambda: Page(BETWEEN), (
        test_talks_streams_and_outlives_a_reload, test_edits_and_makes_again, test_goes_on_with_an_answer, test_stops,
        test_a_reload_keeps_what_has_come, test_two_conversations_at_once, test_errors_are_told, test_thoughts_are_folded,
        test_a_name_a_search_and_removal, test_markdown, test_markdown_is_fast_on_bad_text, test_nothing_is_complained_of,
        test_settings_are_sent_and_kept, test_by_keyboard, test_export_and_import, test_a_hostile_answer_asks_nobody,
        )),
    (lambda: Page(BETWEEN), (test_the_policy_holds,)),
    (lambda: Page(BETWEEN, phone=True), (test_phone,)),
    (lambda: Page(KEYED), (test_key,)),
    (lambda: Page(SHAPE, 1440, 900), (test_panel_shows_figures, test_stop_frees_the_server)),
)
failed = False
for make, tests in GROUPS:
    page = make()
    for run in tests:
        name = run.__name__[5:].replace("_", " ")
        try:
            run(page)
            print("ok", name, flush=True)
        except Exception:
            failed = True
            page.d.save_screenshot(os.path.join(FOLDER, run.__name__ + ".png"))
            print("not ok", name)
            print("".join("# " + line + "\n" for line in traceback.format_exc().split("\n")), flush=True)
    page.close()
sys.exit(failed)
