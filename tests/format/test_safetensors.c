/*
 * safetensors: every rule of the format violated once, with its message; sharding; conversion to
 * f32.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/safetensors.h"

/* A file: the header's length, the header, `data_bytes` bytes of data (0, 1, 2, ...). */
static struct buf make_file(const char *header, size_t data_bytes) {
    struct buf b = {0};
    uint64_t n = strlen(header);
    buf_append(&b, &n, sizeof n);
    buf_append(&b, header, n);
    for (size_t i = 0; i < data_bytes; i++) {
        uint8_t byte = (uint8_t)i;
        buf_append(&b, &byte, 1);
    }
    return b;
}

static void write_file(const char *dir, const char *name, const char *header, size_t data_bytes) {
    struct buf b = make_file(header, data_bytes);
    free(test_write(dir, name, b.data, b.len));
    buf_free(&b);
}

static void write_text(const char *dir, const char *name, const char *text) {
    free(test_write(dir, name, text, strlen(text)));
}

#define T(dtype, shape, begin, end)                                                                \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void accepts(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes, tensors;
    } good[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0}, /* padding */
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
        {"{\"a\":" T("F32", "[2,3]", "0", "24") "}", 24, 1},
        {"{\"a\":" T("F32", "[]", "0", "4") "}", 4, 1}, /* scalar */
        {"{\"a\":" T("BF16", "[0,7]", "0", "0") ",\"b\":" T("U8", "[3]", "0", "3") "}", 3,
         2}, /* empty */
        {"{\"b\":" T("F16", "[2]", "4", "8") ",\"a\":" T("I32", "[1]", "0", "4") "}", 8,
         2}, /* any order */
        {"{\"a\":" T("F4", "[4]", "0", "2") "}", 2, 1},
        {"{\"a\":" T("F8_E4M3", "[4]", "0", "4") "}", 4, 1},
        {"{\"a\\u00e4\":" T("F64", "[1]", "0", "8") "}", 8, 1},
    };
    for (size_t i = 0; i < TEST_COUNT(good); i++) {
        struct err err = {0};
        struct buf b = make_file(good[i].header, good[i].data_bytes);
        struct safetensors *st = st_new();
        assert_int_equal(st_parse_header((uint8_t *)b.data, b.len, "f", st, &err), 0);
        assert_no_err(&err);
        assert_int_equal(st_index(st, &err), 0);
        assert_int_equal(st_count(st), good[i].tensors);
        st_close(st);
        buf_free(&b);
    }
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *say, *say_too; /* parts of the message */
    } bad[] = {
        /* 2: the header */
        {"", 0, "must begin with '{'", "f.safetensors"},
        {" {}", 0, "must begin with '{'", "f.safetensors"},
        {"{\"a\":", 0, "not valid JSON", "f.safetensors"},
        {"{} x", 0, "not valid JSON", "f.safetensors"},
        {"{\"a\xff\":1}", 0, "not valid JSON", "f.safetensors"},
        {"{\"a\":" T("U8", "[1]", "0", "1") ",\"a\":" T("U8", "[1]", "1", "2") "}", 2, "duplicate",
         "\"a\""},
        {"{\"a\\u0000b\":" T("U8", "[1]", "0", "1") "}", 1, "not valid JSON", "f.safetensors"},
        /* 3: its entries */
        {"{\"__metadata__\":[]}", 0, "__metadata__ must be an object", "f.safetensors"},
        {"{\"__metadata__\":{\"n\":1}}", 0, "must hold a string", "\"n\""},
        {"{\"w\":3}", 0, "exactly dtype, shape and data_offsets", "\"w\""},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 0, "exactly dtype, shape and data_offsets",
         "\"w\""},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1,
         "exactly dtype", "\"w\""},
        {"{\"\":" T("U8", "[1]", "0", "1") "}", 1, "name is empty", "f.safetensors"},
        {"{\"w\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype must be a string",
         "\"w\""},
        {"{\"w\":" T("U8", "8", "0", "1") "}", 1, "shape must be a list", "\"w\""},
        {"{\"w\":" T("U8", "[-1]", "0", "1") "}", 1, "shape must be a list of non-negative",
         "\"w\""},
        {"{\"w\":" T("U8", "[1.0]", "0", "1") "}", 1, "shape must be a list of non-negative",
         "\"w\""},
        {"{\"w\":" T("U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "9 dimensions", "\"w\""},
        {"{\"w\":" T("U8", "[1]", "-1", "1") "}", 1, "two non-negative integers", "\"w\""},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "two non-negative",
         "\"w\""},
        {"{\"w\":" T("U8", "[1]", "0", "99999999999999999999") "}", 1, "not valid JSON", "too big"},
        /* 4: tiling */
        {"{\"w\":" T("U8", "[1]", "1", "2") "}", 2, "hole or overlap", "\"w\""},
        {"{\"v\":" T("U8", "[2]", "0", "2") ",\"w\":" T("U8", "[2]", "1", "3") "}", 3,
         "hole or overlap", "\"w\""},
        {"{\"v\":" T("U8", "[1]", "0", "1") ",\"w\":" T("U8", "[1]", "2", "3") "}", 3,
         "hole or overlap", "\"w\""},
        {"{\"w\":" T("U8", "[0]", "0", "0") ",\"x\":" T("U8", "[1]", "0", "-1") "}", 0,
         "two non-negative", "\"x\""},
        /* 5: sizes */
        {"{\"w\":" T("F32", "[2]", "0", "7") "}", 7, "needs 8.0 bytes, data_offsets give 7",
         "\"w\""},
        {"{\"w\":" T("F4", "[3]", "0", "1") "}", 1, "needs 1.500 bytes", "\"w\""},
        {"{\"w\":" T("F64", "[4611686018427387904,4]", "0", "0") "}", 0, "too large", "\"w\""},
        /* 6: the end */
        {"{\"w\":" T("U8", "[4]", "0", "4") "}", 3, "truncated?", "f.safetensors"},
        {"{\"w\":" T("U8", "[4]", "0", "4") "}", 5, "trailing bytes", "f.safetensors"},
        {"{}", 1, "trailing bytes", "f.safetensors"},
        /* 7: dtypes */
        {"{\"w\":" T("F8_E4M3FN", "[1]", "0", "1") "}", 1, "unknown dtype \"F8_E4M3FN\"", "\"w\""},
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err err = {0};
        struct buf b = make_file(bad[i].header, bad[i].data_bytes);
        int rc = st_parse_header((uint8_t *)b.data, b.len, "f.safetensors", NULL, &err);
        if (rc == 0) {
            print_error("accepted: %s\n", bad[i].header);
        }
        assert_int_equal(rc, -1);
        assert_err(&err, bad[i].say, bad[i].say_too, "f.safetensors");
        buf_free(&b);
    }
}

