/*
 * tools_internal: what the files of tools share: tools.c, the stream; tools_head.c, how a call
 * begins; tools_rows.c, the table; tools_grammar.c.
 */
#ifndef FORMAT_TEXT_TOOLS_INTERNAL_H
#define FORMAT_TEXT_TOOLS_INTERNAL_H

#include "format/text/tools.h"

enum tools_match { TOOLS_NO, TOOLS_YES, TOOLS_MORE /* has to be seen */ };

static inline bool tools_is_white(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}
size_t tools_skip_white(const char *p, size_t n, size_t i);
/* Whether text begins with `word`. `all`: no more will come. NULL is never there. */
enum tools_match tools_match(const char *p, size_t n, const char *word, bool all);

/* How a call begins, up to where its arguments do. */
struct tools_head {
    size_t bytes; /* of all that is understood */
    const char *name;
    size_t name_bytes;
    size_t from, to;  /* arguments that stood before the name; none: from == to */
    bool none;        /* it has no arguments at all */
    unsigned objects; /* TOOLS_JSON: those that are open around the arguments */
    bool listed;      /* a bracket was opened before it */
};
/* Whether a call begins at p; `inside`: within a list, where nothing stands before it. */
enum tools_match tools_match_head(const struct tools_row *row, const struct value *tools,
                                  const char *p, size_t n, bool inside, bool all,
                                  struct tools_head *head);
/* The same for a key of TOOLS_TAGGED: name is the key; `typed` becomes 's' or 'j' where the key
 * says itself that a string or JSON follows. */
enum tools_match tools_match_key(const struct tools_row *row, const char *p, size_t n, bool all,
                                 struct tools_head *head, char *typed);

/* What a schema says of a value's type: a bit for each. */
enum { TOOLS_TYPE_STRING = 1, TOOLS_TYPE_OTHER = 2, TOOLS_TYPE_NULL = 4, TOOLS_TYPE_ANY = 7 };
unsigned tools_types(const struct value *schema);
/* Whether a value is of one of the types that a schema names. */
bool tools_allows(const struct value *schema, const struct value *v);

#endif
