/*
 * test_util_backends: see test_util_backends.h.
 */
#include "tests/util/test_util_backends.h"

#include <math.h>

#include "prep/calib/blas.h"

enum { MAX_CPUS = 16, THREAD_COUNTS = 3 };

/* OpenBLAS is not built with the thread sanitizer, which so takes its hand-overs for races. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
enum { BLAS_THREADS = 1 };
#else
enum { BLAS_THREADS = 2 };
#endif

static struct backend cpus[MAX_CPUS], blas;
static size_t n_cpus;

int backends_open(void **state) {
    static const uint32_t threads[THREAD_COUNTS] = {1, 2, 3};
    struct backend_limits limits = kernels_limits();
    struct err err = {0};
    (void)state;
    n_cpus = kernels_open_cpus(cpus, MAX_CPUS, threads, THREAD_COUNTS);
    assert_string_equal(backends_scalar()->isa, "scalar");
    backend_blas_open(&blas, BLAS_THREADS, &limits, &err);
    assert_no_err(&err);
    return 0;
}

int backends_close(void **state) {
    (void)state;
    for (size_t i = 0; i < n_cpus; i++) {
        backend_close(&cpus[i]);
    }
    backend_close(&blas);
    return 0;
}

const struct backend *backends_at(size_t i) {
    return i < n_cpus ? &cpus[i] : i == n_cpus ? &blas : NULL;
}

const struct backend *backends_one(size_t i) {
    return i < n_cpus ? &cpus[i - i % THREAD_COUNTS] : NULL;
}

const struct backend *backends_scalar(void) {
    return &cpus[0];
}

void backends_check_close(const struct backend *b, const char *what, const float *got,
                          const double *want, const double *tolerance, size_t n, const char *file,
                          int line) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= tolerance[i])) {
            print_error("%s %s: %s: element %zu of %zu is %.9g, expected %.9g, tolerance %.3g\n",
                        b->name, b->isa, what, i, n, (double)got[i], want[i], tolerance[i]);
            _fail(file, line);
        }
    }
}

void backends_check_same(const struct backend *b, const char *what, const float *got,
                         const float *want, size_t n, const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) {
            print_error("%s %s: %s: element %zu of %zu is %a, expected the bits of %a\n", b->name,
                        b->isa, what, i, n, (double)got[i], (double)want[i]);
            _fail(file, line);
        }
    }
}

float *backends_zeros(size_t n) {
    return mem_calloc(n, sizeof(float));
}

double *backends_all(size_t n, double x) {
    double *all = mem_calloc(n, sizeof *all);
    for (size_t i = 0; i < n; i++) {
        all[i] = x;
    }
    return all;
}

double *backends_doubles(const float *x, size_t n) {
    double *all = mem_calloc(n, sizeof *all);
    for (size_t i = 0; i < n; i++) {
        all[i] = (double)x[i];
    }
    return all;
}
