#include "prep/gguf/gguf_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "prep/gguf/gguf_pre.h"
#include "prep/hf/hf_tokenizer.h"

enum token_type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

struct reading {
    const struct gguf *g;
    struct err *err;
    struct gguf_text *texts; /* [n] of the tokens */
    uint8_t *types;          /* [n] enum token_type */
    uint64_t n;
    json_t *vocab; /* texts to ids, of those that are not only added */
    json_t *added;
    json_t *merges;
    json_t *config; /* tokenizer_config.json */
};

static int refuse(const struct reading *r, const char *key, const char *expected) {
    return err_set(r->err, "%s: %s: expected %s", r->g->path, key, expected);
}

static bool is_word(const struct gguf_text *t, const char *word) {
    return t->bytes == strlen(word) && memcmp(t->data, word, t->bytes) == 0;
}

/* ---- tokens ---- */

static int read_tokens(struct reading *r) {
    static const char key[] = "tokenizer.ggml.tokens", type_key[] = "tokenizer.ggml.token_type";
    const struct gguf_value *v = gguf_find(r->g, key), *types = gguf_find(r->g, type_key);
    struct gguf_walk at = {0};
    if (!v || !v->list || v->type != GGUF_STRING || v->n == 0 || v->n > INT32_MAX) {
        return refuse(r, key, "a list of texts");
    }
    if (types && (!types->list || types->n != v->n)) {
        return refuse(r, type_key, "a number for each token");
    }
    r->n = v->n;
    r->texts = mem_calloc(r->n, sizeof *r->texts);
    r->types = mem_alloc(r->n);
    for (uint64_t i = 0; i < r->n; i++) {
        int64_t type = NORMAL;
        gguf_next_text(v, &at, &r->texts[i]);
        if (types && (!gguf_integer(types, i, &type) || type < 0 || type > BYTE)) {
            return refuse(r, type_key, "numbers from 1 to 6");
        }
        r->types[i] = (uint8_t)(type == 0 ? NORMAL : type);
    }
    return 0;
}

static bool is_added(const struct reading *r, uint64_t i) {
    return r->types[i] == CONTROL || r->types[i] == USER_DEFINED;
}

/* From which id on tokens are only added ones, without a hole: as published files have them, which
 * give those the ids behind the vocabulary's. */
static uint64_t vocab_end(const struct reading *r) {
    uint64_t end = r->n, holes = 0;
    while (end > 0 && r->types[end - 1] == UNUSED) {
        end--;
    }
    while (end > 0 && is_added(r, end - 1)) {
        end--;
    }
    for (uint64_t i = 0; i < end; i++) {
        holes += r->types[i] == UNUSED;
    }
    return holes ? r->n : end;
}

static int add_token(struct reading *r, uint64_t id, bool of_vocab) {
    const struct gguf_text *t = &r->texts[id];
    json_t *key = json_stringn(t->data, t->bytes);
    if (!key || t->bytes == 0) {
        json_decref(key);
        return err_set(r->err, "%s: tokenizer.ggml.tokens: token %llu is empty or no UTF-8",
                       r->g->path, (unsigned long long)id);
    }
    if (is_added(r, id)) {
        json_array_append_new(r->added,
                              json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id,
                                        "content", key, "single_word", 0, "lstrip", 0, "rstrip", 0,
                                        "normalized", 0, "special", r->types[id] == CONTROL));
    }
    json_decref(key);
    if (of_vocab) {
        if (json_object_getn(r->vocab, t->data, t->bytes)) {
            return err_set(r->err, "%s: tokenizer.ggml.tokens: '%.*s' is there twice, as %llu too",
                           r->g->path, (int)(t->bytes < 64 ? t->bytes : 64), t->data,
                           (unsigned long long)id);
        }
        json_object_setn_new(r->vocab, t->data, t->bytes, json_integer((json_int_t)id));
    }
    return 0;
}

