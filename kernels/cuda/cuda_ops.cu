/*
 * cuda_ops: operations that are a loop over elements, norms, rope, combine, embed.
 */
#include "kernels/cuda/cuda_rows.inc"

enum { EACH_THREADS = 256 };

static uint32_t grid_for(uint64_t n) {
    uint32_t blocks = cuda_ceil_div(n, EACH_THREADS);
    return blocks < 8192 ? blocks : 8192;
}

/* Elements of a grid-wide loop. */
#define EACH(i, n)                                                                                 \
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;                                      \
    i < (n);                                                                                       \
    i += (size_t)gridDim.x * blockDim.x

/* ---- elements ------------------------------------------------------------------------------- */

__global__ void clamp_each(float *x, size_t n, float limit) {
    for (EACH(i, n)) {
        float low = x[i] < -limit ? -limit : x[i]; /* a NaN passes both */
        x[i] = low > limit ? limit : low;
    }
}

__global__ void scale_each(float *x, size_t n, float factor) {
    for (EACH(i, n)) {
        x[i] *= factor;
    }
}

__global__ void scale_by_each(float *x, size_t n, const float *factor) {
    for (EACH(i, n)) {
        x[i] *= *factor;
    }
}

__global__ void softcap_each(float *x, size_t n, float cap) {
    for (EACH(i, n)) {
        x[i] = cap * tanhf(x[i] / cap);
    }
}

__global__ void act_mul_each(struct ffn_rule rule, float *g, const float *u, size_t n) {
    for (EACH(i, n)) {
        g[i] = cuda_act(rule, g[i]) * (u ? cuda_act_factor(rule, u[i]) : 1.0f);
    }
}

__global__ void sigmoid_mul_each(float *y, const float *g, size_t n) {
    for (EACH(i, n)) {
        y[i] *= 1.0f / (1.0f + expf(-g[i]));
    }
}

__global__ void add_each(float *y, const float *x, size_t n) {
    for (EACH(i, n)) {
        y[i] += x[i];
    }
}

static __device__ __forceinline__ float gate_of(enum gate_act act, float s) {
    if (act == GATE_SIGMOID) {
        return 1.0f / (1.0f + expf(-s));
    }
    return act == GATE_PLAIN || s > 20.0f ? s : log1pf(expf(s));
}

__global__ void gate_rows_each(enum gate_act act, float *y, const float *s, size_t n,
                               uint32_t dim) {
    for (EACH(i, n)) {
        y[i] *= gate_of(act, s[i / dim]);
    }
}

__global__ void combine_each(const float *parts, const float *weights, size_t n, uint32_t n_active,
                             uint32_t dim, float *y) {
    for (EACH(i, n)) {
        const size_t row = i / dim, col = i % dim;
        const float *part = parts + row * n_active * dim + col;
        const float *weight = weights ? weights + row * n_active : NULL;
        float sum = __fmul_rn(weight ? weight[0] : 1.0f, part[0]);
        for (uint32_t j = 1; j < n_active; j++) {
            sum = __fadd_rn(sum, __fmul_rn(weight ? weight[j] : 1.0f, part[(size_t)j * dim]));
        }
        y[i] = sum;
    }
}

__global__ void put_rows_each(float *y, size_t n, uint32_t dim, const float *rows,
                              const uint32_t *ids) {
    for (EACH(i, n)) {
        y[(size_t)ids[i / dim] * dim + i % dim] = rows[i];
    }
}

__global__ void rope_angles_each(uint32_t pos0, size_t n, const float *inv_freq, uint32_t half,
                                 float scale, float *cs) {
    for (EACH(i, n)) {
        float angle = __fmul_rn((float)(pos0 + (uint32_t)(i / half)), inv_freq[i % half]);
        cs[2 * i] = scale * cosf(angle);
        cs[2 * i + 1] = scale * sinf(angle);
    }
}

__global__ void rope_each(float *x, size_t n, uint32_t n_heads, uint32_t head_dim, const float *cs,
                          uint32_t half) {
    for (EACH(i, n)) {
        const size_t head = i / half, k = i % half, row = head / n_heads;
        float *lo = x + head * head_dim + k, *hi = lo + half;
        const float cosine = cs[(row * half + k) * 2], sine = cs[(row * half + k) * 2 + 1];
        cuda_turn(lo, hi, cosine, sine);
    }
}

