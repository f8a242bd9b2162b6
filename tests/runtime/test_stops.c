/*
 * stops: whatever the pieces, the text before the first stop string and no byte of what follows;
 * against a plain search over the whole text.
 */
#include "tests/util/test.h"

#include "runtime/corm.h"

/* The definition, slow: the first end of any string, the longest of those that end there. Returns
 * its index or -1; *n is how many bytes stand before it. */
static int search(const char *const *strings, size_t n_strings, const char *text, size_t *n) {
    size_t bytes = strlen(text);
    for (size_t end = 1; end <= bytes; end++) {
        int met = -1;
        size_t longest = 0;
        for (size_t i = 0; i < n_strings; i++) {
            size_t m = strlen(strings[i]);
            if (m <= end && m > longest && memcmp(text + end - m, strings[i], m) == 0) {
                met = (int)i;
                longest = m;
            }
        }
        if (met >= 0) {
            *n = end - longest;
            return met;
        }
    }
    *n = bytes;
    return -1;
}

/* Bytes that have to be held back at the end of a text without a stop string. */
static size_t held_back(const char *const *strings, size_t n_strings, const char *text, size_t n) {
    size_t most = 0;
    for (size_t i = 0; i < n_strings; i++) {
        for (size_t m = strlen(strings[i]) - 1; m > most; m--) {
            if (m <= n && memcmp(text + n - m, strings[i], m) == 0) {
                most = m;
            }
        }
    }
    return most;
}

/* Push `text` in pieces of random length; everything is as the search says. */
static void check(struct corm_stops *stops, const char *const *strings, size_t n_strings,
                  const char *text, struct test_rng *rng) {
    size_t want, n = strlen(text), given = 0;
    int met = search(strings, n_strings, text, &want), got = -1;
    const char *out;
    size_t out_bytes;
    for (size_t at = 0; at < n;) {
        size_t piece = test_u64(rng) % 5;
        piece = piece < n - at ? piece : n - at;
        got = corm_stops_push(stops, text + at, piece, &out, &out_bytes);
        at += piece;
        assert_true(given + out_bytes <= want);
        assert_memory_equal(out, text + given, out_bytes);
        given += out_bytes;
        if (got < 0) {
            assert_int_equal(given, at - held_back(strings, n_strings, text, at));
        }
    }
    assert_int_equal(got, met);
    corm_stops_end(stops, &out, &out_bytes);
    assert_int_equal(given + out_bytes, want);
    assert_memory_equal(out, text + given, out_bytes);
}

static void random_texts(void **state) {
    (void)state;
    struct test_rng rng = {11};
    for (int round = 0; round < 3000; round++) {
        char strings[4][8], text[40];
        const char *list[4];
        size_t n = 1 + test_u64(&rng) % 4;
        for (size_t i = 0; i < n; i++) {
            size_t m = 1 + test_u64(&rng) % 7;
            for (size_t j = 0; j < m; j++) {
                strings[i][j] = (char)('a' + test_u64(&rng) % 2);
            }
            strings[i][m] = '\0';
            list[i] = strings[i];
        }
        struct corm_stops *stops = NULL;
        assert_int_equal(corm_stops_open(&stops, list, n, NULL), 0);
        for (int again = 0; again < 3; again++) { /* after the end it is as new */
            size_t m = test_u64(&rng) % 39;
            for (size_t j = 0; j < m; j++) {
                text[j] = (char)('a' + test_u64(&rng) % 3);
            }
            text[m] = '\0';
            check(stops, list, n, text, &rng);
        }
        corm_stops_close(stops);
    }
}

static void chosen_texts(void **state) {
    (void)state;
    static const char *const strings[] = {"<|end|>", "\n\nUser:", "ab", "b", "\xc3\xa9"};
    static const struct {
        const char *text, *before;
        int met;
    } rows[] = {
        {"all of it", "all of it", -1},
        {"one<|end|>two", "one", 0},
        {"one<|en", "one<|en", -1},
        {"one\n\n\nUser: x", "one\n", 1},
        {"xab", "x", 2}, /* "ab" and "b" end together: the longer */
        {"xb", "x", 3},
        {"caf\xc3\xa9", "caf", 4},
        {"", "", -1},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct corm_stops *stops = NULL;
        const char *out;
        size_t n, end;
        char all[64] = "";
        assert_int_equal(corm_stops_open(&stops, strings, TEST_COUNT(strings), NULL), 0);
        int met = corm_stops_push(stops, rows[i].text, strlen(rows[i].text), &out, &n);
        assert_int_equal(met, rows[i].met);
        memcpy(all, out, n);
        if (met >= 0) { /* what comes later is swallowed */
            assert_int_equal(corm_stops_push(stops, "more", 4, &out, &end), met);
            assert_int_equal(end, 0);
        }
        corm_stops_end(stops, &out, &end);
        memcpy(all + n, out, end);
        assert_string_equal(all, rows[i].before);
        corm_stops_close(stops);
    }
}

static void empty_lists_and_strings(void **state) {
    (void)state;
    struct corm_stops *stops = NULL;
    struct corm_error error;
    static const char *const bad[] = {"a", ""};
    const char *out;
    size_t n;
    assert_int_equal(corm_stops_open(&stops, bad, 2, &error), -1);
    assert_string_equal(error.message, "stop string 1 is empty");
    assert_int_equal(corm_stops_open(&stops, NULL, 0, &error), 0);
    assert_int_equal(corm_stops_push(stops, "abc", 3, &out, &n), -1);
    assert_int_equal(n, 3);
    corm_stops_end(stops, &out, &n);
    assert_int_equal(n, 0);
    corm_stops_close(stops);
    corm_stops_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_texts),
        cmocka_unit_test(chosen_texts),
        cmocka_unit_test(empty_lists_and_strings),
    };
    return cmocka_run_group_tests_name("stops", tests, NULL, NULL);
}
