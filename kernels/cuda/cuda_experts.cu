/*
 * cuda_experts: the sparse FFN.
 *
 * Blocks of FFN_BLOCK neurons are the unit of work; what a neuron gives, act(gate . x, up . x),
 * lies in hidden[use][neuron]. An expert with few uses is streamed: a warp takes the gate and the
 * up row of a neuron, then threads that own columns add up the down rows of a block. Where all
 * partial sums of a call fit the scratch, blocks are added up by a kernel of their own, so that a
 * single token keeps the whole device busy; else one block of threads walks all blocks of neurons.
 * A single token's experts go another way (cuda_token.cu), with the same bits.
 * An expert with many uses goes by tiles of 64 uses: 32 neurons' gates and ups, then 64 columns.
 * Each way sums a block in neuron order from zero and adds blocks in order to the bias, so chunks
 * and the order in which experts arrive change nothing. Nor does it change anything that a call
 * whose tables would not fit a segment of the ring becomes several rounds of launches: a use is
 * computed in one of them, in the way that all uses of its expert go.
 */
#include "kernels/cuda/cuda_experts.inc"

enum { DOWN_THREADS = 128, FEW_USES = 2 /* uses that read a weight row together */ };

/* Up to FFN_BLOCK neurons, adjacent in memory. */
struct ffn_block {
    const uint8_t *data;
    uint32_t n_neurons;
    uint32_t first; /* column of hidden */
    size_t bias;    /* where the first one's biases are, of gate and up */
};

/* Blocks of one expert for some of its uses. */
struct ffn_item {
    uint32_t block, n_blocks;
    uint32_t use, n_uses; /* index in the table of uses */
    uint32_t expert;
};

/* Partials [n, dim], `stride` rows apart from `first`, make the output of a use. */
struct ffn_sum {
    uint32_t use, first, stride, n, expert;
};

/* A growing table of one call. */
struct table {
    uint8_t *at;
    size_t n, cap; /* bytes */
};

static void table_push(struct table *t, const void *item, size_t bytes) {
    t->at = (uint8_t *)mem_grow(t->at, t->n + bytes, &t->cap, 1);
    memcpy(t->at + t->n, item, bytes);
    t->n += bytes;
}

enum {
    BLOCKS,     /* struct ffn_block */
    USES,       /* uint32_t */
    FEW_GATES,  /* struct ffn_item: one block, up to FEW_USES uses */
    FEW_DOWNS,  /* struct ffn_item: a whole expert, up to FEW_USES uses */
    FEW_SUMS,   /* struct ffn_sum */
    MANY_GATES, /* struct ffn_item: one block, up to CUDA_TILE uses */
    MANY_DOWNS, /* struct ffn_item: a whole expert, up to CUDA_TILE uses */
    TABLES,
};

struct cuda_plan {
    struct table tables[TABLES], all;
    size_t at[TABLES]; /* of each table in `all` */
};

struct cuda_plan *cuda_plan_new(void) {
    return (struct cuda_plan *)mem_calloc(1, sizeof(struct cuda_plan));
}

void cuda_plan_free(struct cuda_plan *p) {
    for (int i = 0; p && i < TABLES; i++) {
        free(p->tables[i].at);
    }
    free(p ? p->all.at : NULL);
    free(p);
}

static __device__ __forceinline__ const float *use_input(const struct ffn &f, uint32_t use) {
    return f.x + (size_t)(f.uses[use] / f.n_active) * f.dim;
}

/* Neuron i of a block gives to use `use` what its gate and its up are to hidden. */
static __device__ __forceinline__ void store_hidden(const struct ffn &f,
                                                    const struct ffn_block &block, uint32_t i,
                                                    uint32_t use, float gate, float up) {
    f.hidden[(size_t)f.uses[use] * f.hidden_stride + block.first + i] =
        ffn_value(f, block.bias + i, gate, up);
}

/* What the sum over an expert's neurons starts from, in column `col`. */
static __device__ __forceinline__ float sum_start(const struct ffn &f, uint32_t expert,
                                                  uint32_t col) {
    return f.rule.bias && col < f.dim ? f.down_bias[(size_t)expert * f.dim + col] : 0.0f;
}

