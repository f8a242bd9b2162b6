/*
 * run_chat: the command chat: a talk with a model on a terminal, or through a pipe.
 *
 * Owns: the loop, what is shown of an answer (run_chat.c), what a line that begins with `/` does
 * (run_chat_commands.c), files of a talk and the place of the history (run_chat_file.c).
 * Leaves to others: the talk itself (run_talk), keys (run_chat_line).
 * Threads: the main thread.
 */
#ifndef RUNTIME_RUN_RUN_CHAT_H
#define RUNTIME_RUN_RUN_CHAT_H

#include "runtime/run/run_chat_line.h"
#include "runtime/run/run_talk.h"

enum { CHAT_SNAPSHOT_BYTES = 4 << 20 }; /* unless asked for another */
enum chat_thinking { CHAT_THINKING_AUTO, CHAT_THINKING_SHOW, CHAT_THINKING_HIDE };

struct chat_options {
    struct run_writing writing;
    const char *history; /* NULL: the usual place */
    bool no_history;
    int thinking; /* enum chat_thinking */
    uint64_t snapshot_bytes;
};

struct chat {
    struct run run;
    struct talk talk;
    struct run_form form; /* of each answer */
    const struct run_writing *o;
    struct chat_line *line;
    bool edits;          /* standard input and output are a terminal */
    bool shows;          /* standard output is one, which the text must not drive */
    bool shows_thinking; /* what is thought, too */
    bool quits;
    struct buf attached; /* files that go with the next message */
    /* of the answer in work */
    bool dimmed;
    bool thought; /* the last of it */
    char last;    /* byte shown, 0: none */
    struct buf shown;
};

/* Ask what was typed, with what was attached, and show the answer. */
int chat_ask_model(struct chat *c, const char *text, struct err *err);
/* Answer the last question, which is there, and show it. */
int chat_answer(struct chat *c, struct err *err);

/* run_chat_commands.c: does what a line says that begins with one `/`. -1 and `err`: it cannot be
 * done, and nothing has changed. */
int chat_command(struct chat *c, const char *line, struct err *err);
/* The list of commands, for people. */
void chat_commands_help(struct buf *out);
/* How what was typed may go on: a struct chat_completion (run_chat_line.h). */
enum chat_complete_kind chat_commands_complete(const char *typed, struct buf *out);

/* run_chat_file.c. A talk as JSON: {"messages": [{"role", "content", "reasoning_content"}]}. */
int chat_save(const struct talk *t, const char *path, struct err *err);
/* Replaces the messages. Read is also a list of messages alone. */
int chat_load(struct talk *t, const char *path, struct err *err);
/* Append the history's usual path, whose folder is made: history in $XDG_STATE_HOME/corm, else in
 * ~/.local/state/corm. */
int chat_history_path(struct buf *path, struct err *err);
/* A whole file with mode 0600, in place of what had that name. */
int chat_write_private(const char *path, const char *data, size_t bytes, struct err *err);

#endif
