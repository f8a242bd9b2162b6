#include "tests/util/test_util_quartet.h"

struct quartet quartet_open(const char *name, struct corm_engine_options opt) {
    struct quartet r = {.ids = golden_ids(name, "ids", &r.n)};
    r.path = golden_archive(name, NULL);
    assert_true(r.n >= TOKENS + SESSIONS);
    const uint32_t running = opt.max_running, rows = opt.logits_rows;
    opt.batch_rows = TOKENS;
    opt.max_sessions = SESSIONS;
    opt.max_running = opt.logits_rows = 0;
    for (int own = 0; own < 2; own++) { /* first the engine for what each gets alone */
        r.e = model_open(r.path, &opt);
        r.vocab = corm_engine_info(r.e)->vocab;
        r.row_bytes = r.vocab * sizeof(float);
        for (int i = 0; i < SESSIONS; i++) {
            r.s[i] = model_session(r.e);
        }
        for (int i = 0; i < SESSIONS && !own; i++) {
            r.alone[i] = mem_alloc(TOKENS * r.row_bytes);
            memcpy(r.alone[i], model_eval(r.s[i], r.ids + i, TOKENS, true), TOKENS * r.row_bytes);
            corm_session_close(r.s[i]);
        }
        if (!own) {
            corm_engine_close(r.e);
            opt.batch_rows = BATCH;
            opt.threads = 2;
            opt.max_running = running;
            opt.logits_rows = rows;
        }
    }
    return r;
}

void quartet_close(struct quartet *r) {
    for (int i = 0; i < SESSIONS; i++) {
        corm_session_close(r->s[i]);
        free(r->alone[i]);
    }
    corm_engine_close(r->e);
    free(r->path);
    free(r->ids);
}

void quartet_check(const struct quartet *r, int i, uint32_t n) {
    assert_int_equal(corm_session_length(r->s[i]), n);
    const float *logits = corm_session_logits(r->s[i]);
    assert_non_null(logits);
    assert_memory_equal(logits, r->alone[i] + (n - 1) * r->vocab, r->row_bytes);
}

struct corm_span quartet_span(const struct quartet *r, int i, uint32_t from, uint32_t to) {
    return (struct corm_span){.session = r->s[i], .ids = r->ids + i + from, .n = to - from};
}

void quartet_begin(struct quartet *r) {
    model_eval(r->s[0], r->ids, 12, false);
    corm_session_truncate(r->s[0], 10);
    assert_null(corm_session_logits(r->s[0]));
    model_eval(r->s[1], r->ids + 1, 7, false);
    model_eval(r->s[2], r->ids + 2, 5, false);
}
