#include "runtime/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/machine.h"

enum {
    DEFAULT_BATCH_ROWS = 256,
    DEFAULT_CTX_TOK = 4096,
    MAX_CTX_TOK = 1 << 20,
    DEFAULT_AHEAD = 2, /* layers whose experts are guessed */
};
/* See struct cache: a cold chunk is left out by one use of its expert in six. */
static const float HOT_BONUS = 0.25f;

int engine_fail(struct corm_error *error, const struct err *err) {
    if (error) {
        snprintf(error->message, sizeof error->message, "%s", err->msg);
    }
    return -1;
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
    const struct arch *a = &e->archive.arch;
    if (options) {
        e->opt = *options;
    }
    struct corm_engine_options *o = &e->opt;
    if (o->measure && o->measure->ahead > PREDICT_MAX_AHEAD) {
        return err_set(err, "guesses for %u layers ahead: at most %d", o->measure->ahead,
                       PREDICT_MAX_AHEAD);
    }
    uint32_t cpus = machine_cpus();
    if (o->threads == 0) {
        o->threads = cpus;
    }
    /* While one checks and decodes, the others have a read under way. Where experts are so small
     * that waking a thread takes as long, one that always has its processor is worth more than
     * several that share it. */
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
    if (o->ctx_tok == 0) {
        o->ctx_tok = a->ctx_max_tok;
        if (o->ctx_tok == 0 || o->ctx_tok > DEFAULT_CTX_TOK) {
            o->ctx_tok = DEFAULT_CTX_TOK;
        }
    }
    if (o->threads > 1024) {
        return err_set(err, "%u threads: at most 1024", o->threads);
    }
    uint32_t longest =
        a->ctx_max_tok && a->ctx_max_tok < MAX_CTX_TOK ? a->ctx_max_tok : MAX_CTX_TOK;
    if (o->ctx_tok > longest) {
        return err_set(err, "%s: a context of %u tokens: the model was made for at most %u",
                       e->archive.map.path, o->ctx_tok, longest);
    }
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
    e->info = (struct corm_model_info){
        .family = a->family,
        .params = arch_params(a),
        .params_active = arch_params_active(a),
        .n_layers = a->n_layers,
        .dim = a->dim,
        .vocab = a->vocab,
        .n_experts = a->n_experts,
        .n_active = a->n_active,
        .ctx_max_tok = a->ctx_max_tok,
        .expert_codec = e->archive.expert_codec->name,
        .file_bytes = e->archive.map.size_bytes,
        .device = e->backend.name,
        .isa = e->backend.isa,
        .threads = e->opt.threads,
        .ctx_tok = e->opt.ctx_tok,
        .batch_rows = e->opt.batch_rows,
        .temperature = a->gen_temperature,
        .top_p = a->gen_top_p,
        .top_k = a->gen_top_k,
        .repeat_penalty = a->gen_repeat_penalty,
    };
}

/* The shares of energy that the loss level asked for leaves out. */
static int choose_loss(struct corm_engine *e, struct err *err) {
    float percent = e->opt.loss_percent;
    const struct corm_predict *view = &e->predict.view;
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
    e->experts.drop = e->drop;
    e->experts.drop_in_batches = e->opt.loss_in_batches;
    return 0;
}

static int ask_on_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct corm_engine *e = ctx;
    return e->on_read(e->on_read_ctx, offset, bytes) ? err_errno(err, EIO, "refused") : 0;
}