static int add_tokens(struct reading *r) {
    const uint64_t end = vocab_end(r);
    for (uint64_t i = 0; i < r->n; i++) {
        if (r->types[i] != UNUSED && add_token(r, i, i < end) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- merges ---- */

static int read_merges(struct reading *r) {
    static const char key[] = "tokenizer.ggml.merges";
    const struct gguf_value *v = gguf_find(r->g, key);
    struct gguf_walk at = {0};
    struct gguf_text t;
    if (!v || !v->list || (v->type != GGUF_STRING && v->n > 0)) {
        return refuse(r, key, "a list of texts");
    }
    while (gguf_next_text(v, &at, &t)) {
        json_t *merge = json_stringn(t.data, t.bytes);
        if (!merge) {
            return refuse(r, key, "texts in UTF-8");
        }
        json_array_append_new(r->merges, merge);
    }
    return 0;
}

/* A way in which two tokens make a third. */
struct pair {
    float score; /* of the third */
    uint32_t left_chars, right_chars;
    uint32_t made, left, right; /* ids */
};

static int by_id(uint32_t x, uint32_t y) {
    return (x > y) - (x < y);
}

/* Greater scores first; where they are alike, longer sides; then lower ids of the third, of the
 * left, of the right: as transformers makes merges out of the files of SentencePiece, which sorts
 * them so without changing the order of those that are alike. */
static int by_score(const void *a, const void *b) {
    const struct pair *x = a, *y = b;
    return x->score != y->score               ? (x->score < y->score ? 1 : -1)
           : x->left_chars != y->left_chars   ? (x->left_chars < y->left_chars ? 1 : -1)
           : x->right_chars != y->right_chars ? (x->right_chars < y->right_chars ? 1 : -1)
           : x->made != y->made               ? by_id(x->made, y->made)
           : x->left != y->left               ? by_id(x->left, y->left)
                                              : by_id(x->right, y->right);
}

struct pairs {
    struct pair *list;
    size_t n, cap;
};

static bool begins_char(char c) {
    return ((unsigned char)c & 0xc0) != 0x80;
}

static uint32_t chars_of(const char *text, size_t bytes) {
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += begins_char(text[i]);
    }
    return n;
}

/* The id of a token that merges may have; false where there is none. */
static bool piece_id(const struct reading *r, const char *text, size_t bytes, uint32_t *id) {
    const json_t *v = json_object_getn(r->vocab, text, bytes);
    *id = v ? (uint32_t)json_integer_value(v) : 0;
    return v && r->types[*id] == NORMAL;
}

/* Longer pieces are made by no merge, and a vocabulary has no more ways to make its pieces. */
enum { MAX_PIECE_BYTES = 256, MAX_PAIRS = 4 << 20 };

static int add_pairs(const struct reading *r, uint64_t id, float score, struct pairs *out) {
    const struct gguf_text *t = &r->texts[id];
    for (size_t at = 1; at < t->bytes && t->bytes <= MAX_PIECE_BYTES; at++) {
        struct pair p = {.score = score, .made = (uint32_t)id};
        if (begins_char(t->data[at]) && piece_id(r, t->data, at, &p.left) &&
            piece_id(r, t->data + at, t->bytes - at, &p.right)) {
            p.left_chars = chars_of(t->data, at);
            p.right_chars = chars_of(t->data + at, t->bytes - at);
            if (out->n == MAX_PAIRS) {
                return err_set(r->err,
                               "%s: tokenizer.ggml.tokens: more than %d ways to make tokens of two "
                               "others",
                               r->g->path, MAX_PAIRS);
            }
            out->list = mem_grow(out->list, out->n + 1, &out->cap, sizeof *out->list);
            out->list[out->n++] = p;
        }
    }
    return 0;
}

static int make_merges(struct reading *r) {
    static const char key[] = "tokenizer.ggml.scores";
    const struct gguf_value *v = gguf_find(r->g, key);
    struct pairs pairs = {0};
    if (!v || !v->list || v->n != r->n || v->type != GGUF_F32) {
        return refuse(r, key, "an f32 for each token");
    }
    for (uint64_t i = 0; i < r->n; i++) {
        double score;
        gguf_real(v, i, &score);
        if (score != score) {
            free(pairs.list);
            return refuse(r, key, "numbers");
        }
        if (r->types[i] == NORMAL && add_pairs(r, i, (float)score, &pairs) < 0) {
            free(pairs.list);
            return -1;
        }
    }
    if (pairs.n) {
        qsort(pairs.list, pairs.n, sizeof *pairs.list, by_score);
    }
    for (size_t i = 0; i < pairs.n; i++) {
        const struct gguf_text *a = &r->texts[pairs.list[i].left],
                               *b = &r->texts[pairs.list[i].right];
        json_array_append_new(r->merges,
                              json_pack("[s%, s%]", a->data, a->bytes, b->data, b->bytes));
    }
    free(pairs.list);
    return 0;
}

/* ---- flags and special tokens ---- */

static int read_flag(const struct reading *r, const char *key, bool fallback, bool *out) {
    const struct gguf_value *v = gguf_find(r->g, key);
    int64_t value = fallback;
    if (v && (v->list || !gguf_integer(v, 0, &value) || value < 0 || value > 1)) {
        return refuse(r, key, "true or false");
    }
    *out = value != 0;
    return 0;
}

/* The token whose id stands under `key`, as a name of tokenizer_config.json. */
static int set_name(struct reading *r, const char *key, const char *name) {
    const struct gguf_value *v = gguf_find(r->g, key);
    int64_t id;
    if (!v) {
        return 0;
    }
    if (v->list || !gguf_integer(v, 0, &id)) {
        return refuse(r, key, "a token's id");
    }
    if (id < 0 || (uint64_t)id >= r->n || r->types[id] == UNUSED) {
        return 0; /* how some files write "none" */
    }
    json_object_set_new(r->config, name, json_stringn(r->texts[id].data, r->texts[id].bytes));
    return 0;
}

static int read_names(struct reading *r, bool begins) {
    static const char *const names[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                           {"tokenizer.ggml.eos_token_id", "eos_token"},
                                           {"tokenizer.ggml.padding_token_id", "pad_token"}};
    bool bos = false, eos = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (set_name(r, names[i][0], names[i][1]) < 0) {
            return -1;
        }
    }
    begins = begins && json_object_get(r->config, "bos_token");
    if (read_flag(r, "tokenizer.ggml.add_bos_token", begins, &bos) < 0 ||
        read_flag(r, "tokenizer.ggml.add_eos_token", false, &eos) < 0) {
        return -1;
    }
    json_object_set_new(r->config, "add_bos_token", json_boolean(bos));
    json_object_set_new(r->config, "add_eos_token", json_boolean(eos));
    return 0;
}

/* The chat template, and those with names of their own. */
static int read_templates(struct reading *r) {
    static const char key[] = "tokenizer.chat_template";
    const size_t n = sizeof key - 1;
    json_t *list = json_array();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < r->g->n_values; i++) {
        const struct gguf_value *v = &r->g->values[i];
        struct gguf_text text;
        if (strncmp(v->key, key, n) != 0 || (v->key[n] != '\0' && v->key[n] != '.')) {
            continue;
        }
        const char *name = v->key[n] ? v->key + n + 1 : "default";
        json_t *value = gguf_string(v, &text) ? json_stringn(text.data, text.bytes) : NULL;
        if (value) {
            json_array_append_new(list, json_pack("{s:s, s:o}", "name", name, "template", value));
        } else {
            rc = refuse(r, v->key, "a text in UTF-8");
        }
    }
    if (json_array_size(list) > 0) {
        json_object_set(r->config, "chat_template", list);
    }
    json_decref(list);
    return rc;
}

