/*
 * blas: see blas.h. The state starts with a struct cpu, so that the CPU backend's operations run on
 * it as they are; matmul and experts find the rest behind it.
 */
#include "prep/calib/blas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "kernels/cpu/cpu.h"
#include "prep/calib/fit.h"
#include "runtime/machine.h"

enum {
    PANEL_FLOATS = 4 * 1024 * 1024, /* 16 MiB of decoded weights at a time, and of gathered rows */
    FEW_ROWS = 8,                   /* below, decoding costs more than it saves */
    DECODE_ROWS = 8,                /* rows that one pool item decodes */
    FFN_PANEL = 256,                /* neurons of an expert that are decoded together */
};

struct blas {
    struct cpu cpu; /* first: see above */
    struct backend_ops ops;
    float *panel;     /* [panel_floats] */
    float *x, *part;  /* [panel_floats]: rows that chose an expert, gathered, and their outputs */
    float *gate, *up; /* [max_rows, FFN_PANEL] */
    size_t panel_floats;
};

/* ---- decoding in the pool ------------------------------------------------------------------- */

struct decode {
    const struct cpu *c;
    const struct weight *w;
    uint32_t first, n;
    float *panel;
};

static void decode_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct decode *d = ctx;
    const struct dot_codec *k = cpu_codec(d->c, d->w->codec);
    uint32_t cols = d->w->cols,
             end = (item + 1) * DECODE_ROWS < d->n ? (item + 1) * DECODE_ROWS : d->n;
    (void)worker;
    for (uint32_t i = item * DECODE_ROWS; i < end; i++) {
        k->decode(weight_row(d->w, d->first + i), cols, 0, cols, d->panel + (size_t)i * cols);
    }
}

/* Rows first .. first + n - 1 as floats: decoded into `panel`, or used where they lie where they
 * are floats already. */
static const float *panel_of(const struct cpu *c, const struct weight *w, uint32_t first,
                             uint32_t n, float *panel) {
    const uint8_t *row = weight_row(w, first);
    if (w->codec->id == CODEC_F32 && w->stride_bytes == (size_t)w->cols * sizeof(float) &&
        (uintptr_t)row % sizeof(float) == 0) {
        return (const float *)(const void *)row;
    }
    struct decode d = {.c = c, .w = w, .first = first, .n = n, .panel = panel};
    cpu_run(c, decode_item, &d, cpu_ceil_div(n, DECODE_ROWS), (uint64_t)n * w->cols);
    return panel;
}

/* ---- matmul --------------------------------------------------------------------------------- */

/* y [rows, n] (rows y_cols apart) = x [rows, cols] . panel [n, cols]^T. */
static void times_panel(const float *x, uint32_t rows, uint32_t cols, const float *panel,
                        uint32_t n, float *y, uint32_t y_cols) {
    fit_multiply((struct fit_factor){x, cols, false}, (struct fit_factor){panel, cols, true}, rows,
                 n, cols, false, y, y_cols);
}

static void matmul(void *self, const struct weight *w, const struct weight *bias, const float *x,
                   uint32_t rows, float *y) {
    struct blas *b = self;
    if (rows < FEW_ROWS) {
        cpu_matmul(self, w, bias, x, rows, y);
        return;
    }
    uint32_t at_once = (uint32_t)(b->panel_floats / w->cols);
    for (uint32_t first = 0; first < w->rows; first += at_once) {
        uint32_t n = w->rows - first < at_once ? w->rows - first : at_once;
        times_panel(x, rows, w->cols, panel_of(&b->cpu, w, first, n, b->panel), n, y + first,
                    w->rows);
        for (uint32_t r = 0; r < rows; r++) {
            cpu_add_bias(bias, first, n, y + (size_t)r * w->rows + first);
        }
    }
}

/* ---- experts -------------------------------------------------------------------------------- */

