/*
 * test_util_golden: see test_util_golden.h.
 */
#include "tests/util/test_util_golden.h"

#include <math.h>

#include "format/safetensors.h"
#include "tests/util/test.h"

#define GOLDEN "tests/golden/models/"

/* Sums in other orders than the reference's, of the greatest logit; the KV cache is f32. */
static const double TOLERANCE = 2e-4;

const char *golden_checkpoint(size_t i) {
    static const char *const names[] = {"olmoe-tiny",    "mixtral-tiny", "qwen2moe-tiny",
                                        "qwen3moe-tiny", "fable",        "fable-fine"};
    return i < TEST_COUNT(names) ? names[i] : NULL;
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

void golden_check(const char *checkpoint, const char *dir, struct corm_engine_options opt) {
    bool fable = strncmp(checkpoint, "fable", 5) == 0;
    char *source = mem_printf("%s%s", fable ? "tests/models/" : GOLDEN, checkpoint);
    char *golden = mem_printf(GOLDEN "%s/golden.safetensors", checkpoint);
    char *path = model_archive(source, dir, checkpoint, NULL, true);
    struct safetensors *st;
    struct err err = {0};
    st_open(&st, golden, &err);
    assert_no_err(&err);
    const struct st_tensor *ids = find(st, "ids");
    const uint32_t n = (uint32_t)ids->shape[0];
    int32_t *id = mem_calloc(n, sizeof *id);
    memcpy(id, ids->data, n * sizeof *id);
    opt.ctx_tok = opt.batch_rows = n;
    opt.kv_f32 = true;
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
    free(golden);
    free(path);
}
