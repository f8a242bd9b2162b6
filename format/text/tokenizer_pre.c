/*
 * Normalizers (text -> text) and pre-tokenizers (piece -> pieces), depth first: each piece runs
 * through the rest of the chain before the next is cut, so memory does not grow with the number of
 * pieces. State is in the encoder: any thread.
 */
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

static int run_piece(struct encoder *enc, uint32_t step, const char *text, size_t bytes,
                     size_t front);

/* ---- cutting --------------------------------------------------------------------------------- */

/* Stretches of a text, alternately matching and not, become pieces as `behavior` says. A merged
 * piece waits in [begin, end) until it is known to be complete. */
struct cutter {
    struct encoder *enc;
    uint32_t next_step;
    enum tok_behavior behavior;
    bool invert;
    size_t front; /* bytes of `text` that count as the beginning of the whole text */
    const char *text;
    size_t begin, end;
    bool waiting, last_match;
};

static int cut_piece(struct cutter *c, size_t begin, size_t end) {
    if (begin == end) {
        return 0;
    }
    return run_piece(c->enc, c->next_step, c->text + begin, end - begin,
                     front_within(c->front, begin, end));
}

static int cut_finish(struct cutter *c) {
    bool waiting = c->waiting;
    c->waiting = false;
    return waiting ? cut_piece(c, c->begin, c->end) : 0;
}

static int cut_stretch(struct cutter *c, size_t begin, size_t end, bool match) {
    match ^= c->invert;
    bool join = false, last_match = c->last_match;
    c->last_match = match;
    switch (c->behavior) {
    case TOK_REMOVED:
        return match ? 0 : cut_piece(c, begin, end);
    case TOK_CONTIGUOUS:
        join = match == last_match;
        break;
    case TOK_MERGED_PREVIOUS:
        join = match && !last_match;
        break;
    case TOK_MERGED_NEXT:
        if (c->waiting && last_match && !match) {
            c->waiting = false;
            return cut_piece(c, c->begin, end);
        }
        break;
    default:
        return cut_piece(c, begin, end);
    }
    if (c->waiting && join) {
        c->end = end;
        return 0;
    }
    int rc = cut_finish(c);
    c->begin = begin;
    c->end = end;
    c->waiting = true;
    return rc;
}

/* Cut at the step's pattern: a regular expression or literal text. */
static int cut_by_pattern(struct cutter *c, uint32_t step, size_t bytes) {
    const struct tokenizer *tok = c->enc->tok;
    size_t done = 0, start = 0, end = 0;
    if (tok->regexes[step]) {
        struct regex_iter it;
        regex_start(&it, tok->regexes[step], c->text, bytes, &c->enc->budget.steps);
        int more;
        while ((more = regex_next(&it, c->enc->regex, &start, &end, c->enc->err)) > 0) {
            if ((start > done && cut_stretch(c, done, start, false) < 0) ||
                cut_stretch(c, start, end, true) < 0) {
                return -1;
            }
            done = end;
        }
        if (more < 0) {
            return tokenizer_step_error(tok, step, c->enc->err);
        }
    } else {
        const char *want = tokenizer_span(tok, tok->steps[step].pattern), *hit;
        size_t len = tok->steps[step].pattern.bytes;
        while ((hit = memmem(c->text + done, bytes - done, want, len))) {
            start = (size_t)(hit - c->text);
            if ((start > done && cut_stretch(c, done, start, false) < 0) ||
                cut_stretch(c, start, start + len, true) < 0) {
                return -1;
            }
            done = start + len;
        }
    }
    if (done < bytes && cut_stretch(c, done, bytes, false) < 0) {
        return -1;
    }
    return cut_finish(c);
}

/* Cut at every character of a class. */
static int cut_by_class(struct cutter *c, bool (*in_class)(uint32_t), size_t bytes) {
    size_t done = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        size_t len = text_get(c->text + i, &cp);
        if (in_class(cp)) {
            if ((i > done && cut_stretch(c, done, i, false) < 0) ||
                cut_stretch(c, i, i + len, true) < 0) {
                return -1;
            }
            done = i + len;
        }
        i += len;
    }
    if (done < bytes && cut_stretch(c, done, bytes, false) < 0) {
        return -1;
    }
    return cut_finish(c);
}

