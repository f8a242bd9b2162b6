#include "runtime/offload.h"

#include <stdlib.h>
#include <string.h>

enum {
    USE = 16,     /* one use in the counts of places */
    N_COPIES = 4, /* that are measured together */
};
static const uint64_t MEASURE_NS = 20 * 1000 * 1000;
static const uint64_t MEASURE_BYTES = UINT64_C(64) << 20; /* of weights: more than caches hold */

/* ---- the rule ---- */

bool offload_pays(double upload_bytes_per_s, double cpu_bytes_per_s) {
    return upload_bytes_per_s > 0 && cpu_bytes_per_s > upload_bytes_per_s;
}

int offload_link_rate(const struct backend *device, double *bytes_per_s, struct err *err) {
    const struct backend_ops *op = device->ops;
    *bytes_per_s = 0;
    if (!backend_needs_landing(device)) {
        return 0;
    }
    const size_t all = (size_t)N_COPIES * BACKEND_COPY_BYTES;
    uint8_t *from = op->host_alloc(device->self, all, err);
    if (!from) {
        return -1;
    }
    uint8_t *to = op->alloc(device->self, all, err);
    if (!to) {
        op->host_free(device->self, from);
        return -1;
    }
    const struct backend_copy copy = {to, from, all, N_COPIES};
    memset(from, 0, all);
    uint64_t ns = 0, bytes = 0;
    for (int round = 0; round < 2 || ns < MEASURE_NS; round++) {
        uint64_t start = clock_ns();
        op->uploaded(device->self, op->upload(device->self, &copy, 1, BACKEND_DEMANDED, 0), true);
        if (round == 0) {
            continue; /* the first touches what nobody has touched */
        }
        ns += clock_ns() - start;
        bytes += all;
    }
    op->free(device->self, to);
    op->host_free(device->self, from);
    *bytes_per_s = (double)bytes * 1e9 / (double)ns;
    return 0;
}

enum { UPLOAD_BYTES = 4 << 20, UPLOAD_EXPERTS = 8 }; /* so much of each of so many experts */

/* Bring the first chunks of experts by turns, two at a time, into slots that hold no more, so that
 * none is there when its turn comes again. All are read once before, which is when raw ones are
 * checked. */
static int upload_by_turns(struct cache *cache, struct prefetch *p, uint32_t n_chunks,
                           double *bytes_per_s, struct err *err) {
    const struct corm *c = cache->archive;
    const uint32_t n = c->n_records < UPLOAD_EXPERTS ? c->n_records : UPLOAD_EXPERTS;
    uint64_t ns = 0, bytes = 0;
    for (uint32_t at = 0; at < 2 * n || ns < MEASURE_NS; at += 2) {
        const uint64_t start = clock_ns(), before = cache->count.decoded_bytes;
        struct prefetch_need needs[2];
        bool ready[2] = {false, false};
        for (uint32_t i = 0; i < 2; i++) {
            needs[i] = (struct prefetch_need){c->records[(at + i) % n].first_chunk, n_chunks, NULL};
        }
        prefetch_demand(p, needs, 2);
        int status = 0;
        for (uint32_t i = 0; i < 2 && status == 0; i++) {
            status = prefetch_wait_any(p, &needs[i], 1, &ready[i], err);
        }
        prefetch_release(p, needs, 2);
        if (status < 0) {
            return -1;
        }
        if (at >= n) { /* all have been read once */
            ns += clock_ns() - start;
            bytes += cache->count.decoded_bytes - before;
        }
    }
    *bytes_per_s = (double)bytes * 1e9 / (double)ns;
    return 0;
}

int offload_upload_rate(const struct backend *device, const struct corm *archive,
                        const struct prefetch_options *io, double *bytes_per_s, struct err *err) {
    const size_t slot = cache_slot_bytes(archive, 0);
    uint32_t n_chunks = (uint32_t)((UPLOAD_BYTES + slot - 1) / slot);
    for (uint32_t r = 0; r < archive->n_records; r++) {
        n_chunks =
            archive->records[r].n_chunks < n_chunks ? archive->records[r].n_chunks : n_chunks;
    }
    struct cache cache = {0};
    struct prefetch *p = NULL;
    struct cache_options keep = {.how = CACHE_ONE_SIZE, .whole_lru = true};
    keep.slots = device->ops->alloc(device->self, 2 * n_chunks * slot, err);
    *bytes_per_s = 0;
    int status = keep.slots && cache_open(&cache, archive, 2 * n_chunks * slot, &keep, err) == 0 &&
                         prefetch_open(&p, &cache, io, err) == 0
                     ? upload_by_turns(&cache, p, n_chunks, bytes_per_s, err)
                     : -1;
    prefetch_close(p);
    cache_close(&cache);
    device->ops->free(device->self, keep.slots);
    return status;
}

