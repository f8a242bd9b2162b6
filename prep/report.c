#include "prep/report.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "format/cli.h"
#include "prep/json_out.h"

enum { AHEADS = PREDICT_MAX_AHEAD + 1 };

/* A measured number, or `count` of them in a row: the name, and the place in struct calib_scores. A
 * row of the SCORES matrix holds them in the order of this table. */
struct score {
    const char *name;
    size_t offset;
    uint32_t count;
    bool is_flag;
};
#define SCORE(member, n)                                                                           \
    { #member, offsetof(struct calib_scores, member), n, false }
#define FLAG(member, n)                                                                            \
    { #member, offsetof(struct calib_scores, member), n, true }
static const struct score scores[] = {
    SCORE(load_min, 1),
    SCORE(load_max, 1),
    SCORE(previous_token, 1),
    SCORE(stale, AHEADS),
    SCORE(stale_wide, AHEADS),
    SCORE(corrected, AHEADS),
    SCORE(learned, AHEADS),
    SCORE(learned_wide, AHEADS),
    FLAG(stored, AHEADS),
    SCORE(hot_fraction, 1),
    SCORE(energy_static, CALIB_CUTS),
    SCORE(energy_learned, CALIB_CUTS),
    SCORE(energy_oracle, CALIB_CUTS),
    FLAG(chunks_stored, 1),
    /* Rows of older archives end here. What they lack was not measured. */
    SCORE(hot_energy, 1),
};
enum { N_SCORES = sizeof scores / sizeof *scores };

static uint32_t score_cols(void) {
    uint32_t n = 0;
    for (int i = 0; i < N_SCORES; i++) {
        n += scores[i].count;
    }
    return n;
}

void report_add_scores(struct corm_predict_builder *b, const struct calib_result *r) {
    float *row = mem_calloc(score_cols(), sizeof *row);
    for (uint32_t l = 0; l < r->n_layers; l++) {
        const uint8_t *base = (const uint8_t *)&r->scores[l];
        uint32_t n = 0;
        if (r->scores[l].load_max <= 0) {
            continue;
        }
        for (int i = 0; i < N_SCORES; i++) {
            for (uint32_t j = 0; j < scores[i].count; j++) {
                if (scores[i].is_flag) {
                    row[n++] = ((const bool *)(base + scores[i].offset))[j] ? 1 : 0;
                } else {
                    row[n++] = ((const float *)(base + scores[i].offset))[j];
                }
            }
        }
        corm_predict_add(b, PREDICT_SCORES, l, 0, CODEC_F32, row, 1, n);
    }
    free(row);
}

static bool read_scores(const struct corm_predict *p, uint32_t layer, struct calib_scores *s) {
    struct weight w = corm_predict_get(p, PREDICT_SCORES, layer, 0);
    uint32_t all = score_cols(), old = all - scores[N_SCORES - 1].count;
    if (!w.data || (w.cols != all && w.cols != old) || w.codec->id != CODEC_F32) {
        return false;
    }
    const float *row = (const float *)w.data;
    uint8_t *base = (uint8_t *)s;
    s->hot_energy = -1;
    for (int i = 0; i < (w.cols == all ? N_SCORES : N_SCORES - 1); i++) {
        for (uint32_t j = 0; j < scores[i].count; j++, row++) {
            if (scores[i].is_flag) {
                ((bool *)(base + scores[i].offset))[j] = *row != 0;
            } else {
                ((float *)(base + scores[i].offset))[j] = *row;
            }
        }
    }
    return true;
}

/* ---- text ---- */

/* A share as "0.734", or blanks where it was not measured. */
static void put(struct buf *out, float v, const char *after) {
    if (v < 0) {
        buf_printf(out, "    -%s", after);
    } else {
        buf_printf(out, "%5.3f%s", (double)v, after);
    }
}

static void put_triple(struct buf *out, const float v[AHEADS]) {
    put(out, v[1], " ");
    put(out, v[2], " ");
    put(out, v[3], "  ");
}

static void text_experts(const struct corm_predict *p, uint32_t n_layers, struct buf *out) {
    struct calib_scores s;
    buf_printf(out,
               "\nExperts: share of a token's experts among the k guessed, 1 / 2 / 3 layers ahead\n"
               "(* = the learned correction is in the archive; at layer 0: from the embedding)\n\n"
               "layer  load of fair  previous  stale gate         + mean outputs     learned"
               "              learned at 1.5 k\n");
    for (uint32_t l = 0; l < n_layers; l++) {
        if (!read_scores(p, l, &s)) {
            continue;
        }
        buf_printf(out, "%5u  %5.2f - %5.2f  ", l, (double)s.load_min, (double)s.load_max);
        put(out, s.previous_token, "     ");
        if (l == 0) {
            s.stale[1] = s.stale[0];
            s.corrected[1] = s.corrected[0];
            s.learned[1] = s.learned[0];
            s.learned_wide[1] = s.learned_wide[0];
            s.stored[1] = s.stored[0];
        }
        put_triple(out, s.stale);
        put_triple(out, s.corrected);
        for (int a = 1; a < AHEADS; a++) {
            put(out, s.learned[a], s.stored[a] ? "* " : "  ");
        }
        buf_printf(out, " ");
        put_triple(out, s.learned_wide);
        buf_printf(out, "\n");
    }
}

static void text_chunks(const struct corm_predict *p, uint32_t n_layers, struct buf *out) {
    struct calib_scores s;
    buf_printf(out, "\nNeurons: share of the cold energy in 25 / 50 / 75 %% of the cold chunks\n"
                    "(* = the learned order is in the archive)\n\n"
                    "layer  hot prefix  its energy  static order       learned             "
                    "oracle\n");
    for (uint32_t l = 0; l < n_layers; l++) {
        if (!read_scores(p, l, &s)) {
            continue;
        }
        buf_printf(out, "%5u  %9.1f%%  ", l, 100 * (double)s.hot_fraction);
        put(out, s.hot_energy, "       ");
        for (int i = 0; i < CALIB_CUTS; i++) {
            put(out, s.energy_static[i], " ");
        }
        buf_printf(out, " ");
        for (int i = 0; i < CALIB_CUTS; i++) {
            put(out, s.energy_learned[i], " ");
        }
        buf_printf(out, "%s ", s.chunks_stored ? "*" : " ");
        for (int i = 0; i < CALIB_CUTS; i++) {
            put(out, s.energy_oracle[i], " ");
        }
        buf_printf(out, "\n");
    }
}

static json_t *json_layers(const struct corm_predict *p, uint32_t n_layers) {
    json_t *layers = json_array();
    for (uint32_t l = 0; l < n_layers; l++) {
        struct calib_scores s;
        if (!read_scores(p, l, &s)) {
            continue;
        }
        json_t *row = json_object();
        json_object_set_new(row, "layer", json_integer(l));
        for (int i = 0; i < N_SCORES; i++) {
            const uint8_t *at = (const uint8_t *)&s + scores[i].offset;
            json_t *list = json_array();
            for (uint32_t j = 0; j < scores[i].count; j++) {
                json_array_append_new(list, scores[i].is_flag
                                                ? json_boolean(((const bool *)at)[j])
                                                : json_real((double)((const float *)at)[j]));
            }
            if (scores[i].count == 1) {
                json_object_set(row, scores[i].name, json_array_get(list, 0));
                json_decref(list);
            } else {
                json_object_set_new(row, scores[i].name, list);
            }
        }
        json_array_append_new(layers, row);
    }
    return layers;
}

static int open_predictors(const struct corm *c, struct corm_predict *p, struct err *err) {
    if (corm_predict_open(p, c->predictors.data, c->predictors.size_bytes, &c->arch,
                          corm_chunks_per_expert(c), err) < 0) {
        return -1;
    }
    return p->header ? 0 : err_set(err, "holds no predictors: convert with --calibrate");
}

int report_print(const struct corm *c, bool json, struct buf *out, struct err *err) {
    struct corm_predict p;
    if (open_predictors(c, &p, err) < 0) {
        return -1;
    }
    if (json) {
        json_t *root = json_pack("{s:s, s:o}", "compression", corm_compress_of(c), "layers",
                                 json_layers(&p, c->arch.n_layers));
        json_out(root, JSON_INDENT(2) | JSON_REAL_PRECISION(5), out);
        return 0;
    }
    buf_printf(out,
               "Measured on held-out text when the archive was made; predictors of %zu bytes, "
               "experts in %s, compression %s.\n",
               c->predictors.size_bytes, c->codec_names, corm_compress_of(c));
    text_experts(&p, c->arch.n_layers, out);
    text_chunks(&p, c->arch.n_layers, out);
    return 0;
}

/* ---- the short form ---- */

/* Means over the layers where a thing was measured; -1 where it was nowhere. */
struct mean {
    double sum;
    uint32_t n;
};

static void mean_add(struct mean *m, float v) {
    if (v >= 0) {
        m->sum += (double)v;
        m->n++;
    }
}

static double mean_of(const struct mean *m) {
    return m->n > 0 ? m->sum / m->n : -1;
}

/* The archive's bytes if every chunk were raw. */
static uint64_t raw_file_bytes(const struct corm *c) {
    const struct corm_section *s = c->sections;
    while (s->type != CORM_SECTION_RECORDS) {
        s++;
    }
    uint64_t end = 0;
    for (uint32_t r = 0; r < c->n_records; r++) {
        end = align_up(end, CORM_RECORD_ALIGN);
        for (uint32_t i = 0; i < c->records[r].n_chunks; i++) {
            const struct corm_chunk *k = &c->chunks[c->records[r].first_chunk + i];
            end = align_up(end, CORM_CHUNK_ALIGN) + corm_chunk_raw_bytes(c, k);
        }
    }
    return c->header.file_bytes - align_up(s->bytes, CORM_SECTION_ALIGN) +
           align_up(end, CORM_SECTION_ALIGN);
}

int report_brief(const struct corm *c, bool json, struct buf *out, struct err *err) {
    struct corm_predict p;
    struct mean learned = {0}, free_guess = {0}, hot = {0}, energy = {0};
    if (open_predictors(c, &p, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        struct calib_scores s;
        if (!read_scores(&p, l, &s)) {
            continue;
        }
        int ahead = l == 0 ? 0 : 1; /* the first layer is guessed from the embedding */
        /* Where no correction is stored, the archive guesses with mean outputs, if these help. */
        float plain = s.corrected[ahead] > s.stale[ahead] ? s.corrected[ahead] : s.stale[ahead];
        mean_add(&learned, s.stored[ahead] ? s.learned[ahead] : plain);
        mean_add(&free_guess, s.stale[ahead]);
        mean_add(&hot, s.hot_fraction);
        mean_add(&energy, s.hot_energy);
    }
    uint64_t raw = raw_file_bytes(c);
    if (json) {
        json_t *root = json_pack("{s:f, s:f, s:f, s:f, s:I, s:I, s:s}", "experts_guessed",
                                 mean_of(&learned), "experts_guessed_free", mean_of(&free_guess),
                                 "hot_neurons", mean_of(&hot), "hot_energy", mean_of(&energy),
                                 "file_bytes", (json_int_t)c->header.file_bytes, "raw_file_bytes",
                                 (json_int_t)raw, "compression", corm_compress_of(c));
        json_out(root, JSON_INDENT(2) | JSON_REAL_PRECISION(5), out);
        return 0;
    }
    char size[CLI_SIZE_TEXT], raw_size[CLI_SIZE_TEXT];
    if (learned.n > 0 && free_guess.n > 0) {
        buf_printf(
            out,
            "experts     %.1f %% are guessed a layer ahead by the trained predictor; %.1f %% "
            "by the layer's own router on the earlier state, for free\n",
            100 * mean_of(&learned), 100 * mean_of(&free_guess));
    } else {
        buf_printf(out, "experts     how many are guessed a layer ahead was not measured\n");
    }
    if (hot.n > 0) {
        buf_printf(out, "hot prefix  %.1f %% of an expert's neurons, ", 100 * mean_of(&hot));
    } else {
        buf_printf(out, "hot prefix  its size was not measured; ");
    }
    if (energy.n > 0) {
        buf_printf(out, "%.1f %% of its energy\n", 100 * mean_of(&energy));
    } else {
        buf_printf(out, "their energy was not measured by the version that made the archive\n");
    }
    buf_printf(out, "archive     %s, %.3f of %s uncompressed (compression %s)\n",
               cli_size_text(size, c->header.file_bytes),
               (double)c->header.file_bytes / (double)raw, cli_size_text(raw_size, raw),
               corm_compress_of(c));
    return 0;
}
