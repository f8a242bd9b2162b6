/*
 * The template interpreter beside jinja2.
 *
 * tests/golden/templates.json holds templates that use one feature each, with what jinja2 made of
 * them as transformers sets it up (tests/golden/make_templates.py). What is ours alone is in tables
 * here: messages with places, limits, values and their text.
 *
 * With the argument `serve` the program is no test but renders: each line of its input is a JSON
 * object with `template` and either `context` or `request`, which chat prepares; each line of its
 * output one with `text` or `error`. tests/golden/templates.py compares published templates so.
 */
#include "tests/util/test.h"

#include <time.h>

#include "format/text/chat.h"
#include "format/text/template.h"

static const struct template_limits limits = {64 << 20, 20000000, 400};

/* Renders `text`; the result is a string to free, or NULL and `err`. */
static char *render(const char *text, size_t len, const struct value *context, const struct tm *now,
                    size_t *out_len, struct err *err) {
    struct template *t;
    char *out = NULL;
    if (template_compile(&t, text, len, err)) {
        return NULL;
    }
    template_render(t, context, &limits, now, &out, out_len, err);
    template_free(t);
    return out;
}

/* 2024-07-26, a Friday, 09:08:07: what make_templates.py tells jinja2 too. */
static struct tm fixed_now(void) {
    struct tm now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_hour = 9, .tm_min = 8};
    now.tm_sec = 7;
    now.tm_wday = 5;
    now.tm_yday = 207;
    return now;
}

/* ---- serving ------------------------------------------------------------------------------- */

static void answer(const char *line, size_t len, struct buf *out) {
    struct value_arena arena = {.limit_bytes = 256 << 20};
    struct value request, reply, text;
    struct err err = {0};
    struct tm now = fixed_now();
    size_t n = 0;
    char *rendered = NULL;
    if (!value_json_read(&arena, line, len, &request, &err)) {
        const struct value *t = value_dict_get_text(request.dict, "template", 8);
        const struct value *context = value_dict_get_text(request.dict, "context", 7);
        struct value prepared;
        if (!context) { /* a conversation as chat takes it */
            chat_context(&arena, value_dict_get_text(request.dict, "request", 7), NULL, NULL,
                         &prepared, &err);
            context = &prepared;
        }
        rendered = render(t->text->data, t->text->len, context, &now, &n, &err);
    }
    value_make_dict(&arena, &reply);
    value_make_string(&arena, rendered ? rendered : err.msg, rendered ? n : strlen(err.msg), &text);
    value_dict_set_text(&arena, reply.dict, rendered ? "text" : "error", rendered ? 4 : 5, &text);
    struct value_writer w = {.out = out, .max_bytes = SIZE_MAX};
    struct value_json_style style = {.ascii = true};
    value_json_write(&w, &reply, &style, NULL);
    free(rendered);
    value_arena_free(&arena);
}

static int serve(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    while ((len = getline(&line, &cap, stdin)) > 0) {
        struct buf out = {0};
        answer(line, (size_t)len, &out);
        puts(out.data);
        fflush(stdout);
        buf_free(&out);
    }
    free(line);
    return 0;
}

/* ---- what jinja2 made of it ----------------------------------------------------------------- */

static const struct value *field(const struct value *v, const char *key) {
    return value_dict_get_text(v->dict, key, strlen(key));
}

static void renders_as_jinja2(void **state) {
    struct value_arena arena = {.limit_bytes = 64 << 20};
    struct err err = {0};
    struct value golden;
    uint8_t *file;
    size_t n, failed = 0;
    struct tm now = fixed_now();
    (void)state;
    assert_int_equal(file_read("tests/golden/templates.json", 1 << 22, &file, &n, &err), 0);
    assert_int_equal(value_json_read(&arena, (char *)file, n, &golden, &err), 0);
    const struct value *cases = field(&golden, "cases");
    assert_true(cases->list->n > 200);
    for (size_t i = 0; i < cases->list->n; i++) {
        const struct value *c = &cases->list->items[i], *t = field(c, "template");
        const struct value *context = field(c, "context"), *text = field(c, "text");
        size_t len = 0;
        struct err why = {0};
        char *out = render(t->text->data, t->text->len,
                           context ? context : field(&golden, "context"), &now, &len, &why);
        bool same = text ? out && len == text->text->len && !memcmp(out, text->text->data, len)
                         : !out && !strncmp(why.msg, "line ", 5);
        if (!same) {
            failed++;
            print_error("template: %s\nexpected: %s\nrendered: %s\n", t->text->data,
                        text ? text->text->data : "an error", out ? out : why.msg);
        }
        free(out);
    }
    free(file);
    value_arena_free(&arena);
    assert_int_equal(failed, 0);
}

