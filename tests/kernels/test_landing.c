/*
 * The host's side of a device, on the fake one: its operations, the ring of staging pieces, who
 * waits for whom, and which copy goes first.
 */
#include "kernels/landing.h"
#include "tests/util/test_util_cuda.h"
#include "tests/util/test_util_device.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif

static struct cuda_rig rig;

static struct backend open_fake(double bytes_per_s, uint64_t experts_late_ns) {
    struct fake_options opt = {.isa = "scalar",
                               .threads = 1,
                               .memory_bytes = (size_t)1 << 30,
                               .bytes_per_s = bytes_per_s,
                               .experts_late_ns = experts_late_ns};
    struct backend_limits limits = cuda_rig_limits();
    struct backend b;
    struct err err = {0};
    fake_device_open(&b, &opt, &limits, &err);
    assert_no_err(&err);
    return b;
}

static int open_rig(void **state) {
    cuda_rig_open_scalar(&rig);
    rig.device = open_fake(0, 0);
    rig.n_variants = 1;
    *state = &rig;
    return 0;
}

static int close_rig(void **state) {
    (void)state;
    cuda_rig_close(&rig);
    return 0;
}

/* ---- the ring ------------------------------------------------------------------------------- */

static void fill(uint8_t *piece, size_t n, uint32_t seed) {
    for (size_t i = 0; i < n; i++) {
        piece[i] = (uint8_t)(i * 7 + seed * 13 + (i >> 9));
    }
}

static void test_ring(void **state) {
    enum { BYTES = 100000, N = 40 };
    (void)state;
    for (uint32_t n_pieces = 1; n_pieces <= 3; n_pieces++) {
        struct backend b = open_fake(2e9, 0);
        struct landing *l = landing_new(&b, BYTES, n_pieces, NULL);
        uint8_t *slots = b.ops->alloc(b.self, (size_t)BYTES * N, NULL);
        uint8_t *back = mem_alloc(BYTES), *want = mem_alloc(BYTES);
        assert_true(landing_arrived(l));
        for (uint32_t i = 0; i < N; i++) {
            uint8_t *piece = landing_take(l);
            fill(piece, BYTES, i);
            landing_send(l, slots + (size_t)i * BYTES, BYTES - i,
                         i % 2 ? BACKEND_GUESSED : BACKEND_DEMANDED, 0);
        }
        landing_wait(l);
        assert_true(landing_arrived(l));
        for (uint32_t i = 0; i < N; i++) {
            fill(want, BYTES, i);
            b.ops->read(b.self, back, slots + (size_t)i * BYTES, BYTES - i);
            assert_memory_equal(back, want, BYTES - i);
        }
        /* Nothing is kept back for a guess when a demand comes; the other way round neither. */
        struct backend_link link = fake_device_counts(&b).link;
        assert_true(link.uploads == N && link.copies == N && link.pieces == N);
        landing_free(l);
        b.ops->free(b.self, slots);
        assert_int_equal(fake_device_counts(&b).used_bytes, 0);
        free(back);
        free(want);
        backend_close(&b);
    }
    landing_free(NULL);
}

/* What one thread sends with the pieces of a ring, at places of the device that `place` names, and
 * what that makes of it. */
static struct backend_link send_all(size_t piece_bytes, uint32_t n, uint32_t n_pieces,
                                    const uint32_t *place) {
    struct backend b = open_fake(0, 0);
    struct landing *l = landing_new(&b, piece_bytes, n_pieces, NULL);
    uint8_t *slots = b.ops->alloc(b.self, piece_bytes * n, NULL);
    uint8_t *back = mem_alloc(piece_bytes), *want = mem_alloc(piece_bytes);
    for (uint32_t i = 0; i < n; i++) {
        fill(landing_take(l), piece_bytes, i);
        assert_false(landing_take(l) == NULL);
        landing_send(l, slots + place[i] * piece_bytes, piece_bytes, BACKEND_DEMANDED, 0);
    }
    landing_wait(l);
    for (uint32_t i = 0; i < n; i++) {
        fill(want, piece_bytes, i);
        b.ops->read(b.self, back, slots + place[i] * piece_bytes, piece_bytes);
        assert_memory_equal(back, want, piece_bytes);
    }
    struct backend_link link = fake_device_counts(&b).link;
    assert_int_equal(link.pieces, n);
    assert_int_equal(link.bytes[BACKEND_DEMANDED], piece_bytes * n);
    landing_free(l);
    b.ops->free(b.self, slots);
    free(back);
    free(want);
    backend_close(&b);
    return link;
}

