/*
 * encode: rows of weights into codecs with scales, one table per instruction set.
 *
 * Owns: the fast forms of codec->encode_row, and which of them this processor has.
 * Leaves to others: what a row becomes (format/codec.h, whose scalar functions are the
 * definition), which tensor gets which codec (prep/pack), rows that are decoded (dot.h).
 * Threads: the tables are constant; all functions are pure and allocate nothing.
 *
 * An archive does not depend on the machine that made it: every form gives the bytes of the
 * definition, for every row, also for one of NaN and infinities. So they compute the same numbers
 * in the same order, in IEEE arithmetic that is never fused, and differ in what stands side by
 * side. The search of q4 sums over the 32 weights of a group, eight partial sums of four each.
 * Here the groups stand side by side, one in each lane, so that sums, trees and divisions are the
 * definition's as they are, for 8 or 16 groups at once. Three things are computed once that the
 * definition computes several times: sums of weights, which do not depend on codes; sums of codes
 * and of their squares, whole numbers and exact in any order, in one register each; and the last
 * codes, which are those that were measured unless the minimum was refused.
 */
#ifndef KERNELS_CPU_ENCODE_H
#define KERNELS_CPU_ENCODE_H

#include "format/codec.h"

struct encode_isa {
    const char *name;     /* as of dot.h's tables */
    bool (*usable)(void); /* does this processor, and its operating system, have it? */
    /* By id, exactly what codec->encode_row does; NULL where that is as good. */
    void (*row[CODEC_IDS])(const float *src, uint32_t cols, void *dst);
};

/* Table `i` of this program, the fastest first; NULL past the last. The last is the definition. */
const struct encode_isa *encode_isa_at(size_t i);

/* The fastest usable one, or, with the name of an instruction set, none faster than that (NULL:
 * any). Asks the processor: once for a conversion, not for each row. */
const struct encode_isa *encode_isa_best(const char *isa);

/* Encode `cols` weights `src` into `dst`, as codec->encode_row does. */
static inline void encode_row(const struct encode_isa *isa, const struct codec *codec,
                              const float *src, uint32_t cols, void *dst) {
    void (*row)(const float *, uint32_t, void *) = isa->row[codec->id];
    (row ? row : codec->encode_row)(src, cols, dst);
}

#ifdef __x86_64__
extern const struct encode_isa encode_avx2, encode_avx512;
#endif

#endif
