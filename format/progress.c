/*
 * progress: see progress.h.
 */
#include "format/progress.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "format/base.h"
#include "format/cli.h"
#include "format/number.h"

static const uint64_t SECOND_NS = 1000000000u;

void progress_start(struct progress *p, const char *label, uint64_t total,
                    enum progress_unit unit) {
    if (p) {
        p->start(p, label, total, unit);
    }
}

void progress_update(struct progress *p, uint64_t done) {
    if (p) {
        p->update(p, done);
    }
}

void progress_finish(struct progress *p) {
    if (p) {
        p->finish(p);
    }
}

static const char *unit_name(enum progress_unit unit) {
    return unit == PROGRESS_ROWS ? "row" : unit == PROGRESS_TOKENS ? "token" : "item";
}

/* "271.0 MiB" or "12345 rows". */
static void amount_text(char *out, size_t size, uint64_t n, enum progress_unit unit) {
    if (unit == PROGRESS_BYTES) {
        char text[CLI_SIZE_TEXT];
        snprintf(out, size, "%s", cli_size_text(text, n));
        return;
    }
    snprintf(out, size, "%ju %s%s", (uintmax_t)n, unit_name(unit), n == 1 ? "" : "s");
}

static void rate_text(char *out, size_t size, double per_second, enum progress_unit unit) {
    if (unit == PROGRESS_BYTES) {
        char text[CLI_SIZE_TEXT];
        snprintf(out, size, "%s/s", cli_size_text(text, (uint64_t)per_second));
        return;
    }
    number_print(out, size, "%.*f %ss/s", per_second < 100 ? 1 : 0, per_second, unit_name(unit));
}

/* "40 ms", "3.2 s", "1:05", "2:03:09". */
static void time_text(char *out, size_t size, double seconds) {
    if (seconds < 0.9995) {
        number_print(out, size, "%.0f ms", seconds * 1000);
        return;
    }
    if (seconds < 10) {
        number_print(out, size, "%.1f s", seconds);
        return;
    }
    uint64_t s = (uint64_t)(seconds + 0.5);
    unsigned sec = (unsigned)(s % 60), min = (unsigned)(s / 60 % 60);
    if (s < 60) {
        snprintf(out, size, "%u s", sec);
    } else if (s < 3600) {
        snprintf(out, size, "%u:%02u", min, sec);
    } else {
        snprintf(out, size, "%ju:%02u:%02u", (uintmax_t)(s / 3600), min, sec);
    }
}

static double since(uint64_t from_ns, uint64_t to_ns) {
    return (double)(to_ns - from_ns) / (double)SECOND_NS;
}

static unsigned columns(FILE *out) {
    struct winsize w;
    return ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

static void draw(struct progress_terminal *t, uint64_t now) {
    char amount[48], total[48] = "", rate[48] = "", left[64] = "", line[320];
    amount_text(amount, sizeof amount, t->done, t->unit);
    if (t->total) {
        char text[40];
        amount_text(text, sizeof text, t->total, t->unit);
        snprintf(total, sizeof total, " of %s", text);
    }
    double seconds = since(t->mark_ns[0], now);
    if (seconds > 0 && t->done > t->mark_done[0]) {
        double per_second = (double)(t->done - t->mark_done[0]) / seconds;
        char text[40];
        rate_text(text, sizeof text, per_second, t->unit);
        snprintf(rate, sizeof rate, ", %s", text);
        if (t->total > t->done) {
            time_text(text, sizeof text, (double)(t->total - t->done) / per_second);
            snprintf(left, sizeof left, ", %s left", text);
        }
    }
    int n = 0;
    if (t->total) {
        double part = (double)t->done / (double)t->total;
        n = number_print(line, sizeof line, "%s: %3.0f%%  ", t->label, part < 1 ? part * 100 : 100);
    } else {
        n = snprintf(line, sizeof line, "%s: ", t->label);
    }
    snprintf(line + n, sizeof line - (size_t)n, "%s%s%s%s", amount, total, rate, left);
    if (t->tty) {
        /* One column stays free: a full line would wrap, and could not be redrawn. */
        fprintf(t->out, "\r\033[K%.*s", (int)columns(t->out) - 1, line);
    } else {
        fprintf(t->out, "%s\n", line);
    }
    fflush(t->out);
    t->drawn = true;
    t->shown_ns = now;
}

static void terminal_finish(struct progress *p) {
    struct progress_terminal *t = (struct progress_terminal *)p;
    if (!t->open) {
        return;
    }
    double seconds = since(t->start_ns, t->now_ns());
    char amount[48], time[32], rate[48], of[64] = "";
    amount_text(amount, sizeof amount, t->done, t->unit);
    time_text(time, sizeof time, seconds);
    rate_text(rate, sizeof rate, seconds > 0 ? (double)t->done / seconds : 0, t->unit);
    if (t->done < t->total) { /* the work broke off */
        char text[48];
        amount_text(text, sizeof text, t->total, t->unit);
        snprintf(of, sizeof of, " of %s", text);
    }
    fprintf(t->out, "%s%s: %s%s in %s", t->tty && t->drawn ? "\r\033[K" : "", t->label, amount, of,
            time);
    fprintf(t->out, seconds > 0 ? " (%s)\n" : "\n", rate);
    fflush(t->out);
    t->open = t->drawn = false;
}

static void terminal_start(struct progress *p, const char *label, uint64_t total,
                           enum progress_unit unit) {
    struct progress_terminal *t = (struct progress_terminal *)p;
    terminal_finish(p);
    uint64_t now = t->now_ns();
    snprintf(t->label, sizeof t->label, "%s", label);
    t->unit = unit;
    t->total = total;
    t->done = t->mark_done[0] = t->mark_done[1] = 0;
    t->start_ns = t->shown_ns = t->mark_ns[0] = t->mark_ns[1] = now;
    t->open = true;
}

static void terminal_update(struct progress *p, uint64_t done) {
    struct progress_terminal *t = (struct progress_terminal *)p;
    if (!t->open) {
        return;
    }
    t->done = done;
    uint64_t now = t->now_ns();
    if (now - t->mark_ns[1] >= 5 * SECOND_NS) {
        t->mark_ns[0] = t->mark_ns[1];
        t->mark_done[0] = t->mark_done[1];
        t->mark_ns[1] = now;
        t->mark_done[1] = done;
    }
    if (now - t->shown_ns >= (t->tty ? SECOND_NS / 5 : 10 * SECOND_NS)) {
        draw(t, now);
    }
}

struct progress *progress_terminal_init(struct progress_terminal *t, FILE *out, bool quiet) {
    *t = (struct progress_terminal){
        .progress = {terminal_start, terminal_update, terminal_finish},
        .out = out,
        .tty = isatty(fileno(out)),
        .now_ns = clock_ns,
    };
    return quiet ? NULL : &t->progress;
}
