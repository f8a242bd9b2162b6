/*
 * cli: the parser against a small program, its error lines, help, exit statuses of cli_main.
 */
#include "tests/util/test.h"

#include <fcntl.h>
#include <math.h>
#include <sys/wait.h>

#include "format/cli.h"

/* -- a small program ------------------------------------------------------------------------ */

struct common {
    bool verbose, quiet;
    int threads;
};

/* Of generate; the other commands have the common ones only. */
struct options {
    struct common common;
    uint64_t seed, buffer;
    double temp;
    const char *out;
    struct cli_budget ram;
    struct cli_list files;
    int isa;
};

static void common_defaults(void *values) {
    ((struct common *)values)->threads = 2;
}

static void generate_defaults(void *values) {
    *(struct options *)values = (struct options){
        .common.threads = 2, .seed = 7, .temp = 0.8, .buffer = 1536, .ram.percent = 50, .isa = 1};
}

static const char *const isas[] = {"auto", "ref", "avx2", NULL};

static const struct cli_option common_rows[] = {
    {"verbose", 'v', CLI_FLAG, CLI_FIELD(struct common, verbose), .help = "Say more."},
    {"quiet", 'q', CLI_FLAG, CLI_FIELD(struct common, quiet), .help = "Say less."},
    {"threads", 't', CLI_INT, CLI_FIELD(struct common, threads), "N", "Threads to use.", .min = 1,
     .max = 256},
    {0}};
static const struct cli_option run_rows[] = {
    {"seed", 0, CLI_U64, CLI_FIELD(struct options, seed), "N", "Seed."},
    {"temp", 0, CLI_DOUBLE, CLI_FIELD(struct options, temp), "T",
     "A text that is long enough to be broken into more than one line of the second column, "
     "whatever.",
     .min = 0, .max = INFINITY},
    {"out", 'o', CLI_STRING, CLI_FIELD(struct options, out), "FILE", "Where to write."},
    {"buffer", 0, CLI_SIZE, CLI_FIELD(struct options, buffer), "SIZE", "Buffer."},
    {"ram", 0, CLI_BUDGET, CLI_FIELD(struct options, ram), "SIZE|PERCENT", "Memory to use."},
    {"file", 'f', CLI_LIST, CLI_FIELD(struct options, files), "FILE", "Input."},
    {"isa", 0, CLI_ENUM, CLI_FIELD(struct options, isa), .help = "Instruction set.", .words = isas,
     .also = "instruction-set simd"},
    {"model", 'm', CLI_ARGUMENT, 0, 0, "FILE", "The archive."},
    {0}};
static const struct cli_group common = {"Common options", common_rows};
static const struct cli_group running = {"Running", run_rows};

static int run_ok(const struct cli_call *call, struct err *err) {
    (void)err;
    printf("ran %s\n", call->command->name);
    return 0;
}
static int run_fails(const struct cli_call *call, struct err *err) {
    (void)call;
    return err_set(err, "model.corm: it is broken");
}
static int run_refuses(const struct cli_call *call, struct err *err) {
    (void)call;
    err_set(err, "--out and --file do not go together");
    return CLI_USAGE;
}

static const struct cli_command command_rows[] = {
    {"generate", "write text", run_ok, .args = "MODEL.corm", .min_args = 1, .max_args = 1,
     .groups = {&running, &common}, .values_bytes = sizeof(struct options),
     .defaults = generate_defaults},
    {"bench", "measure speed", run_fails, .args = "MODEL.corm [FILE...]", .min_args = 1,
     .max_args = -1, .groups = {&common}, .values_bytes = sizeof(struct common),
     .defaults = common_defaults,
     .description = "One paragraph of text.\nAnother one.\n  a fixed line\n  and its neighbour",
     .examples = "# Measure it:\nprog bench m.corm"},
    /* without defaults of its own: all are zero */
    {"verify", "check everything", run_refuses, .groups = {&common},
     .values_bytes = sizeof(struct common)},
};
static const struct cli_command *const commands[] = {&command_rows[0], &command_rows[1],
                                                     &command_rows[2], NULL};

