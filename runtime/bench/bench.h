/*
 * bench: the command `bench` of corm-run, which measures.
 *
 * Owns: how fast a model runs here (bench), what each mechanism of the engine is worth
 * (bench_ablation), how near the cache comes to the best one (bench_trace), and how fast the disk
 * (bench_io) and the kernels (bench_kernels) are.
 * Leaves to others: options, the open model, texts and reports (run). It may look inside the
 * engine, where the other commands know runtime/corm.h only.
 * Threads: the forward thread, which is corm-run's main thread.
 */
#ifndef RUNTIME_BENCH_BENCH_H
#define RUNTIME_BENCH_BENCH_H

#include "runtime/run/run.h"

/* Tokens of a benchmark: all of --file, which has to have `n`, or `n` made up. */
int bench_tokens(const struct run *r, size_t n, struct run_ids *out, struct err *err);
/* Fill in what the options say. Returns 0 or CLI_USAGE. */
int bench_measure(const struct run_options *o, struct corm_mechanisms *m, struct err *err);
/* Bytes a second that reading `path` gives in blocks of `block_bytes` with `threads` threads, for
 * about `seconds`, directly, which leaves the page cache alone, or else through it, emptied of the
 * file before. */
int bench_io_rate(const char *path, bool direct, size_t block_bytes, uint32_t threads,
                  double seconds, double *bytes_per_s, struct err *err);

/* The command, and what its options choose in place of it. */
int bench_run(const struct cli_call *call, struct err *err);
int bench_ablation(const struct cli_call *call, struct err *err); /* bench --ablation */
int bench_io(const struct cli_call *call, struct err *err);       /* bench --io */
int bench_trace(const struct cli_call *call, struct err *err);    /* bench --trace */
int bench_kernels(const struct cli_call *call, struct err *err);  /* bench --kernels */

#endif
