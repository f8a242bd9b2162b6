/*
 * cpu_experts: the sparse FFN.
 *
 * An expert with few uses goes the fused way: an item is a block of FFN_BLOCK neurons, whose
 * encoded rows are read once, in the order in which they lie in memory; it leaves a partial sum
 * [dim] for each use, and a second pass adds those in block order. Blocks go in waves that fit the
 * scratch. An expert with many uses goes the panel way: an item is a share of the uses, for which
 * it walks all neurons, decoding each block once and adding its sum straight to the outputs.
 * Both do the same additions in the same order, so they give the same bits.
 *
 * A packed chunk is decoded by each item that reads it: for a single use as it is multiplied, where
 * the instruction set can (exponents.h), else into the worker's own memory first. Either way only
 * its packed bytes come from memory: a chunk of 32 neurons fits a cache of the processor.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>

static_assert((int)FFN_BLOCK <= (int)DOT_PANEL_ROWS, "the gates of a block are one panel");
static_assert((int)FFN_BLOCK <= (int)DOT_BLOCK_ROWS, "its downs are one sum");

enum { SUM_COLS = 512 }; /* columns of a summing item */

/* Shapes of the fused way. Of so many neurons gates and ups are read before their downs; the gates
 * of `run` neurons before their ups, side by side. So with 1 and 1 bytes are read in the order in
 * which they lie. It asks ahead for what comes so many bytes later, for the rows that it reads
 * next, or for the same rows of the neurons that come after these. */
enum ask { ASK_BYTES, ASK_ROWS, ASK_NEURONS };
static const struct expert_shape {
    const char *name;
    uint32_t neurons, run;
    enum ask ask;
    ptrdiff_t ahead_bytes;
    bool apart;
} shapes[] = {
    {"stream", 1, 1, ASK_BYTES, 0},         {"stream+1K", 1, 1, ASK_BYTES, 1024},
    {"stream+4K", 1, 1, ASK_BYTES, 4096},   {"four", 4, 1, ASK_BYTES, 0},
    {"side", FFN_BLOCK, 8, ASK_BYTES, 0},   {"side+rows", FFN_BLOCK, 8, ASK_ROWS, 0},
    {"side+neurons", 8, 8, ASK_NEURONS, 0},
};

/* The same of rows with scales, whose downs are summed in integers: all of a block at once, when
 * its gates and ups are known. Downs are brought to cache as these are read, so that here, too,
 * bytes are asked for in the order in which they lie. With `apart` neurons that begin the quarters
 * of a block go side by side, so that each quarter is a stream of its own. */
static const struct expert_shape quant_shapes[] = {
    {"stream", FFN_BLOCK, 1, ASK_BYTES, 0},
    {"stream+1K", FFN_BLOCK, 1, ASK_BYTES, 1024},
    {"stream+4K", FFN_BLOCK, 1, ASK_BYTES, 4096},
    {"side", FFN_BLOCK, 8, ASK_BYTES, 0},
    {"side+neurons", FFN_BLOCK, 8, ASK_NEURONS, 0},
    {"apart+2K", FFN_BLOCK, CPU_APART, ASK_BYTES, 2048, true},
};

/* For rows that are in cache. */
static const struct expert_shape in_cache = {NULL, FFN_BLOCK, 8, ASK_BYTES, 0};

static_assert(sizeof shapes / sizeof *shapes <= SHAPE_MOST, "a trial holds all");
static_assert(sizeof quant_shapes / sizeof *quant_shapes <= SHAPE_MOST, "a trial holds all");

static const struct expert_shape *shapes_of(enum codec_id c) {
    return codec_has_scales(c) ? quant_shapes : shapes;
}

uint32_t cpu_expert_shapes(enum codec_id c) {
    return codec_has_scales(c) ? sizeof quant_shapes / sizeof *quant_shapes
                               : sizeof shapes / sizeof *shapes;
}

const char *cpu_expert_shape_name(enum codec_id c, uint32_t shape) {
    return shapes_of(c)[shape].name;
}

