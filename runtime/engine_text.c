/*
 * engine_text: text to ids and back, within the memory that the plan has for it.
 *
 * Owns: the public encoder and what it may take. Leaves to others: the tokenizer (format/text);
 * ids to text as it streams (session).
 * Threads: an encoder belongs to one thread.
 */
#include "runtime/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_TEXT_BYTES = 64 << 10 }; /* encoding these is part of the plan's allowance */

struct corm_encoder {
    const struct corm_engine *engine;
    struct token_encoder *tokens;
    struct token_list ids; /* of the last push */
};

uint64_t engine_text_bytes(const struct corm_engine *e) {
    return e->opt.text_bytes > SHORT_TEXT_BYTES
               ? token_encoder_bytes(e->tokenizer, e->opt.text_bytes)
               : 0;
}

uint64_t engine_encoder_bytes(const struct corm_engine *e) {
    const struct corm_memory_plan *p = &e->plan;
    uint64_t planned = p->text_bytes, left = 0;
    if (p->host_bytes == 0 && p->budget_bytes > p->total_bytes) {
        left = p->budget_bytes - p->total_bytes;
    }
    return (planned > TOKEN_ENCODER_BYTES ? planned : TOKEN_ENCODER_BYTES) + left;
}

int corm_encoder_open(struct corm_encoder **encoder, const struct corm_engine *engine,
                      bool add_special, bool parse_special, struct corm_error *error) {
    (void)error;
    unsigned flags =
        (add_special ? TOKENIZER_ADD_SPECIAL : 0) | (parse_special ? TOKENIZER_PARSE_SPECIAL : 0);
    *encoder = mem_calloc(1, sizeof **encoder);
    (*encoder)->engine = engine;
    (*encoder)->tokens = token_encoder_new(engine->tokenizer, flags, engine_encoder_bytes(engine));
    return 0;
}

/* Where more memory would have been enough: the budget that leaves so much, with all experts in
 * memory, because a cache takes all that a smaller one leaves. */
static void add_budget(const struct corm_encoder *c, struct err *err) {
    const struct corm_engine *e = c->engine;
    const struct corm_memory_plan *p = &e->plan;
    uint64_t wants = token_encoder_wants(c->tokens, e->opt.text_bytes);
    uint64_t fixed = p->total_bytes - p->cache_bytes + p->cache_need_bytes;
    if (wants > 0 && p->host_bytes == 0) {
        size_t n = strlen(err->msg);
        snprintf(err->msg + n, sizeof err->msg - n,
                 " within this memory budget; one of %llu MiB would do",
                 (unsigned long long)(((fixed + wants) >> 20) + 1));
    }
}

int corm_encoder_push(struct corm_encoder *encoder, const char *text, size_t text_bytes,
                      const int32_t **ids, size_t *n_ids, struct corm_error *error) {
    struct err err = {0};
    encoder->ids.n = 0;
    int rc = text ? token_encoder_push(encoder->tokens, text, text_bytes, &encoder->ids, &err)
                  : token_encoder_finish(encoder->tokens, &encoder->ids, &err);
    if (rc < 0) {
        add_budget(encoder, &err);
        err_prefix(&err, "%s", encoder->engine->archive.map.path);
        return engine_fail(error, &err);
    }
    /* Ids are below 2^24: as signed numbers they are the same. */
    *ids = (const int32_t *)encoder->ids.ids;
    *n_ids = encoder->ids.n;
    return 0;
}

void corm_encoder_close(struct corm_encoder *encoder) {
    if (encoder) {
        token_encoder_free(encoder->tokens);
        token_list_free(&encoder->ids);
        free(encoder);
    }
}

int corm_tokenize(const struct corm_engine *engine, const char *text, size_t text_bytes,
                  bool add_special, bool parse_special, int32_t **ids, size_t *n_ids,
                  struct corm_error *error) {
    struct corm_encoder *encoder;
    const int32_t *some;
    size_t n, cap = 0;
    int rc = corm_encoder_open(&encoder, engine, add_special, parse_special, error);
    *ids = mem_alloc(sizeof **ids);
    *n_ids = 0;
    for (int part = 0; rc == 0 && part < 2; part++) {
        rc = corm_encoder_push(encoder,
                               part > 0 ? NULL
                               : text   ? text
                                        : "",
                               text_bytes, &some, &n, error);
        if (rc == 0 && n > 0) {
            *ids = mem_grow(*ids, *n_ids + n, &cap, sizeof **ids);
            memcpy(*ids + *n_ids, some, n * sizeof *some);
            *n_ids += n;
        }
    }
    corm_encoder_close(encoder);
    if (rc < 0) {
        free(*ids);
    }
    return rc;
}

int corm_detokenize(const struct corm_engine *engine, const int32_t *ids, size_t n_ids,
                    bool skip_special, char **text, size_t *text_bytes, struct corm_error *error) {
    struct err err = {0};
    struct buf out = {0};
    buf_append(&out, "", 0);
    if (tokenizer_decode(engine->tokenizer, (const uint32_t *)ids, n_ids,
                         skip_special ? TOKENIZER_SKIP_SPECIAL : 0, &out, &err) < 0) {
        buf_free(&out);
        err_prefix(&err, "%s", engine->archive.map.path);
        return engine_fail(error, &err);
    }
    *text = out.data;
    *text_bytes = out.len;
    return 0;
}

bool corm_special_doubled(const struct corm_engine *engine, const int32_t *ids, size_t n_ids,
                          char token[64]) {
    size_t bytes = 0;
    /* Ids are no negative numbers: as unsigned ones they are the tokenizer's. */
    const char *piece = tokenizer_doubled(engine->tokenizer, (const uint32_t *)ids, n_ids, &bytes);
    snprintf(token, 64, "%.*s", piece ? (int)(bytes < 63 ? bytes : 63) : 0, piece ? piece : "");
    text_clean(token, strlen(token));
    return piece != NULL;
}
