/*
 * The experts operation of every backend, with each activation, with and without biases: against
 * the formula in double precision, and, for the CPU, to the bit against itself for other thread
 * counts, row splits, chunkings, and ways of storing chunks.
 */
#include <float.h>
#include <math.h>

#include "format/corm_exponents.h"
#include "tests/util/test_util_backends.h"

static const struct ffn_rule rules[] = {
    {.act = FFN_SILU},
    {.act = FFN_SILU, .bias = 1},
    {.act = FFN_GELU_TANH},
    {.act = FFN_SWIGLU_OAI, .bias = 1, .limit = 2.5f, .alpha = 1.702f}, /* it clips here */
    {.act = FFN_RELU},
    {.act = FFN_SILU_LIMIT, .limit = 1.5f},
};

/* Which chunks a job has: all, every second block of 32 neurons (of one block: none), none. */
enum kept { ALL, SOME, NONE };

static bool keeps(enum kept kept, uint32_t neuron) {
    return kept == ALL || (kept == SOME && neuron / FFN_BLOCK % 2 == 1);
}

struct packed_block {
    uint8_t *data;
    uint32_t bytes;
};

/* A layer of experts with random weights, and rows that chose among them. */
struct layer {
    const struct codec *codec;
    struct ffn_rule rule;
    uint32_t dim, n_experts, n_active, rows, ffn;
    struct weight *experts;                 /* [n_experts]: matrices [3 * ffn, dim] */
    float **decoded;                        /* [n_experts]: as they are needed */
    float *gate_bias, *up_bias, *down_bias; /* [n_experts, ffn], [n_experts, dim] */
    float *x;
    int32_t *ids; /* [rows, n_active] */
    /* bf16: each block of 32 neurons as it would be stored, [n_experts, ffn / 32 rounded up]; else
     * NULL. */
    struct packed_block *packed;
};
enum { PACKED = 0 }; /* chunks of 32 neurons, packed */

static uint32_t n_blocks(const struct layer *l) {
    return (l->ffn + FFN_BLOCK - 1) / FFN_BLOCK;
}

static struct packed_block *packed_block(const struct layer *l, uint32_t expert, uint32_t neuron) {
    return &l->packed[expert * n_blocks(l) + neuron / FFN_BLOCK];
}

static void pack_layer(struct layer *l) {
    size_t neuron = (size_t)3 * l->dim;
    l->packed = mem_calloc((size_t)l->n_experts * n_blocks(l), sizeof *l->packed);
    for (uint32_t e = 0; e < l->n_experts; e++) {
        for (uint32_t i = 0; i < l->ffn; i += FFN_BLOCK) {
            uint32_t rest = l->ffn - i < FFN_BLOCK ? l->ffn - i : FFN_BLOCK;
            struct packed_block *b = packed_block(l, e, i);
            b->data = mem_alloc(corm_exponents_bound(rest * neuron));
            b->bytes = (uint32_t)corm_exponents_pack(l->experts[e].data + i * neuron * 2,
                                                     rest * neuron, b->data);
            b->data = mem_realloc(b->data, b->bytes); /* nothing behind it is to be read */
        }
    }
}

static struct layer make_layer(struct test_rng *rng, const struct codec *codec, uint32_t dim,
                               uint32_t ffn, uint32_t rows) {
    struct layer l = {
        .codec = codec, .dim = dim, .n_experts = 6, .n_active = 2, .rows = rows, .ffn = ffn};
    l.experts = mem_calloc(l.n_experts, sizeof *l.experts);
    for (uint32_t e = 0; e < l.n_experts; e++) {
        l.experts[e] = kernels_weight(rng, codec, KIND_NORMAL, 3 * ffn, dim, 0);
    }
    l.decoded = mem_calloc(l.n_experts, sizeof *l.decoded);
    l.gate_bias = kernels_vector(rng, KIND_NORMAL, (size_t)l.n_experts * ffn);
    l.up_bias = kernels_vector(rng, KIND_NORMAL, (size_t)l.n_experts * ffn);
    l.down_bias = kernels_vector(rng, KIND_NORMAL, (size_t)l.n_experts * dim);
    l.x = kernels_vector(rng, KIND_NORMAL, (size_t)rows * dim);
    l.ids = mem_calloc((size_t)rows * l.n_active, sizeof *l.ids);
    for (uint32_t r = 0; r < rows; r++) {
        /* Expert 0 is everybody's, expert 5 nobody's. */
        l.ids[r * 2] = (int32_t)(test_u64(rng) % 4 + 1);
        l.ids[r * 2 + 1] = 0;
    }
    if (codec->id == CODEC_BF16) {
        pack_layer(&l);
    }
    return l;
}

