/*
 * The chunk encoding of exponents: what is packed comes back bit for bit, with every decoder there
 * is, whatever the weights; products with packed rows are those with decoded ones; stored bytes
 * that are not such a chunk are refused; nothing outside of them is read, refused or not.
 * tests/golden/read_corm.py is the other reader of it.
 *
 * `test_exponents --write-seeds DIR` writes what fuzz_exponents starts from.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_chunk.h"
#include "format/corm_exponents.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/exponents.h"

/* Usable decoder i of this machine; NULL past the last. */
static const struct exponents_isa *decoder_at(size_t i) {
    static const struct exponents_isa *usable[8]; /* asking the processor takes long */
    const struct exponents_isa *found[8];
    const struct exponents_isa *isa;
    size_t n = 0;
    for (size_t k = 0; !usable[0] && (isa = exponents_isa_at(k)) != NULL; k++) {
        found[n] = isa;
        n += isa->usable();
        assert_true(n < TEST_COUNT(found));
    }
    if (n > 0) {
        memcpy(usable, found, n * sizeof *usable);
    }
    return usable[i];
}

/* ---- weights ---- */

/* Ways to make up weights; `n` of them follow from the generator. */
static uint16_t normal(struct test_rng *rng, size_t i) {
    (void)i;
    return f32_to_bf16(0.02f * (test_f32(rng) + test_f32(rng) + test_f32(rng) + test_f32(rng)));
}
static uint16_t any(struct test_rng *rng, size_t i) {
    (void)i;
    return (uint16_t)test_u64(rng);
}
static uint16_t equal(struct test_rng *rng, size_t i) {
    (void)rng;
    (void)i;
    return 0x3c80;
}
static uint16_t one_of_two(struct test_rng *rng, size_t i) {
    (void)i;
    return test_u64(rng) & 1 ? 0x7fc1 : 0x8000; /* a NaN, minus zero */
}
/* Ten exponents alike: one of them is a literal. */
static uint16_t one_of_ten(struct test_rng *rng, size_t i) {
    (void)i;
    return (uint16_t)((test_u64(rng) % 10 + 100) << 7 | (test_u64(rng) & 0x807f));
}
/* Blocks without a code past the first list, and blocks of literals alone. */
static uint16_t by_turns(struct test_rng *rng, size_t i) {
    uint64_t exponent = i / 64 % 3 ? 120 + test_u64(rng) % 3 : test_u64(rng) & 0xff;
    return (uint16_t)(exponent << 7 | (test_u64(rng) & 0x807f));
}
/* All patterns there are, each once in 65536. */
static uint16_t in_turn(struct test_rng *rng, size_t i) {
    (void)rng;
    return (uint16_t)(i * 40503u);
}

static const struct {
    const char *name;
    uint16_t (*make)(struct test_rng *rng, size_t i);
} kinds[] = {{"normal", normal},         {"any", any},
             {"equal", equal},           {"one of two", one_of_two},
             {"one of ten", one_of_ten}, {"by turns", by_turns},
             {"in turn", in_turn}};

static void make(size_t kind, uint64_t seed, size_t n, uint8_t *raw) {
    struct test_rng rng = {seed};
    for (size_t i = 0; i < n; i++) {
        uint16_t v = kinds[kind].make(&rng, i);
        memcpy(raw + 2 * i, &v, sizeof v);
    }
}

/* The packed bytes in memory that ends with them. */
static uint8_t *pack(const uint8_t *raw, size_t n, size_t *bytes) {
    uint8_t *out = test_guard(corm_exponents_bound(n));
    *bytes = corm_exponents_pack(raw, n, out);
    assert_true(*bytes >= corm_exponents_least(n) && *bytes <= corm_exponents_bound(n));
    uint8_t *stored = test_guard(*bytes);
    memcpy(stored, out, *bytes);
    test_guard_free(out, corm_exponents_bound(n));
    return stored;
}

/* ---- round trips ---- */

