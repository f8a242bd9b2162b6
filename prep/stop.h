/*
 * stop: how long work learns that the user wants it to end (Ctrl-C).
 *
 * The main sets a flag from its signal handler; a module that is handed the flag looks at it
 * between pieces of work, and returns with an error as it does for any other failure, so that
 * cleanup is the usual one.
 */
#ifndef PREP_STOP_H
#define PREP_STOP_H

#include <signal.h>

#include "format/base.h"

/* -1 and `err` "interrupted" where the flag is set. `stop` NULL: never. */
static inline int stop_check(const volatile sig_atomic_t *stop, struct err *err) {
    return stop && *stop ? err_set(err, "interrupted") : 0;
}

#endif
