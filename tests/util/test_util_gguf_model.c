#include "tests/util/test_util_gguf_model.h"

#include <string.h>

#include "tests/util/test.h"

static json_t *read_json(const char *dir, const char *name) {
    char *path = mem_printf("%s/%s", dir, name);
    json_t *v = json_load_file(path, 0, NULL);
    free(path);
    return v;
}

struct writing {
    struct gguf_made made;
    const struct hf_model *m;
    const json_t *config;
    const char *arch, *type; /* of all matrices, vectors are F32 */
    bool pairs, split;
};

/* ---- metadata ---- */

/* Keys of config.json, and what they are called in GGUF. */
static const struct {
    const char *hf, *gguf;
    char kind; /* u: integer, f: real, b: truth */
} keys[] = {
    {"hidden_size", "embedding_length", 'u'},
    {"num_hidden_layers", "block_count", 'u'},
    {"max_position_embeddings", "context_length", 'u'},
    {"num_attention_heads", "attention.head_count", 'u'},
    {"num_key_value_heads", "attention.head_count_kv", 'u'},
    {"head_dim", "attention.key_length", 'u'},
    {"head_dim", "attention.value_length", 'u'},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", 'f'},
    {"intermediate_size", "feed_forward_length", 'u'},
    {"moe_intermediate_size", "expert_feed_forward_length", 'u'},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", 'u'},
    {"shared_intermediate_size", "expert_shared_feed_forward_length", 'u'},
    {"num_experts", "expert_count", 'u'},
    {"num_local_experts", "expert_count", 'u'},
    {"n_routed_experts", "expert_count", 'u'},
    {"num_experts_per_tok", "expert_used_count", 'u'},
    {"n_shared_experts", "expert_shared_count", 'u'},
    {"routed_scaling_factor", "expert_weights_scale", 'f'},
    {"n_group", "expert_group_count", 'u'},
    {"topk_group", "expert_group_used_count", 'u'},
    {"first_k_dense_replace", "leading_dense_block_count", 'u'},
    {"num_nextn_predict_layers", "nextn_predict_layers", 'u'},
    {"attention_multiplier", "attention.scale", 'f'},
    {"embedding_multiplier", "embedding_scale", 'f'},
    {"residual_multiplier", "residual_scale", 'f'},
    {"logits_scaling", "logit_scale", 'f'},
    {"q_lora_rank", "attention.q_lora_rank", 'u'},
    {"kv_lora_rank", "attention.kv_lora_rank", 'u'},
    {"qk_rope_head_dim", "rope.dimension_count", 'u'},
};

static void put_number(struct writing *w, const char *key, const json_t *v, char kind) {
    char *full = mem_printf("%s.%s", w->arch, key);
    if (kind == 'u') {
        made_u32(&w->made, full, (uint32_t)json_integer_value(v));
    } else {
        made_f32(&w->made, full, (float)json_number_value(v));
    }
    free(full);
}

static void put_u32(struct writing *w, const char *key, uint32_t value) {
    json_t *v = json_integer(value);
    put_number(w, key, v, 'u');
    json_decref(v);
}

