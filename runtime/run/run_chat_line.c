#include "runtime/run/run_chat_line.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/run/run.h"
#include "runtime/run/run_chat.h"

enum { HISTORY_ENTRIES = 1000, PIECE_BYTES = 4096, MAX_MESSAGE_BYTES = 16 << 20 };

struct chat_line {
    EditLine *el; /* NULL: a pipe */
    History *history;
    char *path;         /* of the history, or NULL */
    bool pastes, asked; /* the terminal is to mark what is pasted; it was told so for this line */
    bool more;          /* lines of the same message */
    chat_completion *complete;
    char prompt[4];
    enum chat_line_end end; /* why reading has stopped */
    int failed;             /* errno of a failed read */
    uint8_t piece[PIECE_BYTES];
    size_t at, n;
};

/* ---- bytes ---------------------------------------------------------------------------------- */

/* What a signal asks of who waits for a key. True: stop waiting. */
static bool obey_signals(struct chat_line *l) {
    unsigned signals = run_take_signals(RUN_SIGNAL_END | RUN_SIGNAL_STOP | RUN_SIGNAL_SCREEN);
    if (signals & RUN_SIGNAL_SCREEN && l->el) {
        el_resize(l->el);
        el_set(l->el, EL_PREP_TERM, 0); /* a shell may have set it otherwise meanwhile */
        el_set(l->el, EL_PREP_TERM, 1);
        el_set(l->el, EL_REFRESH);
    }
    l->end = signals & RUN_SIGNAL_END ? CHAT_LINE_KILL : CHAT_LINE_STOP;
    return signals & (RUN_SIGNAL_END | RUN_SIGNAL_STOP);
}

/* The next byte of standard input; -1: l->end says why there is none. Signals come only while
 * nothing is there to be read, so none is missed. */
static int next_byte(struct chat_line *l) {
    sigset_t block, before;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    ssize_t n = -1;
    if (l->at < l->n) {
        return l->piece[l->at++];
    }
    run_signal_set(&block);
    sigprocmask(SIG_BLOCK, &block, &before);
    for (;;) {
        if (obey_signals(l)) {
            break;
        }
        if (ppoll(&in, 1, NULL, &before) < 0) {
            if (errno == EINTR) {
                continue;
            }
        } else {
            n = read(STDIN_FILENO, l->piece, sizeof l->piece);
            if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
                continue;
            }
        }
        l->end = CHAT_LINE_LAST;
        l->failed = n < 0 ? errno : 0;
        break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    l->n = n > 0 ? (size_t)n : 0;
    l->at = 0;
    return n > 0 ? l->piece[l->at++] : -1;
}

/* The next character; one that is no UTF-8 is U+FFFD. -1 as next_byte. */
static int next_character(struct chat_line *l, wchar_t *c) {
    int byte = next_byte(l);
    if (byte < 0) {
        return -1;
    }
    int more = byte < 0xc2 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : byte < 0xf5 ? 3 : 0;
    char text[4] = {(char)byte};
    size_t n = 1, bytes;
    *c = byte < 0x80 ? byte : 0xfffd;
    for (; more > 0; more--) {
        byte = next_byte(l);
        if (byte < 0) {
            return -1;
        }
        if ((byte & 0xc0) != 0x80) {
            l->at--; /* it begins the next character */
            return 0;
        }
        text[n++] = (char)byte;
    }
    if (n > 1 && text_next(text, n, &bytes) != TEXT_MALFORMED && bytes == n) {
        static const uint8_t lead[] = {0, 0, 0x1f, 0x0f, 0x07};
        uint32_t value = (uint8_t)text[0] & lead[n];
        for (size_t i = 1; i < n; i++) {
            value = value << 6 | ((uint8_t)text[i] & 0x3f);
        }
        *c = (wchar_t)value;
    }
    return 0;
}

/* ---- keys ----------------------------------------------------------------------------------- */

static struct chat_line *line_of(EditLine *el) {
    struct chat_line *l;
    el_get(el, EL_CLIENTDATA, &l);
    return l;
}

static int get_key(EditLine *el, wchar_t *c) {
    struct chat_line *l = line_of(el);
    if (l->pastes && !l->asked) { /* not before libedit has set the terminal */
        fputs("\x1b[?2004h", stdout);
        fflush(stdout);
        l->asked = true;
    }
    while (next_character(l, c) == 0) {
        if (*c) { /* a NUL is what a Ctrl-D becomes that was typed during an answer */
            return 1;
        }
    }
    *c = L'\0';
    errno = l->failed ? l->failed : EINTR;
    return l->end == CHAT_LINE_LAST && !l->failed ? 0 : -1;
}

static char *prompt(EditLine *el) {
    struct chat_line *l = line_of(el);
    snprintf(l->prompt, sizeof l->prompt, "%s", l->more ? ". " : "> ");
    return l->prompt;
}

