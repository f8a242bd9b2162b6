/*
 * cuda_attention: the KV store and causal attention.
 *
 * The keys are cut into splits of SPLIT positions, counted from position 0. A block of threads
 * takes one split of one KV head and up to VECTORS of the query heads that read it (heads of one
 * row, then of the next): scores, their maximum, exponentials and their sum, and the weighted sum
 * of values. A second kernel puts the splits of each head together, in order. What is not visible
 * adds an exact zero, so a head's result depends on its position only, not on the rows of the call,
 * nor on where in the ring of stored positions its keys lie. Calls whose partial results do not fit
 * the scratch go in several rounds.
 */
#include "kernels/cuda/cuda_rows.inc"

enum {
    SPLIT = 128,
    VECTORS = 8,
    ATTEND_THREADS = 128,
    KEY_LANES = 8,   /* lanes that share the dot product of a key */
    KEYS_A_LANE = 4, /* keys whose loads are under way together */
};

struct attend {
    const void *k, *v;
    const float *q, *sinks;
    float *partial, *out;
    uint32_t n_heads, n_kv_heads, head_dim, capacity_tok;
    uint32_t pos0; /* of the round's first row */
    uint32_t window, chunk;
    uint32_t n_vectors; /* of a KV head: rows * heads that share it */
    uint32_t first_split, n_splits;
    float scale, temper, temper_tok;
};

/* ---- store ---------------------------------------------------------------------------------- */

/* Raise the word where f16 cannot hold x, as struct kv says. */
static __device__ void tell_beyond(uint32_t *word, float x, uint32_t pos) {
    float size = fabsf(x);
    if (word && size >= 65520.0f && size < INFINITY) {
        atomicMax(word, 0xffffffffu - pos);
    }
}

template <int TYPE>
__global__ void kv_store_each(struct kv kv, const float *k, const float *v, uint32_t pos0,
                              size_t n) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        size_t vector = i / kv.head_dim, row = vector / kv.n_kv_heads;
        size_t head = vector % kv.n_kv_heads;
        size_t slot = (pos0 + row) % kv.capacity_tok;
        size_t at = (head * kv.capacity_tok + slot) * kv.head_dim + i % kv.head_dim;
        if (TYPE == KV_F16) {
            ((uint16_t *)kv.k)[at] = cuda_to_half(k[i]);
            ((uint16_t *)kv.v)[at] = cuda_to_half(v[i]);
            tell_beyond(kv.beyond, k[i], pos0 + (uint32_t)row);
            tell_beyond(kv.beyond ? kv.beyond + 1 : NULL, v[i], pos0 + (uint32_t)row);
        } else {
            ((float *)kv.k)[at] = k[i];
            ((float *)kv.v)[at] = v[i];
        }
    }
}

void cuda_kv_store(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                   uint32_t rows) {
    struct cuda *c = (struct cuda *)self;
    size_t n = (size_t)rows * kv->n_kv_heads * kv->head_dim;
    uint32_t blocks = cuda_ceil_div(n, 256);
    auto kv_store = kv->type == KV_F16 ? kv_store_each<KV_F16> : kv_store_each<KV_F32>;
    CUDA_LAUNCH(c, kv_store, blocks < 4096 ? blocks : 4096, 256, 0, *kv, k, v, pos0, n);
}

/* ---- one split ------------------------------------------------------------------------------ */

/* A stored vector is a row of floats or halves: read by units as a weight row is. That of a split's
 * key j, whose first one has `first_slot` of the ring. */
template <int CODEC>
static __device__ __forceinline__ cuda_row<CODEC> stored(const struct attend &a, const void *base,
                                                         uint32_t kv_head, uint32_t first_slot,
                                                         uint32_t j) {
    const size_t size = CODEC == CODEC_F16 ? 2 : 4;
    uint32_t slot = first_slot + j;
    while (slot >= a.capacity_tok) { /* once, but for rings of less than a split */
        slot -= a.capacity_tok;
    }
    size_t at = ((size_t)kv_head * a.capacity_tok + slot) * a.head_dim * size;
    return cuda_row<CODEC>((const uint8_t *)base + at, a.head_dim);
}

/* The position of a vector's row. */
static __device__ __forceinline__ uint32_t vector_pos(const struct attend &a, uint32_t vector) {
    return a.pos0 + vector / (a.n_heads / a.n_kv_heads);
}

static __device__ __forceinline__ size_t vector_head(const struct attend &a, uint32_t kv_head,
                                                     uint32_t vector) {
    const uint32_t group = a.n_heads / a.n_kv_heads;
    return (size_t)(vector / group) * a.n_heads + kv_head * group + vector % group;
}

