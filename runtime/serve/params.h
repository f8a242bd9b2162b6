/*
 * params: how a text is to be generated, as each API says it.
 *
 * Owns: the fields of requests that say how tokens are chosen and where the text ends.
 * Leaves to others: prompts and conversations (convo), what is answered.
 * Threads: each call is its own.
 */
#ifndef RUNTIME_SERVE_PARAMS_H
#define RUNTIME_SERVE_PARAMS_H

#include "runtime/serve/serve.h"

enum {
    PARAMS_MAX_CHOICES = 128,
    PARAMS_MAX_STOPS = 64,
    PARAMS_MAX_STOP_BYTES = 4096,
    PARAMS_MAX_BIAS = 4096,
    PARAMS_MAX_MODEL_BYTES = 1024,   /* of its name, which is in every piece of a stream */
    PARAMS_MAX_FORM_BYTES = 1 << 20, /* of a grammar or schema */
};

struct params {
    struct corm_sampling sampling; /* with the seed of choice 0 */
    int64_t max_tok;               /* negative: as many as there is room for */
    bool says_max;                 /* the request has it */
    uint32_t n;
    bool stream, include_usage, echo, ignore_eos;
    const struct value_string *model; /* NULL where none is named */
    char **stops;                     /* [n_stops]; params_free */
    size_t n_stops;
    struct corm_logit_bias *bias; /* what sampling.bias points to, [sampling.n_bias]; params_free */
    int n_top;              /* probabilities of so many tokens; negative: none are asked for */
    const char *form_field; /* that says what the text has to look like; NULL: any will do */
    enum corm_grammar_form form;
    struct buf form_text; /* the grammar or schema; params_free */
};

/* Each reads what is the API's into `p`, which becomes the caller's in every case. -1 and
 * `problem`. */
int params_openai(struct call *call, struct params *p, struct problem *problem);
int params_responses(struct call *call, struct params *p, struct problem *problem);
int params_anthropic(struct call *call, struct params *p, struct problem *problem);
int params_ollama(struct call *call, struct params *p, struct problem *problem);
void params_free(struct params *p);

/* params_form.c: the form of the answer, as each API says it; for responses of the object `text`,
 * which is around the field. Whether the grammar or schema is one is seen by answer_start. */
int params_form_openai(const struct value_dict *body, struct params *p, struct problem *problem);
int params_form_anthropic(const struct value_dict *body, struct params *p, struct problem *problem);
int params_form_ollama(const struct value_dict *body, struct params *p, struct problem *problem);
int params_form_response(const struct value_dict *text, struct params *p, struct problem *problem);

#endif
