/* Expressions: nodes into values. */
#include <string.h>

#include "format/text/template_internal.h"

/* ---- names --------------------------------------------------------------------------------- */

static int eval_name(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    for (const struct template_scope *s = run->scope; s; s = s->parent) {
        for (size_t i = 0; i < s->n; i++) {
            if (s->bindings[i].id == node->id) {
                *out = s->bindings[i].value;
                return 0;
            }
        }
    }
    const struct value *given =
        run->context && run->context->type == VALUE_DICT
            ? value_dict_get_text(run->context->dict, node->name->data, node->name->len)
            : NULL;
    if (given) {
        *out = *given;
        return 0;
    }
    if (template_global(run, node->name, out)) {
        return 0;
    }
    *out = template_undefined(UNDEFINED_NAME, node->name);
    return 0;
}

/* ---- lists and dicts ------------------------------------------------------------------------ */

static int eval_items(struct template_run *run, const struct template_node *node,
                      struct value **items) {
    *items = value_alloc(&run->arena, node->n * sizeof(struct value));
    if (!*items) {
        return template_no_memory(run);
    }
    for (uint32_t i = 0; i < node->n; i++) {
        if (template_eval(run, node->items[i], &(*items)[i])) {
            return -1;
        }
    }
    return 0;
}

static int eval_list(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    struct value *items;
    enum value_type type = node->type == NODE_LIST ? VALUE_LIST : VALUE_TUPLE;
    return eval_items(run, node, &items) ? -1 : template_list(run, type, items, node->n, out);
}

static int eval_dict(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    struct value *items;
    if (eval_items(run, node, &items)) {
        return -1;
    }
    if (value_make_dict(&run->arena, out)) {
        return template_no_memory(run);
    }
    for (uint32_t i = 0; i < node->n; i += 2) {
        run->at = node->items[i];
        if (template_spend_on(run, &items[i])) {
            return -1;
        }
        if (!value_hashable(&items[i])) {
            return template_fail(run, "a value of type %s cannot be a key",
                                 value_type_name(&items[i]));
        }
        if (value_dict_set(&run->arena, out->dict, &items[i], &items[i + 1])) {
            return template_no_memory(run);
        }
    }
    return 0;
}

/* str() of all, one behind the other. */
static int eval_concat(struct template_run *run, const struct template_node *node,
                       struct value *out) {
    struct value *items, text;
    if (eval_items(run, node, &items)) {
        return -1;
    }
    size_t begin = run->scratch.len;
    run->at = node;
    for (uint32_t i = 0; i < node->n; i++) {
        if (template_text_of(run, &items[i], &text) ||
            template_scratch(run, text.text->data, text.text->len)) {
            return -1;
        }
    }
    return template_from_scratch(run, begin, out);
}

/* ---- operators ----------------------------------------------------------------------------- */

static int eval_compare(struct template_run *run, const struct template_node *node,
                        struct value *out) {
    struct value left, right;
    bool is = true;
    if (template_eval(run, node->a, &left)) {
        return -1;
    }
    for (uint32_t i = 0; i < node->n && is; i++) {
        if (template_eval(run, node->items[i], &right)) {
            return -1;
        }
        run->at = node;
        if (template_compare(run, (enum template_op)node->ops[i], &left, &right, &is)) {
            return -1;
        }
        left = right;
    }
    *out = value_bool(is);
    return 0;
}

