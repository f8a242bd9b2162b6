#include "prep/hf/hf_keys.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* Keys that change nothing at inference, whatever they hold: training, bookkeeping, generation
 * defaults that belong in generation_config.json. */
static const char *const ignored[] = {
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "_flash_attn_2_enabled",
    "_experts_implementation",
    "experts_implementation",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "auto_map",
    "bos_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "is_decoder", /* every model here is one, whatever the key holds */
    "use_cache",
    "cache_implementation",
    "initializer_range",
    "attention_dropout",
    "hidden_dropout",
    "resid_dropout",
    "embd_dropout",
    "residual_dropout",
    "embedding_dropout",
    "classifier_dropout",
    "dropout",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
    "for_llm_compressor",
    "router_z_loss_coef",
    "seq_aux",
    "ep_size",
    "aux_loss_alpha",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "return_dict_in_generate",
    "return_dict_for_generation",
    "chunk_size_feed_forward",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    "finetuning_task",
    "pretraining_tp",
    "torchscript",
    "use_bfloat16",
    "pruned_heads",
    "tf_legacy_loss",
    "tokenizer_class",
    "prefix",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "do_sample",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "max_length",
    "min_length",
    "early_stopping",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "diversity_penalty",
    "remove_invalid_values",
    "output_scores",
    "max_new_tokens",
    "unsloth_version",
    "unsloth_fixed",
    "model_max_length",
    "gradient_checkpointing",
    "tie_last_hidden_states",
    "initial_context_length", /* what YaRN starts from, which its own object says too */
    "mamba_ssm_dtype",
    "vocab_size_per_layer_input", /* of inputs by layer, whose width is 0 */
    /* further tokens predicted at once */
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    "mtp_per_layer_config",
    "mtp_transformer_layers",
    "mtp_layer_types",
    "mtp_mlp_layer_types",
    "mtp_base_layer_idx",
    "use_mtp",
    "load_balance_coeff",
    "output_dropout",
    "use_grouped_mm",
};

/* Keys of a wrapper that have nothing to do with its text model. */
static const char *const wrapper_ignored[] = {
    "architectures",
    "model_type",
    "tie_word_embeddings",
    "quantization_config",
    "eos_token_id",
    "vision_config",
    "audio_config",
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "video_token_index",
    "audio_token_id",
    "audio_token_index",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
    "vision_soft_tokens_per_image",
    "audio_ms_per_token",
    "audio_soft_tokens_per_image",
    "boi_token_id",
    "eoi_token_id",
    "boa_token_id",
    "eoa_token_id",
    "boi_token_index",
    "eoi_token_index",
    "eoa_token_index",
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
    "audio_start_token_id",
    "audio_end_token_id",
    "understand_projector_stride",
    "projector_bias",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "spatial_merge_size",
    "vision_feature_layer",
    "alignment_intermediate_size",
    "downsample_factor",
    /* of what speaks beside a text model */
    "talker_config",
    "code2wav_config",
    "enable_audio_output",
    "position_id_per_seconds",
    "seconds_per_chunk",
    "im_start_token_id",
    "im_end_token_id",
    "system_token_id",
    "user_token_id",
    "assistant_token_id",
    "tts_pad_token_id",
    "tts_bos_token_id",
    "tts_eos_token_id",
};

/* Keys of other models, exporters and quantizers that change the arithmetic, and the number at
 * which they change nothing. */
