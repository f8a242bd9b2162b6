/*
 * shape: verdicts on made-up times; and that operations of the CPU backend give the same bits in
 * every shape that they take turns with.
 */
#include "format/corm_exponents.h"
#include "kernels/cpu/cpu.h"
#include "tests/util/test_util_kernels.h"

/* ---- verdicts ------------------------------------------------------------------------------- */

enum { MB = 1 << 20 };

/* Make n calls, of which shape i takes cost[i] ns a MiB; every `odd` call a hundred times as long.
 * Returns how many had another shape than the best one. */
static unsigned run(struct shape_trial *t, unsigned n, const uint64_t *cost, unsigned odd) {
    unsigned others = 0;
    for (unsigned i = 0; i < n; i++) {
        bool timed = shape_tries(t);
        uint32_t shape = shape_next(t, MB);
        assert_true(shape < t->n);
        others += shape != t->best;
        if (timed) {
            shape_took(t, MB, cost[shape] * (odd && i % odd == 0 ? 100 : 1));
        }
    }
    return others;
}

static void the_fastest_stays_and_is_looked_at_rarely(void **state) {
    static const uint64_t cost[] = {1000, 900, 700, 2000, 680};
    (void)state;
    struct shape_trial t;
    shape_open(&t, 5);
    assert_int_equal(run(&t, SHAPE_FIRST_CALLS, cost, 0), 0);
    run(&t, 5 * SHAPE_ROUNDS, cost, 0);
    assert_int_equal(t.best, 4);
    assert_true(run(&t, 200000, cost, 0) < 200000 / 100);
    assert_int_equal(t.waiting, SHAPE_MOST_CALLS);
}

static void what_is_not_clearly_faster_changes_nothing(void **state) {
    static const uint64_t cost[] = {1000, 910, 950, 1000, 2000};
    (void)state;
    struct shape_trial t;
    shape_open(&t, 5);
    run(&t, 10000, cost, 7);
    assert_int_equal(t.best, 0);
}

static void another_machine_gets_another_verdict(void **state) {
    static const uint64_t before[] = {1000, 500}, after[] = {300, 500};
    (void)state;
    struct shape_trial t;
    shape_open(&t, 2);
    run(&t, 10000, before, 5);
    assert_int_equal(t.best, 1);
    run(&t, 2 * SHAPE_MOST_CALLS, after, 5);
    assert_int_equal(t.best, 0);
}

static void small_calls_and_single_shapes_are_not_tried(void **state) {
    (void)state;
    struct shape_trial t, one;
    shape_open(&t, 3);
    shape_open(&one, 1);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(shape_next(&t, SHAPE_LEAST_BYTES - 1), 0);
        assert_int_equal(shape_next(&one, MB), 0);
        assert_false(shape_tries(&t) || shape_tries(&one));
    }
}

static void a_verdict_can_be_looked_at_and_set(void **state) {
    static const uint64_t cost[] = {1000, 500, 2000};
    (void)state;
    struct shape_trial t;
    shape_open(&t, 3);
    run(&t, SHAPE_FIRST_CALLS + 3 * SHAPE_ROUNDS - 1, cost, 0);
    assert_false(shape_chosen(&t));
    run(&t, 1, cost, 0);
    assert_true(shape_chosen(&t));
    assert_int_equal(t.best, 1);
    shape_force(&t, 2);
    assert_int_equal(run(&t, 100000, cost, 0), 0);
    assert_int_equal(t.best, 2);
}

/* Each shape gets every place among the calls of a token, whatever their number. */
static void turns_do_not_keep_step_with_tokens(void **state) {
    (void)state;
    enum { CALLS = 5 };
    bool seen[CALLS][CALLS] = {{false}};
    struct shape_trial t;
    shape_open(&t, CALLS);
    for (unsigned i = 0; i < 40 * SHAPE_MOST_CALLS; i++) {
        bool timed = shape_tries(&t);
        uint32_t shape = shape_next(&t, MB);
        if (timed) {
            seen[i % CALLS][shape] = true;
            shape_took(&t, MB, 1000);
        }
    }
    for (int i = 0; i < CALLS * CALLS; i++) {
        assert_true(seen[i / CALLS][i % CALLS]);
    }
}

/* ---- the same bits -------------------------------------------------------------------------- */

enum { COLS = 1056, NEURONS = 256, CALLS = SHAPE_FIRST_CALLS + SHAPE_MOST * SHAPE_ROUNDS + 3 };

/* What a trial of `t` has come to after CALLS calls: a verdict. */
static void has_a_verdict(const struct shape_trial *t) {
    assert_int_equal(t->waiting, SHAPE_NEXT_CALLS);
}

static void same(const char *isa, const char *what, const float *got, const float *want, size_t n) {
    if (memcmp(got, want, n * sizeof *got) != 0) {
        fail_msg("%s: %s: another shape, other bits", isa, what);
    }
}

static void matmul_in_all_shapes(struct cpu *c, const char *isa, const struct codec *codec) {
    struct test_rng rng = {3};
    static const struct weight none = {0};
    struct weight w = kernels_weight(&rng, codec, KIND_NORMAL, 509, COLS, 0);
    float *x = kernels_vector(&rng, KIND_NORMAL, COLS), want[509], got[509];
    for (int i = 0; i < CALLS; i++) {
        cpu_matmul(c, &w, &none, x, 1, i ? got : want);
        same(isa, codec->name, i ? got : want, want, w.rows);
    }
    has_a_verdict(&c->shapes.matmul[codec->id]);
    test_guard_free(x, COLS * sizeof *x);
    kernels_free_weight(&w);
}

