#include "prep/inspect.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "format/cli.h"
#include "format/number.h"
#include "format/text/chat_book.h"
#include "format/text/tokenizer.h"
#include "prep/json_out.h"

enum { LICENSE_LINES_SHOWN = 3, MAX_CODECS = 16 };

/* ---- figures that both reports give ---- */

/* Sums over the records of one layer, or of all layers. */
struct record_sums {
    uint64_t raw_bytes, stored_bytes, hot_raw_bytes, hot_stored_bytes;
    uint64_t records, chunks, raw_chunks;
    uint64_t by_encoding[CORM_ENCODING_COUNT], cold_by_encoding[CORM_ENCODING_COUNT]; /* chunks */
    uint64_t neurons, hot_neurons;
};

static void sum_record(const struct corm *c, const struct corm_record *r, struct record_sums *s) {
    s->records++;
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[r->first_chunk + i];
        bool hot = i < r->n_hot;
        uint64_t raw = corm_chunk_raw_bytes(c, k);
        s->raw_bytes += raw;
        s->stored_bytes += k->stored_bytes;
        s->hot_raw_bytes += hot ? raw : 0;
        s->hot_stored_bytes += hot ? k->stored_bytes : 0;
        s->neurons += k->n_neurons;
        s->hot_neurons += hot ? k->n_neurons : 0;
        s->chunks++;
        s->raw_chunks += k->encoding == CORM_ENCODING_RAW;
        s->by_encoding[k->encoding]++;
        s->cold_by_encoding[k->encoding] += !hot;
    }
}

/* The sums of layer `layer`, or of all layers where `layer` is n_layers. */
static struct record_sums sum_records(const struct corm *c, uint32_t layer) {
    struct record_sums s = {0};
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(&c->arch, l) && e < c->arch.n_experts; e++) {
            if (layer == l || layer == c->arch.n_layers) {
                sum_record(c, corm_record_of(c, l, e), &s);
            }
        }
    }
    return s;
}

/* The trunk tensors of one codec. */
struct trunk_sums {
    const struct codec *codec;
    uint32_t tensors;
    uint64_t bytes;
};

static size_t sum_trunk(const struct corm *c, struct trunk_sums sums[MAX_CODECS]) {
    size_t n = 0;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        const struct codec *codec = codec_by_id(c->tensors[i].codec);
        size_t k = 0;
        while (k < n && sums[k].codec != codec) {
            k++;
        }
        if (k == n) {
            sums[n++] = (struct trunk_sums){.codec = codec};
        }
        sums[k].tensors++;
        sums[k].bytes += c->tensors[i].bytes;
    }
    return n;
}

