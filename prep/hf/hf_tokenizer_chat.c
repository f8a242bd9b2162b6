/* The chat templates out of the files that may have them; see hf_tokenizer.h. One thread. */
#include <stdio.h>
#include <string.h>

#include "format/text/chat_book.h"
#include "format/text/value.h"
#include "prep/hf/hf_tokenizer_json.h"

/* Of each at most so many, which together an archive's section holds. */
enum { MAX_TEMPLATES = 1024, MAX_CONTROL = 1024 };

/* Templates by their names, of which the last counts. */
struct finder {
    const struct hf_tokenizer_files *files;
    json_t *named;
};

/* A template that stands at `at`. One that no archive can hold is left out with a remark. */
static int take_named(const struct finder *f, const struct place *at, const char *name,
                      const char *text, size_t bytes) {
    size_t bad;
    bool by_default = strcmp(name, "default") == 0;
    if (!by_default && !chat_book_is_name(name, strlen(name))) {
        place_remark(
            at, f->files,
            "a chat template is left out: expected a name of 1 to 64 bytes without control "
            "characters");
        return 0;
    }
    if (!by_default && !value_utf8_check(text, bytes, &bad)) {
        place_remark(at, f->files, "a chat template is left out: byte %zu is not UTF-8", bad);
        return 0;
    }
    if (json_object_size(f->named) == MAX_TEMPLATES && !json_object_get(f->named, name)) {
        return place_error(at, "more than %d chat templates", MAX_TEMPLATES);
    }
    json_object_set_new_nocheck(f->named, name, json_stringn_nocheck(text, bytes));
    return 0;
}

/* A list of {name, template}, or an object {name: template}. */
static int read_named(const struct finder *f, const struct place *at) {
    const char *name = NULL, *text = NULL;
    size_t name_bytes, bytes;
    json_t *value;
    for (size_t i = 0; i < json_array_size(at->value); i++) {
        struct place row = place_item(at, i);
        if (place_string(&row, "name", false, &name, &name_bytes) ||
            place_string(&row, "template", false, &text, &bytes) ||
            take_named(f, &row, name, text, bytes)) {
            return -1;
        }
    }
    json_object_foreach((json_t *)at->value, name, value) {
        struct place row = place_get(at, name);
        if (place_string(at, name, false, &text, &bytes) ||
            take_named(f, &row, name, text, bytes)) {
            return -1;
        }
    }
    return 0;
}

static int read_templates(const struct finder *f, const struct place *at) {
    if (json_is_string(at->value)) {
        return take_named(f, at, "default", json_string_value(at->value),
                          json_string_length(at->value));
    }
    if (!json_is_array(at->value) && !json_is_object(at->value)) {
        return place_error(at, "expected a string, a list of {name, template}, or an object");
    }
    return read_named(f, at);
}

/* Those that are files of their own. */
static int read_files(const struct finder *f, struct err *err) {
    const struct hf_text *one = &f->files->chat_template;
    struct place at = {.err = err};
    if (one->data && take_named(f, &at, "default", one->data, one->bytes)) {
        return -1;
    }
    for (size_t i = 0; i < f->files->n_templates; i++) {
        one = &f->files->templates[i];
        snprintf(at.path, sizeof at.path, "additional_chat_templates/%s.jinja:", one->name);
        if (take_named(f, &at, one->name, one->data, one->bytes)) {
            return -1;
        }
    }
    return 0;
}

/* Files of their own come before what the configuration has. */
static int find_templates(const struct finder *f, const struct place *config) {
    struct place at = place_get(config, "chat_template"), root;
    const struct hf_text *old = &f->files->chat_json;
    if (read_files(f, config->err)) {
        return -1;
    }
    if (f->files->chat_template.data || f->files->n_templates) {
        return 0;
    }
    if (at.value || !old->data) {
        return at.value ? read_templates(f, &at) : 0;
    }
    json_t *json = place_parse(old, &root, config->err);
    if (!json) {
        return -1;
    }
    at = place_get(&root, "chat_template");
    int rc = read_templates(f, &at);
    json_decref(json);
    return rc;
}

/* The tokens that the checkpoint itself calls control tokens. An empty list is one entry without
 * text, which no token is. */
static int read_control(const struct place *config, struct tokenizer_pack *p) {
    struct place at = place_get(config, "chat_control_tokens");
    if (!at.value || json_is_null(at.value)) {
        return 0;
    }
    if (!json_is_array(at.value)) {
        return place_error(&at, "expected a list of strings");
    }
    if (json_array_size(at.value) > MAX_CONTROL) {
        return place_error(&at, "more than %d tokens", MAX_CONTROL);
    }
    for (size_t i = 0; i < json_array_size(at.value); i++) {
        const json_t *text = json_array_get(at.value, i);
        if (!json_is_string(text)) {
            return place_error(&at, "expected a list of strings");
        }
        chat_book_add(&p->book, CHAT_ENTRY_CONTROL, "", 0, json_string_value(text),
                      json_string_length(text));
    }
    if (json_array_size(at.value) == 0) {
        chat_book_add(&p->book, CHAT_ENTRY_CONTROL, "", 0, "", 0);
    }
    return 0;
}

int hf_read_chat_template(const struct hf_tokenizer_files *files, const struct place *config,
                          struct tokenizer_pack *p) {
    const struct finder f = {files, json_object()};
    const char *name;
    json_t *value;
    int rc = find_templates(&f, config) || read_control(config, p) ? -1 : 0;
    json_object_foreach(f.named, name, value) {
        const char *text = json_string_value(value);
        size_t bytes = json_string_length(value);
        if (strcmp(name, "default") == 0) {
            buf_append(&p->chat_template, text, bytes);
        } else {
            chat_book_add(&p->book, CHAT_ENTRY_TEMPLATE, name, strlen(name), text, bytes);
        }
    }
    json_decref(f.named);
    return rc;
}
