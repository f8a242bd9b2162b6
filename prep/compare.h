/*
 * compare: what each way of compressing makes of an archive's own experts, on this machine.
 *
 * Owns: which chunks are the sample; compressing them in each way that their codec has; that each
 * chunk comes back to the bit; the time of decoding; the table and the JSON.
 * Leaves to others: the ways (corm_compress), the bytes (corm_chunk), fast decoders
 * (kernels/cpu/exponents.h).
 * Threads: the main thread, which measures alone: rates are those of one thread.
 *
 * The sample is spread evenly over the cold chunks of all experts, or over all chunks where none is
 * cold. Rates are of decoded bytes, from memory to memory, without the disk and without checksums.
 */
#ifndef PREP_COMPARE_H
#define PREP_COMPARE_H

#include "format/corm_read.h"

/* Append the comparison as text or JSON. Fails where a chunk of the sample is damaged or does not
 * come back, and where the archive has no experts. */
int compare_print(const struct corm *c, const char *path, bool json, struct buf *out,
                  struct err *err);

#endif
