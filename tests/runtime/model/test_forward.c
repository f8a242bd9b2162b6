/*
 * The forward pass against Hugging Face transformers: every tap of every layer and the logits, for
 * each checkpoint of tests/golden, on every backend; and against itself, however the tokens are
 * split.
 */
#include "tests/util/test.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/safetensors.h"
#include "prep/calib/blas.h"
#include "prep/hf/hf_forward.h"
#include "runtime/model/forward.h"
#include "runtime/model/mixer.h"
#include "runtime/model/state.h"
#include "tests/util/test_util_golden.h"

/* f32 on both sides, other order of summation. */
static const float TAP_TOLERANCE = 1e-3f;
/* Keys and values rounded to 11 bits move the taps of these random models by up to 0.064
 * (tests/golden/README.md, column f16_kv). */
static const float F16_KV_TOLERANCE = 1e-1f;

static const char *const CASES[] = {
    GOLDEN_TINY,    "mixtral-fused", "qwen3moe-fused", "qwen3moe-f32",
    "qwen3moe-f16", "gptoss-bf16",   "fable",          "fable-fine",
};

/* Several checkpoints may share golden vectors. */
static const char *golden_of(const char *checkpoint) {
    static const struct {
        const char *checkpoint, *golden;
    } shared[] = {{"mixtral-fused", "mixtral-tiny"},
                  {"qwen3moe-fused", "qwen3moe-tiny"},
                  {"qwen3moe-f16", "qwen3moe-f32"}};
    for (size_t i = 0; i < TEST_COUNT(shared); i++) {
        if (strcmp(shared[i].checkpoint, checkpoint) == 0) {
            return shared[i].golden;
        }
    }
    return checkpoint;
}

/* ---- a model on a backend ---- */

struct rig {
    struct hf_model hf;
    struct safetensors *golden;
    struct backend be;
    struct hf_forward source;
    struct layer_weights model, *layers;
    struct forward forward;
    struct state state;
    enum kv_type kv_type;
    float *logits; /* [n_ids, vocab] */
    const int32_t *ids;
    uint32_t n_ids;
    /* What the tap hook checks. */
    uint32_t pos0;
    bool compares; /* else nothing: positions are not those of the golden file */
    float tolerance, worst;
    char worst_name[64];
    uint32_t n_compared;
};

static const struct st_tensor *golden(const struct rig *r, const char *name) {
    const struct st_tensor *t = st_find(r->golden, name);
    if (!t) {
        fail_msg("golden tensor %s is missing", name);
    }
    return t;
}

/* Golden rows are those of the positions in `rows_name`. */
static void compare(struct rig *r, const char *name, const char *rows_name, const float *data,
                    uint32_t rows, uint32_t cols) {
    const struct st_tensor *want = golden(r, name), *positions = golden(r, rows_name);
    const int32_t *pos = (const int32_t *)positions->data;
    assert_int_equal(want->n_dims, 2);
    assert_int_equal(want->shape[0], positions->shape[0]);
    assert_int_equal(want->shape[1], cols);
    for (uint64_t i = 0; i < positions->shape[0]; i++) {
        if ((uint32_t)pos[i] < r->pos0 || (uint32_t)pos[i] >= r->pos0 + rows) {
            continue;
        }
        const float *got = data + (size_t)((uint32_t)pos[i] - r->pos0) * cols;
        for (uint32_t c = 0; c < cols; c++) {
            float w;
            memcpy(&w, want->data + (i * cols + c) * sizeof w, sizeof w);
            float d = fabsf(got[c] - w);
            if (!(d <= r->worst)) {
                r->worst = d;
                snprintf(r->worst_name, sizeof r->worst_name, "%s[%d,%u]", name, pos[i], c);
            }
        }
        r->n_compared++;
    }
}

static void compare_ids(struct rig *r, const char *name, const int32_t *ids, uint32_t rows,
                        uint32_t cols) {
    const struct st_tensor *want = golden(r, name), *positions = golden(r, "tap_rows");
    const int32_t *pos = (const int32_t *)positions->data;
    for (uint64_t i = 0; i < positions->shape[0]; i++) {
        if ((uint32_t)pos[i] >= r->pos0 && (uint32_t)pos[i] < r->pos0 + rows) {
            assert_memory_equal(ids + (size_t)((uint32_t)pos[i] - r->pos0) * cols,
                                want->data + i * cols * sizeof(int32_t), cols * sizeof(int32_t));
        }
    }
}

