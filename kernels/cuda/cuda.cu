/*
 * cuda: see cuda.inc. Opening, memory, errors.
 */
#include "kernels/cuda/cuda.inc"

#include "kernels/cuda/cuda_rows.inc"

enum {
    OLDEST_MAJOR = 7, /* compute capability 7.5 */
    OLDEST_MINOR = 5,
    BOUNCE_BYTES = 64 << 10, /* greatest read that goes through page-locked memory */
};
static_assert(BACKEND_CUDA_HOST_BYTES >= CUDA_SEGMENTS * CUDA_SEGMENT_BYTES + BOUNCE_BYTES,
              "what is page-locked when a device is opened");

#ifndef CUDA_PARTIAL_FLOATS
#define CUDA_PARTIAL_FLOATS (8 << 20) /* 32 MiB of scratch */
#endif

/* ---- errors --------------------------------------------------------------------------------- */

void cuda_check(const struct cuda *c, cudaError_t e, const char *what) {
    if (e != cudaSuccess) {
        /* Several threads may meet a lost device at once: one of them speaks. */
        while (__atomic_exchange_n(&c->lost, true, __ATOMIC_RELAXED)) {
            pause();
        }
        die("CUDA device %d (%s): %s: %s", c->device, c->name, what, cudaGetErrorString(e));
    }
}

int cuda_try(const struct cuda *c, cudaError_t e, const char *what, struct err *err) {
    if (e == cudaSuccess) {
        return 0;
    }
    cuda_forget();
    return err_set(err, "CUDA device %d (%s): %s: %s", c->device, c->name, what,
                   cudaGetErrorString(e));
}

void cuda_enter(const struct cuda *c) {
    cuda_check(c, cudaSetDevice(c->device), "device");
}

/* Whether there is a driver that runs this program, and how many devices it has. */
static int count_devices(struct err *err) {
    int n = 0, driver = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0) {
        return n;
    }
    if (e == cudaErrorInsufficientDriver) {
        if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
            return err_set(err, "CUDA: no NVIDIA driver is installed on this machine");
        }
        return err_set(err,
                       "CUDA: the NVIDIA driver is too old: it supports CUDA %d.%d, this "
                       "program was built with %d.%d",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                       CUDART_VERSION % 1000 / 10);
    }
    if (e == cudaSuccess || e == cudaErrorNoDevice) {
        return err_set(err, "CUDA: this machine has no CUDA device, or none is visible");
    }
    return err_set(err, "CUDA: no device can be used: %s", cudaGetErrorString(e));
}

static int describe(int device, struct backend_device *d, struct err *err) {
    cudaDeviceProp prop;
    size_t free_bytes = 0, total = 0;
    cudaError_t e = cudaGetDeviceProperties(&prop, device);
    memset(d, 0, sizeof *d);
    if (e == cudaSuccess) {
        snprintf(d->name, sizeof d->name, "%.*s", (int)sizeof d->name - 1, prop.name);
        d->major = (uint32_t)prop.major;
        d->minor = (uint32_t)prop.minor;
        d->usable =
            prop.major > OLDEST_MAJOR || (prop.major == OLDEST_MAJOR && prop.minor >= OLDEST_MINOR);
        d->total_bytes = prop.totalGlobalMem;
        e = d->usable ? cudaSetDevice(device) : cudaSuccess;
    }
    /* Asking makes the driver's context on the device, if there is none yet: its memory, some
     * hundred MiB, is not free any more when the answer comes. */
    if (e == cudaSuccess && d->usable) {
        e = cudaMemGetInfo(&free_bytes, &total);
        d->free_bytes = free_bytes;
    }
    if (e != cudaSuccess) {
        return err_set(err, "CUDA device %d (%s) cannot be used: %s", device, d->name,
                       cudaGetErrorString(e));
    }
    return 0;
}

