/*
 * test_util_device: see test_util_device.h.
 */
#include "tests/util/test_util_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MAX_BLOCKS = 8192, MAX_HOST = 64, MAX_UPLOADS = 4096, MAX_JOBS = 8 };

struct block {
    size_t at, bytes;
};

struct request {
    struct backend_copy *copies; /* [n], to real addresses */
    uint32_t n, at; /* at: the copy under way, of which `done` bytes have been copied */
    size_t done;
    uint64_t after;
};

struct queue {
    struct request requests[MAX_UPLOADS]; /* number n at n % MAX_UPLOADS */
    uint64_t n_asked, n_done;
};

/* A call of experts that waits for its turn, with copies of what the host may change. */
struct late {
    struct expert_layer layer;
    uint32_t n_jobs;
    struct expert_job *jobs;
    const float *x;
    float *parts;
};

struct fake {
    struct backend cpu;
    struct fake_options opt;
    uint8_t *shown, *real; /* [memory_bytes]: unreadable addresses, and what they stand for */
    struct block blocks[MAX_BLOCKS]; /* in order of `at` */
    size_t n_blocks;
    void *host[MAX_HOST];
    size_t host_bytes[MAX_HOST];
    pthread_mutex_t lock; /* guards all below, and the blocks */
    pthread_cond_t changed;
    struct queue queues[BACKEND_URGENCIES];
    struct late late[MAX_JOBS];
    uint64_t n_called, n_computed; /* calls of experts */
    pthread_t copier, device;
    bool stop;
    struct fake_counts counts;
    bool copying;
    uint32_t computing; /* operations under way */
    uint64_t since_ns;  /* of copying and computing as they are */
};

/* [locked] Before copying or computing changes: count the time as it was. */
static void count_time(struct fake *f) {
    uint64_t now = clock_ns();
    f->counts.link.copy_ns += f->copying ? now - f->since_ns : 0;
    f->counts.link.hidden_ns += f->copying && f->computing > 0 ? now - f->since_ns : 0;
    f->since_ns = now;
}

/* ---- memory --------------------------------------------------------------------------------- */

/* Where a device address really is. It must be inside what was allocated. */
static void *real(const struct fake *f, const void *p) {
    size_t at = (size_t)((uintptr_t)p - (uintptr_t)f->shown);
    if (!p) {
        return NULL;
    }
    if (at >= f->opt.memory_bytes) {
        die("fake device: %p is no address of the device", p);
    }
    return f->real + at;
}
#define REAL(p) real(f, p)

static void *alloc(void *self, size_t bytes, struct err *err) {
    struct fake *f = self;
    size_t need = align_up(bytes ? bytes : 1, 256), at = 0, i = 0;
    pthread_mutex_lock(&f->lock);
    for (; i < f->n_blocks && f->blocks[i].at - at < need; i++) {
        at = f->blocks[i].at + f->blocks[i].bytes;
    }
    if (f->n_blocks == MAX_BLOCKS || at + need > f->opt.memory_bytes) {
        err_set(err, "fake device: %zu bytes asked for, %zu of %zu in use", bytes,
                f->counts.used_bytes, f->opt.memory_bytes);
        pthread_mutex_unlock(&f->lock);
        return NULL;
    }
    memmove(&f->blocks[i + 1], &f->blocks[i], (f->n_blocks - i) * sizeof *f->blocks);
    f->blocks[i] = (struct block){at, need};
    f->n_blocks++;
    f->counts.used_bytes += need;
    if (f->counts.used_bytes > f->counts.most_bytes) {
        f->counts.most_bytes = f->counts.used_bytes;
    }
    pthread_mutex_unlock(&f->lock);
    memset(f->real + at, 0, need);
    return f->shown + at;
}

