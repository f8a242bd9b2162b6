/*
 * calib_chunks: the order of an expert's neurons, its hot prefix, and the chunk predictor.
 *
 * The log energy of each cold chunk is fitted as a linear function of two kinds of features of the
 * FFN input h: the projection of h on the leading principal directions of the layer, which all
 * experts share; and the activations of the gates of a few of the expert's own cold neurons. The
 * second kind is there because a chunk matters where its gates open, which is no linear function of
 * h. The leading neurons of each chunk tell that, for a small part of what reading the whole chunk
 * costs.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prep/calib/calib_layer.h"

struct ranked {
    double energy;
    uint32_t neuron;
};

static int by_energy(const void *va, const void *vb) {
    const struct ranked *a = va, *b = vb;
    if (a->energy != b->energy) {
        return a->energy < b->energy ? 1 : -1;
    }
    return a->neuron < b->neuron ? -1 : a->neuron > b->neuron;
}

/* Order of an expert's neurons by mean energy over training rows, and its hot prefix. */
static void order_neurons(struct calib *c, uint32_t expert, uint32_t *order, uint32_t *hot) {
    uint32_t ffn = c->arch->ffn_dim, step = c->opt->chunk_neurons;
    const struct calib_expert *x = &c->experts[expert];
    struct ranked *ranked = mem_calloc(ffn, sizeof *ranked);
    for (uint32_t i = 0; i < ffn; i++) {
        ranked[i] = (struct ranked){x->energy[i], i};
    }
    qsort(ranked, ffn, sizeof *ranked, by_energy);
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < ffn; i++) {
        order[i] = ranked[i].neuron;
        total += ranked[i].energy;
    }
    /* At most half of an expert is hot, because more would leave nothing to choose from. An expert
     * that was never used gets one chunk. */
    uint32_t n = 0;
    while (n < ffn && n < ffn / 2 && sum < c->opt->hot_share * total) {
        for (uint32_t end = n + step < ffn ? n + step : ffn; n < end; n++) {
            sum += ranked[n].energy;
        }
    }
    *hot = n > 0 ? n : (step < ffn ? step : ffn);
    free(ranked);
}

/* Energy of each chunk in each use: [n, chunks]; NULL on an error. */
static float *chunk_energies(struct calib *c, uint32_t expert, const uint32_t *order,
                             uint32_t chunks, struct err *err) {
    uint32_t ffn = c->arch->ffn_dim;
    const struct calib_expert *x = &c->experts[expert];
    float *out = mem_calloc((size_t)x->n * chunks + 1, sizeof *out), *at = out;
    for (uint32_t s = 0; s < x->n_spills; s++) {
        if (calib_unspill(c, &x->spills[s], err) < 0) {
            free(out);
            return NULL;
        }
        for (uint32_t u = 0; u < x->spills[s].n; u++, at += chunks) {
            for (uint32_t i = 0; i < ffn; i++) {
                at[i / c->opt->chunk_neurons] += bf16_to_f32(c->energy[(size_t)u * ffn + order[i]]);
            }
        }
    }
    return out;
}

/* The share of the cold energy that the best `take` chunks by `score` hold. */
static double captured(const float *energy, const float *score, uint32_t first, uint32_t n,
                       uint32_t take) {
    bool taken[1024] = {false};
    double all = 0, got = 0;
    for (uint32_t i = first; i < n; i++) {
        all += (double)energy[i];
    }
    for (uint32_t t = 0; t < take; t++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = first; i < n; i++) {
            if (!taken[i] && (best == UINT32_MAX || score[i] > score[best])) {
                best = i;
            }
        }
        taken[best] = true;
        got += (double)energy[best];
    }
    return all > 0 ? got / all : 1;
}

/* Everything that the chunk fit of a layer works on. */
struct chunk_fit {
    uint32_t chunks, m, g;
    float *basis;     /* [m, dim] */
    float *projected; /* [n_rows, m] */
    const struct codec *gate_codec;
    float *gates;     /* [E * g, dim], as in the checkpoint */
    float *gate_bias; /* [E, g], zeros where the model has none */
    float *seen;      /* [g, dim] of one expert, as the archive will hold them */
    uint8_t *encoded;
    float *plain;        /* [E, chunks] log mean energy */
    float *prior, *beta; /* [E, chunks], [E * chunks, m] */
    float *gate_beta;    /* [E * chunks, g] */
    float *z;            /* [uses of an expert, m + g] features */
    float *z_train, *y;  /* [uses by training rows, m + g], [the same, cold chunks] */
    float *scale;        /* [m + g] */
    float *both, *intercept, *residual; /* [chunks, m + g], [chunks], [chunks] */
};

