/*
 * Calls of tools in written texts: each row's texts, cut at every byte, tell the same. What is told
 * is written as `text` and `[name arguments]`, with `!` behind a call that was not complete.
 */
#include "tests/util/test.h"

#include "format/text/tools.h"

/* DeepSeek's letters. */
#define B "\xef\xbd\x9c"
#define U "\xe2\x96\x81"

static const char tools_json[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"look\", \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"at\": {\"type\": \"string\"}, \"n\": {\"type\": \"integer\"}, "
    "\"x\": {\"type\": [\"string\", \"null\"]}, \"deep\": {\"type\": \"boolean\"}, \"list\": "
    "{\"type\": \"array\"}}}}}]";

static const struct {
    const char *row, *text, *told;
} cases[] = {
    {"hermes", "Hello", "Hello"},
    {"hermes", " a\n b ", " a\n b "},
    {"hermes", "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}\n</tool_call>",
     "[look {\"at\": \"x\"}]"},
    {"hermes",
     "Now.\n\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"b\": [1, {\"}\": \"\\\"}\"}]}}\n"
     "</tool_call>\n<tool_call>{\"arguments\": {\"k\": 1}, \"name\": \"c\"}</tool_call>\n\nDone",
     "Now.[a {\"b\": [1, {\"}\": \"\\\"}\"}]}][c {\"k\": 1}]Done"},
    {"hermes", "<tool_call>{\"name\": \"a\"}</tool_call>", "[a {}]"},
    {"hermes", "<tool_call>{\"name\": \"a\", \"arguments\": null, \"id\": \"}\"}</tool_call>x",
     "[a {}]x"},
    {"hermes", "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"k\\\": 2}\"}</tool_call>",
     "[a {\"k\": 2}]"},
    {"hermes",
     "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"a\", \"arguments\": {}}}\n"
     "</tool_call>",
     "[a {}]"},
    {"hermes", "<tool_call>{\"name\": \"a\", \"arguments\": {\"k\": \"1\n2\"}}</tool_call>",
     "[a {\"k\": \"1\\n2\"}]"},
    {"hermes", "<tool_call>{\"name\": \"a\", \"arguments\": {\"k\": 1}\n</tool_call> b",
     "[a {\"k\": 1}]b"},
    {"hermes", "<tool_call>{\"name\": \"a\", \"arguments\": {\"k\": \"un", "[a {\"k\": \"un!]"},
    {"hermes", "<tool_call> no {\"name\": 1} <tool_", "<tool_call> no {\"name\": 1} <tool_"},
    {"hermes", "<tool_call>{\"name\": \"a", "<tool_call>{\"name\": \"a"},
    {"hermes", "a <b> <tool> c", "a <b> <tool> c"},
    {"qwen-coder",
     "Well\n<tool_call>\n<function=look>\n<parameter=at>\n</para\n\n\"q\"\\\n</parameter>\n"
     "<parameter=n>\n12\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=look>\n"
     "</function>\n</tool_call>",
     "Well[look {\"at\": \"</para\\n\\n\\\"q\\\"\\\\\", \"n\": 12}][look {}]"},
    {"qwen-coder",
     "<function=look><parameter=deep>True</parameter><parameter=x>5</parameter><parameter=n>five"
     "</parameter></function> and",
     "[look {\"deep\": true, \"x\": \"5\", \"n\": \"five\"}]and"},
    {"qwen-coder",
     "<tool_call>\n<function=look>\n<parameter=list>\n[\n1,\n\"a\"\n]\n</parameter>\n"
     "<parameter=x>\nNone\n</parameter>\n<parameter=at>\n\n</parameter>\n<parameter=unknown>\n"
     "{\"k\": 1}\n</parameter>\n</function>\n</tool_call>",
     "[look {\"list\": [\n1,\n\"a\"\n], \"x\": null, \"at\": \"\", \"unknown\": {\"k\": 1}}]"},
    {"qwen-coder", "<tool_call>\n<function=look>\n<parameter=at>\nunfinis",
     "[look {\"at\": \"unfinis!]"},
    {"qwen-coder", "<tool_call>\n<function=look>\n<parameter=n>\n1\n</parameter>",
     "[look {\"n\": 1}]"},
    {"qwen-coder", "<function> x", "<function> x"},
    {"seed",
     "<seed:tool_call>\n<function=look>\n<parameter=at>a b</parameter>\n</function>\n"
     "</seed:tool_call>",
     "[look {\"at\": \"a b\"}]"},
    {"glm",
     "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>a\n<b></arg_value>\n<arg_key>n</arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>look\n</tool_call>",
     "[look {\"at\": \"a\\n<b>\", \"n\": 3}][look {}]"},
    {"glm", "<tool_call>look<arg_key>n</arg_key><arg_value>[1, 2]</arg_value></tool_call>ok",
     "[look {\"n\": \"[1, 2]\"}]ok"},
    {"minimax",
     "<minimax:tool_call>\n<invoke name=\"look\">\n<parameter name=\"at\">x</parameter>\n"
     "<parameter name=\"n\">1</parameter>\n</invoke>\n<invoke name=\"look\">\n</invoke>\n"
     "</minimax:tool_call>",
     "[look {\"at\": \"x\", \"n\": 1}][look {}]"},
    {"deepseek-dsml",
     "Ok\n\n<" B "DSML" B "function_calls>\n<" B "DSML" B "invoke name=\"look\">\n<" B "DSML" B
     "parameter name=\"at\" string=\"true\">7</" B "DSML" B "parameter>\n<" B "DSML" B
     "parameter name=\"zz\" string=\"false\">7</" B "DSML" B "parameter>\n</" B "DSML" B
     "invoke>\n</" B "DSML" B "function_calls>",
     "Ok[look {\"at\": \"7\", \"zz\": 7}]"},
    {"gemma",
     "<|tool_call>call:look{at:<|\"|>a \"b\"\n{c},<|\"|>,n:42,list:[1,<|\"|>x<|\"|>,{k:null}]}"
     "<tool_call|><|tool_call>call:look{}<tool_call|>",
     "[look {\"at\": \"a \\\"b\\\"\\n{c},\", \"n\": 42, \"list\": [1, \"x\", "
     "{\"k\": null}]}][look {}]"},
    {"gemma", "<|tool_call>call:look{at:<|\"|>un<|", "[look {\"at\": \"un<|!]"},
    {"apriel",
     "So\n<tool_calls>[{\"name\": \"look\", \"arguments\": {\"n\": 1}, \"id\": 1}]</tool_calls>",
     "So[look {\"n\": 1}]"},
    {"nemotron", "<TOOLCALL>[{\"name\": \"look\", \"arguments\": {}}]</TOOLCALL>\nDone",
     "[look {}]Done"},
    {"harmony",
     "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{\"at\": \"x\"}<|call|>",
     "[look {\"at\": \"x\"}]"},
    {"harmony", " to=functions.look<|channel|>commentary json<|message|>{\"n\": 1}",
     "[look {\"n\": 1}]"},
    {"harmony",
     "<|channel|>commentary<|message|>First a look.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.look <|constrain|>json<|message|>{}",
     "First a look.[look {}]"},
    {"harmony", "It goes to=functions.look and <|channel",
     "It goes to=functions.look and <|channel"},
    {"deepseek",
     "<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">function<" B "tool" U
     "sep" B ">look\n```json\n{\"at\": \"x\"}\n```<" B "tool" U "call" U "end" B ">\n<" B "tool" U
     "call" U "begin" B ">function<" B "tool" U "sep" B ">look\n```json\n{}\n```<" B "tool" U
     "call" U "end" B "><" B "tool" U "calls" U "end" B ">",
     "[look {\"at\": \"x\"}][look {}]"},
    {"deepseek-3.1",
     "So:<" B "tool" U "calls" U "begin" B "><" B "tool" U "call" U "begin" B ">look<" B "tool" U
     "sep" B ">{\"n\": 4}<" B "tool" U "call" U "end" B "><" B "tool" U "call" U "begin" B
     ">look<" B "tool" U "sep" B ">{}<" B "tool" U "call" U "end" B "><" B "tool" U "calls" U
     "end" B ">",
     "So:[look {\"n\": 4}][look {}]"},
    {"kimi",
     "So: <|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
     "<|tool_call_argument_begin|>{\"n\": 4}<|tool_call_end|><|tool_call_begin|>functions.look:12"
     "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
     "So:[look {\"n\": 4}][look {}]"},
    {"kimi",
     "<|tool_call_begin|>functions.a:b:3<|tool_call_argument_begin|>{}<|tool_call_end|>"
     "<|tool_call_begin|>functions.look <|tool_call_argument_begin|> {\"n\": 1}<|tool_call_end|>!",
     "[a:b {}][look {\"n\": 1}]!"},
    {"kimi", "<|tool_call_begin|>look:0<|tool_call", "<|tool_call_begin|>look:0<|tool_call"},
    {"gigachat",
     "I look.<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"look\", \"arguments\": "
     "{\"at\": \"x\"}}<|message_sep|>\n\n",
     "I look.[look {\"at\": \"x\"}]"},
    {"gigachat-3.1", "So.<|function_call|>{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}",
     "So.[look {\"at\": \"x\"}]"},
    {"gigachat", "A function call<|message_sep|>", "A function call"},
    {"mistral-list",
     "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"at\": \"]\"}, \"id\": \"abc\"}, "
     "{\"name\": \"look\", \"arguments\": {}}]",
     "[look {\"at\": \"]\"}][look {}]"},
    {"mistral-list", "A list [1, 2] [TOOL", "A list [1, 2] [TOOL"},
    {"mistral",
     "Hm[TOOL_CALLS]look[ARGS]{\"at\": \"[ARGS]\"}[TOOL_CALLS]look[CALL_ID]abc[ARGS]{\"n\": 2}",
     "Hm[look {\"at\": \"[ARGS]\"}][look {\"n\": 2}]"},
    {"granite", "<|tool_call|>[{\"name\": \"look\", \"arguments\": {\"n\": 1}}]",
     "[look {\"n\": 1}]"},
    {"function-json", "<function=look>{\"n\": 1}</function>.", "[look {\"n\": 1}]."},
    {"json", "{\"name\": \"look\", \"parameters\": {\"n\": 1}}", "[look {\"n\": 1}]"},
    {"json",
     "<|python_tag|>{\"type\": \"function\", \"name\": \"look\", \"parameters\": {\"n\": 1}}; "
     "{\"name\": \"look\", \"parameters\": {}}",
     "[look {\"n\": 1}][look {}]"},
    {"json", "[{\"name\": \"look\", \"arguments\": {}}]", "[look {}]"},
    {"json", "{\"name\": \"other\", \"parameters\": {}}",
     "{\"name\": \"other\", \"parameters\": {}}"},
    {"json", "See {\"name\": \"look\", \"parameters\": {}}",
     "See {\"name\": \"look\", \"parameters\": {}}"},
};

static const struct tools_row *row_of(const char *name) {
    for (size_t i = 0; tools_row(i); i++) {
        if (strcmp(tools_row(i)->name, name) == 0) {
            return tools_row(i);
        }
    }
    fail_msg("no row %s", name);
    return NULL;
}

static void on_text(void *ctx, const char *text, size_t bytes) {
    buf_append(ctx, text, bytes);
}
static void on_begin(void *ctx, const char *name, size_t bytes) {
    buf_printf(ctx, "[%.*s ", (int)bytes, name);
}
static void on_end(void *ctx, bool whole) {
    buf_printf(ctx, whole ? "]" : "!]");
}

/* In pieces of so many bytes, or (0) in two, cut at `at`. */
static void check(size_t i, const struct value *tools, size_t piece, size_t cut) {
    struct tools_stream s = {0};
    struct buf told = {0};
    const struct tools_sink sink = {&told, on_text, on_begin, on_text, on_end};
    const char *text = cases[i].text;
    size_t n = strlen(text);
    buf_append(&told, "", 0);
    tools_begin(&s, row_of(cases[i].row), tools);
    for (size_t at = 0; at < n;) {
        size_t k = piece ? piece : at == 0 && cut > 0 ? cut : n;
        k = n - at < k ? n - at : k;
        tools_push(&s, text + at, k, &sink);
        at += k;
    }
    tools_end(&s, &sink);
    if (strcmp(told.data, cases[i].told) != 0) {
        fail_msg("case %zu (%s) in pieces of %zu, cut at %zu: '%s', expected '%s'", i, cases[i].row,
                 piece, cut, told.data, cases[i].told);
    }
    buf_free(&told);
}

static void read_tools(struct value_arena *arena, struct value *tools) {
    struct err err = {0};
    arena->limit_bytes = 1 << 20;
    assert_int_equal(value_json_read(arena, tools_json, sizeof tools_json - 1, tools, &err), 0);
}

static void calls_are_found_in_any_pieces(void **state) {
    struct value_arena arena = {0};
    struct value tools;
    (void)state;
    read_tools(&arena, &tools);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        size_t n = strlen(cases[i].text);
        for (size_t piece = 1; piece <= n + 1; piece++) {
            check(i, &tools, piece, 0);
        }
        for (size_t cut = 0; cut < n; cut++) {
            check(i, &tools, 0, cut);
        }
    }
    value_arena_free(&arena);
}

