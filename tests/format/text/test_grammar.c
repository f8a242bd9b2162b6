/*
 * Grammars as texts (GBNF): what they allow, what is refused, and where.
 *
 * With the argument `serve` the program is no test: each line of its input is a JSON object with
 * `grammar` or `schema` (and `lenient`, `compact`), and perhaps `texts`, `walks`, `seed`, `ids`;
 * each line of its output is one with `error`, or with `has`, a list of true and false for the
 * texts, `walks`, texts that were drawn by masks, `remarks`, and for `ids` the `masks` before each.
 * tests/golden/grammars.py asks so.
 */
#include "tests/util/test_util_grammar.h"

/* ---- serving ------------------------------------------------------------------------------- */

static const struct value *get(const struct value *v, const char *key) {
    return value_dict_get_text(v->dict, key, strlen(key));
}

static void set(struct value_arena *arena, struct value *v, const char *key,
                const struct value *to) {
    assert_int_equal(value_dict_set_text(arena, v->dict, key, strlen(key), to), 0);
}

/* A text by masks: any allowed token, with little left the ones that end it. */
static void draw(struct grammar_masks *m, const struct grammar_vocab *v, const char *const *words,
                 struct test_rng *r, struct buf *out) {
    struct grammar_state *s = grammar_state_new(m);
    uint64_t mask[64];
    uint32_t ids[4096];
    size_t left = grammar_shortest(s) + 150, n_words = 0;
    while (words[n_words]) {
        n_words++;
    }
    out->len = 0;
    buf_append(out, "", 0);
    while (!grammar_is_over(s) && left > 0) {
        struct err err = {0};
        size_t n = 0;
        grammar_mask(s, left--, mask, &err);
        assert_no_err(&err);
        for (uint32_t id = 0; id < 64 * grammar_mask_words(v); id++) {
            if (mask_has(mask, id)) {
                ids[n++] = id;
            }
        }
        /* Of many, one that is no single byte half of the time. */
        uint32_t id = ids[test_u64(r) % n];
        if (id < 256 && test_u64(r) % 2) {
            id = ids[n - 1 - test_u64(r) % (n < 40 ? n : 40)];
        }
        if (id < 256) {
            buf_append(out, &(char){(char)id}, 1);
        } else if (id - 256 < n_words) {
            buf_append(out, words[id - 256], strlen(words[id - 256]));
        }
        grammar_accept(s, id, &err);
        assert_no_err(&err);
    }
    grammar_state_free(s);
}

static const char *const serve_words[] = {
    "{\"", "\":", "\": ", "\",",  ", \"",     "\"}",  "[",
    "]",   "the", " a",   "true", "false",    "null", "12",
    "-1",  "0.5", "ab",   "name", "\xe4\xb8", "\xad", "\xf0\x9f\x98\x80",
    NULL};

/* The allowed ids in front of each of the ids, and behind the last: a list of lists. */
static void put_masks(struct value_arena *arena, struct grammar_masks *m,
                      const struct grammar_vocab *v, const struct value_list *ids,
                      struct value *out) {
    struct grammar_state *s = grammar_state_new(m);
    struct value *lists = mem_calloc(ids->n + 1, sizeof *lists), allowed[512];
    size_t n_lists = 0;
    for (size_t i = 0; i <= ids->n; i++) {
        uint64_t mask[8] = {0};
        struct err err = {0};
        size_t n = 0;
        grammar_mask(s, 0, mask, &err);
        for (uint32_t id = 0; id < 64 * grammar_mask_words(v); id++) {
            if (mask_has(mask, id)) {
                allowed[n++] = value_int(id);
            }
        }
        value_make_list(arena, VALUE_LIST, allowed, n, &lists[n_lists++]);
        if (i == ids->n || grammar_accept(s, (uint32_t)ids->items[i].integer, &err) < 0) {
            break;
        }
    }
    value_make_list(arena, VALUE_LIST, lists, n_lists, out);
    grammar_state_free(s);
    free(lists);
}

