#include "prep/gguf/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "prep/gguf/gguf_block.h"

enum { MAX_DIMS = 4, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20 };
/* The fewest bytes that a key with its value has, and a tensor's row: so that counts cannot ask for
 * more memory than there are bytes. */
enum { LEAST_KEY_BYTES = 8 + 1 + 4 + 1, LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8 };

/* ---- types ---- */

static const struct {
    const char *name, *names;
    uint32_t bytes; /* 0: each has its own */
} types[GGUF_TYPES] = {
    [GGUF_U8] = {"u8", "list of u8", 1},          [GGUF_I8] = {"i8", "list of i8", 1},
    [GGUF_U16] = {"u16", "list of u16", 2},       [GGUF_I16] = {"i16", "list of i16", 2},
    [GGUF_U32] = {"u32", "list of u32", 4},       [GGUF_I32] = {"i32", "list of i32", 4},
    [GGUF_F32] = {"f32", "list of f32", 4},       [GGUF_BOOL] = {"bool", "list of bool", 1},
    [GGUF_STRING] = {"text", "list of texts", 0}, [GGUF_LIST] = {"list", "list of lists", 0},
    [GGUF_U64] = {"u64", "list of u64", 8},       [GGUF_I64] = {"i64", "list of i64", 8},
    [GGUF_F64] = {"f64", "list of f64", 8},
};

const char *gguf_type_text(const struct gguf_value *v) {
    return v->list ? types[v->type].names : types[v->type].name;
}

/* ---- parsing ---- */

struct parse {
    struct gguf *g;
    struct cursor c;
    const char *path;
    struct err *err;
};

/* A tensor as the table declares it. */
struct entry {
    struct st_tensor t;
    char name[GGUF_MAX_NAME_BYTES + 1];
    uint64_t offset;
};

static int refuse_end(const struct parse *p, const char *what) {
    return err_set(p->err, "%s: ends inside %s, at byte %zu of %zu (truncated?)", p->path, what,
                   p->c.failed_at, p->c.size);
}

static int step(struct parse *p) {
    return ++p->g->steps > GGUF_MAX_STEPS
               ? err_set(p->err, "%s: the header has more than %d keys, texts and tensors", p->path,
                         GGUF_MAX_STEPS)
               : 0;
}

/* A name: its length, its bytes, none of them a control character. `name` has room for
 * GGUF_MAX_NAME_BYTES and the end. */
static int read_name(struct parse *p, const char *what, char *name) {
    uint64_t n = cursor_u64(&p->c);
    if (!p->c.failed && (n == 0 || n > GGUF_MAX_NAME_BYTES)) {
        return err_set(p->err, "%s: %s has a name of %" PRIu64 " bytes, expected 1 .. %d", p->path,
                       what, n, GGUF_MAX_NAME_BYTES);
    }
    const uint8_t *bytes = cursor_bytes(&p->c, n);
    if (p->c.failed) {
        return refuse_end(p, what);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (bytes[i] < ' ') {
            return err_set(p->err, "%s: %s has a control character in its name", p->path, what);
        }
    }
    memcpy(name, bytes, n);
    name[n] = '\0';
    return 0;
}

/* Go past a value's items. */
static int skip_items(struct parse *p, const struct gguf_value *v) {
    uint64_t bytes;
    if (types[v->type].bytes) {
        if (!size_mul(v->n, types[v->type].bytes, &bytes) || !cursor_bytes(&p->c, bytes)) {
            return err_set(p->err, "%s: %s: %" PRIu64 " items of %s do not fit in the file",
                           p->path, v->key, v->n, types[v->type].name);
        }
        return 0;
    }
    for (uint64_t i = 0; i < v->n; i++) {
        if (step(p) < 0) {
            return -1;
        }
        bytes = cursor_u64(&p->c);
        if (!cursor_bytes(&p->c, bytes)) {
            return err_set(p->err,
                           "%s: %s: text %" PRIu64 " has %" PRIu64 " bytes, which the file has not",
                           p->path, v->key, i, bytes);
        }
    }
    return 0;
}

