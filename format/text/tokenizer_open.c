/*
 * Opening a tokenizer section: every offset, id and order is checked here once, with arithmetic
 * that cannot overflow, so that encoding and decoding need no checks. Which bytes can be used at
 * all decides this file; what they mean, the others.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the section is used in place");

enum {
    MAX_CONTENT_BYTES = 4096, /* of a step's content or literal pattern */
    MAX_PROBE = 4096          /* slots of a hash table in a row without a free one */
};

/* ByteLevel's own pattern (OpenAI, gpt-2/src/encoder.py). */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                   " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- checking a section ---------------------------------------------------------------------- */

static int bad(struct err *err, const char *what) {
    return err_set(err, "tokenizer section: %s", what);
}

/* What a table's bytes must be a multiple of, in the order of enum tok_table_id. */
static const struct {
    const char *name;
    size_t element;
} tables[TOK_TABLES] = {
    [TOK_BLOB] = {"blob", 1},
    [TOK_SPANS] = {"spans", sizeof(struct tok_span)},
    [TOK_TOKEN_FLAGS] = {"token flags", 1},
    [TOK_VOCAB] = {"vocabulary", sizeof(uint32_t)},
    [TOK_MERGES] = {"merges", sizeof(struct tok_merge)},
    [TOK_ADDED] = {"added tokens", sizeof(struct tok_added)},
    [TOK_MATCH_RAW] = {"raw matches", sizeof(uint32_t)},
    [TOK_MATCH_NORMALIZED] = {"normalized matches", sizeof(uint32_t)},
    [TOK_STEPS] = {"steps", sizeof(struct tok_step)},
    [TOK_PREFIX] = {"prefix", sizeof(uint32_t)},
    [TOK_SUFFIX] = {"suffix", sizeof(uint32_t)},
    [TOK_CHAT_TEMPLATE] = {"chat template", 1},
};

static int check_header(const uint8_t *section, size_t bytes, struct err *err) {
    const struct tok_header *h = (const struct tok_header *)section;
    if ((uintptr_t)section % TOK_ALIGN) {
        return bad(err, "not at a multiple of 8 in memory");
    }
    if (bytes < sizeof *h) {
        return err_set(err, "tokenizer section: %zu bytes, the header alone takes %zu", bytes,
                       sizeof *h);
    }
    if (memcmp(h->magic, TOK_MAGIC, sizeof h->magic) != 0) {
        return bad(err, "wrong magic");
    }
    if (h->version != TOK_VERSION) {
        return err_set(err, "tokenizer section: version %u, expected %d", h->version, TOK_VERSION);
    }
    if (h->flags & ~(uint32_t)TOK_FLAGS_KNOWN) {
        return err_set(err, "tokenizer section: unknown flags 0x%x",
                       h->flags & ~(uint32_t)TOK_FLAGS_KNOWN);
    }
    if (h->section_bytes != bytes) {
        return err_set(err, "tokenizer section: %zu bytes, its header says %llu", bytes,
                       (unsigned long long)h->section_bytes);
    }
    if (h->reserved || h->reserved2) {
        return bad(err, "reserved fields are not zero");
    }
    for (int i = 0; i < TOK_TABLES; i++) {
        uint64_t end;
        if (h->tables[i].offset % TOK_ALIGN || h->tables[i].offset < sizeof *h ||
            !size_add(h->tables[i].offset, h->tables[i].bytes, &end) || end > bytes ||
            h->tables[i].bytes % tables[i].element) {
            return err_set(err, "tokenizer section: table '%s' does not fit", tables[i].name);
        }
    }
    return 0;
}

static uint64_t table_count(const struct tok_header *h, int table) {
    return h->tables[table].bytes / tables[table].element;
}

static bool span_fits(const struct tokenizer *tok, struct tok_span s) {
    return (uint64_t)s.offset + s.bytes <= tok->header->tables[TOK_BLOB].bytes;
}

static bool span_is_text(const struct tokenizer *tok, struct tok_span s) {
    return span_fits(tok, s) && text_valid(tokenizer_span(tok, s), s.bytes) == s.bytes;
}

static bool ids_fit(const uint32_t *ids, uint64_t n, uint32_t limit) {
    for (uint64_t i = 0; i < n; i++) {
        if (ids[i] >= limit) {
            return false;
        }
    }
    return true;
}

static bool id_or_none(const struct tokenizer *tok, uint32_t id) {
    return id < tok->n_tokens || id == TOK_NONE;
}

