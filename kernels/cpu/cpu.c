/*
 * cpu: see cpu.h. Memory, and the operations that are a loop over elements.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/route.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    WORTH_A_FORK = 32 * 1024, /* multiply-adds that take longer than waking a pool */
    ELEMENTS_AN_ITEM = 16 * 1024,
};

/* ---- memory --------------------------------------------------------------------------------- */

/* In front of backend memory: how to give it back. */
struct block {
    void *raw;
    size_t mapped_bytes; /* 0: from calloc */
};

/* Pages are zero and cost nothing until they are touched, so that a session with room for a long
 * context opens at once. For large blocks that holds whatever was freed before, and pages can be
 * given back one by one, so that these are mappings of their own; of small pages, as a system that
 * makes huge ones by itself would take 2 MiB for the first token of each head. */
static void *alloc(void *self, size_t bytes, struct err *err) {
    enum { ALIGN = 64, LARGE = 1 << 16 };
    (void)self;
    uint64_t want;
    struct block b = {.raw = MAP_FAILED};
    want = size_add(bytes, ALIGN, &want) ? want : SIZE_MAX;
    if (bytes >= LARGE) {
        b.mapped_bytes = want;
        b.raw = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (b.raw == MAP_FAILED) {
            err_set(err, "out of memory: %zu bytes cannot be had", bytes);
            return NULL;
        }
        madvise(b.raw, want,
                MADV_NOHUGEPAGE); /* a kernel without huge pages refuses, and is right */
    } else {
        b.raw = mem_calloc(1, want);
    }
    /* malloc aligns to 16: at least so much lies before p. */
    uint8_t *p = (uint8_t *)b.raw + (ALIGN - (uintptr_t)b.raw % ALIGN);
    static_assert(sizeof b <= 16, "the block's head lies before it");
    memcpy(p - sizeof b, &b, sizeof b);
    return p;
}

static void free_memory(void *self, void *p) {
    struct block b;
    (void)self;
    if (!p) {
        return;
    }
    memcpy(&b, (uint8_t *)p - sizeof b, sizeof b);
    if (b.mapped_bytes > 0) {
        munmap(b.raw, b.mapped_bytes);
    } else {
        free(b.raw);
    }
}

/* Whole pages, that is. */
static void forget_memory(void *self, void *p, size_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = align_up((uintptr_t)p, page),
                    end = ((uintptr_t)p + bytes) & ~(page - 1);
    (void)self;
    if (first < end) {
        madvise((void *)first, end - first, MADV_DONTNEED);
    }
}

static void read_memory(void *self, void *host_dst, const void *src, size_t bytes) {
    (void)self;
    memcpy(host_dst, src, bytes);
}

static void write_memory(void *self, void *dst, const void *host_src, size_t bytes) {
    (void)self;
    memcpy(dst, host_src, bytes);
}

static void clear_memory(void *self, void *p, size_t bytes) {
    (void)self;
    memset(p, 0, bytes);
}

static int place(void *self, const struct weight *host_weight, struct weight *out,
                 struct err *err) {
    (void)self;
    (void)err;
    *out = *host_weight;
    return 0;
}

static void close_and_free(void *self) {
    cpu_close(self);
    free(self);
}

/* ---- small operations ----------------------------------------------------------------------- */

void cpu_run(const struct cpu *c, void (*fn)(void *ctx, uint32_t item, uint32_t worker), void *ctx,
             uint32_t n_items, uint64_t work) {
    if (work >= WORTH_A_FORK) {
        pool_run(c->pool, fn, ctx, n_items);
        return;
    }
    for (uint32_t i = 0; i < n_items; i++) {
        fn(ctx, i, 0);
    }
}

/* What the small operations hand to their items; each uses the members that it needs. */
struct small {
    const struct cpu *c;
    const struct weight *w;
    const float *a, *b, *bias;
    float *y;
    const int32_t *ids;
    int32_t *ids_out;
    size_t n;
    float f;
    uint32_t rows, dim, heads, half, pos0;
    const struct ffn_rule *ffn;
    const struct route_rule *route;
    const float *select, *factor;
    enum gate_act act;
};

