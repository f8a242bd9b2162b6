#include "runtime/model/state.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/model/mixer.h"

/* Keys and values together, and those of one token. */
static size_t both_bytes(const struct kv *kv) {
    return kv_bytes(kv) + kv_value_bytes(kv);
}
static size_t token_bytes(const struct kv *kv) {
    return kv->capacity_tok > 0 ? both_bytes(kv) / kv->capacity_tok : 0;
}

/* All but `kept_at`. */
static struct layer_state shape_of(const struct arch *a, uint32_t layer,
                                   const struct state_size *size) {
    struct layer_state out = {0};
    mixer_of(a, layer)->shape(a, layer, size, &out);
    out.kept_bytes = token_bytes(&out.kv) * out.kept_tok + out.tail_bytes + out.recurrent_bytes;
    return out;
}

int state_fits(const struct arch *a, enum kv_type type, struct err *err) {
    const struct state_size size = {.ctx_tok = 1, .batch_rows = 1, .type = type};
    const struct codec *codec = kv_codec(type);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct kv kv = shape_of(a, l, &size).kv;
        /* A latent is read as the first blocks of its key. */
        const uint32_t widths[] = {kv.head_dim, kv_v_dim(&kv), kv.latent_dim};
        for (uint32_t i = 0; i < 3 && kv.capacity_tok > 0; i++) {
            if (widths[i] > 0 && !codec_fits(codec, widths[i])) {
                return err_set(err,
                               "a KV cache in %s: layer %u has %s of %u numbers, expected a "
                               "multiple of %u",
                               codec->name, l, i < 2 ? "heads" : "latents", widths[i],
                               codec->block_cols);
            }
        }
    }
    return 0;
}

size_t state_kept_bytes(const struct arch *a, const struct state_size *size) {
    size_t bytes = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        bytes += shape_of(a, l, size).kept_bytes;
    }
    return bytes;
}

/* Words that tell of keys and values that the type cannot hold. */
static size_t beyond_bytes(const struct arch *a, const struct state_size *size) {
    return size->type != KV_F32 ? (size_t)a->n_layers * 2 * sizeof(uint32_t) : 0;
}

uint64_t state_bytes(const struct arch *a, const struct state_size *size) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_state s = shape_of(a, l, size);
        bytes += both_bytes(&s.kv) + s.tail_bytes + s.recurrent_bytes;
    }
    return bytes + beyond_bytes(a, size);
}

/* Whether a layer's keys and values are those of the whole context. */
static bool grows(const struct kv *kv, const struct state_size *size) {
    return kv->capacity_tok > 0 && kv->capacity_tok == size->ctx_tok;
}

uint64_t state_bytes_at(const struct arch *a, const struct state_size *size, uint32_t n_tok) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = beyond_bytes(a, size);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct layer_state s = shape_of(a, l, size);
        const uint64_t whole[2] = {kv_bytes(&s.kv), kv_value_bytes(&s.kv)};
        for (int i = 0; i < 2; i++) {
            uint64_t kv = whole[i];
            if (grows(&s.kv, size)) {
                /* A head's keys lie side by side, and begin and end inside of a page. */
                const uint64_t of_head =
                    align_up(whole[i] / size->ctx_tok / s.kv.n_kv_heads * n_tok, page);
                kv = n_tok > 0 ? s.kv.n_kv_heads * (of_head + page) : 0;
            }
            bytes += kv < whole[i] ? kv : whole[i];
        }
        bytes += s.tail_bytes + s.recurrent_bytes;
    }
    return bytes;
}

/* So much backend memory, in the pointer at `at`; nothing for 0 bytes. */
static int take(struct backend *be, size_t bytes, void *at, struct err *err) {
    void *p = bytes > 0 ? be->ops->alloc(be->self, bytes, err) : NULL;
    memcpy(at, &p, sizeof p);
    return bytes > 0 && !p ? -1 : 0;
}

