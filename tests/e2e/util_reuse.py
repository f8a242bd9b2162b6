"""What corm-serve uses again of an agent's talk: util_reuse.py templates FOLDER writes the chat templates, and
util_reuse.py talk NAME PORT FRESH holds the talk with two servers of that template and a model with recurrent layers;
the second one uses nothing again. Prints `ok NAME` or `not ok NAME` for each check; the status is 1 where one failed."""

import json
import os
import random
import sys
import traceback
import urllib.error
import urllib.request

# What published templates do with thoughts and tools, by family. A control token begins and ends each message.
QUESTION = "{% set ns = namespace(q=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.q = loop.index0 %}{% endif %}{% endfor %}"
BEGIN = "{% if tools %}<|pad|>tools:{{ tools | tojson }}<|pad|>{% endif %}{% for m in messages %}<|pad|>{{ m.role }}:"
THOUGHT = "(thought){{ m.reasoning_content }}(/thought)"
CALLS = "{% for c in m.tool_calls or [] %}(call){{ c.function | tojson }}(/call){% endfor %}"
ANSWER = "<|pad|>assistant:"


def template(thought, before="", content="{{ m.content or '' }}", answer=ANSWER):
    return (before + QUESTION + BEGIN + thought + content + CALLS + "<|pad|>{% endfor %}"
            "{% if add_generation_prompt %}" + answer + "{% endif %}")


