/*
 * corm_compress: the ways in which an archive's experts can be compressed, as users choose and see
 * them.
 *
 * Owns: their names, which of them a codec has, and which of them an archive has.
 * Leaves to others: encodings, which are what each way makes of the chunks of a codec (corm_chunk);
 * when a chunk stays raw all the same (corm_write).
 * Threads: all functions are pure.
 */
#ifndef FORMAT_CORM_COMPRESS_H
#define FORMAT_CORM_COMPRESS_H

#include "format/codec.h"

enum corm_compress {
    CORM_COMPRESS_NONE,      /* every chunk is raw */
    CORM_COMPRESS_AUTO,      /* EXPONENTS where the codec has it, else ZSTD; small gains are none */
    CORM_COMPRESS_ZSTD,      /* a zstd frame; 16-bit codecs: of the plane that has the exponents */
    CORM_COMPRESS_EXPONENTS, /* the exponents code, in which experts can be kept in memory */
    CORM_COMPRESS_WAYS,
};

/* By enum corm_compress: "none", "auto", ...; ends with NULL. */
extern const char *const corm_compress_words[];

/* An error where chunks of this codec cannot be compressed so; the message names both. */
int corm_compress_check(enum corm_compress how, const struct codec *codec, struct err *err);

/* How the chunks of an archive are compressed: "none", "zstd", "exponents", or "zstd and
 * exponents". Raw chunks beside compressed ones do not count. */
struct corm;
const char *corm_compress_of(const struct corm *c);

#endif
