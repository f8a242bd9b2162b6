/*
 * Conversations: what templates are given, and whose the tokens are.
 *
 * tests/golden/chat.json holds conversations with control tokens in them and the ids that
 * transformers makes of them (tests/golden/make_chat.py).
 */
#include "tests/util/test.h"

#include <time.h>

#include "format/text/chat.h"
#include "tests/util/test_util_tokenizer.h"

static const struct value *field(const struct value *v, const char *key) {
    return value_dict_get_text(v->dict, key, strlen(key));
}

/* Renders a request; the result is to be freed. -1 and `err`. */
static int rendered_within(struct value_arena *arena, const struct value *request, const char *text,
                           const struct tokenizer *tok, const struct chat_book *book,
                           uint64_t memory_bytes, struct chat_rendered *out, struct err *err) {
    struct template *t;
    *out = (struct chat_rendered){0};
    assert_int_equal(template_compile(&t, text, strlen(text), err), 0);
    int rc = chat_render(arena, request, tok, t, book, &template_usual_limits, memory_bytes, NULL,
                         true, out, err);
    template_free(t);
    return rc;
}

static int rendered(struct value_arena *arena, const struct value *request, const char *text,
                    const struct tokenizer *tok, const struct chat_book *book,
                    struct chat_rendered *out, struct err *err) {
    return rendered_within(arena, request, text, tok, book, 0, out, err);
}

static bool same_ids(const struct token_list *got, const struct value *want) {
    bool same = want && got->n == want->list->n;
    for (size_t i = 0; same && i < got->n; i++) {
        same = want->list->items[i].integer == (int64_t)got->ids[i];
    }
    return same;
}

static void control_tokens_are_text_as_in_transformers(void **state) {
    struct value_arena arena = {.limit_bytes = 64 << 20};
    struct err err = {0};
    struct value golden;
    uint8_t *file;
    size_t n, failed = 0;
    char *style = NULL;
    struct loaded l = {0};
    (void)state;
    assert_int_equal(file_read("tests/golden/chat.json", 1 << 22, &file, &n, &err), 0);
    assert_int_equal(value_json_read(&arena, (char *)file, n, &golden, &err), 0);
    const struct value *cases = field(&golden, "cases");
    assert_true(cases->list->n > 200);
    for (size_t i = 0; i < cases->list->n; i++) {
        const struct value *c = &cases->list->items[i], *ids = field(c, "ids");
        const char *name = field(c, "style")->text->data;
        struct chat_rendered out;
        struct err why = {0};
        if (!style || strcmp(style, name) != 0) {
            loaded_close(&l);
            free(style);
            style = mem_strdup(name);
            loaded_style(style, &l);
        }
        int rc = rendered(&arena, field(c, "request"), field(c, "template")->text->data, l.tok,
                          NULL, &out, &why);
        if (ids ? rc || !same_ids(&out.ids, ids) : !rc || !strstr(why.msg, "cannot be said")) {
            failed++;
            print_error("case %zu, %s: %s\ngot:", i, name, rc ? why.msg : out.text);
            for (size_t k = 0; k < out.ids.n; k++) {
                print_error(" %u", out.ids.ids[k]);
            }
            print_error("\n");
        }
        free(out.text);
        token_list_free(&out.ids);
    }
    loaded_close(&l);
    free(style);
    free(file);
    value_arena_free(&arena);
    assert_int_equal(failed, 0);
}

/* The ids of one message in the gpt2 style's tokenizer, which has "<|endoftext|>". */
static struct token_list ids_of(const struct tokenizer *tok, const char *message,
                                const struct chat_book *book) {
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request;
    struct chat_rendered out;
    struct err err = {0};
    char *json = mem_printf("[{\"role\": \"user\", \"content\": \"%s\"}]", message);
    assert_int_equal(value_json_read(&arena, json, strlen(json), &request, &err), 0);
    assert_int_equal(rendered(&arena, &request, "{{ messages[0].content }}", tok, book, &out, &err),
                     0);
    free(out.text);
    free(json);
    value_arena_free(&arena);
    return out.ids;
}

static bool has_added(const struct tokenizer *tok, const struct token_list *ids) {
    uint32_t added;
    for (size_t i = 0; i < ids->n; i++) {
        for (uint32_t k = 0; (added = tokenizer_added(tok, k, NULL)) != TOKEN_NONE; k++) {
            if (ids->ids[i] == added) {
                return true;
            }
        }
    }
    return false;
}

