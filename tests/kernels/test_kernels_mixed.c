/*
 * Experts whose chunks have several codecs: what chunks of one codec give, added chunk by chunk, to
 * the bit, on every instruction set and for any number of rows.
 */
#include "tests/util/test.h"

#include "tests/util/test_util_backends.h"

enum { DIM = 160, CHUNKS = 5, FFN = (CHUNKS - 1) * FFN_BLOCK + 7, EXPERTS = 3, ACTIVE = 2 };
enum { MOST_ROWS = 90, USES = MOST_ROWS * ACTIVE };

/* Codecs of the chunks of experts, by turns. */
static const char *const mixes[][CHUNKS] = {
    {"q8", "q4", "q4", "q8", "q4"},
    {"bf16", "q4", "q8", "q4", "q4"},
    {"q4", "f32", "bf16", "f16", "q8"},
};

struct layer {
    struct expert_layer layer;
    struct weight weights[EXPERTS][CHUNKS];
    struct ffn_chunk chunks[EXPERTS][CHUNKS];
    struct expert_job jobs[EXPERTS];
    uint32_t uses[EXPERTS][USES];
    float *x, *biases;
};

static void open_layer(struct layer *l, struct test_rng *rng, size_t mix, uint32_t rows,
                       bool bias) {
    *l = (struct layer){.layer = {.dim = DIM, .ffn_dim = FFN, .n_active = ACTIVE}};
    l->biases = kernels_vector(rng, KIND_NORMAL, EXPERTS * (2 * FFN + DIM));
    l->layer.rule.bias = bias;
    l->layer.gate_bias = l->biases;
    l->layer.up_bias = l->biases + EXPERTS * FFN;
    l->layer.down_bias = l->biases + EXPERTS * 2 * FFN;
    l->x = kernels_vector(rng, KIND_NORMAL, (size_t)rows * DIM);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        for (uint32_t i = 0; i < CHUNKS; i++) {
            const struct codec *codec = codec_by_name(mixes[mix][(i + e) % CHUNKS]);
            const uint32_t first = i * FFN_BLOCK,
                           n = FFN - first < FFN_BLOCK ? FFN - first : FFN_BLOCK;
            l->weights[e][i] = kernels_weight(rng, codec, KIND_NORMAL, 3 * n, DIM, 0);
            l->chunks[e][i] = (struct ffn_chunk){
                .data = l->weights[e][i].data, .codec = codec, .n_neurons = n, .first = first};
        }
        l->jobs[e] = (struct expert_job){e, l->chunks[e], CHUNKS, l->uses[e], 0};
    }
    for (uint32_t u = 0; u < rows * ACTIVE; u++) {
        struct expert_job *job = &l->jobs[(u / ACTIVE + u % ACTIVE * (1 + u % 4 / 2)) % EXPERTS];
        l->uses[job->expert][job->n_uses++] = u;
    }
}

static void close_layer(struct layer *l, uint32_t rows) {
    for (uint32_t e = 0; e < EXPERTS; e++) {
        for (uint32_t i = 0; i < CHUNKS; i++) {
            kernels_free_weight(&l->weights[e][i]);
        }
    }
    test_guard_free(l->biases, EXPERTS * (2 * FFN + DIM) * sizeof *l->biases);
    test_guard_free(l->x, (size_t)rows * DIM * sizeof *l->x);
}

/* Outputs by calls that have one chunk each: the bias of a sum counts once. */
static void by_chunks(const struct backend *b, const struct layer *l, uint32_t rows, float *want) {
    struct expert_layer unbiased = l->layer;
    float zeros[EXPERTS * DIM] = {0};
    float *part = backends_zeros((size_t)rows * ACTIVE * DIM);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        for (uint32_t i = 0; i < CHUNKS; i++) {
            struct expert_job job = l->jobs[e];
            job.chunks = &l->chunks[e][i];
            job.n_chunks = 1;
            unbiased.down_bias = i == 0 ? l->layer.down_bias : zeros;
            b->ops->experts(b->self, &unbiased, &job, 1, l->x, part);
            for (uint32_t u = 0; u < job.n_uses; u++) {
                const size_t at = (size_t)job.uses[u] * DIM;
                for (uint32_t c = 0; c < DIM; c++) {
                    want[at + c] = i == 0 ? part[at + c] : want[at + c] + part[at + c];
                }
            }
        }
    }
    free(part);
}

static void chunks_of_several_codecs_add_up(void **state) {
    (void)state;
    static const uint32_t all_rows[] = {1, 3, MOST_ROWS};
    const struct backend *b;
    for (size_t mix = 0; mix < TEST_COUNT(mixes); mix++) {
        for (size_t r = 0; r < TEST_COUNT(all_rows); r++) {
            const uint32_t rows = all_rows[r];
            const size_t n = (size_t)rows * ACTIVE * DIM;
            struct test_rng rng = {mix + 1};
            struct layer l;
            open_layer(&l, &rng, mix, rows, mix % 2);
            float *want = backends_zeros(n), *got = backends_zeros(n);
            for (size_t i = 0; (b = backends_at(i)) && backends_one(i); i++) {
                assert_true(b->ops->mixes_codecs);
                by_chunks(b, &l, rows, want);
                b->ops->experts(b->self, &l.layer, l.jobs, EXPERTS, l.x, got);
                backends_same(b, "chunks of several codecs", got, want, n);
            }
            free(want);
            free(got);
            close_layer(&l, rows);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_of_several_codecs_add_up),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
