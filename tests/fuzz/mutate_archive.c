/*
 * mutate_archive: changes of an archive's parts: weights, chunks and how they are encoded, the
 * tables of tensors and records, texts, sections as wholes; and of places in the file.
 */
#include <stdlib.h>
#include <string.h>

#include "format/codec.h"
#include "tests/fuzz/mutate.h"
#include "tests/util/test_util_archive.h"

/* ---- weights ---- */

/* All numbers of some trunk tensor, or one of them. */
static void change_weights(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_part *tensors = image_part(m, CORM_SECTION_TENSORS);
    struct image_part *trunk = image_part(m, CORM_SECTION_TRUNK);
    if (!tensors || !trunk || tensors->bytes.len < sizeof(struct corm_tensor)) {
        return;
    }
    struct corm_tensor t;
    uint32_t i = mutate_below(r, tensors->bytes.len / sizeof t);
    memcpy(&t, tensors->bytes.data + i * sizeof t, sizeof t);
    if (t.bytes < 4 || t.offset > trunk->bytes.len || t.bytes > trunk->bytes.len - t.offset) {
        return;
    }
    bool all = mutate_one_in(r, 2), half = t.codec == CODEC_BF16 || t.codec == CODEC_F16;
    uint32_t bits = mutate_float(r, 0x3f800000);
    uint16_t word = (uint16_t)(bits >> 16);
    char *data = trunk->bytes.data + t.offset;
    size_t step = half ? 2 : 4, at = mutate_below(r, t.bytes / step) * step;
    for (size_t k = all ? 0 : at; k + step <= (all ? t.bytes : at + step); k += step) {
        memcpy(data + k, half ? (void *)&word : (void *)&bits, step);
    }
    buf_printf(log, "weights of slot %u, layer %d: %s 0x%x\n", t.slot, (int)t.layer,
               all ? "all" : "one", bits);
}

/* ---- chunks ---- */

/* Bytes of what a chunk may be that says something about the rest of it. */
static size_t head_bytes(const struct corm_chunk *k, size_t *at) {
    *at = 0;
    switch (k->encoding) {
    case CORM_ENCODING_EXPONENTS:
        return 64;
    case CORM_ENCODING_ZSTD:
        return 18;
    case CORM_ENCODING_PLANES: /* behind the low plane, which is more than half */
        *at = k->stored_bytes / 2;
        return k->stored_bytes - *at;
    default:
        return k->stored_bytes;
    }
}

static void change_chunk_bytes(struct buf *b, const struct corm_chunk *k, struct mutate_rng *r,
                               struct buf *log) {
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    static const uint8_t empty[] = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00};
    size_t at, n = head_bytes(k, &at);
    n = n < b->len - at ? n : b->len - at;
    switch (mutate_below(r, 9)) {
    case 0:
        b->len = mutate_below(r, b->len);
        buf_printf(log, "cut to %zu bytes\n", b->len);
        break;
    case 1:
        buf_append(b, skippable, sizeof skippable);
        buf_printf(log, "a skippable frame behind it\n");
        break;
    case 2:
        mutate_again(b, 0, b->len);
        buf_printf(log, "twice\n");
        break;
    case 3: {
        struct buf out = {0};
        buf_append(&out, empty, sizeof empty);
        buf_append(&out, b->data, b->len);
        buf_free(b);
        *b = out;
        buf_printf(log, "an empty frame in front of it\n");
        break;
    }
    case 4:
        memset(b->data, mutate_one_in(r, 2) ? 0 : 0xff, b->len);
        buf_printf(log, "all bytes alike\n");
        break;
    case 5:
        mutate_bytes(r, (uint8_t *)b->data, b->len);
        buf_printf(log, "other bytes\n");
        break;
    case 6: { /* a number of the exponents' header, or any four bytes at the start */
        uint32_t word, i = mutate_below(r, 3) * 4;
        if (i + 4 <= b->len) {
            memcpy(&word, b->data + i, sizeof word);
            word = (uint32_t)mutate_number(r, word, 32);
            memcpy(b->data + i, &word, sizeof word);
            buf_printf(log, "u32 at %u = %u\n", i, word);
        }
        break;
    }
    default:
        mutate_bytes(r, (uint8_t *)b->data + at, n);
        buf_printf(log, "other bytes in %zu at %zu\n", n, at);
        break;
    }
}

