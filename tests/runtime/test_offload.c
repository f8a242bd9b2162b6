/*
 * Which experts are the CPU's beside a device: the rule, the places, and that both are functions of
 * what was routed alone. test_tier.c has the whole engine.
 */
#include "tests/util/test.h"

#include <math.h>

#include "runtime/model/forward.h"
#include "runtime/offload.h"
#include "runtime/packing.h"
#include "tests/util/test_util_archive.h"
#include "tests/util/test_util_device.h"

enum { N_LAYERS = 4, N_EXPERTS = 6 };

/* Layer 1 has no experts. */
static struct corm small_archive(void) {
    static struct layer_kind kinds[2] = {
        {.att = {.n_heads = 2, .n_kv_heads = 2, .head_dim = 32}},
        {.moe = 1, .att = {.n_heads = 2, .n_kv_heads = 2, .head_dim = 32}}};
    static uint32_t kind[N_LAYERS] = {1, 0, 1, 1};
    struct corm c = {0};
    c.arch.n_layers = N_LAYERS;
    c.arch.n_experts = N_EXPERTS;
    c.arch.n_active = 2;
    c.arch.kinds = kinds;
    c.arch.n_kinds = 2;
    c.arch.kind = kind;
    c.arch.dim = 64;
    c.arch.ffn_dim = 96;
    c.arch.vocab = 100;
    c.expert_codec = codec_by_name("q8");
    c.neuron_bytes = 3 * codec_row_bytes(c.expert_codec, 64);
    return c;
}

static void rule(void **state) {
    (void)state;
    assert_true(offload_pays(10e9, 11e9));
    assert_false(offload_pays(10e9, 10e9));
    assert_false(offload_pays(10e9, 9e9));
    assert_false(offload_pays(0, 9e9)); /* not known */
    assert_false(offload_pays(10e9, 0));
}

static void shares(void **state) {
    struct corm c = small_archive();
    struct offload_places p;
    (void)state;
    offload_places_open(&p, &c, 8);
    assert_int_equal(p.room[0], 3); /* the first ones take the rest */
    assert_int_equal(p.room[1], 0);
    assert_int_equal(p.room[2], 3);
    assert_int_equal(p.room[3], 2);
    offload_places_close(&p);
    offload_places_open(&p, &c, 1000);
    assert_int_equal(p.room[0], N_EXPERTS);
    offload_places_close(&p);
    offload_places_open(&p, &c, 0); /* none: all are the CPU's */
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(offload_place(&p, 2, i % N_EXPERTS, true), OFFLOAD_CPU);
    }
    offload_places_close(&p);
    offload_places_close(&p);
}

static enum offload_share of_prompt(struct offload_places *p, uint32_t layer, uint32_t expert) {
    return offload_place(p, layer, expert, false);
}

static void who_has_a_place(void **state) {
    struct corm c = small_archive();
    struct offload_places p;
    (void)state;
    offload_places_open(&p, &c, 6); /* two a layer */
    assert_int_equal(of_prompt(&p, 0, 4), OFFLOAD_BRING);
    assert_int_equal(of_prompt(&p, 0, 1), OFFLOAD_BRING);
    assert_int_equal(of_prompt(&p, 2, 3), OFFLOAD_BRING); /* layers know nothing of each other */
    assert_int_equal(of_prompt(&p, 0, 0), OFFLOAD_CPU);
    assert_int_equal(of_prompt(&p, 0, 2), OFFLOAD_CPU);
    /* 4 and 1 were used once. 0 takes a place when it has been used twice oftener. */
    assert_int_equal(of_prompt(&p, 0, 0), OFFLOAD_CPU);
    assert_int_equal(of_prompt(&p, 0, 1), OFFLOAD_DEVICE);
    assert_int_equal(of_prompt(&p, 0, 4), OFFLOAD_DEVICE);
    assert_int_equal(of_prompt(&p, 0, 0), OFFLOAD_CPU);   /* 3 uses to 2 */
    assert_int_equal(of_prompt(&p, 0, 0), OFFLOAD_BRING); /* 4 to 2: the lower number goes first */
    assert_int_equal(of_prompt(&p, 0, 0), OFFLOAD_DEVICE);
    assert_int_equal(of_prompt(&p, 0, 1), OFFLOAD_CPU);
    assert_int_equal(of_prompt(&p, 0, 4), OFFLOAD_DEVICE);
    offload_places_close(&p);
}

