/*
 * Prefetch: demands and guesses on a real archive with I/O threads: every byte right, promotion,
 * dropping, accounting, failures, closing. For the race detector too (config=tsan).
 */
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/prefetch.h"
#include "tests/test_util_archive.h"

enum { LAYERS = 2, EXPERTS = 6, CHUNKS = 8, HOT = 2, CHUNK_NEURONS = 4, N = LAYERS * EXPERTS };

static char *dir, *path;

static void write_archive(const char *to) {
    struct arch a;
    struct err err = {0};
    archive_moe_arch(&a, LAYERS, EXPERTS, CHUNKS * CHUNK_NEURONS);
    a.dim = 96;
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.hot_neurons = HOT * CHUNK_NEURONS;
    struct corm_write_stats stats;
    archive_write(to, &a, &o, &stats, &err);
    assert_no_err(&err);
    arch_free(&a);
}

static int set_up(void **state) {
    (void)state;
    dir = test_mkdir();
    path = mem_printf("%s/prefetch.corm", dir);
    write_archive(path);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(path);
    test_rmdir(dir);
    return 0;
}

struct rig {
    struct corm archive;
    struct cache cache;
    struct prefetch *prefetch;
};

static void open_rig(struct rig *r, const char *file, uint32_t n_slots, bool in_place,
                     struct prefetch_options opt) {
    struct err err = {0};
    corm_open(&r->archive, file, 0, &err);
    assert_no_err(&err);
    cache_open(&r->cache, &r->archive, n_slots, in_place, &err);
    assert_no_err(&err);
    cache_clock(&r->cache, 0, 1);
    prefetch_open(&r->prefetch, &r->cache, &opt, &err);
    assert_no_err(&err);
}

static void close_rig(struct rig *r) {
    prefetch_close(r->prefetch);
    cache_close(&r->cache);
    corm_close(&r->archive);
}

static struct prefetch_need need_of(uint32_t record) {
    return (struct prefetch_need){record * CHUNKS, CHUNKS, NULL};
}

/* The neurons of the chunk, from the archive's definition, not from the file. */
static void check_bytes(struct rig *r, uint32_t chunk) {
    uint32_t record = chunk / CHUNKS;
    size_t bytes, n = CHUNK_NEURONS * r->archive.neuron_bytes;
    uint8_t *want = archive_neurons(&r->archive.arch, r->archive.expert_codec, record / EXPERTS,
                                    record % EXPERTS, &bytes);
    const uint8_t *got = prefetch_data(r->prefetch, chunk);
    assert_int_equal((uintptr_t)got % 64, 0);
    assert_memory_equal(got, want + (chunk % CHUNKS) * n, n);
    free(want);
}

static bool is_ready(struct prefetch *p, const struct prefetch_need *need) {
    bool ready;
    prefetch_look(p, need, 1, &ready);
    return ready;
}

static void guess_one(struct prefetch *p, const struct prefetch_need *need, uint32_t ahead,
                      float prob) {
    prefetch_guess(p, need, &prob, 1, ahead);
}

static void wait_for(struct rig *r, const struct prefetch_need *need) {
    struct err err = {0};
    bool ready;
    assert_int_equal(prefetch_wait_any(r->prefetch, need, 1, &ready, &err), 0);
    assert_no_err(&err);
    assert_true(ready);
}

static void use(struct rig *r, uint32_t record) {
    struct prefetch_need need = need_of(record);
    prefetch_demand(r->prefetch, &need, 1);
    wait_for(r, &need);
    assert_true(is_ready(r->prefetch, &need));
    for (uint32_t i = 0; i < CHUNKS; i++)
        check_bytes(r, record * CHUNKS + i);
    prefetch_release(r->prefetch, &need, 1);
}

static void locked_state(struct rig *r, uint32_t chunk, uint8_t *state, uint8_t *class) {
    pthread_mutex_lock(&r->cache.lock);
    *state = r->cache.chunks[chunk].state;
    *class = r->cache.chunks[chunk].class;
    pthread_mutex_unlock(&r->cache.lock);
}

