/*
 * bench_token: where the time of one token goes.
 *
 * Owns: the clocked operations, the table of milliseconds, bytes and rates by operation.
 * Leaves to others: what run.h lists, plain reading (bench_kernels). Of the engine it knows the
 * backend, of kernels backend.h.
 * Threads: the main thread, which is the forward thread.
 *
 * A backend is a table of operations and what they work on. For the tokens that count the engine's
 * is replaced by one whose operations look at the clock, call those of the engine's, and note what
 * they took and read. Each figure is the median over the tokens, after some that do not count, in
 * which the kernels find out their shapes (shape.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/processor.h"
#include "runtime/bench/bench.h"
#include "runtime/engine.h"

enum { TOKENS = 32, SETTLING = 64 };

/* What operations are told apart by; matmul and experts also by codec. */
enum kind {
    MATMUL,
    EXPERTS = MATMUL + CODEC_IDS,
    ATTENTION = EXPERTS + CODEC_IDS,
    KV_STORE,
    NORM,
    ROPE,
    ROUTE,
    COMBINE,
    DELTA,
    HEADS, /* products for each head */
    OTHER,
    BETWEEN, /* the rest of the token: the engine itself, and waiting for experts */
    KINDS,
};
static const char *const names[] = {"attention", "KV store",  "norms",   "RoPE",  "router's choice",
                                    "combining", "delta net", "by head", "other", "between"};

struct clocked {
    struct backend real; /* the engine's */
    uint32_t token;
    uint64_t ns[KINDS][TOKENS], bytes[KINDS], wall[TOKENS];
};

static void note(struct clocked *c, int kind, uint64_t start, uint64_t bytes) {
    c->ns[kind][c->token] += clock_ns() - start;
    c->bytes[kind] += bytes;
}

/* ---- clocked operations --------------------------------------------------------------------- */

/* An operation `name` with these parameters, which passes them on; those of `kind` are noted. */
#define CLOCKED(name, kind, bytes, params, args)                                                   \
    static void clocked_##name params {                                                            \
        struct clocked *c = self;                                                                  \
        uint64_t start = clock_ns();                                                               \
        c->real.ops->name args;                                                                    \
        note(c, kind, start, bytes);                                                               \
    }
#define REAL c->real.self

static uint64_t kv_read(const struct attention_rule *rule, const struct kv *kv, uint32_t pos0,
                        uint32_t rows) {
    const uint32_t seen = pos0 + rows - attention_first_seen(rule, pos0 + rows - 1);
    return (uint64_t)seen * kv->n_kv_heads * (kv_key_row_bytes(kv) + kv_value_row_bytes(kv));
}

/* The id of the codec of all chunks; 0 where they have several, or there is none. */
static int experts_codec(const struct expert_job *jobs, uint32_t n_jobs) {
    const struct codec *codec;
    return expert_jobs_codec(jobs, n_jobs, &codec) && codec ? (int)codec->id : 0;
}

static uint64_t experts_read(const struct expert_layer *layer, const struct expert_job *jobs,
                             uint32_t n_jobs) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        for (uint32_t k = 0; jobs[i].n_uses > 0 && k < jobs[i].n_chunks; k++) {
            const struct ffn_chunk *chunk = &jobs[i].chunks[k];
            uint64_t raw =
                3 * (uint64_t)chunk->n_neurons * codec_row_bytes(chunk->codec, layer->dim);
            bytes += chunk->packed_bytes ? chunk->packed_bytes : raw;
        }
    }
    return bytes;
}

CLOCKED(embed, OTHER, 0,
        (void *self, const struct weight *table, const int32_t *ids, uint32_t rows, float *out),
        (REAL, table, ids, rows, out))
CLOCKED(rmsnorm, NORM, 0,
        (void *self, const float *x, const struct weight *w, float eps, uint32_t n, uint32_t dim,
         float *y),
        (REAL, x, w, eps, n, dim, y))
CLOCKED(layernorm, NORM, 0,
        (void *self, const float *x, const struct weight *w, const struct weight *bias, float eps,
         uint32_t n, uint32_t dim, float *y),
        (REAL, x, w, bias, eps, n, dim, y))
CLOCKED(matmul, MATMUL + (int)w->codec->id, (uint64_t)w->rows *codec_row_bytes(w->codec, w->cols),
        (void *self, const struct weight *w, const struct weight *bias, const float *x,
         uint32_t rows, float *y),
        (REAL, w, bias, x, rows, y))