static void free_layer(struct layer *l) {
    for (uint32_t e = 0; e < l->n_experts; e++) {
        kernels_free_weight(&l->experts[e]);
        free(l->decoded[e]);
    }
    test_guard_free(l->gate_bias, (size_t)l->n_experts * l->ffn * sizeof(float));
    test_guard_free(l->up_bias, (size_t)l->n_experts * l->ffn * sizeof(float));
    test_guard_free(l->down_bias, (size_t)l->n_experts * l->dim * sizeof(float));
    test_guard_free(l->x, (size_t)l->rows * l->dim * sizeof *l->x);
    free(l->experts);
    free(l->decoded);
    free(l->ids);
    for (uint32_t i = 0; l->packed && i < l->n_experts * n_blocks(l); i++) {
        free(l->packed[i].data);
    }
    free(l->packed);
}

/* Rows 3 i .. 3 i + 2 of an expert, decoded by the codec's definition. */
static const float *neuron(const struct layer *l, uint32_t expert, uint32_t i) {
    if (!l->decoded[expert]) {
        l->decoded[expert] = mem_alloc((size_t)3 * l->ffn * l->dim * sizeof(float));
        for (uint32_t r = 0; r < 3 * l->ffn; r++) {
            l->codec->decode_row(weight_row(&l->experts[expert], r), l->dim,
                                 l->decoded[expert] + (size_t)r * l->dim);
        }
    }
    return l->decoded[expert] + (size_t)3 * i * l->dim;
}

/* Run rows first .. first + n - 1 with experts cut into chunks of `chunk` neurons, or PACKED. */
static void run_layer(const struct backend *b, const struct layer *l, uint32_t first, uint32_t n,
                      uint32_t chunk, enum kept kept, float *parts) {
    struct expert_job jobs[8];
    struct ffn_chunk chunks[8][64];
    uint32_t uses[8][96 * 2], n_jobs = 0, step = chunk == PACKED ? FFN_BLOCK : chunk;
    size_t neuron_bytes = 3 * codec_row_bytes(l->codec, l->dim);
    for (uint32_t e = 0; e < l->n_experts; e++) {
        struct expert_job *job = &jobs[n_jobs];
        *job = (struct expert_job){.expert = e, .chunks = chunks[n_jobs], .uses = uses[n_jobs]};
        for (uint32_t u = 0; u < n * l->n_active; u++) {
            if (l->ids[first * l->n_active + u] == (int32_t)e) {
                uses[n_jobs][job->n_uses++] = u;
            }
        }
        for (uint32_t i = 0; i < l->ffn; i += step) {
            struct ffn_chunk *c = &chunks[n_jobs][job->n_chunks];
            *c = (struct ffn_chunk){.data = l->experts[e].data + i * neuron_bytes,
                                    .codec = l->codec,
                                    .n_neurons = l->ffn - i < step ? l->ffn - i : step,
                                    .first = i};
            if (chunk == PACKED) {
                c->data = packed_block(l, e, i)->data;
                c->packed_bytes = packed_block(l, e, i)->bytes;
            }
            job->n_chunks += keeps(kept, i);
        }
        n_jobs += job->n_uses > 0 || e == 5;
    }
    const struct expert_layer layer = {
        .dim = l->dim,
        .ffn_dim = l->ffn,
        .n_active = l->n_active,
        .rule = l->rule,
        .gate_bias = l->rule.bias ? l->gate_bias : NULL,
        .up_bias = l->rule.bias ? l->up_bias : NULL,
        .down_bias = l->rule.bias ? l->down_bias : NULL,
    };
    b->ops->experts(b->self, &layer, jobs, n_jobs, l->x + (size_t)first * l->dim, parts);
}

