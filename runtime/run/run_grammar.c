/*
 * run_grammar: a form that the text of corm-run has to have. See run.h.
 */
#include <string.h>

#include "runtime/run/run.h"

#define FIELD(member) CLI_FIELD(struct run_writing, member)

static const struct cli_option form_rows[] = {
    {"grammar", 0, CLI_STRING, FIELD(form.grammar), "TEXT",
     .help = "Only texts of this grammar, in llama.cpp's GBNF (docs/GRAMMAR.md): no other token is "
             "drawn. Where -n or the context leaves few tokens, the text is brought to its end. "
             "Each call begins with the grammar's root, and in a chat each answer, behind what is "
             "thought."},
    {"grammar-file", 0, CLI_STRING, FIELD(form.grammar_file), "FILE",
     .help = "The same of a file."},
    {"json-schema", 'j', CLI_STRING, FIELD(form.json_schema), "TEXT",
     .help = "Only JSON that is valid by this JSON schema: {} is any. What of a schema is not "
             "supported is refused by name."},
    {"json-schema-file", 0, CLI_STRING, FIELD(form.json_schema_file), "FILE",
     .help = "The same of a file."},
    {0},
};

const struct cli_group run_form_group = {"Form of the text", form_rows};

int run_form_read(struct run_form *f, const struct run_form_options *o, struct err *err) {
    const struct {
        const char *value;
        bool is_file, is_schema;
    } ways[] = {
        {o->grammar, false, false},
        {o->grammar_file, true, false},
        {o->json_schema, false, true},
        {o->json_schema_file, true, true},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (!ways[i].value) {
            continue;
        }
        if (f->given) {
            err_set(err, "--grammar, --grammar-file, --json-schema and --json-schema-file exclude "
                         "each other");
            return CLI_USAGE;
        }
        f->given = true;
        f->kind = ways[i].is_schema ? CORM_GRAMMAR_JSON_SCHEMA : CORM_GRAMMAR_GBNF;
        f->file = ways[i].is_file ? ways[i].value : NULL;
        if (!ways[i].is_file) {
            buf_append(&f->text, ways[i].value, strlen(ways[i].value));
        } else if (run_read(ways[i].value, &f->text, err) < 0) {
            return -1;
        }
    }
    return 0;
}

int run_form_open(struct run_form *f, const struct corm_engine *engine, struct err *err) {
    struct corm_error error;
    if (!f->given) {
        return 0;
    }
    if (corm_grammar_open(&f->grammar, engine, f->kind, f->text.len ? f->text.data : "",
                          f->text.len, &error) < 0) {
        run_fail(err, &error);
        return f->file ? err_prefix(err, "%s", f->file) : -1;
    }
    f->state = corm_grammar_begin(f->grammar);
    return 0;
}

void run_form_begin(struct run_form *f, const char *prompt, size_t bytes) {
    if (f->state) {
        corm_grammar_end(f->state);
        f->state = corm_grammar_begin(f->grammar);
        thinking_begin(&f->thinking, prompt, bytes);
        f->waits = f->thinking.tags != NULL;
    }
}

int run_form_allow(struct run_form *f, uint64_t left_tok, struct corm_sampling *how,
                   struct err *err) {
    struct corm_error error;
    how->allowed = NULL;
    if (f->state && !f->waits &&
        corm_grammar_allowed(f->state, (size_t)left_tok, &how->allowed, &error) < 0) {
        return run_fail(err, &error);
    }
    return 0;
}

int run_form_accept(struct run_form *f, int32_t id, const char *text, size_t bytes, bool *over,
                    struct err *err) {
    struct corm_error error;
    *over = false;
    if (f->waits) {
        f->waits = thinking_goes_on(&f->thinking, text, bytes);
    } else if (f->state) {
        if (corm_grammar_accept(f->state, id, &error) < 0) {
            return run_fail(err, &error);
        }
        *over = corm_grammar_is_over(f->state);
    }
    return 0;
}

void run_form_close(struct run_form *f) {
    corm_grammar_end(f->state);
    corm_grammar_close(f->grammar);
    thinking_free(&f->thinking);
    buf_free(&f->text);
    *f = (struct run_form){0};
}
