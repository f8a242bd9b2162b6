#include "prep/calib_layer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- rows kept for later layers ---- */

void calib_past_alloc(struct calib_past *p, uint32_t rows, uint32_t dim, uint32_t n_experts) {
    size_t n = (size_t)rows * dim;
    p->feature = mem_calloc(n, sizeof *p->feature);
    p->residual = mem_calloc(n, sizeof *p->residual);
    p->quasi = mem_calloc(n, sizeof *p->quasi);
    p->mean_out = mem_calloc((size_t)n_experts * dim, sizeof *p->mean_out);
}

void calib_past_free(struct calib_past *p) {
    free(p->feature);
    free(p->residual);
    free(p->quasi);
    free(p->mean_out);
    fit_gram_close(&p->gram);
    *p = (struct calib_past){0};
}

void calib_widen(const uint16_t *rows, uint32_t dim, uint32_t first, uint32_t n, float *out) {
    const uint16_t *at = rows + (size_t)first * dim;
    for (size_t i = 0; i < (size_t)n * dim; i++)
        out[i] = bf16_to_f32(at[i]);
}

static void narrow(const float *rows, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = f32_to_bf16(rows[i]);
}

/* ---- while the layer runs ---- */

void calib_layer_begin(struct calib *c, uint32_t layer) {
    c->layer = layer;
    c->spill_bytes = 0;
    for (uint32_t e = 0; e < c->arch->n_experts; e++) {
        struct calib_expert *x = &c->experts[e];
        x->n = x->n_train = x->n_spills = 0;
        memset(x->energy, 0, c->arch->ffn_dim * sizeof *x->energy);
        memset(x->sum_out, 0, c->arch->dim * sizeof *x->sum_out);
    }
    struct calib_past *p = calib_past_of(c, layer);
    fit_gram_close(&p->gram);
    p->filled = true;
    p->mean_decided = false;
    p->moe = c->arch->moe[layer];
}

void calib_tap(void *ctx, enum tap tap, uint32_t layer, const float *data, uint32_t rows,
               uint32_t cols, const int32_t *ids) {
    struct calib *c = ctx;
    size_t first = c->batch_first, n = (size_t)rows * cols;
    struct calib_past *p = calib_past_of(c, layer);
    switch (tap) {
    case TAP_ATTN_IN:
        if (layer == 0) /* for layer 0 the embedding is the source, and this its feature */
            narrow(data, n, c->embedded.feature + first * cols);
        break;
    case TAP_FFN_RESIDUAL:
        narrow(data, n, p->residual + first * cols);
        break;
    case TAP_FFN_IN:
        narrow(data, n, p->feature + first * cols);
        break;
    case TAP_ROUTER:
        memcpy(c->router + first * cols, data, n * sizeof *data);
        break;
    case TAP_EXPERT_WEIGHTS:
        memcpy(c->route_w + first * cols, data, n * sizeof *data);
        memcpy(c->routes + first * cols, ids, n * sizeof *ids);
        break;
    default:
        break;
    }
}

static void reserve_uses(struct calib_expert *x, uint32_t more) {
    if (x->n + more <= x->cap)
        return;
    x->cap = x->n + more + x->cap / 2;
    x->rows = mem_realloc(x->rows, x->cap * sizeof *x->rows);
}

/* ---- energies in the spill file ---- */

/* Append c->energy [n, ffn_dim]. */
static int spill(struct calib *c, struct calib_expert *x, uint32_t n, struct err *err) {
    size_t bytes = (size_t)n * c->arch->ffn_dim * sizeof *c->energy;
    if (x->n_spills == x->cap_spills) {
        x->cap_spills = x->cap_spills ? 2 * x->cap_spills : 16;
        x->spills = mem_realloc(x->spills, x->cap_spills * sizeof *x->spills);
    }
    x->spills[x->n_spills++] = (struct calib_spill){c->spill_bytes, n};
    if (lseek(c->spill_fd, (off_t)c->spill_bytes, SEEK_SET) < 0)
        return err_errno(err, errno, "%s: activations", c->opt->spill_path);
    c->spill_bytes += bytes;
    return file_write_all(c->spill_fd, c->energy, bytes, c->opt->spill_path, err);
}

