/*
 * fields: see fields.h.
 */
#include "runtime/serve/fields.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int problem_set(struct problem *p, unsigned status, const char *code, const char *param,
                const char *format, ...) {
    if (p->status) {
        return -1;
    }
    va_list args;
    p->status = status;
    p->code = code;
    snprintf(p->param, sizeof p->param, "%s", param ? param : "");
    va_start(args, format);
    vsnprintf(p->message, sizeof p->message, format, args);
    va_end(args);
    return -1;
}

const struct value *field_get(const struct value_dict *dict, const char *name) {
    const struct value *v = value_dict_get_text(dict, name, strlen(name));
    return v && v->type != VALUE_NONE ? v : NULL;
}

int field_set(struct value_arena *arena, struct value *dict, const char *name,
              const struct value *v) {
    return value_dict_set_text(arena, dict->dict, name, strlen(name), v);
}

int field_set_text(struct value_arena *arena, struct value *dict, const char *name,
                   const char *text, size_t bytes) {
    struct value v;
    return value_make_string(arena, text, bytes, &v) || field_set(arena, dict, name, &v) ? -1 : 0;
}

static int bad(struct problem *p, const char *name, const char *expected, const struct value *v) {
    return problem_set(p, 400, "invalid_type", name, "%s: expected %s, got %s", name, expected,
                       value_type_name(v));
}

static int read_number(const struct field *f, const struct value *v, void *at, struct problem *p) {
    bool whole = f->kind != FIELD_FLOAT;
    bool is_number = v->type == VALUE_INT || v->type == VALUE_FLOAT || v->type == VALUE_BIGINT;
    if (!is_number) {
        return bad(p, f->name, whole ? "an integer" : "a number", v);
    }
    double d = value_to_double(v);
    if (!isfinite(d) || (whole && d != floor(d))) {
        return bad(p, f->name, whole ? "an integer" : "a finite number", v);
    }
    if (f->min < f->max && (d < f->min || d > f->max)) {
        return problem_set(p, 400, "invalid_value", f->name, "%s: expected %g to %g, got %g",
                           f->name, f->min, f->max, d);
    }
    if (f->kind == FIELD_FLOAT) {
        *(float *)at = (float)d;
    } else if (f->kind == FIELD_U32) {
        *(uint32_t *)at = d < 0 || d >= UINT32_MAX ? UINT32_MAX : (uint32_t)d;
    } else {
        /* A number beyond 64 bits is as good as the greatest one. */
        *(int64_t *)at = v->type == VALUE_INT ? v->integer
                         : d >= 0x1p63        ? INT64_MAX
                         : d < -0x1p63        ? INT64_MIN
                                              : (int64_t)d;
    }
    return 0;
}

static int read_field(const struct field *f, const struct value *v, void *at, struct problem *p) {
    switch (f->kind) {
    case FIELD_BOOL:
        if (v->type != VALUE_BOOL) {
            return bad(p, f->name, "true or false", v);
        }
        *(bool *)at = v->boolean;
        return 0;
    case FIELD_TEXT:
        if (v->type != VALUE_STRING) {
            return bad(p, f->name, "a string", v);
        }
        *(const struct value_string **)at = v->text;
        return 0;
    default:
        return read_number(f, v, at, p);
    }
}

int fields_read(const struct value_dict *dict, const struct field *table, void *into,
                struct problem *problem) {
    for (const struct field *f = table; f->name; f++) {
        const struct value *v = field_get(dict, f->name);
        if (v && read_field(f, v, (char *)into + f->offset, problem) < 0) {
            return -1;
        }
    }
    return 0;
}

int fields_refuse(const struct value_dict *dict, const char *const *names,
                  struct problem *problem) {
    for (; *names; names++) {
        const struct value *v = field_get(dict, *names);
        if (v && value_truth(v)) {
            return problem_set(problem, 400, "unsupported_parameter", *names,
                               "%s: not supported by this server", *names);
        }
    }
    return 0;
}
