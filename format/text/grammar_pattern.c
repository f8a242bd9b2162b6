/*
 * Patterns and lengths to rules; see grammar_pattern.h.
 *
 * Each pattern is an NFA over characters. A state of the common automaton holds, for each pattern,
 * the set of its nodes, and the number of characters so far as long as it matters. Characters that
 * no pattern tells apart are one cell of the alphabet.
 */
#include "format/text/grammar_pattern.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_NODES = 1 << 14,  /* of a pattern's NFA */
    MOST_STATES = 1 << 14, /* of the common automaton */
    MOST_WORK = 50000000,
    MATCHED = 0, /* the node of a match: whatever follows, the pattern was found */
};

enum nfa_op { NFA_MATCH, NFA_CLASS, NFA_SPLIT, NFA_BEGIN, NFA_END };
struct nfa_node {
    uint8_t op;
    uint32_t x, y;
    uint32_t ranges, n_ranges; /* in the tree */
};
struct nfa {
    struct grammar_tree tree;
    struct nfa_node *nodes;
    size_t n, cap;
    uint32_t start;
    bool negated, full;
    uint32_t *stamps; /* [n] */
    uint32_t stamp;
};

struct common {
    struct nfa nfas[PATTERN_MAX_TOGETHER + 1];
    size_t n_nfas;
    uint32_t least, most;
    uint32_t *cells; /* first characters of the alphabet's cells, ascending */
    size_t n_cells, cap_cells;
    /* A state is words[places[s] .. places[s + 1]): the count, then for each pattern the number of
     * its nodes, whether it accepts, and the nodes. */
    uint32_t *words;
    size_t n_words, cap_words;
    uint32_t *places;
    size_t n_states, cap_places;
    uint32_t *index; /* [2 * MOST_STATES] */
    uint32_t *todo;  /* nodes of a closure */
    size_t n_todo, cap_todo;
    uint64_t work;
};

/* ---- a pattern ----------------------------------------------------------------------------- */

static uint32_t nfa_put(struct nfa *a, enum nfa_op op, uint32_t x, uint32_t y) {
    if (a->n >= MOST_NODES) {
        a->full = true;
        return MATCHED;
    }
    a->nodes = mem_grow(a->nodes, a->n + 1, &a->cap, sizeof *a->nodes);
    a->nodes[a->n] = (struct nfa_node){.op = (uint8_t)op, .x = x, .y = y};
    return (uint32_t)a->n++;
}

static uint32_t nfa_emit(struct nfa *a, uint32_t index, uint32_t next) {
    const struct expr e = a->tree.exprs[index];
    uint32_t n, out = next;
    if (a->full) {
        return next;
    }
    switch (e.kind) {
    case EXPR_CLASS:
        n = nfa_put(a, NFA_CLASS, next, 0);
        a->nodes[n].ranges = e.a;
        a->nodes[n].n_ranges = e.b;
        return n;
    case EXPR_TOKEN:
        return nfa_put(a, a->tree.tokens[e.a][0] == '^' ? NFA_BEGIN : NFA_END, next, 0);
    case EXPR_SEQ:
        for (uint32_t i = e.b; i-- > 0;) {
            out = nfa_emit(a, a->tree.kids[e.a + i], out);
        }
        return out;
    case EXPR_ALT:
        for (uint32_t i = e.b; i-- > 0;) {
            n = nfa_emit(a, a->tree.kids[e.a + i], next);
            out = i + 1 == e.b ? n : nfa_put(a, NFA_SPLIT, n, out);
        }
        return out;
    case EXPR_REPEAT:
        if (e.c == GRAMMAR_ENDLESS) {
            out = nfa_put(a, NFA_SPLIT, next, next);
            n = nfa_emit(a, e.a, out);
            if (!a->full) {
                a->nodes[out].x = n;
            }
        }
        for (uint32_t i = e.b; e.c != GRAMMAR_ENDLESS && i < e.c && !a->full; i++) {
            out = nfa_put(a, NFA_SPLIT, nfa_emit(a, e.a, out), next);
        }
        for (uint32_t i = 0; i < e.b && !a->full; i++) {
            size_t before = a->n;
            out = nfa_emit(a, e.a, out);
            if (a->n == before) {
                break; /* nothing, however often */
            }
        }
        return out;
    default:
        return next;
    }
}

