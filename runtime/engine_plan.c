/*
 * engine_plan: what memory is used for, before any of it is taken.
 *
 * Owns: the plan of the host's memory where the CPU computes, and that of a device's memory. What
 * is left of the budget, after all that must be there, holds experts. And whether the page cache
 * may hold them too, from which follows how they are read.
 * Leaves to others: keeping to it (each module's *_bytes function says what it takes);
 * measuring (reader).
 */
#include "runtime/engine.h"

#include <stdlib.h>

#include "runtime/machine.h"

/* Program, libraries, indexes, tokenizer, thread stacks: what is not counted one by one. */
static const uint64_t OVERHEAD_BYTES = UINT64_C(24) << 20;

/* The last eighth of what is available is where paging starts. */
static uint64_t usable_bytes(void) {
    return machine_available_bytes() / 8 * 7;
}

uint32_t engine_predict_rows(const struct corm_engine *e) {
    return e->opt.loss_in_batches ? e->opt.batch_rows : 1;
}

/* Raw chunks used from the map. */
static uint64_t in_place_bytes(const struct corm *c) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->n_chunks; i++)
        if (c->chunks[i].encoding == CORM_ENCODING_RAW)
            bytes += c->chunks[i].stored_bytes;
    return bytes;
}

/* What the host holds that is neither weights nor results of the backend. */
static uint64_t host_bytes(const struct corm_engine *e) {
    const struct corm *c = &e->archive;
    /* A session's logits; sampling takes four numbers a row of the vocabulary. */
    uint64_t vocab_floats = (uint64_t)(e->opt.logits_rows + 4) * c->arch.vocab;
    /* The plan does not hang on the processors that are free. */
    uint32_t io = e->io_threads > ENGINE_IO_THREADS ? e->io_threads : ENGINE_IO_THREADS;
    return e->backend.scratch_bytes + experts_scratch_bytes(c, e->opt.batch_rows) +
           vocab_floats * sizeof(float) + prefetch_fillers(io) * filler_buffer_bytes(c) +
           cache_table_bytes(c, cache_slots_needed(c, false)) + OVERHEAD_BYTES;
}

/* Fill in the parts that do not come and go, where the backend computes. Tensors begin each row
 * with up to `row_padding` bytes; `other_bytes` of scratch are the caller's. Returns their sum. */
static uint64_t plan_fixed(struct corm_engine *e, uint32_t row_padding, uint64_t other_bytes) {
    const struct corm *c = &e->archive;
    const struct arch *a = &c->arch;
    struct corm_memory_plan *p = &e->plan;
    for (uint32_t i = 0; i < c->n_tensors; i++)
        p->trunk_bytes += c->tensors[i].bytes + (uint64_t)row_padding * c->tensors[i].rows;
    for (uint32_t i = 0; i < c->n_chunks; i++)
        p->expert_bytes += corm_chunk_raw_bytes(c, &c->chunks[i]);
    p->kv_bytes =
        (uint64_t)a->n_layers * 2 * arch_kv_dim(a) * e->opt.ctx_tok * (e->opt.kv_f32 ? 4 : 2);
    p->scratch_bytes = other_bytes + forward_scratch_bytes(a, e->opt.batch_rows) +
                       predict_scratch_bytes(a, engine_predict_rows(e)) + c->predictors.size_bytes +
                       (uint64_t)LOGITS_ROWS * a->vocab * sizeof(float);
    return p->trunk_bytes + p->kv_bytes + p->scratch_bytes;
}

/* Set the budget and the floor below it, which `before`, the MiB, `after` calls too small. */
static int plan_budget(struct corm_engine *e, uint64_t fixed, uint64_t budget_bytes,
                       const char *before, const char *after, struct err *err) {
    const struct corm *c = &e->archive;
    const struct corm_mechanisms *m = e->opt.measure;
    struct corm_memory_plan *p = &e->plan;
    uint64_t slot = cache_slot_bytes(c), least = cache_slots_floor(c) * slot;
    p->floor_bytes = fixed + (least < p->cache_need_bytes ? least : p->cache_need_bytes);
    p->budget_bytes = budget_bytes;
    if (m && m->cache_share > 0)
        p->budget_bytes = fixed + (uint64_t)(m->cache_share * cache_slots_needed(c, false)) * slot;
    if (p->budget_bytes >= p->floor_bytes)
        return 0;
    return err_set(
        err,
        "%s: %s%llu MiB %s: %llu MiB would do (trunk %llu, KV cache %llu, scratch %llu, smallest "
        "expert cache %llu)",
        c->map.path, before, (unsigned long long)(p->budget_bytes >> 20), after,
        (unsigned long long)((p->floor_bytes >> 20) + 1),
        (unsigned long long)(p->trunk_bytes >> 20), (unsigned long long)(p->kv_bytes >> 20),
        (unsigned long long)(p->scratch_bytes >> 20),
        (unsigned long long)((p->floor_bytes - fixed) >> 20));
}

