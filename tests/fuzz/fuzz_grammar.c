/*
 * libFuzzer: what begins with '{', '[', 't' or 'f' is a JSON schema, all else GBNF; compiled and
 * walked by its masks. What they allow must be accepted, and what fails must say why in one line.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { IDS = 256 + 6, WORDS = (IDS + 63) / 64, STEPS = 12 };

static struct grammar_vocab *vocabulary(void) {
    static const char *const words[] = {"{\"", "\": ", "ab", "12", "<think>", "<end>"};
    struct grammar_token tokens[IDS];
    char all[256];
    struct grammar_vocab *v;
    uint32_t end = IDS - 1;
    for (int i = 0; i < IDS; i++) {
        all[i & 255] = (char)i;
        tokens[i] = i < 256 ? (struct grammar_token){&all[i], 1, false}
                            : (struct grammar_token){words[i - 256],
                                                     (uint32_t)strlen(words[i - 256]), i >= 260};
    }
    if (grammar_vocab_make(&v, tokens, IDS, &end, 1, NULL) < 0) {
        abort();
    }
    return v;
}

static void walk(struct grammar_masks *m, uint64_t seed) {
    struct grammar_state *s = grammar_state_new(m);
    for (int step = 0; step < STEPS && !grammar_is_over(s); step++) {
        uint64_t mask[WORDS];
        uint32_t id;
        struct err err = {0};
        if (grammar_mask(s, step % 3 ? STEPS - (size_t)step : 0, mask, &err) < 0) {
            if (!err.set || strchr(err.msg, '\n')) {
                abort();
            }
            break;
        }
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        id = (uint32_t)(seed >> 33) % IDS;
        while (!(mask[id / 64] >> id % 64 & 1)) {
            id = (id + 1) % IDS;
        }
        struct grammar_state *copy = grammar_state_copy(s);
        if (grammar_accept(copy, id, &err) < 0 && !strstr(err.msg, "too many")) {
            abort();
        }
        grammar_state_free(s);
        s = copy;
    }
    grammar_state_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct value_arena arena = {.limit_bytes = 4 << 20};
    struct value schema;
    struct grammar *g = NULL;
    struct buf remarks = {0};
    struct err err = {0};
    char *text = mem_alloc(bytes);
    bool json = bytes && memchr("{[tf", data[0], 4);
    memcpy(text, data, bytes);
    if (json && value_json_read(&arena, text, bytes, &schema, &err) == 0) {
        grammar_json(&g, &schema, hash64(data, bytes) % 2 ? GRAMMAR_LENIENT : 0, &remarks, &err);
    } else if (!json) {
        grammar_parse(&g, text, bytes, &err);
    }
    free(text); /* nothing of it is kept */
    value_arena_free(&arena);
    if (g ? err.set : !err.set || strchr(err.msg, '\n')) {
        abort();
    }
    if (g) {
        struct grammar_vocab *v = vocabulary();
        struct grammar_masks *m;
        if (grammar_masks_open(&m, g, v, 100000, &err) == 0) {
            walk(m, 1);
            walk(m, hash64(data, bytes));
            grammar_masks_close(m);
        }
        grammar_vocab_free(v);
    }
    grammar_free(g);
    buf_free(&remarks);
    return 0;
}