static void change_chunk(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_index x;
    if (!image_index(m, &x)) {
        return;
    }
    struct corm_chunk k;
    uint32_t i = mutate_below(r, x.header->n_chunks);
    for (uint32_t tries = 0; x.chunks[i].encoding == CORM_ENCODING_RAW && tries < 3; tries++) {
        i = mutate_below(r, x.header->n_chunks);
    }
    k = x.chunks[i];
    if (k.stored_bytes == 0) {
        return;
    }
    buf_printf(log, "chunk %u (%u bytes, encoding %u): ", i, k.stored_bytes, k.encoding);
    if (mutate_one_in(r, 8)) {
        x.chunks[i].encoding = mutate_below(r, CORM_ENCODING_COUNT + 1);
        buf_printf(log, "encoding %u\n", x.chunks[i].encoding);
        return;
    }
    if (mutate_one_in(r, 8)) {
        x.chunks[i].codec = mutate_below(r, CODEC_IDS + 1);
        m->incompat ^= mutate_one_in(r, 4) ? CORM_INCOMPAT_MIXED : 0;
        x.header->codec = mutate_one_in(r, 4) ? 0 : x.header->codec;
        buf_printf(log, "codec %u, that of the index %u, features %llu\n", x.chunks[i].codec,
                   x.header->codec, (unsigned long long)m->incompat);
        return;
    }
    struct buf b = {0};
    buf_append(&b, image_part(m, CORM_SECTION_RECORDS)->bytes.data + k.offset, k.stored_bytes);
    change_chunk_bytes(&b, &k, r, log);
    image_set_chunk(m, i, b.data, b.len);
    buf_free(&b);
}

/* ---- tables ---- */

/* One number of a table of numbers of 32 or 64 bits. */
static void change_word(struct buf *b, size_t at, size_t bytes, struct mutate_rng *r,
                        const char *what, struct buf *log) {
    uint64_t old = 0, v;
    if (at + bytes > b->len) {
        return;
    }
    memcpy(&old, b->data + at, bytes);
    v = mutate_number(r, old, (uint32_t)bytes * 8);
    memcpy(b->data + at, &v, bytes);
    buf_printf(log, "%s at %zu: %llu, was %llu\n", what, at, (unsigned long long)v,
               (unsigned long long)old);
}

static void change_tensors(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_part *p = image_part(m, CORM_SECTION_TENSORS);
    size_t n = p ? p->bytes.len / sizeof(struct corm_tensor) : 0;
    if (n == 0) {
        return;
    }
    size_t at = mutate_below(r, n) * sizeof(struct corm_tensor);
    switch (mutate_below(r, 4)) {
    case 0:
        p->bytes.len = at;
        buf_printf(log, "tensors: only %zu\n", at / sizeof(struct corm_tensor));
        break;
    case 1:
        mutate_again(&p->bytes, at, sizeof(struct corm_tensor));
        buf_printf(log, "tensors: one more\n");
        break;
    case 2:
        change_word(&p->bytes, at + mutate_below(r, 6) * 4, 4, r, "tensors", log);
        break;
    default:
        change_word(&p->bytes, at + 24 + mutate_below(r, 2) * 8, 8, r, "tensors", log);
        break;
    }
}

