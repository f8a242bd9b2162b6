#include "runtime/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/processor.h"
#include "runtime/machine.h"
#include "runtime/session.h"
#include "runtime/session_file.h"

enum {
    DEFAULT_BATCH_ROWS = 256,
    DEFAULT_CTX_TOK = 4096,
    MAX_CTX_TOK = SESSION_MAX_TOK,
    MAX_SESSIONS = 256,
    MAX_PASSES = 16,
    DEFAULT_AHEAD = 2, /* layers whose experts are guessed */
};
int engine_fail_as(struct corm_error *error, const struct err *err, enum corm_error_code code) {
    if (error) {
        snprintf(error->message, sizeof error->message, "%s", err->msg);
        error->code = code;
    }
    return -1;
}

int engine_fail(struct corm_error *error, const struct err *err) {
    return engine_fail_as(error, err, CORM_ERROR_OTHER);
}

const char *corm_version(void) {
    return CORM_VERSION_TEXT; /* from the Makefile */
}

/* ---- weights ---- */

static int archive_weight(void *ctx, enum slot_id slot, uint32_t layer, struct weight *out,
                          struct err *err) {
    (void)err; /* presence and shape were checked when the archive was opened */
    *out = corm_tensor_get(ctx, slot, layer);
    return 0;
}

static uint64_t weights_bytes(const struct layer_weights *lw) {
    uint64_t bytes = 0;
    for (int i = 0; i < SLOT_COUNT; i++) {
        if (lw->w[i].data && i != SLOT_EMBED) {
            bytes += (uint64_t)lw->w[i].rows * codec_row_bytes(lw->w[i].codec, lw->w[i].cols);
        }
    }
    return bytes;
}

static int bind_weights(struct corm_engine *e, struct err *err) {
    const struct arch *a = &e->archive.arch;
    struct weight_source src = {&e->archive, archive_weight};
    if (forward_bind_model(&e->model, a, &src, &e->backend, err) < 0) {
        return -1;
    }
    e->trunk_step_bytes = weights_bytes(&e->model);
    e->layers = mem_calloc(a->n_layers, sizeof *e->layers);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (forward_bind_layer(&e->layers[l], a, l, &src, &e->backend, err) < 0) {
            return -1;
        }
        e->trunk_step_bytes += weights_bytes(&e->layers[l]);
    }
    return 0;
}

/* ---- open and close ---- */

static int fill_options(struct corm_engine *e, const struct corm_engine_options *options,
                        struct err *err) {
    struct arch *a = &e->archive.arch;
    if (options) {
        e->opt = *options;
    }
    struct corm_engine_options *o = &e->opt;
    if (o->measure && o->measure->ahead > PREDICT_MAX_AHEAD) {
        return err_set(err, "guesses for %u layers ahead: at most %d", o->measure->ahead,
                       PREDICT_MAX_AHEAD);
    }
    uint32_t cpus = processor_count();
    if (o->threads == 0) {
        o->threads = cpus;
    }
    /* Several threads: while one checks and decodes, the others have a read under way. But where
     * experts are so small that waking a thread takes as long as reading one, a single thread that
     * always has its processor is worth more than several that share it. */
    const struct corm_record *rec = e->archive.records;
    bool small = e->archive.n_records > 0 &&
                 fill_bytes(&e->archive, rec->first_chunk, rec->first_chunk + rec->n_chunks - 1) <
                     FILL_REQUEST_BYTES;
    e->io_threads = o->measure && o->measure->io_threads ? o->measure->io_threads
                    : small && cpus == o->threads + 1    ? 1
                                                         : ENGINE_IO_THREADS;
    if (o->batch_rows == 0) {
        o->batch_rows = DEFAULT_BATCH_ROWS;
    }
    if (o->max_sessions == 0) {
        o->max_sessions = 1;
    }
    if (o->max_sessions > MAX_SESSIONS) {
        return err_set(err, "%u sessions: at most %d", o->max_sessions, MAX_SESSIONS);
    }
    if (o->max_running == 0 || o->max_running > o->max_sessions) {
        o->max_running = o->max_sessions;
    }
    if (o->max_passes > MAX_PASSES) {
        return err_set(err, "%u passes: at most %d", o->max_passes, MAX_PASSES);
    }
    if (o->ctx_tok == 0) {
        o->ctx_tok = a->ctx_max_tok;
        if (o->ctx_tok == 0 || o->ctx_tok > DEFAULT_CTX_TOK) {
            o->ctx_tok = DEFAULT_CTX_TOK;
        }
        o->ctx_tok = arch_limit_ctx(a, o->ctx_tok);
    }
    if (o->kv_type < 0 || (int)o->kv_type >= KV_TYPES) {
        return err_set(err, "a KV cache of type %d: expected 0 to %d", (int)o->kv_type,
                       KV_TYPES - 1);
    }
    if (state_fits(a, (enum kv_type)o->kv_type, err) < 0) {
        return err_prefix(err, "%s", e->archive.map.path);
    }
    if (o->threads > 1024) {
        return err_set(err, "%u threads: at most 1024", o->threads);
    }
    if (o->ctx_tok > MAX_CTX_TOK) {
        return err_set(err, "a context of %u tokens: at most %d", o->ctx_tok, MAX_CTX_TOK);
    }
    if (o->ctx_tok > arch_limit_ctx(a, o->ctx_tok)) {
        return err_set(err,
                       "a context of %u tokens: at most %u, beyond which %s attends to those alone "
                       "that its indexer chooses, which is not supported",
                       o->ctx_tok, a->ctx_limit_tok, a->family);
    }
    arch_settle_ropes(a, o->ctx_tok);
    if (o->batch_rows > o->ctx_tok) {
        o->batch_rows = o->ctx_tok;
    }
    if (o->batch_rows > 4096) {
        return err_set(err, "a batch of %u rows: at most 4096", o->batch_rows);
    }
    if (o->logits_rows == 0 || o->logits_rows > o->batch_rows) {
        o->logits_rows = o->batch_rows;
    }
    return 0;
}

