/*
 * corm_write: see corm_write.h. Order in the file: header page, metadata, trunk, records, tensor
 * index, record index, blobs, section table. The header page stays zero until everything else is
 * written.
 */
#include "format/corm_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/corm_chunk.h"
#include "format/corm_read.h"

enum {
    BUFFER_BYTES = 1 << 20,
    FIRST_BLOB = CORM_SECTION_TOKENIZER, /* smallest and greatest section type that can be a blob */
    LAST_BLOB = CORM_SECTION_CONVERSATIONS,
};

enum stage { STAGE_TRUNK, STAGE_RECORDS, STAGE_DONE };

/* A chunk of the record at hand, ready to be written. */
struct stored_chunk {
    const uint8_t *data;
    size_t bytes, raw_bytes;
    uint64_t hash;
    enum corm_encoding encoding; /* CORM_ENCODING_RAW is 0 */
    enum codec_id codec;
    bool unshrunk;
};

struct corm_writer {
    const struct arch *arch;
    struct corm_write_options opt;
    char *path, *tmp_path;
    int fd;
    bool failed;

    uint8_t *buffer; /* [BUFFER_BYTES], `buffered` of them wait to be written */
    size_t buffered;
    uint64_t offset; /* in the file, of the next byte */

    enum stage stage;
    struct slot_place next; /* the tensor that has to come next */
    bool more_tensors, in_tensor;
    struct corm_tensor tensor; /* the open one */
    uint32_t tensor_rows;
    struct hasher *tensor_hash;

    uint32_t next_layer, next_expert; /* the record that has to come next */
    size_t neuron_bytes;
    struct corm_packer **packers; /* [n_packers, CODEC_IDS] of each worker, made when needed */
    uint32_t n_packers;
    uint32_t codec;      /* of all chunks so far; 0: there was none */
    bool mixed;          /* they have several */
    uint8_t *compressed; /* a record's compressed chunks, each at the place of its raw bytes */
    struct stored_chunk *places; /* [chunks of a record] */

    struct buf tensors, records, chunks; /* struct corm_tensor[], corm_record[], corm_chunk[] */
    struct buf blobs[LAST_BLOB + 1];
    bool has_blob[LAST_BLOB + 1];

    struct corm_section sections[CORM_MAX_SECTIONS];
    uint32_t n_sections;
    struct corm_write_stats stats;
};

/* ---- bytes ---- */

static int flush(struct corm_writer *w, struct err *err) {
    int rc = file_write_all(w->fd, w->buffer, w->buffered, w->tmp_path, err);
    w->buffered = 0;
    return rc;
}

static int append(struct corm_writer *w, const void *data, size_t bytes, struct err *err) {
    w->offset += bytes;
    if (bytes > BUFFER_BYTES - w->buffered && flush(w, err) < 0) {
        return -1;
    }
    if (bytes >= BUFFER_BYTES) {
        return file_write_all(w->fd, data, bytes, w->tmp_path, err);
    }
    if (bytes) {
        memcpy(w->buffer + w->buffered, data, bytes);
    }
    w->buffered += bytes;
    return 0;
}

static int pad(struct corm_writer *w, uint64_t align, struct err *err) {
    static const uint8_t zeros[CORM_SECTION_ALIGN];
    static_assert(CORM_RECORD_ALIGN <= sizeof zeros && CORM_CHUNK_ALIGN <= sizeof zeros, "padding");
    return append(w, zeros, align_up(w->offset, align) - w->offset, err);
}

static int section_begin(struct corm_writer *w, uint32_t type, struct err *err) {
    bool optional = type == CORM_SECTION_PROVENANCE || type == CORM_SECTION_LICENSE ||
                    type == CORM_SECTION_PREDICTORS || type == CORM_SECTION_CONVERSATIONS;
    if (pad(w, CORM_SECTION_ALIGN, err) < 0) {
        return -1;
    }
    w->sections[w->n_sections++] = (struct corm_section){
        .type = type, .flags = optional ? CORM_SECTION_OPTIONAL : 0, .offset = w->offset};
    return 0;
}

static void section_end(struct corm_writer *w, uint64_t hash) {
    struct corm_section *s = &w->sections[w->n_sections - 1];
    s->bytes = w->offset - s->offset;
    s->hash = hash;
}

