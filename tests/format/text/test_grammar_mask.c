/*
 * Masks of grammars: the same as trying each token alone, over states, copies, budgets; the bytes
 * of tokenizers; named tokens, ends, few tokens left.
 *
 * With the argument `bench` the program is no test but tells how long masks take, on vocabularies
 * of the sizes given, and how large the kept ones are.
 */
#include "format/text/grammar_vocab.h"
#include "tests/util/test_util_grammar.h"
#include "tests/util/test_util_tokenizer.h"

static struct grammar *parse(const char *text) {
    struct grammar *g;
    struct err err = {0};
    grammar_parse(&g, text, strlen(text), &err);
    assert_no_err(&err);
    return g;
}

static struct grammar *schema(const char *text, unsigned flags) {
    struct err err = {0};
    struct grammar *g = grammar_of_schema(text, flags, NULL, &err);
    assert_no_err(&err);
    return g;
}

static struct grammar_masks *masks(const struct grammar *g, const struct grammar_vocab *v,
                                   size_t budget) {
    struct grammar_masks *m;
    struct err err = {0};
    grammar_masks_open(&m, g, v, budget, &err);
    assert_no_err(&err);
    return m;
}

static const char *const json_schemas[] = {
    "{}",
    "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 12}, "
    "\"tags\": "
    "{\"type\": \"array\", \"items\": {\"enum\": [\"red\", \"green\", \"blue\"]}}, \"n\": "
    "{\"type\": \"integer\", "
    "\"minimum\": 0, \"maximum\": 4000}}, \"required\": [\"name\", \"n\"]}",
    "{\"type\": \"string\", \"pattern\": \"^[a-z]+( [a-z]+)*$\"}",
    "{\"type\": \"string\", \"pattern\": \"end\"}",
    "{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"string\", "
    "\"format\": "
    "\"date\"}, {\"$ref\": \"#\"}]}}",
};

/* The mask of every state of a walk is what each token does to a copy of the state. */
static void check_walk(struct grammar_masks *m, const struct grammar_vocab *v, size_t n_ids,
                       struct test_rng *r, int steps, int every) {
    struct grammar_state *s = grammar_state_new(m);
    size_t words = grammar_mask_words(v);
    uint64_t *mask = mem_calloc(words, sizeof *mask);
    for (int i = 0; i < steps && !grammar_is_over(s); i++) {
        struct err err = {0};
        uint32_t chosen = 0;
        size_t seen = 0;
        grammar_mask(s, 0, mask, &err);
        assert_no_err(&err);
        for (uint32_t id = 0; id < n_ids; id++) {
            if (i % every == 0) {
                struct grammar_state *copy = grammar_state_copy(s);
                struct err ignored = {0};
                bool allowed = grammar_accept(copy, id, &ignored) == 0;
                grammar_state_free(copy);
                if (allowed != mask_has(mask, id)) {
                    fail_msg("step %d, id %u: the mask says %d", i, id, mask_has(mask, id));
                }
            }
            if (mask_has(mask, id) && test_u64(r) % ++seen == 0) {
                chosen = id;
            }
        }
        assert_true(seen > 0);
        grammar_accept(s, chosen, &err);
        assert_no_err(&err);
    }
    grammar_state_free(s);
    free(mask);
}

static void masks_are_exact(void **state) {
    (void)state;
    struct grammar_vocab *v = grammar_large_vocab(QUICK ? 2000 : 6000, 3);
    struct test_rng r = {1};
    uint64_t swept = 0;
    for (size_t i = 0; i < TEST_COUNT(json_schemas); i++) {
        struct grammar *g = schema(json_schemas[i], 0);
        /* A small budget: states are dropped on the way, and masks made again. */
        for (int small = 0; small < 2; small++) {
            struct grammar_masks *m = masks(g, v, small ? 4000 : 0);
            for (int walk = 0; walk < (QUICK ? 2 : 6); walk++) {
                check_walk(m, v, QUICK ? 2000 : 6000, &r, 30, 3);
            }
            struct grammar_figures f = grammar_masks_figures(m);
            assert_true(small || f.swept == 0);
            swept += f.swept;
            grammar_masks_close(m);
        }
        grammar_free(g);
    }
    assert_true(swept > 0);
    grammar_vocab_free(v);
}

