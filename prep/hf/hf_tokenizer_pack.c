/* The tokenizer section's bytes; see the header and docs/FORMAT.md. One thread. */
#include "prep/hf/hf_tokenizer_pack.h"

#include <stdlib.h>
#include <string.h>

struct tok_span pack_text(struct tokenizer_pack *p, const char *text, size_t bytes) {
    if (p->blob.len > UINT32_MAX - bytes) {
        die("tokenizer texts above 4 GiB"); /* the JSON reader's limit lies far below */
    }
    struct tok_span s = {(uint32_t)p->blob.len, (uint32_t)bytes};
    buf_append(&p->blob, text, bytes);
    return s;
}

void pack_reach(struct tokenizer_pack *p, uint32_t id) {
    if (id < p->n_tokens) {
        return;
    }
    size_t need = (size_t)id + 1, flags_cap = p->spans_cap; /* both arrays have the same room */
    p->spans = mem_grow(p->spans, need, &p->spans_cap, sizeof *p->spans);
    p->token_flags = mem_grow(p->token_flags, need, &flags_cap, sizeof *p->token_flags);
    memset(p->spans + p->n_tokens, 0, (need - p->n_tokens) * sizeof *p->spans);
    memset(p->token_flags + p->n_tokens, 0, need - p->n_tokens);
    p->n_tokens = id + 1;
}

void pack_free(struct tokenizer_pack *p) {
    buf_free(&p->blob);
    buf_free(&p->chat_template);
    buf_free(&p->book);
    free(p->spans);
    free(p->token_flags);
    free(p->merges);
    free(p->added);
    *p = (struct tokenizer_pack){0};
}

static const char *span_text(const struct tokenizer_pack *p, struct tok_span s) {
    return s.bytes ? p->blob.data + s.offset : "";
}

/* Slots of a hash table for n entries: at most half full. */
static size_t slots_for(size_t n) {
    size_t slots = 2;
    while (slots < 2 * n) {
        slots *= 2;
    }
    return slots;
}

static uint32_t *hash_vocab(const struct tokenizer_pack *p, size_t *slots) {
    size_t n = 0;
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        n += (p->token_flags[i] & TOK_TOKEN_MODEL) != 0;
    }
    *slots = slots_for(n);
    uint32_t *table = mem_alloc(*slots * sizeof *table);
    memset(table, 0xff, *slots * sizeof *table);
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        if (p->token_flags[i] & TOK_TOKEN_MODEL) {
            uint64_t slot = hash64(span_text(p, p->spans[i]), p->spans[i].bytes);
            while (table[slot & (*slots - 1)] != TOK_NONE) {
                slot++;
            }
            table[slot & (*slots - 1)] = i;
        }
    }
    return table;
}

static struct tok_merge *hash_merges(const struct tokenizer_pack *p, size_t *slots) {
    *slots = slots_for(p->n_merges);
    int shift = 64 - __builtin_ctzll(*slots);
    struct tok_merge *table = mem_alloc(*slots * sizeof *table);
    for (size_t i = 0; i < *slots; i++) {
        table[i] = (struct tok_merge){.left = TOK_NONE};
    }
    for (size_t i = 0; i < p->n_merges; i++) {
        uint64_t pair = (uint64_t)p->merges[i].left << 32 | p->merges[i].right;
        uint64_t slot = (pair * UINT64_C(0x9e3779b97f4a7c15)) >> shift;
        while (table[slot & (*slots - 1)].left != TOK_NONE) {
            slot++;
        }
        table[slot & (*slots - 1)] = p->merges[i];
    }
    return table;
}

static int by_id(const void *a, const void *b) {
    uint32_t x = ((const struct tok_added *)a)->id, y = ((const struct tok_added *)b)->id;
    return (x > y) - (x < y);
}

/* One row of a match order while it is sorted. */
struct order {
    const char *text;
    uint32_t bytes, row;
};