extern "C" int backend_cuda_devices(uint32_t first, struct backend_device *list, uint32_t max,
                                    struct err *err) {
    int n = count_devices(err);
    for (uint32_t i = 0; i < max && (int64_t)first + i < n; i++) {
        if (describe((int)(first + i), &list[i], err) < 0) {
            return -1;
        }
    }
    return n;
}

/* ---- what is handed over -------------------------------------------------------------------- */

void cuda_work_counts(void *self, struct backend_work *work) {
    const struct backend_work *w = &((struct cuda *)self)->work;
    work->launches = __atomic_load_n(&w->launches, __ATOMIC_RELAXED);
    work->waits = __atomic_load_n(&w->waits, __ATOMIC_RELAXED);
    work->small_copies = __atomic_load_n(&w->small_copies, __ATOMIC_RELAXED);
    work->small_bytes = __atomic_load_n(&w->small_bytes, __ATOMIC_RELAXED);
}

static void count_small(struct cuda *c, size_t bytes) {
    cuda_count(&c->work.small_copies, 1);
    cuda_count(&c->work.small_bytes, bytes);
}

/* All that was queued is done. */
static void wait_for_all(struct cuda *c, const char *what) {
    cuda_count(&c->work.waits, 1);
    cuda_check(c, cudaStreamSynchronize(c->stream), what);
}

/* ---- small tables --------------------------------------------------------------------------- */

void *cuda_send(struct cuda *c, const void *host, size_t bytes) {
    struct cuda_ring *r = &c->ring;
    size_t need = (bytes + 63) & ~(size_t)63;
    if (need > CUDA_SEGMENT_BYTES) {
        die("a table of %zu bytes for the device: at most %d", bytes, CUDA_SEGMENT_BYTES);
    }
    if (r->used_bytes + need > CUDA_SEGMENT_BYTES) {
        cuda_check(c, cudaEventRecord(r->sent[r->segment], c->stream), "event");
        r->segment = (r->segment + 1) % CUDA_SEGMENTS;
        cuda_count(&c->work.waits, 1);
        cuda_check(c, cudaEventSynchronize(r->sent[r->segment]), "an operation");
        r->used_bytes = 0;
    }
    size_t at = (size_t)r->segment * CUDA_SEGMENT_BYTES + r->used_bytes;
    r->used_bytes += need;
    memcpy(r->host + at, host, bytes);
    count_small(c, bytes);
    cuda_check(
        c, cudaMemcpyAsync(r->device + at, r->host + at, bytes, cudaMemcpyHostToDevice, c->stream),
        "copy of a table");
    return r->device + at;
}

/* ---- memory --------------------------------------------------------------------------------- */

static double mib(size_t bytes) {
    return (double)bytes / (1 << 20);
}

static void *device_alloc(struct cuda *c, size_t bytes, struct err *err) {
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        size_t free_bytes = 0, total = 0;
        cudaMemGetInfo(&free_bytes, &total);
        cuda_forget();
        err_set(err,
                "CUDA device %d (%s): %.1f MiB of device memory asked for, %.1f MiB free; does "
                "another program use it? %s",
                c->device, c->name, mib(bytes), mib(free_bytes), cudaGetErrorString(e));
        return NULL;
    }
    cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing memory");
    return p;
}

static void *alloc(void *self, size_t bytes, struct err *err) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    void *p = device_alloc(c, bytes, err);
    if (p) { /* uploads, on other streams, may come next */
        cuda_check(c, cudaStreamSynchronize(c->stream), "clearing memory");
    }
    return p;
}

static void free_memory(void *self, void *p) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_settle(c);
    cuda_check(c, cudaFree(p), "freeing memory");
}

static void read_later(void *self, void *host_dst, const void *src, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    if (c->n_later == CUDA_LATER) {
        die("more than %d reads for later", CUDA_LATER);
    }
    c->later[c->n_later++] = cuda_later{host_dst, src, bytes};
}

