/*
 * Tiktoken files: a token in base64 and its rank, which is its id, on each line. All else stands in
 * the Python code of the checkpoint, so it is kept here, for classes that were published with such
 * files. From it comes the JSON that a tokenizer.json of the same meaning would have. One thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_text.h"
#include "prep/hf/hf_tokenizer_json.h"

/* Every place where a token could be cut in two is tried, so tokens and files are bounded. The
 * longest published tokens have 128 bytes, the files 3 MiB. */
enum { MAX_TOKEN_BYTES = 512, MAX_FILE_BYTES = 16 << 20, MAX_MODULES = 2, MAX_NAMED = 5 };

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define NO_HAN "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define NO_HAN_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define FRONT "[^\\r\\n\\p{L}\\p{N}]?"

/* A tokenizer class that reads such a file. Special tokens have the ids behind the file's. */
static const struct tiktoken {
    const char *class, *file;
    const char *modules[MAX_MODULES]; /* of Python, that define the class */
    const char *pattern;
    bool nfc;                     /* texts are brought into that form first */
    const char *named[MAX_NAMED]; /* the first special tokens */
    const char *further;          /* the others: this and a number and "|>" */
    uint32_t n_further;
    bool by_id; /* the number is the id, and added_tokens_decoder may give a token another text;
                   else it counts from 0 */
} classes[] = {
    /* Kimi, Moonlight */
    {"TikTokenTokenizer",
     "tiktoken.model",
     {"tokenization_kimi", "tokenization_moonshot"},
     "[\\p{Han}]+|" FRONT NO_HAN "*" NO_HAN_LOWER "+" CONTRACTIONS "?|" FRONT NO_HAN
     "+" NO_HAN_LOWER "*" CONTRACTIONS "?|\\p{N}{1,3}|" SPACES,
     false,
     {NULL},
     "<|reserved_token_",
     256,
     true},
    /* Hunyuan */
    {"HYTokenizer",
     "hy.tiktoken",
     {"tokenization_hy"},
     CONTRACTIONS "|" FRONT "\\p{L}+|\\p{N}|" SPACES,
     true,
     {"<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"},
     "<|extra_",
     205,
     false},
    /* Qwen, the first */
    {"QWenTokenizer",
     "qwen.tiktoken",
     {"tokenization_qwen"},
     CONTRACTIONS "|" FRONT "\\p{L}+|\\p{N}|" SPACES,
     true,
     {"<|endoftext|>", "<|im_start|>", "<|im_end|>"},
     "<|extra_",
     205,
     false},
};
enum { N_CLASSES = sizeof classes / sizeof *classes };

/* ---- which class ----------------------------------------------------------------------------- */

/* Whether auto_map's AutoTokenizer, "MODULE.CLASS" or a list with that in front, is the class as it
 * was published; "REPOSITORY--" may stand before it. Without auto_map the class's name says it. */
static bool is_published(const struct tiktoken *c, const struct place *config) {
    struct place map = place_get(config, "auto_map");
    struct place at = json_is_array(map.value) ? map : place_get(&map, "AutoTokenizer");
    struct place first = json_is_array(at.value) ? place_item(&at, 0) : at;
    const char *text = json_string_value(first.value);
    const char *behind = text ? strstr(text, "--") : NULL;
    text = behind ? behind + 2 : text;
    for (int i = 0; text && i < MAX_MODULES && c->modules[i]; i++) {
        size_t n = strlen(c->modules[i]);
        if (strncmp(text, c->modules[i], n) == 0 && text[n] == '.' &&
            strcmp(text + n + 1, c->class) == 0) {
            return true;
        }
    }
    return !map.value;
}

