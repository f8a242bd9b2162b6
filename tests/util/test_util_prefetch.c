/*
 * test_util_prefetch: see test_util_prefetch.h.
 */
#include "tests/util/test_util_prefetch.h"

#include <pthread.h>

#include "tests/util/test_util_archive.h"

static char *write_archive(const char *dir, const char *name, uint32_t dim, bool compress_hot) {
    struct arch a;
    struct err err = {0};
    archive_moe_arch(&a, LAYERS, EXPERTS, CHUNKS * CHUNK_NEURONS);
    a.dim = dim;
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.hot_neurons = HOT * CHUNK_NEURONS;
    o.compress_hot = compress_hot;
    char *path = mem_printf("%s/%s.corm", dir, name);
    archive_write(path, &a, &o, NULL, &err);
    assert_no_err(&err);
    arch_free(&a);
    return path;
}

char *rig_archive(const char *dir) {
    return write_archive(dir, "prefetch", 96, false);
}

char *rig_large_archive(const char *dir) {
    return write_archive(dir, "large", 8192, false);
}

char *rig_packed_archive(const char *dir, bool raw_hot) {
    /* Rows so long that a chunk's header is small beside it. */
    char *path = write_archive(dir, raw_hot ? "mixed" : "packed", 384, !raw_hot);
    struct corm archive;
    struct err err = {0};
    corm_open(&archive, path, 0, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < archive.n_chunks; i++) {
        assert_int_equal(archive.chunks[i].encoding,
                         raw_hot && i % CHUNKS < HOT ? CORM_ENCODING_RAW : CORM_ENCODING_EXPONENTS);
    }
    corm_close(&archive);
    return path;
}

void rig_open(struct rig *r, const char *file, uint32_t n_slots, unsigned how,
              struct prefetch_options opt) {
    struct err err = {0};
    r->way = opt.way;
    corm_open(&r->archive, file, 0, &err);
    assert_no_err(&err);
    const uint64_t bytes = n_slots * (uint64_t)cache_slot_bytes(&r->archive, how);
    cache_open(&r->cache, &r->archive, bytes, &(struct cache_options){.how = how}, &err);
    assert_no_err(&err);
    cache_clock(&r->cache, 0, 1, true);
    prefetch_open(&r->prefetch, &r->cache, &opt, &err);
    assert_no_err(&err);
}

void rig_close(struct rig *r) {
    prefetch_close(r->prefetch);
    cache_close(&r->cache);
    corm_close(&r->archive);
}

struct prefetch_need rig_need(uint32_t record) {
    return (struct prefetch_need){record * CHUNKS, CHUNKS, NULL};
}

/* What is used as it is stored stays where the file is mapped; all else is in its slot. */
static void check_place(const struct rig *r, uint32_t chunk, const uint8_t *got) {
    const struct cache *c = &r->cache;
    const struct corm_chunk *k = &r->archive.chunks[chunk];
    bool as_stored = k->encoding == CORM_ENCODING_RAW || cache_is_packed(c, chunk);
    assert_int_equal((uintptr_t)got % 64, 0);
    if (!cache_uses_slot(c, chunk)) {
        assert_ptr_equal(got, r->archive.map.data + k->offset);
    } else if (r->way == READER_MAPPED && as_stored) {
        assert_false(got >= c->room.mapped && got < c->room.mapped + c->room.mapped_bytes);
    } else {
        assert_ptr_equal(got, cache_slot(c, c->chunks[chunk].slot));
    }
}

/* Decoded; free(). */
static uint8_t *unpack(const struct rig *r, uint32_t chunk, const uint8_t *stored) {
    const struct corm_chunk *k = &r->archive.chunks[chunk];
    struct err err = {0};
    assert_memory_equal(stored, r->archive.map.data + k->offset, k->stored_bytes);
    uint8_t *decoded = mem_alloc_aligned(corm_chunk_raw_bytes(&r->archive, k));
    struct corm_decoder *d = corm_decoder_new(&r->archive);
    corm_chunk_decode(d, &r->archive, k, stored, decoded, &err);
    assert_no_err(&err);
    corm_decoder_free(d);
    return decoded;
}

void rig_check_bytes(struct rig *r, uint32_t chunk) {
    uint32_t record = chunk / CHUNKS;
    size_t bytes, n = CHUNK_NEURONS * r->archive.neuron_bytes;
    uint8_t *want = archive_neurons(&r->archive.arch, r->archive.expert_codec, record / EXPERTS,
                                    record % EXPERTS, &bytes);
    const uint8_t *got = prefetch_data(r->prefetch, chunk);
    check_place(r, chunk, got);
    uint8_t *unpacked = cache_is_packed(&r->cache, chunk) ? unpack(r, chunk, got) : NULL;
    assert_memory_equal(unpacked ? unpacked : got, want + (chunk % CHUNKS) * n, n);
    free(unpacked);
    free(want);
}

bool rig_is_ready(struct prefetch *p, const struct prefetch_need *need) {
    bool ready;
    prefetch_look(p, need, 1, &ready);
    return ready;
}

void rig_guess(struct prefetch *p, const struct prefetch_need *need, uint32_t ahead, float prob) {
    prefetch_guess(p, need, &prob, 1, ahead);
}

void rig_wait(struct rig *r, const struct prefetch_need *need) {
    struct err err = {0};
    bool ready;
    assert_int_equal(prefetch_wait_any(r->prefetch, need, 1, &ready, &err), 0);
    assert_no_err(&err);
    assert_true(ready);
}

void rig_use(struct rig *r, uint32_t record) {
    struct prefetch_need need = rig_need(record);
    prefetch_demand(r->prefetch, &need, 1);
    rig_wait(r, &need);
    assert_true(rig_is_ready(r->prefetch, &need));
    for (uint32_t i = 0; i < CHUNKS; i++) {
        rig_check_bytes(r, record * CHUNKS + i);
    }
    prefetch_release(r->prefetch, &need, 1);
}

uint8_t rig_state(struct rig *r, uint32_t chunk) {
    pthread_mutex_lock(&r->cache.lock);
    uint8_t state = r->cache.chunks[chunk].state;
    pthread_mutex_unlock(&r->cache.lock);
    return state;
}

void rig_sleep_ms(uint64_t ms) {
    clock_sleep_until(clock_ns() + ms * 1000000);
}
