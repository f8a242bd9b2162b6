/* How a call of a tool begins; see tools_internal.h. */
#include <string.h>

#include "format/text/tools_internal.h"

enum { MOST_NAME = 256, MOST_BETWEEN = 256 /* what may stand between a name and what ends it */ };

size_t tools_skip_white(const char *p, size_t n, size_t i) {
    while (i < n && tools_is_white(p[i])) {
        i++;
    }
    return i;
}

enum tools_match tools_match(const char *p, size_t n, const char *word, bool all) {
    size_t k = word ? strlen(word) : 0;
    if (!word || memcmp(p, word, n < k ? n : k) != 0) {
        return TOOLS_NO;
    }
    return n >= k ? TOOLS_YES : all ? TOOLS_NO : TOOLS_MORE;
}

/* Where more would be needed, and none will come, there is no call. */
static enum tools_match more(bool all) {
    return all ? TOOLS_NO : TOOLS_MORE;
}

/* ---- JSON ---- */

/* The end of a string whose quote is at i: behind the closing one; 0: it is not there yet. */
static size_t string_end(const char *p, size_t n, size_t i) {
    for (i++; i < n; i++) {
        if (p[i] == '\\') {
            i++;
        } else if (p[i] == '"') {
            return i + 1;
        }
    }
    return 0;
}

/* The end of the value at i, or 0. */
static size_t value_end(const char *p, size_t n, size_t i) {
    unsigned depth = 0;
    for (; i < n; i++) {
        if (p[i] == '"') {
            size_t end = string_end(p, n, i);
            if (!end) {
                return 0;
            }
            i = end - 1;
        } else if (p[i] == '{' || p[i] == '[') {
            depth++;
        } else if (p[i] == '}' || p[i] == ']' || p[i] == ',') {
            if (depth == 0) {
                return i; /* the end of a number or a word */
            }
            depth -= p[i] != ',';
        } else {
            continue;
        }
        if (depth == 0) {
            return i + 1;
        }
    }
    return 0;
}

static bool is_key(const char *key, size_t n, const char *name) {
    return strlen(name) == n && !memcmp(key, name, n);
}

/* The members of an object, from behind its bracket at i: until name and arguments are found. */
static enum tools_match match_object(const char *p, size_t n, size_t i, bool all,
                                     struct tools_head *h) {
    h->objects = 1;
    for (;;) {
        i = tools_skip_white(p, n, i);
        if (i < n && p[i] == ',') {
            i = tools_skip_white(p, n, i + 1);
        }
        if (i == n) {
            return more(all);
        }
        if (p[i] == '}' && h->name) {
            h->none = h->from == h->to;
            h->bytes = i;
            return TOOLS_YES;
        }
        size_t key = i + 1, end = p[i] == '"' ? string_end(p, n, i) : 0;
        if (!end) {
            return p[i] == '"' ? more(all) : TOOLS_NO;
        }
        size_t key_bytes = end - 1 - key;
        i = tools_skip_white(p, n, end);
        if (i < n && p[i] != ':') {
            return TOOLS_NO;
        }
        i = i < n ? tools_skip_white(p, n, i + 1) : n;
        if (i == n) {
            return more(all);
        }
        bool arguments =
            is_key(p + key, key_bytes, "arguments") || is_key(p + key, key_bytes, "parameters");
        bool function = is_key(p + key, key_bytes, "function");
        if (arguments && h->name) {
            h->bytes = i;
            return TOOLS_YES;
        }
        if (function && p[i] == '{' && h->objects == 1) {
            h->objects++;
            i++;
            continue;
        }
        if (!(end = value_end(p, n, i))) {
            return more(all);
        }
        if (arguments) {
            h->from = i;
            h->to = end;
        } else if ((is_key(p + key, key_bytes, "name") || function) && p[i] == '"') {
            h->name = p + i + 1;
            h->name_bytes = end - 2 - i;
            if (h->from < h->to) {
                h->bytes = end;
                return TOOLS_YES;
            }
        }
        i = end;
    }
}

/* ---- names ---- */

static bool in_name(char c) {
    return !tools_is_white(c) && !strchr("<>[]{}()\"'`,=", c);
}

static bool in_key(char c) {
    return c != '"' && c != '<' && c != '>';
}

/* A name at i of such characters, and what ends it; what stands between is passed over. The place
 * behind both. */
