/*
 * cpu_open: see cpu.h. Choosing an instruction set, and taking all memory.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/encode.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL_FLOATS = 64 * 1024,     /* 256 KiB: stays in a second-level cache */
    PARTIAL_FLOATS = 1024 * 1024, /* 4 MiB: stays in a last-level cache */
};

/* ---- instruction sets ----------------------------------------------------------------------- */

static const struct dot_isa *const isas[] = {
    &dot_ref,
#ifdef __x86_64__
    &dot_avx2,
    &dot_avx512,
#endif
};
enum { N_ISAS = sizeof isas / sizeof isas[0] };

const char *backend_cpu_isa_at(size_t i, bool *usable) {
    if (i >= N_ISAS) {
        return NULL;
    }
    if (usable) {
        *usable = isas[i]->usable();
    }
    return isas[i]->name;
}

static const struct dot_isa *choose_isa(const char *name, struct err *err) {
    char known[128] = "";
    for (size_t i = N_ISAS; i-- > 0;) {
        bool usable = isas[i]->usable();
        if (usable && (!name || strcmp(name, isas[i]->name) == 0)) {
            return isas[i];
        }
        if (name && strcmp(name, isas[i]->name) == 0) {
            err_set(err, "instruction set %s: this processor (or its operating system) lacks it",
                    name);
            return NULL;
        }
    }
    for (size_t i = 0; i < N_ISAS; i++) {
        size_t len = strlen(known);
        snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", isas[i]->name);
    }
    err_set(err, "instruction set \"%s\" is unknown; this program has %s", name, known);
    return NULL;
}

/* ---- opening -------------------------------------------------------------------------------- */

static size_t at_least(size_t n, size_t least) {
    return n > least ? n : least;
}

/* Take all memory from c->arena, for so many threads; where that only counts, nothing is set. */
static void take_memory(struct cpu *c, uint32_t threads) {
    const struct backend_limits *limits = &c->limits;
    c->panel_floats =
        at_least(PANEL_FLOATS, dot_spread_floats(limits->max_cols) * CPU_PANEL_MIN_ROWS);
    c->panel_floats = at_least(c->panel_floats, limits->max_experts);
    c->panel_floats = at_least(c->panel_floats, limits->latent_key_dim);
    c->panel_floats = at_least(c->panel_floats, (size_t)limits->max_head_in * CPU_PANEL_ROWS);
    c->panel_floats =
        at_least(c->panel_floats, dot_panel_bytes(limits->max_head_in) / sizeof(float));
    uint32_t max_in = limits->max_in ? limits->max_in : limits->max_cols;
    c->panel_floats = at_least(c->panel_floats, dot_panel_bytes(max_in) / sizeof(float));
    c->partial_floats = at_least(PARTIAL_FLOATS, (size_t)limits->max_cols * CPU_PANEL_MIN_ROWS);
    c->partial_floats = at_least(c->partial_floats, limits->max_rows * dot_spread_floats(max_in));

    struct arena *a = &c->arena;
    size_t xs = at_least(limits->max_rows, CPU_FFN_USES);
    size_t packed = limits->max_packed_bytes;
    size_t delta = 2 * (size_t)limits->delta_k_dim + limits->delta_v_dim;
    packed = packed ? exponents_scratch_bytes(packed / 2) : 0; /* decoded chunks fit as well */
    c->workers = arena_alloc(a, threads * sizeof *c->workers);
    for (uint32_t i = 0; i < threads; i++) {
        const struct cpu_worker worker = {
            .panel = arena_alloc(a, c->panel_floats * sizeof(float)),
            .chunk = arena_alloc(a, packed),
            .slice = arena_alloc(a, sizeof(float) * FFN_BLOCK * CPU_FFN_COLS),
            .gate = arena_alloc(a, sizeof(float) * CPU_FFN_USES * FFN_BLOCK),
            .up = arena_alloc(a, sizeof(float) * CPU_FFN_USES * FFN_BLOCK),
            .scores = arena_alloc(a, sizeof(float) * CPU_QUERIES * limits->max_ctx_tok),
            .queries = arena_alloc(a, sizeof(float) * CPU_QUERIES * limits->latent_key_dim),
            .head_bytes = arena_alloc(a, CPU_HEAD_ROWS * dot_quant_bytes(limits->max_head_in)),
            .heads = arena_alloc(a, sizeof(float) * CPU_DELTA_TOKENS * delta),
            .xs = arena_alloc(a, xs * sizeof(float *)),
            .ys = arena_alloc(a, CPU_FFN_USES * sizeof(float *)),
            .quants = arena_alloc(a, CPU_FFN_USES * sizeof(struct dot_quant)),
        };
        if (c->workers) {
            c->workers[i] = worker;
        }
    }
    c->partial = arena_alloc(a, c->partial_floats * sizeof(float));
    c->blocks = arena_alloc(a, CPU_FFN_ITEMS * sizeof *c->blocks);
    c->sums = arena_alloc(a, CPU_FFN_SUMS * sizeof *c->sums);
    c->quants = arena_alloc(a, limits->max_rows * sizeof *c->quants);
    c->quant_bytes = arena_alloc(a, limits->max_rows * dot_quant_bytes(max_in));
}

uint64_t backend_cpu_scratch_bytes(uint32_t threads, const struct backend_limits *limits) {
    struct cpu c = {.limits = *limits, .arena.counts = true};
    take_memory(&c, threads);
    return c.arena.used_bytes;
}

int cpu_open(struct cpu *c, const char *isa, uint32_t threads, const struct backend_limits *limits,
             struct err *err) {
    c->isa = choose_isa(isa, err);
    if (!c->isa) {
        return -1;
    }
    c->exponents = exponents_isa_best(isa);
    c->encode = encode_isa_best(c->isa->name);
    /* Products with packed rows have to have the bits of those with raw ones. */
    assert(!c->exponents->rows_open || strcmp(c->exponents->name, c->isa->name) == 0);
    c->limits = *limits;
    c->pool = pool_new(threads, err);
    if (!c->pool) {
        return -1;
    }
    take_memory(c, threads);
    for (int i = 0; i < CODEC_IDS; i++) {
        shape_open(&c->shapes.matmul[i], CPU_MATMUL_SHAPES);
        shape_open(&c->shapes.experts[i], cpu_expert_shapes((enum codec_id)i));
        shape_open(&c->shapes.attention[i], CPU_ATTENTION_SHAPES);
    }
    shape_open(&c->shapes.packed, CPU_PACKED_SHAPES);
    return 0;
}

void cpu_close(struct cpu *c) {
    pool_free(c->pool);
    arena_free(&c->arena);
    memset(c, 0, sizeof *c);
}

int backend_cpu_open(struct backend *b, const char *isa, uint32_t threads,
                     const struct backend_limits *limits, struct err *err) {
    struct cpu *c = mem_calloc(1, sizeof *c);
    if (cpu_open(c, isa, threads, limits, err) < 0) {
        free(c);
        return -1;
    }
    *b = (struct backend){.name = "cpu", .isa = c->isa->name, .self = c, .ops = &cpu_ops};
    return 0;
}