/* All at once, and in pieces of one, two, three ... blocks. */
static void check_decoders(const char *what, const uint8_t *raw, size_t n, const uint8_t *stored,
                           size_t bytes) {
    uint8_t *out = test_guard(2 * n);
    const struct exponents_isa *d;
    for (size_t i = 0; (d = decoder_at(i)) != NULL; i++) {
        for (int pieces = 0; pieces < 2; pieces++) {
            memset(out, 0xa5, 2 * n);
            struct corm_exponents e = corm_exponents_open(stored, bytes, n);
            size_t step = pieces ? CORM_EXPONENTS_BLOCK : n;
            for (size_t at = 0; at < n; step += CORM_EXPONENTS_BLOCK) {
                step = step < n - at ? step : n - at;
                d->decode(&e, step, out + 2 * at);
                at += step;
            }
            if (memcmp(raw, out, 2 * n) != 0) {
                fail_msg("%s: %zu weights, '%s'%s: not what was packed", d->name, n, what,
                         pieces ? ", in pieces" : "");
            }
        }
    }
    test_guard_free(out, 2 * n);
}

static void round_trip(size_t kind, uint64_t seed, size_t n) {
    uint8_t *raw = test_guard(2 * n);
    make(kind, seed, n, raw);
    size_t bytes;
    uint8_t *stored = pack(raw, n, &bytes);
    struct err err = {0};
    corm_exponents_check(stored, bytes, n, &err);
    assert_no_err(&err);
    check_decoders(kinds[kind].name, raw, n, stored, bytes);
    test_guard_free(stored, bytes);
    test_guard_free(raw, 2 * n);
}

static void test_round_trip(void **state) {
    (void)state;
    for (size_t kind = 0; kind < TEST_COUNT(kinds); kind++) {
        for (size_t n = 1; n < 200; n++) {
            round_trip(kind, n, n);
        }
        for (size_t n = 65536; n < 65536 + 3 * 64; n += 31) {
            round_trip(kind, n, n);
        }
    }
}

/* ---- products with rows ---- */

/* The table whose bits a decoder's products with rows have. */
static const struct dot_codec *same_products(const struct exponents_isa *d) {
    const struct dot_isa *const tables[] = {
        &dot_ref,
#ifdef __x86_64__
        &dot_avx2,
        &dot_avx512,
#endif
    };
    for (size_t i = 0; i < TEST_COUNT(tables); i++) {
        if (strcmp(tables[i]->name, d->name) == 0) {
            return &tables[i]->codec[CODEC_BF16];
        }
    }
    fail_msg("%s: no such table of products", d->name);
    return NULL;
}

/* The same bits, or NaNs both. */
static bool same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) != 0 && (a[i] == a[i] || b[i] == b[i])) {
            return false;
        }
    }
    return true;
}

/* Neurons one by one and as many as may be at a time, and between. */
static void check_rows(const struct exponents_isa *d, size_t kind, uint32_t cols, uint32_t n) {
    const size_t n_weights = (size_t)cols * 3 * n, row_bytes = 2 * (size_t)cols;
    const struct dot_codec *want = same_products(d);
    struct test_rng rng = {cols + n};
    uint8_t *raw = test_guard(2 * n_weights);
    uint8_t *scratch = test_guard(exponents_scratch_bytes(n_weights));
    float *x = test_guard(4 * cols), *y = test_guard(4 * cols), *sum = test_guard(4 * cols);
    make(kind, cols, n_weights, raw);
    for (uint32_t i = 0; i < cols; i++) {
        x[i] = test_f32(&rng);
        y[i] = sum[i] = test_f32(&rng);
    }
    size_t bytes;
    uint8_t *stored = pack(raw, n_weights, &bytes);
    struct corm_exponents e = corm_exponents_open(stored, bytes, n_weights);
    struct exponents_rows rows = d->rows_open(&e, cols, scratch, n % 2 == 1);
    struct exponents_rows downs[EXPONENTS_TOGETHER_MAX];
    bool same = true;
    for (uint32_t i = 0, run; i < n; i += run) {
        enum { MOST = EXPONENTS_TOGETHER_MAX };
        float gate[MOST], up[MOST], a[MOST];
        run = 1 + (uint32_t)(test_u64(&rng) % MOST);
        run = run < n - i ? run : n - i;
        for (uint32_t k = 0; k < run; k++) {
            a[k] = test_f32(&rng);
        }
        d->gates_ups(&rows, run, x, gate, up, downs);
        d->add_downs(downs, run, a, y);
        for (uint32_t k = 0; k < run; k++) {
            const uint8_t *here = raw + 3 * (i + k) * row_bytes;
            struct dot_rows both = {here, row_bytes, 2, cols, 0, 0};
            struct dot_rows down = {here + 2 * row_bytes, row_bytes, 1, cols, 0, 0};
            float dots[2], got[2] = {gate[k], up[k]};
            want->dot(&both, x, dots);
            want->axpy(&down, &a[k], sum);
            same = same && same_floats(got, dots, 2);
        }
        same = same && same_floats(y, sum, cols);
        if (!same) {
            fail_msg("%s: '%s', up to neuron %u of %u, %u columns: other products than of decoded "
                     "rows",
                     d->name, kinds[kind].name, i, n, cols);
        }
    }
    test_guard_free(stored, bytes);
    test_guard_free(raw, 2 * n_weights);
    test_guard_free(scratch, exponents_scratch_bytes(n_weights));
    test_guard_free(x, 4 * cols);
    test_guard_free(y, 4 * cols);
    test_guard_free(sum, 4 * cols);
}