/* ---- the formula ---------------------------------------------------------------------------- */

static double activated(const struct ffn_rule *rule, double g, double u) {
    if (rule->act == FFN_GELU_TANH) {
        return g / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))) *
               u;
    }
    if (rule->act == FFN_SWIGLU_OAI) {
        double limit = rule->limit;
        g = fmin(g, limit);
        return g / (1 + exp(-(double)rule->alpha * g)) * (fmax(fmin(u, limit), -limit) + 1);
    }
    if (rule->act == FFN_RELU) {
        return fmax(g, 0) * u;
    }
    if (rule->act == FFN_SILU_LIMIT) {
        double limit = rule->limit;
        return fmin(g / (1 + exp(-g)), limit) * fmax(fmin(u, limit), -limit);
    }
    return g / (1 + exp(-g)) * u;
}

/* A row of inputs; `quantised`: to 8 bits, by the definition in kernels/cpu/dot.h. */
static float *input_of(const struct layer *l, uint32_t row, bool quantised) {
    float *x = mem_alloc(l->dim * sizeof *x);
    memcpy(x, l->x + (size_t)row * l->dim, l->dim * sizeof *x);
    for (uint32_t g = 0; g < l->dim && quantised; g += CODEC_GROUP) {
        float top = 0;
        for (uint32_t i = g; i < g + CODEC_GROUP; i++) {
            top = fmaxf(top, fabsf(x[i]));
        }
        for (uint32_t i = g; i < g + CODEC_GROUP; i++) {
            x[i] = rintf(x[i] * (127 / top)) * (top / 127);
        }
    }
    return x;
}

/* Outputs by the formula, and how far f32 may be from them: g and u, sums of products, by an ulp of
 * the sum of their magnitudes (the errors of a sum are far from all of one sign; q4 subtracts two
 * greater sums), which a slope below 1.2 hands on; the activation and the sum over the neurons by
 * some ulp of each product. */
struct outputs {
    double *want, *tolerance; /* [rows * n_active, dim] */
};

static void free_outputs(struct outputs *o) {
    free(o->want);
    free(o->tolerance);
}

/* What neuron i of expert e gives, and *error, how many ulp of its products it may be off. */
static double neuron_gives(const struct layer *l, uint32_t e, uint32_t i, const float *x,
                           double *error) {
    const float *gate = neuron(l, e, i), *up = gate + l->dim;
    double g_size, u_size, g = kernels_dot(gate, x, l->dim, &g_size),
                           u = kernels_dot(up, x, l->dim, &u_size);
    g += l->rule.bias ? l->gate_bias[e * l->ffn + i] : 0;
    u += l->rule.bias ? l->up_bias[e * l->ffn + i] : 0;
    double h = activated(&l->rule, g, u);
    *error = 1.2 * (g_size * (fabs(u) + 1) + fabs(g) * u_size);
    *error = (codec_has_minimums(l->codec->id) ? 4 : 1) * *error + 8 * fabs(h);
    return h;
}

/* A block's neurons from `first` on, which give h [n], summed in integers (kernels/cpu/dot.h). A
 * number that is rounded to the next integer in f32 and not here, or the other way round, may be a
 * step off. */
static void add_in_integers(const struct layer *l, uint32_t e, uint32_t first, uint32_t n,
                            const double *h, double *part, double *tolerance) {
    const double almost = 1e-3;
    for (uint32_t g = 0; g < l->dim / CODEC_GROUP; g++) {
        double b[FFN_BLOCK], top = 0, minimums = 0;
        for (uint32_t i = 0; i < n; i++) {
            double scale, minimum;
            kernels_scale(&l->experts[e], 3 * (first + i) + 2, g, &scale, &minimum);
            b[i] = h[i] * scale;
            minimums += h[i] * minimum;
            top = fmax(top, fabs(b[i]));
        }
        for (uint32_t c = g * CODEC_GROUP; c < (g + 1) * CODEC_GROUP; c++) {
            part[c] -= minimums;
            for (uint32_t i = 0; i < n && top > 0; i++) {
                const double step = top / 127,
                             code = kernels_code(&l->experts[e], 3 * (first + i) + 2, c);
                const double q = rint(b[i] / step), off = fabs(fabs(b[i] / step - q) - 0.5);
                part[c] += q * step * code;
                tolerance[c] += off < almost ? step * fabs(code) : 0;
            }
        }
    }
}

