#include "format/fatal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/base.h"

/* Signal handlers need variables that outlive every call; so do functions for quick_exit. */
static void (*clean_up)(void);
static bool cleaned, told;

/* True for the first caller, of however many threads. */
static bool is_first(bool *flag) {
    return !__atomic_test_and_set(flag, __ATOMIC_SEQ_CST);
}

static void clean_once(void) {
    if (clean_up && is_first(&cleaned)) {
        clean_up();
    }
}

/* ---- a line without stdio, which a signal handler may not use ---- */

struct line {
    char text[4608];
    size_t n;
};

static void put(struct line *l, const char *text, size_t n) {
    n = n < sizeof l->text - l->n ? n : sizeof l->text - l->n;
    memcpy(l->text + l->n, text, n);
    l->n += n;
}

static void put_string(struct line *l, const char *text) {
    put(l, text, strlen(text));
}

static void put_number(struct line *l, uint64_t value) {
    char digits[20];
    size_t n = sizeof digits;
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put(l, digits + n, sizeof digits - n);
}

/* ---- the file behind an address ---- */

/* Reads /proc/self/maps byte by byte through a buffer. */
struct maps {
    int fd;
    char block[4096];
    ssize_t n, at;
};

static int next_char(struct maps *m) {
    if (m->at == m->n) {
        m->at = 0;
        m->n = read(m->fd, m->block, sizeof m->block);
        if (m->n <= 0) {
            m->n = 0;
            return -1;
        }
    }
    return (unsigned char)m->block[m->at++];
}

static uint64_t hex(struct maps *m, int *end) {
    uint64_t value = 0;
    for (;;) {
        int c = *end = next_char(m);
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) {
            return value;
        }
        value = value << 4 | (uint64_t)digit;
    }
}

/* Find the mapping that `address` lies in: lines "from-to rights offset device inode  path". False
 * where there is none, or none of a file. */
static bool find_file(uintptr_t address, struct line *path, uint64_t *offset) {
    struct maps m = {.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    bool found = false;
    for (int c = 0; m.fd >= 0 && c >= 0 && !found;) {
        uint64_t from = hex(&m, &c), to = hex(&m, &c);
        for (int blanks = 0; c >= 0 && c != '\n' && blanks < 1;) { /* the rights */
            c = next_char(&m);
            blanks += c == ' ';
        }
        uint64_t first = c == '\n' ? 0 : hex(&m, &c);
        path->n = 0;
        for (bool in_path = false; c >= 0 && c != '\n';) {
            c = next_char(&m);
            in_path |= c == '/';
            if (in_path && c >= 0 && c != '\n') {
                put(path, &(char){(char)c}, 1);
            }
        }
        found = from <= address && address < to;
        *offset = first + (address - from);
    }
    if (m.fd >= 0) {
        close(m.fd);
    }
    return found && path->n > 0;
}

/* ---- ends ---- */

/* Files are used where they are mapped: what can no longer be read arrives as a signal, which
 * leaves nothing to be done but to say so. Several threads may meet such a page at once: the first
 * one speaks, and the others wait for the end. */
static void on_lost_page(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    if (!is_first(&told)) {
        for (;;) {
            pause();
        }
    }
    struct line line = {.n = 0}, path = {.n = 0};
    uint64_t offset = 0;
    put_string(&line, program_invocation_short_name);
    put_string(&line, ": ");
    if (find_file((uintptr_t)info->si_addr, &path, &offset)) {
        text_clean(path.text, path.n);
        put(&line, path.text, path.n < 4096 ? path.n : 4096);
        put_string(&line, ": cannot be read at byte ");
        put_number(&line, offset);
        put_string(&line, ": it was truncated or replaced while in use, or its disk fails\n");
    } else {
        put_string(&line, "memory can no longer be read: a file in use was truncated, or the "
                          "hardware fails\n");
    }
    ssize_t ignored = write(STDERR_FILENO, line.text, line.n);
    (void)ignored;
    clean_once();
    _exit(EXIT_FAILURE);
}

void fatal_end(int number) {
    clean_once();
    signal(number, SIG_DFL);
    raise(number);
}

void fatal_hold(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, before);
}

void fatal_release(const sigset_t *before) {
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* Signals that end a program unless it does something about them. What a sanitizer, or whoever
 * started the program, has arranged for one stays. */
static void catch_ends(void) {
    static const int ends[] = {SIGABRT,   SIGQUIT, SIGPIPE, SIGXCPU, SIGALRM,
                               SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGPOLL,
                               SIGSEGV,   SIGFPE,  SIGILL,  SIGSYS,  SIGTRAP};
    struct sigaction end = {.sa_handler = fatal_end}, before;
    sigemptyset(&end.sa_mask);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (sigaction(ends[i], NULL, &before) == 0 && !(before.sa_flags & SA_SIGINFO) &&
            before.sa_handler == SIG_DFL) {
            sigaction(ends[i], &end, NULL);
        }
    }
}

void fatal_catch(void (*clean)(void)) {
    struct sigaction lost = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    sigemptyset(&lost.sa_mask);
    clean_up = clean;
    sigaction(SIGBUS, &lost, NULL);
    if (clean) {
        catch_ends();
        at_quick_exit(clean_once);
    }
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files then is an error of write(2) */
}
