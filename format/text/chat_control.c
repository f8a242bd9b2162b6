/* Control tokens that somebody writes stay text; see chat.h. */
#include <stdlib.h>
#include <string.h>

#include "format/text/chat.h"
#include "format/text/template_internal.h"

/* VALUE_MARK_BEGIN and VALUE_MARK_END: the marks around a control token in what is said. */
static const char mark_begin[] = "\xf3\xb0\x80\x80", mark_end[] = "\xf3\xb0\x80\x81";
enum { MARK_BYTES = 4 };

/* ---- sets of tokens ------------------------------------------------------------------------- */

struct chat_token {
    const char *text; /* borrowed from the tokenizer */
    size_t bytes;
    uint32_t id;
};
struct chat_tokens {
    struct chat_token *items; /* by rising text */
    size_t n, cap;
    size_t first[257]; /* those that begin with byte b: [first[b], first[b + 1]) */
};

static int by_text(const void *a, const void *b) {
    const struct chat_token *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static void settle_tokens(struct chat_tokens *set) {
    size_t i = 0;
    if (set->n) {
        qsort(set->items, set->n, sizeof *set->items, by_text);
    }
    for (unsigned b = 0; b < 256; b++) {
        while (i < set->n && (uint8_t)set->items[i].text[0] < b) {
            i++;
        }
        set->first[b] = i;
    }
    set->first[256] = set->n;
}

/* Within [low, high), whose texts agree in the bytes before `depth`: the first whose byte there is
 * at least `byte` (a text that ends comes before). */
static size_t narrow(const struct chat_tokens *set, size_t low, size_t high, size_t depth,
                     unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct chat_token *t = &set->items[middle];
        if (t->bytes <= depth || (uint8_t)t->text[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest token that a text begins with, or NULL. */
static const struct chat_token *longest(const struct chat_tokens *set, const char *text,
                                        size_t bytes) {
    size_t low = set->first[(uint8_t)text[0]], high = set->first[(uint8_t)text[0] + 1];
    const struct chat_token *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low].bytes == depth) {
            best = &set->items[low];
        }
        if (depth == bytes) {
            break;
        }
        unsigned byte = (uint8_t)text[depth];
        low = narrow(set, low, high, depth, byte);
        high = narrow(set, low, high, depth, byte + 1);
    }
    return best;
}

/* ---- which tokens are control tokens --------------------------------------------------------- */

static bool is_white(const char *text, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n) {
        if (!template_is_space(value_utf8_get(text + i, &n))) {
            return false;
        }
    }
    return true;
}

/* Pairs of bytes that occur in a text, so that most tokens need not be searched for in it. */
struct pairs {
    uint64_t bits[1024];
};
static void note_pairs(struct pairs *p, const char *text, size_t bytes) {
    for (size_t i = 0; i + 1 < bytes; i++) {
        unsigned pair = (unsigned)(uint8_t)text[i] << 8 | (uint8_t)text[i + 1];
        p->bits[pair / 64] |= UINT64_C(1) << pair % 64;
    }
}
static bool may_hold(const struct pairs *p, const char *text, size_t bytes) {
    unsigned pair = bytes > 1 ? (unsigned)(uint8_t)text[0] << 8 | (uint8_t)text[1] : 0;
    return bytes < 2 || p->bits[pair / 64] >> pair % 64 & 1;
}

static bool is_listed(const struct chat_book *book, const char *text, size_t bytes) {
    for (size_t i = 0; i < book->n; i++) {
        const struct chat_entry *e = &book->entries[i];
        if (e->kind == CHAT_ENTRY_CONTROL && e->bytes == bytes && !memcmp(e->text, text, bytes)) {
            return true;
        }
    }
    return false;
}