/* The pattern of an expression of a->tree, found anywhere. */
static void nfa_make(struct nfa *a, uint32_t e) {
    nfa_put(a, NFA_MATCH, 0, 0);
    uint32_t found = nfa_emit(a, e, MATCHED);
    uint32_t any = expr_class(&a->tree, NULL, 0, true);
    uint32_t skip = nfa_put(a, NFA_SPLIT, found, 0);
    uint32_t n = nfa_put(a, NFA_CLASS, skip, 0);
    if (!a->full) {
        a->nodes[n].ranges = a->tree.exprs[any].a;
        a->nodes[n].n_ranges = a->tree.exprs[any].b;
        a->nodes[skip].y = n;
    }
    a->start = skip;
    a->stamps = mem_calloc(a->n, sizeof *a->stamps);
}

/* ---- states -------------------------------------------------------------------------------- */

static void todo_put(struct common *c, struct nfa *a, uint32_t node) {
    if (a->stamps[node] != a->stamp) {
        a->stamps[node] = a->stamp;
        c->todo = mem_grow(c->todo, c->n_todo + 1, &c->cap_todo, sizeof *c->todo);
        c->todo[c->n_todo++] = node;
    }
}

static void word(struct common *c, uint32_t w) {
    c->words = mem_grow(c->words, c->n_words + 1, &c->cap_words, sizeof *c->words);
    c->words[c->n_words++] = w;
}

