/*
 * gguf_tokenizer: ids of texts, by each way to split them as the golden tokenizers have it, and of
 * SentencePiece's models as sentencepiece has it (make_gguf_spm.py); flags, templates, refusals.
 */
#include "tests/util/test.h"

#include <jansson.h>

#include "prep/gguf/gguf_pre.h"
#include "prep/gguf/gguf_tokenizer.h"
#include "tests/util/test_util_gguf_model.h"
#include "tests/util/test_util_tokenizer.h"

enum { ROWS = 1024 };

/* What is made of the keys of `m`. Close with close_made. */
struct made_model {
    struct gguf g;
    struct hf_model hf;
    struct tokenizer *tok;
};

static int open_made(struct made_model *out, struct gguf_made *m, struct err *err) {
    struct buf file = made_file(m);
    *out = (struct made_model){.g.st = st_new()};
    out->g.path = mem_strdup("f.gguf");
    out->hf.dir = mem_strdup("f.gguf");
    out->hf.config.arch.vocab = ROWS;
    gguf_parse(&out->g, (const uint8_t *)file.data, file.len, "f.gguf", err);
    assert_no_err(err);
    int rc = gguf_tokenizer(&out->hf, &out->g, err);
    if (rc == 0 && out->hf.tokenizer.len) {
        tokenizer_open(out->hf.tokenizer.data, out->hf.tokenizer.len, &out->tok, err);
        assert_no_err(err);
    }
    buf_free(&file);
    return rc;
}

static void close_made(struct made_model *m) {
    tokenizer_close(m->tok);
    gguf_close(&m->g);
    hf_close(&m->hf);
}

static void same_ids(const char *what, const struct tokenizer *a, const struct tokenizer *b,
                     const char *text, size_t bytes) {
    struct token_list x = {0}, y = {0};
    loaded_encode(a, text, bytes, TOKENIZER_PARSE_SPECIAL, &x);
    loaded_encode(b, text, bytes, TOKENIZER_PARSE_SPECIAL, &y);
    if (x.n != y.n || (x.n && memcmp(x.ids, y.ids, x.n * sizeof *x.ids) != 0)) {
        fail_msg("%s: other ids for '%.*s'", what, (int)(bytes < 200 ? bytes : 200), text);
    }
    token_list_free(&x);
    token_list_free(&y);
}

/* Compare two tokenizers on every text in a tree of JSON. Returns how many there were. */
static size_t same_ids_in(const char *what, const struct tokenizer *a, const struct tokenizer *b,
                          const json_t *v) {
    size_t n = 0, i;
    const char *key;
    json_t *part;
    if (json_is_string(v)) {
        same_ids(what, a, b, json_string_value(v), json_string_length(v));
        return 1;
    }
    json_array_foreach((json_t *)v, i, part) {
        n += same_ids_in(what, a, b, part);
    }
    json_object_foreach((json_t *)v, key, part) {
        n += same_ids_in(what, a, b, part);
    }
    return n;
}

/* Each golden tokenizer, without what llama.cpp does not do: normalizers; BOS is a flag of its
 * own. */
static void splits_as_the_originals(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"gpt2", "gpt-2"},
        {"llama3", "llama-bpe"},
        {"olmo2", "dbrx"},
        {"olmo2", "glm4"},
        {"olmoe", "olmo"},
        {"qwen2", "qwen2"},
        {"qwen35", "qwen35"},
        {"starcoder", "starcoder"},
        {"o200k", "gpt-4o"},
        {"tekken", "tekken"},
        {"deepseek1", "deepseek-llm"},
        {"deepseek3", "deepseek-v3"},
        {"kimi", "kimi-k2"},
    };
    json_t *texts = loaded_json(TOKENIZERS "texts.json");
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        json_t *json = loaded_style_json(rows[i][0]);
        struct gguf_made m = {0};
        struct made_model made;
        struct loaded original;
        struct err err = {0};
        json_object_del(json, "normalizer");
        json_object_del(json, "post_processor");
        char *text = json_dumps(json, 0);
        loaded_compile(text, strlen(text), NULL, &original);
        made_tokenizer(&m, json, rows[i][1], ROWS);
        made_flag(&m, "tokenizer.ggml.add_bos_token", false);
        open_made(&made, &m, &err);
        assert_no_err(&err);
        assert_true(same_ids_in(rows[i][1], original.tok, made.tok, texts) > 30);
        close_made(&made);
        loaded_close(&original);
        json_decref(json);
        free(text);
    }
    json_decref(texts);
}

