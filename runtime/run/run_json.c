/*
 * run_json: see run_json.h.
 */
#include "runtime/run/run_json.h"

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

/* The bytes of the UTF-8 character that s[0..n) begins with, 0 where it begins with none (RFC 3629,
 * section 4). */
static size_t utf8_bytes(const uint8_t *s, size_t n) {
    uint8_t c = s[0];
    size_t len = c < 0x80                ? 1
                 : c >= 0xc2 && c < 0xe0 ? 2
                 : (c & 0xf0) == 0xe0    ? 3
                 : c >= 0xf0 && c < 0xf5 ? 4
                                         : 0;
    if (len == 0 || len > n) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool bad = (c == 0xe0 && s[1] < 0xa0) ||
               (c == 0xed && s[1] >= 0xa0) ||                             /* overlong, surrogate */
               (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] >= 0x90); /* overlong, too great */
    return bad ? 0 : len;
}

void run_json_text(struct run_json *j, const char *key, const char *text, size_t bytes) {
    begin_value(j, key);
    struct buf *out = &j->text;
    buf_append(out, "\"", 1);
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0; i < bytes;) {
        size_t len = utf8_bytes(s + i, bytes - i);
        if (len == 0) {
            buf_append(out, "\xef\xbf\xbd", 3);
            len = 1;
        } else if (s[i] == '"' || s[i] == '\\') {
            char escaped[] = {'\\', (char)s[i]};
            buf_append(out, escaped, 2);
        } else if (s[i] == '\n') {
            buf_append(out, "\\n", 2);
        } else if (s[i] < 0x20 || s[i] == 0x7f) {
            buf_printf(out, "\\u%04x", s[i]);
        } else {
            buf_append(out, s + i, len);
        }
        i += len;
    }
    buf_append(out, "\"", 1);
}

void run_json_string(struct run_json *j, const char *key, const char *text) {
    run_json_text(j, key, text, strlen(text));
}

void run_json_u64(struct run_json *j, const char *key, uint64_t value) {
    begin_value(j, key);
    buf_printf(&j->text, "%" PRIu64, value);
}

void run_json_f64(struct run_json *j, const char *key, double value) {
    begin_value(j, key);
    if (isfinite(value)) {
        buf_printf(&j->text, "%.9g", value);
    } else {
        buf_append(&j->text, "null", 4);
    }
}

void run_json_f32(struct run_json *j, const char *key, float value) {
    char text[32] = "null";
    for (int digits = 1; isfinite(value) && digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == value) {
            break;
        }
    }
    begin_value(j, key);
    buf_append(&j->text, text, strlen(text));
}

void run_json_bool(struct run_json *j, const char *key, bool value) {
    begin_value(j, key);
    buf_printf(&j->text, "%s", value ? "true" : "false");
}
