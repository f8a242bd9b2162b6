/* Statements: tags into nodes, and what all of parsing shares. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/template_internal.h"

/* ---- what all of parsing shares ------------------------------------------------------------- */

int template_parse_error(struct template_parser *p, const struct template_token *at,
                         const char *fmt, ...) {
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (at->kind == TOKEN_END) {
        return template_fail_at(p->t, at->pos, p->err, "%s (here the template ends)", what);
    }
    return template_fail_at(p->t, at->pos, p->err, "%s", what);
}

int template_parse_memory(struct template_parser *p) {
    return template_parse_error(p, p->at, TEMPLATE_NO_MEMORY);
}

void *template_parse_alloc(struct template_parser *p, size_t bytes) {
    void *made = value_alloc(&p->t->arena, bytes);
    if (!made) {
        template_parse_memory(p);
    }
    return made;
}

struct template_node *template_node_new(struct template_parser *p, enum template_node_type type,
                                        size_t pos) {
    struct template_node *node = template_parse_alloc(p, sizeof *node);
    if (!node) {
        return NULL;
    }
    node->type = (uint8_t)type;
    node->pos = (uint32_t)pos;
    return node;
}

bool template_is_op(const struct template_parser *p, const char *op) {
    return p->at->kind == TOKEN_OPERATOR && p->at->op[0] == op[0] && p->at->op[1] == op[1];
}

bool template_is_name(const struct template_parser *p, const char *name) {
    return p->at->kind == TOKEN_NAME && value_is_string(&p->at->value, name);
}

bool template_skip_op(struct template_parser *p, const char *op) {
    bool is = template_is_op(p, op);
    p->at += is;
    return is;
}

bool template_skip_name(struct template_parser *p, const char *name) {
    bool is = template_is_name(p, name);
    p->at += is;
    return is;
}

int template_expect_op(struct template_parser *p, const char *op) {
    return template_skip_op(p, op) ? 0 : template_parse_error(p, p->at, "expected '%s'", op);
}

int template_expect_name(struct template_parser *p, const char *name) {
    return template_skip_name(p, name) ? 0 : template_parse_error(p, p->at, "expected '%s'", name);
}

int template_expect(struct template_parser *p, enum template_token_kind kind, const char *what) {
    if (p->at->kind != kind) {
        return template_parse_error(p, p->at, "expected %s", what);
    }
    p->at++;
    return 0;
}

int template_push(struct template_parser *p, struct template_node *node) {
    p->stack = mem_grow(p->stack, p->n_stack + 1, &p->cap_stack, sizeof(struct template_node *));
    p->stack[p->n_stack++] = node;
    return 0;
}

int template_take_items(struct template_parser *p, size_t begin, struct template_node *node) {
    size_t n = p->n_stack - begin;
    node->items = template_parse_alloc(p, n * sizeof(struct template_node *));
    if (!node->items) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        node->items[i] = p->stack[begin + i];
    }
    node->n = (uint32_t)n;
    p->n_stack = begin;
    return 0;
}

int template_name_id(struct template_parser *p, const struct value_string *name, uint32_t *id) {
    struct template *t = p->t;
    struct value key = {.type = VALUE_STRING, .text = name};
    const struct value *known = value_dict_get(t->names.dict, &key);
    if (known) {
        *id = (uint32_t)known->integer;
        return 0;
    }
    *id = (uint32_t)t->n_names;
    t->name_of = mem_grow(t->name_of, t->n_names + 1, &t->cap_names, sizeof(void *));
    t->name_of[t->n_names++] = name;
    struct value number = value_int(*id);
    return value_dict_set(&t->arena, t->names.dict, &key, &number) ? template_parse_memory(p) : 0;
}

/* ---- bodies -------------------------------------------------------------------------------- */

static int parse_statement(struct template_parser *p, struct template_node **out);

/* The end of a tag, where an unknown filter or test is known not to be forgiven. */
static int tag_end(struct template_parser *p, enum template_token_kind kind) {
    if (p->unknown && !p->soft) {
        return template_parse_error(p, p->unknown, "no filter or test '%s' is known",
                                    p->unknown->value.text->data);
    }
    p->unknown = NULL;
    return template_expect(p, kind, kind == TOKEN_BLOCK_END ? "'%}'" : "'}}'");
}

static bool is_one_of(const struct template_parser *p, const char *const *names) {
    for (; *names; names++) {
        if (template_is_name(p, *names)) {
            return true;
        }
    }
    return false;
}

/* Statements and text up to a tag that is one of `ends` (then its name is the current token) or,
 * without any, to the end of the template. */
