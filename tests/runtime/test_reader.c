/*
 * Ways of reading: the same bytes by all of them, what stays in the page cache, how fast they are
 * said to be, and which one is chosen.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runtime/reader.h"

enum { FILE_BYTES = (4 << 20) + 1234, SPAN_BYTES = 32 << 10, N_SPANS = FILE_BYTES / SPAN_BYTES };
static const struct reader_throttle NONE = {0};

static char *dir, *path;
static uint8_t *content;
static struct reader_span spans[N_SPANS];

static int make_file(void **state) {
    struct err err = {0};
    struct test_rng rng = {7};
    (void)state;
    dir = test_mkdir();
    path = mem_printf("%s/file", dir);
    content = mem_alloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++) {
        content[i] = (uint8_t)test_u64(&rng);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    file_write_all(fd, content, FILE_BYTES, path, &err);
    fsync(fd); /* else its pages cannot be forgotten */
    close(fd);
    for (size_t i = 0; i < N_SPANS; i++) {
        spans[i] = (struct reader_span){i * SPAN_BYTES + i % 3 * 64, SPAN_BYTES - 192};
    }
    return err.set ? -1 : 0;
}

static int remove_file(void **state) {
    (void)state;
    free(path);
    free(content);
    test_rmdir(dir);
    return 0;
}

static bool works(enum reader_way way) {
    return way != READER_DIRECT || reader_direct_works(path);
}

/* ---- bytes ---- */

static const uint8_t *get(struct reader *r, uint64_t offset, size_t bytes, uint8_t *buffer,
                          struct err *err) {
    const uint8_t *data = NULL;
    int status = r->way == READER_MAPPED ? reader_map(r, offset, bytes, NULL, &data, err)
                                         : reader_read(r, offset, bytes, buffer, &data, err);
    return status == 0 ? data : NULL;
}

static void all_ways_give_the_same_bytes(void **state) {
    static const struct reader_span odd[] = {
        {0, 1},      {4095, 2}, {64, 100000}, {FILE_BYTES - 1, 1}, {FILE_BYTES - 9000, 9000},
        {4096, 4096}};
    (void)state;
    uint8_t *buffer = aligned_alloc(READER_ALIGN, reader_buffer_bytes(128 << 10));
    for (int way = 0; way < READER_WAYS; way++) {
        struct reader r;
        struct err err = {0};
        if (!works((enum reader_way)way)) {
            continue;
        }
        reader_open(&r, path, (enum reader_way)way, NONE, &err);
        assert_no_err(&err);
        for (size_t i = 0; i < TEST_COUNT(odd); i++) {
            const uint8_t *data = get(&r, odd[i].offset, odd[i].bytes, buffer, &err);
            assert_no_err(&err);
            assert_memory_equal(data, content + odd[i].offset, odd[i].bytes);
        }
        assert_null(get(&r, FILE_BYTES - 100, 101, buffer, &err));
        assert_non_null(strstr(err.msg, path));
        assert_non_null(strstr(err.msg, "truncated"));
        reader_close(&r);
    }
    free(buffer);
}

/* Pages of the file that lie in memory. */
static size_t cached_pages(void) {
    enum { PAGES = FILE_BYTES / 4096 };
    unsigned char there[PAGES + 1] = {0};
    size_t n = 0;
    int fd = open(path, O_RDONLY);
    void *map = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, FILE_BYTES, there), 0);
    munmap(map, FILE_BYTES);
    close(fd);
    for (size_t i = 0; i < PAGES; i++) {
        n += there[i] & 1;
    }
    return n;
}

/* Read all spans with three threads. */
static double read_all(enum reader_way way, struct reader_throttle throttle) {
    struct reader r;
    struct err err = {0};
    double rate = 0;
    struct reader_work work = {spans, N_SPANS, 3, UINT64_C(10000000000), false};
    reader_open(&r, path, way, throttle, &err);
    assert_no_err(&err);
    reader_rate(&r, &work, &rate, &err);
    assert_no_err(&err);
    reader_close(&r);
    return rate;
}

