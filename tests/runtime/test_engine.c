/*
 * The whole chain, checkpoint -> archive -> engine, through the public API: greedy tokens and
 * perplexity of transformers, and bit-identical logits whatever the memory budget, the threads, the
 * split and the state of the cache.
 */
#include "tests/util/test.h"

#include <math.h>
#include <stdatomic.h>

#include "format/corm_read.h"
#include "kernels/logits.h"
#include "runtime/mechanisms.h"
#include "runtime/reader.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_tokenizer.h"

static const char *const CASES[] = {GOLDEN_TINY, "qwen3moe-f32", "fable", "fable-fine"};
enum { N_CASES = QUICK ? GOLDEN_N_KINDS : TEST_COUNT(CASES) };

static const int32_t *tensor_ids(const struct safetensors *st, const char *name, size_t *n) {
    const struct st_tensor *t = st_find(st, name);
    assert_non_null(t);
    *n = t->shape[0];
    return (const int32_t *)t->data;
}

/* ---- against transformers ---- */

static void check_greedy(const char *name, const char *isa) {
    char *path = golden_archive(name, NULL);
    struct safetensors *golden = golden_open(name);
    size_t n_prompt, n_greedy;
    const int32_t *prompt = tensor_ids(golden, "greedy_prompt", &n_prompt);
    const int32_t *greedy = tensor_ids(golden, "greedy", &n_greedy);
    assert_true(n_greedy >= 48);
    /* As transformers does: where attention scores are large, halves would choose other tokens. */
    struct corm_engine *e = model_open(
        path, &(struct corm_engine_options){.isa = isa, .threads = 2, .kv_type = CORM_KV_F32});
    struct corm_session *s = model_session(e);
    const struct corm_sampling how = {.temperature = 0, .repeat_penalty = 1, .top_p = 1};
    model_eval(s, prompt, n_prompt, false);
    for (size_t i = 0; i < n_greedy; i++) {
        int32_t id = corm_session_sample(s, &how);
        if (id != greedy[i]) {
            fail_msg("%s on %s: token %zu is %d, transformers has %d", name,
                     isa ? isa : "the best set", i, id, greedy[i]);
        }
        model_eval(s, &id, 1, false);
    }
    corm_session_close(s);
    corm_engine_close(e);
    st_close(golden);
    free(path);
}

static void greedy_tokens_are_those_of_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        check_greedy(CASES[i], NULL);
        if (!QUICK) {
            check_greedy(CASES[i], "scalar");
        }
    }
}

/* The prompt's text gives the prompt's ids: tokenizer and template of the archive. */
static void prompts_tokenize_as_transformers_does(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        struct err err = {0};
        char *path = golden_archive(CASES[i], NULL),
             *text_path = golden_file(CASES[i], "prompt.txt");
        uint8_t *text;
        size_t bytes, n, n_ids;
        file_read(text_path, 1 << 20, &text, &bytes, &err);
        assert_no_err(&err);
        struct safetensors *golden = golden_open(CASES[i]);
        const int32_t *want = tensor_ids(golden, "greedy_prompt", &n);
        struct corm_engine *e = model_open(path, &(struct corm_engine_options){.threads = 1});
        int32_t *ids;
        assert_int_equal(
            corm_tokenize(e, (const char *)text, bytes, true, false, &ids, &n_ids, NULL), 0);
        assert_int_equal(n_ids, n);
        assert_memory_equal(ids, want, n * sizeof *ids);
        free(ids);
        assert_int_equal(corm_tokenize(e, NULL, 0, true, false, &ids, &n_ids, NULL), 0);
        assert_true(n_ids <= 1); /* what begins a text, once */
        free(ids);
        corm_engine_close(e);
        st_close(golden);
        free(text);
        free(text_path);
        free(path);
    }
}

static double log_prob(const float *logits, uint32_t vocab, int32_t id) {
    return (double)logits[id] - logits_log_sum_exp(logits, vocab);
}

