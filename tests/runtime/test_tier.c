/*
 * The engine with experts in a device's memory: on the fake device, whatever its memory, its link
 * and the mechanisms, it gives the bits of the CPU whose tables it computes with; and on the
 * emulated CUDA device the CPU's tokens.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_read.h"
#include "runtime/mechanisms.h"
#include "tests/kernels/cuda/emulated.h"
#include "tests/util/test_util_device.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

static struct backend_limits wide_limits(void) {
    return (struct backend_limits){.max_rows = 32,
                                   .max_cols = 8192,
                                   .max_ffn = 1024,
                                   .max_active = 8,
                                   .max_experts = 256,
                                   .max_ctx_tok = 64,
                                   .n_heads = 16,
                                   .head_dim = 64,
                                   .latent_key_dim = 128,
                                   .max_head_in = 128};
}

enum { N_PROMPT = 12, N_TOK = 20 };

/* What both the fake device and the CPU compute with: the plain tables, but where these would be
 * slow the best ones, which give bf16 the same bits on both sides too. */
#define TABLES (QUICK ? NULL : "scalar")

struct outcome {
    uint64_t hash;
    int32_t greedy[N_TOK];
    float *last; /* [vocab] */
    uint32_t vocab;
    struct corm_stats stats;
    struct corm_memory_plan plan;
};

/* A prompt in one call, then token by token, twice: with an empty cache and a warm one. */
static struct outcome run(const char *path, struct corm_engine_options opt, uint32_t n_tok) {
    struct outcome o = {0};
    struct corm_engine *e;
    struct corm_session *s;
    struct corm_error error;
    opt.ctx_tok = 64;
    opt.batch_rows = 32;
    if (corm_engine_open(&e, path, &opt, &error) < 0) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(corm_session_open(&s, e, NULL), 0);
    o.vocab = corm_engine_info(e)->vocab;
    o.plan = *corm_engine_plan(e);
    struct hasher *h = hasher_new();
    for (int pass = 0; pass < 2; pass++) {
        corm_session_truncate(s, 0);
        for (uint32_t done = 0; done < n_tok;) {
            int32_t ids[N_PROMPT];
            const float *logits;
            uint32_t n = done == 0 ? N_PROMPT : 1;
            for (uint32_t i = 0; i < n; i++) {
                ids[i] = (int32_t)(((done + i) * 7919u + 13u) % o.vocab);
            }
            if (corm_session_eval(s, ids, n, false, &logits, &error) < 0) {
                fail_msg("%s", error.message);
            }
            hasher_add(h, logits, o.vocab * sizeof *logits);
            done += n;
            o.greedy[done - 1] =
                corm_session_sample(s, &(struct corm_sampling){.repeat_penalty = 1, .top_p = 1});
            free(o.last);
            o.last = mem_alloc(o.vocab * sizeof *o.last);
            memcpy(o.last, logits, o.vocab * sizeof *o.last);
        }
    }
    o.hash = hasher_value(h);
    hasher_free(h);
    corm_session_stats(s, &o.stats);
    corm_session_close(s);
    corm_engine_close(e);
    return o;
}

/* ---- the fake device ------------------------------------------------------------------------ */

static struct outcome run_fake_with(const char *path, struct fake_options fake,
                                    struct corm_engine_options opt, struct corm_mechanisms m) {
    struct backend_limits limits = wide_limits();
    struct backend b;
    struct err err = {0};
    fake.threads = 1;
    fake.memory_bytes = (size_t)1 << 30;
    fake_device_open(&b, &fake, &limits, &err);
    assert_no_err(&err);
    m.backend = &b;
    opt.threads = 1;
    opt.measure = &m;
    return run(path, opt, N_TOK);
}

static struct outcome run_fake(const char *path, struct fake_options fake, uint64_t vram_bytes,
                               struct corm_mechanisms m) {
    const struct corm_engine_options opt = {.vram_bytes = vram_bytes, .missed = CORM_MISSED_DEVICE};
    fake.isa = TABLES;
    return run_fake_with(path, fake, opt, m);
}