/* Texts that are not of JSON: where a quote or DEL is text like any other, tokens with them too. */
static void plain_tokens(void **state) {
    (void)state;
    static const char *const grammars[] = {"root ::= [^\\n]{0,20} \"\\n\"",
                                           "root ::= .*",
                                           "root ::= [^\\x7f]*",
                                           "root ::= [a-z ]{3,9} .",
                                           "root ::= [^\\u4e00-\\u9fff]{5} \"!\"",
                                           "root ::= \"x\" [^\"]* \"\\\"\" [^\\\\]*"};
    struct grammar_vocab *v = grammar_large_vocab(4000, 9);
    struct test_rng r = {2};
    for (size_t i = 0; i < TEST_COUNT(grammars); i++) {
        struct grammar *g = parse(grammars[i]);
        struct grammar_masks *m = masks(g, v, 0);
        for (int walk = 0; walk < 3; walk++) {
            check_walk(m, v, 4000, &r, 20, 2);
        }
        grammar_masks_close(m);
        grammar_free(g);
    }
    grammar_vocab_free(v);
}

/* A state that is held stays what it is when all around it is dropped. */
static void sweeping(void **state) {
    (void)state;
    struct grammar_vocab *v = grammar_byte_vocab(NULL);
    struct grammar *g = schema("{\"type\": \"string\", \"maxLength\": 100000}", 0);
    struct grammar_masks *m = masks(g, v, 40000);
    struct grammar_state *s = grammar_state_new(m), *held;
    struct err err = {0};
    uint64_t before[8], after[8];
    assert_int_equal(grammar_accept_text(s, "\"abc", 4, &err), 0);
    held = grammar_state_copy(s);
    assert_int_equal(grammar_mask(held, 0, before, &err), 0);
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(grammar_accept(s, 'x', &err), 0);
    }
    struct grammar_figures f = grammar_masks_figures(m);
    assert_true(f.swept > 10);
    assert_true(f.bytes < 200000);
    assert_int_equal(grammar_mask(held, 0, after, &err), 0);
    assert_memory_equal(before, after, grammar_mask_words(v) * sizeof *before);
    assert_int_equal(grammar_accept(held, '"', &err), 0);
    assert_true(grammar_is_over(held));
    grammar_state_free(s);
    grammar_state_free(held);
    grammar_masks_close(m);
    grammar_free(g);
    grammar_vocab_free(v);
}

