/*
 * Archives whose chunks have several codecs, from prep's writer to logits: what is defined chunk by
 * chunk, to the bit, whatever the memory, the threads and the guesses; and a cache of bytes.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_read.h"
#include "runtime/cache.h"
#include "runtime/mechanisms.h"
#include "runtime/model/forward.h"
#include "runtime/model/state.h"
#include "tests/util/test_util_archive.h"
#include "tests/util/test_util_device.h"
#include "tests/util/test_util_golden.h"

enum { PROMPT = 20, ALL_IDS = 32 };

/* ---- the archive ---- */

/* q8 for the hottest chunks, q4 for the others; in every fourth expert the other way round. */
static const struct codec *hot_in_q8(void *ctx, uint32_t layer, uint32_t expert, uint32_t chunk,
                                     uint32_t n_hot) {
    (void)ctx;
    (void)layer;
    return codec_by_id((chunk < n_hot) == (expert % 4 != 3) ? CODEC_Q8 : CODEC_Q4);
}

static char *mixed_archive(const char *model) {
    struct hf_model m;
    struct err err = {0};
    struct pack_options how = model_packing();
    char *source = golden_source(model), *name = mem_printf("%s-mixed", model);
    how.expert_codec = codec_by_id(CODEC_Q8);
    how.chunk_codec = hot_in_q8;
    hf_open(&m, source, &err);
    assert_no_err(&err);
    char *path = model_pack(&m, test_dir(), name, &how);
    hf_close(&m);
    free(source);
    free(name);
    return path;
}

/* ---- the definition ---- */

/* A forward pass whose experts come straight from the file, one chunk at a time. */
struct definition {
    struct corm c;
    struct backend be;
    struct layer_weights model, *layers;
    struct corm_decoder *decoder;
    bool in_f32; /* chunks are decoded to f32, row by row */
    float *part;
    uint8_t *chunk;
    float *rows;
};

static int weight_of(void *ctx, enum slot_id slot, uint32_t layer, struct weight *out,
                     struct err *err) {
    (void)err;
    *out = corm_tensor_get(ctx, slot, layer);
    return 0;
}

/* A chunk, decoded from the file. */
static struct ffn_chunk load_chunk(struct definition *d, const struct corm_chunk *k,
                                   uint32_t first) {
    const struct codec *codec = codec_by_id(k->codec);
    const uint32_t dim = d->c.arch.dim;
    struct err err = {0};
    corm_chunk_decode(d->decoder, &d->c, k, d->c.map.data + k->offset, d->chunk, &err);
    assert_no_err(&err);
    struct ffn_chunk chunk = {
        .data = d->chunk, .codec = codec, .n_neurons = k->n_neurons, .first = first};
    for (uint32_t r = 0; d->in_f32 && r < 3 * k->n_neurons; r++) {
        codec->decode_row(d->chunk + r * codec_row_bytes(codec, dim), dim,
                          d->rows + (size_t)r * dim);
    }
    if (d->in_f32) {
        chunk.data = (const uint8_t *)d->rows;
        chunk.codec = codec_by_id(CODEC_F32);
    }
    return chunk;
}

static int run_experts(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *ids, float *parts, struct err *err) {
    struct definition *d = ctx;
    const struct arch *a = &d->c.arch;
    const struct expert_layer of = forward_expert_layer(a, layer, lw);
    (void)err;
    assert_false(of.rule.bias);
    for (uint32_t u = 0; u < b->rows * a->n_active; u++) {
        const struct corm_record *rec = corm_record_of(&d->c, layer, (uint32_t)ids[u]);
        float *out = parts + (size_t)u * a->dim;
        for (uint32_t i = 0; i < rec->n_chunks; i++) {
            const struct corm_chunk *k = &d->c.chunks[rec->first_chunk + i];
            const struct ffn_chunk chunk = load_chunk(d, k, i * d->c.chunk_neurons);
            const struct expert_job job = {(uint32_t)ids[u], &chunk, 1, &u, 1};
            d->be.ops->experts(d->be.self, &of, &job, 1, x, d->part);
            const float *part = d->part + (size_t)u * a->dim;
            for (uint32_t n = 0; n < a->dim; n++) {
                out[n] = i == 0 ? part[n] : out[n] + part[n];
            }
        }
    }
    return 0;
}

