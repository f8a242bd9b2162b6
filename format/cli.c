/*
 * cli: parsing; the help text is in cli_help.c, sizes are in cli_size.c.
 */
#include "format/cli.h"
#include "format/cli_guess.h"
#include "format/number.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LONGEST_NAME = 40 };

/* -- tables --------------------------------------------------------------------------------- */

static const size_t field_size[] = {
    [CLI_FLAG] = sizeof(bool),
    [CLI_INT] = sizeof(int),
    [CLI_U64] = sizeof(uint64_t),
    [CLI_DOUBLE] = sizeof(double),
    [CLI_STRING] = sizeof(char *),
    [CLI_SIZE] = sizeof(uint64_t),
    [CLI_LIST] = sizeof(struct cli_list),
    [CLI_BUDGET] = sizeof(struct cli_budget),
    [CLI_ENUM] = sizeof(int),
    [CLI_ARGUMENT] = 0,
};

/* Whether a word is the one of `len` bytes at `name`, in which _ counts as -. */
static bool is_called(const char *called, size_t called_len, const char *name, size_t len) {
    for (size_t i = 0; i < len && called_len == len; i++) {
        if (called[i] != name[i] && !(called[i] == '-' && name[i] == '_')) {
            return false;
        }
    }
    return called_len == len;
}

/* Whether the words of `list`, parted by blanks (NULL: none), have that name. */
static bool lists_name(const char *list, const char *name, size_t len) {
    for (size_t n; list && *list; list += n + (list[n] == ' ')) {
        n = strcspn(list, " ");
        if (is_called(list, n, name, len)) {
            return true;
        }
    }
    return false;
}

/* The option of a command with this name (or, where name is NULL, this letter); NULL where there is
 * none. `index` counts through the command's groups. */
static const struct cli_option *find_option(const struct cli_command *c, const char *name,
                                            size_t len, char letter, unsigned *index) {
    unsigned i = 0;
    for (int g = 0; g < CLI_MAX_GROUPS && c->groups[g]; g++) {
        for (const struct cli_option *o = c->groups[g]->options; o->name; o++, i++) {
            bool same = name ? lists_name(o->name, name, len) || lists_name(o->also, name, len)
                             : o->letter == letter;
            if (same) {
                *index = i;
                return o;
            }
        }
    }
    return NULL;
}

static bool others_lead_to(const struct cli_command *c, const struct cli_option *o) {
    unsigned index = 0;
    for (const char *also = o->also; also && *also;) {
        size_t n = strcspn(also, " ");
        if (find_option(c, also, n, 0, &index) != o) {
            return false;
        }
        also += n + (also[n] == ' ');
    }
    return true;
}

/* A wrong table is a mistake of the programmer: found at every start, so in every test. */
static void check_tables(const struct cli_program *program) {
    for (size_t k = 0; program->commands[k]; k++) {
        const struct cli_command *c = program->commands[k];
        unsigned i = 0, found = 0;
        for (int g = 0; g < CLI_MAX_GROUPS && c->groups[g]; g++) {
            for (const struct cli_option *o = c->groups[g]->options; o->name; o++, i++) {
                if (o->size != field_size[o->kind]) {
                    die("option --%s: its field has another type than its kind", o->name);
                }
                if (o->offset + o->size > c->values_bytes) {
                    die("option --%s: its field is not in the options of '%s'", o->name, c->name);
                }
                if (find_option(c, o->name, strlen(o->name), 0, &found) != o ||
                    !others_lead_to(c, o) ||
                    (o->letter && find_option(c, NULL, 0, o->letter, &found) != o)) {
                    die("option --%s: name or letter taken twice in '%s'", o->name, c->name);
                }
            }
        }
        if (i > CLI_MAX_OPTIONS) {
            die("command '%s' has more than %d options", c->name, CLI_MAX_OPTIONS);
        }
    }
}

static const struct cli_command *find_command(const struct cli_program *p, const char *name) {
    for (size_t i = 0; p->commands[i]; i++) {
        if (strcmp(p->commands[i]->name, name) == 0) {
            return p->commands[i];
        }
    }
    return NULL;
}

