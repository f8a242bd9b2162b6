/* packing: the estimate of what keeping experts packed is worth. */
#include "runtime/packing.h"
#include "tests/test.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_disk_pays_for_decoding),
        cmocka_unit_test(a_fast_disk_or_slow_decoding_does_not),
        cmocka_unit_test(faster_math_pays_for_itself),
        cmocka_unit_test(all_packed_experts_in_memory_are_read_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