int state_open(struct state *s, const struct arch *a, struct backend *be,
               const struct state_size *size, const bool *only, struct err *err) {
    *s = (struct state){.arch = a, .be = be, .size = *size};
    s->layers = mem_calloc(a->n_layers, sizeof *s->layers);
    s->words = mem_calloc(1, beyond_bytes(a, size));
    if (take(be, beyond_bytes(a, size), &s->beyond, err) < 0) {
        return -1;
    }
    size_t kept = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_state *st = &s->layers[l];
        if (only && !only[l]) {
            continue;
        }
        *st = shape_of(a, l, size);
        st->kept_at = kept;
        kept += st->kept_bytes;
        if (take(be, kv_bytes(&st->kv), &st->kv.k, err) < 0 ||
            take(be, kv_value_bytes(&st->kv), &st->kv.v, err) < 0 ||
            take(be, st->tail_bytes, &st->tail, err) < 0 ||
            take(be, st->recurrent_bytes, &st->recurrent, err) < 0) {
            return -1;
        }
        st->kv.beyond = st->kv.k && s->beyond ? s->beyond + 2 * (size_t)l : NULL;
    }
    return 0;
}

void state_close(struct state *s) {
    for (uint32_t l = 0; s->layers && l < s->arch->n_layers; l++) {
        struct layer_state *st = &s->layers[l];
        void *all[] = {st->kv.k, st->kv.v, st->tail, st->recurrent};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            s->be->ops->free(s->be->self, all[i]);
        }
    }
    if (s->beyond) {
        s->be->ops->free(s->be->self, s->beyond);
    }
    free(s->words);
    free(s->layers);
    *s = (struct state){0};
}

/* Backend memory to backend memory, by way of the host. */
static void copy_bytes(struct backend *be, void *to, const void *from, size_t bytes) {
    uint8_t piece[1 << 14];
    for (size_t at = 0; at < bytes; at += sizeof piece) {
        const size_t n = bytes - at < sizeof piece ? bytes - at : sizeof piece;
        be->ops->read(be->self, piece, (const uint8_t *)from + at, n);
        be->ops->write(be->self, (uint8_t *)to + at, piece, n);
    }
}

/* Keys or values, of `row` bytes: of each head those of the first `n_tok` places. */
static void copy_heads(struct backend *be, const struct kv *kv, size_t row, void *to,
                       const void *from, uint32_t n_tok) {
    for (uint32_t h = 0; h < kv->n_kv_heads && to; h++) {
        const size_t first = (size_t)h * kv->capacity_tok * row;
        copy_bytes(be, (uint8_t *)to + first, (const uint8_t *)from + first, n_tok * row);
    }
}

void state_copy(struct state *to, const struct state *from, uint32_t n_tok) {
    for (uint32_t l = 0; l < from->arch->n_layers; l++) {
        const struct layer_state *src = &from->layers[l], *dst = &to->layers[l];
        const uint32_t most = src->kv.capacity_tok;
        const uint32_t held = grows(&src->kv, &from->size) ? n_tok : from->farthest;
        const uint32_t n = held < most ? held : most;
        if (most > 0) {
            copy_heads(from->be, &src->kv, kv_key_row_bytes(&src->kv), dst->kv.k, src->kv.k, n);
            copy_heads(from->be, &src->kv, kv_value_row_bytes(&src->kv), dst->kv.v, src->kv.v, n);
        }
        copy_bytes(from->be, dst->tail, src->tail, src->tail_bytes);
        copy_bytes(from->be, dst->recurrent, src->recurrent, src->recurrent_bytes);
    }
    to->end = from->end;
    to->farthest = from->farthest;
}

/* Keys or values, of `row` bytes, at the positions from `first` to `end`: of each head one piece,
 * or two where they go around the ring. */
static int walk_heads(const struct kv *kv, size_t row, uint8_t *base, uint32_t first, uint32_t end,
                      int (*on)(void *ctx, void *piece, size_t bytes), void *ctx) {
    for (uint32_t h = 0; h < kv->n_kv_heads && base; h++) {
        for (uint32_t pos = first; pos < end;) {
            const uint32_t place = pos % kv->capacity_tok, left = kv->capacity_tok - place;
            const uint32_t n = end - pos < left ? end - pos : left;
            if (on(ctx, base + ((size_t)h * kv->capacity_tok + place) * row, n * row) < 0) {
                return -1;
            }
            pos += n;
        }
    }
    return 0;
}