/* The rest of the budget is slots. */
static void plan_slots(struct corm_engine *e, uint64_t fixed) {
    const struct corm *c = &e->archive;
    uint64_t slot = cache_slot_bytes(c), most = cache_slots_needed(c, false);
    uint64_t slots = (e->plan.budget_bytes - fixed) / slot;
    e->n_slots = (uint32_t)(slots < most ? slots : most);
    e->plan.cache_bytes = e->n_slots * slot;
}

int engine_plan(struct corm_engine *e, struct err *err) {
    const struct corm *c = &e->archive;
    const struct corm_mechanisms *m = e->opt.measure;
    struct corm_memory_plan *p = &e->plan;
    uint64_t fixed = plan_fixed(e, 0, host_bytes(e)), budget = e->opt.ram_bytes;
    uint32_t all_slots = cache_slots_needed(c, true);
    p->cache_need_bytes = in_place_bytes(c) + (uint64_t)all_slots * cache_slot_bytes(c);
    if (budget == 0)
        budget = usable_bytes();
    if (plan_budget(e, fixed, budget, "a memory budget of ", "is too small", err) < 0)
        return -1;
    e->in_place = fixed + p->cache_need_bytes <= p->budget_bytes && !(m && m->cache_share > 0);
    if (e->in_place) {
        e->n_slots = all_slots;
        p->cache_bytes = p->cache_need_bytes;
    } else {
        plan_slots(e, fixed);
    }
    p->total_bytes = fixed + p->cache_bytes;
    p->streams = !e->in_place;
    return 0;
}

int engine_plan_device(struct corm_engine *e, uint64_t scratch_bytes, uint64_t free_bytes,
                       struct err *err) {
    const struct corm *c = &e->archive;
    struct corm_memory_plan *p = &e->plan;
    uint64_t fixed = plan_fixed(e, 15, scratch_bytes); /* rows begin at multiples of 16 bytes */
    uint32_t most = cache_slots_needed(c, false);
    p->cache_need_bytes = most * (uint64_t)cache_slot_bytes(c);
    if (plan_budget(e, fixed, e->opt.vram_bytes ? e->opt.vram_bytes : free_bytes / 16 * 15, "",
                    "of device memory are too little", err) < 0)
        return -1;
    e->in_place = false;
    plan_slots(e, fixed);
    p->total_bytes = fixed + p->cache_bytes;
    p->streams = e->n_slots < most;
    p->host_bytes = host_bytes(e) + prefetch_fillers(e->io_threads) * filler_landing_bytes(c);
    return engine_plan_missed(e, in_place_bytes(c), usable_bytes(), err);
}

/* ---- reading ---- */

/* What measuring may take. */
enum { TRIAL_BYTES = 64 << 20, TRIAL_NS = 150 * 1000 * 1000 };

/* One read of each expert, as a guess would do it: [n_records]. Returns the bytes of all experts in
 * the file. */
static uint64_t expert_spans(const struct corm *c, struct reader_span *spans) {
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < c->n_records; r++) {
        uint32_t first = c->records[r].first_chunk, n = c->records[r].n_chunks;
        uint64_t all = fill_bytes(c, first, first + n - 1);
        size_t read = (size_t)(all < FILL_GUESS_BYTES ? all : FILL_GUESS_BYTES);
        spans[r] = (struct reader_span){c->chunks[first].offset, read};
        bytes += all;
    }
    return bytes;
}

/* Whether the host's memory has room for all experts in the page cache, beside what the plan takes
 * of it. */
static bool has_room(const struct corm_engine *e, uint64_t file_bytes) {
    const struct corm_memory_plan *p = &e->plan;
    uint64_t own = backend_needs_landing(&e->backend) ? p->host_bytes : p->total_bytes;
    /* Chunks that are used from the map are in the page cache. */
    if (p->missed == CORM_MISSED_CPU && e->host_in_place)
        own -= in_place_bytes(&e->archive);
    return own + file_bytes <= usable_bytes();
}

/* Through the page cache, experts are held twice, outside of the budget; where memory, or a limit
 * of the kernel, has no room for that it is told to forget them. Where there is room, who named a
 * budget of this memory still meant it: direct reading is favoured, and the page cache wins only by
 * holding much of the file already. A device's experts have a second tier in it. */
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
    p->direct_refused = choice.refused[READER_DIRECT];
    p->cached_refused = choice.refused[trial.cached];
    free(spans);
    return status;
}

/* Where all experts stay, what another run left in the page cache is welcome; and a throttle makes
 * a disk out of it. */
int engine_plan_reading(struct corm_engine *e, struct err *err) {
    const struct corm_mechanisms *m = e->opt.measure;
    e->plan.reading = m && m->reading != CORM_READ_AUTO ? m->reading : CORM_READ_BUFFERED;
    bool asked = m && (m->reading != CORM_READ_AUTO || m->throttle_bytes_per_s > 0);
    return e->plan.streams && !asked ? measure_reading(e, err) : 0;
}