static int ascending(const void *x, const void *y) {
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* Appends what becomes of a pattern whose nodes to go on from are in `todo`. */
static void close_nodes(struct common *c, struct nfa *a, bool begin) {
    size_t head = c->n_words;
    bool matched = false, accepts = false;
    word(c, 0);
    word(c, 0);
    for (size_t i = 0; i < c->n_todo; i++) {
        const struct nfa_node *n = &a->nodes[c->todo[i]];
        c->work++;
        if (n->op == NFA_SPLIT) {
            todo_put(c, a, n->x);
            todo_put(c, a, n->y);
        } else if (n->op == NFA_BEGIN && begin) {
            todo_put(c, a, n->x);
        } else if (n->op == NFA_MATCH) {
            matched = true;
        } else if (n->op != NFA_BEGIN) {
            word(c, c->todo[i]);
        }
    }
    /* Through $, if the text ends here. */
    size_t n = c->n_words - head - 2;
    for (size_t i = 0; i < n; i++) {
        uint32_t node = c->words[head + 2 + i];
        if (a->nodes[node].op == NFA_END) {
            todo_put(c, a, a->nodes[node].x);
        }
    }
    for (size_t i = 0; i < c->n_todo; i++) {
        const struct nfa_node *at = &a->nodes[c->todo[i]];
        if (at->op == NFA_SPLIT) {
            todo_put(c, a, at->x);
            todo_put(c, a, at->y);
        } else if (at->op == NFA_END || (at->op == NFA_BEGIN && begin)) {
            todo_put(c, a, at->x);
        }
        accepts = accepts || at->op == NFA_MATCH;
    }
    c->n_todo = 0;
    if (matched) {
        c->n_words = head + 2;
        word(c, MATCHED);
        n = 1;
    }
    qsort(c->words + head + 2, n, sizeof *c->words, ascending);
    c->words[head] = (uint32_t)n;
    c->words[head + 1] = accepts;
}

/* The number of the state whose words begin at `from`, which stay only where it is new. */
static uint32_t intern(struct common *c, size_t from) {
    size_t n = c->n_words - from;
    for (uint64_t h = hash64(c->words + from, n * sizeof *c->words);; h++) {
        uint32_t *slot = &c->index[h & (2 * MOST_STATES - 1)];
        if (*slot == GRAMMAR_NONE) {
            *slot = (uint32_t)c->n_states++;
            c->places = mem_grow(c->places, c->n_states + 1, &c->cap_places, sizeof *c->places);
            c->places[*slot] = (uint32_t)from;
            c->places[*slot + 1] = (uint32_t)c->n_words;
            return *slot;
        }
        size_t at = c->places[*slot];
        if (c->places[*slot + 1] - at == n &&
            memcmp(c->words + at, c->words + from, n * sizeof *c->words) == 0) {
            c->n_words = from;
            return *slot;
        }
    }
}

static bool in_class(const struct nfa *a, const struct nfa_node *n, uint32_t ch) {
    uint32_t low = 0, high = n->n_ranges;
    const struct range *r = a->tree.ranges + n->ranges;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (r[middle].high < ch) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n->n_ranges && r[low].low <= ch;
}

/* The state behind a character, or GRAMMAR_NONE. */
static uint32_t next_state(struct common *c, uint32_t state, uint32_t ch) {
    size_t from = c->n_words, at = c->places[state];
    uint32_t count = c->words[at++];
    if (c->most != GRAMMAR_ENDLESS ? count == c->most : false) {
        return GRAMMAR_NONE;
    }
    count += c->most != GRAMMAR_ENDLESS || count < c->least;
    word(c, count);
    for (size_t k = 0; k < c->n_nfas; k++) {
        struct nfa *a = &c->nfas[k];
        uint32_t n = c->words[at];
        at += 2;
        a->stamp++;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t node = c->words[at + i];
            c->work++;
            if (node == MATCHED) {
                todo_put(c, a, MATCHED);
            } else if (a->nodes[node].op == NFA_CLASS && in_class(a, &a->nodes[node], ch)) {
                todo_put(c, a, a->nodes[node].x);
            }
        }
        at += n;
        size_t head = c->n_words;
        close_nodes(c, a, false);
        bool found = c->words[head] == 1 && c->words[head + 2] == MATCHED;
        if (a->negated ? found : c->words[head] == 0) {
            c->n_words = from;
            return GRAMMAR_NONE;
        }
    }
    return intern(c, from);
}

static bool accepts(const struct common *c, uint32_t state) {
    size_t at = c->places[state];
    bool all = c->words[at++] >= c->least;
    for (size_t k = 0; k < c->n_nfas; k++) {
        all = all && (c->words[at + 1] != 0) != c->nfas[k].negated;
        at += 2 + c->words[at];
    }
    return all;
}

static void make_cells(struct common *c) {
    for (size_t k = 0; k < c->n_nfas; k++) {
        const struct grammar_tree *t = &c->nfas[k].tree;
        for (size_t i = 0; i < t->n_ranges; i++) {
            c->cells = mem_grow(c->cells, c->n_cells + 3, &c->cap_cells, sizeof *c->cells);
            c->cells[c->n_cells++] = t->ranges[i].low;
            c->cells[c->n_cells++] = t->ranges[i].high + 1;
        }
    }
    c->cells = mem_grow(c->cells, c->n_cells + 2, &c->cap_cells, sizeof *c->cells);
    c->cells[c->n_cells++] = 0;
    qsort(c->cells, c->n_cells, sizeof *c->cells, ascending);
    size_t n = 0;
    for (size_t i = 0; i < c->n_cells; i++) {
        /* Surrogates are no characters: they lie in the cell before, and no class holds them. */
        bool surrogate = c->cells[i] >= 0xd800 && c->cells[i] < 0xe000;
        if (c->cells[i] <= 0x10ffff && !surrogate && (n == 0 || c->cells[n - 1] != c->cells[i])) {
            c->cells[n++] = c->cells[i];
        }
    }
    c->n_cells = n;
    c->cells[n] = 0x110000;
}

/* ---- rules --------------------------------------------------------------------------------- */

