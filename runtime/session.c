#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/sample.h"

struct corm_session {
    struct corm_engine *engine;
    struct kv *kv;    /* [n_layers] */
    int32_t *history; /* [ctx_tok] tokens in the KV cache */
    uint32_t n_tok;
    float *logits; /* host memory [opt.logits_rows, vocab]; of the rows in use the last is the
                      * last token's */
    uint32_t logits_rows;
    struct sample sample;
    struct token_stream *stream;
    bool stream_skips_special;
    struct buf text;
    struct corm_stats stats;
    struct cache_counters counters_at_reset;
    uint64_t stall_at_reset, used_at_reset, skipped_at_reset, unguessed_at_reset;
    struct backend_link link_at_reset;
    struct offload_counters offload_at_reset;
};

/* ---- life ---- */

int corm_session_open(struct corm_session **session, struct corm_engine *engine,
                      struct corm_error *error) {
    (void)error;
    const struct arch *a = &engine->archive.arch;
    struct corm_session *s = mem_calloc(1, sizeof *s);
    s->engine = engine;
    s->kv = mem_calloc(a->n_layers, sizeof *s->kv);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct kv *kv = &s->kv[l];
        *kv = (struct kv){.type = engine->opt.kv_f32 ? KV_F32 : KV_F16,
                          .n_kv_heads = a->n_kv_heads,
                          .head_dim = a->head_dim,
                          .capacity_tok = engine->opt.ctx_tok};
        kv->k = engine->backend.ops->alloc(engine->backend.self, kv_bytes(kv));
        kv->v = engine->backend.ops->alloc(engine->backend.self, kv_bytes(kv));
    }
    s->history = mem_calloc(engine->opt.ctx_tok, sizeof *s->history);
    s->logits = mem_calloc((size_t)engine->opt.logits_rows * a->vocab, sizeof *s->logits);
    sample_open(&s->sample, a->vocab);
    corm_session_reset_stats(s);
    *session = s;
    return 0;
}

void corm_session_close(struct corm_session *s) {
    if (!s) {
        return;
    }
    const struct backend *be = &s->engine->backend;
    for (uint32_t l = 0; l < s->engine->archive.arch.n_layers; l++) {
        be->ops->free(be->self, s->kv[l].k);
        be->ops->free(be->self, s->kv[l].v);
    }
    free(s->kv);
    free(s->history);
    free(s->logits);
    sample_close(&s->sample);
    token_stream_free(s->stream);
    buf_free(&s->text);
    free(s);
}

void corm_session_truncate(struct corm_session *session, uint32_t n_tok) {
    if (n_tok < session->n_tok) {
        session->n_tok = n_tok;
    }
}

uint32_t corm_session_length(const struct corm_session *session) {
    return session->n_tok;
}

/* ---- evaluation ---- */

/* Logits of `rows` rows of the residual stream to the host, LOGITS_ROWS at a time. */
static void read_logits(struct corm_session *s, const float *x, uint32_t rows, float *host) {
    struct corm_engine *e = s->engine;
    const struct arch *a = &e->archive.arch;
    for (uint32_t done = 0; done < rows; done += LOGITS_ROWS) {
        uint32_t n = rows - done < LOGITS_ROWS ? rows - done : LOGITS_ROWS;
        forward_logits(&e->forward, &e->model, x + (size_t)done * a->dim, n, e->logits);
        e->backend.ops->read(e->backend.self, host + (size_t)done * a->vocab, e->logits,
                             (size_t)n * a->vocab * sizeof(float));
    }
}

static int eval_batch(struct corm_session *s, const int32_t *ids, uint32_t rows, struct err *err) {
    struct corm_engine *e = s->engine;
    forward_embed(&e->forward, &e->model, ids, rows, e->forward.x);
    for (uint32_t l = 0; l < e->archive.arch.n_layers; l++) {
        pthread_mutex_lock(&e->cache.lock);
        cache_clock(&e->cache, l, rows);
        pthread_mutex_unlock(&e->cache.lock);
        if (forward_layer(&e->forward, &e->layers[l], l, &s->kv[l], s->n_tok, rows, e->forward.x,
                          err) < 0) {
            return -1;
        }
    }
    memcpy(s->history + s->n_tok, ids, rows * sizeof *ids);
    s->n_tok += rows;
    s->stats.weight_bytes += e->trunk_step_bytes;
    return 0;
}