static const struct cli_familiar familiar[] = {{"-fu --gpus --n-gpus -t2", "use --isa"}, {0}};
static const struct cli_program program = {
    "prog",   "does things",          "1.2.3", "What it does.", "# Try:\nprog m.corm", commands, 0,
    familiar, "130 ended by Ctrl-C\n"};
static const struct cli_program strict = {"strict", "does things", "1.2.3", NULL,
                                          NULL,     commands,      -1};

enum { MAX_ARGS = 12 };

/* Parses the words up to NULL. */
static int parse(const struct cli_program *p, struct cli_call *call, struct err *err, ...) {
    static char name[] = "prog";
    char *argv[MAX_ARGS + 2] = {name};
    int argc = 1;
    va_list ap;
    va_start(ap, err);
    while ((argv[argc] = va_arg(ap, char *)) != NULL) {
        assert_true(argc <= MAX_ARGS);
        argc++;
    }
    va_end(ap);
    *err = (struct err){0};
    return cli_parse(p, argc, argv, call, err);
}
#define PARSE(...) parse(&program, &call, &err, __VA_ARGS__, (char *)NULL)

/* Parses words that must be refused with exactly this message. */
#define REFUSED(message, ...)                                                                      \
    do {                                                                                           \
        assert_int_equal(PARSE(__VA_ARGS__), -1);                                                  \
        assert_string_equal(err.msg, message);                                                     \
        cli_free(&call);                                                                           \
    } while (0)

/* -- parsing -------------------------------------------------------------------------------- */

static void parses_every_kind(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    assert_int_equal(PARSE("m.corm", "-vqt", "8", "--seed=0xffffffffffffffff", "--temp", "1e-1",
                           "--out=a=b", "--buffer", "1.5G"),
                     CLI_RUN);
    assert_no_err(&err);
    assert_string_equal(call.command->name, "generate");
    const struct options *o = call.values;
    assert_int_equal(call.args.count, 1);
    assert_string_equal(call.args.items[0], "m.corm");
    assert_true(o->common.verbose && o->common.quiet && o->common.threads == 8 &&
                o->seed == UINT64_MAX);
    assert_true(o->temp == 0.1 && o->buffer == 1610612736u && o->isa == 1 && o->ram.percent == 50);
    assert_string_equal(o->out, "a=b");
    assert_true(cli_given(&call, "temp") && cli_given(&call, "verbose"));
    assert_false(cli_given(&call, "ram") || cli_given(&call, "file"));
    cli_free(&call);

    assert_int_equal(PARSE("-f", "one", "--isa", "avx2", "--file=two", "-fthree", "--ram", "6G",
                           "--", "-m.corm"),
                     CLI_RUN);
    assert_no_err(&err);
    o = call.values;
    assert_int_equal(o->files.count, 3);
    assert_string_equal(o->files.items[0], "one");
    assert_string_equal(o->files.items[1], "two");
    assert_string_equal(o->files.items[2], "three");
    assert_true(o->isa == 2 && o->ram.bytes == (uint64_t)6 << 30 && o->ram.percent == 0);
    assert_string_equal(call.args.items[0], "-m.corm");
    cli_free(&call);
    assert_null(call.values);
}

/* Options that stand for the first argument, and names that other programs have. */
static void arguments_and_second_names(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    assert_int_equal(PARSE("-m", "m.corm", "--instruction_set=ref"), CLI_RUN);
    cli_free(&call);
    assert_int_equal(PARSE("-m", "m.corm", "--simd=ref", "-qh"), CLI_HELP);
    cli_free(&call);
    assert_int_equal(PARSE("-m", "m.corm", "--instruction-set=ref"), CLI_RUN);
    assert_no_err(&err);
    assert_string_equal(call.command->name, "generate");
    assert_int_equal(call.args.count, 1);
    assert_string_equal(call.args.items[0], "m.corm");
    assert_true(cli_given(&call, "model") && cli_given(&call, "isa"));
    assert_int_equal(((struct options *)call.values)->isa, 1);
    cli_free(&call);
    assert_int_equal(PARSE("generate", "-v", "--model=m.corm"), CLI_RUN);
    assert_string_equal(call.args.items[0], "m.corm");
    cli_free(&call);
    REFUSED("one argument too many: 'b.corm'", "b.corm", "-m", "a.corm");
    REFUSED("-m needs a value: -m FILE", "-m");
    REFUSED("--isa must be one of auto, ref, avx2, not 'x'", "m.corm", "--instruction-set", "x");
    struct buf text = {0};
    cli_help(&program, &command_rows[0], 80, &text);
    assert_non_null(strstr(text.data, "-m, --model FILE"));
    assert_null(strstr(text.data, "instruction-set"));
    buf_free(&text);
}

