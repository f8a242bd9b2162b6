/*
 * bench_trace: how near the cache comes to the best that any cache of its size could do.
 *
 * Owns: recording the experts of a run of single tokens and the guesses of them, the sizes, the
 * policies, the table.
 * Leaves to others: the replay (simulate).
 * Threads: the main thread.
 *
 * Without --file the model writes on from the made-up prompt, so that the experts are those of its
 * own text.
 *
 * Beside four shares of all experts stands the room that the engine itself had, where experts come
 * and go.
 *
 * Beside the hits stands what they cost: a guess that is wrong is a read. The engine's own column
 * with guesses depends on how much its device brings while a layer is computed, which a replay does
 * not know: hence several.
 */
#include <stdio.h>
#include <stdlib.h>

#include "runtime/bench/bench.h"
#include "runtime/bench/simulate.h"
#include "runtime/engine.h"

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    if (decode && rows == 1) {
        simulate_add(ctx, layer, ids);
    }
}

static void on_guess(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                     const float *prob) {
    simulate_add_guess(ctx, layer, ahead, n, ids, prob);
}

/* Evaluate the prompt, then decode_tokens tokens, of which the experts and guesses are recorded. */
static int record(struct run *r, struct simulate_trace *t, struct err *err) {
    const struct bench_options *o = r->call->values;
    size_t n_prompt = (size_t)o->prompt_tokens, n_decode = (size_t)o->decode_tokens;
    struct corm_sampling how = corm_sampling_defaults(r->engine);
    how.seed = 1;
    struct run_ids tokens = {0};
    int status = bench_tokens(r, n_prompt + (o->file ? n_decode : 0), &tokens, err);
    t->n_active = r->info->n_active;
    if (status == 0) {
        status = run_eval(r, tokens.ids, n_prompt, NULL, err);
    }
    progress_start(r->progress, "recording", n_decode, PROGRESS_TOKENS);
    for (size_t i = 0; i < n_decode && status == 0; i++) {
        int32_t id = o->file ? tokens.ids[n_prompt + i] : 0;
        status = o->file ? 0 : run_sample(r, &how, &id, err);
        if (status == 0) {
            status = run_eval(r, &id, 1, NULL, err);
        }
        progress_update(r->progress, i + 1);
    }
    progress_finish(r->progress);
    free(tokens.ids);
    return status;
}

