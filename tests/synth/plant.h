/*
 * plant: what every weight of a synthetic model is, and the structure planted in it.
 *
 * Owns: the shapes (struct arch) of a preset or of given numbers; the constants of the planted
 * structure; any rows of any tensor, as f32, from seed and tensor alone.
 * Leaves to others: files (write, straight), shapes of published models (shapes), the language
 * (lang), what came of it (measure).
 * Threads: immutable after plant_open, so rows may be made by any number of threads.
 *
 * The structure. An embedding is a sum of three parts of given shares of its energy: one vector
 * that all tokens have (`common`), one of the token's topic (`topic`), and the token's own.
 * Weights are Gaussian, so two tokens' router logits correlate as their residual rows do: `topic`
 * sets how many experts neighbours share, `common` how uneven the load is. What a layer adds to
 * the residual stream has `drift` times the stream's energy, so that a router reads of a row `a`
 * layers old a correlation of (1 + drift)^(-a / 2), which is what the stale gate's recall falls
 * with. Neurons have lognormal scales, in no order. A neuron's up row shares `alike` of its
 * direction with its gate row, which gives experts mean outputs that are not zero. The head reads
 * topic and common part: words of the row's topic, by their frequency.
 */
#ifndef TESTS_SYNTH_PLANT_H
#define TESTS_SYNTH_PLANT_H

#include "format/arch.h"
#include "tests/synth/lang.h"
#include "tests/synth/random.h"

/* What one may choose. */
struct plant_shape {
    int family; /* index: plant_families */
    int layers, dim, heads, kv_heads, head_dim, experts, active, ffn, shared, vocab, ctx;
    int topics;
    double stay, zipf;
    double common, topic; /* shares of an embedding's energy; the rest is the token's own */
    double drift;         /* energy that a layer adds over what is there */
    double attention;     /* attention's part of it */
    double router;        /* standard deviation of router logits */
    double gate_sigma, up_sigma, down_sigma, alike;
    uint64_t seed;
};

enum { PLANT_FAMILIES = 4 };
extern const char *const plant_families[PLANT_FAMILIES + 1]; /* model_type; ends with NULL */
extern const char *const plant_presets[];                    /* ends with NULL */
/* The preset's numbers; seed 1. */
struct plant_shape plant_preset(int preset);

/* Entries of the matrices that write to the residual stream, before it has grown. */
struct plant_gains {
    float mixer, expert, shared;
};

struct plant {
    struct plant_shape shape;
    struct arch arch;
    struct lang lang;
    struct gauss gauss;
    float *common;             /* [dim], of length sqrt(dim) */
    float *topics;             /* [n_topics, dim], each of length sqrt(dim) */
    struct plant_gains *gains; /* [arch.n_kinds] */
};

/* Fails, naming the option, where the shape makes no model. plant_close accepts what failed. */
int plant_open(struct plant *p, const struct plant_shape *shape, struct err *err);
/* The same around a model that is described already: `arch` is taken over, and of the shape only
 * what is not in it counts (the language, the planted structure, the seed). */
int plant_open_arch(struct plant *p, const struct plant_shape *shape, struct arch *arch,
                    struct err *err);
void plant_close(struct plant *p);

/* One tensor; `layer` and `expert` count where the slot's scope has them. */
struct plant_tensor {
    enum slot_id slot;
    uint32_t layer, expert;
    uint32_t rows, cols;
};
struct plant_tensor plant_tensor(const struct plant *p, enum slot_id slot, uint32_t layer,
                                 uint32_t expert);

/* Rows [first, first + n): dst [n, cols]. `scratch` has cols floats. */
void plant_rows(const struct plant *p, const struct plant_tensor *t, uint32_t first, uint32_t n,
                float *dst, float *scratch);

/* Standard deviation of the entries of neuron `i`'s gate or up row, or of its down column. */
float plant_neuron_sigma(const struct plant *p, const struct plant_tensor *t, uint32_t i);

#endif
