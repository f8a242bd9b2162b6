/*
 * Byte pair encoding of one piece: characters -> ids, then the merge rules, lowest rank first and
 * leftmost among equals (Sennrich et al. 2016, arXiv:1508.07909, as `tokenizers` runs it).
 *
 * Short pieces scan for the lowest rank; long ones keep a heap of candidate pairs, so a megabyte
 * without a space takes n log n. One struct bpe_scratch for each encoder: any thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

enum { SCAN_LIMIT = 40 }; /* symbols up to which scanning beats the heap */

#define NO_RANK UINT32_MAX
#define NO_LINK UINT32_MAX

struct bpe_entry {
    uint64_t key; /* rank << 32 | position of the left symbol */
    uint32_t result;
};

/* Pairs of characters between which some rule merges: an open hash table of
 * first << 32 | second, at most half full. */
struct bpe_joints {
    uint64_t *pairs; /* [mask + 1], UINT64_MAX for free slots */
    size_t mask, n;
    bool usable; /* every rule's result is spelled as its two sides are, one after the other */
};

const struct tok_merge *bpe_find(const struct tokenizer *tok, uint32_t left, uint32_t right) {
    uint64_t pair = (uint64_t)left << 32 | right;
    uint32_t slot = (uint32_t)((pair * UINT64_C(0x9e3779b97f4a7c15)) >> tok->merge_shift);
    for (;;) {
        const struct tok_merge *m = &tok->merges[slot & tok->merge_mask];
        if (m->left == left && m->right == right) {
            return m;
        }
        if (m->left == TOK_NONE) {
            return NULL;
        }
        slot++;
    }
}

void bpe_scratch_free(struct bpe_scratch *s) {
    free(s->ids);
    free(s->ranks);
    free(s->results);
    free(s->prev);
    free(s->next);
    free(s->heap);
    if (s->joints) {
        free(s->joints->pairs);
        free(s->joints);
    }
    *s = (struct bpe_scratch){0};
}

static void add_symbol(struct bpe_scratch *s, uint32_t id) {
    if (s->n == s->cap) {
        s->ids = mem_grow(s->ids, s->n + 1, &s->cap, sizeof *s->ids);
    }
    s->ids[s->n++] = id;
}

/* The piece's characters as ids. An unknown character becomes its bytes' tokens, or the unk
 * token, or nothing where the model has neither. As in `tokenizers`, an unk that waits to be
 * fused is written when the next known character comes, so behind byte tokens that came in
 * between. */
static int add_characters(struct encoder *enc, const char *text, size_t bytes) {
    const struct tokenizer *tok = enc->tok;
    const uint32_t flags = tok->header->flags, unk_id = tok->header->unk_id;
    bool unk_waits = false;
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        size_t len = text_get(text + i, &cp);
        uint32_t id = cp < sizeof tok->char_ids / sizeof *tok->char_ids
                          ? tok->char_ids[cp]
                          : tokenizer_vocab_find(tok, text + i, len);
        const uint8_t *c = (const uint8_t *)text + i;
        i += len;
        if (id != TOK_NONE) {
            if (unk_waits) {
                add_symbol(&enc->bpe, unk_id);
                unk_waits = false;
            }
            add_symbol(&enc->bpe, id);
            continue;
        }
        if (flags & TOK_BYTE_FALLBACK) {
            size_t have = 0;
            while (have < len && tok->byte_ids[c[have]] != TOK_NONE) {
                have++;
            }
            if (have == len) {
                for (size_t k = 0; k < len; k++) {
                    add_symbol(&enc->bpe, tok->byte_ids[c[k]]);
                }
                continue;
            }
        }
        if (unk_id == TOK_MISSING) {
            return err_set(enc->err,
                           "cannot encode U+%04X: the tokenizer has no token for it, and its"
                           " unk token is not in its vocabulary",
                           (unsigned)cp);
        }
        if (unk_id != TOK_NONE) {
            if (unk_waits && !(flags & TOK_FUSE_UNK)) {
                add_symbol(&enc->bpe, unk_id);
            }
            unk_waits = true;
        }
    }
    if (unk_waits) {
        add_symbol(&enc->bpe, unk_id);
    }
    return 0;
}

static void rank_pair(const struct tokenizer *tok, struct bpe_scratch *s, size_t i, size_t n) {
    const struct tok_merge *m = i + 1 < n ? bpe_find(tok, s->ids[i], s->ids[i + 1]) : NULL;
    s->ranks[i] = m ? m->rank : NO_RANK;
    s->results[i] = m ? m->result : 0;
}