static void answer(const char *line, size_t len, struct buf *out) {
    struct value_arena arena = {.limit_bytes = 256 << 20};
    struct value request, reply, v;
    struct err err = {0};
    struct grammar *g = NULL;
    struct buf remarks = {0}, text = {0};
    assert_int_equal(value_json_read(&arena, line, len, &request, &err), 0);
    const struct value *schema = get(&request, "schema"), *walks = get(&request, "walks");
    const struct value *texts = get(&request, "texts"), *seed = get(&request, "seed");
    unsigned flags = (get(&request, "lenient") ? GRAMMAR_LENIENT : 0) |
                     (get(&request, "compact") ? GRAMMAR_COMPACT : 0);
    value_make_dict(&arena, &reply);
    if (schema) {
        grammar_json(&g, schema, flags, &remarks, &err);
    } else {
        const struct value_string *s = get(&request, "grammar")->text;
        grammar_parse(&g, s->data, s->len, &err);
    }
    if (!g) {
        value_make_string(&arena, err.msg, strlen(err.msg), &v);
        set(&arena, &reply, "error", &v);
    } else {
        struct grammar_vocab *vocab = grammar_byte_vocab(serve_words);
        struct grammar_masks *m;
        struct value items[1000];
        size_t n = texts ? texts->list->n : 0;
        assert_int_equal(grammar_masks_open(&m, g, vocab, 0, &err), 0);
        for (size_t i = 0; i < n && i < 1000; i++) {
            const struct value_string *s = texts->list->items[i].text;
            struct grammar_state *state = grammar_state_new(m);
            struct err ignored = {0};
            bool has = grammar_accept_text(state, s->data, s->len, &ignored) == 0;
            items[i] = value_bool(has && grammar_may_end(state));
            grammar_state_free(state);
        }
        value_make_list(&arena, VALUE_LIST, items, n, &v);
        set(&arena, &reply, "has", &v);
        n = walks ? (size_t)walks->integer : 0;
        struct test_rng r = {seed ? (uint64_t)seed->integer : 1};
        for (size_t i = 0; i < n && i < 1000; i++) {
            draw(m, vocab, serve_words, &r, &text);
            value_make_string(&arena, text.data, text.len, &items[i]);
        }
        value_make_list(&arena, VALUE_LIST, items, n, &v);
        set(&arena, &reply, "walks", &v);
        if (get(&request, "ids")) {
            put_masks(&arena, m, vocab, get(&request, "ids")->list, &v);
            set(&arena, &reply, "masks", &v);
        }
        value_make_string(&arena, remarks.len ? remarks.data : "", remarks.len, &v);
        set(&arena, &reply, "remarks", &v);
        grammar_masks_close(m);
        grammar_vocab_free(vocab);
    }
    struct value_writer w = {.out = out, .max_bytes = 64 << 20};
    struct value_json_style style = {0};
    assert_int_equal(value_json_write(&w, &reply, &style, &err), 0);
    grammar_free(g);
    buf_free(&remarks);
    buf_free(&text);
    value_arena_free(&arena);
}

static int serve(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        struct buf out = {0};
        answer(line, (size_t)n - (line[n - 1] == '\n'), &out);
        printf("%s\n", out.data);
        fflush(stdout);
        buf_free(&out);
    }
    free(line);
    return 0;
}

/* ---- tables -------------------------------------------------------------------------------- */

struct row {
    const char *grammar;
    const char *has[8], *not [8];
};

