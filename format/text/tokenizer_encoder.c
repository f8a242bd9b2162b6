/*
 * Encoding a text in pieces; see the header. What has come and is not encoded yet waits as valid
 * UTF-8; as soon as it is longer than a piece, and as far behind it as a safe place may need
 * (cutter_reach), it is cut and its front encoded. One encoder belongs to one thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

enum {
    PUSH_BYTES = 64 << 10, /* of what is pushed, taken at a time */
    STRETCH_MAX_BYTES = 64 << 20,
    /* What a stretch takes for each of its bytes, rewritten texts included, and what is merged;
     * each may take half of what encoding may. */
    STRETCH_COST = 12,
    MERGE_COST = 48,
    HONEST_BYTES = 24 << 20 /* enough for what lies between two places of an honest text */
};

struct token_encoder {
    struct encoder enc;
    struct tok_cutter *cutter; /* NULL until a text is long */
    struct buf waiting;        /* valid UTF-8 that is not encoded yet */
    size_t searched;           /* before it no place of `waiting` is safe */
    size_t stretch_max_bytes;
    char part[4]; /* the bytes of a character whose end has not come */
    size_t part_bytes;
    bool begun;    /* something of the text has been encoded */
    bool too_long; /* what waited was longer than may be encoded at once */
};

struct token_encoder *token_encoder_new(const struct tokenizer *tok, unsigned flags,
                                        uint64_t memory_bytes) {
    struct token_encoder *e = mem_calloc(1, sizeof *e);
    encoder_init(&e->enc, tok, flags, NULL, NULL);
    budget_encode(&e->enc.budget, tok);
    e->stretch_max_bytes = STRETCH_MAX_BYTES;
    if (memory_bytes) {
        uint64_t half =
            (memory_bytes > TOKEN_ENCODER_BYTES ? memory_bytes : TOKEN_ENCODER_BYTES) / 2;
        uint64_t stretch = half / STRETCH_COST, merge = half / MERGE_COST;
        e->stretch_max_bytes = stretch < STRETCH_MAX_BYTES ? (size_t)stretch : STRETCH_MAX_BYTES;
        e->enc.merge_max_bytes = merge < TOK_MERGE_MAX_BYTES ? (size_t)merge : TOK_MERGE_MAX_BYTES;
    }
    return e;
}

void token_encoder_free(struct token_encoder *e) {
    if (e) {
        encoder_free(&e->enc);
        cutter_free(e->cutter);
        buf_free(&e->waiting);
        free(e);
    }
}

uint64_t token_encoder_bytes(const struct tokenizer *tok, uint64_t text_bytes) {
    uint64_t n = text_bytes < STRETCH_MAX_BYTES ? text_bytes : STRETCH_MAX_BYTES, bytes;
    struct tok_cutter *k = cutter_new(tok);
    struct encoder enc;
    encoder_init(&enc, tok, 0, NULL, NULL);
    if (cutter_cuts(k, &enc)) {
        bytes = 2 * MERGE_COST * n < HONEST_BYTES ? 2 * MERGE_COST * n : HONEST_BYTES;
    } else {
        bytes = 2 * STRETCH_COST * n;
    }
    cutter_free(k);
    encoder_free(&enc);
    return bytes > TOKEN_ENCODER_BYTES ? bytes : TOKEN_ENCODER_BYTES;
}

uint64_t token_encoder_wants(const struct token_encoder *e, uint64_t text_bytes) {
    if (e->enc.merge_wanted_bytes) {
        return e->enc.merge_wanted_bytes <= TOK_MERGE_MAX_BYTES
                   ? 2 * (uint64_t)MERGE_COST * e->enc.merge_wanted_bytes
                   : 0;
    }
    uint64_t n = text_bytes < STRETCH_MAX_BYTES ? text_bytes : STRETCH_MAX_BYTES;
    uint64_t merge =
        n < TOK_MERGE_MAX_BYTES ? n : TOK_MERGE_MAX_BYTES; /* it may all be one piece */
    uint64_t wants = STRETCH_COST * n > MERGE_COST * merge ? STRETCH_COST * n : MERGE_COST * merge;
    return e->too_long && n > e->stretch_max_bytes ? 2 * wants : 0;
}

