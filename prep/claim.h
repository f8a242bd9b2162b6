/*
 * claim: one conversion at a time for an output, and nothing left of one that was killed.
 *
 * Owns: the lock `OUTPUT.lock`, and the names of what a conversion keeps beside its output while it
 * works. Whoever holds the lock knows that nobody else works on that output, and removes such files
 * where they are: only a process that was killed can have left them.
 * Leaves to others: the files themselves; the state of a calibration (calib_state), which stays so
 * that it can be taken up.
 * Threads: the main thread.
 *
 * The lock is flock's: it ends with the process, however that ends. The lock file that a killed one
 * leaves is taken over by the next.
 */
#ifndef PREP_CLAIM_H
#define PREP_CLAIM_H

#include "format/base.h"

enum claim_part {
    CLAIM_LOCK,
    CLAIM_WRITTEN,            /* what corm_write writes */
    CLAIM_UNMEASURED,         /* a whole archive whose loss levels are not measured yet */
    CLAIM_UNMEASURED_WRITTEN, /* the same while it is written */
    CLAIM_EXACT,              /* log-probabilities, while loss is measured */
    CLAIM_SPILL,              /* activations of a layer, while it is calibrated */
    CLAIM_UNPACKED,           /* directory: the checkpoint, where it came in an archive */
    CLAIM_PARTS,
};

struct claim {
    char *path; /* of the lock */
    int fd;
};

/* Take the lock and remove what was left. Where another process holds it: an error that says so.
 * claim_close in any case. */
int claim_open(struct claim *c, const char *output, struct err *err);
/* Whether the lock's file is there: somebody works on that output, or was killed. */
bool claim_left(const char *output);
/* Give the lock back; its file goes. Accepts a struct that claim_open failed on. */
void claim_close(struct claim *c);
/* Name of a part; the caller's to free. */
char *claim_path(const char *output, enum claim_part part);

#endif
