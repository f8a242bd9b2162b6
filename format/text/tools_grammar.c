/* The grammar of calls, in the form of a row; see tools.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/thinking.h"
#include "format/text/tools_internal.h"

/* What rules are written into. */
struct writing {
    const struct tools_grammar *how;
    struct value_arena *arena;
    struct buf *out;
    struct tools_schema *schemas;
    size_t n, cap, tool;
    bool full; /* the arena is */
};

static void put(struct writing *w, const char *text) {
    buf_append(w->out, text, strlen(text));
}

/* A literal. */
static void put_plain(struct writing *w, const char *text, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    put(w, " \"");
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            buf_printf(w->out, "\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            buf_printf(w->out, "\\x%02X", c);
        } else {
            buf_append(w->out, &text[i], 1);
        }
    }
    put(w, "\"");
}

/* The token of a row, or of thoughts, that a text begins with, if the vocabulary has added it. */
static int64_t token_at(const struct writing *w, const char *text, size_t *bytes) {
    const struct tools_grammar *h = w->how;
    int64_t found = -1;
    *bytes = 0;
    for (size_t i = 0;; i++) {
        const char *const *t = &h->row->tokens[0];
        size_t k = 0;
        while (t[k]) {
            k++;
        }
        const char *token = i < k ? t[i] : thinking_token(i - k);
        if (!token) {
            return found;
        }
        size_t n = strlen(token);
        int64_t id = n > *bytes && !strncmp(text, token, n) ? h->added(h->ctx, token, n) : -1;
        if (id >= 0) {
            found = id;
            *bytes = n;
        }
    }
}

/* A text of the row's: its added tokens by their numbers, the rest as literals. NULL is none. */
static void put_text(struct writing *w, const char *text) {
    size_t done = 0, i = 0, n = text ? strlen(text) : 0;
    while (i < n) {
        size_t bytes;
        int64_t id = token_at(w, text + i, &bytes);
        if (id < 0) {
            i++;
            continue;
        }
        put_plain(w, text + done, i - done);
        buf_printf(w->out, " <[%lld]>", (long long)id);
        done = i += bytes;
    }
    put_plain(w, text + done, n - done);
}

/* A rule's name for the JSON of a schema. */
static void put_schema(struct writing *w, const struct value *schema) {
    w->schemas = mem_grow(w->schemas, w->n + 1, &w->cap, sizeof *w->schemas);
    struct tools_schema *one = &w->schemas[w->n++];
    *one = (struct tools_schema){.schema = schema, .tool = w->tool};
    snprintf(one->name, sizeof one->name, "json-%zu", w->n);
    buf_printf(w->out, " %s", one->name);
}

static const struct value *get(const struct value *v, const char *key) {
    return v && v->type == VALUE_DICT ? value_dict_get_text(v->dict, key, strlen(key)) : NULL;
}

/* ---- values without quotes ---- */

/* Text up to what closes a value, which is not in it: rules `free` and, of how much of it has come,
 * `free-k`. The first character of all such texts stands nowhere else in them. */
static void put_free(struct writing *w, const char *close) {
    size_t bytes, first;
    if (token_at(w, close, &bytes) >= 0) { /* which no text has */
        put(w, "free ::= .*\n");
        return;
    }
    value_utf8_get(close, &first);
    buf_printf(w->out, "free ::= ([^%.*s] |", (int)first, close);
    put_plain(w, close, first);
    put(w, " free-0)*\n");
    for (size_t i = first, k = 0; close[i]; i += bytes, k++) {
        value_utf8_get(close + i, &bytes);
        buf_printf(w->out, "free-%zu ::= [^%.*s%.*s] |", k, (int)first, close, (int)bytes,
                   close + i);
        put_plain(w, close, first);
        put(w, " free-0");
        if (close[i + bytes]) {
            put(w, " |");
            put_plain(w, close + i, bytes);
            buf_printf(w->out, " free-%zu", k + 1);
        }
        put(w, "\n");
    }
}

/* The values that a schema lists, if all are strings that may stand without quotes. */
static const struct value *listed(const struct value *schema, const char *close) {
    const struct value *list = get(schema, "enum");
    bool plain = list && list->type == VALUE_LIST && list->list->n > 0;
    for (size_t i = 0; plain && i < list->list->n; i++) {
        const struct value *v = &list->list->items[i];
        plain = v->type == VALUE_STRING && !strchr(v->text->data, close[0]) && v->text->len > 0 &&
                !tools_is_white(v->text->data[0]);
    }
    return plain ? list : NULL;
}

