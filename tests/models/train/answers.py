"""Ask a converted model what was held out: python answers.py PROGRAMS ARCHIVE HELD_OUT.json OUT.json

PROGRAMS is the folder of corm-prep and corm-run. Each request of dialogues.py is asked, and then what
happens next, another ending and a title, each of the four a turn of its talk. What is sampled is what
`corm-run chat` samples by itself; the seed is the request's number.

The rules say no more than that an answer keeps to what was asked: a story has the name and the thing,
as words; a further part and an ending have one of both and no sentence of the story; a title is short
and has one of both. All end by themselves, in a finished sentence. None says whether it is good.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

MOST = 500      # tokens of an answer
FURTHER = {"next": "What happens next?", "ending": "Give it another ending.",
           "title": "Give it a title."}


class Model:
    def __init__(self, programs, archive):
        self.prep, self.run = (os.path.join(programs, p) for p in ("corm-prep", "corm-run"))
        self.archive = archive

    def answer(self, messages, seed):
        """(text, whether the model ended it itself)"""
        with tempfile.TemporaryDirectory() as folder:
            talk, prompt = os.path.join(folder, "talk.json"), os.path.join(folder, "prompt")
            with open(talk, "w", encoding="utf-8") as f:
                json.dump(messages, f)
            text = subprocess.run([self.prep, "template", self.archive, "-m", talk, "-g"],
                                  check=True, capture_output=True).stdout
            with open(prompt, "wb") as f:
                f.write(text + b"\n")       # one newline at its end does not count
            done = subprocess.run([self.run, self.archive, "-f", prompt, "--no-bos", "--json", "-q",
                                   "-n", str(MOST), "--seed", str(seed)],
                                  check=True, capture_output=True)
        out = json.loads(done.stdout)
        return out["text"], out["ended_by"] == "stop_token"


def has(text, word):
    return bool(re.search(rf"\b{word}(s|es)?\b", text, re.I))


def sentences(text):
    return {s.strip() for s in re.split(r"(?<=[.!?])\s+", text) if len(s) > 25}


def verdicts(asked, said, ended):
    """Rule -> whether it holds, of each answer; `said` and `ended` by kind."""
    out = {}
    for kind, text in said.items():
        text = text.strip()
        name, thing = has(text, asked["name"]), has(text, asked["thing"])
        rules = {"name": name, "thing": thing} if kind == "story" else \
            {"name or thing": name or thing}
        if kind == "title":
            rules["short"] = 0 < len(text.split()) <= 8 and "\n" not in text
        else:
            rules["finished"] = text[-1:] in tuple('.!?"\'')
        if kind in ("next", "ending"):
            rules["nothing twice"] = not sentences(text) & sentences(said["story"])
        out[kind] = rules | {"ended": ended[kind]}
    return out


def talk(model, asked, seed):
    messages = [{"role": "user", "content": asked["request"]}]
    said, ended = {}, {}
    for kind in ("story", *FURTHER):
        if kind in FURTHER:
            messages.append({"role": "user", "content": FURTHER[kind]})
        said[kind], ended[kind] = model.answer(messages, seed)
        messages.append({"role": "assistant", "content": said[kind]})
    return said, verdicts(asked, said, ended)


def summary(rows):
    """kind -> rule -> in how many talks it holds; `all` of a kind's rules together."""
    out = {}
    for kind in rows[0]["verdicts"]:
        held = [r["verdicts"][kind] for r in rows]
        out[kind] = {rule: sum(v[rule] for v in held) for rule in held[0]}
        out[kind]["all"] = sum(all(v.values()) for v in held)
    return out


def main():
    programs, archive, held_out, out = sys.argv[1:]
    with open(held_out, encoding="utf-8") as f:
        requests = json.load(f)
    model, rows = Model(programs, archive), []
    for seed, asked in enumerate(requests, 1):
        said, verdict = talk(model, asked, seed)
        rows.append(asked | {"said": said, "verdicts": verdict})
        missing = [f"{kind}: {rule}" for kind, rules in verdict.items()
                   for rule, good in rules.items() if not good]
        print(f"{asked['request']:55} {'keeps' if not missing else 'not ' + ', '.join(missing)}",
              flush=True)
    print(json.dumps(summary(rows)))
    with open(out, "w", encoding="utf-8") as f:
        json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
