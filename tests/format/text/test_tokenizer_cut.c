/* Long texts in pieces: the ids are those of the whole, on every style of tokenizer, for pieces and
 * pushes of every length. */
#include "tests/util/test.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"
#include "tests/util/test_util_tokenizer.h"

/* Whether texts of the style are cut at all: in front of a space, behind a newline. */
static const struct {
    const char *name;
    bool space, line;
} styles[] = {
    {"anchors", false, false},    {"deepseek1", true, true}, {"deepseek3", true, true},
    {"dialect", false, false},    {"exaone", false, true},   {"first", false, false},
    {"front", false, false},      {"gemma", true, false},    {"gpt2", true, false},
    {"gpt2_prefix", true, false}, {"kimi", true, true},      {"ling", true, true},
    {"llama1", true, false},      {"llama3", true, true},    {"metaspace", true, false},
    {"mistral", true, false},     {"mixtral", true, false},  {"o200k", true, true},
    {"olmo2", true, true},        {"olmoe", true, false},    {"qwen2", true, true},
    {"qwen35", true, true},       {"splits", false, false},  {"starcoder", true, false},
    {"tekken", true, true},       {"words", false, false},
};

static void assert_ok(int rc, const struct err *err) {
    if (rc < 0) {
        fail_msg("%s", err->msg);
    }
}

static uint64_t seed = 20261130;

static size_t draw(size_t n) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)((seed >> 33) % n);
}

/* What the steps of some tokenizer treat in a way of its own. */
static const char *const bits[] = {
    "a",
    "the",
    "don't",
    "'s",
    "x",
    "Q",
    "b",
    "c",
    "d",
    "I'LL",
    "1",
    "12",
    "2345",
    ".",
    "!",
    ",",
    "-",
    "/",
    "//",
    "(",
    "\"",
    "_",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    " \n",
    "\n ",
    "\xe2\x96\x81",
    "\xe4\xb8\xad\xe5\x9b\xbd",
    "\xe3\x80\x82",
    "\xe3\x81\x82",
    "\xc3\xa9",
    "e\xcc\x81",
    "\xcc\x81",
    "\xcc\xa3\xcc\x81",
    "\xef\xbc\x92",
    "\xc2\xa0",
    "\xc2\xbd",
    "\xe2\x80\x83",
    "\xf0\x9f\x98\x80",
    "\xef\xac\x81",
    "\xc4\xb0",
    "\xe1\x84\x80\xe1\x85\xa1",
    "<",
    "=\xcc\xb8",
    "<0x41>",
    "\xff",
    "\xe4\xb8",
    "naive",
    "``",
    "\xc2\xa8",
    "\x01",
};

static void add_random(const struct tokenizer *tok, size_t n, struct buf *text) {
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 0;
        const char *piece = NULL;
        if (draw(24) == 0 && tok->n_added) {
            piece = tokenizer_piece(tok, tok->added[draw(tok->n_added)].id, &bytes);
        } else if (draw(12) == 0) {
            piece = tokenizer_piece(tok, (uint32_t)draw(tok->n_tokens), &bytes);
        }
        if (!piece) {
            piece = bits[draw(TEST_COUNT(bits))];
            bytes = strlen(piece);
        }
        buf_append(text, piece, bytes);
    }
}

static void check_pieces(struct tokenizer *tok, const char *name, const struct buf *text,
                         unsigned flags) {
    static const size_t pieces[] = {1, 2, 7, 50, 1000};
    struct token_list whole = {0}, got = {0};
    struct err err = {0};
    tok->piece_bytes = SIZE_MAX;
    loaded_encode(tok, text->data, text->len, flags, &whole);
    for (size_t k = 0; k < TEST_COUNT(pieces); k++) {
        struct token_encoder *e = token_encoder_new(tok, flags, 0);
        tok->piece_bytes = pieces[k];
        got.n = 0;
        for (size_t at = 0, n; at < text->len; at += n) {
            n = 1 + draw(k % 2 ? 9 : 4000);
            n = n < text->len - at ? n : text->len - at;
            assert_ok(token_encoder_push(e, text->data + at, n, &got, &err), &err);
        }
        assert_ok(token_encoder_finish(e, &got, &err), &err);
        size_t i = 0;
        while (i < got.n && i < whole.n && got.ids[i] == whole.ids[i]) {
            i++;
        }
        if (i < got.n || i < whole.n) {
            fail_msg("%s, pieces of %zu bytes, flags %u: id %zu of %zu differs (seed %llu)", name,
                     pieces[k], flags, i, whole.n, (unsigned long long)seed);
        }
        token_encoder_free(e);
    }
    token_list_free(&whole);
    token_list_free(&got);
}