static int parse_body(struct template_parser *p, const char *const *ends,
                      struct template_node **out) {
    size_t begin = p->n_stack, opened = p->at->pos;
    struct template_node *node, *body = template_node_new(p, NODE_BODY, opened);
    *out = body;
    if (!body) {
        return -1;
    }
    for (;;) {
        size_t pos = p->at->pos;
        enum template_token_kind kind = (enum template_token_kind)p->at->kind;
        if (kind == TOKEN_END) {
            if (!ends) {
                return template_take_items(p, begin, body);
            }
            while (ends[1]) { /* the last one is what ends it all */
                ends++;
            }
            return template_parse_error(p, p->at, "expected {%% %s %%}", ends[0]);
        }
        if (kind == TOKEN_DATA) {
            node = template_node_new(p, NODE_TEXT, pos);
            if (!node) {
                return -1;
            }
            node->value = p->at++->value;
            template_note_literal(p, &node->value);
        } else if (kind == TOKEN_PRINT_BEGIN) {
            p->at++;
            node = template_node_new(p, NODE_PRINT, pos);
            if (!node || template_parse_tuple(p, true, NULL, &node->a) ||
                tag_end(p, TOKEN_PRINT_END)) {
                return -1;
            }
        } else {
            p->at++; /* all that is left are statements */
            if (ends && is_one_of(p, ends)) {
                return template_take_items(p, begin, body);
            }
            if (parse_statement(p, &node)) {
                return -1;
            }
        }
        if (template_push(p, node)) {
            return -1;
        }
    }
}

/* A statement's body behind its tag: a ':' may end that. What unknown filters mean within is
 * `soft`. */
static int parse_inner(struct template_parser *p, bool soft, const char *const *ends,
                       struct template_node **out) {
    bool before = p->soft;
    template_skip_op(p, ":");
    if (tag_end(p, TOKEN_BLOCK_END)) {
        return -1;
    }
    p->soft = soft;
    int rc = parse_body(p, ends, out);
    p->soft = before;
    return rc;
}

/* The same, and the tag that ends it. */
static int parse_whole(struct template_parser *p, const char *end, struct template_node **out) {
    const char *const ends[] = {end, NULL};
    if (parse_inner(p, false, ends, out)) {
        return -1;
    }
    p->at++;
    return tag_end(p, TOKEN_BLOCK_END);
}

/* ---- statements ---------------------------------------------------------------------------- */

/* Each begins behind its tag's name, and takes the end of its last tag. */
static int parse_if_inner(struct template_parser *p, struct template_node *node) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    for (;;) {
        if (template_parse_tuple(p, false, NULL, &node->a) ||
            parse_inner(p, true, ends, &node->b)) {
            return -1;
        }
        if (!template_skip_name(p, "elif")) {
            break;
        }
        node->c = template_node_new(p, NODE_IF, p->at->pos);
        node = node->c;
        if (!node) {
            return -1;
        }
    }
    if (template_skip_name(p, "else")) {
        static const char *const last[] = {"endif", NULL};
        if (parse_inner(p, true, last, &node->c)) {
            return -1;
        }
    }
    p->at++;
    return tag_end(p, TOKEN_BLOCK_END);
}

static int parse_if(struct template_parser *p, struct template_node *node) {
    bool soft = p->soft;
    node->type = NODE_IF;
    p->soft = true;
    int rc = parse_if_inner(p, node);
    p->soft = soft;
    return rc;
}

/* A loop's variable is `loop`; within a loop nobody else may be called so. */
static int check_target(struct template_parser *p, const struct template_node *target) {
    for (uint32_t i = 0; target->type == NODE_TUPLE && i < target->n; i++) {
        if (check_target(p, target->items[i])) {
            return -1;
        }
    }
    return p->for_depth && target->type == NODE_NAME && target->id == NAME_LOOP
               ? template_fail_at(p->t, target->pos, p->err,
                                  "'loop' cannot be assigned to within a loop")
               : 0;
}

static int parse_for(struct template_parser *p, struct template_node *node) {
    static const char *const ends[] = {"else", "endfor", NULL};
    node->type = NODE_FOR;
    node->n = 2;
    node->items = template_parse_alloc(p, 2 * sizeof(void *));
    p->for_depth++;
    if (!node->items || template_parse_target(p, false, "in", &node->a) ||
        check_target(p, node->a) || template_expect_name(p, "in") ||
        template_parse_tuple(p, false, "recursive", &node->b) ||
        (template_skip_name(p, "if") && template_parse_expression(p, true, &node->c))) {
        return -1;
    }
    node->flag = template_skip_name(p, "recursive");
    p->loops++;
    if (parse_inner(p, false, ends, &node->items[0])) {
        return -1;
    }
    p->loops--;
    if (template_skip_name(p, "else")) {
        if (parse_whole(p, "endfor", &node->items[1])) {
            return -1;
        }
    } else {
        p->at++;
        if (tag_end(p, TOKEN_BLOCK_END)) {
            return -1;
        }
    }
    p->for_depth--;
    return 0;
}

