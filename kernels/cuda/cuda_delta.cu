/*
 * cuda_delta: the gated delta net: the causal convolution before it, and its recurrence.
 *
 * The recurrence: a warp has WALK_COLUMNS columns of one value head's S, in shared memory, and
 * walks the rows of the call one after the other; a column is one lane's, which goes over the key's
 * dimensions in order. So a row's result does not depend on how rows are shared out over calls.
 * What is done to a head's whole output, its norm and gate, is a kernel behind it.
 */
#include "kernels/cuda/cuda_rows.inc"

enum { WALK_COLUMNS = CUDA_WARP, CONV_THREADS = 128 };

/* ---- convolution ---------------------------------------------------------------------------- */

struct conv {
    const float *kernel, *x;
    float *tail, *y;
    uint32_t conv, cols, rows;
};

/* A row that came `back` rows before row r: of the call, or of the tail. */
static __device__ __forceinline__ const float *row_before(const struct conv &s, uint32_t r,
                                                          uint32_t back) {
    return r >= back ? s.x + (size_t)(r - back) * s.cols
                     : s.tail + (size_t)(s.conv - 1 + r - back) * s.cols;
}

__global__ void conv_each(struct conv s) {
    const size_t n = (size_t)s.rows * s.cols;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t row = (uint32_t)(i / s.cols), col = (uint32_t)(i % s.cols);
        float sum = 0.0f;
        for (uint32_t j = 0; j < s.conv; j++) {
            const float in = row_before(s, row, s.conv - 1 - j)[col];
            sum = __fadd_rn(sum, __fmul_rn(s.kernel[(size_t)col * s.conv + j], in));
        }
        s.y[i] = cuda_gated(sum, sum);
    }
}

/* The tail becomes the last rows of all, a thread a column: each of its rows is read before it is
 * written. */
__global__ void conv_tail(struct conv s) {
    const uint32_t col = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t i = 0; i + 1 < s.conv && col < s.cols; i++) {
        s.tail[(size_t)i * s.cols + col] = row_before(s, s.rows, s.conv - 1 - i)[col];
    }
}

void cuda_delta_conv(void *self, const struct delta_rule *rule, const struct weight *kernel,
                     const float *x, uint32_t rows, float *tail, float *y) {
    struct cuda *c = (struct cuda *)self;
    const struct conv s = {weight_floats(kernel), x,   tail, y, rule->conv,
                           delta_qkv_dim(rule),   rows};
    const uint32_t blocks = cuda_ceil_div((uint64_t)rows * s.cols, CONV_THREADS);
    CUDA_LAUNCH(c, conv_each, blocks < 8192 ? blocks : 8192, CONV_THREADS, 0, s);
    CUDA_LAUNCH(c, conv_tail, cuda_ceil_div(s.cols, CONV_THREADS), CONV_THREADS, 0, s);
}

/* ---- recurrence ----------------------------------------------------------------------------- */

struct delta {
    struct delta_rule rule;
    const float *rate, *dt_bias, *norm;
    const float *qkv, *z, *a, *b;
    float *state, *out;
    uint32_t rows;
    float eps;
};

/* y [n] = x / |x|, times `factor`; by a warp. */
static __device__ __forceinline__ void unit_vector(const float *x, uint32_t n, float factor,
                                                   float *y) {
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += CUDA_WARP) {
        squares = fmaf(x[i], x[i], squares);
    }
    const float scale = 1.0f / sqrtf(cuda_warp_sum(squares) + 1e-6f);
    for (uint32_t i = threadIdx.x; i < n; i += CUDA_WARP) {
        y[i] = x[i] * scale * factor;
    }
}

static __device__ __forceinline__ float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

/* One token in a column of S: what comes out of it. */
static __device__ __forceinline__ float step(float *S, uint32_t k_dim, const float *q,
                                             const float *k, float v, float decay, float strength) {
    float m = 0.0f, out = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < k_dim; i++) {
        const float s = S[i * WALK_COLUMNS] * decay;
        S[i * WALK_COLUMNS] = s;
        m = fmaf(k[i], s, m);
    }
    const float change = strength * (v - m);
