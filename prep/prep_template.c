/*
 * prep_template: the command `corm-prep template`, which shows what a chat template makes of a
 * conversation.
 *
 * Owns: its options, where template and conversation come from, what is printed.
 * Leaves to others: all that prep.h lists; templates and conversations (format/text).
 * Threads: the main thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/corm_read.h"
#include "format/text/chat.h"
#include "format/text/template.h"
#include "format/text/tokenizer.h"
#include "format/text/value.h"
#include "prep/prep.h"

enum { MAX_CONVERSATION_BYTES = 64 << 20 };

struct template_command {
    struct prep_options prep;
    const char *messages, *chat_template;
    bool prompt, raw;
};

/* The template: of the archive, by the option's name or as the request asks; else the option's
 * file, `*file`, which is to be freed. */
static int find_template(const struct template_command *o, const char *path,
                         const struct tokenizer *tok, const struct chat_book *book,
                         const struct value *request, uint8_t **file, const char **text,
                         size_t *bytes, struct err *err) {
    const char *name = o->chat_template;
    const struct chat_entry *e =
        name ? chat_book_find(book, CHAT_ENTRY_TEMPLATE, name, strlen(name)) : NULL;
    *file = NULL;
    *text = tokenizer_chat_template(tok, bytes);
    if (e) {
        *text = e->text;
        *bytes = e->bytes;
    } else if (name && (!*text || strcmp(name, "default") != 0)) {
        int rc = file_read(name, TEMPLATE_MAX_BYTES, file, bytes, err);
        *text = (const char *)*file;
        return rc;
    } else if (!name && chat_book_choose(book, request, text, bytes, err) < 0) {
        return err_prefix(err, "%s", path);
    }
    return 0;
}

static int read_request(const struct template_command *o, struct value_arena *arena,
                        struct value *request, struct err *err) {
    uint8_t *file = NULL;
    size_t bytes;
    int rc = file_read(o->messages, MAX_CONVERSATION_BYTES, &file, &bytes, err);
    if (!rc && value_json_read(arena, (const char *)file, bytes, request, err)) {
        rc = err_prefix(err, "%s", o->messages);
    }
    free(file);
    if (rc || !o->prompt) {
        return rc;
    }
    return chat_ask(arena, request) ? err_set(err, "%s: more than the memory allowed", o->messages)
                                    : 0;
}

/* Prints what the template makes of the conversation. Errors name the file that is at fault: of the
 * archive only those of what it holds. */
static int render(const struct template_command *o, const char *path, const struct tokenizer *tok,
                  const struct chat_book *book, struct err *err) {
    struct value_arena arena = {.limit_bytes = 4 * (size_t)MAX_CONVERSATION_BYTES};
    struct value request, context;
    struct template *t = NULL;
    uint8_t *file = NULL;
    const char *text;
    char *out = NULL;
    size_t bytes, n = 0;
    time_t seconds = time(NULL);
    struct tm now;
    int rc = -1;
    localtime_r(&seconds, &now);
    if (read_request(o, &arena, &request, err) ||
        find_template(o, path, tok, book, &request, &file, &text, &bytes, err)) {
        goto out;
    }
    if (chat_context(&arena, &request, tok, book, &context, err)) {
        err_prefix(err, "%s", o->messages);
        goto out;
    }
    if (template_compile(&t, text, bytes, err) ||
        template_render(t, &context, &template_usual_limits, &now, &out, &n, err)) {
        if (o->chat_template) {
            err_prefix(err, "%s", o->chat_template);
        } else {
            err_prefix(err, "%s: chat template", path);
        }
        goto out;
    }
    prep_print_text(out, n, o->raw);
    rc = 0;
out:
    free(out);
    free(file);
    template_free(t);
    value_arena_free(&arena);
    return rc;
}

static int show(const struct cli_call *call, struct err *err) {
    const struct template_command *o = call->values;
    const char *path = call->args.items[0];
    struct tokenizer *tok = NULL;
    struct chat_book book = {0};
    struct corm c;
    if (!o->messages) {
        err_set(err, "template needs --messages FILE.json");
        return CLI_USAGE;
    }
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    int rc = tokenizer_open(c.tokenizer.data, c.tokenizer.size_bytes, &tok, err);
    if (rc < 0) {
        err_prefix(err, "%s: tokenizer", path);
    } else if ((rc = chat_book_open(&book, c.conversations.data, c.conversations.size_bytes, err)) <
               0) {
        err_prefix(err, "%s", path);
    } else {
        rc = render(o, path, tok, &book, err);
    }
    chat_book_close(&book);
    tokenizer_close(tok);
    corm_close(&c);
    return rc;
}

#define FIELD(member) CLI_FIELD(struct template_command, member)

static const struct cli_option template_rows[] = {
    {"messages", 'm', CLI_STRING, FIELD(messages), "FILE.json",
     .help = "The conversation: a list of messages, or an object with messages and what else the "
             "template is to see (tools, add_generation_prompt, enable_thinking)."},
    {"generation-prompt", 'g', CLI_FLAG, FIELD(prompt),
     .help = "End where the model's answer begins: add_generation_prompt is true."},
    {"chat-template", 0, CLI_STRING, FIELD(chat_template), "NAME",
     .help = "Another of the archive's templates by its name, else a file. By itself the template "
             "is tool_use where there is one and the conversation has tools, else default."},
    {"raw", 0, CLI_FLAG, FIELD(raw),
     .help = "Send control characters to a terminal as they are, and do not show them as ^[ and "
             "the like."},
    {0}};
static const struct cli_group template_group = {"Rendering", template_rows};

const struct cli_command prep_template_command = {
    "template",
    "show what the chat template makes of a conversation",
    show,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&template_group},
    .values_bytes = sizeof(struct template_command),
    .examples = "corm-prep template model.corm -m chat.json --generation-prompt",
    .description = "Prints the text that a model is given, byte for byte as transformers' "
                   "apply_chat_template makes it; a terminal is shown its control characters as ^[ "
                   "and the like. What fails is told with its line and column."};
