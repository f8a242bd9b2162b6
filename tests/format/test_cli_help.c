/* The help of a program of one command; that of others is in test_cli. */
#include "tests/util/test.h"

#include <string.h>

#include "format/cli.h"

static int run(const struct cli_call *call, struct err *err) {
    (void)call, (void)err;
    return 0;
}

static const struct cli_command only = {.name = "look",
                                        .summary = "look at it",
                                        .run = run,
                                        .args = "[FILE]",
                                        .max_args = 1,
                                        .description = "It looks.\nThen it tells.",
                                        .examples = "#Try:\none a.file"};
static const struct cli_command other = {.name = "leave", .summary = "leave it", .run = run};

static void one_command(void **state) {
    (void)state;
    static const struct cli_command *const commands[] = {&only, NULL};
    const struct cli_program program = {.name = "one",
                                        .summary = "looks at things",
                                        .description = "What it is.",
                                        .commands = commands};
    struct buf text = {0}, same = {0};
    cli_help(&program, NULL, 80, &text);
    assert_string_equal(
        text.data, "NAME\n    one - looks at things\n\nSYNOPSIS\n    one [FILE] [OPTION...]\n\n"
                   "DESCRIPTION\n    What it is.\n\n    It looks.\n\n    Then it tells.\n\n"
                   "OPTIONS\n    -h, --help                Show this help.\n"
                   "        --version             Show the version.\n\n"
                   "EXAMPLES\n    Try:\n        one a.file\n\n"
                   "EXIT STATUS\n    0   done\n"
                   "    1   failed; one line on standard error says why\n"
                   "    2   wrong usage\n");
    cli_help(&program, &only, 80, &same);
    assert_string_equal(text.data, same.data);
    buf_free(&text);
    buf_free(&same);
}

/* With a second one they are listed, and each has its own help. */
static void two_commands(void **state) {
    (void)state;
    static const struct cli_command *const commands[] = {&only, &other, NULL};
    const struct cli_program program = {
        .name = "two", .summary = "looks at things", .commands = commands};
    struct buf text = {0};
    cli_help(&program, NULL, 80, &text);
    assert_non_null(strstr(text.data, "\nCOMMANDS\n    look"));
    assert_null(strstr(text.data, "It looks."));
    buf_free(&text);
    cli_help(&program, &only, 80, &text);
    assert_non_null(strstr(text.data, "NAME\n    two look - look at it\n"));
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_command),
        cmocka_unit_test(two_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