void cuda_clamp(void *self, float *x, size_t n, float limit) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, clamp_each, grid_for(n), EACH_THREADS, 0, x, n, limit);
}

void cuda_scale(void *self, float *x, size_t n, float factor) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, scale_each, grid_for(n), EACH_THREADS, 0, x, n, factor);
}

void cuda_scale_by(void *self, float *x, size_t n, const struct weight *factor) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, scale_by_each, grid_for(n), EACH_THREADS, 0, x, n, weight_floats(factor));
}

void cuda_softcap(void *self, float *x, size_t n, float cap) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, softcap_each, grid_for(n), EACH_THREADS, 0, x, n, cap);
}

void cuda_act_mul(void *self, const struct ffn_rule *rule, float *g, const float *u, size_t n) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, act_mul_each, grid_for(n), EACH_THREADS, 0, *rule, g, u, n);
}

void cuda_sigmoid_mul(void *self, float *y, const float *g, size_t n) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, sigmoid_mul_each, grid_for(n), EACH_THREADS, 0, y, g, n);
}

void cuda_add(void *self, float *y, const float *x, size_t n) {
    struct cuda *c = (struct cuda *)self;
    if (!cuda_fuse_add(c, y, x, n)) {
        CUDA_LAUNCH(c, add_each, grid_for(n), EACH_THREADS, 0, y, x, n);
    }
}

void cuda_gate_rows(void *self, enum gate_act act, float *y, const float *s, uint32_t rows,
                    uint32_t dim) {
    struct cuda *c = (struct cuda *)self;
    size_t n = (size_t)rows * dim;
    CUDA_LAUNCH(c, gate_rows_each, grid_for(n), EACH_THREADS, 0, act, y, s, n, dim);
}

void cuda_combine(void *self, const float *parts, const float *weights, uint32_t rows,
                  uint32_t n_active, uint32_t dim, float *y) {
    struct cuda *c = (struct cuda *)self;
    size_t n = (size_t)rows * dim;
    if (!cuda_fuse_combine(c, parts, weights, rows, n_active, dim, y)) {
        CUDA_LAUNCH(c, combine_each, grid_for(n), EACH_THREADS, 0, parts, weights, n, n_active, dim,
                    y);
    }
}

void cuda_put_rows(void *self, float *y, uint32_t dim, const float *host_rows,
                   const uint32_t *host_ids, uint32_t n) {
    struct cuda *c = (struct cuda *)self;
    const uint32_t most = CUDA_SEGMENT_BYTES / (uint32_t)(dim * sizeof *host_rows); /* at once */
    if (!cuda_fuse_lets_rows(c, y, host_ids, n)) {
        cuda_settle(c);
    }
    for (uint32_t done = 0; done < n;) {
        const uint32_t some = n - done < most ? n - done : most;
        const size_t floats = (size_t)some * dim;
        const float *rows =
            (const float *)cuda_send(c, host_rows + (size_t)done * dim, floats * sizeof *host_rows);
        const uint32_t *ids =
            (const uint32_t *)cuda_send(c, host_ids + done, some * sizeof *host_ids);
        CUDA_QUEUE(c, put_rows_each, grid_for(floats), EACH_THREADS, 0, y, floats, dim, rows, ids);
        done += some;
    }
    cuda_series_end(c); /* the host goes on to wait for the device's own experts */
}

void cuda_rope_angles(void *self, uint32_t pos0, uint32_t rows, const float *host_inv_freq,
                      uint32_t half, float scale, float *cs) {
    struct cuda *c = (struct cuda *)self;
    size_t n = (size_t)rows * half;
    if (n == 0) {
        return;
    }
    const float *inv_freq = (const float *)cuda_send(c, host_inv_freq, half * sizeof(float));
    CUDA_LAUNCH(c, rope_angles_each, grid_for(n), EACH_THREADS, 0, pos0, n, inv_freq, half, scale,
                cs);
}

void cuda_queue_rope(struct cuda *c, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
                     const float *cs, uint32_t half) {
    const size_t n = (size_t)rows * n_heads * half;
    CUDA_QUEUE(c, rope_each, grid_for(n), EACH_THREADS, 0, x, n, n_heads, head_dim, cs, half);
}

