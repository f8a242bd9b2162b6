/* Calls of tools out of a stream of text; see tools.h. */
#include "format/text/tools.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/tools_internal.h"

enum state {
    IN_TEXT,
    IN_JSON,  /* the arguments of a call, as they are */
    IN_TAIL,  /* behind them, in the object that has them */
    IN_KEYS,  /* between arguments that have tags */
    IN_VALUE, /* of one of them */
    BEHIND,   /* a call that is complete */
};

/* A step takes what it understands of what is pending. False: more has to be seen first. */
struct taking {
    struct tools_stream *s;
    const struct tools_sink *sink;
    bool all; /* no more will come */
};

static const char *rest(const struct tools_stream *s, size_t *n) {
    *n = s->pending.len - s->at;
    return s->pending.data + s->at;
}

/* The same once white space in front of it is taken. */
static const char *rest_behind_white(struct tools_stream *s, size_t *n) {
    const char *p = rest(s, n);
    s->at += tools_skip_white(p, *n, 0);
    return rest(s, n);
}

void tools_begin(struct tools_stream *s, const struct tools_row *row, const struct value *tools) {
    tools_free(s);
    s->row = row;
    s->tools = tools;
}

void tools_free(struct tools_stream *s) {
    buf_free(&s->pending);
    buf_free(&s->white);
    buf_free(&s->value);
    free(s->called);
    *s = (struct tools_stream){0};
}

/* ---- arguments ---- */

static void tell(const struct taking *t, const char *json, size_t bytes) {
    if (bytes > 0) {
        t->sink->arguments(t->sink->ctx, json, bytes);
    }
}

static void tell_text(const struct taking *t, const char *json) {
    tell(t, json, strlen(json));
}

/* Text as it stands inside of a JSON string. */
static void put_escaped(struct buf *out, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            buf_printf(out, "\\%c", c);
        } else if (c == '\n') {
            buf_append(out, "\\n", 2);
        } else if (c == '\t') {
            buf_append(out, "\\t", 2);
        } else if (c < 0x20 || c == 0x7f) {
            buf_printf(out, "\\u%04x", c);
        } else {
            buf_append(out, &text[i], 1);
        }
    }
}

static void tell_escaped(const struct taking *t, const char *text, size_t bytes) {
    struct buf out = {0};
    put_escaped(&out, text, bytes);
    tell(t, out.data, out.len);
    buf_free(&out);
}

static void end_call(const struct taking *t, enum state next, bool whole) {
    t->s->state = next;
    t->sink->end(t->sink->ctx, whole);
}

static void begin_call(const struct taking *t, const struct tools_head *h) {
    struct tools_stream *s = t->s;
    const char *p = s->pending.data + s->at;
    s->n_calls++;
    s->white.len = 0;
    s->listed |= h->listed;
    s->outer = h->objects;
    s->depth = 0;
    s->quoted = s->escaped = s->keyed = false;
    s->objects = 0;
    s->n_keys = 0;
    free(s->called);
    s->called = mem_alloc(h->name_bytes + 1);
    memcpy(s->called, h->name, h->name_bytes);
    s->called[h->name_bytes] = 0;
    t->sink->begin(t->sink->ctx, h->name, h->name_bytes);
    if (h->from < h->to || h->none) {
        tell(t, h->none ? "{}" : p + h->from, h->none ? 2 : h->to - h->from);
        end_call(t, IN_TAIL, true);
    } else {
        s->state = s->row->kind == TOOLS_TAGGED ? IN_KEYS : IN_JSON;
    }
    s->at += h->bytes;
}

/* ---- text ---- */

static bool may_begin(const struct tools_row *row, char c) {
    bool yes = (row->before && row->before[0] == c) || (row->open && row->open[0] == c) ||
               (row->at_start && (c == '{' || c == '['));
    for (const char *const *w = row->noise; w && *w; w++) {
        yes |= (*w)[0] == c;
    }
    return yes;
}

/* The longest word that says nothing. */
static enum tools_match match_noise(const struct tools_row *row, const char *p, size_t n, bool all,
                                    size_t *bytes) {
    enum tools_match found = TOOLS_NO;
    *bytes = 0;
    for (const char *const *w = row->noise; w && *w; w++) {
        enum tools_match m = tools_match(p, n, *w, all);
        if (m == TOOLS_MORE) {
            return m;
        }
        if (m == TOOLS_YES && strlen(*w) > *bytes) {
            *bytes = strlen(*w);
            found = m;
        }
    }
    return found;
}

static void put_text(const struct taking *t, const char *text, size_t bytes) {
    struct tools_stream *s = t->s;
    if (s->white.len > 0) {
        t->sink->text(t->sink->ctx, s->white.data, s->white.len);
        s->white.len = 0;
    }
    s->told = true;
    t->sink->text(t->sink->ctx, text, bytes);
}

