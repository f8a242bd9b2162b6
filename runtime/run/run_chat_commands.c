/*
 * run_chat_commands: what a person can ask of a talk beside talking. See run_chat.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/number.h"
#include "runtime/run/run_chat.h"

/* ---- settings ------------------------------------------------------------------------------- */

enum setting_kind { SETTING_FLOAT, SETTING_U32, SETTING_U64, SETTING_TOKENS };

struct setting {
    const char *name; /* of the option that sets it at the start */
    enum setting_kind kind;
    size_t at; /* in struct talk */
    double min, max;
};

#define SETTING(member) offsetof(struct talk, member)

static const struct setting settings[] = {
    {"temp", SETTING_FLOAT, SETTING(sampling.temperature), 0, 100},
    {"top-k", SETTING_U32, SETTING(sampling.top_k), 0, 1 << 30},
    {"top-p", SETTING_FLOAT, SETTING(sampling.top_p), 0, 1},
    {"min-p", SETTING_FLOAT, SETTING(sampling.min_p), 0, 1},
    {"repeat-penalty", SETTING_FLOAT, SETTING(sampling.repeat_penalty), 0.01, 100},
    {"repeat-last", SETTING_U32, SETTING(sampling.repeat_last_tok), 0, 1 << 30},
    {"seed", SETTING_U64, SETTING(sampling.seed), 0, 0x1p64},
    {"max-tokens", SETTING_TOKENS, SETTING(max_tokens), -1, 1 << 30},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static void print_setting(const struct talk *t, const struct setting *s) {
    const void *at = (const char *)t + s->at;
    switch (s->kind) {
    case SETTING_FLOAT:
        fprintf(stderr, "%s %g\n", s->name, *(const float *)at);
        break;
    case SETTING_U32:
        fprintf(stderr, "%s %" PRIu32 "\n", s->name, *(const uint32_t *)at);
        break;
    case SETTING_U64:
        fprintf(stderr, "%s %" PRIu64 "\n", s->name, *(const uint64_t *)at);
        break;
    case SETTING_TOKENS:
        fprintf(stderr, "%s %d\n", s->name, *(const int *)at);
    }
}

static int change_setting(struct talk *t, const struct setting *s, const char *text,
                          struct err *err) {
    void *at = (char *)t + s->at;
    char *end;
    errno = 0;
    double value = number_parse(text, &end);
    uint64_t whole = s->kind == SETTING_U64 ? strtoull(text, &end, 0) : 0;
    bool number = end != text && !*end && !errno && isfinite(value);
    if (!number || value < s->min || value > s->max ||
        (s->kind != SETTING_FLOAT && value != floor(value))) {
        return err_set(err, "/set %s %s: expected a %snumber from %g to %g", s->name, text,
                       s->kind == SETTING_FLOAT ? "" : "whole ", s->min, s->max);
    }
    switch (s->kind) {
    case SETTING_FLOAT:
        *(float *)at = (float)value;
        break;
    case SETTING_U32:
        *(uint32_t *)at = (uint32_t)value;
        break;
    case SETTING_U64:
        *(uint64_t *)at = whole;
        t->answers = 0; /* the next answer draws from this seed */
        break;
    case SETTING_TOKENS:
        *(int *)at = (int)value;
    }
    return 0;
}

static int do_set(struct chat *c, const char *arg, struct err *err) {
    const char *value = strchr(arg, ' ');
    size_t name = value ? (size_t)(value - arg) : strlen(arg);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        if (!name) {
            print_setting(&c->talk, s);
        } else if (strlen(s->name) == name && !memcmp(s->name, arg, name)) {
            int rc = value ? change_setting(&c->talk, s, value + strspn(value, " "), err) : 0;
            if (rc == 0) {
                print_setting(&c->talk, s);
            }
            return rc;
        }
    }
    return name ? err_set(err, "/set %s: no such setting; /set alone lists them", arg) : 0;
}

/* ---- the other commands ---------------------------------------------------------------------- */

static int do_help(struct chat *c, const char *arg, struct err *err) {
    struct buf text = {0};
    (void)c, (void)arg, (void)err;
    chat_commands_help(&text);
    fputs(text.data, stderr);
    buf_free(&text);
    return 0;
}

static int do_system(struct chat *c, const char *arg, struct err *err) {
    (void)err;
    talk_set_system(&c->talk, arg);
    fprintf(stderr, arg[0] ? "(system message set)\n" : "(no system message)\n");
    return 0;
}

