#include "runtime/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/router.h"

enum { AHEADS = PREDICT_MAX_AHEAD + 1 };

static const struct weight none = {0};

uint32_t predict_width(const struct arch *a) {
    return 2 * a->n_active < a->n_experts ? 2 * a->n_active : a->n_experts;
}

/* ---- life ---- */

static int place(struct predict *p, enum predict_kind kind, uint32_t layer, uint32_t ahead,
                 struct weight *out, struct err *err) {
    const struct weight host = corm_predict_get(&p->view, kind, layer, ahead);
    return host.data ? p->be->ops->place(p->be->self, &host, out, err) : 0;
}

static int place_all(struct predict *p, struct err *err) {
    uint32_t n = p->arch->n_layers;
    struct {
        struct weight **at;
        enum predict_kind kind;
        uint32_t aheads; /* matrices a layer */
    } rows[] = {
        {&p->expert_in, PREDICT_EXPERT_IN, AHEADS},
        {&p->expert_out, PREDICT_EXPERT_OUT, AHEADS},
        {&p->expert_bias, PREDICT_EXPERT_BIAS, AHEADS},
        {&p->mean_out, PREDICT_MEAN_OUT, 1},
        {&p->chunk_basis, PREDICT_CHUNK_BASIS, 1},
        {&p->chunk_prior, PREDICT_CHUNK_PRIOR, 1},
        {&p->chunk_beta, PREDICT_CHUNK_BETA, 1},
        {&p->chunk_gates, PREDICT_CHUNK_GATES, 1},
        {&p->chunk_gate_beta, PREDICT_CHUNK_GATE_BETA, 1},
        {&p->chunk_gate_bias, PREDICT_CHUNK_GATE_BIAS, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct weight *w = mem_calloc((size_t)n * rows[i].aheads, sizeof *w);
        *rows[i].at = w;
        for (uint32_t l = 0; l < n; l++) {
            for (uint32_t a = 0; a < rows[i].aheads; a++) {
                if (place(p, rows[i].kind, l, a, &w[l * rows[i].aheads + a], err) < 0) {
                    return -1;
                }
            }
        }
    }
    return 0;
}

/* The most rows, or columns, that any matrix of a kind has. */
static uint32_t most_of(const struct predict *p, enum predict_kind kind, bool cols) {
    uint32_t most = 1;
    for (uint32_t l = 0; l < p->arch->n_layers; l++) {
        for (uint32_t a = 0; a < AHEADS; a++) {
            struct weight w = corm_predict_get(&p->view, kind, l, a);
            uint32_t n = cols ? w.cols : w.rows;
            most = w.data && n > most ? n : most;
        }
    }
    return most;
}

/* Scratch in backend memory, in floats or numbers of the same size. */
struct block {
    void **at;
    size_t floats;
};
enum { N_BLOCKS = 10 };

static void list_blocks(struct predict *p, struct block out[N_BLOCKS]) {
    const struct arch *a = p->arch;
    const size_t rows = p->max_rows;
    uint32_t rank = most_of(p, PREDICT_EXPERT_IN, false);
    uint32_t basis = most_of(p, PREDICT_CHUNK_BASIS, false);
    const struct block blocks[N_BLOCKS] = {
        {(void **)&p->parts, rows * a->n_active * a->dim},
        {(void **)&p->state, rows * a->dim},
        {(void **)&p->norm, rows * a->dim},
        {(void **)&p->low, rows * (rank > basis ? rank : basis)},
        {(void **)&p->logits, rows * a->n_experts},
        {(void **)&p->fix, rows * a->n_experts},
        {(void **)&p->scores, rows * a->n_active * p->chunks_per_expert},
        {(void **)&p->more, p->chunks_per_expert},
        {(void **)&p->gated, rows * a->n_active * most_of(p, PREDICT_CHUNK_GATE_BETA, true)},
        {(void **)&p->ids, AHEADS * rows * p->width},
    };
    memcpy(out, blocks, sizeof blocks);
}

/* All that does not take memory yet. */
static struct predict empty(const struct corm_predict *view, const struct arch *arch,
                            uint32_t chunks_per_expert, uint32_t max_rows) {
    return (struct predict){.view = *view,
                            .arch = arch,
                            .max_rows = max_rows,
                            .width = predict_width(arch),
                            .chunks_per_expert = chunks_per_expert};
}

/* Of host_ids and host_scores. */
static size_t host_ids_len(const struct predict *p) {
    return (size_t)AHEADS * p->max_rows * p->width;
}
static size_t host_scores_len(const struct predict *p) {
    return (size_t)p->max_rows * p->arch->n_active * p->chunks_per_expert;
}

size_t predict_scratch_bytes(const struct corm_predict *view, const struct arch *arch,
                             uint32_t chunks_per_expert, uint32_t max_rows) {
    struct predict p = empty(view, arch, chunks_per_expert, max_rows);
    struct block blocks[N_BLOCKS];
    size_t floats = host_ids_len(&p) + host_scores_len(&p);
    list_blocks(&p, blocks);
    for (int i = 0; i < N_BLOCKS; i++) {
        floats += blocks[i].floats;
    }
    return floats * sizeof(float);
}

int predict_open(struct predict *p, const struct corm_predict *view, const struct arch *arch,
                 struct backend *be, const struct layer_weights *layers, uint32_t chunks_per_expert,
                 uint32_t max_rows, struct err *err) {
    *p = empty(view, arch, chunks_per_expert, max_rows);
    p->be = be;
    p->layers = layers;
    if (place_all(p, err) < 0) {
        return -1;
    }
    struct block blocks[N_BLOCKS];
    list_blocks(p, blocks);
    for (int i = 0; i < N_BLOCKS; i++) {
        *blocks[i].at = be->ops->alloc(be->self, blocks[i].floats * sizeof(float), err);
        if (!*blocks[i].at) {
            return -1;
        }
    }
    p->host_ids = mem_calloc(host_ids_len(p), sizeof *p->host_ids);
    p->host_scores = mem_calloc(host_scores_len(p), sizeof *p->host_scores);
    return 0;
}

void predict_close(struct predict *p) {
    if (!p->be) {
        return;
    }
    void *device[] = {p->parts, p->state, p->norm,   p->low, p->logits,
                      p->fix,   p->gated, p->scores, p->ids, p->more};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) {
        p->be->ops->free(p->be->self, device[i]);
    }
    void *host[] = {p->host_ids,    p->host_scores, p->expert_in,       p->expert_out,
                    p->expert_bias, p->mean_out,    p->chunk_basis,     p->chunk_prior,
                    p->chunk_beta,  p->chunk_gates, p->chunk_gate_beta, p->chunk_gate_bias};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        free(host[i]);
    }
    *p = (struct predict){0};
}