static void a_value_may_look_like_an_option(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    assert_int_equal(PARSE("m.corm", "--out", "-"), CLI_RUN);
    const struct options *o = call.values;
    assert_string_equal(o->out, "-");
    cli_free(&call);
    assert_int_equal(PARSE("-", "-o--verbose", "--file", "--x"), CLI_RUN);
    o = call.values;
    assert_string_equal(o->out, "--verbose");
    assert_string_equal(o->files.items[0], "--x");
    assert_string_equal(call.args.items[0], "-");
    assert_false(o->common.verbose);
    cli_free(&call);
}

static void picks_the_command(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    assert_int_equal(PARSE("bench", "m.corm", "a", "b", "c"), CLI_RUN);
    assert_string_equal(call.command->name, "bench");
    assert_int_equal(call.args.count, 4);
    assert_int_equal(((const struct common *)call.values)->threads, 2);
    assert_false(cli_given(&call, "threads") || cli_given(&call, "seed"));
    cli_free(&call);
    assert_int_equal(PARSE("verify", "-q"), CLI_RUN);
    assert_true(((const struct common *)call.values)->quiet);
    assert_int_equal(((const struct common *)call.values)->threads, 0);
    cli_free(&call);
    assert_int_equal(PARSE("generate", "m.corm"), CLI_RUN);
    assert_string_equal(call.command->name, "generate");
    cli_free(&call);
    assert_int_equal(PARSE("--version"), CLI_VERSION);
    cli_free(&call);
    assert_int_equal(PARSE("--help"), CLI_HELP);
    assert_null(call.command);
    cli_free(&call);
    assert_int_equal(PARSE("bench", "-h"), CLI_HELP);
    assert_string_equal(call.command->name, "bench");
    cli_free(&call);
    assert_int_equal(PARSE("help", "verify"), CLI_HELP);
    assert_string_equal(call.command->name, "verify");
    cli_free(&call);
    assert_int_equal(PARSE("help"), CLI_HELP);
    assert_null(call.command);
    cli_free(&call);
}

static void refuses_wrong_options(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    REFUSED("unknown option '--thread' (did you mean '--threads'?)", "m.corm", "--thread", "2");
    REFUSED("unknown option '--tmep' (did you mean '--temp'?)", "m.corm", "--tmep=3");
    REFUSED("unknown option '--frobnicate'", "m.corm", "--frobnicate");
    REFUSED("unknown option '--seed'", "bench", "m.corm", "--seed", "2");
    REFUSED("unknown option '-x'", "m.corm", "-vx");
    REFUSED("unknown option '-hello'", "m.corm", "-hello");
    REFUSED("unknown option '--gpus': use --isa", "m.corm", "--gpus=3");
    REFUSED("unknown option '--n_gpus': use --isa", "m.corm", "--n_gpus", "3");
    REFUSED("unknown option '-fu': use --isa", "m.corm", "-fu", "3");
    REFUSED("--threads needs a value: --threads N", "m.corm", "--threads");
    REFUSED("-o needs a value: -o FILE", "m.corm", "-o");
    REFUSED("--verbose takes no value, but has 'yes'", "m.corm", "--verbose=yes");
    REFUSED("an argument is missing: expected MODEL.corm", "-v");
    REFUSED("unknown command 'bnech' (did you mean 'bench'?)", "bnech", "x.corm");
    REFUSED("unknown command 'convert': expected one of generate, bench, verify", "convert",
            "x.corm");
    REFUSED("one argument too many: 'b'", "some.corm", "b");
    REFUSED("one argument too many: 'b'", "verify", "b");
    REFUSED("no command 'nonsense' to help with", "help", "nonsense");
    assert_int_equal(parse(&strict, &call, &err, "vrify", NULL), -1);
    assert_string_equal(err.msg, "unknown command 'vrify' (did you mean 'verify'?)");
    cli_free(&call);
    assert_int_equal(parse(&strict, &call, &err, NULL), -1);
    assert_string_equal(err.msg, "a command is missing: one of generate, bench, verify");
    cli_free(&call);
    assert_int_equal(parse(&strict, &call, &err, "--bogus", NULL), -1);
    assert_string_equal(err.msg, "unknown option '--bogus'");
    cli_free(&call);
    assert_int_equal(parse(&strict, &call, &err, "-", NULL), -1);
    cli_free(&call);
}

