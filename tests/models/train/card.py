"""Measure an exported model and write its card: python card.py CHECKPOINT DATA TOKENIZER_DIR OUT

All figures are of the bf16 weights as exported, computed in fp32.
"""
import argparse
import json
import math
import os

import torch
from tokenizers import Tokenizer

import evaluate
import model

PROMPT = "Once upon a time"
SEEDS = (1, 2, 3)
FIRST_FABLE = (2.855, 3.313)    # the model these replace, by the same program

CARD = """---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
tags:
- mixture-of-experts
- tiny-stories
datasets:
- roneneldan/TinyStories
---
# {name}

{what} It tells children's stories. It was trained from scratch for CORM, so that conversion, routing, prediction, caching and quality can be tried on weights that training has shaped.

| | |
|---|---|
| architecture | `{arch}`: {layers} layers, dim {dim}, {heads} heads ({kv_heads} KV, head_dim {head_dim}){qk}, {experts} experts top-{top_k}, ffn {ffn}, SiLU, RMSNorm, RoPE, untied head |
| parameters | {total:.2f} M, {active:.2f} M active a token; bf16, {files} |
| tokenizer | byte-level BPE, 4,096 tokens (GPT-2 pattern), `<\\|endoftext\\|>` = 0 is BOS and EOS; the same for `fable` and `fable-fine` |
| trained on | {tokens:.1f} M tokens in windows of 256, near the end 512 (`max_position_embeddings` is {positions}, but nothing longer than 512 was seen) |
| training | {minutes:.0f} minutes, one low-priority thread on a busy two-core CPU with AMX (PyTorch, bf16 with fp32 masters), {steps} steps of 12,288 tokens; Muon for matrices and Adam for the rest, load-balancing loss 0.01 a layer, 0.03 near the end after starved experts of layer 0 had been woken (`rebalance.py`; once more on the finished weights of `fable`, which cost 0.003 nats); `tests/models/train` has the recipe |

## Data and licences

Four sources, separated by `<|endoftext|>`; the text itself is not in the project.

- TinyStories (2,842 stories): CDLA-Sharing-1.0.
- 868 synthetic fables: an MIT repository with outputs of models under Apache-2.0 and MIT.
- 677 picture books of African Storybook and Pratham Books (by way of Global Storybooks): CC BY 3.0 and 4.0.
- About 330 children's books, fairy tales and readers of 1860-1928: public domain in the United States.

The first three ("modern", 1.45 M tokens) made 25 to 40 % of the windows at first and 60 to 70 % at the end, the books the rest. The weights are under Apache-2.0 (LICENSE).

## Held out

Cross-entropy in nats a token on held-out stories, fables and picture books (`valid.txt`), in windows of 256 tokens, no BOS put in front:

| | cross-entropy | perplexity | bits a byte | first fable, cross-entropy |
|---|---|---|---|---|
| first 16,384 tokens (stories) | {ce_first:.3f} | {ppl_first:.2f} | | {old_first} (2.862 by its card) |
| all {n_valid:,} tokens | {ce_all:.3f} | {ppl_all:.2f} | {bpb:.3f} | {old_all} |

The tokenizer is that of the first fable, so the figures compare.

## Expert load

Share of the choices on the same held-out text, 1 = fair. The lowest of all is {lowest:.2f}.

| layer | least | quartiles | most |
|---|---|---|---|
{loads}

## Samples

"{prompt}" at temperature 0.7, seeds {seeds}, up to 220 tokens:

{samples}

## Chat template

The model knows no conversations. The template writes the messages as paragraphs, one after the other, for the model to go on from.

## Not for

Anything but testing. It knows nothing of the world, it contradicts itself within a page, part of its books carry the views of their time, and nobody should rely on a word of it.
"""

WHAT = {
    "fable": "A small sparse mixture-of-experts language model with few, fat experts.",
    "fable-fine": "A small sparse mixture-of-experts language model with many thin experts.",
}


def quartiles(row):
    row = row.sort().values
    q = [torch.quantile(row, f).item() for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return q[0], " / ".join(f"{x:.2f}" for x in q[1:4]), q[4]


def main():
    a = argparse.ArgumentParser()
    for name in ("checkpoint", "data", "tokenizer", "out"):
        a.add_argument(name)
    a.add_argument("--valid-bytes", type=int, default=131495, help="of valid.txt")
    args = a.parse_args()
    saved = torch.load(args.checkpoint)
    c = model.CONFIGS[saved["args"]["model"]]
    params = {n: p.bfloat16().float() for n, p in saved["masters"].items()}
    tok = Tokenizer.from_file(os.path.join(args.tokenizer, "tokenizer.json"))

    valid = evaluate.stream(args.data, "valid")
    losses, loads = evaluate.held_out(c, params, valid)
    first, whole = losses[:16384 // 256].mean().item(), losses.mean().item()
    start = tok.encode(PROMPT).ids
    samples = []
    for seed in SEEDS:
        text = tok.decode(evaluate.sample(c, params, start, 220, 0.7, seed))
        samples.append("> " + text.replace("\n", "\n>\n> "))
    table = [f"| {i} | {low:.2f} | {mid} | {high:.2f} |"
             for i, (low, mid, high) in enumerate(map(quartiles, loads))]
    total, active = model.counts(c)
    card = CARD.format(
        **vars(c) | {"arch": "MixtralForCausalLM" if c.arch == "mixtral" else "Qwen3MoeForCausalLM"},
        what=WHAT[c.name], qk=", QK-norm" if c.qk_norm else "", total=total / 1e6,
        active=active / 1e6, files="two shards with an index" if c.name == "fable" else "one file",
        tokens=saved["tokens"] / 1e6, positions=c.max_positions, steps=saved["step"],
        minutes=saved["seconds"] / 60, ce_first=first, ppl_first=math.exp(first), ce_all=whole,
        ppl_all=math.exp(whole), bpb=whole / math.log(2) * len(valid) / args.valid_bytes,
        old_first=FIRST_FABLE[0], old_all=FIRST_FABLE[1], n_valid=len(valid),
        lowest=loads.min().item(), loads="\n".join(table), prompt=PROMPT,
        seeds=", ".join(map(str, SEEDS)), samples="\n\n---\n\n".join(samples))
    with open(os.path.join(args.out, "README.md"), "w", encoding="utf-8") as f:
        f.write(card)
    print(json.dumps({"first": first, "all": whole, "lowest load": loads.min().item(),
                      "highest load": loads.max().item()}))


if __name__ == "__main__":
    main()
