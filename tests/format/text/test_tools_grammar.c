/*
 * The grammar of calls: what each row writes is allowed, and nothing that its reader would not take
 * for a call of a tool that is there.
 */
#include "tests/util/test.h"

#include "format/text/grammar.h"
#include "format/text/tools.h"
#include "tests/util/test_util_grammar.h"

#define B "\xef\xbd\x9c"
#define U "\xe2\x96\x81"

static const char tools_json[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"look\", \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"at\": {\"type\": \"string\"}, \"n\": {\"type\": \"integer\", "
    "\"maximum\": 99}, \"k\": {\"$ref\": \"#/$defs/kind\"}}, \"required\": [\"at\"], \"$defs\": "
    "{\"kind\": {\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"boolean\"}}}}}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"off\", \"parameters\": {\"type\": "
    "\"object\", \"properties\": {}}}}]";

/* Calls, those of an answer with one only, and no calls, in each row's form. */
static const struct {
    const char *row, *one, *two, *none;
} cases[] = {
    {"hermes",
     "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"x\", \"n\": 7}}\n</tool_call>",
     "<tool_call>{\"name\": \"off\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": "
     "\"look\", "
     "\"arguments\": {\"at\": \"<\", \"k\": {\"a\": true}}}</tool_call>",
     "<tool_call>{\"name\": \"look\", \"arguments\": {\"n\": 7}}</tool_call>"},
    {"qwen-coder",
     "<tool_call>\n<function=look>\n<parameter=at>\n a </param>\n<b\n</parameter>\n<parameter=k>\n"
     "{\"a\": false}\n</parameter>\n</function>\n</tool_call>",
     "<tool_call>\n<function=off>\n</function>\n</tool_call>\n<tool_call>\n<function=off>\n"
     "</function>\n</tool_call>",
     "<tool_call>\n<function=look>\n<parameter=at>\na\n</parameter>\n<parameter=n>\n123\n"
     "</parameter>\n</function>\n</tool_call>"},
    {"seed",
     "<seed:tool_call>\n<function=look>\n<parameter=at>a</parameter>\n</function>\n"
     "</seed:tool_call>",
     NULL, "<seed:tool_call>\n<function=look>\n</function>\n</seed:tool_call>"},
    {"glm",
     "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>a <b> "
     "é</arg_value>\n<arg_key>n</arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>",
     "<tool_call>off\n</tool_call>\n<tool_call>off</tool_call>", "<tool_call>other\n</tool_call>"},
    {"minimax",
     "<minimax:tool_call>\n<invoke name=\"look\">\n<parameter name=\"at\">x</parameter>\n"
     "</invoke>\n</minimax:tool_call>",
     "<minimax:tool_call>\n<invoke name=\"off\">\n</invoke>\n<invoke name=\"off\">\n</invoke>\n"
     "</minimax:tool_call>",
     "<minimax:tool_call>\n<invoke name=\"look\">\n</invoke>\n</minimax:tool_call>"},
    {"deepseek-dsml",
     "<" B "DSML" B "function_calls>\n<" B "DSML" B "invoke name=\"look\">\n<" B "DSML" B
     "parameter name=\"at\" string=\"true\">7 </" B "x</" B "DSML" B "parameter>\n<" B "DSML" B
     "parameter name=\"n\" string=\"false\">7</" B "DSML" B "parameter>\n</" B "DSML" B
     "invoke>\n</" B "DSML" B "function_calls>",
     NULL,
     "<" B "DSML" B "function_calls>\n<" B "DSML" B "invoke name=\"look\">\n<" B "DSML" B
     "parameter name=\"at\" string=\"false\">7</" B "DSML" B "parameter>\n</" B "DSML" B
     "invoke>\n</" B "DSML" B "function_calls>"},
    {"gemma",
     "<|tool_call>call:look{at:<|\"|>a "
     "\"<|b\"<|\"|>,n:42,k:{a:true,b:[1,<|\"|>x<|\"|>]}}<tool_call|>",
     "<|tool_call>call:off{}<tool_call|><|tool_call>call:look{at:<|\"|><|\"|>}<tool_call|>",
     "<|tool_call>call:look{n:42}<tool_call|>"},
    {"apriel", "<tool_calls>[{\"name\": \"off\", \"arguments\": {}}]</tool_calls>",
     "<tool_calls>[{\"name\": \"off\", \"arguments\": {}}, {\"name\": \"off\", \"arguments\": "
     "{}}]</tool_calls>",
     "<tool_calls>[{\"name\": \"off\", \"arguments\": {}}]"},
    {"nemotron", "<TOOLCALL>[{\"name\": \"off\", \"arguments\": {}}]</TOOLCALL>", NULL,
     "<TOOLCALL>[]</TOOLCALL>"},
    {"harmony",
     "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{\"at\": \"x\"}<|call|>",
     NULL, "<|channel|>commentary to=functions.off <|constrain|>json<|message|>{\"at\": \"x\"}"},
    {"deepseek",
     "<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">function<" B "tool" U
     "sep" B ">look\n```json\n{\"at\": \"x\"}\n```<" B "tool" U "call" U "end" B "><" B "tool" U
     "calls" U "end" B ">",
     NULL,
     "<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">function<" B "tool" U
     "sep" B ">look\n```json\n{\"at\": \"x\"}\n```"},
    {"deepseek-3.1",
     "<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">look<" B "tool" U
     "sep" B ">{\"at\": \"4\"}<" B "tool" U "call" U "end" B "><" B "tool" U "calls" U "end" B ">",
     "<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">off<" B "tool" U
     "sep" B ">{}<" B "tool" U "call" U "end" B "><" B "tool" U "call" U "begin" B ">off<" B
     "tool" U "sep" B ">{}<" B "tool" U "call" U "end" B "><" B "tool" U "calls" U "end" B ">",
     "look"},
    {"kimi",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>"
     "{\"at\": \"4\"}<|tool_call_end|><|tool_calls_section_end|>",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.off:7<|tool_call_argument_begin|>{}"
     "<|tool_call_end|><|tool_call_begin|>functions.off:8<|tool_call_argument_begin|>{}"
     "<|tool_call_end|><|tool_calls_section_end|>",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.off<|tool_call_argument_begin|>{}"
     "<|tool_call_end|><|tool_calls_section_end|>"},
    {"gigachat",
     "<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"look\", \"arguments\": "
     "{\"at\": \"1\"}}",
     NULL, "<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"look\"}"},
    {"gigachat-3.1", "<|function_call|>{\"name\": \"look\", \"arguments\": {\"at\": \"1\"}}", NULL,
     "<|function_call|>{\"name\": \"look\"}"},
    {"mistral-list", "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"at\": \"]\"}}]",
     "[TOOL_CALLS][{\"name\": \"off\", \"arguments\": {}}, {\"name\": \"off\", \"arguments\": {}}]",
     "[TOOL_CALLS][{\"name\": \"off\"}]"},
    {"mistral", "[TOOL_CALLS]look[ARGS]{\"at\": \"[ARGS]\"}",
     "[TOOL_CALLS]off[ARGS]{}[TOOL_CALLS]off[ARGS]{}", "[TOOL_CALLS]look[ARGS]{}"},
    {"granite", "<|tool_call|>[{\"name\": \"off\", \"arguments\": {}}]", NULL, "<|tool_call|>[]"},
    {"function-json", "<function=look>{\"at\": \"1\"}</function>", NULL,
     "<function=look></function>"},
    {"json", "{\"name\": \"look\", \"parameters\": {\"at\": \"1\"}}",
     "{\"name\": \"off\", \"parameters\": {}};{\"name\": \"off\", \"parameters\": {}}",
     "{\"name\": \"look\", \"arguments\": {\"at\": \"1\"}}"},
};

static int64_t none_added(void *ctx, const char *token, size_t bytes) {
    (void)ctx;
    (void)token;
    (void)bytes;
    return -1;
}

/* A row's grammar over the tools above. */
static struct grammar *make(struct tools_grammar how, struct value_arena *arena) {
    static struct value tools;
    struct err err = {0};
    struct buf rules = {0};
    struct tools_schema *schemas;
    struct grammar *g;
    size_t n;
    arena->limit_bytes = 1 << 20;
    assert_int_equal(value_json_read(arena, tools_json, sizeof tools_json - 1, &tools, &err), 0);
    how.tools = &tools;
    how.added = how.added ? how.added : none_added;
    assert_int_equal(tools_write_grammar(&how, arena, &rules, &schemas, &n), 0);
    struct grammar_schema *named = mem_calloc(n + 1, sizeof *named);
    for (size_t i = 0; i < n; i++) {
        named[i] = (struct grammar_schema){schemas[i].name, schemas[i].schema};
    }
    if (grammar_parse_with(&g, rules.data, rules.len, named, n, 0, NULL, &err) < 0) {
        fail_msg("%s: %s\n%s", how.row->name, err.msg, rules.data);
    }
    free(named);
    free(schemas);
    buf_free(&rules);
    return g;
}

static const struct tools_row *row_of(const char *name) {
    for (size_t i = 0; tools_row(i); i++) {
        if (strcmp(tools_row(i)->name, name) == 0) {
            return tools_row(i);
        }
    }
    fail_msg("no row %s", name);
    return NULL;
}

static bool has(const struct grammar *g, const char *text) {
    return grammar_has(g, text, strlen(text));
}

static void expect(const struct grammar *g, const char *text, bool is, const char *what) {
    if (has(g, text) != is) {
        fail_msg("%s: %s", what, text);
    }
}

static void each_row_has_a_grammar(void **state) {
    (void)state;
    for (size_t i = 0; tools_row(i); i++) {
        size_t k = 0;
        while (k < TEST_COUNT(cases) && strcmp(cases[k].row, tools_row(i)->name) != 0) {
            k++;
        }
        if (k == TEST_COUNT(cases)) {
            fail_msg("no text of the row %s", tools_row(i)->name);
        }
    }
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct value_arena arena = {0};
        const struct tools_row *row = row_of(cases[i].row);
        struct grammar *many = make((struct tools_grammar){.row = row}, &arena);
        struct grammar *one = make((struct tools_grammar){.row = row, .one = true}, &arena);
        struct grammar *rest = make((struct tools_grammar){.row = row, .opened = true}, &arena);
        const char *opening = tools_opening(row), *at = strstr(cases[i].one, opening);
        expect(many, cases[i].one, true, "not allowed");
        expect(one, cases[i].one, true, "not allowed alone");
        expect(many, cases[i].none, false, "allowed");
        expect(many, "Hello", false, "allowed");
        if (cases[i].two) {
            expect(many, cases[i].two, true, "not allowed");
            expect(one, cases[i].two, false, "two calls for one");
        }
        assert_non_null(at);
        expect(rest, at + strlen(opening), true, "not allowed behind its opening");
        expect(rest, cases[i].one, false, "allowed behind an opening");
        grammar_free(many);
        grammar_free(one);
        grammar_free(rest);
        value_arena_free(&arena);
    }
}

