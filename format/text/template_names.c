/* Which variables begin as undefined in which scope.
 *
 * A name that is read is looked up when it is: in the scopes around, then in the context. But
 * jinja2 decides before rendering whose variable a name is: a scope that assigns to a name (outside
 * an if) before it reads it, where no scope around knows that name, owns the variable from the
 * scope's beginning, and whoever reads it earlier, such as a macro or a loop above the assignment,
 * finds it undefined, even where the context has that name. Those names are listed here, at the
 * body that opens the scope. */
#include <stdlib.h>
#include <string.h>

#include "format/text/template_internal.h"

enum { NAMES_DEPTH = 1000 };

struct names {
    struct template *t;
    uint32_t *count; /* [n_names] scopes around, this one included, that know the name */
    uint32_t *stamp; /* [n_names] the last scope that did */
    uint32_t serial;
    uint32_t *known; /* the names that the scopes around know, innermost last */
    size_t n_known, cap_known;
    uint32_t *missing;
    size_t n_missing, cap_missing;
    unsigned depth;
    struct err *err;
};

static void know(struct names *x, uint32_t id) {
    if (x->stamp[id] != x->serial) {
        x->stamp[id] = x->serial;
        x->count[id]++;
        x->known = mem_grow(x->known, x->n_known + 1, &x->cap_known, sizeof *x->known);
        x->known[x->n_known++] = id;
    }
}

static void load(struct names *x, uint32_t id) {
    if (!x->count[id]) {
        know(x, id);
    }
}

static void store(struct names *x, uint32_t id, bool branch) {
    if (!x->count[id] && !branch) {
        x->missing = mem_grow(x->missing, x->n_missing + 1, &x->cap_missing, sizeof *x->missing);
        x->missing[x->n_missing++] = id;
    }
    know(x, id);
}

static void walk_target(struct names *x, const struct template_node *target, bool branch,
                        bool parameter) {
    if (target->type == NODE_TUPLE) {
        for (uint32_t i = 0; i < target->n; i++) {
            walk_target(x, target->items[i], branch, parameter);
        }
    } else if (target->type == NODE_NSREF) {
        load(x, target->id);
    } else {
        store(x, target->id, branch || parameter);
    }
}

static int walk(struct names *x, const struct template_node *n, bool branch);

static int walk_children(struct names *x, const struct template_node *n, bool branch) {
    for (uint32_t i = 0; i < n->n; i++) {
        if (walk(x, n->items[i], branch)) {
            return -1;
        }
    }
    for (uint32_t i = 0; n->args && i < n->args->n; i++) {
        if (walk(x, n->args->items[i], branch)) {
            return -1;
        }
    }
    for (uint32_t i = 0; n->args && i < n->args->n_named; i++) {
        if (walk(x, n->args->values[i], branch)) {
            return -1;
        }
    }
    return walk(x, n->a, branch) || walk(x, n->b, branch) || walk(x, n->c, branch) ||
                   (n->args &&
                    (walk(x, n->args->star, branch) || walk(x, n->args->star_star, branch)))
               ? -1
               : 0;
}

/* What a statement or expression reads and assigns in the present scope. */
static int walk_inner(struct names *x, const struct template_node *n, bool branch) {
    switch (n->type) {
    case NODE_NAME:
        load(x, n->id);
        return 0;
    case NODE_IF:
        return walk(x, n->a, branch) || walk(x, n->b, true) || walk(x, n->c, true) ? -1 : 0;
    case NODE_FOR:
    case NODE_CALL_BLOCK:
    case NODE_FILTER_BLOCK:
        return walk(x, n->b, branch);
    case NODE_SET:
        if (walk(x, n->b, branch)) {
            return -1;
        }
        walk_target(x, n->a, branch, false);
        return 0;
    case NODE_SET_BLOCK:
        walk_target(x, n->a, branch, false);
        return 0;
    case NODE_MACRO:
        store(x, n->id, branch);
        return 0;
    case NODE_WITH:
        for (uint32_t i = 1; i < n->n; i += 2) {
            if (walk(x, n->items[i], branch)) {
                return -1;
            }
        }
        return 0;
    case NODE_GENERATION:
        return 0;
    default:
        return walk_children(x, n, branch);
    }
}

