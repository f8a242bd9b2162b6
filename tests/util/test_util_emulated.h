/*
 * test_util_emulated: the engine, and programs, on the emulated CUDA device by its name.
 *
 * A test that is linked with the Makefile's `wrap_cuda` has this in place of the real device's
 * functions: `device = "cuda"` then opens the emulated one, and plans for what it has free.
 */
#ifndef TESTS_UTIL_TEST_UTIL_EMULATED_H
#define TESTS_UTIL_TEST_UTIL_EMULATED_H

#include "tests/kernels/cuda/emulated.h"

/* A machine with one device that does, and so many bytes of memory on it. */
struct emulate_machine emulated_machine(size_t bytes);

#endif
