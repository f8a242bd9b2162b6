/*
 * hf_rope: rotary sets that depend on the context (LongRoPE), and on a constant factor of the base,
 * beside what the functions of transformers 5.24.0 give (run with numpy's f32 in place of torch's);
 * and those that are refused. The other types are in test_hf_config.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf_config.h"

#define PAIRS 16
#define SHORT                                                                                      \
    "\"short_factor\":[1.0,1.05,1.1,1.15,1.2,1.25,1.3,1.35,1.4,1.45,1.5,1.55,1.6,1.65,1.7,1.75]"
#define LONG                                                                                       \
    "\"long_factor\":[1.0,1.25,2.0,3.25,5.0,7.25,10.0,13.25,17.0,21.25,26.0,31.25,37.0,43.25,"     \
    "50.0,57.25]"
#define LONGROPE "\"rope_scaling\":{\"rope_type\":\"longrope\"," SHORT "," LONG

static const float short_freq[PAIRS] = {
    1,
    0.535563171f,
    0.287479758f,
    0.154633f,
    0.0833333358f,
    0.044987306f,
    0.0243252143f,
    0.0131724402f,
    0.00714285718f,
    0.00387821579f,
    0.00210818532f,
    0.00114727707f,
    0.000624999986f,
    0.000340812927f,
    0.000186016332f,
    0.000101615973f,
};
static const float long_freq[PAIRS] = {
    1,
    0.44987303f,
    0.158113882f,
    0.0547162928f,
    0.0199999996f,
    0.00775643159f,
    0.00316227786f,
    0.00134209776f,
    0.000588235271f,
    0.000264631206f,
    0.000121626064f,
    5.69049407e-05f,
    2.70270266e-05f,
    1.30021117e-05f,
    6.32455567e-06f,
    3.10616497e-06f,
};
static const float alpha_freq[PAIRS] = {
    1,
    0.354813397f,
    0.12589255f,
    0.0446683615f,
    0.0158489328f,
    0.00562341325f,
    0.00199526246f,
    0.000707945786f,
    0.000251188641f,
    8.91250966e-05f,
    3.16227743e-05f,
    1.12201842e-05f,
    3.98107159e-06f,
    1.41253747e-06f,
    5.0118723e-07f,
    1.77827928e-07f,
};

static int parse(struct hf_config *c, const char *keys, struct err *err) {
    char *config =
        mem_printf("{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,\"num_attention_heads\":2,"
                   "\"num_key_value_heads\":2,\"head_dim\":32,\"max_position_embeddings\":131072,"
                   "\"rope_theta\":1e4,%s}",
                   keys);
    memset(c, 0, sizeof *c);
    int rc = hf_config_parse(c, (struct hf_json){"config.json", config, strlen(config)},
                             (struct hf_json){"generation_config.json", NULL, 0}, err);
    free(config);
    return rc;
}

static struct hf_config parse_ok(const char *keys) {
    struct hf_config c;
    struct err err = {0};
    parse(&c, keys, &err);
    assert_no_err(&err);
    return c;
}

static void assert_near(const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)got[i] / (double)want[i] - 1) > 1e-6) {
            fail_msg("number %zu is %.9g, expected %.9g", i, (double)got[i], (double)want[i]);
        }
    }
}

static void longrope(void **state) {
    static const struct {
        const char *keys;
        float short_scale, long_scale;
        uint32_t tok;
    } cases[] = {
        {LONGROPE ",\"original_max_position_embeddings\":4096}", 1.1902380714f, 1.1902380714f,
         4096},
        {LONGROPE "},\"original_max_position_embeddings\":4096", 1.1902380714f, 1.1902380714f,
         4096},
        {LONGROPE ",\"factor\":16.0,\"original_max_position_embeddings\":4096}", 1.1547005384f,
         1.1547005384f, 4096},
        {LONGROPE ",\"attention_factor\":1.5,\"original_max_position_embeddings\":4096}", 1.5f,
         1.5f, 4096},
        {LONGROPE "}", 1, 1, 131072}, /* made for the whole context: nothing to stretch */
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct hf_config c = parse_ok(cases[i].keys);
        struct arch *a = &c.arch;
        assert_int_equal(a->n_rope_long, 1);
        assert_int_equal(a->rope_long_tok[0], cases[i].tok);
        assert_near(a->rope_inv_freq, short_freq, PAIRS);
        assert_near(a->rope_long_inv_freq, long_freq, PAIRS);
        assert_near(a->rope_scale, &cases[i].short_scale, 1);
        assert_near(a->rope_long_scale, &cases[i].long_scale, 1);
        arch_settle_ropes(a, cases[i].tok);
        assert_near(a->rope_inv_freq, short_freq, PAIRS);
        arch_settle_ropes(a, cases[i].tok + 1);
        assert_near(a->rope_inv_freq, long_freq, PAIRS);
        assert_near(a->rope_scale, &cases[i].long_scale, 1);
        hf_config_free(&c);
    }
}

