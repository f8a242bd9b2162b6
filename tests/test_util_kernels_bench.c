/*
 * test_util_kernels_bench: how fast each kernel reads its weights, beside what the memory can deliver.
 *
 *   test_kernels -b [THREADS] [ISA]
 *
 * Weights are far larger than the caches and each pass reads all of them, as decoding a token does. Every
 * figure is the best of several passes: others on the machine only ever make a pass slower.
 */
#include "tests/test_util_kernels.h"

#include "kernels/pool.h"

enum { DIM = 2048, FFN = 1024, EXPERTS = 32, PASSES = 9, PREFILL_ROWS = 96 };

static double best_rate(double amount, void (*pass)(void *ctx), void *ctx) {
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        uint64_t start = clock_ns();
        pass(ctx);
        double rate = amount / (double)(clock_ns() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

/* ---- the memory itself ---------------------------------------------------------------------- */

struct reading {
    struct pool *pool;
    const uint64_t *data;
    size_t words_an_item;
    uint32_t n_items;
    uint64_t *sums;
};

static void read_item(void *ctx, uint32_t item, uint32_t worker) {
    struct reading *r = ctx;
    const uint64_t *p = r->data + item * r->words_an_item;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= r->words_an_item; i += 8) {
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
    pool_run(r->pool, read_item, r, r->n_items);
}

/* GB/s of plain sequential reading by `threads` threads. */
static double read_bandwidth(uint32_t threads) {
    enum { ITEM_BYTES = 1 << 20, ITEMS = 1024 };
    struct reading r = {.pool = pool_new(threads), .words_an_item = ITEM_BYTES / 8, .n_items = ITEMS};
    uint64_t *data = mem_alloc_aligned((size_t)ITEM_BYTES * ITEMS);
    memset(data, 1, (size_t)ITEM_BYTES * ITEMS);
    r.data = data;
    r.sums = mem_calloc((size_t)threads * 8, sizeof *r.sums);
    double rate = best_rate((double)ITEM_BYTES * ITEMS, read_all, &r);
    free(data);
    free(r.sums);
    pool_free(r.pool);
    return rate;
}

/* ---- kernels -------------------------------------------------------------------------------- */

struct run {
    struct backend be;
    struct weight w; /* [EXPERTS * 3 * FFN, DIM]: one matrix, or the experts one after the other */
    uint32_t rows;
    float *x, *y;
    struct kv kv;
};

static void run_matmul(void *ctx) {
    struct run *r = ctx;
    static const struct weight none = {0};
    r->be.ops->matmul(r->be.self, &r->w, &none, r->x, r->rows, r->y);
}

/* Eight experts a token, four tokens one after the other: all experts once. With many rows: all experts,
 * each by an eighth of the rows. */
static void run_experts(void *ctx) {
    struct run *r = ctx;
    struct expert_job jobs[8];
    struct ffn_chunk chunks[8];
    uint32_t uses[8][PREFILL_ROWS];
    for (uint32_t token = 0; token < EXPERTS / 8; token++) {
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t e = token * 8 + j;
            chunks[j] = (struct ffn_chunk){weight_row(&r->w, e * 3 * FFN), FFN};
            for (uint32_t row = 0; row < r->rows; row++) {
                uses[j][row] = row * 8 + j;
            }
            jobs[j] = (struct expert_job){&chunks[j], 1, uses[j], r->rows};
        }
        r->be.ops->experts(r->be.self, r->w.codec, DIM, jobs, 8, 8, r->x, r->y);
    }
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
    double bytes = (double)rows * (double)row_bytes, flop = 2.0 * rows * DIM;
    r->rows = 1;
    double one = best_rate(bytes, run_matmul, r), experts = best_rate(bytes, run_experts, r);
    r->rows = PREFILL_ROWS;
    double many = best_rate(flop * PREFILL_ROWS, run_matmul, r);
    double many_experts = best_rate(flop * PREFILL_ROWS, run_experts, r);
    printf("  %-5s %6.1f GB/s %3.0f %%   %6.1f GB/s %3.0f %%   %7.1f %9.1f\n", codec->name, one,
           100 * one / memory, experts, 100 * experts / memory, many, many_experts);
    free(data);
}

static void bench_attention(struct run *r, double memory) {
    for (int type = KV_F16; type <= KV_F32; type++) {
        r->kv = (struct kv){(enum kv_type)type, 4, 128, 64 * 1024, NULL, NULL};
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
    limits.max_cols = EXPERTS * 3 * FFN;
    limits.max_ctx_tok = 64 * 1024;
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
        size_t n_x = (size_t)PREFILL_ROWS * DIM, n_y = (size_t)PREFILL_ROWS * EXPERTS * 3 * FFN;
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
