/*
 * hf_numbers: each number format beside what transformers and compressed-tensors make of the same
 * bytes, whole and in pieces; scales that are missing, of another dtype or shape, or no scales;
 * what is told of a format.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf_numbers.h"
#include "tests/util/test_util_tensors.h"

/* ---- beside other programs ---- */

static const struct golden_case {
    const char *name, *format;
    struct hf_blocks blocks; /* as config.json says */
    enum codec_id codec;
    bool kept;
} cases[] = {
    {"codes.weight", "F8_E4M3", {.rows = 128, .cols = 128}, CODEC_F32, false},
    {"blocks.weight", "F8_E4M3", {.rows = 8, .cols = 8}, CODEC_F32, false},
    {"blocks.weight", "F8_E4M3", {0}, CODEC_F32, false}, /* as transformers finds them out */
    {"tensor.weight", "F8_E4M3", {0}, CODEC_F32, false},
    {"experts.weight", "F8_E4M3", {.rows = 4, .cols = 4}, CODEC_F32, false},
    {"halves.weight", "F8_E4M3", {0}, CODEC_F32, false},
    {"powers.weight", "F8_E4M3", {.rows = 4, .cols = 8}, CODEC_F32, false},
    {"bytes.weight", "F8_E4M3", {.rows = 4, .cols = 8}, CODEC_F32, false},
    {"partial.weight", "F8_E4M3", {.rows = 8, .cols = 16}, CODEC_F32, false},
    {"rows.weight", "F8_E4M3", {0}, CODEC_F32, false},
    {"divided.weight", "NVFP4", {0}, CODEC_F32, false},
    {"multiplied.weight", "NVFP4", {.rows = 128, .cols = 128}, CODEC_F32, false},
    {"groups.weight", "MXFP4", {0}, CODEC_BF16, true},
    {"moe.weight_blocks", "MXFP4", {0}, CODEC_BF16, true},
};

/* What [first, first + n) of the numbers are, to the bit. */
static void check_run(const struct hf_numbers *n, const float *want, uint64_t first,
                      uint64_t count) {
    struct err err = {0};
    float *got = test_guard(count * sizeof *got);
    assert_int_equal(hf_numbers_read(n, first, count, got, &err), 0);
    for (uint64_t i = 0; i < count; i++) {
        if (memcmp(&got[i], &want[first + i], sizeof *got) != 0) {
            fail_msg("%s: number %llu is %.9g, expected %.9g", n->tensor->name,
                     (unsigned long long)(first + i), (double)got[i], (double)want[first + i]);
        }
    }
    test_guard_free(got, count * sizeof *got);
}

static struct {
    uint64_t bytes;
    uint32_t calls;
} advised;

static void advise(const struct st_tensor *t, uint64_t first, uint64_t bytes) {
    assert_true(first + bytes <= t->bytes && bytes > 0);
    advised.bytes += bytes;
    advised.calls++;
}

static void check_case(const struct safetensors *st, const struct golden_case *c) {
    struct err err = {0};
    struct hf_numbers n;
    const struct st_tensor *tensors[HF_NUMBERS_TENSORS];
    char *name = mem_printf("%.*s.want", (int)strcspn(c->name, "."), c->name);
    const struct st_tensor *t = st_find(st, name);
    assert_non_null(t);
    uint64_t count = t->bytes / sizeof(float), cols = t->shape[t->n_dims - 1];
    float *want = mem_alloc(t->bytes);
    st_read_f32(t, 0, count, want);
    assert_int_equal(hf_numbers_find(&n, st, c->name, c->blocks, &err), 1);
    assert_int_equal(hf_numbers_lay(&n, t->shape, t->n_dims, false, &err), 0);
    check_run(&n, want, 0, count);
    struct test_rng r = {9};
    for (int i = 0; i < 200; i++) {
        uint64_t first = test_u64(&r) % count, some = 1 + test_u64(&r) % (count - first);
        check_run(&n, want, first, some);
        advised.bytes = advised.calls = 0;
        first -= first % cols;
        hf_numbers_advise(&n, first, first + cols, advise);
        assert_int_equal(advised.calls, 2);
    }
    hf_numbers_tensors(&n, tensors);
    uint64_t bytes = tensors[0]->bytes + tensors[1]->bytes;
    bool ragged = strncmp(c->name, "partial", 7) == 0; /* blocks are counted as whole ones */
    assert_int_equal(hf_numbers_bytes(&n, count), ragged ? 21 * 37 + 4 * (21 * 37 / 128) : bytes);
    assert_int_equal(hf_numbers_codec(&n), c->codec);
    assert_true(c->kept ? !hf_numbers_unkept(&n) : hf_numbers_unkept(&n) != NULL);
    free(want);
    free(name);
}