static struct cli_guess guess_command(const struct cli_program *p, const char *name) {
    struct cli_guess g = {.word = name, .len = strlen(name)};
    for (size_t i = 0; p->commands[i]; i++) {
        cli_guess_try(&g, p->commands[i]->name);
    }
    return g;
}

static void command_names(const struct cli_program *p, struct buf *out) {
    for (size_t i = 0; p->commands[i]; i++) {
        buf_printf(out, "%s%s", i > 0 ? ", " : "", p->commands[i]->name);
    }
}

bool cli_given(const struct cli_call *call, const char *name) {
    unsigned index = 0;
    if (call->command && find_option(call->command, name, strlen(name), 0, &index)) {
        return call->given >> index & 1;
    }
    for (size_t i = 0; call->program->commands[i]; i++) {
        if (find_option(call->program->commands[i], name, strlen(name), 0, &index)) {
            return false;
        }
    }
    die("no command has an option --%s", name);
}

/* -- values --------------------------------------------------------------------------------- */

static void list_add(struct cli_list *list, const char *item) {
    list->items = mem_realloc(list->items, (list->count + 1) * sizeof *list->items);
    list->items[list->count++] = item;
}

void cli_list_free(struct cli_list *list) {
    free(list->items);
    *list = (struct cli_list){0};
}

void *cli_values_new(const struct cli_command *c) {
    void *values = mem_calloc(1, c->values_bytes ? c->values_bytes : 1);
    if (c->defaults) {
        c->defaults(values);
    }
    return values;
}

void cli_values_free(const struct cli_command *c, void *values) {
    for (int g = 0; values && g < CLI_MAX_GROUPS && c->groups[g]; g++) {
        for (const struct cli_option *o = c->groups[g]->options; o->name; o++) {
            if (o->kind == CLI_LIST) {
                cli_list_free((struct cli_list *)((char *)values + o->offset));
            }
        }
    }
    free(values);
}

static int range_error(const struct cli_option *o, const char *spelled, const char *text,
                       struct err *err) {
    if (isinf(o->max)) {
        return err_set(err, "%s must be at least %.10g, not '%s'", spelled, o->min, text);
    }
    return err_set(err, "%s must be from %.10g to %.10g, not '%s'", spelled, o->min, o->max, text);
}

static int set_number(const struct cli_option *o, void *field, const char *spelled,
                      const char *text, struct err *err) {
    const char *kind = o->kind == CLI_DOUBLE ? "a number" : "a whole number";
    char *end = NULL;
    double v = 0;
    errno = 0;
    bool fits = true;
    if (isspace((unsigned char)text[0])) {
        end = NULL;
    } else if (o->kind == CLI_DOUBLE) {
        v = number_parse(text, &end);
        if (isfinite(v)) {
            *(double *)field = v;
        } else if (errno != ERANGE) {
            end = NULL; /* "inf", "nan" */
        }
        fits = isfinite(v);
    } else if (o->kind == CLI_INT) {
        long n = strtol(text, &end, 10);
        fits = errno != ERANGE && n >= INT_MIN && n <= INT_MAX;
        *(int *)field = fits ? (int)n : 0;
        v = (double)n;
    } else if (text[0] != '-') {
        bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        unsigned long long n = strtoull(text, &end, hex ? 16 : 10);
        fits = errno != ERANGE;
        *(uint64_t *)field = n;
        v = (double)n;
    }
    if (!end || end == text || *end) {
        return err_set(err, "%s wants %s%s, not '%s'", spelled, kind,
                       o->kind == CLI_U64 ? ", 0 or more" : "", text);
    }
    if (o->min < o->max && !(fits && v >= o->min && v <= o->max)) {
        return range_error(o, spelled, text, err);
    }
    if (!fits) {
        return err_set(err, "%s: '%s' is out of range", spelled, text);
    }
    return 0;
}

