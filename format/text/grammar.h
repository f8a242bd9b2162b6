/*
 * grammar: which tokens may come next, so that what a model writes has a form that was asked for.
 *
 * Owns: the two ways in which a form is told (GBNF, the language of llama.cpp's grammars, and JSON
 * schemas), the automaton that both become, the bytes of a vocabulary's tokens, and masks: a bit
 * for each token that may come next.
 * Leaves to others: drawing a token (whoever samples puts the mask before all other filters), when
 * a constraint begins, and where the texts come from.
 *
 *     struct grammar *g;            what is allowed; never changes
 *     struct grammar_vocab *v;      the tokens' bytes; never changes
 *     struct grammar_masks *m;      what is known of g over v so far: states, masks
 *     struct grammar_state *s;      how far one text has come
 *
 *     grammar_parse(&g, text, len, err)              or grammar_json(&g, schema, 0, NULL, err)
 *     grammar_vocab_open(&v, tok, ends, n, err)      once for a model
 *     grammar_masks_open(&m, g, v, budget, err)
 *     s = grammar_state_new(m)
 *     loop: grammar_mask(s, left, mask, err); draw an id; grammar_accept(s, id, err)
 *
 * Threads: a grammar and a vocabulary may be used by any number of threads. A `grammar_masks` with
 * all its states belongs to one thread at a time (so that masks may be made by another thread than
 * the one that draws, one after the other).
 *
 * How it works. A grammar is compiled to a program over bytes with calls and counted loops; a
 * configuration is a place in the program and a stack of frames, which are shared between
 * configurations and interned. A set of configurations is a state of an automaton whose states and
 * transitions are made when they are first needed and kept. A mask is a walk of that automaton
 * through the trie of all tokens' bytes. Inside of strings nearly all tokens are allowed, and
 * walking them all would be slow: tokens of plain characters only are taken at once, by how many
 * characters they have, where all plain characters do the same to the state.
 *
 * What is untrusted is bounded: rules, nodes, depth, configurations and steps have limits, and
 * what goes beyond them is an error of one line.
 */
#ifndef FORMAT_TEXT_GRAMMAR_H
#define FORMAT_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "format/text/tokenizer.h"
#include "format/text/value.h"

enum {
    GRAMMAR_MAX_BYTES = 1 << 20, /* of a grammar's text */
    GRAMMAR_MAX_RULES = 1 << 16, /* those that a schema becomes counted too */
    GRAMMAR_MAX_NODES = 1 << 20, /* of the program */
    GRAMMAR_MAX_NAMED =
        1 << 10,             /* tokens that it names: each is looked for in every list of them */
    GRAMMAR_MAX_DEPTH = 200, /* groups in each other, schemas in each other */
    GRAMMAR_MAX_REPEAT = 1 << 20,  /* of the numbers of a repetition */
    GRAMMAR_MAX_FRAMES = 1000,     /* calls and loops in each other while text is made; what would
                                      be nested deeper is not allowed */
    GRAMMAR_MAX_CONFIGS = 1 << 13, /* ways in which one text may be read at the same time */
};

struct grammar;
struct grammar_vocab;
struct grammar_masks;
struct grammar_state;

/* ---- what is allowed ----------------------------------------------------------------------- */

/* A name that a grammar's text may use as if it were a rule, for the JSON texts of a schema. */
struct grammar_schema {
    const char *name; /* letters, digits, '-' */
    /* A schema (an object, or true); NULL: any object, as the response format `json_object`. */
    const struct value *schema;
};

enum grammar_flag {
    /* What of a schema is not supported loosens the value to any JSON of its type, with a remark;
     * without it, it is refused by name. */
    GRAMMAR_LENIENT = 1,
    /* No white space between the tokens of JSON texts. Without it a space, or a newline and up to
     * 20 spaces and tabs, may stand behind brackets, commas and colons. */
    GRAMMAR_COMPACT = 2,
};

/*
 * Compile GBNF: rules `name ::= ...` of literals ("..." with \n \r \t \\ \" \[ \] \xHH \uHHHH
 * \UHHHHHHHH), classes ([a-z], [^"\\]), `.` (any character), other rules' names, groups (...),
 * alternatives |, repetitions * + ? {m} {m,} {m,n}, comments # ..., and tokens that the vocabulary
 * has added, by their text <think> or by their number <[151667]>. Texts are those of the rule
 * `root`. A rule goes on over lines inside of parentheses, behind ::= and behind |. A rule that
 * calls itself before anything else (left recursion) is refused, and so is one that cannot end.
 *
 * `schemas` [n_schemas] are names for JSON texts, see above; remarks, one line each, are appended
 * to `remarks` (may be NULL). -1 and `err`, with line and column, or the place in a schema.
 */
