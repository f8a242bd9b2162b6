/*
 * logits: probabilities of tokens from a row of logits, in doubles, for what measures a model.
 *
 * Owns: the logarithm of the sum that a softmax divides by; whether a row is usable at all.
 * Leaves to others: sampling (runtime/sample), and the router's softmax (kernels/route.h), whose
 * bits have to be the same on every backend.
 * Threads: any; no state.
 */
#ifndef KERNELS_LOGITS_H
#define KERNELS_LOGITS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether all n logits are finite. */
bool logits_finite(const float *logits, uint32_t n);
/* log(sum of exp(logits[i])), n >= 1, which does not overflow where the logits are finite. The log
 * of token i's probability is logits[i] less this. */
double logits_log_sum_exp(const float *logits, uint32_t n);

#endif