static int set_word(const struct cli_option *o, int *field, const char *spelled, const char *text,
                    struct err *err) {
    struct cli_guess g = {.word = text, .len = strlen(text)};
    char words[256] = "", hint[96];
    size_t len = 0;
    for (int i = 0; o->words[i]; i++) {
        if (strcmp(o->words[i], text) == 0) {
            *field = i;
            return 0;
        }
        cli_guess_try(&g, o->words[i]);
        int n = snprintf(words + len, sizeof words - len, "%s%s", i ? ", " : "", o->words[i]);
        len += (size_t)n < sizeof words - len ? (size_t)n : sizeof words - len - 1;
    }
    cli_guess_text(&g, "", hint, sizeof hint);
    return err_set(err, "%s must be one of %s, not '%s'%s", spelled, words, text, hint);
}

/* Sets the field of an option; `text` is NULL for a flag. `spelled` is the option as typed. */
static int set_value(struct cli_call *call, const struct cli_option *o, const char *spelled,
                     const char *text, struct err *err) {
    void *field = (char *)call->values + o->offset;
    struct err why = {0};
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)field = true;
        return 0;
    case CLI_INT:
    case CLI_U64:
    case CLI_DOUBLE:
        return set_number(o, field, spelled, text, err);
    case CLI_STRING:
        *(const char **)field = text;
        return 0;
    case CLI_LIST:
        list_add(field, text);
        return 0;
    case CLI_SIZE:
        cli_size_parse(text, field, &why);
        break;
    case CLI_BUDGET:
        cli_budget_parse(text, field, &why);
        break;
    case CLI_ENUM:
        return set_word(o, field, spelled, text, err);
    case CLI_ARGUMENT:
        list_add(&call->args, text);
        memmove(call->args.items + 1, call->args.items,
                (call->args.count - 1) * sizeof *call->args.items);
        call->args.items[0] = text;
        return 0;
    }
    return why.set ? err_set(err, "%s: %s", spelled, why.msg) : 0;
}

/* -- parsing -------------------------------------------------------------------------------- */

struct parser {
    struct cli_call *call;
    struct err *err;
    int argc, i; /* argv[i] is being read */
    char **argv;
};

/* What a word, spelled with its dashes, is in other programs; NULL where that is not known. */
static const char *familiar(const struct parser *p, const char *word, size_t len) {
    const struct cli_familiar *f = p->call->program->familiar;
    for (; f && f->spellings; f++) {
        if (lists_name(f->spellings, word, len)) {
            return f->here;
        }
    }
    return NULL;
}

/* `word`, of `len` bytes, begins with one or two dashes. */
static int unknown_option(struct parser *p, const char *word, size_t len) {
    const size_t dashes = word[1] == '-' ? 2 : 1;
    struct cli_guess g = {.word = word + dashes, .len = len - dashes};
    const struct cli_command *c = p->call->command;
    const char *here = familiar(p, word, len);
    if (here) {
        return err_set(p->err, "unknown option '%.*s': %s", (int)len, word, here);
    }
    for (int k = 0; dashes == 2 && c && k < CLI_MAX_GROUPS && c->groups[k]; k++) {
        for (const struct cli_option *o = c->groups[k]->options; o->name; o++) {
            cli_guess_try(&g, o->name);
        }
    }
    if (dashes == 2) {
        cli_guess_try(&g, "help");
        cli_guess_try(&g, "version");
    }
    char hint[96];
    cli_guess_text(&g, "--", hint, sizeof hint);
    return err_set(p->err, "unknown option '%.*s'%s", (int)len, word, hint);
}

