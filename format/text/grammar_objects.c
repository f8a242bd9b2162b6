/* Objects and arrays of JSON schemas; see grammar_schema.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_pattern.h"
#include "format/text/grammar_schema.h"

enum { MOST_MEMBERS = 4096 /* each is compared with all before it */ };

/* A key that the schemas of a set name. */
struct member {
    const struct value *key;
    bool required;
    uint32_t pair; /* expression: "key": value */
};
struct members {
    struct member *list;
    size_t n, cap;
    const struct value *extra[SET_MOST]; /* what additionalProperties say, of all schemas */
    size_t n_extra;
    bool closed; /* no other keys */
};

/* NULL and `err`: there are too many. */
static struct member *find_member(struct schema_compiler *c, struct members *m,
                                  const struct value *key) {
    for (size_t i = 0; i < m->n; i++) {
        if (value_equal(m->list[i].key, key)) {
            return &m->list[i];
        }
    }
    if (m->n == MOST_MEMBERS) {
        schema_fail(c, "an object of more than %d keys", MOST_MEMBERS);
        return NULL;
    }
    m->list = mem_grow(m->list, m->n + 1, &m->cap, sizeof *m->list);
    m->list[m->n] = (struct member){.key = key};
    return &m->list[m->n++];
}

/* Keys in the order of the schemas, then those that are only required. */
static int collect(struct schema_compiler *c, const struct schema_set *s, struct members *m) {
    bool any_properties = false, any_extra = false;
    for (size_t i = 0; i < s->n; i++) {
        const struct value *v = schema_get(s->items[i], "properties");
        if (v && v->type != VALUE_DICT) {
            return schema_fail(c, "\"properties\" has to be an object");
        }
        for (size_t k = 0; v && k < v->dict->n; k++) {
            if (!find_member(c, m, &v->dict->pairs[k].key)) {
                return -1;
            }
        }
        any_properties = any_properties || v;
        v = schema_get(s->items[i], "additionalProperties");
        if (v) {
            m->extra[m->n_extra++] = v;
            any_extra = true;
            m->closed = m->closed || (v->type == VALUE_BOOL && !v->boolean);
        }
    }
    m->closed = m->closed || (any_properties && !any_extra);
    for (size_t i = 0; i < s->n; i++) {
        const struct value *v = schema_get(s->items[i], "required");
        if (v && v->type != VALUE_LIST) {
            return schema_fail(c, "\"required\" has to be a list of strings");
        }
        for (size_t k = 0; v && k < v->list->n; k++) {
            if (v->list->items[k].type != VALUE_STRING) {
                return schema_fail(c, "\"required\" has to be a list of strings");
            }
            struct member *one = find_member(c, m, &v->list->items[k]);
            if (!one) {
                return -1;
            }
            one->required = true;
        }
    }
    return 0;
}

/* "key": value, where all schemas of the set hold that say something of the key. */
static uint32_t pair_expr(struct schema_compiler *c, const struct schema_set *s,
                          const struct value *key) {
    const struct value *hold[SET_MOST];
    size_t n = 0;
    struct buf text = {0}, name = {0};
    for (size_t i = 0; i < s->n; i++) {
        const struct value *p = schema_get(s->items[i], "properties");
        const struct value *v = p ? value_dict_get(p->dict, key) : NULL;
        v = v ? v : schema_get(s->items[i], "additionalProperties");
        if (v) {
            hold[n++] = v;
        }
    }
    buf_printf(&name, "/properties/%.100s", key->text->data);
    uint32_t value = schema_all(c, hold, n, name.data, name.len);
    json_put_string(&text, key->text);
    buf_append(&text, ":", 1);
    uint32_t e = GRAMMAR_NONE;
    if (value != GRAMMAR_NONE) {
        e = expr_seq(c->tree, expr_bytes(c->tree, text.data, text.len), json_space(c), value);
    }
    buf_free(&text);
    buf_free(&name);
    return e;
}

/* Any key but those that are named, and its value; GRAMMAR_NONE and no error where none is. */
static int extra_expr(struct schema_compiler *c, struct members *m, uint32_t *out) {
    struct grammar_tree *t = c->tree;
    struct pattern_text what = {.most = GRAMMAR_ENDLESS};
    const struct value **keys = mem_calloc(m->n, sizeof *keys);
    struct err err = {0};
    int rc = -1;
    *out = GRAMMAR_NONE;
    uint32_t value = schema_all(c, m->extra, m->n_extra, "/additionalProperties", 21);
    if (value == GRAMMAR_NONE) {
        goto out;
    }
    for (size_t i = 0; i < m->n; i++) {
        keys[i] = m->list[i].key;
    }
    what.others = keys;
    what.n_others = m->n;
    uint32_t quote = expr_text(t, "\"");
    uint32_t key = grammar_pattern_expr(t, &what, json_character(c), &err);
    if (key == GRAMMAR_NONE) {
        schema_fail(c, "%s", err.msg);
        goto out;
    }
    *out = expr_seq(t, quote, key, quote, expr_text(t, ":"), json_space(c), value);
    rc = 0;
out:
    free(keys);
    return rc;
}

/* A rule for an expression, so that it can be used often. */
static uint32_t as_rule(struct grammar_tree *t, uint32_t e) {
    uint32_t r = grammar_rule_new(t, NULL, 0);
    if (!t->full) {
        t->rules[r].expr = e;
    }
    return expr_rule(t, r);
}

/*
 * From the last key to the first: what may stand from key i on, where nothing stands before
 * (`first`) and where something does (`more`), which begins with a comma.
 */
