#include "tests/synth/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"
#include "prep/calib/blas.h"
#include "prep/hf/hf_forward.h"
#include "runtime/model/router.h"
#include "runtime/model/state.h"
#include "tests/synth/lang.h"
#include "tests/synth/random.h"
#include "tests/synth/write.h"

enum {
    ENERGY_EXPERTS = 2,
    ENERGY_MIN_ROWS = 16,
    ENERGY_MAX_ROWS = 256,
    LOGIT_ROWS = 64,
    HISTORY = MEASURE_AHEAD + 1
};

struct meter {
    struct measure_options o;
    struct hf_model hf;
    struct lang lang;
    struct backend be;
    struct hf_forward source;
    struct layer_weights model, *layers; /* [n_layers] */
    struct forward forward;
    struct state *states;    /* one that all sequences use in turn, or [n_seqs] where generated */
    struct span *spans;      /* [rows] of one token each, where generated */
    int32_t *ids;            /* [n_seqs, seq_tok] */
    uint16_t *trace;         /* [n_seqs, seq_tok, n_layers, n_active] experts */
    float *history[HISTORY]; /* [rows, dim] residual that the FFN of layer l read, at l % HISTORY */
    float *x, *ffn_in, *normed, *router, *weights, *logits;
    float *before; /* [rows, dim] x before the layer's mixer, of models that look back; or NULL */
    float *gate, *up; /* [ENERGY_MAX_ROWS, ffn_dim] */
    int32_t *guess, *host_guess;
    double stale_hits[MEASURE_AHEAD], stale_seen[MEASURE_AHEAD];
    double quarter, half, nll;
    uint32_t n_energies, n_states;
    uint32_t rows;     /* of one pass */
    uint32_t position; /* of all rows, where generated */
    struct err err;    /* met inside the tap */
};

/* ---- what the tap sees ---- */

static uint16_t *trace_at(const struct meter *m, uint32_t row, uint32_t layer) {
    const struct arch *a = hf_arch(&m->hf);
    size_t at = m->o.generated ? (size_t)row * m->o.seq_tok + m->position : row;
    return m->trace + (at * a->n_layers + layer) * a->n_active;
}

static void count_stale(struct meter *m, uint32_t layer, uint32_t rows, const int32_t *ids) {
    const struct arch *a = hf_arch(&m->hf);
    const struct layer_weights *w = &m->layers[layer];
    const struct backend_ops *ops = m->be.ops;
    void *self = m->be.self;
    for (uint32_t ahead = 1; ahead <= MEASURE_AHEAD && ahead <= layer; ahead++) {
        const float *x = m->history[(layer - ahead) % HISTORY];
        const struct forward_site at = {a, &m->be, layer, w};
        router_input(&at, x, rows, m->normed);
        router_logits(&at, m->normed, rows, m->router);
        router_choose(&at, m->router, rows, m->guess, m->weights);
        ops->read(self, m->host_guess, m->guess, (size_t)rows * a->n_active * sizeof(int32_t));
        for (uint32_t u = 0; u < rows * a->n_active; u++) {
            const int32_t *guess = m->host_guess + u / a->n_active * a->n_active;
            for (uint32_t k = 0; k < a->n_active; k++) {
                m->stale_hits[ahead - 1] += guess[k] == ids[u];
            }
        }
        m->stale_seen[ahead - 1] += rows * a->n_active;
    }
}

struct neuron_energy {
    double fit, test;
};

static int by_fit(const void *a, const void *b) {
    const struct neuron_energy *x = a, *y = b;
    return (x->fit < y->fit) - (x->fit > y->fit);
}

