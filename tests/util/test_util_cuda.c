/*
 * test_util_cuda: see test_util_cuda.h. Memory, uploads, and what goes element by element.
 */
#include "tests/util/test_util_cuda.h"

#include <float.h>
#include <math.h>

/* ---- memory --------------------------------------------------------------------------------- */

void cuda_test_memory(void **state) {
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {31};
    for (size_t n = 1; n < 300000; n = n * 7 + 3) {
        uint8_t *host = mem_alloc(n), *back = mem_alloc(n);
        for (size_t i = 0; i < n; i++) {
            host[i] = (uint8_t)test_u64(&rng);
        }
        uint8_t *p = b->ops->alloc(b->self, n, NULL);
        assert_int_equal((uintptr_t)p % 64, 0);
        b->ops->read(b->self, back, p, n);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(back[i], 0);
        }
        b->ops->write(b->self, p, host, n);
        b->ops->read(b->self, back, p, n);
        assert_memory_equal(back, host, n);
        size_t at = n / 4 * 4 / 2, bytes = n / 3;
        memset(host + at, 0, bytes);
        b->ops->clear(b->self, p + at, bytes);
        b->ops->read(b->self, back, p, n);
        assert_memory_equal(back, host, n);
        cuda_rig_release(b, p);
        free(host);
        free(back);
    }
    struct weight none = {0};
    assert_null(cuda_rig_place_weight(b, &none).data);
    /* A matrix of f32 is an array. */
    float matrix[3 * 5], back[3 * 5];
    kernels_fill(&rng, KIND_NORMAL, matrix, TEST_COUNT(matrix));
    struct weight w = cuda_rig_place(b, matrix, 3, 5);
    cuda_rig_get(b, back, weight_floats(&w), TEST_COUNT(back));
    assert_memory_equal(back, matrix, sizeof back);
}

/* ---- elements ------------------------------------------------------------------------------- */

enum { ACTIVE = 3 };
enum op {
    RMSNORM,
    RMSNORM_IN_PLACE,
    RMSNORM_PLAIN, /* without a weight */
    LAYERNORM,
    LAYERNORM_BIAS,
    CLAMP,
    SCALE,
    SCALE_BY,
    SOFTCAP,
    ACT_MUL,
    ACT, /* without a factor */
    SIGMOID_MUL,
    ADD,
    GATE_ROWS,
    SOFTPLUS_ROWS,
    SCALE_ROWS,
    COMBINE,
    SUM, /* all weights 1 */
};

/* An operation, and how far it may be off: `relative` is in FLT_EPSILON, but for 0: exact. Sums of
 * squares are as a dot product; exp is some ulp off on both sides, its overflow to infinity as on
 * the CPU, and what it is the exp of may be rounded in another place. */
struct element_op {
    const char *name;
    enum op op;
    double relative, absolute;
    struct ffn_rule rule;
};
static const struct element_op element_ops[] = {
    {"rmsnorm", RMSNORM, 16, 0x1p-120},
    {"rmsnorm in place", RMSNORM_IN_PLACE, 16, 0x1p-120},
    {"rmsnorm without a weight", RMSNORM_PLAIN, 16, 0x1p-120},
    {"layernorm", LAYERNORM, 16, 0x1p-20},
    {"layernorm with a bias", LAYERNORM_BIAS, 16, 0x1p-20},
    {"clamp", CLAMP},
    {"scale", SCALE},
    {"scale by a number of the device", SCALE_BY},
    {"softcap", SOFTCAP, 16, 0x1p-120},
    {"silu, multiplied", ACT_MUL, 16, 0x1p-105, {.act = FFN_SILU}},
    {"silu", ACT, 16, 0x1p-105, {.act = FFN_SILU}},
    {"gelu, multiplied", ACT_MUL, 1024, 0x1p-105, {.act = FFN_GELU_TANH}},
    {"gelu", ACT, 1024, 0x1p-105, {.act = FFN_GELU_TANH}},
    {"swiglu, multiplied",
     ACT_MUL,
     256,
     0x1p-105,
     {.act = FFN_SWIGLU_OAI, .limit = 0.75f, .alpha = 1.702f}},
    {"swiglu", ACT, 256, 0x1p-105, {.act = FFN_SWIGLU_OAI, .limit = 7, .alpha = 1.702f}},
    {"relu, multiplied", ACT_MUL, 0, 0, {.act = FFN_RELU}},
    {"limited silu, multiplied", ACT_MUL, 16, 0x1p-105, {.act = FFN_SILU_LIMIT, .limit = 0.5f}},
    {"limited silu without a limit", ACT_MUL, 16, 0x1p-105, {.act = FFN_SILU_LIMIT}},
    {"sigmoid_mul", SIGMOID_MUL, 16, 0x1p-105},
    {"add", ADD},
    {"gate_rows", GATE_ROWS, 16, 0x1p-105},
    {"gate_rows by the softplus", SOFTPLUS_ROWS, 16, 0x1p-105},
    {"gate_rows by numbers", SCALE_ROWS},
    {"combine", COMBINE},
    {"combine without weights", SUM},
};

