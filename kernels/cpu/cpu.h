/*
 * cpu: the CPU backend's state, shared by its files. Private to kernels/cpu, and to a backend that
 * builds on this one (prep/calib/blas: its state starts with a struct cpu, so that these operations
 * run on it).
 *
 * Owns: scratch, all of it taken at open; the split of each operation into pool items. An item
 * computes whole output elements, so that no result depends on who runs it.
 *   cpu.c            memory, small operations
 *   cpu_open.c       choosing an instruction set, taking all memory
 *   cpu_matmul.c     weight matrix times rows
 *   cpu_heads.c      the same for each head
 *   cpu_experts.c    sparse FFN
 *   cpu_attention.c  KV store and attention, plain and latent
 *   cpu_delta.c      gated delta net
 *   cpu_shapes.c     what benchmarks see of the shapes of loops
 * Leaves to others: arithmetic inside an item (dot.h).
 * Threads: operations are called by the forward thread; a worker touches its own struct cpu_worker.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/exponents.h"
#include "kernels/cpu/shape.h"
#include "kernels/pool.h"

enum {
    CPU_PANEL_ROWS = 16,    /* weight rows decoded together, where the panel holds them */
    CPU_PANEL_MIN_ROWS = 4, /* rows from which on making a panel pays */
    CPU_FFN_USES = 64,      /* uses of an expert in one item of the panel way */
    CPU_FFN_COLS = 256,     /* columns of `down` decoded together: a multiple of CODEC_GROUP */
    CPU_QUERIES = 12,       /* queries (rows times heads) that read a KV head together */
    CPU_KEYS = 64,          /* keys that they read at a time */
    CPU_HEAD_ROWS = 32,     /* rows of one item of a product for each head */
    CPU_DELTA_TOKENS = 16,  /* tokens that use a state while it is in cache */
    CPU_FFN_ITEMS = 4096,   /* blocks, and sums, in one wave of the fused way */
    CPU_FFN_SUMS = 4096,
};

/* One worker's scratch. */
struct cpu_worker {
    float *panel; /* [panel_floats]: decoded rows, or a panel of dot.h */
    /* A chunk that came packed, or what a walk over its rows needs; for max_packed_bytes. */
    uint8_t *chunk;
    float *slice;        /* [FFN_BLOCK, CPU_FFN_COLS] */
    float *gate, *up;    /* [CPU_FFN_USES, FFN_BLOCK] */
    float *scores;       /* [CPU_QUERIES, max_ctx_tok] */
    float *queries;      /* [CPU_QUERIES, latent_key_dim] */
    uint8_t *head_bytes; /* [CPU_HEAD_ROWS, dot_quant_bytes(max_head_in)] */
    float *heads; /* [CPU_DELTA_TOKENS, 2 k_dim + v_dim] of limits.delta: queries, keys, outputs */
    const float **xs;         /* [max(max_rows, CPU_FFN_USES)] */
    float **ys;               /* [CPU_FFN_USES] */
    struct dot_quant *quants; /* [CPU_FFN_USES] */
};

/* Which shape each loop over weights has, by what tells them apart (shape.h). The shapes themselves
 * are tables in the files of the operations. */
struct cpu_shapes {
    struct shape_trial matmul[CODEC_IDS], experts[CODEC_IDS], packed, attention[CODEC_IDS];
};
enum {
    CPU_MATMUL_SHAPES = 7,
    CPU_PACKED_SHAPES = 4,
    CPU_ATTENTION_SHAPES = 4,
    CPU_APART = 4, /* rows far apart that are read side by side, in shapes that do so */
};

/* A block of neurons of one job (see cpu_experts.c). */
struct cpu_block {
    const struct expert_job *job;
    const uint8_t *data;
    uint32_t n_neurons, first;
    uint32_t packed_bytes; /* as of struct ffn_chunk */
    const struct codec *codec;
    float *partial; /* [job->n_uses, dim] */
};
/* A sum of partials into one use's output. */
struct cpu_sum {
    float *out;
    const float *first; /* partials, `stride` floats apart */
    size_t stride;
    uint32_t n;
    bool fresh;        /* out starts at `from` */
    const float *from; /* [dim]; NULL = zeros */
};

