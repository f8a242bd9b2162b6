/*
 * run: what the commands of corm-run share.
 *
 * Owns: the options that every command has, opening engine and session as they say, the memory plan
 * on the terminal, texts and ids from files, evaluation that Ctrl-C can break off, and the figures
 * at the end.
 * Leaves to others: each command and the options of its own (run_generate, run_perplexity,
 * run_logits; runtime/bench), the list of them (corm_run). Of the engine it knows runtime/corm.h
 * only.
 * Threads: the forward thread, which is corm-run's main thread.
 *
 * A command is a file with a `struct cli_command` (format/cli.h) and a row in the table of
 * corm_run.c. Its options struct begins with struct run_options, and its groups end with
 * run_machine_group and run_figures_group, which fill that. Standard output carries the result
 * alone: text, figures asked for, or with --json one line with one object. All else goes to
 * standard error.
 */
#ifndef RUNTIME_RUN_RUN_H
#define RUNTIME_RUN_RUN_H

#include <signal.h>
#include <sys/types.h>

#include "format/cli.h"
#include "format/text/thinking.h"
#include "runtime/corm.h"
#include "runtime/corm_grammar.h"
#include "runtime/run/run_json.h"

/* What the user asked for, whatever the command; a field belongs to the option of its name. */
struct run_options {
    /* machine */
    int threads, batch, kv, reading, keep; /* enum corm_reading, enum corm_keeping */
    const char *isa, *ram, *device, *vram;
    int missed; /* enum corm_missed */
    double loss;
    /* figures */
    bool stats, json, quiet;
};
/* The options of the fields under `machine` and of those under `figures`. */
extern const struct cli_group run_machine_group, run_figures_group;
extern const char *const run_kv_words[]; /* by enum corm_kv */

/* What people know from other programs (run_familiar.c, which corm-serve links too). */
extern const struct cli_familiar run_familiar[];
/* Put the defaults into a zeroed struct run_options. */
void run_defaults(void *values);

/* What a text has to look like (run_grammar.c): at most one of these is given. */
struct run_form_options {
    const char *grammar, *grammar_file, *json_schema, *json_schema_file;
};

/* What commands that write text have besides; their options struct begins with it. */
struct run_writing {
    struct run_options run;
    const char *system, *chat_template; /* of a conversation, or NULL */
    int ctx;                            /* 0 = the model's own */
    int max_tokens;                     /* -1 = no bound */
    /* of run_sampling_group */
    double temp, top_p, min_p, repeat_penalty;
    int top_k, repeat_last;
    uint64_t seed;
    struct run_form_options form; /* of run_form_group */
};
extern const struct cli_group run_sampling_group, run_form_group;
/* How tokens are chosen: the publisher's suggestions, and in their place what the user gave. The
 * command has run_sampling_group. */
int run_sampling_set(const struct cli_call *call, const struct corm_engine *engine,
                     struct corm_sampling *s, struct err *err);
/* Print it on stderr, as options that say it again, for --stats. */
void run_sampling_print(const struct corm_sampling *s);

/* Zero-initialise; run_form_close accepts any state of it. */
struct run_form {
    enum corm_grammar_form kind;
    struct buf text; /* of the grammar or schema */
    bool given;
    const char *file; /* for messages; NULL: there is none */
    struct corm_grammar *grammar;
    struct corm_grammar_state *state; /* NULL: any text will do */
    struct thinking thinking;         /* where the model thinks first: */
    bool waits;                       /* it still does, and the form is for what follows */
};
enum { RUN_FORM_BYTES = 32 << 20 }; /* that it holds in memory, mostly less */
/* Take what the options say, files read whole. Returns as a command does. */
int run_form_read(struct run_form *f, const struct run_form_options *o, struct err *err);
/* Make it ready for the engine, and for a first text. */
int run_form_open(struct run_form *f, const struct corm_engine *engine, struct err *err);
/* Begin an answer, whose prompt tells whether the model thinks first. */
void run_form_begin(struct run_form *f, const char *prompt, size_t bytes);
/* Set the ids that may be drawn, with so many tokens left. */
int run_form_allow(struct run_form *f, uint64_t left_tok, struct corm_sampling *how,
                   struct err *err);
