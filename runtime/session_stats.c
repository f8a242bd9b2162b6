/*
 * session_stats: what evaluations cost, by session.
 */
#include "runtime/session.h"

/* k parts of `rows` equal ones of `all`, rounded down. */
static uint64_t part_of(uint64_t all, uint32_t rows, uint32_t k) {
    return all / rows * k + all % rows * k / rows;
}

/* Of what was spent on all rows, the share of those from `first` on, n of them. The shares of all
 * rows add up. */
static uint64_t share(uint64_t now, uint64_t then, uint32_t rows, uint32_t first, uint32_t n) {
    return part_of(now - then, rows, first + n) - part_of(now - then, rows, first);
}

/* Add to a session its share of what the engine's parts did since the evaluation before. */
static void add_share(struct corm_stats *s, const struct engine_counters *now,
                      const struct engine_counters *then, uint32_t all_rows, uint32_t first,
                      uint32_t n) {
    const struct {
        uint64_t *to, now, then;
    } rows[] = {
        {&s->cache_hits, now->cache.hits, then->cache.hits},
        {&s->cache_misses, now->cache.misses, then->cache.misses},
        {&s->read_bytes, now->cache.read_bytes, then->cache.read_bytes},
        {&s->read_bytes, now->offload.read_bytes, then->offload.read_bytes},
        {&s->decoded_bytes, now->cache.decoded_bytes, then->cache.decoded_bytes},
        {&s->decoded_bytes, now->offload.decoded_bytes, then->offload.decoded_bytes},
        {&s->guessed_bytes, now->cache.guessed_bytes, then->cache.guessed_bytes},
        {&s->useful_bytes, now->cache.useful_bytes, then->cache.useful_bytes},
        {&s->wasted_bytes, now->cache.wasted_bytes, then->cache.wasted_bytes},
        {&s->weight_bytes, now->trunk_bytes, then->trunk_bytes},
        {&s->weight_bytes, now->used_bytes, then->used_bytes},
        {&s->weight_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->expert_bytes, now->used_bytes, then->used_bytes},
        {&s->expert_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->cpu_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->skipped_bytes, now->skipped_bytes, then->skipped_bytes},
        {&s->skipped_bytes, now->offload.skipped_bytes, then->offload.skipped_bytes},
        {&s->stall_ns, now->stall_ns, then->stall_ns},
        {&s->stall_ns, now->offload.stall_ns, then->offload.stall_ns},
        {&s->unguessed_tok, now->unguessed_tok, then->unguessed_tok},
        {&s->copied_demanded_bytes, now->link.bytes[BACKEND_DEMANDED],
         then->link.bytes[BACKEND_DEMANDED]},
        {&s->copied_guessed_bytes, now->link.bytes[BACKEND_GUESSED],
         then->link.bytes[BACKEND_GUESSED]},
        {&s->copied_chunks, now->link.pieces, then->link.pieces},
        {&s->copies, now->link.copies, then->link.copies},
        {&s->copy_ns, now->link.copy_ns, then->link.copy_ns},
        {&s->copy_hidden_ns, now->link.hidden_ns, then->link.hidden_ns},
        {&s->launches, now->work.launches, then->work.launches},
        {&s->waits, now->work.waits, then->work.waits},
        {&s->small_copies, now->work.small_copies, then->work.small_copies},
        {&s->small_copy_bytes, now->work.small_bytes, then->work.small_bytes},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        *rows[r].to += share(rows[r].now, rows[r].then, all_rows, first, n);
    }
}

void session_count(const struct corm_pass *p, uint64_t ns, bool done) {
    struct corm_engine *e = p->engine;
    const struct engine_counters now = engine_count(e);
    for (uint32_t i = 0; i < p->n; i++) {
        const struct pass_span *part = &p->parts[i];
        struct corm_stats *s = &part->session->stats;
        if (part->rows == 0) {
            continue;
        }
        /* Tokens that are evaluated again have been counted before: this is work on a prompt. */
        const uint32_t end = part->pos + part->rows;
        const uint32_t known = end < part->start ? end : part->start;
        const uint32_t fresh = end - (known > part->pos ? known : part->pos);
        const bool decode = part->decode && fresh > 0;
        const uint32_t rows = p->batch.rows;
        add_share(s, &now, &e->counted, rows, part->row, part->rows);
        *(decode ? &s->decode_tok : &s->prefill_tok) += done ? fresh : 0;
        s->again_tok += done ? part->rows - fresh : 0;
        *(decode ? &s->decode_ns : &s->prefill_ns) += share(ns, 0, rows, part->row, part->rows);
    }
    e->counted = now;
    engine_show(e, &now.cache);
}

void corm_session_stats(const struct corm_session *s, struct corm_stats *stats) {
    *stats = s->stats;
    stats->guesses_off = s->engine->lookahead.trial.off;
    const float *logits = session_known_row(s);
    stats->logits_hash = logits ? hash64(logits, s->engine->archive.arch.vocab * sizeof(float)) : 0;
}

void corm_session_reset_stats(struct corm_session *s) {
    s->stats = (struct corm_stats){0};
}
