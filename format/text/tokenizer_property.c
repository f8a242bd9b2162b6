/*
 * Named sets of characters, \p{..} and [:..:], from Oniguruma's names to PCRE2's items of a class.
 * What is not in the table is the name of a script: Oniguruma's scripts are the Script property,
 * PCRE2 means Script_Extensions unless told otherwise (so that it counts U+3002 as Han). Constant
 * tables: any thread.
 */
#include <stdio.h>
#include <string.h>

#include "format/text/tokenizer_regex.h"

/* Whether a set holds each letter in both cases: under (?i) Oniguruma adds the other case to a
 * class, PCRE2 does not where a property put the letter there. */
enum { OPEN, CLOSED };

static const struct {
    const char *name;  /* lower case, without spaces, _ and - */
    const char *items; /* as they stand between PCRE2's brackets */
    const char *fold;  /* the other case of what is in it, where that is little */
    uint8_t closed;
} sets[] = {
    {"any", "\\p{Any}", "", CLOSED},
    {"assigned", "\\P{Cn}", "", CLOSED},
    {"c", "\\p{C}", "", CLOSED},
    {"other", "\\p{C}", "", CLOSED},
    {"cc", "\\p{Cc}", "", CLOSED},
    {"control", "\\p{Cc}", "", CLOSED},
    {"cntrl", "\\p{Cc}", "", CLOSED},
    {"cf", "\\p{Cf}", "", CLOSED},
    {"format", "\\p{Cf}", "", CLOSED},
    {"cn", "\\p{Cn}", "", CLOSED},
    {"unassigned", "\\p{Cn}", "", CLOSED},
    {"co", "\\p{Co}", "", CLOSED},
    {"privateuse", "\\p{Co}", "", CLOSED},
    {"l", "\\p{L}", "\\x{345}", CLOSED},
    {"letter", "\\p{L}", "\\x{345}", CLOSED},
    {"lc", "\\p{Lu}\\p{Ll}\\p{Lt}", "", OPEN},
    {"casedletter", "\\p{Lu}\\p{Ll}\\p{Lt}", "", OPEN},
    {"ll", "\\p{Ll}", "", OPEN},
    {"lowercaseletter", "\\p{Ll}", "", OPEN},
    {"lm", "\\p{Lm}", "", CLOSED},
    {"modifierletter", "\\p{Lm}", "", CLOSED},
    {"lo", "\\p{Lo}", "", CLOSED},
    {"otherletter", "\\p{Lo}", "", CLOSED},
    {"lt", "\\p{Lt}", "", OPEN},
    {"titlecaseletter", "\\p{Lt}", "", OPEN},
    {"lu", "\\p{Lu}", "", OPEN},
    {"uppercaseletter", "\\p{Lu}", "", OPEN},
    {"m", "\\p{M}", "\\x{399}\\x{3b9}\\x{1fbe}", CLOSED},
    {"mark", "\\p{M}", "\\x{399}\\x{3b9}\\x{1fbe}", CLOSED},
    {"combiningmark", "\\p{M}", "\\x{399}\\x{3b9}\\x{1fbe}", CLOSED},
    {"mc", "\\p{Mc}", "", CLOSED},
    {"spacingmark", "\\p{Mc}", "", CLOSED},
    {"me", "\\p{Me}", "", CLOSED},
    {"enclosingmark", "\\p{Me}", "", CLOSED},
    {"mn", "\\p{Mn}", "\\x{399}\\x{3b9}\\x{1fbe}", CLOSED},
    {"nonspacingmark", "\\p{Mn}", "\\x{399}\\x{3b9}\\x{1fbe}", CLOSED},
    {"n", "\\p{N}", "", CLOSED},
    {"number", "\\p{N}", "", CLOSED},
    {"nd", "\\p{Nd}", "", CLOSED},
    {"decimalnumber", "\\p{Nd}", "", CLOSED},
    {"digit", "\\p{Nd}", "", CLOSED},
    {"nl", "\\p{Nl}", "", CLOSED},
    {"letternumber", "\\p{Nl}", "", CLOSED},
    {"no", "\\p{No}", "", CLOSED},
    {"othernumber", "\\p{No}", "", CLOSED},
    {"p", "\\p{P}", "", CLOSED},
    {"punctuation", "\\p{P}", "", CLOSED},
    {"pc", "\\p{Pc}", "", CLOSED},
    {"connectorpunctuation", "\\p{Pc}", "", CLOSED},
    {"pd", "\\p{Pd}", "", CLOSED},
    {"dashpunctuation", "\\p{Pd}", "", CLOSED},
    {"pe", "\\p{Pe}", "", CLOSED},
    {"closepunctuation", "\\p{Pe}", "", CLOSED},
    {"pf", "\\p{Pf}", "", CLOSED},
    {"finalpunctuation", "\\p{Pf}", "", CLOSED},
    {"pi", "\\p{Pi}", "", CLOSED},
    {"initialpunctuation", "\\p{Pi}", "", CLOSED},
    {"po", "\\p{Po}", "", CLOSED},
    {"otherpunctuation", "\\p{Po}", "", CLOSED},
    {"ps", "\\p{Ps}", "", CLOSED},
    {"openpunctuation", "\\p{Ps}", "", CLOSED},
    {"s", "\\p{S}", "", CLOSED},
    {"symbol", "\\p{S}", "", CLOSED},
    {"sc", "\\p{Sc}", "", CLOSED},
    {"currencysymbol", "\\p{Sc}", "", CLOSED},
    {"sk", "\\p{Sk}", "", CLOSED},
    {"modifiersymbol", "\\p{Sk}", "", CLOSED},
    {"sm", "\\p{Sm}", "", CLOSED},
    {"mathsymbol", "\\p{Sm}", "", CLOSED},
    {"so", "\\p{So}", "", CLOSED},
    {"othersymbol", "\\p{So}", "", CLOSED},
    {"z", "\\p{Z}", "", CLOSED},
    {"separator", "\\p{Z}", "", CLOSED},
    {"zl", "\\p{Zl}", "", CLOSED},
    {"lineseparator", "\\p{Zl}", "", CLOSED},
    {"zp", "\\p{Zp}", "", CLOSED},
    {"paragraphseparator", "\\p{Zp}", "", CLOSED},
    {"zs", "\\p{Zs}", "", CLOSED},
    {"spaceseparator", "\\p{Zs}", "", CLOSED},
    {"alpha", "\\p{Alphabetic}", "", CLOSED},
    {"alphabetic", "\\p{Alphabetic}", "", CLOSED},
    {"alnum", "\\p{Alphabetic}\\p{Nd}", "", CLOSED},
    {"ascii", "\\x00-\\x7f", "", OPEN},
    {"blank", "\\t\\p{Zs}", "", CLOSED},
    {"lower", "\\p{Lowercase}", "", OPEN},
    {"lowercase", "\\p{Lowercase}", "", OPEN},
    {"space", "\\p{wspace}", "", CLOSED},
    {"wspace", "\\p{wspace}", "", CLOSED},
    {"whitespace", "\\p{wspace}", "", CLOSED},
    {"upper", "\\p{Uppercase}", "", OPEN},
    {"uppercase", "\\p{Uppercase}", "", OPEN},
    {"xdigit", "0-9A-Fa-f", "", CLOSED},
    {"emoji", "\\p{Emoji}", "", CLOSED},
    {"emojicomponent", "\\p{Emoji_Component}", "", CLOSED},
    {"emojimodifier", "\\p{Emoji_Modifier}", "", CLOSED},
    {"emojipresentation", "\\p{Emoji_Presentation}", "", CLOSED},
    {"extendedpictographic", "\\p{Extended_Pictographic}", "", CLOSED},
    {"ideographic", "\\p{Ideographic}", "", CLOSED},
    {"unifiedideograph", "\\p{Unified_Ideograph}", "", CLOSED},
    {"variationselector", "\\p{Variation_Selector}", "", CLOSED},
    {"math", "\\p{Math}", "", OPEN},
    {"idstart", "\\p{ID_Start}", "", OPEN},
    {"idcontinue", "\\p{ID_Continue}", "", OPEN},
};