static void put_rope(struct writing *w) {
    const json_t *rope = json_object_get(w->config, "rope_parameters");
    rope = rope && !json_is_null(rope) ? rope : json_object_get(w->config, "rope_scaling");
    const json_t *theta = json_object_get(w->config, "rope_theta");
    const json_t *type = json_object_get(rope, "rope_type");
    type = type ? type : json_object_get(rope, "type");
    put_number(w, "rope.freq_base", theta ? theta : json_object_get(rope, "rope_theta"), 'f');
    const json_t *part = json_object_get(w->config, "partial_rotary_factor");
    if (part) {
        put_u32(w, "rope.dimension_count",
                (uint32_t)(json_number_value(part) *
                           json_integer_value(json_object_get(w->config, "head_dim"))));
    }
    if (!json_is_string(type) || strcmp(json_string_value(type), "default") == 0) {
        return;
    }
    static const char *const numbers[][2] = {
        {"factor", "factor"}, {"beta_fast", "yarn_beta_fast"}, {"beta_slow", "yarn_beta_slow"}};
    char *key = mem_printf("%s.rope.scaling.type", w->arch);
    made_text(&w->made, key, json_string_value(type));
    free(key);
    for (size_t i = 0; i < TEST_COUNT(numbers); i++) {
        const json_t *v = json_object_get(rope, numbers[i][0]);
        key = mem_printf("rope.scaling.%s", numbers[i][1]);
        if (v) {
            put_number(w, key, v, 'f');
        }
        free(key);
    }
    const json_t *original = json_object_get(rope, "original_max_position_embeddings");
    const json_t *all = json_object_get(rope, "mscale_all_dim");
    if (original) {
        put_number(w, "rope.scaling.original_context_length", original, 'u');
    }
    if (all) {
        json_t *tenth = json_real(0.1 * json_number_value(all));
        put_number(w, "rope.scaling.yarn_log_multiplier", tenth, 'f');
        json_decref(tenth);
    }
}

/* Keys that config.json has not so, by architecture. */
static void put_more(struct writing *w) {
    const json_t *gate = json_object_get(w->config, "scoring_func");
    bool sigmoid = strcmp(w->arch, "glm4moe") == 0 ||
                   (gate && strcmp(json_string_value(gate), "sigmoid") == 0);
    if (json_object_get(w->config, "norm_topk_prob") && json_object_get(w->config, "n_group")) {
        char *key = mem_printf("%s.expert_weights_norm", w->arch);
        made_flag(&w->made, key, json_is_true(json_object_get(w->config, "norm_topk_prob")));
        free(key);
        put_u32(w, "expert_gating_func", sigmoid ? 2 : 1);
    }
    if (strcmp(w->arch, "gpt-oss") == 0) {
        put_number(w, "expert_feed_forward_length", json_object_get(w->config, "intermediate_size"),
                   'u');
        put_number(w, "attention.sliding_window", json_object_get(w->config, "sliding_window"),
                   'u');
    }
    if (strcmp(w->arch, "deepseek2") == 0) {
        const struct latent_rule *r = &arch_kind(hf_arch(w->m), 0)->latent;
        put_u32(w, "attention.key_length",
                w->split ? r->rank + r->rope_dim : r->nope_dim + r->rope_dim);
        put_u32(w, "attention.value_length", w->split ? r->rank : r->v_dim);
        if (w->split) {
            put_u32(w, "attention.key_length_mla", r->nope_dim + r->rope_dim);
            put_u32(w, "attention.value_length_mla", r->v_dim);
        }
    }
}

static void put_keys(struct writing *w) {
    const uint32_t further = w->m->config.further_layers;
    made_text(&w->made, "general.architecture", w->arch);
    made_text(&w->made, "general.name", "golden");
    for (size_t i = 0; i < TEST_COUNT(keys); i++) {
        const json_t *v = json_object_get(w->config, keys[i].hf);
        if (strcmp(keys[i].gguf, "block_count") == 0) {
            put_u32(w, keys[i].gguf, hf_arch(w->m)->n_layers + further);
        } else if (strcmp(keys[i].gguf, "attention.head_count_kv") == 0 && w->split) {
            put_u32(w, keys[i].gguf, 1);
        } else if (v && !json_is_null(v)) {
            put_number(w, keys[i].gguf, v, keys[i].kind);
        }
    }
    put_rope(w);
    put_more(w);
}

/* ---- the tokenizer ---- */

