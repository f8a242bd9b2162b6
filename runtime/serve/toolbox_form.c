/*
 * toolbox: the form of an answer that calls tools; see toolbox.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/params.h"
#include "runtime/serve/toolbox.h"

static int64_t added(void *ctx, const char *token, size_t bytes) {
    const struct server *s = ctx;
    return corm_added_token(s->engine, token, bytes);
}

int32_t toolbox_first_token(const struct server *s) {
    const char *opening = tools_opening(s->ways->row);
    int32_t id = -1;
    for (const char *const *t = s->ways->row->tokens; *t && id < 0; t++) {
        id = strncmp(opening, *t, strlen(*t)) == 0 ? corm_added_token(s->engine, *t, strlen(*t))
                                                   : -1;
    }
    return id;
}

/* Schemas as texts; the last one may be that of an answer without calls. */
struct schemas {
    struct corm_grammar_schema *list;
    struct buf *texts;
    size_t n;
};

static void free_schemas(struct schemas *all) {
    for (size_t i = 0; all->texts && i < all->n; i++) {
        buf_free(&all->texts[i]);
    }
    free(all->texts);
    free(all->list);
}

enum { SCHEMAS_BYTES = 1 << 20 }; /* of all together, as of a grammar */

/* -1: they are larger than that. */
static int write_schemas(const struct toolbox *box, const struct tools_schema *from, size_t n,
                         const struct params *form, struct schemas *all) {
    size_t left = SCHEMAS_BYTES;
    static const char object[] = "{\"type\": \"object\"}";
    const struct value_json_style style = {0};
    all->n = n + (form != NULL);
    all->list = mem_calloc(all->n + 1, sizeof *all->list);
    all->texts = mem_calloc(all->n + 1, sizeof *all->texts);
    for (size_t i = 0; i < all->n; i++) {
        struct value_writer w = {.out = &all->texts[i], .max_bytes = left};
        struct err err = {0};
        if (i < n && value_json_write(&w, from[i].schema, &style, &err) < 0) {
            return -1;
        }
        if (i == n) {
            bool any = form->form == CORM_GRAMMAR_JSON_OBJECT;
            buf_append(&all->texts[i], any ? object : form->form_text.data,
                       any ? sizeof object - 1 : form->form_text.len);
        }
        left -= i < n ? all->texts[i].len : 0;
        all->list[i] = (struct corm_grammar_schema){.name = i < n ? from[i].name : "answer",
                                                    .schema = all->texts[i].data,
                                                    .schema_bytes = all->texts[i].len,
                                                    .strict = i == n || box->strict[from[i].tool]};
    }
    return 0;
}

static void note_remarks(const struct server *s, char *remarks) {
    enum { MOST = 16 };
    int n = 0;
    for (char *line = remarks, *end; line && (end = strchr(line, '\n')) && n < MOST;
         line = end + 1, n++) {
        *end = 0;
        char *clean = text_cleaned(line);
        reply_note(s, "tools: %.400s", clean);
        free(clean);
    }
}

int toolbox_grammar(const struct server *s, const struct toolbox *box, bool opened,
                    const struct params *form, struct corm_grammar **grammar,
                    struct problem *problem) {
    const struct tools_grammar how = {.row = s->ways->row,
                                      .tools = &box->tools,
                                      .allowed = box->allowed,
                                      .one = box->one,
                                      .opened = opened,
                                      .other = form ? "answer" : NULL,
                                      .added = added,
                                      .ctx = (void *)s};
    struct value_arena arena = {.limit_bytes = box->arena.limit_bytes};
    struct tools_schema *from = NULL;
    struct schemas all = {0};
    struct buf rules = {0};
    struct corm_error error;
    char *remarks = NULL;
    size_t n = 0;
    int rc = -1;
    if (form && form->form == CORM_GRAMMAR_GBNF) {
        problem_set(problem, 400, "invalid_value", form->form_field,
                    "%s: not beside tools, which may be called", form->form_field);
        goto out;
    }
    if (tools_write_grammar(&how, &arena, &rules, &from, &n) < 0) {
        problem_set(problem, 413, NULL, "tools", "tools: the request takes too much memory");
        goto out;
    }
    if (write_schemas(box, from, n, form, &all) < 0) {
        problem_set(problem, 400, "invalid_value", "tools",
                    "tools: the schemas have more than %d bytes with the definitions that they use",
                    SCHEMAS_BYTES);
        goto out;
    }
    rc = corm_grammar_open_with(grammar, s->engine, rules.data, rules.len, all.list, all.n,
                                &remarks, &error);
    if (rc < 0) {
        problem_set(problem, 400, "invalid_value", "tools", "tools: %s", error.message);
    }
    note_remarks(s, remarks);
out:
    free(remarks);
    free_schemas(&all);
    free(from);
    buf_free(&rules);
    value_arena_free(&arena);
    return rc;
}
