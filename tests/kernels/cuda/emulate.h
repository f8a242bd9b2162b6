/*
 * emulate: the sources of kernels/cuda as ordinary C++, for tests of their arithmetic and of
 * their host side on a machine without a device.
 *
 * The threads of a block are coroutines that take turns at barriers and shuffles; blocks run one
 * after the other. Device memory is memory of its own, and host code that touches it is caught
 * sooner or later: it is locked now and then until the next kernel or copy. It is filled with NaN
 * when allocated, and ends at a guard page. Pointers among a kernel's arguments must be device
 * memory. The order in which threads take turns, and blocks run, can be turned round
 * (emulate_order): what depends on it is a missing barrier.
 *
 * Whatever is queued is done at once; when it would be done tells a clock that stands still but for
 * those who wait. Kernels and copies take the time that the machine says (emulated.h), each stream
 * one thing after the other, all copies to the device one after the other; events tell of it.
 *
 * What it does not show: speed, memory coalescing, registers, what the device's compiler does,
 * races between copies and kernels.
 */
#ifndef TESTS_KERNELS_CUDA_EMULATE_H
#define TESTS_KERNELS_CUDA_EMULATE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#define CUDA_EMULATED 1
#define backend_cuda_open emulated_cuda_open
#define backend_cuda_devices emulated_cuda_devices
#define backend_cuda_scratch_bytes emulated_cuda_scratch_bytes

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define CUDART_VERSION 13000

struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    uint32_t x, y, z;
    dim3(uint32_t a = 1, uint32_t b = 1, uint32_t c = 1) : x(a), y(b), z(c) {
    }
};
static inline uint2 make_uint2(uint32_t x, uint32_t y) {
    return uint2{x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    return uint4{x, y, z, w};
}

/* ---- arithmetic ----------------------------------------------------------------------------- */

extern "C" float f16_to_f32(uint16_t h);
extern "C" uint16_t f32_to_f16(float f);
static inline float cuda_half(uint16_t h) {
    return f16_to_f32(h);
}
static inline uint16_t cuda_to_half(float f) {
    return f32_to_f16(f);
}
static inline uint32_t atomicMax(uint32_t *word, uint32_t value) {
    uint32_t held = *word;
    *word = value > held ? value : held;
    return held;
}
static inline uint32_t atomicInc(uint32_t *word, uint32_t most) {
    uint32_t held = *word;
    *word = held >= most ? 0 : held + 1;
    return held;
}
static inline void __threadfence(void) {
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
    uint64_t bytes = (uint64_t)y << 32 | x;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        out |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    }
    return out;
}
/* One rounding but for rare ties: the product of two floats is exact as a double. */
static inline float emulate_fmaf(float a, float b, float c) {
    return (float)((double)a * b + c);
}
#define fmaf emulate_fmaf

/* ---- threads -------------------------------------------------------------------------------- */

struct emulate_thread {
    dim3 thread, block, grid, threads;
};
extern emulate_thread emulate_self; /* of the coroutine that runs */
#define threadIdx (emulate_self.thread)
#define blockIdx (emulate_self.block)
#define gridDim (emulate_self.grid)
#define blockDim (emulate_self.threads)

void emulate_barrier(void);
/* The value that lane `lane ^ mask` of the warp passed. */
uint32_t emulate_shuffle(uint32_t value, int mask);
void *emulate_shared(void);
#define __syncthreads emulate_barrier
#define cuda_shared ((float4 *)emulate_shared())

static inline void __syncwarp(void) {
    (void)emulate_shuffle(0, 0);
}
static inline float __shfl_xor_sync(uint32_t, float value, int mask) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return __uint_as_float(emulate_shuffle(bits, mask));
}
static inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int mask) {
    return emulate_shuffle(value, mask);
}

void emulate_check_aligned(const void *p, size_t bytes);
template <typename T> static inline T __ldg(const T *p) {
    emulate_check_aligned(p, sizeof(T)); /* a device stops at a load that is not aligned */
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Loads that see what the kernel has stored: by the block, by any. */
#define CUDA_PLAIN(p) __ldg(p)
template <typename T> static inline T __ldcg(const T *p) {
    return __ldg(p);
}

void emulate_check_device(const void *p, const char *kernel);
template <typename T> static inline void emulate_argument(const T &value, const char *kernel) {
    if constexpr (std::is_pointer<T>::value) {
        emulate_check_device(value, kernel);
    }
    static_assert(sizeof(T) <= 4096, "arguments of a kernel have room for 4 KiB");
}
typedef struct emulate_stream *cudaStream_t;
typedef struct emulate_event *cudaEvent_t;
void emulate_launch(const char *kernel, cudaStream_t stream, dim3 grid, dim3 threads,
                    size_t shared_bytes, void (*body)(const void *ctx), const void *ctx);
template <typename F> static inline void emulate_body(const void *ctx) {
    (*(const F *)ctx)();
}
template <typename F, typename... A>
static inline void emulate_call(const char *name, F kernel, cudaStream_t stream, dim3 grid,
                                dim3 threads, size_t shared_bytes, A... args) {
    (emulate_argument(args, name), ...);
    auto body = [=]() { kernel(args...); };
    emulate_launch(name, stream, grid, threads, shared_bytes, emulate_body<decltype(body)>, &body);
}
#define CUDA_QUEUE(c, kernel, grid, threads, shared_bytes, ...)                                    \
    do {                                                                                           \
        cuda_series(c);                                                                            \
        cuda_count(&(c)->work.launches, 1);                                                        \
        emulate_call(#kernel, kernel, (c)->stream, grid, threads, shared_bytes, __VA_ARGS__);      \
        cuda_check((c), cudaGetLastError(), #kernel);                                              \
    } while (0)

/* ---- the runtime's functions that the sources use ------------------------------------------- */

enum cudaError_t {
    cudaSuccess,
    cudaErrorInsufficientDriver,
    cudaErrorNoDevice,
    cudaErrorNotReady,
    cudaErrorMemoryAllocation,
    cudaErrorLaunchFailure,
    cudaErrorInvalidValue,
};
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum {
    cudaStreamNonBlocking = 1,
    cudaEventDefault = 0,
    cudaEventDisableTiming = 2,
    cudaDevAttrMultiProcessorCount = 16,
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_stride, const void *src, size_t src_stride,
                              size_t width, size_t rows, int kind, cudaStream_t stream);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t bytes) {
    return cudaMalloc((void **)p, bytes);
}

cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventDestroy(cudaEvent_t e);

#endif
