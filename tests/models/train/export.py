"""Write a trained model as a Hugging Face directory: python export.py CHECKPOINT TOKENIZER_DIR OUT

The weights are rounded to bf16; `fable` goes out as two shards with an index, `fable-fine` as one
file. The result is loaded again with `transformers` and must give the logits of our own model.
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def config_json(c):
    out = {
        "architectures": ["MixtralForCausalLM" if c.arch == "mixtral" else "Qwen3MoeForCausalLM"],
        "model_type": c.arch, "torch_dtype": "bfloat16", "vocab_size": c.vocab,
        "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
        "max_position_embeddings": c.max_positions, "rms_norm_eps": c.eps,
        "rope_theta": c.rope_theta, "sliding_window": None, "attention_dropout": 0.0,
        "num_experts_per_tok": c.top_k, "output_router_logits": False,
        "router_aux_loss_coef": 0.01, "initializer_range": 0.02, "use_cache": True,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }
    if c.arch == "mixtral":
        return out | {"intermediate_size": c.ffn, "num_local_experts": c.experts,
                      "router_jitter_noise": 0.0}
    return out | {"intermediate_size": c.ffn * c.top_k, "moe_intermediate_size": c.ffn,
                  "num_experts": c.experts, "norm_topk_prob": True, "decoder_sparse_step": 1,
                  "mlp_only_layers": [], "attention_bias": False, "use_sliding_window": False,
                  "max_window_layers": c.layers, "rope_scaling": None}


def hub_tensors(c, params):
    """Our stacked parameters under the names the Hub's checkpoints use, in the order of layers."""
    moe = "block_sparse_moe" if c.arch == "mixtral" else "mlp"
    expert = {"gate": "w1", "up": "w3", "down": "w2"} if c.arch == "mixtral" else \
        {n: n + "_proj" for n in ("gate", "up", "down")}
    out = {"model.embed_tokens.weight": params["embed"]}
    for i in range(c.layers):
        at = f"model.layers.{i}."
        out[at + "input_layernorm.weight"] = params["attn_norm"][i]
        for n in "qkvo":
            out[f"{at}self_attn.{n}_proj.weight"] = params[n][i]
        if c.qk_norm:
            out[at + "self_attn.q_norm.weight"] = params["q_norm"][i]
            out[at + "self_attn.k_norm.weight"] = params["k_norm"][i]
        out[at + "post_attention_layernorm.weight"] = params["moe_norm"][i]
        out[f"{at}{moe}.gate.weight"] = params["router"][i]
        for e in range(c.experts):
            for n, hub in expert.items():
                out[f"{at}{moe}.experts.{e}.{hub}.weight"] = params[n][i, e]
    out["model.norm.weight"] = params["norm"]
    out["lm_head.weight"] = params["head"]
    return {n: t.to(torch.bfloat16).contiguous() for n, t in out.items()}


def write_weights(tensors, out, shards):
    if shards == 1:
        save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
        return
    total = sum(t.nbytes for t in tensors.values())
    parts, done = [{} for _ in range(shards)], 0
    for name, t in tensors.items():
        parts[min(shards - 1, done * shards // total)][name] = t
        done += t.nbytes
    where = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file(part, os.path.join(out, file), metadata={"format": "pt"})
        where |= {name: file for name in part}
    write_json(out, "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": where})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def check(c, params, out):
    """The directory, loaded by `transformers` in fp32, against our model with the same weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    theirs, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32,
                                                        output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    tok = AutoTokenizer.from_pretrained(out)
    ids = tok("Once upon a time, there was a little girl named Lily. She liked to play outside in "
              "the park with her dog, and one day they found a big red box.")["input_ids"]
    assert ids[0] == 0 and tok.decode(ids[1:]).startswith("Once upon"), ids
    tokens = torch.tensor([ids])
    ours_fp32 = {n: p.bfloat16().float() for n, p in params.items()}
    with torch.no_grad():
        ours = model.forward(c, ours_fp32, tokens, model.tables(c, len(ids)))[0]
        worst = (ours - theirs(tokens).logits[0]).abs().max().item()
    assert worst < 1e-3, worst
    print(f"{out}: transformers agrees, largest difference of a logit {worst:.1e}")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint")
    a.add_argument("tokenizer")
    a.add_argument("out")
    args = a.parse_args()
    saved = torch.load(args.checkpoint, weights_only=True)
    c, params = model.CONFIGS[saved["args"]["model"]], saved["masters"]
    os.makedirs(args.out, exist_ok=True)
    write_weights(hub_tensors(c, params), args.out, 2 if c.name == "fable" else 1)
    write_json(args.out, "config.json", config_json(c))
    write_json(args.out, "generation_config.json",
               {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.7})
    for name in TOKENIZER_FILES:
        shutil.copy(os.path.join(args.tokenizer, name), args.out)
    check(c, params, args.out)


if __name__ == "__main__":
    main()
