/*
 * Predictors at work: the guesses against the formulas of runtime/predict.h written out, and which
 * chunks are left out. Their section is tested in test_corm_predict.
 */
#include "tests/util/test_util_predict.h"

#include <math.h>

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
    predictors_arch(&r->arch);
    struct backend_limits limits = forward_limits(&r->arch, 4, 8);
    backend_cpu_open(&r->be, "scalar", 1, &limits, &err);
    assert_no_err(&err);
    const struct codec *f32 = codec_by_id(CODEC_F32);
    for (uint32_t l = 0; l < LAYERS; l++) {
        r->norm[l] = predictors_floats(&rng, D, 1);
        r->router[l] = predictors_floats(&rng, E * D, 1);
        r->layers[l].w[SLOT_FFN_NORM] =
            (struct weight){f32, 1, D, D * sizeof(float), (const uint8_t *)r->norm[l]};
        r->layers[l].w[SLOT_ROUTER] =
            (struct weight){f32, E, D, D * sizeof(float), (const uint8_t *)r->router[l]};
    }
    r->section = predictors_section();
    corm_predict_open(&r->view, r->section.data, r->section.len, &r->arch, CHUNKS, &err);
    assert_no_err(&err);
    predict_open(&r->predict, &r->view, &r->arch, &r->be, r->layers, CHUNKS, 2, &err);
    assert_no_err(&err);
    r->x = predictors_floats(&rng, 2 * D, 2);
    r->feature = predictors_floats(&rng, 2 * D, 1);
    r->weights = predictors_floats(&rng, 2 * K, 1);
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
        for (uint32_t j = 0; j < K && with_ids && mean.data && (parts & PREDICT_USE_MEAN); j++) {
            state[i] +=
                (double)r->weights[row * K + j] * at(mean, (uint32_t)r->ids[row * K + j], i);
        }
        square += state[i] * state[i];
    }
    double scale = 1 / sqrt(square / D + (double)r->arch.norm_eps);
    for (uint32_t e = 0; e < E; e++) {
        z[e] = 0;
        for (uint32_t i = 0; i < D; i++) {
            z[e] += (double)r->router[t][e * D + i] * state[i] * scale * (double)r->norm[t][i];
        }
        if (!in.data || !(parts & PREDICT_USE_FIX)) {
            continue;
        }
        z[e] += at(bias, 0, e);
        for (uint32_t k = 0; k < RANK; k++) {
            double low = 0;
            for (uint32_t i = 0; i < D; i++) {
                low += at(in, k, i) * (double)r->feature[row * D + i];
            }
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
        for (uint32_t e = 0; e < E; e++) {
            assert_true(fabs((double)r->predict.logits[row * E + e] - z[e]) < 1e-4);
        }
        const int32_t *ids = r->predict.host_ids + row * WIDTH;
        for (uint32_t i = 0; i < WIDTH; i++) {
            uint32_t better = 0;
            for (uint32_t e = 0; e < E; e++) {
                better += z[e] > z[ids[i]];
            }
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

/* The log energy of chunk `b` of an expert for a row; only layer 2 knows more than the prior. */
static double energy_by_hand(const struct rig *r, uint32_t layer, uint32_t row, uint32_t e,
                             uint32_t b) {
    const struct corm_predict *v = &r->view;
    const struct weight beta = corm_predict_get(v, PREDICT_CHUNK_BETA, 2, 0);
    const struct weight basis = corm_predict_get(v, PREDICT_CHUNK_BASIS, 2, 0);
    const struct weight gates = corm_predict_get(v, PREDICT_CHUNK_GATES, 2, 0);
    const struct weight gate_beta = corm_predict_get(v, PREDICT_CHUNK_GATE_BETA, 2, 0);
    const struct weight prior = corm_predict_get(v, PREDICT_CHUNK_PRIOR, layer, 0);
    double sum = at(prior, e, b);
    for (uint32_t k = 0; k < BASIS && layer == 2; k++) {
        double low = 0;
        for (uint32_t i = 0; i < D; i++) {
            low += at(basis, k, i) * (double)r->feature[row * D + i];
        }
        sum += at(beta, e * CHUNKS + b, k) * low;
    }
    for (uint32_t k = 0; k < GATES && layer == 2; k++) {
        double z = 0;
        for (uint32_t i = 0; i < D; i++) {
            z += at(gates, e * GATES + k, i) * (double)r->feature[row * D + i];
        }
        sum += at(gate_beta, e * CHUNKS + b, k) * z / (1 + exp(-z));
    }
    return sum;
}

static void chunk_energies_are_those_of_the_formula(void **state) {
    enum { ROWS = 2 };
    (void)state;
    struct rig r;
    open_rig(&r);
    assert_false(predict_has_chunks(&r.predict, 0));
    for (uint32_t layer = 2; layer < LAYERS; layer++) {
        assert_true(predict_has_chunks(&r.predict, layer));
        for (int32_t e = 0; e < E; e++) {
            const int32_t ids[ROWS * K] = {e, (e + 1) % E, (e + 3) % E, e};
            predict_chunk_energies(&r.predict, layer, r.feature, ids, ROWS);
            for (uint32_t i = 0; i < ROWS * K * CHUNKS; i++) {
                const uint32_t u = i / CHUNKS;
                const double want = energy_by_hand(&r, layer, u / K, (uint32_t)ids[u], i % CHUNKS);
                assert_true(fabs((double)r.predict.host_scores[i] - want) < 1e-4);
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
        if (n_skipped < n - hot) {
            assert_true(dropped + exp(least) > (double)drop * total * (1 - 1e-9));
        }
    }
}

static void the_size_of_energies_does_not_matter(void **state) {
    (void)state;
    float low[6] = {-900, -901, -905, -906, -907, -908}, high[6];
    uint8_t a[6], b[6];
    for (int i = 0; i < 6; i++) {
        high[i] = low[i] + 1800;
    }
    assert_int_equal(predict_choose_skip(low, 6, 2, 0.01f, a), 4);
    assert_int_equal(predict_choose_skip(high, 6, 2, 0.01f, b), 4);
    assert_memory_equal(a, b, sizeof a);
    float bad[3] = {NAN, NAN, NAN}, endless[3] = {INFINITY, 0, 0};
    assert_int_equal(predict_choose_skip(bad, 3, 0, 0.5f, a), 0);
    assert_int_equal(predict_choose_skip(endless, 3, 0, 0.5f, a), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_formula),
        cmocka_unit_test(chunk_energies_are_those_of_the_formula),
        cmocka_unit_test(the_least_are_left_out_up_to_the_share),
        cmocka_unit_test(the_size_of_energies_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