static uint8_t state_of(struct rig *r, uint32_t chunk) {
    uint8_t state, class;
    locked_state(r, chunk, &state, &class);
    return state;
}

static struct cache_counters counters(struct rig *r) {
    pthread_mutex_lock(&r->cache.lock);
    struct cache_counters c = r->cache.count;
    pthread_mutex_unlock(&r->cache.lock);
    return c;
}

static void sleep_ms(uint64_t ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* Until the condition holds, at most some seconds. */
#define WAIT_UNTIL(condition)                                                                      \
    do {                                                                                           \
        for (int ms_ = 0; !(condition) && ms_ < 10000; ms_++)                                      \
            sleep_ms(1);                                                                           \
        assert_true(condition);                                                                    \
    } while (0)

static uint64_t record_bytes(const struct rig *r, uint32_t record) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < CHUNKS; i++)
        bytes += r->archive.chunks[record * CHUNKS + i].stored_bytes;
    return bytes;
}

static const struct prefetch_options PLAIN = {.io_threads = 2};
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
    };
    for (size_t w = 0; w < TEST_COUNT(ways); w++) {
        for (int in_place = 0; in_place < 2; in_place++) {
            struct rig r;
            open_rig(&r, path, in_place ? N * (CHUNKS - HOT) : 2 * CHUNKS, in_place, ways[w]);
            struct test_rng rng = {w};
            for (int i = 0; i < 60; i++)
                use(&r, (uint32_t)(test_u64(&rng) % N));
            struct cache_counters c = counters(&r);
            assert_int_equal(c.hits + c.misses, 60 * CHUNKS);
            assert_int_equal(c.guessed_bytes, 0);
            assert_true(c.decoded_bytes > c.read_bytes);
            close_rig(&r);
        }
    }
}

static void what_is_there_is_not_read_again(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, N * CHUNKS, false, PLAIN);
    for (int round = 0; round < 3; round++)
        for (uint32_t i = 0; i < N; i++)
            use(&r, i);
    uint64_t all = 0;
    for (uint32_t i = 0; i < N; i++)
        all += record_bytes(&r, i);
    struct cache_counters c = counters(&r);
    assert_int_equal(c.read_bytes, all);
    assert_int_equal(prefetch_read_bytes(r.prefetch), all);
    assert_int_equal(c.misses, N * CHUNKS);
    assert_int_equal(c.hits, 2 * N * CHUNKS);
    assert_int_equal(c.evictions, 0);
    close_rig(&r);
}

/* More demanded than fits at once: what waits for slots comes when others are released. */
static void demands_wait_for_slots(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, 2 * CHUNKS, false, PLAIN);
    for (int round = 0; round < 20; round++) {
        struct prefetch_need needs[2] = {need_of((uint32_t)(3 * round) % N),
                                         need_of((uint32_t)(3 * round + 1) % N)};
        prefetch_demand(r.prefetch, &needs[0], 1);
        prefetch_demand(r.prefetch, &needs[1], 1);
        for (int left = 2; left > 0;) {
            struct err err = {0};
            bool ready[2];
            assert_int_equal(prefetch_wait_any(r.prefetch, needs, (uint32_t)left, ready, &err), 0);
            int done = ready[0] ? 0 : 1;
            check_bytes(&r, needs[done].first + CHUNKS - 1);
            prefetch_release(r.prefetch, &needs[done], 1);
            needs[done] = needs[left - 1];
            left--;
        }
    }
    close_rig(&r);
}

static void skipped_chunks_are_not_brought(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, 2 * CHUNKS, false, PLAIN);
    uint8_t skip[CHUNKS] = {0, 0, 0, 1, 0, 1, 1, 0};
    struct prefetch_need need = {3 * CHUNKS, CHUNKS, skip};
    prefetch_demand(r.prefetch, &need, 1);
    wait_for(&r, &need);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        assert_int_equal(state_of(&r, need.first + i), skip[i] ? CACHE_ABSENT : CACHE_READY);
        assert_int_equal(r.cache.chunks[need.first + i].leases, !skip[i]);
    }
    prefetch_release(r.prefetch, &need, 1);
    assert_int_equal(r.cache.records[3].leases, 0);
    close_rig(&r);
}