/* Gates of some of an expert's cold neurons: the leading neurons of each cold chunk. */
static int choose_gates(struct calib *c, struct chunk_fit *f, uint32_t expert,
                        const uint32_t *order, uint32_t n_hot, struct err *err) {
    uint32_t dim = c->arch->dim, ffn = c->arch->ffn_dim, step = c->opt->chunk_neurons;
    uint32_t cold = f->chunks - n_hot;
    const float *biases = weight_floats(&c->weights.w[SLOT_EXPERT_GATE_BIAS]);
    if (hf_expert(c->model, c->layer, expert, c->gate, c->up, c->down, err) < 0) {
        return -1;
    }
    for (uint32_t i = 0; i < f->g && cold > 0; i++) {
        uint32_t chunk = cold <= f->g ? i % cold : (uint32_t)((uint64_t)i * cold / f->g);
        uint32_t place = (n_hot + chunk) * step + (cold <= f->g ? i / cold : 0);
        uint32_t neuron = order[place < ffn ? place : ffn - 1];
        float *gate = f->gates + ((size_t)expert * f->g + i) * dim;
        memcpy(gate, c->gate + (size_t)neuron * dim, dim * sizeof *gate);
        if (biases) {
            f->gate_bias[(size_t)expert * f->g + i] = biases[(size_t)expert * ffn + neuron];
        }
        f->gate_codec->encode_row(gate, dim, f->encoded);
        f->gate_codec->decode_row(f->encoded, dim, f->seen + (size_t)i * dim);
    }
    hf_expert_done(c->model, c->layer, expert);
    return 0;
}

/* Features of each use of an expert: f->z [n, m + g]. */
static void fill_features(struct calib *c, struct chunk_fit *f, uint32_t expert) {
    const struct calib_expert *x = &c->experts[expert];
    const struct ffn_rule *rule = &arch_kind(c->arch, c->layer)->ffn;
    const bool on_input = arch_kind(c->arch, c->layer)->route.on_input;
    const float *bias = f->gate_bias + (size_t)expert * f->g;
    uint32_t dim = c->arch->dim, m = f->m, g = f->g, width = m + g;
    const struct calib_past *p = calib_past_of(c, c->layer);
    f->z = mem_realloc(f->z, (size_t)x->n * width * sizeof *f->z);
    for (uint32_t first = 0; first < x->n; first += CALIB_SPILL_USES) {
        uint32_t n = x->n - first < CALIB_SPILL_USES ? x->n - first : CALIB_SPILL_USES;
        for (uint32_t u = 0; u < n; u++) {
            calib_widen(p->feature, dim, x->rows[first + u], 1, c->gathered + (size_t)u * dim);
        }
        fit_mul_nt(c->gathered, f->seen, n, g, dim, c->act);
        for (uint32_t u = 0; u < n; u++) {
            float *z = f->z + (size_t)(first + u) * width;
            const float *gate = c->act + (size_t)u * g;
            const float *projected = f->projected + (size_t)x->rows[first + u] * m;
            /* The expert reads the feature times this. */
            const float factor = on_input ? c->route_w[x->rows[first + u]] : 1.0f;
            for (uint32_t i = 0; i < m; i++) {
                z[i] = factor * projected[i];
            }
            for (uint32_t i = 0; i < g; i++) {
                z[m + i] = factor * gate[i] + bias[i];
            }
            c->be.ops->act_mul(c->be.self, rule, z + m, NULL, g);
        }
    }
}

/* Gather the training uses: their features, each divided by its spread so that one strength of the
 * ridge serves all; and the log energies of the cold chunks. Returns the number of uses. */
