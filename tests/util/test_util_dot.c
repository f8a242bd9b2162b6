/*
 * test_util_dot: see test_util_dot.h.
 */
#include <math.h>

#include "tests/util/test_util_dot.h"

const uint32_t dot_cols[DOT_COLS] = {1,   2,   7,   8,   9,   15,   16,   17,   31,
                                     32,  33,  40,  63,  64,  96,   100,  128,  160,
                                     255, 256, 511, 512, 544, 1000, 1024, 1056, 2080};

const struct dot_isa *dot_isa_at(size_t i) {
    static const struct dot_isa *const built[] = {
        &dot_ref,
#ifdef __x86_64__
        &dot_avx2,
        &dot_avx512,
#endif
    };
    for (size_t k = 0; k < TEST_COUNT(built); k++) {
        if (built[k]->usable() && i-- == 0) {
            return built[k];
        }
    }
    return NULL;
}

void dot_check_close(const struct place *p, const char *what, size_t i, float got, double want,
                     double tolerance, const char *file, int line) {
    if (!(fabs((double)got - want) <= tolerance)) {
        print_error("%s %s %s, %u rows, %u cols, %s: element %zu is %.9g, expected %.9g +- %.3g\n",
                    p->isa->name, p->codec ? p->codec->name : "", what, p->rows, p->cols,
                    kind_name(p->kind), i, (double)got, want, tolerance);
        _fail(file, line);
    }
}

void dot_check_same(const struct place *p, const char *what, const float *got, const float *want,
                    size_t n, const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof got[i]) != 0) {
            print_error(
                "%s %s %s, %u rows, %u cols, %s: element %zu is %a, expected the bits of %a\n",
                p->isa->name, p->codec ? p->codec->name : "", what, p->rows, p->cols,
                kind_name(p->kind), i, (double)got[i], (double)want[i]);
            _fail(file, line);
        }
    }
}

struct dot_rows dot_rows_of(const struct weight *w, uint32_t first, uint32_t n) {
    return (struct dot_rows){weight_row(w, first), w->stride_bytes, n, w->cols, 8, 16 * 1024};
}

bool dot_same_or_nan(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}