static int section_whole(struct corm_writer *w, uint32_t type, const void *data, size_t bytes,
                         struct err *err) {
    uint64_t most = corm_section_most_bytes(type, w->arch);
    if (bytes > most) {
        return err_set(err, "%s: section %s: %zu bytes, expected at most %llu", w->path,
                       corm_section_name(type), bytes, (unsigned long long)most);
    }
    if (section_begin(w, type, err) < 0 || append(w, data, bytes, err) < 0) {
        return -1;
    }
    section_end(w, hash64(data, bytes));
    return 0;
}

/* Remember that the archive can no longer become whole. */
static int fail(struct corm_writer *w) {
    w->failed = true;
    return -1;
}

/* ---- open ---- */

static int check_options(const struct arch *a, const struct corm_write_options *o,
                         struct err *err) {
    if (arch_check(a, err) < 0) {
        return -1;
    }
    if (!codec_fits(o->expert_codec, a->dim)) {
        return err_set(err, "dim = %u is not a multiple of %u, as codec %s needs", a->dim,
                       o->expert_codec->block_cols, o->expert_codec->name);
    }
    if (corm_compress_check(o->compress, o->expert_codec, err) < 0) {
        return -1;
    }
    uint64_t neuron_bytes = 3 * (uint64_t)codec_row_bytes(o->expert_codec, a->dim);
    if (o->chunk_neurons == 0 || o->chunk_neurons > CORM_MAX_CHUNK_BYTES / neuron_bytes) {
        return err_set(err, "chunks of %u neurons of %llu bytes; expected 1 neuron to %d bytes",
                       o->chunk_neurons, (unsigned long long)neuron_bytes, CORM_MAX_CHUNK_BYTES);
    }
    if (a->ffn_dim / o->chunk_neurons >= UINT16_MAX) {
        return err_set(err, "chunks of %u neurons: an expert of %u has more than %d of them",
                       o->chunk_neurons, a->ffn_dim, UINT16_MAX);
    }
    return 0;
}

static void open_packers(struct corm_writer *w) {
    uint32_t chunks = (w->arch->ffn_dim + w->opt.chunk_neurons - 1) / w->opt.chunk_neurons;
    w->n_packers = w->opt.workers.run ? w->opt.workers.n : 1;
    w->packers = mem_calloc((size_t)w->n_packers * CODEC_IDS, sizeof(struct corm_packer *));
    w->places = mem_calloc(chunks ? chunks : 1, sizeof *w->places);
    w->compressed = mem_alloc(w->neuron_bytes * w->arch->ffn_dim + 1);
}

int corm_write_open(struct corm_writer **out, const char *path, const struct arch *arch,
                    const struct corm_write_options *opt, struct err *err) {
    *out = NULL;
    if (check_options(arch, opt, err) < 0) {
        return err_prefix(err, "%s", path);
    }
    struct corm_writer *w = mem_calloc(1, sizeof *w);
    w->arch = arch;
    w->opt = *opt;
    if (arch_moe_layers(arch) > 0 && opt->chunk_neurons > arch->ffn_dim) {
        w->opt.chunk_neurons = arch->ffn_dim;
    }
    w->path = mem_strdup(path);
    w->tmp_path = mem_printf("%s.tmp", path);
    w->buffer = mem_alloc(BUFFER_BYTES);
    w->neuron_bytes = 3 * codec_row_bytes(opt->expert_codec, arch->dim);
    open_packers(w);
    w->more_tensors = slot_next(arch, &w->next);
    while (w->next_layer < arch->n_layers && !arch_is_moe(arch, w->next_layer)) {
        w->next_layer++;
    }
    /* A file of that name is what a killed process left behind. */
    unlink(w->tmp_path);
    w->fd = open(w->tmp_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        err_errno(err, errno, "%s: cannot create", w->tmp_path);
        corm_write_abort(w);
        return -1;
    }
    struct buf metadata = {0};
    arch_encode(arch, &metadata);
    uint8_t page[CORM_HEADER_BYTES] = {0};
    int rc = append(w, page, sizeof page, err);
    if (rc == 0) {
        rc = section_whole(w, CORM_SECTION_METADATA, metadata.data, metadata.len, err);
    }
    if (rc == 0) {
        rc = section_begin(w, CORM_SECTION_TRUNK, err);
    }
    buf_free(&metadata);
    if (rc < 0) {
        corm_write_abort(w);
        return -1;
    }
    *out = w;
    return 0;
}

/* ---- trunk ---- */

