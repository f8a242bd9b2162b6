/*
 * Prompts of conversations through the public API: what they may take of the plan, and where
 * messages end. And the plan alone.
 */
#include "tests/util/test.h"

#include <stdlib.h>
#include <string.h>

#include "tests/util/test_util_model.h"

static const char two[] =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

static uint64_t planned(const char *path, struct corm_engine_options opt,
                        struct corm_memory_plan *plan) {
    opt.only_plan = true;
    opt.ram_bytes = UINT64_C(1) << 32;
    struct corm_engine *e = model_open(path, &opt);
    *plan = *corm_engine_plan(e);
    assert_true(corm_engine_info(e)->n_layers > 0);
    corm_engine_close(e);
    return plan->total_bytes - plan->cache_bytes;
}

/* What the caller and conversations may take is part of the plan; nothing is loaded for it. */
static void all_is_planned(void **state) {
    (void)state;
    char *path = model_archive("tests/models/fable", test_dir(), "planned", NULL, false);
    struct corm_memory_plan plan;
    const uint64_t least = planned(path, (struct corm_engine_options){.threads = 1}, &plan);
    assert_true(plan.chat_bytes == 0 && plan.caller_bytes == 0);
    const uint64_t more = planned(
        path,
        (struct corm_engine_options){.threads = 1, .chat_bytes = 40 << 20, .caller_bytes = 5 << 20},
        &plan);
    assert_int_equal(more - least, 45 << 20);
    assert_true(plan.chat_bytes == 40 << 20 && plan.caller_bytes == 5 << 20);
    /* Sessions share the room of one, or have all that they can use. */
    const struct corm_engine_options four = {.threads = 1, .max_sessions = 4};
    planned(path, four, &plan);
    assert_int_equal(plan.kv_bytes, 4 * plan.session_bytes);
    struct corm_engine_options one = four;
    one.kv_bytes = CORM_KV_LEAST;
    planned(path, one, &plan);
    assert_int_equal(plan.kv_bytes, plan.session_bytes + 3 * plan.session_least_bytes);
    assert_true(plan.session_least_bytes < plan.session_bytes);
    free(path);
}

static int ids_of(const struct corm_engine *e, const struct corm_message *m, size_t n,
                  struct corm_chat_end *ends, size_t n_ends, size_t *n_ids,
                  struct corm_error *error) {
    const struct corm_chat chat = {.messages = m,
                                   .n_messages = n,
                                   .chat_template = two,
                                   .template_name = "two",
                                   .ends = ends,
                                   .n_ends = n_ends};
    int32_t *ids;
    int rc = corm_chat_ids(e, &chat, &ids, n_ids, NULL, NULL, error);
    if (rc == 0) {
        free(ids);
    }
    return rc;
}

static void conversations_are_bounded(void **state) {
    (void)state;
    char *path = model_archive("tests/models/fable", test_dir(), "bounded", NULL, false);
    struct corm_error error = {0};
    char *text = mem_alloc((1 << 20) + 1);
    size_t n = 0;
    memset(text, 'a', 1 << 20);
    for (size_t i = 5; i < 1 << 20; i += 6) {
        text[i] = ' ';
    }
    text[1 << 20] = 0;
    const struct corm_message talk[] = {{.role = "user", .content = text},
                                        {.role = "assistant", .content = "Yes."},
                                        {.role = "user", .content = "And then?"}};
    for (int small = 0; small < 2; small++) {
        const struct corm_engine_options opt = {.threads = 1,
                                                .chat_bytes = small ? 1 << 20 : 32 << 20};
        struct corm_engine *e = model_open(path, &opt);
        struct corm_chat_end ends[] = {{.messages = 3}, {.messages = 1}, {.messages = 4}};
        assert_int_equal(ids_of(e, talk, 3, ends, 3, &n, &error), small ? -1 : 0);
        if (small) {
            assert_non_null(strstr(error.message, "memory"));
            assert_int_equal(ids_of(e, talk + 1, 2, ends, 3, &n, &error), 0);
        }
        assert_true(ends[0].n_tok == (small ? 0 : ends[0].n_tok));
        assert_true(small || (ends[1].n_tok > 0 && ends[1].n_tok < ends[0].n_tok &&
                              ends[0].n_tok < n && ends[2].n_tok == 0));
        corm_engine_close(e);
    }
    free(text);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_planned),
        cmocka_unit_test(conversations_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
