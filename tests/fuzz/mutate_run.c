/*
 * mutate_run: a program as a child with limits, and whether what it did is allowed. Numbers that
 * changes are drawn from are here, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fuzz/mutate.h"

/* ---- numbers ---- */

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct mutate_rng mutate_rng(uint64_t seed, uint64_t index) {
    uint64_t both[2] = {seed, index};
    return (struct mutate_rng){.key = hash64(both, sizeof both)};
}

uint64_t mutate_u64(struct mutate_rng *r) {
    return mix(r->key + 0x9e3779b97f4a7c15u * ++r->counter);
}

uint32_t mutate_below(struct mutate_rng *r, uint64_t n) {
    return n ? (uint32_t)(mutate_u64(r) % n) : 0;
}

uint64_t mutate_number(struct mutate_rng *r, uint64_t old, uint32_t bits) {
    uint64_t most = bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX, n = old;
    switch (mutate_below(r, 14)) {
    case 0:
        n = 0;
        break;
    case 1:
        n = 1;
        break;
    case 2:
        n = most - mutate_below(r, 2);
        break;
    case 3:
        n = most / 2 + mutate_below(r, 2);
        break;
    case 4:
    case 5:
        n = old + 1;
        break;
    case 6:
    case 7:
        n = old - 1;
        break;
    case 8:
        n = old * 2;
        break;
    case 9:
        n = old / 2;
        break;
    case 10:
        n = UINT64_C(1) << mutate_below(r, bits);
        break;
    case 11:
        n = old ^ UINT64_C(1) << mutate_below(r, bits);
        break;
    case 12:
        n = mutate_below(r, 64);
        break;
    default:
        n = mutate_u64(r) >> mutate_below(r, bits);
        break;
    }
    return n & most;
}

uint32_t mutate_float(struct mutate_rng *r, uint32_t old) {
    static const uint32_t special[] = {
        0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x00000001,
        0x7f7fffff, 0xff7fffff, 0x3f800000, 0xbf800000, 0x00800000, 0x5f000000,
    };
    if (mutate_one_in(r, 3)) {
        return (uint32_t)mutate_number(r, old, 32);
    }
    return special[mutate_below(r, sizeof special / sizeof *special)];
}

void mutate_bytes(struct mutate_rng *r, uint8_t *data, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    for (uint32_t n = 1 + mutate_below(r, 4); n > 0; n--) {
        size_t at = mutate_below(r, bytes), left = bytes - at;
        size_t run = 1 + mutate_below(r, left < 32 ? left : 32);
        switch (mutate_below(r, 5)) {
        case 0:
            data[at] ^= (uint8_t)(1u << mutate_below(r, 8));
            break;
        case 1:
            memset(data + at, mutate_one_in(r, 2) ? 0 : 0xff, run);
            break;
        case 2:
            memmove(data + at, data + mutate_below(r, bytes - run + 1), run);
            break;
        default:
            data[at] = (uint8_t)mutate_number(r, data[at], 8);
            break;
        }
    }
}

void mutate_again(struct buf *b, size_t at, size_t bytes) {
    struct buf copy = {0}; /* as growing moves what is appended */
    buf_append(&copy, b->data + at, bytes);
    buf_append(b, copy.data, copy.len);
    buf_free(&copy);
}

/* ---- a child ---- */

enum { MOST_SAID = 64 << 10 };

static uint64_t now_ms(void) {
    return clock_ns() / 1000000;
}

static void limit(int what, uint64_t n, uint64_t hard) {
    struct rlimit l = {.rlim_cur = n, .rlim_max = hard};
    setrlimit(what, &l);
}

/* In the child: never returns. */
_Noreturn static void become(char *const *argv, const struct mutate_limits *limits, int out,
                             int err) {
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(out, 1);
    dup2(err, 2);
    setpgid(0, 0);
    limit(RLIMIT_CORE, 0, 0);
    limit(RLIMIT_CPU, limits->cpu_s, limits->cpu_s + 2);
    limit(RLIMIT_FSIZE, UINT64_C(1) << 30, UINT64_C(1) << 30);
    if (limits->beside_plan > 0) { /* so that no child takes the machine's memory */
        limit(RLIMIT_DATA, UINT64_C(3) << 30, UINT64_C(3) << 30);
    }
    signal(SIGXFSZ, SIG_IGN);
    setenv("ASAN_OPTIONS",
           "exitcode=99:detect_leaks=1:max_allocation_size_mb=2048:hard_rss_limit_mb=3072", 1);
    setenv("UBSAN_OPTIONS", "exitcode=99:print_stacktrace=1", 1);
    setenv("OPENBLAS_NUM_THREADS", "2", 1);
    execv(argv[0], argv);
    _exit(127);
}

static void read_some(int fd, struct buf *b) {
    char data[4096];
    ssize_t n = read(fd, data, sizeof data);
    if (n > 0 && b->len < MOST_SAID) {
        buf_append(b, data, (size_t)n);
    }
}