static void put_tokens(struct gguf_made *made, const json_t *tokenizer, uint32_t n) {
    const json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab");
    const char **texts = mem_calloc(n, sizeof *texts), *text;
    int32_t *types = mem_calloc(n, sizeof *types);
    struct buf items = {0};
    json_t *id, *row;
    size_t i;
    json_object_foreach((json_t *)vocab, text, id) {
        texts[json_integer_value(id)] = text;
        types[json_integer_value(id)] = 1;
    }
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, row) {
        const json_int_t at = json_integer_value(json_object_get(row, "id"));
        texts[at] = json_string_value(json_object_get(row, "content"));
        types[at] = json_is_true(json_object_get(row, "special")) ? 3 : 4;
    }
    for (uint32_t t = 0; t < n; t++) {
        char pad[32];
        snprintf(pad, sizeof pad, "[PAD%u]", t);
        types[t] = texts[t] ? types[t] : 5;
        made_item(&items, texts[t] ? texts[t] : pad, strlen(texts[t] ? texts[t] : pad));
    }
    made_list(made, "tokenizer.ggml.tokens", GGUF_STRING, n, items.data, items.len);
    made_list(made, "tokenizer.ggml.token_type", GGUF_I32, n, types, n * sizeof *types);
    buf_free(&items);
    free(texts);
    free(types);
}

static void put_merges(struct gguf_made *made, const json_t *tokenizer) {
    const json_t *merges = json_object_get(json_object_get(tokenizer, "model"), "merges");
    struct buf items = {0};
    json_t *merge;
    size_t i;
    json_array_foreach((json_t *)merges, i, merge) {
        char *text = json_is_array(merge)
                         ? mem_printf("%s %s", json_string_value(json_array_get(merge, 0)),
                                      json_string_value(json_array_get(merge, 1)))
                         : mem_strdup(json_string_value(merge));
        made_item(&items, text, strlen(text));
        free(text);
    }
    made_list(made, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges), items.data,
              items.len);
    buf_free(&items);
}

void made_tokenizer(struct gguf_made *m, const json_t *tokenizer, const char *pre, uint32_t rows) {
    made_text(m, "tokenizer.ggml.model", "gpt2");
    made_text(m, "tokenizer.ggml.pre", pre);
    put_tokens(m, tokenizer, rows);
    put_merges(m, tokenizer);
}

static void put_tokenizer(struct writing *w, const char *dir) {
    json_t *tokenizer = read_json(dir, "tokenizer.json"),
           *config = read_json(dir, "tokenizer_config.json"),
           *generation = read_json(dir, "generation_config.json");
    static const char *const sampling[][2] = {
        {"temperature", "general.sampling.temp"},
        {"top_p", "general.sampling.top_p"},
        {"repetition_penalty", "general.sampling.penalty_repeat"}};
    const struct arch *a = hf_arch(w->m);
    made_tokenizer(&w->made, tokenizer, "gpt-2", a->vocab);
    made_u32(&w->made, "tokenizer.ggml.bos_token_id", 0);
    made_u32(&w->made, "tokenizer.ggml.eos_token_id", a->stop_ids[0]);
    if (a->n_stop > 1) {
        made_u32(&w->made, "tokenizer.ggml.eot_token_id", a->stop_ids[1]);
    }
    made_flag(&w->made, "tokenizer.ggml.add_bos_token",
              json_is_true(json_object_get(config, "add_bos_token")));
    const json_t *chat = json_object_get(config, "chat_template");
    if (chat) {
        made_text(&w->made, "tokenizer.chat_template", json_string_value(chat));
    }
    for (size_t i = 0; i < TEST_COUNT(sampling); i++) {
        const json_t *v = json_object_get(generation, sampling[i][0]);
        if (v) {
            made_f32(&w->made, sampling[i][1], (float)json_number_value(v));
        }
    }
    const json_t *top = json_object_get(generation, "top_k");
    if (top) {
        made_u32(&w->made, "general.sampling.top_k", (uint32_t)json_integer_value(top));
    }
    json_decref(tokenizer);
    json_decref(config);
    json_decref(generation);
}

/* ---- tensors ---- */