/* A key's type and value; v->key is set. */
static int read_value(struct parse *p, struct gguf_value *v) {
    uint32_t type = cursor_u32(&p->c);
    v->n = 1;
    v->list = type == GGUF_LIST;
    if (v->list) {
        type = cursor_u32(&p->c);
        v->n = cursor_u64(&p->c);
    }
    if (p->c.failed) {
        return refuse_end(p, v->key);
    }
    if (type >= GGUF_TYPES || type == GGUF_LIST) {
        return err_set(p->err, "%s: %s: type %" PRIu32 " is not known%s", p->path, v->key, type,
                       type == GGUF_LIST ? " inside a list" : "");
    }
    v->type = type;
    v->data = p->c.base + p->c.pos;
    return skip_items(p, v);
}

static int by_key(const void *a, const void *b) {
    const struct gguf_value *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static void free_values(struct gguf_value *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(values[i].key);
    }
    free(values);
}

static int read_values(struct parse *p, uint64_t n, struct gguf_value *values) {
    for (uint64_t i = 0; i < n; i++) {
        char name[GGUF_MAX_NAME_BYTES + 1];
        if (step(p) < 0 || read_name(p, "a key", name) < 0) {
            return -1;
        }
        values[i].key = mem_strdup(name);
        if (read_value(p, &values[i]) < 0) {
            return -1;
        }
    }
    qsort(values, n, sizeof *values, by_key);
    for (uint64_t i = 1; i < n; i++) {
        if (strcmp(values[i - 1].key, values[i].key) == 0) {
            return err_set(p->err, "%s: key \"%s\" is there twice", p->path, values[i].key);
        }
    }
    return 0;
}

/* ---- tensors ---- */

static int read_dims(struct parse *p, struct entry *e) {
    uint32_t n = cursor_u32(&p->c);
    if (!p->c.failed && (n == 0 || n > MAX_DIMS)) {
        return err_set(p->err, "%s: tensor \"%s\": %" PRIu32 " dimensions, expected 1 .. %d",
                       p->path, e->name, n, MAX_DIMS);
    }
    for (uint32_t d = n; d-- > 0;) {
        e->t.shape[d] = cursor_u64(&p->c);
    }
    e->t.n_dims = n;
    return p->c.failed ? refuse_end(p, "the table of tensors") : 0;
}

/* How many bytes the tensor has, by its type. */
static int measure(struct parse *p, struct entry *e, const struct gguf_block *block) {
    uint64_t blocks = 1;
    bool fits = true, empty = false;
    char shape[192];
    for (uint32_t d = 0; d < e->t.n_dims; d++) {
        uint64_t n = e->t.shape[d];
        empty = empty || n == 0;
        n = d + 1 == e->t.n_dims ? n / block->numbers : n;
        fits = fits && size_mul(blocks, n, &blocks);
    }
    if (e->t.shape[e->t.n_dims - 1] % block->numbers != 0 || empty) {
        return err_set(p->err,
                       "%s: tensor \"%s\": shape is %s, %s needs rows of a multiple of %u numbers",
                       p->path, e->name, st_shape_text(&e->t, shape), block->name, block->numbers);
    }
    /* Twice as many bits as there can be bytes: products of dimensions stay countable. */
    if (!fits || blocks > UINT64_MAX / 2 / block->numbers ||
        !size_mul(blocks, block->bytes, &e->t.bytes)) {
        return err_set(p->err, "%s: tensor \"%s\": shape %s is too large", p->path, e->name,
                       st_shape_text(&e->t, shape));
    }
    return 0;
}

static int read_entry(struct parse *p, struct entry *e) {
    if (step(p) < 0 || read_name(p, "a tensor", e->name) < 0 || read_dims(p, e) < 0) {
        return -1;
    }
    uint32_t type = cursor_u32(&p->c);
    e->offset = cursor_u64(&p->c);
    if (p->c.failed) {
        return refuse_end(p, "the table of tensors");
    }
    const struct gguf_block *block = gguf_block_by_id(type);
    if (!block) {
        return err_set(p->err, "%s: tensor \"%s\": type %" PRIu32 " is not known", p->path, e->name,
                       type);
    }
    if (!block->bytes) {
        char *list = gguf_block_list();
        err_set(p->err, "%s: tensor \"%s\": type %s is not read; read are: %s", p->path, e->name,
                block->name, list);
        free(list);
        return -1;
    }
    e->t.dtype = e->t.holds = block->dtype;
    e->t.dtype_name = block->name;
    return measure(p, e, block);
}

