/*
 * Predictors: the section as it is built, opened and refused; the guesses against the formulas of
 * runtime/predict.h written out; which chunks are left out; replacing the section in a file.
 */
#include "tests/test.h"

#include <math.h>

#include "format/corm_patch.h"
#include "format/corm_read.h"
#include "runtime/predict.h"
#include "tests/test_util_archive.h"

enum {
    LAYERS = 4,
    E = 6,
    D = 32,
    K = 2,
    RANK = 3,
    BASIS = 4,
    GATES = 3,
    CHUNKS = 5,
    WIDTH = 2 * K
};

/* Layer 1 is dense: guesses from layer 0 begin two layers ahead. */
static void make_arch(struct arch *a) {
    archive_tiny_arch(a);
    a->n_layers = LAYERS;
    a->n_experts = E;
    a->n_active = K;
    a->dim = D;
    a->dense_dim = 8;
    a->moe = mem_realloc(a->moe, LAYERS * sizeof *a->moe);
    a->window = mem_realloc(a->window, LAYERS * sizeof *a->window);
    for (uint32_t l = 0; l < LAYERS; l++) {
        a->moe[l] = l != 1;
        a->window[l] = 0;
    }
}

static float *random_floats(struct test_rng *rng, size_t n, float scale) {
    float *v = mem_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = bf16_to_f32(f32_to_bf16(scale * test_f32(rng)));
    return v;
}

static void add_random(struct corm_predict_builder *b, struct test_rng *rng, enum predict_kind kind,
                       uint32_t layer, uint32_t ahead, enum codec_id codec, uint32_t rows,
                       uint32_t cols) {
    float *v = random_floats(rng, (size_t)rows * cols, 0.5f);
    corm_predict_add(b, kind, layer, ahead, codec, v, rows, cols);
    free(v);
}

static void add_fix(struct corm_predict_builder *b, struct test_rng *rng, uint32_t layer,
                    uint32_t ahead) {
    add_random(b, rng, PREDICT_EXPERT_IN, layer, ahead, CODEC_BF16, RANK, D);
    add_random(b, rng, PREDICT_EXPERT_OUT, layer, ahead, CODEC_BF16, E, RANK);
    add_random(b, rng, PREDICT_EXPERT_BIAS, layer, ahead, CODEC_F32, 1, E);
}

/* One of everything, in no order. */
static struct buf build(void) {
    static const float chances[WIDTH] = {0.9f, 0.7f, 0.3f, 0.1f}, drops[2] = {0.01f, 0.05f};
    struct corm_predict_builder b = {.levels = {0.5f, 2}, .n_levels = 2}, more = {0};
    struct test_rng rng = {7};
    struct buf out = {0};
    corm_predict_add(&b, PREDICT_LOSS_DROP, 2, 0, CODEC_F32, drops, 1, 2);
    add_random(&b, &rng, PREDICT_CHUNK_BETA, 2, 0, CODEC_F16, E * CHUNKS, BASIS);
    add_random(&b, &rng, PREDICT_CHUNK_BASIS, 2, 0, CODEC_BF16, BASIS, D);
    add_random(&b, &rng, PREDICT_CHUNK_PRIOR, 2, 0, CODEC_F32, E, CHUNKS);
    add_random(&b, &rng, PREDICT_CHUNK_GATES, 2, 0, CODEC_BF16, E * GATES, D);
    add_random(&b, &rng, PREDICT_CHUNK_GATE_BETA, 2, 0, CODEC_F16, E * CHUNKS, GATES);
    add_random(&b, &rng, PREDICT_CHUNK_PRIOR, 3, 0, CODEC_F32, E, CHUNKS);
    add_fix(&more, &rng, 2, 1);
    add_fix(&more, &rng, 0, 0);
    add_random(&more, &rng, PREDICT_MEAN_OUT, 2, 0, CODEC_BF16, E, D);
    corm_predict_add(&more, PREDICT_RANK_P, 0, 2, CODEC_F32, chances, 1, WIDTH);
    add_random(&more, &rng, PREDICT_SCORES, 3, 0, CODEC_F32, 1, 9);
    corm_predict_merge(&b, &more);
    corm_predict_finish(&b, &out);
    return out;
}

