/*
 * The CUDA backend without a device: its sources behind tests/kernels/cuda/emulate.h, each
 * operation against the scalar CPU one, with the threads of a block taking turns in several orders;
 * and what it says on machines that it cannot use. What this does not show is in
 * tests/kernels/cuda/emulate.h.
 */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tests/kernels/cuda/emulated.h"
#include "tests/util/test_util_cuda.h"

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

static void open_emulated(struct backend *b, const struct backend_limits *limits) {
    struct err err = {0};
    emulated_cuda_open(b, 0, 100 << 20, limits, &err);
    assert_no_err(&err);
}

static int open_rig(void **state) {
    struct backend_limits limits = cuda_rig_limits();
    *emulate_machine() = good_machine();
    cuda_rig_open_scalar(&rig);
    open_emulated(&rig.device, &limits);
    rig.open = open_emulated;
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

static void refused_limits(struct emulate_machine machine, uint32_t device, uint64_t vram_bytes,
                           const struct backend_limits *limits, const char *part,
                           const char *other) {
    struct backend b = {0};
    struct err err = {0};
    struct emulate_machine before = *emulate_machine();
    *emulate_machine() = machine;
    assert_int_equal(emulated_cuda_open(&b, device, vram_bytes, limits, &err), -1);
    assert_err(&err, "CUDA", part, other);
    assert_null(b.ops);
    *emulate_machine() = before;
}

static void refused(struct emulate_machine machine, uint32_t device, uint64_t vram_bytes,
                    const char *part, const char *other) {
    struct backend_limits limits = cuda_rig_limits();
    refused_limits(machine, device, vram_bytes, &limits, part, other);
}

static void test_refusals(void **state) {
    struct emulate_machine m = good_machine();
    struct backend_limits limits = cuda_rig_limits();
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
    limits.head_dim = 1024;
    refused_limits(m, 0, 0, &limits, "attention heads of 1024", "512");
    limits = cuda_rig_limits();
    limits.delta_k_dim = 512;
    refused_limits(m, 0, 0, &limits, "key heads of 512", "256");
    limits = cuda_rig_limits();
    limits.other_values = 1;
    refused_limits(m, 0, 0, &limits, "values are not as wide as", "CUDA has none");
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
    struct backend_limits limits = cuda_rig_limits();
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
    b.ops->free(b.self, b.ops->alloc(b.self, 2 << 20, NULL));
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
    float *x = b->ops->alloc(b->self, sizeof values, NULL);
    b->ops->write(b->self, x, values, sizeof values);
    b->ops->clamp(b->self, x, 64, 100);
    b->ops->read(b->self, got, x, sizeof got);
    b->ops->free(b->self, x);
    return memcmp(values, got, sizeof got) == 0 ? arg : NULL;
}

static void test_threads(void **state) {
    struct emulate_machine before = *emulate_machine();
    struct backend_limits limits = cuda_rig_limits();
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

/* ---- time ----------------------------------------------------------------------------------- */

/* A device whose kernels take 100 us, and whose copies 1 ns a byte. */
enum { KERNEL_NS = 100000, CLOCK_ERROR_NS = 2 };

struct timed {
    struct backend b;
    float *x;
    uint8_t *slot, *staging;
    struct backend_link before;
};

static void timed_open(struct timed *t) {
    struct backend_limits limits = cuda_rig_limits();
    struct err err = {0};
    emulate_machine()->kernel_ns = KERNEL_NS;
    emulate_machine()->copy_bytes_per_s = 1e9;
    assert_int_equal(emulated_cuda_open(&t->b, 0, 0, &limits, &err), 0);
    assert_no_err(&err);
    t->x = t->b.ops->alloc(t->b.self, 4096, NULL);
    t->slot = t->b.ops->alloc(t->b.self, 4 << 20, NULL);
    t->staging = t->b.ops->host_alloc(t->b.self, 4 << 20, NULL);
    memset(t->staging, 0, 4 << 20);
    t->b.ops->link(t->b.self, &t->before);
}

static void timed_close(struct timed *t) {
    t->b.ops->free(t->b.self, t->x);
    t->b.ops->free(t->b.self, t->slot);
    t->b.ops->host_free(t->b.self, t->staging);
    backend_close(&t->b);
    *emulate_machine() = good_machine();
}

/* `n` kernels, in a series of operations. */
static void timed_kernels(struct timed *t, int n) {
    for (int i = 0; i < n; i++) {
        t->b.ops->clamp(t->b.self, t->x, 1024, 1);
    }
}

static uint64_t timed_upload(struct timed *t, uint64_t ns, enum backend_urgency urgency,
                             uint64_t after) {
    struct backend_copy copy = {t->slot, t->staging, ns, 1};
    return t->b.ops->upload(t->b.self, &copy, 1, urgency, after);
}

/* What was copied, and hidden, since this was asked last. Wrong by a rounding of the clock. */
static void timed_expect(struct timed *t, uint64_t copy_ns, uint64_t hidden_ns) {
    struct backend_link l;
    t->b.ops->link(t->b.self, &l);
    int64_t copy = (int64_t)(l.copy_ns - t->before.copy_ns - copy_ns);
    int64_t hidden = (int64_t)(l.hidden_ns - t->before.hidden_ns - hidden_ns);
    if (llabs(copy) > CLOCK_ERROR_NS || llabs(hidden) > CLOCK_ERROR_NS) {
        fail_msg("copied %llu ns, hidden %llu; expected %llu, %llu",
                 (unsigned long long)(l.copy_ns - t->before.copy_ns),
                 (unsigned long long)(l.hidden_ns - t->before.hidden_ns),
                 (unsigned long long)copy_ns, (unsigned long long)hidden_ns);
    }
    t->before = l;
}

static void wait_for(struct timed *t, uint64_t ticket) {
    assert_true(t->b.ops->uploaded(t->b.self, ticket, true));
}

static void test_overlap(void **state) {
    struct timed t;
    (void)state;
    timed_open(&t);
    timed_expect(&t, 0, 0);
    /* Beside nothing. */
    wait_for(&t, timed_upload(&t, 70000, BACKEND_DEMANDED, 0));
    timed_expect(&t, 70000, 0);
    /* Beside two kernels, for as long as both run. */
    timed_kernels(&t, 2);
    t.b.ops->mark(t.b.self);
    wait_for(&t, timed_upload(&t, 250000, BACKEND_DEMANDED, 0));
    timed_expect(&t, 250000, 200000);
    /* After the kernels whose mark it waits for; not hidden by them, but by what comes next. */
    timed_kernels(&t, 1);
    uint64_t after = t.b.ops->mark(t.b.self);
    uint64_t ticket = timed_upload(&t, 50000, BACKEND_GUESSED, after);
    timed_kernels(&t, 1);
    t.b.ops->mark(t.b.self);
    wait_for(&t, ticket);
    emulate_pass(KERNEL_NS);
    timed_expect(&t, 50000, 50000);
    /* Two at once are one time; a pause of the host between series is no computing. */
    timed_kernels(&t, 1);
    t.b.ops->mark(t.b.self);
    ticket = timed_upload(&t, 200000, BACKEND_GUESSED, 0);
    uint64_t other = timed_upload(&t, 200000, BACKEND_DEMANDED, 0);
    emulate_pass(KERNEL_NS + 100000);
    timed_kernels(&t, 1);
    t.b.ops->mark(t.b.self);
    wait_for(&t, ticket);
    wait_for(&t, other);
    timed_expect(&t, 400000, 200000);
    /* A write ends a series as a mark does: the host waits for it, and may pause. */
    float value = 1;
    timed_kernels(&t, 1);
    t.b.ops->write(t.b.self, t.x, &value, sizeof value);
    wait_for(&t, timed_upload(&t, 80000, BACKEND_DEMANDED, 0));
    timed_kernels(&t, 1);
    t.b.ops->mark(t.b.self);
    emulate_pass(KERNEL_NS);
    timed_expect(&t, 80000, 0);
    /* What is under way counts when it is over. */
    ticket = timed_upload(&t, 60000, BACKEND_DEMANDED, 0);
    timed_expect(&t, 0, 0);
    wait_for(&t, ticket);
    timed_expect(&t, 60000, 0);
    timed_close(&t);
}

/* More series and uploads than there are events, for longer than a float tells apart; and after a
 * long time in which nothing was copied, and operations were not watched. */
static void test_overlap_long(void **state) {
    enum { ROUNDS = 2000 };
    struct timed t;
    (void)state;
    timed_open(&t);
    wait_for(&t, timed_upload(&t, 1000, BACKEND_DEMANDED, 0)); /* watch */
    timed_expect(&t, 1000, 0);
    for (int part = 0; part < 3; part++) {
        for (int i = 0; i < ROUNDS; i++) {
            timed_kernels(&t, 1);
            uint64_t after = t.b.ops->mark(t.b.self);
            uint64_t ticket = timed_upload(&t, 30000, (enum backend_urgency)(i % 2), 0);
            uint64_t waits = timed_upload(&t, 20000, (enum backend_urgency)(i / 2 % 2), after);
            wait_for(&t, ticket);
            wait_for(&t, waits); /* 20 us beyond the kernel */
            emulate_pass((uint64_t)part * 5000000);
        }
        struct backend_link l;
        t.b.ops->link(t.b.self, &l);
        double copy = (double)(l.copy_ns - t.before.copy_ns) / ROUNDS;
        double hidden = (double)(l.hidden_ns - t.before.hidden_ns) / ROUNDS;
        if (fabs(copy - 50000) > 200 || fabs(hidden - 30000) > 200) {
            fail_msg("part %d: copied %.0f ns, hidden %.0f a round", part, copy, hidden);
        }
        t.before = l;
        for (int i = 0; i < 3 * ROUNDS; i++) { /* nothing is copied */
            timed_kernels(&t, 1);
            t.b.ops->mark(t.b.self);
        }
        emulate_pass(UINT64_C(3600) * 1000000000);
        timed_kernels(&t, 1);
        t.b.ops->mark(t.b.self);
        emulate_pass(KERNEL_NS);
        timed_expect(&t, 0, 0);
        wait_for(&t, timed_upload(&t, 1000, BACKEND_DEMANDED, 0));
        t.b.ops->link(t.b.self, &t.before); /* told by a clock that has become coarse */
    }
    timed_close(&t);
}

/* ---- memory that runs out ------------------------------------------------------------------- */

/* What cannot be had is told, and the device works on as if it had not been asked. */
static void test_no_memory(void **state) {
    const struct backend *b = &rig.device;
    static const uint8_t bytes[1024] = {1};
    const struct weight host = {codec_by_id(CODEC_F32), 16, 16, 64, bytes};
    struct weight placed;
    struct err err = {0};
    (void)state;
    const size_t used = emulate_used_bytes(), alive = emulate_alive();
    assert_null(b->ops->alloc(b->self, (size_t)1 << 31, &err));
    assert_err(&err, "emulated", "2048.0 MiB", "another program");
    emulate_machine()->memory_left = 1;
    err = (struct err){0};
    assert_null(b->ops->alloc(b->self, 256, &err));
    assert_err(&err, "emulated", "out of memory");
    err = (struct err){0};
    assert_null(b->ops->host_alloc(b->self, 256, &err));
    assert_err(&err, "emulated", "page-locked", "out of memory");
    err = (struct err){0};
    assert_int_equal(b->ops->place(b->self, &host, &placed, &err), -1);
    assert_err(&err, "emulated", "out of memory");
    assert_null(placed.data);
    emulate_machine()->memory_left = 0;
    assert_true(emulate_used_bytes() == used && emulate_alive() == alive);
    assert_ptr_equal(run_elsewhere((void *)(uintptr_t)b), b);
}

/* Opening, with less and less that can be had: one line, and nothing is left behind. */
static void test_opens_or_says_why(void **state) {
    struct backend_limits limits = cuda_rig_limits();
    const size_t used = emulate_used_bytes(), alive = emulate_alive();
    (void)state;
    for (int objects = 0; objects < 2; objects++) {
        uint64_t *left =
            objects ? &emulate_machine()->objects_left : &emulate_machine()->memory_left;
        bool opened = false;
        for (uint64_t n = 1; !opened; n += objects ? 97 : 1) {
            struct backend b = {0};
            struct err err = {0};
            *left = n;
            opened = emulated_cuda_open(&b, 0, 0, &limits, &err) == 0;
            *left = 0;
            if (opened) {
                assert_true(n > 5);
                backend_close(&b);
            } else {
                assert_err(&err, "emulated", "out of memory");
                assert_null(b.ops);
            }
            assert_true(emulate_used_bytes() == used && emulate_alive() == alive);
        }
    }
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
    float *x = rig.device.ops->alloc(rig.device.self, 256, NULL);
    emulate_machine()->launches_left = 3;
    for (int i = 0; i < 5; i++) {
        rig.device.ops->clamp(rig.device.self, x, 64, 1);
    }
}

/* Device memory is not the host's: what the emulation would not show, no test could find. */
static void touch_device_memory(void) {
    float *x = rig.device.ops->alloc(rig.device.self, 256, NULL);
    for (int i = 0; i < EMULATE_MAX_BLOCKS; i++) {
        rig.device.ops->clamp(rig.device.self, x, 64, 1);
        *(volatile float *)x = 1;
    }
}

static void pass_host_memory(void) {
    float x[64] = {0};
    rig.device.ops->clamp(rig.device.self, x, 64, 1);
}

static void end_past_the_page(void) {
    float *x = rig.device.ops->alloc(rig.device.self, 256, NULL);
    rig.device.ops->clamp(rig.device.self, x, 64 + 4096, 1);
}

static void test_ends(void **state) {
    (void)state;
    dies(lose_device, "emulated", "unspecified launch failure");
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
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_overlap_long),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_opens_or_says_why),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