/* ---- messages ------------------------------------------------------------------------------ */

static void errors_tell_the_place(void **state) {
    static const struct {
        const char *template, *message;
    } cases[] = {
        {"a\n{{ x.y.z }}", "line 2, column 8: there is no attribute or element 'y'"},
        {"é {{ nix.x }}", "line 1, column 10: 'nix' is undefined"},
        {"\r\n\r\n  {{ 1 / 0 }}", "line 3, column 8: a division by zero"},
        {"{% if x %}\n\n", "line 2, column 1: expected {% endif %} (here the template ends)"},
        {"{{ x|nix }}", "line 1, column 6: no filter or test 'nix' is known"},
        {"{{ x is nix }}", "line 1, column 9: no filter or test 'nix' is known"},
        {"{% if true %}{{ x|nix }}{% endif %}", "line 1, column 19: no filter 'nix' is known"},
        {"{% block x %}{% endblock %}", "line 1, column 4: no tag 'block' is known here"},
        {"{{ raise_exception('No ' ~ 'tools') }}", "the template refuses: No tools"},
        {"{{ strftime_now('%Y') }}", "asks for the time, which is not given"},
        {"{{ [1].append(2) }}", "attribute 'append' is refused"},
        {"{{ x|sort(nix=1) }}", "filter 'sort' takes no argument 'nix'"},
        {"{{ x|join(1, 2, 3) }}", "filter 'join' takes 2 arguments at most, not 3"},
        {"{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits"},
        {"{{ ('%d' % 1)(2) }}", "a value of type str cannot be called"},
        {"{{ x|map('upper') }}", "a value of type generator has no text"},
        {"\xff", "byte 0 of the template is not UTF-8"},
    };
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value context;
    (void)state;
    assert_int_equal(value_json_read(&arena, "{\"x\": [\"a\"]}", 12, &context, NULL), 0);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct err err = {0};
        size_t len;
        char *out =
            render(cases[i].template, strlen(cases[i].template), &context, NULL, &len, &err);
        assert_null(out);
        assert_err(&err, cases[i].message);
    }
    value_arena_free(&arena);
}

/* ---- limits -------------------------------------------------------------------------------- */

/* Templates that would take all there is, or all the time, end at the caller's limits. */
static void limits_are_kept(void **state) {
    static const struct {
        const char *template, *message;
    } cases[] = {
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep"},
        {"{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}", "deep"},
        {"{{ 'x' * 100000000 }}", "bytes"},
        {"{{ [0] * 100000000 }}", "bytes"},
        {"{{ '%10000d' % 1 }}{{ '%10001d' % 1 }}", "a width of more than 10000"},
        {"{{ 'x'.ljust(100000000) }}", "bytes"},
        {"{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}"
         "{% endfor %}",
         "bytes"},
        {"{% set ns = namespace(a=[]) %}{% for i in range(999) %}{% set ns.a = [ns.a] %}{% endfor "
         "%}",
         "nested more than 200 deep"},
        {"{% set ns = namespace(a=[1]) %}{% for i in range(999) %}{% set ns.a = ns.a|map('int') %}"
         "{% endfor %}",
         "iterators"},
        {"{% for i in range(99999) %}{{ 'abcdefgh' * 9999 }}{% endfor %}", "bytes"},
        {"{% set ns = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
         "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
         "steps"},
        {"{% set ns = namespace(a=()) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}"
         "{% endfor %}{{ {ns.a: 1} }}",
         "steps"},
        {"{% set ns = namespace(a=()) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}"
         "{% endfor %}{{ ns.a }}",
         "longer than"},
        {"{{ ('a' * 1000000).rfind('a' * 500000 ~ 'b') }}", "steps"},
        {"{{ ('a' * 1000000).strip('b' * 1000000) }}", "steps"},
        {"{{ 'a' * 1000000 is in ['b'] }}{% for i in range(99999) %}{{ 'b' in 'a' * 100000 }}"
         "{% endfor %}",
         "bytes"},
    };
    static const struct template_limits small = {4 << 20, 200000, 100};
    struct value none = {.type = VALUE_NONE};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct template *t;
        struct err err = {0};
        char *out;
        size_t len;
        assert_int_equal(template_compile(&t, cases[i].template, strlen(cases[i].template), &err),
                         0);
        assert_int_equal(template_render(t, &none, &small, NULL, &out, &len, &err), -1);
        assert_null(out);
        assert_err(&err, cases[i].message);
        template_free(t);
    }
}

