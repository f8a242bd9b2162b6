/*
 * toolbox: conversations as the template is to have them; see toolbox.h.
 */
#include <string.h>

#include "runtime/serve/toolbox.h"

static const struct value *get(const struct value *dict, const char *key) {
    return dict && dict->type == VALUE_DICT ? field_get(dict->dict, key) : NULL;
}

/* A copy that may be changed, without a key (NULL: with all). */
static int copy_dict(struct call *call, const struct value *from, const char *without,
                     struct value *out) {
    if (value_make_dict(&call->arena, out)) {
        return -1;
    }
    for (size_t i = 0; i < from->dict->n; i++) {
        const struct value_pair *p = &from->dict->pairs[i];
        if (!(without && value_is_string(&p->key, without)) &&
            value_dict_set(&call->arena, out->dict, &p->key, &p->value)) {
            return -1;
        }
    }
    return 0;
}

static int as_json(struct call *call, const struct value *v, struct buf *out) {
    struct value_writer w = {.out = out, .max_bytes = out->len + call->arena.limit_bytes};
    const struct value_json_style style = {0};
    struct err err = {0};
    return value_json_write(&w, v, &style, &err);
}

static bool is_role(const struct value *message, const char *role) {
    const struct value *v = get(message, "role");
    return v && value_is_string(v, role);
}

static const struct value *calls_of(const struct value *message) {
    const struct value *calls = is_role(message, "assistant") ? get(message, "tool_calls") : NULL;
    return calls && calls->type == VALUE_LIST ? calls : NULL;
}

/* Any id as nine letters and digits; the same id gives the same ones. */
static int short_id(struct call *call, const struct value *id, struct value *out) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    char text[10] = {0};
    if (id->type != VALUE_STRING) {
        *out = *id;
        return 0;
    }
    if (id->text->len == 9 && strspn(id->text->data, letters) == 9) {
        *out = *id;
        return 0;
    }
    uint64_t h = hash64(id->text->data, id->text->len);
    for (int i = 0; i < 9; i++) {
        text[i] = letters[h % 62];
        h /= 62;
    }
    return value_make_string(&call->arena, text, 9, out);
}

/* The calls that were seen, by their ids: the functions' names, and the ids that the template
 * gets. */
struct seen {
    struct value names, ids;
    size_t n_calls;
};

/* The id of a call as this template takes it. */
static int put_id(struct call *call, struct seen *seen, const struct value *id,
                  const struct value *name, struct value *out) {
    struct buf text = {0};
    int rc = 0;
    if (call->s->ways->ids == TOOLBOX_IDS_SHORT) {
        rc = short_id(call, id, out);
    } else if (name && name->type == VALUE_STRING) {
        buf_printf(&text, "functions.%s:%zu", name->text->data, seen->n_calls);
        rc = value_make_string(&call->arena, text.data, text.len, out);
    } else {
        rc = value_make_string(&call->arena, "", 0, out);
    }
    buf_free(&text);
    return rc || (id && value_hashable(id) && value_dict_set(&call->arena, seen->ids.dict, id, out))
               ? -1
               : 0;
}

/* A call as this template takes it. */
static int put_call(struct call *call, struct seen *seen, const struct value *from,
                    struct value *out) {
    const struct toolbox_ways *ways = call->s->ways;
    const struct value *id = get(from, "id"), *f = get(from, "function");
    const struct value *arguments = get(f, "arguments"), *name = get(f, "name");
    struct value function, text;
    struct buf json = {0};
    *out = *from;
    if (from->type != VALUE_DICT || copy_dict(call, from, NULL, out)) {
        return from->type == VALUE_DICT ? -1 : 0;
    }
    if (id && name && value_hashable(id) &&
        value_dict_set(&call->arena, seen->names.dict, id, name)) {
        return -1;
    }
    if ((id || ways->ids == TOOLBOX_IDS_NAMED) && ways->ids != TOOLBOX_IDS_ANY &&
        (put_id(call, seen, id, name, &text) || field_set(&call->arena, out, "id", &text))) {
        return -1;
    }
    seen->n_calls++;
    if (!ways->text_arguments || !arguments || arguments->type == VALUE_STRING) {
        return 0;
    }
    int rc = as_json(call, arguments, &json) || copy_dict(call, f, NULL, &function) ||
                     field_set_text(&call->arena, &function, "arguments", json.data, json.len) ||
                     field_set(&call->arena, out, "function", &function)
                 ? -1
                 : 0;
    buf_free(&json);
    return rc;
}

