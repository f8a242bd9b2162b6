/*
 * Ids -> text: a chain of decoder steps, each with a little state, through which tokens are pushed
 * one by one. The batch form is a stream that is finished at once, so the two agree by
 * construction.
 *
 * Until a step fuses (Fuse, ByteLevel), what is pushed is one token's text; behind it, whole
 * characters of one long text. Which steps may follow a fusing one is checked at open. A
 * token_stream belongs to one thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

struct step_state {
    struct buf text;   /* BYTE_LEVEL, BYTE_FALLBACK: bytes held back; others: scratch */
    uint64_t n_tokens; /* tokens seen (METASPACE, JOIN) */
    uint32_t stripped; /* STRIP of fused text: characters taken so far */
    bool strip_done;
};

struct token_stream {
    const struct tokenizer *tok; /* borrowed */
    unsigned flags;
    uint32_t first, n_steps;  /* the decoders among the tokenizer's steps */
    struct tok_budget budget; /* of the token that is pushed */
    struct regex_scratch *regex;
    struct buf *out; /* of the call that runs */
    struct err *err;
    struct step_state state[TOK_MAX_STEPS];
};

static int push(struct token_stream *s, uint32_t step, bool fused, const char *text, size_t bytes);

struct token_stream *token_stream_new(const struct tokenizer *tok, unsigned flags) {
    struct token_stream *s = mem_calloc(1, sizeof *s);
    s->tok = tok;
    s->flags = flags;
    s->first = tok->header->n_normalizers + tok->header->n_pre_tokenizers;
    s->n_steps = tok->header->n_decoders;
    s->regex = regex_scratch_new();
    return s;
}

void token_stream_free(struct token_stream *s) {
    if (!s) {
        return;
    }
    for (uint32_t i = 0; i < TOK_MAX_STEPS; i++) {
        buf_free(&s->state[i].text);
    }
    regex_scratch_free(s->regex);
    free(s);
}

/* The byte that a token <0xHH> stands for, -1 for other tokens. (A plus sign in front of one
 * digit counts, as it does in Rust's parser, which `tokenizers` calls.) */
static int byte_token(const char *t, size_t bytes) {
    static const char digits[] = "0123456789abcdef";
    if (bytes != 6 || memcmp(t, "<0x", 3) != 0 || t[5] != '>') {
        return -1;
    }
    int value = 0;
    for (int i = t[3] == '+' ? 4 : 3; i < 5; i++) {
        char lower = t[i] >= 'A' && t[i] <= 'F' ? (char)(t[i] + 32) : t[i];
        const char *hit = lower ? strchr(digits, lower) : NULL;
        if (!hit) {
            return -1;
        }
        value = value * 16 + (int)(hit - digits);
    }
    return value;
}

