/*
 * Prefetch: demands and guesses on a real archive with I/O threads: every byte right, promotion,
 * dropping, accounting, closing. For the race detector too (config=tsan). Bad files and bad disks
 * are in test_prefetch_bad, runs that are begun early in test_prefetch_begun.
 */
#include "tests/util/test_util_prefetch.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

static char *dir, *path;
static char *packed[2]; /* all of exponents; the hot ones raw */

static int set_up(void **state) {
    (void)state;
    dir = test_mkdir();
    path = rig_archive(dir);
    for (int raw_hot = 0; raw_hot < 2; raw_hot++) {
        packed[raw_hot] = rig_packed_archive(dir, raw_hot);
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(path);
    free(packed[0]);
    free(packed[1]);
    test_rmdir(dir);
    return 0;
}

static void locked_state(struct rig *r, uint32_t chunk, uint8_t *state, uint8_t *class) {
    pthread_mutex_lock(&r->cache.lock);
    *state = r->cache.chunks[chunk].state;
    *class = r->cache.chunks[chunk].class;
    pthread_mutex_unlock(&r->cache.lock);
}

static struct cache_counters counters(struct rig *r) {
    pthread_mutex_lock(&r->cache.lock);
    struct cache_counters c = r->cache.count;
    pthread_mutex_unlock(&r->cache.lock);
    return c;
}

static uint64_t record_bytes(const struct rig *r, uint32_t record) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < CHUNKS; i++) {
        bytes += r->archive.chunks[record * CHUNKS + i].stored_bytes;
    }
    return bytes;
}

/* So slow that what is queued stays queued while a test looks at it. */
static struct prefetch_options slow(uint64_t latency_ms) {
    return (struct prefetch_options){
        .io_threads = 1, .throttle = {.bytes_per_s = 1e9, .latency_ns = latency_ms * 1000000}};
}

/* ---- demands ---- */

static void demands_bring_the_right_bytes(void **state) {
    (void)state;
    const struct prefetch_options ways[] = {
        {.io_threads = 1},
        {.io_threads = 3},
        {.io_threads = 2, .split_reads = true},
        {.io_threads = 2, .way = reader_direct_works(path) ? READER_DIRECT : READER_BUFFERED},
        {.io_threads = 2, .way = READER_MAPPED, .awake = true},
        {.io_threads = 1, .way = READER_MAPPED, .awake = true},
    };
    for (size_t w = 0; w < TEST_COUNT(ways); w++) {
        for (int in_place = 0; in_place < 2; in_place++) {
            struct rig r;
            rig_open(&r, path, in_place ? N * (CHUNKS - HOT) : 2 * CHUNKS,
                     in_place ? CACHE_IN_PLACE : 0, ways[w]);
            struct test_rng rng = {w};
            for (int i = 0; i < 60; i++) {
                rig_use(&r, (uint32_t)(test_u64(&rng) % N));
            }
            struct cache_counters c = counters(&r);
            assert_int_equal(c.hits + c.misses, 60 * CHUNKS);
            assert_int_equal(c.guessed_bytes, 0);
            assert_true(c.decoded_bytes > c.read_bytes);
            rig_close(&r);
        }
    }
}

/* Kept packed, chunks are the file's bytes: in slots, with room for few experts; or where the file
 * is mapped, without a slot. */
static void packed_demands_bring_the_stored_bytes(void **state) {
    (void)state;
    const struct prefetch_options ways[] = {
        {.io_threads = 1},
        {.io_threads = 2, .split_reads = true},
        {.io_threads = 2, .way = reader_direct_works(path) ? READER_DIRECT : READER_BUFFERED},
        {.io_threads = 2, .way = READER_MAPPED, .awake = true},
        {.io_threads = 1, .way = READER_MAPPED, .awake = true},
        {.io_threads = 2, .way = READER_PASSING},
    };
    for (size_t w = 0; w < TEST_COUNT(ways); w++) {
        for (int i = 0; i < 4; i++) {
            bool in_place = i / 2;
            struct rig r;
            rig_open(&r, packed[i % 2], in_place ? 0 : 2 * CHUNKS,
                     CACHE_PACKED | (in_place ? CACHE_IN_PLACE : 0), ways[w]);
            struct test_rng rng = {w};
            for (int n = 0; n < 16; n++) {
                rig_use(&r, (uint32_t)(test_u64(&rng) % N));
            }
            struct cache_counters c = counters(&r);
            assert_int_equal(c.hits + c.misses, 16 * CHUNKS);
            assert_int_equal(c.evictions > 0, !in_place);
            rig_close(&r);
        }
    }
}

