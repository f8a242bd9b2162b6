/*
 * The architecture's tables: metadata round trip and refusals, kinds of layers, the rules between
 * fields, the tensor slots, counts of parameters.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/arch.h"
#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

/* ---- metadata ---- */

static void assert_same(const struct arch *a, const struct arch *b) {
    struct buf x = {0}, y = {0};
    arch_encode(a, &x);
    arch_encode(b, &y);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_free(&x);
    buf_free(&y);
}

static void assert_decodes(const struct arch *a) {
    struct arch b = {0};
    struct err err = {0};
    struct buf data = {0};
    arch_encode(a, &data);
    arch_decode(&b, data.data, data.len, &err);
    assert_no_err(&err);
    assert_same(a, &b);
    assert_string_equal(a->family, b.family);
    assert_int_equal(a->n_layers, b.n_layers);
    assert_int_equal(a->dim, b.dim);
    assert_int_equal(a->n_experts, b.n_experts);
    assert_int_equal(a->n_stop, b.n_stop);
    assert_true(a->norm_eps == b.norm_eps && a->gen_temperature == b.gen_temperature);
    assert_true(a->gen_top_p == b.gen_top_p && a->gen_top_k == b.gen_top_k);
    assert_true(a->embed_scale == b.embed_scale && a->logit_cap == b.logit_cap);
    assert_memory_equal(a->stop_ids, b.stop_ids, a->n_stop * sizeof *a->stop_ids);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        assert_memory_equal(arch_kind(a, l), arch_kind(&b, l), sizeof(struct layer_kind));
        assert_int_equal(arch_kv_layer(a, l), arch_kv_layer(&b, l));
    }
    assert_int_equal(a->n_ropes, b.n_ropes);
    for (uint32_t i = 0; i < a->n_ropes; i++) {
        struct rope_set x = arch_rope(a, i), y = arch_rope(&b, i);
        assert_true(x.dim == y.dim && x.scale == y.scale);
        assert_memory_equal(x.inv_freq, y.inv_freq, x.dim / 2 * sizeof(float));
    }
    buf_free(&data);
    arch_free(&b);
    arch_free(&b);
}

static void test_round_trip(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct arch a;
        struct err err = {0};
        archive_arch(&a, seed);
        arch_check(&a, &err);
        assert_no_err(&err);
        assert_decodes(&a);
        arch_free(&a);
    }
}

/* Decode a copy of exactly `size` bytes; -1 and a message, or an arch that passes its own check. */
static int decode(const void *data, size_t size, struct err *err) {
    void *copy = test_guard(size);
    memcpy(copy, data, size);
    struct arch a = {0};
    struct err again = {0};
    int rc = arch_decode(&a, copy, size, err);
    if (rc == 0) {
        assert_int_equal(arch_check(&a, &again), 0);
    } else {
        assert_err(err, "metadata");
    }
    arch_free(&a);
    test_guard_free(copy, size);
    return rc;
}

static struct buf encoded(uint64_t seed) {
    struct arch a;
    struct buf data = {0};
    archive_arch(&a, seed);
    arch_encode(&a, &data);
    arch_free(&a);
    return data;
}

static void test_damaged(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct buf data = encoded(seed);
        for (size_t n = 0; n < data.len; n++) {
            struct err err = {0};
            assert_int_equal(decode(data.data, n, &err), -1);
        }
        for (size_t bit = 0; bit < data.len * 8; bit++) {
            struct err err = {0};
            data.data[bit / 8] ^= (char)(1 << bit % 8);
            decode(data.data, data.len, &err);
            data.data[bit / 8] ^= (char)(1 << bit % 8);
        }
        buf_free(&data);
    }
}

/* Append an entry by hand and count it. */
static void add_entry(struct buf *b, const char *key, uint16_t type, uint32_t count,
                      const void *value, size_t value_bytes) {
    uint16_t key_bytes = (uint16_t)strlen(key);
    buf_append(b, &key_bytes, 2);
    buf_append(b, &type, 2);
    buf_append(b, &count, 4);
    buf_append(b, key, key_bytes);
    buf_append(b, value, value_bytes);
    b->data[0]++;
}

