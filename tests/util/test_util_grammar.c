/* See test_util_grammar.h. */
#include "tests/util/test_util_grammar.h"

struct grammar *grammar_of_schema(const char *schema, unsigned flags, struct buf *remarks,
                                  struct err *err) {
    struct value_arena arena = {.limit_bytes = 64 << 20};
    struct value v;
    struct grammar *g = NULL;
    if (value_json_read(&arena, schema, strlen(schema), &v, err) == 0) {
        grammar_json(&g, &v, flags, remarks, err);
    }
    value_arena_free(&arena);
    return g;
}

struct grammar_vocab *grammar_byte_vocab(const char *const *words) {
    char all[256];
    struct grammar_token *tokens = mem_calloc(2048, sizeof *tokens);
    struct grammar_vocab *v;
    struct err err = {0};
    size_t n = 256;
    for (int i = 0; i < 256; i++) {
        all[i] = (char)i;
        tokens[i] = (struct grammar_token){&all[i], 1, false};
    }
    for (; words && *words; words++) {
        tokens[n++] = (struct grammar_token){*words, (uint32_t)strlen(*words), false};
    }
    tokens[n++] = (struct grammar_token){"<think>", 7, true};
    tokens[n++] = (struct grammar_token){"</think>", 8, true};
    tokens[n++] = (struct grammar_token){"<end>", 5, true};
    uint32_t end = (uint32_t)n - 1;
    assert_int_equal(grammar_vocab_make(&v, tokens, n, &end, 1, &err), 0);
    free(tokens);
    return v;
}

/* One word of a script whose characters begin at `first`. */
static void put_word(struct buf *out, struct test_rng *r, uint32_t first, uint32_t n_chars,
                     size_t length) {
    for (size_t i = 0; i < length; i++) {
        value_utf8_append(out, first + (uint32_t)(test_u64(r) % n_chars));
    }
}

struct grammar_vocab *grammar_large_vocab(size_t n, uint64_t seed) {
    static const char *const pieces[] = {"\"",   "\":", "\",", "\"}", "\": \"", "\", \"", "{\"",
                                         "[\"",  "],",  "},",  "\n",  "\n\n",   "\n    ", "\\n",
                                         "\\\"", "\t",  "();", "://", "=\"",    "/>"};
    static const uint32_t scripts[][2] = {{0x430, 32},    {0x4e00, 3000}, {0x3b1, 24},
                                          {0xac00, 2000}, {0x627, 36},    {0x1f300, 300}};
    struct grammar_token *tokens = mem_calloc(n, sizeof *tokens);
    struct test_rng r = {seed};
    struct grammar_vocab *v;
    struct err err = {0};
    struct buf all = {0};
    size_t *at = mem_calloc(n + 1, sizeof *at);
    for (size_t i = 0; i < n; i++) {
        uint64_t kind = test_u64(&r) % 100;
        at[i] = all.len;
        if (i < 256) {
            buf_append(&all, &(char){(char)i}, 1);
        } else if (kind < 65) {
            buf_append(&all, " ", kind < 40);
            put_word(&all, &r, 'a' - (kind % 8 == 0 ? 32 : 0), 26, 1);
            put_word(&all, &r, 'a', 26, test_u64(&r) % 9);
        } else if (kind < 66) {
            put_word(&all, &r, '0', 10, 1 + test_u64(&r) % 3);
        } else if (kind < 69) {
            put_word(&all, &r, ' ', 1, 1 + test_u64(&r) % 60);
        } else if (kind < 74) {
            const char *piece = pieces[test_u64(&r) % TEST_COUNT(pieces)];
            buf_append(&all, piece, strlen(piece));
            put_word(&all, &r, 'a', 26, test_u64(&r) % 4);
        } else {
            const uint32_t *s = scripts[kind % TEST_COUNT(scripts)];
            put_word(&all, &r, s[0], s[1], 1 + test_u64(&r) % 4);
            all.len -= kind == 99; /* half a character at the end */
        }
    }
    at[n] = all.len;
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (struct grammar_token){all.data + at[i], (uint32_t)(at[i + 1] - at[i]), false};
    }
    uint32_t end = (uint32_t)n - 1;
    tokens[end].added = true;
    assert_int_equal(grammar_vocab_make(&v, tokens, n, &end, 1, &err), 0);
    free(tokens);
    free(at);
    buf_free(&all);
    return v;
}

bool grammar_has(const struct grammar *g, const char *text, size_t n) {
    struct grammar_vocab *v = grammar_byte_vocab(NULL);
    struct grammar_masks *m;
    struct err err = {0};
    assert_int_equal(grammar_masks_open(&m, g, v, 1 << 20, &err), 0);
    struct grammar_state *s = grammar_state_new(m);
    bool has = grammar_accept_text(s, text, n, &err) == 0 && grammar_may_end(s);
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_vocab_free(v);
    return has;
}

size_t mask_count(const uint64_t *mask, size_t words) {
    size_t n = 0;
    for (size_t i = 0; i < words; i++) {
        n += (size_t)__builtin_popcountll(mask[i]);
    }
    return n;
}