/* Small pieces go together, as one copy where they lie side by side at both ends. */
static void test_batches(void **state) {
    enum { N = 48, SMALL = 16 << 10, PER_BATCH = LANDING_BATCH_BYTES / SMALL };
    uint32_t in_order[N], backwards[N], pairs[N];
    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        in_order[i] = i;
        backwards[i] = N - 1 - i;
        pairs[i] = (N / 2 - 1 - i / 2) * 2 + i % 2;
    }
    assert_int_equal(landing_pieces(SMALL), 4 * PER_BATCH);
    struct backend_link link = send_all(SMALL, N, landing_pieces(SMALL), in_order);
    assert_int_equal(link.uploads, N / PER_BATCH);
    assert_int_equal(link.copies, N / PER_BATCH);
    link = send_all(SMALL, N, landing_pieces(SMALL), backwards);
    assert_int_equal(link.uploads, N / PER_BATCH);
    assert_int_equal(link.copies, N);
    link = send_all(SMALL, N, landing_pieces(SMALL), pairs);
    assert_int_equal(link.uploads, N / PER_BATCH);
    assert_int_equal(link.copies, N / 2);
    /* A ring that is smaller than a batch goes when it is full, and is no run at its end. */
    link = send_all(SMALL, N, 3, in_order);
    assert_int_equal(link.uploads, N / 3);
    assert_int_equal(link.copies, N / 3);
    link = send_all(SMALL, N, 1, in_order);
    assert_int_equal(link.copies, N);
    /* Big ones go alone, in copies that a demand can wait for. */
    assert_int_equal(landing_pieces(LANDING_BATCH_BYTES), 4);
    link = send_all(5 << 18, 6, 4, in_order);
    assert_int_equal(link.uploads, 6);
    assert_int_equal(link.copies, 12);
}

/* Bytes that lie in page-locked memory already take turns with pieces of the ring, and what lies
 * side by side is one copy. */
static void test_from_elsewhere(void **state) {
    enum { BYTES = 3000, N = 60, PIECES = 3 };
    (void)state;
    struct backend b = open_fake(0, 0);
    struct landing *l = landing_new(&b, BYTES, PIECES, NULL);
    uint8_t *own = b.ops->host_alloc(b.self, (size_t)N * BYTES, NULL);
    uint8_t *slots = b.ops->alloc(b.self, (size_t)N * BYTES, NULL);
    uint8_t *back = mem_alloc((size_t)N * BYTES), *want = mem_alloc((size_t)N * BYTES);
    fill(own, (size_t)N * BYTES, 5);
    memcpy(want, own, (size_t)N * BYTES);
    for (uint32_t i = 0; i < N; i++) {
        uint8_t *to = slots + (size_t)i * BYTES;
        if (i >= N / 2 && i % 3 == 0) {
            fill(want + (size_t)i * BYTES, BYTES, i);
            fill(landing_take(l), BYTES, i);
            landing_send(l, to, BYTES, BACKEND_DEMANDED, 0);
        } else {
            landing_send_from(l, own + (size_t)i * BYTES, to, BYTES, BACKEND_DEMANDED, 0);
        }
    }
    landing_wait(l);
    assert_true(landing_arrived(l));
    b.ops->read(b.self, back, slots, (size_t)N * BYTES);
    assert_memory_equal(back, want, (size_t)N * BYTES);
    struct backend_link link = fake_device_counts(&b).link;
    assert_int_equal(link.pieces, N);
    /* The ring holds so many: then they go, as one copy where no piece of it is among them. */
    assert_int_equal(link.uploads, N / PIECES);
    assert_int_equal(link.copies, N / 2 / PIECES + N / 2 / PIECES * 2);
    landing_free(l);
    b.ops->host_free(b.self, own);
    b.ops->free(b.self, slots);
    free(back);
    free(want);
    backend_close(&b);
}

/* ---- order ---------------------------------------------------------------------------------- */

