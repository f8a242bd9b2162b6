/*
 * rounded: experts that calibration has rounded, in files of the state directory, until pack takes
 * them.
 *
 * Owns: a file `experts-NNNN` for each layer, which has the encoded neurons of all its experts as
 * their records will, each expert with a checksum. It is written under a temporary name, synced and
 * renamed, so that a kill at any time leaves whole files. What is read is checked, as it may be
 * anybody's.
 * Leaves to others: rounding (calib_round), when a layer is done (calib_state).
 * Threads: called by one thread.
 */
#ifndef PREP_CALIB_ROUNDED_H
#define PREP_CALIB_ROUNDED_H

#include "format/arch.h"
#include "format/codec.h"

/* Where the files are and what is in them. */
struct rounded {
    const struct codec *codec; /* NULL: nothing is rounded */
    const char *dir;           /* borrowed */
    uint64_t key;              /* of checkpoint, options and text: part of every checksum */
    uint32_t n_experts, ffn_dim, dim;
};

/* Bytes of an expert: [ffn_dim, 3] rows, neurons in the archive's order, gate, up and down each. */
size_t rounded_expert_bytes(const struct rounded *r);

/* Writing a layer: begin, add each of its experts in turn, end; rounded_abort in place of the rest
 * after an error. The directory is there. */
struct rounded_writer {
    const struct rounded *r;
    char *path, *temp;
    int fd;
    uint32_t layer, n;
};
int rounded_begin(struct rounded_writer *w, const struct rounded *r, uint32_t layer,
                  struct err *err);
int rounded_add(struct rounded_writer *w, const uint8_t *neurons, struct err *err);
int rounded_end(struct rounded_writer *w, struct err *err);
void rounded_abort(struct rounded_writer *w);

/* Read one expert into `neurons` [rounded_expert_bytes]. */
int rounded_read(const struct rounded *r, uint32_t layer, uint32_t expert, uint8_t *neurons,
                 struct err *err);
/* Whether a layer's file is whole and of this run, and all its weights are numbers. Where it is
 * not, and there at all, `refused` says why. */
bool rounded_check(const struct rounded *r, uint32_t layer, struct err *refused);
/* Remove a layer's file, and what a kill left of it. */
void rounded_remove(const char *dir, uint32_t layer);

#endif