static void on_tap(void *ctx, enum tap tap, uint32_t layer, const float *data,
                   const struct batch *b, uint32_t cols, const int32_t *ids) {
    const uint32_t rows = b->rows;
    static const char *const names[TAP_COUNT] = {
        [TAP_EMBED] = "embed",           [TAP_ATTN_IN] = "attn_in",
        [TAP_ATTN_OUT] = "attn_out",     [TAP_FFN_IN] = "ffn_in",
        [TAP_ROUTER] = "router",         [TAP_EXPERT_WEIGHTS] = "expert_weights",
        [TAP_FFN_OUT] = "ffn_out",       [TAP_LAYER_OUT] = "out",
        [TAP_FINAL_NORM] = "final_norm", [TAP_LOGITS] = "logits",
    };
    struct rig *r = ctx;
    char name[64];
    if (!names[tap] ||
        !r->compares) { /* no golden tensor is of the residual, what the norms read */
        return;
    }
    bool of_model = tap == TAP_EMBED || tap == TAP_FINAL_NORM || tap == TAP_LOGITS;
    if (of_model) {
        snprintf(name, sizeof name, "%s", names[tap]);
    } else {
        snprintf(name, sizeof name, "l%u.%s", layer, names[tap]);
    }
    compare(r, name, tap == TAP_LOGITS ? "logit_rows" : "tap_rows", data, rows, cols);
    if (ids) {
        snprintf(name, sizeof name, "l%u.expert_ids", layer);
        compare_ids(r, name, ids, rows, cols);
    }
}

static void rig_open(struct rig *r, const char *name, const char *backend, uint32_t threads,
                     enum kv_type kv_type) {
    struct err err = {0};
    *r = (struct rig){.tolerance = kv_type == KV_F16 ? F16_KV_TOLERANCE : TAP_TOLERANCE,
                      .kv_type = kv_type,
                      .compares = true};
    char *checkpoint = golden_source(name),
         *vectors = golden_file(golden_of(name), "golden.safetensors");
    hf_open(&r->hf, checkpoint, &err);
    assert_no_err(&err);
    free(checkpoint);
    st_open(&r->golden, vectors, &err);
    assert_no_err(&err);
    free(vectors);
    const struct st_tensor *ids = golden(r, "ids");
    r->ids = (const int32_t *)ids->data;
    r->n_ids = (uint32_t)ids->shape[0];

    const struct arch *a = hf_arch(&r->hf);
    struct backend_limits limits = forward_limits(a, r->n_ids, r->n_ids);
    if (strcmp(backend, "blas") == 0) {
        backend_blas_open(&r->be, threads, &limits, &err);
    } else {
        backend_cpu_open(&r->be, strcmp(backend, "best") == 0 ? NULL : backend, threads, &limits,
                         &err);
    }
    assert_no_err(&err);
    hf_forward_open(&r->source, &r->hf, &r->be, r->n_ids);
    struct weight_source source = hf_forward_source(&r->source);
    forward_bind_model(&r->model, a, &source, &r->be, &err);
    r->layers = mem_calloc(a->n_layers, sizeof *r->layers);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        forward_bind_layer(&r->layers[l], a, l, &source, &r->be, &err);
    }
    assert_no_err(&err);
    r->logits = r->be.ops->alloc(r->be.self, (size_t)r->n_ids * a->vocab * sizeof(float), NULL);
    forward_open(&r->forward, a, &r->be, r->n_ids, hf_forward_experts(&r->source),
                 (struct tap_hook){r, on_tap}, &err);
    assert_no_err(&err);
}

static void rig_close(struct rig *r) {
    state_close(&r->state);
    r->be.ops->free(r->be.self, r->logits);
    forward_close(&r->forward);
    hf_forward_close(&r->source);
    backend_close(&r->be);
    free(r->layers);
    st_close(r->golden);
    hf_close(&r->hf);
}

