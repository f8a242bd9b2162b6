/*
 * run_prompt: what a text begins with, from the command line, a file or standard input, to ids;
 * see run.h.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/run/run.h"

/* Of a message: a template is given all of it. */
static int read_message(struct run_prompt *p, const char *path, struct err *err) {
    struct buf *text = &p->message;
    if (run_read(path, text, err) < 0) {
        return -1;
    }
    if (text->len > 0 && text->data[text->len - 1] == '\n') {
        text->data[--text->len] = '\0'; /* a message ends with its text */
    }
    return 0;
}

static int read_prompt(struct run_prompt *p, const char *path, struct err *err) {
    if (p->o->chat) {
        return read_message(p, path, err);
    }
    if (run_text_open(&p->text, path, err) < 0) {
        return -1;
    }
    p->text.trimmed = true; /* of the newline that ends a file, not the prompt */
    return run_text_measure(&p->text, err);
}

int run_prompt_open(struct run_prompt *p, const struct run_prompt_options *o,
                    const struct cli_call *call, bool goes_on, struct err *err) {
    const struct run_writing *writing = call->values;
    const char *text = call->args.count > 1 ? call->args.items[1] : o->prompt;
    const int ways = (call->args.count > 1) + cli_given(call, "prompt") + cli_given(call, "file");
    p->o = o;
    p->writing = writing;
    run_text_of(&p->text, "", 0);
    if (!o->chat && (writing->system || writing->chat_template)) {
        err_set(err, "--system and --chat-template are for --chat");
        return CLI_USAGE;
    }
    if (o->chat && (o->no_bos || o->no_special)) {
        err_set(err, "--chat writes special tokens: --no-bos and --no-special are not for it");
        return CLI_USAGE;
    }
    if (goes_on && ways == 0) {
        return 0; /* the session goes on by itself */
    }
    if (ways > 1) {
        err_set(err, "TEXT, -p and -f exclude each other");
        return CLI_USAGE;
    }
    if (text && strcmp(text, "-") != 0) {
        run_text_of(&p->text, text, strlen(text));
        if (o->chat) {
            buf_append(&p->message, text, strlen(text));
        }
        return 0;
    }
    /* A terminal would wait for a prompt that nobody was asked for. */
    if (ways > 0 || !isatty(STDIN_FILENO)) {
        int rc = read_prompt(p, o->file ? o->file : "-", err);
        if (rc < 0 || ways > 0 || p->message.len > 0 || p->text.bytes > 0) {
            return rc;
        }
    }
    err_set(err, "a prompt is missing: TEXT, -p TEXT, -f FILE, or standard input");
    return CLI_USAGE;
}

/* With --chat: the ids of what was asked, as the chat template has it. */
static int put_as_chat(struct run_prompt *p, const struct run *r, struct run_form *form,
                       struct err *err) {
    const struct buf *text = &p->message;
    struct corm_message messages[2];
    struct corm_chat chat = {.messages = messages};
    struct corm_error error;
    struct buf source = {0};
    char *prompt = NULL;
    size_t n = 0, bytes = 0;
    if (text->len && text->len != strlen(text->data)) {
        return err_set(err, "--chat takes no text with a NUL in it");
    }
    if (run_read_template(r, p->writing->chat_template, &source, &chat, err) < 0) {
        buf_free(&source);
        return -1;
    }
    if (p->writing->system) {
        messages[n++] = (struct corm_message){"system", p->writing->system};
    }
    messages[n++] = (struct corm_message){"user", text->len ? text->data : ""};
    chat.n_messages = n;
    int rc = corm_chat_ids(r->engine, &chat, &p->ids.ids, &p->ids.n, &prompt, &bytes, &error);
    if (rc == 0) {
        run_form_begin(form, prompt, bytes);
    }
    free(prompt);
    buf_free(&source);
    return rc ? run_fail(err, &error) : 0;
}

/* The ids of a prompt for which there is `room`, and how many of it there are, to *n_all: exactly,
 * or *more than that. */
static int take_ids(struct run_prompt *p, const struct run *r, struct run_form *form, size_t room,
                    uint64_t *n_all, bool *more, struct err *err) {
    const bool begins = corm_session_length(r->session) == 0;
    struct run_tokens k = {0};
    if (p->o->chat) {
        int rc = put_as_chat(p, r, form, err);
        *n_all = p->ids.n;
        return rc;
    }
    int rc = run_tokens_open(&k, r, &p->text, !p->o->no_bos && begins, !p->o->no_special, err);
    rc = rc ? rc : run_tokens_all(&k, room, &p->ids, n_all, err);
    *more = !k.ended;
    run_tokens_close(&k);
    return rc;
}

int run_prompt_take(struct run_prompt *p, const struct run *r, struct run_form *form,
                    struct err *err) {
    const uint32_t before = corm_session_length(r->session);
    const size_t room = r->info->ctx_tok - before;
    uint64_t n = 0;
    bool more = false;
    int rc = take_ids(p, r, form, room, &n, &more, err);
    if (rc != 0) {
        return rc;
    }
    if (n == 0 && before == 0) {
        return err_set(err,
                       "the prompt is empty, and the model's tokenizer begins no text by itself");
    }
    if (n > room) {
        const char *than = more ? "more than " : "";
        n -= more;
        return before == 0 ? err_set(err,
                                     "the prompt has %s%" PRIu64
                                     " tokens, the context holds %u; --ctx-size "
                                     "N makes it larger",
                                     than, n, r->info->ctx_tok)
                           : err_set(err,
                                     "the session has %u tokens and the prompt %s%" PRIu64
                                     ", the context holds %u; --ctx-size N makes it larger",
                                     before, than, n, r->info->ctx_tok);
    }
    return 0;
}

void run_prompt_plan(const struct run_prompt *p, struct run *r) {
    enum { CHAT_COPIES = 8, SHORT_TOK = 4096, GROWTH = 2 }; /* a message's way into a template */
    const uint64_t ctx = p->writing->ctx ? (uint64_t)p->writing->ctx : SHORT_TOK;
    const uint64_t most = p->text.bytes < ctx ? p->text.bytes : ctx;
    r->wish.text_bytes = p->o->chat ? p->message.len : p->text.bytes;
    r->wish.chat_bytes = p->o->chat ? run_chat_bytes(p->message.len) : 0;
    r->wish.caller_bytes = CHAT_COPIES * (uint64_t)p->message.len + GROWTH * most * sizeof(int32_t);
}

void run_prompt_close(struct run_prompt *p) {
    free(p->ids.ids);
    buf_free(&p->message);
    run_text_close(&p->text);
}
