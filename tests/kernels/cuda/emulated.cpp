/*
 * emulated: see emulate.h. The coroutines, device memory, and the sources of the CUDA backend, as
 * one translation unit in a namespace, beside which the real ones may be linked.
 */
#include "tests/kernels/cuda/emulate.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define _Noreturn [[noreturn]]
extern "C" {
#include "kernels/overlap.h"
#include "tests/kernels/cuda/emulated.h"
}
#include "tests/kernels/cuda/emulate_threads.inc"

/* ---- device memory -------------------------------------------------------------------------- */

struct device_block {
    uint8_t *base; /* mapped: whole pages, the last one unreadable */
    size_t mapped, bytes;
    uint8_t *data; /* ends, but for alignment, at the unreadable page */
};
static device_block blocks[EMULATE_MAX_BLOCKS];
static size_t n_blocks, used_bytes;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct emulate_machine machine;
static thread_local cudaError_t last_error;
static cudaError_t broken;
static std::atomic<size_t> n_alive;
static int device_in_use = -1; /* of the backend: one at a time */
static thread_local int current_device;
static bool has_context;

static size_t free_now(void) {
    size_t taken = used_bytes + (has_context ? machine.context_bytes : 0);
    return machine.free_bytes > taken ? machine.free_bytes - taken : 0;
}

/* A stream belongs to a device: a thread that means another one has no use for it. */
static void check_current(void) {
    if (current_device != device_in_use) {
        die("emulated device: a call of a thread for device %d goes to device %d", current_device,
            device_in_use);
    }
}

extern "C" struct emulate_machine *emulate_machine(void) {
    return &machine;
}

extern "C" size_t emulate_used_bytes(void) {
    return used_bytes;
}

extern "C" size_t emulate_alive(void) {
    return n_alive;
}

/* The runtime remembers what a call of this thread returned. */
static cudaError_t failed(cudaError_t e) {
    last_error = e;
    return e;
}

/* Whether one more of something can be had: see struct emulate_machine. */
static bool may_have(uint64_t *left) {
    bool can = *left != 1;
    *left -= *left > 1;
    return can;
}

/* What lies around a block, in the pages that it shares, is nobody's: AddressSanitizer knows. */
#ifdef __SANITIZE_ADDRESS__
static void forbid(const void *p, size_t bytes) {
    __asan_poison_memory_region(p, bytes);
}
static void allow(const void *p, size_t bytes) {
    __asan_unpoison_memory_region(p, bytes);
}
#else
static void forbid(const void *, size_t) {
}
static void allow(const void *, size_t) {
}
#endif

static void protect(int how) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < n_blocks; i++) {
        mprotect(blocks[i].base, blocks[i].mapped - page, how);
    }
}

/* While one of these lives, device memory can be read and written. Locking it away again takes
 * long, the longer the more blocks there are: it is done every so often, which finds what touches
 * it again and again. */
struct memory_open {
    memory_open() {
        pthread_mutex_lock(&memory_lock);
        if (locked) {
            protect(PROT_READ | PROT_WRITE);
        }
        locked = false;
    }
    ~memory_open() {
        static size_t times;
        if (++times >= EMULATE_LOCK_EVERY && times >= n_blocks) {
            protect(PROT_NONE);
            locked = true;
            times = 0;
        }
        pthread_mutex_unlock(&memory_lock);
    }
    static bool locked;
};
bool memory_open::locked;

static bool in_device(const void *p, size_t bytes) {
    for (size_t i = 0; i < n_blocks; i++) {
        const uint8_t *q = (const uint8_t *)p;
        if (q >= blocks[i].data && q + bytes <= blocks[i].data + blocks[i].bytes) {
            return true;
        }
    }
    return false;
}

void emulate_check_device(const void *p, const char *kernel) {
    if (p && !in_device(p, 1)) {
        die("kernel %s: an argument points to no device memory", kernel);
    }
}

void emulate_check_aligned(const void *p, size_t bytes) {
    if ((uintptr_t)p % bytes != 0) {
        die("kernel %s: a load of %zu bytes at %p", kernel_name, bytes, p);
    }
}

/* ---- time ----------------------------------------------------------------------------------- */

struct emulate_stream {
    uint64_t free_ns; /* when all that was queued is done */
};
struct emulate_event {
    uint64_t at_ns;
    bool tells_time;
};
static pthread_mutex_t time_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t now_ns, engine_free_ns; /* the host's clock; the copy engine */

/* While one of these lives, the times are its own. */
struct time_open {
    time_open() {
        pthread_mutex_lock(&time_lock);
    }
    ~time_open() {
        pthread_mutex_unlock(&time_lock);
    }
};

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static void take_time(cudaStream_t stream, uint64_t ns) {
    time_open open;
    stream->free_ns = later(stream->free_ns, now_ns) + ns;
}