/* End a run of byte tokens: one token where it is UTF-8, else a U+FFFD for each byte. */
static int flush_fallback(struct token_stream *s, uint32_t step, bool fused) {
    struct step_state *st = &s->state[step];
    size_t n = st->text.len;
    if (n == 0) {
        return 0;
    }
    st->text.len = 0;
    if (text_valid(st->text.data, n) == n) {
        return push(s, step + 1, fused, st->text.data, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (push(s, step + 1, fused, TEXT_REPLACEMENT, 3) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Hand on the complete characters among the bytes held back; at the end all of them. */
static int flush_bytes(struct token_stream *s, uint32_t step, bool at_end) {
    struct buf *held = &s->state[step].text;
    size_t done = 0;
    int rc = 0;
    while (done < held->len && rc == 0) {
        size_t good = text_valid(held->data + done, held->len - done), bad = 0;
        bool cut = false;
        if (good) {
            rc = push(s, step + 1, true, held->data + done, good);
            done += good;
            continue;
        }
        text_char_bytes((const uint8_t *)held->data + done, held->len - done, &bad, &cut);
        if (cut && !at_end) {
            break;
        }
        rc = push(s, step + 1, true, TEXT_REPLACEMENT, 3);
        done += bad;
    }
    if (done) {
        memmove(held->data, held->data + done, held->len - done);
        held->len -= done;
    }
    return rc;
}

/* A token's characters as bytes; a token with any character outside the byte alphabet stays as
 * it is. */
static int push_byte_level(struct token_stream *s, uint32_t step, const char *text, size_t bytes) {
    struct buf *held = &s->state[step].text;
    size_t before = held->len;
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        i += text_get(text + i, &cp);
        int byte = text_from_byte_alphabet(cp);
        if (byte < 0) {
            held->len = before;
            buf_append(held, text, bytes);
            break;
        }
        char c = (char)byte;
        buf_append(held, &c, 1);
    }
    return flush_bytes(s, step, false);
}

static int push_metaspace(struct token_stream *s, uint32_t step, bool fused, const char *text,
                          size_t bytes) {
    const struct tok_step *t = &s->tok->steps[s->first + step];
    struct step_state *st = &s->state[step];
    const char *mark = tokenizer_span(s->tok, t->content), *hit;
    size_t mark_bytes = t->content.bytes, done = 0;
    bool drop = st->n_tokens++ == 0 && t->a != TOK_SCHEME_NEVER;
    st->text.len = 0;
    while ((hit = memmem(text + done, bytes - done, mark, mark_bytes))) {
        buf_append(&st->text, text + done, (size_t)(hit - text) - done);
        buf_append(&st->text, " ", !drop);
        done = (size_t)(hit - text) + mark_bytes;
    }
    buf_append(&st->text, text + done, bytes - done);
    return push(s, step + 1, fused, st->text.data, st->text.len);
}

static bool starts_with(const char *text, size_t bytes, const char *want, size_t want_bytes) {
    return bytes >= want_bytes && memcmp(text, want, want_bytes) == 0;
}

static int push_strip(struct token_stream *s, uint32_t step, bool fused, const char *text,
                      size_t bytes) {
    const struct tok_step *t = &s->tok->steps[s->first + step];
    struct step_state *st = &s->state[step];
    const char *c = tokenizer_span(s->tok, t->content);
    size_t n = t->content.bytes;
    if (!fused) {
        st->stripped = 0;
        st->strip_done = false;
    }
    while (!st->strip_done && st->stripped < t->a && bytes) {
        st->strip_done = !starts_with(text, bytes, c, n);
        if (!st->strip_done) {
            text += n;
            bytes -= n;
            st->stripped++;
        }
    }
    for (uint32_t i = 0; i < t->b && bytes >= n && memcmp(text + bytes - n, c, n) == 0; i++) {
        bytes -= n;
    }
    return push(s, step + 1, fused, text, bytes);
}

static int push(struct token_stream *s, uint32_t step, bool fused, const char *text, size_t bytes) {
    if (step && budget_steps(&s->budget, s->first + step - 1, 1, s->err) < 0) {
        return -1;
    }
    if (step == s->n_steps) {
        buf_append(s->out, text, bytes);
        return 0;
    }
    const struct tok_step *t = &s->tok->steps[s->first + step];
    struct step_state *st = &s->state[step];
    switch (t->kind) {
    case TOK_DEC_BYTE_LEVEL:
        return push_byte_level(s, step, text, bytes);
    case TOK_DEC_METASPACE:
        return push_metaspace(s, step, fused, text, bytes);
    case TOK_DEC_BYTE_FALLBACK: {
        int byte = byte_token(text, bytes);
        if (byte >= 0) {
            char c = (char)byte;
            buf_append(&st->text, &c, 1);
            return 0;
        }
        return flush_fallback(s, step, fused) < 0 ? -1 : push(s, step + 1, fused, text, bytes);
    }
    case TOK_DEC_FUSE:
        return push(s, step + 1, true, text, bytes);
    case TOK_DEC_STRIP:
        return push_strip(s, step, fused, text, bytes);
    case TOK_DEC_REPLACE:
        st->text.len = 0;
        if (pre_replace(&s->budget, s->first + step, s->regex, text, bytes, &st->text, NULL,
                        s->err) < 0) {
            return -1;
        }
        return push(s, step + 1, fused, st->text.data, st->text.len);
    case TOK_DEC_JOIN:
        if (budget_bytes(&s->budget, s->first + step, t->content.bytes, s->err) < 0) {
            return -1;
        }
        if (st->n_tokens++ &&
            push(s, step + 1, fused, tokenizer_span(s->tok, t->content), t->content.bytes) < 0) {
            return -1;
        }
        return push(s, step + 1, fused, text, bytes);
    default:
        return err_set(s->err, "tokenizer decoder %u has kind %u", step, t->kind);
    }
}

/* A budget for `bytes` of new text and for all that the steps hold back. */
static void start_budget(struct token_stream *s, size_t bytes) {
    for (uint32_t i = 0; i < s->n_steps; i++) {
        uint16_t kind = s->tok->steps[s->first + i].kind;
        bool holds = kind == TOK_DEC_BYTE_FALLBACK || kind == TOK_DEC_BYTE_LEVEL;
        bytes += holds ? s->state[i].text.len : 0;
    }
    budget_decode(&s->budget, s->tok, bytes);
}

static int push_token(struct token_stream *s, struct tok_span token) {
    start_budget(s, token.bytes);
    return push(s, 0, false, tokenizer_span(s->tok, token), token.bytes);
}

int token_stream_push(struct token_stream *s, uint32_t id, struct buf *out, struct err *err) {
    const struct tokenizer *tok = s->tok;
    s->out = out;
    s->err = err;
    if (id >= tok->n_tokens ||
        ((s->flags & TOKENIZER_SKIP_SPECIAL) && (tok->flags[id] & TOK_TOKEN_SKIP))) {
        return 0;
    }
    if (tok->flags[id] & TOK_TOKEN_ADDED) {
        return push_token(s, tokenizer_added_find(tok, id)->match);
    }
    return tok->flags[id] & TOK_TOKEN_MODEL ? push_token(s, tok->spans[id]) : 0;
}

int token_stream_finish(struct token_stream *s, struct buf *out, struct err *err) {
    int rc = 0;
    bool fused = false;
    s->out = out;
    s->err = err;
    start_budget(s, 0);
    for (uint32_t i = 0; i < s->n_steps && rc == 0; i++) {
        uint16_t kind = s->tok->steps[s->first + i].kind;
        if (kind == TOK_DEC_BYTE_FALLBACK) {
            rc = flush_fallback(s, i, fused);
        } else if (kind == TOK_DEC_BYTE_LEVEL) {
            rc = flush_bytes(s, i, true);
        }
        fused = fused || kind == TOK_DEC_FUSE || kind == TOK_DEC_BYTE_LEVEL;
    }
    for (uint32_t i = 0; i < s->n_steps; i++) {
        struct step_state *st = &s->state[i];
        st->text.len = 0;
        st->n_tokens = 0;
        st->stripped = 0;
        st->strip_done = false;
    }
    return rc;
}

int tokenizer_decode(const struct tokenizer *tok, const uint32_t *ids, size_t n, unsigned flags,
                     struct buf *out, struct err *err) {
    struct token_stream *s = token_stream_new(tok, flags);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = token_stream_push(s, ids[i], out, err);
    }
    rc = rc ? rc : token_stream_finish(s, out, err);
    token_stream_free(s);
    return rc;
}

/* ---- the bytes of one token ------------------------------------------------------------------ */

/* Take what one decoder step leaves of `text` in the middle of a text. */
static int raw_step(const struct tokenizer *tok, uint32_t step, struct tok_budget *budget,
                    struct regex_scratch *regex, bool fused, struct buf *text, struct buf *spare,
                    struct err *err) {
    const struct tok_step *t = &tok->steps[step];
    const char *content = tokenizer_span(tok, t->content), *p = text->data;
    size_t n = t->content.bytes, len = text->len, at = 0;
    spare->len = 0;
    switch (t->kind) {
    case TOK_DEC_BYTE_LEVEL:
        for (uint32_t cp; at < len;) {
            at += text_get(p + at, &cp);
            int byte = text_from_byte_alphabet(cp);
            if (byte < 0) {
                return 0;
            }
            buf_append(spare, &(char){(char)byte}, 1);
        }
        break;
    case TOK_DEC_METASPACE:
        for (const char *hit; (hit = memmem(p + at, len - at, content, n));) {
            buf_append(spare, p + at, (size_t)(hit - p) - at);
            buf_append(spare, " ", 1);
            at = (size_t)(hit - p) + n;
        }
        buf_append(spare, p + at, len - at);
        break;
    case TOK_DEC_BYTE_FALLBACK:
        if (byte_token(p, len) < 0) {
            return 0;
        }
        buf_append(spare, &(char){(char)byte_token(p, len)}, 1);
        break;
    case TOK_DEC_STRIP: /* of fused text it strips the ends of the whole */
        for (uint32_t i = 0; !fused && i < t->a && starts_with(p + at, len - at, content, n); i++) {
            at += n;
        }
        for (uint32_t i = 0; !fused && i < t->b && len - at >= n; i++) {
            len -= memcmp(p + len - n, content, n) == 0 ? n : 0;
        }
        buf_append(spare, p + at, len - at);
        break;
    case TOK_DEC_REPLACE:
        if (text_valid(p, len) < len) {
            return 0; /* a part of a character is no text yet */
        }
        if (pre_replace(budget, step, regex, p, len, spare, NULL, err) < 0) {
            return -1;
        }
        break;
    case TOK_DEC_JOIN:
        buf_append(spare, content, n);
        buf_append(spare, p, len);
        break;
    default:
        return 0;
    }
    struct buf taken = *text;
    *text = *spare;
    *spare = taken;
    return 0;
}

int tokenizer_raw(const struct tokenizer *tok, uint32_t id, struct buf *out, bool *added,
                  struct err *err) {
    *added = id < tok->n_tokens && (tok->flags[id] & TOK_TOKEN_ADDED);
    if (id >= tok->n_tokens || !(tok->flags[id] & (TOK_TOKEN_MODEL | TOK_TOKEN_ADDED))) {
        return 0;
    }
    struct tok_span span = *added ? tokenizer_added_find(tok, id)->match : tok->spans[id];
    if (*added) {
        buf_append(out, tokenizer_span(tok, span), span.bytes);
        return 0;
    }
    uint32_t first = tok->header->n_normalizers + tok->header->n_pre_tokenizers;
    struct buf text = {0}, spare = {0};
    struct tok_budget budget;
    struct regex_scratch *regex = regex_scratch_new();
    bool fused = false;
    int rc = 0;
    budget_decode(&budget, tok, span.bytes);
    buf_append(&text, tokenizer_span(tok, span), span.bytes);
    for (uint32_t i = 0; i < tok->header->n_decoders && rc == 0; i++) {
        rc = raw_step(tok, first + i, &budget, regex, fused, &text, &spare, err);
        fused = fused || tok->steps[first + i].kind == TOK_DEC_FUSE;
    }
    buf_append(out, text.data, rc ? 0 : text.len);
    regex_scratch_free(regex);
    buf_free(&text);
    buf_free(&spare);
    return rc;
}
