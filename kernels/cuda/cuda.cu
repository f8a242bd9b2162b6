/*
 * cuda: see cuda.inc. Opening, memory, errors.
 */
#include "kernels/cuda/cuda.inc"

#include "kernels/cuda/cuda_rows.inc"

enum {
    OLDEST_MAJOR = 7, /* compute capability 7.5 */
    OLDEST_MINOR = 5,
    BOUNCE_BYTES = 64 << 10, /* greatest read that goes through page-locked memory */
    SEGMENT_BYTES = 1 << 20,
};
static_assert(BACKEND_CUDA_HOST_BYTES == CUDA_SEGMENTS * SEGMENT_BYTES + BOUNCE_BYTES,
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

/* ---- small tables --------------------------------------------------------------------------- */

static void ring_open(struct cuda *c, size_t segment_bytes) {
    struct cuda_ring *r = &c->ring;
    r->segment_bytes = segment_bytes;
    r->used_bytes = 0;
    r->segment = 0;
    cuda_check(c, cudaMallocHost((void **)&r->host, CUDA_SEGMENTS * segment_bytes),
               "page-locked memory");
    cuda_check(c, cudaMalloc((void **)&r->device, CUDA_SEGMENTS * segment_bytes), "device memory");
}

static void ring_close(struct cuda *c) {
    cudaFreeHost(c->ring.host);
    cudaFree(c->ring.device);
}

void *cuda_send(struct cuda *c, const void *host, size_t bytes) {
    struct cuda_ring *r = &c->ring;
    size_t need = (bytes + 63) & ~(size_t)63;
    if (need > r->segment_bytes) {
        cuda_check(c, cudaStreamSynchronize(c->stream), "an operation");
        ring_close(c);
        ring_open(c, need * 2);
    }
    if (r->used_bytes + need > r->segment_bytes) {
        cuda_check(c, cudaEventRecord(r->sent[r->segment], c->stream), "event");
        r->segment = (r->segment + 1) % CUDA_SEGMENTS;
        cuda_check(c, cudaEventSynchronize(r->sent[r->segment]), "an operation");
        r->used_bytes = 0;
    }
    size_t at = r->segment * r->segment_bytes + r->used_bytes;
    r->used_bytes += need;
    memcpy(r->host + at, host, bytes);
    cuda_check(
        c, cudaMemcpyAsync(r->device + at, r->host + at, bytes, cudaMemcpyHostToDevice, c->stream),
        "copy of a table");
    return r->device + at;
}

/* ---- memory --------------------------------------------------------------------------------- */

static void *device_alloc(struct cuda *c, size_t bytes) {
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        size_t free_bytes = 0, total = 0;
        cudaMemGetInfo(&free_bytes, &total);
        die("CUDA device %d (%s): %zu MiB of device memory asked for, %zu MiB free; does another "
            "program use it? %s",
            c->device, c->name, bytes >> 20, free_bytes >> 20, cudaGetErrorString(e));
    }
    cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing memory");
    return p;
}

static void *alloc(void *self, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    void *p = device_alloc(c, bytes);
    /* Uploads, on other streams, may come next. */
    cuda_check(c, cudaStreamSynchronize(c->stream), "clearing memory");
    return p;
}

static void free_memory(void *self, void *p) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_check(c, cudaFree(p), "freeing memory");
}

static void read_memory(void *self, void *host_dst, const void *src, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    bool small = bytes <= BOUNCE_BYTES;
    cuda_enter(c);
    cuda_series_end(c);
    cuda_check(c,
               cudaMemcpyAsync(small ? c->bounce : host_dst, src, bytes, cudaMemcpyDeviceToHost,
                               c->stream),
               "copy to the host");
    cuda_check(c, cudaStreamSynchronize(c->stream), "an operation");
    if (small) {
        memcpy(host_dst, c->bounce, bytes);
    }
}

static void write_memory(void *self, void *dst, const void *host_src, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_series_end(c);
    cuda_check(c, cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, c->stream),
               "copy to the device");
    cuda_check(c, cudaStreamSynchronize(c->stream), "an operation");
}

