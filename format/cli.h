/*
 * cli: the command line of both programs, from tables.
 *
 * A program is a table of commands, a command is a list of option groups, an option is a row that
 * names a field of the command's own options struct. From the tables come the parser, its error
 * messages and the whole of --help.
 *
 * What several commands share is a struct and a group of its own. The options struct of each of
 * these commands begins with that struct, so that the rows of the group, whose offsets count from
 * there, fit all of them.
 *
 * In long names _ counts as -, so that --top_k is --top-k.
 *
 * Owns: parsing, help, sizes in words ("6G"), lists of token ids, and cli_main, which prints errors
 * and picks the exit status: 0 done, 1 failed, 2 wrong usage.
 * Leaves to others: what a command does; checks that involve two options.
 * Threads: main thread only. No state but in what the caller hands over.
 *
 * Shortest use:
 *
 *     struct common { bool quiet; };                            // what every command has
 *     static const struct cli_option common_rows[] = {
 *         {"quiet", 'q', CLI_FLAG, CLI_FIELD(struct common, quiet), .help = "Print less."},
 *         {0}};
 *     static const struct cli_group common = {"Common options", common_rows};
 *
 *     struct show_options { struct common common; int depth; }; // one command's own
 *     static const struct cli_option show_rows[] = {
 *         {"depth", 'd', CLI_INT, CLI_FIELD(struct show_options, depth), "N", "How much to show.",
 *          .min = 1, .max = 9},
 *         {0}};
 *     static const struct cli_group showing = {"Showing", show_rows};
 *     static void show_defaults(void *values) {                 // --help shows them
 *         ((struct show_options *)values)->depth = 2;
 *     }
 *     static const struct cli_command show = {
 *         "show", "print what an archive holds", show_run, .args = "MODEL.corm", .min_args = 1,
 *         .max_args = 1, .groups = {&showing, &common},
 *         .values_bytes = sizeof(struct show_options), .defaults = show_defaults};
 *
 *     int main(int argc, char **argv) {
 *         static const struct cli_command *const commands[] = {&show, NULL};
 *         static const struct cli_program p = {..., .commands = commands};
 *         return cli_main(&p, argc, argv);
 *     }
 */
#ifndef FORMAT_CLI_H
#define FORMAT_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "format/progress.h"

/* What an option takes, and the type of its field. */
enum cli_kind {
    CLI_FLAG,   /* bool: no value, sets true */
    CLI_INT,    /* int */
    CLI_U64,    /* uint64_t, decimal or 0x... */
    CLI_DOUBLE, /* double */
    CLI_STRING, /* const char *, borrowed from argv */
    CLI_SIZE,   /* uint64_t bytes, "300M" */
    CLI_BUDGET, /* struct cli_budget: "6G" or "50%" */
    CLI_LIST,   /* struct cli_list: may be repeated */
    CLI_ENUM,   /* int: index of the word in `words` */
    /* No field: the command's first argument, given as an option. */
    CLI_ARGUMENT,
};

/* A part of some whole that the command knows: `percent` where > 0, else `bytes`. */
struct cli_budget {
    uint64_t bytes;
    double percent;
};

/* Strings borrowed from argv; cli_free frees the array (or cli_list_free). */
struct cli_list {
    const char **items;
    size_t count;
};
void cli_list_free(struct cli_list *list);

/* offset of the field and its size, with which a row's kind is checked against the field's type */
#define CLI_FIELD(type, member) offsetof(type, member), sizeof(((type *)0)->member)

/* One option. Only name, kind and field are needed; write the others by name. */
struct cli_option {
    const char *name; /* long name, without dashes; NULL ends a table */
    char letter;      /* short name, or 0 */
    enum cli_kind kind;
    size_t offset, size; /* CLI_FIELD */
    const char *metavar; /* the value in help: "N" */
    const char *help;    /* sentences */
    double min, max;     /* CLI_INT, U64, DOUBLE: allowed range, ends included, where min < max */
    const char *const *words; /* CLI_ENUM: NULL-terminated */
    const char *fallback; /* default in help's words ("automatic"), "" = say none, NULL = value */
    const char *also;     /* other long names, parted by blanks, which help does not list */
};

/* Options that belong together, with a heading of their own in help. */
struct cli_group {
    const char *title;
    const struct cli_option *options;
};

enum { CLI_MAX_GROUPS = 8, CLI_MAX_OPTIONS = 64 };

struct cli_call;

