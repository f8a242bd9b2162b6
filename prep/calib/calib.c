#include "prep/calib/calib.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "prep/calib/blas.h"
#include "prep/calib/calib_layer.h"
#include "prep/calib/calib_round.h"
#include "prep/calib/calib_state.h"

/* Rows of one call of the FFN. Each expert of a layer is read once for so many rows. */
enum { BATCH_ROWS = 4096 };

void calib_result_free(struct calib_result *r) {
    free(r->order);
    free(r->hot);
    free(r->scores);
    corm_predict_drop(&r->predictors);
    *r = (struct calib_result){0};
}

/* ---- life ---- */

/* Training rows first, then held-out rows. */
static void join_texts(struct calib *c, const struct corpus *train, const struct corpus *held) {
    c->n_train = train->n_tok;
    c->n_rows = train->n_tok + held->n_tok;
    c->n_seqs = train->n_seqs + held->n_seqs;
    c->ids = mem_alloc((size_t)c->n_rows * sizeof *c->ids);
    c->seqs = mem_alloc(c->n_seqs * sizeof *c->seqs);
    memcpy(c->ids, train->ids, train->n_tok * sizeof *c->ids);
    memcpy(c->seqs, train->seqs, train->n_seqs * sizeof *c->seqs);
    for (uint32_t i = 0; i < held->n_seqs; i++) {
        c->seqs[train->n_seqs + i] =
            (struct corpus_seq){held->seqs[i].first + c->n_train, held->seqs[i].n};
    }
    if (held->n_tok > 0) {
        memcpy(c->ids + c->n_train, held->ids, held->n_tok * sizeof *c->ids);
    }
}

static int open_rows(struct calib *c, struct err *err) {
    const struct arch *a = c->arch;
    size_t rows = c->n_rows, expert = (size_t)a->ffn_dim * a->dim;
    size_t uses = (size_t)c->batch_rows * a->n_active;
    c->x = mem_alloc(rows * a->dim * sizeof *c->x);
    for (uint32_t l = 0; l < a->n_layers && !c->before; l++) {
        c->before = forward_looks_back(a, l) ? mem_alloc(rows * a->dim * sizeof *c->x) : NULL;
    }
    c->routes = mem_calloc(rows * a->n_active, sizeof *c->routes);
    c->route_w = mem_calloc(rows * a->n_active, sizeof *c->route_w);
    c->router = mem_calloc(rows * a->n_experts, sizeof *c->router);
    for (int i = 0; i < CALIB_HISTORY; i++) {
        calib_past_alloc(&c->past[i], c->n_rows, a->dim, a->n_experts);
    }
    calib_past_alloc(&c->embedded, c->n_rows, a->dim, a->n_experts);
    c->experts = mem_calloc(a->n_experts, sizeof *c->experts);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        c->experts[e].sum_out = mem_calloc(a->dim, sizeof *c->experts[e].sum_out);
        c->experts[e].energy = mem_calloc(a->ffn_dim, sizeof *c->experts[e].energy);
    }
    c->gate = mem_alloc(expert * sizeof(float));
    c->up = mem_alloc(expert * sizeof(float));
    c->down = mem_alloc(expert * sizeof(float));
    size_t spill = CALIB_SPILL_USES;
    c->gathered = mem_alloc((size_t)c->batch_rows * a->dim * sizeof(float));
    c->act = mem_alloc(spill * a->ffn_dim * sizeof(float));
    c->act_up = mem_alloc(spill * a->ffn_dim * sizeof(float));
    c->energy = mem_alloc(spill * a->ffn_dim * sizeof *c->energy);
    c->expert_out = mem_alloc(spill * a->dim * sizeof(float));
    c->first_use = mem_calloc((size_t)a->n_experts + 1, sizeof *c->first_use);
    c->uses = mem_calloc(uses, sizeof *c->uses);
    c->spill_fd = file_scratch(c->opt->spill_path, err);
    return c->spill_fd < 0 ? -1 : 0;
}

