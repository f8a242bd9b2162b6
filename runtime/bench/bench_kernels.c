/*
 * bench_kernels: how fast the kernels are here, beside what the memory gives.
 *
 * Owns: the buffers it works on, the passes, the table. No model is needed: shapes are those of an
 * expert of 2048 columns and 1024 neurons, in each codec.
 * Leaves to others: what run.h lists. Of the kernels it knows backend.h, the pool, and the decoders
 * of stored chunks.
 * Threads: the main thread; the backend's and the pool's own workers.
 * Weights are far larger than the caches and each pass reads other ones, so that decoding shows
 * what a model in memory would get, in the shape that its loops choose (bench_shapes.c). Every
 * figure is the best of many short passes, because other programs on the machine can only make a
 * pass slower. Plain reading of memory is measured in the same way, before the kernels.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/corm_chunk.h"
#include "format/corm_read.h"
#include "kernels/backend.h"
#include "kernels/cpu/exponents.h"
#include "kernels/pool.h"
#include "kernels/processor.h"
#include "runtime/bench/bench.h"

enum { DIM = 2048, FFN = 1024, ACTIVE = 8, EXPERT_ROWS = 3 * FFN };
enum { MANY_ROWS = 96, FEW_ROWS = 12 }; /* prompt rows: FEW for the scalar kernels */
enum { PROMPT_EXPERTS = 2, SAMPLE_ROWS = 256, CONTEXT = 8192 };
enum { MOST_HEADS = 32, LEAST_HEAD_DIM = 64, MOST_HEAD_DIM = 128 };
enum { MIN_PASSES = 3, SECTION_NS = 300 * 1000 * 1000 };
enum { ITEM_BYTES = 1 << 20, READ_ITEMS = 1024, ITEMS_A_PASS = 128, JOINS = 1000 };

/* One line of the table. */
struct figures {
    const char *isa, *codec;
    uint32_t threads;
    double matmul, experts;           /* GB/s of weights, one row, in the shape that was chosen */
    struct bench_loop loops[2];       /* n = 0: not measured */
    double many_matmul, many_experts; /* 1e9 operations/s, prompt rows */
};

struct kernels {
    struct backend be;
    uint32_t threads, rows, active;
    uint32_t first, n_experts; /* the next pass's first expert; the experts in `w` */
    struct weight w;           /* [n_experts * EXPERT_ROWS, DIM] */
    float *x, *y;
    struct kv kv;
    struct run_json *json; /* NULL: print a table */
};

/* ---- passes --------------------------------------------------------------------------------- */