static int by_text(const void *a, const void *b) {
    const struct order *x = a, *y = b;
    int c = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return c ? c : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The rows of `added` with (normalized) or without the flag, by match text. */
static uint32_t *order_added(const struct tokenizer_pack *p, uint32_t normalized, size_t *n,
                             struct err *err) {
    struct order *order = mem_alloc((p->n_added + 1) * sizeof *order);
    uint32_t *rows = mem_alloc((p->n_added + 1) * sizeof *rows);
    *n = 0;
    for (size_t i = 0; i < p->n_added; i++) {
        if ((p->added[i].flags & TOK_ADDED_NORMALIZED) == normalized) {
            order[(*n)++] = (struct order){span_text(p, p->added[i].match), p->added[i].match.bytes,
                                           (uint32_t)i};
        }
    }
    qsort(order, *n, sizeof *order, by_text);
    for (size_t i = 0; i < *n; i++) {
        rows[i] = order[i].row;
        if (order[i].bytes == 0 || (i && by_text(&order[i - 1], &order[i]) == 0)) {
            err_set(err, "added_tokens: %s '%.*s'%s",
                    order[i].bytes ? "two tokens are looked for as" : "an empty token",
                    (int)order[i].bytes, order[i].text, normalized ? " once normalized" : "");
        }
    }
    free(order);
    return rows;
}

int pack_write(struct tokenizer_pack *p, struct buf *section, struct err *err) {
    static const char zeros[TOK_ALIGN] = {0};
    struct err local = {0};
    size_t n_vocab, n_merges, n_raw, n_normalized;
    uint32_t n_steps = p->n_normalizers + p->n_pre_tokenizers + p->n_decoders;
    if (p->n_added) {
        qsort(p->added, p->n_added, sizeof *p->added, by_id);
    }
    uint32_t *vocab = hash_vocab(p, &n_vocab);
    struct tok_merge *merges = hash_merges(p, &n_merges);
    uint32_t *raw = order_added(p, 0, &n_raw, &local);
    uint32_t *normalized = order_added(p, TOK_ADDED_NORMALIZED, &n_normalized, &local);
    const struct {
        const void *data;
        size_t bytes;
    } tables[TOK_TABLES] = {
        [TOK_BLOB] = {p->blob.data, p->blob.len},
        [TOK_SPANS] = {p->spans, p->n_tokens * sizeof *p->spans},
        [TOK_TOKEN_FLAGS] = {p->token_flags, p->n_tokens},
        [TOK_VOCAB] = {vocab, n_vocab * sizeof *vocab},
        [TOK_MERGES] = {merges, n_merges * sizeof *merges},
        [TOK_ADDED] = {p->added, p->n_added * sizeof *p->added},
        [TOK_MATCH_RAW] = {raw, n_raw * sizeof *raw},
        [TOK_MATCH_NORMALIZED] = {normalized, n_normalized * sizeof *normalized},
        [TOK_STEPS] = {p->steps, n_steps * sizeof *p->steps},
        [TOK_PREFIX] = {p->prefix, p->n_prefix * sizeof *p->prefix},
        [TOK_SUFFIX] = {p->suffix, p->n_suffix * sizeof *p->suffix},
        [TOK_CHAT_TEMPLATE] = {p->chat_template.data, p->chat_template.len},
    };
    struct tok_header h = {
        .version = TOK_VERSION,
        .flags = p->flags,
        .n_tokens = p->n_tokens,
        .unk_id = p->unk_id,
        .bos_id = p->bos_id,
        .eos_id = p->eos_id,
        .n_normalizers = p->n_normalizers,
        .n_pre_tokenizers = p->n_pre_tokenizers,
        .n_decoders = p->n_decoders,
    };
    memcpy(h.magic, TOK_MAGIC, sizeof h.magic);
    uint64_t offset = sizeof h;
    for (int i = 0; i < TOK_TABLES; i++) {
        h.tables[i] = (struct tok_table){offset, tables[i].bytes};
        offset = align_up(offset + tables[i].bytes, TOK_ALIGN);
    }
    h.section_bytes = offset;
    buf_append(section, &h, sizeof h);
    for (int i = 0; i < TOK_TABLES; i++) {
        buf_append(section, tables[i].data, tables[i].bytes);
        buf_append(section, zeros, align_up(section->len, TOK_ALIGN) - section->len);
    }
    free(vocab);
    free(merges);
    free(raw);
    free(normalized);
    return local.set ? err_set(err, "%s", local.msg) : 0;
}