/* Those of the tokenizer's added tokens that count, or all of them. */
static void collect_tokens(const struct tokenizer *tok, const struct chat_book *book,
                           const char *literals, size_t len, bool all, struct chat_tokens *set) {
    struct pairs *pairs = mem_calloc(1, sizeof *pairs);
    bool special, listed = false;
    uint32_t id;
    note_pairs(pairs, literals, len);
    for (size_t k = 0; book && k < book->n; k++) {
        listed |= book->entries[k].kind == CHAT_ENTRY_CONTROL;
    }
    for (uint32_t i = 0; (id = tokenizer_added(tok, i, &special)) != TOKEN_NONE; i++) {
        size_t bytes;
        const char *text = tokenizer_piece(tok, id, &bytes);
        bool counts = all || special;
        if (!text || !bytes) {
            continue;
        }
        if (!counts && listed) {
            counts = is_listed(book, text, bytes);
        } else if (!counts) {
            counts = may_hold(pairs, text, bytes) && memmem(literals, len, text, bytes) &&
                     !is_white(text, bytes);
        }
        if (counts) {
            set->items = mem_grow(set->items, set->n + 1, &set->cap, sizeof *set->items);
            set->items[set->n++] = (struct chat_token){text, bytes, id};
        }
    }
    settle_tokens(set);
    free(pairs);
}

/* ---- marking -------------------------------------------------------------------------------- */

static size_t mark_at(const char *text, size_t bytes) {
    return bytes >= MARK_BYTES &&
                   (!memcmp(text, mark_begin, MARK_BYTES) || !memcmp(text, mark_end, MARK_BYTES))
               ? MARK_BYTES
               : 0;
}

/* Leaves out all marks; returns the bytes that stay. */
static size_t drop_marks(char *text, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        if ((uint8_t)text[i] == 0xf3 && mark_at(text + i, bytes - i)) {
            i += MARK_BYTES;
        } else {
            text[n++] = text[i++];
        }
    }
    return n;
}

static int mark_text(struct value_arena *arena, const struct chat_tokens *set,
                     const struct value *v, struct value *out) {
    struct buf clean = {0}, marked = {0};
    buf_append(&clean, v->text->data, v->text->len);
    clean.len = drop_marks(clean.data, clean.len);
    for (size_t i = 0, done = 0; i <= clean.len;) {
        const struct chat_token *t =
            i < clean.len ? longest(set, clean.data + i, clean.len - i) : NULL;
        if (!t && i < clean.len) {
            i++;
            continue;
        }
        buf_append(&marked, clean.data + done, i - done);
        if (!t) {
            break;
        }
        buf_append(&marked, mark_begin, MARK_BYTES);
        buf_append(&marked, t->text, t->bytes);
        buf_append(&marked, mark_end, MARK_BYTES);
        done = i += t->bytes;
    }
    int rc = value_make_string(arena, marked.data, marked.len, out);
    buf_free(&clean);
    buf_free(&marked);
    return rc;
}