struct elements {
    const struct element_op *op;
    uint32_t rows, dim;
    const float *x, *y, *per_row, *per_col;
};

/* Runs the operation on x and returns where its result is: in x, or in `got`. */
static float *run_element_op(const struct backend *b, const struct elements *e, float *x, float *y,
                             float *row, float *got) {
    const struct backend_ops *op = b->ops;
    const size_t n = (size_t)e->rows * e->dim;
    struct weight none = {0}, w = none;
    switch (e->op->op) {
    case RMSNORM:
        w = cuda_rig_place(b, e->per_col, 1, e->dim);
        op->rmsnorm(b->self, x, &w, 1e-6f, e->rows, e->dim, got);
        return got;
    case RMSNORM_IN_PLACE:
        w = cuda_rig_place(b, e->per_col, 1, e->dim);
        op->rmsnorm(b->self, x, &w, 1e-6f, e->rows, e->dim, x);
        return x;
    case RMSNORM_PLAIN:
        op->rmsnorm(b->self, x, &none, 1e-6f, e->rows, e->dim, got);
        return got;
    case LAYERNORM:
    case LAYERNORM_BIAS:
        w = cuda_rig_place(b, e->per_col, 1, e->dim);
        op->layernorm(b->self, x, &w, e->op->op == LAYERNORM ? &none : &w, 1e-6f, e->rows, e->dim,
                      x);
        return x;
    case CLAMP:
        op->clamp(b->self, x, n, 0.25f);
        return x;
    case SCALE:
        op->scale(b->self, x, n, 1.7f);
        return x;
    case SCALE_BY:
        w = cuda_rig_place(b, e->per_col, 1, 1);
        op->scale_by(b->self, x, n, &w);
        return x;
    case SOFTCAP:
        op->softcap(b->self, x, n, 0.6f);
        return x;
    case ACT_MUL:
        op->act_mul(b->self, &e->op->rule, x, y, n);
        return x;
    case ACT:
        op->act_mul(b->self, &e->op->rule, x, NULL, n);
        return x;
    case SIGMOID_MUL:
        op->sigmoid_mul(b->self, x, y, n);
        return x;
    case ADD:
        op->add(b->self, x, y, n);
        return x;
    case GATE_ROWS:
        op->gate_rows(b->self, GATE_SIGMOID, x, row, e->rows, e->dim);
        return x;
    case SOFTPLUS_ROWS:
        op->gate_rows(b->self, GATE_SOFTPLUS, x, row, e->rows, e->dim);
        return x;
    case SCALE_ROWS:
        op->gate_rows(b->self, GATE_PLAIN, x, row, e->rows, e->dim);
        return x;
    case COMBINE:
    case SUM:
        op->combine(b->self, x, e->op->op == SUM ? NULL : row, e->rows, ACTIVE, e->dim, got);
        return got;
    }
    return NULL;
}

