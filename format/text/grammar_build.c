/*
 * From the tree of expressions to the program: grammar_internal.h has both.
 *
 * Code is made from its end: whoever emits an expression knows the node behind it. Classes of
 * characters become ranges of bytes by the ranges of UTF-8 (Unicode, table 3-7). At last bytes
 * that no node tells apart become one class, so that the automaton's tables are small.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_internal.h"

struct builder {
    struct grammar *g;
    const struct grammar_tree *tree;
    bool full;
};

static uint32_t emit(struct builder *b, uint32_t e, uint32_t next, unsigned depth);

static uint32_t put(struct builder *b, enum node_op op, uint32_t x, uint32_t y) {
    struct grammar *g = b->g;
    if (g->n_nodes >= GRAMMAR_MAX_NODES) {
        b->full = true;
        return 0;
    }
    g->nodes = mem_grow(g->nodes, g->n_nodes + 1, &g->cap_nodes, sizeof *g->nodes);
    g->nodes[g->n_nodes] = (struct node){.op = (uint8_t)op, .x = x, .y = y};
    return (uint32_t)g->n_nodes++;
}

static uint32_t put_byte(struct builder *b, unsigned low, unsigned high, uint32_t next) {
    uint32_t n = put(b, NODE_BYTE, next, 0);
    b->g->nodes[n].low = (uint8_t)low;
    b->g->nodes[n].high = (uint8_t)high;
    return n;
}

/* Either of two; NODE_NEVER is none. */
static uint32_t put_split(struct builder *b, uint32_t x, uint32_t y) {
    if (b->g->nodes[x].op == NODE_NEVER) {
        return y;
    }
    return b->g->nodes[y].op == NODE_NEVER ? x : put(b, NODE_SPLIT, x, y);
}

/* ---- classes ------------------------------------------------------------------------------- */

static unsigned utf8_byte(uint32_t c, unsigned length, unsigned i) {
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    unsigned bits = c >> 6 * (length - 1 - i);
    return i ? 0x80 | (bits & 0x3f) : lead[length] | bits;
}

/* Characters low..high, which have `length` bytes in UTF-8 and whose first i bytes are the same. */
static uint32_t emit_range(struct builder *b, uint32_t low, uint32_t high, unsigned length,
                           unsigned i, uint32_t next) {
    unsigned first = utf8_byte(low, length, i), last = utf8_byte(high, length, i);
    if (i + 1 == length) {
        return put_byte(b, first, last, next);
    }
    uint32_t rest = (UINT32_C(1) << 6 * (length - 1 - i)) - 1; /* what the bytes behind can hold */
    if (first == last) {
        return put_byte(b, first, first, emit_range(b, low, high, length, i + 1, next));
    }
    uint32_t out = put(b, NODE_NEVER, 0, 0);
    if (low & rest) { /* the first byte's values that are not whole: alone */
        out = put_split(
            b, out, put_byte(b, first, first, emit_range(b, low, low | rest, length, i + 1, next)));
        low = (low | rest) + 1;
        first++;
    }
    uint32_t tail = high;
    if ((high & rest) != rest) {
        high = (high & ~rest) - 1;
        last--;
    }
    if (first <= last) {
        out = put_split(
            b, out, put_byte(b, first, last, emit_range(b, low, low | rest, length, i + 1, next)));
    }
    if (tail != high) {
        out = put_split(
            b, out,
            put_byte(b, last + 1, last + 1, emit_range(b, high + 1, tail, length, i + 1, next)));
    }
    return out;
}

static uint32_t emit_class(struct builder *b, const struct expr *e, uint32_t next) {
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xffff, 0x10ffff};
    uint32_t out = put(b, NODE_NEVER, 0, 0);
    for (uint32_t r = e->b; r-- > 0;) {
        struct range range = b->tree->ranges[e->a + r];
        for (unsigned k = 0; k < 4 && !b->full; k++) {
            uint32_t low = k && ends[k - 1] + 1 > range.low ? ends[k - 1] + 1 : range.low;
            uint32_t high = range.high < ends[k] ? range.high : ends[k];
            if (low <= high) {
                out = put_split(b, emit_range(b, low, high, k + 1, 0, next), out);
            }
        }
    }
    return out;
}

/* ---- the rest ------------------------------------------------------------------------------ */