/* ---- few uses ------------------------------------------------------------------------------- */

template <int CODEC, int R>
__global__ void __launch_bounds__(256) few_gates(struct ffn f, const struct ffn_item *items) {
    const struct ffn_item item = items[blockIdx.x];
    const struct ffn_block block = f.blocks[item.block];
    const uint32_t warps = blockDim.x / CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    cuda_inputs<R> x;
    x.normed = false;
    x.weight = NULL;
#pragma unroll
    for (uint32_t r = 0; r < R; r++) {
        x.x[r] = use_input(f, item.use + (r < item.n_uses ? r : item.n_uses - 1));
    }
    for (uint32_t base = 0; base < block.n_neurons; base += warps) {
        const uint32_t i = base + warp < block.n_neurons ? base + warp : block.n_neurons - 1;
        const uint8_t *gate = block.data + (size_t)i * 3 * f.row_bytes;
        const uint8_t *rows[2] = {gate, gate + f.row_bytes};
        float sums[2][R];
        cuda_warp_dots<CODEC, 2, R>(rows, f.dim, x, f.tile_cols, base > 0, sums);
#pragma unroll
        for (uint32_t r = 0; r < R; r++) {
            if (threadIdx.x % CUDA_WARP == 0 && base + warp == i && r < item.n_uses) {
                store_hidden(f, block, i, item.use + r, sums[0][r], sums[1][r]);
            }
        }
    }
}

/* sum[r] = the block's downs, weighted by what lies in hidden, in unit u of the columns. All
 * threads come here. */
template <int CODEC, int R>
static __device__ __forceinline__ void down_block(const struct ffn &f, const struct ffn_item &item,
                                                  const struct ffn_block &block, uint32_t u,
                                                  float sum[R][cuda_unit<CODEC>::COLS]) {
    __shared__ float weights[R][FFN_BLOCK];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < R * FFN_BLOCK; i += blockDim.x) {
        uint32_t r = i / FFN_BLOCK, n = i % FFN_BLOCK;
        bool there = r < item.n_uses && n < block.n_neurons;
        weights[r][n] =
            there ? f.hidden[(size_t)f.uses[item.use + r] * f.hidden_stride + block.first + n]
                  : 0.0f;
    }
    __syncthreads();
    ffn_downs<CODEC, R>(f, block.data, block.n_neurons, u, weights, sum);
}

/* A block's partial sums: rows item * R .. of `partial`. */
template <int CODEC, int R>
__global__ void __launch_bounds__(DOWN_THREADS)
    few_partials(struct ffn f, const struct ffn_item *items) {
    const struct ffn_item item = items[blockIdx.x];
    const uint32_t u = blockIdx.y * DOWN_THREADS + threadIdx.x;
    float sum[R][cuda_unit<CODEC>::COLS];
    down_block<CODEC, R>(f, item, f.blocks[item.block], u, sum);
#pragma unroll
    for (uint32_t r = 0; r < R; r++) {
        if (r < item.n_uses) {
            ffn_store<CODEC>(f.partial + ((size_t)blockIdx.x * R + r) * f.dim, f.dim, u, sum[r]);
        }
    }
}

__global__ void few_sums(struct ffn f, const struct ffn_sum *sums) {
    const struct ffn_sum s = sums[blockIdx.x];
    const uint32_t col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col < f.dim) {
        float sum = sum_start(f, s.expert, col);
        for (uint32_t b = 0; b < s.n; b++) {
            sum += f.partial[((size_t)s.first + (size_t)b * s.stride) * f.dim + col];
        }
        f.parts[(size_t)s.use * f.dim + col] = sum;
    }
}

