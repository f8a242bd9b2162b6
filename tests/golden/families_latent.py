"""The checkpoints of tests/golden/families with latent attention, as families.py has the others."""
from families import COMMON, embedding, experts, head, linear, mlp, norm
from family_weights import normal


def latent_attention(at, c):
    dim, heads, rank, rope = (c[k] for k in ("hidden_size", "num_attention_heads", "kv_lora_rank", "qk_rope_head_dim"))
    q_dim, v_dim = heads * (c["qk_nope_head_dim"] + rope), heads * c["v_head_dim"]
    q_rank = c.get("q_lora_rank")
    if q_rank:
        out = [linear(at + "q_a_proj", q_rank, dim), norm(at + "q_a_layernorm", q_rank),
               linear(at + "q_b_proj", q_dim, q_rank)]
    else:
        out = [linear(at + "q_proj", q_dim, dim)]
    return out + [linear(at + "kv_a_proj_with_mqa", rank + rope, dim), norm(at + "kv_a_layernorm", rank),
                  linear(at + "kv_b_proj", heads * c["qk_nope_head_dim"] + v_dim, rank),
                  linear(at + "o_proj", dim, v_dim)]


def further(c, prefix):
    """Of the layer behind the model's, which predicts further tokens: a reader must leave them out."""
    dim, at = c["hidden_size"], f"{prefix}layers.{c['num_hidden_layers']}."
    return [linear(at + "eh_proj", dim, 2 * dim), norm(at + "enorm", dim), norm(at + "shared_head.norm", dim)]


def indexer(at, c):
    """What chooses the tokens that a layer attends to, all where there are few: a reader must leave it out."""
    heads, dim = c["index_n_heads"], c["index_head_dim"]
    return [linear(at + "wq_b", heads * dim, c["q_lora_rank"]), linear(at + "wk", dim, c["hidden_size"]),
            norm(at + "k_norm", dim), normal(at + "k_norm.bias", (dim,), 0.29),
            linear(at + "weights_proj", heads, c["hidden_size"])]


def fused_experts(at, e, hid, dim):
    return [normal(at + "gate_up_proj", (e, 2 * hid, dim), 1.2 / dim**0.5),
            normal(at + "down_proj", (e, dim, hid), 1.2 / hid**0.5)]


def latent_tensors(outer, further_layer=False, bias=True, make_experts=experts):
    c = outer.get("text_config", outer)
    prefix = "model." if c is outer else "language_model.model."
    dim, hid = c["hidden_size"], c["moe_intermediate_size"]
    e, shared = (next(c[k] for k in keys if k in c) for keys in
                 (("n_routed_experts", "num_experts"), ("n_shared_experts", "num_shared_experts")))
    indexers = c.get("indexer_types", ["full"] * c["num_hidden_layers"] if "index_topk" in c else [])
    out = [embedding(prefix, c)]
    for i in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        out += latent_attention(at + "self_attn.", c)
        if indexers and indexers[i] == "full":
            out += indexer(at + "self_attn.indexer.", c)
        out.append(norm(at + "post_attention_layernorm", dim))
        if c["model_type"] == "axk1":
            out.append(norm(at + "post_mlp_layernorm", dim))
        if i < c.get("first_k_dense_replace", 1):
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim))
        if bias:
            out.append(normal(at + "mlp.gate.e_score_correction_bias", (e,), 0.15, dtype="F32"))
        out += make_experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", shared * hid, dim)
    out += [norm(prefix + "norm", dim), head(c)]
    return out + (further(c, prefix) if further_layer else [])


# ---- deepseek_v2 ----

DEEPSEEK_V2 = COMMON | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1,
    "intermediate_size": 96,
    "kv_lora_rank": 64,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 32,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
    "torch_dtype": "bfloat16",
    "v_head_dim": 64,
}

# ---- deepseek_v3 ----

DEEPSEEK_V3 = DEEPSEEK_V2 | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "ep_size": 1,
    "n_group": 2,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 32,
        "type": "yarn",
    },
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 32,
}

# ---- glm4_moe_lite ----

GLM4_LITE = {k: v for k, v in DEEPSEEK_V3.items() if k not in (
    "aux_loss_alpha", "ep_size", "first_k_dense_replace", "moe_layer_freq", "rope_theta", "scoring_func", "seq_aux")} | {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "eos_token_id": [0, 1],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "n_group": 1,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "pad_token_id": 1,
    "partial_rotary_factor": 1.0,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 0.1,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.75,
    "v_head_dim": 64,
}

# ---- deepseek_v32 ----

