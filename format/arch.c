/*
 * arch: see arch.h. The table of the fields of struct arch and what walks it: range checks,
 * metadata, description. Rules that tie several fields together are in check_rules. The tensor
 * slots are in arch_slots.c.
 */
#include "format/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

enum field_kind { FIELD_STRING, FIELD_U32, FIELD_F32, FIELD_U32_ARRAY, FIELD_F32_ARRAY };

enum {
    FIELD_NO_LENGTH = 0,  /* not an array */
    FIELD_OWN_LENGTH = 1, /* the array sets the length field, instead of having to match it */
    FIELD_MATCH_LENGTH = 2,

    FAMILY_MAX_BYTES = 64,
    METADATA_MAX_ENTRIES = 256,
    METADATA_MAX_KEY_BYTES = 64,
    TYPE_U32 = 1, /* value types on disk */
    TYPE_F32 = 2,
    TYPE_STRING = 3,
};

/* Largest count of parameters: every size in bytes then stays far inside 64 bits. */
static const uint64_t max_params = UINT64_C(1) << 47;

struct field {
    const char *key;
    enum field_kind kind;
    size_t at;       /* offset in struct arch of the value, or of the pointer to it */
    double min, max; /* of the value, of every element, of a string's length in bytes */
    bool optional; /* may be missing in the metadata; then the value is `missing` (arrays: empty) */
    float missing;
    int length;       /* arrays: FIELD_OWN_LENGTH or FIELD_MATCH_LENGTH */
    size_t length_at; /* arrays: offset of the field that holds (length * length_unit) */
    uint32_t length_unit;
};

