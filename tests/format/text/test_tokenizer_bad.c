/*
 * Tokenizers that are refused: unknown components by name, damaged tokenizer.json files, and bytes
 * that are no tokenizer section.
 */
#include "format/text/tokenizer_file.h"
#include "format/text/tokenizer_text.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/util/test.h"
#include "tests/util/test_util_tokenizer.h"

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(const json_t *json, const char *config, const char *part1, const char *part2) {
    char *text = json_dumps(json, JSON_COMPACT);
    struct err err = {0};
    struct buf section = {0};
    struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", text, strlen(text)},
        .config = {"tokenizer_config.json", config, config ? strlen(config) : 0},
    };
    assert_int_equal(hf_tokenizer_compile(&files, &section, &err), -1);
    assert_err(&err, part1, part2);
    buf_free(&section);
    free(text);
}

static void unknown_components_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *key, *json, *part1, *part2;
    } rows[] = {
        {"normalizer", "{\"type\": \"Precompiled\"}",
         "tokenizer.json: normalizer:", "'Precompiled'"},
        {"normalizer",
         "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Nmt\"}]}",
         "normalizer.normalizers[1]", "'Nmt' is not supported (supported: Sequence NFC"},
        {"normalizer",
         "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(?<n>a)\"}, \"content\": \"\"}",
         "normalizer.pattern", "group"},
        {"normalizer", "[]", "normalizer:", "object"},
        {"pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}",
         "pre_tokenizer:", "'BertPreTokenizer'"},
        {"pre_tokenizer", "{\"type\": \"UnicodeScripts\"}", "pre_tokenizer:", "'UnicodeScripts'"},
        {"pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a(\"}, \"behavior\": \"Isolated\","
         " \"invert\": false}",
         "pre_tokenizer.pattern", "not supported"},
        {"pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Sideways\","
         " \"invert\": false}",
         "pre_tokenizer.behavior", "'Sideways'"},
        {"pre_tokenizer", "{\"type\": \"ByteLevel\"}", "pre_tokenizer.add_prefix_space",
         "true or false"},
        {"pre_tokenizer", "{\"use_regex\": true}", "pre_tokenizer.type", "string"},
        {"post_processor", "{\"type\": \"BertProcessing\"}", "post_processor:", "'BertProcessing'"},
        {"post_processor",
         "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}],"
         " \"special_tokens\": {\"<s>\": {\"ids\": [99999]}}}",
         "special_tokens.<s>.ids", "below"},
        {"decoder", "{\"type\": \"WordPiece\"}", "decoder:", "'WordPiece'"},
        {"decoder", "{\"type\": \"CTC\"}", "decoder:", "'CTC'"},
        {"decoder",
         "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": "
         "\"ByteFallback\"}]}",
         "decoder:", "behind Fuse"},
        {"version", "\"2.0\"", "version", "1.0"},
        {"model", "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}", "model:", "'Unigram'"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}",
         "model.merges[0]", "not in the vocabulary"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b c\"]}",
         "model.merges[0]", "left right"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}",
         "model.vocab", "id 0"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 4000000000}, \"merges\": []}",
         "model.vocab", "'a'"},
        {"model",
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": "
         "\"</w>\"}",
         "model:", "end_of_word_suffix '</w>'"},
        {"added_tokens",
         "[{\"id\": 7777, \"content\": \"<x>\", \"single_word\": false, \"lstrip\": false,"
         " \"rstrip\": false, \"normalized\": false, \"special\": true}]",
         "added_tokens[0]", "7777"},
        {"added_tokens", "[{\"id\": 7777}]", "added_tokens[0].content", "string"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        json_t *json = loaded_style_json("gpt2");
        json_error_t e;
        json_t *part = json_loads(rows[i].json, JSON_DECODE_ANY, &e);
        assert_non_null(part);
        json_object_set_new(json, rows[i].key, part);
        refuse(json, NULL, rows[i].part1, rows[i].part2);
        json_decref(json);
    }
    json_t *json = loaded_style_json("gpt2");
    refuse(json, "{\"add_bos_token\": true}", "tokenizer_config.json: add_bos_token", "missing");
    refuse(json, "{", "tokenizer_config.json", "JSON");
    refuse(json, "{\"chat_template\": 3}", "chat_template", "string");
    json_decref(json);
}

/* ---- bytes that are no section --------------------------------------------------------------- */

