#include "format/text/chat.h"

#include <stdlib.h>
#include <string.h>

static const char *const reasoning_names[] = {"reasoning_content", "thinking", "reasoning"};

static int no_memory(struct err *err) {
    return err_set(err, "the conversation takes more memory than allowed");
}

static int set(struct value_arena *arena, struct value *dict, const char *key,
               const struct value *v) {
    return value_dict_set_text(arena, dict->dict, key, strlen(key), v);
}

static const struct value *get(const struct value *dict, const char *key) {
    const struct value *v = value_dict_get_text(dict->dict, key, strlen(key));
    return v && v->type != VALUE_NONE ? v : NULL;
}

/* One message: without what is null, and with its reasoning under the names that templates read. */
static int prepare_message(struct value_arena *arena, const struct value *message,
                           struct value *out) {
    const struct value *reasoning = NULL;
    for (size_t i = 0; i < sizeof reasoning_names / sizeof reasoning_names[0] && !reasoning; i++) {
        reasoning = get(message, reasoning_names[i]);
    }
    if (value_make_dict(arena, out) || (reasoning && set(arena, out, "thinking", reasoning))) {
        return -1;
    }
    for (size_t i = 0; i < message->dict->n; i++) {
        const struct value_pair *p = &message->dict->pairs[i];
        if (p->value.type != VALUE_NONE && value_dict_set(arena, out->dict, &p->key, &p->value)) {
            return -1;
        }
    }
    return reasoning ? set(arena, out, "reasoning_content", reasoning) : 0;
}

static int prepare_messages(struct value_arena *arena, const struct value *messages,
                            struct value *out, struct err *err) {
    size_t n = messages->list->n;
    struct value *items = value_alloc(arena, n * sizeof *items);
    for (size_t i = 0; items && i < n; i++) {
        const struct value *message = &messages->list->items[i];
        if (message->type != VALUE_DICT) {
            return err_set(err, "messages[%zu]: expected an object with role and content", i);
        }
        if (prepare_message(arena, message, &items[i])) {
            return no_memory(err);
        }
    }
    return !items || value_make_list(arena, VALUE_LIST, items, n, out) ? no_memory(err) : 0;
}

static int set_token(struct value_arena *arena, struct value *context, const char *name,
                     const struct tokenizer *tok, uint32_t id) {
    size_t n = 0;
    const char *piece = id == TOKEN_NONE ? NULL : tokenizer_piece(tok, id, &n);
    struct value text;
    return piece && (value_make_string(arena, piece, n, &text) || set(arena, context, name, &text))
               ? -1
               : 0;
}

int chat_context(struct value_arena *arena, const struct value *request,
                 const struct tokenizer *tok, const struct chat_book *book, struct value *context,
                 struct err *err) {
    const struct value *messages = request;
    const struct value none = value_none(), no = value_bool(false);
    struct value prepared;
    if (request->type == VALUE_DICT) {
        messages = get(request, "messages");
    }
    if (!messages || messages->type != VALUE_LIST) {
        return err_set(err, "expected a list of messages, or an object with one as messages");
    }
    if (prepare_messages(arena, messages, &prepared, err)) {
        return -1;
    }
    if (value_make_dict(arena, context) || set(arena, context, "messages", &prepared) ||
        set(arena, context, "tools", &none) || set(arena, context, "documents", &none) ||
        set(arena, context, "add_generation_prompt", &no) ||
        (tok && (set_token(arena, context, "bos_token", tok, tokenizer_bos(tok)) ||
                 set_token(arena, context, "eos_token", tok, tokenizer_eos(tok))))) {
        return no_memory(err);
    }
    for (size_t i = 0; book && i < book->n; i++) {
        const struct chat_entry *e = &book->entries[i];
        struct value text;
        if (e->kind == CHAT_ENTRY_TOKEN &&
            (value_make_string(arena, e->text, e->bytes, &text) ||
             value_dict_set_text(arena, context->dict, e->name, e->name_bytes, &text))) {
            return no_memory(err);
        }
    }
    for (size_t i = 0; request->type == VALUE_DICT && i < request->dict->n; i++) {
        const struct value_pair *p = &request->dict->pairs[i];
        if (!value_is_string(&p->key, "messages") &&
            value_dict_set(arena, context->dict, &p->key, &p->value)) {
            return no_memory(err);
        }
    }
    return 0;
}

