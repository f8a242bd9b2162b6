/*
 * blas: the CPU backend, with its two large operations, matmul and experts, done by OpenBLAS on
 * panels of decoded floats. It is for work with many rows: calibration, and comparing with other
 * programs.
 *
 * Owns: the panels, whose size is bounded however large a matrix is; the
 * number of OpenBLAS threads, which it sets for the whole process.
 * Leaves to others: products (fit); every other operation (kernels/cpu); calls of few rows, for
 * which the CPU backend's own kernels work on encoded weights.
 * Threads: as backend.h. The pool sleeps while OpenBLAS runs.
 *
 * Unlike the other backends it does not promise the same bits for any number of rows in a call,
 * because OpenBLAS chooses its kernels, and with them the order of sums, by shape. They do not
 * depend on the number of threads.
 */
#ifndef PREP_CALIB_BLAS_H
#define PREP_CALIB_BLAS_H

#include "kernels/backend.h"

/* As backend_cpu_open with the best ISA; freed by ops->close. Refuses an OpenBLAS that computes a
 * small product wrongly (kernels that it chose for another processor). */
int backend_blas_open(struct backend *b, uint32_t threads, const struct backend_limits *limits,
                      struct err *err);

#endif
