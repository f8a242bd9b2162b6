#include "kernels/cpu/encode.h"

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

const struct encode_isa *encode_isa_best(void) {
    size_t i = 0;
    while (!encode_isa_at(i)->usable()) {
        i++;
    }
    return encode_isa_at(i);
}
