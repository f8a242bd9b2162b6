#include "runtime/fill.h"

#include <stdlib.h>
#include <string.h>

uint64_t fill_bytes(const struct corm *archive, uint32_t first, uint32_t last) {
    const struct corm_chunk *f = &archive->chunks[first], *l = &archive->chunks[last];
    return l->offset + l->stored_bytes - f->offset;
}

/* ---- life ---- */

int fill_open(struct fill *fill, const struct cache *cache, const struct backend *device,
              enum reader_way way, struct reader_throttle throttle, struct err *err) {
    *fill = (struct fill){.cache = cache, .archive = cache->archive, .device = device};
    fill->exponents = exponents_isa_best(NULL);
    fill->marks = mem_calloc(cache->room.n_slots, sizeof *fill->marks);
    fill->checked = device ? mem_calloc(cache->archive->n_chunks, 1) : NULL;
    return reader_open(&fill->reader, cache->archive->map.path, way, throttle, err);
}

void fill_close(struct fill *fill) {
    reader_close(&fill->reader);
    free(fill->marks);
    free(fill->checked);
}

/* The longest run of chunks. */
static size_t longest_run_bytes(const struct corm *a) {
    uint64_t longest = 0;
    for (uint32_t r = 0; r < a->n_records; r++) {
        uint32_t first = a->records[r].first_chunk, n = a->records[r].n_chunks;
        uint64_t bytes = fill_bytes(a, first, first + n - 1);
        longest = bytes > longest ? bytes : longest;
    }
    uint64_t most = FILL_REQUEST_BYTES;
    for (uint32_t i = 0; i < a->n_chunks; i++) {
        most = a->chunks[i].stored_bytes > most ? a->chunks[i].stored_bytes : most;
    }
    return longest < most ? longest : most;
}

static size_t filler_buffer_bytes(const struct corm *archive) {
    return reader_buffer_bytes(longest_run_bytes(archive));
}

size_t filler_bytes(const struct corm *archive) {
    return filler_buffer_bytes(archive) + corm_decoder_bytes(archive);
}

size_t filler_landing_bytes(const struct corm *archive) {
    size_t slot = cache_slot_bytes(archive, 0);
    return landing_bytes(slot, landing_pieces(slot)) + READER_ALIGN + archive->n_chunks;
}

/* The buffer that stored chunks are read into. */
static int open_buffer(struct filler *f, const struct corm *a, struct err *err) {
    void *buffer = NULL;
    f->buffer_bytes = filler_buffer_bytes(a);
    if (f->device) {
        const struct backend *d = f->device;
        f->locked = d->ops->host_alloc(d->self, f->buffer_bytes + READER_ALIGN, err);
        if (!f->locked) {
            return -1;
        }
        f->buffer = (uint8_t *)f->locked + -(uintptr_t)f->locked % READER_ALIGN;
        return 0;
    }
    if (posix_memalign(&buffer, READER_ALIGN, f->buffer_bytes) != 0) {
        die_memory(f->buffer_bytes);
    }
    f->buffer = buffer;
    return 0;
}

int filler_open(struct filler *f, const struct fill *fill, struct err *err) {
    const struct corm *a = fill->archive;
    const size_t slot = cache_slot_bytes(a, 0);
    *f = (struct filler){.device = fill->device};
    if (fill->device &&
        !(f->landing = landing_new(fill->device, slot, landing_pieces(slot), err))) {
        return -1;
    }
    if (open_buffer(f, a, err) < 0) {
        filler_close(f);
        return -1;
    }
    f->decoder = corm_decoder_new(a);
    corm_decoder_use(f->decoder, fill->exponents->decode);
    return 0;
}

void filler_close(struct filler *f) {
    landing_free(f->landing);
    if (f->locked) {
        f->device->ops->host_free(f->device->self, f->locked);
    } else {
        free(f->buffer);
    }
    corm_decoder_free(f->decoder);
    *f = (struct filler){0};
}

/* ---- a device's slots ---- */