/* Energies of one expert over the rows that chose it. */
static void expert_energy(struct meter *m, uint32_t layer, uint32_t expert, const float *x,
                          uint32_t rows) {
    const struct arch *a = hf_arch(&m->hf);
    const struct backend_ops *ops = m->be.ops;
    size_t ffn = a->ffn_dim, dim = a->dim;
    struct weight none = {0}, gate = hf_weight(&m->hf, SLOT_EXPERT_GATE, layer, expert),
                  up = hf_weight(&m->hf, SLOT_EXPERT_UP, layer, expert);
    ops->matmul(m->be.self, &gate, &none, x, rows, m->gate);
    ops->matmul(m->be.self, &up, &none, x, rows, m->up);
    ops->act_mul(m->be.self, &arch_kind(a, layer)->ffn, m->gate, m->up, rows * ffn);
    float *down = mem_alloc(dim * ffn * sizeof *down);
    struct neuron_energy *e = mem_calloc(ffn, sizeof *e);
    double total = 0, quarter = 0, half = 0;
    if (hf_tensor_rows(&m->hf, SLOT_EXPERT_DOWN, layer, expert, 0, a->dim, down, &m->err) < 0) {
        goto out;
    }
    for (size_t i = 0; i < ffn; i++) {
        double norm = 0;
        for (size_t d = 0; d < dim; d++) {
            norm += (double)down[d * ffn + i] * down[d * ffn + i];
        }
        for (uint32_t r = 0; r < rows; r++) {
            double c = m->gate[r * ffn + i];
            *(r % 2 ? &e[i].test : &e[i].fit) += c * c * norm;
        }
        total += e[i].test;
    }
    qsort(e, ffn, sizeof *e, by_fit);
    for (size_t i = 0; i < ffn / 2; i++) {
        half += e[i].test;
        quarter += i < ffn / 4 ? e[i].test : 0;
    }
    m->quarter += quarter / total;
    m->half += half / total;
    m->n_energies++;
out:
    free(down);
    free(e);
}

/* The first experts of the layer that rows enough chose. */
static void measure_energy(struct meter *m, uint32_t layer, uint32_t rows, const int32_t *ids) {
    const struct arch *a = hf_arch(&m->hf);
    float *x = mem_alloc_aligned((size_t)ENERGY_MAX_ROWS * a->dim * sizeof *x);
    for (uint32_t e = 0, n = 0; e < a->n_experts && n < ENERGY_EXPERTS; e++) {
        uint32_t found = 0;
        for (uint32_t u = 0; u < rows * a->n_active && found < ENERGY_MAX_ROWS; u++) {
            if (ids[u] == (int32_t)e) {
                memcpy(x + (size_t)found++ * a->dim, m->ffn_in + (size_t)(u / a->n_active) * a->dim,
                       a->dim * sizeof *x);
            }
        }
        if (found >= ENERGY_MIN_ROWS) {
            expert_energy(m, layer, e, x, found);
            n++;
        }
    }
    free(x);
}

static void on_tap(void *ctx, enum tap tap, uint32_t layer, const float *data,
                   const struct batch *b, uint32_t cols, const int32_t *ids) {
    struct meter *m = ctx;
    const uint32_t rows = b->rows;
    const struct arch *a = hf_arch(&m->hf);
    size_t bytes = (size_t)rows * cols * sizeof(float);
    if (tap == TAP_FFN_RESIDUAL) {
        memcpy(m->history[layer % HISTORY], data, bytes);
    } else if (tap == TAP_FFN_IN && !m->o.generated) {
        memcpy(m->ffn_in, data, bytes);
    } else if (tap == TAP_EXPERT_WEIGHTS) {
        count_stale(m, layer, rows, ids);
        for (uint32_t u = 0; u < rows * a->n_active; u++) {
            trace_at(m, u / a->n_active, layer)[u % a->n_active] = (uint16_t)ids[u];
        }
        if (!m->o.generated) {
            measure_energy(m, layer, rows, ids);
        }
    }
}

/* ---- running ---- */

static float *floats(struct meter *m, size_t n) {
    return m->be.ops->alloc(m->be.self, n * sizeof(float), NULL);
}

