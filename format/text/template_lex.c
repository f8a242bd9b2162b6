/* A template's text into tokens: where tags begin and end, and what white space around them goes.
 *
 * Newlines are made equal first, and one at the very end is left out. A tag takes the white space
 * before it with `-`; a statement or comment that stands first in its line takes that line's blanks
 * (unless `+`). Behind a tag, `-` takes all white space, and a statement or comment one newline. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format/number.h"
#include "format/text/template_internal.h"

struct lexer {
    struct template *t;
    const char *s;
    size_t len, pos;
    bool line_starting; /* what came before ended with a newline */
    struct template_token *tokens;
    size_t n, cap;
    char *open; /* brackets that wait for their end */
    size_t n_open, cap_open;
    struct buf scratch;
    struct err *err;
};

static int lex_error(struct lexer *x, size_t pos, const char *what) {
    return template_fail_at(x->t, pos, x->err, "%s", what);
}

static struct template_token *add(struct lexer *x, enum template_token_kind kind, size_t pos) {
    x->tokens = mem_grow(x->tokens, x->n + 1, &x->cap, sizeof *x->tokens);
    struct template_token *token = &x->tokens[x->n++];
    *token = (struct template_token){.kind = (uint8_t)kind, .pos = (uint32_t)pos};
    return token;
}

static int add_text(struct lexer *x, enum template_token_kind kind, size_t pos, const char *text,
                    size_t len) {
    struct template_token *token = add(x, kind, pos);
    if (value_make_string(&x->t->arena, text, len, &token->value)) {
        return lex_error(x, pos, TEMPLATE_NO_MEMORY);
    }
    return 0;
}

static size_t skip_space(const struct lexer *x, size_t pos) {
    return pos + template_space_left(x->s + pos, x->len - pos, NULL);
}

static bool at(const struct lexer *x, size_t pos, const char *text) {
    size_t n = strlen(text);
    return x->len - pos >= n && !memcmp(x->s + pos, text, n);
}

/* The text before a tag, with what the tag's sign and kind take from its end. */
static int add_data(struct lexer *x, size_t begin, size_t end, char sign, bool statement) {
    if (sign == '-') {
        end -= template_space_right(x->s + begin, end - begin, NULL);
    } else if (sign != '+' && statement) {
        size_t line = end;
        while (line > begin && x->s[line - 1] != '\n') {
            line--;
        }
        if ((line > begin || x->line_starting) && line < end && skip_space(x, line) >= end) {
            end = line;
        }
    }
    return end > begin ? add_text(x, TOKEN_DATA, begin, x->s + begin, end - begin) : 0;
}

/* Where a tag's end at `pos` ends, its white space taken, or 0 where there is none. A sign '+' is
 * for statements and comments. */
static size_t tag_end(const struct lexer *x, size_t pos, const char *mark, bool statement) {
    if (x->s[pos] == '-' && at(x, pos + 1, mark)) {
        return skip_space(x, pos + 3);
    }
    if (statement && x->s[pos] == '+' && at(x, pos + 1, mark)) {
        return pos + 3;
    }
    if (!at(x, pos, mark)) {
        return 0;
    }
    pos += 2;
    return pos + (statement && pos < x->len && x->s[pos] == '\n');
}

static void go(struct lexer *x, size_t pos) {
    x->pos = pos;
    x->line_starting = pos && x->s[pos - 1] == '\n';
}

static char sign_at(const struct lexer *x, size_t pos) {
    return pos < x->len && (x->s[pos] == '-' || x->s[pos] == '+') ? x->s[pos] : 0;
}

static int lex_comment(struct lexer *x, size_t begin, size_t pos) {
    if (pos == x->len) {
        return 0; /* as jinja2: nothing is missed where nothing follows; so of raw below */
    }
    for (; pos < x->len; pos++) {
        size_t end = tag_end(x, pos, "#}", true);
        if (end) {
            go(x, end);
            return 0;
        }
    }
    return lex_error(x, begin, "the comment has no end");
}