/* What the figures say of the link: every chunk that was decoded went over it. */
static void check_link(const struct outcome *o, bool no_guesses) {
    const struct corm_stats *s = &o->stats;
    /* A guess may be under way. */
    uint64_t copied = s->copied_demanded_bytes + s->copied_guessed_bytes;
    assert_true(copied >= s->decoded_bytes);
    assert_true(copied <= s->decoded_bytes + (no_guesses ? 0 : 8 << 20));
    assert_true(!no_guesses || s->copied_guessed_bytes == 0);
    assert_true(s->copied_guessed_bytes == 0 || s->guessed_bytes > 0);
    assert_true(s->copy_ns > 0 && s->copy_hidden_ns <= s->copy_ns);
    /* An expert's chunks mostly find slots side by side: fewer copies than chunks. */
    assert_true(s->copies > 0 && s->copies < s->copied_chunks);
    assert_int_equal(s->cpu_bytes, 0);
    assert_true(o->plan.link_bytes_per_s > 0);
}

/* Layers that the CUDA backend lacks, on a device that has them: latent attention, and values
 * narrower than keys. Half of the experts are there. */
static void bits_of_the_cpu_of_other_layers(void **state) {
    static const char *const models[] = {"deepseekv3-tiny", "mimov2flash-tiny"};
    static const struct fake_options link = {.bytes_per_s = 1e9};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(models); i++) {
        char *path = golden_archive(models[i], "bf16");
        const struct outcome want =
            run(path, (struct corm_engine_options){.threads = 1, .isa = TABLES}, N_TOK);
        const struct outcome all =
            run_fake(path, link, (uint64_t)1 << 29, (struct corm_mechanisms){0});
        uint64_t vram = all.plan.total_bytes - all.plan.cache_bytes / 2;
        vram = vram > all.plan.floor_bytes ? vram : all.plan.floor_bytes;
        const struct outcome half = run_fake(path, link, vram, (struct corm_mechanisms){0});
        assert_int_equal(all.hash, want.hash);
        assert_int_equal(half.hash, want.hash);
        assert_true(half.plan.streams && half.plan.total_bytes <= vram);
        free(want.last);
        free(all.last);
        free(half.last);
        free(path);
    }
}

static void bits_of_the_cpu(void **state) {
    /* Few neurons a chunk, compressed and not: all ways into a slot are taken. */
    static const struct {
        const char *codec;
        bool compress;
    } archives[] = {{"bf16", true}, {"q8", false}, {"q4", true}};
    static const struct fake_options links[] = {{.bytes_per_s = 0},
                                                {.bytes_per_s = 1e9, .experts_late_ns = 300000}};
    (void)state;
    for (size_t a = 0; a < (QUICK ? 1 : TEST_COUNT(archives)); a++) {
        char *path = model_archive("tests/models/fable", test_dir(), archives[a].codec,
                                   archives[a].codec, archives[a].compress);
        struct outcome want =
            run(path, (struct corm_engine_options){.threads = 1, .isa = TABLES}, N_TOK);
        struct outcome all =
            run_fake(path, links[0], (uint64_t)1 << 29, (struct corm_mechanisms){0});
        assert_int_equal(all.hash, want.hash);
        assert_false(all.plan.streams);
        assert_true(all.plan.host_bytes > 0);
        uint64_t fixed = all.plan.total_bytes - all.plan.cache_bytes;
        for (size_t l = 0; l < TEST_COUNT(links); l++) {
            /* One archive goes through all of it, the others through the middle. */
            for (int share = a ? 25 : 0; share <= (a ? 25 : 50); share += 25) {
                uint64_t vram = fixed + all.plan.cache_bytes * (uint64_t)share / 100;
                vram = vram > all.plan.floor_bytes ? vram : all.plan.floor_bytes;
                for (int i = (int)l; i < 4; i += 2) { /* the links share the mechanisms */
                    struct corm_mechanisms m = {.no_guesses = i == 1 || i == 2,
                                                .whole_lru = i == 1 || i == 2,
                                                .ahead = 3,
                                                .reading =
                                                    i & 2 ? CORM_READ_MAPPED : CORM_READ_BUFFERED};
                    struct outcome got = run_fake(path, links[l], vram, m);
                    if (got.hash != want.hash) {
                        fail_msg("%s, link %zu, %d %% of the experts, mechanisms %d: other bits",
                                 archives[a].codec, l, share, i);
                    }
                    assert_true(got.plan.streams);
                    assert_true(got.plan.total_bytes <= vram);
                    assert_true(got.stats.cache_misses > 0);
                    check_link(&got, m.no_guesses);
                    free(got.last);
                }
            }
        }
        free(all.last);
        free(want.last);
        free(path);
    }
}