CLOCKED(clamp, OTHER, 0, (void *self, float *x, size_t n, float limit), (REAL, x, n, limit))
CLOCKED(scale, OTHER, 0, (void *self, float *x, size_t n, float factor), (REAL, x, n, factor))
CLOCKED(scale_by, OTHER, 0, (void *self, float *x, size_t n, const struct weight *factor),
        (REAL, x, n, factor))
CLOCKED(softcap, OTHER, 0, (void *self, float *x, size_t n, float cap), (REAL, x, n, cap))
CLOCKED(rope_angles, ROPE, 0,
        (void *self, uint32_t pos0, uint32_t rows, const float *freq, uint32_t half, float scale,
         float *cs),
        (REAL, pos0, rows, freq, half, scale, cs))
CLOCKED(rope, ROPE, 0,
        (void *self, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim, const float *cs,
         uint32_t half),
        (REAL, x, rows, n_heads, head_dim, cs, half))
CLOCKED(kv_store, KV_STORE, 0,
        (void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
         uint32_t rows),
        (REAL, kv, k, v, pos0, rows))
CLOCKED(attention, ATTENTION, kv_read(rule, kv, pos0, rows),
        (void *self, const struct attention_rule *rule, const struct kv *kv,
         const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows, float *out),
        (REAL, rule, kv, sinks, q, pos0, rows, out))
CLOCKED(act_mul, OTHER, 0,
        (void *self, const struct ffn_rule *rule, float *g, const float *u, size_t n),
        (REAL, rule, g, u, n))
CLOCKED(sigmoid_mul, OTHER, 0, (void *self, float *y, const float *g, size_t n), (REAL, y, g, n))
CLOCKED(add, OTHER, 0, (void *self, float *y, const float *x, size_t n), (REAL, y, x, n))
CLOCKED(gate_rows, OTHER, 0,
        (void *self, enum gate_act act, float *y, const float *s, uint32_t rows, uint32_t dim),
        (REAL, act, y, s, rows, dim))
CLOCKED(route, ROUTE, 0,
        (void *self, const struct route_rule *rule, const struct weight *select,
         const struct weight *factor, const float *logits, uint32_t rows, uint32_t n_experts,
         uint32_t n, int32_t *ids, float *weights),
        (REAL, rule, select, factor, logits, rows, n_experts, n, ids, weights))
CLOCKED(experts, EXPERTS + experts_codec(jobs, n_jobs), experts_read(layer, jobs, n_jobs),
        (void *self, const struct expert_layer *layer, const struct expert_job *jobs,
         uint32_t n_jobs, const float *x, float *parts),
        (REAL, layer, jobs, n_jobs, x, parts))
CLOCKED(delta_conv, DELTA, 0,
        (void *self, const struct delta_rule *rule, const struct weight *kernel, const float *x,
         uint32_t rows, float *tail, float *y),
        (REAL, rule, kernel, x, rows, tail, y))
CLOCKED(delta_net, DELTA, 0,
        (void *self, const struct delta_rule *rule, const struct delta_weights *w, float eps,
         const float *qkv, const float *z, const float *a, const float *b, uint32_t rows,
         float *state, float *out),
        (REAL, rule, w, eps, qkv, z, a, b, rows, state, out))
CLOCKED(matmul_heads, HEADS, (uint64_t)w->rows *codec_row_bytes(w->codec, w->cols),
        (void *self, const struct weight *w, uint32_t n_heads, const float *x, uint32_t rows,
         float *y),
        (REAL, w, n_heads, x, rows, y))
CLOCKED(latent_store, KV_STORE, 0,
        (void *self, const struct kv *kv, const float *latents, const float *rest, uint32_t pos0,
         uint32_t rows),
        (REAL, kv, latents, rest, pos0, rows))
CLOCKED(latent_attention, ATTENTION, kv_bytes(kv) / kv->capacity_tok * (pos0 + rows),
        (void *self, const struct latent_rule *rule, const struct kv *kv, const float *q,
         const float *q_rest, uint32_t pos0, uint32_t rows, float *out),
        (REAL, rule, kv, q, q_rest, pos0, rows, out))
CLOCKED(combine, COMBINE, 0,
        (void *self, const float *parts, const float *weights, uint32_t rows, uint32_t n_active,
         uint32_t dim, float *y),
        (REAL, parts, weights, rows, n_active, dim, y))
