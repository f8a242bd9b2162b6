/* The added tokens, and the public face of the tokenizer; see the header. */
#include "format/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

_Static_assert(TOKEN_NONE == TOK_NONE, "one value for no token");

void token_list_add(struct token_list *list, uint32_t id) {
    list->ids = mem_grow(list->ids, list->n + 1, &list->cap, sizeof *list->ids);
    list->ids[list->n++] = id;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

/* ---- looking things up ----------------------------------------------------------------------- */

uint32_t tokenizer_vocab_find(const struct tokenizer *tok, const char *text, size_t bytes) {
    for (uint64_t slot = hash64(text, bytes);; slot++) {
        uint32_t id = tok->vocab[slot & tok->vocab_mask];
        if (id == TOK_NONE || (tok->spans[id].bytes == bytes &&
                               memcmp(tokenizer_span(tok, tok->spans[id]), text, bytes) == 0)) {
            return id;
        }
    }
}

const struct tok_added *tokenizer_added_find(const struct tokenizer *tok, uint32_t id) {
    uint32_t low = 0, high = tok->n_added;
    while (low + 1 < high) {
        uint32_t middle = low + (high - low) / 2;
        if (tok->added[middle].id <= id) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &tok->added[low];
}

uint32_t tokenizer_vocab_size(const struct tokenizer *tok) {
    return tok->n_tokens;
}

const char *tokenizer_piece(const struct tokenizer *tok, uint32_t id, size_t *bytes) {
    *bytes = 0;
    if (id >= tok->n_tokens || !(tok->flags[id] & (TOK_TOKEN_MODEL | TOK_TOKEN_ADDED))) {
        return NULL;
    }
    *bytes = tok->spans[id].bytes;
    return tokenizer_span(tok, tok->spans[id]);
}

uint32_t tokenizer_find(const struct tokenizer *tok, const char *piece, size_t bytes) {
    for (uint32_t i = 0; i < tok->n_added; i++) {
        struct tok_span s = tok->spans[tok->added[i].id];
        if (s.bytes == bytes && memcmp(tokenizer_span(tok, s), piece, bytes) == 0) {
            return tok->added[i].id;
        }
    }
    return tokenizer_vocab_find(tok, piece, bytes);
}

uint32_t tokenizer_bos(const struct tokenizer *tok) {
    return tok->header->bos_id;
}

uint32_t tokenizer_eos(const struct tokenizer *tok) {
    return tok->header->eos_id;
}

bool tokenizer_adds_bos(const struct tokenizer *tok) {
    return tok->n_prefix > 0;
}

const char *tokenizer_doubled(const struct tokenizer *tok, const uint32_t *ids, size_t n,
                              size_t *bytes) {
    const size_t begin = tok->n_prefix, end = tok->n_suffix;
    if (begin + end < n && begin > 0 && ids[begin - 1] == ids[begin]) {
        return tokenizer_piece(tok, ids[begin], bytes);
    }
    if (begin + end < n && end > 0 && ids[n - end] == ids[n - end - 1]) {
        return tokenizer_piece(tok, ids[n - end], bytes);
    }
    return NULL;
}

bool tokenizer_is_special(const struct tokenizer *tok, uint32_t id) {
    return id < tok->n_tokens && (tok->flags[id] & TOK_TOKEN_SKIP);
}

uint32_t tokenizer_added(const struct tokenizer *tok, uint32_t i, bool *special) {
    if (i >= tok->n_added) {
        return TOKEN_NONE;
    }
    if (special) {
        *special = tok->added[i].flags & TOK_ADDED_SPECIAL;
    }
    return tok->added[i].id;
}

const char *tokenizer_chat_template(const struct tokenizer *tok, size_t *bytes) {
    *bytes = tok->chat_template_bytes;
    return *bytes ? tok->chat_template : NULL;
}

/* ---- encoding -------------------------------------------------------------------------------- */

void encoder_init(struct encoder *enc, const struct tokenizer *tok, unsigned flags,
                  struct token_list *out, struct err *err) {
    *enc = (struct encoder){
        .tok = tok, .flags = flags, .merge_max_bytes = TOK_MERGE_MAX_BYTES, .out = out, .err = err};
    enc->regex = regex_scratch_new();
}

void encoder_free(struct encoder *enc) {
    regex_scratch_free(enc->regex);
    bpe_scratch_free(&enc->bpe);
    buf_free(&enc->normal[0]);
    buf_free(&enc->normal[1]);
    for (int i = 0; i < TOK_MAX_STEPS; i++) {
        buf_free(&enc->step_text[i]);
    }
}

/* The candidates are a sorted range, which each further byte narrows. */
const struct tok_added *match_here(const struct tokenizer *tok, const struct matcher *m,
                                   const char *text, size_t bytes, size_t *looked) {
    uint32_t low = m->first[(uint8_t)text[0]], high = m->first[(uint8_t)text[0] + 1];
    const struct tok_added *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        const struct tok_added *a = &tok->added[m->order[low]];
        *looked = depth;
        if (a->match.bytes == depth) { /* the shortest of the range comes first */
            best = a;
            low++;
        }
        if (depth == bytes) {
            break;
        }
        /* [low, high) := those whose byte at `depth` is the text's */
        uint8_t want = (uint8_t)text[depth];
        for (int side = 0; side < 2; side++) {
            uint32_t from = low, to = high;
            while (from < to) {
                uint32_t middle = from + (to - from) / 2;
                uint8_t c = (uint8_t)tokenizer_span(tok, tok->added[m->order[middle]].match)[depth];
                if (side == 0 ? c < want : c <= want) {
                    from = middle + 1;
                } else {
                    to = middle;
                }
            }
            if (side == 0) {
                low = from;
            } else {
                high = from;
            }
        }
    }
    return best;
}

static bool touches_word(const char *text, size_t bytes, size_t start, size_t end) {
    uint32_t cp;
    if (start > 0) {
        text_get(text + start - text_before(text, text + start), &cp);
        if (text_is_word(cp)) {
            return true;
        }
    }
    if (end < bytes) {
        text_get(text + end, &cp);
        return text_is_word(cp);
    }
    return false;
}

/* The start of the white space that ends at `end`, but not before `from`. */
static size_t space_before(const char *text, size_t from, size_t end) {
    while (end > from) {
        uint32_t cp;
        size_t n = text_before(text + from, text + end);
        text_get(text + end - n, &cp);
        if (!text_is_space(cp)) {
            break;
        }
        end -= n;
    }
    return end;
}

static size_t space_behind(const char *text, size_t bytes, size_t from) {
    while (from < bytes) {
        uint32_t cp;
        size_t n = text_get(text + from, &cp);
        if (!text_is_space(cp)) {
            break;
        }
        from += n;
    }
    return from;
}

typedef int (*stretch_fn)(struct encoder *enc, const char *text, size_t bytes, size_t front);

/* Hand on text[begin, end), where there is some. */
static int encode_stretch(struct encoder *enc, const char *text, size_t begin, size_t end,
                          size_t front, stretch_fn rest) {
    return begin < end ? rest(enc, text + begin, end - begin, front_within(front, begin, end)) : 0;
}

/*
 * Find the added tokens of one matcher, leftmost then longest, write their ids, and hand the
 * stretches between them to `rest`. A token that does not count here (special and not to be parsed,
 * or not a single word) still uses up its characters for the search, but stays in its stretch.
 */
static int split_added(struct encoder *enc, const struct matcher *m, const char *text, size_t bytes,
                       size_t front, stretch_fn rest) {
    const struct tokenizer *tok = enc->tok;
    size_t done = 0; /* text before it is encoded */
    bool plain = enc->flags & TOKENIZER_PLAIN;
    for (size_t i = 0; m->n && !plain && i < bytes;) {
        if (m->first[(uint8_t)text[i]] == m->first[(uint8_t)text[i] + 1]) {
            i++;
            continue;
        }
        size_t looked = 0;
        const struct tok_added *a = match_here(tok, m, text + i, bytes - i, &looked);
        if (budget_look(&enc->budget, looked, enc->err) < 0) {
            return -1;
        }
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, end = i + a->match.bytes;
        i = end;
        if (((a->flags & TOK_ADDED_SPECIAL) && !(enc->flags & TOKENIZER_PARSE_SPECIAL)) ||
            ((a->flags & TOK_ADDED_SINGLE_WORD) && touches_word(text, bytes, start, end))) {
            continue;
        }
        if (a->flags & TOK_ADDED_LSTRIP) {
            start = start > done ? space_before(text, done, start) : done;
        }
        if (a->flags & TOK_ADDED_RSTRIP) {
            end = space_behind(text, bytes, end);
            if (budget_look(&enc->budget, end - i, enc->err) < 0) {
                return -1;
            }
        }
        if (encode_stretch(enc, text, done, start, front, rest) < 0) {
            return -1;
        }
        /* Where the token before has taken all of it, nothing is left to stand for. */
        if (start < end) {
            token_list_add(enc->out, a->id);
            done = end;
        }
    }
    return encode_stretch(enc, text, done, bytes, front, rest);
}

static int encode_raw_stretch(struct encoder *enc, const char *text, size_t bytes, size_t front) {
    uint32_t cp;
    enc->after_cut = text == enc->cut_front;
    enc->before_cut = text + bytes == enc->cut_behind;
    if (pre_normalize(enc, &text, &bytes, &front) < 0) {
        return -1;
    }
    if ((enc->flags & TOKENIZER_PLAIN) && !enc->after_cut) {
        front = bytes ? text_get(text, &cp) : 0;
    }
    return split_added(enc, &enc->tok->normalized, text, bytes, front, pre_encode);
}

int encode_piece(struct encoder *enc, const char *text, size_t bytes, size_t front) {
    return split_added(enc, &enc->tok->raw, text, bytes, front, encode_raw_stretch);
}

int tokenizer_normalize(const struct tokenizer *tok, const char *text, size_t bytes,
                        struct buf *out, struct err *err) {
    struct encoder enc;
    size_t front = 0;
    if (bytes > TOK_TEXT_MAX_BYTES || text_valid(text, bytes) < bytes) {
        return err_set(err, "text to normalize is no UTF-8, or above 1 GiB");
    }
    encoder_init(&enc, tok, 0, NULL, err);
    budget_encode(&enc.budget, tok);
    budget_more(&enc.budget, bytes);
    int rc = pre_normalize(&enc, &text, &bytes, &front);
    if (rc == 0) {
        buf_append(out, text, bytes);
    }
    encoder_free(&enc);
    return rc;
}
