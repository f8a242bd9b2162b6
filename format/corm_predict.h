/*
 * corm_predict: the predictors section of an archive, on disk and as a checked view.
 *
 * Owns: the section's layout (docs/FORMAT.md, "Predictors"): a table of matrices, each named by
 * what it is for, in ascending order of (kind, layer, ahead); the check of ids, codecs, shapes and
 * bounds at open; building a section.
 * Leaves to others: fitting (prep/calib/fit), evaluating (runtime/predict).
 * Threads: immutable after open.
 *
 * Kinds and shapes (E experts, d dim, r rank, m basis, n all chunks of an expert):
 *   MEAN_OUT     [E, d]      mean output of each expert, over the tokens that used it
 *   EXPERT_IN    [r, d]      low-rank input projection A of the logit correction
 *   EXPERT_OUT   [E, r]      B of the same
 *   EXPERT_BIAS  [1, E]      c of the same
 *   RANK_P       [1, any]    probability that the expert guessed at rank i is used
 *   CHUNK_BASIS  [m, d]      input projection P shared by the experts of a layer
 *   CHUNK_PRIOR  [E, n]      log of the mean energy of each chunk
 *   CHUNK_BETA   [E * n, m]  coefficients of the log energy on P n(h); rows of hot chunks are zero
 *   CHUNK_GATES  [E * g, d]  gate rows of g neurons of each expert
 *   CHUNK_GATE_BETA [E * n, g] coefficients of the log energy on act(gates . n(h) + bias)
 *   CHUNK_GATE_BIAS [E, g]   the bias of those gates, where the layer's experts have biases
 *   LOSS_DROP    [1, levels] share of the predicted energy that may be left out, by loss level
 *   SCORES       [1, any]    what calibration measured on held-out text, for `corm-prep report`
 * EXPERT_* and RANK_P are by (source layer, ahead), the others by the layer that they are about,
 * with ahead 0. For the token embedding as source (to guess layer 0), layer = 0 and ahead = 0.
 * Vectors (and CHUNK_PRIOR, which is used as one) are f32, and finite.
 */
#ifndef FORMAT_CORM_PREDICT_H
#define FORMAT_CORM_PREDICT_H

#include "format/arch.h"

enum predict_kind {
    PREDICT_MEAN_OUT = 1,
    PREDICT_EXPERT_IN = 2,
    PREDICT_EXPERT_OUT = 3,
    PREDICT_EXPERT_BIAS = 4,
    PREDICT_RANK_P = 5,
    PREDICT_CHUNK_BASIS = 6,
    PREDICT_CHUNK_PRIOR = 7,
    PREDICT_CHUNK_BETA = 8,
    PREDICT_LOSS_DROP = 9,
    PREDICT_SCORES = 10,
    PREDICT_CHUNK_GATES = 11,
    PREDICT_CHUNK_GATE_BETA = 12,
    PREDICT_CHUNK_GATE_BIAS = 13,
    PREDICT_KINDS,
};
enum { PREDICT_MAX_AHEAD = 3, PREDICT_MAX_LEVELS = 8, PREDICT_VERSION = 1 };

struct corm_predict_header {
    uint32_t version;
    uint32_t n_entries;
    uint32_t n_levels;
    uint32_t reserved;
    float levels[PREDICT_MAX_LEVELS]; /* loss in percent of perplexity, ascending */
};
_Static_assert(sizeof(struct corm_predict_header) == 48, "predict header");

struct corm_predict_entry {
    uint32_t kind, layer, ahead, codec;
    uint32_t rows, cols;
    uint64_t offset; /* from the start of the section, a multiple of 64 */
};
_Static_assert(sizeof(struct corm_predict_entry) == 32, "predict entry");

/* A checked view; pointers are borrowed from the section. Zeroed = no predictors. */
struct corm_predict {
    const uint8_t *data;
    const struct corm_predict_header *header;
    const struct corm_predict_entry *entries;
};

/* `data` is 8-byte aligned, as a section of an archive is. `chunks_per_expert` is the archive's. An
 * empty section (size 0) gives an empty view. A message begins with "predictors: ". */
int corm_predict_open(struct corm_predict *p, const void *data, size_t size,
                      const struct arch *arch, uint32_t chunks_per_expert, struct err *err);
/* The matrix, with data NULL where the section has none of that name. */
struct weight corm_predict_get(const struct corm_predict *p, enum predict_kind kind, uint32_t layer,
                               uint32_t ahead);
/* Index of the loss level, or -1. */
int corm_predict_level(const struct corm_predict *p, float percent);

/* Build a section. Matrices are encoded from f32 [rows, cols]. */
struct corm_predict_builder {
    struct corm_predict_entry *entries;
    uint32_t n_entries;
    size_t cap;
    struct buf body;
    float levels[PREDICT_MAX_LEVELS];
    uint32_t n_levels;
};
void corm_predict_add(struct corm_predict_builder *b, enum predict_kind kind, uint32_t layer,
                      uint32_t ahead, enum codec_id codec, const float *values, uint32_t rows,
                      uint32_t cols);
/* Move the matrices of `from` behind those of `b`; `from` is empty afterwards. */
void corm_predict_merge(struct corm_predict_builder *b, struct corm_predict_builder *from);
/* The layer whose guesses first start from `layer`: the next one with experts, within reach;
 * UINT32_MAX where there is none. It decides on MEAN_OUT of `layer`. */
uint32_t corm_predict_first_target(const struct arch *a, uint32_t layer);
/* Check a builder that was read from a file, as corm_predict_open checks a section: each name must
 * occur once, and be one that is added when calibration has seen `layer`. So the builders of
 * different layers have no name in common. */
int corm_predict_check(const struct corm_predict_builder *b, const struct arch *arch,
                       uint32_t chunks_per_expert, uint32_t layer, struct err *err);
void corm_predict_drop(struct corm_predict_builder *b); /* free; accepts a zeroed one */
/* Append the section to `out`, which is empty or ends at a multiple of 64, and free the builder.
 * The order in which matrices were added does not matter; two with the same name die. */
void corm_predict_finish(struct corm_predict_builder *b, struct buf *out);

const char *corm_predict_kind_name(uint32_t kind);

#endif
