/*
 * test_util_model: see test_util_model.h.
 */
#include "tests/util/test_util_model.h"
#include "format/corm_read.h"
#include "tests/util/test.h"

struct pack_options model_packing(void) {
    return (struct pack_options){.hot_fraction = 0.25,
                                 .chunk_neurons = 32,
                                 .compress = CORM_COMPRESS_AUTO,
                                 .threads = 1,
                                 .version = "test"};
}

char *model_pack(const struct hf_model *m, const char *dir, const char *name,
                 const struct pack_options *how) {
    struct err err = {0};
    struct pack_result result;
    char *path = mem_printf("%s/%s.corm", dir, name);
    pack_model(m, path, how, NULL, NULL, &result, &err);
    assert_no_err(&err);
    return path;
}

char *model_archive(const char *checkpoint, const char *dir, const char *name, const char *codec,
                    bool compress) {
    struct err err = {0};
    struct hf_model m;
    struct pack_options how = model_packing();
    how.expert_codec = codec ? codec_by_name(codec) : NULL;
    how.compress = compress ? CORM_COMPRESS_AUTO : CORM_COMPRESS_NONE;
    assert_true(!codec || how.expert_codec);
    hf_open(&m, checkpoint, &err);
    assert_no_err(&err);
    char *path = model_pack(&m, dir, name, &how);
    hf_close(&m);
    return path;
}

static void copy_weights(const struct corm *c, struct corm_writer *w, struct err *err) {
    const struct arch *a = &c->arch;
    for (struct slot_place at = {0}; slot_next(a, &at);) {
        struct weight t = corm_tensor_get(c, at.slot, at.layer);
        corm_write_tensor_begin(w, at.slot, at.layer, t.codec, t.rows, t.cols, err);
        corm_write_tensor_rows(w, t.data, t.rows, err);
        corm_write_tensor_end(w, err);
    }
    uint8_t *neurons = mem_alloc_aligned(a->ffn_dim * c->neuron_bytes);
    struct corm_decoder *d = corm_decoder_new(c);
    for (uint32_t r = 0; r < c->n_records; r++) {
        uint8_t *to = neurons;
        uint32_t layer = 0;
        for (uint32_t l = 0; l < a->n_layers; l++) {
            layer = arch_is_moe(a, l) && c->layer_record[l] <= r ? l : layer;
        }
        for (uint32_t i = 0; i < c->records[r].n_chunks; i++) {
            const struct corm_chunk *k = &c->chunks[c->records[r].first_chunk + i];
            corm_chunk_decode(d, c, k, c->map.data + k->offset, to, err);
            to += corm_chunk_raw_bytes(c, k);
        }
        corm_write_record(w, layer, r - c->layer_record[layer], neurons, 0, err);
    }
    corm_decoder_free(d);
    free(neurons);
}

char *model_retokenize(const char *from, const char *dir, const char *name,
                       const struct buf *tokenizer) {
    struct err err = {0};
    struct corm c;
    struct corm_writer *w;
    struct corm_write_stats stats;
    char *path = mem_printf("%s/%s.corm", dir, name);
    corm_open(&c, from, 0, &err);
    assert_no_err(&err);
    struct corm_write_options how = {.expert_codec = c.expert_codec,
                                     .chunk_neurons = c.chunk_neurons};
    corm_write_open(&w, path, &c.arch, &how, &err);
    assert_no_err(&err);
    copy_weights(&c, w, &err);
    corm_write_blob(w, CORM_SECTION_TOKENIZER, tokenizer->data, tokenizer->len, &err);
    corm_write_finish(w, &stats, &err);
    assert_no_err(&err);
    corm_close(&c);
    return path;
}

struct corm_engine *model_open(const char *path, const struct corm_engine_options *opt) {
    struct corm_engine *e = NULL;
    struct corm_error error;
    if (corm_engine_open(&e, path, opt, &error) < 0) {
        fail_msg("%s", error.message);
    }
    return e;
}

struct corm_session *model_session(struct corm_engine *e) {
    struct corm_session *s = NULL;
    struct corm_error error;
    if (corm_session_open(&s, e, &error) < 0) {
        fail_msg("%s", error.message);
    }
    return s;
}