static __device__ __forceinline__ bool visible(const struct attend &a, uint32_t key, uint32_t pos) {
    return key <= pos && (a.window == 0 || key + a.window > pos) &&
           (a.chunk == 0 || key / a.chunk == pos / a.chunk);
}

/* attention_scale_at of format/arch.h. */
static __device__ __forceinline__ float scale_at(const struct attend &a, uint32_t pos) {
    return a.temper > 0.0f
               ? a.scale * (log1pf(floorf(((float)pos + 1.0f) / a.temper_tok)) * a.temper + 1.0f)
               : a.scale;
}

/* scores[v][j] of the split's keys. Lanes in eights share a key: unit l, l + 8, ... each. */
template <int CODEC, int V>
static __device__ void split_scores(const struct attend &a, uint32_t kv_head, uint32_t first_vector,
                                    uint32_t n_vectors, uint32_t first_key, uint32_t n_keys,
                                    const float *q, uint32_t q_stride, float (*scores)[SPLIT]) {
    typedef cuda_unit<CODEC> unit;
    const uint32_t part = threadIdx.x % KEY_LANES, group = threadIdx.x / KEY_LANES;
    const uint32_t n_units = (a.head_dim + unit::COLS - 1) / unit::COLS;
    const uint32_t first_slot = first_key % a.capacity_tok;
    for (uint32_t j0 = 0; j0 < SPLIT; j0 += ATTEND_THREADS / KEY_LANES * KEYS_A_LANE) {
        float acc[V][KEYS_A_LANE] = {};
        const uint32_t j = j0 + group * KEYS_A_LANE;
        cuda_row<CODEC> keys[KEYS_A_LANE];
#pragma unroll
        for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
            keys[i] =
                stored<CODEC>(a, a.k, kv_head, first_slot, j + i < n_keys ? j + i : n_keys - 1);
        }
        for (uint32_t u = part; u < n_units; u += KEY_LANES) {
            unit loaded[KEYS_A_LANE];
#pragma unroll
            for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
                loaded[i].load(keys[i], u);
            }
#pragma unroll
            for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
                float x[unit::COLS];
                loaded[i].values(x);
#pragma unroll
                for (int v = 0; v < V; v++) {
#pragma unroll
                    for (int e = 0; e < unit::COLS; e++) {
                        acc[v][i] = fmaf(x[e], q[v * q_stride + u * unit::COLS + e], acc[v][i]);
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t v = 0; v < V; v++) {
#pragma unroll
            for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
                float sum = acc[v][i];
                for (int step = KEY_LANES / 2; step > 0; step /= 2) {
                    sum += __shfl_xor_sync(0xffffffffu, sum, step);
                }
                const uint32_t pos = vector_pos(a, first_vector + v);
                bool seen = v < n_vectors && j + i < n_keys && visible(a, first_key + j + i, pos);
                if (part == 0) {
                    scores[v][j + i] = seen ? sum * scale_at(a, pos) : -INFINITY;
                }
            }
        }
    }
}

/* Scores become exponentials; tail[v] = {maximum, sum}. A warp a vector. */
template <int V> static __device__ void split_softmax(float (*scores)[SPLIT], float (*tail)[2]) {
    const uint32_t lane = threadIdx.x % CUDA_WARP;
    for (uint32_t v = threadIdx.x / CUDA_WARP; v < V; v += ATTEND_THREADS / CUDA_WARP) {
        float greatest = -INFINITY, sum = 0.0f;
        for (uint32_t j = lane; j < SPLIT; j += CUDA_WARP) {
            greatest = scores[v][j] > greatest ? scores[v][j] : greatest;
        }
        greatest = cuda_warp_max(greatest);
        for (uint32_t j = lane; j < SPLIT; j += CUDA_WARP) {
            /* Where nothing is visible, all weights are zero. */
            float e = scores[v][j] == -INFINITY ? 0.0f : expf(scores[v][j] - greatest);
            scores[v][j] = e;
            sum += e;
        }
        sum = cuda_warp_sum(sum);
        if (lane == 0) {
            tail[v][0] = greatest;
            tail[v][1] = sum;
        }
    }
}

/* Weighted sums of the split's values. A thread has one unit of the columns and every `groups`-th
 * key; the groups' sums are added in order, vector after vector. */
