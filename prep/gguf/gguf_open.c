/* Which files a model in GGUF consists of; see gguf.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prep/gguf/gguf.h"

/* How names of parts end: "-00001-of-00003.gguf". */
#define PART_END "-%05u-of-%05u.gguf"
enum { PART_END_BYTES = 20 };

static int open_file(struct gguf *g, const char *path, struct err *err) {
    struct map m = {0};
    if (map_open(&m, path, err) < 0) {
        return -1;
    }
    const uint8_t *data = m.data;
    size_t bytes = m.size_bytes;
    const char *kept = st_add_file(g->st, &m, path);
    return gguf_parse(g, data, bytes, kept, err);
}

/* How many parts the name says there are; 0 where it says nothing. *part is which one this is. */
static unsigned parts_of_name(const char *path, unsigned *part) {
    size_t n = strlen(path);
    char again[PART_END_BYTES + 1];
    unsigned of = 0;
    *part = 0;
    if (n < PART_END_BYTES || sscanf(path + n - PART_END_BYTES, PART_END, part, &of) != 2 ||
        of > GGUF_MAX_PARTS || *part > of) {
        return 0;
    }
    snprintf(again, sizeof again, PART_END, *part, of);
    return strcmp(again, path + n - PART_END_BYTES) == 0 ? of : 0;
}

/* A number of the first part's metadata; 0 where there is none. */
static int split_number(const struct gguf *g, const char *key, int64_t *out, struct err *err) {
    const struct gguf_value *v = gguf_find(g, key);
    *out = 0;
    if (v && (v->list || !gguf_integer(v, 0, out) || *out < 0)) {
        return err_set(err, "%s: %s: expected a number of parts or tensors", g->path, key);
    }
    return 0;
}

/* The other parts, which lie beside the first. */
static int open_parts(struct gguf *g, unsigned n, struct err *err) {
    const int stem = (int)(strlen(g->path) - PART_END_BYTES);
    int rc = 0;
    for (unsigned i = 2; rc == 0 && i <= n; i++) {
        char *path = mem_printf("%.*s" PART_END, stem, g->path, i, n);
        int there = file_exists(path, err);
        rc = there < 0    ? -1
             : there == 0 ? err_set(err, "%s: is missing: part %u of %u of the model", path, i, n)
                          : open_file(g, path, err);
        free(path);
    }
    return rc;
}

int gguf_open(struct gguf *g, const char *path, struct err *err) {
    unsigned part, named = parts_of_name(path, &part);
    int64_t parts, tensors, no;
    memset(g, 0, sizeof *g);
    g->path = mem_strdup(path);
    g->st = st_new();
    if (named > 0 && part != 1) {
        return err_set(err, "%s: is part %u of %u: give the first, -00001-of-%05u.gguf", path, part,
                       named, named);
    }
    if (open_file(g, path, err) < 0 || split_number(g, "split.count", &parts, err) < 0 ||
        split_number(g, "split.tensors.count", &tensors, err) < 0 ||
        split_number(g, "split.no", &no, err) < 0) {
        return -1;
    }
    if (parts > 1 && named != (uint64_t)parts) {
        return err_set(err,
                       "%s: is one of %" PRId64 " parts (split.count): expected a name that ends "
                       "with -00001-of-%05" PRId64 ".gguf",
                       path, parts, parts);
    }
    if (no != 0) {
        return err_set(err, "%s: split.no: expected 0, of the first part, is %" PRId64, path, no);
    }
    if (parts > 1 && open_parts(g, named, err) < 0) {
        return -1;
    }
    if (st_index(g->st, err) < 0) {
        return -1;
    }
    if (tensors > 0 && st_count(g->st) != (uint64_t)tensors) {
        return err_set(err, "%s: all parts have %zu tensors, split.tensors.count says %" PRId64,
                       path, st_count(g->st), tensors);
    }
    return 0;
}
