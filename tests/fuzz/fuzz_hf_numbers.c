/*
 * fuzz_hf_numbers: any bytes as a file of tensors. Each of them is laid out with the dimensions
 * that it may stand for, and all of its numbers are read.
 */
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_numbers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_NUMBERS = 1 << 16 };

static void inside(const struct st_tensor *t, uint64_t first, uint64_t bytes) {
    if (first > t->bytes || bytes > t->bytes - first) {
        abort();
    }
}

static void read_all(struct hf_numbers *n, const uint64_t *shape, uint32_t n_dims) {
    struct err err = {0};
    uint64_t count = 1;
    for (uint32_t d = 0; d < n_dims; d++) {
        count = shape[d] <= MOST_NUMBERS ? count * shape[d] : 0;
        count = count <= MOST_NUMBERS ? count : 0;
    }
    if (count == 0 || hf_numbers_lay(n, shape, n_dims, false, &err) < 0) {
        return;
    }
    float *x = mem_alloc(count * sizeof *x);
    if (hf_numbers_read(n, 0, count, x, &err) < 0 && !err.set) {
        abort();
    }
    struct err again = {0};
    hf_numbers_read(n, count / 3, count - count / 3, x, &again);
    hf_numbers_advise(n, count / 2, count, inside);
    hf_numbers_refuse(n, count - 1, "is read", &again);
    free(x);
}

static void read_tensor(const struct safetensors *st, const struct st_tensor *t) {
    static const struct hf_blocks blocks[] = {
        {0}, {.rows = 2, .cols = 4}, {.rows = 128, .cols = 128}, {.by_output = true}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        struct hf_numbers n;
        struct err err = {0};
        int found = hf_numbers_find(&n, st, t->name, blocks[i], &err);
        if (found < 0 && !err.set) {
            abort(); /* a refusal says why */
        }
        for (uint32_t of_byte = 1; found > 0 && of_byte <= 2; of_byte++) {
            uint64_t shape[ST_MAX_DIMS + 1];
            uint32_t n_dims = n.tensor->n_dims;
            memcpy(shape, n.tensor->shape, n_dims * sizeof *shape);
            if (n_dims == 2 || n_dims == 3) {
                shape[n_dims - 1] *= of_byte;
                read_all(&n, shape, n_dims);
            } else if (n_dims == 4) { /* groups are a dimension */
                shape[2] *= shape[3] < MOST_NUMBERS ? shape[3] * of_byte : 0;
                read_all(&n, shape, 3);
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors *st = st_new();
    struct err err = {0};
    if (st_parse_header(data, size, "a.st", st, &err) == 0 && st_index(st, &err) == 0) {
        for (size_t i = 0; i < st_count(st); i++) {
            read_tensor(st, st_at(st, i));
        }
    }
    st_close(st);
    return 0;
}
