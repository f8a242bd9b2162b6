#include "format/text/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/template_internal.h"

enum { COMPILE_BYTES = 128 << 20 }; /* of nodes: some hundred bytes for a character at worst */

const struct template_limits template_usual_limits = {
    .bytes = 64 << 20, .steps = 20 * 1000 * 1000, .depth = 400};

/* ---- errors -------------------------------------------------------------------------------- */

static int fail_at(const struct template *t, size_t pos, struct err *err, const char *fmt,
                   va_list args) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < pos && i < t->source->len; i++) {
        column += ((unsigned char)t->source->data[i] & 0xc0) != 0x80;
        if (t->source->data[i] == '\n') {
            line++;
            column = 1;
        }
    }
    char what[900];
    vsnprintf(what, sizeof what, fmt, args);
    return err_set(err, "line %zu, column %zu: %s", line, column, what);
}

int template_fail_at(const struct template *t, size_t pos, struct err *err, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_at(t, pos, err, fmt, args);
    va_end(args);
    return -1;
}

int template_fail(struct template_run *run, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_at(run->t, run->at ? run->at->pos : 0, run->err, fmt, args);
    va_end(args);
    return -1;
}

int template_no_memory(struct template_run *run) {
    return template_fail(run,
                         "values take more than the %zu bytes allowed, or are nested more than "
                         "%d deep",
                         run->limits.bytes, VALUE_MAX_DEPTH);
}

int template_spend(struct template_run *run, uint64_t n) {
    if (n > run->steps) {
        return template_fail(run, "rendering takes more than the %llu steps allowed",
                             (unsigned long long)run->limits.steps);
    }
    run->steps -= n;
    return 0;
}

int template_spend_on(struct template_run *run, const struct value *v) {
    return template_spend(run, value_weight(v));
}

int template_enter(struct template_run *run) {
    if (run->depth >= run->limits.depth) {
        return template_fail(run, "nested more than %u deep", run->limits.depth);
    }
    run->depth++;
    return 0;
}

void template_leave(struct template_run *run) {
    run->depth--;
}

struct value template_undefined(uint8_t why, const struct value_string *text) {
    return (struct value){.type = VALUE_UNDEFINED, .detail = why, .text = text};
}

int template_undefined_hint(struct template_run *run, const char *hint, struct value *out) {
    const struct value_string *text = value_string_new(&run->arena, hint, strlen(hint));
    *out = template_undefined(UNDEFINED_HINT, text);
    return text ? 0 : template_no_memory(run);
}

int template_fail_undefined(struct template_run *run, const struct value *v) {
    static const char *const texts[] = {
        [UNDEFINED_NAME] = "'%s' is undefined",
        [UNDEFINED_ATTR] = "there is no attribute or element '%s'",
        [UNDEFINED_HINT] = "%s",
        [UNDEFINED_UNSAFE] =
            "attribute '%s' is refused: a template neither changes values nor looks into them",
    };
    const char *name = v->text ? v->text->data : "";
    switch (v->detail) {
    case UNDEFINED_NAME:
        return template_fail(run, texts[UNDEFINED_NAME], name);
    case UNDEFINED_ATTR:
        return template_fail(run, texts[UNDEFINED_ATTR], name);
    case UNDEFINED_UNSAFE:
        return template_fail(run, texts[UNDEFINED_UNSAFE], name);
    default:
        return template_fail(run, texts[UNDEFINED_HINT], name);
    }
}

int template_need_defined(struct template_run *run, const struct value *v) {
    return v->type == VALUE_UNDEFINED ? template_fail_undefined(run, v) : 0;
}

/* ---- text ---------------------------------------------------------------------------------- */

int template_string(struct template_run *run, const char *data, size_t len, struct value *out) {
    if (template_spend(run, len / 64) || value_make_string(&run->arena, data, len, out)) {
        return template_no_memory(run);
    }
    return 0;
}

int template_list(struct template_run *run, enum value_type type, const struct value *items,
                  size_t n, struct value *out) {
    if (template_spend(run, n / 4) || value_make_list(&run->arena, type, items, n, out)) {
        return template_no_memory(run);
    }
    return 0;
}

int template_scratch(struct template_run *run, const void *bytes, size_t n) {
    if (run->scratch.len > run->limits.bytes || n > run->limits.bytes - run->scratch.len) {
        return template_no_memory(run);
    }
    buf_append(&run->scratch, bytes, n);
    return 0;
}