static void who_leaves_pages_behind(void **state) {
    (void)state;
    struct reader r;
    struct err err = {0};
    reader_open(&r, path, READER_BUFFERED, NONE, &err);
    assert_no_err(&err);
    reader_uncache(&r, 0, 0);
    reader_close(&r);
    if (cached_pages() > 0) {
        skip(); /* a file system that lies in memory */
    }
    if (works(READER_DIRECT)) {
        read_all(READER_DIRECT, NONE);
    }
    read_all(READER_MAPPED, NONE);
    read_all(READER_PASSING, NONE);
    /* Threads that read neighbours may each bring a page that both use. */
    assert_true(cached_pages() <= N_SPANS);
    read_all(READER_BUFFERED, NONE);
    assert_true(cached_pages() >= FILE_BYTES / 4096 * 9 / 10);
}

/* ---- rates ---- */

static void a_rate_is_the_rate(void **state) {
    (void)state;
    for (int way = 0; way < READER_WAYS; way++) {
        if (!works((enum reader_way)way)) {
            continue;
        }
        /* The link lets 40 MB/s pass, all threads together; who is late cannot make it faster. */
        double rate = read_all((enum reader_way)way, (struct reader_throttle){40e6, 0});
        assert_true(rate > 4e6 && rate < 48e6);
    }
}

static void a_rate_keeps_to_its_time(void **state) {
    (void)state;
    struct reader r;
    struct err err = {0};
    double rate = 0;
    reader_open(&r, path, READER_BUFFERED, (struct reader_throttle){10e6, 0}, &err);
    struct reader_work work = {spans, N_SPANS, 1, 50 * 1000 * 1000, true};
    uint64_t start = clock_ns();
    reader_rate(&r, &work, &rate, &err);
    assert_no_err(&err);
    /* All spans would take 0.4 s, and then start over. */
    assert_true(clock_ns() - start >= 50 * 1000 * 1000);
    assert_true(r.link_free_ns - start < 300 * 1000 * 1000);
    reader_close(&r);
}

/* ---- the choice ---- */

static void the_rule(void **state) {
    static const struct {
        double buffered, direct, mapped, passing;
        enum reader_way favoured, best;
    } cases[] = {
        {1000, 1000, 0, 0, READER_DIRECT, READER_DIRECT},
        {1240, 1000, 0, 0, READER_DIRECT, READER_DIRECT},
        {1260, 1000, 0, 0, READER_DIRECT, READER_BUFFERED},
        {9000, 1000, 0, 0, READER_DIRECT, READER_BUFFERED},
        {1000, 1240, 0, 0, READER_BUFFERED, READER_BUFFERED},
        {1000, 1260, 0, 0, READER_BUFFERED, READER_DIRECT},
        {0, 1000, 0, 1300, READER_DIRECT, READER_PASSING},
        {0, 1000, 0, 1200, READER_DIRECT, READER_DIRECT},
        {0, 0, 0, 1, READER_DIRECT, READER_PASSING},
        {0, 10, 0, 0, READER_BUFFERED, READER_DIRECT},
        {0, 0, 0, 0, READER_DIRECT, READER_DIRECT},
        {900, 1000, 2000, 0, READER_DIRECT, READER_MAPPED},
        {1990, 1000, 2000, 1995, READER_DIRECT, READER_MAPPED},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        const double rates[READER_WAYS] = {[READER_BUFFERED] = cases[i].buffered,
                                           [READER_DIRECT] = cases[i].direct,
                                           [READER_MAPPED] = cases[i].mapped,
                                           [READER_PASSING] = cases[i].passing};
        if (reader_best(rates, cases[i].favoured) != cases[i].best) {
            fail_msg("case %zu: %s", i, reader_way_name(reader_best(rates, cases[i].favoured)));
        }
    }
}

