/*
 * mutate_checkpoint: changes of a checkpoint's files: JSON, tokenizers with parts of others, the
 * headers of safetensors with length and places repaired, and files as wholes.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fuzz/mutate_json.h"

enum { MOST_FILE = 64 << 20, MOST_TENSOR = 1 << 24 };

/* ---- files ---- */

static struct buf read_file(const char *path) {
    struct err err = {0};
    struct buf b = {0};
    uint8_t *data;
    size_t bytes;
    if (file_read(path, MOST_FILE, &data, &bytes, &err) < 0) {
        die("%s", err.msg);
    }
    buf_append(&b, data, bytes);
    free(data);
    return b;
}

static void write_file(const char *path, const struct buf *b) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b->data ? b->data : "", 1, b->len, f) != b->len || fclose(f) != 0) {
        die("%s: cannot be written", path);
    }
}

/* ---- tokenizers ---- */

/* Parts that a tokenizer.json may have, to stand in a row with others. */
static const char *const normalizers[] = {
    "{\"type\":\"NFC\"}",
    "{\"type\":\"NFKD\"}",
    "{\"type\":\"Lowercase\"}",
    "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}",
    "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\"\"}",
};
static const char *const pre_tokenizers[] = {
    "{\"type\":\"Digits\",\"individual_digits\":true}",
    "{\"type\":\"WhitespaceSplit\"}",
    "{\"type\":\"Whitespace\"}",
    "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}",
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}",
    "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\","
    "\"split\":true}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|.\"},\"behavior\":\"MergedWithNext\","
    "\"invert\":true}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?=a)|x*\"},\"behavior\":\"Removed\",\"invert\":"
    "false}",
};
static const char *const decoders[] = {
    "{\"type\":\"ByteFallback\"}",
    "{\"type\":\"Fuse\"}",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":2}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"e\"},\"content\":\"ee\"}",
    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\",\"split\":false}",
};
static const struct row {
    const char *key, *list;
    const char *const *parts;
    size_t n;
} rows[] = {
    {"normalizer", "normalizers", normalizers, sizeof normalizers / sizeof *normalizers},
    {"pre_tokenizer", "pretokenizers", pre_tokenizers,
     sizeof pre_tokenizers / sizeof *pre_tokenizers},
    {"decoder", "decoders", decoders, sizeof decoders / sizeof *decoders},
};

/* What a tokenizer does to a text becomes a row of parts, which may be nested. */
static void change_row(json_t *root, struct mutate_rng *r, struct buf *log) {
    const struct row *row = &rows[mutate_below(r, sizeof rows / sizeof *rows)];
    json_t *list = json_array();
    uint32_t n = 1 + mutate_below(r, mutate_one_in(r, 5) ? 63 : 4);
    buf_printf(log, "tokenizer.json.%s: a row of", row->key);
    for (uint32_t i = 0; i < n; i++) {
        const char *part = row->parts[mutate_below(r, row->n)];
        json_t *v = json_loads(part, 0, NULL);
        if (mutate_one_in(r, 12)) {
            v = json_pack("{s:s,s:[o]}", "type", "Sequence", row->list, v);
        }
        json_array_append_new(list, v);
        if (i < 4) {
            buf_printf(log, " %.70s", part);
        }
    }
    buf_printf(log, " (%u)\n", n);
    json_object_set_new(root, row->key,
                        json_pack("{s:s,s:o}", "type", "Sequence", row->list, list));
}

/* A part, or all, of the tokenizer of another model. */
static void graft(json_t *root, struct mutate_rng *r, struct buf *log) {
    static const char *const styles[] = {"anchors", "deepseek3", "exaone",    "first",  "gemma",
                                         "gpt2",    "kimi",      "llama1",    "llama3", "metaspace",
                                         "mixtral", "o200k",     "olmo2",     "qwen2",  "splits",
                                         "tekken",  "words",     "starcoder", "ling"};
    static const char *const keys[] = {"normalizer",     "pre_tokenizer", "decoder",
                                       "post_processor", "added_tokens",  "model"};
    const char *style = styles[mutate_below(r, sizeof styles / sizeof *styles)];
    char *path = mem_printf("tests/golden/tokenizers/%s.json", style);
    json_t *other = json_load_file(path, 0, NULL);
    if (!other) {
        die("%s: not JSON", path);
    }
    bool all = mutate_one_in(r, 2);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(other, keys[i]);
        if (v && (all || mutate_one_in(r, 3))) {
            json_object_set(root, keys[i], v);
            buf_printf(log, "tokenizer.json.%s: that of %s\n", keys[i], style);
        }
    }
    json_decref(other);
    free(path);
}

