#include "prep/foreign.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prep/source.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

enum { HEAD_BYTES = 64, MAX_INDEX_BYTES = 256 << 20 };

#define DOWNLOAD "huggingface-cli download NAME --local-dir DIR"
#define SAVE_AGAIN                                                                                 \
    "save it as safetensors with transformers "                                                    \
    "(AutoModelForCausalLM.from_pretrained(DIR, dtype=\"auto\").save_pretrained(OUT)) and "        \
    "convert OUT, with the tokenizer's files in it"
#define FROM_SOURCE "convert the checkpoint that it was made from"
#define MERGE                                                                                      \
    "merge it into its base model (with peft: "                                                    \
    "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)) and "  \
    "convert OUT"
#define WEB_PAGE "a web page, not the file itself", "download it again (" DOWNLOAD ")"
#define HUB_ERROR "an error message of the server, not the file itself", AGAIN
#define AGAIN "download it again (" DOWNLOAD "; with a token where the model asks for one)"
#define UNFINISHED                                                                                 \
    "a download that was not finished",                                                            \
        "download again (huggingface-cli download NAME goes on where it stopped)"
#define PACKED "packed weights, which are not read", "unpack them"
#define WHOLE_FOLDER "give the folder that it lies in, with its config.json and tokenizer.json"

/* ---- files that are not themselves ---- */

/* By their first bytes; of files of a checkpoint whose name matches. */
static const struct {
    const char *head;
    bool any_case;
    const char *name; /* a pattern */
    const char *is, *to_do;
} heads[] = {
    {"version https://git-lfs.github.com/spec/", false, "*",
     "a pointer of Git LFS, which stands for the file",
     "run \"git lfs pull\" in the folder, or " DOWNLOAD},
    {"<!DOCTYPE html", true, "*.json", WEB_PAGE},
    {"<!DOCTYPE html", true, "*.safetensors", WEB_PAGE},
    {"<html", true, "*.json", WEB_PAGE},
    {"<html", true, "*.safetensors", WEB_PAGE},
    {"<?xml", true, "*.json", HUB_ERROR},
    {"<?xml", true, "*.safetensors", HUB_ERROR},
    {"{\"error\"", false, "*.json", HUB_ERROR},
    {"{\"error\"", false, "*.safetensors", HUB_ERROR},
    {"Entry not found", false, "*.json", HUB_ERROR},
    {"Entry not found", false, "*.safetensors", HUB_ERROR},
    {"Access to model", false, "*.json", HUB_ERROR},
    {"Access to model", false, "*.safetensors", HUB_ERROR},
    {"Invalid username", false, "*.json", HUB_ERROR},
    {"Invalid username", false, "*.safetensors", HUB_ERROR},
};

