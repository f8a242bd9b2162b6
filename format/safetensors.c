#include "format/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jansson.h>

#include "format/safetensors_internal.h"

enum { ST_MAX_NAME_BYTES = 4096 };

/* Every dtype of the format (https://huggingface.co/docs/safetensors, "Format"): a name that is
 * not here fails the parse, as it does in the official reader. */
static const struct dtype {
    const char *name;
    enum st_dtype id;
    uint32_t bits;
} dtypes[] = {
    {"BF16", ST_BF16, 16},        {"F16", ST_F16, 16},
    {"F32", ST_F32, 32},          {"F64", ST_F64, 64},
    {"I64", ST_I64, 64},          {"I32", ST_I32, 32},
    {"BOOL", ST_OTHER, 8},        {"U8", ST_U8, 8},
    {"I8", ST_OTHER, 8},          {"F8_E4M3", ST_F8_E4M3, 8},
    {"F8_E5M2", ST_OTHER, 8},     {"F8_E8M0", ST_F8_E8M0, 8},
    {"F8_E4M3FNUZ", ST_OTHER, 8}, {"F8_E5M2FNUZ", ST_OTHER, 8},
    {"F4", ST_OTHER, 4},          {"F6_E2M3", ST_OTHER, 6},
    {"F6_E3M2", ST_OTHER, 6},     {"I16", ST_OTHER, 16},
    {"U16", ST_OTHER, 16},        {"U32", ST_OTHER, 32},
    {"U64", ST_OTHER, 64},        {"C64", ST_OTHER, 64},
};

static const struct dtype *dtype_by_name(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return &dtypes[i];
        }
    }
    return NULL;
}

uint32_t st_element_bytes(enum st_dtype dtype) {
    for (size_t i = 0; dtype != ST_OTHER && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (dtypes[i].id == dtype) {
            return dtypes[i].bits / 8;
        }
    }
    return 0;
}

const char *st_shape_text(const struct st_tensor *t, char text[192]) {
    size_t n = (size_t)snprintf(text, 192, "[");
    for (uint32_t d = 0; d < t->n_dims; d++) {
        n += (size_t)snprintf(text + n, 192 - n, "%s%" PRIu64, d ? ", " : "", t->shape[d]);
    }
    snprintf(text + n, 192 - n, "]");
    return text;
}

/* ---- one file's header ---- */

/* A tensor as the header declares it, before the rules that span tensors are checked. */
struct entry {
    struct st_tensor t; /* `name` borrowed from the JSON value */
    uint64_t begin, end;
    uint32_t bits;
};

static int entry_order(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end == y->end ? 0 : x->end < y->end ? -1 : 1;
}

static int check_metadata(json_t *meta, const char *path, struct err *err) {
    if (!json_is_object(meta)) {
        return err_set(err, "%s: header: __metadata__ must be an object of strings", path);
    }
    const char *key;
    json_t *value;
    json_object_foreach(meta, key, value) {
        if (!json_is_string(value)) {
            return err_set(err, "%s: header: __metadata__ key \"%s\" must hold a string", path,
                           key);
        }
    }
    return 0;
}

static int entry_shape(struct entry *e, const json_t *shape, const char *path, struct err *err) {
    if (!json_is_array(shape)) {
        return err_set(err, "%s: tensor \"%s\": shape must be a list of non-negative integers",
                       path, e->t.name);
    }
    size_t n = json_array_size(shape);
    if (n > ST_MAX_DIMS) {
        return err_set(err, "%s: tensor \"%s\": shape has %zu dimensions, at most %d are supported",
                       path, e->t.name, n, ST_MAX_DIMS);
    }
    e->t.n_dims = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0) {
            return err_set(err, "%s: tensor \"%s\": shape must be a list of non-negative integers",
                           path, e->t.name);
        }
        e->t.shape[i] = (uint64_t)json_integer_value(v);
    }
    return 0;
}

/* Rule 3 for one tensor: exactly dtype, shape and data_offsets, each of its type. */
static int entry_parse(struct entry *e, const char *name, json_t *value, const char *path,
                       struct err *err) {
    memset(e, 0, sizeof *e);
    e->t.name = name;
    if (name[0] == '\0' || strlen(name) > ST_MAX_NAME_BYTES) {
        return err_set(err, "%s: header: a tensor name is empty or longer than %d bytes", path,
                       ST_MAX_NAME_BYTES);
    }
    const json_t *dtype = json_object_get(value, "dtype");
    const json_t *shape = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    if (!dtype || !shape || !offsets || json_object_size(value) != 3) {
        return err_set(err, "%s: tensor \"%s\": must have exactly dtype, shape and data_offsets",
                       path, name);
    }
    if (!json_is_string(dtype)) {
        return err_set(err, "%s: tensor \"%s\": dtype must be a string", path, name);
    }
    const struct dtype *d = dtype_by_name(json_string_value(dtype));
    if (!d) {
        return err_set(err, "%s: tensor \"%s\": unknown dtype \"%s\"", path, name,
                       json_string_value(dtype));
    }
    e->t.dtype = e->t.holds = d->id;
    e->t.dtype_name = d->name;
    e->bits = d->bits;
    if (entry_shape(e, shape, path, err) < 0) {
        return -1;
    }
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end) || json_integer_value(begin) < 0 || json_integer_value(end) < 0) {
        return err_set(err, "%s: tensor \"%s\": data_offsets must be two non-negative integers",
                       path, name);
    }
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    return 0;
}

