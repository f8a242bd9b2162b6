/*
 * base: errors, memory, files, cursor, checksums, and the half and bfloat16 conversions, which are
 * compared with an oracle in double arithmetic and, where the machine has it, with F16C.
 */
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* -- errors --------------------------------------------------------------------------------- */

static void err_first_wins(void **state) {
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, "%s: field %d", "a.bin", 7), -1);
    assert_int_equal(err_set(&e, "later"), -1);
    assert_int_equal(err_errno(&e, ENOENT, "later"), -1);
    assert_string_equal(e.msg, "a.bin: field 7");
    assert_int_equal(err_prefix(&e, "shard %d", 2), -1);
    assert_string_equal(e.msg, "shard 2: a.bin: field 7");
    assert_int_equal(err_set(NULL, "no one listens"), -1);
    assert_int_equal(err_prefix(NULL, "no one listens"), -1);
    struct err unset = {0};
    err_prefix(&unset, "nothing to prefix");
    assert_false(unset.set);
    assert_string_equal(unset.msg, "");
}

static void err_errno_text(void **state) {
    (void)state;
    struct err e = {0};
    err_errno(&e, ENOSPC, "x: cannot write");
    assert_string_equal(e.msg, "x: cannot write: No space left on device");
}

static void err_is_one_clean_line(void **state) {
    (void)state;
    struct err e = {0};
    err_set(&e, "name %s end",
            "a\n\t\x1b[31m\x7f\xc2\x9b"
            "b");
    assert_string_equal(e.msg, "name a???[31m???b end");
    struct err utf8 = {0};
    err_set(&utf8, "%s",
            "gr\xc3\xbc\xc3\x9f"
            "e \xe2\x82\xac");
    assert_string_equal(utf8.msg, "gr\xc3\xbc\xc3\x9f"
                                  "e \xe2\x82\xac");
}

static void err_cuts_long_text(void **state) {
    (void)state;
    char *text = mem_alloc(5000);
    memset(text, 'x', 4999);
    text[4999] = '\0';
    struct err e = {0};
    err_set(&e, "%s", text);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    err_prefix(&e, "prefix");
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_memory_equal(e.msg, "prefix: xxx", 11);
    struct err cut = {0};
    err_errno(&cut, EIO, "%s", text);
    assert_int_equal(strlen(cut.msg), sizeof cut.msg - 1);
    free(text);
}

/* -- memory --------------------------------------------------------------------------------- */

/* Runs `fn` in a child that must abort, saying `text` on stderr. */
static void assert_dies(void (*fn)(void), const char *text) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        dup2(pipes[1], 2);
        fn();
        _exit(0);
    }
    close(pipes[1]);
    char out[4096] = "";
    size_t len = 0;
    for (ssize_t n; (n = read(pipes[0], out + len, sizeof out - 1 - len)) > 0;) {
        len += (size_t)n;
    }
    close(pipes[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(out, text));
}

static void calloc_overflow(void) {
    free(mem_calloc(SIZE_MAX / 2, 3));
}
static void aligned_overflow(void) {
    free(mem_alloc_aligned(SIZE_MAX - 3));
}
static void arena_overfull(void) {
    struct arena a;
    arena_init(&a, 256);
    arena_alloc(&a, 200);
    arena_alloc(&a, 1);
}

static void memory_dies_when_it_cannot(void **state) {
    (void)state;
    assert_dies(calloc_overflow, "base.c");
    assert_dies(calloc_overflow, "out of memory");
    assert_dies(aligned_overflow, "out of memory");
    assert_dies(arena_overfull, "arena full: 64 bytes wanted, 256 of 256 in use");
}

static void memory_of_size_zero(void **state) {
    (void)state;
    void *a = mem_alloc(0), *b = mem_calloc(0, 8), *c = mem_realloc(NULL, 0);
    void *d = mem_alloc_aligned(0);
    assert_true(a && b && c && d && a != b && b != c && c != d);
    assert_int_equal((uintptr_t)d % 64, 0);
    free(a);
    free(b);
    free(c);
    free(d);
    char *s = mem_printf("%d-%s", 42, "x");
    assert_string_equal(s, "42-x");
    free(s);
}