static int open_meter(struct meter *m, const char *dir, struct err *err) {
    if (write_read_lang(dir, &m->lang, err) < 0 || hf_open(&m->hf, dir, err) < 0) {
        return -1;
    }
    const struct arch *a = hf_arch(&m->hf);
    if (m->lang.vocab != a->vocab || arch_moe_layers(a) != a->n_layers) {
        return err_set(err, "%s: expected a checkpoint that synth wrote", dir);
    }
    size_t rows = m->rows, dim = a->dim, uses = rows * a->n_active;
    struct backend_limits limits = forward_limits(a, m->rows, m->o.seq_tok);
    if (backend_blas_open(&m->be, m->o.threads, &limits, err) < 0) {
        return -1;
    }
    hf_forward_open(&m->source, &m->hf, &m->be, m->rows);
    struct weight_source source = hf_forward_source(&m->source);
    m->layers = mem_calloc(a->n_layers, sizeof *m->layers);
    m->n_states = m->o.generated ? m->o.n_seqs : 1;
    m->states = mem_calloc(m->n_states, sizeof *m->states);
    m->spans = mem_calloc(m->rows, sizeof *m->spans);
    if (forward_bind_model(&m->model, a, &source, &m->be, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (forward_bind_layer(&m->layers[l], a, l, &source, &m->be, err) < 0) {
            return -1;
        }
    }
    const struct state_size size = {
        .ctx_tok = m->o.seq_tok, .batch_rows = m->o.generated ? 1 : m->o.seq_tok, .type = KV_F16};
    for (uint32_t i = 0; i < m->n_states; i++) {
        if (state_open(&m->states[i], a, &m->be, &size, NULL, err) < 0) {
            return -1;
        }
    }
    for (int i = 0; i < HISTORY; i++) {
        m->history[i] = floats(m, rows * dim);
    }
    m->x = floats(m, rows * dim);
    for (uint32_t l = 0; l < a->n_layers && !m->before; l++) {
        m->before = forward_looks_back(a, l) ? floats(m, rows * dim) : NULL;
    }
    m->ffn_in = floats(m, rows * dim);
    m->normed = floats(m, rows * dim);
    m->router = floats(m, rows * a->n_experts);
    m->weights = floats(m, uses);
    m->guess = m->be.ops->alloc(m->be.self, uses * sizeof(int32_t), NULL);
    m->host_guess = mem_calloc(uses, sizeof(int32_t));
    m->gate = floats(m, (size_t)ENERGY_MAX_ROWS * a->ffn_dim);
    m->up = floats(m, (size_t)ENERGY_MAX_ROWS * a->ffn_dim);
    m->logits = floats(m, (size_t)LOGIT_ROWS * a->vocab);
    if (forward_open(&m->forward, a, &m->be, m->rows, hf_forward_experts(&m->source),
                     (struct tap_hook){m, on_tap}, err) < 0) {
        return -1;
    }
    m->ids = mem_calloc((size_t)m->o.n_seqs * m->o.seq_tok, sizeof *m->ids);
    m->trace = mem_calloc((size_t)m->o.n_seqs * m->o.seq_tok * a->n_layers * a->n_active,
                          sizeof *m->trace);
    return 0;
}

static void close_meter(struct meter *m) {
    if (m->be.ops) {
        const struct backend_ops *ops = m->be.ops;
        float *mine[] = {m->x,          m->ffn_in,     m->normed, m->router,     m->weights,
                         m->gate,       m->up,         m->logits, m->history[0], m->history[1],
                         m->history[2], m->history[3], m->before};
        for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
            ops->free(m->be.self, mine[i]);
        }
        ops->free(m->be.self, m->guess);
        for (uint32_t i = 0; m->states && i < m->n_states; i++) {
            state_close(&m->states[i]);
        }
        forward_close(&m->forward);
        hf_forward_close(&m->source);
        backend_close(&m->be);
    }
    free(m->host_guess);
    free(m->layers);
    free(m->states);
    free(m->spans);
    free(m->ids);
    free(m->trace);
    hf_close(&m->hf);
    lang_close(&m->lang);
}

/* Log of the sum of exponentials of `n` logits. */
static double log_sum(const float *logits, uint32_t n) {
    double top = logits[0], sum = 0;
    for (uint32_t i = 1; i < n; i++) {
        top = logits[i] > top ? logits[i] : top;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp(logits[i] - top);
    }
    return top + log(sum);
}

