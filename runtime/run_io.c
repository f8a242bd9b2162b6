/*
 * run_io: how fast the archive's bytes come from its disk, by way, block size and threads.
 *
 * Owns: the threads that read, the clock, emptying the page cache of the file, the table.
 * Leaves to others: reading (reader: the very code that the engine's I/O threads use).
 * Threads: the main thread starts the readers and waits for them.
 *
 * Blocks are read in the file's order, handed out one by one, over and over until time is up.
 * Before each measurement the kernel is asked to forget the file's pages; a cache below it (of the
 * host of a virtual machine, or of the disk) is not in our hands.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/reader.h"
#include "runtime/run.h"

struct job {
    struct reader reader;
    size_t block_bytes;
    uint64_t n_blocks, until_ns;
    atomic_uint_fast64_t next, bytes;
    bool once; /* stop at the end of the file: a second round would come from the page cache */
};

struct worker {
    struct job *job;
    pthread_t thread;
    struct err err;
};

static void *read_blocks(void *arg) {
    struct worker *w = arg;
    struct job *j = w->job;
    void *buffer;
    if (posix_memalign(&buffer, READER_ALIGN, reader_buffer_bytes(j->block_bytes)) != 0) {
        die("out of memory for a read buffer");
    }
    const uint8_t *data;
    while (clock_ns() < j->until_ns) {
        uint64_t i = atomic_fetch_add(&j->next, 1);
        if (j->once && i >= j->n_blocks) {
            break;
        }
        uint64_t offset = i % j->n_blocks * j->block_bytes;
        if (reader_read(&j->reader, offset, j->block_bytes, buffer, &data, &w->err) < 0) {
            break;
        }
        atomic_fetch_add(&j->bytes, j->block_bytes);
    }
    free(buffer);
    return NULL;
}

static int forget_pages(const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, "%s: cannot open", path);
    }
    fdatasync(fd); /* pages not yet written stay */
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return 0;
}

int run_io_rate(const char *path, bool direct, size_t block_bytes, uint32_t threads, double seconds,
                double *bytes_per_s, struct err *err) {
    struct job job = {.block_bytes = block_bytes, .once = !direct};
    struct worker *workers = mem_calloc(threads, sizeof *workers);
    int status = forget_pages(path, err);
    if (status == 0) {
        status = reader_open(&job.reader, path, direct ? READER_DIRECT : READER_BUFFERED,
                             (struct reader_throttle){0}, err);
    }
    if (status == 0) {
        job.n_blocks = job.reader.file_bytes / block_bytes;
        if (job.n_blocks == 0) {
            status = err_set(err, "%s: shorter than a block of %zu bytes", path, block_bytes);
        }
    }
    if (status == 0) {
        uint64_t start = clock_ns();
        job.until_ns = start + (uint64_t)(seconds * 1e9);
        uint32_t n = 0;
        for (; n < threads && status == 0; n++) {
            workers[n].job = &job;
            int e = pthread_create(&workers[n].thread, NULL, read_blocks, &workers[n]);
            if (e != 0) {
                status = err_errno(err, e, "start of reading thread %u", n);
                break;
            }
        }
        for (uint32_t i = 0; i < n; i++) {
            pthread_join(workers[i].thread, NULL);
            if (workers[i].err.set && status == 0) {
                status = err_set(err, "%s", workers[i].err.msg);
            }
        }
        *bytes_per_s = (double)job.bytes / (double)(clock_ns() - start) * 1e9;
    }
    reader_close(&job.reader);
    free(workers);
    return status;
}

enum { N_BLOCKS = 4, N_THREADS = 3 };

/* What is measured: everything, or what was asked for. */
struct plan {
    size_t blocks[N_BLOCKS], n_blocks;
    uint32_t threads[N_THREADS];
    size_t n_threads;
    bool buffered, direct;
};

static struct plan make_plan(const struct run_options *o, bool direct_works) {
    struct plan p = {{64 << 10, 256 << 10, 1 << 20, 4 << 20},
                     N_BLOCKS,
                     {1, 2, 4},
                     N_THREADS,
                     o->reading != CORM_READ_DIRECT,
                     direct_works && o->reading != CORM_READ_BUFFERED};
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

int run_io(const struct cli_call *call, struct err *err) {
    const struct run_options *o = call->values;
    const char *path = call->args.items[0];
    bool works = reader_direct_works(path);
    struct plan plan = make_plan(o, works);
    struct run_json j = {0};
    if (o->reading == CORM_READ_MAPPED) {
        err_set(err, "--io compares buffered and direct reading; --reading mapped is not measured");
        return CLI_USAGE;
    }
    if (!works && o->reading == CORM_READ_DIRECT) {
        return err_set(err, "%s: the file system refuses O_DIRECT", path);
    }
    if (o->block_bytes % READER_ALIGN != 0) {
        err_set(err, "--block: expected a multiple of %d bytes", READER_ALIGN);
        return CLI_USAGE;
    }
    if (o->json) {
        run_json_open(&j, NULL, '{');
        run_json_string(&j, "command", "bench --io");
        run_json_string(&j, "file", path);
        run_json_open(&j, "rows", '[');
    } else {
        printf("%s: MB/s, %s\n", path,
               works ? "streaming would read directly"
                     : "the file system refuses O_DIRECT: streaming would read buffered");
        printf("%-10s %8s", "way", "block");
        for (size_t t = 0; t < plan.n_threads; t++) {
            printf(" %3u thread%s", plan.threads[t], plan.threads[t] == 1 ? " " : "s");
        }
        printf("\n");
    }
    int status = 0;
    for (int direct = 0; direct < 2 && status == 0; direct++) {
        if (!(direct ? plan.direct : plan.buffered)) {
            continue;
        }
        for (size_t b = 0; b < plan.n_blocks && status == 0; b++) {
            double rates[N_THREADS] = {0};
            for (size_t t = 0; t < plan.n_threads && status == 0; t++) {
                status =
                    run_io_rate(path, direct, plan.blocks[b], plan.threads[t], 1.0, &rates[t], err);
                if (status == 0 && o->json) {
                    run_json_open(&j, NULL, '{');
                    run_json_string(&j, "way",
                                    reader_way_name(direct ? READER_DIRECT : READER_BUFFERED));
                    run_json_u64(&j, "block_bytes", plan.blocks[b]);
                    run_json_u64(&j, "threads", plan.threads[t]);
                    run_json_f64(&j, "bytes_per_s", rates[t]);
                    run_json_close(&j, '}');
                }
            }
            if (status == 0 && !o->json) {
                printf("%-10s %7zuK", reader_way_name(direct ? READER_DIRECT : READER_BUFFERED),
                       plan.blocks[b] >> 10);
                for (size_t t = 0; t < plan.n_threads; t++) {
                    printf(" %11.0f", rates[t] / 1e6);
                }
                printf("\n");
            }
        }
    }
    if (o->json) {
        run_json_close(&j, ']');
        if (status == 0) {
            run_json_print(&j);
        } else {
            buf_free(&j.text);
        }
    }
    return status;
}