static int check_eval(const struct corm_session *s, const int32_t *ids, size_t n, bool all_logits,
                      struct err *err) {
    const struct corm_engine *e = s->engine;
    if (n == 0) {
        return err_set(err, "no tokens to evaluate");
    }
    if (n > e->opt.ctx_tok - s->n_tok) {
        return err_set(err, "context full: %u of %u tokens used, %zu more asked for", s->n_tok,
                       e->opt.ctx_tok, n);
    }
    if (all_logits && n > e->opt.logits_rows) {
        return err_set(err, "logits of %zu tokens at once: at most %u", n, e->opt.logits_rows);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->archive.arch.vocab) {
            return err_set(err, "token id %d is outside the vocabulary of %u", ids[i],
                           e->archive.arch.vocab);
        }
    }
    return 0;
}

int corm_session_eval(struct corm_session *s, const int32_t *ids, size_t n, bool all_logits,
                      const float **logits, struct corm_error *error) {
    struct corm_engine *e = s->engine;
    const struct arch *a = &e->archive.arch;
    struct err err = {0};
    uint64_t start = clock_ns();
    if (check_eval(s, ids, n, all_logits, &err) < 0) {
        return engine_fail(error, &err);
    }
    uint32_t before = s->n_tok, rows = 0;
    for (size_t done = 0; done < n; done += rows) {
        rows = n - done < e->opt.batch_rows ? (uint32_t)(n - done) : e->opt.batch_rows;
        if (eval_batch(s, ids + done, rows, &err) < 0) {
            s->n_tok = before;
            return engine_fail(error, &err);
        }
    }
    uint32_t wanted = all_logits ? rows : 1;
    s->logits_rows = wanted;
    read_logits(s, e->forward.x + (size_t)(rows - wanted) * a->dim, wanted, s->logits);
    if (logits) {
        *logits = s->logits;
    }
    bool decode = n == 1;
    *(decode ? &s->stats.decode_tok : &s->stats.prefill_tok) += n;
    *(decode ? &s->stats.decode_ns : &s->stats.prefill_ns) += clock_ns() - start;
    return 0;
}

/* Logits of the last token, or NULL before the first evaluation. */
static const float *last_logits(const struct corm_session *s) {
    if (s->logits_rows == 0) {
        return NULL;
    }
    return s->logits + (size_t)(s->logits_rows - 1) * s->engine->archive.arch.vocab;
}

/* ---- text ---- */

static int push_text(struct corm_session *s, const char **text, size_t *text_bytes, int status) {
    *text = s->text.data ? s->text.data : "";
    *text_bytes = s->text.len;
    return status;
}

int corm_session_text(struct corm_session *s, int32_t id, bool skip_special, const char **text,
                      size_t *text_bytes) {
    if (s->stream && s->stream_skips_special != skip_special) {
        token_stream_free(s->stream);
        s->stream = NULL;
    }
    if (!s->stream) {
        s->stream =
            token_stream_new(s->engine->tokenizer, skip_special ? TOKENIZER_SKIP_SPECIAL : 0);
    }
    s->stream_skips_special = skip_special;
    s->text.len = 0;
    return push_text(s, text, text_bytes,
                     token_stream_push(s->stream, (uint32_t)id, &s->text, NULL));
}

int corm_session_text_end(struct corm_session *s, const char **text, size_t *text_bytes) {
    s->text.len = 0;
    int status = s->stream ? token_stream_finish(s->stream, &s->text, NULL) : 0;
    return push_text(s, text, text_bytes, status);
}

/* ---- sampling ---- */

struct corm_sampling corm_sampling_defaults(const struct corm_engine *engine) {
    const struct arch *a = &engine->archive.arch;
    return (struct corm_sampling){
        .temperature = a->gen_temperature >= 0 ? a->gen_temperature : 0.8f,
        .top_k = a->gen_top_k >= 0 ? (uint32_t)a->gen_top_k : 40,
        .top_p = a->gen_top_p >= 0 ? a->gen_top_p : 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = a->gen_repeat_penalty >= 0 ? a->gen_repeat_penalty : 1.0f,
        .repeat_last_tok = 64,
    };
}