/* Read both pipes until the child has ended. Returns whether it did so in time. */
static bool listen_to(pid_t child, int out, int err, const struct mutate_limits *limits,
                      struct mutate_outcome *o, int *status, struct rusage *usage) {
    uint64_t end = now_ms() + limits->wall_s * UINT64_C(1000);
    bool in_time = true, ended = false;
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    struct buf *to[2] = {&o->out, &o->said};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        int ready = poll(fds, 2, ended ? 0 : 20);
        for (int i = 0; i < 2 && ready > 0; i++) {
            if (fds[i].revents & POLLIN) {
                read_some(fds[i].fd, to[i]);
            } else if (fds[i].revents) {
                fds[i].fd = -1;
            }
        }
        if (!ended && wait4(child, status, WNOHANG, usage) == child) {
            ended = true;
        } else if (ended && ready <= 0) {
            break; /* a process that the child left behind holds the pipe */
        } else if (!ended && in_time && now_ms() > end) {
            in_time = false;
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
        }
    }
    while (!ended && wait4(child, status, 0, usage) != child) {
    }
    return in_time;
}

/* ---- the judgement ---- */

__attribute__((format(printf, 2, 3))) static void refuse(struct mutate_outcome *o, const char *fmt,
                                                         ...) {
    va_list ap;
    va_start(ap, fmt);
    if (o->ok) {
        vsnprintf(o->why, sizeof o->why, fmt, ap);
    }
    o->ok = false;
    va_end(ap);
}

/* The total of the memory plan: "...: 30.4 MiB of 64.0 MiB"; 0 where none was printed. */
static uint64_t plan_bytes(const char *said) {
    static const char units[] = "BKMGT";
    const char *line = strncmp(said, "memory   ", 9) == 0 ? said : strstr(said, "\nmemory   ");
    const char *at = line ? strchr(line + 9, ':') : NULL;
    double n;
    char unit;
    if (!at || sscanf(at, ": %lf %c", &n, &unit) != 2 || !strchr(units, unit)) {
        return 0;
    }
    return (uint64_t)((n + 0.1) * (double)(UINT64_C(1) << 10 * (strchr(units, unit) - units)));
}

/* Whether a line of the program is a remark, which may stand before an error. */
static bool is_remark(const char *line) {
    static const char *const remarks[] = {": a context of ", ": the text has "};
    for (size_t i = 0; i < sizeof remarks / sizeof *remarks; i++) {
        if (strncmp(line, remarks[i], strlen(remarks[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* Lines of the program itself that are no remarks; *last becomes the last one. */
static uint32_t count_lines(const char *said, const char *program, const char **last) {
    uint32_t n = 0;
    size_t length = strlen(program);
    for (const char *p = said; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : p) {
        if (strncmp(p, program, length) == 0 && p[length] == ':' && !is_remark(p + length)) {
            n++;
            *last = p;
        }
    }
    return n;
}

static void judge_words(struct mutate_outcome *o, const char *program, const char *named) {
    static const char *const words[] = {"ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
                                        "runtime error:", "AddressSanitizer:"};
    const char *said = o->said.data ? o->said.data : "", *last = "";
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(said, words[i]);
        if (at) {
            refuse(o, "%.*s", (int)strcspn(at, "\n"), at);
        }
    }
    if (o->status == 1) {
        uint32_t n = count_lines(said, program, &last);
        size_t length = strcspn(last, "\n");
        char *line = mem_printf("%.*s", (int)length, last);
        if (n != 1 || last[length] != '\n' || last[length + 1]) {
            refuse(o, "exit status 1 with %u lines of %s, expected one, the last", n, program);
        } else if (!strstr(line, named)) {
            refuse(o, "a message that does not name %s: %s", named, line);
        } else if (o->ok) {
            snprintf(o->why, sizeof o->why, "%s", line);
        }
        free(line);
    }
}

void mutate_run(char *const *argv, const char *named, const struct mutate_limits *limits,
                struct mutate_outcome *o) {
    int out[2], err[2], status = 0;
    struct rusage usage = {0};
    *o = (struct mutate_outcome){.ok = true};
    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
        die("no pipe: %s", strerror(errno));
    }
    pid_t child = fork();
    if (child == 0) {
        become(argv, limits, out[1], err[1]);
    } else if (child < 0) {
        die("no process: %s", strerror(errno));
    }
    close(out[1]);
    close(err[1]);
    bool in_time = listen_to(child, out[0], err[0], limits, o, &status, &usage);
    close(out[0]);
    close(err[0]);
    o->peak_bytes = (uint64_t)usage.ru_maxrss << 10;
    o->status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    const char *slash = strrchr(argv[0], '/');
    judge_words(o, slash ? slash + 1 : argv[0], named);
    if (!in_time) {
        refuse(o, "still runs after %u s", limits->wall_s);
    } else if (WIFSIGNALED(status) &&
               (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL)) {
        refuse(o, "takes more than %u s of a processor", limits->cpu_s);
    } else if (WIFSIGNALED(status)) {
        refuse(o, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else if (o->status > 1) {
        refuse(o, "exit status %d", o->status);
    }
    uint64_t plan = plan_bytes(o->said.data ? o->said.data : "");
    uint64_t most = (plan ? plan : limits->without_plan) + limits->beside_plan;
    if (limits->beside_plan > 0 && o->peak_bytes > most) {
        refuse(o, "%llu KiB of memory, expected at most %llu (%s %llu)",
               (unsigned long long)o->peak_bytes >> 10, (unsigned long long)most >> 10,
               plan ? "plan" : "without a plan",
               (unsigned long long)(plan ? plan : limits->without_plan) >> 10);
    }
}