/* An expert that takes a place while tokens decode has some tokens to come there. */
static void places_are_not_waited_for(void **state) {
    struct corm c = small_archive();
    struct offload_places p;
    (void)state;
    offload_places_open(&p, &c, 3); /* one a layer */
    assert_int_equal(offload_place(&p, 0, 4, true), OFFLOAD_BRING);
    for (uint32_t i = 0; i < OFFLOAD_ARRIVE_TOK; i++) {
        assert_int_equal(offload_place(&p, 0, 4, true), OFFLOAD_CPU);
        offload_places_clock(&p, 1);
    }
    assert_int_equal(offload_place(&p, 0, 4, true), OFFLOAD_DEVICE);
    for (uint32_t i = 0; offload_place(&p, 0, 2, true) != OFFLOAD_BRING; i++) {
        assert_true(i < 20);
    }
    assert_int_equal(offload_place(&p, 0, 4, true), OFFLOAD_CPU); /* its place is taken */
    assert_int_equal(offload_place(&p, 0, 2, true), OFFLOAD_CPU);
    offload_places_clock(&p, OFFLOAD_ARRIVE_TOK);
    assert_int_equal(offload_place(&p, 0, 2, true), OFFLOAD_DEVICE);
    offload_places_close(&p);
}

/* What was used much long ago gives way to what is used now. */
static void uses_fade(void **state) {
    struct corm c = small_archive();
    struct offload_places p;
    (void)state;
    offload_places_open(&p, &c, 3);
    assert_int_equal(of_prompt(&p, 3, 5), OFFLOAD_BRING);
    for (int i = 0; i < 199; i++) {
        assert_int_equal(of_prompt(&p, 3, 5), OFFLOAD_DEVICE);
    }
    uint32_t n = 0;
    for (offload_places_clock(&p, 1); of_prompt(&p, 3, 2) == OFFLOAD_CPU;
         offload_places_clock(&p, 1)) {
        assert_true(++n < 200);
    }
    assert_true(n > OFFLOAD_FADE_TOK); /* it had not been enough to be used at all */
    offload_places_clock(&p, 1000 * OFFLOAD_FADE_TOK); /* a long prompt */
    assert_int_equal(p.uses[3 * N_EXPERTS + 2], 0);
    offload_places_close(&p);
}

/* ---- batches -------------------------------------------------------------------------------- */

enum { MAX_ROWS = 48 };

/* Two experts a layer, one of them active, and a place for one of them on the device. */
struct site {
    char *dir, *path;
    struct arch arch;
    struct corm archive;
    struct backend device;
    uint8_t *slots;
    struct cache cache;
    struct prefetch *prefetch;
    struct experts experts;
    struct offload offload;
    float *x, *parts; /* the device's, [MAX_ROWS, dim] */
};

static void open_site(struct site *s) {
    const struct fake_options opt = {.isa = "scalar", .threads = 1, .memory_bytes = 16 << 20};
    struct err err = {0};
    *s = (struct site){.dir = test_mkdir()};
    s->path = mem_printf("%s/site.corm", s->dir);
    archive_moe_arch(&s->arch, 2, 2, 8);
    const struct archive_options o = archive_defaults("bf16", "bf16");
    archive_write(s->path, &s->arch, &o, NULL, &err);
    corm_open(&s->archive, s->path, 0, &err);
    assert_no_err(&err);
    struct backend_limits limits = forward_limits(&s->archive.arch, MAX_ROWS, 1);
    fake_device_open(&s->device, &opt, &limits, &err);
    const uint64_t room_bytes = cache_floor_bytes(&s->archive, 0); /* two records: one a layer */
    const struct backend_ops *op = s->device.ops;
    s->slots = op->alloc(s->device.self, room_bytes, &err);
    s->x = op->alloc(s->device.self, MAX_ROWS * s->archive.arch.dim * sizeof(float), &err);
    s->parts = op->alloc(s->device.self, MAX_ROWS * s->archive.arch.dim * sizeof(float), &err);
    const struct cache_options keep = {.how = CACHE_ONE_SIZE, .slots = s->slots};
    cache_open(&s->cache, &s->archive, room_bytes, &keep, &err);
    const struct prefetch_options io = {
        .io_threads = 1, .device = &s->device, .way = READER_BUFFERED};
    prefetch_open(&s->prefetch, &s->cache, &io, &err);
    const struct experts_options none = {0};
    experts_open(&s->experts, &s->cache, s->prefetch, &s->device, MAX_ROWS, &none);
    offload_open_cpu(&s->offload, &s->archive, "scalar", 1, MAX_ROWS, &err);
    offload_open(&s->offload, &s->experts, cache_bytes_needed(&s->archive, 0), false, &io, &err);
    assert_no_err(&err);
    assert_int_equal(s->offload.places.room[1], 1);
}

