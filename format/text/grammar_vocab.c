/* The bytes of all tokens as tries; see grammar_vocab.h. */
#include "format/text/grammar_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_internal.h"
#include "format/text/tokenizer_text.h"

/* How many plain characters a token has; 0 where it has others, or too many. */
static uint32_t plain_length(const char *text, uint32_t n) {
    uint32_t chars = 0;
    if (text_valid(text, n) < n) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) {
            return 0;
        }
        chars += (c & 0xc0) != 0x80;
    }
    return chars <= GRAMMAR_PLAIN ? chars : 0;
}

struct sorting {
    const struct grammar_vocab *v;
    uint32_t id;
};

static int by_bytes(const void *x, const void *y) {
    const struct sorting *a = x, *b = y;
    uint32_t n = a->v->first[a->id + 1] - a->v->first[a->id];
    uint32_t m = b->v->first[b->id + 1] - b->v->first[b->id];
    int order =
        memcmp(a->v->bytes + a->v->first[a->id], b->v->bytes + b->v->first[b->id], n < m ? n : m);
    order = order ? order : (n > m) - (n < m);
    return order ? order : (a->id > b->id) - (a->id < b->id);
}

/* `sorted` [n] are the ids by their bytes. */
static void make_trie(const struct grammar_vocab *v, const struct sorting *sorted, uint32_t n,
                      struct trie *t) {
    uint32_t *open = mem_calloc(GRAMMAR_TOKEN_BYTES + 1, sizeof *open), depth = 0;
    size_t cap = 0, k = 0;
    const char *before = "";
    t->ids = mem_calloc(n + 1, sizeof *t->ids);
    for (uint32_t i = 0; i < n; i++) {
        const char *text = v->bytes + v->first[sorted[i].id];
        uint32_t bytes = v->first[sorted[i].id + 1] - v->first[sorted[i].id], same = 0;
        while (same < depth && same < bytes && text[same] == before[same]) {
            same++;
        }
        while (depth > same) {
            t->nodes[open[--depth]].skip = (uint32_t)k;
        }
        for (; depth < bytes; depth++) {
            t->nodes = mem_grow(t->nodes, k + 2, &cap, sizeof *t->nodes);
            t->nodes[k] = (struct trie_node){
                .ids = i, .depth = (uint16_t)depth, .byte = (uint8_t)text[depth]};
            open[depth] = (uint32_t)k++;
        }
        /* Nodes on the way to this token were made with its place: they have no ids themselves, as
         * the next node begins at the same one. */
        t->ids[t->n_ids++] = sorted[i].id;
        t->depth = bytes > t->depth ? bytes : t->depth;
        before = text;
    }
    while (depth > 0) {
        t->nodes[open[--depth]].skip = (uint32_t)k;
    }
    t->nodes = mem_grow(t->nodes, k + 2, &cap, sizeof *t->nodes);
    t->nodes[k] = (struct trie_node){.ids = n, .skip = (uint32_t)k + 1};
    t->n_nodes = (uint32_t)k;
    free(open);
}

static void make_plain(struct grammar_vocab *v, const struct sorting *sorted, uint32_t n,
                       uint8_t *lengths) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = sorted[i].id;
        uint32_t k = plain_length(v->bytes + v->first[id], v->first[id + 1] - v->first[id]);
        lengths[id] = (uint8_t)k;
        v->n_plain = k > v->n_plain ? k : v->n_plain;
    }
    v->plain = mem_calloc((v->n_plain + 1) * v->words + 1, sizeof *v->plain);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = sorted[i].id;
        if (lengths[id]) {
            v->plain[lengths[id] * v->words + id / 64] |= UINT64_C(1) << id % 64;
        }
    }
    for (size_t i = v->words; i < (v->n_plain + 1) * v->words; i++) {
        v->plain[i] |= v->plain[i - v->words];
    }
}

