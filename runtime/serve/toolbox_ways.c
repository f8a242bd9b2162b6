/*
 * toolbox: what a template makes of tools and of what the system says; see toolbox.h.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/thinking.h"
#include "runtime/serve/toolbox.h"

/* ---- the trial ---- */

#define QUESTION "corm_question"
#define NAME "corm_look_up"
#define ARGUMENTS "{\"corm_at\": \"corm value\", \"corm_count\": 42}"
#define TOOLS                                                                                      \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"" NAME                        \
    "\", \"description\": \"Look up\", \"parameters\": {\"type\": \"object\", \"properties\": "    \
    "{\"corm_at\": {\"type\": \"string\", \"description\": \"Where\"}, \"corm_count\": "           \
    "{\"type\": \"integer\", \"description\": \"How many\"}}, \"required\": [\"corm_at\"]}}}]"
#define USER "{\"role\": \"user\", \"content\": \"" QUESTION "\"}"

static const char ask_tools[] = "{\"messages\": [" USER "], " TOOLS "}";
/* The system speaks first, twice in front of the rest, and later: within and at the end. */
#define SYSTEM "{\"role\": \"system\", \"content\": \"" NAME "\"}"
#define AGAIN "{\"role\": \"user\", \"content\": \"corm_again\"}"
#define OTHER "{\"role\": \"system\", \"content\": \"corm_other\"}"
#define ANSWER "{\"role\": \"assistant\", \"content\": \"corm_answer\"}"
static const char ask_system[] = "{\"messages\": [" SYSTEM ", " USER "]}";
static const char ask_systems[] = "{\"messages\": [" SYSTEM ", " OTHER ", " USER "]}";
static const char ask_later[] =
    "{\"messages\": [" USER ", " ANSWER ", " SYSTEM ", " AGAIN ", " OTHER "]}";

/* The text that a request becomes, or NULL. */
static char *rendered(const struct server *s, const char *json, bool keep_arguments) {
    const struct corm_chat chat = {.json = json,
                                   .json_bytes = strlen(json),
                                   .keep_arguments = keep_arguments,
                                   .chat_template = s->chat_template,
                                   .template_name = s->template_name};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n, bytes;
    if (corm_chat_ids(s->engine, &chat, &ids, &n, &text, &bytes, NULL) < 0) {
        return NULL;
    }
    free(ids);
    return text;
}

/* What a text has behind the question. */
static const char *behind_question(const char *text) {
    const char *at = text;
    for (const char *next = text; (next = strstr(next, QUESTION)); next++) {
        at = next + sizeof QUESTION - 1;
    }
    return at;
}

/* With a call and its result in it: the row that reads what the template made of the call, from
 * where it goes on otherwise than the text that asks for an answer. */
static const struct tools_row *try_call(const struct server *s, const char *asking,
                                        const struct toolbox_ways *how) {
    static const char *const ids[] = {[TOOLBOX_IDS_ANY] = "call_abcdefghijklmnopqrstuvwx",
                                      [TOOLBOX_IDS_SHORT] = "abcdef012",
                                      [TOOLBOX_IDS_NAMED] = "functions." NAME ":0"};
    const char *id = ids[how->ids];
    static const char arguments[] = ARGUMENTS;
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct buf json = {0}, quoted = {0};
    struct value v;
    struct err err = {0};
    const struct tools_row *row = NULL;
    buf_append(&quoted, arguments, sizeof arguments - 1);
    if (how->text_arguments) {
        quoted.len = 0;
        buf_append(&quoted, "\"", 1);
        for (const char *p = arguments; *p; p++) {
            buf_printf(&quoted, *p == '"' ? "\\%c" : "%c", *p);
        }
        buf_append(&quoted, "\"", 1);
    }
    buf_printf(&json,
               "{\"messages\": [" USER ", {\"role\": \"assistant\", \"content\": \"\", "
               "\"tool_calls\": [{\"id\": \"%s\", \"type\": \"function\", \"function\": {\"name\": "
               "\"" NAME "\", \"arguments\": %s}}]}, {\"role\": \"tool\", \"content\": "
               "\"corm_result\", \"name\": \"" NAME "\", \"tool_call_id\": \"%s\"}], " TOOLS "}",
               id, quoted.data, id);
    char *text = rendered(s, json.data, how->text_arguments);
    if (text && strstr(text, "corm_result") &&
        value_json_read(&arena, arguments, sizeof arguments - 1, &v, &err) == 0) {
        const char *from = behind_question(text), *call = from, *other = behind_question(asking);
        while (*call && *call == *other) {
            call++;
            other++;
        }
        while (call > from && !strchr(" \n>]", call[-1])) { /* a tag may begin as another does */
            call--;
        }
        row = tools_find(call, strlen(call), NAME, &v);
    }
    free(text);
    buf_free(&json);
    buf_free(&quoted);
    value_arena_free(&arena);
    return row;
}

static void try_calls(const struct server *s, struct toolbox_ways *ways) {
    char *asking = rendered(s, ask_tools, false);
    for (int i = 0; asking && strstr(asking, NAME) && !ways->known && i < 6; i++) {
        ways->text_arguments = i & 1;
        ways->ids = (enum toolbox_ids)(i / 2);
        const struct tools_row *row = try_call(s, asking, ways);
        if (row) {
            ways->row = row;
            ways->known = true;
        }
    }
    if (!ways->known) {
        ways->text_arguments = false;
        ways->ids = TOOLBOX_IDS_ANY;
    }
    free(asking);
}

/* A special token is not part of a text, unless something is told from it. */
static void show(const struct server *s, struct toolbox_ways *ways, const char *token) {
    int32_t *ids = NULL;
    size_t n = 0, bytes = 1;
    char *text = NULL;
    if (corm_tokenize(s->engine, token, strlen(token), false, true, &ids, &n, NULL) < 0) {
        return;
    }
    if (n == 1 && corm_detokenize(s->engine, ids, 1, true, &text, &bytes, NULL) == 0 &&
        bytes == 0) {
        ways->shown = mem_realloc(ways->shown, (ways->n_shown + 1) * sizeof *ways->shown);
        ways->shown[ways->n_shown++] = ids[0];
    }
    free(text);
    free(ids);
}

/* Whether what a conversation becomes has both texts, in that order. */
static bool shows(const struct server *s, const char *json, const char *first, const char *then) {
    char *text = rendered(s, json, false);
    const char *at = text ? strstr(text, first) : NULL;
    bool yes = at && strstr(at, then);
    free(text);
    return yes;
}

void toolbox_try(const struct server *s, struct toolbox_ways *ways) {
    *ways = (struct toolbox_ways){
        .row = tools_plain_row(), .system = true, .systems = true, .later_system = true};
    if (s->chat_template || corm_chat_template(s->engine)) {
        ways->system = shows(s, ask_system, NAME, QUESTION);
        ways->systems = ways->system && shows(s, ask_systems, NAME, "corm_other");
        ways->later_system = shows(s, ask_later, "corm_answer", NAME) &&
                             shows(s, ask_later, NAME, "corm_again") &&
                             shows(s, ask_later, "corm_again", "corm_other");
        try_calls(s, ways);
    }
    for (size_t i = 0; thinking_token(i); i++) {
        show(s, ways, thinking_token(i));
    }
    for (const char *const *t = ways->row->tokens; *t; t++) {
        show(s, ways, *t);
    }
}

void toolbox_ways_free(struct toolbox_ways *ways) {
    free(ways->shown);
    *ways = (struct toolbox_ways){0};
}
