/*
 * processor: the processors that this process may use, and how a thread waits while it runs.
 *
 * Owns: their count, the hint that a loop is waiting.
 * Leaves to others: how many threads are started, and how long one waits awake (pool, prefetch,
 * reader).
 * Threads: any; no state.
 */
#ifndef KERNELS_PROCESSOR_H
#define KERNELS_PROCESSOR_H

#include <stdint.h>

/* Processors in this process's CPU set, at least 1. */
uint32_t processor_count(void);

/* Tell the processor that a loop is waiting. */
static inline void processor_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
