/*
 * The cache of expert chunks: states, who gives way to whom, pins, claims, leases, counters.
 */
#include "tests/util/test.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "runtime/cache.h"
#include "tests/util/test_util_archive.h"

enum { LAYERS = 2, EXPERTS = 4, CHUNKS = 6, HOT = 2, CHUNK_NEURONS = 4 };

/* An archive of LAYERS * EXPERTS records of CHUNKS chunks, the first HOT of them hot. */
struct rig {
    char *dir;
    struct corm archive;
    struct cache cache;
};

static void write_archive(const char *path, bool compress_hot) {
    struct arch a;
    struct err err = {0};
    archive_moe_arch(&a, LAYERS, EXPERTS, CHUNKS * CHUNK_NEURONS);
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.hot_neurons = HOT * CHUNK_NEURONS;
    o.compress_hot = compress_hot;
    o.raw_above_ratio = 1;
    struct corm_write_stats stats;
    archive_write(path, &a, &o, &stats, &err);
    assert_no_err(&err);
    arch_free(&a);
}

static void open_rig(struct rig *r, uint32_t n_slots, bool in_place) {
    struct err err = {0};
    r->dir = test_mkdir();
    char *path = mem_printf("%s/cache.corm", r->dir);
    write_archive(path, false);
    corm_open(&r->archive, path, 0, &err);
    assert_no_err(&err);
    const struct cache_options keep = {.how = in_place ? CACHE_IN_PLACE : 0};
    const uint64_t bytes = n_slots * (uint64_t)cache_slot_bytes(&r->archive, 0);
    cache_open(&r->cache, &r->archive, bytes, &keep, &err);
    assert_no_err(&err);
    cache_clock(&r->cache, 0, 1, true);
    free(path);
}

static void close_rig(struct rig *r) {
    cache_close(&r->cache);
    corm_close(&r->archive);
    test_rmdir(r->dir);
}

static uint32_t chunk_of(uint32_t record, uint32_t i) {
    return record * CHUNKS + i;
}

/* What an I/O thread does, without the bytes. */
static void load(struct cache *c, uint32_t chunk) {
    int32_t slot = cache_slot_take(c, chunk, CACHE_CLAIM_DEMAND, 0);
    assert_int_not_equal(slot, CACHE_NO_SLOT);
    c->chunks[chunk].state = CACHE_LOADING;
    cache_publish(c, chunk, slot, cache_slot(c, slot));
}

static void load_record(struct cache *c, uint32_t record) {
    for (uint32_t i = 0; i < CHUNKS; i++) {
        load(c, chunk_of(record, i));
    }
}

static uint32_t only_absent(const struct cache *c, uint32_t first, uint32_t n,
                            const bool *absent_before) {
    uint32_t found = UINT32_MAX;
    for (uint32_t i = first; i < first + n; i++) {
        if (c->chunks[i].state == CACHE_ABSENT && !absent_before[i]) {
            assert_int_equal(found, UINT32_MAX);
            found = i;
        }
    }
    return found;
}

/* The chunk that a claim evicts; UINT32_MAX where it gets nothing. The slot stays taken. */
static uint32_t evicted_by(struct cache *c, enum cache_claim claim, float p) {
    bool absent[LAYERS * EXPERTS * CHUNKS];
    for (uint32_t i = 0; i < TEST_COUNT(absent); i++) {
        absent[i] = c->chunks[i].state == CACHE_ABSENT;
    }
    if (cache_slot_take(c, chunk_of(0, HOT), claim, p) == CACHE_NO_SLOT) {
        return UINT32_MAX;
    }
    uint32_t chunk = only_absent(c, 0, TEST_COUNT(absent), absent);
    assert_int_not_equal(chunk, UINT32_MAX);
    return chunk;
}

static uint32_t next_evicted(struct cache *c) {
    return evicted_by(c, CACHE_CLAIM_DEMAND, 0);
}

/* ---- sizes ---- */

static void counts_slots_that_are_needed(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 1, true);
    /* Hot prefixes are raw, cold chunks compressed. */
    assert_int_equal(cache_sizes(&r.archive, CACHE_ONE_SIZE).sizes[0].n, LAYERS * EXPERTS * CHUNKS);
    assert_int_equal(cache_sizes(&r.archive, CACHE_ONE_SIZE | CACHE_IN_PLACE).sizes[0].n,
                     LAYERS * EXPERTS * (CHUNKS - HOT));
    assert_int_equal(cache_floor_bytes(&r.archive, 0),
                     2 * CHUNKS * cache_slot_bytes(&r.archive, 0));
    assert_int_equal(cache_slot_bytes(&r.archive, 0) % 64, 0);
    assert_true(cache_slot_bytes(&r.archive, 0) >= CHUNK_NEURONS * r.archive.neuron_bytes);
    assert_false(cache_uses_slot(&r.cache, chunk_of(0, 0)));
    assert_true(cache_uses_slot(&r.cache, chunk_of(0, HOT)));
    close_rig(&r);
}

