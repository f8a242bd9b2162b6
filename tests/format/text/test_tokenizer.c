/*
 * The tokenizer against the vectors of tests/golden/tokenizers (made by make_tokenizers.py with the
 * Hugging Face package), against itself (stream and batch), and on long texts. Its parts are tested
 * in test_tokenizer_text, bad input in test_tokenizer_bad.
 */
#include <dirent.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"
#include "tests/util/test.h"
#include "tests/util/test_util_tokenizer.h"

#define FABLE "tests/models/fable/tokenizer.json"

/* ---- helpers --------------------------------------------------------------------------------- */

static struct buf from_hex(const char *hex) {
    struct buf b = {0};
    buf_append(&b, "", 0);
    for (; hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0}, c = (char)strtoul(pair, NULL, 16);
        buf_append(&b, &c, 1);
    }
    return b;
}

static bool same_ids(const struct token_list *got, size_t from, const json_t *want) {
    for (size_t i = 0; i < json_array_size(want); i++) {
        if (from + i >= got->n ||
            (json_int_t)got->ids[from + i] != json_integer_value(json_array_get(want, i))) {
            return false;
        }
    }
    return true;
}

/* ids[from..to) are `want`. */
static void check_ids(const char *what, size_t row, const struct token_list *got, size_t from,
                      size_t to, const json_t *want) {
    if (to - from == json_array_size(want) && same_ids(got, from, want)) {
        return;
    }
    char *text = json_dumps(want, 0);
    print_error("%s, row %zu: expected %s, got [", what, row, text);
    for (size_t i = from; i < to; i++) {
        print_error("%u, ", got->ids[i]);
    }
    print_error("]\n");
    free(text);
    fail();
}

static void check_text(const char *what, size_t row, const struct buf *got, const char *want,
                       size_t bytes) {
    if (got->len != bytes || (bytes && memcmp(got->data, want, bytes) != 0)) {
        print_error("%s, row %zu: expected '%.*s', got '%.*s'\n", what, row, (int)bytes, want,
                    (int)got->len, got->len ? got->data : "");
        fail();
    }
}

/* Batch and stream agree, no push ends inside a character, and the text is `want`. */
static void check_decode(const struct tokenizer *tok, const char *what, size_t row,
                         const uint32_t *ids, size_t n, unsigned flags, const char *want,
                         size_t bytes) {
    struct err err = {0};
    struct buf batch = {0}, stream = {0};
    tokenizer_decode(tok, ids, n, flags, &batch, &err);
    assert_no_err(&err);
    check_text(what, row, &batch, want, bytes);
    struct token_stream *s = token_stream_new(tok, flags);
    for (int again = 0; again < 2; again++) { /* a finished stream is as new */
        stream.len = 0;
        for (size_t i = 0; i < n; i++) {
            size_t before = stream.len;
            assert_int_equal(token_stream_push(s, ids[i], &stream, &err), 0);
            const char *fresh = stream.len > before ? stream.data + before : "";
            assert_int_equal(text_valid(fresh, stream.len - before), stream.len - before);
        }
        assert_int_equal(token_stream_finish(s, &stream, &err), 0);
        check_text(what, row, &stream, want, bytes);
    }
    token_stream_free(s);
    buf_free(&batch);
    buf_free(&stream);
}

/* ---- vectors --------------------------------------------------------------------------------- */

static void check_encode_row(const struct tokenizer *tok, const char *name, size_t row,
                             const struct buf *text, const json_t *vectors, const json_t *want) {
    const json_t *front = json_object_get(vectors, "front");
    const json_t *behind = json_object_get(vectors, "behind");
    const json_t *ids = json_array_get(want, 0), *plain = json_array_get(want, 1);
    size_t n_front = json_array_size(front), n_behind = json_array_size(behind);
    struct token_list got = {0};

    loaded_encode(tok, text->data, text->len, TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL,
                  &got);
    assert_true(got.n >= n_front + n_behind);
    check_ids(name, row, &got, 0, n_front, front);
    check_ids(name, row, &got, n_front, got.n - n_behind, ids);
    check_ids(name, row, &got, got.n - n_behind, got.n, behind);
    loaded_encode(tok, text->data, text->len, TOKENIZER_PARSE_SPECIAL, &got);
    check_ids(name, row, &got, 0, got.n, ids);
    struct token_list literal = {0};
    loaded_encode(tok, text->data, text->len, 0, &literal);
    check_ids(name, row, &literal, 0, literal.n, json_is_array(plain) ? plain : ids);

    const json_t *decoded = json_array_get(want, 2), *skipped = json_array_get(want, 3);
    const char *full = json_is_string(decoded) ? json_string_value(decoded) : text->data;
    size_t full_bytes = json_is_string(decoded) ? json_string_length(decoded) : text->len;
    check_decode(tok, name, row, got.ids, got.n, 0, full, full_bytes);
    if (json_is_string(skipped)) {
        full = json_string_value(skipped);
        full_bytes = json_string_length(skipped);
    }
    check_decode(tok, name, row, got.ids, got.n, TOKENIZER_SKIP_SPECIAL, full, full_bytes);
    token_list_free(&got);
    token_list_free(&literal);
}

