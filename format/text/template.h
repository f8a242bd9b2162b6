/*
 * template: chat templates, which are programs in the language Jinja, compiled and rendered.
 *
 * Owns: the language as transformers sets it up for chat templates (jinja2's
 * ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, the loop controls, `generation`
 * blocks, its own `tojson`, `raise_exception`, `strftime_now`, `dict` and `namespace`), to the byte
 * of what jinja2 3.1 renders, with Python's rules for values.
 * Leaves to others: where templates come from, what a conversation looks like, which names it is
 * passed under (`messages`, `tools`, `add_generation_prompt`, the special tokens): see the
 * `context` of template_render.
 * Threads: a compiled template is not changed by rendering: any number of threads may render it at
 * the same time. Everything else belongs to the call.
 *
 *     struct template *t;
 *     if (template_compile(&t, text, len, err)) ...
 *     if (template_render(t, &context, &limits, now, &out, &out_len, err)) ...
 *     template_free(t);
 *
 * A template comes with a model from anywhere, so it is not trusted. It can read nothing but its
 * context, and it can do nothing but make text. Its steps, depth and memory are bounded by the
 * caller; whoever exceeds a bound is an error. So is everything that this implementation does not
 * know, at compiling where that can be seen, else when it is reached: nothing is skipped, nothing
 * guessed.
 *
 * The language: text, `{{ }}`, `{% %}`, `{# #}` with `-` and `+`; if, for (with else, if,
 * recursive, unpacking, break, continue, and `loop`), set (also of blocks and of a namespace's
 * attributes), macro, call, filter, with, raw, print, generation; all expressions; jinja2's filters
 * and tests but random, urlize, pprint, wordwrap, striptags, xmlattr and urlencode; the methods of
 * Python's str, list, tuple, dict, int and float, as far as text is made with them; range, dict,
 * namespace, joiner.
 * Not known: include, import, extends, block and autoescape, as there is nothing that a chat
 * template could include or inherit; arithmetic of integers beyond 64 bits (they are compared and
 * printed).
 *
 * Known differences, of which no published template has been seen to depend on one: arguments of
 * map, select and other lazy filters are looked at when the filter is applied and not when its
 * first element is drawn; a slice of a number written out is an error and not undefined; equal
 * strings and numbers are the same ones to `sameas`; generators, functions and namespaces have no
 * text; the time has no microseconds and no zone.
 *
 * Errors begin with `line L, column C: `, of the template's text, both from 1, columns in
 * characters. What a template itself refuses (raise_exception) reads
 * `line L, column C: the template refuses: MESSAGE`.
 */
#ifndef FORMAT_TEXT_TEMPLATE_H
#define FORMAT_TEXT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "format/base.h"
#include "format/text/value.h"

struct template;

enum { TEMPLATE_MAX_BYTES = 1 << 20 }; /* of a template's text */

/* What one rendering may use. */
struct template_limits {
    size_t bytes;   /* of memory for values, and again for the text that is rendered */
    uint64_t steps; /* expressions and statements evaluated, and work of that order */
    unsigned depth; /* expressions, statements and calls in each other; a level takes about 1 KiB of
                       the thread's stack */
};
/* 64 MiB, 20 million steps (a second or so), depth 400: far beyond what published templates use. */
extern const struct template_limits template_usual_limits;

/* Compile `len` bytes of UTF-8. On success `*t` is the caller's, to be freed with template_free;
 * nothing of `text` is kept. -1 and `err`, with line and column: not UTF-8, a syntax error, or a
 * tag, filter or test that is not known. */
int template_compile(struct template **t, const char *text, size_t len, struct err *err);
void template_free(struct template *t);

/* All that the template writes out: its text between tags and its strings, a NUL behind each.
 * Borrowed until template_free. */
const char *template_literals(const struct template *t, size_t *len);

/* Render with the names of `context`, a dict whose keys are strings. `now` is the time that
 * strftime_now tells, broken down as the user's clock shows it; NULL makes asking for it an error,
 * so that a rendering that gave no time cannot depend on one. On success `*out` is a fresh block
 * (free()) of `*out_len` bytes of UTF-8 and a NUL. -1 and `err`, with line and column: the template
 * refuses, does what Python refuses (an operation on types that have it not, an undefined value
 * used for more than asking and printing), or exceeds a limit. */
int template_render(const struct template *t, const struct value *context,
                    const struct template_limits *limits, const struct tm *now, char **out,
                    size_t *out_len, struct err *err);

#endif