/* Each row has a text above with a call in it, and is the one that is found for it. */
static void each_row_is_found_by_its_text(void **state) {
    struct value_arena arena = {0};
    struct value tools, none;
    (void)state;
    read_tools(&arena, &tools);
    assert_int_equal(value_make_dict(&arena, &none), 0);
    for (size_t r = 0; tools_row(r); r++) {
        size_t found = 0;
        for (size_t i = 0; i < TEST_COUNT(cases); i++) {
            const char *call = strstr(cases[i].told, "[look {");
            if (strcmp(cases[i].row, tools_row(r)->name) != 0 || !call || strchr(call, '!')) {
                continue;
            }
            struct value arguments;
            struct err err = {0};
            const char *json = call + 6, *end = json;
            size_t depth = 0;
            bool quoted = false;
            do {
                quoted ^= *end == '"' && end[-1] != '\\';
                depth += !quoted && *end == '{';
                depth -= !quoted && *end == '}';
            } while (*end++ && depth);
            if (value_json_read(&arena, json, (size_t)(end - json), &arguments, &err) < 0) {
                continue;
            }
            const struct tools_row *row =
                tools_find(cases[i].text, strlen(cases[i].text), "look", &arguments);
            found += row == tools_row(r);
        }
        if (!found) {
            fail_msg("no text of the row %s is found to be its own", tools_row(r)->name);
        }
    }
    assert_null(tools_find("look({})", 8, "look", &none));
    value_arena_free(&arena);
}

/* Arguments come as they are made, a string too that has no quotes yet. */
static void arguments_do_not_wait(void **state) {
    struct value_arena arena = {0};
    struct value tools;
    struct tools_stream s = {0};
    struct buf told = {0};
    const struct tools_sink sink = {&told, on_text, on_begin, on_text, on_end};
    static const char json[] = "<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": \"lo";
    static const char tagged[] =
        "<tool_call>\n<function=look>\n<parameter=at>\nA long value that is going on";
    (void)state;
    read_tools(&arena, &tools);
    tools_begin(&s, row_of("hermes"), &tools);
    tools_push(&s, json, sizeof json - 1, &sink);
    assert_string_equal(told.data, "[look {\"at\": \"lo");
    told.len = 0;
    tools_begin(&s, row_of("qwen-coder"), &tools);
    tools_push(&s, tagged, sizeof tagged - 1, &sink);
    assert_string_equal(told.data, "[look {\"at\": \"A long value that");
    tools_free(&s);
    buf_free(&told);
    value_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_are_found_in_any_pieces),
        cmocka_unit_test(each_row_is_found_by_its_text),
        cmocka_unit_test(arguments_do_not_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