/* Whether a template may look for the key by its name: then it stays. */
static bool is_name(const struct value *key) {
    static const char of_names[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    return key->type != VALUE_STRING || strspn(key->text->data, of_names) == key->text->len;
}

static int mark_value(struct value_arena *arena, const struct chat_tokens *set,
                      const struct value *v, struct value *out) {
    struct value item;
    *out = *v;
    if (v->type == VALUE_STRING) {
        return mark_text(arena, set, v, out);
    }
    if (v->type == VALUE_DICT) {
        if (value_make_dict(arena, out)) {
            return -1;
        }
        for (size_t i = 0; i < v->dict->n; i++) {
            const struct value_pair *p = &v->dict->pairs[i];
            struct value key = p->key;
            if ((!is_name(&key) && mark_text(arena, set, &p->key, &key)) ||
                mark_value(arena, set, &p->value, &item) ||
                value_dict_set(arena, out->dict, &key, &item)) {
                return -1;
            }
        }
        return 0;
    }
    if (v->type == VALUE_LIST || v->type == VALUE_TUPLE) {
        struct value *items = value_alloc(arena, v->list->n * sizeof *items);
        for (size_t i = 0; items && i < v->list->n; i++) {
            if (mark_value(arena, set, &v->list->items[i], &items[i])) {
                return -1;
            }
        }
        return items ? value_make_list(arena, VALUE_LIST, items, v->list->n, out) : -1;
    }
    return 0;
}

int chat_mark(struct value_arena *arena, const struct tokenizer *tok, const struct template *t,
              const struct chat_book *book, const struct value *request, struct value *out) {
    struct chat_tokens set = {0};
    size_t len;
    const char *literals = template_literals(t, &len);
    collect_tokens(tok, book, literals, len, false, &set);
    int rc = mark_value(arena, &set, request, out);
    free(set.items);
    return rc;
}

/* ---- encoding ------------------------------------------------------------------------------- */

struct encoding {
    const struct tokenizer *tok;
    uint64_t memory_bytes;
    struct token_list newline; /* its ids */
};

static int encode(const struct encoding *how, const char *text, size_t bytes, unsigned flags,
                  struct token_list *ids, struct err *err) {
    struct token_encoder *e = token_encoder_new(how->tok, flags, how->memory_bytes);
    int rc = token_encoder_push(e, text, bytes, ids, err);
    rc = rc ? rc : token_encoder_finish(e, ids, err);
    token_encoder_free(e);
    return rc;
}

/* A piece that has text before it is encoded behind a newline, whose ids are left out: some
 * tokenizers put a blank before what begins a text. */
static int encode_behind(const struct encoding *how, const char *piece, size_t bytes,
                         unsigned flags, struct token_list *ids, struct err *err) {
    const struct token_list *newline = &how->newline;
    struct token_list list = {0};
    struct buf text = {0};
    buf_append(&text, "\n", 1);
    buf_append(&text, piece, bytes);
    int rc = encode(how, text.data, text.len, flags, &list, err);
    size_t skip = newline->n;
    if (!rc &&
        (list.n < skip || (skip && memcmp(list.ids, newline->ids, skip * sizeof *list.ids)))) {
        list.n = skip = 0;
        rc = encode(how, piece, bytes, flags, &list, err);
    }
    for (size_t i = skip; !rc && i < list.n; i++) {
        token_list_add(ids, list.ids[i]);
    }
    token_list_free(&list);
    buf_free(&text);
    return rc;
}

static int encode_marked(const struct encoding *how, const struct chat_token *t,
                         struct token_list *ids, struct err *err) {
    size_t before = ids->n;
    if (encode_behind(how, t->text, t->bytes, TOKENIZER_PLAIN, ids, err)) {
        return -1;
    }
    for (size_t i = before; i < ids->n; i++) {
        if (ids->ids[i] == t->id) {
            return err_set(err,
                           "'%.*s' cannot be said as text: the tokenizer makes that token of "
                           "plain text too",
                           (int)t->bytes, t->text);
        }
    }
    return 0;
}

/* The marked token that text[0 .. bytes) begins with, or NULL: at a mark that is alone. */
static const struct chat_token *marked_here(const struct chat_tokens *all, const char *text,
                                            size_t bytes) {
    if (memcmp(text, mark_begin, MARK_BYTES)) {
        return NULL;
    }
    const char *inner = text + MARK_BYTES;
    const char *end = memmem(inner, bytes - MARK_BYTES, mark_end, MARK_BYTES);
    const struct chat_token *t =
        end && end > inner ? longest(all, inner, (size_t)(end - inner)) : NULL;
    return t && t->bytes == (size_t)(end - inner) ? t : NULL;
}

int chat_encode(const struct tokenizer *tok, const char *text, size_t bytes, uint64_t memory_bytes,
                struct token_list *ids, struct err *err) {
    struct chat_tokens all = {0};
    struct encoding how = {.tok = tok, .memory_bytes = memory_bytes};
    int rc = encode(&how, "\n", 1, TOKENIZER_PARSE_SPECIAL, &how.newline, err);
    collect_tokens(tok, NULL, "", 0, true, &all);
    for (size_t i = 0, done = 0; !rc && i <= bytes;) {
        const char *next = memchr(text + i, mark_begin[0], bytes - i);
        i = next ? (size_t)(next - text) : bytes;
        if (i < bytes && !mark_at(text + i, bytes - i)) {
            i++;
            continue;
        }
        if (done == 0) {
            rc = encode(&how, text, i, TOKENIZER_PARSE_SPECIAL, ids, err);
        } else if (i > done) {
            rc = encode_behind(&how, text + done, i - done, TOKENIZER_PARSE_SPECIAL, ids, err);
        }
        if (rc || i == bytes) {
            break;
        }
        const struct chat_token *t = marked_here(&all, text + i, bytes - i);
        i += MARK_BYTES;
        if (t) {
            rc = encode_marked(&how, t, ids, err);
            i += t->bytes + MARK_BYTES;
        }
        done = i;
    }
    token_list_free(&how.newline);
    free(all.items);
    return rc;
}

size_t chat_unmark(char *text, size_t bytes) {
    return drop_marks(text, bytes);
}
