#include "runtime/experts.h"

#include <stdlib.h>
#include <string.h>

size_t experts_scratch_bytes(const struct corm *a, uint32_t max_rows) {
    size_t n = a->arch.n_experts, uses = (size_t)max_rows * a->arch.n_active;
    size_t chunks = corm_chunks_per_expert(a);
    return uses * sizeof(uint32_t) + n * (3 * sizeof(uint32_t) + 2 * sizeof(struct prefetch_need)) +
           (n + uses) * (sizeof(struct expert_job) + chunks * (sizeof(struct ffn_chunk) + 1));
}

void experts_open(struct experts *e, struct cache *cache, struct prefetch *prefetch,
                  struct backend *be, uint32_t max_rows, const struct experts_options *opt) {
    const struct corm *a = cache->archive;
    uint32_t n = a->arch.n_experts;
    *e =
        (struct experts){.archive = a, .cache = cache, .prefetch = prefetch, .be = be, .opt = *opt};
    e->max_uses = max_rows * a->arch.n_active;
    e->uses = mem_calloc(e->max_uses, sizeof *e->uses);
    e->first_use = mem_calloc((size_t)n + 1, sizeof *e->first_use);
    e->order = mem_calloc(n, sizeof *e->order);
    e->needs = mem_calloc(n, sizeof *e->needs);
    e->done = mem_calloc(n, sizeof *e->done);
    e->ready = mem_calloc(n, sizeof *e->ready);
    e->open = mem_calloc(n, sizeof *e->open);
    e->record_chunks = corm_chunks_per_expert(a);
    size_t n_jobs = (size_t)n + e->max_uses;
    e->jobs = mem_calloc(n_jobs, sizeof *e->jobs);
    e->chunks = mem_calloc(n_jobs * e->record_chunks, sizeof *e->chunks);
    e->skip_use = mem_calloc((size_t)e->max_uses, e->record_chunks);
    e->skip_expert = mem_calloc(n, e->record_chunks);
}

void experts_close(struct experts *e) {
    free(e->uses);
    free(e->first_use);
    free(e->order);
    free(e->needs);
    free(e->done);
    free(e->ready);
    free(e->open);
    free(e->jobs);
    free(e->chunks);
    free(e->skip_use);
    free(e->skip_expert);
    *e = (struct experts){0};
}

/* The chunks of an expert that this run needs. */
static struct prefetch_need need_of(const struct experts *e, uint32_t layer, uint32_t expert) {
    const struct corm_record *rec = corm_record_of(e->archive, layer, expert);
    return (struct prefetch_need){rec->first_chunk, rec->n_chunks,
                                  e->skipping ? &e->skip_expert[expert * e->record_chunks] : NULL};
}

/* Decide which chunks each use leaves out, and which no use of an expert needs. */
static void choose_skips(struct experts *e, uint32_t layer, const float *x, const struct batch *b,
                         const int32_t *ids) {
    uint32_t k = e->archive->arch.n_active, n = e->record_chunks, rows = b->rows;
    if (e->opt.like) {
        e->skipping = e->opt.like->skipping;
        if (e->skipping) {
            memcpy(e->skip_use, e->opt.like->skip_use, (size_t)rows * k * n);
            memcpy(e->skip_expert, e->opt.like->skip_expert,
                   (size_t)e->archive->arch.n_experts * n);
        }
        return;
    }
    e->skipping = e->opt.drop && e->opt.drop[layer] > 0 && (b->decode || e->opt.drop_in_batches) &&
                  predict_has_chunks(e->opt.predict, layer);
    if (!e->skipping) {
        return;
    }
    memset(e->skip_expert, 1, (size_t)e->archive->arch.n_experts * n);
    predict_chunk_energies(e->opt.predict, layer, x, ids, rows);
    for (uint32_t u = 0; u < rows * k; u++) {
        const struct corm_record *rec = corm_record_of(e->archive, layer, (uint32_t)ids[u]);
        uint8_t *skip = &e->skip_use[(size_t)u * n];
        uint8_t *all = &e->skip_expert[(uint32_t)ids[u] * n];
        predict_choose_skip(e->opt.predict->host_scores +
                                (size_t)u * e->opt.predict->chunks_per_expert,
                            rec->n_chunks, rec->n_hot, e->opt.drop[layer], skip);
        for (uint32_t i = 0; i < rec->n_chunks; i++) {
            all[i] &= skip[i];
        }
    }
}

