/* What can be called, and the values that only templates have: functions, macros, loops,
 * namespaces. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/template_internal.h"

enum { RANGE_MAX = 100000 }; /* elements, as jinja2's sandbox has it */

struct function {
    struct value_object object;
    const char *name;
    int (*call)(struct template_run *run, struct template_call *call, struct value *out);
};

/* ---- texts --------------------------------------------------------------------------------- */

static int write_macro(const struct value_object *object, struct value_writer *w, struct err *err) {
    const struct value_string *own = ((const struct template_macro *)object)->node->name;
    struct value name = {.type = VALUE_STRING, .text = own};
    value_put(w, "<Macro ", 7);
    if (own ? value_write(w, &name, true, err) : (value_put(w, "anonymous", 9), 0)) {
        return -1;
    }
    value_put(w, ">", 1);
    return 0;
}

static int write_range(const struct value_object *object, struct value_writer *w, struct err *err) {
    const struct template_range *r = (const struct template_range *)object;
    char text[96];
    (void)err;
    int n = r->step == 1 ? snprintf(text, sizeof text, "range(%lld, %lld)", (long long)r->start,
                                    (long long)r->stop)
                         : snprintf(text, sizeof text, "range(%lld, %lld, %lld)",
                                    (long long)r->start, (long long)r->stop, (long long)r->step);
    value_put(w, text, (size_t)n);
    return 0;
}

static int write_view(const struct value_object *object, struct value_writer *w, struct err *err) {
    const struct value_dict *dict = ((const struct template_view *)object)->dict;
    bool keys = object->class != &template_class_values;
    bool values = object->class != &template_class_keys;
    value_put(w, object->class->name, strlen(object->class->name));
    value_put(w, "([", 2);
    for (size_t i = 0; i < dict->n && !w->over; i++) {
        value_put(w, ", ", i ? 2 : 0);
        value_put(w, "(", keys && values);
        if ((keys && value_write(w, &dict->pairs[i].key, true, err)) ||
            (value_put(w, ", ", keys && values ? 2 : 0), 0) ||
            (values && value_write(w, &dict->pairs[i].value, true, err))) {
            return -1;
        }
        value_put(w, ")", keys && values);
    }
    value_put(w, "])", 2);
    return 0;
}

const struct value_class template_class_macro = {"Macro", write_macro};
const struct value_class template_class_bound = {"builtin_function_or_method", NULL};
const struct value_class template_class_loop = {"LoopContext", NULL};
const struct value_class template_class_namespace = {"TemplateNamespace", NULL};
const struct value_class template_class_range = {"range", write_range};
const struct value_class template_class_keys = {"dict_keys", write_view};
const struct value_class template_class_values = {"dict_values", write_view};
const struct value_class template_class_pairs = {"dict_items", write_view};
const struct value_class template_class_generator = {"generator", NULL};
const struct value_class template_class_joiner = {"Joiner", NULL};
const struct value_class template_class_function = {"function", NULL};
const struct value_class template_class_loop_method = {"method", NULL};

/* ---- arguments ----------------------------------------------------------------------------- */

int template_place_args(struct template_run *run, const char *what, const char *name,
                        const char *const *parameters, unsigned required,
                        const struct template_call *call, struct value *args) {
    unsigned n = 0;
    while (n < MAX_PARAMETERS && parameters[n]) {
        n++;
    }
    for (unsigned i = 0; i < MAX_PARAMETERS; i++) {
        args[i] = template_undefined(PARAMETER_ABSENT, NULL);
    }
    if (call->n > n) {
        return template_fail(run, "%s '%s' takes %u arguments at most, not %zu", what, name, n,
                             call->n);
    }
    for (size_t i = 0; i < call->n; i++) {
        args[i] = call->args[i];
    }
    for (size_t k = 0; k < call->n_named; k++) {
        unsigned i = 0;
        while (i < n && strcmp(parameters[i], call->names[k]->data) != 0) {
            i++;
        }
        if (i == n || i < call->n) {
            return template_fail(run, "%s '%s' takes no argument '%s'%s", what, name,
                                 call->names[k]->data, i == n ? "" : " besides those given");
        }
        args[i] = call->values[k];
    }
    for (unsigned i = 0; i < required; i++) {
        if (!template_given(&args[i])) {
            return template_fail(run, "%s '%s' needs its argument '%s'", what, name, parameters[i]);
        }
    }
    return 0;
}

/* ---- functions ----------------------------------------------------------------------------- */

