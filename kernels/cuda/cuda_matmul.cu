/*
 * cuda_matmul: weight matrices times rows. Few rows: a warp streams two weight rows (one for many
 * inputs) and multiplies them with all inputs, which lie in shared memory, normed on their way
 * there where a norm comes before. Several matrices of one codec and width are one matrix of more
 * rows. What the router gives one row is routed by the last block that is done. More rows: blocks
 * of 64 x 64 outputs from decoded tiles.
 */
#include "kernels/cuda/cuda_route.inc"
#include "kernels/cuda/cuda_rows.inc"

/* Which matrix has row `row` of all of them; `row` becomes its number there. */
static __device__ __forceinline__ uint32_t find_matrix(const struct cuda_product &p,
                                                       uint32_t *row) {
    uint32_t k = 0;
    while (k + 1 < p.n_w && *row >= p.w[k].n_out) {
        *row -= p.w[k].n_out;
        k++;
    }
    return k;
}

static __device__ __forceinline__ void store_product(const struct cuda_product &p, uint32_t row,
                                                     uint32_t r, float sum) {
    const struct cuda_factor &w = p.w[find_matrix(p, &row)];
    const size_t at = (size_t)r * w.n_out + row;
    const float y = sum + (w.bias ? w.bias[row] : 0.0f);
    w.y[at] = y;
    if (p.sum) {
        p.sum[at] += y;
    }
}

template <int CODEC, int NW, int R>
static __device__ __forceinline__ void few_products(const struct cuda_product &p) {
    const uint32_t warps = blockDim.x / CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    cuda_inputs<R> x;
    x.normed = p.normed != NULL;
    x.weight = p.weight;
#pragma unroll
    for (uint32_t r = 0; r < R; r++) { /* those too many repeat the last one */
        x.x[r] = p.x + (size_t)(r < p.rows ? r : p.rows - 1) * p.cols;
        x.scale[r] = p.normed ? cuda_norm_scale(x.x[r], p.cols, p.eps) : 1.0f;
    }
    if (p.normed && blockIdx.x == 0) {
#pragma unroll
        for (uint32_t r = 0; r < R; r++) {
            for (uint32_t i = threadIdx.x; r < p.rows && i < p.cols; i += blockDim.x) {
                p.normed[(size_t)r * p.cols + i] = x.at(r, i);
            }
        }
    }
    bool staged = false;
    for (uint32_t base = blockIdx.x * warps * NW; base < p.n_out; base += gridDim.x * warps * NW) {
        const uint32_t first = base + warp * NW;
        const uint8_t *rows[NW];
        float sums[NW][R];
#pragma unroll
        for (uint32_t i = 0; i < NW; i++) {
            uint32_t row = first + i < p.n_out ? first + i : p.n_out - 1;
            const struct cuda_factor &w = p.w[find_matrix(p, &row)];
            rows[i] = w.data + row * w.stride_bytes;
        }
        cuda_warp_dots<CODEC, NW, R>(rows, p.cols, x, p.tile_cols, staged, sums);
        staged = true;
#pragma unroll
        for (uint32_t i = 0; i < NW; i++) {
#pragma unroll
            for (uint32_t r = 0; r < R; r++) {
                if (threadIdx.x % CUDA_WARP == 0 && first + i < p.n_out && r < p.rows) {
                    store_product(p, first + i, r, sums[i][r]);
                }
            }
        }
    }
}

template <int CODEC, int NW, int R>
__global__ void __launch_bounds__(256) matmul_few(const struct cuda_product p) {
    few_products<CODEC, NW, R>(p);
}

/* One row for one matrix, that of a router, and then the choice. */
template <int CODEC>
__global__ void __launch_bounds__(256)
    matmul_route(const struct cuda_product p, const struct cuda_route route, uint32_t *arrived) {
    few_products<CODEC, 2, 1>(p);
    if (cuda_last_block(arrived, gridDim.x)) {
        cuda_route_row(route, 0);
    }
}