/* Shapes of products with rows as they are decoded: as many neurons at once as is best, or one;
 * with looks ahead or without. */
static const struct packed_shape {
    bool one, ask;
} packed_shapes[] = {{true, false}, {false, false}, {true, true}, {false, true}};
static_assert(sizeof packed_shapes / sizeof *packed_shapes == CPU_PACKED_SHAPES, "a row each");

struct ffn {
    struct cpu *c;
    const struct expert_layer *layer;
    /* Of the chunk at hand: see of_codec. */
    enum codec_id codec;
    const struct dot_codec *k;
    size_t row_bytes;
    uint32_t dim, n_active;
    const float *x;
    float *parts;
    /* The wave that is being filled: how much of each scratch it uses, and the sums of the last
     * job. */
    uint32_t n_blocks, n_sums;
    size_t used_floats;
    struct cpu_sum *open;
    uint64_t wave_bytes;              /* of its weights */
    bool wave_packed;                 /* whether all are packed, and all of one use; */
    bool wave_raw;                    /* or raw, and of one codec: */
    const struct codec *wave_codec;   /* that of its first block; NULL: it has none */
    const struct expert_shape *shape; /* NULL: each block the best one of its codec */
    const struct packed_shape *packed_shape;
    /* The panel way. */
    const struct expert_job *jobs;
    uint32_t uses_an_item;
};

/* What computes with a chunk of the codec. */
static struct ffn of_codec(const struct ffn *f, const struct codec *codec) {
    struct ffn g = *f;
    g.codec = codec->id;
    g.k = cpu_codec(f->c, codec);
    g.row_bytes = codec_row_bytes(codec, f->dim);
    return g;
}

static const float *use_input(const struct ffn *f, uint32_t use) {
    return f->x + (size_t)(use / f->n_active) * f->dim;
}

/* out[r] = rows . the input of `use`. */
static void use_dot(const struct ffn *f, const struct dot_rows *rows, uint32_t use, float *out) {
    if (f->k->qdot) {
        f->k->qdot(rows, &f->c->quants[use / f->n_active], out);
    } else {
        f->k->dot(rows, use_input(f, use), out);
    }
}

/* gate [n] of the neurons from `first` on, of which up [n] is known too, becomes what they give. */
static void activate(const struct ffn *f, const struct expert_job *job, uint32_t first, uint32_t n,
                     float *gate, float *up) {
    if (f->layer->rule.bias) {
        size_t at = (size_t)job->expert * f->layer->ffn_dim + first;
        for (uint32_t i = 0; i < n; i++) {
            gate[i] += f->layer->gate_bias[at + i];
            up[i] += f->layer->up_bias[at + i];
        }
    }
    f->c->isa->act_mul(&f->layer->rule, gate, up, n);
}

/* What the sum over a job's neurons starts from, [dim]; NULL: from zeros. */
static const float *start_of(const struct ffn *f, const struct expert_job *job) {
    return f->layer->rule.bias ? f->layer->down_bias + (size_t)job->expert * f->dim : NULL;
}

/* ---- the fused way -------------------------------------------------------------------------- */

/* Distance from one address to another, which may lie in another chunk. */
static ptrdiff_t bytes_between(const uint8_t *from, const uint8_t *to) {
    return (ptrdiff_t)((uintptr_t)to - (uintptr_t)from);
}

/* The rows of a chunk, decoded for this worker where they came packed. */
static const uint8_t *chunk_rows(const struct ffn *f, struct cpu_worker *own, const uint8_t *data,
                                 uint32_t n_neurons, uint32_t packed_bytes) {
    if (packed_bytes == 0) {
        return data;
    }
    size_t n = (size_t)n_neurons * 3 * f->dim;
    assert(n_neurons <= FFN_BLOCK && 2 * n <= f->c->limits.max_packed_bytes);
    exponents_decode(f->c->exponents, data, packed_bytes, n, own->chunk);
    return own->chunk;
}

