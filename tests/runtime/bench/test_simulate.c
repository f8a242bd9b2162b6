/*
 * Replays of made-up traces: policies by hand, guesses that are right, wrong, or too many.
 */
#include "tests/util/test.h"

#include "runtime/bench/simulate.h"
#include "tests/util/test_util_archive.h"

enum {
    LAYERS = 4,
    EXPERTS = 8,
    FFN = 3,
    MIXED_FFN = 12, /* two hot chunks and a cold one */
    ACTIVE = 2,
    TOKENS = 400,
    EVENTS = TOKENS * LAYERS,
    CAPACITY = 12
};

struct rig {
    char *dir;
    struct corm archive;
    struct simulate_trace trace;
};

/* `cold`: NULL, or the codec of cold chunks, where hot ones have q8. */
static void open_archive(struct rig *r, uint32_t n_active, const char *cold) {
    struct err err = {0};
    struct arch a;
    archive_moe_arch(&a, LAYERS, EXPERTS, cold ? MIXED_FFN : FFN);
    *r = (struct rig){.dir = test_mkdir(), .trace.n_active = n_active};
    char *path = mem_printf("%s/simulate.corm", r->dir);
    struct archive_options o = archive_defaults("bf16", cold ? "q8" : "bf16");
    o.cold = cold ? codec_by_name(cold) : NULL;
    struct corm_write_stats stats;
    archive_write(path, &a, &o, &stats, &err);
    assert_no_err(&err);
    corm_open(&r->archive, path, 0, &err);
    assert_no_err(&err);
    arch_free(&a);
    free(path);
}

static void open_rig(struct rig *r, uint32_t n_active) {
    open_archive(r, n_active, NULL);
}

static void close_rig(struct rig *r) {
    simulate_free(&r->trace);
    corm_close(&r->archive);
    test_rmdir(r->dir);
}

/* Two different experts of the first `n_used`, for each event. */
static void made_up_routes(int32_t (*routes)[ACTIVE], uint32_t n_used) {
    struct test_rng rng = {1};
    for (int i = 0; i < EVENTS; i++) {
        routes[i][0] = (int32_t)(test_u64(&rng) % n_used);
        int32_t other = (int32_t)(test_u64(&rng) % (n_used - 1));
        routes[i][1] = other + (other >= routes[i][0]);
    }
}

enum guesses { NONE, PERFECT, USELESS };

/* Guesses for the next two layers, and for the first one before it; useless ones are of experts
 * that are never used. */
static void add_trace(struct rig *r, enum guesses guesses) {
    static int32_t routes[EVENTS][ACTIVE];
    static const int32_t never[ACTIVE] = {EXPERTS - 2, EXPERTS - 1};
    static const float sure[ACTIVE] = {1.0f, 1.0f}, likely[ACTIVE] = {0.9f, 0.9f};
    made_up_routes(routes, EXPERTS - 2);
    for (uint32_t i = 0; i < EVENTS; i++) {
        uint32_t layer = i % LAYERS;
        if (guesses == PERFECT && layer == 0) {
            simulate_add_guess(&r->trace, 0, 0, ACTIVE, routes[i], sure);
        }
        simulate_add(&r->trace, layer, routes[i]);
        for (uint32_t ahead = 1; ahead <= 2 && layer + ahead < LAYERS && guesses != NONE; ahead++) {
            simulate_add_guess(&r->trace, layer + ahead, ahead, ACTIVE,
                               guesses == PERFECT ? routes[i + ahead] : never,
                               guesses == PERFECT ? sure : likely);
        }
    }
}

static struct simulate_result run(const struct rig *r, enum simulate_policy policy,
                                  uint32_t allowance, size_t from) {
    struct err err = {0};
    struct simulate_case how = {policy, CAPACITY, allowance, from};
    struct simulate_result result;
    assert_int_equal(simulate_run(&r->trace, &r->archive, &how, &result, &err), 0);
    assert_no_err(&err);
    return result;
}

static void assert_same(struct simulate_result a, struct simulate_result b) {
    assert_true(a.hits == b.hits);
    assert_int_equal(a.reads, b.reads);
    assert_int_equal(a.read_bytes, b.read_bytes);
}

/* What is read on demand: every lookup that is no hit. */
static uint64_t misses(struct simulate_result result, size_t from) {
    return (uint64_t)((1 - result.hits) * (double)((EVENTS - from) * ACTIVE) + 0.5);
}

/* ---- without guesses ---- */