int chat_ask(struct value_arena *arena, struct value *request) {
    const struct value yes = value_bool(true), list = *request;
    if (list.type != VALUE_DICT &&
        (value_make_dict(arena, request) || set(arena, request, "messages", &list))) {
        return -1;
    }
    return set(arena, request, "add_generation_prompt", &yes);
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* A copy of a dict with another value for one of its keys. */
static int with(struct value_arena *arena, const struct value *dict, const char *key,
                const struct value *v, struct value *out) {
    if (value_make_dict(arena, out)) {
        return -1;
    }
    for (size_t i = 0; i < dict->dict->n; i++) {
        const struct value_pair *p = &dict->dict->pairs[i];
        if (value_dict_set(arena, out->dict, &p->key,
                           value_is_string(&p->key, key) ? v : &p->value)) {
            return -1;
        }
    }
    return 0;
}

/* Applies `each` to the elements of the list that a dict has under `key`; `*out` is the dict with
 * what that made of them. */
static int with_each(struct value_arena *arena, const struct value *dict, const char *key,
                     int (*each)(struct value_arena *arena, const struct value *v,
                                 struct value *out),
                     struct value *out) {
    const struct value *list = dict->type == VALUE_DICT ? get(dict, key) : NULL;
    struct value made;
    *out = *dict;
    if (!list || list->type != VALUE_LIST) {
        return 0;
    }
    struct value *items = value_alloc(arena, list->list->n * sizeof *items);
    for (size_t i = 0; items && i < list->list->n; i++) {
        if (each(arena, &list->list->items[i], &items[i])) {
            return -1;
        }
    }
    return !items || value_make_list(arena, VALUE_LIST, items, list->list->n, &made) ||
                   with(arena, dict, key, &made, out)
               ? -1
               : 0;
}

static int parse_arguments(struct value_arena *arena, const struct value *call, struct value *out) {
    const struct value *text = call->type == VALUE_DICT ? get(call, "arguments") : NULL;
    struct value parsed;
    *out = *call;
    if (!text || text->type != VALUE_STRING) {
        return 0;
    }
    if (text->text->len == 0) {
        return value_make_dict(arena, &parsed) ? -1 : with(arena, call, "arguments", &parsed, out);
    }
    if (value_json_read(arena, text->text->data, text->text->len, &parsed, NULL) ||
        parsed.type != VALUE_DICT) {
        return 0; /* as the template takes it */
    }
    return with(arena, call, "arguments", &parsed, out);
}

static int parse_call(struct value_arena *arena, const struct value *call, struct value *out) {
    const struct value *function = call->type == VALUE_DICT ? get(call, "function") : NULL;
    struct value parsed;
    if (!function) {
        return parse_arguments(arena, call, out);
    }
    return parse_arguments(arena, function, &parsed) || with(arena, call, "function", &parsed, out)
               ? -1
               : 0;
}

static int parse_calls_of(struct value_arena *arena, const struct value *message,
                          struct value *out) {
    return with_each(arena, message, "tool_calls", parse_call, out);
}

int chat_parse_calls(struct value_arena *arena, const struct value *request, struct value *out) {
    struct value wrapped;
    if (request->type == VALUE_DICT) {
        return with_each(arena, request, "messages", parse_calls_of, out);
    }
    if (request->type != VALUE_LIST) {
        *out = *request;
        return 0;
    }
    if (value_make_dict(arena, &wrapped) || set(arena, &wrapped, "messages", request) ||
        with_each(arena, &wrapped, "messages", parse_calls_of, out)) {
        return -1;
    }
    *out = *get(out, "messages");
    return 0;
}

/* ---- ends of messages ------------------------------------------------------------------------ */

/* What is rendered again and again, with fewer messages. */
struct ends {
    struct value_arena *arena;
    const struct value *request; /* with marks */
    const struct tokenizer *tok;
    const struct template *t;
    const struct chat_book *book;
    const struct template_limits *limits;
    uint64_t memory_bytes;
    const struct tm *now;
    const struct chat_rendered *whole; /* its text with marks */
    size_t rendered_bytes;
};

/* The request with its first n messages only, perhaps a question behind them, and no prompt for an
 * answer. */
static int cut(const struct ends *e, const struct value *messages, size_t n, bool question,
               struct value *out) {
    const struct value no = value_bool(false);
    struct value *items = value_alloc(e->arena, (n + 1) * sizeof *items);
    struct value list, text;
    if (!items) {
        return -1;
    }
    memcpy(items, messages->list->items, n * sizeof *items);
    if (question &&
        (value_make_dict(e->arena, &items[n]) || value_make_string(e->arena, "user", 4, &text) ||
         set(e->arena, &items[n], "role", &text) || value_make_string(e->arena, ".", 1, &text) ||
         set(e->arena, &items[n], "content", &text))) {
        return -1;
    }
    if (value_make_list(e->arena, VALUE_LIST, items, n + question, &list)) {
        return -1;
    }
    if (e->request->type == VALUE_LIST) {
        *out = list;
        return 0;
    }
    return with(e->arena, e->request, "messages", &list, out) ||
                   set(e->arena, out, "add_generation_prompt", &no)
               ? -1
               : 0;
}

static size_t common_ids(const struct token_list *a, const struct token_list *b) {
    size_t n = 0;
    while (n < a->n && n < b->n && a->ids[n] == b->ids[n]) {
        n++;
    }
    return n;
}

/* What cannot be rendered or encoded has no end that can be told; that is no error of the whole. */
static uint32_t find_end(struct ends *e, size_t n, bool question) {
    const struct value *messages =
        e->request->type == VALUE_DICT ? get(e->request, "messages") : e->request;
    struct value some, context;
    struct token_list ids = {0};
    struct err err = {0};
    char *text = NULL;
    size_t bytes = 0, common = 0;
    if (n == 0 || n > messages->list->n || e->rendered_bytes > CHAT_ENDS_BYTES ||
        cut(e, messages, n, question, &some) ||
        chat_context(e->arena, &some, e->tok, e->book, &context, &err)) {
        return 0;
    }
    const bool made = template_render(e->t, &context, e->limits, e->now, &text, &bytes, &err) == 0;
    e->rendered_bytes += bytes;
    const bool begins = made && bytes <= e->whole->bytes && !memcmp(text, e->whole->text, bytes);
    if ((begins || (made && question)) &&
        chat_encode(e->tok, text, bytes, e->memory_bytes, &ids, &err) == 0) {
        common = common_ids(&ids, &e->whole->ids);
        common = common == ids.n || question ? common : 0;
    }
    token_list_free(&ids);
    free(text);
    return !made && !question ? find_end(e, n, true) : (uint32_t)common;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int chat_render(struct value_arena *arena, const struct value *request, const struct tokenizer *tok,
                const struct template *t, const struct chat_book *book,
                const struct template_limits *limits, uint64_t memory_bytes, const struct tm *now,
                bool parse, struct chat_rendered *out, struct err *err) {
    struct value parsed = *request, marked, context;
    if ((parse && chat_parse_calls(arena, request, &parsed)) ||
        chat_mark(arena, tok, t, book, &parsed, &marked)) {
        return no_memory(err);
    }
    if (chat_context(arena, &marked, tok, book, &context, err) ||
        template_render(t, &context, limits, now, &out->text, &out->bytes, err) ||
        chat_encode(tok, out->text, out->bytes, memory_bytes, &out->ids, err)) {
        return -1;
    }
    struct ends ends = {arena, &marked, tok, t, book, limits, memory_bytes, now, out, 0};
    for (size_t i = 0; i < out->n_ends; i++) {
        out->ends[i].n_tok = find_end(&ends, out->ends[i].messages, false);
    }
    out->bytes = chat_unmark(out->text, out->bytes);
    out->text[out->bytes] = 0;
    return 0;
}

int chat_try(const char *text, size_t len, const struct tokenizer *tok,
             const struct chat_book *book, bool tools, struct err *err) {
    static const char *const questions[] = {
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], "
        "\"add_generation_prompt\": true}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], "
        "\"add_generation_prompt\": true, \"tools\": [{\"type\": \"function\", \"function\": {"
        "\"name\": \"look\", \"description\": \"Look\", \"parameters\": {\"type\": \"object\", "
        "\"properties\": {\"at\": {\"type\": \"string\", \"description\": \"What\"}}, "
        "\"required\": [\"at\"]}}}]}"};
    const char *question = questions[tools];
    /* Any time will do: whether the template asks for it is no reason to refuse it. */
    struct tm now = {.tm_year = 124, .tm_mday = 1, .tm_wday = 1};
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value request, context;
    struct template *t = NULL;
    char *out = NULL;
    size_t n;
    int rc = template_compile(&t, text, len, err) ||
                     value_json_read(&arena, question, strlen(question), &request, err) ||
                     chat_context(&arena, &request, tok, book, &context, err) ||
                     template_render(t, &context, &template_usual_limits, &now, &out, &n, err)
                 ? -1
                 : 0;
    free(out);
    template_free(t);
    value_arena_free(&arena);
    return rc;
}
