"""Write a trained model as a Hugging Face directory: python export.py CHECKPOINT TOKENIZER_DIR OUT

The weights are rounded to bf16; `fable` goes out as two shards with an index, the others as one
file. The result is loaded again with `transformers` and must give the logits of our own model.
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
CLASSES = {"mixtral": "MixtralForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
           "qwen3_5_moe": "Qwen3_5MoeForCausalLM"}
GENERATION = {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.7}


def config_json(c):
    out = {
        "architectures": [CLASSES[c.arch]],
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
    if c.arch == "qwen3_5_moe":
        return delta_config(c, out)
    return out | {"intermediate_size": c.ffn * c.top_k, "moe_intermediate_size": c.ffn,
                  "num_experts": c.experts, "norm_topk_prob": True, "decoder_sparse_step": 1,
                  "mlp_only_layers": [], "attention_bias": False, "use_sliding_window": False,
                  "max_window_layers": c.layers, "rope_scaling": None}


def delta_config(c, out):
    """As the text part of Qwen3_5Moe has it, which stands alone here."""
    for key in ("sliding_window", "rope_theta"):
        del out[key]
    half = c.head_dim // 2
    return out | {
        "model_type": "qwen3_5_moe_text", "eos_token_id": c.vocab - 3,
        "moe_intermediate_size": c.ffn, "shared_expert_intermediate_size": c.shared,
        "num_experts": c.experts, "attention_bias": False, "attn_output_gate": True,
        "layer_types": ["full_attention" if c.is_full(i) else "linear_attention"
                        for i in range(c.layers)],
        "linear_conv_kernel_dim": c.taps,
        "linear_key_head_dim": c.delta_dim, "linear_value_head_dim": c.delta_dim,
        "linear_num_key_heads": c.k_heads, "linear_num_value_heads": c.v_heads,
        "mamba_ssm_dtype": "float32", "rope_parameters": {
            "rope_type": "default", "rope_theta": c.rope_theta, "partial_rotary_factor": 1.0,
            "mrope_interleaved": True,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}}


def is_centred(c, name):
    """Whether the file has this norm's weight less one."""
    return c.arch == "qwen3_5_moe" and name.endswith("norm") and name != "delta_norm"


def rounded(c, params):
    """The parameters as the file has them, in fp32."""
    return {n: (p - 1).bfloat16().float() + 1 if is_centred(c, n) else p.bfloat16().float()
            for n, p in params.items()}


def delta_tensors(c, params):
    """hub_tensors() of qwen3_5_moe: experts of a layer lie in one tensor, gate and up together."""
    p = {n: t - 1 if is_centred(c, n) else t for n, t in params.items()}
    out = {"model.embed_tokens.weight": p["embed"]}
    k_v = 2 * c.k_heads * c.delta_dim + c.v_heads * c.delta_dim
    for i in range(c.layers):
        at, have = f"model.layers.{i}.", model.layer_names(c, i)
        w = {n: p[n][index] for n, index in have.items()}
        out[at + "input_layernorm.weight"] = w["attn_norm"]
        if c.is_full(i):
            heads = [t.view(c.heads, c.head_dim, c.dim) for t in (w["q"], w["o_gate"])]
            out[at + "self_attn.q_proj.weight"] = torch.cat(heads, 1).view(-1, c.dim)
            out |= {f"{at}self_attn.{n}_proj.weight": w[n] for n in "kvo"}
            out |= {f"{at}self_attn.{n}.weight": w[n] for n in ("q_norm", "k_norm")}
        else:
            a, b = w["delta_ab"].chunk(2)
            parts = {"in_proj_qkv.weight": w["delta_in"][:k_v],
                     "in_proj_z.weight": w["delta_in"][k_v:],
                     "in_proj_a.weight": a, "in_proj_b.weight": b,
                     "conv1d.weight": w["delta_conv"][:, None], "A_log": w["delta_rate"],
                     "dt_bias": w["delta_dt"], "norm.weight": w["delta_norm"],
                     "out_proj.weight": w["delta_out"]}
            out |= {f"{at}linear_attn.{n}": t for n, t in parts.items()}
        gate, up = w["shared_in"].chunk(2)
        parts = {"gate.weight": w["router"],
                 "experts.gate_up_proj": torch.cat([w["gate"], w["up"]], 1),
                 "experts.down_proj": w["down"], "shared_expert_gate.weight": w["shared_gate"],
                 "shared_expert.gate_proj.weight": gate, "shared_expert.up_proj.weight": up,
                 "shared_expert.down_proj.weight": w["shared_out"]}
        out[at + "post_attention_layernorm.weight"] = w["moe_norm"]
        out |= {f"{at}mlp.{n}": t for n, t in parts.items()}
    out |= {"model.norm.weight": p["norm"], "lm_head.weight": p["head"]}
    return {n: t.to(torch.bfloat16).contiguous() for n, t in out.items()}


def hub_tensors(c, params):
    """Our stacked parameters under the names the Hub's checkpoints use, in the order of layers."""
    if c.arch == "qwen3_5_moe":
        return delta_tensors(c, params)
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
    with torch.no_grad():
        ours = model.forward(c, rounded(c, params), tokens, model.tables(c, len(ids)))[0]
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
    ends = {"eos_token_id": [c.vocab - 3, 0]} if c.arch == "qwen3_5_moe" else {}
    os.makedirs(args.out, exist_ok=True)
    write_weights(hub_tensors(c, params), args.out, 2 if c.name == "fable" else 1)
    write_json(args.out, "config.json", config_json(c))
    write_json(args.out, "generation_config.json", GENERATION | ends)
    for name in TOKENIZER_FILES:
        if os.path.exists(os.path.join(args.tokenizer, name)):
            shutil.copy(os.path.join(args.tokenizer, name), args.out)
    check(c, params, args.out)


if __name__ == "__main__":
    main()