static void as_others_decode(void **state) {
    struct safetensors *st;
    struct err err = {0};
    (void)state;
    st_open(&st, "tests/golden/numbers.safetensors", &err);
    assert_no_err(&err);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        check_case(st, &cases[i]);
    }
    /* and every case is in the list */
    for (size_t i = 0; i < st_count(st); i++) {
        const char *dot = strchr(st_at(st, i)->name, '.');
        size_t k = 0, len = (size_t)(dot - st_at(st, i)->name) + 1;
        while (k < TEST_COUNT(cases) && strncmp(cases[k].name, st_at(st, i)->name, len) != 0) {
            k++;
        }
        assert_true(k < TEST_COUNT(cases));
    }
    st_close(st);
}

/* Numbers without scales, and a tensor that is not there. */
static void plain(void **state) {
    static const struct {
        const char *dtype;
        size_t bytes;
        enum codec_id codec;
    } rows[] = {{"BF16", 2, CODEC_BF16}, {"F16", 2, CODEC_F16}, {"F32", 4, CODEC_F32}};
    const uint64_t shape[2] = {3, 4}, flat[2] = {1, 12}, other[2] = {4, 3};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        float x[12] = {1, 2, 3};
        tensors_add(&t, "a", rows[i].dtype, "[3,4]", NULL, 12 * rows[i].bytes);
        tensors_add(&t, "v", rows[i].dtype, "[12]", NULL, 12 * rows[i].bytes);
        assert_int_equal(hf_numbers_find(&n, tensors_open(&t), "b", (struct hf_blocks){0}, &err),
                         0);
        assert_int_equal(hf_numbers_find(&n, t.st, "a", (struct hf_blocks){0}, &err), 1);
        assert_int_equal(hf_numbers_lay(&n, shape, 2, false, &err), 0);
        assert_int_equal(hf_numbers_read(&n, 0, 12, x, &err), 0);
        assert_true(x[0] == 0 && x[2] == 0);
        assert_int_equal(hf_numbers_codec(&n), rows[i].codec);
        assert_null(hf_numbers_unkept(&n));
        assert_int_equal(hf_numbers_bytes(&n, 12), 12 * rows[i].bytes);
        assert_int_equal(hf_numbers_lay(&n, other, 2, false, &err), -1);
        assert_err(&err, "a.st: tensor \"a\": shape is [3, 4], the configuration implies [4, 3]");
        err = (struct err){0};
        assert_int_equal(hf_numbers_find(&n, t.st, "v", (struct hf_blocks){0}, &err), 1);
        assert_int_equal(hf_numbers_lay(&n, flat, 2, true, &err), 0);
        assert_int_equal(hf_numbers_lay(&n, flat, 2, false, &err), -1);
        tensors_close(&t);
    }
}

/* ---- what cannot be ---- */

