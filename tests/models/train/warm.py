"""Begin `parley` with the weights of `fable-fine`: python warm.py ../fable-fine DATA START

Both have the same width, the same attention and experts of the same shape. What `parley` has
besides begins so that it changes little: gates of attention stand half open and its output is
doubled, the shared expert writes almost nothing. Delta nets take queries, keys, values and the
output of the attention that they replace, and have to learn the rest: those of layers 2 and 4,
where `fable-fine` misses its attention little (0.13 and 0.26 nats; layer 0 would cost 3.9). The
experts that were chosen least on held-out text are left out.
"""
import os
import sys

import torch
from safetensors.torch import load_file

import evaluate
import model


def of_hub(c, tensors):
    """The stacked parameters of a Qwen3Moe checkpoint of Config `c`."""
    def stack(name):
        return torch.stack([tensors[f"model.layers.{i}.{name}.weight"] for i in range(c.layers)])

    out = {"embed": tensors["model.embed_tokens.weight"], "head": tensors["lm_head.weight"],
           "norm": tensors["model.norm.weight"], "attn_norm": stack("input_layernorm"),
           "moe_norm": stack("post_attention_layernorm"), "router": stack("mlp.gate"),
           "q_norm": stack("self_attn.q_norm"), "k_norm": stack("self_attn.k_norm")}
    out |= {n: stack(f"self_attn.{n}_proj") for n in "qkvo"}
    for n in ("gate", "up", "down"):
        out[n] = torch.stack([stack(f"mlp.experts.{e}.{n}_proj") for e in range(c.experts)], 1)
    return {n: t.float() for n, t in out.items()}


def experts_to_keep(c, params, ids, count):
    """Of each layer, the experts that are chosen most."""
    _, loads = evaluate.held_out(c, params, ids)
    return [sorted(row.argsort(descending=True)[:count].tolist()) for row in loads]


def grow(old, new, old_params, kept):
    """Parameters of `new`: those of `old` where there are any, over what is given at random."""
    out = model.init(new, 1)
    full = [i for i in range(new.layers) if new.is_full(i)]
    rest = [i for i in range(new.layers) if not new.is_full(i)]
    g = torch.Generator().manual_seed(2)
    for n in ("embed", "head"):
        # the tokens of turns begin as the end of a text
        added = old_params[n][:1] + 0.02 * torch.randn(new.vocab - old.vocab, new.dim, generator=g)
        out[n] = torch.cat([old_params[n], added])
    for n in ("norm", "attn_norm", "moe_norm"):
        out[n] = old_params[n]
    for n in ("q", "k", "v", "o", "q_norm", "k_norm"):
        out[n] = old_params[n][full]
    out["o"] = out["o"] * 2
    for n in ("o_gate", "shared_out"):
        out[n] = out[n] * 0.02
    for n in ("router", "gate", "up", "down"):
        out[n] = torch.stack([old_params[n][i][kept[i]] for i in range(new.layers)])
    for at, i in enumerate(rest):
        parts = []
        for n, heads in (("q", [0, 2]), ("k", [0, 1]), ("v", [0, 0, 1, 1])):
            t = old_params[n][i].view(-1, old.head_dim, old.dim)[heads]
            parts.append(t.reshape(-1, old.dim))
        out["delta_in"][at, :-new.v_heads * new.delta_dim] = torch.cat(parts)
        out["delta_out"][at] = old_params["o"][i] * 0.5
    return out


def main():
    folder, texts, out = sys.argv[1:]
    old, new = model.CONFIGS["fable-fine"], model.CONFIGS["parley"]
    params = of_hub(old, load_file(os.path.join(folder, "model.safetensors")))
    ids = evaluate.stream(texts, "valid")
    masters = grow(old, new, params, experts_to_keep(old, params, ids, new.experts))
    losses, _ = evaluate.held_out(new, masters, ids[:16384])
    print(f"held-out loss of {new.name} before it has learned: {losses.mean().item():.3f}")
    torch.save({"masters": masters}, out)


if __name__ == "__main__":
    main()