static void test_rows(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{64, 1},  {64, 2},    {128, 7}, {192, 32},
                                         {576, 9}, {1024, 32}, {8192, 1}};
    const struct exponents_isa *d;
    for (size_t i = 0; (d = decoder_at(i)) != NULL; i++) {
        for (size_t kind = 0; d->rows_open && kind < TEST_COUNT(kinds); kind++) {
            for (size_t k = 0; k < TEST_COUNT(shapes); k++) {
                check_rows(d, kind, shapes[k][0], shapes[k][1]);
            }
        }
    }
}

/* ---- size ---- */

/* What a perfect code of one exponent at a time would take, with the low bytes. */
static double entropy_bytes(const uint8_t *raw, size_t n) {
    uint32_t counts[256] = {0};
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, raw + 2 * i, sizeof v);
        counts[v >> 7 & 0xff]++;
    }
    double bits = 8.0 * (double)n;
    for (int x = 0; x < 256; x++) {
        bits += counts[x] ? counts[x] * log2((double)n / counts[x]) : 0;
    }
    return bits / 8;
}

/* The cascade comes near the entropy of what weights look like. */
static void test_size(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    uint8_t *raw = mem_alloc(2 * N);
    make(0, 1, N, raw);
    size_t bytes;
    uint8_t *stored = pack(raw, N, &bytes);
    double least_bytes = entropy_bytes(raw, N);
    print_message("normal weights: %.4f of raw, entropy %.4f\n", (double)bytes / (2.0 * N),
                  least_bytes / (2.0 * N));
    assert_true((double)bytes > least_bytes && (double)bytes < 1.02 * least_bytes);
    test_guard_free(stored, bytes);
    free(raw);
}

/* Never planes, even where they are smaller: experts are kept packed in exponents or not at all. */
static void test_choice(void **state) {
    (void)state;
    enum { N = 4096 };
    struct corm_packer *p = corm_packer_new(codec_by_name("bf16"));
    uint8_t *raw = mem_alloc(2 * N);
    for (size_t kind = 0; kind < TEST_COUNT(kinds); kind++) {
        make(kind, kind, N, raw);
        size_t planes = corm_packer_pack_as(p, CORM_ENCODING_PLANES, raw, 2 * N).bytes;
        size_t exponents = corm_packer_pack_as(p, CORM_ENCODING_EXPONENTS, raw, 2 * N).bytes;
        struct corm_packed chosen = corm_packer_pack(p, CORM_COMPRESS_AUTO, raw, 2 * N);
        print_message("%s: planes %zu, exponents %zu of %d\n", kinds[kind].name, planes, exponents,
                      2 * N);
        assert_int_equal(chosen.encoding, CORM_ENCODING_EXPONENTS);
        assert_int_equal(chosen.bytes, exponents);
        if (kinds[kind].make == equal) {
            assert_true(planes < exponents);
            assert_true((double)exponents < 0.65 * (2 * N));
        }
    }
    corm_packer_free(p);
    free(raw);
}

/* ---- what is not such a chunk ---- */

