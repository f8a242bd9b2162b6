#include "prep/calib/calib_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one file: key, parts, checksum ---- */

struct part {
    void *data;
    size_t bytes;
};
enum { MAX_PARTS = 32 };
struct parts {
    struct part at[MAX_PARTS];
    uint32_t n;
};

static void add_part(struct parts *p, void *data, size_t bytes) {
    if (p->n == MAX_PARTS) {
        die("more than %d parts", MAX_PARTS);
    }
    p->at[p->n++] = (struct part){data, bytes};
}

static uint64_t key_of(const struct calib *c) {
    struct hasher *h = hasher_new();
    hasher_add(h, c->opt->state_key, strlen(c->opt->state_key));
    hasher_add(h, c->ids, c->n_rows * sizeof *c->ids);
    hasher_add(h, c->seqs, c->n_seqs * sizeof *c->seqs);
    hasher_add(h, &c->n_train, sizeof c->n_train);
    uint64_t key = hasher_value(h);
    hasher_free(h);
    return key;
}

static char *path_of(const char *dir, const char *kind, uint32_t layer) {
    return mem_printf("%s/%s-%04u", dir, kind, layer);
}

static int write_parts(const char *path, uint64_t key, const struct parts *p, struct err *err) {
    char *temp = mem_printf("%s.tmp", path);
    struct hasher *h = hasher_new();
    int status = -1, fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_errno(err, errno, "%s", temp);
        goto out;
    }
    hasher_add(h, &key, sizeof key);
    if (file_write_all(fd, &key, sizeof key, temp, err) < 0) {
        goto out;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        hasher_add(h, p->at[i].data, p->at[i].bytes);
        if (file_write_all(fd, p->at[i].data, p->at[i].bytes, temp, err) < 0) {
            goto out;
        }
    }
    uint64_t sum = hasher_value(h);
    if (file_write_all(fd, &sum, sizeof sum, temp, err) < 0) {
        goto out;
    }
    if (fsync(fd) < 0 || rename(temp, path) < 0) {
        err_errno(err, errno, "%s", path);
        goto out;
    }
    status = 0;
out:
    if (fd >= 0) {
        close(fd);
    }
    if (status < 0) {
        unlink(temp);
    }
    hasher_free(h);
    free(temp);
    return status;
}

/* Fill the parts from a file that was written with the same sizes. Returns false where there is no
 * such file, where it has another key, or where it is damaged; then the parts may be
 * overwritten. */
static bool read_parts(const char *path, uint64_t key, const struct parts *p) {
    struct map m;
    size_t bytes = 2 * sizeof(uint64_t), pos = sizeof key;
    uint64_t found, sum;
    if (map_open(&m, path, NULL) < 0) {
        return false;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        bytes += p->at[i].bytes;
    }
    bool ok = m.size_bytes == bytes;
    if (ok) {
        memcpy(&found, m.data, sizeof found);
        memcpy(&sum, m.data + bytes - sizeof sum, sizeof sum);
        ok = found == key && hash64(m.data, bytes - sizeof sum) == sum;
    }
    for (uint32_t i = 0; ok && i < p->n; i++) {
        memcpy(p->at[i].data, m.data + pos, p->at[i].bytes);
        pos += p->at[i].bytes;
    }
    map_close(&m);
    return ok;
}

/* ---- what is saved ---- */

/* What the layers after `layer` need: the history without its oldest layer, which is replaced
 * next. */
static struct parts rows_parts(struct calib *c, uint32_t layer) {
    struct parts p = {.n = 0};
    size_t n = (size_t)c->n_rows * c->arch->dim;
    add_part(&p, c->x, n * sizeof *c->x);
    for (int i = 0; i < CALIB_HISTORY; i++) {
        struct calib_past *past = &c->past[i];
        if (past == calib_past_of(c, layer + 1)) {
            continue;
        }
        add_part(&p, &past->filled, sizeof past->filled);
        add_part(&p, &past->moe, sizeof past->moe);
        add_part(&p, &past->mean_decided, sizeof past->mean_decided);
        add_part(&p, past->feature, n * sizeof *past->feature);
        add_part(&p, past->residual, n * sizeof *past->residual);
        add_part(&p, past->quasi, n * sizeof *past->quasi);
        add_part(&p, past->mean_out, (size_t)c->arch->n_experts * c->arch->dim * sizeof(float));
    }
    return p;
}

