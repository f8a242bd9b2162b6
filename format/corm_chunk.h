/*
 * corm_chunk: the encodings of a stored chunk (docs/FORMAT.md, "Encodings").
 *
 * Owns: zstd, the byte planes of 16-bit weights, and the choice of encoding for a codec.
 * Leaves to others: checksums and layout (corm_read, corm_write). Nothing outside these two
 * includes this.
 * Threads: a packer or decoder belongs to one thread at a time.
 */
#ifndef FORMAT_CORM_CHUNK_H
#define FORMAT_CORM_CHUNK_H

#include "format/codec.h"
#include "format/corm_file.h"

/* The one compressed encoding that chunks of a codec may have besides RAW: PLANES for 16-bit
 * codecs, ZSTD for the others. */
enum corm_encoding corm_chunk_encoding(const struct codec *codec);

struct corm_packer;
struct corm_packer *corm_packer_new(const struct codec *codec);
void corm_packer_free(struct corm_packer *p);
/* Compress `raw` [bytes] with the codec's encoding. Returns the packed bytes, borrowed until the
 * next call, and their number in `packed_bytes`. */
const uint8_t *corm_packer_pack(struct corm_packer *p, const uint8_t *raw, size_t bytes,
                                size_t *packed_bytes);

struct corm_decoder;
/* `max_raw_bytes`: of the largest chunk that will be decoded. */
struct corm_decoder *corm_decoder_sized(size_t max_raw_bytes);
void corm_decoder_free(struct corm_decoder *d);
/* Decode `stored` into exactly `raw_bytes` at `dst` (not overlapping). `encoding` is valid
 * for `codec`; `stored` is not trusted. */
int corm_decoder_unpack(struct corm_decoder *d, const struct codec *codec,
                        enum corm_encoding encoding, const uint8_t *stored, size_t stored_bytes,
                        uint8_t *dst, size_t raw_bytes, struct err *err);

#endif
