/* JSON and JSON schemas as grammars: what is valid, what is refused by name, what is loosened. */
#include "tests/util/test_util_grammar.h"

struct row {
    const char *schema;
    const char *has[9], *not [9];
};

static const struct row rows[] = {
    {"true",
     {"1", "\"x\"", "[]", "{}", "[1,{\"a\":null}]", "-0.5e+7"},
     {"", "01", "[1,]", "'a'", "+1", "1.", ".5", "nul"}},
    {"{}",
     {"null", "{\"a\": [true, false]}", "[ 1, 2 ]", "{\n    \"a\": 1\n}"},
     {"{\"a\" : 1}", "{\"a\":1,}", " 1", "1 "}},
    {"{\"type\": \"string\"}",
     {"\"\"", "\"a b\"", "\"\\n\\u00e9\\\"\"", "\"\xe4\xb8\xad\"", "\"\\ud83d\\ude00\""},
     {"\"\n\"", "\"\\x\"", "\"\\ud83d\"", "1", "\"\xff\"", "\"\\ude00\""}},
    {"{\"type\": \"boolean\"}", {"true", "false"}, {"null", "1"}},
    {"{\"type\": [\"null\", \"integer\"]}", {"null", "0", "-12"}, {"1.5", "-0", "true", "00"}},
    {"{\"type\": \"number\"}",
     {"0", "-0.0", "1.25", "1e5", "2.5E-07", "1.7e+307"},
     {"1e999", "--1", "e5"}},
    {"{\"type\": \"integer\"}", {"123456789012345678901234"}, {"1234567890123456789012345"}},
    {"{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"\xf0\x9f\x98\x80\xc3\xa9\"", "\"\\n\\u0041c\""},
     {"\"a\"", "\"abcd\""}},
    {"{\"type\": \"string\", \"maxLength\": 0}", {"\"\""}, {"\"a\""}},
    {"{\"enum\": [1, \"a\\\"b\", null, [1, {\"k\": true}]]}",
     {"1", "\"a\\\"b\"", "null", "[1, {\"k\": true}]", "[1,{\"k\":true}]"},
     {"2", "true", "\"a\""}},
    {"{\"type\": \"string\", \"enum\": [1, \"a\"], \"minLength\": 1}", {"\"a\""}, {"1"}},
    {"{\"const\": {\"b\": 1, \"a\": 2}}", {"{\"b\":1,\"a\":2}"}, {"{\"a\":2,\"b\":1}", "{}"}},
    {"{\"type\": \"object\", \"properties\": {\"b\": {\"type\": \"integer\"}, \"a\": {\"type\": "
     "\"null\"}}, \"required\": [\"b\"]}",
     {"{\"b\":1}", "{\"b\": 1, \"a\": null}"},
     {"{}", "{\"a\":null}", "{\"a\":null,\"b\":1}", "{\"b\":1,\"c\":2}", "{\"b\":1,}"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {}, \"b\": {}, \"c\": {}}}",
     {"{}", "{\"a\":1}", "{\"c\":1}", "{\"a\":1,\"c\":2}", "{\"a\":1,\"b\":2,\"c\":3}"},
     {"{\"c\":1,\"a\":2}", "{,\"a\":1}", "{\"d\":1}"}},
    {"{\"type\": \"object\"}", {"{}", "{\"x\":1,\"y\":[]}"}, {"[]"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {}}, \"additionalProperties\": {\"type\": "
     "\"integer\"}}",
     {"{\"a\":\"x\"}", "{\"a\":1,\"b\":2}", "{\"aa\":1,\"\":2}", "{\"A\":1}"},
     {"{\"b\":\"x\"}", "{\"a\":1,\"a\":2}", "{\"b\":1,\"a\":2}"}},
    {"{\"type\": \"object\", \"additionalProperties\": false}", {"{}", "{ }"}, {"{\"a\":1}"}},
    {"{\"type\": \"object\", \"required\": [\"x\"], \"additionalProperties\": {\"type\": "
     "\"null\"}}",
     {"{\"x\":null}", "{\"x\":null,\"y\":null}"},
     {"{}", "{\"x\":1}"}},
    {"{\"type\": \"object\", \"properties\": {\"q\\\"\\n\": {\"const\": 1}}}",
     {"{\"q\\\"\\n\":1}"},
     {"{\"q\":1}"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": false, \"b\": {\"type\": \"null\"}}}",
     {"{}", "{\"b\":null}"},
     {"{\"a\":1}"}},
    {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 1, \"maxItems\": 3}",
     {"[1]", "[1,2,3]", "[1, 2]"},
     {"[]", "[1,2,3,4]", "[\"a\"]"}},
    {"{\"type\": \"array\", \"items\": {\"const\": 1}, \"minItems\": 2}",
     {"[1,1]", "[1,1,1,1]"},
     {"[1]"}},
    {"{\"type\": \"array\", \"prefixItems\": [{\"const\": 1}, {\"const\": 2}]}",
     {"[]", "[1]", "[1,2]", "[1,2,\"x\"]"},
     {"[2]", "[1,1]"}},
    {"{\"type\": \"array\", \"prefixItems\": [{\"const\": 1}, {\"const\": 2}], \"items\": false, "
     "\"minItems\": 1}",
     {"[1]", "[1,2]"},
     {"[]", "[1,2,3]"}},
    {"{\"type\": \"array\", \"prefixItems\": [{\"const\": 1}], \"items\": {\"const\": 9}, "
     "\"minItems\": 2, \"maxItems\": 3}",
     {"[1,9]", "[1,9,9]"},
     {"[1]", "[1,9,9,9]"}},
    {"{\"type\": \"array\", \"maxItems\": 0}", {"[]", "[ ]"}, {"[1]"}},
    {"{\"anyOf\": [{\"type\": \"integer\"}, {\"const\": \"x\"}]}",
     {"1", "\"x\""},
     {"\"y\"", "1.5"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {}, \"b\": {}}, \"anyOf\": [{\"required\": "
     "[\"a\"]}, {\"required\": [\"b\"]}]}",
     {"{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":1}"},
     {"{}"}},
    {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"string\"}]}", {"1", "\"x\""}, {"null"}},
    {"{\"oneOf\": [{\"type\": \"object\", \"properties\": {\"k\": {\"const\": \"a\"}}, "
     "\"required\": [\"k\"]}, {\"type\": \"object\", \"properties\": {\"k\": {\"const\": \"b\"}, "
     "\"v\": {}}, \"required\": [\"k\"]}]}",
     {"{\"k\":\"a\"}", "{\"k\":\"b\",\"v\":1}"},
     {"{\"k\":\"a\",\"v\":1}", "{\"k\":\"c\"}"}},
    {"{\"allOf\": [{\"type\": \"integer\", \"minimum\": 3}, {\"maximum\": 5}]}",
     {"3", "5"},
     {"2", "6"}},
    {"{\"allOf\": [{\"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"a\"]}, "
     "{\"properties\": {\"b\": {}, \"a\": {\"minimum\": 2}}}]}",
     {"{\"a\":2}", "{\"a\":3,\"b\":1}"},
     {"{\"a\":1}", "{\"b\":1}"}},
    {"{\"$ref\": \"#/$defs/n\", \"$defs\": {\"n\": {\"type\": \"object\", \"properties\": {\"v\": "
     "{\"type\": \"integer\"}, \"next\": {\"anyOf\": [{\"$ref\": \"#/$defs/n\"}, {\"type\": "
     "\"null\"}]}}, \"required\": [\"v\", \"next\"]}}}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{\"v\":2}}"}},
    {"{\"type\": \"array\", \"items\": {\"$ref\": \"#\"}}", {"[]", "[[],[[]]]"}, {"[1]"}},
    {"{\"$ref\": \"#/definitions/a~1b%20c\", \"definitions\": {\"a/b c\": {\"const\": 7}}}",
     {"7"},
     {"8"}},
    {"{\"type\": \"integer\", \"minimum\": -5, \"maximum\": 123}",
     {"-5", "0", "9", "10", "99", "100", "123", "-1"},
     {"-6", "124", "200", "1000", "-10", "-0", "1.0"}},
    {"{\"type\": \"integer\", \"exclusiveMinimum\": 9, \"exclusiveMaximum\": 100}",
     {"10", "99", "42"},
     {"9", "100", "1", "990"}},
    {"{\"type\": \"integer\", \"minimum\": 7}", {"7", "8", "10", "99999"}, {"6", "0", "-7"}},
    {"{\"type\": \"integer\", \"maximum\": -3}", {"-3", "-10", "-4"}, {"-2", "0", "3"}},
    {"{\"type\": \"integer\", \"minimum\": 1.5, \"maximum\": 3.5}", {"2", "3"}, {"1", "4"}},
    {"{\"type\": \"number\", \"minimum\": 0}", {"0", "0.5", "1e10", "12.75"}, {"-1", "-0.5"}},
    {"{\"type\": \"number\", \"minimum\": 0, \"maximum\": 1}",
     {"0", "1", "0.0", "1.0", "0.999", "1.000"},
     {"1.001", "2", "-0.1", "10"}},
    {"{\"type\": \"number\", \"exclusiveMinimum\": 0, \"maximum\": 2.5}",
     {"0.001", "2.5", "2.49", "1", "2.50"},
     {"0", "0.0", "2.51", "3"}},
    {"{\"type\": \"number\", \"minimum\": -1.25, \"exclusiveMaximum\": 0.5}",
     {"-1.25", "-1", "0", "0.49", "-0.3"},
     {"-1.26", "0.5", "0.50", "-2", "1"}},
    {"{\"type\": \"string\", \"pattern\": \"^a+b?$\"}",
     {"\"a\"", "\"aab\""},
     {"\"b\"", "\"aabc\"", "\"\""}},
    {"{\"type\": \"string\", \"pattern\": \"ab\"}",
     {"\"ab\"", "\"xxabyy\"", "\"aab\"", "\"ab\\n\\u0041\""},
     {"\"a\"", "\"ba\""}},
    {"{\"type\": \"string\", \"pattern\": \"^(foo|ba[rz])-\\\\d{2,3}$\"}",
     {"\"foo-12\"", "\"baz-123\""},
     {"\"foo-1\"", "\"bar-1234\"", "\"foo-12 \""}},
    {"{\"type\": \"string\", \"pattern\": \"^[^\\\"]*$\", \"maxLength\": 4}",
     {"\"abcd\"", "\"\\\\\"", "\"\\n\""},
     {"\"\\\"\"", "\"abcde\""}},
    {"{\"type\": \"string\", \"pattern\": \"^[\\\"\\\\\\\\]$\"}",
     {"\"\\\"\"", "\"\\\\\""},
     {"\"a\""}},
    {"{\"allOf\": [{\"type\": \"string\", \"pattern\": \"a\"}, {\"pattern\": \"b\"}]}",
     {"\"ab\"", "\"ba\"", "\"xbxa\""},
     {"\"a\"", "\"b\""}},
    {"{\"type\": \"string\", \"pattern\": \"x\", \"minLength\": 3}",
     {"\"xyz\"", "\"aax\""},
     {"\"x\"", "\"aaa\""}},
    {"{\"type\": \"string\", \"pattern\": \"^\\\\w+\\\\s$\"}",
     {"\"ab_9 \"", "\"a\\t\""},
     {"\" \"", "\"a\""}},
    {"{\"type\": \"string\", \"format\": \"date\"}",
     {"\"2024-02-29\"", "\"1999-12-31\"", "\"2000-02-29\""},
     {"\"2023-02-29\"", "\"2024-13-01\"", "\"1900-02-29\"", "\"2024-1-1\"", "\"0000-01-01\""}},
    {"{\"type\": \"string\", \"format\": \"date-time\"}",
     {"\"2024-02-29T23:59:59Z\"", "\"1999-12-31T00:00:00.5+01:30\""},
     {"\"2024-02-29 10:00:00Z\"", "\"2024-02-29T24:00:00Z\""}},
    {"{\"type\": \"string\", \"format\": \"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567\""}},
    {"{\"type\": \"string\", \"format\": \"ipv4\"}",
     {"\"127.0.0.1\"", "\"255.255.255.255\""},
     {"\"256.0.0.1\"", "\"1.2.3\""}},
    {"{\"type\": \"string\", \"format\": \"ipv6\"}",
     {"\"::\"", "\"::1\"", "\"2001:db8::8a2e:370:7334\"", "\"1:2:3:4:5:6:7:8\""},
     {"\"1:2:3\"", "\"1::2::3\""}},
    {"{\"type\": \"string\", \"format\": \"email\"}",
     {"\"a.b@c.de\""},
     {"\"a@b\"", "\"a\"", "\"@b.c\""}},
    {"{\"type\": \"string\", \"format\": \"time\"}", {"\"12:00:00Z\""}, {"\"12:00\""}},
    {"{\"type\": \"string\", \"format\": \"duration\"}",
     {"\"P1Y2M3D\"", "\"PT5S\"", "\"P2W\""},
     {"\"P\"", "\"1Y\"", "\"P1YT\""}},
    {"{\"type\": \"string\", \"format\": \"hostname\"}",
     {"\"a-b.example\""},
     {"\"-a\"", "\"a..b\""}},
    {"{\"type\": \"string\", \"format\": \"uri\"}",
     {"\"https://a.b/c?d=e#f\""},
     {"\"a b\"", "\"/x\""}},
    {"{\"properties\": {\"a\": {\"type\": \"null\"}}}", {"{}", "{\"a\":null}"}, {"1", "\"x\""}},
    {"{\"type\": \"array\", \"uniqueItems\": false}", {"[1,1]"}, {"1"}},
};

