/*
 * Added tokens, special names and chat templates that stand in other files than tokenizer.json: ids
 * as transformers gives them, what is told, and what is refused.
 */
#include "format/text/chat_book.h"
#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/util/test.h"

/* 280 tokens, of which <|endoftext|> (0) and <|user|> (1) are added; "nd" is 264. */
#define BASE "tests/golden/models/qwen3moe-tiny/tokenizer.json"
#define START "<|im_start|>"
#define END "<|im_end|>"

struct files {
    const char *more; /* in additional_chat_templates */
    const char *config, *added, *map, *jinja, *chat;
    uint32_t rows;
};

static uint8_t *base;
static size_t base_bytes;

static int set_up(void **state) {
    struct err err = {0};
    (void)state;
    file_read(BASE, 1 << 20, &base, &base_bytes, &err);
    assert_no_err(&err);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(base);
    return 0;
}

static struct hf_text text_of(const char *name, const char *text) {
    return (struct hf_text){name, text, text ? strlen(text) : 0};
}

static int compile_all(const struct files *f, struct buf *section, struct buf *book,
                       struct buf *remarks, struct err *err) {
    const struct hf_text more = text_of("more", f->more);
    struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", (const char *)base, base_bytes},
        .config = text_of("tokenizer_config.json", f->config),
        .added_tokens = text_of("added_tokens.json", f->added),
        .special_map = text_of("special_tokens_map.json", f->map),
        .chat_template = text_of("chat_template.jinja", f->jinja),
        .chat_json = text_of("chat_template.json", f->chat),
        .rows = f->rows,
        .templates = &more,
        .n_templates = f->more != NULL,
        .book = book,
        .remarks = remarks,
    };
    return hf_tokenizer_compile(&files, section, err);
}

static int compile(const struct files *f, struct buf *section, struct buf *remarks,
                   struct err *err) {
    return compile_all(f, section, NULL, remarks, err);
}

#define TOKEN(text, more) "{\"content\":\"" text "\"" more "}"
#define DECODER(rows) "\"added_tokens_decoder\":{" rows "}"
#define PLAIN ",\"special\":true"
#define STRIP PLAIN ",\"lstrip\":true,\"rstrip\":true"

/* transformers 5.24, AutoTokenizer, of " Hi<|user|> and <|im_start|> x <|im_end|> y<|im_end|>z". */
#define FRONT 222, 41, 74, 1, 267, 222
#define PIECES_START 29, 93, 74, 78, 64, 84, 85, 66, 83, 85, 93, 31
#define PIECES_END 29, 93, 74, 78, 64, 70, 264, 93, 31

