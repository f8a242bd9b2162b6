/*
 * backend: THE contract of the math. A table of coarse operations with shapes; a forward pass is a
 * sequence of them and never touches an element itself.
 *
 * Owns: the operations' meaning. The scalar CPU tables (isa "scalar") define the results; every
 * other implementation is compared with them.
 * Leaves to others: models (runtime/model), which bytes are in memory (runtime/cache). An
 * operation that a model's rule shapes takes that rule (format/arch.h) whole.
 *
 * Memory. `float *` and `int32_t *` arguments are backend memory from ops->alloc (for the CPU,
 * plain memory; on a device, device memory) unless named `host_*`. Weights were passed through
 * ops->place. All matrices are row-major and contiguous. Unless a contract says "in place", outputs
 * do not overlap inputs.
 *
 * Determinism. An output element depends only on its inputs: not on the number of threads, on the
 * number of rows in the call, nor on how neurons are cut into chunks, as long as every chunk but an
 * expert's last holds a multiple of FFN_BLOCK neurons. So logits are bit-identical for any budget,
 * thread count and batch split on one backend and ISA. (A backend over a foreign library, such as
 * prep/calib/blas, or of a device, such as kernels/cuda, may exempt itself in its header.)
 *
 * Quantised inputs. Where weights have scales (codec_has_scales), the CPU quantises what meets them
 * to 8 bits (kernels/cpu/dot.h has the definitions): rows in a dot product by group of 32 columns,
 * that is `x` of matmul, and of experts for gate and up; and for `down` what the neurons of a block
 * of FFN_BLOCK give, times the scales of a group of columns. Every product with other codecs takes
 * its inputs in f32. Another backend may keep f32 there: it then differs by that rounding, at most
 * half of the greatest magnitude of those that are quantised together, / 127, for each of them.
 *
 * Errors: memory may run out at any time, which alloc, place and host_alloc report. Operations
 * cannot fail, and take no memory; a device that dies, dies (die()).
 * Threads: all operations are called by one thread (the forward thread); workers live inside one
 * call.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "format/arch.h"

enum {
    FFN_BLOCK = 32, /* neurons summed together before partial sums are added, in order */
    /* Rows of a call up to which each gets the bits that it gets alone, on every backend; on the
     * CPU, any number does. */
    BACKEND_SAME_BITS_ROWS = 8,
    BACKEND_COPY_BYTES = 1 << 20, /* most of one copy to a device: what a demanded one waits for */
};

/* Upper bounds of one call, so that a backend sizes its scratch once. */
struct backend_limits {
    uint32_t max_rows;
    uint32_t max_cols;       /* widest row of any matrix, and of any output */
    uint32_t max_in;         /* widest row of inputs of matmul and experts; 0: max_cols */
    uint32_t max_ffn;        /* neurons of one expert */
    uint32_t max_active;     /* experts a row uses */
    uint32_t max_experts;    /* routed experts of a layer */
    size_t max_packed_bytes; /* decoded bytes of a chunk that comes packed; 0: none does */
    uint32_t max_ctx_tok;
    uint32_t n_heads, head_dim;        /* of the widest attention layer, each */
    uint32_t other_values;             /* 1 = of some layer values are not as wide as keys */
    uint32_t delta_k_dim, delta_v_dim; /* the widest heads of a delta net; 0: there is none */
    /* The widest key of latent attention, and row that matmul_heads takes; 0: there is none. */
    uint32_t latent_key_dim, max_head_in;
};

/* How much a copy to device memory hurries: the forward pass waits for it, or may come to. */
enum backend_urgency { BACKEND_DEMANDED, BACKEND_GUESSED, BACKEND_URGENCIES };

/* Bytes on the way to device memory: `n_pieces` pieces that lie side by side at both ends. */
struct backend_copy {
    void *dst;
    const void *src;
    size_t bytes;
    uint32_t n_pieces; /* for the counts */
};

/* What went over the way to device memory since the backend was opened: calls of upload, the copies
 * of at most BACKEND_COPY_BYTES that they became, and the pieces in these. The times are the
 * device's own: `copy_ns` in which something was copied, whatever number of copies at once;
 * `hidden_ns` of it in which operations ran as well. The rest of it nobody used: their quotient is
 * the share of copying that was hidden behind computing. What is under way may not be counted
 * yet. */
