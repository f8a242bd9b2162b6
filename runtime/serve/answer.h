/*
 * answer: a text that is generated for an exchange, whatever the API.
 *
 * Owns: the jobs of one exchange, what their texts are gathered in, the order in which things are
 * sent, how much was used.
 * Leaves to others: what is sent (a struct answer_form of each API), computing (scheduler).
 * Threads: made by the thread that prepares calls, up to answer_start; from then on the forward
 * thread's. It frees itself when all is sent.
 */
#ifndef RUNTIME_SERVE_ANSWER_H
#define RUNTIME_SERVE_ANSWER_H

#include "format/text/thinking.h"
#include "format/text/tools.h"
#include "runtime/serve/convo.h"
#include "runtime/serve/logprobs.h"
#include "runtime/serve/params.h"
#include "runtime/serve/serve.h"
#include "runtime/serve/toolbox.h"

struct answer;

/* A call of a tool, in an answer. */
struct choice_call {
    char id[REPLY_ID], item[REPLY_ID];
    char *name;
    struct buf arguments; /* JSON text: all of it by now */
    size_t text_before;   /* where it stands in the choice's text, if that is gathered */
    bool whole;           /* it is complete */
};

/* One of the texts. */
struct choice {
    struct job job;
    bool owns_ids;            /* else they are those of the choice before */
    struct corm_stops *stops; /* NULL: no text ends it, or it does not run */
    /* All of it, where it is not streamed or the API wants it again. After a turn, `text` is
     * the answer alone, and `thought` what the model thought before. */
    struct buf text, thought;
    struct thinking thinking;
    struct thinking until;     /* the same for the scheduler, to see the end of a thought */
    uint32_t thought_tok;      /* how many tokens were thought */
    struct trigger trigger;    /* the job's, with calls */
    struct tools_stream tools; /* what is answered, calls parted from text */
    struct choice_call *calls; /* [n_calls] */
    size_t n_calls, cap_calls;
    /* With logprobs: what was chosen, and which of it was told. */
    struct logprob_token *tokens; /* [n_tokens] */
    size_t n_tokens, cap_tokens, told_tokens;
    size_t offset; /* of the text of what was told, in characters */
};

enum call_part { CALL_BEGIN, CALL_ARGUMENTS, CALL_END };

/* How an API says it. Functions append to `out`, which is then sent. */
struct answer_form {
    const char *type;  /* of the content, where it is streamed */
    const char *alive; /* sent where nothing else is */
    bool keeps_text;   /* gather texts and thoughts although they are streamed */
    enum api api;
    const char *id;                  /* how the answer's id begins */
    const char *call_id, *call_item; /* the same of calls; NULL: they have none */
    /* The whole answer, where it is not streamed. */
    void (*whole)(struct answer *a, struct run_json *j);
    /* What was thought, as `text` below; NULL: it is left out. */
    void (*thought)(struct answer *a, struct choice *c, const char *text, size_t bytes,
                    struct buf *out);
    /* The stream: at first, for each piece of text, at the end of a text, at the end of all. */
    void (*begin)(struct answer *a, struct buf *out);
    void (*text)(struct answer *a, struct choice *c, const char *text, size_t bytes,
                 struct buf *out);
    /* A part of the choice's last call: `json` is a piece of its arguments. */
    void (*call)(struct answer *a, struct choice *c, enum call_part part, const char *json,
                 size_t bytes, struct buf *out);
    void (*end_choice)(struct answer *a, struct choice *c, struct buf *out);
    void (*end)(struct answer *a, struct buf *out);
    /* An error in the middle. */
    void (*fail)(struct answer *a, const struct problem *problem, struct buf *out);
};

struct answer {
    struct server *s;
    struct http_exchange *x;
    const struct answer_form *form;
    struct params params;
    char id[REPLY_ID];
    char *model; /* as the request has it */
    char *alive; /* of its own, or NULL */
    int64_t created;
    bool chat;   /* of an API with both: turns, not a text */
    bool splits; /* answer_set_turn: thoughts from answers */
    struct toolbox tools;
    struct corm_grammar *calls; /* of calls, from their opening on; NULL: none waits for one */
    uint32_t
        blocks;  /* of an API with blocks: those that were begun, and whether the last one is of */
    bool thinks; /* thoughts */
    enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_THOUGHT, BLOCK_CALL } block; /* that is open */
    uint32_t prompt_tok;
    uint64_t
        prompts_bytes; /* of its ids and tools, as they count for the server's, where `counted` */
    bool counted;
    uint32_t n_choices, left;
    uint32_t sequence; /* of events */
    bool broken;       /* an error was sent: nothing follows */
    struct problem problem;
    char *extra; /* JSON that the API gives back, or NULL */
    struct choice choices[];
};

/* An answer with `n` choices that are still to be given ids. It is the caller's until answer_start
 * takes it; answer_free. */
struct answer *answer_new(struct call *call, const struct answer_form *form,
                          const struct params *params, uint32_t n);
void answer_free(struct answer *a);
/* Give choice `i` its prompt, in order of the choices: `ids` are copied, once for choices that
 * follow each other with the same ones. */
void answer_set_prompt(struct answer *a, uint32_t i, const int32_t *ids, size_t n);
/* Give all choices this one. Where it is a turn, whose text the chat template made, what the model
 * thinks is parted from what it answers; the text says whether it thinks already. */
void answer_set_turn(struct answer *a, const struct convo_prompt *prompt);
/* The tools that it may call: taken over, `box` becomes empty. Before answer_set_turn. */
void answer_set_tools(struct answer *a, struct toolbox *box);
/* Queue it; 0: it will be answered, and belongs to the forward thread. -1 and `problem`: there is
 * no room, which is seen first, or the form that it has to have is none, and it was freed. */
int answer_start(struct answer *a, struct problem *problem);

/* What was generated, and what was used again, of all choices. */
uint32_t answer_made(const struct answer *a);
uint32_t answer_cached(const struct answer *a);
/* Of what was generated, the tokens of thoughts. */
uint32_t answer_thought(const struct answer *a);
/* "stop", "length" or "tool_calls". */
const char *answer_finish(const struct choice *c);
/* Whether it ends with calls that are to be answered. */
bool answer_calls(const struct choice *c);
/* Write a call's arguments as an object, in one line; of one that is not complete, none are
 * known. */
void answer_arguments(struct run_json *j, const char *key, const struct choice_call *call);
/* Nanoseconds that its prompt and its text took, and since it was queued. */
struct answer_times {
    uint64_t prompt_ns, made_ns, all_ns;
};
struct answer_times answer_times(const struct choice *c);

/* For forms: an event of a stream. `name` may be NULL. Frees `j`. */
void answer_event(struct buf *out, const char *name, struct run_json *j);

#endif