static bool step_text(const struct taking *t) {
    struct tools_stream *s = t->s;
    size_t n, bytes;
    const char *p = rest(s, &n);
    if (n == 0) {
        return false;
    }
    if (tools_is_white(p[0])) {
        buf_append(&s->white, p, 1);
        s->at++;
        return true;
    }
    if (may_begin(s->row, p[0])) {
        struct tools_head h;
        bool here = !s->row->at_start || !s->told;
        enum tools_match m =
            here ? tools_match_head(s->row, s->tools, p, n, false, t->all, &h) : TOOLS_NO;
        if (m == TOOLS_YES) {
            begin_call(t, &h);
            return true;
        }
        enum tools_match noise = match_noise(s->row, p, n, t->all, &bytes);
        if (m == TOOLS_MORE || noise == TOOLS_MORE) {
            return false;
        }
        if (noise == TOOLS_YES) {
            s->at += bytes;
            return true;
        }
    }
    size_t k = 1;
    while (k < n && !tools_is_white(p[k]) && !may_begin(s->row, p[k])) {
        k++;
    }
    put_text(t, p, k);
    s->at += k;
    return true;
}

/* ---- JSON ---- */

/* Arguments that are a string, which has the JSON in it. */
static bool step_quoted(const struct taking *t, const char *p, size_t n) {
    struct tools_stream *s = t->s;
    struct value_arena arena = {.limit_bytes = 4 * n + (1 << 16)};
    struct value v;
    struct err err = {0};
    size_t i = 1;
    while (i < n && p[i] != '"') {
        i += p[i] == '\\' ? 2 : 1;
    }
    if (i >= n) {
        return false;
    }
    bool reads = value_json_read(&arena, p, i + 1, &v, &err) == 0 && v.type == VALUE_STRING;
    tell(t, reads ? v.text->data : p, reads ? v.text->len : i + 1);
    value_arena_free(&arena);
    s->at += i + 1;
    end_call(t, IN_TAIL, true);
    return true;
}

/* A piece of arguments whose keys have no quotes, and strings others, at p[i]: what it is in JSON
 * goes to `out`. The bytes it takes; 0: more has to be seen. */
static size_t loose_piece(struct tools_stream *s, const char *p, size_t n, bool all,
                          struct buf *out) {
    enum { MOST_DEPTH = 63, MOST_KEY = 256 };
    enum tools_match quote = tools_match(p, n, s->row->quote, all);
    size_t k = 1;
    if (quote == TOOLS_MORE) {
        return 0;
    }
    if (quote == TOOLS_YES) {
        s->quoted = !s->quoted;
        s->keyed = false;
        buf_append(out, "\"", 1);
        return strlen(s->row->quote);
    }
    if (s->quoted) {
        put_escaped(out, p, 1);
        return 1;
    }
    if ((*p == '{' || *p == '[') && s->depth < MOST_DEPTH) {
        s->keyed = *p == '{';
        s->objects = s->objects << 1 | s->keyed;
        s->depth++;
    } else if (*p == '}' || *p == ']') {
        s->keyed = false;
        s->objects >>= 1;
        s->depth--;
    } else if (*p == ',') {
        s->keyed = s->objects & 1;
    } else if (s->keyed && !tools_is_white(*p) && *p != '"') {
        while (k < n && k < MOST_KEY && p[k] != ':') {
            k++;
        }
        if (k == n && !all) {
            return 0;
        }
        s->keyed = false;
        buf_append(out, "\"", 1);
        put_escaped(out, p, k);
        buf_append(out, "\"", 1);
        return k;
    }
    buf_append(out, p, 1);
    if (*p == ',' || *p == ':') {
        buf_append(out, " ", 1);
    }
    return 1;
}

static bool step_loose(const struct taking *t) {
    struct tools_stream *s = t->s;
    struct buf out = {0};
    size_t n, i = 0, k = 1;
    const char *p = rest(s, &n);
    while (i < n && k > 0 && (s->depth > 0 || i == 0)) {
        k = loose_piece(s, p + i, n - i, t->all, &out);
        i += k;
    }
    tell(t, out.data, out.len);
    buf_free(&out);
    s->at += i;
    if (i > 0 && s->depth == 0) {
        end_call(t, BEHIND, true);
    }
    return i > 0;
}

