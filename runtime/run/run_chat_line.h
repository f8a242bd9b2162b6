/*
 * run_chat_line: what a person types, message by message.
 *
 * Owns: line editing and history on a terminal (libedit), bracketed paste, messages of several
 * lines, the same from a pipe without any of it.
 * Leaves to others: what a message means (run_chat), where the history's file is (run_chat_file).
 * Threads: the main thread.
 *
 * On a terminal: Enter sends; Alt-Enter begins a line; a text that is pasted is part of one
 * message, however many lines it has. Anywhere: a backslash at a line's end goes on with the next
 * line. Keys are read here and given to libedit, so that signals, resizing and a pause (Ctrl-Z) are
 * noticed between two of them.
 */
#ifndef RUNTIME_RUN_RUN_CHAT_LINE_H
#define RUNTIME_RUN_RUN_CHAT_LINE_H

#include "format/base.h"

enum chat_line_end {
    CHAT_LINE,      /* a message, without the newline that sent it */
    CHAT_LINE_STOP, /* Ctrl-C: what was typed is dropped */
    CHAT_LINE_LAST, /* the end of input */
    CHAT_LINE_KILL, /* SIGTERM or SIGHUP */
};

struct chat_line;
/* `edit`: standard input and output are a terminal. `history` is a path, or NULL: none is kept. */
struct chat_line *chat_line_open(bool edit, const char *history);
/* The next message into `out` (empty before). -1 and `err`: input cannot be read. */
int chat_line_read(struct chat_line *l, struct buf *out, struct err *err);
/* Saves the history, with mode 0600. -1 and `err` where that fails; all is freed anyway. */
int chat_line_close(struct chat_line *l, struct err *err);

#endif
