/*
 * The component chains of tokenizer.json (normalizer, pre_tokenizer, decoder, post_processor) ->
 * steps and template ids. One table for each chain: a new component is a row and a function. One
 * thread.
 */
#include <stdio.h>
#include <string.h>

#include "format/text/tokenizer_regex.h"
#include "prep/hf/hf_tokenizer_json.h"

enum { MAX_NESTING = 16, MAX_TEXT_BYTES = 4096 };

struct chain;

/* What a component does with its JSON; `step` is new, zero but for its kind. */
typedef int (*read_fn)(const struct place *at, struct tokenizer_pack *p, struct tok_step *step);

struct component {
    const char *type;
    uint16_t kind;
    read_fn read; /* NULL: it has no options */
};

struct chain {
    const char *members; /* what a Sequence calls its list */
    const struct component *rows;
    size_t n_rows;
};

static int read_chain(const struct place *at, const struct chain *chain, struct tokenizer_pack *p,
                      uint32_t *count, int depth) {
    const char *type = NULL;
    size_t bytes;
    if (!at->value) {
        return 0;
    }
    if (!json_is_object(at->value)) {
        return place_error(at, "expected an object or null");
    }
    if (place_string(at, "type", false, &type, &bytes)) {
        return -1;
    }
    if (strcmp(type, "Sequence") == 0) {
        struct place list = place_get(at, chain->members);
        if (!json_is_array(list.value) || depth >= MAX_NESTING) {
            return place_error(&list, "expected a list, nested at most %d deep", MAX_NESTING);
        }
        for (size_t i = 0; i < json_array_size(list.value); i++) {
            struct place item = place_item(&list, i);
            if (!item.value) {
                return place_error(&item, "expected an object");
            }
            if (read_chain(&item, chain, p, count, depth + 1)) {
                return -1;
            }
        }
        return 0;
    }
    for (size_t i = 0; i < chain->n_rows; i++) {
        if (strcmp(type, chain->rows[i].type) == 0) {
            uint32_t n = p->n_normalizers + p->n_pre_tokenizers + p->n_decoders;
            if (n == TOK_MAX_STEPS) {
                return place_error(at, "more than %d components", TOK_MAX_STEPS);
            }
            p->steps[n] = (struct tok_step){.kind = chain->rows[i].kind};
            ++*count;
            return chain->rows[i].read ? chain->rows[i].read(at, p, &p->steps[n]) : 0;
        }
    }
    struct buf names = {0};
    for (size_t i = 0; i < chain->n_rows; i++) {
        buf_printf(&names, " %s", chain->rows[i].type);
    }
    place_error(at, "component '%s' is not supported (supported: Sequence%s)", type, names.data);
    buf_free(&names);
    return -1;
}

/* ---- options --------------------------------------------------------------------------------- */

static int read_flag(const struct place *at, const char *key, bool optional, bool fallback,
                     uint32_t flag, struct tok_step *step) {
    bool on = fallback;
    if (place_bool(at, key, optional, &on)) {
        return -1;
    }
    step->flags |= on ? flag : 0;
    return 0;
}

/* "pattern": {"String": text} or {"Regex": text}. A regular expression is tried at once, so that
 * the error names its place. */
static int read_pattern(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    struct place pattern = place_get(at, "pattern");
    const char *text = NULL;
    size_t bytes = 0;
    bool regex = json_object_get(pattern.value, "Regex") != NULL;
    if (json_object_size(pattern.value) != 1) {
        return place_error(&pattern, "expected {\"String\": text} or {\"Regex\": text}");
    }
    if (place_string(&pattern, regex ? "Regex" : "String", false, &text, &bytes)) {
        return -1;
    }
    if (bytes == 0 || (!regex && bytes > MAX_TEXT_BYTES)) {
        return place_error(&pattern, "expected 1 to %d bytes", MAX_TEXT_BYTES);
    }
    if (regex) {
        struct err e = {0};
        struct regex *re = regex_compile(text, bytes, &e);
        if (!re) {
            return place_error(&pattern, "%s", e.msg);
        }
        regex_free(re);
        step->flags |= TOK_STEP_REGEX;
    }
    step->pattern = pack_text(p, text, bytes);
    return 0;
}

