/*
 * cpu_attention: the KV store and causal attention.
 *
 * An item is a tile: some neighbouring rows times some query heads of one KV head. It walks the
 * keys in blocks that stay in cache while each of its queries uses them, keeps the scores of all
 * keys, turns those that the query sees into exponentials, and walks the values. Where queries are
 * many, a block is decoded once for all of them. Keys lie in a ring: a block ends where it does. A
 * query's sums go over the keys that it sees, one after the other, so how queries are shared out
 * changes nothing. Of a type with scales every block is decoded.
 *
 * Latent attention is attention with one KV head, whose values are the first numbers of its keys.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/encode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { DECODE_QUERIES = 4 }; /* queries from which on decoding a block pays */

/* Shapes of a walk over encoded keys or values (dot.h). */
static const struct attention_shape {
    uint32_t together;
    ptrdiff_t ahead_bytes;
} shapes[] = {{CPU_KEYS, 0}, {1, 0}, {CPU_KEYS, 2 * 1024}, {CPU_KEYS, 16 * 1024}};
static_assert(sizeof shapes / sizeof *shapes == CPU_ATTENTION_SHAPES, "a row each");

struct attend {
    const struct cpu *c;
    const struct kv *kv;
    const struct dot_codec *k;
    const struct attention_shape *shape;
    const float *q, *sinks;
    const float *q_rest;              /* of latent attention: behind each of q */
    const struct latent_rule *latent; /* NULL: attention */
    float *out;
    size_t k_bytes, v_bytes;           /* of a key, and of a value */
    const struct attention_rule *rule; /* NULL: latent attention */
    uint32_t dim, v_dim;               /* of keys, and of values and outputs */
    uint32_t n_heads, rows, pos0;
    uint32_t heads_an_item, rows_an_item, items_a_kv_head, keys_a_block;
};

struct store {
    const struct cpu *c;
    const struct kv *kv;
    const float *k, *v;
    uint32_t pos0;
};

/* Whether any number is infinite or NaN: then the sum carries into the sign. */
static bool any_not_finite(const uint16_t *h, uint32_t n) {
    uint16_t carry = 0;
    for (uint32_t i = 0; i < n; i++) {
        carry |= (uint16_t)((h[i] & 0x7fff) + 0x0400);
    }
    return carry & 0x8000;
}