/* How texts are encoded: those of unknown origin, prompts, and what is certainly no token. */
static const unsigned ways[] = {0, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, TOKENIZER_PLAIN,
                                TOKENIZER_PLAIN | TOKENIZER_ADD_SPECIAL};

static void pieces_give_the_same_ids(void **state) {
    (void)state;
    enum { ROUNDS = 60 };
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        struct buf text = {0};
        loaded_style(styles[i].name, &l);
        for (size_t round = 0; round < ROUNDS; round++) {
            text.len = 0;
            add_random(l.tok, 1 + draw(600), &text);
            check_pieces(l.tok, styles[i].name, &text, ways[round % TEST_COUNT(ways)]);
        }
        buf_free(&text);
        loaded_close(&l);
    }
}

/* What no style has: added tokens that lie across places which are safe without them, or reach to
 * them; normalizers that look for the text's beginning and end. */
static void odd_tokenizers_too(void **state) {
    (void)state;
    static const char *const normalizers[] = {
        "{\"type\":\"NFC\"}",
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Strip\",\"strip_left\":true,"
        "\"strip_right\":true},{\"type\":\"Prepend\",\"prepend\":\"the\"}]}",
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"},"
        "{\"type\":\"Prepend\",\"prepend\":\"x\"},{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"e!\"},\"content\":\" \"}]}",
    };
    static const struct {
        const char *content;
        int lstrip, rstrip, normalized, single_word;
    } added[] = {{"a the", 0, 0, 1, 0},
                 {"b\nc", 0, 0, 1, 0},
                 {"QZ", 0, 1, 0, 0},
                 {"x ", 1, 0, 0, 0},
                 {"the7", 0, 0, 1, 1}},
      *a;
    static const char *const names[] = {"llama3", "gpt2", "mixtral", "metaspace"};
    for (size_t i = 0; i < TEST_COUNT(names) * TEST_COUNT(normalizers) * 6; i++) {
        struct loaded l;
        struct buf text = {0};
        json_t *json = loaded_style_json(names[i % TEST_COUNT(names)]), *list;
        size_t which = i / TEST_COUNT(names) / TEST_COUNT(normalizers);
        list = json_object_get(json, "added_tokens");
        json_t *last = json_array_get(list, json_array_size(list) - 1);
        json_int_t id = json_integer_value(json_object_get(last, "id")) + 1;
        json_object_set_new(
            json, "normalizer",
            json_loads(normalizers[i / TEST_COUNT(names) % TEST_COUNT(normalizers)], 0, NULL));
        if (which < TEST_COUNT(added)) {
            a = &added[which];
            json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id,
                                                  "content", a->content, "lstrip", a->lstrip,
                                                  "rstrip", a->rstrip, "normalized", a->normalized,
                                                  "single_word", a->single_word, "special", 0));
        }
        char *spelled = json_dumps(json, 0);
        loaded_compile(spelled, strlen(spelled), NULL, &l);
        for (int round = 0; round < 40; round++) {
            text.len = 0;
            add_random(l.tok, 1 + draw(300), &text);
            check_pieces(l.tok, names[i % TEST_COUNT(names)], &text,
                         round % 2 ? TOKENIZER_PLAIN : 0);
        }
        free(spelled);
        json_decref(json);
        buf_free(&text);
        loaded_close(&l);
    }
}

static int64_t find(const struct tokenizer *tok, const char *text) {
    struct encoder enc;
    struct err err = {0};
    encoder_init(&enc, tok, 0, NULL, &err);
    budget_encode(&enc.budget, tok);
    struct tok_cutter *k = cutter_new(tok);
    int64_t at = cutter_find(k, &enc, text, strlen(text), 1, strlen(text));
    cutter_free(k);
    encoder_free(&enc);
    return at;
}

/* A change that makes nothing safe any more would let the test above pass. */
static void styles_are_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        loaded_style(styles[i].name, &l);
        int64_t space = find(l.tok, "the river"), line = find(l.tok, "\nriver");
        if ((space == 3) != styles[i].space || (line == 1) != styles[i].line) {
            fail_msg("%s: cut at %lld of \"the river\", at %lld of \"\\nriver\"", styles[i].name,
                     (long long)space, (long long)line);
        }
        loaded_close(&l);
    }
}

