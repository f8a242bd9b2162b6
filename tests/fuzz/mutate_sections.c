/*
 * mutate_sections: changes of the tokenizer section and of the predictors, which are files in
 * themselves: tables grow, shrink and move, and everything that says where they lie follows.
 */
#include <stdlib.h>
#include <string.h>

#include "format/corm_predict.h"
#include "format/text/tokenizer_file.h"
#include "tests/fuzz/mutate.h"

/* ---- the tokenizer ---- */

struct tables {
    struct tok_header h;
    struct buf table[TOK_TABLES];
};

static bool open_tables(struct tables *t, const struct buf *b) {
    *t = (struct tables){0};
    if (b->len < sizeof t->h) {
        return false;
    }
    memcpy(&t->h, b->data, sizeof t->h);
    for (int i = 0; i < TOK_TABLES; i++) {
        uint64_t at = t->h.tables[i].offset, n = t->h.tables[i].bytes;
        if (at > b->len || n > b->len - at) {
            return false;
        }
        buf_append(&t->table[i], b->data + at, n);
    }
    return true;
}

static void drop_tables(struct tables *t) {
    for (int i = 0; i < TOK_TABLES; i++) {
        buf_free(&t->table[i]);
    }
}

static struct buf close_tables(struct tables *t) {
    static const uint8_t zeros[TOK_ALIGN];
    struct buf b = {0};
    buf_append(&b, &t->h, sizeof t->h);
    for (int i = 0; i < TOK_TABLES; i++) {
        t->h.tables[i].offset = b.len;
        t->h.tables[i].bytes = t->table[i].len;
        buf_append(&b, t->table[i].data ? t->table[i].data : "", t->table[i].len);
        buf_append(&b, zeros, align_up(b.len, TOK_ALIGN) - b.len);
    }
    t->h.section_bytes = b.len;
    memcpy(b.data, &t->h, sizeof t->h);
    return b;
}

/* Put `n` copies of element `i` behind it. */
static void repeat(struct buf *b, size_t i, size_t element, uint32_t n) {
    struct buf out = {0};
    size_t end = (i + 1) * element;
    buf_append(&out, b->data, end);
    for (uint32_t k = 0; k < n; k++) {
        buf_append(&out, b->data + i * element, element);
    }
    buf_append(&out, b->data + end, b->len - end);
    buf_free(b);
    *b = out;
}

static uint32_t append_text(struct tables *t, const char *text, struct tok_span *span) {
    span->offset = (uint32_t)t->table[TOK_BLOB].len;
    span->bytes = (uint32_t)strlen(text);
    buf_append(&t->table[TOK_BLOB], text, span->bytes);
    return span->bytes;
}

/* Which of the three counts a step belongs to. */
static uint32_t *count_of(struct tok_header *h, uint32_t step) {
    return step < h->n_normalizers                         ? &h->n_normalizers
           : step < h->n_normalizers + h->n_pre_tokenizers ? &h->n_pre_tokenizers
                                                           : &h->n_decoders;
}

static void change_step(struct tok_step *s, struct tables *t, struct mutate_rng *r,
                        struct buf *log) {
    static const char *const patterns[] = {
        "(?:a?)+b", "\\s+(?!\\S)|\\s+", "(?=.*x)", "[^\\p{L}]", "(",  "a{1,1000}",
        ".",        "\\p{L}+|.",        "^$",      "(?i:s)",    "x*", "(a|b|ab)*c",
    };
    static const uint16_t kinds[] = {1,  2,  3,  4,  5,  6,  7,  8,  32, 33, 34, 35, 36,
                                     37, 38, 64, 65, 66, 67, 68, 69, 70, 9,  0,  71};
    switch (mutate_below(r, 8)) {
    case 0:
        s->kind = kinds[mutate_below(r, sizeof kinds / sizeof *kinds)];
        break;
    case 1:
        s->behavior = (uint16_t)mutate_below(r, TOK_BEHAVIORS + 1);
        break;
    case 2:
        s->flags = mutate_one_in(r, 8) ? (uint32_t)mutate_number(r, s->flags, 32)
                                       : s->flags ^ 1u << mutate_below(r, 7);
        break;
    case 3:
        s->a = (uint32_t)mutate_number(r, s->a, 32);
        break;
    case 4:
        s->b = (uint32_t)mutate_number(r, s->b, 32);
        break;
    case 5:
        append_text(t, patterns[mutate_below(r, sizeof patterns / sizeof *patterns)], &s->pattern);
        break;
    case 6:
        s->content.offset = (uint32_t)mutate_number(r, s->content.offset, 32);
        s->content.bytes = (uint32_t)mutate_number(r, s->content.bytes, 32);
        break;
    default:
        s->pattern.offset = (uint32_t)mutate_below(r, t->table[TOK_BLOB].len + 1);
        s->pattern.bytes = mutate_below(r, 40);
        break;
    }
    buf_printf(log, "kind %u behavior %u flags %u a %u b %u pattern %u+%u content %u+%u\n", s->kind,
               s->behavior, s->flags, s->a, s->b, s->pattern.offset, s->pattern.bytes,
               s->content.offset, s->content.bytes);
}