#define W "l.weight"
struct tensor_row {
    const char *name, *dtype, *shape;
    size_t bytes;
};
/* [32, 64] numbers, blocks of 16 x 32 in config.json. */
static const struct refusal {
    struct tensor_row tensors[3];
    const char *say, *say_too;
} refusals[] = {
    {{{W, "F8_E4M3", "[32,64]", 2048}},
     "tensor \"l.weight_scale_inv\" or \"l.weight_scale\" or ",
     "\"l.qscale_weight\" is missing: the scales of \"l.weight\""},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale_inv", "I32", "[2,2]", 16}},
     "tensor \"l.weight_scale_inv\": dtype I32 is not supported",
     "supported: F32, BF16, F16, F8_E8M0, U8"},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale_inv", "F32", "[2,3]", 24}},
     "tensor \"l.weight_scale_inv\": shape is [2, 3], expected a scale of [32, 64] for each block "
     "of "
     "16 x 32 (2 x 2), ",
     "for each row, for each column, for each 32 of a row, or one"},
    /* grids that are even, but not of those blocks: of the turned tensor, of others */
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale_inv", "F32", "[4,1]", 16}},
     "shape is [4, 1]",
     "for each block of 16 x 32"},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale_inv", "F32", "[4,2]", 32}},
     "shape is [4, 2]",
     "for each block of 16 x 32"},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale_inv", "F32", "[64,32]", 8192}},
     "shape is [64, 32]",
     "for each block of 16 x 32"},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale", "F32", "[31]", 124}},
     "shape is [31]",
     "for each block of 16 x 32"},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale", "F32", "[0,2]", 0}}, "shape is [0, 2]", ""},
    {{{W, "F8_E4M3", "[32,64]", 2048}, {W "_scale", "F32", "[2,2,1]", 16}},
     "shape is [2, 2, 1]",
     ""},
    {{{W, "F8_E4M3", "[64,32]", 2048}, {W "_scale_inv", "F32", "[2,2]", 16}},
     "tensor \"l.weight\": shape is [64, 32]",
     "implies [32, 64]"},
    {{{W, "F8_E4M3FNUZ", "[32,64]", 2048}, {W "_scale_inv", "F32", "[2,2]", 16}},
     "dtype F8_E4M3FNUZ is not supported",
     "supported: BF16, F16, F32, and with scales F8_E4M3, U8"},
    {{{W, "F8_E5M2", "[32,64]", 2048}, {W "_scale_inv", "F32", "[2,2]", 16}},
     "dtype F8_E5M2 is not supported",
     ""},
    {{{W, "I8", "[32,64]", 2048}}, "dtype I8 is not supported", ""},
    {{{W, "U8", "[32,32]", 1024}}, "tensor \"l.weight_scale\" is missing", ""},
    {{{W, "U8", "[32,32]", 1024}, {W "_scale", "F8_E4M3", "[32,4]", 128}},
     "tensor \"l.weight_scale_2\" is missing",
     "the scales of \"l.weight\""},
    {{{W, "U8", "[32,32]", 1024},
      {W "_scale", "F8_E4M3", "[32,4]", 128},
      {W "_scale_2", "F32", "[2]", 8}},
     "tensor \"l.weight_scale_2\": is F32 of 8 bytes",
     "expected one F32"},
    {{{W, "U8", "[32,32]", 1024},
      {W "_scale", "F8_E4M3", "[32,4]", 128},
      {W "_scale_2", "I32", "[]", 4}},
     "tensor \"l.weight_scale_2\": is I32 of 4 bytes",
     "expected one F32"},
    {{{W, "U8", "[32,32]", 1024},
      {W "_scale", "F8_E4M3", "[32,8]", 256},
      {W "_scale_2", "F32", "[]", 4}},
     "tensor \"l.weight_scale\": shape is [32, 8]",
     "implies [32, 4]"},
    {{{W, "U8", "[32,64]", 2048},
      {W "_scale", "F8_E4M3", "[32,4]", 128},
      {W "_scale_2", "F32", "[]", 4}},
     "tensor \"l.weight\": shape is [32, 64]",
     "implies [32, 32]"},
    {{{W "_packed", "U8", "[32,32]", 1024}, {W "_scale", "F8_E4M3", "[32,4]", 128}},
     "tensor \"l.weight_global_scale\" is missing",
     ""},
    {{{W "_packed", "U8", "[32,32]", 1024}, {W "_scale", "I8", "[32,4]", 128}},
     "tensor \"l.weight_scale\": dtype I8 is not supported",
     "supported: F8_E4M3, U8, F8_E8M0"},
    {{{W "_packed", "BF16", "[32,64]", 4096}},
     "tensor \"l.weight_packed\": dtype BF16 is not supported",
     "supported: with scales U8"},
    {{{W, "F8_E4M3", "[32,64]", 2048},
      {W "_scale_inv", "I32", "[2,2]", 16},
      {W "_scale", "I8", "[2,2]", 4}},
     "tensor \"l.weight_scale_inv\": dtype I32 is not supported",
     ""},
    {{{W "_packed", "I32", "[32,8]", 1024}, {W "_scale", "BF16", "[32,2]", 128}},
     "tensor \"l.weight_packed\": dtype I32 is not supported",
     ""},
    {{{W "_packed", "U8", "[32,32]", 1024}, {W "_scale", "U8", "[32,4]", 128}},
     "tensor \"l.weight_scale\": shape is [32, 4]",
     "implies [32, 2]"},
};

