/*
 * arch: the rules between fields, whose keys a layer reads, the tensor slots, counts of parameters.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/arch.h"
#include "tests/util/test_util_archive.h"

/* ---- rules ---- */

/* Two layers, the second with experts; `k` is the second's kind. */
static struct arch two_layers(void) {
    struct arch a = {.family = mem_strdup("rules"),
                     .n_layers = 2,
                     .dim = 64,
                     .vocab = 99,
                     .ctx_max_tok = 9,
                     .norm_eps = 1e-5f,
                     .embed_scale = 1.0f,
                     .n_experts = 4,
                     .n_active = 2,
                     .ffn_dim = 48,
                     .n_stop = 1,
                     .stop_ids = mem_calloc(2000, 4)};
    struct layer_kind k = arch_plain_kind(), kinds[2];
    const float inv_freq[4] = {0};
    k.att.n_heads = 4;
    k.att.n_kv_heads = 2;
    k.att.head_dim = 16;
    k.dense_dim = 80;
    k.shared_dim = 20;
    k.shared_gate = 1;
    kinds[0] = kinds[1] = k;
    kinds[1].moe = 1;
    arch_set_kinds(&a, kinds);
    arch_add_rope(&a, 8, inv_freq, 1.0f);
    return a;
}

/* What one rule refuses: `spoil` makes it so. */
#define SPOIL(name, statement)                                                                     \
    static void name(struct arch *a, struct layer_kind *k) {                                       \
        (void)a;                                                                                   \
        (void)k;                                                                                   \
        statement;                                                                                 \
    }
SPOIL(no_layers, a->n_layers = 0)
SPOIL(many_layers, a->n_layers = 1025)
SPOIL(wide, a->dim = 131073)
SPOIL(odd_groups, (k->att.n_heads = 6, k->att.n_kv_heads = 4))
SPOIL(odd_head, k->att.head_dim = 7)
SPOIL(odd_rope, a->rope_dim[0] = 3)
SPOIL(long_rope, a->rope_dim[0] = 18)
SPOIL(eps_zero, a->norm_eps = 0.0f)
SPOIL(eps_nan, a->norm_eps = NAN)
SPOIL(clip_inf, k->att.clip_qkv = INFINITY)
SPOIL(freq_nan, a->rope_inv_freq[0] = NAN)
SPOIL(freq_missing, (free(a->rope_inv_freq), a->rope_inv_freq = NULL))
SPOIL(freq_few, a->n_inv_freq = 3)
SPOIL(moe_two, k->moe = 2)
SPOIL(window_huge, k->att.window = UINT32_MAX)
SPOIL(no_experts, a->n_experts = 0)
SPOIL(many_active, a->n_active = 5)
SPOIL(no_ffn, a->ffn_dim = 0)
SPOIL(no_dense, a->kinds[0].dense_dim = 0)
SPOIL(no_shared, k->shared_dim = 0)
SPOIL(stop_high, a->stop_ids[0] = 99)
SPOIL(no_name, a->family[0] = '\0')
SPOIL(qk_norm_four, k->att.qk_norm = 4)
SPOIL(qk_norm_later, k->att.qk_norm_late = 2)
SPOIL(renorm_three, k->route.renorm = 3)
SPOIL(top_p_two, a->gen_top_p = 2.0f)
SPOIL(huge, (a->dim = 1 << 17, a->ffn_dim = 1 << 20, a->n_experts = 4096))
SPOIL(many_stops, a->n_stop = 1025)
SPOIL(active_65, a->n_active = 65)
SPOIL(no_kinds, a->n_kinds = 0)
SPOIL(kind_high, a->kind[1] = 2)
SPOIL(rope_high, k->att.rope = 1)
SPOIL(raw_values, k->att.v_from_k = 1)
SPOIL(other_values, (k->att.v_from_k = k->att.v_norm = 1, k->att.v_dim = 6))
SPOIL(mixer_high, k->mixer = MIXER_COUNT)
SPOIL(delta_empty, k->mixer = MIXER_DELTA_NET)
SPOIL(delta_heads, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 3, 4, 4, 4}))
SPOIL(delta_conv, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 4, 4, 4, 0}))
SPOIL(delta_long, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 4, 4, 4, 17}))
SPOIL(latent_empty, k->mixer = MIXER_LATENT)
static const struct latent_rule latent = {
    .n_heads = 2, .rank = 8, .nope_dim = 6, .rope_dim = 8, .v_dim = 4};
