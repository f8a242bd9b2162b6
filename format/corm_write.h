/*
 * corm_write: append-only writer of .corm archives.
 *
 * Owns: layout (alignment, order of sections), checksums, compressing chunks, and the promise that
 * the final name only ever holds a whole archive: bytes go to `<path>.tmp`, which is fsynced and
 * renamed; any failure, and corm_write_abort, removes that file. (A process that is killed leaves
 * only that file, and the next writer replaces it.)
 * Leaves to others: what the tensors contain (prep/pack); that no two writers write to one path at
 * a time (prep/claim).
 * Threads: one writer belongs to one thread. It compresses the chunks of a record on workers that
 * it is given.
 *
 * Order of calls: open; tensors in slot-table order; records in (layer, expert) order; blobs at any
 * time; finish. The writer holds the indexes, the blobs and one compressed record in memory. `arch`
 * is borrowed until finish or abort. After any error only abort may follow, or finish, which then
 * fails.
 */
#ifndef FORMAT_CORM_WRITE_H
#define FORMAT_CORM_WRITE_H

#include "format/arch.h"
#include "format/corm_compress.h"
#include "format/corm_file.h"

struct corm_writer;

/* What runs work in parallel: run calls fn(arg, item, worker) once for every item in [0, n_items),
 * with worker in [0, n), and returns when all are done. */
struct corm_write_workers {
    uint32_t n;
    void *ctx;
    void (*run)(void *ctx, void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg,
                uint32_t n_items);
};

struct corm_write_options {
    const struct codec *expert_codec; /* where chunks have several, one of the longest rows */
    /* Neurons of every chunk but a record's last, > 0; more than ffn_dim counts as ffn_dim. The hot
     * prefix is a run of such chunks, adjacent in the file: one read fetches it, and every decoded
     * chunk fits one cache slot. */
    uint32_t chunk_neurons;
    enum corm_compress compress; /* one that the codec has; a chunk that does not get smaller by it
                                    stays raw */
    bool compress_hot;           /* whether hot prefixes are compressed too */
    float raw_above_ratio;       /* AUTO: store raw where stored/raw would exceed this */
    /* What compresses chunks in parallel. Where its `run` is NULL, the calling thread does it. The
     * bytes of the archive do not depend on it. */
    struct corm_write_workers workers;
};

struct corm_write_stats {
    uint64_t file_bytes, trunk_bytes, record_raw_bytes, record_stored_bytes;
    uint64_t n_chunks, n_chunks_raw, n_neurons, n_neurons_hot;
    uint64_t
        n_chunks_unshrunk; /* raw, because compressing gained nothing, or with AUTO too little */
};

int corm_write_open(struct corm_writer **w, const char *path, const struct arch *arch,
                    const struct corm_write_options *opt, struct err *err);

/* Append one trunk tensor: `rows` rows of codec_row_bytes(codec, cols), contiguous in `data`; may
 * be given in pieces: corm_write_tensor_begin, then rows in order, then _end. */
int corm_write_tensor_begin(struct corm_writer *w, enum slot_id slot, uint32_t layer,
                            const struct codec *codec, uint32_t rows, uint32_t cols,
                            struct err *err);
int corm_write_tensor_rows(struct corm_writer *w, const void *data, uint32_t n_rows,
                           struct err *err);
int corm_write_tensor_end(struct corm_writer *w, struct err *err);

/* Append one expert's record: `neurons` [ffn_dim, neuron_bytes], encoded rows gate | up | down of
 * each neuron, in final order; the first `hot_neurons` (a multiple of chunk_neurons, or ffn_dim)
 * form the hot prefix. */
int corm_write_record(struct corm_writer *w, uint32_t layer, uint32_t expert,
                      const uint8_t *neurons, uint32_t hot_neurons, struct err *err);
/* The same with a codec for each chunk, [chunks of the record], in which its neurons are encoded;
 * chunks lie one after the other. Where all chunks of the archive turn out to have one codec, the
 * archive is that of one codec, to the byte. */
int corm_write_record_mixed(struct corm_writer *w, uint32_t layer, uint32_t expert,
                            const struct codec *const *codecs, const uint8_t *neurons,
                            uint32_t hot_neurons, struct err *err);

/* A whole small section: TOKENIZER, PROVENANCE, LICENSE, PREDICTORS, CONVERSATIONS. METADATA is
 * written from `arch`. */
int corm_write_blob(struct corm_writer *w, uint32_t section_type, const void *data, size_t bytes,
                    struct err *err);

/* Write index and section table and header, fsync file and directory, rename. Frees `w` in any
 * case. */
int corm_write_finish(struct corm_writer *w, struct corm_write_stats *stats, struct err *err);
/* Drop everything written; frees `w`. NULL is allowed. */
void corm_write_abort(struct corm_writer *w);

#endif
