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
 *
 * For a single row with no more query heads than VECTORS to a KV head, the block norms and turns
 * its queries itself; the one with the newest key does the same with that, stores it with its
 * value, and then reads it as all others. Where the splits are few, the last block of a KV head
 * puts them together. (A block has all query heads of its KV head, so that nobody else reads what
 * it turns; queries are turned in memory, too, when all blocks have read them.)
 */
#include "kernels/cuda/cuda_attention.inc"

/* What attend_token does besides. */
struct attend_new {
    struct cuda_side q, k; /* k.x is NULL where keys and values are stored already */
    const float *v, *cs;
    uint32_t half;
    struct kv kv;
    uint32_t *arrived; /* [n_kv_heads] */
};

/* ---- store ---------------------------------------------------------------------------------- */

/* Raise the word where f16 cannot hold x, as struct kv says. */
static __device__ void tell_beyond(uint32_t *word, float x, uint32_t pos) {
    float size = fabsf(x);
    if (word && size >= 65520.0f && size < INFINITY) {
        atomicMax(word, 0xffffffffu - pos);
    }
}

/* Component i of a head's key and value, `at` being their place in the store. */
template <int TYPE>
static __device__ __forceinline__ void store_component(const struct kv &kv, size_t at, float k,
                                                       float v, uint32_t pos) {
    if (TYPE == KV_F16) {
        ((uint16_t *)kv.k)[at] = cuda_to_half(k);
        ((uint16_t *)kv.v)[at] = cuda_to_half(v);
        tell_beyond(kv.beyond, k, pos);
        tell_beyond(kv.beyond ? kv.beyond + 1 : NULL, v, pos);
    } else {
        ((float *)kv.k)[at] = k;
        ((float *)kv.v)[at] = v;
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
        store_component<TYPE>(kv, at, k[i], v[i], pos0 + (uint32_t)row);
    }
}

void cuda_queue_store(struct cuda *c, const struct kv *kv, const float *k, const float *v,
                      uint32_t pos0, uint32_t rows) {
    size_t n = (size_t)rows * kv->n_kv_heads * kv->head_dim;
    uint32_t blocks = cuda_ceil_div(n, 256);
    auto kv_store = kv->type == KV_F16 ? kv_store_each<KV_F16> : kv_store_each<KV_F32>;
    CUDA_QUEUE(c, kv_store, blocks < 4096 ? blocks : 4096, 256, 0, *kv, k, v, pos0, n);
}

void cuda_kv_store(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                   uint32_t rows) {
    struct cuda *c = (struct cuda *)self;
    if (!cuda_fuse_store(c, kv, k, v, pos0, rows)) {
        cuda_settle(c);
        cuda_queue_store(c, kv, k, v, pos0, rows);
    }
}

/* ---- some rows ------------------------------------------------------------------------------ */

template <int CODEC, int V>
__global__ void __launch_bounds__(ATTEND_THREADS) attend_split(const struct attend a) {
    float *q = (float *)cuda_shared;
    const uint32_t q_stride = query_stride<CODEC>(a.head_dim);
    const uint32_t kv_head = blockIdx.z, first_vector = blockIdx.y * V;
    const uint32_t rest = a.n_vectors - first_vector, n_vectors = rest < V ? rest : V;
    load_queries(a, kv_head, first_vector, n_vectors, V, q_stride, q);
    __syncthreads();
    one_split<CODEC, V>(a, kv_head, first_vector, n_vectors, q, q_stride);
}

/* ---- the splits together -------------------------------------------------------------------- */

/* A split with maximum m and sum s of a head whose maximum is `greatest`: what it counts for, and
 * what it adds to a sum over splits. Written out, so that both ways below have the same bits. */
static __device__ __forceinline__ float split_factor(float m, float s, float greatest) {
    return s > 0.0f ? expf(m - greatest) : 0.0f;
}
static __device__ __forceinline__ float add_split(float sum, float s, float x, float factor) {
    return s > 0.0f ? fmaf(x, factor, sum) : sum;
}

