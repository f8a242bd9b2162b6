/*
 * Added tokens and special names from the files beside tokenizer.json. The order in which they are
 * taken is that of transformers, because a token without an id of its own gets the next free one;
 * hf_tokenizer.h says which file counts. One thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/chat_book.h"
#include "prep/hf/hf_tokenizer_json.h"

/* Special names in the order in which transformers adds their tokens; others come behind. */
static const char *const standard_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                             "pad_token", "cls_token", "mask_token"};
enum { STANDARD_NAMES = sizeof standard_names / sizeof *standard_names, MAX_NAMES = 256 };

/* A token as some file describes it. */
struct token {
    struct place at; /* without a value: there is none */
    const char *text;
    size_t bytes;
    uint32_t flags;
};

/* A special name: what the key of some file calls a token. */
struct name {
    char key[64];
    struct token token;
    bool unused; /* the file does not count: the name makes no added token */
};

struct adder {
    const struct hf_tokenizer_files *files;
    const struct place *vocab, *config;
    struct tokenizer_pack *p;
    json_t *rows;                 /* text of an added token -> its row in p->added */
    bool old_files;               /* special_tokens_map.json and added_tokens.json count */
    struct name names[MAX_NAMES]; /* [n_names]; the standard ones first, with a token or without */
    size_t n_names;
    struct token *extras; /* [n_extras] special tokens without a name */
    size_t n_extras, cap_extras;
    size_t n_own;    /* rows of p->added that are of the vocabulary's file */
    json_t *special; /* text -> true: has a name, false: is one of `extras` */
};

/* ---- adding one token ------------------------------------------------------------------------ */

static struct tok_added *find_added(const struct adder *a, const char *text, size_t bytes) {
    const json_t *row = json_object_getn(a->rows, text, bytes);
    return row ? &a->p->added[json_integer_value(row)] : NULL;
}

/* The id that a text has in the model's vocabulary. */
static uint32_t find_model(const struct adder *a, const char *text, size_t bytes) {
    const json_t *id = json_object_getn(a->vocab->value, text, bytes);
    return id ? (uint32_t)json_integer_value(id) : TOK_NONE;
}

/* Take note of a row of p->added. Like in `tokenizers` (0.23), the next new token comes behind the
 * vocabulary and all added tokens. */
static void count_row(struct adder *a, size_t row) {
    const struct tok_added *t = &a->p->added[row];
    struct tok_span text = a->p->spans[t->id];
    json_object_setn_new_nocheck(a->rows, text.bytes ? a->p->blob.data + text.offset : "",
                                 text.bytes, json_integer((json_int_t)row));
    a->p->next_id = t->id >= a->p->next_id ? t->id + 1 : a->p->next_id;
}

/* The file that the vocabulary came from. */
static const char *home(const struct adder *a) {
    return a->files->tokenizer.data ? a->files->tokenizer.name : a->files->tiktoken.name;
}

/* Add a token that is no added token yet. */
static int add_token(struct adder *a, const struct token *t, uint32_t id) {
    struct tokenizer_pack *p = a->p;
    bool of_model = find_model(a, t->text, t->bytes) != TOK_NONE;
    if (id >= TOK_MAX_TOKENS) {
        return place_error(&t->at, "token '%.64s': more than %d tokens", t->text, TOK_MAX_TOKENS);
    }
    pack_reach(p, id);
    if (!of_model && p->token_flags[id]) {
        return place_error(&t->at, "token '%.64s': its id %u belongs to another one in %s", t->text,
                           id, home(a));
    }
    if (!of_model) {
        p->spans[id] = pack_text(p, t->text, t->bytes);
    }
    p->token_flags[id] |= TOK_TOKEN_ADDED;
    p->added = mem_grow(p->added, p->n_added + 1, &p->added_cap, sizeof *p->added);
    p->added[p->n_added] = (struct tok_added){.id = id, .flags = t->flags, .match = p->spans[id]};
    count_row(a, p->n_added++);
    return 0;
}

/* The id of a text as a token; TOK_NONE where it is none yet. */
static uint32_t id_of(const struct adder *a, const struct token *t) {
    const struct tok_added *added = find_added(a, t->text, t->bytes);
    return added ? added->id : find_model(a, t->text, t->bytes);
}

