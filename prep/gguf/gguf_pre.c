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

/* Letters of scripts with case, as the tokenizer of DeepSeek-LLM lists them. */
#define CASED                                                                                      \
    "A-Za-z\\u00b5\\u00c0-\\u00d6\\u00d8-\\u00f6\\u00f8-\\u01ba\\u01bc-\\u01bf"                    \
    "\\u01c4-\\u0293\\u0295-\\u02af\\u0370-\\u0373\\u0376\\u0377\\u037b-\\u037d\\u037f"            \
    "\\u0386\\u0388-\\u038a\\u038c\\u038e-\\u03a1\\u03a3-\\u03f5\\u03f7-\\u0481"                   \
    "\\u048a-\\u052f\\u0531-\\u0556\\u10a0-\\u10c5\\u13a0-\\u13f5\\u13f8-\\u13fd"                  \
    "\\u1c90-\\u1cba\\u1cbd-\\u1cbf\\u1d00-\\u1d2b\\u1d6b-\\u1d77\\u1d79-\\u1d9a"                  \
    "\\u1e00-\\u1f15\\u1f18-\\u1f1d\\u1f20-\\u1f45\\u1f48-\\u1f4d\\u1f50-\\u1f57\\u1f59"           \
    "\\u1f5b\\u1f5d\\u1f5f-\\u1f7d\\u1f80-\\u1fb4\\u1fb6-\\u1fbc\\u1fbe\\u1fc2-\\u1fc4"            \
    "\\u1fc6-\\u1fcc\\u1fd0-\\u1fd3\\u1fd6-\\u1fdb\\u1fe0-\\u1fec\\u1ff2-\\u1ff4"                  \
    "\\u1ff6-\\u1ffc\\u2102\\u2107\\u210a-\\u2113\\u2115\\u2119-\\u211d\\u2124\\u2126"             \
    "\\u2128\\u212a-\\u212d\\u212f-\\u2134\\u2139\\u213c-\\u213f\\u2145-\\u2149\\u214e"            \
    "\\u2183\\u2184\\u2c00-\\u2c7b\\u2c7e-\\u2ce4\\u2ceb-\\u2cee\\u2cf2\\u2cf3"                    \
    "\\ua640-\\ua66d\\ua680-\\ua69b\\ua722-\\ua76f\\ua771-\\ua787\\ua78b-\\ua78e"                  \
    "\\uab70-\\uabbf\\ufb00-\\ufb06\\ufb13-\\ufb17\\uff21-\\uff3a\\uff41-\\uff5a"                  \
    "\\ud801\\udc00-\\ud801\\udc4f\\ud801\\udcb0-\\ud801\\udcd3"                                   \
    "\\ud801\\udcd8-\\ud801\\udcfb\\ud803\\udc80-\\ud803\\udcb2"                                   \
    "\\ud803\\udcc0-\\ud803\\udcf2\\ud806\\udca0-\\ud806\\udcdf"                                   \
    "\\ud83a\\udd00-\\ud83a\\udd43"

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
     true, true},
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
     "[\"[\\\\r\\\\n]\", \"\\\\s?[" CASED "]+\", \""
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