static int open_steps(struct corm_engine *e, const char *path,
                      const struct corm_engine_options *options, struct err *err) {
    if (corm_open(&e->archive, path, 0, err) < 0) {
        return -1;
    }
    const struct corm *c = &e->archive;
    if (tokenizer_open(c->tokenizer.data, c->tokenizer.size_bytes, &e->tokenizer, err) < 0) {
        return err_prefix(err, "%s: tokenizer section", path);
    }
    size_t n = 0;
    const char *template = tokenizer_chat_template(e->tokenizer, &n);
    if (template) {
        e->chat_template = mem_calloc(n + 1, 1);
        memcpy(e->chat_template, template, n);
    }
    if (fill_options(e, options, err) < 0) {
        return -1;
    }

    if (engine_open_backend(e, err) < 0 || engine_plan_reading(e, err) < 0) {
        return -1;
    }
    fill_info(e);
    if (e->opt.on_plan) {
        e->opt.on_plan(e->opt.on_plan_ctx, &e->info, &e->plan);
    }
    if (bind_weights(e, err) < 0 || engine_open_slots(e, err) < 0) {
        return -1;
    }
    const struct corm_mechanisms none = {0}, *m = e->opt.measure ? e->opt.measure : &none;
    e->cache.hot_bonus = e->opt.loss_percent > 0 ? HOT_BONUS : 0;
    e->cache.whole_lru = m->whole_lru;
    static const enum reader_way ways[] = {[CORM_READ_BUFFERED] = READER_BUFFERED,
                                           [CORM_READ_DIRECT] = READER_DIRECT,
                                           [CORM_READ_MAPPED] = READER_MAPPED,
                                           [CORM_READ_PASSING] = READER_PASSING};
    struct prefetch_options io = {.io_threads = e->io_threads,
                                  .device = e->device_slots ? &e->backend : NULL,
                                  .way = ways[e->plan.reading],
                                  .isa = e->opt.isa,
                                  .throttle = {m->throttle_bytes_per_s, m->throttle_latency_ns},
                                  .split_reads = m->split_reads,
                                  .awake = machine_cpus() > e->opt.threads};
    if (m->on_read) {
        e->on_read = m->on_read;
        e->on_read_ctx = m->on_read_ctx;
        io.fault = (struct reader_fault){ask_on_read, e};
    }
    if (prefetch_open(&e->prefetch, &e->cache, &io, err) < 0) {
        return -1;
    }
    bool offloads = e->plan.missed == CORM_MISSED_CPU;
    struct corm_predict view;
    if (corm_predict_open(&view, c->predictors.data, c->predictors.size_bytes, &c->arch,
                          corm_chunks_per_expert(c), err) < 0) {
        return err_prefix(err, "%s", path);
    }
    predict_open(&e->predict, &view, &c->arch, &e->backend, e->layers, corm_chunks_per_expert(c),
                 engine_predict_rows(e));
    lookahead_open(&e->lookahead, &e->predict, e->prefetch, c,
                   /* Experts with places have mostly come; others never will. */
                   m->no_guesses || offloads || (e->keeps & CACHE_IN_PLACE && !m->on_guess) ? 0
                   : m->ahead ? m->ahead
                              : DEFAULT_AHEAD);
    e->lookahead.always = m->ahead > 0;
    e->lookahead.on_guess = m->on_guess;
    e->lookahead.on_guess_ctx = m->on_guess_ctx;
    experts_open(&e->experts, &e->cache, e->prefetch, &e->backend, e->opt.batch_rows);
    e->experts.predict = &e->predict;
    e->experts.in_turn = m->in_turn;
    e->experts.on_route = m->on_route;
    e->experts.on_route_ctx = m->on_route_ctx;
    if (choose_loss(e, err) < 0) {
        return -1;
    }
    if (offloads &&
        offload_open(&e->offload, &e->experts, e->host_slots, e->host_in_place, &io, err) < 0) {
        return -1;
    }
    if (e->drop) {
        lookahead_leave_out(&e->lookahead, e->drop);
    }
    e->experts.on_demanded = lookahead_demanded;
    e->experts.on_demanded_ctx = &e->lookahead;
    forward_open(&e->forward, &c->arch, &e->backend, e->opt.batch_rows,
                 offloads ? offload_hook(&e->offload) : experts_hook(&e->experts),
                 (struct tap_hook){&e->lookahead, lookahead_tap});
    e->logits =
        e->backend.ops->alloc(e->backend.self, (size_t)LOGITS_ROWS * c->arch.vocab * sizeof(float));
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
        e->backend.ops->free(e->backend.self, e->device_slots);
    }
    free(e->layers);
    free(e->drop);
    backend_close(&e->backend);
    tokenizer_close(e->tokenizer);
    free(e->chat_template);
    corm_close(&e->archive);
    free(e);
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

/* ---- tokens ---- */

int corm_tokenize(const struct corm_engine *engine, const char *text, size_t text_bytes,
                  bool add_special, bool parse_special, int32_t **ids, size_t *n_ids,
                  struct corm_error *error) {
    struct err err = {0};
    struct token_list list = {0};
    unsigned flags =
        (add_special ? TOKENIZER_ADD_SPECIAL : 0) | (parse_special ? TOKENIZER_PARSE_SPECIAL : 0);
    if (tokenizer_encode(engine->tokenizer, text, text_bytes, flags, &list, &err) < 0) {
        token_list_free(&list);
        return engine_fail(error, &err);
    }
    *ids = mem_alloc(list.n * sizeof **ids);
    for (size_t i = 0; i < list.n; i++) {
        (*ids)[i] = (int32_t)list.ids[i];
    }
    *n_ids = list.n;
    token_list_free(&list);
    return 0;
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