/* A demand that comes when guesses fill the link goes past them. */
static void test_urgency(void **state) {
    enum { BYTES = 4 << 20, N = 8 };
    (void)state;
    struct backend b = open_fake(400e6, 0); /* 10 ms a copy, 2.6 ms a piece */
    uint8_t *slots = b.ops->alloc(b.self, (size_t)BYTES * (N + 1), NULL);
    uint8_t *staging = b.ops->host_alloc(b.self, BYTES, NULL);
    uint64_t guesses[N];
    fill(staging, BYTES, 0);
    for (int i = 0; i < N; i++) {
        struct backend_copy copy = {slots + (size_t)i * BYTES, staging, BYTES, 1};
        guesses[i] = b.ops->upload(b.self, &copy, 1, BACKEND_GUESSED, 0);
    }
    assert_false(b.ops->uploaded(b.self, guesses[N - 1], false));
    struct backend_copy copy = {slots + (size_t)N * BYTES, staging, BYTES, 1};
    uint64_t demand = b.ops->upload(b.self, &copy, 1, BACKEND_DEMANDED, 0);
    assert_true(b.ops->uploaded(b.self, demand, true));
    assert_false(b.ops->uploaded(b.self, guesses[N - 1], false));
    assert_false(b.ops->uploaded(b.self, guesses[N / 2], false));
    assert_true(b.ops->uploaded(b.self, guesses[N - 1], true));
    assert_true(b.ops->uploaded(b.self, guesses[0], false)); /* one urgency keeps its order */
    b.ops->host_free(b.self, staging);
    b.ops->free(b.self, slots);
    backend_close(&b);
}

/* Experts that were asked for see the chunk that was there, not the one that lands next: if the
 * upload waits for the mark. Without that, the fake device does show it. */
static float first_output(bool wait_for_mark) {
    enum { DIM = 32, NEURONS = 32 };
    const struct codec *codec = codec_by_id(CODEC_F32);
    const size_t bytes = 3 * NEURONS * codec_row_bytes(codec, DIM);
    struct backend b = open_fake(0, 20000000);
    struct landing *l = landing_new(&b, bytes, 2, NULL);
    float *slot = b.ops->alloc(b.self, bytes, NULL),
          *x = b.ops->alloc(b.self, DIM * sizeof *x, NULL);
    float *parts = b.ops->alloc(b.self, DIM * sizeof *parts, NULL), ones[DIM], got[DIM];
    for (int i = 0; i < DIM; i++) {
        ones[i] = 1;
    }
    b.ops->write(b.self, x, ones, sizeof ones);
    uint64_t after = 0;
    for (int round = 1; round <= 2; round++) {
        float *piece = (float *)(void *)landing_take(l);
        for (size_t i = 0; i < bytes / sizeof *piece; i++) {
            piece[i] = 0.125f * (float)round;
        }
        landing_send(l, slot, bytes, BACKEND_DEMANDED, after);
        if (round == 1) {
            landing_wait(l);
            const uint32_t use = 0;
            struct ffn_chunk chunk = {
                .data = (const uint8_t *)slot, .codec = codec, .n_neurons = NEURONS};
            struct expert_job job = {0, &chunk, 1, &use, 1};
            struct expert_layer layer = {.dim = DIM, .ffn_dim = NEURONS, .n_active = 1};
            b.ops->experts(b.self, &layer, &job, 1, x, parts);
            after = wait_for_mark ? b.ops->mark(b.self) : 0;
        }
    }
    landing_wait(l);
    b.ops->read(b.self, got, parts, sizeof got);
    landing_free(l);
    b.ops->free(b.self, slot);
    b.ops->free(b.self, x);
    b.ops->free(b.self, parts);
    backend_close(&b);
    return got[0];
}

static void test_mark(void **state) {
    (void)state;
    /* Each of 32 neurons gives silu(4) * 4 / 8 in round 1. */
    float want = 32 * 4 * 0.98201379f * 4 * 0.125f;
    assert_true(first_output(true) > want * 0.99f && first_output(true) < want * 1.01f);
#if !defined(__SANITIZE_THREAD__) && !__has_feature(thread_sanitizer)
    assert_true(first_output(false) > want * 2); /* a race, on purpose */
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda_test_memory),
        cmocka_unit_test(cuda_test_elements),
        cmocka_unit_test(cuda_test_embed),
        cmocka_unit_test(cuda_test_rope),
        cmocka_unit_test(cuda_test_route),
        cmocka_unit_test(cuda_test_experts_empty),
        cmocka_unit_test(cuda_test_delta_net),
        cmocka_unit_test(cuda_test_delta_conv),
        cmocka_unit_test(cuda_test_attention),
        cmocka_unit_test(cuda_test_upload),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_urgency),
        cmocka_unit_test(test_mark),
        cmocka_unit_test(cuda_test_put_rows),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_from_elsewhere),
        cmocka_unit_test(cuda_test_upload_many),
    };
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