/* A command. `run` returns 0, or -1 with `err` filled (printed; exit status 1), or an exit status >
 * 0 (printed too if `err` is set; CLI_USAGE for options that do not go together). */
struct cli_command {
    const char *name;
    const char *summary;
    int (*run)(const struct cli_call *call, struct err *err);
    const char *args;       /* positional arguments in help: "MODEL.corm [FILE...]" */
    int min_args, max_args; /* max_args -1 = any number */
    const struct cli_group *groups[CLI_MAX_GROUPS];
    size_t values_bytes;            /* size of the command's options struct */
    void (*defaults)(void *values); /* puts the defaults into a zeroed one; NULL: all are zero */
    const char *description; /* paragraphs, parted by '\n'; a line that starts with a blank stays */
    const char *examples;    /* lines; "# text" lines explain the next */
};

/* An option that people know from other programs, for which there is none of the kind here: how it
 * is spelled, with its dashes, in words parted by blanks; and a sentence that says what to use. */
struct cli_familiar {
    const char *spellings;
    const char *here;
};

struct cli_program {
    const char *name, *summary, *version;
    const char *description; /* as in a command */
    const char *examples;
    const struct cli_command *const *commands; /* ends with NULL */
    int default_command; /* index of the command that runs when none is named, -1 = none does */
    const struct cli_familiar *familiar; /* ends with a row without spellings; NULL = none */
    const char *exit_status; /* lines for statuses of its own: "130 ended by Ctrl-C\n" */
};

/* What was asked for. */
struct cli_call {
    const struct cli_program *program;
    const struct cli_command *command; /* NULL: help of the whole program */
    void *values;                      /* the command's options struct, filled in */
    struct cli_list args;              /* positional arguments */
    uint64_t given;                    /* private: bit per option, in the order of the groups */
};

enum { CLI_USAGE = 2 }; /* exit status of wrong usage */

/* Whether the user gave the option, even with its default value. The name must be in the tables. */
bool cli_given(const struct cli_call *call, const char *name);

enum cli_action { CLI_RUN, CLI_HELP, CLI_VERSION };

/* Parse into `call`, which gets an options struct of its command. Returns an enum cli_action, or -1
 * with `err` and `call->command` as far as known. Free with cli_free in every case. */
int cli_parse(const struct cli_program *program, int argc, char **argv, struct cli_call *call,
              struct err *err);
void cli_free(struct cli_call *call);

/* Append help for a command, or for the program where `c` is NULL, `width` columns wide. */
void cli_help(const struct cli_program *p, const struct cli_command *c, unsigned width,
              struct buf *out);

/* All of main: see that standard descriptors are open, parse, run or print help or version, print
 * an error as one line "program: message" on stderr, see that standard output could be written.
 * Returns the exit status. */
int cli_main(const struct cli_program *program, int argc, char **argv);

/* A new options struct of a command with its defaults, to free with cli_values_free. */
void *cli_values_new(const struct cli_command *c);
void cli_values_free(const struct cli_command *c, void *values);

/*
 * Sizes in words. A number, maybe with a fraction, and a unit: K M G T or KiB MiB GiB TiB are
 * powers of 1024, kB MB GB TB are powers of 1000 (upper or lower case alike), none or B is bytes.
 * Returns 0, or -1 and `err`, which quotes the text.
 */
int cli_size_parse(const char *text, uint64_t *bytes, struct err *err);

/* As cli_size_parse, or a percentage over 0 and up to 100: "50%". */
int cli_budget_parse(const char *text, struct cli_budget *budget, struct err *err);

/* Token ids, 0 to INT32_MAX, parted by blanks, newlines, commas or brackets, in `bytes` bytes of
 * text with a NUL behind. Returns 0 with *ids [n] to free() (NULL where there are none), or -1 with
 * `err`, which begins with `from`, the place of the text, and quotes what is no id. */
int cli_ids_parse(const char *text, size_t bytes, const char *from, int32_t **ids, size_t *n,
                  struct err *err);
/* The same behind the *n ids that are in *ids, which has room for *cap; those stay after an error.
 * A position counts from the first of them. */
int cli_ids_append(const char *text, size_t bytes, const char *from, int32_t **ids, size_t *n,
                   size_t *cap, struct err *err);

/* "512 B", "1.5 KiB", "6.0 GiB". Returns `out`. */
enum { CLI_SIZE_TEXT = 24 };
char *cli_size_text(char out[CLI_SIZE_TEXT], uint64_t bytes);

#endif