struct backend_link {
    uint64_t bytes[BACKEND_URGENCIES];
    uint64_t uploads, copies, pieces;
    uint64_t copy_ns, hidden_ns;
};

/* What the host handed to a device for operations since the backend was opened: kernels that were
 * queued; how often it waited until the device had done what was queued, before which nothing more
 * could be; and small copies, of tables to the device and of results to the host, with their bytes.
 * Weights that are placed do not count, nor does what backend_link has. */
struct backend_work {
    uint64_t launches, waits;
    uint64_t small_copies, small_bytes;
};

/* What keys and values are stored as; session files have these numbers. */
enum kv_type { KV_F16, KV_F32, KV_Q8, KV_TYPES };
static inline const struct codec *kv_codec(enum kv_type type) {
    static const enum codec_id ids[KV_TYPES] = {CODEC_F16, CODEC_F32, CODEC_Q8};
    return codec_by_id(ids[type]);
}

/* Keys and values of one sequence in one layer: [n_kv_heads, capacity_tok, head_dim] and
 * [n_kv_heads, capacity_tok, kv_v_dim()], so that the keys of a head are contiguous. Position p
 * lies at p % capacity_tok: where a layer sees a window only, capacity_tok need not be more than
 * that and the rows of a call. A key or value of one head is a row of the type's codec, which fits
 * its width. Backend memory of kv_bytes() and kv_value_bytes(). */
struct kv {
    enum kv_type type;
    uint32_t n_kv_heads, head_dim, capacity_tok;
    uint32_t v_dim;      /* of a value; 0 = head_dim */
    uint32_t latent_dim; /* not 0: the first so many numbers of a key are its value too, there is
                            one head, and `v` is not there */
    void *k, *v;
    /* Backend memory [2], or NULL: where the type cannot hold a key (word 0) or value (word 1),
     * kv_store raises the word to UINT32_MAX - position: KV_F16 a finite one, which becomes
     * infinite, KV_Q8 also one that is not finite. So the earliest position stands there, however
     * the rows were cut into calls; 0: there was none. */
    uint32_t *beyond;
};
static inline uint32_t kv_v_dim(const struct kv *kv) {
    return kv->v_dim > 0 ? kv->v_dim : kv->head_dim;
}
/* Of one key, and of one value. */
static inline size_t kv_key_row_bytes(const struct kv *kv) {
    return codec_row_bytes(kv_codec(kv->type), kv->head_dim);
}
static inline size_t kv_value_row_bytes(const struct kv *kv) {
    return kv->latent_dim > 0 ? 0 : codec_row_bytes(kv_codec(kv->type), kv_v_dim(kv));
}
/* Of all keys that there is room for, and of all values. */
static inline size_t kv_bytes(const struct kv *kv) {
    return (size_t)kv->n_kv_heads * kv->capacity_tok * kv_key_row_bytes(kv);
}
static inline size_t kv_value_bytes(const struct kv *kv) {
    return (size_t)kv->n_kv_heads * kv->capacity_tok * kv_value_row_bytes(kv);
}

/* A run of neurons of one expert: n_neurons times the encoded rows gate | up | down of `dim`
 * columns, all in one codec. Chunks of one call may have several, where the backend
 * mixes_codecs. */
struct ffn_chunk {
    const uint8_t *data;
    const struct codec *codec;
    uint32_t n_neurons;
    uint32_t first; /* the first one's place in the expert: where its biases are */
    /* Where not 0: the rows are so many bytes as corm_exponents packed them (and checked), and are
     * decoded as they are used: for chunks of at most FFN_BLOCK neurons, with a backend that was
     * opened for it. */
    uint32_t packed_bytes;
};

/* Experts of a layer, what they have in common. Biases [n_experts, ffn_dim] and [n_experts, dim]
 * are backend memory, NULL where the rule has none. */
struct expert_layer {
    uint32_t dim, ffn_dim, n_active;
    struct ffn_rule rule;
    const float *gate_bias, *up_bias, *down_bias;
};

/* One expert applied to the rows that chose it. Use u (< rows * n_active) stands for row u /
 * n_active and its choice u % n_active; the output goes to parts[u]. */
