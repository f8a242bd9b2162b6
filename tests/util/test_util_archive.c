/*
 * test_util_archive: see test_util_archive.h.
 */
#include "tests/util/test_util_archive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/corm_read.h"

const char archive_tokenizer[] = "not a tokenizer, only bytes in its section";
const char archive_license[] = "Do what you like.\n";
const char archive_provenance[] = "source: made up\noptions: none\n";

static uint64_t next_u64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t below(uint64_t *state, uint32_t n) {
    return (uint32_t)(next_u64(state) % n);
}

/* Roughly normal, sigma about 0.02, and representable as bf16. */
static float weight(uint64_t *state) {
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        sum += (float)(int32_t)(next_u64(state) >> 32) * 0x1p-31f;
    }
    return bf16_to_f32(f32_to_bf16(sum * 0.0175f));
}

/* All layers are of `base`, but for what `moe` and the window say. */
static void set_layers(struct arch *a, const struct layer_kind *base, const uint32_t *moe,
                       uint32_t rope_dim) {
    struct layer_kind *kinds = mem_calloc(a->n_layers, sizeof *kinds);
    float *inv_freq = mem_calloc(rope_dim / 2 + 1, sizeof *inv_freq);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = *base;
        kinds[l].moe = moe[l];
        kinds[l].att.window = l % 2 ? 128 : 0;
    }
    for (uint32_t i = 0; i < rope_dim / 2; i++) {
        inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)rope_dim);
    }
    arch_set_kinds(a, kinds);
    arch_add_rope(a, rope_dim, inv_freq, 1.0f);
    free(kinds);
    free(inv_freq);
}

/* One layer of a kind that the first families do not have. */
static void vary_layer(struct arch *a, struct layer_kind *k, uint64_t *s) {
    k->block.post_norm = below(s, 4);
    k->block.parallel = k->block.post_norm != ARCH_POST_NORM_ONLY && below(s, 2);
    k->shared_scale = below(s, 2) ? 0.5f : 0.0f;
    k->shared_limit = below(s, 2) ? 16.0f : 0.0f;
    k->block.layer_scale = below(s, 2);
    k->block.branch_scale = below(s, 2) ? 0.25f : 0.0f;
    k->route = (struct route_rule){.input = below(s, 3),
                                   .score = below(s, 4),
                                   .by_logits = below(s, 2),
                                   .logit_cap = below(s, 2) ? 30.0f : 0.0f,
                                   .logit_bias = below(s, 2),
                                   .selection_bias = below(s, 2),
                                   .renorm = below(s, 3),
                                   .group_score = below(s, 2),
                                   .factor = below(s, 2),
                                   .eps = below(s, 2) ? 0x1p-20f : 0.0f,
                                   .scale = below(s, 2) ? 2.5f : 1.0f};
    k->route.renorm = k->route.score == ROUTE_SPARSE_MIXER ? ROUTE_RENORM_NONE : k->route.renorm;
    if (k->block.parallel && k->route.input == ROUTE_OWN_NORM) {
        k->route.input = ROUTE_EXPERT_INPUT;
    }
    k->route.groups = a->n_experts % 2 == 0 && below(s, 2) ? 2 : 0;
    k->route.top_groups = k->route.groups ? 1 + below(s, 2) : 0;
    k->ffn.act = below(s, 5);
    k->ffn.bias = below(s, 2);
    k->ffn.limit = k->ffn.act == FFN_SWIGLU_OAI ? 7.0f : 0.0f;
    k->ffn.alpha = k->ffn.act == FFN_SWIGLU_OAI ? 1.702f : 0.0f;
    k->block.dense_beside = k->shared_dim && !k->shared_gate && !k->block.parallel && below(s, 2);
    k->route.on_input =
        a->n_active == 1 && k->block.post_norm != ARCH_POST_NORM_ONLY && !k->block.parallel;
    if (below(s, 3) == 0) {
        k->mixer = MIXER_DELTA_NET;
        k->att = (struct attention_rule){.window = k->att.window};
        k->delta = (struct delta_rule){.k_dim = 1 + below(s, 5), .v_dim = 1 + below(s, 5)};
        k->delta.n_k_heads = 1 + below(s, 3);
        k->delta.n_v_heads = k->delta.n_k_heads * (1 + below(s, 2));
        k->delta.conv = 1 + below(s, 4);
        return;
    }
    if (below(s, 3) == 0) {
        k->mixer = MIXER_LATENT;
        k->att = (struct attention_rule){.window = k->att.window};
        k->latent = (struct latent_rule){.n_heads = 1 + below(s, 3), .rank = 1 + below(s, 9)};
        k->latent.q_rank = below(s, 2) ? 1 + below(s, 9) : 0;
        k->latent.nope_dim = 1 + below(s, 5);
        k->latent.rope_dim = 4 + below(s, 3);
        k->latent.v_dim = 1 + below(s, 5);
        k->latent.rope = 1;
        k->latent.norm_eps = below(s, 2) ? 1e-5f : 0.0f;
        k->latent.scale = below(s, 2) ? 0.5f : 0.0f;
        k->latent.query_beta = below(s, 2) ? 0.25f : 0.0f;
        k->latent.query_tok = k->latent.query_beta > 0 ? 3 : 0;
        return;
    }
    k->att.qk_norm_late = below(s, 2);
    k->att.v_norm = below(s, 2);
    k->att.v_from_k = k->att.v_norm && below(s, 2);
    k->att.gate = below(s, 5);
    k->att.qk_norm = below(s, 4);
    k->att.chunk = k->att.window == 0 && below(s, 2) ? 5 : 0;
    k->att.v_dim = !k->att.v_from_k && below(s, 2) ? 6 : 0;
    k->att.v_scale = below(s, 2) ? 0.75f : 0.0f;
    k->att.temper = below(s, 2) ? 0.25f : 0.0f;
    k->att.temper_tok = k->att.temper > 0 ? 8.0f : 0.0f;
    k->att.sinks = below(s, 2);
    k->att.scale = below(s, 2) ? 1.0f : 0.0f;
    k->att.rope = below(s, 2);
    k->att.head_dim = k->att.rope ? 4 : k->att.head_dim;
}