static uint32_t emit_repeat(struct builder *b, const struct expr *e, uint32_t next,
                            unsigned depth) {
    uint32_t least = e->b, most = e->c;
    struct grammar *g = b->g;
    if (most == 0) {
        return next;
    }
    if (most == 1) {
        uint32_t body = emit(b, e->a, next, depth + 1);
        return least == 1 ? body : put_split(b, body, next);
    }
    if (most == GRAMMAR_ENDLESS && least <= 1) {
        uint32_t again = put(b, NODE_SPLIT, next, next);
        uint32_t body = emit(b, e->a, again, depth + 1);
        g->nodes[again].x = body;
        return least ? body : again;
    }
    uint32_t l = (uint32_t)g->n_loops;
    g->loops = mem_grow(g->loops, g->n_loops + 1, &g->cap_loops, sizeof *g->loops);
    g->loops[g->n_loops++] = (struct loop){0, least, most};
    uint32_t end = put(b, NODE_AGAIN, l, 0);
    uint32_t body = emit(b, e->a, end, depth + 1);
    g->loops[l].body = body;
    return put(b, NODE_LOOP, l, next);
}

static uint32_t emit_list(struct builder *b, const struct expr *e, uint32_t next, unsigned depth) {
    const uint32_t *kids = b->tree->kids + e->a;
    uint32_t out = e->kind == EXPR_SEQ ? next : put(b, NODE_NEVER, 0, 0);
    for (uint32_t i = e->b; i-- > 0 && !b->full;) {
        out = e->kind == EXPR_SEQ ? emit(b, kids[i], out, depth + 1)
                                  : put_split(b, emit(b, kids[i], next, depth + 1), out);
    }
    return out;
}

/* The node at which the expression begins; behind it goes on at `next`. */
static uint32_t emit(struct builder *b, uint32_t index, uint32_t next, unsigned depth) {
    const struct expr *e = &b->tree->exprs[index];
    if (b->full || depth > 4 * GRAMMAR_MAX_DEPTH) {
        b->full = true;
        return 0;
    }
    switch (e->kind) {
    case EXPR_BYTES:
        for (uint32_t i = e->b; i-- > 0 && !b->full;) {
            uint8_t byte = (uint8_t)b->tree->bytes.data[e->a + i];
            next = put_byte(b, byte, byte, next);
        }
        return next;
    case EXPR_CLASS:
        return emit_class(b, e, next);
    case EXPR_REPEAT:
        return emit_repeat(b, e, next, depth);
    case EXPR_RULE:
        return put(b, NODE_CALL, e->a, next); /* a rule's number until all have their places */
    case EXPR_TOKEN:
        return put(b, NODE_TOKEN, e->a, next);
    default:
        return emit_list(b, e, next, depth);
    }
}

/* Bytes that all nodes treat alike become one class; nodes then tell classes. */
static void make_classes(struct grammar *g) {
    bool begins[257] = {true};
    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op == NODE_BYTE) {
            begins[g->nodes[i].low] = true;
            begins[g->nodes[i].high + 1] = true;
        }
    }
    uint32_t class = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        class += byte && begins[byte];
        g->class_of[byte] = (uint8_t) class;
    }
    g->n_classes = class + 1;
    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op == NODE_BYTE) {
            g->nodes[i].low = g->class_of[g->nodes[i].low];
            g->nodes[i].high = g->class_of[g->nodes[i].high];
        }
    }
}

int grammar_build(struct grammar **out, struct grammar_tree *t, uint32_t root, struct err *err) {
    struct grammar *g = mem_calloc(1, sizeof *g);
    struct builder b = {.g = g, .tree = t, .full = t->full};
    uint32_t *entries = mem_calloc(t->n_rules + 1, sizeof *entries);
    int rc = -1;
    uint32_t end = put(&b, NODE_RETURN, 0, 0);
    for (size_t r = 0; r < t->n_rules && !b.full; r++) {
        entries[r] = emit(&b, t->rules[r].expr, end, 0);
    }
    if (b.full) {
        err_set(
            err,
            "the grammar is too large: more than %d rules, %d nodes, %d named tokens or %d levels",
            GRAMMAR_MAX_RULES, GRAMMAR_MAX_NODES, GRAMMAR_MAX_NAMED, 4 * GRAMMAR_MAX_DEPTH);
        goto out;
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op == NODE_CALL) {
            g->nodes[i].x = entries[g->nodes[i].x];
        }
    }
    g->start = entries[root];
    make_classes(g);
    grammar_measure(g);
    if (grammar_check(g, t, entries, err) < 0) {
        goto out;
    }
    g->tokens = t->tokens;
    g->n_tokens = t->n_tokens;
    t->tokens = NULL;
    t->n_tokens = t->cap_tokens = 0;
    *out = g;
    g = NULL;
    rc = 0;
out:
    free(entries);
    grammar_free(g);
    return rc;
}

void grammar_free(struct grammar *g) {
    if (!g) {
        return;
    }
    for (size_t i = 0; i < g->n_tokens; i++) {
        free(g->tokens[i]);
    }
    free(g->tokens);
    free(g->nodes);
    free(g->loops);
    free(g);
}