/* What a way does while it is measured. */
struct watch {
    uint64_t sleep_ns;
    int fails; /* errno of each read; 0 = none */
    atomic_uint_fast64_t bytes;
    atomic_int reads[N_SPANS];
};

static int on_read(void *ctx, uint64_t offset, size_t bytes, struct err *err) {
    struct watch *w = ctx;
    atomic_fetch_add(&w->bytes, bytes);
    atomic_fetch_add(&w->reads[offset / SPAN_BYTES], 1);
    if (w->fails) {
        return err_errno(err, w->fails, "%s", path);
    }
    clock_sleep_until(clock_ns() + w->sleep_ns);
    return 0;
}

static struct reader_trial trial(enum reader_way cached, enum reader_way favoured) {
    return (struct reader_trial){.spans = spans,
                                 .n = N_SPANS,
                                 .threads = 2,
                                 .limit_bytes = 2 << 20,
                                 .limit_ns = 150 * 1000 * 1000,
                                 .cached = cached,
                                 .favoured = favoured};
}

/* Whichever way is made slow, the other one is chosen, favoured or not. */
static void the_slow_way_is_not_chosen(void **state) {
    static const enum reader_way cached[] = {READER_BUFFERED, READER_PASSING};
    (void)state;
    if (!works(READER_DIRECT)) {
        skip();
    }
    for (int i = 0; i < 8; i++) {
        enum reader_way other = cached[i & 1], slow = i & 2 ? READER_DIRECT : other;
        enum reader_way fast = slow == other ? READER_DIRECT : other;
        struct watch w = {.sleep_ns = 80 * 1000 * 1000};
        struct reader_trial t = trial(other, i & 4 ? slow : fast);
        struct reader_choice c;
        struct err err = {0};
        t.faults[slow] = (struct reader_fault){on_read, &w};
        reader_choose(path, &t, &c, &err);
        assert_no_err(&err);
        assert_int_equal(c.way, fast);
        assert_true(c.bytes_per_s[slow] > 0 && c.bytes_per_s[slow] < c.bytes_per_s[fast]);
        assert_false(c.failed[READER_DIRECT].set || c.failed[other].set);
        assert_true(c.bytes_per_s[READER_MAPPED] == 0);
    }
}

static void a_sample_is_read_once_and_all_over(void **state) {
    (void)state;
    struct watch ways[READER_WAYS] = {0};
    struct reader_trial t = trial(READER_BUFFERED, READER_DIRECT);
    struct reader_choice c;
    struct err err = {0};
    uint64_t bytes = 0;
    int quarters[4] = {0};
    for (int way = 0; way < READER_WAYS; way++) {
        t.faults[way] = (struct reader_fault){on_read, &ways[way]};
    }
    t.limit_ns = UINT64_C(60000000000);
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    for (size_t i = 0; i < N_SPANS; i++) {
        int n = 0;
        for (int way = 0; way < READER_WAYS; way++) {
            n += ways[way].reads[i];
        }
        assert_true(n <= 1);
        quarters[4 * i / N_SPANS] += n;
    }
    for (int way = 0; way < READER_WAYS; way++) {
        bytes += ways[way].bytes;
    }
    /* Direct reads are of whole pages. */
    assert_true(bytes > t.limit_bytes / 2 && bytes <= t.limit_bytes * 9 / 8);
    for (int i = 0; i < 4; i++) {
        assert_true(quarters[i] >= 4);
    }
}

static void a_slow_disk_is_not_measured_for_long(void **state) {
    (void)state;
    struct watch w = {.sleep_ns = 50 * 1000 * 1000};
    struct reader_trial t = trial(READER_PASSING, READER_DIRECT);
    struct reader_choice c;
    struct err err = {0};
    for (int way = 0; way < READER_WAYS; way++) {
        t.faults[way] = (struct reader_fault){on_read, &w};
    }
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    int reads = 0;
    for (size_t i = 0; i < N_SPANS; i++) {
        reads += w.reads[i];
    }
    /* One turn each takes 50 ms, so that after four, and the first read, time is up. */
    assert_true(reads >= 3 && reads <= 2 * 6);
}