/* All blocks of an expert, one after the other. */
template <int CODEC, int R>
__global__ void __launch_bounds__(DOWN_THREADS)
    few_downs(struct ffn f, const struct ffn_item *items) {
    enum { COLS = cuda_unit<CODEC>::COLS };
    const struct ffn_item item = items[blockIdx.x];
    const uint32_t u = blockIdx.y * DOWN_THREADS + threadIdx.x;
    float total[R][COLS];
#pragma unroll
    for (int k = 0; k < COLS; k++) {
        const float start = sum_start(f, item.expert, u * COLS + k);
#pragma unroll
        for (int r = 0; r < R; r++) {
            total[r][k] = start;
        }
    }
    for (uint32_t b = 0; b < item.n_blocks; b++) {
        float sum[R][COLS];
        down_block<CODEC, R>(f, item, f.blocks[item.block + b], u, sum);
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
            for (int k = 0; k < COLS; k++) {
                total[r][k] += sum[r][k];
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < R; r++) {
        if (r < item.n_uses) {
            ffn_store<CODEC>(f.parts + (size_t)f.uses[item.use + r] * f.dim, f.dim, u, total[r]);
        }
    }
}

/* ---- many uses ------------------------------------------------------------------------------ */

/* The tile's weight rows are gate and up by turns, so a thread has both of its two neurons. */
template <int CODEC>
__global__ void __launch_bounds__(CUDA_TILE_THREADS)
    many_gates(struct ffn f, const struct ffn_item *items) {
    __shared__ struct cuda_tile tile;
    enum { PARTS = CUDA_TILE_K / cuda_unit<CODEC>::COLS };
    const struct ffn_item item = items[blockIdx.x];
    const struct ffn_block block = f.blocks[item.block];
    float acc[8][4] = {};
    for (uint32_t k0 = 0; k0 < f.dim; k0 += CUDA_TILE_K) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * PARTS; i += CUDA_TILE_THREADS) {
            uint32_t j = i / PARTS;
            const uint8_t *row = block.data + (size_t)(j / 2 * 3 + j % 2) * f.row_bytes;
            cuda_tile_row<CODEC>(&tile, j, i % PARTS, j / 2 < block.n_neurons ? row : NULL, f.dim,
                                 k0);
        }
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * CUDA_TILE_K; i += CUDA_TILE_THREADS) {
            uint32_t k = i % CUDA_TILE_K, r = i / CUDA_TILE_K;
            bool there = r < item.n_uses && k0 + k < f.dim;
            tile.x[k][r] = there ? use_input(f, item.use + r)[k0 + k] : 0.0f;
        }
        __syncthreads();
        cuda_tile_fma(&tile, acc);
    }
#pragma unroll /* or the sums would not lie in registers */
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t r = threadIdx.x / 16 * 8 + i;
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            const uint32_t neuron = threadIdx.x % 16 * 2 + j;
            if (r < item.n_uses && neuron < block.n_neurons) {
                store_hidden(f, block, neuron, item.use + r, acc[i][2 * j], acc[i][2 * j + 1]);
            }
        }
    }
}

