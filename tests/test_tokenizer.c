/* The tokenizer against the vectors of tests/golden/tokenizers (made by make_tokenizers.py with
 * the Hugging Face package), against itself (stream and batch), and against bytes that are no
 * section. */
#include <dirent.h>
#include <jansson.h>

#include "format/tokenizer.h"
#include "format/tokenizer_file.h"
#include "format/tokenizer_regex.h"
#include "format/tokenizer_text.h"
#include "prep/hf_tokenizer.h"
#include "tests/test.h"

#define FOLDER "tests/golden/tokenizers/"
#define FABLE "tests/models/fable/tokenizer.json"

/* ---- helpers --------------------------------------------------------------------------------- */

struct loaded {
    struct buf section;
    struct tokenizer *tok;
};

static void compile(const char *json, size_t bytes, const char *config, struct loaded *out) {
    struct err err = {0};
    struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", json, bytes},
        .config = {"tokenizer_config.json", config, config ? strlen(config) : 0},
    };
    *out = (struct loaded){0};
    hf_tokenizer_compile(&files, &out->section, &err);
    assert_no_err(&err);
    assert_int_equal(tokenizer_open(out->section.data, out->section.len, &out->tok, &err), 0);
}

static void load(const char *path, const char *config, struct loaded *out) {
    struct err err = {0};
    uint8_t *data;
    size_t bytes;
    file_read(path, 64 << 20, &data, &bytes, &err);
    assert_no_err(&err);
    compile((const char *)data, bytes, config, out);
    free(data);
}

static void load_style(const char *name, struct loaded *out) {
    char *path = mem_printf(FOLDER "%s.json", name);
    load(path, NULL, out);
    free(path);
}

static void unload(struct loaded *l) {
    tokenizer_close(l->tok);
    buf_free(&l->section);
}

static json_t *read_json(const char *path) {
    json_error_t e;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!json) {
        print_error("%s: %s\n", path, e.text);
    }
    assert_non_null(json);
    return json;
}

static struct buf from_hex(const char *hex) {
    struct buf b = {0};
    buf_append(&b, "", 0);
    for (; hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0}, c = (char)strtoul(pair, NULL, 16);
        buf_append(&b, &c, 1);
    }
    return b;
}

static void encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                   struct token_list *out) {
    struct err err = {0};
    out->n = 0;
    tokenizer_encode(tok, text, bytes, flags, out, &err);
    assert_no_err(&err);
}

/* The ids of a C string, with special tokens parsed and none added. */
static struct token_list ids_of(const struct tokenizer *tok, const char *text) {
    struct token_list list = {0};
    encode(tok, text, strlen(text), TOKENIZER_PARSE_SPECIAL, &list);
    return list;
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

    encode(tok, text->data, text->len, TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL, &got);
    assert_true(got.n >= n_front + n_behind);
    check_ids(name, row, &got, 0, n_front, front);
    check_ids(name, row, &got, n_front, got.n - n_behind, ids);
    check_ids(name, row, &got, got.n - n_behind, got.n, behind);
    encode(tok, text->data, text->len, TOKENIZER_PARSE_SPECIAL, &got);
    check_ids(name, row, &got, 0, got.n, ids);
    struct token_list literal = {0};
    encode(tok, text->data, text->len, 0, &literal);
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
    char *path = mem_printf(FOLDER "%s.vectors.json", name);
    json_t *vectors = read_json(path), *row;
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
    json_t *texts = read_json(FOLDER "texts.json");
    DIR *dir = opendir(FOLDER);
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
            load(FABLE, NULL, &l);
        } else {
            load_style(name, &l);
        }
        check_vectors(name, l.tok, texts);
        unload(&l);
        free(name);
        styles++;
    }
    closedir(dir);
    json_decref(texts);
    assert_true(styles >= 24);
}

/* ---- the file's spellings and flags ---------------------------------------------------------- */

/* The whole file of a style, to be changed. */
static json_t *style_json(const char *name) {
    char *path = mem_printf(FOLDER "%s.json", name);
    json_t *json = read_json(path);
    free(path);
    return json;
}

static void compile_json(const json_t *json, const char *config, struct loaded *out) {
    char *text = json_dumps(json, JSON_COMPACT);
    compile(text, strlen(text), config, out);
    free(text);
}

