/*
 * toolbox: the tools that a request has, and how the model's template takes them.
 *
 * Owns: definitions and choices as each API says them, made into what templates take; whether the
 * template knows tools at all, and where it takes what the system says, found by a trial;
 * conversations for one that does not; ids of calls.
 * Leaves to others: how calls are written (format/text/tools.h), messages (convo), the grammar of
 * an answer (toolbox_form), what is answered (answer).
 * Threads: a toolbox belongs to one thread at a time; what was found of the template is made before
 * there are any requests, and then constant.
 *
 * Where a template shows the definitions that it is given, and a call that it renders is read back
 * by a row of tools.h, calls are written and read in that row's form. Else it knows none: the
 * definitions, and how a call is written, are told in a text in front of the system's own; earlier
 * calls and results are told as texts, too, in the form of tools_plain_row.
 *
 * Where it takes but one message of the system's, in front, further ones there become lines of it.
 * One that comes later stays at its place, as lines between <system> and </system> in what the user
 * says: in front it would change all that is known of the prompt.
 */
#ifndef RUNTIME_SERVE_TOOLBOX_H
#define RUNTIME_SERVE_TOOLBOX_H

#include "format/text/tools.h"
#include "runtime/serve/serve.h"

enum {
    TOOLBOX_MAX_TOOLS = 1024,
    TOOLBOX_MAX_NAME_BYTES = 128,
};

/* What ids of calls are to be, as a template has them: any; nine letters and digits, or it refuses;
 * `functions.NAME:N`, where it tells nothing else of the name, N counting all calls. */
enum toolbox_ids { TOOLBOX_IDS_ANY, TOOLBOX_IDS_SHORT, TOOLBOX_IDS_NAMED };

/* What was found of a template. */
struct toolbox_ways {
    const struct tools_row *row;
    bool known;          /* it shows definitions, and calls in that form */
    bool system;         /* it takes a message of the system's */
    bool systems;        /* it takes several in front */
    bool later_system;   /* it takes them later, too, and shows them there */
    bool text_arguments; /* calls have their arguments as text */
    enum toolbox_ids ids;
    int32_t *shown; /* [n_shown] ids of special tokens that calls and thoughts are told from */
    size_t n_shown;
};
/* Try the template of the server's model; without one nothing is known. */
void toolbox_try(const struct server *s, struct toolbox_ways *ways);
void toolbox_ways_free(struct toolbox_ways *ways);

enum toolbox_choice { TOOLBOX_AUTO, TOOLBOX_NONE, TOOLBOX_REQUIRED };

/* Zero-initialise: no tools. */
struct toolbox {
    struct value_arena arena;
    struct value tools; /* a list of {"type": "function", "function": {...}}; none where n == 0 */
    size_t n;
    enum toolbox_choice choice;
    bool *allowed; /* [n] those that may be called */
    bool *strict;  /* [n] whose schemas have to be supported */
    bool one;      /* at most one call */
};
/* Read what each API has of it. -1 and `problem`; the box is the caller's in every case. */
int toolbox_openai(struct call *call, struct toolbox *box, struct problem *problem);
int toolbox_responses(struct call *call, struct toolbox *box, struct problem *problem);
int toolbox_anthropic(struct call *call, struct toolbox *box, struct problem *problem);
void toolbox_free(struct toolbox *box);

/* Make an id for a call, which begins with `prefix` where the template takes any. */
void toolbox_id(const struct toolbox_ways *ways, char id[REPLY_ID], const char *prefix);

/* The grammar of an answer that is calls, or, where `form` is not NULL, of that form (a field of
 * `params`); with `opened`, of what follows the opening of a call. Values of schemas that are not
 * supported are loosened, and told. -1 and `problem`. */
struct params;
int toolbox_grammar(const struct server *s, const struct toolbox *box, bool opened,
                    const struct params *form, struct corm_grammar **grammar,
                    struct problem *problem);
/* The token that begins a call in a way that a vocabulary may forbid; -1: there is none. */
int32_t toolbox_first_token(const struct server *s);

/* Messages [n] of a conversation as the template is to have them: a new list in the call's arena.
 * `box` may be NULL. -1: no room. */
int toolbox_messages(struct call *call, const struct toolbox *box, const struct value *messages,
                     size_t n, struct value *out);

#endif
