/*
 * What the tokenizer rests on: patterns, which mean what Oniguruma means, and UTF-8.
 */
#include "format/text/tokenizer_regex.h"
#include "format/text/tokenizer_text.h"
#include "tests/util/test.h"

/* ---- the dialect ----------------------------------------------------------------------------- */

static void check_match(const char *pattern, const char *text, int start, int end) {
    struct err err = {0};
    struct regex *re = regex_compile(pattern, strlen(pattern), &err);
    assert_no_err(&err);
    struct regex_scratch *scratch = regex_scratch_new();
    struct regex_iter it;
    size_t from = 0, to = 0;
    uint64_t steps = 10000;
    regex_start(&it, re, text, strlen(text), &steps);
    int rc = regex_next(&it, scratch, &from, &to, &err);
    if (rc != (start >= 0) || (rc == 1 && ((int)from != start || (int)to != end))) {
        print_error("%s in '%s': %d, %zu to %zu\n", pattern, text, rc, from, to);
        fail();
    }
    regex_scratch_free(scratch);
    regex_free(re);
}

static void patterns_mean_what_oniguruma_means(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        int start, end;
    } rows[] = {
        {"(?i:'s)", "x'\xc5\xbf", 1, 4}, /* long s folds */
        {"\\s", "a\xc2\x85", 1, 3},      /* U+0085 is White_Space */
        {"\\s", "\xe1\xa0\x8e", -1, -1}, /* U+180E is not */
        {"[^\\s]", "\xe1\xa0\x8e", 0, 3},
        {"\\S+", " a\xe3\x80\x80", 1, 2},
        {"\\d", "\xd9\xa3", 0, 2},     /* Nd of any script */
        {"\\d", "\xc2\xb2", -1, -1},   /* No is not */
        {"\\w+", "-e\xcc\x81_", 1, 5}, /* marks and connectors are word characters */
        {"\\h+", "xyzafAF09g", 3, 9},  /* hexadecimal digits, not blanks */
        {"\\bab\\b", "xab ab", 4, 6},
        {"\\Bb", "b ab", 3, 4},
        {"^b", "a\nb", 2, 3}, /* ^ and $ at every line */
        {"a$", "a\nb", 0, 1},
        {"a\\z", "a\n", -1, -1},
        {"a\\Z", "a\n", 0, 1},
        {".+", "\n\rab\n", 1, 4},
        {"(?m:a.b)", "a\nb", 0, 3}, /* m is dot-matches-all */
        {"(?i)ab(?-i:C)", "ABc ABC", 4, 7},
        {"a{,2}b", "aaab", 1, 4},
        {"a{2,3}?", "aaa", 0, 2},
        {"a{x}", "a{x}", 0, 4}, /* not an interval */
        {"a++b", "aaab", 0, 4},
        {"[a-c&&[^b]]+", "bacb", 1, 3},
        {"[^a-c&&[^b]]+", "acbx", 2, 4},
        {"[\\w&&[^\\d]&&[^_]]+", "1_ab", 2, 4},
        {"[[a-c]]", "xb", 1, 2},
        {"[a\\-z]", "b-", 1, 2},
        {"[-a]", "b-", 1, 2},
        {"[\\p{^L}]", "a1", 1, 2},
        {"\\p{^L}\\P{^L}", "ab1c", 2, 4},
        {"\\u00e9\\x41\\x{1F44D}",
         "\xc3\xa9"
         "A\xf0\x9f\x91\x8d",
         0, 7},
        {"#  x", "#  x", 0, 4}, /* no extended mode */
        {"(?<=a)b(?!c)", "abcab", 4, 5},
        {"(?<!a)b", "abb", 2, 3},
        {"(?>a+)b", "aab", 0, 3},
        {"x\\b", "x\xc2\xb2", -1, -1}, /* these six are word characters */
        {"\\w+", "-\xc2\xbdx\xc2\xb9-", 1, 6},
        {"\\W", "\xc2\xb3-", 2, 3},
        {"\\Bx", "\xc2\xbcx", 2, 3},
        {"[\\w]+", "x\xc2\xb2", 0, 1}, /* but not in a class */
        {"[^\\w]+", "x\xc2\xb2", 1, 3},
        {"\\p{Han}+", "\xe4\xb8\x96\xe3\x80\x82", 0, 3}, /* a Script: not the full stop */
        {"[^\\p{Han}]", "\xe4\xb8\x96\xe3\x80\x82", 3, 6},
        {"\\p{Katakana}+", "\xe3\x82\xa2\xe3\x83\xbc", 0, 3}, /* nor the long-vowel mark */
        {"\\p{Greek}", "\xcd\x82", -1, -1},
        {"\\p{Old Italic}", "\xf0\x90\x8c\x80", 0, 4},
        {"\\p{Uppercase_Letter}+", "aBC", 1, 3},
        {"\\P{Alnum}+", "a1--", 2, 4},
        {"[[:alpha:]_]+", "1a_\xc3\xa9", 1, 5},
        {"[[:^digit:]]+", "1ab", 1, 3},
        {"[[:punct:]]+", "a+!", 1, 3},
        {"(?i:[\\p{L}]+)", "a\xcd\x85", 0, 3}, /* U+0345 is the other case of a letter */
        {"(?i:'ll|[a-z]x)", "KX", 0, 2},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        check_match(rows[i].pattern, rows[i].text, rows[i].start, rows[i].end);
    }
    static const char *const refused[] = {
        "(*UCP)a",
        "(?R)",
        "(?<n>a)",
        "(?P<n>a)",
        "(?C1)a",
        "(?|a)",
        "(?#c)a",
        "(?x: a)",
        "(?s:a)",
        "a(?i)b",
        "\\Ka",
        "\\R",
        "\\X",
        "\\G",
        "\\C",
        "\\N",
        "\\1",
        "\\k<n>",
        "\\g<1>",
        "\\Qa",
        "\\pL",
        "\\p{L",
        "\\p{No Such}",
        "\\p{Xan}",
        "\\p{In_Greek}",
        "[[:graph:]]",
        "[[:^punct:]]",
        "[\\P{Alnum}]",
        "(?i:ss)",
        "(?i:stra\303\237e)",
        "(?i:f(?:i))",
        "(?i)a|st",
        "(?i:[\xc3\x9f])",
        "(?i:[\xc3\x90-\xc3\xa0])",
        "(?i:[\\p{Lu}])",
        "(?i:[\\p{Greek}])",
        "(?i:[[:upper:]])",
        "[a[b]]",
        "[\\W]",
        "[b-a]",
        "[a-\\d]",
        "[]",
        "[a",
        "(a",
        "a)",
        "a{2}+",
        "a{2}?",
        "a{3,2}",
        "*a",
        "\\xff",
        "\\ud800",
        "\\",
        "\\x{110000}",
        "a{99999}",
    };
    for (size_t i = 0; i < TEST_COUNT(refused); i++) {
        struct err err = {0};
        struct regex *re = regex_compile(refused[i], strlen(refused[i]), &err);
        if (re) {
            print_error("not refused: %s\n", refused[i]);
        }
        assert_null(re);
        assert_err(&err, "not supported");
    }
}