static void expect_refused(const uint8_t *stored, size_t bytes, size_t n, const char *why) {
    struct err err = {0};
    uint8_t *copy = test_guard(bytes); /* whatever it says, nothing behind it is read */
    memcpy(copy, stored, bytes);
    assert_int_equal(corm_exponents_check(copy, bytes, n, &err), -1);
    assert_err(&err, "exponents", why);
    test_guard_free(copy, bytes);
}

static void test_wrong_sizes(void **state) {
    (void)state;
    enum { N = 1000 };
    uint8_t raw[2 * N];
    make(0, 1, N, raw);
    size_t bytes;
    uint8_t *stored = pack(raw, N, &bytes);
    uint8_t *longer = mem_calloc(1, bytes + 64);
    memcpy(longer, stored, bytes);
    for (size_t cut = 1; cut < bytes; cut++) {
        expect_refused(stored, bytes - cut, N, "bytes");
    }
    for (size_t more = 1; more <= 64; more++) {
        expect_refused(longer, bytes + more, N, "expected");
    }
    expect_refused(stored, bytes, N + 100, "expected");
    expect_refused(stored, bytes, N - 100, "expected");
    expect_refused(stored, bytes, 0, "0 weights");
    static const uint32_t counts[] = {0, 1, N, N + 1, 1u << 20, UINT32_MAX};
    for (size_t field = 0; field < 3; field++) {
        for (size_t i = 0; i < TEST_COUNT(counts); i++) {
            memcpy(longer, stored, bytes);
            memcpy(longer + 4 * field, &counts[i], 4);
            expect_refused(longer, bytes, N, "expected");
        }
    }
    free(longer);
    test_guard_free(stored, bytes);
}

