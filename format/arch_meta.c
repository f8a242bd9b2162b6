/*
 * arch_meta: struct arch as the metadata section of an archive (docs/FORMAT.md), and for people.
 * Both walk the table of arch_fields.h.
 */
#include <stdlib.h>
#include <string.h>

#include "format/arch_fields.h"

enum {
    METADATA_MAX_ENTRIES = 256,
    METADATA_MAX_KEY_BYTES = 64,
    TYPE_U32 = 1, /* value types on disk */
    TYPE_F32 = 2,
    TYPE_STRING = 3,
};

/* ---- writing ---- */

static void append_u16(struct buf *b, uint16_t v) {
    uint8_t le[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    buf_append(b, le, sizeof le);
}

static void append_u32(struct buf *b, uint32_t v) {
    append_u16(b, (uint16_t)v);
    append_u16(b, (uint16_t)(v >> 16));
}

static uint8_t disk_type(const struct arch_field *f) {
    return f->type == FIELD_STRING ? TYPE_STRING : field_is_float(f) ? TYPE_F32 : TYPE_U32;
}

static bool is_kind_index(const struct arch_field *f) {
    return strcmp(f->key, "kind") == 0;
}

static uint32_t kind_value(const void *ctx, const struct arch_field *f, uint32_t layer) {
    const struct arch *a = ctx;
    return arch_field_bits(a, f, a->kind[layer]);
}

/* Whether the kinds are those that a reader derives from the fields by layer. */
static bool kinds_are_derived(const struct arch *a) {
    uint32_t *derived = mem_calloc(a->n_layers, sizeof *derived);
    uint32_t n = arch_derive_kinds(a->n_layers, kind_value, a, derived);
    bool same = n == a->n_kinds && memcmp(derived, a->kind, a->n_layers * sizeof *derived) == 0;
    free(derived);
    return same;
}

/* Whether the metadata needs the field: what a reader would fill in anyway is left out. */
static bool is_written(const struct arch *a, const struct arch_field *f) {
    if (!f->optional) {
        return true;
    }
    uint32_t n = arch_field_count(a, f);
    if (f->of == FIELD_ARRAY) {
        return is_kind_index(f) ? !kinds_are_derived(a) : n > 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (arch_field_number(a, f, i) != (double)(float)f->missing) {
            return true;
        }
    }
    return false;
}

/* How many values the metadata holds, and value `i` of them. */
static uint32_t written_count(const struct arch *a, const struct arch_field *f) {
    uint32_t n = arch_field_count(a, f);
    if (f->of == FIELD_BY_LAYER) {
        return a->n_layers;
    }
    if (f->of != FIELD_OF_KIND) {
        return n;
    }
    for (uint32_t i = 1; i < n; i++) {
        if (arch_field_bits(a, f, i) != arch_field_bits(a, f, 0)) {
            return n;
        }
    }
    return 1;
}

static uint32_t written_bits(const struct arch *a, const struct arch_field *f, uint32_t i) {
    return arch_field_bits(a, f, f->of == FIELD_BY_LAYER ? a->kind[i] : i);
}

void arch_encode(const struct arch *a, struct buf *out) {
    uint32_t n = 0;
    for (size_t i = 0; i < arch_n_fields; i++) {
        n += is_written(a, &arch_fields[i]);
    }
    append_u32(out, n);
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if (!is_written(a, f)) {
            continue;
        }
        const char *text = f->type == FIELD_STRING ? arch_field_pointer(a, f) : NULL;
        uint32_t count = text ? (uint32_t)strlen(text) : written_count(a, f);
        size_t key_bytes = strlen(f->key);
        append_u16(out, (uint16_t)key_bytes);
        append_u16(out, disk_type(f));
        append_u32(out, count);
        buf_append(out, f->key, key_bytes);
        if (text) {
            buf_append(out, text, count);
            continue;
        }
        for (uint32_t k = 0; k < count; k++) {
            append_u32(out, written_bits(a, f, k));
        }
    }
}

/* ---- reading ---- */

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
        while (k < arch_n_fields && !key_equal(e, arch_fields[k].key)) {
            k++;
        }
        if (k == arch_n_fields) {
            return err_set(err, "metadata: unknown key '%.*s': the archive needs a newer program",
                           (int)e->key_bytes, (const char *)e->key);
        }
    }
    return 0;
}

