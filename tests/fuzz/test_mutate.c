/*
 * The mutator itself: what it repairs is right, what it draws comes again, and what programs must
 * not do is found.
 */
#include "tests/util/test.h"

#include "format/corm_read.h"
#include "tests/fuzz/mutate.h"
#include "tests/util/test_util_archive.h"

static char *small_archive(const char *dir) {
    char *path = mem_printf("%s/small.corm", dir);
    struct corm_write_stats stats;
    struct archive_options o = archive_defaults("bf16", "f16");
    struct err err = {0};
    struct arch a;
    archive_moe_arch(&a, 2, 3, 12);
    archive_write(path, &a, &o, &stats, &err);
    assert_no_err(&err);
    arch_free(&a);
    return path;
}

/* Taken apart and put together, an archive is what it was. */
static void test_round_trip(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = small_archive(dir);
    struct image m, copy;
    struct flat f;
    size_t bytes;
    uint8_t *data = archive_load(path, &bytes);
    image_open(&m, path);
    image_copy(&copy, &m);
    assert_true(image_assemble(&copy, &f));
    assert_int_equal(f.bytes, bytes);
    assert_memory_equal(f.data, data, bytes);
    flat_write(&f, path);
    flat_free(&f);
    size_t again_bytes;
    uint8_t *again = archive_load(path, &again_bytes);
    assert_int_equal(again_bytes, bytes);
    assert_memory_equal(again, data, bytes);
    free(again);
    free(data);
    image_free(&copy);
    image_free(&m);
    free(path);
    test_rmdir(dir);
}

/* A chunk of other bytes moves those behind it, and the archive opens. */
static void test_set_chunk(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = small_archive(dir);
    uint8_t other[1 << 12] = {0};
    struct image m;
    struct image_index x;
    struct flat f;
    struct corm c;
    struct err err = {0};
    image_open(&m, path);
    assert_true(image_index(&m, &x));
    uint32_t i = 0;
    while (x.chunks[i].encoding != CORM_ENCODING_PLANES) {
        assert_true(++i < x.header->n_chunks);
    }
    assert_true(x.chunks[i].stored_bytes <= sizeof other);
    image_set_chunk(&m, i, other, x.chunks[i].stored_bytes - 1);
    assert_true(image_assemble(&m, &f));
    corm_open_memory(&c, f.data, f.bytes, "x.corm", 0, &err);
    assert_no_err(&err);
    assert_int_equal(corm_verify(&c, NULL, NULL, &err), -1);
    assert_err(&err, "chunk");
    assert_null(strstr(err.msg, "checksum"));
    corm_close(&c);
    flat_free(&f);
    image_free(&m);
    free(path);
    test_rmdir(dir);
}

/* File `index` of a seed: its bytes, what was done, and what opening it says. */
struct made {
    uint64_t hash;
    struct buf log;
    bool opens;
    struct err err;
};
static struct made make(const struct image *base, uint64_t seed, uint64_t index) {
    struct made x = {0};
    struct mutate_rng r = mutate_rng(seed, index);
    struct image m;
    struct flat f = {0};
    image_copy(&m, base);
    mutate_archive(&m, &r, &x.log);
    if (image_assemble(&m, &f)) {
        struct corm c;
        x.hash = hash64(f.data, f.bytes);
        x.opens = corm_open_memory(&c, f.data, f.bytes, "x.corm", 0, &x.err) == 0;
        corm_close(&c);
    }
    flat_free(&f);
    image_free(&m);
    return x;
}

/* No checksum is wrong, so that each change gets to what reads it: some are refused there, some
 * accepted. The same seed gives the same file. */
