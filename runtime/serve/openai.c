/*
 * openai: see openai.h.
 */
#include "runtime/serve/openai.h"

#include <string.h>

void openai_open(const struct answer *a, struct run_json *j, const char *object) {
    run_json_open(j, NULL, '{');
    run_json_string(j, "id", a->id);
    run_json_string(j, "object", object);
    run_json_i64(j, "created", a->created);
    run_json_string(j, "model", a->model);
    run_json_string(j, "system_fingerprint", "corm");
}

void openai_usage(const struct answer *a, struct run_json *j) {
    uint32_t made = answer_made(a);
    run_json_open(j, "usage", '{');
    run_json_u64(j, "prompt_tokens", a->prompt_tok);
    run_json_u64(j, "completion_tokens", made);
    run_json_u64(j, "total_tokens", (uint64_t)a->prompt_tok + made);
    run_json_open(j, "prompt_tokens_details", '{');
    run_json_u64(j, "cached_tokens", answer_cached(a));
    run_json_close(j, '}');
    run_json_open(j, "completion_tokens_details", '{');
    run_json_u64(j, "reasoning_tokens", answer_thought(a));
    run_json_close(j, '}');
    run_json_close(j, '}');
}

void openai_more(const struct answer *a, struct run_json *j) {
    struct answer_times t = answer_times(&a->choices[0]);
    run_json_open(j, "timings", '{');
    run_json_f64(j, "prompt_ms", (double)t.prompt_ns / 1e6);
    run_json_f64(j, "predicted_ms", (double)t.made_ns / 1e6);
    run_json_u64(j, "predicted_n", a->choices[0].job.made_tok);
    run_json_u64(j, "cache_n", a->choices[0].job.cached_tok);
    run_json_u64(j, "seed", a->params.sampling.seed);
    run_json_close(j, '}');
}

void openai_end(struct answer *a, const char *object, struct buf *out) {
    static const char done[] = "data: [DONE]\n\n";
    if (a->params.include_usage) {
        struct run_json j = {0};
        openai_open(a, &j, object);
        run_json_open(&j, "choices", '[');
        run_json_close(&j, ']');
        openai_usage(a, &j);
        openai_more(a, &j);
        run_json_close(&j, '}');
        answer_event(out, NULL, &j);
    }
    buf_append(out, done, sizeof done - 1);
}

void openai_fail(struct answer *a, const struct problem *problem, struct buf *out) {
    struct run_json j = {0};
    (void)a;
    reply_error(&j, API_OPENAI, problem);
    answer_event(out, NULL, &j);
}