static void refuses_wrong_values(void **state) {
    (void)state;
    struct cli_call call;
    struct err err;
    REFUSED("--threads must be from 1 to 256, not '0'", "m.corm", "--threads=0");
    REFUSED("-t must be from 1 to 256, not '257'", "m.corm", "-t257");
    REFUSED("-t must be from 1 to 256, not '99999999999999999999'", "m.corm", "-t",
            "99999999999999999999");
    REFUSED("--threads wants a whole number, not '2x'", "m.corm", "--threads", "2x");
    REFUSED("--threads wants a whole number, not ''", "m.corm", "--threads=");
    REFUSED("--threads wants a whole number, not ' 2'", "m.corm", "--threads= 2");
    REFUSED("--seed wants a whole number, 0 or more, not '-1'", "m.corm", "--seed", "-1");
    REFUSED("--seed: '18446744073709551616' is out of range", "m.corm", "--seed",
            "18446744073709551616");
    REFUSED("--temp must be at least 0, not '-0.5'", "m.corm", "--temp", "-0.5");
    REFUSED("--temp wants a number, not 'nan'", "m.corm", "--temp", "nan");
    REFUSED("--temp wants a number, not 'inf'", "m.corm", "--temp", "inf");
    REFUSED("--temp wants a number, not 'hot'", "m.corm", "--temp", "hot");
    REFUSED("--buffer: '6X' is not a size (like 300M, 6G, 1.5GiB, 4096)", "m.corm", "--buffer",
            "6X");
    REFUSED("--ram: '101%' is not a percentage over 0% and up to 100%", "m.corm", "--ram", "101%");
    REFUSED("--isa must be one of auto, ref, avx2, not 'avx' (did you mean 'avx2'?)", "m.corm",
            "--isa", "avx");
    assert_int_equal(PARSE("m.corm", "--temp", "0"), CLI_RUN);
    cli_free(&call);
}

/* -- help ----------------------------------------------------------------------------------- */

static void assert_has(const struct buf *b, const char *part) {
    if (!strstr(b->data, part)) {
        fprintf(stderr, "--- help:\n%s\n--- has not:\n%s\n", b->data, part);
        fail();
    }
}

static void help_of_the_program(void **state) {
    (void)state;
    struct buf text = {0};
    cli_help(&program, NULL, 80, &text);
    assert_has(&text, "NAME\n    prog - does things\n\nSYNOPSIS\n"
                      "    prog MODEL.corm [OPTION...]\n"
                      "    prog bench MODEL.corm [FILE...] [OPTION...]\n"
                      "    prog verify [OPTION...]\n");
    assert_has(&text, "\nDESCRIPTION\n    What it does.\n");
    assert_has(&text, "\nCOMMANDS\n    generate                  write text (the default)\n");
    assert_has(&text, "\nOPTIONS\n  Running\n        --seed N              Seed. Default: 7.\n");
    assert_has(&text,
               "        --temp T              A text that is long enough to be broken into more\n"
               "                              than one line of the second column, whatever.\n"
               "                              Default: 0.8.\n");
    assert_has(&text, "    -o, --out FILE            Where to write.\n");
    assert_has(&text, "        --buffer SIZE         Buffer. Default: 1.5 KiB.\n");
    assert_has(&text, "        --ram SIZE|PERCENT    Memory to use. Default: 50%.\n");
    assert_has(&text, "    -f, --file FILE           Input. May be given several times.\n");
    assert_has(&text, "        --isa auto|ref|avx2   Instruction set. Default: ref.\n");
    assert_has(&text, "  Common options\n    -v, --verbose             Say more.\n");
    assert_has(&text, "\nEXAMPLES\n    Try:\n        prog m.corm\n");
    assert_has(&text, "\nEXIT STATUS\n    0   done\n    1   failed");
    assert_has(&text, "    2   wrong usage\n    130 ended by Ctrl-C\n");
    buf_free(&text);
}