static int open_section(struct corm_predict *p, const void *data, size_t size, struct err *err) {
    struct arch a;
    make_arch(&a);
    int status = corm_predict_open(p, data, size, &a, CHUNKS, err);
    arch_free(&a);
    return status;
}

/* ---- the section ---- */

static void what_was_added_is_found(void **state) {
    (void)state;
    struct buf s = build();
    struct corm_predict p;
    struct err err = {0};
    open_section(&p, s.data, s.len, &err);
    assert_no_err(&err);
    struct weight w = corm_predict_get(&p, PREDICT_RANK_P, 0, 2);
    assert_int_equal(w.rows, 1);
    assert_int_equal(w.cols, WIDTH);
    assert_int_equal((w.data - p.data) % 64, 0);
    assert_true(((const float *)(const void *)w.data)[1] == 0.7f);
    w = corm_predict_get(&p, PREDICT_CHUNK_BETA, 2, 0);
    assert_int_equal(w.rows, E * CHUNKS);
    assert_int_equal(w.codec->id, CODEC_F16);
    assert_int_equal(w.stride_bytes, BASIS * 2);
    assert_null(corm_predict_get(&p, PREDICT_RANK_P, 0, 1).data);
    assert_null(corm_predict_get(&p, PREDICT_RANK_P, 2, 2).data);
    assert_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 0, 0).data);
    assert_non_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 2, 0).data);
    assert_int_equal(corm_predict_level(&p, 0.5f), 0);
    assert_int_equal(corm_predict_level(&p, 2), 1);
    assert_int_equal(corm_predict_level(&p, 1), -1);
    assert_int_equal(corm_predict_level(&p, NAN), -1);
    for (uint32_t i = 1; i < p.header->n_entries; i++)
        assert_true(p.entries[i - 1].kind <= p.entries[i].kind);
    buf_free(&s);
}

static void the_same_parts_give_the_same_bytes(void **state) {
    (void)state;
    struct buf a = build(), b = build();
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_free(&a);
    buf_free(&b);
}

static void nothing_is_no_predictors(void **state) {
    (void)state;
    struct corm_predict p;
    struct err err = {0};
    assert_int_equal(open_section(&p, NULL, 0, &err), 0);
    assert_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 0, 0).data);
    assert_int_equal(corm_predict_level(&p, 1), -1);
    struct corm_predict_builder b = {0};
    struct buf s = {0};
    corm_predict_finish(&b, &s);
    assert_int_equal(open_section(&p, s.data, s.len, &err), 0);
    assert_no_err(&err);
    buf_free(&s);
}

static void names_of_kinds(void **state) {
    (void)state;
    assert_null(corm_predict_kind_name(0));
    assert_null(corm_predict_kind_name(PREDICT_KINDS));
    for (uint32_t i = 1; i < PREDICT_KINDS; i++)
        assert_non_null(corm_predict_kind_name(i));
}

/* ---- bad sections ---- */

/* Place of the entry of a kind (the first one), as bytes from the section's start. */
static size_t entry_at(const struct buf *s, enum predict_kind kind) {
    const struct corm_predict_header *h = (const void *)s->data;
    const struct corm_predict_entry *e = (const void *)(h + 1);
    for (uint32_t i = 0; i < h->n_entries; i++)
        if (e[i].kind == (uint32_t)kind)
            return (size_t)((const char *)&e[i] - s->data);
    fail_msg("no entry of kind %d", kind);
    return 0;
}

static void refuse(size_t at, const void *value, size_t bytes, const char *part,
                   const char *other) {
    struct buf s = build();
    struct corm_predict p;
    struct err err = {0};
    assert_true(at + bytes <= s.len);
    memcpy(s.data + at, value, bytes);
    if (open_section(&p, s.data, s.len, &err) == 0)
        fail_msg("bytes at %zu: opened, expected \"%s\"", at, part);
    assert_err(&err, "predictors: ", part, other);
    assert_null(p.header);
    buf_free(&s);
}

static void refuse_u32(size_t at, uint32_t value, const char *part, const char *other) {
    refuse(at, &value, sizeof value, part, other);
}