struct reads {
    atomic_size_t n, largest;
};

static int note_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct reads *reads = ctx;
    size_t largest = atomic_load(&reads->largest);
    (void)offset;
    (void)err;
    atomic_fetch_add(&reads->n, 1);
    while (bytes > largest && !atomic_compare_exchange_weak(&reads->largest, &largest, bytes))
        ;
    return 0;
}

/* So that its first part can be checked while the next is read; yet neighbours come together. */
static void a_large_expert_comes_in_several_requests(void **state) {
    (void)state;
    char *large = rig_large_archive(dir);
    for (uint32_t guessed = 0; guessed < 2; guessed++) {
        struct reads reads = {0};
        struct rig r;
        rig_open(&r, large, N * CHUNKS, 0,
                 (struct prefetch_options){.io_threads = 3, .fault = {note_read, &reads}});
        assert_true(record_bytes(&r, 0) > FILL_REQUEST_BYTES);
        struct prefetch_need need = rig_need(0);
        if (guessed) {
            rig_guess(r.prefetch, &need, 1, 1);
            WAIT_UNTIL(rig_is_ready(r.prefetch, &need));
        }
        rig_use(&r, 0);
        assert_in_range(atomic_load(&reads.n), 2, 3);
        assert_in_range(atomic_load(&reads.largest), FILL_REQUEST_BYTES / 2, FILL_REQUEST_BYTES);
        rig_close(&r);
    }
    free(large);
}

static void what_is_there_is_not_read_again(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0, RIG_PLAIN);
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < N; i++) {
            rig_use(&r, i);
        }
    }
    uint64_t all = 0;
    for (uint32_t i = 0; i < N; i++) {
        all += record_bytes(&r, i);
    }
    struct cache_counters c = counters(&r);
    assert_int_equal(c.read_bytes, all);
    assert_int_equal(prefetch_read_bytes(r.prefetch), all);
    assert_int_equal(c.misses, N * CHUNKS);
    assert_int_equal(c.hits, 2 * N * CHUNKS);
    assert_int_equal(c.evictions, 0);
    rig_close(&r);
}

/* More demanded than fits at once: what waits for slots comes when others are released. */
static void demands_wait_for_slots(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, 2 * CHUNKS, 0, RIG_PLAIN);
    for (int round = 0; round < 20; round++) {
        struct prefetch_need needs[2] = {rig_need((uint32_t)(3 * round) % N),
                                         rig_need((uint32_t)(3 * round + 1) % N)};
        prefetch_demand(r.prefetch, &needs[0], 1);
        prefetch_demand(r.prefetch, &needs[1], 1);
        for (int left = 2; left > 0;) {
            struct err err = {0};
            bool ready[2];
            assert_int_equal(prefetch_wait_any(r.prefetch, needs, (uint32_t)left, ready, &err), 0);
            int done = ready[0] ? 0 : 1;
            rig_check_bytes(&r, needs[done].first + CHUNKS - 1);
            prefetch_release(r.prefetch, &needs[done], 1);
            needs[done] = needs[left - 1];
            left--;
        }
    }
    rig_close(&r);
}