static void run_elements(const struct backend *b, const void *ctx, float *out) {
    const struct elements *e = ctx;
    const size_t n = (size_t)e->rows * e->dim,
                 uses = e->op->op == COMBINE || e->op->op == SUM ? ACTIVE : 1;
    float *x = cuda_rig_put(b, e->x, n * uses * sizeof *x);
    float *y = cuda_rig_put(b, e->y, n * sizeof *y);
    float *row = cuda_rig_put(b, e->per_row, e->rows * uses * sizeof *row);
    float *got = b->ops->alloc(b->self, n * sizeof *got, NULL);
    cuda_rig_get(b, out, run_element_op(b, e, x, y, row, got), n);
    cuda_rig_release(b, x);
    cuda_rig_release(b, y);
    cuda_rig_release(b, row);
    cuda_rig_release(b, got);
}

static void check_elements(const struct cuda_rig *g, struct elements *e, const char *kind) {
    const size_t n = (size_t)e->rows * e->dim;
    float *want = cuda_rig_zeros(n), *got = test_guard(n * sizeof *got);
    for (size_t i = 0; i < TEST_COUNT(element_ops); i++) {
        const struct element_op *op = e->op = &element_ops[i];
        char *what = mem_printf("%s %u x %u, %s", op->name, e->rows, e->dim, kind);
        run_elements(&g->scalar, e, want);
        double relative = op->relative > 0 ? FLT_EPSILON * (op->relative + e->dim / 8.0) : 0;
        double *t = cuda_rig_tolerances(want, n, relative, op->absolute);
        cuda_rig_check(g, what, run_elements, e, got, want, t, n);
        free(t);
        free(what);
    }
    test_guard_free(got, n * sizeof *got);
    free(want);
}

void cuda_test_elements(void **state) {
    static const struct {
        uint32_t rows, dim;
    } shapes[] = {{1, 1}, {1, 7}, {3, 8}, {5, 33}, {2, 2080}, {40, 1003}};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {32};
    for (size_t s = 0; s < TEST_COUNT(shapes) * KIND_COUNT; s++) {
        struct elements e = {.rows = shapes[s / KIND_COUNT].rows,
                             .dim = shapes[s / KIND_COUNT].dim};
        enum kind kind = (enum kind)(s % KIND_COUNT);
        size_t n = (size_t)e.rows * e.dim;
        float *x = kernels_vector(&rng, kind, n * ACTIVE), *y = kernels_vector(&rng, kind, n);
        float *row = kernels_vector(&rng, KIND_SPIKY, e.rows * ACTIVE);
        float *col = kernels_vector(&rng, KIND_NORMAL, e.dim);
        e.x = x;
        e.y = y;
        e.per_row = row;
        e.per_col = col;
        check_elements(g, &e, kind_name(kind));
        test_guard_free(x, n * ACTIVE * sizeof *x);
        test_guard_free(y, n * sizeof *y);
        test_guard_free(row, e.rows * ACTIVE * sizeof *row);
        test_guard_free(col, e.dim * sizeof *col);
    }
    float odd[] = {NAN, INFINITY, -INFINITY};
    float *x = cuda_rig_put(&g->device, odd, sizeof odd);
    g->device.ops->clamp(g->device.self, x, 3, 8);
    cuda_rig_get(&g->device, odd, x, 3);
    assert_true(isnan(odd[0]) && odd[1] == 8 && odd[2] == -8);
    cuda_rig_release(&g->device, x);
}

void cuda_test_embed(void **state) {
    static const int32_t ids[] = {3, 0, 4, 4, 1};
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {33};
    const struct codec *codec;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (uint32_t cols = 32; cols < 9000; cols += 2976) {
            struct weight table = kernels_weight(&rng, codec, KIND_SPIKY, 5, cols, c % 2 * 2);
            struct weight placed = cuda_rig_place_weight(b, &table);
            size_t n = TEST_COUNT(ids) * cols;
            float *out = b->ops->alloc(b->self, n * sizeof *out, NULL), *got = cuda_rig_zeros(n);
            b->ops->embed(b->self, &placed, ids, TEST_COUNT(ids), out);
            cuda_rig_get(b, got, out, n);
            for (size_t i = 0; i < TEST_COUNT(ids); i++) {
                float *want = kernels_decode(&table, (uint32_t)ids[i]);
                check_same(codec->name, got + i * cols, want, cols);
                free(want);
            }
            cuda_rig_release(b, out);
            free(got);
            kernels_free_weight(&table);
        }
    }
}