#define AT(member) offsetof(struct arch, member)
#define U32(name, lo, hi)                                                                          \
    { .key = #name, .kind = FIELD_U32, .at = AT(name), .min = lo, .max = hi }
#define F32(name, lo, hi)                                                                          \
    { .key = #name, .kind = FIELD_F32, .at = AT(name), .min = lo, .max = hi }
#define ARRAY(name, type, lo, hi, len, unit)                                                       \
    {                                                                                              \
        .key = #name, .kind = type, .at = AT(name), .min = lo, .max = hi,                          \
        .length = FIELD_MATCH_LENGTH, .length_at = AT(len), .length_unit = unit                    \
    }
#define HINT(name, lo, hi)                                                                         \
    {                                                                                              \
        .key = #name, .kind = FIELD_F32, .at = AT(name), .min = lo, .max = hi, .optional = true,   \
        .missing = -1.0f                                                                           \
    }

/* Order matters where an array's length is the value of an earlier field. */
static const struct field fields[] = {
    {.key = "family", .kind = FIELD_STRING, .at = AT(family), .min = 1, .max = FAMILY_MAX_BYTES},
    U32(n_layers, 1, ARCH_MAX_LAYERS),
    U32(dim, 1, 1 << 17),
    U32(vocab, 1, 1 << 24),
    U32(n_heads, 1, 4096),
    U32(n_kv_heads, 1, 4096),
    U32(head_dim, 2, 4096),
    U32(ctx_max_tok, 1, INT32_MAX),
    F32(norm_eps, 0x1p-40, 0x1p-3),
    U32(qkv_bias, 0, 1),
    U32(o_bias, 0, 1),
    U32(qk_norm, ARCH_QK_NORM_NONE, ARCH_QK_NORM_FULL),
    F32(clip_qkv, 0, 0x1p20),
    ARRAY(window, FIELD_U32_ARRAY, 0, INT32_MAX, n_layers, 1),
    U32(rope_dim, 0, 4096),
    ARRAY(rope_inv_freq, FIELD_F32_ARRAY, 0, 0x1p10, rope_dim, 2),
    F32(rope_scale, 0x1p-10, 0x1p10),
    ARRAY(moe, FIELD_U32_ARRAY, 0, 1, n_layers, 1),
    U32(n_experts, 0, ARCH_MAX_EXPERTS),
    U32(n_active, 0, ARCH_MAX_ACTIVE),
    U32(ffn_dim, 0, 1 << 20),
    U32(norm_topk, 0, 1),
    U32(dense_dim, 0, 1 << 20),
    U32(shared_dim, 0, 1 << 20),
    U32(shared_gate, 0, 1),
    U32(tied, 0, 1),
    {.key = "stop_ids",
     .kind = FIELD_U32_ARRAY,
     .at = AT(stop_ids),
     .min = 0,
     .max = 1 << 24,
     .optional = true,
     .length = FIELD_OWN_LENGTH,
     .length_at = AT(n_stop),
     .length_unit = 1},
    HINT(gen_temperature, -1, 0x1p10),
    HINT(gen_top_p, -1, 1),
    HINT(gen_top_k, -1, 1 << 24),
    HINT(gen_repeat_penalty, -1, 0x1p10),
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0], MAX_STOP_IDS = 1024 };

/* Values and pointers of a struct by offset; memcpy keeps this free of aliasing questions. */
static uint32_t get_u32(const struct arch *a, size_t at) {
    uint32_t v;
    memcpy(&v, (const char *)a + at, sizeof v);
    return v;
}

static float get_f32(const struct arch *a, size_t at) {
    float v;
    memcpy(&v, (const char *)a + at, sizeof v);
    return v;
}

static void *get_pointer(const struct arch *a, size_t at) {
    void *p;
    memcpy(&p, (const char *)a + at, sizeof p);
    return p;
}

static void put(struct arch *a, size_t at, const void *value, size_t bytes) {
    memcpy((char *)a + at, value, bytes);
}

static bool is_array(const struct field *f) {
    return f->length != FIELD_NO_LENGTH;
}

static bool is_float(const struct field *f) {
    return f->kind == FIELD_F32 || f->kind == FIELD_F32_ARRAY;
}

/* Elements of a numeric field (1 for a scalar). */
static uint32_t field_count(const struct arch *a, const struct field *f) {
    return is_array(f) ? get_u32(a, f->length_at) / f->length_unit : 1;
}

/* The elements themselves. */
static const void *field_values(const struct arch *a, const struct field *f) {
    return is_array(f) ? get_pointer(a, f->at) : (const char *)a + f->at;
}

static double element(const struct field *f, const void *values, uint32_t i) {
    return is_float(f) ? (double)((const float *)values)[i] : (double)((const uint32_t *)values)[i];
}

static int check_range(const struct arch *a, const struct field *f, struct err *err) {
    if (f->kind == FIELD_STRING) {
        const char *s = get_pointer(a, f->at);
        size_t len = s ? strlen(s) : 0;
        if (len < f->min || len > f->max) {
            return err_set(err, "%s: a name of 1 to %g bytes is needed, got %zu", f->key, f->max,
                           len);
        }
        for (size_t i = 0; i < len; i++) {
            if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) {
                return err_set(err, "%s: holds a control character", f->key);
            }
        }
        return 0;
    }
    uint32_t n = field_count(a, f);
    const void *values = field_values(a, f);
    if (n > 0 && !values) {
        return err_set(err, "%s: missing (%u values expected)", f->key, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        double v = element(f, values, i);
        if (!(v >= f->min && v <= f->max)) { /* also NaN */
            char where[32] = "";
            if (is_array(f)) {
                snprintf(where, sizeof where, "[%u]", i);
            }
            return err_set(err, "%s%s = %.10g is outside %.10g .. %.10g", f->key, where, v, f->min,
                           f->max);
        }
    }
    return 0;
}

static int check_rules(const struct arch *a, struct err *err) {
    if (a->n_heads % a->n_kv_heads != 0) {
        return err_set(err, "n_heads = %u is not a multiple of n_kv_heads = %u", a->n_heads,
                       a->n_kv_heads);
    }
    if (a->head_dim % 2 != 0) {
        return err_set(err, "head_dim = %u is odd", a->head_dim);
    }
    if (a->rope_dim % 2 != 0 || a->rope_dim > a->head_dim) {
        return err_set(err, "rope_dim = %u must be even and at most head_dim = %u", a->rope_dim,
                       a->head_dim);
    }
    if (a->n_stop > MAX_STOP_IDS) {
        return err_set(err, "stop_ids: %u ids, at most %d are supported", a->n_stop, MAX_STOP_IDS);
    }
    for (uint32_t i = 0; i < a->n_stop; i++) {
        if (a->stop_ids[i] >= a->vocab) {
            return err_set(err, "stop_ids[%u] = %u is not below vocab = %u", i, a->stop_ids[i],
                           a->vocab);
        }
    }
    uint32_t n_moe = arch_moe_layers(a);
    if (n_moe > 0) {
        if (a->n_experts == 0 || a->n_active == 0 || a->ffn_dim == 0) {
            return err_set(
                err, "%u layers have experts, but n_experts = %u, n_active = %u, ffn_dim = %u",
                n_moe, a->n_experts, a->n_active, a->ffn_dim);
        }
        if (a->n_active > a->n_experts) {
            return err_set(err, "n_active = %u is above n_experts = %u", a->n_active, a->n_experts);
        }
    }
    if (n_moe < a->n_layers && a->dense_dim == 0) {
        return err_set(err, "%u layers have no experts, but dense_dim = 0", a->n_layers - n_moe);
    }
    if (a->shared_gate && a->shared_dim == 0) {
        return err_set(err, "shared_gate = 1, but shared_dim = 0");
    }
    uint64_t params = arch_params(a);
    if (params > max_params) {
        return err_set(err, "the fields describe %llu parameters, at most 2^47 are supported",
                       (unsigned long long)params);
    }
    return 0;
}

int arch_check(const struct arch *a, struct err *err) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (check_range(a, &fields[i], err) != 0) {
            return -1;
        }
    }
    return check_rules(a, err);
}

