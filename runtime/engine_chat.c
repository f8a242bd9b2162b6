/*
 * engine_chat: from what is said to the text that a model continues.
 *
 * Owns: corm_chat_prompt.
 * Leaves to others: conversations and templates (format/text), whose memory is bounded here by what
 * the plan leaves for small things.
 */
#include "runtime/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/text/chat.h"
#include "format/text/template.h"
#include "format/text/value.h"

/* Of text and of values; a conversation that a person types is far below. */
enum { CHAT_BYTES = 8 << 20 };

static int set(struct value_arena *arena, struct value *dict, const char *key, const char *text) {
    struct value v;
    return value_make_string(arena, text, strlen(text), &v) ||
                   value_dict_set_text(arena, dict->dict, key, strlen(key), &v)
               ? -1
               : 0;
}

/* The request that chat_context takes. */
static int make_request(struct value_arena *arena, const struct corm_message *messages, size_t n,
                        struct value *request, struct err *err) {
    struct value *items = value_alloc(arena, n * sizeof *items);
    size_t bad;
    for (size_t i = 0; items && i < n; i++) {
        if (!value_utf8_check(messages[i].content, strlen(messages[i].content), &bad)) {
            return err_set(err, "byte %zu of what the %s says is not UTF-8", bad, messages[i].role);
        }
        if (value_make_dict(arena, &items[i]) || set(arena, &items[i], "role", messages[i].role) ||
            set(arena, &items[i], "content", messages[i].content)) {
            items = NULL;
        }
    }
    if (!items || value_make_list(arena, VALUE_LIST, items, n, request) ||
        chat_ask(arena, request)) {
        return err_set(err, "the conversation is longer than %d bytes", CHAT_BYTES);
    }
    return 0;
}

int corm_chat_prompt(const struct corm_engine *engine, const char *chat_template,
                     const char *template_name, const struct corm_message *messages,
                     size_t n_messages, char **text, size_t *text_bytes, struct corm_error *error) {
    struct template_limits limits = template_usual_limits;
    struct value_arena arena = {.limit_bytes = CHAT_BYTES};
    struct value request, context;
    struct template *t = NULL;
    struct err err = {0};
    struct tm now;
    time_t seconds = time(NULL);
    const char *source = chat_template ? chat_template : engine->chat_template;
    int rc = -1;
    limits.bytes = CHAT_BYTES;
    localtime_r(&seconds, &now);
    if (!source) {
        err_set(&err, "%s: holds no chat template", engine->archive.map.path);
        goto out;
    }
    if (make_request(&arena, messages, n_messages, &request, &err) ||
        chat_context(&arena, &request, engine->tokenizer, &context, &err)) {
        goto out;
    }
    if (template_compile(&t, source, strlen(source), &err) ||
        template_render(t, &context, &limits, &now, text, text_bytes, &err)) {
        err_prefix(&err, "chat template");
        if (template_name) {
            err_prefix(&err, "%s", template_name);
        }
        goto out;
    }
    rc = 0;
out:
    template_free(t);
    value_arena_free(&arena);
    return rc ? engine_fail(error, &err) : 0;
}
