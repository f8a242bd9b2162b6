/* Types, and the values that enum and const list; grammar_schema.h. */
#include <math.h>
#include <stdlib.h>

#include "format/text/grammar_schema.h"

static unsigned type_of(const struct value *v) {
    switch (v->type) {
    case VALUE_NONE:
        return JSON_NULL;
    case VALUE_BOOL:
        return JSON_BOOL;
    case VALUE_INT:
    case VALUE_BIGINT:
        return JSON_INTEGER;
    case VALUE_FLOAT: /* 1.0 is an integer, however it is written */
        return v->number == floor(v->number) ? JSON_INTEGER | JSON_FRACTION : JSON_FRACTION;
    case VALUE_STRING:
        return JSON_STRING;
    case VALUE_LIST:
        return JSON_ARRAY;
    default:
        return JSON_OBJECT;
    }
}

static unsigned named_type(const struct value *v) {
    static const struct {
        const char *name;
        unsigned types;
    } rows[] = {{"null", JSON_NULL},       {"boolean", JSON_BOOL},
                {"integer", JSON_INTEGER}, {"number", JSON_INTEGER | JSON_FRACTION},
                {"string", JSON_STRING},   {"array", JSON_ARRAY},
                {"object", JSON_OBJECT}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (value_is_string(v, rows[i].name)) {
            return rows[i].types;
        }
    }
    return 0;
}

unsigned schema_types(const struct value *schema) {
    const struct value *v = schema_get(schema, "type");
    unsigned types = 0;
    if (!v) {
        return schema_get(schema, "properties")                                   ? JSON_OBJECT
               : schema_get(schema, "items") || schema_get(schema, "prefixItems") ? JSON_ARRAY
                                                                                  : JSON_ANY;
    }
    if (v->type != VALUE_LIST) {
        return named_type(v);
    }
    for (size_t i = 0; i < v->list->n; i++) {
        unsigned one = named_type(&v->list->items[i]);
        if (!one) {
            return 0;
        }
        types |= one;
    }
    return types;
}

/* ---- one of several values ----------------------------------------------------------------- */

const struct value *schema_listed(const struct value *schema, size_t *n) {
    const struct value *v = schema_get(schema, "const");
    *n = 1;
    if (!v && (v = schema_get(schema, "enum")) && v->type == VALUE_LIST) {
        *n = v->list->n;
        return v->list->items;
    }
    return v;
}

/* JSON's equality: true is not 1. */
static bool same(const struct value *a, const struct value *b) {
    unsigned x = type_of(a), y = type_of(b);
    return (x & y) && value_equal(a, b);
}

static bool within(const struct value *schema, const struct value *v) {
    size_t n;
    const struct value *list = schema_listed(schema, &n);
    for (size_t i = 0; list && i < n; i++) {
        if (same(&list[i], v)) {
            return true;
        }
    }
    return !list;
}

/* Whether the number keeps to a keyword; 0 no, 1 yes. */
static bool bound_holds(const struct value *schema, const char *key, const struct value *v,
                        bool at_least, bool itself) {
    const struct value *bound = schema_get(schema, key);
    int order;
    if (!bound || !value_compare(v, bound, &order)) {
        return true;
    }
    return order == 0 ? itself : at_least ? order > 0 : order < 0;
}

/* Whether a listed value keeps to the other keywords; -1 and `err`: that is not looked at. */
static int value_fits(struct schema_compiler *c, const struct value *schema,
                      const struct value *v) {
    static const char *const deep[] = {
        "properties", "required", "items",    "prefixItems", "additionalProperties",
        "pattern",    "format",   "minItems", "maxItems"};
    unsigned type = type_of(v);
    const struct value *named = schema_get(schema, "type");
    if (named && !(schema_types(schema) & type)) {
        return 0;
    }
    if (!within(schema, v)) {
        return 0;
    }
    for (size_t i = 0; i < sizeof deep / sizeof deep[0]; i++) {
        bool text = deep[i][0] == 'p' && deep[i][1] == 'a' ? true : deep[i][0] == 'f';
        unsigned of = text ? JSON_STRING : JSON_ARRAY | JSON_OBJECT;
        if ((type & of) && schema_get(schema, deep[i])) {
            return schema_fail(c, "\"%s\" beside \"enum\" or \"const\" is not supported", deep[i]);
        }
    }
    if (type & (JSON_INTEGER | JSON_FRACTION)) {
        return bound_holds(schema, "minimum", v, true, true) &&
               bound_holds(schema, "exclusiveMinimum", v, true, false) &&
               bound_holds(schema, "maximum", v, false, true) &&
               bound_holds(schema, "exclusiveMaximum", v, false, false);
    }
    if (type & JSON_STRING) {
        struct value chars = value_int((int64_t)v->text->n_chars);
        return bound_holds(schema, "minLength", &chars, true, true) &&
               bound_holds(schema, "maxLength", &chars, false, true);
    }
    return 1;
}