static void constant_alpha(void **state) {
    (void)state;
    struct hf_config c = parse_ok("\"rope_scaling\":{\"type\":\"dynamic\",\"alpha\":1000.0,"
                                  "\"factor\":1.0,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":1.0,"
                                  "\"mscale_all_dim\":1.0}");
    const float one = 1;
    assert_near(c.arch.rope_inv_freq, alpha_freq, PAIRS);
    assert_near(c.arch.rope_scale, &one, 1);
    assert_int_equal(c.arch.n_rope_long, 0);
    hf_config_free(&c);
}

static void refusals(void **state) {
#define OBJECT(inside) "\"rope_scaling\":{\"original_max_position_embeddings\":4096," inside "}"
    static const struct {
        const char *keys, *say, *say_too;
    } bad[] = {
        {OBJECT("\"type\":\"dynamic\",\"factor\":4"), "dynamic without alpha", "grows with"},
        {OBJECT("\"type\":\"dynamic\",\"factor\":4,\"alpha\":0"), "dynamic without alpha", ""},
        {OBJECT("\"type\":\"dynamic\",\"alpha\":-2"), "dynamic needs a number", "alpha"},
        {OBJECT("\"type\":\"longrope\"," SHORT), "long_factor", "16 numbers"},
        {OBJECT("\"type\":\"longrope\"," LONG), "short_factor", "16 numbers"},
        {OBJECT("\"type\":\"longrope\",\"short_factor\":[1,2]," LONG), "short_factor", "16"},
        {OBJECT("\"type\":\"longrope\",\"short_factor\":4"), "short_factor must be a list", ""},
        {OBJECT("\"type\":\"longrope\",\"short_factor\":[1,2,3,4,5,6,7,0,9,1,2,3,4,5,6,7]," LONG),
         "entry 7 of RoPE key short_factor", "positive"},
        {OBJECT(
             "\"type\":\"longrope\",\"short_factor\":[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,\"x\"]," LONG),
         "entry 15 of RoPE key short_factor", "positive"},
        {LONGROPE ",\"original_max_position_embeddings\":1}", "original_max_position_embeddings",
         "at least 2"},
        {LONGROPE ",\"attention_factor\":0,\"original_max_position_embeddings\":64}", "rope_scale",
         "0"},
        {OBJECT("\"type\":\"su\"," SHORT "," LONG), "\"su\" is not supported", "longrope"},
        {LONGROPE ",\"short_mscale\":1.25,\"long_mscale\":1.5}", "unknown RoPE key short_mscale",
         ""},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct hf_config c;
        struct err err = {0};
        if (parse(&c, bad[i].keys, &err) == 0) {
            fail_msg("accepted: %s", bad[i].keys);
        }
        assert_err(&err, bad[i].say, bad[i].say_too, "config.json");
        hf_config_free(&c);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(longrope),
        cmocka_unit_test(constant_alpha),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("hf_rope", tests, NULL, NULL);
}