/* A token was drawn, no stop id, and became the text. *over: nothing may follow. */
int run_form_accept(struct run_form *f, int32_t id, const char *text, size_t bytes, bool *over,
                    struct err *err);
void run_form_close(struct run_form *f);

/* Exit status after Ctrl-C, as a shell would report it. */
enum { RUN_INTERRUPTED = 130 };

/* Tokens, free with free(ids). */
struct run_ids {
    int32_t *ids;
    size_t n;
};

/* How an engine is to be opened beside what its options say. Zero-initialise. */
struct run_wish {
    uint32_t ctx_tok;      /* 0 = the model's own */
    uint32_t max_sessions; /* 0 = 1 */
    uint32_t max_running;  /* 0 = max_sessions */
    uint32_t max_passes;   /* of corm_pass_open; 0 = none */
    uint64_t snapshot_bytes, kv_bytes;
    uint64_t chat_bytes;   /* run_chat_bytes */
    uint64_t text_bytes;   /* of the text that will be tokenized */
    uint64_t caller_bytes; /* what the command itself holds in memory */
    bool only_plan;        /* print nothing, load nothing */
    bool loss_in_batches;  /* leave neurons out in batches too: measures what decoding would lose */
    bool all_logits;       /* have room for the logits of every token of a batch */
    const struct corm_mechanisms *measure;
    void (*on_part)(const char *path); /* as corm_engine_options has it */
    const char *program;               /* whose remarks they are; NULL = corm-run */
};

/* An open model with one session. Zero-initialise; run_close accepts any state of it. */
struct run {
    const struct cli_call *call;
    const struct run_options *o; /* where the call's values begin */
    const char *model;           /* path as given */
    struct run_wish wish;        /* set before run_open */
    /* After it: */
    struct corm_engine *engine;
    struct corm_session *session;
    const struct corm_model_info *info; /* borrowed from engine */
    struct progress_terminal terminal;
    struct progress *progress; /* NULL with --quiet */
};

/* Open the archive at `model`; prints the memory plan unless --quiet, and a remark where the
 * context is longer than the model was trained for. Returns as a command does: 0, -1, or CLI_USAGE.
 * (In run_machine.c, which knows nothing else of this module: corm-serve links it too.) */
int run_engine_open(struct corm_engine **engine, const struct run_options *o, const char *model,
                    const struct run_wish *wish, struct err *err);

/* Memory for making prompts of a conversation of so many bytes, as struct corm_engine_options has
 * it: templates copy what is said some times. */
uint64_t run_chat_bytes(uint64_t text_bytes);

/* Open the archive that the call names, for a context of `ctx_tok` (0 = the model's own); prints
 * the memory plan unless --quiet. Returns as a command does: 0, -1, or CLI_USAGE. */
int run_open(struct run *r, const struct cli_call *call, uint32_t ctx_tok, struct err *err);
void run_close(struct run *r);

/* Append a whole file, or standard input for "-", without a byte order mark: what has to be in
 * memory at once, such as a message for a chat template, a grammar, a conversation. */
enum { RUN_READ_BYTES = 16 << 20 }; /* at most: no context holds so long a text */
int run_read(const char *path, struct buf *out, struct err *err);
/* The template that --chat-template names, one of the archive's or else a file, into `source`,
 * which the caller frees, and have `chat` say so; NULL: the archive's default. */
int run_read_template(const struct run *r, const char *name, struct buf *source,
                      struct corm_chat *chat, struct err *err);
/* A text that is to be tokenized: it is opened before the model, so that a wrong name is told at
 * once, and read piece by piece while it is tokenized. */
enum { RUN_MARK_BYTES = 3 };
struct run_text {
    const char *name; /* for messages */
    int fd;           /* -1: all of it is in memory */
    const char *data; /* [data_bytes], what is in memory: all, or the beginning */
    uint64_t data_bytes;
    uint64_t bytes;      /* of all of it; UINT64_MAX where that is not known */
    uint64_t read_bytes; /* by run_tokens */
    bool trimmed;        /* one newline at its end does not count; may be set until it is read */
    bool held;           /* a newline was read that may be that one */
    char *owned;         /* data, where it is this text's own */
    char first[RUN_MARK_BYTES]; /* [n_first] read to look at, and still to come */
    size_t n_first;
    bool marked; /* it began with UTF-8's byte order mark, which is left out */
    bool has_cr; /* carriage returns were read */
};
/* Open a file, or standard input for "-", and read its first bytes: UTF-16 is refused. A text in
 * memory is borrowed. Close either. */