void cuda_rope(void *self, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
               const float *cs, uint32_t half) {
    struct cuda *c = (struct cuda *)self;
    if (rows > 0 && half > 0 && !cuda_fuse_rope(c, x, rows, n_heads, head_dim, cs, half)) {
        cuda_settle(c);
        cuda_queue_rope(c, x, rows, n_heads, head_dim, cs, half);
    }
}

/* ---- embed ---------------------------------------------------------------------------------- */

template <int CODEC>
__global__ void embed_rows(const uint8_t *data, size_t stride_bytes, uint32_t cols,
                           const int32_t *ids, float *out) {
    typedef cuda_unit<CODEC> unit;
    const cuda_row<CODEC> row(data + (size_t)ids[blockIdx.x] * stride_bytes, cols);
    float *y = out + (size_t)blockIdx.x * cols;
    for (uint32_t u = threadIdx.x; u * unit::COLS < cols; u += blockDim.x) {
        unit loaded;
        float v[unit::COLS];
        loaded.load(row, u);
        cuda_decode(loaded, v);
        for (uint32_t i = 0; i < unit::COLS && u * unit::COLS + i < cols; i++) {
            y[u * unit::COLS + i] = v[i];
        }
    }
}

template <int CODEC>
static void launch_embed(struct cuda *c, const struct weight *table, const int32_t *ids,
                         uint32_t rows, float *out) {
    CUDA_LAUNCH(c, (embed_rows<CODEC>), rows, 128, 0, table->data, table->stride_bytes, table->cols,
                ids, out);
}

void cuda_embed(void *self, const struct weight *table, const int32_t *host_ids, uint32_t rows,
                float *out) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    const int32_t *ids = (const int32_t *)cuda_send(c, host_ids, rows * sizeof *host_ids);
    CUDA_BY_CODEC(table->codec->id, launch_embed, c, table, ids, rows, out);
}

/* ---- norms ---------------------------------------------------------------------------------- */

/* A block a vector. y may be x: a thread writes what it alone reads, after all have read. */
__global__ void rmsnorm_vector(const float *x, const float *weight, float eps, uint32_t dim,
                               float *y) {
    const size_t first = (size_t)blockIdx.x * dim;
    const float scale = cuda_norm_scale(x + first, dim, eps);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float v = x[first + i] * scale;
        y[first + i] = weight ? weight[i] * v : v;
    }
}

void cuda_queue_norm(struct cuda *c, const float *x, const float *weight, float eps, uint32_t n,
                     uint32_t dim, float *y) {
    CUDA_QUEUE(c, rmsnorm_vector, n, dim <= 256 ? 32 : 128, 0, x, weight, eps, dim, y);
}

void cuda_rmsnorm(void *self, const float *x, const struct weight *weight, float eps, uint32_t n,
                  uint32_t dim, float *y) {
    struct cuda *c = (struct cuda *)self;
    if (!cuda_fuse_norm(c, x, weight_floats(weight), eps, n, dim, y)) {
        cuda_settle(c);
        cuda_queue_norm(c, x, weight_floats(weight), eps, n, dim, y);
    }
}

/* A block a vector. y may be x, as above. */
__global__ void layernorm_vector(const float *x, const float *weight, const float *bias, float eps,
                                 uint32_t dim, float *y) {
    const size_t first = (size_t)blockIdx.x * dim;
    float sum = 0.0f, squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        sum += x[first + i];
    }
    const float mean = cuda_block_sum(sum) / (float)dim;
    __syncthreads(); /* the sums of warps make room for the next ones */
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float v = x[first + i] - mean;
        squares = fmaf(v, v, squares);
    }
    const float scale = 1.0f / sqrtf(cuda_block_sum(squares) / (float)dim + eps);
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float v = weight[i] * ((x[first + i] - mean) * scale);
        y[first + i] = bias ? v + bias[i] : v;
    }
}

void cuda_layernorm(void *self, const float *x, const struct weight *weight,
                    const struct weight *bias, float eps, uint32_t n, uint32_t dim, float *y) {
    struct cuda *c = (struct cuda *)self;
    CUDA_LAUNCH(c, layernorm_vector, n, dim <= 256 ? 32 : 512, 0, x, weight_floats(weight),
                weight_floats(bias), eps, dim, y);
}
