/*
 * gguf: what is read of a file, each rule violated once, with its message; models in parts.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/gguf/gguf.h"
#include "prep/gguf/gguf_block.h"
#include "tests/util/test_util_gguf.h"

static const uint64_t shape_23[2] = {2, 3}, shape_4[1] = {4};
static const float six[6] = {1, 2, 3, 4, 5, 6};

/* A file with a key of each kind and two tensors. */
static struct gguf_made make(uint32_t alignment) {
    struct gguf_made m = {.alignment = alignment};
    struct buf items = {0};
    const int8_t bytes[3] = {-1, 0, 7};
    made_text(&m, "general.architecture", "qwen3moe");
    made_u32(&m, "a.u32", 7);
    made_f32(&m, "a.f32", 0.5f);
    made_flag(&m, "a.flag", true);
    made_item(&items, "one", 3);
    made_item(&items, "", 0);
    made_item(&items, "a\0b", 3);
    made_list(&m, "a.texts", GGUF_STRING, 3, items.data, items.len);
    made_list(&m, "a.i8s", GGUF_I8, 3, bytes, sizeof bytes);
    made_list(&m, "a.none", GGUF_F64, 0, "", 0);
    buf_free(&items);
    made_tensor(&m, "b.weight", "F32", 2, shape_23, six, sizeof six);
    made_tensor(&m, "a.weight", "BF16", 1, shape_4, "\x80\x3f\0\x40\x40\x40\x80\x40", 8);
    return m;
}

static int parse(struct gguf *g, const struct buf *file, struct err *err) {
    *g = (struct gguf){.st = st_new()};
    return gguf_parse(g, (const uint8_t *)file->data, file->len, "f.gguf", err) < 0
               ? -1
               : st_index(g->st, err);
}

static void reads(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf_made m = make(version == 2 ? 64 : 0);
        m.version = version;
        struct buf file = made_file(&m);
        struct gguf g;
        struct err err = {0};
        struct gguf_text text;
        struct gguf_walk at = {0};
        double real;
        int64_t integer;
        parse(&g, &file, &err);
        assert_no_err(&err);
        assert_int_equal(g.n_values, version == 2 ? 8 : 7);
        assert_true(gguf_string(gguf_find(&g, "general.architecture"), &text));
        assert_int_equal(text.bytes, 8);
        assert_memory_equal(text.data, "qwen3moe", 8);
        assert_null(gguf_find(&g, "a"));
        assert_true(gguf_integer(gguf_find(&g, "a.u32"), 0, &integer) && integer == 7);
        assert_true(gguf_real(gguf_find(&g, "a.u32"), 0, &real) && real == 7);
        assert_false(gguf_integer(gguf_find(&g, "a.f32"), 0, &integer));
        assert_true(gguf_real(gguf_find(&g, "a.f32"), 0, &real) && real == 0.5);
        assert_true(gguf_integer(gguf_find(&g, "a.flag"), 0, &integer) && integer == 1);
        assert_true(gguf_integer(gguf_find(&g, "a.i8s"), 0, &integer) && integer == -1);
        assert_true(gguf_integer(gguf_find(&g, "a.i8s"), 2, &integer) && integer == 7);
        assert_false(gguf_integer(gguf_find(&g, "a.i8s"), 3, &integer));
        assert_int_equal(gguf_find(&g, "a.none")->n, 0);
        assert_false(gguf_real(gguf_find(&g, "a.none"), 0, &real));
        const struct gguf_value *texts = gguf_find(&g, "a.texts");
        assert_string_equal(gguf_type_text(texts), "list of texts");
        assert_false(gguf_string(texts, &text));
        assert_true(gguf_next_text(texts, &at, &text) && text.bytes == 3);
        assert_true(gguf_next_text(texts, &at, &text) && text.bytes == 0);
        assert_true(gguf_next_text(texts, &at, &text) && text.bytes == 3);
        assert_memory_equal(text.data, "a\0b", 3);
        assert_false(gguf_next_text(texts, &at, &text));
        const struct st_tensor *t = st_find(g.st, "b.weight"), *b = st_find(g.st, "a.weight");
        float x[4];
        assert_int_equal(st_count(g.st), 2);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->shape[0], 2);
        assert_int_equal(t->shape[1], 3);
        assert_memory_equal(t->data, six, sizeof six);
        assert_int_equal(b->dtype, ST_BF16);
        st_read_f32(b, 0, 4, x);
        for (int i = 0; i < 4; i++) {
            assert_true(x[i] == (float)(i + 1));
        }
        gguf_close(&g);
        buf_free(&file);
    }
}

/* ---- refusals ---- */

static void put(struct buf *file, size_t at, uint64_t value, size_t bytes) {
    memcpy(file->data + at, &value, bytes);
}