static void ends_and_names(void **state) {
    (void)state;
    struct grammar_vocab *v = grammar_byte_vocab(NULL); /* 256 <think>, 257 </think>, 258 <end> */
    struct grammar *g = parse("root ::= <think> [a-z]* <[257]> \"ok\" \".\"?");
    struct grammar_masks *m = masks(g, v, 0);
    struct grammar_state *s = grammar_state_new(m);
    struct err err = {0};
    uint64_t mask[5];
    grammar_mask(s, 0, mask, &err);
    assert_int_equal(mask_count(mask, 5), 1);
    assert_true(mask_has(mask, 256));
    assert_int_equal(grammar_shortest(s), 4);
    /* The text <think> is not the token, and the token is no text. */
    assert_int_equal(grammar_accept(s, '<', &err), -1);
    assert_err(&err, "the grammar does not allow token 60 here");
    err = (struct err){0};
    assert_int_equal(grammar_accept(s, 256, &err), 0);
    assert_int_equal(grammar_accept(s, 256, &err), -1);
    err = (struct err){0};
    grammar_mask(s, 0, mask, &err);
    assert_int_equal(mask_count(mask, 5), 27);
    assert_int_equal(grammar_accept(s, 'q', &err), 0);
    assert_int_equal(grammar_accept(s, 257, &err), 0);
    assert_int_equal(grammar_accept(s, 258, &err), -1); /* not complete */
    err = (struct err){0};
    assert_int_equal(grammar_accept(s, 'o', &err), 0);
    assert_int_equal(grammar_accept(s, 'k', &err), 0);
    assert_true(grammar_may_end(s) && !grammar_is_over(s));
    grammar_mask(s, 0, mask, &err);
    assert_int_equal(mask_count(mask, 5), 2);
    assert_true(mask_has(mask, 258) && mask_has(mask, '.'));
    assert_int_equal(grammar_accept(s, '.', &err), 0);
    assert_true(grammar_is_over(s));
    grammar_mask(s, 0, mask, &err);
    assert_int_equal(mask_count(mask, 5), 1);
    assert_int_equal(grammar_accept(s, 258, &err), 0);
    assert_true(grammar_is_over(s) && grammar_may_end(s));
    assert_int_equal(grammar_mask(s, 0, mask, &err), -1);
    assert_err(&err, "the text has ended already");
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_free(g);
    err = (struct err){0};
    g = parse("root ::= <no such>");
    assert_int_equal(grammar_masks_open(&m, g, v, 0, &err), -1);
    assert_err(&err, "names the token <no such>, which the model does not have");
    grammar_free(g);
    grammar_vocab_free(v);
}

/* With as many tokens as the shortest completion has bytes, only that is left; a text that was
 * bounded so is always brought to its end. */
static void few_left(void **state) {
    (void)state;
    static const char *const words[] = {"{\"", "\": ", "\", \"", "long word", "true", "[[[[", NULL};
    struct grammar_vocab *v = grammar_byte_vocab(words);
    struct grammar *g = schema("{\"type\": \"object\", \"properties\": {\"a\": {\"type\": "
                               "\"array\", \"items\": {\"type\": \"object\", "
                               "\"properties\": {\"key\": {\"type\": \"string\"}}, \"required\": "
                               "[\"key\"]}}, \"b\": {\"type\": "
                               "\"boolean\"}}, \"required\": [\"a\", \"b\"]}",
                               0);
    struct grammar_masks *m = masks(g, v, 0);
    struct test_rng r = {5};
    struct err err = {0};
    struct grammar_state *first = grammar_state_new(m);
    size_t shortest = grammar_shortest(first);
    assert_int_equal(shortest, strlen("{\"a\":[],\"b\":true}"));
    for (int i = 0; i < 300; i++) {
        struct grammar_state *s = grammar_state_copy(first);
        size_t left = shortest + (size_t)i / 4;
        while (left > 0 && !grammar_is_over(s)) {
            uint64_t mask[5];
            uint32_t chosen = 0;
            size_t seen = 0;
            grammar_mask(s, left, mask, &err);
            assert_no_err(&err);
            for (uint32_t id = 0; id < 265; id++) {
                if (mask_has(mask, id) && test_u64(&r) % ++seen == 0) {
                    chosen = id;
                }
            }
            assert_int_equal(grammar_accept(s, chosen, &err), 0);
            left--;
        }
        assert_true(grammar_is_over(s));
        grammar_state_free(s);
    }
    grammar_state_free(first);
    grammar_masks_close(m);
    grammar_free(g);
    grammar_vocab_free(v);
}

/* What is behind a call may be a loop that has to go round: its rounds are part of the shortest
 * completion. */
static void shortest_behind_calls(void **state) {
    (void)state;
    struct grammar_vocab *v = grammar_byte_vocab(NULL);
    struct grammar *g =
        parse("root ::= a (\",\" a){2,5} \"]\"\na ::= b [0-9]{1,3}\nb ::= \"x\"+ \"y\"");
    struct grammar_masks *m = masks(g, v, 0);
    struct grammar_state *s = grammar_state_new(m);
    const char *text = "xxy12,xy1,xy3]";
    const size_t left[] = {12, 11, 11, 10, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1};
    struct err err = {0};
    for (size_t i = 0; text[i]; i++) {
        assert_int_equal(grammar_shortest(s), left[i]);
        assert_int_equal(grammar_accept(s, (uint8_t)text[i], &err), 0);
    }
    assert_int_equal(grammar_shortest(s), 0);
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_free(g);
    grammar_vocab_free(v);
}

