/*
 * test_util_plant: see test_util_plant.h.
 */
#include "tests/util/test_util_plant.h"

#include <stdlib.h>
#include <string.h>

#include "prep/calib/calib.h"
#include "tests/synth/write.h"
#include "tests/util/test.h"
#include "tests/util/test_util_model.h"

int plant_family(const char *model_type) {
    for (int i = 0; i < PLANT_FAMILIES; i++) {
        if (strcmp(plant_families[i], model_type) == 0) {
            return i;
        }
    }
    fail_msg("%s is not planted", model_type);
    return -1;
}

char *plant_archive(const struct plant_shape *shape, uint32_t chunk_neurons, const char *name) {
    static const float share = 0.6f;
    struct err err = {0};
    struct plant plant;
    struct hf_model m;
    struct corpus train = {0}, held = {0};
    struct calib_result c;
    struct buf predictors = {0};
    int32_t ids[128];
    char *dir = mem_printf("%s/%s", test_dir(), name), *spill = mem_printf("%s.spill", dir);
    plant_open(&plant, shape, &err);
    write_checkpoint(&plant, dir, UINT64_C(1) << 30, 2, NULL, &err);
    assert_no_err(&err);
    plant_close(&plant);
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    for (int i = 0; i < 128; i++) {
        ids[i] = i * 37 % (shape->vocab - 12);
    }
    corpus_add_ids(&train, ids, 64);
    corpus_add_ids(&train, ids + 64, 64);
    corpus_add_ids(&held, ids + 32, 32);
    const struct calib_options opt = {.chunk_neurons = chunk_neurons,
                                      .hot_share = 0.5,
                                      .rank = 8,
                                      .basis = 8,
                                      .gates = 4,
                                      .threads = 2,
                                      .spill_path = spill,
                                      .state_key = name};
    calib_run(&m, &train, &held, &opt, NULL, NULL, &c, &err);
    assert_no_err(&err);
    c.predictors.n_levels = 1;
    c.predictors.levels[0] = 1;
    for (uint32_t l = 0; l < c.n_layers; l++) {
        corm_predict_add(&c.predictors, PREDICT_LOSS_DROP, l, 0, CODEC_F32, &share, 1, 1);
    }
    corm_predict_finish(&c.predictors, &predictors);
    struct pack_options how = model_packing();
    how.threads = 2;
    how.expert_codec = codec_by_name("q4");
    how.compress = CORM_COMPRESS_NONE;
    how.calib = &c;
    how.predictors = &predictors;
    how.calib_text = "test";
    char *path = model_pack(&m, test_dir(), name, &how);
    buf_free(&predictors);
    calib_result_free(&c);
    corpus_free(&train);
    corpus_free(&held);
    hf_close(&m);
    free(spill);
    free(dir);
    return path;
}
