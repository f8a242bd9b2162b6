/*
 * The engine on a device whose memory runs out, and what a device takes of the host's memory.
 */
#include "tests/util/test.h"

#include <sys/resource.h>

#include "runtime/machine.h"
#include "tests/util/test_util_emulated.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

enum { MIB = 1 << 20, BATCH = 16, DRIVER_BYTES = 96 * MIB };

/* Attention and delta nets, and an MLP beside the experts: all kinds of state. */
static char *archive;

/* What is computed does not matter here, but that experts are chosen. */
static bool all_but_routes(const char *kernel) {
    return !strstr(kernel, "route");
}

static int make_archive(void **state) {
    (void)state;
    char *source = golden_source("qwen3next-tiny");
    archive = model_archive(source, test_dir(), "m", "q4", false);
    free(source);
    *emulate_machine() = emulated_machine((size_t)1 << 30);
    emulate_machine()->most_blocks = 1;
    emulate_machine()->sampled = all_but_routes;
    return 0;
}

static int free_archive(void **state) {
    (void)state;
    free(archive);
    return 0;
}

static struct corm_engine_options on_device(void) {
    return (struct corm_engine_options){.device = "cuda",
                                        .threads = 1,
                                        .ctx_tok = 64,
                                        .batch_rows = BATCH,
                                        .max_sessions = 2,
                                        .max_passes = 1,
                                        .snapshot_bytes = MIB,
                                        .vram_bytes = 256 * MIB};
}

static struct corm_memory_plan plan_of(struct corm_engine_options opt) {
    opt.only_plan = true;
    struct corm_engine *e = model_open(archive, &opt);
    struct corm_memory_plan plan = *corm_engine_plan(e);
    corm_engine_close(e);
    return plan;
}

/* ---- the host's memory ---------------------------------------------------------------------- */

/* The device is used for the first time again: its driver takes so much of the host's memory. */
static void driver_takes(size_t bytes) {
    struct backend_device d;
    emulate_machine()->host_bytes = 0;
    assert_int_equal(emulated_cuda_devices(0, &d, 1, NULL), 1);
    emulate_machine()->host_bytes = bytes;
}

/* The least --ram with which the CPU computes missed experts, as the refusal of less names it. */
static uint64_t least_ram(struct corm_engine_options opt) {
    struct corm_engine *e;
    struct corm_error error;
    opt.ram_bytes = 1;
    assert_int_equal(corm_engine_open(&e, archive, &opt, &error), -1);
    const char *named = strstr(error.message, "CPU computes: ");
    assert_non_null(named);
    return strtoull(named + strlen("CPU computes: "), NULL, 10) * MIB;
}

static void the_driver_is_in_the_plan(void **state) {
    struct corm_engine_options opt = on_device();
    (void)state;
    opt.vram_bytes = plan_of(opt).floor_bytes;
    opt.missed = CORM_MISSED_CPU;
    driver_takes(0);
    const uint64_t without = least_ram(opt);
    driver_takes(DRIVER_BYTES);
    opt.ram_bytes = least_ram(opt);
    assert_in_range(opt.ram_bytes, without + DRIVER_BYTES, without + DRIVER_BYTES + 32 * MIB);
    driver_takes(DRIVER_BYTES);
    const struct corm_memory_plan plan = plan_of(opt);
    assert_in_range(plan.driver_bytes, DRIVER_BYTES, DRIVER_BYTES + 32 * MIB);
    assert_int_equal(plan.missed, CORM_MISSED_CPU);
    assert_true(plan.host_bytes > plan.driver_bytes);
    assert_true(plan.host_bytes <= opt.ram_bytes + 32 * MIB);
    driver_takes(0);
}

/* ---- the device's memory -------------------------------------------------------------------- */

struct outcomes {
    int no_engine, no_first, no_second, all; /* how far it came, how often */
};

static void check_message(const struct corm_error *error) {
    assert_non_null(strstr(error->message, "CUDA device 0 (emulated)"));
    assert_non_null(strstr(error->message, "out of memory"));
    assert_null(strchr(error->message, '\n'));
}

static void use(struct corm_session *s) {
    int32_t ids[BATCH];
    for (int i = 0; i < BATCH; i++) {
        ids[i] = i * 7 % 100;
    }
    corm_session_truncate(s, 0);
    model_eval(s, ids, BATCH, false);
    model_eval(s, ids, 1, false);
}