/* Bring rows that are `stride_bytes` apart to cache: read a byte of each line, or ask for what lies
 * `ahead_bytes` on. */
static void bring(const uint8_t *rows, size_t row_bytes, size_t stride_bytes, uint32_t n,
                  ptrdiff_t ahead_bytes) {
    enum { LINE = 64 };
    for (uint32_t i = 0; i < n; i++, rows += stride_bytes) {
        for (size_t at = 0; at < row_bytes; at += LINE) {
            if (ahead_bytes != 0) {
                __builtin_prefetch((const void *)((uintptr_t)rows + at + (uintptr_t)ahead_bytes));
            } else {
                (void)*(const volatile uint8_t *)(rows + at);
            }
        }
    }
}

/* gate [n], up [n] = products of n neurons' rows, at `data`, with the input of `use`; `after` is
 * what is read next. Asks `ahead_bytes` ahead, unless the shape asks for rows. */
static void block_dots(const struct ffn *f, const struct expert_shape *shape, ptrdiff_t ahead_bytes,
                       const uint8_t *data, uint32_t n, const uint8_t *after, uint32_t use,
                       float *gate, float *up) {
    const size_t row_bytes = f->row_bytes, neuron_bytes = 3 * row_bytes;
    const bool brings = f->k->qmix && shape != &in_cache;
    for (uint32_t i = 0; i < n && shape->run == 1; i++) {
        const struct dot_rows rows = {
            data + i * neuron_bytes, row_bytes, 2, f->dim, 1, ahead_bytes};
        float both[2];
        use_dot(f, &rows, use, both);
        gate[i] = both[0];
        up[i] = both[1];
        if (brings) {
            bring(rows.data + 2 * row_bytes, row_bytes, neuron_bytes, 1, ahead_bytes);
        }
    }
    for (uint32_t i = 0; i < n && shape->run > 1; i += shape->run) {
        const uint32_t rest = n - i, run = rest < shape->run ? rest : shape->run;
        const uint8_t *gates = data + i * neuron_bytes, *ups = gates + row_bytes;
        struct dot_rows rows = {gates, neuron_bytes, run, f->dim, run, ahead_bytes};
        if (shape->ask == ASK_ROWS) {
            rows.ahead_bytes = (ptrdiff_t)row_bytes;
        }
        use_dot(f, &rows, use, gate + i);
        rows.data = ups;
        if (shape->ask == ASK_ROWS) {
            rows.ahead_bytes = bytes_between(ups, rest > run ? gates + run * neuron_bytes : after);
        }
        use_dot(f, &rows, use, up + i);
        if (brings) {
            bring(ups + row_bytes, row_bytes, neuron_bytes, run, ahead_bytes);
        }
    }
}

/* The same of a block whose neurons are a multiple of CPU_APART, quarter beside quarter, with rows
 * whose downs are brought. */
static void quarter_dots(const struct ffn *f, ptrdiff_t ahead_bytes, const uint8_t *data,
                         uint32_t n, uint32_t use, float *gate, float *up) {
    const size_t row_bytes = f->row_bytes, neuron_bytes = 3 * row_bytes;
    const uint32_t apart = n / CPU_APART;
    struct dot_rows rows = {data, apart * neuron_bytes, CPU_APART, f->dim, CPU_APART, ahead_bytes};
    for (uint32_t i = 0; i < apart; i++) {
        float sums[CPU_APART];
        rows.data = data + i * neuron_bytes;
        use_dot(f, &rows, use, sums);
        cpu_put_apart(sums, i, apart, gate);
        rows.data += row_bytes;
        use_dot(f, &rows, use, sums);
        cpu_put_apart(sums, i, apart, up);
        bring(rows.data + row_bytes, row_bytes, rows.stride_bytes, CPU_APART, ahead_bytes);
    }
}

/* out [dim] += a[i] * down row i of n neurons, the first of which lies at `downs`; `after` is what
 * is read next. Asks as block_dots does. */