static void close_site(struct site *s) {
    offload_close(&s->offload);
    prefetch_close(s->prefetch);
    experts_close(&s->experts);
    cache_close(&s->cache);
    s->device.ops->free(s->device.self, s->slots);
    s->device.ops->free(s->device.self, s->x);
    s->device.ops->free(s->device.self, s->parts);
    backend_close(&s->device);
    corm_close(&s->archive);
    arch_free(&s->arch);
    free(s->path);
    test_rmdir(s->dir);
}

/* Run layer 1 over rows whose experts are the letters of `routes`, each row with an input of its
 * own. Returns the bytes of experts that the CPU computed with. free(*parts). */
static uint64_t run_rows(struct site *s, const char *routes, bool decode, float **parts) {
    const struct batch b = {.rows = (uint32_t)strlen(routes), .decode = decode};
    const struct experts_hook hook = offload_hook(&s->offload);
    const struct layer_weights lw = {0};
    const size_t n = (size_t)b.rows * s->archive.arch.dim;
    const uint64_t before = s->offload.experts.used_bytes;
    int32_t ids[MAX_ROWS];
    struct err err = {0};
    assert_true(b.rows <= MAX_ROWS);
    for (uint32_t r = 0; r < b.rows; r++) {
        ids[r] = routes[r] - 'A';
    }
    for (size_t i = 0; i < n; i++) {
        hook.host_x[i] = (float)(i % 37) * 0.03125f - 0.5f;
    }
    s->device.ops->write(s->device.self, s->x, hook.host_x, n * sizeof(float));
    assert_int_equal(hook.run(hook.ctx, 1, &lw, s->x, &b, ids, s->parts, &err), 0);
    assert_no_err(&err);
    *parts = mem_alloc(n * sizeof(float));
    s->device.ops->read(s->device.self, *parts, s->parts, n * sizeof(float));
    return s->offload.experts.used_bytes - before;
}

/* Rows of one batch take a place from each other: each expert that has one in the end is brought,
 * once, and no other. */
static void places_change_in_a_batch(void **state) {
    static const struct {
        const char *routes;
        uint32_t placed;
    } rows[] = {
        {"ABBBAAAA", 0},                 /* lost and regained */
        {"ABBBAAAABBBB", 1},             /* twice */
        {"ABBB", 1},                     /* lost */
        {"AB", 0},                       /* never lost */
        {"ABBBAAAABBBBAAAABBBBAAAA", 0}, /* more often than there are experts */
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct site s;
        float *got, *want;
        open_site(&s);
        const struct offload *o = &s.offload;
        assert_true(run_rows(&s, rows[i].routes, true, &got) > 0);
        assert_int_equal(o->n_bring, 1);
        assert_int_equal(o->bring[0].first,
                         corm_record_of(&s.archive, 1, rows[i].placed)->first_chunk);
        assert_true(o->places.placed[s.arch.n_experts + rows[i].placed]);
        /* All rows were computed: what the device makes of them, as of a prompt. */
        assert_int_equal(run_rows(&s, rows[i].routes, false, &want), 0);
        assert_int_equal(o->n_bring, 0);
        assert_memory_equal(got, want, strlen(rows[i].routes) * s.arch.dim * sizeof *got);
        free(got);
        free(want);
        close_site(&s);
    }
}

/* Many sequences that decode at once use an expert as often as a prompt does: they are not divided,
 * but their uses count. */