/* 64 uses times 64 columns; TILE_K is FFN_BLOCK, so a slice is a block. */
template <int CODEC>
__global__ void __launch_bounds__(CUDA_TILE_THREADS)
    many_downs(struct ffn f, const struct ffn_item *items) {
    __shared__ struct cuda_tile tile;
    typedef cuda_unit<CODEC> unit;
    enum { PARTS = CUDA_TILE / unit::COLS };
    static_assert((int)CUDA_TILE_K == (int)FFN_BLOCK, "a slice of the tile is a block of neurons");
    const struct ffn_item item = items[blockIdx.x];
    const uint32_t first_col = blockIdx.y * CUDA_TILE;
    float total[8][4];
    for (int j = 0; j < 4; j++) {
        const float start = sum_start(f, item.expert, first_col + threadIdx.x % 16 * 4 + j);
        for (int i = 0; i < 8; i++) {
            total[i][j] = start;
        }
    }
    for (uint32_t b = 0; b < item.n_blocks; b++) {
        const struct ffn_block block = f.blocks[item.block + b];
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < FFN_BLOCK * PARTS; i += CUDA_TILE_THREADS) {
            uint32_t n = i / PARTS, part = i % PARTS, u = first_col / unit::COLS + part;
            float v[unit::COLS] = {};
            if (n < block.n_neurons && u * unit::COLS < f.dim) {
                size_t at = ((size_t)n * 3 + 2) * f.row_bytes;
                unit loaded;
                loaded.load(cuda_row<CODEC>(block.data + at, f.dim), u);
                cuda_decode(loaded, v);
            }
            for (int k = 0; k < unit::COLS; k++) {
                tile.w[n][part * unit::COLS + k] = v[k];
            }
        }
        for (uint32_t i = threadIdx.x; i < CUDA_TILE * FFN_BLOCK; i += CUDA_TILE_THREADS) {
            uint32_t n = i % FFN_BLOCK, r = i / FFN_BLOCK;
            bool there = r < item.n_uses && n < block.n_neurons;
            tile.x[n][r] =
                there ? f.hidden[(size_t)f.uses[item.use + r] * f.hidden_stride + block.first + n]
                      : 0.0f;
        }
        __syncthreads();
        float acc[8][4] = {};
        cuda_tile_fma(&tile, acc);
        for (int i = 0; i < 8; i++) {
            for (int j = 0; j < 4; j++) {
                total[i][j] += acc[i][j];
            }
        }
    }
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t r = threadIdx.x / 16 * 8 + i;
        for (uint32_t j = 0; j < 4 && r < item.n_uses; j++) {
            uint32_t col = first_col + threadIdx.x % 16 * 4 + j;
            if (col < f.dim) {
                f.parts[(size_t)f.uses[item.use + r] * f.dim + col] = total[i][j];
            }
        }
    }
}

/* ---- the call ------------------------------------------------------------------------------- */

template <typename T> static uint32_t table_len(const struct cuda_plan *p, int table) {
    return (uint32_t)(p->tables[table].n / sizeof(T));
}

/* The blocks of a job go to the table. Returns their number. */
static uint32_t plan_blocks(const struct cuda *c, struct cuda_plan *p,
                            const struct expert_layer *layer, const struct expert_job *job) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        const struct ffn_chunk *chunk = &job->chunks[i];
        const size_t neuron_bytes = 3 * codec_row_bytes(chunk->codec, layer->dim);
        for (uint32_t first = 0; first < chunk->n_neurons; first += FFN_BLOCK) {
            uint32_t rest = chunk->n_neurons - first;
            struct ffn_block block = {};
            block.data = chunk->data + first * neuron_bytes;
            block.n_neurons = rest < FFN_BLOCK ? rest : FFN_BLOCK;
            block.first = n * FFN_BLOCK;
            block.bias = (size_t)job->expert * layer->ffn_dim + chunk->first + first;
            if (block.first + FFN_BLOCK > c->hidden_stride) {
                die("an expert of more than %u neurons", c->limits.max_ffn);
            }
            table_push(&p->tables[BLOCKS], &block, sizeof block);
            n++;
        }
    }
    return n;
}

/* A job's uses are tiled, or streamed `r` at a time. */
static bool goes_by_tiles(const struct expert_job *job) {
    return job->n_uses >= CUDA_MANY_USES;
}
static uint32_t step_of(const struct expert_job *job, uint32_t r) {
    return goes_by_tiles(job) ? (uint32_t)CUDA_TILE : r;
}

static uint32_t count_blocks(const struct expert_job *job) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        n += cuda_ceil_div(job->chunks[i].n_neurons, FFN_BLOCK);
    }
    return n;
}

/* How many of the job's uses, of which `left` are left, fit with what the tables hold already: a
 * number of whole steps, or all that are left; 0: not one step. */
static uint32_t uses_that_fit(const struct cuda_plan *p, const struct expert_job *job,
                              uint32_t left, uint32_t r) {
    const size_t n_blocks = count_blocks(job), step = step_of(job, r);
    const size_t once = n_blocks * sizeof(struct ffn_block);
    const size_t a_step = (n_blocks + 1) * sizeof(struct ffn_item) +
                          step * (sizeof(uint32_t) + sizeof(struct ffn_sum));
    size_t held = TABLES * 16; /* the gaps between them */
    for (int i = 0; i < TABLES; i++) {
        held += p->tables[i].n;
    }
    if (held + once + a_step > CUDA_SEGMENT_BYTES) {
        return 0;
    }
    const size_t fit = (CUDA_SEGMENT_BYTES - held - once) / a_step * step;
    return fit < left ? (uint32_t)fit : left;
}

