/*
 * tools: calls of tools, in the text that a model writes.
 *
 * Owns: how models write calls down (a table), which of these ways a template has, the search for
 * calls in a stream of text, and the grammar of a call.
 * Leaves to others: definitions as clients send them, conversations, templates, tokens, and what is
 * done with a call.
 * Threads: the table is constant; one stream belongs to one thread at a time.
 *
 * A model is told of tools by its chat template, and calls one in the form that it was trained
 * with. There are three kinds of them: a JSON object that has the name and the arguments; a name
 * and a JSON object behind it; a name and each argument between tags of its own. Which one a model
 * has is not asked by its name: a conversation with a known call is rendered, and the row that
 * reads this call back is the one (tools_find).
 *
 * Arguments are told as the text of a JSON object, in pieces as they come. Where a form writes
 * values without quotes, the tool's schema says what is a string. White space around calls is
 * nobody's text. What begins like a call and is none stays text: nothing is skipped.
 */
#ifndef FORMAT_TEXT_TOOLS_H
#define FORMAT_TEXT_TOOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "format/text/value.h"

enum tools_kind {
    TOOLS_JSON,   /* open {"name": "f", "arguments": {...}} close */
    TOOLS_NAMED,  /* open f name_end {...} close */
    TOOLS_TAGGED, /* open f name_end (key_open k key_end value_open v value_close)... close */
};
struct tools_row {
    const char *name; /* for logs and tests */
    enum tools_kind kind;
    /* Texts; NULL: there is none. `before` and `after` are around all calls, or around each; before
     * the first call, and behind the last, they may be missing. */
    const char *before, *open, *name_end, *close, *after;
    const char *key_open, *key_end, *value_open, *value_close; /* of TOOLS_TAGGED */
    const char *quote; /* around strings, in place of '"'; keys have no quotes then */
    /* How it is written where a grammar asks for it, and not just as it is read: what comes before
     * the first call, what stands for name_end and key_end, what TOOLS_JSON calls arguments. */
    const char *first, *name_joint, *key_joint, *arguments;
    const char *again; /* what follows a thought */
    bool each;         /* `before` and `after` are around each call */
    bool says_type;    /* keys say of their value whether it is a string */
    bool may_close;    /* `close` may be missing */
    bool list;         /* further objects may follow, behind ',' or ';', all in brackets or not */
    bool at_start;     /* only where no text came before, and only of tools that are there */
    bool lines;        /* values have a newline before and behind them, which is not theirs */
    bool numbered;     /* of TOOLS_NAMED: behind the name stand ':' and which call it is */
    const char *const *noise;  /* what says nothing between calls and texts; ends with NULL */
    const char *const *tokens; /* which of its texts may be special tokens; ends with NULL */
};

/* The table's rows; NULL past the last one. */
const struct tools_row *tools_row(size_t i);
/* The row of the form that is told to models whose template knows of no tools. */
const struct tools_row *tools_plain_row(void);
/* The row that reads, as the first call of a text, one of `name` with these arguments (a dict),
 * best one with no other text before it. NULL: none does. */
const struct tools_row *tools_find(const char *text, size_t bytes, const char *name,
                                   const struct value *arguments);

/* ---- calls out of a stream ------------------------------------------------------------------ */

/* What is found, in order; none of these may be NULL. Pieces are borrowed during the call. */
struct tools_sink {
    void *ctx;
    void (*text)(void *ctx, const char *text, size_t bytes);
    void (*begin)(void *ctx, const char *name, size_t bytes);
    void (*arguments)(void *ctx, const char *json, size_t bytes);
    /* `whole`: the call is complete; else the text ended in it, and what was told of its arguments
     * is no JSON. */
    void (*end)(void *ctx, bool whole);
};

/* Zero-initialise; free with tools_free. */
struct tools_stream {
    const struct tools_row *row;
    const struct value *tools; /* the definitions: a list as templates get it, or NULL; borrowed */
    int state;
    struct buf pending; /* not understood yet */
    size_t at;          /* what of it is */
    struct buf white;   /* held back: it may stand before a call */
    bool told;          /* some text was */
    bool listed;        /* within brackets */
    size_t n_calls;
    /* of the call that is open */
    unsigned depth, outer; /* brackets of its arguments; of the object that they are in */
    uint64_t objects; /* which of the brackets are those of objects, where keys have no quotes */
    bool keyed;       /* a key comes next */
    bool quoted, escaped; /* in a string of these */
    size_t n_keys;
    const struct value *schema; /* of the value that comes, or NULL */
    bool string;                /* it is one, and told as it comes */
    bool begun;                 /* some of it was told */
    struct buf value;           /* else: all of it */
    char *called;               /* the tool's name */
};
void tools_begin(struct tools_stream *s, const struct tools_row *row, const struct value *tools);
void tools_push(struct tools_stream *s, const char *text, size_t bytes,
                const struct tools_sink *sink);
/* The text has ended; the stream is as before tools_begin. */
void tools_end(struct tools_stream *s, const struct tools_sink *sink);
void tools_free(struct tools_stream *s);

/* ---- the grammar of a call ------------------------------------------------------------------- */

/* A rule that is the JSON of a schema. */
struct tools_schema {
    char name[32];
    const struct value *schema;
    size_t tool; /* whose it is: a place in the definitions */
};
struct tools_grammar {
    const struct tools_row *row;
    const struct value *tools; /* the definitions */
    const bool *allowed;       /* [of these] which may be called; NULL: all */
    bool one;                  /* one call and no more */
    bool opened;               /* what follows tools_opening; else all of an answer that is calls */
    const char *other;         /* a rule that an answer may be instead; NULL: none */
    /* The id of a token that the vocabulary has added, by its text: such ones match no text. -1:
     * there is none. */
    int64_t (*added)(void *ctx, const char *token, size_t bytes);
    void *ctx;
};
/* Append the rules; `schemas` [*n] becomes those that they name (free()), made in `arena`. -1: no
 * room there. */
int tools_write_grammar(const struct tools_grammar *how, struct value_arena *arena,
                        struct buf *rules, struct tools_schema **schemas, size_t *n);
/* The text with which a call begins for certain. */
const char *tools_opening(const struct tools_row *row);

/* The definition of a name in a list of tools: its "function"; NULL: there is none. */
const struct value *tools_function(const struct value *tools, const char *name, size_t bytes);

#endif
