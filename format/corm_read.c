/*
 * corm_read: see corm_read.h. Validation in file order: header page, section table, metadata, the
 * other small sections, trunk, records. The layout of version 1 is exact (every part starts where
 * the one before it ends, rounded up to its alignment), so nothing can overlap and nothing can hide
 * in a gap. corm_verify.c reads the rest.
 */
#include "format/corm_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/corm_chunk.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "archives are used in place: the host has to be little-endian");

/* ---- sections ---- */

static const char *const section_names[] = {
    [CORM_SECTION_METADATA] = "metadata",     [CORM_SECTION_TOKENIZER] = "tokenizer",
    [CORM_SECTION_TENSORS] = "tensors",       [CORM_SECTION_TRUNK] = "trunk",
    [CORM_SECTION_RECORDS] = "records",       [CORM_SECTION_INDEX] = "index",
    [CORM_SECTION_PROVENANCE] = "provenance", [CORM_SECTION_LICENSE] = "license",
    [CORM_SECTION_PREDICTORS] = "predictors", [CORM_SECTION_CONVERSATIONS] = "conversations",
};
enum { SECTION_TYPES = sizeof section_names / sizeof section_names[0] };

const char *corm_section_name(uint32_t type) {
    return type < SECTION_TYPES ? section_names[type] : NULL;
}

/* A section's name for messages. */
struct section_text {
    char text[32];
};
static const char *section_text(uint32_t type, struct section_text *t) {
    const char *name = corm_section_name(type);
    if (!name) {
        snprintf(t->text, sizeof t->text, "of type %u", type);
    }
    return name ? name : t->text;
}

const char *corm_encoding_name(uint32_t encoding) {
    static const char *const names[] = {"raw", "zstd", "planes", "exponents"};
    return encoding < sizeof names / sizeof names[0] ? names[encoding] : NULL;
}

bool corm_section_has_hash(uint32_t type) {
    return type != CORM_SECTION_TRUNK && type != CORM_SECTION_RECORDS;
}

bool corm_is_zero(const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (data[i]) {
            return false;
        }
    }
    return true;
}

/* Copy a part of the file as it is now; the part lies within the file. It is read from the file and
 * not copied from the map, because pages that are touched in the map would count as memory of this
 * program, too. */
static int copy_part(const struct corm *c, const char *name, uint64_t offset, void *to,
                     size_t bytes, struct err *err) {
    if (c->map.fd >= 0) {
        return file_read_at(c->map.fd, to, bytes, offset, name, err);
    }
    memcpy(to, c->map.data + offset, bytes);
    return 0;
}

/* What people take for an archive, by its first bytes. */
static const char *mistaken(const uint8_t *data) {
    return memcmp(data, "version https://git-lfs", 23) == 0
               ? "but a pointer of Git LFS: run \"git lfs pull\""
           : memcmp(data, "GGUF", 4) == 0
               ? "but GGUF, of llama.cpp: corm-prep convert reads checkpoints in safetensors"
           : memcmp(data + 8, "{\"", 2) == 0
               ? "but safetensors: give the folder to corm-prep convert"
               : "its first 8 bytes say something else";
}

