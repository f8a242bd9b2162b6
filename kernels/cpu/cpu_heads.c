/*
 * cpu_heads: a product for each head, whose matrix is that head's alone.
 *
 * An item is a head with some of the rows, which it quantises for itself where weights have scales.
 * Few rows read the encoded weights as they lie; more share panels of them, with the same bits
 * (dot.h).
 */
#include "kernels/cpu/cpu.h"

enum { TOGETHER = 8 }; /* rows of weights side by side, where they are read as they lie */

struct heads {
    const struct cpu *c;
    const struct weight *w;
    const struct dot_codec *k;
    const float *x;
    float *y;
    uint32_t n_heads, n; /* rows of weights of a head */
    uint32_t rows;
};

/* What an item does: rows [first, first + rows) of head `head`. */
struct piece {
    const struct heads *s;
    struct cpu_worker *own;
    uint32_t head, first, rows;
};

static const float *input_at(const struct piece *p, uint32_t row) {
    return p->s->x + ((size_t)(p->first + row) * p->s->n_heads + p->head) * p->s->w->cols;
}
static float *output_at(const struct piece *p, uint32_t row) {
    return p->s->y + ((size_t)(p->first + row) * p->s->n_heads + p->head) * p->s->n;
}

static struct dot_rows rows_of(const struct piece *p, uint32_t first, uint32_t n) {
    const struct weight *w = p->s->w;
    return (struct dot_rows){
        weight_row(w, p->head * p->s->n + first), w->stride_bytes, n, w->cols, TOGETHER, 0};
}

static void read_rows(const struct piece *p) {
    const struct dot_rows rows = rows_of(p, 0, p->s->n);
    for (uint32_t r = 0; r < p->rows; r++) {
        if (p->s->k->qdot) {
            p->s->k->qdot(&rows, &p->own->quants[r], output_at(p, r));
        } else {
            p->s->k->dot(&rows, input_at(p, r), output_at(p, r));
        }
    }
}

/* n rows of weights from `first` on, times all rows. */
static void run_panel(const struct piece *p, uint32_t first, uint32_t n) {
    const struct heads *s = p->s;
    const uint32_t cols = s->w->cols;
    const size_t y_stride = (size_t)s->n_heads * s->n;
    const struct dot_rows rows = rows_of(p, first, n);
    if (s->k->qdot) {
        uint8_t *panel = (uint8_t *)p->own->panel;
        s->k->qpack(&rows, panel);
        s->k->qtile(panel, n, cols, p->own->quants, p->rows, output_at(p, 0) + first, y_stride);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        s->k->decode(rows.data + i * rows.stride_bytes, cols, 0, cols,
                     p->own->panel + (size_t)i * cols);
    }
    for (uint32_t r = 0; r < p->rows; r++) {
        p->own->xs[r] = input_at(p, r);
    }
    s->c->isa->tile(p->own->panel, cols, n, cols, p->own->xs, p->rows, output_at(p, 0) + first,
                    y_stride);
}

static void heads_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct heads *s = ctx;
    const uint32_t cols = s->w->cols, first = item / s->n_heads * CPU_HEAD_ROWS;
    const struct piece p = {
        .s = s,
        .own = &s->c->workers[worker],
        .head = item % s->n_heads,
        .first = first,
        .rows = s->rows - first < CPU_HEAD_ROWS ? s->rows - first : CPU_HEAD_ROWS,
    };
    for (uint32_t r = 0; s->k->qdot && r < p.rows; r++) {
        p.own->quants[r] = dot_quant_at(p.own->head_bytes + r * dot_quant_bytes(cols), cols);
        s->c->isa->quantise(input_at(&p, r), cols, &p.own->quants[r]);
    }
    if (p.rows < CPU_PANEL_MIN_ROWS) {
        read_rows(&p);
        return;
    }
    const uint32_t most = s->k->qdot ? DOT_PANEL_ROWS : CPU_PANEL_ROWS;
    for (uint32_t i = 0; i < s->n; i += most) {
        run_panel(&p, i, s->n - i < most ? s->n - i : most);
    }
}

void cpu_matmul_heads(void *self, const struct weight *w, uint32_t n_heads, const float *x,
                      uint32_t rows, float *y) {
    const struct cpu *c = self;
    struct heads s = {.c = c,
                      .w = w,
                      .k = cpu_codec(c, w->codec),
                      .x = x,
                      .y = y,
                      .n_heads = n_heads,
                      .n = w->rows / n_heads,
                      .rows = rows};
    cpu_run(c, heads_item, &s, n_heads * cpu_ceil_div(rows, CPU_HEAD_ROWS),
            (uint64_t)rows * w->rows * w->cols);
}