static int read_content(const struct place *at, const char *key, struct tokenizer_pack *p,
                        struct tok_step *step) {
    const char *text = NULL;
    size_t bytes = 0;
    if (place_string(at, key, false, &text, &bytes)) {
        return -1;
    }
    if (bytes > MAX_TEXT_BYTES) {
        struct place content = place_get(at, key);
        return place_error(&content, "expected at most %d bytes", MAX_TEXT_BYTES);
    }
    step->content = pack_text(p, text, bytes);
    return 0;
}

/* A string of one character. */
static int read_char(const struct place *at, const char *key, struct tokenizer_pack *p,
                     struct tok_step *step) {
    if (read_content(at, key, p, step)) {
        return -1;
    }
    const char *c = p->blob.data + step->content.offset;
    size_t n = 0;
    for (size_t i = 0; i < step->content.bytes; i++) {
        n += ((unsigned char)c[i] & 0xc0) != 0x80;
    }
    struct place content = place_get(at, key);
    return n == 1 ? 0 : place_error(&content, "expected one character");
}

/* The index of the member's string among `names`. */
static int read_choice(const struct place *at, const char *key, const char *const *names,
                       size_t n_names, bool optional, uint32_t *out) {
    const char *text = NULL;
    size_t bytes;
    if (place_string(at, key, optional, &text, &bytes)) {
        return -1;
    }
    for (size_t i = 0; text && i < n_names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (uint32_t)i;
            return 0;
        }
    }
    struct place p = place_get(at, key);
    return text ? place_error(&p, "'%s' is not supported", text) : 0;
}

static int read_behavior(const struct place *at, bool optional, struct tok_step *step) {
    static const char *const names[TOK_BEHAVIORS] = {
        [TOK_ISOLATED] = "Isolated",
        [TOK_REMOVED] = "Removed",
        [TOK_MERGED_PREVIOUS] = "MergedWithPrevious",
        [TOK_MERGED_NEXT] = "MergedWithNext",
        [TOK_CONTIGUOUS] = "Contiguous",
    };
    uint32_t behavior = TOK_ISOLATED;
    int rc = read_choice(at, "behavior", names, TOK_BEHAVIORS, optional, &behavior);
    step->behavior = (uint16_t)behavior;
    return rc;
}

/* ---- normalizers ----------------------------------------------------------------------------- */

static int read_replace(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    return read_pattern(at, p, step) || read_content(at, "content", p, step) ? -1 : 0;
}

static int read_prepend(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    return read_content(at, "prepend", p, step);
}

static int read_strip(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    (void)p;
    return read_flag(at, "strip_left", false, false, TOK_STEP_LEFT, step) ||
                   read_flag(at, "strip_right", false, false, TOK_STEP_RIGHT, step)
               ? -1
               : 0;
}

static const struct component normalizer_rows[] = {
    {"NFC", TOK_NORM_NFC, NULL},
    {"NFD", TOK_NORM_NFD, NULL},
    {"NFKC", TOK_NORM_NFKC, NULL},
    {"NFKD", TOK_NORM_NFKD, NULL},
    {"Replace", TOK_NORM_REPLACE, read_replace},
    {"Prepend", TOK_NORM_PREPEND, read_prepend},
    {"Strip", TOK_NORM_STRIP, read_strip},
    {"Lowercase", TOK_NORM_LOWERCASE, NULL},
};

/* ---- pre-tokenizers -------------------------------------------------------------------------- */

static int read_split(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    return read_pattern(at, p, step) || read_behavior(at, false, step) ||
                   read_flag(at, "invert", false, false, TOK_STEP_INVERT, step)
               ? -1
               : 0;
}

static int read_byte_level(const struct place *at, struct tokenizer_pack *p,
                           struct tok_step *step) {
    (void)p;
    return read_flag(at, "add_prefix_space", false, false, TOK_STEP_PREFIX_SPACE, step) ||
                   read_flag(at, "use_regex", true, true, TOK_STEP_USE_REGEX, step)
               ? -1
               : 0;
}