/* Put the experts that are used in order: missing ones and ones in memory alternate, so that
 * missing ones arrive while the others are computed, and those in memory are used before they can
 * be evicted. Returns their number. */
static uint32_t plan_order(struct experts *e, uint32_t layer) {
    uint32_t n_experts = e->archive->arch.n_experts, n = 0, n_used = 0, at[2] = {0, 0};
    uint32_t *used = e->open; /* not yet in use */
    for (uint32_t i = 0; i < n_experts; i++) {
        if (e->first_use[i + 1] > e->first_use[i] && !(e->elsewhere && e->elsewhere[i])) {
            used[n_used] = i;
            e->needs[n_used++] = need_of(e, layer, i);
        }
    }
    prefetch_look(e->prefetch, e->needs, n_used, e->ready);
    e->n_at_hand = 0;
    for (uint32_t i = 0; i < n_used; i++) {
        e->n_at_hand += e->ready[i];
    }
    while (n < n_used) {
        for (int in_memory = 0; in_memory < 2; in_memory++) {
            uint32_t *next = &at[in_memory];
            while (*next < n_used && e->ready[*next] != in_memory) {
                ++*next;
            }
            if (*next < n_used) {
                e->order[n++] = used[(*next)++];
            }
        }
    }
    return n;
}

/* What a need's leases count for in the cache's room. */
static uint64_t lease_bytes(const struct experts *e, const struct prefetch_need *need) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < need->n; i++) {
        bytes += prefetch_needs(need, i) ? cache_lease_bytes(e->cache, need->first + i) : 0;
    }
    return bytes;
}

/* Demand experts from position `next` of the order on, as long as all that is leased has room.
 * Returns the new `next`. */
static uint32_t open_more(struct experts *e, uint32_t layer, uint32_t next, uint32_t n,
                          uint64_t *leased) {
    uint32_t before = e->n_open;
    for (; next < n && !(e->opt.in_turn && e->n_open > 0); next++) {
        struct prefetch_need need = need_of(e, layer, e->order[next]);
        uint64_t bytes = lease_bytes(e, &need);
        if (*leased + bytes > e->cache->room.bytes) {
            break;
        }
        *leased += bytes;
        e->open[e->n_open] = e->order[next];
        e->needs[e->n_open++] = need;
    }
    if (e->n_open > before) {
        prefetch_demand(e->prefetch, &e->needs[before], e->n_open - before);
    }
    return next;
}

/* Add a job over an open expert's chunks, less those in `skip`. */
static void add_job(struct experts *e, uint32_t *n_jobs, uint32_t *n_chunks, uint32_t expert,
                    const struct prefetch_need *need, const uint8_t *skip, const uint32_t *uses,
                    uint32_t n_uses) {
    struct ffn_chunk *chunks = &e->chunks[*n_chunks];
    uint32_t n = 0;
    for (uint32_t j = 0; j < need->n; j++) {
        uint32_t id = need->first + j;
        const struct corm_chunk *k = &e->archive->chunks[id];
        size_t bytes = corm_chunk_raw_bytes(e->archive, k);
        if (skip && skip[j]) {
            e->skipped_bytes += bytes;
            continue;
        }
        chunks[n++] =
            (struct ffn_chunk){.data = prefetch_data(e->prefetch, id),
                               .codec = corm_chunk_codec(e->archive, k),
                               .n_neurons = k->n_neurons,
                               .first = j * e->archive->chunk_neurons,
                               .packed_bytes = cache_is_packed(e->cache, id) ? k->stored_bytes : 0};
        e->used_bytes += bytes;
    }
    *n_chunks += n;
    e->jobs[(*n_jobs)++] = (struct expert_job){expert, chunks, n, uses, n_uses};
}

