/*
 * Tokenizers whose steps multiply, or whose patterns backtrack, end at a count of bytes and steps
 * with an error that names the step; and a search that is counted finds what a plain one does.
 */
#include "format/text/tokenizer_file.h"
#include "format/text/tokenizer_regex.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/util/test.h"
#include "tests/util/test_util_tokenizer.h"

static const char base_json[] =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,"
    "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,"
    "\"x\":1,\"\u2581\":2,\"\u00e9\":3,\" \":4,\"xx\":5},\"merges\":[\"x x\"]}}";

#define META(mark)                                                                                 \
    "{\"type\":\"Metaspace\",\"replacement\":\"" mark                                              \
    "\",\"prepend_scheme\":\"always\",\"split\":false}"
#define SPLIT(kind, pattern)                                                                       \
    "{\"type\":\"Split\",\"pattern\":{\"" kind "\":\"" pattern                                     \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define REPLACE(kind, pattern, content)                                                            \
    "{\"type\":\"Replace\",\"pattern\":{\"" kind "\":\"" pattern "\"},\"content\":\"" content "\"" \
    "}"
#define TEN(x) x x x x x x x x x x

/* `key` becomes a Sequence of `times` times `step`. */
static void load_chain(const char *key, const char *step, int times, struct loaded *out) {
    static const char *const members[][2] = {
        {"normalizer", "normalizers"}, {"pre_tokenizer", "pretokenizers"}, {"decoder", "decoders"}};
    struct buf chain = {0};
    json_error_t e;
    const char *list = NULL;
    for (size_t i = 0; i < TEST_COUNT(members); i++) {
        list = strcmp(key, members[i][0]) == 0 ? members[i][1] : list;
    }
    buf_printf(&chain, "{\"type\":\"Sequence\",\"%s\":[", list);
    for (int i = 0; i < times; i++) {
        buf_printf(&chain, "%s%s", i ? "," : "", step);
    }
    buf_printf(&chain, "]}");
    json_t *json = json_loads(base_json, 0, &e), *part = json_loads(chain.data, 0, &e);
    assert_non_null(json);
    assert_non_null(part);
    json_object_set_new(json, key, part);
    char *text = json_dumps(json, JSON_COMPACT);
    loaded_compile(text, strlen(text), NULL, out);
    free(text);
    json_decref(json);
    buf_free(&chain);
}

/* ---- encoding -------------------------------------------------------------------------------- */