/* The experts of a measurement: each consists of `n` pieces, which lie one behind the other. */
struct pieces {
    uint8_t *data;
    size_t bytes, all_bytes; /* of a piece, from one to the next; of all */
    size_t neuron_bytes;     /* decoded */
    struct ffn_chunk chunk;  /* any of them, but for its data */
    uint32_t n;              /* an expert */
};

static struct pieces make_pieces(const struct corm *archive, uint64_t most_bytes,
                                 const struct corm_chunk *packed) {
    const uint32_t neurons = archive->arch.ffn_dim;
    struct pieces p = {
        .chunk = {.codec = packed ? corm_chunk_codec(archive, packed) : archive->expert_codec,
                  .n_neurons = packed ? packed->n_neurons : neurons,
                  .packed_bytes = packed ? packed->stored_bytes : 0}};
    p.neuron_bytes = packed ? corm_chunk_neuron_bytes(archive, packed) : archive->neuron_bytes;
    p.n = (neurons + p.chunk.n_neurons - 1) / p.chunk.n_neurons;
    p.bytes = align_up(packed ? packed->stored_bytes : neurons * p.neuron_bytes, 64);
    uint64_t fit = (most_bytes < MEASURE_BYTES ? most_bytes : MEASURE_BYTES) / (p.n * p.bytes);
    p.all_bytes = (fit < 2 ? 2 : fit) * p.n * p.bytes;
    p.data = mem_alloc_aligned(p.all_bytes);
    if (!packed) {
        /* These bytes mean small weights and scales in every codec. */
        memset(p.data, 0x3c, p.all_bytes);
    }
    for (size_t at = 0; packed && at < p.all_bytes; at += p.bytes) {
        memcpy(p.data + at, archive->map.data + packed->offset, packed->stored_bytes);
    }
    return p;
}

double offload_cpu_rate(const struct backend *cpu, const struct corm *archive, uint64_t most_bytes,
                        const struct corm_chunk *packed) {
    const struct arch *a = &archive->arch;
    const uint32_t n_jobs = a->n_active;
    /* The activation takes a small part of the time, so that any one will do, and biases take
     * none. */
    const struct expert_layer layer = {.dim = a->dim, .ffn_dim = a->ffn_dim, .n_active = n_jobs};
    struct pieces p = make_pieces(archive, most_bytes, packed);
    float *x = mem_calloc(a->dim, sizeof *x),
          *parts = mem_calloc((size_t)n_jobs * a->dim, sizeof *x);
    struct ffn_chunk *chunks = mem_calloc((size_t)n_jobs * p.n, sizeof *chunks);
    struct expert_job *jobs = mem_calloc(n_jobs, sizeof *jobs);
    uint32_t *uses = mem_calloc(n_jobs, sizeof *uses);
    for (uint32_t i = 0; i < a->dim; i++) {
        x[i] = 0.01f;
    }
    uint64_t ns = 0, bytes = 0;
    size_t next = 0;
    for (int round = 0; round < 2 || ns < MEASURE_NS; round++) {
        for (uint32_t i = 0; i < n_jobs; i++) {
            uses[i] = i;
            jobs[i] = (struct expert_job){0, chunks + (size_t)i * p.n, p.n, &uses[i], 1};
        }
        for (uint32_t i = 0; i < n_jobs * p.n; i++, next = (next + p.bytes) % p.all_bytes) {
            chunks[i] = p.chunk;
            chunks[i].data = p.data + next;
        }
        uint64_t start = clock_ns();
        cpu->ops->experts(cpu->self, &layer, jobs, n_jobs, x, parts);
        if (round == 0) {
            continue;
        }
        ns += clock_ns() - start;
        bytes += (uint64_t)n_jobs * p.n * p.chunk.n_neurons * p.neuron_bytes;
    }
    free(p.data);
    free(x);
    free(parts);
    free(chunks);
    free(jobs);
    free(uses);
    return (double)bytes * 1e9 / (double)ns;
}

