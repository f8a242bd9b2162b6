/*
 * test_util_tensors: see test_util_tensors.h.
 */
#include "tests/util/test_util_tensors.h"

#include "tests/util/test.h"

void tensors_add(struct tensors *t, const char *name, const char *dtype, const char *shape,
                 const void *data, size_t bytes) {
    size_t from = t->data.len;
    if (data) {
        buf_append(&t->data, data, bytes);
    }
    while (t->data.len < from + bytes) {
        buf_append(&t->data, "", 1);
    }
    buf_printf(&t->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
               t->header.len ? "," : "{", name, dtype, shape, from, t->data.len);
}

struct safetensors *tensors_open(struct tensors *t) {
    struct err err = {0};
    buf_printf(&t->header, t->header.len ? "}" : "{}");
    while (t->header.len % 8) {
        buf_printf(&t->header, " ");
    }
    uint64_t n = t->header.len;
    buf_append(&t->file, &n, sizeof n);
    buf_append(&t->file, t->header.data, t->header.len);
    if (t->data.len) {
        buf_append(&t->file, t->data.data, t->data.len);
    }
    t->st = st_new();
    st_parse_header((const uint8_t *)t->file.data, t->file.len, "a.st", t->st, &err);
    assert_no_err(&err);
    assert_int_equal(st_index(t->st, &err), 0);
    return t->st;
}

void tensors_close(struct tensors *t) {
    st_close(t->st);
    buf_free(&t->header);
    buf_free(&t->data);
    buf_free(&t->file);
    *t = (struct tensors){0};
}
