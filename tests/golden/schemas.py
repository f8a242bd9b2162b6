"""Random JSON schemas of what the grammar supports, with instances of them.

Shared by make_grammars.py and grammars.py. Properties are named by NAMES and stand in that order, so that an instance
whose keys are sorted so is in the order of its schema, which is the order that grammars ask for.
"""
import json
import re

import jsonschema
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException
from hypothesis_jsonschema import from_schema

NAMES = ["a", "b", "key", "long name", "q\"\\", "\u00e9"]
PATTERNS = ["^[a-c]{2,5}$", "ab", "^x+y?$", "[0-9]{3}", "^(foo|bar)(-[a-z]+)*$", "^[^\"]*$", "^\\S+ \\S+$", "q|^w.$"]
FORMATS = ["date", "ipv4", "uuid", "date-time"]
DIGITS = 24


def schema(rng, depth=0, root=True):
    """A schema that random.Random `rng` draws."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    if depth < 3:
        kinds += ["object", "object", "object", "array", "array", "anyOf", "allOf", "types"] * 2
    if not root:
        kinds += ["ref"]
    kind = rng.choice(kinds)
    made = globals()["make_" + kind](rng, depth)
    if root:
        made = {**made, "$defs": {"node": {
            "type": "object", "required": ["a"], "additionalProperties": False,
            "properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}}
    return made


def inner(rng, depth):
    return schema(rng, depth + 1, root=False)


def make_string(rng, depth):
    s = {"type": "string"}
    kind = rng.randrange(5)
    if kind == 0:
        s["minLength"] = rng.randrange(3)
        s["maxLength"] = s["minLength"] + rng.randrange(6)
    elif kind == 1:
        s["pattern"] = rng.choice(PATTERNS)
    elif kind == 2:
        s["format"] = rng.choice(FORMATS)
    elif kind == 3:
        s["pattern"] = rng.choice(PATTERNS)
        s["maxLength"] = 12
    return s


def make_integer(rng, depth):
    s = {"type": "integer"}
    low = rng.randrange(-1500, 1500)
    if rng.random() < 0.6:
        s[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.6:
        s[rng.choice(["maximum", "exclusiveMaximum"])] = low + 2 + rng.randrange(10 ** rng.randrange(1, 5))
    return s


def make_number(rng, depth):
    s = {"type": "number"}
    low = rng.choice([0, 0.5, -1.25, rng.randrange(-100, 100), round(rng.uniform(-9, 9), 3)])
    if rng.random() < 0.5:
        s[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.5:
        s[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([0.25, 3, 1000.125])
    return s


def make_boolean(rng, depth):
    return {"type": "boolean"}


def make_null(rng, depth):
    return {"type": "null"}


def make_enum(rng, depth):
    return {"enum": rng.sample(["x", "y z", "\u00fc\n\"", 1, -2.5, None, True, [1, "a"], {"a": []}], rng.randrange(1, 5))}


def make_const(rng, depth):
    return {"const": rng.choice(["only", 7, {"a": 1, "b": [None]}, []])}


def make_types(rng, depth):
    return {"type": rng.sample(["string", "integer", "boolean", "null"], 2)}


def make_ref(rng, depth):
    return {"$ref": "#/$defs/node"}


def make_object(rng, depth):
    names = [n for n in NAMES if rng.random() < 0.5]
    s = {"type": "object", "properties": {n: inner(rng, depth) for n in names},
         "required": [n for n in names if rng.random() < 0.5], "additionalProperties": False}
    if rng.random() < 0.3:
        s["additionalProperties"] = inner(rng, depth)
    return s


def make_array(rng, depth):
    s = {"type": "array", "items": inner(rng, depth)}
    if rng.random() < 0.4:
        s["minItems"] = rng.randrange(3)
        s["maxItems"] = s["minItems"] + rng.randrange(4)
    if rng.random() < 0.3:
        s["prefixItems"] = [inner(rng, depth) for _ in range(rng.randrange(1, 3))]
    return s


def make_anyOf(rng, depth):
    return {"anyOf": [inner(rng, depth) for _ in range(rng.randrange(2, 4))]}


def make_allOf(rng, depth):
    if rng.random() < 0.5:
        return {"allOf": [make_integer(rng, depth), {"maximum": 5000}]}
    return {"allOf": [{"type": "string", "pattern": rng.choice(PATTERNS)}, {"minLength": 2}]}


def sort_keys(v):
    if isinstance(v, dict):
        return {k: sort_keys(v[k]) for k in sorted(v, key=lambda k: (NAMES.index(k) if k in NAMES else len(NAMES), k))}
    return [sort_keys(x) for x in v] if isinstance(v, list) else v


def text_of(v):
    """The compact text, or None where it has what is left out on purpose: longer numbers, exponents where bounds may
    forbid them, and half surrogates."""
    text = json.dumps(sort_keys(v), ensure_ascii=False, separators=(",", ":"))
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    if re.search(r"[0-9]e|NaN|Infinity|[0-9]{%d}|-0(?![.0-9])" % (DIGITS + 1), bare):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def for_hypothesis(s, root, depth=0):
    """The schema as hypothesis-jsonschema knows it: lists of first items in the spelling of draft 7, and what refers
    to itself written out to a depth of two."""
    if isinstance(s, list):
        return [for_hypothesis(x, root, depth) for x in s]
    if not isinstance(s, dict):
        return s
    if "$ref" in s:
        if depth == 2:
            return {"type": "object", "properties": {"a": {"const": 0}}, "required": ["a"],
                    "additionalProperties": False}
        return for_hypothesis(root["$defs"]["node"], root, depth + 1)
    s = {k: v if k in ("enum", "const") else for_hypothesis(v, root, depth) for k, v in s.items() if k != "$defs"}
    if "properties" in s and s.get("additionalProperties"):
        # An additional key by one of the names would be sorted in front of those of the schema.
        s["properties"] = {**s["properties"], **{n: False for n in NAMES if n not in s["properties"]}}
    if "prefixItems" in s:
        s["items"], s["additionalItems"] = s.pop("prefixItems"), s["items"]
    return s


def instances(s, n, number):
    """Up to `n` compact texts that are valid, and how many were left out; None where none is found."""
    texts, left_out = [], [0]
    checker = jsonschema.Draft202012Validator(s, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

    @seed(number)
    @settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(from_schema(for_hypothesis(s, s)))
    def collect(v):
        text = text_of(v)
        if not checker.is_valid(v):
            return  # a format that it does not know
        if text is None or len(text) > 400:
            left_out[0] += 1
        elif text not in texts:
            texts.append(text)

    try:
        collect()
    except HypothesisException as e:  # a schema without a value, or none that is found
        return None, type(e).__name__
    return texts, left_out[0]