void grammar_put_escaped(struct buf *out, uint32_t c) {
    static const char *const plain = "\bb\ff\nn\rr\tt\"\"\\\\";
    for (size_t i = 0; plain[i]; i += 2) {
        if ((uint8_t)plain[i] == c) {
            buf_printf(out, "\\%c", plain[i + 1]);
            return;
        }
    }
    if (c < 0x20) {
        buf_printf(out, "\\u%04x", c);
    } else {
        value_utf8_append(out, c);
    }
}

/* One of the characters of some ranges, as a JSON string has it. */
static uint32_t class_expr(struct grammar_tree *t, struct range *ranges, size_t n) {
    uint32_t *kids = mem_calloc(40, sizeof *kids);
    size_t n_kids = 1, n_raw = 0;
    struct range *raw = mem_calloc(n + 4, sizeof *raw);
    struct buf text = {0};
    for (size_t i = 0; i < n; i++) {
        static const uint32_t cuts[] = {0x20, '"', '"' + 1, '\\', '\\' + 1, 0x110000};
        for (uint32_t c = ranges[i].low; c <= ranges[i].high && c < 0x20; c++) {
            text.len = 0;
            grammar_put_escaped(&text, c);
            kids[n_kids++] = expr_bytes(t, text.data, text.len);
        }
        for (size_t k = 0; k < 5; k++) {
            uint32_t low = ranges[i].low > cuts[k] ? ranges[i].low : cuts[k];
            uint32_t high = ranges[i].high < cuts[k + 1] - 1 ? ranges[i].high : cuts[k + 1] - 1;
            if (low > high) {
                continue;
            }
            if (k & 1) { /* a quote or a backslash */
                kids[n_kids++] = expr_text(t, k == 1 ? "\\\"" : "\\\\");
            } else {
                raw = mem_realloc(raw, (n_raw + 4) * sizeof *raw);
                raw[n_raw++] = (struct range){low, high};
            }
        }
    }
    kids[0] = expr_class(t, raw, n_raw, false);
    uint32_t e = expr_list(t, EXPR_ALT, kids, n_kids);
    free(kids);
    free(raw);
    buf_free(&text);
    return e;
}

/* What follows in a state: a character and the rest, or the end. `to` [n_cells]. */
static uint32_t state_expr(struct common *c, struct grammar_tree *t, uint32_t state,
                           const uint32_t *to, uint32_t first_rule, uint32_t any) {
    uint32_t *kids = mem_calloc(c->n_cells + 1, sizeof *kids), e;
    struct range *ranges = mem_calloc(c->n_cells + 2, sizeof *ranges);
    bool *done = mem_calloc(c->n_cells, sizeof *done);
    size_t n_kids = 0;
    for (size_t i = 0; i < c->n_cells; i++) {
        size_t n = 0;
        if (done[i] || to[i] == GRAMMAR_NONE) {
            continue;
        }
        for (size_t k = i; k < c->n_cells; k++) {
            if (to[k] == to[i]) {
                done[k] = true;
                ranges[n++] = (struct range){c->cells[k], c->cells[k + 1] - 1};
            }
        }
        bool all = n == c->n_cells;
        n = ranges_settle(ranges, n, false);
        uint32_t one = all ? any : class_expr(t, ranges, n);
        kids[n_kids++] = expr_seq(t, one, expr_rule(t, first_rule + to[i]));
    }
    if (accepts(c, state)) {
        kids[n_kids++] = expr_text(t, "");
    }
    e = n_kids ? expr_list(t, EXPR_ALT, kids, n_kids) : expr_class(t, NULL, 0, false);
    free(kids);
    free(ranges);
    free(done);
    return e;
}

