/*
 * convert: the command `corm-prep convert`, from a checkpoint to a finished archive.
 *
 * Owns: the order of the stages (claim, source, import, calibrate, pack, loss), what each gets from
 * the options, interruption, the summary.
 * Leaves to others: each stage (claim, source, hf, convert_calib, pack, loss), the option tables
 * and other commands (corm_prep).
 * Threads: the main thread.
 */
#ifndef PREP_CONVERT_H
#define PREP_CONVERT_H

#include <signal.h>

#include "format/cli.h"

/* Fields of the option tables of corm-prep. */
struct prep_options {
    const char *output, *prompt;
    int codec, trunk; /* words below */
    double hot;
    int chunk_neurons, threads;
    bool no_compress, raw_hot, force;
    bool calibrate;
    struct cli_list calib, calib_held;
    int calib_tok, calib_seq, generate_calib;
    double hot_share;
    bool decode, no_special;
    bool quiet, json;
    const volatile sig_atomic_t *stop; /* set by the main's signal handler */
};

/* Words of `codec` and `trunk`; the first means: as the checkpoint has it. NULL ends. */
extern const char *const convert_codec_words[], *const convert_trunk_words[];

/* The command, as format/cli.h wants it. */
int convert_run(const struct cli_call *call, struct err *err);

#endif
