/*
 * corm_prep: main of corm-prep, which turns Hugging Face checkpoints into .corm archives and looks
 * at them.
 *
 * Owns: the table of commands, and what Ctrl-C sets.
 * Leaves to others: the commands, each with its options (convert, prep, prep_tokenize).
 */
#include <signal.h>
#include <stddef.h>

#include "format/cli.h"
#include "prep/convert.h"
#include "prep/prep.h"

static volatile sig_atomic_t stop_flag;

static void on_signal(int number) {
    (void)number;
    stop_flag = 1;
}

const volatile sig_atomic_t *prep_catch_stop(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop_flag;
}

static const struct cli_command *const commands[] = {
    &convert_command,     &prep_inspect_command,  &prep_report_command,
    &prep_verify_command, &prep_tokenize_command, NULL,
};

int main(int argc, char **argv) {
    static const struct cli_program program = {
        .name = "corm-prep",
        .summary = "prepare sparse mixture-of-experts models for machines smaller than they are",
        .version = CORM_VERSION_TEXT,
        .commands = commands,
        .default_command = -1,
        .exit_status = "130 convert was ended by Ctrl-C or SIGTERM\n",
    };
    return cli_main(&program, argc, argv);
}
