#include "kernels/cpu/encode.h"

#include <string.h>

static bool always(void) {
    return true;
}

static const struct encode_isa scalar = {.name = "scalar", .usable = always};

const struct encode_isa *encode_isa_at(size_t i) {
    static const struct encode_isa *const isas[] = {
#ifdef __x86_64__
        &encode_avx512,
        &encode_avx2,
#endif
        &scalar,
    };
    return i < sizeof isas / sizeof isas[0] ? isas[i] : NULL;
}

const struct encode_isa *encode_isa_best(const char *isa) {
    size_t i = 0;
    const struct encode_isa *x;
    while (isa && encode_isa_at(i) && strcmp(encode_isa_at(i)->name, isa) != 0) {
        i++;
    }
    while ((x = encode_isa_at(i)) && !x->usable()) {
        i++;
    }
    return x ? x : &scalar;
}