static void nesting_of_text_is_bounded(void **state) {
    static const char *const parts[] = {"(",  "[",  "{1:",        "not ", "-",
                                        "a(", "a[", "{% if a %}", "a+"};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(parts); i++) {
        struct buf text = {0};
        struct template *t = NULL;
        struct err err = {0};
        if (parts[i][0] != '{' || parts[i][1] != '%') {
            buf_append(&text, "{{ ", 3);
        }
        for (int k = 0; k < 20000; k++) {
            buf_append(&text, parts[i], strlen(parts[i]));
        }
        buf_append(&text, "a }}", 4);
        assert_int_equal(template_compile(&t, text.data, text.len, &err), -1);
        assert_err(&err, "line 1, column ");
        buf_free(&text);
    }
}

/* Python's bound for reading an integer is 4300 digits. */
static void integers_of_many_digits(void **state) {
    (void)state;
    for (size_t n = 4299; n <= 4301; n++) {
        char text[4400], *out;
        struct value none = {.type = VALUE_NONE};
        struct err err = {0};
        size_t len = 0;
        snprintf(text, sizeof text, "{{ %0*d }}", (int)n, 0);
        memset(text + 3, '7', n);
        out = render(text, strlen(text), &none, NULL, &len, &err);
        if (n > 4300) {
            assert_null(out);
            assert_err(&err, "line 1, column 4: an integer of more than 4300 digits");
        } else {
            assert_no_err(&err);
            assert_int_equal(len, n);
            assert_memory_equal(out, text + 3, n);
        }
        free(out);
    }
}

/* ---- values -------------------------------------------------------------------------------- */