static void change_index(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct image_part *p = image_part(m, CORM_SECTION_INDEX);
    struct image_index x;
    if (!p || !image_index(m, &x)) {
        return;
    }
    char *data = p->bytes.data;
    size_t record = (size_t)((char *)&x.records[mutate_below(r, x.header->n_records)] - data);
    size_t chunk = (size_t)((char *)&x.chunks[mutate_below(r, x.header->n_chunks)] - data);
    switch (mutate_below(r, 7)) {
    case 0:
        change_word(&p->bytes, mutate_below(r, 4) * 4, 4, r, "index header", log);
        break;
    case 1:
        change_word(&p->bytes, record, 4, r, "index record", log);
        break;
    case 2:
        change_word(&p->bytes, record + 4, 2, r, "index record", log);
        break;
    case 3: /* any hot prefix is a valid one */
        change_word(&p->bytes, record + 6, 2, r, "index record", log);
        break;
    case 4:
        change_word(&p->bytes, chunk, 8, r, "index chunk", log);
        break;
    case 5:
        change_word(&p->bytes, chunk + 8 + mutate_below(r, 4) * 4, 4, r, "index chunk", log);
        break;
    default:
        p->bytes.len = mutate_below(r, p->bytes.len);
        buf_printf(log, "index: cut to %zu bytes\n", p->bytes.len);
        break;
    }
}

static void change_text(struct image *m, struct mutate_rng *r, struct buf *log) {
    static const char *const texts[] = {"",
                                        "\n",
                                        "key\n",
                                        "key: \xff\xfe\n",
                                        ": : :\n\n\n",
                                        "a: b",
                                        "key: value\r\nkey: value\r\n",
                                        "options: \x01\n"};
    static const uint32_t types[] = {CORM_SECTION_PROVENANCE, CORM_SECTION_LICENSE,
                                     CORM_SECTION_CONVERSATIONS};
    uint32_t type = types[mutate_below(r, sizeof types / sizeof *types)];
    struct buf b = {0};
    uint32_t n = mutate_one_in(r, 8) ? 1u << mutate_below(r, 16) : mutate_below(r, 3);
    for (uint32_t i = 0; i < n; i++) {
        buf_printf(&b, "%s", texts[mutate_below(r, sizeof texts / sizeof *texts)]);
    }
    buf_printf(log, "section %u: a text of %zu bytes\n", type, b.len);
    image_replace(m, type, &b);
}

static void change_sections(struct image *m, struct mutate_rng *r, struct buf *log) {
    uint32_t i = mutate_below(r, m->n), k = mutate_below(r, m->n);
    struct image_part kept = m->part[i];
    switch (mutate_below(r, 8)) {
    case 0:
        buf_free(&m->part[i].bytes);
        memmove(&m->part[i], &m->part[i + 1], (m->n - i - 1) * sizeof kept);
        m->n--;
        buf_printf(log, "section %u: removed\n", kept.type);
        break;
    case 1:
        m->part[i] = m->part[k];
        m->part[k] = kept;
        buf_printf(log, "sections %u and %u change places\n", kept.type, m->part[i].type);
        break;
    case 2:
        m->part[i].type = mutate_below(r, 12);
        m->part[i].flags = mutate_below(r, 2);
        buf_printf(log, "section %u: as type %u\n", kept.type, m->part[i].type);
        break;
    case 3:
        m->part[i].flags = (uint32_t)mutate_number(r, kept.flags, 32);
        buf_printf(log, "section %u: flags 0x%x\n", kept.type, m->part[i].flags);
        break;
    case 4:
        while (m->n < CORM_MAX_SECTIONS) {
            struct image_part *p = &m->part[m->n];
            *p = (struct image_part){.type = 100 + m->n++, .flags = CORM_SECTION_OPTIONAL};
            buf_append(&p->bytes, kept.bytes.data, kept.bytes.len < 64 ? kept.bytes.len : 64);
        }
        buf_printf(log, "as many sections as there may be\n");
        break;
    case 5:
        m->part[i].bytes.len = mutate_below(r, kept.bytes.len + 1);
        buf_printf(log, "section %u: cut to %zu bytes\n", kept.type, m->part[i].bytes.len);
        break;
    default:
        m->part[i].hole = UINT64_C(1) << mutate_below(r, 30);
        buf_printf(log, "section %u: %llu zeros behind it\n", kept.type,
                   (unsigned long long)m->part[i].hole);
        break;
    }
}

