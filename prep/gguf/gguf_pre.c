#include "prep/gguf/gguf_pre.h"

#include <string.h>

/* A pattern inside JSON, so backslashes are doubled twice. */
#define ENDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+"
#define REST "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define NO_LETTER "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define HAN "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+"
#define HAN_KANA "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+"
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|"                 \
    "\\\\s+(?!\\\\S)|\\\\s+"

static const struct gguf_pre rows[] = {
    {" gpt-2 phi-2 olmo mpt jais trillion granite-docling ", NULL, false, false},
    {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     "[\"" ENDS "|" WORDS "|\\\\p{N}{1,3}" REST "\"]", true, true},
    {" dbrx smaug-bpe chatglm-bpe glm4 ", "[\"" ENDS "|" WORDS "|\\\\p{N}{1,3}" REST "\"]", false,
     false},
    {" qwen2 deepseek-r1-qwen kormo stablelm2 hunyuan megrez ",
     "[\"" ENDS "|" WORDS "|\\\\p{N}" REST "\"]", false, false},
    {" refact starcoder command-r smollm codeshell exaone minerva-7b ",
     "[\"\\\\p{N}\", \"" GPT2_PATTERN "\"]", false, false},
    {" gpt-4o llama4 kanana2 ",
     "[\"" NO_LETTER UPPER "*" LOWER "+" ENDS "?|" NO_LETTER UPPER "+" LOWER "*" ENDS
     "?|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|"
     "\\\\s+(?!\\\\S)|\\\\s+\"]",
     false, false},
    {" deepseek-v3 hunyuan-dense joyai-llm ",
     "[\"\\\\p{N}{1,3}\", \"" HAN_KANA "\", "
     "\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"
     "[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*|"
     "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"]",
     false, false},
    {" tekken ",
     "[\"[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*"
     "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}"
     "\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*|"
     "\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!"
     "\\\\S)|\\\\s+\"]",
     true, false},
    {" kimi-k2 ",
     "[\"[\\\\p{Han}]+|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p"
     "{Lo}\\\\p{M}&&[^\\\\p{Han}]]*[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}&&[^\\\\p{Han}]"
     "]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt"
     "}\\\\p{Lm}\\\\p{Lo}\\\\p{M}&&[^\\\\p{Han}]]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}"
     "&&[^\\\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}"
     "\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"]",
     false, false},
    {" qwen35 ",
     "[\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{L}\\\\p{M}]"
     "+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
     "\\\\s+(?!\\\\S)|\\\\s+\"]",
     false, false},
    {" deepseek-llm ",
     "[\"[\\\\r\\\\n]\", \"\\\\s?[A-Za-z\\u00b5\\u00c0-\\u00d6\\u00d8-\\u00f6\\u00f8-"
     "\\u01ba\\u01bc-\\u01bf\\u01c4-\\u0293\\u0295-\\u02af\\u0370-\\u0373\\u0376"
     "\\u0377\\u037b-\\u037d\\u037f\\u0386\\u0388-\\u038a\\u038c\\u038e-\\u03a1\\u03a3"
     "-\\u03f5\\u03f7-\\u0481\\u048a-\\u052f\\u0531-\\u0556\\u10a0-\\u10c5]+\", \""
     "\\\\s?[!-/:-~\\uff01-\\uff0f\\uff1a-\\uff5e\\u2018-\\u201f\\u3000-\\u3002]+\", "
     "\"\\\\s+$\", \"[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+\", \"\\\\p{N}\"]",
     false, false},
    {" deepseek-coder ",
     "[\"[\\r\\n]\", \"\\\\s?\\\\p{L}+\", \"\\\\s?\\\\p{P}+\", \"[\\u4e00-\\u9fa5"
     "\\u0800-\\u4e00\\uac00-\\ud7ff]+\", \"\\\\p{N}\"]",
     false, false},
};

const struct gguf_pre *gguf_pre_at(size_t i) {
    return i < sizeof rows / sizeof *rows ? &rows[i] : NULL;
}

const struct gguf_pre *gguf_pre_find(const struct gguf_text *name) {
    char *word = mem_printf(" %.*s ", (int)(name->bytes < 64 ? name->bytes : 64), name->data);
    const struct gguf_pre *p;
    for (size_t i = 0; (p = gguf_pre_at(i)) != NULL && !strstr(p->names, word); i++) {
    }
    free(word);
    return name->bytes > 0 && !memchr(name->data, ' ', name->bytes) ? p : NULL;
}

static json_t *byte_level(bool split) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", split);
}

json_t *gguf_pre_json(const struct gguf_pre *p) {
    json_error_t why;
    json_t *patterns = p->patterns ? json_loads(p->patterns, 0, &why) : NULL, *list, *pattern;
    size_t i;
    if (!p->patterns) {
        return byte_level(true);
    }
    if (!patterns) {
        die("%s: %s", p->names, why.text);
    }
    list = json_array();
    json_array_foreach(patterns, i, pattern) {
        json_array_append_new(list,
                              json_pack("{s:s, s:{s:O}, s:s, s:b}", "type", "Split", "pattern",
                                        "Regex", pattern, "behavior", "Isolated", "invert", 0));
    }
    json_decref(patterns);
    json_array_append_new(list, byte_level(false));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}
