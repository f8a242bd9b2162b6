/*
 * cli: the text of --help, from the tables.
 */
#include "format/cli.h"

#include <stdio.h>
#include <string.h>

enum { INDENT = 4, TEXT_COLUMN = 30 };

static void spaces(struct buf *out, unsigned n) {
    buf_printf(out, "%*s", (int)n, "");
}

/* Columns of `n` bytes of UTF-8. */
static unsigned columns_of(const char *s, size_t n) {
    unsigned columns = 0;
    for (size_t i = 0; i < n; i++) {
        columns += ((unsigned char)s[i] & 0xc0) != 0x80;
    }
    return columns;
}

/* Appends words up to `end`, broken between words so that no line passes `width`; `column` is where
 * the cursor is, `indent` where further lines begin. Ends the last line. */
static void wrap(struct buf *out, const char *s, const char *end, unsigned column, unsigned indent,
                 unsigned width) {
    bool first = true;
    while (s < end) {
        while (s < end && *s == ' ') {
            s++;
        }
        const char *word = s;
        while (s < end && *s != ' ') {
            s++;
        }
        if (word == s) {
            break;
        }
        unsigned wide = columns_of(word, (size_t)(s - word));
        if (!first && column + 1 + wide > width) {
            buf_append(out, "\n", 1);
            spaces(out, indent);
            column = indent;
        } else if (!first) {
            buf_append(out, " ", 1);
            column++;
        }
        buf_append(out, word, (size_t)(s - word));
        column += wide;
        first = false;
    }
    buf_append(out, "\n", 1);
}

/* Paragraphs parted by '\n', with an empty line between; lines that start with a blank stay as they
 * are, and close together. */
static void paragraphs(struct buf *out, const char *text, unsigned width) {
    bool before = false, before_fixed = false;
    while (*text) {
        size_t len = strcspn(text, "\n");
        bool fixed = text[0] == ' ';
        if (before && !(fixed && before_fixed)) {
            buf_append(out, "\n", 1);
        }
        spaces(out, INDENT);
        if (fixed) {
            buf_printf(out, "%.*s\n", (int)len, text);
        } else {
            wrap(out, text, text + len, INDENT, INDENT, width);
        }
        before = true;
        before_fixed = fixed;
        text += len + (text[len] == '\n');
    }
}

static void examples(struct buf *out, const char *text, unsigned width) {
    if (!text) {
        return;
    }
    buf_printf(out, "\nEXAMPLES\n");
    while (*text) {
        size_t len = strcspn(text, "\n");
        if (text[0] == '#') {
            spaces(out, INDENT);
            wrap(out, text + 1, text + len, INDENT, INDENT, width);
        } else {
            spaces(out, 2 * INDENT);
            buf_printf(out, "%.*s\n", (int)len, text);
        }
        text += len + (text[len] == '\n');
    }
}

/* "Default: 0.8." where there is something to say. */
static void default_text(const struct cli_option *o, const void *values, struct buf *out) {
    const void *field = (const char *)values + o->offset;
    char size[CLI_SIZE_TEXT];
    if (o->fallback) {
        if (o->fallback[0]) {
            buf_printf(out, " Default: %s.", o->fallback);
        }
        return;
    }
    switch (o->kind) {
    case CLI_INT:
        buf_printf(out, " Default: %d.", *(const int *)field);
        break;
    case CLI_U64:
        buf_printf(out, " Default: %ju.", (uintmax_t) * (const uint64_t *)field);
        break;
    case CLI_DOUBLE:
        buf_printf(out, " Default: %g.", *(const double *)field);
        break;
    case CLI_SIZE:
        buf_printf(out, " Default: %s.", cli_size_text(size, *(const uint64_t *)field));
        break;
    case CLI_BUDGET: {
        const struct cli_budget *b = field;
        if (b->percent > 0) {
            buf_printf(out, " Default: %g%%.", b->percent);
        } else {
            buf_printf(out, " Default: %s.", cli_size_text(size, b->bytes));
        }
        break;
    }
    case CLI_STRING:
        if (*(const char *const *)field) {
            buf_printf(out, " Default: %s.", *(const char *const *)field);
        }
        break;
    case CLI_ENUM:
        buf_printf(out, " Default: %s.", o->words[*(const int *)field]);
        break;
    case CLI_FLAG:
    case CLI_LIST:
    case CLI_ARGUMENT:
        break;
    }
}

/* One entry: a head, and its text in the second column, or below where the head is too long. */
static void entry(struct buf *out, const char *head, const char *text, unsigned width) {
    unsigned text_column = width < 60 ? 2 * INDENT : TEXT_COLUMN;
    spaces(out, INDENT);
    buf_printf(out, "%s", head);
    unsigned column = INDENT + columns_of(head, strlen(head));
    if (column + 2 > text_column) {
        buf_append(out, "\n", 1);
        column = 0;
    }
    spaces(out, text_column - column);
    wrap(out, text, text + strlen(text), text_column, text_column, width);
}