static void merge_by_scan(const struct tokenizer *tok, struct bpe_scratch *s) {
    size_t n = s->n;
    if (!s->ranks) {
        s->ranks = mem_alloc(SCAN_LIMIT * sizeof *s->ranks);
        s->results = mem_alloc(SCAN_LIMIT * sizeof *s->results);
    }
    for (size_t i = 0; i < n; i++) {
        rank_pair(tok, s, i, n);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            best = s->ranks[i] < s->ranks[best] ? i : best;
        }
        if (s->ranks[best] == NO_RANK) {
            break;
        }
        s->ids[best] = s->results[best];
        size_t tail = n - best - 2;
        memmove(s->ids + best + 1, s->ids + best + 2, tail * sizeof *s->ids);
        memmove(s->ranks + best + 1, s->ranks + best + 2, tail * sizeof *s->ranks);
        memmove(s->results + best + 1, s->results + best + 2, tail * sizeof *s->results);
        n--;
        rank_pair(tok, s, best, n);
        if (best) {
            rank_pair(tok, s, best - 1, n);
        }
    }
    s->n = n;
}

static void heap_push(struct bpe_scratch *s, uint32_t rank, uint32_t pos, uint32_t result) {
    s->heap = mem_grow(s->heap, s->n_heap + 1, &s->heap_cap, sizeof *s->heap);
    struct bpe_entry e = {(uint64_t)rank << 32 | pos, result};
    size_t i = s->n_heap++;
    while (i && s->heap[(i - 1) / 2].key > e.key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = e;
}

static struct bpe_entry heap_pop(struct bpe_scratch *s) {
    struct bpe_entry top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->n_heap) {
            break;
        }
        if (child + 1 < s->n_heap && s->heap[child + 1].key < s->heap[child].key) {
            child++;
        }
        if (s->heap[child].key >= last.key) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static void push_pair(const struct tokenizer *tok, struct bpe_scratch *s, uint32_t pos) {
    const struct tok_merge *m = bpe_find(tok, s->ids[pos], s->ids[s->next[pos]]);
    if (m) {
        heap_push(s, m->rank, pos, m->result);
    }
}

static void merge_by_heap(const struct tokenizer *tok, struct bpe_scratch *s) {
    uint32_t n = (uint32_t)s->n;
    if (s->links_cap < n) {
        s->links_cap = s->cap;
        s->prev = mem_realloc(s->prev, s->links_cap * sizeof *s->prev);
        s->next = mem_realloc(s->next, s->links_cap * sizeof *s->next);
    }
    s->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->prev[i] = i ? i - 1 : NO_LINK;
        s->next[i] = i + 1 < n ? i + 1 : NO_LINK;
    }
    for (uint32_t i = 0; i + 1 < n; i++) {
        push_pair(tok, s, i);
    }
    while (s->n_heap) {
        struct bpe_entry top = heap_pop(s);
        uint32_t pos = (uint32_t)top.key, right;
        if (s->ids[pos] == TOK_NONE || (right = s->next[pos]) == NO_LINK) {
            continue; /* merged into its left neighbour since, or the last symbol now */
        }
        const struct tok_merge *m = bpe_find(tok, s->ids[pos], s->ids[right]);
        if (!m || m->result != top.result) {
            continue; /* an older pair's entry */
        }
        s->ids[pos] = top.result;
        s->ids[right] = TOK_NONE;
        s->next[pos] = s->next[right];
        if (s->next[pos] != NO_LINK) {
            s->prev[s->next[pos]] = pos;
            push_pair(tok, s, pos);
        }
        if (s->prev[pos] != NO_LINK) {
            push_pair(tok, s, s->prev[pos]);
        }
    }
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (s->ids[i] != TOK_NONE) {
            s->ids[kept++] = s->ids[i];
        }
    }
    s->n = kept;
}

/* ---- long pieces ----------------------------------------------------------------------------- */

static size_t joint_slot(const struct bpe_joints *j, uint64_t pair) {
    size_t slot = (size_t)((pair * UINT64_C(0x9e3779b97f4a7c15)) >> 20);
    while (j->pairs[slot & j->mask] != UINT64_MAX && j->pairs[slot & j->mask] != pair) {
        slot++;
    }
    return slot & j->mask;
}

/* Double the table, or make it. */
static void joints_grow(struct bpe_joints *j) {
    struct bpe_joints old = *j;
    j->mask = old.pairs ? 2 * old.mask + 1 : 1023;
    j->pairs = mem_alloc((j->mask + 1) * sizeof *j->pairs);
    memset(j->pairs, 0xff, (j->mask + 1) * sizeof *j->pairs);
    for (size_t i = 0; old.pairs && i <= old.mask; i++) {
        if (old.pairs[i] != UINT64_MAX) {
            j->pairs[joint_slot(j, old.pairs[i])] = old.pairs[i];
        }
    }
    free(old.pairs);
}

static void joints_add(struct bpe_joints *j, uint64_t pair) {
    size_t slot = joint_slot(j, pair);
    if (j->pairs[slot] == UINT64_MAX) {
        j->pairs[slot] = pair;
        if (2 * ++j->n > j->mask) {
            joints_grow(j);
        }
    }
}