struct expert_job {
    uint32_t expert;
    const struct ffn_chunk *chunks; /* host array; data in backend memory */
    uint32_t n_chunks;
    const uint32_t *uses; /* host array [n_uses], increasing */
    uint32_t n_uses;
};

/* Whether all chunks have one codec, which is *codec; NULL where there is no chunk. */
static inline bool expert_jobs_codec(const struct expert_job *jobs, uint32_t n_jobs,
                                     const struct codec **codec) {
    *codec = NULL;
    for (uint32_t i = 0; i < n_jobs; i++) {
        for (uint32_t k = 0; k < jobs[i].n_chunks; k++) {
            if (*codec && jobs[i].chunks[k].codec != *codec) {
                return false;
            }
            *codec = jobs[i].chunks[k].codec;
        }
    }
    return true;
}

/* What a gate makes of a number s before it multiplies by that. */
enum gate_act {
    GATE_PLAIN,    /* s */
    GATE_SIGMOID,  /* 1 / (1 + exp(-s)) */
    GATE_SOFTPLUS, /* log(1 + exp(s)) */
};

/* Vectors of a delta net, all f32: rate, dt_bias [1, n_v_heads], norm [1, v_dim]. */
struct delta_weights {
    struct weight rate, dt_bias, norm;
};

struct backend {
    const char *name; /* "cpu", "blas", "cuda" */
    const char *isa;  /* "scalar", "avx2", ...; for printing */
    void *self;       /* the implementation's state, first argument of every operation */
    const struct backend_ops *ops;
};

struct backend_ops {
    void (*close)(void *self);

    /* Backend memory, 64-byte aligned, zeroed, which of 0 bytes is not NULL. NULL where there is
     * not so much, and err says so; small blocks of the host are had by mem_calloc, which ends the
     * program. `err` may be NULL, here and below. free(NULL) does nothing. */
    void *(*alloc)(void *self, size_t bytes, struct err *err);
    void (*free)(void *self, void *p);
    void (*read)(void *self, void *host_dst, const void *src, size_t bytes);
    void (*write)(void *self, void *dst, const void *host_src, size_t bytes);
    void (*clear)(void *self, void *p, size_t bytes); /* zeros */
    /* What lies there is not needed any more, and the memory may serve others until it is written
     * again. NULL where memory is taken for good when it is allocated; else what is not written yet
     * takes none. */
    void (*forget)(void *self, void *p, size_t bytes);
    /* Make a host weight usable by the other operations (CPU: as it is; device: uploaded, and freed
     * by close). On an error, that memory does not suffice, *out has no data. */
    int (*place)(void *self, const struct weight *host_weight, struct weight *out, struct err *err);

    /* out [rows, table.cols] = table row host_ids[r], decoded. Ids are < table.rows. */
    void (*embed)(void *self, const struct weight *table, const int32_t *host_ids, uint32_t rows,
                  float *out);

    /* y[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight, over n vectors of `dim` (mean in at least
     * f32); weight [1, dim] is f32, and counts as ones where it has no data. y may be x. Several
     * vectors may share a row: Q/K norm by head is n = rows * heads, dim = head_dim. */
    void (*rmsnorm)(void *self, const float *x, const struct weight *weight, float eps, uint32_t n,
                    uint32_t dim, float *y);

    /* LayerNorm: y[i] = (x[i] - mean) / sqrt(mean of (x - mean)^2 + eps) * weight + bias, over n
     * vectors of `dim`; the bias (f32 [1, dim]) counts as zeros where it has no data. y may be x.
     */
    void (*layernorm)(void *self, const float *x, const struct weight *weight,
                      const struct weight *bias, float eps, uint32_t n, uint32_t dim, float *y);

    /* y [rows, w.rows] = x [rows, w.cols] . w^T + bias; bias (f32 [1, w.rows]) may have no data. */
    void (*matmul)(void *self, const struct weight *w, const struct weight *bias, const float *x,
                   uint32_t rows, float *y);

    /* x[i] = min(max(x[i], -limit), limit), in place. */
    void (*clamp)(void *self, float *x, size_t n, float limit);

