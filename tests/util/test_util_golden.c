/*
 * test_util_golden: see test_util_golden.h.
 */
#include "tests/util/test_util_golden.h"

#include <math.h>

#include "format/safetensors.h"
#include "tests/util/test.h"
#include "tests/util/test_util_family.h"

/* Sums in other orders than the reference's, of the greatest logit; the KV cache is f32. */
static const double TOLERANCE = 2e-4;

const char *golden_checkpoint(size_t i) {
    static const char *const names[] = {GOLDEN_TINY, "fable", "fable-fine"};
    return i < TEST_COUNT(names) ? names[i] : NULL;
}

static bool is_family(const char *name) {
    char *spec = mem_printf("tests/golden/families/%s", name);
    bool yes = access(spec, F_OK) == 0;
    free(spec);
    return yes;
}

char *golden_source(const char *name) {
    char *spec = mem_printf("tests/golden/families/%s", name), *made = NULL;
    if (!is_family(name)) {
        const char *folder =
            strncmp(name, "fable", 5) == 0 ? "tests/models" : "tests/golden/models";
        made = mem_printf("%s/%s", folder, name);
    } else {
        made = mem_printf("%s/%s", test_dir(), name);
        if (access(made, F_OK) != 0) {
            free(made);
            made = family_checkpoint(spec, test_dir());
        }
    }
    free(spec);
    return made;
}

char *golden_file(const char *name, const char *file) {
    return mem_printf("tests/golden/%s/%s/%s", is_family(name) ? "families" : "models", name, file);
}

char *golden_archive(const char *name, const char *codec) {
    char *file = mem_printf("%s-%s", name, codec ? codec : "own");
    char *path = mem_printf("%s/%s.corm", test_dir(), file), *source = golden_source(name);
    if (access(path, R_OK) != 0) {
        free(model_archive(source, test_dir(), file, codec, true));
    }
    free(source);
    free(file);
    return path;
}

struct safetensors *golden_open(const char *name) {
    char *path = golden_file(name, "golden.safetensors");
    struct safetensors *st;
    struct err err = {0};
    st_open(&st, path, &err);
    assert_no_err(&err);
    free(path);
    return st;
}

static const struct st_tensor *find(const struct safetensors *st, const char *name) {
    const struct st_tensor *t = st_find(st, name);
    if (!t) {
        fail_msg("golden tensor %s is missing", name);
    }
    return t;
}

/* Logits [n_ids, vocab] against those of the golden rows. */
static void compare(const char *what, const struct safetensors *st, const float *logits,
                    uint32_t vocab) {
    const struct st_tensor *want = find(st, "logits"), *rows = find(st, "logit_rows");
    double worst = 0, size = 0;
    assert_int_equal(want->shape[1], vocab);
    assert_true(rows->shape[0] > 0);
    for (uint64_t i = 0; i < rows->shape[0]; i++) {
        int32_t row;
        memcpy(&row, rows->data + i * sizeof row, sizeof row);
        const float *got = logits + (size_t)row * vocab;
        for (uint32_t c = 0; c < vocab; c++) {
            float w;
            memcpy(&w, want->data + (i * vocab + c) * sizeof w, sizeof w);
            double d = fabs((double)got[c] - (double)w);
            worst = d <= worst ? worst : d; /* a NaN stays */
            size = fmax(size, fabs((double)w));
        }
    }
    if (!(worst <= TOLERANCE * size)) {
        fail_msg("%s: logits up to %.3g apart, of %.3g", what, worst, size);
    }
}

int32_t *golden_ids(const char *name, const char *tensor, size_t *n) {
    struct safetensors *st = golden_open(name);
    const struct st_tensor *t = find(st, tensor);
    *n = (size_t)t->shape[0];
    int32_t *ids = mem_alloc(*n * sizeof *ids);
    memcpy(ids, t->data, *n * sizeof *ids);
    st_close(st);
    return ids;
}

void golden_check(const char *checkpoint, const char *dir, struct corm_engine_options opt) {
    char *source = golden_source(checkpoint);
    char *path = model_archive(source, dir, checkpoint, NULL, true);
    struct safetensors *st = golden_open(checkpoint);
    size_t n_ids;
    int32_t *id = golden_ids(checkpoint, "ids", &n_ids);
    const uint32_t n = (uint32_t)n_ids;
    opt.ctx_tok = opt.batch_rows = n;
    opt.kv_type = CORM_KV_F32;
    struct corm_engine *e = model_open(path, &opt);
    struct corm_session *s = model_session(e);
    uint32_t vocab = corm_engine_info(e)->vocab;
    compare(checkpoint, st, model_eval(s, id, n, true), vocab);
    float *all = mem_calloc((size_t)n * vocab, sizeof *all);
    corm_session_truncate(s, 0);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(all + (size_t)i * vocab, model_eval(s, id + i, 1, false), vocab * sizeof *all);
    }
    compare(checkpoint, st, all, vocab);
    corm_session_close(s);
    corm_engine_close(e);
    st_close(st);
    free(all);
    free(id);
    free(source);
    free(path);
}
