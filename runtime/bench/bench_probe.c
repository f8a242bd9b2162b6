/*
 * bench_probe: what a device's parts cost by themselves, for whoever reads the figures of whole
 * models: a kernel, a round trip, the way to its memory.
 *
 * Owns: what is measured, the table.
 * Leaves to others: what run.h lists; the backend, whose operations these are; how a run brings
 * experts to the device (offload). Of the engine it knows the backend, the archive and the number
 * of I/O threads.
 * Threads: the main thread, which is the forward thread; offload's I/O threads.
 *
 * Each figure is the best of some tries. The kernel is the smallest that the backend has.
 * Page-locked memory is copied as the engine copies, in uploads of one piece; what is real comes
 * from the page cache, and is decoded, or, where it is stored as it is used, copied from where it
 * was read. That it is checked costs time only where it is decoded (fill.h).
 */
#include <stdio.h>
#include <string.h>

#include "kernels/landing.h"
#include "runtime/bench/bench.h"
#include "runtime/engine.h"

enum {
    TRIES = 7,
    KERNELS = 500, /* that are queued without a wait */
    TRIPS = 100,
    SPACE_BYTES = 17 << 20, /* the most that is on its way at once, on both sides */
    RATE_BYTES = 16 << 20,
};

static const size_t pieces[] = {16 << 10, 64 << 10, 256 << 10, 1 << 20};
static const size_t guesses[] = {0, 1 << 20, 4 << 20, 16 << 20};
static const uint32_t io_threads[] = {1, 2, 3};
#define COUNT(rows) (sizeof(rows) / sizeof *(rows))

struct probe {
    const struct backend *be;
    float *word;                                           /* device memory of one */
    uint8_t *device, *host;                                /* [SPACE_BYTES] */
    double kernel_s, trip_s;                               /* seconds */
    double pinned[COUNT(pieces)], real[COUNT(io_threads)]; /* bytes/s */
    double behind[COUNT(guesses)];                         /* seconds of a demanded MiB */
};

static void touch(const struct probe *p) {
    p->be->ops->clamp(p->be->self, p->word, 1, 1.0f);
}

static void look(const struct probe *p) {
    float word;
    p->be->ops->read(p->be->self, &word, p->word, sizeof word);
}

/* The least time, in seconds, that `run` takes. */
static double least_of(struct probe *p, void (*run)(struct probe *p, size_t arg), size_t arg) {
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        look(p);
        const uint64_t start = clock_ns();
        run(p, arg);
        const double s = (double)(clock_ns() - start) * 1e-9;
        best = i == 0 || s < best ? s : best;
    }
    return best;
}

static void run_kernels(struct probe *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        touch(p);
    }
    look(p);
}

static void run_trips(struct probe *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        touch(p);
        look(p);
    }
}

/* Hand over `bytes`, from the beginning of the space on, in uploads of one piece. The last ticket;
 * 0: there was none. */
static uint64_t send(const struct probe *p, size_t bytes, size_t piece,
                     enum backend_urgency urgency) {
    uint64_t ticket = 0;
    for (size_t at = 0; at < bytes; at += piece) {
        const struct backend_copy copy = {p->device + at, p->host + at, piece, 1};
        ticket = p->be->ops->upload(p->be->self, &copy, 1, urgency, 0);
    }
    return ticket;
}

static void run_pinned(struct probe *p, size_t piece) {
    p->be->ops->uploaded(p->be->self, send(p, RATE_BYTES, piece, BACKEND_DEMANDED), true);
}

/* Time until a demanded MiB has come that was handed over behind so many bytes of guesses. */
static double demanded_behind(struct probe *p, size_t guessed) {
    const size_t mib = BACKEND_COPY_BYTES;
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const uint64_t last = send(p, guessed, mib, BACKEND_GUESSED);
        const uint64_t start = clock_ns();
        const struct backend_copy copy = {p->device + guessed, p->host + guessed, mib, 1};
        p->be->ops->uploaded(p->be->self,
                             p->be->ops->upload(p->be->self, &copy, 1, BACKEND_DEMANDED, 0), true);
        const double s = (double)(clock_ns() - start) * 1e-9;
        best = i == 0 || s < best ? s : best;
        p->be->ops->uploaded(p->be->self, last, true);
    }
    return best;
}

static int measure_real(struct probe *p, const struct corm_engine *e, struct err *err) {
    for (size_t i = 0; i < COUNT(io_threads); i++) {
        const struct prefetch_options io = {.io_threads = io_threads[i],
                                            .device = p->be,
                                            .way = READER_BUFFERED,
                                            .isa = e->opt.isa};
        if (offload_upload_rate(p->be, &e->archive, &io, &p->real[i], err) < 0) {
            return -1;
        }
    }
    return 0;
}