static const struct {
    enum slot_id slot;
    const char *name;
} names[] = {
    {SLOT_EMBED, "token_embd.weight"},
    {SLOT_OUT_NORM, "output_norm.weight"},
    {SLOT_HEAD, "output.weight"},
    {SLOT_ATTN_NORM, "attn_norm.weight"},
    {SLOT_Q, "attn_q.weight"},
    {SLOT_K, "attn_k.weight"},
    {SLOT_V, "attn_v.weight"},
    {SLOT_O, "attn_output.weight"},
    {SLOT_Q_BIAS, "attn_q.bias"},
    {SLOT_K_BIAS, "attn_k.bias"},
    {SLOT_V_BIAS, "attn_v.bias"},
    {SLOT_O_BIAS, "attn_output.bias"},
    {SLOT_Q_NORM, "attn_q_norm.weight"},
    {SLOT_K_NORM, "attn_k_norm.weight"},
    {SLOT_FFN_NORM, "ffn_norm.weight"},
    {SLOT_ROUTER, "ffn_gate_inp.weight"},
    {SLOT_ROUTER_BIAS, "ffn_gate_inp.bias"},
    {SLOT_ROUTER_SELECT, "exp_probs_b.bias"},
    {SLOT_MLP_GATE, "ffn_gate.weight"},
    {SLOT_MLP_UP, "ffn_up.weight"},
    {SLOT_MLP_DOWN, "ffn_down.weight"},
    {SLOT_MLP_SWITCH, "ffn_gate_inp_shexp.weight"},
    {SLOT_SINKS, "attn_sinks.weight"},
    {SLOT_EXPERT_GATE, "ffn_gate_exps.weight"},
    {SLOT_EXPERT_UP, "ffn_up_exps.weight"},
    {SLOT_EXPERT_DOWN, "ffn_down_exps.weight"},
    {SLOT_EXPERT_GATE_BIAS, "ffn_gate_exps.bias"},
    {SLOT_EXPERT_UP_BIAS, "ffn_up_exps.bias"},
    {SLOT_EXPERT_DOWN_BIAS, "ffn_down_exps.bias"},
    {SLOT_LATENT_Q_A, "attn_q_a.weight"},
    {SLOT_LATENT_Q_NORM, "attn_q_a_norm.weight"},
    {SLOT_LATENT_KV_NORM, "attn_kv_a_norm.weight"},
    {SLOT_LATENT_OUT, "attn_output.weight"},
};

static char *name_of(const struct writing *w, enum slot_id slot, uint32_t layer) {
    const char *name = NULL;
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        name = names[i].slot == slot ? names[i].name : name;
    }
    if (!name) {
        fail_msg("no name for %s", slot_at(slot)->name);
    }
    if (slot == SLOT_FFN_NORM && (!strcmp(w->arch, "gpt-oss") || !strcmp(w->arch, "glm4moe"))) {
        name = "post_attention_norm.weight";
    }
    const bool shared =
        slot >= SLOT_MLP_GATE && slot <= SLOT_MLP_DOWN && arch_is_moe(hf_arch(w->m), layer);
    return slot_at(slot)->scope == SLOT_OF_MODEL ? mem_strdup(name)
           : shared ? mem_printf("blk.%u.%.*s_shexp.weight", layer, (int)strcspn(name, "."), name)
                    : mem_printf("blk.%u.%s", layer, name);
}

/* Numbers as a tensor of the case's type, or F32. */
static void put_tensor(struct writing *w, const char *name, uint32_t n_dims, const uint64_t *shape,
                       const float *x) {
    uint64_t n = 1;
    for (uint32_t d = 0; d < n_dims; d++) {
        n *= shape[d];
    }
    if (n_dims == 1 || strcmp(w->type, "F32") == 0) {
        made_tensor(&w->made, name, "F32", n_dims, shape, x, n * sizeof *x);
        return;
    }
    if (strcmp(w->type, "Q8_0") == 0) {
        struct buf blocks = {0};
        for (uint64_t i = 0; i < n; i += 32) {
            uint8_t row[34], block[34]; /* q8 has the scale behind the codes */
            codec_by_id(CODEC_Q8)->encode_row(x + i, 32, row);
            memcpy(block, row + 32, 2);
            memcpy(block + 2, row, 32);
            buf_append(&blocks, block, sizeof block);
        }
        made_tensor(&w->made, name, "Q8_0", n_dims, shape, blocks.data, blocks.len);
        buf_free(&blocks);
        return;
    }
    uint16_t *half = mem_alloc(n * sizeof *half);
    for (uint64_t i = 0; i < n; i++) {
        half[i] = strcmp(w->type, "F16") == 0 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
    }
    made_tensor(&w->made, name, w->type, n_dims, shape, half, n * sizeof *half);
    free(half);
}