static double perplexity_of(const char *name, const char *codec, double *golden_value) {
    char *path = golden_archive(name, codec);
    struct safetensors *golden = golden_open(name);
    size_t n_ids, one;
    const int32_t *ids = tensor_ids(golden, "perplexity_tokens", &n_ids);
    const int32_t ctx = *tensor_ids(golden, "perplexity_ctx", &one);
    memcpy(golden_value, st_find(golden, "perplexity")->data, sizeof *golden_value);
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){.threads = 2});
    struct corm_session *s = model_session(e);
    uint32_t vocab = corm_engine_info(e)->vocab;
    double nll = 0;
    size_t scored = 0;
    for (size_t first = 0; first < n_ids; first += (size_t)ctx) {
        size_t n = n_ids - first < (size_t)ctx ? n_ids - first : (size_t)ctx;
        corm_session_truncate(s, 0);
        const float *logits = model_eval(s, ids + first, n, true);
        for (size_t i = 1; i < n; i++, scored++) {
            nll -= log_prob(logits + (i - 1) * vocab, vocab, ids[first + i]);
        }
    }
    assert_int_equal(scored, *tensor_ids(golden, "perplexity_scored", &one));
    corm_session_close(s);
    corm_engine_close(e);
    st_close(golden);
    free(path);
    return exp(nll / (double)scored);
}

static void perplexity_is_that_of_transformers(void **state) {
    (void)state;
    /* What the codec may cost: docs/SPEED.md, "Codecs". */
    static const struct {
        const char *codec;
        double tolerance;
    } rows[] = {{"bf16", 0.001}, {"q8", 0.002}, {"q4", 0.025}};
    for (size_t i = 0; i < (QUICK ? 1 : TEST_COUNT(rows)); i++) {
        for (int fine = 0; fine <= 1; fine++) {
            const char *name = fine ? "fable-fine" : "fable";
            double want, got = perplexity_of(name, rows[i].codec, &want);
            print_message("%s %s: perplexity %.4f, transformers %.4f (%+.3f %%)\n", name,
                          rows[i].codec, got, want, 100 * (got / want - 1));
            assert_true(fabs(got / want - 1) <= rows[i].tolerance);
        }
    }
}

/* ---- exact means exact ---- */

/* Hash of all logits of a sequence: a prompt in one call, then token by token. *warm, where asked
 * for, becomes that of the same again, when the cache is full of it. */
static uint64_t run_hash(const char *path, const struct corm_engine_options *opt, uint32_t n_prompt,
                         uint32_t n_tok, uint64_t *warm) {
    struct corm_engine *e = model_open(path, opt);
    struct corm_session *s = model_session(e);
    uint32_t vocab = corm_engine_info(e)->vocab;
    int32_t ids[512];
    for (uint32_t i = 0; i < n_tok; i++) {
        ids[i] = (int32_t)((i * 7919u + 13u) % vocab);
    }
    uint64_t hash = model_hash(e, s, ids, n_prompt, n_tok);
    if (warm) {
        corm_session_truncate(s, 0);
        *warm = model_hash(e, s, ids, n_prompt, n_tok);
    }
    corm_session_close(s);
    corm_engine_close(e);
    return hash;
}