int run_text_open(struct run_text *t, const char *path, struct err *err);
void run_text_of(struct run_text *t, const char *data, size_t bytes);
/* Where it is not known how long the text is, read up to 64 KiB of it ahead: a short one's length
 * is known then, and its memory need not be planned for a long one. */
int run_text_measure(struct run_text *t, struct err *err);
/* The next bytes of a file, for those who want no ids of it: their number, 0 at its end, or -1. */
enum { RUN_PIECE_BYTES = 1 << 16 };
ssize_t run_text_read(struct run_text *t, char piece[RUN_PIECE_BYTES], struct err *err);
void run_text_close(struct run_text *t);

enum { RUN_MOST_TOK = 1 << 20 }; /* no context holds more */
/* Its ids, as far as they are wanted. Zero-initialise; run_tokens_close accepts any state of it. */
struct run_tokens {
    const struct run *run;
    struct run_text *text;
    struct corm_encoder *encoder;
    int32_t *ids; /* [n], from the id number `dropped` of the text on */
    size_t n, cap;
    uint64_t dropped;
    bool ended; /* these are all */
    bool add_special;
    int32_t *ends; /* the text's first ids and its last ones, for the remark below */
    size_t n_ends, ends_cap;
};
/* `add_special`: with what the tokenizer puts around a text, and at its end a remark where the text
 * has that there already; `parse_special`: special tokens that are written out in the text are
 * such. `text` stays in its place. */
int run_tokens_open(struct run_tokens *k, const struct run *r, struct run_text *text,
                    bool add_special, bool parse_special, struct err *err);
/* Read on until there are `n` ids or the text ends. */
int run_tokens_want(struct run_tokens *k, size_t n, struct err *err);
/* All ids of the text, to `out`, and their number to *n_all. Where there are more than `room`,
 * `out` stays as it is, and those that no context can hold are not counted: k->ended tells. */
int run_tokens_all(struct run_tokens *k, size_t room, struct run_ids *out, uint64_t *n_all,
                   struct err *err);
/* Drop the first n ids, n <= k->n. */
void run_tokens_drop(struct run_tokens *k, size_t n);
void run_tokens_close(struct run_tokens *k);

/* What a text begins with (run_prompt.c). */
struct run_prompt_options {
    const char *prompt, *file;
    bool no_bos, no_special, chat;
};
/* Zero-initialise; run_prompt_close accepts any state of it. */
struct run_prompt {
    const struct run_prompt_options *o;
    const struct run_writing *writing;
    struct run_text text; /* but with --chat: */
    struct buf message;   /* what is asked */
    struct run_ids ids;
};
/* Open what the call says, whose options struct begins with struct run_writing and whose arguments
 * are a model and perhaps a text: one of text, -p and -f, else standard input where that is no
 * terminal. A message is read whole. `goes_on`: there is a session that it follows, which may go on
 * by itself. Returns as a command does. */
int run_prompt_open(struct run_prompt *p, const struct run_prompt_options *o,
                    const struct cli_call *call, bool goes_on, struct err *err);
/* Say what memory it takes, before run_open. */
void run_prompt_plan(const struct run_prompt *p, struct run *r);
/* Its ids, which have room in the context; a message's by the chat template, of which `form` is
 * told what the answer begins with. Returns 0, -1, or RUN_INTERRUPTED. */
int run_prompt_take(struct run_prompt *p, const struct run *r, struct run_form *form,
                    struct err *err);
void run_prompt_close(struct run_prompt *p);

/* From now on the first Ctrl-C (SIGINT), SIGTERM or SIGHUP makes run_interrupted true and a second
 * one kills. (All of these in corm_run.c: a signal handler needs a variable that outlives every
 * call.) */
