/*
 * test_util_family: see test_util_family.h.
 */
#include "tests/util/test_util_family.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <sys/stat.h>

#include "tests/util/test.h"

#define TOKENIZER "tests/golden/models/qwen3moe-tiny"
#define FAMILIES "tests/golden/families"

enum { MAX_DIMS = 8, MAX_FILE = 1 << 20 };

/* A line of tensors.txt. */
struct family_tensor {
    char name[128], dtype[8], kind[8];
    int scale, offset;
    uint32_t n_dims;
    uint64_t dim[MAX_DIMS], elements;
};

static uint64_t fnv1a(const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) {
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    }
    return h;
}

static struct family_tensor parse(const char *line) {
    struct family_tensor t = {.elements = 1};
    int at = 0;
    if (sscanf(line, "%127s %7s %7s %d %d%n", t.name, t.dtype, t.kind, &t.scale, &t.offset, &at) !=
        5) {
        fail_msg("not a tensor: %s", line);
    }
    uint64_t dim;
    for (int used; sscanf(line + at, "%" SCNu64 "%n", &dim, &used) == 1; at += used) {
        assert_true(t.n_dims < MAX_DIMS);
        t.dim[t.n_dims++] = dim;
        t.elements *= dim;
    }
    if (line[at] || t.n_dims == 0) {
        fail_msg("not a tensor: %s", line);
    }
    return t;
}

/* Appends the bytes of one element, made from the number `u`. */
static void append(struct buf *b, const struct family_tensor *t, uint64_t u) {
    if (strcmp(t->kind, "bits") == 0) {
        assert_string_equal(t->dtype, "U8");
        uint8_t byte = (uint8_t)(t->offset + (int)(u & ((1u << t->scale) - 1)));
        buf_append(b, &byte, sizeof byte);
        return;
    }
    assert_string_equal(t->kind, "normal");
    int sum = t->offset - 120;
    for (int nibble = 0; nibble < 16; nibble++) {
        sum += (int)(u >> (4 * nibble) & 15);
    }
    float value = ldexpf((float)sum, t->scale);
    if (strcmp(t->dtype, "F32") == 0) {
        buf_append(b, &value, sizeof value);
        return;
    }
    bool bf16 = strcmp(t->dtype, "BF16") == 0;
    assert_true(bf16 || strcmp(t->dtype, "F16") == 0);
    uint16_t half = bf16 ? f32_to_bf16(value) : f32_to_f16(value);
    assert_true((bf16 ? bf16_to_f32(half) : f16_to_f32(half)) == value);
    buf_append(b, &half, sizeof half);
}

static void append_tensor(struct buf *header, struct buf *data, const struct family_tensor *t,
                          uint64_t seed) {
    size_t from = data->len;
    struct test_rng named = {fnv1a(t->name) ^ seed};
    struct test_rng numbers = {test_u64(&named)};
    for (uint64_t i = 0; i < t->elements; i++) {
        append(data, t, test_u64(&numbers));
    }
    buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", header->len > 1 ? "," : "",
               t->name, t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        buf_printf(header, "%s%" PRIu64, i ? "," : "", t->dim[i]);
    }
    buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", from, data->len);
}

static char *read_text(const char *dir, const char *name) {
    struct err err = {0};
    uint8_t *text;
    size_t size;
    char *path = mem_printf("%s/%s", dir, name);
    file_read(path, MAX_FILE, &text, &size, &err);
    assert_no_err(&err);
    free(path);
    return (char *)text;
}

static void write_weights(const char *list, const char *dir) {
    struct buf header = {0}, data = {0};
    uint64_t seed;
    int at = 0;
    if (sscanf(list, "seed %" SCNu64 "\n%n", &seed, &at) != 1 || at == 0) {
        fail_msg("%.40s: a list of tensors begins with its seed", list);
    }
    buf_printf(&header, "{");
    for (const char *line = list + at; *line;) {
        size_t n = strcspn(line, "\n");
        char *one = mem_printf("%.*s", (int)n, line);
        struct family_tensor t = parse(one);
        append_tensor(&header, &data, &t, seed);
        free(one);
        line += n + (line[n] == '\n');
    }
    buf_printf(&header, "}");
    while (header.len % 8) {
        buf_printf(&header, " ");
    }
    struct buf file = {0};
    uint64_t header_bytes = header.len;
    buf_append(&file, &header_bytes, sizeof header_bytes);
    buf_append(&file, header.data, header.len);
    buf_append(&file, data.data, data.len);
    free(test_write(dir, "model.safetensors", file.data, file.len));
    buf_free(&header);
    buf_free(&data);
    buf_free(&file);
}

static void copy(const char *from, const char *name, const char *to) {
    char *text = read_text(from, name);
    free(test_write(to, name, text, strlen(text)));
    free(text);
}

char *family_checkpoint(const char *golden_dir, const char *out_dir) {
    const char *slash = strrchr(golden_dir, '/');
    char *dir = mem_printf("%s/%s", out_dir, slash ? slash + 1 : golden_dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    char *list = read_text(golden_dir, "tensors.txt");
    write_weights(list, dir);
    free(list);
    copy(golden_dir, "config.json", dir);
    copy(golden_dir, "generation_config.json", dir);
    copy(TOKENIZER, "tokenizer.json", dir);
    copy(TOKENIZER, "tokenizer_config.json", dir);
    return dir;
}

static int is_folder(const struct dirent *e) {
    return e->d_name[0] != '.';
}

char *family_folder(size_t i) {
    struct dirent **found;
    int n = scandir(FAMILIES, &found, is_folder, alphasort);
    assert_true(n > 0);
    char *name = i < (size_t)n ? mem_strdup(found[i]->d_name) : NULL;
    for (int k = 0; k < n; k++) {
        free(found[k]);
    }
    free(found);
    return name;
}

struct family_model family_open(const char *name) {
    struct family_model f = {.temp = test_mkdir()};
    struct err err = {0};
    char *golden = mem_printf(FAMILIES "/%s", name);
    f.dir = family_checkpoint(golden, f.temp);
    hf_open(&f.m, f.dir, &err);
    assert_no_err(&err);
    free(golden);
    return f;
}

void family_close(struct family_model *f) {
    hf_close(&f->m);
    free(f->dir);
    test_rmdir(f->temp);
}