/* An empty sequence, of calls of at most `step` rows. */
static void rig_begin(struct rig *r, uint32_t step) {
    struct err err = {0};
    const struct state_size size = {.ctx_tok = r->n_ids, .batch_rows = step, .type = r->kv_type};
    state_close(&r->state);
    state_open(&r->state, hf_arch(&r->hf), &r->be, &size, NULL, &err);
    assert_no_err(&err);
}

/* Run a batch; logits of its rows land in `logits`. */
static void rig_batch(struct rig *r, const struct batch *b, const int32_t *ids, float *logits) {
    struct err err = {0};
    const struct arch *a = hf_arch(&r->hf);
    forward_embed(&r->forward, &r->model, ids, b, r->forward.x);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        forward_layer(&r->forward, &r->layers[l], l, b, r->forward.x, &err);
        assert_no_err(&err);
    }
    for (uint32_t i = 0; i < b->n_spans; i++) {
        state_advance(b->spans[i].state, b->spans[i].rows);
    }
    forward_logits(&r->forward, &r->model, r->forward.x, b->rows, logits);
}

/* Go on to the last id, `step` rows a call; logits of every position land in r->logits. */
static void rig_go_on(struct rig *r, uint32_t step) {
    const size_t vocab = hf_arch(&r->hf)->vocab;
    for (r->pos0 = r->state.end; r->pos0 < r->n_ids; r->pos0 = r->state.end) {
        uint32_t rows = r->n_ids - r->pos0 < step ? r->n_ids - r->pos0 : step;
        const struct span span = {.state = &r->state, .rows = rows, .pos = r->pos0};
        const struct batch b = {.rows = rows, .n_spans = 1, .spans = &span};
        rig_batch(r, &b, r->ids + r->pos0, r->logits + r->pos0 * vocab);
    }
}

static void rig_run(struct rig *r, uint32_t step) {
    r->worst = 0;
    r->n_compared = 0;
    rig_begin(r, step);
    rig_go_on(r, step);
}

static void check_golden(const char *backend, uint32_t threads, enum kv_type kv_type) {
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        struct rig r;
        rig_open(&r, CASES[i], backend, threads, kv_type);
        rig_run(&r, r.n_ids);
        print_message("%-16s %-6s %s: %u rows, worst %.2g at %s\n", CASES[i], backend,
                      kv_type == KV_F16 ? "f16" : "f32", r.n_compared, (double)r.worst,
                      r.worst_name);
        assert_true(r.n_compared > 12);
        assert_true(r.worst <= r.tolerance);
        rig_close(&r);
    }
}

/* ---- tests ---- */

static void every_tap_agrees_on_every_cpu_isa(void **state) {
    (void)state;
    bool usable;
    for (size_t i = 0; backend_cpu_isa_at(i, &usable); i++) {
        if (usable) {
            check_golden(backend_cpu_isa_at(i, NULL), 2, KV_F32);
        }
    }
}

static void every_tap_agrees_on_openblas(void **state) {
    (void)state;
    check_golden("blas", 2, KV_F32);
}

static void f16_kv_stays_within_its_tolerance(void **state) {
    (void)state;
    check_golden("scalar", 1, KV_F16);
}

/* One row a call, all rows at once, and odd pieces give the same bits. */
static void splitting_the_tokens_changes_no_bit(void **state) {
    (void)state;
    static const uint32_t steps[] = {1, 7, 16};
    bool usable;
    for (size_t isa = 0; backend_cpu_isa_at(isa, &usable); isa++) {
        for (size_t i = 0; usable && i < TEST_COUNT(CASES); i++) {
            struct rig r;
            rig_open(&r, CASES[i], backend_cpu_isa_at(isa, NULL), 2, KV_F16);
            rig_run(&r, r.n_ids);
            size_t bytes = (size_t)r.n_ids * hf_arch(&r.hf)->vocab * sizeof(float);
            float *whole = mem_alloc(bytes);
            memcpy(whole, r.logits, bytes);
            for (size_t s = 0; s < TEST_COUNT(steps); s++) {
                rig_run(&r, steps[s]);
                assert_memory_equal(r.logits, whole, bytes);
            }
            free(whole);
            rig_close(&r);
        }
    }
}