static void a_pattern_that_backtracks_for_ever_is_an_error(void **state) {
    (void)state;
    struct err err = {0};
    struct regex *re = regex_compile("(a|aa)+\\d", 9, &err);
    char text[64];
    size_t from, to;
    assert_non_null(re);
    memset(text, 'a', sizeof text);
    struct regex_scratch *scratch = regex_scratch_new();
    struct regex_iter it;
    uint64_t steps = 1000000;
    regex_start(&it, re, text, sizeof text, &steps);
    assert_int_equal(regex_next(&it, scratch, &from, &to, &err), -1);
    assert_err(&err, "steps", "backtracks");
    regex_scratch_free(scratch);
    regex_free(re);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void utf8_is_replaced_by_maximal_subparts(void **state) {
    (void)state;
    static const struct {
        const char *in;
        size_t bytes;
        const char *out; /* ? for U+FFFD */
    } rows[] = {
        {"ab", 2, "ab"},
        {"\xff", 1, "?"},
        {"\xc3", 1, "?"},
        {"\xe2\x82", 2, "?"},
        {"\xe2\x82x", 3, "?x"},
        {"\xf0\x9f\x91", 3, "?"},
        {"\xed\xa0\x80", 3, "???"},
        {"\xc0\x80", 2, "??"},
        {"\xe0\x80\x80", 3, "???"},
        {"\xf4\x90\x80\x80", 4, "????"},
        {"\xf0\x80\x80", 3, "???"},
        {"\x80\xbf", 2, "??"},
        {"a\xe4\xbd", 3, "a?"},
        {"\xf1\x80\x80\xc3\xa9", 5, "?\xc3\xa9"},
        {"12345678\xff"
         "12345678",
         17, "12345678?12345678"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf got = {0}, want = {0};
        for (const char *c = rows[i].out; *c; c++) {
            buf_append(&want, *c == '?' ? TEXT_REPLACEMENT : c, *c == '?' ? 3 : 1);
        }
        text_sanitize(rows[i].in, rows[i].bytes, &got);
        if (got.len != want.len || memcmp(got.data, want.data, want.len) != 0) {
            fail_msg("row %zu: expected '%.*s', got '%.*s'", i, (int)want.len, want.data,
                     (int)got.len, got.data);
        }
        assert_int_equal(text_valid(got.data, got.len), got.len);
        buf_free(&got);
        buf_free(&want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_mean_what_oniguruma_means),
        cmocka_unit_test(a_pattern_that_backtracks_for_ever_is_an_error),
        cmocka_unit_test(utf8_is_replaced_by_maximal_subparts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