template <int CODEC, int V>
static __device__ void split_values(const struct attend &a, uint32_t kv_head, uint32_t first_vector,
                                    uint32_t n_vectors, uint32_t first_key, uint32_t n_keys,
                                    const float (*weights)[SPLIT], const float (*tail)[2]) {
    typedef cuda_unit<CODEC> unit;
    __shared__ float sums[ATTEND_THREADS * unit::COLS];
    const uint32_t n_units = (a.head_dim + unit::COLS - 1) / unit::COLS;
    const uint32_t groups = ATTEND_THREADS / n_units, group = threadIdx.x / n_units;
    const uint32_t u = threadIdx.x % n_units, width = n_units * unit::COLS;
    const uint32_t split = blockIdx.x, first_slot = first_key % a.capacity_tok;
    float acc[V][unit::COLS] = {};
    for (uint32_t j0 = group; group < groups && j0 < n_keys; j0 += groups * KEYS_A_LANE) {
        unit loaded[KEYS_A_LANE];
#pragma unroll
        for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
            uint32_t j = j0 + i * groups;
            loaded[i].load(stored<CODEC>(a, a.v, kv_head, first_slot, j < n_keys ? j : j0), u);
        }
#pragma unroll
        for (uint32_t i = 0; i < KEYS_A_LANE; i++) {
            const uint32_t j = j0 + i * groups;
            float x[unit::COLS];
            loaded[i].values(x);
#pragma unroll
            for (int v = 0; v < V; v++) {
                const float weight = j < n_keys ? weights[v][j] : 0.0f;
#pragma unroll
                for (int e = 0; e < unit::COLS; e++) {
                    acc[v][e] = fmaf(weight, x[e], acc[v][e]);
                }
            }
        }
    }
#pragma unroll
    for (uint32_t v = 0; v < V; v++) {
        __syncthreads();
        for (int e = 0; e < unit::COLS && group < groups; e++) {
            sums[group * width + u * unit::COLS + e] = acc[v][e];
        }
        __syncthreads();
        if (v < n_vectors) {
            size_t head = vector_head(a, kv_head, first_vector + v);
            float *to = a.partial + (head * a.n_splits + split) * (a.head_dim + 2);
            for (uint32_t e = threadIdx.x; e < a.head_dim; e += ATTEND_THREADS) {
                float sum = 0.0f;
                for (uint32_t g = 0; g < groups; g++) {
                    sum += sums[g * width + e];
                }
                to[2 + e] = sum;
            }
            if (threadIdx.x < 2) {
                to[threadIdx.x] = tail[v][threadIdx.x];
            }
        }
    }
}

/* partial [rows, n_heads, n_splits, 2 + head_dim]: maximum, sum of exponentials, weighted values.
 * The queries lie in shared memory, padded to whole units with zeros. */
template <int CODEC, int V>
__global__ void __launch_bounds__(ATTEND_THREADS) attend_split(struct attend a) {
    typedef cuda_unit<CODEC> unit;
    __shared__ float scores[V][SPLIT];
    __shared__ float tail[V][2];
    float *q = (float *)cuda_shared;
    const uint32_t q_stride = (a.head_dim + unit::COLS - 1) / unit::COLS * unit::COLS;
    const uint32_t kv_head = blockIdx.z, first_vector = blockIdx.y * V;
    const uint32_t rest = a.n_vectors - first_vector, n_vectors = rest < V ? rest : V;
    const uint32_t first_key = (a.first_split + blockIdx.x) * SPLIT;
    const uint32_t last_pos = vector_pos(a, first_vector + n_vectors - 1);

    for (uint32_t i = threadIdx.x; i < V * q_stride; i += ATTEND_THREADS) {
        uint32_t v = i / q_stride, e = i % q_stride;
        bool there = v < n_vectors && e < a.head_dim;
        q[i] = there ? a.q[vector_head(a, kv_head, first_vector + v) * a.head_dim + e] : 0.0f;
    }
    __syncthreads();
    /* Keys that none of the vectors sees are not read: they may not have been written. */
    uint32_t n_keys = last_pos + 1 > first_key ? last_pos + 1 - first_key : 0;
    n_keys = n_keys < SPLIT ? n_keys : SPLIT;
    if (n_keys > 0) {
        split_scores<CODEC, V>(a, kv_head, first_vector, n_vectors, first_key, n_keys, q, q_stride,
                               scores);
    } else {
        for (uint32_t i = threadIdx.x; i < V * SPLIT; i += ATTEND_THREADS) {
            scores[i / SPLIT][i % SPLIT] = -INFINITY;
        }
    }
    __syncthreads();
    split_softmax<V>(scores, tail);
    __syncthreads();
    split_values<CODEC, V>(a, kv_head, first_vector, n_vectors, first_key, n_keys, scores, tail);
}