int grammar_parse(struct grammar **g, const char *text, size_t len, struct err *err);
int grammar_parse_with(struct grammar **g, const char *text, size_t len,
                       const struct grammar_schema *schemas, size_t n_schemas, unsigned flags,
                       struct buf *remarks, struct err *err);

/*
 * The JSON texts that are valid by a schema (NULL: any object). Keys come in the schema's order.
 *
 * Known: type (also lists), enum, const, anyOf, allOf, oneOf where at most one branch can be valid,
 * $ref within the schema; properties, required, additionalProperties (absent beside properties:
 * none are made); items, prefixItems, minItems, maxItems; minLength, maxLength, pattern, format
 * (date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri); minimum, maximum and
 * the exclusive ones. What only describes (title, description, default, examples, $comment, $defs)
 * is passed over. All else is refused by name, or loosened. Numbers have at most 24 digits before
 * and behind the point; those with a bound other than zero have no exponent.
 */
int grammar_json(struct grammar **g, const struct value *schema, unsigned flags,
                 struct buf *remarks, struct err *err);
void grammar_free(struct grammar *g); /* NULL is fine */

/* ---- the tokens ---------------------------------------------------------------------------- */

/* `ends` [n_ends] are the ids that end a text. Added tokens match no text. */
int grammar_vocab_open(struct grammar_vocab **v, const struct tokenizer *tok, const uint32_t *ends,
                       size_t n_ends, struct err *err);
void grammar_vocab_free(struct grammar_vocab *v); /* NULL is fine */

/* The same of a list (tests, benchmarks): tokens[id], copied. */
struct grammar_token {
    const char *bytes; /* not NUL-terminated; an added token's text, for its name */
    uint32_t n;        /* 0: never allowed */
    bool added;
};
int grammar_vocab_make(struct grammar_vocab **v, const struct grammar_token *tokens, size_t n,
                       const uint32_t *ends, size_t n_ends, struct err *err);

/* Words of 64 bits in a mask: (ids + 63) / 64. */
size_t grammar_mask_words(const struct grammar_vocab *v);
/* Bytes that a vocabulary takes. */
size_t grammar_vocab_bytes(const struct grammar_vocab *v);

/* ---- masks --------------------------------------------------------------------------------- */

/* `g` and `v` are borrowed. `budget_bytes` is for states and masks that are kept, beside what
 * states that are open need; 0 = 64 MiB. -1 and `err`: a token that the grammar names is not in the
 * vocabulary. States are to be freed before it is closed. */
int grammar_masks_open(struct grammar_masks **m, const struct grammar *g,
                       const struct grammar_vocab *v, size_t budget_bytes, struct err *err);
/* Give back what is kept for later masks, which are made anew then. */
void grammar_masks_rest(struct grammar_masks *m);
void grammar_masks_close(struct grammar_masks *m); /* NULL is fine */

struct grammar_state *grammar_state_new(struct grammar_masks *m);
/* Cheap: a few words. */
struct grammar_state *grammar_state_copy(const struct grammar_state *s);
void grammar_state_free(struct grammar_state *s); /* NULL is fine */

/*
 * Which ids may come next: bit id % 64 of mask[id / 64]. The ids that end a text are among them
 * where it may end here. `left` is how many tokens may still be made, this one included, the one
 * that ends the text not: ids after which the text could not be brought to its end with one byte a
 * token are left out, where any others are left. 0 = no limit. -1 and `err`: none is allowed (the
 * vocabulary lacks the bytes), or the grammar takes more steps than allowed.
 */
int grammar_mask(struct grammar_state *s, size_t left, uint64_t *mask, struct err *err);

/* The text went on by a token. -1 and `err`: it is not allowed; the state is as it was. */
int grammar_accept(struct grammar_state *s, uint32_t id, struct err *err);
/* By `n` bytes of text, such as those that a prompt ends with. */
int grammar_accept_text(struct grammar_state *s, const char *text, size_t n, struct err *err);

/* Whether the text may end here; whether it cannot go on (or an id that ends it was accepted). */
bool grammar_may_end(const struct grammar_state *s);
bool grammar_is_over(const struct grammar_state *s);
/* Bytes of the shortest text that completes this one; a named token counts as one. */
size_t grammar_shortest(const struct grammar_state *s);

/* What a `grammar_masks` did and holds. */
struct grammar_figures {
    uint64_t masks, cached;       /* asked for; answered from what was kept */
    uint64_t transitions, swept;  /* made; how often the states that nobody needs were dropped */
    size_t states, frames, bytes; /* that it holds */
};
struct grammar_figures grammar_masks_figures(const struct grammar_masks *m);

#endif