static int do_clear(struct chat *c, const char *arg, struct err *err) {
    (void)arg, (void)err;
    talk_cut(&c->talk, talk_has_system(&c->talk));
    c->attached.len = 0;
    fprintf(stderr, "(the conversation is empty)\n");
    return 0;
}

/* The last question's place; -1 and `err` where nothing was asked. */
static int last_question(const struct chat *c, const char *command, size_t *at, struct err *err) {
    *at = talk_last_question(&c->talk);
    return *at < c->talk.n ? 0 : err_set(err, "%s: nothing was asked yet", command);
}

static int do_undo(struct chat *c, const char *arg, struct err *err) {
    size_t at;
    (void)arg;
    if (last_question(c, "/undo", &at, err) < 0) {
        return -1;
    }
    struct buf text = {0};
    const char *said = c->talk.messages[at].content;
    size_t n = strcspn(said, "\n");
    buf_append(&text, said, n < 60 ? n : 60);
    text_clean(text.data, text.len);
    fprintf(stderr, "(forgotten: %s%s)\n", text.data, said[text.len] ? "..." : "");
    buf_free(&text);
    talk_cut(&c->talk, at);
    return 0;
}

static int do_regenerate(struct chat *c, const char *arg, struct err *err) {
    size_t at;
    (void)arg;
    if (last_question(c, "/regenerate", &at, err) < 0) {
        return -1;
    }
    /* What was said is kept where nothing else comes. */
    struct talk_tail old = talk_take(&c->talk, at + 1);
    int rc = chat_answer(c, err);
    if (rc < 0) {
        talk_put_back(&c->talk, &old);
    }
    talk_drop(&old);
    return rc;
}

static int do_save(struct chat *c, const char *arg, struct err *err) {
    if (chat_save(&c->talk, arg, err) < 0) {
        return -1;
    }
    fprintf(stderr, "(%zu messages saved)\n", c->talk.n);
    return 0;
}

static int do_load(struct chat *c, const char *arg, struct err *err) {
    if (chat_load(&c->talk, arg, err) < 0) {
        return -1;
    }
    fprintf(stderr, "(%zu messages loaded)\n", c->talk.n);
    return 0;
}

static int do_stats(struct chat *c, const char *arg, struct err *err) {
    struct corm_stats stats = run_stats(&c->run);
    (void)arg, (void)err;
    fprintf(stderr,
            "context  %" PRIu32 " of %" PRIu32
            " tokens, %zu messages, %zu of them no longer seen\n",
            corm_session_length(c->run.session), c->run.info->ctx_tok, c->talk.n, c->talk.hidden);
    run_stats_print(NULL, &stats);
    run_sampling_print(&c->talk.sampling);
    return 0;
}

/* How much may go with a message: more than a context holds of any text that people write, and so
 * little that its way through the template is within the plan. */
static size_t file_bytes(const struct chat *c) {
    enum { SHORT_BYTES = 1 << 20, TOKEN_BYTES = 64 };
    uint64_t most = SHORT_BYTES + TOKEN_BYTES * (uint64_t)c->run.info->ctx_tok;
    return most < RUN_READ_BYTES ? (size_t)most : RUN_READ_BYTES;
}

static int do_file(struct chat *c, const char *arg, struct err *err) {
    struct buf text = {0};
    int rc = run_read(strcmp(arg, "-") == 0 ? "./-" : arg, &text, err);
    size_t at = 0, n;
    while (rc == 0 && at < text.len && text.data[at] &&
           text_next(text.data + at, text.len - at, &n) != TEXT_MALFORMED) {
        at += n;
    }
    if (rc == 0 && at < text.len) {
        rc = err_set(err, "%s: byte %zu is not text in UTF-8", arg, at);
    }
    if (rc == 0 && c->attached.len + text.len > file_bytes(c)) {
        rc = err_set(err,
                     "%s: at most %zu bytes go with a message to a context of %" PRIu32 " tokens",
                     arg, file_bytes(c), c->run.info->ctx_tok);
    }
    if (rc == 0) {
        buf_append(&c->attached, text.len ? text.data : "", text.len);
        buf_append(&c->attached, "\n", text.len && text.data[text.len - 1] != '\n');
        buf_append(&c->attached, "\n", 1);
        fprintf(stderr, "(%zu bytes go with the next message)\n", text.len);
    }
    buf_free(&text);
    return rc;
}