static void quantise_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    (void)worker;
    s->c->isa->quantise(s->a + (size_t)r * s->dim, s->dim, &s->c->quants[r]);
}

void cpu_quantise(const struct cpu *c, const float *x, uint32_t rows, uint32_t cols) {
    struct small s = {.c = c, .a = x, .dim = cols};
    for (uint32_t r = 0; r < rows; r++) {
        c->quants[r] = dot_quant_at(c->quant_bytes + r * dot_quant_bytes(cols), cols);
    }
    cpu_run(c, quantise_item, &s, rows, (uint64_t)rows * cols);
}

static void spread_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    (void)worker;
    s->c->isa->spread(s->a + (size_t)r * s->dim, s->dim,
                      s->c->partial + r * dot_spread_floats(s->dim));
}

void cpu_spread(const struct cpu *c, const float *x, uint32_t rows, uint32_t cols) {
    struct small s = {.c = c, .a = x, .dim = cols};
    assert(rows * dot_spread_floats(cols) <= c->partial_floats);
    cpu_run(c, spread_item, &s, rows, (uint64_t)rows * cols);
}

/* An item of an element-wise operation: elements [first, first + n). */
static size_t item_range(const struct small *s, uint32_t item, size_t *n) {
    size_t first = (size_t)item * ELEMENTS_AN_ITEM;
    *n = s->n - first < ELEMENTS_AN_ITEM ? s->n - first : ELEMENTS_AN_ITEM;
    return first;
}

static void run_elements(struct small *s, void (*fn)(void *ctx, uint32_t item, uint32_t worker)) {
    cpu_run(s->c, fn, s, cpu_ceil_div(s->n, ELEMENTS_AN_ITEM), s->n);
}

static void embed_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    (void)worker;
    const uint8_t *row = weight_row(s->w, (uint32_t)s->ids[r]);
    cpu_codec(s->c, s->w->codec)
        ->decode(row, s->w->cols, 0, s->w->cols, s->y + (size_t)r * s->w->cols);
}

static void embed(void *self, const struct weight *table, const int32_t *host_ids, uint32_t rows,
                  float *out) {
    struct small s = {.c = self, .w = table, .ids = host_ids, .y = out};
    cpu_run(self, embed_item, &s, rows, (uint64_t)rows * table->cols);
}

static void rmsnorm_item(void *ctx, uint32_t i, uint32_t worker) {
    const struct small *s = ctx;
    (void)worker;
    const float *x = s->a + (size_t)i * s->dim;
    float *y = s->y + (size_t)i * s->dim;
    float mean = s->c->isa->sum_squares(x, s->dim) / (float)s->dim;
    float scale = 1.0f / sqrtf(mean + s->f);
    for (uint32_t k = 0; k < s->dim; k++) {
        y[k] = x[k] * scale;
    }
    for (uint32_t k = 0; s->b && k < s->dim; k++) {
        y[k] = s->b[k] * y[k];
    }
}

static void rmsnorm(void *self, const float *x, const struct weight *weight, float eps, uint32_t n,
                    uint32_t dim, float *y) {
    struct small s = {.c = self, .a = x, .f = eps, .dim = dim, .y = y};
    s.b = weight_floats(weight);
    cpu_run(self, rmsnorm_item, &s, n, (uint64_t)n * dim);
}

static void layernorm_item(void *ctx, uint32_t i, uint32_t worker) {
    const struct small *s = ctx;
    (void)worker;
    const float *x = s->a + (size_t)i * s->dim;
    float *y = s->y + (size_t)i * s->dim;
    double sum = 0;
    for (uint32_t k = 0; k < s->dim; k++) {
        sum += (double)x[k];
    }
    const float mean = (float)(sum / s->dim);
    for (uint32_t k = 0; k < s->dim; k++) {
        y[k] = x[k] - mean;
    }
    const float scale = 1.0f / sqrtf(s->c->isa->sum_squares(y, s->dim) / (float)s->dim + s->f);
    for (uint32_t k = 0; k < s->dim; k++) {
        y[k] = s->b[k] * (y[k] * scale) + (s->bias ? s->bias[k] : 0.0f);
    }
}