/* ---- guesses ---- */

static void guesses_arrive_and_are_counted(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, 3 * CHUNKS, false, PLAIN);
    struct prefetch_need used = need_of(EXPERTS), unused = need_of(EXPERTS + 1);
    guess_one(r.prefetch, &used, 1, 0.9f);
    guess_one(r.prefetch, &unused, 2, 0.9f);
    WAIT_UNTIL(is_ready(r.prefetch, &used) && is_ready(r.prefetch, &unused));
    use(&r, EXPERTS);
    struct cache_counters c = counters(&r);
    assert_int_equal(c.hits, CHUNKS);
    assert_int_equal(c.misses, 0);
    assert_int_equal(c.guessed_bytes, record_bytes(&r, EXPERTS) + record_bytes(&r, EXPERTS + 1));
    assert_int_equal(c.useful_bytes, record_bytes(&r, EXPERTS));
    assert_int_equal(c.wasted_bytes, 0);
    /* A second use counts no more. The pin passes, and the unused guess is evicted. */
    use(&r, EXPERTS);
    for (int i = 0; i < 4; i++)
        cache_clock(&r.cache, (uint32_t)i % LAYERS, 1);
    use(&r, 0);
    use(&r, 1);
    c = counters(&r);
    assert_int_equal(c.useful_bytes, record_bytes(&r, EXPERTS));
    assert_int_equal(c.wasted_bytes, record_bytes(&r, EXPERTS + 1));
    close_rig(&r);
}

static void demands_promote_guesses_and_go_first(void **state) {
    (void)state;
    struct rig r;
    /* A link that takes one request after the other, some 60 ms each. */
    open_rig(&r, path, N * CHUNKS, false,
             (struct prefetch_options){.io_threads = 1, .throttle = {.bytes_per_s = 2.5e5}});
    struct prefetch_need first = need_of(0), guess = need_of(1), later = need_of(2),
                         demand = need_of(3);
    guess_one(r.prefetch, &first, 1, 1);
    WAIT_UNTIL(state_of(&r, 0) == CACHE_LOADING);
    guess_one(r.prefetch, &guess, 1, 1);
    guess_one(r.prefetch, &later, 2, 1);
    prefetch_demand(r.prefetch, &demand, 1);
    prefetch_demand(r.prefetch, &later, 1);
    uint8_t s, class;
    locked_state(&r, later.first, &s, &class);
    assert_int_equal(s, CACHE_QUEUED);
    assert_int_equal(class, PREFETCH_DEMANDED);
    wait_for(&r, &demand);
    wait_for(&r, &later);
    /* The guess was there before them, and still waits. */
    assert_int_not_equal(state_of(&r, guess.first + CHUNKS - 1), CACHE_READY);
    /* A demand for what is on its way waits for it, and the guess was useful. */
    WAIT_UNTIL(state_of(&r, guess.first) >= CACHE_LOADING);
    prefetch_demand(r.prefetch, &guess, 1);
    wait_for(&r, &guess);
    check_bytes(&r, guess.first);
    struct cache_counters c = counters(&r);
    assert_int_equal(c.useful_bytes, record_bytes(&r, 1));
    assert_int_equal(c.guessed_bytes, record_bytes(&r, 0) + record_bytes(&r, 1));
    assert_int_equal(c.read_bytes, c.guessed_bytes + record_bytes(&r, 2) + record_bytes(&r, 3));
    prefetch_release(r.prefetch, &demand, 1);
    prefetch_release(r.prefetch, &later, 1);
    prefetch_release(r.prefetch, &guess, 1);
    close_rig(&r);
}