/* Whether cut `c` below is still held: a recurrence holds no place but its last one; a window or
 * chunk that is small enough and a call of STEP rows reach back to the first three of them. */
static bool is_held(const struct rig *r, uint32_t step, size_t c) {
    const struct arch *a = hf_arch(&r->hf);
    bool recurrent = false, windowed = false;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        recurrent |= k->mixer == MIXER_DELTA_NET;
        const uint32_t span = attention_span(&k->att);
        windowed |= span > 0 && span + step < r->n_ids;
    }
    return !recurrent && (!windowed || c < 3);
}

/* A sequence that is cut back and goes on gets the bits that it had: at places that are still
 * held, and at those that are computed again. */
static void cutting_back_changes_no_bit(void **state) {
    (void)state;
    enum { STEP = 16 };
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        struct rig r;
        rig_open(&r, CASES[i], "best", 2, KV_F16);
        r.compares = false;
        rig_run(&r, STEP);
        size_t bytes = (size_t)r.n_ids * hf_arch(&r.hf)->vocab * sizeof(float);
        float *whole = mem_alloc(bytes);
        memcpy(whole, r.logits, bytes);
        const uint32_t cuts[] = {r.n_ids - 1, r.n_ids - 2, r.n_ids - STEP - 1, r.n_ids / 2, 1, 0};
        for (size_t c = 0; c < TEST_COUNT(cuts); c++) {
            uint32_t held = state_cut(&r.state, cuts[c]);
            assert_int_equal(held, is_held(&r, STEP, c) ? cuts[c] : 0);
            memset(r.logits + (size_t)held * hf_arch(&r.hf)->vocab, 0xff,
                   bytes - (size_t)held * hf_arch(&r.hf)->vocab * sizeof(float));
            rig_go_on(&r, STEP);
            assert_memory_equal(r.logits, whole, bytes);
        }
        free(whole);
        rig_close(&r);
    }
}

/* A call that was broken off after some of the layers is undone: going on gives the bits that it
 * would have given without. */
static void a_broken_call_is_undone(void **state) {
    (void)state;
    enum { STEP = 16, DONE = 40 };
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        struct rig r;
        struct err err = {0};
        rig_open(&r, CASES[i], "best", 2, KV_F16);
        r.compares = false;
        rig_run(&r, STEP);
        const uint32_t n_ids = r.n_ids, done = DONE < n_ids ? DONE : n_ids / 2;
        size_t vocab = hf_arch(&r.hf)->vocab, bytes = (size_t)n_ids * vocab * sizeof(float);
        float *whole = mem_alloc(bytes);
        memcpy(whole, r.logits, bytes);
        rig_begin(&r, STEP);
        r.n_ids = done;
        rig_go_on(&r, STEP);
        r.n_ids = n_ids;
        /* Other tokens, in all layers but the last. */
        const uint32_t rows = n_ids - done < STEP ? n_ids - done : STEP;
        const struct span span = {.state = &r.state, .rows = rows, .pos = done};
        const struct batch b = {.rows = rows, .n_spans = 1, .spans = &span};
        forward_embed(&r.forward, &r.model, r.ids, &b, r.forward.x);
        for (uint32_t l = 0; l + 1 < hf_arch(&r.hf)->n_layers; l++) {
            forward_layer(&r.forward, &r.layers[l], l, &b, r.forward.x, &err);
        }
        assert_no_err(&err);
        state_undo(&r.state, done);
        rig_go_on(&r, STEP);
        assert_memory_equal(r.logits + done * vocab, whole + done * vocab,
                            (n_ids - done) * vocab * sizeof *whole);
        free(whole);
        rig_close(&r);
    }
}

/* Rows of four sequences in one batch, some of which are further on than others, get the bits that
 * they get alone: single rows as well as pieces of different lengths. */