DEEPSEEK_V32 = {k: v for k, v in DEEPSEEK_V3.items() if k not in ("aux_loss_alpha", "ep_size", "pretraining_tp", "seq_aux")} | {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "index_head_dim": 48,
    "index_n_heads": 4,
    "index_topk": 128,
}

# ---- glm_moe_dsa ----

GLM_DSA = {k: v for k, v in DEEPSEEK_V32.items() if k not in ("rope_scaling", "rope_theta")} | {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "eos_token_id": [0, 1],
    "head_dim": 16,
    "index_n_heads": 2,
    "indexer_rope_interleave": True,
    "indexer_types": ["full", "shared", "full"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "n_group": 1,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "pad_token_id": 1,
    "qk_head_dim": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "v_head_dim": 64,
}

# ---- sarvam_mla ----

SARVAM_MLA = COMMON | {
    "architectures": ["SarvamMLAForCausalLM"],
    "model_type": "sarvam_mla",
    "attention_bias": False,
    "default_theta": 10000.0,
    "embedding_dropout": 0.0,
    "first_k_dense_replace": 1,
    "head_dim": 80,
    "intermediate_size": 96,
    "kv_lora_rank": 64,
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "q_head_dim": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 32,
        "type": "deepseek_yarn",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": True,
    "v_head_dim": 32,
}

# ---- axk1 ----

AXK1 = {k: v for k, v in DEEPSEEK_V3.items() if k != "rope_scaling"} | {
    "architectures": ["AXK1ForCausalLM"],
    "model_type": "axk1",
    "n_group": 4,
    "topk_group": 2,
}

# ---- mistral4 ----

MISTRAL4 = COMMON | {
    "architectures": ["Mistral4ForCausalLM"],
    "model_type": "mistral4",
    "attention_bias": False,
    "bos_token_id": 1,
    "first_k_dense_replace": 1,
    "head_dim": 48,
    "intermediate_size": 96,
    "kv_lora_rank": 64,
    "moe_intermediate_size": 32,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pad_token_id": 11,
    "q_lora_rank": 32,
    "qk_head_dim": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_interleave": True,
    "rope_parameters": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 16.0,
        "llama_4_scaling_beta": 0.25,
        "max_position_embeddings": 256,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.3333333333333333,
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "type": "yarn",
    },
    "routed_scaling_factor": 1.5,
    "topk_group": 2,
    "v_head_dim": 64,
}

FURTHER = [f"model.layers.3.{name}.weight" for name in ("eh_proj", "enorm", "shared_head.norm")]

LATENT = {
    "deepseekv2-tiny": {
        "config": DEEPSEEK_V2,
        "tensors": lambda c: latent_tensors(c, bias=False),
        "prompt": "The clockmaker had a shop behind the church. One night all 30 of his clocks stopped at once, and",
    },
    "deepseekv3-tiny": {
        "config": DEEPSEEK_V3,
        "tensors": lambda c: latent_tensors(c, further_layer=True),
        "skipped": FURTHER,
        "prompt": "We walked along the canal until it was dark. Nobody had seen the grey horse, but a boy told us that",
    },
    "glm4moelite-tiny": {
        "config": GLM4_LITE,
        "tensors": lambda c: latent_tensors(c, further_layer=True),
        "skipped": FURTHER,
        "prompt": "Behind the mill there was a well that had been dry for years. One morning in May Lena heard water, and",
    },
    "deepseekv32-tiny": {
        "config": DEEPSEEK_V32,
        "tensors": lambda c: latent_tensors(c, further_layer=True),
        "skipped": FURTHER,
        "prompt": "Nobody on the island could say who had built the lighthouse. When the lamp went out one night, Tomas",
    },
    "glmmoedsa-tiny": {
        "config": GLM_DSA,
        "tensors": lambda c: latent_tensors(c, further_layer=True),
        "skipped": FURTHER,
        "prompt": "The train was late, and the two brothers had nothing left to talk about. Then a woman with a cage",
    },
    "sarvammla-tiny": {
        "config": SARVAM_MLA,
        "tensors": latent_tensors,
        "prompt": "Every autumn the potter walked down to the river with an empty cart. This year he found that the water",
    },
    "axk1-tiny": {
        "config": AXK1,
        "tensors": lambda c: latent_tensors(c, further_layer=True, bias=False),
        "skipped": FURTHER + ["model.layers.0.mlp.post_mlp_layernorm.weight"],
        "prompt": "The bees had left the orchard, and old Marta went to look for them. Behind the chapel she heard",
    },
    "mistral4-tiny": {
        "config": MISTRAL4,
        "tensors": lambda c: latent_tensors(c, bias=False, make_experts=fused_experts),
        "prompt": "It had snowed for three days when the postman came up the valley. In his bag there was only one",
    },
}
