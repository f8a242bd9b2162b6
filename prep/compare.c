#include "prep/compare.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "format/cli.h"
#include "kernels/cpu/exponents.h"
#include "prep/json_out.h"
#include "prep/pack.h"

/* How much is sampled, and how long each way is decoded at least; the best of the passes counts. */
enum { SAMPLE_BYTES = 16 << 20, MEASURE_NS = 100 * 1000 * 1000, PASSES = 3 };

/* A chunk that was taken, decoded. */
struct piece {
    uint8_t *raw; /* [bytes] */
    size_t bytes;
    const struct corm_chunk *chunk;
};

struct sample {
    const struct corm *c;
    struct corm_decoder *decoder;
    bool cold; /* chunks are cold ones; else any */
    uint32_t n, n_all;
    struct piece *pieces; /* [n] */
    size_t raw_bytes, largest;
};

/* What a way makes of the sample. */
struct outcome {
    size_t stored_bytes;
    uint32_t n_raw; /* chunks that it would leave raw */
    double bytes_per_s;
};

/* ---- the sample ---- */

static bool is_cold(const struct corm *c, uint32_t chunk) {
    uint32_t per_expert = corm_chunks_per_expert(c);
    return chunk % per_expert >= c->records[chunk / per_expert].n_hot;
}

/* Take every so many of the chunks, decoded by what decodes them when the model runs. */
static int take(struct sample *s, const struct corm *c, struct err *err) {
    uint32_t *all = mem_calloc(c->n_chunks ? c->n_chunks : 1, sizeof *all);
    size_t largest = (size_t)c->chunk_neurons * c->neuron_bytes;
    /* Not only for what the archive has: chunks are decoded from all encodings. */
    *s = (struct sample){.c = c, .decoder = corm_decoder_sized(largest), .cold = true};
    corm_decoder_use(s->decoder, exponents_isa_best(NULL)->decode);
    for (int pass = 0; pass < 2 && s->n_all == 0; pass++) {
        s->cold = pass == 0;
        for (uint32_t i = 0; i < c->n_chunks; i++) {
            if (!s->cold || is_cold(c, i)) {
                all[s->n_all++] = i;
            }
        }
    }
    int rc = s->n_all > 0 ? 0 : err_set(err, "holds no experts: there is nothing to compress");
    uint32_t most = largest > 0 && largest < SAMPLE_BYTES ? (uint32_t)(SAMPLE_BYTES / largest) : 1;
    uint32_t n = s->n_all < most ? s->n_all : most;
    s->pieces = mem_calloc(n ? n : 1, sizeof *s->pieces);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct corm_chunk *k = &c->chunks[all[(uint64_t)i * s->n_all / n]];
        struct piece *p = &s->pieces[s->n++];
        *p = (struct piece){.bytes = corm_chunk_raw_bytes(c, k), .chunk = k};
        p->raw = mem_alloc_aligned(p->bytes);
        s->raw_bytes += p->bytes;
        s->largest = p->bytes > s->largest ? p->bytes : s->largest;
        rc = corm_chunk_decode(s->decoder, c, k, c->map.data + k->offset, p->raw, err);
    }
    free(all);
    return rc;
}

static void release(struct sample *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->pieces[i].raw);
    }
    free(s->pieces);
    corm_decoder_free(s->decoder);
}

/* ---- one way ---- */

/* Compress the sample. stored[i] are the bytes of piece i, to free(). */
static void compress(const struct sample *s, enum corm_compress how, struct corm_packed *stored,
                     struct outcome *out) {
    struct corm_packer *packers[CODEC_IDS] = {NULL};
    for (uint32_t i = 0; i < s->n; i++) {
        const struct piece *p = &s->pieces[i];
        stored[i] = (struct corm_packed){CORM_ENCODING_RAW, p->raw, p->bytes};
        if (how != CORM_COMPRESS_NONE) {
            const struct codec *codec = corm_chunk_codec(s->c, p->chunk);
            struct corm_packer **packer = &packers[codec->id];
            *packer = *packer ? *packer : corm_packer_new(codec);
            struct corm_packed packed = corm_packer_pack(*packer, how, p->raw, p->bytes);
            double ratio = (double)packed.bytes / (double)p->bytes;
            bool smaller = packed.bytes < p->bytes &&
                           (how != CORM_COMPRESS_AUTO || ratio <= (double)PACK_RAW_ABOVE);
            stored[i] = smaller ? packed : stored[i];
        }
        uint8_t *copy = mem_alloc_aligned(stored[i].bytes);
        memcpy(copy, stored[i].data, stored[i].bytes);
        stored[i].data = copy;
        out->stored_bytes += stored[i].bytes;
        out->n_raw += stored[i].encoding == CORM_ENCODING_RAW;
    }
    for (uint32_t i = 0; i < CODEC_IDS; i++) {
        corm_packer_free(packers[i]);
    }
}

static int decode(const struct sample *s, const struct corm_packed *stored, uint32_t i,
                  uint8_t *dst, struct err *err) {
    return corm_decoder_unpack(s->decoder, corm_chunk_codec(s->c, s->pieces[i].chunk),
                               stored[i].encoding, stored[i].data, stored[i].bytes, dst,
                               s->pieces[i].bytes, err);
}

/* Whether the codecs of all pieces have the way. */
static bool all_have(const struct sample *s, enum corm_compress how) {
    for (uint32_t i = 0; i < s->n; i++) {
        if (corm_compress_check(how, corm_chunk_codec(s->c, s->pieces[i].chunk), NULL) < 0) {
            return false;
        }
    }
    return true;
}

