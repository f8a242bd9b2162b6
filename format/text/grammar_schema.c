/* JSON schemas: keywords, references, choices, and what all of it comes to; grammar_schema.h. */
#include "format/text/grammar_schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_pattern.h"

enum {
    MOST_CHOICES = 64, /* choices in each other */
};

/* Keywords that are known. What only describes is passed over. */
static const char *const used[] = {
    "type",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "properties",
    "required",
    "items",
    "minItems",
    "additionalProperties",
    "prefixItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "uniqueItems",
    "minProperties",
    "exclusiveMinimum",
    "exclusiveMaximum",
};
static const char *const passed_over[] = {
    "title",     "description", "default", "examples",         "example",         "$comment",
    "$schema",   "$id",         "$defs",   "definitions",      "deprecated",      "readOnly",
    "writeOnly", "strict",      "$anchor", "contentMediaType", "contentEncoding",
};

int schema_fail(struct schema_compiler *c, const char *fmt, ...) {
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(c->err, "the schema at #%.*s: %s", (int)(c->path.len < 400 ? c->path.len : 400),
                   c->path.len ? c->path.data : "", what);
}

const struct value *schema_get(const struct value *schema, const char *key) {
    return value_dict_get_text(schema->dict, key, strlen(key));
}

static bool among(const struct value *key, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (value_is_string(key, names[i])) {
            return true;
        }
    }
    return false;
}

static int check_keywords(struct schema_compiler *c, const struct value *schema) {
    for (size_t i = 0; i < schema->dict->n; i++) {
        const struct value *key = &schema->dict->pairs[i].key, *v = &schema->dict->pairs[i].value;
        bool off = value_is_string(key, "uniqueItems") && (v->type != VALUE_BOOL || v->boolean);
        const struct value *required = schema_get(schema, "required");
        if (value_is_string(key, "minProperties")) {
            int64_t have =
                required && required->type == VALUE_LIST ? (int64_t)required->list->n : 0;
            off = v->type != VALUE_INT || v->integer > have;
        }
        if (off || (!among(key, used, sizeof used / sizeof used[0]) &&
                    !among(key, passed_over, sizeof passed_over / sizeof passed_over[0]))) {
            return schema_fail(c, "the keyword \"%.*s\" is not supported",
                               key->type == VALUE_STRING ? (int)key->text->len : 0,
                               key->type == VALUE_STRING ? key->text->data : "");
        }
    }
    return 0;
}

/* ---- references ---------------------------------------------------------------------------- */