/* `n` uses of a job, from `first` on, go to the tables. */
static void plan_job(const struct cuda *c, struct cuda_plan *p, const struct expert_layer *layer,
                     const struct expert_job *job, uint32_t first, uint32_t n, uint32_t r) {
    const uint32_t block = table_len<struct ffn_block>(p, BLOCKS);
    const uint32_t use = table_len<uint32_t>(p, USES);
    const uint32_t n_blocks = plan_blocks(c, p, layer, job);
    const bool many = goes_by_tiles(job);
    const uint32_t step = step_of(job, r), n_groups = cuda_ceil_div(n, step);
    const uint32_t first_item = table_len<struct ffn_item>(p, FEW_GATES);
    table_push(&p->tables[USES], job->uses + first, n * sizeof *job->uses);
    for (uint32_t b = 0; b <= n_blocks; b++) { /* the last round is for the whole expert */
        for (uint32_t g = 0; g < n_groups; g++) {
            uint32_t rest = n - g * step;
            struct ffn_item item = {block + b, 1, use + g * step, rest < step ? rest : step,
                                    job->expert};
            int table = many ? MANY_GATES : FEW_GATES;
            if (b == n_blocks) {
                item.block = block;
                item.n_blocks = n_blocks;
                table = many ? MANY_DOWNS : FEW_DOWNS;
            }
            table_push(&p->tables[table], &item, sizeof item);
        }
    }
    for (uint32_t u = 0; u < n && !many; u++) {
        struct ffn_sum sum = {job->uses[first + u], (first_item + u / r) * r + u % r, n_groups * r,
                              n_blocks, job->expert};
        table_push(&p->tables[FEW_SUMS], &sum, sizeof sum);
    }
}

/* All tables, one after the other, to the device; at[i] becomes where they are there. */
static const uint8_t *send_tables(struct cuda *c, struct cuda_plan *p) {
    static const uint8_t zeros[16] = {0};
    p->all.n = 0;
    for (int i = 0; i < TABLES; i++) {
        p->at[i] = p->all.n;
        if (p->tables[i].n > 0) {
            table_push(&p->all, p->tables[i].at, p->tables[i].n);
        }
        if (p->all.n % 16) {
            table_push(&p->all, zeros, 16 - p->all.n % 16);
        }
    }
    return (const uint8_t *)cuda_send(c, p->all.at, p->all.n);
}

template <int CODEC, int R>
static void launch_few(struct cuda *c, struct ffn f, const struct ffn_item *gates,
                       const struct ffn_item *downs, const struct ffn_sum *sums) {
    const struct cuda_plan *p = c->plan;
    const uint32_t n_gates = table_len<struct ffn_item>(p, FEW_GATES);
    const uint32_t n_downs = table_len<struct ffn_item>(p, FEW_DOWNS);
    const uint32_t slices = cuda_ceil_div(f.dim, DOWN_THREADS * cuda_unit<CODEC>::COLS);
    f.tile_cols = cuda_tile_cols(f.dim, R);
    if (n_gates > 0) {
        CUDA_LAUNCH(c, (few_gates<CODEC, R>), n_gates, 256, cuda_tile_bytes(f.tile_cols, R), f,
                    gates);
    }
    if ((size_t)n_gates * R * f.dim <= c->partial_floats) {
        if (n_gates > 0) {
            CUDA_LAUNCH(c, (few_partials<CODEC, R>), dim3(n_gates, slices), DOWN_THREADS, 0, f,
                        gates);
        }
        dim3 grid(table_len<struct ffn_sum>(p, FEW_SUMS), cuda_ceil_div(f.dim, 256));
        CUDA_LAUNCH(c, few_sums, grid, 256, 0, f, sums);
    } else {
        CUDA_LAUNCH(c, (few_downs<CODEC, R>), dim3(n_downs, slices), DOWN_THREADS, 0, f, downs);
    }
}