/* ---- experts that the device misses --------------------------------------------------------- */

/* The bits of the CPU again, where the CPU beside the device has the device's tables: so every
 * expert was computed, once, with the right chunks, and came to its place. */
static void missed_on_the_cpu(void **state) {
    static const struct fake_options links[] = {
        {.isa = TABLES}, {.isa = TABLES, .bytes_per_s = 1e9, .experts_late_ns = 300000}};
    (void)state;
    char *path = mem_printf("%s/bf16.corm", test_dir());
    struct outcome want =
        run(path, (struct corm_engine_options){.threads = 1, .isa = TABLES}, N_TOK);
    struct corm_engine_options opt = {
        .isa = TABLES, .vram_bytes = (uint64_t)1 << 29, .missed = CORM_MISSED_CPU};
    struct outcome all = run_fake_with(path, links[0], opt, (struct corm_mechanisms){0});
    assert_int_equal(all.plan.missed, CORM_MISSED_DEVICE); /* it misses nothing */
    assert_int_equal(all.stats.cpu_bytes, 0);
    uint64_t fixed = all.plan.total_bytes - all.plan.cache_bytes, share = 0;
    for (size_t l = 0; l < TEST_COUNT(links); l++) {
        /* All experts in host memory, then the least of it, from the file as they are needed. */
        for (int little = 0; little < 2; little++) {
            struct corm_mechanisms m = {.reading = little ? CORM_READ_MAPPED : CORM_READ_BUFFERED};
            share = share ? 0 : 40;
            opt.vram_bytes = fixed + all.plan.cache_bytes * share / 100;
            if (share == 0) {
                opt.vram_bytes = all.plan.floor_bytes;
            }
            opt.ram_bytes = little ? 1 : (uint64_t)1 << 30;
            if (little) { /* the least that works is what the refusal names */
                struct corm_engine *e;
                struct corm_error error;
                struct backend b;
                struct backend_limits limits = wide_limits();
                struct err err = {0};
                struct fake_options fake = links[l];
                fake.threads = 1;
                fake.memory_bytes = (size_t)1 << 30;
                fake_device_open(&b, &fake, &limits, &err);
                assert_no_err(&err);
                m.backend = &b;
                opt.measure = &m;
                opt.threads = 1;
                opt.ctx_tok = 64;
                opt.batch_rows = 32;
                assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
                const char *named = strstr(error.message, "computes: ");
                assert_non_null(named);
                opt.ram_bytes = strtoull(named + strlen("computes: "), NULL, 10) << 20;
                backend_close(&b);
                m.backend = NULL;
            }
            struct outcome got = run_fake_with(path, links[l], opt, m);
            assert_int_equal(got.hash, want.hash);
            assert_int_equal(got.plan.missed, CORM_MISSED_CPU);
            assert_true(got.plan.host_bytes <= opt.ram_bytes);
            assert_true(got.plan.host_cache_bytes > 0);
            assert_true(little == (got.plan.host_cache_bytes < got.plan.cache_need_bytes / 2));
            assert_true(got.stats.cpu_bytes > 0 && got.stats.cpu_bytes < got.stats.expert_bytes);
            free(got.last);
        }
    }
    free(all.last);
    free(want.last);
    free(path);
}

/* Where the CPU rounds otherwise than the device, which experts are whose shows in the last bits:
 * the same ones, however fast the link, the device and the disk are. */