static void refuses(void **state) {
    const uint64_t shape[2] = {32, 64};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(refusals); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        for (size_t k = 0; k < 3 && refusals[i].tensors[k].name; k++) {
            const struct tensor_row *r = &refusals[i].tensors[k];
            tensors_add(&t, r->name, r->dtype, r->shape, NULL, r->bytes);
        }
        int rc = hf_numbers_find(&n, tensors_open(&t), W,
                                 (struct hf_blocks){.rows = 16, .cols = 32}, &err);
        rc = rc > 0 ? hf_numbers_lay(&n, shape, 2, false, &err) : rc;
        assert_int_equal(rc, -1);
        assert_err(&err, "a.st: tensor ", refusals[i].say, refusals[i].say_too);
        tensors_close(&t);
    }
    /* rows of groups */
    struct tensors t = {0};
    struct hf_numbers n;
    struct err err = {0};
    tensors_add(&t, W "_packed", "U8", "[4,24]", NULL, 96);
    tensors_add(&t, W "_scale", "U8", "[4,1]", NULL, 4);
    assert_int_equal(hf_numbers_find(&n, tensors_open(&t), W, (struct hf_blocks){0}, &err), 1);
    assert_int_equal(hf_numbers_lay(&n, (const uint64_t[2]){4, 48}, 2, false, &err), -1);
    assert_err(&err, "MXFP4 needs rows of a multiple of 32 columns");
    tensors_close(&t);
}

/* Scales that are no scales are named when numbers of theirs are read, others are not looked at. */
static void no_scales(void **state) {
    static const struct {
        const char *dtype; /* of the scales */
        uint32_t bits;     /* of scale [1, 1] */
        const char *say;   /* NULL: fine */
    } rows[] = {
        {"F32", 0x7fc00000, "[1, 1] is nan"},
        {"F32", 0x7f800000, "[1, 1] is inf"},
        {"F32", 0, "[1, 1] is 0,"},
        {"F32", 0x80000000, "[1, 1] is -0"},
        {"F32", 0xbf800000, "[1, 1] is -1,"},
        {"F32", 1, NULL}, /* 2^-149 */
        {"BF16", 0x7fc0, "[1, 1] is nan"},
        {"BF16", 0, "[1, 1] is 0,"},
        {"F16", 0x7c00, "[1, 1] is inf"},
        {"F8_E8M0", 255, "[1, 1] is nan"},
        {"F8_E8M0", 0, NULL},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        uint8_t numbers[32], scales[16] = {0};
        float x[32];
        size_t size = rows[i].dtype[1] == '3' ? 4 : rows[i].dtype[1] == '8' ? 1 : 2;
        const uint32_t one[5] = {0, 127, rows[i].dtype[0] == 'B' ? 0x3f80 : 0x3c00, 0, 0x3f800000};
        memset(numbers, 0x38, sizeof numbers); /* 1 */
        for (size_t k = 0; k < 4; k++) {
            memcpy(scales + k * size, k == 3 ? &rows[i].bits : &one[size], size);
        }
        tensors_add(&t, W, "F8_E4M3", "[4,8]", numbers, sizeof numbers);
        tensors_add(&t, W "_scale_inv", rows[i].dtype, "[2,2]", scales, 4 * size);
        hf_numbers_find(&n, tensors_open(&t), W, (struct hf_blocks){.rows = 2, .cols = 4}, &err);
        hf_numbers_lay(&n, (const uint64_t[2]){4, 8}, 2, false, &err);
        assert_no_err(&err);
        assert_int_equal(hf_numbers_read(&n, 0, 20, x, &err), 0);
        assert_true(x[0] == 1 && x[19] == 1);
        assert_int_equal(hf_numbers_read(&n, 0, 21, x, &err), rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "a.st: tensor \"l.weight_scale_inv\": scale ", rows[i].say,
                       "expected a finite positive number");
        } else {
            assert_true(x[20] == (size == 4 ? 0x1p-149f : 0x1p-127f));
        }
        tensors_close(&t);
    }
}

/* Of MXFP4 scales are powers of two, 2^(code - 127), all of which bf16 holds, times 0.5 too; what
 * is too large is not looked at here (hf_matrix), and 255 is none. */