static void change_steps(struct tables *t, struct mutate_rng *r, struct buf *log) {
    struct buf *b = &t->table[TOK_STEPS];
    size_t n = b->len / sizeof(struct tok_step);
    if (n == 0) {
        struct tok_step one = {.kind = TOK_PRE_WHITESPACE};
        buf_append(b, &one, sizeof one);
        t->h.n_pre_tokenizers++;
        n = 1;
    }
    struct tok_step *steps = (struct tok_step *)(void *)b->data;
    uint32_t i = mutate_below(r, n), k = mutate_below(r, n);
    uint32_t times = mutate_one_in(r, 2) ? 1 : mutate_below(r, TOK_MAX_STEPS);
    switch (mutate_below(r, 5)) {
    case 0:
        buf_printf(log, "tokenizer: step %u (kind %u) %u times more\n", i, steps[i].kind, times);
        *count_of(&t->h, i) += times;
        repeat(b, i, sizeof *steps, times);
        break;
    case 1: {
        struct tok_step kept = steps[i];
        steps[i] = steps[k];
        steps[k] = kept;
        buf_printf(log, "tokenizer: steps %u and %u change places\n", i, k);
        break;
    }
    case 2: {
        uint32_t *count = mutate_one_in(r, 2)   ? &t->h.n_normalizers
                          : mutate_one_in(r, 2) ? &t->h.n_pre_tokenizers
                                                : &t->h.n_decoders;
        *count = (uint32_t)mutate_number(r, *count, 32);
        buf_printf(log, "tokenizer: %u normalizers, %u pre-tokenizers, %u decoders\n",
                   t->h.n_normalizers, t->h.n_pre_tokenizers, t->h.n_decoders);
        break;
    }
    default: {
        struct tok_step s = steps[i];
        buf_printf(log, "tokenizer: step %u: ", i);
        change_step(&s, t, r, log);
        ((struct tok_step *)(void *)b->data)[i] = s;
        break;
    }
    }
}

static void change_header(struct tok_header *h, struct mutate_rng *r, struct buf *log) {
    uint32_t *const fields[] = {&h->flags,  &h->n_tokens, &h->unk_id,
                                &h->bos_id, &h->eos_id,   &h->version};
    static const char *const names[] = {"flags",  "n_tokens", "unk_id",
                                        "bos_id", "eos_id",   "version"};
    uint32_t i = mutate_below(r, sizeof fields / sizeof *fields);
    uint32_t v = i == 0 ? mutate_below(r, 9) : (uint32_t)mutate_number(r, *fields[i], 32);
    buf_printf(log, "tokenizer %s = %u, was %u\n", names[i], v, *fields[i]);
    *fields[i] = v;
}