/* All rows of all sequences through one layer after the other. */
static int run_text(struct meter *m, struct progress *progress, struct err *err) {
    const struct arch *a = hf_arch(&m->hf);
    uint32_t tok = m->o.seq_tok;
    for (uint32_t s = 0; s < m->o.n_seqs; s++) {
        struct lang_text text;
        lang_begin(&text, &m->lang, m->o.stream + s);
        for (uint32_t t = 0; t < tok; t++) {
            m->ids[s * tok + t] = (int32_t)lang_next(&text);
        }
    }
    const struct batch all = {.rows = m->rows};
    forward_embed(&m->forward, &m->model, m->ids, &all, m->x);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (m->before) {
            memcpy(m->before, m->x, (size_t)m->rows * a->dim * sizeof *m->x);
        }
        for (uint32_t s = 0; s < m->o.n_seqs; s++) {
            const struct span span = {.state = &m->states[0], .rows = tok};
            const struct batch b = {.rows = tok, .n_spans = 1, .spans = &span};
            forward_mixer(&m->forward, &m->layers[l], l, &b, m->x + (size_t)s * tok * a->dim);
        }
        if (forward_ffn(&m->forward, &m->layers[l], l, &all, m->x, m->before, err) < 0) {
            return -1;
        }
        if (m->err.set) {
            return err_set(err, "%s", m->err.msg);
        }
        progress_update(progress, l + 1);
    }
    double nll = 0;
    for (uint32_t r = 0; r < m->rows; r += LOGIT_ROWS) {
        uint32_t n = m->rows - r < LOGIT_ROWS ? m->rows - r : LOGIT_ROWS;
        forward_logits(&m->forward, &m->model, m->x + (size_t)r * a->dim, n, m->logits);
        for (uint32_t i = 0; i < n; i++) {
            if ((r + i) % tok != tok - 1) {
                const float *row = m->logits + (size_t)i * a->vocab;
                nll += log_sum(row, a->vocab) - (double)row[m->ids[r + i + 1]];
            }
        }
    }
    m->nll = nll / (m->o.n_seqs * (tok - 1));
    return 0;
}

static int32_t sample(const float *logits, uint32_t n, double p) {
    double all = log_sum(logits, n);
    uint32_t i = 0;
    for (; i + 1 < n; i++) {
        p -= exp(logits[i] - all);
        if (p < 0) {
            break;
        }
    }
    return (int32_t)i;
}

/* All sequences, one token at a time, each sampled from the row before. */
static int run_generated(struct meter *m, struct progress *progress, struct err *err) {
    const struct arch *a = hf_arch(&m->hf);
    uint32_t tok = m->o.seq_tok;
    int32_t *now = mem_calloc(m->rows, sizeof *now);
    int rc = -1;
    for (uint32_t s = 0; s < m->rows; s++) {
        struct lang_text text;
        lang_begin(&text, &m->lang, m->o.stream + s);
        now[s] = (int32_t)lang_next(&text);
    }
    for (m->position = 0; m->position < tok; m->position++) {
        for (uint32_t s = 0; s < m->rows; s++) {
            m->spans[s] = (struct span){&m->states[s], s, 1, m->position};
        }
        const struct batch b = {.rows = m->rows, .n_spans = m->rows, .spans = m->spans};
        forward_embed(&m->forward, &m->model, now, &b, m->x);
        for (uint32_t l = 0; l < a->n_layers; l++) {
            if (forward_layer(&m->forward, &m->layers[l], l, &b, m->x, err) < 0) {
                goto out;
            }
        }
        for (uint32_t s = 0; s < m->rows; s++) {
            state_advance(&m->states[s], 1);
        }
        forward_logits(&m->forward, &m->model, m->x, m->rows, m->logits);
        for (uint32_t s = 0; s < m->rows; s++) {
            m->ids[s * tok + m->position] = now[s];
            double p = random_unit(m->lang.seed + m->o.stream, (uint64_t)s * tok + m->position);
            now[s] = sample(m->logits + (size_t)s * a->vocab, a->vocab, p);
        }
        progress_update(progress, m->position + 1);
    }
    rc = 0;
out:
    free(now);
    return rc;
}

/* ---- figures of the trace ---- */

static double lru_hits(const struct meter *m) {
    const struct arch *a = hf_arch(&m->hf);
    uint32_t n = a->n_layers * a->n_experts, held = 0, capacity = n / 2;
    uint64_t *last = mem_calloc(n, sizeof *last), hits = 0, seen = 0, now = 0;
    size_t n_places = (size_t)m->o.n_seqs * m->o.seq_tok * a->n_layers;
    for (size_t i = 0; i < n_places * a->n_active; i++) {
        uint32_t layer = (uint32_t)(i / a->n_active % a->n_layers);
        uint32_t at = layer * a->n_experts + m->trace[i];
        bool full = held == capacity;
        seen += full;
        hits += full && last[at];
        if (!last[at] && full) {
            uint32_t oldest = n;
            for (uint32_t e = 0; e < n; e++) {
                if (last[e] && (oldest == n || last[e] < last[oldest])) {
                    oldest = e;
                }
            }
            last[oldest] = 0;
        } else if (!last[at]) {
            held++;
        }
        last[at] = ++now;
    }
    free(last);
    return seen ? (double)hits / (double)seen : 0;
}