static void change_json(const char *path, const char *name, struct mutate_rng *r,
                        const struct mutate_words *w, struct buf *log) {
    struct buf b = read_file(path);
    json_t *root;
    uint32_t n = 1 + mutate_below(r, 3);
    if (mutate_one_in(r, 8) || !mutate_parse(b.data, b.len, &root)) {
        buf_printf(log, "%s: ", name);
        mutate_text(&b, r, log);
    } else {
        bool tokenizer = strcmp(name, "tokenizer.json") == 0 && json_is_object(root);
        if (tokenizer && mutate_one_in(r, 3)) {
            graft(root, r, log);
        }
        for (; n > 0; n--) {
            if (tokenizer && mutate_one_in(r, 3)) {
                change_row(root, r, log);
            } else {
                mutate_tree(root, r, w, name, log);
            }
        }
        mutate_unparse(root, &b);
    }
    write_file(path, &b);
    buf_free(&b);
}

/* ---- safetensors ---- */

/* A tensor gets another ending, as those have that hold scales: it becomes one of another's, or
 * its own are not found. */
static void change_ending(json_t *root, const char *name, struct mutate_rng *r, struct buf *log) {
    static const char *const ends[] = {"",        "_scale",     "_scale_inv",    "_scale_2",
                                       "_packed", "_scales",    "_global_scale", "_blocks",
                                       "_shape",  "_zero_point"};
    const char *dot = strrchr(name, '.'), *end = ends[mutate_below(r, sizeof ends / sizeof *ends)];
    size_t stem = dot ? (size_t)(dot - name) + strcspn(dot, "_") : strlen(name);
    char *other = mem_printf("%.*s%s", (int)stem, name, end);
    json_t *t = json_incref(json_object_get(root, name));
    buf_printf(log, "its name is %s\n", other);
    json_object_del(root, name);
    json_object_set_new(root, other, t);
    free(other);
}

static void change_tensor(json_t *root, struct mutate_rng *r, struct buf *log) {
    static const char *const dtypes[] = {"BF16",    "F16",     "F32", "F64",     "I8",
                                         "U8",      "I64",     "F4",  "BOOL",    "C64",
                                         "F8_E4M3", "F8_E5M2", "I32", "F8_E8M0", "F8_E4M3FNUZ"};
    struct mutate_place p = {.value = root};
    if (!mutate_go_down(&p, r) || !p.key || !json_is_object(p.value)) {
        return;
    }
    json_t *shape = json_object_get(p.value, "shape"),
           *places = json_object_get(p.value, "data_offsets");
    size_t dims = json_array_size(shape), i = mutate_below(r, dims);
    buf_printf(log, "tensor %s: ", p.key);
    switch (mutate_below(r, 8)) {
    case 0: {
        const char *dtype = dtypes[mutate_below(r, sizeof dtypes / sizeof *dtypes)];
        json_object_set_new(p.value, "dtype", json_string(dtype));
        buf_printf(log, "dtype %s\n", dtype);
        break;
    }
    case 1:
        json_array_insert_new(shape, i, json_integer(mutate_one_in(r, 2)));
        buf_printf(log, "one more dimension\n");
        break;
    case 2:
        if (dims > 1) { /* of the same size */
            json_t *first = json_incref(json_array_get(shape, 0));
            json_array_remove(shape, 0);
            json_array_append_new(shape, first);
        }
        buf_printf(log, "dimensions turned\n");
        break;
    case 3:
        if (dims > 0) {
            json_array_set_new(shape, i, mutate_any_number(r, json_array_get(shape, i)));
        }
        buf_printf(log, "dimension %zu is another\n", i);
        break;
    case 4: {
        size_t k = mutate_below(r, json_array_size(places));
        json_array_set_new(places, k, mutate_any_number(r, json_array_get(places, k)));
        buf_printf(log, "data_offsets[%zu] is another\n", k);
        break;
    }
    case 5: { /* the bytes of another tensor */
        struct mutate_place other = {.value = root};
        mutate_go_down(&other, r);
        json_object_set(p.value, "data_offsets", json_object_get(other.value, "data_offsets"));
        buf_printf(log, "the bytes of %s\n", other.key);
        break;
    }
    case 6:
        change_ending(root, p.key, r, log);
        break;
    default:
        buf_printf(log, "removed\n");
        json_object_del(root, p.key);
        break;
    }
}