/* ---- places ---- */

void offload_places_open(struct offload_places *p, const struct corm *archive, uint32_t room) {
    const struct arch *a = &archive->arch;
    uint32_t n_moe = arch_moe_layers(a), seen = 0;
    *p = (struct offload_places){.n_layers = a->n_layers, .n_experts = a->n_experts};
    p->room = mem_calloc(a->n_layers, sizeof *p->room);
    p->taken = mem_calloc(a->n_layers, sizeof *p->taken);
    p->uses = mem_calloc((size_t)a->n_layers * a->n_experts, sizeof *p->uses);
    p->placed = mem_calloc((size_t)a->n_layers * a->n_experts, sizeof *p->placed);
    p->from_tok = mem_calloc((size_t)a->n_layers * a->n_experts, sizeof *p->from_tok);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (arch_is_moe(a, l)) {
            uint32_t share = room / n_moe + (seen++ < room % n_moe);
            p->room[l] = share < a->n_experts ? share : a->n_experts;
        }
    }
}

void offload_places_close(struct offload_places *p) {
    free(p->room);
    free(p->taken);
    free(p->uses);
    free(p->placed);
    free(p->from_tok);
    *p = (struct offload_places){0};
}

void offload_places_clock(struct offload_places *p, uint32_t rows) {
    p->now_tok += rows;
    for (p->tok += rows; p->tok >= OFFLOAD_FADE_TOK; p->tok -= OFFLOAD_FADE_TOK) {
        for (size_t i = 0; i < (size_t)p->n_layers * p->n_experts; i++) {
            p->uses[i] /= 2;
        }
    }
}

/* Whether an expert without a place gets one now. */
static bool takes_place(struct offload_places *p, uint32_t layer, uint32_t expert) {
    const uint32_t *uses = &p->uses[(size_t)layer * p->n_experts];
    bool *placed = &p->placed[(size_t)layer * p->n_experts];
    uint32_t least = p->n_experts;
    if (p->taken[layer] < p->room[layer]) {
        p->taken[layer]++;
        return true;
    }
    for (uint32_t i = 0; i < p->n_experts; i++) {
        if (placed[i] && (least == p->n_experts || uses[i] < uses[least])) {
            least = i;
        }
    }
    /* The expert needs more than one use more than the other: two experts that are used by turns
     * would be copied again and again. */
    if (least == p->n_experts || uses[expert] <= uses[least] + USE) {
        return false;
    }
    placed[least] = false;
    return true;
}

enum offload_share offload_place(struct offload_places *p, uint32_t layer, uint32_t expert,
                                 bool decode) {
    const size_t at = (size_t)layer * p->n_experts + expert;
    p->uses[at] += USE;
    if (p->placed[at]) {
        return p->now_tok >= p->from_tok[at] ? OFFLOAD_DEVICE : OFFLOAD_CPU;
    }
    if (!takes_place(p, layer, expert)) {
        return OFFLOAD_CPU;
    }
    p->placed[at] = true;
    p->from_tok[at] = decode ? p->now_tok + OFFLOAD_ARRIVE_TOK : 0;
    return OFFLOAD_BRING;
}

/* ---- life ---- */

int offload_open_cpu(struct offload *o, const struct corm *archive, const char *isa,
                     uint32_t threads, uint32_t max_rows, struct err *err) {
    struct backend_limits limits = forward_limits(&archive->arch, max_rows, 1);
    o->max_rows = max_rows;
    return backend_cpu_open(&o->cpu, isa, threads, &limits, err);
}

uint64_t offload_cpu_bytes(const struct corm *archive, uint32_t threads, uint32_t max_rows) {
    const struct backend_limits limits = forward_limits(&archive->arch, max_rows, 1);
    return backend_cpu_scratch_bytes(threads, &limits);
}

