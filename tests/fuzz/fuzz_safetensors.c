/*
 * fuzz_safetensors: any bytes as a .safetensors file. What the parser accepts is read to its last
 * byte.
 */
#include <stdlib.h>

#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = {0};
    struct safetensors *st = st_new();
    if (st_parse_header(data, size, "fuzz", st, &err) == 0 && st_index(st, &err) == 0) {
        for (size_t i = 0; i < st_count(st); i++) {
            const struct st_tensor *t = st_at(st, i);
            char text[192];
            volatile uint64_t sum = hash64(t->data, t->bytes);
            (void)sum;
            st_shape_text(t, text);
            if (st_find(st, t->name) != t) {
                abort();
            }
            if (t->dtype == ST_F32 || t->dtype == ST_F16 || t->dtype == ST_BF16) {
                uint64_t n = t->bytes / st_element_bytes(t->dtype);
                float *x = mem_calloc(n, sizeof *x);
                st_read_f32(t, 0, n, x);
                free(x);
            }
        }
    } else if (!err.set) {
        abort(); /* a refusal says why */
    }
    st_close(st);
    return 0;
}