/* Raise the word to UINT32_MAX - pos; items that run at the same time may share it. */
static void tell_beyond(uint32_t *word, uint32_t pos) {
    uint32_t held = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (held < UINT32_MAX - pos &&
           !__atomic_compare_exchange_n(word, &held, UINT32_MAX - pos, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
}

/* Store a row x [n]. */
static void store_numbers(const struct store *s, void *to, const float *x, uint32_t n,
                          uint32_t *word, uint32_t pos) {
    const struct codec *codec = kv_codec(s->kv->type);
    bool beyond = false, looks;
    switch (s->kv->type) {
    case KV_F16:
        s->c->isa->to_f16(x, n, to);
        looks = word && any_not_finite(to, n);
        for (uint32_t i = 0; looks && i < n; i++) {
            beyond |= f32_beyond_f16(x[i]);
        }
        break;
    case KV_F32:
        memcpy(to, x, n * sizeof *x);
        break;
    default:
        encode_row(s->c->encode, codec, x, n, to);
        for (uint32_t i = 0; word && i < n; i++) {
            beyond |= !(fabsf(x[i]) <= codec->max_abs); /* NaN too */
        }
    }
    if (beyond) {
        tell_beyond(word, pos);
    }
}

static void kv_store_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct store *s = ctx;
    const struct kv *kv = s->kv;
    uint32_t row = item / kv->n_kv_heads, head = item % kv->n_kv_heads;
    uint32_t pos = s->pos0 + row, slot = pos % kv->capacity_tok, dim = kv->head_dim;
    size_t at = (size_t)head * kv->capacity_tok + slot, v_dim = kv_v_dim(kv);
    (void)worker;
    store_numbers(s, (uint8_t *)kv->k + at * kv_key_row_bytes(kv), s->k + (size_t)item * dim, dim,
                  kv->beyond, pos);
    store_numbers(s, (uint8_t *)kv->v + at * kv_value_row_bytes(kv), s->v + item * v_dim,
                  (uint32_t)v_dim, kv->beyond ? kv->beyond + 1 : NULL, pos);
}

void cpu_kv_store(void *self, const struct kv *kv, const float *k, const float *v, uint32_t pos0,
                  uint32_t rows) {
    struct store s = {.c = self, .kv = kv, .k = k, .v = v, .pos0 = pos0};
    cpu_run(self, kv_store_item, &s, rows * kv->n_kv_heads,
            (uint64_t)rows * kv->n_kv_heads * kv->head_dim);
}

/* `v` of the store is what the key ends with: both parts are put together in worker memory. */
static void latent_store_item(void *ctx, uint32_t row, uint32_t worker) {
    const struct store *s = ctx;
    const struct kv *kv = s->kv;
    const uint32_t rank = kv->latent_dim, rest = kv->head_dim - rank, pos = s->pos0 + row;
    float *key = s->c->workers[worker].queries;
    memcpy(key, s->k + (size_t)row * rank, rank * sizeof *key);
    memcpy(key + rank, s->v + (size_t)row * rest, rest * sizeof *key);
    store_numbers(s, (uint8_t *)kv->k + pos % kv->capacity_tok * kv_key_row_bytes(kv), key,
                  kv->head_dim, kv->beyond, pos);
}

void cpu_latent_store(void *self, const struct kv *kv, const float *latents, const float *rest,
                      uint32_t pos0, uint32_t rows) {
    struct store s = {.c = self, .kv = kv, .k = latents, .v = rest, .pos0 = pos0};
    cpu_run(self, latent_store_item, &s, rows, (uint64_t)rows * kv->head_dim);
}

/* A tile: rows times heads, query i being row i / n_heads and head i % n_heads. */
struct tile {
    const struct attend *s;
    struct cpu_worker *own;
    const uint8_t *keys, *values; /* of the KV head */
    uint32_t n_heads, n_rows, pos0;
    uint32_t first, end; /* keys that any row sees */
    size_t at;           /* of the first query among those of all rows and heads */
};

static uint32_t tile_queries(const struct tile *t) {
    return t->n_rows * t->n_heads;
}

/* Query i's place among those of all rows and heads. */
static size_t query_at(const struct tile *t, uint32_t i) {
    return t->at + i / t->n_heads * (size_t)t->s->n_heads + i % t->n_heads;
}

static float *query_out(const struct tile *t, uint32_t i) {
    return t->s->out + query_at(t, i) * t->s->v_dim;
}

static float query_sink(const struct tile *t, uint32_t i) {
    return t->s->sinks[query_at(t, i) % t->s->n_heads];
}

/* One of latent attention is put together from its two parts. */
static const float *query_numbers(const struct tile *t, uint32_t i) {
    const struct attend *s = t->s;
    if (!s->latent) {
        return s->q + query_at(t, i) * s->dim;
    }
    const size_t rest = s->dim - s->v_dim;
    float *q = t->own->queries + (size_t)i * s->dim;
    memcpy(q, s->q + query_at(t, i) * s->v_dim, s->v_dim * sizeof *q);
    memcpy(q + s->v_dim, s->q_rest + query_at(t, i) * rest, rest * sizeof *q);
    return q;
}

/* The factor on its scores. */
static float query_scale(const struct tile *t, uint32_t i) {
    const uint32_t pos = t->pos0 + i / t->n_heads;
    return t->s->latent ? latent_scale(t->s->latent, pos) : attention_scale_at(t->s->rule, pos);
}

static float *query_scores(const struct tile *t, uint32_t i) {
    return t->own->scores + (size_t)i * t->s->c->limits.max_ctx_tok;
}

/* Keys that a position sees, and a row of the tile. */
static uint32_t first_seen(const struct attend *s, uint32_t pos) {
    return s->latent ? 0 : attention_first_seen(s->rule, pos);
}
static uint32_t first_key(const struct tile *t, uint32_t row) {
    return first_seen(t->s, t->pos0 + row);
}
static uint32_t end_key(const struct tile *t, uint32_t row) {
    return t->pos0 + row + 1;
}

/* Keys or values of a KV head in the ring, rows of `cols` numbers: the first `dim` of each are
 * looked at. */
struct ring {
    const uint8_t *base;
    size_t row_bytes;
    uint32_t dim, cols;
};

static struct ring keys_of(const struct tile *t) {
    return (struct ring){t->keys, t->s->k_bytes, t->s->dim, t->s->dim};
}
static struct ring values_of(const struct tile *t) {
    const uint32_t v_dim = t->s->v_dim;
    return (struct ring){t->values, t->s->v_bytes, v_dim, t->s->latent ? t->s->dim : v_dim};
}

/* Where position `pos` lies in the ring, and how many of the n from there on lie side by side. */
static const uint8_t *row_at(const struct tile *t, const struct ring *r, uint32_t pos) {
    return r->base + pos % t->s->kv->capacity_tok * r->row_bytes;
}
static uint32_t side_by_side(const struct tile *t, uint32_t pos, uint32_t n) {
    uint32_t left = t->s->kv->capacity_tok - pos % t->s->kv->capacity_tok;
    return n < left ? n : left;
}

/* The first query to read a block of encoded keys or values brings it; others find it in cache. */
static struct dot_rows rows_of(const struct tile *t, struct ring r, uint32_t first, uint32_t n,
                               bool brings) {
    const struct attention_shape *shape =
        brings ? t->s->shape : &(struct attention_shape){CPU_KEYS, 0};
    return (struct dot_rows){row_at(t, &r, first), r.row_bytes,       n, r.dim,
                             shape->together,      shape->ahead_bytes};
}

/* Keys of the block from position `first` on, of those before `end`. */
static uint32_t block_keys(const struct tile *t, uint32_t first, uint32_t end) {
    uint32_t n = end - first < t->s->keys_a_block ? end - first : t->s->keys_a_block;
    return side_by_side(t, first, n);
}

/* Whether blocks are decoded, for all queries at once. */
static bool decodes(const struct tile *t) {
    return !t->s->k->dot || tile_queries(t) >= DECODE_QUERIES;
}

static void decode_block(const struct tile *t, struct ring r, uint32_t first, uint32_t n) {
    const uint8_t *rows = row_at(t, &r, first);
    for (uint32_t j = 0; j < n; j++) {
        t->s->k->decode(rows + j * r.row_bytes, r.cols, 0, r.dim,
                        t->own->panel + (size_t)j * r.dim);
    }
}

/* Scores of all keys for all queries, also of those that a query does not see. */
static void score_keys(const struct tile *t) {
    const struct attend *s = t->s;
    const uint32_t n_q = tile_queries(t), dim = s->dim;
    for (uint32_t i = 0; i < n_q; i++) {
        t->own->xs[i] = query_numbers(t, i);
    }
    for (uint32_t j = t->first, n; j < t->end; j += n) {
        n = block_keys(t, j, t->end);
        if (decodes(t)) {
            decode_block(t, keys_of(t), j, n);
            s->c->isa->tile(t->own->panel, dim, n, dim, t->own->xs, n_q,
                            t->own->scores + (j - t->first), s->c->limits.max_ctx_tok);
            continue;
        }
        for (uint32_t i = 0; i < n_q; i++) {
            struct dot_rows rows = rows_of(t, keys_of(t), j, n, i == 0);
            s->k->dot(&rows, t->own->xs[i], query_scores(t, i) + (j - t->first));
        }
    }
}

/* out of query i += the values of keys first .. end - 1 by its weights. */
static void add_values(const struct tile *t, uint32_t i, uint32_t first, uint32_t end, bool ask) {
    for (uint32_t n; first < end; first += n) {
        if (!t->s->k->axpy) {
            n = block_keys(t, first, end);
            decode_block(t, values_of(t), first, n);
            t->s->c->isa->mix_on(t->own->panel, t->s->v_dim, n, t->s->v_dim,
                                 query_scores(t, i) + (first - t->first), 0, 1, t->own->ys + i);
            continue;
        }
        n = side_by_side(t, first, end - first);
        struct dot_rows rows = rows_of(t, values_of(t), first, n, ask);
        t->s->k->axpy(&rows, query_scores(t, i) + (first - t->first), query_out(t, i));
    }
}

/* Keys that all rows see go a block at a time; a row's others, before and after, on their own. */
static void mix_values(const struct tile *t) {
    const struct attend *s = t->s;
    const uint32_t n_q = tile_queries(t), dim = s->v_dim;
    uint32_t first = first_key(t, t->n_rows - 1), end = end_key(t, 0);
    end = end > first ? end : first;
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t row_end = end_key(t, i / t->n_heads);
        t->own->ys[i] = query_out(t, i);
        memset(t->own->ys[i], 0, dim * sizeof(float));
        add_values(t, i, first_key(t, i / t->n_heads), first < row_end ? first : row_end, false);
    }
    for (uint32_t j = first, n; j < end; j += n) {
        n = block_keys(t, j, end);
        if (decodes(t)) {
            decode_block(t, values_of(t), j, n);
            s->c->isa->mix_on(t->own->panel, dim, n, dim, t->own->scores + (j - t->first),
                              s->c->limits.max_ctx_tok, n_q, t->own->ys);
            continue;
        }
        for (uint32_t i = 0; i < n_q; i++) {
            add_values(t, i, j, j + n, i == 0);
        }
    }
    for (uint32_t i = 0; i < n_q; i++) {
        add_values(t, i, end, end_key(t, i / t->n_heads), false);
    }
}