static double ratio(uint64_t part, uint64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

static int open_texts(const struct corm *c, struct tokenizer **tok, struct chat_book *book,
                      struct err *err) {
    if (tokenizer_open_for(c->tokenizer.data, c->tokenizer.size_bytes, c->arch.vocab, tok, err)) {
        return err_prefix(err, "tokenizer");
    }
    if (chat_book_open(book, c->conversations.data, c->conversations.size_bytes, err)) {
        tokenizer_close(*tok);
        return -1;
    }
    return 0;
}

/* ---- text ---- */

/* The text is anybody's. */
static void put_text(const char *text, size_t n, struct buf *out) {
    size_t at = out->len;
    buf_append(out, text, n);
    text_clean(out->data + at, n);
}

static void text_field(void *ctx, const char *key, const char *value) {
    buf_printf(ctx, "  %-20s ", key);
    put_text(value, strlen(value), ctx);
    buf_append(ctx, "\n", 1);
}

/* What conversations have beside the tokenizer. */
static void text_entry(const struct chat_entry *e, struct buf *out) {
    char size[CLI_SIZE_TEXT];
    if (e->kind == CHAT_ENTRY_TEMPLATE) {
        buf_printf(out, "  %-20s ", "chat template");
        put_text(e->name, e->name_bytes, out);
        buf_printf(out, ", %s\n", cli_size_text(size, e->bytes));
        return;
    }
    buf_printf(out, "  ");
    put_text(e->kind == CHAT_ENTRY_TOKEN ? e->name : "control token",
             e->kind == CHAT_ENTRY_TOKEN ? e->name_bytes : sizeof "control token" - 1, out);
    buf_printf(out, " ");
    put_text(e->text, e->bytes, out);
    buf_printf(out, "\n");
}

static void text_sections(const struct corm *c, struct buf *out) {
    buf_printf(out, "\nSections\n  %-13s %16s %14s  %s\n", "name", "offset", "size", "checksum");
    for (uint32_t i = 0; i < c->header.section_count; i++) {
        const struct corm_section *s = &c->sections[i];
        char size[CLI_SIZE_TEXT];
        buf_printf(out, "  %-13s %16" PRIu64 " %14s  ", corm_section_name(s->type), s->offset,
                   cli_size_text(size, s->bytes));
        if (s->hash) {
            buf_printf(out, "%016" PRIx64 "\n", s->hash);
        } else {
            buf_printf(out, "per part\n");
        }
    }
}

static void text_trunk(const struct corm *c, struct buf *out) {
    struct trunk_sums sums[MAX_CODECS];
    size_t n = sum_trunk(c, sums);
    buf_printf(out, "\nTrunk\n  %-8s %8s %14s\n", "codec", "tensors", "size");
    for (size_t i = 0; i < n; i++) {
        char size[CLI_SIZE_TEXT];
        buf_printf(out, "  %-8s %8u %14s\n", sums[i].codec->name, sums[i].tensors,
                   cli_size_text(size, sums[i].bytes));
    }
}

static void text_record_row(const char *name, const struct record_sums *s, struct buf *out) {
    char raw[CLI_SIZE_TEXT], stored[CLI_SIZE_TEXT], hot[CLI_SIZE_TEXT];
    buf_printf(out, "  %-6s %8" PRIu64 " %12s %12s %7.3f %12s %7.3f %9" PRIu64 " %9" PRIu64 "\n",
               name, s->records, cli_size_text(raw, s->raw_bytes),
               cli_size_text(stored, s->stored_bytes), ratio(s->stored_bytes, s->raw_bytes),
               cli_size_text(hot, s->hot_stored_bytes), ratio(s->hot_neurons, s->neurons),
               s->chunks, s->raw_chunks);
}

static void text_experts(const struct corm *c, struct buf *out) {
    buf_printf(out,
               "\nExperts: codec %s, compression %s, %s%zu bytes a neuron, chunks of %u neurons\n",
               c->codec_names, corm_compress_of(c), c->mixed ? "at most " : "", c->neuron_bytes,
               c->chunk_neurons);
    buf_printf(out, "  %-6s %8s %12s %12s %7s %12s %7s %9s %9s\n", "layer", "experts", "raw",
               "stored", "ratio", "hot", "of all", "chunks", "raw");
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        if (arch_is_moe(&c->arch, l)) {
            char name[16];
            snprintf(name, sizeof name, "%u", l);
            struct record_sums s = sum_records(c, l);
            text_record_row(name, &s, out);
        }
    }
    struct record_sums all = sum_records(c, c->arch.n_layers);
    text_record_row("all", &all, out);
    for (uint32_t e = 0; e < CORM_ENCODING_COUNT; e++) {
        if (all.by_encoding[e]) {
            buf_printf(out, "  %" PRIu64 " chunks are of encoding %s, %" PRIu64 " of them cold\n",
                       all.by_encoding[e], corm_encoding_name(e), all.cold_by_encoding[e]);
        }
    }
}

static void text_token(const struct tokenizer *tok, const char *name, uint32_t id,
                       struct buf *out) {
    size_t n = 0;
    const char *piece = id == TOKEN_NONE ? NULL : tokenizer_piece(tok, id, &n);
    if (piece) {
        buf_printf(out, "  %-20s %u ", name, id);
        put_text(piece, n, out);
        buf_printf(out, "\n");
    } else {
        buf_printf(out, "  %-20s none\n", name);
    }
}

static void text_lines(const struct corm_bytes *bytes, int max_lines, struct buf *out) {
    size_t at = 0;
    for (int line = 0; at < bytes->size_bytes && line < max_lines; line++) {
        const char *begin = (const char *)bytes->data + at;
        const char *end = memchr(begin, '\n', bytes->size_bytes - at);
        size_t n = end ? (size_t)(end - begin) : bytes->size_bytes - at;
        buf_printf(out, "  ");
        put_text(begin, n, out);
        buf_printf(out, "\n");
        at += n + 1;
    }
}

