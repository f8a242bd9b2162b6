/* Typed access to tokenizer JSON; see the header. One thread. */
#include "prep/hf/hf_tokenizer_json.h"

#include <stdio.h>
#include <string.h>

#include "prep/hf/remark.h"

json_t *place_parse(const struct hf_text *file, struct place *root, struct err *err) {
    json_error_t e;
    json_t *json = json_loadb(file->data, file->bytes, JSON_ALLOW_NUL, &e);
    *root = (struct place){.value = json, .err = err};
    snprintf(root->path, sizeof root->path, "%s:", file->name);
    if (!json) {
        err_set(err, "%s: not valid JSON: line %d, column %d: %s", file->name, e.line, e.column,
                e.text);
        return NULL;
    }
    if (!json_is_object(json)) {
        place_error(root, "expected a JSON object");
        json_decref(json);
        return NULL;
    }
    return json;
}

static struct place child(const struct place *at, const json_t *value, const char *step) {
    struct place p = {.value = json_is_null(value) ? NULL : value, .err = at->err};
    size_t n = strlen(at->path);
    bool top = n && at->path[n - 1] == ':';
    int len = snprintf(p.path, sizeof p.path, "%s%s%s", at->path,
                       top            ? " "
                       : *step == '[' ? ""
                                      : ".",
                       step);
    if (len >= (int)sizeof p.path) { /* a name from the file, of any length */
        memcpy(p.path + sizeof p.path - 4, "...", 4);
    }
    return p;
}

struct place place_get(const struct place *at, const char *key) {
    return child(at, json_object_get(at->value, key), key);
}

struct place place_item(const struct place *at, size_t i) {
    char step[32];
    snprintf(step, sizeof step, "[%zu]", i);
    return child(at, json_array_get(at->value, i), step);
}

/* What stands between the name of a place and what is said of it. */
static const char *separator(const struct place *at) {
    size_t n = strlen(at->path);
    return n && at->path[n - 1] == ':' ? " " : ": ";
}

void place_remark(const struct place *at, const struct hf_tokenizer_files *files, const char *fmt,
                  ...) {
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    remark_add(files->remarks, "%s%s%s%s%s", files->dir ? files->dir : "", files->dir ? "/" : "",
               at->path, separator(at), text);
}

int place_error(const struct place *at, const char *fmt, ...) {
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(at->err, "%s%s%s", at->path, separator(at), text);
}

int place_bool(const struct place *at, const char *key, bool optional, bool *out) {
    struct place p = place_get(at, key);
    if (!p.value && optional) {
        return 0;
    }
    if (!json_is_boolean(p.value)) {
        return place_error(&p, "expected true or false");
    }
    *out = json_is_true(p.value);
    return 0;
}

int place_uint(const struct place *at, const char *key, uint32_t max, uint32_t *out) {
    struct place p = place_get(at, key);
    if (!json_is_integer(p.value) || json_integer_value(p.value) < 0 ||
        json_integer_value(p.value) > (json_int_t)max) {
        return place_error(&p, "expected an integer from 0 to %u", max);
    }
    *out = (uint32_t)json_integer_value(p.value);
    return 0;
}

int place_string(const struct place *at, const char *key, bool optional, const char **text,
                 size_t *bytes) {
    struct place p = place_get(at, key);
    if (!p.value && optional) {
        return 0;
    }
    if (!json_is_string(p.value)) {
        return place_error(&p, "expected a string");
    }
    *text = json_string_value(p.value);
    *bytes = json_string_length(p.value);
    return 0;
}