/* ---- states ---- */

static void chunks_start_absent_and_slots_are_distinct(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 5, false);
    bool seen[5] = {false};
    for (uint32_t i = 0; i < r.archive.n_chunks; i++) {
        assert_int_equal(r.cache.chunks[i].state, CACHE_ABSENT);
        assert_int_equal(r.cache.chunks[i].record, i / CHUNKS);
        assert_int_equal(r.cache.chunks[i].hot, i % CHUNKS < HOT);
    }
    for (int i = 0; i < 5; i++) {
        int32_t slot = cache_slot_take(&r.cache, 0, CACHE_CLAIM_DEMAND, 0);
        assert_in_range(slot, 0, 4);
        assert_false(seen[slot]);
        seen[slot] = true;
    }
    assert_int_equal(cache_slot_take(&r.cache, 0, CACHE_CLAIM_DEMAND, 0), CACHE_NO_SLOT);
    cache_slot_give(&r.cache, 3);
    assert_int_equal(cache_slot_take(&r.cache, 0, CACHE_CLAIM_GUESS, 0), 3);
    close_rig(&r);
}

static void published_chunks_are_ready_where_they_are(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2, true);
    const struct corm_chunk *raw = &r.archive.chunks[0];
    r.cache.chunks[0].state = CACHE_LOADING;
    cache_publish(&r.cache, 0, CACHE_NO_SLOT, r.archive.map.data + raw->offset);
    assert_int_equal(r.cache.chunks[0].state, CACHE_READY);
    assert_ptr_equal(r.cache.chunks[0].data, r.archive.map.data + raw->offset);
    assert_int_equal(r.cache.records[0].slots_hot, 0);
    load(&r.cache, chunk_of(0, HOT));
    assert_int_equal(r.cache.records[0].slots_cold, 1);
    load(&r.cache, chunk_of(1, HOT));
    cache_touch(&r.cache, 0);
    /* What is in place holds no slot and is never evicted. */
    assert_int_equal(next_evicted(&r.cache), chunk_of(1, HOT));
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, HOT));
    assert_int_equal(next_evicted(&r.cache), UINT32_MAX);
    assert_int_equal(r.cache.chunks[0].state, CACHE_READY);
    assert_int_equal(r.cache.count.evictions, 2);
    close_rig(&r);
}

/* ---- order ---- */

static void cold_chunks_go_first_the_least_busy_ahead(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, CHUNKS, false);
    load_record(&r.cache, 3);
    cache_touch(&r.cache, 3);
    for (uint32_t i = CHUNKS; i-- > 0;) {
        assert_int_equal(next_evicted(&r.cache), chunk_of(3, i));
    }
    assert_int_equal(next_evicted(&r.cache), UINT32_MAX);
    assert_int_equal(r.cache.records[3].slots_cold + r.cache.records[3].slots_hot, 0);
    close_rig(&r);
}

static void without_a_bonus_experts_go_whole(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2 * CHUNKS, false);
    load_record(&r.cache, 0);
    load_record(&r.cache, 1);
    cache_touch(&r.cache, 0);
    cache_touch(&r.cache, 0);
    cache_touch(&r.cache, 1);
    for (uint32_t record = 2; record-- > 0;) {
        for (uint32_t i = CHUNKS; i-- > 0;) {
            assert_int_equal(next_evicted(&r.cache), chunk_of(record, i));
        }
    }
    close_rig(&r);
}

static void hot_prefixes_outlive_cold_chunks(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2 * CHUNKS, false);
    r.cache.opt.hot_bonus = 2;
    load_record(&r.cache, 0);
    load_record(&r.cache, 1);
    for (int i = 0; i < 3; i++) {
        cache_touch(&r.cache, 0);
    }
    cache_touch(&r.cache, 1);
    /* Expert 1 is used a third as often: its cold chunks, then those of expert 0, then the hot. */
    for (uint32_t i = CHUNKS; i-- > HOT;) {
        assert_int_equal(next_evicted(&r.cache), chunk_of(1, i));
    }
    for (uint32_t i = CHUNKS; i-- > HOT;) {
        assert_int_equal(next_evicted(&r.cache), chunk_of(0, i));
    }
    for (uint32_t i = HOT; i-- > 0;) {
        assert_int_equal(next_evicted(&r.cache), chunk_of(1, i));
    }
    for (uint32_t i = HOT; i-- > 0;) {
        assert_int_equal(next_evicted(&r.cache), chunk_of(0, i));
    }
    close_rig(&r);
}