CLOCKED(free, OTHER, 0, (void *self, void *p), (REAL, p))
CLOCKED(read, OTHER, 0, (void *self, void *to, const void *from, size_t bytes),
        (REAL, to, from, bytes))
CLOCKED(write, OTHER, 0, (void *self, void *to, const void *from, size_t bytes),
        (REAL, to, from, bytes))
CLOCKED(clear, OTHER, 0, (void *self, void *p, size_t bytes), (REAL, p, bytes))

static void *clocked_alloc(void *self, size_t bytes, struct err *err) {
    struct clocked *c = self;
    return c->real.ops->alloc(REAL, bytes, err);
}
static int clocked_place(void *self, const struct weight *w, struct weight *out, struct err *err) {
    struct clocked *c = self;
    return c->real.ops->place(REAL, w, out, err);
}

static const struct backend_ops clocked_ops = {
    .alloc = clocked_alloc,
    .free = clocked_free,
    .read = clocked_read,
    .write = clocked_write,
    .clear = clocked_clear,
    .place = clocked_place,
    .embed = clocked_embed,
    .rmsnorm = clocked_rmsnorm,
    .layernorm = clocked_layernorm,
    .matmul = clocked_matmul,
    .clamp = clocked_clamp,
    .scale = clocked_scale,
    .scale_by = clocked_scale_by,
    .softcap = clocked_softcap,
    .rope_angles = clocked_rope_angles,
    .rope = clocked_rope,
    .kv_store = clocked_kv_store,
    .attention = clocked_attention,
    .act_mul = clocked_act_mul,
    .sigmoid_mul = clocked_sigmoid_mul,
    .add = clocked_add,
    .gate_rows = clocked_gate_rows,
    .route = clocked_route,
    .experts = clocked_experts,
    .delta_conv = clocked_delta_conv,
    .delta_net = clocked_delta_net,
    .matmul_heads = clocked_matmul_heads,
    .latent_store = clocked_latent_store,
    .latent_attention = clocked_latent_attention,
    .combine = clocked_combine,
};

/* ---- the measurement ------------------------------------------------------------------------ */