static void attend_tile(const struct tile *t) {
    const struct dot_isa *isa = t->s->c->isa;
    const uint32_t n_q = tile_queries(t);
    float sums[CPU_QUERIES];
    score_keys(t);
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t first = first_key(t, i / t->n_heads), n = end_key(t, i / t->n_heads) - first;
        float *score = query_scores(t, i) + (first - t->first), scale = query_scale(t, i);
        for (uint32_t j = 0; j < n; j++) {
            score[j] *= scale;
        }
        float greatest = isa->max(score, n), sink = t->s->sinks ? query_sink(t, i) : 0;
        if (t->s->sinks && sink > greatest) {
            greatest = sink;
        }
        sums[i] = isa->exp_sum(score, n, greatest);
        sums[i] += t->s->sinks ? isa->exp_sum(&sink, 1, greatest) : 0;
    }
    mix_values(t);
    for (uint32_t i = 0; i < n_q; i++) {
        float *out = query_out(t, i);
        for (uint32_t k = 0; k < t->s->v_dim; k++) {
            out[k] /= sums[i];
        }
    }
}

static void attention_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct attend *s = ctx;
    const struct kv *kv = s->kv;
    uint32_t group = s->n_heads / kv->n_kv_heads, share = item % s->items_a_kv_head;
    uint32_t kv_head = item / s->items_a_kv_head % kv->n_kv_heads;
    uint32_t row = item / s->items_a_kv_head / kv->n_kv_heads * s->rows_an_item;

    uint32_t first_head = share * s->heads_an_item, rest = group - first_head;
    const size_t start = (size_t)kv_head * kv->capacity_tok;
    struct tile t = {
        .s = s,
        .own = &s->c->workers[worker],
        .keys = (const uint8_t *)kv->k + start * s->k_bytes,
        .values = (const uint8_t *)(s->latent ? kv->k : kv->v) + start * s->v_bytes,
        .n_heads = rest < s->heads_an_item ? rest : s->heads_an_item,
        .n_rows = s->rows - row < s->rows_an_item ? s->rows - row : s->rows_an_item,
        .pos0 = s->pos0 + row,
        .at = (size_t)row * s->n_heads + kv_head * group + first_head,
    };
    t.first = first_key(&t, 0);
    t.end = end_key(&t, t.n_rows - 1);
    attend_tile(&t);
}

