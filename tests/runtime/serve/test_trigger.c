/*
 * trigger: a call is held to its form from its opening on, however the opening is cut into tokens,
 * and what is thought opens nothing.
 */
#include "runtime/serve/trigger.h"

#include "tests/util/test.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

static struct corm_engine *engine;
static struct corm_grammar *grammar;

static int setup(void **state) {
    static const char rules[] = "root ::= \"\\n\"? json \"</call>\"";
    static const char schema[] = "{\"type\": \"integer\", \"multipleOf\": 3}";
    const struct corm_grammar_schema named = {
        .name = "json", .schema = schema, .schema_bytes = sizeof schema - 1};
    struct corm_error error;
    char *remarks, *path = golden_archive("fable", NULL);
    (void)state;
    engine = model_open(path, &(struct corm_engine_options){0});
    free(path);
    struct corm_grammar_schema strict = named;
    strict.strict = true;
    assert_int_equal(
        corm_grammar_open_with(&grammar, engine, rules, sizeof rules - 1, &strict, 1, NULL, &error),
        -1);
    assert_non_null(strstr(error.message, "multipleOf"));
    assert_int_equal(corm_grammar_open_with(&grammar, engine, rules, sizeof rules - 1, &named, 1,
                                            &remarks, &error),
                     0);
    assert_non_null(strstr(remarks, "multipleOf"));
    free(remarks);
    assert_int_equal(corm_added_token(engine, "<|endoftext|>", 13), 0);
    assert_int_equal(corm_added_token(engine, "<|endoftext|", 12), -1);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    corm_grammar_close(grammar);
    corm_engine_close(engine);
    return 0;
}

/* Texts, as if each were what a token adds; ids count only within a call. */
static void push(struct trigger *t, const char *text, bool want_over) {
    struct corm_error error;
    bool over;
    int32_t *ids;
    size_t n;
    assert_int_equal(corm_tokenize(engine, text, strlen(text), false, false, &ids, &n, NULL), 0);
    assert_int_equal(trigger_push(t, ids[0], text, strlen(text), &over, &error), 0);
    assert_int_equal(over, want_over);
    free(ids);
}

static struct trigger begin(const char *prompt) {
    struct trigger t = {.opening = "<call>", .grammar = grammar};
    trigger_begin(&t, prompt, strlen(prompt));
    return t;
}

static void a_call_is_held_from_its_opening(void **state) {
    struct trigger t = begin("");
    const uint64_t *allowed;
    int32_t *digit;
    size_t n;
    (void)state;
    push(&t, "A <ca", false);
    push(&t, "<c", false);
    assert_null(t.state);
    push(&t, "all>\n1", false);
    assert_non_null(t.state);
    assert_int_equal(corm_tokenize(engine, "x", 1, false, false, &digit, &n, NULL), 0);
    assert_int_equal(corm_grammar_allowed(t.state, 0, &allowed, NULL), 0);
    assert_false(allowed[digit[0] / 64] >> digit[0] % 64 & 1);
    free(digit);
    for (const char *p = "2</call>"; *p; p++) {
        char one[2] = {*p};
        push(&t, one, false);
    }
    assert_null(t.state); /* it is over, and the next one is waited for */
    push(&t, "<call>", false);
    assert_non_null(t.state);
    trigger_free(&t);
}

static void a_call_that_the_grammar_lacks_is_left_alone(void **state) {
    struct trigger t = begin("");
    (void)state;
    push(&t, "<call>no", false);
    assert_null(t.state);
    t.once = true;
    push(&t, "<call>7</call>", true); /* all in one */
    trigger_free(&t);
}

static void thoughts_open_nothing(void **state) {
    struct trigger t = begin("<think>");
    (void)state;
    push(&t, "<call>", false);
    assert_null(t.state);
    push(&t, "</think>\n", false);
    push(&t, "<call>", false);
    assert_non_null(t.state);
    trigger_free(&t);
    t = begin("");
    t.at_start = true;
    push(&t, "\n <call>", false);
    assert_non_null(t.state);
    trigger_free(&t);
    t = begin("");
    t.at_start = true;
    push(&t, "So <call>", false);
    assert_null(t.state);
    trigger_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_is_held_from_its_opening),
        cmocka_unit_test(a_call_that_the_grammar_lacks_is_left_alone),
        cmocka_unit_test(thoughts_open_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