/* A table of u32, or of structs of them: one number of it; or more or fewer elements. */
static void change_table(struct tables *t, struct mutate_rng *r, struct buf *log) {
    static const size_t elements[TOK_TABLES] = {
        [TOK_BLOB] = 1,    [TOK_SPANS] = 8,  [TOK_TOKEN_FLAGS] = 1, [TOK_VOCAB] = 4,
        [TOK_MERGES] = 16, [TOK_ADDED] = 16, [TOK_MATCH_RAW] = 4,   [TOK_MATCH_NORMALIZED] = 4,
        [TOK_STEPS] = 40,  [TOK_PREFIX] = 4, [TOK_SUFFIX] = 4,      [TOK_CHAT_TEMPLATE] = 1,
    };
    uint32_t id = mutate_below(r, TOK_TABLES);
    struct buf *b = &t->table[id];
    size_t element = elements[id], n = b->len / element;
    if (n == 0 || mutate_one_in(r, 12)) {
        uint64_t any = mutate_u64(r);
        buf_append(b, &any, element < 8 ? element : 8);
        buf_printf(log, "tokenizer table %u: something more\n", id);
        return;
    }
    uint32_t i = mutate_below(r, n);
    switch (mutate_below(r, 6)) {
    case 0:
        b->len = element * mutate_below(r, n);
        buf_printf(log, "tokenizer table %u: cut to %zu bytes\n", id, b->len);
        return;
    case 1: {
        uint32_t times = 1u << mutate_below(r, 14);
        repeat(b, i, element, times);
        buf_printf(log, "tokenizer table %u: element %u %u times more\n", id, i, times);
        return;
    }
    case 2: /* a hash table twice as large: nothing is found where it was */
        mutate_again(b, 0, b->len);
        buf_printf(log, "tokenizer table %u: twice\n", id);
        return;
    default:
        break;
    }
    if (element == 1) {
        mutate_bytes(r, (uint8_t *)b->data, b->len);
        buf_printf(log, "tokenizer table %u: other bytes\n", id);
        return;
    }
    uint32_t word, at = mutate_below(r, element / 4) * 4;
    memcpy(&word, b->data + i * element + at, sizeof word);
    uint32_t v = mutate_one_in(r, 2) ? (uint32_t)mutate_number(r, word, 32)
                                     : mutate_below(r, (uint64_t)t->h.n_tokens + 2);
    memcpy(b->data + i * element + at, &v, sizeof v);
    buf_printf(log, "tokenizer table %u: element %u, at %u: %u, was %u\n", id, i, at, v, word);
}

/* Ids around a text: many of them, or such as there are not. */
static void change_around(struct tables *t, struct mutate_rng *r, struct buf *log) {
    struct buf *b = &t->table[mutate_one_in(r, 2) ? TOK_PREFIX : TOK_SUFFIX];
    uint32_t n = mutate_one_in(r, 3) ? 64 + mutate_below(r, 2) : 1 + mutate_below(r, 4);
    b->len = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = mutate_below(r, (uint64_t)t->h.n_tokens + mutate_below(r, 2));
        buf_append(b, &id, sizeof id);
    }
    buf_printf(log, "tokenizer: %u ids around a text\n", n);
}

void mutate_tokenizer(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_part *p = image_part(m, CORM_SECTION_TOKENIZER);
    struct tables t;
    if (!p) {
        return;
    }
    if (mutate_one_in(r, 16) || !open_tables(&t, &p->bytes)) {
        mutate_bytes(r, (uint8_t *)p->bytes.data, p->bytes.len < 320 ? p->bytes.len : 320);
        buf_printf(log, "tokenizer: other bytes at its start\n");
        return;
    }
    for (uint32_t n = 1 + mutate_below(r, 3); n > 0; n--) {
        switch (mutate_below(r, 8)) {
        case 0:
            change_header(&t.h, r, log);
            break;
        case 1:
            change_around(&t, r, log);
            break;
        case 2:
        case 3:
        case 4:
            change_steps(&t, r, log);
            break;
        default:
            change_table(&t, r, log);
            break;
        }
    }
    struct buf b = close_tables(&t);
    drop_tables(&t);
    image_replace(m, CORM_SECTION_TOKENIZER, &b);
}

/* ---- predictors ---- */

static void change_entry(struct corm_predict_entry *e, struct mutate_rng *r, struct buf *log) {
    uint32_t *const fields[] = {&e->kind, &e->layer, &e->ahead, &e->codec, &e->rows, &e->cols};
    static const char *const names[] = {"kind", "layer", "ahead", "codec", "rows", "cols"};
    uint32_t i = mutate_below(r, 7);
    if (i == 6) {
        uint64_t old = e->offset;
        e->offset =
            mutate_one_in(r, 2) ? mutate_number(r, old, 64) : old + 64 * (mutate_number(r, 8, 6));
        buf_printf(log, "offset = %llu, was %llu\n", (unsigned long long)e->offset,
                   (unsigned long long)old);
        return;
    }
    uint32_t v =
        mutate_one_in(r, 2) ? mutate_below(r, 16) : (uint32_t)mutate_number(r, *fields[i], 32);
    buf_printf(log, "%s = %u, was %u\n", names[i], v, *fields[i]);
    *fields[i] = v;
}