static int check_header(struct corm *c, struct err *err) {
    uint8_t data[CORM_HEADER_BYTES] = {0};
    size_t size = c->map.size_bytes;
    if (copy_part(c, "header", 0, data, size < sizeof data ? size : sizeof data, err) < 0) {
        return -1;
    }
    if (memcmp(data, CORM_MAGIC, sizeof c->header.magic) != 0) {
        return err_set(err, "not a .corm archive (%s)", mistaken(data));
    }
    if (size < sizeof data) {
        return err_set(err, "truncated: %zu bytes, the header page alone has %d", size,
                       CORM_HEADER_BYTES);
    }
    struct corm_header *h = &c->header;
    memcpy(h, data, sizeof *h);
    if (h->version != CORM_VERSION) {
        return err_set(err, "format version %u; this program reads version %d", h->version,
                       CORM_VERSION);
    }
    if (h->header_hash != hash64(data, offsetof(struct corm_header, header_hash))) {
        return err_set(err, "header: checksum does not match, the file is damaged");
    }
    if (h->incompat & ~CORM_INCOMPAT_KNOWN) {
        return err_set(err, "needs features 0x%llx that this program does not know",
                       (unsigned long long)(h->incompat & ~CORM_INCOMPAT_KNOWN));
    }
    if (h->shard_index != 0 || h->shard_count != 1) {
        return err_set(err, "header: part %u of %u; archives in several files are not supported",
                       h->shard_index, h->shard_count);
    }
    if (h->file_bytes != size) {
        return err_set(err, "%s: %zu bytes, expected %llu",
                       size < h->file_bytes ? "truncated" : "too long", size,
                       (unsigned long long)h->file_bytes);
    }
    size_t tail = offsetof(struct corm_header, header_hash) + sizeof h->header_hash;
    if (!corm_is_zero((const uint8_t *)h->reserved, sizeof h->reserved) ||
        !corm_is_zero(data + tail, CORM_HEADER_BYTES - tail)) {
        return err_set(err, "header: reserved bytes are not zero");
    }
    return 0;
}

/* ---- how large they may be ---- */

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* arch_check bounds every factor: nothing here comes near 2^63. */
uint64_t corm_section_most_bytes(uint32_t type, const struct arch *a) {
    uint64_t n = 0;
    struct slot_place place = {0};
    switch (type) {
    case CORM_SECTION_METADATA:
        return CORM_MAX_METADATA_BYTES;
    case CORM_SECTION_TOKENIZER:
        return CORM_MAX_TOKENIZER_BYTES;
    case CORM_SECTION_PROVENANCE:
    case CORM_SECTION_LICENSE:
    case CORM_SECTION_CONVERSATIONS:
        return CORM_MAX_TEXT_BYTES;
    case CORM_SECTION_TENSORS:
        while (slot_next(a, &place)) {
            n += sizeof(struct corm_tensor);
        }
        return n;
    case CORM_SECTION_INDEX: /* with a chunk for each neuron */
        n = smaller(a->ffn_dim, UINT16_MAX) * sizeof(struct corm_chunk);
        n = (sizeof(struct corm_record) + n) * arch_moe_layers(a) * a->n_experts;
        return smaller(sizeof(struct corm_index_header) + n, CORM_MAX_INDEX_BYTES);
    case CORM_SECTION_PREDICTORS:
        n = arch_params(a) / 4;
        return n < CORM_MIN_PREDICTORS_BYTES ? CORM_MIN_PREDICTORS_BYTES
                                             : smaller(n, CORM_MAX_PREDICTORS_BYTES);
    default: /* used where it lies */
        return UINT64_MAX;
    }
}

/* ---- loading ---- */

/* Compare a section's checksum. Where this program knows the section, it is computed over a copy. A
 * file may be sparse and claim large sections that take no room to store, so their sizes are
 * checked before. */
static int load_section(struct corm *c, uint32_t i, struct err *err) {
    const struct corm_section *s = &c->sections[i];
    const uint8_t *data = c->map.data + s->offset;
    struct section_text text;
    const char *name = section_text(s->type, &text);
    if (corm_section_name(s->type)) {
        uint64_t most = corm_section_most_bytes(s->type, &c->arch);
        if (s->bytes > most) {
            return err_set(err, "section %s: %llu bytes, expected at most %llu", name,
                           (unsigned long long)s->bytes, (unsigned long long)most);
        }
        void *copy;
        if (posix_memalign(&copy, CORM_CHUNK_ALIGN, s->bytes ? s->bytes : 1) != 0) {
            return err_set(err, "section %s: there is no memory for its %llu bytes", name,
                           (unsigned long long)s->bytes);
        }
        data = c->copies[i] = copy;
        c->copied_bytes += s->bytes;
        if (copy_part(c, name, s->offset, copy, s->bytes, err) < 0) {
            return -1;
        }
    }
    if (hash64(data, s->bytes) != s->hash) {
        return err_set(err, "section %s: checksum does not match, the file is damaged", name);
    }
    return 0;
}