static const struct column {
    const char *heading, *key;
    enum simulate_policy policy;
    uint32_t allowance;
} columns[] = {
    {"LRU", "lru", SIMULATE_LRU, 0},
    {"own", "own", SIMULATE_OWN, 0},
    {"own + 1", "own_guess_1", SIMULATE_OWN, 1},
    {"own + 2", "own_guess_2", SIMULATE_OWN, 2},
    {"own + all", "own_guess", SIMULATE_OWN, SIMULATE_KEEPS_UP},
    {"Belady", "belady", SIMULATE_BELADY, 0},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void print_legend(const struct simulate_trace *t, const struct corm *archive) {
    uint64_t bytes = 0;
    char size[CLI_SIZE_TEXT];
    for (uint32_t i = 0; i < archive->n_chunks; i++) {
        bytes += archive->chunks[i].stored_bytes;
    }
    printf("%zu layers of tokens, %u experts each, of %u in all; the first quarter fills\n", t->n,
           t->n_active, archive->n_records);
    printf("hits, and experts read for a token, of the %u that it uses; one is %s in the archive\n",
           t->n_active * arch_moe_layers(&archive->arch),
           cli_size_text(size, bytes / archive->n_records));
    printf("own + 1, own + 2: with guesses, of which the device brings 1 or 2 during a layer\n"
           "own + all: with guesses, and a device that brings all that pay before they are used\n"
           "Belady bounds reading on demand: guesses may pass its hits, not its reads\n");
}

/* Replay the trace through one size of cache under all policies. */
static int replay_row(const struct simulate_trace *t, const struct corm *archive, uint32_t capacity,
                      struct simulate_result *results, struct err *err) {
    for (int i = 0; i < COLUMNS; i++) {
        struct simulate_case how = {columns[i].policy, capacity, columns[i].allowance, t->n / 4};
        if (simulate_run(t, archive, &how, &results[i], err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A size of cache; `percent` of all experts, or 0 for the engine's own room. */
struct size {
    uint32_t percent, capacity;
};
enum { SIZES = 5 };

/* Fills `sizes` and returns how many there are. A cache that does not hold the experts of one layer
 * for a token cannot be: in a small model some of them are left out. */
static int choose_sizes(const struct run *r, const struct corm *archive, struct size sizes[SIZES]) {
    static const uint32_t percents[] = {10, 25, 50, 75};
    const struct corm_memory_plan *plan = corm_engine_plan(r->engine);
    const uint32_t least = archive->arch.n_active;
    int n = 0;
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        uint32_t capacity = (uint32_t)((uint64_t)archive->n_records * percents[i] / 100);
        if (capacity >= least) {
            sizes[n++] = (struct size){percents[i], capacity};
        }
    }
    if (plan->streams && plan->cache_need_bytes > 0) {
        double share = (double)plan->cache_bytes / (double)plan->cache_need_bytes;
        uint32_t capacity = (uint32_t)(share * archive->n_records);
        if (capacity >= least) {
            sizes[n++] = (struct size){0, capacity};
        }
    }
    return n;
}

static void row_json(struct run_json *j, const struct size *size, double tokens,
                     const struct simulate_result *results) {
    run_json_open(j, NULL, '{');
    run_json_u64(j, "experts", size->capacity);
    run_json_u64(j, "percent", size->percent);
    for (int i = 0; i < COLUMNS; i++) {
        run_json_f64(j, columns[i].key, results[i].hits);
    }
    run_json_open(j, "experts_read_per_tok", '{');
    for (int i = 0; i < COLUMNS; i++) {
        run_json_f64(j, columns[i].key, (double)results[i].reads / tokens);
    }
    run_json_close(j, '}');
    run_json_open(j, "bytes_read_per_tok", '{');
    for (int i = 0; i < COLUMNS; i++) {
        run_json_f64(j, columns[i].key, (double)results[i].read_bytes / tokens);
    }
    run_json_close(j, '}');
    run_json_close(j, '}');
}

static int replay(const struct run *r, const struct simulate_trace *t, const struct corm *archive,
                  struct err *err) {
    const struct bench_options *o = r->call->values;
    struct size sizes[SIZES];
    const int n_sizes = choose_sizes(r, archive, sizes);
    struct run_json j = {0};
    if (n_sizes == 0) {
        return err_set(err,
                       "%s: a token uses %u of %u experts, so that no smaller cache can hold them",
                       r->model, t->n_active, archive->n_records);
    }
    if (r->o->json) {
        run_json_begin(&j, r);
        run_json_u64(&j, "tokens", (uint64_t)o->decode_tokens);
        run_json_u64(&j, "guesses", t->n_guesses);
        run_json_open(&j, "rows", '[');
    } else {
        print_legend(t, archive);
        printf("%-13s", "cache");
        for (int i = 0; i < COLUMNS; i++) {
            printf(" %13s", columns[i].heading);
        }
        printf("\n");
    }
    double tokens = (double)(t->n - t->n / 4) / arch_moe_layers(&archive->arch);
    int status = 0;
    for (int i = 0; i < n_sizes && status == 0; i++) {
        struct simulate_result results[COLUMNS];
        status = replay_row(t, archive, sizes[i].capacity, results, err);
        if (status == 0 && r->o->json) {
            row_json(&j, &sizes[i], tokens, results);
        } else if (status == 0) {
            if (sizes[i].percent > 0) {
                printf("%3u %% = %-5u", sizes[i].percent, sizes[i].capacity);
            } else {
                printf("room  = %-5u", sizes[i].capacity);
            }
            for (int k = 0; k < COLUMNS; k++) {
                printf(" %5.1f %% %5.1f", 100 * results[k].hits, (double)results[k].reads / tokens);
            }
            printf("\n");
        }
    }
    if (r->o->json) {
        run_json_end_rows(&j, status);
    }
    return status;
}

int bench_trace(const struct cli_call *call, struct err *err) {
    const struct bench_options *o = call->values;
    struct simulate_trace trace = {0};
    struct corm_mechanisms m;
    struct run r = {.wish.measure = &m};
    if (o->prompt_tokens == 0 || o->decode_tokens == 0) {
        err_set(err, "a trace needs tokens: --prompt-tokens and --decode-tokens over 0");
        return CLI_USAGE;
    }
    int status = bench_measure(o, &m, err);
    m.on_route = on_route;
    m.on_guess = on_guess;
    m.on_route_ctx = m.on_guess_ctx = &trace;
    if (status == 0) {
        run_catch_interrupt();
        status = run_open(&r, call, (uint32_t)(o->prompt_tokens + o->decode_tokens), err);
    }
    if (status == 0 && r.engine->archive.n_records == 0) {
        status = err_set(err, "%s: has no experts, so that there is nothing to trace", r.model);
    }
    if (status == 0) {
        status = record(&r, &trace, err);
    }
    if (status == 0) {
        status = replay(&r, &trace, &r.engine->archive, err);
    }
    run_close(&r);
    simulate_free(&trace);
    return status;
}
