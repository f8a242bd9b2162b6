/*
 * Memory for chunks of several sizes: what fits, that nothing in use is touched, what is held.
 */
#include "tests/util/test.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include "runtime/machine.h"
#include "runtime/room.h"

#ifdef CORM_TEST_QUICK
enum { STEPS = 3000 };
#else
enum { STEPS = 20000 };
#endif

/* Sizes of 32 neurons of 2048 columns in three codecs; of two codecs at 1024 columns, whose slots
 * end within pages; slots smaller than a page; many sizes. */
static const struct mix {
    uint32_t n;
    size_t bytes[8];
    uint64_t room_bytes;
    double share; /* of it that holds chunks, at least */
} mixes[] = {
    {3, {208896, 110592, 80640}, 48 << 20, 0.97},
    {2, {104448, 55296}, 24 << 20, 0.97},
    {2, {3264, 1728}, 1 << 20, 0.6},
    {8, {262144, 208896, 131136, 110592, 80640, 65600, 16448, 4160}, 48 << 20, 0.97},
};

static uint32_t below(uint64_t *seed, uint32_t n) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % n;
}

/* A room, the slots in use, and what was written to each. */
struct rig {
    struct room_size sizes[8];
    struct room room;
    uint32_t n_used, cap;
    struct use {
        int32_t slot;
        uint32_t class;
        uint8_t mark;
    } *uses;
    uint64_t seed;
};

static void open_rig(struct rig *r, const struct mix *m, uint32_t n_chunks) {
    struct err err = {0};
    *r = (struct rig){.seed = 7};
    for (uint32_t i = 0; i < m->n; i++) {
        r->sizes[i] = (struct room_size){m->bytes[i], n_chunks};
    }
    assert_int_equal(room_open(&r->room, r->sizes, m->n, m->room_bytes, NULL, &err), 0);
    assert_no_err(&err);
    r->cap = r->room.n_slots;
    r->uses = mem_calloc(r->cap, sizeof *r->uses);
}

static void close_rig(struct rig *r) {
    room_close(&r->room);
    free(r->uses);
}

static bool take(struct rig *r, uint32_t class, bool all) {
    const int32_t slot = room_take(&r->room, class, all);
    if (slot == ROOM_NO_SLOT) {
        return false;
    }
    const struct use u = {slot, class, (uint8_t)below(&r->seed, 256)};
    assert_true(r->n_used < r->cap);
    memset(room_at(&r->room, slot), u.mark, r->sizes[class].slot_bytes);
    r->uses[r->n_used++] = u;
    return true;
}

static void check_bytes(const struct rig *r, const struct use *u) {
    const uint8_t *at = room_at(&r->room, u->slot);
    const size_t n = r->sizes[u->class].slot_bytes;
    assert_true(at[0] == u->mark && memcmp(at, at + 1, n - 1) == 0);
}

/* What was in it is unchanged when it is given back. */
static void give(struct rig *r, uint32_t i) {
    check_bytes(r, &r->uses[i]);
    room_give(&r->room, r->uses[i].slot);
    r->uses[i] = r->uses[--r->n_used];
}

/* The pages that the kernel has for the room are those that it counts, and not more than it may
 * have. */
static void check_held(const struct rig *r) {
    const struct room *m = &r->room;
    const size_t n_pages = m->mapped_bytes / m->page_bytes;
    unsigned char *in = mem_calloc(n_pages, 1);
    uint64_t resident = 0, used = 0;
    assert_int_equal(mincore(m->mapped, m->mapped_bytes, in), 0);
    for (size_t i = 0; i < n_pages; i++) {
        resident += in[i] & 1 ? m->page_bytes : 0;
    }
    for (uint32_t i = 0; i < r->n_used; i++) {
        used += r->sizes[r->uses[i].class].slot_bytes;
    }
    assert_int_equal(m->used_bytes, used);
    assert_true(m->held_bytes <= m->most_bytes);
    assert_true(resident <= m->held_bytes);
    free(in);
}

/* Chunks of random sizes come, in shares that change, and random ones go where one finds no room:
 * whenever that is so, the room is full but for 3 %, or for what the chunk that came takes. */
static void room_for_bytes_holds_bytes_whatever_their_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(mixes); i++) {
        const struct mix *m = &mixes[i];
        struct rig r;
        open_rig(&r, m, 1 << 16);
        uint64_t least = m->room_bytes;
        for (uint32_t step = 0; step < STEPS; step++) {
            /* For a while one class comes more often than the others. */
            const uint32_t often = step / 1500 % m->n;
            const uint32_t class = below(&r.seed, 2) ? often : below(&r.seed, m->n);
            while (!take(&r, class, false)) {
                const uint64_t full = r.room.used_bytes + r.sizes[class].slot_bytes;
                least = full < least ? full : least;
                give(&r, below(&r.seed, r.n_used));
            }
            if (step % 5000 == 0) {
                check_held(&r);
            }
        }
        check_held(&r);
        for (uint32_t u = 0; u < r.n_used; u++) {
            check_bytes(&r, &r.uses[u]);
        }
        if ((double)least < m->share * (double)m->room_bytes) {
            fail_msg("mix %zu: only %.1f %% of the room held chunks", i,
                     100 * (double)least / (double)m->room_bytes);
        }
        close_rig(&r);
    }
}

/* Whatever was in the room before and wherever it lies: chunks whose room_alone_bytes fit together
 * have room, once the others were given back. */