static int negate_big(struct template_run *run, const struct value_string *digits,
                      struct value *out) {
    size_t begin = run->scratch.len;
    bool negative = digits->data[0] == '-';
    if (!strcmp(digits->data, "9223372036854775808")) {
        *out = value_int(INT64_MIN);
        return 0;
    }
    if (template_scratch(run, "-", !negative) ||
        template_scratch(run, digits->data + negative, digits->len - negative) ||
        template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->type = VALUE_BIGINT;
    return 0;
}

static int eval_sign(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    struct value v;
    if (template_eval(run, node->a, &v)) {
        return -1;
    }
    run->at = node;
    if (template_need_defined(run, &v)) {
        return -1;
    }
    if (v.type == VALUE_BOOL) {
        v = value_int(v.boolean);
    }
    if (v.type == VALUE_FLOAT) {
        *out = value_float(node->type == NODE_NEG ? -v.number : v.number);
        return 0;
    }
    if (node->type == NODE_POS && (v.type == VALUE_INT || v.type == VALUE_BIGINT)) {
        *out = v;
        return 0;
    }
    struct value zero = value_int(0);
    if (v.type == VALUE_BIGINT) {
        return negate_big(run, v.text, out);
    }
    if (v.type != VALUE_INT) {
        return template_fail(run, "a sign before a value of type %s", value_type_name(&v));
    }
    return template_binary(run, OP_SUB, &zero, &v, out);
}

static int eval_logical(struct template_run *run, const struct template_node *node,
                        struct value *out) {
    if (template_eval(run, node->a, out)) {
        return -1;
    }
    return value_truth(out) == (node->type == NODE_AND) ? template_eval(run, node->b, out) : 0;
}

static int eval_condition(struct template_run *run, const struct template_node *node,
                          struct value *out) {
    struct value test;
    if (template_eval(run, node->a, &test)) {
        return -1;
    }
    if (value_truth(&test)) {
        return template_eval(run, node->b, out);
    }
    if (node->c) {
        return template_eval(run, node->c, out);
    }
    return template_undefined_hint(
        run, "the inline if-expression is false, and has no else that says what it is then", out);
}

/* ---- calls --------------------------------------------------------------------------------- */

/* What `*list` and `**dict` add. */
static int eval_stars(struct template_run *run, const struct template_args *args,
                      struct template_call *call) {
    struct value star, all;
    if (args->star) {
        if (template_eval(run, args->star, &star) || template_collect(run, &star, &all)) {
            return -1;
        }
        struct value *joined = value_alloc(&run->arena, (call->n + all.list->n) * sizeof *joined);
        if (!joined) {
            return template_no_memory(run);
        }
        memcpy(joined, call->args, call->n * sizeof *joined);
        for (size_t i = 0; i < all.list->n; i++) {
            joined[call->n + i] = all.list->items[i];
        }
        call->args = joined;
        call->n += all.list->n;
    }
    if (!args->star_star) {
        return 0;
    }
    if (template_eval(run, args->star_star, &star)) {
        return -1;
    }
    if (star.type != VALUE_DICT) {
        return template_fail(run, "** before a value of type %s: a dict is expected",
                             value_type_name(&star));
    }
    size_t n = call->n_named + star.dict->n;
    const struct value_string **names = value_alloc(&run->arena, n * sizeof *names);
    struct value *values = value_alloc(&run->arena, n * sizeof *values);
    if (!names || !values) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < n; i++) {
        size_t j = i - call->n_named;
        bool own = i < call->n_named;
        if (!own && star.dict->pairs[j].key.type != VALUE_STRING) {
            return template_fail(run, "** before a dict with keys that are no strings");
        }
        names[i] = own ? call->names[i] : star.dict->pairs[j].key.text;
        values[i] = own ? call->values[i] : star.dict->pairs[j].value;
        for (size_t k = 0; !own && k < call->n_named; k++) {
            if (names[k]->len == names[i]->len &&
                !memcmp(names[k]->data, names[i]->data, names[i]->len)) {
                return template_fail(run, "argument '%s' is given twice", names[i]->data);
            }
        }
    }
    call->names = names;
    call->values = values;
    call->n_named = n;
    return 0;
}

int template_eval_args(struct template_run *run, const struct template_args *args,
                       struct template_call *call) {
    *call = (struct template_call){0};
    if (!args) {
        return 0;
    }
    call->args = value_alloc(&run->arena, args->n * sizeof *call->args);
    call->values = value_alloc(&run->arena, args->n_named * sizeof *call->values);
    if (!call->args || !call->values) {
        return template_no_memory(run);
    }
    call->n = args->n;
    call->n_named = args->n_named;
    call->names = args->names;
    for (uint32_t i = 0; i < args->n; i++) {
        if (template_eval(run, args->items[i], &call->args[i])) {
            return -1;
        }
    }
    for (uint32_t i = 0; i < args->n_named; i++) {
        if (template_eval(run, args->values[i], &call->values[i])) {
            return -1;
        }
    }
    return args->star || args->star_star ? eval_stars(run, args, call) : 0;
}

int template_invoke(struct template_run *run, const struct value *callee,
                    struct template_call *call, struct value *out) {
    if (template_need_defined(run, callee)) {
        return -1;
    }
    if (callee->type != VALUE_OBJECT) {
        return template_fail(run, "a value of type %s cannot be called", value_type_name(callee));
    }
    return template_call_object(run, callee, call, out);
}