/* Append the number of parameters, and of those that a token uses, with and without the
 * embedding. */
static void text_parameters(const struct arch *a, struct buf *out) {
    uint64_t embedding = arch_params_embedding(a);
    const struct {
        const char *name;
        uint64_t n;
    } rows[] = {{"in all", arch_params(a)}, {"used by a token", arch_params_active(a)}};
    buf_printf(out, "\nParameters\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_printf(out, "  %-20s %" PRIu64 ", %" PRIu64 " without the embedding\n", rows[i].name,
                   rows[i].n, rows[i].n - embedding);
    }
}

int inspect_text(const struct corm *c, const char *path, struct buf *out, struct err *err) {
    struct tokenizer *tok;
    struct chat_book book;
    if (open_texts(c, &tok, &book, err)) {
        return -1;
    }
    char size[CLI_SIZE_TEXT];
    put_text(path, strlen(path), out);
    buf_printf(out, ": CORM version %u, %s, %.4g M parameters, %.4g M used by a token\n",
               c->header.version, cli_size_text(size, c->header.file_bytes),
               (double)arch_params(&c->arch) / 1e6, (double)arch_params_active(&c->arch) / 1e6);
    text_parameters(&c->arch, out);
    buf_printf(out, "\nArchitecture\n");
    arch_describe(&c->arch, text_field, out);
    text_sections(c, out);
    text_trunk(c, out);
    text_experts(c, out);
    size_t template_bytes = 0;
    const char *template = tokenizer_chat_template(tok, &template_bytes);
    buf_printf(out, "\nTokenizer\n  %-20s %u\n", "tokens", tokenizer_vocab_size(tok));
    text_token(tok, "bos", tokenizer_bos(tok), out);
    text_token(tok, "eos", tokenizer_eos(tok), out);
    buf_printf(out, "  %-20s %s\n", "adds bos", tokenizer_adds_bos(tok) ? "yes" : "no");
    buf_printf(out, "  %-20s %s\n", "chat template",
               template ? cli_size_text(size, template_bytes) : "none");
    for (size_t i = 0; i < book.n; i++) {
        text_entry(&book.entries[i], out);
    }
    buf_printf(out, "\nProvenance\n");
    text_lines(&c->provenance, INT32_MAX, out);
    buf_printf(out, "\nLicence%s\n", c->license.data ? "" : ": none given");
    text_lines(&c->license, LICENSE_LINES_SHOWN, out);
    if (c->license.size_bytes) {
        buf_printf(out, "  (%zu bytes in all; --json shows the whole text)\n",
                   c->license.size_bytes);
    }
    chat_book_close(&book);
    tokenizer_close(tok);
    return 0;
}

/* ---- JSON ---- */

static void json_field(void *ctx, const char *key, const char *value) {
    char *int_end, *real_end;
    long long integer = strtoll(value, &int_end, 10);
    double real = number_parse(value, &real_end);
    json_object_set_new(ctx, key,
                        *value && !*int_end    ? json_integer(integer)
                        : *value && !*real_end ? json_real(real)
                                               : json_string(value));
}

static json_t *json_u32s(const uint32_t *values, uint32_t n) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(values[i]));
    }
    return list;
}

static json_t *json_floats(const float *values, uint32_t n) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(list, json_real((double)values[i]));
    }
    return list;
}

/* Scalars are as arch_describe gives them. Lists, which that shortens, are whole here. */
static json_t *json_arch(const struct arch *a) {
    json_t *arch = json_object();
    arch_describe(a, json_field, arch);
    uint32_t *window = mem_calloc(2 * (size_t)a->n_layers, sizeof *window);
    uint32_t *moe = window + a->n_layers;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        window[l] = arch_kind(a, l)->att.window;
        moe[l] = arch_kind(a, l)->moe;
    }
    json_object_set_new(arch, "window", json_u32s(window, a->n_layers));
    json_object_set_new(arch, "moe", json_u32s(moe, a->n_layers));
    free(window);
    json_object_set_new(arch, "stop_ids", json_u32s(a->stop_ids, a->n_stop));
    json_object_set_new(arch, "rope_inv_freq", json_floats(a->rope_inv_freq, a->n_inv_freq));
    if (a->n_rope_long > 0) {
        json_object_set_new(arch, "rope_long_tok", json_u32s(a->rope_long_tok, a->n_rope_long));
        json_object_set_new(arch, "rope_long_inv_freq",
                            json_floats(a->rope_long_inv_freq, a->n_long_inv_freq));
    }
    return arch;
}