/* Bytes that no token has: an error, and no endless empty mask. */
static void missing_bytes(void **state) {
    (void)state;
    const struct grammar_token tokens[] = {{"a", 1, false}, {"b", 1, false}, {"", 0, false}};
    struct grammar_vocab *v;
    struct err err = {0};
    uint64_t mask[1];
    assert_int_equal(grammar_vocab_make(&v, tokens, 3, NULL, 0, &err), 0);
    struct grammar *g = parse("root ::= \"a\" \"c\"");
    struct grammar_masks *m = masks(g, v, 0);
    struct grammar_state *s = grammar_state_new(m);
    assert_int_equal(grammar_mask(s, 0, mask, &err), 0);
    assert_int_equal(mask[0], 1);
    assert_int_equal(grammar_accept(s, 0, &err), 0);
    assert_int_equal(grammar_mask(s, 0, mask, &err), -1);
    assert_err(&err, "no token of the vocabulary goes on");
    grammar_state_free(s);
    grammar_masks_close(m);
    grammar_free(g);
    grammar_vocab_free(v);
}

/* ---- tokenizers ---------------------------------------------------------------------------- */

static const char *const styles[] = {"gpt2",  "llama1",  "llama3",   "gemma",
                                     "qwen2", "mixtral", "olmoe",    "deepseek3",
                                     "o200k", "mistral", "metaspace"};

/* The bytes of a text's ids, put together, are the text (but for what is stripped at its front). */
static void raw_bytes(void **state) {
    (void)state;
    static const char text[] = "He said: {\"a\": [1, 2.5]}\n\tna\xc3\xafve "
                               "\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80 \xd0\xbf\xd1\x80!";
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        struct buf raw = {0}, decoded = {0};
        struct err err = {0};
        loaded_style(styles[i], &l);
        struct token_list ids = loaded_ids(l.tok, text);
        for (size_t k = 0; k < ids.n; k++) {
            bool added;
            assert_int_equal(tokenizer_raw(l.tok, ids.ids[k], &raw, &added, &err), 0);
        }
        assert_int_equal(tokenizer_decode(l.tok, ids.ids, ids.n, 0, &decoded, &err), 0);
        size_t more = raw.len - decoded.len;
        if (more > 1 || memcmp(raw.data + more, decoded.data, decoded.len) != 0) {
            fail_msg("%s: %s\nis not: %s", styles[i], raw.data, decoded.data);
        }
        token_list_free(&ids);
        buf_free(&raw);
        buf_free(&decoded);
        loaded_close(&l);
    }
}

