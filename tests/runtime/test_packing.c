/* packing: the estimate of what keeping experts packed is worth, and what it is measured on. */
#include "runtime/packing.h"

#include <math.h>

#include "kernels/cpu/exponents.h"
#include "tests/util/test.h"
#include "tests/util/test_util_archive.h"

/* Two threads, half of the experts. */
static const struct packing machine = {.room = 0.5,
                                       .ratio = 0.67,
                                       .disk_bytes_per_s = 2e9,
                                       .decode_bytes_per_s = 24e9,
                                       .compute_bytes_per_s = 24e9,
                                       .packed_bytes_per_s = 12e9};

static void a_slow_disk_pays_for_decoding(void **state) {
    (void)state;
    assert_true(packing_pays(&machine));
    struct packing slower = machine;
    slower.disk_bytes_per_s = 5e8;
    assert_true(packing_pays(&slower));
    /* Of a disk that is the only limit: the ratio of the misses. */
    double gain = packing_decoded_s(&slower) / packing_packed_s(&slower);
    assert_true(gain > 2.5 && gain < 3);
}

static void a_fast_disk_or_slow_decoding_does_not(void **state) {
    (void)state;
    struct packing p = machine;
    p.disk_bytes_per_s = 2e10;
    assert_false(packing_pays(&p));
    p = machine;
    p.packed_bytes_per_s = 2e9;
    assert_false(packing_pays(&p));
}

/* Math that decodes as it goes has less memory to read. */
static void faster_math_pays_for_itself(void **state) {
    (void)state;
    struct packing p = machine;
    p.disk_bytes_per_s = 1e12;
    assert_false(packing_pays(&p));
    p.packed_bytes_per_s = 25e9;
    assert_true(packing_pays(&p));
}

static void all_packed_experts_in_memory_are_read_no_more(void **state) {
    (void)state;
    struct packing p = machine;
    p.room = 0.7;
    p.disk_bytes_per_s = 1e6;
    assert_true(packing_packed_s(&p) == 1 / p.packed_bytes_per_s);
}

/* ---- measuring ------------------------------------------------------------------------------ */

enum { HOT = 32, COLD = 32, LEFT = 6 }; /* neurons of an expert's chunks */

/* An archive of bf16 experts, hot chunks raw and cold ones packed where it is compressed. Its bytes
 * are `data`, free(). */
static void open_archive(struct corm *c, bool compress, uint8_t **data) {
    char *dir = test_mkdir(), *path = mem_printf("%s/packing.corm", dir);
    struct arch a;
    archive_moe_arch(&a, 1, 2, HOT + COLD + LEFT);
    a.dim = 2 * CORM_EXPONENTS_BLOCK;
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.chunk_neurons = o.hot_neurons = HOT;
    o.compress = compress ? CORM_COMPRESS_AUTO : CORM_COMPRESS_NONE;
    struct err err = {0};
    size_t bytes;
    archive_write(path, &a, &o, NULL, &err);
    assert_no_err(&err);
    *data = archive_load(path, &bytes);
    corm_open_memory(c, *data, bytes, "packing.corm", 0, &err);
    assert_no_err(&err);
    assert_int_equal(corm_chunks_per_expert(c), 3);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

static void the_first_packed_chunk_is_the_sample(void **state) {
    (void)state;
    struct corm c;
    uint8_t *data;
    open_archive(&c, true, &data);
    const struct corm_chunk *sample = packing_sample(&c);
    assert_ptr_equal(sample, &c.chunks[1]);
    assert_int_equal(sample->encoding, CORM_ENCODING_EXPONENTS);
    /* Where it is damaged there is none, though others are whole. */
    data[sample->offset + sample->stored_bytes / 2] ^= 1;
    assert_null(packing_sample(&c));
    data[sample->offset + sample->stored_bytes / 2] ^= 1;
    data[c.chunks[2].offset] ^= 1;
    assert_ptr_equal(packing_sample(&c), sample);
    corm_close(&c);
    free(data);
    open_archive(&c, false, &data);
    assert_null(packing_sample(&c));
    corm_close(&c);
    free(data);
}

static void decoding_has_a_rate(void **state) {
    (void)state;
    struct corm c;
    uint8_t *data;
    open_archive(&c, true, &data);
    for (uint32_t i = 1; i <= 2; i++) { /* a whole chunk, and what is left */
        const struct exponents_isa *isa;
        double best = packing_decode_rate(&c, &c.chunks[i], NULL);
        assert_true(isfinite(best) && best > 1e6 && best < 1e12);
        for (size_t k = 0; (isa = exponents_isa_at(k)); k++) {
            double rate = isa->usable() ? packing_decode_rate(&c, &c.chunks[i], isa->name) : 1e9;
            assert_true(isfinite(rate) && rate > 1e6 && rate < 1e12);
        }
    }
    corm_close(&c);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_disk_pays_for_decoding),
        cmocka_unit_test(a_fast_disk_or_slow_decoding_does_not),
        cmocka_unit_test(faster_math_pays_for_itself),
        cmocka_unit_test(all_packed_experts_in_memory_are_read_no_more),
        cmocka_unit_test(the_first_packed_chunk_is_the_sample),
        cmocka_unit_test(decoding_has_a_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
