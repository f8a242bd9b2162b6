/*
 * loss: finds how much of each layer's predicted energy decoding may leave out for a given loss of
 * quality.
 *
 * Owns: measuring a finished archive with the engine that will run it, exact and approximate side
 * by side; the search; writing the result into the archive's LOSS_DROP rows.
 * Leaves to others: what leaving out means (runtime/experts), the held-out text (corpus).
 *
 * Memory holds what the engine takes. The exact model's log-probabilities lie in a file without a
 * name beside the archive, 4 bytes x vocab for each of at most 4096 tokens.
 *
 * Threads: called by one thread.
 *
 * A level of L percent is met where two things hold on the held-out text: the perplexity is at most
 * L percent above the exact one, and the mean KL divergence of the next-token distributions is at
 * most L / 100 nats. The second is needed because on a text of limited length the perplexity alone
 * can get better by luck, and the divergence cannot.
 *
 * Layers differ in how much quality a share of their energy is worth. Each layer is measured alone
 * first, and its share is made proportional to the square root of how little leaving out costs
 * there. Then one factor for all layers is searched for.
 */
#ifndef PREP_CALIB_LOSS_H
#define PREP_CALIB_LOSS_H

#include "format/corm_predict.h"
#include "format/progress.h"
#include "prep/corpus.h"

enum { LOSS_LEVELS = 3 };
extern const float loss_levels[LOSS_LEVELS]; /* percent */

struct loss_point {
    float percent;     /* asked for */
    double perplexity; /* percent above exact, measured */
    double divergence; /* mean KL, nats */
    double skipped;    /* share of the experts' bytes that is left out */
};

/* Reserve the LOSS_DROP rows (zero = nothing is left out) and the levels, before the section is
 * finished. */
void loss_reserve(struct corm_predict_builder *b, const struct arch *a);
/* Measure the archive at `path` on `held` and fill in its LOSS_DROP rows. points [LOSS_LEVELS]. */
int loss_fit(const char *path, const struct corpus *held, uint32_t threads,
             struct progress *progress, const volatile sig_atomic_t *stop,
             struct loss_point *points, struct err *err);

#endif