/* Repeat a pass that works on `amount`. Returns the greatest amount per nanosecond. */
static double best_rate(double amount, void (*pass)(void *ctx), void *ctx) {
    double best = 0;
    uint64_t end = clock_ns() + SECTION_NS;
    for (int i = 0; i < MIN_PASSES || clock_ns() < end; i++) {
        uint64_t start = clock_ns();
        pass(ctx);
        double rate = amount / (double)(clock_ns() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

struct reading {
    struct pool *pool;
    const uint64_t *data;
    uint32_t first;  /* item of the next pass */
    uint64_t *sums;  /* [threads, 8]: use what was read, so that the compiler keeps reading */
    atomic_uint met; /* threads that have come to a meeting */
};

static void read_item(void *ctx, uint32_t item, uint32_t worker) {
    struct reading *r = ctx;
    const uint64_t *p = r->data + (size_t)((r->first + item) % READ_ITEMS) * (ITEM_BYTES / 8);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < ITEM_BYTES / 8; i += 8) {
        for (size_t k = 0; k < 8; k++) {
            sum[k] ^= p[i + k];
        }
    }
    for (size_t k = 0; k < 8; k++) {
        r->sums[worker * 8 + k] ^= sum[k];
    }
}

static void read_pass(void *ctx) {
    struct reading *r = ctx;
    pool_run(r->pool, read_item, r, ITEMS_A_PASS);
    r->first = (r->first + ITEMS_A_PASS) % READ_ITEMS;
}

/* An item ends only when all threads have begun one, so that each thread takes exactly one. */
static void meet_item(void *ctx, uint32_t item, uint32_t worker) {
    struct reading *r = ctx;
    (void)item;
    (void)worker;
    atomic_fetch_add(&r->met, 1);
    for (uint32_t looks = 1; atomic_load(&r->met) < pool_threads(r->pool); looks++) {
        if (looks % 4096 == 0) {
            sched_yield();
        }
    }
}

static void join_pass(void *ctx) {
    struct reading *r = ctx;
    for (int i = 0; i < JOINS; i++) {
        atomic_store(&r->met, 0);
        pool_run(r->pool, meet_item, r, pool_threads(r->pool));
    }
}

int bench_read_rate(uint32_t threads, double *memory, double *join_ns, struct err *err) {
    size_t bytes = (size_t)ITEM_BYTES * READ_ITEMS;
    struct reading r = {.pool = pool_new(threads, err)};
    if (!r.pool) {
        return -1;
    }
    uint64_t *data = mem_alloc_aligned(bytes);
    memset(data, 1, bytes);
    r.data = data;
    r.sums = mem_calloc((size_t)threads * 8, sizeof *r.sums);
    *memory = best_rate((double)ITEM_BYTES * ITEMS_A_PASS, read_pass, &r);
    if (join_ns) {
        *join_ns = 1 / best_rate(JOINS, join_pass, &r);
    }
    free(data);
    free(r.sums);
    pool_free(r.pool);
    return 0;
}

/* Multiply with a matrix of as many weights as the active experts have. */
static void matmul_pass(void *ctx) {
    struct kernels *k = ctx;
    static const struct weight none = {0};
    struct weight w = k->w;
    w.rows = k->active * EXPERT_ROWS;
    w.data = weight_row(&k->w, k->first * EXPERT_ROWS);
    k->be.ops->matmul(k->be.self, &w, &none, k->x, k->rows, k->y);
    k->first = (k->first + k->active) % k->n_experts;
}

/* Compute the active experts, each for all rows. */
static void experts_pass(void *ctx) {
    struct kernels *k = ctx;
    struct expert_job jobs[ACTIVE];
    struct ffn_chunk chunks[ACTIVE];
    uint32_t uses[ACTIVE][MANY_ROWS];
    for (uint32_t j = 0; j < k->active; j++) {
        chunks[j] = (struct ffn_chunk){.data = weight_row(&k->w, (k->first + j) * EXPERT_ROWS),
                                       .codec = k->w.codec,
                                       .n_neurons = FFN};
        for (uint32_t r = 0; r < k->rows; r++) {
            uses[j][r] = r * k->active + j;
        }
        jobs[j] = (struct expert_job){0, &chunks[j], 1, uses[j], k->rows};
    }
    const struct expert_layer layer = {.dim = DIM, .ffn_dim = FFN, .n_active = k->active};
    k->be.ops->experts(k->be.self, &layer, jobs, k->active, k->x, k->y);
    k->first = (k->first + k->active) % k->n_experts;
}

static void attention_pass(void *ctx) {
    struct kernels *k = ctx;
    const struct attention_rule rule = {.n_heads = k->kv.n_kv_heads,
                                        .n_kv_heads = k->kv.n_kv_heads,
                                        .head_dim = k->kv.head_dim,
                                        .scale = 0.1f};
    static const struct weight none = {0};
    k->be.ops->attention(k->be.self, &rule, &k->kv, &none, k->x, CONTEXT - k->rows, k->rows, k->y);
}

/* ---- the measurement ------------------------------------------------------------------------ */

/* Fill x with numbers within -1 .. 1 from a linear congruential generator (Knuth's MMIX
 * constants). */
static void fill(uint64_t *state, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        x[i] = (float)(int32_t)(*state >> 32) * 0x1p-31f;
    }
}

/* Fill `raw` with n bf16 weights, nearly normally distributed. */
static void fill_normal(uint64_t *state, uint8_t *raw, size_t n) {
    for (size_t w = 0; w < n; w++) {
        float x[4];
        fill(state, x, 4);
        uint16_t v = f32_to_bf16(x[0] + x[1] + x[2] + x[3]);
        memcpy(raw + 2 * w, &v, sizeof v);
    }
}

/* Make at least READ_ITEMS * ITEM_BYTES / 2 bytes of experts, by repeating some random rows. */
static void make_weights(struct kernels *k, const struct codec *codec) {
    const size_t row_bytes = codec_row_bytes(codec, DIM);
    const uint64_t least = (uint64_t)ITEM_BYTES * READ_ITEMS / 2;
    float row[DIM];
    uint64_t state = 7;
    k->n_experts = ACTIVE;
    while ((uint64_t)k->n_experts * EXPERT_ROWS * row_bytes < least) {
        k->n_experts += ACTIVE;
    }
    uint32_t rows = k->n_experts * EXPERT_ROWS;
    uint8_t *data = mem_alloc_aligned(rows * row_bytes);
    for (uint32_t i = 0; i < rows; i++) {
        if (i < SAMPLE_ROWS) {
            fill(&state, row, DIM);
            codec->encode_row(row, DIM, data + i * row_bytes);
        } else {
            memcpy(data + i * row_bytes, data + i % SAMPLE_ROWS * row_bytes, row_bytes);
        }
    }
    k->w = (struct weight){codec, rows, DIM, row_bytes, data};
}

/* The scalar loops do without shapes. */
static bool is_scalar(const char *isa) {
    return strcmp(isa, "scalar") == 0;
}

static void measure_codec(struct kernels *k, uint32_t prompt_rows, struct figures *f) {
    double bytes = (double)ACTIVE * EXPERT_ROWS * (double)codec_row_bytes(k->w.codec, DIM);
    k->rows = 1;
    k->active = ACTIVE;
    k->first = 0;
    if (is_scalar(f->isa)) {
        f->matmul = best_rate(bytes, matmul_pass, k);
        f->experts = best_rate(bytes, experts_pass, k);
    } else {
        const struct codec *codec = k->w.codec;
        bench_loop(&k->be, BACKEND_LOOP_MATMUL, codec, bytes, matmul_pass, k, &f->loops[0]);
        bench_loop(&k->be, BACKEND_LOOP_EXPERTS, codec, bytes, experts_pass, k, &f->loops[1]);
        f->matmul = f->loops[0].rates[f->loops[0].shape];
        f->experts = f->loops[1].rates[f->loops[1].shape];
    }
    k->rows = prompt_rows;
    k->active = PROMPT_EXPERTS;
    double operations = 2.0 * k->active * EXPERT_ROWS * DIM * k->rows;
    f->many_matmul = best_rate(operations, matmul_pass, k);
    f->many_experts = best_rate(operations, experts_pass, k);
}

static void report(const struct kernels *k, const struct figures *f, double memory) {
    if (k->json) {
        run_json_open(k->json, NULL, '{');
        run_json_u64(k->json, "threads", f->threads);
        run_json_string(k->json, "isa", f->isa);
        run_json_string(k->json, "codec", f->codec);
        run_json_f64(k->json, "matmul_gb_per_s", f->matmul);
        run_json_f64(k->json, "experts_gb_per_s", f->experts);
        run_json_f64(k->json, "matmul_gop_per_s", f->many_matmul);
        run_json_f64(k->json, "experts_gop_per_s", f->many_experts);
        for (int i = 0; i < 2 && f->loops[i].n > 0; i++) {
            bench_loop_report(&f->loops[i], k->json);
        }
        run_json_close(k->json, '}');
        return;
    }
    printf("%-8s %-5s %8.1f %4.0f %% %8.1f %4.0f %% %10.1f %8.1f\n", f->isa, f->codec, f->matmul,
           100 * f->matmul / memory, f->experts, 100 * f->experts / memory, f->many_matmul,
           f->many_experts);
    for (int i = 0; i < 2 && f->loops[i].n > 0; i++) {
        bench_loop_report(&f->loops[i], NULL);
    }
    fflush(stdout);
}

/* A token that is decoded reads the whole KV cache. Of a prompt every row multiplies with all keys
 * and values. All widths of heads have as many numbers. */
static int measure_attention(struct kernels *k, enum kv_type type, uint32_t head_dim, double memory,
                             struct err *err) {
    const uint32_t n_heads = MOST_HEADS * LEAST_HEAD_DIM / head_dim;
    k->kv = (struct kv){
        .type = type, .n_kv_heads = n_heads, .head_dim = head_dim, .capacity_tok = CONTEXT};
    size_t bytes = kv_bytes(&k->kv);
    k->kv.k = k->be.ops->alloc(k->be.self, bytes, err);
    k->kv.v = k->kv.k ? k->be.ops->alloc(k->be.self, bytes, err) : NULL;
    if (!k->kv.v) {
        k->be.ops->free(k->be.self, k->kv.k);
        return -1;
    }
    k->rows = 1;
    double one = best_rate(2.0 * (double)bytes, attention_pass, k);
    k->rows = MANY_ROWS;
    double many =
        best_rate(4.0 * MANY_ROWS * n_heads * head_dim * (double)CONTEXT, attention_pass, k);
    k->be.ops->free(k->be.self, k->kv.k);
    k->be.ops->free(k->be.self, k->kv.v);
    if (k->json) {
        run_json_open(k->json, NULL, '{');
        run_json_u64(k->json, "threads", k->threads);
        run_json_string(k->json, "isa", k->be.isa);
        run_json_string(k->json, "kv", kv_codec(type)->name);
        run_json_u64(k->json, "head_dim", head_dim);
        run_json_f64(k->json, "attention_gb_per_s", one);
        run_json_f64(k->json, "attention_gop_per_s", many);
        run_json_close(k->json, '}');
        return 0;
    }
    printf("%-8s attention of heads of %u over %d tokens of %s: %.1f GB/s, %.0f %%; of %d rows "
           "%.1f GFLOP/s\n",
           k->be.isa, head_dim, CONTEXT, kv_codec(type)->name, one, 100 * one / memory, MANY_ROWS,
           many);
    return 0;
}

static int measure_attentions(struct kernels *k, double memory, struct err *err) {
    static const enum kv_type types[] = {KV_F16, KV_Q8};
    static const uint32_t dims[] = {LEAST_HEAD_DIM, MOST_HEAD_DIM};
    for (int i = 0; i < 4; i++) {
        if (measure_attention(k, types[i / 2], dims[i % 2], memory, err) < 0) {
            return -1;
        }
    }
    return 0;
}

enum { PACKED_WEIGHTS = FFN_BLOCK * 3 * DIM, PACKED_CHUNKS = FFN / FFN_BLOCK };

/* Experts that are kept packed. */
struct packed {
    struct kernels *k;
    uint8_t *data; /* copies of one chunk, of `bytes` each */
    size_t bytes, n, next;
    uint32_t stored_bytes;
};

static void packed_pass(void *ctx) {
    struct packed *p = ctx;
    struct expert_job jobs[ACTIVE];
    struct ffn_chunk chunks[ACTIVE][PACKED_CHUNKS];
    uint32_t uses[ACTIVE];
    for (uint32_t j = 0; j < ACTIVE; j++) {
        for (uint32_t i = 0; i < PACKED_CHUNKS; i++, p->next = (p->next + 1) % p->n) {
            chunks[j][i] = (struct ffn_chunk){.data = p->data + p->next * p->bytes,
                                              .codec = codec_by_id(CODEC_BF16),
                                              .n_neurons = FFN_BLOCK,
                                              .packed_bytes = p->stored_bytes};
        }
        uses[j] = j;
        jobs[j] = (struct expert_job){0, chunks[j], PACKED_CHUNKS, &uses[j], 1};
    }
    const struct expert_layer layer = {.dim = DIM, .ffn_dim = FFN, .n_active = ACTIVE};
    p->k->be.ops->experts(p->k->be.self, &layer, jobs, ACTIVE, p->k->x, p->k->y);
}

static void measure_packed(struct kernels *k, double memory) {
    struct corm_packer *packer = corm_packer_new(codec_by_id(CODEC_BF16));
    uint8_t *raw = mem_alloc(2 * PACKED_WEIGHTS);
    uint64_t state = 11;
    fill_normal(&state, raw, PACKED_WEIGHTS);
    struct corm_packed one =
        corm_packer_pack_as(packer, CORM_ENCODING_EXPONENTS, raw, 2 * PACKED_WEIGHTS);
    struct packed p = {
        .k = k, .bytes = align_up(one.bytes, 64), .stored_bytes = (uint32_t)one.bytes};
    p.n = (size_t)ITEM_BYTES * READ_ITEMS / 2 / p.bytes;
    p.data = mem_alloc_aligned(p.n * p.bytes);
    for (size_t i = 0; i < p.n; i++) {
        memcpy(p.data + i * p.bytes, one.data, one.bytes);
    }
    double ratio = (double)one.bytes / (2.0 * PACKED_WEIGHTS);
    double rate = best_rate(2.0 * PACKED_WEIGHTS * PACKED_CHUNKS * ACTIVE, packed_pass, &p);
    free(p.data);
    free(raw);
    corm_packer_free(packer);
    if (k->json) {
        run_json_open(k->json, NULL, '{');
        run_json_u64(k->json, "threads", k->threads);
        run_json_string(k->json, "isa", k->be.isa);
        run_json_f64(k->json, "stored_share", ratio);
        run_json_f64(k->json, "packed_experts_gb_per_s", rate);
        run_json_close(k->json, '}');
        return;
    }
    printf("%-8s experts kept packed, bf16: %.1f GB/s of weights, %.0f %%; %.3f of that is read\n",
           k->be.isa, rate, 100 * rate / memory, ratio);
}

static int measure_isa(struct kernels *k, const char *isa, double memory, struct err *err) {
    const struct backend_limits limits = {.max_rows = MANY_ROWS,
                                          .max_cols = ACTIVE * EXPERT_ROWS,
                                          .max_in = DIM,
                                          .max_ffn = FFN,
                                          .max_active = ACTIVE,
                                          .max_experts = ACTIVE,
                                          .max_packed_bytes = 2 * PACKED_WEIGHTS,
                                          .max_ctx_tok = CONTEXT,
                                          .n_heads = MOST_HEADS,
                                          .head_dim = MOST_HEAD_DIM};
    if (backend_cpu_open(&k->be, isa, k->threads, &limits, err) < 0) {
        return -1;
    }
    const struct codec *codec;
    int status = 0;
    for (size_t c = 0; (codec = codec_at(c)) && !run_interrupted(); c++) {
        struct figures f = {.isa = isa, .codec = codec->name, .threads = k->threads};
        make_weights(k, codec);
        measure_codec(k, is_scalar(isa) ? FEW_ROWS : MANY_ROWS, &f);
        free((uint8_t *)(uintptr_t)k->w.data);
        report(k, &f, memory);
    }
    if (!run_interrupted()) {
        k->rows = 1;
        measure_packed(k, memory);
        status = measure_attentions(k, memory, err);
    }
    backend_close(&k->be);
    return status;
}

/* ---- decoding of stored chunks --------------------------------------------------------------- */

enum { STORED_CHUNKS = 64, STORED_NEURONS = 64, STORED_WEIGHTS = STORED_NEURONS * 3 * DIM };

/* Chunks of bf16 weights in one encoding. A pass decodes all of them with one thread. */
struct stored {
    const struct codec *codec;
    enum corm_encoding encoding;
    struct corm_decoder *decoder;
    struct stored_chunk {
        uint8_t *data;
        size_t bytes;
    } chunks[STORED_CHUNKS];
    uint8_t *raw; /* [2 * STORED_WEIGHTS] */
    struct err err;
};

static void decode_pass(void *ctx) {
    struct stored *s = ctx;
    for (int i = 0; i < STORED_CHUNKS; i++) {
        corm_decoder_unpack(s->decoder, s->codec, s->encoding, s->chunks[i].data,
                            s->chunks[i].bytes, s->raw, 2 * STORED_WEIGHTS, &s->err);
    }
}

/* Make chunks of nearly normally distributed weights. Returns the stored bytes divided by the raw
 * bytes. */
static double make_stored(struct stored *s) {
    struct corm_packer *packer = corm_packer_new(s->codec);
    uint64_t state = 9, stored_bytes = 0;
    for (int i = 0; i < STORED_CHUNKS; i++) {
        fill_normal(&state, s->raw, STORED_WEIGHTS);
        struct corm_packed p = corm_packer_pack_as(packer, s->encoding, s->raw, 2 * STORED_WEIGHTS);
        s->chunks[i] = (struct stored_chunk){mem_alloc_aligned(p.bytes), p.bytes};
        memcpy(s->chunks[i].data, p.data, p.bytes);
        stored_bytes += p.bytes;
    }
    corm_packer_free(packer);
    return (double)stored_bytes / (2.0 * STORED_WEIGHTS * STORED_CHUNKS);
}

static void report_decoding(const struct kernels *k, const char *isa, const char *encoding,
                            double ratio, double rate) {
    if (k->json) {
        run_json_open(k->json, NULL, '{');
        run_json_string(k->json, "isa", isa);
        run_json_string(k->json, "encoding", encoding);
        run_json_f64(k->json, "stored_by_raw", ratio);
        run_json_f64(k->json, "decode_gb_per_s", rate);
        run_json_close(k->json, '}');
        return;
    }
    printf("%-8s one thread decodes bf16 from %s, %.3f of raw, at %.1f GB/s\n", isa, encoding,
           ratio, rate);
    fflush(stdout);
}

/* Check and decode chunks, as is done with those that come from a file. Rates are in raw bytes. */
static int measure_decoding(struct kernels *k, const char *only, struct err *err) {
    static const enum corm_encoding encodings[] = {CORM_ENCODING_PLANES, CORM_ENCODING_EXPONENTS};
    const double bytes = 2.0 * STORED_WEIGHTS * STORED_CHUNKS;
    int status = 0;
    for (size_t e = 0; e < 2 && status == 0 && !run_interrupted(); e++) {
        struct stored s = {.codec = codec_by_id(CODEC_BF16), .encoding = encodings[e]};
        const char *name = corm_encoding_name(encodings[e]);
        s.decoder = corm_decoder_sized(2 * STORED_WEIGHTS);
        s.raw = mem_alloc_aligned(2 * STORED_WEIGHTS);
        double ratio = make_stored(&s);
        if (encodings[e] != CORM_ENCODING_EXPONENTS) {
            report_decoding(k, "any", name, ratio, best_rate(bytes, decode_pass, &s));
        }
        const struct exponents_isa *isa;
        for (size_t i = 0; encodings[e] == CORM_ENCODING_EXPONENTS && (isa = exponents_isa_at(i));
             i++) {
            if (isa->usable() && (!only || strcmp(only, isa->name) == 0)) {
                corm_decoder_use(s.decoder, isa->decode);
                report_decoding(k, isa->name, name, ratio, best_rate(bytes, decode_pass, &s));
            }
        }
        if (s.err.set) {
            *err = s.err;
            status = -1;
        }
        for (int i = 0; i < STORED_CHUNKS; i++) {
            free(s.chunks[i].data);
        }
        free(s.raw);
        corm_decoder_free(s.decoder);
    }
    return status;
}

static void report_memory(const struct kernels *k, double memory, double join_ns) {
    if (k->json) {
        run_json_open(k->json, NULL, '{');
        run_json_u64(k->json, "threads", k->threads);
        run_json_f64(k->json, "read_gb_per_s", memory);
        run_json_f64(k->json, "fork_join_ns", join_ns);
        run_json_close(k->json, '}');
        return;
    }
    printf("%u %s: plain reading of %d MiB at %.1f GB/s; a fork-join takes %.0f ns\n", k->threads,
           k->threads == 1 ? "thread" : "threads", READ_ITEMS * (ITEM_BYTES >> 20), memory,
           join_ns);
    printf("%-14s %8s %6s %8s %6s %10s %8s\n", "", "matmul", "", "experts", "", "matmul",
           "experts");
    printf("%-14s %8s %6s %8s %6s %19s\n", "", "GB/s", "", "GB/s", "", "1e9 operations/s");
}

static int measure_threads(struct kernels *k, const char *only, struct err *err) {
    double join_ns, memory;
    if (bench_read_rate(k->threads, &memory, &join_ns, err) < 0) {
        return -1;
    }
    report_memory(k, memory, join_ns);
    const char *isa;
    bool usable;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)) && !run_interrupted(); i++) {
        bool wanted = only ? strcmp(only, isa) == 0 : usable;
        if (wanted && measure_isa(k, isa, memory, err) < 0) {
            return -1;
        }
    }
    return 0;
}