void arch_free(struct arch *a) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (is_array(&fields[i]) || fields[i].kind == FIELD_STRING) {
            free(get_pointer(a, fields[i].at));
        }
    }
    memset(a, 0, sizeof *a);
}

/* ---- metadata ---- */

static void append_u16(struct buf *b, uint16_t v) {
    uint8_t le[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    buf_append(b, le, sizeof le);
}

static void append_u32(struct buf *b, uint32_t v) {
    append_u16(b, (uint16_t)v);
    append_u16(b, (uint16_t)(v >> 16));
}

static uint8_t disk_type(const struct field *f) {
    return f->kind == FIELD_STRING ? TYPE_STRING : is_float(f) ? TYPE_F32 : TYPE_U32;
}

/* Whether the metadata needs the field: what a reader would fill in anyway is left out. */
static bool is_written(const struct arch *a, const struct field *f) {
    if (!f->optional) {
        return true;
    }
    if (is_array(f)) {
        return field_count(a, f) > 0;
    }
    return get_f32(a, f->at) >= 0.0f;
}

void arch_encode(const struct arch *a, struct buf *out) {
    uint32_t n = 0;
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        n += is_written(a, &fields[i]);
    }
    append_u32(out, n);
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        if (!is_written(a, f)) {
            continue;
        }
        bool text = f->kind == FIELD_STRING;
        const void *values = text ? get_pointer(a, f->at) : field_values(a, f);
        uint32_t count = text ? (uint32_t)strlen(values) : field_count(a, f);
        size_t key_bytes = strlen(f->key);
        append_u16(out, (uint16_t)key_bytes);
        append_u16(out, disk_type(f));
        append_u32(out, count);
        buf_append(out, f->key, key_bytes);
        if (text) {
            buf_append(out, values, count);
            continue;
        }
        for (uint32_t k = 0; k < count; k++) {
            uint32_t bits;
            memcpy(&bits, (const char *)values + (size_t)k * 4, 4);
            append_u32(out, bits);
        }
    }
}