void mutate_archive(struct image *m, struct mutate_rng *r, struct buf *log) {
    static void (*const changes[])(struct image *, struct mutate_rng *, struct buf *) = {
        mutate_model,     mutate_model,     mutate_model,     mutate_model,      mutate_metadata,
        mutate_tokenizer, mutate_tokenizer, mutate_tokenizer, mutate_predictors, mutate_predictors,
        change_weights,   change_weights,   change_chunk,     change_chunk,      change_chunk,
        change_tensors,   change_index,     change_index,     change_text,       change_sections,
    };
    uint32_t n = mutate_one_in(r, 2) ? 1 : 1 + mutate_below(r, 3);
    for (; n > 0 && m->n > 0; n--) {
        changes[mutate_below(r, sizeof changes / sizeof *changes)](m, r, log);
    }
}

/* ---- places ---- */

static void change_number(uint8_t *file, size_t at, size_t bytes, struct mutate_rng *r,
                          const char *what, struct buf *log) {
    uint64_t old = 0, v;
    memcpy(&old, file + at, bytes);
    v = mutate_number(r, old, (uint32_t)bytes * 8);
    memcpy(file + at, &v, bytes);
    buf_printf(log, "%s: %llu, was %llu\n", what, (unsigned long long)v, (unsigned long long)old);
}

void mutate_places(struct flat *f, struct mutate_rng *r, struct buf *log) {
    static const size_t header[][2] = {{8, 4},  {12, 4}, {16, 8}, {24, 8},
                                       {40, 8}, {56, 4}, {60, 4}, {64, 8}};
    struct corm_section s[CORM_MAX_SECTIONS];
    struct corm_header h;
    uint32_t n = archive_table(f->data, f->bytes, &h, s), i = mutate_below(r, n);
    size_t entry = h.table_offset + i * sizeof *s;
    if (n == 0) {
        return;
    }
    switch (mutate_below(r, 8)) {
    case 0: {
        const size_t *field = header[mutate_below(r, sizeof header / sizeof *header)];
        change_number(f->data, field[0], field[1], r, "header", log);
        break;
    }
    case 1:
        change_number(f->data, entry + offsetof(struct corm_section, offset), 8, r,
                      "section offset", log);
        break;
    case 2:
        change_number(f->data, entry + offsetof(struct corm_section, bytes), 8, r, "section bytes",
                      log);
        break;
    case 3: /* one section lies where another does */
        memcpy(f->data + entry + offsetof(struct corm_section, offset),
               &s[mutate_below(r, n)].offset, sizeof s->offset);
        buf_printf(log, "section %u: where another one is\n", s[i].type);
        break;
    case 4:
        f->bytes = mutate_below(r, f->bytes);
        buf_printf(log, "file cut to %zu bytes, which its header tells\n", f->bytes);
        break;
    case 5: { /* padding, wherever it is */
        size_t at = mutate_below(r, f->bytes);
        mutate_bytes(r, f->data + at, f->bytes - at < 64 ? f->bytes - at : 64);
        buf_printf(log, "other bytes at %zu\n", at);
        break;
    }
    case 6:
        archive_rehash(f->data, f->bytes);
        change_number(f->data, offsetof(struct corm_header, file_bytes), 8, r, "file_bytes", log);
        memcpy(&h, f->data, sizeof h);
        h.header_hash = hash64(&h, offsetof(struct corm_header, header_hash));
        memcpy(f->data, &h, sizeof h);
        return;
    default:
        archive_rehash(f->data, f->bytes);
        f->bytes = mutate_below(r, f->bytes);
        buf_printf(log, "file cut to %zu bytes\n", f->bytes);
        return;
    }
    archive_rehash(f->data, f->bytes);
}
