/*
 * convert: the command `corm-prep convert`, from a checkpoint to a finished archive.
 *
 * Owns: its options, the order of the stages (claim, source, import, calibrate, pack, loss), what
 * each gets from the options, what an interruption leaves, the summary.
 * Leaves to others: each stage (claim, source, hf, convert_calib, pack, loss), what all commands
 * have (prep).
 * Threads: the main thread.
 */
#ifndef PREP_CONVERT_H
#define PREP_CONVERT_H

#include <signal.h>

#include "prep/prep.h"

enum convert_rounding { CONVERT_ROUNDING_AUTO, CONVERT_NEAREST, CONVERT_GPTQ };

/* A field belongs to the option of its name. */
struct convert_options {
    struct prep_options prep;
    const char *output;
    int codec, trunk; /* 0: as the checkpoint has it */
    double hot;
    int chunk_neurons, threads;
    int compress; /* enum corm_compress */
    int rounding; /* enum convert_rounding */
    bool no_compress, raw_hot, force;
    bool calibrate;
    struct cli_list calib, calib_held;
    int calib_tok, calib_seq, generate_calib;
    double hot_share;
    bool codec_given, trunk_given;     /* no options: whether these were */
    const volatile sig_atomic_t *stop; /* no option: as prep_catch_stop returns it */
};

extern const struct cli_command convert_command;

#endif