/* ---- experts ---- */

bool predict_has_target(const struct predict *p, uint32_t source, uint32_t ahead) {
    return source + ahead < p->arch->n_layers && arch_is_moe(p->arch, source + ahead);
}

void predict_begin(struct predict *p, uint32_t place, uint32_t source, uint32_t ahead,
                   const float *x, const float *feature, const int32_t *host_ids,
                   const float *weights, uint32_t rows, unsigned parts) {
    const struct arch *a = p->arch;
    const struct backend_ops *op = p->be->ops;
    void *be = p->be->self;
    const uint32_t target = source + ahead;
    const struct forward_site site = {a, p->be, target, &p->layers[target]};
    const struct weight *mean = &p->mean_out[source];
    uint32_t at = source * AHEADS + ahead;

    const float *state = x;
    if (host_ids && mean->data && (parts & PREDICT_USE_MEAN)) {
        op->embed(be, mean, host_ids, rows * a->n_active, p->parts);
        /* Weights on what an expert reads are in its mean output. */
        op->combine(be, p->parts, arch_kind(a, source)->route.on_input ? NULL : weights, rows,
                    a->n_active, a->dim, p->state);
        op->add(be, p->state, x, (size_t)rows * a->dim);
        state = p->state;
    }
    router_logits(&site, router_input(&site, state, rows, p->norm), rows, p->logits);
    if (p->expert_in[at].data && (parts & PREDICT_USE_FIX)) {
        op->matmul(be, &p->expert_in[at], &none, feature, rows, p->low);
        op->matmul(be, &p->expert_out[at], &p->expert_bias[at], p->low, rows, p->fix);
        op->add(be, p->logits, p->fix, (size_t)rows * a->n_experts);
    }
    router_rank(&site, p->logits, rows, p->width, p->ids + (size_t)place * rows * p->width);
}

void predict_read(struct predict *p, uint32_t places, uint32_t rows) {
    p->be->ops->read(p->be->self, p->host_ids, p->ids,
                     (size_t)places * rows * p->width * sizeof(int32_t));
}

void predict_experts(struct predict *p, uint32_t source, uint32_t ahead, const float *x,
                     const float *feature, const int32_t *host_ids, const float *weights,
                     uint32_t rows, unsigned parts) {
    predict_begin(p, 0, source, ahead, x, feature, host_ids, weights, rows, parts);
    predict_read(p, 1, rows);
}

float predict_rank_p(const struct predict *p, uint32_t source, uint32_t ahead, uint32_t rank) {
    /* The table is read where it lies in the archive's map: f32, as checked at open. */
    struct weight w = corm_predict_get(&p->view, PREDICT_RANK_P, source, ahead);
    if (!w.data || rank >= w.cols) {
        return -1;
    }
    float v;
    memcpy(&v, w.data + rank * sizeof v, sizeof v);
    return v;
}

