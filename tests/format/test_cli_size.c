/*
 * cli_size: sizes, budgets and ids as people write them, and sizes in words.
 */
#include "tests/util/test.h"

#include "format/cli.h"

static void parses_sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"12B", 12},
                {"1K", 1024},
                {"1k", 1024},
                {"3KiB", 3072},
                {"300M", 300u << 20},
                {"6G", (uint64_t)6 << 30},
                {"6 GiB", (uint64_t)6 << 30},
                {"6GB", 6000000000u},
                {"2T", (uint64_t)2 << 40},
                {"0.5M", 524288},
                {"1.25kB", 1250},
                {".5K", 512},
                {"18446744073709551615", UINT64_MAX}};
    static const char *const bad[] = {"",     "G",     "-1",    "+1",    "1.5",
                                      "1.5B", "1e9",   "6Gi",   "6 G B", "6GG",
                                      "0x10", "6G 7G", "1.2.3", ".",     "50%"};
    static const char *const huge[] = {"18446744073709551616", "18446744073709551615K",
                                       "16777216T"};
    uint64_t bytes;
    for (size_t i = 0; i < TEST_COUNT(good); i++) {
        struct err err = {0};
        assert_int_equal(cli_size_parse(good[i].text, &bytes, &err), 0);
        assert_no_err(&err);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err err = {0};
        assert_int_equal(cli_size_parse(bad[i], &bytes, &err), -1);
        assert_err(&err, bad[i], "is not a size");
    }
    for (size_t i = 0; i < TEST_COUNT(huge); i++) {
        struct err err = {0};
        assert_int_equal(cli_size_parse(huge[i], &bytes, &err), -1);
        assert_err(&err, huge[i], "larger than any size");
    }
}

static void parses_budgets(void **state) {
    (void)state;
    struct cli_budget b;
    struct err err = {0};
    assert_int_equal(cli_budget_parse("50%", &b, &err), 0);
    assert_true(b.percent == 50 && b.bytes == 0);
    assert_int_equal(cli_budget_parse("12.5%", &b, &err), 0);
    assert_true(b.percent == 12.5);
    assert_int_equal(cli_budget_parse("2G", &b, &err), 0);
    assert_true(b.percent == 0 && b.bytes == (uint64_t)2 << 30);
    assert_no_err(&err);
    static const char *const bad[] = {"%", "0%", "100.1%", "-3%", "nan%", "5 %", "5%%"};
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err e = {0};
        assert_int_equal(cli_budget_parse(bad[i], &b, &e), -1);
        assert_err(&e, bad[i], "percentage");
    }
}

static void parses_ids(void **state) {
    (void)state;
    static const char text[] = "\t[5, 300,\n2147483647 ,,0]\r\n";
    int32_t *ids;
    size_t n;
    struct err err = {0};
    assert_int_equal(cli_ids_parse(text, sizeof text - 1, "--ids", &ids, &n, &err), 0);
    static const int32_t want[] = {5, 300, INT32_MAX, 0};
    assert_int_equal(n, TEST_COUNT(want));
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    assert_int_equal(cli_ids_parse("", 0, "--ids", &ids, &n, &err), 0);
    assert_no_err(&err);
    assert_true(n == 0 && !ids);
    static const char *const bad[] = {"-1", "+1", "2x", "x", "2147483648", "99999999999999999999"};
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err e = {0};
        char *line = mem_printf("7 8, %s,9", bad[i]),
             *what = mem_printf("'%s' at position 2", bad[i]);
        assert_int_equal(cli_ids_parse(line, strlen(line), "some file", &ids, &n, &e), -1);
        assert_err(&e, "some file", what);
        assert_true(n == 0 && !ids);
        free(line);
        free(what);
    }
    assert_int_equal(cli_ids_parse("1\0002", 3, "--ids", &ids, &n, &err),
                     -1); /* a NUL parts nothing */
    size_t cap = 0;
    err = (struct err){0};
    ids = NULL;
    n = 0;
    assert_int_equal(cli_ids_append("1 2,", 4, "f", &ids, &n, &cap, &err), 0);
    assert_int_equal(cli_ids_append("3", 1, "f", &ids, &n, &cap, &err), 0);
    assert_int_equal(cli_ids_append("4 x", 3, "f", &ids, &n, &cap, &err), -1);
    assert_err(&err, "f", "'x' at position 4");
    static const int32_t all[] = {1, 2, 3, 4};
    assert_int_equal(n, TEST_COUNT(all));
    assert_memory_equal(ids, all, sizeof all);
    free(ids);
}

static void prints_sizes(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 B"},
                {1023, "1023 B"},
                {1024, "1.0 KiB"},
                {1536, "1.5 KiB"},
                {1048575, "1.0 MiB"},
                {300u << 20, "300.0 MiB"},
                {(uint64_t)6 << 30, "6.0 GiB"},
                {UINT64_MAX, "16.0 EiB"}};
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char text[CLI_SIZE_TEXT];
        assert_string_equal(cli_size_text(text, rows[i].bytes), rows[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_sizes),
        cmocka_unit_test(parses_budgets),
        cmocka_unit_test(parses_ids),
        cmocka_unit_test(prints_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
