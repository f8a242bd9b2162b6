/*
 * cpu_matmul: weight matrix times rows. Few rows: items stream encoded weight rows and decode in
 * registers. More rows: an item makes a panel of weight rows once and uses it for all of them.
 * Both give the same bits (dot.h). With weights that have scales the rows are quantised beforehand,
 * for panels of others they are spread.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>

enum {
    STREAM_BYTES = 128 * 1024, /* encoded weights of one streaming item */
    AHEAD_BYTES = 8 * 1024,    /* what is asked for in rows to come lies at least so far ahead */
    TOGETHER = 8,              /* rows side by side, where they are */
};

/* Shapes of a stream: one row after the other, some neighbours side by side, or CPU_APART rows side
 * by side that begin the quarters of an item, so that each quarter is a stream of its own. They ask
 * ahead for what comes so many bytes later, or for the same columns of rows to come. */
enum order { ORDER_ROWS, ORDER_SIDE, ORDER_APART };
static const struct matmul_shape {
    const char *name;
    enum order order;
    bool ask_rows;
    ptrdiff_t ahead_bytes;
} shapes[] = {
    {"stream", ORDER_ROWS, false, 0},       {"stream+1K", ORDER_ROWS, false, 1024},
    {"stream+2K", ORDER_ROWS, false, 2048}, {"stream+4K", ORDER_ROWS, false, 4096},
    {"side", ORDER_SIDE, false, 0},         {"side+rows", ORDER_SIDE, true, 0},
    {"apart+2K", ORDER_APART, false, 2048},
};
static_assert(sizeof shapes / sizeof *shapes == CPU_MATMUL_SHAPES, "a row each");

const char *cpu_matmul_shape_name(uint32_t shape) {
    return shapes[shape].name;
}

struct matmul {
    const struct cpu *c;
    const struct weight *w, *bias;
    const float *x;
    uint32_t rows, rows_an_item;
    enum order order;
    ptrdiff_t ahead_bytes;
    float *y;
};

void cpu_add_bias(const struct weight *bias, uint32_t first, uint32_t n, float *y) {
    if (!bias->data) {
        return;
    }
    const float *b = (const float *)(const void *)bias->data + first;
    for (uint32_t i = 0; i < n; i++) {
        y[i] += b[i];
    }
}

static uint32_t item_rows(const struct matmul *m, uint32_t first) {
    uint32_t rest = m->w->rows - first;
    return rest < m->rows_an_item ? rest : m->rows_an_item;
}

/* out[i] = weight row i of `rows` . input r. */
static void dot_rows_of(const struct matmul *m, const struct dot_rows *rows, uint32_t r,
                        float *out) {
    const struct dot_codec *k = cpu_codec(m->c, m->w->codec);
    if (k->qdot) {
        k->qdot(rows, &m->c->quants[r], out);
    } else {
        k->dot(rows, m->x + (size_t)r * m->w->cols, out);
    }
}

/* The same, quarter beside quarter; what is left over comes last. */
static void dot_quarters(const struct matmul *m, const struct dot_rows *rows, uint32_t r,
                         float *out) {
    const uint32_t apart = rows->n / CPU_APART, whole = apart * CPU_APART;
    struct dot_rows part = *rows;
    part.n = part.together = CPU_APART;
    part.stride_bytes = apart * rows->stride_bytes;
    for (uint32_t i = 0; i < apart; i++, part.data += rows->stride_bytes) {
        float sums[CPU_APART];
        dot_rows_of(m, &part, r, sums);
        cpu_put_apart(sums, i, apart, out);
    }
    part = *rows;
    part.data += whole * rows->stride_bytes;
    part.n -= whole;
    dot_rows_of(m, &part, r, out + whole);
}

static void stream_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct matmul *m = ctx;
    const struct weight *w = m->w;
    uint32_t first = item * m->rows_an_item, n = item_rows(m, first);
    const uint32_t together = m->order == ORDER_SIDE ? TOGETHER : 1;
    struct dot_rows rows = {weight_row(w, first), w->stride_bytes, n, w->cols, together,
                            m->ahead_bytes};
    (void)worker;
    for (uint32_t r = 0; r < m->rows; r++) {
        float *y = m->y + (size_t)r * w->rows + first;
        if (m->order == ORDER_APART && r == 0) {
            dot_quarters(m, &rows, r, y);
        } else {
            dot_rows_of(m, &rows, r, y);
        }
        cpu_add_bias(m->bias, first, n, y);
        rows.ahead_bytes = 0; /* the next input finds the rows in cache */
        rows.together = TOGETHER;
    }
}