static void help_of_a_command(void **state) {
    (void)state;
    struct buf text = {0};
    cli_help(&program, &command_rows[1], 80, &text);
    assert_has(&text, "NAME\n    prog bench - measure speed\n");
    assert_has(&text, "DESCRIPTION\n    One paragraph of text.\n\n    Another one.\n\n"
                      "      a fixed line\n      and its neighbour\n");
    assert_has(&text, "    Measure it:\n        prog bench m.corm\n");
    assert_null(strstr(text.data, "--seed"));
    assert_has(&text, "Threads to use. Default: 2.");
    buf_free(&text);
}

static void help_keeps_to_the_width(void **state) {
    (void)state;
    for (unsigned width = 50; width <= 100; width++) {
        struct buf text = {0};
        cli_help(&program, NULL, width, &text);
        for (const char *line = text.data; *line;) {
            size_t len = strcspn(line, "\n");
            assert_true(len <= width || strncmp(line, "    prog bench", 14) == 0 ||
                        strncmp(line, "    1   failed", 14) == 0);
            assert_true(len == 0 || line[len - 1] != ' ');
            line += len + 1;
        }
        buf_free(&text);
    }
}

/* -- cli_main ------------------------------------------------------------------------------- */

/* Runs cli_main in a child with both outputs going to `out`; returns the exit status. */
static int run_main(char *text, size_t size, const char *stdout_path, const char *arg1,
                    const char *arg2) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(stdout_path ? open(stdout_path, O_WRONLY) : pipes[1], 1);
        dup2(pipes[1], 2);
        char *argv[] = {mem_strdup("prog"), mem_strdup(arg1), arg2 ? mem_strdup(arg2) : NULL, NULL};
        int status = cli_main(&program, arg2 ? 3 : 2, argv);
        free(argv[0]);
        free(argv[1]);
        free(argv[2]);
        fclose(stdout);
        _exit(status);
    }
    close(pipes[1]);
    size_t len = 0;
    for (ssize_t n; (n = read(pipes[0], text + len, size - 1 - len)) > 0;) {
        len += (size_t)n;
    }
    text[len] = '\0';
    close(pipes[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void main_prints_and_exits(void **state) {
    (void)state;
    char text[8192];
    assert_int_equal(run_main(text, sizeof text, NULL, "m.corm", NULL), 0);
    assert_string_equal(text, "ran generate\n");
    assert_int_equal(run_main(text, sizeof text, NULL, "bench", "m"), 1);
    assert_string_equal(text, "prog: model.corm: it is broken\n");
    assert_int_equal(run_main(text, sizeof text, NULL, "verify", NULL), 2);
    assert_string_equal(text, "prog: --out and --file do not go together; "
                              "try 'prog verify --help'\n");
    assert_int_equal(run_main(text, sizeof text, NULL, "m.corm", "--foo"), 2);
    assert_string_equal(text, "prog: unknown option '--foo'; try 'prog --help'\n");
    assert_int_equal(run_main(text, sizeof text, NULL, "--version", NULL), 0);
    assert_string_equal(text, "prog 1.2.3\n");
    assert_int_equal(run_main(text, sizeof text, NULL, "--help", NULL), 0);
    assert_memory_equal(text, "NAME\n", 5);
    assert_int_equal(run_main(text, sizeof text, "/dev/full", "--help", NULL), 1);
    assert_string_equal(text, "prog: cannot write to standard output: No space left on device\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments_and_second_names),
        cmocka_unit_test(parses_every_kind),
        cmocka_unit_test(a_value_may_look_like_an_option),
        cmocka_unit_test(picks_the_command),
        cmocka_unit_test(refuses_wrong_options),
        cmocka_unit_test(refuses_wrong_values),
        cmocka_unit_test(help_of_the_program),
        cmocka_unit_test(help_of_a_command),
        cmocka_unit_test(help_keeps_to_the_width),
        cmocka_unit_test(main_prints_and_exits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