static const struct tiktoken *find_class(const struct hf_tokenizer_files *files,
                                         const struct place *config) {
    struct place at = place_get(config, "tokenizer_class");
    const char *class = json_string_value(at.value);
    struct buf known = {0};
    for (size_t i = 0; i < N_CLASSES; i++) {
        const struct tiktoken *c = &classes[i];
        if (class && strcmp(class, c->class) == 0 && strcmp(files->tiktoken.name, c->file) == 0 &&
            is_published(c, config)) {
            buf_free(&known);
            return c;
        }
        buf_printf(&known, "%s%s of %s with %s", known.len ? ", " : "", c->class, c->modules[0],
                   c->file);
    }
    err_set(config->err,
            "%s: how tokenizer_class %.64s splits text is not known: it stands in the checkpoint's "
            "code (known: %s)",
            files->tiktoken.name, class ? class : "(tokenizer_config.json names none)", known.data);
    buf_free(&known);
    return NULL;
}

/* ---- the lines ------------------------------------------------------------------------------- */

static int base64_value(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The bytes that `n` characters of base64 stand for (RFC 4648, with padding); -1 where they are no
 * base64 or more than MAX_TOKEN_BYTES. */
static int base64_decode(const char *text, size_t n, char out[MAX_TOKEN_BYTES]) {
    size_t padding = n && text[n - 1] == '=' ? 1 + (n > 1 && text[n - 2] == '=') : 0, len = 0;
    uint32_t bits = 0;
    if (n == 0 || n % 4 != 0 || n / 4 * 3 - padding > MAX_TOKEN_BYTES) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        int v = i < n - padding ? base64_value(text[i]) : 0;
        if (v < 0) {
            return -1;
        }
        bits = bits << 6 | (uint32_t)v;
        for (int k = 0; i % 4 == 3 && k < 3; k++) {
            if (len < n / 4 * 3 - padding) {
                out[len++] = (char)(bits >> (16 - 8 * k));
            }
        }
    }
    return (int)len;
}

/* One line without its end; -1 and an error where it is no token and rank. */
static int read_line(const struct place *root, size_t line, const char *text, size_t n,
                     json_t *vocab) {
    char bytes[MAX_TOKEN_BYTES], *end = NULL;
    const char *space = memchr(text, ' ', n);
    int len = space ? base64_decode(text, (size_t)(space - text), bytes) : -1;
    char number[16] = {0};
    size_t n_number = space ? n - (size_t)(space + 1 - text) : 0;
    if (len > 0 && n_number && n_number < sizeof number && space[1] >= '0' && space[1] <= '9') {
        memcpy(number, space + 1, n_number);
        unsigned long rank = strtoul(number, &end, 10);
        struct buf token = {0};
        text_to_byte_alphabet(bytes, (size_t)len, &token);
        bool twice = json_object_getn(vocab, token.data, token.len) != NULL;
        bool ok = *end == '\0' && !twice && rank < TOK_MAX_TOKENS;
        if (ok) {
            json_object_setn_new_nocheck(vocab, token.data, token.len,
                                         json_integer((json_int_t)rank));
        }
        buf_free(&token);
        if (ok) {
            return 0;
        }
        if (twice) {
            return place_error(root, "line %zu: a token that is there already", line);
        }
    }
    return place_error(root, "line %zu: expected a token of 1 to %d bytes in base64, and its rank",
                       line, MAX_TOKEN_BYTES);
}

static int read_lines(const struct hf_text *file, const struct place *root, json_t *vocab) {
    if (file->bytes > MAX_FILE_BYTES) {
        return place_error(root, "more than %d bytes", MAX_FILE_BYTES);
    }
    const char *at = file->data, *end = file->data + file->bytes;
    for (size_t line = 1; at < end; line++) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((next ? next : end) - at);
        n -= n && at[n - 1] == '\r';
        if (n && read_line(root, line, at, n, vocab)) {
            return -1;
        }
        at = next ? next + 1 : end;
    }
    return 0;
}

