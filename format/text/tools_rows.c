/* The ways in which models write calls down, and which one is a template's; see tools.h. */
#include <stdlib.h>
#include <string.h>

#include "format/text/tools_internal.h"

#define WORDS(...)                                                                                 \
    (const char *const[]) {                                                                        \
        __VA_ARGS__, NULL                                                                          \
    }
/* DeepSeek's tokens have U+FF5C and U+2581 in them. */
#define BAR "\xef\xbd\x9c"
#define LOW "\xe2\x96\x81"
#define DEEP(words) "<" BAR "tool" LOW words BAR ">"
#define DSML(words) "<" BAR "DSML" BAR words
#define DSML_END(words) "</" BAR "DSML" BAR words ">"

/* Those that say most of themselves come first: where two rows read the same text, the first one
 * counts. */
static const struct tools_row rows[] = {
    {.name = "hermes",
     .kind = TOOLS_JSON,
     .open = "<tool_call>",
     .close = "</tool_call>",
     .arguments = "arguments",
     .tokens = WORDS("<tool_call>", "</tool_call>")},
    {.name = "qwen-coder",
     .kind = TOOLS_TAGGED,
     .before = "<tool_call>",
     .open = "<function=",
     .name_end = ">",
     .key_open = "<parameter=",
     .key_end = ">",
     .value_close = "</parameter>",
     .close = "</function>",
     .after = "</tool_call>",
     .lines = true,
     .each = true,
     .tokens = WORDS("<tool_call>", "</tool_call>")},
    {.name = "seed",
     .kind = TOOLS_TAGGED,
     .before = "<seed:tool_call>",
     .open = "<function=",
     .name_end = ">",
     .key_open = "<parameter=",
     .key_end = ">",
     .value_close = "</parameter>",
     .close = "</function>",
     .after = "</seed:tool_call>",
     .each = true,
     .tokens = WORDS("<seed:tool_call>", "</seed:tool_call>")},
    {.name = "glm",
     .kind = TOOLS_TAGGED,
     .open = "<tool_call>",
     .key_open = "<arg_key>",
     .key_end = "</arg_key>",
     .value_open = "<arg_value>",
     .value_close = "</arg_value>",
     .close = "</tool_call>",
     .tokens = WORDS("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
                     "</arg_value>")},
    {.name = "minimax",
     .kind = TOOLS_TAGGED,
     .before = "<minimax:tool_call>",
     .open = "<invoke name=\"",
     .name_end = "\">",
     .key_open = "<parameter name=\"",
     .key_end = ">",
     .key_joint = "\">",
     .value_close = "</parameter>",
     .close = "</invoke>",
     .after = "</minimax:tool_call>",
     .tokens = WORDS("<minimax:tool_call>", "</minimax:tool_call>")},
    {.name = "deepseek-dsml",
     .kind = TOOLS_TAGGED,
     .before = DSML("function_calls>"),
     .open = DSML("invoke name=\""),
     .name_end = "\">",
     .key_open = DSML("parameter name=\""),
     .key_end = ">",
     .value_close = DSML_END("parameter"),
     .close = DSML_END("invoke"),
     .after = DSML_END("function_calls"),
     .says_type = true,
     .tokens = WORDS(BAR "DSML" BAR)},
    {.name = "gemma",
     .kind = TOOLS_NAMED,
     .open = "<|tool_call>call:",
     .quote = "<|\"|>",
     .close = "<tool_call|>",
     .tokens = WORDS("<|tool_call>", "<tool_call|>", "<|\"|>")},
    {.name = "harmony",
     .kind = TOOLS_NAMED,
     .open = "to=functions.",
     .name_end = "<|message|>",
     .close = "<|call|>",
     .first = "<|channel|>commentary ",
     .name_joint = " <|constrain|>json<|message|>",
     .again = "<|start|>assistant",
     .may_close = true,
     .noise = WORDS("<|end|>", "<|start|>assistant", "<|channel|>commentary<|message|>",
                    "<|channel|>commentary", "<|channel|>final<|message|>"),
     .tokens =
         WORDS("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|end|>")},
    {.name = "deepseek",
     .kind = TOOLS_NAMED,
     .before = DEEP("calls" LOW "begin"),
     .open = DEEP("call" LOW "begin") "function" DEEP("sep"),
     .name_end = "```json",
     .name_joint = "\n```json\n",
     .close = "```" DEEP("call" LOW "end"),
     .after = DEEP("calls" LOW "end"),
     .tokens = WORDS(DEEP("calls" LOW "begin"), DEEP("call" LOW "begin"), DEEP("sep"),
                     DEEP("call" LOW "end"), DEEP("calls" LOW "end"))},
    {.name = "deepseek-3.1",
     .kind = TOOLS_NAMED,
     .before = DEEP("calls" LOW "begin"),
     .open = DEEP("call" LOW "begin"),
     .name_end = DEEP("sep"),
     .close = DEEP("call" LOW "end"),
     .after = DEEP("calls" LOW "end"),
     .tokens = WORDS(DEEP("calls" LOW "begin"), DEEP("call" LOW "begin"), DEEP("sep"),
                     DEEP("call" LOW "end"), DEEP("calls" LOW "end"))},
    {.name = "kimi",
     .kind = TOOLS_NAMED,
     .before = "<|tool_calls_section_begin|>",
     .open = "<|tool_call_begin|>functions.",
     .name_end = "<|tool_call_argument_begin|>",
     .close = "<|tool_call_end|>",
     .after = "<|tool_calls_section_end|>",
     .numbered = true,
     .tokens =
         WORDS("<|tool_calls_section_begin|>", "<|tool_call_begin|>",
               "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>")},
    {.name = "gigachat",
     .kind = TOOLS_JSON,
     .open = "function call<|role_sep|>",
     .first = "<|message_sep|>\n\n",
     .arguments = "arguments",
     .noise = WORDS("<|message_sep|>"),
     .tokens = WORDS("<|message_sep|>", "<|role_sep|>")},
    {.name = "gigachat-3.1",
     .kind = TOOLS_JSON,
     .open = "<|function_call|>",
     .arguments = "arguments",
     .tokens = WORDS("<|function_call|>")},
    {.name = "mistral-list",
     .kind = TOOLS_JSON,
     .open = "[TOOL_CALLS]",
     .arguments = "arguments",
     .list = true,
     .tokens = WORDS("[TOOL_CALLS]")},
    {.name = "mistral",
     .kind = TOOLS_NAMED,
     .open = "[TOOL_CALLS]",
     .name_end = "[ARGS]",
     .tokens = WORDS("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")},
    {.name = "granite",
     .kind = TOOLS_JSON,
     .open = "<|tool_call|>",
     .arguments = "arguments",
     .list = true,
     .tokens = WORDS("<|tool_call|>")},
    {.name = "apriel",
     .kind = TOOLS_JSON,
     .open = "<tool_calls>",
     .close = "</tool_calls>",
     .arguments = "arguments",
     .list = true,
     .tokens = WORDS("<tool_calls>", "</tool_calls>")},
    {.name = "nemotron",
     .kind = TOOLS_JSON,
     .open = "<TOOLCALL>",
     .close = "</TOOLCALL>",
     .arguments = "arguments",
     .list = true,
     .tokens = WORDS("<TOOLCALL>", "</TOOLCALL>")},
    {.name = "function-json",
     .kind = TOOLS_NAMED,
     .open = "<function=",
     .name_end = ">",
     .close = "</function>",
     .tokens = WORDS("<function=")},
    {.name = "json",
     .kind = TOOLS_JSON,
     .before = "<|python_tag|>",
     .arguments = "parameters",
     .list = true,
     .at_start = true,
     .tokens = WORDS("<|python_tag|>")},
};