/* A small tokenizer in which every kind of table has rows. */
static const char small_json[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"single_word\":false,"
    "\"lstrip\":true,"
    "\"rstrip\":true,\"normalized\":false,\"special\":true},{\"id\":9,\"content\":\"X "
    "y\",\"single_word\":true,"
    "\"lstrip\":false,\"rstrip\":false,\"normalized\":true,\"special\":false}],\"normalizer\":{"
    "\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\",\"prepend\":\"_\"},{\"type\":"
    "\"Replace\",\"pattern\":"
    "{\"Regex\":\"b+\"},\"content\":\"b\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\","
    "\"pretokenizers\":[{\"type\":"
    "\"Split\",\"pattern\":{\"Regex\":\"a|\\\\s\"},\"behavior\":\"MergedWithNext\",\"invert\":"
    "false},{\"type\":"
    "\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":true}]},\"post_"
    "processor\":{\"type\":"
    "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{"
    "\"Sequence\":{\"id\":\"A\","
    "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}],\"pair\":[],\"special_"
    "tokens\":{\"<s>\":"
    "{\"id\":\"<s>\",\"ids\":[0],\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"Sequence\","
    "\"decoders\":[{\"type\":"
    "\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" "
    "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" "
    "\",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<s>\","
    "\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"_\":3,\"ab\":"
    "4,\"_a\":5,\"_ab\":6,"
    "\"<0xC3>\":7,\"<0xA9>\":8},\"merges\":[\"a b\",\"_ ab\",\"_ a\"]}}";

/* Whatever opens can be used. The section is in a heap block of its own size, so that the
 * sanitizers see every read outside it. */
static bool use_section(const char *bytes, size_t n) {
    static const char text[] = "ab abb <s>  X y\xc3\xa9\xff aab";
    struct err err = {0};
    struct tokenizer *tok;
    char *block = mem_alloc(n);
    memcpy(block, bytes, n);
    if (tokenizer_open(block, n, &tok, &err) < 0) {
        assert_err(&err, "tokenizer section");
        free(block);
        return false;
    }
    struct token_list ids = {0};
    struct buf out = {0};
    struct err use = {0};
    tokenizer_encode(tok, text, sizeof text - 1, TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL,
                     &ids, &use);
    for (uint32_t i = 0; i < tokenizer_vocab_size(tok) && i < 64; i++) {
        size_t bytes_of_piece;
        tokenizer_piece(tok, i, &bytes_of_piece);
        token_list_add(&ids, i);
    }
    tokenizer_decode(tok, ids.ids, ids.n, 0, &out, &use);
    assert_int_equal(text_valid(out.len ? out.data : "", out.len), out.len);
    token_list_free(&ids);
    buf_free(&out);
    tokenizer_close(tok);
    free(block);
    return true;
}

static void damaged_sections(void **state) {
    (void)state;
    struct loaded l;
    loaded_compile(small_json, sizeof small_json - 1, "{\"chat_template\": \"hello\"}", &l);
    struct token_list ids = loaded_ids(l.tok, "ab <s>");
    assert_int_equal(ids.n, 3); /* _ab, _ (Metaspace would add none), <s> with its space */
    token_list_free(&ids);
    assert_true(use_section(l.section.data, l.section.len));
    for (size_t n = 0; n < l.section.len; n++) {
        assert_false(use_section(l.section.data, n));
    }
    size_t opened = 0;
    for (size_t bit = 0; bit < l.section.len * 8; bit++) {
        l.section.data[bit / 8] ^= (char)(1 << bit % 8);
        opened += use_section(l.section.data, l.section.len);
        l.section.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(opened <
                l.section.len * 8); /* some flips are other tokenizers: the archive's checksum is
                                                there for those */
    /* Texts that overlap would make checking them, and the tokens, quadratic. */
    struct err err = {0};
    struct tokenizer *tok;
    struct tok_header header;
    memcpy(&header, l.section.data, sizeof header);
    struct tok_span all = {0, (uint32_t)header.tables[TOK_BLOB].bytes};
    struct tok_span *spans = (void *)(l.section.data + header.tables[TOK_SPANS].offset),
                    kept = *spans;
    *spans = all;
    assert_int_equal(tokenizer_open(l.section.data, l.section.len, &tok, &err), -1);
    assert_err(&err, "token");
    *spans = kept;
    err = (struct err){0};
    char *odd = mem_alloc(l.section.len + 8);
    memcpy(odd + 4, l.section.data, l.section.len);
    assert_int_equal(tokenizer_open(odd + 4, l.section.len, &tok, &err), -1);
    assert_err(&err, "multiple of 8");
    free(odd);
    loaded_close(&l);
}

static void damaged_json(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof small_json; n++) {
        struct err err = {0};
        struct buf section = {0};
        char *block = mem_alloc(n + 1);
        memcpy(block, small_json, n);
        struct hf_tokenizer_files files = {.tokenizer = {"tokenizer.json", block, n}};
        if (hf_tokenizer_compile(&files, &section, &err) < 0) {
            assert_err(&err, "tokenizer.json");
        }
        assert_int_equal(err.set, n < sizeof small_json - 1);
        buf_free(&section);
        free(block);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_components_are_refused_by_name),
        cmocka_unit_test(damaged_sections),
        cmocka_unit_test(damaged_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
