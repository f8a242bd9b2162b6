/*
 * progress: the line on a terminal and in a log, with a clock of the test's own.
 */
#include "tests/util/test.h"

#include "format/progress.h"

static uint64_t fake_ns;

static uint64_t fake_clock(void) {
    return fake_ns;
}

static void progress_on_a_terminal(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    struct progress_terminal t;
    struct progress *p = progress_terminal_init(&t, out, false);
    t.tty = true;
    t.now_ns = fake_clock;
    fake_ns = 5000000000u;
    progress_start(p, "reading", 100 << 20, PROGRESS_BYTES);
    for (int ms = 1; ms <= 10000; ms++) { /* 10 MiB/s; ten seconds */
        fake_ns += 1000000;
        progress_update(p, (uint64_t)ms * (100 << 20) / 10000);
    }
    fflush(out);
    size_t redraws = 0;
    for (const char *s = text; (s = strstr(s, "\r\033[K")) != NULL; s++) {
        redraws++;
    }
    assert_in_range(redraws, 45, 50);
    assert_non_null(strstr(text, "\r\033[Kreading:  50%  50.0 MiB of 100.0 MiB, 10.0 MiB/s, 5.0 s "
                                 "left\r"));
    assert_null(strchr(text, '\n'));
    progress_finish(p);
    progress_finish(p);
    progress_update(p, 3);
    fflush(out);
    const char *end = "\r\033[Kreading: 100.0 MiB in 10 s (10.0 MiB/s)\n";
    assert_string_equal(text + strlen(text) - strlen(end), end);
    fclose(out);
    free(text);
}

static void progress_in_a_log(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    struct progress_terminal t;
    struct progress *p = progress_terminal_init(&t, out, false);
    assert_false(t.tty);
    t.now_ns = fake_clock;
    progress_start(p, "rows", 3000, PROGRESS_ROWS);
    for (int i = 1; i <= 25; i++) {
        fake_ns += 1000000000u;
        progress_update(p, (uint64_t)i * 100);
    }
    progress_start(p, "next", 0, PROGRESS_ITEMS); /* finishes the first */
    fake_ns += 100000000u;
    progress_update(p, 1);
    progress_finish(p);
    fflush(out);
    assert_string_equal(text, "rows:  33%  1000 rows of 3000 rows, 100 rows/s, 20 s left\n"
                              "rows:  67%  2000 rows of 3000 rows, 100 rows/s, 10 s left\n"
                              "rows: 2500 rows of 3000 rows in 25 s (100 rows/s)\n"
                              "next: 1 item in 100 ms (10.0 items/s)\n");
    fclose(out);
    free(text);
}

static void progress_may_be_silent(void **state) {
    (void)state;
    struct progress_terminal t;
    struct progress *p = progress_terminal_init(&t, stderr, true);
    assert_null(p);
    progress_start(p, "x", 1, PROGRESS_ITEMS);
    progress_update(p, 1);
    progress_finish(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(progress_on_a_terminal),
        cmocka_unit_test(progress_in_a_log),
        cmocka_unit_test(progress_may_be_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