static void chains_that_multiply_end_with_the_step(void **state) {
    (void)state;
    static const struct {
        const char *key, *step;
        int times;
        const char *text, *part1, *part2;
    } rows[] = {
        {"pre_tokenizer", "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}",
         30, "x \u00e9", "pre-tokenizer step ", ", ByteLevel: the steps up"},
        {"pre_tokenizer",
         META("\u2581") "," SPLIT("String", "\u2581") "," META("_") "," SPLIT("String", "_"), 15,
         "x", "pre-tokenizer step ", ", Metaspace: the steps up"},
        {"pre_tokenizer",
         "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}," SPLIT("Regex",
                                                                                         "."),
         31, "x", "pre-tokenizer step ", ", ByteLevel: the steps up"},
        {"normalizer", REPLACE("String", "x", "xxxxxxxx"), 60, "x", "normalizer step ",
         ", Replace: the steps up"},
        {"normalizer", REPLACE("Regex", "(?=x)", "xx"), 60, "x", "normalizer step ",
         ", Replace: the steps up"},
        {"normalizer", "{\"type\":\"Prepend\",\"prepend\":\"" TEN(TEN(TEN("xxxx"))) "\"}", 60, "a",
         "normalizer step ", ", Prepend: the steps up"},
        {"normalizer",
         "{\"type\":\"Prepend\",\"prepend\":\"" TEN(TEN("xxxx")) "\"}," REPLACE("String", "x",
                                                                                "xxxx"),
         20, "a", "normalizer step ", "the steps up to this one write more than"},
        {"pre_tokenizer", SPLIT("Regex", "(?:\\\\w+ ?)+[!?]"), 1,
         "Once upon a time there was a cat who ", "pre-tokenizer step 1, Split: the pattern takes",
         "backtracks too much"},
        {"pre_tokenizer", SPLIT("Regex", "(?:" TEN(TEN("(?=.*.*!)|")) ".)"), 1,
         TEN(TEN("x a x a x a ")), "pre-tokenizer step 1, Split: the pattern takes", "steps"},
        {"normalizer", REPLACE("Regex", "(?:a|a?)+[xy]", ""), 1, TEN("aaaa") "!",
         "normalizer step 1, Replace: the pattern takes", "steps"},
        {"pre_tokenizer", SPLIT("Regex", "(?=(?:a|aa)+$)[bc]|."), 60, TEN("aaaa") "!",
         "pre-tokenizer step 1, Split: the pattern takes", "steps"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct loaded l;
        struct err err = {0};
        struct token_list ids = {0};
        load_chain(rows[i].key, rows[i].step, rows[i].times, &l);
        int rc = tokenizer_encode(l.tok, rows[i].text, strlen(rows[i].text), 0, &ids, &err);
        assert_int_equal(rc, -1);
        assert_err(&err, rows[i].part1, rows[i].part2);
        token_list_free(&ids);
        loaded_close(&l);
    }
}

/* Patterns that backtrack a little, as published ones do, on long tables of short cells: each place
 * takes few steps, so the budget is enough for all of them. */
static void tables_of_short_cells_are_encoded(void **state) {
    (void)state;
    enum { BYTES = 256 << 10 };
    static const char *const patterns[] = {
        ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
         " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+|x{"
         "3}"),
        "(?: ?\\\\w+(?:[.,]\\\\w+)*)|\\\\s*\\\\n|\\\\s+(?!\\\\S)|.",
        "\\\\d+(?:[.,]\\\\d+)*(?=\\\\s|$)|[a-z]+(?:-[a-z]+)*|\\\\s+",
    };
    static const char *const rows[] = {"| 1 | 2 | 3 |\n", "1\t2\t3\n", "1 2 3 4 ",
                                       "1,2,3\n",         "1  2  3\n", "1;;2;;3;;\n"};
    for (size_t i = 0; i < TEST_COUNT(patterns); i++) {
        char *step = mem_printf("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                                "\"behavior\":\"Isolated\",\"invert\":false}",
                                patterns[i]);
        struct loaded l;
        load_chain("pre_tokenizer", step, 1, &l);
        free(step);
        for (size_t k = 0; k < TEST_COUNT(rows); k++) {
            struct buf text = {0};
            struct token_list ids = {0};
            struct err err = {0};
            while (text.len < BYTES) {
                buf_append(&text, rows[k], strlen(rows[k]));
            }
            if (tokenizer_encode(l.tok, text.data, text.len, 0, &ids, &err) < 0) {
                fail_msg("pattern %zu, row %zu: %s", i, k, err.msg);
            }
            token_list_free(&ids);
            buf_free(&text);
        }
        loaded_close(&l);
    }
}

/* A token that the text holds nearly, at every place, and one that strips what the next one is. */
static void added_tokens_look_no_further_than_the_budget(void **state) {
    (void)state;
    enum { LONG = 1 << 14 };
    for (int strips = 0; strips < 2; strips++) {
        struct buf json = {0}, text = {0}, content = {0};
        struct loaded l;
        struct err err = {0};
        struct token_list ids = {0};
        for (int i = 0; i < LONG; i++) {
            buf_append(&text, strips ? "\n" : "a", 1);
        }
        buf_append(&content, strips ? "\\n" : text.data, strips ? 2 : LONG);
        buf_printf(&content, "%s", strips ? "" : "b");
        const char *rest = strstr(base_json, "],\"normalizer\"");
        buf_printf(&json,
                   "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":6,\"content\":\"%s\","
                   "\"single_word\":false,\"lstrip\":false,\"rstrip\":%s,\"normalized\":false,"
                   "\"special\":false}%s",
                   content.data, strips ? "true" : "false", rest);
        loaded_compile(json.data, json.len, NULL, &l);
        assert_int_equal(tokenizer_encode(l.tok, text.data, text.len, 0, &ids, &err), -1);
        assert_err(&err, "added tokens");
        token_list_free(&ids);
        loaded_close(&l);
        buf_free(&json);
        buf_free(&text);
        buf_free(&content);
    }
}

