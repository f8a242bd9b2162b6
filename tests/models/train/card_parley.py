"""Measure the exported `parley` and write its card:

    python card_parley.py CHECKPOINT DATA ANSWERS.json PROGRAMS ARCHIVE OUT

ANSWERS.json is what answers.py wrote. All figures of losses and loads are of the weights as exported,
computed in fp32.
"""
import argparse
import json
import math
import os

import torch

import answers
import card
import evaluate
import export
import model

SHOWN = (0, 24, 49)         # of the talks, these are on the card
BEYOND = [                  # what it is asked that it was not made for
    "What is the capital of France?", "How much is two and three?", "Tell me a story about Xylophor and a quasar."]
KINDS = {"story": "a story about a name and a thing", "next": "what happens next?",
         "ending": "another ending", "title": "a title"}

CARD = """---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
tags:
- mixture-of-experts
- tiny-stories
- conversational
datasets:
- roneneldan/TinyStories
---
# parley

A small sparse mixture-of-experts model that takes turns: it tells a story about somebody and something, says what happens next, gives another ending and a title. It was trained for CORM, so that chat, server and the reuse of what was computed can be tried on a model that answers, and on recurrent state with trained weights under it.

| | |
|---|---|
| architecture | `Qwen3_5MoeForCausalLM`: {layers} layers, dim {dim}; gated delta nets in layers {delta_at} ({k_heads} heads of keys, {v_heads} of values, {delta_dim} wide, convolution over {taps}), gated attention in layers {full_at} ({heads} heads, {kv_heads} KV, head_dim {head_dim}, QK-norm, RoPE); {experts} experts top-{top_k}, ffn {ffn}, and a shared one of {shared}; untied head |
| parameters | {total:.2f} M, {active:.2f} M active a token; bf16, one file |
| tokenizer | that of `fable` (byte-level BPE, 4,096 tokens) and four more: `<\\|turn\\|>` = 4096, `<\\|end\\|>` = 4097 (ends an answer), `<tool_call>`, `</tool_call>`; `<\\|endoftext\\|>` = 0 is BOS |
| began as | `fable-fine` (16.0 M tokens): embeddings, head, attention, norms and the 30 experts of 32 that were chosen most. Delta nets, gates and the shared experts are new (`warm.py`) |
| trained on | {tokens:.1f} M tokens more in rows of {length} (`max_position_embeddings` is {positions}, but nothing longer than {length} was seen), {dialogues:.0%} of the rows dialogues |
| training | {minutes:.0f} minutes, one thread of a busy two-core Zen 3 (PyTorch, fp32), {steps} steps of {step_tokens:,} tokens; `tests/models/train` has the recipe |

## Data and licences

The text is that of `fable` and `fable-fine`; it is not in the project.

- TinyStories (2,842 stories): CDLA-Sharing-1.0.
- 868 synthetic fables: an MIT repository with outputs of models under Apache-2.0 and MIT.
- 677 picture books of African Storybook and Pratham Books (by way of Global Storybooks): CC BY 3.0 and 4.0.
- About 330 children's books, fairy tales and readers of 1860-1928: public domain in the United States.

The dialogues are made of the first three by a script (`dialogues.py`), six of each story and twelve where it has both a name and a thing: 31,722 with 55,964 answers. Simple rules find a name and a thing in a story, and a request names them; the story is the answer. "What happens next?" is answered by the second part of a story. For another ending, a story gets the last paragraph of another one with the same thing, and the answer is its own. Titles are those of picture books, else made of name and thing. In most dialogues the name is swapped for another, in a tenth the thing too (a quarter at first). What users say and endings from elsewhere are read and not learned; where an answer first says the name and the thing that were asked for, these tokens count three times (eight times at first). Nobody wrote or rated these dialogues. The weights are under Apache-2.0 (LICENSE).

## Held out

50 requests about names and things that stories of `valid.txt` have and no training dialogue asks for together, each followed by three more turns; sampled as `corm-run chat` does by itself (temperature 0.7), on the archive that `make demo-chat` makes. How many answers keep to what was asked, by rules (`answers.py`) that say nothing of how good they are:

| asked | keeps to it | of 50, each rule |
|---|---|---|
{answers}

`finished`: the last sentence is. `nothing twice`: no sentence of the story is in it. `ended`: by itself, within 500 tokens.

Cross-entropy in nats a token on held-out stories, fables and picture books as plain text, in windows of 256 tokens, beside the model that it began as, whose business that was:

| | parley | perplexity | fable-fine |
|---|---|---|---|
| first 16,384 tokens (stories) | {ce_first:.3f} | {ppl_first:.2f} | 2.222 |
| all {n_valid:,} tokens | {ce_all:.3f} | {ppl_all:.2f} | 2.620 |

## Expert load

Share of the choices on the same held-out text, 1 = fair. The lowest of all is {lowest:.2f}.

| layer | least | quartiles | most |
|---|---|---|---|
{loads}

## Talks

Of the held-out requests, the {shown} as they came:

{talks}

## What it cannot do

It knows no facts and cannot count; it has one trade. Asked for something else, it tells a story all the same, or nothing of use:

{beyond}

- Its stories wander: who holds what, who is he and who is she changes within a page, and the thing may matter to nobody. That name and thing occur is all that the figures above say.
- A thing that the training stories did not have often, or a name that is not one, may be forgotten or replaced by a likelier one.
- "What happens next?" often begins something new; another ending may end another story.
- The template knows tools: definitions, calls and results are written as it says. The model has never seen any and will not call them.
- A system message is read and changes little.
- English only. After some {length} tokens of talk it is beyond what it has seen; it then gets worse.

## Not for

Anything but testing. It knows nothing of the world, it contradicts itself within a page, and nobody should rely on a word of it.
"""