/* The file that a token is of. */
static const char *file_of(const struct adder *a, const struct token *t) {
    const struct tok_added *added = find_added(a, t->text, t->bytes);
    return added && (size_t)(added - a->p->added) >= a->n_own ? a->files->config.name : home(a);
}

static int check_id(const struct adder *a, const struct token *t, uint32_t id) {
    uint32_t has = id_of(a, t);
    if (has != TOK_NONE && has != id) {
        return place_error(&t->at, "token '%.64s' has id %u here, and id %u in %s", t->text, id,
                           has, file_of(a, t));
    }
    return 0;
}

/* A token that a file gives an id to, which must be the token's own. */
static int add_with_id(struct adder *a, const struct token *t, bool set_flags, uint32_t id) {
    struct tok_added *added = find_added(a, t->text, t->bytes);
    if (t->bytes == 0) {
        return place_error(&t->at, "an added token without text");
    }
    if (check_id(a, t, id)) {
        return -1;
    }
    bool no_row = id_of(a, t) == TOK_NONE && a->files->rows && id >= a->files->rows;
    if (no_row && id < a->p->next_id) {
        return 0; /* it was left out before */
    }
    if (id_of(a, t) == TOK_NONE && id != a->p->next_id) {
        bool taken = id < a->p->n_tokens && a->p->token_flags[id];
        return taken
                   ? place_error(&t->at, "token '%.64s' has id %u, which another one has in %s",
                                 t->text, id, home(a))
                   : place_error(&t->at,
                                 "token '%.64s' has id %u, but its place behind those of %s is %u",
                                 t->text, id, home(a), a->p->next_id);
    }
    if (no_row) {
        place_remark(&t->at, a->files, "'%.64s': the model has %u rows, none for it: left out",
                     t->text, a->files->rows);
        a->p->next_id++;
        return 0;
    }
    if (!added) {
        return add_token(a, t, id);
    }
    if (set_flags) { /* what was special once stays so */
        added->flags = t->flags | (added->flags & TOK_ADDED_SPECIAL);
    }
    return 0;
}

/* A token that is only told to be special. */
static int add_special(struct adder *a, const struct token *t) {
    if (!t->at.value || find_added(a, t->text, t->bytes)) {
        return 0;
    }
    uint32_t id = find_model(a, t->text, t->bytes);
    if (t->bytes == 0) {
        return 0; /* no token has this name, and none can be made for it */
    }
    if (id == TOK_NONE && a->files->rows && a->p->next_id >= a->files->rows) {
        place_remark(&t->at, a->files,
                     "'%.64s' is in no vocabulary, and the model has no row for it: left out",
                     t->text);
        return 0;
    }
    if (id == TOK_NONE) {
        id = a->p->next_id;
        place_remark(&t->at, a->files, "'%.64s' is in no vocabulary: it gets the next free id, %u",
                     t->text, id);
    }
    return add_token(a, t, id);
}

/* ---- special names --------------------------------------------------------------------------- */

/* An added token's object. Without "normalized", special tokens are looked for in the text as it
 * is, and others in normalized text. */
static int read_token(const struct place *at, struct token *t) {
    static const struct {
        const char *key;
        uint32_t flag;
    } flags[] = {{"special", TOK_ADDED_SPECIAL},
                 {"single_word", TOK_ADDED_SINGLE_WORD},
                 {"lstrip", TOK_ADDED_LSTRIP},
                 {"rstrip", TOK_ADDED_RSTRIP}};
    t->at = *at;
    t->flags = 0;
    if (!json_is_object(at->value)) {
        return place_error(at, "expected an object");
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on = false;
        if (place_bool(at, flags[i].key, true, &on)) {
            return -1;
        }
        t->flags |= on ? flags[i].flag : 0;
    }
    bool normalized = !(t->flags & TOK_ADDED_SPECIAL);
    if (place_bool(at, "normalized", true, &normalized)) {
        return -1;
    }
    t->flags |= normalized ? TOK_ADDED_NORMALIZED : 0;
    return place_string(at, "content", false, &t->text, &t->bytes);
}

