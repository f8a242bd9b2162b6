/*
 * What a model's text can do to a terminal: nothing. A pipe gets it as it is.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <termios.h>

#include "tests/util/test_util_golden.h"

/* Escape sequences for the title, for clearing and colours, a C1 whose two bytes are two tokens, a
 * return, and text of two scripts. */
#define TEXT                                                                                       \
    "a\x1b]0;t\a\x1b[2J\xc2\x9b"                                                                   \
    "31mb\r\x7f\tc\nd\xc3\xa9\xe2\x82\xac"
static const char SHOWN[] = "a^[]0;t^G^[[2J<U+009B>31mb^M^?\tc\nd\xc3\xa9\xe2\x82\xac";

/* Runs the program with standard output on `out`, which is closed. */
static pid_t start(const char *const *argv, const char *program, int out) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char *path = mem_printf("%s/%s", getenv("CORM_BUILD"), program);
        dup2(out, 1);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(out);
    return pid;
}

static void read_end(int fd, pid_t pid, struct buf *text) {
    char block[4096];
    ssize_t n;
    int status;
    buf_append(text, "", 0);
    while ((n = read(fd, block, sizeof block)) > 0 || (n < 0 && errno == EINTR)) {
        buf_append(text, block, n > 0 ? (size_t)n : 0);
    }
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What a terminal gets, before it makes anything of it. False where there are no terminals. */
static bool on_terminal(const char *const *argv, const char *program, struct buf *text) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) {
        return false;
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (slave < 0) {
        close(master);
        return false;
    }
    struct termios t;
    assert_int_equal(tcgetattr(slave, &t), 0);
    cfmakeraw(&t);
    assert_int_equal(tcsetattr(slave, TCSANOW, &t), 0);
    read_end(master, start(argv, program, slave), text);
    return true;
}

static void on_pipe(const char *const *argv, const char *program, struct buf *text) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    read_end(pipes[0], start(argv, program, pipes[1]), text);
}

static void check(const char *const *argv, const char *program, const char *want, bool terminal) {
    struct buf text = {0};
    if (!terminal) {
        on_pipe(argv, program, &text);
    } else if (!on_terminal(argv, program, &text)) {
        skip();
    }
    if (strcmp(text.data, want) != 0) {
        fail_msg("%s: got '%s'", program, text.data);
    }
    buf_free(&text);
}

static void text_of_a_model_drives_no_terminal(void **state) {
    (void)state;
    char *model = golden_archive("olmoe-tiny", NULL);
    const char *argv[] = {"x",      model,   "-q",  "-p",        TEXT, "-n", "0",
                          "--echo", "--ctx", "256", "--threads", "1",  NULL, NULL};
    char *raw = mem_printf("%s\n", TEXT), *shown = mem_printf("%s\n", SHOWN);
    check(argv, "corm-run", raw, false);
    check(argv, "corm-run", shown, true);
    argv[TEST_COUNT(argv) - 2] = "--raw";
    check(argv, "corm-run", raw, true);
    free(raw);
    free(shown);
    free(model);
}

/* The same for ids that are turned into text; JSON has no control characters anywhere. */
static void decoded_text_drives_no_terminal(void **state) {
    (void)state;
    char *model = golden_archive("olmoe-tiny", NULL);
    const char *encode[] = {"x", "tokenize", model, "--no-special", "-p", TEXT, NULL};
    struct buf ids = {0};
    on_pipe(encode, "corm-prep", &ids);
    const char *decode[] = {"x", "tokenize", model, "--decode", "-p", ids.data, NULL, NULL};
    check(decode, "corm-prep", TEXT, false);
    check(decode, "corm-prep", SHOWN, true);
    decode[6] = "--raw";
    check(decode, "corm-prep", TEXT, true);
    decode[6] = "--json";
    check(decode, "corm-prep",
          "{\"text\":\"a\\u001B]0;t\\u0007\\u001B["
          "2J\\u009b31mb\\r\\u007f\\tc\\nd\xc3\xa9\xe2\x82\xac\"}\n",
          false);
    buf_free(&ids);
    free(model);
}

/* The same for what a chat template makes of a conversation, which both have a part in. */
static void templates_drive_no_terminal(void **state) {
    (void)state;
    char *model = golden_archive("olmoe-tiny", NULL);
    static const char chat[] = "[{\"role\":\"user\",\"content\":\"\\u001b[2J\\u009b31mb\"}]";
    static const char jinja[] = "a\x1b]0;t\a{{ messages[0].content }}{{ '\\r' }}\x7f";
    char *messages = test_write(test_dir(), "chat.json", chat, sizeof chat - 1);
    char *template = test_write(test_dir(), "own.jinja", jinja, sizeof jinja - 1);
    const char *argv[] = {"x",      "template", model, "-m", messages, "--chat-template",
                          template, NULL,       NULL};
    check(argv, "corm-prep",
          "a\x1b]0;t\a\x1b[2J\xc2\x9b"
          "31mb\r\x7f",
          false);
    check(argv, "corm-prep", "a^[]0;t^G^[[2J<U+009B>31mb^M^?", true);
    argv[TEST_COUNT(argv) - 2] = "--raw";
    check(argv, "corm-prep",
          "a\x1b]0;t\a\x1b[2J\xc2\x9b"
          "31mb\r\x7f",
          true);
    free(messages);
    free(template);
    free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_of_a_model_drives_no_terminal),
        cmocka_unit_test(decoded_text_drives_no_terminal),
        cmocka_unit_test(templates_drive_no_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