/* out [rows, n_heads, head_dim]: the splits put together, and a head's sink. */
__global__ void attend_join(struct attend a) {
    const float *from = a.partial + (size_t)blockIdx.x * a.n_splits * (a.head_dim + 2);
    const float sink = a.sinks ? a.sinks[blockIdx.x % a.n_heads] : -INFINITY;
    float greatest = sink, sum = 0.0f;
    for (uint32_t s = 0; s < a.n_splits; s++) {
        float m = from[(size_t)s * (a.head_dim + 2)];
        greatest = m > greatest ? m : greatest;
    }
    for (uint32_t s = 0; s < a.n_splits; s++) {
        const float *split = from + (size_t)s * (a.head_dim + 2);
        sum += split[1] > 0.0f ? split[1] * expf(split[0] - greatest) : 0.0f;
    }
    sum += a.sinks ? expf(sink - greatest) : 0.0f;
    for (uint32_t e = threadIdx.x; e < a.head_dim; e += blockDim.x) {
        float value = 0.0f;
        for (uint32_t s = 0; s < a.n_splits; s++) {
            const float *split = from + (size_t)s * (a.head_dim + 2);
            value += split[1] > 0.0f ? split[2 + e] * expf(split[0] - greatest) : 0.0f;
        }
        a.out[(size_t)blockIdx.x * a.head_dim + e] = value / sum;
    }
}

template <int CODEC, int V> static void launch_split(struct cuda *c, const struct attend *a) {
    dim3 grid(a->n_splits, cuda_ceil_div(a->n_vectors, V), a->n_kv_heads);
    size_t padded = align_up(a->head_dim, cuda_unit<CODEC>::COLS);
    CUDA_LAUNCH(c, (attend_split<CODEC, V>), grid, ATTEND_THREADS, V * padded * sizeof(float), *a);
}

/* One round: rows whose partial results fit the scratch. */
template <int CODEC>
static void launch_round(struct cuda *c, const struct attend *a, uint32_t rows) {
    if (a->n_vectors == 1) {
        launch_split<CODEC, 1>(c, a);
    } else if (a->n_vectors <= 4) {
        launch_split<CODEC, 4>(c, a);
    } else {
        launch_split<CODEC, VECTORS>(c, a);
    }
    CUDA_LAUNCH(c, attend_join, rows * a->n_heads, ATTEND_THREADS, 0, *a);
}

void cuda_attention(void *self, const struct attention_rule *rule, const struct kv *kv,
                    const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows,
                    float *out) {
    struct cuda *c = (struct cuda *)self;
    const size_t row_floats = (size_t)rule->n_heads * kv->head_dim;
    const size_t split_floats = (size_t)rule->n_heads * (kv->head_dim + 2);
    for (uint32_t done = 0; done < rows;) {
        struct attend a = {};
        a.k = kv->k;
        a.v = kv->v;
        a.sinks = rule->sinks ? weight_floats(sinks) : NULL;
        a.partial = c->partial;
        a.n_heads = rule->n_heads;
        a.n_kv_heads = kv->n_kv_heads;
        a.head_dim = kv->head_dim;
        a.capacity_tok = kv->capacity_tok;
        a.window = rule->window;
        a.chunk = rule->chunk;
        a.scale = attention_scale(rule);
        a.temper = rule->temper;
        a.temper_tok = rule->temper_tok;
        a.pos0 = pos0 + done;
        a.q = q + done * row_floats;
        a.out = out + done * row_floats;
        uint32_t first_key = attention_first_seen(rule, a.pos0);
        uint32_t n = rows - done;
        a.first_split = first_key / SPLIT;
        for (;; n = (n + 1) / 2) {
            a.n_splits = (a.pos0 + n - 1) / SPLIT - a.first_split + 1;
            if (n == 1 || n * split_floats * a.n_splits <= c->partial_floats) {
                break;
            }
        }
        if (n * split_floats * a.n_splits > c->partial_floats) {
            die("attention at position %u: more than the %u tokens of the limits", a.pos0,
                c->limits.max_ctx_tok);
        }
        a.n_vectors = n * (rule->n_heads / kv->n_kv_heads);
        if (kv->type == KV_F16) {
            launch_round<CODEC_F16>(c, &a, n);
        } else {
            launch_round<CODEC_F32>(c, &a, n);
        }
        done += n;
    }
}
