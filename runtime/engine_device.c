/*
 * engine_device: the engine on a device that has memory of its own.
 *
 * Owns: which backend computes, and the plan of the device's memory: the trunk, the KV cache and
 * scratch lie there, and what is left holds experts. The cache, the queue and the rule for guesses
 * are those of the CPU; a chunk comes into a slot by way of page-locked memory (kernels/landing.h).
 * Also who computes the experts that the device misses: how much of the host's memory that takes,
 * and the measurement that decides where the user did not (runtime/offload.h has the rule).
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/processor.h"
#include "runtime/engine.h"
#include "runtime/machine.h"

/* See struct cache_options: a cold chunk is left out by one use of its expert in six. */
static const float HOT_BONUS = 0.25f;

/* "cuda", "cuda:3" */
static bool cuda_number(const char *text, uint32_t *number) {
    *number = 0;
    if (strncmp(text, "cuda", 4) != 0 || (text[4] != 0 && text[4] != ':')) {
        return false;
    }
    if (text[4] == 0) {
        return true;
    }
    size_t n = strlen(text + 5);
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)text[5 + i])) {
            return false;
        }
    }
    *number = (uint32_t)strtoul(text + 5, NULL, 10);
    return n > 0 && n < 4;
}

static int open_cuda(struct corm_engine *e, uint32_t number, const struct backend_limits *limits,
                     struct err *err) {
    struct backend_device device;
    /* The driver makes its context here, some hundred MiB of the host's memory. */
    const uint64_t before = machine_resident_bytes();
    int n = backend_cuda_devices(number, &device, 1, err);
    const uint64_t after = machine_resident_bytes();
    e->plan.driver_bytes = after > before ? after - before : 0;
    if (n < 0) {
        return -1;
    }
    if (number >= (uint32_t)n) {
        return err_set(err, "cuda:%u: this machine has %d CUDA device%s, numbered from 0", number,
                       n, n == 1 ? "" : "s");
    }
    struct err small = {0};
    if (device.usable &&
        engine_plan_device(e, backend_cuda_scratch_bytes(limits), device.free_bytes, &small) < 0) {
        if (e->opt.vram_bytes > 0 || e->plan.budget_bytes >= e->plan.floor_bytes) {
            return err_set(err, "%s", small.msg);
        }
        return err_set(err,
                       "%s; %llu of the %llu MiB of cuda:%u (%s) are free: does another "
                       "program use it?",
                       small.msg, (unsigned long long)(device.free_bytes >> 20),
                       (unsigned long long)(device.total_bytes >> 20), number, device.name);
    }
    /* The backend says what is wrong with a device that is not usable. */
    return backend_cuda_open(&e->backend, number, e->plan.total_bytes, limits, err);
}

/* ---- experts that the device misses ---- */

int engine_plan_missed(struct corm_engine *e, uint64_t in_place_bytes, uint64_t usable_bytes,
                       struct err *err) {
    const struct corm *c = &e->archive;
    struct corm_memory_plan *p = &e->plan;
    const uint64_t least = cache_floor_bytes(c, 0);
    /* What is usable now has the driver's part taken from it already. */
    const uint64_t budget = e->opt.ram_bytes ? e->opt.ram_bytes : usable_bytes + p->driver_bytes;
    p->missed = CORM_MISSED_DEVICE;
    if (e->opt.missed == CORM_MISSED_DEVICE || !p->streams) {
        return 0;
    }
    uint64_t own = offload_cpu_bytes(c, e->opt.threads, engine_predict_rows(e)) +
                   offload_bytes(c, engine_predict_rows(e), e->io_threads);
    uint64_t fixed = p->host_bytes + own;
    const uint64_t all_room = cache_bytes_needed(c, CACHE_IN_PLACE);
    const uint64_t all = in_place_bytes + all_room;
    e->host_in_place = budget >= fixed + all;
    if (e->opt.missed == CORM_MISSED_FIT && !e->host_in_place) {
        return 0;
    }
    if (budget < fixed + least && !e->host_in_place) {
        if (e->opt.missed == CORM_MISSED_AUTO) {
            return 0;
        }
        return err_set(err,
                       "%s: %llu MiB of the host's memory are too little for the experts that the "
                       "CPU computes: %llu MiB would do",
                       c->map.path, (unsigned long long)(budget >> 20),
                       (unsigned long long)(((fixed + least) >> 20) + 1));
    }
    e->host_room_bytes = e->host_in_place ? all_room : cache_usable_bytes(c, 0, budget - fixed);
    p->host_cache_bytes = e->host_in_place ? all : e->host_room_bytes;
    e->host_missed_bytes = own + p->host_cache_bytes;
    p->host_bytes += e->host_missed_bytes;
    p->missed = CORM_MISSED_CPU;
    return 0;
}

/* Measure, once, the rates that the plan tells. Take missed experts back from the CPU where it
 * should not compute them. */