    /* x[i] *= factor; and by the number that `factor` holds (f32 [1, 1]). In place. */
    void (*scale)(void *self, float *x, size_t n, float factor);
    void (*scale_by)(void *self, float *x, size_t n, const struct weight *factor);
    /* x[i] = cap * tanh(x[i] / cap), in place. */
    void (*softcap)(void *self, float *x, size_t n, float cap);

    /* Angles of positions pos0 .. pos0 + rows - 1: cs [rows, half, 2] = scale * {cos, sin}(pos *
     * inv_freq[i]), the product in f32, as the reference implementation does; inv_freq is host
     * memory. */
    void (*rope_angles)(void *self, uint32_t pos0, uint32_t rows, const float *host_inv_freq,
                        uint32_t half, float scale, float *cs);
    /* Rotate the first 2 * half components of every head, pairs (i, i + half), in place:
     * x [rows, n_heads, head_dim]. RoFormer (arXiv 2104.09864) in the half layout. */
    void (*rope)(void *self, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
                 const float *cs, uint32_t half);

    /* Store k [rows, n_kv_heads, head_dim] and v [rows, n_kv_heads, kv_v_dim(kv)] at positions pos0
     * ...; rows <= capacity_tok. Tells in kv.beyond what the type cannot hold. */
    void (*kv_store)(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                     uint32_t rows);
    /* Causal attention of q [rows, rule.n_heads, head_dim] at positions pos0 .. over the stored
     * keys; query head h reads kv head h / (n_heads / n_kv_heads); query i sees the keys from
     * attention_first_seen(rule, i) to i. Scores times attention_scale_at(rule, i); softmax in f32.
     * Where rule.sinks, the softmax of head h has one more
     * score, sinks[h] (f32 [1, n_heads]), that is not scaled and that no value goes with: it takes
     * part in the greatest score and in the sum. All visible positions are held.
     * out [rows, n_heads, kv_v_dim(kv)]. */
    void (*attention)(void *self, const struct attention_rule *rule, const struct kv *kv,
                      const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows,
                      float *out);

    /* g[i] = act(g[i], u[i]) of the rule, in place; `u` NULL: what the gate alone makes of it, by
     * which u (for FFN_SWIGLU_OAI, u + 1) would be multiplied. */
    void (*act_mul)(void *self, const struct ffn_rule *rule, float *g, const float *u, size_t n);
    /* y[i] *= sigmoid(g[i]), in place. */
    void (*sigmoid_mul)(void *self, float *y, const float *g, size_t n);
    /* y += x. */
    void (*add)(void *self, float *y, const float *x, size_t n);
    /* y[r] *= act(s[r]), y [rows, dim], in place. */
    void (*gate_rows)(void *self, enum gate_act act, float *y, const float *s, uint32_t rows,
                      uint32_t dim);

    /* Which experts a row uses: the `n` best by the rule, best first, and where `weights` is not
     * NULL what their outputs are multiplied by. kernels/route.h defines both, to the bit, for
     * every backend and ISA: the same logits give the same, distinct, ids, and the same weights.
     * `select` and `factor` (f32 [1, n_experts]) have no data where the rule has none.
     * logits [rows, n_experts]; ids, weights [rows, n], n <= n_experts. */
    void (*route)(void *self, const struct route_rule *rule, const struct weight *select,
                  const struct weight *factor, const float *logits, uint32_t rows,
                  uint32_t n_experts, uint32_t n, int32_t *ids, float *weights);

    /* For every job and use u: parts[u] [dim] = down_bias + sum over the neurons i of the job's
     * chunks of act(gate_i . x_r + gate_bias_i, up_i . x_r + up_bias_i) * down_i, r = u /
     * n_active, with the biases of the job's expert. The sum starts from down_bias, which counts
     * once, whichever chunks the job has, and runs over blocks of FFN_BLOCK neurons from each
     * chunk's start: inside a block from zero, in neuron order where the codec has no scales, then
     * block by block.
     * x [rows, dim], parts [rows * n_active, dim]. */
    void (*experts)(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                    uint32_t n_jobs, const float *x, float *parts);