int corm_write_tensor_begin(struct corm_writer *w, enum slot_id slot, uint32_t layer,
                            const struct codec *codec, uint32_t rows, uint32_t cols,
                            struct err *err) {
    const struct slot *s = slot_at(slot);
    layer = s->scope == SLOT_OF_MODEL ? CORM_LAYER_NONE : layer;
    if (w->failed || w->stage != STAGE_TRUNK || w->in_tensor || !w->more_tensors ||
        w->next.slot != slot || w->next.layer != layer) {
        err_set(err, "%s: tensor %s of layer %d is out of order", w->path, s->name, (int)layer);
        return fail(w);
    }
    uint32_t want_rows = s->rows(w->arch, layer), want_cols = s->cols(w->arch, layer);
    if (rows != want_rows || cols != want_cols) {
        err_set(err, "%s: tensor %s of layer %d is [%u, %u], expected [%u, %u]", w->path, s->name,
                (int)layer, rows, cols, want_rows, want_cols);
        return fail(w);
    }
    if (!codec_fits(codec, cols) || (s->store == SLOT_STORE_EXACT && codec->id != CODEC_F32)) {
        err_set(err, "%s: tensor %s of layer %d [%u, %u] cannot be stored as %s", w->path, s->name,
                (int)layer, rows, cols, codec->name);
        return fail(w);
    }
    if (pad(w, CORM_CHUNK_ALIGN, err) < 0) {
        return fail(w);
    }
    w->tensor = (struct corm_tensor){
        .slot = slot,
        .layer = layer,
        .codec = codec->id,
        .rows = rows,
        .cols = cols,
        .offset = w->offset,
        .bytes = (uint64_t)rows * codec_row_bytes(codec, cols),
    };
    w->tensor_rows = 0;
    w->tensor_hash = hasher_new();
    w->in_tensor = true;
    return 0;
}

int corm_write_tensor_rows(struct corm_writer *w, const void *data, uint32_t n_rows,
                           struct err *err) {
    if (w->failed || !w->in_tensor || n_rows > w->tensor.rows - w->tensor_rows) {
        err_set(err, "%s: rows without an open tensor, or more than it has", w->path);
        return fail(w);
    }
    size_t bytes = (size_t)n_rows * (w->tensor.bytes / w->tensor.rows);
    hasher_add(w->tensor_hash, data, bytes);
    w->tensor_rows += n_rows;
    return append(w, data, bytes, err) == 0 ? 0 : fail(w);
}

int corm_write_tensor_end(struct corm_writer *w, struct err *err) {
    if (w->failed || !w->in_tensor || w->tensor_rows != w->tensor.rows) {
        err_set(err, "%s: tensor ends after %u of %u rows", w->path, w->tensor_rows,
                w->tensor.rows);
        return fail(w);
    }
    w->tensor.hash = hasher_value(w->tensor_hash);
    hasher_free(w->tensor_hash);
    w->tensor_hash = NULL;
    w->in_tensor = false;
    buf_append(&w->tensors, &w->tensor, sizeof w->tensor);
    w->stats.trunk_bytes += w->tensor.bytes;
    w->more_tensors = slot_next(w->arch, &w->next);
    return 0;
}

/* ---- records ---- */

/* Close the trunk, once, when the first record or the end comes. */
static int begin_records(struct corm_writer *w, struct err *err) {
    if (w->stage != STAGE_TRUNK) {
        return 0;
    }
    if (w->in_tensor || w->more_tensors) {
        return err_set(err, "%s: tensor %s of layer %d was not written", w->path,
                       slot_at(w->next.slot)->name, (int)w->next.layer);
    }
    section_end(w, 0);
    w->stage = STAGE_RECORDS;
    return section_begin(w, CORM_SECTION_RECORDS, err);
}

/* What the workers share while they compress a record: item i is its chunk i. */
struct compressing {
    struct corm_writer *w;
    const uint8_t *neurons;
    const struct codec *const *codecs; /* NULL: the writer's */
    uint32_t hot_neurons;
};

static const struct codec *codec_of(const struct corm_writer *w, const struct codec *const *codecs,
                                    uint32_t chunk) {
    return codecs ? codecs[chunk] : w->opt.expert_codec;
}

static struct corm_packer *packer_of(struct corm_writer *w, uint32_t worker,
                                     const struct codec *codec) {
    struct corm_packer **p = &w->packers[(size_t)worker * CODEC_IDS + codec->id];
    if (!*p) {
        *p = corm_packer_new(codec);
    }
    return *p;
}

