/*
 * The time of copying that is hidden, against one that looks at every nanosecond; told of in
 * pieces, late, and with a clock that rounds.
 */
#include "kernels/overlap.h"
#include "tests/util/test.h"

enum { LENGTH = 3000 };

struct truth {
    uint8_t busy[OVERLAP_TRACKS][LENGTH];
};

static void expect(const struct truth *t, size_t until, const struct overlap *o) {
    uint64_t copy = 0, hidden = 0;
    for (size_t i = 0; i < until; i++) {
        bool copying = false;
        for (int k = 0; k < OVERLAP_OPERATIONS; k++) {
            copying |= t->busy[k][i];
        }
        copy += copying;
        hidden += copying && t->busy[OVERLAP_OPERATIONS][i];
    }
    assert_int_equal(o->copy_ns, copy);
    assert_int_equal(o->hidden_ns, hidden);
}

static void test_random(void **state) {
    struct test_rng rng = {71};
    (void)state;
    for (int round = 0; round < 300; round++) {
        static struct truth t;
        struct overlap o = {0};
        uint64_t at[OVERLAP_TRACKS] = {0}, counted = 0;
        memset(&t, 0, sizeof t);
        uint64_t longest = 2 + test_u64(&rng) % 200;
        for (;;) {
            /* The track that lags is told of next: then nothing begins before it any more. */
            uint32_t k = 0;
            for (uint32_t i = 1; i < OVERLAP_TRACKS; i++) {
                k = at[i] < at[k] ? i : k;
            }
            if (test_u64(&rng) % 3 == 0) {
                k = (uint32_t)(test_u64(&rng) % OVERLAP_TRACKS);
            }
            uint64_t start = at[k] + test_u64(&rng) % longest;
            uint64_t end = start + test_u64(&rng) % longest;
            if (end >= LENGTH) {
                break;
            }
            overlap_add(&o, k, start, end);
            memset(t.busy[k] + start, 1, end - start);
            at[k] = end;
            if (test_u64(&rng) % 4 == 0) {
                uint64_t until = UINT64_MAX;
                for (int i = 0; i < OVERLAP_TRACKS; i++) {
                    until = at[i] < until ? at[i] : until;
                }
                overlap_count(&o, until);
                counted = until > counted ? until : counted;
                expect(&t, counted, &o);
            }
        }
        overlap_count(&o, UINT64_MAX);
        expect(&t, LENGTH, &o);
        for (int i = 0; i < OVERLAP_TRACKS; i++) {
            assert_int_equal(o.tracks[i].n, 0);
        }
        overlap_free(&o);
    }
}

/* Spans that a coarse clock lets begin too early are cut, and empty ones are none. */
static void test_rounding(void **state) {
    struct overlap o = {0};
    (void)state;
    overlap_add(&o, BACKEND_DEMANDED, 10, 20);
    overlap_add(&o, BACKEND_DEMANDED, 18, 25);
    overlap_add(&o, BACKEND_DEMANDED, 24, 24);
    overlap_add(&o, OVERLAP_OPERATIONS, 0, 12);
    overlap_count(&o, 30);
    assert_int_equal(o.copy_ns, 15);
    assert_int_equal(o.hidden_ns, 2);
    overlap_add(&o, OVERLAP_OPERATIONS, 11, 40);
    overlap_add(&o, BACKEND_GUESSED, 5, 30);
    overlap_count(&o, UINT64_MAX);
    assert_int_equal(o.copy_ns, 20);
    assert_int_equal(o.hidden_ns, 7);
    overlap_free(&o);
    overlap_free(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