/* Add a block's neurons from `first` on. */
static void add_block(const struct layer *l, uint32_t e, uint32_t first, uint32_t n, const float *x,
                      bool quantised, double *part, double *tolerance) {
    double h[FFN_BLOCK];
    for (uint32_t i = 0; i < n; i++) {
        double error;
        h[i] = neuron_gives(l, e, first + i, x, &error);
        const float *down = neuron(l, e, first + i) + 2 * l->dim;
        for (uint32_t c = 0; c < l->dim; c++) {
            part[c] += quantised ? 0 : h[i] * down[c];
            tolerance[c] += FLT_EPSILON * error * fabs((double)down[c]);
        }
    }
    if (quantised) {
        add_in_integers(l, e, first, n, h, part, tolerance);
    }
}

static struct outputs simply(const struct layer *l, enum kept kept, bool quantised) {
    const size_t n = (size_t)l->rows * l->n_active * l->dim;
    struct outputs o = {backends_all(n, 0), backends_all(n, FLT_EPSILON)};
    for (uint32_t use = 0; use < l->rows * l->n_active; use++) {
        const uint32_t e = (uint32_t)l->ids[use];
        const size_t at = (size_t)use * l->dim;
        float *x = input_of(l, use / l->n_active, quantised);
        for (uint32_t c = 0; c < l->dim && l->rule.bias; c++) {
            o.want[at + c] = l->down_bias[e * l->dim + c];
        }
        for (uint32_t i = 0; i < l->ffn; i += FFN_BLOCK) {
            if (keeps(kept, i)) {
                add_block(l, e, i, l->ffn - i < FFN_BLOCK ? l->ffn - i : FFN_BLOCK, x, quantised,
                          o.want + at, o.tolerance + at);
            }
        }
        free(x);
    }
    return o;
}

/* ---- checks --------------------------------------------------------------------------------- */

/* What a layer should give: `plain` of inputs as they are, `o` of what a CPU makes of them. */
struct expected {
    struct outputs o, plain;
    float *same; /* what the ISA in work gives for single rows */
    char *what;
};

/* BLAS quantises the inputs of experts with few uses: each output has to be one or the other. */
static void check_blas(const struct backend *b, const struct expected *e, const float *got,
                       size_t n) {
    double *want = mem_alloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++) {
        double from_o = fabs(got[i] - e->o.want[i]), from_plain = fabs(got[i] - e->plain.want[i]);
        want[i] = from_o < from_plain ? e->o.want[i] : e->plain.want[i];
    }
    backends_close_to(b, e->what, got, want, e->o.tolerance, n);
    free(want);
}

/* Backend `i`: the outputs for all chunkings, and for a few rows a call. */
static void check_backend(size_t i, const struct layer *l, enum kept kept, const struct expected *e,
                          float *got) {
    static const uint32_t chunk_sizes[] = {PACKED, 32, 64, 96, 1024};
    /* What is left out is left out of chunks of 32. */
    const size_t n_sizes = kept == ALL ? TEST_COUNT(chunk_sizes) : 2;
    const size_t row = (size_t)l->n_active * l->dim, n = l->rows * row;
    const struct backend *b = backends_at(i), *one = backends_one(i);
    for (size_t k = one && l->packed ? 0 : 1; k < n_sizes; k++) {
        memset(got, 0xff, n * sizeof *got);
        run_layer(b, l, 0, l->rows, chunk_sizes[k], kept, got);
        if (one) {
            backends_same(b, e->what, got, e->same, n);
        } else {
            check_blas(b, e, got, n);
        }
    }
    if (one && l->rows > 5) {
        memset(got, 0xff, n * sizeof *got);
        for (uint32_t r = 0; r < l->rows; r += 5) {
            run_layer(b, l, r, l->rows - r < 5 ? l->rows - r : 5, 32, kept, got + r * row);
        }
        backends_same(b, e->what, got, e->same, n);
    }
}

