/* tokenizer.json -> the tokenizer section: model, its added tokens, template flags; see the header.
 * The component chains are read in hf_tokenizer_steps.c, what stands in other files in
 * hf_tokenizer_added.c, _chat.c and _tiktoken.c, the bytes written in hf_tokenizer_pack.c. */
#include "prep/hf/hf_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer_json.h"

/* Ids may leave holes, but a file of a few tokens must not ask for millions of rows. */
enum { HOLES_BASE = 65536, HOLES_FACTOR = 4 };
/* How long added tokens may be once normalized, all together. */
enum { NORMAL_BASE = 64 << 10, NORMAL_FACTOR = 64 };

/* ---- model ----------------------------------------------------------------------------------- */

static int read_vocab(const struct place *vocab, struct tokenizer_pack *p) {
    const char *text;
    json_t *value;
    size_t count = json_object_size(vocab->value);
    if (!json_is_object(vocab->value) || count == 0) {
        return place_error(vocab, "expected an object of tokens and ids");
    }
    uint64_t limit = HOLES_BASE + (uint64_t)HOLES_FACTOR * count;
    limit = limit < TOK_MAX_TOKENS ? limit : TOK_MAX_TOKENS;
    json_object_foreach((json_t *)vocab->value, text, value) {
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= (json_int_t)limit) {
            return place_error(vocab, "token '%.64s': expected an id below %llu", text,
                               (unsigned long long)limit);
        }
        uint32_t id = (uint32_t)json_integer_value(value);
        pack_reach(p, id);
        if (p->token_flags[id]) {
            return place_error(vocab, "id %u belongs to two tokens, one of them '%.64s'", id, text);
        }
        p->token_flags[id] = TOK_TOKEN_MODEL;
        p->spans[id] = pack_text(p, text, strlen(text));
    }
    return 0;
}

static uint32_t vocab_id(const struct place *vocab, const char *text, size_t bytes) {
    const json_t *id = json_object_getn(vocab->value, text, bytes);
    return id ? (uint32_t)json_integer_value(id) : TOK_NONE;
}

/* The two sides of merge i: "a b", or ["a", "b"]. */
static int merge_sides(const struct place *at, const char *side[2], size_t bytes[2]) {
    if (json_is_string(at->value)) {
        const char *text = json_string_value(at->value);
        size_t n = json_string_length(at->value);
        const char *space = memchr(text, ' ', n);
        if (space && !memchr(space + 1, ' ', n - (size_t)(space + 1 - text))) {
            side[0] = text;
            bytes[0] = (size_t)(space - text);
            side[1] = space + 1;
            bytes[1] = n - bytes[0] - 1;
            return 0;
        }
    } else if (json_array_size(at->value) == 2) {
        for (int i = 0; i < 2; i++) {
            const json_t *s = json_array_get(at->value, (size_t)i);
            side[i] = json_string_value(s);
            bytes[i] = json_string_length(s);
        }
        if (side[0] && side[1]) {
            return 0;
        }
    }
    return place_error(at, "expected \"left right\" or [\"left\", \"right\"]");
}

