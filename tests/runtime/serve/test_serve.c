/*
 * What corm-serve decides before and beside computing: who is let in, fields of requests, which
 * session a prompt goes to, what conversations come to.
 */
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/convo.h"
#include "runtime/serve/guard.h"
#include "runtime/serve/keep.h"
#include "runtime/serve/params.h"

/* ---- keep ---- */

static uint32_t all(const void *ctx, size_t i, uint32_t n_tok) {
    (void)ctx;
    (void)i;
    return n_tok;
}

/* The first session is one of those that can go back to 3 tokens, or to none. */
static uint32_t first_to_three(const void *ctx, size_t i, uint32_t n_tok) {
    (void)ctx;
    return i == 0 && n_tok < 8 ? (n_tok >= 3 ? 3 : 0) : n_tok;
}

static void check_choice(const struct kept *kept, size_t n_kept, const int32_t *ids, size_t n,
                         int target, int source, uint32_t common) {
    struct keep_choice c = keep_choose(kept, n_kept, ids, n, false, all, NULL);
    assert_int_equal(c.target, target);
    assert_int_equal(c.source, source);
    assert_int_equal(c.common, common);
}

static void sessions_are_chosen(void **state) {
    (void)state;
    int32_t a[] = {1, 2, 3, 4, 5, 6, 7, 8}, b[] = {1, 2, 9, 9}, c[1];
    struct kept kept[] = {{a, 8, 8, 3}, {b, 4, 2, 2}, {c, 0, 0, 1}};
    const int32_t known[] = {1, 2, 3, 4, 5, 6}, other[] = {7, 7, 7}, near_b[] = {1, 2, 9, 9, 5, 5};
    const int32_t parts[] = {1, 2, 3, 7};
    assert_int_equal(keep_common(&kept[0], known, 6, false), 6);
    assert_int_equal(keep_common(&kept[1], near_b, 6, true), 2); /* what was generated is not */
    check_choice(kept, 3, known, 6, 0, 0, 6);
    check_choice(kept, 3, near_b, 6, 1, 1, 4);
    check_choice(kept, 3, other, 3, 2, -1, 0); /* used least lately */
    check_choice(kept, 3, parts, 4, 2, 0, 3);  /* the first would lose most of what it has */
    kept[0].busy = true;
    check_choice(kept, 3, known, 6, 2, 0, 6); /* copied from where a job runs */
    kept[0].locked = true;
    check_choice(kept, 3, known, 6, 2, 1, 2);
    kept[2].busy = true;
    check_choice(kept, 3, known, 6, 1, 1, 2); /* there is no other */
    kept[1].busy = true;
    check_choice(kept, 3, other, 3, -1, -1, 0);
    /* What has to be computed again does not count. */
    int32_t d[] = {1, 2, 3, 4};
    struct kept back[] = {{a, 8, 8, 3}, {d, 4, 4, 2}, {c, 0, 0, 1}};
    struct keep_choice to = keep_choose(back, 3, known, 6, false, first_to_three, NULL);
    assert_true(to.source == 1 && to.common == 4);
    to = keep_choose(back, 1, known, 6, false, first_to_three, NULL);
    assert_true(to.source == 0 && to.common == 3);
    /* A beginning that all have is no reason to copy what one remembers. */
    int32_t prompt[40] = {1, 2, 3};
    struct kept few[] = {{a, 8, 8, 9}, {c, 0, 0, 1}};
    check_choice(few, 2, prompt, 40, 1, -1, 0);
    check_choice(few, 2, prompt, 30, 1, 0, 3);
}

/* ---- guard ---- */

static unsigned asks(const struct guard *g, struct guard_head head) {
    struct err err = {0};
    head.method = head.method ? head.method : "GET";
    head.host = head.host ? head.host : "localhost";
    unsigned status = guard_check(g, &head, &err);
    assert_int_equal(status != 0, err.set);
    return status;
}