/* y [n_uses, n] += bias [n] in each row. */
static void add_bias(float *y, uint32_t n_uses, uint32_t n, const float *bias) {
    for (uint32_t j = 0; j < n_uses; j++) {
        for (uint32_t i = 0; i < n; i++) {
            y[(size_t)j * n + i] += bias[i];
        }
    }
}

/* Adds to b->part [n_uses, dim] what neurons `first` .. first + n - 1 of a chunk make of b->x
 * [n_uses, dim]. */
static void run_neurons(struct blas *b, const struct expert_layer *layer, uint32_t expert,
                        const struct ffn_chunk *chunk, uint32_t first, uint32_t n,
                        uint32_t n_uses) {
    const uint32_t dim = layer->dim;
    const size_t row_bytes = codec_row_bytes(chunk->codec, dim);
    const uint8_t *data = chunk->data + first * 3 * row_bytes;
    struct weight w = {
        .codec = chunk->codec, .rows = n, .cols = dim, .stride_bytes = 3 * row_bytes, .data = data};
    times_panel(b->x, n_uses, dim, panel_of(&b->cpu, &w, 0, n, b->panel), n, b->gate, n);
    w.data = data + row_bytes;
    times_panel(b->x, n_uses, dim, panel_of(&b->cpu, &w, 0, n, b->panel), n, b->up, n);
    if (layer->rule.bias) {
        size_t at = (size_t)expert * layer->ffn_dim + chunk->first + first;
        add_bias(b->gate, n_uses, n, layer->gate_bias + at);
        add_bias(b->up, n_uses, n, layer->up_bias + at);
    }
    b->ops.act_mul(b, &layer->rule, b->gate, b->up, (size_t)n_uses * n);
    w.data = data + 2 * row_bytes;
    const float *down = panel_of(&b->cpu, &w, 0, n, b->panel);
    fit_multiply((struct fit_factor){b->gate, n, false}, (struct fit_factor){down, dim, false},
                 n_uses, dim, n, true, b->part, dim);
}

/* Computes uses first .. first + n_uses - 1 of a job, which are no more than the scratch has room
 * for. */
static void run_uses(struct blas *b, const struct expert_layer *layer, const struct expert_job *job,
                     uint32_t first, uint32_t n_uses, const float *x, float *parts) {
    const uint32_t dim = layer->dim, *uses = job->uses + first;
    size_t fit = b->panel_floats / dim;
    uint32_t at_once = fit < FFN_PANEL ? (uint32_t)fit : FFN_PANEL;
    for (uint32_t j = 0; j < n_uses; j++) {
        memcpy(b->x + (size_t)j * dim, x + (size_t)(uses[j] / layer->n_active) * dim,
               dim * sizeof *x);
    }
    memset(b->part, 0, (size_t)n_uses * dim * sizeof *b->part);
    if (layer->rule.bias) {
        add_bias(b->part, n_uses, dim, layer->down_bias + (size_t)job->expert * dim);
    }
    for (uint32_t i = 0; i < job->n_chunks; i++) {
        const struct ffn_chunk *chunk = &job->chunks[i];
        for (uint32_t done = 0; done < chunk->n_neurons; done += at_once) {
            uint32_t n = chunk->n_neurons - done < at_once ? chunk->n_neurons - done : at_once;
            run_neurons(b, layer, job->expert, chunk, done, n, n_uses);
        }
    }
    for (uint32_t j = 0; j < n_uses; j++) {
        memcpy(parts + (size_t)uses[j] * dim, b->part + (size_t)j * dim, dim * sizeof *parts);
    }
}

static void experts(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                    uint32_t n_jobs, const float *x, float *parts) {
    struct blas *b = self;
    size_t fit = b->panel_floats / layer->dim;
    uint32_t at_once = fit < b->cpu.limits.max_rows ? (uint32_t)fit : b->cpu.limits.max_rows;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].n_uses < FEW_ROWS) {
            cpu_experts(self, layer, &jobs[i], 1, x, parts);
            continue;
        }
        for (uint32_t first = 0; first < jobs[i].n_uses; first += at_once) {
            uint32_t rest = jobs[i].n_uses - first;
            run_uses(b, layer, &jobs[i], first, rest < at_once ? rest : at_once, x, parts);
        }
    }
}

