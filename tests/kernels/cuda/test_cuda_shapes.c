/*
 * The CUDA backend at the geometry of published models, on the emulated device: Mixtral's experts
 * of 14,336 neurons and Qwen3-30B's 128 of 768, in q4. The tables that the host makes for a call
 * grow with neurons, experts and rows; under AddressSanitizer this is where one that is too small
 * shows. Operations have the models' true widths; whole models, which the CPU must calibrate and
 * the engine run, are narrow. Of large launches of expensive kernels one or two blocks run, but for
 * the comparison with the CPU.
 *
 * CORM_TEST_FULL=1 in the environment: every combination.
 */
#include "tests/util/test.h"

#include <math.h>

#include "tests/util/test_util_emulated.h"
#include "tests/util/test_util_model.h"
#include "tests/util/test_util_plant.h"

static bool full(void) {
    return getenv("CORM_TEST_FULL") != NULL;
}

/* What takes long for many rows, and decides nothing that comes after it. */
static bool takes_long(const char *kernel) {
    static const char *const names[] = {"(few_", "few_", "(many_", "(attend_", "attend_"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        if (strncmp(kernel, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

static void set_machine(uint32_t most_blocks) {
    *emulate_machine() = emulated_machine((size_t)8 << 30);
    emulate_machine()->most_blocks = most_blocks;
    emulate_machine()->sampled = takes_long;
}

/* ---- operations ----------------------------------------------------------------------------- */

struct geometry {
    const char *name;
    uint32_t dim, ffn, experts, active;
};
static const struct geometry geometries[] = {{"mixtral", 4096, 14336, 8, 2},
                                             {"qwen3_moe", 2048, 768, 128, 8}};

enum { CHUNK_NEURONS = 32, MOST_ROWS = 2048 };

/* The jobs of a call, all of whose experts have the same weights. */
struct calls {
    struct ffn_chunk *chunks; /* of an expert */
    struct expert_job *jobs;
    uint32_t *uses, n_chunks, n_jobs;
};

/* Experts of a row are neighbours, and begin anywhere. With `apart` each use is a job of its own
 * and leaves some chunks out, as it does with --loss. */
static struct calls make_calls(const struct geometry *g, uint32_t rows, const uint8_t *weights,
                               size_t neuron_bytes, bool apart) {
    struct calls c = {.n_chunks = g->ffn / CHUNK_NEURONS};
    struct test_rng rng = {rows};
    const uint32_t n_uses = rows * g->active;
    uint32_t *expert = mem_calloc(n_uses, sizeof *expert), n = 0;
    c.chunks = mem_calloc(c.n_chunks, sizeof *c.chunks);
    c.jobs = mem_calloc(apart ? n_uses : g->experts, sizeof *c.jobs);
    c.uses = mem_calloc(n_uses, sizeof *c.uses);
    for (uint32_t i = 0; i < c.n_chunks; i++) {
        c.chunks[i] = (struct ffn_chunk){.data = weights + i * CHUNK_NEURONS * neuron_bytes,
                                         .codec = codec_by_id(CODEC_Q4),
                                         .n_neurons = CHUNK_NEURONS,
                                         .first = i * CHUNK_NEURONS};
    }
    for (uint32_t r = 0; r < rows; r++) {
        const uint32_t first = (uint32_t)(test_u64(&rng) % g->experts);
        for (uint32_t j = 0; j < g->active; j++) {
            expert[r * g->active + j] = (first + j) % g->experts;
        }
    }
    for (uint32_t e = 0; e < g->experts; e++) {
        const uint32_t first = n;
        for (uint32_t u = 0; u < n_uses; u++) {
            if (expert[u] == e) {
                c.uses[n++] = u;
            }
        }
        for (uint32_t at = first; at < n; at += apart ? 1 : n - first) {
            c.jobs[c.n_jobs++] =
                (struct expert_job){.expert = e,
                                    .chunks = c.chunks,
                                    .n_chunks = apart ? c.n_chunks - at % 3 : c.n_chunks,
                                    .uses = &c.uses[at],
                                    .n_uses = apart ? 1 : n - first};
        }
    }
    free(expert);
    return c;
}

static void experts_of(const struct geometry *g, uint32_t rows) {
    const struct codec *q4 = codec_by_name("q4");
    const size_t neuron_bytes = 3 * codec_row_bytes(q4, g->dim);
    const struct backend_limits limits = {.max_rows = rows,
                                          .max_cols = g->dim,
                                          .max_ffn = g->ffn,
                                          .max_active = g->active,
                                          .max_experts = g->experts,
                                          .max_ctx_tok = 64,
                                          .n_heads = 1,
                                          .head_dim = 64};
    const struct expert_layer layer = {.dim = g->dim, .ffn_dim = g->ffn, .n_active = g->active};
    struct backend b;
    struct err err = {0};
    emulated_cuda_open(&b, 0, 0, &limits, &err);
    assert_no_err(&err);
    uint8_t *weights = b.ops->alloc(b.self, g->ffn * neuron_bytes, NULL);
    float *x = b.ops->alloc(b.self, (size_t)rows * g->dim * sizeof *x, NULL);
    float *parts = b.ops->alloc(b.self, (size_t)rows * g->active * g->dim * sizeof *parts, NULL);
    const size_t used = emulate_used_bytes();
    /* Many rows of long experts, each a job of its own, would take hundreds of rounds. */
    const int kinds = rows <= BACKEND_SAME_BITS_ROWS || g->ffn < 1024 ? 2 : 1;
    for (int apart = 0; apart < kinds; apart++) {
        struct calls c = make_calls(g, rows, weights, neuron_bytes, apart);
        b.ops->experts(b.self, &layer, c.jobs, c.n_jobs, x, parts);
        free(c.chunks);
        free(c.jobs);
        free(c.uses);
    }
    assert_int_equal(emulate_used_bytes(), used); /* operations take no memory */
    b.ops->free(b.self, weights);
    b.ops->free(b.self, x);
    b.ops->free(b.self, parts);
    backend_close(&b);
    assert_int_equal(emulate_used_bytes(), 0);
}

static void experts_of_true_width(void **state) {
    static const uint32_t rows[] = {1, 8, 256, MOST_ROWS};
    (void)state;
    set_machine(full() ? 2 : 1);
    for (size_t g = 0; g < TEST_COUNT(geometries); g++) {
        for (size_t r = 0; r < TEST_COUNT(rows) - !full(); r++) {
            experts_of(&geometries[g], rows[r]);
        }
    }
}

/* ---- whole models --------------------------------------------------------------------------- */

static struct plant_shape narrow(bool qwen) {
    struct plant_shape s = plant_preset(0);
    s.family = plant_family(qwen ? "qwen3_moe" : "mixtral");
    s.layers = 2;
    s.dim = 128;
    s.heads = 4;
    s.kv_heads = 2;
    s.head_dim = 32;
    s.experts = qwen ? 128 : 4;
    s.active = qwen ? 8 : 2;
    s.ffn = qwen ? 768 : 14336;
    s.vocab = 512;
    s.ctx = 4096;
    return s;
}

static char *archives[2]; /* mixtral's geometry, Qwen3-30B's */

static int make_archives(void **state) {
    const struct plant_shape mixtral = narrow(false), qwen = narrow(true);
    (void)state;
    archives[0] = plant_archive(&mixtral, CHUNK_NEURONS, "mixtral");
    archives[1] = plant_archive(&qwen, CHUNK_NEURONS, "qwen3");
    return 0;
}

static int free_archives(void **state) {
    (void)state;
    free(archives[0]);
    free(archives[1]);
    return 0;
}

static const int32_t *text(uint32_t at) {
    static int32_t ids[2 * MOST_ROWS];
    struct test_rng rng = {7};
    for (size_t i = 0; i < TEST_COUNT(ids); i++) {
        ids[i] = (int32_t)(test_u64(&rng) % 500);
    }
    return ids + at;
}

/* What is asked of the engine. */
struct way {
    uint32_t batch_rows, before_tok; /* before_tok: of the prompt, ahead of one whole batch */
    enum corm_missed missed;
    float loss;
};

/* How much device memory a way takes with all experts, and with as few as it can do with. */
static void plan_of(const char *path, struct corm_engine_options opt, uint64_t *all,
                    uint64_t *least) {
    opt.only_plan = true;
    opt.vram_bytes = (uint64_t)4 << 30;
    opt.missed = CORM_MISSED_DEVICE;
    struct corm_engine *e = model_open(path, &opt);
    *all = corm_engine_plan(e)->total_bytes;
    *least = corm_engine_plan(e)->floor_bytes;
    corm_engine_close(e);
}

/* Two sessions: a prompt with one whole batch, a short one, decoding both, then eight rows. */
static void walk(const char *path, struct way way) {
    struct corm_engine_options opt = {.threads = 2,
                                      .device = "cuda",
                                      .batch_rows = way.batch_rows,
                                      .ctx_tok = way.before_tok + way.batch_rows + 16,
                                      .max_sessions = 2,
                                      .ram_bytes = (uint64_t)1 << 30};
    uint64_t all, least;
    struct corm_error error;
    plan_of(path, opt, &all, &least);
    opt.vram_bytes = least + (all - least) / 4;
    opt.missed = way.missed;
    opt.loss_percent = way.loss;
    struct corm_engine *e = model_open(path, &opt);
    struct corm_session *s[2] = {model_session(e), model_session(e)};
    assert_true(corm_engine_plan(e)->streams);
    assert_int_equal(corm_engine_plan(e)->missed, way.missed);
    if (way.before_tok > 0) {
        model_eval(s[0], text(0), way.before_tok, false);
    }
    model_eval(s[0], text(way.before_tok), way.batch_rows, false);
    model_eval(s[1], text(5), 2, false);
    for (uint32_t t = 0; t < 3; t++) {
        const int32_t next[2] = {*text(way.before_tok + way.batch_rows + t), *text(7 + t)};
        if (corm_sessions_decode(s, next, 2, &error) < 0) {
            fail_msg("%s", error.message);
        }
    }
    model_eval(s[1], text(11), 8, false);
    model_eval(s[1], text(19), 1, false);
    struct corm_stats stats;
    corm_session_stats(s[1], &stats);
    assert_true(stats.copied_demanded_bytes > 0);
    assert_int_equal(stats.cpu_bytes > 0, way.missed == CORM_MISSED_CPU);
    assert_int_equal(stats.skipped_bytes > 0, way.loss > 0);
    assert_true(emulate_used_bytes() <= corm_engine_plan(e)->total_bytes);
    corm_session_close(s[0]);
    corm_session_close(s[1]);
    corm_engine_close(e);
    assert_int_equal(emulate_used_bytes(), 0);
}

static void all_ways_through_whole_models(void **state) {
    static const uint32_t batches[] = {1, 8, 256, MOST_ROWS};
    (void)state;
    set_machine(1);
    for (int a = 0; a < 2; a++) {
        for (size_t b = 0; b < TEST_COUNT(batches); b++) {
            for (int kind = 0; kind < 4; kind++) {
                const struct way way = {.batch_rows = batches[b],
                                        .before_tok = batches[b] == 256 ? 400 : 0,
                                        .missed = kind & 1 ? CORM_MISSED_CPU : CORM_MISSED_DEVICE,
                                        .loss = kind & 2 ? 1 : 0};
                /* Each batch with one kind, the largest one for one archive, and not where a
                 * sanitizer makes it slow. */
                if (full() || ((size_t)kind == (b + (size_t)a) % 4 &&
                               (batches[b] < MOST_ROWS || (a == 1 && !QUICK)))) {
                    walk(archives[a], way);
                }
            }
        }
    }
}

/* All blocks of all kernels: the CPU's logits, which has other roundings in q4. With 16 tokens some
 * expert has so many uses that they go by tiles. */
static void logits_of_the_cpu(void **state) {
    const uint32_t n_prompt = full() ? 16 : 2;
    (void)state;
    set_machine(0);
    for (int a = 0; a < (QUICK ? 1 : 2); a++) {
        float *want = NULL;
        for (int device = 0; device < 2; device++) {
            struct corm_engine_options opt = {
                .threads = 1, .device = device ? "cuda" : NULL, .ctx_tok = 32, .batch_rows = 16};
            struct corm_engine *e = model_open(archives[a], &opt);
            struct corm_session *s = model_session(e);
            const size_t vocab = corm_engine_info(e)->vocab;
            model_eval(s, text(0), n_prompt, false);
            const float *got = model_eval(s, text(n_prompt), 1, false);
            double worst = 0, size = 0;
            for (size_t i = 0; i < vocab && want; i++) {
                worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
                size = fmax(size, fabs((double)want[i]));
            }
            if (want && !(worst <= 3e-2 * size)) {
                fail_msg("%s: logits up to %.3g apart, of %.3g", archives[a], worst, size);
            }
            want = want ? want : memcpy(mem_alloc(vocab * sizeof *want), got, vocab * sizeof *want);
            corm_session_close(s);
            corm_engine_close(e);
        }
        free(want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_of_true_width),
        cmocka_unit_test(all_ways_through_whole_models),
        cmocka_unit_test(logits_of_the_cpu),
    };
    return cmocka_run_group_tests(tests, make_archives, free_archives);
}
