"""Write grammars.json: random schemas with valid instances, written compactly, and texts that are not valid.

    python make_grammars.py

Developer-only: needs jsonschema and hypothesis-jsonschema. What is not valid is a valid text that was changed in one
place; those that jsonschema finds valid, or that are only written otherwise (a key in another place, white space), are
not taken.
"""
import json
import pathlib
import random
import re

import jsonschema

import schemas

MOST_BYTES = 160


def spoiled(rng, text, schema):
    """A text that is JSON and not valid, or None."""
    for _ in range(20):
        at = rng.randrange(len(text))
        other = text[:at] + rng.choice(["", rng.choice("0159-.eab\"{}[],:x ntf"), text[at] * 2]) + text[at + 1:]
        try:
            value = json.loads(other)
        except ValueError:
            continue
        if not jsonschema.Draft202012Validator(schema).is_valid(value):
            return other
    return None


def make_row(number):
    """The row of a seed, or None where it is too large or too poor."""
    rng = random.Random(number)
    schema = schemas.schema(rng)
    if "$ref" not in json.dumps({k: v for k, v in schema.items() if k != "$defs"}):
        del schema["$defs"]
    texts, _ = schemas.instances(schema, 40, number)
    texts = [t for t in texts or [] if len(t) <= MOST_BYTES]
    if len(texts) < 2 or len(json.dumps(schema)) > 900:
        return None
    texts = rng.sample(texts, min(5, len(texts)))
    bad = sorted({b for b in (spoiled(rng, t, schema) for t in texts) if b})[:3]
    # A long number may be equal to a bound as a float, which it is not as it is written; and Python's \s has four
    # separators that ECMA's has not.
    bad = [b for b in bad if not re.search(r"[0-9]{15}|\\u001[c-f]", b)]
    return {"schema": schema, "valid": texts, "not": bad}


def main():
    rows, number = [], 0
    while len(rows) < 150:
        number += 1
        row = make_row(number)
        if row:
            rows.append(row)
    path = pathlib.Path(__file__).with_name("grammars.json")
    lines = ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    path.write_text("[\n" + lines + "\n]\n")
    print(len(rows), "schemas,", sum(len(r["valid"]) for r in rows), "valid,", sum(len(r["not"]) for r in rows), "not")


if __name__ == "__main__":
    main()