static int by_offset(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Tensors lie in the data, aligned, none over another. */
static int check_places(const struct parse *p, const struct entry *entries, uint64_t n,
                        uint64_t alignment, uint64_t data_bytes) {
    uint64_t end = 0;
    for (uint64_t i = 0; i < n; i++) {
        const struct entry *e = &entries[i];
        if (e->offset % alignment != 0) {
            return err_set(p->err,
                           "%s: tensor \"%s\": offset %" PRIu64 " is no multiple of %" PRIu64
                           " (general.alignment)",
                           p->path, e->name, e->offset, alignment);
        }
        if (e->offset < end) {
            return err_set(
                p->err, "%s: tensors \"%s\" and \"%s\" overlap, at offset %" PRIu64 " of the data",
                p->path, entries[i - 1].name, e->name, e->offset);
        }
        if (!size_add(e->offset, e->t.bytes, &end) || end > data_bytes) {
            return err_set(p->err,
                           "%s: tensor \"%s\": %" PRIu64 " bytes at offset %" PRIu64
                           " do not fit in the data of %" PRIu64 " (truncated?)",
                           p->path, e->name, e->t.bytes, e->offset, data_bytes);
        }
    }
    return 0;
}

static int read_tensors(struct parse *p, uint64_t n, uint64_t alignment, size_t file_bytes,
                        const uint8_t *file) {
    struct entry *entries = mem_calloc(n + 1, sizeof *entries);
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        rc = read_entry(p, &entries[i]);
    }
    uint64_t begin = align_up(p->c.pos, alignment);
    if (rc == 0) {
        begin = begin < file_bytes ? begin : file_bytes;
        qsort(entries, n, sizeof *entries, by_offset);
        rc = check_places(p, entries, n, alignment, file_bytes - begin);
    }
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        struct entry *e = &entries[i];
        e->t.name = e->name;
        e->t.file = p->path;
        e->t.data = file + begin + e->offset;
        st_add(p->g->st, &e->t);
    }
    free(entries);
    return rc;
}

/* ---- a file ---- */

static int read_begin(struct parse *p, uint64_t *n_tensors, uint64_t *n_values) {
    const uint8_t *magic = cursor_bytes(&p->c, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) {
        return err_set(p->err, "%s: does not begin with \"GGUF\"", p->path);
    }
    uint32_t version = cursor_u32(&p->c);
    *n_tensors = cursor_u64(&p->c);
    *n_values = cursor_u64(&p->c);
    if (p->c.failed) {
        return refuse_end(p, "the header");
    }
    if ((version & 0xffff) == 0) {
        return err_set(
            p->err,
            "%s: is in the byte order of big-endian machines, which is not read: convert "
            "it with llama.cpp's gguf_convert_endian.py",
            p->path);
    }
    if (version != 2 && version != 3) {
        return err_set(p->err, "%s: version %" PRIu32 " of GGUF is not read, expected 2 or 3",
                       p->path, version);
    }
    uint64_t left = p->c.size - p->c.pos;
    if (*n_values > GGUF_MAX_KEYS || *n_tensors > GGUF_MAX_TENSORS) {
        return err_set(p->err,
                       "%s: %" PRIu64 " keys and %" PRIu64 " tensors, expected at most %d and %d",
                       p->path, *n_values, *n_tensors, GGUF_MAX_KEYS, GGUF_MAX_TENSORS);
    }
    if (*n_values > left / LEAST_KEY_BYTES || *n_tensors > left / LEAST_TENSOR_BYTES) {
        return err_set(p->err,
                       "%s: %" PRIu64 " keys and %" PRIu64 " tensors do not fit in the file of %zu "
                       "bytes",
                       p->path, *n_values, *n_tensors, p->c.size);
    }
    return 0;
}