static void check_layer(const struct layer *l, enum kept kept) {
    const size_t row = (size_t)l->n_active * l->dim, n = l->rows * row;
    const bool quantised = codec_has_scales(l->codec->id);
    float *got = test_guard(n * sizeof *got);
    struct expected e = {.o = simply(l, kept, quantised), .same = backends_zeros(n)};
    e.plain = quantised ? simply(l, kept, false) : e.o;
    e.what =
        mem_printf("experts %s, dim %u, %u neurons, %u rows, act %u, bias %u, kept %d",
                   l->codec->name, l->dim, l->ffn, l->rows, l->rule.act, l->rule.bias, (int)kept);
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        if (backends_one(i) == b) {
            for (uint32_t r = 0; r < l->rows; r++) {
                run_layer(b, l, r, 1, 32, kept, e.same + r * row);
            }
            backends_close_to(b, e.what, e.same, e.o.want, e.o.tolerance, n);
        }
        check_backend(i, l, kept, &e, got);
    }
    free(e.what);
    free(e.same);
    free_outputs(&e.o);
    if (quantised) {
        free_outputs(&e.plain);
    }
    test_guard_free(got, n * sizeof *got);
}

static void check_rules(struct layer *l) {
    for (size_t i = 0; i < TEST_COUNT(rules); i += QUICK ? 3 : 1) {
        l->rule = rules[i];
        check_layer(l, ALL);
        check_layer(l, SOME);
    }
    check_layer(l, NONE);
}

static void test_experts(void **state) {
    /* Packed rows of whole blocks are multiplied as they are decoded, if the expert has one use: of
     * one block where dim is 64, of several in the last two. */
    static const struct {
        uint32_t dim, ffn, rows;
    } cases[] = {{32, 32, 1},    {96, 100, 1}, {64, 33, 2},  {160, 70, 3}, {544, 116, 7},
                 {288, 160, 40}, {32, 1, 9},   {192, 70, 1}, {1024, 33, 2}};
    struct test_rng rng = {12};
    const struct codec *codec;
    (void)state;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t i = 0; i < TEST_COUNT(cases); i++) {
            struct layer l = make_layer(&rng, codec, cases[i].dim, cases[i].ffn, cases[i].rows);
            check_rules(&l);
            free_layer(&l);
        }
    }
    struct layer odd = make_layer(&rng, codec_by_id(CODEC_BF16), 45, 40, 6);
    check_rules(&odd);
    free_layer(&odd);
}

/* More blocks than one wave of the fused way holds: sums must go on where they stopped. The same
 * rows twice or more often over go the panel way, which has no waves, and must give the same bits.
 * */
static void check_waves(struct test_rng *rng, uint32_t dim, uint32_t ffn, uint32_t rows) {
    struct layer l = make_layer(rng, codec_by_id(CODEC_Q4), dim, ffn, rows);
    l.rule = rules[3];
    struct layer more = l;
    size_t n_x = (size_t)rows * dim, n = n_x * l.n_active;
    float *few = backends_zeros(n), *many = backends_zeros(4 * n);
    more.rows = 4 * rows;
    more.x = backends_zeros(4 * n_x);
    more.ids = mem_calloc((size_t)more.rows * l.n_active, sizeof *more.ids);
    for (uint32_t r = 0; r < rows; r++) {
        l.ids[r * 2] = 3;
    }
    for (uint32_t i = 0; i < 4; i++) {
        memcpy(more.x + i * n_x, l.x, n_x * sizeof *l.x);
        memcpy(more.ids + i * rows * l.n_active, l.ids, rows * l.n_active * sizeof *l.ids);
    }
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)) && backends_one(i); i++) {
        run_layer(b, &l, 0, rows, 2048, ALL, few);
        run_layer(b, &more, 0, more.rows, ffn, ALL, many);
        for (uint32_t k = 0; k < 4; k++) {
            backends_same(b, "experts in waves", many + k * n, few, n);
        }
    }
    free(few);
    free(many);
    free(more.x);
    free(more.ids);
    free_layer(&l);
}

static void test_experts_waves(void **state) {
    struct test_rng rng = {13};
    (void)state;
    check_waves(&rng, 1024, 5760, 3); /* more floats than the scratch has */
    check_waves(&rng, 32, 70000, 1);  /* more blocks than the list has */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_experts_waves),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
