/* Statements: scopes, assignments, loops and macros. */
#include <string.h>

#include "format/text/template_internal.h"

/* What a statement leaves behind: 0, -1 for an error, or that a loop is left or goes on. */
enum { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

/* ---- scopes -------------------------------------------------------------------------------- */

struct template_scope *template_scope_new(struct template_run *run, struct template_scope *parent) {
    struct template_scope *scope = value_alloc(&run->arena, sizeof *scope);
    if (!scope) {
        template_no_memory(run);
        return NULL;
    }
    scope->parent = parent;
    return scope;
}

int template_bind(struct template_run *run, struct template_scope *scope, uint32_t id,
                  const struct value *v) {
    for (size_t i = 0; i < scope->n; i++) {
        if (scope->bindings[i].id == id) {
            scope->bindings[i].value = *v;
            return 0;
        }
    }
    if (scope->n == scope->cap) {
        size_t cap = scope->cap ? scope->cap * 2 : 4;
        struct template_binding *b = value_alloc(&run->arena, cap * sizeof *b);
        if (!b) {
            return template_no_memory(run);
        }
        if (scope->n) {
            memcpy(b, scope->bindings, scope->n * sizeof *b);
        }
        scope->bindings = b;
        scope->cap = cap;
    }
    scope->bindings[scope->n++] = (struct template_binding){id, *v};
    return template_spend(run, scope->n / 16);
}

/* Whoever refers to a scope later refers to those around it too. */
static void keep(struct template_scope *scope) {
    for (; scope && !scope->kept; scope = scope->parent) {
        scope->kept = true;
    }
}

/* The names that are undefined when a body's scope opens: template_names.c. */
static int bind_missing(struct template_run *run, struct template_scope *scope,
                        const struct template_node *body) {
    for (uint32_t i = 0; i < body->n_missing; i++) {
        uint32_t id = body->missing[i];
        struct value v = template_undefined(UNDEFINED_NAME, run->t->name_of[id]);
        if (template_bind(run, scope, id, &v)) {
            return -1;
        }
    }
    return 0;
}

int template_exec_scope(struct template_run *run, struct template_scope *scope,
                        const struct template_node *body) {
    struct template_scope *before = run->scope;
    run->scope = scope;
    int rc = bind_missing(run, scope, body) ? -1 : template_exec(run, body);
    run->scope = before;
    return rc;
}

static int exec_inner(struct template_run *run, const struct template_node *body) {
    struct template_scope *scope = template_scope_new(run, run->scope);
    return scope ? template_exec_scope(run, scope, body) : -1;
}

static int set_attribute(struct template_run *run, struct template_scope *scope,
                         const struct template_node *target, const struct value *v) {
    const struct value *space = NULL;
    for (; scope && !space; scope = scope->parent) {
        for (size_t i = 0; i < scope->n; i++) {
            if (scope->bindings[i].id == target->id) {
                space = &scope->bindings[i].value;
            }
        }
    }
    run->at = target;
    if (!space || !template_is(space, &template_class_namespace)) {
        return template_fail(run, "attributes are set of namespaces only, and '%s' is none",
                             target->value.text->data);
    }
    if (target->name->data[0] == '_') {
        return template_fail(run, "attributes of a namespace do not begin with '_'");
    }
    struct value key = {.type = VALUE_STRING, .text = target->name};
    struct value_dict *dict = ((struct template_namespace *)space->object)->dict.dict;
    return value_dict_set(&run->arena, dict, &key, v) ? template_no_memory(run) : 0;
}

int template_assign(struct template_run *run, struct template_scope *scope,
                    const struct template_node *target, const struct value *v) {
    struct template_iter *it = NULL;
    struct value item;
    if (target->type == NODE_NAME) {
        return template_bind(run, scope, target->id, v);
    }
    if (target->type == NODE_NSREF) {
        return set_attribute(run, scope, target, v);
    }
    run->at = target;
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    for (uint32_t i = 0; i < target->n; i++) {
        int rc = template_next(run, it, &item);
        if (rc <= 0) {
            return rc ? rc : template_fail(run, "%u values for %u names", i, target->n);
        }
        if (template_assign(run, scope, target->items[i], &item)) {
            return -1;
        }
    }
    int more = template_next(run, it, &item);
    return more > 0 ? template_fail(run, "more values than the %u names", target->n) : more;
}

/* ---- loops --------------------------------------------------------------------------------- */

static int condition_iter(struct template_run *run, const struct template_node *node,
                          struct template_scope *scope, struct template_iter **it) {
    struct template_iter *filtered;
    if (template_iter_new(run, *it, &filtered)) {
        return -1;
    }
    filtered->kind = ITER_CONDITION;
    filtered->node = node;
    filtered->scope = scope;
    *it = filtered;
    return 0;
}

static int loop_new(struct template_run *run, const struct template_node *node,
                    struct template_scope *scope, const struct value *iterable, unsigned depth0,
                    struct template_loop **out) {
    struct template_loop *loop = value_alloc(&run->arena, sizeof *loop);
    if (!loop) {
        return template_no_memory(run);
    }
    loop->object.class = &template_class_loop;
    loop->node = node;
    loop->scope = scope;
    loop->depth0 = depth0;
    loop->index0 = SIZE_MAX;
    loop->length = SIZE_MAX;
    loop->before = loop->current = template_undefined(UNDEFINED_NAME, NULL);
    run->at = node->b;
    if (template_iterate(run, iterable, &loop->iter) ||
        (node->c && condition_iter(run, node, scope, &loop->iter))) {
        return -1;
    }
    if (!node->c && !template_is(iterable, &template_class_generator) &&
        template_length(run, iterable, &loop->length)) {
        return -1;
    }
    *out = loop;
    return 0;
}

int template_loop_run(struct template_run *run, const struct template_node *node,
                      struct template_scope *scope, const struct value *iterable, unsigned depth0) {
    struct template_loop *loop = NULL;
    struct template_scope *inner = NULL, *before = run->scope;
    int more, flow = FLOW_NEXT;
    bool any = false;
    if (loop_new(run, node, scope, iterable, depth0, &loop)) {
        return -1;
    }
    struct value v = value_object(&loop->object);
    while ((more = template_loop_next(run, loop)) > 0) {
        any = true;
        if (!inner || inner->kept) {
            inner = template_scope_new(run, scope);
            if (!inner) {
                return -1;
            }
        }
        inner->n = 0;
        run->at = node;
        run->scope = inner;
        if (template_spend(run, 1) || bind_missing(run, inner, node->items[0]) ||
            template_bind(run, inner, NAME_LOOP, &v) ||
            template_assign(run, inner, node->a, &loop->current)) {
            return -1;
        }
        flow = template_exec(run, node->items[0]);
        if (flow < 0) {
            return -1;
        }
        if (flow == FLOW_BREAK) {
            break;
        }
    }
    run->scope = before;
    if (more < 0) {
        return -1;
    }
    if (any || !node->items[1]) {
        return FLOW_NEXT;
    }
    inner = template_scope_new(run, scope);
    return inner ? template_exec_scope(run, inner, node->items[1]) : -1;
}

/* ---- macros -------------------------------------------------------------------------------- */

int template_make_macro(struct template_run *run, const struct template_node *node,
                        struct value *out) {
    struct template_macro *macro = value_alloc(&run->arena, sizeof *macro);
    if (!macro) {
        return template_no_memory(run);
    }
    keep(run->scope);
    *macro = (struct template_macro){{&template_class_macro}, node, run->scope};
    *out = value_object(&macro->object);
    return 0;
}

/* ---- statements ---------------------------------------------------------------------------- */

static int exec_if(struct template_run *run, const struct template_node *node) {
    struct value v;
    for (; node && node->type == NODE_IF; node = node->c) {
        if (template_eval(run, node->a, &v)) {
            return -1;
        }
        if (value_truth(&v)) {
            return template_exec(run, node->b);
        }
    }
    return node ? template_exec(run, node) : FLOW_NEXT;
}

/* A block's text, in a scope of its own, and what filters make of it. */
static int exec_block(struct template_run *run, const struct template_node *node,
                      struct value *text) {
    size_t begin = run->out.len;
    struct template_scope *before = run->scope, *scope = template_scope_new(run, before);
    if (!scope) {
        return -1;
    }
    int flow = template_exec_scope(run, scope, node->c);
    if (flow) {
        run->out.len = begin; /* a block that is left has no text */
        return flow;
    }
    if (template_captured(run, begin, text)) {
        return -1;
    }
    if (!node->b) {
        return FLOW_NEXT;
    }
    run->scope = scope;
    int rc = template_apply(run, node->b, text, text);
    run->scope = before;
    return rc;
}

static int exec_with(struct template_run *run, const struct template_node *node) {
    struct template_scope *scope = template_scope_new(run, run->scope);
    struct value v;
    if (!scope) {
        return -1;
    }
    for (uint32_t i = 0; i < node->n; i += 2) {
        if (template_eval(run, node->items[i + 1], &v) ||
            template_assign(run, scope, node->items[i], &v)) {
            return -1;
        }
    }
    return template_exec_scope(run, scope, node->c);
}

static int exec_call(struct template_run *run, const struct template_node *node) {
    struct value macro, callee, out;
    struct template_call call;
    const struct template_node *at = node->b;
    if (template_make_macro(run, node->a, &macro) || template_eval(run, at->a, &callee) ||
        template_eval_args(run, at->args, &call)) {
        return -1;
    }
    run->at = at;
    struct template_call with = call;
    with.n_named++;
    with.names = value_alloc(&run->arena, with.n_named * sizeof *with.names);
    with.values = value_alloc(&run->arena, with.n_named * sizeof *with.values);
    if (!with.names || !with.values) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < call.n_named; i++) {
        with.names[i] = call.names[i];
        with.values[i] = call.values[i];
    }
    with.names[call.n_named] = run->t->name_of[NAME_CALLER];
    with.values[call.n_named] = macro;
    return template_invoke(run, &callee, &with, &out) ? -1 : template_emit(run, &out);
}

