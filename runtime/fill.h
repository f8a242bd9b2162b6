/*
 * fill: how chunks come into memory: they are read together, checked, decoded, and put where they
 * belong.
 *
 * Owns: the reader, and what else each thread needs: a read buffer, a decoder, and with a device a
 * landing.
 * Leaves to others: which chunks are read when and by whom, and the slots for them (prefetch); how
 * bytes come from the file (reader).
 *
 * Chunks that are kept as they are stored are read straight into their slots, or used from the map
 * of the file. Chunks that are decoded go through the buffer. Where slots are memory of a device,
 * the buffer is page-locked, and chunks that need no decoding are copied from there; others are
 * decoded into page-locked pieces first. A device's experts come again and again, mostly from the
 * page cache: one that is read through it and needs no decoding is checked when it comes the first
 * time. If its pages were evicted and read from the disk again since, it is not checked again.
 *
 * Threads: a struct filler belongs to one thread. Several threads fill runs at once, each with its
 * own filler, and none of them takes the lock of the cache for it, because the slots and chunks of
 * a run belong to the caller alone.
 */
#ifndef RUNTIME_FILL_H
#define RUNTIME_FILL_H

#include "kernels/cpu/exponents.h"
#include "kernels/landing.h"
#include "runtime/cache.h"
#include "runtime/reader.h"

enum {
    /* The most bytes of one request. It is small, so that a demand waits only briefly for a guess
     * that is under way, and so that the first part of an expert is checked and decoded while the
     * next part is read. */
    FILL_REQUEST_BYTES = 1 << 20,
    FILL_MAX_RUN = READER_PIECES / 2, /* most chunks of one request, with a gap behind each */
};

struct fill {
    const struct cache *cache;
    const struct corm *archive;
    const struct backend *device; /* NULL: slots are the host's memory */
    uint64_t *marks; /* [room.n_slots] point of the device's work when the slot was released last */
    /* [n_chunks] with a device: which have been checked; atomic, as any thread may find it out. */
    uint8_t *checked;
    struct reader reader;
    const struct exponents_isa *exponents; /* decodes packed chunks; the best one at first */
};

/* What a thread needs to fill slots. */
struct filler {
    struct corm_decoder *decoder;
    uint8_t *buffer; /* [buffer_bytes] */
    size_t buffer_bytes;
    void *locked;                 /* with a device: page-locked memory that has the buffer */
    const struct backend *device; /* as in struct fill */
    struct landing *landing;      /* NULL: slots are the host's memory */
};

/* A run of neighbouring chunks that are read together. Either every chunk has a slot, or all are
 * used in place (CACHE_NO_SLOT). The run also has the list of what was evicted from the map of the
 * file to make room for it. */
struct fill_run {
    bool demanded; /* else guessed */
    uint32_t first, n;
    int32_t slots[FILL_MAX_RUN]; /* in: any order; out: slots[i] is where chunk first + i lies */
    const uint8_t *data[FILL_MAX_RUN]; /* out: neurons, decoded or packed */
    /* Between fill_begin, fill_read and fill_land: */
    struct reader_begun begun;
    const uint8_t *stored[FILL_MAX_RUN];
    uint32_t n_unmapped;
    struct fill_span {
        uint64_t offset, bytes;
    } unmapped[FILL_MAX_RUN];
};

/* `device`: see struct fill. fill_close in any case. */
int fill_open(struct fill *fill, const struct cache *cache, const struct backend *device,
              enum reader_way way, struct reader_throttle throttle, struct err *err);
void fill_close(struct fill *fill);

/* Fails where a device's driver has no page-locked memory left; then there is nothing to close. */
int filler_open(struct filler *f, const struct fill *fill, struct err *err);
void filler_close(struct filler *f); /* accepts a zeroed struct */
/* Memory of a filler (its buffer and its decoder), and with a device page-locked memory besides. */
size_t filler_bytes(const struct corm *archive);
size_t filler_landing_bytes(const struct corm *archive);

/* Stored bytes from chunk `first` to chunk `last`, with the gaps between. */
uint64_t fill_bytes(const struct corm *archive, uint32_t first, uint32_t last);
/* Whether a run can be begun while the thread does something else. */
bool fill_begins(const struct fill *fill);
/* Where fill_begins says that it can: have the disk begin on the run. A failure here is reported by
 * fill_read. */
void fill_begin(struct fill *fill, struct fill_run *run);
/* Read the chunks of a run. With a device run->slots is permuted. */
int fill_read(struct fill *fill, struct filler *f, struct fill_run *run, struct err *err);
/* Check and decode what was read. Returns how many chunks were filled, counted from the first one.
 * Where that is not all of them, err says why. */
uint32_t fill_land(struct fill *fill, struct filler *f, struct fill_run *run, struct err *err);

/* With a device, fill_mark gives the point that the device's work has reached, and fill_released
 * notes that the slot was in use until then, so that the slot is not filled again before. Without a
 * device both do nothing. */
uint64_t fill_mark(const struct fill *fill);
void fill_released(struct fill *fill, int32_t slot, uint64_t mark);

#endif
