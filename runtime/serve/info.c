/*
 * info: what the server tells of itself.
 *
 * Owns: /health, /models, /props, /metrics.
 * Leaves to others: figures (scheduler), Ollama's ways of asking the same, the page and its panel.
 * Threads: that of the sockets; nothing here takes long.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/serve.h"
#include "runtime/serve/toolbox.h"

int info_health(struct call *call, struct problem *problem) {
    struct run_json j = {0};
    (void)problem;
    run_json_open(&j, NULL, '{');
    bool leaves = atomic_load(&call->s->leaves);
    run_json_string(&j, "status", leaves ? "stopping" : "ok");
    run_json_close(&j, '}');
    reply_json(call->x, leaves ? 503 : 200, &j);
    return 0;
}

/* ---- models ---- */

static void put_model(const struct call *call, struct run_json *j) {
    const struct server *s = call->s;
    run_json_open(j, NULL, '{');
    run_json_string(j, "id", s->name);
    if (call->api == API_ANTHROPIC) {
        char created[40];
        reply_time(created);
        run_json_string(j, "type", "model");
        run_json_string(j, "display_name", s->name);
        run_json_string(j, "created_at", created);
        run_json_u64(j, "max_input_tokens", s->info->ctx_tok);
        run_json_u64(j, "max_tokens", s->info->ctx_tok);
    } else {
        run_json_string(j, "object", "model");
        run_json_i64(j, "created", s->created);
        run_json_string(j, "owned_by", "corm");
        run_json_u64(j, "max_model_len", s->info->ctx_tok);
        run_json_open(j, "meta", '{');
        run_json_string(j, "family", s->info->family);
        run_json_u64(j, "n_vocab", s->info->vocab);
        run_json_u64(j, "n_ctx", s->info->ctx_tok);
        run_json_u64(j, "n_ctx_train", s->info->ctx_max_tok);
        run_json_u64(j, "n_embd", s->info->dim);
        run_json_u64(j, "n_params", s->info->params);
        run_json_u64(j, "n_params_active", s->info->params_active);
        run_json_u64(j, "size", s->info->file_bytes);
        run_json_close(j, '}');
    }
    run_json_close(j, '}');
}

int info_models(struct call *call, struct problem *problem) {
    struct run_json j = {0};
    (void)problem;
    run_json_open(&j, NULL, '{');
    if (call->api == API_OPENAI) {
        run_json_string(&j, "object", "list");
    }
    run_json_open(&j, "data", '[');
    put_model(call, &j);
    run_json_close(&j, ']');
    if (call->api == API_ANTHROPIC) {
        run_json_bool(&j, "has_more", false);
        run_json_string(&j, "first_id", call->s->name);
        run_json_string(&j, "last_id", call->s->name);
    }
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}

int info_model(struct call *call, struct problem *problem) {
    struct run_json j = {0};
    (void)problem; /* any name is served */
    put_model(call, &j);
    reply_json(call->x, 200, &j);
    return 0;
}

/* ---- settings ---- */

static void put_sampling(struct run_json *j, const struct corm_sampling *s) {
    run_json_open(j, "params", '{');
    run_json_f32(j, "temperature", s->temperature);
    run_json_u64(j, "top_k", s->top_k);
    run_json_f32(j, "top_p", s->top_p);
    run_json_f32(j, "min_p", s->min_p);
    run_json_f32(j, "repeat_penalty", s->repeat_penalty);
    run_json_u64(j, "repeat_last_n", s->repeat_last_tok);
    run_json_close(j, '}');
}