static int check_tokens(struct tokenizer *tok, struct err *err) {
    const struct tok_header *h = tok->header;
    if (h->n_tokens == 0 || h->n_tokens > TOK_MAX_TOKENS ||
        table_count(h, TOK_SPANS) != h->n_tokens ||
        table_count(h, TOK_TOKEN_FLAGS) != h->n_tokens) {
        return err_set(
            err, "tokenizer section: %u tokens (1 to %d), whose tables have %llu and %llu rows",
            h->n_tokens, TOK_MAX_TOKENS, (unsigned long long)table_count(h, TOK_SPANS),
            (unsigned long long)table_count(h, TOK_TOKEN_FLAGS));
    }
    tok->n_tokens = h->n_tokens;
    /* Texts do not overlap, so checking them takes no longer than the blob is. */
    uint64_t text_bytes = 0;
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        text_bytes += tok->spans[i].bytes;
        if (text_bytes > h->tables[TOK_BLOB].bytes || !span_is_text(tok, tok->spans[i]) ||
            (tok->flags[i] & ~TOK_TOKEN_FLAGS_KNOWN)) {
            return err_set(err, "tokenizer section: token %u has no valid text or flags", i);
        }
    }
    if (!id_or_none(tok, h->bos_id) || !id_or_none(tok, h->eos_id) ||
        !(id_or_none(tok, h->unk_id) || h->unk_id == TOK_MISSING)) {
        return bad(err, "bos, eos or unk is not a token");
    }
    tok->n_prefix = (uint32_t)table_count(h, TOK_PREFIX);
    tok->n_suffix = (uint32_t)table_count(h, TOK_SUFFIX);
    if (table_count(h, TOK_PREFIX) > 64 || table_count(h, TOK_SUFFIX) > 64 ||
        !ids_fit(tok->prefix, tok->n_prefix, tok->n_tokens) ||
        !ids_fit(tok->suffix, tok->n_suffix, tok->n_tokens)) {
        return bad(err, "prefix or suffix is not made of at most 64 tokens");
    }
    return 0;
}

/* Whether a hash table's slots (used[i * stride] != TOK_NONE) end every probe soon: no long run
 * without a free slot. Tables are written at most half full. */
static bool probes_end(const uint32_t *slots, uint64_t n, size_t stride) {
    uint64_t run = 0, limit = n - 1 < MAX_PROBE ? n - 1 : MAX_PROBE;
    for (uint64_t i = 0; i < n + limit; i++) {
        run = slots[(i & (n - 1)) * stride] == TOK_NONE ? 0 : run + 1;
        if (run > limit) {
            return false;
        }
    }
    return true;
}

static int check_hash_tables(struct tokenizer *tok, struct err *err) {
    uint64_t n_vocab = table_count(tok->header, TOK_VOCAB);
    uint64_t n_merges = table_count(tok->header, TOK_MERGES);
    if (n_vocab < 2 || (n_vocab & (n_vocab - 1)) || n_vocab > UINT32_C(1) << 31 || n_merges < 2 ||
        (n_merges & (n_merges - 1)) || n_merges > UINT32_C(1) << 31) {
        return bad(err, "a hash table's size is not a power of two");
    }
    tok->vocab_mask = (uint32_t)n_vocab - 1;
    tok->merge_mask = (uint32_t)n_merges - 1;
    tok->merge_shift = 64 - __builtin_ctzll(n_merges);
    for (uint64_t i = 0; i < n_vocab; i++) {
        if (!id_or_none(tok, tok->vocab[i])) {
            return bad(err, "the vocabulary names an id out of range");
        }
    }
    for (uint64_t i = 0; i < n_merges; i++) {
        const struct tok_merge *m = &tok->merges[i];
        if (m->left == TOK_NONE) {
            continue;
        }
        if (m->left >= tok->n_tokens || m->right >= tok->n_tokens || m->result >= tok->n_tokens ||
            m->rank == UINT32_MAX) {
            return bad(err, "a merge names an id out of range");
        }
    }
    return probes_end(tok->vocab, n_vocab, 1) &&
                   probes_end(&tok->merges->left, n_merges, sizeof *tok->merges / sizeof(uint32_t))
               ? 0
               : bad(err, "a hash table is too full");
}