static int make_rules(struct common *c, struct grammar_tree *t, uint32_t any, uint32_t *out,
                      struct err *err) {
    uint32_t *to = NULL;
    size_t cap = 0;
    int rc = -1;
    size_t from = c->n_words;
    word(c, 0);
    for (size_t k = 0; k < c->n_nfas; k++) {
        c->nfas[k].stamp++;
        todo_put(c, &c->nfas[k], c->nfas[k].start);
        close_nodes(c, &c->nfas[k], true);
    }
    intern(c, from);
    for (uint32_t s = 0; s < c->n_states; s++) {
        to = mem_grow(to, (s + 1) * c->n_cells, &cap, sizeof *to);
        for (size_t i = 0; i < c->n_cells; i++) {
            to[s * c->n_cells + i] = next_state(c, s, c->cells[i]);
            if (c->n_states >= MOST_STATES || c->work > MOST_WORK) {
                err_set(err, "a pattern, with the lengths and patterns beside it, is too large");
                goto out;
            }
        }
    }
    uint32_t first = (uint32_t)t->n_rules;
    for (uint32_t s = 0; s < c->n_states; s++) {
        grammar_rule_new(t, NULL, 0);
    }
    for (uint32_t s = 0; s < c->n_states && !t->full; s++) {
        uint32_t e = state_expr(c, t, s, to + s * c->n_cells, first, any);
        if (!t->full) {
            t->rules[first + s].expr = e;
        }
    }
    *out = expr_rule(t, first);
    rc = 0;
out:
    free(to);
    return rc;
}

/* The texts that are not allowed as a pattern of its own. */
static uint32_t others_expr(struct grammar_tree *t, const struct pattern_text *what) {
    uint32_t *kids = mem_calloc(what->n_others, sizeof *kids), *chars = NULL;
    size_t cap = 0;
    for (size_t i = 0; i < what->n_others; i++) {
        const struct value_string *s = what->others[i]->text;
        size_t n = 0, bytes;
        chars = mem_grow(chars, s->len + 2, &cap, sizeof *chars);
        chars[n++] = expr_token(t, "^", 1);
        for (size_t at = 0; at < s->len; at += bytes) {
            uint32_t ch = value_utf8_get(s->data + at, &bytes);
            chars[n++] = expr_class(t, &(struct range){ch, ch}, 1, false);
        }
        chars[n++] = expr_token(t, "$", 1);
        kids[i] = expr_list(t, EXPR_SEQ, chars, n);
    }
    uint32_t e = expr_list(t, EXPR_ALT, kids, what->n_others);
    free(kids);
    free(chars);
    return e;
}

uint32_t grammar_pattern_expr(struct grammar_tree *t, const struct pattern_text *what, uint32_t any,
                              struct err *err) {
    uint32_t out = GRAMMAR_NONE;
    if (what->n_patterns == 0 && what->n_others == 0) {
        return expr_repeat(t, any, what->least, what->most);
    }
    struct common *c = mem_calloc(1, sizeof *c);
    c->least = what->least;
    c->most = what->most;
    c->index = mem_alloc(2 * MOST_STATES * sizeof *c->index);
    memset(c->index, 0xff, 2 * MOST_STATES * sizeof *c->index);
    for (size_t i = 0; i < what->n_patterns + (what->n_others > 0); i++) {
        struct nfa *a = &c->nfas[c->n_nfas++];
        a->negated = i == what->n_patterns;
        uint32_t e = a->negated ? others_expr(&a->tree, what)
                                : grammar_regex_expr(&a->tree, what->patterns[i].text,
                                                     what->patterns[i].n, err);
        if (e == GRAMMAR_NONE) {
            goto out;
        }
        nfa_make(a, e);
        if (a->full || a->tree.full) {
            err_set(err, "a pattern is too large");
            goto out;
        }
    }
    make_cells(c);
    if (make_rules(c, t, any, &out, err) < 0) {
        out = GRAMMAR_NONE;
    }
out:
    for (size_t i = 0; i < c->n_nfas; i++) {
        grammar_tree_free(&c->nfas[i].tree);
        free(c->nfas[i].nodes);
        free(c->nfas[i].stamps);
    }
    free(c->cells);
    free(c->words);
    free(c->places);
    free(c->index);
    free(c->todo);
    free(c);
    return out;
}
