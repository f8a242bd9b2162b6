/*
 * corm-run on a device that is not there: linked around the CUDA backend's functions (ld --wrap),
 * so that all else is the program itself. CORM_TEST_DEVICE says which device the machine has:
 *
 *   fake             test_util_device.h, as fast as memory
 *   fake:RATE,LATE   its link moves RATE bytes/s, a call of experts takes LATE ns longer
 *   emulated         tests/kernels/cuda/emulate.h, where nothing takes time
 *   emulated:RATE,NS its copies move RATE bytes/s, a kernel takes NS, by the emulated clock
 *   none, no-driver, old-driver, old, taken, lost:N
 *                    an emulated machine without a device; without a driver; with a driver, and a
 *                    device, that are too old; whose memory another program has; whose device is
 *                    lost at the N-th launch of a kernel
 *
 * Without it, the machine is as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda/emulated.h"
#include "tests/util/test_util_device.h"

int __wrap_backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                             const struct backend_limits *limits, struct err *err);
int __wrap_backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                struct err *err);
uint64_t __wrap_backend_cuda_scratch_bytes(const struct backend_limits *limits);
int __real_backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                             const struct backend_limits *limits, struct err *err);
int __real_backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                struct err *err);
uint64_t __real_backend_cuda_scratch_bytes(const struct backend_limits *limits);

enum { FAKE_BYTES = 1 << 30 };
enum kind { REAL, FAKE, EMULATED };

static enum kind kind_of(const char *name, struct fake_options *fake) {
    struct emulate_machine m = {.driver = 13000,
                                .n_devices = 1,
                                .major = 9,
                                .free_bytes = (size_t)1 << 30,
                                .total_bytes = (size_t)2 << 30};
    if (!name) {
        return REAL;
    }
    if (strncmp(name, "fake", 4) == 0) {
        char *end = NULL;
        *fake = (struct fake_options){.threads = 1, .memory_bytes = FAKE_BYTES};
        fake->bytes_per_s = name[4] == ':' ? strtod(name + 5, &end) : 0;
        fake->experts_late_ns = end && *end == ',' ? strtoull(end + 1, NULL, 10) : 0;
        return FAKE;
    }
    if (strcmp(name, "none") == 0) {
        m.n_devices = 0;
    } else if (strcmp(name, "no-driver") == 0) {
        m.driver = 0;
    } else if (strcmp(name, "old-driver") == 0) {
        m.driver = 12040;
    } else if (strcmp(name, "old") == 0) {
        m.major = 6;
    } else if (strcmp(name, "taken") == 0) {
        m.free_bytes = 8 << 20;
    } else if (strncmp(name, "lost:", 5) == 0) {
        m.launches_left = strtoull(name + 5, NULL, 10);
    } else if (strncmp(name, "emulated:", 9) == 0) {
        char *end;
        m.copy_bytes_per_s = strtod(name + 9, &end);
        m.kernel_ns = *end == ',' ? strtoull(end + 1, NULL, 10) : 0;
    } else if (strcmp(name, "emulated") != 0) {
        die("CORM_TEST_DEVICE=%s is unknown", name);
    }
    if (emulate_machine()->driver == 0 && emulate_machine()->total_bytes == 0) { /* once */
        *emulate_machine() = m;
    }
    return EMULATED;
}

static enum kind kind_here(struct fake_options *fake) {
    return kind_of(getenv("CORM_TEST_DEVICE"), fake);
}

int __wrap_backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                             const struct backend_limits *limits, struct err *err) {
    struct fake_options fake;
    switch (kind_here(&fake)) {
    case FAKE:
        return fake_device_open(b, &fake, limits, err);
    case EMULATED:
        return emulated_cuda_open(b, device, vram_bytes, limits, err);
    default:
        return __real_backend_cuda_open(b, device, vram_bytes, limits, err);
    }
}

int __wrap_backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                struct err *err) {
    struct fake_options fake;
    switch (kind_here(&fake)) {
    case FAKE:
        if (first == 0 && max > 0) {
            *list = (struct backend_device){.name = "fake",
                                            .usable = true,
                                            .total_bytes = FAKE_BYTES,
                                            .free_bytes = FAKE_BYTES};
        }
        return 1;
    case EMULATED:
        return emulated_cuda_devices(first, list, max, err);
    default:
        return __real_backend_cuda_devices(first, list, max, err);
    }
}

uint64_t __wrap_backend_cuda_scratch_bytes(const struct backend_limits *limits) {
    struct fake_options fake;
    switch (kind_here(&fake)) {
    case FAKE:
        return 0;
    case EMULATED:
        return emulated_cuda_scratch_bytes(limits);
    default:
        return __real_backend_cuda_scratch_bytes(limits);
    }
}