static unsigned char on_newline(EditLine *el, int key) {
    (void)key;
    return el_insertstr(el, "\n") < 0 ? CC_ERROR : CC_REFRESH;
}

/* The words of a list, several a line, below what is being typed. */
static void show_words(const struct buf *words) {
    struct winsize w = {0};
    unsigned width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
    unsigned column = 0;
    putchar('\n');
    for (const char *at = words->data, *end; (end = strchr(at, '\n')); at = end + 1) {
        unsigned n = (unsigned)(end - at);
        if (column > 0) {
            bool fits = column + 2 + n < width;
            fputs(fits ? "  " : "\n", stdout);
            column = fits ? column + 2 : 0;
        }
        fwrite(at, 1, n, stdout);
        column += n;
    }
    putchar('\n');
    fflush(stdout);
}

/* Type what all words have in common behind the `typed` bytes of them. Whether there is any. */
static bool insert_common(EditLine *el, const struct buf *words, size_t typed) {
    const char *first = words->data;
    size_t common = strcspn(first, "\n"), n = 0;
    for (const char *at = first, *end; (end = strchr(at, '\n')); at = end + 1, n++) {
        size_t same = 0;
        while (same < common && at[same] == first[same]) {
            same++;
        }
        common = same;
    }
    if (common < typed) {
        return false;
    }
    char *text = mem_printf("%.*s%s", (int)(common - typed), first + typed, n == 1 ? " " : "");
    bool some = text[0] && el_insertstr(el, text) >= 0;
    free(text);
    return some;
}

static unsigned char on_tab(EditLine *el, int key) {
    struct chat_line *l = line_of(el);
    const LineInfo *line = el_line(el);
    char *typed = mem_printf("%.*s", (int)(line->cursor - line->buffer), line->buffer);
    const char *blank = strrchr(typed, ' ');
    struct buf words = {0};
    unsigned char done = CC_ERROR;
    switch (l->more ? CHAT_COMPLETE_TEXT : l->complete(typed, &words)) {
    case CHAT_COMPLETE_PATH:
        done = _el_fn_complete(el, key);
        break;
    case CHAT_COMPLETE_WORDS:
        if (words.len == 0) {
            break;
        }
        if (insert_common(el, &words, strlen(blank ? blank + 1 : typed))) {
            done = CC_REFRESH;
        } else {
            show_words(&words);
            done = CC_REDISPLAY;
        }
        break;
    case CHAT_COMPLETE_TEXT:
        done = el_insertstr(el, "\t") < 0 ? CC_ERROR : CC_REFRESH;
    }
    buf_free(&words);
    free(typed);
    return done;
}

/* ESC [ 2 0 0 ~ has come: all up to ESC [ 2 0 1 ~ was pasted. Terminals send returns for newlines.
 * Control characters are not keys here. */