/* 1: the length field. */
static void refuses_lengths(void **state) {
    (void)state;
    static const struct {
        uint64_t n;
        size_t file_bytes;
        const char *say;
    } bad[] = {
        {0, 0, "too few"},
        {2, 7, "too few"},
        {2, 8, "does not fit"},
        {2, 9, "does not fit"},
        {100000001, 10, "larger than 100000000"},
        {UINT64_MAX, 10, "larger than 100000000"},
        {UINT64_MAX - 7, 10, "larger than 100000000"},
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err err = {0};
        uint8_t file[16] = {0};
        memcpy(file, &bad[i].n, 8);
        memcpy(file + 8, "{}", 2);
        uint8_t *guarded = test_guard(bad[i].file_bytes);
        memcpy(guarded, file, bad[i].file_bytes);
        assert_int_equal(st_parse_header(guarded, bad[i].file_bytes, "f", NULL, &err), -1);
        assert_err(&err, bad[i].say);
        test_guard_free(guarded, bad[i].file_bytes);
    }
}

/* No prefix of a good file is a good file. */
static void refuses_truncation(void **state) {
    (void)state;
    struct buf b = make_file(
        "{\"a\":" T("F32", "[2,3]", "0", "24") ",\"b\":" T("U8", "[3]", "24", "27") "}", 27);
    for (size_t n = 0; n < b.len; n++) {
        struct err err = {0};
        uint8_t *guarded = test_guard(n);
        memcpy(guarded, b.data, n);
        assert_int_equal(st_parse_header(guarded, n, "f", NULL, &err), -1);
        assert_true(err.set);
        test_guard_free(guarded, n);
    }
    buf_free(&b);
}

