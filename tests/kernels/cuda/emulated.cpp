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

#define _Noreturn [[noreturn]]
extern "C" {
#include "kernels/overlap.h"
#include "tests/kernels/cuda/emulated.h"
}

/* ---- coroutines ----------------------------------------------------------------------------- */

enum { MAX_THREADS = 1024, STACK_BYTES = 64 << 10, SHARED_BYTES = 48 << 10, WARP = 32 };

enum coroutine_state { RUNNING, AT_BARRIER, AT_SHUFFLE, FINISHED };

/* A function that comes back by way of another stack: the compiler must not look into it to see
 * which registers it leaves alone. */
#ifdef __clang__
#define OPAQUE __attribute__((noinline))
#else
#define OPAQUE __attribute__((noipa))
#endif

/* A coroutine runs on a stack of its own, one kernel after the other. Switching goes by
 * __builtin_setjmp, which saves next to nothing; only the first entry needs a context. */
struct coroutine {
    emulate_thread self;
    coroutine_state state;
    uint64_t barriers, shuffles; /* passed or waiting at */
    uint32_t shuffled[2];        /* what the thread passed, by the parity of shuffles */
    void *resume[5];
    bool started;
    ucontext_t context;
    uint8_t *stack;
};

emulate_thread emulate_self;
static coroutine threads[MAX_THREADS];
static coroutine *current;
static uint32_t n_threads;
static void *scheduler[5];
static void (*body)(const void *ctx);
static const void *body_ctx;
alignas(64) static uint8_t shared_memory[SHARED_BYTES];
static enum emulate_order order;
static const char *kernel_name = "";

extern "C" void emulate_set_order(enum emulate_order o) {
    order = o;
}

void *emulate_shared(void) {
    return shared_memory;
}

OPAQUE static void to_scheduler(void) {
    __builtin_longjmp(scheduler, 1);
}

/* The coroutine at hand gives way. */
OPAQUE static void give_way(void) {
    if (__builtin_setjmp(current->resume) == 0) {
        to_scheduler();
    }
    emulate_self = current->self;
}

static void entry(void) {
    for (;;) {
        body(body_ctx);
        current->state = FINISHED;
        give_way();
    }
}

OPAQUE static void continue_with(coroutine *t) {
    if (t->started) {
        __builtin_longjmp(t->resume, 1);
    }
    t->started = true;
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = t->stack;
    t->context.uc_stack.ss_size = STACK_BYTES;
    t->context.uc_link = NULL;
    makecontext(&t->context, entry, 0);
    setcontext(&t->context);
}

OPAQUE static void run_until_it_waits(coroutine *t) {
    current = t;
    emulate_self = t->self;
    t->state = RUNNING;
    if (__builtin_setjmp(scheduler) == 0) {
        continue_with(t);
    }
}

/* Arrivals at barriers of the block, and at shuffles of each warp. Nobody passes one before all have
 * come to it: all are at their b-th when b times as many arrived as there are threads. */
static uint64_t barriers_reached, shuffles_reached[MAX_THREADS / WARP];

static uint32_t threads_of_warp(uint32_t warp) {
    return n_threads - warp * WARP < WARP ? n_threads - warp * WARP : WARP;
}

/* Whether all others of the thread's block, or its warp, came to the barrier, or shuffle, too. */
static bool may_go_on(const coroutine *t) {
    uint32_t warp = (uint32_t)(t - threads) / WARP;
    return t->state == AT_BARRIER   ? barriers_reached >= t->barriers * n_threads
           : t->state == AT_SHUFFLE ? shuffles_reached[warp] >= t->shuffles * threads_of_warp(warp)
                                    : true;
}

/* No thread may go on: says which waits for one that ended, or that all wait. */
static void die_waiting(void) {
    for (uint32_t pair = 0; pair < n_threads * n_threads; pair++) {
        uint32_t i = pair / n_threads, k = pair % n_threads; /* i waits, k is late */
        const coroutine *t = &threads[i], *o = &threads[k];
        bool late = (t->state == AT_BARRIER && o->barriers < t->barriers) ||
                    (t->state == AT_SHUFFLE && k / WARP == i / WARP && o->shuffles < t->shuffles);
        if (late && o->state == FINISHED) {
            die("kernel %s: thread %u ended while thread %u waits for it", kernel_name, k, i);
        }
    }
    die("kernel %s: its threads wait for each other", kernel_name);
}

void emulate_barrier(void) {
    current->barriers++;
    barriers_reached++;
    current->state = AT_BARRIER;
    give_way();
}

uint32_t emulate_shuffle(uint32_t value, int mask) {
    coroutine *t = current;
    /* Nobody is two shuffles ahead of another: values of two shuffles are enough. */
    uint32_t parity = (uint32_t)(++t->shuffles % 2);
    t->shuffled[parity] = value;
    shuffles_reached[(t - threads) / WARP]++;
    t->state = AT_SHUFFLE;
    give_way();
    uint32_t lane = (uint32_t)(t - threads) ^ (uint32_t)mask;
    if (lane >= n_threads) {
        die("kernel %s: a shuffle with lane %u of %u threads", kernel_name, lane, n_threads);
    }
    return threads[lane].shuffled[parity];
}

static uint32_t at_turn(uint32_t i, uint32_t n, uint64_t round) {
    if (order == EMULATE_BACKWARDS) {
        return n - 1 - i;
    }
    if (order == EMULATE_SHUFFLED) { /* times an odd number: all of a power of two */
        return (uint32_t)(i * 2654435761u + round * 40503u) % n;
    }
    return i;
}

