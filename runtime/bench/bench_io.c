/*
 * bench_io: how fast the archive's bytes come from its disk, by way, block size and threads.
 *
 * Owns: which ways, blocks and threads are compared, the table.
 * Leaves to others: reading and the clock (reader: the very code that the engine measures and reads
 * with).
 * Threads: reader's.
 * Blocks are handed out one by one in the file's order, over and over until the time is up. Before
 * each measurement, pages that are not written yet are written, and the kernel is asked to forget
 * the file's pages, except for direct reading, which does not use them. Where the page cache keeps
 * what was read, the file is read only once. A cache below that (of the host of a virtual machine,
 * or of the disk) is out of our reach.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/bench/bench.h"
#include "runtime/reader.h"

static int measure(const char *path, enum reader_way way, size_t block_bytes, uint32_t threads,
                   double seconds, double *bytes_per_s, struct err *err) {
    struct reader r;
    struct reader_work work = {
        .threads = threads, .limit_ns = (uint64_t)(seconds * 1e9), .again = way != READER_BUFFERED};
    struct reader_span *spans = NULL;
    int status = reader_open(&r, path, way, (struct reader_throttle){0}, err);
    if (status == 0) {
        work.n = r.file_bytes / block_bytes;
        if (work.n == 0) {
            status = err_set(err, "%s: shorter than a block of %zu bytes", path, block_bytes);
        }
    }
    if (status == 0) {
        spans = mem_calloc(work.n, sizeof *spans);
        for (size_t i = 0; i < work.n; i++) {
            spans[i] = (struct reader_span){i * block_bytes, block_bytes};
        }
        work.spans = spans;
        fdatasync(r.fd); /* pages not yet written stay, and direct reading waits for them */
        if (way != READER_DIRECT) {
            reader_uncache(&r, 0, 0);
        }
        status = reader_rate(&r, &work, bytes_per_s, err);
    }
    free(spans);
    reader_close(&r);
    return status;
}

int bench_io_rate(const char *path, bool direct, size_t block_bytes, uint32_t threads,
                  double seconds, double *bytes_per_s, struct err *err) {
    return measure(path, direct ? READER_DIRECT : READER_PASSING, block_bytes, threads, seconds,
                   bytes_per_s, err);
}

enum { N_BLOCKS = 4, N_THREADS = 3 };

/* What is measured: all ways, blocks and threads, or those that were asked for. */
struct plan {
    size_t blocks[N_BLOCKS], n_blocks;
    uint32_t threads[N_THREADS];
    size_t n_threads;
    bool ways[READER_WAYS];
    double seconds; /* of one cell */
};

static struct plan make_plan(const struct bench_options *o, bool direct_works) {
    static const enum corm_reading names[READER_WAYS] = {[READER_BUFFERED] = CORM_READ_BUFFERED,
                                                         [READER_DIRECT] = CORM_READ_DIRECT,
                                                         [READER_MAPPED] = CORM_READ_MAPPED,
                                                         [READER_PASSING] = CORM_READ_PASSING};
    bool all = o->run.reading == CORM_READ_AUTO;
    struct plan p = {.blocks = {64 << 10, 256 << 10, 1 << 20, 4 << 20},
                     .n_blocks = N_BLOCKS,
                     .threads = {1, 2, 4},
                     .n_threads = N_THREADS,
                     .seconds = all ? 0.5 : 1.0};
    for (int way = 0; way < READER_WAYS; way++) {
        p.ways[way] = all ? way != READER_DIRECT || direct_works
                          : (enum corm_reading)o->run.reading == names[way];
    }
    if (o->block_bytes > 0) {
        p.blocks[0] = (size_t)o->block_bytes;
        p.n_blocks = 1;
    }
    if (o->io_threads > 0) {
        p.threads[0] = (uint32_t)o->io_threads;
        p.n_threads = 1;
    }
    return p;
}

static void print_head(const struct plan *p, const char *path, bool direct_works) {
    char *name = text_cleaned(path);
    printf("%s: MB/s%s\n", name, direct_works ? "" : "; the file system refuses O_DIRECT");
    free(name);
    printf("%-10s %8s", "way", "block");
    for (size_t t = 0; t < p->n_threads; t++) {
        printf(" %3u thread%s", p->threads[t], p->threads[t] == 1 ? " " : "s");
    }
    printf("\n");
}

/* Measure one way with one block size. Where `j` is NULL, the figures are printed as text. */
static int measure_row(const struct plan *p, const char *path, enum reader_way way,
                       size_t block_bytes, struct run_json *j, struct err *err) {
    if (!j) {
        printf("%-10s %7zuK", reader_way_name(way), block_bytes >> 10);
    }
    int status = 0;
    for (size_t t = 0; t < p->n_threads && status == 0; t++) {
        double rate = 0;
        status = measure(path, way, block_bytes, p->threads[t], p->seconds, &rate, err);
        if (status == 0 && j) {
            run_json_open(j, NULL, '{');
            run_json_string(j, "way", reader_way_name(way));
            run_json_u64(j, "block_bytes", block_bytes);
            run_json_u64(j, "threads", p->threads[t]);
            run_json_f64(j, "bytes_per_s", rate);
            run_json_close(j, '}');
        } else if (status == 0) {
            printf(" %11.0f", rate / 1e6);
            fflush(stdout);
        }
    }
    if (!j) {
        printf("\n");
    }
    return status;
}

int bench_io(const struct cli_call *call, struct err *err) {
    const struct bench_options *o = call->values;
    const char *path = call->args.items[0];
    bool works = reader_direct_works(path);
    struct plan plan = make_plan(o, works);
    struct run_json j = {0};
    if (!works && o->run.reading == CORM_READ_DIRECT) {
        return err_set(err, "%s: the file system refuses O_DIRECT", path);
    }
    if (o->block_bytes % READER_ALIGN != 0) {
        err_set(err, "--block: expected a multiple of %d bytes", READER_ALIGN);
        return CLI_USAGE;
    }
    if (o->run.json) {
        run_json_open(&j, NULL, '{');
        run_json_string(&j, "command", "bench --io");
        run_json_string(&j, "file", path);
        run_json_open(&j, "rows", '[');
    } else {
        print_head(&plan, path, works);
    }
    int status = 0;
    for (int way = 0; way < READER_WAYS && status == 0; way++) {
        for (size_t b = 0; b < plan.n_blocks && plan.ways[way] && status == 0; b++) {
            status = measure_row(&plan, path, (enum reader_way)way, plan.blocks[b],
                                 o->run.json ? &j : NULL, err);
        }
    }
    if (o->run.json) {
        run_json_end_rows(&j, status);
    }
    return status;
}
