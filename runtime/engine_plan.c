/*
 * engine_plan: what memory is used for, before any of it is taken.
 *
 * Owns: the plan of the host's memory where the CPU computes, and the plan of a device's memory.
 * What is left of the budget, after all that must be in memory, holds experts. Also whether the
 * page cache may hold experts in addition, which decides how they are read; and whether they are
 * kept packed.
 * Leaves to others: keeping to the plan (each module's *_bytes function says what it takes);
 * measuring (reader, packing).
 */
#include "runtime/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/machine.h"
#include "runtime/packing.h"
#include "runtime/session.h"

/* An allowance for what is not counted one by one: the program, libraries, patterns of the
 * tokenizer, stacks of threads. */
static const uint64_t OVERHEAD_BYTES = UINT64_C(24) << 20;

/* An automatic budget leaves the last eighth of what is available, because that is where paging
 * starts. */
static uint64_t usable_bytes(const struct corm_engine *e) {
    uint64_t bytes = machine_available_bytes(), room = machine_address_bytes();
    if (room < UINT64_MAX) { /* stacks take addresses, though hardly any memory */
        uint64_t stacks = (e->opt.threads + e->io_threads) * machine_stack_bytes();
        room -= stacks < room ? stacks : room;
    }
    return (room < bytes ? room : bytes) / 8 * 7;
}

uint32_t engine_predict_rows(const struct corm_engine *e) {
    return e->opt.loss_in_batches ? engine_max_rows(e) : e->opt.max_sessions;
}

uint32_t engine_max_rows(const struct corm_engine *e) {
    return e->opt.batch_rows > e->opt.max_sessions ? e->opt.batch_rows : e->opt.max_sessions;
}

uint64_t engine_pass_bytes(const struct corm_engine *e) {
    return (uint64_t)e->opt.max_passes * engine_max_rows(e) * e->archive.arch.dim * sizeof(float);
}

size_t engine_host_row(const struct arch *a) {
    return a->vocab > a->dim ? a->vocab : a->dim;
}

struct state_size engine_state_size(const struct corm_engine *e) {
    return (struct state_size){.ctx_tok = e->opt.ctx_tok,
                               .batch_rows = e->opt.batch_rows,
                               .type = (enum kv_type)e->opt.kv_type};
}

/* Chunks that are used from the map: the pages that they lie in, for a page comes to memory as a
 * whole. Many small experts take many times their bytes. */
static uint64_t in_place_bytes(const struct corm *c, unsigned keeps) {
    const struct cache cache = {.archive = c, .opt.how = keeps};
    const uint64_t page = machine_page_bytes();
    uint64_t pages = 0, counted = UINT64_MAX; /* the last page that was counted */
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[i];
        if (!cache_uses_slot(&cache, i) && k->stored_bytes > 0) {
            uint64_t first = k->offset / page, last = (k->offset + k->stored_bytes - 1) / page;
            pages += last - first + (first != counted);
            counted = last;
        }
    }
    return pages * page;
}

/* What the cache takes with every expert in it. */
static uint64_t need_bytes(const struct corm *c, unsigned keeps) {
    return in_place_bytes(c, keeps) + cache_bytes_needed(c, keeps);
}

/* What the host holds that is neither weights nor results of the backend, of which the backend
 * itself takes `backend_bytes`. */
static uint64_t host_bytes(struct corm_engine *e, uint64_t backend_bytes) {
    const struct corm *c = &e->archive;
    e->plan.text_bytes = engine_text_bytes(e);
    e->plan.chat_bytes = e->opt.chat_bytes;
    e->plan.caller_bytes = e->opt.caller_bytes;
    const uint64_t rows = (uint64_t)e->opt.logits_rows + e->opt.max_running;
    const uint64_t logits = rows * c->arch.vocab * sizeof(float) + sample_bytes(c->arch.vocab);
    const uint64_t ids = (uint64_t)e->opt.max_sessions * e->opt.ctx_tok * sizeof(int32_t);
    /* The most there can be, so that the plan does not depend on how many processors are free. */
    uint32_t io = e->io_threads > ENGINE_IO_THREADS ? e->io_threads : ENGINE_IO_THREADS;
    return backend_bytes + experts_scratch_bytes(c, engine_max_rows(e)) + logits + ids +
           (1 + e->opt.max_passes) * pass_bytes(e) + engine_host_row(&c->arch) * sizeof(float) +
           prefetch_fillers(io) * filler_bytes(c) + cache_table_bytes(c) + c->copied_bytes +
           OVERHEAD_BYTES + e->plan.text_bytes + e->plan.chat_bytes + e->opt.caller_bytes;
}

/* Fill in the parts that do not come and go, where the backend computes; `other_bytes` of scratch
 * are the caller's. Returns their sum. */