static void take_copy_time(cudaStream_t stream, size_t bytes, int kind) {
    time_open open;
    if (kind == cudaMemcpyHostToDevice && machine.copy_bytes_per_s > 0) {
        uint64_t start = later(later(stream->free_ns, now_ns), engine_free_ns);
        stream->free_ns = start + (uint64_t)((double)bytes * 1e9 / machine.copy_bytes_per_s);
        engine_free_ns = stream->free_ns;
    }
}

extern "C" void emulate_pass(uint64_t ns) {
    time_open open;
    now_ns += ns;
}

cudaError_t cudaDeviceSynchronize(void) {
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    if (!may_have(&machine.objects_left)) {
        return failed(cudaErrorMemoryAllocation);
    }
    *s = (cudaStream_t)mem_calloc(1, sizeof **s);
    n_alive++;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    n_alive--;
    free(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    time_open open;
    now_ns = later(now_ns, s->free_ns);
    return broken;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    time_open open;
    s->free_ns = later(s->free_ns, e->at_ns);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    if (!may_have(&machine.objects_left)) {
        return failed(cudaErrorMemoryAllocation);
    }
    n_alive++;
    *e = (cudaEvent_t)mem_calloc(1, sizeof **e);
    (*e)->tells_time = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    time_open open;
    e->at_ns = later(s->free_ns, now_ns);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    time_open open;
    now_ns = later(now_ns, e->at_ns);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    time_open open;
    if (e->at_ns <= now_ns) {
        return cudaSuccess;
    }
    now_ns += EMULATE_ASK_NS;
    return failed(cudaErrorNotReady);
}

/* From an event to one that was passed before it: a real device's answer cannot be told. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    time_open open;
    if (!from->tells_time || !to->tells_time || to->at_ns < from->at_ns) {
        return cudaErrorInvalidValue;
    }
    *ms = (float)((double)(to->at_ns - from->at_ns) * 1e-6);
    return later(from->at_ns, to->at_ns) <= now_ns ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    n_alive--;
    free(e);
    return cudaSuccess;
}

/* ---- its memory ----------------------------------------------------------------------------- */

cudaError_t cudaMalloc(void **p, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + 255) / 256 * 256;
    size_t mapped = (room + page - 1) / page * page + page;
    check_current();
    if (bytes > free_now() || !may_have(&machine.memory_left)) {
        return failed(cudaErrorMemoryAllocation);
    }
    n_alive++;
    pthread_mutex_lock(&memory_lock);
    device_block *b = &blocks[n_blocks++];
    b->base =
        (uint8_t *)mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (n_blocks == EMULATE_MAX_BLOCKS || b->base == MAP_FAILED) {
        die("emulated device: out of memory");
    }
    b->mapped = mapped;
    b->bytes = bytes;
    b->data = b->base + mapped - page - room;
    memset(b->base, 0xff, mapped - page);
    forbid(b->base, (size_t)(b->data - b->base));
    forbid(b->data + bytes, room - bytes);
    mprotect(b->base + mapped - page, page, PROT_NONE);
    if (memory_open::locked) {
        mprotect(b->base, mapped, PROT_NONE);
    }
    used_bytes += bytes;
    *p = b->data;
    pthread_mutex_unlock(&memory_lock);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p) {
        return cudaSuccess;
    }
    pthread_mutex_lock(&memory_lock);
    for (size_t i = 0; i < n_blocks; i++) {
        if (blocks[i].data == p) {
            allow(blocks[i].base, blocks[i].mapped);
            munmap(blocks[i].base, blocks[i].mapped);
            used_bytes -= blocks[i].bytes;
            blocks[i] = blocks[--n_blocks];
            pthread_mutex_unlock(&memory_lock);
            n_alive--;
            return cudaSuccess;
        }
    }
    die("emulated device: %p was not allocated", p);
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (!may_have(&machine.memory_left)) {
        return failed(cudaErrorMemoryAllocation);
    }
    n_alive++;
    *p = mem_alloc_aligned(bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    n_alive -= p != NULL;
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    memory_open open;
    memset(p, value, bytes);
    return cudaSuccess;
}