/* One bit wrong: refused, or other weights, but decoded within bounds. */
static void test_flipped(void **state) {
    (void)state;
    for (size_t kind = 0; kind < TEST_COUNT(kinds); kind++) {
        enum { N = 500 };
        uint8_t raw[2 * N];
        make(kind, 3, N, raw);
        size_t bytes, refused = 0;
        uint8_t *stored = pack(raw, N, &bytes), *out = test_guard(2 * N);
        bool nine = stored[20] != 0; /* with fewer exponents some bytes mean nothing */
        for (size_t bit = 0; bit < 8 * bytes; bit++) {
            struct err err = {0};
            stored[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (corm_exponents_check(stored, bytes, N, &err) == 0) {
                const struct exponents_isa *d;
                for (size_t i = 0; (d = decoder_at(i)) != NULL; i++) {
                    struct corm_exponents e = corm_exponents_open(stored, bytes, N);
                    d->decode(&e, N, out);
                    assert_true(memcmp(out, raw, 2 * N) != 0 || !nine);
                }
            } else {
                assert_true(err.set);
                refused++;
            }
            stored[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_true(refused >= 8 * 12 + 8 * 43); /* counts, reserved bytes */
        test_guard_free(stored, bytes);
        test_guard_free(out, 2 * N);
    }
}

/* ---- what was checked, and is something else by now ---- */

/* All codes 3, which uses up lists and literals the fastest; or anything. */
static void scribble(struct test_rng *rng, bool threes, uint8_t *stored, size_t bytes) {
    for (size_t i = 64; i < bytes; i++) {
        stored[i] = threes ? 0xff : (uint8_t)test_u64(rng);
    }
}

/* All decoders alike, block by block, with other bytes for each block; none leaves the bytes. */
static void decode_changing(struct test_rng *rng, uint8_t *stored, size_t bytes, size_t n,
                            bool threes) {
    uint8_t *out[2] = {test_guard(2 * n), test_guard(2 * n)};
    const struct exponents_isa *d;
    uint64_t seed = test_u64(rng);
    for (size_t i = 0; (d = decoder_at(i)) != NULL; i++) {
        struct test_rng same = {seed};
        struct corm_exponents e = corm_exponents_open(stored, bytes, n);
        for (size_t at = 0; at < n; at += CORM_EXPONENTS_BLOCK) {
            scribble(&same, threes, stored, bytes);
            size_t rest = n - at < CORM_EXPONENTS_BLOCK ? n - at : CORM_EXPONENTS_BLOCK;
            d->decode(&e, rest, out[i > 0] + 2 * at);
        }
        if (i > 0) {
            assert_memory_equal(out[0], out[1], 2 * n);
        }
    }
    test_guard_free(out[0], 2 * n);
    test_guard_free(out[1], 2 * n);
}

/* Walks over neurons whose rows are of one block stay inside the bytes as well, and inside their
 * scratch. */
static void walk_changing(struct test_rng *rng, uint8_t *stored, size_t bytes, size_t n,
                          bool threes) {
    enum { COLS = CORM_EXPONENTS_BLOCK };
    float x[COLS] = {0}, y[COLS] = {0};
    const struct exponents_isa *d;
    for (size_t i = 0; (d = decoder_at(i)) != NULL; i++) {
        if (!d->rows_open) {
            continue;
        }
        uint8_t *scratch = test_guard(exponents_scratch_bytes(n));
        scribble(rng, threes, stored, bytes);
        struct corm_exponents e = corm_exponents_open(stored, bytes, n);
        struct exponents_rows rows = d->rows_open(&e, COLS, scratch, true);
        for (uint32_t at = 0, neurons = (uint32_t)(n / COLS / 3), run; at < neurons; at += run) {
            struct exponents_rows downs[EXPONENTS_TOGETHER_MAX];
            float gate[EXPONENTS_TOGETHER_MAX] = {0}, up[EXPONENTS_TOGETHER_MAX];
            run = 1 + (uint32_t)(test_u64(rng) % EXPONENTS_TOGETHER_MAX);
            run = run < neurons - at ? run : neurons - at;
            scribble(rng, threes, stored, bytes);
            d->gates_ups(&rows, run, x, gate, up, downs);
            scribble(rng, threes, stored, bytes);
            d->add_downs(downs, run, gate, y);
        }
        test_guard_free(scratch, exponents_scratch_bytes(n));
    }
}

static void test_changed_meanwhile(void **state) {
    (void)state;
    /* The last ones are of whole neurons, whose walks end where the chunk does. */
    static const size_t sizes[] = {1, 63, 64, 65, 128, 1000, 3 * 64, 9 * 64, 51 * 64};
    struct test_rng rng = {1};
    for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
        size_t n = sizes[i];
        const uint32_t counts[] = {0, 1, (uint32_t)n, 1u << 30, UINT32_MAX};
        enum { COUNTS = TEST_COUNT(counts) };
        size_t least = corm_exponents_least(n), bound = corm_exponents_bound(n);
        for (size_t bytes = least; bytes <= bound; bytes += 1 + (bound - least) / 5) {
            uint8_t *stored = test_guard(bytes);
            for (size_t c = 0; c < COUNTS * COUNTS * COUNTS; c++) {
                memset(stored, 0xff, 64);
                memcpy(stored, &counts[c % COUNTS], 4);
                memcpy(stored + 4, &counts[c / COUNTS % COUNTS], 4);
                memcpy(stored + 8, &counts[c / COUNTS / COUNTS], 4);
                decode_changing(&rng, stored, bytes, n, c % 2);
                walk_changing(&rng, stored, bytes, n, c % 2);
            }
            test_guard_free(stored, bytes);
        }
    }
}

/* As fuzz_exponents reads them: the number of weights less 1, stored bytes. */
static void write_seeds(const char *dir) {
    for (size_t kind = 0; kind < TEST_COUNT(kinds); kind++) {
        const size_t n = 60 + 50 * kind;
        uint8_t raw[2 * 600];
        make(kind, kind, n, raw);
        size_t bytes;
        uint8_t *stored = pack(raw, n, &bytes), *seed = mem_alloc(2 + bytes);
        seed[0] = (uint8_t)(n - 1);
        seed[1] = (uint8_t)((n - 1) >> 8);
        memcpy(seed + 2, stored, bytes);
        char name[32];
        snprintf(name, sizeof name, "%s", kinds[kind].name);
        for (char *p = name; *p; p++) {
            *p = *p == ' ' ? '-' : *p;
        }
        free(test_write(dir, name, seed, 2 + bytes));
        test_guard_free(stored, bytes);
        free(seed);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        write_seeds(argv[2]);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_wrong_sizes),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_changed_meanwhile),
    };
    return cmocka_run_group_tests_name("exponents", tests, NULL, NULL);
}