#define FIELD(kind, field) (entry_at(&s, kind) + offsetof(struct corm_predict_entry, field))
#define HEADER(field) offsetof(struct corm_predict_header, field)

static void broken_rules_are_named(void **state) {
    (void)state;
    struct buf s = build();
    refuse_u32(HEADER(version), 2, "version 2", "reads 1");
    refuse_u32(HEADER(n_entries), UINT32_MAX, "4294967295 entries", "");
    refuse_u32(HEADER(n_levels), 9, "9 levels", "");
    struct corm_predict_header no_levels = *(const struct corm_predict_header *)(void *)s.data;
    no_levels.n_levels = 0;
    memset(no_levels.levels, 0, sizeof no_levels.levels);
    refuse(0, &no_levels, sizeof no_levels, "loss_drop of layer 2", "shape");
    refuse(HEADER(levels) + 28, &(float){3}, 4, "loss levels", "");
    refuse_u32(HEADER(reserved), 1, "do not fit", "");
    refuse(HEADER(levels), &(float){NAN}, 4, "loss levels", "");
    refuse(HEADER(levels), &(float){2}, 4, "loss levels", "ascend");
    refuse_u32(FIELD(PREDICT_CHUNK_GATE_BETA, kind), PREDICT_KINDS, "unknown kind", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, kind), 0, "unknown kind 0", "entry 0");
    refuse_u32(FIELD(PREDICT_SCORES, kind), PREDICT_CHUNK_PRIOR, "not after", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, codec), 99, "mean_out of layer 2", "codec 99");
    refuse_u32(FIELD(PREDICT_EXPERT_BIAS, codec), CODEC_BF16, "expert_bias of layer 0", "codec 2");
    refuse_u32(FIELD(PREDICT_LOSS_DROP, codec), CODEC_F16, "loss_drop of layer 2", "codec 3");
    refuse_u32(FIELD(PREDICT_CHUNK_PRIOR, codec), CODEC_BF16, "chunk_prior of layer 2", "codec 2");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), 1, "mean_out: layer 1", "no experts");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), LAYERS, "mean_out: layer 4", "no experts");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), UINT32_MAX, "layer 4294967295", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, ahead), 1, "ahead 1", "");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), 1, "rank_p: layer 0, ahead 1", "no experts");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), 4, "ahead 4", "");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), UINT32_MAX, "ahead 4294967295", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, rows), E - 1, "shape [5, 32]", "[6, 32]");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, cols), D + 1, "shape [6, 33]", "");
    refuse_u32(FIELD(PREDICT_CHUNK_PRIOR, cols), CHUNKS - 1, "shape", "[6, 5]");
    refuse_u32(FIELD(PREDICT_RANK_P, cols), 0, "shape [1, 0]", "");
    refuse_u32(FIELD(PREDICT_SCORES, cols), 5000, "shape", "");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, rows), D + 1, "shape [33, 32]", "up to 32");
    refuse_u32(FIELD(PREDICT_EXPERT_OUT, cols), D + 1, "shape [6, 33]", "");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, rows), RANK - 1, "incomplete", "layer 0");
    refuse_u32(FIELD(PREDICT_CHUNK_BASIS, rows), BASIS - 1, "incomplete", "layer 2");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, ahead), 2, "incomplete", "layer 0");
    refuse_u32(FIELD(PREDICT_CHUNK_GATES, rows), E * GATES - 1, "gates", "layer 2");
    refuse_u32(FIELD(PREDICT_CHUNK_GATES, rows), E * D + 1, "shape [193, 32]", "");
    refuse_u32(FIELD(PREDICT_CHUNK_GATE_BETA, cols), GATES - 1, "gates", "layer 2");
    uint64_t offset = 32;
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "64");
    offset = align_up(s.len, 64);
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "");
    offset = UINT64_MAX - 63;
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "");
    buf_free(&s);
}