/* Where a chunk's raw bytes begin in its record. */
static size_t raw_place(const struct compressing *p, uint32_t chunk) {
    const struct corm_writer *w = p->w;
    size_t at = 0;
    for (uint32_t i = 0; i < chunk && p->codecs; i++) {
        at += 3 * codec_row_bytes(p->codecs[i], w->arch->dim) * w->opt.chunk_neurons;
    }
    return p->codecs ? at : (size_t)chunk * w->opt.chunk_neurons * w->neuron_bytes;
}

static void compress_chunk(void *arg, uint32_t item, uint32_t worker) {
    const struct compressing *p = arg;
    struct corm_writer *w = p->w;
    uint32_t first = item * w->opt.chunk_neurons, left = w->arch->ffn_dim - first;
    uint32_t n = left < w->opt.chunk_neurons ? left : w->opt.chunk_neurons;
    const struct codec *codec = codec_of(w, p->codecs, item);
    const size_t at = raw_place(p, item);
    const uint8_t *raw = p->neurons + at;
    struct stored_chunk *out = &w->places[item];
    *out = (struct stored_chunk){
        .data = raw, .bytes = n * 3 * codec_row_bytes(codec, w->arch->dim), .codec = codec->id};
    out->raw_bytes = out->bytes;
    enum corm_compress how = w->opt.compress;
    if (how != CORM_COMPRESS_NONE && (first >= p->hot_neurons || w->opt.compress_hot)) {
        struct corm_packed packed =
            corm_packer_pack(packer_of(w, worker, codec), how, raw, out->bytes);
        double ratio = (double)packed.bytes / (double)out->bytes;
        out->unshrunk = true;
        if (packed.bytes < out->bytes &&
            (how != CORM_COMPRESS_AUTO || ratio <= (double)w->opt.raw_above_ratio)) {
            uint8_t *place = w->compressed + at;
            memcpy(place, packed.data, packed.bytes);
            out->data = place;
            out->bytes = packed.bytes;
            out->encoding = packed.encoding;
            out->unshrunk = false;
        }
    }
    out->hash = hash64(out->data, out->bytes);
}

static void compress_record(struct corm_writer *w, const struct codec *const *codecs,
                            const uint8_t *neurons, uint32_t hot_neurons, uint32_t n_chunks) {
    struct compressing p = {w, neurons, codecs, hot_neurons};
    if (w->opt.workers.run) {
        w->opt.workers.run(w->opt.workers.ctx, compress_chunk, &p, n_chunks);
        return;
    }
    for (uint32_t i = 0; i < n_chunks; i++) {
        compress_chunk(&p, i, 0);
    }
}

static int write_chunk(struct corm_writer *w, const struct stored_chunk *p, uint32_t n_neurons,
                       struct err *err) {
    if (pad(w, CORM_CHUNK_ALIGN, err) < 0) {
        return -1;
    }
    struct corm_chunk k = {
        .offset = w->offset,
        .stored_bytes = (uint32_t)p->bytes,
        .n_neurons = n_neurons,
        .encoding = p->encoding,
        .codec = p->codec,
        .hash = p->hash,
    };
    w->mixed = w->mixed || (w->codec != 0 && w->codec != k.codec);
    w->codec = k.codec;
    buf_append(&w->chunks, &k, sizeof k);
    w->stats.n_chunks++;
    w->stats.n_chunks_raw += p->encoding == CORM_ENCODING_RAW;
    w->stats.n_chunks_unshrunk += p->unshrunk;
    w->stats.record_raw_bytes += p->raw_bytes;
    w->stats.record_stored_bytes += p->bytes;
    return append(w, p->data, p->bytes, err);
}

/* Step to the next (layer, expert) that has a record; next_layer = n_layers after the last. */
static void next_record(struct corm_writer *w) {
    if (++w->next_expert < w->arch->n_experts) {
        return;
    }
    w->next_expert = 0;
    do {
        w->next_layer++;
    } while (w->next_layer < w->arch->n_layers && !arch_is_moe(w->arch, w->next_layer));
}