static void the_same_experts_are_missed(void **state) {
    static const struct {
        double bytes_per_s;
        uint64_t late_ns;
        enum corm_reading reading;
        uint32_t io_threads;
    } ways[] = {{0, 0, CORM_READ_BUFFERED, 1},
                {3e8, 0, CORM_READ_MAPPED, 2},
                {0, 500000, CORM_READ_BUFFERED, 3}};
    const char *best = "scalar", *isa;
    bool usable;
    (void)state;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)); i++) {
        best = usable ? isa : best;
    }
    char *path = mem_printf("%s/bf16.corm", test_dir());
    struct corm_engine_options opt = {
        .isa = "scalar", .vram_bytes = (uint64_t)1 << 29, .missed = CORM_MISSED_CPU};
    struct fake_options fake = {.isa = best};
    struct outcome all = run_fake_with(path, fake, opt, (struct corm_mechanisms){0});
    uint64_t hash = 0, cpu_bytes = 0;
    opt.vram_bytes = all.plan.total_bytes - all.plan.cache_bytes * 3 / 4;
    for (size_t i = 0; i < TEST_COUNT(ways); i++) {
        struct corm_mechanisms m = {.reading = ways[i].reading, .io_threads = ways[i].io_threads};
        fake.bytes_per_s = ways[i].bytes_per_s;
        fake.experts_late_ns = ways[i].late_ns;
        struct outcome got = run_fake_with(path, fake, opt, m);
        if (i == 0) {
            hash = got.hash;
            cpu_bytes = got.stats.cpu_bytes;
            assert_true(cpu_bytes > 0);
            assert_true(strcmp(best, "scalar") == 0 || hash != all.hash);
        }
        assert_int_equal(got.hash, hash);
        assert_int_equal(got.stats.cpu_bytes, cpu_bytes);
        free(got.last);
    }
    free(all.last);
    free(path);
}

/* A slow link is beaten by any CPU, a fast one by none; and a choice that was made is kept. */
static void auto_measures(void **state) {
    (void)state;
    char *path = mem_printf("%s/bf16.corm", test_dir());
    struct corm_engine_options opt = {
        .isa = "scalar", .vram_bytes = (uint64_t)1 << 29, .missed = CORM_MISSED_AUTO};
    struct outcome all = run_fake_with(path, (struct fake_options){.isa = "scalar"}, opt,
                                       (struct corm_mechanisms){0});
    assert_true(all.plan.link_bytes_per_s == 0 && all.plan.missed == CORM_MISSED_DEVICE);
    opt.vram_bytes = all.plan.floor_bytes;
    free(all.last);
    for (int slow = 0; slow < 2; slow++) {
        struct fake_options fake = {.isa = "scalar", .bytes_per_s = slow ? 8e6 : 0};
        struct outcome got = run_fake_with(path, fake, opt, (struct corm_mechanisms){0});
        const struct corm_memory_plan *p = &got.plan;
        assert_true(p->link_bytes_per_s > 0 && p->cpu_bytes_per_s > 0);
        assert_true(p->upload_bytes_per_s > 0);
        /* What is brought is copied, and read, checked and decoded besides. */
        assert_true(!slow || (p->link_bytes_per_s < 1e7 && p->upload_bytes_per_s < 1e7));
        assert_int_equal(p->missed, p->cpu_bytes_per_s > p->upload_bytes_per_s
                                        ? CORM_MISSED_CPU
                                        : CORM_MISSED_DEVICE);
        /* Under a sanitizer the CPU may be slower than even that link. */
        assert_true(QUICK || !slow || p->missed == CORM_MISSED_CPU);
        assert_true((p->missed == CORM_MISSED_CPU) == (got.stats.cpu_bytes > 0));
        assert_true((p->missed == CORM_MISSED_CPU) == (p->host_cache_bytes > 0));
        free(got.last);
    }
    free(path);
}

/* A layer that the device cannot compute is refused before anything is measured, for which this
 * device would have too little memory. */