/* Tokens of which `uses(expert)` tells by token whether they use it, in layer 0. */
static void pass_tokens(struct cache *c, int n, uint32_t n_experts,
                        bool (*uses)(uint32_t expert, int token)) {
    for (int token = 0; token < n; token++) {
        cache_clock(c, 0, 1, true);
        for (uint32_t e = 0; e < n_experts; e++) {
            if (uses(e, token)) {
                cache_touch(c, e);
            }
        }
        cache_clock(c, 1, 1, true);
    }
}

static bool never(uint32_t expert, int token) {
    (void)expert;
    (void)token;
    return false;
}

static void old_uses_fade(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2 * CHUNKS, false);
    load_record(&r.cache, 0);
    load_record(&r.cache, 1);
    for (int i = 0; i < 3; i++) {
        cache_touch(&r.cache, 0);
    }
    float before = cache_use_p(&r.cache, 0);
    pass_tokens(&r.cache, 200, EXPERTS, never);
    cache_touch(&r.cache, 1);
    assert_true(cache_use_p(&r.cache, 0) < before / 10);
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, CHUNKS - 1));
    close_rig(&r);
}

/* Expert 0 every time, expert 1 one time in four at random, expert 2 every eighth time. */
static bool mixed(uint32_t expert, int token) {
    static const int period[EXPERTS] = {1, 0, 8, 0};
    struct test_rng rng = {(uint64_t)token};
    if (expert == 1) {
        return test_u64(&rng) % 4 == 0;
    }
    return period[expert] && token % period[expert] == 0;
}

static void chances_are_measured(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 1, false);
    pass_tokens(&r.cache, 4001, EXPERTS, mixed);
    assert_true(cache_use_p(&r.cache, 0) > 0.97f);
    /* Right after its use expert 2 is known to stay away, expert 1 comes as often as ever. */
    assert_true(r.cache.records[2].last == r.cache.token);
    assert_true(cache_use_p(&r.cache, 1) > cache_use_p(&r.cache, 2));
    assert_true(cache_use_p(&r.cache, 3) == 0);
    close_rig(&r);
}

/* What an expert of the layer at hand was likely to be used for is over once that is routed. */
static void a_routed_layer_waits_for_the_next_token(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2, false);
    for (int token = 0; token < 400; token++) { /* used two tokens in a row, then four not */
        cache_clock(&r.cache, 0, 1, true);
        if (token % 6 < 2) {
            cache_touch(&r.cache, 0);
        }
        cache_clock(&r.cache, 1, 1, true);
    }
    while (r.cache.records[0].last != r.cache.token ||
           r.cache.records[0].last_before + 1 == r.cache.records[0].last) {
        static int token = 400;
        cache_clock(&r.cache, 0, 1, true);
        if (token++ % 6 < 2) {
            cache_touch(&r.cache, 0);
        }
        cache_clock(&r.cache, 1, 1, true);
    }
    float likely = cache_use_p(&r.cache, 0);
    cache_clock(&r.cache, 0, 1, true);
    assert_true(cache_use_p(&r.cache, 0) == likely);
    cache_routed(&r.cache);
    assert_true(cache_use_p(&r.cache, 0) < likely);
    close_rig(&r);
}

static void the_layer_that_comes_up_last_goes_first(void **state) {
    (void)state;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (int used = 0; used < 2; used++) {
            struct rig r;
            open_rig(&r, 2, false);
            cache_clock(&r.cache, layer, 1, true);
            load(&r.cache, chunk_of(0, HOT));       /* layer 0 */
            load(&r.cache, chunk_of(EXPERTS, HOT)); /* layer 1 */
            if (used) {
                cache_touch(&r.cache, 0);
                cache_touch(&r.cache, EXPERTS);
            }
            /* The layer at hand comes up again after all others. */
            assert_int_equal(next_evicted(&r.cache), chunk_of(layer * EXPERTS, HOT));
            close_rig(&r);
        }
    }
}

static void experts_never_used_go_before_those_used(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2, false);
    load(&r.cache, chunk_of(0, HOT));
    load(&r.cache, chunk_of(1, 0)); /* hot, but never used */
    cache_touch(&r.cache, 0);
    assert_int_equal(next_evicted(&r.cache), chunk_of(1, 0));
    close_rig(&r);
}