/* out [rows, n_heads, head_dim]: the splits put together, and a head's sink. */
__global__ void attend_join(const struct attend a) {
    const size_t stride = a.head_dim + 2;
    const float *from = a.partial + (size_t)blockIdx.x * a.n_splits * stride;
    const float sink = a.sinks ? a.sinks[blockIdx.x % a.n_heads] : -INFINITY;
    float greatest = sink, sum = 0.0f;
    for (uint32_t s = 0; s < a.n_splits; s++) {
        const float m = from[s * stride];
        greatest = m > greatest ? m : greatest;
    }
    for (uint32_t s = 0; s < a.n_splits; s++) {
        const float *split = from + s * stride;
        sum = add_split(sum, split[1], split[1], split_factor(split[0], split[1], greatest));
    }
    sum += a.sinks ? expf(sink - greatest) : 0.0f;
    for (uint32_t e = threadIdx.x; e < a.head_dim; e += blockDim.x) {
        float value = 0.0f;
        for (uint32_t s = 0; s < a.n_splits; s++) {
            const float *split = from + s * stride;
            value = add_split(value, split[1], split[2 + e],
                              split_factor(split[0], split[1], greatest));
        }
        a.out[(size_t)blockIdx.x * a.head_dim + e] = value / sum;
    }
}

/* The same by a block for the V query heads of a KV head, at most JOINED splits each, which other
 * blocks of the kernel have left. */
template <int V>
static __device__ __forceinline__ void join_few(const struct attend &a, uint32_t kv_head) {
    __shared__ float m[V][JOINED], sums[V][JOINED], factors[V][JOINED];
    static_assert(V * JOINED <= ATTEND_THREADS, "a thread for each split of each head");
    const size_t stride = a.head_dim + 2;
    const uint32_t v = threadIdx.x / JOINED, s = threadIdx.x % JOINED;
    const float *from = a.partial + vector_head(a, kv_head, v) * a.n_splits * stride + s * stride;
    const bool mine = v < a.n_vectors, there = mine && s < a.n_splits;
    float greatest = mine && a.sinks ? a.sinks[vector_head(a, kv_head, v)] : -INFINITY;
    const float sink = greatest;
    if (mine) {
        m[v][s] = there ? __ldcg(from) : -INFINITY;
        sums[v][s] = there ? __ldcg(from + 1) : 0.0f;
    }
    __syncthreads();
    float sum = 0.0f;
    if (mine) {
        for (uint32_t i = 0; i < a.n_splits; i++) {
            greatest = m[v][i] > greatest ? m[v][i] : greatest;
        }
        factors[v][s] = split_factor(m[v][s], sums[v][s], greatest);
        for (uint32_t i = 0; i < a.n_splits; i++) {
            sum =
                add_split(sum, sums[v][i], sums[v][i], split_factor(m[v][i], sums[v][i], greatest));
        }
        sum += a.sinks ? expf(sink - greatest) : 0.0f;
    }
    __syncthreads();
    if (mine && s == 0) {
        m[v][0] = sum; /* of the head: nobody needs the maximum any more */
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < a.head_dim; e += ATTEND_THREADS) {
        float values[V];
#pragma unroll
        for (int h = 0; h < V; h++) {
            values[h] = 0.0f;
        }
        for (uint32_t i = 0; i < a.n_splits; i++) {
#pragma unroll
            for (uint32_t h = 0; h < V; h++) {
                const size_t head = vector_head(a, kv_head, h < a.n_vectors ? h : 0);
                const float x = __ldcg(a.partial + (head * a.n_splits + i) * stride + 2 + e);
                if (h < a.n_vectors) {
                    values[h] = add_split(values[h], sums[h][i], x, factors[h][i]);
                }
            }
        }
#pragma unroll
        for (uint32_t h = 0; h < V; h++) {
            if (h < a.n_vectors) {
                a.out[vector_head(a, kv_head, h) * a.head_dim + e] = values[h] / m[h][0];
            }
        }
    }
}

/* ---- one token ------------------------------------------------------------------------------ */