static int parse_set(struct template_parser *p, struct template_node *node) {
    if (template_parse_target(p, true, NULL, &node->a) || check_target(p, node->a)) {
        return -1;
    }
    if (template_skip_op(p, "=")) {
        node->type = NODE_SET;
        return template_parse_tuple(p, true, NULL, &node->b) || tag_end(p, TOKEN_BLOCK_END) ? -1
                                                                                            : 0;
    }
    node->type = NODE_SET_BLOCK;
    if (template_is_op(p, "|") && template_parse_filters(p, false, NULL, &node->b)) {
        return -1;
    }
    return parse_whole(p, "endset", &node->c);
}

static int parse_signature(struct template_parser *p, struct template_node *node) {
    size_t begin = p->n_stack;
    bool defaults = false;
    if (template_expect_op(p, "(")) {
        return -1;
    }
    while (!template_is_op(p, ")")) {
        const struct template_token *name = p->at;
        if (p->n_stack > begin && (template_expect_op(p, ",") || (name = p->at) == NULL)) {
            return -1;
        }
        if (template_expect(p, TOKEN_NAME, "the name of a parameter")) {
            return -1;
        }
        struct template_node *parameter = template_node_new(p, NODE_NAME, name->pos);
        if (!parameter || template_name_id(p, name->value.text, &parameter->id)) {
            return -1;
        }
        parameter->name = name->value.text;
        for (size_t i = begin; i < p->n_stack; i++) {
            if (p->stack[i]->id == parameter->id) {
                return template_parse_error(p, name, "parameter '%s' is there twice",
                                            parameter->name->data);
            }
        }
        if (template_skip_op(p, "=")) {
            defaults = true;
            if (template_parse_expression(p, true, &parameter->a)) {
                return -1;
            }
        } else if (defaults) {
            return template_parse_error(p, p->at, "a parameter without default behind one with");
        }
        if (template_push(p, parameter)) {
            return -1;
        }
    }
    p->at++;
    return template_take_items(p, begin, node);
}

/* The body of a macro: a function of its own, so loops around do not reach into it. */
static int parse_macro_body(struct template_parser *p, const char *end,
                            struct template_node *node) {
    unsigned loops = p->loops;
    p->loops = 0;
    p->macro_uses = mem_grow(p->macro_uses, p->n_macros + 1, &p->cap_macros, 1);
    p->macro_uses[p->n_macros++] = 0;
    if (parse_whole(p, end, &node->c)) {
        return -1;
    }
    uint8_t uses = p->macro_uses[--p->n_macros];
    bool own[NAME_N_SPECIAL] = {0};
    for (uint32_t i = 0; i < node->n; i++) {
        if (node->items[i]->id < NAME_N_SPECIAL) {
            own[node->items[i]->id] = true;
        }
    }
    if (own[NAME_CALLER] && uses >> NAME_CALLER & 1) {
        for (uint32_t i = 0; i < node->n; i++) {
            if (node->items[i]->id == NAME_CALLER && !node->items[i]->a) {
                return template_fail_at(p->t, node->pos, p->err,
                                        "the parameter 'caller' needs a default");
            }
        }
    }
    node->flag = !own[NAME_CALLER] && uses >> NAME_CALLER & 1;
    node->uses_varargs = !own[NAME_VARARGS] && uses >> NAME_VARARGS & 1;
    node->uses_kwargs = !own[NAME_KWARGS] && uses >> NAME_KWARGS & 1;
    p->loops = loops;
    return 0;
}

static int parse_macro(struct template_parser *p, struct template_node *node) {
    const struct template_token *name = p->at;
    node->type = NODE_MACRO;
    if (template_expect(p, TOKEN_NAME, "the macro's name") ||
        template_name_id(p, name->value.text, &node->id)) {
        return -1;
    }
    node->name = name->value.text;
    return parse_signature(p, node) || parse_macro_body(p, "endmacro", node) ? -1 : 0;
}