static void check_vectors(const char *name, const struct tokenizer *tok, const json_t *texts) {
    char *path = mem_printf(TOKENIZERS "%s.vectors.json", name);
    json_t *vectors = loaded_json(path), *row;
    const json_t *encodes = json_object_get(vectors, "encode");
    const json_t *decodes = json_object_get(vectors, "decode");
    size_t i;
    assert_int_equal(tokenizer_vocab_size(tok),
                     json_integer_value(json_object_get(vectors, "vocab")));
    assert_int_equal(json_array_size(encodes), json_array_size(texts));
    json_array_foreach(encodes, i, row) {
        struct buf text = from_hex(json_string_value(json_array_get(texts, i)));
        check_encode_row(tok, name, i, &text, vectors, row);
        buf_free(&text);
    }
    assert_true(json_array_size(decodes) >= 80);
    json_array_foreach(decodes, i, row) {
        const json_t *ids = json_array_get(row, 0);
        uint32_t list[64];
        size_t n = json_array_size(ids);
        assert_true(n <= TEST_COUNT(list));
        for (size_t k = 0; k < n; k++) {
            list[k] = (uint32_t)json_integer_value(json_array_get(ids, k));
        }
        for (unsigned skip = 0; skip < 2; skip++) {
            const json_t *want = json_array_get(row, 1 + skip);
            check_decode(tok, name, i, list, n, skip ? TOKENIZER_SKIP_SPECIAL : 0,
                         json_string_value(want), json_string_length(want));
        }
    }
    json_decref(vectors);
    free(path);
}

static void vectors_of_all_styles(void **state) {
    (void)state;
    json_t *texts = loaded_json(TOKENIZERS "texts.json");
    DIR *dir = opendir(TOKENIZERS);
    assert_non_null(dir);
    int styles = 0;
    for (const struct dirent *e; (e = readdir(dir));) {
        const char *suffix = strstr(e->d_name, ".vectors.json");
        if (!suffix) {
            continue;
        }
        char *name = mem_printf("%.*s", (int)(suffix - e->d_name), e->d_name);
        struct loaded l;
        if (strcmp(name, "fable") == 0) {
            loaded_file(FABLE, NULL, &l);
        } else {
            loaded_style(name, &l);
        }
        check_vectors(name, l.tok, texts);
        loaded_close(&l);
        free(name);
        styles++;
    }
    closedir(dir);
    json_decref(texts);
    assert_true(styles >= 24);
}

/* ---- the file's spellings and flags ---------------------------------------------------------- */

static void compile_changed(const json_t *json, const char *config, struct loaded *out) {
    char *text = json_dumps(json, JSON_COMPACT);
    loaded_compile(text, strlen(text), config, out);
    free(text);
}

static void merges_in_both_spellings(void **state) {
    (void)state;
    json_t *json = loaded_style_json("qwen2"), *pair;
    json_t *merges = json_object_get(json_object_get(json, "model"), "merges");
    struct loaded pairs, strings;
    size_t i;
    assert_true(json_is_array(json_array_get(merges, 0)));
    compile_changed(json, NULL, &pairs);
    json_array_foreach(merges, i, pair) {
        char *text = mem_printf("%s %s", json_string_value(json_array_get(pair, 0)),
                                json_string_value(json_array_get(pair, 1)));
        json_array_set_new(merges, i, json_string(text));
        free(text);
    }
    json_array_insert_new(merges, 0, json_string("#version: 0.2"));
    compile_changed(json, NULL, &strings);
    assert_int_equal(pairs.section.len, strings.section.len);
    assert_memory_equal(pairs.section.data, strings.section.data, pairs.section.len);
    loaded_close(&pairs);
    loaded_close(&strings);
    json_decref(json);
}