SPOIL(latent_rope, (k->mixer = MIXER_LATENT, k->latent = latent, k->latent.rope = 1))
SPOIL(latent_short, (k->mixer = MIXER_LATENT, k->latent = latent, k->latent.rope_dim = 7))
SPOIL(latent_query, (k->mixer = MIXER_LATENT, k->latent = latent, k->latent.query_beta = 0.5f))
SPOIL(latent_wide, (k->mixer = MIXER_LATENT, k->latent = latent, k->latent.rank = 4097))
SPOIL(groups_three, (k->route.groups = 3, k->route.top_groups = 1))
SPOIL(groups_top, (k->route.groups = 2, k->route.top_groups = 3))
SPOIL(scale_zero, k->route.scale = 0)
SPOIL(beside_gate, k->block.dense_beside = 1)
SPOIL(no_limit, k->ffn.act = FFN_SWIGLU_OAI)
SPOIL(act_five, k->ffn.act = 5)
SPOIL(norm_three, a->norm = 3)
SPOIL(gate_five, k->att.gate = 5)
SPOIL(post_norm_four, k->block.post_norm = 4)
SPOIL(chunk_in_window, (k->att.window = 8, k->att.chunk = 16))
SPOIL(no_temper_tok, k->att.temper = 0.5f)
SPOIL(two_inputs, k->route.on_input = 1)
SPOIL(bare_input, (a->n_active = 1, k->route.on_input = 1, k->block.post_norm = 2))
SPOIL(parallel_bare, (k->block.parallel = 1, k->block.post_norm = 2))
SPOIL(parallel_router, (k->block.parallel = 1, k->route.input = ROUTE_OWN_NORM))
SPOIL(mixed_sum, (k->route.score = ROUTE_SPARSE_MIXER, k->route.renorm = 1))
SPOIL(scale_embed, a->embed_scale = 0)

/* Long forms of its only set, which the other rules spoil. */
static void add_long(struct arch *a) {
    const float inv_freq[4] = {0.5f, 0.25f, 0.125f, 0};
    arch_add_long_rope(a, 0, 64, inv_freq, 1.5f);
}
SPOIL(long_few, (add_long(a), a->n_long_inv_freq = 3))
SPOIL(long_missing, (add_long(a), a->n_long_inv_freq = 0))
SPOIL(long_alone, (add_long(a), a->n_rope_long = 0))
static void long_many(struct arch *a, struct layer_kind *k) {
    (void)k;
    add_long(a);
    a->n_rope_long = 2;
    a->rope_long_tok = mem_realloc(a->rope_long_tok, 2 * sizeof *a->rope_long_tok);
    a->rope_long_scale = mem_realloc(a->rope_long_scale, 2 * sizeof *a->rope_long_scale);
    a->rope_long_tok[1] = 0;
    a->rope_long_scale[1] = 1;
}
SPOIL(long_scale, (add_long(a), a->rope_long_scale[0] = 0))
SPOIL(long_nan, (add_long(a), a->rope_long_inv_freq[2] = NAN))
SPOIL(long_far, (add_long(a), a->rope_long_tok[0] = UINT32_MAX))

