/*
 * backend: THE contract of the math. A table of coarse operations with shapes; a forward pass is a
 * sequence of them and never touches an element itself.
 *
 * Owns: the operations' meaning. The scalar CPU tables (isa "scalar") define the results; every
 * other implementation is compared with them.
 * Leaves to others: models (runtime/model/forward), which bytes are in memory (runtime/cache).
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
 * prep/calib/blas, may exempt itself in its header.)
 *
 * Quantised inputs. Where weights are q8 or q4, the CPU quantises the rows that meet them in a dot
 * product to 8 bits by group of 32 columns (kernels/cpu/dot.h has the definition): `x` of matmul,
 * and of experts for gate and up. `down`, and every product with other codecs, takes its inputs in
 * f32. Another backend may keep f32 there: it then differs by that rounding, at most half of a
 * group's greatest |x| / 127 for each x.
 *
 * Errors: operations cannot fail; a device that dies, dies (die()).
 * Threads: all operations are called by one thread (the forward thread); workers live inside one
 * call.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "format/codec.h"

enum {
    FFN_BLOCK = 32, /* neurons summed together before partial sums are added, in order */
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
    uint32_t n_heads, head_dim;
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

enum kv_type { KV_F16, KV_F32 };

/* Keys and values of one sequence in one layer: [n_kv_heads, capacity_tok, head_dim] each, so that
 * the keys of a head are contiguous. Backend memory of kv_bytes() each. */
struct kv {
    enum kv_type type;
    uint32_t n_kv_heads, head_dim, capacity_tok;
    void *k, *v;
};
static inline size_t kv_bytes(const struct kv *kv) {
    return (size_t)kv->n_kv_heads * kv->capacity_tok * kv->head_dim * (kv->type == KV_F16 ? 2 : 4);
}

/* A run of neurons of one expert: n_neurons times the encoded rows gate | up | down of `dim`
 * columns. */
struct ffn_chunk {
    const uint8_t *data;
    uint32_t n_neurons;
    /* Where not 0: the rows are so many bytes as corm_exponents packed them (and checked), and are
     * decoded as they are used: for chunks of at most FFN_BLOCK neurons, with a backend that was
     * opened for it. */
    uint32_t packed_bytes;
};

/* One expert applied to the rows that chose it. Use u (< rows * n_active) stands for row u /
 * n_active and its choice u % n_active; the output goes to parts[u]. */
struct expert_job {
    const struct ffn_chunk *chunks; /* host array; data in backend memory */
    uint32_t n_chunks;
    const uint32_t *uses; /* host array [n_uses], increasing */
    uint32_t n_uses;
};

struct backend {
    const char *name; /* "cpu", "blas", "cuda" */
    const char *isa;  /* "scalar", "avx2", ...; for printing */
    void *self;       /* the implementation's state, first argument of every operation */
    const struct backend_ops *ops;
    uint64_t scratch_bytes; /* host memory that it took when it was opened, for its whole life */
};

struct backend_ops {
    void (*close)(void *self);

    /* Backend memory, 64-byte aligned, zeroed. */
    void *(*alloc)(void *self, size_t bytes);
    void (*free)(void *self, void *p);
    void (*read)(void *self, void *host_dst, const void *src, size_t bytes);
    void (*write)(void *self, void *dst, const void *host_src, size_t bytes);
    /* Make a host weight usable by the other operations (CPU: as it is; device: uploaded, and freed
     * by close). */
    struct weight (*place)(void *self, const struct weight *host_weight);

    /* out [rows, table.cols] = table row host_ids[r], decoded. Ids are < table.rows. */
    void (*embed)(void *self, const struct weight *table, const int32_t *host_ids, uint32_t rows,
                  float *out);

    /* y[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight, over n vectors of `dim` (mean in at least
     * f32); weight [1, dim] is f32. y may be x. Several vectors may share a row: Q/K norm by head
     * is n = rows * heads, dim = head_dim. */
    void (*rmsnorm)(void *self, const float *x, const struct weight *weight, float eps, uint32_t n,
                    uint32_t dim, float *y);

    /* y [rows, w.rows] = x [rows, w.cols] . w^T + bias; bias (f32 [1, w.rows]) may have no data. */
    void (*matmul)(void *self, const struct weight *w, const struct weight *bias, const float *x,
                   uint32_t rows, float *y);

    /* x[i] = min(max(x[i], -limit), limit), in place. */
    void (*clamp)(void *self, float *x, size_t n, float limit);

    /* Angles of positions pos0 .. pos0 + rows - 1: cs [rows, half, 2] = scale * {cos, sin}(pos *
     * inv_freq[i]), the product in f32, as the reference implementation does; inv_freq is host
     * memory. */
    void (*rope_angles)(void *self, uint32_t pos0, uint32_t rows, const float *host_inv_freq,
                        uint32_t half, float scale, float *cs);
    /* Rotate the first 2 * half components of every head, pairs (i, i + half), in place:
     * x [rows, n_heads, head_dim]. RoFormer (arXiv 2104.09864) in the half layout. */
    void (*rope)(void *self, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
                 const float *cs, uint32_t half);