uint64_t offload_bytes(const struct corm *archive, uint32_t max_rows, uint32_t io_threads) {
    const struct arch *a = &archive->arch;
    return experts_scratch_bytes(archive, max_rows) +
           prefetch_fillers(io_threads) * filler_bytes(archive) + cache_table_bytes(archive) +
           (uint64_t)a->n_layers * a->n_experts *
               (sizeof(uint32_t) + sizeof(bool) + sizeof(uint64_t)) +
           a->n_experts * sizeof(struct prefetch_need) +
           max_rows * ((uint64_t)a->n_active + 1) * a->dim * sizeof(float);
}

int offload_open(struct offload *o, struct experts *device, uint64_t room_bytes, bool in_place,
                 const struct prefetch_options *io, struct err *err) {
    const struct corm *c = device->archive;
    const struct arch *a = &c->arch;
    struct prefetch_options own = *io;
    own.device = NULL;
    o->device = device;
    const struct cache_options keep = {.how = in_place ? CACHE_IN_PLACE : 0};
    if (cache_open(&o->cache, c, room_bytes, &keep, err) < 0 ||
        prefetch_open(&o->prefetch, &o->cache, &own, err) < 0) {
        return -1;
    }
    const struct experts_options like = {.like = device};
    experts_open(&o->experts, &o->cache, o->prefetch, &o->cpu, o->max_rows, &like);
    offload_places_open(&o->places, c, device->cache->room.n_slots / device->record_chunks);
    size_t uses = (size_t)o->max_rows * a->n_active;
    o->x = mem_calloc((size_t)o->max_rows * a->dim, sizeof *o->x);
    o->parts = mem_calloc(uses * a->dim, sizeof *o->parts);
    o->uses = mem_calloc(uses, sizeof *o->uses);
    o->met = mem_calloc(a->n_experts, sizeof *o->met);
    o->not_device = mem_calloc(a->n_experts, sizeof *o->not_device);
    o->not_cpu = mem_calloc(a->n_experts, sizeof *o->not_cpu);
    o->bring = mem_calloc(a->n_experts, sizeof *o->bring);
    o->layer_before = a->n_layers;
    return 0;
}

void offload_close(struct offload *o) {
    prefetch_close(o->prefetch); /* first: its threads write into the cache */
    experts_close(&o->experts);
    cache_close(&o->cache);
    offload_places_close(&o->places);
    free(o->x);
    free(o->parts);
    free(o->uses);
    free(o->not_device);
    free(o->not_cpu);
    free(o->bring);
    free(o->met);
    backend_close(&o->cpu);
    *o = (struct offload){0};
}

/* ---- one layer ---- */

/* Move the clocks of the host's cache and of the places on; they know only layers that have
 * experts. */
static void follow(struct offload *o, uint32_t layer, const struct batch *b) {
    const uint32_t rows = batch_tokens(b);
    bool begins = layer <= o->layer_before;
    pthread_mutex_lock(&o->cache.lock);
    if (begins && layer > 0) {
        cache_clock(&o->cache, 0, rows, b->decode);
    }
    cache_clock(&o->cache, layer, rows, b->decode);
    pthread_mutex_unlock(&o->cache.lock);
    if (begins) {
        offload_places_clock(&o->places, rows);
    }
    o->layer_before = layer;
}

/* What experts need of a layer's weights, where the host has it. */
static struct layer_weights host_biases(const struct corm *archive, uint32_t layer) {
    static const enum slot_id slots[] = {SLOT_EXPERT_GATE_BIAS, SLOT_EXPERT_UP_BIAS,
                                         SLOT_EXPERT_DOWN_BIAS};
    struct layer_weights lw = {0};
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        if (slot_present(slot_at(slots[i]), &archive->arch, layer)) {
            lw.w[slots[i]] = corm_tensor_get(archive, slots[i], layer);
        }
    }
    return lw;
}

/* While the device computes its share, compute the CPU's, and put its outputs among the
 * device's. */