static void tables(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct grammar *g = grammar_of_schema(rows[i].schema, 0, NULL, &err);
        if (!g) {
            fail_msg("%s\n%s", rows[i].schema, err.msg);
        }
        for (size_t k = 0; k < 9; k++) {
            const char *yes = rows[i].has[k], *no = rows[i].not [k];
            if (yes && !grammar_has(g, yes, strlen(yes))) {
                fail_msg("%s\nhas not: %s", rows[i].schema, yes);
            }
            if (no && grammar_has(g, no, strlen(no))) {
                fail_msg("%s\nhas: %s", rows[i].schema, no);
            }
        }
        grammar_free(g);
    }
}

static const struct {
    const char *schema, *message;
} refused[] = {
    {"{\"not\": {}}", "the schema at #: the keyword \"not\" is not supported"},
    {"{\"properties\": {\"a\": {\"items\": {\"if\": {}}}}}",
     "the schema at #/properties/a/items/0: the keyword \"if\""},
    {"{\"contains\": {}}", "\"contains\" is not supported"},
    {"{\"type\": \"array\", \"uniqueItems\": true}", "\"uniqueItems\" is not supported"},
    {"{\"patternProperties\": {}}", "\"patternProperties\" is not supported"},
    {"{\"multipleOf\": 2}", "\"multipleOf\" is not supported"},
    {"{\"type\": \"object\", \"minProperties\": 1}", "\"minProperties\" is not supported"},
    {"{\"made-up\": 1}", "\"made-up\" is not supported"},
    {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}",
     "\"oneOf\" is not supported where two of its schemas may be valid at the same time (0 and 1)"},
    {"{\"oneOf\": [{\"required\": [\"a\"]}, {\"required\": [\"b\"]}]}",
     "\"oneOf\" is not supported"},
    {"{\"type\": \"text\"}", "\"type\" names a type that there is not"},
    {"{\"$ref\": \"other.json\"}", "\"$ref\" has to be a place within the schema"},
    {"{\"$ref\": \"#/$defs/x\"}", "\"$ref\" names #/$defs/x, which is not there"},
    {"{\"$ref\": \"#\"}", "refers to itself without an object or a list between"},
    {"{\"anyOf\": [{\"type\": \"null\"}, {\"$ref\": \"#\"}]}",
     "refers to itself without an object or a list between"},
    {"{\"type\": \"string\", \"format\": \"regex\"}", "the format \"regex\" is not supported"},
    {"{\"type\": \"string\", \"pattern\": \"(?=a)\"}", "looking around is not supported"},
    {"{\"type\": \"string\", \"pattern\": \"(a)\\\\1\"}", "references are not supported"},
    {"{\"type\": \"string\", \"pattern\": \"(\"}", "a group that does not end"},
    {"{\"type\": \"string\", \"pattern\": \"\\\\ud800\\\\u0041\"}",
     "an escape that is not supported"},
    {"{\"type\": \"string\", \"pattern\": \"((a{100}){100}){100}\"}", "a pattern is too large"},
    {"{\"type\": \"string\", \"pattern\": \"(a|b)*a(a|b){20}\"}", "is too large"},
    {"{\"enum\": [\"a\"], \"pattern\": \"b\"}", "\"pattern\" beside \"enum\" or \"const\""},
    {"{\"enum\": 3}", "\"enum\" has to be a list"},
    {"{\"enum\": []}", "can never end"},
    {"{\"type\": \"integer\", \"minimum\": 5, \"maximum\": 4}", "can never end"},
    {"{\"type\": \"object\", \"properties\": {\"a\": false}, \"required\": [\"a\"]}",
     "can never end"},
    {"{\"type\": \"object\", \"required\": [\"a\"], \"additionalProperties\": false}",
     "can never end"},
    {"false", "can never end"},
    {"{\"type\": \"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#\"}}", "can never end"},
    {"{\"minLength\": -1, \"type\": \"string\"}", "\"minLength\" has to be a whole number"},
    {"{\"type\": \"number\", \"minimum\": \"1\"}", "\"minimum\" has to be a number"},
    {"{\"required\": \"a\"}", "\"required\" has to be a list of strings"},
    {"{\"properties\": []}", "\"properties\" has to be an object"},
    {"{\"prefixItems\": {}}", "\"prefixItems\" has to be a list"},
    {"[]", "a schema has to be an object, true or false"},
};