static void what_fits_alone_has_room_together(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(mixes); i++) {
        struct mix m = mixes[i];
        m.room_bytes = 1 << 20;
        struct rig r;
        open_rig(&r, &m, 1 << 16);
        for (uint32_t round = 0; round < STEPS / 20; round++) {
            while (take(&r, below(&r.seed, m.n), round % 2)) {
            }
            uint64_t sum = 0;
            for (uint32_t u = r.n_used; u-- > 0;) { /* keep random ones */
                const uint64_t alone = room_alone_bytes(r.sizes, m.n, r.uses[u].class);
                if (below(&r.seed, 3) == 0 && sum + alone <= m.room_bytes) {
                    sum += alone;
                } else {
                    give(&r, u);
                }
            }
            for (uint32_t tries = 0; tries < 10; tries++) {
                const uint32_t class = below(&r.seed, m.n);
                const uint64_t alone = room_alone_bytes(r.sizes, m.n, class);
                if (sum + alone <= m.room_bytes) {
                    assert_true(take(&r, class, true));
                    sum += alone;
                }
            }
        }
        check_held(&r);
        close_rig(&r);
    }
}

/* Where all has room, all comes in at once, to the last chunk, with large pages and no reserve. */
static void all_that_is_needed_has_room(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(mixes); i++) {
        struct mix m = mixes[i];
        struct rig r;
        for (uint32_t k = 0; k < m.n; k++) {
            r.sizes[k] = (struct room_size){m.bytes[k], 37};
        }
        m.room_bytes = room_all_bytes(r.sizes, m.n);
        assert_int_equal(room_usable_bytes(r.sizes, m.n, m.room_bytes + 123), m.room_bytes);
        open_rig(&r, &m, 37);
        assert_int_equal(r.room.n_slots, 37 * m.n);
        for (uint32_t k = 0; k < 37 * m.n; k++) {
            assert_true(take(&r, k % m.n, false));
        }
        assert_false(take(&r, 0, true));
        assert_int_equal(r.room.held_bytes, r.room.most_bytes);
        close_rig(&r);
    }
}

/* Of one size it is an array of slots: exactly as many as fit, the first free one first. */
static void one_size_is_an_array(void **state) {
    (void)state;
    struct rig r;
    const struct mix m = {1, {2304}, 5 * 2304 + 2303};
    open_rig(&r, &m, 100);
    assert_int_equal(room_usable_bytes(r.sizes, 1, m.room_bytes), 5 * 2304);
    assert_int_equal(room_alone_bytes(r.sizes, 1, 0), 2304);
    for (int i = 0; i < 5; i++) {
        assert_true(take(&r, 0, false));
        assert_ptr_equal(room_at(&r.room, i), r.room.mapped + i * 2304);
    }
    assert_false(take(&r, 0, false));
    give(&r, 3);
    give(&r, 1);
    assert_int_equal(room_take(&r.room, 0, false), 1);
    assert_int_equal(room_take(&r.room, 0, false), 3);
    assert_int_equal(room_take(&r.room, 0, false), ROOM_NO_SLOT);
    close_rig(&r);
}

/* Sets have levels of 64: the edges. */
static void slots_are_found_in_large_sets(void **state) {
    (void)state;
    const struct mix m = {1, {64}, UINT64_C(64) * ((64 * 64 * 2) + 3)};
    const uint32_t n = 64 * 64 * 2 + 3;
    struct rig r;
    open_rig(&r, &m, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(room_take(&r.room, 0, false), i);
    }
    static const int32_t some[] = {0, 63, 64, 4095, 4096, 8191, 8192, 8194};
    for (size_t i = TEST_COUNT(some); i-- > 0;) {
        room_give(&r.room, some[i]);
    }
    for (size_t i = 0; i < TEST_COUNT(some); i++) {
        assert_int_equal(room_take(&r.room, 0, false), some[i]);
    }
    assert_int_equal(room_take(&r.room, 0, false), ROOM_NO_SLOT);
    close_rig(&r);
}

/* Slots that lie elsewhere, as a device's do, take no addresses of this process: with hardly any
 * left, many times as much is no matter. The same number of the room's own is refused. */
static void borrowed_memory_is_not_mapped(void **state) {
    enum { LEFT_BYTES = 64 << 20, SLOT_BYTES = 1 << 20, N = 8 * LEFT_BYTES / SLOT_BYTES };
    const struct room_size size = {SLOT_BYTES, N};
    struct rlimit before, little;
    uint8_t elsewhere;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    little = before;
    little.rlim_cur = machine_size_bytes() + LEFT_BYTES;
    assert_int_equal(setrlimit(RLIMIT_AS, &little), 0);
    for (int borrowed = 0; borrowed < 2; borrowed++) {
        struct room room;
        struct err err = {0};
        int status = room_open(&room, &size, 1, (uint64_t)N * SLOT_BYTES,
                               borrowed ? &elsewhere : NULL, &err);
        bool right = borrowed ? status == 0 && room_at(&room, 0) == &elsewhere
                              : status < 0 && strstr(err.msg, "expert cache of ");
        room_close(&room);
        if (!right) {
            setrlimit(RLIMIT_AS, &before);
            fail_msg("borrowed %d: %d, %s", borrowed, status, err.msg);
        }
    }
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_for_bytes_holds_bytes_whatever_their_sizes),
        cmocka_unit_test(what_fits_alone_has_room_together),
        cmocka_unit_test(all_that_is_needed_has_room),
        cmocka_unit_test(one_size_is_an_array),
        cmocka_unit_test(slots_are_found_in_large_sets),
        cmocka_unit_test(borrowed_memory_is_not_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