static void fill_info(struct corm_engine *e) {
    const struct arch *a = &e->archive.arch;
    const struct state_size size = engine_state_size(e);
    e->info = (struct corm_model_info){
        .family = a->family,
        .params = arch_params(a),
        .params_active = arch_params_active(a),
        .n_layers = a->n_layers,
        .dim = a->dim,
        .vocab = a->vocab,
        .n_experts = a->n_experts,
        .n_active = a->n_active,
        .ctx_max_tok = arch_limit_ctx(a, a->ctx_max_tok),
        .expert_codec = e->archive.codec_names,
        .compression = corm_compress_of(&e->archive),
        .file_bytes = e->archive.map.size_bytes,
        .device = e->backend.name,
        .isa = e->backend.isa,
        .threads = e->opt.threads,
        .ctx_tok = e->opt.ctx_tok,
        .batch_rows = e->opt.batch_rows,
        .max_sessions = e->opt.max_sessions,
        .cuts_back = state_kept_bytes(a, &size) == 0,
        .temperature = a->gen_temperature,
        .top_p = a->gen_top_p,
        .top_k = a->gen_top_k,
        .repeat_penalty = a->gen_repeat_penalty,
    };
}

/* The shares of energy that the loss level asked for leaves out. */
static int choose_loss(struct corm_engine *e, const struct corm_predict *view, struct err *err) {
    float percent = e->opt.loss_percent;
    uint32_t n_layers = e->archive.arch.n_layers;
    if (percent == 0) {
        return 0;
    }
    int level = corm_predict_level(view, percent);
    if (level < 0) {
        struct buf known = {0};
        for (uint32_t i = 0; view->header && i < view->header->n_levels; i++) {
            buf_printf(&known, "%s%g", i ? ", " : "", (double)view->header->levels[i]);
        }
        err_set(err, "%s: has no calibration for a loss of %g %%: %s%s", e->archive.map.path,
                (double)percent, known.len ? "it has " : "it was converted without --calibrate",
                known.len ? known.data : "");
        buf_free(&known);
        return -1;
    }
    e->drop = mem_calloc(n_layers, sizeof *e->drop);
    for (uint32_t l = 0; l < n_layers; l++) {
        struct weight w = corm_predict_get(view, PREDICT_LOSS_DROP, l, 0);
        if (w.data) {
            memcpy(&e->drop[l], w.data + (size_t)level * sizeof(float), sizeof(float));
        }
    }
    return 0;
}