static void refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(refused); i++) {
        struct err err = {0};
        struct grammar *g = grammar_of_schema(refused[i].schema, 0, NULL, &err);
        if (g) {
            fail_msg("not refused: %s", refused[i].schema);
        }
        assert_err(&err, refused[i].message);
    }
}

/* Two schemas of many keys that refer to themselves: whether both may hold is not followed without
 * end. */
static void comparing_ends(void **state) {
    (void)state;
    struct buf text = {0};
    struct err err = {0};
    buf_printf(&text, "{\"oneOf\": [{\"$ref\": \"#/$defs/a\"}, {\"$ref\": \"#/$defs/b\"}], ");
    buf_printf(&text, "\"$defs\": {");
    for (char name = 'a'; name <= 'b'; name++) {
        buf_printf(&text, "%s\"%c\": {\"type\": \"object\", \"required\": [",
                   name == 'a' ? "" : ", ", name);
        for (int i = 0; i < 100; i++) {
            buf_printf(&text, "%s\"k%d\"", i ? ", " : "", i);
        }
        buf_printf(&text, "], \"properties\": {");
        for (int i = 0; i < 100; i++) {
            buf_printf(&text, "%s\"k%d\": {\"$ref\": \"#/$defs/%c\"}", i ? ", " : "", i, name);
        }
        buf_printf(&text, "}}");
    }
    buf_printf(&text, "}}");
    assert_null(grammar_of_schema(text.data, 0, NULL, &err));
    assert_err(&err, "\"oneOf\" has too many schemas, or too large ones");
    err = (struct err){0};
    text.len = 0;
    buf_printf(&text, "{\"required\": [\"k\"");
    for (int i = 0; i < 4096; i++) {
        buf_printf(&text, ", \"k%d\"", i);
    }
    buf_printf(&text, "]}");
    assert_null(grammar_of_schema(text.data, 0, NULL, &err));
    assert_err(&err, "an object of more than 4096 keys");
    buf_free(&text);
}

