/*
 * corm_chunk: the encodings of a stored chunk (docs/FORMAT.md, "Encodings").
 *
 * Owns: zstd, the byte planes of 16-bit weights, and the encoding of a chunk for each way to
 * compress.
 * Leaves to others: the encoding of exponents (corm_exponents), checksums and layout (corm_read,
 * corm_write).
 * Threads: a packer or a decoder belongs to one thread at a time.
 */
#ifndef FORMAT_CORM_CHUNK_H
#define FORMAT_CORM_CHUNK_H

#include "format/codec.h"
#include "format/corm_compress.h"
#include "format/corm_file.h"

/* Whether chunks of a codec may have the encoding: RAW all, EXPONENTS bf16, PLANES 16-bit codecs,
 * ZSTD the others. */
bool corm_chunk_may_be(uint32_t encoding, const struct codec *codec);

struct corm_packer;
struct corm_packer *corm_packer_new(const struct codec *codec);
void corm_packer_free(struct corm_packer *p);
/* A chunk's compressed bytes, borrowed until the packer's next call. */
struct corm_packed {
    enum corm_encoding encoding;
    const uint8_t *data;
    size_t bytes;
};
/* Compress `raw` [bytes] in a way that the codec has, and not NONE. The result may be larger.
 *
 * AUTO: bf16 as EXPONENTS, f16 as PLANES, all else as ZSTD. It never makes PLANES of bf16, although
 * that would be smaller where exponents hardly differ, because one such chunk would forbid keeping
 * the archive's experts packed. ZSTD: 16-bit codecs as PLANES, all else as ZSTD, and with more work
 * where that does not make a chunk smaller at first. */
struct corm_packed corm_packer_pack(struct corm_packer *p, enum corm_compress how,
                                    const uint8_t *raw, size_t bytes);
/* The same with a given encoding, which must be one that the codec may have, and not RAW. */
struct corm_packed corm_packer_pack_as(struct corm_packer *p, enum corm_encoding encoding,
                                       const uint8_t *raw, size_t bytes);

struct corm_decoder;
/* `max_raw_bytes` is the size of the largest chunk that will be decoded. */
struct corm_decoder *corm_decoder_sized(size_t max_raw_bytes);
void corm_decoder_free(struct corm_decoder *d);
/* From now on the decoder decodes chunks of exponents with this function, which must give the same
 * as corm_exponents_decode. A new decoder uses that one (corm_exponents.h; kernels/cpu/exponents.h
 * has faster ones). */
struct corm_exponents;
void corm_decoder_use(struct corm_decoder *d,
                      void (*exponents)(struct corm_exponents *e, size_t n, uint8_t *dst));
/* Decode `stored` into exactly `raw_bytes` at `dst` (not overlapping). `encoding` is valid
 * for `codec`; `stored` is not trusted. */
int corm_decoder_unpack(struct corm_decoder *d, const struct codec *codec,
                        enum corm_encoding encoding, const uint8_t *stored, size_t stored_bytes,
                        uint8_t *dst, size_t raw_bytes, struct err *err);

#endif
