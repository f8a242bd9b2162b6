/*
 * The patterns of published tokenizers, which run compiled to machine code without counted steps:
 * each looks at a character a few times at most, whatever the text. Every other pattern is run by
 * the interpreter, whose steps are counted (tokenizer_regex.h), with the same matches. A pattern is
 * looked up by its text as tokenizer.json spells it, byte for byte; the many patterns of one class
 * and little else, such as \p{N}{1,3} or \s?[a-z]+, are told by their form. Constant table: any
 * thread.
 *
 * Each row also says where a long text can be cut (enum regex_place). Why that is so: no
 * alternative of these patterns has a blank but as its first character, or after other white space;
 * so none lies across a blank behind something visible (but for exaone's). None takes a newline
 * behind a letter or number. A run of white space with newlines is taken up to its last newline by
 * \s*[\r\n]+ (or what stands before it), which comes before \s+(?!\S), and nothing that begins
 * behind a newline takes it along. In the first two that alternative is missing: there \s+(?!\S)
 * looks at what follows the run. What an alternative sees behind its match is the blank or newline,
 * and it does there what it does at the text's end. No pattern looks back.
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

#define WORDS (REGEX_BLANK | REGEX_LETTER_LINE | REGEX_NEXT_LINE)

static const struct {
    const char *name;
    unsigned places; /* enum regex_place */
    const char *pattern;
} published[] = {
    {"gpt2, olmo, olmoe: what ByteLevel has built in", REGEX_BLANK | REGEX_LINE,
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"gpt2, as tiktoken spells it", REGEX_BLANK | REGEX_LINE,
     "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|"
     " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"cl100k", WORDS,
     ELISION_SHORT "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}|"
                   " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" SPACES_SHORT},
    {"llama3, dbrx, glm4, olmo2", WORDS, ELISION "|" LETTERS "|\\p{N}{1,3}|" OTHERS "|" SPACES},
    {"qwen2, qwen3", WORDS, ELISION "|" LETTERS "|\\p{N}|" OTHERS "|" SPACES},
    {"qwen3.5", WORDS,
     ELISION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
             " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
    {"o200k, gpt-oss, llama4", WORDS,
     CASED(UPPER, LOWER, ELISION "?") "|\\p{N}{1,3}|"
                                      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
    {"tekken", WORDS, CASED(UPPER, LOWER, "") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
    {"kimi k2", WORDS,
     "[\\p{Han}]+|" CASED(KIMI_UPPER, KIMI_LOWER, ELISION "?") "|\\p{N}{1,3}|" OTHERS "|" SPACES},
    {"ling", WORDS,
     ELISION_SHORT "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}|"
                   " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" SPACES_SHORT},
    {"exaone 4", REGEX_LETTER_LINE | REGEX_NEXT_LINE,
     ELISION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|"
             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|" SPACES_SHORT},
    {"deepseek v3", WORDS,
     "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
     "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES},
    {"deepseek, spaces at a line's end", REGEX_BLANK | REGEX_LINE | REGEX_NO_EDGE, "\\s+$"},
    {"falcon, digits", REGEX_BLANK | REGEX_LINE | REGEX_NEXT_LINE | REGEX_NO_EDGE,
     "[0-9][0-9][0-9]"},
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
 * the pattern fits it fits at once, and where it does not, two looks tell. A match of more than the
 * first item lies across a place only where the last item fits the character behind it. */
static bool is_plain(const char *p, const char *end, struct regex_places *places) {
    const char *item = p, *next = item_end(p, end);
    if (next && next < end && *next == '?') {
        item = next + 1;
        next = item_end(item, end);
    }
    if (!next) {
        return false;
    }
    bool plus = next + 1 == end && *next == '+';
    *places = (struct regex_places){
        .flags = REGEX_NO_EDGE | (item == p && (next == end || plus) ? REGEX_ANYWHERE : 0),
        .item = item,
        .item_bytes = (size_t)(next - item)};
    return next == end || plus ||
           (*next == '{' && memchr(next, '}', (size_t)(end - next)) == end - 1 && end - next <= 5);
}

bool regex_is_published(const char *pattern, size_t bytes, struct regex_places *places) {
    struct regex_places unused;
    places = places ? places : &unused;
    *places = (struct regex_places){0};
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        if (strlen(published[i].pattern) == bytes &&
            memcmp(published[i].pattern, pattern, bytes) == 0) {
            places->flags = published[i].places;
            return true;
        }
    }
    if (is_plain(pattern, pattern + bytes, places)) {
        return true;
    }
    *places = (struct regex_places){0};
    return false;
}
