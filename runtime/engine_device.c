/*
 * engine_device: the engine on a device that has memory of its own.
 *
 * Owns: which backend computes, and the plan of the device's memory: trunk, KV cache and scratch
 * lie there, and what is left holds experts. The cache, the queue and the rule for guesses are
 * those of the CPU; a chunk lands in a slot by way of page-locked memory (kernels/landing.h).
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"

/* "cuda", "cuda:3" */
static bool cuda_number(const char *text, uint32_t *number) {
    *number = 0;
    if (strncmp(text, "cuda", 4) != 0 || (text[4] != 0 && text[4] != ':'))
        return false;
    if (text[4] == 0)
        return true;
    size_t n = strlen(text + 5);
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)text[5 + i]))
            return false;
    *number = (uint32_t)strtoul(text + 5, NULL, 10);
    return n > 0 && n < 4;
}

static int open_cuda(struct corm_engine *e, uint32_t number, const struct backend_limits *limits,
                     struct err *err) {
    struct backend_device device;
    int n = backend_cuda_devices(number, &device, 1, err);
    if (n < 0)
        return -1;
    if (number >= (uint32_t)n)
        return err_set(err, "cuda:%u: this machine has %d CUDA device%s, numbered from 0", number,
                       n, n == 1 ? "" : "s");
    if (engine_plan_device(e, backend_cuda_scratch_bytes(limits), device.free_bytes, err) < 0)
        return -1;
    return backend_cuda_open(&e->backend, number, e->plan.total_bytes, limits, err);
}

int engine_open_backend(struct corm_engine *e, struct err *err) {
    const char *device = e->opt.device ? e->opt.device : "cpu";
    const struct corm_mechanisms *m = e->opt.measure;
    struct backend_limits limits =
        forward_limits(&e->archive.arch, e->opt.batch_rows, e->opt.ctx_tok);
    uint32_t number;
    if (m && m->backend) {
        const struct backend *be = m->backend;
        if (engine_plan_device(e, 0, e->opt.vram_bytes, err) < 0)
            return -1;
        e->backend = *be;
        return 0;
    }
    if (strcmp(device, "cpu") == 0 || strcmp(device, "auto") == 0) {
        if (e->opt.vram_bytes > 0)
            return err_set(err, "a budget of device memory, and no device: name one");
        if (backend_cpu_open(&e->backend, e->opt.isa, e->opt.threads, &limits, err) < 0)
            return -1;
        return engine_plan(e, err);
    }
    if (!cuda_number(device, &number))
        return err_set(err, "device \"%s\" is unknown: auto, cpu, cuda or cuda:N", device);
    return open_cuda(e, number, &limits, err);
}

int engine_open_slots(struct corm_engine *e, struct err *err) {
    if (cache_open(&e->cache, &e->archive, e->n_slots, e->in_place, err) < 0)
        return -1;
    if (backend_needs_landing(&e->backend) && e->n_slots > 0) {
        e->device_slots = e->backend.ops->alloc(e->backend.self,
                                                (size_t)e->n_slots * cache_slot_bytes(&e->archive));
        cache_use_slots(&e->cache, e->device_slots);
    }
    return 0;
}