static const struct rule_row {
    void (*spoil)(struct arch *a, struct layer_kind *k);
    const char *message;
} rules[] = {
    {no_layers, "n_layers = 0"},
    {many_layers, "n_layers = 1025"},
    {wide, "dim = 131073"},
    {odd_groups, "n_heads = 6 is not a multiple of n_kv_heads = 4"},
    {odd_head, "head_dim = 7 is odd"},
    {odd_rope, "rope_dim = 3"},
    {long_rope, "rope_dim = 18"},
    {eps_zero, "norm_eps = 0"},
    {eps_nan, "norm_eps = nan"},
    {clip_inf, "clip_qkv[1] = inf"},
    {freq_nan, "rope_inv_freq[0] = nan"},
    {freq_missing, "rope_inv_freq: missing"},
    {freq_few, "rope_inv_freq has 3 values, expected 4"},
    {moe_two, "moe[1] = 2"},
    {window_huge, "window[1] = 4294967295"},
    {no_experts, "n_experts = 0"},
    {many_active, "n_active = 5 is above n_experts = 4"},
    {no_ffn, "ffn_dim = 0"},
    {no_dense, "dense_dim = 0"},
    {no_shared, "shared_dim = 0"},
    {stop_high, "stop_ids[0] = 99"},
    {no_name, "family: a name of 1"},
    {qk_norm_four, "qk_norm[1] = 4"},
    {qk_norm_later, "qk_norm_late[1] = 2"},
    {renorm_three, "norm_topk[1] = 3"},
    {top_p_two, "gen_top_p = 2"},
    {huge, "2^47"},
    {many_stops, "stop_ids: 1025 ids"},
    {active_65, "n_active = 65"},
    {no_kinds, "0 kinds"},
    {kind_high, "kind[1] = 2"},
    {rope_high, "rope = 1, but rope_dim has 1 values"},
    {raw_values, "v_from_k = 1 needs v_norm"},
    {other_values, "v_from_k = 1 needs v_head_dim = head_dim = "},
    {mixer_high, "mixer[1] = "},
    {delta_empty, "delta_v_heads = 0"},
    {delta_heads, "delta_v_heads = 3 is not a multiple of delta_k_heads = 2"},
    {delta_conv, "delta_conv = 0"},
    {latent_empty, "latent_heads = 0"},
    {latent_rope, "latent_rope = 1, but rope_dim has 1 values"},
    {latent_short, "at most latent_rope_dim = 7"},
    {latent_query, "latent_query_beta = 0.5 needs latent_query_tok"},
    {latent_wide, "latent_rank[1] = 4097"},
    {delta_long, "delta_conv[1] = 17"},
    {groups_three, "route_groups = 3"},
    {groups_top, "route_top_groups = 3"},
    {scale_zero, "route_scale[1] = 0"},
    {beside_gate, "dense_beside = 1"},
    {no_limit, "ffn_act = 2 needs ffn_limit"},
    {act_five, "ffn_act[1] = 5"},
    {norm_three, "norm = 3"},
    {gate_five, "attn_gate[1] = 5"},
    {post_norm_four, "post_norm[1] = 4"},
    {chunk_in_window, "chunk = 16: at most one of them"},
    {no_temper_tok, "attn_temper = 0.5 needs attn_temper_tok"},
    {two_inputs, "route_on_input = 1 needs n_active = 1"},
    {bare_input, "route_on_input = 1 needs a norm"},
    {parallel_bare, "parallel = 1 needs a norm"},
    {parallel_router, "parallel = 1 needs a route_input other than 1"},
    {mixed_sum, "route_score = 3 needs norm_topk = 0, got 1"},
    {scale_embed, "embed_scale = 0"},
    {long_few, "rope_long_inv_freq has 3 values, expected 4"},
    {long_missing, "rope_long_inv_freq has 0 values, expected 4"},
    {long_alone, "rope_long_inv_freq has 4 values, expected 0"},
    {long_many, "rope_long_tok has 2 values, expected none or 1"},
    {long_scale, "rope_long_scale[0] = 0"},
    {long_nan, "rope_long_inv_freq[2] = nan"},
    {long_far, "rope_long_tok[0] = 4294967295"},
};

static void test_rules(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rules); i++) {
        struct arch a = two_layers();
        struct err err = {0};
        arch_check(&a, &err);
        assert_no_err(&err);
        rules[i].spoil(&a, &a.kinds[1]);
        assert_int_equal(arch_check(&a, &err), -1);
        assert_err(&err, rules[i].message);
        arch_free(&a);
    }
}

/* Sets with and without long forms, in whatever order they are added; and which one turns a
 * context. */
