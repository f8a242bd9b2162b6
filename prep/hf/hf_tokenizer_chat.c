/* The chat template out of the files that may have it; see hf_tokenizer.h. One thread. */
#include <string.h>

#include "prep/hf/hf_tokenizer_json.h"

/* One of several templates: "default" is kept, and the names of others are noted. */
static void take_named(const char *name, const char *text, size_t bytes, struct buf *others,
                       bool *seen, struct tokenizer_pack *p) {
    if (strcmp(name, "default") != 0) {
        buf_printf(others, "%s%.60s", others->len ? ", " : "", name);
        return;
    }
    *seen = true;
    p->chat_template.len = 0;
    buf_append(&p->chat_template, text, bytes);
}

/* A list of {name, template}, or an object {name: template}. */
static int read_named(const struct hf_tokenizer_files *files, const struct place *at,
                      struct tokenizer_pack *p) {
    struct buf others = {0};
    bool seen = false;
    int rc = 0;
    const char *name = NULL, *text = NULL;
    size_t name_bytes, bytes;
    json_t *value;
    for (size_t i = 0; rc == 0 && i < json_array_size(at->value); i++) {
        struct place row = place_item(at, i);
        rc = place_string(&row, "name", false, &name, &name_bytes) ||
                     place_string(&row, "template", false, &text, &bytes)
                 ? -1
                 : 0;
        if (rc == 0) {
            take_named(name, text, bytes, &others, &seen, p);
        }
    }
    json_object_foreach((json_t *)at->value, name, value) {
        if (rc || place_string(at, name, false, &text, &bytes)) {
            rc = -1;
            break;
        }
        take_named(name, text, bytes, &others, &seen, p);
    }
    if (rc == 0 && others.len) {
        place_remark(at, files, "only the template \"default\" is kept%s; left out: %s",
                     seen ? "" : ", and there is none", others.data);
    }
    buf_free(&others);
    return rc;
}

static int read_templates(const struct hf_tokenizer_files *files, const struct place *at,
                          struct tokenizer_pack *p) {
    if (json_is_string(at->value)) {
        buf_append(&p->chat_template, json_string_value(at->value), json_string_length(at->value));
        return 0;
    }
    if (!json_is_array(at->value) && !json_is_object(at->value)) {
        return place_error(at, "expected a string, a list of {name, template}, or an object");
    }
    return read_named(files, at, p);
}

int hf_read_chat_template(const struct hf_tokenizer_files *files, const struct place *config,
                          struct tokenizer_pack *p) {
    struct place at = place_get(config, "chat_template"), root;
    if (files->chat_template.data) {
        buf_append(&p->chat_template, files->chat_template.data, files->chat_template.bytes);
        return 0;
    }
    if (at.value || !files->chat_json.data) {
        return at.value ? read_templates(files, &at, p) : 0;
    }
    json_t *json = place_parse(&files->chat_json, &root, config->err);
    if (!json) {
        return -1;
    }
    at = place_get(&root, "chat_template");
    int rc = read_templates(files, &at, p);
    json_decref(json);
    return rc;
}