uint32_t schema_values(struct schema_compiler *c, const struct schema_set *s,
                       const struct value *list, size_t n) {
    uint32_t *kids = mem_calloc(n, sizeof *kids), e = GRAMMAR_NONE;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int fits = 1;
        for (size_t j = 0; j < s->n && fits > 0; j++) {
            fits = value_fits(c, s->items[j], &list[i]);
        }
        if (fits < 0 || (fits && (kids[k++] = json_value(c, &list[i])) == GRAMMAR_NONE)) {
            goto out;
        }
    }
    e = k ? expr_list(c->tree, EXPR_ALT, kids, k) : expr_class(c->tree, NULL, 0, false);
out:
    free(kids);
    return e;
}

/* Counts comparing n things with m. False: that is more than may be looked at. */
static bool may_compare(struct schema_compiler *c, size_t n, size_t m) {
    enum { FOR_ONE = 1000 }; /* they are quick */
    c->work += 1 + (uint64_t)n * m / FOR_ONE;
    return c->work <= SCHEMA_MOST_WORK;
}

bool schema_disjoint(struct schema_compiler *c, const struct value *a, const struct value *b,
                     unsigned depth) {
    size_t n, others;
    const struct value *both[2] = {a, b};
    if (!may_compare(c, 1, 1)) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        struct err ignored = {0}, *mine = c->err;
        const struct value *ref;
        c->err = &ignored;
        for (int k = 0;
             k < 8 && both[i] && both[i]->type == VALUE_DICT && (ref = schema_get(both[i], "$ref"));
             k++) {
            both[i] = schema_resolve(c, ref);
        }
        c->err = mine;
        if (!both[i] || both[i]->type != VALUE_DICT) {
            return false;
        }
    }
    a = both[0];
    b = both[1];
    const struct value *ta = schema_get(a, "type"), *tb = schema_get(b, "type");
    if (ta && tb && !(schema_types(a) & schema_types(b))) {
        return true;
    }
    for (int i = 0; i < 2; i++) {
        const struct value *list = schema_listed(both[i], &n), *other = both[!i];
        const struct value *type = schema_get(other, "type");
        bool all = list && schema_listed(other, &others) ? may_compare(c, n, others) : list != NULL;
        for (size_t k = 0; all && k < n; k++) {
            bool out = type && !(schema_types(other) & type_of(&list[k]));
            all = out || !within(other, &list[k]);
        }
        if (all) {
            return true;
        }
    }
    const struct value *pa = schema_get(a, "properties"), *pb = schema_get(b, "properties");
    const struct value *need[2] = {schema_get(a, "required"), schema_get(b, "required")};
    if (!pa || !pb || pa->type != VALUE_DICT || pb->type != VALUE_DICT || depth > 4 || !need[0] ||
        !need[1] || need[0]->type != VALUE_LIST || need[1]->type != VALUE_LIST || !ta || !tb ||
        schema_types(a) != JSON_OBJECT || schema_types(b) != JSON_OBJECT) {
        return false;
    }
    if (!may_compare(c, need[0]->list->n, need[1]->list->n)) {
        return false;
    }
    for (size_t i = 0; i < need[0]->list->n; i++) {
        const struct value *key = &need[0]->list->items[i];
        bool common = false;
        for (size_t k = 0; k < need[1]->list->n; k++) {
            common = common || value_equal(key, &need[1]->list->items[k]);
        }
        const struct value *x = value_dict_get(pa->dict, key), *y = value_dict_get(pb->dict, key);
        if (common && x && y && schema_disjoint(c, x, y, depth + 1)) {
            return true;
        }
    }
    return false;
}
