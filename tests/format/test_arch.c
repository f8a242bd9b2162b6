/*
 * The architecture's tables: metadata round trip and refusals, the rules between fields, the tensor
 * slots, and the parameter counts of published models.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/arch.h"
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

static void test_round_trip(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct arch a, b = {0};
        struct err err = {0};
        archive_arch(&a, seed);
        assert_int_equal(arch_check(&a, &err), 0);
        struct buf data = {0};
        arch_encode(&a, &data);
        arch_decode(&b, data.data, data.len, &err);
        assert_no_err(&err);
        assert_same(&a, &b);
        assert_string_equal(a.family, b.family);
        assert_int_equal(a.n_layers, b.n_layers);
        assert_int_equal(a.dim, b.dim);
        assert_int_equal(a.n_experts, b.n_experts);
        assert_int_equal(a.n_stop, b.n_stop);
        assert_true(a.norm_eps == b.norm_eps && a.gen_temperature == b.gen_temperature);
        assert_true(a.gen_top_p == b.gen_top_p && a.gen_top_k == b.gen_top_k);
        assert_memory_equal(a.moe, b.moe, a.n_layers * sizeof *a.moe);
        assert_memory_equal(a.window, b.window, a.n_layers * sizeof *a.window);
        assert_memory_equal(a.rope_inv_freq, b.rope_inv_freq, a.rope_dim / 2 * sizeof(float));
        assert_memory_equal(a.stop_ids, b.stop_ids, a.n_stop * sizeof *a.stop_ids);
        buf_free(&data);
        arch_free(&a);
        arch_free(&b);
        arch_free(&b);
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
    for (uint64_t seed = 0; seed < 4; seed++) {
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

/* ---- rules ---- */

