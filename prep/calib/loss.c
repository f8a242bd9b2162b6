#include "prep/calib/loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/corm_patch.h"
#include "kernels/logits.h"
#include "prep/calib/calib.h"
#include "runtime/engine.h"

const float loss_levels[LOSS_LEVELS] = {0.5f, 1, 2};

enum {
    MAX_HELD_TOK = 4096, /* of each measurement */
    SEARCH_STEPS = 7,    /* halvings of the ratio between the bounds */
};
/* The share of its energy that is left out of a layer when it is measured alone. */
static const float PROBE = 0.1f;
/* The smallest factor that is tried. */
static const double LEAST = 1e-4;
/* The level is met with room to spare, because another text will differ. */
static const double MARGIN = 0.8;

void loss_reserve(struct corm_predict_builder *b, const struct arch *a) {
    static const float zeros[LOSS_LEVELS];
    b->n_levels = LOSS_LEVELS;
    memcpy(b->levels, loss_levels, sizeof loss_levels);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (arch_is_moe(a, l)) {
            corm_predict_add(b, PREDICT_LOSS_DROP, l, 0, CODEC_F32, zeros, 1, LOSS_LEVELS);
        }
    }
}

/* ---- measuring ---- */

struct meter {
    struct corm_engine *engine;
    struct corm_session *session;
    struct corpus text; /* what a measurement goes over: held-out text, thinned */
    /* Log-probabilities of the exact model, f32 [rows of all sequences, vocab]: in a file without a
     * name, because a large vocabulary makes gigabytes of them. */
    int exact_fd;
    char *exact_path; /* for messages */
    double nll_exact; /* mean a token */
    float *row;       /* [vocab] */
    double *p, *q;    /* [vocab] */
    const volatile sig_atomic_t *stop;
    struct progress *progress;
    uint64_t done_tok;
};

struct measured {
    double nll, divergence; /* means a token */
    double skipped;
};

/* Log-softmax of a row into `out`. */
static void log_softmax(const float *z, uint32_t n, double *out) {
    double all = logits_log_sum_exp(z, n);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (double)z[i] - all;
    }
}

/* Logits of a whole sequence. */
static int eval(struct meter *m, const float *drop, const struct corpus_seq *s,
                const float **logits, struct err *err) {
    struct corm_error error;
    m->engine->experts.opt.drop = drop;
    corm_session_truncate(m->session, 0);
    if (corm_session_eval(m->session, m->text.ids + s->first, s->n, true, logits, &error) < 0) {
        return err_set(err, "%s", error.message);
    }
    m->done_tok += s->n;
    progress_update(m->progress, m->done_tok);
    return stop_check(m->stop, err);
}

/* The number of tokens that are predicted: all of a sequence but its first. */
static uint32_t scored(const struct meter *m) {
    return m->text.n_tok - m->text.n_seqs;
}

/* Check a sum over the sequences up to `seq`. A NaN in it would go unnoticed through weights and
 * bounds. */
static int check_finite(double sum, uint32_t seq, struct err *err) {
    return isfinite(sum) ? 0
                         : err_set(err,
                                   "held-out text, sequence %u: the model's logits are not all "
                                   "finite numbers, so that loss cannot be measured",
                                   seq);
}

/* Evaluate the exact model, once. */
static int measure_exact(struct meter *m, struct err *err) {
    uint32_t vocab = m->engine->archive.arch.vocab;
    double nll = 0;
    for (uint32_t i = 0; i < m->text.n_seqs; i++) {
        const struct corpus_seq *s = &m->text.seqs[i];
        const float *logits;
        if (eval(m, NULL, s, &logits, err) < 0) {
            return -1;
        }
        for (uint32_t t = 0; t < s->n; t++) {
            log_softmax(logits + (size_t)t * vocab, vocab, m->p);
            for (uint32_t v = 0; v < vocab; v++) {
                m->row[v] = (float)m->p[v];
            }
            if (file_write_all(m->exact_fd, m->row, vocab * sizeof *m->row, m->exact_path, err) <
                0) {
                return -1;
            }
            if (t + 1 < s->n) {
                nll -= m->p[m->text.ids[s->first + t + 1]];
            }
        }
        if (check_finite(nll, i, err) < 0) {
            return -1;
        }
    }
    m->nll_exact = nll / scored(m);
    return 0;
}

static int read_exact(struct meter *m, uint32_t row, struct err *err) {
    size_t bytes = m->engine->archive.arch.vocab * sizeof *m->row;
    return file_read_at(m->exact_fd, m->row, bytes, row * (uint64_t)bytes, m->exact_path, err);
}