static void a_circle_of_three_in_a_cache_of_two(void **state) {
    (void)state;
    struct rig r;
    struct err err = {0};
    open_rig(&r, 1);
    for (int32_t i = 0; i < 6; i++) {
        simulate_add(&r.trace, 0, &(int32_t){i % 3});
    }
    struct simulate_case how = {SIMULATE_LRU, 2, 0, 0};
    struct simulate_result result;
    assert_int_equal(simulate_run(&r.trace, &r.archive, &how, &result, &err), 0);
    assert_true(result.hits == 0);
    assert_int_equal(result.reads, 6);
    /* Belady lets the third go as it came: the first two are hits when they come again. */
    how.policy = SIMULATE_BELADY;
    assert_int_equal(simulate_run(&r.trace, &r.archive, &how, &result, &err), 0);
    assert_true(result.hits == 2.0 / 6);
    assert_int_equal(result.reads, 4);
    /* Counting from the fourth on. */
    how.from = 3;
    assert_int_equal(simulate_run(&r.trace, &r.archive, &how, &result, &err), 0);
    assert_true(result.hits == 2.0 / 3);
    assert_int_equal(result.reads, 1);
    uint64_t bytes = 0;
    const struct corm_record *rec = corm_record_of(&r.archive, 0, 2);
    for (uint32_t i = 0; i < rec->n_chunks; i++) {
        bytes += r.archive.chunks[rec->first_chunk + i].stored_bytes;
    }
    assert_int_equal(result.read_bytes, bytes);
    close_rig(&r);
}

static void reads_are_misses_where_nothing_is_guessed(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, ACTIVE);
    add_trace(&r, NONE);
    struct simulate_result lru = run(&r, SIMULATE_LRU, 0, 0), own = run(&r, SIMULATE_OWN, 0, 0),
                           best = run(&r, SIMULATE_BELADY, 0, 0);
    assert_int_equal(lru.reads, misses(lru, 0));
    assert_int_equal(own.reads, misses(own, 0));
    assert_int_equal(best.reads, misses(best, 0));
    assert_true(best.hits > own.hits && best.hits > lru.hits);
    assert_same(run(&r, SIMULATE_OWN, SIMULATE_KEEPS_UP, 0), own);
    close_rig(&r);
}

static void a_cache_below_one_layer_is_refused(void **state) {
    (void)state;
    struct rig r;
    struct err err = {0};
    open_rig(&r, ACTIVE);
    add_trace(&r, NONE);
    struct simulate_case how = {SIMULATE_OWN, ACTIVE - 1, 0, 0};
    struct simulate_result result;
    assert_int_equal(simulate_run(&r.trace, &r.archive, &how, &result, &err), -1);
    assert_err(&err, "a cache of 1 experts cannot hold the 2 of one layer");
    close_rig(&r);
}

/* Hits are those of whole experts, whatever codecs their chunks have. */
static void codecs_of_chunks_change_no_hit(void **state) {
    (void)state;
    struct rig one, mixed;
    open_rig(&one, ACTIVE);
    open_archive(&mixed, ACTIVE, "q4");
    assert_true(mixed.archive.mixed);
    add_trace(&one, PERFECT);
    add_trace(&mixed, PERFECT);
    const struct simulate_result a = run(&one, SIMULATE_OWN, 1, 0),
                                 b = run(&mixed, SIMULATE_OWN, 1, 0);
    assert_true(a.hits == b.hits);
    assert_int_equal(a.reads, b.reads);
    close_rig(&one);
    close_rig(&mixed);
}

/* ---- with guesses ---- */

static void without_allowance_guesses_change_nothing(void **state) {
    (void)state;
    struct rig none, perfect;
    open_rig(&none, ACTIVE);
    open_rig(&perfect, ACTIVE);
    add_trace(&none, NONE);
    add_trace(&perfect, PERFECT);
    assert_same(run(&perfect, SIMULATE_OWN, 0, 0), run(&none, SIMULATE_OWN, 0, 0));
    /* Nor do they in a cache that is not the engine's. */
    assert_same(run(&perfect, SIMULATE_LRU, SIMULATE_KEEPS_UP, 0), run(&none, SIMULATE_LRU, 0, 0));
    assert_same(run(&perfect, SIMULATE_BELADY, SIMULATE_KEEPS_UP, 0),
                run(&none, SIMULATE_BELADY, 0, 0));
    close_rig(&none);
    close_rig(&perfect);
}