struct cpu {
    const struct dot_isa *isa;
    const struct exponents_isa *exponents;
    const struct encode_isa *encode;
    struct pool *pool;
    struct backend_limits limits;
    struct cpu_worker *workers; /* [threads] */
    size_t panel_floats, partial_floats;
    float *partial;           /* [partial_floats]: sums of blocks, or inputs that are spread */
    struct cpu_block *blocks; /* [CPU_FFN_ITEMS] */
    struct cpu_sum *sums;     /* [CPU_FFN_SUMS] */
    /* The inputs of the operation in work, where they are quantised. */
    struct dot_quant *quants; /* [max_rows] */
    struct cpu_shapes shapes;
    uint8_t *quant_bytes; /* [max_rows, dot_quant_bytes(max_in)] */
    struct arena arena;   /* all of the above */
};

/* Fill a zeroed `c`; cpu_close frees what it holds, but not `c` itself, and takes a zeroed one. */
int cpu_open(struct cpu *c, const char *isa, uint32_t threads, const struct backend_limits *limits,
             struct err *err);
void cpu_close(struct cpu *c);
/* The operations, all with a struct cpu as `self`. */
extern const struct backend_ops cpu_ops;

/* Operations that live in files of their own; contracts in backend.h. */
void cpu_matmul(void *self, const struct weight *w, const struct weight *bias, const float *x,
                uint32_t rows, float *y);
void cpu_experts(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                 uint32_t n_jobs, const float *x, float *parts);
void cpu_kv_store(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                  uint32_t rows);
void cpu_attention(void *self, const struct attention_rule *rule, const struct kv *kv,
                   const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows,
                   float *out);
void cpu_matmul_heads(void *self, const struct weight *w, uint32_t n_heads, const float *x,
                      uint32_t rows, float *y);
void cpu_latent_store(void *self, const struct kv *kv, const float *latents, const float *rest,
                      uint32_t pos0, uint32_t rows);
void cpu_latent_attention(void *self, const struct latent_rule *rule, const struct kv *kv,
                          const float *q, const float *q_rest, uint32_t pos0, uint32_t rows,
                          float *out);
void cpu_delta_conv(void *self, const struct delta_rule *rule, const struct weight *kernel,
                    const float *x, uint32_t rows, float *tail, float *y);
void cpu_delta_net(void *self, const struct delta_rule *rule, const struct delta_weights *w,
                   float eps, const float *qkv, const float *z, const float *a, const float *b,
                   uint32_t rows, float *state, float *out);

/* What the shapes of the tables in cpu_matmul.c and cpu_experts.c are called. */
const char *cpu_matmul_shape_name(uint32_t shape);
uint32_t cpu_expert_shapes(enum codec_id c); /* so many */
const char *cpu_expert_shape_name(enum codec_id c, uint32_t shape);

/* c->quants [rows] = x [rows, cols] quantised, until the next call. */
void cpu_quantise(const struct cpu *c, const float *x, uint32_t rows, uint32_t cols);

/* c->partial = x [rows, cols] spread (dot.h), rows one after the other, until the next wave of
 * experts. */
void cpu_spread(const struct cpu *c, const float *x, uint32_t rows, uint32_t cols);

/* y[r] += bias for rows of `n`, where there is a bias. */
void cpu_add_bias(const struct weight *bias, uint32_t first, uint32_t n, float *y);

/* Run fn over items, in the pool only where `work` (about: multiply-adds) is worth a fork-join. */
void cpu_run(const struct cpu *c, void (*fn)(void *ctx, uint32_t item, uint32_t worker), void *ctx,
             uint32_t n_items, uint64_t work);

static inline const struct dot_codec *cpu_codec(const struct cpu *c, const struct codec *codec) {
    return &c->isa->codec[codec->id];
}
/* out[i + apart * j] = sums[j]: products of CPU_APART rows, `apart` rows from each other. */
static inline void cpu_put_apart(const float *sums, uint32_t i, uint32_t apart, float *out) {
    for (uint32_t j = 0; j < CPU_APART; j++) {
        out[i + apart * j] = sums[j];
    }
}
static inline uint32_t cpu_ceil_div(uint64_t n, uint64_t d) {
    return (uint32_t)((n + d - 1) / d);
}

#endif
