#include "prep/gguf/gguf_model.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prep/gguf/gguf_config.h"
#include "prep/gguf/gguf_tokenizer.h"
#include "prep/hf/hf_names.h"
#include "prep/hf/remark.h"

bool gguf_model_is(const char *path) {
    char head[4];
    struct stat info;
    int fd =
        stat(path, &info) == 0 && S_ISREG(info.st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    bool is = fd >= 0 && read(fd, head, sizeof head) == sizeof head &&
              memcmp(head, "GGUF", sizeof head) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return is;
}

/* ---- F32 that is less ---- */

enum { SLICE_NUMBERS = 1 << 20 };

/* Whether n numbers are all of a narrower type. */
static bool all_bf16(const float *x, size_t n) {
    uint32_t low = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        low |= bits & 0xffff;
    }
    return low == 0;
}

static bool all_f16(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (f16_to_f32(f32_to_f16(x[i])) != x[i]) {
            return false;
        }
    }
    return true;
}

/* The narrowest type that holds a tensor's numbers. Reading stops where none can. */
static enum st_dtype narrowest(const struct st_tensor *t) {
    const uint64_t n = t->bytes / sizeof(float);
    bool bf16 = true, f16 = true;
    float *x = mem_alloc(SLICE_NUMBERS * sizeof *x);
    for (uint64_t at = 0; at < n && (bf16 || f16); at += SLICE_NUMBERS) {
        const uint64_t some = n - at < SLICE_NUMBERS ? n - at : SLICE_NUMBERS;
        st_read_f32(t, at, some, x);
        st_drop_range(t, at * sizeof *x, some * sizeof *x);
        bf16 = bf16 && all_bf16(x, some);
        f16 = f16 && all_f16(x, some);
    }
    free(x);
    return bf16 ? ST_BF16 : f16 ? ST_F16 : ST_F32;
}

static void narrow(struct safetensors *st) {
    for (size_t i = 0; i < st_count(st); i++) {
        const struct st_tensor *t = st_at(st, i);
        if (t->dtype == ST_F32 && t->n_dims > 1) { /* vectors are f32 in an archive */
            st_set_holds(st, i, narrowest(t));
        }
    }
}

/* ---- opening ---- */

/* Pictures are not read: a file beside this one that would be for them. */
static void note_projector(struct hf_model *m) {
    const char *slash = strrchr(m->dir, '/');
    char *dir = slash ? mem_printf("%.*s/", (int)(slash - m->dir), m->dir) : mem_strdup("./");
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        if (fnmatch("*mmproj*.gguf", e->d_name, 0) == 0) {
            remark_add(&m->warnings,
                       "%s: %s beside it is for pictures or sound, which are not "
                       "read: left out",
                       m->dir, e->d_name);
            break;
        }
    }
    if (d) {
        closedir(d);
    }
    free(dir);
}

static void read_license(struct hf_model *m, const struct gguf *g) {
    static const char *const keys[][2] = {{"general.license", "license"},
                                          {"general.license.name", "license_name"},
                                          {"general.license.link", "license_link"}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct gguf_value *v = gguf_find(g, keys[i][0]);
        struct gguf_text text;
        if (v && gguf_string(v, &text) && text.bytes < 4096) {
            char *line = mem_printf("%s: %.*s", keys[i][1], (int)text.bytes, text.data);
            text_clean(line, strlen(line));
            buf_printf(&m->license, "%s\n", line);
            free(line);
        }
    }
}

static int read_config(struct hf_model *m, const struct gguf *g, const struct gguf_family **family,
                       struct err *err) {
    struct hf_objects in = {.path = m->dir, .generation_path = m->dir};
    int rc = gguf_config(g, family, &in.config, &in.generation, err) < 0
                 ? -1
                 : hf_config_build(&m->config, &in, err);
    json_decref(in.config);
    json_decref(in.generation);
    buf_append(&m->warnings, m->config.remarks.data ? m->config.remarks.data : "",
               m->config.remarks.len);
    return rc;
}

int gguf_model_open(struct hf_model *m, const char *path, struct err *err) {
    struct gguf g;
    const struct gguf_family *family = NULL;
    int rc = -1;
    memset(m, 0, sizeof *m);
    m->dir = mem_strdup(path);
    m->single = true;
    if (gguf_open(&g, path, err) < 0 || read_config(m, &g, &family, err) < 0) {
        goto out;
    }
    m->st = g.st;
    g.st = NULL;
    narrow(m->st);
    note_projector(m);
    read_license(m, &g);
    const struct hf_names names =
        hf_names_by(&m->config, m->st, m->dir, family->names, gguf_names, "blk.");
    if (hf_assemble(m, &names, err) < 0 || gguf_tokenizer(m, &g, err) < 0) {
        goto out;
    }
    rc = hf_settle_stops(m, err);
out:
    gguf_close(&g);
    return rc;
}