/* What tokenizers make of valid texts is allowed, id by id: by the masks. */
static void accepted_by_ids(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"name\": \"caf\xc3\xa9 \xf0\x9f\x98\x80\", \"n\": 12}",
        "{\"name\":\"a b\",\"tags\":[\"red\",\"blue\"],\"n\":0}",
        "{\n  \"name\": \"\xe4\xb8\xad\xe6\x96\x87\\n\",\n  \"tags\": [],\n  \"n\": 4000\n}"};
    struct grammar *g = schema(json_schemas[1], 0);
    size_t used = 0;
    for (size_t i = 0; i < TEST_COUNT(styles); i++) {
        struct loaded l;
        struct grammar_vocab *v;
        struct err err = {0};
        loaded_style(styles[i], &l);
        uint32_t end = tokenizer_eos(l.tok);
        grammar_vocab_open(&v, l.tok, &end, end != TOKEN_NONE, &err);
        assert_no_err(&err);
        struct grammar_masks *m = masks(g, v, 0);
        uint64_t *mask = mem_calloc(grammar_mask_words(v), sizeof *mask);
        for (size_t k = 0; k < TEST_COUNT(texts); k++) {
            struct token_list ids = loaded_ids(l.tok, texts[k]);
            struct grammar_state *s = grammar_state_new(m);
            struct buf raw = {0};
            bool added = false, fits = true;
            /* A tokenizer that puts a space in front of a text does not begin with the bracket; and
             * one that has added tokens for indents writes them so, where a model need not. */
            for (size_t t = 0; t < ids.n && fits; t++) {
                tokenizer_raw(l.tok, ids.ids[t], &raw, &added, &err);
                fits = raw.data[0] == '{' && !added;
            }
            used += fits;
            for (size_t t = 0; t < ids.n && fits; t++) {
                grammar_mask(s, 0, mask, &err);
                assert_no_err(&err);
                if (!mask_has(mask, ids.ids[t])) {
                    fail_msg("%s: token %zu (%u) of %s", styles[i], t, ids.ids[t], texts[k]);
                }
                grammar_accept(s, ids.ids[t], &err);
                assert_no_err(&err);
            }
            assert_true(grammar_is_over(s) || !fits);
            buf_free(&raw);
            grammar_state_free(s);
            token_list_free(&ids);
        }
        free(mask);
        grammar_masks_close(m);
        grammar_vocab_free(v);
        loaded_close(&l);
    }
    assert_true(used >= 15);
    grammar_free(g);
}

/* A whole text by the masks, id by id, up to its end. */
static bool by_masks(struct grammar_masks *m, const struct token_list *ids, uint64_t *mask) {
    struct grammar_state *s = grammar_state_new(m);
    struct err err = {0};
    bool allowed = true;
    for (size_t i = 0; i < ids->n && allowed; i++) {
        if (grammar_mask(s, 0, mask, &err) < 0) { /* complete, and this tokenizer ends no text */
            assert_err(&err, "the text is complete");
            allowed = false;
            break;
        }
        allowed = mask_has(mask, ids->ids[i]);
        if (allowed) {
            grammar_accept(s, ids->ids[i], &err);
            assert_no_err(&err);
        }
    }
    allowed = allowed && grammar_may_end(s);
    grammar_state_free(s);
    return allowed;
}

/* Random schemas with valid texts and others, which make_grammars.py has made with
 * hypothesis-jsonschema and jsonschema. */
static void golden_schemas(void **state) {
    (void)state;
    struct value_arena arena = {.limit_bytes = 64 << 20};
    struct value rows;
    struct loaded l;
    struct grammar_vocab *v;
    struct err err = {0};
    uint8_t *text;
    size_t n, checked = 0;
    assert_int_equal(file_read("tests/golden/grammars.json", 1 << 20, &text, &n, &err), 0);
    assert_int_equal(value_json_read(&arena, (const char *)text, n, &rows, &err), 0);
    loaded_style("qwen2", &l);
    uint32_t end = tokenizer_eos(l.tok);
    assert_int_equal(grammar_vocab_open(&v, l.tok, &end, 1, &err), 0);
    uint64_t *mask = mem_calloc(grammar_mask_words(v), sizeof *mask);
    for (size_t i = 0; i < rows.list->n; i++) {
        const struct value_dict *row = rows.list->items[i].dict;
        struct grammar *g;
        grammar_json(&g, value_dict_get_text(row, "schema", 6), GRAMMAR_COMPACT, NULL, &err);
        assert_no_err(&err);
        struct grammar_masks *m = masks(g, v, 1 << 20);
        for (int valid = 0; valid < 2; valid++) {
            const struct value *list =
                valid ? value_dict_get_text(row, "valid", 5) : value_dict_get_text(row, "not", 3);
            for (size_t k = 0; k < list->list->n; k++) {
                const struct value_string *s = list->list->items[k].text;
                struct token_list ids = {0};
                loaded_encode(l.tok, s->data, s->len, 0, &ids);
                if (by_masks(m, &ids, mask) != valid) {
                    fail_msg("row %zu: %s is %s", i, s->data, valid ? "not allowed" : "allowed");
                }
                checked++;
                token_list_free(&ids);
            }
        }
        grammar_masks_close(m);
        grammar_free(g);
    }
    assert_true(checked > 900);
    free(mask);
    free(text);
    grammar_vocab_free(v);
    loaded_close(&l);
    value_arena_free(&arena);
}

