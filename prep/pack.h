/*
 * pack: a checkpoint's tensors -> a .corm archive.
 *
 * Owns: which codec each tensor gets, the order of neurons and the size of the hot prefix,
 * streaming (one expert's record and a few rows in memory at a time), provenance and licence text.
 * Leaves to others: reading weights (prep/hf), bytes of the archive (format/corm_write), the
 * tokenizer section (prep/hf/hf_tokenizer).
 * Threads: called from the main thread; conversion and compression of neurons run on a pool
 * of its own.
 * The same checkpoint and options give the same file, byte for byte: there are no dates and no
 * paths in it, and it does not depend on the number of threads.
 */
#ifndef PREP_PACK_H
#define PREP_PACK_H

#include "format/corm_write.h"
#include "format/progress.h"
#include "prep/calib/calib.h"
#include "prep/hf/hf.h"
#include "prep/stop.h"

struct pack_options {
    const struct codec *expert_codec; /* NULL: the one that holds all experts exactly */
    /* The codec of each chunk of each expert; NULL: expert_codec, which else is one of the longest
     * rows among them. NULL where calibration has rounded the experts. */
    const struct codec *(*chunk_codec)(void *ctx, uint32_t layer, uint32_t expert, uint32_t chunk,
                                       uint32_t n_hot);
    void *chunk_codec_ctx;
    const struct codec *trunk_codec; /* NULL: for each matrix the one that holds it exactly */
    /* In place of that where nobody asked for it: of matrices in blocks of GGUF, whose bits no
     * codec keeps; NULL: as of all others. */
    const struct codec *trunk_blocks;
    double hot_fraction;         /* 0 .. 1 of an expert's neurons, rounded to whole chunks */
    uint32_t chunk_neurons;      /* a multiple of 32 */
    enum corm_compress compress; /* as of corm_write; one that the experts' codec has */
    bool raw_hot;                /* keep hot prefixes raw even so */
    uint32_t threads;            /* >= 1 */
    const char *version;         /* of the program, for provenance */
    /* What calibration found: the order of neurons, hot prefixes (in place of hot_fraction) and
     * predictors. NULL: neurons keep the checkpoint's order. Calibration must have used the chunk
     * size that pack_chunk_neurons returns. `predictors` is the finished section. */
    const struct calib_result *calib;
    const struct buf *predictors;
    const char *calib_text; /* which text was used, for provenance */
};

/* With AUTO, a chunk stays raw unless compressing makes it smaller than this part of it: a raw
 * chunk is used where it lies and costs no decoding. 16-bit weights compress to two thirds, q8 and
 * q4 hardly. */
static const float PACK_RAW_ABOVE = 0.9f;

/* Whether the model can be packed so, and has a tokenizer: what pack_model would refuse before it
 * writes. */
int pack_check(const struct hf_model *m, const struct pack_options *opt, struct err *err);

/* Whether experts are of several types, so that f32 alone holds all of them exactly. */
bool pack_experts_mixed(const struct hf_model *m);
/* Matrices of the trunk whose bits no codec keeps: where they are stored exactly they grow, because
 * f32 is what holds a number times its scale. */
struct pack_grown {
    const char *numbers; /* what the first of them is stored as; NULL: there are none */
    uint32_t matrices;
    uint64_t from_bytes, to_bytes;
};
struct pack_grown pack_trunk_grown(const struct hf_model *m, const struct pack_options *opt);
/* The neurons of a chunk of this model: `wanted`, or all of an expert's where it has fewer. */
uint32_t pack_chunk_neurons(const struct arch *a, uint32_t wanted);

struct pack_result {
    struct corm_write_stats stats;
    uint64_t source_bytes;            /* of the safetensors files */
    const struct codec *expert_codec; /* as chosen */
    uint32_t chunk_neurons;
};

/* Write `m` to `out_path`, which is replaced where it exists. A failure leaves nothing behind. */
int pack_model(const struct hf_model *m, const char *out_path, const struct pack_options *opt,
               struct progress *progress, const volatile sig_atomic_t *stop,
               struct pack_result *result, struct err *err);

#endif
