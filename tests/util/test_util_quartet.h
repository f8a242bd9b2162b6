/*
 * Several sessions of one engine on a golden case, beside what each of them gets alone: for tests
 * of evaluations that are shared.
 */
#ifndef CORM_TEST_UTIL_QUARTET_H
#define CORM_TEST_UTIL_QUARTET_H

#include "tests/util/test.h"

#include "runtime/engine.h"
#include "tests/util/test_util_golden.h"

enum { SESSIONS = 4, TOKENS = 24, BATCH = 8 };

/* An engine on a case, its sessions, and what each of them gets alone. */
struct quartet {
    char *path;
    int32_t *ids; /* session i has those from i on */
    size_t n, row_bytes, vocab;
    struct corm_engine *e;
    struct corm_session *s[SESSIONS];
    float *alone[SESSIONS]; /* [TOKENS, vocab] */
    struct corm_error error;
};

/* SESSIONS sessions of an engine with two threads and pieces of BATCH rows; `opt` gives the rest.
 */
struct quartet quartet_open(const char *name, struct corm_engine_options opt);
void quartet_close(struct quartet *r);
/* The session has its first n tokens, and their last logits are those that it gets alone. */
void quartet_check(const struct quartet *r, int i, uint32_t n);
/* The span that takes session i from `from` tokens to `to`. */
struct corm_span quartet_span(const struct quartet *r, int i, uint32_t from, uint32_t to);
/* All sessions but the last have a beginning; the first one is cut back to it, so that what it has
 * must in some families be computed again. */
void quartet_begin(struct quartet *r);

#endif