static uint64_t plan_fixed(struct corm_engine *e, bool device, uint64_t other_bytes) {
    /* Rows begin at multiples of 16 bytes there, and sessions have their whole context. */
    const uint32_t row_padding = device ? 15 : 0;
    const struct corm *c = &e->archive;
    const struct arch *a = &c->arch;
    struct corm_memory_plan *p = &e->plan;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        p->trunk_bytes += c->tensors[i].bytes + (uint64_t)row_padding * c->tensors[i].rows;
    }
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        p->expert_bytes += corm_chunk_raw_bytes(c, &c->chunks[i]);
    }
    const struct state_size size = engine_state_size(e);
    p->session_bytes = state_bytes(a, &size);
    p->session_least_bytes = device ? p->session_bytes : state_bytes_at(a, &size, 0);
    p->kv_bytes = e->opt.max_sessions * p->session_bytes;
    const uint64_t least = p->session_bytes + (e->opt.max_sessions - 1) * p->session_least_bytes;
    const uint64_t asked = e->opt.kv_bytes == CORM_KV_LEAST ? least : e->opt.kv_bytes;
    if (asked > 0 && asked < p->kv_bytes) {
        p->kv_bytes = asked;
    }
    p->scratch_bytes = other_bytes + forward_scratch_bytes(a, engine_max_rows(e)) +
                       predict_scratch_bytes(&e->predictors, a, corm_chunks_per_expert(c),
                                             engine_predict_rows(e)) +
                       lookahead_bytes(c, engine_predict_rows(e), e->opt.loss_percent > 0) +
                       (uint64_t)LOGITS_ROWS * a->vocab * sizeof(float) + engine_pass_bytes(e);
    p->n_snapshots = snapshot_slots(e);
    p->snapshot_bytes = p->n_snapshots * snapshot_slot_bytes(e);
    return p->trunk_bytes + p->kv_bytes + p->snapshot_bytes + p->scratch_bytes;
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

/* Set the budget, and the floor below which it is refused, for experts kept as `keeps` says.
 * The message of a refusal is `before`, the number of MiB, `after`. */
static int plan_budget(struct corm_engine *e, uint64_t fixed, unsigned keeps, uint64_t budget_bytes,
                       const char *before, const char *after, struct err *err) {
    const struct corm *c = &e->archive;
    const struct corm_mechanisms *m = e->opt.measure;
    struct corm_memory_plan *p = &e->plan;
    uint64_t least = cache_floor_bytes(c, keeps);
    p->floor_bytes = fixed + (least < p->cache_need_bytes ? least : p->cache_need_bytes);
    p->budget_bytes = budget_bytes;
    if (m && m->cache_share > 0) {
        const double share = m->cache_share * (double)cache_bytes_needed(c, 0);
        p->budget_bytes = fixed + cache_usable_bytes(c, 0, (uint64_t)share);
    }
    if (p->budget_bytes >= p->floor_bytes) {
        return 0;
    }
    return err_set(
        err,
        "%s: %s%llu MiB %s: %llu MiB would do (trunk %.1f, KV cache %.1f, scratch %.1f, smallest "
        "expert cache %.1f)",
        c->map.path, before, (unsigned long long)(p->budget_bytes >> 20), after,
        (unsigned long long)((p->floor_bytes >> 20) + 1), mib(p->trunk_bytes), mib(p->kv_bytes),
        mib(p->scratch_bytes), mib(p->floor_bytes - fixed));
}

/* Keep experts in this way: all of them where they are used in place, else as many as the budget
 * has room for. */
static void plan_experts(struct corm_engine *e, uint64_t fixed, unsigned keeps) {
    const struct corm *c = &e->archive;
    struct corm_memory_plan *p = &e->plan;
    e->keeps = keeps;
    e->room_bytes = cache_usable_bytes(c, keeps, p->budget_bytes - fixed);
    p->cache_need_bytes = need_bytes(c, keeps);
    p->cache_bytes = keeps & CACHE_IN_PLACE ? p->cache_need_bytes : e->room_bytes;
    p->total_bytes = fixed + p->cache_bytes;
    p->packed = keeps & CACHE_PACKED;
}

/* Refuse to keep experts packed; where the archive has the code, the message names the chunk that
 * forbids it. */
static int refuse_packing(const struct corm *c, struct err *err) {
    const struct corm_chunk *k = cache_unpackable(c);
    char name[64];
    if (!corm_chunk_encoded(c, CORM_ENCODING_EXPONENTS)) {
        return err_set(err,
                       "%s: experts cannot be kept packed: that needs the exponents code, expected "
                       "bf16 with compression exponents, but they are %s with compression %s",
                       c->map.path, c->codec_names, corm_compress_of(c));
    }
    return err_set(err,
                   "%s: experts cannot be kept packed: %s is stored as %s (%s), with %u neurons; "
                   "expected exponents or raw, with at most %d",
                   c->map.path, corm_chunk_name(c, k, name), corm_encoding_name(k->encoding),
                   corm_chunk_codec(c, k)->name, k->n_neurons, FFN_BLOCK);
}