/* By a warp: norm and turn a head in shared memory. */
static __device__ __forceinline__ void
turn_head(const struct attend_new &t, const struct cuda_side &side, float *x, uint32_t dim) {
    const uint32_t lane = threadIdx.x % CUDA_WARP;
    if (side.normed) {
        const float scale = cuda_norm_scale(x, dim, side.eps);
        __syncwarp();
        for (uint32_t i = lane; i < dim; i += CUDA_WARP) {
            const float v = x[i] * scale;
            x[i] = side.weight ? side.weight[i] * v : v;
        }
        __syncwarp();
    }
    for (uint32_t i = lane; side.turned && i < t.half; i += CUDA_WARP) {
        cuda_turn(&x[i], &x[i + t.half], t.cs[2 * i], t.cs[2 * i + 1]);
    }
}

/* The newest key and value of a KV head, in the block that has their split, to the store. */
template <int CODEC>
static __device__ __forceinline__ void store_newest(const struct attend &a,
                                                    const struct attend_new &t, uint32_t kv_head,
                                                    const float *key) {
    const size_t slot = (size_t)kv_head * a.capacity_tok + a.pos0 % a.capacity_tok;
    const size_t first = (size_t)kv_head * a.head_dim;
    for (uint32_t e = threadIdx.x; e < a.head_dim; e += ATTEND_THREADS) {
        store_component<CODEC == CODEC_F16 ? KV_F16 : KV_F32>(t.kv, slot * a.head_dim + e, key[e],
                                                              t.v[first + e], a.pos0);
        t.k.x[first + e] = key[e];
    }
}

template <int CODEC, int V>
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend_token(const struct attend a, const struct attend_new t) {
    float *q = (float *)cuda_shared;
    const uint32_t q_stride = query_stride<CODEC>(a.head_dim), kv_head = blockIdx.z;
    const bool newest = t.k.x && blockIdx.x == a.n_splits - 1;
    float *key = q + V * q_stride;
    load_queries(a, kv_head, 0, a.n_vectors, V, q_stride, q);
    for (uint32_t e = threadIdx.x; newest && e < a.head_dim; e += ATTEND_THREADS) {
        key[e] = t.k.x[(size_t)kv_head * a.head_dim + e];
    }
    __syncthreads();
    for (uint32_t v = threadIdx.x / CUDA_WARP; v < a.n_vectors + newest;
         v += ATTEND_THREADS / CUDA_WARP) {
        const bool is_key = v == a.n_vectors;
        turn_head(t, is_key ? t.k : t.q, is_key ? key : q + v * q_stride, a.head_dim);
    }
    __syncthreads();
    if (newest) {
        store_newest<CODEC>(a, t, kv_head, key);
    }
    __syncthreads();
    one_split<CODEC, V>(a, kv_head, 0, a.n_vectors, q, q_stride);
    if (!cuda_last_block(t.arrived + kv_head, gridDim.x)) {
        return;
    }
    if (a.n_splits <= JOINED) {
        join_few<V>(a, kv_head);
    }
    for (uint32_t i = threadIdx.x; i < a.n_vectors * a.head_dim; i += ATTEND_THREADS) {
        const uint32_t v = i / a.head_dim, e = i % a.head_dim;
        t.q.x[vector_head(a, kv_head, v) * a.head_dim + e] = q[v * q_stride + e];
    }
}

/* ---- the call ------------------------------------------------------------------------------- */

template <int CODEC, int V> static void launch_split(struct cuda *c, const struct attend *a) {
    dim3 grid(a->n_splits, cuda_ceil_div(a->n_vectors, V), a->n_kv_heads);
    CUDA_QUEUE(c, (attend_split<CODEC, V>), grid, ATTEND_THREADS,
               V * query_stride<CODEC>(a->head_dim) * sizeof(float), *a);
}

template <int CODEC, int V>
static void launch_token(struct cuda *c, const struct attend *a, const struct attend_new *t) {
    dim3 grid(a->n_splits, 1, a->n_kv_heads);
    CUDA_QUEUE(c, (attend_token<CODEC, V>), grid, ATTEND_THREADS,
               (V + 1) * query_stride<CODEC>(a->head_dim) * sizeof(float), *a, *t);
}