static void compute_meanwhile(void *ctx) {
    struct offload *o = ctx;
    prefetch_bring(o->device->prefetch, o->bring, o->n_bring);
    struct offload_run *run = &o->run;
    const struct backend *device = o->device->be;
    const size_t dim = o->device->archive->arch.dim;
    struct experts_hook hook = experts_hook(&o->experts);
    const struct layer_weights biases = host_biases(o->experts.archive, run->layer);
    run->status =
        hook.run(hook.ctx, run->layer, &biases, o->x, run->batch, run->ids, o->parts, &run->err);
    if (run->status < 0) {
        return;
    }
    for (uint32_t i = 0; i < run->n_uses; i++) { /* increasing: from behind to the front */
        memmove(o->parts + i * dim, o->parts + o->uses[i] * dim, dim * sizeof *o->parts);
    }
    device->ops->put_rows(device->self, run->parts, (uint32_t)dim, o->parts, o->uses, run->n_uses);
}

/* Count the uses of a call and divide them between the two. Returns how many are the CPU's. An
 * expert that several rows use is decided once: all of its rows are computed by the CPU, or all by
 * the device. `decode`: the batch is divided at all. */
static uint32_t divide(struct offload *o, uint32_t layer, const struct batch *b, const int32_t *ids,
                       bool decode) {
    const struct arch *a = &o->device->archive->arch;
    uint32_t n = 0;
    memset(o->not_device, 0, a->n_experts * sizeof *o->not_device);
    memset(o->not_cpu, 1, a->n_experts * sizeof *o->not_cpu);
    memset(o->met, 0, a->n_experts * sizeof *o->met);
    for (uint32_t u = 0; u < b->rows * a->n_active; u++) {
        const uint32_t expert = (uint32_t)ids[u];
        const enum offload_share share = offload_place(&o->places, layer, expert, decode);
        if (!o->met[expert]) {
            o->met[expert] = true;
            o->not_device[expert] = decode && share != OFFLOAD_DEVICE;
            o->not_cpu[expert] = !o->not_device[expert];
        }
        if (o->not_device[expert]) {
            o->uses[n++] = u;
        }
    }
    return n;
}

/* The experts that took a place in this call and have it still: one that lost it to another row's
 * expert is not brought, and one that got it again is brought once. */
static void list_bring(struct offload *o, uint32_t layer) {
    const struct corm *c = o->device->archive;
    const struct offload_places *p = &o->places;
    o->n_bring = 0;
    for (uint32_t i = 0; i < p->n_experts; i++) {
        const size_t at = (size_t)layer * p->n_experts + i;
        if (o->met[i] && p->placed[at] && p->from_tok[at] == p->now_tok + OFFLOAD_ARRIVE_TOK) {
            const struct corm_record *rec = corm_record_of(c, layer, i);
            o->bring[o->n_bring++] = (struct prefetch_need){rec->first_chunk, rec->n_chunks, NULL};
        }
    }
}

static int offload_run(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *ids, float *parts, struct err *err) {
    struct offload *o = ctx;
    struct experts *d = o->device;
    struct experts_hook hook = experts_hook(d);
    follow(o, layer, b);
    uint32_t n = divide(o, layer, b, ids, b->decode && b->rows < OFFLOAD_COPY_ROWS);
    list_bring(o, layer);
    if (n == 0) {
        return hook.run(hook.ctx, layer, lw, x, b, ids, parts, err);
    }
    o->run =
        (struct offload_run){.layer = layer, .n_uses = n, .batch = b, .ids = ids, .parts = parts};
    o->experts.elsewhere = o->not_cpu;
    d->elsewhere = o->not_device;
    d->meanwhile = compute_meanwhile;
    d->meanwhile_ctx = o;
    int status = hook.run(hook.ctx, layer, lw, x, b, ids, parts, err);
    d->elsewhere = NULL;
    d->meanwhile = NULL;
    return status < 0 || o->run.status == 0 ? status : err_set(err, "%s", o->run.err.msg);
}

struct experts_hook offload_hook(struct offload *o) {
    return (struct experts_hook){.ctx = o, .run = offload_run, .host_x = o->x};
}

struct offload_counters offload_count(struct offload *o) {
    struct offload_counters count = {0};
    if (!o->device) {
        return count;
    }
    pthread_mutex_lock(&o->cache.lock);
    count.read_bytes = o->cache.count.read_bytes;
    count.decoded_bytes = o->cache.count.decoded_bytes;
    pthread_mutex_unlock(&o->cache.lock);
    count.used_bytes = o->experts.used_bytes;
    count.skipped_bytes = o->experts.skipped_bytes;
    count.stall_ns = prefetch_stall_ns(o->prefetch);
    return count;
}