/* All calls of experts so far have been computed. */
static void finish(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    while (f->n_computed < f->n_called) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

static void free_memory(void *self, void *p) {
    struct fake *f = self;
    if (!p) {
        return;
    }
    finish(f);
    pthread_mutex_lock(&f->lock);
    size_t at = (size_t)((uint8_t *)p - f->shown), i = 0;
    while (i < f->n_blocks && f->blocks[i].at != at) {
        i++;
    }
    if (i == f->n_blocks) {
        die("fake device: %p was not allocated", p);
    }
    f->counts.used_bytes -= f->blocks[i].bytes;
    memmove(&f->blocks[i], &f->blocks[i + 1], (--f->n_blocks - i) * sizeof *f->blocks);
    pthread_mutex_unlock(&f->lock);
}

static void read_memory(void *self, void *host_dst, const void *src, size_t bytes) {
    struct fake *f = self;
    finish(f);
    memcpy(host_dst, REAL(src), bytes);
}

static void write_memory(void *self, void *dst, const void *host_src, size_t bytes) {
    struct fake *f = self;
    finish(f);
    memcpy(REAL(dst), host_src, bytes);
}

static void clear_memory(void *self, void *p, size_t bytes) {
    struct fake *f = self;
    finish(f);
    memset(REAL(p), 0, bytes);
}

/* Never freed but with the whole: place has no counterpart. */
static int place(void *self, const struct weight *host, struct weight *out, struct err *err) {
    struct fake *f = self;
    *out = *host;
    if (!host->data) {
        return 0;
    }
    size_t bytes = (host->rows - 1) * host->stride_bytes + codec_row_bytes(host->codec, host->cols);
    out->data = alloc(self, bytes, err);
    if (!out->data) {
        return -1;
    }
    memcpy(REAL(out->data), host->data, bytes);
    return 0;
}

static struct weight real_weight(const struct fake *f, const struct weight *w) {
    struct weight r = *w;
    r.data = REAL(w->data);
    return r;
}

static struct kv real_kv(const struct fake *f, const struct kv *kv) {
    return (struct kv){.type = kv->type,
                       .n_kv_heads = kv->n_kv_heads,
                       .head_dim = kv->head_dim,
                       .capacity_tok = kv->capacity_tok,
                       .v_dim = kv->v_dim,
                       .latent_dim = kv->latent_dim,
                       .k = REAL(kv->k),
                       .v = REAL(kv->v),
                       .beyond = REAL(kv->beyond)};
}

static void *host_alloc(void *self, size_t bytes, struct err *err) {
    struct fake *f = self;
    (void)err;
    void *p = mem_alloc_aligned(bytes);
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i <= MAX_HOST; i++) {
        if (i == MAX_HOST) {
            die("fake device: more than %d blocks of page-locked memory", MAX_HOST);
        }
        if (!f->host[i]) {
            f->host[i] = p;
            f->host_bytes[i] = bytes;
            break;
        }
    }
    pthread_mutex_unlock(&f->lock);
    return p;
}

static void host_free(void *self, void *p) {
    struct fake *f = self;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < MAX_HOST; i++) {
        f->host[i] = f->host[i] == p ? NULL : f->host[i];
    }
    pthread_mutex_unlock(&f->lock);
    free(p);
}

/* ---- copies --------------------------------------------------------------------------------- */

static uint64_t mark(void *self) {
    struct fake *f = self;
    pthread_mutex_lock(&f->lock);
    uint64_t n = f->n_called;
    pthread_mutex_unlock(&f->lock);
    return n;
}

/* [locked] The copy as it really is. */
static struct backend_copy real_copy(const struct fake *f, const struct backend_copy *copy) {
    struct backend_copy c = *copy;
    bool locked = false;
    for (int i = 0; i < MAX_HOST; i++) {
        const uint8_t *p = f->host[i], *src = copy->src;
        locked |= p && src >= p && src + copy->bytes <= p + f->host_bytes[i];
    }
    if (!locked || copy->bytes == 0 || copy->n_pieces == 0) {
        die("fake device: an upload of %zu bytes, %u pieces, that are not page-locked", copy->bytes,
            copy->n_pieces);
    }
    (void)REAL((uint8_t *)copy->dst + copy->bytes - 1);
    c.dst = REAL(copy->dst);
    return c;
}

static uint64_t upload(void *self, const struct backend_copy *copies, uint32_t n_copies,
                       enum backend_urgency urgency, uint64_t after) {
    struct fake *f = self;
    struct queue *q = &f->queues[urgency];
    struct request r = {.n = n_copies, .after = after};
    r.copies = mem_calloc(n_copies, sizeof *r.copies);
    pthread_mutex_lock(&f->lock);
    for (uint32_t i = 0; i < n_copies; i++) {
        r.copies[i] = real_copy(f, &copies[i]);
        f->counts.link.bytes[urgency] += copies[i].bytes;
        f->counts.link.pieces += copies[i].n_pieces;
    }
    while (q->n_asked - q->n_done == MAX_UPLOADS) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    uint64_t n = q->n_asked++;
    q->requests[n % MAX_UPLOADS] = r;
    f->counts.link.uploads++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return (n + 1) * BACKEND_URGENCIES + urgency;
}