static float *rows_of(const struct writing *w, enum slot_id slot, uint32_t layer, uint32_t expert) {
    const uint32_t rows = slot_at(slot)->rows(hf_arch(w->m), layer),
                   cols = slot_at(slot)->cols(hf_arch(w->m), layer);
    float *x = mem_alloc((size_t)rows * cols * sizeof *x);
    struct err err = {0};
    hf_tensor_rows(w->m, slot, layer, expert, 0, rows, x, &err);
    assert_no_err(&err);
    return x;
}

/* Rows i and i + half of each head become 2i and 2i + 1. */
static void put_in_pairs(float *x, uint32_t rows, uint32_t cols, uint32_t head) {
    float *old = mem_alloc((size_t)rows * cols * sizeof *old);
    memcpy(old, x, (size_t)rows * cols * sizeof *old);
    for (uint32_t r = 0; r < rows; r++) {
        const uint32_t i = r % head, to = r - i + (i < head / 2 ? 2 * i : 2 * (i - head / 2) + 1);
        memcpy(x + (size_t)to * cols, old + (size_t)r * cols, cols * sizeof *x);
    }
    free(old);
}

static void put_slot(struct writing *w, enum slot_id slot, uint32_t layer) {
    const struct arch *a = hf_arch(w->m);
    const uint64_t shape[2] = {slot_at(slot)->rows(a, layer), slot_at(slot)->cols(a, layer)};
    const bool vector = shape[0] == 1;
    char *name = name_of(w, slot, layer);
    float *x = rows_of(w, slot, layer, 0);
    if (w->pairs && (slot == SLOT_Q || slot == SLOT_K)) {
        put_in_pairs(x, (uint32_t)shape[0], (uint32_t)shape[1], arch_kind(a, layer)->att.head_dim);
    }
    put_tensor(w, name, vector ? 1 : 2, vector ? shape + 1 : shape, x);
    free(x);
    free(name);
}

static void put_experts(struct writing *w, enum slot_id slot, uint32_t layer) {
    const struct arch *a = hf_arch(w->m);
    const uint64_t shape[3] = {a->n_experts, slot_at(slot)->rows(a, layer),
                               slot_at(slot)->cols(a, layer)};
    const size_t n = shape[1] * shape[2];
    float *all = mem_alloc(a->n_experts * n * sizeof *all);
    char *name = name_of(w, slot, layer);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        float *x = rows_of(w, slot, layer, e);
        memcpy(all + e * n, x, n * sizeof *x);
        free(x);
    }
    put_tensor(w, name, 3, shape, all);
    free(all);
    free(name);
}

/* Blocks of rows of two matrices in turn, as one. */
static void put_both(struct writing *w, const char *name, uint32_t layer, const float *x,
                     uint32_t x_rows, const float *y, uint32_t y_rows, uint32_t blocks,
                     uint32_t cols) {
    const uint64_t shape[2] = {blocks * (x_rows + y_rows), cols};
    float *z = mem_alloc(shape[0] * cols * sizeof *z), *to = z;
    char *full = mem_printf("blk.%u.%s", layer, name);
    for (uint32_t b = 0; b < blocks; b++) {
        memcpy(to, x + (size_t)b * x_rows * cols, x_rows * cols * sizeof *z);
        memcpy(to + x_rows * cols, y + (size_t)b * y_rows * cols, y_rows * cols * sizeof *z);
        to += (x_rows + y_rows) * cols;
    }
    put_tensor(w, full, 2, shape, z);
    free(full);
    free(z);
}

