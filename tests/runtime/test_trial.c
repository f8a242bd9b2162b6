/* trial: verdicts on made-up times. */
#include "runtime/trial.h"
#include "tests/util/test.h"

/* Decode `n` tokens that take so long with and without, from *now on; every `pause` tokens the user
 * thinks for ten seconds. Returns how many went without. */
static unsigned run(struct trial *t, uint64_t *now, unsigned n, uint64_t with_ns,
                    uint64_t without_ns, unsigned pause) {
    uint64_t before = t->tok_off;
    for (unsigned i = 0; i < n; i++) {
        bool with = trial_token(t, *now);
        *now += with ? with_ns : without_ns;
        if (pause && i % pause == pause - 1) {
            *now += 10000000000u;
        }
    }
    return (unsigned)(t->tok_off - before);
}

static void what_pays_goes_on(void **state) {
    (void)state;
    struct trial t;
    uint64_t now = 1;
    trial_open(&t);
    unsigned off = run(&t, &now, 20000, 700, 1000, 0);
    assert_false(t.off);
    assert_true(off < 20000 / 50);
    assert_int_equal(t.interval_tok, TRIAL_MOST_TOK);
}

static void what_does_not_pay_ends_and_is_tried_again(void **state) {
    (void)state;
    struct trial t;
    uint64_t now = 1;
    trial_open(&t);
    unsigned off = run(&t, &now, 20000, 1000, 900, 0);
    assert_true(t.off);
    assert_true(off > 19000);
    /* The disk becomes busy: guesses pay again. */
    off = run(&t, &now, 20000, 900, 1000, 0);
    assert_false(t.off);
    assert_true(off < 10000);
}

static void close_times_change_nothing(void **state) {
    (void)state;
    struct trial t;
    uint64_t now = 1;
    trial_open(&t);
    (void)run(&t, &now, 20000, 1000, 980, 0);
    assert_false(t.off);
}

static void pauses_of_the_user_do_not_count(void **state) {
    (void)state;
    struct trial t;
    uint64_t now = 1;
    trial_open(&t);
    (void)run(&t, &now, 20000, 700, 1000, 17);
    assert_false(t.off);
    (void)run(&t, &now, 20000, 1000, 700, 17);
    assert_true(t.off);
}

/* A prompt between two tokens: the token before it has no time of its own. */
static void an_interrupted_token_is_not_timed(void **state) {
    (void)state;
    struct trial t;
    uint64_t now = 1;
    trial_open(&t);
    for (unsigned i = 0; i < 4 * TRIAL_FIRST_TOK; i++) {
        now += trial_token(&t, now) ? 1000 : 5000;
        trial_interrupt(&t);
        now += 1000000;
    }
    assert_int_equal(t.n[0] + t.n[1], 0);
    assert_false(t.off);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_pays_goes_on),
        cmocka_unit_test(what_does_not_pay_ends_and_is_tried_again),
        cmocka_unit_test(close_times_change_nothing),
        cmocka_unit_test(pauses_of_the_user_do_not_count),
        cmocka_unit_test(an_interrupted_token_is_not_timed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
