/* Expressions: tokens into nodes, by recursive descent, from the loosest operator to the tightest.
 * What operators join is in template_primary.c. */
#include <string.h>

#include "format/text/template_internal.h"

static int parse_condition(struct template_parser *p, struct template_node **out);
static int parse_unary(struct template_parser *p, bool with_filter, struct template_node **out);

/* Python's words for nodes that cannot be assigned to. */
static bool can_assign(const struct template_node *n) {
    if (n->type == NODE_TUPLE) {
        for (uint32_t i = 0; i < n->n; i++) {
            if (!can_assign(n->items[i])) {
                return false;
            }
        }
        return true;
    }
    return n->type == NODE_NAME || n->type == NODE_NSREF;
}

static int parse_unary_inner(struct template_parser *p, bool with_filter,
                             struct template_node **out) {
    size_t pos = p->at->pos;
    struct template_node *inner;
    if (template_is_op(p, "-") || template_is_op(p, "+")) {
        enum template_node_type type = template_is_op(p, "-") ? NODE_NEG : NODE_POS;
        p->at++;
        if (parse_unary(p, false, &inner) || template_node_of(p, type, 0, pos, inner, NULL, out)) {
            return -1;
        }
    } else if (template_parse_primary(p, false, out)) {
        return -1;
    }
    return template_parse_postfix(p, out) || (with_filter && template_parse_suffix(p, out)) ? -1
                                                                                            : 0;
}

static int parse_unary(struct template_parser *p, bool with_filter, struct template_node **out) {
    if (++p->depth > TEMPLATE_PARSE_DEPTH) {
        return template_parse_error(p, p->at, "nested too deeply");
    }
    int rc = parse_unary_inner(p, with_filter, out);
    p->depth--;
    return rc;
}

/* ---- operators ----------------------------------------------------------------------------- */

static const struct {
    const char *text;
    enum template_op op;
    int level;
} operators[] = {
    {"**", OP_POW, 0}, {"*", OP_MUL, 1}, {"/", OP_DIV, 1}, {"//", OP_FLOORDIV, 1}, {"%", OP_MOD, 1},
    {"+", OP_ADD, 3},  {"-", OP_SUB, 3}, {"==", OP_EQ, 4}, {"!=", OP_NE, 4},       {"<", OP_LT, 4},
    {"<=", OP_LE, 4},  {">", OP_GT, 4},  {">=", OP_GE, 4},
};

static bool skip_operator(struct template_parser *p, int level, enum template_op *op) {
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (operators[i].level == level && template_skip_op(p, operators[i].text)) {
            *op = operators[i].op;
            return true;
        }
    }
    return false;
}

/* Level 0: powers (from the left, as jinja2 does), 1: products, 2: `~`, 3: sums. */
static int parse_level(struct template_parser *p, int level, struct template_node **out) {
    if (level < 0) {
        return parse_unary(p, true, out);
    }
    if (parse_level(p, level - 1, out)) {
        return -1;
    }
    if (level == 2) {
        size_t begin = p->n_stack, pos = p->at->pos;
        if (!template_is_op(p, "~")) {
            return 0;
        }
        if (template_push(p, *out)) {
            return -1;
        }
        while (template_skip_op(p, "~")) {
            if (parse_level(p, 1, out) || template_push(p, *out)) {
                return -1;
            }
        }
        *out = template_node_new(p, NODE_CONCAT, pos);
        return *out ? template_take_items(p, begin, *out) : -1;
    }
    for (;;) {
        struct template_node *right;
        enum template_op op;
        size_t pos = p->at->pos;
        if (!skip_operator(p, level, &op)) {
            return 0;
        }
        if (parse_level(p, level - 1, &right) ||
            template_node_of(p, NODE_BINARY, op, pos, *out, right, out)) {
            return -1;
        }
    }
}