const float *model_eval(struct corm_session *s, const int32_t *ids, size_t n, bool all) {
    const float *logits = NULL;
    struct corm_error error;
    if (corm_session_eval(s, ids, n, all, &logits, &error) < 0) {
        fail_msg("%s", error.message);
    }
    return logits;
}

uint64_t model_hash(struct corm_engine *e, struct corm_session *s, const int32_t *ids,
                    size_t n_prompt, size_t n) {
    size_t row_bytes = corm_engine_info(e)->vocab * sizeof(float);
    struct hasher *h = hasher_new();
    hasher_add(h, model_eval(s, ids, n_prompt, true), n_prompt * row_bytes);
    for (size_t i = n_prompt; i < n; i++) {
        hasher_add(h, model_eval(s, ids + i, 1, false), row_bytes);
    }
    uint64_t hash = hasher_value(h);
    hasher_free(h);
    return hash;
}

/* Sequence i has a prompt of 2 + 3 i tokens from place i on; then ids from the end of it on. */
static size_t prompt_tok(size_t i) {
    return 2 + 3 * i;
}

static const int32_t *decoded_ids(const int32_t *ids, size_t n, size_t i) {
    assert_true(i + prompt_tok(i) + MODEL_STEPS <= n);
    return ids + i + prompt_tok(i);
}

void model_sequences_alone(const char *path, const struct corm_engine_options *opt,
                           const int32_t *ids, size_t n, uint64_t hashes[MODEL_SEQUENCES]) {
    struct corm_engine *e = model_open(path, opt);
    for (size_t i = 0; i < MODEL_SEQUENCES; i++) {
        struct corm_session *s = model_session(e);
        struct hasher *h = hasher_new();
        size_t row_bytes = corm_engine_info(e)->vocab * sizeof(float);
        model_eval(s, ids + i, prompt_tok(i), false);
        for (size_t t = 0; t < MODEL_STEPS; t++) {
            hasher_add(h, model_eval(s, decoded_ids(ids, n, i) + t, 1, false), row_bytes);
        }
        hashes[i] = hasher_value(h);
        hasher_free(h);
        corm_session_close(s);
    }
    corm_engine_close(e);
}

void model_sequences_together(const char *path, const struct corm_engine_options *opt,
                              const int32_t *ids, size_t n, uint64_t hashes[MODEL_SEQUENCES]) {
    struct corm_engine *e = model_open(path, opt);
    struct corm_session *s[MODEL_SEQUENCES];
    struct hasher *h[MODEL_SEQUENCES];
    for (size_t i = 0; i < MODEL_SEQUENCES; i++) {
        s[i] = model_session(e);
        h[i] = hasher_new();
        model_eval(s[i], ids + i, prompt_tok(i), false);
    }
    for (size_t t = 0; t < MODEL_STEPS; t++) {
        struct corm_error error;
        int32_t next[MODEL_SEQUENCES];
        for (size_t i = 0; i < MODEL_SEQUENCES; i++) {
            next[i] = decoded_ids(ids, n, i)[t];
        }
        if (corm_sessions_decode(s, next, MODEL_SEQUENCES, &error) < 0) {
            fail_msg("%s", error.message);
        }
        for (size_t i = 0; i < MODEL_SEQUENCES; i++) {
            hasher_add(h[i], corm_session_logits(s[i]), corm_engine_info(e)->vocab * sizeof(float));
        }
    }
    for (size_t i = 0; i < MODEL_SEQUENCES; i++) {
        hashes[i] = hasher_value(h[i]);
        hasher_free(h[i]);
        corm_session_close(s[i]);
    }
    corm_engine_close(e);
}

uint64_t model_sections(const char *path) {
    struct err err = {0};
    struct corm c;
    struct buf hashes = {0};
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < c.header.section_count; i++) {
        const struct corm_section *s = &c.sections[i];
        if (s->type != CORM_SECTION_PROVENANCE) {
            uint64_t h = hash64(c.map.data + s->offset, s->bytes);
            buf_append(&hashes, &h, sizeof h);
        }
    }
    uint64_t all = hash64(hashes.data, hashes.len);
    buf_free(&hashes);
    corm_close(&c);
    return all;
}