/* Rows and heads of an item: as many as may be together, fewer where the threads would run out of
 * items. */
static void choose_tiles(struct attend *s) {
    const uint32_t group = s->n_heads / s->kv->n_kv_heads, kv_heads = s->kv->n_kv_heads;
    const uint64_t enough = 2 * (uint64_t)pool_threads(s->c->pool);
    s->heads_an_item = group < CPU_QUERIES ? group : CPU_QUERIES;
    while (s->heads_an_item > 1 &&
           (uint64_t)s->rows * kv_heads * cpu_ceil_div(group, s->heads_an_item) < enough) {
        s->heads_an_item = (s->heads_an_item + 1) / 2;
    }
    s->items_a_kv_head = cpu_ceil_div(group, s->heads_an_item);
    s->rows_an_item = CPU_QUERIES / s->heads_an_item;
    while (s->rows_an_item > 1 &&
           (uint64_t)cpu_ceil_div(s->rows, s->rows_an_item) * kv_heads * s->items_a_kv_head <
               enough) {
        s->rows_an_item = (s->rows_an_item + 1) / 2;
    }
    size_t fit = s->c->panel_floats / (s->dim > s->v_dim ? s->dim : s->v_dim);
    s->keys_a_block = fit < CPU_KEYS ? (uint32_t)fit : CPU_KEYS;
}