static void a_batch_of_sequences_changes_no_bit(void **state) {
    (void)state;
    enum { SEQUENCES = 4 };
    static const uint32_t firsts[SEQUENCES] = {0, 3, 1, 9}, pieces[SEQUENCES] = {1, 4, 1, 2};
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        struct rig r;
        rig_open(&r, CASES[i], "best", 2, KV_F16);
        r.compares = false;
        const struct arch *a = hf_arch(&r.hf);
        const struct state_size size = {.ctx_tok = r.n_ids, .batch_rows = 4, .type = KV_F16};
        const uint32_t n = r.n_ids - firsts[3];
        size_t floats = (size_t)n * a->vocab;
        float *alone = mem_alloc(SEQUENCES * floats * sizeof *alone);
        struct state states[SEQUENCES];
        struct err err = {0};
        for (uint32_t s = 0; s < SEQUENCES; s++) { /* sequence s has the ids from firsts[s] on */
            state_open(&states[s], a, &r.be, &size, NULL, &err);
            assert_no_err(&err);
            for (uint32_t t = 0; t < n; t++) {
                const struct span span = {.state = &states[s], .rows = 1, .pos = t};
                const struct batch b = {.rows = 1, .n_spans = 1, .spans = &span, .decode = true};
                rig_batch(&r, &b, r.ids + firsts[s] + t, alone + s * floats + t * a->vocab);
            }
            state_cut(&states[s], 0);
        }
        assert_no_err(&err);
        for (bool going = true; going;) {
            struct span spans[SEQUENCES];
            struct batch b = {.spans = spans};
            int32_t ids[4 * SEQUENCES];
            for (uint32_t s = 0; s < SEQUENCES; s++) {
                uint32_t pos = states[s].end, rows = n - pos < pieces[s] ? n - pos : pieces[s];
                if (rows > 0) {
                    spans[b.n_spans++] = (struct span){&states[s], b.rows, rows, pos};
                    memcpy(ids + b.rows, r.ids + firsts[s] + pos, rows * sizeof *ids);
                    b.rows += rows;
                }
            }
            if (b.rows > 0) {
                rig_batch(&r, &b, ids, r.logits);
            }
            for (uint32_t k = 0; k < b.n_spans; k++) {
                const float *want =
                    alone + (size_t)(spans[k].state - states) * floats + spans[k].pos * a->vocab;
                assert_memory_equal(r.logits + (size_t)spans[k].first * a->vocab, want,
                                    (size_t)spans[k].rows * a->vocab * sizeof *want);
            }
            going = b.rows > 0;
        }
        for (uint32_t s = 0; s < SEQUENCES; s++) {
            state_close(&states[s]);
        }
        free(alone);
        rig_close(&r);
    }
}

static void threads_change_no_bit(void **state) {
    (void)state;
    uint64_t hash[2];
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        for (uint32_t t = 0; t < 2; t++) {
            struct rig r;
            rig_open(&r, CASES[i], "best", t ? 3 : 1, KV_F16);
            rig_run(&r, r.n_ids);
            hash[t] = hash64(r.logits, (size_t)r.n_ids * hf_arch(&r.hf)->vocab * sizeof(float));
            rig_close(&r);
        }
        assert_true(hash[0] == hash[1]);
    }
}

/* A backend without a mixer's operation is refused, with the mixer's name. */
static void a_mixer_that_the_backend_lacks_is_named(void **state) {
    const struct backend_ops none = {0};
    const struct backend be = {.name = "small", .ops = &none};
    struct layer_kind kind = {0};
    uint32_t kind_of_layer = 0;
    const struct arch a = {.n_layers = 1, .n_kinds = 1, .kinds = &kind, .kind = &kind_of_layer};
    (void)state;
    for (uint32_t id = 0; id < MIXER_COUNT; id++) {
        struct err err = {0};
        char *want = mem_printf("small: layer 0 mixes by %s, which", mixer_at(id)->name);
        kind.mixer = id;
        assert_int_equal(forward_supported(&a, &be, &err), -1);
        assert_non_null(strstr(err.msg, want));
        free(want);
    }
}

/* A latent is the first numbers of its key, so that blocks must not run on from one into the
 * other. */
static void a_latent_in_q8_is_of_whole_blocks(void **state) {
    struct layer_kind kind = {.mixer = MIXER_LATENT, .latent = {.rank = 48, .rope_dim = 16}};
    uint32_t kind_of_layer = 0;
    const struct arch a = {.n_layers = 1, .n_kinds = 1, .kinds = &kind, .kind = &kind_of_layer};
    struct err err = {0};
    (void)state;
    assert_int_equal(state_fits(&a, KV_F16, &err), 0);
    assert_int_equal(state_fits(&a, KV_Q8, &err), -1);
    assert_err(&err, "layer 0 has latents of 48 numbers, expected a multiple of 32");
    kind.latent.rank = 32;
    kind.latent.rope_dim = 32;
    err = (struct err){0};
    assert_int_equal(state_fits(&a, KV_Q8, &err), 0);
}