static void clear_memory(void *self, void *p, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_series(c); /* a mark behind it counts it */
    cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing memory");
}

/* Rows begin at multiples of 16 bytes, so that every load is whole; but those of f32 are left
 * without padding, as weight_floats has them. */
static struct weight place(void *self, const struct weight *host) {
    struct cuda *c = (struct cuda *)self;
    struct weight w = *host;
    if (!host->data) {
        return w;
    }
    size_t row = codec_row_bytes(host->codec, host->cols);
    w.stride_bytes = host->codec->id == CODEC_F32 ? row : (row + 15) & ~(size_t)15;
    cuda_enter(c);
    uint8_t *p = (uint8_t *)device_alloc(c, w.stride_bytes * w.rows);
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
    return w;
}

static void *host_alloc(void *self, size_t bytes) {
    struct cuda *c = (struct cuda *)self;
    void *p = NULL;
    cuda_enter(c);
    cuda_check(c, cudaMallocHost(&p, bytes), "page-locked memory");
    return p;
}

static void host_free(void *self, void *p) {
    struct cuda *c = (struct cuda *)self;
    cuda_check(c, cudaFreeHost(p), "freeing page-locked memory");
}

/* ---- life ----------------------------------------------------------------------------------- */

static void close_device(void *self) {
    struct cuda *c = (struct cuda *)self;
    cuda_enter(c);
    cuda_check(c, cudaDeviceSynchronize(), "an operation");
    for (size_t i = 0; i < c->n_placed; i++) {
        cudaFree(c->placed[i]);
    }
    ring_close(c);
    cudaFreeHost(c->bounce);
    cudaFree(c->partial);
    cudaFree(c->hidden);
    for (int i = 0; i < CUDA_SEGMENTS; i++) {
        cudaEventDestroy(c->ring.sent[i]);
    }
    cuda_link_close(c);
    cudaStreamDestroy(c->stream);
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

extern "C" uint64_t backend_cuda_scratch_bytes(const struct backend_limits *l) {
    return (hidden_floats(l) + partial_floats(l)) * sizeof(float) + CUDA_SEGMENTS * SEGMENT_BYTES;
}

static void open_streams(struct cuda *c) {
    int least = 0, greatest = 0;
    cuda_check(c, cudaDeviceGetStreamPriorityRange(&least, &greatest), "streams");
    cuda_check(c, cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest),
               "streams");
    cuda_link_open(c, least, greatest);
    for (int i = 0; i < CUDA_SEGMENTS; i++) {
        cuda_check(c, cudaEventCreateWithFlags(&c->ring.sent[i], cudaEventDisableTiming), "event");
    }
}

extern "C" int backend_cuda_open(struct backend *b, uint32_t device, uint64_t vram_bytes,
                                 const struct backend_limits *limits, struct err *err) {
    struct backend_device d;
    int n = count_devices(err), sms = 0;
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
    if (limits->delta_k_dim > CUDA_KEY_DIM) {
        return err_set(err, "key heads of %u in a delta net: CUDA does at most %d",
                       limits->delta_k_dim, CUDA_KEY_DIM);
    }
    struct cuda *c = (struct cuda *)mem_calloc(1, sizeof *c);
    c->device = (int)device;
    c->limits = *limits;
    snprintf(c->name, sizeof c->name, "%s", d.name);
    cuda_enter(c);
    cuda_check(c, cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, c->device),
               "device");
    c->n_sms = (uint32_t)sms;
    open_streams(c);
    ring_open(c, SEGMENT_BYTES);
    cuda_check(c, cudaMallocHost(&c->bounce, BOUNCE_BYTES), "page-locked memory");
    c->hidden_stride = (uint32_t)hidden_stride(limits);
    c->hidden = (float *)device_alloc(c, hidden_floats(limits) * sizeof(float));
    c->partial_floats = partial_floats(limits);
    c->partial = (float *)device_alloc(c, c->partial_floats * sizeof(float));
    c->plan = cuda_plan_new();
    *b = (struct backend){.name = "cuda", .isa = c->name, .self = c, .ops = &cuda_ops};
    return 0;
}