static int parse_call(struct template_parser *p, struct template_node *node) {
    struct template_node *macro = template_node_new(p, NODE_MACRO, node->pos);
    node->type = NODE_CALL_BLOCK;
    node->a = macro;
    if (!macro || (template_is_op(p, "(") && parse_signature(p, macro))) {
        return -1;
    }
    const struct template_token *call = p->at;
    if (template_parse_expression(p, true, &node->b)) {
        return -1;
    }
    if (node->b->type != NODE_CALL) {
        return template_parse_error(p, call, "expected a call");
    }
    return parse_macro_body(p, "endcall", macro);
}

static int parse_filter(struct template_parser *p, struct template_node *node) {
    node->type = NODE_FILTER_BLOCK;
    return template_parse_filters(p, true, NULL, &node->b) || parse_whole(p, "endfilter", &node->c)
               ? -1
               : 0;
}

static int parse_with(struct template_parser *p, struct template_node *node) {
    size_t begin = p->n_stack;
    node->type = NODE_WITH;
    while (p->at->kind != TOKEN_BLOCK_END && !template_is_op(p, ":")) {
        struct template_node *target, *value;
        if ((p->n_stack > begin && template_expect_op(p, ",")) ||
            template_parse_target(p, false, NULL, &target) || check_target(p, target) ||
            template_push(p, target) || template_expect_op(p, "=") ||
            template_parse_expression(p, true, &value) || template_push(p, value)) {
            return -1;
        }
    }
    return template_take_items(p, begin, node) || parse_whole(p, "endwith", &node->c) ? -1 : 0;
}

/* What the model wrote itself, as training marks it; rendering shows it as it is. It is a scope. */
static int parse_generation(struct template_parser *p, struct template_node *node) {
    unsigned loops = p->loops;
    node->type = NODE_GENERATION;
    p->loops = 0;
    int rc = parse_whole(p, "endgeneration", &node->c);
    p->loops = loops;
    return rc;
}

static int parse_print(struct template_parser *p, struct template_node *node) {
    size_t begin = p->n_stack;
    node->type = NODE_BODY;
    while (p->at->kind != TOKEN_BLOCK_END) {
        struct template_node *print = template_node_new(p, NODE_PRINT, p->at->pos);
        if (!print || (p->n_stack > begin && template_expect_op(p, ",")) ||
            template_parse_expression(p, true, &print->a) || template_push(p, print)) {
            return -1;
        }
    }
    return template_take_items(p, begin, node) || tag_end(p, TOKEN_BLOCK_END) ? -1 : 0;
}

static int parse_leave(struct template_parser *p, struct template_node *node) {
    node->type = value_is_string(&p->at[-1].value, "break") ? NODE_BREAK : NODE_CONTINUE;
    if (!p->loops) {
        return template_parse_error(p, p->at - 1, "outside a loop");
    }
    return tag_end(p, TOKEN_BLOCK_END);
}

static const struct {
    const char *name;
    int (*parse)(struct template_parser *p, struct template_node *node);
} tags[] = {
    {"if", parse_if},          {"for", parse_for},
    {"set", parse_set},        {"macro", parse_macro},
    {"call", parse_call},      {"filter", parse_filter},
    {"with", parse_with},      {"generation", parse_generation},
    {"print", parse_print},    {"break", parse_leave},
    {"continue", parse_leave},
};

static int parse_statement(struct template_parser *p, struct template_node **out) {
    const struct template_token *tag = p->at;
    *out = template_node_new(p, NODE_BODY, tag->pos);
    if (!*out || template_expect(p, TOKEN_NAME, "the name of a tag")) {
        return -1;
    }
    if (++p->depth > TEMPLATE_PARSE_DEPTH) {
        return template_parse_error(p, tag, "nested too deeply");
    }
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (value_is_string(&tag->value, tags[i].name)) {
            int rc = tags[i].parse(p, *out);
            p->depth--;
            return rc;
        }
    }
    return template_parse_error(p, tag, "no tag '%s' is known here", tag->value.text->data);
}

int template_parse(struct template *t, struct err *err) {
    static const char *const special[NAME_N_SPECIAL] = {"loop", "caller", "varargs", "kwargs"};
    struct template_token *tokens = NULL;
    struct template_parser p = {.t = t, .err = err};
    int rc = -1;
    if (template_lex(t, &tokens, err)) {
        return -1;
    }
    p.at = tokens;
    for (uint32_t i = 0, id; i < NAME_N_SPECIAL; i++) {
        const struct value_string *name =
            value_string_new(&t->arena, special[i], strlen(special[i]));
        if (!name || template_name_id(&p, name, &id)) {
            rc = name ? -1 : template_parse_memory(&p);
            goto out;
        }
    }
    rc = parse_body(&p, NULL, &t->body);
out:
    free(tokens);
    free(p.stack);
    free(p.macro_uses);
    return rc;
}
