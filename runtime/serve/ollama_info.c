/*
 * ollama_info: what Ollama's clients ask of a server and its models.
 *
 * Owns: /api/version, /api/tags, /api/ps, /api/show.
 * Leaves to others: answers (ollama).
 * Threads: that of the sockets, and that which prepares calls; nothing here takes long.
 */
#include <stdio.h>
#include <string.h>

#include "runtime/serve/serve.h"

/* Its clients look whether a version is new enough: this is one whose /api this server has. */
static const char api_version[] = "0.6.4";

int ollama_version(struct call *call, struct problem *problem) {
    struct run_json j = {0};
    (void)problem;
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "version", api_version);
    run_json_string(&j, "corm", corm_version());
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}

static void put_details(const struct server *s, struct run_json *j) {
    char size[32];
    snprintf(size, sizeof size, "%.1fB", (double)s->info->params / 1e9);
    run_json_open(j, "details", '{');
    run_json_string(j, "parent_model", "");
    run_json_string(j, "format", "corm");
    run_json_string(j, "family", s->info->family);
    run_json_open(j, "families", '[');
    run_json_string(j, NULL, s->info->family);
    run_json_close(j, ']');
    run_json_string(j, "parameter_size", size);
    run_json_string(j, "quantization_level", s->info->expert_codec);
    run_json_close(j, '}');
}

/* `running`: as /api/ps has it. */
static int reply_models(struct call *call, bool running) {
    const struct server *s = call->s;
    struct run_json j = {0};
    char now[40];
    reply_time(now);
    run_json_open(&j, NULL, '{');
    run_json_open(&j, "models", '[');
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "name", s->name);
    run_json_string(&j, "model", s->name);
    run_json_string(&j, "modified_at", now);
    run_json_u64(&j, "size", s->info->file_bytes);
    run_json_string(&j, "digest", s->name);
    put_details(s, &j);
    if (running) {
        run_json_u64(&j, "size_vram", 0);
        run_json_u64(&j, "context_length", s->info->ctx_tok);
        run_json_string(&j, "expires_at", "9999-12-31T23:59:59Z");
    }
    run_json_close(&j, '}');
    run_json_close(&j, ']');
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}

int ollama_tags(struct call *call, struct problem *problem) {
    (void)problem;
    return reply_models(call, false);
}

int ollama_ps(struct call *call, struct problem *problem) {
    (void)problem;
    return reply_models(call, true);
}

int ollama_show(struct call *call, struct problem *problem) {
    const struct server *s = call->s;
    const char *template = s->chat_template ? s->chat_template : corm_chat_template(s->engine);
    struct run_json j = {0};
    char key[128], now[40];
    (void)problem;
    reply_time(now);
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "modelfile", "");
    run_json_string(&j, "parameters", "");
    run_json_string(&j, "template", template ? template : "");
    run_json_string(&j, "modified_at", now);
    put_details(s, &j);
    run_json_open(&j, "model_info", '{');
    run_json_string(&j, "general.architecture", s->info->family);
    run_json_u64(&j, "general.parameter_count", s->info->params);
    snprintf(key, sizeof key, "%.64s.context_length", s->info->family);
    run_json_u64(&j, key, s->info->ctx_tok);
    snprintf(key, sizeof key, "%.64s.embedding_length", s->info->family);
    run_json_u64(&j, key, s->info->dim);
    snprintf(key, sizeof key, "%.64s.block_count", s->info->family);
    run_json_u64(&j, key, s->info->n_layers);
    run_json_close(&j, '}');
    run_json_open(&j, "capabilities", '[');
    run_json_string(&j, NULL, "completion");
    if (template) {
        run_json_string(&j, NULL, "tools");
    }
    run_json_close(&j, ']');
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}