/* Bring a piece back into c->energy. */
static int unspill(struct calib *c, const struct calib_spill *s, struct err *err) {
    size_t bytes = (size_t)s->n * c->arch->ffn_dim * sizeof *c->energy, done = 0;
    while (done < bytes) {
        ssize_t n =
            pread(c->spill_fd, (char *)c->energy + done, bytes - done, (off_t)(s->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno, "%s: activations", c->opt->spill_path);
        if (n == 0)
            return err_set(err, "%s: activations end early", c->opt->spill_path);
        done += (size_t)n;
    }
    return 0;
}

/* Length of each neuron's down row. */
static void down_norms(const float *down, uint32_t ffn_dim, uint32_t dim, float *norms) {
    for (uint32_t i = 0; i < ffn_dim; i++) {
        double s = 0;
        for (uint32_t j = 0; j < dim; j++)
            s += (double)down[(size_t)i * dim + j] * (double)down[(size_t)i * dim + j];
        norms[i] = (float)sqrt(s);
    }
}

/* Activations and outputs of one expert for `n` of its uses in this batch. */
static int run_uses(struct calib *c, uint32_t expert, const uint32_t *uses, uint32_t n,
                    const float *norms, const float *x, float *parts, struct err *err) {
    const struct arch *a = c->arch;
    uint32_t dim = a->dim, ffn = a->ffn_dim, k = a->n_active;
    struct calib_expert *acc = &c->experts[expert];
    for (uint32_t j = 0; j < n; j++)
        memcpy(c->gathered + (size_t)j * dim, x + (size_t)(uses[j] / k) * dim, dim * sizeof *x);
    fit_mul_nt(c->gathered, c->gate, n, ffn, dim, c->act);
    fit_mul_nt(c->gathered, c->up, n, ffn, dim, c->act_up);
    for (size_t i = 0; i < (size_t)n * ffn; i++)
        c->act[i] = c->act[i] / (1.0f + expf(-c->act[i])) * c->act_up[i];
    fit_mul_nn(c->act, c->down, n, dim, ffn, c->expert_out);
    reserve_uses(acc, n);
    for (uint32_t j = 0; j < n; j++) {
        const float *out = c->expert_out + (size_t)j * dim, *act = c->act + (size_t)j * ffn;
        memcpy(parts + (size_t)uses[j] * dim, out, dim * sizeof *out);
        uint32_t row = c->batch_first + uses[j] / k;
        bool train = row < c->n_train;
        uint16_t *energy = c->energy + (size_t)j * ffn;
        for (uint32_t i = 0; i < ffn; i++) {
            float v = act[i] * norms[i];
            energy[i] = f32_to_bf16(v * v);
            acc->energy[i] += train ? (double)bf16_to_f32(energy[i]) : 0;
        }
        acc->rows[acc->n++] = row;
        acc->n_train += train;
        for (uint32_t i = 0; train && i < dim; i++)
            acc->sum_out[i] += (double)out[i];
    }
    return spill(c, acc, n, err);
}

static int run_expert(struct calib *c, uint32_t expert, const float *x, float *parts,
                      struct err *err) {
    const struct arch *a = c->arch;
    const uint32_t *uses = c->uses + c->first_use[expert];
    uint32_t n = c->first_use[expert + 1] - c->first_use[expert];
    float *norms = mem_alloc(a->ffn_dim * sizeof *norms);
    int status = 0;
    down_norms(c->down, a->ffn_dim, a->dim, norms);
    for (uint32_t first = 0; first < n && status == 0; first += CALIB_SPILL_USES) {
        uint32_t some = n - first < CALIB_SPILL_USES ? n - first : CALIB_SPILL_USES;
        status = run_uses(c, expert, uses + first, some, norms, x, parts, err);
    }
    free(norms);
    return status;
}

static int run_experts(void *ctx, uint32_t layer, const float *x, uint32_t rows,
                       const int32_t *host_ids, float *parts, struct err *err) {
    struct calib *c = ctx;
    const struct arch *a = c->arch;
    forward_group_uses(host_ids, rows * a->n_active, a->n_experts, c->first_use, c->uses);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        if (c->first_use[e + 1] == c->first_use[e])
            continue;
        if (hf_expert(c->model, layer, e, c->gate, c->up, c->down, err) < 0 ||
            run_expert(c, e, x, parts, err) < 0)
            return -1;
        hf_expert_done(c->model, layer, e);
    }
    return 0;
}

struct experts_hook calib_experts_hook(struct calib *c) {
    return (struct experts_hook){c, run_experts};
}

/* ---- neurons and chunks ---- */

struct ranked {
    double energy;
    uint32_t neuron;
};

static int by_energy(const void *va, const void *vb) {
    const struct ranked *a = va, *b = vb;
    if (a->energy != b->energy)
        return a->energy < b->energy ? 1 : -1;
    return a->neuron < b->neuron ? -1 : a->neuron > b->neuron;
}