static int by_pair(const void *a, const void *b) {
    const struct tok_merge *x = a, *y = b;
    if (x->left != y->left) {
        return x->left < y->left ? -1 : 1;
    }
    if (x->right != y->right) {
        return x->right < y->right ? -1 : 1;
    }
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static int read_merges(const struct place *merges, const struct place *vocab,
                       struct tokenizer_pack *p) {
    struct buf joined = {0};
    uint32_t rank = 0;
    if (!json_is_array(merges->value)) {
        return place_error(merges, "expected a list");
    }
    size_t n = json_array_size(merges->value);
    p->merges = mem_calloc(n + 1, sizeof *p->merges);
    for (size_t i = 0; i < n; i++) {
        struct place at = place_item(merges, i);
        const char *side[2] = {0}, *text = json_string_value(at.value);
        size_t bytes[2];
        if (text && strncmp(text, "#version", 8) == 0) {
            continue; /* a merges.txt that was taken over line by line */
        }
        if (merge_sides(&at, side, bytes)) {
            buf_free(&joined);
            return -1;
        }
        joined.len = 0;
        buf_append(&joined, side[0], bytes[0]);
        buf_append(&joined, side[1], bytes[1]);
        struct tok_merge m = {vocab_id(vocab, side[0], bytes[0]),
                              vocab_id(vocab, side[1], bytes[1]), rank++,
                              vocab_id(vocab, joined.data, joined.len)};
        if (m.left == TOK_NONE || m.right == TOK_NONE || m.result == TOK_NONE) {
            place_error(&at, "'%.40s' + '%.40s': a side or the result is not in the vocabulary",
                        side[0], side[1]);
            buf_free(&joined);
            return -1;
        }
        p->merges[p->n_merges++] = m;
    }
    buf_free(&joined);
    /* a pair that is listed again has its last rank */
    qsort(p->merges, p->n_merges, sizeof *p->merges, by_pair);
    size_t kept = 0;
    for (size_t i = 0; i < p->n_merges; i++) {
        bool again = kept && p->merges[kept - 1].left == p->merges[i].left &&
                     p->merges[kept - 1].right == p->merges[i].right;
        p->merges[again ? kept - 1 : kept] = p->merges[i];
        kept += !again;
    }
    p->n_merges = kept;
    return 0;
}

static int read_model(const struct place *root, struct tokenizer_pack *p) {
    struct place model = place_get(root, "model");
    struct place vocab = place_get(&model, "vocab"), merges = place_get(&model, "merges");
    const char *text = "BPE";
    size_t bytes = 0;
    bool byte_fallback = false, fuse_unk = false, ignore_merges = false;
    if (!json_is_object(model.value)) {
        return place_error(&model, "expected an object");
    }
    if (place_string(&model, "type", true, &text, &bytes)) {
        return -1;
    }
    if (strcmp(text, "BPE") != 0) {
        return place_error(&model, "model '%s' is not supported (supported: BPE)", text);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        bytes = 0;
        if (place_string(&model, affixes[i], true, &text, &bytes)) {
            return -1;
        }
        if (bytes) {
            return place_error(&model, "%s '%s' is not supported (only empty)", affixes[i], text);
        }
    }
    if (place_bool(&model, "byte_fallback", true, &byte_fallback) ||
        place_bool(&model, "fuse_unk", true, &fuse_unk) ||
        place_bool(&model, "ignore_merges", true, &ignore_merges) || read_vocab(&vocab, p) ||
        read_merges(&merges, &vocab, p)) {
        return -1;
    }
    p->flags = (byte_fallback ? TOK_BYTE_FALLBACK : 0u) | (fuse_unk ? TOK_FUSE_UNK : 0u) |
               (ignore_merges ? TOK_IGNORE_MERGES : 0u);
    text = NULL;
    if (place_string(&model, "unk_token", true, &text, &bytes)) {
        return -1;
    }
    p->unk_id = TOK_NONE;
    if (text) {
        uint32_t id = vocab_id(&vocab, text, bytes);
        p->unk_id = id == TOK_NONE ? TOK_MISSING : id;
    }
    return 0;
}

/* ---- added tokens ---------------------------------------------------------------------------- */

static bool same_text(const struct tokenizer_pack *p, struct tok_span a, const char *text,
                      size_t bytes) {
    return a.bytes == bytes && memcmp(p->blob.data + a.offset, text, bytes) == 0;
}

/* Returns 1 for a token that is none of the vocabulary's, and for which the model has no row. */
static int read_added_token(const struct place *at, const struct place *vocab, uint32_t rows,
                            uint32_t *free_id, struct tokenizer_pack *p) {
    static const struct {
        const char *key;
        uint32_t flag;
    } flags[] = {{"single_word", TOK_ADDED_SINGLE_WORD},
                 {"lstrip", TOK_ADDED_LSTRIP},
                 {"rstrip", TOK_ADDED_RSTRIP},
                 {"normalized", TOK_ADDED_NORMALIZED},
                 {"special", TOK_ADDED_SPECIAL}};
    struct tok_added a = {0};
    const char *text = NULL;
    size_t bytes = 0;
    if (place_uint(at, "id", TOK_MAX_TOKENS - 1, &a.id) ||
        place_string(at, "content", false, &text, &bytes)) {
        return -1;
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on = false;
        if (place_bool(at, flags[i].key, false, &on)) {
            return -1;
        }
        a.flags |= on ? flags[i].flag : 0;
    }
    if (bytes == 0) {
        return place_error(at, "an added token without text");
    }
    /* `tokenizers` gives ids by itself: the vocabulary's, else the next free one. A file that
     * says otherwise has no one meaning. */
    uint32_t id = memchr(text, 0, bytes) ? TOK_NONE : vocab_id(vocab, text, bytes);
    bool of_model = id != TOK_NONE;
    id = of_model ? id : (*free_id)++;
    if (id != a.id) {
        return place_error(at, "token '%.64s' has id %u, but its place in the vocabulary is %u",
                           text, a.id, id);
    }
    p->next_id = id >= p->next_id ? id + 1 : p->next_id;
    if (rows && id >= rows && !of_model) {
        return 1;
    }
    pack_reach(p, id);
    if (p->token_flags[id] & TOK_TOKEN_ADDED ||
        (p->token_flags[id] && !same_text(p, p->spans[id], text, bytes))) {
        return place_error(at, "token '%.64s' or its id %u is there twice", text, id);
    }
    if (!p->token_flags[id]) {
        p->spans[id] = pack_text(p, text, bytes);
    }
    p->token_flags[id] |= TOK_TOKEN_ADDED;
    a.match = p->spans[id];
    p->added[p->n_added++] = a;
    return 0;
}

/* Free ids count from the number of the vocabulary's tokens here, whatever their ids are: so
 * `tokenizers` (0.23) does for all tokens of one call, and a file is one. For tokens that come
 * later they also count from the added ones (p->next_id). */
static int read_added(const struct hf_tokenizer_files *files, const struct place *root,
                      struct tokenizer_pack *p) {
    struct place list = place_get(root, "added_tokens"), model = place_get(root, "model");
    struct place vocab = place_get(&model, "vocab"), first = {0};
    uint32_t free_id = (uint32_t)json_object_size(vocab.value);
    size_t left_out = 0;
    if (list.value && !json_is_array(list.value)) {
        return place_error(&list, "expected a list");
    }
    p->next_id = free_id;
    p->added_cap = json_array_size(list.value) + 1;
    p->added = mem_calloc(p->added_cap, sizeof *p->added);
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        struct place at = place_item(&list, i);
        int rc = read_added_token(&at, &vocab, files->rows, &free_id, p);
        if (rc < 0) {
            return -1;
        }
        if (rc > 0 && left_out++ == 0) {
            first = at;
        }
    }
    if (left_out) {
        place_remark(&first, files, "'%.64s'%s: the model has %u rows, none for it: left out",
                     json_string_value(json_object_get(first.value, "content")),
                     left_out > 1 ? " and more" : "", files->rows);
    }
    return 0;
}

