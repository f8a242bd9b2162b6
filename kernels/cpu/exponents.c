#include "kernels/cpu/exponents.h"

#include <string.h>

static bool always(void) {
    return true;
}

static const struct exponents_isa scalar = {
    .name = "scalar", .usable = always, .decode = corm_exponents_decode};

const struct exponents_isa *exponents_isa_at(size_t i) {
    static const struct exponents_isa *const isas[] = {
#ifdef __x86_64__
        &exponents_avx512,
        &exponents_avx2,
#endif
        &scalar,
    };
    return i < sizeof isas / sizeof isas[0] ? isas[i] : NULL;
}

const struct exponents_isa *exponents_isa_best(const char *isa) {
    size_t i = 0;
    const struct exponents_isa *x;
    while (isa && exponents_isa_at(i) && strcmp(exponents_isa_at(i)->name, isa) != 0) {
        i++;
    }
    while ((x = exponents_isa_at(i)) && !x->usable()) {
        i++;
    }
    return x ? x : &scalar;
}