static void buf_grows(void **state) {
    (void)state;
    struct buf b = {0};
    buf_append(&b, NULL, 0);
    assert_string_equal(b.data, "");
    for (int i = 0; i < 1000; i++) {
        buf_printf(&b, "%d,", i);
        buf_append(&b, "x\0y", 3);
        assert_int_equal(b.data[b.len], 0);
    }
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4 + 3000);
    assert_memory_equal(b.data, "0,x\0y1,x\0y", 10);
    buf_free(&b);
    assert_null(b.data);
    buf_free(&b);
}

static void arena_gives_zeroed_aligned_memory(void **state) {
    (void)state;
    struct arena a = {0};
    struct test_rng rng = {1};
    for (int round = 0; round < 4; round++) {
        size_t sum = 0;
        for (int i = 0; i < 300; i++) {
            size_t bytes = test_u64(&rng) % 3000;
            uint8_t *p = arena_alloc(&a, bytes);
            assert_int_equal((uintptr_t)p % 64, 0);
            for (size_t k = 0; k < bytes; k++) {
                assert_int_equal(p[k], 0);
            }
            memset(p, 0xee, bytes);
            sum += align_up(bytes ? bytes : 1, 64);
        }
        assert_int_equal(a.used_bytes, sum);
        arena_reset(&a);
        assert_int_equal(a.used_bytes, 0);
    }
    assert_string_equal(arena_strdup(&a, "text"), "text");
    arena_free(&a);
    arena_free(&a);

    arena_init(&a, 1000); /* rounds up to 1024 */
    uint8_t *first = arena_alloc(&a, 512);
    arena_alloc(&a, 512);
    memset(first, 1, 512);
    arena_reset(&a);
    assert_ptr_equal(arena_alloc(&a, 1024), first);
    assert_int_equal(first[0] | first[511] | first[1023], 0);
    arena_free(&a);
}

static void size_arithmetic(void **state) {
    (void)state;
    uint64_t v;
    assert_true(size_add(UINT64_MAX - 1, 1, &v) && v == UINT64_MAX);
    assert_false(size_add(UINT64_MAX, 1, &v));
    assert_true(size_mul(UINT32_MAX, UINT32_MAX, &v) && v == 0xfffffffe00000001u);
    assert_false(size_mul((uint64_t)1 << 32, (uint64_t)1 << 32, &v));
    assert_true(align_up(0, 64) == 0 && align_up(1, 64) == 64 && align_up(4096, 4096) == 4096);
}

/* -- files ---------------------------------------------------------------------------------- */

static void map_reads_a_file(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = test_write(dir, "f", "hello\0world", 11);
    struct err err = {0};
    struct map m;
    assert_int_equal(map_open(&m, path, &err), 0);
    assert_int_equal(m.size_bytes, 11);
    assert_memory_equal(m.data, "hello\0world", 11);
    assert_string_equal(m.path, path);
    char byte;
    assert_int_equal(pread(m.fd, &byte, 1, 6), 1);
    assert_int_equal(byte, 'w');
    map_close(&m);
    assert_null(m.data);
    map_close(&m);
    struct map zeroed = {0};
    map_close(&zeroed);
    assert_true(fcntl(0, F_GETFD) != -1); /* descriptor 0 of a zeroed map was left open */
    free(path);

    char *empty = test_write(dir, "empty", "", 0);
    assert_int_equal(map_open(&m, empty, &err), 0);
    assert_int_equal(m.size_bytes, 0);
    assert_non_null(m.data);
    map_close(&m);
    free(empty);
    test_rmdir(dir);
}

static void files_that_cannot_be_read(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *pipe_path = mem_printf("%s/pipe", dir), *missing = mem_printf("%s/none", dir);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    const struct {
        const char *path, *want;
    } bad[] = {{dir, "is a directory, expected a regular file"},
               {pipe_path, "is a pipe, expected a regular file"},
               {"/dev/null", "is a device, expected a regular file"},
               {missing, "cannot open: No such file or directory"}};
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct err err = {0};
        struct map m;
        assert_int_equal(map_open(&m, bad[i].path, &err), -1);
        assert_err(&err, bad[i].path, bad[i].want);
        map_close(&m);
        struct err err2 = {0};
        uint8_t *data;
        size_t size;
        assert_int_equal(file_read(bad[i].path, 100, &data, &size, &err2), -1);
        assert_err(&err2, bad[i].path, bad[i].want);
        assert_null(data);
    }
    free(pipe_path);
    free(missing);
    test_rmdir(dir);
}

