/*
 * cuda_fuse: operations that wait for the next ones, to share a kernel with them.
 *
 * A token that decodes has little work in each operation, so that what a launch costs counts. Five
 * series of operations become one kernel each; what an operation leaves in memory, and its bits,
 * are the same:
 *   rmsnorm, then matmuls of its result, by matrices of one codec; then route of the only one
 *   matmul, then add of its result to the residual stream
 *   rmsnorm by head, rope and kv_store of one row, then its attention
 *   experts, then combine, then add (cuda_experts.cu begins it)
 * One of these is under way at a time, in struct cuda_fuse. An operation that does not go on with
 * it, a read, a write and a mark first queue what waits. Only what follows operations decides, not
 * the number of their rows up to CUDA_FEW_ROWS, but where both ways have the same bits.
 *
 * While the sums of experts wait, rows of other uses may be put (cuda_fuse_lets_rows), and a mark
 * does not queue them: their kernel reads no weights, so nothing that an upload overwrites.
 */
#include "kernels/cuda/cuda.inc"

static void begin(struct cuda *c, enum cuda_waiting what) {
    cuda_settle(c);
    c->fuse.waiting = what;
}

/* Whether `n` floats from `a` on and `m` from `b` on have some in common. */
static bool overlap(const float *a, size_t n, const float *b, size_t m) {
    return a < b + m && b < a + n;
}

/* ---- products ------------------------------------------------------------------------------- */

static void begin_product(struct cuda *c, const float *x, uint32_t rows, uint32_t cols) {
    begin(c, CUDA_PRODUCT);
    c->fuse.product = (struct cuda_product){};
    c->fuse.product.x = x;
    c->fuse.product.rows = rows;
    c->fuse.product.cols = cols;
}

/* Whether one more product goes with those that wait. */
static bool goes_with(const struct cuda_fuse *f, const struct weight *w, const float *x,
                      uint32_t rows, const float *y) {
    const struct cuda_product *p = &f->product;
    const size_t n_in = (size_t)rows * w->cols, n_out = (size_t)rows * w->rows;
    bool fits = f->waiting == CUDA_PRODUCT && p->n_w < CUDA_PRODUCTS && p->rows == rows &&
                p->cols == w->cols && x == (p->normed ? p->normed : p->x) &&
                !overlap(y, n_out, p->x, n_in) && (p->n_w == 0 || f->codec == w->codec->id);
    for (uint32_t i = 0; i < p->n_w && fits; i++) {
        fits = !overlap(y, n_out, p->w[i].y, (size_t)rows * p->w[i].n_out);
    }
    return fits;
}

bool cuda_fuse_product(struct cuda *c, const struct weight *w, const float *bias, const float *x,
                       uint32_t rows, float *y) {
    struct cuda_product *p = &c->fuse.product;
    if (rows == 0 || rows > CUDA_FEW_ROWS) {
        return false;
    }
    if (!goes_with(&c->fuse, w, x, rows, y)) {
        begin_product(c, x, rows, w->cols);
    }
    c->fuse.codec = w->codec->id;
    p->w[p->n_w++] = cuda_factor{w->data, w->stride_bytes, bias, y, w->rows};
    p->n_out += w->rows;
    return true;
}

bool cuda_fuse_route(struct cuda *c, const struct cuda_route *r, uint32_t rows) {
    const struct cuda_product *p = &c->fuse.product;
    enum { MOST_EXPERTS = 4096 }; /* whose logits and ranks fit a block's shared memory */
    if (c->fuse.waiting != CUDA_PRODUCT || rows != 1 || p->rows != 1 || p->n_w != 1 ||
        p->w[0].y != r->logits || p->n_out != r->n_experts || r->n_experts > MOST_EXPERTS) {
        return false;
    }
    c->fuse.route = *r;
    c->fuse.waiting = CUDA_ROUTED;
    return true;
}

bool cuda_fuse_read(struct cuda *c, const void *src, size_t bytes, void *host) {
    struct cuda_route *r = &c->fuse.route;
    if (c->fuse.waiting != CUDA_ROUTED || src != r->ids || bytes != r->n * sizeof *r->ids) {
        return false;
    }
    r->host_ids = (int32_t *)host;
    cuda_settle(c);
    return true;
}