/* What tokenizer_cut.c says of normal forms: nothing visible begins (NFC, NFD) or ends (all) with
 * white space, and nothing becomes nothing. */
static void normal_forms_keep_what_is_visible(void **state) {
    (void)state;
    struct buf out = {0};
    for (uint32_t cp = 0x80; cp < 0x110000; cp++) {
        char utf8[4];
        uint32_t first, last;
        if ((cp >= 0xd800 && cp < 0xe000) || !text_is_visible(cp)) {
            continue;
        }
        assert_false(text_is_space(cp));
        for (int form = TEXT_NFC; form <= TEXT_NFKD; form++) {
            out.len = 0;
            text_normalize((enum text_form)form, utf8, text_put(cp, utf8), &out);
            assert_true(out.len > 0);
            text_get(out.data, &first);
            text_get(out.data + out.len - text_before(out.data, out.data + out.len), &last);
            assert_true(!text_is_space(last) && last != '\n');
            assert_true(form > TEXT_NFD || text_is_visible(first));
            assert_true(form > TEXT_NFD || (first != '/' && first != ' '));
        }
    }
    buf_free(&out);
}

/* Without a safe place a stretch is encoded whole up to a limit that the caller's memory sets. */
static void a_stretch_without_a_place_is_bounded(void **state) {
    (void)state;
    enum { MEMORY = 24 << 20 };
    struct loaded l;
    struct err err = {0};
    struct token_list ids = {0};
    struct buf text = {0};
    loaded_style("anchors", &l);
    while (text.len < 900 << 10) {
        buf_append(&text, "the river ", 10);
    }
    struct token_encoder *e = token_encoder_new(l.tok, 0, MEMORY);
    assert_ok(token_encoder_push(e, text.data, text.len, &ids, &err), &err);
    assert_ok(token_encoder_finish(e, &ids, &err), &err);
    assert_true(ids.n > 0);
    assert_ok(token_encoder_push(e, text.data, text.len, &ids, &err), &err);
    assert_int_equal(token_encoder_push(e, text.data, text.len, &ids, &err), -1);
    assert_err(&err, "more than 1024 KiB of text", "certainly be cut");
    err = (struct err){0};
    assert_int_equal(token_encoder_wants(e, text.len), 0);
    assert_int_equal(token_encoder_wants(e, 2 * text.len), 2 * 96 * text.len);
    token_encoder_free(e);
    /* As much as it asks for is enough, and so is what is asked for beforehand. */
    const uint64_t asked[] = {2 * 96 * text.len, token_encoder_bytes(l.tok, 2 * text.len)};
    for (int i = 0; i < 2; i++) {
        e = token_encoder_new(l.tok, 0, asked[i]);
        assert_ok(token_encoder_push(e, text.data, text.len, &ids, &err), &err);
        assert_ok(token_encoder_push(e, text.data, text.len, &ids, &err), &err);
        assert_ok(token_encoder_finish(e, &ids, &err), &err);
        token_encoder_free(e);
    }
    loaded_close(&l);
    /* What is merged at once has a limit too. */
    loaded_style("mixtral", &l);
    memset(text.data, 'l', text.len);
    e = token_encoder_new(l.tok, 0, MEMORY);
    assert_int_equal(token_encoder_bytes(l.tok, UINT64_MAX), MEMORY);
    err = (struct err){0};
    int rc = token_encoder_push(e, text.data, text.len, &ids, &err);
    assert_int_equal(rc < 0 ? rc : token_encoder_finish(e, &ids, &err), -1);
    const uint64_t wants = token_encoder_wants(e, text.len);
    assert_in_range(wants, 96 * text.len, 96 * (text.len + 3)); /* and what is put in front */
    token_encoder_free(e);
    e = token_encoder_new(l.tok, 0, wants);
    err = (struct err){0};
    assert_ok(token_encoder_push(e, text.data, text.len, &ids, &err), &err);
    assert_ok(token_encoder_finish(e, &ids, &err), &err);
    token_encoder_free(e);
    token_list_free(&ids);
    buf_free(&text);
    loaded_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_give_the_same_ids),
        cmocka_unit_test(odd_tokenizers_too),
        cmocka_unit_test(styles_are_cut),
        cmocka_unit_test(normal_forms_keep_what_is_visible),
        cmocka_unit_test(a_stretch_without_a_place_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