static int compare_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    int c = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return c ? c : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* One of the two orders of added tokens: strictly rising, only tokens of its kind. */
static int check_matcher(struct tokenizer *tok, struct matcher *m, int table, uint32_t normalized,
                         struct err *err) {
    struct tok_span last = {0};
    m->n = (uint32_t)table_count(tok->header, table);
    if (!ids_fit(m->order, table_count(tok->header, table), tok->n_added)) {
        return bad(err, "an added token's row is out of range");
    }
    unsigned next = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct tok_added *a = &tok->added[m->order[i]];
        if ((a->flags & TOK_ADDED_NORMALIZED) != normalized ||
            compare_text(tokenizer_span(tok, last), last.bytes, tokenizer_span(tok, a->match),
                         a->match.bytes) >= 0) {
            return bad(err, "added tokens are not in order");
        }
        last = a->match;
        for (unsigned b = (uint8_t)*tokenizer_span(tok, a->match); next <= b; next++) {
            m->first[next] = i;
        }
    }
    for (; next <= 256; next++) {
        m->first[next] = m->n;
    }
    return 0;
}

static int check_added(struct tokenizer *tok, struct err *err) {
    uint64_t n = table_count(tok->header, TOK_ADDED), flagged = 0, text_bytes = 0;
    if (n > tok->n_tokens) {
        return bad(err, "more added tokens than tokens");
    }
    tok->n_added = (uint32_t)n;
    for (uint32_t i = 0; i < tok->n_added; i++) {
        const struct tok_added *a = &tok->added[i];
        text_bytes += a->match.bytes;
        if (text_bytes > tok->header->tables[TOK_BLOB].bytes || a->id >= tok->n_tokens ||
            (i && a->id <= tok->added[i - 1].id) || !(tok->flags[a->id] & TOK_TOKEN_ADDED) ||
            (a->flags & ~(uint32_t)TOK_ADDED_FLAGS_KNOWN) || a->match.bytes == 0 ||
            !span_is_text(tok, a->match)) {
            return err_set(err, "tokenizer section: added token %u is malformed", i);
        }
    }
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        flagged += (tok->flags[i] & TOK_TOKEN_ADDED) != 0;
    }
    if (flagged != n) {
        return bad(err, "added tokens and token flags disagree");
    }
    if (check_matcher(tok, &tok->raw, TOK_MATCH_RAW, 0, err) < 0) {
        return -1;
    }
    return check_matcher(tok, &tok->normalized, TOK_MATCH_NORMALIZED, TOK_ADDED_NORMALIZED, err);
}

/* ---- steps ----------------------------------------------------------------------------------- */

enum stage { STAGE_NORMALIZER, STAGE_PRE_TOKENIZER, STAGE_DECODER };

enum { NEEDS_PATTERN = 1, NEEDS_CONTENT = 2, NEEDS_CHAR = 4, FUSES = 8, AFTER_FUSE = 16 };

/* What a step needs; AFTER_FUSE: a decoder that works on one long text as it does on tokens. */
static const struct {
    uint16_t kind;
    uint8_t stage, needs;
    const char *name; /* as tokenizer.json calls it */
} step_kinds[] = {
    {TOK_NORM_NFC, STAGE_NORMALIZER, 0, "NFC"},
    {TOK_NORM_NFD, STAGE_NORMALIZER, 0, "NFD"},
    {TOK_NORM_NFKC, STAGE_NORMALIZER, 0, "NFKC"},
    {TOK_NORM_NFKD, STAGE_NORMALIZER, 0, "NFKD"},
    {TOK_NORM_REPLACE, STAGE_NORMALIZER, NEEDS_PATTERN, "Replace"},
    {TOK_NORM_PREPEND, STAGE_NORMALIZER, 0, "Prepend"},
    {TOK_NORM_STRIP, STAGE_NORMALIZER, 0, "Strip"},
    {TOK_NORM_LOWERCASE, STAGE_NORMALIZER, 0, "Lowercase"},
    {TOK_PRE_SPLIT, STAGE_PRE_TOKENIZER, NEEDS_PATTERN, "Split"},
    {TOK_PRE_BYTE_LEVEL, STAGE_PRE_TOKENIZER, 0, "ByteLevel"},
    {TOK_PRE_METASPACE, STAGE_PRE_TOKENIZER, NEEDS_CHAR, "Metaspace"},
    {TOK_PRE_DIGITS, STAGE_PRE_TOKENIZER, 0, "Digits"},
    {TOK_PRE_PUNCTUATION, STAGE_PRE_TOKENIZER, 0, "Punctuation"},
    {TOK_PRE_WHITESPACE, STAGE_PRE_TOKENIZER, 0, "Whitespace"},
    {TOK_PRE_WHITESPACE_SPLIT, STAGE_PRE_TOKENIZER, 0, "WhitespaceSplit"},
    {TOK_DEC_BYTE_LEVEL, STAGE_DECODER, FUSES, "ByteLevel"},
    {TOK_DEC_METASPACE, STAGE_DECODER, NEEDS_CHAR, "Metaspace"},
    {TOK_DEC_BYTE_FALLBACK, STAGE_DECODER, 0, "ByteFallback"},
    {TOK_DEC_FUSE, STAGE_DECODER, FUSES | AFTER_FUSE, "Fuse"},
    {TOK_DEC_STRIP, STAGE_DECODER, NEEDS_CHAR | AFTER_FUSE, "Strip"},
    {TOK_DEC_REPLACE, STAGE_DECODER, NEEDS_PATTERN, "Replace"},
    {TOK_DEC_JOIN, STAGE_DECODER, 0, "Join"},
};