    /* The gated delta net, token by token; a backend without it has NULL for both.
     * Causal convolution of each column over the last rule.conv tokens, then silu:
     * y[t][c] = silu(sum over j of kernel[c][j] * in[t - conv + 1 + j][c]), j in order, where
     * in[-1], in[-2], ... are the rows of tail [conv - 1, cols] from its end; x [rows, cols],
     * cols = delta_qkv_dim(rule); kernel f32 [cols, conv]. Afterwards tail holds the last conv - 1
     * rows of what was seen. */
    void (*delta_conv)(void *self, const struct delta_rule *rule, const struct weight *kernel,
                       const float *x, uint32_t rows, float *tail, float *y);
    /* The recurrence (arXiv 2412.06464, equation 10). qkv [rows, delta_qkv_dim] as delta_conv
     * leaves it: queries of all key heads, keys, values of all value heads; z [rows, n_v_heads,
     * v_dim]; a, b [rows, n_v_heads]. Value head h reads key head h / (n_v_heads / n_k_heads). For
     * each head and token, with S [k_dim, v_dim] of the head in `state` [n_v_heads, k_dim, v_dim]:
     *   q, k = their heads / sqrt(sum of squares + 1e-6), q / sqrt(k_dim) besides
     *   S *= exp(-rate[h] * softplus(a + dt_bias[h]))
     *   S += k (x) sigmoid(b) * (v - S^T k)
     *   out = rmsnorm(S^T q; weight `norm` [1, v_dim], eps) * silu(z)
     * out [rows, n_v_heads, v_dim]. */
    void (*delta_net)(void *self, const struct delta_rule *rule, const struct delta_weights *w,
                      float eps, const float *qkv, const float *z, const float *a, const float *b,
                      uint32_t rows, float *state, float *out);

    /* Latent attention (arXiv 2405.04434); a backend without it has NULL for all three.
     * A product for each head: y[r][h] = x[r][h] . w_h^T, where w_h are rows h * n .. of w, n =
     * w.rows / n_heads: x [rows, n_heads, w.cols], y [rows, n_heads, n]. */
    void (*matmul_heads)(void *self, const struct weight *w, uint32_t n_heads, const float *x,
                         uint32_t rows, float *y);
    /* Store latents [rows, kv.latent_dim], each with the rest of its key behind it, rest [rows,
     * kv.head_dim - kv.latent_dim], at positions pos0 ..., as kv_store does with keys. */
    void (*latent_store)(void *self, const struct kv *kv, const float *latents, const float *rest,
                         uint32_t pos0, uint32_t rows);
    /* Causal attention of queries at positions pos0 .. over what is stored: a query of head h is
     * q[r][h] and behind it q_rest[r][h]; q [rows, rule.n_heads, kv.latent_dim], q_rest [rows,
     * rule.n_heads, kv.head_dim - kv.latent_dim]. Scores times latent_scale(rule, position);
     * softmax in f32; values are latents: out [rows, rule.n_heads, kv.latent_dim]. */
    void (*latent_attention)(void *self, const struct latent_rule *rule, const struct kv *kv,
                             const float *q, const float *q_rest, uint32_t pos0, uint32_t rows,
                             float *out);

    /* y[r] = sum over j, in order, of weights[r, j] * parts[r, j]: y [rows, dim]. Weights that are
     * NULL are 1. */
    void (*combine)(void *self, const float *parts, const float *weights, uint32_t rows,
                    uint32_t n_active, uint32_t dim, float *y);

