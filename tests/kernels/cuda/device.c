/*
 * The CUDA backend on this machine's device: each operation against the CPU, and the same bits
 * again. Without a device that can be used it says so and fails. `make test-cuda` runs it; `-b`
 * measures instead.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "format/corm_read.h"
#include "runtime/mechanisms.h"
#include "tests/util/test_util_cuda.h"
#include "tests/util/test_util_golden.h"

static struct cuda_rig rig;

static void open_device(struct backend *b, const struct backend_limits *limits) {
    struct err err = {0};
    backend_cuda_open(b, 0, 0, limits, &err);
    assert_no_err(&err);
}

static int open_rig(void **state) {
    struct backend_limits limits = cuda_rig_limits();
    cuda_rig_open_scalar(&rig);
    open_device(&rig.device, &limits);
    rig.open = open_device;
    rig.n_variants = 3;
    *state = &rig;
    return 0;
}

static int close_rig(void **state) {
    (void)state;
    cuda_rig_close(&rig);
    return 0;
}

/* ---- models --------------------------------------------------------------------------------- */

/* Whether the backend has all that the layers of a checkpoint need. */
static bool on_cuda(const char *checkpoint) {
    char *path = golden_archive(checkpoint, NULL);
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    bool has = true;
    for (uint32_t i = 0; i < c.arch.n_kinds; i++) {
        const struct layer_kind *k = &c.arch.kinds[i];
        has &= k->mixer != MIXER_LATENT && attention_head_out(&k->att) == k->att.head_dim;
    }
    corm_close(&c);
    free(path);
    return has;
}

/* The reference's logits: with all experts in device memory, with half of them, and with the CPU
 * for the missed ones. */
static void test_golden(void **state) {
    const char *checkpoint;
    (void)state;
    for (size_t i = 0; (checkpoint = golden_checkpoint(i)); i++) {
        char *source = golden_source(checkpoint);
        const bool here = access(source, R_OK) == 0;
        free(source);
        if (!here) { /* a bundle leaves some out */
            printf("# golden logits of %s: its checkpoint is not here\n", checkpoint);
            continue;
        }
        if (!on_cuda(checkpoint)) {
            printf("# golden logits of %s: CUDA refuses it, by name\n", checkpoint);
            continue;
        }
        struct corm_mechanisms half = {.cache_share = 0.5};
        struct corm_engine_options opt = {.device = "cuda", .missed = CORM_MISSED_DEVICE};
        golden_check(checkpoint, test_dir(), opt);
        opt.measure = &half;
        golden_check(checkpoint, test_dir(), opt);
        opt.missed = CORM_MISSED_CPU;
        golden_check(checkpoint, test_dir(), opt);
        printf("# golden logits of %s: compared\n", checkpoint);
    }
}

/* ---- measuring ------------------------------------------------------------------------------ */

enum { REPEAT = 50, BENCH_DIM = 2048, BENCH_ROWS = 32768, BENCH_FFN = 1024, BENCH_EXPERTS = 8 };
/* Several times what the largest cache of a device holds. */
static const size_t BENCH_BYTES = (size_t)1 << 30;

static double seconds_of(const struct backend *b, void (*run)(const struct backend *b, void *ctx),
                         void *ctx, const float *result) {
    float sink;
    double best = 1e9;
    for (int try = 0; try < 5; try++) {
        b->ops->read(b->self, &sink, result, sizeof sink);
        uint64_t start = clock_ns();
        for (int i = 0; i < REPEAT; i++) {
            run(b, ctx);
        }
        b->ops->read(b->self, &sink, result, sizeof sink);
        double s = (double)(clock_ns() - start) * 1e-9 / REPEAT;
        best = s < best ? s : best;
    }
    return best;
}

struct bench {
    struct weight w;
    struct expert_layer layer;
    struct expert_job jobs[BENCH_EXPERTS];
    struct ffn_chunk chunks[BENCH_EXPERTS];
    uint32_t uses[BENCH_EXPERTS];
    float *x, *y;
    size_t n;
    uint32_t rows;
    /* Weights in memory, of which each pass reads the next `pass_bytes`: so many that no cache has
     * any of them when their turn comes again. */
    const uint8_t *data;
    size_t pass_bytes, next, n_passes;
};

static const uint8_t *next_weights(struct bench *m) {
    m->next = (m->next + 1) % m->n_passes;
    return m->data + m->next * m->pass_bytes;
}

static void bench_add(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    b->ops->add(b->self, m->y, m->x, m->n);
}

/* A launch that does next to nothing. */
static void bench_launch(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    b->ops->clamp(b->self, m->y, 1, 1.0f);
}

/* The host waits for one. */
static void bench_wait(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    float sink;
    b->ops->clamp(b->self, m->y, 1, 1.0f);
    b->ops->read(b->self, &sink, m->y, sizeof sink);
}

static void bench_matmul(const struct backend *b, void *ctx) {
    static const struct weight none = {0};
    struct bench *m = ctx;
    m->w.data = next_weights(m);
    b->ops->matmul(b->self, &m->w, &none, m->x, m->rows, m->y);
}