static int read_metaspace(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    static const char *const names[TOK_SCHEMES] = {
        [TOK_SCHEME_ALWAYS] = "always", [TOK_SCHEME_NEVER] = "never", [TOK_SCHEME_FIRST] = "first"};
    bool prefix_space = true;
    if (read_char(at, "replacement", p, step) ||
        read_choice(at, "prepend_scheme", names, TOK_SCHEMES, true, &step->a) ||
        read_flag(at, "split", true, true, TOK_STEP_SPLIT, step) ||
        place_bool(at, "add_prefix_space", true, &prefix_space)) {
        return -1;
    }
    if (!prefix_space) { /* the older spelling of "never" */
        if (place_get(at, "prepend_scheme").value && step->a != TOK_SCHEME_NEVER) {
            return place_error(at, "add_prefix_space false contradicts prepend_scheme");
        }
        step->a = TOK_SCHEME_NEVER;
    }
    return 0;
}

static int read_digits(const struct place *at, struct tokenizer_pack *p, struct tok_step *step) {
    bool individual = false;
    (void)p;
    if (place_bool(at, "individual_digits", false, &individual)) {
        return -1;
    }
    step->behavior = individual ? TOK_ISOLATED : TOK_CONTIGUOUS;
    return 0;
}

static int read_punctuation(const struct place *at, struct tokenizer_pack *p,
                            struct tok_step *step) {
    (void)p;
    return read_behavior(at, true, step);
}

static const struct component pre_tokenizer_rows[] = {
    {"Split", TOK_PRE_SPLIT, read_split},
    {"ByteLevel", TOK_PRE_BYTE_LEVEL, read_byte_level},
    {"Metaspace", TOK_PRE_METASPACE, read_metaspace},
    {"Digits", TOK_PRE_DIGITS, read_digits},
    {"Punctuation", TOK_PRE_PUNCTUATION, read_punctuation},
    {"Whitespace", TOK_PRE_WHITESPACE, NULL},
    {"WhitespaceSplit", TOK_PRE_WHITESPACE_SPLIT, NULL},
};

/* ---- decoders -------------------------------------------------------------------------------- */

static int read_strip_decoder(const struct place *at, struct tokenizer_pack *p,
                              struct tok_step *step) {
    return read_char(at, "content", p, step) || place_uint(at, "start", UINT16_MAX, &step->a) ||
                   place_uint(at, "stop", UINT16_MAX, &step->b)
               ? -1
               : 0;
}

static const struct component decoder_rows[] = {
    {"ByteLevel", TOK_DEC_BYTE_LEVEL, NULL},       {"Metaspace", TOK_DEC_METASPACE, read_metaspace},
    {"ByteFallback", TOK_DEC_BYTE_FALLBACK, NULL}, {"Fuse", TOK_DEC_FUSE, NULL},
    {"Strip", TOK_DEC_STRIP, read_strip_decoder},  {"Replace", TOK_DEC_REPLACE, read_replace},
};

#define ROWS(rows) rows, sizeof(rows) / sizeof *(rows)

int hf_read_normalizer(const struct place *root, struct tokenizer_pack *p) {
    static const struct chain chain = {"normalizers", ROWS(normalizer_rows)};
    struct place at = place_get(root, "normalizer");
    return read_chain(&at, &chain, p, &p->n_normalizers, 0);
}

int hf_read_pre_tokenizer(const struct place *root, struct tokenizer_pack *p) {
    static const struct chain chain = {"pretokenizers", ROWS(pre_tokenizer_rows)};
    struct place at = place_get(root, "pre_tokenizer");
    return read_chain(&at, &chain, p, &p->n_pre_tokenizers, 0);
}

/* Behind a decoder that makes one text of all tokens, only those whose effect on that text is
 * known before its end: so a stream can hand text on at once. */
static int check_fused(const struct place *at, const struct tokenizer_pack *p) {
    bool fused = false;
    uint32_t first = p->n_normalizers + p->n_pre_tokenizers;
    for (uint32_t i = 0; i < p->n_decoders; i++) {
        const struct tok_step *s = &p->steps[first + i];
        if (fused && s->kind != TOK_DEC_FUSE && !(s->kind == TOK_DEC_STRIP && s->b == 0)) {
            return place_error(at,
                               "decoder %u comes behind Fuse or ByteLevel, where only Fuse, and"
                               " Strip with stop 0, are supported",
                               i);
        }
        fused = fused || s->kind == TOK_DEC_FUSE || s->kind == TOK_DEC_BYTE_LEVEL;
    }
    return 0;
}