static void skipped_chunks_are_not_brought(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, 2 * CHUNKS, 0, RIG_PLAIN);
    uint8_t skip[CHUNKS] = {0, 0, 0, 1, 0, 1, 1, 0};
    struct prefetch_need need = {3 * CHUNKS, CHUNKS, skip};
    prefetch_demand(r.prefetch, &need, 1);
    rig_wait(&r, &need);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        assert_int_equal(rig_state(&r, need.first + i), skip[i] ? CACHE_ABSENT : CACHE_READY);
        assert_int_equal(r.cache.chunks[need.first + i].leases, !skip[i]);
    }
    prefetch_release(r.prefetch, &need, 1);
    assert_int_equal(r.cache.records[3].leases, 0);
    rig_close(&r);
}

/* ---- guesses ---- */

static void guesses_arrive_and_are_counted(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, 3 * CHUNKS, 0, RIG_PLAIN);
    struct prefetch_need used = rig_need(EXPERTS), unused = rig_need(EXPERTS + 1);
    rig_guess(r.prefetch, &used, 1, 0.9f);
    rig_guess(r.prefetch, &unused, 2, 0.9f);
    WAIT_UNTIL(rig_is_ready(r.prefetch, &used) && rig_is_ready(r.prefetch, &unused));
    rig_use(&r, EXPERTS);
    struct cache_counters c = counters(&r);
    assert_int_equal(c.hits, CHUNKS);
    assert_int_equal(c.misses, 0);
    assert_int_equal(c.guessed_bytes, record_bytes(&r, EXPERTS) + record_bytes(&r, EXPERTS + 1));
    assert_int_equal(c.useful_bytes, record_bytes(&r, EXPERTS));
    assert_int_equal(c.wasted_bytes, 0);
    /* A second use counts no more. The pin passes, and the unused guess is evicted. */
    rig_use(&r, EXPERTS);
    for (int i = 0; i < 4; i++) {
        cache_clock(&r.cache, (uint32_t)i % LAYERS, 1, true);
    }
    rig_use(&r, 0);
    rig_use(&r, 1);
    c = counters(&r);
    assert_int_equal(c.useful_bytes, record_bytes(&r, EXPERTS));
    assert_int_equal(c.wasted_bytes, record_bytes(&r, EXPERTS + 1));
    rig_close(&r);
}

static void demands_promote_guesses_and_go_first(void **state) {
    (void)state;
    struct rig r;
    /* A link that takes one request after the other, some 60 ms each. */
    rig_open(&r, path, N * CHUNKS, 0,
             (struct prefetch_options){.io_threads = 1, .throttle = {.bytes_per_s = 2.5e5}});
    struct prefetch_need first = rig_need(0), guess = rig_need(1), later = rig_need(2),
                         demand = rig_need(3);
    rig_guess(r.prefetch, &first, 1, 1);
    WAIT_UNTIL(rig_state(&r, 0) == CACHE_LOADING);
    rig_guess(r.prefetch, &guess, 1, 1);
    rig_guess(r.prefetch, &later, 2, 1);
    prefetch_demand(r.prefetch, &demand, 1);
    prefetch_demand(r.prefetch, &later, 1);
    uint8_t s, class;
    locked_state(&r, later.first, &s, &class);
    assert_int_equal(s, CACHE_QUEUED);
    assert_int_equal(class, PREFETCH_DEMANDED);
    rig_wait(&r, &demand);
    rig_wait(&r, &later);
    /* The guess was there before them, and still waits. */
    assert_int_not_equal(rig_state(&r, guess.first + CHUNKS - 1), CACHE_READY);
    /* A demand for what is on its way waits for it, and the guess was useful. */
    WAIT_UNTIL(rig_state(&r, guess.first) >= CACHE_LOADING);
    prefetch_demand(r.prefetch, &guess, 1);
    rig_wait(&r, &guess);
    rig_check_bytes(&r, guess.first);
    struct cache_counters c = counters(&r);
    assert_int_equal(c.useful_bytes, record_bytes(&r, 1));
    assert_int_equal(c.guessed_bytes, record_bytes(&r, 0) + record_bytes(&r, 1));
    assert_int_equal(c.read_bytes, c.guessed_bytes + record_bytes(&r, 2) + record_bytes(&r, 3));
    prefetch_release(r.prefetch, &demand, 1);
    prefetch_release(r.prefetch, &later, 1);
    prefetch_release(r.prefetch, &guess, 1);
    rig_close(&r);
}