/* A special token: a text, or an object. */
static int read_special(const struct place *at, struct token *t) {
    if (json_is_string(at->value)) {
        *t = (struct token){*at, json_string_value(at->value), json_string_length(at->value),
                            TOK_ADDED_SPECIAL};
        return 0;
    }
    if (read_token(at, t)) {
        return -1;
    }
    if (!json_object_get(at->value, "normalized")) {
        t->flags &= ~(uint32_t)TOK_ADDED_NORMALIZED;
    }
    t->flags |= TOK_ADDED_SPECIAL;
    return 0;
}

static struct name *find_name(struct adder *a, const char *key) {
    for (size_t i = 0; i < a->n_names; i++) {
        if (strcmp(a->names[i].key, key) == 0) {
            return &a->names[i];
        }
    }
    return NULL;
}

/* Whether a key names a special token: those of all tokenizers, and those that a model adds, such
 * as "image_token". */
static bool names_token(const char *key, const json_t *value) {
    static const char end[] = "_token";
    size_t n = strlen(key), k = sizeof end - 1;
    return n > k && strcmp(key + n - k, end) == 0 &&
           (json_is_string(value) || json_object_get(value, "content"));
}

static bool same_text(const struct token *a, const struct token *b) {
    return a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

/* The names in a file, which replace those of the same keys; where one changes, that is told. */
static int read_names(struct adder *a, const struct place *file) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)file->value, key, value) {
        struct place at = place_get(file, key);
        struct token t;
        struct name *n = find_name(a, key);
        if (!names_token(key, value)) {
            if (n && !json_is_null(value)) {
                return place_error(&at, "expected a string, or an object with content");
            }
            continue;
        }
        if (strlen(key) >= sizeof n->key || !chat_book_is_name(key, strlen(key))) {
            return place_error(&at,
                               "expected a name of a special token of at most %zu bytes, without "
                               "control characters",
                               sizeof n->key - 1);
        }
        if (!n && a->n_names == MAX_NAMES) {
            return place_error(&at, "more than %d names of special tokens", MAX_NAMES);
        }
        if (read_special(&at, &t)) {
            return -1;
        }
        if (!n) {
            n = &a->names[a->n_names++];
            memcpy(n->key, key, strlen(key) + 1);
        }
        if (n->token.at.value && !same_text(&n->token, &t)) {
            place_remark(&at, a->files, "'%.64s' counts; %s has '%.64s'", t.text,
                         a->files->config.name, n->token.text);
        }
        n->token = t;
    }
    return 0;
}

/* The standard names in a special_tokens_map.json that does not count: they are used where no other
 * file has the key, and where they differ that is told. */
static int read_unused_names(struct adder *a, const struct place *map) {
    for (size_t i = 0; i < STANDARD_NAMES; i++) {
        struct place at = place_get(map, standard_names[i]);
        struct name *n = &a->names[i];
        struct token t;
        if (!names_token(standard_names[i], at.value)) {
            continue;
        }
        if (read_special(&at, &t)) {
            return -1;
        }
        if (n->token.at.value && !same_text(&n->token, &t)) {
            place_remark(&at, a->files, "'%.64s' does not count; %s has '%.64s'", t.text,
                         a->files->config.name, n->token.text);
        } else if (!json_object_get(a->config->value, standard_names[i])) {
            n->token = t;
            n->unused = true;
        }
    }
    return 0;
}

static int add_extra(struct adder *a, const struct place *at) {
    a->extras = mem_grow(a->extras, a->n_extras + 1, &a->cap_extras, sizeof *a->extras);
    return at->value ? read_special(at, &a->extras[a->n_extras++]) : 0;
}

/* A list of special tokens without names, or an object whose keys do not matter. */
static int read_extras(struct adder *a, const struct place *file, const char *key) {
    struct place at = place_get(file, key);
    const char *name;
    json_t *value;
    int rc = 0;
    if (at.value && !json_is_array(at.value) && !json_is_object(at.value)) {
        return place_error(&at, "expected a list of tokens, or an object");
    }
    for (size_t i = 0; rc == 0 && i < json_array_size(at.value); i++) {
        struct place item = place_item(&at, i);
        rc = add_extra(a, &item);
    }
    json_object_foreach((json_t *)at.value, name, value) {
        struct place item = place_get(&at, name);
        rc = rc ? rc : add_extra(a, &item);
    }
    return rc;
}

