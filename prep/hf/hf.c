#include "prep/hf/hf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HF_MAX_CONFIG_BYTES = 16 << 20,
    HF_NAME_BYTES = 128,
    EXPERT_PARTS = 3,
};

/* ---- names ---- */

enum when { ALWAYS, IN_DENSE_LAYER, IN_MOE_LAYER };
/* A tensor holds one matrix, or those of all experts: [E, 2 * ffn_dim, dim] with the gate's rows
 * before up's, and [E, dim, ffn_dim]. */
enum layout { SINGLE, FUSED_GATE, FUSED_UP, FUSED_DOWN };

#define LAYER "model.layers.{L}."
enum {
    ANY = HF_ANY_FAMILY,
    QWEN = HF_QWEN2_MOE | HF_QWEN3_MOE,
    NORMED = HF_OLMOE | HF_QWEN3_MOE,
    NOT_MIXTRAL = HF_ANY_FAMILY & ~HF_MIXTRAL,
};

/* {L} and {E} stand for layer and expert. Where a slot has several rows, the first that exists
 * counts. */
static const struct name_row {
    enum slot_id slot;
    unsigned families;
    enum when when;
    const char *pattern;
    enum layout layout;
} names[] = {
    {SLOT_EMBED, ANY, ALWAYS, "model.embed_tokens.weight", SINGLE},
    {SLOT_OUT_NORM, ANY, ALWAYS, "model.norm.weight", SINGLE},
    {SLOT_HEAD, ANY, ALWAYS, "lm_head.weight", SINGLE},
    {SLOT_ATTN_NORM, ANY, ALWAYS, LAYER "input_layernorm.weight", SINGLE},
    {SLOT_Q, ANY, ALWAYS, LAYER "self_attn.q_proj.weight", SINGLE},
    {SLOT_K, ANY, ALWAYS, LAYER "self_attn.k_proj.weight", SINGLE},
    {SLOT_V, ANY, ALWAYS, LAYER "self_attn.v_proj.weight", SINGLE},
    {SLOT_O, ANY, ALWAYS, LAYER "self_attn.o_proj.weight", SINGLE},
    {SLOT_Q_BIAS, ANY, ALWAYS, LAYER "self_attn.q_proj.bias", SINGLE},
    {SLOT_K_BIAS, ANY, ALWAYS, LAYER "self_attn.k_proj.bias", SINGLE},
    {SLOT_V_BIAS, ANY, ALWAYS, LAYER "self_attn.v_proj.bias", SINGLE},
    {SLOT_O_BIAS, ANY, ALWAYS, LAYER "self_attn.o_proj.bias", SINGLE},
    {SLOT_Q_NORM, NORMED, ALWAYS, LAYER "self_attn.q_norm.weight", SINGLE},
    {SLOT_K_NORM, NORMED, ALWAYS, LAYER "self_attn.k_norm.weight", SINGLE},
    {SLOT_FFN_NORM, ANY, ALWAYS, LAYER "post_attention_layernorm.weight", SINGLE},
    {SLOT_ROUTER, HF_MIXTRAL, ALWAYS, LAYER "block_sparse_moe.gate.weight", SINGLE},
    {SLOT_ROUTER, ANY, ALWAYS, LAYER "mlp.gate.weight", SINGLE},
    {SLOT_MLP_GATE, QWEN, IN_DENSE_LAYER, LAYER "mlp.gate_proj.weight", SINGLE},
    {SLOT_MLP_UP, QWEN, IN_DENSE_LAYER, LAYER "mlp.up_proj.weight", SINGLE},
    {SLOT_MLP_DOWN, QWEN, IN_DENSE_LAYER, LAYER "mlp.down_proj.weight", SINGLE},
    {SLOT_MLP_GATE, HF_QWEN2_MOE, IN_MOE_LAYER, LAYER "mlp.shared_expert.gate_proj.weight", SINGLE},
    {SLOT_MLP_UP, HF_QWEN2_MOE, IN_MOE_LAYER, LAYER "mlp.shared_expert.up_proj.weight", SINGLE},
    {SLOT_MLP_DOWN, HF_QWEN2_MOE, IN_MOE_LAYER, LAYER "mlp.shared_expert.down_proj.weight", SINGLE},
    {SLOT_MLP_SWITCH, HF_QWEN2_MOE, IN_MOE_LAYER, LAYER "mlp.shared_expert_gate.weight", SINGLE},
    {SLOT_EXPERT_GATE, HF_MIXTRAL, ALWAYS, LAYER "block_sparse_moe.experts.{E}.w1.weight", SINGLE},
    {SLOT_EXPERT_UP, HF_MIXTRAL, ALWAYS, LAYER "block_sparse_moe.experts.{E}.w3.weight", SINGLE},
    {SLOT_EXPERT_DOWN, HF_MIXTRAL, ALWAYS, LAYER "block_sparse_moe.experts.{E}.w2.weight", SINGLE},
    {SLOT_EXPERT_GATE, NOT_MIXTRAL, ALWAYS, LAYER "mlp.experts.{E}.gate_proj.weight", SINGLE},
    {SLOT_EXPERT_UP, NOT_MIXTRAL, ALWAYS, LAYER "mlp.experts.{E}.up_proj.weight", SINGLE},
    {SLOT_EXPERT_DOWN, NOT_MIXTRAL, ALWAYS, LAYER "mlp.experts.{E}.down_proj.weight", SINGLE},
    {SLOT_EXPERT_GATE, ANY, ALWAYS, LAYER "mlp.experts.gate_up_proj", FUSED_GATE},
    {SLOT_EXPERT_UP, ANY, ALWAYS, LAYER "mlp.experts.gate_up_proj", FUSED_UP},
    {SLOT_EXPERT_DOWN, ANY, ALWAYS, LAYER "mlp.experts.down_proj", FUSED_DOWN},
};

