/*
 * npy and run_json: what corm-run writes for other programs.
 */
#include "tests/util/test.h"

#include <math.h>
#include <signal.h>
#include <sys/stat.h>

#include <jansson.h>

#include "runtime/run/npy.h"
#include "runtime/run/run_json.h"

static bool exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static void npy_whole_file(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = mem_printf("%s/a.npy", dir),
         *part = mem_printf("%s.part", path);
    struct npy n = {0};
    struct err err = {0};
    const float values[] = {1, -2.5f, 3e-39f, NAN, INFINITY, 0};
    assert_int_equal(npy_create(&n, path, 3, 2, NULL, &err), 0);
    assert_int_equal(npy_append(&n, values, 2, &err), 0);
    assert_false(exists(path)); /* the name appears with the whole file */
    assert_int_equal(npy_append(&n, values + 4, 1, &err), 0);
    assert_int_equal(npy_finish(&n, &err), 0);
    npy_close(&n);
    assert_no_err(&err);
    assert_false(exists(part));

    uint8_t *data;
    size_t bytes;
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes, &err), 0);
    assert_int_equal(bytes, 128 + sizeof values);
    const char head[] = "\x93NUMPY\x01\x00\x76\x00"
                        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }  ";
    assert_memory_equal(data, head, sizeof head - 1);
    assert_int_equal(data[127], '\n');
    assert_memory_equal(data + 128, values, sizeof values);
    free(data);
    free(path);
    free(part);
    test_rmdir(dir);
}

/* A signal between the making of the file and word of it would leave it behind. */
static volatile sig_atomic_t came, word;
static void on_signal(int number) {
    (void)number;
    came = 1 + word;
}
static void tell_raising(const char *part) {
    raise(SIGTERM);
    assert_false(came);
    word = part ? 1 : 2;
}

static void signals_wait_for_word(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = mem_printf("%s/a.npy", dir);
    struct sigaction action = {.sa_handler = on_signal}, before;
    struct npy n = {0};
    struct err err = {0};
    const float values[2] = {0};
    sigaction(SIGTERM, &action, &before);
    for (int finished = 0; finished < 2; finished++) {
        came = word = 0;
        assert_int_equal(npy_create(&n, path, 1, 2, tell_raising, &err), 0);
        assert_int_equal(came, 2); /* once, after word of the file */
        assert_int_equal(npy_append(&n, values, 1, &err), 0);
        came = 0;
        if (finished) {
            assert_int_equal(npy_finish(&n, &err), 0);
            assert_int_equal(came, 3);
        }
        npy_close(&n);
        assert_int_equal(came, 3);
        assert_int_equal(exists(path), finished);
    }
    assert_no_err(&err);
    sigaction(SIGTERM, &before, NULL);
    free(path);
    test_rmdir(dir);
}

static void npy_broken_off(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = mem_printf("%s/a.npy", dir),
         *part = mem_printf("%s.part", path);
    struct npy n = {0};
    struct err err = {0}, over = {0}, missing = {0};
    const float values[4] = {0};
    assert_int_equal(npy_create(&n, path, 2, 2, NULL, &err), 0);
    assert_int_equal(npy_append(&n, values, 1, &err), 0);
    assert_int_equal(npy_append(&n, values, 2, &over), -1);
    assert_err(&over, "a.npy", "2 rows");
    assert_int_equal(npy_finish(&n, &missing), -1);
    assert_err(&missing, "a.npy", "only 1 of 2 rows");
    assert_true(exists(part));
    npy_close(&n);
    assert_false(exists(part));
    assert_false(exists(path));
    npy_close(&n);
    free(path);
    free(part);
    test_rmdir(dir);
}

static const char *told;

static void tell(const char *part) {
    told = part;
}

/* Two with the same output: the second is refused, and changes nothing for the first. What a killed
 * one left, and a link, is replaced. */
static void npy_two_at_once(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = mem_printf("%s/a.npy", dir),
         *part = mem_printf("%s.part", path);
    char *precious = test_write(dir, "precious", "mine", 4);
    struct npy first = {0}, second = {0};
    struct err err = {0}, busy = {0};
    const float values[2] = {3, 4};
    struct stat st;
    free(test_write(dir, "a.npy.part", "half", 4));
    assert_int_equal(npy_create(&first, path, 1, 2, tell, &err), 0);
    assert_string_equal(told, part);
    assert_int_equal(npy_create(&second, path, 1, 2, tell, &busy), -1);
    assert_err(&busy, path, "another process is writing it");
    npy_close(&second);
    assert_string_equal(told, part);
    assert_int_equal(npy_append(&first, values, 1, &err), 0);
    assert_int_equal(npy_finish(&first, &err), 0);
    assert_null(told);
    npy_close(&first);
    assert_no_err(&err);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 128 + sizeof values);

    assert_int_equal(symlink(precious, part), 0);
    assert_int_equal(npy_create(&second, path, 1, 2, tell, &err), 0);
    npy_close(&second);
    assert_null(told);
    assert_false(exists(part));
    assert_int_equal(stat(precious, &st), 0);
    assert_int_equal(st.st_size, 4);
    assert_int_equal(stat(path, &st), 0); /* the whole file of before stays */
    free(precious);
    free(path);
    free(part);
    test_rmdir(dir);
}