static void large_batches_are_copied(void **state) {
    char routes[MAX_ROWS + 1];
    struct site s;
    float *got;
    (void)state;
    open_site(&s);
    for (uint32_t rows = OFFLOAD_COPY_ROWS - 1; rows <= MAX_ROWS; rows++) {
        memset(routes, 'A', rows);
        routes[rows / 2] = 'B'; /* which has no place */
        routes[rows] = 0;
        const uint64_t cpu_bytes = run_rows(&s, routes, true, &got);
        assert_true((cpu_bytes > 0) == (rows < OFFLOAD_COPY_ROWS));
        assert_true(s.offload.places.uses[s.arch.n_experts] > 0);
        free(got);
    }
    close_site(&s);
}

/* ---- measuring ------------------------------------------------------------------------------ */

static void rates(void **state) {
    struct corm c = small_archive();
    struct offload o = {0};
    struct err err = {0};
    struct backend fake;
    struct fake_options opt = {
        .isa = "scalar", .threads = 1, .memory_bytes = 16 << 20, .bytes_per_s = 4e8};
    struct backend_limits limits = {.max_rows = 1, .max_cols = 100, .max_active = 2};
    (void)state;
    assert_int_equal(offload_open_cpu(&o, &c, "scalar", 2, 1, &err), 0);
    assert_no_err(&err);
    double cpu = offload_cpu_rate(&o.cpu, &c, 1, NULL); /* two experts at least */
    assert_true(cpu > 1e6 && cpu < 1e12);
    double link = 1;
    assert_int_equal(offload_link_rate(&o.cpu, &link, &err), 0);
    assert_true(link == 0); /* no device */
    offload_close(&o);
    fake_device_open(&fake, &opt, &limits, &err);
    assert_no_err(&err);
    assert_int_equal(offload_link_rate(&fake, &link, &err), 0);
    /* Sleeping takes longer, never shorter; on a machine that is busy, much longer. */
    assert_true(link > 1e6 && link < 4.2e8);
    assert_int_equal(fake_device_counts(&fake).used_bytes, 0);
    backend_close(&fake);
    assert_int_equal(offload_open_cpu(&o, &c, "no such", 1, 1, &err), -1);
    offload_close(&o);
}

/* Experts that are not a number of whole chunks, packed, and the sample itself a whole chunk or
 * what was left over: in as little memory as that can be done in, and in some. */
static void packed_rates(void **state) {
    static const uint32_t hot_neurons[] = {0, 64};
    static const char *const isas[] = {NULL, "scalar"};
    char *dir = test_mkdir(), *path = mem_printf("%s/packed.corm", dir);
    struct arch a;
    (void)state;
    archive_moe_arch(&a, 1, 3, 70);
    a.dim = 192;
    a.n_active = 2;
    for (size_t i = 0; i < TEST_COUNT(hot_neurons); i++) {
        struct archive_options o = archive_defaults("bf16", "bf16");
        o.chunk_neurons = FFN_BLOCK;
        o.hot_neurons = hot_neurons[i];
        struct err err = {0};
        struct corm c;
        archive_write(path, &a, &o, NULL, &err);
        corm_open(&c, path, 0, &err);
        assert_no_err(&err);
        const struct corm_chunk *sample = packing_sample(&c);
        assert_non_null(sample);
        assert_int_equal(sample->n_neurons, hot_neurons[i] ? 70 - 64 : FFN_BLOCK);
        struct backend_limits limits = forward_limits(&c.arch, 1, 1);
        limits.max_packed_bytes = FFN_BLOCK * c.neuron_bytes;
        for (size_t k = 0; k < 2 * TEST_COUNT(isas); k++) {
            struct backend cpu;
            backend_cpu_open(&cpu, isas[k / 2], 2, &limits, &err);
            assert_no_err(&err);
            uint64_t most_bytes = k % 2 ? 1 : 1 << 20;
            double packed = offload_cpu_rate(&cpu, &c, most_bytes, sample);
            double decoded = offload_cpu_rate(&cpu, &c, most_bytes, NULL);
            assert_true(isfinite(packed) && packed > 1e6 && packed < 1e12);
            assert_true(isfinite(decoded) && decoded > 1e6 && decoded < 1e12);
            backend_close(&cpu);
        }
        corm_close(&c);
    }
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rule),
        cmocka_unit_test(shares),
        cmocka_unit_test(who_has_a_place),
        cmocka_unit_test(places_are_not_waited_for),
        cmocka_unit_test(uses_fade),
        cmocka_unit_test(places_change_in_a_batch),
        cmocka_unit_test(large_batches_are_copied),
        cmocka_unit_test(rates),
        cmocka_unit_test(packed_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