static int do_quit(struct chat *c, const char *arg, struct err *err) {
    (void)arg, (void)err;
    c->quits = true;
    return 0;
}

/* ---- the table ------------------------------------------------------------------------------ */

enum takes { TAKES_NOTHING, TAKES_SOME, TAKES_PATH };

static const struct {
    const char *name, *arg, *help; /* without help: another name, which is not listed */
    enum takes takes;              /* nothing; perhaps an argument; always one, a file's path */
    int (*run)(struct chat *c, const char *arg, struct err *err);
} commands[] = {
    {"help", "", "this list", TAKES_NOTHING, do_help},
    {"system", " TEXT", "the system message from now on; without TEXT, none", TAKES_SOME,
     do_system},
    {"clear", "", "forget everything except the system message", TAKES_NOTHING, do_clear},
    {"undo", "", "forget the last question and its answer", TAKES_NOTHING, do_undo},
    {"regenerate", "", "another answer to the last question", TAKES_NOTHING, do_regenerate},
    {"save", " PATH", "save the conversation as JSON, readable by you only", TAKES_PATH, do_save},
    {"load", " PATH", "go on with a saved conversation", TAKES_PATH, do_load},
    {"stats", "", "figures of the conversation so far", TAKES_NOTHING, do_stats},
    {"set", " NAME X", "how tokens are chosen; /set alone lists it", TAKES_SOME, do_set},
    {"file", " PATH", "send the text of a file with the next message, before it", TAKES_PATH,
     do_file},
    {"quit", "", "end; so does Ctrl-D", TAKES_NOTHING, do_quit},
    {"exit", "", NULL, TAKES_NOTHING, do_quit}, /* as other programs have it */
    {"bye", "", NULL, TAKES_NOTHING, do_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

void chat_commands_help(struct buf *out) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        char name[32];
        if (!commands[i].help) {
            continue;
        }
        snprintf(name, sizeof name, "/%s%s", commands[i].name, commands[i].arg);
        buf_printf(out, "  %-14s %s\n", name, commands[i].help);
    }
    buf_printf(out, "  %-14s %s\n", "//...", "a message that begins with one /");
}

enum chat_complete_kind chat_commands_complete(const char *typed, struct buf *out) {
    size_t name = strcspn(typed, " ");
    if (typed[0] != '/' || typed[1] == '/' || strchr(typed, '\n')) {
        return CHAT_COMPLETE_TEXT;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        const bool same =
            strlen(commands[i].name) + 1 == name && !memcmp(commands[i].name, typed + 1, name - 1);
        if (typed[name] && same && commands[i].takes == TAKES_PATH) {
            return CHAT_COMPLETE_PATH;
        }
        if (typed[name] && same && commands[i].run != do_set) {
            return CHAT_COMPLETE_TEXT;
        }
        if (!typed[name] && commands[i].help && !strncmp(commands[i].name, typed + 1, name - 1)) {
            buf_printf(out, "/%s\n", commands[i].name);
        }
    }
    const char *word = typed + name + strspn(typed + name, " ");
    for (size_t i = 0; typed[name] && i < N_SETTINGS; i++) {
        if (name == 4 && !memcmp(typed, "/set", 4) &&
            !strncmp(settings[i].name, word, strlen(word))) {
            buf_printf(out, "%s\n", settings[i].name);
        }
    }
    return CHAT_COMPLETE_WORDS;
}

static int obey(struct chat *c, const char *line, size_t name, const char *arg, struct err *err) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strlen(commands[i].name) != name || memcmp(commands[i].name, line + 1, name) != 0) {
            continue;
        }
        if (commands[i].takes == TAKES_NOTHING ? arg[0]
                                               : commands[i].takes == TAKES_PATH && !arg[0]) {
            return err_set(err, "usage: /%s%s", commands[i].name, commands[i].arg);
        }
        return commands[i].run(c, arg, err);
    }
    return err_set(err, "%s: no such command; /help lists them", line);
}

int chat_command(struct chat *c, const char *line, struct err *err) {
    size_t name = strcspn(line + 1, " ");
    char *arg = mem_strdup(line + 1 + name + strspn(line + 1 + name, " "));
    for (size_t n = strlen(arg); n > 0 && arg[n - 1] == ' '; n--) { /* completion leaves one */
        arg[n - 1] = 0;
    }
    int rc = obey(c, line, name, arg, err);
    free(arg);
    return rc;
}