static void merges_in_both_spellings(void **state) {
    (void)state;
    json_t *json = style_json("qwen2"), *pair;
    json_t *merges = json_object_get(json_object_get(json, "model"), "merges");
    struct loaded pairs, strings;
    size_t i;
    assert_true(json_is_array(json_array_get(merges, 0)));
    compile_json(json, NULL, &pairs);
    json_array_foreach(merges, i, pair) {
        char *text = mem_printf("%s %s", json_string_value(json_array_get(pair, 0)),
                                json_string_value(json_array_get(pair, 1)));
        json_array_set_new(merges, i, json_string(text));
        free(text);
    }
    json_array_insert_new(merges, 0, json_string("#version: 0.2"));
    compile_json(json, NULL, &strings);
    assert_int_equal(pairs.section.len, strings.section.len);
    assert_memory_equal(pairs.section.data, strings.section.data, pairs.section.len);
    unload(&pairs);
    unload(&strings);
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
        load(FOLDER "mixtral.json", rows[i].config, &l);
        encode(l.tok, "hi", 2, TOKENIZER_ADD_SPECIAL, &ids);
        assert_int_equal(ids.ids[0] == 1, rows[i].front);
        assert_int_equal(ids.ids[ids.n - 1] == 2, rows[i].behind);
        assert_int_equal(tokenizer_adds_bos(l.tok), rows[i].front);
        token_list_free(&ids);
        unload(&l);
    }
}

static void accessors(void **state) {
    (void)state;
    struct loaded l;
    size_t n;
    load(FOLDER "mixtral.json",
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
    unload(&l);
    load_style("qwen2", &l);
    assert_null(tokenizer_chat_template(l.tok, &n));
    assert_int_equal(tokenizer_bos(l.tok), TOKEN_NONE);
    assert_false(tokenizer_adds_bos(l.tok));
    uint32_t think = tokenizer_find(l.tok, "<think>", 7);
    assert_int_not_equal(think, TOKEN_NONE);
    assert_false(tokenizer_is_special(l.tok, think)); /* added, but kept when decoding */
    unload(&l);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(const json_t *json, const char *config, const char *part1, const char *part2) {
    char *text = json_dumps(json, JSON_COMPACT);
    struct err err = {0};
    struct buf section = {0};
    struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", text, strlen(text)},
        .config = {"tokenizer_config.json", config, config ? strlen(config) : 0},
    };
    assert_int_equal(hf_tokenizer_compile(&files, &section, &err), -1);
    assert_err(&err, part1, part2);
    buf_free(&section);
    free(text);
}

static void unknown_components_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *key, *json, *part1, *part2;
    } rows[] = {
        {"normalizer", "{\"type\": \"Precompiled\"}",
         "tokenizer.json: normalizer:", "'Precompiled'"},
        {"normalizer",
         "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Nmt\"}]}",
         "normalizer.normalizers[1]", "'Nmt' is not supported (supported: Sequence NFC"},
        {"normalizer",
         "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(?<n>a)\"}, \"content\": \"\"}",
         "normalizer.pattern", "group"},
        {"normalizer", "[]", "normalizer:", "object"},
        {"pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}",
         "pre_tokenizer:", "'BertPreTokenizer'"},
        {"pre_tokenizer", "{\"type\": \"UnicodeScripts\"}", "pre_tokenizer:", "'UnicodeScripts'"},
        {"pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a(\"}, \"behavior\": \"Isolated\","
         " \"invert\": false}",
         "pre_tokenizer.pattern", "not supported"},
        {"pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Sideways\","
         " \"invert\": false}",
         "pre_tokenizer.behavior", "'Sideways'"},
        {"pre_tokenizer", "{\"type\": \"ByteLevel\"}", "pre_tokenizer.add_prefix_space",
         "true or false"},
        {"pre_tokenizer", "{\"use_regex\": true}", "pre_tokenizer.type", "string"},
        {"post_processor", "{\"type\": \"BertProcessing\"}", "post_processor:", "'BertProcessing'"},
        {"post_processor",
         "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}],"
         " \"special_tokens\": {\"<s>\": {\"ids\": [99999]}}}",
         "special_tokens.<s>.ids", "below"},
        {"decoder", "{\"type\": \"WordPiece\"}", "decoder:", "'WordPiece'"},
        {"decoder", "{\"type\": \"CTC\"}", "decoder:", "'CTC'"},
        {"decoder",
         "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": "
         "\"ByteFallback\"}]}",
         "decoder:", "behind Fuse"},
        {"version", "\"2.0\"", "version", "1.0"},
        {"model", "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}", "model:", "'Unigram'"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}",
         "model.merges[0]", "not in the vocabulary"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b c\"]}",
         "model.merges[0]", "left right"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}",
         "model.vocab", "id 0"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 4000000000}, \"merges\": []}",
         "model.vocab", "'a'"},
        {"model",
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": "
         "\"</w>\"}",
         "model:", "end_of_word_suffix '</w>'"},
        {"added_tokens",
         "[{\"id\": 7777, \"content\": \"<x>\", \"single_word\": false, \"lstrip\": false,"
         " \"rstrip\": false, \"normalized\": false, \"special\": true}]",
         "added_tokens[0]", "7777"},
        {"added_tokens", "[{\"id\": 7777}]", "added_tokens[0].content", "string"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        json_t *json = style_json("gpt2");
        json_error_t e;
        json_t *part = json_loads(rows[i].json, JSON_DECODE_ANY, &e);
        assert_non_null(part);
        json_object_set_new(json, rows[i].key, part);
        refuse(json, NULL, rows[i].part1, rows[i].part2);
        json_decref(json);
    }
    json_t *json = style_json("gpt2");
    refuse(json, "{\"add_bos_token\": true}", "tokenizer_config.json: add_bos_token", "missing");
    refuse(json, "{", "tokenizer_config.json", "JSON");
    refuse(json, "{\"chat_template\": 3}", "chat_template", "string");
    json_decref(json);
}