static uint32_t members_expr(struct schema_compiler *c, const struct members *m, uint32_t extra) {
    struct grammar_tree *t = c->tree;
    uint32_t space = json_space(c), comma = expr_text(t, ",");
    uint32_t first = expr_text(t, ""), more = first;
    if (extra != GRAMMAR_NONE) {
        more = as_rule(t, expr_repeat(t, expr_seq(t, comma, space, extra), 0, GRAMMAR_ENDLESS));
        first = as_rule(t, expr_repeat(t, expr_seq(t, space, extra, more), 0, 1));
    }
    for (size_t i = m->n; i-- > 0 && !t->full;) {
        const struct member *one = &m->list[i];
        uint32_t begin = expr_seq(t, space, one->pair, more);
        uint32_t go_on = expr_seq(t, comma, space, one->pair, more);
        first = as_rule(t, one->required ? begin : expr_alt(t, begin, first));
        more = as_rule(t, one->required ? go_on : expr_alt(t, go_on, more));
    }
    return first;
}

uint32_t schema_object(struct schema_compiler *c, const struct schema_set *s) {
    struct members m = {0};
    uint32_t e = GRAMMAR_NONE, extra = GRAMMAR_NONE;
    if (collect(c, s, &m) < 0) {
        goto out;
    }
    for (size_t i = 0; i < m.n; i++) {
        if ((m.list[i].pair = pair_expr(c, s, m.list[i].key)) == GRAMMAR_NONE) {
            goto out;
        }
    }
    if (!m.closed && extra_expr(c, &m, &extra) < 0) {
        goto out;
    }
    e = expr_seq(c->tree, expr_text(c->tree, "{"), members_expr(c, &m, extra), json_space(c),
                 expr_text(c->tree, "}"));
out:
    free(m.list);
    return e;
}

/* ---- arrays -------------------------------------------------------------------------------- */

/* The list of a schema's first items: prefixItems, or items as a list (as it was once). */
static const struct value *prefix_of(const struct value *schema) {
    const struct value *v = schema_get(schema, "prefixItems");
    const struct value *items = schema_get(schema, "items");
    return !v && items && items->type == VALUE_LIST ? items : v;
}

/* Item i, or of those behind all prefixes. */
static uint32_t item_expr(struct schema_compiler *c, const struct schema_set *s, size_t i) {
    const struct value *hold[SET_MOST];
    size_t n = 0;
    char name[40];
    for (size_t k = 0; k < s->n; k++) {
        const struct value *prefix = prefix_of(s->items[k]);
        const struct value *items = schema_get(s->items[k], "items");
        if (prefix && i < prefix->list->n) {
            hold[n++] = &prefix->list->items[i];
        } else if (items && items->type != VALUE_LIST) {
            hold[n++] = items;
        }
    }
    int bytes = snprintf(name, sizeof name, "/items/%zu", i);
    return schema_all(c, hold, n, name, (size_t)bytes);
}

/* `item`s behind the prefixes, of which `least` to `most` are to come. `first`: the list is empty
 * so far. */
static uint32_t rest_expr(struct schema_compiler *c, uint32_t item, uint32_t least, uint32_t most,
                          bool first) {
    struct grammar_tree *t = c->tree;
    uint32_t space = json_space(c);
    uint32_t next = expr_seq(t, expr_text(t, ","), space, item);
    if (!first) {
        return expr_repeat(t, next, least, most);
    }
    if (most == 0) {
        return expr_text(t, "");
    }
    uint32_t more =
        expr_repeat(t, next, least ? least - 1 : 0, most == GRAMMAR_ENDLESS ? most : most - 1);
    return expr_repeat(t, expr_seq(t, space, item, more), least > 0, 1);
}

uint32_t schema_array(struct schema_compiler *c, const struct schema_set *s) {
    struct grammar_tree *t = c->tree;
    uint32_t least, most, *items = NULL, e = GRAMMAR_NONE;
    size_t n = 0;
    if (schema_count(c, s, "minItems", true, 0, &least) < 0 ||
        schema_count(c, s, "maxItems", false, GRAMMAR_ENDLESS, &most) < 0) {
        return e;
    }
    for (size_t i = 0; i < s->n; i++) {
        const struct value *prefix = prefix_of(s->items[i]);
        if (prefix && prefix->type != VALUE_LIST) {
            schema_fail(c, "\"prefixItems\" has to be a list of schemas");
            return e;
        }
        n = prefix && prefix->list->n > n ? prefix->list->n : n;
    }
    if (least > most) {
        return expr_class(t, NULL, 0, false);
    }
    n = n < most ? n : most;
    items = mem_calloc(n + 1, sizeof *items);
    for (size_t i = 0; i <= n; i++) {
        if ((items[i] = item_expr(c, s, i)) == GRAMMAR_NONE) {
            goto out;
        }
    }
    uint32_t left = most == GRAMMAR_ENDLESS ? most : most - (uint32_t)n, space = json_space(c);
    uint32_t behind = rest_expr(c, items[n], least > n ? least - (uint32_t)n : 0, left, n == 0);
    for (size_t i = n; i-- > 0 && !t->full;) {
        uint32_t one =
            expr_seq(t, i ? expr_seq(t, expr_text(t, ","), space) : space, items[i], behind);
        behind = as_rule(t, i < least ? one : expr_repeat(t, one, 0, 1));
    }
    e = expr_seq(t, expr_text(t, "["), behind, space, expr_text(t, "]"));
out:
    free(items);
    return e;
}