static const size_t n_rows = sizeof rows / sizeof *rows;

const struct tools_row *tools_row(size_t i) {
    return i < n_rows ? &rows[i] : NULL;
}

const struct tools_row *tools_plain_row(void) {
    return &rows[0];
}

const struct value *tools_function(const struct value *tools, const char *name, size_t bytes) {
    for (size_t i = 0; tools && i < tools->list->n; i++) {
        const struct value *tool = &tools->list->items[i];
        const struct value *f = value_dict_get_text(tool->dict, "function", 8);
        const struct value *n = f ? value_dict_get_text(f->dict, "name", 4) : NULL;
        if (n && n->text->len == bytes && !memcmp(n->text->data, name, bytes)) {
            return f;
        }
    }
    return NULL;
}

/* ---- types ---- */

static unsigned type_of_word(const struct value *word) {
    return value_is_string(word, "string") ? TOOLS_TYPE_STRING
           : value_is_string(word, "null") ? TOOLS_TYPE_NULL
                                           : TOOLS_TYPE_OTHER;
}

unsigned tools_types(const struct value *schema) {
    const struct value *type =
        schema && schema->type == VALUE_DICT ? value_dict_get_text(schema->dict, "type", 4) : NULL;
    unsigned types = 0;
    if (type && type->type == VALUE_STRING) {
        return type_of_word(type);
    }
    for (size_t i = 0; type && type->type == VALUE_LIST && i < type->list->n; i++) {
        types |= type_of_word(&type->list->items[i]);
    }
    return types ? types : TOOLS_TYPE_ANY;
}