/* Evaluate the approximate model over the held-out sequences and compare it with the exact one. */
static int measure(struct meter *m, const float *drop, struct measured *out, struct err *err) {
    uint32_t vocab = m->engine->archive.arch.vocab;
    uint64_t used = m->engine->experts.used_bytes, skipped = m->engine->experts.skipped_bytes;
    *out = (struct measured){0};
    for (uint32_t i = 0; i < m->text.n_seqs; i++) {
        const struct corpus_seq *s = &m->text.seqs[i];
        const float *logits;
        if (eval(m, drop, s, &logits, err) < 0) {
            return -1;
        }
        for (uint32_t t = 0; t + 1 < s->n; t++) {
            if (read_exact(m, s->first + t, err) < 0) {
                return -1;
            }
            log_softmax(logits + (size_t)t * vocab, vocab, m->q);
            out->nll -= m->q[m->text.ids[s->first + t + 1]];
            for (uint32_t v = 0; v < vocab; v++) {
                out->divergence += (double)expf(m->row[v]) * ((double)m->row[v] - m->q[v]);
            }
        }
        if (check_finite(out->nll, i, err) < 0 || check_finite(out->divergence, i, err) < 0) {
            return -1;
        }
    }
    out->nll /= scored(m);
    out->divergence /= scored(m);
    double left_out = (double)(m->engine->experts.skipped_bytes - skipped);
    double kept = (double)(m->engine->experts.used_bytes - used);
    out->skipped = left_out + kept > 0 ? left_out / (left_out + kept) : 0;
    return 0;
}

/* Percent of perplexity above the exact one. */
static double rise(const struct meter *m, const struct measured *r) {
    return 100 * (exp(r->nll - m->nll_exact) - 1);
}

static bool meets(const struct meter *m, const struct measured *r, double percent) {
    return rise(m, r) <= MARGIN * percent && r->divergence <= MARGIN * percent / 100;
}

/* ---- the search ---- */

/* Weight of each layer: the square root of how little a share of its energy costs, mean 1. */
static int weigh_layers(struct meter *m, float *weight, struct err *err) {
    const struct arch *a = &m->engine->archive.arch;
    float *drop = mem_calloc(a->n_layers, sizeof *drop);
    double sum = 0;
    uint32_t n = 0;
    int status = 0;
    for (uint32_t l = 0; l < a->n_layers && status == 0; l++) {
        struct measured r;
        weight[l] = 0;
        if (!arch_is_moe(a, l)) {
            continue;
        }
        drop[l] = PROBE;
        status = measure(m, drop, &r, err);
        drop[l] = 0;
        weight[l] = (float)(1 / sqrt(r.divergence + 1e-6));
        sum += (double)weight[l];
        n++;
    }
    for (uint32_t l = 0; l < a->n_layers && n > 0; l++) {
        weight[l] *= (float)(n / sum);
    }
    free(drop);
    return status;
}

static void scale(const float *weight, uint32_t n, double factor, float *drop) {
    for (uint32_t l = 0; l < n; l++) {
        double d = factor * (double)weight[l];
        drop[l] = (float)(d < 0.9 ? d : 0.9);
    }
}

/* Find the greatest factor that meets the level, between `low` (which meets it, or is 0) and
 * `high`. Each step halves the ratio between the bounds, because the loss grows about as the factor
 * does, and small levels allow a thousandth of what large ones do. */
static int search_level(struct meter *m, const float *weight, struct loss_point *point, double low,
                        double high, float *best, struct err *err) {
    uint32_t n = m->engine->archive.arch.n_layers;
    float *drop = mem_calloc(n, sizeof *drop);
    int status = 0;
    scale(weight, n, low, best);
    low = low > 0 ? low : LEAST;
    for (int step = 0; step < SEARCH_STEPS && status == 0; step++) {
        struct measured r;
        double middle = sqrt(low * high);
        scale(weight, n, middle, drop);
        status = measure(m, drop, &r, err);
        if (status < 0) {
            break;
        }
        if (meets(m, &r, (double)point->percent)) {
            low = middle;
            memcpy(best, drop, n * sizeof *best);
            point->perplexity = rise(m, &r);
            point->divergence = r.divergence;
            point->skipped = r.skipped;
        } else {
            high = middle;
        }
    }
    free(drop);
    return status;
}

