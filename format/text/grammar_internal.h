/*
 * grammar_internal: what the rooms of the grammar share and nobody else sees.
 *
 * Texts and schemas become a tree of expressions (struct grammar_tree), which grammar_build turns
 * into a program (struct grammar). The program is run by grammar_auto.c, over tokens by
 * grammar_mask.c.
 */
#ifndef FORMAT_TEXT_GRAMMAR_INTERNAL_H
#define FORMAT_TEXT_GRAMMAR_INTERNAL_H

#include "format/base.h"
#include "format/text/grammar.h"

#define GRAMMAR_NONE UINT32_C(0xffffffff)
#define GRAMMAR_ENDLESS UINT32_C(0xffffffff) /* of a repetition; a length that does not exist */

static inline uint32_t grammar_plus(uint32_t a, uint32_t b) {
    return a + b < a ? GRAMMAR_ENDLESS : a + b;
}
static inline uint32_t grammar_times(uint32_t a, uint32_t b) {
    uint64_t product = (uint64_t)a * b;
    return a == 0 || b == 0 ? 0 : product < GRAMMAR_ENDLESS ? (uint32_t)product : GRAMMAR_ENDLESS;
}

/* ---- the tree ------------------------------------------------------------------------------ */

enum expr_kind {
    EXPR_BYTES,  /* a: place in `bytes`, b: how many; none: the empty text */
    EXPR_CLASS,  /* a: place in `ranges`, b: how many; none: matches nothing */
    EXPR_SEQ,    /* a: place in `kids`, b: how many */
    EXPR_ALT,    /* the same */
    EXPR_REPEAT, /* a: what, b: least, c: most or GRAMMAR_ENDLESS */
    EXPR_RULE,   /* a: rule */
    EXPR_TOKEN,  /* a: named token */
};
struct expr {
    uint8_t kind;
    uint32_t a, b, c;
};
/* Code points, both ends included; in a class ascending and apart. */
struct range {
    uint32_t low, high;
};
struct grammar_rule {
    char *name; /* owned; NULL for one that a schema made */
    uint32_t expr;
    uint32_t line, column; /* where it was first named */
};

struct grammar_tree {
    struct expr *exprs;
    size_t n_exprs, cap_exprs;
    struct range *ranges;
    size_t n_ranges, cap_ranges;
    uint32_t *kids;
    size_t n_kids, cap_kids;
    struct grammar_rule *rules;
    size_t n_rules, cap_rules;
    char **tokens; /* names as written, without the angle brackets */
    size_t n_tokens, cap_tokens;
    struct buf bytes;
    bool full; /* more than GRAMMAR_MAX_NODES of something: all that was made is worthless */
};
void grammar_tree_free(struct grammar_tree *t);
uint32_t expr_bytes(struct grammar_tree *t, const char *bytes, size_t n);
uint32_t expr_text(struct grammar_tree *t, const char *text);
/* `ranges` may overlap and come in any order; `negated` is against all characters. */
uint32_t expr_class(struct grammar_tree *t, const struct range *ranges, size_t n, bool negated);
uint32_t expr_list(struct grammar_tree *t, enum expr_kind kind, const uint32_t *kids, size_t n);
uint32_t expr_repeat(struct grammar_tree *t, uint32_t what, uint32_t least, uint32_t most);
uint32_t expr_rule(struct grammar_tree *t, uint32_t rule);
uint32_t expr_token(struct grammar_tree *t, const char *name, size_t n);
/* A rule without an expression yet (GRAMMAR_NONE). */
uint32_t grammar_rule_new(struct grammar_tree *t, const char *name, size_t n);
/* Sorts, joins what touches and, where `negated`, takes all other characters (surrogates are
 * none). Returns how many there are then; `ranges` has room for 2 more. */
size_t ranges_settle(struct range *ranges, size_t n, bool negated);

/* expr_seq(t, a, b, c): a list of what is named. */
#define EXPR_LIST(t, kind, ...)                                                                    \
    expr_list(t, kind, (const uint32_t[]){__VA_ARGS__},                                            \
              sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))
#define expr_seq(t, ...) EXPR_LIST(t, EXPR_SEQ, __VA_ARGS__)
#define expr_alt(t, ...) EXPR_LIST(t, EXPR_ALT, __VA_ARGS__)

/* ---- the program --------------------------------------------------------------------------- */

enum node_op {
    NODE_RETURN, /* the rule's end */
    NODE_BYTE,   /* a byte of the classes low..high, then x */
    NODE_SPLIT,  /* x or y */
    NODE_CALL,   /* the rule that begins at x, then y */
    NODE_TOKEN,  /* named token x, then y */
    NODE_LOOP,   /* what `loops`[x] says, then y */
    NODE_AGAIN,  /* the end of a loop's body: loops[x] */
    NODE_NEVER,
};
struct node {
    uint8_t op, low, high;
    uint32_t x, y;
    uint32_t shortest; /* bytes to the end of the rule, or of the body of the loop around */
};
struct loop {
    uint32_t body, least, most;
};

struct grammar {
    struct node *nodes;
    struct loop *loops;
    char **tokens;
    size_t n_nodes, cap_nodes, n_loops, cap_loops, n_tokens;
    uint32_t start;
    uint32_t n_classes;
    uint8_t class_of[256]; /* of a byte */
};

/* Compile the rules of a tree. Takes the tree's tokens. `root` is the first rule. */
int grammar_build(struct grammar **g, struct grammar_tree *t, uint32_t root, struct err *err);
/* Sets `shortest` of all nodes. -1: no memory is reason; see grammar_check.c. */
void grammar_measure(struct grammar *g);
/* -1 and `err`: a rule calls itself before anything else, or can never end. entries[n] are the
 * nodes at which the rules of the tree begin. */
int grammar_check(const struct grammar *g, const struct grammar_tree *t, const uint32_t *entries,
                  struct err *err);

/* ---- schemas ------------------------------------------------------------------------------- */

/* An expression for the JSON texts of a schema; GRAMMAR_NONE and `err`. */
uint32_t grammar_schema_expr(struct grammar_tree *t, const struct value *schema, unsigned flags,
                             struct buf *remarks, struct err *err);

#endif
