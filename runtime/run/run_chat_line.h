/*
 * run_chat_line: what a person types, message by message.
 *
 * Owns: line editing and history on a terminal (libedit), bracketed paste, messages of several
 * lines, the same from a pipe without any of it.
 * Leaves to others: what a message means (run_chat), where the history's file is (run_chat_file).
 * Threads: the main thread.
 *
 * On a terminal: Enter sends; Alt-Enter begins a line; Tab completes commands; a text that is
 * pasted is part of one message, however many lines it has. Anywhere: a backslash at a line's end
 * goes on with the next line. Keys are read here and given to libedit, so that signals, resizing
 * and a pause (Ctrl-Z) are noticed between two of them.
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

/* What the Tab key does. `complete` is asked how the text in front of the cursor may go on: it
 * appends the words that may stand in place of its last one, each with a newline behind; or says
 * that this is the path of a file, or text, in which Tab is a character like any other. */
enum chat_complete_kind { CHAT_COMPLETE_TEXT, CHAT_COMPLETE_WORDS, CHAT_COMPLETE_PATH };
typedef enum chat_complete_kind chat_completion(const char *typed, struct buf *out);

struct chat_line;
/* `edit`: standard input and output are a terminal. `history` is a path, or NULL: none is kept. */
struct chat_line *chat_line_open(bool edit, const char *history, chat_completion *complete);
/* The next message into `out` (empty before). -1 and `err`: input cannot be read. */
int chat_line_read(struct chat_line *l, struct buf *out, struct err *err);
/* Saves the history, with mode 0600. -1 and `err` where that fails; all is freed anyway. */
int chat_line_close(struct chat_line *l, struct err *err);

#endif
