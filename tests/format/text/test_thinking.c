/*
 * Thoughts and answers, whatever the pieces that the text comes in.
 */
#include "tests/util/test.h"

#include "format/text/thinking.h"

static const struct {
    const char *prompt, *text, *thought, *answer;
} cases[] = {
    {"", "Hello\n\nyou\n", "", "Hello\n\nyou\n"},
    {"", "<think>\nFirst\n\nthen\n</think>\n\nHello\n", "First\n\nthen", "Hello\n"},
    {"", "\n <think>x</think> Hello", "x", " Hello"},
    {"user\n<think>\n", "\nHmm\n</think>\n\nYes <think> no </think>", "Hmm",
     "Yes <think> no </think>"},
    {"<think>", "never done <", "never done <", ""},
    {"a<think> b", "x</think>", "", "x</think>"},
    {"", "[THINK]a[/THIN[/THINK]b", "a[/THIN", "b"},
    {"<|start|>assistant",
     "<|channel|>analysis<|message|>We\nsay<|end|><|start|>assistant<|channel|>final<|message|>Hi",
     "We\nsay", "Hi"},
    {"", "<|channel|>final<|message|>Hi", "", "Hi"},
    {"", "<|channel>thought\nSo\n<channel|>Hi", "So", "Hi"},
    {"", "<thin", "", "<thin"},
    {"", "<", "", "<"},
    {"", "", "", ""},
    {"", "é<think>", "", "é<think>"},
    {"", "<think></think>", "", ""},
    {"", "<think>a</think><think>b</think>c", "ab", "c"},
    {"", "\n\nHello", "", "\n\nHello"},
};

static void check(size_t i, size_t piece) {
    struct thinking t = {0};
    struct buf thought = {0}, answer = {0};
    const char *text = cases[i].text;
    size_t n = strlen(text);
    buf_append(&thought, "", 0);
    buf_append(&answer, "", 0);
    thinking_begin(&t, cases[i].prompt, strlen(cases[i].prompt));
    for (size_t at = 0; at < n; at += piece) {
        thinking_push(&t, text + at, n - at < piece ? n - at : piece, &thought, &answer);
    }
    thinking_end(&t, &thought, &answer);
    if (strcmp(thought.data, cases[i].thought) != 0 || strcmp(answer.data, cases[i].answer) != 0) {
        fail_msg("case %zu in pieces of %zu: thought '%s', answer '%s'", i, piece, thought.data,
                 answer.data);
    }
    buf_free(&thought);
    buf_free(&answer);
}

static void text_is_parted_in_any_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        for (size_t piece = 1; piece <= strlen(cases[i].text) + 1; piece++) {
            check(i, piece);
        }
    }
}

static void the_end_of_a_thought_is_told(void **state) {
    (void)state;
    struct thinking t = {0};
    thinking_begin(&t, "user\n<think>", 12);
    assert_true(thinking_goes_on(&t, "hm", 2));
    assert_true(thinking_goes_on(&t, " </thi", 6));
    assert_false(thinking_goes_on(&t, "nk>", 3));
    assert_false(thinking_goes_on(&t, "\n\nHello", 7));
    thinking_free(&t);
}

/* What is certain comes at once. */
static void certain_text_does_not_wait(void **state) {
    struct thinking t = {0};
    struct buf thought = {0}, answer = {0};
    (void)state;
    thinking_begin(&t, "", 0);
    thinking_push(&t, "Hi", 2, &thought, &answer);
    assert_string_equal(answer.data, "Hi");
    thinking_push(&t, "\n", 1, &thought, &answer);
    assert_string_equal(answer.data, "Hi\n");
    thinking_free(&t);
    buf_free(&thought);
    buf_free(&answer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_parted_in_any_pieces),
        cmocka_unit_test(the_end_of_a_thought_is_told),
        cmocka_unit_test(certain_text_does_not_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