/* All special tokens that files name or list. Of lists the first counts that lists some. */
static int read_specials(struct adder *a, const struct place *map) {
    const struct place *files[] = {a->config, map};
    static const char *const keys[] = {"extra_special_tokens", "additional_special_tokens"};
    for (a->n_names = 0; a->n_names < STANDARD_NAMES; a->n_names++) {
        struct name *n = &a->names[a->n_names];
        memcpy(n->key, standard_names[a->n_names], strlen(standard_names[a->n_names]) + 1);
    }
    if (read_names(a, a->config) ||
        (a->old_files ? read_names(a, map) : read_unused_names(a, map))) {
        return -1;
    }
    for (int i = 0; i < 4 && a->n_extras == 0; i++) {
        if ((i < 2 || a->old_files) && read_extras(a, files[i / 2], keys[i % 2])) {
            return -1;
        }
    }
    for (size_t i = 0; i < a->n_extras; i++) {
        json_object_setn_new_nocheck(a->special, a->extras[i].text, a->extras[i].bytes,
                                     json_false());
    }
    for (size_t i = 0; i < a->n_names; i++) {
        const struct token *t = &a->names[i].token;
        if (t->at.value && !a->names[i].unused) {
            json_object_setn_new_nocheck(a->special, t->text, t->bytes, json_true());
        }
    }
    return 0;
}

/* ---- lists with ids -------------------------------------------------------------------------- */

/* A row of such a list, which is taken in order of the ids. */
struct listed {
    struct token token;
    uint32_t id;
};

static int by_id(const void *a, const void *b) {
    uint32_t x = ((const struct listed *)a)->id, y = ((const struct listed *)b)->id;
    return (x > y) - (x < y);
}

/* A row "ID": {"content": ...} of added_tokens_decoder. */
static int read_decoder_row(const struct place *at, const char *key, struct listed *row) {
    char *end;
    unsigned long long id = strtoull(key, &end, 10);
    if (*key < '0' || *key > '9' || *end || id >= TOK_MAX_TOKENS) {
        return place_error(at, "expected an id below %d", TOK_MAX_TOKENS);
    }
    row->id = (uint32_t)id;
    return read_token(at, &row->token);
}

/* A row "TEXT": ID of added_tokens.json. */
static int read_added_row(const struct place *at, const char *key, struct listed *row) {
    if (!json_is_integer(at->value) || json_integer_value(at->value) < 0 ||
        json_integer_value(at->value) >= TOK_MAX_TOKENS) {
        return place_error(at, "expected an id below %d", TOK_MAX_TOKENS);
    }
    row->id = (uint32_t)json_integer_value(at->value);
    row->token = (struct token){*at, key, strlen(key), TOK_ADDED_NORMALIZED};
    return 0;
}

/* All rows of an object, in order of their ids. The caller frees them, after an error too. */
static int read_list(const struct place *list,
                     int (*read_row)(const struct place *at, const char *key, struct listed *row),
                     struct listed **rows, size_t *n) {
    const char *key;
    json_t *value;
    *n = 0;
    *rows = mem_calloc(json_object_size(list->value) + 1, sizeof **rows);
    if (list->value && !json_is_object(list->value)) {
        return place_error(list, "expected an object");
    }
    json_object_foreach((json_t *)list->value, key, value) {
        struct place at = place_get(list, key);
        if (read_row(&at, key, &(*rows)[*n])) {
            return -1;
        }
        ++*n;
    }
    qsort(*rows, *n, sizeof **rows, by_id);
    return 0;
}