/* ---- how long it takes --------------------------------------------------------------------- */

static int by_time(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void bench_one(const char *name, const struct grammar *g, const struct grammar_vocab *v,
                      size_t n_ids) {
    enum { WALKS = 40, STEPS = 200 };
    static uint64_t times[WALKS * STEPS], made[WALKS * STEPS];
    struct grammar_masks *m = masks(g, v, 0);
    struct test_rng r = {7};
    size_t n = 0, n_made = 0, words = grammar_mask_words(v), over = 0;
    uint64_t *mask = mem_calloc(words, sizeof *mask), sum = 0;
    for (int walk = 0; walk < WALKS; walk++) {
        struct grammar_state *s = grammar_state_new(m);
        for (int i = 0; i < STEPS && !grammar_is_over(s); i++) {
            struct err err = {0};
            uint64_t cached = grammar_masks_figures(m).cached, start = clock_ns();
            grammar_mask(s, 0, mask, &err);
            times[n] = clock_ns() - start;
            if (grammar_masks_figures(m).cached == cached) {
                made[n_made++] = times[n];
            }
            assert_no_err(&err);
            over += times[n] > 1000000;
            sum += times[n++];
            uint32_t id = (uint32_t)(test_u64(&r) % n_ids);
            while (!mask_has(mask, id)) {
                id = (id + 1) % (uint32_t)n_ids;
            }
            grammar_accept(s, id, &err);
        }
        grammar_state_free(s);
    }
    qsort(times, n, sizeof *times, by_time);
    qsort(made, n_made, sizeof *made, by_time);
    printf("%-10s %6zu ids %5zu masks: mean %5.1f us, 99 %% %5.1f, within 1 ms %6.2f %%; %4zu of "
           "them made: "
           "median %6.1f us, 99 %% %6.1f, worst %6.1f; kept %4.1f MiB\n",
           name, n_ids, n, 1e-3 * (double)sum / (double)n, 1e-3 * (double)times[n * 99 / 100],
           100.0 * (double)(n - over) / (double)n, n_made, 1e-3 * (double)made[n_made / 2],
           1e-3 * (double)made[n_made * 99 / 100], 1e-3 * (double)made[n_made - 1],
           (double)grammar_masks_figures(m).bytes / (1 << 20));
    free(mask);
    grammar_masks_close(m);
}

static int bench(int argc, char **argv) {
    static const char *const names[] = {"any json", "object", "words", "contains", "recursive"};
    for (int i = 2; i < argc; i++) {
        size_t n_ids = strtoul(argv[i], NULL, 10);
        uint64_t start = clock_ns();
        struct grammar_vocab *v = grammar_large_vocab(n_ids, 11);
        printf("vocabulary of %zu ids: %.1f MiB, made in %.2f s (with the words themselves)\n",
               n_ids, (double)grammar_vocab_bytes(v) / (1 << 20),
               1e-9 * (double)(clock_ns() - start));
        for (size_t k = 0; k < TEST_COUNT(json_schemas); k++) {
            struct grammar *g = schema(json_schemas[k], 0);
            bench_one(names[k], g, v, n_ids);
            grammar_free(g);
        }
        grammar_vocab_free(v);
    }
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_exact), cmocka_unit_test(plain_tokens),
        cmocka_unit_test(sweeping),        cmocka_unit_test(ends_and_names),
        cmocka_unit_test(few_left),        cmocka_unit_test(missing_bytes),
        cmocka_unit_test(raw_bytes),       cmocka_unit_test(accepted_by_ids),
        cmocka_unit_test(golden_schemas),  cmocka_unit_test(shortest_behind_calls),
    };
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        return bench(argc, argv);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
