/*
 * base: maps, whole files, writing all of it, scratch files.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

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

/* What cannot be told is an error: here, a name that is longer than names can be. */
static void file_exists_or_not(void **state) {
    (void)state;
    struct err err = {0};
    char *path = test_write(test_dir(), "there", "x", 1), *below = mem_printf("%s/x", path);
    char *none = mem_printf("%s.none", path), *long_name = mem_calloc(1, 301);
    memset(long_name, 'x', 300);
    assert_int_equal(file_exists(path, &err), 1);
    assert_int_equal(file_exists(none, &err), 0);
    assert_int_equal(file_exists(below, &err), 0);
    assert_no_err(&err);
    assert_int_equal(file_exists(long_name, &err), -1);
    assert_err(&err, strerror(ENAMETOOLONG));
    free(path);
    free(below);
    free(none);
    free(long_name);
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

/* A part is one process's as long as it is open; what is left under its name is replaced. */
static void parts_are_made_alone(void **state) {
    (void)state;
    char *dir = test_mkdir(), *part = mem_printf("%s/a.part", dir),
         *whole = mem_printf("%s/a", dir);
    char *precious = test_write(dir, "precious", "mine", 4);
    struct err err = {0}, busy = {0}, bad = {0};
    struct stat st;
    free(test_write(dir, "a.part", "half", 4));
    int fd = file_create_part(part, whole, 0600, &err);
    assert_no_err(&err);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(file_create_part(part, whole, 0600, &busy), -1);
    assert_err(&busy, whole, "another process is writing it");
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(stat(part, &st), 0); /* the refused one has not touched it */
    assert_int_equal(st.st_size, 1);
    close(fd);

    assert_int_equal(unlink(part), 0);
    assert_int_equal(symlink(precious, part), 0);
    fd = file_create_part(part, whole, 0600, &err);
    assert_no_err(&err);
    close(fd);
    assert_int_equal(stat(precious, &st), 0);
    assert_int_equal(st.st_size, 4);
    assert_int_equal(unlink(part), 0);
    assert_int_equal(mkdir(part, 0700), 0);
    assert_int_equal(file_create_part(part, whole, 0600, &bad), -1);
    assert_err(&bad, part, "cannot create", "File exists");
    bad = (struct err){0};
    assert_int_equal(file_create_part("/nonexistent/a.part", "/nonexistent/a", 0600, &bad), -1);
    assert_err(&bad, "/nonexistent/a.part", "No such file");
    free(precious);
    free(whole);
    free(part);
    test_rmdir(dir);
}

struct makers {
    const char *part, *whole;
    int made; /* by all threads together */
};

/* Makes the file again and again; while it is this thread's, no other one's has the name. */
static void *make_parts(void *arg) {
    struct makers *m = arg;
    for (int i = 0; i < 300; i++) {
        struct err err = {0};
        int fd = file_create_part(m->part, m->whole, 0600, &err);
        if (fd < 0) {
            continue;
        }
        struct stat held, named;
        bool ours = write(fd, "xy", 2) == 2 && fstat(fd, &held) == 0 &&
                    lstat(m->part, &named) == 0 && held.st_ino == named.st_ino &&
                    held.st_size == 2 && rename(m->part, m->whole) == 0;
        close(fd);
        if (!ours) {
            return m;
        }
        __atomic_add_fetch(&m->made, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void parts_made_by_many_at_once(void **state) {
    (void)state;
    enum { THREADS = 4 };
    char *dir = test_mkdir(), *part = mem_printf("%s/a.part", dir),
         *whole = mem_printf("%s/a", dir);
    struct makers m = {.part = part, .whole = whole};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, make_parts, &m), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_true(m.made > 0);
    free(whole);
    free(part);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_reads_a_file),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(file_read_whole_and_limited),
        cmocka_unit_test(file_write_all_writes_all),
        cmocka_unit_test(file_exists_or_not),
        cmocka_unit_test(file_scratch_and_read_at),
        cmocka_unit_test(parts_are_made_alone),
        cmocka_unit_test(parts_made_by_many_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