    /* Store k, v [rows, n_kv_heads, head_dim] at positions pos0 ... */
    void (*kv_store)(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                     uint32_t rows);
    /* Causal attention of q [rows, n_heads, head_dim] at positions pos0 .. over the stored keys;
     * query head h reads kv head h / (n_heads / n_kv_heads); window 0 = all earlier tokens, else
     * key j is visible to query i iff j > i - window. Scores times `scale`; softmax in f32.
     * out [rows, n_heads, head_dim]. */
    void (*attention)(void *self, const float *q, uint32_t n_heads, const struct kv *kv,
                      uint32_t pos0, uint32_t rows, uint32_t window, float scale, float *out);

    /* g[i] = silu(g[i]) * u[i], in place; silu(z) = z / (1 + exp(-z)). */
    void (*silu_mul)(void *self, float *g, const float *u, size_t n);
    /* y += x. */
    void (*add)(void *self, float *y, const float *x, size_t n);
    /* y[r] *= sigmoid(s[r]), y [rows, dim], in place. */
    void (*gate_rows)(void *self, float *y, const float *s, uint32_t rows, uint32_t dim);

    /* Softmax over n_experts logits in f32, the n_active greatest in descending order of their
     * logits (lower index first among equals; NaN last), their probabilities divided by their sum
     * where `normalise`. The same logits give the same, distinct, ids on every backend and ISA.
     * ids, weights [rows, n_active]. */
    void (*route)(void *self, const float *logits, uint32_t rows, uint32_t n_experts,
                  uint32_t n_active, bool normalise, int32_t *ids, float *weights);

    /* For every job and use u: parts[u] [dim] = sum over the expert's neurons i of
     * silu(gate_i . x_r) * (up_i . x_r) * down_i, r = u / n_active. x [rows, dim], parts
     * [rows * n_active, dim]. The sum runs over blocks of FFN_BLOCK neurons from each chunk's
     * start: inside a block in neuron order, then block by block. */
    void (*experts)(void *self, const struct codec *codec, uint32_t dim,
                    const struct expert_job *jobs, uint32_t n_jobs, uint32_t n_active,
                    const float *x, float *parts);

    /* y[r] = sum over j, in order, of weights[r, j] * parts[r, j]: y [rows, dim]. */
    void (*combine)(void *self, const float *parts, const float *weights, uint32_t rows,
                    uint32_t n_active, uint32_t dim, float *y);

    /* A device only; all NULL where backend memory is host memory that any thread may write.
     * host_alloc, host_free, upload, uploaded and link may be called by any thread.
     *
     * Operations may return before they are done, so memory that they read must not be overwritten
     * when they return: mark() is the number of a point in their order, after all that were called
     * so far, and an upload starts only when that point is passed. Numbers grow from 1; 0 is passed
     * already. An upload that uploaded() reports is seen by every operation called later. */
    void *(*host_alloc)(void *self, size_t bytes); /* page-locked, 64-byte aligned, for sources */
    void (*host_free)(void *self, void *p);
    uint64_t (*mark)(void *self);
    /* Start `n` >= 1 copies to device memory; their sources must not change before they are done.
     * The ticket is for uploaded(), which tells whether all of them are done, and with `wait`
     * returns when they are. Uploads of one urgency are done in order; a demanded one is not kept
     * waiting by guessed ones for longer than a copy of BACKEND_COPY_BYTES takes. */
    uint64_t (*upload)(void *self, const struct backend_copy *copies, uint32_t n,
                       enum backend_urgency urgency, uint64_t after);
    bool (*uploaded)(void *self, uint64_t ticket, bool wait);
    void (*link)(void *self, struct backend_link *link); /* any thread */
    /* y[host_ids[i]] = host_rows[i] for n > 0 rows of `dim`, the ids being distinct: what the host
     * computed takes its place among the outputs, in the order of operations. The host's arrays
     * may change when it returns. */
    void (*put_rows)(void *self, float *y, uint32_t dim, const float *host_rows,
                     const uint32_t *host_ids, uint32_t n);
};

/* The CPU backend. `isa` is a name from backend_cpu_isa_at, or NULL for the best that this
 * processor has; an ISA that it lacks is an error. `threads` >= 1. The backend is freed by
 * ops->close. */
int backend_cpu_open(struct backend *b, const char *isa, uint32_t threads,
                     const struct backend_limits *limits, struct err *err);
/* Names of the ISA tables built in, best last; NULL past the end. `usable` (may be NULL) tells
 * whether this processor has it. */
const char *backend_cpu_isa_at(size_t i, bool *usable);

/* The CUDA backend on device `device` (as the driver counts them), which must have `vram_bytes`
 * free (0: not checked); beyond what is allocated and placed it takes backend_cuda_scratch_bytes,
 * and the driver some for itself before that is looked at. Without a driver or a device, with one
 * too old, or in a program that was built without CUDA it is an error. Results may differ in the
 * last bits from those of the CPU (kernels/cuda/cuda.inc). */
int backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                      const struct backend_limits *limits, struct err *err);
uint64_t backend_cuda_scratch_bytes(const struct backend_limits *limits);

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
