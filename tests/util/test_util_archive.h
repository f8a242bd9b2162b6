/*
 * test_util_archive: whole archives with made-up weights, for tests and fuzz seeds.
 *
 * Every number in such an archive follows from the arch, the options and the place where it stands,
 * so a test can compute what it must read. Failures end the program. No test framework in here.
 */
#ifndef TESTS_UTIL_TEST_UTIL_ARCHIVE_H
#define TESTS_UTIL_TEST_UTIL_ARCHIVE_H

#include "format/arch.h"
#include "format/corm_write.h"

struct archive_options {
    /* Of the matrices of the trunk (f32 where it does not fit their columns), and of experts. */
    const struct codec *trunk, *expert;
    const struct codec *cold; /* of the chunks behind the hot prefix, of shorter rows; NULL: all
                                 chunks are in `expert` */
    uint32_t chunk_neurons, hot_neurons;
    enum corm_compress compress;
    bool compress_hot, blobs;
    float raw_above_ratio;
};

/* Chunks of 4 neurons, 8 of them hot, compressed where that saves 7 %, all blobs. */
struct archive_options archive_defaults(const char *trunk, const char *expert);

/* A small valid arch that differs with `seed` in every flag; dim is a multiple of 32. Those of
 * seeds 4 .. 7 modulo 8 have layers of several kinds, the others what the first families need. Free
 * with arch_free. */
void archive_arch(struct arch *a, uint64_t seed);
/* The fixed arch of tests/golden/tiny-v1.corm. */
void archive_tiny_arch(struct arch *a);
/* The same with so many layers, all with experts and without a window, and so large. */
void archive_moe_arch(struct arch *a, uint32_t n_layers, uint32_t n_experts, uint32_t ffn_dim);
/* Take the experts of one layer away: dense layers have dense_dim neurons. */
void archive_set_dense(struct arch *a, uint32_t layer, uint32_t dense_dim);

/* That of five layers with 4 experts of 8 neurons. */
struct arch archive_five_layers(void);
/* Give every layer the kind that `change` makes of its own. */
void archive_change_kinds(struct arch *a, void (*change)(struct layer_kind *k, uint32_t layer));

/* Encoded rows of a trunk tensor, and the neurons of an expert, as the archive holds them.
 * free(). */
uint8_t *archive_tensor(const struct arch *a, const struct codec *codec, enum slot_id slot,
                        uint32_t layer, size_t *bytes);
const struct codec *archive_tensor_codec(const struct arch *a, const struct codec *trunk,
                                         enum slot_id slot, uint32_t layer);
uint8_t *archive_neurons(const struct arch *a, const struct codec *codec, uint32_t layer,
                         uint32_t expert, size_t *bytes);
/* The raw bytes of an expert's chunks as the options say; the codec of its chunk i. */
uint8_t *archive_chunks(const struct arch *a, const struct archive_options *o, uint32_t layer,
                        uint32_t expert, size_t *bytes);
const struct codec *archive_chunk_codec(const struct archive_options *o, uint32_t chunk);

extern const char archive_tokenizer[], archive_license[], archive_provenance[];

/* Write everything but the finish; 0 or -1 as the writer says. */
int archive_fill(struct corm_writer *w, const struct arch *a, const struct archive_options *o,
                 struct err *err);
/* Open, fill, finish (or abort after an error). */
int archive_write(const char *path, const struct arch *a, const struct archive_options *o,
                  struct corm_write_stats *stats, struct err *err);

/* A file's bytes at an address aligned as corm_open_memory wants them. free(). */
uint8_t *archive_load(const char *path, size_t *bytes);

/* ---- any bytes as an archive ---- */

/* Whether `bytes` at `offset` lie in a file of `size`. */
static inline bool archive_inside(size_t size, uint64_t offset, uint64_t bytes) {
    return offset <= size && bytes <= size - offset;
}
/* Copies of the header and the section table; `out` has CORM_MAX_SECTIONS. Returns the number of
 * sections, 0 where there is no table inside the file. */
uint32_t archive_table(const uint8_t *file, size_t size, struct corm_header *h,
                       struct corm_section *out);
/* Compute every checksum anew, of what lies inside the file, and the file's size in the header. */
void archive_rehash(uint8_t *file, size_t size);

#endif