int hf_read_decoder(const struct place *root, struct tokenizer_pack *p) {
    static const struct chain chain = {"decoders", ROWS(decoder_rows)};
    struct place at = place_get(root, "decoder");
    if (!at.value) {
        if (p->n_normalizers + p->n_pre_tokenizers == TOK_MAX_STEPS) {
            return place_error(&at, "more than %d components", TOK_MAX_STEPS);
        }
        p->steps[p->n_normalizers + p->n_pre_tokenizers] =
            (struct tok_step){.kind = TOK_DEC_JOIN, .content = pack_text(p, " ", 1)};
        p->n_decoders = 1;
        return 0;
    }
    return read_chain(&at, &chain, p, &p->n_decoders, 0) || check_fused(&at, p) ? -1 : 0;
}

/* ---- post-processor -------------------------------------------------------------------------- */

/* The ids of one special token of a template, in front of (`ids`, `n`) what is there if `front`. */
static int template_token(const struct place *at, const struct place *piece,
                          const struct tokenizer_pack *p, uint32_t ids[64], uint32_t *n) {
    const char *name = NULL;
    size_t bytes;
    struct place token = place_get(piece, "SpecialToken");
    if (place_string(&token, "id", false, &name, &bytes)) {
        return -1;
    }
    struct place all = place_get(at, "special_tokens"), row = place_get(&all, name);
    struct place list = place_get(&row, "ids");
    if (!json_is_array(list.value)) {
        return place_error(&list, "expected a list of ids");
    }
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        const json_t *id = json_array_get(list.value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)p->n_tokens || *n == 64) {
            return place_error(&list, "expected ids below %u, at most 64 in all", p->n_tokens);
        }
        ids[(*n)++] = (uint32_t)json_integer_value(id);
    }
    return 0;
}

/* "single": special tokens around one Sequence A. */
static int read_template(const struct place *at, struct tokenizer_pack *p) {
    struct place single = place_get(at, "single");
    uint32_t front[64], n_front = 0;
    bool seen = false;
    if (!json_is_array(single.value)) {
        return place_error(&single, "expected a list");
    }
    for (size_t i = 0; i < json_array_size(single.value); i++) {
        struct place piece = place_item(&single, i), sequence = place_get(&piece, "Sequence");
        const char *id = NULL;
        size_t bytes;
        if (sequence.value) {
            if (place_string(&sequence, "id", false, &id, &bytes)) {
                return -1;
            }
            if (seen || strcmp(id, "A") != 0) {
                return place_error(&sequence, "expected the sequence A, once");
            }
            seen = true;
        } else if (template_token(at, &piece, p, seen ? p->suffix : front,
                                  seen ? &p->n_suffix : &n_front)) {
            return -1;
        }
    }
    if (!seen || n_front + p->n_prefix > 64) {
        return place_error(&single, "expected the sequence A and at most 64 special tokens");
    }
    memmove(p->prefix + n_front, p->prefix, p->n_prefix * sizeof *p->prefix);
    memcpy(p->prefix, front, n_front * sizeof *front);
    p->n_prefix += n_front;
    return 0;
}

static int read_processor(const struct place *at, struct tokenizer_pack *p, int depth) {
    const char *type = NULL;
    size_t bytes;
    if (!at->value) {
        return 0;
    }
    if (place_string(at, "type", false, &type, &bytes)) {
        return -1;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        return read_template(at, p);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return 0; /* trims offsets only */
    }
    if (strcmp(type, "Sequence") != 0) {
        return place_error(at,
                           "component '%s' is not supported (supported: Sequence TemplateProcessing"
                           " ByteLevel)",
                           type);
    }
    struct place list = place_get(at, "processors");
    if (!json_is_array(list.value) || depth >= MAX_NESTING) {
        return place_error(&list, "expected a list, nested at most %d deep", MAX_NESTING);
    }
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        struct place item = place_item(&list, i);
        if (read_processor(&item, p, depth + 1)) {
            return -1;
        }
    }
    return 0;
}

int hf_read_post_processor(const struct place *root, struct tokenizer_pack *p) {
    struct place at = place_get(root, "post_processor");
    return read_processor(&at, p, 0);
}
