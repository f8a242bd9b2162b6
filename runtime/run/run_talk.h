/*
 * run_talk: a conversation with a model: what was said, and the answer to it.
 *
 * Owns: the messages; what of a session a later turn goes on with, so that it evaluates its new
 * tokens only; the rule for a context that gets full; the loop that makes an answer.
 * Leaves to others: keyboard, terminal and files (run_chat*), templates and tokens (corm.h).
 * Threads: the forward thread.
 *
 * The ids of a turn are those of the whole conversation, rendered anew. The session is cut back to
 * what it has in common with them, and the rest is evaluated. A template that strips what was
 * thought earlier, or another system message, moves that point back by itself. Windows and
 * recurrent layers can only go back to a snapshot: one is taken where the next turn will most
 * likely part from this one, and one at the end of each prompt, as far as there is memory for them.
 *
 * The rule for the context: where a prompt would leave less than an eighth of the context for the
 * answer, the oldest turns (a question and what followed it) are no longer shown to the model,
 * until the rest takes at most half of the context. So that happens rarely, and each time all that
 * is left is evaluated again. The system message and the last question stay. The messages
 * themselves are kept.
 */
#ifndef RUNTIME_RUN_RUN_TALK_H
#define RUNTIME_RUN_RUN_TALK_H

#include "runtime/run/run.h"

struct talk_message {
    char *role, *content, *thinking; /* thinking may be NULL */
};

struct talk {
    struct run *run;               /* borrowed: an open model */
    struct corm_sampling sampling; /* the seed is that of the first answer */
    int max_tokens;                /* of an answer; -1 = no bound */
    struct corm_chat how;          /* template; its messages are set here */
    struct run_form *form;         /* of each answer, open, borrowed; NULL: any text will do */
    struct talk_message *messages;
    size_t n, cap;
    size_t hidden; /* messages behind the system's that the model no longer sees */
    bool told;     /* that the context is nearly full */
    uint64_t answers;
};

/* TALK_STOP_TOKEN also where the form lets nothing follow. */
enum talk_end { TALK_STOP_TOKEN, TALK_MAX_TOKENS, TALK_CONTEXT, TALK_INTERRUPT };

/* What an answer took. */
struct talk_turn {
    enum talk_end end;
    size_t prompt_tok, kept_tok; /* of the prompt, and of it what the layers held already */
    size_t answer_tok;
    size_t left_out;  /* messages that the model no longer sees since this turn */
    bool nearly_full; /* three quarters of the context are used, and this is the first time */
    struct corm_stats before, after_prompt, after;
};

/* Where an answer goes as it is made. */
struct talk_sink {
    int (*put)(void *ctx, bool thought, const char *text, size_t bytes, struct err *err);
    void *ctx;
};

/* `run` is open, with max_passes; `template_text` and `name` are --chat-template's or NULL,
 * borrowed. */
void talk_open(struct talk *t, struct run *run, const char *template_text, const char *name);
void talk_close(struct talk *t);

/* Texts are copied; `thinking` may be NULL. */
void talk_add(struct talk *t, const char *role, const char *content, const char *thinking);
/* Set, change or (with an empty text) remove the system message, which comes first. */
void talk_set_system(struct talk *t, const char *content);
/* Whether the first message is the system's. */
bool talk_has_system(const struct talk *t);
/* Forget all messages past the first `n`. */
void talk_cut(struct talk *t, size_t n);
/* Messages that were taken out of a talk: those past the first `n`. They go back into the talk
 * (talk_put_back, in place of what is behind those `n` by then) or to talk_drop. */
struct talk_tail {
    struct talk_message *messages; /* [count] */
    size_t n, count;
};
struct talk_tail talk_take(struct talk *t, size_t n);
void talk_put_back(struct talk *t, struct talk_tail *tail);
void talk_drop(struct talk_tail *tail);
/* The place of the last message of a user, or t->n where there is none. */
size_t talk_last_question(const struct talk *t);

/* Answer the last message, which is a user's, and add the answer. Ctrl-C (run_interrupted) ends it:
 * what was said so far is the answer. Each answer draws anew. 0; or -1 and `err`: then no message
 * was added, and the model sees what it saw before. */
int talk_answer(struct talk *t, const struct talk_sink *sink, struct talk_turn *turn,
                struct err *err);

#endif