static void single_file(void **state) {
    (void)state;
    struct err err = {0};
    char *dir = test_mkdir();
    struct safetensors *st = NULL;
    assert_int_equal(st_open(&st, dir, &err), -1);
    assert_err(&err, "neither model.safetensors nor model.safetensors.index.json");
    assert_null(st);
    write_file(dir, "model.safetensors",
               "{\"b\":" T("U8", "[4]", "4", "8") ",\"a\":" T("BF16", "[1,2]", "0", "4") "}", 8);
    err = (struct err){0};
    assert_int_equal(st_open(&st, dir, &err), 0);
    assert_int_equal(st_count(st), 2);
    assert_string_equal(st_at(st, 0)->name, "a");
    const struct st_tensor *t = st_find(st, "a");
    assert_ptr_equal(t, st_at(st, 0));
    assert_int_equal(t->dtype, ST_BF16);
    assert_string_equal(t->dtype_name, "BF16");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[1], 2);
    assert_int_equal(t->bytes, 4);
    assert_int_equal(st_find(st, "b")->data[3], 7);
    assert_null(st_find(st, "c"));
    assert_null(st_find(st, ""));
    assert_int_equal(st_file_count(st), 1);
    st_drop_pages(t); /* advice only: the bytes are still there */
    assert_int_equal(t->data[1], 1);
    st_close(st);
    st_close(NULL);
    test_rmdir(dir);
}

#define INDEX(map) "{\"metadata\":{\"total_size\":2},\"weight_map\":" map "}"

static void shards(void **state) {
    (void)state;
    struct err err = {0};
    struct safetensors *st;
    char *dir = test_mkdir();
    write_file(dir, "model-00001-of-00002.safetensors", "{\"a\":" T("U8", "[1]", "0", "1") "}", 1);
    write_file(dir, "model-00002-of-00002.safetensors", "{\"b\":" T("U8", "[2]", "0", "2") "}", 2);
    write_text(dir, "model.safetensors.index.json",
               INDEX("{\"b\":\"model-00002-of-00002.safetensors\",\"a\":\"model-00001-of-00002."
                     "safetensors\"}"));
    assert_int_equal(st_open(&st, dir, &err), 0);
    assert_no_err(&err);
    assert_int_equal(st_count(st), 2);
    assert_int_equal(st_find(st, "b")->bytes, 2);
    assert_int_equal(st_file_count(st), 3);
    assert_non_null(strstr(st_file_path(st, 0), "index.json"));
    st_close(st);
    test_rmdir(dir);
}

/* The index decides which copy counts; what it and the shards do not agree on is listed. */
static void index_decides(void **state) {
    (void)state;
    static const struct {
        const char *map, *a, *absent, *skipped; /* where "a" is read from; names */
    } rows[] = {
        {"{\"a\":\"1.safetensors\",\"b\":\"sub/deep/2.safetensors\"}", "/1.safetensors", "", "a "},
        {"{\"a\":\"sub/deep/2.safetensors\",\"b\":\"sub/deep/2.safetensors\"}",
         "/sub/deep/2.safetensors", "", ""},
        {"{\"a\":\"sub/deep/2.safetensors\",\"c\":\"1.safetensors\"}", "/sub/deep/2.safetensors",
         "c ", "a b "},
        {"{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\",\"c\":\"3.safetensors\"}",
         "/1.safetensors", "b c ", ""},
        {"{\"b\":\"1.safetensors\"}", NULL, "b ", "a "},
        {"{\"b\":\"3.safetensors\"}", NULL, "b ", ""},
    };
    char *dir = test_mkdir();
    char *deep = mem_printf("mkdir -p '%s/sub/deep'", dir);
    assert_int_equal(system(deep), 0);
    write_file(dir, "1.safetensors", "{\"a\":" T("U8", "[1]", "0", "1") "}", 1);
    write_file(dir, "sub/deep/2.safetensors",
               "{\"a\":" T("U8", "[1]", "0", "1") ",\"b\":" T("U8", "[1]", "1", "2") "}", 2);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct safetensors *st;
        struct buf absent = {0}, skipped = {0};
        char *index = mem_printf("{\"weight_map\":%s}", rows[i].map);
        write_text(dir, "model.safetensors.index.json", index);
        st_open(&st, dir, &err);
        assert_no_err(&err);
        const struct st_tensor *a = st_find(st, "a");
        assert_int_equal(a != NULL, rows[i].a != NULL);
        assert_true(!a || strcmp(a->file + strlen(dir), rows[i].a) == 0);
        buf_append(&absent, "", 0);
        buf_append(&skipped, "", 0);
        for (size_t k = 0; k < st_absent_count(st); k++) {
            buf_printf(&absent, "%s ", st_absent(st, k)->name);
        }
        for (size_t k = 0; k < st_skipped_count(st); k++) {
            buf_printf(&skipped, "%s ", st_skipped(st, k)->name);
        }
        assert_string_equal(absent.data, rows[i].absent);
        assert_string_equal(skipped.data, rows[i].skipped);
        buf_free(&absent);
        buf_free(&skipped);
        free(index);
        st_close(st);
    }
    free(deep);
    test_rmdir(dir);
}

