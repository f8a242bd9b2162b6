/*
 * claim: one conversion at a time for an output, and nothing left of one that was killed.
 *
 * Owns: the lock `OUTPUT.lock`, and the names of what a conversion keeps beside its output while it
 * works. Whoever holds the lock knows that nobody else works on that output, and removes such files
 * where they are: only a process that was killed can have left them.
 * Leaves to others: the files themselves; the state of a calibration (calib_state), which stays so
 * that it can be taken up.
 * Threads: the main thread.
 * The lock is one of flock: it ends with the process, however that ends. A killed process leaves
 * the lock's file, which the next process takes over.
 */
#ifndef PREP_CLAIM_H
#define PREP_CLAIM_H

#include "format/base.h"

enum claim_part {
    CLAIM_LOCK,
    CLAIM_WRITTEN,            /* the file that corm_write writes before it gets its name */
    CLAIM_UNMEASURED,         /* a whole archive whose loss levels are not measured yet */
    CLAIM_UNMEASURED_WRITTEN, /* the same while it is written */
    CLAIM_EXACT,              /* log-probabilities, while loss is measured */
    CLAIM_SPILL,              /* activations of a layer, while it is calibrated */
    CLAIM_UNPACKED,           /* a directory: the checkpoint that came in an archive */
    CLAIM_PARTS,
};

struct claim {
    char *path; /* of the lock's file */
    int fd;
    char *parts[CLAIM_PARTS]; /* paths of the others, where they are at hand without memory */
};

/* Take the lock, and remove what a killed conversion left. Where another process holds the lock,
 * this is an error that says so. Call claim_close in any case. */
int claim_open(struct claim *c, const char *output, struct err *err);
/* Whether the lock's file is there, because somebody works on that output or was killed while doing
 * so. */
bool claim_left(const char *output);
/* Give the lock back and remove its file. Accepts a struct that claim_open failed on. */
void claim_close(struct claim *c);
/* Remove all that the conversion has beside its output, and the lock's file: for an end that leaves
 * no time to close anything. Safe in a signal handler. The claim is open. */
void claim_remove_now(const struct claim *c);
/* The path of a part, which the caller frees. */
char *claim_path(const char *output, enum claim_part part);

#endif