static void run_block(dim3 block, dim3 grid, dim3 block_dim) {
    n_threads = block_dim.x;
    memset(shared_memory, 0xff, sizeof shared_memory); /* NaN */
    barriers_reached = 0;
    memset(shuffles_reached, 0, sizeof shuffles_reached);
    for (uint32_t i = 0; i < n_threads; i++) {
        coroutine *t = &threads[i];
        if (!t->stack) {
            t->stack = (uint8_t *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }
        t->self = emulate_thread{dim3(i, 0, 0), block, grid, block_dim};
        t->state = RUNNING;
        t->barriers = t->shuffles = 0;
    }
    uint32_t left = n_threads;
    for (uint64_t round = 0; left > 0; round++) {
        bool progress = false;
        for (uint32_t turn = 0; turn < n_threads; turn++) {
            coroutine *t = &threads[at_turn(turn, n_threads, round)];
            if (t->state != FINISHED && may_go_on(t)) {
                run_until_it_waits(t);
                progress = true;
                left -= t->state == FINISHED;
            }
        }
        if (!progress) {
            die_waiting();
        }
    }
}

/* ---- device memory -------------------------------------------------------------------------- */

enum { MAX_BLOCKS = 4096 };

struct device_block {
    uint8_t *base; /* mapped: whole pages, the last one unreadable */
    size_t mapped, bytes;
    uint8_t *data; /* ends, but for alignment, at the unreadable page */
};
static device_block blocks[MAX_BLOCKS];
static size_t n_blocks, used_bytes;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct emulate_machine machine;
static cudaError_t last_error;
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

static void protect(int how) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < n_blocks; i++) {
        mprotect(blocks[i].base, blocks[i].mapped - page, how);
    }
}

/* While one of these lives, device memory can be read and written. Locking it away again takes
 * long: it is done every so often, which finds what touches it again and again. */
struct memory_open {
    memory_open() {
        pthread_mutex_lock(&memory_lock);
        if (locked) {
            protect(PROT_READ | PROT_WRITE);
        }
        locked = false;
    }
    ~memory_open() {
        static uint32_t times;
        if (++times % EMULATE_LOCK_EVERY == 0) {
            protect(PROT_NONE);
            locked = true;
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

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int) {
    *s = (cudaStream_t)mem_calloc(1, sizeof **s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    free(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    time_open open;
    now_ns = later(now_ns, s->free_ns);
    return last_error;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    time_open open;
    s->free_ns = later(s->free_ns, e->at_ns);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
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
    return cudaErrorNotReady;
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
    free(e);
    return cudaSuccess;
}

/* ---- its memory ----------------------------------------------------------------------------- */

cudaError_t cudaMalloc(void **p, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + 255) / 256 * 256;
    size_t mapped = (room + page - 1) / page * page + page;
    check_current();
    if (bytes > free_now()) {
        return cudaErrorMemoryAllocation;
    }
    pthread_mutex_lock(&memory_lock);
    device_block *b = &blocks[n_blocks++];
    b->base =
        (uint8_t *)mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (n_blocks == MAX_BLOCKS || b->base == MAP_FAILED) {
        die("emulated device: out of memory");
    }
    b->mapped = mapped;
    b->bytes = bytes;
    b->data = b->base + mapped - page - room;
    memset(b->base, 0xff, mapped - page);
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
            munmap(blocks[i].base, blocks[i].mapped);
            used_bytes -= blocks[i].bytes;
            blocks[i] = blocks[--n_blocks];
            pthread_mutex_unlock(&memory_lock);
            return cudaSuccess;
        }
    }
    die("emulated device: %p was not allocated", p);
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    *p = mem_alloc_aligned(bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
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

cudaError_t cudaSetDevice(int device) {
    current_device = device_in_use = device;
    has_context = true;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    has_context = true;
    *free_bytes = free_now();
    *total = machine.total_bytes;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return last_error;
}

const char *cudaGetErrorString(cudaError_t e) {
    static const char *const texts[] = {
        "no error",      "insufficient driver",        "no device",       "not ready",
        "out of memory", "unspecified launch failure", "invalid argument"};
    return texts[e];
}

void emulate_launch(const char *kernel, cudaStream_t stream, dim3 grid, dim3 block_dim,
                    size_t shared_bytes, void (*f)(const void *ctx), const void *ctx) {
    if (machine.launches_left > 0 && --machine.launches_left == 0) {
        last_error = cudaErrorLaunchFailure;
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
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t k = order == EMULATE_FORWARDS ? i : n - 1 - i;
        run_block(dim3((uint32_t)(k % grid.x), (uint32_t)(k / grid.x % grid.y),
                       (uint32_t)(k / grid.x / grid.y)),
                  grid, block_dim);
    }
}

/* ---- the backend ---------------------------------------------------------------------------- */

/* So little scratch that calls of a few rows need several rounds. */
#define CUDA_PARTIAL_FLOATS (64 << 10)

namespace emulated {
#include "kernels/cuda/cuda.cu"
#include "kernels/cuda/cuda_attention.cu"
#include "kernels/cuda/cuda_delta.cu"
#include "kernels/cuda/cuda_experts.cu"
#include "kernels/cuda/cuda_link.cu"
#include "kernels/cuda/cuda_matmul.cu"
#include "kernels/cuda/cuda_ops.cu"
#include "kernels/cuda/cuda_route.cu"
} // namespace emulated