static void test_long_ropes(void **state) {
    (void)state;
    const float second[2] = {1, 0.5f}, second_long[2] = {1, 0.25f}, third[1] = {2};
    struct err err = {0};
    struct arch a = two_layers();
    uint32_t plain_freqs = a.n_inv_freq;
    arch_add_rope(&a, 4, second, 1.25f);
    arch_add_long_rope(&a, 1, 100, second_long, 1.5f);
    arch_add_rope(&a, 2, third, 1);
    assert_int_equal(arch_check(&a, &err), 0);
    assert_int_equal(a.n_rope_long, 3);
    assert_int_equal(a.n_long_inv_freq, plain_freqs + 3);
    static const struct {
        uint32_t tok;
        float freq, scale;
    } contexts[] = {{1, 0.5f, 1.25f}, {100, 0.5f, 1.25f}, {101, 0.25f, 1.5f}, {5000, 0.25f, 1.5f}};
    for (size_t i = 0; i < TEST_COUNT(contexts); i++) {
        arch_settle_ropes(&a, contexts[i].tok);
        struct rope_set set = arch_rope(&a, 1), last = arch_rope(&a, 2), first = arch_rope(&a, 0);
        assert_true(set.inv_freq[1] == contexts[i].freq && set.scale == contexts[i].scale);
        assert_true(first.scale == 1 && last.scale == 1 && last.inv_freq[0] == 2);
    }
    arch_free(&a);
}

static void window_in_turn(struct layer_kind *k, uint32_t layer) {
    k->att.window = layer % 2 ? 9 : 0;
}