/* ---- opening -------------------------------------------------------------------------------- */

/* OpenBLAS picks its kernels by the processor. Where it picks wrongly, it gives wrong numbers
 * without an error. */
static int check_openblas(struct err *err) {
    enum { M = 37, N = 53, K = 300 };
    float *a = mem_calloc(M * K, sizeof *a), *w = mem_calloc(N * K, sizeof *w);
    float *y = mem_calloc(M * N, sizeof *y);
    int rc = 0;
    for (int i = 0; i < M * K; i++) {
        a[i] = (float)(i % 17 - 8) / 8;
    }
    for (int i = 0; i < N * K; i++) {
        w[i] = (float)(i % 13 - 6) / 8;
    }
    times_panel(a, M, K, w, N, y, N);
    for (int i = 0; i < M * N && rc == 0; i++) {
        double want = 0;
        for (int k = 0; k < K; k++) {
            want += (double)a[i / N * K + k] * w[i % N * K + k];
        }
        if (!(fabs(y[i] - want) < 1e-3)) {
            rc = err_set(
                err,
                "OpenBLAS (%s) computes wrong products on this processor: %.9g instead of %.9g; "
                "install another version of libopenblas",
                openblas_get_corename(), (double)y[i], want);
        }
    }
    free(a);
    free(w);
    free(y);
    return rc;
}

static void close_blas(void *self) {
    struct blas *b = self;
    cpu_close(&b->cpu);
    free(b->panel);
    free(b->x);
    free(b->part);
    free(b->gate);
    free(b->up);
    free(b);
}

/* A thread of OpenBLAS that gets no memory tries again for ever. So where the process has a limit
 * on addresses, what they take has to fit into it: a buffer, a stack and a heap for each. */
static int check_addresses(uint32_t threads, struct err *err) {
    enum { BUFFER_BYTES = 129 << 20, HEAP_BYTES = 64 << 20 };
    uint64_t left = machine_address_bytes();
    uint64_t need = threads * (BUFFER_BYTES + HEAP_BYTES + machine_stack_bytes());
    if (need <= left) {
        return 0;
    }
    return err_set(err,
                   "calibration with %u threads takes %ju MiB of addresses, of which the limit "
                   "(ulimit -v) leaves %ju MiB: fewer --threads take less",
                   threads, (uintmax_t)(need >> 20), (uintmax_t)(left >> 20));
}

int backend_blas_open(struct backend *out, uint32_t threads, const struct backend_limits *limits,
                      struct err *err) {
    struct blas *b = mem_calloc(1, sizeof *b);
    if (check_addresses(threads, err) < 0) {
        close_blas(b);
        return -1;
    }
    openblas_set_num_threads((int)(threads ? threads : 1));
    if (check_openblas(err) < 0 || cpu_open(&b->cpu, NULL, threads, limits, err) < 0) {
        close_blas(b);
        return -1;
    }
    b->panel_floats = PANEL_FLOATS > limits->max_cols ? PANEL_FLOATS : limits->max_cols;
    b->panel = mem_alloc_aligned(b->panel_floats * sizeof(float));
    b->x = mem_alloc_aligned(b->panel_floats * sizeof(float));
    b->part = mem_alloc_aligned(b->panel_floats * sizeof(float));
    b->gate = mem_alloc_aligned((size_t)limits->max_rows * FFN_PANEL * sizeof(float));
    b->up = mem_alloc_aligned((size_t)limits->max_rows * FFN_PANEL * sizeof(float));
    b->ops = cpu_ops;
    b->ops.close = close_blas;
    b->ops.matmul = matmul;
    b->ops.experts = experts;
    *out = (struct backend){.name = "blas", .isa = b->cpu.isa->name, .self = b, .ops = &b->ops};
    return 0;
}