/* `--name`, `--name=value`, `--name value` */
static int parse_long(struct parser *p) {
    const char *name = p->argv[p->i] + 2;
    size_t len = strcspn(name, "=");
    const char *value = name[len] ? name + len + 1 : NULL;
    if (!value && strcmp(name, "help") == 0) {
        return CLI_HELP;
    }
    if (!value && strcmp(name, "version") == 0) {
        return CLI_VERSION;
    }
    unsigned index = 0;
    const struct cli_command *c = p->call->command;
    const struct cli_option *o = c ? find_option(c, name, len, 0, &index) : NULL;
    if (!o) {
        return unknown_option(p, name - 2, len + 2);
    }
    char spelled[LONGEST_NAME + 3];
    snprintf(spelled, sizeof spelled, "--%s", o->name);
    if (o->kind == CLI_FLAG && value) {
        return err_set(p->err, "%s takes no value, but has '%s'", spelled, value);
    }
    if (o->kind != CLI_FLAG && !value) {
        if (p->i + 1 == p->argc) {
            return err_set(p->err, "%s needs a value: %s %s", spelled, spelled,
                           o->metavar ? o->metavar : "VALUE");
        }
        value = p->argv[++p->i];
    }
    p->call->given |= (uint64_t)1 << index;
    return set_value(p->call, o, spelled, value, p->err) < 0 ? -1 : CLI_RUN;
}

/* `-x`, `-xyz` for flags, `-nvalue`, `-n value`. Words of several letters that other programs know
 * are not taken apart, and -h is help only at the end. */
static int parse_short(struct parser *p) {
    const char *word = p->argv[p->i];
    const size_t len = strcspn(word, "=");
    if (familiar(p, word, len)) {
        return unknown_option(p, word, len);
    }
    for (const char *s = word + 1; *s; s++) {
        char spelled[] = {'-', *s, '\0'};
        unsigned index = 0;
        const struct cli_command *c = p->call->command;
        const struct cli_option *o = c ? find_option(c, NULL, 0, *s, &index) : NULL;
        if (!o && *s == 'h' && !s[1]) {
            return CLI_HELP;
        }
        if (!o && *s == 'h') {
            return unknown_option(p, word, len);
        }
        if (!o) {
            return err_set(p->err, "unknown option '%s'", spelled);
        }
        p->call->given |= (uint64_t)1 << index;
        if (o->kind == CLI_FLAG) {
            set_value(p->call, o, spelled, NULL, p->err);
            continue;
        }
        const char *value = s + 1;
        if (!*value) {
            if (p->i + 1 == p->argc) {
                return err_set(p->err, "%s needs a value: %s %s", spelled, spelled,
                               o->metavar ? o->metavar : "VALUE");
            }
            value = p->argv[++p->i];
        }
        return set_value(p->call, o, spelled, value, p->err) < 0 ? -1 : CLI_RUN;
    }
    return CLI_RUN;
}

/* A first word that names no command may be the argument of the command that runs by default: an
 * option, or the name of a file, which looks like one or is there. */
static bool may_be_file(const char *word) {
    return !word || strpbrk(word, "./") || word[0] == '-' || access(word, F_OK) == 0;
}

/* Picks the command and steps over its name. Returns CLI_RUN, CLI_HELP for `help`, or -1. */
static int parse_command(struct parser *p) {
    const struct cli_program *program = p->call->program;
    const char *word = p->i < p->argc ? p->argv[p->i] : NULL;
    if (word && strcmp(word, "help") == 0) {
        word = p->argv[++p->i]; /* argv ends in NULL */
        p->call->command = word ? find_command(program, word) : NULL;
        return word && !p->call->command ? err_set(p->err, "no command '%s' to help with", word)
                                         : CLI_HELP;
    }
    p->call->command = word ? find_command(program, word) : NULL;
    if (p->call->command) {
        p->i++;
        return CLI_RUN;
    }
    if (program->default_command >= 0 && may_be_file(word)) {
        p->call->command = program->commands[program->default_command];
        return CLI_RUN;
    }
    if (word && word[0] == '-') {
        return CLI_RUN; /* --help or --version; parse_long refuses others */
    }
    struct buf names = {0};
    command_names(program, &names);
    if (word) {
        struct cli_guess g = guess_command(program, word);
        char hint[96];
        cli_guess_text(&g, "", hint, sizeof hint);
        bool guessed = hint[0];
        err_set(p->err, "unknown command '%s'%s%s", word, guessed ? hint : ": expected one of ",
                guessed ? "" : names.data);
    } else {
        err_set(p->err, "a command is missing: one of %s", names.data);
    }
    buf_free(&names);
    return -1;
}