/* ---- heads ---------------------------------------------------------------------------------- */

/* The side that has `x`, of this shape; a new one where there is none and it may join; NULL: it
 * may not. */
static struct cuda_side *side_of(struct cuda *c, float *x, uint32_t n_heads, uint32_t head_dim) {
    struct cuda_heads *h = &c->fuse.heads;
    if (c->fuse.waiting != CUDA_HEADS || h->stored) {
        return NULL;
    }
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->sides[i].x == x) {
            const bool same = h->sides[i].n_heads == n_heads && h->sides[i].head_dim == head_dim;
            return same ? &h->sides[i] : NULL;
        }
    }
    if (h->n == 2 || (h->n > 0 && h->sides[0].head_dim != head_dim)) {
        return NULL;
    }
    struct cuda_side *s = &h->sides[h->n++];
    *s = (struct cuda_side){};
    s->x = x;
    s->n_heads = n_heads;
    s->head_dim = head_dim;
    return s;
}

static struct cuda_side *begin_heads(struct cuda *c, float *x, uint32_t n_heads,
                                     uint32_t head_dim) {
    begin(c, CUDA_HEADS);
    c->fuse.heads = (struct cuda_heads){};
    return side_of(c, x, n_heads, head_dim);
}

static bool fits_heads(const struct cuda *c, uint32_t n_heads, uint32_t head_dim) {
    return n_heads > 0 && n_heads <= c->limits.n_heads && head_dim <= CUDA_TURN_DIM;
}

bool cuda_fuse_norm(struct cuda *c, const float *x, const float *weight, float eps, uint32_t n,
                    uint32_t dim, float *y) {
    if (x == y) {
        if (!fits_heads(c, n, dim)) {
            return false;
        }
        struct cuda_side *s = side_of(c, y, n, dim);
        if (!s || s->normed || s->turned) {
            s = begin_heads(c, y, n, dim);
        }
        s->weight = weight;
        s->eps = eps;
        s->normed = true;
        return true;
    }
    if (n == 0 || n > CUDA_FEW_ROWS) {
        return false;
    }
    begin_product(c, x, n, dim);
    c->fuse.product.normed = y;
    c->fuse.product.weight = weight;
    c->fuse.product.eps = eps;
    return true;
}

bool cuda_fuse_rope(struct cuda *c, float *x, uint32_t rows, uint32_t n_heads, uint32_t head_dim,
                    const float *cs, uint32_t half) {
    struct cuda_heads *h = &c->fuse.heads;
    if (rows != 1 || !fits_heads(c, n_heads, head_dim)) {
        return false;
    }
    struct cuda_side *s = side_of(c, x, n_heads, head_dim);
    const bool other = h->cs && (h->cs != cs || h->half != half);
    if (!s || s->turned || other) {
        s = begin_heads(c, x, n_heads, head_dim);
    }
    s->turned = true;
    h->cs = cs;
    h->half = half;
    return true;
}

bool cuda_fuse_store(struct cuda *c, const struct kv *kv, const float *k, const float *v,
                     uint32_t pos0, uint32_t rows) {
    struct cuda_heads *h = &c->fuse.heads;
    if (rows != 1 || !fits_heads(c, kv->n_kv_heads, kv->head_dim)) {
        return false;
    }
    float *keys = (float *)(uintptr_t)k; /* of the sides, which only read it here */
    const bool v_waits = c->fuse.waiting == CUDA_HEADS && h->n > 0 &&
                         (h->sides[0].x == v || (h->n > 1 && h->sides[1].x == v));
    if (v_waits || !side_of(c, keys, kv->n_kv_heads, kv->head_dim)) {
        begin_heads(c, keys, kv->n_kv_heads, kv->head_dim);
    }
    h->stored = true;
    h->kv = *kv;
    h->k = k;
    h->v = v;
    h->pos0 = pos0;
    return true;
}

