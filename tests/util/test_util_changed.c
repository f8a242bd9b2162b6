/*
 * test_util_changed: see test_util_changed.h.
 */
#include "tests/util/test_util_changed.h"

#include <fnmatch.h>

#include "tests/util/test.h"

struct changed changed_open(const char *name) {
    struct err err = {0};
    struct changed c = {.dir = test_mkdir(), .st = st_new()};
    char *from = mem_printf("tests/golden/models/%s", name);
    char *command = mem_printf("cp '%s'/*.json '%s' && chmod u+w '%s'/*", from, c.dir, c.dir);
    char *path = mem_printf("%s/model.safetensors", from);
    assert_int_equal(system(command), 0);
    file_read(path, 1 << 24, &c.file, &c.file_bytes, &err);
    assert_no_err(&err);
    st_parse_header(c.file, c.file_bytes, path, c.st, &err);
    assert_no_err(&err);
    st_index(c.st, &err);
    assert_no_err(&err);
    free(path);
    free(command);
    free(from);
    return c;
}

static void set(struct changed *c, const struct st_tensor *t, uint64_t element, float value) {
    uint32_t size = st_element_bytes(t->dtype);
    uint8_t *at = c->file + (t->data - c->file) + element * size;
    uint16_t half = t->dtype == ST_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
    assert_true(t->dtype == ST_F32 || t->dtype == ST_BF16 || t->dtype == ST_F16);
    memcpy(at, size == 4 ? (const void *)&value : (const void *)&half, size);
}

void changed_scale(struct changed *c, const char *pattern, float factor) {
    size_t found = 0;
    for (size_t i = 0; i < st_count(c->st); i++) {
        const struct st_tensor *t = st_at(c->st, i);
        if (fnmatch(pattern, t->name, 0) != 0) {
            continue;
        }
        found++;
        for (uint64_t k = 0; k < t->bytes / st_element_bytes(t->dtype); k++) {
            float x;
            st_read_f32(t, k, 1, &x);
            set(c, t, k, x * factor);
        }
    }
    assert_true(found > 0);
}

void changed_set(struct changed *c, const char *tensor, uint64_t element, float value) {
    const struct st_tensor *t = st_find(c->st, tensor);
    assert_non_null(t);
    set(c, t, element, value);
}

const char *changed_write(struct changed *c) {
    free(test_write(c->dir, "model.safetensors", c->file, c->file_bytes));
    return c->dir;
}

void changed_close(struct changed *c) {
    st_close(c->st);
    free(c->file);
    test_rmdir(c->dir);
}