/* Tensors of a checkpoint that are no weights: buffers that old exporters wrote along. */
static const char *const ignored_suffixes[] = {
    ".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached",
    ".self_attn.bias",      ".self_attn.masked_bias",
};

static void expand(const char *pattern, uint32_t layer, uint32_t expert, char out[HF_NAME_BYTES]) {
    size_t n = 0;
    for (const char *p = pattern; *p && n + 12 < HF_NAME_BYTES;) {
        bool is_layer = strncmp(p, "{L}", 3) == 0;
        if (is_layer || strncmp(p, "{E}", 3) == 0) {
            n += (size_t)snprintf(out + n, HF_NAME_BYTES - n, "%u", is_layer ? layer : expert);
            p += 3;
        } else {
            out[n++] = *p++;
        }
    }
    out[n] = '\0';
}

/* ---- binding ---- */

struct binder {
    struct hf_model *m;
    bool *used; /* [st_count] tensors that some slot holds */
};

static bool row_applies(const struct name_row *r, const struct hf_model *m, enum slot_id slot,
                        uint32_t layer) {
    if (r->slot != slot || !(r->families & m->config.family)) {
        return false;
    }
    return r->when == ALWAYS || (r->when == IN_MOE_LAYER) == ((arch_is_moe(hf_arch(m), layer)));
}

/* The shape that a tensor must have: `shape` [3], returns the number of dimensions. */
static uint32_t expected_shape(const struct arch *a, enum layout layout, uint32_t rows,
                               uint32_t cols, uint64_t shape[3]) {
    if (layout == SINGLE) {
        shape[0] = rows;
        shape[1] = cols;
        return 2;
    }
    shape[0] = a->n_experts;
    shape[1] = layout == FUSED_DOWN ? rows : 2 * (uint64_t)rows;
    shape[2] = cols;
    return 3;
}

static int check_tensor(const struct arch *a, const struct st_tensor *t, enum layout layout,
                        uint32_t rows, uint32_t cols, struct err *err) {
    if (t->dtype != ST_BF16 && t->dtype != ST_F16 && t->dtype != ST_F32) {
        return err_set(err,
                       "%s: tensor \"%s\": dtype %s is not supported; supported: BF16, F16, F32",
                       t->file, t->name, t->dtype_name);
    }
    struct st_tensor want = *t;
    want.n_dims = expected_shape(a, layout, rows, cols, want.shape);
    bool same = t->n_dims == want.n_dims;
    for (uint32_t d = 0; same && d < t->n_dims; d++) {
        same = t->shape[d] == want.shape[d];
    }
    if (rows == 1 && t->n_dims == 1) { /* a vector */
        same = t->shape[0] == cols;
    }
    if (!same) {
        char expected[192], got[192];
        if (rows == 1 && layout == SINGLE) {
            want.n_dims = 1;
            want.shape[0] = cols;
        }
        return err_set(err, "%s: tensor \"%s\": shape is %s, config.json implies %s", t->file,
                       t->name, st_shape_text(t, got), st_shape_text(&want, expected));
    }
    return 0;
}

/* Nothing has the slot's tensor: name all spellings. */
static int missing(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                   struct err *err) {
    char text[4 * HF_NAME_BYTES] = "";
    size_t n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (row_applies(&names[i], m, slot, layer)) {
            char name[HF_NAME_BYTES];
            expand(names[i].pattern, layer, expert, name);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\"", n ? " or " : "", name);
        }
    }
    return err_set(err, "%s: tensor %s is missing", m->dir, text);
}