static void a_new_round_drops_what_is_queued(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, N * CHUNKS, false, slow(150));
    struct prefetch_need flying = need_of(0), queued = need_of(1), later = need_of(2);
    guess_one(r.prefetch, &flying, 1, 1);
    WAIT_UNTIL(state_of(&r, 0) == CACHE_LOADING);
    guess_one(r.prefetch, &queued, 1, 1);
    guess_one(r.prefetch, &later, 2, 1);
    prefetch_drop_guesses(r.prefetch);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        assert_int_equal(state_of(&r, queued.first + i), CACHE_ABSENT);
        assert_int_equal(state_of(&r, later.first + i), CACHE_ABSENT);
    }
    WAIT_UNTIL(is_ready(r.prefetch, &flying)); /* work in flight goes on */
    sleep_ms(5);
    assert_int_equal(counters(&r).guessed_bytes, record_bytes(&r, 0));
    use(&r, 1); /* and what was dropped can still be had */
    close_rig(&r);
}

static void guesses_that_do_not_pay_are_not_made(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, CHUNKS, false, PLAIN);
    use(&r, 0);
    for (int i = 0; i < 30; i++)
        use(&r, 0); /* likely to be used again: p about 0.6 */
    struct prefetch_need unlikely = need_of(1);
    guess_one(r.prefetch, &unlikely, 1, 0.2f); /* below v / (1 + v) */
    assert_int_equal(state_of(&r, unlikely.first), CACHE_ABSENT);
    guess_one(r.prefetch, &unlikely, 1, 0.5f); /* pays, but may not evict what is likelier */
    WAIT_UNTIL(state_of(&r, unlikely.first + CHUNKS - 1) == CACHE_ABSENT);
    struct prefetch_need kept = need_of(0);
    assert_true(is_ready(r.prefetch, &kept));
    assert_int_equal(counters(&r).guessed_bytes, 0);
    close_rig(&r);
}

/* Demands and guesses at random, with little room: every byte is right, nothing hangs, and the
 * accounts add up. */
static void any_mixture_is_exact(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct rig r;
        uint32_t slots = seed % 2 ? 2 * CHUNKS : 5 * CHUNKS + 3;
        open_rig(&r, path, slots, false,
                 (struct prefetch_options){.io_threads = 1 + (uint32_t)seed});
        struct test_rng rng = {seed};
        for (uint32_t token = 0; token < 40; token++) {
            for (uint32_t l = 0; l < LAYERS; l++) {
                pthread_mutex_lock(&r.cache.lock);
                cache_clock(&r.cache, l, 1);
                pthread_mutex_unlock(&r.cache.lock);
                prefetch_drop_guesses(r.prefetch);
                for (int g = 0; g < 3; g++) {
                    struct prefetch_need need =
                        need_of((l + 1) % LAYERS * EXPERTS + (uint32_t)(test_u64(&rng) % EXPERTS));
                    guess_one(r.prefetch, &need, 1 + (uint32_t)g % 2, 0.5f + 0.5f * test_f32(&rng));
                }
                use(&r, l * EXPERTS + (uint32_t)(test_u64(&rng) % EXPERTS));
                if (token % 8 == 0)
                    sleep_ms(1);
            }
        }
        prefetch_drop_guesses(r.prefetch);
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(r.cache.records[i].leases, 0);
        WAIT_UNTIL(counters(&r).guessed_bytes >= counters(&r).useful_bytes);
        struct cache_counters c = counters(&r);
        assert_true(c.useful_bytes + c.wasted_bytes <= c.guessed_bytes);
        assert_true(c.guessed_bytes <= c.read_bytes);
        close_rig(&r);
    }
}

/* ---- throttle ---- */

