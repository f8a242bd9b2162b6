/*
 * Fuzz target: any bytes as a chunk of exponents, checked or not, and any bytes as weights.
 * Decoders agree with the plain one and stay inside the stored bytes, whatever these say; what is
 * packed passes the check and comes back. The first two bytes are the number of weights, less 1.
 * Seeds: `test_exponents --write-seeds tests/fuzz/seeds/fuzz_exponents`.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/exponents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) {
    if (!ok) {
        abort();
    }
}

/* With the plain decoder, and then with all others. Buffers are blocks of just their size, so that
 * a step outside is seen. Returns the weights. */
static uint8_t *decode(const uint8_t *stored, size_t bytes, size_t n) {
    uint8_t *want = mem_alloc(2 * n), *got = mem_alloc(2 * n);
    struct corm_exponents e = corm_exponents_open(stored, bytes, n);
    corm_exponents_decode(&e, n, want);
    const struct exponents_isa *isa;
    for (size_t i = 0; (isa = exponents_isa_at(i)) != NULL; i++) {
        if (isa->usable()) {
            exponents_decode(isa, stored, bytes, n, got);
            check(memcmp(got, want, 2 * n) == 0);
        }
    }
    free(got);
    return want;
}

static bool all_finite(const uint8_t *weights, size_t n) {
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, weights + 2 * i, sizeof v);
        finite = finite && (v >> 7 & 0xff) != 0xff;
    }
    return finite;
}

/* Neurons whose rows are of a block each, walked as they are decoded: column `col` of each row,
 * which is the weight itself where the bytes are `trusted`, having passed their check. */
static void walk(const uint8_t *stored, size_t bytes, size_t n, const uint8_t *weights,
                 bool trusted) {
    enum { COLS = CORM_EXPONENTS_BLOCK };
    uint8_t *scratch = mem_alloc(exponents_scratch_bytes(n));
    const struct exponents_isa *isa;
    for (size_t i = 0; (isa = exponents_isa_at(i)) != NULL; i++) {
        if (!isa->usable() || !isa->rows_open) {
            continue;
        }
        struct corm_exponents e = corm_exponents_open(stored, bytes, n);
        struct exponents_rows rows = isa->rows_open(&e, COLS, scratch);
        for (size_t neuron = 0, run; neuron < n / COLS / 3; neuron += run) {
            struct exponents_rows downs[EXPONENTS_TOGETHER];
            size_t col = neuron % COLS;
            float x[COLS] = {0}, gate[EXPONENTS_TOGETHER], up[EXPONENTS_TOGETHER];
            x[col] = 1;
            run = 1 + neuron % EXPONENTS_TOGETHER;
            run = run < n / COLS / 3 - neuron ? run : n / COLS / 3 - neuron;
            isa->gates_ups(&rows, (uint32_t)run, x, gate, up, downs);
            for (size_t k = 0; k < run; k++) {
                const uint8_t *decoded = weights + 2 * 3 * (neuron + k) * COLS;
                float y[COLS] = {0}, one = 1;
                isa->add_downs(&downs[k], 1, &one, y);
                const float got[3] = {gate[k], up[k], y[col]};
                for (size_t row = 0; row < 3; row++, decoded += 2 * COLS) {
                    uint16_t v;
                    memcpy(&v, decoded + 2 * col, sizeof v);
                    check(!trusted || !all_finite(decoded, COLS) || got[row] == bf16_to_f32(v));
                }
            }
        }
    }
    free(scratch);
}

static void unpack(const uint8_t *data, size_t size, size_t n) {
    uint8_t *stored = mem_alloc(size + !size);
    memcpy(stored, data, size);
    struct err err = {0};
    int rc = corm_exponents_check(stored, size, n, &err);
    check((rc == 0) == !err.set);
    bool enough = size >= corm_exponents_least(n);
    check(rc != 0 || enough);
    if (enough) {
        uint8_t *weights = decode(stored, size, n);
        walk(stored, size, n, weights, rc == 0);
        free(weights);
    }
    free(stored);
}

static void pack(const uint8_t *raw, size_t n) {
    uint8_t *stored = mem_alloc(corm_exponents_bound(n));
    size_t bytes = corm_exponents_pack(raw, n, stored);
    check(bytes >= corm_exponents_least(n) && bytes <= corm_exponents_bound(n));
    stored = mem_realloc(stored, bytes);
    struct err err = {0};
    check(corm_exponents_check(stored, bytes, n, &err) == 0);
    uint8_t *again = decode(stored, bytes, n);
    check(memcmp(again, raw, 2 * n) == 0);
    free(again);
    free(stored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    size_t n = 1 + (size_t)(data[0] | data[1] << 8);
    unpack(data + 2, size - 2, n);
    if (size >= 4) {
        pack(data + 2, (size - 2) / 2);
    }
    return 0;
}