static int check_section(const struct corm *c, const struct corm_section *s, uint64_t *end,
                         struct err *err) {
    struct section_text text;
    const char *name = section_text(s->type, &text);
    if (!corm_section_name(s->type) && !(s->flags & CORM_SECTION_OPTIONAL)) {
        return err_set(err, "section %s is unknown: the archive needs a newer program", name);
    }
    if (s->flags & ~(uint32_t)CORM_SECTION_OPTIONAL) {
        return err_set(err, "section %s: unknown flags 0x%x", name, s->flags);
    }
    for (const struct corm_section *before = c->sections; before < s; before++) {
        if (before->type == s->type) {
            return err_set(err, "section %s is given twice", name);
        }
    }
    uint64_t section_end, start = align_up(*end, CORM_SECTION_ALIGN);
    if (s->offset != start || !size_add(s->offset, s->bytes, &section_end) ||
        section_end > c->header.table_offset) {
        return err_set(err,
                       "section %s: %llu bytes at %llu, expected to start at %llu and to end "
                       "before %llu",
                       name, (unsigned long long)s->bytes, (unsigned long long)s->offset,
                       (unsigned long long)start, (unsigned long long)c->header.table_offset);
    }
    *end = section_end;
    if (!corm_section_has_hash(s->type) && s->hash) {
        return err_set(err, "section %s: checksum field is not zero", name);
    }
    return 0;
}

static int check_sections(struct corm *c, struct err *err) {
    const struct corm_header *h = &c->header;
    uint64_t table_bytes = h->section_count * (uint64_t)sizeof(struct corm_section), end;
    if (h->section_count == 0 || h->section_count > CORM_MAX_SECTIONS) {
        return err_set(err, "header: %u sections, expected 1 to %d", h->section_count,
                       CORM_MAX_SECTIONS);
    }
    if (h->table_offset < CORM_HEADER_BYTES || h->table_offset % CORM_SECTION_ALIGN != 0 ||
        !size_add(h->table_offset, table_bytes, &end) || end != h->file_bytes) {
        return err_set(err, "header: section table of %u entries at %llu does not end the file",
                       h->section_count, (unsigned long long)h->table_offset);
    }
    if (copy_part(c, "section table", h->table_offset, c->sections, table_bytes, err) < 0) {
        return -1;
    }
    if (hash64(c->sections, table_bytes) != h->table_hash) {
        return err_set(err, "section table: checksum does not match, the file is damaged");
    }
    end = CORM_HEADER_BYTES;
    for (uint32_t i = 0; i < h->section_count; i++) {
        if (check_section(c, &c->sections[i], &end, err) < 0) {
            return -1;
        }
    }
    if (align_up(end, CORM_SECTION_ALIGN) != h->table_offset) {
        return err_set(err, "section table: starts at %llu, expected %llu",
                       (unsigned long long)h->table_offset,
                       (unsigned long long)align_up(end, CORM_SECTION_ALIGN));
    }
    return 0;
}

static const struct corm_section *find_section(const struct corm *c, uint32_t type) {
    for (uint32_t i = 0; i < c->header.section_count; i++) {
        if (c->sections[i].type == type) {
            return &c->sections[i];
        }
    }
    return NULL;
}

/* The checked bytes of a section that has a checksum. */
static struct corm_bytes section_bytes(const struct corm *c, uint32_t type) {
    const struct corm_section *s = find_section(c, type);
    return s ? (struct corm_bytes){c->copies[s - c->sections], s->bytes} : (struct corm_bytes){0};
}

static const struct corm_section *need_section(const struct corm *c, uint32_t type,
                                               struct err *err) {
    const struct corm_section *s = find_section(c, type);
    if (!s) {
        err_set(err, "section %s is missing", corm_section_name(type));
    }
    return s;
}