static const struct gguf_value *value_of(const struct gguf_value *values, uint64_t n,
                                         const char *key) {
    struct gguf_value wanted = {.key = (char *)(uintptr_t)key};
    return n ? bsearch(&wanted, values, n, sizeof wanted, by_key) : NULL;
}

static int read_alignment(const struct parse *p, const struct gguf_value *values, uint64_t n,
                          uint64_t *alignment) {
    const struct gguf_value *v = value_of(values, n, "general.alignment");
    int64_t value = DEFAULT_ALIGNMENT;
    if (v && (!gguf_integer(v, 0, &value) || v->list || value < 8 || value > MAX_ALIGNMENT ||
              (value & (value - 1)) != 0)) {
        return err_set(p->err, "%s: general.alignment: expected a power of two, 8 .. %d", p->path,
                       MAX_ALIGNMENT);
    }
    *alignment = (uint64_t)value;
    return 0;
}

/* A later part says which it is, and the same of the whole as the first. */
static int check_part(const struct parse *p, const struct gguf_value *values, uint64_t n) {
    static const char *const keys[] = {"split.no", "split.count", "split.tensors.count"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct gguf_value *v = value_of(values, n, keys[i]),
                                *first = gguf_find(p->g, keys[i]);
        int64_t is, expected = (int64_t)p->g->n_headers - 1;
        if (i > 0 && (!first || !gguf_integer(first, 0, &expected))) {
            continue;
        }
        if (!v || v->list || !gguf_integer(v, 0, &is) || is != expected) {
            return err_set(p->err, "%s: %s: expected %" PRId64 "%s", p->path, keys[i], expected,
                           i > 0 ? ", as the first part has it" : "");
        }
    }
    return 0;
}

/* Parse what is at p->c. */
static int parse_all(struct parse *p, const uint8_t *file, size_t file_bytes) {
    uint64_t n_tensors, n_values, alignment = DEFAULT_ALIGNMENT;
    if (read_begin(p, &n_tensors, &n_values) < 0) {
        return -1;
    }
    struct gguf_value *values = mem_calloc(n_values + 1, sizeof *values);
    int rc = read_values(p, n_values, values) < 0 ||
                     (p->g->values && check_part(p, values, n_values) < 0) ||
                     read_alignment(p, values, n_values, &alignment) < 0 ||
                     read_tensors(p, n_tensors, alignment, file_bytes, file) < 0
                 ? -1
                 : 0;
    if (rc == 0 && !p->g->values) {
        p->g->values = values;
        p->g->n_values = n_values;
    } else {
        free_values(values, n_values);
    }
    return rc;
}

/* How long the header is that is at `file`: a walk, of which nothing is kept. */
static int walk_header(const struct gguf *g, const uint8_t *file, size_t file_bytes,
                       const char *path, size_t *bytes, struct err *err) {
    struct gguf walk = {.steps = g->steps};
    struct parse p = {.g = &walk, .path = path, .err = err};
    uint64_t n_tensors, n_values;
    cursor_init(&p.c, file, file_bytes);
    int rc = read_begin(&p, &n_tensors, &n_values);
    for (uint64_t i = 0; rc == 0 && i < n_values; i++) {
        char name[GGUF_MAX_NAME_BYTES + 1];
        struct gguf_value v = {.key = name};
        rc = step(&p) < 0 || read_name(&p, "a key", name) < 0 || read_value(&p, &v) < 0 ? -1 : 0;
    }
    for (uint64_t i = 0; rc == 0 && i < n_tensors; i++) {
        struct entry e = {0};
        rc = read_entry(&p, &e);
    }
    *bytes = p.c.pos;
    return rc;
}

/* The same within the budget of bytes. Where the walk ends at that, a walk over the whole file
 * tells whether the header is too long, or is wrong: then what is wrong is said. */
