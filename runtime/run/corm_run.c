/*
 * corm_run: the main of corm-run, the lean program that runs archives.
 *
 * Owns: the table of commands, and what Ctrl-C sets. The commands, each with its options, are in
 * run_<name>.c and runtime/bench.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/bench/bench.h"
#include "runtime/run/run.h"

/* -- Ctrl-C --------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

void run_catch_interrupt(void) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND | SA_RESTART};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
        sigaction(SIGINT, &action, NULL); /* else it runs in the background: not for us */
    }
}

bool run_interrupted(void) {
    return interrupted;
}

/* The archive is used where it is mapped: what can no longer be read of it arrives as a signal,
 * which leaves nothing to be done but to say so. Several threads may meet such a page at once: the
 * first one speaks, and the others wait for the end. */
static void on_lost_page(int signal_number) {
    static atomic_flag told = ATOMIC_FLAG_INIT;
    static const char text[] = "corm-run: the archive can no longer be read: it was truncated or "
                               "replaced while in use, or its disk fails\n";
    (void)signal_number;
    while (atomic_flag_test_and_set(&told)) {
        pause();
    }
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(EXIT_FAILURE);
}

static void catch_lost_pages(void) {
    struct sigaction action = {.sa_handler = on_lost_page};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

/* -- commands ------------------------------------------------------------------------------- */

static const struct cli_command *const commands[] = {
    &run_generate_command, &run_perplexity_command, &bench_command, &run_logits_command, NULL,
};

int main(int argc, char **argv) {
    /* A reader that goes away (head) ends the program quietly, whatever the parent had set. */
    signal(SIGPIPE, SIG_DFL);
    catch_lost_pages();
    const struct cli_program program = {
        .name = "corm-run",
        .summary = "run sparse mixture-of-experts models, also those larger than memory",
        .version = corm_version(),
        .description =
            "Runs a .corm archive, which corm-prep makes from a Hugging Face checkpoint. The "
            "archive holds all that is needed: weights, tokenizer, licence.\n"
            "Before weights are loaded, the memory plan is printed; it is kept. With less memory "
            "than the model takes, experts come from the archive as they are needed, and the text "
            "stays the same, only later.",
        .examples = "corm-run model.corm -p \"Once upon a time\" -n 200\n"
                    "corm-run model.corm -p \"Once upon a time\" --ram 4G --stats\n"
                    "corm-run perplexity model.corm -f text.txt\n"
                    "#All options of a command:\n"
                    "corm-run generate --help\n",
        .commands = commands,
        .default_command = 0,
        .exit_status = "130 ended by Ctrl-C\n",
    };
    return cli_main(&program, argc, argv);
}