static void block_downs(const struct ffn *f, const struct expert_shape *shape,
                        ptrdiff_t ahead_bytes, const uint8_t *downs, uint32_t n,
                        const uint8_t *after, const float *a, float *out) {
    const size_t neuron_bytes = 3 * f->row_bytes;
    for (uint32_t i = 0, run; i < n; i += run) {
        const uint32_t rest = n - i, most = shape->run > 1 ? shape->run : shape->neurons;
        run = rest < most ? rest : most;
        const uint8_t *here = downs + i * neuron_bytes;
        struct dot_rows rows = {here, neuron_bytes, run, f->dim, run, ahead_bytes};
        if (shape->ask == ASK_ROWS) {
            rows.ahead_bytes = bytes_between(here, rest > run ? here + run * neuron_bytes : after);
        }
        f->k->axpy(&rows, a + i, out);
    }
}

/* What block_use does where downs are summed in integers. */
static void quant_block_use(const struct ffn *f, const struct expert_shape *shape,
                            const struct cpu_block *b, const uint8_t *data, struct cpu_worker *own,
                            uint32_t use, float *out) {
    const size_t neuron_bytes = 3 * f->row_bytes;
    const uint32_t n = b->n_neurons;
    const struct dot_rows downs = {data + 2 * f->row_bytes, neuron_bytes, n, f->dim, n, 0};
    const ptrdiff_t ahead_bytes =
        shape->ask == ASK_NEURONS ? (ptrdiff_t)(shape->run * neuron_bytes) : shape->ahead_bytes;
    if (shape->apart && n % CPU_APART == 0) {
        quarter_dots(f, ahead_bytes, data, n, use, own->gate, own->up);
    } else {
        block_dots(f, shape, ahead_bytes, data, n, downs.data, use, own->gate, own->up);
    }
    activate(f, b->job, b->first, n, own->gate, own->up);
    f->k->qmix(&downs, own->gate, out);
}

/* out [dim] = the sum of a block's neurons, at `data`, for one use; `next` is what is read after
 * it. */
static void block_use(const struct ffn *f, const struct expert_shape *shape,
                      const struct cpu_block *b, const uint8_t *data, struct cpu_worker *own,
                      uint32_t use, const uint8_t *next, float *out) {
    const size_t neuron_bytes = 3 * f->row_bytes;
    if (f->k->qmix) {
        quant_block_use(f, shape, b, data, own, use, out);
        return;
    }
    memset(out, 0, f->dim * sizeof *out);
    for (uint32_t i = 0, n; i < b->n_neurons; i += n) {
        const uint32_t rest = b->n_neurons - i;
        n = rest < shape->neurons ? rest : shape->neurons;
        const uint8_t *here = data + i * neuron_bytes, *downs = here + 2 * f->row_bytes;
        const uint8_t *after = rest > n ? here + n * neuron_bytes : next;
        const ptrdiff_t ahead_bytes =
            shape->ask == ASK_NEURONS ? bytes_between(here, after) : shape->ahead_bytes;
        block_dots(f, shape, ahead_bytes, here, n, downs, use, own->gate, own->up);
        activate(f, b->job, b->first + i, n, own->gate, own->up);
        block_downs(f, shape, ahead_bytes, downs, n, after, own->gate, out);
    }
}

/* Whether a block is multiplied as it is decoded. */
static bool goes_by_rows(const struct ffn *f, const struct cpu_block *b) {
    return b->packed_bytes > 0 && b->job->n_uses == 1 && f->c->exponents->rows_open &&
           f->dim % CORM_EXPONENTS_BLOCK == 0;
}

/* Ask for parts `from` up to `to` of n of what rows_open will read first in `next`: lists 2 and 3
 * and literals. They are taken to be placed as in `e`, this block's; where that is wrong some lines
 * are asked for in vain. */