/* The texts of all special tokens, as keys. */
static json_t *special_texts(const struct tokenizer_pack *p) {
    json_t *texts = json_object();
    for (size_t i = 0; i < p->n_added; i++) {
        struct tok_span own = p->spans[p->added[i].id];
        if ((p->added[i].flags & TOK_ADDED_SPECIAL) && own.bytes) {
            json_object_setn_new_nocheck(texts, p->blob.data + own.offset, own.bytes, json_true());
        }
    }
    return texts;
}

/* Tokens that are looked for in normalized text are stored as the normalizers leave them, and
 * decode to that. A token is skipped with the special ones if what it decodes to is a special
 * token's text. */
static int settle_added(struct tokenizer_pack *p, struct err *err) {
    struct buf section = {0}, normal = {0};
    struct tokenizer *tok = NULL;
    json_t *special = NULL;
    uint64_t own_bytes = 0, normal_bytes = 0;
    int rc = -1;
    bool wanted = false;
    for (size_t i = 0; i < p->n_added; i++) {
        wanted = wanted || (p->added[i].flags & TOK_ADDED_NORMALIZED);
    }
    if (wanted && p->n_normalizers) {
        if (pack_write(p, &section, err) || tokenizer_open(section.data, section.len, &tok, err)) {
            goto out;
        }
        for (size_t i = 0; i < p->n_added; i++) {
            struct tok_added *a = &p->added[i];
            normal.len = 0;
            if (!(a->flags & TOK_ADDED_NORMALIZED)) {
                continue;
            }
            if (tokenizer_normalize(tok, p->blob.data + a->match.offset, a->match.bytes, &normal,
                                    err)) {
                goto out;
            }
            /* Each of them may grow within its budget; all together no more than one text may. */
            own_bytes += a->match.bytes;
            normal_bytes += normal.len;
            if (normal_bytes > NORMAL_BASE + NORMAL_FACTOR * own_bytes) {
                err_set(err, "the normalizers make the added tokens more than %d times as long",
                        NORMAL_FACTOR);
                goto out;
            }
            if (!same_text(p, a->match, normal.data, normal.len)) {
                a->match = pack_text(p, normal.data, normal.len);
            }
        }
    }
    special = special_texts(p);
    for (size_t i = 0; i < p->n_added; i++) {
        const struct tok_added *a = &p->added[i];
        const char *text = p->blob.len ? p->blob.data + a->match.offset : "";
        bool renamed = a->match.offset != p->spans[a->id].offset;
        bool skip = renamed ? json_object_getn(special, text, a->match.bytes) != NULL
                            : (a->flags & TOK_ADDED_SPECIAL) != 0;
        p->token_flags[a->id] |= skip ? TOK_TOKEN_SKIP : 0;
    }
    rc = 0;
out:
    json_decref(special);
    tokenizer_close(tok);
    buf_free(&section);
    buf_free(&normal);
    return rc;
}