/* Ranks are ids: from 0 on, without holes; every byte is a token, so that every text has tokens. */
static int check_vocab(const struct place *root, const json_t *vocab) {
    size_t n = json_object_size(vocab);
    const char *text;
    json_t *rank;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        struct buf token = {0};
        text_to_byte_alphabet(&byte, 1, &token);
        bool there = json_object_getn(vocab, token.data, token.len) != NULL;
        buf_free(&token);
        if (!there) {
            return place_error(root, "byte 0x%02x has no token", (unsigned)b);
        }
    }
    json_object_foreach((json_t *)vocab, text, rank) {
        if ((size_t)json_integer_value(rank) >= n) { /* two of a rank: read_vocab's error */
            return place_error(root, "rank %lld among %zu tokens: expected 0, 1, 2, ...",
                               (long long)json_integer_value(rank), n);
        }
    }
    return 0;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static json_t *special_json(const char *text, uint32_t id, bool special) {
    return json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", text,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     special ? 1 : 0);
}

/* The special tokens behind `n_tokens` of the file, as far as the model has rows for them. */
static json_t *specials_json(const struct hf_tokenizer_files *files, const struct tiktoken *c,
                             const struct place *config, uint32_t n_tokens) {
    struct place decoder = place_get(config, "added_tokens_decoder");
    json_t *list = json_array();
    uint32_t n_named = 0;
    while (n_named < MAX_NAMED && c->named[n_named]) {
        n_named++;
    }
    for (uint32_t i = 0; i < n_named + c->n_further; i++) {
        uint32_t id = n_tokens + i;
        if (files->rows && id >= files->rows) {
            break;
        }
        char *key = mem_printf("%u", id);
        char *further = mem_printf("%s%u|>", c->further, c->by_id ? id : i - n_named);
        const json_t *own = c->by_id ? json_object_get(decoder.value, key) : NULL;
        const char *text = json_string_value(json_object_get(own, "content"));
        json_t *row = text ? special_json(text, id, json_is_true(json_object_get(own, "special")))
                           : special_json(i < n_named ? c->named[i] : further, id, true);
        json_array_append_new(list, row);
        free(further);
        free(key);
    }
    return list;
}

json_t *hf_read_tiktoken(const struct hf_tokenizer_files *files, const struct place *config,
                         struct place *root) {
    *root = (struct place){.err = config->err};
    snprintf(root->path, sizeof root->path, "%s:", files->tiktoken.name);
    const struct tiktoken *c = find_class(files, config);
    json_t *vocab = json_object();
    if (!c || read_lines(&files->tiktoken, root, vocab) || check_vocab(root, vocab)) {
        json_decref(vocab);
        return NULL;
    }
    json_t *added = specials_json(files, c, config, (uint32_t)json_object_size(vocab));
    json_t *json = json_pack(
        "{s:{s:o}, s:o, s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}, s:{s:s}}", "model",
        "vocab", vocab, "added_tokens", added, "pre_tokenizer", "type", "Sequence", "pretokenizers",
        "type", "Split", "pattern", "Regex", c->pattern, "behavior", "Isolated", "invert", 0,
        "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "decoder", "type", "ByteLevel");
    if (!json) {
        die("json_pack of a tiktoken file");
    }
    if (c->nfc) {
        json_object_set_new(json, "normalizer", json_pack("{s:s}", "type", "NFC"));
    }
    root->value = json;
    return json;
}

void hf_read_tiktoken_merges(const struct place *vocab, struct tokenizer_pack *p) {
    const char *text;
    json_t *rank;
    size_t cap = 0;
    json_object_foreach((json_t *)vocab->value, text, rank) {
        size_t n = strlen(text);
        uint32_t id = (uint32_t)json_integer_value(rank);
        for (size_t cut = 1; cut < n; cut++) {
            if (((unsigned char)text[cut] & 0xc0) == 0x80) {
                continue; /* inside a character of the byte alphabet, which is one byte */
            }
            const json_t *left = json_object_getn(vocab->value, text, cut);
            const json_t *right = left ? json_object_getn(vocab->value, text + cut, n - cut) : NULL;
            if (right) {
                p->merges = mem_grow(p->merges, p->n_merges + 1, &cap, sizeof *p->merges);
                p->merges[p->n_merges++] =
                    (struct tok_merge){(uint32_t)json_integer_value(left),
                                       (uint32_t)json_integer_value(right), id, id};
            }
        }
    }
}
