/*
 * run_trace: how near the cache comes to the best that any cache of its size could do.
 *
 * Owns: recording the experts of a run of single tokens, the sizes, the table.
 * Leaves to others: the replay (simulate).
 * Threads: the main thread.
 *
 * Without --file the model writes on from the made-up prompt, so that the experts are those of its
 * own text.
 */
#include <stdio.h>
#include <stdlib.h>

#include "runtime/run.h"
#include "runtime/simulate.h"

static void on_route(void *ctx, uint32_t layer, uint32_t rows, const int32_t *ids) {
    if (rows == 1) {
        simulate_add(ctx, layer, ids);
    }
}

/* Record decode_tokens tokens after the prompt. */
static int record(struct run *r, struct simulate_trace *t, struct err *err) {
    const struct run_options *o = r->o;
    size_t n_prompt = (size_t)o->prompt_tokens, n_decode = (size_t)o->decode_tokens;
    struct corm_sampling how = corm_sampling_defaults(r->engine);
    how.seed = 1;
    struct run_ids tokens = {0};
    int status = run_bench_tokens(r, n_prompt + (o->file ? n_decode : 0), &tokens, err);
    t->n_active = r->info->n_active;
    if (status == 0) {
        status = run_eval(r, tokens.ids, n_prompt, NULL, err);
    }
    progress_start(r->progress, "recording", n_decode, PROGRESS_TOKENS);
    for (size_t i = 0; i < n_decode && status == 0; i++) {
        int32_t id = o->file ? tokens.ids[n_prompt + i] : corm_session_sample(r->session, &how);
        status = run_eval(r, &id, 1, NULL, err);
        progress_update(r->progress, i + 1);
    }
    progress_finish(r->progress);
    free(tokens.ids);
    return status;
}

static int replay(const struct run *r, const struct simulate_trace *t, const struct corm *archive,
                  struct err *err) {
    static const int percents[] = {10, 25, 50, 75};
    struct run_json j = {0};
    if (r->o->json) {
        run_json_begin(&j, r);
        run_json_u64(&j, "tokens", (uint64_t)r->o->decode_tokens);
        run_json_open(&j, "rows", '[');
    } else {
        printf("%zu layers of tokens, %u experts each, of %u in all; the first quarter fills\n",
               t->n, t->n_active, archive->n_records);
        printf("%-14s %10s %10s %10s\n", "cache", "LRU", "own", "Belady");
    }
    int status = 0;
    for (size_t i = 0; i < sizeof percents / sizeof *percents && status == 0; i++) {
        uint32_t capacity = archive->n_records * (uint32_t)percents[i] / 100;
        double hits[3] = {0};
        for (int p = SIMULATE_LRU; p <= SIMULATE_BELADY && status == 0; p++) {
            status = simulate_hits(t, archive, (enum simulate_policy)p, capacity, t->n / 4,
                                   &hits[p], err);
        }
        if (status == 0 && r->o->json) {
            run_json_open(&j, NULL, '{');
            run_json_u64(&j, "experts", capacity);
            run_json_f64(&j, "lru", hits[SIMULATE_LRU]);
            run_json_f64(&j, "own", hits[SIMULATE_OWN]);
            run_json_f64(&j, "belady", hits[SIMULATE_BELADY]);
            run_json_close(&j, '}');
        } else if (status == 0) {
            printf("%3d %% = %-6u %8.1f %% %8.1f %% %8.1f %%\n", percents[i], capacity,
                   100 * hits[SIMULATE_LRU], 100 * hits[SIMULATE_OWN], 100 * hits[SIMULATE_BELADY]);
        }
    }
    if (r->o->json) {
        run_json_close(&j, ']');
        if (status == 0) {
            run_json_print(&j);
        } else {
            buf_free(&j.text);
        }
    }
    return status;
}

int run_trace(const struct cli_call *call, struct err *err) {
    const struct run_options *o = call->values;
    struct simulate_trace trace = {0};
    struct corm_mechanisms m;
    struct corm archive = {0};
    struct run r = {.measure = &m};
    if (o->prompt_tokens == 0 || o->decode_tokens == 0) {
        err_set(err, "a trace needs tokens: --prompt-tokens and --decode-tokens over 0");
        return CLI_USAGE;
    }
    int status = run_bench_measure(o, &m, err);
    m.on_route = on_route;
    m.on_route_ctx = &trace;
    if (status == 0) {
        run_catch_interrupt();
        status = run_open(&r, call, (uint32_t)(o->prompt_tokens + o->decode_tokens), err);
    }
    if (status == 0) {
        status = record(&r, &trace, err);
    }
    if (status == 0) {
        status = corm_open(&archive, call->args.items[0], CORM_OPEN_SKIP_TRUNK_HASH, err);
    }
    if (status == 0) {
        status = replay(&r, &trace, &archive, err);
    }
    corm_close(&archive);
    run_close(&r);
    simulate_free(&trace);
    return status;
}