/* Find and check the tensor of a slot that the model has. */
static int bind(struct binder *b, enum slot_id slot, uint32_t layer, uint32_t expert,
                struct hf_ref *ref, struct err *err) {
    struct hf_model *m = b->m;
    const struct arch *a = hf_arch(m);
    const struct slot *s = slot_at(slot);
    uint32_t rows = s->rows(a, layer), cols = s->cols(a, layer);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct name_row *r = &names[i];
        if (!row_applies(r, m, slot, layer)) {
            continue;
        }
        char name[HF_NAME_BYTES];
        expand(r->pattern, layer, expert, name);
        const struct st_tensor *t = st_find(m->st, name);
        if (!t) {
            continue;
        }
        if (check_tensor(a, t, r->layout, rows, cols, err)) {
            return -1;
        }
        uint64_t matrix = (uint64_t)rows * cols;
        ref->tensor = t;
        ref->first = r->layout == SINGLE ? 0
                     : r->layout == FUSED_DOWN
                         ? expert * matrix
                         : (2 * (uint64_t)expert + (r->layout == FUSED_UP)) * matrix;
        b->used[t - st_at(m->st, 0)] = true;
        return 0;
    }
    return missing(m, slot, layer, expert, err);
}

static struct hf_ref *trunk_ref(const struct hf_model *m, enum slot_id slot, uint32_t layer) {
    size_t row = slot_at(slot)->scope == SLOT_OF_MODEL ? 0 : 1 + (size_t)layer;
    return &m->trunk[row * SLOT_COUNT + slot];
}

static struct hf_ref *expert_ref(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                                 uint32_t expert) {
    size_t at = (size_t)layer * hf_arch(m)->n_experts + expert;
    return &m->experts[at * EXPERT_PARTS + (slot - SLOT_EXPERT_GATE)];
}

/* Compare slice by slice, so that no more than a slice counts as used memory. */
static bool same_bytes(const struct st_tensor *a, const struct st_tensor *b) {
    enum { SLICE = 16 << 20 };
    bool same = a->bytes == b->bytes;
    for (uint64_t at = 0; same && at < a->bytes; at += SLICE) {
        uint64_t n = a->bytes - at < SLICE ? a->bytes - at : SLICE;
        same = memcmp(a->data + at, b->data + at, n) == 0;
        st_drop_range(a, at, n);
        st_drop_range(b, at, n);
    }
    return same;
}

/* Whether output head and embedding are one matrix. As transformers does it: a tied model may
 * still store the head, which counts where it differs. A file that does not say ties where it
 * has no head. */
static void settle_tied(struct hf_model *m) {
    struct arch *a = &m->config.arch;
    const struct st_tensor *head = st_find(m->st, "lm_head.weight");
    const struct st_tensor *embed = st_find(m->st, "model.embed_tokens.weight");
    if (!head && !m->config.tied_given && !a->tied) {
        a->tied = 1;
        buf_printf(&m->config.warnings,
                   "%s: no lm_head.weight: the embedding is used as output head\n", m->dir);
    } else if (head && embed && a->tied) {
        if (!same_bytes(head, embed)) {
            a->tied = 0;
            buf_printf(
                &m->config.warnings,
                "%s: tie_word_embeddings is true, but lm_head.weight differs from the embedding: "
                "both are kept\n",
                m->dir);
        }
    }
}

