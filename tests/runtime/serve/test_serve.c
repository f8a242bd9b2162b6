/*
 * What corm-serve decides before and beside computing: who is let in, fields of requests, texts that
 * end an answer, which session a prompt goes to, what conversations come to.
 */
#include "tests/util/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/convo.h"
#include "runtime/serve/guard.h"
#include "runtime/serve/keep.h"
#include "runtime/serve/params.h"
#include "runtime/serve/stops.h"

/* ---- stops ---- */

static void stops_of(struct stops *s, const char *const *texts) {
    *s = (struct stops){0};
    for (; *texts; texts++) {
        assert_int_equal(stops_add(s, *texts, strlen(*texts)), 0);
    }
}

/* Whatever pieces a text comes in, what is let go is the same. */
static void check_stops(const char *text, const char *const *texts, const char *want, int found) {
    size_t n = strlen(text);
    for (size_t piece = 1; piece <= n; piece++) {
        struct stops s;
        struct buf out = {0};
        bool stopped = false;
        stops_of(&s, texts);
        buf_append(&out, "", 0);
        for (size_t at = 0; at < n && !stopped; at += piece) {
            stopped = stops_push(&s, text + at, n - at < piece ? n - at : piece, &out);
            assert_int_equal(strncmp(out.data, want, out.len),
                             0); /* nothing was let go too early */
        }
        if (!stopped) {
            stops_end(&s, &out);
        }
        assert_string_equal(out.data, want);
        assert_int_equal(s.found, found);
        stops_free(&s);
        buf_free(&out);
    }
}

static void stops_are_found_in_pieces(void **state) {
    (void)state;
    check_stops("one two three", (const char *const[]){"two", NULL}, "one ", 1);
    check_stops("one two three", (const char *const[]){"four", "three", NULL}, "one two ", 2);
    check_stops("one two", (const char *const[]){"two three", NULL}, "one two", 0);
    check_stops("aaab", (const char *const[]){"aab", NULL}, "a", 1);
    check_stops("abab\xc3\xa9", (const char *const[]){"ba\xc3\xa9", "\xc3\xa9", NULL}, "abab", 2);
    check_stops("text", (const char *const[]){NULL}, "text", 0);
    check_stops("stop", (const char *const[]){"stop", NULL}, "", 1);
}

static void stops_have_bounds(void **state) {
    (void)state;
    struct stops s = {0};
    char *long_text = mem_calloc(1, STOPS_MAX_BYTES + 1);
    assert_int_equal(stops_add(&s, "", 0), -1);
    assert_int_equal(stops_add(&s, long_text, STOPS_MAX_BYTES + 1), -1);
    for (int i = 0; i < STOPS_MAX; i++) {
        assert_int_equal(stops_add(&s, "x", 1), 0);
    }
    assert_int_equal(stops_add(&s, "x", 1), -1);
    free(long_text);
    stops_free(&s);
}

/* ---- keep ---- */