static void no_setting_changes_a_bit(void **state) {
    (void)state;
    static const char *const codecs[] = {"bf16", "q8", "q4"};
    static const uint32_t percent[] = {100, 50, 25, 10};
    const size_t n_codecs = QUICK ? 1 : TEST_COUNT(codecs), step = QUICK ? 3 : 1;
    for (size_t c = 0; c < n_codecs; c++) {
        char *path = golden_archive("fable", codecs[c]);
        bool packs = strcmp(codecs[c], "bf16") == 0;
        struct corm_engine_options opt = {
            .threads = 1, .ctx_tok = 128, .keeping = CORM_KEEP_DECODED};
        struct corm_engine *e = model_open(path, &opt);
        struct corm_memory_plan plan = *corm_engine_plan(e);
        corm_engine_close(e);
        uint64_t fixed = plan.total_bytes - plan.cache_bytes, want = 0;
        for (size_t i = 0; i < TEST_COUNT(percent); i += step) {
            for (uint32_t threads = 1; threads <= 2; threads++) {
                opt.threads = threads;
                opt.ram_bytes = fixed + plan.cache_need_bytes * percent[i] / 100;
                opt.ram_bytes = opt.ram_bytes < plan.floor_bytes ? plan.floor_bytes : opt.ram_bytes;
                uint64_t warm, cold = run_hash(path, &opt, 40, 60, &warm);
                opt.keeping = packs ? CORM_KEEP_PACKED : CORM_KEEP_AUTO;
                uint64_t split = run_hash(path, &opt, 7, 60, NULL);
                opt.keeping = CORM_KEEP_DECODED;
                want = want ? want : cold;
                assert_true(cold == want && warm == want && split == want);
            }
        }
        free(path);
    }
}

static void batch_size_changes_no_bit(void **state) {
    (void)state;
    char *path = golden_archive("qwen2moe-tiny", NULL);
    uint64_t want = 0;
    for (uint32_t rows = 1; rows <= 64; rows *= 4) {
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){.threads = 2, .batch_rows = rows});
        struct corm_session *s = model_session(e);
        int32_t ids[50];
        for (int32_t i = 0; i < 50; i++) {
            ids[i] = (i * 37 + 5) % 280;
        }
        uint64_t hash =
            hash64(model_eval(s, ids, 50, false), corm_engine_info(e)->vocab * sizeof(float));
        want = want ? want : hash;
        assert_true(hash == want);
        corm_session_close(s);
        corm_engine_close(e);
    }
    free(path);
}

/* Packed experts take less room: what does not fit decoded may fit so. */
static void more_packed_experts_fit(void **state) {
    (void)state;
    char *path = golden_archive("fable", "bf16");
    struct corm_engine_options opt = {.threads = 1, .ctx_tok = 128, .keeping = CORM_KEEP_DECODED};
    struct corm_engine *e = model_open(path, &opt);
    const struct corm_memory_plan decoded = *corm_engine_plan(e);
    corm_engine_close(e);
    assert_false(decoded.packed || decoded.streams);
    opt.keeping = CORM_KEEP_PACKED;
    e = model_open(path, &opt);
    const struct corm_memory_plan packed = *corm_engine_plan(e);
    corm_engine_close(e);
    assert_true(packed.packed && !packed.streams);
    uint64_t fixed = packed.total_bytes - packed.cache_bytes;
    assert_true(packed.cache_need_bytes < decoded.cache_need_bytes * 7 / 10);
    /* Room for all of them packed, and not decoded: nobody has to say so. */
    opt = (struct corm_engine_options){
        .threads = 1, .ctx_tok = 128, .ram_bytes = fixed + packed.cache_need_bytes};
    e = model_open(path, &opt);
    assert_true(corm_engine_plan(e)->packed && !corm_engine_plan(e)->streams);
    corm_engine_close(e);
    /* Less: the slots are the budget's. */
    opt.keeping = CORM_KEEP_PACKED;
    opt.ram_bytes = fixed + packed.cache_need_bytes / 2;
    e = model_open(path, &opt);
    assert_true(corm_engine_plan(e)->packed && corm_engine_plan(e)->streams);
    assert_true(corm_engine_plan(e)->total_bytes <= opt.ram_bytes);
    corm_engine_close(e);
    free(path);

    struct corm_error error;
    path = golden_archive("fable", "q8");
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    assert_non_null(strstr(error.message, "kept packed"));
    assert_non_null(strstr(error.message, "q8"));
    opt = (struct corm_engine_options){.threads = 1, .ctx_tok = 64};
    e = model_open(path, &opt);
    assert_true(corm_engine_plan(e)->no_code && !decoded.no_code && !packed.no_code);
    assert_string_equal(corm_engine_info(e)->compression, "none");
    corm_engine_close(e);
    free(path);
}