static void test_entries(void **state) {
    (void)state;
    static const uint32_t seven = 7;
    const struct {
        const char *key;
        uint16_t type;
        uint32_t count;
        const void *value;
        size_t value_bytes;
        const char *message; /* NULL: accepted */
    } rows[] = {
        {"info.note", 3, 5, "hello", 5, NULL},
        {"info.number", 1, 1, &seven, 4, NULL},
        {"infonote", 3, 5, "hello", 5, "unknown key 'infonote'"},
        {"new_thing", 1, 1, &seven, 4, "unknown key 'new_thing'"},
        {"dim", 1, 1, &seven, 4, "key 'dim' is given twice"},
        {"info.odd", 9, 1, &seven, 4, "unknown type 9"},
        {"info.long", 3, 6, "hello", 5, "does not fit"},
        {"info.huge", 1, UINT32_MAX, &seven, 4, "does not fit"},
        {"info.tail", 3, 2, "hello", 5, "after the last entry"},
        {"", 3, 5, "hello", 5, "has 0 bytes"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf data = encoded(1);
        struct err err = {0};
        add_entry(&data, rows[i].key, rows[i].type, rows[i].count, rows[i].value,
                  rows[i].value_bytes);
        assert_int_equal(decode(data.data, data.len, &err), rows[i].message ? -1 : 0);
        if (rows[i].message) {
            assert_err(&err, "metadata", rows[i].message);
        }
        buf_free(&data);
    }
}

/* Change the type or the count of a key that is there, or take it away. */
static void test_wrong_entries(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int at; /* byte before the key's name */
        char value;
        const char *message;
    } rows[] = {
        {"dim", -8 + 2, 2, "key 'dim' has type 2, expected 1"},
        {"norm_eps", -8 + 2, 1, "key 'norm_eps' has type 1, expected 2"},
        {"dim", 0, 'D', "unknown key 'Dim'"},
        {"tied", -4, 0, ""},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf data = encoded(1);
        char *key = memmem(data.data, data.len, rows[i].key, strlen(rows[i].key));
        assert_non_null(key);
        struct err err = {0};
        key[rows[i].at] = rows[i].value;
        assert_int_equal(decode(data.data, data.len, &err), -1);
        assert_err(&err, "metadata", rows[i].message);
        buf_free(&data);
    }
    struct err err = {0};
    assert_int_equal(decode((const char[4]){0}, 4, &err), -1);
    assert_err(&err, "key 'family' is missing");
}

/* ---- kinds ---- */

/* The entry of a key in the metadata: its count and where its values are. */
static const char *find_entry(const struct buf *data, const char *key, uint32_t *count) {
    size_t key_bytes = strlen(key);
    for (size_t at = 4; at < data->len;) {
        uint16_t head[2];
        memcpy(head, data->data + at, 4);
        memcpy(count, data->data + at + 4, 4);
        const char *name = data->data + at + 8, *value = name + head[0];
        if (head[0] == key_bytes && memcmp(name, key, key_bytes) == 0) {
            return value;
        }
        at += 8 + head[0] + (head[1] == 3 ? *count : (size_t)*count * 4);
    }
    return NULL;
}

static uint32_t count_of(const struct buf *data, const char *key) {
    uint32_t count = 0;
    return find_entry(data, key, &count) ? count : 0;
}

/* Five layers of attention with experts, all of one kind. */
static struct arch five_layers(void) {
    struct arch a;
    archive_moe_arch(&a, 5, 4, 8);
    return a;
}

/* Kinds of layers by `change(kind, layer)`. */
static void change_kinds(struct arch *a, void (*change)(struct layer_kind *k, uint32_t layer)) {
    struct layer_kind kinds[ARCH_MAX_LAYERS];
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = *arch_kind(a, l);
        change(&kinds[l], l);
    }
    arch_set_kinds(a, kinds);
}

static void window_in_turn(struct layer_kind *k, uint32_t layer) {
    k->att.window = layer % 2 ? 9 : 0;
}
static void sinks_in_some(struct layer_kind *k, uint32_t layer) {
    k->att.sinks = layer > 2;
}
static void window_and_sinks(struct layer_kind *k, uint32_t layer) {
    window_in_turn(k, layer);
    k->att.sinks = layer % 2;
}

/* Kinds are numbered as layers need them. A field is written once where all agree, else for each
 * kind; fields that tell old layers apart for each layer; `kind` only where it does not follow. */
static void test_kinds(void **state) {
    (void)state;
    static const struct {
        void (*change)(struct layer_kind *k, uint32_t layer);
        uint32_t n_kinds, kinds[5], kind_count, sinks_count;
    } rows[] = {
        {window_in_turn, 2, {0, 1, 0, 1, 0}, 0, 0},
        {sinks_in_some, 2, {0, 0, 0, 1, 1}, 5, 2},
        {window_and_sinks, 2, {0, 1, 0, 1, 0}, 0, 2},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct arch a = five_layers();
        struct buf data = {0};
        change_kinds(&a, rows[i].change);
        assert_int_equal(a.n_kinds, rows[i].n_kinds);
        assert_memory_equal(a.kind, rows[i].kinds, sizeof rows[i].kinds);
        arch_encode(&a, &data);
        assert_int_equal(count_of(&data, "kind"), rows[i].kind_count);
        assert_int_equal(count_of(&data, "sinks"), rows[i].sinks_count);
        assert_int_equal(count_of(&data, "n_heads"), 1);
        assert_int_equal(count_of(&data, "window"), 5);
        assert_int_equal(count_of(&data, "moe"), 5);
        assert_decodes(&a);
        buf_free(&data);
        arch_free(&a);
    }
}