static void file_read_whole_and_limited(void **state) {
    (void)state;
    char *dir = test_mkdir();
    size_t bytes = 100000;
    uint8_t *want = mem_alloc(bytes);
    struct test_rng rng = {2};
    for (size_t i = 0; i < bytes; i++) {
        want[i] = (uint8_t)test_u64(&rng);
    }
    char *path = test_write(dir, "f", want, bytes);
    uint8_t *data;
    size_t size;
    struct err err = {0};
    assert_int_equal(file_read(path, bytes, &data, &size, &err), 0);
    assert_int_equal(size, bytes);
    assert_memory_equal(data, want, bytes);
    assert_int_equal(data[size], 0);
    free(data);
    assert_int_equal(file_read(path, bytes - 1, &data, &size, &err), -1);
    assert_err(&err, path, "larger than the limit of 99999 bytes");
    /* Says size 0, yet has text. */
    struct err proc = {0};
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &data, &size, &proc), 0);
    assert_non_null(strstr((char *)data, "Name:"));
    free(data);
    assert_int_equal(file_read("/proc/self/status", 10, &data, &size, &proc), -1);
    assert_err(&proc, "/proc/self/status", "limit of 10 bytes");
    free(path);
    free(want);
    test_rmdir(dir);
}

static void *drain_slowly(void *arg) {
    int fd = *(int *)arg;
    static char sink[3000];
    size_t *sum = mem_calloc(1, sizeof *sum);
    for (ssize_t n; (n = read(fd, sink, sizeof sink)) > 0;) {
        *sum += (size_t)n;
    }
    return sum;
}

static void file_write_all_writes_all(void **state) {
    (void)state;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drain_slowly, &pipes[0]), 0);
    size_t bytes = 1 << 20;
    void *data = mem_calloc(1, bytes);
    struct err err = {0};
    assert_int_equal(file_write_all(pipes[1], data, bytes, "pipe", &err), 0);
    close(pipes[1]);
    void *sum;
    pthread_join(thread, &sum);
    assert_int_equal(*(size_t *)sum, bytes);
    free(sum);
    free(data);
    close(pipes[0]);

    int full = open("/dev/full", O_WRONLY);
    assert_true(full >= 0);
    assert_int_equal(file_write_all(full, "x", 1, "out.corm", &err), -1);
    assert_err(&err, "out.corm", "No space left on device");
    close(full);
}

static void file_scratch_and_read_at(void **state) {
    (void)state;
    char *dir = test_mkdir(), *path = mem_printf("%s/scratch", dir);
    uint8_t in[300], out[300];
    struct err err = {0};
    for (size_t i = 0; i < sizeof in; i++) {
        in[i] = (uint8_t)(i * 7);
    }
    int fd = file_scratch(path, &err);
    assert_true(fd >= 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(file_write_all(fd, in, sizeof in, path, &err), 0);
    assert_int_equal(file_read_at(fd, out, 200, 100, path, &err), 0);
    assert_memory_equal(out, in + 100, 200);
    assert_no_err(&err);
    assert_int_equal(file_read_at(fd, out, 200, 101, path, &err), -1);
    assert_err(&err, path, "ends inside 200 bytes at 101");
    close(fd);
    err = (struct err){0};
    char *nowhere = mem_printf("%s/absent/scratch", dir);
    assert_int_equal(file_scratch(nowhere, &err), -1);
    assert_err(&err, nowhere, "No such file");
    free(nowhere);
    free(path);
    test_rmdir(dir);
}

/* -- cursor --------------------------------------------------------------------------------- */

static void cursor_reads_little_endian(void **state) {
    (void)state;
    static const uint8_t bytes[] = {1, 3, 2, 7, 6, 5, 4, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0xc0, 0x3f};
    struct cursor c;
    cursor_init(&c, bytes, sizeof bytes);
    assert_int_equal(cursor_u8(&c), 1);
    assert_int_equal(cursor_u16(&c), 0x0203);
    assert_int_equal(cursor_u32(&c), 0x04050607);
    assert_true(cursor_u64(&c) == 0x0102030405060708u);
    assert_true(cursor_f32(&c) == 1.5f);
    assert_false(c.failed);
    assert_ptr_equal(cursor_bytes(&c, 0), bytes + sizeof bytes);
    assert_int_equal(cursor_u8(&c), 0);
    assert_true(c.failed);
}

static void cursor_fails_once_and_stays(void **state) {
    (void)state;
    uint8_t *bytes = test_guard(6);
    memset(bytes, 0xff, 6);
    struct cursor c;
    cursor_init(&c, bytes, 6);
    assert_int_equal(cursor_u32(&c), 0xffffffff);
    assert_int_equal(cursor_u32(&c), 0);
    assert_true(c.failed);
    assert_int_equal(c.failed_at, 4);
    assert_int_equal(cursor_u8(&c), 0); /* would fit, but the cursor has failed */
    assert_null(cursor_bytes(&c, SIZE_MAX));
    assert_int_equal(c.failed_at, 4);
    cursor_init(&c, bytes, 6);
    assert_null(cursor_bytes(&c, SIZE_MAX));
    assert_int_equal(c.failed_at, 0);
    cursor_init(&c, NULL, 0);
    assert_non_null(cursor_bytes(&c, 0));
    assert_int_equal(cursor_u64(&c), 0);
    assert_true(c.failed);
    test_guard_free(bytes, 6);
}

/* -- checksums and clock -------------------------------------------------------------------- */

static void hash_is_xxh3(void **state) {
    (void)state;
    /* Published value of XXH3-64 for the empty input. */
    assert_true(hash64("", 0) == 0x2d06800538d394c2u);
    size_t bytes = 100000;
    uint8_t *data = mem_alloc(bytes);
    struct test_rng rng = {3};
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)test_u64(&rng);
    }
    struct hasher *h = hasher_new();
    assert_true(hasher_value(h) == hash64(NULL, 0));
    for (size_t at = 0; at < bytes;) {
        size_t n = test_u64(&rng) % 1000;
        n = n < bytes - at ? n : bytes - at;
        hasher_add(h, data + at, n);
        at += n;
        assert_true(hasher_value(h) == hash64(data, at));
    }
    hasher_free(h);
    hasher_free(NULL);
    free(data);
}