static void copy(void *dst, const void *src, size_t bytes, int kind) {
    check_current();
    if (!in_device(kind == cudaMemcpyHostToDevice ? dst : src, bytes) ||
        in_device(kind == cudaMemcpyHostToDevice ? src : dst, 1)) {
        die("emulated device: a copy between the wrong memories");
    }
    memcpy(dst, src, bytes);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int kind,
                            cudaStream_t stream) {
    memory_open open;
    copy(dst, src, bytes, kind);
    take_copy_time(stream, bytes, kind);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_stride, const void *src, size_t src_stride,
                              size_t width, size_t rows, int kind, cudaStream_t stream) {
    if (width > dst_stride || width > src_stride) {
        return cudaErrorInvalidValue;
    }
    memory_open open;
    for (size_t r = 0; r < rows; r++) {
        copy((uint8_t *)dst + r * dst_stride, (const uint8_t *)src + r * src_stride, width, kind);
    }
    take_copy_time(stream, width * rows, kind);
    return cudaSuccess;
}

/* ---- the device ----------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *n) {
    *n = machine.n_devices;
    return machine.driver < CUDART_VERSION ? cudaErrorInsufficientDriver
           : machine.n_devices == 0        ? cudaErrorNoDevice
                                           : cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = machine.driver;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int) {
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated");
    prop->major = machine.major;
    prop->minor = machine.minor;
    prop->totalGlobalMem = machine.total_bytes;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, int, int) {
    *value = 2;
    return cudaSuccess;
}

/* The driver's own memory, on the device and on the host; a test may change what it is. */
static void make_context(void) {
    static void *host_memory;
    static size_t host_bytes;
    if (machine.host_bytes != host_bytes) {
        free(host_memory);
        host_bytes = machine.host_bytes;
        host_memory = memset(mem_alloc(host_bytes), 1, host_bytes);
    }
    has_context = true;
}

cudaError_t cudaSetDevice(int device) {
    current_device = device_in_use = device;
    make_context();
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    make_context();
    *free_bytes = free_now();
    *total = machine.total_bytes;
    return cudaSuccess;
}

/* What broke the device stays, anything else is told once. */
cudaError_t cudaGetLastError(void) {
    cudaError_t e = broken != cudaSuccess ? broken : last_error;
    last_error = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t e) {
    static const char *const texts[] = {
        "no error",      "insufficient driver",        "no device",       "not ready",
        "out of memory", "unspecified launch failure", "invalid argument"};
    return texts[e];
}

static uint64_t blocks_to_run(const char *kernel, uint64_t n) {
    return machine.most_blocks > 0 && n > machine.most_blocks && machine.sampled(kernel)
               ? machine.most_blocks
               : n;
}

void emulate_launch(const char *kernel, cudaStream_t stream, dim3 grid, dim3 block_dim,
                    size_t shared_bytes, void (*f)(const void *ctx), const void *ctx) {
    if (machine.launches_left > 0 && --machine.launches_left == 0) {
        broken = cudaErrorLaunchFailure;
        return;
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
        block_dim.x < WARP || block_dim.x > MAX_THREADS || (block_dim.x & (block_dim.x - 1)) != 0 ||
        shared_bytes > SHARED_BYTES) {
        die("kernel %s: grid %u x %u x %u of %u threads, %zu bytes of shared memory", kernel,
            grid.x, grid.y, grid.z, block_dim.x, shared_bytes);
    }
    check_current();
    take_time(stream, machine.kernel_ns);
    memory_open open;
    kernel_name = kernel;
    body = f;
    body_ctx = ctx;
    const uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t runs = blocks_to_run(kernel, n);
    for (uint64_t i = 0; i < runs; i++) {
        const uint64_t at = runs == n ? i : runs == 1 ? n - 1 : i * (n - 1) / (runs - 1);
        const uint64_t k = order == EMULATE_FORWARDS ? at : n - 1 - at;
        run_block(dim3((uint32_t)(k % grid.x), (uint32_t)(k / grid.x % grid.y),
                       (uint32_t)(k / grid.x / grid.y)),
                  grid, block_dim);
    }
}

/* ---- the backend ---------------------------------------------------------------------------- */

/* So little scratch, and so short tables, that calls of a few rows need several rounds. */
#define CUDA_PARTIAL_FLOATS (64 << 10)
#define CUDA_SEGMENT_BYTES (64 << 10)

namespace emulated {
#include "kernels/cuda/cuda.cu"
#include "kernels/cuda/cuda_attention.cu"
#include "kernels/cuda/cuda_delta.cu"
#include "kernels/cuda/cuda_experts.cu"
#include "kernels/cuda/cuda_fuse.cu"
#include "kernels/cuda/cuda_link.cu"
#include "kernels/cuda/cuda_matmul.cu"
#include "kernels/cuda/cuda_ops.cu"
#include "kernels/cuda/cuda_route.cu"
#include "kernels/cuda/cuda_token.cu"
} // namespace emulated
