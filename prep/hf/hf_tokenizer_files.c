/* Where in a checkpoint's directory the tokenizer's files are; see hf_tokenizer.h. One thread. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_tokenizer.h"

enum { MAX_TEXT_BYTES = 256 << 20 };

/* The files, in the order of struct hf_tokenizer_files. Of tiktoken files the first counts. */
static const struct {
    const char *name;
    size_t at;
} texts[] = {
    {"tokenizer.json", offsetof(struct hf_tokenizer_files, tokenizer)},
    {"tiktoken.model", offsetof(struct hf_tokenizer_files, tiktoken)},
    {"hy.tiktoken", offsetof(struct hf_tokenizer_files, tiktoken)},
    {"qwen.tiktoken", offsetof(struct hf_tokenizer_files, tiktoken)},
    {"tokenizer_config.json", offsetof(struct hf_tokenizer_files, config)},
    {"added_tokens.json", offsetof(struct hf_tokenizer_files, added_tokens)},
    {"special_tokens_map.json", offsetof(struct hf_tokenizer_files, special_map)},
    {"chat_template.jinja", offsetof(struct hf_tokenizer_files, chat_template)},
    {"chat_template.json", offsetof(struct hf_tokenizer_files, chat_json)},
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

/* Read a file, which need not be there, unless `text` has another one already. The caller frees
 * *data. */
static int read_text(const char *dir, const char *name, struct hf_text *text, uint8_t **data,
                     struct err *err) {
    char *path = mem_printf("%s/%s", dir, name);
    size_t bytes = 0;
    int there = text->data ? 0 : file_exists(path, err), rc = there < 0 ? -1 : 0;
    if (there > 0) {
        rc = file_read(path, MAX_TEXT_BYTES, data, &bytes, err);
        *text = (struct hf_text){name, (const char *)*data, bytes};
    }
    free(path);
    return rc;
}

static int is_template(const struct dirent *e) {
    static const char suffix[] = ".jinja";
    size_t n = strlen(e->d_name), k = sizeof suffix - 1;
    return n > k && strcmp(e->d_name + n - k, suffix) == 0;
}

/* additional_chat_templates: texts whose names are those of their files, without the suffix. The
 * caller frees them (free_templates), after an error too. */
struct templates {
    struct hf_text *texts; /* [n], by name */
    size_t n;
};

static int read_templates(const char *dir, struct templates *t, struct err *err) {
    char *path = mem_printf("%s/additional_chat_templates", dir);
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, is_template, alphasort), rc = 0;
    if (n < 0 && errno != ENOENT && errno != ENOTDIR) {
        rc = err_errno(err, errno, "%s: cannot be listed", path);
    }
    t->texts = mem_calloc(n > 0 ? (size_t)n : 1, sizeof *t->texts);
    for (int i = 0; i < n; i++) {
        struct hf_text *text = &t->texts[t->n];
        uint8_t *data = NULL;
        if (rc == 0 && (rc = read_text(path, entries[i]->d_name, text, &data, err)) == 0 && data) {
            text->name =
                mem_printf("%.*s", (int)strlen(entries[i]->d_name) - 6, entries[i]->d_name);
            t->n++;
        } else {
            free(data);
        }
        free(entries[i]);
    }
    free(entries);
    free(path);
    return rc;
}

static void free_templates(struct templates *t) {
    for (size_t i = 0; i < t->n; i++) {
        free((char *)(uintptr_t)t->texts[i].name);
        free((char *)(uintptr_t)t->texts[i].data);
    }
    free(t->texts);
}

int hf_tokenizer_read(const char *dir, uint32_t rows, struct buf *section, struct buf *book,
                      struct buf *remarks, struct err *err) {
    struct hf_tokenizer_files files = {.rows = rows, .remarks = remarks, .dir = dir, .book = book};
    uint8_t *data[N_TEXTS] = {NULL};
    struct templates templates = {0};
    int rc = read_templates(dir, &templates, err);
    files.templates = templates.texts;
    files.n_templates = templates.n;
    for (size_t i = 0; rc == 0 && i < N_TEXTS; i++) {
        struct hf_text *text = (struct hf_text *)(void *)((char *)&files + texts[i].at);
        rc = read_text(dir, texts[i].name, text, &data[i], err);
    }
    if (rc == 0 && (files.tokenizer.data || files.tiktoken.data)) {
        rc = hf_tokenizer_compile(&files, section, err) < 0 ? err_prefix(err, "%s", dir) : 0;
    }
    for (size_t i = 0; i < N_TEXTS; i++) {
        free(data[i]);
    }
    free_templates(&templates);
    return rc;
}