/* Where the text of a raw block begins if the tag at `pos` opens one, else 0. */
static size_t raw_begin(const struct lexer *x, size_t pos) {
    pos = skip_space(x, pos + 2 + (sign_at(x, pos + 2) != 0));
    if (!at(x, pos, "raw")) {
        return 0;
    }
    pos = skip_space(x, pos + 3);
    if (at(x, pos, "-%}")) {
        return skip_space(x, pos + 3);
    }
    return at(x, pos, "%}") ? pos + 2 : 0;
}

static int lex_raw(struct lexer *x, size_t tag, size_t begin) {
    go(x, begin);
    if (begin == x->len) {
        return 0;
    }
    for (size_t pos = begin; pos + 1 < x->len; pos++) {
        if (!at(x, pos, "{%")) {
            continue;
        }
        char sign = sign_at(x, pos + 2);
        size_t word = skip_space(x, pos + 2 + (sign != 0));
        if (!at(x, word, "endraw")) {
            continue;
        }
        size_t close = skip_space(x, word + 6),
               end = close < x->len ? tag_end(x, close, "%}", true) : 0;
        if (end) {
            if (add_data(x, begin, pos, sign, true)) {
                return -1;
            }
            go(x, end);
            return 0;
        }
    }
    return lex_error(x, tag, "the raw block has no end");
}

/* ---- within tags --------------------------------------------------------------------------- */

static bool is_digit(const struct lexer *x, size_t pos) {
    return pos < x->len && x->s[pos] >= '0' && x->s[pos] <= '9';
}

/* Behind digits that single '_' may separate; `pos` where there is none. */
static size_t skip_digits(const struct lexer *x, size_t pos) {
    while (is_digit(x, pos)) {
        pos++;
        if (pos < x->len && x->s[pos] == '_' && is_digit(x, pos + 1)) {
            pos++;
        }
    }
    return pos;
}

static void copy_digits(struct lexer *x, size_t begin, size_t end) {
    x->scratch.len = 0;
    for (size_t i = begin; i < end; i++) {
        if (x->s[i] != '_') {
            buf_append(&x->scratch, x->s + i, 1);
        }
    }
    buf_append(&x->scratch, "", 0); /* numbers are read up to its NUL */
}

/* An integer with a prefix such as 0x; 0 where there is none, else behind it. */
static size_t lex_prefixed(struct lexer *x, size_t pos, int64_t *value) {
    char letter = pos + 1 < x->len && x->s[pos] == '0' ? (char)(x->s[pos + 1] | 32) : 0;
    unsigned base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    uint64_t sum = 0;
    size_t i = pos + 2, n = 0;
    while (base && i < x->len) {
        size_t d = i + (x->s[i] == '_');
        char c = d < x->len ? x->s[d] : 0;
        unsigned digit = c >= '0' && c <= '9'                 ? (unsigned)(c - '0')
                         : (c | 32) >= 'a' && (c | 32) <= 'f' ? (unsigned)((c | 32) - 'a' + 10)
                                                              : 99;
        if (digit >= base) {
            break;
        }
        if (sum > ((uint64_t)INT64_MAX - digit) / base) {
            return SIZE_MAX;
        }
        sum = sum * base + digit;
        n++;
        i = d + 1;
    }
    *value = (int64_t)sum;
    return n ? i : 0;
}

