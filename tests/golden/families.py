"""The checkpoints of tests/golden/families: configuration and list of tensors of each.

Configurations are spelled as the Hub has them; names and shapes of tensors are those of published files.
"""
from family_weights import bits, normal

COMMON = {
    "vocab_size": 288,
    "hidden_size": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}

# ---- lists of tensors ----
# Standard deviations keep activations near 1, routing sharp and logits spread.


def linear(name, n_out, n_in, gain=1.2):
    return normal(name + ".weight", (n_out, n_in), gain / n_in**0.5)


def norm(name, n, mean=1.0, dtype="BF16"):
    return normal(name + ".weight", (n,), 0.29, mean, dtype)


def embedding(prefix, c, std=0.5):
    return normal(prefix + "embed_tokens.weight", (c["vocab_size"], c["hidden_size"]), std)


def head(c):
    return linear("lm_head", c["vocab_size"], c["hidden_size"], 2.3)


def mlp(prefix, n, dim):
    return [
        linear(prefix + "gate_proj", n, dim),
        linear(prefix + "up_proj", n, dim),
        linear(prefix + "down_proj", dim, n),
    ]


# ---- gpt_oss ----

GPT_OSS = COMMON | {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "num_local_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.9,
    "rms_norm_eps": 1e-05,
    "sliding_window": 12,
    "pad_token_id": 1,
}

