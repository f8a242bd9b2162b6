/*
 * The CUDA backend without a device: its sources behind tests/cuda/emulate.h, each operation
 * against the scalar CPU one, with the threads of a block taking turns in several orders; and what
 * it says on machines that it cannot use. What this does not show is in tests/cuda/emulate.h.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/cuda/emulated.h"
#include "tests/test_util_cuda.h"

static struct cuda_rig rig;

static struct emulate_machine good_machine(void) {
    return (struct emulate_machine){.driver = 13000,
                                    .n_devices = 1,
                                    .major = 8,
                                    .minor = 9,
                                    .free_bytes = (size_t)1 << 30,
                                    .total_bytes = (size_t)2 << 30};
}

static void set_order(int variant) {
    emulate_set_order((enum emulate_order)variant);
}

static int open_rig(void **state) {
    struct backend_limits limits = kernels_limits();
    struct err err = {0};
    *emulate_machine() = good_machine();
    cuda_rig_open_scalar(&rig);
    emulated_cuda_open(&rig.device, 0, 100 << 20, &limits, &err);
    assert_no_err(&err);
    rig.n_variants = EMULATE_ORDERS;
    rig.set_variant = set_order;
    *state = &rig;
    return 0;
}

static int close_rig(void **state) {
    (void)state;
    cuda_rig_close(&rig);
    assert_int_equal(emulate_used_bytes(), 0);
    return 0;
}

/* ---- machines that it cannot use ------------------------------------------------------------ */

static void refused(struct emulate_machine machine, uint32_t device, uint64_t vram_bytes,
                    const char *part, const char *other) {
    struct backend b = {0};
    struct backend_limits limits = kernels_limits();
    struct err err = {0};
    struct emulate_machine before = *emulate_machine();
    *emulate_machine() = machine;
    assert_int_equal(emulated_cuda_open(&b, device, vram_bytes, &limits, &err), -1);
    assert_err(&err, "CUDA", part, other);
    assert_null(b.ops);
    *emulate_machine() = before;
}

static void test_refusals(void **state) {
    struct emulate_machine m = good_machine();
    (void)state;
    m.driver = 0;
    refused(m, 0, 0, "no NVIDIA driver", "installed");
    m.driver = 12040;
    refused(m, 0, 0, "too old", "12.4");
    m = good_machine();
    m.n_devices = 0;
    refused(m, 0, 0, "no CUDA device", "machine");
    m = good_machine();
    refused(m, 3, 0, "device 3", "has 1");
    m.major = 7;
    m.minor = 0;
    refused(m, 0, 0, "emulated", "capability 7.0; 7.5");
    m = good_machine();
    refused(m, 0, (uint64_t)1500 << 20, "1500 MiB", "another program");
}

static void test_devices(void **state) {
    struct backend_device list[4];
    struct err err = {0};
    (void)state;
    emulate_machine()->n_devices = 2;
    assert_int_equal(emulated_cuda_devices(0, list, 4, &err), 2);
    assert_string_equal(list[1].name, "emulated");
    assert_true(list[1].usable && list[1].major == 8 && list[1].total_bytes == (uint64_t)2 << 30);
    emulate_machine()->n_devices = 1;
    emulate_machine()->minor = emulate_machine()->major = 6;
    assert_int_equal(emulated_cuda_devices(0, list, 4, &err), 1);
    assert_false(list[0].usable);
    assert_no_err(&err);
    *emulate_machine() = good_machine();
}

/* What the driver takes for itself counts once: it is not free when asked, and no budget holds
 * it. */
