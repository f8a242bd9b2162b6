#include "prep/calib/calib_round.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "prep/calib/rounding.h"

/* Parts of the mean diagonal that are added to it, and the uses, in parts of dim, that the layer's
 * rows count as. */
static const double input_damp = 0.03, factor_damp = 0.2, layer_uses = 0.25;

struct round {
    struct calib *c;
    const struct codec *codec;
    struct pool *pool;
    uint32_t expert;
    const uint32_t *order; /* [ffn_dim] of the expert */
    float *coef, *gain;    /* [n, n], [n]; n is dim or ffn_dim, whichever is greater */
    float *ordered;        /* [ffn_dim, dim] down in the archive's order */
    float *biases;         /* [2, ffn_dim] of gate and up in that order */
    float *weights;        /* [CALIB_SPILL_USES] of the uses at hand */
    uint8_t *neurons;      /* [ffn_dim, 3] rows, the expert encoded */
    uint8_t **out;         /* [ffn_dim] where rows go */
};

/* ---- the uses of an expert ---- */

/* What the use of `expert` by a row weighs in the layer's output. */
static float use_weight(const struct calib *c, uint32_t row, uint32_t expert) {
    const size_t first = (size_t)row * c->arch->n_active;
    for (uint32_t i = 0; i < c->arch->n_active; i++) {
        if (c->routes[first + i] == (int32_t)expert) {
            return c->route_w[first + i];
        }
    }
    return 0;
}

/* The next training uses from use *at on: their inputs to c->gathered, times their weight where
 * `weighted`, and their weights to r->weights. Returns how many. */
static uint32_t gather(struct round *r, uint32_t *at, bool weighted) {
    struct calib *c = r->c;
    const struct calib_expert *x = &c->experts[r->expert];
    const uint32_t dim = c->arch->dim;
    uint32_t n = 0;
    for (; *at < x->n && n < CALIB_SPILL_USES; ++*at) {
        if (x->rows[*at] >= c->n_train) {
            continue;
        }
        float *to = c->gathered + (size_t)n * dim;
        calib_widen(calib_past_of(c, c->layer)->feature, dim, x->rows[*at], 1, to);
        r->weights[n] = use_weight(c, x->rows[*at], r->expert);
        for (uint32_t i = 0; i < dim && weighted; i++) {
            to[i] *= r->weights[n];
        }
        n++;
    }
    return n;
}

/* ---- gate and up ---- */

/* The factors of the expert's inputs, into r->coef and r->gain. */
static int factor_inputs(struct round *r, struct err *err) {
    struct calib *c = r->c;
    const struct fit_gram *layer = &calib_past_of(c, c->layer)->gram;
    struct fit_gram g;
    double squares = 0, mean = 1;
    fit_gram_open(&g, c->arch->dim);
    for (uint32_t at = 0, n; (n = gather(r, &at, true)) > 0;) {
        fit_gram_add(&g, c->gathered, n);
        for (uint32_t i = 0; i < n; i++) {
            squares += (double)r->weights[i] * (double)r->weights[i];
        }
    }
    if (squares > 0) {
        mean = squares / g.n;
    }
    const double share = layer_uses * c->arch->dim * mean / layer->n;
    for (size_t i = 0; i < (size_t)g.d * g.d; i++) {
        g.gram[i] += share * layer->gram[i];
    }
    int rc = fit_feedback(&g, 0, g.d, input_damp, r->coef, r->gain, err);
    fit_gram_close(&g);
    return rc;
}

/* Round `w` [ffn_dim, dim], in the checkpoint's order, into part `k` of the neurons. */
static void round_rows(struct round *r, const float *w, uint32_t k, struct rounding_error *error) {
    const struct arch *a = r->c->arch;
    const struct rounding_factors f = {a->dim, r->coef, r->gain};
    const size_t row = codec_row_bytes(r->codec, a->dim);
    for (uint32_t i = 0; i < a->ffn_dim; i++) {
        r->out[r->order[i]] = r->neurons + (3 * (size_t)i + k) * row;
    }
    rounding_along(r->pool, r->codec, &f, w, a->ffn_dim, r->out, error);
}

