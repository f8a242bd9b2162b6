"""Compare the template interpreter with jinja2 on published chat templates.

    tests/golden/templates.py BUILD/tests/format/text/test_template FOLDER [FOLDER...]

Developer-only: needs jinja2 (3.1). Renders each *.jinja below the folders with many conversations, by jinja2
set up as transformers does it and by ours, and compares byte for byte; where one fails, the other has to fail too,
and what a template refuses itself has to be told in its own words. Prints each difference and the counts; the exit
status is 1 where there is a difference.

Folders of templates are not part of the project. Many are in the source distribution of llama-cpp-python, in
vendor/llama.cpp/models/templates:

    pip download --no-binary llama-cpp-python --no-deps llama-cpp-python
"""
import copy
import datetime
import itertools
import json
import pathlib
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2024, 7, 26, 9, 8, 7)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _support(self, context, caller):
        return caller()


class Refused(jinja2.exceptions.TemplateError):
    """What a template refuses by raise_exception."""


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)


class Space(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            Space.check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        Space.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def refuse(message):
    raise Refused(message)


def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda how: NOW.strftime(how)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Space
    return env


ENV = environment()
COMPILED = {}


def by_jinja(template, context):
    """("text", text), ("refused", message) or ("error", message)."""
    try:
        if template not in COMPILED:
            COMPILED[template] = ENV.from_string(template)
        text = COMPILED[template].render(**copy.deepcopy(context))
        text.encode()
        return "text", text
    except Refused as e:
        return "refused", str(e.message)
    except RecursionError:
        raise
    except Exception as e:  # whatever Python has
        return "error", f"{type(e).__name__}: {e}"


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def render(self, template, context):
        self.process.stdin.write(json.dumps({"template": template, "context": context}) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        if "text" in reply:
            return "text", reply["text"]
        return "error", reply["error"]


def same(a, b):
    if a[0] == "refused":
        words = "".join("?" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in a[1])
        return b[0] == "error" and "the template refuses: " in b[1] and words[:800] in b[1]
    return a[0] == b[0] and (a[0] == "error" or a[1] == b[1])


# ---- conversations -------------------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather: \"now\" & <soon>, à Zürich",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name"},
                    "days": {"type": "integer", "description": "How many days", "default": 3},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "places": {"type": "array", "items": {"type": "string"}},
                    "nested": {
                        "type": "object",
                        "properties": {"a": {"type": ["number", "null"]}, "b": {"type": "boolean"}},
                        "required": ["a"],
                    },
                },
                "required": ["city", "days"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "nothing",
            "description": "Takes nothing.\nTwo lines.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
ODD_TOOLS = [
    {"type": "function", "function": {"name": "bare"}},
    {"type": "function", "function": {"name": "x", "description": "", "parameters": {"type": "object", "properties": {
        "any": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "ref": {"$ref": "#/$defs/A"}}, "$defs": {
            "A": {"type": "string"}}, "additionalProperties": False}, "strict": True}},
]


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, id="call00001"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You are helpful."}
ASK = user("What is 2 + 2?")
CALL = assistant(
    "", tool_calls=[call("get_weather", {"city": "Zürich \"ZH\"", "days": 2, "deep": {"a": [1, 2.5, None, True]}})]
)
CALL_NULL = assistant(None, tool_calls=[call("get_weather", {"city": "Bern"})])
CALL_TEXT = assistant("Let me see.", tool_calls=[call("get_weather", "{\"city\": \"Bern\"}", "abcdefghi")])
TWO_CALLS = assistant(
    "", tool_calls=[call("get_weather", {"city": "A"}, "aaaaaaaaa"), call("nothing", {}, "bbbbbbbbb")]
)
BARE_CALL = assistant("", tool_calls=[{"name": "nothing", "arguments": {"x": 1}}])
RESULT = {"role": "tool", "content": "{\"sky\": \"blue\"}", "name": "get_weather", "tool_call_id": "call00001"}
RESULT2 = {"role": "tool", "content": "sunny\n", "name": "nothing", "tool_call_id": "bbbbbbbbb"}
RESULT_PARTS = {"role": "tool", "content": [{"type": "text", "text": "rain"}], "tool_call_id": "call00001"}
RESULT_DICT = {"role": "tool", "content": {"sky": "blue", "n": [1, 2]}, "name": "get_weather"}
THOUGHT = assistant("Four.", reasoning_content="Two and two\nare four.")
THINKING = assistant("Four.", thinking="hmm", reasoning_content="hmm")
INLINE = assistant("<think>\nhm, 2\n</think>\n\nFour.")
PARTS = user([{"type": "text", "text": "Look: "}, {"type": "text", "text": "here"}])
IMAGE = user([{"type": "image"}, {"type": "text", "text": "What is this?"}])
IMAGE_URL = user([{"type": "image_url", "image_url": {"url": "http://a/b.png"}}, {"type": "text", "text": "?"}])
DEVELOPER = {"role": "developer", "content": "Be terse."}

CONVERSATIONS = {
    "empty": [],
    "user": [ASK],
    "system": [SYSTEM, ASK],
    "only system": [SYSTEM],
    "turns": [SYSTEM, ASK, assistant("4"), user("And 3?"), assistant("5"), user("Thanks")],
    "answered": [ASK, assistant("4")],
    "lines": [user("  one\n\ntwo\r\n\tthree  \n"), assistant("\n\n a\nb \n"), user("\n")],
    "non-ASCII": [{"role": "system", "content": "Ünïcödé"}, user("日本語 😀 \u00a0\u200b é"), assistant("ça\u2028va ‮"),
                  user("ok\u0000?")],
    "markup": [user("<b>&\"'</b> {{ x }} {% y %} <|im_end|> </s> [INST]"), assistant("`a` <think>x"), user("\\n")],
    "blank": [user(""), assistant(""), user(" ")],
    "call": [SYSTEM, ASK, CALL, RESULT],
    "call answered": [SYSTEM, ASK, CALL, RESULT, assistant("It is blue."), user("Thanks")],
    "null call": [ASK, CALL_NULL, RESULT],
    "text call": [ASK, CALL_TEXT, {**RESULT, "tool_call_id": "abcdefghi"}, assistant("Fine.")],
    "two calls": [ASK, TWO_CALLS, {**RESULT, "tool_call_id": "aaaaaaaaa"}, RESULT2, assistant("So.")],
    "calls twice": [ASK, CALL, RESULT, TWO_CALLS, {**RESULT, "tool_call_id": "aaaaaaaaa"}, RESULT2],
    "bare call": [ASK, BARE_CALL, RESULT2],
    "parts result": [ASK, CALL, RESULT_PARTS],
    "dict result": [ASK, CALL, RESULT_DICT],
    "thought": [ASK, THOUGHT, user("And 3?")],
    "thought last": [ASK, THOUGHT],
    "thinking": [ASK, THINKING, user("go on"), THINKING, user("more")],
    "thought call": [ASK, {**CALL, "reasoning_content": "I need the weather."}, RESULT, THOUGHT, user("ok")],
    "thought empty": [ASK, assistant("x", reasoning_content=""), user("y")],
    "inline": [ASK, INLINE, user("And 3?")],
    "inline last": [ASK, CALL, RESULT, INLINE],
    "parts": [{"role": "system", "content": [{"type": "text", "text": "Be good."}]}, PARTS,
              assistant([{"type": "text", "text": "ok"}]), user("x")],
    "image": [IMAGE],
    "image url": [IMAGE_URL, assistant("A cat."), IMAGE],
    "developer": [DEVELOPER, ASK],
    "system twice": [SYSTEM, ASK, assistant("4"), {"role": "system", "content": "Now rhyme."}, user("go")],
    "two users": [ASK, user("Well?")],
    "assistant first": [assistant("Hello!"), ASK],
    "strange role": [{"role": "narrator", "content": "Once"}, ASK],
    "no content": [{"role": "user"}],
    "number": [user(42), assistant(3.5), user(True)],
    "empty parts": [user([]), assistant([]), user("x")],
    "empty calls": [ASK, assistant("x", tool_calls=[]), user("y")],
    "no arguments": [ASK, assistant("", tool_calls=[call("nothing", {})]), RESULT2],
    "prefix": [ASK, assistant("It is", prefix=True)],
    "name": [user("hi", name="Ann"), assistant("hello", name="Bot"), user("bye", name="Ann")],
    "long": list(itertools.chain(*[[user(f"q{i}"), assistant(f"a{i}", reasoning_content=f"r{i}")] for i in range(12)])),
}

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SETTINGS = {
    "plain": {},
    "prompt": {"add_generation_prompt": True},
    "no prompt": {"add_generation_prompt": False, **TOKENS},
    "tools": {"add_generation_prompt": True, "tools": TOOLS, **TOKENS},
    "odd tools": {"add_generation_prompt": True, "tools": ODD_TOOLS, **TOKENS},
    "no tools": {"add_generation_prompt": True, "tools": None, "documents": None, **TOKENS},
    "empty tools": {"tools": [], "documents": [], **TOKENS},
    "thinking": {"add_generation_prompt": True, "enable_thinking": True, "thinking": True, **TOKENS},
    "no thinking": {"add_generation_prompt": True, "enable_thinking": False, "thinking": False, **TOKENS},
    "effort": {"add_generation_prompt": True, "reasoning_effort": "high", "tools": TOOLS, "builtin_tools": ["python",
               "browser"], "model_identity": "You are a test.", "thinking_budget": 512, **TOKENS},
    "documents": {"add_generation_prompt": True, "documents": [{"title": "T", "text": "One."}, {"title": "U",
                  "text": "Two\nlines."}], **TOKENS},
    "date": {"add_generation_prompt": True, "date_string": "1 Jan 2030", "custom_tools": TOOLS, "preserve_thinking":
             True, "clear_thinking": False, "xml_tools": TOOLS, "keep_past_thinking": True, **TOKENS},
}


def main():
    ours = Ours(sys.argv[1])
    files = sorted(f for folder in sys.argv[2:] for f in pathlib.Path(folder).rglob("*.jinja"))
    n, differ, texts, bad = 0, 0, 0, set()
    for file in files:
        template = file.read_bytes().decode()
        rendered = 0
        for (name, messages), (setting, more) in itertools.product(CONVERSATIONS.items(), SETTINGS.items()):
            context = {"messages": messages, **more}
            a, b = by_jinja(template, context), ours.render(template, context)
            n += 1
            rendered += a[0] == "text"
            if not same(a, b):
                differ += 1
                bad.add(file.name)
                print(f"not ok {file.name}: {name}, {setting}")
                print(f"    jinja2: {a[0]} {a[1]!r}"[:600])
                print(f"    ours:   {b[0]} {b[1]!r}"[:600])
        texts += rendered
        print(f"   {file.name}: {rendered} texts")
    print(f"{len(files)} templates, {n} renderings, {texts} of them texts: {differ} differ, in {len(bad)} templates")
    return differ != 0 or not files


if __name__ == "__main__":
    sys.exit(main())
