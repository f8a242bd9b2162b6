/*
 * Archives that synth writes straight: whole, the same bytes for the same seed, numbers of normal
 * size for as long as one decodes, and routing that is planted, or uniform.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_read.h"
#include "runtime/mechanisms.h"
#include "tests/synth/shapes.h"
#include "tests/synth/straight.h"
#include "tests/synth/write.h"

enum { TINY_FROM = 4, PROMPT_TOK = 16, DECODE_TOK = 96, THREADS = 2 };

static const struct straight_options options = {
    .chunk_neurons = 32, .threads = THREADS, .origin = "test"};

static struct straight_options chosen(void) {
    struct straight_options o = options;
    o.trunk_codec = codec_by_id(CODEC_Q8);
    return o;
}

/* The archive's path, to free(); `text` (may be NULL) gets a text of its language. */
static char *make(const char *dir, const char *name, int shape, enum shapes_routing routing,
                  uint64_t seed, uint32_t threads, struct buf *text) {
    struct err err = {0};
    struct plant plant;
    struct corm_write_stats stats;
    struct straight_options o = chosen();
    char *path = mem_printf("%s/%s.corm", dir, name);
    o.threads = threads;
    shapes_open(&plant, shape, routing, 0, seed, &err);
    assert_no_err(&err);
    straight_write(&plant, path, &o, NULL, &stats, &err);
    assert_no_err(&err);
    /* What is asked of the disk before is enough, and not much more. */
    assert_true(stats.file_bytes <= straight_bytes(&plant, &o));
    if (text) {
        write_text(&plant.lang, 1, PROMPT_TOK + DECODE_TOK, text);
    }
    plant_close(&plant);
    return path;
}

static void archives_are_whole(void **state) {
    (void)state;
    for (int shape = TINY_FROM; shape < SHAPES; shape++) {
        struct err err = {0};
        struct corm archive;
        char *path = make(test_dir(), "whole", shape, SHAPES_PLANTED, 1, THREADS, NULL);
        corm_open(&archive, path, 0, &err);
        assert_no_err(&err);
        corm_verify(&archive, NULL, NULL, &err);
        assert_no_err(&err);
        assert_string_equal(archive.expert_codec->name, "q4");
        corm_close(&archive);
        free(path);
    }
}

static void the_same_seed_gives_the_same_bytes(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        uint32_t threads;
    } runs[3] = {{1, 1}, {1, 3}, {2, 1}};
    uint64_t hashes[3];
    for (int i = 0; i < 3; i++) {
        struct err err = {0};
        struct map map;
        char *path = make(test_dir(), "same", TINY_FROM + 1, SHAPES_PLANTED, runs[i].seed,
                          runs[i].threads, NULL);
        map_open(&map, path, &err);
        assert_no_err(&err);
        hashes[i] = hash64(map.data, map.size_bytes);
        map_close(&map);
        free(path);
    }
    assert_true(hashes[0] == hashes[1]);
    assert_true(hashes[0] != hashes[2]);
}

/* Part of a token's experts that were the token before's in the layer. */
struct overlap {
    uint32_t n_active;
    int32_t last[ARCH_MAX_LAYERS][ARCH_MAX_ACTIVE];
    bool seen[ARCH_MAX_LAYERS];
    double kept, all;
};

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    struct overlap *o = ctx;
    if (!decode || rows != 1) {
        return;
    }
    for (uint32_t k = 0; o->seen[layer] && k < o->n_active; k++) {
        for (uint32_t j = 0; j < o->n_active; j++) {
            o->kept += ids[k] == o->last[layer][j];
        }
        o->all++;
    }
    memcpy(o->last[layer], ids, o->n_active * sizeof *ids);
    o->seen[layer] = true;
}

/* Root mean square of the logits; all of them are numbers. */
static double rms(const float *logits, uint32_t n) {
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(logits[i])) {
            fail_msg("logit %u is %g", i, (double)logits[i]);
        }
        squares += (double)logits[i] * logits[i];
    }
    return sqrt(squares / n);
}

