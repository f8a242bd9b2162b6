/* The chat templates out of the files that may have them; see hf_tokenizer.h. One thread. */
#include <string.h>

#include "format/text/chat_book.h"
#include "format/text/value.h"
#include "prep/hf/hf_tokenizer_json.h"

/* One of several templates: the last of a name counts. */
static void take_named(json_t *named, const char *name, const char *text, size_t bytes) {
    json_object_set_new_nocheck(named, name, json_stringn_nocheck(text, bytes));
}

/* A list of {name, template}, or an object {name: template}. */
static int read_named(const struct place *at, json_t *named) {
    const char *name = NULL, *text = NULL;
    size_t name_bytes, bytes;
    json_t *value;
    for (size_t i = 0; i < json_array_size(at->value); i++) {
        struct place row = place_item(at, i);
        if (place_string(&row, "name", false, &name, &name_bytes) ||
            place_string(&row, "template", false, &text, &bytes)) {
            return -1;
        }
        take_named(named, name, text, bytes);
    }
    json_object_foreach((json_t *)at->value, name, value) {
        if (place_string(at, name, false, &text, &bytes)) {
            return -1;
        }
        take_named(named, name, text, bytes);
    }
    return 0;
}

static int read_templates(const struct place *at, json_t *named) {
    if (json_is_string(at->value)) {
        take_named(named, "default", json_string_value(at->value), json_string_length(at->value));
        return 0;
    }
    if (!json_is_array(at->value) && !json_is_object(at->value)) {
        return place_error(at, "expected a string, a list of {name, template}, or an object");
    }
    return read_named(at, named);
}

/* Files of their own come before what the configuration has. */
static int find_templates(const struct hf_tokenizer_files *files, const struct place *config,
                          json_t *named) {
    struct place at = place_get(config, "chat_template"), root;
    if (files->chat_template.data) {
        take_named(named, "default", files->chat_template.data, files->chat_template.bytes);
    }
    for (size_t i = 0; i < files->n_templates; i++) {
        const struct hf_text *t = &files->templates[i];
        take_named(named, t->name, t->data, t->bytes);
    }
    if (json_object_size(named)) {
        return 0;
    }
    if (at.value || !files->chat_json.data) {
        return at.value ? read_templates(&at, named) : 0;
    }
    json_t *json = place_parse(&files->chat_json, &root, config->err);
    if (!json) {
        return -1;
    }
    at = place_get(&root, "chat_template");
    int rc = read_templates(&at, named);
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
    json_t *named = json_object(), *value;
    const char *name;
    int rc = find_templates(files, config, named) || read_control(config, p) ? -1 : 0;
    json_object_foreach(named, name, value) {
        const char *text = json_string_value(value);
        size_t bytes = json_string_length(value), bad;
        if (strcmp(name, "default") == 0) {
            buf_append(&p->chat_template, text, bytes);
        } else if (chat_book_is_name(name, strlen(name)) && value_utf8_check(text, bytes, &bad)) {
            chat_book_add(&p->book, CHAT_ENTRY_TEMPLATE, name, strlen(name), text, bytes);
        } else {
            place_remark(
                config, files,
                "a chat template is left out: it is not UTF-8, or its name is empty, longer than "
                "64 bytes, or no text");
        }
    }
    json_decref(named);
    return rc;
}