/* Where a text begins in the file. */
static size_t place_of(const struct buf *file, const char *text) {
    const char *p = memmem(file->data, file->len, text, strlen(text));
    assert_non_null(p);
    return (size_t)(p - file->data);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *text; /* a number is put so many bytes behind the end of this text */
        int behind;
        uint64_t value;
        size_t bytes;
        const char *say;
    } bad[] = {
        {"GGUF", -4, 0x46554746, 4, "does not begin with \"GGUF\""},
        {"GGUF", 0, 1, 4, "version 1 of GGUF is not read, expected 2 or 3"},
        {"GGUF", 0, 0x03000000, 4, "byte order of big-endian machines"},
        {"GGUF", 4, UINT64_MAX, 8, "expected at most"},
        {"GGUF", 4, 200000, 8, "200000 tensors do not fit in the file"},
        {"GGUF", 12, UINT64_MAX / 2, 8, "expected at most"},
        {"GGUF", 12, 60000, 8, "60000 keys and 2 tensors do not fit in the file"},
        {"GGUF", 20, 1ull << 60, 8, "a key has a name of 1152921504606846976 bytes"},
        {"GGUF", 20, 0, 8, "a key has a name of 0 bytes, expected 1 .. 255"},
        {"GGUF", 28, 7, 1, "control character"},
        {"general.architecture", 4, 1ull << 60, 8,
         "general.architecture: text 0 has 1152921504606846976 bytes, which the file has not"},
        {"general.architecture", 4, UINT64_MAX, 8, "which the file has not"},
        {"general.architecture", 0, 13, 4, "general.architecture: type 13 is not known"},
        {"a.texts", 4, 9, 4, "a.texts: type 9 is not known inside a list"},
        {"a.texts", 8, 1ull << 60, 8, "which the file has not"},
        {"a.i8s", 8, 1ull << 60, 8, "a.i8s: 1152921504606846976 items of i8 do not fit"},
        {"a.none", 8, 1ull << 61, 8, "a.none: 2305843009213693952 items of f64 do not fit"},
        {"a.f32", -3, 0x323375, 3, "key \"a.u32\" is there twice"},
        {"b.weight", 0, 5, 4, "tensor \"b.weight\": 5 dimensions, expected 1 .. 4"},
        {"b.weight", 0, 0, 4, "tensor \"b.weight\": 0 dimensions"},
        {"b.weight", 4, 0, 8, "shape is [2, 0]"},
        {"b.weight", 4, 1ull << 62, 8, "is too large"},
        {"b.weight", 4, UINT64_MAX, 8, "is too large"},
        {"b.weight", 20, 5, 4, "type 5 is not known"},
        {"b.weight", 20, 16, 4, "type IQ2_XXS is not read; read are: F32, F16, BF16, Q4_0"},
        {"b.weight", 20, 2, 4, "shape is [2, 3], Q4_0 needs rows of a multiple of 32 numbers"},
        {"b.weight", 24, 8, 8, "offset 8 is no multiple of 32 (general.alignment)"},
        {"a.weight", 16, 0, 8, "overlap, at offset 0"},
        {"b.weight", 24, 1ull << 60, 8, "do not fit in the data of"},
        {"b.weight", 24, UINT64_MAX - 31, 8, "do not fit in the data of"},
        {"a.weight", -8, 0x62, 1, "\"b.weight\""},
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct gguf_made m = make(0);
        struct buf file = made_file(&m);
        struct gguf g;
        struct err err = {0};
        const size_t at = place_of(&file, bad[i].text) + strlen(bad[i].text);
        put(&file, (size_t)((int64_t)at + bad[i].behind), bad[i].value, bad[i].bytes);
        if (parse(&g, &file, &err) == 0) {
            fail_msg("row %zu passes", i);
        }
        assert_err(&err, "f.gguf: ", bad[i].say);
        gguf_close(&g);
        buf_free(&file);
    }
}

/* A file that ends anywhere is refused, with one line. */
static void refuses_ends(void **state) {
    (void)state;
    struct gguf_made m = make(0);
    struct buf file = made_file(&m);
    for (size_t n = 0; n < file.len; n++) {
        /* A copy of just so many bytes, so that a sanitizer sees what is read behind them. */
        struct buf part = {0};
        struct gguf g;
        struct err err = {0};
        buf_append(&part, file.data, n);
        if (n == 0) {
            buf_append(&part, "", 0);
        }
        uint8_t *bytes = mem_alloc(n ? n : 1);
        memcpy(bytes, file.data, n);
        g = (struct gguf){.st = st_new()};
        assert_int_equal(gguf_parse(&g, bytes, n, "f.gguf", &err), -1);
        assert_err(&err, "f.gguf: ");
        gguf_close(&g);
        free(bytes);
        buf_free(&part);
    }
    buf_free(&file);
}

