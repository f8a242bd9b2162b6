/*
 * engine_grammar: through the public API, texts of a form are drawn from a model, whatever it would
 * rather say; what is refused, and who may be closed first.
 */
#include "tests/util/test.h"

#include "runtime/corm_grammar.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

static struct corm_grammar *open_gbnf(const struct corm_engine *e, const char *text) {
    struct corm_error error = {0};
    struct corm_grammar *g;
    if (corm_grammar_open(&g, e, CORM_GRAMMAR_GBNF, text, strlen(text), &error) < 0) {
        fail_msg("%s", error.message);
    }
    return g;
}

/* Draws until the text is over, or `most` tokens; free(). */
static char *draw(struct corm_engine *e, struct corm_grammar_state *state, size_t most,
                  uint64_t seed, bool *over) {
    struct corm_session *s = model_session(e);
    struct corm_sampling how = corm_sampling_defaults(e);
    int32_t *ids = mem_calloc(most, sizeof *ids), prompt[] = {5, 9};
    char *text;
    size_t n = 0, bytes;
    how.seed = seed;
    how.temperature = 2;
    model_eval(s, prompt, 2, false);
    for (*over = false; n < most && !*over;) {
        assert_int_equal(corm_grammar_allowed(state, most - n, &how.allowed, NULL), 0);
        int32_t id = corm_session_sample(s, &how);
        assert_true(id >= 0 && (how.allowed[id / 64] >> id % 64 & 1));
        assert_int_equal(corm_grammar_accept(state, id, NULL), 0);
        *over = corm_grammar_is_over(state);
        if (!corm_is_stop(e, id)) {
            ids[n++] = id;
            model_eval(s, &id, 1, false);
        }
    }
    assert_int_equal(corm_detokenize(e, ids, n, false, &text, &bytes, NULL), 0);
    free(ids);
    corm_session_close(s);
    return text;
}

static void texts_have_the_form(void **state) {
    (void)state;
    char *path = golden_archive("fable", NULL);
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){.max_sessions = 1});
    struct corm_grammar *g = open_gbnf(e, "root ::= \"<\" [a-z]+ \">\"");
    bool over;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct corm_grammar_state *one = corm_grammar_begin(g);
        char *text = draw(e, one, 12, seed, &over);
        const size_t n = strlen(text);
        assert_true(over && n >= 3 && text[0] == '<' && text[n - 1] == '>');
        assert_int_equal(strspn(text + 1, "abcdefghijklmnopqrstuvwxyz"), n - 2);
        free(text);
        corm_grammar_end(one);
    }
    corm_grammar_close(g);
    corm_engine_close(e);
    free(path);
}

/* With one token left only the end is allowed; a token that is not allowed changes nothing. */
static void few_tokens_are_left(void **state) {
    (void)state;
    char *path = golden_archive("fable", NULL);
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){0});
    struct corm_grammar *g = open_gbnf(e, "root ::= [0-9]+ \";\"");
    struct corm_grammar_state *s = corm_grammar_begin(g);
    const uint64_t *allowed;
    int32_t *digit, *end;
    size_t n;
    struct corm_error error = {0};
    assert_int_equal(corm_tokenize(e, "7", 1, false, false, &digit, &n, NULL), 0);
    assert_int_equal(n, 1);
    assert_int_equal(corm_tokenize(e, ";", 1, false, false, &end, &n, NULL), 0);
    assert_int_equal(n, 1);
#define ALLOWED(id) (allowed[(id) / 64] >> (id) % 64 & 1)
    assert_int_equal(corm_grammar_allowed(s, 0, &allowed, NULL), 0);
    assert_true(ALLOWED(*digit) && !ALLOWED(*end));
    assert_int_equal(corm_grammar_accept(s, *end, &error), -1);
    assert_true(strncmp(error.message, "grammar: ", 9) == 0);
    assert_int_equal(corm_grammar_accept(s, -1, NULL), -1);
    assert_int_equal(corm_grammar_accept(s, *digit, NULL), 0);
    assert_int_equal(corm_grammar_allowed(s, 2, &allowed, NULL), 0);
    assert_true(ALLOWED(*digit) && ALLOWED(*end));
    assert_int_equal(corm_grammar_allowed(s, 1, &allowed, NULL), 0);
    assert_true(!ALLOWED(*digit) && ALLOWED(*end));
    corm_grammar_close(g); /* its state keeps it */
    assert_false(corm_grammar_is_over(s));
    assert_int_equal(corm_grammar_accept(s, *end, NULL), 0);
    assert_true(corm_grammar_is_over(s));
    assert_int_equal(corm_grammar_allowed(s, 0, &allowed, NULL), 0);
    n = 0;
    for (uint32_t id = 0; id < corm_engine_info(e)->vocab; id++) {
        assert_true(!ALLOWED(id) || corm_is_stop(e, (int32_t)id));
        n += ALLOWED(id);
    }
    assert_true(n >= 1);
    corm_grammar_end(s);
    free(digit);
    free(end);
    corm_engine_close(e);
    free(path);
}

static void what_is_wrong_is_told(void **state) {
    (void)state;
    static const struct {
        enum corm_grammar_form form;
        const char *text, *says;
    } cases[] = {
        {CORM_GRAMMAR_GBNF, "root ::= \"a\" |\n  foo", "grammar: line 2, column 3: "},
        {CORM_GRAMMAR_GBNF, "root ::= <nosuch>", "<nosuch>"},
        {CORM_GRAMMAR_GBNF, "", "root"},
        {CORM_GRAMMAR_JSON_SCHEMA, "{\"not\": {}}", "JSON schema: the schema at #: the keyword "},
        {CORM_GRAMMAR_JSON_SCHEMA, "{\"type\":", "JSON schema: line 1, column 9: "},
        {CORM_GRAMMAR_JSON_SCHEMA, "5", "JSON schema: "},
    };
    char *path = golden_archive("fable", NULL);
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){0});
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct corm_grammar *g;
        struct corm_error error = {0};
        assert_int_equal(
            corm_grammar_open(&g, e, cases[i].form, cases[i].text, strlen(cases[i].text), &error),
            -1);
        if (!strstr(error.message, cases[i].says)) {
            fail_msg("\"%s\" says \"%s\"", cases[i].text, error.message);
        }
        corm_grammar_close(g);
    }
    corm_grammar_end(NULL);
    corm_engine_close(e);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_have_the_form),
        cmocka_unit_test(few_tokens_are_left),
        cmocka_unit_test(what_is_wrong_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
