/*
 * logprobs: see logprobs.h.
 */
#include "runtime/serve/logprobs.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void logprobs_keep(struct logprob_token *t, const struct corm_logprob *chosen,
                   const struct corm_logprob *top, size_t n_top) {
    *t = (struct logprob_token){.id = chosen->id, .logprob = chosen->logprob, .n_top = n_top};
    t->top = n_top ? mem_alloc(n_top * sizeof *top) : NULL;
    if (n_top) {
        memcpy(t->top, top, n_top * sizeof *top);
    }
}

void logprobs_free(struct logprob_token *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(tokens[i].top);
    }
    free(tokens);
}

/* A token's text (free()). */
static char *text_of(const struct corm_engine *engine, int32_t id, bool skip_special,
                     size_t *bytes) {
    char *text;
    if (corm_detokenize(engine, &id, 1, skip_special, &text, bytes, NULL) < 0) {
        *bytes = 0;
        return mem_strdup("");
    }
    return text;
}

/* JSON has no infinity: a token that cannot come has a number that is far below all others. */
static double told(float logprob) {
    return logprob < -9999 ? -9999 : logprob;
}

/* ---- turns ---- */

static void put_entry(struct run_json *j, const struct corm_engine *engine, int32_t id,
                      float logprob) {
    size_t bytes;
    char *text = text_of(engine, id, false, &bytes);
    run_json_text(j, "token", text, bytes);
    run_json_f64(j, "logprob", told(logprob));
    if (strstr(text, "\xef\xbf\xbd")) {
        run_json_null(j, "bytes"); /* a part of a character, perhaps */
    } else {
        run_json_open(j, "bytes", '[');
        for (size_t i = 0; i < bytes; i++) {
            run_json_u64(j, NULL, (unsigned char)text[i]);
        }
        run_json_close(j, ']');
    }
    free(text);
}

void logprobs_chat(struct run_json *j, const struct corm_engine *engine,
                   const struct logprob_token *tokens, size_t n) {
    run_json_open(j, "logprobs", '{');
    run_json_open(j, "content", '[');
    for (size_t i = 0; i < n; i++) {
        run_json_open(j, NULL, '{');
        put_entry(j, engine, tokens[i].id, tokens[i].logprob);
        run_json_open(j, "top_logprobs", '[');
        for (size_t k = 0; k < tokens[i].n_top; k++) {
            run_json_open(j, NULL, '{');
            put_entry(j, engine, tokens[i].top[k].id, tokens[i].top[k].logprob);
            run_json_close(j, '}');
        }
        run_json_close(j, ']');
        run_json_close(j, '}');
    }
    run_json_close(j, ']');
    run_json_null(j, "refusal");
    run_json_close(j, '}');
}

/* ---- texts ---- */

static size_t characters(const char *text, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    return n;
}

/* Whether another one before has the same text. */
static bool collides(char *const *texts, const size_t *bytes, size_t k) {
    bool same = false;
    for (size_t i = 0; i < k && !same; i++) {
        same = bytes[i] == bytes[k] && memcmp(texts[i], texts[k], bytes[k]) == 0;
    }
    return same;
}

/* The keys are texts of strangers, which run_json takes as values only: so they are written by
 * hand. */
static void put_top(struct run_json *j, const struct corm_engine *engine,
                    const struct logprob_token *t) {
    char **texts = mem_calloc(t->n_top, sizeof *texts);
    size_t *bytes = mem_calloc(t->n_top, sizeof *bytes);
    run_json_open(j, NULL, '{');
    for (size_t k = 0; k < t->n_top; k++) {
        struct run_json key = {0};
        texts[k] = text_of(engine, t->top[k].id, false, &bytes[k]);
        if (collides(texts, bytes, k)) {
            struct buf name = {0};
            buf_append(&name, texts[k], bytes[k]);
            buf_printf(&name, " (token %" PRId32 ")", t->top[k].id);
            run_json_text(&key, NULL, name.data, name.len);
            buf_free(&name);
        } else {
            run_json_text(&key, NULL, texts[k], bytes[k]);
        }
        run_json_member(j, key.text.data, told(t->top[k].logprob));
        buf_free(&key.text);
    }
    run_json_close(j, '}');
    for (size_t k = 0; k < t->n_top; k++) {
        free(texts[k]);
    }
    free(texts);
    free(bytes);
}

void logprobs_text(struct run_json *j, const struct corm_engine *engine,
                   const struct logprob_token *tokens, size_t n, size_t *offset) {
    size_t *offsets = mem_calloc(n, sizeof *offsets);
    run_json_open(j, "logprobs", '{');
    run_json_open(j, "tokens", '[');
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        char *text = text_of(engine, tokens[i].id, false, &bytes);
        run_json_text(j, NULL, text, bytes);
        free(text);
        offsets[i] = *offset;
        text = text_of(engine, tokens[i].id, true, &bytes); /* special tokens are not in the text */
        *offset += characters(text, bytes);
        free(text);
    }
    run_json_close(j, ']');
    run_json_open(j, "token_logprobs", '[');
    for (size_t i = 0; i < n; i++) {
        run_json_f64(j, NULL, isnan(tokens[i].logprob) ? NAN : told(tokens[i].logprob));
    }
    run_json_close(j, ']');
    run_json_open(j, "top_logprobs", '[');
    for (size_t i = 0; i < n; i++) {
        if (isnan(tokens[i].logprob)) {
            run_json_null(j, NULL);
        } else {
            put_top(j, engine, &tokens[i]);
        }
    }
    run_json_close(j, ']');
    run_json_open(j, "text_offset", '[');
    for (size_t i = 0; i < n; i++) {
        run_json_u64(j, NULL, offsets[i]);
    }
    run_json_close(j, ']');
    run_json_close(j, '}');
    free(offsets);
}
