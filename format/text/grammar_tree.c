/* The tree of expressions that a grammar's text or a schema becomes; see grammar_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_internal.h"

enum { LAST_CHARACTER = 0x10ffff, SURROGATES = 0xd800, BEHIND_SURROGATES = 0xe000 };

void grammar_tree_free(struct grammar_tree *t) {
    for (size_t i = 0; i < t->n_rules; i++) {
        free(t->rules[i].name);
    }
    for (size_t i = 0; i < t->n_tokens; i++) {
        free(t->tokens[i]);
    }
    free(t->exprs);
    free(t->ranges);
    free(t->kids);
    free(t->rules);
    free(t->tokens);
    buf_free(&t->bytes);
    *t = (struct grammar_tree){0};
}

/* Makes room for `more`; false, and the tree is full, where there would be too many. */
#define TREE_ROOM(t, array, more)                                                                  \
    (tree_fits(t, (t)->n_##array, more) &&                                                         \
     ((t)->array =                                                                                 \
          mem_grow((t)->array, (t)->n_##array + (more), &(t)->cap_##array, sizeof *(t)->array),    \
      true))

static bool tree_fits(struct grammar_tree *t, size_t n, size_t more) {
    t->full = t->full || n > GRAMMAR_MAX_NODES || more > GRAMMAR_MAX_NODES - n;
    return !t->full;
}

static uint32_t put(struct grammar_tree *t, enum expr_kind kind, uint32_t a, uint32_t b,
                    uint32_t c) {
    if (!TREE_ROOM(t, exprs, 1)) {
        return 0; /* whoever builds asks for `full` at the end */
    }
    t->exprs[t->n_exprs] = (struct expr){(uint8_t)kind, a, b, c};
    return (uint32_t)t->n_exprs++;
}

uint32_t expr_bytes(struct grammar_tree *t, const char *bytes, size_t n) {
    size_t at = t->bytes.len;
    if (!tree_fits(t, at, n)) {
        return 0;
    }
    buf_append(&t->bytes, bytes, n);
    return put(t, EXPR_BYTES, (uint32_t)at, (uint32_t)n, 0);
}

uint32_t expr_text(struct grammar_tree *t, const char *text) {
    return expr_bytes(t, text, strlen(text));
}

static int by_low(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* Appends low..high without the surrogates. */
static size_t add_characters(struct range *out, size_t n, uint32_t low, uint32_t high) {
    if (low < SURROGATES && low <= high) {
        out[n++] = (struct range){low, high < SURROGATES ? high : SURROGATES - 1};
    }
    low = low < BEHIND_SURROGATES ? BEHIND_SURROGATES : low;
    if (low <= high) {
        out[n++] = (struct range){low, high};
    }
    return n;
}

size_t ranges_settle(struct range *ranges, size_t n, bool negated) {
    struct range *joined = mem_alloc((n + 1) * sizeof *joined);
    size_t k = 0, out = 0;
    qsort(ranges, n, sizeof *ranges, by_low);
    for (size_t i = 0; i < n; i++) {
        if (k && ranges[i].low <= joined[k - 1].high + 1) {
            if (ranges[i].high > joined[k - 1].high) {
                joined[k - 1].high = ranges[i].high;
            }
        } else {
            joined[k++] = ranges[i];
        }
    }
    /* Only the one range that holds the surrogates becomes two, and what is left out of all is one
     * range more: room for two more is enough. */
    uint32_t next = 0;
    for (size_t i = 0; i < k; i++) {
        if (!negated) {
            out = add_characters(ranges, out, joined[i].low, joined[i].high);
        } else if (joined[i].low > next) {
            out = add_characters(ranges, out, next, joined[i].low - 1);
        }
        next = joined[i].high + 1;
    }
    if (negated && next <= LAST_CHARACTER) {
        out = add_characters(ranges, out, next, LAST_CHARACTER);
    }
    free(joined);
    return out;
}

uint32_t expr_class(struct grammar_tree *t, const struct range *ranges, size_t n, bool negated) {
    if (!TREE_ROOM(t, ranges, n + 2)) {
        return 0;
    }
    struct range *mine = t->ranges + t->n_ranges;
    size_t at = t->n_ranges;
    if (n) {
        memcpy(mine, ranges, n * sizeof *ranges);
    }
    n = ranges_settle(mine, n, negated);
    t->n_ranges += n;
    return put(t, EXPR_CLASS, (uint32_t)at, (uint32_t)n, 0);
}

uint32_t expr_list(struct grammar_tree *t, enum expr_kind kind, const uint32_t *kids, size_t n) {
    if (n == 1) {
        return kids[0];
    }
    if (!TREE_ROOM(t, kids, n + 1)) {
        return 0;
    }
    if (n) {
        memcpy(t->kids + t->n_kids, kids, n * sizeof *kids);
    }
    t->n_kids += n;
    return put(t, kind, (uint32_t)(t->n_kids - n), (uint32_t)n, 0);
}

uint32_t expr_repeat(struct grammar_tree *t, uint32_t what, uint32_t least, uint32_t most) {
    return put(t, EXPR_REPEAT, what, least, most);
}

uint32_t expr_rule(struct grammar_tree *t, uint32_t rule) {
    return put(t, EXPR_RULE, rule, 0, 0);
}

uint32_t expr_token(struct grammar_tree *t, const char *name, size_t n) {
    for (size_t i = 0; i < t->n_tokens; i++) {
        if (strlen(t->tokens[i]) == n && memcmp(t->tokens[i], name, n) == 0) {
            return put(t, EXPR_TOKEN, (uint32_t)i, 0, 0);
        }
    }
    t->full = t->full || t->n_tokens >= GRAMMAR_MAX_NAMED;
    if (!TREE_ROOM(t, tokens, 1)) {
        return 0;
    }
    char *copy = mem_alloc(n + 1);
    memcpy(copy, name, n);
    copy[n] = 0;
    t->tokens[t->n_tokens] = copy;
    return put(t, EXPR_TOKEN, (uint32_t)t->n_tokens++, 0, 0);
}

uint32_t grammar_rule_new(struct grammar_tree *t, const char *name, size_t n) {
    if (t->n_rules >= GRAMMAR_MAX_RULES) {
        t->full = true;
    }
    if (!TREE_ROOM(t, rules, 1)) {
        return 0;
    }
    char *copy = NULL;
    if (name) {
        copy = mem_alloc(n + 1);
        memcpy(copy, name, n);
        copy[n] = 0;
    }
    t->rules[t->n_rules] = (struct grammar_rule){.name = copy, .expr = GRAMMAR_NONE};
    return (uint32_t)t->n_rules++;
}
