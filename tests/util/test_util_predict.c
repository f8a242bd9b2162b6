/*
 * test_util_predict: see test_util_predict.h.
 */
#include "tests/util/test_util_predict.h"
#include "tests/util/test_util_archive.h"

void predictors_arch(struct arch *a) {
    archive_moe_arch(a, LAYERS, E, 3);
    archive_set_dense(a, 1, 8);
    a->n_active = K;
    a->dim = D;
}

float *predictors_floats(struct test_rng *rng, size_t n, float scale) {
    float *v = mem_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) {
        v[i] = bf16_to_f32(f32_to_bf16(scale * test_f32(rng)));
    }
    return v;
}

static void add_random(struct corm_predict_builder *b, struct test_rng *rng, enum predict_kind kind,
                       uint32_t layer, uint32_t ahead, enum codec_id codec, uint32_t rows,
                       uint32_t cols) {
    float *v = predictors_floats(rng, (size_t)rows * cols, 0.5f);
    corm_predict_add(b, kind, layer, ahead, codec, v, rows, cols);
    free(v);
}

static void add_fix(struct corm_predict_builder *b, struct test_rng *rng, uint32_t layer,
                    uint32_t ahead) {
    add_random(b, rng, PREDICT_EXPERT_IN, layer, ahead, CODEC_BF16, RANK, D);
    add_random(b, rng, PREDICT_EXPERT_OUT, layer, ahead, CODEC_BF16, E, RANK);
    add_random(b, rng, PREDICT_EXPERT_BIAS, layer, ahead, CODEC_F32, 1, E);
}

struct buf predictors_section(void) {
    static const float chances[WIDTH] = {0.9f, 0.7f, 0.3f, 0.1f}, drops[2] = {0.01f, 0.05f};
    struct corm_predict_builder b = {.levels = {0.5f, 2}, .n_levels = 2}, more = {0};
    struct test_rng rng = {7};
    struct buf out = {0};
    /* In no order. */
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