/* Runs of word characters, and runs of what is neither word character nor white space. */
static int cut_words(struct cutter *c, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        size_t start = i;
        int kind = -1;
        while (i < bytes) {
            uint32_t cp;
            size_t len = text_get(c->text + i, &cp);
            int k = text_is_word(cp) ? 1 : text_is_space(cp) ? 0 : 2;
            if (kind >= 0 && k != kind) {
                break;
            }
            kind = k;
            i += len;
        }
        if (kind > 0 && cut_piece(c, start, i) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- pre-tokenizers -------------------------------------------------------------------------- */

/* The step that maps bytes to characters runs behind its own pattern; this index is where that
 * part of it is entered. */
#define BYTES_OF(step) ((step) | 0x80000000u)

static int run_bytes(struct encoder *enc, uint32_t step, const char *text, size_t bytes,
                     size_t front) {
    struct buf *out = &enc->step_text[step];
    if (budget_bytes(&enc->budget, step, 2 * (uint64_t)bytes, enc->err) < 0) {
        return -1;
    }
    out->len = 0;
    text_to_byte_alphabet(text, front, out);
    size_t out_front = out->len;
    text_to_byte_alphabet(text + front, bytes - front, out);
    return run_piece(enc, step + 1, out->data, out->len, out_front);
}

static int run_byte_level(struct encoder *enc, uint32_t step, const char *text, size_t bytes,
                          size_t front) {
    const struct tok_step *s = &enc->tok->steps[step];
    struct buf spaced = {0};
    int rc;
    if ((s->flags & TOK_STEP_PREFIX_SPACE) && text[0] != ' ') {
        if (budget_bytes(&enc->budget, step, bytes + 1, enc->err) < 0) {
            return -1;
        }
        buf_append(&spaced, " ", 1);
        buf_append(&spaced, text, bytes);
        text = spaced.data;
        bytes = spaced.len;
        front += front > 0;
    }
    if (s->flags & TOK_STEP_USE_REGEX) {
        struct cutter c = {.enc = enc,
                           .next_step = BYTES_OF(step),
                           .text = text,
                           .front = front,
                           .behavior = TOK_ISOLATED};
        rc = cut_by_pattern(&c, step, bytes);
    } else {
        rc = run_bytes(enc, step, text, bytes, front);
    }
    buf_free(&spaced);
    return rc;
}

static int run_metaspace(struct encoder *enc, uint32_t step, const char *text, size_t bytes,
                         size_t front) {
    const struct tokenizer *tok = enc->tok;
    const struct tok_step *s = &tok->steps[step];
    const char *mark = tokenizer_span(tok, s->content);
    size_t mark_bytes = s->content.bytes;
    struct buf *out = &enc->step_text[step];
    if (budget_bytes(&enc->budget, step, bytes + mark_bytes, enc->err) < 0) {
        return -1;
    }
    out->len = 0;
    bool marked = text[0] == ' ' || (bytes >= mark_bytes && memcmp(text, mark, mark_bytes) == 0);
    if (!marked && (s->a == TOK_SCHEME_ALWAYS || (s->a == TOK_SCHEME_FIRST && front > 0))) {
        buf_append(out, mark, mark_bytes);
    }
    size_t out_front = front ? out->len + front : 0;
    for (size_t i = 0; i < front; i++) {
        out_front += text[i] == ' ' ? mark_bytes - 1 : 0;
    }
    for (size_t i = 0; i < bytes;) {
        const char *space = memchr(text + i, ' ', bytes - i);
        size_t end = space ? (size_t)(space - text) : bytes;
        buf_append(out, text + i, end - i);
        if (space) {
            buf_append(out, mark, mark_bytes);
        }
        i = end + (space != NULL);
    }
    if (!(s->flags & TOK_STEP_SPLIT)) {
        return run_piece(enc, step + 1, out->data, out->len, out_front);
    }
    struct cutter c = {.enc = enc,
                       .next_step = step + 1,
                       .text = out->data,
                       .front = out_front,
                       .behavior = TOK_MERGED_NEXT};
    size_t done = 0;
    const char *hit;
    while ((hit = memmem(out->data + done, out->len - done, mark, mark_bytes))) {
        size_t start = (size_t)(hit - out->data);
        if ((start > done && cut_stretch(&c, done, start, false) < 0) ||
            cut_stretch(&c, start, start + mark_bytes, true) < 0) {
            return -1;
        }
        done = start + mark_bytes;
    }
    if (done < out->len && cut_stretch(&c, done, out->len, false) < 0) {
        return -1;
    }
    return cut_finish(&c);
}

/* Run a piece (never empty) through the chain from `step` on. */
static int run_piece(struct encoder *enc, uint32_t step, const char *text, size_t bytes,
                     size_t front) {
    const struct tokenizer *tok = enc->tok;
    if (step & BYTES_OF(0)) {
        return run_bytes(enc, step & ~BYTES_OF(0), text, bytes, front);
    }
    if (step && budget_steps(&enc->budget, step - 1, 1, enc->err) < 0) {
        return -1;
    }
    if (step == tok->header->n_normalizers + tok->header->n_pre_tokenizers) {
        return bpe_encode(enc, text, bytes);
    }
    const struct tok_step *s = &tok->steps[step];
    struct cutter c = {.enc = enc,
                       .next_step = step + 1,
                       .behavior = s->behavior,
                       .text = text,
                       .invert = s->flags & TOK_STEP_INVERT,
                       .front = front};
    switch (s->kind) {
    case TOK_PRE_SPLIT:
        return cut_by_pattern(&c, step, bytes);
    case TOK_PRE_BYTE_LEVEL:
        return run_byte_level(enc, step, text, bytes, front);
    case TOK_PRE_METASPACE:
        return run_metaspace(enc, step, text, bytes, front);
    case TOK_PRE_DIGITS:
        return cut_by_class(&c, text_is_numeric, bytes);
    case TOK_PRE_PUNCTUATION:
        return cut_by_class(&c, text_is_punctuation, bytes);
    case TOK_PRE_WHITESPACE:
        return cut_words(&c, bytes);
    case TOK_PRE_WHITESPACE_SPLIT:
        c.behavior = TOK_REMOVED;
        return cut_by_class(&c, text_is_space, bytes);
    default:
        return err_set(enc->err, "tokenizer step %u has kind %u", step, s->kind);
    }
}

int pre_encode(struct encoder *enc, const char *text, size_t bytes, size_t front) {
    return bytes ? run_piece(enc, enc->tok->header->n_normalizers, text, bytes, front) : 0;
}

/* ---- normalizers ----------------------------------------------------------------------------- */

int pre_replace(struct tok_budget *budget, uint32_t step, struct regex_scratch *scratch,
                const char *text, size_t bytes, struct buf *out, size_t *front, struct err *err) {
    const struct tokenizer *tok = budget->tok;
    const struct tok_step *s = &tok->steps[step];
    const char *content = tokenizer_span(tok, s->content), *want = tokenizer_span(tok, s->pattern);
    size_t done = 0, start = 0, end = 0;
    const size_t in_front = front ? *front : 0;
    size_t out_front = 0;
    bool open = in_front > 0; /* all of `out` until here is of the front */
    struct regex_iter it;
    if (tok->regexes[step]) {
        regex_start(&it, tok->regexes[step], text, bytes, &budget->steps);
    }
    while (bytes) {
        if (tok->regexes[step]) {
            int more = regex_next(&it, scratch, &start, &end, err);
            if (more < 0) {
                return tokenizer_step_error(tok, step, err);
            }
            if (more == 0) {
                break;
            }
        } else {
            const char *hit = memmem(text + done, bytes - done, want, s->pattern.bytes);
            if (!hit) {
                break;
            }
            start = (size_t)(hit - text);
            end = start + s->pattern.bytes;
        }
        if (budget_bytes(budget, step, start - done + s->content.bytes, err) < 0) {
            return -1;
        }
        if (open) {
            bool counts = end <= in_front;
            out_front += (start < in_front ? start : in_front) - done;
            out_front += counts ? s->content.bytes : 0;
            open = counts;
        }
        buf_append(out, text + done, start - done);
        buf_append(out, content, s->content.bytes);
        done = end;
    }
    if (budget_bytes(budget, step, bytes - done, err) < 0) {
        return -1;
    }
    buf_append(out, text + done, bytes - done);
    if (front) {
        *front = out_front + (open && in_front > done ? in_front - done : 0);
    }
    return 0;
}

static void strip(const struct encoder *enc, const struct tok_step *s, const char **text,
                  size_t *bytes, size_t *front) {
    uint32_t cp;
    size_t n;
    bool left = (s->flags & TOK_STEP_LEFT) && !enc->after_cut,
         right = (s->flags & TOK_STEP_RIGHT) && !enc->before_cut;
    while (left && *bytes && (n = text_get(*text, &cp), text_is_space(cp))) {
        *text += n;
        *bytes -= n;
        *front -= n < *front ? n : *front;
    }
    while (right && *bytes) {
        n = text_before(*text, *text + *bytes);
        text_get(*text + *bytes - n, &cp);
        if (!text_is_space(cp)) {
            break;
        }
        *bytes -= n;
    }
}

/* A composed character counts as the first of what it is made of, so the front is as many
 * characters as it makes alone. */
static void normal_form(enum text_form form, const char *text, size_t bytes, size_t *front,
                        struct buf *out) {
    text_normalize(form, text, *front, out);
    size_t chars = 0, end = 0;
    for (size_t i = 0; i < out->len; i++) {
        chars += ((uint8_t)out->data[i] & 0xc0) != 0x80;
    }
    out->len = 0;
    text_normalize(form, text, bytes, out);
    for (; chars && end < out->len; chars--) {
        uint32_t cp;
        end += text_get(out->data + end, &cp);
    }
    *front = end;
}

int pre_normalize(struct encoder *enc, const char **text, size_t *bytes, size_t *front) {
    const struct tokenizer *tok = enc->tok;
    for (uint32_t i = 0; i < tok->header->n_normalizers; i++) {
        const struct tok_step *s = &tok->steps[i];
        struct buf *out = &enc->normal[*text == enc->normal[0].data];
        size_t lowered;
        out->len = 0;
        switch (s->kind) {
        case TOK_NORM_NFC:
            normal_form(TEXT_NFC, *text, *bytes, front, out);
            break;
        case TOK_NORM_NFD:
            normal_form(TEXT_NFD, *text, *bytes, front, out);
            break;
        case TOK_NORM_NFKC:
            normal_form(TEXT_NFKC, *text, *bytes, front, out);
            break;
        case TOK_NORM_NFKD:
            normal_form(TEXT_NFKD, *text, *bytes, front, out);
            break;
        case TOK_NORM_LOWERCASE:
            text_lowercase(*text, *front, out);
            lowered = out->len;
            text_lowercase(*text + *front, *bytes - *front, out);
            *front = lowered;
            break;
        case TOK_NORM_REPLACE:
            if (pre_replace(&enc->budget, i, enc->regex, *text, *bytes, out, front, enc->err) < 0) {
                return -1;
            }
            break;
        case TOK_NORM_PREPEND:
            if (*bytes && !enc->after_cut) {
                buf_append(out, tokenizer_span(tok, s->content), s->content.bytes);
                *front += *front ? s->content.bytes : 0;
            }
            buf_append(out, *text, *bytes);
            break;
        case TOK_NORM_STRIP: {
            const char *t = *text;
            size_t n = *bytes;
            strip(enc, s, &t, &n, front);
            buf_append(out, t, n);
            break;
        }
        default:
            return err_set(enc->err, "tokenizer step %u has kind %u", i, s->kind);
        }
        if (s->kind != TOK_NORM_REPLACE && budget_bytes(&enc->budget, i, out->len, enc->err) < 0) {
            return -1;
        }
        *text = out->len ? out->data : "";
        *bytes = out->len;
    }
    return *bytes <= TOK_TEXT_MAX_BYTES ? 0 : err_set(enc->err, "normalized text above 1 GiB");
}
