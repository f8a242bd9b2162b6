/*
 * family_deepseek_v32: DeepSeek-V3.2, which computes what DeepSeek-V3 does in contexts of at most
 * index_topk tokens. In longer ones each token attends to those alone that an indexer chooses.
 *
 * Behind the model's layers files have one that predicts further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 129280},       {KEY_DIM, 7168},
    {KEY_MLP_DIM, 18432},      {KEY_LAYERS, 61},
    {KEY_HEADS, 128},          {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},        {KEY_CONTEXT, 163840},
    {KEY_NORM_EPS, 1e-6},      {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},   {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 1536}, {KEY_LATENT_NOPE_DIM, 128},
    {KEY_LATENT_ROPE_DIM, 64}, {KEY_V_DIM, 128},
    {KEY_INDEX_TOPK, 2048},    {KEY_DENSE_FIRST, 3},
    {KEY_EXPERTS, 256},        {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 8},           {KEY_TOP_GROUPS, 4},
    {KEY_NORM_TOPK, 1},        {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 1},   {KEY_END},
};

static const char *const reads[] = {SETTLE_INDEXED_READS, NULL};
static const char *const skipped[] = {SETTLE_INDEXED_SKIPPED, NULL};

const struct family family_deepseek_v32 = {
    .name = "deepseek_v32",
    .types = {"deepseek_v32"},
    .architectures = {"DeepseekV32ForCausalLM"},
    .eos = 1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle_indexed,
};