static const struct neutral_key {
    const char *name;
    double neutral;
} refused[] = {
    {"per_layer_config", 0},
    {"text_config", 0},
    {"vision_config", 0},
    {"audio_config", 0},
    {"is_encoder_decoder", 0},
    {"add_cross_attention", 0},
    {"cross_attention_hidden_size", 0},
    {"tie_encoder_decoder", 0},
    {"attention_multiplier", HF_NO_NUMBER},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"logits_scaling", 1},
    {"logit_scale", 1},
    {"scale_emb", 1},
    {"scale_depth", HF_NO_NUMBER},
    {"query_pre_attn_scalar", HF_NO_NUMBER},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"attention_chunk_size", 0},
    {"attention_sinks", 0},
    {"use_attention_sinks", 0},
    {"no_rope_layers", 0},
    {"no_rope_layer_interval", 0},
    {"nope_layers", 0},
    {"rope_interleave", 0},
    {"rope_interleaved", 0},
    {"rotary_pct", 1},
    {"rotary_dim", HF_NO_NUMBER},
    {"alibi", 0},
    {"mlp_bias", 0},
    {"use_bias", 0},
    {"add_bias_linear", 0},
    {"lm_head_bias", 0},
    {"qk_layernorm", 0},
    {"num_shared_experts", 0},
    {"n_shared_experts", 0},
    {"moe_num_shared_experts", 0},
    {"shared_intermediate_size", 0},
    {"n_group", 1},
    {"topk_group", 1},
    {"num_expert_group", 1},
    {"num_expert_groups", 1},
    {"num_limited_groups", 1},
    {"layernorm_full_attention_beta", 1},
    {"layernorm_linear_attention_beta", 1},
    {"layernorm_mlp_beta", 1},
    {"topk_method", HF_NO_NUMBER},
    {"scoring_func", HF_NO_NUMBER},
    {"score_function", HF_NO_NUMBER},
    {"routed_scaling_factor", 1},
    {"moe_router_activation_func", HF_NO_NUMBER},
    {"use_routing_bias", 0},
    {"router_bias", 0},
    {"moe_layer_freq", 1},
    {"first_k_dense_replace", 0},
    {"num_nextn_predict_layers", 0},
    {"num_zero_experts", 0},
    {"swiglu_limit", 0},
    {"moe_intermediate_sizes", 0},
    {"kv_lora_rank", 0},
    {"q_lora_rank", 0},
    {"full_attention_interval", 1},
    {"layer_norm_eps", HF_NO_NUMBER},
    {"norm_after", 0},
    {"hybrid_override_pattern", 0},
};

/* Keys that name what every model here does: null or true says nothing, anything else asks for
 * other arithmetic, false and 0 too. */
static const char *const always[] = {"is_causal", "use_causal_mask", "use_rope"};

bool hf_keys_neutral(const json_t *v, double neutral) {
    return json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0) ||
           (json_is_number(v) && neutral >= 0 && json_number_value(v) == neutral) ||
           (json_is_true(v) && neutral == 1);
}

const char *hf_keys_text(const json_t *v, char text[64]) {
    char *dump = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    snprintf(text, 64, "%.60s", dump ? dump : "?");
    free(dump);
    return text;
}

bool hf_keys_among(const char *name, const char *const *list, size_t max) {
    for (size_t i = 0; i < max && list[i]; i++) {
        if (strcmp(list[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static const struct neutral_key *find_refused(const char *name) {
    for (size_t i = 0; i < COUNT(refused); i++) {
        if (strcmp(refused[i].name, name) == 0) {
            return &refused[i];
        }
    }
    return NULL;
}

/* A key that nobody reads. */
static int check_key(const char *name, const json_t *v, const char *family, const char *path,
                     struct err *err) {
    char text[64];
    const struct neutral_key *k = find_refused(name);
    bool held = hf_keys_among(name, always, COUNT(always));
    if (hf_keys_among(name, ignored, COUNT(ignored)) ||
        (held ? json_is_null(v) || json_is_true(v) : hf_keys_neutral(v, k ? k->neutral : 0))) {
        return 0;
    }
    if (k || held) {
        return err_set(err,
                       "%s: %s is %s: it changes the arithmetic and is not supported in the "
                       "%s family",
                       path, name, hf_keys_text(v, text), family);
    }
    return err_set(err,
                   "%s: unknown key %.64s is %s: the %s family as it is known has none such, "
                   "and it may change the arithmetic",
                   path, name, hf_keys_text(v, text), family);
}

int hf_keys_check(const json_t *root, bool (*is_read)(const void *ctx, const char *name),
                  const void *ctx, const char *family, const char *path, struct err *err) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)root, name, v) {
        if (!is_read(ctx, name) && check_key(name, v, family, path, err) < 0) {
            return -1;
        }
    }
    return 0;
}

int hf_keys_check_wrapper(const json_t *root, const json_t *text, const char *family,
                          const char *path, struct err *err) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)root, name, v) {
        if (v != text && !json_equal(v, json_object_get(text, name)) &&
            !hf_keys_among(name, wrapper_ignored, COUNT(wrapper_ignored)) &&
            check_key(name, v, family, path, err) < 0) {
            return -1;
        }
    }
    return 0;
}
