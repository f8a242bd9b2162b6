/*
 * gguf_block: every type's numbers to the bit as the gguf package has them (make_gguf_blocks.py),
 * runs that begin and end inside blocks, the table.
 */
#include "tests/util/test.h"

#include "prep/gguf/gguf_block.h"

/* CORM_TEST_BLOCKS names a larger file of the same script. */
static struct safetensors *open_vectors(void) {
    const char *other = getenv("CORM_TEST_BLOCKS");
    struct safetensors *st;
    struct err err = {0};
    st_open(&st, other ? other : "tests/golden/gguf_blocks.safetensors", &err);
    assert_no_err(&err);
    return st;
}

static const struct st_tensor *tensor_of(const struct safetensors *st, const char *type,
                                         const char *what) {
    char *name = mem_printf("%s.%s", type, what);
    const struct st_tensor *t = st_find(st, name);
    free(name);
    assert_non_null(t);
    return t;
}

static void decodes(void **state) {
    (void)state;
    struct safetensors *st = open_vectors();
    const struct gguf_block *b;
    size_t n_types = 0;
    for (size_t i = 0; (b = gguf_block_at(i)) != NULL; i++) {
        if (!b->decode) {
            continue;
        }
        const struct st_tensor *blocks = tensor_of(st, b->name, "blocks"),
                               *want = tensor_of(st, b->name, "want");
        const uint64_t n = want->bytes / sizeof(float);
        n_types++;
        assert_int_equal(blocks->shape[1], b->bytes);
        assert_int_equal(want->shape[1], b->numbers);
        assert_int_equal(blocks->shape[0], want->shape[0]);
        float *x = mem_calloc(n, sizeof *x);
        gguf_block_read(b, blocks->data, 0, n, x);
        for (uint64_t k = 0; k < n; k++) {
            if (memcmp(&x[k], want->data + 4 * k, sizeof *x) != 0) {
                float w;
                memcpy(&w, want->data + 4 * k, sizeof w);
                fail_msg("%s: number %llu is %.9g, expected %.9g", b->name, (unsigned long long)k,
                         (double)x[k], (double)w);
            }
        }
        free(x);
    }
    assert_int_equal(n_types, 13);
    st_close(st);
}

static void reads_runs(void **state) {
    (void)state;
    struct safetensors *st = open_vectors();
    const struct gguf_block *b;
    for (size_t i = 0; (b = gguf_block_at(i)) != NULL; i++) {
        if (!b->decode) {
            continue;
        }
        const struct st_tensor *blocks = tensor_of(st, b->name, "blocks"),
                               *want = tensor_of(st, b->name, "want");
        const uint32_t n = 3 * b->numbers;
        for (uint32_t first = 0; first < n; first += 1 + first / 8) {
            for (uint32_t count = 1; first + count <= n; count += 1 + count / 4) {
                float *x = test_guard(count * sizeof *x);
                gguf_block_read(b, blocks->data, first, count, x);
                assert_memory_equal(x, want->data + 4 * (size_t)first, count * sizeof *x);
                test_guard_free(x, count * sizeof *x);
            }
        }
    }
    st_close(st);
}

static void has_a_table(void **state) {
    (void)state;
    const struct gguf_block *b;
    for (size_t i = 0; (b = gguf_block_at(i)) != NULL; i++) {
        assert_ptr_equal(gguf_block_by_id(b->id), b);
        assert_true(b->numbers <= GGUF_MAX_BLOCK);
        assert_ptr_equal(gguf_block_by_name(b->name), b->decode ? b : NULL);
    }
    assert_null(gguf_block_by_id(4));
    assert_null(gguf_block_by_name("q4_k"));
    char *list = gguf_block_list();
    assert_string_equal(list, "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, "
                              "Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4");
    free(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes),
        cmocka_unit_test(reads_runs),
        cmocka_unit_test(has_a_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
