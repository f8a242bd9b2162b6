/*
 * What is known of a program before it runs: from each node the fewest bytes to the end of its
 * rule, which rules cannot end, which call themselves before anything else.
 *
 * The fewest bytes are Knuth's generalisation of Dijkstra's algorithm (Information Processing
 * Letters 6, 1977): nodes become final in the order of their lengths, and a node is made of final
 * ones. So the work does not depend on how a grammar's rules are ordered.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_internal.h"

/* A waiting node, the nearest first. */
struct wait {
    uint32_t length, node;
};
struct measure {
    struct grammar *g;
    uint32_t *first, *users; /* users[first[n] .. first[n + 1]) are the nodes that are made of n */
    bool *final;
    struct wait *heap;
    size_t n_heap, cap_heap;
};

static void heap_put(struct measure *m, uint32_t length, uint32_t node) {
    m->heap = mem_grow(m->heap, m->n_heap + 1, &m->cap_heap, sizeof *m->heap);
    size_t i = m->n_heap++;
    for (; i && m->heap[(i - 1) / 2].length > length; i = (i - 1) / 2) {
        m->heap[i] = m->heap[(i - 1) / 2];
    }
    m->heap[i] = (struct wait){length, node};
}

static struct wait heap_take(struct measure *m) {
    struct wait top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0;
    for (;;) {
        size_t kid = 2 * i + 1;
        if (kid + 1 < m->n_heap && m->heap[kid + 1].length < m->heap[kid].length) {
            kid++;
        }
        if (kid >= m->n_heap || m->heap[kid].length >= last.length) {
            break;
        }
        m->heap[i] = m->heap[kid];
        i = kid;
    }
    m->heap[i] = last;
    return top;
}

/* The nodes that `n` is made of; returns how many. */
static unsigned parts(const struct grammar *g, const struct node *n, uint32_t out[2]) {
    switch (n->op) {
    case NODE_BYTE:
        out[0] = n->x;
        return 1;
    case NODE_TOKEN:
        out[0] = n->y;
        return 1;
    case NODE_SPLIT:
    case NODE_CALL:
        out[0] = n->x;
        out[1] = n->y;
        return 2;
    case NODE_LOOP:
        out[0] = n->y;
        out[1] = g->loops[n->x].body;
        return g->loops[n->x].least ? 2 : 1;
    default:
        return 0;
    }
}

/* A node's length by those of its parts, of which some may not be known yet (endless). */
static uint32_t length_of(const struct grammar *g, const struct node *n) {
    uint32_t p[2];
    unsigned k = parts(g, n, p);
    uint32_t a = k > 0 ? g->nodes[p[0]].shortest : 0, b = k > 1 ? g->nodes[p[1]].shortest : 0;
    switch (n->op) {
    case NODE_BYTE:
    case NODE_TOKEN:
        return grammar_plus(a, 1);
    case NODE_SPLIT:
        return a < b ? a : b;
    case NODE_CALL:
        return grammar_plus(a, b);
    case NODE_LOOP:
        return k > 1 ? grammar_plus(a, grammar_times(b, g->loops[n->x].least)) : a;
    default:
        return GRAMMAR_ENDLESS;
    }
}

static void find_users(struct measure *m) {
    const struct grammar *g = m->g;
    uint32_t p[2];
    for (size_t i = 0; i < g->n_nodes; i++) {
        for (unsigned k = parts(g, &g->nodes[i], p); k-- > 0;) {
            m->first[p[k] + 1]++;
        }
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        m->first[i + 1] += m->first[i];
    }
    uint32_t *fill = mem_calloc(g->n_nodes + 1, sizeof *fill);
    for (size_t i = 0; i < g->n_nodes; i++) {
        for (unsigned k = parts(g, &g->nodes[i], p); k-- > 0;) {
            m->users[m->first[p[k]] + fill[p[k]]++] = (uint32_t)i;
        }
    }
    free(fill);
}

void grammar_measure(struct grammar *g) {
    struct measure m = {.g = g};
    m.first = mem_calloc(g->n_nodes + 1, sizeof *m.first);
    m.users = mem_calloc(2 * g->n_nodes + 1, sizeof *m.users);
    m.final = mem_calloc(g->n_nodes + 1, sizeof *m.final);
    find_users(&m);
    for (size_t i = 0; i < g->n_nodes; i++) {
        struct node *n = &g->nodes[i];
        bool end = n->op == NODE_RETURN || n->op == NODE_AGAIN;
        n->shortest = end ? 0 : GRAMMAR_ENDLESS;
        if (end) {
            heap_put(&m, 0, (uint32_t)i);
        }
    }
    while (m.n_heap) {
        struct wait w = heap_take(&m);
        if (m.final[w.node]) {
            continue;
        }
        m.final[w.node] = true;
        for (uint32_t u = m.first[w.node]; u < m.first[w.node + 1]; u++) {
            struct node *user = &g->nodes[m.users[u]];
            uint32_t length = length_of(g, user);
            if (length < user->shortest) {
                user->shortest = length;
                heap_put(&m, length, m.users[u]);
            }
        }
    }
    free(m.first);
    free(m.users);
    free(m.final);
    free(m.heap);
}

