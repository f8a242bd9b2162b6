/*
 * The pool: every item exactly once, in every mixture of threads, items and pauses. Prints the cost
 * of a fork-join, which is measured and not judged.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "kernels/pool.h"
#include "tests/util/test.h"

enum { MAX_ITEMS = 4000, MAX_THREADS = 8 };

struct job {
    uint32_t counts[MAX_ITEMS]; /* plain: an item belongs to one worker */
    uint32_t in_worker[MAX_THREADS];
    atomic_uint wrong_worker;
    uint32_t n_threads;
};

static void count_item(void *ctx, uint32_t item, uint32_t worker) {
    struct job *j = ctx;
    if (worker >= j->n_threads) {
        atomic_fetch_add(&j->wrong_worker, 1);
        return;
    }
    j->counts[item]++;
    j->in_worker[worker]++; /* plain: a worker runs one item at a time */
}

static void check_run(struct pool *p, struct job *j, uint32_t n_items) {
    memset(j->counts, 0, sizeof j->counts);
    memset(j->in_worker, 0, sizeof j->in_worker);
    pool_run(p, count_item, j, n_items);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < MAX_ITEMS; i++) {
        assert_int_equal(j->counts[i], i < n_items);
    }
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        sum += j->in_worker[i];
    }
    assert_int_equal(sum, n_items);
    assert_int_equal(j->wrong_worker, 0);
}

static void test_every_item_once(void **state) {
    static const uint32_t counts[] = {0, 1, 2, 3, 7, 64, 1000, MAX_ITEMS};
    struct job *j = mem_calloc(1, sizeof *j);
    (void)state;
    for (uint32_t threads = 1; threads <= MAX_THREADS; threads++) {
        struct pool *p = pool_new(threads, NULL);
        assert_int_equal(pool_threads(p), threads);
        j->n_threads = threads;
        for (int round = 0; round < 20; round++) {
            for (size_t i = 0; i < TEST_COUNT(counts); i++) {
                check_run(p, j, counts[i]);
            }
        }
        pool_free(p);
    }
    free(j);
}

/* Pauses longer than the spin send workers to sleep: they must wake, or not be missed. */
static void test_after_sleep(void **state) {
    struct job *j = mem_calloc(1, sizeof *j);
    struct pool *p = pool_new(3, NULL);
    (void)state;
    j->n_threads = 3;
    for (int round = 0; round < 200; round++) {
        usleep(round % 4 * 40);
        check_run(p, j, 1 + (uint32_t)round % 9);
    }
    pool_free(p);
    free(j);
}

/* A slow item keeps the caller waiting for a worker, past its spin. */
static void slow_item(void *ctx, uint32_t item, uint32_t worker) {
    (void)worker;
    usleep(item == 0 ? 3000 : 200);
    ((uint32_t *)ctx)[item] = item + 1;
}

static void test_slow_items(void **state) {
    (void)state;
    struct pool *p = pool_new(2, NULL);
    for (int round = 0; round < 20; round++) {
        uint32_t out[5] = {0};
        pool_run(p, slow_item, out, 5);
        for (uint32_t i = 0; i < 5; i++) {
            assert_int_equal(out[i], i + 1);
        }
    }
    pool_free(p);
}

static void test_start_and_stop(void **state) {
    (void)state;
    pool_free(NULL);
    for (int round = 0; round < 50; round++) {
        struct pool *p = pool_new(1 + (uint32_t)round % 5, NULL);
        if (round % 2) {
            usleep(100);
        }
        pool_free(p);
    }
}

/* Every item waits for all the others to have begun, so that each thread must come and take one. A
 * wait that is long gives the processor away: on a loaded machine, or under valgrind, which runs
 * one thread at a time, the others need it. */
static void meet_item(void *ctx, uint32_t item, uint32_t worker) {
    atomic_uint *to_come = ctx;
    (void)item, (void)worker;
    atomic_fetch_sub(to_come, 1);
    for (unsigned looks = 1; atomic_load(to_come) > 0; looks++) {
        if (looks % 4096 == 0) {
            sched_yield();
        }
    }
}

static void test_print_cost(void **state) {
    enum { ROUNDS = 2000 };
    (void)state;
    uint32_t most = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (uint32_t threads = 2; threads <= most && threads <= MAX_THREADS; threads *= 2) {
        struct pool *p = pool_new(threads, NULL);
        uint64_t best = UINT64_MAX, sum = 0;
        for (int i = 0; i < ROUNDS; i++) {
            atomic_uint to_come = threads;
            uint64_t start = clock_ns();
            pool_run(p, meet_item, &to_come, threads);
            uint64_t ns = clock_ns() - start;
            best = ns < best ? ns : best;
            sum += ns;
        }
        print_message("# fork-join of %u threads: best %llu ns, mean %llu ns\n", threads,
                      (unsigned long long)best, (unsigned long long)(sum / ROUNDS));
        pool_free(p);
    }
}

/* Worker 0 is the caller, whose mask stays as it was. */
static void look_at_mask(void *ctx, uint32_t item, uint32_t worker) {
    atomic_uint *to_come = ctx;
    sigset_t mask;
    (void)item;
    atomic_fetch_sub(to_come, 1);
    while (atomic_load(to_come) > 0) {
        sched_yield(); /* so that each worker has one item */
    }
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
    assert_int_equal(sigismember(&mask, SIGTERM), worker > 0);
    assert_int_equal(sigismember(&mask, SIGWINCH), worker > 0);
    assert_int_equal(sigismember(&mask, SIGBUS), 0);
}

static void test_signals_are_the_callers(void **state) {
    (void)state;
    struct pool *p = pool_new(4, NULL);
    atomic_uint to_come = 4;
    pool_run(p, look_at_mask, &to_come, 4);
    pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once), cmocka_unit_test(test_after_sleep),
        cmocka_unit_test(test_slow_items),      cmocka_unit_test(test_start_and_stop),
        cmocka_unit_test(test_print_cost),      cmocka_unit_test(test_signals_are_the_callers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
