/*
 * The CUDA backend on this machine's device: each operation against the CPU, and the same bits
 * again. Without a device that can be used it says so and fails. `make test-cuda` runs it; `-b`
 * measures instead.
 */
#include <stdio.h>

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

/* The reference's logits: with all experts in device memory, with half of them, and with the CPU
 * for the missed ones. */
static void test_golden(void **state) {
    const char *checkpoint;
    (void)state;
    for (size_t i = 0; (checkpoint = golden_checkpoint(i)); i++) {
        struct corm_mechanisms half = {.cache_share = 0.5};
        struct corm_engine_options opt = {.device = "cuda"};
        golden_check(checkpoint, test_dir(), opt);
        opt.measure = &half;
        golden_check(checkpoint, test_dir(), opt);
        opt.missed = CORM_MISSED_CPU;
        golden_check(checkpoint, test_dir(), opt);
        printf("# golden logits of %s: compared\n", checkpoint);
    }
}

/* ---- measuring ------------------------------------------------------------------------------ */

enum { REPEAT = 50, BENCH_DIM = 2048, BENCH_ROWS = 32768, BENCH_FFN = 1024 };

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
    struct expert_job jobs[8];
    struct ffn_chunk chunks[8];
    uint32_t uses[8];
    float *x, *y;
    size_t n;
    uint32_t rows;
};

static void bench_add(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    b->ops->add(b->self, m->y, m->x, m->n);
}

static void bench_matmul(const struct backend *b, void *ctx) {
    static const struct weight none = {0};
    struct bench *m = ctx;
    b->ops->matmul(b->self, &m->w, &none, m->x, m->rows, m->y);
}

static void bench_experts(const struct backend *b, void *ctx) {
    struct bench *m = ctx;
    b->ops->experts(b->self, &m->layer, m->jobs, 8, m->x, m->y);
}

static int measure(void) {
    struct backend_limits limits = cuda_rig_limits();
    struct backend b;
    struct err err = {0};
    const struct codec *codec;
    limits.max_cols = BENCH_ROWS;
    limits.max_rows = 256;
    if (backend_cuda_open(&b, 0, 0, &limits, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    struct bench m = {.n = (size_t)64 << 20, .rows = 1};
    m.x = b.ops->alloc(b.self, m.n * sizeof(float), NULL);
    m.y = b.ops->alloc(b.self, m.n * sizeof(float), NULL);
    double add = (double)m.n * 12 / seconds_of(&b, bench_add, &m, m.y) * 1e-9;
    printf("%s: add moves %.0f GB/s\n", b.isa, add);
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        size_t row = codec_row_bytes(codec, BENCH_DIM), bytes = row * BENCH_ROWS;
        uint8_t *host = mem_calloc(bytes, 1);
        m.layer = (struct expert_layer){
            .codec = codec, .dim = BENCH_DIM, .ffn_dim = BENCH_FFN, .n_active = 8};
        m.w = (struct weight){codec, BENCH_ROWS, BENCH_DIM, row, host};
        m.w = cuda_rig_place_weight(&b, &m.w);
        free(host);
        uint8_t *data = b.ops->alloc(b.self, row * 3 * BENCH_FFN * 8, NULL);
        for (uint32_t i = 0; i < 8; i++) {
            m.uses[i] = i;
            m.chunks[i] =
                (struct ffn_chunk){.data = data + row * 3 * BENCH_FFN * i, .n_neurons = BENCH_FFN};
            m.jobs[i] = (struct expert_job){i, &m.chunks[i], 1, &m.uses[i], 1};
        }
        m.rows = 1;
        double one = (double)bytes / seconds_of(&b, bench_matmul, &m, m.y) * 1e-9;
        double ffn =
            (double)row * 3 * BENCH_FFN * 8 / seconds_of(&b, bench_experts, &m, m.y) * 1e-9;
        m.rows = 256;
        double many = 2.0 * 256 * BENCH_ROWS * BENCH_DIM / seconds_of(&b, bench_matmul, &m, m.y);
        printf("%-5s one row %5.0f GB/s (%3.0f %% of add), 8 experts of 1024 neurons %5.0f GB/s "
               "(%3.0f %%), 256 rows %.1f TFLOP/s\n",
               codec->name, one, 100 * one / add, ffn, 100 * ffn / add, many * 1e-12);
        b.ops->free(b.self, data);
    }
    b.ops->free(b.self, m.x);
    b.ops->free(b.self, m.y);
    backend_close(&b);
    return 0;
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
