#include "tests/synth/random.h"

#include <math.h>

/* Inverse of the normal distribution function by Newton's method on erfc. */
static double quantile(double p) {
    double x = 0;
    for (int i = 0; i < 60; i++) {
        double f = 0.5 * erfc(-x * M_SQRT1_2) - p;
        double slope = exp(-0.5 * x * x) / sqrt(2 * M_PI);
        double step = f / slope;
        step = step > 0.5 ? 0.5 : step < -0.5 ? -0.5 : step;
        x -= step;
        if (fabs(step) < 1e-13) {
            break;
        }
    }
    return x;
}

void gauss_open(struct gauss *g) {
    double squares = 0;
    double q[GAUSS_COUNT / 2];
    for (int i = 0; i < GAUSS_COUNT / 2; i++) {
        q[i] = quantile(0.5 + (i + 0.5) / GAUSS_COUNT);
        squares += q[i] * q[i];
    }
    double scale = sqrt((GAUSS_COUNT / 2) / squares);
    for (int i = 0; i < GAUSS_COUNT / 2; i++) {
        g->quantile[GAUSS_COUNT / 2 + i] = (float)(q[i] * scale);
        g->quantile[GAUSS_COUNT / 2 - 1 - i] = -g->quantile[GAUSS_COUNT / 2 + i];
    }
}

void gauss_row(const struct gauss *g, uint64_t key, uint64_t first, uint32_t n, float *out) {
    uint64_t counter = first / 4;
    uint32_t j = 0;
    for (; j + 4 <= n; j += 4) {
        uint64_t h = random_u64(key, counter++);
        out[j] = g->quantile[h & (GAUSS_COUNT - 1)];
        out[j + 1] = g->quantile[(h >> 16) & (GAUSS_COUNT - 1)];
        out[j + 2] = g->quantile[(h >> 32) & (GAUSS_COUNT - 1)];
        out[j + 3] = g->quantile[(h >> 48) & (GAUSS_COUNT - 1)];
    }
    for (; j < n; j++) {
        out[j] = gauss_at(g, key, first + j);
    }
}