struct entry {
    const uint8_t *key;
    size_t key_bytes;
    uint32_t type, count;
    const uint8_t *value; /* count * element size bytes, borrowed */
};

static bool key_equal(const struct entry *e, const char *key) {
    return e->key_bytes == strlen(key) && memcmp(e->key, key, e->key_bytes) == 0;
}

/* Split the section into entries. Returns their number, or -1. */
static int parse_entries(struct cursor *c, struct entry *entries, struct err *err) {
    uint32_t n = cursor_u32(c);
    if (c->failed || n > METADATA_MAX_ENTRIES) {
        return err_set(err, "metadata: %u entries, at most %d are supported", n,
                       METADATA_MAX_ENTRIES);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct entry *e = &entries[i];
        e->key_bytes = cursor_u16(c);
        e->type = cursor_u16(c);
        e->count = cursor_u32(c);
        if (!c->failed && (e->key_bytes == 0 || e->key_bytes > METADATA_MAX_KEY_BYTES)) {
            return err_set(err, "metadata: key of entry %u has %zu bytes, expected 1 to %d", i,
                           e->key_bytes, METADATA_MAX_KEY_BYTES);
        }
        e->key = cursor_bytes(c, e->key_bytes);
        uint64_t value_bytes = e->type == TYPE_STRING ? e->count : (uint64_t)e->count * 4;
        if (!c->failed && e->type != TYPE_U32 && e->type != TYPE_F32 && e->type != TYPE_STRING) {
            return err_set(err, "metadata: key '%.*s' has unknown type %u", (int)e->key_bytes,
                           (const char *)e->key, e->type);
        }
        e->value = cursor_bytes(c, value_bytes);
        if (c->failed) {
            return err_set(err, "metadata: entry %u does not fit into the section's %zu bytes", i,
                           c->size);
        }
        for (uint32_t k = 0; k < i; k++) {
            if (e->key_bytes == entries[k].key_bytes &&
                memcmp(e->key, entries[k].key, e->key_bytes) == 0) {
                return err_set(err, "metadata: key '%.*s' is given twice", (int)e->key_bytes,
                               (const char *)e->key);
            }
        }
    }
    if (c->pos != c->size) {
        return err_set(err, "metadata: %zu bytes after the last entry", c->size - c->pos);
    }
    return (int)n;
}

static int refuse_unknown_keys(const struct entry *entries, int n, struct err *err) {
    static const char info[] = "info.";
    for (int i = 0; i < n; i++) {
        const struct entry *e = &entries[i];
        if (e->key_bytes >= sizeof info - 1 && memcmp(e->key, info, sizeof info - 1) == 0) {
            continue;
        }
        size_t k = 0;
        while (k < FIELD_COUNT && !key_equal(e, fields[k].key)) {
            k++;
        }
        if (k == FIELD_COUNT) {
            return err_set(err, "metadata: unknown key '%.*s': the archive needs a newer program",
                           (int)e->key_bytes, (const char *)e->key);
        }
    }
    return 0;
}

static int decode_missing(struct arch *a, const struct field *f, struct err *err) {
    if (!f->optional) {
        return err_set(err, "metadata: key '%s' is missing", f->key);
    }
    if (!is_array(f)) {
        put(a, f->at, &f->missing, sizeof f->missing);
    }
    return 0;
}

