/*
 * Tiktoken files: ids as the tiktoken package gives them with the pattern and the special tokens of
 * a published class, and every file that is refused.
 */
#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/util/test.h"

/* Behind the 256 bytes, the tokens 256 and up. */
static const char *const more[] = {"he",  "ll",           "lo",   "hell",   "hello",  " w",
                                   "or",  " wor",         "ld",   " world", "aa",     "aaa",
                                   "ab",  "ba",           "aba",  "12",     "123",    "in",
                                   "ing", "\u4f60\u597d", "\n\n", "\u00e9", "e\u0301"};
enum { N_TOKENS = 256 + TEST_COUNT(more) };

static void add_line(struct buf *file, const char *bytes, size_t n, unsigned rank) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[64];
    size_t len = 0;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++) {
            bits = bits << 8 | (i + k < n ? (uint8_t)bytes[i + k] : 0);
        }
        for (size_t k = 0; k < 4; k++) {
            text[len++] = i + k <= n ? digits[bits >> (18 - 6 * k) & 63] : '=';
        }
    }
    buf_printf(file, "%.*s %u\n", (int)len, text, rank);
}

/* The byte b has the rank 167 b + 13 mod 256. `without` is left out. */
static struct buf make_file(int without) {
    struct buf file = {0};
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        if (b != without) {
            add_line(&file, &byte, 1, (unsigned)(b * 167 + 13) & 255);
        }
    }
    for (unsigned i = 0; i < TEST_COUNT(more); i++) {
        add_line(&file, more[i], strlen(more[i]), 256 + i);
    }
    return file;
}

static int compile(const char *name, const struct buf *file, const char *config, uint32_t rows,
                   struct buf *section, struct err *err) {
    struct hf_tokenizer_files files = {
        .tiktoken = {name, file->data, file->len},
        .config = {"tokenizer_config.json", config, config ? strlen(config) : 0},
        .rows = rows,
    };
    return hf_tokenizer_compile(&files, section, err);
}

#define KIMI                                                                                       \
    "{\"tokenizer_class\":\"TikTokenTokenizer\",\"eos_token\":\"[EOS]\",\"added_tokens_decoder\":" \
    "{\"279\":{\"content\":\"[BOS]\",\"special\":true},\"280\":{\"content\":\"[EOS]\",\"special\"" \
    ":true},\"281\":{\"content\":\"<|im_end|>\",\"special\":false}},"
#define KIMI_MAP "\"auto_map\":{\"AutoTokenizer\":[\"tokenization_kimi.TikTokenTokenizer\",null]}}"
#define HUNYUAN "{\"tokenizer_class\":\"HYTokenizer\",\"eos_token\":\"<|eos|>\"}"

/* tiktoken 0.14, Encoding with the pattern of the class, allowed_special="all". Of Hunyuan, of the
 * text in NFC. */