static int check_args(struct parser *p) {
    const struct cli_command *c = p->call->command;
    const struct cli_list *args = &p->call->args;
    if (args->count < (size_t)c->min_args) {
        return err_set(p->err, "an argument is missing: expected %s", c->args);
    }
    if (c->max_args < 0 || args->count <= (size_t)c->max_args) {
        return 0;
    }
    return err_set(p->err, "one argument too many: '%s'", args->items[c->max_args]);
}

int cli_parse(const struct cli_program *program, int argc, char **argv, struct cli_call *call,
              struct err *err) {
    *call = (struct cli_call){.program = program};
    check_tables(program);
    struct parser p = {.call = call, .err = err, .argc = argc, .i = 1, .argv = argv};
    bool named = argc > 1 && find_command(program, argv[1]);
    int action = parse_command(&p);
    if (call->command) {
        call->values = cli_values_new(call->command);
    }
    bool options = true;
    for (; action == CLI_RUN && p.i < argc; p.i++) {
        const char *word = argv[p.i];
        if (!options || word[0] != '-' || !word[1]) {
            list_add(&call->args, word);
        } else if (strcmp(word, "--") == 0) {
            options = false;
        } else {
            action = word[1] == '-' ? parse_long(&p) : parse_short(&p);
        }
    }
    if (action == CLI_RUN && !call->command) {
        return err_set(err, "a command is missing");
    }
    if (action == CLI_RUN && check_args(&p) < 0) {
        return -1;
    }
    if (action == CLI_HELP && !named && argc > 1 && strcmp(argv[1], "help") != 0) {
        /* the program's help, not that of the command that runs by default */
        cli_values_free(call->command, call->values);
        call->command = NULL;
        call->values = NULL;
    }
    return action;
}

void cli_free(struct cli_call *call) {
    cli_values_free(call->command, call->values);
    call->values = NULL;
    cli_list_free(&call->args);
}

/* -- main ----------------------------------------------------------------------------------- */

static unsigned help_width(void) {
    struct winsize w;
    if (!isatty(1) || ioctl(1, TIOCGWINSZ, &w) != 0 || w.ws_col == 0) {
        return 80;
    }
    return w.ws_col < 50 ? 50 : w.ws_col > 100 ? 100 : w.ws_col;
}

static void print_error(const struct cli_call *call, const struct err *err, bool usage) {
    const char *program = call->program->name;
    fprintf(stderr, "%s: %s", program, err->msg);
    if (usage) {
        bool named = call->command &&
                     (call->program->default_command < 0 ||
                      call->command != call->program->commands[call->program->default_command]);
        fprintf(stderr, "; try '%s%s%s --help'", program, named ? " " : "",
                named ? call->command->name : "");
    }
    fputc('\n', stderr);
}

/* A program may be started with standard descriptors closed; then the next file it opens would get
 * the number, and messages would be written into that file. Filled with something that refuses
 * writing. */
static void fill_standard_descriptors(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDONLY);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2) {
        close(fd);
    }
}

int cli_main(const struct cli_program *program, int argc, char **argv) {
    fill_standard_descriptors();
    struct cli_call call;
    struct err err = {0};
    int status = 0;
    switch (cli_parse(program, argc, argv, &call, &err)) {
    case CLI_HELP: {
        struct buf text = {0};
        cli_help(program, call.command, help_width(), &text);
        fwrite(text.data, 1, text.len, stdout);
        buf_free(&text);
        break;
    }
    case CLI_VERSION:
        printf("%s %s\n", program->name, program->version);
        break;
    case CLI_RUN:
        status = call.command->run(&call, &err);
        status = status < 0 ? 1 : status;
        break;
    default:
        status = CLI_USAGE;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        err_errno(&err, errno, "cannot write to standard output");
        status = status ? status : 1;
    }
    if (err.set) {
        print_error(&call, &err, status == CLI_USAGE);
    }
    cli_free(&call);
    return status;
}