/* An expert as raw rows, or as chunks of 32 packed neurons; one use. */
static void experts_in_all_shapes(struct cpu *c, const char *isa, const struct codec *codec,
                                  bool packed) {
    struct test_rng rng = {4};
    enum { DIM = 1024, BLOCKS = NEURONS / FFN_BLOCK };
    struct weight w = kernels_weight(&rng, codec, KIND_NORMAL, 3 * NEURONS, DIM, 0);
    float *x = kernels_vector(&rng, KIND_NORMAL, DIM), want[DIM], got[DIM];
    struct ffn_chunk chunks[BLOCKS] = {{.data = w.data, .codec = codec, .n_neurons = NEURONS}};
    for (uint32_t i = 0; i < BLOCKS && packed; i++) {
        const size_t n = (size_t)FFN_BLOCK * 3 * DIM;
        uint8_t *data = mem_alloc_aligned(corm_exponents_bound(n));
        size_t bytes = corm_exponents_pack(w.data + i * n * 2, n, data);
        chunks[i] = (struct ffn_chunk){.data = data,
                                       .codec = codec,
                                       .n_neurons = FFN_BLOCK,
                                       .packed_bytes = (uint32_t)bytes,
                                       .first = i * FFN_BLOCK};
    }
    const uint32_t use = 0;
    const struct expert_layer layer = {.dim = DIM, .ffn_dim = NEURONS, .n_active = 1};
    const struct expert_job raw = {0,
                                   &(struct ffn_chunk){
                                       .data = w.data, .codec = codec, .n_neurons = NEURONS},
                                   1, &use, 1},
                            job = {0, chunks, packed ? BLOCKS : 1, &use, 1};
    for (int i = 0; i < CALLS; i++) {
        cpu_experts(c, &layer, i ? &job : &raw, 1, x, i ? got : want);
        same(isa, packed ? "packed experts" : codec->name, i ? got : want, want, DIM);
    }
    if (!packed) {
        has_a_verdict(&c->shapes.experts[codec->id]);
    } else if (c->exponents->rows_open) {
        has_a_verdict(&c->shapes.packed);
    }
    for (uint32_t i = 0; i < BLOCKS && packed; i++) {
        free((uint8_t *)(uintptr_t)chunks[i].data);
    }
    test_guard_free(x, DIM * sizeof *x);
    kernels_free_weight(&w);
}

static void attention_in_all_shapes(struct cpu *c, const char *isa, enum kv_type type) {
    enum { HEADS = 4, HEAD_DIM = 80, CONTEXT = 900 };
    struct test_rng rng = {5};
    const struct attention_rule rule = {
        .n_heads = HEADS, .n_kv_heads = HEADS, .head_dim = HEAD_DIM};
    static const struct weight none = {0};
    struct kv kv = {
        .type = type, .n_kv_heads = HEADS, .head_dim = HEAD_DIM, .capacity_tok = CONTEXT};
    float *x = kernels_vector(&rng, KIND_NORMAL, HEADS * HEAD_DIM), want[HEADS * HEAD_DIM],
          got[HEADS * HEAD_DIM];
    kv.k = mem_alloc_aligned(kv_bytes(&kv));
    kv.v = mem_alloc_aligned(kv_bytes(&kv));
    for (uint32_t pos = 0; pos < CONTEXT; pos++) {
        kernels_fill(&rng, KIND_NORMAL, got, HEADS * HEAD_DIM);
        cpu_kv_store(c, &kv, got, got, pos, 1);
    }
    for (int i = 0; i < CALLS; i++) {
        cpu_attention(c, &rule, &kv, &none, x, CONTEXT - 1, 1, i ? got : want);
        same(isa, "attention", i ? got : want, want, HEADS * HEAD_DIM);
    }
    has_a_verdict(&c->shapes.attention[type == KV_F16 ? CODEC_F16 : CODEC_F32]);
    test_guard_free(x, HEADS * HEAD_DIM * sizeof *x);
    free(kv.k);
    free(kv.v);
}

static void every_shape_gives_the_same_bits(void **state) {
    (void)state;
    const struct backend_limits limits = {.max_rows = 1,
                                          .max_cols = 2048,
                                          .max_in = 2048,
                                          .max_ffn = NEURONS,
                                          .max_active = 1,
                                          .max_experts = 1,
                                          .max_packed_bytes = 2 * FFN_BLOCK * 3 * 1024,
                                          .max_ctx_tok = 900,
                                          .n_heads = 4,
                                          .head_dim = 80};
    const char *isa;
    bool usable;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)); i++) {
        for (uint32_t threads = 1; threads <= 2 && usable; threads++) {
            struct cpu c = {0};
            struct err err = {0};
            const struct codec *codec;
            assert_int_equal(cpu_open(&c, isa, threads, &limits, &err), 0);
            for (size_t k = 0; (codec = codec_at(k)); k++) {
                matmul_in_all_shapes(&c, isa, codec);
                experts_in_all_shapes(&c, isa, codec, false);
            }
            experts_in_all_shapes(&c, isa, codec_by_id(CODEC_BF16), true);
            attention_in_all_shapes(&c, isa, KV_F16);
            attention_in_all_shapes(&c, isa, KV_F32);
            cpu_close(&c);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fastest_stays_and_is_looked_at_rarely),
        cmocka_unit_test(what_is_not_clearly_faster_changes_nothing),
        cmocka_unit_test(another_machine_gets_another_verdict),
        cmocka_unit_test(small_calls_and_single_shapes_are_not_tried),
        cmocka_unit_test(a_verdict_can_be_looked_at_and_set),
        cmocka_unit_test(turns_do_not_keep_step_with_tokens),
        cmocka_unit_test(every_shape_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
