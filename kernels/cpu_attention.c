/*
 * cpu_attention: the KV store and causal attention.
 *
 * An item is one row's query heads of one KV head (or some of them): it walks the keys in blocks
 * that stay in cache while each of its heads uses them, keeps the scores of all visible keys, turns
 * them into exponentials, and walks the values. Sums go in key order, so how heads are shared out
 * changes nothing.
 */
#include "kernels/cpu.h"

#include <string.h>

enum { KEY_BLOCK = 64 };

struct attend {
    const struct cpu *c;
    const struct kv *kv;
    const struct dot_codec *k;
    const float *q;
    float *out;
    size_t row_bytes;
    uint32_t n_heads, pos0, window;
    uint32_t heads_an_item, items_a_kv_head;
    float scale;
};

struct store {
    const struct cpu *c;
    const struct kv *kv;
    const float *k, *v;
    uint32_t pos0;
};

static void kv_store_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct store *s = ctx;
    const struct kv *kv = s->kv;
    uint32_t row = item / kv->n_kv_heads, head = item % kv->n_kv_heads, dim = kv->head_dim;
    size_t at = ((size_t)head * kv->capacity_tok + s->pos0 + row) * dim, from = (size_t)item * dim;
    (void)worker;
    if (kv->type == KV_F16) {
        s->c->isa->to_f16(s->k + from, dim, (uint16_t *)kv->k + at);
        s->c->isa->to_f16(s->v + from, dim, (uint16_t *)kv->v + at);
    } else {
        memcpy((float *)kv->k + at, s->k + from, dim * sizeof(float));
        memcpy((float *)kv->v + at, s->v + from, dim * sizeof(float));
    }
}

void cpu_kv_store(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                  uint32_t rows) {
    struct store s = {.c = self, .kv = kv, .k = k, .v = v, .pos0 = pos0};
    cpu_run(self, kv_store_item, &s, rows * kv->n_kv_heads,
            (uint64_t)rows * kv->n_kv_heads * kv->head_dim);
}

/* The first head to read a block of keys or values asks for the next block. */
static ptrdiff_t ahead_bytes(const struct attend *s, uint32_t head) {
    return head == 0 ? (ptrdiff_t)(KEY_BLOCK * s->row_bytes) : 0;
}

/* Scores [n_heads, max_ctx_tok] become weights; each head's output is divided by its sum at the
 * end. */
static void attend_heads(const struct attend *s, const uint8_t *keys, const uint8_t *values,
                         uint32_t n_keys, const float *q, uint32_t n_heads, float *scores,
                         float *out) {
    const struct dot_isa *isa = s->c->isa;
    uint32_t dim = s->kv->head_dim, stride = s->c->limits.max_ctx_tok;
    float sums[CPU_HEADS_AT_ONCE];
    for (uint32_t j = 0; j < n_keys; j += KEY_BLOCK) {
        uint32_t n = n_keys - j < KEY_BLOCK ? n_keys - j : KEY_BLOCK;
        for (uint32_t h = 0; h < n_heads; h++) {
            struct dot_rows rows = {keys + j * s->row_bytes, s->row_bytes, n, dim,
                                    ahead_bytes(s, h)};
            s->k->dot(&rows, q + (size_t)h * dim, scores + (size_t)h * stride + j);
        }
    }
    for (uint32_t h = 0; h < n_heads; h++) {
        float *score = scores + (size_t)h * stride;
        for (uint32_t j = 0; j < n_keys; j++) {
            score[j] *= s->scale;
        }
        sums[h] = isa->exp_sum(score, n_keys, isa->max(score, n_keys));
    }
    memset(out, 0, (size_t)n_heads * dim * sizeof *out);
    for (uint32_t j = 0; j < n_keys; j += KEY_BLOCK) {
        uint32_t n = n_keys - j < KEY_BLOCK ? n_keys - j : KEY_BLOCK;
        for (uint32_t h = 0; h < n_heads; h++) {
            struct dot_rows rows = {values + j * s->row_bytes, s->row_bytes, n, dim,
                                    ahead_bytes(s, h)};
            s->k->axpy(&rows, scores + (size_t)h * stride + j, out + (size_t)h * dim);
        }
    }
    for (uint32_t h = 0; h < n_heads; h++) {
        for (uint32_t i = 0; i < dim; i++) {
            out[(size_t)h * dim + i] /= sums[h];
        }
    }
}

static void attention_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct attend *s = ctx;
    const struct kv *kv = s->kv;
    uint32_t group = s->n_heads / kv->n_kv_heads, share = item % s->items_a_kv_head;
    uint32_t kv_head = item / s->items_a_kv_head % kv->n_kv_heads;
    uint32_t row = item / s->items_a_kv_head / kv->n_kv_heads;

    uint32_t first_head = share * s->heads_an_item, rest = group - first_head;
    uint32_t n_heads = rest < s->heads_an_item ? rest : s->heads_an_item;
    uint32_t pos = s->pos0 + row;
    uint32_t first_key = s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
    size_t start = ((size_t)kv_head * kv->capacity_tok + first_key) * s->row_bytes;
    size_t at = ((size_t)row * s->n_heads + kv_head * group + first_head) * kv->head_dim;
    attend_heads(s, (const uint8_t *)kv->k + start, (const uint8_t *)kv->v + start,
                 pos + 1 - first_key, s->q + at, n_heads, s->c->workers[worker].scores,
                 s->out + at);
}

void cpu_attention(void *self, const float *q, uint32_t n_heads, const struct kv *kv, uint32_t pos0,
                   uint32_t rows, uint32_t window, float scale, float *out) {
    const struct cpu *c = self;
    struct attend s = {
        .c = c,
        .kv = kv,
        .k = &c->isa->codec[kv->type == KV_F16 ? CODEC_F16 : CODEC_F32],
        .q = q,
        .out = out,
        .row_bytes = (size_t)kv->head_dim * (kv->type == KV_F16 ? 2 : 4),
        .n_heads = n_heads,
        .pos0 = pos0,
        .window = window,
        .scale = scale,
    };
    /* Heads that share keys go together, unless the threads would run out of items. */
    uint32_t group = n_heads / kv->n_kv_heads;
    s.heads_an_item = group < CPU_HEADS_AT_ONCE ? group : CPU_HEADS_AT_ONCE;
    while (s.heads_an_item > 1 &&
           (uint64_t)rows * kv->n_kv_heads * cpu_ceil_div(group, s.heads_an_item) <
               2 * (uint64_t)pool_threads(c->pool)) {
        s.heads_an_item = (s.heads_an_item + 1) / 2;
    }
    s.items_a_kv_head = cpu_ceil_div(group, s.heads_an_item);
    cpu_run(c, attention_item, &s, rows * kv->n_kv_heads * s.items_a_kv_head,
            (uint64_t)rows * n_heads * (pos0 + rows) * kv->head_dim * 2);
}
