/*
 * corm_run: the main of corm-run, the lean program that runs archives.
 *
 * Owns: the table of commands (serve is another program), what Ctrl-C sets, and what must not be
 * left behind at other ends. The commands, each with its options, are in run_<name>.c and
 * runtime/bench.
 */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* A talk goes on after a Ctrl-C, so each kind of signal has a flag that is taken. */
static volatile sig_atomic_t asked_stop, asked_end, screen_changed;

static void on_talk_signal(int signal_number) {
    switch (signal_number) {
    case SIGINT:
        asked_stop = interrupted = 1;
        break;
    case SIGTERM:
    case SIGHUP:
        asked_end = interrupted = 1;
        break;
    default:
        screen_changed = 1;
    }
}

static const int talk_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT};
enum { N_TALK_SIGNALS = sizeof talk_signals / sizeof *talk_signals };

void run_catch_talk(void) {
    struct sigaction action = {.sa_handler = on_talk_signal, .sa_flags = SA_RESTART};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < N_TALK_SIGNALS; i++) {
        if (sigaction(talk_signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaction(talk_signals[i], &action, NULL);
        }
    }
}

void run_signal_set(sigset_t *set) {
    sigemptyset(set);
    for (size_t i = 0; i < N_TALK_SIGNALS; i++) {
        sigaddset(set, talk_signals[i]);
    }
}

unsigned run_take_signals(unsigned kinds) {
    unsigned taken = asked_end ? kinds & RUN_SIGNAL_END : 0;
    if (kinds & RUN_SIGNAL_STOP && asked_stop) {
        asked_stop = 0;
        interrupted = asked_end;
        taken |= RUN_SIGNAL_STOP;
    }
    if (kinds & RUN_SIGNAL_SCREEN && screen_changed) {
        screen_changed = 0;
        taken |= RUN_SIGNAL_SCREEN;
    }
    return taken;
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
    &run_generate_command,
    &run_chat_command,
    &run_perplexity_command,
    &bench_command,
    &run_logits_command,
    &run_serve_command,
    NULL,
};

int main(int argc, char **argv) {
    /* A reader that goes away (head) ends the program quietly, whatever the parent had set. */
    signal(SIGPIPE, SIG_DFL);
    fatal_catch(clean_up);
    if (argc > 1 && strcmp(argv[1], run_serve_command.name) == 0) {
        struct err err = {0};
        run_serve(argv + 1, &err);
        fprintf(stderr, "corm-run: %s\n", err.msg);
        return EXIT_FAILURE;
    }
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
        .examples = "corm-run model.corm \"Once upon a time\"\n"
                    "corm-run model.corm -p \"Once upon a time\" -n 200\n"
                    "corm-run chat model.corm\n"
                    "corm-run model.corm -p \"Once upon a time\" --ram 4G --stats\n"
                    "corm-run perplexity model.corm -f text.txt\n"
                    "#All options of a command:\n"
                    "corm-run generate --help\n",
        .commands = commands,
        .default_command = 0,
        .familiar = run_familiar,
        .exit_status = "130 ended by Ctrl-C, SIGTERM or SIGHUP\n",
    };
    return cli_main(&program, argc, argv);
}