static void a_new_round_drops_what_is_queued(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0, slow(150));
    struct prefetch_need flying = rig_need(0), queued = rig_need(1), later = rig_need(2);
    rig_guess(r.prefetch, &flying, 1, 1);
    WAIT_UNTIL(rig_state(&r, 0) == CACHE_LOADING);
    rig_guess(r.prefetch, &queued, 1, 1);
    rig_guess(r.prefetch, &later, 2, 1);
    prefetch_drop_guesses(r.prefetch);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        assert_int_equal(rig_state(&r, queued.first + i), CACHE_ABSENT);
        assert_int_equal(rig_state(&r, later.first + i), CACHE_ABSENT);
    }
    WAIT_UNTIL(rig_is_ready(r.prefetch, &flying)); /* work in flight goes on */
    rig_sleep_ms(5);
    assert_int_equal(counters(&r).guessed_bytes, record_bytes(&r, 0));
    rig_use(&r, 1); /* and what was dropped can still be had */
    rig_close(&r);
}

static void guesses_that_do_not_pay_are_not_made(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, CHUNKS, 0, RIG_PLAIN);
    rig_use(&r, 0);
    for (int i = 0; i < 30; i++) {
        rig_use(&r, 0); /* likely to be used again: p about 0.6 */
    }
    struct prefetch_need unlikely = rig_need(1);
    rig_guess(r.prefetch, &unlikely, 1, 0.2f); /* below v / (1 + v) */
    assert_int_equal(rig_state(&r, unlikely.first), CACHE_ABSENT);
    rig_guess(r.prefetch, &unlikely, 1, 0.5f); /* pays, but may not evict what is likelier */
    WAIT_UNTIL(rig_state(&r, unlikely.first + CHUNKS - 1) == CACHE_ABSENT);
    struct prefetch_need kept = rig_need(0);
    assert_true(rig_is_ready(r.prefetch, &kept));
    assert_int_equal(counters(&r).guessed_bytes, 0);
    rig_close(&r);
}

/* Demands and guesses at random, with little room: every byte is right, nothing hangs, and the
 * accounts add up. */
static void any_mixture_is_exact(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct rig r;
        uint32_t slots = seed % 2 ? 2 * CHUNKS : 5 * CHUNKS + 3;
        bool keep_packed = seed >= 4;
        rig_open(&r, keep_packed ? packed[seed % 2] : path, slots, keep_packed ? CACHE_PACKED : 0,
                 (struct prefetch_options){.io_threads = 1 + (uint32_t)seed % 4});
        struct test_rng rng = {seed};
        for (uint32_t token = 0; token < 40; token++) {
            for (uint32_t l = 0; l < LAYERS; l++) {
                pthread_mutex_lock(&r.cache.lock);
                cache_clock(&r.cache, l, 1, true);
                pthread_mutex_unlock(&r.cache.lock);
                prefetch_drop_guesses(r.prefetch);
                for (int g = 0; g < 3; g++) {
                    struct prefetch_need need =
                        rig_need((l + 1) % LAYERS * EXPERTS + (uint32_t)(test_u64(&rng) % EXPERTS));
                    rig_guess(r.prefetch, &need, 1 + (uint32_t)g % 2, 0.5f + 0.5f * test_f32(&rng));
                }
                rig_use(&r, l * EXPERTS + (uint32_t)(test_u64(&rng) % EXPERTS));
                if (token % 8 == 0) {
                    rig_sleep_ms(1);
                }
            }
        }
        prefetch_drop_guesses(r.prefetch);
        for (uint32_t i = 0; i < N; i++) {
            assert_int_equal(r.cache.records[i].leases, 0);
        }
        WAIT_UNTIL(counters(&r).guessed_bytes >= counters(&r).useful_bytes);
        struct cache_counters c = counters(&r);
        assert_true(c.useful_bytes + c.wasted_bytes <= c.guessed_bytes);
        assert_true(c.guessed_bytes <= c.read_bytes);
        rig_close(&r);
    }
}

