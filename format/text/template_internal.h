/*
 * template_internal: what the files of the template interpreter share; nobody else includes it.
 *
 *     text -> template_lex -> tokens -> template_parse, _expr, _primary -> nodes -> template_names
 *     nodes + context -> template_exec (statements) + template_eval (expressions) -> text
 *
 * Nodes are made once and only read while rendering. A rendering (`struct template_run`) has its
 * own arena for values. Text that is made goes to one buffer; what is captured (a macro's text, a
 * block that is set) is cut off its end again. Functions return 0, or -1 with `err` filled by
 * template_fail, which knows the place: `run->at` is the node that is being evaluated.
 */
#ifndef FORMAT_TEXT_TEMPLATE_INTERNAL_H
#define FORMAT_TEXT_TEMPLATE_INTERNAL_H

#include "format/text/template.h"
#include "format/text/value.h"

/* ---- tokens -------------------------------------------------------------------------------- */

enum template_token_kind {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR,
};
struct template_token {
    uint8_t kind;
    char op[2]; /* an operator's characters: `==`, or one and a NUL */
    uint32_t pos;
    struct value value; /* of names, strings, data and numbers */
};

/* ---- nodes --------------------------------------------------------------------------------- */

enum template_node_type {
    /* statements */
    NODE_BODY,         /* items: statements */
    NODE_TEXT,         /* value */
    NODE_PRINT,        /* a */
    NODE_IF,           /* a test, b body, c else (or NULL) */
    NODE_FOR,          /* a target, b iterable, items[0] body, items[1] else, c condition; flag */
    NODE_SET,          /* a target, b value */
    NODE_SET_BLOCK,    /* a target, b filter (or NULL), c body */
    NODE_MACRO,        /* name, id, items: parameters (NODE_NAME with default in a), c body */
    NODE_CALL_BLOCK,   /* a NODE_MACRO, b call */
    NODE_FILTER_BLOCK, /* b filter, c body */
    NODE_WITH,         /* items: targets and values by turns, c body */
    NODE_GENERATION,   /* c body */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_CONST,  /* value */
    NODE_NAME,   /* name, id */
    NODE_NSREF,  /* as target: id of the namespace, its name in value, attribute in name */
    NODE_LIST,   /* items */
    NODE_TUPLE,  /* items */
    NODE_DICT,   /* items: keys and values by turns */
    NODE_ATTR,   /* a, name */
    NODE_ITEM,   /* a, b */
    NODE_SLICE,  /* a, items[3]: start, stop, step, or NULL */
    NODE_CALL,   /* a, args */
    NODE_FILTER, /* a (NULL: the text of the block), name, row, args */
    NODE_TEST,   /* a, name, row, args */
    NODE_NOT,    /* a */
    NODE_NEG,    /* a */
    NODE_POS,    /* a */
    NODE_AND,    /* a, b */
    NODE_OR,     /* a, b */
    NODE_COND,   /* a test, b then, c else (or NULL) */
    NODE_BINARY, /* op, a, b */
    NODE_CONCAT, /* items */
    NODE_COMPARE /* a, items, ops */
};

/* Operators, of NODE_BINARY and NODE_COMPARE. */
enum template_op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
};

struct template_args;
struct template_node {
    uint8_t type, op;
    bool flag;                      /* for: recursive; macro: uses `caller` */
    bool uses_varargs, uses_kwargs; /* of a macro */
    uint32_t pos, id, n;
    struct template_node **items;
    uint8_t *ops;
    struct template_node *a, *b, *c;
    const struct value_string *name;
    struct value value;
    const struct template_args *args;
    const void *row;
    uint32_t n_missing, *missing; /* of what opens a scope: see template_names.c */
};
struct template_args {
    uint32_t n, n_named;
    struct template_node **items;           /* [n] */
    const struct value_string **names;      /* [n_named] */
    struct template_node **values;          /* [n_named] */
    struct template_node *star, *star_star; /* `*list` and `**dict`, or NULL */
};

/* Names that mean something to the interpreter, by their ids. */
enum { NAME_LOOP, NAME_CALLER, NAME_VARARGS, NAME_KWARGS, NAME_N_SPECIAL };

struct template {
    struct value_arena arena;
    const struct value_string *source;   /* with newlines made equal */
    struct value names;                  /* dict: name -> id */
    const struct value_string **name_of; /* [n_names] */
    size_t n_names, cap_names;
    struct template_node *body;
    struct buf literals; /* its text and strings, a NUL behind each */
};

#define TEMPLATE_NO_MEMORY "the template takes more memory than allowed"

