/*
 * emulated: the CUDA backend's sources behind tests/kernels/cuda/emulate.h, and what a test may do
 * to the emulated device.
 */
#ifndef TESTS_KERNELS_CUDA_EMULATED_H
#define TESTS_KERNELS_CUDA_EMULATED_H

#include "kernels/backend.h"

/* As the functions without "emulated" in backend.h. */
int emulated_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                       const struct backend_limits *limits, struct err *err);
int emulated_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                          struct err *err);
uint64_t emulated_cuda_scratch_bytes(const struct backend_limits *limits);

/* In which order the threads of a block, and the blocks of a launch, take their turns. */
enum emulate_order { EMULATE_FORWARDS, EMULATE_BACKWARDS, EMULATE_SHUFFLED, EMULATE_ORDERS };
void emulate_set_order(enum emulate_order order);

/* What the machine is like. Zeroed but for `driver` it has no device. */
struct emulate_machine {
    int driver; /* version it reports; 0 = none installed */
    int n_devices, major, minor;
    size_t free_bytes, total_bytes;
    size_t context_bytes;   /* what the driver takes when the device is first used */
    uint64_t launches_left; /* the launch after these fails: the device is lost; 0 = never */
    /* Counting from 1, the block of device or of page-locked memory of this number, and all later
     * ones, cannot be had; the same of streams and events. 0 = all can, as far as free_bytes
     * goes. */
    uint64_t memory_left, objects_left;
    size_t host_bytes; /* of the host's memory, which the driver takes with its context */
    /* Of a launch of more than so many blocks, whose kernel `sampled` names, only so many run, the
     * last one and, where they are two or more, the first one among them: so a large launch touches
     * memory at both ends of what it would touch, and the rest keeps what it held. 0 = all run. */
    uint32_t most_blocks;
    bool (*sampled)(const char *kernel);
    /* What takes how long: every kernel, and every copy to the device. 0 = no time. */
    uint64_t kernel_ns;
    double copy_bytes_per_s;
};
struct emulate_machine *emulate_machine(void);

/* Host code that touches device memory is found at one of so many tries, one kernel or copy between
 * them; where there are more blocks of it than that, at one of so many as there are. */
enum { EMULATE_LOCK_EVERY = 64, EMULATE_MAX_BLOCKS = 4096 };

/* The host has done something else for so long. */
void emulate_pass(uint64_t ns);
/* Time that passes for a thread that asks whether an event was passed, in vain. */
enum { EMULATE_ASK_NS = 1000 };

/* Device memory in use, in bytes. */
size_t emulate_used_bytes(void);
/* Blocks of device and page-locked memory, streams and events that have not been freed. */
size_t emulate_alive(void);

#endif