/* Rules 4 and 5: sorted by offset the tensors tile the buffer, and each has the size its shape
 * says. */
static int check_tiling(const struct entry *entries, size_t n, const char *path, struct err *err) {
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = &entries[i];
        if (e->begin != at || e->end < e->begin) {
            return err_set(err,
                           "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                           "] leave a hole or overlap: expected to begin at %" PRIu64,
                           path, e->t.name, e->begin, e->end, at);
        }
        at = e->end;
    }
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = &entries[i];
        char shape[192];
        uint64_t bits = e->bits;
        for (uint32_t d = 0; d < e->t.n_dims; d++) {
            if (!size_mul(bits, e->t.shape[d], &bits)) {
                return err_set(err, "%s: tensor \"%s\": shape %s is too large", path, e->t.name,
                               st_shape_text(&e->t, shape));
            }
        }
        if (bits % 8 != 0 || bits / 8 != e->end - e->begin) {
            return err_set(err,
                           "%s: tensor \"%s\": shape %s of %s needs %" PRIu64
                           ".%u bytes, data_offsets "
                           "give %" PRIu64,
                           path, e->t.name, st_shape_text(&e->t, shape), e->t.dtype_name, bits / 8,
                           (unsigned)(bits % 8 * 125), e->end - e->begin);
        }
    }
    return 0;
}

void st_add(struct safetensors *st, const struct st_tensor *t) {
    st->tensors = mem_grow(st->tensors, st->n_tensors + 1, &st->cap_tensors, sizeof *st->tensors);
    struct st_tensor *own = &st->tensors[st->n_tensors++];
    *own = *t;
    own->name = arena_strdup(&st->names, t->name);
}

void st_set_holds(struct safetensors *st, size_t i, enum st_dtype holds) {
    st->tensors[i].holds = holds;
}

static void add_entry(struct safetensors *st, struct entry *e, const uint8_t *data,
                      const char *file) {
    e->t.data = data + e->begin;
    e->t.bytes = e->end - e->begin;
    e->t.file = file;
    st_add(st, &e->t);
}

/* Rules 3 to 7 on the parsed header. `data` is the buffer behind it, `data_bytes` long. */
static int parse_tensors(json_t *root, const uint8_t *data, uint64_t data_bytes, const char *path,
                         struct safetensors *into, struct err *err) {
    int rc = -1;
    size_t n = 0;
    struct entry *entries = mem_calloc(json_object_size(root) + 1, sizeof *entries);
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        if (strcmp(key, "__metadata__") == 0) {
            if (check_metadata(value, path, err) < 0) {
                goto out;
            }
        } else if (entry_parse(&entries[n++], key, value, path, err) < 0) {
            goto out;
        }
    }
    qsort(entries, n, sizeof *entries, entry_order);
    if (check_tiling(entries, n, path, err) < 0) {
        goto out;
    }
    uint64_t end = n ? entries[n - 1].end : 0;
    if (end != data_bytes) {
        err_set(err,
                "%s: the tensors end at byte %" PRIu64 " of the data, the file has %" PRIu64
                " (%s)",
                path, end, data_bytes, end > data_bytes ? "truncated?" : "trailing bytes");
        goto out;
    }
    if (into) {
        const char *file = arena_strdup(&into->names, path);
        for (size_t i = 0; i < n; i++) {
            add_entry(into, &entries[i], data, file);
        }
    }
    rc = 0;
out:
    free(entries);
    return rc;
}

