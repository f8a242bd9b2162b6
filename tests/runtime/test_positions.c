/*
 * Positions: contexts that are longer than those of training, and rope sets of two forms, of which
 * the context decides: through the public API.
 */
#include "tests/util/test.h"

#include "tests/util/test_util_golden.h"

enum { N_IDS = 24 };

/* The archive of a golden checkpoint with other keys of positions in its config.json, in a folder
 * of its own. To free(). */
static char *archive_with(const char *keys, const char *dir) {
    char *command = mem_printf("cp tests/golden/models/olmoe-tiny/* '%s' && chmod u+w '%s'/* && "
                               "sed -i '/\"rope_scaling\"/d; /\"max_position_embeddings\"/d; "
                               "s/^ *\"rope_theta\".*/%s,/' '%s'/config.json",
                               dir, dir, keys, dir);
    assert_int_equal(system(command), 0);
    free(command);
    return model_archive(dir, dir, "model", NULL, false);
}

static uint64_t hash_of(const char *path, uint32_t ctx_tok, const int32_t *ids) {
    struct corm_engine *e =
        model_open(path, &(struct corm_engine_options){.threads = 2, .ctx_tok = ctx_tok});
    struct corm_session *s = model_session(e);
    uint64_t hash = model_hash(e, s, ids, N_IDS / 2, N_IDS);
    corm_session_close(s);
    corm_engine_close(e);
    return hash;
}

static uint64_t hash_with(const char *keys, uint32_t ctx_tok, const int32_t *ids) {
    char *dir = test_mkdir(), *path = archive_with(keys, dir);
    uint64_t hash = hash_of(path, ctx_tok, ids);
    free(path);
    test_rmdir(dir);
    return hash;
}

#define EIGHT(x) #x "," #x "," #x "," #x "," #x "," #x "," #x "," #x
#define LONGROPE                                                                                   \
    "\"max_position_embeddings\":256,\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":"           \
    "\"longrope\",\"original_max_position_embeddings\":64,\"attention_factor\":1.0,"               \
    "\"short_factor\":[" EIGHT(2) "],\"long_factor\":[" EIGHT(4) "]}"
#define LINEAR(factor)                                                                             \
    "\"max_position_embeddings\":256,\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":"           \
    "\"linear\","                                                                                  \
    "\"factor\":" #factor "}"

/* Factors that are all alike are a linear scaling: the context chooses between two of these, for
 * all tokens of a text, the first ones too. */
static void the_context_chooses_the_form(void **state) {
    size_t n;
    (void)state;
    int32_t *ids = golden_ids("olmoe-tiny", "ids", &n);
    assert_true(n >= N_IDS);
    uint64_t two = hash_with(LINEAR(2), 64, ids), four = hash_with(LINEAR(4), 64, ids);
    assert_true(two != four);
    char *dir = test_mkdir(), *path = archive_with(LONGROPE, dir);
    assert_true(hash_of(path, N_IDS, ids) == two);
    assert_true(hash_of(path, 64, ids) == two);
    assert_true(hash_of(path, 65, ids) == four);
    assert_true(hash_of(path, 300, ids) == four); /* beyond max_position_embeddings, too */
    free(path);
    test_rmdir(dir);
    free(ids);
}

/* A context beyond that of training is allowed, told by the model's info, and changes nothing of a
 * text that would have fitted. */
static void longer_than_trained(void **state) {
    size_t n;
    (void)state;
    int32_t *ids = golden_ids("olmoe-tiny", "ids", &n);
    char *path = golden_archive("olmoe-tiny", NULL);
    uint64_t hash[2];
    for (int longer = 0; longer < 2; longer++) {
        struct corm_engine *e = model_open(
            path, &(struct corm_engine_options){.threads = 2, .ctx_tok = longer ? 100000 : 0});
        const struct corm_model_info *info = corm_engine_info(e);
        struct corm_session *s = model_session(e);
        assert_true((info->ctx_tok > info->ctx_max_tok) == (longer == 1));
        hash[longer] = model_hash(e, s, ids, N_IDS / 2, N_IDS);
        corm_session_close(s);
        corm_engine_close(e);
    }
    assert_true(hash[0] == hash[1]);
    struct corm_engine *e = NULL;
    struct corm_error error;
    const struct corm_engine_options far = {.ctx_tok = (1 << 20) + 1};
    assert_int_equal(corm_engine_open(&e, path, &far, &error), -1);
    assert_non_null(strstr(error.message, "at most 1048576"));
    free(path);
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_context_chooses_the_form),
        cmocka_unit_test(longer_than_trained),
    };
    return cmocka_run_group_tests_name("positions", tests, NULL, NULL);
}