static double previous_overlap(const struct meter *m) {
    const struct arch *a = hf_arch(&m->hf);
    size_t token = (size_t)a->n_layers * a->n_active;
    uint64_t hits = 0, seen = 0;
    for (uint32_t i = 0; i < m->o.n_seqs * m->o.seq_tok; i++) {
        if (i % m->o.seq_tok == 0) {
            continue;
        }
        for (size_t u = 0; u < token; u++) {
            const uint16_t *before = m->trace + (i - 1) * token + u / a->n_active * a->n_active;
            for (uint32_t k = 0; k < a->n_active; k++) {
                hits += before[k] == m->trace[i * token + u];
            }
        }
        seen += token;
    }
    return (double)hits / (double)seen;
}

static void loads(const struct meter *m, struct measure *out) {
    const struct arch *a = hf_arch(&m->hf);
    size_t n_tok = (size_t)m->o.n_seqs * m->o.seq_tok;
    double *load = mem_calloc(a->n_experts, sizeof *load);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        memset(load, 0, a->n_experts * sizeof *load);
        for (size_t u = 0; u < n_tok * a->n_active; u++) {
            size_t i = u / a->n_active;
            load[m->trace[(i * a->n_layers + l) * a->n_active + u % a->n_active]]++;
        }
        double low = load[0], high = load[0];
        for (uint32_t e = 1; e < a->n_experts; e++) {
            low = fmin(low, load[e]);
            high = fmax(high, load[e]);
        }
        double mean = (double)n_tok * a->n_active / a->n_experts;
        out->load_min += low / mean / a->n_layers;
        out->load_max += high / mean / a->n_layers;
    }
    free(load);
}

static void finish(const struct meter *m, struct measure *out) {
    *out = (struct measure){.lru_half = lru_hits(m), .previous = previous_overlap(m)};
    for (int i = 0; i < MEASURE_AHEAD; i++) {
        out->stale[i] = m->stale_seen[i] > 0 ? m->stale_hits[i] / m->stale_seen[i] : 0;
    }
    loads(m, out);
    if (m->n_energies) {
        out->energy_quarter = m->quarter / m->n_energies;
        out->energy_half = m->half / m->n_energies;
    }
    uint32_t same = 0, tok = m->o.seq_tok;
    for (uint32_t i = 0; i < m->o.n_seqs * tok; i++) {
        same += i % tok && lang_topic(&m->lang, (uint32_t)m->ids[i]) ==
                               lang_topic(&m->lang, (uint32_t)m->ids[i - 1]);
    }
    out->in_topic = (double)same / (m->o.n_seqs * (tok - 1));
    out->nll = m->nll;
    double stay = m->lang.stay + (1 - m->lang.stay) / m->lang.n_topics;
    out->text = m->lang.entropy - stay * log(stay);
    if (m->lang.n_topics > 1 && stay < 1) {
        out->text -= (1 - stay) * log((1 - stay) / (m->lang.n_topics - 1));
    }
}

int measure_run(const char *dir, const struct measure_options *o, struct measure *out,
                struct progress *progress, struct err *err) {
    struct meter m = {.o = *o, .rows = o->generated ? o->n_seqs : o->n_seqs * o->seq_tok};
    int rc = -1;
    if (o->seq_tok < 2 || o->n_seqs < 1 || (o->generated && o->n_seqs > LOGIT_ROWS)) {
        return err_set(err,
                       "expected sequences of at least 2 tokens, and at most %d generated ones",
                       LOGIT_ROWS);
    }
    if (open_meter(&m, dir, err) == 0) {
        progress_start(progress, o->generated ? "generating" : "running text",
                       o->generated ? o->seq_tok : hf_arch(&m.hf)->n_layers,
                       o->generated ? PROGRESS_TOKENS : PROGRESS_ITEMS);
        rc = o->generated ? run_generated(&m, progress, err) : run_text(&m, progress, err);
        progress_finish(progress);
    }
    if (rc == 0) {
        finish(&m, out);
    }
    close_meter(&m);
    return rc;
}
