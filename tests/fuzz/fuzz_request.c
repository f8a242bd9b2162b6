/*
 * libFuzzer: a byte that chooses the API, then a body -> what is read of it before anything is
 * computed. What is refused must have a status and say why; what is not must be within its ranges.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/anthropic.h"
#include "runtime/serve/effort.h"
#include "runtime/serve/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

typedef int reader(struct call *call, struct params *p, struct problem *problem);

static void check(int rc, const struct problem *problem) {
    if (rc == 0 ? problem->status != 0 : problem->status < 400 || !problem->message[0]) {
        abort();
    }
}

static void read_params(struct call *call, reader *read) {
    struct params p = {0};
    struct problem problem = {0};
    int rc = read(call, &p, &problem);
    check(rc, &problem);
    if (rc == 0 &&
        (p.n < 1 || p.n > PARAMS_MAX_CHOICES || !(p.sampling.temperature >= 0) ||
         !(p.sampling.top_p >= 0 && p.sampling.top_p <= 1) || p.n_stops > PARAMS_MAX_STOPS)) {
        abort();
    }
    params_free(&p);
}

static void read_effort(struct call *call) {
    struct problem problem = {0};
    struct value variables;
    if (value_make_dict(&call->arena, &variables) == 0) {
        check(effort_read(call, &variables, &problem), &problem);
    }
}

static void read_convo(struct call *call, bool anthropic) {
    struct convo c = {0};
    struct problem problem = {0};
    check(anthropic ? anthropic_convo(call, &c, &problem)
                    : convo_add_list(call, &c, "messages", &problem),
          &problem);
    for (size_t i = 0; i < c.n; i++) {
        if (c.items[i].type != VALUE_DICT || !field_get(c.items[i].dict, "role")) {
            abort();
        }
    }
    convo_free(&c);
}

static void read_tools(struct call *call, unsigned api) {
    int (*const readers[])(struct call *, struct toolbox *, struct problem *) = {
        toolbox_openai, toolbox_responses, toolbox_anthropic};
    struct toolbox box = {0};
    struct problem problem = {0};
    int rc = readers[api % 3](call, &box, &problem);
    check(rc, &problem);
    for (size_t i = 0; rc == 0 && i < box.n; i++) {
        const struct value *name =
            field_get(field_get(box.tools.list->items[i].dict, "function")->dict, "name");
        if (!tools_function(&box.tools, name->text->data, name->text->len)) {
            abort();
        }
    }
    toolbox_free(&box);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static reader *const readers[] = {params_openai, params_responses, params_anthropic,
                                      params_ollama};
    static const struct corm_model_info model = {.ctx_tok = 100, .vocab = 10};
    struct server server = {.info = &model, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct call call = {.s = &server, .arena = {.limit_bytes = 4 << 20}};
    struct value v;
    struct err err = {0};
    if (bytes > 0 &&
        value_json_read(&call.arena, (const char *)data + 1, bytes - 1, &v, &err) == 0 &&
        v.type == VALUE_DICT) {
        call.body = v.dict;
        call.api = data[0] % 3;
        read_params(&call, readers[data[0] % 4]);
        read_effort(&call);
        read_convo(&call, data[0] & 4);
        read_tools(&call, data[0] >> 3);
    }
    value_arena_free(&call.arena);
    return 0;
}