/* Told as it comes, but for bytes that a JSON string cannot have, which are escaped. */
static bool step_json(const struct taking *t) {
    struct tools_stream *s = t->s;
    size_t n, i = 0, done = 0;
    const char *p = rest(s, &n);
    if (n == 0) {
        return false;
    }
    if (s->row->quote) {
        return step_loose(t);
    }
    if (s->depth == 0 && p[0] == '"') {
        return step_quoted(t, p, n);
    }
    if (s->depth == 0 && p[0] != '{' && p[0] != '[') { /* null, or what is no JSON */
        tell_text(t, "{}");
        end_call(t, IN_TAIL, true);
        return true;
    }
    for (bool over = false; i < n && !over; i++) {
        unsigned char c = (unsigned char)p[i];
        if (s->quoted && c < 0x20) {
            tell(t, p + done, i - done);
            tell_escaped(t, p + i, 1);
            done = i + 1;
        }
        if (s->escaped) {
            s->escaped = false;
        } else if (s->quoted) {
            s->escaped = c == '\\';
            s->quoted = c != '"';
        } else if (c == '"') {
            s->quoted = true;
        } else if (c == '{' || c == '[') {
            s->depth++;
        } else if (c == '}' || c == ']') {
            over = --s->depth == 0;
        }
    }
    tell(t, p + done, i - done);
    s->at += i;
    if (s->depth == 0) {
        end_call(t, s->row->kind == TOOLS_JSON ? IN_TAIL : BEHIND, true);
    }
    return true;
}

/* To the end of the object around the arguments; what else it has is not asked for. */
static bool step_tail(const struct taking *t) {
    struct tools_stream *s = t->s;
    size_t n, i = 0;
    const char *p = rest(s, &n);
    bool over = s->outer == 0;
    for (; i < n && !over; i++) {
        char c = p[i];
        if (s->escaped) {
            s->escaped = false;
        } else if (s->quoted) {
            s->escaped = c == '\\';
            s->quoted = c != '"';
        } else if (c == '"') {
            s->quoted = true;
        } else if (c == '{') {
            s->outer++;
        } else if (c == '}') {
            over = --s->outer == 0;
        } else if (c == '<' || c == '[' || c == ';') { /* a bracket was forgotten */
            s->outer = 0;
            break;
        }
    }
    s->at += i;
    if (s->outer == 0) {
        s->state = BEHIND;
        return true;
    }
    return i > 0;
}

/* ---- arguments with tags ---- */

static void begin_value(const struct taking *t, const struct tools_head *h, char typed) {
    struct tools_stream *s = t->s;
    const struct value *f = tools_function(s->tools, s->called, strlen(s->called));
    const struct value *parameters = f ? value_dict_get_text(f->dict, "parameters", 10) : NULL;
    const struct value *all = parameters && parameters->type == VALUE_DICT
                                  ? value_dict_get_text(parameters->dict, "properties", 10)
                                  : NULL;
    s->schema = all && all->type == VALUE_DICT
                    ? value_dict_get_text(all->dict, h->name, h->name_bytes)
                    : NULL;
    s->string = typed ? typed == 's' : tools_types(s->schema) == TOOLS_TYPE_STRING;
    s->begun = false;
    s->value.len = 0;
    tell_text(t, s->n_keys++ ? ", \"" : "{\"");
    tell_escaped(t, h->name, h->name_bytes);
    tell_text(t, s->string ? "\": \"" : "\": ");
    s->state = IN_VALUE;
}

static bool step_keys(const struct taking *t) {
    struct tools_stream *s = t->s;
    struct tools_head h;
    size_t n;
    char typed;
    const char *p = rest_behind_white(s, &n);
    if (n == 0) {
        return false;
    }
    enum tools_match close = tools_match(p, n, s->row->close, t->all);
    enum tools_match key = tools_match_key(s->row, p, n, t->all, &h, &typed);
    if (close != TOOLS_YES && (close == TOOLS_MORE || key == TOOLS_MORE)) {
        return false;
    }
    if (key == TOOLS_YES) {
        s->at += h.bytes;
        begin_value(t, &h, typed);
    } else {
        tell_text(t, s->n_keys ? "}" : "{}");
        end_call(t, BEHIND, true);
    }
    return true;
}

/* A value that was written without quotes: as JSON where it is such, of a type that is asked for;
 * else it is a string. */
static void tell_value(const struct taking *t) {
    struct tools_stream *s = t->s;
    static const struct {
        const char *python, *json;
    } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    const char *text = s->value.len ? s->value.data : "";
    size_t n = s->value.len, from = tools_skip_white(text, n, 0), to = n;
    while (to > from && tools_is_white(text[to - 1])) {
        to--;
    }
    const char *json = text + from;
    size_t bytes = to - from;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].python) == bytes && !memcmp(words[i].python, json, bytes)) {
            json = words[i].json;
            bytes = strlen(json);
        }
    }
    struct value_arena arena = {.limit_bytes = 256 * bytes + (1 << 16)};
    struct value v;
    struct err err = {0};
    bool reads = value_json_read(&arena, json, bytes, &v, &err) == 0 && tools_allows(s->schema, &v);
    if (reads) {
        tell(t, json, bytes);
    } else {
        tell_text(t, "\"");
        tell_escaped(t, text, n);
        tell_text(t, "\"");
    }
    value_arena_free(&arena);
}