static void a_mixer_that_is_lacking(void **state) {
    (void)state;
    char *path = mem_printf("%s/bf16.corm", test_dir());
    const struct fake_options fake = {.isa = "scalar", .threads = 1, .memory_bytes = 1 << 20};
    struct corm_engine_options opt = {
        .isa = "scalar", .vram_bytes = (uint64_t)1 << 29, .missed = CORM_MISSED_AUTO};
    struct outcome all = run_fake_with(path, fake, opt, (struct corm_mechanisms){0});
    opt.vram_bytes = all.plan.floor_bytes;
    opt.threads = 1;
    opt.ctx_tok = 64;
    opt.batch_rows = 32;
    free(all.last);
    for (int lacking = 0; lacking < 2; lacking++) {
        const struct backend_limits limits = wide_limits();
        struct corm_mechanisms m = {0};
        struct corm_engine *e;
        struct corm_error error;
        struct backend b;
        struct err err = {0};
        fake_device_open(&b, &fake, &limits, &err);
        assert_no_err(&err);
        struct backend_ops less = *b.ops;
        less.attention = lacking ? NULL : less.attention;
        b.ops = &less;
        m.backend = &b;
        opt.measure = &m;
        assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1); /* closes the device */
        assert_true(!strstr(error.message, "cannot do yet") == !lacking);
    }
    free(path);
}

/* The plan is kept: nothing beyond it is allocated on the device. */
static void the_plan_is_kept(void **state) {
    (void)state;
    char *path = mem_printf("%s/bf16.corm", test_dir());
    struct backend_limits limits = wide_limits();
    struct backend b;
    struct err err = {0};
    struct corm_engine *e;
    struct corm_session *s;
    struct corm_error error;
    const float *logits;
    const int32_t ids[] = {1, 2, 3};
    struct fake_options fake = {.isa = "scalar", .threads = 1, .memory_bytes = (size_t)1 << 30};
    fake_device_open(&b, &fake, &limits, &err);
    assert_no_err(&err);
    struct corm_mechanisms m = {.backend = &b};
    struct corm_engine_options opt = {.threads = 1,
                                      .ctx_tok = 64,
                                      .batch_rows = 32,
                                      .vram_bytes = 1 << 20,
                                      .measure = &m,
                                      .missed = CORM_MISSED_DEVICE};
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    assert_non_null(strstr(error.message, "MiB of device memory are too little"));
    opt.vram_bytes = 30 << 20;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), 0);
    assert_int_equal(corm_session_open(&s, e, NULL), 0);
    assert_int_equal(corm_session_eval(s, ids, 3, false, &logits, &error), 0);
    assert_true(fake_device_counts(&b).most_bytes <= corm_engine_plan(e)->total_bytes);
    assert_true(fake_device_counts(&b).link.bytes[BACKEND_DEMANDED] > 0);
    corm_session_close(s);
    corm_engine_close(e);
    free(path);
}

/* ---- the emulated device -------------------------------------------------------------------- */

static void tokens_of_the_cpu_on_emulated_cuda(void **state) {
    static const char *const codecs[] = {"bf16", "q8", "q4"};
    (void)state;
    for (size_t c = 0; c < (QUICK ? 1 : TEST_COUNT(codecs)); c++) {
        char *path =
            model_archive("tests/golden/models/qwen2moe-tiny", test_dir(), "tiny", codecs[c], true);
        struct outcome want = run(path, (struct corm_engine_options){.threads = 1}, N_PROMPT + 4);
        struct backend_limits limits = wide_limits();
        struct backend b;
        struct err err = {0};
        *emulate_machine() = (struct emulate_machine){.driver = 13000,
                                                      .n_devices = 1,
                                                      .major = 9,
                                                      .free_bytes = (size_t)1 << 30,
                                                      .total_bytes = (size_t)1 << 30};
        emulated_cuda_open(&b, 0, 0, &limits, &err);
        assert_no_err(&err);
        struct corm_mechanisms m = {.backend = &b, .cache_share = 0.5};
        struct outcome got = run(path,
                                 (struct corm_engine_options){.threads = 1,
                                                              .vram_bytes = (uint64_t)1 << 29,
                                                              .measure = &m,
                                                              .missed = CORM_MISSED_DEVICE},
                                 N_PROMPT + 4);
        double worst = 0, size = 0;
        for (uint32_t i = 0; i < want.vocab; i++) {
            worst = fmax(worst, fabs((double)got.last[i] - (double)want.last[i]));
            size = fmax(size, fabs((double)want.last[i]));
        }
        /* The CPU quantises inputs of q8 and q4. */
        double tolerance = strcmp(codecs[c], "bf16") == 0 ? 1e-4 : 3e-2;
        if (!(worst <= tolerance * size)) {
            fail_msg("%s: logits up to %.3g apart, of %.3g", codecs[c], worst, size);
        }
        assert_int_equal(emulate_used_bytes(), 0);
        free(got.last);
        free(want.last);
        free(path);
    }
}