/* The entry of a field, or NULL where it is missing and may be. */
static int find_entry(const struct arch_field *f, const struct entry *entries, int n,
                      const struct entry **found, struct err *err) {
    *found = NULL;
    for (int i = 0; i < n; i++) {
        if (key_equal(&entries[i], f->key)) {
            *found = &entries[i];
        }
    }
    if (!*found && !f->optional) {
        return err_set(err, "metadata: key '%s' is missing", f->key);
    }
    if (*found && (*found)->type != disk_type(f)) {
        return err_set(err, "metadata: key '%s' has type %u, expected %u", f->key, (*found)->type,
                       disk_type(f));
    }
    return 0;
}

/* Value `i` of an entry: a number, or the bits of an f32. */
static uint32_t entry_bits(const struct entry *e, uint32_t i) {
    struct cursor c;
    cursor_init(&c, e->value + (size_t)i * 4, 4);
    return cursor_u32(&c);
}

static int refuse_count(const struct arch_field *f, const struct entry *e, uint32_t expected,
                        struct err *err) {
    return err_set(err, "metadata: key '%s' has %u values, expected %u", f->key, e->count,
                   expected);
}

static int decode_string(struct arch *a, const struct arch_field *f, const struct entry *e,
                         struct err *err) {
    if (memchr(e->value, 0, e->count)) {
        return err_set(err, "metadata: key '%s' holds a NUL byte", f->key);
    }
    char *s = mem_alloc((size_t)e->count + 1);
    memcpy(s, e->value, e->count);
    s[e->count] = '\0';
    memcpy((char *)a + f->at, &s, sizeof s);
    return 0;
}

/* A field of the model. */
static int decode_model(struct arch *a, const struct arch_field *f, const struct entry *e,
                        struct err *err) {
    if (f->type == FIELD_STRING) {
        return decode_string(a, f, e, err);
    }
    if (f->of == FIELD_OF_MODEL) {
        if (e && e->count != 1) {
            return refuse_count(f, e, 1, err);
        }
        arch_field_set(a, f, 0, e ? entry_bits(e, 0) : arch_field_missing(f));
        return 0;
    }
    if (!e) {
        return 0;
    }
    if (f->sets_length) {
        memcpy((char *)a + f->length_at, &e->count, sizeof e->count);
    } else if (e->count != arch_field_count(a, f)) {
        return refuse_count(f, e, arch_field_count(a, f), err);
    }
    uint32_t *values = mem_calloc(e->count, sizeof *values);
    memcpy((char *)a + f->at, &values, sizeof values);
    for (uint32_t i = 0; i < e->count; i++) {
        values[i] = entry_bits(e, i);
    }
    return 0;
}

/* The entries of all fields: [arch_n_fields], NULL where one is missing. */
struct found {
    const struct entry *entry[ARCH_FIELDS_MAX];
};

static uint32_t layer_value(const void *ctx, const struct arch_field *f, uint32_t layer) {
    const struct found *found = ctx;
    return entry_bits(found->entry[f - arch_fields], layer);
}

/* Make the table of kinds, of the fields by layer, and of `kind` where it was given. */
static int make_kinds(struct arch *a, const struct found *found, struct err *err) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if (f->of == FIELD_BY_LAYER && found->entry[i]->count != a->n_layers) {
            return refuse_count(f, found->entry[i], a->n_layers, err);
        }
    }
    if (!a->kind) {
        a->kind = mem_calloc(a->n_layers, sizeof *a->kind);
        a->n_kinds = arch_derive_kinds(a->n_layers, layer_value, found, a->kind);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (a->kind[l] >= ARCH_MAX_KINDS) {
            return err_set(err, "metadata: layer %u is of kind %u, at most %d kinds are supported",
                           l, a->kind[l], ARCH_MAX_KINDS);
        }
        a->n_kinds = a->kind[l] >= a->n_kinds ? a->kind[l] + 1 : a->n_kinds;
    }
    a->kinds = mem_calloc(a->n_kinds, sizeof *a->kinds);
    return 0;
}