/* Logits of all ids, one after the other: [n, vocab], to free(). */
static float *define(const char *path, const char *isa, bool in_f32, const int32_t *ids,
                     uint32_t n) {
    struct definition d = {.in_f32 = in_f32};
    struct err err = {0};
    corm_open(&d.c, path, 0, &err);
    assert_no_err(&err);
    const struct arch *a = &d.c.arch;
    const struct backend_limits limits = forward_limits(a, 1, n);
    backend_cpu_open(&d.be, isa, 1, &limits, &err);
    assert_no_err(&err);
    const struct weight_source source = {&d.c, weight_of};
    forward_bind_model(&d.model, a, &source, &d.be, &err);
    d.layers = mem_calloc(a->n_layers, sizeof *d.layers);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        forward_bind_layer(&d.layers[l], a, l, &source, &d.be, &err);
    }
    d.decoder = corm_decoder_new(&d.c);
    d.part = mem_calloc((size_t)a->n_active * a->dim, sizeof *d.part);
    d.chunk = mem_alloc_aligned(d.c.chunk_neurons * d.c.neuron_bytes);
    d.rows = mem_alloc_aligned((size_t)3 * d.c.chunk_neurons * a->dim * sizeof *d.rows);
    struct forward f;
    struct state state;
    const struct state_size size = {.ctx_tok = n, .batch_rows = 1, .type = KV_F16};
    forward_open(&f, a, &d.be, 1, (struct experts_hook){.ctx = &d, .run = run_experts},
                 (struct tap_hook){0}, &err);
    state_open(&state, a, &d.be, &size, NULL, &err);
    assert_no_err(&err);
    float *logits = mem_calloc((size_t)n * a->vocab, sizeof *logits);
    for (uint32_t i = 0; i < n; i++) {
        const struct span span = {.state = &state, .rows = 1, .pos = i};
        const struct batch b = {.rows = 1, .n_spans = 1, .spans = &span};
        forward_embed(&f, &d.model, ids + i, &b, f.x);
        for (uint32_t l = 0; l < a->n_layers; l++) {
            forward_layer(&f, &d.layers[l], l, &b, f.x, &err);
            assert_no_err(&err);
        }
        state_advance(&state, 1);
        forward_logits(&f, &d.model, f.x, 1, logits + (size_t)i * a->vocab);
    }
    state_close(&state);
    forward_close(&f);
    backend_close(&d.be);
    corm_decoder_free(d.decoder);
    corm_close(&d.c);
    free(d.layers);
    free(d.part);
    free(d.chunk);
    free(d.rows);
    return logits;
}

/* ---- tests ---- */

static const int32_t *ids_of(uint32_t vocab) {
    static int32_t ids[ALL_IDS];
    for (uint32_t i = 0; i < ALL_IDS; i++) {
        ids[i] = (int32_t)((i * 37 + i / 7 * 11) % vocab);
    }
    return ids;
}

static void check_engine(const char *path, const struct corm_engine_options *opt,
                         const float *want) {
    struct corm_engine *e = model_open(path, opt);
    struct corm_session *s = model_session(e);
    const size_t vocab = corm_engine_info(e)->vocab;
    const int32_t *ids = ids_of((uint32_t)vocab);
    assert_string_equal(corm_engine_info(e)->expert_codec, "q8+q4");
    assert_memory_equal(model_eval(s, ids, PROMPT, true), want, PROMPT * vocab * sizeof *want);
    for (size_t i = PROMPT; i < ALL_IDS; i++) {
        assert_memory_equal(model_eval(s, ids + i, 1, false), want + i * vocab,
                            vocab * sizeof *want);
    }
    corm_session_close(s);
    corm_engine_close(e);
}

/* With all in memory, with half and with the least; read in every way; with several threads and
 * none to spare; with guesses and without. */
static void logits_are_defined_chunk_by_chunk(void **state) {
    (void)state;
    static const enum corm_reading readings[] = {CORM_READ_BUFFERED, CORM_READ_MAPPED,
                                                 CORM_READ_PASSING};
    static const char *const models[] = {"fable", "fable-fine"};
    static const char *const isas[] = {NULL, "scalar"};
    for (size_t m = 0; m < TEST_COUNT(models); m++) {
        char *path = mixed_archive(models[m]);
        for (size_t isa = 0; isa < TEST_COUNT(isas); isa++) {
            struct corm_engine_options opt = {.isa = isas[isa], .threads = 1, .ctx_tok = 64};
            struct corm_engine *e = model_open(path, &opt);
            const uint32_t vocab = corm_engine_info(e)->vocab;
            corm_engine_close(e);
            float *want = define(path, isas[isa], false, ids_of(vocab), ALL_IDS);
            check_engine(path, &opt, want);
            for (int i = 0; i < 6 && !(isas[isa] && QUICK); i++) {
                const struct corm_mechanisms mech = {.cache_share = i < 3 ? 0.5 : 0.3,
                                                     .reading = readings[i % 3],
                                                     .no_guesses = i % 2};
                opt.threads = 1 + (uint32_t)i % 3;
                opt.measure = &mech;
                check_engine(path, &opt, want);
            }
            free(want);
        }
        free(path);
    }
}