static enum tools_match match_name(const char *p, size_t n, size_t i, bool (*in)(char),
                                   const char *end, bool all, struct tools_head *h,
                                   size_t *behind) {
    size_t from = i;
    while (i < n && i - from < MOST_NAME && in(p[i])) {
        i++;
    }
    if (i == n) {
        return more(all);
    }
    if (i == from || i - from == MOST_NAME) {
        return TOOLS_NO;
    }
    h->name = p + from;
    h->name_bytes = i - from;
    if (!end) {
        *behind = i;
        return TOOLS_YES;
    }
    size_t k = strlen(end), room = n - i < MOST_BETWEEN + k ? n - i : MOST_BETWEEN + k;
    const char *found = memmem(p + i, room, end, k);
    if (!found) {
        return room < MOST_BETWEEN + k ? more(all) : TOOLS_NO;
    }
    *behind = (size_t)(found - p) + k;
    return TOOLS_YES;
}

/* Without ':' and a number behind it. */
static void cut_number(struct tools_head *h) {
    size_t n = h->name_bytes;
    while (n > 0 && h->name[n - 1] >= '0' && h->name[n - 1] <= '9') {
        n--;
    }
    if (n > 1 && n < h->name_bytes && h->name[n - 1] == ':') {
        h->name_bytes = n - 1;
    }
}

/* `open`, perhaps behind `before`: the place behind both. */
static enum tools_match match_open(const struct tools_row *row, const char *p, size_t n, bool all,
                                   size_t *behind) {
    enum tools_match before = tools_match(p, n, row->before, all);
    size_t i = 0;
    if (before == TOOLS_MORE) {
        return before;
    }
    if (before == TOOLS_YES) {
        i = tools_skip_white(p, n, strlen(row->before));
        if (i == n) {
            return more(all);
        }
    }
    *behind = i + (row->open ? strlen(row->open) : 0);
    return row->open ? tools_match(p + i, n - i, row->open, all) : TOOLS_YES;
}

enum tools_match tools_match_head(const struct tools_row *row, const struct value *tools,
                                  const char *p, size_t n, bool inside, bool all,
                                  struct tools_head *h) {
    size_t i = 0;
    *h = (struct tools_head){0};
    enum tools_match m = inside ? TOOLS_YES : match_open(row, p, n, all, &i);
    if (m != TOOLS_YES) {
        return m;
    }
    if (row->kind != TOOLS_JSON) {
        i = row->kind == TOOLS_NAMED ? i : tools_skip_white(p, n, i);
        m = match_name(p, n, i, in_name, row->name_end, all, h, &h->bytes);
        if (m != TOOLS_YES || row->kind == TOOLS_TAGGED) {
            return m;
        }
        if (row->numbered) {
            cut_number(h);
        }
        h->bytes = tools_skip_white(p, n, h->bytes);
        return h->bytes == n ? more(all) : p[h->bytes] == '{' ? TOOLS_YES : TOOLS_NO;
    }
    i = tools_skip_white(p, n, i);
    if (!inside && row->list && i < n && p[i] == '[') {
        h->listed = true;
        i = tools_skip_white(p, n, i + 1);
    }
    if (i == n) {
        return more(all);
    }
    m = p[i] == '{' ? match_object(p, n, i + 1, all, h) : TOOLS_NO;
    return m == TOOLS_YES && row->at_start && !tools_function(tools, h->name, h->name_bytes)
               ? TOOLS_NO
               : m;
}

enum tools_match tools_match_key(const struct tools_row *row, const char *p, size_t n, bool all,
                                 struct tools_head *h, char *typed) {
    *h = (struct tools_head){0};
    *typed = 0;
    enum tools_match m = tools_match(p, n, row->key_open, all);
    size_t i = 0;
    if (m == TOOLS_YES) {
        m = match_name(p, n, strlen(row->key_open), in_key, row->key_end, all, h, &i);
    }
    if (m != TOOLS_YES) {
        return m;
    }
    const char *type = h->name + h->name_bytes;
    size_t between = (size_t)(p + i - type) - strlen(row->key_end);
    *typed = memmem(type, between, "string=\"true\"", 13)    ? 's'
             : memmem(type, between, "string=\"false\"", 14) ? 'j'
                                                             : 0;
    if (row->value_open) {
        i = tools_skip_white(p, n, i);
        m = tools_match(p + i, n - i, row->value_open, all);
        i += strlen(row->value_open);
    }
    h->bytes = i;
    return m;
}