/* A model whose indexer chooses 128 tokens is opened for at most so many, and by itself for no
 * more; one without is opened for any. */
static void a_context_beyond_an_indexer_is_refused(void **state) {
    (void)state;
    char *path = golden_archive("deepseekv32-tiny", NULL);
    struct corm_engine_options opt = {.threads = 1, .ctx_tok = 129};
    struct corm_error error;
    struct corm_engine *e;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    assert_non_null(strstr(error.message, "a context of 129 tokens: at most 128"));
    assert_non_null(strstr(error.message, "deepseek_v32"));
    for (opt.ctx_tok = 0; opt.ctx_tok <= 128; opt.ctx_tok += 128) {
        e = model_open(path, &opt);
        assert_int_equal(corm_engine_info(e)->ctx_tok, 128);
        assert_int_equal(corm_engine_info(e)->ctx_max_tok, 128);
        corm_engine_close(e);
    }
    free(path);
    path = golden_archive("deepseekv3-tiny", NULL);
    opt.ctx_tok = 300;
    e = model_open(path, &opt);
    assert_int_equal(corm_engine_info(e)->ctx_tok, 300);
    corm_engine_close(e);
    free(path);
}

/* Where experts come and go, and nobody says how they are kept: packed where the disk is slow. What
 * is best with a fast one hangs on the machine (test_packing). No bit hangs on it. */
static void a_slow_disk_makes_experts_packed(void **state) {
    (void)state;
    static const struct {
        double bytes_per_s;
        enum corm_keeping keeping;
        bool packed;
    } cases[] = {
        {2e6, CORM_KEEP_DECODED, false},
        {2e6, CORM_KEEP_AUTO, true},
        {2e6, CORM_KEEP_PACKED, true},
        {1e12, CORM_KEEP_PACKED, true},
    };
    char *path = golden_archive("mixtral-tiny", "bf16");
    uint64_t want = 0, decoded_bytes = 0;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct corm_mechanisms m = {.cache_share = 0.5,
                                    .throttle_bytes_per_s = cases[i].bytes_per_s};
        struct corm_engine_options opt = {
            .threads = 2, .ctx_tok = 64, .keeping = cases[i].keeping, .measure = &m};
        struct corm_engine *e = model_open(path, &opt);
        const struct corm_memory_plan plan = *corm_engine_plan(e);
        corm_engine_close(e);
        assert_true(plan.streams);
        assert_int_equal(plan.packed, cases[i].packed);
        assert_true(plan.total_bytes <= plan.budget_bytes);
        decoded_bytes = decoded_bytes ? decoded_bytes : plan.cache_need_bytes;
        assert_true(plan.packed ? plan.cache_need_bytes < decoded_bytes * 3 / 4
                                : plan.cache_need_bytes == decoded_bytes);
        uint64_t hash = run_hash(path, &opt, 7, 20, NULL);
        want = want ? want : hash;
        assert_true(hash == want);
    }
    free(path);
}

/* However packed experts come to memory: the bits of decoded ones. */
static void packed_experts_are_exact_however_they_are_read(void **state) {
    (void)state;
    static const enum corm_reading readings[] = {CORM_READ_BUFFERED, CORM_READ_DIRECT,
                                                 CORM_READ_MAPPED, CORM_READ_PASSING};
    char *path = golden_archive("fable-fine", "bf16");
    struct corm_engine_options opt = {.threads = 2, .ctx_tok = 64, .keeping = CORM_KEEP_DECODED};
    uint64_t want = run_hash(path, &opt, 30, 45, NULL);
    opt.keeping = CORM_KEEP_PACKED; /* in place */
    assert_true(run_hash(path, &opt, 30, 45, NULL) == want);
    for (size_t i = 0; i < TEST_COUNT(readings); i++) {
        struct corm_mechanisms m = {.cache_share = 0.2, .reading = readings[i]};
        if (readings[i] == CORM_READ_DIRECT && !reader_direct_works(path)) {
            continue;
        }
        opt.measure = &m;
        struct corm_engine *e = model_open(path, &opt);
        assert_true(corm_engine_plan(e)->packed && corm_engine_plan(e)->streams);
        assert_int_equal(corm_engine_plan(e)->reading, readings[i]);
        corm_engine_close(e);
        uint64_t warm, cold = run_hash(path, &opt, 30, 45, &warm);
        assert_true(cold == want && warm == want);
    }
    free(path);
}

