/*
 * arch_meta: metadata round trip and refusals, kinds of layers, what people read.
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
    assert_true(a->logit_scale == b.logit_scale);
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
        struct arch a = archive_five_layers();
        struct buf data = {0};
        archive_change_kinds(&a, rows[i].change);
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
        "logit_scale",
        "kv_layer",
        "post_norm",
        "dense_beside",
        "layer_scale",
        "branch_scale",
        "mixer",
        "qk_norm_late",
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
        "latent_heads",
        "latent_q_rank",
        "latent_rank",
        "latent_nope_dim",
        "latent_rope_dim",
        "latent_v_dim",
        "latent_rope",
        "latent_eps",
        "latent_scale",
        "latent_query_beta",
        "latent_query_tok",
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
        "norm",
        "head_bias",
        "parallel",
        "chunk",
        "attn_temper",
        "attn_temper_tok",
        "route_by_logits",
        "route_on_input",
        "route_logit_cap",
        "shared_scale",
        "shared_limit",
        "ctx_limit_tok",
        "v_head_dim",
        "v_scale",
    };
    struct arch a = archive_five_layers();
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
        struct arch a = archive_five_layers();
        struct buf data = {0};
        struct err err = {0};
        uint32_t count;
        archive_change_kinds(&a, sinks_in_some);
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
    struct arch a = archive_five_layers();
    struct buf text = {0};
    archive_change_kinds(&a, sinks_and_dense);
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
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests_name("arch_meta", tests, NULL, NULL);
}
