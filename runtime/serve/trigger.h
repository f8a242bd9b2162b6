/*
 * trigger: a form that a part of an answer has, from where it begins.
 *
 * Owns: the search for the opening of a call of a tool in what a model answers, and the state of
 * the grammar that holds from there to the end of the call.
 * Leaves to others: the opening and the grammar (format/text/tools.h), drawing (sequence).
 * Threads: made by the thread that prepares calls, then the forward thread's.
 *
 * What is thought opens nothing. Where a token has more behind the opening, that is the beginning
 * of the call; if it is none that the grammar knows, the call is written without it.
 */
#ifndef RUNTIME_SERVE_TRIGGER_H
#define RUNTIME_SERVE_TRIGGER_H

#include "format/text/thinking.h"
#include "runtime/corm.h"
#include "runtime/corm_grammar.h"

/* Zero-initialise; trigger_free. */
struct trigger {
    const char *opening;          /* borrowed */
    bool at_start;                /* it counts only where nothing was answered before */
    bool once;                    /* the text ends with the first call */
    struct corm_grammar *grammar; /* of what follows; borrowed */
    struct thinking thinking;
    struct buf seen;                  /* the end of what was answered, no longer than the opening */
    bool answered;                    /* something was that cannot be an opening any more */
    struct corm_grammar_state *state; /* NULL: no call is being written */
};
/* A text behind a prompt. */
void trigger_begin(struct trigger *t, const char *prompt, size_t bytes);
/* A token became the text. *over: nothing may follow. -1 and `error`: the grammar does not allow
 * it. */
int trigger_push(struct trigger *t, int32_t id, const char *text, size_t bytes, bool *over,
                 struct corm_error *error);
void trigger_free(struct trigger *t);

#endif