    /* A device only; all NULL where backend memory is host memory that any thread may write.
     * host_alloc, host_free, upload, uploaded, link and work may be called by any thread.
     *
     * Operations may return before they are done, so memory that they read must not be overwritten
     * when they return: mark() is the number of a point in their order, after all that were called
     * so far, and an upload starts only when that point is passed. Numbers grow from 1; 0 is passed
     * already. An upload that uploaded() reports is seen by every operation called later. */
    /* Page-locked, 64-byte aligned, for sources; NULL, as alloc, where there is not so much. */
    void *(*host_alloc)(void *self, size_t bytes, struct err *err);
    void (*host_free)(void *self, void *p);
    uint64_t (*mark)(void *self);
    /* Start `n` >= 1 copies to device memory; their sources must not change before they are done.
     * The ticket is for uploaded(), which tells whether all of them are done, and with `wait`
     * returns when they are. Uploads of one urgency are done in order. In which order those of two
     * urgencies are done is the device's, whatever the priorities of its streams: a demanded one
     * may wait for all that was handed over before it. So whoever guesses hands over little at
     * once, which is what a landing holds (kernels/landing.h), in copies of at most
     * BACKEND_COPY_BYTES. */
    uint64_t (*upload)(void *self, const struct backend_copy *copies, uint32_t n,
                       enum backend_urgency urgency, uint64_t after);
    bool (*uploaded)(void *self, uint64_t ticket, bool wait);
    void (*link)(void *self, struct backend_link *link); /* any thread */
    void (*work)(void *self, struct backend_work *work); /* any thread */
    /* As read, but for the next read's return: both are waited for once. `src` stays as it is until
     * then. */
    void (*read_later)(void *self, void *host_dst, const void *src, size_t bytes);
    /* y[host_ids[i]] = host_rows[i] for n > 0 rows of `dim`, the ids being distinct: what the host
     * computed takes its place among the outputs, in the order of operations. The host's arrays
     * may change when it returns. */
    void (*put_rows)(void *self, float *y, uint32_t dim, const float *host_rows,
                     const uint32_t *host_ids, uint32_t n);

    bool mixes_codecs; /* experts takes chunks of several codecs in one call */
};

/* The CPU backend. `isa` is a name from backend_cpu_isa_at, or NULL for the best that this
 * processor has; an ISA that it lacks is an error. `threads` >= 1. The backend is freed by
 * ops->close. */
int backend_cpu_open(struct backend *b, const char *isa, uint32_t threads,
                     const struct backend_limits *limits, struct err *err);
/* Memory that it takes when it is opened, for its whole life. */
uint64_t backend_cpu_scratch_bytes(uint32_t threads, const struct backend_limits *limits);
/* Names of the ISA tables built in, best last; NULL past the end. `usable` (may be NULL) tells
 * whether this processor has it. */
const char *backend_cpu_isa_at(size_t i, bool *usable);

/* Its loops over encoded weights, which choose their shape by measuring their own calls on one row
 * (kernels/cpu/shape.h): for benchmarks, which tell of the choice and compare it with the others.
 * Results are the same in all shapes. */
enum backend_loop { BACKEND_LOOP_MATMUL, BACKEND_LOOP_EXPERTS };
struct backend_shapes {
    uint32_t n, present;
    bool chosen; /* by measuring; before that the first one is used */
};
struct backend_shapes backend_cpu_shapes(const struct backend *b, enum backend_loop loop,
                                         const struct codec *codec);
const char *backend_cpu_shape_name(enum backend_loop loop, const struct codec *codec,
                                   uint32_t shape);
/* Use one of the n shapes from now on. */
void backend_cpu_force_shape(struct backend *b, enum backend_loop loop, const struct codec *codec,
                             uint32_t shape);

/* The CUDA backend on device `device` (as the driver counts them), which must have `vram_bytes`
 * free (0: not checked); beyond what is allocated and placed it takes backend_cuda_scratch_bytes,
 * and the driver some for itself before that is looked at. Without a driver or a device, with one
 * too old, or in a program that was built without CUDA it is an error. Results may differ in the
 * last bits from those of the CPU (kernels/cuda/cuda.inc). */
int backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                      const struct backend_limits *limits, struct err *err);
uint64_t backend_cuda_scratch_bytes(const struct backend_limits *limits);
/* Host memory, page-locked, that it takes when it is opened. */
enum { BACKEND_CUDA_HOST_BYTES = (4 << 20) + (64 << 10) };

struct backend_device {
    char name[128];
    uint32_t major, minor;            /* compute capability */
    bool usable;                      /* new enough */
    uint64_t total_bytes, free_bytes; /* free: when the driver has what it takes for this program */
};
/* Number of CUDA devices; `max` of them from number `first` on are described, and no other is
 * touched. -1 where that cannot be told: no driver, built without CUDA, a device that refuses. */
int backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                         struct err *err);

static inline void backend_close(struct backend *b) {
    if (b->ops) {
        b->ops->close(b->self);
    }
    b->ops = NULL;
}

#endif