static const struct value *step_into(const struct value *at, const char *name, size_t n) {
    if (at->type == VALUE_DICT) {
        return value_dict_get_text(at->dict, name, n);
    }
    if (at->type == VALUE_LIST && n && n < 8) {
        size_t i = 0;
        for (size_t k = 0; k < n; k++) {
            if (name[k] < '0' || name[k] > '9') {
                return NULL;
            }
            i = i * 10 + (size_t)(name[k] - '0');
        }
        return i < at->list->n ? &at->list->items[i] : NULL;
    }
    return NULL;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* What "#/..." names (RFC 6901), or NULL and `err`. */
const struct value *schema_resolve(struct schema_compiler *c, const struct value *ref) {
    const struct value *at = c->root;
    struct buf name = {0};
    if (ref->type != VALUE_STRING || ref->text->len == 0 || ref->text->data[0] != '#' ||
        (ref->text->len > 1 && ref->text->data[1] != '/')) {
        schema_fail(c, "\"$ref\" has to be a place within the schema, as \"#/$defs/name\"");
        return NULL;
    }
    const char *p = ref->text->data + 1, *end = ref->text->data + ref->text->len;
    while (p < end && at) {
        name.len = 0;
        buf_append(&name, "", 0);
        for (p++; p < end && *p != '/'; p++) {
            char ch = *p;
            if (ch == '~' && p + 1 < end && (p[1] == '0' || p[1] == '1')) {
                ch = *++p == '0' ? '~' : '/';
            } else if (ch == '%' && end - p > 2 && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
                ch = (char)(hex_digit(p[1]) * 16 + hex_digit(p[2]));
                p += 2;
            }
            buf_append(&name, &ch, 1);
        }
        at = step_into(at, name.data, name.len);
    }
    buf_free(&name);
    if (!at) {
        schema_fail(c, "\"$ref\" names %.200s, which is not there", ref->text->data);
    }
    return at;
}

/* ---- sets ---------------------------------------------------------------------------------- */

static int add_schema(struct schema_compiler *c, struct schema_set *s, const struct value *schema,
                      int parent);

static int add_list(struct schema_compiler *c, struct schema_set *s, const struct value *list,
                    const char *key, int parent) {
    if (list->type != VALUE_LIST || list->list->n == 0) {
        return schema_fail(c, "\"%s\" has to be a list of schemas", key);
    }
    for (size_t i = 0; i < list->list->n; i++) {
        if (add_schema(c, s, &list->list->items[i], parent) < 0) {
            return -1;
        }
    }
    return 0;
}

static int add_choice(struct schema_compiler *c, struct schema_set *s, const struct value *list,
                      const char *key, int parent) {
    if (list->type != VALUE_LIST || list->list->n == 0 || s->n_choices >= SET_MOST) {
        return schema_fail(c, "\"%s\" has to be a list of schemas", key);
    }
    s->choosers[s->n_choices] = (uint8_t)parent;
    s->choices[s->n_choices++] = list;
    return 0;
}

static int check_one_of(struct schema_compiler *c, const struct value *list) {
    for (size_t i = 0; list->type == VALUE_LIST && i < list->list->n; i++) {
        for (size_t k = 0; k < i; k++) {
            bool apart = schema_disjoint(c, &list->list->items[i], &list->list->items[k], 0);
            if (c->work > SCHEMA_MOST_WORK) {
                return schema_fail(c, "\"oneOf\" has too many schemas, or too large ones");
            }
            if (!apart) {
                return schema_fail(c,
                                   "\"oneOf\" is not supported where two of its schemas may be "
                                   "valid at the same time (%zu and %zu)",
                                   k, i);
            }
        }
    }
    return 0;
}

/* Add a schema that has to hold too. `parent`: the one that names it, -1: none. */
static int add_schema(struct schema_compiler *c, struct schema_set *s, const struct value *schema,
                      int parent) {
    const struct value *v;
    if (schema->type == VALUE_BOOL) {
        s->never = s->never || !schema->boolean;
        return 0;
    }
    if (schema->type != VALUE_DICT) {
        return schema_fail(c, "a schema has to be an object, true or false");
    }
    for (size_t i = 0; i < s->n; i++) {
        if (s->items[i] != schema) {
            continue;
        }
        for (int p = parent; p >= 0; p = s->parents[p] == p ? -1 : s->parents[p]) {
            if ((size_t)p == i) {
                return schema_fail(c, "it refers to itself without an object or a list between");
            }
        }
        return 0;
    }
    if (s->n >= SET_MOST) {
        return schema_fail(c, "more than %d schemas have to hold at the same time", SET_MOST);
    }
    if (check_keywords(c, schema) < 0) {
        return -1;
    }
    int me = (int)s->n;
    s->parents[s->n] = (uint8_t)(parent < 0 ? me : parent);
    s->items[s->n++] = schema;
    if ((v = schema_get(schema, "$ref"))) {
        const struct value *target = schema_resolve(c, v);
        if (!target || add_schema(c, s, target, me) < 0) {
            return -1;
        }
    }
    if ((v = schema_get(schema, "allOf")) && add_list(c, s, v, "allOf", me) < 0) {
        return -1;
    }
    if ((v = schema_get(schema, "anyOf")) && add_choice(c, s, v, "anyOf", me) < 0) {
        return -1;
    }
    v = schema_get(schema, "oneOf");
    return v && (add_choice(c, s, v, "oneOf", me) < 0 || check_one_of(c, v) < 0) ? -1 : 0;
}

/* ---- keywords ------------------------------------------------------------------------------ */

int schema_count(struct schema_compiler *c, const struct schema_set *s, const char *key,
                 bool greatest, uint32_t usual, uint32_t *out) {
    *out = usual;
    for (size_t i = 0; i < s->n; i++) {
        const struct value *v = schema_get(s->items[i], key);
        if (!v) {
            continue;
        }
        double n = v->type == VALUE_INT || v->type == VALUE_FLOAT ? value_to_double(v) : -1;
        if (!(n >= 0) || n != floor(n)) {
            return schema_fail(c, "\"%s\" has to be a whole number that is not negative", key);
        }
        uint32_t count = n < GRAMMAR_MAX_REPEAT ? (uint32_t)n : GRAMMAR_ENDLESS;
        if (greatest && count == GRAMMAR_ENDLESS) {
            return schema_fail(c, "\"%s\" is above %d", key, GRAMMAR_MAX_REPEAT);
        }
        *out = greatest ? (count > *out ? count : *out) : (count < *out ? count : *out);
    }
    return 0;
}

static int set_types(struct schema_compiler *c, const struct schema_set *s, unsigned *types) {
    *types = JSON_ANY;
    for (size_t i = 0; i < s->n; i++) {
        unsigned one = schema_types(s->items[i]);
        if (!one) {
            return schema_fail(c, "\"type\" names a type that there is not");
        }
        *types &= one;
    }
    return 0;
}

/* ---- strings ------------------------------------------------------------------------------- */

static uint32_t string_expr(struct schema_compiler *c, const struct schema_set *s) {
    struct pattern_text what = {0};
    if (schema_count(c, s, "minLength", true, 0, &what.least) < 0 ||
        schema_count(c, s, "maxLength", false, GRAMMAR_ENDLESS, &what.most) < 0) {
        return GRAMMAR_NONE;
    }
    for (size_t i = 0; i < s->n; i++) {
        const struct value *v = schema_get(s->items[i], "pattern");
        const struct value *f = schema_get(s->items[i], "format");
        const char *of_format = f ? json_format(f) : NULL;
        if (v && v->type != VALUE_STRING) {
            schema_fail(c, "\"pattern\" has to be a string");
            return GRAMMAR_NONE;
        }
        if (f && !of_format) {
            schema_fail(c, "the format \"%.100s\" is not supported",
                        f->type == VALUE_STRING ? f->text->data : "");
            return GRAMMAR_NONE;
        }
        if (what.n_patterns + 2 > PATTERN_MAX_TOGETHER) {
            schema_fail(c, "more than %d patterns", PATTERN_MAX_TOGETHER);
            return GRAMMAR_NONE;
        }
        if (v) {
            what.patterns[what.n_patterns++] = (struct pattern){v->text->data, v->text->len};
        }
        if (f) {
            what.patterns[what.n_patterns++] = (struct pattern){of_format, strlen(of_format)};
        }
    }
    if (what.least > what.most) {
        return expr_class(c->tree, NULL, 0, false);
    }
    struct err err = {0};
    uint32_t quote = expr_text(c->tree, "\"");
    uint32_t e = grammar_pattern_expr(c->tree, &what, json_character(c), &err);
    if (e == GRAMMAR_NONE) {
        schema_fail(c, "%s", err.msg);
        return e;
    }
    return expr_seq(c->tree, quote, e, quote);
}

/* ---- all of it ----------------------------------------------------------------------------- */

/* Schemas without open choices. */
static uint32_t plain_expr(struct schema_compiler *c, const struct schema_set *s) {
    struct grammar_tree *t = c->tree;
    uint32_t kids[6];
    size_t k = 0;
    unsigned types;
    if (set_types(c, s, &types) < 0) {
        return GRAMMAR_NONE;
    }
    for (size_t i = 0; i < s->n; i++) {
        size_t n;
        const struct value *v = schema_get(s->items[i], "enum");
        const struct value *list = schema_listed(s->items[i], &n);
        if (v && v->type != VALUE_LIST) {
            schema_fail(c, "\"enum\" has to be a list");
            return GRAMMAR_NONE;
        }
        if (list) {
            return schema_values(c, s, list, n);
        }
    }
    if (types & (JSON_NULL | JSON_BOOL)) {
        kids[k++] = json_any(c, types & (JSON_NULL | JSON_BOOL));
    }
    if (types & (JSON_INTEGER | JSON_FRACTION)) {
        kids[k++] = schema_number(c, s, types & (JSON_INTEGER | JSON_FRACTION));
    }
    if (types & JSON_STRING) {
        kids[k++] = string_expr(c, s);
    }
    if (types & JSON_ARRAY) {
        kids[k++] = schema_array(c, s);
    }
    if (types & JSON_OBJECT) {
        kids[k++] = schema_object(c, s);
    }
    for (size_t i = 0; i < k; i++) {
        if (kids[i] == GRAMMAR_NONE) {
            return GRAMMAR_NONE;
        }
    }
    return k ? expr_list(t, EXPR_ALT, kids, k) : expr_class(t, NULL, 0, false);
}

static uint32_t set_expr(struct schema_compiler *c, const struct schema_set *s, unsigned choices) {
    if (++c->work > SCHEMA_MOST_WORK || choices > MOST_CHOICES) {
        schema_fail(c, "it has too many alternatives");
        return GRAMMAR_NONE;
    }
    if (s->never) {
        return expr_class(c->tree, NULL, 0, false);
    }
    if (s->n_choices == 0) {
        return plain_expr(c, s);
    }
    const struct value *list = s->choices[s->n_choices - 1];
    uint32_t *kids = mem_calloc(list->list->n, sizeof *kids), e = GRAMMAR_NONE;
    struct schema_set *one = mem_alloc(sizeof *one);
    for (size_t i = 0; i < list->list->n; i++) {
        *one = *s;
        one->n_choices--;
        if (add_schema(c, one, &list->list->items[i], s->choosers[s->n_choices - 1]) < 0 ||
            (kids[i] = set_expr(c, one, choices + 1)) == GRAMMAR_NONE) {
            goto out;
        }
    }
    e = expr_list(c->tree, EXPR_ALT, kids, list->list->n);
out:
    free(one);
    free(kids);
    return e;
}

/* What is not supported becomes any JSON of the types that can be told. */
static uint32_t loosened(struct schema_compiler *c, const struct value *const *items, size_t n) {
    unsigned types = JSON_ANY;
    for (size_t i = 0; i < n; i++) {
        unsigned one = items[i]->type == VALUE_DICT ? schema_types(items[i]) : JSON_ANY;
        types &= one ? one : JSON_ANY;
    }
    if (c->remarks) {
        buf_printf(c->remarks, "%s: any JSON is allowed there\n", c->err->msg);
    }
    *c->err = (struct err){0};
    return json_any(c, types ? types : JSON_ANY);
}

static uint32_t new_set(struct schema_compiler *c, const struct value *const *items, size_t n) {
    struct schema_set *s = mem_calloc(1, sizeof *s);
    uint32_t e = GRAMMAR_NONE;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = add_schema(c, s, items[i], -1);
    }
    if (rc == 0) {
        e = set_expr(c, s, 0);
    }
    free(s);
    return e == GRAMMAR_NONE && (c->flags & GRAMMAR_LENIENT) ? loosened(c, items, n) : e;
}

