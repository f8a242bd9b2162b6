/*
 * corm_run: the main of corm-run, the lean program that runs archives.
 *
 * Owns: the table of commands, what Ctrl-C sets, and what must not be left behind at other ends.
 * The commands, each with its options, are in run_<name>.c and runtime/bench.
 */
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "format/fatal.h"
#include "runtime/bench/bench.h"
#include "runtime/run/run.h"

/* -- ends ----------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    if (interrupted) { /* the second one, of whatever kind, is not put off */
        fatal_end(signal_number);
    }
    interrupted = 1;
}

void run_catch_interrupt(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaction(signals[i], &action, NULL); /* else it runs in the background: not for us */
        }
    }
}

bool run_interrupted(void) {
    return interrupted;
}

static const char *volatile half_written;

void run_remove_at_end(const char *path) {
    half_written = path;
}

static void clean_up(void) {
    const char *path = half_written;
    if (path) {
        unlink(path);
    }
}

/* -- commands ------------------------------------------------------------------------------- */

static const struct cli_command *const commands[] = {
    &run_generate_command, &run_perplexity_command, &bench_command, &run_logits_command, NULL,
};

int main(int argc, char **argv) {
    /* A reader that goes away (head) ends the program quietly, whatever the parent had set. */
    signal(SIGPIPE, SIG_DFL);
    fatal_catch(clean_up);
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
        .exit_status = "130 ended by Ctrl-C, SIGTERM or SIGHUP\n",
    };
    return cli_main(&program, argc, argv);
}
