/*
 * fuzz_gguf: any bytes as a file in GGUF. What the parser accepts is read to its last byte: every
 * item of every key, every number of every tensor.
 */
#include <stdlib.h>

#include "prep/gguf/gguf.h"
#include "prep/gguf/gguf_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_NUMBERS = 1 << 16 };

static void read_value(const struct gguf *g, const struct gguf_value *v) {
    struct gguf_walk at = {0};
    struct gguf_text text;
    uint64_t texts = 0;
    while (gguf_next_text(v, &at, &text)) {
        volatile uint64_t sum = hash64(text.data, text.bytes);
        (void)sum;
        texts++;
    }
    for (uint64_t i = 0; v->type != GGUF_STRING && i < v->n; i++) {
        double real;
        int64_t integer;
        if (gguf_integer(v, i, &integer) && !gguf_real(v, i, &real)) {
            abort();
        }
    }
    if (gguf_find(g, v->key) != v || (v->type == GGUF_STRING && texts != v->n)) {
        abort();
    }
}

static void read_tensor(const struct st_tensor *t) {
    const struct gguf_block *b = gguf_block_by_name(t->dtype_name);
    volatile uint64_t sum = hash64(t->data, t->bytes);
    (void)sum;
    uint64_t n = b ? t->bytes / b->bytes * b->numbers : t->bytes / st_element_bytes(t->dtype);
    n = n < MOST_NUMBERS ? n : MOST_NUMBERS;
    float *x = mem_calloc(n, sizeof *x);
    if (b) {
        gguf_block_read(b, t->data, 0, n, x);
    } else {
        st_read_f32(t, 0, n, x);
    }
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = {0};
    struct gguf g = {.st = st_new()};
    if (gguf_parse(&g, data, size, "fuzz", &err) == 0 && st_index(g.st, &err) == 0) {
        for (size_t i = 0; i < g.n_values; i++) {
            read_value(&g, &g.values[i]);
        }
        for (size_t i = 0; i < st_count(g.st); i++) {
            read_tensor(st_at(g.st, i));
        }
    } else if (!err.set) {
        abort(); /* a refusal says why */
    }
    gguf_close(&g);
    return 0;
}