static int cut(struct template_run *run, struct buf *b, size_t begin, struct value *out) {
    int rc = template_string(run, b->data ? b->data + begin : "", b->len - begin, out);
    b->len = begin;
    return rc;
}

int template_from_scratch(struct template_run *run, size_t begin, struct value *out) {
    return cut(run, &run->scratch, begin, out);
}

int template_captured(struct template_run *run, size_t begin, struct value *out) {
    return cut(run, &run->out, begin, out);
}

static int write_to(struct template_run *run, struct buf *b, const struct value *v) {
    struct value_writer w = {.out = b, .max_bytes = run->limits.bytes};
    struct err err = {0};
    size_t before = b->len;
    if (value_write(&w, v, false, &err)) {
        return template_fail(run, "%s", err.msg);
    }
    return template_spend(run, (b->len - before) / 64);
}

int template_emit(struct template_run *run, const struct value *v) {
    return write_to(run, &run->out, v);
}

int template_text_of(struct template_run *run, const struct value *v, struct value *out) {
    size_t begin = run->scratch.len;
    if (v->type == VALUE_STRING) {
        *out = *v;
        return 0;
    }
    return write_to(run, &run->scratch, v) ? -1 : template_from_scratch(run, begin, out);
}

/* ---- compiling ------------------------------------------------------------------------------ */

/* Makes \r\n and \r newlines, and leaves out one at the end. */
static int normalize(struct template *t, const char *text, size_t len, struct err *err) {
    char *copy = mem_alloc(len + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            copy[n++] = '\n';
            i += i + 1 < len && text[i + 1] == '\n';
        } else {
            copy[n++] = text[i];
        }
    }
    n -= n && copy[n - 1] == '\n';
    t->source = value_string_new(&t->arena, copy, n);
    free(copy);
    return t->source ? 0 : err_set(err, TEMPLATE_NO_MEMORY);
}

int template_compile(struct template **out, const char *text, size_t len, struct err *err) {
    struct template *t = mem_calloc(1, sizeof *t);
    size_t bad;
    *out = NULL;
    t->arena.limit_bytes = COMPILE_BYTES;
    if (len > TEMPLATE_MAX_BYTES) {
        err_set(err, "the template is longer than %d bytes", TEMPLATE_MAX_BYTES);
        goto fail;
    }
    if (!value_utf8_check(text, len, &bad)) {
        err_set(err, "byte %zu of the template is not UTF-8", bad);
        goto fail;
    }
    if (normalize(t, text, len, err)) {
        goto fail;
    }
    if (value_make_dict(&t->arena, &t->names)) {
        err_set(err, TEMPLATE_NO_MEMORY);
        goto fail;
    }
    if (template_parse(t, err) || template_settle_names(t, err)) {
        goto fail;
    }
    *out = t;
    return 0;
fail:
    template_free(t);
    return -1;
}

void template_note_literal(struct template_parser *p, const struct value *text) {
    buf_append(&p->t->literals, text->text->data, text->text->len + 1); /* and its NUL */
}

const char *template_literals(const struct template *t, size_t *len) {
    *len = t->literals.len;
    return *len ? t->literals.data : "";
}

void template_free(struct template *t) {
    if (t) {
        value_arena_free(&t->arena);
        free(t->name_of);
        buf_free(&t->literals);
        free(t);
    }
}

/* ---- rendering ------------------------------------------------------------------------------ */

int template_render(const struct template *t, const struct value *context,
                    const struct template_limits *limits, const struct tm *now, char **out,
                    size_t *out_len, struct err *err) {
    struct template_run run = {.t = t,
                               .limits = *limits,
                               .steps = limits->steps,
                               .context = context,
                               .now = now,
                               .at = t->body,
                               .err = err};
    int rc = -1;
    run.arena.limit_bytes = limits->bytes;
    *out = NULL;
    *out_len = 0;
    run.scope = template_scope_new(&run, NULL);
    if (!run.scope || template_exec_scope(&run, run.scope, t->body)) {
        goto out;
    }
    buf_append(&run.out, "", 0);
    *out = run.out.data ? run.out.data : mem_strdup("");
    *out_len = run.out.len;
    run.out = (struct buf){0};
    rc = 0;
out:
    value_arena_free(&run.arena);
    buf_free(&run.out);
    buf_free(&run.scratch);
    return rc;
}