/* Tools: what is not supported loosens the value that has it, and nothing else, with a remark. */
static void lenient(void **state) {
    (void)state;
    struct buf remarks = {0};
    struct err err = {0};
    struct grammar *g = grammar_of_schema("{\"type\": \"object\", \"properties\": {\"a\": "
                                          "{\"type\": \"string\", \"pattern\": \"(?=x)\"}, "
                                          "\"b\": {\"type\": \"integer\"}, \"c\": {\"not\": {}}}, "
                                          "\"required\": [\"a\", \"b\", \"c\"]}",
                                          GRAMMAR_LENIENT, &remarks, &err);
    assert_no_err(&err);
    assert_non_null(g);
    const char *yes = "{\"a\":\"anything\",\"b\":1,\"c\":[{}]}",
               *no = "{\"a\":1,\"b\":1,\"c\":[{}]}";
    assert_true(grammar_has(g, yes, strlen(yes)));
    assert_false(grammar_has(g, no, strlen(no)));
    assert_non_null(strstr(remarks.data, "#/properties/a: pattern \"(?=x)\": looking around"));
    assert_non_null(strstr(remarks.data,
                           "#/properties/c: the keyword \"not\" is not supported: any "
                           "JSON is allowed there\n"));
    grammar_free(g);
    for (size_t i = 0; i < TEST_COUNT(refused); i++) { /* whatever it is, nothing breaks */
        err = (struct err){0};
        g = grammar_of_schema(refused[i].schema, GRAMMAR_LENIENT, NULL, &err);
        assert_true(g != NULL || strstr(err.msg, "can never end"));
        grammar_free(g);
    }
    buf_free(&remarks);
}