static void bench_experts(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    const uint8_t *data = next_weights(m);
    for (uint32_t i = 0; i < BENCH_EXPERTS; i++) {
        m->chunks[i].data = data + m->pass_bytes / BENCH_EXPERTS * i;
    }
    b->ops->experts(b->self, &m->layer, m->jobs, BENCH_EXPERTS, m->x, m->y);
}

/* What a pass over pass_bytes reaches, beside what would set it alone: bytes at the rate of add,
 * launches one after the other. */
static void print_rate(const struct bench *m, const char *what, double seconds, double add,
                       double launches_s) {
    const double bytes_s = (double)m->pass_bytes / add;
    printf(
        "      %-18s %5.0f GB/s (%3.0f %% of add): %6.1f us, of which bytes alone %.1f, launches "
        "alone %.1f: set by %s\n",
        what, (double)m->pass_bytes / seconds * 1e-9, 100 * bytes_s / seconds, seconds * 1e6,
        bytes_s * 1e6, launches_s * 1e6,
        seconds < 1.25 * bytes_s      ? "bytes"
        : seconds < 1.25 * launches_s ? "launches"
                                      : "neither: its arithmetic, or too few loads on the way");
}

static int measure_codec(const struct backend *b, struct bench *m, const struct codec *codec,
                         double add, double launch_s, struct err *err) {
    /* Rows begin at multiples of 16 bytes, as placed ones do; those of experts follow each other,
     * and are such multiples in every codec at this width. */
    const size_t row = align_up(codec_row_bytes(codec, BENCH_DIM), 16);
    uint8_t *data = b->ops->alloc(b->self, BENCH_BYTES, err);
    if (!data) {
        return -1;
    }
    m->data = data;
    m->w = (struct weight){codec, BENCH_ROWS, BENCH_DIM, row, data};
    m->layer =
        (struct expert_layer){.dim = BENCH_DIM, .ffn_dim = BENCH_FFN, .n_active = BENCH_EXPERTS};
    for (uint32_t i = 0; i < BENCH_EXPERTS; i++) {
        m->uses[i] = i;
        m->chunks[i] = (struct ffn_chunk){.codec = codec, .n_neurons = BENCH_FFN};
        m->jobs[i] = (struct expert_job){i, &m->chunks[i], 1, &m->uses[i], 1};
    }
    m->rows = 1;
    m->pass_bytes = row * BENCH_ROWS;
    m->n_passes = BENCH_BYTES / m->pass_bytes;
    const double one = seconds_of(b, bench_matmul, m, m->y);
    m->rows = 256;
    const double many = 2.0 * 256 * BENCH_ROWS * BENCH_DIM / seconds_of(b, bench_matmul, m, m->y);
    printf("%-5s 256 rows %.1f TFLOP/s\n", codec->name, many * 1e-12);
    print_rate(m, "one row", one, add, launch_s);
    m->pass_bytes = row * 3 * BENCH_FFN * BENCH_EXPERTS;
    m->n_passes = BENCH_BYTES / m->pass_bytes;
    /* A copy of tables and three kernels. */
    print_rate(m, "8 experts of 1024", seconds_of(b, bench_experts, m, m->y), add, 4 * launch_s);
    b->ops->free(b->self, data);
    return 0;
}

static int measure(void) {
    struct backend_limits limits = cuda_rig_limits();
    struct backend b;
    struct err err = {0};
    const struct codec *codec;
    limits.max_cols = BENCH_ROWS;
    limits.max_rows = 256;
    limits.max_ffn = BENCH_FFN;
    if (backend_cuda_open(&b, 0, 0, &limits, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    struct bench m = {.n = (size_t)64 << 20, .rows = 1};
    m.x = b.ops->alloc(b.self, m.n * sizeof(float), &err);
    m.y = b.ops->alloc(b.self, m.n * sizeof(float), &err);
    if (m.x && m.y) {
        const double add = (double)m.n * 12 / seconds_of(&b, bench_add, &m, m.y);
        const double launch_s = seconds_of(&b, bench_launch, &m, m.y);
        printf("%s: add moves %.0f GB/s\n", b.isa, add * 1e-9);
        printf("a launch takes %.1f us, one that is waited for %.1f us\n", launch_s * 1e6,
               seconds_of(&b, bench_wait, &m, m.y) * 1e6);
        for (size_t c = 0; !err.set && (codec = codec_at(c)); c++) {
            measure_codec(&b, &m, codec, add, launch_s, &err);
        }
    }
    b.ops->free(b.self, m.x);
    b.ops->free(b.self, m.y);
    backend_close(&b);
    if (err.set) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return err.set;
}

int main(int argc, char **argv) {
    struct backend_device device;
    struct err err = {0};
    if (backend_cuda_devices(0, &device, 1, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    if (argc > 1 && strcmp(argv[1], "-l") == 0) {
        return 0; /* there is a device */
    }
    if (argc > 1 && strcmp(argv[1], "-b") == 0) {
        return measure();
    }
    printf("# CUDA device 0: %s, compute capability %u.%u, %llu of %llu MiB free\n", device.name,
           device.major, device.minor, (unsigned long long)(device.free_bytes >> 20),
           (unsigned long long)(device.total_bytes >> 20));
    const struct CMUnitTest tests[] = {CUDA_TESTS, cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