static uint32_t gather_training(const struct calib *c, struct chunk_fit *f,
                                const struct calib_expert *x, const float *plain,
                                const float *energy, uint32_t n_hot) {
    uint32_t width = f->m + f->g, cold = f->chunks - n_hot, n = 0;
    double *sum = mem_calloc(2 * (size_t)width, sizeof *sum), *square = sum + width;
    f->z_train = mem_realloc(f->z_train, (size_t)x->n_train * width * sizeof *f->z_train);
    f->y = mem_realloc(f->y, (size_t)x->n_train * cold * sizeof *f->y);
    for (uint32_t u = 0; u < x->n; u++) {
        if (x->rows[u] >= c->n_train) {
            continue;
        }
        const float *z = f->z + (size_t)u * width;
        for (uint32_t i = 0; i < width; i++) {
            sum[i] += (double)z[i];
            square[i] += (double)z[i] * (double)z[i];
        }
        memcpy(f->z_train + (size_t)n * width, z, width * sizeof *z);
        for (uint32_t b = 0; b < cold; b++) {
            f->y[(size_t)n * cold + b] = logf(energy[(size_t)u * f->chunks + n_hot + b] +
                                              1e-3f * expf(plain[n_hot + b]) + 1e-30f);
        }
        n++;
    }
    for (uint32_t i = 0; i < width; i++) {
        double variance = square[i] / n - sum[i] / n * (sum[i] / n);
        f->scale[i] = variance > 1e-12 ? (float)(1 / sqrt(variance)) : 0;
    }
    for (size_t i = 0; i < (size_t)n * width; i++) {
        f->z_train[i] *= f->scale[i % width];
    }
    free(sum);
    return n;
}

/* Fit one expert's log chunk energies by ridge regression. The coefficients stay zero where there
 * are too few uses. */
static int fit_expert_chunks(struct calib *c, struct chunk_fit *f, uint32_t expert,
                             const float *energy, uint32_t n_hot, struct err *err) {
    const struct calib_expert *x = &c->experts[expert];
    uint32_t chunks = f->chunks, width = f->m + f->g, cold = chunks - n_hot;
    float *plain = f->plain + (size_t)expert * chunks, *prior = f->prior + (size_t)expert * chunks;
    for (uint32_t b = 0; b < chunks; b++) {
        double sum = 0;
        for (uint32_t u = 0; u < x->n; u++) {
            sum += x->rows[u] < c->n_train ? (double)energy[(size_t)u * chunks + b] : 0;
        }
        plain[b] = prior[b] = (float)log(sum / (x->n_train ? x->n_train : 1) + 1e-20);
    }
    fill_features(c, f, expert);
    if (cold == 0 || x->n_train < 4 * width) {
        return 0;
    }
    uint32_t n = gather_training(c, f, x, plain, energy, n_hot);
    double lambda = 0.01 * (1 + 2000.0 / n);
    if (fit_ridge(f->z_train, f->y, n, width, cold, lambda, f->both, f->intercept, f->residual,
                  err) < 0) {
        return -1;
    }
    for (uint32_t b = 0; b < cold; b++) {
        size_t row = (size_t)expert * chunks + n_hot + b;
        for (uint32_t i = 0; i < width; i++) {
            float v = f->both[(size_t)b * width + i] * f->scale[i];
            if (i < f->m) {
                f->beta[row * f->m + i] = v;
            } else {
                f->gate_beta[row * f->g + i - f->m] = v;
            }
        }
        /* The log of a lognormal's mean is the mean of its log plus half the variance of its
         * log. */
        prior[n_hot + b] = f->intercept[b] + 0.5f * f->residual[b];
    }
    return 0;
}

/* Add up, over one expert's held-out uses, the share of the energy that the hot prefix has. Returns
 * the number of uses. */
static uint32_t score_hot(const struct calib *c, const struct chunk_fit *f, uint32_t expert,
                          const float *energy, uint32_t n_hot, double *sum) {
    const struct calib_expert *x = &c->experts[expert];
    uint32_t n = 0;
    for (uint32_t u = 0; u < x->n; u++) {
        const float *e = energy + (size_t)u * f->chunks;
        double hot = 0, all = 0;
        if (x->rows[u] < c->n_train) {
            continue;
        }
        for (uint32_t b = 0; b < f->chunks; b++) {
            hot += b < n_hot ? (double)e[b] : 0;
            all += (double)e[b];
        }
        *sum += all > 0 ? hot / all : 1;
        n++;
    }
    return n;
}