/* ---- the dialect ----------------------------------------------------------------------------- */

static void check_match(const char *pattern, const char *text, int start, int end) {
    struct err err = {0};
    struct regex *re = regex_compile(pattern, strlen(pattern), &err);
    assert_no_err(&err);
    struct regex_scratch *scratch = regex_scratch_new();
    struct regex_iter it;
    size_t from = 0, to = 0;
    regex_start(&it, re, text, strlen(text));
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
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        check_match(rows[i].pattern, rows[i].text, rows[i].start, rows[i].end);
    }
    static const char *const refused[] = {
        "(*UCP)a", "(?R)",         "(?<n>a)",     "(?P<n>a)", "(?C1)a",      "(?|a)",    "(?#c)a",
        "(?x: a)", "(?s:a)",       "a(?i)b",      "\\Ka",     "\\R",         "\\X",      "\\G",
        "\\C",     "\\N",          "\\1",         "\\k<n>",   "\\g<1>",      "\\Qa",     "\\pL",
        "\\p{L",   "\\p{No Such}", "[[:alpha:]]", "[a[b]]",   "[\\W]",       "[b-a]",    "[a-\\d]",
        "[]",      "[a",           "(a",          "a)",       "a{2}+",       "a{2}?",    "a{3,2}",
        "*a",      "\\xff",        "\\ud800",     "\\",       "\\x{110000}", "a{99999}",
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
    regex_start(&it, re, text, sizeof text);
    assert_int_equal(regex_next(&it, scratch, &from, &to, &err), -1);
    assert_err(&err, "limit");
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
        check_text("sanitize", i, &got, want.data, want.len);
        assert_int_equal(text_valid(got.data, got.len), got.len);
        buf_free(&got);
        buf_free(&want);
    }
}

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
        load_style(styles[i], &l);
        for (size_t k = 0; k < TEST_COUNT(fills); k++) {
            struct token_list ids = {0};
            text.len = 0;
            while (text.len < BYTES) {
                buf_append(&text, fills[k], strlen(fills[k]));
            }
            encode(l.tok, text.data, text.len, 0, &ids);
            assert_true(ids.n > 0 && ids.n <= 2 * text.len);
            token_list_free(&ids);
        }
        unload(&l);
    }
    buf_free(&text);
}

/* ---- bytes that are no section --------------------------------------------------------------- */

/* A small tokenizer in which every kind of table has rows. */
static const char small_json[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"single_word\":false,"
    "\"lstrip\":true,"
    "\"rstrip\":true,\"normalized\":false,\"special\":true},{\"id\":9,\"content\":\"X "
    "y\",\"single_word\":true,"
    "\"lstrip\":false,\"rstrip\":false,\"normalized\":true,\"special\":false}],\"normalizer\":{"
    "\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\",\"prepend\":\"_\"},{\"type\":"
    "\"Replace\",\"pattern\":"
    "{\"Regex\":\"b+\"},\"content\":\"b\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\","
    "\"pretokenizers\":[{\"type\":"
    "\"Split\",\"pattern\":{\"Regex\":\"a|\\\\s\"},\"behavior\":\"MergedWithNext\",\"invert\":"
    "false},{\"type\":"
    "\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":true}]},\"post_"
    "processor\":{\"type\":"
    "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{"
    "\"Sequence\":{\"id\":\"A\","
    "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}],\"pair\":[],\"special_"
    "tokens\":{\"<s>\":"
    "{\"id\":\"<s>\",\"ids\":[0],\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"Sequence\","
    "\"decoders\":[{\"type\":"
    "\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" "
    "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" "
    "\",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<s>\","
    "\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"_\":3,\"ab\":"
    "4,\"_a\":5,\"_ab\":6,"
    "\"<0xC3>\":7,\"<0xA9>\":8},\"merges\":[\"a b\",\"_ ab\",\"_ a\"]}}";