HAS = "m.reasoning_content is defined"
TEMPLATES = {
    # Thoughts stay as long as the same question is worked on.
    "since": template("{% if " + HAS + " and loop.index0 > ns.q %}" + THOUGHT + "{% endif %}", answer=ANSWER + "(thought)"),
    # The answer begins with a thought, of which nothing is left later: not even that it began.
    "never": template("", answer=ANSWER + "(thought)"),
    "always": template("{% if " + HAS + " %}" + THOUGHT + "{% endif %}"),
    # Nothing without a question is rendered, and texts lose their blanks.
    "asks": template("{% if " + HAS + " and loop.index0 > ns.q %}" + THOUGHT + "{% endif %}",
                     "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
                     "{{ raise_exception('No user query found') }}{% endif %}", "{{ (m.content or '') | trim }}"),
    # The thought of a call stays, that of an answer does not.
    "calls": template("{% if " + HAS + " and m.tool_calls %}" + THOUGHT + "{% endif %}"),
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Look at a place", "parameters": {
    "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}]


def ask(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    r = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(r, timeout=120) as got:
            return got.read().decode()
    except urllib.error.HTTPError as e:
        raise AssertionError((e.code, e.read())) from None


def metric(port, name):
    return int(next(l.split()[1] for l in ask(port, "/metrics").split("\n") if l.startswith(f"corm_{name} ")))


def ids_of(port, text):
    return json.loads(ask(port, "/tokenize", {"content": text, "parse_special": True}))["tokens"]


class Talk:
    """Rounds of an agent; each ends with what the next one has to compute."""

    def __init__(self, port, fresh, name):
        self.port, self.fresh, self.name = port, fresh, name
        self.messages, self.ends, self.rounds = [], [], []
        self.random = random.Random(5)

    def words(self, n):
        return " ".join("".join(self.random.choice("bcdfg") + self.random.choice("aeiou") for _ in range(2)) for _ in range(n))

    def body(self):
        tools = TOOLS if self.name in ("since", "asks") else []
        return {"messages": self.messages, "chat_template_kwargs": {"tools": tools}}

    def answer(self):
        """One request to both; how many tokens were evaluated, and how many are new since a message's end."""
        text = json.loads(ask(self.port, "/apply-template", self.body()))["prompt"]
        whole, end = ids_of(self.port, text), ids_of(self.port, text[: text.rindex(ANSWER)])
        known = max([len(e) for e in self.ends if whole[: len(e)] == e], default=0)
        before = metric(self.port, "prompt_tokens_total")
        more = {**self.body(), "max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 5}
        got = [json.loads(ask(p, "/v1/chat/completions", more)) for p in (self.port, self.fresh)]
        assert got[0]["choices"] == got[1]["choices"], got
        evaluated = metric(self.port, "prompt_tokens_total") - before
        usage = [g["usage"] for g in got]
        assert usage[1]["prompt_tokens_details"]["cached_tokens"] == 0, usage
        assert usage[0]["prompt_tokens"] == len(whole), (usage, len(whole))
        assert usage[0]["prompt_tokens_details"]["cached_tokens"] == len(whole) - evaluated, (usage, evaluated)
        self.ends += [end, whole]
        self.rounds.append((len(whole), evaluated))
        return evaluated, len(whole) - known, got[0]["choices"][0]["message"]["content"]

    def hold(self):
        self.messages = [{"role": "system", "content": self.words(40)}, {"role": "user", "content": self.words(10)}]
        self.answer()
        for i in range(8):
            thought = self.words(60)
            if i % 4 < 3:
                call = {"id": f"c{i}", "type": "function", "function": {"name": "look", "arguments": '{"at": "%s"}' % self.words(1)}}
                self.messages += [{"role": "assistant", "content": None, "reasoning_content": thought, "tool_calls": [call]},
                                  {"role": "tool", "tool_call_id": f"c{i}", "content": self.words(15)}]
            else:
                self.messages += [{"role": "assistant", "content": self.words(12), "reasoning_content": thought},
                                  {"role": "user", "content": self.words(8)}]
            evaluated, new, _ = self.answer()
            # Less where a piece of a prompt ended behind that end.
            assert new - 64 < evaluated <= new, (i, evaluated, new, self.rounds)
        return self.rounds


def test_rounds(talk):
    """Of each round what is new is evaluated, and its answers are those of a server that evaluates all."""
    rounds = talk.hold()
    print("# " + talk.name + ": evaluated of each prompt: " + ", ".join(f"{e} of {n}" for n, e in rounds))
    # More than this would mean that a message's end was missed where the template goes on from it.
    assert sum(e for _, e in rounds[1:]) < sum(n for n, _ in rounds[1:]) / 2, rounds


def test_again(talk):
    """A prompt that is wholly known has its logits without computing anything."""
    evaluated, _, said = talk.answer()
    assert evaluated == 0 and said, evaluated


def test_system(talk):
    """Another question behind the same system and tools goes on behind these."""
    text = json.loads(ask(talk.port, "/apply-template", talk.body()))["prompt"]
    talk.messages = [talk.messages[0], {"role": "user", "content": talk.words(10)}]
    system = ids_of(talk.port, text[: text.index("<|pad|>user:")])
    talk.ends = [system]
    evaluated, new, _ = talk.answer()
    assert evaluated <= new, (evaluated, new)


def test_goes_on(talk):
    """What was generated and comes back as it was is not evaluated again."""
    if talk.name not in ("always", "calls"):
        return  # it does not come back as it was
    talk.messages += [{"role": "assistant", "content": talk.answer()[2]}, {"role": "user", "content": talk.words(5)}]
    evaluated, new, _ = talk.answer()
    assert evaluated < new - 10, (evaluated, new)


def main():
    if sys.argv[1] == "templates":
        for name, text in TEMPLATES.items():
            with open(os.path.join(sys.argv[2], name + ".jinja"), "w", encoding="utf-8") as f:
                f.write(text)
        print(" ".join(TEMPLATES))
        return 0
    talk = Talk(int(sys.argv[3]), int(sys.argv[4]), sys.argv[2])
    failed = 0
    for test in (test_rounds, test_again, test_system, test_goes_on):
        title = f"reuse, {talk.name}: {test.__doc__.split('.')[0].strip()}"
        try:
            test(talk)
            print("ok", title, flush=True)
        except Exception:  # whatever it is, it is this check's
            failed = 1
            print("not ok", title, flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().split("\n")), end="", flush=True)
    return failed


sys.exit(main())