/* ---- how busy the link is ---- */

enum { AT_ONCE = 3, READ_MS = 200, HELD_MS = 200 };

/* Reads that end together, some time after AT_ONCE of them have begun; or when they may. */
struct held_reads {
    atomic_uint n;
    bool until_let_go;
    atomic_bool let_go;
};

static int hold_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct held_reads *h = ctx;
    (void)offset;
    (void)bytes;
    (void)err;
    atomic_fetch_add(&h->n, 1);
    if (h->until_let_go) {
        while (!atomic_load(&h->let_go)) {
            rig_sleep_ms(1);
        }
        return 0;
    }
    for (int ms = 0; atomic_load(&h->n) < AT_ONCE && ms < 10000; ms++) {
        rig_sleep_ms(1);
    }
    rig_sleep_ms(READ_MS);
    return 0;
}

/* The probability from which on a guess pays while demands take this share of the link's time, and
 * there is room. */
static float paying(double share) {
    return (float)(share / (1 + share));
}

/* Time in which several demands are in flight counts once: nearly all of it, and not three times as
 * much. */
static void demands_at_once_count_as_one_link(void **state) {
    (void)state;
    struct held_reads h = {0};
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0,
             (struct prefetch_options){.io_threads = AT_ONCE, .fault = {hold_read, &h}});
    struct prefetch_need needs[AT_ONCE];
    for (uint32_t i = 0; i < AT_ONCE; i++) {
        needs[i] = rig_need(i);
    }
    prefetch_demand(r.prefetch, needs, AT_ONCE);
    for (uint32_t i = 0; i < AT_ONCE; i++) {
        rig_wait(&r, &needs[i]);
    }
    prefetch_release(r.prefetch, needs, AT_ONCE);
    assert_int_equal(atomic_load(&h.n), AT_ONCE);
    struct prefetch_need below = rig_need(EXPERTS), above = rig_need(EXPERTS + 1);
    rig_guess(r.prefetch, &below, 1, paying(1.05 * PREFETCH_GUESS_COST));
    rig_guess(r.prefetch, &above, 1, paying(1.2));
    assert_int_equal(rig_state(&r, below.first), CACHE_ABSENT);
    WAIT_UNTIL(rig_is_ready(r.prefetch, &above));
    rig_close(&r);
}

/* A demand that is still in flight counts so far. */
static void a_demand_in_flight_keeps_the_link_busy(void **state) {
    (void)state;
    struct held_reads h = {.until_let_go = true};
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0,
             (struct prefetch_options){.io_threads = 1, .awake = true, .fault = {hold_read, &h}});
    struct prefetch_need need = rig_need(0), guess = rig_need(EXPERTS);
    prefetch_demand(r.prefetch, &need, 1);
    WAIT_UNTIL(atomic_load(&h.n) == 1);
    rig_sleep_ms(HELD_MS);
    rig_guess(r.prefetch, &guess, 1, paying(1.05 * PREFETCH_GUESS_COST));
    uint8_t refused = rig_state(&r, guess.first);
    atomic_store(&h.let_go, true);
    assert_int_equal(refused, CACHE_ABSENT);
    rig_wait(&r, &need);
    prefetch_release(r.prefetch, &need, 1);
    rig_close(&r);
}

/* ---- the threads' policy ---- */

struct opener {
    struct rig *rig;
    struct prefetch_options opt;
    int policy;
    bool had; /* that policy, and SCHED_BATCH, are to be had here */
};

static bool take_policy(int policy) {
    const struct sched_param none = {0};
    struct sched_param param;
    int got;
    return pthread_setschedparam(pthread_self(), policy, &none) == 0 &&
           pthread_getschedparam(pthread_self(), &got, &param) == 0 && got == policy;
}

/* In a thread of its own, whose policy I/O threads have at first. */
static void *open_under_policy(void *arg) {
    struct opener *o = arg;
    o->had = take_policy(SCHED_BATCH) && take_policy(o->policy);
    if (o->had) {
        rig_open(o->rig, path, N * CHUNKS, 0, o->opt);
    }
    return NULL;
}