int info_props(struct call *call, struct problem *problem) {
    const struct server *s = call->s;
    const struct corm_memory_plan *plan = corm_engine_plan(s->engine);
    const char *template = s->chat_template ? s->chat_template : corm_chat_template(s->engine);
    bool exact = !s->approximate && strcmp(s->info->device, "cpu") == 0;
    struct run_json j = {0};
    (void)problem;
    run_json_open(&j, NULL, '{');
    run_json_open(&j, "default_generation_settings", '{');
    run_json_u64(&j, "n_ctx", s->info->ctx_tok);
    put_sampling(&j, &s->sampling);
    run_json_close(&j, '}');
    run_json_u64(&j, "total_slots", s->parallel);
    run_json_u64(&j, "kept_sessions", s->sessions);
    run_json_string(&j, "model_alias", s->name);
    run_json_string(&j, "chat_template", template ? template : "");
    run_json_open(&j, "modalities", '{');
    run_json_bool(&j, "vision", false);
    run_json_bool(&j, "audio", false);
    run_json_close(&j, '}');
    /* How the template writes calls of tools, or how it is told to. */
    run_json_open(&j, "tools", '{');
    run_json_string(&j, "form", s->ways->row->name);
    run_json_bool(&j, "of_template", s->ways->known);
    run_json_close(&j, '}');
    run_json_string(&j, "build_info", corm_version());
    run_json_string(&j, "device", s->info->device);
    run_json_string(&j, "isa", s->info->isa);
    /* Whether an answer that goes on where an earlier one ended has the bits of a fresh one. */
    run_json_string(&j, "reuse", exact ? "exact" : s->approximate ? "approximate" : "within 1e-3");
    run_json_u64(&j, "memory_bytes", plan->total_bytes);
    run_json_u64(&j, "memory_budget_bytes", plan->budget_bytes);
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}

/* ---- figures ---- */

int info_metrics(struct call *call, struct problem *problem) {
    struct scheduler_figures f;
    struct buf out = {0};
    (void)problem;
    scheduler_figures(call->s->scheduler, &f);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"prompt_tokens_total", "counter", "Tokens of prompts that were computed.",
         (double)f.prompt_tok},
        {"prompt_tokens_reused_total", "counter",
         "Tokens of prompts that were known from earlier requests.", (double)f.cached_tok},
        {"prompt_seconds_total", "counter", "Time of computing prompts.",
         (double)f.prompt_ns / 1e9},
        {"tokens_predicted_total", "counter", "Tokens that were generated and evaluated.",
         (double)f.made_tok},
        {"tokens_predicted_seconds_total", "counter", "Time of generating.",
         (double)f.decode_ns / 1e9},
        {"decode_calls_total", "counter",
         "Passes through the model in which tokens were generated.", (double)f.decode_calls},
        {"requests_total", "counter", "Requests that were queued.", (double)f.requests},
        {"requests_refused_total", "counter", "Requests for which there was no room.",
         (double)f.refused},
        {"sequences_failed_total", "counter", "Sequences that ended with an error.",
         (double)f.failed},
        {"sequences_left_total", "counter", "Sequences that their client did not wait for.",
         (double)f.left},
        {"requests_processing", "gauge", "Sequences that are computed now.", f.running},
        {"requests_deferred", "gauge", "Requests that wait.", f.waiting},
        {"kv_cache_bytes", "gauge", "Memory that sequences take in the layers, kept ones too.",
         (double)f.kv_bytes},
        {"sequences_forgotten_total", "counter",
         "Kept sequences that were forgotten because others needed their memory.",
         (double)f.forgotten},
        {"sequences_paused_total", "counter",
         "Times that a sequence had to wait for memory and compute its tokens again.",
         (double)f.paused},
        {"archive_bytes_read_total", "counter", "Bytes of experts that were read.",
         (double)f.read_bytes},
        {"expert_chunk_hits_total", "counter", "Chunks of experts that were in memory.",
         (double)f.cache_hits},
        {"expert_chunk_misses_total", "counter", "Chunks of experts that were waited for.",
         (double)f.cache_misses},
        {"stall_seconds_total", "counter", "Time in which computing waited for experts.",
         (double)f.stall_ns / 1e9},
        {"memory_peak_bytes", "gauge", "Most memory that was resident.",
         (double)corm_memory_peak()},
        {"uptime_seconds", "gauge", "Time since the start.",
         (double)(clock_ns() - call->s->started_ns) / 1e9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_printf(&out, "# HELP corm_%s %s\n# TYPE corm_%s %s\ncorm_%s %.15g\n", rows[i].name,
                   rows[i].help, rows[i].name, rows[i].type, rows[i].name, rows[i].value);
    }
    http_answer(call->x, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
    return 0;
}
