/*
 * What every test program includes: cmocka with the headers it wants, and a few helpers.
 *
 * A test program is test_<module>.c: static functions `void name(void **state)` in a table
 * for cmocka_run_group_tests. It runs from the repository's root with CORM_BUILD set to the build
 * folder (build/<config>), and is linked with every module of the project.
 */
#ifndef TESTS_UTIL_TEST_H
#define TESTS_UTIL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/base.h"

/* Under a sanitizer, which is slow, the same code runs in fewer combinations: other builds check
 * numbers. */
#ifdef CORM_TEST_QUICK
enum { QUICK = 1 };
#else
enum { QUICK = 0 };
#endif

/* Number of elements of an array. */
#define TEST_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Fails unless `err` is set and its message contains every one of the given strings. */
#define assert_err(err, ...) test_assert_err(err, __FILE__, __LINE__, __VA_ARGS__, (char *)NULL)
__attribute__((sentinel, unused)) static void test_assert_err(const struct err *err,
                                                              const char *file, int line, ...) {
    if (!err->set) {
        _fail(file, line);
    }
    va_list ap;
    va_start(ap, line);
    for (const char *part; (part = va_arg(ap, const char *)) != NULL;) {
        if (!strstr(err->msg, part)) {
            print_error("error message: \"%s\"\nis missing:    \"%s\"\n", err->msg, part);
            va_end(ap);
            _fail(file, line);
        }
    }
    va_end(ap);
    if (strchr(err->msg, '\n')) {
        print_error("error message of several lines: \"%s\"\n", err->msg);
        _fail(file, line);
    }
}

/* Fails, with the message, if `err` is set. */
#define assert_no_err(err) test_assert_no_err(err, __FILE__, __LINE__)
__attribute__((unused)) static void test_assert_no_err(const struct err *err, const char *file,
                                                       int line) {
    if (err->set) {
        print_error("unexpected error: %s\n", err->msg);
        _fail(file, line);
    }
}

/* A seeded generator (splitmix64): the same numbers on every machine and in every run. */
struct test_rng {
    uint64_t state;
};
__attribute__((unused)) static uint64_t test_u64(struct test_rng *r) {
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* Uniform in [-1, 1). */
__attribute__((unused)) static float test_f32(struct test_rng *r) {
    return (float)(int32_t)(test_u64(r) >> 32) * 0x1p-31f;
}

/* A fresh folder below TMPDIR or /tmp; test_rmdir, and the program's end however it comes, remove
 * it with its files. `dir` is test_mkdir's; it is freed. */
char *test_mkdir(void);
void test_rmdir(char *dir);
/* The program's own, made at the first call, for what its tests share. */
const char *test_dir(void);

/* Writes a file; returns its path, to free(). */
__attribute__((unused)) static char *test_write(const char *dir, const char *name, const void *data,
                                                size_t bytes) {
    char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* A block whose end touches an unreadable page: reading or writing one byte past it crashes.
 * Aligned only as `bytes` allows. Free with test_guard_free and the same size. */
__attribute__((unused)) static void *test_guard(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t usable = align_up(bytes ? bytes : 1, page);
    uint8_t *p =
        mmap(NULL, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + usable, page, PROT_NONE), 0);
    return p + usable - bytes;
}
__attribute__((unused)) static void test_guard_free(void *p, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t usable = align_up(bytes ? bytes : 1, page);
    munmap((uint8_t *)p + bytes - usable, usable + page);
}

#endif
