/*
 * panel: what the page's live panel shows.
 *
 * Owns: /panel, one object of sums since the start and of what experts are in memory.
 * Leaves to others: the figures (scheduler, corm_engine_look), rates and pictures (the page).
 * Threads: that of the sockets. The forward thread never waits for it: the engine's part is read
 * without a lock, the scheduler's under its lock for as long as a copy takes.
 *
 * It is asked some times a second, so the picture is short: a digit for each expert.
 */
#include <stdlib.h>

#include "runtime/serve/serve.h"

static void put_model(struct run_json *j, const struct server *s) {
    run_json_open(j, "model", '{');
    run_json_string(j, "name", s->name);
    run_json_string(j, "family", s->info->family);
    run_json_u64(j, "layers", s->info->n_layers);
    run_json_u64(j, "experts", s->info->n_experts);
    run_json_u64(j, "active", s->info->n_active);
    run_json_u64(j, "params", s->info->params);
    run_json_u64(j, "params_active", s->info->params_active);
    run_json_u64(j, "file_bytes", s->info->file_bytes);
    run_json_close(j, '}');
}

static void put_memory(struct run_json *j, const struct corm_memory_plan *p) {
    run_json_open(j, "memory", '{');
    run_json_u64(j, "total_bytes", p->total_bytes);
    run_json_u64(j, "budget_bytes", p->budget_bytes);
    run_json_u64(j, "trunk_bytes", p->trunk_bytes);
    run_json_u64(j, "cache_bytes", p->cache_bytes);
    run_json_u64(j, "cache_need_bytes", p->cache_need_bytes);
    run_json_u64(j, "kv_bytes", p->kv_bytes);
    run_json_u64(j, "snapshot_bytes", p->snapshot_bytes);
    run_json_bool(j, "streams", p->streams);
    run_json_bool(j, "packed", p->packed);
    run_json_close(j, '}');
}

static void put_work(struct run_json *j, struct scheduler *scheduler) {
    struct scheduler_figures f;
    scheduler_figures(scheduler, &f);
    run_json_open(j, "work", '{');
    run_json_u64(j, "running", f.running);
    run_json_u64(j, "waiting", f.waiting);
    run_json_u64(j, "prompt_tok", f.prompt_tok);
    run_json_u64(j, "cached_tok", f.cached_tok);
    run_json_u64(j, "made_tok", f.made_tok);
    run_json_f64(j, "prompt_s", (double)f.prompt_ns / 1e9);
    run_json_f64(j, "made_s", (double)f.decode_ns / 1e9);
    run_json_close(j, '}');
}

static void put_experts(struct run_json *j, const struct corm_look *look) {
    run_json_open(j, "experts", '{');
    run_json_u64(j, "hits", look->cache_hits);
    run_json_u64(j, "misses", look->cache_misses);
    run_json_u64(j, "read_bytes", look->read_bytes);
    run_json_u64(j, "guessed_bytes", look->guessed_bytes);
    run_json_u64(j, "useful_bytes", look->useful_bytes);
    run_json_u64(j, "wasted_bytes", look->wasted_bytes);
    run_json_u64(j, "evictions", look->evictions);
    run_json_f64(j, "stall_s", (double)look->stall_ns / 1e9);
    run_json_close(j, '}');
}

/* 0: nothing is in memory; f: all; 1 to e: a part. */
static char held_digit(uint8_t held) {
    return "0123456789abcdef"[held == 255 ? 15 : held == 0 ? 0 : 1 + held * 14 / 256];
}

/* 0: the last token used it; 1: that before; then each digit stands for twice as many tokens ago,
 * and f for 254 or more, or never. */
static char age_digit(uint8_t age) {
    unsigned digit = 0;
    for (; age > 0 && age < 254; age >>= 1) {
        digit++;
    }
    return "0123456789abcdef"[age >= 254 ? 15 : digit];
}

/* A row for each layer that has experts. */
static void put_map(struct run_json *j, const struct corm_model_info *info,
                    const struct corm_look_expert *experts) {
    const uint32_t n = info->n_experts;
    char *held = mem_alloc(n + 1), *age = mem_alloc(n + 1);
    run_json_open(j, "map", '[');
    for (uint32_t l = 0; n > 0 && l < info->n_layers; l++) {
        const struct corm_look_expert *row = experts + (size_t)l * n;
        if (row->age == 255) {
            continue;
        }
        for (uint32_t i = 0; i < n; i++) {
            held[i] = held_digit(row[i].held);
            age[i] = age_digit(row[i].age);
        }
        run_json_open(j, NULL, '{');
        run_json_u64(j, "layer", l);
        run_json_text(j, "held", held, n);
        run_json_text(j, "age", age, n);
        run_json_close(j, '}');
    }
    run_json_close(j, ']');
    free(held);
    free(age);
}

int panel_look(struct call *call, struct problem *problem) {
    const struct server *s = call->s;
    const size_t n = (size_t)s->info->n_layers * s->info->n_experts;
    struct corm_look_expert *experts = mem_calloc(n ? n : 1, sizeof *experts);
    struct corm_look look;
    struct run_json j = {0};
    (void)problem;
    corm_engine_look(s->engine, &look, experts);
    run_json_open(&j, NULL, '{');
    run_json_f64(&j, "uptime_s", (double)(clock_ns() - s->started_ns) / 1e9);
    put_model(&j, s);
    put_memory(&j, corm_engine_plan(s->engine));
    put_work(&j, s->scheduler);
    put_experts(&j, &look);
    put_map(&j, s->info, experts);
    run_json_close(&j, '}');
    free(experts);
    reply_json(call->x, 200, &j);
    return 0;
}