GPT_OSS_MXFP4 = GPT_OSS | {
    "experts_per_token": 3,
    "initial_context_length": 32,
    "intermediate_size": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_experts_per_tok": 3,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rope_scaling": {
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 10000,
    "swiglu_limit": 2.5,
    "torch_dtype": "bfloat16",
}

GPT_OSS_BF16 = GPT_OSS | {
    "dtype": "bfloat16",
    "intermediate_size": 32,
    "num_experts_per_tok": 2,
    "rope_parameters": {
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "truncate": True,
    },
    "swiglu_limit": 1.5,
}


def gpt_oss_tensors(c):
    dim, hid, e = c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        for name, n_out, n_in in (("q", q, dim), ("k", kv, dim), ("v", kv, dim), ("o", dim, q)):
            out.append(linear(f"{at}self_attn.{name}_proj", n_out, n_in))
            out.append(normal(f"{at}self_attn.{name}_proj.bias", (n_out,), 0.3))
        out.append(normal(at + "self_attn.sinks", (c["num_attention_heads"],), 1.2))
        out.append(norm(at + "post_attention_layernorm", dim))
        out.append(linear(at + "mlp.router", e, dim, 2.3))
        out.append(normal(at + "mlp.router.bias", (e,), 0.3))
        for name, n_out, n_in in (("gate_up", 2 * hid, dim), ("down", dim, hid)):
            experts = f"{at}mlp.experts.{name}_proj"
            if "quantization_config" in c:
                out.append(bits(experts + "_blocks", (e, n_out, n_in // 32, 16), 8))
                out.append(bits(experts + "_scales", (e, n_out, n_in // 32), 2, 121 if name == "gate_up" else 120))
            else:
                out.append(normal(experts, (e, n_in, n_out), 1.2 / n_in**0.5))
            out.append(normal(experts + "_bias", (e, n_out), 0.3))
    return out + [norm("model.norm", dim), head(c)]


# ---- qwen3_next, qwen3_5_moe ----

QWEN3_NEXT = COMMON | {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "head_dim": 32,
    "intermediate_size": 96,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 64,
    "torch_dtype": "bfloat16",
}

QWEN35_TEXT = {k: v for k, v in COMMON.items() if k != "tie_word_embeddings"} | {
    "model_type": "qwen3_5_moe_text",
    "attention_bias": False,
    "attn_output_gate": True,
    "dtype": "bfloat16",
    "full_attention_interval": 2,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_value_head_dim": 16,
    "mamba_ssm_dtype": "float32",
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 32,
}

QWEN35 = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "image_token_id": 282,
    "model_type": "qwen3_5_moe",
    "text_config": QWEN35_TEXT,
    "tie_word_embeddings": False,
    "video_token_id": 283,
    "vision_config": {
        "deepstack_visual_indexes": [],
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "model_type": "qwen3_5_moe",
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 4,
    },
    "vision_end_token_id": 285,
    "vision_start_token_id": 284,
}


def full_interval(c, i):
    return c["layer_types"][i] == "full_attention" if "layer_types" in c else (i + 1) % c["full_attention_interval"] == 0


def delta_net(at, c, split):
    dim, n_k, n_v = c["hidden_size"], c["linear_num_key_heads"], c["linear_num_value_heads"]
    keys, vals = n_k * c["linear_key_head_dim"], n_v * c["linear_value_head_dim"]
    if split:
        out = [
            linear(at + "in_proj_qkv", 2 * keys + vals, dim),
            linear(at + "in_proj_z", vals, dim),
            linear(at + "in_proj_b", n_v, dim),
            linear(at + "in_proj_a", n_v, dim),
        ]
    else:
        out = [linear(at + "in_proj_qkvz", 2 * keys + 2 * vals, dim), linear(at + "in_proj_ba", 2 * n_v, dim)]
    f32 = "F32" if split else "BF16"  # what published files have
    return out + [
        normal(at + "conv1d.weight", (2 * keys + vals, 1, c["linear_conv_kernel_dim"]), 0.58),
        normal(at + "A_log", (n_v,), 0.58, -2.5, f32),
        normal(at + "dt_bias", (n_v,), 0.58),
        norm(at + "norm", c["linear_value_head_dim"], dtype=f32),
        linear(at + "out_proj", dim, vals),
    ]


def gated_attention(at, c):
    dim, d = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    return [
        linear(at + "q_proj", 2 * q, dim),
        linear(at + "k_proj", kv, dim),
        linear(at + "v_proj", kv, dim),
        linear(at + "o_proj", dim, q),
        norm(at + "q_norm", d, 0.0),
        norm(at + "k_norm", d, 0.0),
    ]


def qwen_tensors(outer):
    """qwen3_next as published: experts one by one; qwen3_5_moe: fused, inside a model that sees."""
    c = outer.get("text_config", outer)
    fused = c is not outer
    prefix = "model.language_model." if fused else "model."
    dim, hid, e = c["hidden_size"], c["moe_intermediate_size"], c["num_experts"]
    out = [embedding(prefix, c)]
    for i in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        out.append(norm(at + "input_layernorm", dim, 0.0))
        full = full_interval(c, i)
        out += gated_attention(at + "self_attn.", c) if full else delta_net(at + "linear_attn.", c, fused)
        out.append(norm(at + "post_attention_layernorm", dim, 0.0))
        if i in c["mlp_only_layers"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim, 2.3))
        if fused:
            out.append(normal(at + "mlp.experts.gate_up_proj", (e, 2 * hid, dim), 1.2 / dim**0.5))
            out.append(normal(at + "mlp.experts.down_proj", (e, dim, hid), 1.2 / hid**0.5))
        else:
            for k in range(e):
                out += mlp(f"{at}mlp.experts.{k}.", hid, dim)
        out += mlp(at + "mlp.shared_expert.", c["shared_expert_intermediate_size"], dim)
        out.append(linear(at + "mlp.shared_expert_gate", 1, dim))
    out += [norm(prefix + "norm", dim, 0.0), head(c)]
    # Neither is of the text: a reader must leave them out.
    out += [linear("mtp.fc", dim, 2 * dim), norm("mtp.norm", dim, 0.0)]
    out += [linear("mtp.layers.0.self_attn.k_proj", 8, dim)]
    if fused:
        out += [normal("model.visual.patch_embed.proj.weight", (16, 3, 2, 4, 4), 0.1)]
        out += [normal("model.visual.patch_embed.proj.bias", (16,), 0.1)]
    return out


# ---- qwen3_vl_moe, qwen3_omni_moe ----

QWEN3_VL_TEXT = {k: v for k, v in COMMON.items() if k != "tie_word_embeddings"} | {
    "model_type": "qwen3_vl_moe_text",
    "attention_bias": True,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "head_dim": 32,
    "intermediate_size": 96,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
    "rope_theta": 5000000,
}

QWEN3_VL = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "image_token_id": 282,
    "model_type": "qwen3_vl_moe",
    "text_config": QWEN3_VL_TEXT,
    "tie_word_embeddings": False,
    "video_token_id": 283,
    "vision_config": {
        "deepstack_visual_indexes": [0],
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "model_type": "qwen3_vl_moe",
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": 64,
        "patch_size": 4,
    },
    "vision_end_token_id": 285,
    "vision_start_token_id": 284,
}

QWEN3_OMNI = {
    "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
    "assistant_token_id": 270,
    "code2wav_config": {"model_type": "qwen3_omni_moe_code2wav"},
    "enable_audio_output": True,
    "im_end_token_id": 271,
    "im_start_token_id": 272,
    "model_type": "qwen3_omni_moe",
    "talker_config": {"model_type": "qwen3_omni_moe_talker"},
    "thinker_config": {
        "audio_config": {
            "d_model": 16,
            "downsample_hidden_size": 8,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "encoder_layers": 1,
            "model_type": "qwen3_omni_moe_audio_encoder",
            "num_mel_bins": 16,
            "output_dim": 64,
        },
        "audio_end_token_id": 273,
        "audio_start_token_id": 274,
        "audio_token_id": 281,
        "image_token_id": 282,
        "initializer_range": 0.02,
        "model_type": "qwen3_omni_moe_thinker",
        "position_id_per_seconds": 13,
        "seconds_per_chunk": 2,
        "text_config": QWEN3_VL_TEXT
        | {
            "model_type": "qwen3_omni_moe_text",
            "attention_bias": False,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "norm_topk_prob": False,
            "num_experts_per_tok": 2,
            "rope_scaling": {
                "interleaved": True,
                "mrope_interleaved": True,
                "mrope_section": [8, 4, 4],
                "rope_type": "default",
                "type": "default",
            },
            "rope_theta": 1000000,
            "shared_expert_intermediate_size": 0,
            "sliding_window": None,
            "use_qk_norm": True,
            "use_sliding_window": False,
        },
        "user_token_id": 275,
        "video_token_id": 283,
        "vision_config": QWEN3_VL["vision_config"] | {"model_type": "qwen3_omni_moe_vision_encoder"},
        "vision_end_token_id": 285,
        "vision_start_token_id": 284,
    },
    "tts_pad_token_id": 276,
}


def qwen3_inside_tensors(outer):
    """qwen3_vl_moe as published: experts fused, (in, out); qwen3_omni_moe: one by one."""
    c = outer.get("thinker_config", outer)["text_config"]
    fused = "thinker_config" not in outer
    before, prefix = ("", "model.language_model.") if fused else ("thinker.", "thinker.model.")
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    out = [embedding(prefix, c)]
    for i in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        for name, n_out, n_in in (("q", q, dim), ("k", kv, dim), ("v", kv, dim), ("o", dim, q)):
            out.append(linear(f"{at}self_attn.{name}_proj", n_out, n_in))
            if c["attention_bias"]:
                out.append(normal(f"{at}self_attn.{name}_proj.bias", (n_out,), 0.3))
        out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        out.append(norm(at + "post_attention_layernorm", dim))
        if i in c["mlp_only_layers"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim, 2.3))
        if fused:
            out.append(normal(at + "mlp.experts.gate_up_proj", (e, dim, 2 * hid), 1.2 / dim**0.5))
            out.append(normal(at + "mlp.experts.down_proj", (e, hid, dim), 1.2 / hid**0.5))
        else:
            for k in range(e):
                out += mlp(f"{at}mlp.experts.{k}.", hid, dim)
    out += [norm(prefix + "norm", dim), linear(before + "lm_head", c["vocab_size"], dim, 2.3)]
    # None is of the text: a reader must leave them out.
    see = "model.visual." if fused else "thinker.visual."
    out.append(normal(see + "patch_embed.proj.bias", (16,), 0.1))
    if not fused:
        out.append(normal("thinker.audio_tower.ln_post.bias", (16,), 0.1))
        out.append(linear("talker.model.layers.0.self_attn.k_proj", 8, dim))
        out.append(normal("code2wav.pre_transformer.norm.weight", (16,), 0.1))
    return out


# ---- gemma4 ----

GEMMA4_ROPE = {
    "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}

GEMMA4_TEXT = {k: v for k, v in COMMON.items() if k != "hidden_act"} | {
    "model_type": "gemma4_text",
    "attention_bias": False,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "enable_moe_block": True,
    "final_logit_softcapping": 6.0,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": GEMMA4_ROPE,
    "sliding_window": 12,
    "tie_word_embeddings": True,
    "top_k_experts": 2,
    "use_double_wide_mlp": False,
    "vocab_size_per_layer_input": 288,
}

GEMMA4 = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "audio_config": None,
    "dtype": "bfloat16",
    "eos_token_id": [0, 1],
    "image_token_id": 258880,
    "initializer_range": 0.02,
    "model_type": "gemma4",
    "text_config": GEMMA4_TEXT
    | {
        "attention_k_eq_v": True,
        "global_head_dim": 32,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention", "full_attention"],
        "num_global_key_value_heads": 1,
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 0,
        "use_bidirectional_attention": "vision",
    },
    "tie_word_embeddings": True,
    "vision_config": {
        "head_dim": 8,
        "hidden_size": 16,
        "intermediate_size": 32,
        "model_type": "gemma4_vision",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "patch_size": 4,
    },
    "vision_soft_tokens_per_image": 4,
}

GEMMA4_SHARED = GEMMA4_TEXT | {
    "architectures": ["Gemma4ForCausalLM"],
    "attention_k_eq_v": False,
    "layer_types": ["sliding_attention", "full_attention"] + ["sliding_attention"] * 2 + ["full_attention"],
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 2,
    "per_layer_config": {"1": {"head_dim": 32}, "4": {"head_dim": 32}},
}


def gemma4_tensors(outer):
    c = outer.get("text_config", outer)
    prefix = "model." if c is outer else "model.language_model."
    dim, hid, e = c["hidden_size"], c["moe_intermediate_size"], c["num_experts"]
    out = [embedding(prefix, c, 0.29)]
    for i in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        full = c["layer_types"][i] == "full_attention"
        d = 32 if full else c["head_dim"]
        kv = d * (c.get("num_global_key_value_heads") if full and c["attention_k_eq_v"] else c["num_key_value_heads"])
        q = c["num_attention_heads"] * d
        out.append(normal(at + "layer_scalar", (1,), 0.15, 0.75))
        out += [linear(at + "self_attn.q_proj", q, dim), norm(at + "self_attn.q_norm", d, 0.75)]
        # Files have keys and values of layers that share those of others; the first of them here does.
        if i <= c["num_hidden_layers"] - c["num_kv_shared_layers"]:
            out += [linear(at + "self_attn.k_proj", kv, dim), norm(at + "self_attn.k_norm", d, 0.75)]
            if not (full and c["attention_k_eq_v"]):
                out.append(linear(at + "self_attn.v_proj", kv, dim))
        out.append(linear(at + "self_attn.o_proj", dim, q))
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            out.append(norm(f"{at}{name}_layernorm", dim))
        for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
            out.append(norm(at + name, dim))
        out += mlp(at + "mlp.", c["intermediate_size"], dim)
        out.append(normal(at + "router.proj.weight", (e, dim), 2.3))  # divided by sqrt(dim) at run time
        out.append(normal(at + "router.scale", (dim,), 0.29, 1.0))
        out.append(normal(at + "router.per_expert_scale", (e,), 0.29, 1.0))
        out.append(normal(at + "experts.gate_up_proj", (e, 2 * hid, dim), 1.2 / dim**0.5))
        out.append(normal(at + "experts.down_proj", (e, dim, hid), 1.2 / hid**0.5))
    out.append(norm(prefix + "norm", dim))
    if c is not outer:  # not of the text: a reader must leave them out
        out.append(normal("model.vision_tower.patch_embedder.input_proj.weight", (16, 48), 0.1))
        out.append(normal("model.embed_vision.embedding_projection.weight", (dim, 16), 0.1))
    return out


# ---- glm4_moe ----

GLM4 = COMMON | {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "attention_bias": True,
    "eos_token_id": [0, 1],
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 2.5,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_qk_norm": True,
}

GLM4V = {
    "architectures": ["Glm4vMoeForConditionalGeneration"],
    "image_end_token_id": 284,
    "image_start_token_id": 283,
    "image_token_id": 282,
    "model_type": "glm4v_moe",
    "text_config": {k: v for k, v in GLM4.items() if k not in ("architectures", "num_nextn_predict_layers", "tie_word_embeddings")}
    | {
        "model_type": "glm4v_moe_text",
        "dtype": "bfloat16",
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default"},
        "rope_theta": 10000,
        "routed_scaling_factor": 1.5,
        "use_qk_norm": False,
    },
    "tie_word_embeddings": False,
    "video_end_token_id": 286,
    "video_start_token_id": 285,
    "video_token_id": 281,
    "vision_config": {
        "depth": 1,
        "hidden_size": 16,
        "image_size": 16,
        "intermediate_size": 32,
        "model_type": "glm4v_moe",
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 4,
    },
}

# Of the layer behind the model's, which predicts further tokens: a reader must leave them out.
GLM4_FURTHER = ["eh_proj", "enorm", "self_attn.q_proj"]


def glm4_tensors(outer):
    c = outer.get("text_config", outer)
    prefix = "model." if c is outer else "model.language_model."
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["n_routed_experts"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    out = [embedding(prefix, c)]
    for i in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        for name, n in (("q", q), ("k", kv), ("v", kv)):
            out.append(linear(f"{at}self_attn.{name}_proj", n, dim))
            out.append(normal(f"{at}self_attn.{name}_proj.bias", (n,), 0.3))
        out.append(linear(at + "self_attn.o_proj", dim, q))
        if c["use_qk_norm"]:
            out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        out.append(norm(at + "post_attention_layernorm", dim))
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim))
        out.append(normal(at + "mlp.gate.e_score_correction_bias", (e,), 0.15, dtype="F32"))
        for k in range(e):
            out += mlp(f"{at}mlp.experts.{k}.", hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["n_shared_experts"] * hid, dim)
    out += [norm(prefix + "norm", dim), head(c)]
    if c is not outer:  # not of the text: a reader must leave it out
        return out + [normal("model.visual.patch_embed.proj.bias", (16,), 0.1)]
    at = f"model.layers.{c['num_hidden_layers']}."
    return out + [linear(at + "eh_proj", dim, 2 * dim), norm(at + "enorm", dim), linear(at + "self_attn.q_proj", q, dim)]


# ---- granitemoe, granitemoeshared, granitemoe_swa ----

GRANITE = COMMON | {
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "attention_bias": False,
    "attention_multiplier": 0.375,
    "embedding_multiplier": 1.5,
    "intermediate_size": 32,
    "logits_scaling": 1.5,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "residual_multiplier": 0.75,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}

GRANITE_SHARED = GRANITE | {
    "architectures": ["GraniteMoeSharedForCausalLM"],
    "model_type": "granitemoeshared",
    "attention_bias": True,
    "residual_multiplier": 0.5,
    "shared_intermediate_size": 48,
    "tie_word_embeddings": False,
}

GRANITE_SWA = GRANITE | {
    "architectures": ["GraniteMoeSWAForCausalLM"],
    "model_type": "granitemoe_swa",
    "attention_multiplier": 0.5,
    "layer_rope_theta": [0, 10000.0, 500000.0, 10000.0],
    "layer_types": ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention"],
    "num_hidden_layers": 4,
    "shared_intermediate_size": 32,
    "sliding_window": 12,
}


def granite_tensors(c):
    dim, hid, e, shared = (c.get(k, 0) for k in ("hidden_size", "intermediate_size", "num_local_experts",
                                                 "shared_intermediate_size"))
    kv = c["num_key_value_heads"] * dim // c["num_attention_heads"]
    out = [embedding("model.", c, 0.29)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        for name, n in (("q", dim), ("k", kv), ("v", kv), ("o", dim)):
            out.append(linear(f"{at}self_attn.{name}_proj", n, dim))
            if c["attention_bias"]:
                out.append(normal(f"{at}self_attn.{name}_proj.bias", (n,), 0.3))
        if "sliding_window" in c:
            out.append(normal(at + "self_attn.sinks", (c["num_attention_heads"],), 1.2))
        out.append(norm(at + "post_attention_layernorm", dim))
        at += "block_sparse_moe."
        swa = c["model_type"] == "granitemoe_swa"
        gate_up, down, router = ("experts.gate_up_proj", "experts.down_proj", "router") if swa else (
            "input_linear.weight", "output_linear.weight", "router.layer")
        out.append(normal(at + gate_up, (e, 2 * hid, dim), 1.2 / dim**0.5))
        out.append(normal(at + down, (e, dim, hid), 1.2 / hid**0.5))
        out.append(linear(at + router, e, dim, 2.3))
        if shared:
            at = f"model.layers.{i}.shared_mlp."
            out += [linear(at + "input_linear", 2 * shared, dim), linear(at + "output_linear", dim, shared)]
    return out + [norm("model.norm", dim)] + ([] if c["tie_word_embeddings"] else [head(c)])


# ---- exaone_moe, solar_open, hy_v3 ----

SIGMOIDS = COMMON | {
    "head_dim": 32,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
}

EXAONE = SIGMOIDS | {
    "architectures": ["ExaoneMoEForCausalLM"],
    "model_type": "exaone_moe",
    "first_k_dense_replace": 1,
    "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
    "mlp_layer_types": ["dense"] + ["sparse"] * 3,
    "n_group": 2,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_hidden_layers": 4,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "sliding_window": 12,
    "sliding_window_pattern": "LLG",
    "topk_group": 1,
}

SOLAR = SIGMOIDS | {
    "architectures": ["SolarOpenForCausalLM"],
    "model_type": "solar_open",
    "attention_bias": True,
    "first_k_dense_replace": 0,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "partial_rotary_factor": 1.0,
    "rope_scaling": {
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "rope_type": "yarn",
        "type": "yarn",
    },
    "routed_scaling_factor": 1.25,
    "topk_group": 1,
    "use_qk_norm": False,
}

HY_V3 = SIGMOIDS | {
    "architectures": ["HYV3ForCausalLM"],
    "model_type": "hy_v3",
    "attention_bias": False,
    "enable_moe_fp32_combine": False,
    "mlp_bias": False,
    "num_experts": 8,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "rope_theta": 11158840.0,
    "router_scaling_factor": 1.75,
}


def sigmoid_tensors(c):
    """exaone_moe, solar_open and hy_v3 as published."""
    kind = c["model_type"]
    dim, d, hid = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"]
    e = c.get("num_experts", c.get("n_routed_experts"))
    dense = c.get("first_k_dense_replace", 1)
    shared = c.get("num_shared_experts", c.get("n_shared_experts")) * hid
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    gate, bias, beside = {
        "exaone_moe": ("mlp.gate", "mlp.e_score_correction_bias", "mlp.shared_experts."),
        "solar_open": ("mlp.gate", "mlp.gate.e_score_correction_bias", "mlp.shared_experts."),
        "hy_v3": ("mlp.router.gate", "mlp.expert_bias", "mlp.shared_mlp."),
    }[kind]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        for name, n in (("q", q), ("k", kv), ("v", kv)):
            out.append(linear(f"{at}self_attn.{name}_proj", n, dim))
            if c.get("attention_bias"):
                out.append(normal(f"{at}self_attn.{name}_proj.bias", (n,), 0.3))
        out.append(linear(at + "self_attn.o_proj", dim, q))
        if kind != "solar_open":
            out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        out.append(norm(at + "post_attention_layernorm", dim))
        if i < dense:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out += [linear(at + gate, e, dim), normal(at + bias, (e,), 0.15, dtype="F32")]
        for k in range(e):
            out += mlp(f"{at}mlp.experts.{k}.", hid, dim)
        out += mlp(at + beside, shared, dim)
    out += [norm("model.norm", dim), head(c)]
    # What predicts further tokens: a reader must leave it out.
    at = {"exaone_moe": "mtp.", "hy_v3": f"model.layers.{c['num_hidden_layers']}."}.get(kind)
    return out + ([linear(at + "eh_proj", dim, 2 * dim), norm(at + "enorm", dim)] if at else [])


# `skipped`: tensors that transformers itself finds unexpected. `oracle`: keys of the configuration that are
# other ones where transformers is to compute. What sees and hears need not be whole: text does not ask it.
# ---- what several families have ----


def attention(at, c, head_dim, bias=()):
    """The four projections, those named in `bias` with one."""
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    out = []
    for name, n_out, n_in in (("q", q, 0), ("k", kv, 0), ("v", kv, 0), ("o", 0, q)):
        n_out, n_in = n_out or c["hidden_size"], n_in or c["hidden_size"]
        out.append(linear(f"{at}{name}_proj", n_out, n_in))
        if name in bias:
            out.append(normal(f"{at}{name}_proj.bias", (n_out,), 0.3))
    return out


def experts(at, n, hid, dim, names=("gate_proj", "up_proj", "down_proj")):
    """One tensor for each expert and projection."""
    return [t._replace(name=t.name.replace(a, b)) for k in range(n) for t in mlp(f"{at}{k}.", hid, dim)
            for a, b in zip(("gate_proj", "up_proj", "down_proj"), names) if a in t.name]


# ---- minimax_m2 ----

MINIMAX_M2 = COMMON | {
    "architectures": ["MiniMaxM2ForCausalLM"],
    "model_type": "minimax_m2",
    "attn_type_list": [1, 1, 1],
    "head_dim": 32,
    "intermediate_size": 32,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_beta": 1.0,
    "mlp_intermediate_size": 96,
    "mtp_transformer_layers": 1,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_mtp_modules": 1,
    "output_router_logits": False,
    "qk_norm_type": "per_layer",
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "rotary_dim": 16,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid",
    "torch_dtype": "bfloat16",
    "use_mtp": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
}


def minimax_m2_tensors(c):
    dim, d, e = c["hidden_size"], c["head_dim"], c["num_local_experts"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        out.append(norm(at + "self_attn.q_norm", c["num_attention_heads"] * d))
        out.append(norm(at + "self_attn.k_norm", c["num_key_value_heads"] * d))
        at += "block_sparse_moe."
        out.append(linear(at + "gate", e, dim))
        out.append(normal(at + "e_score_correction_bias", (e,), 0.15, dtype="F32"))
        out += experts(at + "experts.", e, c["intermediate_size"], dim, ("w1", "w3", "w2"))
    # Of a layer behind the model's: a reader must leave it out.
    return out + [norm("model.norm", dim), head(c), norm("model.layers.3.enorm", dim)]


# ---- dots1 ----

DOTS1 = COMMON | {
    "architectures": ["Dots1ForCausalLM"],
    "model_type": "dots1",
    "attention_bias": True,
    "first_k_dense_replace": 1,
    "intermediate_size": 96,
    "max_window_layers": 2,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "noaux_tc",
    "sliding_window": 12,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
}


def dots1_tensors(c):
    dim, d, hid = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"], c["moe_intermediate_size"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d, "qkvo")
        out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", c["n_routed_experts"], dim))
        out.append(normal(at + "mlp.gate.e_score_correction_bias", (c["n_routed_experts"],), 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", c["n_routed_experts"], hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["n_shared_experts"] * hid, dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- ernie4_5_moe ----

ERNIE = COMMON | {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "intermediate_size": 96,
    "moe_capacity": [8, 8, 8],
    "moe_gate": "topk",
    "moe_intermediate_size": 32,
    "moe_k": 3,
    "moe_layer_end_index": 2,
    "moe_layer_interval": 1,
    "moe_layer_start_index": 1,
    "moe_norm_min": 1e-12,
    "moe_num_experts": 8,
    "moe_num_shared_experts": 2,
    "moe_use_aux_free": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_rmsnorm": True,
}


def ernie_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"], 32, c["moe_num_experts"]
    out = [embedding("model.", c, 0.29)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        if not c["moe_layer_start_index"] <= i <= c["moe_layer_end_index"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        gate = linear(at + "mlp.gate", e, dim)
        out.append(gate._replace(dtype="F32"))
        out.append(normal(at + "mlp.moe_statics.e_score_correction_bias", (1, e), 0.075, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["moe_num_shared_experts"] * hid, dim)
    # Of the prediction of further tokens: a reader must leave them out.
    out += [linear("model.mtp_linear_proj.0", dim, 2 * dim), norm("model.mtp_block.0.input_layernorm", dim)]
    return out + [norm("model.norm", dim)]


# ---- hunyuan_v1_moe ----

HUNYUAN = COMMON | {
    "architectures": ["HunYuanMoEV1ForCausalLM"],
    "model_type": "hunyuan_v1_moe",
    "attention_bias": False,
    "attention_head_dim": 32,
    "cla_share_factor": 2,
    "head_dim": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": [32, 32, 32],
    "moe_topk": [3, 3, 3],
    "norm_topk_prob": True,
    "norm_type": "rms",
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_shared_expert": [1, 1, 1],
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "dynamic",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cla": False,
    "use_mixed_mlp_moe": True,
    "use_qk_norm": True,
}


def hunyuan_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["intermediate_size"], c["num_experts"]
    out = [embedding("model.", c, 0.29)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        out += [norm(at + "self_attn.query_layernorm", d), norm(at + "self_attn.key_layernorm", d)]
        out.append(linear(at + "mlp.gate.wg", e, dim, 2.3)._replace(dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_mlp.", hid, dim)
    return out + [norm("model.norm", dim)]


# ---- afmoe ----

AFMOE = COMMON | {
    "architectures": ["AfmoeForCausalLM"],
    "model_type": "afmoe",
    "global_attn_every_n_layers": 3,
    "head_dim": 16,
    "intermediate_size": 96,
    "load_balance_coeff": 0.001,
    "moe_intermediate_size": 32,
    "mup_enabled": True,
    "n_group": 1,
    "num_attention_heads": 4,
    "num_dense_layers": 1,
    "num_expert_groups": 1,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_limited_groups": 1,
    "num_shared_experts": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "route_norm": True,
    "route_scale": 2.5,
    "score_func": "sigmoid",
    "sliding_window": 12,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_grouped_mm": True,
}


def afmoe_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    out = [embedding("model.", c, 0.07)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"):
            out.append(norm(at + name, dim))
        out += attention(at + "self_attn.", c, d)
        out.append(linear(at + "self_attn.gate_proj", c["num_attention_heads"] * d, dim))
        out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        if i < c["num_dense_layers"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.router.gate", e, dim))
        out.append(normal(at + "mlp.expert_bias", (e,), 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["num_shared_experts"] * hid, dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- mellum ----

MELLUM = COMMON | {
    "architectures": ["MellumForCausalLM"],
    "model_type": "mellum",
    "attention_bias": False,
    "dtype": "bfloat16",
    "head_dim": 32,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_mtp_layers": None,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            "rope_theta": 500000.0,
            "rope_type": "yarn",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "router_aux_loss_coef": 0.001,
    "sliding_window": 12,
}


def mellum_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        if c["mlp_layer_types"][i] == "dense":
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim, 2.3))
        out += experts(at + "mlp.experts.", e, hid, dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- sarvam_moe ----

SARVAM = COMMON | {
    "architectures": ["SarvamMoEForCausalLM"],
    "model_type": "sarvam_moe",
    "embedding_dropout": 0.0,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 32,
    "n_group": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 8000000,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_rmsnorm": True,
}


def sarvam_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    out = [normal("model.word_embeddings.weight", (c["vocab_size"], dim), 0.5)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += [linear(at + "attention.query_key_value", q + 2 * kv, dim), linear(at + "attention.dense", dim, q)]
        out += [norm(at + "attention.query_layernorm", d), norm(at + "attention.key_layernorm", d)]
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim))
        out.append(normal(at + "mlp.gate.expert_bias", (e,), 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", hid, dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- llama4 ----

LLAMA4_TEXT = {k: v for k, v in COMMON.items() if k != "eos_token_id"} | {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 16,
    "attn_scale": 0.5,
    "attn_temperature_tuning": True,
    "eos_token_id": 0,
    "floor_scale": 8,
    "for_llm_compressor": False,
    "head_dim": 16,
    "interleave_moe_layer_step": 2,
    "intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "no_rope_layers": [1, 1, 0, 1],
    "num_attention_heads": 4,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 32,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "torch_dtype": "bfloat16",
    "use_qk_norm": True,
}

LLAMA4 = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "boi_token_index": 284,
    "eoi_token_index": 285,
    "image_token_index": 286,
    "model_type": "llama4",
    "text_config": LLAMA4_TEXT,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 16, "model_type": "llama4_vision_model", "num_hidden_layers": 1},
}


def llama4_tensors(c):
    c = c["text_config"]
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["intermediate_size"], c["num_local_experts"]
    out = [embedding("language_model.model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"language_model.model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        at += "feed_forward."
        if (i + 1) % c["interleave_moe_layer_step"]:
            out += mlp(at, c["intermediate_size_mlp"], dim)
            continue
        out.append(linear(at + "router", e, dim, 2.3))
        out.append(normal(at + "experts.gate_up_proj", (e, dim, 2 * hid), 1.2 / dim**0.5))
        out.append(normal(at + "experts.down_proj", (e, hid, dim), 2.3 / hid**0.5))
        out += mlp(at + "shared_expert.", hid, dim)
    out += [norm("language_model.model.norm", dim)]
    head_of = head(c)
    out.append(head_of._replace(name="language_model." + head_of.name))
    # Of what sees: a reader must leave it out.
    return out + [linear("vision_model.patch_embedding.linear", 16, 48), linear("multi_modal_projector.linear_1", dim, 16)]


# ---- cohere2_moe ----

COHERE2 = COMMON | {
    "architectures": ["Cohere2MoeForCausalLM"],
    "model_type": "cohere2_moe",
    "attention_bias": False,
    "dtype": "bfloat16",
    "expert_selection_fn": "sigmoid",
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.5,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_shared_experts": 2,
    "prefix_dense_intermediate_size": 96,
    "prefix_dense_sliding_window_pattern": 1,
    "rope_theta": 50000,
    "shared_expert_combination_strategy": "average",
    "sliding_window": 12,
    "sliding_window_pattern": 2,
    "tie_word_embeddings": True,
}


def cohere2_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["intermediate_size"], c["num_experts"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out.append(norm(at + "input_layernorm", dim))
        out += attention(at + "self_attn.", c, d)
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["prefix_dense_intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim, 2.3))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["num_shared_experts"] * hid, dim)
    return out + [norm("model.norm", dim)]


# ---- phimoe ----

PHIMOE = COMMON | {
    "architectures": ["PhiMoEForCausalLM"],
    "model_type": "phimoe",
    "attention_bias": True,
    "hidden_dropout": 0.0,
    "input_jitter_noise": 0.01,
    "intermediate_size": 32,
    "lm_head_bias": True,
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "original_max_position_embeddings": 1024,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
        "long_mscale": 1.25,
        "original_max_position_embeddings": 1024,
        "short_factor": [1.0, 1.0, 1.125, 1.25, 1.5, 1.75, 2.0, 2.5],
        "short_mscale": 1.125,
        "type": "longrope",
    },
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.0,
    "router_jitter_noise": 0.25,
    "sliding_window": 40,
    "torch_dtype": "bfloat16",
}


def phimoe_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"], 32, c["num_local_experts"]

    def layer_norm(name):
        return [norm(name, dim), normal(name + ".bias", (dim,), 0.3)]

    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += layer_norm(at + "input_layernorm") + layer_norm(at + "post_attention_layernorm")
        out += attention(at + "self_attn.", c, d, "qkvo")
        at += "block_sparse_moe."
        out.append(linear(at + "gate", e, dim))
        out += experts(at + "experts.", e, hid, dim, ("w1", "w3", "w2"))
    return out + layer_norm("model.norm") + [head(c), normal("lm_head.bias", (c["vocab_size"],), 0.6)]


# ---- flex_olmo ----

FLEX_OLMO = COMMON | {
    "architectures": ["FlexOlmoForCausalLM"],
    "model_type": "flex_olmo",
    "attention_bias": False,
    "dtype": "bfloat16",
    "intermediate_size": 32,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "router_aux_loss_coef": 0.01,
}


def flex_olmo_tensors(c):
    dim, hid, e = c["hidden_size"], c["intermediate_size"], c["num_experts"]
    out = [embedding("model.", c, 1.0)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "post_attention_layernorm", dim), norm(at + "post_feedforward_layernorm", dim)]
        out += attention(at + "self_attn.", c, dim // c["num_attention_heads"])
        out += [norm(at + "self_attn.q_norm", dim), norm(at + "self_attn.k_norm", dim)]
        out.append(linear(at + "mlp.gate", e, dim))
        out += experts(at + "mlp.experts.", e, hid, dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- flint, kolibri1, laguna ----

FLINT = COMMON | {
    "architectures": ["FlintForCausalLM"],
    "model_type": "flint",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "head_dim": 16,
    "intermediate_size": 96,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "mlp_only_layers": [0],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "router_aux_loss_coef": 0.0005,
    "shared_expert_intermediate_size": 48,
    "sliding_window": 12,
}

KOLIBRI1 = COMMON | {
    "architectures": ["Kolibri1ForCausalLM"],
    "model_type": "kolibri1",
    "dtype": "bfloat16",
    "head_dim": 32,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "shared_expert_intermediate_size": 48,
    "sliding_window": 12,
}

LAGUNA = COMMON | {
    "architectures": ["LagunaForCausalLM"],
    "model_type": "laguna",
    "attention_bias": False,
    "dtype": "bfloat16",
    "gating": True,
    "head_dim": 16,
    "intermediate_size": 96,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "moe_apply_router_weight_on_input": False,
    "moe_intermediate_size": 32,
    "moe_routed_scaling_factor": 2.5,
    "moe_router_logit_softcapping": 2.0,
    "num_attention_heads": 4,
    "num_attention_heads_per_layer": [4, 8, 6],
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.5,
            "rope_theta": 500000.0,
            "rope_type": "yarn",
        },
        "sliding_attention": {"partial_rotary_factor": 1.0, "rope_theta": 10000.0, "rope_type": "default"},
    },
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 48,
    "sliding_window": 12,
}


def shared_sigmoid_tensors(c):
    """flint, kolibri1 and laguna as published."""
    kind = c["model_type"]
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    dense = {"flint": 1, "kolibri1": 0, "laguna": 1}[kind]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        n_heads = c.get("num_attention_heads_per_layer", [c["num_attention_heads"]] * (i + 1))[i]
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        if kind == "kolibri1":
            out += [norm(at + "post_attn_norm", dim), norm(at + "post_ffn_norm", dim)]
        out += attention(at + "self_attn.", c | {"num_attention_heads": n_heads}, d)
        out += [norm(at + "self_attn.q_norm", d), norm(at + "self_attn.k_norm", d)]
        if kind == "flint":
            out.append(normal(at + "self_attn.softmax_offset", (n_heads,), 1.2, dtype="F32"))
        if kind == "laguna":
            out.append(linear(at + "self_attn.g_proj", n_heads * (d if c["gating"] == "per-element" else 1), dim))
        if i < dense:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        gate = linear(at + "mlp.gate", e, dim, 1.2 if kind == "laguna" else 2.3)
        out.append(gate._replace(dtype="F32") if kind == "flint" else gate)
        bias = {"flint": None, "kolibri1": "moe.router.expert_bias", "laguna": "mlp.experts.e_score_correction_bias"}
        if bias[kind]:
            out.append(normal(at + bias[kind], (e,), 0.6 if kind == "kolibri1" else 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        shared = "mlp.shared_experts." if kind == "kolibri1" else "mlp.shared_expert."
        out += mlp(at + shared, c["shared_expert_intermediate_size"], dim)
    return out + [norm("model.norm", dim), head(c)]


# ---- deepseek, bailing_moe, bailing_moe_v2 ----

DEEPSEEK = COMMON | {
    "architectures": ["DeepseekForCausalLM"],
    "model_type": "deepseek",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "torch_dtype": "bfloat16",
}

BAILING = COMMON | {
    "architectures": ["BailingMoeForCausalLM"],
    "model_type": "bailing_moe",
    "embedding_dropout": 0.0,
    "first_k_dense_replace": 0,
    "head_dim": 32,
    "intermediate_size": 96,
    "max_window_layers": 28,
    "moe_intermediate_size": 32,
    "multi_gate": False,
    "norm_head": True,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_shared_experts": 2,
    "output_dropout": 0.0,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 600000,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
}

BAILING_V2 = {k: v for k, v in BAILING.items() if k not in ("multi_gate", "norm_head", "norm_softmax")} | {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "first_k_dense_replace": 1,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 32,
    "mtp_loss_scaling_factor": 0,
    "n_group": 2,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "topk_group": 1,
    "use_qk_norm": True,
    "use_rmsnorm": True,
}


def deepseek_tensors(c):
    dim, d, hid = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"], c["moe_intermediate_size"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", c["n_routed_experts"], dim, 2.3))
        out += experts(at + "mlp.experts.", c["n_routed_experts"], hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["n_shared_experts"] * hid, dim)
    return out + [norm("model.norm", dim), head(c)]


def bailing_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    q, kv, second = c["num_attention_heads"] * d, c["num_key_value_heads"] * d, "score_function" in c
    out = [normal("model.word_embeddings.weight", (c["vocab_size"], dim), 0.5)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += [linear(at + "attention.query_key_value", q + 2 * kv, dim), linear(at + "attention.dense", dim, q)]
        if second:
            out += [norm(at + "attention.query_layernorm", d), norm(at + "attention.key_layernorm", d)]
        if i < c["first_k_dense_replace"]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "mlp.gate", e, dim, 1.2 if second else 2.3))
        if second:
            out.append(normal(at + "mlp.gate.expert_bias", (e,), 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
        out += mlp(at + "mlp.shared_experts.", c["num_shared_experts"] * hid, dim)
    # Columns of length one in 288 rows are small.
    out += [norm("model.norm", dim) if second else normal("model.norm.weight", (dim,), 0.58, 3.0), head(c)]
    # Of a layer behind the model's: a reader must leave it out.
    return out + ([norm(f"model.layers.{c['num_hidden_layers']}.enorm", dim)] if second else [])


# ---- smallthinker ----

SMALLTHINKER = {k: v for k, v in COMMON.items() if k != "hidden_act"} | {
    "architectures": ["SmallThinkerForCausalLM"],
    "model_type": "smallthinker",
    "head_dim": 16,
    "moe_enable_early_router": True,
    "moe_enable_secondary_experts": False,
    "moe_ffn_hidden_size": 32,
    "moe_layer_layout": [1, 1, 1, 1],
    "moe_num_active_primary_experts": 3,
    "moe_num_primary_experts": 8,
    "moe_primary_router_apply_softmax": True,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_layout": [0, 1, 1, 0],
    "rope_scaling": None,
    "rope_theta": 1500000.0,
    "sliding_window_layout": [0, 1, 1, 0],
    "sliding_window_size": 12,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def smallthinker_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_ffn_hidden_size"], c["moe_num_primary_experts"]
    out = [embedding("model.", c, 0.29)]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        out += [norm(at + "input_layernorm", dim), norm(at + "post_attention_layernorm", dim)]
        out += attention(at + "self_attn.", c, d)
        out.append(linear(at + "block_sparse_moe.primary_router", e, dim, 2.3))
        out += experts(at + "block_sparse_moe.experts.", e, hid, dim, ("gate", "up", "down"))
    return out + [norm("model.norm", dim)]


# ---- step3p7 ----

STEP3P7 = COMMON | {
    "architectures": ["Step3p5ForCausalLM"],
    "model_type": "step3p5",
    "att_impl_type": "GQA",
    "attention_other_setting": {
        "attention_type": "sliding_attention",
        "head_dim": 16,
        "num_attention_groups": 2,
        "num_attention_heads": 6,
        "true_head_dim": 16,
    },
    "head_dim": 16,
    "intermediate_size": 96,
    # The fifth entries are of the layer behind the model's.
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "max_seq_len": 256,
    "moe_every_n_layer": 1,
    "moe_intermediate_size": 32,
    "moe_layer_offset": 0,
    "moe_layers_enum": "1,2,3",
    "moe_num_experts": 8,
    "moe_router_activation": "sigmoid",
    "moe_router_scaling_factor": 1.5,
    "moe_top_k": 3,
    "need_fp32_gate": True,
    "norm_expert_weight": True,
    "num_attention_groups": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 1.0],
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 2.0,
        "high_freq_factor": 32.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
    "rope_theta": [500000.0, 10000.0, 10000.0, 500000.0, 10000.0],
    "share_expert_dim": 48,
    "sink": False,
    "sliding_window": 12,
    "swiglu_limits": [0.0, 0.0, 0.75, 1, 0.0],
    "swiglu_limits_shared": [1.0, 0.0, 0.0, 0.75, 0.0],
    "torch_dtype": "bfloat16",
    "use_head_wise_attn_gate": True,
    "use_moe": True,
    "use_moe_router_bias": True,
    "use_qk_norm": True,
    "use_rope_layers": [],
    "yarn_only_types": ["full_attention"],
    "zero_centered": True,
}


def step3p7_tensors(c):
    dim, d, hid, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["moe_num_experts"]
    heads = {"full_attention": c["num_attention_heads"],
             "sliding_attention": c["attention_other_setting"]["num_attention_heads"]}
    moe = [int(l) for l in c["moe_layers_enum"].split(",")]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at, n_heads = f"model.layers.{i}.", heads[c["layer_types"][i]]
        out += [norm(at + "input_layernorm", dim, 0), norm(at + "post_attention_layernorm", dim, 0)]
        out += attention(at + "self_attn.", {"num_attention_heads": n_heads,
                                             "num_key_value_heads": c["num_attention_groups"], "hidden_size": dim}, d)
        out += [norm(at + "self_attn.q_norm", d, 0), norm(at + "self_attn.k_norm", d, 0)]
        out.append(linear(at + "self_attn.g_proj", n_heads, dim))
        if i not in moe:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(linear(at + "moe.gate", e, dim, 2.3)._replace(dtype="F32"))
        out.append(normal(at + "moe.router_bias", (e,), 0.15, dtype="F32"))
        for name, shape in (("gate", (e, hid, dim)), ("up", (e, hid, dim)), ("down", (e, dim, hid))):
            out.append(normal(f"{at}moe.{name}_proj.weight", shape, 1.2 / shape[2] ** 0.5))
        out += mlp(at + "share_expert.", c["share_expert_dim"], dim)
    further = f"model.layers.{c['num_hidden_layers']}."
    out += [norm(further + "enorm", dim, 0), linear(further + "eh_proj", dim, 2 * dim)]
    return out + [norm("model.norm", dim, 0), head(c)]


# ---- dbrx ----

DBRX = {
    "architectures": ["DbrxForCausalLM"],
    "model_type": "dbrx",
    "attn_config": {"attn_pdrop": 0, "clip_qkv": 0.75, "kv_n_heads": 2, "model_type": "", "rope_theta": 500000},
    "d_model": 64,
    "emb_pdrop": 0.0,
    "eos_token_id": 0,
    "ffn_config": {
        "ffn_act_fn": {"name": "silu"},
        "ffn_hidden_size": 32,
        "model_type": "",
        "moe_jitter_eps": 0,
        "moe_loss_weight": 0.05,
        "moe_normalize_expert_weights": 1.0,
        "moe_num_experts": 8,
        "moe_top_k": 3,
    },
    "initializer_range": 0.02,
    "max_seq_len": 256,
    "n_heads": 4,
    "n_layers": 3,
    "output_router_logits": False,
    "resid_pdrop": 0.0,
    "router_aux_loss_coef": 0.05,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 288,
}


def dbrx_tensors(c):
    dim, hid, e = c["d_model"], c["ffn_config"]["ffn_hidden_size"], c["ffn_config"]["moe_num_experts"]
    kv = c["attn_config"]["kv_n_heads"] * dim // c["n_heads"]
    out = [normal("transformer.wte.weight", (c["vocab_size"], dim), 0.5)]
    for i in range(c["n_layers"]):
        at = f"transformer.blocks.{i}."
        out += [norm(at + "norm_attn_norm.norm_1", dim), norm(at + "norm_attn_norm.norm_2", dim)]
        out.append(linear(at + "norm_attn_norm.attn.Wqkv", dim + 2 * kv, dim))
        out.append(linear(at + "norm_attn_norm.attn.out_proj", dim, dim))
        out.append(linear(at + "ffn.router.layer", e, dim, 2.3))
        for name, width in (("w1", dim), ("v1", dim), ("w2", hid)):
            out.append(normal(f"{at}ffn.experts.mlp.{name}", (e * hid, dim), 1.2 / width**0.5))
    return out + [norm("transformer.norm_f", dim), head(c | {"hidden_size": dim})]


# `skipped`: tensors that transformers itself finds unexpected. `oracle`: keys of the configuration that are
# other ones where transformers is to compute. What it has no class for is in kin.py.
# ---- mimo_v2_flash ----

MIMO = COMMON | {
    "add_full_attention_sink_bias": False,
    "add_swa_attention_sink_bias": True,
    "architectures": ["MiMoV2FlashForCausalLM"],
    "attention_bias": False,
    "attention_value_scale": 0.707,
    "head_dim": 48,
    "hybrid_layer_pattern": [0, 1, 1, 0],
    "intermediate_size": 96,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "layernorm_epsilon": 1e-05,
    "model_type": "mimo_v2_flash",
    "moe_intermediate_size": 32,
    "moe_layer_freq": [0, 1, 1, 1],
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": None,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "routed_scaling_factor": None,
    "scoring_func": "sigmoid",
    "sliding_window": 11,
    "sliding_window_size": 11,
    "swa_head_dim": 48,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_rope_theta": 10000,
    "swa_v_head_dim": 32,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 32,
}


def mimo_tensors(c):
    dim, hid, e, heads = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"], c["num_attention_heads"]
    out = [embedding("model.", c)]
    for i in range(c["num_hidden_layers"]):
        at, slides = f"model.layers.{i}.", c["hybrid_layer_pattern"][i]
        kv = c["swa_num_key_value_heads" if slides else "num_key_value_heads"]
        out += [norm(at + "input_layernorm", dim),
                linear(at + "self_attn.q_proj", heads * c["head_dim"], dim),
                linear(at + "self_attn.k_proj", kv * c["head_dim"], dim),
                linear(at + "self_attn.v_proj", kv * c["v_head_dim"], dim),
                linear(at + "self_attn.o_proj", dim, heads * c["v_head_dim"])]
        if slides:
            out.append(normal(at + "self_attn.attention_sink_bias", (heads,), 1.2))
        out.append(norm(at + "post_attention_layernorm", dim))
        if not c["moe_layer_freq"][i]:
            out += mlp(at + "mlp.", c["intermediate_size"], dim)
            continue
        out.append(normal(at + "mlp.gate.weight", (e, dim), 1.2 / dim**0.5, dtype="F32"))
        out.append(normal(at + "mlp.gate.e_score_correction_bias", (e,), 0.15, dtype="F32"))
        out += experts(at + "mlp.experts.", e, hid, dim)
    return out + [norm("model.norm", dim), head(c), linear("model.mtp.layers.0.eh_proj", dim, 2 * dim)]


FAMILIES = {
    "gptoss-tiny": {
        "config": GPT_OSS_MXFP4,
        "tensors": gpt_oss_tensors,
        "oracle": {"quantization_config": None},
        "prompt": "The old drum lay under the bridge. When the rain came, Pip and Nora carried it up the hill and",
    },
    "gptoss-bf16": {
        "config": GPT_OSS_BF16,
        "tensors": gpt_oss_tensors,
        "prompt": "Anna wrote to her sister: \"The boats are back, all 12 of them, and the fox is asleep.\" Then she",
    },
    "qwen3next-tiny": {
        "config": QWEN3_NEXT,
        "tensors": qwen_tensors,
        "prompt": "It was a cold winter night, and the wind went round the house. The king could not sleep, so he",
    },
    "qwen35moe-tiny": {
        "config": QWEN35,
        "tensors": qwen_tensors,
        "prompt": "One day a little bird fell out of the nest. \"Good morning,\" said the duck, \"where are you going",
    },
    "gemma4-tiny": {
        "config": GEMMA4,
        "tensors": gemma4_tensors,
        "tap_rows": [0, 40, 71],
        "oracle": {"vision_config": None},
        "skipped": ["model.vision_tower.patch_embedder.input_proj.weight",
                    "model.embed_vision.embedding_projection.weight"],
        "prompt": "Tom and his sister went to the park. They saw a big dog with a red ball, and the dog said to them",
    },
    "gemma4-shared": {
        "config": GEMMA4_SHARED,
        "tensors": gemma4_tensors,
        "tap_rows": [0, 40, 71],
        # Without it transformers slices inputs per layer, which this model has none of.
        "oracle": {"output_hidden_states": True},
        "prompt": "There lived an old woman and her cat in a house by the river. Every morning, before the sun was up,",
    },
    "glm4moe-tiny": {
        "config": GLM4,
        "tensors": glm4_tensors,
        "skipped": [f"model.layers.4.{name}.weight" for name in GLM4_FURTHER],
        "prompt": "A farmer had a cart, a horse and 3 sacks of corn. On the way to the mill the wheel broke, so he",
    },
    "minimaxm2-tiny": {
        "config": MINIMAX_M2,
        "tensors": minimax_m2_tensors,
        "skipped": ["model.layers.3.enorm.weight"],
        "prompt": "The boys built a raft of old doors and pushed it into the pond. It floated for a while, and then",
    },
    "dots1-tiny": {
        "config": DOTS1,
        "tensors": dots1_tensors,
        "prompt": "Every evening the lamplighter came down our street with his ladder, and the children ran after",
    },
    "ernie45-tiny": {
        "config": ERNIE,
        "tensors": ernie_tensors,
        "skipped": ["model.mtp_linear_proj.0.weight", "model.mtp_block.0.input_layernorm.weight"],
        "prompt": "In the attic there was a trunk, and in the trunk there was a map. \"Look,\" said Ruth, \"here is",
    },
    "hunyuan-tiny": {
        "config": HUNYUAN,
        "tensors": hunyuan_tensors,
        "prompt": "The baker forgot the salt again. His 4 sons laughed about it at dinner, but his wife took the bread",
    },
    "afmoe-tiny": {
        "config": AFMOE,
        "tensors": afmoe_tensors,
        "prompt": "Snow had fallen all night long. In the morning the dog would not go out, and the old man went to",
    },
    "mellum-tiny": {
        "config": MELLUM,
        "tensors": mellum_tensors,
        "prompt": "A heron stood in the shallow water and waited. The frogs had seen him before, so they kept quiet and",
    },
    "sarvam-tiny": {
        "config": SARVAM,
        "tensors": sarvam_tensors,
        "prompt": "My uncle keeps bees behind the school. In June he opens the hives and gives each of us a piece of",
    },
    "qwen3vlmoe-tiny": {
        "config": QWEN3_VL,
        "tensors": qwen3_inside_tensors,
        "prompt": "The captain looked at the map and counted the islands: there were 7 of them. \"We shall sail to",
    },
    "qwen3omnimoe-tiny": {
        "config": QWEN3_OMNI,
        "tensors": qwen3_inside_tensors,
        "oracle": QWEN3_OMNI["thinker_config"] | {"architectures": ["Qwen3OmniMoeThinkerForConditionalGeneration"]},
        "prompt": "At night the mouse came out of its hole and looked for cheese. The cat, who was not asleep, said",
    },
    "glm4vmoe-tiny": {
        "config": GLM4V,
        "tensors": glm4_tensors,
        "prompt": "The teacher opened the window because it was warm. Then a butterfly came in, and the children",
    },
    "granitemoe-tiny": {
        "config": GRANITE,
        "tensors": granite_tensors,
        "prompt": "The baker had made 20 loaves of bread, and by noon there was only one left. A small girl came in and",
    },
    "granitemoeshared-tiny": {
        "config": GRANITE_SHARED,
        "tensors": granite_tensors,
        "prompt": "In the old tower there was a clock that nobody could stop. One evening Pip climbed up the stairs, and",
    },
    "granitemoeswa-tiny": {
        "config": GRANITE_SWA,
        "tensors": granite_tensors,
        "prompt": "Two brothers found a boat on the beach. \"It is ours now,\" said the first one. But the second brother",
    },
    "exaonemoe-tiny": {
        "config": EXAONE,
        "tensors": sigmoid_tensors,
        "oracle": {"architectures": ["ExaoneMoeForCausalLM"]},
        "prompt": "When spring came, the snow on the hills was gone, and the goats went up to eat. Their shepherd",
    },
    "solaropen-tiny": {
        "config": SOLAR,
        "tensors": sigmoid_tensors,
        "prompt": "My grandmother keeps bees behind her garden. Every summer she gives each of us 3 jars of honey, and",
    },
    "hyv3-tiny": {
        "config": HY_V3,
        "tensors": sigmoid_tensors,
        "skipped": ["model.layers.3.eh_proj.weight", "model.layers.3.enorm.weight"],
        "prompt": "A letter had come for the miller, but he could not read. So he went to the school, where the",
    },
    "llama4-tiny": {
        "config": LLAMA4,
        "tensors": llama4_tensors,
        "skipped": ["vision_model.patch_embedding.linear.weight", "multi_modal_projector.linear_1.weight"],
        "prompt": "Far out at sea there was a lighthouse, and its keeper had 2 cats. One stormy night the lamp went out, so",
    },
    "cohere2moe-tiny": {
        "config": COHERE2,
        "tensors": cohere2_tensors,
        "prompt": "The children built a snowman with a carrot nose. At noon the sun came out, and the snowman said to",
    },
    "phimoe-tiny": {
        "config": PHIMOE,
        "tensors": phimoe_tensors,
        "prompt": "A tailor lived above the old shop in the square. He had 5 pairs of scissors, and each of them",
    },
    "flexolmo-tiny": {
        "config": FLEX_OLMO,
        "tensors": flex_olmo_tensors,
        "prompt": "Once the well in our village ran dry. My father and his friends went down with ropes and found",
    },
    "flint-tiny": {
        "config": FLINT,
        "tensors": shared_sigmoid_tensors,
        "prompt": "The train was late, and the travellers sat on their bags. An old woman took out 6 apples and",
    },
    "kolibri1-tiny": {
        "config": KOLIBRI1,
        "tensors": shared_sigmoid_tensors,
        "prompt": "On the roof of the school there was a stork's nest. In April the storks came back, and the whole",
    },
    "laguna-tiny": {
        "config": LAGUNA,
        "tensors": shared_sigmoid_tensors,
        "prompt": "The fisherman's net was full of stars, or so it seemed. He called his wife, who looked and said",
    },
    "laguna-elements": {
        "config": LAGUNA | {"gating": "per-element", "gating_types": ["per_element"] * 3, "mlp_only_layers": [0],
                            "decoder_sparse_step": 1, "norm_topk_prob": True, "qkv_bias": False},
        "tensors": shared_sigmoid_tensors,
        "prompt": "Nobody had wound the tower clock for years. On Friday it struck nine, and from every window came",
    },
    "deepseek-tiny": {
        "config": DEEPSEEK,
        "tensors": deepseek_tensors,
        "prompt": "There was a door at the end of the garden which no one had opened for years. Behind it the",
    },
    "bailingmoe-tiny": {
        "config": BAILING,
        "tensors": bailing_tensors,
        "prompt": "Grandfather's clock struck 13 times that night. That is not right, said Emma, and went down to",
    },
    "bailingmoev2-tiny": {
        "config": BAILING_V2,
        "tensors": bailing_tensors,
        "skipped": ["model.layers.3.enorm.weight"],
        "prompt": "The mayor had lost his hat in the wind. All the children of the town ran after it, and at last",
    },
    "smallthinker-tiny": {
        "config": SMALLTHINKER,
        "tensors": smallthinker_tensors,
        "prompt": "The gardener had planted 9 apple trees along the wall. In the third year they bore fruit, and he",
    },
    "dbrx-tiny": {
        "config": DBRX,
        "tensors": dbrx_tensors,
        # Where it reads the base of the rotation.
        "oracle": {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
        "prompt": "At the end of the pier an old sailor told stories to anyone who would listen. One of them was about",
    },
    "step3p7-tiny": {
        "config": STEP3P7,
        "tensors": step3p7_tensors,
        "skipped": ["model.layers.4.enorm.weight", "model.layers.4.eh_proj.weight"],
        "prompt": "Every morning the ferry crossed the lake with 2 passengers: a woman with a goose, and a boy who",
    },
    "mimov2flash-tiny": {
        "config": MIMO,
        "tensors": mimo_tensors,
        "skipped": ["model.mtp.layers.0.eh_proj.weight"],
        "prompt": "On the last evening of the fair a stranger bought all the lanterns. He hung them in the old oak, and",
    },
}