static int call_range(struct template_run *run, struct template_call *call, struct value *out) {
    int64_t n[3] = {0, 0, 1};
    if (call->n < 1 || call->n > 3 || call->n_named) {
        return template_fail(run, "range takes one to three integers");
    }
    for (size_t i = 0; i < call->n; i++) {
        if (template_to_int(run, &call->args[i], "an argument of range", &n[i])) {
            return -1;
        }
    }
    if (call->n == 1) {
        n[1] = n[0];
        n[0] = 0;
    }
    if (!n[2]) {
        return template_fail(run, "range with a step of zero");
    }
    struct template_range *r = value_alloc(&run->arena, sizeof *r);
    if (!r) {
        return template_no_memory(run);
    }
    /* In unsigned numbers, where no difference overflows. */
    uint64_t span = n[2] > 0 ? (uint64_t)n[1] - (uint64_t)n[0] : (uint64_t)n[0] - (uint64_t)n[1];
    uint64_t step = n[2] > 0 ? (uint64_t)n[2] : 0 - (uint64_t)n[2];
    uint64_t count = (n[2] > 0 ? n[0] < n[1] : n[0] > n[1]) ? (span - 1) / step + 1 : 0;
    if (count > RANGE_MAX) {
        return template_fail(run, "a range of more than %d elements", RANGE_MAX);
    }
    *r = (struct template_range){{&template_class_range}, n[0], n[1], n[2], (size_t)count};
    *out = value_object(&r->object);
    return 0;
}

/* Pairs of a mapping, or of what iterates over pairs, into a dict. */
static int add_pairs(struct template_run *run, const struct value *from, struct value_dict *dict) {
    struct template_iter *it = NULL;
    struct value pair, list;
    for (size_t i = 0; from->type == VALUE_DICT && i < from->dict->n; i++) {
        const struct value_pair *p = &from->dict->pairs[i];
        if (value_dict_set(&run->arena, dict, &p->key, &p->value)) {
            return template_no_memory(run);
        }
    }
    if (from->type == VALUE_DICT) {
        return template_spend(run, from->dict->n);
    }
    if (template_iterate(run, from, &it)) {
        return -1;
    }
    for (;;) {
        int more = template_next(run, it, &pair);
        if (more <= 0) {
            return more;
        }
        if (template_collect(run, &pair, &list) || template_spend_on(run, &list)) {
            return -1;
        }
        if (list.list->n != 2 || !value_hashable(&list.list->items[0])) {
            return template_fail(run, "dict is made of pairs of a key and a value");
        }
        if (value_dict_set(&run->arena, dict, &list.list->items[0], &list.list->items[1])) {
            return template_no_memory(run);
        }
    }
}

static int call_dict(struct template_run *run, struct template_call *call, struct value *out) {
    if (call->n > 1) {
        return template_fail(run, "dict takes one mapping at most");
    }
    if (value_make_dict(&run->arena, out)) {
        return template_no_memory(run);
    }
    if (call->n && add_pairs(run, &call->args[0], out->dict)) {
        return -1;
    }
    for (size_t i = 0; i < call->n_named; i++) {
        struct value key = {.type = VALUE_STRING, .text = call->names[i]};
        if (value_dict_set(&run->arena, out->dict, &key, &call->values[i])) {
            return template_no_memory(run);
        }
    }
    return 0;
}

static int call_namespace(struct template_run *run, struct template_call *call, struct value *out) {
    struct template_namespace *space = value_alloc(&run->arena, sizeof *space);
    if (!space) {
        return template_no_memory(run);
    }
    space->object.class = &template_class_namespace;
    if (call_dict(run, call, &space->dict)) {
        return -1;
    }
    for (size_t i = 0; i < space->dict.dict->n; i++) {
        const struct value *key = &space->dict.dict->pairs[i].key;
        if (key->type == VALUE_STRING && key->text->data[0] == '_') {
            return template_fail(run, "attributes of a namespace do not begin with '_'");
        }
    }
    *out = value_object(&space->object);
    return 0;
}

static int call_raise(struct template_run *run, struct template_call *call, struct value *out) {
    static const char *const parameters[MAX_PARAMETERS] = {"message"};
    struct value args[MAX_PARAMETERS];
    (void)out;
    if (template_place_args(run, "function", "raise_exception", parameters, 1, call, args) ||
        template_text_of(run, &args[0], &args[0])) {
        return -1;
    }
    return template_fail(run, "the template refuses: %s", args[0].text->data);
}