int st_parse_header(const uint8_t *file, size_t file_bytes, const char *path,
                    struct safetensors *into, struct err *err) {
    struct cursor c;
    cursor_init(&c, file, file_bytes);
    uint64_t n = cursor_u64(&c);
    if (c.failed) {
        return err_set(err, "%s: %zu bytes are too few for a safetensors file", path, file_bytes);
    }
    if (n > ST_MAX_HEADER_BYTES) {
        return err_set(err,
                       "%s: header of %" PRIu64 " bytes is larger than %d: not a safetensors file?",
                       path, n, ST_MAX_HEADER_BYTES);
    }
    const uint8_t *header = cursor_bytes(&c, n);
    if (!header) {
        return err_set(
            err, "%s: header of %" PRIu64 " bytes does not fit in the file of %zu (truncated?)",
            path, n, file_bytes);
    }
    if (n == 0 || header[0] != '{') {
        return err_set(err, "%s: the header must begin with '{'", path);
    }
    json_error_t why;
    json_t *root = json_loadb((const char *)header, n, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        return err_set(err, "%s: header is not valid JSON: %s (byte %d)", path, why.text,
                       why.position);
    }
    int rc = parse_tensors(root, file + 8 + n, file_bytes - 8 - n, path, into, err);
    json_decref(root);
    return rc;
}

/* ---- lookup ---- */

struct safetensors *st_new(void) {
    return mem_calloc(1, sizeof(struct safetensors));
}

static int name_order(const void *a, const void *b) {
    const struct st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

int st_index(struct safetensors *st, struct err *err) {
    if (st->n_tensors) {
        qsort(st->tensors, st->n_tensors, sizeof *st->tensors, name_order);
    }
    for (size_t i = 1; i < st->n_tensors; i++) {
        const struct st_tensor *a = &st->tensors[i - 1], *b = &st->tensors[i];
        if (strcmp(a->name, b->name) == 0) {
            return err_set(err, "%s: tensor \"%s\" is also in %s", b->file, b->name, a->file);
        }
    }
    free(st->slots);
    st->n_slots = 64;
    while (st->n_slots < 2 * st->n_tensors) {
        st->n_slots *= 2;
    }
    st->slots = mem_calloc(st->n_slots, sizeof *st->slots);
    for (size_t i = 0; i < st->n_tensors; i++) {
        size_t at = hash64(st->tensors[i].name, strlen(st->tensors[i].name));
        while (st->slots[at & (st->n_slots - 1)]) {
            at++;
        }
        st->slots[at & (st->n_slots - 1)] = (uint32_t)i + 1;
    }
    return 0;
}

const struct st_tensor *st_find(const struct safetensors *st, const char *name) {
    for (size_t at = hash64(name, strlen(name));; at++) {
        uint32_t slot = st->slots[at & (st->n_slots - 1)];
        if (slot == 0) {
            return NULL;
        }
        if (strcmp(st->tensors[slot - 1].name, name) == 0) {
            return &st->tensors[slot - 1];
        }
    }
}

size_t st_count(const struct safetensors *st) {
    return st->n_tensors;
}

const struct st_tensor *st_at(const struct safetensors *st, size_t i) {
    return &st->tensors[i];
}

size_t st_absent_count(const struct safetensors *st) {
    return st->n_absent;
}

const struct st_tensor *st_absent(const struct safetensors *st, size_t i) {
    return &st->absent[i];
}

size_t st_skipped_count(const struct safetensors *st) {
    return st->n_skipped;
}

const struct st_tensor *st_skipped(const struct safetensors *st, size_t i) {
    return &st->skipped[i];
}

size_t st_file_count(const struct safetensors *st) {
    return st->n_paths;
}

const char *st_file_path(const struct safetensors *st, size_t i) {
    return st->paths[i];
}

/* ---- elements ---- */

void st_read_f32(const struct st_tensor *t, uint64_t first, uint64_t n, float *dst) {
    if (t->dtype == ST_F32) {
        memcpy(dst, t->data + 4 * first, 4 * n);
        return;
    }
    const uint8_t *src = t->data + 2 * first;
    const bool bf16 = t->dtype == ST_BF16;
    uint16_t h;
    for (uint64_t i = 0; bf16 && i < n; i++) {
        memcpy(&h, src + 2 * i, sizeof h);
        dst[i] = bf16_to_f32(h);
    }
    for (uint64_t i = 0; !bf16 && i < n; i++) {
        memcpy(&h, src + 2 * i, sizeof h);
        dst[i] = f16_to_f32(h);
    }
}

/* Page-aligned hull of a byte range: neighbours that share a page only lose a cached mapping. */
static void advise(const struct st_tensor *t, uint64_t first, uint64_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)(t->data + first) & ~(page - 1);
    uintptr_t end = (uintptr_t)(t->data + first + bytes);
    if (bytes) {
        madvise((void *)begin, end - begin, advice); /* advice only: a failure changes nothing */
    }
}

void st_drop_range(const struct st_tensor *t, uint64_t first, uint64_t bytes) {
    advise(t, first, bytes, MADV_DONTNEED);
}

void st_drop_pages(const struct st_tensor *t) {
    st_drop_range(t, 0, t->bytes);
}

void st_want_range(const struct st_tensor *t, uint64_t first, uint64_t bytes) {
    advise(t, first, bytes, MADV_WILLNEED);
}