static const struct row rows[] = {
    {"root ::= \"a\"", {"a"}, {"", "b", "aa"}},
    {"root ::= \"a\" | \"b\"\n", {"a", "b"}, {"", "ab"}},
    {"root ::= \"a\"*", {"", "a", "aaaa"}, {"b"}},
    {"root ::= \"a\"+", {"a", "aaaa"}, {""}},
    {"root ::= \"a\"?", {"", "a"}, {"aa"}},
    {"root ::= \"a\"{2}", {"aa"}, {"", "a", "aaa"}},
    {"root ::= \"a\"{2,}", {"aa", "aaa", "aaaaaaaa"}, {"", "a"}},
    {"root ::= \"a\"{0,2} \"b\"", {"b", "ab", "aab"}, {"", "aa", "aaab"}},
    {"root ::= (\"a\" \"b\"?){2,3}", {"aa", "abab", "aab", "aaa"}, {"", "a", "ab", "aaaa"}},
    {"root ::= (\"a\"{2}){2,3}", {"aaaa", "aaaaaa"}, {"aa", "aaaaa", "aaaaaaaa"}},
    {"root ::= (\"a\"?){3} \"b\"", {"b", "ab", "aaab"}, {"aaaab", ""}},
    {"root ::= (\"a\"*)* \"b\"", {"b", "aaab"}, {"a"}},
    {"root ::= (\"a\"*){2,5} \"b\"", {"b", "aaaaaaaaab"}, {"a"}},
    {"root ::= (\"a\"* \"b\"*){3,1000000}", {"", "aab", "abababab"}, {"c"}},
    {"root ::= [a-c]", {"a", "b", "c"}, {"d", "", "-"}},
    {"root ::= [^a-c\\n]",
     {"d", "\xc3\xa9", "\xf0\x9f\x98\x80"},
     {"a", "\n", "\xc3", "\xed\xa0\x80"}},
    {"root ::= [a-]", {"a", "-"}, {"b"}},
    {"root ::= [\\]\\x41\\u00e9\\U0001F600]", {"]", "A", "\xc3\xa9", "\xf0\x9f\x98\x80"}, {"a"}},
    {"root ::= [\xd0\xb0-\xd1\x8f]+",
     {"\xd0\xb0\xd0\xbf", "\xd1\x80\xd1\x8f"},
     {"a", "\xd1\x90", "\xd0"}},
    {"root ::= [\\u0800-\\uffff]",
     {"\xe0\xa0\x80", "\xef\xbf\xbf", "\xe4\xb8\xad", "\xed\x9f\xbf"},
     {"\xdf\xbf", "\xf0\x90\x80\x80", "\xed\xa0\x80", "\xe0\x9f\xbf"}},
    {"root ::= .", {"a", "\n", "\xe4\xb8\xad"}, {"", "ab", "\xf4\x90\x80\x80", "\xc0\x80"}},
    {"root ::= \"\\x41\\n\\t\\\\\\\"\"", {"A\n\t\\\""}, {"A"}},
    {"root ::= a b # a comment\nb ::= \"b\"\n\n# another\na ::= \"a\" |\n  \"x\"",
     {"ab", "xb"},
     {"a"}},
    {"root ::=\n  (\n \"a\" # one\n | \"b\"\n )\n", {"a", "b"}, {""}},
    {"root ::= \"x\" | ", {"", "x"}, {"xx"}},
    {"root ::= \"(\" root \")\" | \"\"", {"", "()", "((()))"}, {"(", "())"}},
    {"root ::= e\ne ::= t (\"+\" t)*\nt ::= [0-9]+ | \"(\" e \")\"",
     {"1", "1+22", "((1)+2)"},
     {"+", "(1", "1+"}},
    {"root ::= \"a\" root | \"b\"", {"b", "aaaab"}, {"a", "bb"}},
    {"root ::= \"dead\" [] | \"x\"", {"x"}, {"dead", "d"}},
    {"root-1 ::= \"n\"\r\nroot ::= root-1\r\n", {"n"}, {""}},
};

static void tables(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct grammar *g;
        struct err err = {0};
        grammar_parse(&g, rows[i].grammar, strlen(rows[i].grammar), &err);
        assert_no_err(&err);
        for (size_t k = 0; k < 8; k++) {
            const char *yes = rows[i].has[k], *no = rows[i].not [k];
            if (yes && !grammar_has(g, yes, strlen(yes))) {
                fail_msg("%s\nhas not: %s", rows[i].grammar, yes);
            }
            if (no && grammar_has(g, no, strlen(no))) {
                fail_msg("%s\nhas: %s", rows[i].grammar, no);
            }
        }
        grammar_free(g);
    }
}

