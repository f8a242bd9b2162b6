/*
 * bench: the command `bench` of corm-run, which measures.
 *
 * Owns: the command's options, how fast a model runs here (bench), what each mechanism of the
 * engine is worth (bench_ablation), how near the cache comes to the best one (bench_trace), where a
 * token's time goes (bench_token), what a device's parts cost (bench_probe), and how fast the disk
 * (bench_io) and the kernels (bench_kernels, bench_shapes) are.
 * Leaves to others: the options that all commands have, the open model, texts and reports (run). It
 * may look inside the engine, where the other commands know runtime/corm.h only.
 * Threads: the forward thread, which is corm-run's main thread.
 */
#ifndef RUNTIME_BENCH_BENCH_H
#define RUNTIME_BENCH_BENCH_H

#include "kernels/backend.h"
#include "runtime/mechanisms.h"
#include "runtime/run/run.h"

/* A field belongs to the option of its name. */
struct bench_options {
    struct run_options run;
    /* work */
    int prompt_tokens, decode_tokens, reps;
    double minutes;
    const char *file;
    /* measurement */
    bool ablation, io, trace, token, kernels, probe;
    const char *other, *latency;
    uint64_t throttle; /* bytes/s */
    uint64_t block_bytes;
    double share, stall; /* percent */
    int io_threads;
};

/* The tokens of a benchmark: those of --file, at least `n` and some rounds of them where it has so
 * many, or `n` made-up ones. */
int bench_tokens(const struct run *r, size_t n, struct run_ids *out, struct err *err);
/* Fill `m` in as the options say. Returns 0 or CLI_USAGE. */
int bench_measure(const struct bench_options *o, struct corm_mechanisms *m, struct err *err);
/* Measure for about `seconds` how many bytes a second reading `path` gives in blocks of
 * `block_bytes` with `threads` threads. With `direct` it is read directly, which leaves the page
 * cache alone; else through the page cache, from which the file is dropped before. */
int bench_io_rate(const char *path, bool direct, size_t block_bytes, uint32_t threads,
                  double seconds, double *bytes_per_s, struct err *err);

/* *memory becomes the GB/s of plain reading of 1 GiB by so many threads; *join_ns (may be NULL) the
 * time of a fork-join in which all take part. */
int bench_read_rate(uint32_t threads, double *memory, double *join_ns, struct err *err);

/* What a loop of the CPU backend over weights of a codec made of its shapes. */
enum { BENCH_MOST_SHAPES = 8 };
struct bench_loop {
    enum backend_loop loop;
    const struct codec *codec;
    uint32_t n;           /* shapes */
    uint32_t shape, best; /* the one that it uses by itself; the one of the greatest rate */
    bool chosen;          /* whether it had measured enough for a verdict; */
    uint32_t calls;       /* after so many calls, or given up after */
    double rates[BENCH_MOST_SHAPES];
};
/* Call `pass`, which is one call of the loop and works on `amount`, until the loop has chosen, or
 * for some seconds; then set all shapes in turn: *out has the greatest amount per nanosecond of
 * each. The loop keeps the shape that it used by itself. */
void bench_loop(struct backend *be, enum backend_loop loop, const struct codec *codec,
                double amount, void (*pass)(void *ctx), void *ctx, struct bench_loop *out);
/* Print a line, or add a member to `json`, which may be NULL. */
void bench_loop_report(const struct bench_loop *l, struct run_json *json);

/* The command, and what its options choose in place of it. */
extern const struct cli_command bench_command;
int bench_ablation(const struct cli_call *call, struct err *err); /* bench --ablation */
int bench_io(const struct cli_call *call, struct err *err);       /* bench --io */
int bench_trace(const struct cli_call *call, struct err *err);    /* bench --trace */
int bench_token(const struct cli_call *call, struct err *err);    /* bench --token */
int bench_kernels(const struct cli_call *call, struct err *err);  /* bench --kernels */
int bench_probe(const struct cli_call *call, struct err *err);    /* bench --probe */

#endif
