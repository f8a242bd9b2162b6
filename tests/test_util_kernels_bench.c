/*
 * test_util_kernels_bench: how fast each kernel reads its weights, beside what the memory can
 * deliver.
 *
 *   test_kernels -b [THREADS] [ISA]
 *
 * Weights are larger than the caches; a pass reads the experts of one token, and the next pass
 * others. Every figure is the best of many short passes: others on the machine only ever make a
 * pass slower.
 */
#include "tests/test_util_kernels.h"

#include "kernels/pool.h"

enum { DIM = 2048, FFN = 1024, EXPERTS = 32, ACTIVE = 8, PREFILL_ROWS = 96, BENCH_CTX = 32 * 1024 };
enum { MIN_PASSES = 4, SECTION_NS = 600 * 1000 * 1000 };

/* Amount per nanosecond of one pass. */
static double one_rate(double amount, void (*pass)(void *ctx), void *ctx) {
    uint64_t start = clock_ns();
    pass(ctx);
    return amount / (double)(clock_ns() - start);
}

static double best_rate(double amount, void (*pass)(void *ctx), void *ctx) {
    double best = 0;
    uint64_t end = clock_ns() + SECTION_NS;
    for (int i = 0; i < MIN_PASSES || clock_ns() < end; i++) {
        double rate = one_rate(amount, pass, ctx);
        best = rate > best ? rate : best;
    }
    return best;
}

/* ---- the memory itself ---------------------------------------------------------------------- */

struct reading {
    struct pool *pool;
    const uint64_t *data;
    size_t first_item; /* of the next pass */
    uint64_t *sums;
};
enum { ITEM_BYTES = 1 << 20, ITEMS = 512, ITEMS_A_PASS = 64 };

static void read_item(void *ctx, uint32_t item, uint32_t worker) {
    struct reading *r = ctx;
    const uint64_t *p = r->data + (r->first_item + item) * (ITEM_BYTES / 8);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= ITEM_BYTES / 8; i += 8) {
        for (size_t k = 0; k < 8; k++) {
            sum[k] ^= p[i + k];
        }
    }
    for (size_t k = 0; k < 8; k++) {
        r->sums[worker * 8] ^= sum[k];
    }
}

static void read_all(void *ctx) {
    struct reading *r = ctx;
    pool_run(r->pool, read_item, r, ITEMS_A_PASS);
    r->first_item = (r->first_item + ITEMS_A_PASS) % ITEMS;
}

/* GB/s of plain sequential reading by `threads` threads. */
static double read_bandwidth(uint32_t threads) {
    struct reading r = {.pool = pool_new(threads)};
    uint64_t *data = mem_alloc_aligned((size_t)ITEM_BYTES * ITEMS);
    memset(data, 1, (size_t)ITEM_BYTES * ITEMS);
    r.sums = mem_calloc((size_t)threads * 8, sizeof *r.sums);
    r.data = data;
    double rate = best_rate((double)ITEM_BYTES * ITEMS_A_PASS, read_all, &r);
    free(data);
    free(r.sums);
    pool_free(r.pool);
    return rate;
}

/* ---- kernels -------------------------------------------------------------------------------- */

struct run {
    struct backend be;
    struct weight w; /* [EXPERTS * 3 * FFN, DIM]: one matrix, or the experts one after the other */
    uint32_t rows, active, first; /* experts a pass uses; the next pass's first */
    float *x, *y;
    struct kv kv;
};

static void next(struct run *r) {
    r->first = (r->first + r->active) % EXPERTS;
}

/* A matrix of as many weights as the active experts have. */
static void run_matmul(void *ctx) {
    struct run *r = ctx;
    static const struct weight none = {0};
    struct weight w = r->w;
    w.rows = r->active * 3 * FFN;
    w.data = weight_row(&r->w, r->first * 3 * FFN);
    r->be.ops->matmul(r->be.self, &w, &none, r->x, r->rows, r->y);
    next(r);
}

/* The active experts, each by all rows. */
static void run_experts(void *ctx) {
    struct run *r = ctx;
    struct expert_job jobs[ACTIVE];
    struct ffn_chunk chunks[ACTIVE];
    uint32_t uses[ACTIVE][PREFILL_ROWS];
    for (uint32_t j = 0; j < r->active; j++) {
        chunks[j] = (struct ffn_chunk){weight_row(&r->w, (r->first + j) * 3 * FFN), FFN};
        for (uint32_t row = 0; row < r->rows; row++) {
            uses[j][row] = row * r->active + j;
        }
        jobs[j] = (struct expert_job){&chunks[j], 1, uses[j], r->rows};
    }
    r->be.ops->experts(r->be.self, r->w.codec, DIM, jobs, r->active, r->active, r->x, r->y);
    next(r);
}