#pragma unroll 8
    for (uint32_t i = 0; i < k_dim; i++) {
        const float s = fmaf(k[i], change, S[i * WALK_COLUMNS]);
        S[i * WALK_COLUMNS] = s;
        out = fmaf(q[i], s, out);
    }
    return out;
}

/* out [rows, n_v_heads, v_dim] = S^T q. Shared memory: a query, a key, the columns of S. */
__global__ void __launch_bounds__(WALK_COLUMNS) delta_walk(struct delta d) {
    const uint32_t k_dim = d.rule.k_dim, v_dim = d.rule.v_dim, head = blockIdx.x;
    const uint32_t k_head = head / (d.rule.n_v_heads / d.rule.n_k_heads);
    const uint32_t k_cols = d.rule.n_k_heads * k_dim, v_cols = d.rule.n_v_heads * v_dim;
    const uint32_t col = blockIdx.y * WALK_COLUMNS + threadIdx.x;
    const bool there = col < v_dim;
    float *q = (float *)cuda_shared, *k = q + k_dim, *S = k + k_dim + threadIdx.x;
    float *state = d.state + (size_t)head * k_dim * v_dim + col;
    for (uint32_t i = 0; i < k_dim; i++) {
        S[i * WALK_COLUMNS] = there ? state[(size_t)i * v_dim] : 0.0f;
    }
    for (uint32_t r = 0; r < d.rows; r++) {
        const float *row = d.qkv + (size_t)r * (2 * k_cols + v_cols);
        const size_t at = (size_t)r * d.rule.n_v_heads + head;
        const float decay = expf(-d.rate[head] * softplus(d.a[at] + d.dt_bias[head]));
        const float strength = 1.0f / (1.0f + expf(-d.b[at]));
        unit_vector(row + k_head * k_dim, k_dim, 1.0f / sqrtf((float)k_dim), q);
        unit_vector(row + k_cols + k_head * k_dim, k_dim, 1.0f, k);
        __syncthreads();
        const float v = there ? row[2 * k_cols + head * v_dim + col] : 0.0f;
        const float out = step(S, k_dim, q, k, v, decay, strength);
        if (there) {
            d.out[at * v_dim + col] = out;
        }
        __syncthreads();
    }
    for (uint32_t i = 0; i < k_dim && there; i++) {
        state[(size_t)i * v_dim] = S[i * WALK_COLUMNS];
    }
}

/* out = rmsnorm(out) * silu(z), a block a head of a row. */
__global__ void delta_gate(struct delta d) {
    const uint32_t v_dim = d.rule.v_dim;
    const size_t first = (size_t)blockIdx.x * v_dim;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < v_dim; i += blockDim.x) {
        squares = fmaf(d.out[first + i], d.out[first + i], squares);
    }
    const float scale = 1.0f / sqrtf(cuda_block_sum(squares) / (float)v_dim + d.eps);
    for (uint32_t i = threadIdx.x; i < v_dim; i += blockDim.x) {
        const float z = d.z[first + i];
        d.out[first + i] = d.norm[i] * (d.out[first + i] * scale) * cuda_gated(z, z);
    }
}

void cuda_delta_net(void *self, const struct delta_rule *rule, const struct delta_weights *w,
                    float eps, const float *qkv, const float *z, const float *a, const float *b,
                    uint32_t rows, float *state, float *out) {
    struct cuda *c = (struct cuda *)self;
    struct delta d = {};
    d.rule = *rule;
    d.rate = weight_floats(&w->rate);
    d.dt_bias = weight_floats(&w->dt_bias);
    d.norm = weight_floats(&w->norm);
    d.qkv = qkv;
    d.z = z;
    d.a = a;
    d.b = b;
    d.state = state;
    d.out = out;
    d.rows = rows;
    d.eps = eps;
    const dim3 walks(rule->n_v_heads, cuda_ceil_div(rule->v_dim, WALK_COLUMNS));
    CUDA_LAUNCH(c, delta_walk, walks, WALK_COLUMNS,
                (size_t)rule->k_dim * (2 + WALK_COLUMNS) * sizeof(float), d);
    CUDA_LAUNCH(c, delta_gate, rows * rule->n_v_heads, 128, 0, d);
}