uint64_t fill_mark(const struct fill *fill) {
    return fill->device ? fill->device->ops->mark(fill->device->self) : 0;
}

void fill_released(struct fill *fill, int32_t slot, uint64_t mark) {
    if (fill->device && slot != CACHE_NO_SLOT) {
        fill->marks[slot] = mark;
    }
}

/* ---- a run ---- */

/* Whether a chunk is kept as it is stored. */
static bool is_kept_stored(const struct fill *fill, const struct corm_chunk *k) {
    return k->encoding == CORM_ENCODING_RAW || fill->cache->opt.how & CACHE_PACKED;
}

/* Read the run's chunks with one request. run->stored[i] becomes the place of chunk i's bytes: in
 * its slot already, in the buffer, or in the mapping. */
static int read_run(struct fill *fill, struct filler *f, struct fill_run *run, struct err *err) {
    const struct corm *a = fill->archive;
    const struct corm_chunk *chunks = &a->chunks[run->first];
    uint64_t base = chunks[0].offset;
    size_t bytes = fill_bytes(a, run->first, run->first + run->n - 1);
    struct iovec pieces[READER_PIECES];
    int n = 0;
    bool scatter = fill->reader.way != READER_MAPPED && !fill->device;
    for (uint32_t i = 0; i < run->n && scatter; i++) {
        uint64_t at = chunks[i].offset - base, end = at + chunks[i].stored_bytes;
        uint64_t next = i + 1 < run->n ? chunks[i + 1].offset - base : end;
        uint8_t *to = is_kept_stored(fill, &chunks[i]) ? cache_slot(fill->cache, run->slots[i])
                                                       : f->buffer + at;
        run->stored[i] = to;
        pieces[n++] = (struct iovec){to, chunks[i].stored_bytes};
        scatter = reader_can_scatter(&fill->reader, chunks[i].offset, chunks[i].stored_bytes, to);
        if (next > end) {
            pieces[n++] = (struct iovec){f->buffer + end, next - end};
        }
    }
    if (scatter) {
        return reader_scatter(&fill->reader, base, pieces, n, err);
    }
    const uint8_t *all;
    int status = fill->reader.way == READER_MAPPED
                     ? reader_map(&fill->reader, base, bytes, &run->begun, &all, err)
                     : reader_read(&fill->reader, base, bytes, f->buffer, &all, err);
    for (uint32_t i = 0; i < run->n && status == 0; i++) {
        run->stored[i] = all + (chunks[i].offset - base);
    }
    return status;
}

/* A chunk that lies in the page-locked buffer as the device needs it. */
static int send_stored(struct fill *fill, struct filler *f, bool demanded, uint32_t chunk,
                       int32_t slot, const uint8_t *stored, struct err *err) {
    const struct corm_chunk *k = &fill->archive->chunks[chunk];
    /* Once in a run. A page that was evicted meanwhile has been read from the disk again, which is
     * not seen here: what the disk then gives is not checked. */
    const bool known = fill->reader.way == READER_BUFFERED &&
                       __atomic_load_n(&fill->checked[chunk], __ATOMIC_RELAXED);
    if (!known && corm_chunk_check(fill->archive, k, stored, err) < 0) {
        return -1;
    }
    __atomic_store_n(&fill->checked[chunk], 1, __ATOMIC_RELAXED);
    landing_send_from(f->landing, stored, cache_slot(fill->cache, slot), k->stored_bytes,
                      demanded ? BACKEND_DEMANDED : BACKEND_GUESSED, fill->marks[slot]);
    reader_forget(&fill->reader, k->offset, k->stored_bytes);
    return 0;
}

/* The one place where a chunk comes into memory. Checks its stored bytes, and makes *data its
 * neurons, decoded unless they are kept packed. *data is `stored` itself where the bytes need
 * neither change nor move. A chunk that goes to a device has arrived only when the filler's landing
 * says so. */