/* All that is to be read now, by way of page-locked memory as far as that has room: what is first
 * there, an operation may have written. */
static void read_memory(void *self, void *host_dst, const void *src, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    uint8_t *from[CUDA_LATER + 1];
    size_t used = 0;
    read_later(self, host_dst, src, bytes);
    cuda_enter(c);
    const uint32_t last = c->n_later - 1;
    const bool written = bytes <= BOUNCE_BYTES && cuda_fuse_read(c, src, bytes, c->bounce);
    cuda_settle(c);
    cuda_series_end(c);
    for (uint32_t i = 0; i <= last; i++) {
        const struct cuda_later *r = &c->later[last - i];
        const bool small = used + r->bytes <= BOUNCE_BYTES;
        from[i] = small ? c->bounce + used : NULL;
        used += small ? align_up(r->bytes, 16) : 0;
        if (i == 0 && written) {
            continue;
        }
        count_small(c, r->bytes);
        cuda_check(c,
                   cudaMemcpyAsync(small ? from[i] : r->host_dst, r->src, r->bytes,
                                   cudaMemcpyDeviceToHost, c->stream),
                   "copy to the host");
    }
    wait_for_all(c, "an operation");
    for (uint32_t i = 0; i <= last; i++) {
        if (from[i]) {
            memcpy(c->later[last - i].host_dst, from[i], c->later[last - i].bytes);
        }
    }
    c->n_later = 0;
}

static void write_memory(void *self, void *dst, const void *host_src, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_settle(c);
    cuda_series_end(c);
    count_small(c, bytes);
    cuda_check(c, cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, c->stream),
               "copy to the device");
    wait_for_all(c, "an operation");
}

static void clear_memory(void *self, void *p, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_settle(c);
    cuda_series(c); /* a mark behind it counts it */
    cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing memory");
}

/* Rows begin at multiples of 16 bytes, so that every load is whole; but those of f32 are left
 * without padding, as weight_floats has them. */
static int place(void *self, const struct weight *host, struct weight *out, struct err *err) {
    struct cuda *c = (struct cuda *)self;
    struct weight w = *host;
    w.data = NULL;
    *out = w;
    if (!host->data) {
        return 0;
    }
    size_t row = codec_row_bytes(host->codec, host->cols);
    w.stride_bytes = host->codec->id == CODEC_F32 ? row : (row + 15) & ~(size_t)15;
    cuda_enter(c);
    uint8_t *p = (uint8_t *)device_alloc(c, w.stride_bytes * w.rows, err);
    if (!p) {
        return -1;
    }
    /* In one piece where it is one: far faster from memory that is not page-locked. A single row
     * has no stride to speak of. */
    bool one_piece = w.rows == 1 || w.stride_bytes == host->stride_bytes;
    cuda_check(c,
               one_piece ? cudaMemcpyAsync(p, host->data, w.stride_bytes * (w.rows - 1) + row,
                                           cudaMemcpyHostToDevice, c->stream)
                         : cudaMemcpy2DAsync(p, w.stride_bytes, host->data, host->stride_bytes, row,
                                             w.rows, cudaMemcpyHostToDevice, c->stream),
               "copy of weights");
    cuda_check(c, cudaStreamSynchronize(c->stream), "copy of weights");
    c->placed = (void **)mem_grow(c->placed, c->n_placed + 1, &c->cap_placed, sizeof *c->placed);
    c->placed[c->n_placed++] = p;
    w.data = p;
    *out = w;
    return 0;
}

static void *page_locked(const struct cuda *c, size_t bytes, struct err *err) {
    void *p = NULL;
    cudaError_t e = cudaMallocHost(&p, bytes);
    if (e != cudaSuccess) {
        cuda_forget();
        err_set(err, "CUDA device %d (%s): %.1f MiB of page-locked memory asked for: %s", c->device,
                c->name, mib(bytes), cudaGetErrorString(e));
        return NULL;
    }
    return p;
}