/* Many added tokens take no longer than their file is, and do not multiply the normalizers. */
static void many_added_tokens_are_settled_at_once(void **state) {
    (void)state;
    enum { MANY = 20000 };
    static const char *const normalizers[] = {
        "{\"type\":\"Lowercase\"}",
        "{\"type\":\"Prepend\",\"prepend\":\"" TEN(TEN(TEN("xxxx"))) "\"}"};
    for (int grows = 0; grows < 2; grows++) {
        struct buf json = {0}, section = {0};
        struct err err = {0};
        buf_printf(&json, "{\"version\":\"1.0\",\"normalizer\":%s,\"added_tokens\":[",
                   normalizers[grows]);
        for (int i = 0; i < MANY; i++) {
            buf_printf(&json,
                       "%s{\"id\":%d,\"content\":\"A%06d\",\"single_word\":false,\"lstrip\":"
                       "false,\"rstrip\":false,\"normalized\":true,\"special\":true}",
                       i ? "," : "", 6 + i, i);
        }
        buf_printf(&json, "]%s", strstr(base_json, ",\"pre_tokenizer\""));
        struct hf_tokenizer_files files = {.tokenizer = {"tokenizer.json", json.data, json.len}};
        int rc = hf_tokenizer_compile(&files, &section, &err);
        if (grows) {
            assert_int_equal(rc, -1);
            assert_err(&err, "normalizers make the added tokens", "times as long");
        } else {
            struct tokenizer *tok;
            assert_no_err(&err);
            assert_int_equal(tokenizer_open(section.data, section.len, &tok, &err), 0);
            assert_int_equal(tokenizer_vocab_size(tok), 6 + MANY);
            assert_false(tokenizer_is_special(tok, 6)); /* it decodes to a000000, which is none */
            tokenizer_close(tok);
        }
        buf_free(&json);
        buf_free(&section);
    }
}

/* ---- decoding -------------------------------------------------------------------------------- */

static void decoders_that_multiply_end_with_the_step(void **state) {
    (void)state;
    static const struct {
        const char *step;
        int times;
        bool join; /* the steps become Join, which a file cannot name */
        const char *part1, *part2;
    } rows[] = {
        {REPLACE("String", "x", TEN("xxxxxx")), 60, false, "decoder step ", ", Replace: the steps"},
        {REPLACE("String", "x", TEN("xxxxxx")), 1, false, NULL, NULL},
        {REPLACE("Regex", "(?:x|x?)+!", ""), 60, false, NULL, NULL}, /* two characters: no harm */
        {"{\"type\":\"ByteFallback\"}", 60, true, "decoder step ", ", Join: the steps up to this"},
        {"{\"type\":\"ByteFallback\"}", 8, true, NULL, NULL},
    };
    static const uint32_t tokens[] = {5, 5, 1};
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct loaded l;
        struct err err = {0};
        struct buf out = {0};
        load_chain("decoder", rows[i].step, rows[i].times, &l);
        if (rows[i].join) {
            struct tok_header header;
            memcpy(&header, l.section.data, sizeof header);
            struct tok_step *steps = (void *)(l.section.data + header.tables[TOK_STEPS].offset);
            for (int k = 0; k < rows[i].times; k++) {
                steps[k].kind = TOK_DEC_JOIN;
            }
            tokenizer_close(l.tok);
            assert_int_equal(tokenizer_open(l.section.data, l.section.len, &l.tok, &err), 0);
        }
        tokenizer_decode(l.tok, tokens, TEST_COUNT(tokens), 0, &out, &err);
        if (rows[i].part1) {
            assert_err(&err, rows[i].part1, rows[i].part2);
        } else {
            assert_no_err(&err);
        }
        buf_free(&out);
        loaded_close(&l);
    }
}

/* ---- counted searches ------------------------------------------------------------------------ */