/* A method is called without being made a value first, which is what nearly all calls are. */
static int eval_call(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    struct template_call call;
    struct value callee;
    if (template_eval(run, node->a, &callee) || template_eval_args(run, node->args, &call)) {
        return -1;
    }
    run->at = node;
    return template_invoke(run, &callee, &call, out);
}

static int eval_filter(struct template_run *run, const struct template_node *node,
                       const struct value *subject, struct value *out) {
    struct template_call call;
    if (!node->row) {
        return template_fail(run, "no filter '%s' is known", node->name->data);
    }
    if (template_eval_args(run, node->args, &call)) {
        return -1;
    }
    run->at = node;
    return template_run_filter(run, node->row, subject, &call, out);
}

int template_apply(struct template_run *run, const struct template_node *node,
                   const struct value *subject, struct value *out) {
    struct value inner = *subject;
    if (template_enter(run) || (node->a && template_apply(run, node->a, subject, &inner))) {
        return -1;
    }
    run->at = node;
    int rc = eval_filter(run, node, &inner, out);
    template_leave(run);
    return rc;
}

static int eval_test(struct template_run *run, const struct template_node *node,
                     struct value *out) {
    struct template_call call;
    struct value v;
    bool is;
    if (!node->row) {
        return template_fail(run, "no test '%s' is known", node->name->data);
    }
    if (template_eval(run, node->a, &v) || template_eval_args(run, node->args, &call)) {
        return -1;
    }
    run->at = node;
    if (template_run_test(run, node->row, &v, &call, &is)) {
        return -1;
    }
    *out = value_bool(is);
    return 0;
}

/* ---- all of them --------------------------------------------------------------------------- */

static int eval_slice(struct template_run *run, const struct template_node *node,
                      struct value *out) {
    struct value v, bounds[3];
    if (template_eval(run, node->a, &v)) {
        return -1;
    }
    for (int i = 0; i < 3; i++) {
        bounds[i] = value_none();
        if (node->items[i] && template_eval(run, node->items[i], &bounds[i])) {
            return -1;
        }
    }
    run->at = node;
    return template_slice(run, &v, bounds, out);
}

static int eval_two(struct template_run *run, const struct template_node *node, struct value *out) {
    struct value a, b;
    if (template_eval(run, node->a, &a) || template_eval(run, node->b, &b)) {
        return -1;
    }
    run->at = node;
    return node->type == NODE_ITEM ? template_get_item(run, &a, &b, out)
                                   : template_binary(run, (enum template_op)node->op, &a, &b, out);
}

static int eval_one(struct template_run *run, const struct template_node *node, struct value *out) {
    struct value a;
    if (template_eval(run, node->a, &a)) {
        return -1;
    }
    run->at = node;
    switch (node->type) {
    case NODE_ATTR:
        return template_get_attr(run, &a, node->name, out);
    case NODE_FILTER:
        return eval_filter(run, node, &a, out);
    default:
        *out = value_bool(!value_truth(&a));
        return 0;
    }
}

static int eval_any(struct template_run *run, const struct template_node *node, struct value *out) {
    switch (node->type) {
    case NODE_CONST:
        *out = node->value;
        return 0;
    case NODE_NAME:
        return eval_name(run, node, out);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_list(run, node, out);
    case NODE_DICT:
        return eval_dict(run, node, out);
    case NODE_SLICE:
        return eval_slice(run, node, out);
    case NODE_CALL:
        return eval_call(run, node, out);
    case NODE_ATTR:
    case NODE_FILTER:
    case NODE_NOT:
        return eval_one(run, node, out);
    case NODE_TEST:
        return eval_test(run, node, out);
    case NODE_NEG:
    case NODE_POS:
        return eval_sign(run, node, out);
    case NODE_AND:
    case NODE_OR:
        return eval_logical(run, node, out);
    case NODE_COND:
        return eval_condition(run, node, out);
    case NODE_ITEM:
    case NODE_BINARY:
        return eval_two(run, node, out);
    case NODE_CONCAT:
        return eval_concat(run, node, out);
    default:
        return eval_compare(run, node, out);
    }
}

int template_eval(struct template_run *run, const struct template_node *node, struct value *out) {
    run->at = node;
    if (template_spend(run, 1) || template_enter(run)) {
        return -1;
    }
    int rc = eval_any(run, node, out);
    template_leave(run);
    return rc;
}
