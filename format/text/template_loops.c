/* The variable `loop`: where a loop is, its neighbours, and the call of a recursive one. */
#include <string.h>

#include "format/text/template_internal.h"

struct loop_method {
    struct value_object object;
    struct template_loop *loop;
    bool is_cycle;
};

/* Whether there is a next element; it is drawn early then. */
static int peek(struct template_run *run, struct template_loop *loop) {
    if (!loop->has_after && !loop->at_end) {
        int more = template_next(run, loop->iter, &loop->after);
        if (more < 0) {
            return -1;
        }
        loop->has_after = more;
        loop->at_end = !more;
    }
    return loop->has_after;
}

int template_loop_next(struct template_run *run, struct template_loop *loop) {
    int more = peek(run, loop);
    if (more <= 0) {
        return more;
    }
    loop->has_after = false;
    loop->before = loop->current;
    loop->current = loop->after;
    loop->index0++;
    return 1;
}

static int loop_length(struct template_run *run, struct template_loop *loop) {
    struct value rest, generator = value_object(&loop->iter->object);
    if (loop->length != SIZE_MAX) {
        return 0;
    }
    if (template_collect(run, &generator, &rest) || template_iterate(run, &rest, &loop->iter)) {
        return -1;
    }
    loop->length = rest.list->n + loop->index0 + 1 + loop->has_after;
    return 0;
}

static int loop_neighbour(struct template_run *run, struct template_loop *loop, bool next,
                          struct value *out) {
    int there = next ? peek(run, loop) : loop->index0 > 0;
    if (there < 0) {
        return -1;
    }
    if (!there) {
        return template_undefined_hint(
            run, next ? "there is no next item" : "there is no previous item", out);
    }
    *out = next ? loop->after : loop->before;
    return 0;
}

static int loop_method(struct template_run *run, struct template_loop *loop, bool is_cycle,
                       struct value *out) {
    struct loop_method *method = value_alloc(&run->arena, sizeof *method);
    if (!method) {
        return template_no_memory(run);
    }
    *method = (struct loop_method){{&template_class_loop_method}, loop, is_cycle};
    *out = value_object(&method->object);
    return 0;
}

int template_loop_attr(struct template_run *run, struct template_loop *loop,
                       const struct value_string *name, struct value *out, bool *found) {
    static const char *const names[] = {"index",    "index0", "revindex", "revindex0", "length",
                                        "first",    "last",   "depth",    "depth0",    "previtem",
                                        "nextitem", "cycle",  "changed"};
    enum { N = sizeof names / sizeof names[0] };
    int64_t index = (int64_t)loop->index0;
    int which = 0, more;
    while (which < N && strcmp(names[which], name->data) != 0) {
        which++;
    }
    *found = which < N;
    if (which >= 2 && which <= 4 && loop_length(run, loop)) {
        return -1;
    }
    switch (which) {
    case 0:
    case 1:
        *out = value_int(index + !which);
        return 0;
    case 2:
    case 3:
        *out = value_int((int64_t)loop->length - index - (which == 3));
        return 0;
    case 4:
        *out = value_int((int64_t)loop->length);
        return 0;
    case 5:
        *out = value_bool(!index);
        return 0;
    case 6:
        more = peek(run, loop);
        *out = value_bool(!more);
        return more < 0 ? -1 : 0;
    case 7:
    case 8:
        *out = value_int((int64_t)loop->depth0 + (which == 7));
        return 0;
    case 9:
    case 10:
        return loop_neighbour(run, loop, which == 10, out);
    case 11:
    case 12:
        return loop_method(run, loop, which == 11, out);
    default:
        return 0;
    }
}

int template_loop_method(struct template_run *run, const struct value *callee,
                         struct template_call *call, struct value *out) {
    const struct loop_method *method = (const struct loop_method *)callee->object;
    struct template_loop *loop = method->loop;
    struct value now;
    if (call->n_named) {
        return template_fail(run, "methods of a loop take no named arguments");
    }
    if (method->is_cycle) {
        if (!call->n) {
            return template_fail(run, "nothing to cycle through");
        }
        *out = call->args[loop->index0 % call->n];
        return 0;
    }
    if (template_list(run, VALUE_TUPLE, call->args, call->n, &now) ||
        template_spend_on(run, &now)) {
        return -1;
    }
    *out = value_bool(!value_equal(&loop->changed, &now));
    loop->changed = now;
    return 0;
}

/* loop(children) of a recursive loop: the text of the loop over them. */
int template_call_loop(struct template_run *run, struct template_loop *loop,
                       const struct template_call *call, struct value *out) {
    size_t begin = run->out.len;
    if (!loop->node->flag) {
        return template_fail(run, "the loop is called, but it is not marked as recursive");
    }
    if (call->n != 1 || call->n_named) {
        return template_fail(run, "a loop is called with what it is to iterate over");
    }
    if (template_enter(run) ||
        template_loop_run(run, loop->node, loop->scope, &call->args[0], loop->depth0 + 1)) {
        return -1;
    }
    template_leave(run);
    return template_captured(run, begin, out);
}