static int ask_on_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct corm_engine *e = ctx;
    return e->on_read(e->on_read_ctx, offset, bytes) ? err_errno(err, EIO, "refused") : 0;
}

/* Archive, tokenizer and options. The trunk stays on the disk: it comes to memory when the plan has
 * room for it. */
static int open_archive(struct corm_engine *e, const char *path,
                        const struct corm_engine_options *options, struct err *err) {
    if (corm_open(&e->archive, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    const struct corm *c = &e->archive;
    if (tokenizer_open_for(c->tokenizer.data, c->tokenizer.size_bytes, c->arch.vocab, &e->tokenizer,
                           err) < 0) {
        return err_prefix(err, "%s: tokenizer section", path);
    }
    e->words = engine_words_new();
    size_t n = 0;
    const char *template = tokenizer_chat_template(e->tokenizer, &n);
    if (template) {
        e->chat_template = mem_calloc(n + 1, 1);
        memcpy(e->chat_template, template, n);
    }
    if (chat_book_open(&e->book, c->conversations.data, c->conversations.size_bytes, err) < 0) {
        return err_prefix(err, "%s", path);
    }
    if (corm_predict_open(&e->predictors, c->predictors.data, c->predictors.size_bytes, &c->arch,
                          corm_chunks_per_expert(c), err) < 0) {
        return err_prefix(err, "%s", path);
    }
    return fill_options(e, options, err);
}

/* How expert chunks come into memory: the I/O threads begin to run. */
static int open_prefetch(struct corm_engine *e, const struct corm_mechanisms *m,
                         struct prefetch_options *io, struct err *err) {
    static const enum reader_way ways[] = {[CORM_READ_BUFFERED] = READER_BUFFERED,
                                           [CORM_READ_DIRECT] = READER_DIRECT,
                                           [CORM_READ_MAPPED] = READER_MAPPED,
                                           [CORM_READ_PASSING] = READER_PASSING};
    *io = (struct prefetch_options){.io_threads = e->io_threads,
                                    .device = e->device_slots ? &e->backend : NULL,
                                    .way = ways[e->plan.reading],
                                    .isa = e->opt.isa,
                                    .throttle = {m->throttle_bytes_per_s, m->throttle_latency_ns},
                                    .split_reads = m->split_reads,
                                    .awake = processor_count() > e->opt.threads};
    if (m->on_read) {
        e->on_read = m->on_read;
        e->on_read_ctx = m->on_read_ctx;
        io->fault = (struct reader_fault){ask_on_read, e};
    }
    return prefetch_open(&e->prefetch, &e->cache, io, err);
}

/* What chooses, guesses and computes experts, and the forward pass over it. */
static int open_forward(struct corm_engine *e, const struct corm_mechanisms *m,
                        const struct prefetch_options *io, struct err *err) {
    const struct corm *c = &e->archive;
    const bool offloads = e->plan.missed == CORM_MISSED_CPU;
    if (choose_loss(e, &e->predictors, err) < 0) {
        return -1;
    }
    if (predict_open(&e->predict, &e->predictors, &c->arch, &e->backend, e->layers,
                     corm_chunks_per_expert(c), engine_predict_rows(e), err) < 0) {
        return -1;
    }
    /* Guesses are of no use here: experts that have places have mostly come already, and the others
     * never will. */
    bool never = m->no_guesses || offloads || (e->keeps & CACHE_IN_PLACE && !m->on_guess);
    const struct lookahead_options guesses = {.max_ahead = never      ? 0
                                                           : m->ahead ? m->ahead
                                                                      : DEFAULT_AHEAD,
                                              .always = m->ahead > 0,
                                              .drop = e->drop,
                                              .on_guess = m->on_guess,
                                              .on_guess_ctx = m->on_guess_ctx};
    lookahead_open(&e->lookahead, &e->predict, e->prefetch, c, &guesses);
    const struct experts_options how = {.on_demanded = lookahead_demanded,
                                        .on_demanded_ctx = &e->lookahead,
                                        .on_route = m->on_route,
                                        .on_route_ctx = m->on_route_ctx,
                                        .drop = e->drop,
                                        .drop_in_batches = e->opt.loss_in_batches,
                                        .predict = &e->predict,
                                        .in_turn = m->in_turn};
    experts_open(&e->experts, &e->cache, e->prefetch, &e->backend, engine_max_rows(e), &how);
    if (offloads &&
        offload_open(&e->offload, &e->experts, e->host_room_bytes, e->host_in_place, io, err) < 0) {
        return -1;
    }
    return forward_open(&e->forward, &c->arch, &e->backend, engine_max_rows(e),
                        offloads ? offload_hook(&e->offload) : experts_hook(&e->experts),
                        (struct tap_hook){&e->lookahead, lookahead_tap}, err);
}

/* A budget for sessions by their length. */
static int check_kv_bytes(const struct corm_engine *e, struct err *err) {
    const struct state_size size = engine_state_size(e);
    const uint64_t least = state_bytes(&e->archive.arch, &size);
    if (e->opt.kv_bytes == CORM_KV_LEAST) {
        return 0;
    }
    if (e->opt.kv_bytes > 0 && !e->backend.ops->forget) {
        return err_set(err, "kv_bytes: %s takes memory for the whole context of each session",
                       e->backend.name);
    }
    if (e->opt.kv_bytes > 0 && e->opt.kv_bytes < least) {
        return err_set(err, "kv_bytes of %.1f MiB: one session of %u tokens takes %.1f",
                       (double)e->opt.kv_bytes / (1 << 20), e->opt.ctx_tok,
                       (double)least / (1 << 20));
    }
    return 0;
}

/* What evaluations need: snapshots, hidden rows of the passes that programs open, beside those of
 * the forward pass, and rows of logits. */
static int open_passes(struct corm_engine *e, struct err *err) {
    const size_t rows = (size_t)engine_max_rows(e) * e->archive.arch.dim;
    e->logits = e->backend.ops->alloc(
        e->backend.self, (size_t)LOGITS_ROWS * e->archive.arch.vocab * sizeof(float), err);
    if (!e->logits || snapshot_pool_open(e, err) < 0) {
        return -1;
    }
    if (e->opt.max_passes > 0) {
        e->pass_rows = e->backend.ops->alloc(e->backend.self, engine_pass_bytes(e), err);
        if (!e->pass_rows) {
            return -1;
        }
    }
    e->passes = mem_calloc((size_t)1 + e->opt.max_passes, sizeof *e->passes);
    for (uint32_t i = 0; i <= e->opt.max_passes; i++) {
        pass_open(&e->passes[i], e, i == 0 ? e->forward.x : e->pass_rows + (i - 1) * rows);
    }
    e->sessions = mem_calloc(e->opt.max_sessions, sizeof *e->sessions);
    const size_t vocab = e->archive.arch.vocab;
    e->all_logits = mem_calloc(e->opt.logits_rows * vocab, sizeof *e->all_logits);
    e->last_logits = mem_calloc(e->opt.max_running * vocab, sizeof *e->last_logits);
    e->running = mem_calloc(e->opt.max_running, sizeof *e->running);
    sample_open(&e->sample, e->archive.arch.vocab);
    e->asked = mem_calloc(e->opt.max_sessions, sizeof *e->asked);
    e->host_row = mem_calloc(engine_host_row(&e->archive.arch), sizeof *e->host_row);
    return 0;
}

static int open_steps(struct corm_engine *e, const char *path,
                      const struct corm_engine_options *options, struct err *err) {
    if (open_archive(e, path, options, err) < 0 || engine_open_backend(e, err) < 0) {
        return -1;
    }
    if (check_kv_bytes(e, err) < 0 || engine_plan_reading(e, err) < 0) {
        return -1;
    }
    fill_info(e);
    if (e->opt.on_plan) {
        e->opt.on_plan(e->opt.on_plan_ctx, &e->info, &e->plan);
    }
    if (e->opt.only_plan) {
        return 0;
    }
    const struct corm_mechanisms none = {0}, *m = e->opt.measure ? e->opt.measure : &none;
    struct prefetch_options io;
    if (corm_check_trunk(&e->archive, err) < 0 || bind_weights(e, err) < 0 ||
        engine_open_slots(e, m->whole_lru, err) < 0 || open_prefetch(e, m, &io, err) < 0 ||
        open_forward(e, m, &io, err) < 0 || open_passes(e, err) < 0) {
        return -1;
    }
    e->counted = engine_count(e);
    e->shown = mem_calloc(1, sizeof *e->shown);
    return 0;
}

int corm_engine_open(struct corm_engine **engine, const char *path,
                     const struct corm_engine_options *options, struct corm_error *error) {
    struct err err = {0};
    struct corm_engine *e = mem_calloc(1, sizeof *e);
    int status = open_steps(e, path, options, &err);
    e->opt.measure = NULL;
    if (status < 0) {
        corm_engine_close(e);
        return engine_fail(error, &err);
    }
    *engine = e;
    return 0;
}

void corm_engine_close(struct corm_engine *e) {
    if (!e) {
        return;
    }
    prefetch_close(e->prefetch); /* first: its threads write into the cache */
    offload_close(&e->offload);
    experts_close(&e->experts);
    forward_close(&e->forward);
    lookahead_close(&e->lookahead);
    predict_close(&e->predict);
    cache_close(&e->cache);
    if (e->backend.ops) {
        e->backend.ops->free(e->backend.self, e->logits);
        e->backend.ops->free(e->backend.self, e->pass_rows);
        snapshot_pool_close(e);
        e->backend.ops->free(e->backend.self, e->device_slots);
    }
    free(e->layers);
    free(e->drop);
    for (uint32_t i = 0; e->passes && i <= e->opt.max_passes; i++) {
        pass_close(&e->passes[i]);
    }
    free(e->passes);
    free(e->asked);
    free(e->sessions);
    free(e->all_logits);
    free(e->last_logits);
    free(e->running);
    sample_close(&e->sample);
    free(e->host_row);
    free(e->shown);
    backend_close(&e->backend);
    engine_words_free(e->words);
    tokenizer_close(e->tokenizer);
    free(e->chat_template);
    chat_book_close(&e->book);
    corm_close(&e->archive);
    free(e);
}

struct engine_counters engine_count(struct corm_engine *e) {
    struct engine_counters c = {.offload = offload_count(&e->offload),
                                .used_bytes = e->experts.used_bytes,
                                .skipped_bytes = e->experts.skipped_bytes,
                                .stall_ns = prefetch_stall_ns(e->prefetch),
                                .unguessed_tok = e->lookahead.trial.tok_off,
                                .trunk_bytes = e->trunk_bytes};
    pthread_mutex_lock(&e->cache.lock);
    c.cache = e->cache.count;
    pthread_mutex_unlock(&e->cache.lock);
    if (e->backend.ops->link) {
        e->backend.ops->link(e->backend.self, &c.link);
        e->backend.ops->work(e->backend.self, &c.work);
    }
    return c;
}

const struct corm_model_info *corm_engine_info(const struct corm_engine *engine) {
    return &engine->info;
}

const struct corm_memory_plan *corm_engine_plan(const struct corm_engine *engine) {
    return &engine->plan;
}

uint64_t corm_memory_available(void) {
    return machine_available_bytes();
}

uint64_t corm_memory_peak(void) {
    return machine_peak_bytes();
}

const char *corm_chat_template(const struct corm_engine *engine) {
    return engine->chat_template;
}

const char *corm_chat_template_named(const struct corm_engine *engine, const char *name,
                                     size_t *bytes) {
    const struct chat_entry *e =
        chat_book_find(&engine->book, CHAT_ENTRY_TEMPLATE, name, strlen(name));
    if (!e && engine->chat_template && strcmp(name, "default") == 0) {
        *bytes = strlen(engine->chat_template);
        return engine->chat_template;
    }
    *bytes = e ? e->bytes : 0;
    return e ? e->text : NULL;
}

/* ---- tokens ---- */

const int32_t *corm_stop_ids(const struct corm_engine *engine, size_t *n) {
    *n = engine->archive.arch.n_stop;
    return (const int32_t *)engine->archive.arch.stop_ids;
}

bool corm_is_stop(const struct corm_engine *engine, int32_t id) {
    const struct arch *a = &engine->archive.arch;
    for (uint32_t i = 0; i < a->n_stop; i++) {
        if ((int32_t)a->stop_ids[i] == id) {
            return true;
        }
    }
    return false;
}