static void perfect_guesses_hit_always(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, ACTIVE);
    add_trace(&r, PERFECT);
    struct simulate_result all = run(&r, SIMULATE_OWN, SIMULATE_KEEPS_UP, EVENTS / 4);
    assert_true(all.hits == 1.0);
    assert_true(run(&r, SIMULATE_BELADY, 0, EVENTS / 4).hits < 1.0);
    /* What was read still had to be read. */
    assert_true(run(&r, SIMULATE_OWN, SIMULATE_KEEPS_UP, 0).reads >=
                run(&r, SIMULATE_BELADY, 0, 0).reads);
    close_rig(&r);
}

static void a_slower_device_brings_less(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, ACTIVE);
    add_trace(&r, PERFECT);
    double before = run(&r, SIMULATE_OWN, 0, 0).hits;
    for (uint32_t allowance = 1; allowance <= 2; allowance++) {
        struct simulate_result result = run(&r, SIMULATE_OWN, allowance, 0);
        uint64_t guessed = result.reads - misses(result, 0);
        assert_true(result.hits > before);
        assert_true(guessed > 0 && guessed <= (uint64_t)allowance * EVENTS);
        assert_true(result.reads >= run(&r, SIMULATE_BELADY, 0, 0).reads);
        before = result.hits;
    }
    assert_true(run(&r, SIMULATE_OWN, SIMULATE_KEEPS_UP, 0).hits >= before);
    close_rig(&r);
}

static void useless_guesses_cost_reads(void **state) {
    (void)state;
    struct rig none, useless;
    open_rig(&none, ACTIVE);
    open_rig(&useless, ACTIVE);
    add_trace(&none, NONE);
    add_trace(&useless, USELESS);
    struct simulate_result own = run(&none, SIMULATE_OWN, 0, 0);
    for (uint32_t allowance = 1; allowance <= 3; allowance++) {
        struct simulate_result result =
            run(&useless, SIMULATE_OWN, allowance < 3 ? allowance : SIMULATE_KEEPS_UP, 0);
        assert_true(result.hits <= own.hits);
        assert_true(result.reads > own.reads);
        assert_true(result.reads > misses(result, 0));
    }
    close_rig(&none);
    close_rig(&useless);
}

/* Experts read by guesses, each with the chance `p`, beside demands that mostly miss. */
static uint64_t guessed_reads(float p, uint32_t allowance) {
    struct rig r;
    struct err err = {0};
    open_rig(&r, ACTIVE);
    for (int i = 0; i < TOKENS; i++) {
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            int32_t used[ACTIVE] = {i % (EXPERTS - 1), (i + 4) % (EXPERTS - 1)};
            simulate_add(&r.trace, layer, used);
            if (layer == 0) {
                simulate_add_guess(&r.trace, 1, 1, 1, &(int32_t){EXPERTS - 1}, &p);
            }
        }
    }
    /* How busy the device is shows after a while. */
    struct simulate_case how = {SIMULATE_OWN, 4, allowance, EVENTS / 4};
    struct simulate_result result;
    assert_int_equal(simulate_run(&r.trace, &r.archive, &how, &result, &err), 0);
    assert_no_err(&err);
    double lookups = (double)ACTIVE * (double)(r.trace.n - how.from);
    assert_true(result.hits < 0.5);
    close_rig(&r);
    return result.reads - (uint64_t)((1 - result.hits) * lookups + 0.5);
}

static void only_guesses_that_pay_are_made(void **state) {
    (void)state;
    assert_int_equal(guessed_reads(0, SIMULATE_KEEPS_UP), 0);
    /* An idle device costs something too, and one that serves demands for two thirds of the time
     * has better things to do. */
    assert_int_equal(guessed_reads(0.3f, SIMULATE_KEEPS_UP), 0);
    assert_true(guessed_reads(0.38f, SIMULATE_KEEPS_UP) > 0);
    assert_int_equal(guessed_reads(0.38f, 1), 0);
    assert_true(guessed_reads(0.9f, 1) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_circle_of_three_in_a_cache_of_two),
        cmocka_unit_test(reads_are_misses_where_nothing_is_guessed),
        cmocka_unit_test(a_cache_below_one_layer_is_refused),
        cmocka_unit_test(codecs_of_chunks_change_no_hit),
        cmocka_unit_test(without_allowance_guesses_change_nothing),
        cmocka_unit_test(perfect_guesses_hit_always),
        cmocka_unit_test(a_slower_device_brings_less),
        cmocka_unit_test(useless_guesses_cost_reads),
        cmocka_unit_test(only_guesses_that_pay_are_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
