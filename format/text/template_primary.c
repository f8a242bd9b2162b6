/* What the operands of operators are: names, literals, and what stands behind them: attributes,
 * elements, calls, filters and tests. */
#include <string.h>

#include "format/text/template_internal.h"

int template_node_of(struct template_parser *p, enum template_node_type type, enum template_op op,
                     size_t pos, struct template_node *a, struct template_node *b,
                     struct template_node **out) {
    struct template_node *node = template_node_new(p, type, pos);
    if (!node) {
        return -1;
    }
    node->op = (uint8_t)op;
    node->a = a;
    node->b = b;
    *out = node;
    return 0;
}

/* ---- arguments ----------------------------------------------------------------------------- */

static bool next_is_assign(const struct template_parser *p) {
    return p->at->kind == TOKEN_NAME && p->at[1].kind == TOKEN_OPERATOR && p->at[1].op[0] == '=' &&
           !p->at[1].op[1];
}

/* One argument, pushed to the stack: a named one as a node whose name is set and value is `a`. */
static int parse_argument(struct template_parser *p, struct template_args *args) {
    struct template_node *node, *named = NULL;
    size_t pos = p->at->pos;
    if (template_skip_op(p, "*")) {
        return args->star || args->star_star
                   ? template_parse_error(p, p->at, "a second list of arguments")
                   : template_parse_expression(p, true, &args->star);
    }
    if (template_skip_op(p, "**")) {
        return args->star_star ? template_parse_error(p, p->at, "a second dict of arguments")
                               : template_parse_expression(p, true, &args->star_star);
    }
    if (next_is_assign(p)) {
        if (args->star_star) {
            return template_parse_error(p, p->at, "an argument behind those of a dict");
        }
        named = template_node_new(p, NODE_NAME, pos);
        if (!named) {
            return -1;
        }
        named->name = p->at->value.text;
        p->at += 2;
        args->n_named++;
    } else if (args->star || args->star_star || args->n_named) {
        return template_parse_error(p, p->at, "an argument without a name behind others");
    }
    if (template_parse_expression(p, true, &node)) {
        return -1;
    }
    if (named) {
        named->a = node;
    } else {
        args->n++;
    }
    return template_push(p, named ? named : node);
}

static int finish_args(struct template_parser *p, size_t begin, struct template_args *args) {
    args->items = template_parse_alloc(p, args->n * sizeof(void *));
    args->names = args->items ? template_parse_alloc(p, args->n_named * sizeof(void *)) : NULL;
    args->values = args->names ? template_parse_alloc(p, args->n_named * sizeof(void *)) : NULL;
    if (!args->values) {
        return -1;
    }
    for (uint32_t i = 0; i < args->n; i++) {
        args->items[i] = p->stack[begin + i];
    }
    for (uint32_t i = 0; i < args->n_named; i++) {
        const struct template_node *named = p->stack[begin + args->n + i];
        args->names[i] = named->name;
        args->values[i] = named->a;
        for (uint32_t j = 0; j < i; j++) {
            if (args->names[j]->len == named->name->len &&
                !memcmp(args->names[j]->data, named->name->data, named->name->len)) {
                return template_parse_error(p, p->at, "argument '%s' is given twice",
                                            named->name->data);
            }
        }
    }
    p->n_stack = begin;
    return 0;
}

static int parse_args(struct template_parser *p, const struct template_args **out) {
    struct template_args *args = template_parse_alloc(p, sizeof *args);
    size_t begin = p->n_stack;
    bool comma = false;
    if (!args || template_expect_op(p, "(")) {
        return -1;
    }
    while (!template_is_op(p, ")")) {
        if (comma) {
            if (template_expect_op(p, ",")) {
                return -1;
            }
            if (template_is_op(p, ")")) {
                break;
            }
        }
        if (parse_argument(p, args)) {
            return -1;
        }
        comma = true;
    }
    *out = args;
    return template_expect_op(p, ")") ? -1 : finish_args(p, begin, args);
}

/* ---- what stands behind a primary ----------------------------------------------------------- */

static int parse_bound(struct template_parser *p, struct template_node **out) {
    *out = NULL;
    if (template_is_op(p, ":") || template_is_op(p, "]") || template_is_op(p, ",")) {
        return 0;
    }
    return template_parse_expression(p, true, out);
}