/* Keep experts decoded where all fit so, else packed where all fit so. Where only some fit, they
 * are packed only if the caller asks for it or the budget leaves no choice; choose_packing may
 * change that later. */
int engine_plan(struct corm_engine *e, uint64_t scratch_bytes, struct err *err) {
    const struct corm *c = &e->archive;
    const struct corm_mechanisms *m = e->opt.measure;
    struct corm_memory_plan *p = &e->plan;
    uint64_t fixed = plan_fixed(e, false, host_bytes(e, scratch_bytes)), budget = e->opt.ram_bytes;
    bool decoded = e->opt.keeping != CORM_KEEP_PACKED, share = m && m->cache_share > 0;
    bool packed = e->opt.keeping != CORM_KEEP_DECODED && cache_can_pack(c);
    p->no_code = c->n_chunks > 0 && !corm_chunk_encoded(c, CORM_ENCODING_EXPONENTS);
    if (!packed && !decoded) {
        return refuse_packing(c, err);
    }
    if (budget == 0) {
        budget = usable_bytes(e);
    }
    p->cache_need_bytes = need_bytes(c, packed ? CACHE_PACKED : CACHE_IN_PLACE);
    if (plan_budget(e, fixed, packed ? CACHE_PACKED : 0, budget, "a memory budget of ",
                    "is too small", err) < 0) {
        return -1;
    }
    uint64_t room = share ? 0 : p->budget_bytes - fixed;
    if (decoded && need_bytes(c, CACHE_IN_PLACE) <= room) {
        plan_experts(e, fixed, CACHE_IN_PLACE);
    } else if (packed && need_bytes(c, CACHE_IN_PLACE | CACHE_PACKED) <= room) {
        plan_experts(e, fixed, CACHE_IN_PLACE | CACHE_PACKED);
    } else {
        plan_experts(e, fixed, decoded ? 0 : CACHE_PACKED);
    }
    p->streams = !(e->keeps & CACHE_IN_PLACE);
    if (p->streams && packed && e->room_bytes < cache_floor_bytes(c, 0)) {
        plan_experts(e, fixed, CACHE_PACKED);
    }
    return 0;
}

int engine_plan_device(struct corm_engine *e, uint64_t scratch_bytes, uint64_t free_bytes,
                       struct err *err) {
    const struct corm *c = &e->archive;
    struct corm_memory_plan *p = &e->plan;
    /* Predictors are counted because the device has a second copy of them. */
    uint64_t fixed = plan_fixed(e, true, scratch_bytes + c->predictors.size_bytes);
    p->cache_need_bytes = need_bytes(c, CACHE_ONE_SIZE);
    if (plan_budget(e, fixed, CACHE_ONE_SIZE,
                    e->opt.vram_bytes ? e->opt.vram_bytes : free_bytes / 16 * 15, "",
                    "of device memory are too little", err) < 0) {
        return -1;
    }
    plan_experts(e, fixed, CACHE_ONE_SIZE);
    p->streams = e->room_bytes < cache_bytes_needed(c, CACHE_ONE_SIZE);
    p->host_bytes = host_bytes(e, BACKEND_CUDA_HOST_BYTES) + p->driver_bytes +
                    prefetch_fillers(e->io_threads) * filler_landing_bytes(c);
    return engine_plan_missed(e, in_place_bytes(c, CACHE_IN_PLACE), usable_bytes(e), err);
}

/* ---- reading ---- */

/* How much time and how many bytes measuring may take. */
enum { TRIAL_BYTES = 64 << 20, TRIAL_NS = 150 * 1000 * 1000 };

/* The spans of the file that a guess would read, one for each expert: [n_records]. Returns the
 * bytes of all experts in the file. */
static uint64_t expert_spans(const struct corm *c, struct reader_span *spans) {
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < c->n_records; r++) {
        uint32_t first = c->records[r].first_chunk, n = c->records[r].n_chunks;
        uint64_t all = fill_bytes(c, first, first + n - 1);
        size_t read = (size_t)(all < FILL_REQUEST_BYTES ? all : FILL_REQUEST_BYTES);
        spans[r] = (struct reader_span){c->chunks[first].offset, read};
        bytes += all;
    }
    return bytes;
}

/* Whether the host's memory has room for all experts in the page cache, beside what the plan takes
 * of it. */