static void test_context(void **state) {
    struct emulate_machine m = good_machine(), before = *emulate_machine();
    struct backend_limits limits = kernels_limits();
    struct backend_device d;
    struct backend b;
    struct err err = {0};
    (void)state;
    uint64_t scratch = emulated_cuda_scratch_bytes(&limits);
    m.context_bytes = 300 << 20;
    m.free_bytes = emulate_used_bytes() + m.context_bytes + scratch + (2 << 20);
    *emulate_machine() = m;
    assert_int_equal(emulated_cuda_devices(0, &d, 1, &err), 1);
    assert_int_equal(d.free_bytes, scratch + (2 << 20));
    assert_int_equal(emulated_cuda_open(&b, 0, d.free_bytes, &limits, &err), 0);
    assert_no_err(&err);
    b.ops->free(b.self, b.ops->alloc(b.self, 2 << 20));
    assert_int_equal(emulated_cuda_devices(0, &d, 1, &err), 1);
    assert_in_range(d.free_bytes, 2 << 20, (2 << 20) + (64 << 10));
    backend_close(&b);
    assert_int_equal(emulated_cuda_open(&b, 0, scratch + (3 << 20), &limits, &err), -1);
    assert_err(&err, "memory free", "another program", "");
    *emulate_machine() = before;
}

/* An engine is one thread's at a time, not always the one's that opened it; and threads begin with
 * device 0. */
static void *run_elsewhere(void *arg) {
    const struct backend *b = arg;
    float values[64], got[64];
    kernels_fill(&(struct test_rng){42}, KIND_NORMAL, values, 64);
    float *x = b->ops->alloc(b->self, sizeof values);
    b->ops->write(b->self, x, values, sizeof values);
    b->ops->clamp(b->self, x, 64, 100);
    b->ops->read(b->self, got, x, sizeof got);
    b->ops->free(b->self, x);
    return memcmp(values, got, sizeof got) == 0 ? arg : NULL;
}

static void test_threads(void **state) {
    struct emulate_machine before = *emulate_machine();
    struct backend_limits limits = kernels_limits();
    struct backend b;
    struct err err = {0};
    pthread_t thread;
    void *result;
    (void)state;
    emulate_machine()->n_devices = 2;
    assert_int_equal(emulated_cuda_open(&b, 1, 0, &limits, &err), 0);
    assert_no_err(&err);
    assert_int_equal(pthread_create(&thread, NULL, run_elsewhere, &b), 0);
    pthread_join(thread, &result);
    assert_ptr_equal(result, &b);
    backend_close(&b);
    *emulate_machine() = before;
}

/* ---- ends of the program -------------------------------------------------------------------- */

/* What a child that runs fn says before it aborts. */
static void dies(void (*fn)(void), const char *part, const char *other) {
    int pipes[2];
    char text[2048];
    size_t n = 0;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        fn();
        _exit(0);
    }
    close(pipes[1]);
    for (ssize_t got; (got = read(pipes[0], text + n, sizeof text - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    close(pipes[0]);
    text[n] = 0;
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status) || !strstr(text, part) || !strstr(text, other)) {
        print_error("it said: %s\n", text);
        fail();
    }
}

static void lose_device(void) {
    float *x = rig.device.ops->alloc(rig.device.self, 256);
    emulate_machine()->launches_left = 3;
    for (int i = 0; i < 5; i++) {
        rig.device.ops->clamp(rig.device.self, x, 64, 1);
    }
}

static void fill_memory(void) {
    rig.device.ops->alloc(rig.device.self, (size_t)1 << 31);
}

/* Device memory is not the host's: what the emulation would not show, no test could find. */
static void touch_device_memory(void) {
    float *x = rig.device.ops->alloc(rig.device.self, 256);
    for (int i = 0; i < EMULATE_LOCK_EVERY; i++) {
        rig.device.ops->clamp(rig.device.self, x, 64, 1);
        *(volatile float *)x = 1;
    }
}

static void pass_host_memory(void) {
    float x[64] = {0};
    rig.device.ops->clamp(rig.device.self, x, 64, 1);
}

static void end_past_the_page(void) {
    float *x = rig.device.ops->alloc(rig.device.self, 256);
    rig.device.ops->clamp(rig.device.self, x, 64 + 4096, 1);
}

static void test_ends(void **state) {
    (void)state;
    dies(lose_device, "emulated", "unspecified launch failure");
    dies(fill_memory, "2048 MiB", "another program");
    dies(touch_device_memory, "", "");
    dies(pass_host_memory, "clamp_each", "no device memory");
    dies(end_past_the_page, "", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CUDA_TESTS,
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