static void test_repaired(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = small_archive(dir);
    enum { FILES = QUICK ? 40 : 120 };
    uint32_t opened = 0, refused = 0, alike = 0;
    struct image base;
    image_open(&base, path);
    for (uint64_t i = 0; i < FILES; i++) {
        struct made x = make(&base, 7, i), other = make(&base, 8, i);
        opened += x.opens;
        refused += x.err.set;
        alike += x.hash == other.hash;
        assert_true(x.log.len > 0 || !x.err.set);
        if (x.err.set && strstr(x.err.msg, "checksum")) {
            fail_msg("file %d: %s\n%s", (int)i, x.err.msg, x.log.data);
        }
        if (i % 8 == 0) {
            struct made again = make(&base, 7, i);
            assert_int_equal(again.hash, x.hash);
            buf_free(&again.log);
        }
        buf_free(&x.log);
        buf_free(&other.log);
    }
    print_message("%u opened, %u refused\n", opened, refused);
    assert_true(opened > FILES / 5 && refused > FILES / 5 && alike < FILES / 5);
    image_free(&base);
    free(path);
    test_rmdir(dir);
}

/* ---- judgement ---- */

static const struct judged {
    const char *script, *why; /* NULL: it is allowed */
    uint32_t wall_s;
} judged[] = {
    {"exit 0", NULL, 60},
    {"echo 'sh: file.corm: bad' >&2; exit 1", NULL, 60},
    {"echo 'model    x' >&2; echo 'sh: file.corm: bad' >&2; exit 1", NULL, 60},
    {"echo 'sh: a context of 4 tokens' >&2; echo 'sh: file.corm: bad' >&2; exit 1", NULL, 60},
    {"echo 'sh: file.corm: bad' >&2; echo 'sh: a context of 4 tokens' >&2; exit 1",
     "expected one, the last", 60},
    {"exit 1", "0 lines", 60},
    {"echo 'sh: file.corm: bad' >&2; echo 'sh: file.corm: worse' >&2; exit 1", "2 lines", 60},
    {"echo 'sh: file.corm: bad' >&2; echo more >&2; exit 1", "expected one, the last", 60},
    {"echo 'sh: bad' >&2; exit 1", "does not name file.corm", 60},
    {"exit 2", "exit status 2", 60},
    {"kill -SEGV $$", "signal 11", 60},
    {"echo 'x.c:1:2: runtime error: y' >&2", "runtime error: y", 60},
    {"echo '==1==ERROR: LeakSanitizer: z' >&2; exit 99", "LeakSanitizer: z", 60},
    {"while :; do :; done", "takes more than 1 s", 60},
    {"sleep 30", "still runs after 1 s", 1},
    {"x=$(head -c 60000000 /dev/zero | tr '\\0' a)", "KiB of memory", 60},
    {"echo 'memory   trunk 1 B: 300.0 MiB of 1 GiB' >&2; x=$(head -c 60000000 /dev/zero | tr '\\0' "
     "a)",
     NULL, 60},
};

static void test_judged(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(judged); i++) {
        char sh[] = "/bin/sh", c[] = "-c", *script = mem_strdup(judged[i].script);
        char *const argv[] = {sh, c, script, NULL};
        bool takes_memory = strstr(judged[i].script, "head -c") != NULL;
        struct mutate_limits limits = {.cpu_s = takes_memory ? 30 : 1,
                                       .wall_s = judged[i].wall_s,
                                       .beside_plan = 8 << 20,
                                       .without_plan = 32 << 20};
        struct mutate_outcome o;
        if (QUICK) { /* a sanitizer has memory of its own, which would count as the program's */
            limits.beside_plan = 0;
            if (strstr(judged[i].script, "head -c")) {
                free(script);
                continue;
            }
        }
        mutate_run(argv, "file.corm", &limits, &o);
        const char *why = judged[i].why;
        if (o.ok != !why || (why && !strstr(o.why, why))) {
            fail_msg("%s: %s, expected %s", script, o.ok ? "allowed" : o.why,
                     why ? why : "that it is allowed");
        }
        buf_free(&o.out);
        buf_free(&o.said);
        free(script);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_set_chunk),
        cmocka_unit_test(test_repaired),
        cmocka_unit_test(test_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