static void clock_goes_forward(void **state) {
    (void)state;
    uint64_t a = clock_ns();
    usleep(2000);
    uint64_t b = clock_ns();
    assert_true(b - a >= 2000000 && b - a < 60000000000u);
}

/* -- half and bfloat16 ---------------------------------------------------------------------- */

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The value of a half by its definition, in double. */
static double f16_oracle(uint16_t h) {
    int exp = (h >> 10) & 0x1f, mant = h & 0x3ff;
    double v = exp == 0x1f ? (mant ? NAN : INFINITY)
                           : ldexp(exp ? 1024 + mant : mant, (exp ? exp : 1) - 25);
    return h & 0x8000 ? -v : v;
}

/* The half nearest to a finite float, ties to the even one, by scaling to units of the last place
 * in double, where nearbyint rounds just so. */
static uint16_t f16_nearest(float f) {
    double x = fabs((double)f);
    uint16_t sign = signbit(f) ? 0x8000 : 0;
    int exp;
    frexp(x, &exp);
    int ulp = exp - 11 > -24 ? exp - 11 : -24;
    double rounded = ldexp(nearbyint(ldexp(x, -ulp)), ulp);
    if (rounded >= 65536) {
        return sign | 0x7c00;
    }
    if (rounded < 0x1p-14) {
        return sign | (uint16_t)ldexp(rounded, 24);
    }
    frexp(rounded, &exp);
    return sign | (uint16_t)(((exp + 14) << 10) + (int)(ldexp(rounded, 11 - exp) - 1024));
}

static void f16_widens_every_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float got = f16_to_f32((uint16_t)h);
        double want = f16_oracle((uint16_t)h);
        if (isnan(want)) {
            assert_true(isnan(got));
        } else {
            assert_true(got == want && !signbit(got) == !signbit(want));
            assert_int_equal(f32_to_f16(got), h); /* and back */
        }
    }
}

static void check_narrowing(uint32_t u) {
    float f = float_of(u);
    uint16_t half = f32_to_f16(f), bf = f32_to_bf16(f);
    if (isnan(f)) {
        assert_true((half & 0x7c00) == 0x7c00 && (half & 0x3ff));
        assert_true((bf & 0x7f80) == 0x7f80 && (bf & 0x7f));
        assert_int_equal(half >> 15, u >> 31);
        assert_int_equal(bf >> 15, u >> 31);
        return;
    }
    uint16_t want = isinf(f) ? (uint16_t)((u >> 31) << 15 | 0x7c00) : f16_nearest(f);
    if (half != want) {
        print_error("f32_to_f16(%08x) = %04x, expected %04x\n", u, half, want);
        fail();
    }
    /* The bfloat16 neighbours of f are its bits cut and the next one up. */
    uint32_t low = u & 0xffff0000, rest = u & 0xffff;
    bool up = rest > 0x8000 || (rest == 0x8000 && (u >> 16 & 1));
    assert_int_equal(bf, (low >> 16) + up);
}