/* Order of an expert's neurons by mean energy over training rows, and its hot prefix. */
static void order_neurons(struct calib *c, uint32_t expert, uint32_t *order, uint32_t *hot) {
    uint32_t ffn = c->arch->ffn_dim, step = c->opt->chunk_neurons;
    const struct calib_expert *x = &c->experts[expert];
    struct ranked *ranked = mem_calloc(ffn, sizeof *ranked);
    for (uint32_t i = 0; i < ffn; i++)
        ranked[i] = (struct ranked){x->energy[i], i};
    qsort(ranked, ffn, sizeof *ranked, by_energy);
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < ffn; i++) {
        order[i] = ranked[i].neuron;
        total += ranked[i].energy;
    }
    /* At most half of an expert is hot: more would leave nothing to choose from. An expert that was
     * never used gets one chunk. */
    uint32_t n = 0;
    while (n < ffn && n < ffn / 2 && sum < c->opt->hot_share * total)
        for (uint32_t end = n + step < ffn ? n + step : ffn; n < end; n++)
            sum += ranked[n].energy;
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
        if (unspill(c, &x->spills[s], err) < 0) {
            free(out);
            return NULL;
        }
        for (uint32_t u = 0; u < x->spills[s].n; u++, at += chunks)
            for (uint32_t i = 0; i < ffn; i++)
                at[i / c->opt->chunk_neurons] += bf16_to_f32(c->energy[(size_t)u * ffn + order[i]]);
    }
    return out;
}

/* Share of the cold energy that the `take` best chunks by `score` hold. */
static double captured(const float *energy, const float *score, uint32_t first, uint32_t n,
                       uint32_t take) {
    bool taken[1024] = {false};
    double all = 0, got = 0;
    for (uint32_t i = first; i < n; i++)
        all += (double)energy[i];
    for (uint32_t t = 0; t < take; t++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = first; i < n; i++)
            if (!taken[i] && (best == UINT32_MAX || score[i] > score[best]))
                best = i;
        taken[best] = true;
        got += (double)energy[best];
    }
    return all > 0 ? got / all : 1;
}

/* Everything that the chunk fit of a layer works on. */
struct chunk_fit {
    uint32_t chunks, m;
    float *basis;        /* [m, dim] */
    float *projected;    /* [n_rows, m] */
    float *plain;        /* [E, chunks] log mean energy */
    float *prior, *beta; /* [E, chunks], [E * chunks, m] */
    float *intercept, *residual, *z, *y;
};

/* Ridge of one expert's log chunk energies; leaves beta zero where there are too few uses. */
static int fit_expert_chunks(struct calib *c, struct chunk_fit *f, uint32_t expert,
                             const float *energy, uint32_t n_hot, struct err *err) {
    const struct calib_expert *x = &c->experts[expert];
    uint32_t chunks = f->chunks, m = f->m, n = 0;
    float *plain = f->plain + (size_t)expert * chunks, *prior = f->prior + (size_t)expert * chunks;
    for (uint32_t b = 0; b < chunks; b++) {
        double sum = 0;
        for (uint32_t u = 0; u < x->n; u++)
            sum += x->rows[u] < c->n_train ? (double)energy[(size_t)u * chunks + b] : 0;
        plain[b] = prior[b] = (float)log(sum / (x->n_train ? x->n_train : 1) + 1e-20);
    }
    uint32_t cold = chunks - n_hot;
    if (cold == 0 || x->n_train < 4 * m)
        return 0;
    f->z = mem_realloc(f->z, (size_t)x->n_train * m * sizeof *f->z);
    f->y = mem_realloc(f->y, (size_t)x->n_train * cold * sizeof *f->y);
    for (uint32_t u = 0; u < x->n; u++) {
        if (x->rows[u] >= c->n_train)
            continue;
        memcpy(f->z + (size_t)n * m, f->projected + (size_t)x->rows[u] * m, m * sizeof *f->z);
        for (uint32_t b = 0; b < cold; b++)
            f->y[(size_t)n * cold + b] = logf(energy[(size_t)u * chunks + n_hot + b] +
                                              1e-3f * expf(plain[n_hot + b]) + 1e-30f);
        n++;
    }
    float *beta = f->beta + ((size_t)expert * chunks + n_hot) * m;
    double lambda = 0.01 * (1 + 2000.0 / n);
    if (fit_ridge(f->z, f->y, n, m, cold, lambda, beta, f->intercept, f->residual, err) < 0)
        return -1;
    /* The mean of a lognormal is half its variance above the exponential of its log's mean. */
    for (uint32_t b = 0; b < cold; b++)
        prior[n_hot + b] = f->intercept[b] + 0.5f * f->residual[b];
    return 0;
}