/* Whose keys and values a layer reads: its own, or those of an earlier layer like it. */
static void test_kv_layers(void **state) {
    (void)state;
    static const struct {
        uint32_t n, from[5];
        const char *message; /* NULL: accepted */
    } rows[] = {
        {5, {0, 1, 2, 1, 0}, NULL},
        {5, {0, 1, 2, 3, 4}, NULL},
        {5, {0, 1, 2, 2, 0}, "kv_layer[3] = 2"}, /* another window */
        {5, {2, 1, 2, 1, 0}, "kv_layer[0] = 2"}, /* later */
        {5, {0, 1, 2, 1, 3}, "kv_layer[4] = 3"}, /* not of its own */
        {5, {0, 1, 2, 1, 9}, "kv_layer[4] = 9"},
        {4, {0, 1, 2, 1}, "kv_layer: 4 values"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct arch a = archive_five_layers();
        struct err err = {0};
        archive_change_kinds(&a, window_in_turn);
        a.n_kv_layer = rows[i].n;
        a.kv_layer = mem_calloc(5, sizeof *a.kv_layer);
        memcpy(a.kv_layer, rows[i].from, sizeof rows[i].from);
        assert_int_equal(arch_check(&a, &err), rows[i].message ? -1 : 0);
        if (rows[i].message) {
            assert_err(&err, rows[i].message);
        } else {
            for (uint32_t l = 0; l < 5; l++) { /* no keys, values and their norm of its own */
                bool own = a.kv_layer[l] == l;
                assert_int_equal(slot_present(slot_at(SLOT_K), &a, l), own);
                assert_int_equal(slot_present(slot_at(SLOT_V), &a, l), own);
                assert_true(slot_present(slot_at(SLOT_Q), &a, l));
            }
        }
        arch_free(&a);
    }
}

/* ---- slots ---- */

static void test_slots(void **state) {
    (void)state;
    for (uint32_t id = 0; id < SLOT_COUNT; id++) {
        assert_int_equal(slot_at((enum slot_id)id)->id, id);
        assert_non_null(slot_at((enum slot_id)id)->name);
    }
    for (uint64_t seed = 0; seed < 80; seed++) {
        struct arch a;
        archive_arch(&a, seed);
        uint32_t walked = 0, wanted = 0;
        struct slot_place p = {0}, last = {0};
        while (slot_next(&a, &p)) {
            const struct slot *s = slot_at(p.slot);
            assert_int_equal(s->scope == SLOT_OF_MODEL, p.layer == SLOT_LAYER_NONE);
            assert_true(s->scope != SLOT_OF_EXPERT && slot_present(s, &a, p.layer));
            assert_true(s->cols(&a, p.layer) > 0);
            if (last.started) { /* strictly later in (layer, slot), model scope first */
                assert_true(p.layer + 1 > last.layer + 1 ||
                            (p.layer == last.layer && p.slot > last.slot));
            }
            last = p;
            walked++;
        }
        assert_false(slot_next(&a, &p));
        for (uint32_t id = 0; id < SLOT_COUNT; id++) {
            const struct slot *s = slot_at((enum slot_id)id);
            for (uint32_t l = 0; l < (s->scope == SLOT_OF_MODEL ? 1 : a.n_layers); l++) {
                wanted += s->scope != SLOT_OF_EXPERT && slot_present(s, &a, l);
            }
        }
        assert_int_equal(walked, wanted);
        arch_free(&a);
    }
}

static void test_latent_shapes(void **state) {
    (void)state;
    static const struct {
        enum slot_id slot;
        uint32_t rows, cols, rows_alone, cols_alone; /* alone: queries have no rank */
    } rows[] = {
        {SLOT_Q, 0, 0, 0, 0},
        {SLOT_O, 0, 0, 0, 0},
        {SLOT_LATENT_Q_A, 24, 64, 0, 64},
        {SLOT_LATENT_Q_NORM, 1, 24, 0, 24},
        {SLOT_LATENT_Q_NOPE, 3 * 6, 24, 3 * 6, 64},
        {SLOT_LATENT_Q_ROPE, 3 * 8, 24, 3 * 8, 64},
        {SLOT_LATENT_KV, 16, 64, 16, 64},
        {SLOT_LATENT_KV_NORM, 1, 16, 1, 16},
        {SLOT_LATENT_K_ROPE, 8, 64, 8, 64},
        {SLOT_LATENT_K_UP, 3 * 16, 6, 3 * 16, 6},
        {SLOT_LATENT_V_UP, 3 * 4, 16, 3 * 4, 16},
        {SLOT_LATENT_OUT, 64, 3 * 4, 64, 3 * 4},
    };
    struct arch a = two_layers();
    struct layer_kind *k = &a.kinds[1];
    k->mixer = MIXER_LATENT;
    k->latent = (struct latent_rule){
        .n_heads = 3, .q_rank = 24, .rank = 16, .nope_dim = 6, .rope_dim = 8, .v_dim = 4};
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct slot *s = slot_at(rows[i].slot);
        k->latent.q_rank = 24;
        assert_int_equal(s->rows(&a, 1), rows[i].rows);
        assert_true(rows[i].rows == 0 || s->cols(&a, 1) == rows[i].cols);
        assert_int_equal(s->rows(&a, 0) > 0, rows[i].rows == 0);
        k->latent.q_rank = 0;
        assert_int_equal(s->rows(&a, 1), rows[i].rows_alone);
        assert_true(rows[i].rows_alone == 0 || s->cols(&a, 1) == rows[i].cols_alone);
    }
    assert_int_equal(latent_key_dim(&k->latent), 24);
    arch_free(&a);
}

/* The factor on scores by the position of the query. */
static void test_latent_scale(void **state) {
    (void)state;
    struct latent_rule r = {.nope_dim = 60, .rope_dim = 4};
    assert_true(latent_scale(&r, 0) == 0.125f && latent_scale(&r, 99) == 0.125f);
    r.scale = 0.5f;
    r.query_beta = 0.25f;
    r.query_tok = 10;
    assert_true(latent_scale(&r, 9) == 0.5f);
    assert_true(latent_scale(&r, 10) == 0.5f * (1 + 0.25f * logf(2)));
    assert_true(latent_scale(&r, 99) == 0.5f * (1 + 0.25f * logf(10)));
}

