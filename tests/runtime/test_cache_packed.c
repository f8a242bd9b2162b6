/*
 * The cache of expert chunks that are kept packed: which archives can be, and the sizes of slots.
 * All else about the cache is in test_cache.c.
 */
#include "runtime/cache.h"
#include "tests/util/test.h"
#include "tests/util/test_util_archive.h"

enum { LAYERS = 2, EXPERTS = 4 };

/* An archive of records of 70 neurons, the first chunk of them hot; its options are
 * archive_defaults' but for what is given. `encodings` becomes the set of those that it has, by
 * bits. */
static void open_archive(const char *dir, const char *codec, uint32_t chunk_neurons, bool compress,
                         bool compress_hot, struct corm *archive, unsigned *encodings) {
    struct arch a;
    struct err err = {0};
    archive_moe_arch(&a, LAYERS, EXPERTS, 70);
    a.dim = 384;
    struct archive_options o = archive_defaults("bf16", codec);
    o.chunk_neurons = chunk_neurons;
    o.hot_neurons = chunk_neurons;
    o.compress = compress ? CORM_COMPRESS_AUTO : CORM_COMPRESS_NONE;
    o.compress_hot = compress_hot;
    char *path = mem_printf("%s/kept.corm", dir);
    archive_write(path, &a, &o, NULL, &err);
    assert_no_err(&err);
    corm_open(archive, path, 0, &err);
    assert_no_err(&err);
    *encodings = 0;
    for (uint32_t i = 0; i < archive->n_chunks; i++) {
        *encodings |= 1u << archive->chunks[i].encoding;
    }
    free(path);
    arch_free(&a);
}

static void some_archives_can_be_kept_packed(void **state) {
    (void)state;
    enum {
        RAW = 1u << CORM_ENCODING_RAW,
        ZSTD = 1u << CORM_ENCODING_ZSTD,
        PLANES = 1u << CORM_ENCODING_PLANES,
        EXPONENTS = 1u << CORM_ENCODING_EXPONENTS,
    };
    static const struct {
        const char *codec;
        uint32_t chunk_neurons;
        bool compress, compress_hot;
        unsigned encodings;
        bool can;
    } cases[] = {
        {"bf16", 10, true, true, EXPONENTS, true},
        {"bf16", 10, true, false, RAW | EXPONENTS, true},
        {"bf16", 32, true, true, EXPONENTS, true},
        {"bf16", 33, true, true, EXPONENTS, false}, /* more than a block */
        {"bf16", 10, false, false, RAW, false},     /* nothing is smaller */
        {"f16", 10, true, true, PLANES, false},
        {"f16", 10, true, false, RAW | PLANES, false},
        {"f32", 10, true, true, ZSTD, false},
    };
    char *dir = test_mkdir();
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct corm archive;
        unsigned encodings;
        open_archive(dir, cases[i].codec, cases[i].chunk_neurons, cases[i].compress,
                     cases[i].compress_hot, &archive, &encodings);
        assert_int_equal(encodings, cases[i].encodings);
        assert_int_equal(cache_can_pack(&archive), cases[i].can);
        corm_close(&archive);
    }
    test_rmdir(dir);
}

static void slots_are_as_large_as_what_is_kept(void **state) {
    (void)state;
    char *dir = test_mkdir();
    for (int raw_hot = 0; raw_hot < 2; raw_hot++) {
        struct corm archive;
        unsigned encodings;
        open_archive(dir, "bf16", 10, true, !raw_hot, &archive, &encodings);
        size_t decoded = cache_slot_bytes(&archive, 0), most = 0;
        size_t packed = cache_slot_bytes(&archive, CACHE_PACKED);
        uint32_t n = archive.n_chunks, n_raw = raw_hot ? LAYERS * EXPERTS : 0;
        for (uint32_t i = 0; i < n; i++) {
            most = archive.chunks[i].stored_bytes > most ? archive.chunks[i].stored_bytes : most;
        }
        assert_int_equal(decoded, align_up(10 * archive.neuron_bytes, 64));
        assert_int_equal(packed, align_up(most, 64));
        /* A raw chunk among them needs its whole size, which is no matter to the others. */
        const struct cache_sizes sizes = cache_sizes(&archive, CACHE_PACKED);
        assert_true(raw_hot ? sizes.n > 1 && sizes.sizes[0].n == LAYERS * EXPERTS : sizes.n > 0);
        assert_true(cache_bytes_needed(&archive, CACHE_PACKED) <
                    cache_bytes_needed(&archive, 0) * 6 / 7);
        assert_true(raw_hot ? packed == decoded : packed < decoded * 3 / 4);
        assert_int_equal(n, LAYERS * EXPERTS * 7);
        assert_int_equal(cache_sizes(&archive, CACHE_ONE_SIZE).sizes[0].n, n);
        assert_int_equal(cache_sizes(&archive, CACHE_ONE_SIZE | CACHE_PACKED).sizes[0].n, n);
        assert_int_equal(cache_sizes(&archive, CACHE_ONE_SIZE | CACHE_IN_PLACE).sizes[0].n,
                         n - n_raw);
        assert_int_equal(cache_sizes(&archive, CACHE_IN_PLACE | CACHE_PACKED).n, 0);

        for (unsigned how = 0; how <= (CACHE_IN_PLACE | CACHE_PACKED); how++) {
            struct cache c;
            struct err err = {0};
            cache_open(&c, &archive, 3 * decoded, &(struct cache_options){.how = how}, &err);
            assert_no_err(&err);
            if (!(how & CACHE_PACKED)) {
                assert_int_equal(cache_slot(&c, 2) - cache_slot(&c, 0), 2 * (ptrdiff_t)decoded);
            }
            for (uint32_t i = 0; i < 7; i++) {
                bool raw = raw_hot && i == 0, in_place = how & CACHE_IN_PLACE;
                assert_int_equal(cache_is_packed(&c, i), how & CACHE_PACKED && !raw);
                assert_int_equal(cache_uses_slot(&c, i),
                                 !in_place || (!raw && !(how & CACHE_PACKED)));
            }
            cache_close(&c);
        }
        corm_close(&archive);
    }
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_archives_can_be_kept_packed),
        cmocka_unit_test(slots_are_as_large_as_what_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
