/*
 * corm_records: the records of experts and their index, as corm_read checks them (corm_read.h).
 */
#include <stdio.h>
#include <string.h>

#include "format/corm_read.h"

static int check_chunk(const struct corm *c, const struct corm_chunk *k, uint32_t n_neurons,
                       uint64_t *end, uint64_t section_end, struct err *err) {
    char text[64];
    uint64_t raw_bytes = (uint64_t)n_neurons * corm_chunk_neuron_bytes(c, k);
    if (k->n_neurons != n_neurons) {
        return err_set(err, "%s: %u neurons, expected %u", corm_chunk_name(c, k, text),
                       k->n_neurons, n_neurons);
    }
    if (k->offset != *end) {
        return err_set(err, "%s: at %llu, expected %llu", corm_chunk_name(c, k, text),
                       (unsigned long long)k->offset, (unsigned long long)*end);
    }
    bool fits;
    if (k->encoding == CORM_ENCODING_RAW) {
        fits = k->stored_bytes == raw_bytes;
    } else if (corm_chunk_may_be(k->encoding, corm_chunk_codec(c, k))) {
        uint64_t least = k->encoding == CORM_ENCODING_ZSTD ? 0 : raw_bytes / 2;
        fits = k->stored_bytes > least && k->stored_bytes < raw_bytes;
    } else {
        return err_set(err, "%s: encoding %u is unknown, or not one for %s",
                       corm_chunk_name(c, k, text), k->encoding, corm_chunk_codec(c, k)->name);
    }
    *end += k->stored_bytes; /* both are far below 2^63: `end` is checked right here each time */
    if (!fits || *end > section_end) {
        return err_set(err, "%s: %u stored bytes for %llu raw ones, or outside the section",
                       corm_chunk_name(c, k, text), k->stored_bytes, (unsigned long long)raw_bytes);
    }
    return 0;
}

static int check_record(const struct corm *c, uint32_t record, uint32_t *next_chunk, uint64_t *end,
                        uint64_t section_end, struct err *err) {
    const struct corm_record *r = &c->records[record];
    uint32_t step = c->chunk_neurons, left = c->arch.ffn_dim;
    uint32_t n_chunks = left / step + (left % step != 0);
    if (r->first_chunk != *next_chunk || r->n_chunks != n_chunks || r->n_hot > r->n_chunks ||
        n_chunks > c->n_chunks - *next_chunk) {
        return err_set(err, "index: record %u has chunks %u + %u (%u hot), expected %u + %u",
                       record, r->first_chunk, r->n_chunks, r->n_hot, *next_chunk, n_chunks);
    }
    *end = align_up(*end, CORM_RECORD_ALIGN);
    for (uint32_t i = 0; i < n_chunks; i++) {
        uint32_t n_neurons = left < step ? left : step;
        *end = align_up(*end, CORM_CHUNK_ALIGN);
        if (check_chunk(c, &c->chunks[r->first_chunk + i], n_neurons, end, section_end, err) < 0) {
            return -1;
        }
        left -= n_neurons;
    }
    *next_chunk += n_chunks;
    return 0;
}

/* Find out which codecs the chunks have, by the index's own `codec` or by theirs, and let each
 * name its codec. */
static int read_codecs(struct corm *c, uint32_t codec, struct corm_chunk *chunks, struct err *err) {
    bool used[CODEC_IDS] = {false};
    c->mixed = c->header.incompat & CORM_INCOMPAT_MIXED;
    if (c->mixed && (codec != 0 || c->n_chunks == 0)) {
        return err_set(err, "index: codec %u and %u chunks, expected 0 and chunks with codecs",
                       codec, c->n_chunks);
    }
    for (uint32_t i = 0; i < c->n_chunks || i == 0; i++) {
        const uint32_t id = c->mixed ? chunks[i].codec : codec;
        const struct codec *found = codec_by_id(id);
        char where[32] = "";
        if (c->mixed) {
            snprintf(where, sizeof where, " of chunk %u", i);
        }
        if (!found) {
            return err_set(err, "index: codec %u%s is unknown", id, where);
        }
        if (!codec_fits(found, c->arch.dim)) {
            return err_set(err, "index: codec %s%s: rows of %u, expected a multiple of %u",
                           found->name, where, c->arch.dim, found->block_cols);
        }
        if (!c->mixed && c->n_chunks > 0 && chunks[i].codec != 0) {
            return err_set(err, "index: codec %u of chunk %u, expected 0", chunks[i].codec, i);
        }
        if (c->n_chunks > 0) {
            chunks[i].codec = id;
        }
        used[id] = true;
        const size_t bytes = 3 * codec_row_bytes(found, c->arch.dim);
        if (!c->expert_codec || bytes > c->neuron_bytes) {
            c->expert_codec = found;
            c->neuron_bytes = bytes;
        }
    }
    uint32_t n_used = 0;
    for (uint32_t id = 0, n = 0; id < CODEC_IDS; id++) {
        n_used += used[id];
        if (used[id]) {
            n += (uint32_t)snprintf(c->codec_names + n, sizeof c->codec_names - n, "%s%s",
                                    n > 0 ? "+" : "", codec_by_id(id)->name);
        }
    }
    if (c->mixed && n_used < 2) {
        return err_set(err, "index: all chunks in %s, expected several codecs", c->codec_names);
    }
    return 0;
}