static bool has_room(const struct corm_engine *e, uint64_t file_bytes) {
    const struct corm_memory_plan *p = &e->plan;
    /* What the driver took is not usable any more. */
    uint64_t own =
        backend_needs_landing(&e->backend) ? p->host_bytes - p->driver_bytes : p->total_bytes;
    /* Chunks that are used from the map are in the page cache. */
    if (p->missed == CORM_MISSED_CPU && e->host_in_place) {
        own -= in_place_bytes(&e->archive, CACHE_IN_PLACE);
    }
    return own + file_bytes <= usable_bytes(e);
}

/* Where experts are read through the page cache, they are in memory twice, and the second time
 * outside of the budget. Where memory, or a limit of the kernel, has no room for that, the page
 * cache is told to forget them. Where there is room, a user who named a budget of this memory still
 * meant that budget: then direct reading is favoured, and the page cache wins only where it holds
 * much of the file already. For a device it is different: its experts have a second tier in the
 * page cache. */
static int measure_reading(struct corm_engine *e, struct err *err) {
    const struct corm *c = &e->archive;
    struct corm_memory_plan *p = &e->plan;
    struct reader_span *spans = mem_calloc(c->n_records, sizeof *spans);
    bool room = has_room(e, expert_spans(c, spans));
    bool named = !backend_needs_landing(&e->backend) || e->opt.ram_bytes > 0;
    struct reader_trial trial = {.spans = spans,
                                 .n = c->n_records,
                                 .threads = e->io_threads,
                                 .limit_bytes = TRIAL_BYTES,
                                 .limit_ns = TRIAL_NS,
                                 .cached = room ? READER_BUFFERED : READER_PASSING,
                                 .favoured = room && !named ? READER_BUFFERED : READER_DIRECT};
    struct reader_choice choice;
    int status = reader_choose(c->map.path, &trial, &choice, err);
    p->reading = choice.way == READER_DIRECT ? CORM_READ_DIRECT
                 : room                      ? CORM_READ_BUFFERED
                                             : CORM_READ_PASSING;
    p->direct_bytes_per_s = choice.bytes_per_s[READER_DIRECT];
    p->cached_bytes_per_s = choice.bytes_per_s[trial.cached];
    snprintf(p->direct_error, sizeof p->direct_error, "%s", choice.failed[READER_DIRECT].msg);
    snprintf(p->cached_error, sizeof p->cached_error, "%s", choice.failed[trial.cached].msg);
    free(spans);
    return status;
}

/* ---- packing ---- */

/* The rate that is taken for a disk that was not measured, because its way of reading was given:
 * that of an average NVMe disk. */
static const double DISK_BYTES_PER_S = 2e9;

/* Where experts come and go, and nobody says how they are kept, keep them in the way that takes
 * less time. */
static void choose_packing(struct corm_engine *e) {
    const struct corm *c = &e->archive;
    const struct corm_mechanisms *m = e->opt.measure;
    struct corm_memory_plan *p = &e->plan;
    if (!p->streams || p->packed || e->opt.keeping != CORM_KEEP_AUTO ||
        backend_needs_landing(&e->backend) || !cache_can_pack(c)) {
        return;
    }
    const struct corm_chunk *sample = packing_sample(c);
    if (!sample) {
        return;
    }
    double measured =
        p->reading == CORM_READ_DIRECT ? p->direct_bytes_per_s : p->cached_bytes_per_s;
    const struct packing estimate = {
        .room = (double)e->room_bytes / (double)cache_bytes_needed(c, 0),
        .ratio = (double)cache_bytes_needed(c, CACHE_PACKED) / (double)cache_bytes_needed(c, 0),
        .disk_bytes_per_s = m && m->throttle_bytes_per_s > 0 ? m->throttle_bytes_per_s
                            : measured > 0                   ? measured
                                                             : DISK_BYTES_PER_S,
        .decode_bytes_per_s = packing_decode_rate(c, sample, e->opt.isa) * e->opt.threads,
        .compute_bytes_per_s = offload_cpu_rate(&e->backend, c, p->cache_bytes, NULL),
        .packed_bytes_per_s = offload_cpu_rate(&e->backend, c, p->cache_bytes, sample),
    };
    if (packing_pays(&estimate)) {
        plan_experts(e, p->total_bytes - p->cache_bytes, CACHE_PACKED);
    }
}

/* Where all experts stay in memory, what another run left in the page cache is welcome. Under a
 * throttle the page cache is used because it stands for the disk. */
int engine_plan_reading(struct corm_engine *e, struct err *err) {
    const struct corm_mechanisms *m = e->opt.measure;
    e->plan.reading = m && m->reading != CORM_READ_AUTO ? m->reading : CORM_READ_BUFFERED;
    bool asked = m && (m->reading != CORM_READ_AUTO || m->throttle_bytes_per_s > 0);
    if (e->plan.streams && !asked && measure_reading(e, err) < 0) {
        return -1;
    }
    choose_packing(e);
    return 0;
}
