/*
 * What other threads see of an engine: what the cache holds, when experts were used, the counters;
 * while it evaluates, too.
 */
#include "tests/util/test.h"

#include <pthread.h>

#include "runtime/engine.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_KINDS};

/* What the router chose in the last token of each layer. */
struct seen {
    uint32_t n_experts, n_active;
    uint8_t *last;               /* [n_layers, n_experts] */
    const struct corm_engine *e; /* not NULL: look in the middle of evaluations, too */
    struct corm_look_expert *x;
};

/* Wherever in a token: each layer has experts that the last token used which came to it. */
static void check_middle(const struct seen *s) {
    struct corm_look look;
    corm_engine_look(s->e, &look, s->x);
    for (uint32_t l = 0; l < corm_engine_info(s->e)->n_layers; l++) {
        const struct corm_look_expert *row = s->x + (size_t)l * s->n_experts;
        uint32_t n = 0;
        for (uint32_t i = 0; i < s->n_experts; i++) {
            n += row[i].age == 0;
        }
        assert_true(row->age == 255 || n >= s->n_active);
    }
}

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    struct seen *s = ctx;
    (void)decode;
    if (s->e) {
        check_middle(s);
    }
    memset(s->last + (size_t)layer * s->n_experts, 0, s->n_experts);
    for (uint32_t i = 0; i < rows * s->n_active; i++) {
        s->last[(size_t)layer * s->n_experts + (uint32_t)ids[i]] = 1;
    }
}

static void seen_open(struct seen *s, const char *path) {
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){0});
    const struct corm_model_info *info = corm_engine_info(e);
    s->n_experts = info->n_experts;
    s->n_active = info->n_active;
    s->e = NULL;
    s->last = mem_calloc((size_t)info->n_layers * info->n_experts, 1);
    corm_engine_close(e);
}

/* While nothing is evaluated and nothing is on its way, all is as the cache has it. */
static void check_still(struct corm_engine *e, const struct seen *s,
                        const struct corm_look_expert *x) {
    const struct corm *a = &e->archive;
    pthread_mutex_lock(&e->cache.lock);
    for (uint32_t l = 0; l < a->arch.n_layers; l++) {
        for (uint32_t i = 0; i < s->n_experts; i++) {
            const struct corm_look_expert *one = &x[(size_t)l * s->n_experts + i];
            if (!arch_is_moe(&a->arch, l)) {
                assert_int_equal(one->held, 0);
                assert_int_equal(one->age, 255);
                continue;
            }
            const struct cache_record *r = &e->cache.records[a->layer_record[l] + i];
            const uint32_t all = a->records[a->layer_record[l] + i].n_chunks;
            assert_int_equal(one->held == 255, r->n_ready == all);
            assert_int_equal(one->held == 0, r->n_ready == 0);
            assert_int_equal(one->age, r->last == 0 || e->cache.token - r->last > 254
                                           ? 254
                                           : e->cache.token - r->last);
            assert_int_equal(one->age == 0, s->last[(size_t)l * s->n_experts + i]);
        }
    }
    pthread_mutex_unlock(&e->cache.lock);
}

static void it_shows_what_the_cache_holds(void **state) {
    (void)state;
    for (size_t k = 0; k < TEST_COUNT(CASES); k++) {
        size_t n;
        int32_t *ids = golden_ids(CASES[k], "ids", &n);
        char *path = golden_archive(CASES[k], NULL);
        struct seen seen;
        seen_open(&seen, path);
        const struct corm_mechanisms m = {
            .cache_share = 0.5, .on_route = on_route, .on_route_ctx = &seen};
        struct corm_engine *e = model_open(
            path, &(struct corm_engine_options){.threads = 1, .batch_rows = 8, .measure = &m});
        struct corm_session *s = model_session(e);
        const size_t all = (size_t)corm_engine_info(e)->n_layers * seen.n_experts;
        struct corm_look_expert *x = mem_calloc(all, sizeof *x);
        struct corm_look look;
        corm_engine_look(e, &look, x);
        for (size_t i = 0; i < all; i++) {
            assert_int_equal(x[i].held, 0);
            assert_true(x[i].age >= 254);
        }
        assert_true(look.read_bytes == 0 && look.cache_hits == 0 && look.cache_misses == 0);
        model_eval(s, ids, n / 2, false);
        for (size_t i = n / 2; i < n; i++) {
            seen.e = e;
            seen.x = x;
            model_eval(s, ids + i, 1, false);
            corm_engine_look(e, &look, x);
            check_still(e, &seen, x);
            struct corm_stats stats;
            corm_session_stats(s, &stats);
            assert_int_equal(look.cache_hits, stats.cache_hits);
            assert_int_equal(look.cache_misses, stats.cache_misses);
            assert_int_equal(look.stall_ns, stats.stall_ns);
            assert_int_equal(look.read_bytes, stats.read_bytes);
            assert_true(look.read_bytes > 0);
        }
        corm_session_close(s);
        corm_engine_close(e);
        free(x);
        free(seen.last);
        free(path);
        free(ids);
    }
}

/* ---- from another thread ---- */

struct watcher {
    const struct corm_engine *e;
    size_t n;
    _Atomic bool begun, stop;
    uint64_t looks, changes;
    bool went_back;
};

static void *watch(void *ctx) {
    struct watcher *w = ctx;
    struct corm_look_expert *x = mem_calloc(w->n, sizeof *x), *before = mem_calloc(w->n, sizeof *x);
    struct corm_look look, old = {0};
    for (bool last = false; !last;) {
        last = w->stop; /* one more look, when all is done */
        corm_engine_look(w->e, &look, x);
        w->went_back |= look.read_bytes < old.read_bytes || look.cache_hits < old.cache_hits ||
                        look.stall_ns < old.stall_ns;
        w->changes += w->looks > 0 && memcmp(x, before, w->n * sizeof *x) != 0;
        memcpy(before, x, w->n * sizeof *x);
        old = look;
        if (w->looks++ == 0) {
            w->begun = true;
        }
    }
    free(x);
    free(before);
    return NULL;
}

static void a_watcher_changes_no_bit(void **state) {
    (void)state;
    for (size_t k = 0; k < (QUICK ? 2 : TEST_COUNT(CASES)); k++) {
        size_t n;
        int32_t *ids = golden_ids(CASES[k], "ids", &n);
        char *path = golden_archive(CASES[k], NULL);
        const struct corm_mechanisms m = {.cache_share = 0.3};
        uint64_t hashes[2];
        for (int watched = 0; watched < 2; watched++) {
            struct corm_engine *e =
                model_open(path, &(struct corm_engine_options){.threads = 2, .measure = &m});
            const struct corm_model_info *info = corm_engine_info(e);
            struct watcher w = {.e = e, .n = (size_t)info->n_layers * info->n_experts};
            struct corm_session *s = model_session(e);
            pthread_t thread;
            if (watched) {
                assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
                while (!w.begun) {
                    clock_sleep_until(clock_ns() + 100000);
                }
            }
            hashes[watched] = model_hash(e, s, ids, n / 2, n);
            if (watched) {
                w.stop = true;
                pthread_join(thread, NULL);
                assert_true(w.looks > 1 && w.changes > 0 && !w.went_back);
            }
            corm_session_close(s);
            corm_engine_close(e);
        }
        assert_int_equal(hashes[0], hashes[1]);
        free(path);
        free(ids);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_shows_what_the_cache_holds),
        cmocka_unit_test(a_watcher_changes_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