static json_t *json_sums(const struct record_sums *s) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "experts",
                     (json_int_t)s->records, "raw_bytes", (json_int_t)s->raw_bytes, "stored_bytes",
                     (json_int_t)s->stored_bytes, "hot_raw_bytes", (json_int_t)s->hot_raw_bytes,
                     "hot_stored_bytes", (json_int_t)s->hot_stored_bytes, "neurons",
                     (json_int_t)s->neurons, "hot_neurons", (json_int_t)s->hot_neurons, "chunks",
                     (json_int_t)s->chunks, "raw_chunks", (json_int_t)s->raw_chunks);
}

static json_t *json_id(uint32_t id) {
    return id == TOKEN_NONE ? json_null() : json_integer(id);
}

/* A string of unknown origin; null where it is not UTF-8. */
static json_t *json_text(const void *data, size_t bytes) {
    json_t *s = data ? json_stringn(data, bytes) : NULL;
    return s ? s : json_null();
}

static json_t *json_encodings(const uint64_t chunks[CORM_ENCODING_COUNT]) {
    json_t *encodings = json_object();
    for (uint32_t e = 0; e < CORM_ENCODING_COUNT; e++) {
        json_object_set_new(encodings, corm_encoding_name(e), json_integer((json_int_t)chunks[e]));
    }
    return encodings;
}

static json_t *json_experts(const struct corm *c) {
    struct record_sums all = sum_records(c, c->arch.n_layers);
    json_t *experts = json_sums(&all);
    json_t *layers = json_array();
    for (uint32_t l = 0; l < c->arch.n_layers; l++) {
        if (arch_is_moe(&c->arch, l)) {
            struct record_sums s = sum_records(c, l);
            json_t *row = json_sums(&s);
            json_object_set_new(row, "layer", json_integer(l));
            json_array_append_new(layers, row);
        }
    }
    json_object_set_new(experts, "encodings", json_encodings(all.by_encoding));
    json_object_set_new(experts, "cold_encodings", json_encodings(all.cold_by_encoding));
    json_object_set_new(experts, "compression", json_string(corm_compress_of(c)));
    json_object_set_new(experts, "codec", json_string(c->codec_names));
    json_object_set_new(experts, "neuron_bytes", json_integer((json_int_t)c->neuron_bytes));
    json_object_set_new(experts, "chunk_neurons", json_integer(c->chunk_neurons));
    json_object_set_new(experts, "layers", layers);
    return experts;
}

static json_t *json_sections(const struct corm *c) {
    json_t *sections = json_array();
    for (uint32_t i = 0; i < c->header.section_count; i++) {
        const struct corm_section *s = &c->sections[i];
        char hash[24];
        snprintf(hash, sizeof hash, "%016" PRIx64, s->hash);
        /* A section without a checksum (null) has parts that have their own. */
        json_array_append_new(sections,
                              json_pack("{s:s, s:I, s:I, s:s?}", "name", corm_section_name(s->type),
                                        "offset", (json_int_t)s->offset, "bytes",
                                        (json_int_t)s->bytes, "xxh3", s->hash ? hash : NULL));
    }
    return sections;
}

static json_t *json_trunk(const struct corm *c) {
    struct trunk_sums sums[MAX_CODECS];
    size_t n = sum_trunk(c, sums);
    json_t *trunk = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(trunk, json_pack("{s:s, s:I, s:I}", "codec", sums[i].codec->name,
                                               "tensors", (json_int_t)sums[i].tensors, "bytes",
                                               (json_int_t)sums[i].bytes));
    }
    return trunk;
}

/* The provenance section's lines as [key, value] pairs. */
static json_t *json_provenance(const struct corm *c) {
    json_t *pairs = json_array();
    const char *p = (const char *)c->provenance.data, *end = p + c->provenance.size_bytes;
    while (p && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        const char *colon = memchr(p, ':', (size_t)(stop - p));
        if (colon && stop - colon >= 2) {
            json_t *pair = json_array();
            json_array_append_new(pair, json_text(p, (size_t)(colon - p)));
            json_array_append_new(pair, json_text(colon + 2, (size_t)(stop - colon - 2)));
            json_array_append_new(pairs, pair);
        }
        p = stop + 1;
    }
    return pairs;
}

