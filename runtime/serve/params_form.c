/*
 * params_form: what an answer has to look like. See params.h.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/params.h"

static int set_form(struct params *p, const char *field, enum corm_grammar_form form,
                    struct problem *problem) {
    if (p->form_field) {
        return problem_set(problem, 400, "invalid_value", field, "%s: %s says the form already",
                           field, p->form_field);
    }
    p->form_field = field;
    p->form = form;
    return 0;
}

static int too_long(const char *field, struct problem *problem) {
    return problem_set(problem, 400, "invalid_value", field, "%s: longer than %d bytes", field,
                       PARAMS_MAX_FORM_BYTES);
}

static int set_schema(struct params *p, const char *field, const struct value *schema,
                      struct problem *problem) {
    struct value_writer w = {.out = &p->form_text, .max_bytes = PARAMS_MAX_FORM_BYTES};
    const struct value_json_style style = {0};
    struct err err = {0};
    if (set_form(p, field, CORM_GRAMMAR_JSON_SCHEMA, problem) < 0) {
        return -1;
    }
    return value_json_write(&w, schema, &style, &err) < 0 ? too_long(field, problem) : 0;
}

/* {"type": "text" or "json_object" or "json_schema"}. The schema is in an object `json_schema`, or,
 * as in responses, messages and of llama-server, beside the type. */
static int read_format(const struct value *v, const char *field, struct params *p,
                       struct problem *problem) {
    const struct value *type = NULL, *schema = NULL, *inner = NULL;
    if (v->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", field, "%s: expected an object", field);
    }
    type = field_get(v->dict, "type");
    schema = field_get(v->dict, "schema");
    inner = field_get(v->dict, "json_schema");
    if (!schema && inner && inner->type == VALUE_DICT) {
        schema = field_get(inner->dict, "schema");
    }
    if (!type || value_is_string(type, "text")) {
        return 0;
    }
    if (!value_is_string(type, "json_object") && !value_is_string(type, "json_schema")) {
        return problem_set(problem, 400, "unsupported_parameter", field,
                           "%s: expected the type text, json_object or json_schema", field);
    }
    if (schema) {
        return set_schema(p, field, schema, problem);
    }
    return value_is_string(type, "json_object")
               ? set_form(p, field, CORM_GRAMMAR_JSON_OBJECT, problem)
               : problem_set(problem, 400, "missing_required_parameter", field,
                             "%s: a schema is missing", field);
}

static int read_grammar(const struct value *v, struct params *p, struct problem *problem) {
    static const char field[] = "grammar";
    if (v->type != VALUE_STRING) {
        return problem_set(problem, 400, "invalid_type", field, "%s: expected a string", field);
    }
    if (v->text->len == 0) {
        return 0;
    }
    if (v->text->len > PARAMS_MAX_FORM_BYTES) {
        return too_long(field, problem);
    }
    buf_append(&p->form_text, v->text->data, v->text->len);
    return set_form(p, field, CORM_GRAMMAR_GBNF, problem);
}

int params_form_openai(const struct value_dict *body, struct params *p, struct problem *problem) {
    const struct value *grammar = field_get(body, "grammar");
    const struct value *schema = field_get(body, "json_schema");
    const struct value *format = field_get(body, "response_format");
    if ((format && read_format(format, "response_format", p, problem) < 0) ||
        (schema && set_schema(p, "json_schema", schema, problem) < 0) ||
        (grammar && read_grammar(grammar, p, problem) < 0)) {
        return -1;
    }
    return p->form_field && p->ignore_eos
               ? problem_set(problem, 400, "invalid_value", "ignore_eos",
                             "ignore_eos: %s says where the text ends", p->form_field)
               : 0;
}

int params_form_ollama(const struct value_dict *body, struct params *p, struct problem *problem) {
    static const char field[] = "format";
    const struct value *v = field_get(body, field);
    if (!v || (v->type == VALUE_STRING && v->text->len == 0)) {
        return 0;
    }
    if (v->type == VALUE_DICT) {
        return set_schema(p, field, v, problem);
    }
    return value_is_string(v, "json")
               ? set_form(p, field, CORM_GRAMMAR_JSON_OBJECT, problem)
               : problem_set(problem, 400, NULL, field, "%s: expected \"json\" or a JSON schema",
                             field);
}

int params_form_response(const struct value_dict *text, struct params *p, struct problem *problem) {
    const struct value *format = field_get(text, "format");
    return format ? read_format(format, "text.format", p, problem) : 0;
}

int params_form_anthropic(const struct value_dict *body, struct params *p,
                          struct problem *problem) {
    const struct value *format = field_get(body, "output_format");
    const struct value *config = field_get(body, "output_config");
    const struct value *later = NULL; /* where it is since it is no beta any more */
    if (config && config->type == VALUE_DICT) {
        later = field_get(config->dict, "format");
    }
    return (format && read_format(format, "output_format", p, problem) < 0) ||
                   (later && read_format(later, "output_config.format", p, problem) < 0)
               ? -1
               : 0;
}