static int land(struct fill *fill, struct filler *f, bool demanded, uint32_t chunk, int32_t slot,
                const uint8_t *stored, const uint8_t **data, struct err *err) {
    const struct corm_chunk *k = &fill->archive->chunks[chunk];
    uint8_t *to = slot == CACHE_NO_SLOT ? NULL : cache_slot(fill->cache, slot);
    bool as_is = is_kept_stored(fill, k) && !f->landing;
    bool stays = stored == to || (as_is && fill->reader.way == READER_MAPPED);
    *data = stored;
    if (!to || stays) {
        return corm_chunk_check(fill->archive, k, stored, err);
    }
    *data = to;
    if (as_is) {
        memcpy(to, stored, k->stored_bytes);
        return corm_chunk_check(fill->archive, k, to, err);
    }
    if (f->landing && k->encoding == CORM_ENCODING_RAW && stored >= f->buffer &&
        stored < f->buffer + f->buffer_bytes) {
        return send_stored(fill, f, demanded, chunk, slot, stored, err);
    }
    uint8_t *decoded = f->landing ? landing_take(f->landing) : to;
    if (corm_chunk_decode(f->decoder, fill->archive, k, stored, decoded, err) < 0) {
        return -1;
    }
    if (f->landing) {
        landing_send(f->landing, to, corm_chunk_raw_bytes(fill->archive, k),
                     demanded ? BACKEND_DEMANDED : BACKEND_GUESSED, fill->marks[slot]);
    }
    reader_forget(&fill->reader, k->offset, k->stored_bytes);
    return 0;
}

/* Any of the run's slots will do for any of its chunks. With slots in the order of their places,
 * neighbouring chunks lie side by side as far as slots do, and one copy takes them to a device.
 * (The slots of an expert that was evicted come in reverse order.) */
static void order_slots(struct fill_run *run) {
    for (uint32_t i = 1; i < run->n; i++) {
        int32_t slot = run->slots[i];
        uint32_t at = i;
        for (; at > 0 && run->slots[at - 1] > slot; at--) {
            run->slots[at] = run->slots[at - 1];
        }
        run->slots[at] = slot;
    }
}

bool fill_begins(const struct fill *fill) {
    return fill->reader.way == READER_MAPPED;
}

/* Give back what was evicted. This must happen before the run's own bytes come, because these may
 * be among it. */
static void forget_unmapped(struct fill *fill, struct fill_run *run) {
    for (uint32_t i = 0; i < run->n_unmapped; i++) {
        reader_forget(&fill->reader, run->unmapped[i].offset, run->unmapped[i].bytes);
    }
    run->n_unmapped = 0;
}

void fill_begin(struct fill *fill, struct fill_run *run) {
    const struct corm *a = fill->archive;
    struct err later = {0};
    forget_unmapped(fill, run);
    if (fill_begins(fill) && run->slots[0] != CACHE_NO_SLOT) {
        reader_begin(&fill->reader, a->chunks[run->first].offset,
                     fill_bytes(a, run->first, run->first + run->n - 1), &run->begun, &later);
    }
}

int fill_read(struct fill *fill, struct filler *f, struct fill_run *run, struct err *err) {
    const struct corm *a = fill->archive;
    if (f->landing) {
        order_slots(run);
    }
    forget_unmapped(fill, run);
    /* Either all chunks of a run have slots, or all are used in place. */
    if (run->slots[0] != CACHE_NO_SLOT) {
        return read_run(fill, f, run, err);
    }
    for (uint32_t i = 0; i < run->n; i++) {
        run->stored[i] = a->map.data + a->chunks[run->first + i].offset;
    }
    return 0;
}

uint32_t fill_land(struct fill *fill, struct filler *f, struct fill_run *run, struct err *err) {
    uint32_t n = 0;
    while (n < run->n && land(fill, f, run->demanded, run->first + n, run->slots[n], run->stored[n],
                              &run->data[n], err) == 0) {
        n++;
    }
    if (f->landing) {
        landing_wait(f->landing);
    }
    return n;
}