static void compact(void **state) {
    (void)state;
    struct err err = {0};
    struct grammar *g = grammar_of_schema("{}", GRAMMAR_COMPACT, NULL, &err);
    assert_true(grammar_has(g, "{\"a\":[1,2]}", 11));
    assert_false(grammar_has(g, "{\"a\": [1,2]}", 12));
    assert_false(grammar_has(g, "[ ]", 3));
    grammar_free(g);
    /* White space is bounded: no run of it goes on for ever. */
    g = grammar_of_schema("{}", 0, NULL, &err);
    assert_true(grammar_has(g, "[\n                    1]", 24));
    assert_false(grammar_has(g, "[\n                     1]", 25));
    assert_false(grammar_has(g, "[\n\n1]", 6));
    grammar_free(g);
    assert_int_equal(grammar_json(&g, NULL, 0, NULL, &err), 0);
    assert_true(grammar_has(g, "{\"a\": 1}", 8));
    assert_false(grammar_has(g, "[]", 2));
    grammar_free(g);
}

/* A schema of many keys, choices and levels compiles to a program of that order. */
static void large(void **state) {
    (void)state;
    struct buf text = {0};
    struct err err = {0};
    buf_printf(&text, "{\"type\": \"object\", \"properties\": {");
    for (int i = 0; i < 500; i++) {
        buf_printf(&text, "%s\"key%d\": {\"type\": \"string\", \"maxLength\": %d}", i ? "," : "", i,
                   i);
    }
    buf_printf(&text, "}}");
    struct grammar *g = grammar_of_schema(text.data, 0, NULL, &err);
    assert_no_err(&err);
    assert_true(grammar_has(g, "{\"key3\":\"abc\",\"key499\":\"\"}", 26));
    assert_false(grammar_has(g, "{\"key3\":\"abcd\"}", 15));
    grammar_free(g);
    text.len = 0;
    for (int i = 0; i < 150; i++) {
        buf_printf(&text, "{\"type\":\"array\",\"items\":");
    }
    buf_printf(&text, "{\"const\":1}");
    for (int i = 0; i < 150; i++) {
        buf_printf(&text, "}");
    }
    g = grammar_of_schema(text.data, 0, NULL, &err);
    assert_true(g == NULL || !err.set);
    grammar_free(g);
    /* anyOf in each other, eight times of four: too many alternatives are an error. */
    text.len = 0;
    buf_printf(&text, "{\"allOf\": [");
    for (int i = 0; i < 8; i++) {
        buf_printf(&text,
                   "%s{\"anyOf\": "
                   "[{\"minLength\":1},{\"minLength\":2},{\"minLength\":3},{\"type\":\"null\"}]}",
                   i ? "," : "");
    }
    buf_printf(&text, "]}");
    err = (struct err){0};
    g = grammar_of_schema(text.data, 0, NULL, &err);
    assert_null(g);
    assert_err(&err, "it has too many alternatives");
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),  cmocka_unit_test(comparing_ends), cmocka_unit_test(refusals),
        cmocka_unit_test(lenient), cmocka_unit_test(compact),        cmocka_unit_test(large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
