/*
 * number: in a host program whose locale writes 1,5, numbers of the library keep the point:
 * printed, read, in messages, in JSON, in templates.
 */
#include "tests/util/test.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/cli.h"
#include "format/number.h"
#include "format/text/template.h"
#include "format/text/value.h"

static const char comma_locale[] = "LC_NUMERIC\n"
                                   "decimal_point \",\"\n"
                                   "thousands_sep \".\"\n"
                                   "grouping 3;3\n"
                                   "END LC_NUMERIC\n"
                                   "LC_CTYPE\ncopy \"POSIX\"\nEND LC_CTYPE\n"
                                   "LC_COLLATE\ncopy \"POSIX\"\nEND LC_COLLATE\n"
                                   "LC_MONETARY\ncopy \"POSIX\"\nEND LC_MONETARY\n"
                                   "LC_TIME\ncopy \"POSIX\"\nEND LC_TIME\n"
                                   "LC_MESSAGES\ncopy \"POSIX\"\nEND LC_MESSAGES\n";

/* No machine needs to have such a locale: one is made. Exits by skip where the system cannot. */
static void take_comma_locale(void) {
    char command[1024], text[16];
    char *source = test_write(test_dir(), "comma.src", comma_locale, strlen(comma_locale));
    snprintf(command, sizeof command,
             "localedef -c --no-archive -i %s -f ANSI_X3.4-1968 %s/comma >%s/log 2>&1", source,
             test_dir(), test_dir());
    free(source);
    if (system(command) < 0) {
        fail_msg("no shell");
    }
    setenv("LOCPATH", test_dir(), 1);
    if (!setlocale(LC_NUMERIC, "comma")) {
        print_message("no localedef that makes a locale\n");
        skip();
    }
    snprintf(text, sizeof text, "%.1f", 1.5);
    assert_string_equal(text, "1,5");
}

static int back_to_c(void **state) {
    (void)state;
    return setlocale(LC_NUMERIC, "C") ? 0 : -1;
}

static void printed_and_read(void **state) {
    (void)state;
    take_comma_locale();
    char text[64], *end;
    assert_int_equal(number_print(text, sizeof text, "%.2f %g %d", 1234.5, 0.25, 7), 14);
    assert_string_equal(text, "1234.50 0.25 7");
    assert_int_equal(number_print(text, 4, "%.2f", 1.5), 4);
    assert_string_equal(text, "1.5");
    assert_true(number_parse("1.5x", &end) == 1.5 && strcmp(end, "x") == 0);
    assert_true(number_parse("1,5", &end) == 1 && strcmp(end, ",5") == 0);
    assert_true(number_parse_f32("0.1", NULL) == 0.1f);
    assert_true(isinf(number_parse("1e999", NULL)));
    struct err err = {0};
    err_set(&err, "loss of %g %%", 0.5);
    assert_string_equal(err.msg, "loss of 0.5 %");
    struct buf buf = {0};
    buf_printf(&buf, "%.3g", 2.25);
    assert_string_equal(buf.data, "2.25");
    buf_free(&buf);
    struct cli_budget budget;
    uint64_t bytes;
    assert_true(cli_budget_parse("12.5%", &budget, &err) == 0 && budget.percent == 12.5);
    assert_true(cli_size_parse("1.5K", &bytes, &err) == 0 && bytes == 1536);
    assert_string_equal(cli_size_text(text, 1536), "1.5 KiB");
    /* The host program keeps what it chose. */
    snprintf(text, sizeof text, "%.1f", 1.5);
    assert_string_equal(text, "1,5");
}

/* What a template writes of a JSON number, of its own, rounded, and in words. */
static void in_templates(void **state) {
    (void)state;
    take_comma_locale();
    static const char request[] = "{\"x\": 0.75, \"y\": 2.5e-3}";
    static const char source[] = "{{ x }} {{ y + 1.5 }} {{ 2.345 | round(2) }} {{ '0.5' | float }} "
                                 "{{ 1500 | filesizeformat }} {{ x | tojson }}";
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value context;
    struct template *t;
    struct err err = {0};
    char *out = NULL;
    size_t n;
    assert_int_equal(value_json_read(&arena, request, strlen(request), &context, &err), 0);
    assert_int_equal(template_compile(&t, source, strlen(source), &err), 0);
    assert_int_equal(template_render(t, &context, &template_usual_limits, NULL, &out, &n, &err), 0);
    assert_string_equal(out, "0.75 1.5025 2.35 0.5 1.5 kB 0.75");
    free(out);
    template_free(t);
    value_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(printed_and_read, back_to_c),
        cmocka_unit_test_teardown(in_templates, back_to_c),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
