/*
 * family_glm_moe_dsa: GLM-5, which computes what DeepSeek-V3.2 does, with one group of experts; its
 * indexers turn otherwise, and some layers have what another layer's has chosen.
 *
 * Behind the model's layers files have one that predicts further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 154880},       {KEY_DIM, 6144},
    {KEY_MLP_DIM, 12288},      {KEY_LAYERS, 78},
    {KEY_HEADS, 64},           {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},        {KEY_CONTEXT, 202752},
    {KEY_NORM_EPS, 1e-5},      {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},   {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 2048}, {KEY_LATENT_NOPE_DIM, 192},
    {KEY_LATENT_ROPE_DIM, 64}, {KEY_V_DIM, 256},
    {KEY_INDEX_TOPK, 2048},    {KEY_DENSE_FIRST, 3},
    {KEY_EXPERTS, 256},        {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},           {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},        {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 1},   {KEY_END},
};

/* Behind SETTLE_INDEXED_READS: which layers have an indexer, and how it turns. */
static const char *const reads[] = {SETTLE_INDEXED_READS,
                                    "indexer_types",
                                    "indexer_rope_interleave",
                                    "index_topk_pattern",
                                    "index_topk_freq",
                                    "index_skip_topk_offset",
                                    NULL};
static const char *const skipped[] = {SETTLE_INDEXED_SKIPPED, NULL};

const struct family family_glm_moe_dsa = {
    .name = "glm_moe_dsa",
    .types = {"glm_moe_dsa"},
    .architectures = {"GlmMoeDsaForCausalLM"},
    .eos = 1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle_indexed,
};