/* Every row has a pattern that is read, and each name one row. */
static void has_a_table(void **state) {
    (void)state;
    const struct gguf_pre *p;
    for (size_t i = 0; (p = gguf_pre_at(i)) != NULL; i++) {
        for (const char *name = p->names + 1; *name; name += strcspn(name, " ") + 1) {
            const struct gguf_text text = {name, strcspn(name, " ")};
            assert_ptr_equal(gguf_pre_find(&text), p);
        }
        json_t *json = gguf_pre_json(p);
        assert_non_null(json);
        json_decref(json);
    }
    assert_null(gguf_pre_find(&(struct gguf_text){"", 0}));
    assert_null(gguf_pre_find(&(struct gguf_text){"gpt-2 phi-2", 11}));
    assert_null(gguf_pre_find(&(struct gguf_text){"gpt", 3}));
}

/* ---- SentencePiece ---- */

static void put_pieces(struct gguf_made *m, const json_t *pieces) {
    const size_t n = json_array_size(pieces);
    float *scores = mem_calloc(n, sizeof *scores);
    int32_t *types = mem_calloc(n, sizeof *types);
    struct buf items = {0};
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(pieces, i), *text = json_array_get(row, 0);
        made_item(&items, json_string_value(text), json_string_length(text));
        scores[i] = (float)json_number_value(json_array_get(row, 1));
        types[i] = (int32_t)json_integer_value(json_array_get(row, 2));
    }
    made_text(m, "tokenizer.ggml.model", "llama");
    made_list(m, "tokenizer.ggml.tokens", GGUF_STRING, n, items.data, items.len);
    made_list(m, "tokenizer.ggml.scores", GGUF_F32, n, scores, n * sizeof *scores);
    made_list(m, "tokenizer.ggml.token_type", GGUF_I32, n, types, n * sizeof *types);
    made_u32(m, "tokenizer.ggml.bos_token_id", 1);
    made_u32(m, "tokenizer.ggml.eos_token_id", 2);
    buf_free(&items);
    free(scores);
    free(types);
}

static void merges_by_scores(void **state) {
    (void)state;
    json_t *golden = loaded_json("tests/golden/gguf_spm.json"), *row;
    struct gguf_made m = {0};
    struct made_model made;
    struct err err = {0};
    size_t i;
    put_pieces(&m, json_object_get(golden, "pieces"));
    open_made(&made, &m, &err);
    assert_no_err(&err);
    json_array_foreach(json_object_get(golden, "rows"), i, row) {
        const json_t *text = json_array_get(row, 0), *want = json_array_get(row, 1);
        struct token_list ids = {0};
        loaded_encode(made.tok, json_string_value(text), json_string_length(text),
                      TOKENIZER_ADD_SPECIAL, &ids);
        bool same = ids.n == 1 + json_array_size(want) && ids.ids[0] == 1;
        for (size_t k = 0; same && k < json_array_size(want); k++) {
            same = (json_int_t)ids.ids[1 + k] == json_integer_value(json_array_get(want, k));
        }
        if (!same) {
            fail_msg("row %zu: other ids for '%s'", i, json_string_value(text));
        }
        token_list_free(&ids);
    }
    assert_true(i > 150);
    close_made(&made);
    json_decref(golden);
}

/* ---- flags, templates, refusals ---- */