static void test_rules(void **state) {
    (void)state;
    static const char *const messages[] = {
        "n_layers = 0",
        "n_layers = 1025",
        "dim = 131073",
        "n_heads = 6 is not a multiple of n_kv_heads = 4",
        "head_dim = 7 is odd",
        "rope_dim = 3",
        "rope_dim = 18",
        "norm_eps = 0",
        "norm_eps = nan",
        "clip_qkv = inf",
        "rope_inv_freq[0] = nan",
        "rope_inv_freq: missing",
        "moe[1] = 2",
        "window[0] = 4294967295",
        "n_experts = 0",
        "n_active = 5 is above n_experts = 4",
        "ffn_dim = 0",
        "dense_dim = 0",
        "shared_dim = 0",
        "stop_ids[0] = 99",
        "family: a name of 1",
        "qk_norm = 3",
        "gen_top_p = 2",
        "2^47",
        "stop_ids: 1025 ids",
        "n_active = 65",
    };
    for (size_t i = 0; i < TEST_COUNT(messages); i++) {
        struct arch a = {
            .family = mem_strdup("rules"),
            .n_layers = 2,
            .dim = 64,
            .vocab = 99,
            .n_heads = 4,
            .n_kv_heads = 2,
            .head_dim = 16,
            .ctx_max_tok = 9,
            .norm_eps = 1e-5f,
            .rope_dim = 8,
            .rope_scale = 1.0f,
            .n_experts = 4,
            .n_active = 2,
            .ffn_dim = 48,
            .dense_dim = 80,
            .shared_dim = 20,
            .shared_gate = 1,
            .n_stop = 1,
            .window = mem_calloc(2, 4),
            .moe = mem_calloc(2, 4),
            .rope_inv_freq = mem_calloc(4, 4),
            .stop_ids = mem_calloc(2000, 4),
        };
        a.moe[1] = 1;
        struct err err = {0};
        assert_int_equal(arch_check(&a, &err), 0);
        switch (i) {
        case 0:
            a.n_layers = 0;
            break;
        case 1:
            a.n_layers = 1025;
            break;
        case 2:
            a.dim = 131073;
            break;
        case 3:
            a.n_heads = 6;
            a.n_kv_heads = 4;
            break;
        case 4:
            a.head_dim = 7;
            break;
        case 5:
            a.rope_dim = 3;
            break;
        case 6:
            a.rope_dim = 18;
            a.rope_inv_freq = mem_realloc(a.rope_inv_freq, 36);
            memset(a.rope_inv_freq, 0, 36);
            break;
        case 7:
            a.norm_eps = 0.0f;
            break;
        case 8:
            a.norm_eps = NAN;
            break;
        case 9:
            a.clip_qkv = INFINITY;
            break;
        case 10:
            a.rope_inv_freq[0] = NAN;
            break;
        case 11:
            free(a.rope_inv_freq);
            a.rope_inv_freq = NULL;
            break;
        case 12:
            a.moe[1] = 2;
            break;
        case 13:
            a.window[0] = UINT32_MAX;
            break;
        case 14:
            a.n_experts = 0;
            break;
        case 15:
            a.n_active = 5;
            break;
        case 16:
            a.ffn_dim = 0;
            break;
        case 17:
            a.dense_dim = 0;
            break;
        case 18:
            a.shared_dim = 0;
            break;
        case 19:
            a.stop_ids[0] = 99;
            break;
        case 20:
            a.family[0] = '\0';
            break;
        case 21:
            a.qk_norm = 3;
            break;
        case 22:
            a.gen_top_p = 2.0f;
            break;
        case 23:
            a.dim = 1 << 17;
            a.ffn_dim = 1 << 20;
            a.n_experts = 4096;
            break;
        case 24:
            a.n_stop = 1025;
            break;
        case 25:
            a.n_active = 65;
            break;
        }
        assert_int_equal(arch_check(&a, &err), -1);
        assert_err(&err, messages[i]);
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
    for (uint64_t seed = 0; seed < 40; seed++) {
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

/* Counts as published with the models. */
static void test_params(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t n_layers, dim, vocab, n_heads, n_kv_heads, head_dim, n_experts, n_active, ffn_dim;
        uint32_t qkv_bias, qk_norm, shared_dim;
        double total, active; /* in units of 10^9 */
    } rows[] = {
        {"Mixtral-8x7B", 32, 4096, 32000, 32, 8, 128, 8, 2, 14336, 0, 0, 0, 46.703, 12.75},
        {"OLMoE-1B-7B", 16, 2048, 50304, 16, 16, 128, 64, 8, 1024, 0, 2, 0, 6.919, 1.18},
        {"Qwen1.5-MoE-A2.7B", 24, 2048, 151936, 16, 16, 128, 60, 4, 1408, 1, 0, 5632, 14.316, 2.38},
        {"Qwen3-30B-A3B", 48, 2048, 151936, 32, 4, 128, 128, 8, 768, 0, 1, 0, 30.532, 3.04},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        uint32_t moe[48], window[48] = {0};
        for (int l = 0; l < 48; l++) {
            moe[l] = 1;
        }
        struct arch a = {
            .n_layers = rows[i].n_layers,
            .dim = rows[i].dim,
            .vocab = rows[i].vocab,
            .n_heads = rows[i].n_heads,
            .n_kv_heads = rows[i].n_kv_heads,
            .head_dim = rows[i].head_dim,
            .n_experts = rows[i].n_experts,
            .n_active = rows[i].n_active,
            .ffn_dim = rows[i].ffn_dim,
            .qkv_bias = rows[i].qkv_bias,
            .qk_norm = rows[i].qk_norm,
            .shared_dim = rows[i].shared_dim,
            .shared_gate = rows[i].shared_dim > 0,
            .moe = moe,
            .window = window,
        };
        double total = (double)arch_params(&a) / 1e9, active = (double)arch_params_active(&a) / 1e9;
        print_message("%-18s %.3f G parameters, %.3f G active\n", rows[i].name, total, active);
        assert_true(fabs(total - rows[i].total) < 0.001);
        assert_true(fabs(active - rows[i].active) < 0.01);
        uint64_t head = (uint64_t)a.vocab * a.dim, both = arch_params(&a);
        uint64_t used = arch_params_active(&a);
        a.tied = 1; /* the head leaves the total, and is still read for every token */
        assert_int_equal(arch_params(&a), both - head);
        assert_int_equal(arch_params_active(&a), used);
    }
}

/* ---- description ---- */

static void collect(void *ctx, const char *key, const char *value) {
    buf_printf(ctx, "%s=%s\n", key, value);
}

static void test_describe(void **state) {
    (void)state;
    struct arch a;
    archive_arch(&a, 1);
    free(a.window);
    free(a.moe);
    a.n_layers = 3;
    a.window = mem_calloc(3, 4);
    a.moe = mem_calloc(3, 4);
    a.moe[1] = a.moe[2] = 1;
    struct buf text = {0};
    arch_describe(&a, collect, &text);
    assert_non_null(strstr(text.data, "family=made-up\n"));
    assert_non_null(strstr(text.data, "n_layers=3\n"));
    assert_non_null(strstr(text.data, "moe=0, 1 x 2\n"));
    assert_non_null(strstr(text.data, "window=0 x 3\n"));
    assert_non_null(strstr(text.data, "norm_eps=9.99999997e-07\n"));
    assert_null(strstr(text.data, "gen_top_p"));
    buf_free(&text);
    arch_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_entries),    cmocka_unit_test(test_wrong_entries),
        cmocka_unit_test(test_rules),      cmocka_unit_test(test_slots),
        cmocka_unit_test(test_params),     cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests_name("arch", tests, NULL, NULL);
}
