/*
 * matmul of every backend: against the scalar one within named tolerances, and, for the CPU, to the
 * bit against itself for other thread counts and row splits. Other operations have files of their
 * own: test_kernels_*, test_ops, test_route.
 */
#include <math.h>

#include "tests/util/test_util_backends.h"

static const struct kernels_shape shapes[] = {{1, 32}, {3, 64},  {17, 96},  {64, 256}, {130, 160},
                                              {33, 7}, {5, 100}, {70, 544}, {9, 2080}, {256, 1024}};
static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 33};

/* With these weights a CPU quantises its inputs, BLAS does not. */
static bool quantises(const struct codec *codec) {
    return codec_has_scales(codec->id);
}

/* The scalar result of a product and how far another may be from it: both round. */
static double *matmul_tolerances(const struct weight *w, const float *bias, const float *x,
                                 uint32_t rows) {
    double *t = mem_calloc((size_t)rows * w->rows, sizeof *t);
    for (uint32_t o = 0; o < w->rows; o++) {
        float *row = kernels_decode(w, o);
        for (uint32_t r = 0; r < rows; r++) {
            double size;
            kernels_dot(row, x + (size_t)r * w->cols, w->cols, &size);
            size += bias ? fabs((double)bias[o]) : 0;
            size *=
                codec_has_minimums(w->codec->id) ? 64 : 1; /* a difference of two greater sums */
            double *at = &t[(size_t)r * w->rows + o];
            *at = 2 * kernels_dot_tolerance(w->cols, size);
            *at += quantises(w->codec) ? kernels_quant_error(row, x + (size_t)r * w->cols, w->cols)
                                       : 0;
        }
        free(row);
    }
    return t;
}

static void check_matmul(void *ctx, struct test_rng *rng, const struct weight *w,
                         const struct weight *bias, enum kind kind, uint32_t rows) {
    (void)ctx;
    size_t n_out = (size_t)rows * w->rows, n_in = (size_t)rows * w->cols;
    float *x = kernels_vector(rng, kind, n_in), *got = test_guard(n_out * sizeof *got);
    float *want = backends_zeros(n_out), *same = backends_zeros(n_out);
    const struct backend *b = backends_scalar(), *one;
    b->ops->matmul(b->self, w, bias, x, rows, want);
    double *t = matmul_tolerances(w, weight_floats(bias), x, rows),
           *near = backends_doubles(want, n_out);
    char *what = mem_printf("matmul %s %ux%u, %u rows, %s", w->codec->name, w->rows, w->cols, rows,
                            kind_name(kind));
    for (size_t i = 0; (b = backends_at(i)); i++) {
        b->ops->matmul(b->self, w, bias, x, rows, got);
        one = backends_one(i);
        if (one && quantises(w->codec)) {
            backends_same(b, what, got, want, n_out);
        } else {
            backends_close_to(b, what, got, near, t, n_out);
        }
        if (one) { /* the same row by row */
            for (uint32_t r = 0; r < rows; r++) {
                one->ops->matmul(one->self, w, bias, x + (size_t)r * w->cols, 1,
                                 same + (size_t)r * w->rows);
            }
            backends_same(b, what, got, same, n_out);
        }
    }
    free(what);
    free(t);
    free(near);
    free(want);
    free(same);
    test_guard_free(x, n_in * sizeof *x);
    test_guard_free(got, n_out * sizeof *got);
}

static void test_matmul(void **state) {
    struct test_rng rng = {11};
    (void)state;
    kernels_each_product(&rng,
                         &(struct kernels_products){shapes, TEST_COUNT(shapes), row_counts,
                                                    TEST_COUNT(row_counts), check_matmul, NULL});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