static int read_metadata(struct corm *c, struct err *err) {
    const struct corm_section *s = need_section(c, CORM_SECTION_METADATA, err);
    if (!s || load_section(c, (uint32_t)(s - c->sections), err) < 0) {
        return -1;
    }
    struct corm_bytes metadata = section_bytes(c, CORM_SECTION_METADATA);
    return arch_decode(&c->arch, metadata.data, metadata.size_bytes, err);
}

/* Load all other sections. This comes after the metadata, which say how large some of them may
 * be. */
static int load_sections(struct corm *c, struct err *err) {
    for (uint32_t i = 0; i < c->header.section_count; i++) {
        uint32_t type = c->sections[i].type;
        if (type != CORM_SECTION_METADATA && corm_section_has_hash(type) &&
            load_section(c, i, err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- trunk ---- */

int corm_tensor_check(const struct corm *c, const struct corm_tensor *t, struct err *err) {
    if (hash64(c->map.data + t->offset, t->bytes) != t->hash) {
        return err_set(err, "tensor %s of layer %d: checksum does not match, the file is damaged",
                       slot_at((enum slot_id)t->slot)->name, (int)t->layer);
    }
    return 0;
}

static int check_tensor(const struct corm *c, const struct corm_tensor *t,
                        const struct slot_place *place, uint64_t *end, struct err *err) {
    const struct slot *s = slot_at(place->slot);
    if (t->slot != (uint32_t)place->slot || t->layer != place->layer) {
        return err_set(err, "tensors: slot %u of layer %d where %s of layer %d is expected",
                       t->slot, (int)t->layer, s->name, (int)place->layer);
    }
    uint32_t rows = s->rows(&c->arch, place->layer), cols = s->cols(&c->arch, place->layer);
    if (t->rows != rows || t->cols != cols) {
        return err_set(err, "tensor %s of layer %d: shape [%u, %u], expected [%u, %u]", s->name,
                       (int)t->layer, t->rows, t->cols, rows, cols);
    }
    const struct codec *codec = codec_by_id(t->codec);
    if (!codec) {
        return err_set(err, "tensor %s of layer %d: codec %u is unknown", s->name, (int)t->layer,
                       t->codec);
    }
    if (!codec_fits(codec, cols) || (s->store == SLOT_STORE_EXACT && codec->id != CODEC_F32)) {
        return err_set(err, "tensor %s of layer %d: cannot be stored as %s", s->name, (int)t->layer,
                       codec->name);
    }
    /* arch_check bounds every shape: at most 2^41 weights of 4 bytes and a bit. */
    uint64_t start = align_up(*end, CORM_CHUNK_ALIGN);
    uint64_t bytes = (uint64_t)rows * codec_row_bytes(codec, cols);
    if (t->offset != start || t->bytes != bytes || t->reserved != 0) {
        return err_set(err, "tensor %s of layer %d: %llu bytes at %llu, expected %llu at %llu",
                       s->name, (int)t->layer, (unsigned long long)t->bytes,
                       (unsigned long long)t->offset, (unsigned long long)bytes,
                       (unsigned long long)start);
    }
    *end = start + bytes;
    return 0;
}

static int read_trunk(struct corm *c, unsigned flags, struct err *err) {
    const struct corm_section *table = need_section(c, CORM_SECTION_TENSORS, err);
    const struct corm_section *trunk = need_section(c, CORM_SECTION_TRUNK, err);
    if (!table || !trunk) {
        return -1;
    }
    uint64_t n = table->bytes / sizeof(struct corm_tensor);
    if (table->bytes % sizeof(struct corm_tensor) != 0) {
        return err_set(err, "tensors: %llu bytes are not a number of entries",
                       (unsigned long long)table->bytes);
    }
    c->tensors = (const struct corm_tensor *)(const void *)c->copies[table - c->sections];
    uint64_t end = trunk->offset;
    struct slot_place place = {0};
    while (slot_next(&c->arch, &place)) {
        if (c->n_tensors == n) {
            return err_set(err, "tensors: %llu entries, %s of layer %d is missing",
                           (unsigned long long)n, slot_at(place.slot)->name, (int)place.layer);
        }
        const struct corm_tensor *t = &c->tensors[c->n_tensors++];
        if (check_tensor(c, t, &place, &end, err) < 0) {
            return -1;
        }
        if (end > trunk->offset + trunk->bytes) {
            return err_set(err, "tensor %s of layer %d: ends outside the trunk",
                           slot_at(place.slot)->name, (int)place.layer);
        }
        if (!(flags & CORM_OPEN_SKIP_TRUNK_HASH) && corm_tensor_check(c, t, err) < 0) {
            return -1;
        }
    }
    if (c->n_tensors != n || end != trunk->offset + trunk->bytes) {
        return err_set(err, "tensors: more entries, or a longer trunk, than the model has tensors");
    }
    return 0;
}

struct weight corm_tensor_get(const struct corm *c, enum slot_id slot, uint32_t layer) {
    if (slot_at(slot)->scope == SLOT_OF_MODEL) {
        layer = CORM_LAYER_NONE;
    }
    uint32_t lo = 0, hi = c->n_tensors;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct corm_tensor *t = &c->tensors[mid];
        if (t->layer == layer && t->slot == (uint32_t)slot) {
            const struct codec *codec = codec_by_id(t->codec);
            return (struct weight){codec, t->rows, t->cols, codec_row_bytes(codec, t->cols),
                                   c->map.data + t->offset};
        }
        /* + 1 sends model scope, layer 2^32 - 1, to the front. */
        bool before = t->layer == layer ? t->slot < (uint32_t)slot : t->layer + 1 < layer + 1;
        lo = before ? mid + 1 : lo;
        hi = before ? hi : mid;
    }
    return (struct weight){0};
}

/* ---- open and close ---- */

static int read_records(struct corm *c, struct err *err) {
    const struct corm_section *index = need_section(c, CORM_SECTION_INDEX, err);
    const struct corm_section *records = need_section(c, CORM_SECTION_RECORDS, err);
    return index && records ? corm_records_read(c, index, records, err) : -1;
}

static int open_checked(struct corm *c, unsigned flags, struct err *err) {
    if (check_header(c, err) < 0 || check_sections(c, err) < 0 || read_metadata(c, err) < 0 ||
        load_sections(c, err) < 0 || read_trunk(c, flags, err) < 0 || read_records(c, err) < 0) {
        err_prefix(err, "%s", c->map.path);
        corm_close(c);
        return -1;
    }
    c->tokenizer = section_bytes(c, CORM_SECTION_TOKENIZER);
    c->provenance = section_bytes(c, CORM_SECTION_PROVENANCE);
    c->license = section_bytes(c, CORM_SECTION_LICENSE);
    c->predictors = section_bytes(c, CORM_SECTION_PREDICTORS);
    c->conversations = section_bytes(c, CORM_SECTION_CONVERSATIONS);
    return 0;
}

int corm_open(struct corm *c, const char *path, unsigned flags, struct err *err) {
    memset(c, 0, sizeof *c);
    if (map_open(&c->map, path, err) < 0) {
        return -1;
    }
    return open_checked(c, flags, err);
}

int corm_open_memory(struct corm *c, const void *data, size_t bytes, const char *name,
                     unsigned flags, struct err *err) {
    memset(c, 0, sizeof *c);
    c->in_memory = true;
    c->map = (struct map){.data = data, .size_bytes = bytes, .path = mem_strdup(name), .fd = -1};
    return open_checked(c, flags, err);
}

void corm_close(struct corm *c) {
    if (c->in_memory) {
        free(c->map.path);
    } else {
        map_close(&c->map);
    }
    for (uint32_t i = 0; i < CORM_MAX_SECTIONS; i++) {
        free(c->copies[i]);
    }
    arch_free(&c->arch);
    free(c->layer_record);
    memset(c, 0, sizeof *c);
    c->map.fd = -1;
}
