/*
 * test_util_device: a device without hardware, so that all that the host does for one can be
 * tested.
 *
 * It computes with the CPU backend's tables, on memory of its own that the host can see but not
 * touch: the addresses it hands out lie in unreadable pages. Experts are computed late, by a
 * thread, as a device would: what overwrites their chunks too early changes the result. Copies go
 * through another thread, at a bandwidth that the test chooses, the demanded ones first, at most
 * BACKEND_COPY_BYTES at once; a place is spoilt before its copy begins. host_alloc is remembered:
 * an upload from other memory ends the program, as does every address that is not the device's.
 */
#ifndef TESTS_UTIL_TEST_UTIL_DEVICE_H
#define TESTS_UTIL_TEST_UTIL_DEVICE_H

#include "kernels/backend.h"

struct fake_options {
    const char *isa; /* of the CPU tables */
    uint32_t threads;
    size_t memory_bytes;      /* of the device */
    double bytes_per_s;       /* of the link; 0 = as fast as memcpy */
    uint64_t experts_late_ns; /* how long a call of experts waits before it computes */
};

struct fake_counts {
    struct backend_link link;
    size_t used_bytes, most_bytes; /* of device memory */
};

int fake_device_open(struct backend *b, const struct fake_options *opt,
                     const struct backend_limits *limits, struct err *err);
struct fake_counts fake_device_counts(const struct backend *b);

#endif