/* ---- rope ----------------------------------------------------------------------------------- */

enum { ROPE_ROWS = 9, ROPE_HEADS = 3, ROPE_DIM = 20, ROPE_HALF = 8 };

static void run_rope(const struct backend *b, const void *ctx, float *out) {
    float inv_freq[ROPE_HALF];
    size_t n = ROPE_ROWS * ROPE_HEADS * ROPE_DIM, n_cs = (size_t)ROPE_ROWS * ROPE_HALF * 2;
    float *x = cuda_rig_put(b, ctx, n * sizeof *x),
          *cs = b->ops->alloc(b->self, n_cs * sizeof *cs, NULL);
    for (int i = 0; i < ROPE_HALF; i++) {
        inv_freq[i] = powf(10000, (float)-i / ROPE_HALF);
    }
    b->ops->rope_angles(b->self, 4090, ROPE_ROWS, inv_freq, ROPE_HALF, 1.25f, cs);
    memset(inv_freq, 0xff, sizeof inv_freq); /* free to change when the operation returns */
    b->ops->rope(b->self, x, ROPE_ROWS, ROPE_HEADS, ROPE_DIM, cs, ROPE_HALF);
    cuda_rig_get(b, out, x, n);
    cuda_rig_release(b, x);
    cuda_rig_release(b, cs);
}

void cuda_test_rope(void **state) {
    enum { N = ROPE_ROWS * ROPE_HEADS * ROPE_DIM };
    const struct cuda_rig *g = *state;
    struct test_rng rng = {34};
    float x[N], want[N], got[N];
    kernels_fill(&rng, KIND_NORMAL, x, N);
    run_rope(&g->scalar, x, want);
    double *t = cuda_rig_tolerances(want, N, 0, 16 * FLT_EPSILON);
    cuda_rig_check(g, "rope", run_rope, x, got, want, t, N);
    free(t);
}

/* ---- uploads -------------------------------------------------------------------------------- */

void cuda_test_upload(void **state) {
    enum { BYTES = 3 << 20, PLACES = 4 };
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {40};
    uint8_t *staging = b->ops->host_alloc(b->self, BYTES, NULL), *back = mem_alloc(BYTES);
    uint8_t *slots = b->ops->alloc(b->self, (size_t)BYTES * PLACES, NULL);
    assert_int_equal((uintptr_t)staging % 64, 0);
    assert_true(b->ops->uploaded(b->self, 0, false));
    for (uint32_t i = 0; i < 600; i++) { /* more than there are events */
        size_t n = i < 8 ? BYTES - i : 1 + test_u64(&rng) % 1000;
        uint8_t *to = slots + (size_t)(i % PLACES) * BYTES;
        for (size_t k = 0; k < n; k++) {
            staging[k] = (uint8_t)(k * 31 + i + (k >> 12));
        }
        uint64_t after = i % 3 ? b->ops->mark(b->self) : 0;
        struct backend_copy copy = {to, staging, n, 1};
        uint64_t ticket =
            b->ops->upload(b->self, &copy, 1, i % 2 ? BACKEND_GUESSED : BACKEND_DEMANDED, after);
        while (!b->ops->uploaded(b->self, ticket, i % 5 != 0)) {
        }
        assert_true(b->ops->uploaded(b->self, ticket, false));
        b->ops->read(b->self, back, to, n);
        assert_memory_equal(back, staging, n);
    }
    cuda_rig_release(b, slots);
    b->ops->host_free(b->self, staging);
    free(back);
}

/* Several copies go as one upload, longer ones in parts; all are counted; and of the time of
 * copying no more is hidden than there is. */