/* Run `s`, of which all is set but how keys are read and who computes what. */
static void attend(struct cpu *c, struct attend *s) {
    const struct kv *kv = s->kv;
    const enum codec_id codec = kv_codec(kv->type)->id;
    s->c = c;
    s->k = &c->isa->codec[codec];
    s->dim = kv->head_dim;
    s->v_dim = s->latent ? kv->latent_dim : kv_v_dim(kv);
    s->k_bytes = kv_key_row_bytes(kv);
    s->v_bytes = s->latent ? s->k_bytes : kv_value_row_bytes(kv);
    choose_tiles(s);
    /* Shapes take turns where there is one row, as when a token is decoded. */
    struct shape_trial *trial = &c->shapes.attention[codec];
    const uint32_t keys = s->pos0 + 1 - first_seen(s, s->pos0);
    const uint64_t bytes = s->rows == 1 && s->heads_an_item < DECODE_QUERIES && s->k->dot
                               ? keys * (s->k_bytes + s->v_bytes) * kv->n_kv_heads
                               : 0;
    const bool tries = shape_tries(trial);
    s->shape = &shapes[shape_next(trial, bytes)];
    const uint64_t start = tries ? clock_ns() : 0;
    cpu_run(c, attention_item, s,
            cpu_ceil_div(s->rows, s->rows_an_item) * kv->n_kv_heads * s->items_a_kv_head,
            (uint64_t)s->rows * s->n_heads * (s->pos0 + s->rows) * (s->dim + s->v_dim));
    if (tries) {
        shape_took(trial, bytes, clock_ns() - start);
    }
}

void cpu_attention(void *self, const struct attention_rule *rule, const struct kv *kv,
                   const struct weight *sinks, const float *q, uint32_t pos0, uint32_t rows,
                   float *out) {
    struct attend s = {
        .kv = kv,
        .q = q,
        .sinks = rule->sinks ? weight_floats(sinks) : NULL,
        .out = out,
        .rule = rule,
        .n_heads = rule->n_heads,
        .rows = rows,
        .pos0 = pos0,
    };
    attend(self, &s);
}

void cpu_latent_attention(void *self, const struct latent_rule *rule, const struct kv *kv,
                          const float *q, const float *q_rest, uint32_t pos0, uint32_t rows,
                          float *out) {
    struct attend s = {
        .kv = kv,
        .latent = rule,
        .q = q,
        .q_rest = q_rest,
        .out = out,
        .n_heads = rule->n_heads,
        .rows = rows,
        .pos0 = pos0,
    };
    attend(self, &s);
}