static void guard_lets_in(void **state) {
    (void)state;
    struct guard g;
    struct err err = {0};
    char *dir = test_mkdir(), *path = mem_printf("%s/keys", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("one\r\n\ntwo", f);
    fclose(f);
    assert_int_equal(guard_open(&g, "10.0.0.1", "a.test,B.test", path, &err), 0);
    assert_int_equal(g.n_keys, 2);
    assert_int_equal(asks(&g, (struct guard_head){.x_api_key = "one"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.x_api_key = "two"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.authorization = "bearer two"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.authorization = "Basic two"}), 401);
    assert_int_equal(asks(&g, (struct guard_head){.x_api_key = "tw"}), 401);
    assert_int_equal(asks(&g, (struct guard_head){0}), 401);
    assert_int_equal(asks(&g, (struct guard_head){.open = true}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .host = "10.0.0.1:80"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .host = "b.TEST"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .host = "c.test"}), 403);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .origin = "http://a.test:1"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .origin = "null"}), 403);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .method = "POST"}), 415);
    assert_int_equal(asks(&g, (struct guard_head){.n_lengths = 2}), 400);
    assert_int_equal(asks(&g, (struct guard_head){.n_lengths = 1, .n_encodings = 1}), 400);
    assert_int_equal(asks(&g, (struct guard_head){.x_api_key = "one", .bad_name = true}), 400);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .encoding = "identity"}), 400);
    /* What needs no key takes no room for a body. */
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .content_length = "0"}), 0);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .content_length = "10"}), 400);
    assert_int_equal(asks(&g, (struct guard_head){.open = true, .encoding = "chunked"}), 400);
    assert_int_equal(
        asks(&g, (struct guard_head){.method = "OPTIONS", .n_lengths = 1, .content_length = "1"}),
        400);
    assert_int_equal(asks(&g, (struct guard_head){.x_api_key = "one",
                                                  .method = "POST",
                                                  .content_type = "application/json",
                                                  .n_encodings = 1,
                                                  .encoding = "Chunked"}),
                     0);
    guard_free(&g);
    assert_int_equal(guard_open(&g, "0.0.0.0", NULL, NULL, &err), 0);
    assert_int_equal(asks(&g, (struct guard_head){.host = "0.0.0.0"}), 403);
    guard_free(&g);
    assert_int_equal(guard_open(&g, "::1", "", NULL, &err), -1);
    assert_err(&err, "--allowed-hosts", "parted by commas");
    guard_free(&g);
    assert_true(guard_is_loopback("127.8.9.1"));
    assert_false(guard_is_loopback("127.evil.test"));
    assert_true(guard_is_token_list("authorization, x-stainless-os"));
    assert_false(guard_is_token_list("a\r\nb"));
    free(path);
    test_rmdir(dir);
}

/* ---- requests ---- */

static const struct corm_model_info model = {.ctx_tok = 100, .vocab = 10};
static struct server server = {.info = &model,
                               .sampling = {.temperature = 0.5f, .top_k = 40, .top_p = 1}};

static void open_call(struct call *call, const char *json) {
    struct value v;
    struct err err = {0};
    *call = (struct call){.s = &server, .arena = {.limit_bytes = 1 << 20}};
    assert_int_equal(value_json_read(&call->arena, json, strlen(json), &v, &err), 0);
    call->body = v.dict;
}

typedef int params_reader(struct call *call, struct params *p, struct problem *problem);

static void check_params(params_reader *read, const char *json, struct params *p,
                         const char *wrong) {
    struct call call;
    struct problem problem = {0};
    *p = (struct params){0};
    open_call(&call, json);
    int rc = read(&call, p, &problem);
    if (wrong) {
        assert_int_equal(rc, -1);
        assert_string_equal(problem.param, wrong);
        assert_int_equal(problem.status, 400);
    } else {
        assert_int_equal(rc, 0);
    }
    p->model = NULL;
    value_arena_free(&call.arena);
}