/* ---- models ---- */

/* tokenizer.json of merges of bytes. */
static int read_bytes(struct reading *r, json_t **root) {
    static const char key[] = "tokenizer.ggml.pre";
    const struct gguf_value *v = gguf_find(r->g, key);
    struct gguf_text name;
    if (!v || !gguf_string(v, &name)) {
        return refuse(r, key, "the name of how text is split before merges, which has no default");
    }
    const struct gguf_pre *pre = gguf_pre_find(&name);
    if (!pre) {
        struct buf list = {0};
        for (size_t i = 0; gguf_pre_at(i); i++) {
            buf_printf(&list, "%s", gguf_pre_at(i)->names + (i > 0));
        }
        err_set(r->err, "%s: %s \"%.*s\" is not read; read are:%.*s", r->g->path, key,
                (int)(name.bytes < 64 ? name.bytes : 64), name.data, (int)list.len - 1, list.data);
        buf_free(&list);
        return -1;
    }
    if (add_tokens(r) < 0 || read_merges(r) < 0 || read_names(r, pre->begins) < 0) {
        return -1;
    }
    *root = json_pack("{s:O, s:o, s:{s:s, s:b, s:s, s:b, s:b}, s:{s:s, s:O, s:O, s:b}}",
                      "added_tokens", r->added, "pre_tokenizer", gguf_pre_json(pre), "decoder",
                      "type", "ByteLevel", "add_prefix_space", 1, "type", "ByteLevel",
                      "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "vocab", r->vocab,
                      "merges", r->merges, "ignore_merges", pre->whole);
    return 0;
}

