/*
 * Prefetch on files that are damaged, cut or gone, and on disks that fail or stall: named, once and
 * for all, nothing hangs and nothing wrong is ready.
 */
#include "tests/util/test_util_prefetch.h"

#include <stdatomic.h>

#include "tests/util/test_util_archive.h"

static char *dir, *path, *mixed;

static int set_up(void **state) {
    (void)state;
    dir = test_mkdir();
    path = rig_archive(dir);
    mixed = rig_packed_archive(dir, true);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(path);
    free(mixed);
    test_rmdir(dir);
    return 0;
}

static char *copy_of(const char *name) {
    uint8_t *data;
    size_t bytes;
    struct err err = {0};
    assert_int_equal(file_read(path, 1 << 26, &data, &bytes, &err), 0);
    char *copy = test_write(dir, name, data, bytes);
    free(data);
    return copy;
}

/* Every later wait says the same; nothing hangs, nothing wrong is READY. */
static void check_stopped(struct rig *r, uint32_t record, const char *part, const char *other) {
    struct prefetch_need need = rig_need(record);
    prefetch_demand(r->prefetch, &need, 1);
    for (int i = 0; i < 2; i++) {
        struct err err = {0};
        bool ready;
        while (prefetch_wait_any(r->prefetch, &need, 1, &ready, &err) == 0 && !ready)
            ;
        assert_err(&err, part, other);
    }
    prefetch_release(r->prefetch, &need, 1);
    struct prefetch_need next = rig_need((record + 1) % N);
    struct err err = {0};
    bool ready;
    prefetch_demand(r->prefetch, &next, 1);
    assert_int_equal(prefetch_wait_any(r->prefetch, &next, 1, &ready, &err), -1);
    prefetch_release(r->prefetch, &next, 1);
}

/* The map keeps the whole file; what is read is a shorter one under the same name. */
static void a_truncated_file_is_named(void **state) {
    (void)state;
    char *file = copy_of("short.corm"), *shorter = copy_of("shorter.corm");
    struct rig r = {.way = RIG_PLAIN.way};
    struct err err = {0};
    corm_open(&r.archive, file, 0, &err);
    assert_no_err(&err);
    const struct corm_chunk *last = &r.archive.chunks[N * CHUNKS - 1];
    assert_int_equal(truncate(shorter, (off_t)last->offset + 1), 0);
    assert_int_equal(rename(shorter, file), 0);
    cache_open(&r.cache, &r.archive, cache_floor_bytes(&r.archive, 0), &(struct cache_options){0},
               &err);
    prefetch_open(&r.prefetch, &r.cache, &RIG_PLAIN, &err);
    assert_no_err(&err);
    rig_use(&r, 0);
    check_stopped(&r, N - 1, "short.corm", "truncated");
    rig_close(&r);
    free(file);
    free(shorter);
}

static void a_corrupt_chunk_is_named(void **state) {
    (void)state;
    for (int guessed = 0; guessed < 2; guessed++) {
        char *file = copy_of("bad.corm");
        struct rig r;
        rig_open(&r, file, 2 * CHUNKS, 0, RIG_PLAIN);
        const struct corm_chunk *k = &r.archive.chunks[7 * CHUNKS + 3];
        FILE *f = fopen(file, "r+b");
        assert_non_null(f);
        fseek(f, (long)k->offset + 5, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, (long)k->offset + 5, SEEK_SET);
        fputc(byte ^ 0x10, f);
        assert_int_equal(fclose(f), 0);
        rig_use(&r, 6);
        if (guessed) {
            struct prefetch_need need = rig_need(7);
            rig_guess(r.prefetch, &need, 1, 1);
        }
        check_stopped(&r, 7, "bad.corm: layer 1 expert 1 chunk 3", "damaged");
        assert_int_not_equal(rig_state(&r, 7 * CHUNKS + 3), CACHE_READY);
        rig_close(&r);
        free(file);
    }
}

/* ---- bad chunks that would be used as they are stored ---- */

enum damage { FLIPPED, WRONG_COUNT, HUGE_COUNT };

/* Break a chunk of an archive in memory. The counts are in a chunk of exponents, and every checksum
 * is right: what finds them has to look at the chunk. */
static void break_chunk(uint8_t *data, uint32_t chunk, enum damage damage) {
    struct corm_header *h = (struct corm_header *)(void *)data;
    struct corm_section *sections = (struct corm_section *)(void *)(data + h->table_offset);
    struct corm_section *s = sections;
    while (s->type != CORM_SECTION_INDEX) {
        s++;
    }
    struct corm_index_header *index = (struct corm_index_header *)(void *)(data + s->offset);
    struct corm_record *records = (struct corm_record *)(void *)(index + 1);
    struct corm_chunk *k = (struct corm_chunk *)(void *)(records + index->n_records) + chunk;
    uint8_t *stored = data + k->offset;
    if (damage == FLIPPED) {
        stored[k->stored_bytes / 2] ^= 0x10;
        return;
    }
    assert_int_equal(k->encoding, CORM_ENCODING_EXPONENTS);
    if (damage == WRONG_COUNT) {
        stored[0] ^=
            1; /* codes of the second list: as many pairs of words, one code more or less */
    } else {
        memset(stored + 8, 0xff, 4); /* literals */
    }
    k->hash = hash64(stored, k->stored_bytes);
    s->hash = hash64(index, s->bytes);
    h->table_hash = hash64(sections, h->section_count * sizeof *sections);
    h->header_hash = hash64(h, offsetof(struct corm_header, header_hash));
}