/* The reference's own logits, of whole models with room for half of their experts: of one that has
 * the plain operations, and of those that have all others. The CPU computes missed experts of every
 * second one, and of the plain one in turn. */
static void golden_logits_on_emulated_cuda(void **state) {
    static const char *const models[] = {
        "olmoe-tiny",   "olmoe-tiny",   "gptoss-tiny",        "gemma4-tiny", "qwen3next-tiny",
        "glm4moe-tiny", "ernie45-tiny", "granitemoeswa-tiny", "llama4-tiny", "cohere2moe-tiny",
        "phimoe-tiny",  "laguna-tiny",  "smallthinker-tiny",  "step3p7-tiny"};
    (void)state;
    for (size_t i = 0; i < (QUICK ? 1 : TEST_COUNT(models)); i++) {
        struct backend_limits limits = {.max_rows = 256,
                                        .max_cols = 8192,
                                        .max_ffn = 1024,
                                        .max_active = 8,
                                        .max_experts = 256,
                                        .max_ctx_tok = 256,
                                        .n_heads = 16,
                                        .head_dim = 64};
        struct backend b;
        struct err err = {0};
        *emulate_machine() = (struct emulate_machine){.driver = 13000,
                                                      .n_devices = 1,
                                                      .major = 9,
                                                      .free_bytes = (size_t)1 << 30,
                                                      .total_bytes = (size_t)1 << 30};
        emulated_cuda_open(&b, 0, 0, &limits, &err);
        assert_no_err(&err);
        struct corm_mechanisms m = {.backend = &b, .cache_share = 0.5};
        struct corm_engine_options opt = {.threads = 1,
                                          .vram_bytes = (uint64_t)1 << 29,
                                          .measure = &m,
                                          .missed = i % 2 ? CORM_MISSED_DEVICE : CORM_MISSED_CPU};
        golden_check(models[i], test_dir(), opt);
        assert_int_equal(emulate_used_bytes(), 0);
    }
}

/* ---- names ---------------------------------------------------------------------------------- */

static void devices_by_name(void **state) {
    static const char *const wrong[] = {"gpu",     "cudax",     "cuda:", "cuda:x",
                                        "cuda:-1", "cuda:1234", ""};
    struct corm_engine *e;
    struct corm_error error;
    (void)state;
    char *path = mem_printf("%s/bf16.corm", test_dir());
    for (size_t i = 0; i < TEST_COUNT(wrong); i++) {
        struct corm_engine_options opt = {.device = wrong[i]};
        assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
        assert_non_null(strstr(error.message, "unknown"));
    }
    struct corm_engine_options cpu = {.device = "auto", .threads = 1, .ctx_tok = 8};
    assert_int_equal(corm_engine_open(&e, path, &cpu, &error), 0);
    assert_string_equal(corm_engine_info(e)->device, "cpu");
    assert_int_equal(corm_engine_plan(e)->host_bytes, 0);
    corm_engine_close(e);
    cpu.vram_bytes = 1 << 30;
    assert_int_equal(corm_engine_open(&e, path, &cpu, &error), -1);
    assert_non_null(strstr(error.message, "device memory"));
    cpu.vram_bytes = 0;
    cpu.missed = CORM_MISSED_AUTO;
    assert_int_equal(corm_engine_open(&e, path, &cpu, &error), -1);
    assert_non_null(strstr(error.message, "no device"));
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_of_the_cpu),
        cmocka_unit_test(bits_of_the_cpu_of_other_layers),
        cmocka_unit_test(missed_on_the_cpu),
        cmocka_unit_test(the_same_experts_are_missed),
        cmocka_unit_test(auto_measures),
        cmocka_unit_test(a_mixer_that_is_lacking),
        cmocka_unit_test(the_plan_is_kept),
        cmocka_unit_test(devices_by_name),
        cmocka_unit_test(tokens_of_the_cpu_on_emulated_cuda),
        cmocka_unit_test(golden_logits_on_emulated_cuda),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
