#include "prep/report.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

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
    if (!w.data || w.cols != score_cols() || w.codec->id != CODEC_F32) {
        return false;
    }
    const float *row = (const float *)w.data;
    uint8_t *base = (uint8_t *)s;
    for (int i = 0; i < N_SCORES; i++) {
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
                    "layer  hot prefix  static order       learned             oracle\n");
    for (uint32_t l = 0; l < n_layers; l++) {
        if (!read_scores(p, l, &s)) {
            continue;
        }
        buf_printf(out, "%5u  %9.1f%%  ", l, 100 * (double)s.hot_fraction);
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

int report_print(const struct corm *c, bool json, struct buf *out, struct err *err) {
    struct corm_predict p;
    uint32_t chunks = corm_chunks_per_expert(c);
    if (corm_predict_open(&p, c->predictors.data, c->predictors.size_bytes, &c->arch, chunks, err) <
        0) {
        return -1;
    }
    if (!p.header) {
        return err_set(err, "holds no predictors: convert with --calibrate");
    }
    if (json) {
        json_t *root = json_pack("{s:o}", "layers", json_layers(&p, c->arch.n_layers));
        char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(5));
        buf_printf(out, "%s\n", text ? text : "{}");
        free(text);
        json_decref(root);
        return 0;
    }
    buf_printf(out,
               "Measured on held-out text when the archive was made; predictors of %zu bytes.\n",
               c->predictors.size_bytes);
    text_experts(&p, c->arch.n_layers, out);
    text_chunks(&p, c->arch.n_layers, out);
    return 0;
}