/* In f32, each row decoded by its chunk's codec, logits differ by what quantised inputs do. */
static void logits_are_those_of_the_decoded_weights(void **state) {
    (void)state;
    char *path = mixed_archive("fable");
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){.threads = 1});
    const uint32_t vocab = corm_engine_info(e)->vocab;
    corm_engine_close(e);
    float *got = define(path, NULL, false, ids_of(vocab), ALL_IDS);
    float *want = define(path, NULL, true, ids_of(vocab), ALL_IDS);
    double error = 0, size = 0;
    for (size_t i = 0; i < (size_t)ALL_IDS * vocab; i++) {
        error += pow((double)got[i] - (double)want[i], 2);
        size += pow((double)want[i], 2);
    }
    print_message("quantised inputs: error %.2g of the logits\n", sqrt(error / size));
    assert_true(sqrt(error / size) < 0.05);
    free(got);
    free(want);
    free(path);
}

/* A device, here one that computes as the CPU does, holds chunks of all codecs in slots of the
 * largest size; what it misses comes to it, or is the CPU's. One that takes a single codec a call
 * refuses the archive by name. */
static void devices_hold_what_they_compute_with(void **state) {
    (void)state;
    char *path = mixed_archive("fable");
    struct corm_engine_options opt = {.isa = "scalar", .threads = 1, .ctx_tok = 64};
    struct corm_engine *e = model_open(path, &opt);
    const uint32_t vocab = corm_engine_info(e)->vocab;
    corm_engine_close(e);
    float *want = define(path, "scalar", false, ids_of(vocab), ALL_IDS);
    for (int i = 0; i < 3; i++) {
        const struct fake_options fake = {
            .isa = "scalar", .threads = 1, .memory_bytes = (size_t)1 << 28};
        const struct backend_limits limits = {.max_rows = 256,
                                              .max_cols = 8192,
                                              .max_ffn = 1024,
                                              .max_active = 8,
                                              .max_experts = 256,
                                              .max_ctx_tok = 256,
                                              .n_heads = 16,
                                              .head_dim = 64};
        struct backend b;
        struct err err = {0};
        fake_device_open(&b, &fake, &limits, &err);
        assert_no_err(&err);
        struct backend_ops one = *b.ops;
        one.mixes_codecs = i < 2;
        b.ops = &one;
        const struct corm_mechanisms m = {.backend = &b, .cache_share = 0.5};
        opt.vram_bytes = (uint64_t)1 << 27;
        opt.missed = i % 2 ? CORM_MISSED_CPU : CORM_MISSED_DEVICE;
        opt.measure = &m;
        if (i < 2) {
            check_engine(path, &opt, want);
            continue;
        }
        struct corm_error error;
        assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1); /* closes the device */
        assert_non_null(strstr(error.message, path));
        assert_non_null(strstr(error.message, "several codecs (q8+q4)"));
    }
    free(want);
    free(path);
}

/* A view of an archive of dim 2048 without a file: experts of CHUNKS chunks, of which the first
 * ones, more in some experts than in others, are in q8, and the others in q4. */
enum { LAYERS = 4, EXPERTS = 64, CHUNKS = 8 };

struct view {
    struct corm c;
    struct corm_record records[LAYERS * EXPERTS];
    struct corm_chunk chunks[LAYERS * EXPERTS * CHUNKS];
    uint32_t layer_record[LAYERS];
};

static void make_view(struct view *v) {
    *v = (struct view){.c = {.mixed = true, .expert_codec = codec_by_id(CODEC_Q8)}};
    archive_moe_arch(&v->c.arch, LAYERS, EXPERTS, CHUNKS * 32);
    v->c.arch.dim = 2048;
    v->c.neuron_bytes = 3 * codec_row_bytes(v->c.expert_codec, v->c.arch.dim);
    v->c.chunk_neurons = 32;
    for (uint32_t r = 0; r < LAYERS * EXPERTS; r++) {
        v->layer_record[r / EXPERTS] = r / EXPERTS * EXPERTS;
        v->records[r] = (struct corm_record){.first_chunk = r * CHUNKS, .n_chunks = CHUNKS};
        for (uint32_t i = 0; i < CHUNKS; i++) {
            v->chunks[r * CHUNKS + i] = (struct corm_chunk){
                .n_neurons = 32, .codec = i < r % 5 ? CODEC_Q8 : CODEC_Q4, .stored_bytes = 1};
        }
    }
    v->c.records = v->records;
    v->c.chunks = v->chunks;
    v->c.layer_record = v->layer_record;
    v->c.n_records = LAYERS * EXPERTS;
    v->c.n_chunks = LAYERS * EXPERTS * CHUNKS;
}

