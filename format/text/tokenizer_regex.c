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
    HEAP_LIMIT_BASE_KIB = 32 << 10,
    HEAP_BYTES_PER_BYTE = 256, /* what the interpreter keeps for each character of a long match */
    /* Steps that one search of a published pattern may take: each looks at a character a few
     * times. */
    MATCH_LIMIT_BASE = 1000000,
    MATCH_LIMIT_PER_BYTE = 64,
    /* A counted search. PCRE2 does not say how many steps a search took, and counts them anew at
     * each place where a match may start. So we give few steps at first, over a stride of places,
     * and more of them where those were not enough; a callout tells which places were tried. */
    FIRST_LIMIT = 16,
    LIMIT_GROWTH = 4,
    STRIDE_STEPS = 1024, /* limit * places, as long as there is more than one place */
    PLACE_CALLOUT = 1,   /* stands in front of a counted pattern */
    /* One step may scan all the text that a search sees, which therefore grows from a window, and
     * has a price from this size on. */
    WINDOW_BYTES = 1024,
    WINDOW_GROWTH = 4,
    FREE_SCAN_BYTES = 4096
};

struct regex {
    pcre2_code *code;
    bool published;
};

struct regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;   /* NULL until a match outgrows the machine stack's share */
    size_t tried, last_tried; /* of one search: how many places, and the last of them */
};

static int count_place(pcre2_callout_block *block, void *scratch) {
    struct regex_scratch *s = scratch;
    s->tried++;
    s->last_tried = block->start_match;
    return 0;
}