static void a_throttle_takes_its_time(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, N * CHUNKS, false,
             (struct prefetch_options){.io_threads = 2, .throttle = {.bytes_per_s = 1e6}});
    uint64_t start = clock_ns(), bytes = 0;
    for (uint32_t i = 0; i < 2; i++) {
        use(&r, i);
        bytes += record_bytes(&r, i);
    }
    double seconds = (double)(clock_ns() - start) / 1e9, least = (double)bytes / 1e6;
    assert_true(least > 0.01 && seconds >= least);
    assert_true(prefetch_stall_ns(r.prefetch) > (uint64_t)(0.8e9 * least));
    close_rig(&r);
}

/* ---- failures ---- */

static char *copy_of(const char *name) {
    uint8_t *data;
    size_t bytes;
    struct err err = {0};
    assert_int_equal(file_read(path, 1 << 26, &data, &bytes, &err), 0);
    char *copy = test_write(dir, name, data, bytes);
    free(data);
    return copy;
}

/* Every later wait says the same; nothing hangs, nothing wrong is READY. */
static void check_stopped(struct rig *r, uint32_t record, const char *part, const char *other) {
    struct prefetch_need need = need_of(record);
    prefetch_demand(r->prefetch, &need, 1);
    for (int i = 0; i < 2; i++) {
        struct err err = {0};
        bool ready;
        while (prefetch_wait_any(r->prefetch, &need, 1, &ready, &err) == 0 && !ready)
            ;
        assert_err(&err, part, other);
    }
    prefetch_release(r->prefetch, &need, 1);
    struct prefetch_need next = need_of((record + 1) % N);
    struct err err = {0};
    bool ready;
    prefetch_demand(r->prefetch, &next, 1);
    assert_int_equal(prefetch_wait_any(r->prefetch, &next, 1, &ready, &err), -1);
    prefetch_release(r->prefetch, &next, 1);
}

/* The map keeps the whole file; what is read is a shorter one under the same name. */
static void a_truncated_file_is_named(void **state) {
    (void)state;
    char *file = copy_of("short.corm"), *shorter = copy_of("shorter.corm");
    struct rig r;
    struct err err = {0};
    corm_open(&r.archive, file, 0, &err);
    assert_no_err(&err);
    const struct corm_chunk *last = &r.archive.chunks[N * CHUNKS - 1];
    assert_int_equal(truncate(shorter, (off_t)last->offset + 1), 0);
    assert_int_equal(rename(shorter, file), 0);
    cache_open(&r.cache, &r.archive, 2 * CHUNKS, false, &err);
    prefetch_open(&r.prefetch, &r.cache, &PLAIN, &err);
    assert_no_err(&err);
    use(&r, 0);
    check_stopped(&r, N - 1, "short.corm", "truncated");
    close_rig(&r);
    free(file);
    free(shorter);
}

static void a_corrupt_chunk_is_named(void **state) {
    (void)state;
    for (int guessed = 0; guessed < 2; guessed++) {
        char *file = copy_of("bad.corm");
        struct rig r;
        open_rig(&r, file, 2 * CHUNKS, false, PLAIN);
        const struct corm_chunk *k = &r.archive.chunks[7 * CHUNKS + 3];
        FILE *f = fopen(file, "r+b");
        assert_non_null(f);
        fseek(f, (long)k->offset + 5, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, (long)k->offset + 5, SEEK_SET);
        fputc(byte ^ 0x10, f);
        assert_int_equal(fclose(f), 0);
        use(&r, 6);
        if (guessed) {
            struct prefetch_need need = need_of(7);
            guess_one(r.prefetch, &need, 1, 1);
        }
        check_stopped(&r, 7, "bad.corm: layer 1 expert 1 chunk 3", "damaged");
        assert_int_not_equal(state_of(&r, 7 * CHUNKS + 3), CACHE_READY);
        close_rig(&r);
        free(file);
    }
}

/* A disk that fails or stops for a while at its read number `at`. */
struct bad_disk {
    atomic_int reads;
    int at;
    uint64_t stall_ms;
    bool fails;
};

static int ask_bad_disk(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct bad_disk *d = ctx;
    (void)offset;
    (void)bytes;
    if (atomic_fetch_add(&d->reads, 1) != d->at)
        return 0;
    sleep_ms(d->stall_ms);
    return d->fails ? err_set(err, "Input/output error") : 0;
}