template <int CODEC>
__global__ void __launch_bounds__(CUDA_TILE_THREADS) matmul_many(const struct cuda_product p) {
    __shared__ struct cuda_tile tile;
    enum { PARTS = CUDA_TILE_K / cuda_unit<CODEC>::COLS };
    const uint32_t first = blockIdx.x * CUDA_TILE, first_row = blockIdx.y * CUDA_TILE;
    const struct cuda_factor &w = p.w[0];
    float acc[8][4] = {};
    for (uint32_t k0 = 0; k0 < p.cols; k0 += CUDA_TILE_K) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * PARTS; i += CUDA_TILE_THREADS) {
            uint32_t row = first + i / PARTS;
            cuda_tile_row<CODEC>(&tile, i / PARTS, i % PARTS,
                                 row < p.n_out ? w.data + row * w.stride_bytes : NULL, p.cols, k0);
        }
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * CUDA_TILE_K; i += CUDA_TILE_THREADS) {
            uint32_t k = i % CUDA_TILE_K, r = i / CUDA_TILE_K;
            bool there = first_row + r < p.rows && k0 + k < p.cols;
            tile.x[k][r] = there ? p.x[(size_t)(first_row + r) * p.cols + k0 + k] : 0.0f;
        }
        __syncthreads();
        cuda_tile_fma(&tile, acc);
    }
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t row = first_row + threadIdx.x / 16 * 8 + i;
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t col = first + threadIdx.x % 16 * 4 + j;
            if (row < p.rows && col < p.n_out) {
                w.y[(size_t)row * p.n_out + col] = acc[i][j] + (w.bias ? w.bias[col] : 0.0f);
            }
        }
    }
}

/* Small blocks where large ones would leave multiprocessors idle. */
struct few_grid {
    uint32_t blocks, threads;
};
static struct few_grid grid_of(const struct cuda *c, const struct cuda_product *p, uint32_t nw) {
    const uint32_t warps = p->n_out >= 8u * nw * 2 * c->n_sms ? 8 : 2;
    const uint32_t blocks = cuda_ceil_div(p->n_out, warps * nw), most = c->n_sms * 32 / warps;
    return few_grid{blocks < most ? blocks : most, warps * CUDA_WARP};
}

template <int CODEC, int NW, int R> static void launch_few(struct cuda *c, struct cuda_product p) {
    const struct few_grid g = grid_of(c, &p, NW);
    p.tile_cols = cuda_tile_cols(p.cols, R);
    CUDA_QUEUE(c, (matmul_few<CODEC, NW, R>), g.blocks, g.threads, cuda_tile_bytes(p.tile_cols, R),
               p);
}

template <int CODEC> static void launch(struct cuda *c, const struct cuda_product *p) {
    if (p->rows == 1) {
        launch_few<CODEC, 2, 1>(c, *p);
    } else if (p->rows == 2) {
        launch_few<CODEC, 1, 2>(c, *p);
    } else if (p->rows <= 4) {
        launch_few<CODEC, 1, 4>(c, *p);
    } else if (p->rows <= CUDA_FEW_ROWS) {
        launch_few<CODEC, 1, 8>(c, *p);
    } else {
        dim3 grid(cuda_ceil_div(p->n_out, CUDA_TILE), cuda_ceil_div(p->rows, CUDA_TILE));
        CUDA_QUEUE(c, (matmul_many<CODEC>), grid, CUDA_TILE_THREADS, 0, *p);
    }
}

void cuda_queue_product(struct cuda *c, enum codec_id codec, const struct cuda_product *p) {
    CUDA_BY_CODEC(codec, launch, c, p);
}

template <int CODEC>
static void launch_routed(struct cuda *c, struct cuda_product p, const struct cuda_route *r) {
    const struct few_grid g = grid_of(c, &p, 2);
    p.tile_cols = cuda_tile_cols(p.cols, 1);
    const size_t tile = cuda_tile_bytes(p.tile_cols, 1), choice = cuda_route_bytes(r);
    CUDA_QUEUE(c, (matmul_route<CODEC>), g.blocks, g.threads, tile > choice ? tile : choice, p, *r,
               c->arrived);
}

void cuda_queue_routed(struct cuda *c, enum codec_id codec, const struct cuda_product *p,
                       const struct cuda_route *r) {
    CUDA_BY_CODEC(codec, launch_routed, c, *p, r);
}

void cuda_matmul(void *self, const struct weight *w, const struct weight *bias, const float *x,
                 uint32_t rows, float *y) {
    struct cuda *c = (struct cuda *)self;
    if (cuda_fuse_product(c, w, weight_floats(bias), x, rows, y)) {
        return;
    }
    struct cuda_product p = {};
    p.w[0] = cuda_factor{w->data, w->stride_bytes, weight_floats(bias), y, w->rows};
    p.x = x;
    p.n_w = 1;
    p.n_out = w->rows;
    p.cols = w->cols;
    p.rows = rows;
    cuda_settle(c);
    cuda_queue_product(c, w->codec->id, &p);
}