/* Entries fewer or more, with places that follow. */
static void move_entries(struct buf *b, struct mutate_rng *r, struct buf *log) {
    struct corm_predict_header h;
    struct buf out = {0};
    static const uint8_t zeros[64];
    memcpy(&h, b->data, sizeof h);
    const struct corm_predict_entry *entries = (const void *)(b->data + sizeof h);
    uint32_t from = mutate_below(r, h.n_entries), n = 1 + mutate_below(r, 3);
    n = n < h.n_entries - from ? n : h.n_entries - from;
    size_t old_end = align_up(sizeof h + h.n_entries * sizeof *entries, 64);
    size_t end = align_up(sizeof h + (h.n_entries - n) * sizeof *entries, 64);
    h.n_entries -= n;
    buf_append(&out, &h, sizeof h);
    for (uint32_t i = 0; i < h.n_entries; i++) {
        struct corm_predict_entry e = entries[i < from ? i : i + n];
        e.offset += end - old_end;
        buf_append(&out, &e, sizeof e);
    }
    buf_append(&out, zeros, end - out.len);
    if (b->len > old_end) {
        buf_append(&out, b->data + old_end, b->len - old_end);
    }
    buf_printf(log, "predictors: without entries %u to %u\n", from, from + n - 1);
    buf_free(b);
    *b = out;
}

static void change_matrix(struct buf *b, const struct corm_predict_entry *e, struct mutate_rng *r,
                          struct buf *log) {
    const struct codec *codec = codec_by_id(e->codec);
    uint64_t bytes = codec && codec_fits(codec, e->cols)
                         ? (uint64_t)e->rows * codec_row_bytes(codec, e->cols)
                         : 0;
    if (bytes < 4 || e->offset > b->len || bytes > b->len - e->offset) {
        return;
    }
    uint32_t bits, all = mutate_one_in(r, 3);
    size_t at = e->offset + mutate_below(r, bytes / 4) * 4;
    memcpy(&bits, b->data + at, sizeof bits);
    bits = mutate_float(r, bits);
    for (size_t k = all ? e->offset : at; k + 4 <= (all ? e->offset + bytes : at + 4); k += 4) {
        memcpy(b->data + k, &bits, sizeof bits);
    }
    buf_printf(log, "predictors %s of layer %u, ahead %u: %s 0x%x\n",
               corm_predict_kind_name(e->kind) ? corm_predict_kind_name(e->kind) : "?", e->layer,
               e->ahead, all ? "all" : "one number", bits);
}

void mutate_predictors(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_part *p = image_part(m, CORM_SECTION_PREDICTORS);
    struct corm_predict_header h;
    if (!p || p->bytes.len < sizeof h) {
        return;
    }
    for (uint32_t n = 1 + mutate_below(r, 3); n > 0; n--) {
        struct buf *b = &p->bytes;
        memcpy(&h, b->data, sizeof h);
        if (h.n_entries == 0 ||
            b->len < sizeof h + h.n_entries * sizeof(struct corm_predict_entry)) {
            mutate_bytes(r, (uint8_t *)b->data, sizeof h);
            buf_printf(log, "predictors: other bytes at their start\n");
            return;
        }
        struct corm_predict_entry *e = (struct corm_predict_entry *)(void *)(b->data + sizeof h);
        e += mutate_below(r, h.n_entries);
        uint32_t *words = (uint32_t *)(void *)b->data, i = mutate_below(r, sizeof h / 4);
        switch (mutate_below(r, 7)) {
        case 0:
            words[i] = i < 4 ? (uint32_t)mutate_number(r, words[i], 32) : mutate_float(r, words[i]);
            buf_printf(log, "predictors header at %u: 0x%x\n", i * 4, words[i]);
            break;
        case 1:
        case 2:
            buf_printf(log, "predictors entry %zu: ",
                       (size_t)((char *)e - b->data - sizeof h) / sizeof *e);
            change_entry(e, r, log);
            break;
        case 3:
            move_entries(b, r, log);
            break;
        default:
            change_matrix(b, e, r, log);
            break;
        }
    }
}