/* Put the shares of each level into a copy of the section, and that into the file. */
static int store(const char *path, const struct corm *c, float *const drops[LOSS_LEVELS],
                 struct err *err) {
    size_t bytes = c->predictors.size_bytes;
    uint8_t *section = mem_alloc(bytes);
    memcpy(section, c->predictors.data, bytes);
    struct corm_predict view;
    if (corm_predict_open(&view, c->predictors.data, bytes, &c->arch, corm_chunks_per_expert(c),
                          err) < 0) {
        free(section);
        return -1;
    }
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        struct weight w = corm_predict_get(&view, PREDICT_LOSS_DROP, l, 0);
        for (int i = 0; i < LOSS_LEVELS && w.data; i++) {
            memcpy(section + (w.data - c->predictors.data) + (size_t)i * sizeof(float),
                   &drops[i][l], sizeof(float));
        }
    }
    int status = corm_patch_section(path, CORM_SECTION_PREDICTORS, section, bytes, err);
    free(section);
    return status;
}

static int open_meter(struct meter *m, const char *path, const struct corpus *held,
                      uint32_t threads, struct err *err) {
    struct corm_error error;
    uint32_t longest = 1;
    corpus_copy(&m->text, held);
    corpus_thin(&m->text, MAX_HELD_TOK);
    for (uint32_t i = 0; i < m->text.n_seqs; i++) {
        longest = m->text.seqs[i].n > longest ? m->text.seqs[i].n : longest;
    }
    struct corm_engine_options opt = {
        .threads = threads, .ctx_tok = longest, .batch_rows = longest, .loss_in_batches = true};
    if (corm_engine_open(&m->engine, path, &opt, &error) < 0 ||
        corm_session_open(&m->session, m->engine, &error) < 0) {
        return err_set(err, "%s", error.message);
    }
    m->engine->kv_advice = CALIB_KV_ADVICE;
    uint32_t vocab = m->engine->archive.arch.vocab;
    m->row = mem_alloc(vocab * sizeof *m->row);
    m->p = mem_alloc(vocab * sizeof *m->p);
    m->q = mem_alloc(vocab * sizeof *m->q);
    m->exact_path = mem_printf("%s.exact", path);
    m->exact_fd = file_scratch(m->exact_path, err);
    return m->exact_fd < 0 ? -1 : 0;
}

static void close_meter(struct meter *m) {
    if (m->exact_fd >= 0) {
        close(m->exact_fd);
    }
    free(m->exact_path);
    free(m->row);
    free(m->p);
    free(m->q);
    corpus_free(&m->text);
    corm_session_close(m->session);
    corm_engine_close(m->engine);
}

int loss_fit(const char *path, const struct corpus *held, uint32_t threads,
             struct progress *progress, const volatile sig_atomic_t *stop,
             struct loss_point *points, struct err *err) {
    struct meter m = {.stop = stop, .progress = progress, .exact_fd = -1};
    float *drops[LOSS_LEVELS] = {NULL}, *weight = NULL;
    int status = open_meter(&m, path, held, threads, err);
    if (status < 0) {
        goto out;
    }
    uint32_t n = m.engine->archive.arch.n_layers;
    uint32_t runs = 1 + arch_moe_layers(&m.engine->archive.arch) + LOSS_LEVELS * SEARCH_STEPS;
    weight = mem_calloc(n, sizeof *weight);
    progress_start(progress, "measuring loss", (uint64_t)runs * m.text.n_tok, PROGRESS_TOKENS);
    status = measure_exact(&m, err);
    if (status == 0) {
        status = weigh_layers(&m, weight, err);
    }
    double low = 0;
    for (int i = 0; i < LOSS_LEVELS && status == 0; i++) {
        drops[i] = mem_calloc(n, sizeof *drops[i]);
        points[i] = (struct loss_point){.percent = loss_levels[i]};
        if (i > 0) {
            points[i] = points[i - 1];
            points[i].percent = loss_levels[i];
        }
        status = search_level(&m, weight, &points[i], low, low > 0 ? 8 * low : 0.5, drops[i], err);
        for (uint32_t l = 0; l < n && status == 0; l++) {
            if (weight[l] > 0 && drops[i][l] < 0.9f) {
                low = (double)(drops[i][l] / weight[l]);
            }
        }
    }
    progress_finish(progress);
    if (status == 0) {
        status = store(path, &m.engine->archive, drops, err);
    }
out:
    for (int i = 0; i < LOSS_LEVELS; i++) {
        free(drops[i]);
    }
    free(weight);
    close_meter(&m);
    return status;
}