/* Ids of one message by a template that is given, whose `said` is that text, or an object that has
 * it as a key. */
static struct token_list ids_by(const struct tokenizer *tok, const char *template,
                                const struct value_string *said, bool as_key) {
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value text, message, dict, list;
    const struct value one = value_int(1);
    struct chat_rendered out;
    struct err err = {0};
    assert_int_equal(value_make_string(&arena, said->data, said->len, &text), 0);
    assert_int_equal(value_make_dict(&arena, &dict), 0);
    assert_int_equal(value_dict_set(&arena, dict.dict, &text, &one), 0);
    assert_int_equal(value_make_dict(&arena, &message), 0);
    value_dict_set_text(&arena, message.dict, "said", 4, as_key ? &dict : &text);
    assert_int_equal(value_make_list(&arena, VALUE_LIST, &message, 1, &list), 0);
    assert_int_equal(rendered(&arena, &list, template, tok, NULL, &out, &err), 0);
    assert_no_err(&err);
    free(out.text);
    value_arena_free(&arena);
    return out.ids;
}

/* A key is text as much as a value is: to the same ids. And so is what Python's text of an object,
 * or JSON in ASCII, makes of either. */
static void keys_and_printed_objects_are_text(void **state) {
    static const char *const printed[] = {
        "{{ messages[0].said }}", "{{ messages[0].said | tojson(ensure_ascii=True) }}",
        "{{ [messages[0].said] }}", "{{ '%r' % messages[0].said }}"};
    struct value_arena arena = {.limit_bytes = 64 << 20};
    struct err err = {0};
    struct value golden;
    uint8_t *file;
    size_t n, tried = 0;
    const char *style = "";
    (void)state;
    assert_int_equal(file_read("tests/golden/chat.json", 1 << 22, &file, &n, &err), 0);
    assert_int_equal(value_json_read(&arena, (char *)file, n, &golden, &err), 0);
    const struct value *cases = field(&golden, "cases");
    for (size_t i = 0; i < cases->list->n; i++) {
        const struct value *c = &cases->list->items[i];
        const struct value *messages = field(field(c, "request"), "messages");
        const struct value_string *said = field(&messages->list->items[0], "content")->text;
        if (strcmp(style, field(c, "style")->text->data) == 0 || !field(c, "ids") ||
            !strchr(said->data, '<')) {
            continue;
        }
        struct loaded l;
        style = field(c, "style")->text->data;
        loaded_style(style, &l);
        struct token_list value = ids_by(l.tok, "{{ messages[0].said }}", said, false);
        struct token_list key =
            ids_by(l.tok, "{% for k in messages[0].said %}{{ k }}{% endfor %}", said, true);
        assert_int_equal(key.n, value.n);
        assert_memory_equal(key.ids, value.ids, key.n * sizeof *key.ids);
        token_list_free(&key);
        for (size_t k = 0; k < 2 * TEST_COUNT(printed); k++) {
            struct token_list ids = ids_by(l.tok, printed[k / 2], said, k % 2);
            if (has_added(l.tok, &ids) && !has_added(l.tok, &value)) {
                fail_msg("%s: %s of %s has a control token", style, printed[k / 2], said->data);
            }
            token_list_free(&ids);
        }
        tried += !has_added(l.tok, &value);
        token_list_free(&value);
        loaded_close(&l);
    }
    free(file);
    value_arena_free(&arena);
    assert_true(tried >= 5);
}

/* A key that templates look for stays what it is, also where a control token is a word. */
static void names_of_keys_stay(void **state) {
    struct loaded l;
    struct err err = {0};
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request;
    struct chat_rendered out;
    static const char text[] = "[{\"content\": \"x\", \"a<|endoftext|>\": 1}]";
    (void)state;
    json_t *json = loaded_style_json("gpt2");
    json_object_set_new(json_array_get(json_object_get(json, "added_tokens"), 0), "content",
                        json_string("content"));
    char *source = json_dumps(json, 0);
    loaded_compile(source, strlen(source), NULL, &l);
    assert_int_equal(value_json_read(&arena, text, strlen(text), &request, &err), 0);
    assert_int_equal(
        rendered(&arena, &request, "{{ messages[0].content }}content", l.tok, NULL, &out, &err), 0);
    assert_string_equal(out.text, "xcontent");
    free(out.text);
    token_list_free(&out.ids);
    value_arena_free(&arena);
    loaded_close(&l);
    free(source);
    json_decref(json);
}