/* Score one expert's held-out uses: adds to sums[cut][static, learned, oracle]. */
static uint32_t score_expert_chunks(const struct calib *c, const struct chunk_fit *f,
                                    uint32_t expert, const float *energy, uint32_t n_hot,
                                    double sums[CALIB_CUTS][3]) {
    const struct calib_expert *x = &c->experts[expert];
    uint32_t chunks = f->chunks, cold = chunks - n_hot, n = 0;
    float *score = mem_alloc(chunks * sizeof *score);
    for (uint32_t u = 0; u < x->n && cold > 0; u++) {
        if (x->rows[u] < c->n_train) {
            continue;
        }
        const float *e = energy + (size_t)u * chunks, *z = f->z + (size_t)u * (f->m + f->g);
        for (uint32_t b = 0; b < chunks; b++) {
            size_t row = (size_t)expert * chunks + b;
            score[b] = f->prior[row];
            for (uint32_t i = 0; i < f->m; i++) {
                score[b] += f->beta[row * f->m + i] * z[i];
            }
            for (uint32_t i = 0; i < f->g; i++) {
                score[b] += f->gate_beta[row * f->g + i] * z[f->m + i];
            }
        }
        for (uint32_t cut = 0; cut < CALIB_CUTS; cut++) {
            uint32_t take = (cold * (cut + 1) + 2) / 4;
            sums[cut][0] += captured(e, f->plain + (size_t)expert * chunks, n_hot, chunks, take);
            sums[cut][1] += captured(e, score, n_hot, chunks, take);
            sums[cut][2] += captured(e, e, n_hot, chunks, take);
        }
        n++;
    }
    free(score);
    return n;
}

static int open_chunk_fit(struct calib *c, struct chunk_fit *f, struct err *err) {
    const struct arch *a = c->arch;
    struct calib_past *p = calib_past_of(c, c->layer);
    f->chunks = (a->ffn_dim + c->opt->chunk_neurons - 1) / c->opt->chunk_neurons;
    f->m = c->opt->basis < a->dim ? c->opt->basis : a->dim;
    uint32_t most = a->ffn_dim / 4 < a->dim ? a->ffn_dim / 4 : a->dim;
    f->g = c->opt->gates < most ? c->opt->gates : most;
    if (f->chunks > 1024) {
        return err_set(err,
                       "an expert of %u chunks: at most 1024 can be predicted; use larger chunks",
                       f->chunks);
    }
    /* Gates may be stored coarsely without loss, because the fit uses them as they are stored. */
    f->gate_codec = codec_by_id(CODEC_Q4);
    if (!codec_fits(f->gate_codec, a->dim)) {
        f->gate_codec = codec_by_id(CODEC_BF16);
    }
    size_t cells = (size_t)a->n_experts * f->chunks, width = f->m + f->g;
    f->basis = mem_alloc((size_t)f->m * a->dim * sizeof *f->basis);
    f->projected = mem_alloc((size_t)c->n_rows * f->m * sizeof *f->projected);
    f->gates = mem_calloc((size_t)a->n_experts * f->g * a->dim + 1, sizeof *f->gates);
    f->gate_bias = mem_calloc((size_t)a->n_experts * f->g + 1, sizeof *f->gate_bias);
    f->seen = mem_calloc((size_t)f->g * a->dim + 1, sizeof *f->seen);
    f->encoded = mem_alloc(codec_row_bytes(f->gate_codec, a->dim));
    f->plain = mem_calloc(cells, sizeof *f->plain);
    f->prior = mem_calloc(cells, sizeof *f->prior);
    f->beta = mem_calloc(cells * f->m, sizeof *f->beta);
    f->gate_beta = mem_calloc(cells * f->g + 1, sizeof *f->gate_beta);
    f->scale = mem_calloc(width, sizeof *f->scale);
    f->both = mem_calloc(f->chunks * width, sizeof *f->both);
    f->intercept = mem_calloc(f->chunks, sizeof *f->intercept);
    f->residual = mem_calloc(f->chunks, sizeof *f->residual);
    if (fit_principal(&p->gram, f->m, f->basis, err) < 0) {
        return -1;
    }
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        calib_widen(p->feature, a->dim, first, n, c->gathered);
        fit_mul_nt(c->gathered, f->basis, n, f->m, a->dim, f->projected + (size_t)first * f->m);
    }
    return 0;
}