uint32_t schema_all(struct schema_compiler *c, const struct value *const *items, size_t n,
                    const char *name, size_t name_bytes) {
    size_t path = c->path.len, i;
    uint32_t e = GRAMMAR_NONE;
    if (n == 0) {
        return json_any(c, JSON_ANY);
    }
    for (i = 0; i < c->n_sets; i++) {
        if (c->sets[i].n == n && memcmp(c->sets[i].items, items, n * sizeof *items) == 0) {
            return expr_rule(c->tree, c->sets[i].rule);
        }
    }
    uint32_t rule = grammar_rule_new(c->tree, NULL, 0);
    c->sets = mem_grow(c->sets, c->n_sets + 1, &c->cap_sets, sizeof *c->sets);
    struct set_rule *set = &c->sets[c->n_sets++];
    *set = (struct set_rule){mem_alloc(n * sizeof *items), n, rule};
    memcpy(set->items, items, n * sizeof *items);
    buf_append(&c->path, name, name_bytes);
    if (++c->depth > GRAMMAR_MAX_DEPTH) {
        schema_fail(c, "schemas are nested too deeply");
    } else {
        e = new_set(c, items, n);
    }
    c->depth--;
    c->path.len = path;
    if (!c->tree->full) { /* even a rule that failed has to be one, where the error is forgiven */
        c->tree->rules[rule].expr = e == GRAMMAR_NONE ? json_any(c, JSON_ANY) : e;
    }
    return e == GRAMMAR_NONE ? e : expr_rule(c->tree, rule);
}

uint32_t grammar_schema_expr(struct grammar_tree *t, const struct value *schema, unsigned flags,
                             struct buf *remarks, struct err *err) {
    struct schema_compiler c = {
        .tree = t, .root = schema, .flags = flags, .remarks = remarks, .err = err};
    uint32_t e = schema ? schema_all(&c, &schema, 1, "", 0) : json_any(&c, JSON_OBJECT);
    for (size_t i = 0; i < c.n_sets; i++) {
        free(c.sets[i].items);
    }
    free(c.sets);
    buf_free(&c.path);
    return e;
}