/* ---- bad disks ---- */

struct bad_disk {
    atomic_int reads;
    int fail_at, stall_at; /* number of the read; -1 = none */
};

static int on_read(void *ctx, uint64_t offset, uint64_t bytes) {
    struct bad_disk *d = ctx;
    (void)offset;
    (void)bytes;
    int n = atomic_fetch_add(&d->reads, 1);
    if (n == d->stall_at) {
        clock_sleep_until(clock_ns() + 500 * 1000 * 1000);
    }
    return n == d->fail_at;
}

/* With and without guesses: a read error is one line that names the file, again at the next call; a
 * disk that stops for a while costs time and not a bit. */
static void bad_disks_end_as_they_should(void **state) {
    (void)state;
    char *path = golden_archive("fable", "bf16");
    for (int guesses = 0; guesses < 2; guesses++) {
        uint64_t hashes[2];
        for (int stalls = 0; stalls < 2; stalls++) {
            struct bad_disk disk = {.fail_at = -1, .stall_at = stalls ? 40 : -1};
            struct corm_mechanisms m = {.cache_share = 0.25,
                                        .no_guesses = !guesses,
                                        .on_read = on_read,
                                        .on_read_ctx = &disk};
            uint64_t start = clock_ns();
            hashes[stalls] = run_hash(
                path, &(struct corm_engine_options){.threads = 1, .ctx_tok = 64, .measure = &m}, 5,
                20, NULL);
            assert_true(atomic_load(&disk.reads) > 41);
            assert_true(!stalls || clock_ns() - start >= UINT64_C(500000000));
        }
        assert_true(hashes[0] == hashes[1]);

        struct bad_disk disk = {.fail_at = 40, .stall_at = -1};
        struct corm_mechanisms m = {
            .cache_share = 0.25, .no_guesses = !guesses, .on_read = on_read, .on_read_ctx = &disk};
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){.threads = 2, .measure = &m});
        struct corm_session *s = model_session(e);
        struct corm_error error = {0};
        int32_t id = 1;
        int n = 0, status = 0;
        for (; status == 0 && n < 200; n++, id += 37) {
            status = corm_session_eval(s, &id, 1, false, NULL, &error);
        }
        assert_int_equal(status, -1);
        assert_non_null(strstr(error.message, path));
        assert_non_null(strstr(error.message, "Input/output error"));
        assert_null(strchr(error.message, '\n'));
        /* The failed token is not half there. */
        assert_int_equal(corm_session_length(s), n - 1);
        assert_int_equal(corm_session_eval(s, &id, 1, false, NULL, &error), -1);
        corm_session_close(s);
        corm_engine_close(e);
    }
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_tokens_are_those_of_transformers),
        cmocka_unit_test(prompts_tokenize_as_transformers_does),
        cmocka_unit_test(perplexity_is_that_of_transformers),
        cmocka_unit_test(no_setting_changes_a_bit),
        cmocka_unit_test(more_packed_experts_fit),
        cmocka_unit_test(a_context_beyond_an_indexer_is_refused),
        cmocka_unit_test(a_slow_disk_makes_experts_packed),
        cmocka_unit_test(packed_experts_are_exact_however_they_are_read),
        cmocka_unit_test(batch_size_changes_no_bit),
        cmocka_unit_test(bad_disks_end_as_they_should),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