static int step_needs(uint16_t kind, enum stage stage) {
    for (size_t i = 0; i < sizeof step_kinds / sizeof step_kinds[0]; i++) {
        if (step_kinds[i].kind == kind && step_kinds[i].stage == (uint8_t)stage) {
            return step_kinds[i].needs;
        }
    }
    return -1;
}

static enum stage stage_of(const struct tok_header *h, uint32_t step) {
    return step < h->n_normalizers                         ? STAGE_NORMALIZER
           : step < h->n_normalizers + h->n_pre_tokenizers ? STAGE_PRE_TOKENIZER
                                                           : STAGE_DECODER;
}

int tokenizer_step_error(const struct tokenizer *tok, uint32_t step, struct err *err) {
    static const char *const stages[] = {"normalizer", "pre-tokenizer", "decoder"};
    const struct tok_header *h = tok->header;
    enum stage stage = stage_of(h, step);
    uint32_t first = stage == STAGE_NORMALIZER      ? 0
                     : stage == STAGE_PRE_TOKENIZER ? h->n_normalizers
                                                    : h->n_normalizers + h->n_pre_tokenizers;
    const char *name = "?";
    for (size_t i = 0; i < sizeof step_kinds / sizeof step_kinds[0]; i++) {
        name = step_kinds[i].kind == tok->steps[step].kind ? step_kinds[i].name : name;
    }
    return err_prefix(err, "%s step %u, %s", stages[stage], step - first + 1, name);
}

const char *tokenizer_step_pattern(const struct tokenizer *tok, uint32_t step, size_t *bytes) {
    const struct tok_step *s = &tok->steps[step];
    if (s->kind == TOK_PRE_BYTE_LEVEL && (s->flags & TOK_STEP_USE_REGEX)) {
        *bytes = sizeof gpt2_pattern - 1;
        return gpt2_pattern;
    }
    *bytes = s->pattern.bytes;
    bool runs =
        s->kind == TOK_NORM_REPLACE || s->kind == TOK_PRE_SPLIT || s->kind == TOK_DEC_REPLACE;
    return runs && (s->flags & TOK_STEP_REGEX) ? tokenizer_span(tok, s->pattern) : NULL;
}

static int open_step(struct tokenizer *tok, uint32_t i, enum stage stage, bool *fused,
                     struct err *err) {
    const struct tok_step *s = &tok->steps[i];
    int needs = step_needs(s->kind, stage);
    uint32_t cp;
    if (needs < 0) {
        return err_set(err, "tokenizer section: step %u has kind %u, which is unknown here", i,
                       s->kind);
    }
    bool regex = s->flags & TOK_STEP_REGEX;
    if ((s->flags & ~(uint32_t)TOK_STEP_FLAGS_KNOWN) || s->behavior >= TOK_BEHAVIORS ||
        s->reserved || s->a > UINT16_MAX || s->b > UINT16_MAX || !span_is_text(tok, s->pattern) ||
        !span_is_text(tok, s->content) || s->content.bytes > MAX_CONTENT_BYTES ||
        s->pattern.bytes > (regex ? (uint32_t)TOK_MAX_PATTERN : (uint32_t)MAX_CONTENT_BYTES) ||
        ((needs & NEEDS_PATTERN) && s->pattern.bytes == 0) ||
        ((needs & NEEDS_CHAR) &&
         (s->content.bytes == 0 || s->content.bytes > 4 ||
          text_get(tokenizer_span(tok, s->content), &cp) != s->content.bytes)) ||
        (s->kind == TOK_PRE_METASPACE && s->a >= TOK_SCHEMES) ||
        (s->kind == TOK_DEC_METASPACE && s->a >= TOK_SCHEMES)) {
        return err_set(err, "tokenizer section: step %u is malformed", i);
    }
    if (*fused && (!(needs & AFTER_FUSE) || s->b)) {
        return err_set(err, "tokenizer section: step %u cannot follow a step that fuses tokens", i);
    }
    *fused = *fused || (needs & FUSES);
    size_t bytes;
    const char *pattern = tokenizer_step_pattern(tok, i, &bytes);
    if (pattern) {
        tok->regexes[i] = regex_compile(pattern, bytes, err);
        if (!tok->regexes[i]) {
            return err_prefix(err, "tokenizer section: step %u", i);
        }
        tok->n_counted += regex_is_counted(tok->regexes[i]);
    }
    return 0;
}