/* Score one expert's held-out uses: adds to sums[cut][static, learned, oracle]. */
static uint32_t score_expert_chunks(const struct calib *c, const struct chunk_fit *f,
                                    uint32_t expert, const float *energy, uint32_t n_hot,
                                    double sums[CALIB_CUTS][3]) {
    const struct calib_expert *x = &c->experts[expert];
    uint32_t chunks = f->chunks, cold = chunks - n_hot, n = 0;
    float *score = mem_alloc(chunks * sizeof *score);
    for (uint32_t u = 0; u < x->n && cold > 0; u++) {
        if (x->rows[u] < c->n_train)
            continue;
        const float *e = energy + (size_t)u * chunks, *z = f->projected + (size_t)x->rows[u] * f->m;
        for (uint32_t b = 0; b < chunks; b++) {
            const float *beta = f->beta + ((size_t)expert * chunks + b) * f->m;
            score[b] = f->prior[(size_t)expert * chunks + b];
            for (uint32_t i = 0; i < f->m; i++)
                score[b] += beta[i] * z[i];
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
    if (f->chunks > 1024)
        return err_set(err,
                       "an expert of %u chunks: at most 1024 can be predicted; use larger chunks",
                       f->chunks);
    size_t cells = (size_t)a->n_experts * f->chunks;
    f->basis = mem_alloc((size_t)f->m * a->dim * sizeof *f->basis);
    f->projected = mem_alloc((size_t)c->n_rows * f->m * sizeof *f->projected);
    f->plain = mem_calloc(cells, sizeof *f->plain);
    f->prior = mem_calloc(cells, sizeof *f->prior);
    f->beta = mem_calloc(cells * f->m, sizeof *f->beta);
    f->intercept = mem_calloc(f->chunks, sizeof *f->intercept);
    f->residual = mem_calloc(f->chunks, sizeof *f->residual);
    if (fit_principal(&p->gram, f->m, f->basis, err) < 0)
        return -1;
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        calib_widen(p->feature, a->dim, first, n, c->gathered);
        fit_mul_nt(c->gathered, f->basis, n, f->m, a->dim, f->projected + (size_t)first * f->m);
    }
    return 0;
}

static void close_chunk_fit(struct chunk_fit *f) {
    void *all[] = {f->basis,     f->projected, f->plain, f->prior, f->beta,
                   f->intercept, f->residual,  f->z,     f->y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

int calib_fit_chunks(struct calib *c, struct corm_predict_builder *builder, struct err *err) {
    const struct arch *a = c->arch;
    struct calib_result *r = c->result;
    struct calib_scores *s = &r->scores[c->layer];
    struct chunk_fit f = {0};
    double sums[CALIB_CUTS][3] = {{0}};
    uint32_t n_scored = 0, n_hot_sum = 0;
    int status = open_chunk_fit(c, &f, err);
    for (uint32_t e = 0; e < a->n_experts && status == 0; e++) {
        size_t at = (size_t)c->layer * a->n_experts + e;
        order_neurons(c, e, &r->order[at * a->ffn_dim], &r->hot[at]);
        uint32_t n_hot = (r->hot[at] + c->opt->chunk_neurons - 1) / c->opt->chunk_neurons;
        n_hot_sum += r->hot[at];
        float *energy = chunk_energies(c, e, &r->order[at * a->ffn_dim], f.chunks, err);
        status = energy ? fit_expert_chunks(c, &f, e, energy, n_hot, err) : -1;
        if (status == 0)
            n_scored += score_expert_chunks(c, &f, e, energy, n_hot, sums);
        free(energy);
    }
    if (status == 0) {
        for (uint32_t cut = 0; cut < CALIB_CUTS && n_scored > 0; cut++) {
            s->energy_static[cut] = (float)(sums[cut][0] / n_scored);
            s->energy_learned[cut] = (float)(sums[cut][1] / n_scored);
            s->energy_oracle[cut] = (float)(sums[cut][2] / n_scored);
        }
        s->hot_fraction = (float)n_hot_sum / (float)a->n_experts / (float)a->ffn_dim;
        s->chunks_stored = n_scored > 0 && s->energy_learned[1] > s->energy_static[1] + 0.002f;
        corm_predict_add(builder, PREDICT_CHUNK_PRIOR, c->layer, 0, CODEC_F32,
                         s->chunks_stored ? f.prior : f.plain, a->n_experts, f.chunks);
        if (s->chunks_stored) {
            corm_predict_add(builder, PREDICT_CHUNK_BASIS, c->layer, 0, CODEC_BF16, f.basis, f.m,
                             a->dim);
            corm_predict_add(builder, PREDICT_CHUNK_BETA, c->layer, 0, CODEC_F16, f.beta,
                             a->n_experts * f.chunks, f.m);
        }
    }
    close_chunk_fit(&f);
    return status;
}