static void f16_and_bf16_narrow(void **state) {
    (void)state;
    /* Around every half: itself, the midpoints to its neighbours, and one float to each side. */
    for (uint32_t h = 0; h < 0x7c00; h++) {
        uint32_t a = bits_of((float)f16_oracle((uint16_t)h));
        uint32_t b = bits_of(h == 0x7bff ? 65536.0f : (float)f16_oracle((uint16_t)(h + 1)));
        uint32_t middle = bits_of((float)(((double)float_of(a) + (double)float_of(b)) / 2));
        for (uint32_t sign = 0; sign < 2; sign++) {
            for (int32_t d = -1; d <= 1; d++) {
                if (a || d >= 0) {
                    check_narrowing((a + (uint32_t)d) | sign << 31);
                }
                check_narrowing((middle + (uint32_t)d) | sign << 31);
            }
        }
    }
    /* A prime stride through all 2^32 floats, and random ones. */
    for (uint64_t u = 0; u <= UINT32_MAX; u += 4099) {
        check_narrowing((uint32_t)u);
    }
    struct test_rng rng = {4};
    for (int i = 0; i < 1000000; i++) {
        check_narrowing((uint32_t)test_u64(&rng));
    }
    /* The ends: largest finite, the tie to infinity, infinities, NaNs, smallest subnormals. */
    static const uint32_t ends[] = {0,          0x80000000, 0x477fefff, 0x477ff000, 0x477ff001,
                                    0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x7f800000, 0x7f800001,
                                    0x7fbfffff, 0x7fc00000, 0x7fffffff, 0x33000000, 0x33000001,
                                    0x32ffffff, 0x387fc000, 0x387fe000, 0x387fffff, 1};
    for (size_t i = 0; i < TEST_COUNT(ends); i++) {
        check_narrowing(ends[i]);
        check_narrowing(ends[i] | 0x80000000);
    }
    assert_int_equal(f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(1.0f), 0x3c00);
    assert_int_equal(f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
    assert_true(bf16_to_f32(0xc040) == -3.0f);
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static void compare_f16c(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        assert_int_equal(bits_of(f16_to_f32((uint16_t)h)), bits_of(_cvtsh_ss((uint16_t)h)));
    }
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021) {
        float f = float_of((uint32_t)u);
        uint16_t want = (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
        if (f32_to_f16(f) != want) {
            print_error("f32_to_f16(%08x): expected %04x\n", (uint32_t)u, want);
            fail();
        }
    }
}
#endif

static void f16_equals_the_hardware(void **state) {
    (void)state;
#if defined(__x86_64__)
    unsigned a, b, c, d; /* clang's __builtin_cpu_supports does not know "f16c" */
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && __builtin_cpu_supports("avx")) {
        compare_f16c(); /* bit for bit, NaN payloads too */
        return;
    }
#endif
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_first_wins),
        cmocka_unit_test(err_errno_text),
        cmocka_unit_test(err_is_one_clean_line),
        cmocka_unit_test(err_cuts_long_text),
        cmocka_unit_test(memory_dies_when_it_cannot),
        cmocka_unit_test(memory_of_size_zero),
        cmocka_unit_test(buf_grows),
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(size_arithmetic),
        cmocka_unit_test(map_reads_a_file),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(file_read_whole_and_limited),
        cmocka_unit_test(file_write_all_writes_all),
        cmocka_unit_test(file_scratch_and_read_at),
        cmocka_unit_test(cursor_reads_little_endian),
        cmocka_unit_test(cursor_fails_once_and_stays),
        cmocka_unit_test(hash_is_xxh3),
        cmocka_unit_test(clock_goes_forward),
        cmocka_unit_test(f16_widens_every_half),
        cmocka_unit_test(f16_and_bf16_narrow),
        cmocka_unit_test(f16_equals_the_hardware),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