/* `err` gets "line L, column C: ..." of a place in the source. Returns -1. */
int template_fail_at(const struct template *t, size_t pos, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* template_lex.c: `*tokens` is the caller's (free()); the last one is TOKEN_END. */
int template_lex(struct template *t, struct template_token **tokens, struct err *err);

/* ---- parsing ------------------------------------------------------------------------------- */

struct template_parser {
    struct template *t;
    const struct template_token *at; /* the current token */
    struct err *err;
    unsigned depth;
    bool soft; /* within an if: unknown filters and tests are an error when reached */
    const struct template_token *unknown; /* the first such in this tag, or NULL */
    unsigned loops;                       /* that break and continue may mean here */
    unsigned for_depth;                   /* loops around, across macros */
    struct template_node **stack;         /* of lists that are being read */
    size_t n_stack, cap_stack;
    uint8_t *macro_uses; /* of each macro around: which special names it uses, as bits */
    size_t n_macros, cap_macros;
};
enum { TEMPLATE_PARSE_DEPTH = 200 };

int template_parse(struct template *t, struct err *err);
/* Which names begin as undefined in which scope: template_names.c. */
int template_settle_names(struct template *t, struct err *err);

int template_parse_error(struct template_parser *p, const struct template_token *at,
                         const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The error for what the template's arena could not give. Returns -1. */
int template_parse_memory(struct template_parser *p);
/* Zeroed bytes of the template's arena, or NULL with that error. */
void *template_parse_alloc(struct template_parser *p, size_t bytes);
struct template_node *template_node_new(struct template_parser *p, enum template_node_type type,
                                        size_t pos);
bool template_is_op(const struct template_parser *p, const char *op);
bool template_is_name(const struct template_parser *p, const char *name);
bool template_skip_op(struct template_parser *p, const char *op);
bool template_skip_name(struct template_parser *p, const char *name);
int template_expect_op(struct template_parser *p, const char *op);
int template_expect_name(struct template_parser *p, const char *name);
int template_expect(struct template_parser *p, enum template_token_kind kind, const char *what);
int template_push(struct template_parser *p, struct template_node *node);
/* Notes a text or string that the template writes out, for template_literals. */
void template_note_literal(struct template_parser *p, const struct value *text);
/* Moves what was pushed since `begin` to `node->items`. */
int template_take_items(struct template_parser *p, size_t begin, struct template_node *node);
int template_name_id(struct template_parser *p, const struct value_string *name, uint32_t *id);

/* template_primary.c: a node of at most two parts; a primary (or, as target, a namespace's
 * attribute); what stands behind it; filters and tests behind that. */
int template_node_of(struct template_parser *p, enum template_node_type type, enum template_op op,
                     size_t pos, struct template_node *a, struct template_node *b,
                     struct template_node **out);
int template_parse_primary(struct template_parser *p, bool with_namespace,
                           struct template_node **out);
int template_parse_postfix(struct template_parser *p, struct template_node **node);
int template_parse_suffix(struct template_parser *p, struct template_node **node);

/* template_expr.c */
int template_parse_expression(struct template_parser *p, bool with_condition,
                              struct template_node **out);
/* An expression, or a tuple of several without parentheses; ends before `end` (or NULL). */
int template_parse_tuple(struct template_parser *p, bool with_condition, const char *end,
                         struct template_node **out);
int template_parse_target(struct template_parser *p, bool with_namespace, const char *end,
                          struct template_node **out);
/* What stands behind a '|', several of them: filters of `node`, which may be NULL. */
int template_parse_filters(struct template_parser *p, bool first_has_no_bar,
                           struct template_node *node, struct template_node **out);

/* ---- rendering ----------------------------------------------------------------------------- */

struct template_binding {
    uint32_t id;
    struct value value;
};
struct template_scope {
    struct template_scope *parent;
    struct template_binding *bindings;
    size_t n, cap;
    bool kept; /* a macro or iterator refers to it, so it is not used again */
};

struct template_run {
    const struct template *t;
    struct value_arena arena;
    struct template_limits limits;
    uint64_t steps;
    unsigned depth;
    struct buf out, scratch;
    struct template_scope *scope;
    const struct value *context;
    const struct tm *now;
    const struct template_node *at;
    struct err *err;
};

/* Arguments of a call, evaluated. */
struct template_call {
    size_t n, n_named;
    struct value *args;
    const struct value_string **names;
    struct value *values;
};

/* `err` gets the place of run->at and the message. Returns -1. */
int template_fail(struct template_run *run, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The error for what an arena could not give. */
int template_no_memory(struct template_run *run);
/* Counts `n` steps; -1 when there are none left. */
int template_spend(struct template_run *run, uint64_t n);
/* Counts what comparing or hashing a value takes. */
int template_spend_on(struct template_run *run, const struct value *v);
int template_enter(struct template_run *run); /* one level deeper */
void template_leave(struct template_run *run);

/* A string of bytes; of the scratch buffer; of what was written to `out` since `begin`, which is
 * cut off. */
int template_string(struct template_run *run, const char *data, size_t len, struct value *out);
int template_list(struct template_run *run, enum value_type type, const struct value *items,
                  size_t n, struct value *out);
int template_from_scratch(struct template_run *run, size_t begin, struct value *out);
int template_captured(struct template_run *run, size_t begin, struct value *out);
/* Append to the scratch buffer, within the memory allowed. */
int template_scratch(struct template_run *run, const void *bytes, size_t n);
/* Append str() of a value to `out`. */
int template_emit(struct template_run *run, const struct value *v);
/* str() of a value: itself where it is a string. */
int template_text_of(struct template_run *run, const struct value *v, struct value *out);

/* Why a value is undefined: its `detail`; `text` is the name, or the hint. */
enum { UNDEFINED_NAME, UNDEFINED_ATTR, UNDEFINED_HINT, UNDEFINED_UNSAFE };
struct value template_undefined(uint8_t why, const struct value_string *text);
int template_undefined_hint(struct template_run *run, const char *hint, struct value *out);
/* Fails where `v` is undefined, by saying of what. */
int template_fail_undefined(struct template_run *run, const struct value *v);
int template_need_defined(struct template_run *run, const struct value *v);

/* template_exec.c */
struct template_scope *template_scope_new(struct template_run *run, struct template_scope *parent);
int template_bind(struct template_run *run, struct template_scope *scope, uint32_t id,
                  const struct value *v);
int template_assign(struct template_run *run, struct template_scope *scope,
                    const struct template_node *target, const struct value *v);
int template_exec(struct template_run *run, const struct template_node *node);
/* Runs a body in the scope that it opens. */
int template_exec_scope(struct template_run *run, struct template_scope *scope,
                        const struct template_node *body);
int template_make_macro(struct template_run *run, const struct template_node *node,
                        struct value *out);

/* template_eval.c */
int template_eval(struct template_run *run, const struct template_node *node, struct value *out);
int template_eval_args(struct template_run *run, const struct template_args *args,
                       struct template_call *call);
int template_apply(struct template_run *run, const struct template_node *node,
                   const struct value *subject, struct value *out);
int template_invoke(struct template_run *run, const struct value *callee,
                    struct template_call *call, struct value *out);

/* template_ops.c */
int template_binary(struct template_run *run, enum template_op op, const struct value *a,
                    const struct value *b, struct value *out);
int template_compare(struct template_run *run, enum template_op op, const struct value *a,
                     const struct value *b, bool *out);
int template_less(struct template_run *run, const struct value *a, const struct value *b,
                  bool *out);
int template_get_attr(struct template_run *run, const struct value *v,
                      const struct value_string *name, struct value *out);
/* The same, but elements of a dict are no attributes: `*found` says whether there is one. */
int template_own_attr(struct template_run *run, const struct value *v,
                      const struct value_string *name, struct value *out, bool *found);
int template_get_item(struct template_run *run, const struct value *v, const struct value *key,
                      struct value *out);
/* template_slices.c */
int template_slice(struct template_run *run, const struct value *v, const struct value *bounds,
                   struct value *out);
/* Python's slice of `n` elements by three bounds, none or integers each: the first index, how many,
 * the step. */
int template_slice_bounds(struct template_run *run, const struct value *bounds, size_t n,
                          int64_t *start, size_t *count, int64_t *step);
int template_length(struct template_run *run, const struct value *v, size_t *out);
/* An integer from a value that Python takes as one (a bool is). */
int template_to_int(struct template_run *run, const struct value *v, const char *what,
                    int64_t *out);

/* template_iter.c: what can be iterated, one element after the other. */
struct template_iter {
    struct value_object object; /* an iterator is a value too: Python's generators */
    uint8_t kind;
    unsigned depth;
    size_t pos, n;
    int64_t start, step;
    const struct value *items;         /* of lists */
    const struct value_string *string; /* of strings */
    const struct value_dict *dict;
    struct template_iter *source;     /* what map and select draw from */
    const struct template_node *node; /* of a loop's condition: the loop */
    struct template_scope *scope;
    const void *row;           /* the filter or test that is applied */
    struct template_call call; /* its arguments */
    struct value attribute;    /* undefined: none */
    struct value fallback;     /* `default`; undefined: none */
    bool negate;
};
/* -1: not iterable. */
int template_iterate(struct template_run *run, const struct value *v, struct template_iter **out);
/* 1: `*out` is the next element; 0: there is none; -1: error. */
int template_next(struct template_run *run, struct template_iter *it, struct value *out);
bool template_is_iterable(const struct value *v);
/* All the rest of an iterable as a list; a list itself as it is. */
int template_collect(struct template_run *run, const struct value *v, struct value *list);
/* A generator of a list's elements. */
int template_generator(struct template_run *run, const struct value *list, struct value *out);
int template_iter_new(struct template_run *run, struct template_iter *source,
                      struct template_iter **out);
enum {
    ITER_ITEMS,
    ITER_STRING,
    ITER_KEYS,
    ITER_VALUES,
    ITER_PAIRS,
    ITER_RANGE,
    ITER_CONDITION,
    ITER_MAP_ATTRIBUTE,
    ITER_MAP_FILTER,
    ITER_SELECT
};
/* The value of a dotted attribute, as filters take them: "function.name", "0", 1. */
int template_attribute(struct template_run *run, const struct value *v, const struct value *path,
                       const struct value *fallback, struct value *out);

/* ---- the tables ---------------------------------------------------------------------------- */

enum { MAX_PARAMETERS = 6 };
/* A parameter that was not given is an undefined value with this detail. */
enum { PARAMETER_ABSENT = 255 };
static inline bool template_given(const struct value *v) {
    return v->type != VALUE_UNDEFINED || v->detail != PARAMETER_ABSENT;
}

struct template_filter {
    const char *name;
    int (*apply)(struct template_run *run, const struct value *v, struct value *args,
                 struct value *out);
    /* For those that take what comes; then `apply` is NULL. */
    int (*apply_call)(struct template_run *run, const struct value *v, struct template_call *call,
                      struct value *out);
    unsigned required; /* how many parameters must be given */
    const char *parameters[MAX_PARAMETERS];
};
struct template_test {
    const char *name;
    int (*apply)(struct template_run *run, const struct value *v, struct value *args, bool *out);
    unsigned required;
    const char *parameters[MAX_PARAMETERS];
};
struct template_method {
    uint8_t type; /* enum value_type */
    const char *name;
    int (*apply)(struct template_run *run, const struct value *v, struct value *args,
                 struct value *out);
    int (*apply_call)(struct template_run *run, const struct value *v, struct template_call *call,
                      struct value *out);
    unsigned required;
    const char *parameters[MAX_PARAMETERS];
};
/* Rows by name, or NULL. */
const struct template_filter *template_find_filter(const struct value_string *name);
const struct template_test *template_find_test(const struct value_string *name);
/* What Python has as attribute `name` of a value of a type: 0 nothing, 1 `*row` (NULL: it is not
 * known here), 2 one that the sandbox refuses. */
int template_find_method(const struct value *v, const struct value_string *name,
                         const struct template_method **row);

int template_run_filter(struct template_run *run, const struct template_filter *row,
                        const struct value *v, struct template_call *call, struct value *out);
int template_run_test(struct template_run *run, const struct template_test *row,
                      const struct value *v, struct template_call *call, bool *out);
/* Arguments into the places of parameters, `args[MAX_PARAMETERS]`. */
int template_place_args(struct template_run *run, const char *what, const char *name,
                        const char *const *parameters, unsigned required,
                        const struct template_call *call, struct value *args);

/* Files of filters and methods that are too many for one: rows end with a NULL name. */
extern const struct template_filter template_filters_text[];
extern const struct template_filter template_filters_list[];
extern const struct template_filter template_filters_select[];
extern const struct template_method template_methods_str[];
extern const struct template_method template_methods_more[];

/* ---- functions and objects ------------------------------------------------------------------ */

/* A global function, or undefined. */
bool template_global(struct template_run *run, const struct value_string *name, struct value *out);

struct template_macro {
    struct value_object object;
    const struct template_node *node;
    struct template_scope *scope; /* where it was defined */
};
struct template_bound { /* a method and whose it is */
    struct value_object object;
    struct value self;
    const struct template_method *row;
};
struct template_loop {
    struct value_object object;
    const struct template_node *node;
    struct template_scope *scope; /* around the loop */
    struct template_iter *iter;
    size_t index0;
    unsigned depth0;
    bool has_after, at_end;
    size_t length; /* SIZE_MAX: not known yet */
    struct value before, current, after;
    struct value changed; /* what changed() was called with last; undefined: it was not */
};
struct template_namespace {
    struct value_object object;
    struct value dict;
};
struct template_range {
    struct value_object object;
    int64_t start, stop, step;
    size_t n;
};
struct template_view { /* what dict.keys(), values() and items() give */
    struct value_object object;
    const struct value_dict *dict;
};
struct template_joiner {
    struct value_object object;
    struct value separator;
    bool used;
};
extern const struct value_class template_class_macro, template_class_bound, template_class_loop,
    template_class_namespace, template_class_range, template_class_keys, template_class_values,
    template_class_pairs, template_class_generator, template_class_joiner, template_class_function,
    template_class_loop_method;
static inline bool template_is(const struct value *v, const struct value_class *class) {
    return v->type == VALUE_OBJECT && v->object->class == class;
}
int template_call_object(struct template_run *run, const struct value *callee,
                         struct template_call *call, struct value *out);
/* A loop's next element into `current`: 1, 0 at the end, -1. */
int template_loop_next(struct template_run *run, struct template_loop *loop);
int template_loop_attr(struct template_run *run, struct template_loop *loop,
                       const struct value_string *name, struct value *out, bool *found);
int template_loop_run(struct template_run *run, const struct template_node *node,
                      struct template_scope *scope, const struct value *iterable, unsigned depth0);
/* loop(...) of a recursive loop, and its methods cycle and changed. */
int template_call_loop(struct template_run *run, struct template_loop *loop,
                       const struct template_call *call, struct value *out);
int template_loop_method(struct template_run *run, const struct value *callee,
                         struct template_call *call, struct value *out);

/* ---- text ---------------------------------------------------------------------------------- */

bool template_is_space(uint32_t c);            /* as str.isspace */
bool template_is_word(uint32_t c, bool first); /* of an identifier */
/* How many bytes of white space (or of the characters of `chars`) begin or end a text. */
size_t template_space_left(const char *s, size_t len, const struct value_string *chars);
size_t template_space_right(const char *s, size_t len, const struct value_string *chars);
/* The byte at which character `i` begins (`i` at most n_chars). */
size_t template_char_offset(const struct value_string *s, size_t i);
/* The part from byte `begin` to `end` of a string, marked as it is. */
int template_part(struct template_run *run, const struct value *s, size_t begin, size_t end,
                  struct value *out);
/* The next line of a text at `*pos`, as str.splitlines cuts it: [`begin`, `end`) without its break,
 * `*pos` behind that. False at the end. */
bool template_next_line(const struct value_string *s, size_t *pos, size_t *begin, size_t *end);
/* Python's int() and float() of a text: false where it is none. An integer beyond 64 bits is false
 * with `*large` set. */
bool template_read_int(const struct value_string *s, int base, int64_t *out, bool *large);
bool template_read_float(const struct value_string *s, double *out);
/* Whether a character is a letter, digit or the like: what regular expressions call \w. */
bool template_is_alnum(uint32_t c);
/* str.replace; a negative `count` is all. */
int template_replace(struct template_run *run, const struct value *s,
                     const struct value_string *old, const struct value_string *new, int64_t count,
                     struct value *out);
enum template_case { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE, CASE_SWAP, CASE_FOLD };
int template_change_case(struct template_run *run, const struct value *s, enum template_case how,
                         struct value *out);
/* `s` with `<>&"'` as entities, marked safe. */
int template_escape(struct template_run *run, const struct value *v, struct value *out);
/* What a format asks for, of either kind. */
struct template_spec {
    bool left, plus, blank, alternative, zeros; /* the flags - + space # 0 */
    char align;                                 /* of str.format: < > ^ =, or 0 */
    uint32_t fill;
    char group;               /* , or _ between thousands, or 0 */
    int64_t width, precision; /* -1: none */
    char type;
};
enum { TEMPLATE_NUMBER_ROOM = 512 };
/* A number's sign (or 0) and its text without it, in `room` bytes: template_number.c. */
int template_number_text(struct template_run *run, const struct value *v,
                         const struct template_spec *s, char *sign, char *text, size_t room);
/* The operator % of strings, and str.format: template_format.c. */
int template_percent(struct template_run *run, const struct value *format, const struct value *args,
                     struct value *out);
int template_format(struct template_run *run, const struct value *format,
                    struct template_call *call, struct value *out);

#endif