static int call_strftime(struct template_run *run, struct template_call *call, struct value *out) {
    static const char *const parameters[MAX_PARAMETERS] = {"format"};
    struct value args[MAX_PARAMETERS];
    size_t begin = run->scratch.len;
    char text[512];
    if (template_place_args(run, "function", "strftime_now", parameters, 1, call, args)) {
        return -1;
    }
    if (!run->now) {
        return template_fail(run, "the template asks for the time, which is not given");
    }
    if (args[0].type != VALUE_STRING) {
        return template_fail(run, "strftime_now takes a format, not a value of type %s",
                             value_type_name(&args[0]));
    }
    /* One directive after the other: text beside them may hold anything. */
    const char *s = args[0].text->data;
    for (size_t i = 0; i < args[0].text->len;) {
        size_t n = 1;
        while (s[i] != '%' && i + n < args[0].text->len && s[i + n] != '%') {
            n++;
        }
        if (s[i] != '%') {
            if (template_scratch(run, s + i, n)) {
                return -1;
            }
            i += n;
            continue;
        }
        n += s[i + 1] == '-' || s[i + 1] == '_' || s[i + 1] == '^'; /* glibc's flags */
        char directive[5] = {0};
        memcpy(directive, s + i, n);
        directive[n] = s[i + n];
        if (!s[i + n] || !strchr("aAwdbBmyYHIpMSjUWcxXGuVDFTRrehklCsnt%zZ", s[i + n])) {
            return template_fail(run, "strftime_now knows no '%s'", directive);
        }
        bool zone = s[i + n] == 'z' || s[i + n] == 'Z'; /* of which the time says nothing */
        size_t len = zone ? 0 : strftime(text, sizeof text, directive, run->now);
        if (template_scratch(run, text, len)) {
            return -1;
        }
        i += n + 1;
    }
    return template_from_scratch(run, begin, out);
}

static int call_joiner(struct template_run *run, struct template_call *call, struct value *out) {
    static const char *const parameters[MAX_PARAMETERS] = {"sep"};
    struct value args[MAX_PARAMETERS];
    struct template_joiner *joiner = value_alloc(&run->arena, sizeof *joiner);
    if (!joiner) {
        return template_no_memory(run);
    }
    if (template_place_args(run, "function", "joiner", parameters, 0, call, args)) {
        return -1;
    }
    joiner->object.class = &template_class_joiner;
    joiner->separator = args[0];
    if (!template_given(&args[0]) && template_string(run, ", ", 2, &joiner->separator)) {
        return -1;
    }
    *out = value_object(&joiner->object);
    return 0;
}

static int call_unknown(struct template_run *run, struct template_call *call, struct value *out) {
    (void)call;
    (void)out;
    return template_fail(run, "the functions cycler and lipsum are not known");
}

static const struct function functions[] = {
    {{&template_class_function}, "range", call_range},
    {{&template_class_function}, "dict", call_dict},
    {{&template_class_function}, "namespace", call_namespace},
    {{&template_class_function}, "raise_exception", call_raise},
    {{&template_class_function}, "strftime_now", call_strftime},
    {{&template_class_function}, "joiner", call_joiner},
    {{&template_class_function}, "cycler", call_unknown},
    {{&template_class_function}, "lipsum", call_unknown},
};

bool template_global(struct template_run *run, const struct value_string *name, struct value *out) {
    (void)run;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (!strcmp(functions[i].name, name->data)) {
            *out = value_object((struct value_object *)&functions[i].object);
            return true;
        }
    }
    return false;
}

/* ---- macros -------------------------------------------------------------------------------- */

/* An argument by name, which is then used; NULL: not given. */
static const struct value *named(const struct template_call *call, bool *used,
                                 const struct value_string *name) {
    for (size_t i = 0; i < call->n_named; i++) {
        if (!used[i] && call->names[i]->len == name->len &&
            !memcmp(call->names[i]->data, name->data, name->len)) {
            used[i] = true;
            return &call->values[i];
        }
    }
    return NULL;
}

