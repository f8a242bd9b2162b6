/* Compiling and running patterns with PCRE2; see the header. The dialect is translated in
 * tokenizer_dialect.c. */
#include "format/text/tokenizer_regex.h"

#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "format/text/tokenizer_file.h"
#include "format/text/tokenizer_text.h"

enum {
    JIT_STACK_MIN_BYTES = 32 << 10,
    JIT_STACK_MAX_BYTES = 16 << 20,
    HEAP_LIMIT_KIB = 256 << 10,
    /* Steps that one search may take: enough for the honest patterns, which look at each
     * character a few times, and short enough that a pattern made to backtrack for ever ends in
     * a second. */
    MATCH_LIMIT_BASE = 1000000,
    MATCH_LIMIT_PER_BYTE = 64
};

struct regex {
    pcre2_code *code;
};

struct regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL until a match outgrows the machine stack's share */
};

struct regex *regex_compile(const char *pattern, size_t bytes, struct err *err) {
    struct buf translated = {0};
    struct regex *re = NULL;
    pcre2_compile_context *context = NULL;
    if (bytes > TOK_MAX_PATTERN) {
        err_set(err, "pattern of %zu bytes; at most %d are supported", bytes, TOK_MAX_PATTERN);
        goto out;
    }
    if (regex_translate(pattern, bytes, &translated, err) < 0) {
        goto out;
    }
    context = pcre2_compile_context_create(NULL);
    if (!context) {
        die("out of memory");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE at = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK |
                       PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)(translated.len ? translated.data : ""),
                                         translated.len, options, &code, &at, context);
    if (!compiled) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, "pattern is not supported: %s", (const char *)text);
        goto out;
    }
    /* No JIT on this machine or for this pattern: the interpreter runs it, slower, with the same
     * result. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    re = mem_calloc(1, sizeof *re);
    re->code = compiled;
out:
    pcre2_compile_context_free(context);
    buf_free(&translated);
    return re;
}

void regex_free(struct regex *re) {
    if (re) {
        pcre2_code_free(re->code);
        free(re);
    }
}

struct regex_scratch *regex_scratch_new(void) {
    struct regex_scratch *s = mem_calloc(1, sizeof *s);
    s->data = pcre2_match_data_create(1, NULL); /* only the whole match is of interest */
    s->context = pcre2_match_context_create(NULL);
    if (!s->data || !s->context) {
        die("out of memory");
    }
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    return s;
}

void regex_scratch_free(struct regex_scratch *s) {
    if (s) {
        pcre2_match_data_free(s->data);
        pcre2_match_context_free(s->context);
        pcre2_jit_stack_free(s->stack);
        free(s);
    }
}

void regex_start(struct regex_iter *it, const struct regex *re, const char *text, size_t bytes) {
    *it = (struct regex_iter){.re = re, .text = text, .bytes = bytes, .last_end = SIZE_MAX};
}

static int search(const struct regex_iter *it, struct regex_scratch *s) {
    const PCRE2_UCHAR *text = (const PCRE2_UCHAR *)it->text;
    int rc = pcre2_match(it->re->code, text, it->bytes, it->from, PCRE2_NO_UTF_CHECK, s->data,
                         s->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !s->stack) {
        s->stack = pcre2_jit_stack_create(JIT_STACK_MIN_BYTES, JIT_STACK_MAX_BYTES, NULL);
        if (s->stack) {
            pcre2_jit_stack_assign(s->context, NULL, s->stack);
            rc = pcre2_match(it->re->code, text, it->bytes, it->from, PCRE2_NO_UTF_CHECK, s->data,
                             s->context);
        }
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(it->re->code, text, it->bytes, it->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         s->data, s->context);
    }
    return rc;
}

int regex_next(struct regex_iter *it, struct regex_scratch *s, size_t *start, size_t *end,
               struct err *err) {
    uint64_t limit = MATCH_LIMIT_BASE + (uint64_t)MATCH_LIMIT_PER_BYTE * it->bytes;
    pcre2_set_match_limit(s->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    while (it->from <= it->bytes) {
        int rc = search(it, s);
        if (rc == PCRE2_ERROR_NOMATCH) {
            it->from = it->bytes + 1;
            return 0;
        }
        if (rc < 0) {
            PCRE2_UCHAR text[160];
            pcre2_get_error_message(rc, text, sizeof text);
            return err_set(err, "pattern at byte %zu of %zu: %s", it->from, it->bytes,
                           (const char *)text);
        }
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->data);
        *start = range[0];
        *end = range[1];
        if (*start == *end && *end == it->last_end) {
            uint32_t cp;
            it->from += it->from < it->bytes ? text_get(it->text + it->from, &cp) : 1;
            continue;
        }
        it->from = it->last_end = *end;
        return 1;
    }
    return 0;
}