static void values_that_would_spread_are_refused(void **state) {
    (void)state;
    struct buf s = build();
    struct corm_predict p;
    struct err err = {0};
    open_section(&p, s.data, s.len, &err);
    assert_no_err(&err);
    const struct {
        enum predict_kind kind;
        uint32_t layer, ahead;
        float value;
    } rows[] = {
        {PREDICT_LOSS_DROP, 2, 0, 1},
        {PREDICT_LOSS_DROP, 2, 0, -0.1f},
        {PREDICT_LOSS_DROP, 2, 0, NAN},
        {PREDICT_EXPERT_BIAS, 0, 0, INFINITY},
        {PREDICT_CHUNK_PRIOR, 3, 0, -INFINITY},
        {PREDICT_RANK_P, 0, 2, NAN},
        {PREDICT_SCORES, 3, 0, NAN},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct weight w = corm_predict_get(&p, rows[i].kind, rows[i].layer, rows[i].ahead);
        size_t at = (size_t)(w.data - p.data) + ((size_t)w.rows * w.cols - 1) * sizeof(float);
        refuse(at, &rows[i].value, 4, corm_predict_kind_name(rows[i].kind), "value");
    }
    buf_free(&s);
}

/* Whatever opens can be used whole. */
static void use(const struct corm_predict *p) {
    float row[64 * D];
    for (uint32_t kind = 1; kind < PREDICT_KINDS; kind++)
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
                struct weight w = corm_predict_get(p, (enum predict_kind)kind, l, ahead);
                if (w.data && w.cols <= TEST_COUNT(row)) {
                    w.codec->decode_row(weight_row(&w, 0), w.cols, row);
                    w.codec->decode_row(weight_row(&w, w.rows - 1), w.cols, row);
                }
            }
}

static void cut_anywhere_it_is_refused(void **state) {
    (void)state;
    struct buf s = build();
    for (size_t size = 1; size < s.len; size++) {
        struct corm_predict p;
        struct err err = {0};
        /* A block of the very size: reading past it shows in the sanitizers. */
        uint8_t *cut = mem_alloc_aligned(align_up(size, 64));
        memcpy(cut, s.data, size);
        int status = open_section(&p, cut, size, &err);
        /* The last bytes may be padding. */
        if (size + 64 < s.len && status == 0)
            fail_msg("opened with %zu of %zu bytes", size, s.len);
        assert_int_equal(status == 0, !err.set);
        free(cut);
    }
    buf_free(&s);
}

static void flipped_anywhere_nothing_crashes(void **state) {
    (void)state;
    struct buf s = build();
    uint8_t *data = mem_alloc_aligned(s.len);
    for (size_t at = 0; at < s.len; at++) {
        for (uint32_t bit = 0; bit < 8; bit++) {
            struct corm_predict p;
            struct err err = {0};
            memcpy(data, s.data, s.len);
            data[at] ^= (uint8_t)(1u << bit);
            if (open_section(&p, data, s.len, &err) == 0)
                use(&p);
            else
                assert_err(&err, "predictors: ");
        }
    }
    free(data);
    buf_free(&s);
}

/* ---- guesses ---- */

struct rig {
    struct arch arch;
    struct backend be;
    struct layer_weights layers[LAYERS];
    float *norm[LAYERS], *router[LAYERS];
    struct buf section;
    struct corm_predict view;
    struct predict predict;
    float *x, *feature, *weights; /* of two rows */
    int32_t ids[2 * K];
};

static void open_rig(struct rig *r) {
    struct err err = {0};
    struct test_rng rng = {11};
    *r = (struct rig){.ids = {3, 0, 5, 1}};
    make_arch(&r->arch);
    struct backend_limits limits = forward_limits(&r->arch, 4, 8);
    backend_cpu_open(&r->be, "scalar", 1, &limits, &err);
    assert_no_err(&err);
    const struct codec *f32 = codec_by_id(CODEC_F32);
    for (uint32_t l = 0; l < LAYERS; l++) {
        r->norm[l] = random_floats(&rng, D, 1);
        r->router[l] = random_floats(&rng, E * D, 1);
        r->layers[l].w[SLOT_FFN_NORM] =
            (struct weight){f32, 1, D, D * sizeof(float), (const uint8_t *)r->norm[l]};
        r->layers[l].w[SLOT_ROUTER] =
            (struct weight){f32, E, D, D * sizeof(float), (const uint8_t *)r->router[l]};
    }
    r->section = build();
    corm_predict_open(&r->view, r->section.data, r->section.len, &r->arch, CHUNKS, &err);
    assert_no_err(&err);
    predict_open(&r->predict, &r->view, &r->arch, &r->be, r->layers, CHUNKS, 2);
    r->x = random_floats(&rng, 2 * D, 2);
    r->feature = random_floats(&rng, 2 * D, 1);
    r->weights = random_floats(&rng, 2 * K, 1);
}