static int walk(struct names *x, const struct template_node *n, bool branch) {
    if (!n) {
        return 0;
    }
    if (++x->depth > NAMES_DEPTH) {
        return template_fail_at(x->t, n->pos, x->err, "nested too deeply");
    }
    int rc = walk_inner(x, n, branch);
    x->depth--;
    return rc;
}

static int descend(struct names *x, const struct template_node *n);

/* A scope that `opener` opens with its body; `target` are the names that it brings. */
static int scope(struct names *x, const struct template_node *opener,
                 const struct template_node *target, struct template_node *body) {
    size_t n_known = x->n_known;
    int rc = -1;
    if (!body) {
        return 0;
    }
    x->serial++;
    x->n_missing = 0;
    if (target) {
        walk_target(x, target, false, true);
    }
    if (opener && opener->type == NODE_FOR && target) {
        know(x, NAME_LOOP);
    }
    if (opener && opener->type == NODE_WITH) {
        for (uint32_t i = 0; i < opener->n; i += 2) {
            walk_target(x, opener->items[i], false, true);
        }
    }
    if (opener && opener->type == NODE_MACRO) {
        static const uint32_t special[] = {NAME_CALLER, NAME_VARARGS, NAME_KWARGS};
        const bool uses[] = {opener->flag, opener->uses_varargs, opener->uses_kwargs};
        for (int i = 0; i < 3; i++) {
            if (uses[i]) {
                know(x, special[i]);
            }
        }
        for (uint32_t i = 0; i < opener->n; i++) {
            know(x, opener->items[i]->id);
        }
        for (uint32_t i = 0; i < opener->n; i++) {
            if (walk(x, opener->items[i]->a, false)) {
                return -1;
            }
        }
    }
    if (walk(x, body, false)) {
        return -1;
    }
    if (x->n_missing) {
        body->missing = value_alloc(&x->t->arena, x->n_missing * sizeof *x->missing);
        if (!body->missing) {
            return template_fail_at(x->t, body->pos, x->err, TEMPLATE_NO_MEMORY);
        }
        memcpy(body->missing, x->missing, x->n_missing * sizeof *x->missing);
        body->n_missing = (uint32_t)x->n_missing;
    }
    rc = descend(x, body);
    while (x->n_known > n_known) {
        x->count[x->known[--x->n_known]]--;
    }
    return rc;
}

/* The scopes that are opened within, the present one being known. */
static int descend_inner(struct names *x, const struct template_node *n) {
    switch (n->type) {
    case NODE_BODY:
        for (uint32_t i = 0; i < n->n; i++) {
            if (descend(x, n->items[i])) {
                return -1;
            }
        }
        return 0;
    case NODE_IF:
        return descend(x, n->b) || descend(x, n->c) ? -1 : 0;
    case NODE_FOR:
        return scope(x, n, n->a, n->items[0]) || scope(x, n, NULL, n->items[1]) ? -1 : 0;
    case NODE_CALL_BLOCK:
        return scope(x, n->a, NULL, n->a->c);
    case NODE_MACRO:
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK:
    case NODE_WITH:
    case NODE_GENERATION:
        return scope(x, n, NULL, n->c);
    default:
        return 0;
    }
}

static int descend(struct names *x, const struct template_node *n) {
    if (!n) {
        return 0;
    }
    if (++x->depth > NAMES_DEPTH) {
        return template_fail_at(x->t, n->pos, x->err, "nested too deeply");
    }
    int rc = descend_inner(x, n);
    x->depth--;
    return rc;
}

int template_settle_names(struct template *t, struct err *err) {
    struct names x = {.t = t, .err = err};
    x.count = mem_calloc(t->n_names, sizeof *x.count);
    x.stamp = mem_calloc(t->n_names, sizeof *x.stamp);
    int rc = scope(&x, NULL, NULL, t->body);
    free(x.count);
    free(x.stamp);
    free(x.known);
    free(x.missing);
    return rc;
}