static void *host_alloc(void *self, size_t bytes, struct err *err) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    return page_locked(c, bytes, err);
}

static void host_free(void *self, void *p) {
    struct cuda *c = (struct cuda *)self;
    cuda_check(c, cudaFreeHost(p), "freeing page-locked memory");
}

/* ---- life ----------------------------------------------------------------------------------- */

int cuda_event_new(const struct cuda *c, unsigned flags, cudaEvent_t *event, struct err *err) {
    return cuda_try(c, cudaEventCreateWithFlags(event, flags), "an event", err);
}

void cuda_event_free(cudaEvent_t event) {
    if (event) {
        cudaEventDestroy(event);
    }
}

int cuda_stream_new(const struct cuda *c, cudaStream_t *stream, struct err *err) {
    return cuda_try(c, cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "a stream", err);
}

void cuda_stream_free(cudaStream_t stream) {
    if (stream) {
        cudaStreamDestroy(stream);
    }
}

/* Also of what was opened in part. */
static void close_device(void *self) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_check(c, cudaDeviceSynchronize(), "an operation");
    for (size_t i = 0; i < c->n_placed; i++) {
        cudaFree(c->placed[i]);
    }
    cudaFreeHost(c->ring.host);
    cudaFree(c->ring.device);
    cudaFreeHost(c->bounce);
    cudaFree(c->partial);
    cudaFree(c->hidden);
    cudaFree(c->arrived);
    for (int i = 0; i < CUDA_SEGMENTS; i++) {
        cuda_event_free(c->ring.sent[i]);
    }
    cuda_link_close(c);
    cuda_stream_free(c->stream);
    cuda_plan_free(c->plan);
    free(c->placed);
    free(c);
}

static const struct backend_ops cuda_ops = {
    .close = close_device,
    .alloc = alloc,
    .free = free_memory,
    .read = read_memory,
    .write = write_memory,
    .clear = clear_memory,
    .place = place,
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .layernorm = cuda_layernorm,
    .matmul = cuda_matmul,
    .clamp = cuda_clamp,
    .scale = cuda_scale,
    .scale_by = cuda_scale_by,
    .softcap = cuda_softcap,
    .rope_angles = cuda_rope_angles,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .attention = cuda_attention,
    .act_mul = cuda_act_mul,
    .sigmoid_mul = cuda_sigmoid_mul,
    .add = cuda_add,
    .gate_rows = cuda_gate_rows,
    .route = cuda_route,
    .experts = cuda_experts,
    .delta_conv = cuda_delta_conv,
    .delta_net = cuda_delta_net,
    .combine = cuda_combine,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .mark = cuda_mark,
    .upload = cuda_upload,
    .uploaded = cuda_uploaded,
    .link = cuda_link_counts,
    .work = cuda_work_counts,
    .read_later = read_later,
    .put_rows = cuda_put_rows,
};

static size_t hidden_stride(const struct backend_limits *l) {
    return align_up((uint64_t)l->max_ffn, FFN_BLOCK);
}

static size_t hidden_floats(const struct backend_limits *l) {
    return (size_t)l->max_rows * l->max_active * hidden_stride(l);
}

/* One row of every head must fit, with all its splits. */
static size_t partial_floats(const struct backend_limits *l) {
    size_t row = (size_t)l->n_heads * (l->head_dim + 2) * (l->max_ctx_tok / 128 + 2);
    return row > CUDA_PARTIAL_FLOATS ? row : CUDA_PARTIAL_FLOATS;
}

/* One for each KV head, of which there are no more than heads. */
static size_t arrived_bytes(const struct backend_limits *l) {
    return ((size_t)l->n_heads + 1) * sizeof(uint32_t);
}

extern "C" uint64_t backend_cuda_scratch_bytes(const struct backend_limits *l) {
    return (hidden_floats(l) + partial_floats(l)) * sizeof(float) + arrived_bytes(l) +
           CUDA_SEGMENTS * CUDA_SEGMENT_BYTES;
}