static void only_allowed_tools_are_called(void **state) {
    static const bool allowed[] = {false, true};
    struct value_arena arena = {0};
    (void)state;
    struct grammar *g = make(
        (struct tools_grammar){.row = tools_plain_row(), .allowed = allowed, .other = "s"}, &arena);
    assert_true(has(g, "<tool_call>{\"name\": \"off\", \"arguments\": {}}</tool_call>"));
    assert_true(has(g, " ")); /* the other rule */
    assert_false(
        has(g, "<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": \"\"}}</tool_call>"));
    grammar_free(g);
    value_arena_free(&arena);
}

/* Tokens that the vocabulary has added are asked for as such, and may be preceded by a thought. */
static int64_t think_added(void *ctx, const char *token, size_t bytes) {
    static const char *const added[] = {"<think>", "</think>", "<tool_call>"};
    (void)ctx;
    for (int i = 0; i < 3; i++) {
        if (strlen(added[i]) == bytes && !memcmp(token, added[i], bytes)) {
            return 256 + i;
        }
    }
    return -1;
}

static void added_tokens_are_asked_for(void **state) {
    struct value_arena arena = {0};
    struct err err = {0};
    struct grammar_vocab *v = grammar_byte_vocab(NULL); /* whose last id, 258, ends a text */
    struct grammar_masks *m;
    (void)state;
    struct grammar *g =
        make((struct tools_grammar){.row = tools_plain_row(), .added = think_added}, &arena);
    assert_int_equal(grammar_masks_open(&m, g, v, 0, &err), 0);
    struct grammar_state *s = grammar_state_new(m);
    uint64_t mask[8];
    assert_true(grammar_mask_words(v) <= 8);
    assert_int_equal(grammar_mask(s, 0, mask, &err), 0);
    assert_true(mask_has(mask, 256));
    assert_false(mask_has(mask, '<'));
    assert_int_equal(grammar_accept(s, 256, &err), 0);
    assert_int_equal(grammar_accept_text(s, "What <tool_call> is?", 20, &err), 0);
    assert_int_equal(grammar_accept(s, 257, &err), 0);
    assert_int_equal(grammar_mask(s, 0, mask, &err), 0);
    assert_false(mask_has(mask, 'W'));
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_vocab_free(v);
    grammar_free(g);
    value_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_has_a_grammar),
        cmocka_unit_test(only_allowed_tools_are_called),
        cmocka_unit_test(added_tokens_are_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