void run_catch_interrupt(void);
bool run_interrupted(void);
/* For a talk: a Ctrl-C makes run_interrupted true till it is taken, SIGTERM and SIGHUP for ever.
 * run_take_signals returns which of the `kinds` came since they were last taken (that of the end
 * stays); run_signal_set makes `set` the signals that are caught. */
enum { RUN_SIGNAL_STOP = 1, RUN_SIGNAL_END = 2, RUN_SIGNAL_SCREEN = 4 };
void run_catch_talk(void);
unsigned run_take_signals(unsigned kinds);
void run_signal_set(sigset_t *set);
/* A file that is to be removed where the program ends before it could do so itself (fatal.h); NULL
 * when that is over. */
void run_remove_at_end(const char *path);

/* Append ids to the session, a batch at a time. Returns 0; -1; or RUN_INTERRUPTED, between two
 * batches. `progress` (may be NULL) is told the tokens done. */
int run_eval(struct run *r, const int32_t *ids, size_t n, struct progress *progress,
             struct err *err);

/* Choose a token from the last logits. Fails where these are not finite. */
int run_sample(struct run *r, const struct corm_sampling *how, int32_t *id, struct err *err);

/* The counters between two moments, as one kind of work. */
struct run_phase {
    uint64_t tok, ns, weight_bytes, read_bytes;
    double ms_per_tok, tok_per_s;        /* 0 where no token was computed */
    double weight_per_tok, read_per_tok; /* bytes */
    double weight_gb_per_s;              /* 1e9 bytes */
    /* The share of demanded chunks that were in memory, and of the time in which computing waited
     * for experts. */
    double hit_share, stall_share;
    /* With a device: the bytes that were copied there because they were demanded, and because they
     * were guessed; the number of copies, and of the chunks in them; the share of the experts'
     * weights that the CPU computed with; the share of the time of copying in which the device
     * computed, negative where nothing was copied. */
    double demanded_per_tok, guessed_per_tok, copies_per_tok, chunks_per_tok, cpu_share,
        hidden_share;
    /* What the host handed to it besides: kernels, waits for it, small copies and their bytes. */
    double launches_per_tok, waits_per_tok, small_copies_per_tok, small_bytes_per_tok;
};
struct run_phase run_phase(const struct corm_stats *from, const struct corm_stats *to);
struct corm_stats run_stats(const struct run *r);

/* Add the phase's tokens, time and rates as members of an object. */
void run_phase_json(struct run_json *j, const struct run_phase *p);

/* Print the figures of a run on stderr, for --stats. `mid` is when prefill ended and decode began;
 * NULL: all was prefill, or both took turns, which is one line for all. */
void run_stats_print(const struct corm_stats *mid, const struct corm_stats *end);
/* Add the same as members of an object. */
void run_stats_json(struct run_json *j, const struct corm_stats *mid, const struct corm_stats *end);
/* Begin the object that --json prints: command, version, model, machine. */
void run_json_begin(struct run_json *j, const struct run *r);
/* End it with the peak of memory, print it as one line, free it. */
void run_json_print(struct run_json *j);
/* Begin the report of an evaluation: print the figures for --stats, and with --json begin the
 * object. Returns whether there is an object. */
bool run_report_begin(const struct run *r, const struct corm_stats *mid,
                      const struct corm_stats *end, struct run_json *j);
/* End the list of rows that `j` is in. Where `status` is 0, also end the object around it and print
 * that; else drop all of it. */
void run_json_end_rows(struct run_json *j, int status);

/* Nats per token of the text in `file`, as perplexity has it by default, on the model and with the
 * struct run_options of the call. */
int run_score(const struct cli_call *call, const char *file, double *nats_per_tok, struct err *err);

/* Fill `err` from the public error. Returns -1. */
int run_fail(struct err *err, const struct corm_error *error);

/* Become the program corm-serve with the arguments from `argv` on. Returns only where that fails:
 * -1. */
int run_serve(char *const *argv, struct err *err);

/* The commands; that which measures is in runtime/bench/bench.h. */
extern const struct cli_command run_generate_command, run_chat_command, run_perplexity_command,
    run_logits_command, run_serve_command;

/* The command chat, with the options of another one that begin with struct run_writing: what
 * `generate` does on a terminal where it is given no prompt. */
int run_chat_instead(const struct cli_call *call, struct err *err);

#endif