/* ---- down ---- */

/* c->gate, c->up: what the runtime will see of them; r->ordered, r->biases: down and the biases in
 * the same order. */
static void order_parts(struct round *r, const struct expert_layer *common) {
    struct calib *c = r->c;
    const uint32_t dim = c->arch->dim, ffn = c->arch->ffn_dim;
    const size_t row = codec_row_bytes(r->codec, dim), first = (size_t)r->expert * ffn;
    for (uint32_t i = 0; i < ffn; i++) {
        const uint8_t *neuron = r->neurons + 3 * (size_t)i * row;
        r->codec->decode_row(neuron, dim, c->gate + (size_t)i * dim);
        r->codec->decode_row(neuron + row, dim, c->up + (size_t)i * dim);
        memcpy(r->ordered + (size_t)i * dim, c->down + (size_t)r->order[i] * dim,
               dim * sizeof *r->ordered);
        if (common->rule.bias) {
            r->biases[i] = common->gate_bias[first + r->order[i]];
            r->biases[ffn + i] = common->up_bias[first + r->order[i]];
        }
    }
}

/* Sums of v^2 h h^T over the uses. */
static void sum_factors(struct round *r, const struct expert_layer *common, struct fit_gram *g) {
    struct calib *c = r->c;
    const struct arch *a = c->arch;
    const uint32_t dim = a->dim, ffn = a->ffn_dim;
    const bool on_input = arch_kind(a, c->layer)->route.on_input;
    for (uint32_t at = 0, n; (n = gather(r, &at, on_input)) > 0;) {
        fit_mul_nt(c->gathered, c->gate, n, ffn, dim, c->act);
        fit_mul_nt(c->gathered, c->up, n, ffn, dim, c->act_up);
        for (size_t i = 0; i < (size_t)n * ffn && common->rule.bias; i++) {
            c->act[i] += r->biases[i % ffn];
            c->act_up[i] += r->biases[ffn + i % ffn];
        }
        c->be.ops->act_mul(c->be.self, &common->rule, c->act, c->act_up, (size_t)n * ffn);
        for (size_t i = 0; i < (size_t)n * ffn && !on_input; i++) {
            c->act[i] *= r->weights[i / ffn];
        }
        fit_gram_add(g, c->act, n);
    }
}

static int round_down(struct round *r, struct rounding_error *error, struct err *err) {
    struct calib *c = r->c;
    const struct arch *a = c->arch;
    const struct expert_layer common = forward_expert_layer(a, c->layer, &c->weights);
    const uint32_t hot = c->result->hot[(size_t)c->layer * a->n_experts + r->expert];
    const size_t row = codec_row_bytes(r->codec, a->dim);
    struct fit_gram g;
    int rc = 0;
    order_parts(r, &common);
    fit_gram_open(&g, a->ffn_dim);
    sum_factors(r, &common, &g);
    for (uint32_t i = 0; i < a->ffn_dim; i++) {
        r->out[i] = r->neurons + (3 * (size_t)i + 2) * row;
    }
    for (uint32_t first = 0, n; first < a->ffn_dim && rc == 0; first += n) {
        n = first < hot ? hot : c->opt->chunk_neurons;
        n = n < a->ffn_dim - first ? n : a->ffn_dim - first;
        const struct rounding_factors f = {n, r->coef, r->gain};
        rc = fit_feedback(&g, first, n, factor_damp, r->coef, r->gain, err);
        if (rc == 0) {
            rounding_across(r->pool, r->codec, &f, r->ordered + (size_t)first * a->dim, a->dim,
                            r->out + first, error);
        }
    }
    fit_gram_close(&g);
    return rc;
}

/* ---- a layer ---- */