static void close_rig(struct rig *r) {
    predict_close(&r->predict);
    backend_close(&r->be);
    for (uint32_t l = 0; l < LAYERS; l++) {
        free(r->norm[l]);
        free(r->router[l]);
    }
    free(r->x);
    free(r->feature);
    free(r->weights);
    buf_free(&r->section);
    arch_free(&r->arch);
}

static double at(struct weight w, uint32_t row, uint32_t col) {
    float values[64];
    w.codec->decode_row(weight_row(&w, row), w.cols, values);
    return (double)values[col];
}

/* z of predict.h for one row, in double. */
static void by_hand(const struct rig *r, uint32_t source, uint32_t ahead, uint32_t row,
                    bool with_ids, unsigned parts, double z[E]) {
    uint32_t t = source + ahead;
    double state[D], square = 0;
    struct weight mean = corm_predict_get(&r->view, PREDICT_MEAN_OUT, source, 0);
    struct weight in = corm_predict_get(&r->view, PREDICT_EXPERT_IN, source, ahead);
    struct weight out = corm_predict_get(&r->view, PREDICT_EXPERT_OUT, source, ahead);
    struct weight bias = corm_predict_get(&r->view, PREDICT_EXPERT_BIAS, source, ahead);
    for (uint32_t i = 0; i < D; i++) {
        state[i] = (double)r->x[row * D + i];
        for (uint32_t j = 0; j < K && with_ids && mean.data && (parts & PREDICT_USE_MEAN); j++)
            state[i] +=
                (double)r->weights[row * K + j] * at(mean, (uint32_t)r->ids[row * K + j], i);
        square += state[i] * state[i];
    }
    double scale = 1 / sqrt(square / D + (double)r->arch.norm_eps);
    for (uint32_t e = 0; e < E; e++) {
        z[e] = 0;
        for (uint32_t i = 0; i < D; i++)
            z[e] += (double)r->router[t][e * D + i] * state[i] * scale * (double)r->norm[t][i];
        if (!in.data || !(parts & PREDICT_USE_FIX))
            continue;
        z[e] += at(bias, 0, e);
        for (uint32_t k = 0; k < RANK; k++) {
            double low = 0;
            for (uint32_t i = 0; i < D; i++)
                low += at(in, k, i) * (double)r->feature[row * D + i];
            z[e] += at(out, e, k) * low;
        }
    }
}

static void check_guess(struct rig *r, uint32_t source, uint32_t ahead, bool with_ids,
                        unsigned parts) {
    predict_experts(&r->predict, source, ahead, r->x, r->feature, with_ids ? r->ids : NULL,
                    with_ids ? r->weights : NULL, 2, parts);
    for (uint32_t row = 0; row < 2; row++) {
        double z[E];
        by_hand(r, source, ahead, row, with_ids, parts, z);
        for (uint32_t e = 0; e < E; e++)
            assert_true(fabs((double)r->predict.logits[row * E + e] - z[e]) < 1e-4);
        const int32_t *ids = r->predict.host_ids + row * WIDTH;
        for (uint32_t i = 0; i < WIDTH; i++) {
            uint32_t better = 0;
            for (uint32_t e = 0; e < E; e++)
                better += z[e] > z[ids[i]];
            assert_int_equal(better, i); /* best first */
        }
    }
}