void cuda_test_upload_many(void **state) {
    enum { MOST = 9, PLACE = 3 << 20, ROUNDS = 40 };
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {42};
    struct backend_link before, after;
    uint8_t *staging = b->ops->host_alloc(b->self, (size_t)MOST * PLACE, NULL),
            *back = mem_alloc(PLACE);
    uint8_t *slots = b->ops->alloc(b->self, (size_t)MOST * PLACE, NULL);
    float *x = b->ops->alloc(b->self, 4096 * sizeof *x, NULL);
    for (size_t k = 0; k < (size_t)MOST * PLACE; k++) {
        staging[k] = (uint8_t)(k * 37 + (k >> 11));
    }
    for (int round = 0; round < ROUNDS; round++) {
        struct backend_copy copies[MOST];
        uint32_t n = 1 + (uint32_t)(test_u64(&rng) % MOST), n_pieces = 0, n_copies = 0;
        uint64_t bytes = 0;
        enum backend_urgency urgency = round % 2 ? BACKEND_GUESSED : BACKEND_DEMANDED;
        for (uint32_t i = 0; i < n; i++) {
            size_t size = 1 + test_u64(&rng) % (i == 4 ? PLACE - 1 : 5000);
            size_t to = (i + (size_t)round) % MOST * PLACE + i;
            copies[i] = (struct backend_copy){slots + to, staging + (size_t)i * PLACE, size, 1 + i};
            bytes += size;
            n_pieces += 1 + i;
            n_copies += (uint32_t)((size + BACKEND_COPY_BYTES - 1) / BACKEND_COPY_BYTES);
        }
        b->ops->link(b->self, &before);
        b->ops->clamp(b->self, x, 4096, 1);
        uint64_t ticket =
            b->ops->upload(b->self, copies, n, urgency, round % 3 ? b->ops->mark(b->self) : 0);
        b->ops->clamp(b->self, x, 4096, 1);
        b->ops->uploaded(b->self, ticket, true);
        b->ops->link(b->self, &after);
        assert_int_equal(after.uploads - before.uploads, 1);
        assert_int_equal(after.copies - before.copies, n_copies);
        assert_int_equal(after.pieces - before.pieces, n_pieces);
        assert_int_equal(after.bytes[urgency] - before.bytes[urgency], bytes);
        assert_true(after.copy_ns >= before.copy_ns && after.hidden_ns >= before.hidden_ns);
        assert_true(after.hidden_ns <= after.copy_ns);
        for (uint32_t i = 0; i < n; i++) {
            b->ops->read(b->self, back, copies[i].dst, copies[i].bytes);
            assert_memory_equal(back, copies[i].src, copies[i].bytes);
        }
    }
    cuda_rig_release(b, slots);
    cuda_rig_release(b, x);
    b->ops->host_free(b->self, staging);
    free(back);
}

/* Rows of the host among a device's, more at once than the ring of small tables holds; those not
 * named stay. */
void cuda_test_put_rows(void **state) {
    enum { ROWS = 70, DIM = 9000 };
    static const uint32_t sizes[] = {1, 3, ROWS / 2};
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {41};
    float *want = cuda_rig_zeros((size_t)ROWS * DIM), *got = cuda_rig_zeros((size_t)ROWS * DIM);
    float *rows = cuda_rig_zeros((size_t)ROWS * DIM);
    float *y = b->ops->alloc(b->self, (size_t)ROWS * DIM * sizeof *y, NULL);
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
        uint32_t ids[ROWS];
        kernels_fill(&rng, KIND_NORMAL, rows, (size_t)sizes[s] * DIM);
        for (uint32_t i = 0; i < sizes[s]; i++) {
            ids[i] = (2 * i + (uint32_t)s) % ROWS;
            memcpy(want + (size_t)ids[i] * DIM, rows + (size_t)i * DIM, DIM * sizeof *want);
        }
        b->ops->put_rows(b->self, y, DIM, rows, ids, sizes[s]);
        memset(rows, 0xff, (size_t)ROWS * DIM * sizeof *rows); /* free to change */
        memset(ids, 0xff, sizeof ids);
    }
    cuda_rig_get(b, got, y, (size_t)ROWS * DIM);
    check_same("put_rows", got, want, (size_t)ROWS * DIM);
    cuda_rig_release(b, y);
    free(want);
    free(got);
    free(rows);
}
