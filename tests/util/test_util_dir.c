/*
 * Folders of tests (test_mkdir, test_rmdir, test_dir of test.h), and their end: those that are left
 * go when the program exits, and those of a program that is interrupted go in the signal's handler.
 * What a crash leaves lies in TMPDIR, which tests/run.sh empties.
 */
#include "tests/util/test.h"

#include <signal.h>
#include <sys/wait.h>

enum { MAX_DIRS = 64 };
static char *dirs[MAX_DIRS]; /* NULL: free */
static pid_t owner;          /* a child that exits must not take its parent's folders along */

/* Calls only what a signal handler may call. Returns whether it is gone. */
static bool remove_tree(const char *path) {
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exec rm -rf \"$0\"", path, (char *)NULL);
        _exit(127);
    }
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void remove_all(void) {
    for (int i = 0; i < MAX_DIRS && owner == getpid(); i++) {
        if (dirs[i]) {
            remove_tree(dirs[i]);
        }
    }
}

static void on_signal(int signal_number) {
    remove_all();
    raise(signal_number); /* its action is the default one again */
}

char *test_mkdir(void) {
    if (owner != getpid()) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
        const int ends[] = {SIGHUP, SIGINT, SIGTERM};
        for (size_t i = 0; i < TEST_COUNT(ends); i++) {
            sigaction(ends[i], &action, NULL);
        }
        owner = getpid();
        memset(dirs, 0, sizeof dirs);
        assert_int_equal(atexit(remove_all), 0);
    }
    int i = 0;
    while (dirs[i]) {
        assert_true(++i < MAX_DIRS);
    }
    const char *parent = getenv("TMPDIR");
    char *dir = mem_printf("%s/corm-test-XXXXXX", parent && *parent ? parent : "/tmp");
    assert_non_null(mkdtemp(dir));
    return dirs[i] = dir;
}

void test_rmdir(char *dir) {
    for (int i = 0; i < MAX_DIRS; i++) {
        dirs[i] = dirs[i] == dir ? NULL : dirs[i];
    }
    assert_true(remove_tree(dir));
    free(dir);
}

const char *test_dir(void) {
    static const char *shared;
    static pid_t made_by;
    if (made_by != getpid()) {
        shared = test_mkdir();
        made_by = getpid();
    }
    return shared;
}