/* A weight beyond the codec's range would become another one. */
static int check_range(const struct round *r, const float *w, uint32_t k, struct err *err) {
    const struct calib *c = r->c;
    for (size_t i = 0; i < (size_t)c->arch->ffn_dim * c->arch->dim; i++) {
        if (fabsf(w[i]) > r->codec->max_abs) {
            uint32_t neuron = (uint32_t)(i / c->arch->dim), col = (uint32_t)(i % c->arch->dim);
            char what[128];
            snprintf(what, sizeof what,
                     "is %.9g, which codec %s cannot hold: choose keep, bf16 or f32 for --codec",
                     (double)w[i], r->codec->name);
            return hf_refuse_weight(c->model, SLOT_EXPERT_GATE + k, c->layer, r->expert,
                                    k == 2 ? col : neuron, k == 2 ? neuron : col, what, err);
        }
    }
    return 0;
}

static int round_expert(struct round *r, struct rounding_error error[3], struct err *err) {
    struct calib *c = r->c;
    const float *parts[3] = {c->gate, c->up, c->down};
    int rc = hf_expert(c->model, c->layer, r->expert, c->gate, c->up, c->down, err);
    for (uint32_t k = 0; k < 3 && rc == 0; k++) {
        rc = check_range(r, parts[k], k, err);
    }
    if (rc < 0 || factor_inputs(r, err) < 0) {
        return -1;
    }
    round_rows(r, c->gate, 0, &error[0]);
    round_rows(r, c->up, 1, &error[1]);
    rc = round_down(r, &error[2], err);
    hf_expert_done(c->model, c->layer, r->expert);
    return rc;
}

static int round_experts(struct round *r, struct progress *progress,
                         const volatile sig_atomic_t *stop, struct err *err) {
    struct calib *c = r->c;
    const struct arch *a = c->arch;
    struct rounding_error error[3] = {{0}};
    struct rounded_writer w;
    if (mkdir(c->opt->state_dir, 0777) < 0 && errno != EEXIST) {
        return err_errno(err, errno, "%s", c->opt->state_dir);
    }
    if (rounded_begin(&w, &c->result->rounded, c->layer, err) < 0) {
        return -1;
    }
    for (uint32_t e = 0; e < a->n_experts; e++) {
        r->expert = e;
        r->order = c->result->order + ((size_t)c->layer * a->n_experts + e) * a->ffn_dim;
        if (stop_check(stop, err) < 0 || round_expert(r, error, err) < 0 ||
            rounded_add(&w, r->neurons, err) < 0) {
            rounded_abort(&w);
            return -1;
        }
        progress_update(progress,
                        (uint64_t)c->layer * c->n_rows + c->n_rows / 2 +
                            (uint64_t)(c->n_rows - c->n_rows / 2) * (e + 1) / a->n_experts);
    }
    for (uint32_t k = 0; k < 3; k++) {
        c->result->scores[c->layer].rounding[k] =
            error[k].plain > 0 ? (float)(error[k].kept / error[k].plain) : 1;
    }
    return rounded_end(&w, err);
}

int calib_round_layer(struct calib *c, struct progress *progress, const volatile sig_atomic_t *stop,
                      struct err *err) {
    const struct arch *a = c->arch;
    const uint32_t dim = a->dim, ffn = a->ffn_dim, n = dim > ffn ? dim : ffn;
    if (!c->opt->round_codec || !arch_is_moe(a, c->layer)) {
        return 0;
    }
    struct round r = {.c = c, .codec = c->opt->round_codec};
    r.pool = pool_new(c->opt->threads, err);
    if (!r.pool) {
        return -1;
    }
    r.coef = mem_alloc((size_t)n * n * sizeof *r.coef);
    r.gain = mem_alloc(n * sizeof *r.gain);
    r.ordered = mem_alloc((size_t)ffn * dim * sizeof *r.ordered);
    r.biases = mem_calloc(2 * (size_t)ffn, sizeof *r.biases);
    r.weights = mem_alloc(CALIB_SPILL_USES * sizeof *r.weights);
    r.neurons = mem_alloc(rounded_expert_bytes(&c->result->rounded));
    r.out = mem_alloc(ffn * sizeof *r.out);
    int rc = round_experts(&r, progress, stop, err);
    pool_free(r.pool);
    free(r.coef);
    free(r.gain);
    free(r.ordered);
    free(r.biases);
    free(r.weights);
    free(r.neurons);
    free(r.out);
    return rc;
}
