/*
 * corm_prep: main of corm-prep, which turns Hugging Face checkpoints into .corm archives and looks
 * at them.
 *
 * Owns: the table of commands, what Ctrl-C sets, and what must not be left behind at other ends.
 * Leaves to others: the commands, each with its options (convert, prep, prep_tokenize,
 * prep_template).
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <jansson.h>

#include "format/cli.h"
#include "format/fatal.h"
#include "prep/claim.h"
#include "prep/convert.h"
#include "prep/prep.h"

static volatile sig_atomic_t stop_flag;
static const char *volatile stop_line;
static void clean_up(void);

void prep_stop_at_once(const char *line) {
    stop_line = line;
}

static void on_signal(int number) {
    const char *line = stop_line;
    if (line) {
        clean_up();
        ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
        (void)ignored;
        _exit(PREP_INTERRUPTED);
    }
    if (stop_flag) { /* the second one, of whatever kind, is not put off */
        fatal_end(number);
    }
    stop_flag = 1;
}

const volatile sig_atomic_t *prep_catch_stop(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGXCPU, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        /* nohup has it ignored, so that the program outlives its terminal. */
        bool asked_to_stay = signals[i] == SIGHUP && sigaction(SIGHUP, NULL, &before) == 0 &&
                             before.sa_handler == SIG_IGN;
        if (!asked_to_stay) {
            sigaction(signals[i], &action, NULL);
        }
    }
    signal(SIGPIPE, SIG_IGN);
    return &stop_flag;
}

static const struct claim *volatile claimed;

void prep_clean_at_end(const struct claim *claim) {
    claimed = claim;
}

static void clean_up(void) {
    const struct claim *claim = claimed;
    if (claim) {
        claim_remove_now(claim);
    }
}

static const struct cli_command *const commands[] = {
    &convert_command,
    &prep_inspect_command,
    &prep_report_command,
    &prep_verify_command,
    &prep_tokenize_command,
    &prep_template_command,
    NULL,
};

/* OpenBLAS starts threads when it is loaded, before main and for all commands. One that gets no
 * memory for its buffer, because of a limit on addresses (ulimit -v), tries again for ever, and the
 * end of the program waits for it. So under such a limit the program begins again, and tells
 * OpenBLAS to start none; calibration sets their number when it needs them. */
static void begin_without_threads(char **argv) {
    static const char name[] = "OPENBLAS_NUM_THREADS", mark[] = "OPENBLAS_NUM_THREADS=1";
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
        return;
    }
    for (char **e = environ; *e; e++) {
        if (strcmp(*e, mark) == 0) {
            return;
        }
    }
    if (setenv(name, "1", 1) == 0) {
        execv("/proc/self/exe", argv); /* where that fails, it goes on as it is */
    }
}

/* What people know from programs that make files of other formats. */
static const struct cli_familiar familiar[] = {
    {"--outtype --quantization --ftype", "--codec chooses the numbers: keep, q8 or q4"},
    {"--imatrix", "--calibrate measures on text which neurons matter, --calib names the text"},
    {"-hf --hf-repo --remote", "nothing is downloaded; the argument is a checkpoint's folder"},
    {"--use-temp-file --no-lazy --bigendian --vocab-only", "nothing of the kind is needed here"},
    {0},
};

int main(int argc, char **argv) {
    static const struct cli_program program = {
        .name = "corm-prep",
        .summary = "prepare sparse mixture-of-experts models for machines smaller than they are",
        .version = CORM_VERSION_TEXT,
        .commands = commands,
        .default_command = -1,
        .familiar = familiar,
        .exit_status = "130 convert was ended by Ctrl-C, SIGTERM, SIGHUP or SIGXCPU\n",
    };
    begin_without_threads(argv);
    fatal_catch(clean_up);
    json_set_alloc_funcs(mem_alloc, free); /* so that no value is missing for want of memory */
    return cli_main(&program, argc, argv);
}