/* The first bytes of a regular file, zeros behind its end; false where it cannot be read. */
static bool read_head(const char *path, char head[HEAD_BYTES]) {
    memset(head, 0, HEAD_BYTES);
    struct stat info;
    int fd =
        stat(path, &info) == 0 && S_ISREG(info.st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    bool ok = fd >= 0 && read(fd, head, HEAD_BYTES - 1) >= 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static int check_head(const char *path, const char *name, struct err *err) {
    char head[HEAD_BYTES];
    if (!read_head(path, head)) {
        return 0; /* whoever reads it will say why not */
    }
    for (size_t i = 0; i < COUNT(heads); i++) {
        size_t n = strlen(heads[i].head);
        bool same = heads[i].any_case ? strncasecmp(head, heads[i].head, n) == 0
                                      : strncmp(head, heads[i].head, n) == 0;
        if (same && fnmatch(heads[i].name, name, 0) == 0) {
            return err_set(err, "%s: %s: %s", path, heads[i].is, heads[i].to_do);
        }
    }
    return 0;
}

/* A link to a file that is not there, as caches of the Hub have it. */
static int check_link(const char *path, struct err *err) {
    struct stat info;
    char target[PATH_MAX];
    if (lstat(path, &info) != 0 || !S_ISLNK(info.st_mode) || stat(path, &info) == 0) {
        return 0;
    }
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    return err_set(
        err,
        "%s: a link to %.300s, which is not there: the download was not finished, or its "
        "cache was cleaned; download again (huggingface-cli download NAME goes on where "
        "it stopped)",
        path, target);
}

/* ---- whole directories ---- */

/* When a file of this name tells why a directory cannot be read. */
enum when {
    ALWAYS,
    NO_MODEL,   /* where config.json, or weights that are read, are missing */
    NO_WEIGHTS, /* where these are */
};

/* The first row counts that any file matches. */
static const struct {
    const char *name; /* a pattern */
    enum when when;
    const char *is, *to_do;
} files[] = {
    {"adapter_config.json", ALWAYS, "an adapter (LoRA), not a model",
     MERGE ". If the weights beside it are merged already, remove this file"},
    {"adapter_model.safetensors", NO_MODEL, "an adapter (LoRA), not a model", MERGE},
    {"adapter_model.bin", NO_MODEL, "an adapter (LoRA), not a model", MERGE},
    {"quantize_config.json", ALWAYS, "weights quantised by GPTQ, which are not read", FROM_SOURCE},
    {"quant_config.json", ALWAYS, "weights quantised by AWQ, which are not read", FROM_SOURCE},
    {"*.safetensors.aria2", ALWAYS, UNFINISHED}, /* it lies beside the file as long as that grows */
    {"*.safetensors.part*", NO_WEIGHTS, UNFINISHED},
    {"*.crdownload", NO_WEIGHTS, UNFINISHED},
    {"*.incomplete", NO_WEIGHTS, UNFINISHED},
    {"*.safetensors.gz", NO_WEIGHTS, PACKED},
    {"*.safetensors.zst", NO_WEIGHTS, PACKED},
    {"*.safetensors.xz", NO_WEIGHTS, PACKED},
    {"model-*-of-*.safetensors", NO_WEIGHTS, "a part of the weights without their index",
     "download model.safetensors.index.json as well"},
    {"consolidated*", NO_MODEL, "weights under their publisher's own names, which are not read",
     "download config.json and the files model*.safetensors of the same repository"},
    {"*.gguf", NO_MODEL, "a model in GGUF, the format of llama.cpp",
     "give the file itself, or the first of its parts"},
    {"pytorch_model*.bin", NO_MODEL,
     "weights pickled by PyTorch, which are not read, because a pickle is a program", SAVE_AGAIN},
    {"*.pt", NO_MODEL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.pth", NO_MODEL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.ckpt", NO_MODEL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"tf_model*.h5", NO_MODEL, "weights of TensorFlow, which are not read", SAVE_AGAIN},
    {"flax_model*.msgpack", NO_MODEL, "weights of Flax, which are not read", SAVE_AGAIN},
    {"*.onnx", NO_MODEL, "a model in ONNX, which is not read", FROM_SOURCE},
    {"*.npz", NO_MODEL, "weights in NumPy's format (MLX), which are not read", FROM_SOURCE},
    {"*.safetensors", NO_WEIGHTS, "weights under a name that is not read",
     "expected model.safetensors, or model.safetensors.index.json and the files that it names"},
    {"snapshots", NO_MODEL, "a folder of the Hub's cache, not a checkpoint",
     "give the folder in it that has a config.json"},
};

/* Names in a directory, sorted, so that messages do not depend on the file system. */
struct names {
    struct dirent **list;
    int n;
};

static void names_free(struct names *names) {
    for (int i = 0; i < names->n; i++) {
        free(names->list[i]);
    }
    free(names->list);
}

static bool has(const struct names *names, const char *name) {
    for (int i = 0; i < names->n; i++) {
        if (strcmp(names->list[i]->d_name, name) == 0) {
            return true;
        }
    }
    return false;
}

static int check_files(const char *dir, const struct names *names, bool no_config, bool no_weights,
                       struct err *err) {
    for (size_t r = 0; r < COUNT(files); r++) {
        enum when when = files[r].when;
        bool asked = when == ALWAYS || no_weights || (when == NO_MODEL && no_config);
        for (int i = 0; i < names->n && asked; i++) {
            const char *name = names->list[i]->d_name;
            if (fnmatch(files[r].name, name, FNM_PERIOD) == 0) {
                return err_set(err, "%s/%s: %s: %s", dir, name, files[r].is, files[r].to_do);
            }
        }
    }
    return 0;
}

/* Whether a file of weights is one that is read: alone, or named by the index, whose text this is
 * (NULL: there is none, or none that can be read). */
static bool weights_count(const struct names *names, const char *name, const char *index) {
    if (strcmp(name, "model.safetensors") == 0) {
        return true;
    }
    char *quoted = mem_printf("\"%s\"", name);
    bool named = index && strstr(index, quoted);
    free(quoted);
    return named && !has(names, "model.safetensors");
}

static int check_file(const char *dir, const char *name, struct err *err) {
    char *path = mem_printf("%s/%s", dir, name);
    const char *base = strrchr(path, '/') + 1;
    int rc = check_link(path, err) < 0 ? -1 : check_head(path, base, err);
    free(path);
    return rc;
}

/* Shards that the index's text names in folders below `dir`. */
static int check_below(const char *dir, const char *index, struct err *err) {
    static const char suffix[] = ".safetensors\"";
    char *before = mem_strdup("");
    int rc = 0;
    for (const char *end = index; rc == 0 && (end = strstr(end, suffix)) != NULL; end++) {
        const char *start = end;
        while (start > index && start[-1] != '"') {
            start--;
        }
        char *name = mem_printf("%.*s%.12s", (int)(end - start), start, suffix);
        if (strchr(name, '/') && name[0] != '/' && strcmp(name, before) != 0) {
            rc = check_file(dir, name, err);
        }
        free(before);
        before = name;
    }
    free(before);
    return rc;
}

static int check_each(const char *dir, const struct names *names, struct err *err) {
    char *index_path = mem_printf("%s/model.safetensors.index.json", dir);
    uint8_t *index = NULL;
    size_t bytes;
    struct err no_index = {0};
    int rc = 0;
    file_read(index_path, MAX_INDEX_BYTES, &index, &bytes, &no_index);
    for (int i = 0; i < names->n && rc == 0; i++) {
        const char *name = names->list[i]->d_name;
        if (!source_wants(name) || (fnmatch("*.safetensors", name, 0) == 0 &&
                                    !weights_count(names, name, (const char *)index))) {
            continue;
        }
        rc = check_file(dir, name, err);
    }
    if (rc == 0 && index && !has(names, "model.safetensors")) {
        rc = check_below(dir, (const char *)index, err);
    }
    free(index);
    free(index_path);
    return rc;
}

int foreign_check_dir(const char *dir, bool weights, struct err *err) {
    struct names names = {0};
    names.n = scandir(dir, &names.list, NULL, alphasort);
    if (names.n < 0) {
        return err_errno(err, errno, "%s", dir);
    }
    bool no_config = !has(&names, "config.json");
    bool no_weights = weights && !has(&names, "model.safetensors") &&
                      !has(&names, "model.safetensors.index.json");
    int rc = check_files(dir, &names, no_config, no_weights, err) < 0
                 ? -1
                 : check_each(dir, &names, err);
    names_free(&names);
    return rc;
}

/* ---- paths ---- */

/* Files that people give in place of a folder: by name, by their first bytes, or by both. */
static const struct {
    const char *name, *head;
    const char *is, *to_do;
} paths[] = {
    {NULL, "CORM\r\n", "a .corm archive already", "give it to corm-run"},
    {"*.safetensors", NULL, "a file of a checkpoint", WHOLE_FOLDER},
    {"*.json", NULL, "a file of a checkpoint", WHOLE_FOLDER},
    {"*.bin", "PK\3\4", "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.bin", "\x80\2", "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.pt", NULL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.pth", NULL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.ckpt", NULL, "weights pickled by PyTorch, which are not read", SAVE_AGAIN},
    {"*.onnx", NULL, "a model in ONNX, which is not read", FROM_SOURCE},
    {"*.h5", NULL, "weights of TensorFlow, which are not read", SAVE_AGAIN},
};

/* The name of a repository on the Hub in what a user wrote: OWNER/NAME, with or without the Hub's
 * address before it; NULL where it does not look like one. */
static const char *hub_name(const char *path) {
    static const char *const before[] = {
        "https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf://", "hf:"};
    const char *name = path;
    size_t slashes = 0;
    for (size_t i = 0; i < COUNT(before) && name == path; i++) {
        size_t n = strlen(before[i]);
        name = strncmp(path, before[i], n) == 0 ? path + n : path;
    }
    for (const char *p = name; *p; p++) {
        slashes += *p == '/';
        if (!isalnum((unsigned char)*p) && !strchr("/._-", *p)) {
            return NULL;
        }
    }
    const char *slash = strchr(name, '/');
    return slashes == 1 && isalnum((unsigned char)name[0]) && isalnum((unsigned char)slash[1])
               ? name
               : NULL;
}

int foreign_check_path(const char *path, struct err *err) {
    struct stat info;
    char head[HEAD_BYTES];
    const char *name = hub_name(path), *base = strrchr(path, '/');
    if (stat(path, &info) != 0) {
        if (errno != ENOENT || !name || lstat(path, &info) == 0) {
            return err_errno(err, errno, "%s", path);
        }
        return err_set(err,
                       "%s: no such file or folder. If it is a name on the Hugging Face Hub, "
                       "download it first (huggingface-cli download %s --local-dir %s) and convert "
                       "%s",
                       path, name, strchr(name, '/') + 1, strchr(name, '/') + 1);
    }
    base = base ? base + 1 : path;
    if (!S_ISREG(info.st_mode) || !read_head(path, head)) {
        return 0;
    }
    if (check_head(path, base, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < COUNT(paths); i++) {
        const char *start = paths[i].head, *pattern = paths[i].name;
        if ((!start || memcmp(head, start, strlen(start)) == 0) &&
            (!pattern || fnmatch(pattern, base, 0) == 0)) {
            return err_set(err, "%s: %s: %s", path, paths[i].is, paths[i].to_do);
        }
    }
    return 0;
}
