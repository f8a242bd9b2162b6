#include "kernels/logits.h"

#include <math.h>

bool logits_finite(const float *logits, uint32_t n) {
    bool finite = true;
    for (uint32_t i = 0; i < n; i++) {
        finite &= fabsf(logits[i]) < INFINITY; /* false for NaN, too */
    }
    return finite;
}

double logits_log_sum_exp(const float *logits, uint32_t n) {
    double top = logits[0], sum = 0;
    for (uint32_t i = 1; i < n; i++) {
        top = logits[i] > top ? (double)logits[i] : top;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - top);
    }
    return log(sum) + top;
}