/* Whatever way it comes to memory, decoded or not, demanded or guessed. */
static void check_named(const char *file, uint32_t i, const char *why) {
    static const struct {
        unsigned how;
        enum reader_way way;
    } ways[] = {
        {0, READER_BUFFERED},
        {0, READER_MAPPED},
        {CACHE_IN_PLACE, READER_BUFFERED},
        {CACHE_PACKED, READER_BUFFERED},
        {CACHE_PACKED, READER_DIRECT},
        {CACHE_PACKED, READER_MAPPED},
        {CACHE_PACKED, READER_PASSING},
        {CACHE_PACKED | CACHE_IN_PLACE, READER_BUFFERED},
    };
    char *name = mem_printf("bad.corm: layer 1 expert 1 chunk %u: ", i);
    for (size_t w = 0; w < TEST_COUNT(ways); w++) {
        if (ways[w].way == READER_DIRECT && !reader_direct_works(file)) {
            continue;
        }
        for (int guessed = 0; guessed < 2; guessed++) {
            struct rig r;
            rig_open(&r, file, 2 * CHUNKS, ways[w].how,
                     (struct prefetch_options){.io_threads = 2, .way = ways[w].way});
            rig_use(&r, 6);
            if (guessed) {
                struct prefetch_need need = rig_need(7);
                rig_guess(r.prefetch, &need, 1, 1);
            }
            check_stopped(&r, 7, name, why);
            assert_int_not_equal(rig_state(&r, 7 * CHUNKS + i), CACHE_READY);
            rig_close(&r);
        }
    }
    free(name);
}

static void a_bad_packed_chunk_is_named(void **state) {
    (void)state;
    static const struct {
        enum damage damage;
        uint32_t chunk;
        const char *why;
    } cases[] = {
        {FLIPPED, HOT - 1, "damaged"}, /* a raw one */
        {FLIPPED, HOT + 1, "damaged"},
        {WRONG_COUNT, HOT + 1, "exponents: list 1"},
        {HUGE_COUNT, HOT + 1, "exponents: "},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        size_t bytes;
        uint8_t *data = archive_load(mixed, &bytes);
        break_chunk(data, 7 * CHUNKS + cases[i].chunk, cases[i].damage);
        char *file = test_write(dir, "bad.corm", data, bytes);
        check_named(file, cases[i].chunk, cases[i].why);
        free(file);
        free(data);
    }
}

/* ---- bad disks ---- */

/* A disk that fails or stops for a while at its read number `at`. */
struct bad_disk {
    atomic_int reads;
    int at;
    uint64_t stall_ms;
    bool fails;
};

static int ask_bad_disk(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct bad_disk *d = ctx;
    (void)offset;
    (void)bytes;
    if (atomic_fetch_add(&d->reads, 1) != d->at) {
        return 0;
    }
    rig_sleep_ms(d->stall_ms);
    return d->fails ? err_set(err, "Input/output error") : 0;
}

static void a_read_error_is_named_and_ends_the_run(void **state) {
    (void)state;
    for (int guessed = 0; guessed < 2; guessed++) {
        struct bad_disk disk = {.at = 1, .fails = true};
        struct rig r;
        rig_open(&r, path, 2 * CHUNKS, 0,
                 (struct prefetch_options){.io_threads = 2, .fault = {ask_bad_disk, &disk}});
        rig_use(&r, 6);
        if (guessed) {
            struct prefetch_need need = rig_need(7);
            rig_guess(r.prefetch, &need, 1, 1);
        }
        check_stopped(&r, 7, "prefetch.corm: read of", "Input/output error");
        assert_int_not_equal(rig_state(&r, 7 * CHUNKS), CACHE_READY);
        rig_close(&r);
    }
}

static void a_disk_that_stalls_is_waited_for(void **state) {
    (void)state;
    for (int awake = 0; awake < 2; awake++) {
        struct bad_disk disk = {.at = 2, .stall_ms = 600};
        struct rig r;
        rig_open(&r, path, awake ? N * CHUNKS : 2 * CHUNKS, 0,
                 (struct prefetch_options){
                     .io_threads = 2, .awake = awake == 1, .fault = {ask_bad_disk, &disk}});
        uint64_t start = clock_ns();
        for (uint32_t i = 0; i < 6; i++) {
            rig_use(&r, i);
        }
        assert_true(clock_ns() - start >= UINT64_C(600000000));
        /* An I/O thread may begin before this thread waits: most of it is here. */
        assert_true(prefetch_stall_ns(r.prefetch) >= UINT64_C(300000000));
        rig_close(&r);
    }
}

static void a_missing_file_is_an_error_at_open(void **state) {
    (void)state;
    char *file = copy_of("gone.corm");
    struct err err = {0};
    struct corm archive;
    struct cache cache;
    struct prefetch *p = NULL;
    corm_open(&archive, file, 0, &err);
    assert_no_err(&err);
    cache_open(&cache, &archive, CHUNKS * cache_slot_bytes(&archive, 0), &(struct cache_options){0},
               &err);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(prefetch_open(&p, &cache, &RIG_PLAIN, &err), -1);
    assert_err(&err, "gone.corm");
    cache_close(&cache);
    corm_close(&archive);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_truncated_file_is_named),
        cmocka_unit_test(a_corrupt_chunk_is_named),
        cmocka_unit_test(a_bad_packed_chunk_is_named),
        cmocka_unit_test(a_read_error_is_named_and_ends_the_run),
        cmocka_unit_test(a_disk_that_stalls_is_waited_for),
        cmocka_unit_test(a_missing_file_is_an_error_at_open),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
