/*
 * convo: conversations as clients send them, made into the ids of a prompt.
 *
 * Owns: what the APIs' many spellings of a message come to (roles, contents that are null, a string
 * or parts), what is refused in them by name, and the prompt that the chat template makes.
 * Leaves to others: templates and tokens (corm.h), the fields around the messages.
 * Threads: each object belongs to one thread.
 *
 * Leniently: `developer` is `system`; texts in parts are joined by newlines; what was thought in
 * earlier turns is left out, as templates do; fields that are not known are not looked at. Refused:
 * images, audio, files, calls of tools. A conversation that ends with the assistant is continued:
 * its last text goes behind what the template puts before an answer.
 */
#ifndef RUNTIME_SERVE_CONVO_H
#define RUNTIME_SERVE_CONVO_H

#include "runtime/serve/serve.h"

/* Zero-initialise. Texts live in the call's arena; convo_free frees the rest. */
struct convo {
    struct corm_message *messages;
    size_t n, cap;
};
void convo_free(struct convo *c);

/* Add a message whose content is a value as above; NULL is none. Empty system messages are left
 * out. -1 and `problem`, whose field is `where`. */
int convo_add(struct call *call, struct convo *c, const char *role, const struct value *content,
              const char *where, struct problem *problem);
/* Add all of a list of {role, content}, the field `name` of the request. */
int convo_add_list(struct call *call, struct convo *c, const char *name, struct problem *problem);
/* The text of a content in the call's arena; NULL and `problem`. */
const char *convo_text(struct call *call, const struct value *content, const char *where,
                       struct problem *problem);

/* The prompt's text (free()) or its ids (free()), which are within the context. */
int convo_render(struct call *call, const struct convo *c, char **text, size_t *bytes,
                 struct problem *problem);
int convo_ids(struct call *call, const struct convo *c, int32_t **ids, size_t *n,
              struct problem *problem);

/* Ids of a text; `special` as corm_tokenize has both. */
int convo_tokenize(struct call *call, const char *text, size_t bytes, bool add_special,
                   bool parse_special, int32_t **ids, size_t *n, struct problem *problem);
/* Whether a prompt fits the context; -1 and `problem` in the API's own words. */
int convo_check(const struct call *call, size_t n, struct problem *problem);

#endif