static int decide_missed(struct corm_engine *e, struct err *err) {
    struct corm_memory_plan *p = &e->plan;
    if (p->streams && offload_link_rate(&e->backend, &p->link_bytes_per_s, err) < 0) {
        return -1;
    }
    if (p->missed == CORM_MISSED_CPU && e->opt.missed == CORM_MISSED_AUTO) {
        const struct prefetch_options io = {.io_threads = e->io_threads,
                                            .device = &e->backend,
                                            .way = READER_BUFFERED,
                                            .isa = e->opt.isa,
                                            .awake = processor_count() > e->opt.threads};
        if (offload_upload_rate(&e->backend, &e->archive, &io, &p->upload_bytes_per_s, err) < 0) {
            return -1;
        }
        p->cpu_bytes_per_s =
            offload_cpu_rate(&e->offload.cpu, &e->archive, p->host_cache_bytes, NULL);
        if (!e->host_in_place || !offload_pays(p->upload_bytes_per_s, p->cpu_bytes_per_s)) {
            p->missed = CORM_MISSED_DEVICE;
        }
    }
    if (p->missed == CORM_MISSED_CPU) {
        return 0;
    }
    p->host_bytes -= e->host_missed_bytes;
    p->host_cache_bytes = e->host_missed_bytes = 0;
    offload_close(&e->offload);
    return 0;
}

/* ---- opening ---- */

/* What the model has and the backend may lack. */
static int check_model(const struct corm_engine *e, struct err *err) {
    if (e->archive.mixed && !e->backend.ops->mixes_codecs) {
        return err_set(err,
                       "%s: experts have several codecs (%s), which device %s does not compute "
                       "with: expected one codec, or the CPU",
                       e->archive.map.path, e->archive.codec_names, e->backend.name);
    }
    return forward_supported(&e->archive.arch, &e->backend, err) < 0
               ? err_prefix(err, "%s", e->archive.map.path)
               : 0;
}

static int open_device(struct corm_engine *e, const char *device,
                       const struct backend_limits *limits, struct err *err) {
    const struct backend *given = e->opt.measure ? e->opt.measure->backend : NULL;
    uint32_t number;
    if (!given && !cuda_number(device, &number)) {
        return err_set(err, "device \"%s\" is unknown: auto, cpu, cuda or cuda:N", device);
    }
    if (!given && open_cuda(e, number, limits, err) < 0) {
        return -1;
    }
    if (given) {
        if (engine_plan_device(e, 0, e->opt.vram_bytes, err) < 0) {
            return -1;
        }
        e->backend = *given;
    }
    /* Before anything is measured: what cannot run is refused at once. */
    if (check_model(e, err) < 0) {
        return -1;
    }
    if (e->plan.missed == CORM_MISSED_CPU &&
        offload_open_cpu(&e->offload, &e->archive, e->opt.isa, e->opt.threads,
                         engine_predict_rows(e), err) < 0) {
        return -1;
    }
    return decide_missed(e, err);
}

int engine_open_backend(struct corm_engine *e, struct err *err) {
    const char *device = e->opt.device ? e->opt.device : "cpu";
    const struct corm_mechanisms *m = e->opt.measure;
    struct backend_limits limits =
        forward_limits(&e->archive.arch, engine_max_rows(e), e->opt.ctx_tok);
    bool cpu = strcmp(device, "cpu") == 0 || strcmp(device, "auto") == 0;
    if (e->opt.keeping != CORM_KEEP_DECODED && cache_can_pack(&e->archive)) {
        limits.max_packed_bytes = FFN_BLOCK * e->archive.neuron_bytes;
    }
    bool device_memory = !cpu || (m && m->backend);
    if (device_memory && e->opt.keeping == CORM_KEEP_PACKED) {
        return err_set(err, "experts kept packed, and a device, which holds them decoded");
    }
    if (device_memory && codec_has_scales(kv_codec((enum kv_type)e->opt.kv_type)->id)) {
        return err_set(err, "a KV cache in q8, and a device, which holds it in f16 or f32");
    }
    if (device_memory) {
        return open_device(e, device, &limits, err);
    }
    if (e->opt.vram_bytes > 0) {
        return err_set(err, "a budget of device memory, and no device: name one");
    }
    if (e->opt.missed != CORM_MISSED_FIT && e->opt.missed != CORM_MISSED_DEVICE) {
        return err_set(err, "what computes experts that a device misses, and no device: name one");
    }
    if (engine_plan(e, backend_cpu_scratch_bytes(e->opt.threads, &limits), err) < 0) {
        return -1;
    }
    return backend_cpu_open(&e->backend, e->opt.isa, e->opt.threads, &limits, err) < 0
               ? -1
               : check_model(e, err);
}

int engine_open_slots(struct corm_engine *e, bool whole_lru, struct err *err) {
    struct cache_options how = {.how = e->keeps,
                                .hot_bonus = e->opt.loss_percent > 0 ? HOT_BONUS : 0,
                                .whole_lru = whole_lru};
    if (backend_needs_landing(&e->backend) && e->room_bytes > 0) {
        how.slots = e->device_slots = e->backend.ops->alloc(e->backend.self, e->room_bytes, err);
        if (!how.slots) {
            return -1;
        }
    }
    return cache_open(&e->cache, &e->archive, e->room_bytes, &how, err);
}