/* Memory, or streams and events, run out at number `n`. What is open works on, without taking any
 * more; and what could not be opened can be, when there is memory again. */
static void run_out_at(uint64_t n, bool objects, struct outcomes *count) {
    struct corm_engine_options opt = on_device();
    struct corm_engine *e;
    struct corm_session *s[2] = {NULL, NULL};
    struct corm_error error;
    uint64_t *left = objects ? &emulate_machine()->objects_left : &emulate_machine()->memory_left;
    int opened = 0;
    opt.missed = CORM_MISSED_CPU;
    opt.vram_bytes = plan_of(on_device()).floor_bytes;
    *left = n;
    if (corm_engine_open(&e, archive, &opt, &error) < 0) {
        *left = 0;
        check_message(&error);
        count->no_engine++;
        assert_int_equal(emulate_alive(), 0);
        return;
    }
    while (opened < 2 && corm_session_open(&s[opened], e, &error) == 0) {
        opened++;
    }
    count->no_first += opened == 0;
    count->no_second += opened == 1;
    count->all += opened == 2;
    emulate_machine()->memory_left = emulate_machine()->objects_left = 1;
    if (opened < 2) {
        check_message(&error);
        assert_int_equal(error.code, CORM_ERROR_MEMORY);
    }
    for (int i = 0; i < opened; i++) {
        use(s[i]);
    }
    emulate_machine()->memory_left = emulate_machine()->objects_left = 0;
    for (int i = opened; i < 2; i++) {
        s[i] = model_session(e);
        use(s[i]);
    }
    corm_session_close(s[0]);
    corm_session_close(s[1]);
    corm_engine_close(e);
    assert_int_equal(emulate_alive(), 0);
}

static void memory_runs_out_anywhere(void **state) {
    struct outcomes count = {0};
    (void)state;
    for (uint64_t n = 1; count.all == 0; n++) {
        run_out_at(n, false, &count);
    }
    assert_true(count.no_engine > 40 && count.no_first > 4 && count.no_second > 4);
    count.all = 0;
    for (uint64_t n = 1; count.all == 0; n += 311) {
        run_out_at(n, true, &count);
    }
}

/* The same of a budget: as much as is free may be planned for, and then is not there. */
static void another_program_takes_it(void **state) {
    struct corm_engine_options opt = on_device();
    struct corm_session *s;
    struct corm_error error;
    (void)state;
    struct corm_engine *e = model_open(archive, &opt);
    const size_t room = emulate_machine()->free_bytes;
    emulate_machine()->free_bytes = emulate_used_bytes() + 1000;
    assert_int_equal(corm_session_open(&s, e, &error), -1);
    check_message(&error);
    emulate_machine()->free_bytes = room;
    s = model_session(e);
    use(s);
    corm_session_close(s);
    corm_engine_close(e);
    assert_int_equal(emulate_alive(), 0);
}

/* ---- the CPU's ------------------------------------------------------------------------------ */

/* Of the host's memory, too, a session may find that there is none. */
static void addresses_run_out(void **state) {
    struct corm_engine_options opt = {
        .threads = 1, .ctx_tok = 1 << 20, .max_sessions = 2, .ram_bytes = (uint64_t)64 << 30};
    struct rlimit before, little;
    struct corm_session *s;
    struct corm_error error;
    (void)state;
    struct corm_engine *e = model_open(archive, &opt);
    assert_true(corm_engine_plan(e)->session_bytes > 128 * MIB);
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    little = before;
    little.rlim_cur = machine_size_bytes() + 64 * MIB;
    assert_int_equal(setrlimit(RLIMIT_AS, &little), 0);
    int status = corm_session_open(&s, e, &error);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(status, -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_non_null(strstr(error.message, "cannot be had"));
    s = model_session(e);
    use(s);
    corm_session_close(s);
    corm_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_driver_is_in_the_plan),
        cmocka_unit_test(memory_runs_out_anywhere),
        cmocka_unit_test(another_program_takes_it),
        cmocka_unit_test(addresses_run_out),
    };
    return cmocka_run_group_tests(tests, make_archive, free_archive);
}