/* ---- rules that call themselves ------------------------------------------------------------ */

/* What can be reached from a node without a byte: calls are edges to the rules that they call.
 * Depth first with a list of our own; a rule's entry that is met again while it is open calls
 * itself. */
struct walk {
    const struct grammar *g;
    uint32_t *mark;  /* [n_nodes] the rule (plus one) on whose behalf a node was last looked at */
    uint32_t *stack; /* nodes */
    size_t n_stack, cap_stack;
    uint32_t *calls; /* entries that the rule calls before a byte, of all open rules */
    size_t n_calls, cap_calls;
};

static void push(struct walk *w, uint32_t node, uint32_t mark) {
    if (w->mark[node] != mark) {
        w->mark[node] = mark;
        w->stack = mem_grow(w->stack, w->n_stack + 1, &w->cap_stack, sizeof *w->stack);
        w->stack[w->n_stack++] = node;
    }
}

/* Appends the entries that are called from `entry` on before any byte. */
static void first_calls(struct walk *w, uint32_t entry, uint32_t mark) {
    push(w, entry, mark);
    while (w->n_stack) {
        const struct node *n = &w->g->nodes[w->stack[--w->n_stack]];
        if (n->op == NODE_SPLIT) {
            push(w, n->x, mark);
            push(w, n->y, mark);
        } else if (n->op == NODE_CALL) {
            w->calls = mem_grow(w->calls, w->n_calls + 1, &w->cap_calls, sizeof *w->calls);
            w->calls[w->n_calls++] = n->x;
            if (w->g->nodes[n->x].shortest == 0) {
                push(w, n->y, mark);
            }
        } else if (n->op == NODE_LOOP) {
            const struct loop *l = &w->g->loops[n->x];
            push(w, l->body, mark);
            if (l->least == 0 || w->g->nodes[l->body].shortest == 0) {
                push(w, n->y, mark);
            }
        }
    }
}

enum { FRESH, OPEN, DONE };
struct visit {
    uint32_t entry;
    size_t calls; /* where its calls begin; those before `n_calls` are still to be followed */
};

/* The entry of a rule that calls itself first, or GRAMMAR_NONE. `state` [n_nodes] is of entries. */
static uint32_t find_left(struct walk *w, uint32_t entry, uint8_t *state, uint32_t *mark) {
    struct visit *open = NULL;
    size_t n = 0, cap = 0;
    uint32_t found = GRAMMAR_NONE;
    for (uint32_t next = entry; next != GRAMMAR_NONE || n;) {
        if (next != GRAMMAR_NONE) {
            open = mem_grow(open, n + 1, &cap, sizeof *open);
            open[n++] = (struct visit){next, w->n_calls};
            state[next] = OPEN;
            first_calls(w, next, ++*mark);
            next = GRAMMAR_NONE;
        }
        if (w->n_calls > open[n - 1].calls) {
            uint32_t callee = w->calls[--w->n_calls];
            if (state[callee] == OPEN) {
                found = callee;
                break;
            }
            next = state[callee] == FRESH ? callee : GRAMMAR_NONE;
        } else {
            state[open[--n].entry] = DONE;
        }
    }
    free(open);
    return found;
}

static int rule_error(const struct grammar_rule *r, const char *what, struct err *err) {
    return r->name ? err_set(err, "line %u, column %u: the rule %s %s", r->line, r->column, r->name,
                             what)
                   : err_set(err, "the schema %s", what);
}

int grammar_check(const struct grammar *g, const struct grammar_tree *t, const uint32_t *entries,
                  struct err *err) {
    struct walk w = {.g = g};
    uint8_t *state = mem_calloc(g->n_nodes + 1, 1);
    uint32_t mark = 0;
    int rc = 0;
    w.mark = mem_calloc(g->n_nodes + 1, sizeof *w.mark);
    for (size_t r = 0; r < t->n_rules && rc == 0; r++) {
        if (g->nodes[entries[r]].shortest == GRAMMAR_ENDLESS && (t->rules[r].name || r == 0)) {
            rc = rule_error(&t->rules[r], "can never end", err);
        }
    }
    for (size_t r = 0; r < t->n_rules && rc == 0; r++) {
        uint32_t left =
            state[entries[r]] == FRESH ? find_left(&w, entries[r], state, &mark) : GRAMMAR_NONE;
        for (size_t k = 0; k < t->n_rules && left != GRAMMAR_NONE; k++) {
            if (entries[k] == left) {
                rc = rule_error(&t->rules[k], "calls itself before anything else", err);
                left = GRAMMAR_NONE;
            }
        }
    }
    free(state);
    free(w.mark);
    free(w.stack);
    free(w.calls);
    return rc;
}