/* Queue what the tables hold, and empty them. */
template <int CODEC> static void launch(struct cuda *c, struct ffn f, uint32_t r) {
    const struct cuda_plan *p = c->plan;
    const uint8_t *tables = send_tables(c, c->plan);
    f.blocks = (const struct ffn_block *)(tables + p->at[BLOCKS]);
    f.uses = (const uint32_t *)(tables + p->at[USES]);
    const struct ffn_item *items[TABLES];
    for (int i = 0; i < TABLES; i++) {
        items[i] = (const struct ffn_item *)(tables + p->at[i]);
    }
    const struct ffn_sum *sums = (const struct ffn_sum *)(tables + p->at[FEW_SUMS]);
    if (p->tables[FEW_DOWNS].n > 0 && r == 1) {
        launch_few<CODEC, 1>(c, f, items[FEW_GATES], items[FEW_DOWNS], sums);
    } else if (p->tables[FEW_DOWNS].n > 0) {
        launch_few<CODEC, FEW_USES>(c, f, items[FEW_GATES], items[FEW_DOWNS], sums);
    }
    if (p->tables[MANY_GATES].n > 0) {
        CUDA_LAUNCH(c, (many_gates<CODEC>), table_len<struct ffn_item>(p, MANY_GATES),
                    CUDA_TILE_THREADS, 0, f, items[MANY_GATES]);
    }
    if (p->tables[MANY_DOWNS].n > 0) {
        dim3 grid(table_len<struct ffn_item>(p, MANY_DOWNS), cuda_ceil_div(f.dim, CUDA_TILE));
        CUDA_LAUNCH(c, (many_downs<CODEC>), grid, CUDA_TILE_THREADS, 0, f, items[MANY_DOWNS]);
    }
    for (int i = 0; i < TABLES; i++) {
        c->plan->tables[i].n = 0;
    }
}

void cuda_experts(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                  uint32_t n_jobs, const float *x, float *parts) {
    struct cuda *c = (struct cuda *)self;
    const struct codec *codec;
    if (!expert_jobs_codec(jobs, n_jobs, &codec)) {
        die("experts of several codecs in one call, although mixes_codecs is false");
    }
    codec = codec ? codec : codec_by_id(CODEC_F32); /* no chunk: there is nothing to decode */
    struct ffn f = {};
    f.x = x;
    f.gate_bias = layer->gate_bias;
    f.up_bias = layer->up_bias;
    f.down_bias = layer->down_bias;
    f.rule = layer->rule;
    f.hidden = c->hidden;
    f.parts = parts;
    f.partial = c->partial;
    f.row_bytes = codec_row_bytes(codec, layer->dim);
    f.dim = layer->dim;
    f.n_active = layer->n_active;
    f.hidden_stride = c->hidden_stride;
    if (cuda_token_experts(c, &f, codec, layer, jobs, n_jobs)) {
        return;
    }
    cuda_settle(c);
    uint32_t r = 1;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].n_uses > 1 && jobs[i].n_uses < CUDA_MANY_USES) {
            r = FEW_USES;
        }
    }
    for (uint32_t i = 0; i < n_jobs; i++) {
        for (uint32_t done = 0, n; done < jobs[i].n_uses; done += n) {
            n = uses_that_fit(c->plan, &jobs[i], jobs[i].n_uses - done, r);
            if (n > 0) {
                plan_job(c, c->plan, layer, &jobs[i], done, n, r);
            } else if (c->plan->tables[USES].n > 0) {
                CUDA_BY_CODEC(codec->id, launch, c, f, r);
            } else {
                die("an expert of %u chunks: its table does not fit", jobs[i].n_chunks);
            }
        }
    }
    if (c->plan->tables[USES].n > 0) {
        CUDA_BY_CODEC(codec->id, launch, c, f, r);
    }
}