/* Layers of several kinds, two rope sets, and a last layer that reads the keys of an earlier one of
 * its kind, where there is one. */
static void vary_layers(struct arch *a, uint64_t *s) {
    static const float inv_freq[2] = {1.0f, 0.0f};
    struct layer_kind *kinds = mem_calloc(a->n_layers, sizeof *kinds);
    arch_add_rope(a, 4, inv_freq, 1.25f);
    if (below(s, 2)) {
        const float long_freq[2] = {0.5f, 0.0f};
        arch_add_long_rope(a, 1, 1 + below(s, 100), long_freq, 1.5f);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = *arch_kind(a, l);
        vary_layer(a, &kinds[l], s);
    }
    uint32_t last = a->n_layers - 1;
    if (last > 0 && kinds[0].mixer == MIXER_ATTENTION && below(s, 2)) {
        kinds[last].mixer = MIXER_ATTENTION;
        kinds[last].att = kinds[0].att;
        a->n_kv_layer = a->n_layers;
        a->kv_layer = mem_calloc(a->n_layers, sizeof *a->kv_layer);
        for (uint32_t l = 0; l < last; l++) {
            a->kv_layer[l] = l;
        }
    }
    a->norm = below(s, 3);
    a->head_bias = below(s, 2);
    a->ctx_limit_tok = below(s, 2) ? 512 : 0;
    a->embed_scale = below(s, 2) ? 8.0f : 1.0f;
    a->logit_cap = below(s, 2) ? 30.0f : 0.0f;
    a->logit_scale = below(s, 2) ? 0.125f : 0.0f;
    arch_set_kinds(a, kinds);
    free(kinds);
}

void archive_arch(struct arch *a, uint64_t seed) {
    uint64_t s = seed;
    static const uint32_t patterns[4][3] = {{1, 1, 1}, {0, 1, 1}, {1, 0, 1}, {0, 0, 0}};
    const uint32_t *moe = patterns[seed % 4];
    struct layer_kind k = arch_plain_kind();
    *a = (struct arch){.family = mem_strdup("made-up"),
                       .ctx_max_tok = 64,
                       .norm_eps = 1e-6f,
                       .embed_scale = 1.0f,
                       .gen_top_p = -1.0f,
                       .gen_top_k = 20.0f,
                       .gen_repeat_penalty = -1.0f};
    a->n_layers = 1 + below(&s, 3);
    a->dim = 32 * (1 + below(&s, 3));
    a->vocab = 5 + below(&s, 40);
    k.att.n_kv_heads = 1 + below(&s, 2);
    k.att.head_dim = 2 * (1 + below(&s, 8));
    k.att.qkv_bias = below(&s, 2);
    k.att.o_bias = below(&s, 2);
    k.att.qk_norm = below(&s, 3);
    k.att.clip_qkv = below(&s, 2) ? 8.0f : 0.0f;
    a->n_experts = 2 + below(&s, 3);
    a->ffn_dim = 1 + below(&s, 20);
    k.route.renorm = below(&s, 3);
    k.dense_dim = 1 + below(&s, 40);
    k.shared_dim = below(&s, 2) ? 1 + below(&s, 40) : 0;
    a->tied = below(&s, 2);
    a->n_stop = below(&s, 3);
    a->gen_temperature = below(&s, 2) ? 0.7f : -1.0f;
    k.att.n_heads = k.att.n_kv_heads * (1 + below(&s, 3));
    uint32_t rope_dim = 2 * below(&s, k.att.head_dim / 2 + 1);
    a->n_active = 1 + below(&s, a->n_experts);
    k.shared_gate = k.shared_dim ? below(&s, 2) : 0;
    a->stop_ids = mem_calloc(a->n_stop, sizeof *a->stop_ids);
    for (uint32_t i = 0; i < a->n_stop; i++) {
        a->stop_ids[i] = below(&s, a->vocab);
    }
    set_layers(a, &k, moe, rope_dim);
    if (seed % 8 >= 4) {
        vary_layers(a, &s);
    }
}