static void config_decides_bos_and_eos(void **state) {
    (void)state;
    static const struct {
        const char *config;
        int front, behind;
    } rows[] = {
        {"{}", 1, 0},
        {"{\"add_bos_token\": null, \"bos_token\": null}", 1, 0},
        {"{\"add_bos_token\": false}", 0, 0},
        {"{\"bos_token\": \"<s>\", \"add_bos_token\": true, \"add_eos_token\": false}", 1, 0},
        {"{\"eos_token\": {\"content\": \"</s>\"}, \"add_eos_token\": true}", 1, 1},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct loaded l;
        struct token_list ids = {0};
        loaded_file(TOKENIZERS "mixtral.json", rows[i].config, &l);
        loaded_encode(l.tok, "hi", 2, TOKENIZER_ADD_SPECIAL, &ids);
        assert_int_equal(ids.ids[0] == 1, rows[i].front);
        assert_int_equal(ids.ids[ids.n - 1] == 2, rows[i].behind);
        assert_int_equal(tokenizer_adds_bos(l.tok), rows[i].front);
        token_list_free(&ids);
        loaded_close(&l);
    }
}

static void accessors(void **state) {
    (void)state;
    struct loaded l;
    size_t n;
    loaded_file(
        TOKENIZERS "mixtral.json",
        "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}, \"chat_template\": "
        "[{\"name\": \"tool_use\", \"template\": \"T\"}, {\"name\": \"default\", \"template\": "
        "\"{{ x }}\"}]}",
        &l);
    assert_int_equal(tokenizer_bos(l.tok), 1);
    assert_int_equal(tokenizer_eos(l.tok), 2);
    assert_int_equal(tokenizer_find(l.tok, "</s>", 4), 2);
    assert_int_equal(tokenizer_find(l.tok, "<0x0A>", 6), 13);
    assert_int_equal(tokenizer_find(l.tok, "no such token", 13), TOKEN_NONE);
    assert_memory_equal(tokenizer_piece(l.tok, 1, &n), "<s>", 3);
    assert_int_equal(n, 3);
    assert_null(tokenizer_piece(l.tok, tokenizer_vocab_size(l.tok), &n));
    assert_true(tokenizer_is_special(l.tok, 1));
    assert_false(tokenizer_is_special(l.tok, 13));
    assert_false(tokenizer_is_special(l.tok, UINT32_MAX));
    assert_memory_equal(tokenizer_chat_template(l.tok, &n), "{{ x }}", 7);
    assert_int_equal(n, 7);
    loaded_close(&l);
    loaded_style("qwen2", &l);
    assert_null(tokenizer_chat_template(l.tok, &n));
    assert_int_equal(tokenizer_bos(l.tok), TOKEN_NONE);
    assert_false(tokenizer_adds_bos(l.tok));
    uint32_t think = tokenizer_find(l.tok, "<think>", 7);
    assert_int_not_equal(think, TOKEN_NONE);
    assert_false(tokenizer_is_special(l.tok, think)); /* added, but kept when decoding */
    loaded_close(&l);
}

/* A token that a tokenizer adds and that the text has at that end itself. */
static void what_stands_twice_is_told(void **state) {
    (void)state;
    static const struct {
        const char *style, *text, *twice; /* NULL: nothing */
    } rows[] = {
        {"mixtral", "<s>Once", "<s>"},    {"mixtral", "<s>", "<s>"},
        {"mixtral", "Once<s>", NULL},     {"mixtral", " <s>Once", NULL},
        {"mixtral", "Once", NULL},        {"mixtral", "", NULL},
        {"metaspace", "a<sep>", "<sep>"}, {"metaspace", "<sep>", "<sep>"},
        {"metaspace", "<sep>a", NULL},    {"metaspace", "a", NULL},
        {"metaspace", "", NULL},          {"qwen2", "<|endoftext|>a", NULL},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct loaded l;
        struct token_list ids = {0};
        size_t n = 0;
        loaded_style(rows[i].style, &l);
        loaded_encode(l.tok, rows[i].text, strlen(rows[i].text),
                      TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL, &ids);
        const char *twice = tokenizer_doubled(l.tok, ids.ids, ids.n, &n);
        if (rows[i].twice
                ? !twice || n != strlen(rows[i].twice) || memcmp(twice, rows[i].twice, n) != 0
                : twice != NULL) {
            fail_msg("%s: '%s': %.*s", rows[i].style, rows[i].text, (int)n, twice ? twice : "");
        }
        token_list_free(&ids);
        loaded_close(&l);
    }
}