static int exec_statement(struct template_run *run, const struct template_node *node) {
    struct value v;
    int flow;
    switch (node->type) {
    case NODE_TEXT:
        return template_emit(run, &node->value);
    case NODE_PRINT:
        if (template_eval(run, node->a, &v)) {
            return -1;
        }
        run->at = node->a;
        return template_emit(run, &v);
    case NODE_IF:
        return exec_if(run, node);
    case NODE_FOR:
        return template_eval(run, node->b, &v) ? -1
                                               : template_loop_run(run, node, run->scope, &v, 0);
    case NODE_SET:
        return template_eval(run, node->b, &v) || template_assign(run, run->scope, node->a, &v) ? -1
                                                                                                : 0;
    case NODE_SET_BLOCK:
        flow = exec_block(run, node, &v);
        return flow ? flow : template_assign(run, run->scope, node->a, &v);
    case NODE_FILTER_BLOCK:
        flow = exec_block(run, node, &v);
        return flow ? flow : template_emit(run, &v);
    case NODE_MACRO:
        return template_make_macro(run, node, &v) || template_bind(run, run->scope, node->id, &v)
                   ? -1
                   : 0;
    case NODE_CALL_BLOCK:
        return exec_call(run, node);
    case NODE_WITH:
        return exec_with(run, node);
    case NODE_GENERATION:
        return exec_inner(run, node->c);
    case NODE_BREAK:
        return FLOW_BREAK;
    default:
        return FLOW_CONTINUE;
    }
}

static int exec_body(struct template_run *run, const struct template_node *body) {
    for (uint32_t i = 0; i < body->n; i++) {
        const struct template_node *node = body->items[i];
        run->at = node;
        int flow = template_spend(run, 1)    ? -1
                   : node->type == NODE_BODY ? exec_body(run, node)
                                             : exec_statement(run, node);
        if (flow) {
            return flow;
        }
    }
    return FLOW_NEXT;
}

int template_exec(struct template_run *run, const struct template_node *body) {
    if (template_enter(run)) {
        return -1;
    }
    int flow = exec_body(run, body);
    template_leave(run);
    return flow;
}
