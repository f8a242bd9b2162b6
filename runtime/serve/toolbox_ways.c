/*
 * toolbox: what a template makes of tools, and conversations as it is to have them; see toolbox.h.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/thinking.h"
#include "runtime/serve/toolbox.h"

/* ---- the trial ---- */

#define QUESTION "corm_question"
#define NAME "corm_look_up"
#define ARGUMENTS "{\"corm_at\": \"corm value\", \"corm_count\": 42}"
#define TOOLS                                                                                      \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"" NAME                        \
    "\", \"description\": \"Look up\", \"parameters\": {\"type\": \"object\", \"properties\": "    \
    "{\"corm_at\": {\"type\": \"string\", \"description\": \"Where\"}, \"corm_count\": "           \
    "{\"type\": \"integer\", \"description\": \"How many\"}}, \"required\": [\"corm_at\"]}}}]"
#define USER "{\"role\": \"user\", \"content\": \"" QUESTION "\"}"

static const char ask_tools[] = "{\"messages\": [" USER "], " TOOLS "}";
static const char ask_system[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"" NAME "\"}, " USER "]}";

/* The text that a request becomes, or NULL. */
static char *rendered(const struct server *s, const char *json, bool keep_arguments) {
    const struct corm_chat chat = {.json = json,
                                   .json_bytes = strlen(json),
                                   .keep_arguments = keep_arguments,
                                   .chat_template = s->chat_template,
                                   .template_name = s->template_name};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n, bytes;
    if (corm_chat_ids(s->engine, &chat, &ids, &n, &text, &bytes, NULL) < 0) {
        return NULL;
    }
    free(ids);
    return text;
}

/* What a text has behind the question. */
static const char *behind_question(const char *text) {
    const char *at = text;
    for (const char *next = text; (next = strstr(next, QUESTION)); next++) {
        at = next + sizeof QUESTION - 1;
    }
    return at;
}

/* With a call and its result in it: the row that reads what the template made of the call, from
 * where it goes on otherwise than the text that asks for an answer. */
static const struct tools_row *try_call(const struct server *s, const char *asking,
                                        const struct toolbox_ways *how) {
    const char *id = how->short_ids ? "abcdef012" : "call_abcdefghijklmnopqrstuvwx";
    static const char arguments[] = ARGUMENTS;
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct buf json = {0}, quoted = {0};
    struct value v;
    struct err err = {0};
    const struct tools_row *row = NULL;
    buf_append(&quoted, arguments, sizeof arguments - 1);
    if (how->text_arguments) {
        quoted.len = 0;
        buf_append(&quoted, "\"", 1);
        for (const char *p = arguments; *p; p++) {
            buf_printf(&quoted, *p == '"' ? "\\%c" : "%c", *p);
        }
        buf_append(&quoted, "\"", 1);
    }
    buf_printf(&json,
               "{\"messages\": [" USER ", {\"role\": \"assistant\", \"content\": \"\", "
               "\"tool_calls\": [{\"id\": \"%s\", \"type\": \"function\", \"function\": {\"name\": "
               "\"" NAME "\", \"arguments\": %s}}]}, {\"role\": \"tool\", \"content\": "
               "\"corm_result\", \"name\": \"" NAME "\", \"tool_call_id\": \"%s\"}], " TOOLS "}",
               id, quoted.data, id);
    char *text = rendered(s, json.data, how->text_arguments);
    if (text && strstr(text, "corm_result") &&
        value_json_read(&arena, arguments, sizeof arguments - 1, &v, &err) == 0) {
        const char *from = behind_question(text), *call = from, *other = behind_question(asking);
        while (*call && *call == *other) {
            call++;
            other++;
        }
        while (call > from && !strchr(" \n>]", call[-1])) { /* a tag may begin as another does */
            call--;
        }
        row = tools_find(call, strlen(call), NAME, &v);
    }
    free(text);
    buf_free(&json);
    buf_free(&quoted);
    value_arena_free(&arena);
    return row;
}

static void try_calls(const struct server *s, struct toolbox_ways *ways) {
    char *asking = rendered(s, ask_tools, false);
    for (int i = 0; asking && strstr(asking, NAME) && !ways->known && i < 4; i++) {
        ways->text_arguments = i & 1;
        ways->short_ids = i & 2;
        const struct tools_row *row = try_call(s, asking, ways);
        if (row) {
            ways->row = row;
            ways->known = true;
        }
    }
    if (!ways->known) {
        ways->text_arguments = ways->short_ids = false;
    }
    free(asking);
}

/* A special token is not part of a text, unless something is told from it. */
static void show(const struct server *s, struct toolbox_ways *ways, const char *token) {
    int32_t *ids = NULL;
    size_t n = 0, bytes = 1;
    char *text = NULL;
    if (corm_tokenize(s->engine, token, strlen(token), false, true, &ids, &n, NULL) < 0) {
        return;
    }
    if (n == 1 && corm_detokenize(s->engine, ids, 1, true, &text, &bytes, NULL) == 0 &&
        bytes == 0) {
        ways->shown = mem_realloc(ways->shown, (ways->n_shown + 1) * sizeof *ways->shown);
        ways->shown[ways->n_shown++] = ids[0];
    }
    free(text);
    free(ids);
}

void toolbox_try(const struct server *s, struct toolbox_ways *ways) {
    *ways = (struct toolbox_ways){.row = tools_plain_row(), .system = true};
    if (s->chat_template || corm_chat_template(s->engine)) {
        char *text = rendered(s, ask_system, false);
        ways->system = text && strstr(text, NAME);
        free(text);
        try_calls(s, ways);
    }
    for (size_t i = 0; thinking_token(i); i++) {
        show(s, ways, thinking_token(i));
    }
    for (const char *const *t = ways->row->tokens; *t; t++) {
        show(s, ways, *t);
    }
}

void toolbox_ways_free(struct toolbox_ways *ways) {
    free(ways->shown);
    *ways = (struct toolbox_ways){0};
}

/* ---- conversations ---- */

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

/* A call as this template takes it. */
static int put_call(struct call *call, const struct value *from, struct value *out) {
    const struct toolbox_ways *ways = call->s->ways;
    const struct value *id = get(from, "id"), *f = get(from, "function");
    const struct value *arguments = get(f, "arguments");
    struct value function, text;
    struct buf json = {0};
    *out = *from;
    if (from->type != VALUE_DICT || copy_dict(call, from, NULL, out)) {
        return from->type == VALUE_DICT ? -1 : 0;
    }
    if (id && ways->short_ids &&
        (short_id(call, id, &text) || field_set(&call->arena, out, "id", &text))) {
        return -1;
    }
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

/* The name of the function whose call has this id, in the messages before. */
static const struct value *name_of(const struct value *messages, size_t n, const struct value *id) {
    for (size_t i = n; id && i-- > 0;) {
        const struct value *calls = calls_of(&messages[i]);
        for (size_t k = 0; calls && k < calls->list->n; k++) {
            const struct value *c = &calls->list->items[k], *other = get(c, "id");
            if (other && value_equal(other, id)) {
                return get(get(c, "function"), "name");
            }
        }
    }
    return NULL;
}

/* Messages [n] for a template that knows calls. */
static int put_known(struct call *call, const struct value *messages, size_t n,
                     struct value *items) {
    for (size_t i = 0; i < n; i++) {
        const struct value *calls = calls_of(&messages[i]), *id = get(&messages[i], "tool_call_id");
        struct value list, text;
        items[i] = messages[i];
        if (calls) {
            struct value *made = value_alloc(&call->arena, (calls->list->n + 1) * sizeof *made);
            for (size_t k = 0; made && k < calls->list->n; k++) {
                made = put_call(call, &calls->list->items[k], &made[k]) ? NULL : made;
            }
            if (!made || value_make_list(&call->arena, VALUE_LIST, made, calls->list->n, &list) ||
                copy_dict(call, &messages[i], NULL, &items[i]) ||
                field_set(&call->arena, &items[i], "tool_calls", &list)) {
                return -1;
            }
        } else if (is_role(&messages[i], "tool")) {
            const struct value *name = name_of(messages, i, id);
            if (copy_dict(call, &messages[i], NULL, &items[i]) ||
                (name && !get(&messages[i], "name") &&
                 field_set(&call->arena, &items[i], "name", name)) ||
                (id && call->s->ways->short_ids &&
                 (short_id(call, id, &text) ||
                  field_set(&call->arena, &items[i], "tool_call_id", &text)))) {
                return -1;
            }
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
    const char *teller = call->s->ways->system ? "system" : "user";
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
        bool joins = k > 0 && (result || user) && after_result;
        text.len = 0;
        if (joins) {
            const struct value_string *before = get(&items[k - 1], "content")->text;
            buf_append(&text, before->data, before->len);
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
        k -= joins;
        const struct value *role = get(&messages[i], "role");
        if (rc || say(call,
                      joins    ? &items[k]
                      : result ? &none
                               : &messages[i],
                      result || !role ? "user" : role->text->data, &text, &items[k])) {
            goto no_room;
        }
        k++;
        after_result = result;
    }
    buf_free(&text);
    return k;
no_room:
    buf_free(&text);
    return SIZE_MAX;
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
    struct value *items = value_alloc(&call->arena, (n + 1) * sizeof *items);
    size_t k = n;
    if (!items || (plain ? (k = put_plain(call, box, messages, n, items)) == SIZE_MAX
                         : put_known(call, messages, n, items))) {
        return -1;
    }
    return value_make_list(&call->arena, VALUE_LIST, items, k, out);
}