void archive_tiny_arch(struct arch *a) {
    struct layer_kind k = arch_plain_kind();
    *a = (struct arch){
        .family = mem_strdup("tiny"),
        .n_layers = 1,
        .dim = 32,
        .vocab = 4,
        .ctx_max_tok = 16,
        .norm_eps = 0x1p-20f,
        .embed_scale = 1.0f,
        .n_experts = 2,
        .n_active = 1,
        .ffn_dim = 3,
        .tied = 1,
        .n_stop = 1,
        .gen_temperature = -1.0f,
        .gen_top_p = -1.0f,
        .gen_top_k = -1.0f,
        .gen_repeat_penalty = -1.0f,
    };
    k.att.n_heads = 2;
    k.att.n_kv_heads = 1;
    k.att.head_dim = 2;
    k.route.renorm = 1;
    a->stop_ids = mem_calloc(1, sizeof *a->stop_ids);
    a->stop_ids[0] = 2;
    set_layers(a, &k, (const uint32_t[]){1}, 2);
}

void archive_moe_arch(struct arch *a, uint32_t n_layers, uint32_t n_experts, uint32_t ffn_dim) {
    archive_tiny_arch(a);
    a->n_layers = n_layers;
    a->n_experts = n_experts;
    a->ffn_dim = ffn_dim;
    a->kind = mem_realloc(a->kind, n_layers * sizeof *a->kind);
    memset(a->kind, 0, n_layers * sizeof *a->kind);
}

void archive_set_dense(struct arch *a, uint32_t layer, uint32_t dense_dim) {
    struct layer_kind *kinds = mem_calloc(a->n_layers, sizeof *kinds);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = *arch_kind(a, l);
        kinds[l].moe = l == layer ? 0 : kinds[l].moe;
        kinds[l].dense_dim = dense_dim;
    }
    arch_set_kinds(a, kinds);
    free(kinds);
}

struct arch archive_five_layers(void) {
    struct arch a;
    archive_moe_arch(&a, 5, 4, 8);
    return a;
}

void archive_change_kinds(struct arch *a, void (*change)(struct layer_kind *k, uint32_t layer)) {
    struct layer_kind *kinds = mem_calloc(a->n_layers, sizeof *kinds);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = *arch_kind(a, l);
        change(&kinds[l], l);
    }
    arch_set_kinds(a, kinds);
    free(kinds);
}

static uint8_t *encode_rows(const struct codec *codec, uint64_t seed, size_t rows, uint32_t cols,
                            size_t *bytes) {
    size_t row_bytes = codec_row_bytes(codec, cols);
    uint8_t *out = mem_alloc(rows * row_bytes);
    float *row = mem_calloc(cols, sizeof *row);
    for (size_t r = 0; r < rows; r++) {
        for (uint32_t i = 0; i < cols; i++) {
            row[i] = weight(&seed);
        }
        codec->encode_row(row, cols, out + r * row_bytes);
    }
    free(row);
    *bytes = rows * row_bytes;
    return out;
}

const struct codec *archive_tensor_codec(const struct arch *a, const struct codec *trunk,
                                         enum slot_id slot, uint32_t layer) {
    const struct slot *s = slot_at(slot);
    bool exact = s->store == SLOT_STORE_EXACT || !codec_fits(trunk, s->cols(a, layer));
    return exact ? codec_by_id(CODEC_F32) : trunk;
}