/* Whether the chunks of a record may have these codecs. */
static int check_codecs(const struct corm_writer *w, const struct codec *const *codecs,
                        uint32_t n_chunks, struct err *err) {
    const uint32_t dim = w->arch->dim;
    for (uint32_t i = 0; i < n_chunks && codecs; i++) {
        if (!codec_fits(codecs[i], dim)) {
            return err_set(err,
                           "%s: layer %u expert %u chunk %u in %s: rows of %u, expected a multiple "
                           "of %u",
                           w->path, w->next_layer, w->next_expert, i, codecs[i]->name, dim,
                           codecs[i]->block_cols);
        }
        if (3 * codec_row_bytes(codecs[i], dim) > w->neuron_bytes) {
            return err_set(err, "%s: layer %u expert %u chunk %u in %s: rows are longer than %s",
                           w->path, w->next_layer, w->next_expert, i, codecs[i]->name,
                           w->opt.expert_codec->name);
        }
        if (corm_compress_check(w->opt.compress, codecs[i], err) < 0) {
            return err_prefix(err, "%s", w->path);
        }
    }
    return 0;
}

int corm_write_record(struct corm_writer *w, uint32_t layer, uint32_t expert,
                      const uint8_t *neurons, uint32_t hot_neurons, struct err *err) {
    return corm_write_record_mixed(w, layer, expert, NULL, neurons, hot_neurons, err);
}

int corm_write_record_mixed(struct corm_writer *w, uint32_t layer, uint32_t expert,
                            const struct codec *const *codecs, const uint8_t *neurons,
                            uint32_t hot_neurons, struct err *err) {
    if (w->failed || begin_records(w, err) < 0) {
        return fail(w);
    }
    uint32_t total = w->arch->ffn_dim, step = w->opt.chunk_neurons;
    if (w->next_layer == w->arch->n_layers || layer != w->next_layer || expert != w->next_expert) {
        err_set(err, "%s: record of layer %u expert %u is out of order", w->path, layer, expert);
        return fail(w);
    }
    if (hot_neurons > total || (hot_neurons % step != 0 && hot_neurons != total)) {
        err_set(err, "%s: hot prefix of %u of %u neurons is not a multiple of %u", w->path,
                hot_neurons, total, step);
        return fail(w);
    }
    if (check_codecs(w, codecs, (total + step - 1) / step, err) < 0 ||
        pad(w, CORM_RECORD_ALIGN, err) < 0) {
        return fail(w);
    }
    struct corm_record r = {
        .first_chunk = (uint32_t)w->stats.n_chunks,
        .n_chunks = (uint16_t)((total + step - 1) / step),
        .n_hot = (uint16_t)((hot_neurons + step - 1) / step),
    };
    if (w->stats.n_chunks + r.n_chunks > UINT32_MAX) {
        err_set(err, "%s: more than 2^32 chunks", w->path);
        return fail(w);
    }
    w->stats.n_neurons += total;
    w->stats.n_neurons_hot += hot_neurons;
    compress_record(w, codecs, neurons, hot_neurons, r.n_chunks);
    for (uint32_t i = 0; i < r.n_chunks; i++) {
        uint32_t left = total - i * step;
        if (write_chunk(w, &w->places[i], left < step ? left : step, err) < 0) {
            return fail(w);
        }
    }
    buf_append(&w->records, &r, sizeof r);
    next_record(w);
    return 0;
}

/* ---- blobs and the end ---- */

int corm_write_blob(struct corm_writer *w, uint32_t section_type, const void *data, size_t bytes,
                    struct err *err) {
    bool allowed =
        section_type == CORM_SECTION_TOKENIZER || section_type == CORM_SECTION_PROVENANCE ||
        section_type == CORM_SECTION_LICENSE || section_type == CORM_SECTION_PREDICTORS ||
        section_type == CORM_SECTION_CONVERSATIONS;
    if (w->failed || !allowed || w->has_blob[section_type]) {
        err_set(err, "%s: section type %u is not a blob, or was given already", w->path,
                section_type);
        return fail(w);
    }
    w->has_blob[section_type] = true;
    buf_append(&w->blobs[section_type], data, bytes);
    return 0;
}