static int note_policy(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct sched_param param;
    int policy;
    (void)offset;
    (void)bytes;
    (void)err;
    atomic_store((atomic_int *)ctx,
                 pthread_getschedparam(pthread_self(), &policy, &param) == 0 ? policy : -1);
    return 0;
}

static void awake_threads_give_way(void **state) {
    (void)state;
    static const struct {
        int policy;
        bool awake;
        int want;
    } cases[] = {
        {SCHED_OTHER, true, SCHED_BATCH},
        {SCHED_OTHER, false, SCHED_OTHER},
        {SCHED_IDLE, true, SCHED_IDLE}, /* not promoted */
        {SCHED_IDLE, false, SCHED_IDLE},
    };
    int own, still;
    struct sched_param param;
    assert_int_equal(pthread_getschedparam(pthread_self(), &own, &param), 0);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        atomic_int policy = -1;
        struct rig r;
        struct opener o = {
            &r,
            {.io_threads = 3, .awake = cases[i].awake, .fault = {note_policy, &policy}},
            cases[i].policy,
            false};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, open_under_policy, &o), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (!o.had) {
            skip();
        }
        struct prefetch_need guess = rig_need(0); /* the forward thread reads no guesses */
        rig_guess(r.prefetch, &guess, 1, 1);
        WAIT_UNTIL(rig_is_ready(r.prefetch, &guess));
        assert_int_equal(atomic_load(&policy), cases[i].want);
        rig_use(&r, 1);
        assert_int_equal(pthread_getschedparam(pthread_self(), &still, &param), 0);
        assert_int_equal(still, own);
        rig_close(&r);
    }
}

/* ---- throttle ---- */

static void a_throttle_takes_its_time(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0,
             (struct prefetch_options){.io_threads = 2, .throttle = {.bytes_per_s = 1e6}});
    uint64_t start = clock_ns(), bytes = 0;
    for (uint32_t i = 0; i < 2; i++) {
        rig_use(&r, i);
        bytes += record_bytes(&r, i);
    }
    double seconds = (double)(clock_ns() - start) / 1e9, least = (double)bytes / 1e6;
    assert_true(least > 0.01 && seconds >= least);
    assert_true(prefetch_stall_ns(r.prefetch) > (uint64_t)(0.8e9 * least));
    rig_close(&r);
}

/* ---- closing ---- */

static void closing_drops_what_is_queued(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, path, N * CHUNKS, 0, slow(50));
    for (uint32_t i = 0; i < N; i++) {
        struct prefetch_need need = rig_need(i);
        if (i % 2) {
            rig_guess(r.prefetch, &need, 1 + i % 2, 1);
        } else {
            prefetch_demand(r.prefetch, &need, 1);
        }
    }
    uint64_t start = clock_ns();
    rig_close(&r); /* waits for the one in flight, not for N of them */
    assert_true(clock_ns() - start < N / 2 * UINT64_C(50000000));
    prefetch_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demands_bring_the_right_bytes),
        cmocka_unit_test(packed_demands_bring_the_stored_bytes),
        cmocka_unit_test(a_large_expert_comes_in_several_requests),
        cmocka_unit_test(what_is_there_is_not_read_again),
        cmocka_unit_test(demands_wait_for_slots),
        cmocka_unit_test(skipped_chunks_are_not_brought),
        cmocka_unit_test(guesses_arrive_and_are_counted),
        cmocka_unit_test(demands_promote_guesses_and_go_first),
        cmocka_unit_test(a_new_round_drops_what_is_queued),
        cmocka_unit_test(guesses_that_do_not_pay_are_not_made),
        cmocka_unit_test(any_mixture_is_exact),
        cmocka_unit_test(demands_at_once_count_as_one_link),
        cmocka_unit_test(a_demand_in_flight_keeps_the_link_busy),
        cmocka_unit_test(awake_threads_give_way),
        cmocka_unit_test(a_throttle_takes_its_time),
        cmocka_unit_test(closing_drops_what_is_queued),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