static void npy_bad_places(void **state) {
    (void)state;
    struct npy n = {0};
    struct err nowhere = {0}, full = {0}, err = {0};
    const float values[1024] = {0};
    assert_int_equal(npy_create(&n, "/nonexistent/a.npy", 1, 1, NULL, &nowhere), -1);
    assert_err(&nowhere, "/nonexistent/a.npy", "No such file");
    npy_close(&n);
    /* A device is written directly, and is not removed. */
    assert_int_equal(npy_create(&n, "/dev/full", 1, 1024, NULL, &full), -1);
    assert_err(&full, "/dev/full", "No space left");
    npy_close(&n);
    assert_int_equal(npy_create(&n, "/dev/null", 1, 1024, NULL, &err), 0);
    assert_int_equal(npy_append(&n, values, 1, &err), 0);
    assert_int_equal(npy_finish(&n, &err), 0);
    npy_close(&n);
    assert_true(exists("/dev/null") && exists("/dev/full"));
}

/* ---- JSON, read back with a library ---- */

static void json_reads_back(void **state) {
    (void)state;
    char text[0x80];
    for (int i = 0; i < 0x80; i++) {
        text[i] = (char)i;
    }
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_u64(&j, "big", UINT64_C(9007199254740993));
    run_json_f64(&j, "small", 1.5e-7);
    run_json_f32(&j, "float", 0.95f);
    run_json_f32(&j, "infinite", INFINITY);
    run_json_f64(&j, "nan", NAN);
    run_json_f64(&j, "inf", -INFINITY);
    run_json_bool(&j, "yes", true);
    run_json_text(&j, "ascii", text, sizeof text);
    run_json_string(&j, "utf8", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    run_json_open(&j, "list", '[');
    run_json_u64(&j, NULL, 1);
    run_json_open(&j, NULL, '{');
    run_json_close(&j, '}');
    run_json_bool(&j, NULL, false);
    run_json_close(&j, ']');
    run_json_open(&j, "empty", '[');
    run_json_close(&j, ']');
    run_json_string(&j, "last", "");
    run_json_close(&j, '}');
    assert_null(memchr(j.text.data, '\n', j.text.len));

    json_error_t why;
    json_t *root = json_loads(j.text.data, JSON_ALLOW_NUL, &why);
    if (!root) {
        fail_msg("%s: %s", why.text, j.text.data);
    }
    assert_int_equal(json_integer_value(json_object_get(root, "big")), 9007199254740993);
    assert_true(json_real_value(json_object_get(root, "small")) == 1.5e-7);
    assert_true(json_real_value(json_object_get(root, "float")) == 0.95);
    assert_true(json_is_null(json_object_get(root, "infinite")));
    assert_true(json_is_null(json_object_get(root, "nan")));
    assert_true(json_is_null(json_object_get(root, "inf")));
    assert_true(json_is_true(json_object_get(root, "yes")));
    const json_t *ascii = json_object_get(root, "ascii");
    assert_int_equal(json_string_length(ascii), sizeof text);
    assert_memory_equal(json_string_value(ascii), text, sizeof text);
    assert_string_equal(json_string_value(json_object_get(root, "utf8")),
                        "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_int_equal(json_array_size(json_object_get(root, "list")), 3);
    assert_int_equal(json_array_size(json_object_get(root, "empty")), 0);
    assert_string_equal(json_string_value(json_object_get(root, "last")), "");
    json_decref(root);
    buf_free(&j.text);
}

/* Jansson refuses strings that are no UTF-8, so it is the judge of every pair and triple of bytes
 * with something at the borders of the encoding. */
static void json_bad_utf8(void **state) {
    (void)state;
    static const uint8_t edge[] = {0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                   0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
                                   0xee, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
    enum { N = TEST_COUNT(edge) };
    for (unsigned i = 0; i < N * N * N * N; i++) {
        const uint8_t bytes[4] = {edge[i % N], edge[i / N % N], edge[i / N / N % N],
                                  edge[i / N / N / N]};
        for (size_t n = i < N * N * N ? 1 : 4; n <= 4; n++) {
            struct run_json j = {0};
            run_json_open(&j, NULL, '[');
            run_json_text(&j, NULL, (const char *)bytes, n);
            run_json_close(&j, ']');
            json_t *root = json_loads(j.text.data, 0, NULL);
            if (!root) {
                fail_msg("%02x %02x %02x %02x, %zu bytes", bytes[0], bytes[1], bytes[2], bytes[3],
                         n);
            }
            const char *text = json_string_value(json_array_get(root, 0));
            json_t *valid = json_stringn((const char *)bytes, n); /* NULL unless UTF-8 */
            bool kept = strlen(text) == n && memcmp(text, bytes, n) == 0;
            assert_int_equal(kept, valid != NULL);
            json_decref(valid);
            json_decref(root);
            buf_free(&j.text);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_whole_file),        cmocka_unit_test(npy_broken_off),
        cmocka_unit_test(signals_wait_for_word), cmocka_unit_test(npy_two_at_once),
        cmocka_unit_test(npy_bad_places),        cmocka_unit_test(json_reads_back),
        cmocka_unit_test(json_bad_utf8),
    };
    return cmocka_run_group_tests_name("npy", tests, NULL, NULL);
}
