#include "prep/calib/calib_state.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
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

uint64_t calib_state_key(const struct calib *c) {
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
    unlink(temp); /* of a killed run; or a link that somebody put there, which is not followed */
    int status = -1, fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
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
 * such file, where it has another key, or where it is damaged; then the parts may be overwritten,
 * and for a damaged file `refused` says so. */
static bool read_parts(const char *path, uint64_t key, const struct parts *p, struct err *refused) {
    struct map m;
    size_t bytes = 2 * sizeof(uint64_t), pos = sizeof key;
    uint64_t found, sum;
    if (access(path, F_OK) < 0 && errno == ENOENT) {
        return false;
    }
    if (map_open(&m, path, refused) < 0) {
        return false;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        bytes += p->at[i].bytes;
    }
    bool ours = m.size_bytes >= sizeof found;
    if (ours) {
        memcpy(&found, m.data, sizeof found);
        ours = found == key;
    }
    bool ok = ours && m.size_bytes == bytes;
    if (ok) {
        memcpy(&sum, m.data + bytes - sizeof sum, sizeof sum);
        ok = hash64(m.data, bytes - sizeof sum) == sum;
    }
    for (uint32_t i = 0; ok && i < p->n; i++) {
        memcpy(p->at[i].data, m.data + pos, p->at[i].bytes);
        pos += p->at[i].bytes;
    }
    if (ours && !ok) {
        err_set(refused, "%s: damaged: %zu bytes, expected %zu with their checksum", path,
                m.size_bytes, bytes);
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

/* ---- what is read back ---- */

/* The files lie in a folder beside the output, where anybody may have put them, and a checksum is
 * made by anybody too. So every number is checked before it is used. */

static int check_order(const struct calib *c, size_t expert, bool *seen, struct err *err) {
    const uint32_t ffn = c->arch->ffn_dim, *order = c->result->order + expert * ffn;
    memset(seen, 0, ffn);
    for (uint32_t i = 0; i < ffn; i++) {
        if (order[i] >= ffn || seen[order[i]]) {
            return err_set(err, "expert %zu: neuron %u at place %u, expected each of %u once",
                           expert % c->arch->n_experts, order[i], i, ffn);
        }
        seen[order[i]] = true;
    }
    return 0;
}

static bool is_flag(const bool *flag) {
    unsigned char byte; /* another value than 0 and 1 may not even be read as a bool */
    memcpy(&byte, flag, 1);
    return byte <= 1;
}

static bool are_finite(const float *v, size_t n) {
    size_t i = 0;
    while (i < n && isfinite(v[i])) {
        i++;
    }
    return i == n;
}

static bool are_finite_bf16(const uint16_t *v, size_t n) {
    size_t i = 0;
    while (i < n && (v[i] & 0x7f80) != 0x7f80) {
        i++;
    }
    return i == n;
}

static int check_scores(const struct calib_scores *s, struct err *err) {
    const size_t ends[2][2] = {
        {0, offsetof(struct calib_scores, stored)},
        {offsetof(struct calib_scores, hot_fraction), offsetof(struct calib_scores, chunks_stored)},
    };
    bool ok = is_flag(&s->chunks_stored);
    for (int i = 0; i <= PREDICT_MAX_AHEAD; i++) {
        ok &= is_flag(&s->stored[i]);
    }
    for (int i = 0; i < 2; i++) {
        const uint8_t *from = (const uint8_t *)s + ends[i][0];
        ok &= are_finite((const float *)(const void *)from,
                         (ends[i][1] - ends[i][0]) / sizeof(float));
    }
    return ok ? 0 : err_set(err, "scores that are no numbers");
}

static int check_layer(const struct calib *c, uint32_t layer, const struct corm_predict_builder *b,
                       struct err *err) {
    const struct arch *a = c->arch;
    const uint32_t chunk = c->opt->chunk_neurons, ffn = a->ffn_dim;
    if (check_scores(&c->result->scores[layer], err) < 0) {
        return -1;
    }
    bool *seen = mem_calloc(ffn, 1);
    int status = 0;
    for (uint32_t e = 0; arch_is_moe(a, layer) && e < a->n_experts && status == 0; e++) {
        size_t expert = (size_t)layer * a->n_experts + e;
        uint32_t hot = c->result->hot[expert];
        if (hot > ffn || (hot % chunk != 0 && hot != ffn)) {
            status = err_set(err, "expert %u: %u hot neurons, expected whole chunks of %u, of %u",
                             e, hot, chunk, ffn);
        } else {
            status = check_order(c, expert, seen, err);
        }
    }
    free(seen);
    if (status < 0) {
        return -1;
    }
    return corm_predict_check(b, a, (ffn + chunk - 1) / chunk, layer, err);
}

static int check_rows(struct calib *c, uint32_t layer, struct err *err) {
    const struct arch *a = c->arch;
    size_t n = (size_t)c->n_rows * a->dim;
    bool ok = are_finite(c->x, n);
    for (uint32_t back = 0; back + 1 < CALIB_HISTORY; back++) {
        const struct calib_past *past = calib_past_of(c, layer + CALIB_HISTORY - back);
        bool there = back <= layer, moe = there && arch_is_moe(a, layer - back);
        bool decided = there && corm_predict_first_target(a, layer - back) <= layer;
        ok = ok && is_flag(&past->filled) && is_flag(&past->moe) && is_flag(&past->mean_decided) &&
             past->filled == there && past->moe == moe && past->mean_decided == decided &&
             are_finite_bf16(past->feature, n) && are_finite_bf16(past->residual, n) &&
             are_finite_bf16(past->quasi, n) &&
             are_finite(past->mean_out, (size_t)a->n_experts * a->dim);
    }
    return ok ? 0 : err_set(err, "rows that are no numbers, or not of these layers");
}

int calib_state_save(struct calib *c, const struct corm_predict_builder *layer, struct err *err) {
    const char *dir = c->opt->state_dir;
    if (!dir) {
        return 0;
    }
    if (mkdir(dir, 0777) < 0 && errno != EEXIST) {
        return err_errno(err, errno, "%s", dir);
    }
    uint64_t key = calib_state_key(c);
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

/* Forget what a file said about a layer. */
static void forget_layer(struct calib *c, uint32_t layer, struct corm_predict_builder *b) {
    const struct arch *a = c->arch;
    struct calib_result *r = c->result;
    size_t experts = (size_t)layer * a->n_experts;
    calib_scores_clear(&r->scores[layer]);
    memset(&r->order[experts * a->ffn_dim], 0,
           (size_t)a->n_experts * a->ffn_dim * sizeof *r->order);
    memset(&r->hot[experts], 0, a->n_experts * sizeof *r->hot);
    corm_predict_drop(b);
}

static void forget_rows(struct calib *c) {
    for (int i = 0; i < CALIB_HISTORY; i++) {
        c->past[i].filled = c->past[i].moe = c->past[i].mean_decided = false;
    }
}

static bool load_layer(struct calib *c, uint64_t key, uint32_t layer,
                       struct corm_predict_builder *b, struct err *refused) {
    const char *dir = c->opt->state_dir;
    uint64_t size[2] = {0, 0};
    struct parts sizes = {.n = 0}, p = layer_parts(c, layer);
    struct stat st;
    add_part(&sizes, size, sizeof size);
    char *size_path = path_of(dir, "size", layer), *path = path_of(dir, "layer", layer);
    bool ok = read_parts(size_path, key, &sizes, refused) && stat(path, &st) == 0;
    /* No more memory is taken than the file has bytes. */
    if (ok &&
        (size[0] > (uint64_t)st.st_size / sizeof *b->entries || size[1] > (uint64_t)st.st_size)) {
        err_set(refused, "%s: sizes that %s, of %jd bytes, does not have", size_path, path,
                (intmax_t)st.st_size);
        ok = false;
    }
    if (ok) {
        b->n_entries = (uint32_t)size[0];
        b->cap = size[0];
        b->entries = mem_calloc(b->cap ? b->cap : 1, sizeof *b->entries);
        b->body = (struct buf){mem_calloc(size[1] + 1, 1), size[1], size[1] + 1};
        add_part(&p, b->entries, b->n_entries * sizeof *b->entries);
        add_part(&p, b->body.data, b->body.len);
        ok = read_parts(path, key, &p, refused);
    }
    if (ok && check_layer(c, layer, b, refused) < 0) {
        err_prefix(refused, "%s", path);
        ok = false;
    }
    if (!ok) {
        forget_layer(c, layer, b);
    }
    free(size_path);
    free(path);
    return ok;
}

/* Whether the layer's experts are rounded, where they are to be. */
static bool has_experts(const struct calib *c, uint32_t layer, struct err *refused) {
    return !c->opt->round_codec || !arch_is_moe(c->arch, layer) ||
           rounded_check(&c->result->rounded, layer, refused);
}

static bool load_rows(struct calib *c, uint64_t key, uint32_t layer, struct err *refused) {
    struct parts rows = rows_parts(c, layer);
    char *path = path_of(c->opt->state_dir, "rows", layer);
    bool ok = read_parts(path, key, &rows, refused);
    if (ok && check_rows(c, layer, refused) < 0) {
        err_prefix(refused, "%s", path);
        ok = false;
    }
    if (!ok) {
        forget_rows(c);
    }
    free(path);
    return ok;
}

void calib_state_load(struct calib *c, struct corm_predict_builder *builders, uint32_t *n_done,
                      struct err *refused) {
    *n_done = 0;
    if (!c->opt->state_dir) {
        return;
    }
    uint64_t key = calib_state_key(c);
    uint32_t n = 0;
    while (n < c->arch->n_layers && load_layer(c, key, n, &builders[n], refused) &&
           has_experts(c, n, refused)) {
        n++;
    }
    if (n < c->arch->n_layers) { /* where a layer was read whose experts are not there */
        forget_layer(c, n, &builders[n]);
    }
    /* Where the process was killed between writing two files, the rows of the layer before are
     * still there. */
    for (uint32_t last = n; last > 0 && last + 2 > n && *n_done == 0; last--) {
        if (load_rows(c, key, last - 1, refused)) {
            *n_done = last;
        }
    }
    for (uint32_t l = *n_done; l < n; l++) {
        forget_layer(c, l, &builders[l]);
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
        rounded_remove(state_dir, l);
    }
    if (state_dir) {
        rmdir(state_dir);
    }
}