static void take_value(const struct taking *t, const char *p, size_t bytes) {
    struct tools_stream *s = t->s;
    if (s->string) {
        tell_escaped(t, p, bytes);
    } else {
        buf_append(&s->value, p, bytes);
    }
    s->at += bytes;
}

static bool step_value(const struct taking *t) {
    struct tools_stream *s = t->s;
    const char *close = s->row->value_close;
    size_t n, k = strlen(close), line = s->row->lines ? 1 : 0;
    const char *p = rest(s, &n);
    if (n == 0) {
        return false;
    }
    if (!s->begun && line && p[0] == '\n') {
        s->at++;
        s->begun = true;
        return true;
    }
    s->begun = true;
    const char *end = memmem(p, n, close, k);
    if (end) {
        size_t all = (size_t)(end - p), bytes = all - (line && all > 0 && end[-1] == '\n');
        take_value(t, p, bytes);
        s->at += all - bytes + k;
        if (s->string) {
            tell_text(t, "\"");
        } else {
            tell_value(t);
        }
        s->state = IN_KEYS;
        return true;
    }
    size_t held = k - 1 + line; /* the beginning of what closes it may have come */
    if (n <= held || t->all) {
        return false;
    }
    size_t sure = n - held;
    while (sure > 0 && ((uint8_t)p[sure] & 0xc0) == 0x80) {
        sure--; /* no character is cut */
    }
    take_value(t, p, sure);
    return sure > 0;
}

/* ---- behind a call ---- */

static bool step_behind(const struct taking *t) {
    struct tools_stream *s = t->s;
    const struct tools_row *row = s->row;
    size_t n;
    const char *p = rest_behind_white(s, &n);
    if (n == 0) {
        return false;
    }
    const char *const words[] = {row->close, row->after};
    for (size_t i = 0; i < 2; i++) {
        enum tools_match m = tools_match(p, n, words[i], t->all);
        if (m == TOOLS_MORE) {
            return false;
        }
        if (m == TOOLS_YES) {
            s->at += strlen(words[i]);
            return true;
        }
    }
    if (s->listed && p[0] == ']') {
        s->listed = false;
        s->at++;
        return true;
    }
    if (row->list && (p[0] == ',' || p[0] == ';' || p[0] == '{')) {
        struct tools_head h;
        size_t at = p[0] == '{' ? 0 : tools_skip_white(p, n, 1);
        enum tools_match m = tools_match_head(row, s->tools, p + at, n - at, true, t->all, &h);
        if (m == TOOLS_MORE) {
            return false;
        }
        if (m == TOOLS_YES) {
            s->at += at;
            begin_call(t, &h);
            return true;
        }
    }
    s->state = IN_TEXT;
    return true;
}

/* ---- the stream ---- */

static void take(struct tools_stream *s, bool all, const struct tools_sink *sink) {
    static bool (*const steps[])(const struct taking *t) = {
        [IN_TEXT] = step_text, [IN_JSON] = step_json,   [IN_TAIL] = step_tail,
        [IN_KEYS] = step_keys, [IN_VALUE] = step_value, [BEHIND] = step_behind,
    };
    const struct taking t = {.s = s, .sink = sink, .all = all};
    buf_append(&s->pending, "", 0);
    while (steps[s->state](&t)) {
    }
    memmove(s->pending.data, s->pending.data + s->at, s->pending.len - s->at);
    s->pending.len -= s->at;
    s->at = 0;
}

void tools_push(struct tools_stream *s, const char *text, size_t bytes,
                const struct tools_sink *sink) {
    if (bytes > 0) {
        buf_append(&s->pending, text, bytes);
        take(s, false, sink);
    }
}

void tools_end(struct tools_stream *s, const struct tools_sink *sink) {
    const struct taking t = {.s = s, .sink = sink, .all = true};
    take(s, true, sink);
    if (s->state == IN_KEYS) { /* only what closes the call is missing */
        tell_text(&t, s->n_keys ? "}" : "{}");
        end_call(&t, BEHIND, true);
    } else if (s->state == IN_JSON || s->state == IN_VALUE) {
        if (s->state == IN_VALUE && s->string) {
            tell_escaped(&t, s->pending.data, s->pending.len);
        }
        end_call(&t, BEHIND, false);
    } else if (s->white.len > 0 && s->n_calls == 0) {
        sink->text(sink->ctx, s->white.data, s->white.len);
    }
    tools_free(s);
}