/* Bring what is missing of a leased expert. Returns the bytes that chunks had when the first of
 * them found no room, with what it needs. */
static uint64_t bring(struct cache *c, const struct corm_record *rec) {
    uint64_t full = UINT64_MAX;
    for (uint32_t i = rec->first_chunk; i < rec->first_chunk + rec->n_chunks; i++) {
        struct cache_chunk *k = &c->chunks[i];
        if (k->state == CACHE_READY) {
            continue;
        }
        const uint64_t evictions = c->count.evictions;
        const uint64_t wanted =
            c->room.used_bytes + corm_chunk_raw_bytes(c->archive, &c->archive->chunks[i]);
        const int32_t slot = cache_slot_take(c, i, CACHE_CLAIM_DEMAND, 0);
        assert_int_not_equal(slot, CACHE_NO_SLOT);
        k->state = CACHE_LOADING;
        cache_publish(c, i, slot, cache_slot(c, slot));
        if (c->count.evictions > evictions && full == UINT64_MAX) {
            full = wanted;
        }
    }
    return full;
}

/* Long use of experts by chance, some of them more often: at least 97 % of the room hold chunks
 * once it is full, in less than two thirds of the room that slots of one size would take; what is
 * leased is there. */
static void the_cache_holds_its_bytes(void **state) {
    (void)state;
    static struct view v;
    struct cache cache;
    struct err err = {0};
    make_view(&v);
    const uint64_t all = cache_bytes_needed(&v.c, 0), room = all / 3;
    assert_true(3 * all < 2 * v.c.n_chunks * cache_slot_bytes(&v.c, 0));
    cache_open(&cache, &v.c, room, &(struct cache_options){0}, &err);
    assert_no_err(&err);
    assert_int_equal(cache.sizes.n, 2);
    struct test_rng rng = {5};
    uint64_t least = room;
    for (uint32_t use = 0; use < (QUICK ? 3000 : 30000); use++) {
        cache_clock(&cache, use % LAYERS, 1, true);
        /* For a while experts with much in q8 come more often than others. */
        uint32_t e = (uint32_t)(test_u64(&rng) % EXPERTS);
        e = test_u64(&rng) % 2 ? e : e / 5 * 5 + use / 1000 % 5;
        const uint32_t r = use % LAYERS * EXPERTS + e % EXPERTS;
        const struct corm_record *rec = &v.records[r];
        for (uint32_t i = 0; i < CHUNKS; i++) {
            cache_lease(&cache, rec->first_chunk + i);
        }
        const uint64_t full = bring(&cache, rec);
        least = full < least ? full : least;
        for (uint32_t i = 0; i < CHUNKS; i++) {
            assert_int_equal(cache.chunks[rec->first_chunk + i].state, CACHE_READY);
            cache_release(&cache, rec->first_chunk + i);
        }
        cache_touch(&cache, r);
        assert_true(cache.room.held_bytes <= cache.room.most_bytes);
    }
    print_message("at least %.1f %% of the room held chunks, %llu evictions\n",
                  100 * (double)least / (double)room, (unsigned long long)cache.count.evictions);
    assert_true((double)least > 0.97 * (double)room && cache.count.evictions > 1000);
    cache_close(&cache);
    arch_free(&v.c.arch);
}

/* Where all chunks have room at once, all of them may be leased together. */
static void all_may_be_leased_where_all_fit(void **state) {
    (void)state;
    static struct view v;
    struct cache cache;
    struct err err = {0};
    make_view(&v);
    for (uint32_t i = 0; i < v.c.n_chunks; i++) {
        v.chunks[i].n_neurons = 1;
    }
    const uint64_t all = cache_bytes_needed(&v.c, 0);
    cache_open(&cache, &v.c, all, &(struct cache_options){0}, &err);
    assert_no_err(&err);
    assert_int_equal(cache.sizes.n, 2);
    uint64_t leased = 0;
    for (uint32_t i = 0; i < v.c.n_chunks; i++) {
        leased += cache_lease_bytes(&cache, i);
        const int32_t slot = cache_slot_take(&cache, i, CACHE_CLAIM_GUESS, 0);
        assert_int_not_equal(slot, CACHE_NO_SLOT);
    }
    assert_true(leased <= all);
    cache_close(&cache);
    arch_free(&v.c.arch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_defined_chunk_by_chunk),
        cmocka_unit_test(logits_are_those_of_the_decoded_weights),
        cmocka_unit_test(devices_hold_what_they_compute_with),
        cmocka_unit_test(the_cache_holds_its_bytes),
        cmocka_unit_test(all_may_be_leased_where_all_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