static int lex_number(struct lexer *x) {
    size_t begin = x->pos, end = skip_digits(x, begin), whole = end;
    if (end < x->len && x->s[end] == '.' && is_digit(x, end + 1)) {
        end = skip_digits(x, end + 1);
    }
    if (end < x->len && (x->s[end] | 32) == 'e') {
        size_t e = end + 1 + (end + 1 < x->len && (x->s[end + 1] == '-' || x->s[end + 1] == '+'));
        end = is_digit(x, e) ? skip_digits(x, e) : end;
    }
    if (end > whole && (!begin || x->s[begin - 1] != '.')) {
        copy_digits(x, begin, end);
        add(x, TOKEN_FLOAT, begin)->value = value_float(number_parse(x->scratch.data, NULL));
        x->pos = end;
        return 0;
    }
    int64_t value;
    end = lex_prefixed(x, begin, &value);
    if (end == SIZE_MAX) {
        return lex_error(x, begin, "an integer of more than 64 bits that is not decimal");
    }
    if (end) {
        add(x, TOKEN_INTEGER, begin)->value = value_int(value);
        x->pos = end;
        return 0;
    }
    end = whole;
    if (x->s[begin] == '0') { /* zeros alone: 007 is two numbers */
        for (end = begin; end < whole && (x->s[end] == '0' || x->s[end] == '_'); end++) {
        }
    }
    copy_digits(x, begin, end);
    errno = 0;
    value = strtoll(x->scratch.data, NULL, 10);
    if (errno) {
        if (x->scratch.len > VALUE_MAX_DIGITS) {
            return lex_error(x, begin, "an integer of more than 4300 digits");
        }
        if (add_text(x, TOKEN_INTEGER, begin, x->scratch.data, x->scratch.len)) {
            return -1;
        }
        x->tokens[x->n - 1].value.type = VALUE_BIGINT;
    } else {
        add(x, TOKEN_INTEGER, begin)->value = value_int(value);
    }
    x->pos = end;
    return 0;
}

/* The digits of an escape: exactly `n` hexadecimal ones. */
static bool hex_escape(const char *s, size_t len, size_t n, uint32_t *c) {
    *c = 0;
    for (size_t i = 0; i < n; i++) {
        char h = i < len ? s[i] : 0;
        int digit = h >= '0' && h <= '9'                 ? h - '0'
                    : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) {
            return false;
        }
        *c = *c << 4 | (uint32_t)digit;
    }
    return true;
}

/* One escape behind its backslash; the bytes that it took, or 0 where it is none that there is. */
static size_t unescape(struct lexer *x, const char *s, size_t len) {
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    uint32_t c = 0;
    if (!len) {
        return 0;
    }
    for (const char *p = plain; *p; p += 2) {
        if (*p == s[0]) {
            buf_append(&x->scratch, p + 1, 1);
            return 1;
        }
    }
    if (s[0] == '\n') { /* the line goes on */
        return 1;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        size_t n = 0;
        for (; n < 3 && n < len && s[n] >= '0' && s[n] <= '7'; n++) {
            c = c * 8 + (uint32_t)(s[n] - '0');
        }
        value_utf8_append(&x->scratch, c);
        return n;
    }
    size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (digits) {
        if (!hex_escape(s + 1, len - 1, digits, &c) || c > 0x10ffff ||
            (c >= 0xd800 && c < 0xe000)) {
            return 0;
        }
        value_utf8_append(&x->scratch, c);
        return 1 + digits;
    }
    if (s[0] == 'N') {
        return 0;
    }
    /* Any other character keeps its backslash; one beyond ASCII is spelled out by Python. */
    size_t n;
    c = value_utf8_get(s, &n);
    buf_append(&x->scratch, "\\", 1);
    if (c < 0x80) {
        buf_append(&x->scratch, s, 1);
    } else {
        buf_printf(&x->scratch, c < 0x100 ? "x%02x" : c < 0x10000 ? "u%04x" : "U%08x", (unsigned)c);
    }
    return n;
}

static int lex_string(struct lexer *x) {
    size_t begin = x->pos, end = begin + 1;
    while (end < x->len && x->s[end] != x->s[begin]) {
        end += 1 + (x->s[end] == '\\');
    }
    if (end >= x->len) {
        return lex_error(x, begin, "the string has no end");
    }
    x->scratch.len = 0;
    for (size_t i = begin + 1; i < end;) {
        if (x->s[i] != '\\') {
            buf_append(&x->scratch, x->s + i++, 1);
            continue;
        }
        size_t n = unescape(x, x->s + i + 1, end - i - 1);
        if (!n) {
            return lex_error(x, i, "not an escape that makes a character");
        }
        i += 1 + n;
    }
    x->pos = end + 1;
    return add_text(x, TOKEN_STRING, begin, x->scratch.data ? x->scratch.data : "", x->scratch.len);
}

