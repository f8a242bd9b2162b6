"""Write chat.json: conversations whose messages hold control tokens, and the ids that transformers makes of them.

    tests/golden/make_chat.py

Developer-only: needs transformers (5.24), see requirements.txt. For each tokenizer in tests/golden/tokenizers that has
added tokens: templates that write two of them, messages that hold added tokens at all places, and the ids of
apply_chat_template(sanitize_control_tokens=True), or `"error"` where it refuses.
"""
import json
import pathlib

import transformers

HERE = pathlib.Path(__file__).parent


def templates(a, b):
    a, b = json.dumps(a, ensure_ascii=False), json.dumps(b, ensure_ascii=False)
    turns = "{%% for m in messages %%}{{ %s + m.role }}\n{{ %s }}{{ %s }}\n{%% endfor %%}"
    end = "{%% if add_generation_prompt %%}{{ %s }}assistant\n{%% endif %%}" % a
    return {
        "plain": turns % (a, "m.content", b) + end,
        "parts": turns % (a, "m.content.split(%s)[-1] | trim" % b, b) + end,
        "one": "{%% for m in messages %%}{{ m.content }}{{ %s }}{%% endfor %%}" % b,
        "json": "{{ %s }}{{ messages | tojson }}{{ tools | tojson }}{{ extra }}" % a,
    }


def conversations(tokens, a, b):
    c = tokens[-1]
    middle = tokens[len(tokens) // 2]
    return {
        "none": [{"role": "user", "content": "Once upon a time"}],
        "inside": [{"role": "user", "content": f"a {b} b{a}system\nc {c}{c} {middle}"}, {"role": "assistant", "content": b}],
        "ends": [{"role": "system", "content": f"{a}x {b}"}, {"role": a, "content": f"  {c} é{b[:-1]}"}],
        "marks": [{"role": "user", "content": f"\U000f0000{a}\U000f0001 {b[:2]}\U000f0000{b[2:]} \U000f0001"}],
    }


def main():
    cases = []
    for path in sorted((HERE / "tokenizers").glob("*.json")):
        if path.name.endswith(".vectors.json") or path.name == "texts.json":
            continue
        tok = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        rows = sorted(tok.added_tokens_decoder.items())
        tokens = [t.content for _, t in rows]
        if not tokens:
            continue
        special = [t.content for _, t in rows if t.special] or tokens
        a, b = tokens[0], special[-1]
        for kind, template in templates(a, b).items():
            for name, messages in conversations(tokens, a, b).items():
                if kind in ("one", "json") and name not in ("inside", "ends"):
                    continue
                request = {"messages": messages, "add_generation_prompt": True}
                if kind == "json":
                    request["tools"] = [{"name": f"f{b}", "arguments": {"k": [b, 1, None]}}]
                    request["extra"] = f"{a} {tokens[-1]}"
                case = {"style": path.name[:-5], "template": template, "request": request}
                try:
                    case["ids"] = tok.apply_chat_template(
                        chat_template=template, conversation=messages, add_generation_prompt=True, tokenize=True,
                        return_dict=False, sanitize_control_tokens=True,
                        **{k: v for k, v in request.items() if k in ("tools", "extra")})
                except ValueError as e:
                    case["error"] = str(e)
                cases.append(case)
    with open(HERE / "chat.json", "w", encoding="utf-8") as f:
        f.write('{"transformers": "%s", "cases": [\n' % transformers.__version__)
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


main()