static json_t *replace(const char *from, const char *to) {
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content",
                     to);
}

#define BAR "\xe2\x96\x81"

/* tokenizer.json of SentencePiece's BPE. */
static int read_pieces(struct reading *r, json_t **root) {
    const char *unknown = "<unk>";
    bool prefix = true;
    if (add_tokens(r) < 0 || make_merges(r) < 0 || read_names(r, true) < 0 ||
        read_flag(r, "tokenizer.ggml.add_space_prefix", true, &prefix) < 0) {
        return -1;
    }
    json_t *normal = json_array(), *decode = json_array();
    if (prefix) {
        json_array_append_new(normal, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", BAR));
    }
    json_array_append_new(normal, replace(" ", BAR));
    json_array_append_new(decode, replace(BAR, " "));
    json_array_append_new(decode, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(decode, json_pack("{s:s}", "type", "Fuse"));
    if (prefix) {
        json_array_append_new(decode, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                                " ", "start", 1, "stop", 0));
    }
    bool has = json_object_get(r->vocab, unknown) != NULL;
    *root = json_pack("{s:O, s:{s:s, s:o}, s:{s:s, s:o}, s:{s:s, s:O, s:O, s:b, s:b, s:s?}}",
                      "added_tokens", r->added, "normalizer", "type", "Sequence", "normalizers",
                      normal, "decoder", "type", "Sequence", "decoders", decode, "model", "type",
                      "BPE", "vocab", r->vocab, "merges", r->merges, "byte_fallback", 1, "fuse_unk",
                      1, "unk_token", has ? unknown : NULL);
    return 0;
}

/* ---- all of it ---- */

static int compile(struct hf_model *m, const struct reading *r, json_t *root, struct err *err) {
    char *tokenizer = json_dumps(root, JSON_COMPACT), *config = json_dumps(r->config, JSON_COMPACT);
    if (!tokenizer || !config) {
        die("tokenizer of GGUF as JSON");
    }
    const struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.ggml", tokenizer, strlen(tokenizer)},
        .config = {"tokenizer.ggml", config, strlen(config)},
        .book = &m->book,
        .rows = hf_arch(m)->vocab,
        .remarks = &m->warnings,
        .dir = m->dir,
    };
    int rc =
        hf_tokenizer_compile(&files, &m->tokenizer, err) < 0 ? err_prefix(err, "%s", m->dir) : 0;
    free(tokenizer);
    free(config);
    return rc;
}

int gguf_tokenizer(struct hf_model *m, const struct gguf *g, struct err *err) {
    static const char key[] = "tokenizer.ggml.model";
    const struct gguf_value *v = gguf_find(g, key);
    struct gguf_text model;
    struct reading r = {.g = g, .err = err};
    json_t *root = NULL;
    if (!v ||
        (gguf_string(v, &model) && (is_word(&model, "none") || is_word(&model, "no_vocab")))) {
        return 0;
    }
    if (!gguf_string(v, &model) || (!is_word(&model, "gpt2") && !is_word(&model, "llama"))) {
        return refuse(&r, key, "\"gpt2\" or \"llama\", which are read");
    }
    r.vocab = json_object();
    r.added = json_array();
    r.merges = json_array();
    r.config = json_object();
    int rc = read_tokens(&r) < 0 ||
                     (is_word(&model, "gpt2") ? read_bytes : read_pieces)(&r, &root) < 0 ||
                     read_templates(&r) < 0
                 ? -1
                 : compile(m, &r, root, err);
    json_decref(root);
    json_decref(r.vocab);
    json_decref(r.added);
    json_decref(r.merges);
    json_decref(r.config);
    free(r.texts);
    free(r.types);
    return rc;
}