static int open_steps(struct tokenizer *tok, struct err *err) {
    const struct tok_header *h = tok->header;
    uint64_t n = table_count(h, TOK_STEPS);
    bool fused = false;
    if (n > TOK_MAX_STEPS ||
        n != (uint64_t)h->n_normalizers + h->n_pre_tokenizers + h->n_decoders) {
        return err_set(err,
                       "tokenizer section: %llu steps; the header's counts do not add up to that,"
                       " or it is above %d",
                       (unsigned long long)n, TOK_MAX_STEPS);
    }
    tok->n_steps = (uint32_t)n;
    for (uint32_t i = 0; i < tok->n_steps; i++) {
        if (open_step(tok, i, stage_of(h, i), &fused, err) < 0) {
            return -1;
        }
    }
    return 0;
}

static void find_small_tokens(struct tokenizer *tok) {
    for (uint32_t cp = 0; cp < sizeof tok->char_ids / sizeof *tok->char_ids; cp++) {
        char utf8[4];
        size_t n = text_put(cp, utf8);
        tok->char_ids[cp] = tokenizer_vocab_find(tok, utf8, n);
    }
    for (unsigned b = 0; b < 256; b++) {
        static const char digits[] = "0123456789ABCDEF";
        const char spelled[6] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
        tok->byte_ids[b] = tokenizer_vocab_find(tok, spelled, sizeof spelled);
    }
}

int tokenizer_open(const void *section, size_t section_bytes, struct tokenizer **out,
                   struct err *err) {
    const uint8_t *base = section;
    *out = NULL;
    if (check_header(base, section_bytes, err) < 0) {
        return -1;
    }
    const struct tok_header *h = section;
    struct tokenizer *tok = mem_calloc(1, sizeof *tok);
    tok->header = h;
    tok->piece_bytes = TOK_PIECE_BYTES;
    tok->part_bytes = TOK_PART_BYTES;
    tok->blob = (const char *)base + h->tables[TOK_BLOB].offset;
    tok->spans = (const void *)(base + h->tables[TOK_SPANS].offset);
    tok->flags = base + h->tables[TOK_TOKEN_FLAGS].offset;
    tok->vocab = (const void *)(base + h->tables[TOK_VOCAB].offset);
    tok->merges = (const void *)(base + h->tables[TOK_MERGES].offset);
    tok->added = (const void *)(base + h->tables[TOK_ADDED].offset);
    tok->raw.order = (const void *)(base + h->tables[TOK_MATCH_RAW].offset);
    tok->normalized.order = (const void *)(base + h->tables[TOK_MATCH_NORMALIZED].offset);
    tok->steps = (const void *)(base + h->tables[TOK_STEPS].offset);
    tok->prefix = (const void *)(base + h->tables[TOK_PREFIX].offset);
    tok->suffix = (const void *)(base + h->tables[TOK_SUFFIX].offset);
    tok->chat_template = (const char *)base + h->tables[TOK_CHAT_TEMPLATE].offset;
    tok->chat_template_bytes = h->tables[TOK_CHAT_TEMPLATE].bytes;
    if (check_tokens(tok, err) < 0 || check_hash_tables(tok, err) < 0 ||
        check_added(tok, err) < 0 || open_steps(tok, err) < 0) {
        tokenizer_close(tok);
        return -1;
    }
    find_small_tokens(tok);
    *out = tok;
    return 0;
}

int tokenizer_open_for(const void *section, size_t section_bytes, uint32_t vocab,
                       struct tokenizer **out, struct err *err) {
    if (tokenizer_open(section, section_bytes, out, err) < 0) {
        return -1;
    }
    uint32_t n = tokenizer_vocab_size(*out);
    if (n <= vocab) {
        return 0;
    }
    tokenizer_close(*out);
    *out = NULL;
    return err_set(err,
                   "token ids up to %u, the model's vocabulary has %u rows: expected ids below",
                   n - 1, vocab);
}

void tokenizer_close(struct tokenizer *tok) {
    if (!tok) {
        return;
    }
    for (int i = 0; i < TOK_MAX_STEPS; i++) {
        regex_free(tok->regexes[i]);
    }
    free(tok);
}
