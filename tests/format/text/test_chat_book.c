/*
 * The section of conversations: what is written is read, all else is refused in one line.
 */
#include "tests/util/test.h"

#include "format/text/chat.h"

static void add(struct buf *b, enum chat_entry_kind kind, const char *name, const char *text) {
    chat_book_add(b, kind, name, strlen(name), text, strlen(text));
}

static struct buf sample(void) {
    struct buf b = {0};
    add(&b, CHAT_ENTRY_TEMPLATE, "tool_use", "tools");
    add(&b, CHAT_ENTRY_TOKEN, "pad_token", "<pad>");
    add(&b, CHAT_ENTRY_CONTROL, "", "<|end|>");
    add(&b, CHAT_ENTRY_TEMPLATE, "pad_token", "another kind");
    return b;
}

static void entries_are_read(void **state) {
    struct buf b = sample();
    struct chat_book book;
    struct err err = {0};
    (void)state;
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), 0);
    assert_int_equal(book.n, 4);
    const struct chat_entry *e = chat_book_find(&book, CHAT_ENTRY_TOKEN, "pad_token", 9);
    assert_non_null(e);
    assert_int_equal(e->bytes, 5);
    assert_memory_equal(e->text, "<pad>", 5);
    assert_null(chat_book_find(&book, CHAT_ENTRY_TOKEN, "tool_use", 8));
    chat_book_close(&book);
    assert_int_equal(chat_book_open(&book, NULL, 0, &err), 0);
    assert_int_equal(book.n, 0);
    chat_book_close(&book);
    buf_free(&b);
}

/* A section that is cut short anywhere, or longer, is refused. */
static void no_length_but_its_own(void **state) {
    struct buf b = sample();
    struct chat_book book;
    (void)state;
    for (size_t n = 1; n < b.len; n++) {
        struct err err = {0};
        assert_int_equal(chat_book_open(&book, b.data, n, &err), -1);
        assert_int_equal(strncmp(err.msg, "conversations: ", 15), 0);
    }
    struct err err = {0};
    buf_append(&b, "", 1);
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), -1);
    assert_non_null(strstr(err.msg, "1 bytes after the last entry"));
    buf_free(&b);
}

static void bad_entries(void **state) {
    static const struct {
        enum chat_entry_kind kind;
        const char *name, *text, *say;
    } rows[] = {
        {CHAT_ENTRY_TEMPLATE, "", "x", "the name of entry 1"},
        {CHAT_ENTRY_TEMPLATE, "a\nb", "x", "the name of entry 1"},
        {CHAT_ENTRY_TOKEN, "\xff", "x", "the name of entry 1"},
        {CHAT_ENTRY_TOKEN, "a2345678901234567890123456789012345678901234567890123456789012345", "x",
         "expected 1 to 64 bytes"},
        {CHAT_ENTRY_CONTROL, "name", "x", "expected none"},
        {CHAT_ENTRY_TOKEN, "a", "\xff", "byte 0 is not UTF-8"},
        {CHAT_ENTRY_TOKEN, "twice", "x", "'twice' is given twice"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf b = {0};
        struct chat_book book;
        struct err err = {0};
        add(&b, CHAT_ENTRY_TOKEN, "twice", "y");
        add(&b, rows[i].kind, rows[i].name, rows[i].text);
        assert_int_equal(chat_book_open(&book, b.data, b.len, &err), -1);
        assert_err(&err, "conversations: ", rows[i].say);
        buf_free(&b);
    }
    struct buf b = {0};
    struct chat_book book;
    struct err err = {0};
    add(&b, (enum chat_entry_kind)9, "later", "\xff"); /* of a later program */
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), 0);
    assert_int_equal(book.n, 0);
    chat_book_close(&book);
    memset(b.data, 0xff, 4);
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), -1);
    assert_non_null(strstr(err.msg, "at most 4096"));
    buf_free(&b);
}

/* Which template counts, by the request; NULL: none. */
static const char *chosen(const struct chat_book *book, const char *json, const char *usual,
                          char text[32]) {
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request;
    struct err err = {0};
    size_t len = usual ? strlen(usual) : 0;
    assert_int_equal(value_json_read(&arena, json, strlen(json), &request, &err), 0);
    int rc = chat_book_choose(book, &request, &usual, &len, &err);
    snprintf(text, 32, "%.*s", rc ? 31 : (int)len, rc ? err.msg : usual);
    value_arena_free(&arena);
    return text;
}

static void tools_take_their_template(void **state) {
    struct buf b = sample();
    struct chat_book book, none = {0};
    struct err err = {0};
    char text[32];
    (void)state;
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), 0);
    assert_string_equal(chosen(&book, "{\"tools\": [1]}", "usual", text), "tools");
    assert_string_equal(chosen(&book, "{\"tools\": []}", NULL, text), "tools");
    assert_string_equal(chosen(&book, "{\"tools\": null}", "usual", text), "usual");
    assert_string_equal(chosen(&book, "[]", "usual", text), "usual");
    assert_string_equal(chosen(&none, "{\"tools\": [1]}", "usual", text), "usual");
    assert_string_equal(chosen(&none, "[]", NULL, text), "holds no chat template");
    assert_string_equal(chosen(&book, "[]", NULL, text), "holds no default chat template,");
    chat_book_close(&book);
    buf_free(&b);
}

/* A template sees the names of special tokens, but for those that the request gives. */
static void names_reach_templates(void **state) {
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request, context;
    struct buf b = sample();
    struct chat_book book;
    struct err err = {0};
    (void)state;
    assert_int_equal(chat_book_open(&book, b.data, b.len, &err), 0);
    for (int own = 0; own < 2; own++) {
        const char *json = own ? "{\"messages\": [], \"pad_token\": \"mine\"}" : "[]";
        assert_int_equal(value_json_read(&arena, json, strlen(json), &request, &err), 0);
        assert_int_equal(chat_context(&arena, &request, NULL, &book, &context, &err), 0);
        assert_true(value_is_string(value_dict_get_text(context.dict, "pad_token", 9),
                                    own ? "mine" : "<pad>"));
    }
    value_arena_free(&arena);
    chat_book_close(&book);
    buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_read),      cmocka_unit_test(no_length_but_its_own),
        cmocka_unit_test(bad_entries),           cmocka_unit_test(tools_take_their_template),
        cmocka_unit_test(names_reach_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
