/*
 * straight: a synthetic model written as an archive, without a checkpoint in between.
 *
 * Owns: rows of experts as random q4 codes under scales that make them as large as plant says, an
 * order of magnitude faster than encoding; the trunk, encoded from plant's rows; the tokenizer of
 * the language; that the disk has room before anything is written.
 * Leaves to others: what the model is (shapes, plant), bytes of the archive (format/corm_write).
 * Memory: one expert's record, and a few MiB for each thread.
 * Threads: called by one; workers make rows, and no byte depends on how many they are.
 *
 * Codes are evenly distributed and rows independent, so what plant says of `alike` does not hold:
 * experts have no mean outputs but what their activation gives.
 */
#ifndef TESTS_SYNTH_STRAIGHT_H
#define TESTS_SYNTH_STRAIGHT_H

#include "format/corm_write.h"
#include "format/progress.h"
#include "tests/synth/plant.h"

struct straight_options {
    const struct codec *trunk_codec; /* of the trunk's matrices */
    uint32_t chunk_neurons;          /* as corm-prep's */
    uint32_t threads;                /* >= 1 */
    const char *origin;              /* the command, for provenance */
};

/* What the archive will take, to within a hundredth. */
uint64_t straight_bytes(const struct plant *p, const struct straight_options *o);
/* Fails, with one line that says both numbers, where `free_bytes` do not hold `bytes`. */
int straight_check_room(const char *path, uint64_t bytes, uint64_t free_bytes, struct err *err);

/* Write to `path`, which is replaced where it exists; on failure nothing is left. */
int straight_write(const struct plant *p, const char *path, const struct straight_options *o,
                   struct progress *progress, struct corm_write_stats *stats, struct err *err);

#endif