static void json_is_read_and_written(void **state) {
    static const struct {
        const char *in, *out; /* out: NULL the same, or the error */
    } cases[] = {
        {"{\"b\": 1, \"a\": [1.5, -0.0, null, true, false, \"x\"], \"c\": {}}", NULL},
        {"123456789012345678901234567890", NULL},
        {"[-9223372036854775808, 9223372036854775807, -9223372036854775809]", NULL},
        {"[0.1, 1e+16, 1e-05, 123456.789, 5e-324, 1.7976931348623157e+308]", NULL},
        {" { \"a\" : 1 , \"b\" : 2 , \"a\" : 3 } ", "{\"a\": 3, \"b\": 2}"},
        {"\"\\ud83d\\ude00\\ud83d \\ude00\\u00e9\\u0000\\/\"",
         "\"\U0001F600\uFFFD \uFFFD\u00e9\\u0000/\""},
        {"\"\\ud83d\\u0041\"", "\"\uFFFDA\""},
        {"[1e400, -1E400, 1.0E2]", "[Infinity, -Infinity, 100.0]"},
        {"", "line 1, column 1: expected a value, found the end"},
        {"[1,]", "line 1, column 4: not a JSON value"},
        {"[1 2]", "line 1, column 4: expected ',' or ']' in a list"},
        {"{\"a\" 1}", "line 1, column 6: expected ':' behind a key"},
        {"{\n a: 1}", "line 2, column 2: expected a key"},
        {"\"a\nb\"", "line 1, column 3: a control character"},
        {"\"abc", "the string has no end"},
        {"\"\\x\"", "not an escape"},
        {"01", "not a JSON value"},
        {"1.", "nothing behind its point"},
        {"NaN", "not a JSON value"},
        {"1 2", "expected the end"},
        {"\"\xff\"", "not UTF-8"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct value_arena arena = {.limit_bytes = 1 << 20};
        struct err err = {0};
        struct value v;
        struct buf out = {0};
        struct value_writer w = {.out = &out, .max_bytes = 4096};
        struct value_json_style style = {0};
        if (value_json_read(&arena, cases[i].in, strlen(cases[i].in), &v, &err)) {
            assert_err(&err, cases[i].out);
        } else {
            assert_int_equal(value_json_write(&w, &v, &style, &err), 0);
            assert_string_equal(out.data, cases[i].out ? cases[i].out : cases[i].in);
        }
        buf_free(&out);
        value_arena_free(&arena);
    }
}

static void memory_of_values_is_bounded(void **state) {
    struct buf text = {0};
    (void)state;
    for (int i = 0; i < 20000; i++) {
        buf_printf(&text, "%s{\"k%d\": \"%d\"}", i ? ", " : "[", i, i);
    }
    buf_append(&text, "]", 1);
    for (size_t limit = 1 << 12; limit <= 1 << 24; limit *= 4) {
        struct value_arena arena = {.limit_bytes = limit};
        struct err err = {0};
        struct value v;
        int rc = value_json_read(&arena, text.data, text.len, &v, &err);
        assert_true(arena.used_bytes <= limit);
        assert_int_equal(rc, limit > 1 << 22 ? 0 : -1);
        if (rc) {
            assert_err(&err, "memory allowed");
        }
        value_arena_free(&arena);
    }
    buf_free(&text);
}

/* A large dict finds its keys by hash as a small one does by looking. */
static void dicts_find_keys(void **state) {
    struct value_arena arena = {.limit_bytes = 1 << 22};
    struct value dict, key;
    char text[16];
    (void)state;
    assert_int_equal(value_make_dict(&arena, &dict), 0);
    for (int i = 0; i < 1000; i++) {
        struct value v = value_int(i);
        snprintf(text, sizeof text, "k%d", i % 500);
        assert_int_equal(value_dict_set_text(&arena, dict.dict, text, strlen(text), &v), 0);
        assert_int_equal(value_dict_set(&arena, dict.dict, &v, &v), 0);
    }
    assert_int_equal(dict.dict->n, 1500);
    for (int i = 0; i < 500; i++) {
        snprintf(text, sizeof text, "k%d", i);
        assert_int_equal(field(&dict, text)->integer, i + 500);
        key = value_float(i); /* equals the integer, so it is the same key */
        assert_int_equal(value_dict_get(dict.dict, &key)->integer, i);
    }
    assert_null(field(&dict, "k500"));
    value_arena_free(&arena);
}

/* ---- conversations -------------------------------------------------------------------------- */

static void conversations_are_prepared(void **state) {
    static const struct {
        const char *request, *context; /* or the error */
    } cases[] = {
        {"[]", "{\"messages\": [], \"tools\": null, \"documents\": null, "
               "\"add_generation_prompt\": false}"},
        {"{\"tools\": [1], \"messages\": [{\"role\": \"assistant\", \"content\": null, "
         "\"reasoning\": \"r\", \"x\": 1}], \"bos_token\": \"B\"}",
         "{\"messages\": [{\"thinking\": \"r\", \"role\": \"assistant\", \"reasoning\": \"r\", "
         "\"x\": 1, \"reasoning_content\": \"r\"}], \"tools\": [1], \"documents\": null, "
         "\"add_generation_prompt\": false, \"bos_token\": \"B\"}"},
        {"[{\"thinking\": \"t\", \"reasoning_content\": \"c\"}]",
         "{\"messages\": [{\"thinking\": \"t\", \"reasoning_content\": \"c\"}], \"tools\": null, "
         "\"documents\": null, \"add_generation_prompt\": false}"},
        {"{\"messages\": null}", "expected a list of messages"},
        {"3", "expected a list of messages"},
        {"[{}, []]", "messages[1]: expected an object"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct value_arena arena = {.limit_bytes = 1 << 20};
        struct err err = {0};
        struct value request, context;
        struct buf out = {0};
        struct value_writer w = {.out = &out, .max_bytes = 4096};
        struct value_json_style style = {0};
        assert_int_equal(
            value_json_read(&arena, cases[i].request, strlen(cases[i].request), &request, &err), 0);
        if (chat_context(&arena, &request, NULL, NULL, &context, &err)) {
            assert_err(&err, cases[i].context);
        } else {
            assert_int_equal(value_json_write(&w, &context, &style, &err), 0);
            assert_string_equal(out.data, cases[i].context);
        }
        buf_free(&out);
        value_arena_free(&arena);
    }
}

static void templates_are_tried(void **state) {
    static const char good[] =
        "{% for m in messages %}{{ m.content + strftime_now('%Y') }}{% endfor %}";
    static const char bad[] = "{{ messages[0].content.text.x }}";
    struct err err = {0};
    (void)state;
    assert_int_equal(chat_try(good, sizeof good - 1, NULL, NULL, false, &err), 0);
    assert_int_equal(chat_try(bad, sizeof bad - 1, NULL, NULL, true, &err), -1);
    assert_err(&err, "line 1, column 29: there is no attribute or element 'text'");
}

int main(int argc, char **argv) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_as_jinja2),
        cmocka_unit_test(errors_tell_the_place),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(nesting_of_text_is_bounded),
        cmocka_unit_test(integers_of_many_digits),
        cmocka_unit_test(json_is_read_and_written),
        cmocka_unit_test(dicts_find_keys),
        cmocka_unit_test(memory_of_values_is_bounded),
        cmocka_unit_test(conversations_are_prepared),
        cmocka_unit_test(templates_are_tried),
    };
    return argc == 2 && !strcmp(argv[1], "serve") ? serve()
                                                  : cmocka_run_group_tests(tests, NULL, NULL);
}