static void powers_of_two(void **state) {
    static const struct {
        uint8_t code;
        float half, six; /* what 0.5 and 6 become */
    } rows[] = {
        {0, 0x1p-128f, 0x1.8p-125f},
        {1, 0x1p-127f, 0x1.8p-124f},
        {118, 0x1p-10f, 0x1.8p-7f},
        {127, 0.5f, 6},
        {130, 4, 48},
        {249, 0x1p121f, 0x1.8p124f},
        {252, 0x1p124f, 0x1.8p127f},
        {254, 0x1p126f, INFINITY},
        {255, 0, 0},
    };
    static const char *const dtypes[] = {"U8", "F8_E8M0"};
    (void)state;
    for (size_t i = 0; i < 2 * TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        uint8_t numbers[16], code = rows[i / 2].code;
        float x[32];
        memset(numbers, 0xf1, sizeof numbers); /* 0.5, -6 */
        tensors_add(&t, W "_packed", "U8", "[1,16]", numbers, sizeof numbers);
        tensors_add(&t, W "_scale", dtypes[i % 2], "[1,1]", &code, 1);
        hf_numbers_find(&n, tensors_open(&t), W, (struct hf_blocks){0}, &err);
        hf_numbers_lay(&n, (const uint64_t[2]){1, 32}, 2, false, &err);
        assert_no_err(&err);
        assert_int_equal(hf_numbers_read(&n, 0, 32, x, &err), code == 255 ? -1 : 0);
        if (code == 255) {
            assert_err(&err, "a.st: tensor \"l.weight_scale\": scale [0, 0] is nan");
        } else {
            assert_true(x[0] == rows[i / 2].half && x[31] == -rows[i / 2].six);
            assert_true(bf16_to_f32(f32_to_bf16(x[30])) == x[30]);
        }
        tensors_close(&t);
    }
}

/* Of NVFP4: a group's scale may be 0, not negative and not NaN; the global one must be a scale. */
static void no_group_scales(void **state) {
    static const struct {
        uint8_t scale; /* of group [1, 0] */
        float global;
        bool packed;
        const char *say; /* NULL: fine */
    } rows[] = {
        {0x38, 1, false, NULL},
        {0, 1, false, NULL},
        {0, 1, true, NULL},
        {0x7f, 1, false, "tensor \"l.weight_scale\": scale [1, 0] is nan"},
        {0xb8, 1, true, "tensor \"l.weight_scale\": scale [1, 0] is -1,"},
        {0x38, 0, false, "tensor \"l.weight_scale_2\": scale [0] is 0,"},
        {0x38, 0, true, "tensor \"l.weight_global_scale\": scale [0] is 0,"},
        {0x38, NAN, true, "scale [0] is nan"},
        {0x38, INFINITY, false, "scale [0] is inf"},
        {0x38, -2, false, "scale [0] is -2,"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        uint8_t numbers[16], scales[2] = {0x38, rows[i].scale};
        float x[32];
        memset(numbers, 0x22, sizeof numbers); /* 1, 1 */
        tensors_add(&t, rows[i].packed ? W "_packed" : W, "U8", "[2,8]", numbers, sizeof numbers);
        tensors_add(&t, W "_scale", "F8_E4M3", "[2,1]", scales, 2);
        tensors_add(&t, rows[i].packed ? W "_global_scale" : W "_scale_2", "F32", "[1]",
                    &rows[i].global, 4);
        hf_numbers_find(&n, tensors_open(&t), W, (struct hf_blocks){0}, &err);
        hf_numbers_lay(&n, (const uint64_t[2]){2, 16}, 2, false, &err);
        assert_no_err(&err);
        assert_int_equal(hf_numbers_read(&n, 0, 32, x, &err), rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "a.st: ", rows[i].say, "expected a finite positive number");
        } else {
            assert_true(x[0] == 1 && x[16] == (rows[i].scale ? 1 : 0));
        }
        tensors_close(&t);
    }
}

/* ---- shapes of scales ---- */

/* A row, a column, a group of a row, a matrix of several, all: with and without dimensions of 1,
 * whatever blocks the configuration names. */