static bool uploaded(void *self, uint64_t ticket, bool wait) {
    struct fake *f = self;
    struct queue *q = &f->queues[ticket % BACKEND_URGENCIES];
    pthread_mutex_lock(&f->lock);
    while (wait && q->n_done < ticket / BACKEND_URGENCIES) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    bool done = q->n_done >= ticket / BACKEND_URGENCIES;
    pthread_mutex_unlock(&f->lock);
    return done;
}

static void sleep_ns(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {
    }
}

/* [locked] The queue whose turn it is: the first whose next copy may start. */
static struct queue *next_queue(struct fake *f) {
    for (int i = 0; i < BACKEND_URGENCIES; i++) {
        struct queue *q = &f->queues[i];
        if (q->n_done < q->n_asked && q->requests[q->n_done % MAX_UPLOADS].after <= f->n_computed) {
            return q;
        }
    }
    return NULL;
}

static void *copier_main(void *arg) {
    struct fake *f = arg;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        struct queue *q = next_queue(f);
        if (!q) {
            if (f->stop) {
                break;
            }
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        struct request *r = &q->requests[q->n_done % MAX_UPLOADS];
        const struct backend_copy c = r->copies[r->at];
        size_t rest = c.bytes - r->done, n = rest < BACKEND_COPY_BYTES ? rest : BACKEND_COPY_BYTES;
        count_time(f);
        f->copying = true;
        pthread_mutex_unlock(&f->lock);
        memset((uint8_t *)c.dst + r->done, 0xff, n);
        if (f->opt.bytes_per_s > 0) {
            sleep_ns((uint64_t)((double)n / f->opt.bytes_per_s * 1e9));
        }
        memcpy((uint8_t *)c.dst + r->done, (const uint8_t *)c.src + r->done, n);
        pthread_mutex_lock(&f->lock);
        count_time(f);
        f->copying = false;
        f->counts.link.copies++;
        r->done += n;
        if (r->done == c.bytes) {
            r->done = 0;
            r->at++;
        }
        if (r->at == r->n) {
            free(r->copies);
            q->n_done++;
        }
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- experts, late -------------------------------------------------------------------------- */

static void experts(void *self, const struct expert_layer *layer, const struct expert_job *jobs,
                    uint32_t n_jobs, const float *x, float *parts) {
    struct fake *f = self;
    struct late l = {*layer, n_jobs, NULL, REAL(x), REAL(parts)};
    l.layer.gate_bias = REAL(layer->gate_bias);
    l.layer.up_bias = REAL(layer->up_bias);
    l.layer.down_bias = REAL(layer->down_bias);
    l.jobs = mem_calloc(n_jobs ? n_jobs : 1, sizeof *l.jobs);
    for (uint32_t i = 0; i < n_jobs; i++) {
        struct ffn_chunk *chunks = mem_calloc(jobs[i].n_chunks + 1, sizeof *chunks);
        uint32_t *uses = mem_calloc(jobs[i].n_uses + 1, sizeof *uses);
        for (uint32_t k = 0; k < jobs[i].n_chunks; k++) {
            chunks[k] = jobs[i].chunks[k];
            chunks[k].data = REAL(chunks[k].data);
        }
        memcpy(uses, jobs[i].uses, jobs[i].n_uses * sizeof *uses);
        l.jobs[i] = jobs[i];
        l.jobs[i].chunks = chunks;
        l.jobs[i].uses = uses;
    }
    pthread_mutex_lock(&f->lock);
    while (f->n_called - f->n_computed == MAX_JOBS) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    f->late[f->n_called++ % MAX_JOBS] = l;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void *device_main(void *arg) {
    struct fake *f = arg;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        if (f->n_computed == f->n_called) {
            if (f->stop) {
                break;
            }
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        struct late l = f->late[f->n_computed % MAX_JOBS];
        count_time(f);
        f->computing++;
        pthread_mutex_unlock(&f->lock);
        if (f->opt.experts_late_ns > 0) {
            sleep_ns(f->opt.experts_late_ns);
        }
        f->cpu.ops->experts(f->cpu.self, &l.layer, l.jobs, l.n_jobs, l.x, l.parts);
        for (uint32_t i = 0; i < l.n_jobs; i++) {
            free((void *)(uintptr_t)l.jobs[i].chunks);
            free((void *)(uintptr_t)l.jobs[i].uses);
        }
        free(l.jobs);
        pthread_mutex_lock(&f->lock);
        count_time(f);
        f->computing--;
        f->n_computed++;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

#include "tests/util/test_util_device_ops.inc"

static void put_rows(void *self, float *y, uint32_t dim, const float *host_rows,
                     const uint32_t *host_ids, uint32_t n) {
    struct fake *f = self;
    finish(f);
    for (uint32_t i = 0; i < n; i++) {
        float *to = y + (size_t)host_ids[i] * dim;
        (void)REAL(to + dim - 1);
        memcpy(REAL(to), host_rows + (size_t)i * dim, dim * sizeof *to);
    }
}
static void link_counts(void *self, struct backend_link *link) {
    struct fake *f = self;
    pthread_mutex_lock(&f->lock);
    count_time(f);
    *link = f->counts.link;
    pthread_mutex_unlock(&f->lock);
}

/* Nothing is handed over here. */
static void work_counts(void *self, struct backend_work *work) {
    (void)self;
    *work = (struct backend_work){0};
}

/* ---- life ----------------------------------------------------------------------------------- */

static void close_device(void *self) {
    struct fake *f = self;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->device, NULL);
    pthread_join(f->copier, NULL);
    backend_close(&f->cpu);
    munmap(f->shown, f->opt.memory_bytes);
    munmap(f->real, f->opt.memory_bytes);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f);
}

struct fake_counts fake_device_counts(const struct backend *b) {
    struct fake *f = b->self;
    pthread_mutex_lock(&f->lock);
    struct fake_counts counts = f->counts;
    pthread_mutex_unlock(&f->lock);
    return counts;
}

static const struct backend_ops fake_ops = {
    .close = close_device,
    .alloc = alloc,
    .free = free_memory,
    .read = read_memory,
    .write = write_memory,
    .clear = clear_memory,
    .place = place,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .matmul = matmul,
    .clamp = clamp,
    .scale = scale,
    .scale_by = scale_by,
    .softcap = softcap,
    .rope_angles = rope_angles,
    .rope = rope,
    .kv_store = kv_store,
    .attention = attention,
    .matmul_heads = matmul_heads,
    .latent_store = latent_store,
    .latent_attention = latent_attention,
    .act_mul = act_mul,
    .sigmoid_mul = sigmoid_mul,
    .add = add,
    .gate_rows = gate_rows,
    .route = route,
    .experts = experts,
    .combine = combine,
    .delta_conv = delta_conv,
    .delta_net = delta_net,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .mark = mark,
    .upload = upload,
    .uploaded = uploaded,
    .link = link_counts,
    .work = work_counts,
    .read_later = read_memory,
    .put_rows = put_rows,
    .mixes_codecs = true,
};

static void *map_memory(size_t bytes, int protection) {
    void *p = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        die("fake device: %zu bytes of memory", bytes);
    }
    return p;
}

int fake_device_open(struct backend *b, const struct fake_options *opt,
                     const struct backend_limits *limits, struct err *err) {
    struct fake *f = mem_calloc(1, sizeof *f);
    f->opt = *opt;
    if (backend_cpu_open(&f->cpu, opt->isa, opt->threads, limits, err) < 0) {
        free(f);
        return -1;
    }
    f->shown = map_memory(opt->memory_bytes, PROT_NONE);
    f->real = map_memory(opt->memory_bytes, PROT_READ | PROT_WRITE);
    f->since_ns = clock_ns();
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (pthread_create(&f->copier, NULL, copier_main, f) != 0 ||
        pthread_create(&f->device, NULL, device_main, f) != 0) {
        die("fake device: threads");
    }
    *b = (struct backend){.name = "fake", .isa = f->cpu.isa, .self = f, .ops = &fake_ops};
    return 0;
}
