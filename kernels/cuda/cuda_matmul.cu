/*
 * cuda_matmul: weight matrix times rows. Few rows: a warp streams two weight rows (one for many
 * inputs) and multiplies them with all inputs, which lie in shared memory. More rows: blocks of
 * 64 x 64 outputs from decoded tiles.
 */
#include "kernels/cuda/cuda_rows.inc"

struct cuda_product {
    const uint8_t *data;
    size_t stride_bytes;
    uint32_t n_out, cols, rows, tile_cols;
    const float *bias, *x;
    float *y;
};

template <int CODEC, int NW, int R>
__global__ void __launch_bounds__(256) matmul_few(struct cuda_product p) {
    const uint32_t warps = blockDim.x / CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const float *x[R];
#pragma unroll
    for (uint32_t r = 0; r < R; r++) { /* those too many repeat the last one */
        x[r] = p.x + (size_t)(r < p.rows ? r : p.rows - 1) * p.cols;
    }
    bool staged = false;
    for (uint32_t base = blockIdx.x * warps * NW; base < p.n_out; base += gridDim.x * warps * NW) {
        const uint32_t first = base + warp * NW;
        const uint8_t *rows[NW];
        float sums[NW][R];
#pragma unroll
        for (uint32_t i = 0; i < NW; i++) {
            uint32_t row = first + i < p.n_out ? first + i : p.n_out - 1;
            rows[i] = p.data + row * p.stride_bytes;
        }
        cuda_warp_dots<CODEC, NW, R>(rows, p.cols, x, p.tile_cols, staged, sums);
        staged = true;
#pragma unroll
        for (uint32_t i = 0; i < NW; i++) {
#pragma unroll
            for (uint32_t r = 0; r < R; r++) {
                if (threadIdx.x % CUDA_WARP == 0 && first + i < p.n_out && r < p.rows) {
                    float bias = p.bias ? p.bias[first + i] : 0.0f;
                    p.y[(size_t)r * p.n_out + first + i] = sums[i][r] + bias;
                }
            }
        }
    }
}

template <int CODEC>
__global__ void __launch_bounds__(CUDA_TILE_THREADS) matmul_many(struct cuda_product p) {
    __shared__ struct cuda_tile tile;
    enum { PARTS = CUDA_TILE_K / cuda_unit<CODEC>::COLS };
    const uint32_t first = blockIdx.x * CUDA_TILE, first_row = blockIdx.y * CUDA_TILE;
    float acc[8][4] = {};
    for (uint32_t k0 = 0; k0 < p.cols; k0 += CUDA_TILE_K) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * PARTS; i += CUDA_TILE_THREADS) {
            uint32_t row = first + i / PARTS;
            cuda_tile_row<CODEC>(&tile, i / PARTS, i % PARTS,
                                 row < p.n_out ? p.data + row * p.stride_bytes : NULL, p.cols, k0);
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
                p.y[(size_t)row * p.n_out + col] = acc[i][j] + (p.bias ? p.bias[col] : 0.0f);
            }
        }
    }
}

template <int CODEC, int NW, int R> static void launch_few(struct cuda *c, struct cuda_product *p) {
    /* Small blocks where large ones would leave multiprocessors idle. */
    uint32_t warps = p->n_out >= 8u * NW * 2 * c->n_sms ? 8 : 2;
    uint32_t blocks = cuda_ceil_div(p->n_out, warps * NW), most = c->n_sms * 32 / warps;
    p->tile_cols = cuda_tile_cols(p->cols, R);
    CUDA_LAUNCH(c, (matmul_few<CODEC, NW, R>), blocks < most ? blocks : most, warps * CUDA_WARP,
                cuda_tile_bytes(p->tile_cols, R), *p);
}

template <int CODEC> static void launch(struct cuda *c, struct cuda_product *p) {
    if (p->rows == 1) {
        launch_few<CODEC, 2, 1>(c, p);
    } else if (p->rows == 2) {
        launch_few<CODEC, 1, 2>(c, p);
    } else if (p->rows <= 4) {
        launch_few<CODEC, 1, 4>(c, p);
    } else if (p->rows <= CUDA_FEW_ROWS) {
        launch_few<CODEC, 1, 8>(c, p);
    } else {
        dim3 grid(cuda_ceil_div(p->n_out, CUDA_TILE), cuda_ceil_div(p->rows, CUDA_TILE));
        CUDA_LAUNCH(c, (matmul_many<CODEC>), grid, CUDA_TILE_THREADS, 0, *p);
    }
}

void cuda_matmul(void *self, const struct weight *w, const struct weight *bias, const float *x,
                 uint32_t rows, float *y) {
    struct cuda *c = (struct cuda *)self;
    struct cuda_product p = {w->data, w->stride_bytes,           w->rows, w->cols, rows,
                             0,       (const float *)bias->data, x,       y};
    CUDA_BY_CODEC(w->codec->id, launch, c, &p);
}
