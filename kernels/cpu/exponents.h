/*
 * exponents: decoders of chunks of exponents (format/corm_exponents.h), one per instruction set.
 *
 * Owns: the fast forms of corm_exponents_decode, products with rows as they are decoded, and which
 * of them this processor has.
 * Leaves to others: the encoding and the check of stored bytes (corm_exponents), what is decoded
 * when: as it comes from the file (runtime/fill), or, of experts that are kept packed, each time
 * they are used (cpu_experts).
 * Threads: the table is constant; decoders are reentrant and allocate nothing.
 *
 * The fast forms decode 64 weights at a time. With AVX2 four words of index bits
 * (corm_exponents.h's lists, spread to their weights with pdep) become 64 indexes in vectors, those
 * become exponents by a shuffle, and exponents and low bytes are woven to weights. That needs
 * BMI2's pdep in hardware: AMD's first and second Zen, where it is microcode, count as not having
 * it. With AVX-512 lists 2 and 3 are decoded first, to bytes, so that a block takes its own from
 * there with one expansion.
 *
 * Products with rows do not wait for decoded rows: weights go from the stored bytes to registers
 * and are multiplied there, so that memory has to bring two thirds of what it brings for raw rows.
 * Where a row's exponents of lists 2 and 3 begin is known once the codes before it are counted,
 * which is less than to decode them, so that several rows are walked side by side.
 */
#ifndef KERNELS_CPU_EXPONENTS_H
#define KERNELS_CPU_EXPONENTS_H

#include "format/corm_exponents.h"

/* The most neurons that are met at once. */
enum { EXPONENTS_TOGETHER_MAX = 8 };

/* The place of a row among those of a chunk. Copies are free, and each goes its own way. */
struct exponents_rows {
    const uint8_t *pair, *low; /* of its first block */
    const uint8_t *later;      /* exponents that list 1 leaves to the others, from this row on */
    uint32_t cols;
    uint32_t
        ahead; /* how far ahead of use low bytes are asked for: some neurons, in weights; or 0 */
    uint8_t exponents[3]; /* of list 1 */
};

struct exponents_isa {
    const char *name;     /* as of dot.h's tables */
    bool (*usable)(void); /* does this processor, and its operating system, have it? */
    /* Exactly what corm_exponents_decode does. */
    void (*decode)(struct corm_exponents *e, size_t n, uint8_t *dst);

    /* Products with the rows of a chunk, a neuron's gate, up and down one after the other, as they
     * are decoded. The bits are those of dot.h's bf16 table of the same name on decoded rows. NULL
     * where rows are decoded first.
     *
     * rows_open: the place of the first row. `e` is at its beginning; `cols` is a multiple of
     * CORM_EXPONENTS_BLOCK; `scratch` [exponents_scratch_bytes(e->n)] is the walk's as long as it
     * goes on; `ask`: the cache is asked for bytes ahead of their use. Of stored bytes that changed
     * since they were checked some products or others come; nothing outside of both is read, as
     * long as the chunk has the neurons that are asked for. */
    struct exponents_rows (*rows_open)(const struct corm_exponents *e, uint32_t cols,
                                       uint8_t *scratch, bool ask);
    /* Of the next n <= EXPONENTS_TOGETHER_MAX neurons: gate[i], up[i] = their rows . x [cols], and
     * downs[i], the place of the third. r goes past them. A single neuron's rows are read one after
     * the other, more side by side, exponents_together(cols) at best. */
    void (*gates_ups)(struct exponents_rows *r, uint32_t n, const float *x, float *gate, float *up,
                      struct exponents_rows *downs);
    /* y [cols] += a[i] * row downs[i], for i = 0 up to n - 1 < EXPONENTS_TOGETHER_MAX; rows of one
     * rows_open. */
    void (*add_downs)(const struct exponents_rows *downs, uint32_t n, const float *a, float *y);
};

/* How many neurons are best met at once: an even number, as a sum of products waits for each of its
 * additions and those of two neurons do not; and so few that what was asked for ahead of use is
 * still in the nearest cache. */
static inline uint32_t exponents_together(uint32_t cols) {
    enum { NEAR_BYTES = 8192, PAIR = 2 };
    uint32_t n = NEAR_BYTES / (3 * cols) / PAIR * PAIR;
    return n < PAIR ? PAIR : n > EXPONENTS_TOGETHER_MAX ? EXPONENTS_TOGETHER_MAX : n;
}

/* Exponents of list 2 and of list 3, at most one for each weight. */
static inline size_t exponents_scratch_bytes(size_t n) {
    return 2 * align_up(n, CORM_EXPONENTS_BLOCK);
}

/* Decoder `i` of this program, the fastest first; NULL past the last. The last is usable
 * everywhere. */
const struct exponents_isa *exponents_isa_at(size_t i);

/* The fastest usable decoder; of those up to instruction set `isa` where it is not NULL. */
const struct exponents_isa *exponents_isa_best(const char *isa);

/* Decode a whole chunk: `stored` [bytes], as corm_exponents_open wants them, into the n weights
 * dst [2 n]. */
static inline void exponents_decode(const struct exponents_isa *isa, const uint8_t *stored,
                                    size_t bytes, size_t n, uint8_t *dst) {
    struct corm_exponents e = corm_exponents_open(stored, bytes, n);
    isa->decode(&e, n, dst);
}

#ifdef __x86_64__
extern const struct exponents_isa exponents_avx2, exponents_avx512;
#endif

#endif