static int add_decoder(struct adder *a) {
    struct place list = place_get(a->config, "added_tokens_decoder");
    struct listed *rows;
    size_t n;
    int rc = read_list(&list, read_decoder_row, &rows, &n);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct token *t = &rows[i].token;
        t->flags |=
            json_is_true(json_object_getn(a->special, t->text, t->bytes)) ? TOK_ADDED_SPECIAL : 0;
        rc = add_with_id(a, t, true, rows[i].id);
    }
    free(rows);
    return rc;
}

/* added_tokens.json. Where it does not count, it still must not contradict, and what it has alone
 * is told. */
static int add_old_list(struct adder *a, const struct place *file) {
    struct listed *rows;
    const struct token *alone = NULL;
    size_t n, n_alone = 0;
    int rc = read_list(file, read_added_row, &rows, &n);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct token *t = &rows[i].token;
        if (json_object_getn(a->special, t->text, t->bytes)) {
            t->flags = TOK_ADDED_SPECIAL;
        }
        if (a->old_files) {
            rc = add_with_id(a, t, false, rows[i].id);
        } else if (id_of(a, t) != TOK_NONE) {
            rc = check_id(a, t, rows[i].id);
        } else if (n_alone++ == 0) {
            alone = t;
        }
    }
    if (rc == 0 && alone) {
        place_remark(file, a->files,
                     "does not count where %s has added_tokens_decoder; left out: '%.64s'%s",
                     a->files->config.name, alone->text, n_alone > 1 ? " and more" : "");
    }
    free(rows);
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int add_all(struct adder *a, const struct place *map, const struct place *added) {
    if (read_specials(a, map) || (!a->old_files && add_decoder(a)) || add_old_list(a, added)) {
        return -1;
    }
    for (size_t i = 0; i < a->n_names; i++) {
        const struct token *t = &a->names[i].token;
        struct tok_added *known = t->at.value ? find_added(a, t->text, t->bytes) : NULL;
        if (known && a->old_files) {
            known->flags |= TOK_ADDED_SPECIAL;
        }
        if (!a->names[i].unused && add_special(a, t)) {
            return -1;
        }
    }
    for (size_t i = 0; i < a->n_extras; i++) {
        if (add_special(a, &a->extras[i])) {
            return -1;
        }
    }
    const struct token *bos = &a->names[0].token, *eos = &a->names[1].token;
    a->p->bos_id = bos->at.value ? id_of(a, bos) : TOK_NONE;
    a->p->eos_id = eos->at.value ? id_of(a, eos) : TOK_NONE;
    for (size_t i = 2; i < a->n_names; i++) { /* those two have fields of their own */
        const struct token *t = &a->names[i].token;
        if (t->at.value && t->bytes) {
            chat_book_add(&a->p->book, CHAT_ENTRY_TOKEN, a->names[i].key, strlen(a->names[i].key),
                          t->text, t->bytes);
        }
    }
    return 0;
}

/* Parse a file that need not be there: `*root` has no value then. */
static int parse_optional(const struct hf_text *file, struct err *err, json_t **json,
                          struct place *root) {
    *root = (struct place){.err = err};
    *json = file->data ? place_parse(file, root, err) : NULL;
    return file->data && !*json ? -1 : 0;
}

int hf_read_added_elsewhere(const struct hf_tokenizer_files *files, const struct place *vocab,
                            const struct place *config, struct tokenizer_pack *p) {
    struct adder *a = mem_calloc(1, sizeof *a);
    json_t *map_json = NULL, *added_json = NULL;
    struct place map, added, decoder = place_get(config, "added_tokens_decoder");
    int rc = -1;
    *a = (struct adder){.files = files,
                        .vocab = vocab,
                        .config = config,
                        .p = p,
                        .rows = json_object(),
                        .special = json_object(),
                        .old_files = !decoder.value};
    a->n_own = p->n_added;
    for (size_t i = 0; i < p->n_added; i++) {
        count_row(a, i);
    }
    if (parse_optional(&files->special_map, config->err, &map_json, &map) == 0 &&
        parse_optional(&files->added_tokens, config->err, &added_json, &added) == 0) {
        rc = add_all(a, &map, &added);
    }
    json_decref(a->rows);
    json_decref(a->special);
    json_decref(map_json);
    json_decref(added_json);
    free(a->extras);
    free(a);
    return rc;
}