/* What the second half of a parallel layer reads is the mixer's norm of the same rows: of a part of
 * them, or of rows that have been through it already, it is not there any more. */
static void a_half_layer_without_its_mixer_dies(void **state) {
    static const uint32_t mixed_rows[] = {0, 2, 4};
    (void)state;
    struct rig r;
    rig_open(&r, "cohere2moe-tiny", "best", 1, KV_F32);
    for (size_t i = 0; i < TEST_COUNT(mixed_rows); i++) {
        const struct batch all = {.rows = 4};
        const struct span span = {.state = &r.state, .rows = mixed_rows[i]};
        const struct batch some = {.rows = mixed_rows[i], .n_spans = 1, .spans = &span};
        rig_begin(&r, 4);
        r.compares = false;
        forward_embed(&r.forward, &r.model, r.ids, &all, r.forward.x);
        if (mixed_rows[i] > 0) {
            forward_mixer(&r.forward, &r.layers[0], 0, &some, r.forward.x);
        }
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            struct err err = {0};
            signal(SIGABRT, SIG_DFL);
            _exit(!freopen("/dev/null", "w", stderr) ||
                  forward_ffn(&r.forward, &r.layers[0], 0, &all, r.forward.x, NULL, &err) < 0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (mixed_rows[i] == all.rows) {
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        } else {
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        }
    }
    rig_close(&r);
}

/* Without a norm before it a mixer reads the residual stream: given what a norm has made, it gives
 * what it gives behind that norm, but for the norm behind it, whose weight is not there. */
static void a_mixer_without_a_norm_reads_the_stream(void **state) {
    static const char *const names[] = {"deepseekv3-tiny", "olmoe-tiny", "qwen3next-tiny"};
    enum { ROWS = 8 };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        struct rig r;
        static const struct weight ones = {0};
        rig_open(&r, names[i], "best", 2, KV_F32);
        r.compares = false;
        struct arch *a = &r.hf.config.arch;
        const struct span span = {.state = &r.state, .rows = ROWS};
        const struct batch b = {.rows = ROWS, .n_spans = 1, .spans = &span};
        const size_t bytes = (size_t)ROWS * a->dim * sizeof(float);
        float *want = mem_alloc(bytes), *normed = mem_alloc(bytes), *x = r.forward.x;
        rig_begin(&r, ROWS);
        forward_embed(&r.forward, &r.model, r.ids, &b, x);
        forward_mixer(&r.forward, &r.layers[0], 0, &b, x);
        memcpy(normed, r.forward.norm, bytes);
        r.be.ops->rmsnorm(r.be.self, r.forward.out, &ones, a->norm_eps, ROWS, a->dim, want);
        a->kinds[a->kind[0]].block.post_norm = ARCH_POST_NORM_ONLY;
        rig_begin(&r, ROWS);
        memcpy(x, normed, bytes);
        memset(r.forward.norm, 0xff, bytes); /* NaN */
        forward_mixer(&r.forward, &r.layers[0], 0, &b, x);
        assert_memory_equal(r.forward.out, want, bytes);
        free(want);
        free(normed);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tap_agrees_on_every_cpu_isa),
        cmocka_unit_test(every_tap_agrees_on_openblas),
        cmocka_unit_test(f16_kv_stays_within_its_tolerance),
        cmocka_unit_test(splitting_the_tokens_changes_no_bit),
        cmocka_unit_test(cutting_back_changes_no_bit),
        cmocka_unit_test(a_broken_call_is_undone),
        cmocka_unit_test(a_batch_of_sequences_changes_no_bit),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(a_mixer_that_the_backend_lacks_is_named),
        cmocka_unit_test(a_latent_in_q8_is_of_whole_blocks),
        cmocka_unit_test(a_half_layer_without_its_mixer_dies),
        cmocka_unit_test(a_mixer_without_a_norm_reads_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