/* What the first families do not need is not written, and what is not written has its default. */
static void test_defaults(void **state) {
    (void)state;
    static const char *const later[] = {
        "embed_scale",
        "logit_cap",
        "kv_layer",
        "post_norm",
        "dense_beside",
        "layer_scale",
        "mixer",
        "v_norm",
        "v_from_k",
        "attn_gate",
        "sinks",
        "rope",
        "attn_scale",
        "delta_k_heads",
        "delta_v_heads",
        "delta_k_dim",
        "delta_v_dim",
        "delta_conv",
        "route_input",
        "route_score",
        "route_groups",
        "route_factor",
        "route_eps",
        "route_scale",
        "ffn_act",
        "ffn_bias",
        "ffn_limit",
        "ffn_alpha",
        "kind",
        "route_logit_bias",
        "route_top_groups",
        "route_group_score",
        "route_selection_bias",
    };
    struct arch a = five_layers();
    struct buf data = {0};
    struct layer_kind plain = arch_plain_kind();
    arch_encode(&a, &data);
    for (size_t i = 0; i < TEST_COUNT(later); i++) {
        assert_int_equal(count_of(&data, later[i]), 0);
    }
    assert_true(plain.route.scale == 1.0f && plain.att.scale == 0.0f && plain.moe == 0);
    assert_memory_equal(&arch_kind(&a, 0)->ffn, &plain.ffn, sizeof plain.ffn);
    assert_memory_equal(&arch_kind(&a, 0)->block, &plain.block, sizeof plain.block);
    assert_int_equal(arch_kv_layer(&a, 3), 3);
    assert_true(attention_scale(&arch_kind(&a, 0)->att) == 1.0f / sqrtf(2.0f));
    buf_free(&data);
    arch_free(&a);
}

/* The first version's archive: its metadata is read, and written again to the byte. */
static void test_old_archive(void **state) {
    (void)state;
    struct err err = {0};
    struct corm c;
    struct arch tiny;
    corm_open(&c, "tests/golden/tiny-v1.corm", CORM_OPEN_SKIP_TRUNK_HASH, &err);
    assert_no_err(&err);
    archive_tiny_arch(&tiny);
    assert_same(&c.arch, &tiny);
    struct buf data = {0};
    arch_encode(&c.arch, &data);
    size_t size;
    uint8_t *file = archive_load("tests/golden/tiny-v1.corm", &size);
    assert_memory_equal(file + 4096, data.data, data.len);
    free(file);
    buf_free(&data);
    arch_free(&tiny);
    corm_close(&c);
}

/* Metadata whose kinds contradict each other, or the number of layers. */
static void test_wrong_kinds(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t index, value;
        const char *message;
    } rows[] = {
        {"kind", 0, 64, "layer 0 is of kind 64"},
        {"kind", 0, 2, "key 'sinks' has 2 values, expected 3"},
        {"window", 0, 5, "window[1] = 0, but layers of kind 0 have 5"},
        {"moe", 2, 0, "moe[2] = 0, but layers of kind 0 have 1"},
        {"sinks", 1, 2, "sinks[1] = 2 is outside 0 .. 1"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct arch a = five_layers();
        struct buf data = {0};
        struct err err = {0};
        uint32_t count;
        change_kinds(&a, sinks_in_some);
        arch_encode(&a, &data);
        const char *value = find_entry(&data, rows[i].key, &count);
        assert_non_null(value);
        memcpy(data.data + (value - data.data) + (size_t)rows[i].index * 4, &rows[i].value, 4);
        assert_int_equal(decode(data.data, data.len, &err), -1);
        assert_err(&err, "metadata", rows[i].message);
        buf_free(&data);
        arch_free(&a);
    }
}

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
SPOIL(qk_norm_three, k->att.qk_norm = 3)
SPOIL(top_p_two, a->gen_top_p = 2.0f)
SPOIL(huge, (a->dim = 1 << 17, a->ffn_dim = 1 << 20, a->n_experts = 4096))
SPOIL(many_stops, a->n_stop = 1025)
SPOIL(active_65, a->n_active = 65)
SPOIL(no_kinds, a->n_kinds = 0)
SPOIL(kind_high, a->kind[1] = 2)
SPOIL(rope_high, k->att.rope = 1)
SPOIL(raw_values, k->att.v_from_k = 1)
SPOIL(mixer_two, k->mixer = 2)
SPOIL(delta_empty, k->mixer = MIXER_DELTA_NET)
SPOIL(delta_heads, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 3, 4, 4, 4}))
SPOIL(delta_conv, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 4, 4, 4, 0}))
SPOIL(delta_long, (k->mixer = MIXER_DELTA_NET, k->delta = (struct delta_rule){2, 4, 4, 4, 17}))
SPOIL(groups_three, (k->route.groups = 3, k->route.top_groups = 1))
SPOIL(groups_top, (k->route.groups = 2, k->route.top_groups = 3))
SPOIL(scale_zero, k->route.scale = 0)
SPOIL(beside_gate, k->block.dense_beside = 1)
SPOIL(no_limit, k->ffn.act = FFN_SWIGLU_OAI)
SPOIL(act_three, k->ffn.act = 3)
SPOIL(scale_embed, a->embed_scale = 0)

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
    {qk_norm_three, "qk_norm[1] = 3"},
    {top_p_two, "gen_top_p = 2"},
    {huge, "2^47"},
    {many_stops, "stop_ids: 1025 ids"},
    {active_65, "n_active = 65"},
    {no_kinds, "0 kinds"},
    {kind_high, "kind[1] = 2"},
    {rope_high, "rope = 1, but rope_dim has 1 values"},
    {raw_values, "v_from_k = 1 needs v_norm"},
    {mixer_two, "mixer[1] = 2"},
    {delta_empty, "delta_v_heads = 0"},
    {delta_heads, "delta_v_heads = 3 is not a multiple of delta_k_heads = 2"},
    {delta_conv, "delta_conv = 0"},
    {delta_long, "delta_conv[1] = 17"},
    {groups_three, "route_groups = 3"},
    {groups_top, "route_top_groups = 3"},
    {scale_zero, "route_scale[1] = 0"},
    {beside_gate, "dense_beside = 1"},
    {no_limit, "ffn_act = 2 needs ffn_limit"},
    {act_three, "ffn_act[1] = 3"},
    {scale_embed, "embed_scale = 0"},
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
        struct arch a = five_layers();
        struct err err = {0};
        change_kinds(&a, window_in_turn);
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
            assert_decodes(&a);
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