static void sessions_are_chosen(void **state) {
    (void)state;
    int32_t a[] = {1, 2, 3, 4, 5, 6, 7, 8}, b[] = {1, 2, 9, 9}, c[1];
    struct kept kept[] = {{a, 8, 8, 3, false}, {b, 4, 2, 2, false}, {c, 0, 0, 1, false}};
    const int32_t known[] = {1, 2, 3, 4, 5, 6}, other[] = {7, 7, 7}, near_b[] = {1, 2, 9, 9, 5, 5};
    assert_int_equal(keep_common(&kept[0], known, 6, false), 4); /* the last two are computed */
    assert_int_equal(keep_common(&kept[0], known, 1, false), 0);
    assert_int_equal(keep_common(&kept[1], near_b, 6, false), 4);
    assert_int_equal(keep_common(&kept[1], near_b, 6, true), 2); /* what was generated is not */
    assert_int_equal(keep_choose(kept, 3, known, 6, false), 0);
    assert_int_equal(keep_choose(kept, 3, near_b, 6, false), 1);
    assert_int_equal(keep_choose(kept, 3, other, 3, false), 2); /* used least lately */
    kept[2].busy = true;
    assert_int_equal(keep_choose(kept, 3, other, 3, false), 1);
    kept[1].busy = kept[0].busy = true;
    assert_int_equal(keep_choose(kept, 3, other, 3, false), -1);
    /* A beginning that all have is no reason to throw away what one remembers. */
    int32_t prompt[40] = {1, 2, 3};
    struct kept few[] = {{a, 8, 8, 9, false}, {c, 0, 0, 1, false}};
    assert_int_equal(keep_common(&few[0], prompt, 40, false), 3);
    assert_int_equal(keep_choose(few, 2, prompt, 40, false), 1);
    assert_int_equal(keep_choose(few, 2, prompt, 30, false), 0);
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

static void params_are_read(void **state) {
    (void)state;
    struct params p;
    check_params(params_openai,
                 "{\"temperature\": 0, \"top_k\": -1, \"seed\": 5, \"max_completion_tokens\": 7, "
                 "\"stop\": [\"a\", \"bc\"], \"stream_options\": {\"include_usage\": true}, "
                 "\"tools\": [], \"logprobs\": null, \"n\": 2, \"junk\": {}}",
                 &p, NULL);
    assert_true(p.sampling.temperature == 0 && p.sampling.top_k == 40 && p.sampling.seed == 5);
    assert_true(p.max_tok == 7 && p.n == 2 && p.include_usage && p.stops.n == 2 && !p.stream);
    assert_int_equal(params_seed(&p, 0), 5);
    assert_int_not_equal(params_seed(&p, 1), params_seed(&p, 2));
    params_free(&p);
    check_params(params_openai, "{\"max_tokens\": 1e30}", &p, "max_tokens");
    check_params(params_openai, "{\"max_tokens\": 123456789012345678901}", &p, "max_tokens");
    check_params(params_openai, "{\"top_p\": true}", &p, "top_p");
    check_params(params_openai, "{\"seed\": 1.5}", &p, "seed");
    check_params(params_openai, "{\"stream_options\": []}", &p, "stream_options");
    check_params(params_openai, "{\"best_of\": 2}", &p, "best_of");
    check_params(params_openai, "{\"response_format\": {\"type\": \"json_schema\"}}", &p,
                 "response_format");
    check_params(params_anthropic, "{}", &p, "max_tokens");
    check_params(params_anthropic, "{\"max_tokens\": 5, \"stop_sequences\": \"x\"}", &p, NULL);
    assert_int_equal(p.stops.n, 1);
    params_free(&p);
    check_params(params_responses, "{\"previous_response_id\": \"x\"}", &p, "previous_response_id");
    check_params(params_ollama, "{\"options\": {\"num_predict\": -1, \"top_k\": 3}}", &p, NULL);
    assert_true(p.max_tok == -1 && p.sampling.top_k == 3 && p.stream);
    params_free(&p);
    check_params(params_ollama, "{\"options\": {\"mirostat\": 2}}", &p, "mirostat");
    check_params(params_ollama, "{\"format\": \"json\"}", &p, "format");
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
              "\"x\", \"signature\": \"s\"}, {\"type\": \"text\", \"text\": \"c\"}]}]}");
    assert_int_equal(convo_add_list(&call, &c, "messages", &problem), 0);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.messages[0].role, "system");
    assert_string_equal(c.messages[0].content, "a\nb");
    assert_string_equal(c.messages[1].content, "c");
    convo_free(&c);
    value_arena_free(&call.arena);
    static const char *const refused[] = {
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [[]]}]}",
        "{\"messages\": [{\"role\": \"tool\", \"content\": \"\"}]}",
        "{\"messages\": [{\"content\": \"\"}]}",
        "{\"messages\": [5]}",
        "{\"messages\": {}}",
        "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"\\u0000\"}]}",
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
        cmocka_unit_test(stops_are_found_in_pieces), cmocka_unit_test(stops_have_bounds),
        cmocka_unit_test(sessions_are_chosen),       cmocka_unit_test(guard_lets_in),
        cmocka_unit_test(params_are_read),           cmocka_unit_test(conversations_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