static void ask_for_lists(const struct corm_exponents *e, const struct cpu_block *b,
                          const struct cpu_block *next, uint32_t from, uint32_t to, uint32_t n) {
    enum { LINE = 64 };
    if (next == b || next->packed_bytes == 0) {
        return;
    }
    uintptr_t first = (uintptr_t)next->data + (uintptr_t)(e->lists[1] - b->data);
    size_t bytes = (size_t)(e->low - e->lists[1]);
    for (uintptr_t at = first + bytes * from / n; at < first + bytes * to / n; at += LINE) {
        __builtin_prefetch((const void *)at);
    }
}

/* What block_use does for a block's only use: the same operations on each number, in the same
 * order. */
static void rows_use(const struct ffn *f, const struct cpu_block *b, const struct cpu_block *next,
                     struct cpu_worker *own) {
    const struct exponents_isa *isa = f->c->exponents;
    const float *x = use_input(f, b->job->uses[0]);
    const size_t n = (size_t)b->n_neurons * 3 * f->dim;
    assert(f->k == &f->c->isa->codec[CODEC_BF16] && 2 * n <= f->c->limits.max_packed_bytes);
    struct corm_exponents e = corm_exponents_open(b->data, b->packed_bytes, n);
    struct exponents_rows rows = isa->rows_open(&e, f->dim, own->chunk, f->packed_shape->ask),
                          downs[EXPONENTS_TOGETHER_MAX];
    memset(b->partial, 0, f->dim * sizeof *b->partial);
    const uint32_t together = f->packed_shape->one ? 1 : exponents_together(f->dim);
    for (uint32_t i = 0, run; i < b->n_neurons; i += run) {
        run = b->n_neurons - i < together ? b->n_neurons - i : together;
        isa->gates_ups(&rows, run, x, own->gate, own->up, downs);
        activate(f, b->job, b->first + i, run, own->gate, own->up);
        isa->add_downs(downs, run, own->gate, b->partial);
        if (f->packed_shape->ask) {
            ask_for_lists(&e, b, next, i, i + run, b->n_neurons);
        }
    }
}

static void block_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct ffn *all = ctx;
    const struct cpu_block *b = &all->c->blocks[item];
    const struct ffn of = of_codec(all, b->codec), *f = &of;
    const struct expert_shape *best = shapes_of(f->codec) + f->c->shapes.experts[f->codec].best;
    /* The items in between are probably being done by the other threads. */
    uint32_t guess = item + pool_threads(f->c->pool);
    const struct cpu_block *next = guess < f->n_blocks ? &f->c->blocks[guess] : b;
    struct cpu_worker *own = &f->c->workers[worker];
    if (goes_by_rows(f, b)) {
        rows_use(f, b, next, own);
        return;
    }
    const uint8_t *rows = chunk_rows(f, own, b->data, b->n_neurons, b->packed_bytes);
    for (uint32_t j = 0; j < b->job->n_uses; j++) {
        /* The first use brings rows that are not packed; the others find them in cache. */
        const struct expert_shape *first = f->shape ? f->shape : best;
        const struct expert_shape *shape = j > 0 || b->packed_bytes > 0 ? &in_cache : first;
        block_use(f, shape, b, rows, own, b->job->uses[j], next->data,
                  b->partial + (size_t)j * f->dim);
    }
}

static void sum_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct ffn *f = ctx;
    uint32_t n_items = cpu_ceil_div(f->dim, SUM_COLS), first = item % n_items * SUM_COLS;
    uint32_t n = f->dim - first < SUM_COLS ? f->dim - first : SUM_COLS;
    const struct cpu_sum *s = &f->c->sums[item / n_items];
    float *out = s->out + first;
    (void)worker;
    if (s->fresh && s->from) {
        memcpy(out, s->from + first, n * sizeof *out);
    } else if (s->fresh) {
        memset(out, 0, n * sizeof *out);
    }
    for (uint32_t b = 0; b < s->n; b++) {
        const float *part = s->first + b * s->stride + first;
        for (uint32_t i = 0; i < n; i++) {
            out[i] += part[i];
        }
    }
}