/* What turns is in pairs, in files of latent attention. */
static void put_latent(struct writing *w, uint32_t layer) {
    const struct latent_rule *r = &arch_kind(hf_arch(w->m), layer)->latent;
    const uint32_t dim = hf_arch(w->m)->dim, of_q = r->q_rank ? r->q_rank : dim;
    float *x = rows_of(w, SLOT_LATENT_Q_NOPE, layer, 0),
          *y = rows_of(w, SLOT_LATENT_Q_ROPE, layer, 0);
    put_in_pairs(y, r->n_heads * r->rope_dim, of_q, r->rope_dim);
    put_both(w, r->q_rank ? "attn_q_b.weight" : "attn_q.weight", layer, x, r->nope_dim, y,
             r->rope_dim, r->n_heads, of_q);
    free(x);
    free(y);
    x = rows_of(w, SLOT_LATENT_KV, layer, 0);
    y = rows_of(w, SLOT_LATENT_K_ROPE, layer, 0);
    put_in_pairs(y, r->rope_dim, dim, r->rope_dim);
    put_both(w, "attn_kv_a_mqa.weight", layer, x, r->rank, y, r->rope_dim, 1, dim);
    free(x);
    free(y);
    x = rows_of(w, SLOT_LATENT_K_UP, layer, 0);
    y = rows_of(w, SLOT_LATENT_V_UP, layer, 0);
    if (w->split) {
        const uint64_t k[3] = {r->n_heads, r->rank, r->nope_dim},
                       v[3] = {r->n_heads, r->v_dim, r->rank};
        char *name = mem_printf("blk.%u.attn_k_b.weight", layer);
        put_tensor(w, name, 3, k, x);
        free(name);
        name = mem_printf("blk.%u.attn_v_b.weight", layer);
        put_tensor(w, name, 3, v, y);
        free(name);
    } else {
        float *turned = mem_alloc((size_t)r->n_heads * r->rank * r->nope_dim * sizeof *turned);
        for (uint32_t h = 0; h < r->n_heads; h++) {
            for (uint32_t i = 0; i < r->rank; i++) {
                for (uint32_t k = 0; k < r->nope_dim; k++) {
                    turned[((size_t)h * r->nope_dim + k) * r->rank + i] =
                        x[((size_t)h * r->rank + i) * r->nope_dim + k];
                }
            }
        }
        put_both(w, "attn_kv_b.weight", layer, turned, r->nope_dim, y, r->v_dim, r->n_heads,
                 r->rank);
        free(turned);
    }
    free(x);
    free(y);
}

static bool is_of_latent(enum slot_id slot) {
    return slot == SLOT_LATENT_Q_NOPE || slot == SLOT_LATENT_Q_ROPE || slot == SLOT_LATENT_KV ||
           slot == SLOT_LATENT_K_ROPE || slot == SLOT_LATENT_K_UP || slot == SLOT_LATENT_V_UP;
}

static void put_tensors(struct writing *w) {
    const struct arch *a = hf_arch(w->m);
    for (struct slot_place at = {0}; slot_next(a, &at);) {
        if (!is_of_latent(at.slot)) {
            put_slot(w, at.slot, at.layer);
        }
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t s = SLOT_EXPERT_GATE; arch_is_moe(a, l) && s <= SLOT_EXPERT_DOWN; s++) {
            put_experts(w, s, l);
        }
        if (arch_kind(a, l)->mixer == MIXER_LATENT) {
            put_latent(w, l);
        }
    }
}

void made_golden(struct gguf_made *made, const struct hf_model *m, const char *dir,
                 const struct made_as *as) {
    json_t *config = read_json(dir, "config.json");
    struct writing w = {.made = *made,
                        .m = m,
                        .config = config,
                        .arch = as->arch,
                        .type = as->type,
                        .pairs = as->pairs,
                        .split = as->split};
    put_keys(&w);
    put_tokenizer(&w, dir);
    put_tensors(&w);
    *made = w.made;
    json_decref(config);
}
