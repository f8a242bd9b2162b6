/*
 * convo: conversations as clients send them, made into the ids of a prompt.
 *
 * Owns: what the APIs' many spellings of a message come to (roles, contents that are null, a string
 * or parts, what was thought, calls of tools and their results), what is refused in them by name,
 * and the prompt that the chat template makes.
 * Leaves to others: templates and tokens (corm.h), the fields around the messages.
 * Threads: each object belongs to one thread.
 *
 * Leniently: `developer` is `system`; texts in parts are joined by newlines; fields that are not
 * known are not looked at. Refused: images, audio, files. Control tokens that are written out in
 * what is said are text to the model. A conversation that ends with the assistant is continued: its
 * last text goes behind what the template puts before an answer.
 */
#ifndef RUNTIME_SERVE_CONVO_H
#define RUNTIME_SERVE_CONVO_H

#include "runtime/serve/serve.h"
#include "runtime/serve/toolbox.h"

/* Zero-initialise; all lives in the call's arena, but for what convo_free frees. */
struct convo {
    struct value *items; /* [n] messages: dicts as templates read them */
    size_t n, cap;
    const char *field; /* of the request, that an error of all of it names */
    bool thinks;       /* `thought` waits for what the assistant said then */
    struct value thought;
    const struct toolbox *tools; /* that the model is told of; NULL: none */
};
void convo_free(struct convo *c);

/* Add a message with a content as above (NULL is none). Empty system messages are left out. -1 and
 * `problem`, whose field is `where`. */
int convo_add(struct call *call, struct convo *c, const char *role, const struct value *content,
              const char *where, struct problem *problem);
/* Add what was thought before the next message, which is one of the assistant: an item of type
 * reasoning, as responses have them. What can be read by nobody else is left out. */
int convo_think(struct call *call, struct convo *c, const struct value_dict *item,
                const char *where, struct problem *problem);
/* Add a call of a tool, and the result of one, that are items of their own; calls that follow each
 * other, or what the assistant says, are one message. `arguments` is JSON text. */
int convo_add_call(struct call *call, struct convo *c, const struct value *id,
                   const struct value *name, const struct value *arguments, const char *where,
                   struct problem *problem);
int convo_add_result(struct call *call, struct convo *c, const struct value *id,
                     const struct value *content, const char *where, struct problem *problem);
/* Add all of a list of messages, the field `name` of the request. */
int convo_add_list(struct call *call, struct convo *c, const char *name, struct problem *problem);

enum { CONVO_ENDS = 8 };

/* The prompt's ids (free()), which are within the context, and where `text` is not NULL also their
 * text (free()). For a model that needs snapshots to go back, `ends` are lengths at which messages
 * end in it, ascending: behind the system's, behind the user's last question, and behind the last
 * questions and results of tools. From there the next request goes on where its template leaves out
 * what was thought, or the client says something else. */
struct convo_prompt {
    uint32_t ends[CONVO_ENDS];
    uint32_t n_ends;
    int32_t *ids;
    size_t n_ids;
    char *text;
    size_t text_bytes;
};
void convo_prompt_free(struct convo_prompt *p);
/* `any_length`: also where it does not fit. */
int convo_render(struct call *call, const struct convo *c, bool any_length,
                 struct convo_prompt *out, struct problem *problem);

/* Ids of a text; `special` as corm_tokenize has both. */
int convo_tokenize(struct call *call, const char *text, size_t bytes, bool add_special,
                   bool parse_special, int32_t **ids, size_t *n, struct problem *problem);
/* Whether a prompt, the request's field `field`, fits the context; -1 and `problem` in the API's
 * own words. */
int convo_check(const struct call *call, size_t n, const char *field, struct problem *problem);

#endif