static void logits_are_those_of_the_formula(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r);
    assert_int_equal(r.predict.width, WIDTH);
    for (unsigned parts = 0; parts <= PREDICT_USE_ALL; parts++) {
        check_guess(&r, 2, 1, true, parts);  /* mean outputs and correction */
        check_guess(&r, 0, 0, false, parts); /* from the embedding */
        check_guess(&r, 0, 2, true, parts);  /* nothing learned: the stale gate */
    }
    assert_true(predict_has_target(&r.predict, 2, 1));
    assert_false(predict_has_target(&r.predict, 0, 1)); /* dense */
    assert_false(predict_has_target(&r.predict, 3, 1)); /* past the last */
    assert_true(predict_rank_p(&r.predict, 0, 2, 1) == 0.7f);
    assert_true(predict_rank_p(&r.predict, 0, 2, WIDTH) < 0);
    assert_true(predict_rank_p(&r.predict, 2, 1, 0) < 0);
    close_rig(&r);
}

static void chunk_energies_are_those_of_the_formula(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r);
    assert_false(predict_has_chunks(&r.predict, 0));
    struct weight beta = corm_predict_get(&r.view, PREDICT_CHUNK_BETA, 2, 0);
    struct weight basis = corm_predict_get(&r.view, PREDICT_CHUNK_BASIS, 2, 0);
    struct weight gates = corm_predict_get(&r.view, PREDICT_CHUNK_GATES, 2, 0);
    struct weight gate_beta = corm_predict_get(&r.view, PREDICT_CHUNK_GATE_BETA, 2, 0);
    for (uint32_t layer = 2; layer < LAYERS; layer++) {
        assert_true(predict_has_chunks(&r.predict, layer));
        predict_project(&r.predict, layer, r.feature, 2);
        struct weight prior = corm_predict_get(&r.view, PREDICT_CHUNK_PRIOR, layer, 0);
        for (uint32_t row = 0; row < 2; row++)
            for (uint32_t e = 0; e < E; e++) {
                predict_chunk_energy(&r.predict, layer, e, row);
                for (uint32_t b = 0; b < CHUNKS; b++) {
                    double want = at(prior, e, b);
                    for (uint32_t k = 0; k < BASIS && layer == 2; k++) {
                        double low = 0;
                        for (uint32_t i = 0; i < D; i++)
                            low += at(basis, k, i) * (double)r.feature[row * D + i];
                        want += at(beta, e * CHUNKS + b, k) * low;
                    }
                    for (uint32_t k = 0; k < GATES && layer == 2; k++) {
                        double z = 0;
                        for (uint32_t i = 0; i < D; i++)
                            z += at(gates, e * GATES + k, i) * (double)r.feature[row * D + i];
                        want += at(gate_beta, e * CHUNKS + b, k) * z / (1 + exp(-z));
                    }
                    assert_true(fabs((double)r.predict.host_scores[b] - want) < 1e-4);
                }
            }
    }
    close_rig(&r);
}

/* ---- what is left out ---- */

static void the_least_are_left_out_up_to_the_share(void **state) {
    (void)state;
    struct test_rng rng = {5};
    for (int round = 0; round < 500; round++) {
        enum { MOST = 40 };
        float energy[MOST], drop = 0.5f * fabsf(test_f32(&rng));
        uint8_t skip[MOST];
        uint32_t n = 1 + (uint32_t)(test_u64(&rng) % MOST);
        uint32_t hot = (uint32_t)(test_u64(&rng) % (n + 1)), counted = 0;
        double total = 0, dropped = 0, greatest = -INFINITY, least = INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            energy[i] = 6 * test_f32(&rng);
            total += exp((double)energy[i]);
        }
        uint32_t n_skipped = predict_choose_skip(energy, n, hot, drop, skip);
        for (uint32_t i = 0; i < n; i++) {
            double e = (double)energy[i];
            if (skip[i]) {
                assert_true(i >= hot);
                counted++;
                dropped += exp(e);
                greatest = e > greatest ? e : greatest;
            } else if (i >= hot) {
                least = e < least ? e : least;
            }
        }
        assert_int_equal(counted, n_skipped);
        assert_true(dropped <= (double)drop * total * (1 + 1e-9));
        assert_true(greatest <= least);
        /* One more would have been too much. */
        if (n_skipped < n - hot)
            assert_true(dropped + exp(least) > (double)drop * total * (1 - 1e-9));
    }
}