/* Where the form is said, and what of it. */
static void forms_are_read(void) {
    static const struct {
        int (*read)(struct call *call, struct params *p, struct problem *problem);
        const char *body, *text; /* NULL: there is no form */
    } cases[] = {
        {params_openai, "{\"response_format\": {\"type\": \"text\"}, \"grammar\": \"\"}", NULL},
        {params_openai,
         "{\"response_format\": {\"type\": \"json_schema\", \"json_schema\": "
         "{\"name\": \"a\", \"strict\": true, \"schema\": {\"type\": \"null\"}}}}",
         "{\"type\": \"null\"}"},
        {params_openai, "{\"response_format\": {\"type\": \"json_object\", \"schema\": {}}}", "{}"},
        {params_openai, "{\"json_schema\": {}}", "{}"},
        {params_openai, "{\"grammar\": \"root ::= [a]\"}", "root ::= [a]"},
        {params_responses,
         "{\"text\": {\"format\": {\"type\": \"json_schema\", \"name\": \"a\", \"schema\": true}}}",
         "true"},
        {params_responses, "{\"text\": {\"format\": {\"type\": \"text\"}}}", NULL},
        {params_ollama, "{\"format\": {\"const\": 5}}", "{\"const\": 5}"},
        {params_ollama, "{\"format\": \"\"}", NULL},
    };
    struct params p;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        check_params(cases[i].read, cases[i].body, &p, NULL);
        assert_int_equal(p.form_field != NULL, cases[i].text != NULL);
        if (cases[i].text) {
            assert_string_equal(p.form_text.data, cases[i].text);
        }
        params_free(&p);
    }
    static const char *const refused[][2] = {
        {"{\"response_format\": {\"type\": \"xml\"}}", "response_format"},
        {"{\"response_format\": \"json\"}", "response_format"},
        {"{\"grammar\": 5}", "grammar"},
        {"{\"grammar\": \"root ::= [a]\", \"json_schema\": {}}", "grammar"},
        {"{\"json_schema\": {}, \"ignore_eos\": true}", "ignore_eos"},
    };
    for (size_t i = 0; i < TEST_COUNT(refused); i++) {
        check_params(params_openai, refused[i][0], &p, refused[i][1]);
        params_free(&p);
    }
}

static void params_are_read(void **state) {
    (void)state;
    struct params p;
    check_params(params_openai,
                 "{\"temperature\": 0, \"top_k\": -1, \"seed\": 5, \"max_completion_tokens\": 7, "
                 "\"stop\": [\"a\", \"bc\"], \"stream_options\": {\"include_usage\": true}, "
                 "\"tools\": [], \"logprobs\": null, \"n\": 2, \"junk\": {}}",
                 &p, NULL);
    assert_true(p.sampling.temperature == 0 && p.sampling.top_k == 40 && p.sampling.seed == 5);
    assert_true(p.max_tok == 7 && p.n == 2 && p.include_usage && p.n_stops == 2 && !p.stream);
    params_free(&p);
    check_params(params_openai,
                 "{\"logit_bias\": {\"9\": -100, \"3\": 2}, \"logprobs\": true, "
                 "\"top_logprobs\": 4, \"presence_penalty\": 1}",
                 &p, NULL);
    assert_true(p.sampling.n_bias == 2 && p.bias[0].id == 9 && p.bias[0].bias == -INFINITY);
    assert_true(p.bias[1].bias == 2 && p.n_top == 4 && p.sampling.presence_penalty == 1);
    params_free(&p);
    check_params(params_openai, "{\"logprobs\": 3, \"stop\": \"\"}", &p, NULL);
    assert_true(p.n_top == 3 && p.n_stops == 0);
    check_params(params_openai, "{\"repeat_last_n\": -1}", &p, NULL);
    assert_int_equal(p.sampling.repeat_last_tok, UINT32_MAX);
    check_params(params_openai, "{\"repeat_last_n\": 0}", &p, NULL);
    assert_int_equal(p.sampling.repeat_last_tok, 0);
    check_params(params_openai, "{\"model\": \"a\\u0000b\"}", &p, "model");
    char *name = mem_printf("{\"model\": \"%*s\"}", PARAMS_MAX_MODEL_BYTES + 1, "x");
    check_params(params_anthropic, "{\"max_tokens\": 1, \"model\": \"x\"}", &p, NULL);
    check_params(params_ollama, name, &p, "model");
    free(name);
    check_params(params_openai, "{\"logit_bias\": {\"10\": 1}}", &p, "logit_bias");
    params_free(&p);
    check_params(params_openai, "{\"logit_bias\": {\"1x\": 1}}", &p, "logit_bias");
    params_free(&p);
    check_params(params_openai, "{\"logit_bias\": {\"1\": 101}}", &p, "logit_bias");
    params_free(&p);
    check_params(params_openai, "{\"logprobs\": 21}", &p, "logprobs");
    check_params(params_openai, "{\"top_logprobs\": 2}", &p, "top_logprobs");
    check_params(params_openai, "{\"stop\": [\"\\u0000\"]}", &p, "stop");
    check_params(params_openai, "{\"max_tokens\": 1e30}", &p, "max_tokens");
    check_params(params_openai, "{\"max_tokens\": 123456789012345678901}", &p, "max_tokens");
    check_params(params_openai, "{\"top_p\": true}", &p, "top_p");
    check_params(params_openai, "{\"seed\": 1.5}", &p, "seed");
    check_params(params_openai, "{\"stream_options\": []}", &p, "stream_options");
    check_params(params_openai, "{\"best_of\": 2}", &p, "best_of");
    check_params(params_openai, "{\"response_format\": {\"type\": \"json_schema\"}}", &p,
                 "response_format");
    forms_are_read();
    check_params(params_anthropic, "{}", &p, "max_tokens");
    check_params(params_anthropic, "{\"max_tokens\": 5, \"stop_sequences\": \"x\"}", &p, NULL);
    assert_int_equal(p.n_stops, 1);
    params_free(&p);
    check_params(params_responses, "{\"previous_response_id\": \"x\"}", &p, "previous_response_id");
    check_params(params_ollama, "{\"options\": {\"num_predict\": -1, \"top_k\": 3}}", &p, NULL);
    assert_true(p.max_tok == -1 && p.sampling.top_k == 3 && p.stream);
    params_free(&p);
    check_params(params_ollama, "{\"options\": {\"mirostat\": 2}}", &p, "mirostat");
    check_params(params_ollama, "{\"format\": \"yaml\"}", &p, "format");
    check_params(params_ollama, "{\"format\": \"json\"}", &p, NULL);
    assert_true(p.form_field && p.form == CORM_GRAMMAR_JSON_OBJECT);
    params_free(&p);
}

