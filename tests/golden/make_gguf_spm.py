#!/usr/bin/env python3
"""Make gguf_spm.json: a small SentencePiece model as GGUF stores it, and the ids of texts.

    make_gguf_spm.py

It is trained on texts of tokenizers/texts.json. "pieces" are [text, score, type] by id, types as GGUF numbers them;
"rows" are [text, ids] of sentencepiece's encode. Developer-only; needs sentencepiece 0.2.
"""
import io
import json
import pathlib

import sentencepiece as spm

HERE = pathlib.Path(__file__).parent


def texts():
    """What text there is in texts.json, whatever its form."""
    found = []

    def walk(value):
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, (list, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                walk(part)
    walk(json.loads((HERE / "tokenizers" / "texts.json").read_text()))
    held = (HERE / "heldout.txt").read_text()
    return [t for t in found if t and "\0" not in t and "\u2581" not in t and len(t) < 400], held


def main():
    some, held = texts()
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(held.split("\n") + [t for t in some if "\n" not in t]), model_writer=model,
        vocab_size=700, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, character_coverage=0.98, minloglevel=2)
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    kind = lambda i: 6 if sp.is_byte(i) else 3 if sp.is_control(i) else 2 if sp.is_unknown(i) else 1
    pieces = [[sp.id_to_piece(i), sp.get_score(i), kind(i)] for i in range(sp.vocab_size())]
    lines = [line for line in held.split("\n") if line][:120]
    rows = [[t, sp.encode(t)] for t in some + lines + ["  two  spaces ", " ", "\n\n", "caf\u00e9 \u4f60\u597d \U0001f600"]]
    out = HERE / "gguf_spm.json"
    out.write_text(json.dumps({"pieces": pieces, "rows": rows}, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(out, out.stat().st_size, len(rows))


if __name__ == "__main__":
    main()
