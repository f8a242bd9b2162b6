/*
 * mutate: hostile files that get past checksums and parsers, and what the programs make of them.
 *
 * A file starts as a small valid one, is changed in its structure (a number of the metadata, a step
 * of the tokenizer, a bit of a zstd frame, a key of config.json), and has every checksum and every
 * place repaired that the change did not aim at. So the change reaches the code behind them. Then
 * the real programs read it from outside, each under limits of time and memory.
 *
 * Owns (a file each): mutate_image archives taken apart and put together, mutate_archive changes of
 * their parts, mutate_metadata of the model, mutate_sections of tokenizer and predictors,
 * mutate_checkpoint of checkpoints with mutate_json, mutate_run one program and what is judged of
 * it, mutate_case the commands that read one file, mutate the main.
 * File number `index` depends on the seed and the number alone. Threads: none; the main forks.
 */
#ifndef TESTS_FUZZ_MUTATE_H
#define TESTS_FUZZ_MUTATE_H

#include "format/arch.h"
#include "format/corm_file.h"

/* ---- numbers ---- */

/* A generator by counter: draw i of file `index` is a hash of (seed, index, i). */
struct mutate_rng {
    uint64_t key, counter;
};
struct mutate_rng mutate_rng(uint64_t seed, uint64_t index);
uint64_t mutate_u64(struct mutate_rng *r);
/* 0 .. n - 1, for n up to 2^32; 0 where n is 0. */
uint32_t mutate_below(struct mutate_rng *r, uint64_t n);
static inline bool mutate_one_in(struct mutate_rng *r, uint32_t n) {
    return mutate_below(r, n) == 0;
}
/* What a number of `bits` (at most 64) might be in place of `old`: 0, 1, the greatest, one off,
 * doubled, a power of two, one bit flipped, anything. */
uint64_t mutate_number(struct mutate_rng *r, uint64_t old, uint32_t bits);
/* The same for the bits of an f32: also infinite, NaN, the smallest, the greatest. */
uint32_t mutate_float(struct mutate_rng *r, uint32_t old);
/* Change `bytes` at `data` somewhere: bits, bytes, a run of one value, a copy of another run. */
void mutate_bytes(struct mutate_rng *r, uint8_t *data, size_t bytes);

/* Append a part of `b` to it once more. */
void mutate_again(struct buf *b, size_t at, size_t bytes);

/* ---- archives in parts ---- */

/* A section with its bytes, and with so many zeros behind them that the file holds as a hole.
 * Tensors and chunks have offsets from the start of their section. */
struct image_part {
    uint32_t type, flags;
    struct buf bytes;
    uint64_t hole;
};
struct image {
    struct image_part part[CORM_MAX_SECTIONS];
    uint32_t n;
    uint64_t incompat; /* feature bits */
};
/* Take a valid archive apart. Dies where there is none. image_free ends it. */
void image_open(struct image *m, const char *path);
void image_copy(struct image *to, const struct image *from);
void image_free(struct image *m);
/* The first part of a type, or NULL. */
struct image_part *image_part(struct image *m, uint32_t type);
/* Give a part other bytes, which it takes over. A part that is missing is added. */
void image_replace(struct image *m, uint32_t type, struct buf *bytes);
/* The index, where it is whole; false where an earlier change broke it. */
struct image_index {
    struct corm_index_header *header;
    struct corm_record *records;
    struct corm_chunk *chunks;
};
bool image_index(struct image *m, struct image_index *x);
/* Give a chunk other stored bytes, and move those behind it. */
void image_set_chunk(struct image *m, uint32_t chunk, const void *bytes, size_t n);

/* A file in memory, most of which may be hole. */
struct flat {
    uint8_t *data;
    size_t bytes;
};
/* Put together with every place as the format wants it; flat_free. False: larger than 2 GiB. */
bool image_assemble(struct image *m, struct flat *f);
void flat_write(const struct flat *f, const char *path);
void flat_free(struct flat *f);

/* ---- changes; each tells what it did in a line of `log` ---- */

/* Of one part of an archive. */
void mutate_archive(struct image *m, struct mutate_rng *r, struct buf *log);
/* Of the file as a whole: header, section table, places, length; in `f`, which may become shorter.
 * Checksums are repaired in any case. */
void mutate_places(struct flat *f, struct mutate_rng *r, struct buf *log);
/* The parts of mutate_archive: the model (all tensors and records follow where it is a valid one),
 * the metadata alone, the tokenizer, the predictors. */
void mutate_model(struct image *m, struct mutate_rng *r, struct buf *log);
void mutate_metadata(struct image *m, struct mutate_rng *r, struct buf *log);
void mutate_tokenizer(struct image *m, struct mutate_rng *r, struct buf *log);
void mutate_predictors(struct image *m, struct mutate_rng *r, struct buf *log);

/* Change the checkpoint in folder `dir`, which is a copy of a valid one, in one or more files. */
void mutate_checkpoint(const char *dir, struct mutate_rng *r, struct buf *log);

/* ---- a program on a file ---- */

struct mutate_limits {
    uint32_t cpu_s, wall_s;
    /* Of resident memory; 0: not judged. Where the program prints a memory plan, the plan's bytes
     * count in place of what `without_plan` says. */
    uint64_t beside_plan, without_plan;
};
struct mutate_outcome {
    bool ok;       /* it did what a program may do with such a file */
    int status;    /* exit status, or -1 where a signal ended it */
    char why[512]; /* what it did instead; what it said, where it is ok */
    uint64_t peak_bytes;
    struct buf out;  /* standard output, at most 64 KiB of it; buf_free */
    struct buf said; /* standard error, likewise */
};
/* Run argv[0] with NULL-ended arguments. Ok is: exit status 0, or 1 with one line of the program's
 * name on standard error that contains `named`; within the limits, and without a word of a
 * sanitizer. The kernel counts what the caller has in memory as the program's, too: it is small. */
void mutate_run(char *const *argv, const char *named, const struct mutate_limits *limits,
                struct mutate_outcome *o);

/* ---- cases ---- */

/* Options of convert: a small calibration. */
#define MUTATE_CALIBRATE "--calib tests/golden/heldout.txt --calib-held LICENSE --calib-tokens 256"

struct mutate_programs {
    const char *release, *sanitized; /* build folders; NULL: not run */
};
struct mutate_setup {
    struct mutate_programs programs;
    const char *work;  /* a folder for files; bases are below it */
    const char *found; /* where files that are findings are kept */
    uint64_t seed;
    char **archives;     /* valid ones, NULL at the end */
    char **checkpoints;  /* folders of valid ones, likewise */
    bool all_commands;   /* each command; else those that the file's number draws */
    bool keep;           /* keep every file */
    const char *without; /* a word: files whose log has it are made and not run; NULL: none */
};
enum mutate_kind { MUTATE_ARCHIVES = 1, MUTATE_CHECKPOINTS = 2 };
/* What file `index` is: two of three are archives. */
enum mutate_kind mutate_kind(uint64_t index);
/* Make file `index` and let the programs read it. `lane` names the files of a process. Returns the
 * number of findings, each of which is printed as lines of a TAP comment. */
uint32_t mutate_case(const struct mutate_setup *s, uint64_t index, uint32_t lane,
                     uint64_t *n_commands, uint64_t *n_accepted);

#endif
