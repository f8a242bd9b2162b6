/*
 * The plan of memory is kept: resident memory of corm-run stays below its budget on archives that
 * take much that is easily forgotten: many experts that are smaller than a page, and chunks whose
 * decoding takes as much memory again.
 */
#include "tests/util/test.h"

#include <sys/wait.h>

#include "tests/util/test_util_archive.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_tokenizer.h"

struct shape {
    const char *name, *codec;
    uint32_t n_layers, n_experts, n_active, ffn_dim, dim;
    uint32_t chunk_neurons;
    bool compress;
};
static const struct shape SHAPES[] = {
    {"tiny-experts", "bf16", 4, 2560, 64, 1, 32, 1, false},
    {"planes", "f16", 1, 3, 2, 6144, 512, 6144, true},
};

/* Without a number of experts that is used, all layers are dense. */
static char *write_archive(const struct shape *s) {
    struct err err = {0};
    struct arch a;
    struct corm_writer *w;
    struct corm_write_stats stats;
    struct loaded l;
    struct archive_options o = archive_defaults("f32", s->codec);
    char *path = mem_printf("%s/%s.corm", test_dir(), s->name);
    archive_moe_arch(&a, s->n_layers, s->n_experts, s->ffn_dim);
    a.dim = s->dim;
    a.n_active = s->n_active ? s->n_active : 1;
    for (uint32_t i = 0; i < a.n_layers && s->n_active == 0; i++) {
        archive_set_dense(&a, i, 8);
    }
    a.vocab = 288;
    a.ctx_max_tok = 256;
    o.blobs = false;
    o.hot_neurons = 0;
    const struct corm_write_options how = {.expert_codec = o.expert,
                                           .chunk_neurons = s->chunk_neurons,
                                           .compress = s->compress ? CORM_COMPRESS_AUTO
                                                                   : CORM_COMPRESS_NONE,
                                           .raw_above_ratio = 1};
    loaded_file("tests/golden/models/olmoe-tiny/tokenizer.json", NULL, &l);
    corm_write_open(&w, path, &a, &how, &err);
    assert_no_err(&err);
    archive_fill(w, &a, &o, &err);
    corm_write_blob(w, CORM_SECTION_TOKENIZER, l.section.data, l.section.len, &err);
    corm_write_finish(w, &stats, &err);
    assert_no_err(&err);
    assert_int_equal(stats.n_chunks_raw, s->compress ? 0 : stats.n_chunks);
    loaded_close(&l);
    arch_free(&a);
    return path;
}

/* Runs corm-run with its output in a file, and returns that. */
static char *run(const char *archive, uint32_t mib) {
    struct err err = {0};
    uint8_t *text;
    size_t n;
    char *out = mem_printf("%s/out", test_dir());
    char *line = mem_printf("'%s/corm-run' bench '%s' --ram %uM --reps 1 --prompt-tokens 120 "
                            "--decode-tokens 8 --json -q >'%s' 2>&1",
                            getenv("CORM_BUILD"), archive, mib, out);
    int status = system(line);
    file_read(out, 1 << 20, &text, &n, &err);
    assert_no_err(&err);
    assert_true(status == 0 || strstr((char *)text, "would do"));
    free(line);
    free(out);
    return (char *)text;
}

static uint64_t number(const char *text, const char *before) {
    const char *at = strstr(text, before);
    if (!at) {
        fail_msg("no %s in: %s", before, text);
        return 0;
    }
    return strtoull(at + strlen(before), NULL, 10);
}

static void resident_memory_stays_below_the_budget(void **state) {
    (void)state;
    static const uint32_t more[] = {0, 100};
    if (QUICK) {
        skip(); /* a sanitizer takes memory of its own */
    }
    for (size_t i = 0; i < TEST_COUNT(SHAPES); i++) {
        char *path = write_archive(&SHAPES[i]), *refusal = run(path, 1);
        uint32_t least = (uint32_t)number(refusal, "is too small: ");
        free(refusal);
        for (size_t k = 0; k < TEST_COUNT(more); k++) {
            char *text = run(path, least + more[k]);
            uint64_t budget = number(text, "\"budget_bytes\": "),
                     peak = number(text, "\"peak_memory_bytes\": ");
            print_message("%s: %ju of %ju KiB\n", SHAPES[i].name, (uintmax_t)(peak >> 10),
                          (uintmax_t)(budget >> 10));
            assert_int_equal(budget, (uint64_t)(least + more[k]) << 20);
            assert_true(peak > 0 && peak <= budget);
            free(text);
        }
        unlink(path);
        free(path);
    }
}

/* No layer has experts: counts that things are divided by are 0. */
static void a_model_without_experts_can_be_measured(void **state) {
    (void)state;
    static const struct shape shape = {"dense", "bf16", 2, 2, 0, 4, 32, 4, false};
    static const struct {
        const char *command, *says; /* NULL: it succeeds */
    } cases[] = {
        {"corm-run' bench '%s' -q --reps 1 --prompt-tokens 9 --decode-tokens 5 --stats", NULL},
        {"corm-run' bench '%s' -q --reps 1 --prompt-tokens 9 --decode-tokens 5 --share 50", NULL},
        {"corm-run' bench '%s' -q --trace --prompt-tokens 9 --decode-tokens 5",
         "has no experts, so that there is nothing to trace"},
        {"corm-run' bench '%s' -q --trace --json --prompt-tokens 9 --decode-tokens 5 --ram 60M",
         "has no experts, so that there is nothing to trace"},
        {"corm-run' bench '%s' -q --ablation --share 50 --reps 1 --throttle 1G --decode-tokens 5",
         "has no experts, so that there is nothing to compare"},
        {"corm-run' '%s' -p abc -n 3 --ignore-eos --stats --keep decoded", NULL},
        {"corm-prep' inspect '%s'", NULL},
        {"corm-prep' inspect --json '%s'", NULL},
        {"corm-prep' verify '%s'", NULL},
        {"corm-prep' report '%s'", "holds no predictors"},
    };
    char *path = write_archive(&shape);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct err err = {0};
        uint8_t *text;
        size_t n;
        char *out = mem_printf("%s/out", test_dir());
        struct buf line = {0};
        buf_printf(&line, "'%s/", getenv("CORM_BUILD"));
        const char *at = strstr(cases[i].command, "%s");
        buf_printf(&line, "%.*s%s%s", (int)(at - cases[i].command), cases[i].command, path, at + 2);
        buf_printf(&line, " >'%s' 2>&1", out);
        int status = system(line.data);
        file_read(out, 1 << 20, &text, &n, &err);
        assert_no_err(&err);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != (cases[i].says != NULL) ||
            (cases[i].says && !strstr((char *)text, cases[i].says))) {
            fail_msg("%s: status %d: %s", cases[i].command, status, text);
        }
        free(text);
        free(out);
        buf_free(&line);
    }
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resident_memory_stays_below_the_budget),
        cmocka_unit_test(a_model_without_experts_can_be_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