/* Whatever opens can be used. The section is in a heap block of its own size, so that the
 * sanitizers see every read outside it. */
static bool use_section(const char *bytes, size_t n) {
    static const char text[] = "ab abb <s>  X y\xc3\xa9\xff aab";
    struct err err = {0};
    struct tokenizer *tok;
    char *block = mem_alloc(n);
    memcpy(block, bytes, n);
    if (tokenizer_open(block, n, &tok, &err)) {
        assert_err(&err, "tokenizer section");
        free(block);
        return false;
    }
    struct token_list ids = {0};
    struct buf out = {0};
    struct err use = {0};
    tokenizer_encode(tok, text, sizeof text - 1, TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL,
                     &ids, &use);
    for (uint32_t i = 0; i < tokenizer_vocab_size(tok) && i < 64; i++) {
        size_t bytes_of_piece;
        tokenizer_piece(tok, i, &bytes_of_piece);
        token_list_add(&ids, i);
    }
    tokenizer_decode(tok, ids.ids, ids.n, 0, &out, &use);
    assert_int_equal(text_valid(out.len ? out.data : "", out.len), out.len);
    token_list_free(&ids);
    buf_free(&out);
    tokenizer_close(tok);
    free(block);
    return true;
}

static void damaged_sections(void **state) {
    (void)state;
    struct loaded l;
    compile(small_json, sizeof small_json - 1, "{\"chat_template\": \"hello\"}", &l);
    struct token_list ids = ids_of(l.tok, "ab <s>");
    assert_int_equal(ids.n, 3); /* _ab, _ (Metaspace would add none), <s> with its space */
    token_list_free(&ids);
    assert_true(use_section(l.section.data, l.section.len));
    for (size_t n = 0; n < l.section.len; n++) {
        assert_false(use_section(l.section.data, n));
    }
    size_t opened = 0;
    for (size_t bit = 0; bit < l.section.len * 8; bit++) {
        l.section.data[bit / 8] ^= (char)(1 << bit % 8);
        opened += use_section(l.section.data, l.section.len);
        l.section.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(opened <
                l.section.len * 8); /* some flips are other tokenizers: the archive's checksum is
                                                there for those */
    /* Texts that overlap would make checking them, and the tokens, quadratic. */
    struct err err = {0};
    struct tokenizer *tok;
    struct tok_header header;
    memcpy(&header, l.section.data, sizeof header);
    struct tok_span all = {0, (uint32_t)header.tables[TOK_BLOB].bytes};
    struct tok_span *spans = (void *)(l.section.data + header.tables[TOK_SPANS].offset),
                    kept = *spans;
    *spans = all;
    assert_int_equal(tokenizer_open(l.section.data, l.section.len, &tok, &err), -1);
    assert_err(&err, "token");
    *spans = kept;
    err = (struct err){0};
    char *odd = mem_alloc(l.section.len + 8);
    memcpy(odd + 4, l.section.data, l.section.len);
    assert_int_equal(tokenizer_open(odd + 4, l.section.len, &tok, &err), -1);
    assert_err(&err, "multiple of 8");
    free(odd);
    unload(&l);
}

static void damaged_json(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof small_json; n++) {
        struct err err = {0};
        struct buf section = {0};
        char *block = mem_alloc(n + 1);
        memcpy(block, small_json, n);
        struct hf_tokenizer_files files = {.tokenizer = {"tokenizer.json", block, n}};
        if (hf_tokenizer_compile(&files, &section, &err)) {
            assert_err(&err, "tokenizer.json");
        }
        assert_int_equal(err.set, n < sizeof small_json - 1);
        buf_free(&section);
        free(block);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_all_styles),
        cmocka_unit_test(merges_in_both_spellings),
        cmocka_unit_test(config_decides_bos_and_eos),
        cmocka_unit_test(accessors),
        cmocka_unit_test(unknown_components_are_refused_by_name),
        cmocka_unit_test(patterns_mean_what_oniguruma_means),
        cmocka_unit_test(a_pattern_that_backtracks_for_ever_is_an_error),
        cmocka_unit_test(utf8_is_replaced_by_maximal_subparts),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(damaged_sections),
        cmocka_unit_test(damaged_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