static void panel_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct matmul *m = ctx;
    const struct weight *w = m->w;
    struct cpu_worker *own = &m->c->workers[worker];
    const struct dot_codec *k = cpu_codec(m->c, w->codec);
    uint32_t first = item * m->rows_an_item, n = item_rows(m, first);
    if (k->qdot) {
        uint8_t *panel = (uint8_t *)own->panel;
        struct dot_rows rows = {weight_row(w, first), w->stride_bytes, n, w->cols, 0, 0};
        k->qpack(&rows, panel);
        k->qtile(panel, n, w->cols, m->c->quants, m->rows, m->y + first, w->rows);
    } else {
        const size_t floats = dot_spread_floats(w->cols);
        for (uint32_t i = 0; i < n; i++) {
            k->decode_spread(weight_row(w, first + i), w->cols, own->panel + i * floats);
        }
        for (uint32_t r = 0; r < m->rows; r++) {
            own->xs[r] = m->c->partial + r * floats;
        }
        m->c->isa->tile_spread(own->panel, n, w->cols, own->xs, m->rows, m->y + first, w->rows);
    }
    for (uint32_t r = 0; r < m->rows; r++) {
        cpu_add_bias(m->bias, first, n, m->y + (size_t)r * w->rows + first);
    }
}

/* Weight rows of one item: `most`, less where the threads would not all get some items; a multiple
 * of `unit`, which the kernels do at once. */
static uint32_t split(const struct cpu *c, uint32_t n, uint64_t most, uint32_t unit) {
    uint64_t even = n / (4 * (uint64_t)pool_threads(c->pool));
    uint64_t some = most < even ? most : even;
    return some < unit ? unit : (uint32_t)(some - some % unit);
}

/* One shape's stream; shapes take turns where there is one input, as when a token is decoded. */
static void run_streams(struct cpu *c, struct matmul *m, uint32_t unit) {
    const struct weight *w = m->w;
    struct shape_trial *trial = &c->shapes.matmul[w->codec->id];
    const uint64_t bytes = m->rows == 1 ? (uint64_t)w->rows * w->stride_bytes : 0;
    const bool tries = shape_tries(trial);
    const struct matmul_shape *shape = &shapes[shape_next(trial, bytes)];
    m->order = shape->order;
    m->ahead_bytes = shape->ahead_bytes;
    if (shape->ask_rows) {
        /* The same columns of rows that come after these: whole units further on. */
        m->ahead_bytes = (ptrdiff_t)(unit * w->stride_bytes);
        while (m->ahead_bytes < AHEAD_BYTES) {
            m->ahead_bytes *= 2;
        }
    }
    const uint64_t start = tries ? clock_ns() : 0;
    cpu_run(c, stream_item, m, cpu_ceil_div(w->rows, m->rows_an_item),
            (uint64_t)m->rows * w->rows * w->cols);
    if (tries) {
        shape_took(trial, bytes, clock_ns() - start);
    }
}

void cpu_matmul(void *self, const struct weight *w, const struct weight *bias, const float *x,
                uint32_t rows, float *y) {
    struct cpu *c = self;
    struct matmul m = {.c = c, .w = w, .bias = bias, .x = x, .rows = rows, .y = y};
    bool panel = rows >= CPU_PANEL_MIN_ROWS, quantised = cpu_codec(c, w->codec)->qdot != NULL;
    uint64_t most = STREAM_BYTES / (codec_row_bytes(w->codec, w->cols) + 1);
    if (panel && quantised) {
        most = DOT_PANEL_ROWS;
    } else if (panel) {
        most = c->panel_floats / dot_spread_floats(w->cols);
        most = most < CPU_PANEL_ROWS ? most : CPU_PANEL_ROWS;
    }
    if (quantised) {
        cpu_quantise(c, x, rows, w->cols);
    } else if (panel) {
        cpu_spread(c, x, rows, w->cols);
    }
    const uint32_t unit = quantised ? 8 : 4; /* rows that the kernels do at once */
    m.rows_an_item = split(c, w->rows, most, unit);
    if (panel) {
        cpu_run(c, panel_item, &m, cpu_ceil_div(w->rows, m.rows_an_item),
                (uint64_t)rows * w->rows * w->cols);
    } else {
        run_streams(c, &m, unit);
    }
}
