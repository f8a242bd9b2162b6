/*
 * test_util_emulated: see test_util_emulated.h.
 */
#include "tests/util/test_util_emulated.h"

int __wrap_backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                             const struct backend_limits *limits, struct err *err);
int __wrap_backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                struct err *err);
uint64_t __wrap_backend_cuda_scratch_bytes(const struct backend_limits *limits);

int __wrap_backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                             const struct backend_limits *limits, struct err *err) {
    return emulated_cuda_open(b, device, vram_bytes, limits, err);
}

int __wrap_backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                struct err *err) {
    return emulated_cuda_devices(first, list, max, err);
}

uint64_t __wrap_backend_cuda_scratch_bytes(const struct backend_limits *limits) {
    return emulated_cuda_scratch_bytes(limits);
}

struct emulate_machine emulated_machine(size_t bytes) {
    return (struct emulate_machine){.driver = 13000,
                                    .n_devices = 1,
                                    .major = 8,
                                    .minor = 9,
                                    .free_bytes = bytes,
                                    .total_bytes = bytes};
}