static struct parts layer_parts(struct calib *c, uint32_t layer) {
    struct parts p = {.n = 0};
    const struct arch *a = c->arch;
    struct calib_result *r = c->result;
    size_t experts = (size_t)layer * a->n_experts;
    add_part(&p, &r->scores[layer], sizeof *r->scores);
    add_part(&p, &r->order[experts * a->ffn_dim],
             (size_t)a->n_experts * a->ffn_dim * sizeof *r->order);
    add_part(&p, &r->hot[experts], a->n_experts * sizeof *r->hot);
    return p;
}

int calib_state_save(struct calib *c, const struct corm_predict_builder *layer, struct err *err) {
    const char *dir = c->opt->state_dir;
    if (!dir) {
        return 0;
    }
    if (mkdir(dir, 0777) < 0 && errno != EEXIST) {
        return err_errno(err, errno, "%s", dir);
    }
    uint64_t key = key_of(c);
    struct parts p = layer_parts(c, c->layer), sizes = {.n = 0};
    uint64_t size[2] = {layer->n_entries, layer->body.len};
    add_part(&sizes, size, sizeof size);
    add_part(&p, layer->entries, layer->n_entries * sizeof *layer->entries);
    add_part(&p, layer->body.data, layer->body.len);
    struct parts rows = rows_parts(c, c->layer);
    char *size_path = path_of(dir, "size", c->layer), *path = path_of(dir, "layer", c->layer);
    char *rows_path = path_of(dir, "rows", c->layer);
    int status = 0;
    if (write_parts(size_path, key, &sizes, err) < 0 || write_parts(path, key, &p, err) < 0 ||
        write_parts(rows_path, key, &rows, err) < 0) {
        status = -1;
    }
    if (status == 0 && c->layer > 0) {
        char *old = path_of(dir, "rows", c->layer - 1);
        unlink(old);
        free(old);
    }
    free(size_path);
    free(path);
    free(rows_path);
    return status;
}

static bool load_layer(struct calib *c, uint64_t key, uint32_t layer,
                       struct corm_predict_builder *b) {
    const char *dir = c->opt->state_dir;
    uint64_t size[2] = {0, 0};
    struct parts sizes = {.n = 0}, p = layer_parts(c, layer);
    add_part(&sizes, size, sizeof size);
    char *size_path = path_of(dir, "size", layer), *path = path_of(dir, "layer", layer);
    bool ok = read_parts(size_path, key, &sizes);
    if (ok) {
        b->n_entries = b->cap = (uint32_t)size[0]; /* trusted: the checksum and the key agree */
        b->entries = mem_calloc(b->cap ? b->cap : 1, sizeof *b->entries);
        b->body = (struct buf){mem_calloc(size[1] + 1, 1), size[1], size[1] + 1};
        add_part(&p, b->entries, b->n_entries * sizeof *b->entries);
        add_part(&p, b->body.data, b->body.len);
        ok = read_parts(path, key, &p);
    }
    if (!ok) {
        corm_predict_drop(b);
    }
    free(size_path);
    free(path);
    return ok;
}

void calib_state_load(struct calib *c, struct corm_predict_builder *builders, uint32_t *n_done) {
    *n_done = 0;
    if (!c->opt->state_dir) {
        return;
    }
    uint64_t key = key_of(c);
    uint32_t n = 0;
    while (n < c->arch->n_layers && load_layer(c, key, n, &builders[n])) {
        n++;
    }
    /* Where the process was killed between writing two files, the rows of the layer before are
     * still there. */
    for (uint32_t last = n; last > 0 && last + 2 > n; last--) {
        struct parts rows = rows_parts(c, last - 1);
        char *path = path_of(c->opt->state_dir, "rows", last - 1);
        bool ok = read_parts(path, key, &rows);
        free(path);
        if (ok) {
            for (uint32_t l = last; l < n; l++) {
                corm_predict_drop(&builders[l]);
            }
            *n_done = last;
            return;
        }
    }
    for (uint32_t l = 0; l < n; l++) {
        corm_predict_drop(&builders[l]);
    }
}

void calib_state_remove(const char *state_dir, uint32_t n_layers) {
    static const char *const kinds[] = {"size", "layer", "rows"};
    for (uint32_t l = 0; state_dir && l < n_layers; l++) {
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            char *path = path_of(state_dir, kinds[k], l), *temp = mem_printf("%s.tmp", path);
            unlink(path);
            unlink(temp);
            free(path);
            free(temp);
        }
    }
    if (state_dir) {
        rmdir(state_dir);
    }
}
