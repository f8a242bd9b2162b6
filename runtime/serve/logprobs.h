/*
 * logprobs: probabilities of tokens, as OpenAI's two APIs write them.
 *
 * Owns: keeping them until they are told, and both spellings.
 * Leaves to others: the numbers (corm_logprobs): of raw logits, at temperature 1.
 * Threads: the forward thread.
 */
#ifndef RUNTIME_SERVE_LOGPROBS_H
#define RUNTIME_SERVE_LOGPROBS_H

#include "runtime/corm.h"
#include "runtime/run/run_json.h"

struct logprob_token {
    int32_t id;
    float logprob;            /* NaN: of the first token of a text, which follows nothing */
    struct corm_logprob *top; /* [n_top] */
    size_t n_top;
};
void logprobs_keep(struct logprob_token *t, const struct corm_logprob *chosen,
                   const struct corm_logprob *top, size_t n_top);
void logprobs_free(struct logprob_token *tokens, size_t n);

/* Add `logprobs` with the content of a turn. */
void logprobs_chat(struct run_json *j, const struct corm_engine *engine,
                   const struct logprob_token *tokens, size_t n);
/* Add `logprobs` with the four lists of a text. `offset`, in characters of the text, is where the
 * first token begins; it becomes where the last one ends. Tokens whose texts are the same stay
 * apart: all but the first are called by their id. */
void logprobs_text(struct run_json *j, const struct corm_engine *engine,
                   const struct logprob_token *tokens, size_t n, size_t *offset);

#endif