static int measure(struct probe *p, const struct corm_engine *e, struct err *err) {
    const struct backend_ops *op = p->be->ops;
    p->word = op->alloc(p->be->self, sizeof *p->word, err);
    p->device = p->word ? op->alloc(p->be->self, SPACE_BYTES, err) : NULL;
    p->host = p->device ? op->host_alloc(p->be->self, SPACE_BYTES, err) : NULL;
    if (!p->host) {
        return -1;
    }
    memset(p->host, 0, SPACE_BYTES); /* pages that nobody has touched are not there yet */
    p->kernel_s = least_of(p, run_kernels, KERNELS) / KERNELS;
    p->trip_s = least_of(p, run_trips, TRIPS) / TRIPS;
    for (size_t i = 0; i < COUNT(pieces); i++) {
        p->pinned[i] = (double)RATE_BYTES / least_of(p, run_pinned, pieces[i]);
    }
    for (size_t i = 0; i < COUNT(guesses); i++) {
        p->behind[i] = demanded_behind(p, guesses[i]);
    }
    return measure_real(p, e, err);
}

static void print_probe(const struct probe *p) {
    printf("%s: a kernel %.1f us, a round trip %.1f us\n", p->be->isa, p->kernel_s * 1e6,
           p->trip_s * 1e6);
    printf("page-locked memory to the device, by pieces of:");
    for (size_t i = 0; i < COUNT(pieces); i++) {
        printf("%s %zu KiB %.1f", i ? "," : "", pieces[i] >> 10, p->pinned[i] / 1e9);
    }
    printf(" GB/s\nexperts from the page cache (read, checked, decoded, copied), by I/O threads:");
    for (size_t i = 0; i < COUNT(io_threads); i++) {
        printf("%s %u %.1f", i ? "," : "", io_threads[i], p->real[i] / 1e9);
    }
    printf(" GB/s\na demanded MiB behind guesses of:");
    for (size_t i = 0; i < COUNT(guesses); i++) {
        printf("%s %zu MiB %.0f", i ? "," : "", guesses[i] >> 20, p->behind[i] * 1e6);
    }
    printf(" us\n");
}

static void probe_json(const struct probe *p) {
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "command", "bench --probe");
    run_json_string(&j, "device", p->be->isa);
    run_json_f64(&j, "kernel_s", p->kernel_s);
    run_json_f64(&j, "round_trip_s", p->trip_s);
    run_json_open(&j, "pinned", '[');
    for (size_t i = 0; i < COUNT(pieces); i++) {
        run_json_open(&j, NULL, '{');
        run_json_u64(&j, "piece_bytes", pieces[i]);
        run_json_f64(&j, "bytes_per_s", p->pinned[i]);
        run_json_close(&j, '}');
    }
    run_json_close(&j, ']');
    run_json_open(&j, "experts", '[');
    for (size_t i = 0; i < COUNT(io_threads); i++) {
        run_json_open(&j, NULL, '{');
        run_json_u64(&j, "io_threads", io_threads[i]);
        run_json_f64(&j, "bytes_per_s", p->real[i]);
        run_json_close(&j, '}');
    }
    run_json_close(&j, ']');
    run_json_open(&j, "demanded_mib", '[');
    for (size_t i = 0; i < COUNT(guesses); i++) {
        run_json_open(&j, NULL, '{');
        run_json_u64(&j, "guessed_bytes", guesses[i]);
        run_json_f64(&j, "s", p->behind[i]);
        run_json_close(&j, '}');
    }
    run_json_close(&j, ']');
    run_json_close(&j, '}');
    run_json_print(&j);
}

int bench_probe(const struct cli_call *call, struct err *err) {
    const struct bench_options *o = call->values;
    struct corm_mechanisms m = {0};
    struct run run = {.wish.measure = &m};
    struct probe p = {0};
    int status = run_open(&run, call, 1, err);
    if (status != 0) {
        run_close(&run);
        return status;
    }
    p.be = &run.engine->backend;
    if (!backend_needs_landing(p.be)) {
        err_set(err, "--probe measures a device: name one with --device");
        run_close(&run);
        return CLI_USAGE;
    }
    status = measure(&p, run.engine, err);
    if (status == 0 && o->run.json) {
        probe_json(&p);
    } else if (status == 0) {
        print_probe(&p);
    }
    p.be->ops->free(p.be->self, p.word);
    p.be->ops->free(p.be->self, p.device);
    if (p.host) {
        p.be->ops->host_free(p.be->self, p.host);
    }
    run_close(&run);
    return status;
}
