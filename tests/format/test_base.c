/*
 * base: errors, memory, cursor, checksums and the clock.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

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

static void text_without_controls(void **state) {
    (void)state;
    char text[] = "a\0b\xc2\x80\xc2\x9f\xc2\xa0\xc3\x9b\x7f\xc2";
    text_clean(text, sizeof text - 1);
    assert_memory_equal(text, "a?b????\xc2\xa0\xc3\x9b??", sizeof text - 1);
    char part[] = "\xc2\x9b\n"; /* what follows is not the text's */
    text_clean(part, 0);
    assert_string_equal(part, "\xc2\x9b\n");
    text_clean(part, 2);
    assert_string_equal(part, "??\n");
    text_clean(part, 0);
}

/* Half a character, C1 as a byte, overlong and surrogate spellings: nothing gets through. */
static void malformed_text(void **state) {
    (void)state;
    static const struct {
        const char *text, *clean, *shown;
    } rows[] = {
        {"a\x9b[31m", "a?[31m", "a\xef\xbf\xbd[31m"},
        {"\xc0\x9b", "??", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82", "??", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "???", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "????", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\x1b]0;x\a\x7f", "?]0;x??", "^[]0;x^G^?"},
        {"a\tb\r\n", "a?b??", "a\tb^M\n"},
        {"\xc2\x9b"
         "1m \xc2\x85",
         "??1m ??", "<U+009B>1m <U+0085>"},
        {"\xf0\x9f\x99\x82 \xc3\xa9", "\xf0\x9f\x99\x82 \xc3\xa9", "\xf0\x9f\x99\x82 \xc3\xa9"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf shown = {0};
        char *clean = text_cleaned(rows[i].text);
        assert_string_equal(clean, rows[i].clean);
        buf_show(&shown, rows[i].text, strlen(rows[i].text));
        assert_string_equal(shown.data, rows[i].shown);
        buf_free(&shown);
        free(clean);
    }
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

static void tell_cleaned(void) {
    ssize_t ignored = write(2, "cleaned\n", 8);
    (void)ignored;
}

/* Runs `fn` in a child that must abort, or fail where memory is what it lacks, saying `text` on
 * stderr. */
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
        at_quick_exit(tell_cleaned);
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
    if (strstr(text, "out of memory")) {
        /* One line, and what the program wants to be done at such an end. */
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILURE);
        assert_non_null(strstr(out, "cannot be had\ncleaned\n"));
    } else {
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
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

static void grow_overflow(void) {
    size_t cap = 0;
    mem_grow(NULL, SIZE_MAX / 4, &cap, 8);
}

static void grow_doubling_overflow(void) {
    size_t cap = SIZE_MAX / 2 + 1;
    mem_grow(NULL, cap + 1, &cap, 2); /* not asked of the system, which may answer otherwise */
}

static void memory_dies_when_it_cannot(void **state) {
    (void)state;
    assert_dies(grow_overflow, "out of memory");
    assert_dies(grow_doubling_overflow, "out of memory");
    assert_dies(calloc_overflow, "out of memory");
    assert_dies(aligned_overflow, "out of memory");
    assert_dies(arena_overfull, "arena full: 64 bytes wanted, 256 of 256 in use");
    assert_dies(arena_overfull, "base.c");
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

static void arrays_grow(void **state) {
    (void)state;
    size_t cap = 0, moves = 0;
    uint32_t *a = mem_grow(NULL, 0, &cap, sizeof *a);
    assert_null(a);
    assert_int_equal(cap, 0);
    for (uint32_t n = 0; n < 10000; n++) {
        size_t before = cap;
        a = mem_grow(a, n + 1, &cap, sizeof *a);
        assert_true(cap > n && (cap == before || cap >= 2 * before));
        moves += cap != before;
        a[n] = n;
    }
    assert_true(moves < 12);
    size_t other = cap;
    a = mem_grow(a, 5 * cap, &cap, sizeof *a); /* more than twice at once */
    assert_true(cap == 5 * other);
    for (uint32_t n = 0; n < 10000; n++) {
        assert_int_equal(a[n], n);
    }
    uint8_t *b = mem_grow(mem_alloc(other), 5 * other, &other, sizeof *b);
    assert_int_equal(other, cap); /* whatever the element */
    assert_ptr_equal(mem_grow(b, other, &other, sizeof *b), b);
    free(a);
    free(b);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_first_wins),
        cmocka_unit_test(err_errno_text),
        cmocka_unit_test(err_is_one_clean_line),
        cmocka_unit_test(text_without_controls),
        cmocka_unit_test(malformed_text),
        cmocka_unit_test(err_cuts_long_text),
        cmocka_unit_test(memory_dies_when_it_cannot),
        cmocka_unit_test(memory_of_size_zero),
        cmocka_unit_test(arrays_grow),
        cmocka_unit_test(buf_grows),
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(size_arithmetic),
        cmocka_unit_test(cursor_reads_little_endian),
        cmocka_unit_test(cursor_fails_once_and_stays),
        cmocka_unit_test(hash_is_xxh3),
        cmocka_unit_test(clock_goes_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