/* Whether a value may be a string, which then has no quotes; where no type says it, what else is
 * there does. */
static bool may_be_string(const struct value *schema) {
    static const char *const choices[] = {"anyOf", "oneOf"};
    static const char *const other[] = {"$ref", "allOf", "properties", "items", "prefixItems"};
    if (get(schema, "type")) {
        return tools_types(schema) & TOOLS_TYPE_STRING;
    }
    for (size_t i = 0; i < 2; i++) {
        const struct value *list = get(schema, choices[i]);
        bool any = false;
        for (size_t k = 0; list && list->type == VALUE_LIST && k < list->list->n; k++) {
            any |= (tools_types(&list->list->items[k]) & TOOLS_TYPE_STRING) != 0;
        }
        if (list) {
            return any;
        }
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        if (get(schema, other[i])) {
            return false;
        }
    }
    return true;
}

/* A part of a schema, with the definitions that it may refer to. */
static const struct value *part_of(struct writing *w, const struct value *whole,
                                   const struct value *part) {
    static const char *const shared[] = {"$defs", "definitions"};
    struct value *made = value_alloc(w->arena, sizeof *made);
    if (part->type != VALUE_DICT || !made || value_make_dict(w->arena, made)) {
        w->full |= part->type == VALUE_DICT;
        return part;
    }
    for (size_t i = 0; i < part->dict->n; i++) {
        const struct value_pair *p = &part->dict->pairs[i];
        w->full |= value_dict_set(w->arena, made->dict, &p->key, &p->value) != 0;
    }
    for (size_t i = 0; i < 2; i++) {
        const struct value *v = get(whole, shared[i]);
        w->full |= v && value_dict_set_text(w->arena, made->dict, shared[i], strlen(shared[i]), v);
    }
    return made;
}

/* An argument with its tags; `key` NULL: any that is not named, with any value. */
static void put_argument(struct writing *w, const struct value *whole, const struct value *key,
                         const struct value *schema) {
    const struct tools_row *row = w->how->row;
    const struct value *list = schema ? listed(schema, row->value_close) : NULL;
    bool string = !schema || list || may_be_string(schema);
    put_text(w, row->key_open);
    if (key) {
        put_plain(w, key->text->data, key->text->len);
    } else {
        put(w, " [A-Za-z0-9_.]+");
    }
    if (row->says_type) {
        put(w, string ? " \"\\\" string=\\\"true\\\">\"" : " \"\\\" string=\\\"false\\\">\"");
    } else {
        put_text(w, row->key_joint ? row->key_joint : row->key_end);
    }
    if (row->value_open) {
        put(w, " ws");
        put_text(w, row->value_open);
    }
    put(w, row->lines ? " \"\\n\"" : "");
    if (list) {
        put(w, " (");
        for (size_t i = 0; i < list->list->n; i++) {
            put(w, i ? " |" : "");
            put_plain(w, list->list->items[i].text->data, list->list->items[i].text->len);
        }
        put(w, " )");
    } else if (string) {
        put(w, " free");
    } else {
        put_schema(w, part_of(w, whole, schema));
    }
    put(w, row->lines ? " \"\\n\"" : "");
    put_text(w, row->value_close);
    put(w, " ws");
}

static bool is_required(const struct value *parameters, const struct value *key) {
    const struct value *list = get(parameters, "required");
    for (size_t i = 0; list && list->type == VALUE_LIST && i < list->list->n; i++) {
        if (value_equal(&list->list->items[i], key)) {
            return true;
        }
    }
    return false;
}

/* In the schema's order; those that are not required may be missing. */
static void put_arguments(struct writing *w, const struct value *parameters) {
    const struct value *properties = get(parameters, "properties");
    if (!properties || properties->type != VALUE_DICT) {
        put(w, " (");
        put_argument(w, parameters, NULL, NULL);
        put(w, " )*");
        return;
    }
    for (size_t i = 0; i < properties->dict->n; i++) {
        const struct value_pair *p = &properties->dict->pairs[i];
        put(w, " (");
        put_argument(w, parameters, &p->key, &p->value);
        put(w, is_required(parameters, &p->key) ? " )" : " )?");
    }
}

/* ---- values with quotes of their own ---- */

