/*
 * test_util_golden: the logits of golden checkpoints (tests/golden) by way of the engine, on any
 * device: from the checkpoint to an archive, from there to the transformers library's own logits.
 */
#ifndef TESTS_UTIL_TEST_UTIL_GOLDEN_H
#define TESTS_UTIL_TEST_UTIL_GOLDEN_H

#include "format/safetensors.h"
#include "tests/util/test_util_model.h"

/* Rows of a table of names: tiny checkpoints, each with golden vectors of its own, one for each way
 * in which layers keep a sequence and experts stand in an archive: plain attention, windows with
 * biases and sinks, layers that share keys and values, delta nets, dense layers and shared experts
 * beside chosen ones, chunks with weights on what experts read, latent attention, and values that
 * are narrower than keys. What concerns sessions and caches, and is the same code for every family,
 * runs on these. */
#define GOLDEN_KINDS                                                                               \
    "olmoe-tiny", "gptoss-tiny", "gemma4-shared", "qwen3next-tiny", "glm4moe-tiny", "llama4-tiny", \
        "deepseekv3-tiny", "mimov2flash-tiny"

/* All of them, one or two of each family. What every family has to pass runs on these; with QUICK
 * on the first GOLDEN_N_KINDS, which are GOLDEN_KINDS. */
#define GOLDEN_TINY                                                                                \
    GOLDEN_KINDS, "mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "gemma4-tiny",                 \
        "qwen35moe-tiny", "minimaxm2-tiny", "dots1-tiny", "ernie45-tiny", "hunyuan-tiny",          \
        "afmoe-tiny", "mellum-tiny", "sarvam-tiny", "qwen3vlmoe-tiny", "qwen3omnimoe-tiny",        \
        "glm4vmoe-tiny", "granitemoe-tiny", "granitemoeshared-tiny", "granitemoeswa-tiny",         \
        "exaonemoe-tiny", "solaropen-tiny", "hyv3-tiny", "cohere2moe-tiny", "phimoe-tiny",         \
        "flexolmo-tiny", "flint-tiny", "kolibri1-tiny", "laguna-tiny", "laguna-elements",          \
        "deepseek-tiny", "bailingmoe-tiny", "bailingmoev2-tiny", "smallthinker-tiny", "dbrx-tiny", \
        "step3p7-tiny", "deepseekv2-tiny", "glm4moelite-tiny", "deepseekv32-tiny",                 \
        "glmmoedsa-tiny", "sarvammla-tiny", "axk1-tiny", "mistral4-tiny"
enum { GOLDEN_N_KINDS = 8 };

/* Checkpoints with logits of their own, the small ones first; NULL past the end. */
const char *golden_checkpoint(size_t i);
/* The folder of a checkpoint by its name: of tests/models, of tests/golden/models, or made in the
 * program's own folder of what tests/golden/families says of it. To free(). */
char *golden_source(const char *name);
/* A file beside its golden vectors, such as golden.safetensors. To free(). */
char *golden_file(const char *name, const char *file);
/* Its golden vectors; st_close them. */
struct safetensors *golden_open(const char *name);
/* Its archive in the program's own folder, converted once; experts in `codec`, NULL: exact. To
 * free(). */
char *golden_archive(const char *name, const char *codec);
/* Ids among them, a copy [*n]. To free(). */
int32_t *golden_ids(const char *name, const char *tensor, size_t *n);
/* Open an engine with `opt` on an archive of the checkpoint, made in `dir`, whose weights are the
 * checkpoint's to the bit, and compare all logits; in one call and token by token. */
void golden_check(const char *checkpoint, const char *dir, struct corm_engine_options opt);

#endif