uint8_t *archive_tensor(const struct arch *a, const struct codec *codec, enum slot_id slot,
                        uint32_t layer, size_t *bytes) {
    const struct slot *s = slot_at(slot);
    return encode_rows(codec, (uint64_t)slot << 32 | layer, s->rows(a, layer), s->cols(a, layer),
                       bytes);
}

uint8_t *archive_neurons(const struct arch *a, const struct codec *codec, uint32_t layer,
                         uint32_t expert, size_t *bytes) {
    return encode_rows(codec, UINT64_C(1) << 60 | (uint64_t)layer << 32 | expert,
                       (size_t)a->ffn_dim * 3, a->dim, bytes);
}

static int fill_trunk(struct corm_writer *w, const struct arch *a, const struct archive_options *o,
                      struct err *err) {
    struct slot_place p = {0};
    int rc = 0;
    while (rc == 0 && slot_next(a, &p)) {
        const struct slot *s = slot_at(p.slot);
        const struct codec *codec = archive_tensor_codec(a, o->trunk, p.slot, p.layer);
        size_t bytes;
        uint8_t *data = archive_tensor(a, codec, p.slot, p.layer, &bytes);
        uint32_t rows = s->rows(a, p.layer), cols = s->cols(a, p.layer), half = rows / 2;
        rc = corm_write_tensor_begin(w, p.slot, p.layer, codec, rows, cols, err);
        if (rc == 0) {
            rc = corm_write_tensor_rows(w, data, half, err);
        }
        if (rc == 0) {
            rc = corm_write_tensor_rows(w, data + half * codec_row_bytes(codec, cols), rows - half,
                                        err);
        }
        if (rc == 0) {
            rc = corm_write_tensor_end(w, err);
        }
        free(data);
    }
    return rc;
}

const struct codec *archive_chunk_codec(const struct archive_options *o, uint32_t chunk) {
    return o->cold && chunk * o->chunk_neurons >= o->hot_neurons ? o->cold : o->expert;
}

uint8_t *archive_chunks(const struct arch *a, const struct archive_options *o, uint32_t layer,
                        uint32_t expert, size_t *bytes) {
    uint8_t *hot = archive_neurons(a, o->expert, layer, expert, bytes);
    if (!o->cold) {
        return hot;
    }
    size_t cold_bytes, at = 0;
    uint8_t *cold = archive_neurons(a, o->cold, layer, expert, &cold_bytes);
    uint8_t *out = mem_alloc(*bytes + cold_bytes);
    for (uint32_t i = 0; i * o->chunk_neurons < a->ffn_dim; i++) {
        const struct codec *codec = archive_chunk_codec(o, i);
        const size_t neuron_bytes = 3 * codec_row_bytes(codec, a->dim);
        const uint32_t first = i * o->chunk_neurons, rest = a->ffn_dim - first;
        const size_t n = (rest < o->chunk_neurons ? rest : o->chunk_neurons) * neuron_bytes;
        memcpy(out + at, (codec == o->cold ? cold : hot) + first * neuron_bytes, n);
        at += n;
    }
    free(hot);
    free(cold);
    *bytes = at;
    return out;
}

static int fill_record(struct corm_writer *w, const struct arch *a, const struct archive_options *o,
                       uint32_t layer, uint32_t expert, struct err *err) {
    size_t bytes;
    uint8_t *neurons = archive_chunks(a, o, layer, expert, &bytes);
    const uint32_t hot = o->hot_neurons < a->ffn_dim ? o->hot_neurons : a->ffn_dim;
    const struct codec **codecs = mem_calloc(a->ffn_dim, sizeof *codecs);
    for (uint32_t i = 0; i < a->ffn_dim; i++) {
        codecs[i] = archive_chunk_codec(o, i);
    }
    int rc = o->cold ? corm_write_record_mixed(w, layer, expert, codecs, neurons, hot, err)
                     : corm_write_record(w, layer, expert, neurons, hot, err);
    free(codecs);
    free(neurons);
    return rc;
}

int archive_fill(struct corm_writer *w, const struct arch *a, const struct archive_options *o,
                 struct err *err) {
    if (fill_trunk(w, a, o, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            if (fill_record(w, a, o, l, e, err) < 0) {
                return -1;
            }
        }
    }
    if (!o->blobs) {
        return 0;
    }
    int rc = corm_write_blob(w, CORM_SECTION_TOKENIZER, archive_tokenizer,
                             sizeof archive_tokenizer - 1, err);
    if (rc == 0) {
        rc = corm_write_blob(w, CORM_SECTION_LICENSE, archive_license, sizeof archive_license - 1,
                             err);
    }
    if (rc == 0) {
        rc = corm_write_blob(w, CORM_SECTION_PROVENANCE, archive_provenance,
                             sizeof archive_provenance - 1, err);
    }
    return rc;
}

