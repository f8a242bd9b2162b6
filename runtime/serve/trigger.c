/*
 * trigger: see trigger.h.
 */
#include "runtime/serve/trigger.h"

#include <string.h>

void trigger_begin(struct trigger *t, const char *prompt, size_t bytes) {
    thinking_begin(&t->thinking, prompt, bytes);
}

void trigger_free(struct trigger *t) {
    thinking_free(&t->thinking);
    buf_free(&t->seen);
    corm_grammar_end(t->state);
    *t = (struct trigger){0};
}

static void end_call(struct trigger *t) {
    corm_grammar_end(t->state);
    t->state = NULL;
    t->seen.len = 0;
}

/* A character of the answer; whether it completes the opening. */
static bool opens(struct trigger *t, char c) {
    size_t n = strlen(t->opening);
    bool white = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (t->at_start && t->seen.len == 0 && white) {
        return false;
    }
    if (t->seen.len == n) {
        memmove(t->seen.data, t->seen.data + 1, --t->seen.len);
        t->answered = true;
    }
    buf_append(&t->seen, &c, 1);
    return t->seen.len == n && !memcmp(t->seen.data, t->opening, n) &&
           !(t->at_start && t->answered);
}

int trigger_push(struct trigger *t, int32_t id, const char *text, size_t bytes, bool *over,
                 struct corm_error *error) {
    struct buf thought = {0}, answer = {0};
    int rc = 0;
    *over = false;
    thinking_push(&t->thinking, text, bytes, &thought, &answer);
    if (t->state) {
        rc = corm_grammar_accept(t->state, id, error);
        if (rc == 0 && corm_grammar_is_over(t->state)) {
            *over = t->once;
            end_call(t);
        }
        goto out;
    }
    for (size_t i = 0; i < answer.len; i++) {
        if (!opens(t, answer.data[i])) {
            continue;
        }
        size_t rest = answer.len - i - 1;
        t->state = corm_grammar_begin(t->grammar);
        if (rest > 0 && corm_grammar_accept_text(t->state, answer.data + i + 1, rest, NULL) < 0) {
            end_call(t);
        } else if (corm_grammar_is_over(t->state)) {
            *over = t->once;
            end_call(t);
        } else {
            break;
        }
    }
out:
    buf_free(&thought);
    buf_free(&answer);
    return rc;
}