static bool skip_comparison(struct template_parser *p, enum template_op *op) {
    if (skip_operator(p, 4, op)) {
        return true;
    }
    if (template_skip_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (template_is_name(p, "not") && p->at[1].kind == TOKEN_NAME &&
        value_is_string(&p->at[1].value, "in")) {
        p->at += 2;
        *op = OP_NOT_IN;
        return true;
    }
    return false;
}

static int parse_compare(struct template_parser *p, struct template_node **out) {
    size_t begin = p->n_stack, pos = p->at->pos, n = 0;
    enum template_op op;
    uint8_t ops[64];
    if (parse_level(p, 3, out)) {
        return -1;
    }
    while (skip_comparison(p, &op)) {
        struct template_node *right;
        if (n == sizeof ops) {
            return template_parse_error(p, p->at, "a chain of more than 64 comparisons");
        }
        pos = n ? pos : p->at[-1].pos;
        ops[n++] = (uint8_t)op;
        if (parse_level(p, 3, &right) || template_push(p, right)) {
            return -1;
        }
    }
    if (!n) {
        return 0;
    }
    struct template_node *node = template_node_new(p, NODE_COMPARE, pos);
    if (!node) {
        return -1;
    }
    node->a = *out;
    node->ops = template_parse_alloc(p, n);
    *out = node;
    if (!node->ops) {
        return -1;
    }
    memcpy(node->ops, ops, n);
    return template_take_items(p, begin, node);
}

static int parse_not(struct template_parser *p, struct template_node **out) {
    size_t pos = p->at->pos;
    unsigned n = 0;
    while (template_skip_name(p, "not")) {
        n++;
    }
    if (parse_compare(p, out)) {
        return -1;
    }
    for (; n; n--) {
        if (template_node_of(p, NODE_NOT, 0, pos, *out, NULL, out)) {
            return -1;
        }
    }
    return 0;
}

static int parse_logical(struct template_parser *p, enum template_node_type type,
                         struct template_node **out) {
    bool is_or = type == NODE_OR;
    for (bool first = true;; first = false) {
        struct template_node *right;
        size_t pos = p->at->pos;
        if (!first && !template_skip_name(p, is_or ? "or" : "and")) {
            return 0;
        }
        if (is_or ? parse_logical(p, NODE_AND, first ? out : &right)
                  : parse_not(p, first ? out : &right)) {
            return -1;
        }
        if (!first && template_node_of(p, type, 0, pos, *out, right, out)) {
            return -1;
        }
    }
}

/* A filter or test that is not known is an error when the template is compiled, but within a
 * conditional expression (and within an if) only when it is reached. What is unknown is noted, and
 * forgiven where an `if` follows; the end of the tag looks whether something was not. */
static int parse_condition_inner(struct template_parser *p, struct template_node **out) {
    const struct template_token *unknown = p->unknown;
    size_t pos = p->at->pos;
    if (parse_logical(p, NODE_OR, out)) {
        return -1;
    }
    bool conditional = template_is_name(p, "if");
    while (template_skip_name(p, "if")) {
        struct template_node *node = template_node_new(p, NODE_COND, pos);
        if (!node) {
            return -1;
        }
        node->b = *out;
        *out = node;
        if (parse_logical(p, NODE_OR, &node->a) ||
            (template_skip_name(p, "else") && parse_condition(p, &node->c))) {
            return -1;
        }
    }
    if (conditional) {
        p->unknown = unknown;
    }
    return 0;
}

static int parse_condition(struct template_parser *p, struct template_node **out) {
    if (++p->depth > TEMPLATE_PARSE_DEPTH) {
        return template_parse_error(p, p->at, "nested too deeply");
    }
    int rc = parse_condition_inner(p, out);
    p->depth--;
    return rc;
}

int template_parse_expression(struct template_parser *p, bool with_condition,
                              struct template_node **out) {
    return with_condition ? parse_condition(p, out) : parse_logical(p, NODE_OR, out);
}

/* ---- tuples and targets -------------------------------------------------------------------- */

static bool is_tuple_end(const struct template_parser *p, const char *end) {
    return p->at->kind == TOKEN_PRINT_END || p->at->kind == TOKEN_BLOCK_END ||
           template_is_op(p, ")") || (end && template_is_name(p, end));
}

enum part { PART_CONDITION, PART_PLAIN, PART_PRIMARY, PART_TARGET };

static int parse_part(struct template_parser *p, enum part part, struct template_node **out) {
    return part == PART_CONDITION ? parse_condition(p, out)
           : part == PART_PLAIN   ? parse_logical(p, NODE_OR, out)
                                  : template_parse_primary(p, part == PART_TARGET, out);
}

static int parse_sequence(struct template_parser *p, enum part part, const char *end,
                          struct template_node **out) {
    size_t begin = p->n_stack, pos = p->at->pos;
    bool comma = false;
    for (;;) {
        if (is_tuple_end(p, end)) {
            break;
        }
        if (parse_part(p, part, out) || template_push(p, *out)) {
            return -1;
        }
        if (!template_skip_op(p, ",")) {
            break;
        }
        comma = true;
    }
    if (!comma) {
        if (p->n_stack == begin) {
            return template_parse_error(p, p->at, "expected an expression");
        }
        p->n_stack = begin;
        return 0;
    }
    *out = template_node_new(p, NODE_TUPLE, pos);
    return *out ? template_take_items(p, begin, *out) : -1;
}

int template_parse_tuple(struct template_parser *p, bool with_condition, const char *end,
                         struct template_node **out) {
    return parse_sequence(p, with_condition ? PART_CONDITION : PART_PLAIN, end, out);
}

int template_parse_target(struct template_parser *p, bool with_namespace, const char *end,
                          struct template_node **out) {
    const struct template_token *begin = p->at;
    if (parse_sequence(p, with_namespace ? PART_TARGET : PART_PRIMARY, end, out)) {
        return -1;
    }
    return can_assign(*out) ? 0 : template_parse_error(p, begin, "nothing that can be assigned to");
}
