/*
 * device: what backend.h says of devices, in a program that was built without CUDA.
 */
#include "kernels/backend.h"

#ifndef CORM_CUDA
static const char no_cuda[] = "CUDA: this program was built without it (make CUDA=auto, where the "
                              "CUDA Toolkit is installed)";

int backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                      const struct backend_limits *limits, struct err *err) {
    (void)b, (void)device, (void)vram_bytes, (void)limits;
    return err_set(err, "%s", no_cuda);
}

uint64_t backend_cuda_scratch_bytes(const struct backend_limits *limits) {
    (void)limits;
    return 0;
}

int backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                         struct err *err) {
    (void)first, (void)list, (void)max;
    return err_set(err, "%s", no_cuda);
}
#endif