/* Calls of a message, as the template takes them. */
static int put_calls(struct call *call, const struct value *message, const struct value *calls,
                     struct seen *seen, struct value *out) {
    struct value *made = value_alloc(&call->arena, (calls->list->n + 1) * sizeof *made), list;
    for (size_t k = 0; made && k < calls->list->n; k++) {
        if (put_call(call, seen, &calls->list->items[k], &made[k])) {
            return -1;
        }
    }
    return !made || value_make_list(&call->arena, VALUE_LIST, made, calls->list->n, &list) ||
                   copy_dict(call, message, NULL, out) ||
                   field_set(&call->arena, out, "tool_calls", &list)
               ? -1
               : 0;
}

/* A result, with the name of the function whose call it answers. */
static int put_result(struct call *call, const struct value *message, const struct seen *seen,
                      struct value *out) {
    const struct value *id = get(message, "tool_call_id");
    const struct value *name = id ? value_dict_get(seen->names.dict, id) : NULL;
    const struct value *other = id ? value_dict_get(seen->ids.dict, id) : NULL;
    struct value text;
    if (id && !other && call->s->ways->ids == TOOLBOX_IDS_SHORT) { /* its call is not here */
        if (short_id(call, id, &text)) {
            return -1;
        }
        other = &text;
    }
    return copy_dict(call, message, NULL, out) ||
                   (name && !get(message, "name") && field_set(&call->arena, out, "name", name)) ||
                   (other && field_set(&call->arena, out, "tool_call_id", other))
               ? -1
               : 0;
}

/* Messages [n] for a template that knows calls. */
static int put_known(struct call *call, const struct value *messages, size_t n,
                     struct value *items) {
    struct seen seen = {0};
    if (value_make_dict(&call->arena, &seen.names) || value_make_dict(&call->arena, &seen.ids)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct value *calls = calls_of(&messages[i]);
        items[i] = messages[i];
        if ((calls && put_calls(call, &messages[i], calls, &seen, &items[i])) ||
            (is_role(&messages[i], "tool") && put_result(call, &messages[i], &seen, &items[i]))) {
            return -1;
        }
    }
    return 0;
}

/* ---- for a template that knows no tools ---- */

static void add_line(struct buf *out, const char *text, size_t bytes) {
    if (out->len > 0 && bytes > 0) {
        buf_append(out, "\n", 1);
    }
    buf_append(out, text, bytes);
}

/* What a message says, its calls and results with it. */
static int say_plainly(struct call *call, const struct value *message, struct buf *out) {
    const struct value *content = get(message, "content"), *calls = calls_of(message);
    bool result = is_role(message, "tool");
    buf_append(out, "", 0);
    if (result) {
        add_line(out, "<tool_response>", 15);
    }
    if (content && content->type == VALUE_STRING) {
        add_line(out, content->text->data, content->text->len);
    }
    if (result) {
        add_line(out, "</tool_response>", 16);
    }
    for (size_t i = 0; calls && i < calls->list->n; i++) {
        const struct value *f = get(&calls->list->items[i], "function");
        const struct value *name = get(f, "name"), *arguments = get(f, "arguments");
        add_line(out, "<tool_call>\n{\"name\": ", 21);
        if (name && as_json(call, name, out)) {
            return -1;
        }
        buf_append(out, ", \"arguments\": ", 15);
        if (arguments && arguments->type == VALUE_STRING && arguments->text->len > 0) {
            buf_append(out, arguments->text->data, arguments->text->len);
        } else if (arguments && arguments->type == VALUE_DICT) {
            if (as_json(call, arguments, out)) {
                return -1;
            }
        } else {
            buf_append(out, "{}", 2);
        }
        buf_append(out, "}\n</tool_call>", 14);
    }
    return 0;
}