static void refuses_shards(void **state) {
    (void)state;
    static const struct {
        const char *index, *say, *say_too;
    } bad[] = {
        {"[]", "weight_map must be an object", "index.json"},
        {"{", "not valid JSON", "index.json"},
        {INDEX("{}"), "weight_map must be an object", "at least one"},
        {INDEX("{\"a\":1}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"/etc/x.safetensors\"}"), "not the path of a .safetensors file",
         "/etc/x.safetensors"},
        {INDEX("{\"a\":\"../1.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"x\\\\1.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\".safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"pytorch_model.bin\"}"), "not the path of a .safetensors file",
         "pytorch_model.bin"},
        {INDEX("{\"a\":\"x/../1.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"x//1.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"./1.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"x/.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"x\\n.safetensors\"}"), "not the path of a .safetensors file", "\"a\""},
        {INDEX("{\"a\":\"1.safetensors\",\"b\":\"broken.safetensors\"}"), "broken.safetensors",
         "must begin with '{'"},
    };
    char *dir = test_mkdir();
    write_file(dir, "1.safetensors", "{\"a\":" T("U8", "[1]", "0", "1") "}", 1);
    write_file(dir, "broken.safetensors", "x{}", 0);
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err err = {0};
        struct safetensors *st;
        write_text(dir, "model.safetensors.index.json", bad[i].index);
        assert_int_equal(st_open(&st, dir, &err), -1);
        assert_err(&err, bad[i].say, bad[i].say_too, dir);
    }
    test_rmdir(dir);
}

static void reads_f32(void **state) {
    (void)state;
    struct err err = {0};
    static const char header[] =
        "{\"x\":" T("U8", "[1]", "0", "1") ",\"f16\":" T("F16", "[3]", "1", "7") //
        ",\"bf16\":" T("BF16", "[3]", "7", "13") ",\"f32\":" T("F32", "[3]", "13", "25") "}";
    struct buf b = make_file(header, 25);
    uint8_t *data = (uint8_t *)b.data + 8 + strlen(header);
    const uint16_t half[3] = {0x3c00, 0xc000, 0x0001}, bf[3] = {0x3f80, 0xc000, 0x7f80};
    const float f32[3] = {1.5f, -0.0f, 3e-39f};
    memcpy(data + 1, half, 6);
    memcpy(data + 7, bf, 6);
    memcpy(data + 13, f32, 12);
    struct safetensors *st = st_new();
    assert_int_equal(st_parse_header((uint8_t *)b.data, b.len, "f", st, &err), 0);
    assert_int_equal(st_index(st, &err), 0);
    float x[3];
    st_read_f32(st_find(st, "f16"), 0, 3, x);
    assert_true(x[0] == 1.0f && x[1] == -2.0f && x[2] == 0x1p-24f);
    st_read_f32(st_find(st, "bf16"), 1, 2, x);
    assert_true(x[0] == -2.0f && isinf(x[1]));
    st_read_f32(st_find(st, "f32"), 0, 3, x);
    assert_memory_equal(x, f32, sizeof f32);
    st_close(st);
    buf_free(&b);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts),         cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_lengths), cmocka_unit_test(refuses_truncation),
        cmocka_unit_test(single_file),     cmocka_unit_test(shards),
        cmocka_unit_test(index_decides),   cmocka_unit_test(refuses_shards),
        cmocka_unit_test(reads_f32),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