static void reads_flags_and_templates(void **state) {
    (void)state;
    json_t *json = loaded_style_json("gpt2");
    for (int flags = 0; flags < 4; flags++) {
        struct gguf_made m = {0};
        struct made_model made;
        struct err err = {0};
        struct token_list ids = {0};
        size_t bytes;
        made_tokenizer(&m, json, "gpt-2", ROWS);
        made_u32(&m, "tokenizer.ggml.bos_token_id", 5);
        made_u32(&m, "tokenizer.ggml.eos_token_id", 6);
        made_flag(&m, "tokenizer.ggml.add_bos_token", flags & 1);
        made_flag(&m, "tokenizer.ggml.add_eos_token", flags & 2);
        made_text(&m, "tokenizer.chat_template", "{{ messages }}");
        made_text(&m, "tokenizer.chat_template.tool_use", "{{ tools }}");
        open_made(&made, &m, &err);
        assert_no_err(&err);
        assert_int_equal(tokenizer_eos(made.tok), 6);
        loaded_encode(made.tok, "!", 1, TOKENIZER_ADD_SPECIAL, &ids);
        assert_int_equal(ids.n, 1 + (flags & 1) + (flags >> 1));
        assert_true(!(flags & 1) || ids.ids[0] == 5);
        assert_true(!(flags & 2) || ids.ids[ids.n - 1] == 6);
        const char *chat = tokenizer_chat_template(made.tok, &bytes);
        assert_int_equal(bytes, 14);
        assert_memory_equal(chat, "{{ messages }}", 14);
        assert_non_null(memmem(made.hf.book.data, made.hf.book.len, "tool_use", 8));
        token_list_free(&ids);
        close_made(&made);
    }
    json_decref(json);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int tokens, types, merges; /* of the lists; -1: there is none; 2: none, and no "pre" */
        const char *say;
    } rows[] = {
        {"t5", 3, 3, 0, "tokenizer.ggml.model: expected \"gpt2\" or \"llama\""},
        {"gpt2", -1, 3, 0, "tokenizer.ggml.tokens: expected a list of texts"},
        {"gpt2", 0, 0, 0, "tokenizer.ggml.tokens: expected a list of texts"},
        {"gpt2", 3, 2, 0, "tokenizer.ggml.token_type: expected a number for each token"},
        {"gpt2", 3, 3, -1, "tokenizer.ggml.merges: expected a list of texts"},
        {"gpt2", 3, 3, 2, "tokenizer.ggml.pre: expected the name of how text is split"},
        {"gpt2", 3, 3, 1, "a side or the result is not in the vocabulary"},
        {"gpt2", 4, 4, 0, "'a' is there twice, as 3 too"},
        {"gpt2", 5, 5, 0, "token 4 is empty"},
        {"llama", 3, 3, 0, "tokenizer.ggml.scores: expected an f32 for each token"},
    };
    static const char *const texts[5] = {"a", "b", "c", "a", ""};
    const int32_t types[5] = {1, 1, 1, 1, 1};
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct gguf_made m = {0};
        struct made_model made;
        struct err err = {0};
        struct buf items = {0};
        for (int k = 0; k < rows[i].tokens; k++) {
            /* the fifth stands alone, so that the fourth is not found first */
            const char *text = texts[rows[i].tokens == 5 && k == 3 ? 2 : k];
            text = rows[i].tokens == 5 && k == 3 ? "d" : text;
            made_item(&items, text, strlen(text));
        }
        made_text(&m, "tokenizer.ggml.model", rows[i].model);
        if (rows[i].merges < 2) {
            made_text(&m, "tokenizer.ggml.pre", "gpt-2");
        }
        if (rows[i].tokens >= 0) {
            made_list(&m, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)rows[i].tokens,
                      items.data ? items.data : "", items.len);
        }
        made_list(&m, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)rows[i].types, types,
                  (size_t)rows[i].types * sizeof *types);
        items.len = 0;
        made_item(&items, "a z", 3);
        if (rows[i].merges == 0 || rows[i].merges == 1) {
            made_list(&m, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)rows[i].merges,
                      items.data, rows[i].merges ? items.len : 0);
        }
        assert_int_equal(open_made(&made, &m, &err), -1);
        assert_err(&err, "f.gguf: ", rows[i].say);
        close_made(&made);
        buf_free(&items);
    }
    struct gguf_made m = {0};
    struct made_model made;
    struct err err = {0};
    made_text(&m, "tokenizer.ggml.model", "no_vocab");
    assert_int_equal(open_made(&made, &m, &err), 0);
    assert_int_equal(made.hf.tokenizer.len, 0);
    close_made(&made);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_as_the_originals),
        cmocka_unit_test(has_a_table),
        cmocka_unit_test(merges_by_scores),
        cmocka_unit_test(reads_flags_and_templates),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
