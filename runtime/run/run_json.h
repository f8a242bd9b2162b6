/*
 * run_json: writes JSON text: the figures that corm-run prints, what corm-serve answers.
 *
 * Owns: commas, escapes, numbers. Text that is no UTF-8 gets U+FFFD for each bad byte; numbers that
 * JSON cannot express (NaN, infinities) become null.
 * Leaves to others: reading JSON (nobody in corm-run does), what is said.
 * Threads: one object belongs to one thread at a time.
 *
 * A key is NULL inside a list and for the outermost value; keys are plain ASCII.
 */
#ifndef RUNTIME_RUN_RUN_JSON_H
#define RUNTIME_RUN_RUN_JSON_H

#include <stdint.h>

#include "format/base.h"

/* Zero-initialise; free with buf_free(&j->text). */
struct run_json {
    struct buf text;
    bool comma; /* the next value needs a comma before it */
};

/* `bracket` is '{' or '['; close with the matching one. */
void run_json_open(struct run_json *j, const char *key, char bracket);
void run_json_close(struct run_json *j, char bracket);
void run_json_text(struct run_json *j, const char *key, const char *text, size_t bytes);
void run_json_string(struct run_json *j, const char *key, const char *text);
void run_json_u64(struct run_json *j, const char *key, uint64_t value);
void run_json_f64(struct run_json *j, const char *key, double value);
/* Written with as few digits as give the same float again: 0.95, not 0.949999988. */
void run_json_f32(struct run_json *j, const char *key, float value);
void run_json_bool(struct run_json *j, const char *key, bool value);
void run_json_i64(struct run_json *j, const char *key, int64_t value);
/* JSON text, as it is. */
void run_json_raw(struct run_json *j, const char *key, const char *json, size_t bytes);
void run_json_null(struct run_json *j, const char *key);
/* A number whose key is any text: `key_json` is that text as JSON, quotes and all. */
void run_json_member(struct run_json *j, const char *key_json, double value);

#endif
