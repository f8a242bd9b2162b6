/*
 * test_util_model: archives of whole checkpoints, as corm-prep packs them, and the engine on them
 * through the public API.
 *
 * For what happens on the way to a test's subject: whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_MODEL_H
#define TESTS_UTIL_TEST_UTIL_MODEL_H

#include "prep/pack.h"
#include "runtime/corm.h"

/* A quarter of the neurons hot, chunks of 32, compressed, exact codecs, no calibration. */
struct pack_options model_packing(void);
/* Packs `m` to <dir>/<name>.corm, which is replaced. Returns the path, to free(). */
char *model_pack(const struct hf_model *m, const char *dir, const char *name,
                 const struct pack_options *how);
/* The same for the checkpoint in a folder, with model_packing; `codec` is that of experts, NULL the
 * exact one. */
char *model_archive(const char *checkpoint, const char *dir, const char *name, const char *codec,
                    bool compress);

/* Writes the archive `from` again as <dir>/<name>.corm, with another tokenizer, which need not fit
 * the model: every chunk raw, no other texts. Returns the path, to free(). */
char *model_retokenize(const char *from, const char *dir, const char *name,
                       const struct buf *tokenizer);

/* Hash of all sections of an archive but provenance, which tells of versions. Where nothing is
 * compressed, no library's version counts either. */
uint64_t model_sections(const char *path);

/* As the corm_* functions of these names, whose errors fail the test. */
struct corm_engine *model_open(const char *path, const struct corm_engine_options *opt);
struct corm_session *model_session(struct corm_engine *e);
const float *model_eval(struct corm_session *s, const int32_t *ids, size_t n, bool all);
/* Hash of all logits of `ids`: the first `n_prompt` in one call, the others one by one. */
uint64_t model_hash(struct corm_engine *e, struct corm_session *s, const int32_t *ids,
                    size_t n_prompt, size_t n);

/* Four sequences over parts of `ids` [n], at least 24, each of which decodes MODEL_STEPS tokens.
 * The results are a hash of the logits of each, evaluated alone in an engine with `opt`, and
 * decoded together. `opt` has room for four sessions. */
enum { MODEL_SEQUENCES = 4, MODEL_STEPS = 10 };
void model_sequences_alone(const char *path, const struct corm_engine_options *opt,
                           const int32_t *ids, size_t n, uint64_t hashes[MODEL_SEQUENCES]);
void model_sequences_together(const char *path, const struct corm_engine_options *opt,
                              const int32_t *ids, size_t n, uint64_t hashes[MODEL_SEQUENCES]);

#endif