static const struct {
    const char *grammar, *message;
} wrong[] = {
    {"", "no rule named root"},
    {"a ::= \"a\"", "no rule named root"},
    {"root ::= x", "line 1, column 10: there is no rule x"},
    {"root ::= \"a\"\n  y = 3", "line 2, column 5: expected ::= behind the rule's name, not '='"},
    {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule root is there already"},
    {"root ::= \"a", "line 1, column 10: a literal without an end"},
    {"root ::= [a", "line 1, column 10: a class without an end"},
    {"root ::= [b-a]", "line 1, column 11: a range that ends before it begins"},
    {"root ::= (\"a\"", "line 1, column 10: a group without ')'"},
    {"root ::= \"a\")", "line 1, column 13: expected the end of the rule, not ')'"},
    {"root ::= \"a\"{x}", "line 1, column 14: expected a number"},
    {"root ::= \"a\"{1", "line 1, column 13: a repetition without '}'"},
    {"root ::= \"a\"{3,2}", "a repetition whose most is below its least"},
    {"root ::= \"a\"{9999999}", "line 1, column 14: a repetition above 1048576"},
    {"root ::= \"\\q\"", "line 1, column 11: unknown escape"},
    {"root ::= \"\\x4\"", "expected 2 hexadecimal digits"},
    {"root ::= \"\\ud800\"", "U+D800 is no character"},
    {"root ::= root \"a\" | \"b\"", "line 1, column 1: the rule root calls itself before"},
    {"root ::= a\na ::= \"x\"? b\nb ::= a \"y\" | \"z\"", "calls itself before anything else"},
    {"root ::= \"dead\" end | \"x\"\nend ::= \"y\" []",
     "line 1, column 17: the rule end can never"},
    {"root ::= \"a\" root", "line 1, column 1: the rule root can never end"},
    {"root ::= \"\xff\"", "line 1, column 11: the grammar is not UTF-8"},
    {"root ::= <think", "line 1, column 10: a token without '>'"},
    {"| ::= \"a\"", "line 1, column 1: expected the name of a rule, not '|'"},
    {"\xc3\xa9 \"", "expected the name of a rule"},
};

static void errors(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(wrong); i++) {
        struct grammar *g;
        struct err err = {0};
        assert_int_equal(grammar_parse(&g, wrong[i].grammar, strlen(wrong[i].grammar), &err), -1);
        assert_err(&err, wrong[i].message);
        assert_null(g);
    }
}