static int open_streams(struct cuda *c, struct err *err) {
    if (cuda_stream_new(c, &c->stream, err) < 0 || cuda_link_open(c, err) < 0) {
        return -1;
    }
    for (int i = 0; i < CUDA_SEGMENTS; i++) {
        if (cuda_event_new(c, cudaEventDisableTiming, &c->ring.sent[i], err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Scratch, and what reads and small tables go through. */
static int open_memory(struct cuda *c, struct err *err) {
    const size_t ring_bytes = CUDA_SEGMENTS * CUDA_SEGMENT_BYTES;
    c->hidden_stride = (uint32_t)hidden_stride(&c->limits);
    c->partial_floats = partial_floats(&c->limits);
    c->plan = cuda_plan_new();
    if (!(c->ring.host = (uint8_t *)page_locked(c, ring_bytes, err)) ||
        !(c->bounce = (uint8_t *)page_locked(c, BOUNCE_BYTES, err)) ||
        !(c->ring.device = (uint8_t *)device_alloc(c, ring_bytes, err)) ||
        !(c->partial = (float *)device_alloc(c, c->partial_floats * sizeof(float), err))) {
        return -1;
    }
    c->hidden = (float *)device_alloc(c, hidden_floats(&c->limits) * sizeof(float), err);
    c->arrived = (uint32_t *)device_alloc(c, arrived_bytes(&c->limits), err);
    return c->hidden && c->arrived ? 0 : -1;
}

extern "C" int backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                                 const struct backend_limits *limits, struct err *err) {
    struct backend_device d;
    int n = count_devices(err), sms = 0;
    cuda_forget(); /* what this thread tried before */
    if (n < 0) {
        return -1;
    }
    if (device >= (uint32_t)n) {
        return err_set(err, "CUDA device %u: this machine has %d, numbered from 0", device, n);
    }
    if (describe((int)device, &d, err) < 0) {
        return -1;
    }
    if (!d.usable) {
        return err_set(err,
                       "CUDA device %u (%s) has compute capability %u.%u; %d.%d or later is "
                       "needed",
                       device, d.name, d.major, d.minor, OLDEST_MAJOR, OLDEST_MINOR);
    }
    if (d.free_bytes < vram_bytes) {
        return err_set(err,
                       "CUDA device %u (%s) has %llu MiB of memory free of %llu; %llu MiB are "
                       "needed: is it in use by another program?",
                       device, d.name, (unsigned long long)(d.free_bytes >> 20),
                       (unsigned long long)(d.total_bytes >> 20),
                       (unsigned long long)(vram_bytes >> 20));
    }
    if (limits->head_dim > CUDA_HEAD_DIM) {
        return err_set(err, "attention heads of %u: CUDA does at most %d", limits->head_dim,
                       CUDA_HEAD_DIM);
    }
    if (limits->other_values) {
        return err_set(err, "attention whose values are not as wide as its keys: CUDA has none");
    }
    if (limits->delta_k_dim > CUDA_KEY_DIM) {
        return err_set(err, "key heads of %u in a delta net: CUDA does at most %d",
                       limits->delta_k_dim, CUDA_KEY_DIM);
    }
    struct cuda *c = (struct cuda *)mem_calloc(1, sizeof *c);
    c->device = (int)device;
    c->limits = *limits;
    snprintf(c->name, sizeof c->name, "%s", d.name);
    cuda_enter(c);
    if (cuda_try(c, cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, c->device),
                 "device", err) < 0 ||
        open_streams(c, err) < 0 || open_memory(c, err) < 0) {
        close_device(c);
        return -1;
    }
    c->n_sms = (uint32_t)sms;
    *b = (struct backend){.name = "cuda", .isa = c->name, .self = c, .ops = &cuda_ops};
    return 0;
}