/* Scripts that hold a letter whose other case is of another one. */
static const char *const open_scripts[] = {"greek",     "grek", "common", "zyyy",
                                           "inherited", "zinh", "qaai"};

static bool plain_name(const char *name, size_t bytes, char out[48]) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
        if (c == ' ' || c == '_' || c == '-') {
            continue;
        }
        if (c < 'a' || c > 'z' || n == 47) {
            return false;
        }
        out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

const char *regex_property(const char *name, size_t bytes, bool negated, bool in_class, bool fold,
                           struct buf *out) {
    char plain[48], script[64];
    const char *items = NULL, *more = "";
    bool closed = true;
    if (!plain_name(name, bytes, plain)) {
        return "a property name that is not made of letters";
    }
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        if (strcmp(plain, sets[i].name) == 0) {
            items = sets[i].items;
            more = in_class && fold ? sets[i].fold : "";
            closed = sets[i].closed;
        }
    }
    if (!items) {
        for (size_t i = 0; i < sizeof open_scripts / sizeof open_scripts[0]; i++) {
            closed = closed && strcmp(plain, open_scripts[i]) != 0;
        }
        snprintf(script, sizeof script, "\\p{sc:%s}", plain);
        items = script;
    }
    if (in_class && fold && !closed) {
        return "a property of one case inside a class with (?i)";
    }
    bool single = items[0] == '\\' && (items[1] == 'p' || items[1] == 'P') && !*more &&
                  strchr(items, '}')[1] == 0;
    if (!in_class && !single) {
        buf_printf(out, "[%s%s%s]", negated ? "^" : "", items, more);
    } else if (!negated) {
        buf_printf(out, "%s%s", items, more);
    } else if (single) {
        buf_printf(out, "\\%c%s", items[1] == 'p' ? 'P' : 'p', items + 2);
    } else {
        return "a negated property of several sets inside a class";
    }
    return NULL;
}