static void layernorm(void *self, const float *x, const struct weight *weight,
                      const struct weight *bias, float eps, uint32_t n, uint32_t dim, float *y) {
    struct small s = {.c = self, .a = x, .f = eps, .dim = dim, .y = y};
    s.b = weight_floats(weight);
    s.bias = weight_floats(bias);
    cpu_run(self, layernorm_item, &s, n, (uint64_t)n * dim);
}

static void clamp_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    (void)worker;
    for (float *x = s->y + first, *end = x + n; x < end; x++) {
        float low = *x < -s->f ? -s->f : *x; /* a NaN passes both */
        *x = low > s->f ? s->f : low;
    }
}

static void clamp(void *self, float *x, size_t n, float limit) {
    struct small s = {.c = self, .y = x, .n = n, .f = limit};
    run_elements(&s, clamp_item);
}

static void angles_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    float pos = (float)(s->pos0 + r), *cs = s->y + (size_t)r * s->half * 2;
    (void)worker;
    for (uint32_t i = 0; i < s->half; i++) {
        float angle = pos * s->a[i];
        cs[2 * i] = s->f * cosf(angle);
        cs[2 * i + 1] = s->f * sinf(angle);
    }
}

static void rope_angles(void *self, uint32_t pos0, uint32_t rows, const float *host_inv_freq,
                        uint32_t half, float scale, float *cs) {
    struct small s = {
        .c = self, .pos0 = pos0, .a = host_inv_freq, .half = half, .f = scale, .y = cs};
    cpu_run(self, angles_item, &s, rows, (uint64_t)rows * half * 16);
}

static void rope_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    const float *cs = s->a + (size_t)r * s->half * 2;
    (void)worker;
    for (uint32_t h = 0; h < s->heads; h++) {
        float *lo = s->y + ((size_t)r * s->heads + h) * s->dim, *hi = lo + s->half;
        for (uint32_t i = 0; i < s->half; i++) {
            float a = lo[i], b = hi[i], cosine = cs[2 * i], sine = cs[2 * i + 1];
            lo[i] = a * cosine - b * sine;
            hi[i] = b * cosine + a * sine;
        }
    }
}

static void rope(void *self, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
                 const float *cs, uint32_t half) {
    struct small s = {.c = self, .y = x, .heads = n_heads, .dim = head_dim, .a = cs, .half = half};
    cpu_run(self, rope_item, &s, rows, (uint64_t)rows * n_heads * half * 2);
}

static void act_mul_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    (void)worker;
    s->c->isa->act_mul(s->ffn, s->y + first, s->a ? s->a + first : NULL, n);
}

static void act_mul(void *self, const struct ffn_rule *rule, float *g, const float *u, size_t n) {
    struct small s = {.c = self, .ffn = rule, .y = g, .a = u, .n = n};
    run_elements(&s, act_mul_item);
}

static void sigmoid_mul_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    float *y = s->y + first;
    const float *g = s->a + first;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        y[i] *= 1.0f / (1.0f + expf(-g[i]));
    }
}

static void sigmoid_mul(void *self, float *y, const float *g, size_t n) {
    struct small s = {.c = self, .y = y, .a = g, .n = n};
    run_elements(&s, sigmoid_mul_item);
}

static void scale_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    float *x = s->y + first;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        x[i] *= s->f;
    }
}

static void scale(void *self, float *x, size_t n, float factor) {
    struct small s = {.c = self, .y = x, .n = n, .f = factor};
    run_elements(&s, scale_item);
}

static void scale_by(void *self, float *x, size_t n, const struct weight *factor) {
    scale(self, x, n, *weight_floats(factor));
}

static void softcap_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    float *x = s->y + first;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        x[i] = s->f * tanhf(x[i] / s->f);
    }
}

static void softcap(void *self, float *x, size_t n, float cap) {
    struct small s = {.c = self, .y = x, .n = n, .f = cap};
    run_elements(&s, softcap_item);
}

