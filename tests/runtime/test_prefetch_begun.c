/*
 * Prefetch with one I/O thread: the disk begins on a run while the one before is checked.
 */
#include "tests/util/test_util_prefetch.h"

#include <stdatomic.h>

static char *dir, *path;

static int set_up(void **state) {
    (void)state;
    dir = test_mkdir();
    path = rig_archive(dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(path);
    test_rmdir(dir);
    return 0;
}

/* Reads of two experts, the second of which comes while the first is not there yet, or does not. */
struct second_read {
    struct rig *rig;
    uint32_t first;     /* a chunk of the first expert */
    int n, fails;       /* reads so far; from which on they fail, counted from 1; 0 = none does */
    atomic_bool begun;  /* the second one */
    uint8_t first_then; /* state of `first` then */
};

static int on_second_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct second_read *s = ctx;
    (void)offset;
    (void)bytes;
    if (++s->n == 2) {
        s->first_then = rig_state(s->rig, s->first);
        atomic_store(&s->begun, true);
    }
    return s->fails > 0 && s->n >= s->fails ? err_set(err, "refused") : 0;
}

static uint8_t first_when_second_begins(enum reader_way way, bool split_reads) {
    struct rig r;
    struct prefetch_need needs[2] = {rig_need(0), rig_need(3)};
    struct second_read s = {.rig = &r, .first = needs[0].first};
    rig_open(&r, path, N * CHUNKS, 0,
             (struct prefetch_options){.io_threads = 1,
                                       .awake = true,
                                       .way = way,
                                       .split_reads = split_reads,
                                       .fault = {on_second_read, &s}});
    /* Nobody waits, so that only the I/O thread reads. */
    prefetch_demand(r.prefetch, needs, 2);
    for (int i = 0; i < 2; i++) {
        WAIT_UNTIL(rig_is_ready(r.prefetch, &needs[i]));
    }
    prefetch_release(r.prefetch, needs, 2);
    rig_use(&r, 0);
    rig_use(&r, 3);
    rig_close(&r);
    return s.first_then;
}

static void a_run_is_begun_while_the_last_is_checked(void **state) {
    (void)state;
    assert_int_equal(first_when_second_begins(READER_MAPPED, false), CACHE_LOADING);
    /* A read that does not return before it has ended cannot be begun; nor is it for comparison,
     * where the second read is of the same expert's next part. */
    assert_int_equal(first_when_second_begins(READER_BUFFERED, false), CACHE_READY);
    assert_int_equal(first_when_second_begins(READER_MAPPED, true), CACHE_READY);
}

/* What was begun is given up where prefetch ends first, and told of where it fails. */
static void a_begun_run_ends(void **state) {
    (void)state;
    for (int fails = 0; fails <= 2; fails++) {
        struct rig r;
        struct err err = {0};
        bool ready[2];
        struct prefetch_need needs[2] = {rig_need(0), rig_need(3)};
        struct second_read s = {.rig = &r, .first = needs[0].first, .fails = fails};
        rig_open(&r, path, N * CHUNKS, 0,
                 (struct prefetch_options){.io_threads = 1,
                                           .awake = true,
                                           .way = READER_MAPPED,
                                           .throttle = {.bytes_per_s = 1e9, .latency_ns = 5000000},
                                           .fault = {on_second_read, &s}});
        prefetch_demand(r.prefetch, needs, 2);
        WAIT_UNTIL(atomic_load(&s.begun));
        /* The failure of a read that is only begun is met again when it is ended. */
        if (fails > 0) {
            WAIT_UNTIL(prefetch_wait_any(r.prefetch, needs, 2, ready, &err) < 0);
            assert_non_null(strstr(err.msg, "refused"));
        }
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_begun_while_the_last_is_checked),
        cmocka_unit_test(a_begun_run_ends),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