static void a_read_error_is_named_and_ends_the_run(void **state) {
    (void)state;
    for (int guessed = 0; guessed < 2; guessed++) {
        struct bad_disk disk = {.at = 1, .fails = true};
        struct rig r;
        open_rig(&r, path, 2 * CHUNKS, false,
                 (struct prefetch_options){.io_threads = 2, .fault = {ask_bad_disk, &disk}});
        use(&r, 6);
        if (guessed) {
            struct prefetch_need need = need_of(7);
            guess_one(r.prefetch, &need, 1, 1);
        }
        check_stopped(&r, 7, "prefetch.corm: read of", "Input/output error");
        assert_int_not_equal(state_of(&r, 7 * CHUNKS), CACHE_READY);
        close_rig(&r);
    }
}

static void a_disk_that_stalls_is_waited_for(void **state) {
    (void)state;
    for (int awake = 0; awake < 2; awake++) {
        struct bad_disk disk = {.at = 2, .stall_ms = 1500};
        struct rig r;
        open_rig(&r, path, awake ? N * CHUNKS : 2 * CHUNKS, false,
                 (struct prefetch_options){
                     .io_threads = 2, .awake = awake == 1, .fault = {ask_bad_disk, &disk}});
        uint64_t start = clock_ns();
        for (uint32_t i = 0; i < 6; i++)
            use(&r, i);
        assert_true(clock_ns() - start >= UINT64_C(1500000000));
        /* An I/O thread may begin before this thread waits: most of it is here. */
        assert_true(prefetch_stall_ns(r.prefetch) >= UINT64_C(750000000));
        close_rig(&r);
    }
}

static void a_missing_file_is_an_error_at_open(void **state) {
    (void)state;
    char *file = copy_of("gone.corm");
    struct err err = {0};
    struct corm archive;
    struct cache cache;
    struct prefetch *p = NULL;
    corm_open(&archive, file, 0, &err);
    assert_no_err(&err);
    cache_open(&cache, &archive, CHUNKS, false, &err);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(prefetch_open(&p, &cache, &PLAIN, &err), -1);
    assert_err(&err, "gone.corm");
    cache_close(&cache);
    corm_close(&archive);
    free(file);
}

static void closing_drops_what_is_queued(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, path, N * CHUNKS, false, slow(50));
    for (uint32_t i = 0; i < N; i++) {
        struct prefetch_need need = need_of(i);
        if (i % 2)
            guess_one(r.prefetch, &need, 1 + i % 2, 1);
        else
            prefetch_demand(r.prefetch, &need, 1);
    }
    uint64_t start = clock_ns();
    close_rig(&r); /* waits for the one in flight, not for N of them */
    assert_true(clock_ns() - start < N / 2 * UINT64_C(50000000));
    prefetch_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demands_bring_the_right_bytes),
        cmocka_unit_test(what_is_there_is_not_read_again),
        cmocka_unit_test(demands_wait_for_slots),
        cmocka_unit_test(skipped_chunks_are_not_brought),
        cmocka_unit_test(guesses_arrive_and_are_counted),
        cmocka_unit_test(demands_promote_guesses_and_go_first),
        cmocka_unit_test(a_new_round_drops_what_is_queued),
        cmocka_unit_test(guesses_that_do_not_pay_are_not_made),
        cmocka_unit_test(any_mixture_is_exact),
        cmocka_unit_test(a_throttle_takes_its_time),
        cmocka_unit_test(a_truncated_file_is_named),
        cmocka_unit_test(a_corrupt_chunk_is_named),
        cmocka_unit_test(a_read_error_is_named_and_ends_the_run),
        cmocka_unit_test(a_disk_that_stalls_is_waited_for),
        cmocka_unit_test(a_missing_file_is_an_error_at_open),
        cmocka_unit_test(closing_drops_what_is_queued),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