/* What a macro was given beyond its parameters. */
static int bind_rest(struct template_run *run, const struct template_node *node,
                     struct template_scope *scope, const struct template_call *call, bool *used) {
    struct value v;
    if (node->flag) {
        const struct value *caller = named(call, used, run->t->name_of[NAME_CALLER]);
        if (caller && caller->type != VALUE_NONE) {
            v = *caller;
        } else if (template_undefined_hint(run, "no caller: this is not within a call block", &v)) {
            return -1;
        }
        if (template_bind(run, scope, NAME_CALLER, &v)) {
            return -1;
        }
    }
    if (value_make_dict(&run->arena, &v)) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < call->n_named; i++) {
        struct value key = {.type = VALUE_STRING, .text = call->names[i]};
        if (used[i]) {
            continue;
        }
        if (!node->uses_kwargs) {
            return template_fail(run, "the macro takes no argument '%s'", call->names[i]->data);
        }
        if (value_dict_set(&run->arena, v.dict, &key, &call->values[i])) {
            return template_no_memory(run);
        }
    }
    if (node->uses_kwargs && template_bind(run, scope, NAME_KWARGS, &v)) {
        return -1;
    }
    if (call->n > node->n && !node->uses_varargs) {
        return template_fail(run, "the macro takes %u arguments at most, not %zu", node->n,
                             call->n);
    }
    size_t taken = call->n < node->n ? call->n : node->n;
    if (!node->uses_varargs) {
        return 0;
    }
    return template_list(run, VALUE_TUPLE, call->n > taken ? call->args + taken : NULL,
                         call->n - taken, &v) ||
                   template_bind(run, scope, NAME_VARARGS, &v)
               ? -1
               : 0;
}

static int bind_parameters(struct template_run *run, const struct template_node *node,
                           struct template_scope *scope, const struct template_call *call) {
    bool *used = value_alloc(&run->arena, call->n_named + node->n);
    if (!used) {
        return template_no_memory(run);
    }
    bool *absent = used + call->n_named;
    for (uint32_t i = 0; i < node->n; i++) {
        struct template_node *parameter = node->items[i];
        struct value v = template_undefined(UNDEFINED_NAME, parameter->name);
        const struct value *given =
            i < call->n ? &call->args[i] : named(call, used, parameter->name);
        absent[i] = !given;
        if (template_bind(run, scope, parameter->id, given ? given : &v)) {
            return -1;
        }
    }
    if (bind_rest(run, node, scope, call, used)) {
        return -1;
    }
    for (uint32_t i = 0; i < node->n; i++) { /* defaults see the parameters before them */
        struct value v;
        if (absent[i] && node->items[i]->a &&
            (template_eval(run, node->items[i]->a, &v) ||
             template_bind(run, scope, node->items[i]->id, &v))) {
            return -1;
        }
    }
    return 0;
}

static int call_macro(struct template_run *run, const struct template_macro *macro,
                      const struct template_call *call, struct value *out) {
    struct template_scope *before = run->scope, *scope = template_scope_new(run, macro->scope);
    const struct template_node *node = macro->node;
    size_t begin = run->out.len;
    if (!scope) {
        return -1;
    }
    run->scope = scope;
    if (bind_parameters(run, node, scope, call)) {
        return -1;
    }
    if (template_exec_scope(run, scope, node->c)) {
        return -1;
    }
    run->scope = before;
    return template_captured(run, begin, out);
}

/* ---- calling ------------------------------------------------------------------------------- */

static int call_bound(struct template_run *run, const struct template_bound *bound,
                      struct template_call *call, struct value *out) {
    struct value args[MAX_PARAMETERS];
    if (bound->row->apply_call) {
        return bound->row->apply_call(run, &bound->self, call, out);
    }
    return template_place_args(run, "method", bound->row->name, bound->row->parameters,
                               bound->row->required, call, args)
               ? -1
               : bound->row->apply(run, &bound->self, args, out);
}

int template_call_object(struct template_run *run, const struct value *callee,
                         struct template_call *call, struct value *out) {
    struct value_object *object = callee->object;
    if (object->class == &template_class_function) {
        return ((const struct function *)object)->call(run, call, out);
    }
    if (object->class == &template_class_macro) {
        return call_macro(run, (const struct template_macro *)object, call, out);
    }
    if (object->class == &template_class_bound) {
        return call_bound(run, (const struct template_bound *)object, call, out);
    }
    if (object->class == &template_class_loop) {
        return template_call_loop(run, (struct template_loop *)object, call, out);
    }
    if (object->class == &template_class_loop_method) {
        return template_loop_method(run, callee, call, out);
    }
    if (object->class == &template_class_joiner && !call->n && !call->n_named) {
        struct template_joiner *joiner = (struct template_joiner *)object;
        bool used = joiner->used;
        joiner->used = true;
        *out = joiner->separator;
        return used ? 0 : template_string(run, "", 0, out);
    }
    return template_fail(run, "a value of type %s cannot be called", object->class->name);
}