static void run_wave(struct ffn *f) {
    /* Shapes take turns where all experts have one use, as when a token is decoded. */
    struct cpu_shapes *all = &f->c->shapes;
    const enum codec_id codec = f->wave_codec ? f->wave_codec->id : CODEC_BF16;
    struct shape_trial *trial = f->wave_packed ? &all->packed : &all->experts[codec];
    const uint64_t bytes = f->wave_packed || f->wave_raw ? f->wave_bytes : 0;
    const bool tries = shape_tries(trial);
    const uint32_t turn = shape_next(trial, bytes);
    f->packed_shape = &packed_shapes[f->wave_packed ? turn : all->packed.best];
    f->shape = bytes > 0 && !f->wave_packed ? shapes_of(codec) + turn : NULL;
    const uint64_t start = tries ? clock_ns() : 0;
    cpu_run(f->c, block_item, f, f->n_blocks, (uint64_t)f->n_blocks * FFN_BLOCK * 3 * f->dim);
    if (tries) {
        shape_took(trial, bytes, clock_ns() - start);
    }
    cpu_run(f->c, sum_item, f, f->n_sums * cpu_ceil_div(f->dim, SUM_COLS),
            ((uint64_t)f->n_blocks + f->n_sums) * f->dim);
    f->n_blocks = 0;
    f->n_sums = 0;
    f->used_floats = 0;
    f->wave_bytes = 0;
    f->wave_packed = f->wave_raw = true;
    f->wave_codec = NULL;
}

static bool has_room(const struct ffn *f, const struct expert_job *job) {
    return f->n_blocks < CPU_FFN_ITEMS && f->n_sums + job->n_uses <= CPU_FFN_SUMS &&
           f->used_floats + (size_t)f->dim * job->n_uses <= f->c->partial_floats;
}

/* Begin sums of a job's next blocks, in this wave or in a new one. */
static void open_sums(struct ffn *f, const struct expert_job *job, bool fresh) {
    if (!has_room(f, job)) {
        run_wave(f);
    }
    f->open = &f->c->sums[f->n_sums];
    f->n_sums += job->n_uses;
    for (uint32_t j = 0; j < job->n_uses; j++) {
        f->open[j] = (struct cpu_sum){
            .out = f->parts + (size_t)job->uses[j] * f->dim,
            .first = f->c->partial + f->used_floats + (size_t)j * f->dim,
            .stride = (size_t)job->n_uses * f->dim,
            .fresh = fresh,
            .from = start_of(f, job),
        };
    }
}

/* Neurons first .. first + n - 1 of a chunk. */
static void queue_block(struct ffn *f, const struct expert_job *job, const struct ffn_chunk *chunk,
                        uint32_t first, uint32_t n) {
    if (!has_room(f, job)) {
        open_sums(f, job, false);
    }
    const size_t neuron_bytes = 3 * codec_row_bytes(chunk->codec, f->dim);
    f->c->blocks[f->n_blocks++] = (struct cpu_block){
        .job = job,
        .data = chunk->data + first * neuron_bytes,
        .codec = chunk->codec,
        .n_neurons = n,
        .first = chunk->first + first,
        .packed_bytes = chunk->packed_bytes,
        .partial = f->c->partial + f->used_floats,
    };
    f->used_floats += (size_t)f->dim * job->n_uses;
    f->wave_bytes += chunk->packed_bytes ? chunk->packed_bytes : n * neuron_bytes;
    f->wave_codec = f->wave_codec ? f->wave_codec : chunk->codec;
    f->wave_packed = f->wave_packed && goes_by_rows(f, &f->c->blocks[f->n_blocks - 1]);
    f->wave_raw = f->wave_raw && chunk->packed_bytes == 0 && job->n_uses == 1 &&
                  chunk->codec == f->wave_codec;
    for (uint32_t j = 0; j < job->n_uses; j++) {
        f->open[j].n++;
    }
}