/* Of the tokens that are not special those count that the template has, or those of a list. */
static void a_list_says_what_controls(void **state) {
    struct chat_book book, none = {0};
    struct buf section = {0};
    struct err err = {0};
    struct loaded l;
    (void)state;
    chat_book_add(&section, CHAT_ENTRY_CONTROL, "", 0, "<tool>", 6);
    assert_int_equal(chat_book_open(&book, section.data, section.len, &err), 0);
    json_t *json = loaded_style_json("gpt2");
    json_t *tokens = json_object_get(json, "added_tokens");
    json_t *tool = json_deep_copy(json_array_get(tokens, 0));
    json_object_set_new(tool, "id",
                        json_integer(json_integer_value(json_object_get(tool, "id")) + 1));
    json_object_set_new(tool, "content", json_string("<tool>"));
    json_object_set_new(tool, "special", json_false());
    json_array_append_new(tokens, tool);
    char *text = json_dumps(json, 0);
    loaded_compile(text, strlen(text), NULL, &l);
    struct token_list ids = ids_of(l.tok, "a <tool>", &book);
    assert_false(has_added(l.tok, &ids));
    token_list_free(&ids);
    ids = ids_of(l.tok, "a <tool>", &none);
    assert_true(has_added(l.tok, &ids));
    token_list_free(&ids);
    ids = ids_of(l.tok, "a <|endoftext|>", &none); /* special ones always */
    assert_false(has_added(l.tok, &ids));
    token_list_free(&ids);
    loaded_close(&l);
    chat_book_close(&book);
    buf_free(&section);
    free(text);
    json_decref(json);
}

