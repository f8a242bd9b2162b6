/*
 * What the engine hands to a device for a token that decodes: kernels, waits, small copies, on the
 * emulated device. The shape is Qwen3-30B's but for its size: 8 experts of 128 a token, norms of
 * queries and keys by head, 8 query heads to a KV head, no biases.
 */
#include "tests/util/test.h"

#include "runtime/mechanisms.h"
#include "tests/util/test_util_emulated.h"
#include "tests/util/test_util_model.h"
#include "tests/util/test_util_plant.h"

enum { LAYERS = 4, STEPS = 4, PROMPT = 3 };

static char *archive;

static int make_archive(void **state) {
    struct plant_shape s = plant_preset(0);
    (void)state;
    s.family = plant_family("qwen3_moe");
    s.layers = LAYERS;
    s.dim = 128;
    s.heads = 8;
    s.kv_heads = 1;
    s.head_dim = 32;
    s.experts = 128;
    s.active = 8;
    s.ffn = 96;
    s.vocab = 300;
    s.ctx = 4096;
    archive = plant_archive(&s, 32, "m");
    *emulate_machine() = emulated_machine((size_t)1 << 30);
    return 0;
}

static int free_archive(void **state) {
    (void)state;
    free(archive);
    return 0;
}

/* What a token costs, of STEPS that decode after a prompt. */
struct cost {
    double launches, waits, small_copies, small_bytes;
};

static struct cost cost_of(const char *what, struct corm_engine_options opt) {
    const int32_t ids[PROMPT + STEPS] = {3, 141, 59, 26, 53, 58, 97};
    struct corm_stats s;
    opt.device = "cuda";
    opt.threads = 1;
    opt.ctx_tok = 64;
    struct corm_engine *e = model_open(archive, &opt);
    struct corm_session *session = model_session(e);
    for (int round = 0; round < 2; round++) { /* the second one has all that it needs at hand */
        corm_session_truncate(session, 0);
        model_eval(session, ids, PROMPT, false);
        corm_session_reset_stats(session);
        for (int i = 0; i < STEPS; i++) {
            model_eval(session, ids + PROMPT + i, 1, false);
        }
    }
    corm_session_stats(session, &s);
    corm_session_close(session);
    corm_engine_close(e);
    const double n = STEPS;
    const struct cost cost = {(double)s.launches / n, (double)s.waits / n,
                              (double)s.small_copies / n, (double)s.small_copy_bytes / n};
    print_message("%s: %.1f launches, %.1f waits, %.1f small copies of %.0f bytes a token\n", what,
                  cost.launches, cost.waits, cost.small_copies, cost.small_bytes);
    return cost;
}

/* At both ends of a token: embedding, angles, the first norm of a layer that waits for them, the
 * logits; the id, frequencies and the logits travel, and what the KV cache could not hold. */
enum { ENDS_LAUNCHES = 4, ENDS_WAITS = 2, ENDS_COPIES = 4 };

static void six_kernels_and_one_wait_a_layer(void **state) {
    const struct corm_mechanisms m = {.no_guesses = true};
    (void)state;
    const struct cost c = cost_of("experts at hand", (struct corm_engine_options){.measure = &m});
    assert_true(c.launches >= 6 * LAYERS && c.launches <= ENDS_LAUNCHES + 6 * LAYERS);
    assert_true(c.waits >= LAYERS && c.waits <= ENDS_WAITS + LAYERS);
    assert_true(c.small_copies <= ENDS_COPIES);
    assert_true(c.small_bytes < 2000);
}

/* Guesses for two layers are waited for together. */
static void one_wait_for_all_guesses(void **state) {
    const struct corm_mechanisms m = {.ahead = 2};
    (void)state;
    const struct cost c = cost_of("guesses", (struct corm_engine_options){.measure = &m});
    assert_true(c.launches > 6 * LAYERS && c.launches <= 25 * LAYERS);
    assert_true(c.waits > LAYERS && c.waits <= 1 + ENDS_WAITS + 2 * LAYERS);
}

/* What may be left out is read once for all uses. */
static void one_wait_for_what_is_left_out(void **state) {
    const struct corm_mechanisms m = {.no_guesses = true};
    (void)state;
    const struct cost c =
        cost_of("experts in part", (struct corm_engine_options){.measure = &m, .loss_percent = 1});
    assert_true(c.waits > LAYERS && c.waits <= ENDS_WAITS + 2 * LAYERS);
    assert_true(c.launches <= ENDS_LAUNCHES + 25 * LAYERS);
}

/* Room for few of the experts: what the CPU computes costs no wait besides. */
static void one_wait_with_the_cpu(void **state) {
    const struct corm_mechanisms m = {.cache_share = 0.05};
    (void)state;
    const struct cost c =
        cost_of("the CPU for missed ones",
                (struct corm_engine_options){
                    .measure = &m, .missed = CORM_MISSED_CPU, .ram_bytes = (uint64_t)1 << 30});
    /* The ring for tables is short on the emulated device, and waited for now and then. */
    assert_true(c.waits >= LAYERS && c.waits < ENDS_WAITS + LAYERS + 1);
    /* Now and then an expert has just come to its place, and is queued by itself. */
    assert_true(c.launches > 6 * LAYERS && c.launches < ENDS_LAUNCHES + 7 * LAYERS + 2);
    assert_true(c.small_copies <= ENDS_COPIES + 3 * LAYERS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_kernels_and_one_wait_a_layer),
        cmocka_unit_test(one_wait_for_all_guesses),
        cmocka_unit_test(one_wait_for_what_is_left_out),
        cmocka_unit_test(one_wait_with_the_cpu),
    };
    return cmocka_run_group_tests(tests, make_archive, free_archive);
}