static void option_entry(struct buf *out, const struct cli_option *o, const void *values,
                         unsigned width) {
    struct buf head = {0}, text = {0};
    if (o->letter) {
        buf_printf(&head, "-%c, --%s", o->letter, o->name);
    } else {
        buf_printf(&head, "    --%s", o->name);
    }
    if (o->kind == CLI_ENUM && !o->metavar) {
        for (int i = 0; o->words[i]; i++) {
            buf_printf(&head, "%s%s", i ? "|" : " ", o->words[i]);
        }
    } else if (o->kind != CLI_FLAG) {
        buf_printf(&head, " %s", o->metavar ? o->metavar : "VALUE");
    }
    buf_printf(&text, "%s", o->help ? o->help : "");
    default_text(o, values, &text);
    if (o->kind == CLI_LIST) {
        buf_printf(&text, " May be given several times.");
    }
    entry(out, head.data, text.data, width);
    buf_free(&head);
    buf_free(&text);
}

static void options(struct buf *out, const struct cli_command *c, unsigned width) {
    void *values = c ? cli_values_new(c) : NULL;
    buf_printf(out, "\nOPTIONS\n");
    for (int g = 0; c && g < CLI_MAX_GROUPS && c->groups[g]; g++) {
        buf_printf(out, "  %s\n", c->groups[g]->title);
        for (const struct cli_option *o = c->groups[g]->options; o->name; o++) {
            option_entry(out, o, values, width);
        }
        buf_append(out, "\n", 1);
    }
    entry(out, "-h, --help", "Show this help.", width);
    entry(out, "    --version", "Show the version.", width);
    cli_values_free(c, values);
}

static bool is_default(const struct cli_program *p, const struct cli_command *c) {
    return p->default_command >= 0 && c == p->commands[p->default_command];
}

static void synopsis(struct buf *out, const struct cli_program *p, const struct cli_command *c) {
    spaces(out, INDENT);
    buf_printf(out, "%s%s%s%s%s [OPTION...]\n", p->name, is_default(p, c) ? "" : " ",
               is_default(p, c) ? "" : c->name, c->args ? " " : "", c->args ? c->args : "");
}

static void exit_status(struct buf *out, const struct cli_program *p) {
    buf_printf(out, "\nEXIT STATUS\n"
                    "    0   done\n"
                    "    1   failed; one line on standard error says why\n"
                    "    2   wrong usage\n");
    for (const char *line = p->exit_status ? p->exit_status : ""; *line;) {
        size_t len = strcspn(line, "\n");
        buf_printf(out, "    %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

/* Whether the program has one command, which runs by default: its help is the program's then. */
static bool has_one(const struct cli_program *p) {
    return p->default_command == 0 && !p->commands[1];
}

static void command_help(const struct cli_program *p, const struct cli_command *c, unsigned width,
                         struct buf *out) {
    const bool one = has_one(p);
    const char *before = one && p->description ? p->description : "";
    buf_printf(out, "NAME\n    %s%s%s - %s\n\nSYNOPSIS\n", p->name, one ? "" : " ",
               one ? "" : c->name, one ? p->summary : c->summary);
    synopsis(out, p, c);
    if (c->description || before[0]) {
        struct buf text = {0};
        buf_printf(&text, "%s%s%s", before, before[0] && c->description ? "\n" : "",
                   c->description ? c->description : "");
        buf_printf(out, "\nDESCRIPTION\n");
        paragraphs(out, text.data, width);
        buf_free(&text);
    }
    options(out, c, width);
    examples(out, c->examples, width);
    exit_status(out, p);
}

void cli_help(const struct cli_program *p, const struct cli_command *c, unsigned width,
              struct buf *out) {
    if (c || has_one(p)) {
        command_help(p, c ? c : p->commands[0], width, out);
        return;
    }
    buf_printf(out, "NAME\n    %s - %s\n\nSYNOPSIS\n", p->name, p->summary);
    const struct cli_command *def =
        p->default_command >= 0 ? p->commands[p->default_command] : NULL;
    if (def) {
        synopsis(out, p, def);
    }
    for (size_t i = 0; p->commands[i]; i++) {
        if (p->commands[i] != def) {
            synopsis(out, p, p->commands[i]);
        }
    }
    if (p->description) {
        buf_printf(out, "\nDESCRIPTION\n");
        paragraphs(out, p->description, width);
    }
    buf_printf(out, "\nCOMMANDS\n");
    for (size_t i = 0; p->commands[i]; i++) {
        const struct cli_command *one = p->commands[i];
        struct buf text = {0};
        buf_printf(&text, "%s%s", one->summary, one == def ? " (the default)" : "");
        entry(out, one->name, text.data, width);
        buf_free(&text);
    }
    struct buf more = {0};
    buf_printf(&more, "'%s COMMAND --help' explains a command%s.", p->name,
               def ? "; the options below are those of the first form" : " and its options");
    buf_append(out, "\n", 1);
    paragraphs(out, more.data, width);
    buf_free(&more);
    options(out, def, width);
    examples(out, p->examples, width);
    exit_status(out, p);
}
