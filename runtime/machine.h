/*
 * machine: what memory this process may use of the machine, container limits included.
 *
 * Owns: reading /proc/meminfo and the memory cgroups (v1 and v2, all levels up to the root).
 * Leaves to others: what to do with it (engine's memory plan).
 * Threads: no state.
 */
#ifndef RUNTIME_MACHINE_H
#define RUNTIME_MACHINE_H

#include <stdint.h>

/* Bytes that could be taken now without swapping or hitting a cgroup limit: MemAvailable, and for
 * each memory cgroup above the process its limit less what cannot be reclaimed. UINT64_MAX where
 * neither can be read. */
uint64_t machine_available_bytes(void);

/* The most memory that was resident for this process at once since its start, mapped files
 * included. 0 where it cannot be read. */
uint64_t machine_peak_bytes(void);

#endif