/* What a hostile text could make large ends in one line, soon. */
static void hostile(void **state) {
    (void)state;
    struct grammar *g;
    struct buf text = {0};
    struct err err = {0};
    buf_printf(&text, "root ::= ");
    for (int i = 0; i < 1000; i++) {
        buf_append(&text, "(", 1);
    }
    assert_int_equal(grammar_parse(&g, text.data, text.len, &err), -1);
    assert_err(&err, "more than 200 groups in each other");
    err = (struct err){0};
    text.len = 0;
    buf_printf(&text, "root ::= \"a\"");
    for (int i = 0; i < 1000; i++) {
        buf_append(&text, "+", 1);
    }
    assert_int_equal(grammar_parse(&g, text.data, text.len, &err), -1);
    assert_err(&err, "more than 200 levels");
    /* Very many tokens that are named, all in one line. */
    err = (struct err){0};
    text.len = 0;
    buf_printf(&text, "root ::= \"a\"");
    for (int i = 0; text.len < GRAMMAR_MAX_BYTES - 20; i++) {
        buf_printf(&text, " | <[%d]>", i);
    }
    assert_int_equal(grammar_parse(&g, text.data, text.len, &err), -1);
    assert_err(&err, "more than", "1024 named tokens");
    /* Repetitions in each other are small as a program, and endless as a text. */
    err = (struct err){0};
    text.len = 0;
    buf_printf(&text, "root ::= (((\"ab\"{1000000}){1000000}){1000000}){1000000}");
    grammar_parse(&g, text.data, text.len, &err);
    assert_err(&err, "can never end");
    /* Ambiguous in very many ways. */
    err = (struct err){0};
    text.len = 0;
    buf_printf(&text, "root ::= (((\"a\" | \"aa\"){0,9999} \"a\"?){0,9999} \"a\"*){0,9999} \"b\"");
    grammar_parse(&g, text.data, text.len, &err);
    assert_no_err(&err);
    struct grammar_vocab *v = grammar_byte_vocab(NULL);
    struct grammar_masks *m;
    assert_int_equal(grammar_masks_open(&m, g, v, 0, &err), 0);
    struct grammar_state *s = grammar_state_new(m);
    text.len = 0;
    for (int i = 0; i < 2000; i++) {
        buf_append(&text, "a", 1);
    }
    assert_int_equal(grammar_accept_text(s, text.data, text.len, &err), -1);
    assert_true(strstr(err.msg, "too many") != NULL);
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_free(g);
    /* Brackets that never close: what lies deeper than is allowed may not be opened. */
    err = (struct err){0};
    static const char nested[] = "root ::= \"[\" root \"]\" | \"x\"";
    grammar_parse(&g, nested, strlen(nested), &err);
    assert_no_err(&err);
    assert_int_equal(grammar_masks_open(&m, g, v, 0, &err), 0);
    s = grammar_state_new(m);
    int depth = 0;
    while (depth < 5000 && grammar_accept(s, '[', &err) == 0) {
        depth++;
    }
    assert_int_equal(depth, GRAMMAR_MAX_FRAMES);
    err = (struct err){0};
    assert_int_equal(grammar_accept(s, 'x', &err), 0);
    assert_int_equal(grammar_shortest(s), depth);
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_free(g);
    grammar_vocab_free(v);
    buf_free(&text);
}

/* A text of many rules, each named once, is read in a time that does not grow with their square. */
static void many_rules(void **state) {
    (void)state;
    struct grammar *g;
    struct buf text = {0};
    struct err err = {0};
    const int n = 20000;
    buf_printf(&text, "root ::= r0\n");
    for (int i = 0; i < n; i++) {
        buf_printf(&text, "r%d ::= \"%c\" r%d\n", i, 'a' + i % 26, i + 1);
    }
    buf_printf(&text, "r%d ::= \"\"\n", n);
    grammar_parse(&g, text.data, text.len, &err);
    assert_no_err(&err);
    text.len = 0;
    for (int i = 0; i < n; i++) {
        buf_append(&text, &(char){(char)('a' + i % 26)}, 1);
    }
    assert_true(grammar_has(g, text.data, text.len));
    assert_false(grammar_has(g, text.data, text.len - 1));
    grammar_free(g);
    buf_free(&text);
}

static void with_schemas(void **state) {
    (void)state;
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value v;
    struct grammar *g;
    struct err err = {0};
    const char *schema = "{\"type\": \"object\", \"properties\": {\"x\": {\"type\": \"integer\"}}}";
    assert_int_equal(value_json_read(&arena, schema, strlen(schema), &v, &err), 0);
    struct grammar_schema list[] = {{"args", &v}, {"any", NULL}};
    const char *text = "root ::= \"call \" args \";\" any";
    grammar_parse_with(&g, text, strlen(text), list, 2, 0, NULL, &err);
    assert_no_err(&err);
    const char *call = "call {\"x\": 3};{\"a\":[1]}";
    assert_true(grammar_has(g, call, strlen(call)));
    assert_false(grammar_has(g, "call {};[]", 10));
    grammar_free(g);
    text = "root ::= args\nargs ::= \"x\"";
    grammar_parse_with(&g, text, strlen(text), list, 2, 0, NULL, &err);
    assert_err(&err, "line 2, column 1: the rule args is given by a schema already");
    value_arena_free(&arena);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),     cmocka_unit_test(errors),       cmocka_unit_test(hostile),
        cmocka_unit_test(many_rules), cmocka_unit_test(with_schemas),
    };
    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return serve();
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