static bool is_of(const struct value *word, const struct value *v) {
    bool whole = v->type == VALUE_INT || v->type == VALUE_BIGINT;
    return value_is_string(word, "string")    ? v->type == VALUE_STRING
           : value_is_string(word, "null")    ? v->type == VALUE_NONE
           : value_is_string(word, "boolean") ? v->type == VALUE_BOOL
           : value_is_string(word, "integer") ? whole
           : value_is_string(word, "number")  ? whole || v->type == VALUE_FLOAT
           : value_is_string(word, "array")   ? v->type == VALUE_LIST
           : value_is_string(word, "object")  ? v->type == VALUE_DICT
                                              : true;
}

bool tools_allows(const struct value *schema, const struct value *v) {
    const struct value *type =
        schema && schema->type == VALUE_DICT ? value_dict_get_text(schema->dict, "type", 4) : NULL;
    if (!type || type->type != VALUE_LIST) {
        return !type || is_of(type, v);
    }
    for (size_t i = 0; i < type->list->n; i++) {
        if (is_of(&type->list->items[i], v)) {
            return true;
        }
    }
    return false;
}

/* ---- which row ---- */

/* The first call of a text. */
struct first {
    struct buf name, arguments;
    size_t n_calls;
    bool behind; /* other text */
    bool whole;
};

static void first_text(void *ctx, const char *text, size_t bytes) {
    struct first *f = ctx;
    (void)text;
    f->behind |= bytes > 0 && f->n_calls == 0;
}
static void first_begin(void *ctx, const char *name, size_t bytes) {
    struct first *f = ctx;
    if (f->n_calls++ == 0) {
        buf_append(&f->name, name, bytes);
    }
}
static void first_arguments(void *ctx, const char *json, size_t bytes) {
    struct first *f = ctx;
    if (f->n_calls == 1) {
        buf_append(&f->arguments, json, bytes);
    }
}
static void first_end(void *ctx, bool whole) {
    struct first *f = ctx;
    f->whole = f->n_calls == 1 ? whole : f->whole;
}

/* A list with one definition, of that name: rows that read only what is there need it. */
static int make_tools(struct value_arena *arena, const char *name, struct value *out) {
    struct value function, tool, text;
    return value_make_string(arena, name, strlen(name), &text) ||
                   value_make_dict(arena, &function) || value_make_dict(arena, &tool) ||
                   value_dict_set_text(arena, function.dict, "name", 4, &text) ||
                   value_dict_set_text(arena, tool.dict, "function", 8, &function)
               ? -1
               : value_make_list(arena, VALUE_LIST, &tool, 1, out);
}

static bool reads(const struct tools_row *row, const struct value *tools, const char *text,
                  size_t bytes, const char *name, const struct value *arguments, bool behind,
                  struct value_arena *arena) {
    struct first f = {0};
    struct tools_stream s = {0};
    const struct tools_sink sink = {&f, first_text, first_begin, first_arguments, first_end};
    struct value got;
    struct err err = {0};
    tools_begin(&s, row, tools);
    tools_push(&s, text, bytes, &sink);
    tools_end(&s, &sink);
    bool same = f.n_calls > 0 && f.whole && f.behind <= behind && f.name.len == strlen(name) &&
                !memcmp(f.name.data, name, f.name.len) &&
                value_json_read(arena, f.arguments.data, f.arguments.len, &got, &err) == 0 &&
                value_equal(&got, arguments);
    buf_free(&f.name);
    buf_free(&f.arguments);
    return same;
}

const struct tools_row *tools_find(const char *text, size_t bytes, const char *name,
                                   const struct value *arguments) {
    struct value_arena arena = {.limit_bytes = 4 << 20};
    const struct tools_row *found = NULL;
    struct value tools;
    if (make_tools(&arena, name, &tools) == 0) {
        for (size_t i = 0; !found && i < 2 * n_rows; i++) {
            const struct tools_row *row = &rows[i % n_rows];
            bool behind = i >= n_rows;
            found = reads(row, &tools, text, bytes, name, arguments, behind, &arena) ? row : NULL;
        }
    }
    value_arena_free(&arena);
    return found;
}