static void ids_of_tiktoken(void **state) {
    (void)state;
    static const struct {
        const char *file, *config, *text;
        uint32_t ids[48]; /* ends with 0 */
    } rows[] = {
        {"tiktoken.model", KIMI KIMI_MAP, "hello world", {260, 265}},
        {"tiktoken.model", KIMI KIMI_MAP, "aaaaa ababab", {266, 267, 237, 268, 268, 268}},
        {"tiktoken.model",
         KIMI KIMI_MAP,
         "12345 it's DON'T",
         {272, 249, 160, 237, 140, 185, 126, 18, 237, 105, 150, 239, 126, 217}},
        {"tiktoken.model",
         KIMI KIMI_MAP,
         "\u4f60\u597d\u4e16 e\u0301\u00e9",
         {201, 88, 109, 112, 176, 88, 201, 21, 231, 237, 240, 33, 52, 277}},
        {"tiktoken.model",
         KIMI KIMI_MAP,
         "hello<|im_end|>[BOS]<|reserved_token_286|>",
         {260, 281, 279, 286}},
        {"tiktoken.model",
         KIMI KIMI_MAP,
         "x<|extra_1|><|eos|>\n\n in",
         {85,  49, 241, 240, 85,  185, 107, 84,  6,   4,   241,
          127, 49, 241, 240, 118, 18,  241, 127, 276, 237, 273}},
        {"hy.tiktoken", HUNYUAN, "hello world", {260, 265}},
        {"hy.tiktoken",
         HUNYUAN,
         "12345 it's DON'T",
         {4, 171, 82, 249, 160, 237, 140, 185, 126, 18, 237, 105, 150, 239, 126, 217}},
        {"hy.tiktoken",
         HUNYUAN,
         "\u4f60\u597d\u4e16 e\u0301\u00e9",
         {201, 88, 109, 112, 176, 88, 201, 21, 231, 237, 277, 277}},
        {"hy.tiktoken", HUNYUAN, "x<|extra_1|><|eos|>\n\n in", {85, 285, 282, 276, 237, 273}},
    };
    struct buf file = make_file(-1);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf section = {0}, back = {0};
        struct err err = {0};
        struct tokenizer *tok;
        struct token_list ids = {0};
        size_t n = 0;
        compile(rows[i].file, &file, rows[i].config, 0, &section, &err);
        assert_no_err(&err);
        tokenizer_open(section.data, section.len, &tok, &err);
        tokenizer_encode(tok, rows[i].text, strlen(rows[i].text), TOKENIZER_PARSE_SPECIAL, &ids,
                         &err);
        assert_no_err(&err);
        while (rows[i].ids[n]) {
            n++;
        }
        assert_int_equal(ids.n, n);
        assert_memory_equal(ids.ids, rows[i].ids, n * sizeof *ids.ids);
        bool kimi = rows[i].config[20] == 'T';
        assert_int_equal(tokenizer_eos(tok), kimi ? 280 : 282);
        assert_int_equal(tokenizer_vocab_size(tok), N_TOKENS + (kimi ? 256 : 210));
        assert_true(tokenizer_is_special(tok, 280) && tokenizer_is_special(tok, 281) == !kimi);
        tokenizer_decode(tok, ids.ids, ids.n, 0, &back, &err);
        assert_true(!kimi || strcmp(back.data, rows[i].text) == 0);
        token_list_free(&ids);
        tokenizer_close(tok);
        buf_free(&back);
        buf_free(&section);
    }
    struct buf section = {0};
    struct err err = {0};
    struct tokenizer *tok;
    compile("hy.tiktoken", &file, HUNYUAN, 300, &section, &err); /* no more than the model's rows */
    assert_no_err(&err);
    tokenizer_open(section.data, section.len, &tok, &err);
    assert_int_equal(tokenizer_vocab_size(tok), 300);
    tokenizer_close(tok);
    buf_free(&section);
    buf_free(&file);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *name, *config;
        int without;      /* a byte's line, or -1 */
        const char *line; /* one more */
        const char *say, *say_too;
    } rows[] = {
        {"tiktoken.model", NULL, -1, "",
         "tiktoken.model: how tokenizer_class (tokenizer_config.json"
         " names none) splits text is not known",
         "HYTokenizer"},
        {"tiktoken.model", "{\"tokenizer_class\":\"PreTrainedTokenizerFast\"}", -1, "",
         "tokenizer_class PreTrainedTokenizerFast splits text is not known",
         "TikTokenTokenizer of"},
        {"hy.tiktoken", KIMI KIMI_MAP, -1, "", "hy.tiktoken: how tokenizer_class TikToken",
         "known"},
        {"tiktoken.model",
         KIMI "\"auto_map\":{\"AutoTokenizer\":[\"tokenization_other.TikTokenTokenizer\",null]}}",
         -1, "", "tokenizer_class TikTokenTokenizer", "tokenization_kimi"},
        {"hy.tiktoken", HUNYUAN, 'a', "", "hy.tiktoken: byte 0x61 has no token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "aGU= 279\n", "line 280: a token that is there already", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6 281\n", "rank 281 among 280 tokens", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6 278\n", "id 278 belongs to two tokens", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp 279\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "en=6 279\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "==== 279\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "e!p6 279\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6 -1\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6 279 1\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "enp6 99999999999999\n", "line 280: expected a token", ""},
        {"hy.tiktoken", HUNYUAN, -1, "version https://git-lfs.github.com/spec/v1\n",
         "line 280: expected a token", "1 to 512 bytes"},
        {"hy.tiktoken",
         "{\"tokenizer_class\":\"HYTokenizer\",\"added_tokens_decoder\":{\"279\":"
         "{\"content\":\"<other>\"}}}",
         -1, "", "token '<other>' has id 279", "another one has in hy.tiktoken"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct buf file = make_file(rows[i].without), section = {0};
        struct err err = {0};
        buf_append(&file, rows[i].line, strlen(rows[i].line));
        assert_int_equal(compile(rows[i].name, &file, rows[i].config, 0, &section, &err), -1);
        assert_err(&err, rows[i].say, rows[i].say_too);
        buf_free(&file);
        buf_free(&section);
    }
    struct buf file = {0}, section = {0}; /* a token of 516 bytes */
    struct err err = {0};
    for (int i = 0; i < 688; i++) {
        buf_append(&file, "A", 1);
    }
    buf_append(&file, " 0\n", 3);
    assert_int_equal(compile("hy.tiktoken", &file, HUNYUAN, 0, &section, &err), -1);
    assert_err(&err, "line 1: expected a token of 1 to 512 bytes");
    buf_free(&file);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_tiktoken),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("hf_tokenizer_tiktoken", tests, NULL, NULL);
}
