/*
 * mutate_json: see mutate_json.h.
 */
#include "tests/fuzz/mutate_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_GROWTH = 1 << 22 };

/* ---- words ---- */

/* The lines "\"word\"" of a dictionary. */
void mutate_read_words(struct mutate_words *w, const char *path) {
    char line[256], word[200];
    FILE *f = fopen(path, "r");
    if (!f) {
        die("%s: not found; this runs from the repository's root", path);
    }
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "\"\\\"%199[^\"\\]\\\"", word) == 1 &&
            w->n < sizeof w->word / sizeof *w->word) {
            w->word[w->n++] = mem_strdup(word);
        }
    }
    fclose(f);
}

void mutate_drop_words(struct mutate_words *w) {
    while (w->n > 0) {
        free(w->word[--w->n]);
    }
}

static const char *any_word(const struct mutate_words *w, struct mutate_rng *r) {
    return w->n ? w->word[mutate_below(r, w->n)] : "word";
}

/* ---- values ---- */

json_t *mutate_any_number(struct mutate_rng *r, const json_t *old) {
    static const double reals[] = {0.0,  -1.0,   0.5,  1e-45,        1e308,
                                   -1e9, 1e-320, 1e39, 2147483648.5, -0.0};
    json_int_t was = json_is_number(old) ? (json_int_t)json_number_value(old) : 3;
    if (mutate_one_in(r, 4)) {
        return json_real(reals[mutate_below(r, sizeof reals / sizeof *reals)]);
    }
    if (mutate_one_in(r, 4)) {
        return json_integer((json_int_t)mutate_number(r, (uint64_t)was, 64));
    }
    uint64_t n = mutate_number(r, (uint64_t)was, 32);
    return json_integer(mutate_one_in(r, 8) ? -(json_int_t)n : (json_int_t)n);
}

static json_t *any_string(struct mutate_rng *r, const struct mutate_words *w) {
    static const char *const strings[] = {
        "",
        " ",
        "../../x",
        "/",
        "a\nb",
        "\xc3\xa9",
        "\xf0\x9f\x98\x80",
        "<|x|>",
        "\\p{L}+",
        "(?:a?)+",
        "(",
        "x{1,65535}",
        "BF16",
        "float64",
        "[^\\s]+",
        "\x01\x1b[31m",
        ".",
        "model",
        "\xe2\x96\x81",
        "<0x41>",
        "A",
    };
    if (mutate_one_in(r, 2)) {
        return json_string(any_word(w, r));
    }
    if (mutate_one_in(r, 12)) {
        size_t n = (size_t)1 << mutate_below(r, 18);
        char *text = mem_alloc(n);
        memset(text, 'a', n);
        json_t *s = json_stringn_nocheck(text, n);
        free(text);
        return s;
    }
    return json_string(strings[mutate_below(r, sizeof strings / sizeof *strings)]);
}

static json_t *any_value(struct mutate_rng *r, const struct mutate_words *w, const json_t *old) {
    switch (mutate_below(r, 10)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(mutate_one_in(r, 2));
    case 2:
        return json_array();
    case 3:
        return json_object();
    case 4:
    case 5:
        return any_string(r, w);
    default:
        return mutate_any_number(r, old);
    }
}

/* ---- places in a tree ---- */

bool mutate_go_down(struct mutate_place *p, struct mutate_rng *r) {
    json_t *in = p->value;
    size_t n = json_is_object(in) ? json_object_size(in) : json_array_size(in);
    if (n == 0) {
        return false;
    }
    size_t i = mutate_below(r, n);
    p->parent = in;
    p->index = i;
    p->key = NULL;
    if (json_is_array(in)) {
        p->value = json_array_get(in, i);
        return true;
    }
    void *it = json_object_iter(in);
    while (i-- > 0) {
        it = json_object_iter_next(in, it);
    }
    p->key = json_object_iter_key(it);
    p->value = json_object_iter_value(it);
    return true;
}

/* Some place below the root; deep ones are as likely as others. */
static struct mutate_place any_place(json_t *root, struct mutate_rng *r, struct buf *path) {
    struct mutate_place p = {.value = root};
    while (mutate_go_down(&p, r)) {
        if (path && p.key) {
            buf_printf(path, ".%.60s", p.key);
        } else if (path) {
            buf_printf(path, "[%zu]", p.index);
        }
        if (mutate_one_in(r, 4)) {
            break;
        }
    }
    return p;
}

/* Takes `v` over. */
static void put(struct mutate_place *p, json_t *v) {
    if (p->key) {
        json_object_set_new_nocheck(p->parent, p->key, v);
    } else {
        json_array_set_new(p->parent, p->index, v);
    }
}

/* `v` inside something that takes what it is; takes `v` over. */
json_t *mutate_wrapped(struct mutate_rng *r, json_t *v) {
    static const char *const lists[] = {"normalizers", "pretokenizers", "decoders", "processors"};
    uint32_t depth = mutate_one_in(r, 4) ? 1 + mutate_below(r, 600) : 1;
    uint32_t how = mutate_below(r, 6);
    for (; depth > 0; depth--) {
        v = how == 0   ? json_pack("[o]", v)
            : how == 1 ? json_pack("{s:o}", "type", v)
                       : json_pack("{s:s,s:[o]}", "type", "Sequence", lists[how - 2], v);
    }
    return v;
}

