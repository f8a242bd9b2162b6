/*
 * run_serve: corm-run's command `serve`, which is the program corm-serve.
 *
 * Owns: finding that program beside this one, and becoming it.
 * Leaves to others: its options and all that it does (runtime/serve). It is a program of its own so
 * that this one needs no libraries for HTTP.
 * Threads: the main thread, before there are others.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "runtime/run/run.h"

int run_serve(char *const *argv, struct err *err) {
    static const char name[] = "corm-serve";
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof name);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    if (!slash) {
        return err_errno(err, errno, "cannot tell where corm-run is, so start corm-serve itself");
    }
    memcpy(slash + 1, name, sizeof name);
    execv(path, argv);
    return err_errno(err, errno,
                     "%s: cannot be started; corm-run serve needs this program, which is built and "
                     "installed together with corm-run",
                     path);
}

static int not_reached(const struct cli_call *call, struct err *err) {
    (void)call;
    return err_set(err, "serve: expected as the first argument");
}

const struct cli_command run_serve_command = {
    "serve",
    "answer over HTTP; this is the program corm-serve",
    not_reached,
    .args = "MODEL.corm",
    .min_args = 0,
    .max_args = -1,
    .description = "See corm-serve --help.",
};
