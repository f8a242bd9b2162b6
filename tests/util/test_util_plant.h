/*
 * test_util_plant: calibrated archives of made-up models (tests/synth) of any shape.
 */
#ifndef TESTS_UTIL_TEST_UTIL_PLANT_H
#define TESTS_UTIL_TEST_UTIL_PLANT_H

#include "tests/synth/plant.h"

/* The family of this model_type. */
int plant_family(const char *model_type);
/* <test folder>/<name>.corm, experts in q4, whose loss level of 1 % leaves out a lot. Vocabularies
 * of more than 128 tokens. Returns the path, to free(). */
char *plant_archive(const struct plant_shape *shape, uint32_t chunk_neurons, const char *name);

#endif
