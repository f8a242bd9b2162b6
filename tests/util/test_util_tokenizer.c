/*
 * test_util_tokenizer: see test_util_tokenizer.h.
 */
#include "tests/util/test_util_tokenizer.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/util/test.h"

void loaded_compile(const char *json, size_t bytes, const char *config, struct loaded *out) {
    struct err err = {0};
    struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", json, bytes},
        .config = {"tokenizer_config.json", config, config ? strlen(config) : 0},
    };
    *out = (struct loaded){0};
    hf_tokenizer_compile(&files, &out->section, &err);
    assert_no_err(&err);
    assert_int_equal(tokenizer_open(out->section.data, out->section.len, &out->tok, &err), 0);
}

void loaded_file(const char *path, const char *config, struct loaded *out) {
    struct err err = {0};
    uint8_t *data;
    size_t bytes;
    file_read(path, 64 << 20, &data, &bytes, &err);
    assert_no_err(&err);
    loaded_compile((const char *)data, bytes, config, out);
    free(data);
}

void loaded_style(const char *name, struct loaded *out) {
    char *path = mem_printf(TOKENIZERS "%s.json", name);
    loaded_file(path, NULL, out);
    free(path);
}

void loaded_close(struct loaded *l) {
    tokenizer_close(l->tok);
    buf_free(&l->section);
}

void loaded_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                   struct token_list *out) {
    struct err err = {0};
    out->n = 0;
    tokenizer_encode(tok, text, bytes, flags, out, &err);
    assert_no_err(&err);
}

struct token_list loaded_ids(const struct tokenizer *tok, const char *text) {
    struct token_list list = {0};
    loaded_encode(tok, text, strlen(text), TOKENIZER_PARSE_SPECIAL, &list);
    return list;
}

json_t *loaded_json(const char *path) {
    json_error_t e;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!json) {
        print_error("%s: %s\n", path, e.text);
    }
    assert_non_null(json);
    return json;
}

json_t *loaded_style_json(const char *name) {
    char *path = mem_printf(TOKENIZERS "%s.json", name);
    json_t *json = loaded_json(path);
    free(path);
    return json;
}