static int open_forward(struct calib *c, struct err *err) {
    const struct arch *a = c->arch;
    uint32_t longest = 1;
    for (uint32_t i = 0; i < c->n_seqs; i++) {
        longest = c->seqs[i].n > longest ? c->seqs[i].n : longest;
    }
    c->batch_rows = c->n_rows < BATCH_ROWS ? c->n_rows : BATCH_ROWS;
    if (c->batch_rows < longest) {
        c->batch_rows = longest;
    }
    struct backend_limits limits = forward_limits(a, c->batch_rows, longest);
    if (backend_blas_open(&c->be, c->opt->threads, &limits, err) < 0) {
        return -1;
    }
    hf_forward_open(&c->source, c->model, &c->be, 1);
    if (forward_open(&c->forward, a, &c->be, c->batch_rows, calib_experts_hook(c),
                     (struct tap_hook){c, calib_tap}, err) < 0) {
        return -1;
    }
    c->state_size = (struct state_size){.ctx_tok = longest, .batch_rows = longest, .type = KV_F16};
    c->is_kept = mem_calloc(a->n_layers, sizeof *c->is_kept);
    bool any = false;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        c->is_kept[arch_kv_layer(a, l)] |= arch_kv_layer(a, l) != l;
        any |= arch_kv_layer(a, l) != l;
    }
    c->kept = any ? mem_calloc(c->n_seqs, sizeof *c->kept) : NULL;
    for (uint32_t i = 0; any && i < c->n_seqs; i++) {
        if (state_open(&c->kept[i], a, &c->be, &c->state_size, c->is_kept, err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Whether the layer's keys and values are kept for later layers, or it reads those of an earlier
 * layer. */
static bool shares_keys(const struct calib *c, uint32_t layer) {
    return c->is_kept[arch_kv_layer(c->arch, layer)];
}

static void close_all(struct calib *c) {
    for (uint32_t e = 0; c->experts && e < c->arch->n_experts; e++) {
        free(c->experts[e].rows);
        free(c->experts[e].spills);
        free(c->experts[e].energy);
        free(c->experts[e].sum_out);
    }
    for (int i = 0; i < CALIB_HISTORY; i++) {
        calib_past_free(&c->past[i]);
    }
    calib_past_free(&c->embedded);
    void *all[] = {c->ids,     c->seqs, c->x,         c->routes,     c->route_w,  c->router,
                   c->experts, c->gate, c->up,        c->down,       c->gathered, c->act,
                   c->act_up,  c->uses, c->first_use, c->expert_out, c->energy,   c->before};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
    if (c->spill_fd >= 0) {
        close(c->spill_fd);
    }
    for (uint32_t i = 0; c->kept && i < c->n_seqs; i++) {
        state_close(&c->kept[i]);
    }
    free(c->kept);
    free(c->is_kept);
    state_close(&c->state);
    forward_close(&c->forward);
    hf_forward_close(&c->source);
    backend_close(&c->be);
}

/* ---- the layers ---- */

static void embed_all(struct calib *c) {
    size_t dim = c->arch->dim;
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        forward_embed(&c->forward, &c->top, c->ids + first, &(struct batch){.rows = n},
                      c->x + first * dim);
    }
    for (size_t i = 0; i < c->n_rows * dim; i++) {
        c->embedded.residual[i] = c->embedded.quasi[i] = f32_to_bf16(c->x[i]);
    }
}

/* Run the layer's mixer over each sequence, from its first token on. */
static int mix_sequences(struct calib *c, uint32_t layer, const volatile sig_atomic_t *stop,
                         struct err *err) {
    const struct arch *a = c->arch;
    bool *only = mem_calloc(a->n_layers, sizeof *only);
    only[layer] = true;
    int status = state_open(&c->state, a, &c->be, &c->state_size, only, err);
    for (uint32_t i = 0; i < c->n_seqs && status == 0; i++) {
        struct state *state = shares_keys(c, layer) ? &c->kept[i] : &c->state;
        const struct span span = {.state = state, .rows = c->seqs[i].n};
        const struct batch b = {.rows = span.rows, .n_spans = 1, .spans = &span};
        c->batch_first = c->seqs[i].first;
        state_cut(&c->state, 0);
        forward_mixer(&c->forward, &c->weights, layer, &b, c->x + (size_t)c->batch_first * a->dim);
        status = state_check(state, CALIB_KV_ADVICE, err) < 0 || stop_check(stop, err) < 0 ? -1 : 0;
    }
    state_close(&c->state);
    free(only);
    return status;
}

static int run_layer(struct calib *c, uint32_t layer, struct progress *progress,
                     const volatile sig_atomic_t *stop, struct err *err) {
    const struct arch *a = c->arch;
    struct weight_source source = hf_forward_source(&c->source);
    hf_forward_drop_layers(&c->source);
    if (forward_bind_layer(&c->weights, a, layer, &source, &c->be, err) < 0) {
        return -1;
    }
    calib_layer_begin(c, layer);
    if (c->before) {
        memcpy(c->before, c->x, (size_t)c->n_rows * a->dim * sizeof *c->x);
    }
    if (mix_sequences(c, layer, stop, err) < 0) {
        return -1;
    }
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        const struct batch b = {.rows = n};
        const size_t at = (size_t)first * a->dim;
        c->batch_first = first;
        if (forward_ffn(&c->forward, &c->weights, layer, &b, c->x + at,
                        c->before ? c->before + at : NULL, err) < 0 ||
            stop_check(stop, err) < 0) {
            return -1;
        }
        progress_update(progress,
                        (uint64_t)layer * c->n_rows + (first + n) / (c->opt->round_codec ? 2 : 1));
    }
    return 0;
}

int calib_layer_fit(struct calib *c, struct corm_predict_builder *builder, struct err *err) {
    calib_finish_past(c);
    if (!arch_is_moe(c->arch, c->layer)) {
        return 0;
    }
    return calib_fit_experts(c, builder, err) < 0 || calib_fit_chunks(c, builder, err) < 0 ? -1 : 0;
}

static int run_layers(struct calib *c, struct corm_predict_builder *builders,
                      struct progress *progress, const volatile sig_atomic_t *stop,
                      struct err *err) {
    const struct arch *a = c->arch;
    struct weight_source source = hf_forward_source(&c->source);
    uint32_t done = 0;
    if (forward_bind_model(&c->top, a, &source, &c->be, err) < 0) {
        return -1;
    }
    /* Keys that later layers read are not saved, so that calibration of such a model begins
     * again: nothing is saved for it either. */
    if (!c->kept) {
        calib_state_load(c, builders, &done, &c->result->refused);
    }
    c->result->resumed_layers = done;
    if (done == 0) {
        embed_all(c);
    }
    progress_start(progress, "calibrating", (uint64_t)a->n_layers * c->n_rows, PROGRESS_TOKENS);
    for (uint32_t l = done; l < a->n_layers; l++) {
        if (run_layer(c, l, progress, stop, err) < 0 || calib_layer_fit(c, &builders[l], err) < 0 ||
            calib_round_layer(c, progress, stop, err) < 0 ||
            (!c->kept && calib_state_save(c, &builders[l], err) < 0)) {
            return -1;
        }
    }
    progress_finish(progress);
    return 0;
}

void calib_scores_clear(struct calib_scores *s) {
    *s = (struct calib_scores){.previous_token = -1, .hot_energy = -1, .rounding = {-1, -1, -1}};
    for (int a = 0; a <= PREDICT_MAX_AHEAD; a++) {
        s->stale[a] = s->stale_wide[a] = s->corrected[a] = s->learned[a] = s->learned_wide[a] = -1;
    }
    for (int i = 0; i < CALIB_CUTS; i++) {
        s->energy_static[i] = s->energy_learned[i] = s->energy_oracle[i] = -1;
    }
}

int calib_run(const struct hf_model *model, const struct corpus *train, const struct corpus *held,
              const struct calib_options *opt, struct progress *progress,
              const volatile sig_atomic_t *stop, struct calib_result *result, struct err *err) {
    const struct arch *a = hf_arch(model);
    struct calib c = {.model = model, .arch = a, .opt = opt, .result = result, .spill_fd = -1};
    size_t experts = (size_t)a->n_layers * a->n_experts;
    *result = (struct calib_result){.n_layers = a->n_layers,
                                    .n_experts = a->n_experts,
                                    .ffn_dim = a->ffn_dim,
                                    .train_tok = train->n_tok,
                                    .held_tok = held->n_tok};
    if (train->n_tok == 0) {
        return err_set(err, "--calib: calibration text holds no sequence of %d tokens or more",
                       CORPUS_MIN_SEQ_TOK);
    }
    result->order = mem_calloc(experts * a->ffn_dim, sizeof *result->order);
    result->hot = mem_calloc(experts, sizeof *result->hot);
    result->scores = mem_calloc(a->n_layers, sizeof *result->scores);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        calib_scores_clear(&result->scores[l]);
    }
    struct corm_predict_builder *builders = mem_calloc(a->n_layers, sizeof *builders);
    join_texts(&c, train, held);
    result->rounded = (struct rounded){.codec = opt->round_codec,
                                       .dir = opt->state_dir,
                                       .key = calib_state_key(&c),
                                       .n_experts = a->n_experts,
                                       .ffn_dim = a->ffn_dim,
                                       .dim = a->dim};
    int status = open_forward(&c, err);
    if (status == 0) {
        status = open_rows(&c, err);
    }
    if (status == 0) {
        status = run_layers(&c, builders, progress, stop, err);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (status == 0) {
            corm_predict_merge(&result->predictors, &builders[l]);
        }
        corm_predict_drop(&builders[l]);
    }
    free(builders);
    close_all(&c);
    return status;
}