struct regex *regex_compile(const char *pattern, size_t bytes, struct err *err) {
    struct buf translated = {0};
    struct regex *re = NULL;
    pcre2_compile_context *context = NULL;
    if (bytes > TOK_MAX_PATTERN) {
        err_set(err, "pattern of %zu bytes; at most %d are supported", bytes, TOK_MAX_PATTERN);
        goto out;
    }
    bool published = regex_is_published(pattern, bytes, NULL);
    if (!published) {
        buf_printf(&translated, "(?C%d)(?:", PLACE_CALLOUT);
    }
    if (regex_translate(pattern, bytes, &translated, err) < 0) {
        goto out;
    }
    if (!published) {
        buf_append(&translated, ")", 1);
    }
    context = pcre2_compile_context_create(NULL);
    if (!context) {
        die_memory(0);
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE at = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK |
                       PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE |
                       (published ? 0 : PCRE2_USE_OFFSET_LIMIT);
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)(translated.len ? translated.data : ""),
                                         translated.len, options, &code, &at, context);
    if (!compiled) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, "pattern is not supported: %s", (const char *)text);
        goto out;
    }
    if (published) {
        /* No JIT on this machine: the interpreter runs it, slower, with the same result. */
        (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    }
    re = mem_calloc(1, sizeof *re);
    re->code = compiled;
    re->published = published;
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

bool regex_is_counted(const struct regex *re) {
    return !re->published;
}

struct regex_scratch *regex_scratch_new(void) {
    struct regex_scratch *s = mem_calloc(1, sizeof *s);
    s->data = pcre2_match_data_create(1, NULL); /* only the whole match is of interest */
    s->context = pcre2_match_context_create(NULL);
    if (!s->data || !s->context) {
        die_memory(0);
    }
    pcre2_set_callout(s->context, count_place, s);
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

void regex_start(struct regex_iter *it, const struct regex *re, const char *text, size_t bytes,
                 uint64_t *steps) {
    *it = (struct regex_iter){.re = re,
                              .text = text,
                              .bytes = bytes,
                              .last_end = SIZE_MAX,
                              .window_bytes = WINDOW_BYTES,
                              .steps = steps};
}

static int match(const struct regex_iter *it, struct regex_scratch *s, size_t from, size_t end,
                 uint32_t options) {
    return pcre2_match(it->re->code, (const PCRE2_UCHAR *)it->text, end, from,
                       PCRE2_NO_UTF_CHECK | options, s->data, s->context);
}

static int search_published(const struct regex_iter *it, struct regex_scratch *s) {
    uint64_t limit = MATCH_LIMIT_BASE + (uint64_t)MATCH_LIMIT_PER_BYTE * it->bytes;
    pcre2_set_match_limit(s->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    pcre2_set_offset_limit(s->context, PCRE2_UNSET);
    int rc = match(it, s, it->from, it->bytes, 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !s->stack) {
        s->stack = pcre2_jit_stack_create(JIT_STACK_MIN_BYTES, JIT_STACK_MAX_BYTES, NULL);
        if (s->stack) {
            pcre2_jit_stack_assign(s->context, NULL, s->stack);
            rc = match(it, s, it->from, it->bytes, 0);
        }
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = match(it, s, it->from, it->bytes, PCRE2_NO_JIT);
    }
    return rc;
}

/*
 * A search that pays for its steps from *it->steps. It takes no more than are left: so many are
 * tried. A window's end is not the text's end: whatever looks there stops the search
 * (PCRE2_PARTIAL_HARD), which then is done again with a longer window; so the result is that of the
 * whole text. Where a place takes more, the search goes on from that place.
 */
static int search_counted(const struct regex_iter *it, struct regex_scratch *s) {
    size_t from = it->from, window = it->window_bytes;
    uint64_t limit = FIRST_LIMIT;
    for (;;) {
        size_t end = text_next_start(it->text, it->bytes,
                                     it->bytes - from > window ? from + window : it->bytes);
        size_t places = limit < STRIDE_STEPS ? (size_t)(STRIDE_STEPS / limit) : 1;
        places = end < it->bytes && end - from < places ? end - from : places;
        uint64_t price = limit * (1 + (end - from) / FREE_SCAN_BYTES), left = *it->steps / price;
        if (limit > UINT32_MAX || left == 0) {
            return PCRE2_ERROR_MATCHLIMIT;
        }
        places = left < places ? (size_t)left : places;
        size_t last = it->bytes - from < places ? it->bytes : from + places - 1;
        pcre2_set_match_limit(s->context, (uint32_t)limit);
        pcre2_set_offset_limit(s->context, last);
        s->tried = 0;
        s->last_tried = from;
        int rc = match(it, s, from, end, end < it->bytes ? PCRE2_PARTIAL_HARD : 0);
        uint64_t cost = price * (s->tried ? s->tried : 1);
        *it->steps -= cost < *it->steps ? cost : *it->steps;
        if (rc == PCRE2_ERROR_MATCHLIMIT) {
            limit *= LIMIT_GROWTH;
            from = s->last_tried;
        } else if (rc == PCRE2_ERROR_PARTIAL) {
            window *= WINDOW_GROWTH;
            from = s->last_tried;
        } else if (rc != PCRE2_ERROR_NOMATCH || last == it->bytes) {
            return rc;
        } else {
            from = text_next_start(it->text, it->bytes, last + 1);
            window = it->window_bytes;
            limit = FIRST_LIMIT;
        }
    }
}

int regex_next(struct regex_iter *it, struct regex_scratch *s, size_t *start, size_t *end,
               struct err *err) {
    uint64_t heap = HEAP_LIMIT_BASE_KIB + (uint64_t)it->bytes * HEAP_BYTES_PER_BYTE / 1024;
    pcre2_set_heap_limit(s->context, heap < HEAP_LIMIT_KIB ? (uint32_t)heap : HEAP_LIMIT_KIB);
    while (it->from <= it->bytes) {
        int rc = it->re->published ? search_published(it, s) : search_counted(it, s);
        if (rc == PCRE2_ERROR_NOMATCH) {
            it->from = it->bytes + 1;
            return 0;
        }
        if (rc == PCRE2_ERROR_MATCHLIMIT) {
            return err_set(err,
                           "the pattern takes more steps than this text may cost: it backtracks"
                           " too much (at byte %zu of %zu)",
                           it->from, it->bytes);
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

bool regex_fits(const struct regex *re, struct regex_scratch *s, const char *text, size_t bytes) {
    struct regex_iter it;
    struct err err = {0};
    size_t start, end;
    regex_start(&it, re, text, bytes, NULL);
    return re->published && regex_next(&it, s, &start, &end, &err) > 0 && start == 0 &&
           end == bytes;
}