static void run_attention(void *ctx) {
    struct run *r = ctx;
    r->be.ops->attention(r->be.self, r->x, 16, &r->kv, r->kv.capacity_tok - 1, 1, 0, 0.1f, r->y);
}

static void bench_codec(struct run *r, const struct codec *codec, double memory) {
    uint32_t rows = EXPERTS * 3 * FFN;
    size_t row_bytes = codec_row_bytes(codec, DIM);
    uint8_t *data = mem_alloc_aligned(rows * row_bytes);
    struct test_rng rng = {7};
    struct weight some = kernels_weight(&rng, codec, KIND_NORMAL, 256, DIM, 0);
    for (uint32_t i = 0; i < rows; i++) {
        memcpy(data + i * row_bytes, weight_row(&some, i % 256), row_bytes);
    }
    kernels_free_weight(&some);
    r->w = (struct weight){codec, rows, DIM, row_bytes, data};
    r->rows = 1;
    r->active = ACTIVE;
    r->first = 0;
    double bytes = (double)ACTIVE * 3 * FFN * (double)row_bytes;
    double one = best_rate(bytes, run_matmul, r), experts = best_rate(bytes, run_experts, r);
    r->rows = PREFILL_ROWS;
    r->active = 2;
    double flop = 2.0 * r->active * 3 * FFN * DIM * PREFILL_ROWS;
    double many = best_rate(flop, run_matmul, r), many_experts = best_rate(flop, run_experts, r);
    printf("  %-5s %6.1f GB/s %3.0f %%   %6.1f GB/s %3.0f %%   %7.1f %9.1f\n", codec->name, one,
           100 * one / memory, experts, 100 * experts / memory, many, many_experts);
    free(data);
}

static void bench_attention(struct run *r, double memory) {
    for (int type = KV_F16; type <= KV_F32; type++) {
        r->kv = (struct kv){(enum kv_type)type, 4, 128, BENCH_CTX, NULL, NULL};
        r->kv.k = r->be.ops->alloc(r->be.self, kv_bytes(&r->kv));
        r->kv.v = r->be.ops->alloc(r->be.self, kv_bytes(&r->kv));
        double rate = best_rate(2.0 * (double)kv_bytes(&r->kv), run_attention, r);
        printf("  attention, 16 heads over 4 KV heads of %s: %.1f GB/s, %.0f %%\n",
               type == KV_F16 ? "f16" : "f32", rate, 100 * rate / memory);
        r->be.ops->free(r->be.self, r->kv.k);
        r->be.ops->free(r->be.self, r->kv.v);
    }
}

int kernels_bench(int argc, char **argv) {
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    struct backend_limits limits = kernels_limits();
    limits.max_cols = ACTIVE * 3 * FFN;
    limits.max_ctx_tok = BENCH_CTX;
    double memory = read_bandwidth(threads);
    printf("%u threads; memory reads at %.1f GB/s\n", threads, memory);
    const char *isa;
    bool usable;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)); i++) {
        struct run r = {0};
        struct err err = {0};
        if (!usable || (argc > 2 && strcmp(argv[2], isa) != 0)) {
            continue;
        }
        if (backend_cpu_open(&r.be, isa, threads, &limits, &err) < 0) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        printf("%s: matmul, 1 row | experts, 1 row | GFLOP/s with %d rows: matmul, experts\n", isa,
               PREFILL_ROWS);
        struct test_rng rng = {8};
        size_t n_x = (size_t)PREFILL_ROWS * DIM, n_y = (size_t)PREFILL_ROWS * ACTIVE * 3 * FFN;
        r.x = mem_alloc_aligned(n_x * sizeof(float));
        r.y = mem_alloc_aligned(n_y * sizeof(float));
        kernels_fill(&rng, KIND_NORMAL, r.x, n_x);
        const struct codec *codec;
        for (size_t c = 0; (codec = codec_at(c)); c++) {
            bench_codec(&r, codec, memory);
        }
        bench_attention(&r, memory);
        free(r.x);
        free(r.y);
        backend_close(&r.be);
    }
    return 0;
}