/* Reads a text of the language token by token; the share of experts that were kept. */
static double decode(const char *path, const struct buf *text) {
    struct corm_error error = {0};
    struct overlap overlap = {0};
    struct corm_mechanisms measure = {.on_route = on_route, .on_route_ctx = &overlap};
    struct corm_engine_options how = {.threads = THREADS, .ctx_tok = 256, .measure = &measure};
    struct corm_engine *engine = NULL;
    struct corm_session *session = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    if (corm_engine_open(&engine, path, &how, &error) < 0 ||
        corm_session_open(&session, engine, &error) < 0 ||
        corm_tokenize(engine, text->data, text->len, false, false, &ids, &n, &error) < 0) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(n, PROMPT_TOK + DECODE_TOK); /* a word is a token */
    const struct corm_model_info *info = corm_engine_info(engine);
    overlap.n_active = info->n_active;
    const float *logits = NULL;
    for (size_t i = 0; i < n; i += i ? 1 : PROMPT_TOK) {
        assert_int_equal(
            corm_session_eval(session, ids + i, i ? 1 : PROMPT_TOK, false, &logits, &error), 0);
        double size = rms(logits, info->vocab);
        assert_true(size > 0.1 && size < 100);
    }
    free(ids);
    corm_session_close(session);
    corm_engine_close(engine);
    return overlap.kept / overlap.all;
}

static void it_decodes_with_the_routing_asked_for(void **state) {
    (void)state;
    for (int shape = TINY_FROM; shape < SHAPES; shape++) {
        double kept[2], chance = 0;
        for (int routing = SHAPES_PLANTED; routing <= SHAPES_UNIFORM; routing++) {
            struct buf text = {0};
            struct err err = {0};
            struct corm archive;
            char *path =
                make(test_dir(), "decode", shape, (enum shapes_routing)routing, 1, THREADS, &text);
            corm_open(&archive, path, 0, &err);
            assert_no_err(&err);
            chance = (double)archive.arch.n_active / archive.arch.n_experts;
            corm_close(&archive);
            kept[routing] = decode(path, &text);
            buf_free(&text);
            free(path);
        }
        if (kept[SHAPES_PLANTED] < chance + 0.15 || kept[SHAPES_UNIFORM] > chance + 0.06 ||
            kept[SHAPES_UNIFORM] < chance - 0.06) {
            fail_msg("%s: %.3f of the experts kept, %.3f where routing is uniform; chance is %.3f",
                     shapes_names[shape], kept[SHAPES_PLANTED], kept[SHAPES_UNIFORM], chance);
        }
    }
}

/* Counts of tests/golden/configs: gpt-oss-20b, and qwen3.5-35b-a3b, whose shape 3.6 has. */
static void published_shapes_have_their_parameters(void **state) {
    (void)state;
    static const uint64_t params[TINY_FROM] = {UINT64_C(20914757184), UINT64_C(34660610688),
                                               UINT64_C(30532122624), UINT64_C(46702792704)};
    for (int shape = 0; shape < TINY_FROM; shape++) {
        struct err err = {0};
        struct plant plant;
        shapes_open(&plant, shape, SHAPES_PLANTED, 0, 1, &err);
        assert_no_err(&err);
        assert_int_equal(arch_params(&plant.arch), params[shape]);
        plant_close(&plant);
    }
}

static void too_little_room_is_told_before_a_byte_is_written(void **state) {
    (void)state;
    struct err err = {0};
    struct plant plant;
    struct straight_options o = chosen();
    shapes_open(&plant, 0, SHAPES_UNIFORM, 0, 1, &err);
    assert_no_err(&err);
    uint64_t bytes = straight_bytes(&plant, &o);
    straight_check_room("/tmp/x.corm", bytes, bytes, &err);
    assert_no_err(&err);
    assert_int_equal(straight_check_room("/tmp/x.corm", bytes, bytes - 1, &err), -1);
    assert_err(&err, "/tmp/x.corm", "takes", "free");
    plant_close(&plant);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(archives_are_whole),
        cmocka_unit_test(the_same_seed_gives_the_same_bytes),
        cmocka_unit_test(it_decodes_with_the_routing_asked_for),
        cmocka_unit_test(published_shapes_have_their_parameters),
        cmocka_unit_test(too_little_room_is_told_before_a_byte_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