/* ---- tokenizer_config.json ------------------------------------------------------------------- */

/* An explicit add_bos_token or add_eos_token decides its side of the template. */
static int read_add_flag(const struct place *config, const char *key, uint32_t id, uint32_t *ids,
                         uint32_t *n) {
    struct place at = place_get(config, key);
    bool add = false;
    if (!at.value) {
        return 0;
    }
    if (place_bool(config, key, false, &add)) {
        return -1;
    }
    if (add && id == TOK_NONE) {
        return place_error(&at,
                           "is true, but the token to add is missing or not in the vocabulary");
    }
    ids[0] = id;
    *n = add;
    return 0;
}

/* What stands in other files than the tokenizer's own. */
static int read_config(const struct hf_tokenizer_files *files, const struct place *root,
                       const struct place *config, struct tokenizer_pack *p) {
    struct place model = place_get(root, "model"), vocab = place_get(&model, "vocab");
    return hf_read_added_elsewhere(files, &vocab, config, p) ||
                   read_add_flag(config, "add_bos_token", p->bos_id, p->prefix, &p->n_prefix) ||
                   read_add_flag(config, "add_eos_token", p->eos_id, p->suffix, &p->n_suffix) ||
                   hf_read_chat_template(files, config, p)
               ? -1
               : 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* The model, out of tokenizer.json or a tiktoken file. */
static int read_file(const struct hf_tokenizer_files *files, const struct place *root,
                     struct tokenizer_pack *p) {
    struct place version = place_get(root, "version"), model = place_get(root, "model");
    struct place vocab = place_get(&model, "vocab");
    if (!files->tokenizer.data) {
        p->flags = TOK_IGNORE_MERGES;
        p->unk_id = TOK_NONE;
        if (read_vocab(&vocab, p)) {
            return -1;
        }
        hf_read_tiktoken_merges(&vocab, p);
        return read_added(files, root, p);
    }
    if (version.value &&
        (!json_is_string(version.value) || strcmp(json_string_value(version.value), "1.0") != 0)) {
        return place_error(&version, "expected \"1.0\"");
    }
    return read_model(root, p) || read_added(files, root, p) ? -1 : 0;
}

int hf_tokenizer_compile(const struct hf_tokenizer_files *files, struct buf *section,
                         struct err *err) {
    struct tokenizer_pack p = {0};
    struct tokenizer *tok = NULL;
    struct place root, config = {.err = err};
    const struct hf_text *main_file = files->tokenizer.data ? &files->tokenizer : &files->tiktoken;
    json_t *json = NULL, *config_json = NULL;
    size_t n_own = 0; /* added tokens that are of the main file */
    int rc = -1;
    if (files->config.data && !(config_json = place_parse(&files->config, &config, err))) {
        return -1;
    }
    json = files->tokenizer.data ? place_parse(main_file, &root, err)
                                 : hf_read_tiktoken(files, &config, &root);
    if (!json || read_file(files, &root, &p) || hf_read_normalizer(&root, &p) ||
        hf_read_pre_tokenizer(&root, &p) || hf_read_decoder(&root, &p) ||
        hf_read_post_processor(&root, &p)) {
        goto out;
    }
    n_own = p.n_added;
    if (read_config(files, &root, &config, &p)) {
        goto out;
    }
    if (settle_added(&p, err) || pack_write(&p, section, err) ||
        tokenizer_open(section->data, section->len, &tok, err)) {
        err_prefix(err, p.n_added > n_own ? "%s and the files beside it" : "%s", main_file->name);
        goto out;
    }
    if (files->book) {
        buf_append(files->book, p.book.len ? p.book.data : "", p.book.len);
    }
    rc = 0;
out:
    tokenizer_close(tok);
    json_decref(json);
    json_decref(config_json);
    pack_free(&p);
    return rc;
}
