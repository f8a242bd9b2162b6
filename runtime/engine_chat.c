/*
 * engine_chat: from what is said to the text and the ids that a model continues.
 *
 * Owns: corm_chat_prompt, corm_chat_ids, and what they may take of the plan.
 * Leaves to others: conversations and templates (format/text), whose memory is bounded here.
 */
#include "runtime/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/text/chat.h"
#include "format/text/template.h"
#include "format/text/value.h"

enum { CHAT_BYTES = 8 << 20 }; /* within the plan's allowance; what a person types is far below */

/* What each of these may take at once: the conversation's values; those that a template makes; the
 * text that it writes; and another one, of the conversation's beginning (struct chat_end). */
static size_t share(const struct corm_engine *e) {
    const uint64_t bytes = e->opt.chat_bytes ? e->opt.chat_bytes : CHAT_BYTES;
    return (size_t)(bytes / 4);
}

static int too_long(const struct corm_engine *e, struct err *err) {
    return err_set(err, "the conversation takes more than %zu KiB of memory", share(e) >> 10);
}

static int set(struct value_arena *arena, struct value *dict, const char *key, const char *text) {
    struct value v;
    return value_make_string(arena, text, strlen(text), &v) ||
                   value_dict_set_text(arena, dict->dict, key, strlen(key), &v)
               ? -1
               : 0;
}

/* The request that chat_context takes, of messages. */
static int make_messages(const struct corm_engine *engine, struct value_arena *arena,
                         const struct corm_message *messages, size_t n, struct value *request,
                         struct err *err) {
    struct value *items = value_alloc(arena, n * sizeof *items);
    for (size_t i = 0; items && i < n; i++) {
        const struct corm_message *m = &messages[i];
        size_t bad;
        if (!value_utf8_check(m->content, strlen(m->content), &bad) ||
            (m->thinking && !value_utf8_check(m->thinking, strlen(m->thinking), &bad))) {
            return err_set(err, "byte %zu of what the %s says is not UTF-8", bad, m->role);
        }
        if (value_make_dict(arena, &items[i]) || set(arena, &items[i], "role", m->role) ||
            set(arena, &items[i], "content", m->content) ||
            (m->thinking && set(arena, &items[i], "reasoning_content", m->thinking))) {
            items = NULL;
        }
    }
    if (!items || value_make_list(arena, VALUE_LIST, items, n, request)) {
        return too_long(engine, err);
    }
    return 0;
}

static int make_request(const struct corm_engine *engine, struct value_arena *arena,
                        const struct corm_chat *chat, struct value *request, struct err *err) {
    if (!chat->json) {
        if (make_messages(engine, arena, chat->messages, chat->n_messages, request, err)) {
            return -1;
        }
    } else if (value_json_read(arena, chat->json, chat->json_bytes, request, err)) {
        return err_prefix(err, "the conversation");
    } else if (request->type != VALUE_LIST && request->type != VALUE_DICT) {
        return err_set(err, "expected a list of messages, or an object with one as messages");
    }
    return chat_ask(arena, request) ? too_long(engine, err) : 0;
}

/* What fails in a template is told with the template's name. */
static int name_template(struct err *err, const char *name) {
    err_prefix(err, "chat template");
    return name ? err_prefix(err, "%s", name) : -1;
}

/* The text of a conversation; with `ids`, those too. */
static int render(const struct corm_engine *engine, const struct corm_chat *chat,
                  struct chat_rendered *out, bool ids, struct err *err) {
    struct template_limits limits = template_usual_limits;
    struct value_arena arena = {.limit_bytes = share(engine)};
    const char *source = chat->chat_template ? chat->chat_template : engine->chat_template;
    size_t bytes = source ? strlen(source) : 0;
    time_t seconds = time(NULL);
    struct value request, context;
    struct template *t = NULL;
    struct tm now;
    int rc = -1;
    limits.bytes = arena.limit_bytes;
    localtime_r(&seconds, &now);
    if (make_request(engine, &arena, chat, &request, err)) {
        goto out;
    }
    if (!chat->chat_template && chat_book_choose(&engine->book, &request, &source, &bytes, err)) {
        err_prefix(err, "%s", engine->archive.map.path);
        goto out;
    }
    if (template_compile(&t, source, bytes, err)) {
        name_template(err, chat->template_name);
        goto out;
    }
    if (ids) {
        rc = chat_render(&arena, &request, engine->tokenizer, t, &engine->book, &limits,
                         engine_encoder_bytes(engine), &now, !chat->keep_arguments, out, err);
    } else if (!chat_context(&arena, &request, engine->tokenizer, &engine->book, &context, err)) {
        rc = template_render(t, &context, &limits, &now, &out->text, &out->bytes, err);
    }
    if (rc && err->set && !strncmp(err->msg, "line ", 5)) {
        name_template(err, chat->template_name);
    }
out:
    template_free(t);
    value_arena_free(&arena);
    return rc;
}

int corm_chat_prompt(const struct corm_engine *engine, const char *chat_template,
                     const char *template_name, const struct corm_message *messages,
                     size_t n_messages, char **text, size_t *text_bytes, struct corm_error *error) {
    const struct corm_chat chat = {.messages = messages,
                                   .n_messages = n_messages,
                                   .chat_template = chat_template,
                                   .template_name = template_name};
    struct chat_rendered out = {0};
    struct err err = {0};
    if (render(engine, &chat, &out, false, &err)) {
        free(out.text);
        return engine_fail(error, &err);
    }
    *text = out.text;
    *text_bytes = out.bytes;
    return 0;
}

int corm_chat_ids(const struct corm_engine *engine, const struct corm_chat *chat, int32_t **ids,
                  size_t *n_ids, char **text, size_t *text_bytes, struct corm_error *error) {
    struct chat_end *ends = mem_calloc(chat->n_ends, sizeof *ends);
    struct chat_rendered out = {.ends = ends, .n_ends = chat->n_ends};
    struct err err = {0};
    for (size_t i = 0; i < chat->n_ends; i++) {
        ends[i].messages = chat->ends[i].messages;
    }
    const int rc = render(engine, chat, &out, true, &err);
    for (size_t i = 0; i < chat->n_ends; i++) {
        chat->ends[i].n_tok = ends[i].n_tok;
    }
    free(ends);
    if (rc) {
        free(out.text);
        token_list_free(&out.ids);
        return engine_fail(error, &err);
    }
    *ids = (int32_t *)out.ids.ids; /* below the vocabulary, so below 2^31 */
    *n_ids = out.ids.n;
    if (text) {
        *text = out.text;
        *text_bytes = out.bytes;
    } else {
        free(out.text);
    }
    return 0;
}