static void queue_heads(struct cuda *c, const struct cuda_heads *h) {
    for (uint32_t i = 0; i < h->n; i++) {
        const struct cuda_side *s = &h->sides[i];
        if (s->normed) {
            cuda_queue_norm(c, s->x, s->weight, s->eps, s->n_heads, s->head_dim, s->x);
        }
        if (s->turned) {
            cuda_queue_rope(c, s->x, 1, s->n_heads, s->head_dim, h->cs, h->half);
        }
    }
    if (h->stored) {
        cuda_queue_store(c, &h->kv, h->k, h->v, h->pos0, 1);
    }
}

/* ---- experts -------------------------------------------------------------------------------- */

bool cuda_fuse_combine(struct cuda *c, const float *parts, const float *weights, uint32_t rows,
                       uint32_t n_active, uint32_t dim, float *y) {
    struct cuda_parts *p = &c->fuse.parts;
    if (rows != 1 || n_active > CUDA_FEW_USES) {
        return false;
    }
    bool joins =
        c->fuse.waiting == CUDA_PARTS && p->parts == parts && p->dim == dim && p->n_active == 0;
    for (uint32_t i = 0; i < p->n_uses && joins; i++) {
        joins = p->uses[i].use < n_active;
    }
    if (!joins) {
        begin(c, CUDA_PARTS);
        *p = (struct cuda_parts){};
        p->parts = (float *)(uintptr_t)parts; /* written where uses wait, of which there are none */
        p->dim = dim;
    }
    p->n_active = n_active;
    p->weights = weights;
    p->y = y;
    return true;
}

bool cuda_fuse_lets_rows(const struct cuda *c, const float *y, const uint32_t *ids, uint32_t n) {
    const struct cuda_parts *p = &c->fuse.parts;
    bool lets = c->fuse.waiting == CUDA_PARTS && p->parts == y && p->n_active == 0;
    for (uint32_t i = 0; i < p->n_uses && lets; i++) {
        for (uint32_t k = 0; k < n && lets; k++) {
            lets = p->uses[i].use != ids[k];
        }
    }
    return lets;
}

/* ---- the residual stream -------------------------------------------------------------------- */

/* What is added to must be nobody's input: other blocks of the kernel may still read that. */
bool cuda_fuse_add(struct cuda *c, float *y, const float *x, size_t n) {
    struct cuda_product *p = &c->fuse.product;
    struct cuda_parts *e = &c->fuse.parts;
    if (c->fuse.waiting == CUDA_PRODUCT && p->n_w == 1 && p->w[0].y == x &&
        n == (size_t)p->rows * p->n_out && !overlap(y, n, p->x, (size_t)p->rows * p->cols) &&
        !(p->normed && overlap(y, n, p->normed, (size_t)p->rows * p->cols))) {
        p->sum = y;
    } else if (c->fuse.waiting == CUDA_PARTS && e->n_active > 0 && e->y == x && n == e->dim &&
               !overlap(y, n, e->parts, (size_t)e->n_active * e->dim)) {
        e->sum = y;
    } else {
        return false;
    }
    cuda_settle(c);
    return true;
}

/* ---- queueing ------------------------------------------------------------------------------- */

void cuda_settle_now(struct cuda *c) {
    const struct cuda_fuse *f = &c->fuse;
    const struct cuda_product *p = &f->product;
    const enum cuda_waiting waiting = f->waiting;
    c->fuse.waiting = CUDA_NOTHING;
    switch (waiting) {
    case CUDA_NOTHING:
        break;
    case CUDA_PRODUCT:
        if (p->n_w == 0) {
            cuda_queue_norm(c, p->x, p->weight, p->eps, p->rows, p->cols, p->normed);
        } else {
            cuda_queue_product(c, f->codec, p);
        }
        break;
    case CUDA_ROUTED:
        cuda_queue_routed(c, f->codec, p, &f->route);
        break;
    case CUDA_HEADS:
        queue_heads(c, &f->heads);
        break;
    case CUDA_PARTS:
        cuda_queue_parts(c, &f->parts);
        break;
    }
}