static void add_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct small *s = ctx;
    size_t n, first = item_range(s, item, &n);
    float *y = s->y + first;
    const float *x = s->a + first;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void add(void *self, float *y, const float *x, size_t n) {
    struct small s = {.c = self, .y = y, .a = x, .n = n};
    run_elements(&s, add_item);
}

static float gate_of(enum gate_act act, float s) {
    switch (act) {
    case GATE_SIGMOID:
        return 1.0f / (1.0f + expf(-s));
    case GATE_SOFTPLUS:
        return s > 20.0f ? s : log1pf(expf(s));
    case GATE_PLAIN:
        break;
    }
    return s;
}

static void gate_rows_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    float *y = s->y + (size_t)r * s->dim, factor = gate_of(s->act, s->a[r]);
    (void)worker;
    for (uint32_t i = 0; i < s->dim; i++) {
        y[i] *= factor;
    }
}

static void gate_rows(void *self, enum gate_act act, float *y, const float *gates, uint32_t rows,
                      uint32_t dim) {
    struct small s = {.c = self, .act = act, .y = y, .a = gates, .dim = dim};
    cpu_run(self, gate_rows_item, &s, rows, (uint64_t)rows * dim);
}

static void route_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    const uint32_t n_experts = s->dim, n = s->half;
    float *weights = s->y ? s->y + (size_t)r * n : NULL;
    route_row(s->route, s->select, s->factor, s->a + (size_t)r * n_experts, n_experts, n,
              s->c->workers[worker].panel, s->ids_out + (size_t)r * n, weights);
}

static void route(void *self, const struct route_rule *rule, const struct weight *select,
                  const struct weight *factor, const float *logits, uint32_t rows,
                  uint32_t n_experts, uint32_t n, int32_t *ids, float *weights) {
    struct small s = {.c = self, .route = rule, .a = logits, .dim = n_experts, .half = n};
    s.select = weight_floats(select);
    s.factor = weight_floats(factor);
    s.ids_out = ids;
    s.y = weights;
    cpu_run(self, route_item, &s, rows, (uint64_t)rows * n_experts * 16);
}

static void combine_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct small *s = ctx;
    const float *parts = s->a + (size_t)r * s->half * s->dim;
    const float *weights = s->b ? s->b + (size_t)r * s->half : NULL;
    float *y = s->y + (size_t)r * s->dim, first = weights ? weights[0] : 1.0f;
    (void)worker;
    for (uint32_t i = 0; i < s->dim; i++) {
        y[i] = first * parts[i];
    }
    for (uint32_t j = 1; j < s->half; j++) {
        const float *part = parts + (size_t)j * s->dim, weight = weights ? weights[j] : 1.0f;
        for (uint32_t i = 0; i < s->dim; i++) {
            y[i] += weight * part[i];
        }
    }
}

static void combine(void *self, const float *parts, const float *weights, uint32_t rows,
                    uint32_t n_active, uint32_t dim, float *y) {
    struct small s = {.c = self, .a = parts, .b = weights, .half = n_active, .dim = dim, .y = y};
    cpu_run(self, combine_item, &s, rows, (uint64_t)rows * n_active * dim);
}

const struct backend_ops cpu_ops = {
    .close = close_and_free,
    .alloc = alloc,
    .free = free_memory,
    .read = read_memory,
    .write = write_memory,
    .clear = clear_memory,
    .forget = forget_memory,
    .place = place,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .matmul = cpu_matmul,
    .clamp = clamp,
    .scale = scale,
    .scale_by = scale_by,
    .softcap = softcap,
    .rope_angles = rope_angles,
    .rope = rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_attention,
    .act_mul = act_mul,
    .sigmoid_mul = sigmoid_mul,
    .add = add,
    .gate_rows = gate_rows,
    .route = route,
    .experts = cpu_experts,
    .combine = combine,
    .delta_conv = cpu_delta_conv,
    .delta_net = cpu_delta_net,
    .matmul_heads = cpu_matmul_heads,
    .latent_store = cpu_latent_store,
    .latent_attention = cpu_latent_attention,
    .mixes_codecs = true,
};