def quoted(text):
    return "> " + text.strip().replace("\n", "\n>\n> ")


def listed(numbers):
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


def exchange(asked, said):
    turns = [asked["request"], *answers.FURTHER.values()]
    return "\n\n".join(f"**{t}**\n\n{quoted(said[k])}" for t, k in zip(turns, said))


def main():
    a = argparse.ArgumentParser()
    for name in ("checkpoint", "data", "answers", "programs", "archive", "out"):
        a.add_argument(name)
    args = a.parse_args()
    saved = torch.load(args.checkpoint)
    run = saved["args"]
    c = model.CONFIGS[run["model"]]
    losses, loads = evaluate.held_out(c, export.rounded(c, saved["masters"]),
                                      evaluate.stream(args.data, "valid"))
    first, whole = losses[:16384 // 256].mean().item(), losses.mean().item()
    with open(args.answers, encoding="utf-8") as f:
        rows = json.load(f)
    table = [f"| {KINDS[kind]} | **{rules.pop('all')}** | "
             f"{', '.join(f'{rule} {n}' for rule, n in rules.items())} |"
             for kind, rules in answers.summary(rows).items()]
    asked = answers.Model(args.programs, args.archive)
    beyond = [f"**{q}**\n\n{quoted(asked.answer([{'role': 'user', 'content': q}], 1)[0])}" for q in BEYOND]
    total, active = model.counts(c)
    text = CARD.format(
        **vars(c), delta_at=listed(c.delta_layers),
        full_at=listed(i for i in range(c.layers) if c.is_full(i)), total=total / 1e6, active=active / 1e6, tokens=saved["tokens"] / 1e6,
        positions=c.max_positions, length=run["length"], dialogues=run["dialogues"],
        minutes=saved["seconds"] / 60, steps=saved["step"], step_tokens=run["tokens"] * run["passes"],
        answers="\n".join(table), ce_first=first, ppl_first=math.exp(first), ce_all=whole,
        ppl_all=math.exp(whole), n_valid=losses.numel() * 256, lowest=loads.min().item(),
        loads="\n".join(f"| {i} | {low:.2f} | {mid} | {high:.2f} |"
                        for i, (low, mid, high) in enumerate(map(card.quartiles, loads))),
        shown="first, 25th and 50th", beyond="\n\n".join(beyond),
        talks="\n\n---\n\n".join(exchange(rows[i], rows[i]["said"]) for i in SHOWN))
    with open(os.path.join(args.out, "README.md"), "w", encoding="utf-8") as f:
        f.write(text)
    print(json.dumps(answers.summary(rows)), first, whole)


if __name__ == "__main__":
    main()