static bool is_concatenation(const struct tokenizer *tok, const struct tok_merge *m) {
    struct tok_span left = tok->spans[m->left], right = tok->spans[m->right];
    struct tok_span whole = tok->spans[m->result];
    const char *text = tokenizer_span(tok, whole);
    return left.bytes && right.bytes && whole.bytes == (uint64_t)left.bytes + right.bytes &&
           memcmp(text, tokenizer_span(tok, left), left.bytes) == 0 &&
           memcmp(text + left.bytes, tokenizer_span(tok, right), right.bytes) == 0;
}

static struct bpe_joints *joints_new(const struct tokenizer *tok) {
    struct bpe_joints *j = mem_calloc(1, sizeof *j);
    joints_grow(j);
    j->usable = true;
    for (size_t i = 0; i <= tok->merge_mask && j->usable; i++) {
        const struct tok_merge *m = &tok->merges[i];
        if (m->left == TOK_NONE) {
            continue;
        }
        j->usable = is_concatenation(tok, m);
        if (j->usable) {
            uint32_t first, second;
            const char *left = tokenizer_span(tok, tok->spans[m->left]);
            const char *end = left + tok->spans[m->left].bytes;
            text_get(end - text_before(left, end), &first);
            text_get(tokenizer_span(tok, tok->spans[m->right]), &second);
            joints_add(j, (uint64_t)first << 32 | second);
        }
    }
    return j;
}

/* The token that stands for the character, TOK_NONE where there is none. */
static uint32_t char_token(const struct tokenizer *tok, uint32_t cp) {
    char utf8[4];
    size_t n = text_put(cp, utf8);
    return tokenizer_vocab_find(tok, utf8, n);
}

/* The first character of the token or tokens that stand for the character: its own, or the < of
 * <0xHH>. 0 where something else may stand for it. */
static uint32_t spelled_first(const struct tokenizer *tok, uint32_t cp) {
    char utf8[4];
    size_t n = text_put(cp, utf8);
    if (tokenizer_vocab_find(tok, utf8, n) != TOK_NONE) {
        return cp;
    }
    for (size_t i = 0; i < n; i++) {
        if (tok->byte_ids[(uint8_t)utf8[i]] == TOK_NONE) {
            return 0;
        }
    }
    return tok->header->flags & TOK_BYTE_FALLBACK ? '<' : 0;
}

/* A token that merging makes is spelled as its characters are, so where no rule joins the last
 * character of one token and the first of the next, no other rule could reach across either. x is a
 * token, so that no unk waits behind it. */
bool bpe_parts(const struct tokenizer *tok, struct bpe_scratch *s, uint32_t x, uint32_t y) {
    s->joints = s->joints ? s->joints : joints_new(tok);
    if (!s->joints->usable) {
        return false;
    }
    uint32_t second = spelled_first(tok, y);
    uint64_t pair = (uint64_t)x << 32 | second;
    return second && s->joints->pairs[joint_slot(s->joints, pair)] == UINT64_MAX &&
           char_token(tok, x) != TOK_NONE;
}

/* The first place behind `from` where the piece can be cut, so that both parts give the ids that
 * they give in the whole. */
static size_t cut_behind(struct encoder *enc, const char *text, size_t bytes, size_t from) {
    for (size_t at = text_next_start(text, bytes, from), len; at < bytes; at += len) {
        uint32_t x, y;
        text_get(text + at - text_before(text, text + at), &x);
        len = text_get(text + at, &y);
        if (bpe_parts(enc->tok, &enc->bpe, x, y)) {
            return at;
        }
        if (!enc->bpe.joints->usable) {
            break;
        }
    }
    return bytes;
}

static int encode_part(struct encoder *enc, const char *text, size_t bytes) {
    const struct tokenizer *tok = enc->tok;
    struct bpe_scratch *s = &enc->bpe;
    if (bytes > enc->merge_max_bytes) {
        enc->merge_wanted_bytes = bytes;
        return err_set(enc->err,
                       "%zu bytes of text without a place where the tokenizer certainly cuts; at"
                       " most %zu are merged at once",
                       bytes, enc->merge_max_bytes);
    }
    s->n = 0;
    if (add_characters(enc, text, bytes) < 0) {
        return -1;
    }
    if (s->n > SCAN_LIMIT) {
        merge_by_heap(tok, s);
    } else {
        merge_by_scan(tok, s);
    }
    for (size_t i = 0; i < s->n; i++) {
        token_list_add(enc->out, s->ids[i]);
    }
    return 0;
}

int bpe_encode(struct encoder *enc, const char *text, size_t bytes) {
    const struct tokenizer *tok = enc->tok;
    if (tok->header->flags & TOK_IGNORE_MERGES) {
        uint32_t id = tokenizer_vocab_find(tok, text, bytes);
        if (id != TOK_NONE) {
            token_list_add(enc->out, id);
            return 0;
        }
    }
    while (bytes > tok->part_bytes) {
        size_t part = cut_behind(enc, text, bytes, tok->part_bytes);
        if (encode_part(enc, text, part) < 0) {
            return -1;
        }
        text += part;
        bytes -= part;
    }
    return bytes ? encode_part(enc, text, bytes) : 0;
}