static int decode_field(struct arch *a, const struct field *f, const struct entry *e,
                        struct err *err) {
    if (e->type != disk_type(f)) {
        return err_set(err, "metadata: key '%s' has type %u, expected %u", f->key, e->type,
                       disk_type(f));
    }
    if (f->kind == FIELD_STRING) {
        if (memchr(e->value, 0, e->count)) {
            return err_set(err, "metadata: key '%s' holds a NUL byte", f->key);
        }
        char *s = mem_alloc((size_t)e->count + 1);
        memcpy(s, e->value, e->count);
        s[e->count] = '\0';
        put(a, f->at, &s, sizeof s);
        return 0;
    }
    uint32_t expected = f->length == FIELD_OWN_LENGTH ? e->count : field_count(a, f);
    if (e->count != expected) {
        return err_set(err, "metadata: key '%s' has %u values, expected %u", f->key, e->count,
                       expected);
    }
    uint32_t scalar = 0;
    uint32_t *values = is_array(f) ? mem_calloc(e->count, sizeof *values) : &scalar;
    struct cursor c;
    cursor_init(&c, e->value, (size_t)e->count * 4);
    for (uint32_t i = 0; i < e->count; i++) {
        values[i] = cursor_u32(&c); /* also the bits of an f32 */
    }
    if (!is_array(f)) {
        put(a, f->at, &scalar, sizeof scalar);
        return 0;
    }
    put(a, f->at, &values, sizeof values);
    if (f->length == FIELD_OWN_LENGTH) {
        put(a, f->length_at, &e->count, sizeof e->count);
    }
    return 0;
}

int arch_decode(struct arch *a, const void *data, size_t size, struct err *err) {
    struct entry entries[METADATA_MAX_ENTRIES];
    struct cursor c;
    cursor_init(&c, data, size);
    int n = parse_entries(&c, entries, err);
    if (n < 0 || refuse_unknown_keys(entries, n, err) != 0) {
        return -1;
    }
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        int k = 0;
        while (k < n && !key_equal(&entries[k], fields[i].key)) {
            k++;
        }
        int rc = k == n ? decode_missing(a, &fields[i], err)
                        : decode_field(a, &fields[i], &entries[k], err);
        if (rc != 0) {
            return -1;
        }
    }
    if (arch_check(a, err) != 0) {
        return err_prefix(err, "metadata");
    }
    return 0;
}

/* ---- description ---- */

/* Arrays that say one thing per layer are shown as runs: "0 x 2, 4096 x 30". */
static void describe_runs(const uint32_t *values, uint32_t n, struct buf *out) {
    for (uint32_t i = 0; i < n;) {
        uint32_t end = i + 1;
        while (end < n && values[end] == values[i]) {
            end++;
        }
        buf_printf(out, "%s%u", i ? ", " : "", values[i]);
        if (end - i > 1) {
            buf_printf(out, " x %u", end - i);
        }
        i = end;
    }
}

static void describe_floats(const float *values, uint32_t n, struct buf *out) {
    enum { SHOWN = 4 };
    for (uint32_t i = 0; i < n; i++) {
        if (n > SHOWN && i == SHOWN - 1) {
            buf_printf(out, ", ..., %.6g (%u values)", (double)values[n - 1], n);
            return;
        }
        buf_printf(out, "%s%.6g", i ? ", " : "", (double)values[i]);
    }
}

void arch_describe(const struct arch *a,
                   void (*visit)(void *ctx, const char *key, const char *value), void *ctx) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        if (!is_written(a, f)) {
            continue;
        }
        struct buf text = {0};
        switch (f->kind) {
        case FIELD_STRING:
            buf_printf(&text, "%s", (const char *)get_pointer(a, f->at));
            break;
        case FIELD_U32:
            buf_printf(&text, "%u", get_u32(a, f->at));
            break;
        case FIELD_F32:
            buf_printf(&text, "%.9g", (double)get_f32(a, f->at));
            break;
        case FIELD_U32_ARRAY:
            describe_runs(field_values(a, f), field_count(a, f), &text);
            break;
        case FIELD_F32_ARRAY:
            describe_floats(field_values(a, f), field_count(a, f), &text);
            break;
        }
        visit(ctx, f->key, text.data ? text.data : "");
        buf_free(&text);
    }
}
