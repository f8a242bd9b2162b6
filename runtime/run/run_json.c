/*
 * run_json: see run_json.h.
 */
#include "runtime/run/run_json.h"
#include "format/number.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void begin_value(struct run_json *j, const char *key) {
    if (j->comma) {
        buf_append(&j->text, ", ", 2);
    }
    j->comma = true;
    if (key) {
        buf_printf(&j->text, "\"%s\": ", key);
    }
}

void run_json_open(struct run_json *j, const char *key, char bracket) {
    begin_value(j, key);
    buf_append(&j->text, &bracket, 1);
    j->comma = false;
}

void run_json_close(struct run_json *j, char bracket) {
    buf_append(&j->text, &bracket, 1);
    j->comma = true;
}

void run_json_text(struct run_json *j, const char *key, const char *text, size_t bytes) {
    begin_value(j, key);
    struct buf *out = &j->text;
    buf_append(out, "\"", 1);
    for (size_t i = 0, n; i < bytes; i += n) {
        enum text_kind kind = text_next(text + i, bytes - i, &n);
        if (kind == TEXT_MALFORMED) {
            buf_append(out, "\xef\xbf\xbd", 3);
        } else if (text[i] == '"' || text[i] == '\\') {
            char escaped[] = {'\\', text[i]};
            buf_append(out, escaped, 2);
        } else if (text[i] == '\n') {
            buf_append(out, "\\n", 2);
        } else if (kind == TEXT_CONTROL) {
            /* The last byte of these is the code point, of C1 too. */
            buf_printf(out, "\\u%04x", (uint8_t)text[i + n - 1]);
        } else {
            buf_append(out, text + i, n);
        }
    }
    buf_append(out, "\"", 1);
}

void run_json_raw(struct run_json *j, const char *key, const char *json, size_t bytes) {
    begin_value(j, key);
    buf_append(&j->text, json, bytes);
}

void run_json_string(struct run_json *j, const char *key, const char *text) {
    run_json_text(j, key, text, strlen(text));
}

void run_json_u64(struct run_json *j, const char *key, uint64_t value) {
    begin_value(j, key);
    buf_printf(&j->text, "%" PRIu64, value);
}

static void put_f64(struct run_json *j, double value) {
    if (isfinite(value)) {
        buf_printf(&j->text, "%.9g", value);
    } else {
        buf_append(&j->text, "null", 4);
    }
}

void run_json_f64(struct run_json *j, const char *key, double value) {
    begin_value(j, key);
    put_f64(j, value);
}

void run_json_member(struct run_json *j, const char *key_json, double value) {
    begin_value(j, NULL);
    buf_printf(&j->text, "%s: ", key_json);
    put_f64(j, value);
}

void run_json_f32(struct run_json *j, const char *key, float value) {
    char text[NUMBER_TEXT] = "null";
    if (isfinite(value)) {
        number_shortest_f32(text, value);
    }
    begin_value(j, key);
    buf_append(&j->text, text, strlen(text));
}

void run_json_bool(struct run_json *j, const char *key, bool value) {
    begin_value(j, key);
    buf_printf(&j->text, "%s", value ? "true" : "false");
}

void run_json_i64(struct run_json *j, const char *key, int64_t value) {
    begin_value(j, key);
    buf_printf(&j->text, "%" PRId64, value);
}

void run_json_null(struct run_json *j, const char *key) {
    begin_value(j, key);
    buf_append(&j->text, "null", 4);
}