static int lex_operator(struct lexer *x) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = x->s[x->pos];
    struct template_token token = {.kind = TOKEN_OPERATOR, .pos = (uint32_t)x->pos, .op = {c}};
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++) {
        if (at(x, x->pos, two[i])) {
            token.op[1] = two[i][1];
        }
    }
    if (!token.op[1] && (!c || !strchr("+-/*%~[](){}><=.:|,;", c))) {
        return lex_error(x, x->pos, "a character that means nothing here");
    }
    if (!token.op[1] && strchr("([{", c)) {
        x->open = mem_grow(x->open, x->n_open + 1, &x->cap_open, 1);
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (!token.op[1] && strchr(")]}", c)) {
        if (!x->n_open || x->open[--x->n_open] != c) {
            return lex_error(x, x->pos, "a closing bracket that does not fit what is open");
        }
    }
    *add(x, TOKEN_OPERATOR, x->pos) = token;
    x->pos += token.op[1] ? 2 : 1;
    return 0;
}

static int lex_word(struct lexer *x, bool *found) {
    size_t n, end = x->pos;
    *found = false;
    while (end < x->len) {
        if (!template_is_word(value_utf8_get(x->s + end, &n), end == x->pos)) {
            break;
        }
        end += n;
    }
    if (end == x->pos) {
        return 0;
    }
    *found = true;
    size_t begin = x->pos;
    x->pos = end;
    return add_text(x, TOKEN_NAME, begin, x->s + begin, end - begin);
}

/* All tokens of a tag up to its end, which is `mark`. */
static int lex_tag(struct lexer *x, bool statement) {
    const char *mark = statement ? "%}" : "}}";
    for (;;) {
        bool word = false;
        x->pos = skip_space(x, x->pos);
        if (x->pos >= x->len) {
            return 0; /* the parser misses the end */
        }
        size_t end = x->n_open ? 0 : tag_end(x, x->pos, mark, statement);
        if (end) {
            add(x, statement ? TOKEN_BLOCK_END : TOKEN_PRINT_END, x->pos);
            go(x, end);
            return 0;
        }
        char c = x->s[x->pos];
        int rc = c >= '0' && c <= '9'    ? lex_number(x)
                 : c == '"' || c == '\'' ? lex_string(x)
                                         : lex_word(x, &word);
        if (!rc && !word && !(c >= '0' && c <= '9') && c != '"' && c != '\'') {
            rc = lex_operator(x);
        }
        if (rc) {
            return -1;
        }
    }
}

static int lex_all(struct lexer *x) {
    while (x->pos < x->len) {
        size_t begin = x->pos, tag = begin;
        while (tag < x->len && !at(x, tag, "{%") && !at(x, tag, "{{") && !at(x, tag, "{#")) {
            tag++;
        }
        if (tag >= x->len) {
            x->pos = x->len;
            return add_text(x, TOKEN_DATA, begin, x->s + begin, x->len - begin);
        }
        char kind = x->s[tag + 1], sign = sign_at(x, tag + 2);
        size_t raw = kind == '%' ? raw_begin(x, tag) : 0;
        if (add_data(x, begin, tag, sign, kind != '{')) {
            return -1;
        }
        x->pos = tag + 2 + (sign != 0);
        int rc;
        if (raw) {
            rc = lex_raw(x, tag, raw);
        } else if (kind == '#') {
            rc = lex_comment(x, tag, x->pos);
        } else {
            add(x, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, tag);
            rc = lex_tag(x, kind == '%');
        }
        if (rc) {
            return -1;
        }
    }
    return 0;
}

int template_lex(struct template *t, struct template_token **tokens, struct err *err) {
    struct lexer x = {
        .t = t, .s = t->source->data, .len = t->source->len, .line_starting = true, .err = err};
    int rc = lex_all(&x);
    add(&x, TOKEN_END, x.len);
    buf_free(&x.scratch);
    free(x.open);
    if (rc) {
        free(x.tokens);
        x.tokens = NULL;
    }
    *tokens = x.tokens;
    return rc;
}
