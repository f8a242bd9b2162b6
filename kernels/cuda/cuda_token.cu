/*
 * cuda_token: the sparse FFN of a single token: up to CUDA_FEW_USES uses, each of an expert of its
 * own. A block of threads computes a block of neurons from gates to partial sums; its tables are
 * arguments of the kernel. The partial sums wait for combine and add (cuda_fuse.cu), with which a
 * second kernel adds them up, in the order that the contract names.
 */
#include "kernels/cuda/cuda_experts.inc"

enum {
    WHOLE_THREADS = 256,
    FINISH_ROWS = 128, /* of partial sums in shared memory */
};

/* Neurons that lie one behind the other, in memory and in their expert: blocks of FFN_BLOCK from
 * `block` on, which is counted over all uses. */
struct few_run {
    const uint8_t *data;
    uint32_t n_neurons, block;
    size_t bias; /* where the first one's biases are, of gate and up */
};
struct few_table {
    struct few_run runs[CUDA_FEW_RUNS];
    uint32_t last_run[CUDA_FEW_USES], use[CUDA_FEW_USES]; /* last_run: of the use, and one more */
    uint32_t n_uses, n_runs, n_blocks;
};
static_assert(sizeof(struct few_table) + sizeof(struct ffn) <= 4000, "arguments of a kernel");

/* A block of neurons: gates and ups by warps, then downs, to row `first` + the block's number of
 * the partial sums. */
template <int CODEC>
__global__ void __launch_bounds__(WHOLE_THREADS)
    few_whole(const struct ffn f, const struct few_table t, uint32_t first) {
    enum { COLS = cuda_unit<CODEC>::COLS };
    __shared__ float values[1][FFN_BLOCK];
    const uint32_t warps = WHOLE_THREADS / CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    uint32_t k = 0, u = 0;
    while (k + 1 < t.n_runs && t.runs[k + 1].block <= blockIdx.x) {
        k++;
    }
    while (t.last_run[u] <= k) {
        u++;
    }
    const struct few_run &run = t.runs[k];
    const uint32_t skip = (blockIdx.x - run.block) * FFN_BLOCK, rest = run.n_neurons - skip;
    const uint32_t n = rest < FFN_BLOCK ? rest : FFN_BLOCK;
    const uint8_t *data = run.data + (size_t)skip * 3 * f.row_bytes;
    cuda_inputs<1> x;
    x.normed = false;
    x.weight = NULL;
    x.x[0] = f.x + (size_t)(t.use[u] / f.n_active) * f.dim;
    for (uint32_t base = 0; base < n; base += warps) {
        const uint32_t i = base + warp < n ? base + warp : n - 1;
        const uint8_t *gate = data + (size_t)i * 3 * f.row_bytes;
        const uint8_t *rows[2] = {gate, gate + f.row_bytes};
        float sums[2][1];
        cuda_warp_dots<CODEC, 2, 1>(rows, f.dim, x, f.tile_cols, base > 0, sums);
        if (threadIdx.x % CUDA_WARP == 0 && base + warp == i) {
            values[0][i] = ffn_value(f, run.bias + skip + i, sums[0][0], sums[1][0]);
        }
    }
    __syncthreads();
    float *partial = f.partial + (size_t)(first + blockIdx.x) * f.dim;
    for (uint32_t unit = threadIdx.x; unit * COLS < f.dim; unit += WHOLE_THREADS) {
        float sum[1][COLS];
        ffn_downs<CODEC, 1>(f, data, n, unit, values, sum);
        ffn_store<CODEC>(partial, f.dim, unit, sum[0]);
    }
}

/* What is left of uses: 32 columns a block. Rows of partial sums come to shared memory by all
 * threads, so that many loads are under way; each warp adds up those of its uses, in order. Then
 * the first one combines a token's uses, those computed elsewhere from `parts`, and adds. */