static void refuses_alignment(void **state) {
    (void)state;
    const uint32_t bad[] = {1, 24, 1u << 31};
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct gguf_made m = make(0);
        struct gguf g;
        struct err err = {0};
        made_u32(&m, "general.alignment", bad[i]);
        struct buf file = made_file(&m);
        assert_int_equal(parse(&g, &file, &err), -1);
        assert_err(&err, "general.alignment: expected a power of two");
        gguf_close(&g);
        buf_free(&file);
    }
}

/* Where less of the budget is left than the file has bytes, a header that is too long is told from
 * one that is wrong. */
static void tells_long_from_wrong(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 2; wrong++) {
        struct gguf_made m = make(0);
        struct buf file = made_file(&m);
        struct gguf g = {.st = st_new(), .header_bytes = GGUF_MAX_HEADER_BYTES - 100};
        struct err err = {0};
        if (wrong) {
            put(&file, place_of(&file, "general.architecture") + 20 + 4, 1ull << 60, 8);
        }
        assert_int_equal(gguf_parse(&g, (const uint8_t *)file.data, file.len, "f.gguf", &err), -1);
        assert_err(&err, "f.gguf: ",
                   wrong ? "general.architecture: text 0 has" : "has more than 100 bytes");
        gguf_close(&g);
        buf_free(&file);
    }
}

/* ---- parts ---- */

static void write_part(const char *dir, const char *name, uint32_t no, uint32_t count,
                       uint32_t tensors, const char *tensor) {
    struct gguf_made m = {0};
    if (count) {
        made_u32(&m, "split.no", no);
        made_u32(&m, "split.count", count);
        made_u32(&m, "split.tensors.count", tensors);
    }
    made_tensor(&m, tensor, "F32", 2, shape_23, six, sizeof six);
    struct buf file = made_file(&m);
    free(test_write(dir, name, file.data, file.len));
    buf_free(&file);
}

static void opens_parts(void **state) {
    (void)state;
    static const struct {
        const char *first;
        uint32_t count, tensors;
        const char *second;
        uint32_t no, second_tensors;
        const char *tensor, *say; /* NULL: it is opened */
    } rows[] = {
        {"m-00001-of-00002.gguf", 2, 2, "m-00002-of-00002.gguf", 1, 2, "two", NULL},
        {"m.gguf", 0, 0, "m-00002-of-00002.gguf", 1, 2, "two", NULL}, /* one file, as it says */
        {"m-00001-of-00002.gguf", 2, 2, "other.gguf", 1, 2, "two",
         "m-00002-of-00002.gguf: is missing"},
        {"m-00001-of-00002.gguf", 2, 2, "m-00002-of-00002.gguf", 1, 2, "one", "is also in"},
        {"m-00001-of-00002.gguf", 2, 3, "m-00002-of-00002.gguf", 1, 3, "two",
         "2 tensors, split.tensors.count says 3"},
        {"m.gguf", 2, 2, "m-00002-of-00002.gguf", 1, 2, "two", "expected a name that ends with"},
        {"m-00001-of-00002.gguf", 3, 3, "m-00002-of-00002.gguf", 1, 3, "two", "is one of 3 parts"},
        {"m-00001-of-00002.gguf", 2, 2, "m-00002-of-00002.gguf", 0, 2, "two",
         "m-00002-of-00002.gguf: split.no: expected 1"},
        {"m-00001-of-00002.gguf", 2, 2, "m-00002-of-00002.gguf", 1, 3, "two",
         "m-00002-of-00002.gguf: split.tensors.count: expected 2, as the first part has it"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *dir = test_mkdir();
        struct gguf g;
        struct err err = {0};
        char *path = mem_printf("%s/%s", dir, rows[i].first);
        write_part(dir, rows[i].second, rows[i].no, 2, rows[i].second_tensors, rows[i].tensor);
        write_part(dir, rows[i].first, 0, rows[i].count, rows[i].tensors, "one");
        gguf_open(&g, path, &err);
        if (rows[i].say) {
            assert_err(&err, dir, rows[i].say);
        } else {
            assert_no_err(&err);
            assert_int_equal(st_count(g.st), rows[i].count ? 2 : 1);
            assert_non_null(st_find(g.st, "one"));
        }
        gguf_close(&g);
        free(path);
        test_rmdir(dir);
    }
    char *dir = test_mkdir();
    char *path = mem_printf("%s/m-00002-of-00002.gguf", dir);
    struct gguf g;
    struct err err = {0};
    assert_int_equal(gguf_open(&g, path, &err), -1);
    assert_err(&err, "is part 2 of 2: give the first, -00001-of-00002.gguf");
    gguf_close(&g);
    free(path);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_ends), cmocka_unit_test(refuses_alignment),
        cmocka_unit_test(opens_parts),  cmocka_unit_test(tells_long_from_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
