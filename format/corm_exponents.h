/*
 * corm_exponents: the chunk encoding `exponents` of bf16 weights (docs/FORMAT.md, "Encodings").
 *
 * Owns: packing; the check of stored bytes; their decoding, in plain C, which defines what faster
 * decoders must give (kernels/cpu/exponents.h), and within which bounds.
 * Leaves to others: when this encoding is chosen (corm_chunk), checksums (corm_verify).
 * Threads: all functions are pure, but for the place that struct corm_exponents is at.
 *
 * Sign and fraction of a weight, 8 bits, do not compress and are kept as bytes. Exponents have
 * about 2.6 bits of entropy and, by falling frequency, nearly a geometric distribution, for which a
 * cascade of 2-bit codes is nearly best: 0, 1, 2 for the three commonest, 3 for "see the next
 * list", where the same is said of the next three, and so on for three lists; then the byte itself.
 * The two bits of a code lie in two words of 64, one bit a weight, so that a decoder works on 64
 * weights at a time with a handful of logical operations, and without a branch or a table that
 * depends on them.
 */
#ifndef FORMAT_CORM_EXPONENTS_H
#define FORMAT_CORM_EXPONENTS_H

#include <string.h>

#include "format/base.h"

enum {
    CORM_EXPONENTS_LISTS = 3,
    CORM_EXPONENTS_COMMON = 3 * CORM_EXPONENTS_LISTS, /* exponents that have a code */
    CORM_EXPONENTS_BLOCK = 64,                        /* weights of a pair of words */
};

/* ---- packing ---- */

/* The most, and the fewest, bytes that n weights take. */
size_t corm_exponents_bound(size_t n);
size_t corm_exponents_least(size_t n);
/* Pack the bf16 weights `raw` [2 n] into `out` [corm_exponents_bound]. Returns the bytes written.
 * n is at least 1 and below 2^32. */
size_t corm_exponents_pack(const uint8_t *raw, size_t n, uint8_t *out);

/* ---- decoding ---- */

/* Stored bytes of n weights, and the place of the next weights to decode. It owns nothing: copies
 * are free, and each goes its own way. */
struct corm_exponents {
    /* by list and code, [LISTS][4]; 0 for code 3 */
    uint8_t exponents[16];
    const uint8_t *lists[CORM_EXPONENTS_LISTS]; /* pairs of words; of any alignment */
    const uint8_t *literals;
    const uint8_t *low; /* [n, rounded up to whole blocks]; ends the stored bytes */
    size_t n;
    /* The number of codes that lists 2 and 3 have by what the stored bytes say; it is at most n,
     * whatever they say. */
    size_t said[CORM_EXPONENTS_LISTS - 1];

    size_t at;                         /* weights decoded so far, in whole blocks */
    size_t used[CORM_EXPONENTS_LISTS]; /* codes used of lists 2 and 3, and literals used */
};

/* Whether `stored` [bytes] is the encoding of n weights. Reads the lists, about a sixth of the
 * bytes. */
int corm_exponents_check(const uint8_t *stored, size_t bytes, size_t n, struct err *err);

/* Begin at the first of n weights in `stored`, which is borrowed: `bytes` as were checked, and in
 * any case at least corm_exponents_least(n). Bytes that did not pass the check, or that changed
 * since (those of a mapped file do when somebody writes to it), decode to arbitrary weights, but
 * never cause a read outside of them. */
struct corm_exponents corm_exponents_open(const uint8_t *stored, size_t bytes, size_t n);

/* Decode the next n weights into dst [2 n] and move on: a multiple of CORM_EXPONENTS_BLOCK, or all
 * that are left. Nothing outside of the stored bytes is read, whatever they say. */
void corm_exponents_decode(struct corm_exponents *e, size_t n, uint8_t *dst);

/* ---- shared by decoders ---- */

static inline uint64_t corm_exponents_word(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* 64 bits of one of the two words of a list's pairs, from code `at` on. Reads the pair that the
 * code is in and the one behind it, which may be past the list, but not past the low plane
 * (corm_exponents_open). */
static inline uint64_t corm_exponents_bits(const uint8_t *list, size_t at, int which) {
    const uint8_t *p = list + at / 64 * 16 + which * 8;
    unsigned shift = at % 64;
    return corm_exponents_word(p) >> shift | corm_exponents_word(p + 16) << 1 << (63 - shift);
}

#endif
