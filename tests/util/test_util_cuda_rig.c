/*
 * test_util_cuda_rig: see test_util_cuda_rig.h.
 */
#include "tests/util/test_util_cuda_rig.h"

#include <math.h>

struct backend_limits cuda_rig_limits(void) {
    struct backend_limits limits = kernels_limits();
    limits.max_experts = 512;
    limits.delta_k_dim = limits.delta_v_dim = 256;
    return limits;
}

void cuda_rig_open_scalar(struct cuda_rig *g) {
    struct backend_limits limits = cuda_rig_limits();
    struct err err = {0};
    backend_cpu_open(&g->scalar, "scalar", 1, &limits, &err);
    assert_no_err(&err);
}

void cuda_rig_close(struct cuda_rig *g) {
    backend_close(&g->scalar);
    backend_close(&g->device);
}

void *cuda_rig_put(const struct backend *b, const void *host, size_t bytes) {
    void *p = b->ops->alloc(b->self, bytes, NULL);
    b->ops->write(b->self, p, host, bytes);
    return p;
}

void cuda_rig_get(const struct backend *b, float *host, const float *device, size_t n) {
    b->ops->read(b->self, host, device, n * sizeof *host);
}

void cuda_rig_release(const struct backend *b, void *p) {
    b->ops->free(b->self, p);
}

struct weight cuda_rig_place(const struct backend *b, const float *x, uint32_t rows,
                             uint32_t cols) {
    struct weight w = {codec_by_id(CODEC_F32), rows, cols, cols * sizeof *x,
                       (const uint8_t *)(const void *)x};
    return cuda_rig_place_weight(b, &w);
}

struct weight cuda_rig_place_weight(const struct backend *b, const struct weight *w) {
    struct weight placed;
    struct err err = {0};
    assert_int_equal(b->ops->place(b->self, w, &placed, &err), 0);
    assert_no_err(&err);
    return placed;
}

float *cuda_rig_zeros(size_t n) {
    return mem_calloc(n, sizeof(float));
}

#define check_close(what, got, want, tolerance, n)                                                 \
    check_close_at(what, got, want, tolerance, n, __FILE__, __LINE__)
static void check_close_at(const char *what, const float *got, const float *want,
                           const double *tolerance, size_t n, const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance[i])) {
            print_error("%s: element %zu of %zu is %.9g, scalar has %.9g, tolerance %.3g\n", what,
                        i, n, (double)got[i], (double)want[i], tolerance[i]);
            _fail(file, line);
        }
    }
}

void cuda_rig_check_same(const char *what, const float *got, const float *want, size_t n,
                         const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0 && !(isnan(got[i]) && isnan(want[i]))) {
            print_error("%s: element %zu of %zu is %a, expected the bits of %a\n", what, i, n,
                        (double)got[i], (double)want[i]);
            _fail(file, line);
        }
    }
}

void cuda_rig_variant(const struct cuda_rig *g, int variant) {
    if (g->set_variant) {
        g->set_variant(variant);
    }
}

void cuda_rig_check(const struct cuda_rig *g, const char *what, cuda_rig_run *run, const void *ctx,
                    float *got, const float *want, const double *tolerance, size_t n) {
    float *first = cuda_rig_zeros(n);
    for (int v = 0; v < g->n_variants; v++) {
        cuda_rig_variant(g, v);
        memset(got, 0xff, n * sizeof *got);
        run(&g->device, ctx, got);
        if (v == 0) {
            memcpy(first, got, n * sizeof *got);
            check_close(what, got, want, tolerance, n);
        }
        check_same(what, got, first, n);
    }
    cuda_rig_variant(g, 0);
    free(first);
}

double *cuda_rig_tolerances(const float *want, size_t n, double relative, double absolute) {
    double *t = mem_calloc(n, sizeof *t);
    for (size_t i = 0; i < n; i++) {
        t[i] = relative * fabs((double)want[i]) + absolute;
    }
    return t;
}