static int measure(struct run *r, const int32_t *ids, uint32_t context, struct clocked *c,
                   struct err *err) {
    struct backend *used = &r->engine->backend;
    corm_session_truncate(r->session, 0);
    int status = run_eval(r, ids, context - SETTLING, NULL, err);
    for (uint32_t i = 0; i < SETTLING && status == 0; i++) {
        status = run_eval(r, ids + context - SETTLING + i, 1, NULL, err);
    }
    *c = (struct clocked){.real = *used};
    used->self = c;
    used->ops = &clocked_ops;
    for (c->token = 0; c->token < TOKENS && status == 0; c->token++) {
        uint64_t start = clock_ns(), inside = 0;
        status = run_eval(r, ids + context + c->token, 1, NULL, err);
        c->wall[c->token] = clock_ns() - start;
        for (int kind = 0; kind < BETWEEN; kind++) {
            inside += c->ns[kind][c->token];
        }
        c->ns[BETWEEN][c->token] = c->wall[c->token] - inside;
    }
    *used = c->real;
    return status;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median_ms(uint64_t ns[TOKENS]) {
    qsort(ns, TOKENS, sizeof *ns, by_size);
    return (double)ns[TOKENS / 2] * 1e-6;
}

static const char *kind_name(int kind, char text[32]) {
    bool experts = kind >= EXPERTS;
    if (kind >= ATTENTION) {
        return names[kind - ATTENTION];
    }
    snprintf(text, 32, "%s %s", experts ? "experts" : "matmul",
             kind == EXPERTS ? "mixed"
                             : codec_by_id((uint32_t)(kind - (experts ? EXPERTS : MATMUL)))->name);
    return text;
}

static void report_row(struct run_json *json, const char *name, double ms, double all_ms, double mb,
                       double memory) {
    double rate = ms > 0 ? mb / ms : 0; /* GB/s: 1e6 bytes in 1e-3 s */
    if (json) {
        run_json_open(json, NULL, '{');
        run_json_string(json, "operation", name);
        run_json_f64(json, "ms_per_tok", ms);
        run_json_f64(json, "mb_per_tok", mb);
        run_json_f64(json, "gb_per_s", rate);
        run_json_close(json, '}');
        return;
    }
    printf("  %-20s %9.3f %5.1f %%", name, ms, 100 * ms / all_ms);
    if (mb > 0) {
        printf(" %9.1f %7.1f %4.0f %%", mb, rate, 100 * rate / memory);
    }
    printf("\n");
}

static void report(struct run_json *json, const struct run *r, struct clocked *c, uint32_t context,
                   double memory) {
    double all_ms = median_ms(c->wall), rest_ms = all_ms;
    char text[32];
    if (json) {
        run_json_open(json, NULL, '{');
        run_json_u64(json, "threads", r->info->threads);
        run_json_u64(json, "context", context);
        run_json_f64(json, "read_gb_per_s", memory);
        run_json_f64(json, "ms_per_tok", all_ms);
        run_json_open(json, "operations", '[');
    } else {
        printf("%s, %u %s, %u tokens of context: %.3f ms a token; plain reading at %.1f GB/s\n",
               r->info->isa, r->info->threads, r->info->threads == 1 ? "thread" : "threads",
               context, all_ms, memory);
        printf("  %-20s %9s %7s %9s %7s %6s\n", "", "ms", "", "MB", "GB/s", "");
    }
    for (int kind = 0; kind < KINDS; kind++) {
        double ms = median_ms(c->ns[kind]), mb = (double)c->bytes[kind] / TOKENS * 1e-6;
        if (c->ns[kind][TOKENS - 1] > 0) {
            report_row(json, kind_name(kind, text), ms, all_ms, mb, memory);
        }
        rest_ms -= mb > 0 ? ms : 0;
    }
    if (json) {
        run_json_close(json, ']');
        run_json_f64(json, "neither_weights_nor_kv_share", rest_ms / all_ms);
        run_json_close(json, '}');
    } else {
        printf("  %-20s %9.3f %5.1f %%\n", "no weights, no KV", rest_ms, 100 * rest_ms / all_ms);
        fflush(stdout);
    }
}

/* All contexts with one number of threads. */
static int measure_threads(const struct cli_call *call, uint32_t threads, struct run_json *json,
                           struct clocked *c, struct err *err) {
    static const uint32_t contexts[] = {512, 4096};
    enum { N = sizeof contexts / sizeof *contexts, MOST = 4096 + TOKENS };
    struct bench_options o = *(const struct bench_options *)call->values;
    struct cli_call copy = *call;
    struct corm_mechanisms mechanisms;
    struct run r = {0};
    struct run_ids tokens = {0};
    double memory;
    copy.values = &o;
    o.run.threads = (int)threads;
    int status = bench_measure(&o, &mechanisms, err);
    if (status == 0) {
        status = bench_read_rate(threads, &memory, NULL, err);
    }
    if (status == 0) {
        r.wish.measure = &mechanisms;
        status = run_open(&r, &copy, MOST, err);
    }
    if (status == 0 && r.engine->backend.ops->upload) {
        status = err_set(err, "--token: operations of a device return before they are done; it "
                              "measures the CPU's");
    }
    if (status == 0) {
        status = bench_tokens(&r, MOST, &tokens, err);
    }
    for (int i = 0; i < N && status == 0; i++) {
        status = measure(&r, tokens.ids, contexts[i], c, err);
        if (status == 0) {
            report(json, &r, c, contexts[i], memory);
        }
    }
    free(tokens.ids);
    run_close(&r);
    return status;
}

int bench_token(const struct cli_call *call, struct err *err) {
    const struct run_options *o = &((const struct bench_options *)call->values)->run;
    const uint32_t all = o->threads > 0 ? (uint32_t)o->threads : processor_count();
    struct run_json json = {0};
    struct clocked *c = mem_alloc(sizeof *c);
    run_catch_interrupt();
    if (o->json) {
        run_json_open(&json, NULL, '[');
    }
    int status = 0;
    if (o->threads <= 0 && all > 1) {
        status = measure_threads(call, 1, o->json ? &json : NULL, c, err);
    }
    if (status == 0) {
        status = measure_threads(call, all, o->json ? &json : NULL, c, err);
    }
    if (o->json && status == 0) {
        run_json_close(&json, ']');
        printf("%.*s\n", (int)json.text.len, json.text.data);
    }
    buf_free(&json.text);
    free(c);
    return status;
}