/* More of a value: elements of an array, or keys of an object. */
static void multiply(struct mutate_place *p, struct mutate_rng *r) {
    uint32_t n = mutate_one_in(r, 6) ? 1u << mutate_below(r, 12) : 1 + mutate_below(r, 70);
    size_t each = json_dumpb(p->value, NULL, 0, JSON_ENCODE_ANY);
    n = each * n > MOST_GROWTH ? 1 : n;
    for (uint32_t i = 0; i < n; i++) {
        if (p->key) {
            char *key = mem_printf("%.100s.%u", p->key, i);
            json_object_set_new_nocheck(p->parent, key, json_deep_copy(p->value));
            free(key);
        } else {
            json_array_insert_new(p->parent, p->index, json_deep_copy(p->value));
        }
    }
}

static void change_at(json_t *root, struct mutate_place *p, struct mutate_rng *r,
                      const struct mutate_words *w, struct buf *log) {
    switch (mutate_below(r, 12)) {
    case 0:
        buf_printf(log, "removed\n");
        if (p->key) {
            json_object_del(p->parent, p->key);
        } else {
            json_array_remove(p->parent, p->index);
        }
        break;
    case 1:
        buf_printf(log, "multiplied\n");
        multiply(p, r);
        break;
    case 2:
        buf_printf(log, "inside something\n");
        put(p, mutate_wrapped(r, json_deep_copy(p->value)));
        break;
    case 3: {
        struct buf path = {0};
        struct mutate_place other = any_place(root, r, &path);
        buf_printf(log, "as %s\n", path.data ? path.data : "the root");
        put(p, json_deep_copy(other.value));
        buf_free(&path);
        break;
    }
    case 4:
        if (p->key) {
            const char *key = any_word(w, r);
            json_t *v = json_incref(p->value);
            buf_printf(log, "called %s\n", key);
            json_object_del(p->parent, p->key);
            json_object_set_new_nocheck(p->parent, key, v);
        }
        break;
    case 5: {
        json_t *in = json_is_object(p->value) ? p->value : p->key ? p->parent : root;
        const char *key = any_word(w, r);
        buf_printf(log, "beside it %s\n", key);
        json_object_set_new_nocheck(in, key, any_value(r, w, NULL));
        break;
    }
    default: {
        json_t *v = json_is_number(p->value) && !mutate_one_in(r, 3)
                        ? mutate_any_number(r, p->value)
                    : json_is_string(p->value) && !mutate_one_in(r, 3) ? any_string(r, w)
                    : json_is_boolean(p->value) && !mutate_one_in(r, 4)
                        ? json_boolean(!json_is_true(p->value))
                        : any_value(r, w, p->value);
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        buf_printf(log, "= %.80s\n", text ? text : "?");
        free(text);
        put(p, v);
        break;
    }
    }
}

void mutate_tree(json_t *root, struct mutate_rng *r, const struct mutate_words *w, const char *name,
                 struct buf *log) {
    struct buf path = {0};
    struct mutate_place p = any_place(root, r, &path);
    buf_printf(log, "%s%s: ", name, path.data ? path.data : "");
    if (p.parent) {
        change_at(root, &p, r, w, log);
    } else {
        buf_printf(log, "nothing\n");
    }
    buf_free(&path);
}

/* ---- text ---- */

void mutate_text(struct buf *b, struct mutate_rng *r, struct buf *log) {
    struct buf out = {0};
    size_t at = mutate_below(r, b->len + 1);
    uint32_t n = 1u << mutate_below(r, 18);
    switch (mutate_below(r, 7)) {
    case 0:
        b->len = at;
        buf_printf(log, "cut to %zu bytes\n", at);
        return;
    case 1:
        buf_append(&out, b->data, at);
        for (uint32_t i = 0; i < n; i++) {
            buf_append(&out, "[", 1);
        }
        buf_append(&out, b->data + at, b->len - at);
        buf_printf(log, "%u brackets at %zu\n", n, at);
        break;
    case 2:
        buf_append(&out, "{\"a\":1e999,\"a\":NaN}", 19);
        buf_printf(log, "numbers that there are not\n");
        break;
    case 3:
        buf_append(&out, "\xef\xbb\xbf", 3);
        buf_append(&out, b->data, b->len);
        buf_printf(log, "a byte order mark\n");
        break;
    case 4:
        buf_append(&out, b->data, b->len);
        buf_append(&out, b->data, b->len);
        buf_printf(log, "twice\n");
        break;
    default:
        mutate_bytes(r, (uint8_t *)b->data, b->len);
        buf_printf(log, "other bytes\n");
        return;
    }
    buf_free(b);
    *b = out;
}

bool mutate_parse(const char *text, size_t bytes, json_t **root) {
    *root = json_loadb(text, bytes, JSON_ALLOW_NUL, NULL);
    return *root != NULL;
}

void mutate_unparse(json_t *root, struct buf *out) {
    char *text = json_dumps(root, JSON_ENCODE_ANY | JSON_COMPACT);
    buf_free(out);
    if (text) {
        buf_append(out, text, strlen(text));
    }
    free(text);
    json_decref(root);
}