static void arguments_become_objects(void **state) {
    static const struct {
        const char *request, *want;
    } cases[] = {
        {"[{\"tool_calls\": [{\"id\": 1, \"function\": {\"arguments\": \"{\\\"z\\\": 1, "
         "\\\"a\\\": [2]}\", \"name\": \"f\"}}]}]",
         "[{\"tool_calls\": [{\"id\": 1, \"function\": {\"arguments\": {\"z\": 1, \"a\": [2]}, "
         "\"name\": \"f\"}}]}]"},
        {"{\"messages\": [{\"tool_calls\": [{\"arguments\": \"\"}]}], \"tools\": null}",
         "{\"messages\": [{\"tool_calls\": [{\"arguments\": {}}]}], \"tools\": null}"},
        {"[{\"tool_calls\": [{\"arguments\": \"[1]\"}, {\"arguments\": \"{\"}, 7]}, 8]",
         "[{\"tool_calls\": [{\"arguments\": \"[1]\"}, {\"arguments\": \"{\"}, 7]}, 8]"},
        {"{\"messages\": 7}", "{\"messages\": 7}"},
        {"7", "7"},
        {"null", "null"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct value_arena arena = {.limit_bytes = 1 << 20};
        struct value request, parsed;
        struct buf text = {0};
        struct value_writer w = {.out = &text, .max_bytes = SIZE_MAX};
        const struct value_json_style style = {0};
        assert_int_equal(
            value_json_read(&arena, cases[i].request, strlen(cases[i].request), &request, NULL), 0);
        assert_int_equal(chat_parse_calls(&arena, &request, &parsed), 0);
        assert_int_equal(value_json_write(&w, &parsed, &style, NULL), 0);
        assert_string_equal(text.data, cases[i].want);
        buf_free(&text);
        value_arena_free(&arena);
    }
}

/* A word that cannot be cut in two is encoded within the memory that there is for that. */
static void encoding_is_bounded(void **state) {
    enum { WORD = 1 << 20 };
    struct value_arena arena = {.limit_bytes = 16 << 20};
    struct chat_rendered out;
    struct value request;
    struct err err = {0};
    struct loaded l;
    (void)state;
    loaded_style("mixtral", &l);
    char *word = mem_calloc(WORD + 1, 1);
    memset(word, 'l', WORD);
    char *json = mem_printf("[{\"role\": \"user\", \"content\": \"%s\"}]", word);
    assert_int_equal(value_json_read(&arena, json, strlen(json), &request, &err), 0);
    const char *template = "{{ messages[0].content }}";
    assert_int_equal(
        rendered_within(&arena, &request, template, l.tok, NULL, TOKEN_ENCODER_BYTES, &out, &err),
        -1);
    assert_err(&err, "KiB of text");
    free(out.text);
    token_list_free(&out.ids);
    err = (struct err){0};
    assert_int_equal(rendered(&arena, &request, template, l.tok, NULL, &out, &err), 0);
    assert_true(out.ids.n > 0);
    free(out.text);
    token_list_free(&out.ids);
    free(json);
    free(word);
    value_arena_free(&arena);
    loaded_close(&l);
}

/* The ends of a talk's first n messages, for n = 1, 2, ...; 0 messages end the list. */
static void check_ends(const char *text, const uint32_t *want, size_t n_want) {
    static const char json[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"be\"}, "
        "{\"role\": \"user\", \"content\": \"one <|endoftext|>\"}, "
        "{\"role\": \"assistant\", \"content\": \"two\", \"reasoning_content\": \"why\"}, "
        "{\"role\": \"user\", \"content\": \"three\"}], \"add_generation_prompt\": true}";
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request;
    struct chat_end ends[6];
    struct chat_rendered out = {.ends = ends, .n_ends = n_want};
    struct template *t;
    struct loaded l;
    struct err err = {0};
    loaded_style("gpt2", &l);
    for (uint32_t i = 0; i < n_want; i++) {
        ends[i].messages = i;
    }
    assert_int_equal(value_json_read(&arena, json, strlen(json), &request, &err), 0);
    assert_int_equal(template_compile(&t, text, strlen(text), &err), 0);
    assert_int_equal(chat_render(&arena, &request, l.tok, t, NULL, &template_usual_limits, 0, NULL,
                                 true, &out, &err),
                     0);
    for (size_t i = 0; i < n_want; i++) {
        /* As many control tokens are in front of an end as `want` says. */
        uint32_t controls = 0;
        for (uint32_t k = 0; k < ends[i].n_tok; k++) {
            controls += out.ids.ids[k] == tokenizer_added(l.tok, 0, NULL);
        }
        assert_int_equal(controls, want[i]);
        assert_true(controls == 0 ||
                    out.ids.ids[ends[i].n_tok - 1] == tokenizer_added(l.tok, 0, NULL));
    }
    free(out.text);
    token_list_free(&out.ids);
    template_free(t);
    loaded_close(&l);
    value_arena_free(&arena);
}

static void ends_of_messages_are_found(void **state) {
    (void)state;
    static const char each[] = "{% for m in messages %}{{ m.role + ':' + m.content }}"
                               "<|endoftext|>{% endfor %}";
    static const char last[] = "{% for m in messages %}{{ m.role + ':' + m.content }}"
                               "{% if loop.last %}{{ m.reasoning_content }}{% endif %}"
                               "<|endoftext|>{% endfor %}"
                               "{% if add_generation_prompt %}assistant:{% endif %}";
    check_ends(each, (const uint32_t[]){0, 1, 2, 3, 4, 0}, 6);
    /* The third message alone has what the whole leaves out. */
    check_ends(last, (const uint32_t[]){0, 1, 2, 0, 4, 0}, 6);
    /* One that wants a question tells where the system's message ends all the same. */
    char *asks = mem_printf("{%% if messages[-1].role == 'system' %%}{{ raise_exception('no') }}"
                            "{%% endif %%}%s<|endoftext|>",
                            "{% for m in messages %}<|endoftext|>{{ m.content }}{% endfor %}");
    check_ends(asks, (const uint32_t[]){0, 2, 3, 4, 5, 0}, 6);
    free(asks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_tokens_are_text_as_in_transformers),
        cmocka_unit_test(keys_and_printed_objects_are_text),
        cmocka_unit_test(names_of_keys_stay),
        cmocka_unit_test(ends_of_messages_are_found),
        cmocka_unit_test(a_list_says_what_controls),
        cmocka_unit_test(arguments_become_objects),
        cmocka_unit_test(encoding_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