static void close_chunk_fit(struct chunk_fit *f) {
    void *all[] = {f->basis,     f->projected, f->gates,    f->seen,      f->encoded,  f->plain,
                   f->prior,     f->beta,      f->z,        f->gate_beta, f->y,        f->z_train,
                   f->intercept, f->scale,     f->residual, f->both,      f->gate_bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
}

/* Eight bits are enough, because the result is a guess. */
static enum codec_id guess_codec(uint32_t cols) {
    return codec_fits(codec_by_id(CODEC_Q8), cols) ? CODEC_Q8 : CODEC_BF16;
}

static void store_chunk_fit(const struct calib *c, const struct chunk_fit *f, bool learned,
                            struct corm_predict_builder *builder) {
    uint32_t experts = c->arch->n_experts, dim = c->arch->dim, l = c->layer;
    corm_predict_add(builder, PREDICT_CHUNK_PRIOR, l, 0, CODEC_F32, learned ? f->prior : f->plain,
                     experts, f->chunks);
    if (!learned) {
        return;
    }
    corm_predict_add(builder, PREDICT_CHUNK_BASIS, l, 0, guess_codec(dim), f->basis, f->m, dim);
    corm_predict_add(builder, PREDICT_CHUNK_BETA, l, 0, guess_codec(f->m), f->beta,
                     experts * f->chunks, f->m);
    if (f->g == 0) {
        return;
    }
    corm_predict_add(builder, PREDICT_CHUNK_GATES, l, 0, f->gate_codec->id, f->gates,
                     experts * f->g, dim);
    corm_predict_add(builder, PREDICT_CHUNK_GATE_BETA, l, 0, guess_codec(f->g), f->gate_beta,
                     experts * f->chunks, f->g);
    if (arch_kind(c->arch, l)->ffn.bias) {
        corm_predict_add(builder, PREDICT_CHUNK_GATE_BIAS, l, 0, CODEC_F32, f->gate_bias, experts,
                         f->g);
    }
}

int calib_fit_chunks(struct calib *c, struct corm_predict_builder *builder, struct err *err) {
    const struct arch *a = c->arch;
    struct calib_result *r = c->result;
    struct calib_scores *s = &r->scores[c->layer];
    struct chunk_fit f = {0};
    double sums[CALIB_CUTS][3] = {{0}}, hot_sum = 0;
    uint32_t n_scored = 0, n_hot_sum = 0, n_uses = 0;
    int status = open_chunk_fit(c, &f, err);
    for (uint32_t e = 0; e < a->n_experts && status == 0; e++) {
        size_t at = (size_t)c->layer * a->n_experts + e;
        const uint32_t *order = &r->order[at * a->ffn_dim];
        order_neurons(c, e, &r->order[at * a->ffn_dim], &r->hot[at]);
        uint32_t n_hot = (r->hot[at] + c->opt->chunk_neurons - 1) / c->opt->chunk_neurons;
        n_hot_sum += r->hot[at];
        float *energy = chunk_energies(c, e, order, f.chunks, err);
        status = energy && choose_gates(c, &f, e, order, n_hot, err) == 0
                     ? fit_expert_chunks(c, &f, e, energy, n_hot, err)
                     : -1;
        if (status == 0) {
            n_scored += score_expert_chunks(c, &f, e, energy, n_hot, sums);
            n_uses += score_hot(c, &f, e, energy, n_hot, &hot_sum);
        }
        free(energy);
    }
    if (status == 0) {
        for (uint32_t cut = 0; cut < CALIB_CUTS && n_scored > 0; cut++) {
            s->energy_static[cut] = (float)(sums[cut][0] / n_scored);
            s->energy_learned[cut] = (float)(sums[cut][1] / n_scored);
            s->energy_oracle[cut] = (float)(sums[cut][2] / n_scored);
        }
        s->hot_energy = n_uses > 0 ? (float)(hot_sum / n_uses) : -1;
        s->hot_fraction = (float)n_hot_sum / (float)a->n_experts / (float)a->ffn_dim;
        s->chunks_stored = n_scored > 0 && s->energy_learned[1] > s->energy_static[1] + 0.002f;
        store_chunk_fit(c, &f, s->chunks_stored, builder);
    }
    close_chunk_fit(&f);
    return status;
}
