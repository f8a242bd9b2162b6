/* Which files a checkpoint consists of, and which copy of a tensor counts; see safetensors.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "format/safetensors_internal.h"

enum { ST_MAX_INDEX_BYTES = 256 << 20, ST_MAX_PATH_BYTES = 1024 };

static void add_path(struct safetensors *st, const char *path) {
    st->paths = mem_grow(st->paths, st->n_paths + 1, &st->cap_paths, sizeof *st->paths);
    st->paths[st->n_paths++] = mem_strdup(path);
}

const char *st_add_file(struct safetensors *st, struct map *m, const char *path) {
    st->maps = mem_grow(st->maps, st->n_maps + 1, &st->cap_maps, sizeof *st->maps);
    st->maps[st->n_maps++] = *m;
    add_path(st, path);
    return st->paths[st->n_paths - 1];
}

static int open_file(struct safetensors *st, const char *path, struct err *err) {
    struct map m = {0};
    if (map_open(&m, path, err) < 0) {
        return -1;
    }
    st_add_file(st, &m, path);
    return st_parse_header(m.data, m.size_bytes, path, st, err);
}

/* ---- the index ---- */

/* Paths of shards come from an untrusted index. They stay inside the checkpoint's directory: names
 * with '/' between them, none of which is empty, begins with a dot or has control characters. */
static bool shard_path_ok(const char *path) {
    static const char suffix[] = ".safetensors";
    size_t n = strlen(path), k = sizeof suffix - 1;
    if (n <= k || n > ST_MAX_PATH_BYTES || strchr(path, '\\') ||
        strcmp(path + n - k, suffix) != 0) {
        return false;
    }
    for (const char *c = path; *c; c++) {
        if ((unsigned char)*c < ' ') {
            return false;
        }
    }
    const char *name = path;
    while (*name != '\0' && *name != '/' && *name != '.') {
        const char *slash = strchr(name, '/');
        if (!slash) {
            return true;
        }
        name = slash + 1;
    }
    return false;
}

static int string_order(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Open each shard that the weight map names and that is there, once, in order of path. */
static int open_shards(struct safetensors *st, const char *dir, const char *index,
                       json_t *weight_map, struct err *err) {
    int rc = -1;
    size_t n = 0;
    const char **shards = mem_calloc(json_object_size(weight_map) + 1, sizeof *shards);
    const char *key;
    json_t *value;
    json_object_foreach(weight_map, key, value) {
        const char *shard = json_string_value(value);
        if (!shard || !shard_path_ok(shard)) {
            err_set(err,
                    "%s: tensor \"%s\": \"%s\" is not the path of a .safetensors file inside the "
                    "checkpoint",
                    index, key, shard ? shard : "(not a string)");
            goto out;
        }
        shards[n++] = shard;
    }
    qsort(shards, n, sizeof *shards, string_order);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(shards[i], shards[i - 1]) == 0) {
            continue;
        }
        char *path = mem_printf("%s/%s", dir, shards[i]);
        int bad = access(path, F_OK) == 0 && open_file(st, path, err) < 0;
        free(path);
        if (bad) {
            goto out;
        }
    }
    rc = 0;
out:
    free(shards);
    return rc;
}

/* Of the tensors in the shards, keep those that the weight map puts into just that shard. `dir_len`
 * is the length of the directory's part of a shard's path. */
static void keep_listed(struct safetensors *st, size_t dir_len, const json_t *weight_map) {
    size_t kept = 0;
    for (size_t i = 0; i < st->n_tensors; i++) {
        const struct st_tensor *t = &st->tensors[i];
        const char *shard = json_string_value(json_object_get(weight_map, t->name));
        if (shard && strcmp(t->file + dir_len + 1, shard) == 0) {
            st->tensors[kept++] = *t;
        } else {
            st->skipped =
                mem_grow(st->skipped, st->n_skipped + 1, &st->cap_skipped, sizeof *st->skipped);
            st->skipped[st->n_skipped++] = *t;
        }
    }
    st->n_tensors = kept;
}

static void note_absent(struct safetensors *st, const char *dir, json_t *weight_map) {
    const char *key;
    json_t *value;
    json_object_foreach(weight_map, key, value) {
        if (!st_find(st, key)) {
            char *path = mem_printf("%s/%s", dir, json_string_value(value));
            st->absent =
                mem_grow(st->absent, st->n_absent + 1, &st->cap_absent, sizeof *st->absent);
            st->absent[st->n_absent++] = (struct st_tensor){.name = arena_strdup(&st->names, key),
                                                            .file = arena_strdup(&st->names, path)};
            free(path);
        }
    }
}

static int open_index(struct safetensors *st, const char *dir, const char *index, struct err *err) {
    int rc = -1;
    uint8_t *text = NULL;
    size_t size = 0;
    json_t *root = NULL;
    if (file_read(index, ST_MAX_INDEX_BYTES, &text, &size, err) < 0) {
        goto out;
    }
    add_path(st, index);
    json_error_t why;
    root = json_loadb((const char *)text, size, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        err_set(err, "%s: not valid JSON: %s (line %d)", index, why.text, why.line);
        goto out;
    }
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        err_set(err, "%s: weight_map must be an object {tensor: file} with at least one entry",
                index);
        goto out;
    }
    if (open_shards(st, dir, index, weight_map, err) < 0) {
        goto out;
    }
    keep_listed(st, strlen(dir), weight_map);
    if (st_index(st, err) < 0) {
        goto out;
    }
    note_absent(st, dir, weight_map);
    rc = 0;
out:
    json_decref(root);
    free(text);
    return rc;
}

/* ---- opening and closing ---- */

static int open_dir(struct safetensors *st, const char *dir, struct err *err) {
    char *single = mem_printf("%s/model.safetensors", dir);
    char *index = mem_printf("%s/model.safetensors.index.json", dir);
    int rc;
    if (access(single, F_OK) == 0) {
        rc = open_file(st, single, err) < 0 ? -1 : st_index(st, err);
    } else if (access(index, F_OK) == 0) {
        rc = open_index(st, dir, index, err);
    } else {
        rc =
            err_set(err, "%s: has neither model.safetensors nor model.safetensors.index.json", dir);
    }
    free(single);
    free(index);
    return rc;
}

int st_open(struct safetensors **out, const char *path, struct err *err) {
    struct safetensors *st = st_new();
    struct stat info;
    int rc;
    *out = NULL;
    if (stat(path, &info) != 0) {
        rc = err_errno(err, errno, "%s", path);
    } else if (S_ISDIR(info.st_mode)) {
        rc = open_dir(st, path, err);
    } else {
        rc = open_file(st, path, err) < 0 ? -1 : st_index(st, err);
    }
    if (rc < 0) {
        st_close(st);
        return -1;
    }
    *out = st;
    return 0;
}

void st_close(struct safetensors *st) {
    if (!st) {
        return;
    }
    for (size_t i = 0; i < st->n_maps; i++) {
        map_close(&st->maps[i]);
    }
    for (size_t i = 0; i < st->n_paths; i++) {
        free(st->paths[i]);
    }
    free(st->maps);
    free(st->paths);
    free(st->tensors);
    free(st->absent);
    free(st->skipped);
    free(st->slots);
    arena_free(&st->names);
    free(st);
}