static void the_size_of_energies_does_not_matter(void **state) {
    (void)state;
    float low[6] = {-900, -901, -905, -906, -907, -908}, high[6];
    uint8_t a[6], b[6];
    for (int i = 0; i < 6; i++)
        high[i] = low[i] + 1800;
    assert_int_equal(predict_choose_skip(low, 6, 2, 0.01f, a), 4);
    assert_int_equal(predict_choose_skip(high, 6, 2, 0.01f, b), 4);
    assert_memory_equal(a, b, sizeof a);
    float bad[3] = {NAN, NAN, NAN}, endless[3] = {INFINITY, 0, 0};
    assert_int_equal(predict_choose_skip(bad, 3, 0, 0.5f, a), 0);
    assert_int_equal(predict_choose_skip(endless, 3, 0, 0.5f, a), 0);
}

/* ---- in a file ---- */

static char *write_archive(const char *dir, const struct buf *section) {
    struct arch a;
    struct err err = {0};
    struct corm_writer *w;
    struct corm_write_stats stats;
    char *path = mem_printf("%s/patched.corm", dir);
    archive_tiny_arch(&a);
    struct archive_options o = archive_defaults("bf16", "bf16");
    struct corm_write_options opt = {o.expert, 2, true, false, 0.93f};
    corm_write_open(&w, path, &a, &opt, &err);
    archive_fill(w, &a, &o, &err);
    if (section)
        corm_write_blob(w, CORM_SECTION_PREDICTORS, section->data, section->len, &err);
    corm_write_finish(w, &stats, &err);
    assert_no_err(&err);
    arch_free(&a);
    return path;
}

static void a_section_is_replaced_in_a_file(void **state) {
    (void)state;
    char *dir = test_mkdir();
    struct buf s = build(), changed = build();
    struct err err = {0};
    struct corm c;
    char *path = write_archive(dir, &s);
    changed.data[changed.len - 1] ^= 1;
    corm_patch_section(path, CORM_SECTION_PREDICTORS, changed.data, changed.len, &err);
    assert_no_err(&err);
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    corm_verify(&c, NULL, NULL, &err);
    assert_no_err(&err);
    assert_int_equal(c.predictors.size_bytes, changed.len);
    assert_memory_equal(c.predictors.data, changed.data, changed.len);
    corm_close(&c);
    assert_int_equal(corm_patch_section(path, CORM_SECTION_PREDICTORS, s.data, s.len - 1, &err),
                     -1);
    assert_err(&err, "patched.corm", "section 9");
    free(path);
    path = write_archive(dir, NULL);
    err = (struct err){0};
    assert_int_equal(corm_patch_section(path, CORM_SECTION_PREDICTORS, s.data, s.len, &err), -1);
    assert_err(&err, "patched.corm", "no section 9");
    free(path);
    buf_free(&s);
    buf_free(&changed);
    test_rmdir(dir);
}

/* Seeds of the fuzz target: `test_predict --write-seeds DIRECTORY`. */
static int write_seeds(const char *dir) {
    struct buf s = build();
    free(test_write(dir, "all", s.data, s.len));
    struct corm_predict_builder b = {0};
    struct buf none = {0};
    corm_predict_finish(&b, &none);
    free(test_write(dir, "none", none.data, none.len));
    buf_free(&s);
    buf_free(&none);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0)
        return write_seeds(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found),
        cmocka_unit_test(the_same_parts_give_the_same_bytes),
        cmocka_unit_test(nothing_is_no_predictors),
        cmocka_unit_test(names_of_kinds),
        cmocka_unit_test(broken_rules_are_named),
        cmocka_unit_test(values_that_would_spread_are_refused),
        cmocka_unit_test(cut_anywhere_it_is_refused),
        cmocka_unit_test(flipped_anywhere_nothing_crashes),
        cmocka_unit_test(logits_are_those_of_the_formula),
        cmocka_unit_test(chunk_energies_are_those_of_the_formula),
        cmocka_unit_test(the_least_are_left_out_up_to_the_share),
        cmocka_unit_test(the_size_of_energies_does_not_matter),
        cmocka_unit_test(a_section_is_replaced_in_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
