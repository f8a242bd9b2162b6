#include "runtime/model/state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/model/mixer.h"

static struct layer_state shape_of(const struct arch *a, uint32_t layer,
                                   const struct state_size *size) {
    struct layer_state out = {0};
    mixer_of(a, layer)->shape(a, layer, size, &out);
    return out;
}

uint64_t state_bytes(const struct arch *a, const struct state_size *size) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_state s = shape_of(a, l, size);
        bytes += 2 * (uint64_t)kv_bytes(&s.kv) + s.tail_bytes + s.recurrent_bytes;
    }
    return bytes;
}

/* Take backend memory; *p is NULL where `bytes` is 0. Returns false where there is none left. */
static bool take(struct backend *be, size_t bytes, void **p) {
    *p = bytes > 0 ? be->ops->alloc(be->self, bytes) : NULL;
    return bytes == 0 || *p;
}

int state_open(struct state *s, const struct arch *a, struct backend *be,
               const struct state_size *size, const bool *only, struct err *err) {
    *s = (struct state){.arch = a, .be = be, .size = *size};
    s->layers = mem_calloc(a->n_layers, sizeof *s->layers);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_state *st = &s->layers[l];
        if (only && !only[l]) {
            continue;
        }
        *st = shape_of(a, l, size);
        void *k, *v, *tail, *recurrent;
        bool there = take(be, kv_bytes(&st->kv), &k) & take(be, kv_bytes(&st->kv), &v) &
                     take(be, st->tail_bytes, &tail) & take(be, st->recurrent_bytes, &recurrent);
        st->kv.k = k;
        st->kv.v = v;
        st->tail = tail;
        st->recurrent = recurrent;
        if (!there) {
            state_close(s);
            return err_set(err, "%s: no memory left for a sequence of %u tokens: %llu MiB",
                           be->name, size->ctx_tok,
                           (unsigned long long)(state_bytes(a, size) >> 20));
        }
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
    free(s->layers);
    *s = (struct state){0};
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
    return 0;
}

uint32_t state_cut(struct state *s, uint32_t n_tok) {
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        if (n_tok == 0 || !mixer_of(s->arch, l)->holds(s->arch, l, s, n_tok)) {
            return start_again(s);
        }
    }
    s->end = n_tok;
    return n_tok;
}

uint32_t state_undo(struct state *s, uint32_t n_tok) {
    n_tok = n_tok < s->end ? n_tok : s->end;
    /* Some layers may have taken up a whole call. */
    s->farthest =
        s->end + s->size.batch_rows > s->farthest ? s->end + s->size.batch_rows : s->farthest;
    s->end = UINT32_MAX; /* a recurrence holds nothing */
    return state_cut(s, n_tok);
}