static int measure_header(const struct gguf *g, const uint8_t *file, size_t file_bytes,
                          const char *path, size_t *bytes, struct err *err) {
    const size_t limit = GGUF_MAX_HEADER_BYTES - (size_t)g->header_bytes;
    if (file_bytes <= limit) {
        return walk_header(g, file, file_bytes, path, bytes, err);
    }
    if (walk_header(g, file, limit, path, bytes, err) == 0) {
        return 0;
    }
    *err = (struct err){0};
    walk_header(g, file, file_bytes, path, bytes, err);
    if (*bytes > limit || !err->set) {
        *err = (struct err){0};
        err_set(err, "%s: the header has more than %zu bytes", path, limit);
    }
    return -1;
}

int gguf_parse(struct gguf *g, const uint8_t *file, size_t file_bytes, const char *path,
               struct err *err) {
    size_t bytes;
    if (measure_header(g, file, file_bytes, path, &bytes, err) < 0) {
        return -1;
    }
    uint8_t *copy = mem_alloc(bytes);
    memcpy(copy, file, bytes);
    g->headers = mem_grow(g->headers, g->n_headers + 1, &g->cap_headers, sizeof *g->headers);
    g->headers[g->n_headers++] = copy;
    g->header_bytes += bytes;
    struct parse p = {.g = g, .path = path, .err = err};
    cursor_init(&p.c, copy, bytes);
    return parse_all(&p, file, file_bytes);
}

void gguf_close(struct gguf *g) {
    free_values(g->values, g->n_values);
    for (size_t i = 0; i < g->n_headers; i++) {
        free(g->headers[i]);
    }
    free(g->headers);
    st_close(g->st);
    free(g->path);
    memset(g, 0, sizeof *g);
}

/* ---- values ---- */

const struct gguf_value *gguf_find(const struct gguf *g, const char *key) {
    return value_of(g->values, g->n_values, key);
}

bool gguf_integer(const struct gguf_value *v, uint64_t i, int64_t *out) {
    struct cursor c;
    uint32_t bytes = types[v->type].bytes;
    if (i >= v->n || bytes == 0 || v->type == GGUF_F32 || v->type == GGUF_F64) {
        return false;
    }
    cursor_init(&c, v->data + i * bytes, bytes);
    switch (v->type) {
    case GGUF_I8:
        *out = (int8_t)cursor_u8(&c);
        break;
    case GGUF_I16:
        *out = (int16_t)cursor_u16(&c);
        break;
    case GGUF_I32:
        *out = (int32_t)cursor_u32(&c);
        break;
    case GGUF_U16:
        *out = cursor_u16(&c);
        break;
    case GGUF_U32:
        *out = cursor_u32(&c);
        break;
    case GGUF_U64:
    case GGUF_I64: {
        uint64_t u = cursor_u64(&c);
        if (v->type == GGUF_U64 && u > INT64_MAX) {
            return false;
        }
        *out = (int64_t)u;
        break;
    }
    default: /* u8, bool */
        *out = cursor_u8(&c);
        return v->type != GGUF_BOOL || *out <= 1;
    }
    return true;
}

bool gguf_real(const struct gguf_value *v, uint64_t i, double *out) {
    int64_t integer;
    if (i < v->n && v->type == GGUF_F32) {
        float f;
        memcpy(&f, v->data + 4 * i, sizeof f);
        *out = (double)f;
        return true;
    }
    if (i < v->n && v->type == GGUF_F64) {
        memcpy(out, v->data + 8 * i, sizeof *out);
        return true;
    }
    if (!gguf_integer(v, i, &integer)) {
        return false;
    }
    *out = (double)integer;
    return true;
}

bool gguf_next_text(const struct gguf_value *v, struct gguf_walk *at, struct gguf_text *out) {
    struct cursor c;
    if (v->type != GGUF_STRING || at->item >= v->n) {
        return false;
    }
    cursor_init(&c, v->data + at->byte, sizeof(uint64_t));
    out->bytes = cursor_u64(&c);
    out->data = (const char *)v->data + at->byte + sizeof(uint64_t);
    at->byte += sizeof(uint64_t) + out->bytes;
    at->item++;
    return true;
}

bool gguf_string(const struct gguf_value *v, struct gguf_text *out) {
    struct gguf_walk at = {0};
    return !v->list && gguf_next_text(v, &at, out);
}