/* The embedding counts once, a token uses n_active experts with their biases, and the number that a
 * layer is multiplied by is no parameter. */
static void test_params(void **state) {
    (void)state;
    struct arch a = five_layers();
    uint64_t expert = 3 * (uint64_t)a.ffn_dim * a.dim, all = arch_params(&a);
    assert_int_equal(arch_params_active(&a), all - 5 * (4 - a.n_active) * expert);
    assert_int_equal(arch_params_embedding(&a), a.vocab * a.dim);
    a.tied = 0;
    assert_int_equal(arch_params(&a), all + a.vocab * a.dim);
    a.tied = 1;
    a.kinds[0].block.layer_scale = 1;
    assert_int_equal(arch_params(&a), all);
    a.kinds[0].ffn.bias = 1;
    uint64_t bias = 2 * a.ffn_dim + a.dim;
    assert_int_equal(arch_params(&a), all + 5 * 4 * bias);
    assert_int_equal(arch_params_active(&a),
                     all + 5 * 4 * bias - 5 * (4 - a.n_active) * (expert + bias));
    arch_free(&a);
}

/* ---- description ---- */

static void collect(void *ctx, const char *key, const char *value) {
    buf_printf(ctx, "%s=%s\n", key, value);
}

static void sinks_and_dense(struct layer_kind *k, uint32_t layer) {
    k->moe = layer > 0;
    k->dense_dim = 40;
    k->att.sinks = layer > 3;
}

static void test_describe(void **state) {
    (void)state;
    struct arch a = five_layers();
    struct buf text = {0};
    change_kinds(&a, sinks_and_dense);
    arch_describe(&a, collect, &text);
    assert_non_null(strstr(text.data, "family=tiny\n"));
    assert_non_null(strstr(text.data, "n_layers=5\n"));
    assert_non_null(strstr(text.data, "moe=0, 1 x 4\n"));
    assert_non_null(strstr(text.data, "window=0 x 5\n"));
    assert_non_null(strstr(text.data, "norm_eps=9.53674316e-07\n"));
    assert_non_null(strstr(text.data, "sinks=0 x 2, 1\n"));
    assert_non_null(strstr(text.data, "kind=0, 1 x 3, 2\n"));
    assert_null(strstr(text.data, "gen_top_p"));
    assert_null(strstr(text.data, "post_norm"));
    buf_free(&text);
    arch_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_entries),     cmocka_unit_test(test_wrong_entries),
        cmocka_unit_test(test_kinds),       cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_old_archive), cmocka_unit_test(test_wrong_kinds),
        cmocka_unit_test(test_rules),       cmocka_unit_test(test_kv_layers),
        cmocka_unit_test(test_slots),       cmocka_unit_test(test_slot_shapes),
        cmocka_unit_test(test_params),      cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests_name("arch", tests, NULL, NULL);
}