/* Bytes of `n` elements, 0 for a dtype of less than one byte or an unknown one. */
static uint64_t bytes_of(const char *dtype, uint64_t n) {
    static const struct {
        const char *dtype;
        uint32_t bytes;
    } of[] = {{"BF16", 2}, {"F16", 2},     {"F32", 4},     {"F64", 8},        {"I8", 1},
              {"U8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8},        {"BOOL", 1},
              {"C64", 8},  {"I32", 4},     {"F8_E8M0", 1}, {"F8_E4M3FNUZ", 1}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        if (strcmp(of[i].dtype, dtype) == 0) {
            return of[i].bytes * n;
        }
    }
    return 0;
}

/* Lay the tensors out one after the other, each with so many bytes as its shape and type need. */
static void lay_out(json_t *root, const struct buf *old, struct buf *data) {
    const char *name;
    json_t *t;
    json_object_foreach(root, name, t) {
        json_t *shape = json_object_get(t, "shape"), *places = json_object_get(t, "data_offsets"),
               *size;
        const char *dtype = json_string_value(json_object_get(t, "dtype"));
        uint64_t n = 1, at = (uint64_t)json_integer_value(json_array_get(places, 0));
        size_t i;
        json_array_foreach(shape, i, size) {
            n *= (uint64_t)json_integer_value(size);
            n = n > MOST_TENSOR ? 0 : n;
        }
        uint64_t bytes = dtype ? bytes_of(dtype, n) : 0, from = data->len;
        if (!json_is_array(shape) || !json_is_array(places)) {
            continue;
        }
        while (data->len < from + bytes) { /* its old bytes, again where there are more */
            uint64_t left = from + bytes - data->len, there = at < old->len ? old->len - at : 0;
            if (there == 0) {
                buf_append(data, "", 1);
            } else {
                buf_append(data, old->data + at, left < there ? left : there);
            }
        }
        json_object_set_new(t, "data_offsets",
                            json_pack("[I,I]", (json_int_t)from, (json_int_t)data->len));
    }
}

static void change_safetensors(const char *path, const char *name, struct mutate_rng *r,
                               const struct mutate_words *w, struct buf *log) {
    struct buf b = read_file(path), header = {0}, out = {0};
    uint64_t n = 0;
    memcpy(&n, b.data, b.len < sizeof n ? b.len : sizeof n);
    json_t *root;
    if (b.len < sizeof n + n || !mutate_parse(b.data + sizeof n, n, &root)) {
        buf_printf(log, "%s: broken already\n", name);
        buf_free(&b);
        return;
    }
    size_t data = sizeof n + n, bytes = b.len - data;
    uint32_t how = mutate_below(r, 10);
    for (uint32_t k = 1 + mutate_below(r, 2); k > 0 && how < 7; k--) {
        buf_printf(log, "%s ", name);
        if (how < 5) {
            change_tensor(root, r, log);
        } else {
            mutate_tree(root, r, w, name, log);
        }
    }
    struct buf old = {0}, laid = {0};
    buf_append(&old, b.data + data, bytes);
    if (how < 5 && !mutate_one_in(r, 4)) {
        lay_out(root, &old, &laid);
        buf_printf(log, "%s: laid out anew\n", name);
    } else {
        buf_append(&laid, old.data, old.len);
    }
    buf_free(&old);
    bytes = laid.len;
    mutate_unparse(root, &header);
    if (how == 7) {
        buf_printf(log, "%s header: ", name);
        mutate_text(&header, r, log);
    }
    uint64_t length = header.len;
    length = mutate_one_in(r, 24) ? mutate_number(r, length, 64) : length;
    buf_append(&out, &length, sizeof length);
    buf_append(&out, header.data ? header.data : "", header.len);
    if (how == 8) {
        bytes = mutate_below(r, bytes);
        buf_printf(log, "%s: only %zu bytes of data\n", name, bytes);
    } else if (how == 9) {
        mutate_bytes(r, (uint8_t *)laid.data, bytes);
        buf_printf(log, "%s: other bytes of data\n", name);
    }
    buf_append(&out, laid.data ? laid.data : "", bytes);
    write_file(path, &out);
    buf_free(&laid);
    buf_free(&b);
    buf_free(&header);
    buf_free(&out);
}

/* ---- checkpoints ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void change_file(const char *dir, const char *name, struct mutate_rng *r,
                        const struct mutate_words *w, struct buf *log) {
    char *path = mem_printf("%s/%s", dir, name);
    if (access(path, R_OK) < 0) {
        buf_printf(log, "%s: removed already\n", name);
    } else if (mutate_one_in(r, 40)) {
        buf_printf(log, "%s: removed\n", name);
        unlink(path);
    } else if (mutate_one_in(r, 60)) {
        buf_printf(log, "%s: empty\n", name);
        write_file(path, &(struct buf){0});
    } else if (ends_with(name, ".safetensors")) {
        change_safetensors(path, name, r, w, log);
    } else if (ends_with(name, ".json")) {
        change_json(path, name, r, w, log);
    }
    free(path);
}

void mutate_checkpoint(const char *dir, struct mutate_rng *r, struct buf *log) {
    struct mutate_words config = {0}, tokenizer = {0};
    struct dirent **files;
    int n = scandir(dir, &files, NULL, by_name);
    mutate_read_words(&config, "tests/fuzz/fuzz_config.dict");
    mutate_read_words(&tokenizer, "tests/fuzz/fuzz_tokenizer_json.dict");
    for (uint32_t k = mutate_one_in(r, 3) ? 2 : 1; k > 0; k--) {
        const char *name;
        do { /* those that say most, most often */
            name = files[mutate_below(r, (uint64_t)n)]->d_name;
        } while (name[0] == '.' ||
                 (strcmp(name, "config.json") != 0 && strcmp(name, "tokenizer.json") != 0 &&
                  !ends_with(name, ".safetensors") && !mutate_one_in(r, 4)));
        change_file(dir, name, r, strstr(name, "tokenizer") ? &tokenizer : &config, log);
    }
    while (n > 0) {
        free(files[--n]);
    }
    free(files);
    mutate_drop_words(&config);
    mutate_drop_words(&tokenizer);
}