/* ---- size ---- */

/* A megabyte without a place to cut, and a megabyte of combining marks: the time stays near
 * linear (a quadratic step would take hours and end in the test's time limit). */
static void long_texts(void **state) {
    (void)state;
    enum { BYTES = 1 << 20 };
    static const char *const styles[] = {"gpt2",  "mixtral", "gemma",
                                         "qwen2", "anchors", "deepseek1"};
    static const char *const fills[] = {
        "a",         "ab", " ",   "\n", "x ", "1", "\xcc\x81\xcc\xa3", "\xe3\x81\x82",
        "the river", "'",  "  \n"};
    struct buf text = {0};
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        loaded_style(styles[i], &l);
        for (size_t k = 0; k < TEST_COUNT(fills); k++) {
            struct token_list ids = {0};
            text.len = 0;
            while (text.len < BYTES) {
                buf_append(&text, fills[k], strlen(fills[k]));
            }
            loaded_encode(l.tok, text.data, text.len, 0, &ids);
            assert_true(ids.n > 0 && ids.n <= 2 * text.len);
            token_list_free(&ids);
        }
        loaded_close(&l);
    }
    buf_free(&text);
}

/* Parts of every size, down to single characters, give the ids of the whole piece: on the texts of
 * the vectors joined to one, for styles that do not cut before they merge and for some that do. */
static void parts_of_a_piece_give_the_same_ids(void **state) {
    (void)state;
    static const char *const styles[] = {"mixtral", "llama1", "mistral", "gemma",
                                         "gpt2",    "qwen2",  "front",   "dialect"};
    static const size_t parts[] = {1, 2, 7, 50, 1000};
    json_t *texts = loaded_json(TOKENIZERS "texts.json"), *row;
    struct buf all = {0};
    size_t i;
    json_array_foreach(texts, i, row) {
        struct buf text = from_hex(json_string_value(row));
        buf_append(&all, text.data, text.len);
        buf_free(&text);
    }
    for (i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        struct token_list whole = {0}, got = {0};
        loaded_style(styles[i], &l);
        l.tok->part_bytes = SIZE_MAX;
        loaded_encode(l.tok, all.data, all.len, TOKENIZER_PARSE_SPECIAL, &whole);
        for (size_t k = 0; k < TEST_COUNT(parts); k++) {
            l.tok->part_bytes = parts[k];
            loaded_encode(l.tok, all.data, all.len, TOKENIZER_PARSE_SPECIAL, &got);
            assert_int_equal(got.n, whole.n);
            assert_memory_equal(got.ids, whole.ids, whole.n * sizeof *whole.ids);
        }
        token_list_free(&whole);
        token_list_free(&got);
        loaded_close(&l);
    }
    buf_free(&all);
    json_decref(texts);
}

/* A piece that cannot be cut is refused above a bound, and one that can be is not. */
static void a_piece_without_a_place_to_cut_is_bounded(void **state) {
    (void)state;
    struct loaded l;
    struct err err = {0};
    struct buf text = {0};
    struct token_list ids = {0};
    loaded_style("mixtral", &l);
    while (text.len <= 5 << 20) {
        buf_append(&text, "the river  ", 11);
    }
    loaded_encode(l.tok, text.data, text.len, 0, &ids);
    assert_true(ids.n > 0);
    memset(text.data, 'l', text.len); /* "ll" is a token */
    assert_int_equal(tokenizer_encode(l.tok, text.data, text.len, 0, &ids, &err), -1);
    assert_err(&err, "bytes of text without a place", "certainly cuts");
    buf_free(&text);
    token_list_free(&ids);
    loaded_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_all_styles),
        cmocka_unit_test(merges_in_both_spellings),
        cmocka_unit_test(config_decides_bos_and_eos),
        cmocka_unit_test(accessors),
        cmocka_unit_test(what_stands_twice_is_told),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(parts_of_a_piece_give_the_same_ids),
        cmocka_unit_test(a_piece_without_a_place_to_cut_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