static int parse_brackets(struct template_parser *p, struct template_node **node) {
    struct template_node *bounds[3] = {0}, *made;
    size_t pos = p->at[-1].pos, begin = p->n_stack;
    bool slice = template_is_op(p, ":");
    if (!slice) {
        if (template_parse_expression(p, true, &bounds[0])) {
            return -1;
        }
        slice = template_is_op(p, ":");
    }
    if (slice) {
        for (int i = 1; i < 3 && template_skip_op(p, ":"); i++) {
            if (parse_bound(p, &bounds[i])) {
                return -1;
            }
        }
        made = template_node_new(p, NODE_SLICE, pos);
        for (int i = 0; made && i < 3; i++) {
            if (template_push(p, bounds[i])) {
                return -1;
            }
        }
        if (!made || template_take_items(p, begin, made)) {
            return -1;
        }
    } else if (template_is_op(p, ",")) { /* x[1, 2] has a tuple as its key */
        struct template_node *key = template_node_new(p, NODE_TUPLE, pos);
        if (!key || template_push(p, bounds[0])) {
            return -1;
        }
        while (template_skip_op(p, ",") && !template_is_op(p, "]")) {
            struct template_node *item;
            if (template_parse_expression(p, true, &item) || template_push(p, item)) {
                return -1;
            }
        }
        if (template_take_items(p, begin, key) ||
            template_node_of(p, NODE_ITEM, 0, pos, *node, key, &made)) {
            return -1;
        }
    } else if (template_node_of(p, NODE_ITEM, 0, pos, *node, bounds[0], &made)) {
        return -1;
    }
    made->a = *node;
    *node = made;
    return template_expect_op(p, "]");
}

static int parse_dot(struct template_parser *p, struct template_node **node) {
    const struct template_token *name = p->at;
    struct template_node *made, *key;
    if (name->kind == TOKEN_NAME) {
        made = template_node_new(p, NODE_ATTR, name->pos);
        if (!made) {
            return -1;
        }
        made->name = name->value.text;
        made->a = *node;
    } else if (name->kind == TOKEN_INTEGER) {
        key = template_node_new(p, NODE_CONST, name->pos);
        if (!key || template_node_of(p, NODE_ITEM, 0, name->pos, *node, key, &made)) {
            return -1;
        }
        key->value = name->value;
    } else {
        return template_parse_error(p, name, "expected a name or number behind '.'");
    }
    p->at++;
    *node = made;
    return 0;
}

static int parse_call(struct template_parser *p, struct template_node **node) {
    struct template_node *made = template_node_new(p, NODE_CALL, p->at->pos);
    if (!made || parse_args(p, &made->args)) {
        return -1;
    }
    made->a = *node;
    *node = made;
    return 0;
}

int template_parse_postfix(struct template_parser *p, struct template_node **node) {
    for (;;) {
        int rc;
        if (template_skip_op(p, ".")) {
            rc = parse_dot(p, node);
        } else if (template_skip_op(p, "[")) {
            rc = parse_brackets(p, node);
        } else if (template_is_op(p, "(")) {
            rc = parse_call(p, node);
        } else {
            return 0;
        }
        if (rc) {
            return -1;
        }
    }
}

int template_parse_filters(struct template_parser *p, bool first_has_no_bar,
                           struct template_node *node, struct template_node **out) {
    while (first_has_no_bar || template_skip_op(p, "|")) {
        const struct template_token *name = p->at;
        first_has_no_bar = false;
        if (template_expect(p, TOKEN_NAME, "the name of a filter")) {
            return -1;
        }
        struct template_node *made = template_node_new(p, NODE_FILTER, name->pos);
        if (!made) {
            return -1;
        }
        made->name = name->value.text;
        made->row = template_find_filter(made->name);
        made->a = node;
        if (!made->row && !p->unknown) {
            p->unknown = name;
        }
        if (template_is_op(p, "(") && parse_args(p, &made->args)) {
            return -1;
        }
        node = made;
    }
    *out = node;
    return 0;
}

/* Whether a token can begin the argument of a test that has no parentheses. */
static bool begins_argument(const struct template_parser *p) {
    switch (p->at->kind) {
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    case TOKEN_NAME:
        return !template_is_name(p, "else") && !template_is_name(p, "or") &&
               !template_is_name(p, "and");
    default:
        return template_is_op(p, "[") || template_is_op(p, "{");
    }
}

/* Behind `is`. */
static int parse_test(struct template_parser *p, struct template_node **node) {
    size_t pos = p->at[-1].pos;
    bool negated = template_skip_name(p, "not");
    const struct template_token *name = p->at;
    struct template_node *made, *argument;
    if (template_expect(p, TOKEN_NAME, "the name of a test")) {
        return -1;
    }
    made = template_node_new(p, NODE_TEST, name->pos);
    if (!made) {
        return -1;
    }
    made->name = name->value.text;
    made->row = template_find_test(made->name);
    made->a = *node;
    if (!made->row && !p->unknown) {
        p->unknown = name;
    }
    if (template_is_op(p, "(")) {
        if (parse_args(p, &made->args)) {
            return -1;
        }
    } else if (begins_argument(p)) {
        struct template_args *args = template_parse_alloc(p, sizeof *args);
        size_t begin = p->n_stack;
        if (template_is_name(p, "is")) {
            return template_parse_error(p, p->at, "a test of a test");
        }
        if (!args || template_parse_primary(p, false, &argument) ||
            template_parse_postfix(p, &argument) || template_push(p, argument)) {
            return -1;
        }
        args->n = 1;
        if (finish_args(p, begin, args)) {
            return -1;
        }
        made->args = args;
    }
    *node = made;
    return negated ? template_node_of(p, NODE_NOT, 0, pos, made, NULL, node) : 0;
}