/* Rules of what a value may be, by the words of types: `loose-string` and so on. */
static void put_loose(struct writing *w) {
    put(w, "loose-string ::=");
    put_text(w, w->how->row->quote);
    put(w, " free");
    put_text(w, w->how->row->quote);
    put(w, "\nloose-null ::= \"null\"\nloose-boolean ::= \"true\" | \"false\"\n"
           "loose-integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,20})\n"
           "loose-number ::= loose-integer (\".\" [0-9]{1,20})?\n"
           "loose-array ::= \"[\" (loose-any (\",\" loose-any)*)? \"]\"\n"
           "loose-pair ::= [A-Za-z0-9_.$-]{1,64} \":\" loose-any\n"
           "loose-object ::= \"{\" (loose-pair (\",\" loose-pair)*)? \"}\"\n"
           "loose-any ::= loose-string | loose-null | loose-boolean | loose-number | loose-array | "
           "loose-object\n");
}

static void put_loose_value(struct writing *w, const struct value *schema) {
    static const char *const types[] = {"string", "null",  "boolean", "integer",
                                        "number", "array", "object"};
    const struct value *list = listed(schema, w->how->row->quote), *type = get(schema, "type");
    bool any = false;
    put(w, " (");
    for (size_t i = 0; list && i < list->list->n; i++) {
        put(w, i ? " |" : "");
        put_text(w, w->how->row->quote);
        put_plain(w, list->list->items[i].text->data, list->list->items[i].text->len);
        put_text(w, w->how->row->quote);
    }
    for (size_t i = 0; !list && i < sizeof types / sizeof *types; i++) {
        bool is = type && value_is_string(type, types[i]);
        for (size_t k = 0; type && type->type == VALUE_LIST && k < type->list->n; k++) {
            is |= value_is_string(&type->list->items[k], types[i]);
        }
        if (is) {
            buf_printf(w->out, "%s loose-%s", any ? " |" : "", types[i]);
            any = true;
        }
    }
    put(w, any || list ? " )" : " loose-any )");
}

static bool is_required(const struct value *parameters, const struct value *key);

/* Rules `loose-N-i` and `loose-N-i-more` of what may follow in front of argument i of tool N: where
 * none stands before it, and where one does. */
static void put_loose_arguments(struct writing *w, size_t tool, const struct value *parameters) {
    const struct value *all = get(parameters, "properties");
    size_t n = all && all->type == VALUE_DICT ? all->dict->n : 0;
    for (size_t i = 0; i < n; i++) {
        const struct value_pair *p = &all->dict->pairs[i];
        for (int more = 0; more < 2; more++) {
            buf_printf(w->out, "loose-%zu-%zu%s ::=", tool, i, more ? "-more" : "");
            put(w, more ? " \",\"" : "");
            put_plain(w, p->key.text->data, p->key.text->len);
            put(w, " \":\"");
            put_loose_value(w, &p->value);
            buf_printf(w->out, " loose-%zu-%zu-more", tool, i + 1);
            if (!is_required(parameters, &p->key)) {
                buf_printf(w->out, " | loose-%zu-%zu%s", tool, i + 1, more ? "-more" : "");
            }
            put(w, "\n");
        }
    }
    buf_printf(w->out, "loose-%zu-%zu ::= \"\"\nloose-%zu-%zu-more ::= \"\"\n", tool, n, tool, n);
}

/* ---- calls ---- */

/* The rule of what stands behind the opening of a call, up to what closes it, of each tool that is
 * allowed. Of objects: behind the quote in front of the name. */
static void put_tools(struct writing *w) {
    const struct tools_grammar *h = w->how;
    const struct tools_row *row = h->row;
    bool any = false;
    put(w, "tool ::= (");
    for (size_t i = 0; i < h->tools->list->n; i++) {
        if (h->allowed && !h->allowed[i]) {
            continue;
        }
        const struct value *f = get(&h->tools->list->items[i], "function");
        const struct value *name = get(f, "name"), *parameters = get(f, "parameters");
        put(w, any ? " |" : "");
        any = true;
        w->tool = i;
        put_plain(w, name->text->data, name->text->len);
        if (row->kind == TOOLS_JSON) {
            buf_printf(w->out, " \"\\\",\" s \"\\\"%s\\\":\" s", row->arguments);
            put_schema(w, parameters);
            put(w, " s \"}\"");
        } else if (row->quote && get(parameters, "properties")) {
            buf_printf(w->out, " \"{\" loose-%zu-0 \"}\"", i);
        } else if (row->quote) {
            put(w, " loose-object");
        } else if (row->kind == TOOLS_NAMED) {
            put(w, row->numbered ? " \":\" [0-9]{1,4}" : "");
            put_text(w, row->name_joint ? row->name_joint : row->name_end);
            put_schema(w, parameters);
        } else {
            put_text(w, row->name_end);
            put(w, " ws");
            put_arguments(w, parameters);
        }
    }
    put(w, " )\n");
    for (size_t i = 0; row->quote && i < h->tools->list->n; i++) {
        put_loose_arguments(w, i, get(get(&h->tools->list->items[i], "function"), "parameters"));
    }
}

