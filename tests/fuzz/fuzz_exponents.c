/*
 * Fuzz target: any bytes as a chunk of exponents, checked or not, and any bytes as weights.
 * Decoders agree with the plain one and stay inside the stored bytes, whatever these say; what is
 * packed passes the check and comes back. The first two bytes are the number of weights, less 1.
 * Seeds: `test_exponents --write-seeds tests/fuzz/seeds/fuzz_exponents`.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/exponents.h"

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

enum { SHORT_COLS = CORM_EXPONENTS_BLOCK, LONG_COLS = 9 * CORM_EXPONENTS_BLOCK };

/* Whether column `col` of the `n_rows` rows from `decoded` on, every third, adds up to `got`. Rows
 * with an infinity or a NaN make what they like. */
static bool adds_up(const uint8_t *decoded, size_t n_rows, size_t cols, size_t col, float got) {
    float sum = 0;
    for (size_t i = 0; i < n_rows; i++, decoded += 3 * 2 * cols) {
        uint16_t v;
        memcpy(&v, decoded + 2 * col, sizeof v);
        sum += bf16_to_f32(v);
        if (!all_finite(decoded, cols)) {
            return true;
        }
    }
    return got == sum || !isfinite(sum);
}

/* Neurons, walked as they are decoded: column `col` of each gate and up, which is the weight itself
 * where the bytes are `trusted`, having passed their check, and of the sum of a run's downs. `ask`:
 * with bytes asked for ahead. */
static void walk(const struct exponents_isa *isa, const struct corm_exponents *e, size_t cols,
                 const uint8_t *weights, bool trusted, bool ask) {
    enum { MOST = EXPONENTS_TOGETHER_MAX };
    const float ones[MOST] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint8_t *scratch = mem_alloc(exponents_scratch_bytes(e->n));
    struct exponents_rows rows = isa->rows_open(e, (uint32_t)cols, scratch, ask), downs[MOST];
    for (size_t at = 0, n = e->n / cols / 3, run; at < n; at += run) {
        const size_t col = at % cols, row_bytes = 2 * cols;
        const uint8_t *decoded = weights + 3 * at * row_bytes;
        float x[LONG_COLS] = {0}, y[LONG_COLS] = {0}, gate[MOST], up[MOST];
        x[col] = 1;
        run = 1 + at % MOST;
        run = run < n - at ? run : n - at;
        isa->gates_ups(&rows, (uint32_t)run, x, gate, up, downs);
        isa->add_downs(downs, (uint32_t)run, ones, y);
        for (size_t k = 0; k < run && trusted; k++) {
            const uint8_t *neuron = decoded + 3 * k * row_bytes;
            check(adds_up(neuron, 1, cols, col, gate[k]));
            check(adds_up(neuron + row_bytes, 1, cols, col, up[k]));
        }
        check(!trusted || adds_up(decoded + 2 * row_bytes, run, cols, col, y[col]));
    }
    free(scratch);
}

static void walks(const uint8_t *stored, size_t bytes, size_t n, const uint8_t *weights,
                  bool trusted) {
    const struct exponents_isa *isa;
    for (size_t i = 0; (isa = exponents_isa_at(i)) != NULL; i++) {
        if (isa->usable() && isa->rows_open) {
            struct corm_exponents e = corm_exponents_open(stored, bytes, n);
            walk(isa, &e, SHORT_COLS, weights, trusted, false);
            walk(isa, &e, LONG_COLS, weights, trusted, false);
            walk(isa, &e, LONG_COLS, weights, trusted, true);
        }
    }
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
        walks(stored, size, n, weights, rc == 0);
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