/* The definitions, and how a call is written. */
static int tell_tools(struct call *call, const struct toolbox *box, struct buf *out) {
    static const char begin[] = "You may call functions. These are there, each as a JSON object:\n";
    static const char end[] =
        "\nTo call one, write its name and arguments in this form, which may stand more than "
        "once:\n<tool_call>\n{\"name\": \"NAME\", \"arguments\": {\"KEY\": VALUE}}\n</tool_call>\n"
        "Then stop. What the function returns is told next, as a <tool_response>.";
    add_line(out, begin, sizeof begin - 1);
    for (size_t i = 0; i < box->n; i++) {
        if (i > 0) {
            buf_append(out, "\n", 1);
        }
        if (as_json(call, get(&box->tools.list->items[i], "function"), out)) {
            return -1;
        }
    }
    buf_append(out, end, sizeof end - 1);
    return 0;
}

static int say(struct call *call, const struct value *from, const char *role,
               const struct buf *text, struct value *out) {
    return copy_dict(call, from, "tool_calls", out) ||
                   field_set_text(&call->arena, out, "role", role, strlen(role)) ||
                   field_set_text(&call->arena, out, "content", text->len ? text->data : "",
                                  text->len)
               ? -1
               : 0;
}

/* Results are said by the user, together with what the user says then. `items` has room for one
 * more than n; returns how many there are, SIZE_MAX: no room. */
static size_t put_plain(struct call *call, const struct toolbox *box, const struct value *messages,
                        size_t n, struct value *items) {
    struct value none;
    size_t k = 0;
    bool tells = box && box->n > 0, done = !tells, after_result = false;
    const char *teller = call->s->ways->system ? "system" : "user", *role = NULL;
    const struct value *base = NULL; /* of the message whose text is being joined */
    struct buf text = {0};
    if (value_make_dict(&call->arena, &none)) {
        return SIZE_MAX;
    }
    if (!done && call->s->ways->system && !(n > 0 && is_role(&messages[0], teller))) {
        done = true;
        if (tell_tools(call, box, &text) || say(call, &none, teller, &text, &items[k++])) {
            goto no_room;
        }
    }
    for (size_t i = 0; i < n; i++) {
        bool result = is_role(&messages[i], "tool"), user = is_role(&messages[i], "user");
        bool joins = (result || user) && after_result;
        if (!joins) {
            if (base && say(call, base, role, &text, &items[k++])) {
                goto no_room;
            }
            text.len = 0;
            const struct value *own_role = get(&messages[i], "role");
            base = result ? &none : &messages[i];
            role = result || !own_role ? "user" : own_role->text->data;
        }
        struct buf own = {0};
        int rc = 0;
        if (!done && !call->s->ways->system && user) { /* before what the user says */
            done = true;
            rc = tell_tools(call, box, &text);
            buf_append(&text, "\n", 1);
        }
        rc = rc ? rc : say_plainly(call, &messages[i], &own);
        add_line(&text, own.data, own.len);
        buf_free(&own);
        if (!rc && !done && call->s->ways->system && is_role(&messages[i], "system")) {
            done = true;
            buf_append(&text, "\n", 1);
            rc = tell_tools(call, box, &text);
        }
        if (rc) {
            goto no_room;
        }
        after_result = result;
    }
    if (base && say(call, base, role, &text, &items[k++])) {
        goto no_room;
    }
    buf_free(&text);
    return k;
no_room:
    buf_free(&text);
    return SIZE_MAX;
}

/* ---- what the system says ---- */