/* Slots of layers of each kind of mixer, and of the parts of a layer with experts. */
static void test_slot_shapes(void **state) {
    (void)state;
    struct arch a = two_layers();
    struct layer_kind *k = &a.kinds[1];
    k->mixer = MIXER_DELTA_NET;
    k->att = (struct attention_rule){0};
    k->delta = (struct delta_rule){2, 6, 8, 16, 4};
    k->ffn.bias = 1;
    k->route.input = ROUTE_OWN_NORM;
    k->route.logit_bias = k->route.selection_bias = k->route.factor = 1;
    k->block = (struct block_rule){1, 0, 1};
    static const struct {
        enum slot_id slot;
        uint32_t layer, rows, cols;
    } rows[] = {
        {SLOT_Q, 0, 64, 64},
        {SLOT_K, 0, 32, 64},
        {SLOT_Q, 1, 0, 0},
        {SLOT_K, 1, 0, 0},
        {SLOT_V, 1, 0, 0},
        {SLOT_O, 1, 0, 0},
        {SLOT_DELTA_QKV, 0, 0, 0},
        {SLOT_DELTA_QKV, 1, 2 * 2 * 8 + 6 * 16, 64},
        {SLOT_DELTA_Z, 1, 96, 64},
        {SLOT_DELTA_B, 1, 6, 64},
        {SLOT_DELTA_A, 1, 6, 64},
        {SLOT_DELTA_CONV, 1, 128, 4},
        {SLOT_DELTA_RATE, 1, 1, 6},
        {SLOT_DELTA_DT_BIAS, 1, 1, 6},
        {SLOT_DELTA_NORM, 1, 1, 16},
        {SLOT_DELTA_OUT, 1, 64, 96},
        {SLOT_EXPERT_GATE_BIAS, 1, 4, 48},
        {SLOT_EXPERT_UP_BIAS, 1, 4, 48},
        {SLOT_EXPERT_DOWN_BIAS, 1, 4, 64},
        {SLOT_EXPERT_GATE_BIAS, 0, 0, 0},
        {SLOT_ROUTER_NORM, 1, 1, 64},
        {SLOT_ROUTER_BIAS, 1, 1, 4},
        {SLOT_ROUTER_SELECT, 1, 1, 4},
        {SLOT_ROUTER_FACTOR, 1, 1, 4},
        {SLOT_ATTN_POST_NORM, 1, 1, 64},
        {SLOT_FFN_POST_NORM, 1, 1, 64},
        {SLOT_FFN_POST_NORM, 0, 0, 0},
        {SLOT_MLP_NORM, 1, 0, 0},
        {SLOT_LAYER_SCALE, 1, 1, 1},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct slot *s = slot_at(rows[i].slot);
        assert_int_equal(s->rows(&a, rows[i].layer), rows[i].rows);
        if (rows[i].rows > 0) {
            assert_int_equal(s->cols(&a, rows[i].layer), rows[i].cols);
        }
    }
    arch_free(&a);
}

/* The embedding counts once, a token uses n_active experts with their biases, and what nothing
 * learns is no parameter. */
static void test_params(void **state) {
    (void)state;
    struct arch a = archive_five_layers();
    uint64_t expert = 3 * (uint64_t)a.ffn_dim * a.dim, all = arch_params(&a);
    assert_int_equal(arch_params_active(&a), all - 5 * (4 - a.n_active) * expert);
    assert_int_equal(arch_params_embedding(&a), a.vocab * a.dim);
    a.tied = 0;
    assert_int_equal(arch_params(&a), all + a.vocab * a.dim);
    a.tied = 1;
    a.kinds[0].block.layer_scale = 1;
    a.kinds[0].route.selection_bias = 1;
    assert_int_equal(arch_params(&a), all);
    a.kinds[0].ffn.bias = 1;
    uint64_t bias = 2 * a.ffn_dim + a.dim;
    assert_int_equal(arch_params(&a), all + 5 * 4 * bias);
    assert_int_equal(arch_params_active(&a),
                     all + 5 * 4 * bias - 5 * (4 - a.n_active) * (expert + bias));
    arch_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),        cmocka_unit_test(test_long_ropes),
        cmocka_unit_test(test_kv_layers),    cmocka_unit_test(test_slots),
        cmocka_unit_test(test_slot_shapes),  cmocka_unit_test(test_latent_shapes),
        cmocka_unit_test(test_latent_scale), cmocka_unit_test(test_params),
    };
    return cmocka_run_group_tests_name("arch", tests, NULL, NULL);
}