/* ---- chunks ---- */

bool predict_has_chunks(const struct predict *p, uint32_t layer) {
    return p->chunk_prior[layer].data != NULL;
}

/* Rows expert * n .. of a matrix that has n rows for each expert, or none. */
static struct weight rows_of_expert(const struct weight *w, uint32_t expert, uint32_t n) {
    struct weight rows = *w;
    if (w->data) {
        rows.data = weight_row(w, expert * n);
        rows.rows = n;
    }
    return rows;
}

/* Add to the scores of all uses what the gates of their experts say. */
static void add_gates(struct predict *p, uint32_t layer, const float *feature,
                      const int32_t *host_ids, uint32_t n_uses) {
    const struct backend_ops *op = p->be->ops;
    void *be = p->be->self;
    const uint32_t n = p->chunks_per_expert, g = p->chunk_gate_beta[layer].cols;
    const uint32_t k = p->arch->n_active;
    for (uint32_t u = 0; u < n_uses; u++) {
        const uint32_t expert = (uint32_t)host_ids[u];
        const struct weight gates = rows_of_expert(&p->chunk_gates[layer], expert, g);
        const struct weight bias = rows_of_expert(&p->chunk_gate_bias[layer], expert, 1);
        op->matmul(be, &gates, &bias, feature + (size_t)(u / k) * p->arch->dim, 1,
                   p->gated + (size_t)u * g);
    }
    op->act_mul(be, &arch_kind(p->arch, layer)->ffn, p->gated, NULL, (size_t)n_uses * g);
    for (uint32_t u = 0; u < n_uses; u++) {
        const struct weight beta =
            rows_of_expert(&p->chunk_gate_beta[layer], (uint32_t)host_ids[u], n);
        op->matmul(be, &beta, &none, p->gated + (size_t)u * g, 1, p->more);
        op->add(be, p->scores + (size_t)u * n, p->more, n);
    }
}

/* Products of the same input come one behind the other: a device does several at once. */
void predict_chunk_energies(struct predict *p, uint32_t layer, const float *feature,
                            const int32_t *host_ids, uint32_t rows) {
    const uint32_t n = p->chunks_per_expert, k = p->arch->n_active, n_uses = rows * k;
    const struct backend_ops *op = p->be->ops;
    void *be = p->be->self;
    if (p->chunk_basis[layer].data) {
        op->matmul(be, &p->chunk_basis[layer], &none, feature, rows, p->low);
    }
    if (!p->chunk_beta[layer].data) {
        op->embed(be, &p->chunk_prior[layer], host_ids, n_uses, p->scores);
    }
    for (uint32_t u = 0; u < n_uses && p->chunk_beta[layer].data; u++) {
        const uint32_t expert = (uint32_t)host_ids[u];
        const struct weight beta = rows_of_expert(&p->chunk_beta[layer], expert, n);
        const struct weight prior = rows_of_expert(&p->chunk_prior[layer], expert, 1);
        op->matmul(be, &beta, &prior, p->low + (size_t)(u / k) * beta.cols, 1,
                   p->scores + (size_t)u * n);
    }
    if (p->chunk_gates[layer].data) {
        add_gates(p, layer, feature, host_ids, n_uses);
    }
    op->read(be, p->host_scores, p->scores, (size_t)n_uses * n * sizeof(float));
}

void predict_chunk_prior(struct predict *p, uint32_t layer, uint32_t expert) {
    const int32_t row = (int32_t)expert;
    p->be->ops->embed(p->be->self, &p->chunk_prior[layer], &row, 1, p->scores);
    p->be->ops->read(p->be->self, p->host_scores, p->scores, p->chunks_per_expert * sizeof(float));
}

uint32_t predict_choose_skip(const float *log_energy, uint32_t n, uint32_t n_hot, float drop,
                             uint8_t *skip) {
    float most = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        most = log_energy[i] > most ? log_energy[i] : most;
    }
    double total = 0, dropped = 0;
    for (uint32_t i = 0; i < n; i++) {
        total += exp((double)(log_energy[i] - most));
    }
    memset(skip, 0, n);
    uint32_t n_skipped = 0;
    for (;;) {
        uint32_t least = UINT32_MAX;
        for (uint32_t i = n_hot; i < n; i++) {
            if (!skip[i] && (least == UINT32_MAX || log_energy[i] < log_energy[least])) {
                least = i;
            }
        }
        if (least == UINT32_MAX) {
            return n_skipped;
        }
        dropped += exp((double)(log_energy[least] - most));
        if (!(dropped <= (double)drop * total)) {
            return n_skipped;
        }
        skip[least] = 1;
        n_skipped++;
    }
}