/* Items as they are put together; the content of the last one is in `text` while it `grows`. */
struct joining {
    struct call *call;
    struct value *items;
    size_t n;
    struct buf text;
    bool grows;
};

static int join_end(struct joining *j) {
    struct value *last = &j->items[j->n - 1], made;
    if (!j->grows) {
        return 0;
    }
    j->grows = false;
    if (copy_dict(j->call, last, NULL, &made) ||
        field_set_text(&j->call->arena, &made, "content", j->text.data, j->text.len)) {
        return -1;
    }
    *last = made;
    return 0;
}

static int join_begin(struct joining *j, const struct value *message) {
    if (join_end(j)) {
        return -1;
    }
    j->items[j->n++] = *message;
    return 0;
}

/* More lines for the last one. */
static void join_lines(struct joining *j, const struct value *message, bool marked) {
    const struct value_string *content = get(message, "content")->text;
    if (!j->grows) {
        const struct value_string *before = get(&j->items[j->n - 1], "content")->text;
        j->text.len = 0;
        buf_append(&j->text, before->data, before->len);
        j->grows = true;
    }
    add_line(&j->text, "<system>", marked ? 8 : 0);
    add_line(&j->text, content->data, content->len);
    add_line(&j->text, "</system>", marked ? 9 : 0);
}

/* What the system says where the template does not take it: in front, the lines of one message;
 * later, lines that are marked in what the user says there, so that all before stays as it was.
 * `items` has room for n. Returns how many there are, SIZE_MAX: no room. */
static size_t put_systems(struct call *call, const struct value *messages, size_t n,
                          struct value *items) {
    const struct toolbox_ways *ways = call->s->ways;
    struct joining j = {.call = call, .items = items};
    bool leads = true, opened = false; /* the last item was made for the system's lines */
    struct value none, empty;
    int rc = value_make_dict(&call->arena, &none) ||
             field_set_text(&call->arena, &none, "role", "user", 4) ||
             field_set_text(&call->arena, &none, "content", "", 0);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool system = is_role(&messages[i], "system");
        bool user = is_role(&messages[i], "user"),
             after = j.n > 0 && is_role(&items[j.n - 1], "user");
        leads &= system;
        if (system && (leads ? ways->system && (ways->systems || j.n == 0) : ways->later_system)) {
            rc = join_begin(&j, &messages[i]);
        } else if (system && leads && ways->system) {
            join_lines(&j, &messages[i], false);
        } else if (system) {
            if (!after) {
                rc = copy_dict(call, &none, NULL, &empty) || join_begin(&j, &empty);
                opened = true;
            }
            if (rc == 0) {
                join_lines(&j, &messages[i], true);
            }
        } else if (user && after && opened) {
            join_lines(&j, &messages[i], false);
        } else {
            rc = join_begin(&j, &messages[i]);
            opened = false;
        }
    }
    rc = rc || (j.n > 0 && join_end(&j));
    buf_free(&j.text);
    return rc ? SIZE_MAX : j.n;
}

static bool has_calls(const struct value *messages, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (is_role(&messages[i], "tool") || calls_of(&messages[i])) {
            return true;
        }
    }
    return false;
}

int toolbox_messages(struct call *call, const struct toolbox *box, const struct value *messages,
                     size_t n, struct value *out) {
    bool plain = !call->s->ways->known && ((box && box->n > 0) || has_calls(messages, n));
    struct value *said = value_alloc(&call->arena, (n + 1) * sizeof *said);
    struct value *items = value_alloc(&call->arena, (n + 2) * sizeof *items);
    size_t k = said && items ? put_systems(call, messages, n, said) : SIZE_MAX;
    if (k == SIZE_MAX) {
        return -1;
    }
    if (plain) {
        k = put_plain(call, box, said, k, items);
    } else if (put_known(call, said, k, items)) {
        k = SIZE_MAX;
    }
    return k == SIZE_MAX ? -1 : value_make_list(&call->arena, VALUE_LIST, items, k, out);
}