/* A thought that the model begins by itself, in the ways that its vocabulary has. */
static void put_thought(struct writing *w) {
    const char *open, *close;
    size_t bytes;
    bool any = false;
    put(w, "thought ::= (");
    for (size_t i = 0; thinking_tag(i, &open, &close); i++) {
        if (token_at(w, open, &bytes) >= 0 && token_at(w, close, &bytes) >= 0) {
            put(w, any ? " |" : "");
            put_text(w, open);
            put(w, " .*");
            put_text(w, close);
            put(w, " ws");
            put_text(w, w->how->row->again);
            any = true;
        }
    }
    put(w, any ? " )?\n" : " \"\" )\n");
}

/* What stands between brackets, or one after the other. */
static void put_objects(struct writing *w, const char *first, bool one) {
    bool brackets = !w->how->row->at_start;
    put(w, brackets ? " ws \"[\" ws " : " ");
    put(w, first);
    if (!one) {
        put(w, brackets ? " (ws \",\" ws object)*" : " (\";\" ws object)*");
    }
    put(w, brackets ? " ws \"]\"" : "");
}

/* A call behind its opening. */
static void put_rest(struct writing *w) {
    const struct tools_row *row = w->how->row;
    put(w, row->kind == TOOLS_JSON ? " ws object ws" : " tool");
    if (row->kind == TOOLS_NAMED && row->close) {
        put(w, " ws");
    }
    if (row->close && row->may_close) {
        put(w, " (");
        put_text(w, row->close);
        put(w, " )?");
    } else {
        put_text(w, row->close);
    }
    if (row->each && row->after) {
        put(w, " ws");
        put_text(w, row->after);
    }
}

static void put_root(struct writing *w, bool one) {
    const struct tools_grammar *h = w->how;
    const struct tools_row *row = h->row;
    bool around = row->before && !row->each && !row->at_start;
    put(w, "root ::=");
    put(w, h->opened ? "" : " thought");
    put(w, h->other ? " ( " : "");
    if (h->other) {
        put(w, h->other);
        put(w, " |");
    }
    if (row->list) {
        put_text(w, h->opened ? NULL : row->open);
        put_objects(w, h->opened && row->at_start ? "tool" : "object", one);
        put(w, row->close ? " ws" : "");
        put_text(w, row->close);
    } else if (h->opened && !row->before) {
        put_rest(w);
    } else if (h->opened && row->each) {
        put(w, " ws");
        put_text(w, row->open);
        put_rest(w);
    } else {
        put_text(w, h->opened ? NULL : around ? row->before : row->first);
        put(w, around ? " ws call" : " call");
        put(w, one ? "" : " (ws call)*");
        put(w, around ? " ws" : "");
        put_text(w, around ? row->after : NULL);
    }
    put(w, h->other ? " )\n" : "\n");
}

const char *tools_opening(const struct tools_row *row) {
    return row->at_start ? "{\"name\": \"" : row->before ? row->before : row->open;
}

int tools_write_grammar(const struct tools_grammar *how, struct value_arena *arena,
                        struct buf *rules, struct tools_schema **schemas, size_t *n) {
    struct writing w = {.how = how, .arena = arena, .out = rules};
    const struct tools_row *row = how->row;
    put(&w, "s ::= (\" \" | \"\\n\" [ \\t]{0,20})?\nws ::= [ \\n]{0,2}\n");
    put_thought(&w);
    put_tools(&w);
    if (row->kind == TOOLS_JSON) {
        put(&w, "object ::= \"{\" s \"\\\"name\\\":\" s \"\\\"\" tool\n");
    }
    if (row->kind == TOOLS_TAGGED) {
        put_free(&w, row->value_close);
    }
    if (row->quote) {
        put_free(&w, row->quote);
        put_loose(&w);
    }
    if (!row->list) {
        put(&w, "call ::=");
        put_text(&w, row->each ? row->before : NULL);
        put(&w, row->each ? " ws" : "");
        put_text(&w, row->open);
        put_rest(&w);
        put(&w, "\n");
    }
    put_root(&w, how->one || row->may_close);
    *schemas = w.schemas;
    *n = w.n;
    return w.full ? -1 : 0;
}