static void queue_job(struct ffn *f, const struct expert_job *job) {
    open_sums(f, job, true);
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        const struct ffn_chunk *chunk = &job->chunks[i];
        assert(chunk->packed_bytes == 0 || chunk->n_neurons <= FFN_BLOCK);
        for (uint32_t first = 0; first < chunk->n_neurons; first += FFN_BLOCK) {
            uint32_t rest = chunk->n_neurons - first;
            queue_block(f, job, chunk, first, rest < FFN_BLOCK ? rest : FFN_BLOCK);
        }
    }
}

/* ---- the panel way -------------------------------------------------------------------------- */

/* out [n_uses, FFN_BLOCK] = dots of n rows, every third in memory, with the inputs own->xs (or
 * own->quants). */
static void panel_dots(const struct ffn *f, struct cpu_worker *own, const uint8_t *rows, uint32_t n,
                       uint32_t n_uses, float *out) {
    if (f->k->qdot) {
        struct dot_rows w = {rows, 3 * f->row_bytes, n, f->dim, 0, 0};
        uint8_t *panel = (uint8_t *)own->panel;
        f->k->qpack(&w, panel);
        f->k->qtile(panel, n, f->dim, own->quants, n_uses, out, FFN_BLOCK);
        return;
    }
    const size_t floats = dot_spread_floats(f->dim), fit = f->c->panel_floats / floats;
    uint32_t at_once = fit < CPU_PANEL_ROWS ? (uint32_t)fit : CPU_PANEL_ROWS;
    for (uint32_t first = 0; first < n; first += at_once) {
        uint32_t m = n - first < at_once ? n - first : at_once;
        for (uint32_t i = 0; i < m; i++) {
            const uint8_t *row = rows + (size_t)(first + i) * 3 * f->row_bytes;
            f->k->decode_spread(row, f->dim, own->panel + i * floats);
        }
        f->c->isa->tile_spread(own->panel, m, f->dim, own->xs, n_uses, out + first, FFN_BLOCK);
    }
}

/* Add the sum of the block of n neurons from `first` on, which lie at `data`, to the outputs of
 * `n_uses` uses whose inputs are own->xs. */
static void panel_block(const struct ffn *f, struct cpu_worker *own, const struct expert_job *job,
                        uint32_t first, const uint8_t *data, uint32_t n, const uint32_t *uses,
                        uint32_t n_uses) {
    panel_dots(f, own, data, n, n_uses, own->gate);
    panel_dots(f, own, data + f->row_bytes, n, n_uses, own->up);
    for (uint32_t j = 0; j < n_uses; j++) {
        activate(f, job, first, n, own->gate + (size_t)j * FFN_BLOCK,
                 own->up + (size_t)j * FFN_BLOCK);
    }
    if (f->k->qmix_on) {
        const struct dot_rows downs = {data + 2 * f->row_bytes, 3 * f->row_bytes, n, f->dim, n, 0};
        for (uint32_t j = 0; j < n_uses; j++) {
            own->ys[j] = f->parts + (size_t)uses[j] * f->dim;
        }
        f->k->qmix_on(&downs, own->gate, FFN_BLOCK, n_uses, own->ys);
        return;
    }
    for (uint32_t col = 0; col < f->dim; col += CPU_FFN_COLS) {
        uint32_t cols = f->dim - col < CPU_FFN_COLS ? f->dim - col : CPU_FFN_COLS;
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *row = data + ((size_t)i * 3 + 2) * f->row_bytes;
            f->k->decode(row, f->dim, col, cols, own->slice + (size_t)i * CPU_FFN_COLS);
        }
        for (uint32_t j = 0; j < n_uses; j++) {
            own->ys[j] = f->parts + (size_t)uses[j] * f->dim + col;
        }
        f->c->isa->mix(own->slice, CPU_FFN_COLS, n, cols, own->gate, FFN_BLOCK, n_uses, own->ys);
    }
}

static bool goes_fused(const struct expert_job *job) {
    return job->n_uses < CPU_PANEL_MIN_ROWS;
}