static void lru_for_comparison_evicts_whole_experts(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2 * CHUNKS, false);
    r.cache.opt.whole_lru = true;
    load_record(&r.cache, 0);
    load_record(&r.cache, 1);
    for (int i = 0; i < 5; i++) {
        cache_touch(&r.cache, 0);
    }
    cache_touch(&r.cache, 1);
    cache_slot_take(&r.cache, chunk_of(2, 0), CACHE_CLAIM_DEMAND, 0);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        assert_int_equal(r.cache.chunks[chunk_of(0, i)].state, CACHE_ABSENT);
        assert_int_equal(r.cache.chunks[chunk_of(1, i)].state, CACHE_READY);
    }
    assert_int_equal(r.cache.room.bytes - r.cache.room.used_bytes,
                     (CHUNKS - 1) * cache_slot_bytes(&r.archive, 0));
    close_rig(&r);
}

/* ---- leases, pins, claims ---- */

static void leases_keep_chunks(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 3, false);
    for (uint32_t i = 0; i < 3; i++) {
        load(&r.cache, chunk_of(0, i));
    }
    cache_lease(&r.cache, chunk_of(0, 2));
    cache_lease(&r.cache, chunk_of(0, 2));
    cache_lease(&r.cache, chunk_of(0, 0));
    assert_int_equal(r.cache.records[0].leases, 3);
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, 1));
    assert_int_equal(next_evicted(&r.cache), UINT32_MAX);
    cache_release(&r.cache, chunk_of(0, 2));
    assert_int_equal(next_evicted(&r.cache), UINT32_MAX);
    cache_release(&r.cache, chunk_of(0, 2));
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, 2));
    cache_release(&r.cache, chunk_of(0, 0));
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, 0));
    close_rig(&r);
}

static void a_lease_given_back_twice_dies(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 1, false);
    load(&r.cache, 7);
    cache_lease(&r.cache, 7);
    cache_release(&r.cache, 7);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(3);
        }
        cache_release(&r.cache, 7);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    close_rig(&r);
}

static void pins_give_way_only_to_demands_and_pass(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2, false);
    load(&r.cache, chunk_of(0, HOT));
    load(&r.cache, chunk_of(1, HOT));
    cache_touch(&r.cache, 1);
    cache_pin(&r.cache, 0, 1);
    /* Expert 0 ranks lower, but is pinned. */
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, 1), chunk_of(1, HOT));
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, 1), UINT32_MAX);
    cache_clock(&r.cache, 1, 1, true);
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, 1), UINT32_MAX); /* its step */
    cache_clock(&r.cache, 0, 1, true);
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, 1), chunk_of(0, HOT));
    close_rig(&r);

    open_rig(&r, 1, false);
    load(&r.cache, chunk_of(0, HOT));
    cache_pin(&r.cache, 0, 1);
    assert_int_equal(next_evicted(&r.cache), chunk_of(0, HOT));
    close_rig(&r);
}

static void guesses_evict_what_is_less_likely(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 1, false);
    assert_true(cache_victim_p(&r.cache) == 0); /* a slot is free */
    load(&r.cache, 0);
    for (int i = 0; i < 20; i++) {
        cache_touch(&r.cache, 0);
    }
    float p = cache_use_p(&r.cache, 0);
    assert_true(p > 0.1f && p < 0.9f);
    assert_true(cache_victim_p(&r.cache) == p);
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, p - 0.01f), UINT32_MAX);
    assert_int_equal(evicted_by(&r.cache, CACHE_CLAIM_GUESS, p + 0.01f), 0);
    close_rig(&r);
}

static void guesses_that_nobody_used_are_wasted(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2, false);
    load(&r.cache, 1);
    load(&r.cache, 2);
    r.cache.chunks[2].guessed = true;
    next_evicted(&r.cache);
    next_evicted(&r.cache);
    assert_int_equal(r.cache.count.wasted_bytes, r.archive.chunks[2].stored_bytes);
    assert_false(r.cache.chunks[2].guessed);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_slots_that_are_needed),
        cmocka_unit_test(chunks_start_absent_and_slots_are_distinct),
        cmocka_unit_test(published_chunks_are_ready_where_they_are),
        cmocka_unit_test(cold_chunks_go_first_the_least_busy_ahead),
        cmocka_unit_test(without_a_bonus_experts_go_whole),
        cmocka_unit_test(hot_prefixes_outlive_cold_chunks),
        cmocka_unit_test(old_uses_fade),
        cmocka_unit_test(chances_are_measured),
        cmocka_unit_test(a_routed_layer_waits_for_the_next_token),
        cmocka_unit_test(the_layer_that_comes_up_last_goes_first),
        cmocka_unit_test(experts_never_used_go_before_those_used),
        cmocka_unit_test(lru_for_comparison_evicts_whole_experts),
        cmocka_unit_test(leases_keep_chunks),
        cmocka_unit_test(a_lease_given_back_twice_dies),
        cmocka_unit_test(pins_give_way_only_to_demands_and_pass),
        cmocka_unit_test(guesses_evict_what_is_less_likely),
        cmocka_unit_test(guesses_that_nobody_used_are_wasted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
