"""Families that transformers has no class for, as others that compute the same: shared by make_families.py's oracle
and its counts.

deepseek and bailing_moe are qwen2_moe with a shared expert behind a gate of zeros, whose sigmoid, a half, is made up
for by twice the weights; bailing_moe_v2 is glm4_moe, smallthinker granitemoe_swa. bailing_moe's head counts with
columns of length one (norm_head). A text model that is inside one that sees is taken out of it, or put into one.
"""
import re

import torch


def as_qwen2_moe(c):
    n, dim = c["num_hidden_layers"], c["hidden_size"]
    experts = c.get("num_experts", c.get("n_routed_experts"))
    shared = c.get("num_shared_experts", c.get("n_shared_experts"))
    dense = list(range(c["first_k_dense_replace"]))
    config = {
        k: c[k]
        for k in ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
                  "num_key_value_heads", "num_hidden_layers", "num_experts_per_tok", "norm_topk_prob", "rms_norm_eps",
                  "max_position_embeddings", "rope_theta", "tie_word_embeddings", "hidden_act", "head_dim")
        if k in c
    }
    config |= {
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "mlp_only_layers": dense,
        "num_experts": experts,
        "qkv_bias": False,
        "shared_expert_intermediate_size": shared * c["moe_intermediate_size"],
    }
    return config, (n - len(dense)) * dim  # the gates are not the family's


def as_glm4_moe(c):
    config = {
        k: c[k]
        for k in ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
                  "num_key_value_heads", "num_hidden_layers", "num_experts_per_tok", "norm_topk_prob", "rms_norm_eps",
                  "max_position_embeddings", "rope_theta", "tie_word_embeddings", "hidden_act", "head_dim", "n_group",
                  "topk_group", "first_k_dense_replace", "routed_scaling_factor", "partial_rotary_factor")
    }
    return config | {
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": False,
        "n_routed_experts": c["num_experts"],
        "n_shared_experts": c["num_shared_experts"],
        "use_qk_norm": True,
    }, 0


def as_granitemoe_swa(c):
    """smallthinker: with sinks that nothing goes to, and a router that reads the layer's input (oracle.py)."""
    turned, slides = c["rope_layout"], c["sliding_window_layout"]
    config = {
        k: c[k]
        for k in ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers",
                  "rms_norm_eps", "max_position_embeddings", "rope_theta", "tie_word_embeddings", "head_dim")
    }
    return config | {
        "model_type": "granitemoe_swa",
        "architectures": ["GraniteMoeSWAForCausalLM"],
        "attention_multiplier": c["head_dim"] ** -0.5,
        "hidden_act": "relu",
        "intermediate_size": c["moe_ffn_hidden_size"],
        "layer_rope_theta": [c["rope_theta"] * t for t in turned],
        "layer_types": ["sliding_attention" if s else "full_attention" for s in slides],
        "num_experts_per_tok": c["moe_num_active_primary_experts"],
        "num_local_experts": c["moe_num_primary_experts"],
        "routes_first": True,
        "shared_intermediate_size": 0,
        "sliding_window": c["sliding_window_size"],
    }, c["num_hidden_layers"] * c["num_attention_heads"]


def as_step3p7(c):
    """Step 3.5, which transformers has inside one that sees alone."""
    vision = {"hidden_size": 32, "image_size": 56, "max_position_embeddings": 16, "mlp_ratio": 2.0,
              "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14}
    return {
        "model_type": "step3p7",
        "architectures": ["Step3p7ForConditionalGeneration"],
        "text_config": {k: v for k, v in c.items() if k not in ("architectures", "model_type")},
        "tie_word_embeddings": c["tie_word_embeddings"],
        "vision_config": vision,
    }, 0


def as_text(c):
    return c["text_config"] | {"architectures": ["Llama4ForCausalLM"]}, 0


CONFIGS = {
    "BailingMoeForCausalLM": as_qwen2_moe,
    "BailingMoeV2ForCausalLM": as_glm4_moe,
    "DeepseekForCausalLM": as_qwen2_moe,
    "Llama4ForConditionalGeneration": as_text,
    "SmallThinkerForCausalLM": as_granitemoe_swa,
    "Step3p5ForCausalLM": as_step3p7,
}


def config_of(config):
    """What transformers computes it by, and the parameters that this has besides."""
    kin = CONFIGS.get(config.get("architectures", [None])[0])
    return kin(config) if kin else (config, 0)


RENAMED = [
    (r"^language_model\.", ""),
    (r"\.word_embeddings\.", ".embed_tokens."),
    (r"\.attention\.dense\.", ".self_attn.o_proj."),
    (r"\.attention\.query_layernorm\.", ".self_attn.q_norm."),
    (r"\.attention\.key_layernorm\.", ".self_attn.k_norm."),
    (r"\.gate\.expert_bias$", ".gate.e_score_correction_bias"),
    (r"\.primary_router\.", ".router."),
]


def tensors_of(config, tensors):
    """The tensors of such a checkpoint with the other family's names."""
    kin, _ = config_of(config)
    if kin is config or "text_config" in kin:
        return tensors
    heads = kin["num_attention_heads"] * kin.get("head_dim", kin["hidden_size"] // kin["num_attention_heads"])
    out = {}
    for name, t in tensors.items():
        for pattern, text in RENAMED:
            name = re.sub(pattern, text, name)
        if name.endswith(".attention.query_key_value.weight"):
            at, kv = name.removesuffix("attention.query_key_value.weight"), (len(t) - heads) // 2
            for part, rows in zip("qkv", t.split([heads, kv, kv])):
                out[f"{at}self_attn.{part}_proj.weight"] = rows.contiguous()
        elif ".shared_experts." in name and kin["model_type"] == "qwen2_moe":
            out[name.replace("shared_experts", "shared_expert")] = 2 * t if "down_proj" in name else t
        else:
            out[name] = t
        if name.endswith(".mlp.gate.weight") and kin["model_type"] == "qwen2_moe":
            out[name.replace("gate.weight", "shared_expert_gate.weight")] = torch.zeros(1, t.shape[1])
    if kin["model_type"] == "granitemoe_swa":
        for i in range(kin["num_hidden_layers"]):
            at = f"model.layers.{i}."
            ours = [f"{at}block_sparse_moe.experts.{e}." for e in range(kin["num_local_experts"])]
            gate, up, down = (torch.stack([out.pop(f"{e}{part}.weight") for e in ours]) for part in ("gate", "up", "down"))
            out[f"{at}block_sparse_moe.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
            out[f"{at}block_sparse_moe.experts.down_proj"] = down
            out[f"{at}self_attn.sinks"] = torch.full((kin["num_attention_heads"],), -1e30)
    if config.get("norm_head"):
        # Of the product with the normed state: so the tap final_norm is what the head as it lies is given.
        lengths = out["lm_head.weight"].double().norm(dim=0) + 1e-7
        out["model.norm.weight"] = (out["model.norm.weight"].double() / lengths).float()
    return out