/* Keys and values of a layer that any token from n_tok on sees. */
static int walk_keys(const struct state *s, uint32_t layer, uint32_t n_tok,
                     int (*on)(void *ctx, void *piece, size_t bytes), void *ctx) {
    const struct kv *kv = &s->layers[layer].kv;
    const uint32_t first = mixer_of(s->arch, layer)->first_seen(s->arch, layer, n_tok);
    return walk_heads(kv, kv_key_row_bytes(kv), kv->k, first, n_tok, on, ctx) < 0
               ? -1
               : walk_heads(kv, kv_value_row_bytes(kv), kv->v, first, n_tok, on, ctx);
}

/* What a layer holds of its last moment. */
static int walk_moment(const struct state *s, uint32_t layer,
                       int (*on)(void *ctx, void *piece, size_t bytes), void *ctx) {
    const struct layer_state *st = &s->layers[layer];
    if (st->tail_bytes > 0 && on(ctx, st->tail, st->tail_bytes) < 0) {
        return -1;
    }
    return st->recurrent_bytes > 0 ? on(ctx, st->recurrent, st->recurrent_bytes) : 0;
}

int state_walk(const struct state *s, uint32_t n_tok,
               int (*on)(void *ctx, void *piece, size_t bytes), void *ctx) {
    for (uint32_t l = 0; l < s->arch->n_layers && n_tok > 0; l++) {
        if (s->layers[l].kv.capacity_tok > 0 && walk_keys(s, l, n_tok, on, ctx) < 0) {
            return -1;
        }
        if (walk_moment(s, l, on, ctx) < 0) {
            return -1;
        }
    }
    return 0;
}

uint64_t state_walk_bytes(const struct arch *a, enum kv_type type, uint32_t n_tok) {
    const struct state_size size = {.ctx_tok = 1, .batch_rows = 1, .type = type};
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < a->n_layers && n_tok > 0; l++) {
        const struct layer_state st = shape_of(a, l, &size); /* with keys of one token */
        bytes += st.tail_bytes + st.recurrent_bytes;
        if (st.kv.capacity_tok > 0) {
            const uint32_t seen = n_tok - mixer_of(a, l)->first_seen(a, l, n_tok);
            bytes += (uint64_t)both_bytes(&st.kv) * seen;
        }
    }
    return bytes;
}

/* A ring holds the positions of the walk, and nothing before them. */
void state_restored(struct state *s, uint32_t n_tok) {
    s->end = s->farthest = n_tok;
    s->torn = false;
    for (uint32_t l = 0; l < s->arch->n_layers && n_tok > 0; l++) {
        const uint32_t capacity = s->layers[l].kv.capacity_tok;
        const uint32_t first =
            capacity > 0 ? mixer_of(s->arch, l)->first_seen(s->arch, l, n_tok) : 0;
        if (first > 0 && first + capacity > s->farthest) {
            s->farthest = first + capacity;
        }
    }
}

/* Forget what the layers told of keys and values. */
static void clear_beyond(struct state *s) {
    if (s->beyond) {
        s->be->ops->clear(s->be->self, s->beyond, beyond_bytes(s->arch, &s->size));
    }
}

int state_check(struct state *s, const char *advice, struct err *err) {
    const uint32_t n = 2 * s->arch->n_layers;
    uint32_t greatest = 0, at = 0;
    if (!s->beyond) {
        return 0;
    }
    uint32_t *words = s->words;
    s->be->ops->read(s->be->self, words, s->beyond, n * sizeof *words);
    for (uint32_t i = 0; i < n; i++) {
        at = words[i] > greatest ? i : at;
        greatest = words[i] > greatest ? words[i] : greatest;
    }
    if (greatest == 0) {
        return 0;
    }
    clear_beyond(s);
    return err_set(err, "the token at position %u has %s in layer %u that %s cannot hold%s",
                   UINT32_MAX - greatest, at % 2 ? "values" : "keys", at / 2,
                   kv_codec(s->size.type)->name, advice);
}

void state_touch(struct state *s, uint32_t n_tok) {
    s->touched = n_tok > s->touched ? n_tok : s->touched;
}