static void a_way_that_fails_is_none(void **state) {
    (void)state;
    struct watch w = {.fails = EIO};
    struct reader_trial t = trial(READER_PASSING, READER_DIRECT);
    struct reader_choice c;
    struct err err = {0};
    t.faults[READER_DIRECT] = (struct reader_fault){on_read, &w};
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    assert_int_equal(c.way, READER_PASSING);
    assert_true(c.bytes_per_s[READER_DIRECT] == 0 && c.bytes_per_s[READER_PASSING] > 0);
    assert_false(c.failed[READER_PASSING].set);
    /* A file system without O_DIRECT and a bad disk are told apart. */
    if (works(READER_DIRECT)) {
        assert_err(&c.failed[READER_DIRECT], path, "Input/output error");
    }
    w.fails = EINVAL;
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    assert_int_equal(c.way, READER_PASSING);
    assert_string_equal(c.failed[READER_DIRECT].msg, READER_REFUSED);

    /* Where both fail, the disk's error says more than that one is not to be had. */
    struct watch disk = {.fails = EIO};
    t.faults[READER_PASSING] = (struct reader_fault){on_read, &disk};
    assert_int_equal(reader_choose(path, &t, &c, &err), -1);
    assert_err(&err, path, "Input/output error");
    err = (struct err){0};
    w.fails = EIO;
    assert_int_equal(reader_choose(path, &t, &c, &err), -1);
    assert_err(&err, path, "Input/output error");

    /* Too little to tell: what is favoured, if it is to be had. */
    err = (struct err){0};
    t = trial(READER_BUFFERED, READER_BUFFERED);
    t.n = 1;
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    assert_int_equal(c.way, READER_BUFFERED);
    assert_true(c.bytes_per_s[READER_BUFFERED] == 0 && c.bytes_per_s[READER_DIRECT] == 0);
    t.favoured = READER_DIRECT;
    t.faults[READER_DIRECT] = (struct reader_fault){on_read, &w};
    reader_choose(path, &t, &c, &err);
    assert_no_err(&err);
    assert_int_equal(c.way, READER_BUFFERED);
}

/* Linux lists its types in a file of some MB, on a file system that refuses O_DIRECT. */
static void without_direct_reading(void **state) {
    static const char file[] = "/sys/kernel/btf/vmlinux";
    static const struct reader_span some[] = {{0, 4096}, {8192, 4096}, {65536, 8192}, {40000, 100}};
    (void)state;
    if (access(file, R_OK) != 0 || reader_direct_works(file)) {
        skip();
    }
    struct reader_trial t = trial(READER_PASSING, READER_DIRECT);
    struct reader_choice c;
    struct err err = {0};
    t.spans = some;
    t.n = TEST_COUNT(some);
    reader_choose(file, &t, &c, &err);
    assert_no_err(&err);
    assert_int_equal(c.way, READER_PASSING);
    assert_string_equal(c.failed[READER_DIRECT].msg, READER_REFUSED);
    assert_false(c.failed[READER_PASSING].set);
    assert_true(c.bytes_per_s[READER_PASSING] > 0);

    assert_int_equal(reader_choose("/nowhere/to/be/found", &t, &c, &err), -1);
    assert_non_null(strstr(err.msg, "/nowhere/to/be/found"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ways_give_the_same_bytes),
        cmocka_unit_test(who_leaves_pages_behind),
        cmocka_unit_test(a_rate_is_the_rate),
        cmocka_unit_test(a_rate_keeps_to_its_time),
        cmocka_unit_test(the_rule),
        cmocka_unit_test(the_slow_way_is_not_chosen),
        cmocka_unit_test(a_sample_is_read_once_and_all_over),
        cmocka_unit_test(a_slow_disk_is_not_measured_for_long),
        cmocka_unit_test(a_way_that_fails_is_none),
        cmocka_unit_test(without_direct_reading),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
