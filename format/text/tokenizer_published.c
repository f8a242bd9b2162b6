/*
 * The patterns of published tokenizers, which run compiled to machine code without counted steps:
 * each looks at a character a few times at most, whatever the text. Every other pattern is run by
 * the interpreter, whose steps are counted (tokenizer_regex.h), with the same matches. A pattern is
 * looked up by its text as tokenizer.json spells it, byte for byte; the many patterns of one class
 * and little else, such as \p{N}{1,3} or \s?[a-z]+, are told by their form. Constant table: any
 * thread.
 */
#include <string.h>

#include "format/text/tokenizer_regex.h"

#define ELISION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define ELISION_SHORT "'(?i:[sdmt]|ll|ve|re)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SPACES_SHORT "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define OTHERS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(upper, lower, end)                                                                   \
    "[^\\r\\n\\p{L}\\p{N}]?" upper "*" lower "+" end "|[^\\r\\n\\p{L}\\p{N}]?" upper "+" lower     \
    "*" end
#define KIMI_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define KIMI_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"

static const struct {
    const char *name;
    const char *pattern;
} published[] = {
    {"gpt2, olmo, olmoe: what ByteLevel has built in",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"gpt2, as tiktoken spells it", "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|"
                                    " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"cl100k", ELISION_SHORT "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}|"
                             " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" SPACES_SHORT},
    {"llama3, dbrx, glm4, olmo2", ELISION "|" LETTERS "|\\p{N}{1,3}|" OTHERS "|" SPACES},
    {"qwen2, qwen3", ELISION "|" LETTERS "|\\p{N}|" OTHERS "|" SPACES},
    {"qwen3.5", ELISION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                        " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
    {"o200k, gpt-oss, llama4",
     CASED(UPPER, LOWER, ELISION "?") "|\\p{N}{1,3}|"
                                      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
    {"tekken", CASED(UPPER, LOWER, "") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
    {"kimi k2",
     "[\\p{Han}]+|" CASED(KIMI_UPPER, KIMI_LOWER, ELISION "?") "|\\p{N}{1,3}|" OTHERS "|" SPACES},
    {"ling", ELISION_SHORT "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}|"
                           " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" SPACES_SHORT},
    {"exaone 4", ELISION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|"
                         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|" SPACES_SHORT},
    {"deepseek v3",
     "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
     "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES},
    {"deepseek, spaces at a line's end", "\\s+$"},
    {"falcon, digits", "[0-9][0-9][0-9]"},
};

/* The end of the one character, escape or class that starts at p, NULL where something else
 * does. */
static const char *item_end(const char *p, const char *end) {
    if (p == end) {
        return NULL;
    }
    if (*p == '\\') {
        bool property = end - p > 2 && (p[1] == 'p' || p[1] == 'P') && p[2] == '{';
        const char *close = property ? memchr(p, '}', (size_t)(end - p)) : p + 1;
        return close && close < end && (property || strchr("sSdDwWhHtnrfv", *close)) ? close + 1
                                                                                     : NULL;
    }
    if (*p != '[') {
        return memchr("()[]{}|^$?*+", *p, 12) || (unsigned char)*p >= 0x80 ? NULL : p + 1;
    }
    for (p++; p < end && *p != ']'; p++) {
        if (*p == '[' || *p == '&') {
            return NULL; /* a class within a class, or an intersection */
        }
        p += *p == '\\';
    }
    return p < end ? p + 1 : NULL;
}

/* At most two items, the first of them perhaps with a ?, the last perhaps with a + or {n,m}: where
 * the pattern fits it fits at once, and where it does not, two looks tell. */
static bool is_plain(const char *p, const char *end) {
    const char *next = item_end(p, end);
    if (next && next < end && *next == '?') {
        next = item_end(next + 1, end);
    }
    if (!next || next == end) {
        return next;
    }
    return (*next == '+' && next + 1 == end) ||
           (*next == '{' && memchr(next, '}', (size_t)(end - next)) == end - 1 && end - next <= 5);
}

bool regex_is_published(const char *pattern, size_t bytes) {
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        if (strlen(published[i].pattern) == bytes &&
            memcmp(published[i].pattern, pattern, bytes) == 0) {
            return true;
        }
    }
    return is_plain(pattern, pattern + bytes);
}
