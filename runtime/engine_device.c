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

/* Of a device with `free_bytes`, whose backend takes `scratch_bytes`. */
static int plan_device(struct corm_engine *e, uint64_t scratch_bytes, uint64_t free_bytes,
                       struct err *err) {
    const struct corm *c = &e->archive;
    const struct arch *a = &c->arch;
    struct corm_memory_plan *p = &e->plan;
    for (uint32_t i = 0; i < c->n_tensors; i++) /* rows begin at multiples of 16 bytes there */
        p->trunk_bytes += c->tensors[i].bytes + 15 * (uint64_t)c->tensors[i].rows;
    for (uint32_t i = 0; i < c->n_chunks; i++)
        p->expert_bytes += corm_chunk_raw_bytes(c, &c->chunks[i]);
    p->kv_bytes = engine_kv_bytes(e);
    p->scratch_bytes = scratch_bytes + forward_scratch_bytes(a, e->opt.batch_rows) +
                       predict_scratch_bytes(a, engine_predict_rows(e)) + c->predictors.size_bytes +
                       (uint64_t)LOGITS_ROWS * a->vocab * sizeof(float);
    uint64_t fixed = p->trunk_bytes + p->kv_bytes + p->scratch_bytes, slot = cache_slot_bytes(c);
    uint32_t most = cache_slots_needed(c, false), least = cache_slots_floor(c);
    least = least < most ? least : most;
    p->cache_need_bytes = most * slot;
    p->floor_bytes = fixed + least * slot;
    p->budget_bytes = e->opt.vram_bytes ? e->opt.vram_bytes : free_bytes / 16 * 15;
    const struct corm_mechanisms *m = e->opt.measure;
    if (m && m->cache_share > 0)
        p->budget_bytes = fixed + (uint64_t)(m->cache_share * most) * slot;
    if (p->budget_bytes < p->floor_bytes)
        return err_set(
            err,
            "%s: %llu MiB of device memory are too little: %llu MiB would do (trunk "
            "%llu, KV cache %llu, scratch %llu, smallest expert cache %llu)",
            c->map.path, (unsigned long long)(p->budget_bytes >> 20),
            (unsigned long long)((p->floor_bytes >> 20) + 1),
            (unsigned long long)(p->trunk_bytes >> 20), (unsigned long long)(p->kv_bytes >> 20),
            (unsigned long long)(p->scratch_bytes >> 20), (unsigned long long)(least * slot >> 20));
    uint64_t slots = (p->budget_bytes - fixed) / slot;
    e->n_slots = (uint32_t)(slots < most ? slots : most);
    e->in_place = false;
    p->cache_bytes = e->n_slots * slot;
    p->total_bytes = fixed + p->cache_bytes;
    p->streams = e->n_slots < most;
    p->host_bytes = engine_host_bytes(e) + prefetch_landing_bytes(c, e->io_threads);
    engine_choose_reading(e);
    return 0;
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
    if (plan_device(e, backend_cuda_scratch_bytes(limits), device.free_bytes, err) < 0)
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
        if (plan_device(e, 0, e->opt.vram_bytes, err) < 0)
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
