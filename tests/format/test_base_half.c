/*
 * base: the half and bfloat16 conversions, compared with an oracle in double arithmetic and, where
 * the machine has it, with F16C.
 */
#include "tests/util/test.h"

#include <math.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The value of a half by its definition, in double. */
static double f16_oracle(uint16_t h) {
    int exp = (h >> 10) & 0x1f, mant = h & 0x3ff;
    double v = exp == 0x1f ? (mant ? NAN : INFINITY)
                           : ldexp(exp ? 1024 + mant : mant, (exp ? exp : 1) - 25);
    return h & 0x8000 ? -v : v;
}

/* The half nearest to a finite float, ties to the even one, by scaling to units of the last place
 * in double, where nearbyint rounds just so. */
static uint16_t f16_nearest(float f) {
    double x = fabs((double)f);
    uint16_t sign = signbit(f) ? 0x8000 : 0;
    int exp;
    frexp(x, &exp);
    int ulp = exp - 11 > -24 ? exp - 11 : -24;
    double rounded = ldexp(nearbyint(ldexp(x, -ulp)), ulp);
    if (rounded >= 65536) {
        return sign | 0x7c00;
    }
    if (rounded < 0x1p-14) {
        return sign | (uint16_t)ldexp(rounded, 24);
    }
    frexp(rounded, &exp);
    return sign | (uint16_t)(((exp + 14) << 10) + (int)(ldexp(rounded, 11 - exp) - 1024));
}

static void f16_widens_every_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float got = f16_to_f32((uint16_t)h);
        double want = f16_oracle((uint16_t)h);
        if (isnan(want)) {
            assert_true(isnan(got));
        } else {
            assert_true(got == want && !signbit(got) == !signbit(want));
            assert_int_equal(f32_to_f16(got), h); /* and back */
        }
    }
}

static void check_narrowing(uint32_t u) {
    float f = float_of(u);
    uint16_t half = f32_to_f16(f), bf = f32_to_bf16(f);
    if (isnan(f)) {
        assert_true((half & 0x7c00) == 0x7c00 && (half & 0x3ff));
        assert_true((bf & 0x7f80) == 0x7f80 && (bf & 0x7f));
        assert_int_equal(half >> 15, u >> 31);
        assert_int_equal(bf >> 15, u >> 31);
        return;
    }
    uint16_t want = isinf(f) ? (uint16_t)((u >> 31) << 15 | 0x7c00) : f16_nearest(f);
    if (half != want) {
        print_error("f32_to_f16(%08x) = %04x, expected %04x\n", u, half, want);
        fail();
    }
    /* The bfloat16 neighbours of f are its bits cut and the next one up. */
    uint32_t low = u & 0xffff0000, rest = u & 0xffff;
    bool up = rest > 0x8000 || (rest == 0x8000 && (u >> 16 & 1));
    assert_int_equal(bf, (low >> 16) + up);
}

static void f16_and_bf16_narrow(void **state) {
    (void)state;
    /* Around every half: itself, the midpoints to its neighbours, and one float to each side. */
    for (uint32_t h = 0; h < 0x7c00; h++) {
        uint32_t a = bits_of((float)f16_oracle((uint16_t)h));
        uint32_t b = bits_of(h == 0x7bff ? 65536.0f : (float)f16_oracle((uint16_t)(h + 1)));
        uint32_t middle = bits_of((float)(((double)float_of(a) + (double)float_of(b)) / 2));
        for (uint32_t sign = 0; sign < 2; sign++) {
            for (int32_t d = -1; d <= 1; d++) {
                if (a || d >= 0) {
                    check_narrowing((a + (uint32_t)d) | sign << 31);
                }
                check_narrowing((middle + (uint32_t)d) | sign << 31);
            }
        }
    }
    /* A prime stride through all 2^32 floats, and random ones. */
    for (uint64_t u = 0; u <= UINT32_MAX; u += 4099) {
        check_narrowing((uint32_t)u);
    }
    struct test_rng rng = {4};
    for (int i = 0; i < 1000000; i++) {
        check_narrowing((uint32_t)test_u64(&rng));
    }
    /* The ends: largest finite, the tie to infinity, infinities, NaNs, smallest subnormals. */
    static const uint32_t ends[] = {0,          0x80000000, 0x477fefff, 0x477ff000, 0x477ff001,
                                    0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x7f800000, 0x7f800001,
                                    0x7fbfffff, 0x7fc00000, 0x7fffffff, 0x33000000, 0x33000001,
                                    0x32ffffff, 0x387fc000, 0x387fe000, 0x387fffff, 1};
    for (size_t i = 0; i < TEST_COUNT(ends); i++) {
        check_narrowing(ends[i]);
        check_narrowing(ends[i] | 0x80000000);
    }
    assert_int_equal(f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(1.0f), 0x3c00);
    assert_int_equal(f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
    assert_true(bf16_to_f32(0xc040) == -3.0f);
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static void compare_f16c(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        assert_int_equal(bits_of(f16_to_f32((uint16_t)h)), bits_of(_cvtsh_ss((uint16_t)h)));
    }
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021) {
        float f = float_of((uint32_t)u);
        uint16_t want = (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
        if (f32_to_f16(f) != want) {
            print_error("f32_to_f16(%08x): expected %04x\n", (uint32_t)u, want);
            fail();
        }
    }
}
#endif

static void f16_equals_the_hardware(void **state) {
    (void)state;
#if defined(__x86_64__)
    unsigned a, b, c, d; /* clang's __builtin_cpu_supports does not know "f16c" */
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && __builtin_cpu_supports("avx")) {
        compare_f16c(); /* bit for bit, NaN payloads too */
        return;
    }
#endif
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_widens_every_half),
        cmocka_unit_test(f16_and_bf16_narrow),
        cmocka_unit_test(f16_equals_the_hardware),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