int32_t corm_session_sample(struct corm_session *s, const struct corm_sampling *sampling) {
    const float *logits = last_logits(s);
    if (!logits) {
        return -1;
    }
    uint32_t vocab = s->engine->archive.arch.vocab,
             known = tokenizer_vocab_size(s->engine->tokenizer);
    return sample_draw(&s->sample, sampling, logits, known < vocab ? known : vocab, s->history,
                       s->n_tok, s->n_tok);
}

/* ---- counters ---- */

static struct cache_counters read_counters(struct corm_session *s) {
    struct cache *c = &s->engine->cache;
    pthread_mutex_lock(&c->lock);
    struct cache_counters count = c->count;
    pthread_mutex_unlock(&c->lock);
    return count;
}

/* Zeros without a device. */
static struct backend_link read_link(struct corm_session *s) {
    const struct backend *be = &s->engine->backend;
    struct backend_link link = {0};
    if (be->ops->link) {
        be->ops->link(be->self, &link);
    }
    return link;
}

void corm_session_stats(const struct corm_session *session, struct corm_stats *stats) {
    struct corm_session *s = (struct corm_session *)session; /* only the lock is touched */
    struct cache_counters now = read_counters(s), *then = &s->counters_at_reset;
    *stats = s->stats;
    stats->expert_bytes = s->engine->experts.used_bytes - s->used_at_reset;
    stats->weight_bytes += stats->expert_bytes;
    stats->skipped_bytes = s->engine->experts.skipped_bytes - s->skipped_at_reset;
    stats->cache_hits = now.hits - then->hits;
    stats->cache_misses = now.misses - then->misses;
    stats->read_bytes = now.read_bytes - then->read_bytes;
    stats->decoded_bytes = now.decoded_bytes - then->decoded_bytes;
    stats->guessed_bytes = now.guessed_bytes - then->guessed_bytes;
    stats->useful_bytes = now.useful_bytes - then->useful_bytes;
    stats->wasted_bytes = now.wasted_bytes - then->wasted_bytes;
    stats->stall_ns = prefetch_stall_ns(s->engine->prefetch) - s->stall_at_reset;
    stats->unguessed_tok = s->engine->lookahead.trial.tok_off - s->unguessed_at_reset;
    stats->guesses_off = s->engine->lookahead.trial.off;
    struct offload_counters cpu = offload_count(&s->engine->offload), *cpu0 = &s->offload_at_reset;
    stats->cpu_bytes = cpu.used_bytes - cpu0->used_bytes;
    stats->expert_bytes += stats->cpu_bytes;
    stats->weight_bytes += stats->cpu_bytes;
    stats->skipped_bytes += cpu.skipped_bytes - cpu0->skipped_bytes;
    stats->read_bytes += cpu.read_bytes - cpu0->read_bytes;
    stats->decoded_bytes += cpu.decoded_bytes - cpu0->decoded_bytes;
    stats->stall_ns += cpu.stall_ns - cpu0->stall_ns;
    struct backend_link link = read_link(s), *link0 = &s->link_at_reset;
    stats->copied_demanded_bytes = link.bytes[BACKEND_DEMANDED] - link0->bytes[BACKEND_DEMANDED];
    stats->copied_guessed_bytes = link.bytes[BACKEND_GUESSED] - link0->bytes[BACKEND_GUESSED];
    stats->copied_chunks = link.pieces - link0->pieces;
    stats->copies = link.copies - link0->copies;
    stats->copy_ns = link.copy_ns - link0->copy_ns;
    stats->copy_hidden_ns = link.hidden_ns - link0->hidden_ns;
    const float *logits = last_logits(s);
    stats->logits_hash = logits ? hash64(logits, s->engine->archive.arch.vocab * sizeof(float)) : 0;
}

void corm_session_reset_stats(struct corm_session *s) {
    s->stats = (struct corm_stats){0};
    s->counters_at_reset = read_counters(s);
    s->stall_at_reset = prefetch_stall_ns(s->engine->prefetch);
    s->unguessed_at_reset = s->engine->lookahead.trial.tok_off;
    s->used_at_reset = s->engine->experts.used_bytes;
    s->skipped_at_reset = s->engine->experts.skipped_bytes;
    s->link_at_reset = read_link(s);
    s->offload_at_reset = offload_count(&s->engine->offload);
}