static void spellings(void **state) {
    static const struct {
        const char *shape, *scales;
        size_t n;
        uint32_t n_dims;
        uint64_t dims[3];
        float last; /* what the last number is */
    } rows[] = {
        {"[3,64]", "[]", 1, 2, {3, 64}, 1},       {"[3,64]", "[1]", 1, 2, {3, 64}, 1},
        {"[3,64]", "[1,1]", 1, 2, {3, 64}, 1},    {"[3,64]", "[3]", 3, 2, {3, 64}, 3},
        {"[3,64]", "[3,1]", 3, 2, {3, 64}, 3},    {"[3,1,64]", "[3]", 3, 3, {3, 1, 64}, 3},
        {"[3,64]", "[1,64]", 64, 2, {3, 64}, 64}, {"[3,64]", "[3,2]", 6, 2, {3, 64}, 6},
        {"[3,1,64]", "[]", 1, 3, {3, 1, 64}, 1},  {"[3,1,64]", "[3,1,1]", 3, 3, {3, 1, 64}, 3},
    };
    static const struct hf_blocks blocks[] = {{0}, {.rows = 2, .cols = 8}};
    float scales[64];
    uint8_t numbers[192];
    (void)state;
    memset(numbers, 0x38, sizeof numbers);
    for (size_t i = 0; i < TEST_COUNT(scales); i++) {
        scales[i] = (float)(i + 1);
    }
    for (size_t i = 0; i < 2 * TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        float x[192];
        const size_t k = i / 2;
        tensors_add(&t, W, "F8_E4M3", rows[k].shape, numbers, sizeof numbers);
        tensors_add(&t, W "_scale", "F32", rows[k].scales, scales, 4 * rows[k].n);
        hf_numbers_find(&n, tensors_open(&t), W, blocks[i % 2], &err);
        hf_numbers_lay(&n, rows[k].dims, rows[k].n_dims, false, &err);
        assert_no_err(&err);
        assert_int_equal(hf_numbers_read(&n, 0, 192, x, &err), 0);
        assert_true(x[0] == 1 && x[191] == rows[k].last);
        tensors_close(&t);
    }
}

/* Scales of outputs: of several matrices they are the columns' (FBGEMM), of one the rows'. Without
 * blocks in the configuration even grids count, with scales of outputs only what is named. */
static void of_outputs(void **state) {
    static const struct {
        bool by_output;
        const char *scales;
        size_t n;
        float x[3];      /* numbers [0, 0, 1], [0, 2, 0], [1, 3, 1] of [2, 4, 2] */
        const char *say; /* it is refused */
    } rows[] = {
        {true, "[2,2,1]", 4, {2, 1, 4}, NULL},
        {true, "[2,1,2]", 4, {2, 1, 4}, NULL},
        {true, "[2,4,1]", 8, {1, 3, 8}, NULL},
        {true, "[2]", 2, {1, 1, 2}, NULL},
        {false, "[2,2,1]", 4, {1, 2, 4}, NULL},
        {true, "[2,2,2]", 8, {0}, "of [4, 2] for each row"},
        {false, "[2,3,1]", 6, {0}, "of [4, 2] for each of blocks that divide it evenly, for each"},
    };
    float scales[8];
    uint8_t numbers[16];
    (void)state;
    memset(numbers, 0x38, sizeof numbers);
    for (size_t i = 0; i < TEST_COUNT(scales); i++) {
        scales[i] = (float)(i + 1);
    }
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct tensors t = {0};
        struct hf_numbers n;
        struct err err = {0};
        float x[16];
        tensors_add(&t, "experts", "F8_E4M3", "[2,4,2]", numbers, sizeof numbers);
        tensors_add(&t, "experts_scale", "F32", rows[i].scales, scales, 4 * rows[i].n);
        hf_numbers_find(&n, tensors_open(&t), "experts",
                        (struct hf_blocks){.by_output = rows[i].by_output}, &err);
        int rc = hf_numbers_lay(&n, (const uint64_t[3]){2, 4, 2}, 3, false, &err);
        assert_int_equal(rc, rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "a.st: tensor \"experts_scale\": shape is ", rows[i].say);
        } else {
            assert_int_equal(hf_numbers_read(&n, 0, 16, x, &err), 0);
            assert_true(x[1] == rows[i].x[0] && x[4] == rows[i].x[1] && x[15] == rows[i].x[2]);
        }
        tensors_close(&t);
    }
}

static void names(void **state) {
    (void)state;
    assert_true(hf_numbers_of_activations("model.layers.0.self_attn.q_proj.input_scale"));
    assert_true(hf_numbers_of_activations("model.layers.0.mlp.experts.down_proj_activation_scale"));
    assert_true(hf_numbers_of_activations("model.layers.0.self_attn.k_proj.k_scale"));
    assert_false(hf_numbers_of_activations("model.layers.0.self_attn.q_proj.weight_scale"));
    assert_false(hf_numbers_of_activations("model.layers.0.router.scale"));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_others_decode),
        cmocka_unit_test(plain),
        cmocka_unit_test(refuses),
        cmocka_unit_test(no_scales),
        cmocka_unit_test(powers_of_two),
        cmocka_unit_test(no_group_scales),
        cmocka_unit_test(spellings),
        cmocka_unit_test(of_outputs),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests_name("hf_numbers", tests, NULL, NULL);
}