/* One round: rows whose partial results fit the scratch; with `t` a single row. */
template <int CODEC>
static void launch_round(struct cuda *c, const struct attend *a, const struct attend_new *t,
                         uint32_t rows) {
    if (t && a->n_vectors == 1) {
        launch_token<CODEC, 1>(c, a, t);
    } else if (t && a->n_vectors <= 4) {
        launch_token<CODEC, 4>(c, a, t);
    } else if (t) {
        launch_token<CODEC, VECTORS>(c, a, t);
    } else if (a->n_vectors == 1) {
        launch_split<CODEC, 1>(c, a);
    } else if (a->n_vectors <= 4) {
        launch_split<CODEC, 4>(c, a);
    } else {
        launch_split<CODEC, VECTORS>(c, a);
    }
    if (!t || a->n_splits > JOINED) {
        CUDA_QUEUE(c, attend_join, rows * a->n_heads, ATTEND_THREADS, 0, *a);
    }
}

/* Whether what waits is the queries of this call, and the newest keys of its sequence: taken over
 * then, else queued. Queries are turned by blocks that have all of their KV head, and in memory by
 * the last of these. */
static bool take_heads(struct cuda *c, const struct attend *a, const struct kv *kv, uint32_t rows,
                       struct attend_new *t) {
    const struct cuda_heads *h = &c->fuse.heads;
    bool takes = c->fuse.waiting == CUDA_HEADS && rows == 1 && a->n_vectors <= VECTORS &&
                 (!h->stored || (h->kv.k == kv->k && h->kv.v == kv->v && h->pos0 == a->pos0));
    for (uint32_t i = 0; i < h->n && takes; i++) {
        const struct cuda_side *s = &h->sides[i];
        const bool is_q = s->x == a->q, is_k = h->stored && s->x == h->k;
        takes = s->head_dim == a->head_dim &&
                ((is_q && s->n_heads == a->n_heads) || (is_k && s->n_heads == a->n_kv_heads));
        *(is_q ? &t->q : &t->k) = *s;
    }
    if (!takes) {
        cuda_settle(c);
        return false;
    }
    t->q.x = (float *)(uintptr_t)a->q;
    t->v = h->v;
    t->cs = h->cs;
    t->half = h->half;
    t->kv = *kv;
    t->arrived = c->arrived;
    c->fuse.waiting = CUDA_NOTHING;
    return true;
}

/* How many of `rows` rows, from a->pos0 on, have room for their partial results. */
static uint32_t rows_of_round(const struct cuda *c, struct attend *a, uint32_t rows) {
    const size_t split_floats = (size_t)a->n_heads * (a->head_dim + 2);
    for (uint32_t n = rows;; n = (n + 1) / 2) {
        a->n_splits = (a->pos0 + n - 1) / SPLIT - a->first_split + 1;
        a->n_vectors = n * (a->n_heads / a->n_kv_heads);
        if (n * split_floats * a->n_splits <= c->partial_floats) {
            return n;
        }
        if (n == 1) {
            die("attention at position %u: more than the %u tokens of the limits", a->pos0,
                c->limits.max_ctx_tok);
        }
    }
}

void cuda_attention(void *self, const struct attention_rule *rule, const struct kv *kv,
                    const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows,
                    float *out) {
    struct cuda *c = (struct cuda *)self;
    const size_t row_floats = (size_t)rule->n_heads * kv->head_dim;
    for (uint32_t done = 0; done < rows;) {
        struct attend a = {};
        struct attend_new t = {};
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
        a.first_split = attention_first_seen(rule, a.pos0) / SPLIT;
        a.q = q + done * row_floats;
        a.out = out + done * row_floats;
        const uint32_t n = rows_of_round(c, &a, rows - done);
        const struct attend_new *token = take_heads(c, &a, kv, rows, &t) ? &t : NULL;
        if (kv->type == KV_F16) {
            launch_round<CODEC_F16>(c, &a, token, n);
        } else {
            launch_round<CODEC_F32>(c, &a, token, n);
        }
        done += n;
    }
}