/* A field of all kinds. */
static int decode_kinds(struct arch *a, const struct arch_field *f, const struct entry *e,
                        struct err *err) {
    if (f->of == FIELD_OF_KIND && e && e->count != 1 && e->count != a->n_kinds) {
        return refuse_count(f, e, a->n_kinds, err);
    }
    for (uint32_t i = 0; f->of == FIELD_OF_KIND && i < a->n_kinds; i++) {
        arch_field_set(a, f, i, e ? entry_bits(e, e->count > 1 ? i : 0) : arch_field_missing(f));
    }
    bool seen[ARCH_MAX_KINDS] = {false};
    for (uint32_t l = 0; f->of == FIELD_BY_LAYER && l < a->n_layers; l++) {
        uint32_t k = a->kind[l], bits = entry_bits(e, l);
        if (seen[k] && arch_field_bits(a, f, k) != bits) {
            return err_set(err, "metadata: %s[%u] = %u, but layers of kind %u have %u", f->key, l,
                           bits, k, arch_field_bits(a, f, k));
        }
        arch_field_set(a, f, k, bits);
        seen[k] = true;
    }
    return 0;
}

static int decode_fields(struct arch *a, const struct found *found, struct err *err) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if ((f->of == FIELD_OF_MODEL || f->of == FIELD_ARRAY) &&
            decode_model(a, f, found->entry[i], err) < 0) {
            return -1;
        }
        /* What sizes the tables below. */
        if (strcmp(f->key, "n_layers") == 0 && (a->n_layers < f->min || a->n_layers > f->max)) {
            return err_set(err, "metadata: n_layers = %u is outside %g .. %g", a->n_layers, f->min,
                           f->max);
        }
    }
    if (make_kinds(a, found, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if ((f->of == FIELD_OF_KIND || f->of == FIELD_BY_LAYER) &&
            decode_kinds(a, f, found->entry[i], err) < 0) {
            return -1;
        }
    }
    return 0;
}

int arch_decode(struct arch *a, const void *data, size_t size, struct err *err) {
    struct entry entries[METADATA_MAX_ENTRIES];
    struct found found;
    struct cursor c;
    cursor_init(&c, data, size);
    int n = parse_entries(&c, entries, err);
    if (n < 0 || refuse_unknown_keys(entries, n, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < arch_n_fields; i++) {
        if (find_entry(&arch_fields[i], entries, n, &found.entry[i], err) < 0) {
            return -1;
        }
    }
    if (decode_fields(a, &found, err) < 0) {
        return -1;
    }
    if (arch_check(a, err) < 0) {
        return err_prefix(err, "metadata");
    }
    return 0;
}

/* ---- description ---- */

/* Whole numbers, which often say one thing per layer, are shown as runs: "0 x 2, 4096 x 30". */
static void describe_runs(const struct arch *a, const struct arch_field *f, uint32_t n,
                          struct buf *out) {
    for (uint32_t i = 0; i < n;) {
        uint32_t end = i + 1;
        while (end < n && written_bits(a, f, end) == written_bits(a, f, i)) {
            end++;
        }
        buf_printf(out, "%s%u", i ? ", " : "", written_bits(a, f, i));
        if (end - i > 1) {
            buf_printf(out, " x %u", end - i);
        }
        i = end;
    }
}

static void describe_floats(const struct arch *a, const struct arch_field *f, uint32_t n,
                            struct buf *out) {
    enum { SHOWN = 4 };
    for (uint32_t i = 0; i < n; i++) {
        if (n > SHOWN && i == SHOWN - 1) {
            buf_printf(out, ", ..., %.6g (%u values)", arch_field_number(a, f, n - 1), n);
            return;
        }
        buf_printf(out, n == 1 ? "%s%.9g" : "%s%.6g", i ? ", " : "", arch_field_number(a, f, i));
    }
}

void arch_describe(const struct arch *a,
                   void (*visit)(void *ctx, const char *key, const char *value), void *ctx) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if (!is_written(a, f)) {
            continue;
        }
        struct buf text = {0};
        switch (f->type) {
        case FIELD_STRING:
            buf_printf(&text, "%s", (const char *)arch_field_pointer(a, f));
            break;
        case FIELD_U32:
            describe_runs(a, f, written_count(a, f), &text);
            break;
        case FIELD_F32:
            describe_floats(a, f, written_count(a, f), &text);
            break;
        }
        visit(ctx, f->key, text.data ? text.data : "");
        buf_free(&text);
    }
}