static const char *field_text(const struct convo *c, size_t i, const char *name) {
    const struct value *v = field_get(c->items[i].dict, name);
    return v && v->type == VALUE_STRING ? v->text->data : NULL;
}

static void conversations_are_read(void **state) {
    (void)state;
    struct call call;
    struct convo c = {0};
    struct problem problem = {0};
    open_call(&call,
              "{\"messages\": [{\"role\": \"developer\", \"content\": [\"a\", {\"type\": "
              "\"input_text\", \"text\": \"b\"}]}, {\"role\": \"system\", \"content\": null}, "
              "{\"role\": \"assistant\", \"content\": [{\"type\": \"thinking\", \"thinking\": "
              "\"x\", \"signature\": \"s\"}, {\"type\": \"text\", \"text\": \"c\"}, {\"type\": "
              "\"tool_use\", \"id\": \"i\", \"name\": \"f\", \"input\": {\"k\": 1}}]}, "
              "{\"role\": \"user\", \"content\": [{\"type\": \"tool_result\", \"tool_use_id\": "
              "\"i\", \"content\": [{\"type\": \"text\", \"text\": \"r\"}]}, {\"type\": \"text\", "
              "\"text\": \"u\"}]}]}");
    assert_int_equal(convo_add_list(&call, &c, "messages", &problem), 0);
    assert_int_equal(c.n, 4);
    assert_string_equal(field_text(&c, 0, "role"), "system");
    assert_string_equal(field_text(&c, 0, "content"), "a\nb");
    assert_string_equal(field_text(&c, 1, "content"), "c");
    assert_string_equal(field_text(&c, 1, "reasoning_content"), "x");
    assert_int_equal(field_get(c.items[1].dict, "tool_calls")->list->n, 1);
    assert_string_equal(field_text(&c, 2, "role"), "tool");
    assert_string_equal(field_text(&c, 2, "content"), "r");
    assert_string_equal(field_text(&c, 2, "tool_call_id"), "i");
    assert_string_equal(field_text(&c, 3, "content"), "u");
    convo_free(&c);
    value_arena_free(&call.arena);
    static const char *const refused[] = {
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [[]]}]}",
        "{\"messages\": [{\"role\": \"king\", \"content\": \"\"}]}",
        "{\"messages\": [{\"content\": \"\"}]}",
        "{\"messages\": [5]}",
        "{\"messages\": {}}",
        "{\"messages\": [{\"role\": \"assistant\", \"content\": [{\"type\": \"tool_use\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": {}}]}",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        problem = (struct problem){0};
        open_call(&call, refused[i]);
        assert_int_equal(convo_add_list(&call, &c, "messages", &problem), -1);
        assert_int_equal(problem.status, 400);
        convo_free(&c);
        value_arena_free(&call.arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {

        cmocka_unit_test(sessions_are_chosen),
        cmocka_unit_test(guard_lets_in),
        cmocka_unit_test(params_are_read),
        cmocka_unit_test(conversations_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
