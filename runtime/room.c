#include "runtime/room.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime/machine.h"

enum {
    WORD = 64,        /* bits */
    KEPT_FREE = 128,  /* of several sizes, one part in so many is kept free */
    NONE = UINT32_MAX /* no member of a set */
};

/* ---- sets ---- */

/* Words of all levels of a set of numbers below n. */
static size_t set_words(uint32_t n) {
    size_t words = 0;
    do {
        n = n / WORD + (n % WORD != 0);
        words += n ? n : 1;
    } while (n > 1);
    return words;
}

/* An empty set, whose words are at `words`. Returns what lies behind them. */
static uint64_t *set_open(struct room_set *s, uint32_t n, uint64_t *words) {
    s->levels = 0;
    do {
        n = n / WORD + (n % WORD != 0);
        n = n ? n : 1;
        if (s->levels == ROOM_LEVELS) {
            die("a set of %u levels", s->levels + 1);
        }
        s->words[s->levels] = words;
        s->levels++;
        words += n;
    } while (n > 1);
    return words;
}

static bool set_has(const struct room_set *s, uint32_t i) {
    return s->words[0][i / WORD] >> i % WORD & 1;
}

static void set_put(struct room_set *s, uint32_t i) {
    for (uint32_t l = 0; l < s->levels; l++, i /= WORD) {
        s->words[l][i / WORD] |= UINT64_C(1) << i % WORD;
    }
}

static void set_drop(struct room_set *s, uint32_t i) {
    for (uint32_t l = 0; l < s->levels; l++, i /= WORD) {
        s->words[l][i / WORD] &= ~(UINT64_C(1) << i % WORD);
        if (s->words[l][i / WORD] != 0) {
            return;
        }
    }
}

/* The least or the greatest member; NONE where the set is empty. */
static uint32_t set_end(const struct room_set *s, bool greatest) {
    uint32_t i = 0;
    for (uint32_t l = s->levels; l-- > 0;) {
        const uint64_t word = s->words[l][i];
        if (word == 0) {
            return NONE;
        }
        i = i * WORD +
            (uint32_t)(greatest ? WORD - 1 - __builtin_clzll(word) : __builtin_ctzll(word));
    }
    return i;
}

/* ---- sizes ---- */

static uint64_t sum_bytes(const struct room_size *sizes, uint32_t n_sizes, uint64_t align) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_sizes; i++) {
        bytes += align_up((uint64_t)sizes[i].n * sizes[i].slot_bytes, align);
    }
    return bytes;
}

uint64_t room_all_bytes(const struct room_size *sizes, uint32_t n_sizes) {
    return sum_bytes(sizes, n_sizes, n_sizes > 1 ? machine_page_bytes() : 1);
}

uint64_t room_usable_bytes(const struct room_size *sizes, uint32_t n_sizes, uint64_t bytes) {
    const uint64_t all = room_all_bytes(sizes, n_sizes);
    if (bytes >= all) {
        return all;
    }
    return n_sizes == 1 ? bytes - bytes % sizes[0].slot_bytes : bytes;
}

uint64_t room_alone_bytes(const struct room_size *sizes, uint32_t n_sizes, uint32_t class) {
    const uint64_t page = machine_page_bytes(), bytes = sizes[class].slot_bytes;
    return n_sizes == 1 ? bytes : ((bytes + page - 2) / page + 1) * page;
}

size_t room_table_bytes(uint32_t n_chunks) {
    /* Each class has words of its own at each level. */
    return 2 * (set_words(n_chunks) + (size_t)ROOM_MAX_CLASSES * ROOM_LEVELS) * sizeof(uint64_t);
}

/* ---- life ---- */

static void open_sets(struct room *r) {
    size_t n_words = 0;
    for (uint32_t i = 0; i < r->n_classes; i++) {
        n_words += 2 * set_words(r->classes[i].n);
    }
    uint64_t *words = r->words = mem_calloc(n_words, sizeof *words);
    for (uint32_t i = 0; i < r->n_classes; i++) {
        struct room_class *k = &r->classes[i];
        words = set_open(&k->free, k->n, words);
        words = set_open(&k->closed, k->n, words);
        for (uint32_t slot = 0; slot < k->n; slot++) {
            set_put(&k->closed, slot);
        }
    }
}

/* Memory straight from the kernel: its pages cost nothing until they are filled. Where slots may be
 * closed, large pages are left out: they would be held as a whole when a part of them is given
 * back. */