/* Encode the first `bytes` of what waits. `last`: there the text ends. */
static int encode_waiting(struct token_encoder *e, size_t bytes, bool last) {
    struct encoder *enc = &e->enc;
    const struct tokenizer *tok = enc->tok;
    const char *text = e->waiting.len ? e->waiting.data : "";
    uint32_t cp;
    if (!e->begun && (enc->flags & TOKENIZER_ADD_SPECIAL)) {
        for (uint32_t i = 0; i < tok->n_prefix; i++) {
            token_list_add(enc->out, tok->prefix[i]);
        }
    }
    enc->cut_front = e->begun ? text : NULL;
    enc->cut_behind = last ? NULL : text + bytes;
    size_t front = bytes && !e->begun ? text_get(text, &cp) : 0;
    e->begun = true;
    if (encode_piece(enc, text, bytes, front) < 0) {
        return -1;
    }
    if (bytes) {
        e->waiting.len -= bytes;
        memmove(e->waiting.data, e->waiting.data + bytes, e->waiting.len);
    }
    e->searched = 0;
    return 0;
}

/* Encode what waits, up to the last safe places that pieces end at. */
static int encode_pieces(struct token_encoder *e) {
    struct encoder *enc = &e->enc;
    const size_t piece = enc->tok->piece_bytes;
    while (e->waiting.len > piece) {
        e->cutter = e->cutter ? e->cutter : cutter_new(enc->tok);
        const size_t reach = cutter_reach(e->cutter), len = e->waiting.len;
        size_t from = e->searched > piece ? e->searched : piece, to = len > reach ? len - reach : 0;
        int64_t at = cutter_find(e->cutter, enc, e->waiting.data, len, from, to);
        if (at < 0 || (at > 0 && encode_waiting(e, (size_t)at, false) < 0)) {
            return -1;
        }
        if (at == 0) {
            e->searched = to > from ? to : from;
            break;
        }
    }
    if (e->waiting.len > e->stretch_max_bytes && e->waiting.len > piece) {
        e->too_long = true;
        return err_set(enc->err,
                       "more than %zu KiB of text without a place where it can certainly be cut in "
                       "two; at most that much is encoded at once",
                       e->stretch_max_bytes >> 10);
    }
    return 0;
}

/* The bytes at the text's end, fewer than 4, of a character that more bytes can complete. */
static size_t unfinished(const char *text, size_t bytes) {
    for (size_t n = 1; n < 4 && n <= bytes; n++) {
        const uint8_t *p = (const uint8_t *)text + bytes - n;
        size_t bad;
        bool cut;
        if ((*p & 0xc0) != 0x80) {
            return text_char_bytes(p, n, &bad, &cut) == 0 && cut && bad == n ? n : 0;
        }
    }
    return 0;
}

int token_encoder_push(struct token_encoder *e, const char *text, size_t bytes,
                       struct token_list *out, struct err *err) {
    e->enc.out = out;
    e->enc.err = err;
    while (bytes) {
        size_t n = bytes < PUSH_BYTES ? bytes : PUSH_BYTES;
        budget_more(&e->enc.budget, n);
        struct buf joined = {0};
        const char *taken = text;
        size_t taken_bytes = n;
        if (e->part_bytes) {
            buf_append(&joined, e->part, e->part_bytes);
            buf_append(&joined, text, n);
            taken = joined.data;
            taken_bytes = joined.len;
        }
        e->part_bytes = unfinished(taken, taken_bytes);
        memcpy(e->part, taken + taken_bytes - e->part_bytes, e->part_bytes);
        text_sanitize(taken, taken_bytes - e->part_bytes, &e->waiting);
        buf_free(&joined);
        text += n;
        bytes -= n;
        if (encode_pieces(e) < 0) {
            return -1;
        }
    }
    return 0;
}

int token_encoder_finish(struct token_encoder *e, struct token_list *out, struct err *err) {
    const struct tokenizer *tok = e->enc.tok;
    e->enc.out = out;
    e->enc.err = err;
    text_sanitize(e->part, e->part_bytes, &e->waiting);
    e->part_bytes = 0;
    if (encode_waiting(e, e->waiting.len, true) < 0) {
        return -1;
    }
    for (uint32_t i = 0; i < tok->n_suffix && (e->enc.flags & TOKENIZER_ADD_SPECIAL); i++) {
        token_list_add(out, tok->suffix[i]);
    }
    e->begun = false;
    budget_encode(&e->enc.budget, tok);
    return 0;
}

int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                     struct token_list *out, struct err *err) {
    if (bytes > TOK_TEXT_MAX_BYTES) {
        return err_set(err, "a text of %zu bytes to tokenize; at most %d at a time", bytes,
                       TOK_TEXT_MAX_BYTES);
    }
    struct token_encoder *e = token_encoder_new(tok, flags, 0);
    int rc = token_encoder_push(e, text, bytes, out, err);
    rc = rc < 0 ? rc : token_encoder_finish(e, out, err);
    token_encoder_free(e);
    return rc;
}