int archive_write(const char *path, const struct arch *a, const struct archive_options *o,
                  struct corm_write_stats *stats, struct err *err) {
    struct corm_write_options opt = {.expert_codec = o->expert,
                                     .chunk_neurons = o->chunk_neurons,
                                     .compress = o->compress,
                                     .compress_hot = o->compress_hot,
                                     .raw_above_ratio = o->raw_above_ratio};
    struct corm_writer *w;
    if (corm_write_open(&w, path, a, &opt, err) < 0) {
        return -1;
    }
    if (archive_fill(w, a, o, err) < 0) {
        corm_write_abort(w);
        return -1;
    }
    return corm_write_finish(w, stats, err);
}

struct archive_options archive_defaults(const char *trunk, const char *expert) {
    return (struct archive_options){
        .trunk = codec_by_name(trunk),
        .expert = codec_by_name(expert),
        .chunk_neurons = 4,
        .hot_neurons = 8,
        .compress = CORM_COMPRESS_AUTO,
        .blobs = true,
        .raw_above_ratio = 0.93f,
    };
}

uint8_t *archive_load(const char *path, size_t *bytes) {
    struct err err = {0};
    uint8_t *data;
    if (file_read(path, 1u << 30, &data, bytes, &err) < 0) {
        die("%s", err.msg);
    }
    uint8_t *aligned = mem_alloc_aligned(*bytes);
    memcpy(aligned, data, *bytes);
    free(data);
    return aligned;
}

/* ---- checksums ---- */

uint32_t archive_table(const uint8_t *file, size_t size, struct corm_header *h,
                       struct corm_section *out) {
    if (size < CORM_HEADER_BYTES) {
        return 0;
    }
    memcpy(h, file, sizeof *h);
    if (h->section_count > CORM_MAX_SECTIONS ||
        !archive_inside(size, h->table_offset, h->section_count * sizeof *out)) {
        return 0;
    }
    memcpy(out, file + h->table_offset, h->section_count * sizeof *out);
    return h->section_count;
}

static void rehash_tensors(uint8_t *file, size_t size, const struct corm_section *s) {
    for (uint64_t at = 0; at + sizeof(struct corm_tensor) <= s->bytes;
         at += sizeof(struct corm_tensor)) {
        struct corm_tensor t;
        memcpy(&t, file + s->offset + at, sizeof t);
        if (archive_inside(size, t.offset, t.bytes)) {
            t.hash = hash64(file + t.offset, t.bytes);
            memcpy(file + s->offset + at, &t, sizeof t);
        }
    }
}

static void rehash_chunks(uint8_t *file, size_t size, const struct corm_section *s) {
    struct corm_index_header h;
    if (s->bytes < sizeof h) {
        return;
    }
    memcpy(&h, file + s->offset, sizeof h);
    uint64_t at = sizeof h + h.n_records * (uint64_t)sizeof(struct corm_record);
    for (; at + sizeof(struct corm_chunk) <= s->bytes; at += sizeof(struct corm_chunk)) {
        struct corm_chunk k;
        memcpy(&k, file + s->offset + at, sizeof k);
        if (archive_inside(size, k.offset, k.stored_bytes)) {
            k.hash = hash64(file + k.offset, k.stored_bytes);
            memcpy(file + s->offset + at, &k, sizeof k);
        }
    }
}

void archive_rehash(uint8_t *file, size_t size) {
    struct corm_section sections[CORM_MAX_SECTIONS];
    struct corm_header h;
    uint32_t n = archive_table(file, size, &h, sections);
    for (uint32_t i = 0; i < n; i++) {
        struct corm_section *s = &sections[i];
        if (!archive_inside(size, s->offset, s->bytes) || !corm_section_has_hash(s->type)) {
            continue;
        }
        if (s->type == CORM_SECTION_TENSORS) {
            rehash_tensors(file, size, s);
        } else if (s->type == CORM_SECTION_INDEX) {
            rehash_chunks(file, size, s);
        }
        s->hash = hash64(file + s->offset, s->bytes);
    }
    if (n == 0) {
        return;
    }
    memcpy(file + h.table_offset, sections, n * sizeof *sections);
    h.table_hash = hash64(file + h.table_offset, n * sizeof *sections);
    h.file_bytes = size;
    h.header_hash = hash64(&h, offsetof(struct corm_header, header_hash));
    memcpy(file, &h, sizeof h);
}