static int map_slots(struct room *r, bool keeps_all, struct err *err) {
    size_t at = 0;
    for (uint32_t i = 0; i < r->n_classes; i++) {
        const struct room_class *k = &r->classes[i];
        r->mapped_bytes += align_up((uint64_t)k->n * k->slot_bytes, r->page_bytes);
    }
    void *p = mmap(NULL, r->mapped_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return err_errno(err, errno, "expert cache of %u slots, %zu bytes", r->n_slots,
                         r->mapped_bytes);
    }
    madvise(p, r->mapped_bytes, keeps_all ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    r->mapped = p;
    for (uint32_t i = 0; i < r->n_classes; i++) {
        struct room_class *k = &r->classes[i];
        k->base = r->mapped + at;
        at += align_up((uint64_t)k->n * k->slot_bytes, r->page_bytes);
    }
    return 0;
}

int room_open(struct room *r, const struct room_size *sizes, uint32_t n_sizes, uint64_t bytes,
              uint8_t *memory, struct err *err) {
    *r = (struct room){.bytes = bytes, .n_classes = n_sizes, .page_bytes = machine_page_bytes()};
    const bool keeps_all = n_sizes == 1 || bytes >= room_all_bytes(sizes, n_sizes);
    r->reserve_bytes = keeps_all ? 0 : bytes / KEPT_FREE;
    r->most_bytes = align_up(bytes, r->page_bytes);
    for (uint32_t i = 0; i < n_sizes; i++) {
        const uint64_t fit = bytes / sizes[i].slot_bytes;
        r->classes[i] = (struct room_class){.slot_bytes = sizes[i].slot_bytes,
                                            .first = r->n_slots,
                                            .n = fit < sizes[i].n ? (uint32_t)fit : sizes[i].n};
        r->n_slots += r->classes[i].n;
    }
    open_sets(r);
    if (memory && n_sizes > 1) {
        die("borrowed memory of %u sizes", n_sizes);
    }
    if (memory || r->n_slots == 0) {
        r->classes[0].base = memory;
        return 0;
    }
    return map_slots(r, keeps_all, err);
}

void room_close(struct room *r) {
    if (r->mapped) {
        munmap(r->mapped, r->mapped_bytes);
    }
    free(r->words);
    *r = (struct room){0};
}

/* ---- pages ---- */

/* Whether a slot other than `but` holds a page of the class's span. */
static bool page_is_held(const struct room *r, const struct room_class *k, uint64_t page,
                         uint32_t but) {
    const uint64_t from = page * r->page_bytes;
    uint64_t slot = from / k->slot_bytes, last = (from + r->page_bytes - 1) / k->slot_bytes;
    for (; slot <= last && slot < k->n; slot++) {
        if (slot != but && !set_has(&k->closed, (uint32_t)slot)) {
            return true;
        }
    }
    return false;
}

/* The pages that a slot alone holds, or would hold: whole pages between its ends, and those at the
 * ends that no neighbour holds. */
static void own_pages(const struct room *r, const struct room_class *k, uint32_t slot,
                      uint64_t *first, uint64_t *end) {
    const uint64_t at = (uint64_t)slot * k->slot_bytes;
    *first = at / r->page_bytes;
    *end = (at + k->slot_bytes - 1) / r->page_bytes + 1;
    if (page_is_held(r, k, *first, slot)) {
        ++*first;
    }
    if (*end > *first && page_is_held(r, k, *end - 1, slot)) {
        --*end;
    }
}

static uint64_t own_bytes(const struct room *r, const struct room_class *k, uint32_t slot) {
    uint64_t first, end;
    own_pages(r, k, slot, &first, &end);
    return (end - first) * r->page_bytes;
}

/* Close a free slot of another class, the last of its span. False where none has any, or where the
 * kernel does not take its pages back: then it stays free. */
static bool close_one(struct room *r, uint32_t class) {
    uint32_t slot = NONE, i = 0;
    for (; i < r->n_classes; i++) {
        if (i != class && (slot = set_end(&r->classes[i].free, true)) != NONE) {
            break;
        }
    }
    if (slot == NONE) {
        return false;
    }
    struct room_class *from = &r->classes[i];
    uint64_t first, end;
    own_pages(r, from, slot, &first, &end);
    const uint64_t bytes = (end - first) * r->page_bytes;
    if (bytes > 0 && madvise(from->base + first * r->page_bytes, bytes, MADV_DONTNEED) != 0) {
        return false;
    }
    set_drop(&from->free, slot);
    set_put(&from->closed, slot);
    r->held_bytes -= bytes;
    return true;
}

/* ---- slots ---- */

int32_t room_take(struct room *r, uint32_t class, bool all) {
    struct room_class *k = &r->classes[class];
    if (!room_fits(r, class, all)) {
        return ROOM_NO_SLOT;
    }
    uint32_t slot = set_end(&k->free, false);
    while (slot == NONE) {
        const uint32_t closed = set_end(&k->closed, false);
        if (closed == NONE) {
            return ROOM_NO_SLOT;
        }
        const uint64_t more = own_bytes(r, k, closed);
        if (r->held_bytes + more <= r->most_bytes) {
            r->held_bytes += more;
            set_drop(&k->closed, closed);
            set_put(&k->free, closed);
            slot = closed;
        } else if (!close_one(r, class)) {
            return ROOM_NO_SLOT;
        }
    }
    set_drop(&k->free, slot);
    r->used_bytes += k->slot_bytes;
    return (int32_t)(k->first + slot);
}

void room_give(struct room *r, int32_t slot) {
    uint32_t i = 0;
    while ((uint32_t)slot - r->classes[i].first >= r->classes[i].n) {
        i++;
    }
    set_put(&r->classes[i].free, (uint32_t)slot - r->classes[i].first);
    r->used_bytes -= r->classes[i].slot_bytes;
}