void state_forget(struct state *s, uint32_t n_tok) {
    for (uint32_t l = 0; l < s->arch->n_layers && n_tok < s->touched && s->be->ops->forget; l++) {
        const struct kv *kv = &s->layers[l].kv;
        if (!grows(kv, &s->size)) {
            continue;
        }
        const size_t rows[2] = {kv_key_row_bytes(kv), kv_value_row_bytes(kv)};
        uint8_t *const bases[2] = {kv->k, kv->v};
        for (uint32_t i = 0; i < 2 * kv->n_kv_heads; i++) {
            const size_t at = (size_t)(i / 2) * kv->capacity_tok + n_tok, row = rows[i % 2];
            if (bases[i % 2]) {
                s->be->ops->forget(s->be->self, bases[i % 2] + at * row,
                                   (s->touched - n_tok) * row);
            }
        }
    }
    s->touched = n_tok < s->touched ? n_tok : s->touched;
}

void state_advance(struct state *s, uint32_t rows) {
    s->end += rows;
    s->farthest = s->end > s->farthest ? s->end : s->farthest;
}

/* Make the state one that stands for no tokens. Keys and values need no clearing, because only
 * those of the sequence are read. */
static uint32_t start_again(struct state *s) {
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        const struct layer_state *st = &s->layers[l];
        if (st->tail_bytes > 0) {
            s->be->ops->clear(s->be->self, st->tail, st->tail_bytes);
        }
        if (st->recurrent_bytes > 0) {
            s->be->ops->clear(s->be->self, st->recurrent, st->recurrent_bytes);
        }
    }
    s->end = s->farthest = 0;
    s->torn = false;
    return 0;
}

bool state_holds(const struct state *s, uint32_t n_tok) {
    for (uint32_t l = 0; l < s->arch->n_layers && n_tok > 0; l++) {
        if (!mixer_of(s->arch, l)->holds(s->arch, l, s, n_tok)) {
            return false;
        }
    }
    return true;
}

uint32_t state_cut(struct state *s, uint32_t n_tok) {
    if (n_tok == 0 || !state_holds(s, n_tok)) {
        return start_again(s);
    }
    s->end = n_tok;
    s->torn = false;
    return n_tok;
}

void state_break(struct state *s) {
    /* Some layers may have taken up a whole call. */
    uint64_t reached = (uint64_t)s->end + s->size.batch_rows;
    reached = reached < s->size.ctx_tok ? reached : s->size.ctx_tok;
    s->farthest = reached > s->farthest ? (uint32_t)reached : s->farthest;
    s->torn = true;
    clear_beyond(s);
}

uint32_t state_undo(struct state *s, uint32_t n_tok) {
    state_break(s);
    return state_cut(s, n_tok < s->end ? n_tok : s->end);
}

/* ---- snapshots ---- */

struct keeper {
    struct backend *be;
    uint8_t *next; /* in the snapshot */
};

static int keep_piece(void *ctx, void *piece, size_t bytes) {
    struct keeper *k = ctx;
    copy_bytes(k->be, k->next, piece, bytes);
    k->next += bytes;
    return 0;
}

static int return_piece(void *ctx, void *piece, size_t bytes) {
    struct keeper *k = ctx;
    copy_bytes(k->be, piece, k->next, bytes);
    k->next += bytes;
    return 0;
}

static void walk_kept(const struct state *s, uint32_t layer, uint32_t n_tok, void *kept,
                      int (*on)(void *ctx, void *piece, size_t bytes)) {
    const struct layer_state *st = &s->layers[layer];
    struct keeper k = {s->be, (uint8_t *)kept + st->kept_at};
    if (st->kept_tok > 0) {
        walk_keys(s, layer, n_tok, on, &k);
    }
    walk_moment(s, layer, on, &k);
}

void state_keep(const struct state *s, uint32_t layer, uint32_t n_tok, void *kept) {
    walk_kept(s, layer, n_tok, kept, keep_piece);
}

void state_return(struct state *s, uint32_t n_tok, const void *kept) {
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        walk_kept(s, l, n_tok, (void *)(uintptr_t)kept, return_piece);
    }
    state_restored(s, n_tok);
}