static int try_way(const struct sample *s, enum corm_compress how, struct outcome *out,
                   struct err *err) {
    struct corm_packed *stored = mem_calloc(s->n, sizeof *stored);
    uint8_t *dst = mem_alloc_aligned(s->largest);
    int rc = 0;
    *out = (struct outcome){0};
    compress(s, how, stored, out);
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        char name[64];
        rc = decode(s, stored, i, dst, err);
        if (rc == 0 && memcmp(dst, s->pieces[i].raw, s->pieces[i].bytes) != 0) {
            rc = err_set(err, "%s does not come back from %s",
                         corm_chunk_name(s->c, s->pieces[i].chunk, name), corm_compress_words[how]);
        }
    }
    uint64_t best = UINT64_MAX, all = 0;
    for (int pass = 0; rc == 0 && (pass < PASSES || all < MEASURE_NS); pass++) {
        uint64_t start = clock_ns();
        for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
            rc = decode(s, stored, i, dst, err);
        }
        uint64_t ns = clock_ns() - start;
        best = ns < best ? ns : best;
        all += ns;
    }
    out->bytes_per_s = (double)s->raw_bytes / (double)(best > 0 ? best : 1) * 1e9;
    for (uint32_t i = 0; i < s->n; i++) {
        free((uint8_t *)(uintptr_t)stored[i].data);
    }
    free(stored);
    free(dst);
    return rc;
}

/* ---- the report ---- */

/* The size that the archive would have, if all of its chunks shrank as the sample does, hot
 * prefixes only where they are not raw beside compressed chunks (--raw-hot). */
static uint64_t archive_bytes(const struct sample *s, const struct outcome *o) {
    const struct corm *c = s->c;
    uint64_t hot_raw = 0, hot_stored = 0, cold_raw = 0, cold_stored = 0;
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        bool cold = is_cold(c, i);
        *(cold ? &cold_raw : &hot_raw) += corm_chunk_raw_bytes(c, &c->chunks[i]);
        *(cold ? &cold_stored : &hot_stored) += c->chunks[i].stored_bytes;
    }
    double ratio = (double)o->stored_bytes / (double)s->raw_bytes;
    bool raw_hot = hot_raw == hot_stored && cold_stored < cold_raw;
    double hot = raw_hot ? (double)hot_raw : ratio * (double)hot_raw;
    return c->header.file_bytes - hot_stored - cold_stored +
           (uint64_t)(hot + ratio * (double)cold_raw);
}

static bool is_the_archives(const struct sample *s, enum corm_compress how) {
    return strcmp(corm_compress_of(s->c), corm_compress_words[how]) == 0;
}

static void text_row(const struct sample *s, enum corm_compress how, const struct outcome *o,
                     struct buf *out) {
    char size[CLI_SIZE_TEXT];
    buf_printf(out, "  %-12s %6.3f %10.0f MB/s %12s", corm_compress_words[how],
               (double)o->stored_bytes / (double)s->raw_bytes, o->bytes_per_s / 1e6,
               cli_size_text(size, archive_bytes(s, o)));
    if (how != CORM_COMPRESS_NONE && o->n_raw > 0) {
        buf_printf(out, ", %u of %u chunks raw", o->n_raw, s->n);
    }
    buf_printf(out, "%s\n", is_the_archives(s, how) ? "  <- this archive" : "");
}

static json_t *json_row(const struct sample *s, enum corm_compress how, const struct outcome *o) {
    return json_pack("{s:s, s:f, s:f, s:I, s:I, s:b}", "compression", corm_compress_words[how],
                     "ratio", (double)o->stored_bytes / (double)s->raw_bytes, "decode_bytes_per_s",
                     o->bytes_per_s, "archive_bytes", (json_int_t)archive_bytes(s, o), "raw_chunks",
                     (json_int_t)o->n_raw, "this_archive", is_the_archives(s, how));
}

int compare_print(const struct corm *c, const char *path, bool json, struct buf *out,
                  struct err *err) {
    struct sample s;
    json_t *rows = json_array();
    char size[CLI_SIZE_TEXT];
    int rc = take(&s, c, err);
    if (rc == 0 && !json) {
        buf_printf(out,
                   "%s: %u of %u %schunks of experts, %s in %s, compression %s\n"
                   "  %-12s %6s %15s %12s\n",
                   path, s.n, s.n_all, s.cold ? "cold " : "", cli_size_text(size, s.raw_bytes),
                   c->codec_names, corm_compress_of(c), "compression", "ratio", "decoding",
                   "archive");
    }
    for (int how = 0; rc == 0 && how < CORM_COMPRESS_WAYS; how++) {
        struct outcome o;
        if (!all_have(&s, (enum corm_compress)how)) {
            continue;
        }
        rc = try_way(&s, (enum corm_compress)how, &o, err);
        if (rc == 0 && json) {
            json_array_append_new(rows, json_row(&s, (enum corm_compress)how, &o));
        } else if (rc == 0) {
            text_row(&s, (enum corm_compress)how, &o, out);
        }
    }
    if (rc == 0 && json) {
        json_t *root =
            json_pack("{s:s, s:s, s:b, s:I, s:I, s:O}", "codec", c->codec_names, "compression",
                      corm_compress_of(c), "cold", s.cold, "sample_chunks", (json_int_t)s.n,
                      "sample_bytes", (json_int_t)s.raw_bytes, "ways", rows);
        json_out(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9), out);
    } else if (rc == 0) {
        buf_printf(out, "Each chunk came back to the bit from each. One thread of this machine "
                        "decodes, from memory; none is copying.\n");
    }
    json_decref(rows);
    release(&s);
    return rc;
}