static unsigned char on_paste(EditLine *el, int key) {
    static const char end[] = "\x1b[201~";
    enum { END_BYTES = sizeof end - 1 };
    struct chat_line *l = line_of(el);
    struct buf text = {0};
    bool ended = false;
    int byte;
    (void)key;
    while (!ended && text.len < MAX_MESSAGE_BYTES && (byte = next_byte(l)) >= 0) {
        char c = (char)byte;
        buf_append(&text, &c, 1);
        ended = text.len >= END_BYTES && !memcmp(text.data + text.len - END_BYTES, end, END_BYTES);
    }
    text.len -= ended ? END_BYTES : 0;
    struct buf clean = {0};
    for (size_t i = 0, n; i < text.len; i += n) {
        enum text_kind kind = text_next(text.data + i, text.len - i, &n);
        if (text.data[i] == '\r' || text.data[i] == '\n') {
            buf_append(&clean, "\n", 1);
        } else if (kind == TEXT_PLAIN || text.data[i] == '\t') {
            buf_append(&clean, text.data + i, n);
        }
    }
    int rc = clean.len ? el_insertstr(el, clean.data) : 0;
    buf_free(&text);
    buf_free(&clean);
    return rc < 0 ? CC_ERROR : CC_REFRESH;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void bind_keys(struct chat_line *l) {
    /* Wide, as libedit never frees the copies that it makes of others. */
    el_wset(l->el, EL_ADDFN, L"corm-paste", L"Insert a text that is pasted", on_paste);
    el_wset(l->el, EL_ADDFN, L"corm-newline", L"Begin a line", on_newline);
    el_wset(l->el, EL_ADDFN, L"corm-complete", L"Complete a command", on_tab);
    el_set(l->el, EL_BIND, "\\e[200~", "corm-paste", NULL);
    el_set(l->el, EL_BIND, "^I", "corm-complete", NULL);
    el_set(l->el, EL_BIND, "\\e\\n", "corm-newline", NULL);
    el_set(l->el, EL_BIND, "\\e\\r", "corm-newline", NULL);
}

static void open_history(struct chat_line *l, const char *path) {
    HistEvent event;
    l->history = history_init();
    history(l->history, &event, H_SETSIZE, HISTORY_ENTRIES);
    history(l->history, &event, H_SETUNIQUE, 1);
    el_set(l->el, EL_HIST, history, l->history);
    if (path) {
        l->path = mem_strdup(path);
        history(l->history, &event, H_LOAD, path); /* there may be none yet */
    }
}

struct chat_line *chat_line_open(bool edit, const char *history, chat_completion *complete) {
    struct chat_line *l = mem_calloc(1, sizeof *l);
    const char *terminal = NULL;
    if (!edit) {
        return l;
    }
    /* libedit writes wide characters as the locale says. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) {
        setlocale(LC_CTYPE, "C.UTF-8");
    }
    l->el = el_init("corm-run", stdin, stdout, stderr);
    if (!l->el) {
        return l;
    }
    l->complete = complete;
    el_set(l->el, EL_CLIENTDATA, l);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_SIGNAL, 0);
    el_set(l->el, EL_GETCFN, get_key);
    el_set(l->el, EL_PROMPT, prompt);
    bind_keys(l);
    open_history(l, history);
    el_get(l->el, EL_TERMINAL, &terminal);
    l->pastes = terminal && strcmp(terminal, "dumb") != 0;
    return l;
}

/* libedit writes to a file that it can set the mode of, so to one without a name first. */
static int save_history(struct chat_line *l, struct err *err) {
    HistEvent event;
    struct buf text = {0};
    char piece[4096];
    size_t n;
    char *scratch = mem_printf("%s.scratch", l->path);
    int fd = file_scratch(scratch, err), rc = -1;
    free(scratch);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w+");
    if (!f) {
        return fd < 0 ? -1 : err_errno(err, errno, "%s: cannot write", l->path);
    }
    if (history(l->history, &event, H_SAVE_FP, f) < 0 || fflush(f) != 0 ||
        fseek(f, 0, SEEK_SET) < 0) {
        err_set(err, "%s: cannot write", l->path);
    } else {
        while ((n = fread(piece, 1, sizeof piece, f)) > 0) {
            buf_append(&text, piece, n);
        }
        rc = chat_write_private(l->path, text.len ? text.data : "", text.len, err);
    }
    fclose(f);
    buf_free(&text);
    return rc;
}

int chat_line_close(struct chat_line *l, struct err *err) {
    int rc = l->path && l->history ? save_history(l, err) : 0;
    if (l->el) {
        el_end(l->el);
        history_end(l->history);
    }
    free(l->path);
    free(l);
    return rc;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* A line with editing, with the newline that sent it; false: l->end says why there is none. */
static bool edit_line(struct chat_line *l, struct buf *out) {
    int n = 0;
    l->failed = 0;
    l->asked = false;
    l->end = CHAT_LINE_LAST; /* unless get_key says otherwise */
    const char *text = el_gets(l->el, &n);
    if (l->asked) {
        fputs("\x1b[?2004l", stdout);
        fflush(stdout);
    }
    if (!text || n <= 0) {
        putchar('\n');
        return false;
    }
    buf_append(out, text, (size_t)n);
    return true;
}

static bool plain_line(struct chat_line *l, struct buf *out) {
    size_t before = out->len;
    int byte = 0;
    while (out->len < MAX_MESSAGE_BYTES && (byte = next_byte(l)) >= 0) {
        char c = (char)byte;
        buf_append(out, &c, 1);
        if (c == '\n') {
            break;
        }
    }
    /* The last line need not end. */
    return out->len > before && (byte >= 0 || l->end == CHAT_LINE_LAST);
}

int chat_line_read(struct chat_line *l, struct buf *out, struct err *err) {
    HistEvent event;
    for (l->more = false;; l->more = true) {
        if (!(l->el ? edit_line(l, out) : plain_line(l, out))) {
            if (l->failed) {
                return err_errno(err, l->failed, "standard input: cannot read");
            }
            if (l->end != CHAT_LINE_LAST || !l->more) {
                return (int)l->end;
            }
            break;
        }
        if (out->len && out->data[out->len - 1] == '\n') {
            out->data[--out->len] = 0;
        }
        if (!out->len || out->data[out->len - 1] != '\\') {
            break;
        }
        out->data[out->len - 1] = '\n';
    }
    if (out->len >= MAX_MESSAGE_BYTES) {
        return err_set(err, "a message of more than %d bytes", MAX_MESSAGE_BYTES);
    }
    if (l->history && out->len) {
        history(l->history, &event, H_ENTER, out->data);
    }
    return CHAT_LINE;
}