static void ids_of_transformers(void **state) {
    (void)state;
    static const char text[] = " Hi<|user|> and " START " x " END " y" END "z";
    static const struct {
        struct files files;
        int eos; /* its id */
        const char *told;
        uint32_t ids[48]; /* ends with 0 */
    } rows[] = {
        {{.config = "{}"},
         -1,
         NULL,
         {FRONT, PIECES_START, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        {{.config = "{" DECODER("\"281\":" TOKEN(END, PLAIN) ",\"280\":" TOKEN(START, PLAIN)) "}"},
         -1,
         NULL,
         {FRONT, 280, 222, 89, 222, 281, 222, 90, 281, 91}},
        {{.added = "{\"" START "\":280,\"" END "\":281}"},
         -1,
         NULL,
         {FRONT, 280, 222, 89, 222, 281, 222, 90, 281, 91}},
        /* flags of the decoder count, also for tokens that tokenizer.json has */
        {{.config = "{" DECODER("\"280\":" TOKEN(START, STRIP) ",\"281\":" TOKEN(END, PLAIN)) "}"},
         -1,
         NULL,
         {222, 41, 74, 1, 267, 280, 89, 222, 281, 222, 90, 281, 91}},
        {{.config = "{" DECODER("\"1\":" TOKEN("<|user|>", STRIP) ",\"280\":" TOKEN(
              START, PLAIN) ",\"281\":" TOKEN(END, PLAIN)) "}"},
         -1,
         NULL,
         {222, 41, 74, 1, 66, 264, 222, 280, 222, 89, 222, 281, 222, 90, 281, 91}},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, "") ",\"281\":" TOKEN(
              END, PLAIN ",\"single_word\":true")) "}"},
         -1,
         NULL,
         {FRONT, 280, 222, 89, 222, 281, 222, 90, PIECES_END, 91}},
        /* a token of the model's vocabulary becomes an added one */
        {{.config = "{" DECODER("\"264\":" TOKEN("nd", PLAIN) ",\"280\":" TOKEN(START, PLAIN)) "}"},
         -1,
         NULL,
         {222, 41, 74, 1, 260, 264, 222, 280, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        /* names alone: ids in the order of names, bos_token first, lists last */
        {{.config = "{\"additional_special_tokens\":[\"" START "\",\"" END
                    "\"],\"eos_token\":\"" END "\"}"},
         280,
         "tokenizer_config.json: additional_special_tokens[0]: '" START
         "' is in no vocabulary: it gets the next free id, 281",
         {FRONT, 281, 222, 89, 222, 280, 222, 90, 280, 91}},
        {{.config = "{\"extra_special_tokens\":{\"b\":\"" END "\"},\"image_token\":\"" START "\"}"},
         -1,
         "image_token: '" START "' is in no vocabulary",
         {FRONT, 280, 222, 89, 222, 281, 222, 90, 281, 91}},
        {{.config = "{\"eos_token\":" TOKEN(
              END, ",\"__type\":\"AddedToken\"") ",\"bos_token\":" TOKEN(START, "") "}"},
         281,
         NULL,
         {FRONT, 280, 222, 89, 222, 281, 222, 90, 281, 91}},
        {{.config = "{\"pad_token\":\"Hi\",\"extra_special_tokens\":[\"nd\"]}"},
         -1,
         NULL,
         {222, 280, 1, 260, 264, 222, PIECES_START, 222, 89, 222, PIECES_END, 222, 90, PIECES_END,
          91}},
        {{.map = "{\"pad_token\":" TOKEN(
              END, ",\"lstrip\":true") ",\"additional_special_tokens\":[\"" START "\"]}"},
         -1,
         NULL,
         {222, 41, 74, 1, 267, 222, 281, 222, 89, 280, 222, 90, 280, 91}},
        /* which file counts */
        {{.config = "{\"eos_token\":\"A\"}", .map = "{\"eos_token\":\"B\"}"},
         35,
         "special_tokens_map.json: eos_token: 'B' counts; tokenizer_config.json has 'A'",
         {FRONT, PIECES_START, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        {{.config = "{\"eos_token\":\"A\"," DECODER("\"0\":" TOKEN("<|endoftext|>", PLAIN)) "}",
          .map = "{\"eos_token\":\"B\"}"},
         34,
         "special_tokens_map.json: eos_token: 'B' does not count; tokenizer_config.json has 'A'",
         {FRONT, PIECES_START, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, PLAIN)) "}", .added = "{\"" END "\":281}"},
         -1,
         "added_tokens.json: does not count where tokenizer_config.json has added_tokens_decoder",
         {FRONT, 280, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, PLAIN)) "}",
          .map = "{\"pad_token\":\"nd\"}"},
         -1,
         NULL,
         {FRONT, 280, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        /* names without rows in the model */
        {{.config = "{\"eos_token\":\"" END "\",\"pad_token\":\"" START "\"}", .rows = 281},
         280,
         "pad_token: '" START "' is in no vocabulary, and the model has no row for it: left out",
         {FRONT, PIECES_START, 222, 89, 222, 280, 222, 90, 280, 91}},
        {{.config = "{\"eos_token\":\"" END "\"}", .rows = 280},
         -1,
         "eos_token: '" END "' is in no vocabulary, and the model has no row",
         {FRONT, PIECES_START, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
        /* ids without rows, in the list that gives them */
        {{.config = "{" DECODER("\"280\":" TOKEN(START, PLAIN) ",\"281\":" TOKEN(END, PLAIN)) "}",
          .rows = 281},
         -1,
         "added_tokens_decoder.281: '" END "': the model has 281 rows, none for it: left out",
         {FRONT, 280, 222, 89, 222, PIECES_END, 222, 90, PIECES_END, 91}},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf section = {0}, remarks = {0};
        struct err err = {0};
        struct tokenizer *tok;
        struct token_list ids = {0};
        compile(&rows[i].files, &section, &remarks, &err);
        assert_no_err(&err);
        tokenizer_open(section.data, section.len, &tok, &err);
        tokenizer_encode(tok, text, sizeof text - 1, TOKENIZER_PARSE_SPECIAL, &ids, &err);
        assert_no_err(&err);
        size_t n = 0;
        while (rows[i].ids[n]) {
            n++;
        }
        if (ids.n != n || memcmp(ids.ids, rows[i].ids, n * sizeof *ids.ids) != 0) {
            fail_msg("row %zu: other ids", i);
        }
        assert_int_equal((int)tokenizer_eos(tok), rows[i].eos);
        if (rows[i].told && !strstr(remarks.data, rows[i].told)) {
            fail_msg("row %zu: \"%s\" does not tell: %s", i, remarks.data, rows[i].told);
        }
        token_list_free(&ids);
        tokenizer_close(tok);
        buf_free(&remarks);
        buf_free(&section);
    }
}

/* A name in special_tokens_map.json alone: as BOS, and beside an added_tokens_decoder. */
static void names_of_the_map(void **state) {
    (void)state;
    static const struct files rows[] = {
        {.config = "{\"add_bos_token\":true}", .map = "{\"bos_token\":\"<|endoftext|>\"}"},
        {.config = "{\"add_bos_token\":true," DECODER("\"280\":" TOKEN(START, PLAIN)) "}",
         .map = "{\"bos_token\":" TOKEN("<|endoftext|>", "") "}"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf section = {0};
        struct err err = {0};
        struct tokenizer *tok;
        compile(&rows[i], &section, NULL, &err);
        assert_no_err(&err);
        tokenizer_open(section.data, section.len, &tok, &err);
        assert_int_equal(tokenizer_bos(tok), 0);
        assert_true(tokenizer_adds_bos(tok));
        tokenizer_close(tok);
        buf_free(&section);
    }
}

/* Added tokens of tokenizer.json itself without a row: left out with a remark, also where another
 * file has them again; later ones count on from them, and what needs one is refused. */
static void added_tokens_without_rows_are_left_out(void **state) {
    (void)state;
    const char more[] = ",{\"id\":280,\"content\":\"" START "\",\"single_word\":false,"
                        "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}"
                        ",{\"id\":281,\"content\":\"" END "\",\"single_word\":false,"
                        "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}";
    struct buf json = {0}, section = {0}, remarks = {0};
    struct err err = {0};
    struct tokenizer *tok;
    char *list = memmem(base, base_bytes, "\"added_tokens\":", 15);
    assert_non_null(list);
    char *end = memchr(list, ']', base_bytes - (size_t)(list - (char *)base));
    buf_append(&json, base, (size_t)(end - (char *)base));
    buf_append(&json, more, sizeof more - 1);
    buf_append(&json, end, base_bytes - (size_t)(end - (char *)base));
    uint8_t *own = base;
    const size_t own_bytes = base_bytes;
    base = (uint8_t *)json.data;
    base_bytes = json.len;
    const struct files files = {.config = "{\"pad_token\":\"<new>\"," DECODER("\"280\":" TOKEN(
                                    START, PLAIN) ",\"281\":" TOKEN(END, PLAIN)) "}",
                                .rows = 281};
    compile(&files, &section, &remarks, &err);
    assert_no_err(&err);
    buf_append(&remarks, "", 1);
    assert_non_null(strstr(remarks.data, "added_tokens[3]: '" END "': the model has 281 rows, none "
                                         "for it: left out"));
    assert_non_null(strstr(remarks.data, "'<new>' is in no vocabulary, and the model has no row"));
    assert_null(strstr(remarks.data, "added_tokens_decoder"));
    assert_int_equal(tokenizer_open(section.data, section.len, &tok, &err), 0);
    assert_int_equal(tokenizer_vocab_size(tok), 281);
    assert_int_equal(tokenizer_find(tok, START, sizeof START - 1), 280);
    assert_int_equal(tokenizer_find(tok, END, sizeof END - 1), TOKEN_NONE);
    tokenizer_close(tok);
    section.len = 0;
    const struct files bos = {.config = "{\"bos_token\":\"" END "\",\"add_bos_token\":true}",
                              .rows = 281};
    assert_int_equal(compile(&bos, &section, NULL, &err), -1);
    assert_err(&err, "add_bos_token", "the token to add is missing");
    base = own;
    base_bytes = own_bytes;
    buf_free(&json);
    buf_free(&section);
    buf_free(&remarks);
}

/* A list of `n` times "x". */
static char *many(const char *before, size_t n, bool keys, const char *after) {
    struct buf text = {0};
    buf_printf(&text, "%s", before);
    for (size_t i = 0; i < n; i++) {
        buf_printf(&text, keys ? "%s\"x%zu\":\"y\"" : "%s\"x%zu\"", i ? "," : "", i);
    }
    buf_printf(&text, "%s", after);
    return text.data;
}

/* More than an archive's section of conversations holds is told by the file that has it. */
static void too_many(void **state) {
    (void)state;
    const struct {
        char *config;
        const char *say, *say_too;
    } rows[] = {
        {many("{\"chat_control_tokens\":[", 1025, false, "]}"),
         "tokenizer_config.json: chat_control_tokens", "more than 1024 tokens"},
        {many("{\"chat_template\":{", 1025, true, "}}"),
         "tokenizer_config.json: chat_template.x1024", "more than 1024 chat templates"},
        {many("{\"chat_template\":{", 1024, true, "}}"), NULL, NULL},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct files files = {.config = rows[i].config};
        struct buf section = {0};
        struct err err = {0};
        assert_int_equal(compile(&files, &section, NULL, &err), rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, rows[i].say, rows[i].say_too);
        }
        free(rows[i].config);
        buf_free(&section);
    }
}

/* What tokens of several files do together is blamed on no single one. */
static void files_together(void **state) {
    (void)state;
    struct buf json = {0}, section = {0};
    struct err err = {0};
    const char lower[] = "\"normalizer\":{\"type\":\"Lowercase\"}", none[] = "\"normalizer\":null";
    char *own = memmem(base, base_bytes, none, sizeof none - 1);
    assert_non_null(own);
    char *behind = own + sizeof none - 1;
    buf_append(&json, base, (size_t)(own - (char *)base));
    buf_append(&json, lower, sizeof lower - 1);
    buf_append(&json, behind, base_bytes - (size_t)(behind - (char *)base));
    uint8_t *whole = base;
    const size_t whole_bytes = base_bytes;
    base = (uint8_t *)json.data;
    base_bytes = json.len;
    const struct files files = {.added = "{\"<AB>\":280,\"<ab>\":281}"};
    assert_int_equal(compile(&files, &section, NULL, &err), -1);
    assert_err(&err, "tokenizer.json and the files beside it: ", "looked for as '<ab>'");
    base = whole;
    base_bytes = whole_bytes;
    buf_free(&json);
    buf_free(&section);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        struct files files;
        const char *say, *say_too;
    } rows[] = {
        {{.config = "{" DECODER("\"7\":" TOKEN("<|user|>", PLAIN)) "}"},
         "tokenizer_config.json: added_tokens_decoder.7: token '<|user|>' has id 7 here",
         "id 1 in tokenizer.json"},
        {{.config = "{" DECODER("\"5\":" TOKEN("nd", PLAIN)) "}"},
         "tokenizer_config.json: added_tokens_decoder.5: token 'nd' has id 5 here",
         "id 264 in tokenizer.json"},
        {{.added = "{\"<|user|>\":2}"},
         "added_tokens.json: <|user|>: token '<|user|>' has id 2 here",
         "id 1 in tokenizer.json"},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, PLAIN)) "}",
          .added = "{\"" START "\":281}"},
         "added_tokens.json: <|im_start|>: token '<|im_start|>' has id 281 here",
         "id 280 in tokenizer_config.json"},
        {{.config = "{\"bos_token\":3}"}, "tokenizer_config.json: bos_token", "expected a string"},
        {{.map = "{\"bos_token\":{\"text\":\"<s>\"}}"},
         "special_tokens_map.json: bos_token",
         "with content"},
        {{.added = "{\"" START "\":1}"}, "added_tokens.json", "has id 1, which another one has"},
        {{.added = "{\"" START "\":285}"},
         "token '<|im_start|>' has id 285",
         "its place behind those of tokenizer.json is 280"},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, PLAIN) ",\"282\":" TOKEN(END, PLAIN)) "}"},
         "token '<|im_end|>' has id 282",
         "is 281"},
        {{.config = "{" DECODER("\"x\":" TOKEN(START, PLAIN)) "}"},
         "added_tokens_decoder.x",
         "expected an id"},
        {{.config = "{" DECODER("\"280\":\"" START "\"") "}"},
         "added_tokens_decoder.280",
         "expected an object"},
        {{.config = "{" DECODER("\"280\":" TOKEN("", PLAIN)) "}"},
         "added_tokens_decoder.280",
         "without text"},
        {{.config = "{" DECODER("\"280\":{\"special\":true}") "}"},
         "added_tokens_decoder.280.content",
         "expected a string"},
        {{.config = "{" DECODER("\"280\":" TOKEN(START, ",\"lstrip\":1")) "}"},
         "added_tokens_decoder.280.lstrip",
         "true or false"},
        {{.config = "{\"added_tokens_decoder\":[]}"}, "added_tokens_decoder", "expected an object"},
        {{.added = "{\"" START "\":\"280\"}"}, "added_tokens.json: <|im_start|>", "expected an id"},
        {{.added = "[]"}, "added_tokens.json", "object"},
        {{.map = "{"}, "special_tokens_map.json", "not valid JSON"},
        {{.config = "{\"extra_special_tokens\":3}"}, "extra_special_tokens", "expected a list"},
        {{.config = "{\"extra_special_tokens\":[3]}"}, "extra_special_tokens[0]", "object"},
        {{.chat = "{\"chat_template\":3}"},
         "chat_template.json: chat_template",
         "expected a string"},
        {{.chat = "{}"}, "chat_template.json: chat_template", "expected a string"},
        {{.config = "{\"a\\n\\u001b_token\":\"<|user|>\"}"},
         "tokenizer_config.json: a??_token",
         "without control characters"},
        {{.map = "{\"a\\u009b_token\":\"<|user|>\"}"},
         "special_tokens_map.json: a??_token",
         "without control characters"},
        {{.config = "{\"a2345678901234567890123456789012345678901234567890123456789_token\":\"<|"
                    "user|>\"}"},
         "789_token",
         "at most 63 bytes"},
        {{.config = "{\"chat_control_tokens\":\"a\"}"}, "chat_control_tokens", "a list of strings"},
        {{.config = "{\"chat_control_tokens\":[1]}"}, "chat_control_tokens", "a list of strings"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf section = {0};
        struct err err = {0};
        assert_int_equal(compile(&rows[i].files, &section, NULL, &err), -1);
        assert_err(&err, rows[i].say, rows[i].say_too);
        buf_free(&section);
    }
}