static int write_index(struct corm_writer *w, struct err *err) {
    struct corm_index_header h = {
        .n_records = (uint32_t)(w->records.len / sizeof(struct corm_record)),
        .n_chunks = (uint32_t)w->stats.n_chunks,
        .codec = w->mixed ? 0 : w->codec,
        .chunk_neurons = w->opt.chunk_neurons,
    };
    if (h.n_chunks == 0) {
        h.codec = w->opt.expert_codec->id;
    }
    struct corm_chunk *chunks = (struct corm_chunk *)(void *)w->chunks.data;
    for (uint32_t i = 0; i < h.n_chunks && !w->mixed; i++) {
        chunks[i].codec = 0;
    }
    struct buf index = {0};
    buf_append(&index, &h, sizeof h);
    buf_append(&index, w->records.data, w->records.len);
    buf_append(&index, w->chunks.data, w->chunks.len);
    int rc = section_whole(w, CORM_SECTION_INDEX, index.data, index.len, err);
    buf_free(&index);
    return rc;
}

static int write_header(struct corm_writer *w, uint64_t table_offset, struct err *err) {
    struct corm_header h = {
        .magic = CORM_MAGIC,
        .version = CORM_VERSION,
        .section_count = w->n_sections,
        .incompat = w->mixed ? CORM_INCOMPAT_MIXED : 0,
        .file_bytes = w->offset,
        .table_offset = table_offset,
        .table_hash = hash64(w->sections, w->n_sections * sizeof w->sections[0]),
        .shard_count = 1,
    };
    h.header_hash = hash64(&h, offsetof(struct corm_header, header_hash));
    if (flush(w, err) < 0) {
        return -1;
    }
    if (lseek(w->fd, 0, SEEK_SET) != 0) {
        return err_errno(err, errno, "%s: cannot seek", w->tmp_path);
    }
    return file_write_all(w->fd, &h, sizeof h, w->tmp_path, err);
}

static int publish(struct corm_writer *w, struct err *err) {
    if (fsync(w->fd) != 0) {
        return err_errno(err, errno, "%s: cannot sync", w->tmp_path);
    }
    int rc = close(w->fd);
    w->fd = -1;
    if (rc != 0) {
        return err_errno(err, errno, "%s: cannot close", w->tmp_path);
    }
    if (rename(w->tmp_path, w->path) != 0) {
        return err_errno(err, errno, "%s: cannot rename from %s", w->path, w->tmp_path);
    }
    return file_sync_name(w->path, err);
}

static int finish(struct corm_writer *w, struct err *err) {
    if (w->failed) {
        return err_set(err, "%s: not finished after an earlier error", w->path);
    }
    if (begin_records(w, err) < 0) {
        return -1;
    }
    if (w->next_layer != w->arch->n_layers) {
        return err_set(err, "%s: record of layer %u expert %u was not written", w->path,
                       w->next_layer, w->next_expert);
    }
    section_end(w, 0);
    w->stage = STAGE_DONE;
    if (section_whole(w, CORM_SECTION_TENSORS, w->tensors.data, w->tensors.len, err) < 0 ||
        write_index(w, err) < 0) {
        return -1;
    }
    for (uint32_t type = FIRST_BLOB; type <= LAST_BLOB; type++) {
        if (w->has_blob[type] &&
            section_whole(w, type, w->blobs[type].data, w->blobs[type].len, err) < 0) {
            return -1;
        }
    }
    if (pad(w, CORM_SECTION_ALIGN, err) < 0) {
        return -1;
    }
    uint64_t table_offset = w->offset;
    if (append(w, w->sections, w->n_sections * sizeof w->sections[0], err) < 0 ||
        write_header(w, table_offset, err) < 0) {
        return -1;
    }
    w->stats.file_bytes = w->offset;
    return publish(w, err);
}

int corm_write_finish(struct corm_writer *w, struct corm_write_stats *stats, struct err *err) {
    int rc = finish(w, err);
    if (rc == 0 && stats) {
        *stats = w->stats;
    }
    corm_write_abort(w); /* after a success there is nothing left under the temporary name */
    return rc;
}

void corm_write_abort(struct corm_writer *w) {
    if (!w) {
        return;
    }
    if (w->fd >= 0) {
        close(w->fd);
    }
    unlink(w->tmp_path);
    for (uint32_t i = 0; w->packers && i < w->n_packers * CODEC_IDS; i++) {
        corm_packer_free(w->packers[i]);
    }
    free(w->packers);
    free(w->compressed);
    free(w->places);
    hasher_free(w->tensor_hash);
    buf_free(&w->tensors);
    buf_free(&w->records);
    buf_free(&w->chunks);
    for (uint32_t type = 0; type <= LAST_BLOB; type++) {
        buf_free(&w->blobs[type]);
    }
    free(w->buffer);
    free(w->path);
    free(w->tmp_path);
    free(w);
}
