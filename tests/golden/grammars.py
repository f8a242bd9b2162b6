"""Compare grammars of JSON schemas with jsonschema, hypothesis-jsonschema and llguidance.

    tests/golden/grammars.py BUILD/tests/format/text/test_grammar [SCHEMAS] [SEED]

Developer-only: needs jsonschema, hypothesis-jsonschema 0.23 with hypothesis 6.135 (it uses what later ones have
renamed) and llguidance. For each of 500 random schemas (schemas.py): valid instances, written compactly, have to be
allowed; texts drawn by masks have to be valid; and along one instance the masks are compared with llguidance's over the
same vocabulary. What differs there on purpose (longer numbers, how characters may be escaped) is counted apart. Prints
the counts; the exit status is 1 where there is a difference.
"""
import collections
import json
import random
import subprocess
import sys

import jsonschema
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

import schemas

# The vocabulary of `test_grammar serve`: bytes, words, and three added tokens, of which the last one ends a text.
WORDS = ["{\"", "\":", "\": ", "\",", ", \"", "\"}", "[", "]", "the", " a", "true", "false", "null", "12", "-1", "0.5",
         "ab", "name"]
TOKENS = [bytes([i]) for i in range(256)] + [w.encode() for w in WORDS] + [b"\xe4\xb8", b"\xad", "\U0001f600".encode()]
TOKENS += [b"\xff<think>", b"\xff</think>", b"\xff<end>"]
END = len(TOKENS) - 1


class Vocabulary:
    eos_token_id = END
    bos_token_id = None
    tokens = TOKENS
    special_token_ids = [END - 2, END - 1, END]

    def __call__(self, text):
        return ids_of(text if isinstance(text, bytes) else text.encode())


def ids_of(data):
    ids = []
    while data:
        best = max((i for i in range(END - 2) if data.startswith(TOKENS[i])), key=lambda i: (len(TOKENS[i]), -i))
        ids.append(best)
        data = data[len(TOKENS[best]):]
    return ids


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline().decode(errors="replace"))


def their_masks(tokenizer, schema, ids):
    """The allowed ids in front of each id and behind the last, or why there are none."""
    options = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    grammar = LLMatcher.grammar_from_json_schema(json.dumps({**schema, "x-guidance": options}))
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        return matcher.get_error()
    masks = []
    for i in ids + [None]:
        bits = matcher.compute_bitmask()
        masks.append({t for t in range(len(TOKENS)) if bits[t // 8] >> t % 8 & 1})
        if i is None or not matcher.consume_token(i):
            break
    return masks


def inside_string(text):
    inside = escaped = False
    for c in text:
        if inside and escaped:
            escaped = False
        elif inside and c == "\\":
            escaped = True
        elif c == "\"":
            inside = not inside
    return inside


def compare(ours, theirs, ids, counts, show):
    """Count how the masks compare; what differs for known reasons by its name."""
    for i, (a, b) in enumerate(zip(ours, theirs)):
        # Of tokens with the same bytes theirs allow one.
        a, b = {TOKENS.index(TOKENS[t]) for t in a}, {TOKENS.index(TOKENS[t]) for t in b}
        counts["masks"] += 1
        before = b"".join(TOKENS[t] for t in ids[:i]).decode(errors="replace")
        if a == b:
            counts["masks equal"] += 1
            continue
        more, less = a - b, b - a
        if len(b) == 1 and not less and all(TOKENS[min(b)].startswith(TOKENS[t]) for t in more):
            counts["masks of a forced text, of which theirs allow the longest token alone"] += 1
            continue
        if inside_string(before) or any(b"\\" in TOKENS[t] or b"\x7f" in TOKENS[t] for t in more | less):
            counts["masks that differ inside of strings"] += 1
            what = (before[-30:] if ord("\"") in less else "", sorted(TOKENS[t] for t in more)[:4],
                    sorted(TOKENS[t] for t in less)[:4])
            counts["    %s ours more %s, less %s" % what] += 1
        elif before and before[-1] in "0123456789-+.eE":
            counts["masks that differ inside of numbers"] += 1
        else:
            counts["masks that differ elsewhere"] += 1
            what = (before[-30:], sorted(TOKENS[t] for t in more)[:6], sorted(TOKENS[t] for t in less)[:6])
            counts["    behind %r: ours more %s, less %s" % what] += show


def main():
    program, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    ours, counts, wrong = Ours(program), collections.Counter(), 0
    tokenizer = LLTokenizer(TokenizerWrapper(Vocabulary()))
    for number in range(first, first + n):
        rng = random.Random(number)
        schema = schemas.schema(rng)
        texts, left_out = schemas.instances(schema, 30, number)
        counts["schemas"] += 1
        if texts is None:
            counts["schemas without instances of hypothesis (%s)" % left_out] += 1
            texts, left_out = [], 0
        counts["instances left out (long numbers, exponents)"] += left_out
        answer = ours.ask(schema=schema, texts=texts, walks=10, seed=number, compact=True)
        if "error" in answer:
            if "can never end" in answer["error"] and not texts:
                counts["schemas that have no value"] += 1
            else:
                wrong += 1
                print(f"schema {number}: {answer['error']}\n    {json.dumps(schema)}")
            continue
        for text, has in zip(texts, answer["has"]):
            counts["valid instances"] += 1
            if not has:
                wrong += 1
                print(f"schema {number}: not allowed: {text}\n    {json.dumps(schema)}")
        walks = answer["walks"] + ours.ask(schema=schema, walks=10, seed=number + 1)["walks"]
        for text in walks:
            counts["drawn texts"] += 1
            try:
                jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                                    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            except Exception as e:
                wrong += 1
                print(f"schema {number}: drawn, and not valid: {text!r}\n    {str(e).splitlines()[0]}\n    "
                      f"{json.dumps(schema)}")
        for text in texts[:2]:
            ids = ids_of(text.encode())
            theirs = their_masks(tokenizer, schema, ids)
            if isinstance(theirs, str):
                counts["schemas that llguidance refuses"] += 1
                break
            compare(ours.ask(schema=schema, ids=ids, compact=True)["masks"], theirs, ids, counts, 1)
    for name, count in counts.items():
        if count > 0 and (not name.startswith("    ") or "-v" in sys.argv):
            print(f"{name}: {count}")
    print(f"{wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