static bool is_ignored(const struct hf_model *m, const char *name) {
    if (hf_arch(m)->tied && strcmp(name, "lm_head.weight") == 0) {
        return true;
    }
    for (size_t i = 0; i < sizeof ignored_suffixes / sizeof *ignored_suffixes; i++) {
        size_t n = strlen(name), k = strlen(ignored_suffixes[i]);
        if (n > k && strcmp(name + n - k, ignored_suffixes[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int bind_layer_experts(struct binder *b, uint32_t layer, struct err *err) {
    const struct arch *a = hf_arch(b->m);
    for (uint32_t e = 0; arch_is_moe(a, layer) && e < a->n_experts; e++) {
        for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
            if (bind(b, s, layer, e, expert_ref(b->m, s, layer, e), err)) {
                return -1;
            }
        }
    }
    return 0;
}

static int bind_all(struct binder *b, struct err *err) {
    struct hf_model *m = b->m;
    const struct arch *a = hf_arch(m);
    for (uint32_t s = 0; s < SLOT_COUNT; s++) {
        const struct slot *slot = slot_at(s);
        if (slot->scope == SLOT_OF_MODEL && slot_present(slot, a, 0) &&
            bind(b, s, 0, 0, trunk_ref(m, s, 0), err)) {
            return -1;
        }
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t s = 0; s < SLOT_COUNT; s++) {
            const struct slot *slot = slot_at(s);
            if (slot->scope == SLOT_OF_LAYER && slot_present(slot, a, l) &&
                bind(b, s, l, 0, trunk_ref(m, s, l), err)) {
                return -1;
            }
        }
        if (bind_layer_experts(b, l, err)) {
            return -1;
        }
    }
    for (size_t i = 0; i < st_count(m->st); i++) {
        const struct st_tensor *t = st_at(m->st, i);
        if (!b->used[i] && !is_ignored(m, t->name)) {
            return err_set(err, "%s: tensor \"%s\" has no place in a %s model with %u layers",
                           t->file, t->name, a->family, a->n_layers);
        }
    }
    return 0;
}

/* ---- opening ---- */

static int read_config(struct hf_model *m, struct err *err) {
    int rc = -1;
    uint8_t *config = NULL, *generation = NULL;
    size_t config_bytes = 0, generation_bytes = 0;
    char *config_path = mem_printf("%s/config.json", m->dir);
    char *generation_path = mem_printf("%s/generation_config.json", m->dir);
    if (access(config_path, F_OK) != 0) {
        err_set(err, "%s: no config.json: not a Hugging Face checkpoint", m->dir);
        goto out;
    }
    if (file_read(config_path, HF_MAX_CONFIG_BYTES, &config, &config_bytes, err) ||
        (access(generation_path, F_OK) == 0 &&
         file_read(generation_path, HF_MAX_CONFIG_BYTES, &generation, &generation_bytes, err))) {
        goto out;
    }
    rc = hf_config_parse(
        &m->config, (struct hf_json){config_path, (const char *)config, config_bytes},
        (struct hf_json){generation_path, (const char *)generation, generation_bytes}, err);
out:
    free(config);
    free(generation);
    free(config_path);
    free(generation_path);
    return rc;
}

int hf_open(struct hf_model *m, const char *dir, struct err *err) {
    memset(m, 0, sizeof *m);
    m->dir = mem_strdup(dir);
    if (read_config(m, err) || st_open(&m->st, dir, err)) {
        return -1;
    }
    settle_tied(m);
    const struct arch *a = hf_arch(m);
    m->trunk = mem_calloc((1 + (size_t)a->n_layers) * SLOT_COUNT, sizeof *m->trunk);
    m->experts = mem_calloc((size_t)a->n_layers * a->n_experts * EXPERT_PARTS, sizeof *m->experts);
    struct binder b = {m, mem_calloc(st_count(m->st), sizeof *b.used)};
    int rc = bind_all(&b, err);
    free(b.used);
    return rc;
}

void hf_close(struct hf_model *m) {
    free(m->dir);
    free(m->trunk);
    free(m->experts);
    st_close(m->st);
    hf_config_free(&m->config);
    memset(m, 0, sizeof *m);
}

/* ---- reading ---- */

static struct hf_ref find_ref(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                              uint32_t expert) {
    return slot_at(slot)->scope == SLOT_OF_EXPERT ? *expert_ref(m, slot, layer, expert)
                                                  : *trunk_ref(m, slot, layer);
}

static enum codec_id native_codec(enum st_dtype dtype) {
    return dtype == ST_BF16 ? CODEC_BF16 : dtype == ST_F16 ? CODEC_F16 : CODEC_F32;
}

struct weight hf_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                        uint32_t expert) {
    struct hf_ref ref = find_ref(m, slot, layer, expert);
    struct weight w = {0};
    if (!ref.tensor) {
        return w;
    }
    w.codec = codec_by_id(native_codec(ref.tensor->dtype));
    w.rows = slot_at(slot)->rows(hf_arch(m), layer);
    w.cols = slot_at(slot)->cols(hf_arch(m), layer);
    w.stride_bytes = codec_row_bytes(w.codec, w.cols);
    w.data = ref.tensor->data + ref.first * st_element_bytes(ref.tensor->dtype);
    return w;
}

/* `x` holds the n weights from element `first` of tensor `t`: all finite? */
static int check_finite(const struct st_tensor *t, uint64_t first, const float *x, uint64_t n,
                        struct err *err) {
    uint32_t bad = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    if (!bad) {
        return 0;
    }
    uint64_t i = 0;
    while (isfinite(x[i])) {
        i++;
    }
    struct st_tensor at = *t; /* its "shape" becomes the element's index */
    uint64_t rest = first + i;
    for (uint32_t d = t->n_dims; d-- > 0;) {
        at.shape[d] = rest % t->shape[d];
        rest /= t->shape[d];
    }
    char text[192];
    return err_set(err, "%s: tensor \"%s\": weight %s is %s", t->file, t->name,
                   st_shape_text(&at, text), isnan(x[i]) ? "NaN" : "infinite");
}

static int read_elements(const struct hf_ref *ref, uint64_t first, uint64_t n, float *dst,
                         struct err *err) {
    st_read_f32(ref->tensor, ref->first + first, n, dst);
    return check_finite(ref->tensor, ref->first + first, dst, n, err);
}

int hf_tensor_rows(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                   uint32_t first_row, uint32_t n_rows, float *dst, struct err *err) {
    struct hf_ref ref = find_ref(m, slot, layer, expert);
    uint64_t cols = slot_at(slot)->cols(hf_arch(m), layer);
    return read_elements(&ref, first_row * cols, n_rows * cols, dst, err);
}

/* Columns [first, first + n) of `down` [dim, ffn_dim] as rows, tile by tile: a tile reads whole
 * cache lines of the one and writes whole lines of the other. */
static int read_transposed(const struct hf_ref *ref, const struct arch *a, uint32_t first,
                           uint32_t n, float *dst, struct err *err) {
    enum { TILE_ROWS = 16, TILE_COLS = 64 };
    float tile[TILE_ROWS][TILE_COLS];
    for (uint32_t d0 = 0; d0 < a->dim; d0 += TILE_ROWS) {
        uint32_t rows = a->dim - d0 < TILE_ROWS ? a->dim - d0 : TILE_ROWS;
        for (uint32_t j0 = 0; j0 < n; j0 += TILE_COLS) {
            uint32_t cols = n - j0 < TILE_COLS ? n - j0 : TILE_COLS;
            for (uint32_t d = 0; d < rows; d++) {
                uint64_t at = (uint64_t)(d0 + d) * a->ffn_dim + first + j0;
                if (read_elements(ref, at, cols, tile[d], err)) {
                    return -1;
                }
            }
            for (uint32_t j = 0; j < cols; j++) {
                float *out = dst + (uint64_t)(j0 + j) * a->dim + d0;
                for (uint32_t d = 0; d < rows; d++) {
                    out[d] = tile[d][j];
                }
            }
        }
    }
    return 0;
}

int hf_expert_neurons(const struct hf_model *m, uint32_t layer, uint32_t expert, uint32_t first,
                      uint32_t n, float *gate, float *up, float *down_t, struct err *err) {
    if (hf_tensor_rows(m, SLOT_EXPERT_GATE, layer, expert, first, n, gate, err) ||
        hf_tensor_rows(m, SLOT_EXPERT_UP, layer, expert, first, n, up, err)) {
        return -1;
    }
    return read_transposed(expert_ref(m, SLOT_EXPERT_DOWN, layer, expert), hf_arch(m), first, n,
                           down_t, err);
}

int hf_expert(const struct hf_model *m, uint32_t layer, uint32_t expert, float *gate, float *up,
              float *down_t, struct err *err) {
    return hf_expert_neurons(m, layer, expert, 0, hf_arch(m)->ffn_dim, gate, up, down_t, err);
}

/* ---- advice ---- */

static void advise_rows(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                        uint32_t expert, uint32_t first_row, uint32_t n_rows,
                        void (*advise)(const struct st_tensor *t, uint64_t first, uint64_t bytes)) {
    struct hf_ref ref = find_ref(m, slot, layer, expert);
    uint64_t cols = slot_at(slot)->cols(hf_arch(m), layer);
    uint64_t size = st_element_bytes(ref.tensor->dtype);
    advise(ref.tensor, (ref.first + first_row * cols) * size, n_rows * cols * size);
}

static void advise_expert(const struct hf_model *m, uint32_t layer, uint32_t expert,
                          void (*advise)(const struct st_tensor *t, uint64_t first,
                                         uint64_t bytes)) {
    for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
        advise_rows(m, s, layer, expert, 0, slot_at(s)->rows(hf_arch(m), layer), advise);
    }
}

void hf_rows_done(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                  uint32_t first_row, uint32_t n_rows) {
    advise_rows(m, slot, layer, expert, first_row, n_rows, st_drop_range);
}

void hf_expert_want(const struct hf_model *m, uint32_t layer, uint32_t expert) {
    advise_expert(m, layer, expert, st_want_range);
}

void hf_expert_done(const struct hf_model *m, uint32_t layer, uint32_t expert) {
    advise_expert(m, layer, expert, st_drop_range);
}
