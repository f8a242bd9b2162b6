/*
 * machine: what memory this process may use of the machine, container limits included.
 *
 * Owns: reading /proc/meminfo, the memory cgroups (v1 and v2, all levels up to the root) and the
 * process's limits.
 * Leaves to others: what to do with it (engine's memory plan).
 * Threads: no state.
 */
#ifndef RUNTIME_MACHINE_H
#define RUNTIME_MACHINE_H

#include <stdint.h>

/* Bytes that could be taken now without swapping or hitting a limit: MemAvailable, for each memory
 * cgroup above the process its limit less what cannot be reclaimed, and machine_address_bytes.
 * UINT64_MAX where nothing can be read. */
uint64_t machine_available_bytes(void);

/* Bytes of addresses that are left to the process by its own limits (RLIMIT_AS, ulimit -v;
 * RLIMIT_DATA, ulimit -d); UINT64_MAX without. Files that are mapped already are not among them. */
uint64_t machine_address_bytes(void);
/* The size of a page of memory, and of a thread's stack. */
uint64_t machine_page_bytes(void);
uint64_t machine_stack_bytes(void);

/* Addresses that the process has mapped, and memory that is resident for it, both with mapped
 * files. 0 where it cannot be read. */
uint64_t machine_size_bytes(void);
uint64_t machine_resident_bytes(void);
/* The most memory that was resident for this process at once since its start, mapped files
 * included. 0 where it cannot be read. */
uint64_t machine_peak_bytes(void);

#endif
