/*
 * shapes: published models by their numbers, for archives that are written straight (straight).
 *
 * Owns: the table of shapes; the description (struct arch) of one; the structure planted in it, for
 * routing that persists from token to token or that knows nothing of the past.
 * Leaves to others: weights (plant), bytes (straight).
 */
#ifndef TESTS_SYNTH_SHAPES_H
#define TESTS_SYNTH_SHAPES_H

#include "tests/synth/plant.h"

enum { SHAPES = 6 };
extern const char *const shapes_names[SHAPES + 1]; /* ends with NULL */

/* PLANTED: experts are kept from token to token and from layer to layer as plant.h tells. UNIFORM:
 * tokens are drawn evenly and have next to nothing in common, so which experts one uses says
 * nothing of the next one's. */
enum shapes_routing { SHAPES_PLANTED, SHAPES_UNIFORM };
extern const char *const shapes_routings[]; /* ends with NULL */

/* A plant of shape number `shape`; `layers` of them, 0 = all. plant_close it in any case. */
int shapes_open(struct plant *p, int shape, enum shapes_routing routing, uint32_t layers,
                uint64_t seed, struct err *err);

#endif