/* Patterns that look back, ahead and to the ends, with every kind of quantifier. */
static const char *const patterns[] = {
    "\\w+",
    "\\s+(?!\\S)|\\s+",
    "(?<=a)b|ab(?=\\s)",
    "^\\w|\\w$",
    "\\bab|ba\\b",
    "(?:a|ab)*b",
    "a+?b{2,3}",
    "(?=a)|b",
    "[^a]*+a",
    "a*(?:ba?)*\\z",
    "\\A.|.\\Z",
    "(?m:b.*?a)",
    "(?!a)",
    "\\B",
    "(?i:AB+|\u00c9)",
    "(?>a+|b)(?!b)",
    "[a-c&&[^b]]+",
    "$",
    "\\s*[\\n]",
    "(?<!\\w)\\w{2}",
};

static void small_windows_find_what_the_whole_text_gives(void **state) {
    (void)state;
    static const char *const letters[] = {"a", "a", "b", "b", " ", "\n", "\u00e9", "\u3042"};
    struct test_rng rng = {11};
    for (size_t p = 0; p < TEST_COUNT(patterns); p++) {
        struct err err = {0};
        struct regex *re = regex_compile(patterns[p], strlen(patterns[p]), &err);
        struct regex_scratch *scratch = regex_scratch_new();
        assert_no_err(&err);
        assert_true(regex_is_counted(re) || strcmp(patterns[p], "\\w+") == 0);
        for (int round = 0; round < 40; round++) {
            struct buf text = {0};
            struct regex_iter whole, small;
            uint64_t steps = 100000, more_steps = 1000000;
            size_t n = test_u64(&rng) % 60, window = 1 + test_u64(&rng) % 9;
            buf_append(&text, "", 0);
            for (size_t i = 0; i < n; i++) {
                const char *c = letters[test_u64(&rng) % TEST_COUNT(letters)];
                buf_append(&text, c, strlen(c));
            }
            regex_start(&whole, re, text.data, text.len, &steps);
            regex_start(&small, re, text.data, text.len, &more_steps);
            whole.window_bytes = text.len + 1;
            small.window_bytes = window;
            for (int more = 1; more;) {
                size_t a = 0, b = 0, c = 0, d = 0;
                more = regex_next(&whole, scratch, &a, &b, &err);
                int also = regex_next(&small, scratch, &c, &d, &err);
                assert_no_err(&err);
                if (more != also || a != c || b != d) {
                    fail_msg("%s in '%s', window %zu: %d [%zu, %zu), but [%zu, %zu)", patterns[p],
                             text.data, window, more, a, b, c, d);
                }
            }
            buf_free(&text);
        }
        regex_scratch_free(scratch);
        regex_free(re);
    }
}

/* Each published style's patterns are in the table, so that they keep their speed. */
static void published_patterns_are_known(void **state) {
    (void)state;
    static const char *const styles[] = {"deepseek3", "exaone", "kimi",   "ling",   "llama3",
                                         "o200k",     "qwen2",  "qwen35", "tekken", "deepseek1"};
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        json_t *json = loaded_style_json(styles[i]), *step;
        json_t *pre = json_object_get(json, "pre_tokenizer");
        size_t k, n = 0;
        json_array_foreach(json_object_get(pre, "pretokenizers"), k, step) {
            const char *text =
                json_string_value(json_object_get(json_object_get(step, "pattern"), "Regex"));
            if (text && !regex_is_published(text, strlen(text), NULL)) {
                fail_msg("%s: %s", styles[i], text);
            }
            n += text != NULL;
        }
        assert_true(n > 0);
        json_decref(json);
    }
    assert_false(regex_is_published("(?:\\w+ ?)+!", 12, NULL));
    assert_false(regex_is_published("a?a?a", 5, NULL));
    assert_false(regex_is_published("[a]+b", 5, NULL));
    assert_false(regex_is_published("a{60000}", 8, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_that_multiply_end_with_the_step),
        cmocka_unit_test(tables_of_short_cells_are_encoded),
        cmocka_unit_test(added_tokens_look_no_further_than_the_budget),
        cmocka_unit_test(many_added_tokens_are_settled_at_once),
        cmocka_unit_test(decoders_that_multiply_end_with_the_step),
        cmocka_unit_test(small_windows_find_what_the_whole_text_gives),
        cmocka_unit_test(published_patterns_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
