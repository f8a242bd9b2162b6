/*
 * prep: what the commands of corm-prep share, and those that look at an archive.
 *
 * Owns: the options of the report, which every command has; `inspect`, `report` and `verify`, and
 * what they print.
 * Leaves to others: the commands with options of their own (convert, prep_tokenize,
 * prep_template), the list of commands (corm_prep), what a report says (inspect, report).
 * Threads: the main thread.
 *
 * A command is a `struct cli_command` (format/cli.h) and a row in the table of corm_prep.c. Its
 * options struct begins with struct prep_options, or is that, and its groups end with one of those
 * below, which fill it.
 */
#ifndef PREP_PREP_H
#define PREP_PREP_H

#include <signal.h>

#include "format/cli.h"

/* What every command has; a field belongs to the option of its name. */
struct prep_options {
    bool quiet, json;
};
extern const struct cli_group prep_report_group; /* --quiet and --json */
extern const struct cli_group
    prep_json_group; /* --json alone, of commands that are nothing but output */

enum { PREP_INTERRUPTED = 130 }; /* the exit status of a command that was told to end */

/* From now on the first SIGINT, SIGTERM, SIGHUP or SIGXCPU sets the flag that is returned, and a
 * second one kills. A reader of the output who goes away ends nothing. (These two in corm_prep.c: a
 * signal handler needs a variable that outlives every call.) */
const volatile sig_atomic_t *prep_catch_stop(void);
/* From now on the first of these signals ends the program at once, cleaned up, with `line` on
 * standard error and exit status PREP_INTERRUPTED: for work that cannot look at a flag, as a
 * library that reads a large file. NULL: no longer. */
void prep_stop_at_once(const char *line);
/* What a conversion has beside its output is to be removed where the program ends before it could
 * do so itself (fatal.h); NULL when that is over. */
struct claim;
void prep_clean_at_end(const struct claim *claim);

/* Print a text that an archive has a part in to standard output: to a terminal unless `raw` as
 * buf_show makes it, so that it drives none. */
void prep_print_text(const char *text, size_t bytes, bool raw);

extern const struct cli_command prep_inspect_command, prep_report_command, prep_verify_command;
extern const struct cli_command prep_tokenize_command; /* in prep_tokenize.c */
extern const struct cli_command prep_template_command; /* in prep_template.c */

#endif