__global__ void __launch_bounds__(WHOLE_THREADS) few_finish(const struct cuda_parts p) {
    enum { WARPS = WHOLE_THREADS / CUDA_WARP, USES = CUDA_FEW_USES / WARPS };
    __shared__ float tile[FINISH_ROWS][CUDA_WARP], done[CUDA_FEW_USES][CUDA_WARP];
    const uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const uint32_t col = blockIdx.x * CUDA_WARP + lane;
    const bool there = col < p.dim;
    float sums[USES];
#pragma unroll
    for (uint32_t i = 0; i < USES; i++) {
        const uint32_t u = warp + i * WARPS;
        sums[i] = p.down_bias && u < p.n_uses && there
                      ? p.down_bias[(size_t)p.uses[u].expert * p.dim + col]
                      : 0.0f;
    }
    for (uint32_t first = 0; first < p.n_rows; first += FINISH_ROWS) {
        const uint32_t rest = p.n_rows - first, n = rest < FINISH_ROWS ? rest : FINISH_ROWS;
#pragma unroll 4
        for (uint32_t r = warp; r < n; r += WARPS) {
            tile[r][lane] = there ? p.partial[(size_t)(first + r) * p.dim + col] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < USES; i++) {
            const uint32_t u = warp + i * WARPS;
            const uint32_t from = u < p.n_uses ? p.uses[u].first : 0;
            const uint32_t to = u < p.n_uses ? from + p.uses[u].n : 0;
            for (uint32_t r = from > first ? from : first; r < to && r < first + n; r++) {
                sums[i] += tile[r - first][lane];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (uint32_t i = 0; i < USES; i++) {
        const uint32_t u = warp + i * WARPS;
        if (u < p.n_uses && there) {
            p.parts[(size_t)p.uses[u].use * p.dim + col] = sums[i];
        }
        done[u][lane] = sums[i];
    }
    __syncthreads();
    if (warp > 0 || !there || p.n_active == 0) {
        return;
    }
    float sum = 0.0f;
    for (uint32_t j = 0; j < p.n_active; j++) {
        uint32_t u = 0;
        while (u < p.n_uses && p.uses[u].use != j) {
            u++;
        }
        const float part = u < p.n_uses ? done[u][lane] : p.parts[(size_t)j * p.dim + col];
        const float term = __fmul_rn(p.weights ? p.weights[j] : 1.0f, part);
        sum = j == 0 ? term : __fadd_rn(sum, term);
    }
    p.y[col] = sum;
    if (p.sum) {
        p.sum[col] += sum;
    }
}

void cuda_queue_parts(struct cuda *c, const struct cuda_parts *p) {
    CUDA_QUEUE(c, few_finish, cuda_ceil_div(p->dim, CUDA_WARP), WHOLE_THREADS, 0, *p);
}

/* ---- the call ------------------------------------------------------------------------------- */

/* The chunks of a job go to the table as runs. False where it has no room for them. */
static bool add_runs(struct few_table *t, const struct expert_layer *layer,
                     const struct expert_job *job) {
    const uint32_t before = t->n_runs;
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        const struct ffn_chunk *k = &job->chunks[i];
        const size_t neuron_bytes = 3 * codec_row_bytes(k->codec, layer->dim);
        const size_t bias = (size_t)job->expert * layer->ffn_dim + k->first;
        struct few_run *last = t->n_runs > before ? &t->runs[t->n_runs - 1] : NULL;
        if (k->n_neurons == 0) {
            continue;
        }
        if (last && last->n_neurons % FFN_BLOCK == 0 && last->bias + last->n_neurons == bias &&
            last->data + last->n_neurons * neuron_bytes == k->data) {
            last->n_neurons += k->n_neurons;
        } else if (t->n_runs == CUDA_FEW_RUNS) {
            return false;
        } else {
            t->runs[t->n_runs++] = few_run{k->data, k->n_neurons, t->n_blocks, bias};
        }
        t->n_blocks += cuda_ceil_div(k->n_neurons, FFN_BLOCK);
    }
    return true;
}

/* All jobs as a table of few uses; false where they are not few, or not of one use each. */
static bool plan_few(const struct cuda *c, const struct expert_layer *layer,
                     const struct expert_job *jobs, uint32_t n_jobs, struct few_table *t) {
    t->n_uses = t->n_runs = t->n_blocks = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].n_uses != 1 || i == CUDA_FEW_USES || !add_runs(t, layer, &jobs[i])) {
            return false;
        }
        t->use[i] = jobs[i].uses[0];
        t->last_run[i] = t->n_runs;
        t->n_uses++;
    }
    return n_jobs > 0 && (size_t)t->n_blocks * layer->dim <= c->partial_floats;
}

/* The uses of a table join those whose sums wait for combine, or wait alone. */
static struct cuda_parts *join_parts(struct cuda *c, const struct ffn *f,
                                     const struct few_table *t) {
    struct cuda_parts *p = &c->fuse.parts;
    if (c->fuse.waiting != CUDA_PARTS || p->parts != f->parts || p->dim != f->dim ||
        p->n_active > 0 || p->n_uses + t->n_uses > CUDA_FEW_USES ||
        (size_t)(p->n_rows + t->n_blocks) * f->dim > c->partial_floats) {
        cuda_settle(c);
        *p = (struct cuda_parts){};
        p->dim = f->dim;
        p->parts = f->parts;
        p->partial = f->partial;
        p->down_bias = f->rule.bias ? f->down_bias : NULL;
        c->fuse.waiting = CUDA_PARTS;
    }
    return p;
}

template <int CODEC>
static void launch_whole(struct cuda *c, struct ffn f, const struct few_table *t, uint32_t first) {
    f.tile_cols = cuda_tile_cols(f.dim, 1);
    CUDA_QUEUE(c, (few_whole<CODEC>), t->n_blocks, WHOLE_THREADS, cuda_tile_bytes(f.tile_cols, 1),
               f, *t, first);
}

/* Queue the kernel of a table. Its sums wait. */
static void queue_few(struct cuda *c, const struct ffn *f, const struct codec *codec,
                      const struct expert_job *jobs, const struct few_table *t) {
    struct cuda_parts *p = join_parts(c, f, t);
    if (t->n_blocks > 0) {
        CUDA_BY_CODEC(codec->id, launch_whole, c, *f, t, p->n_rows);
    }
    for (uint32_t i = 0; i < t->n_uses; i++) {
        const uint32_t from = i == 0 ? 0 : t->last_run[i - 1], to = t->last_run[i];
        const uint32_t first = from < t->n_runs ? t->runs[from].block : t->n_blocks;
        const uint32_t end = to < t->n_runs ? t->runs[to].block : t->n_blocks;
        p->uses[p->n_uses++] = cuda_use{t->use[i], jobs[i].expert, p->n_rows + first, end - first};
    }
    p->n_rows += t->n_blocks;
}

bool cuda_token_experts(struct cuda *c, const struct ffn *f, const struct codec *codec,
                        const struct expert_layer *layer, const struct expert_job *jobs,
                        uint32_t n_jobs) {
    struct few_table t;
    const bool few = plan_few(c, layer, jobs, n_jobs, &t);
    if (few) {
        queue_few(c, f, codec, jobs, &t);
    }
    return few;
}