static void compute_ready(struct experts *e, const struct expert_layer *layer, const float *x,
                          float *parts) {
    uint32_t n_jobs = 0, n_chunks = 0;
    for (uint32_t i = 0; i < e->n_open; i++) {
        if (!e->ready[i]) {
            continue;
        }
        const uint32_t *uses = &e->uses[e->first_use[e->open[i]]];
        uint32_t n_uses = e->first_use[e->open[i] + 1] - e->first_use[e->open[i]];
        if (!e->skipping) {
            add_job(e, &n_jobs, &n_chunks, e->open[i], &e->needs[i], NULL, uses, n_uses);
            continue;
        }
        /* Each use leaves out chunks of its own. */
        for (uint32_t u = 0; u < n_uses; u++) {
            add_job(e, &n_jobs, &n_chunks, e->open[i], &e->needs[i],
                    &e->skip_use[(size_t)uses[u] * e->record_chunks], &uses[u], 1);
        }
    }
    e->be->ops->experts(e->be->self, layer, e->jobs, n_jobs, x, parts);
}

/* Give back the experts that are ready, which have been computed, or all of them. The others stay
 * open. */
static void close_experts(struct experts *e, bool all, uint64_t *leased) {
    uint32_t kept = 0, n_done = 0;
    for (uint32_t i = 0; i < e->n_open; i++) {
        if (all || e->ready[i]) {
            *leased -= lease_bytes(e, &e->needs[i]);
            e->done[n_done++] = e->needs[i];
            continue;
        }
        e->open[kept] = e->open[i];
        e->needs[kept++] = e->needs[i];
    }
    e->n_open = kept;
    prefetch_release(e->prefetch, e->done, n_done);
}

static void tell_demanded(struct experts *e, uint32_t layer, const struct batch *b) {
    if (e->opt.on_demanded) {
        e->opt.on_demanded(e->opt.on_demanded_ctx, layer, b);
    }
}

static int experts_run(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *ids, float *parts, struct err *err) {
    struct experts *e = ctx;
    const struct expert_layer common = forward_expert_layer(&e->archive->arch, layer, lw);
    if (e->opt.on_route) {
        e->opt.on_route(e->opt.on_route_ctx, layer, b->rows, b->decode, ids);
    }
    forward_group_uses(ids, b->rows * e->archive->arch.n_active, e->archive->arch.n_experts,
                       e->first_use, e->uses);
    choose_skips(e, layer, x, b, ids);
    uint32_t n = plan_order(e, layer), next = 0;
    uint64_t leased = 0;
    /* A device computes while the host goes on: it is given the experts at hand before anything is
     * guessed. */
    const bool launches = backend_needs_landing(e->be);
    bool told = !e->meanwhile, computed = e->n_at_hand == 0, demanded = false;
    e->n_open = 0;
    while (next < n || e->n_open > 0) {
        next = open_more(e, layer, next, n, &leased);
        if (!demanded && !(launches && !computed)) {
            tell_demanded(e, layer, b);
            demanded = true;
        }
        if (computed && !told) {
            e->meanwhile(e->meanwhile_ctx);
            told = true;
        }
        if (e->n_open == 0) {
            die("layer %u expert %u has no room in an expert cache of %llu bytes", layer,
                e->order[next], (unsigned long long)e->cache->room.bytes);
        }
        if (prefetch_wait_any(e->prefetch, e->needs, e->n_open, e->ready, err) < 0) {
            close_experts(e, true, &leased);
            return -1;
        }
        compute_ready(e, &common, x, parts);
        computed = true;
        close_experts(e, false, &leased);
    }
    if (!demanded) {
        tell_demanded(e, layer, b);
    }
    if (!told) {
        e->meanwhile(e->meanwhile_ctx);
    }
    return 0;
}

struct experts_hook experts_hook(struct experts *e) {
    return (struct experts_hook){.ctx = e, .run = experts_run};
}