static void json_parameters(const struct arch *a, json_t *root) {
    json_object_set_new(root, "parameters", json_integer((json_int_t)arch_params(a)));
    json_object_set_new(root, "parameters_active", json_integer((json_int_t)arch_params_active(a)));
    json_object_set_new(root, "parameters_embedding",
                        json_integer((json_int_t)arch_params_embedding(a)));
    json_object_set_new(root, "architecture", json_arch(a));
}

/* Append the report's text, and free it. */
static void json_print(json_t *root, struct buf *out) {
    json_out(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9), out);
}

/* {"templates": {name: text}, "tokens": {name: text}, "control_tokens": [text]} */
static json_t *json_conversations(const struct chat_book *book) {
    json_t *templates = json_object(), *tokens = json_object(), *control = json_array();
    for (size_t i = 0; i < book->n; i++) {
        const struct chat_entry *e = &book->entries[i];
        json_t *text = json_text(e->text, e->bytes);
        if (e->kind == CHAT_ENTRY_CONTROL) {
            json_array_append_new(control, text);
        } else {
            json_object_setn_new(e->kind == CHAT_ENTRY_TEMPLATE ? templates : tokens, e->name,
                                 e->name_bytes, text);
        }
    }
    return json_pack("{s:o, s:o, s:o}", "templates", templates, "tokens", tokens, "control_tokens",
                     control);
}

int inspect_json(const struct corm *c, const char *path, struct buf *out, struct err *err) {
    struct tokenizer *tok;
    struct chat_book book;
    if (open_texts(c, &tok, &book, err)) {
        return -1;
    }
    json_t *root = json_object(), *token = json_object();
    size_t template_bytes = 0;
    const char *template = tokenizer_chat_template(tok, &template_bytes);
    json_object_set_new(token, "tokens", json_integer(tokenizer_vocab_size(tok)));
    json_object_set_new(token, "bos", json_id(tokenizer_bos(tok)));
    json_object_set_new(token, "eos", json_id(tokenizer_eos(tok)));
    json_object_set_new(token, "adds_bos", json_boolean(tokenizer_adds_bos(tok)));
    json_object_set_new(token, "chat_template", json_text(template, template_bytes));
    json_object_set_new(root, "file", json_text(path, strlen(path)));
    json_object_set_new(root, "version", json_integer(c->header.version));
    json_object_set_new(root, "file_bytes", json_integer((json_int_t)c->header.file_bytes));
    json_parameters(&c->arch, root);
    json_object_set_new(root, "sections", json_sections(c));
    json_object_set_new(root, "trunk", json_trunk(c));
    json_object_set_new(root, "experts", json_experts(c));
    json_object_set_new(root, "tokenizer", token);
    json_object_set_new(root, "conversations", json_conversations(&book));
    json_object_set_new(root, "provenance", json_provenance(c));
    json_object_set_new(root, "license", json_text(c->license.data, c->license.size_bytes));
    json_print(root, out);
    chat_book_close(&book);
    tokenizer_close(tok);
    return 0;
}

/* ---- checkpoints ---- */

void inspect_config(const struct arch *a, const char *quantised, const char *path, bool json,
                    struct buf *out) {
    if (json) {
        json_t *root = json_object();
        json_object_set_new(root, "file", json_text(path, strlen(path)));
        json_object_set_new(root, "quantised", quantised ? json_string(quantised) : json_null());
        json_parameters(a, root);
        json_print(root, out);
        return;
    }
    put_text(path, strlen(path), out);
    buf_printf(out, ": a checkpoint of family %s, %.4g M parameters, %.4g M used by a token\n",
               a->family, (double)arch_params(a) / 1e6, (double)arch_params_active(a) / 1e6);
    if (quantised) {
        buf_printf(out, "  weights are quantised by %s\n", quantised);
    }
    text_parameters(a, out);
    buf_printf(out, "\nArchitecture\n");
    arch_describe(a, text_field, out);
}