/* The entries of a section of conversations, "name=text" or "!text" each. */
static char *entries_of(const struct buf *section) {
    struct chat_book book;
    struct err err = {0};
    struct buf text = {0};
    buf_append(&text, "", 0);
    assert_int_equal(chat_book_open(&book, section->data, section->len, &err), 0);
    for (size_t i = 0; i < book.n; i++) {
        const struct chat_entry *e = &book.entries[i];
        buf_printf(&text, "%s%.*s%s%.*s", i ? " " : "", (int)e->name_bytes, e->name,
                   e->kind == CHAT_ENTRY_TEMPLATE ? "="
                   : e->kind == CHAT_ENTRY_TOKEN  ? ":"
                                                  : "!",
                   (int)e->bytes, e->text);
    }
    chat_book_close(&book);
    return text.data;
}

static void chat_templates(void **state) {
    (void)state;
    static const struct {
        struct files files;
        const char *template, *entries, *told;
    } rows[] = {
        {{.config = "{\"chat_template\":\"c\"}", .jinja = "j", .chat = "{\"chat_template\":\"p\"}"},
         "j",
         ""},
        {{.config = "{\"chat_template\":\"c\"}", .chat = "{\"chat_template\":\"p\"}"}, "c", ""},
        {{.config = "{\"chat_template\":null}", .chat = "{\"chat_template\":\"p\"}"}, "p", ""},
        {{.chat = "{\"chat_template\":\"p\"}"}, "p", ""},
        {{.config = "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"},"
                    "{\"name\":\"default\",\"template\":\"d\"},{\"name\":\"tool_use\","
                    "\"template\":\"t\"},{\"name\":\"rag\",\"template\":\"R\"}]}"},
         "d",
         "rag=R tool_use=t"},
        {{.config = "{\"chat_template\":{\"default\":\"d\",\"rag\":\"r\"}}"}, "d", "rag=r"},
        {{.config = "{\"chat_template\":{\"rag\":\"r\"}}"}, NULL, "rag=r"},
        /* What no archive can hold is left out, by the name of its place. */
        {{.config = "{\"chat_template\":{\"\":\"r\",\"a\\nb\":\"r\"}}"},
         NULL,
         "",
         "tokenizer_config.json: chat_template.a?b: a chat template is left out: expected a name"},
        {{.chat = "{\"chat_template\":[{\"name\":\"a\\u009b\",\"template\":\"r\"}]}"},
         NULL,
         "",
         "chat_template.json: chat_template[0]: a chat template is left out: expected a name"},
        /* Files of their own come before all that the configuration has. */
        {{.config = "{\"chat_template\":{\"default\":\"d\",\"rag\":\"r\"}}", .more = "m"},
         NULL,
         "more=m"},
        {{.jinja = "j", .more = "m"}, "j", "more=m"},
        {{.more = "\xff"},
         NULL,
         "",
         "additional_chat_templates/more.jinja: a chat template is left out: byte 0 is not"},
        {{.config = "{\"chat_control_tokens\":[\"<a>\",\"<b>\"]}"}, NULL, "!<a> !<b>"},
        {{.config = "{\"chat_control_tokens\":[]}"}, NULL, "!"},
        {{.config = "{\"bos_token\":\"" START "\",\"pad_token\":\"" START
                    "\",\"image_token\":{\"content\":\"" START "\"}}"},
         NULL,
         "pad_token:" START " image_token:" START},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf section = {0}, remarks = {0}, book = {0};
        struct err err = {0};
        struct tokenizer *tok;
        size_t bytes = 0;
        compile_all(&rows[i].files, &section, &book, &remarks, &err);
        assert_no_err(&err);
        tokenizer_open(section.data, section.len, &tok, &err);
        const char *text = tokenizer_chat_template(tok, &bytes);
        if (rows[i].template) {
            assert_int_equal(bytes, strlen(rows[i].template));
            assert_memory_equal(text, rows[i].template, bytes);
        } else {
            assert_null(text);
        }
        char *entries = entries_of(&book);
        assert_string_equal(entries, rows[i].entries);
        assert_int_equal(book.len > 0, rows[i].entries[0] != 0);
        if (rows[i].told) {
            assert_non_null(strstr(remarks.data, rows[i].told));
        }
        free(entries);
        tokenizer_close(tok);
        buf_free(&remarks);
        buf_free(&section);
        buf_free(&book);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_transformers),
        cmocka_unit_test(names_of_the_map),
        cmocka_unit_test(added_tokens_without_rows_are_left_out),
        cmocka_unit_test(refusals),
        cmocka_unit_test(too_many),
        cmocka_unit_test(files_together),
        cmocka_unit_test(chat_templates),
    };
    return cmocka_run_group_tests_name("hf_tokenizer_added", tests, set_up, tear_down);
}