static bool known(const char *isa) {
    const char *name;
    for (size_t i = 0; (name = backend_cpu_isa_at(i, NULL)); i++) {
        if (strcmp(name, isa) == 0) {
            return true;
        }
    }
    return false;
}

int bench_kernels(const struct cli_call *call, struct err *err) {
    const struct run_options *o = &((const struct bench_options *)call->values)->run;
    struct run_json json = {0};
    struct kernels k = {.json = o->json ? &json : NULL};
    uint32_t all = processor_count(), counts[2] = {1, all};
    size_t n = all > 1 ? 2 : 1;
    uint64_t state = 8;
    if (o->isa && !known(o->isa)) {
        err_set(err, "--isa: '%s' is none of the instruction sets of this program", o->isa);
        return CLI_USAGE;
    }
    if (o->threads > 0) {
        counts[0] = (uint32_t)o->threads;
        n = 1;
    }
    size_t n_x = (size_t)MANY_ROWS * DIM, n_y = (size_t)MANY_ROWS * ACTIVE * EXPERT_ROWS;
    k.x = mem_alloc_aligned(n_x * sizeof *k.x);
    k.y = mem_alloc_aligned(n_y * sizeof *k.y);
    fill(&state, k.x, n_x);
    run_catch_interrupt();
    if (k.json) {
        run_json_open(k.json, NULL, '[');
    }
    int status = measure_decoding(&k, o->isa, err);
    for (size_t i = 0; i < n && status == 0 && !run_interrupted(); i++) {
        k.threads = counts[i];
        status = measure_threads(&k, o->isa, err);
    }
    if (k.json && status == 0) {
        run_json_close(k.json, ']');
        printf("%.*s\n", (int)json.text.len, json.text.data);
    }
    buf_free(&json.text);
    free(k.x);
    free(k.y);
    return status == 0 && run_interrupted() ? RUN_INTERRUPTED : status;
}