int grammar_vocab_make(struct grammar_vocab **out, const struct grammar_token *tokens, size_t n,
                       const uint32_t *ends, size_t n_ends, struct err *err) {
    uint64_t total = 0;
    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        total += tokens[i].n;
    }
    if (n == 0 || n > UINT32_C(1) << 24 || total > UINT32_C(1) << 30) {
        return err_set(err, "a vocabulary of %zu tokens and %llu bytes is none", n,
                       (unsigned long long)total);
    }
    struct grammar_vocab *v = mem_calloc(1, sizeof *v);
    v->n = (uint32_t)n;
    v->words = (n + 63) / 64;
    v->bytes = mem_alloc(total + 1);
    v->first = mem_calloc(n + 1, sizeof *v->first);
    v->added = mem_calloc(n, 1);
    v->ends = mem_calloc(n_ends, sizeof *v->ends);
    for (size_t i = 0; i < n_ends; i++) {
        if (ends[i] < n) {
            v->ends[v->n_ends++] = ends[i];
        }
    }
    struct sorting *sorted = mem_calloc(n, sizeof *sorted);
    uint8_t *lengths = mem_calloc(n, 1);
    uint32_t k = 0, rest = 0;
    for (uint32_t id = 0; id < n; id++) {
        const struct grammar_token *t = &tokens[id];
        if (t->n) {
            memcpy(v->bytes + v->first[id], t->bytes, t->n);
        }
        v->first[id + 1] = v->first[id] + t->n;
        v->added[id] = t->added;
        if (!t->added && t->n > 0 && t->n <= GRAMMAR_TOKEN_BYTES && !vocab_is_end(v, id)) {
            sorted[k++] = (struct sorting){v, id};
        }
    }
    qsort(sorted, k, sizeof *sorted, by_bytes);
    make_trie(v, sorted, k, &v->all);
    make_plain(v, sorted, k, lengths);
    for (uint32_t i = 0; i < k; i++) {
        if (!lengths[sorted[i].id]) {
            sorted[rest++] = sorted[i];
        }
    }
    make_trie(v, sorted, rest, &v->rest);
    free(sorted);
    free(lengths);
    *out = v;
    return 0;
}

int grammar_vocab_open(struct grammar_vocab **v, const struct tokenizer *tok, const uint32_t *ends,
                       size_t n_ends, struct err *err) {
    uint32_t n = tokenizer_vocab_size(tok);
    struct grammar_token *tokens = mem_calloc(n, sizeof *tokens);
    size_t *from = mem_calloc(n, sizeof *from);
    struct buf bytes = {0};
    int rc = 0;
    for (uint32_t id = 0; id < n && rc == 0; id++) {
        from[id] = bytes.len;
        rc = tokenizer_raw(tok, id, &bytes, &tokens[id].added, err);
        tokens[id].n = (uint32_t)(bytes.len - from[id]);
    }
    for (uint32_t id = 0; id < n; id++) {
        tokens[id].bytes = tokens[id].n ? bytes.data + from[id] : "";
    }
    *v = NULL;
    rc = rc ? rc : grammar_vocab_make(v, tokens, n, ends, n_ends, err);
    free(tokens);
    free(from);
    buf_free(&bytes);
    return rc;
}

void grammar_vocab_free(struct grammar_vocab *v) {
    if (!v) {
        return;
    }
    free(v->bytes);
    free(v->first);
    free(v->added);
    free(v->ends);
    free(v->all.nodes);
    free(v->all.ids);
    free(v->rest.nodes);
    free(v->rest.ids);
    free(v->plain);
    free(v);
}

size_t grammar_mask_words(const struct grammar_vocab *v) {
    return v->words;
}

size_t grammar_vocab_bytes(const struct grammar_vocab *v) {
    size_t nodes = (size_t)v->all.n_nodes + v->rest.n_nodes;
    size_t ids = (size_t)v->all.n_ids + v->rest.n_ids + v->n;
    return sizeof *v + v->first[v->n] + v->n + ids * sizeof *v->first +
           nodes * sizeof *v->all.nodes + (v->n_plain + 1) * v->words * sizeof *v->plain;
}

uint32_t vocab_named(const struct grammar_vocab *v, const char *name) {
    size_t n = strlen(name);
    if (n > 4 && name[1] == '[' && name[n - 2] == ']') {
        char *end;
        unsigned long long id = strtoull(name + 2, &end, 10);
        return end == name + n - 2 && id < v->n ? (uint32_t)id : GRAMMAR_NONE;
    }
    for (uint32_t id = 0; id < v->n; id++) {
        if (v->added[id] && v->first[id + 1] - v->first[id] == n &&
            memcmp(v->bytes + v->first[id], name, n) == 0) {
            return id;
        }
    }
    return GRAMMAR_NONE;
}