static uint32_t panel_items(const struct ffn *f, const struct expert_job *job) {
    return goes_fused(job) ? 0 : cpu_ceil_div(job->n_uses, f->uses_an_item);
}

static void panel_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct ffn *f = ctx;
    struct ffn of;
    struct cpu_worker *own = &f->c->workers[worker];
    const struct expert_job *job = f->jobs;
    for (; item >= panel_items(f, job); job++) {
        item -= panel_items(f, job);
    }
    const uint32_t *uses = job->uses + (size_t)item * f->uses_an_item;
    uint32_t rest = job->n_uses - item * f->uses_an_item;
    uint32_t n_uses = rest < f->uses_an_item ? rest : f->uses_an_item;
    for (uint32_t j = 0; j < n_uses; j++) {
        own->xs[j] = f->c->partial + uses[j] / f->n_active * dot_spread_floats(f->dim);
        own->quants[j] = f->c->quants[uses[j] / f->n_active];
        float *part = f->parts + (size_t)uses[j] * f->dim;
        if (start_of(f, job)) {
            memcpy(part, start_of(f, job), f->dim * sizeof *part);
        } else {
            memset(part, 0, f->dim * sizeof *part);
        }
    }
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        const struct ffn_chunk *chunk = &job->chunks[i];
        of = of_codec(f, chunk->codec);
        const uint8_t *rows =
            chunk_rows(f, own, chunk->data, chunk->n_neurons, chunk->packed_bytes);
        for (uint32_t first = 0; first < chunk->n_neurons; first += FFN_BLOCK) {
            uint32_t left = chunk->n_neurons - first;
            panel_block(&of, own, job, chunk->first + first,
                        rows + (size_t)first * 3 * of.row_bytes,
                        left < FFN_BLOCK ? left : FFN_BLOCK, uses, n_uses);
        }
    }
}

/* ---- both ----------------------------------------------------------------------------------- */

void cpu_experts(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                 uint32_t n_jobs, const float *x, float *parts) {
    struct cpu *c = self;
    const uint32_t dim = layer->dim, n_active = layer->n_active;
    struct ffn f = {
        .c = c,
        .layer = layer,
        .dim = dim,
        .n_active = n_active,
        .x = x,
        .parts = parts,
        .jobs = jobs,
        .wave_packed = true,
        .wave_raw = true,
    };
    uint32_t panel_uses = 0, n_items = 0, rows = 0;
    bool quantised = false, spread = false;
    for (uint32_t i = 0; i < n_jobs; i++) {
        uint32_t last = jobs[i].n_uses ? jobs[i].uses[jobs[i].n_uses - 1] / n_active + 1 : 0;
        rows = last > rows ? last : rows;
        for (uint32_t k = 0; k < jobs[i].n_chunks; k++) {
            const bool q = cpu_codec(c, jobs[i].chunks[k].codec)->qdot;
            quantised = quantised || q;
            spread = spread || !q;
        }
    }
    if (rows > 0 && quantised) {
        cpu_quantise(c, x, rows, dim);
    }
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (!goes_fused(&jobs[i])) {
            panel_uses += jobs[i].n_uses;
        } else if (jobs[i].n_uses > 0) {
            queue_job(&f, &jobs[i]);
        }
    }
    run_wave(&f);
    if (panel_uses > 0 && spread) {
        cpu_spread(c, x, rows, dim);
    }

    /* Large shares decode less often, several a thread balance better. */
    f.uses_an_item = panel_uses / (4 * pool_threads(c->pool));
    f.uses_an_item = f.uses_an_item < 8 ? 8 : f.uses_an_item;
    f.uses_an_item = f.uses_an_item > CPU_FFN_USES ? CPU_FFN_USES : f.uses_an_item;
    for (uint32_t i = 0; i < n_jobs; i++) {
        n_items += panel_items(&f, &jobs[i]);
    }
    pool_run(c->pool, panel_item, &f, n_items);
}