int template_parse_suffix(struct template_parser *p, struct template_node **node) {
    for (;;) {
        int rc;
        if (template_is_op(p, "|")) {
            rc = template_parse_filters(p, false, *node, node);
        } else if (template_skip_name(p, "is")) {
            rc = parse_test(p, node);
        } else if (template_is_op(p, "(")) {
            rc = parse_call(p, node);
        } else {
            return 0;
        }
        if (rc) {
            return -1;
        }
    }
}

/* ---- primaries ----------------------------------------------------------------------------- */

static int parse_items(struct template_parser *p, enum template_node_type type, const char *end,
                       struct template_node **out) {
    size_t begin = p->n_stack;
    struct template_node *item, *made = template_node_new(p, type, p->at[-1].pos);
    if (!made) {
        return -1;
    }
    while (!template_is_op(p, end)) {
        if (p->n_stack > begin) {
            if (template_expect_op(p, ",")) {
                return -1;
            }
            if (template_is_op(p, end)) {
                break;
            }
        }
        if (template_parse_expression(p, true, &item) || template_push(p, item)) {
            return -1;
        }
        if (type == NODE_DICT &&
            (template_expect_op(p, ":") || template_parse_expression(p, true, &item) ||
             template_push(p, item))) {
            return -1;
        }
    }
    *out = made;
    return template_expect_op(p, end) ? -1 : template_take_items(p, begin, made);
}

static void note_use(struct template_parser *p, uint32_t id) {
    for (size_t i = 0; id < NAME_N_SPECIAL && i < p->n_macros; i++) {
        p->macro_uses[i] |= (uint8_t)(1u << id);
    }
}

static int parse_name(struct template_parser *p, bool with_namespace, struct template_node **out) {
    static const struct {
        const char *name;
        struct value value;
    } constants[] = {
        {"true", {.type = VALUE_BOOL, .boolean = true}},
        {"True", {.type = VALUE_BOOL, .boolean = true}},
        {"false", {.type = VALUE_BOOL}},
        {"False", {.type = VALUE_BOOL}},
        {"none", {.type = VALUE_NONE}},
        {"None", {.type = VALUE_NONE}},
    };
    const struct template_token *name = p->at++;
    struct template_node *node = template_node_new(p, NODE_NAME, name->pos);
    *out = node;
    if (!node) {
        return -1;
    }
    node->name = name->value.text;
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (value_is_string(&name->value, constants[i].name)) {
            node->type = NODE_CONST;
            node->value = constants[i].value;
            return 0;
        }
    }
    if (template_name_id(p, node->name, &node->id)) {
        return -1;
    }
    if (with_namespace && template_skip_op(p, ".")) {
        const struct template_token *attribute = p->at;
        if (template_expect(p, TOKEN_NAME, "the name of an attribute")) {
            return -1;
        }
        node->type = NODE_NSREF;
        node->value = name->value;
        node->name = attribute->value.text;
    }
    note_use(p, node->id);
    return 0;
}

static int parse_string(struct template_parser *p, struct template_node **out) {
    struct template_node *node = template_node_new(p, NODE_CONST, p->at->pos);
    struct buf joined = {0};
    int rc = 0;
    *out = node;
    if (!node) {
        return -1;
    }
    node->value = p->at++->value;
    if (p->at->kind != TOKEN_STRING) {
        template_note_literal(p, &node->value);
        return 0;
    }
    buf_append(&joined, node->value.text->data, node->value.text->len);
    for (; p->at->kind == TOKEN_STRING; p->at++) {
        buf_append(&joined, p->at->value.text->data, p->at->value.text->len);
    }
    if (value_make_string(&p->t->arena, joined.data, joined.len, &node->value)) {
        rc = template_parse_memory(p);
    } else {
        template_note_literal(p, &node->value);
    }
    buf_free(&joined);
    return rc;
}

int template_parse_primary(struct template_parser *p, bool with_namespace,
                           struct template_node **out) {
    switch (p->at->kind) {
    case TOKEN_NAME:
        return parse_name(p, with_namespace, out);
    case TOKEN_STRING:
        return parse_string(p, out);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        *out = template_node_new(p, NODE_CONST, p->at->pos);
        if (!*out) {
            return -1;
        }
        (*out)->value = p->at++->value;
        return 0;
    default:
        break;
    }
    if (template_skip_op(p, "(")) {
        if (template_is_op(p, ")")) {
            *out = template_node_new(p, NODE_TUPLE, p->at->pos);
            return !*out || template_expect_op(p, ")") ? -1 : 0;
        }
        return template_parse_tuple(p, true, NULL, out) || template_expect_op(p, ")") ? -1 : 0;
    }
    if (template_skip_op(p, "[")) {
        return parse_items(p, NODE_LIST, "]", out);
    }
    if (template_skip_op(p, "{")) {
        return parse_items(p, NODE_DICT, "}", out);
    }
    return template_parse_error(p, p->at, "expected an expression");
}