/* Read the index's own header; leaves the tables' pointers and counts in `c`. */
static int read_index_header(struct corm *c, const struct corm_section *s, struct err *err) {
    struct corm_index_header h;
    if (s->bytes < sizeof h) {
        return err_set(err, "index: %llu bytes, its header alone has %zu",
                       (unsigned long long)s->bytes, sizeof h);
    }
    uint8_t *data = c->copies[s - c->sections];
    memcpy(&h, data, sizeof h);
    uint32_t want = arch_moe_layers(&c->arch) * c->arch.n_experts;
    uint64_t bytes = sizeof h + h.n_records * (uint64_t)sizeof(struct corm_record) +
                     h.n_chunks * (uint64_t)sizeof(struct corm_chunk);
    if (h.n_records != want || bytes != s->bytes ||
        !corm_is_zero((const uint8_t *)h.reserved, sizeof h.reserved)) {
        return err_set(err, "index: %llu bytes for %u records and %u chunks, expected %u records",
                       (unsigned long long)s->bytes, h.n_records, h.n_chunks, want);
    }
    c->n_records = h.n_records;
    c->n_chunks = h.n_chunks;
    c->records = (const struct corm_record *)(const void *)(data + sizeof h);
    struct corm_chunk *chunks =
        (struct corm_chunk *)(void *)(data + sizeof h + h.n_records * sizeof *c->records);
    c->chunks = chunks;
    if (read_codecs(c, h.codec, chunks, err) < 0) {
        return -1;
    }
    c->chunk_neurons = h.chunk_neurons;
    if (h.chunk_neurons == 0 || h.chunk_neurons > CORM_MAX_CHUNK_BYTES / c->neuron_bytes) {
        return err_set(err, "index: chunks of %u neurons of %zu bytes", h.chunk_neurons,
                       c->neuron_bytes);
    }
    if (want > 0 && h.chunk_neurons > c->arch.ffn_dim) {
        return err_set(err, "index: chunks of %u neurons, an expert has %u", h.chunk_neurons,
                       c->arch.ffn_dim);
    }
    return 0;
}

int corm_records_read(struct corm *c, const struct corm_section *index,
                      const struct corm_section *records, struct err *err) {
    if (read_index_header(c, index, err) < 0) {
        return -1;
    }
    c->layer_record = mem_calloc(c->arch.n_layers, sizeof *c->layer_record);
    uint32_t first = 0;
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        c->layer_record[l] = arch_is_moe(&c->arch, l) ? first : UINT32_MAX;
        first += arch_is_moe(&c->arch, l) ? c->arch.n_experts : 0;
    }
    uint64_t end = records->offset;
    uint32_t next_chunk = 0;
    for (uint32_t i = 0; i < c->n_records; i++) {
        if (check_record(c, i, &next_chunk, &end, records->offset + records->bytes, err) < 0) {
            return -1;
        }
    }
    if (next_chunk != c->n_chunks || end != records->offset + records->bytes) {
        return err_set(err, "index: more chunks, or more bytes, than its records have");
    }
    return 0;
}

const struct corm_record *corm_record_of(const struct corm *c, uint32_t layer, uint32_t expert) {
    return &c->records[c->layer_record[layer] + expert];
}

const char *corm_chunk_name(const struct corm *c, const struct corm_chunk *k, char text[64]) {
    uint32_t chunk = (uint32_t)(k - c->chunks), lo = 0, hi = c->n_records;
    while (hi - lo > 1) { /* the last record that does not start after the chunk */
        uint32_t mid = lo + (hi - lo) / 2;
        if (c->records[mid].first_chunk <= chunk) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    uint32_t layer = 0;
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        if (c->layer_record[l] != UINT32_MAX && c->layer_record[l] <= lo) {
            layer = l;
        }
    }
    snprintf(text, 64, "layer %u expert %u chunk %u", layer, lo - c->layer_record[layer],
             chunk - c->records[lo].first_chunk);
    return text;
}
