/*
 * hf_matrix: every layout beside the element that its description names, in rows, columns and
 * pieces, with scales too; what is done to the numbers; shapes and numbers that are refused; views.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf_matrix.h"
#include "tests/util/test_util_tensors.h"

/* Layer 0 attends, with 4 heads of 6 and 2 key heads; layer 1 is a delta net of 2 key heads of 3
 * and 4 value heads of 5; layer 2 has latent attention, 3 heads of 2 and 6 (4 of these turned),
 * latents of 7, outputs of 5. 3 experts of 4 neurons and a shared one of 5 in layer 0, width 32. */
static struct arch small_arch(void) {
    struct arch a = {.n_layers = 3, .dim = 32, .vocab = 7, .n_experts = 3, .ffn_dim = 4};
    struct layer_kind kinds[3] = {arch_plain_kind(), arch_plain_kind(), arch_plain_kind()};
    kinds[0].att = (struct attention_rule){.n_heads = 4, .n_kv_heads = 2, .head_dim = 6, .gate = 1};
    kinds[1].mixer = MIXER_DELTA_NET;
    kinds[1].delta = (struct delta_rule){2, 4, 3, 5, 4};
    kinds[2].mixer = MIXER_LATENT;
    kinds[2].latent =
        (struct latent_rule){.n_heads = 3, .rank = 7, .nope_dim = 2, .rope_dim = 6, .v_dim = 5};
    kinds[0].moe = kinds[1].moe = 1;
    kinds[0].ffn.bias = kinds[1].ffn.bias = 1;
    kinds[0].shared_dim = 5;
    arch_set_kinds(&a, kinds);
    arch_add_rope(&a, 4, (const float[2]){1, 1}, 1);
    return a;
}

/* An F32 tensor whose elements are their own numbers. */
static struct st_tensor numbered(uint32_t n_dims, const uint64_t *shape) {
    struct st_tensor t = {
        .name = "numbers", .dtype_name = "F32", .dtype = ST_F32, .n_dims = n_dims, .file = "a.st"};
    uint64_t n = 1;
    for (uint32_t d = 0; d < n_dims; d++) {
        t.shape[d] = shape[d];
        n *= shape[d];
    }
    float *data = mem_calloc(n, sizeof *data);
    for (uint64_t i = 0; i < n; i++) {
        data[i] = (float)i;
    }
    t.data = (const uint8_t *)data;
    t.bytes = n * sizeof *data;
    return t;
}

/* hf_matrix_lay in this tensor alone, which has no scales. */
static int lay(struct hf_matrix *m, const struct arch *a, enum slot_id slot, uint32_t layer,
               uint32_t expert, enum hf_layout layout, enum hf_value value,
               const struct st_tensor *t, struct err *err) {
    struct tensors one = {0};
    struct hf_numbers numbers;
    tensors_add(&one, "numbers", "F32", "[1]", NULL, 4);
    hf_numbers_find(&numbers, tensors_open(&one), "numbers", (struct hf_blocks){0}, err);
    tensors_close(&one);
    numbers.tensor = t;
    return hf_matrix_lay(m, a, slot, layer, expert, layout, value, &numbers, err);
}

static void free_data(struct st_tensor *t) {
    free((void *)(uintptr_t)t->data);
}

/* ---- layouts ---- */

/* Which element holds (row, col) of expert `e`, rows and cols being the matrix's. */
typedef uint64_t element_fn(uint64_t row, uint64_t col, uint64_t e, uint64_t rows, uint64_t cols);
#define ELEMENT(name, expression)                                                                  \
    static uint64_t name(uint64_t row, uint64_t col, uint64_t e, uint64_t rows, uint64_t cols) {   \
        (void)e;                                                                                   \
        (void)rows;                                                                                \
        return expression;                                                                         \
    }
ELEMENT(plain, row *cols + col)
ELEMENT(second_half, (rows + row) * cols + col)
ELEMENT(experts, (e * rows + row) * cols + col)
ELEMENT(first, (e * 2 * rows + row) * cols + col)
ELEMENT(second, (e * 2 * rows + rows + row) * cols + col)
ELEMENT(even, (e * 2 * rows + 2 * row) * cols + col)
ELEMENT(odd, (e * 2 * rows + 2 * row + 1) * cols + col)
ELEMENT(turned, (e * cols + col) * rows + row)
ELEMENT(first_turned, (e * cols + col) * 2 * rows + row)
ELEMENT(second_turned, (e * cols + col) * 2 * rows + rows + row)
ELEMENT(even_turned, (e * cols + col) * 2 * rows + 2 * row)
ELEMENT(odd_turned, (e * cols + col) * 2 * rows + 2 * row + 1)
ELEMENT(cols_even, row * 2 * cols + 2 * col)
ELEMENT(cols_odd, row * 2 * cols + 2 * col + 1)
/* heads of 6 rows: [q 6 | gate 6] */
ELEMENT(heads_first, (row / 6 * 12 + row % 6) * cols + col)
ELEMENT(heads_second, (row / 6 * 12 + 6 + row % 6) * cols + col)
/* heads of 6 rows, of which the first 4 are two pairs: rows 0, 1, 2, 3 are 0, 2, 1, 3 */
ELEMENT(pairs, (row - row % 6 + "\0\2\1\3\4\5"[row % 6]) * cols + col)
/* [q 24 | k 12 | v 12] */
ELEMENT(qkv_k, (24 + row) * cols + col)
ELEMENT(qkv_v, (36 + row) * cols + col)
/* key heads: [q 3 | k 3 | v 10 | z 10] */
static uint64_t delta_qkv(uint64_t row, uint64_t col, uint64_t e, uint64_t rows, uint64_t cols) {
    (void)e;
    (void)rows;
    uint64_t at = row < 6    ? row / 3 * 26 + row % 3
                  : row < 12 ? (row - 6) / 3 * 26 + 3 + row % 3
                             : (row - 12) / 10 * 26 + 6 + (row - 12) % 10;
    return at * cols + col;
}
ELEMENT(delta_z, (row / 10 * 26 + 16 + row % 10) * cols + col)
/* [b 2 | a 2] */
ELEMENT(delta_b, (row / 2 * 4 + row % 2) * cols + col)
ELEMENT(delta_a, (row / 2 * 4 + 2 + row % 2) * cols + col)

/* heads: [q_nope 2 | q_rope 6], [keys 2 | values 5]; [latent 7 | k_rope 6]; in pairs as above */
ELEMENT(latent_q_nope, (row / 2 * 8 + row % 2) * cols + col)
ELEMENT(latent_q_rope, (row / 6 * 8 + 2 + "\0\2\1\3\4\5"[row % 6]) * cols + col)
ELEMENT(latent_k_rope, (7 + "\0\2\1\3\4\5"[row]) * cols + col)
ELEMENT(latent_k_up, (row / 7 * (cols + 5) + col) * 7 + row % 7)
ELEMENT(latent_v_up, (row / 5 * 7 + 2 + row % 5) * cols + col)

static const struct layout_row {
    enum hf_layout layout;
    enum slot_id slot;
    uint32_t layer, expert, n_dims;
    uint64_t shape[3];
    element_fn *element;
    bool view; /* its rows lie as they are, if perhaps not side by side */
} layouts[] = {
    {HF_PLAIN, SLOT_K, 0, 0, 2, {12, 32}, plain, true},
    {HF_PLAIN, SLOT_ATTN_NORM, 0, 0, 1, {32}, plain, true},
    {HF_PLAIN, SLOT_ATTN_NORM, 0, 0, 2, {1, 32}, plain, true},
    {HF_PLAIN, SLOT_EXPERT_DOWN_BIAS, 0, 0, 2, {3, 32}, plain, true},
    {HF_CONV, SLOT_DELTA_CONV, 1, 0, 3, {32, 1, 4}, plain, true},
    {HF_EXPERTS, SLOT_EXPERT_DOWN, 0, 2, 3, {3, 32, 4}, experts, true},
    {HF_EXPERTS_FIRST, SLOT_EXPERT_GATE, 0, 1, 3, {3, 8, 32}, first, true},
    {HF_EXPERTS_SECOND, SLOT_EXPERT_UP, 0, 1, 3, {3, 8, 32}, second, true},
    {HF_EXPERTS_EVEN, SLOT_EXPERT_GATE, 0, 2, 3, {3, 8, 32}, even, true},
    {HF_EXPERTS_ODD, SLOT_EXPERT_UP, 0, 2, 3, {3, 8, 32}, odd, true},
    {HF_EXPERTS_TURNED, SLOT_EXPERT_DOWN, 0, 1, 3, {3, 4, 32}, turned, false},
    {HF_EXPERTS_EVEN_TURNED, SLOT_EXPERT_GATE, 0, 1, 3, {3, 32, 8}, even_turned, false},
    {HF_EXPERTS_ODD_TURNED, SLOT_EXPERT_UP, 0, 2, 3, {3, 32, 8}, odd_turned, false},
    {HF_COLS_EVEN, SLOT_EXPERT_GATE_BIAS, 0, 0, 2, {3, 8}, cols_even, false},
    {HF_COLS_ODD, SLOT_EXPERT_UP_BIAS, 0, 0, 2, {3, 8}, cols_odd, false},
    {HF_HEADS_FIRST, SLOT_Q, 0, 0, 2, {48, 32}, heads_first, false},
    {HF_HEADS_SECOND, SLOT_ATTN_GATE, 0, 0, 2, {48, 32}, heads_second, false},
    {HF_DELTA_QKV, SLOT_DELTA_QKV, 1, 0, 2, {52, 32}, delta_qkv, false},
    {HF_DELTA_Z, SLOT_DELTA_Z, 1, 0, 2, {52, 32}, delta_z, false},
    {HF_DELTA_B, SLOT_DELTA_B, 1, 0, 2, {8, 32}, delta_b, false},
    {HF_DELTA_A, SLOT_DELTA_A, 1, 0, 2, {8, 32}, delta_a, false},
    {HF_PAIRS, SLOT_Q, 0, 0, 2, {24, 32}, pairs, false},
    {HF_PAIRS, SLOT_K, 0, 0, 2, {12, 32}, pairs, false},
    {HF_QKV_Q, SLOT_Q, 0, 0, 2, {48, 32}, plain, true},
    {HF_QKV_K, SLOT_K, 0, 0, 2, {48, 32}, qkv_k, true},
    {HF_QKV_V, SLOT_V, 0, 0, 2, {48, 32}, qkv_v, true},
    {HF_EXPERTS_FIRST_TURNED, SLOT_EXPERT_GATE, 0, 2, 3, {3, 32, 8}, first_turned, false},
    {HF_EXPERTS_SECOND_TURNED, SLOT_EXPERT_UP, 0, 1, 3, {3, 32, 8}, second_turned, false},
    {HF_LATENT_Q_NOPE, SLOT_LATENT_Q_NOPE, 2, 0, 2, {24, 32}, latent_q_nope, false},
    {HF_LATENT_Q_ROPE, SLOT_LATENT_Q_ROPE, 2, 0, 2, {24, 32}, latent_q_rope, false},
    {HF_LATENT_KV, SLOT_LATENT_KV, 2, 0, 2, {13, 32}, plain, true},
    {HF_LATENT_K_ROPE, SLOT_LATENT_K_ROPE, 2, 0, 2, {13, 32}, latent_k_rope, false},
    {HF_LATENT_K_UP, SLOT_LATENT_K_UP, 2, 0, 2, {21, 7}, latent_k_up, false},
    {HF_LATENT_V_UP, SLOT_LATENT_V_UP, 2, 0, 2, {21, 7}, latent_v_up, false},
    {HF_LATENT_K_HEADS, SLOT_LATENT_K_UP, 2, 0, 3, {3, 7, 2}, plain, true},
    {HF_LATENT_V_HEADS, SLOT_LATENT_V_UP, 2, 0, 3, {3, 5, 7}, plain, true},
    {HF_FIRST, SLOT_MLP_GATE, 0, 0, 2, {10, 32}, plain, true},
    {HF_SECOND, SLOT_MLP_UP, 0, 0, 2, {10, 32}, second_half, true},
    {HF_FLAT, SLOT_EXPERT_GATE, 0, 1, 2, {12, 32}, experts, true},
    {HF_FLAT_TURNED, SLOT_EXPERT_DOWN, 0, 2, 2, {12, 32}, turned, false},
};

/* Rows and columns [from, from + n) of a laid-out matrix. */
static void check_pieces(const struct layout_row *y, const struct hf_matrix *m, uint32_t from_row,
                         uint32_t from_col) {
    struct err err = {0};
    uint32_t rows = m->rows - from_row, cols = m->cols - from_col;
    float *x = mem_calloc((size_t)m->rows * m->cols, sizeof *x);
    assert_int_equal(hf_matrix_rows(m, from_row, rows, x, &err), 0);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < m->cols; c++) {
            uint64_t want = y->element(from_row + r, c, y->expert, m->rows, m->cols);
            assert_true(x[(size_t)r * m->cols + c] == (float)want);
        }
    }
    assert_int_equal(hf_matrix_columns(m, from_col, cols, x, &err), 0);
    for (uint32_t c = 0; c < cols; c++) {
        for (uint32_t r = 0; r < m->rows; r++) {
            uint64_t want = y->element(r, from_col + c, y->expert, m->rows, m->cols);
            assert_true(x[(size_t)c * m->rows + r] == (float)want);
        }
    }
    free(x);
}

static void every_layout(void **state) {
    (void)state;
    struct arch a = small_arch();
    bool seen[HF_LAYOUT_COUNT] = {false};
    for (size_t i = 0; i < TEST_COUNT(layouts); i++) {
        const struct layout_row *y = &layouts[i];
        struct st_tensor t = numbered(y->n_dims, y->shape);
        struct hf_matrix m;
        struct err err = {0};
        lay(&m, &a, y->slot, y->layer, y->expert, y->layout, HF_AS_IS, &t, &err);
        assert_no_err(&err);
        check_pieces(y, &m, 0, 0);
        check_pieces(y, &m, m.rows / 2, m.cols / 3);
        check_pieces(y, &m, m.rows - 1, m.cols - 1);
        struct weight w = hf_matrix_view(&m);
        assert_int_equal(w.codec->id, CODEC_F32);
        assert_int_equal(w.data != NULL, y->view);
        for (uint32_t r = 0; w.data && r < w.rows; r++) {
            float last;
            memcpy(&last, weight_row(&w, r) + 4 * (size_t)(w.cols - 1), 4);
            assert_true(last == (float)y->element(r, w.cols - 1, y->expert, m.rows, m.cols));
        }
        assert_int_equal(hf_matrix_bytes(&m), 4 * (uint64_t)m.rows * m.cols);
        /* another shape */
        t.shape[t.n_dims - 1]++;
        assert_int_equal(lay(&m, &a, y->slot, y->layer, y->expert, y->layout, HF_AS_IS, &t, &err),
                         -1);
        assert_err(&err, "a.st: tensor \"numbers\": shape is [", "the configuration implies [");
        free_data(&t);
        seen[y->layout] = true;
    }
    for (uint32_t i = 0; i < HF_LAYOUT_COUNT; i++) {
        assert_true(seen[i]);
    }
    arch_free(&a);
}

/* Large enough for several tiles, and no multiple of one. */
static void large_turned(void **state) {
    (void)state;
    struct arch a = small_arch();
    a.dim = 171;
    a.ffn_dim = 133;
    static const struct layout_row rows[] = {
        {HF_EXPERTS, SLOT_EXPERT_DOWN, 0, 1, 3, {3, 171, 133}, experts},
        {HF_EXPERTS_TURNED, SLOT_EXPERT_DOWN, 0, 2, 3, {3, 133, 171}, turned},
        {HF_EXPERTS_ODD_TURNED, SLOT_EXPERT_UP, 0, 1, 3, {3, 171, 266}, odd_turned},
        {HF_COLS_ODD, SLOT_EXPERT_UP_BIAS, 0, 0, 2, {3, 266}, cols_odd},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct st_tensor t = numbered(rows[i].n_dims, rows[i].shape);
        struct hf_matrix m;
        struct err err = {0};
        lay(&m, &a, rows[i].slot, 0, rows[i].expert, rows[i].layout, HF_AS_IS, &t, &err);
        assert_no_err(&err);
        check_pieces(&rows[i], &m, 0, 0);
        check_pieces(&rows[i], &m, 1, 70);
        free_data(&t);
    }
    arch_free(&a);
}

/* ---- numbers ---- */

static void values(void **state) {
    (void)state;
    struct arch a = small_arch();
    const uint64_t shape[1] = {32};
    struct st_tensor t = numbered(1, shape);
    float x[32];
    for (uint32_t value = HF_AS_IS; value <= HF_PER_ROOT_DIM; value++) {
        struct hf_matrix m;
        struct err err = {0};
        lay(&m, &a, SLOT_ATTN_NORM, 0, 0, HF_PLAIN, value, &t, &err);
        assert_int_equal(hf_matrix_rows(&m, 0, 1, x, &err), 0);
        for (uint32_t i = 0; i < 32; i++) {
            float w = (float)i;
            float want = value == HF_PLUS_ONE ? 1 + w
                         : value == HF_EXP    ? (float)exp((double)w)
                         : value == HF_AS_IS  ? w
                                              : w * (float)(1 / sqrt(32.0));
            assert_true(x[i] == want);
        }
        struct weight w = hf_matrix_view(&m);
        assert_int_equal(w.data != NULL, value == HF_AS_IS);
        assert_int_equal(w.codec->id, CODEC_F32);
    }
    free_data(&t);
    arch_free(&a);
}

static void refuses_numbers(void **state) {
    (void)state;
    struct arch a = small_arch();
    struct err err = {0};
    struct hf_matrix m;
    float x[32 * 4];
    static const struct {
        enum hf_layout layout;
        enum slot_id slot;
        uint64_t shape[3];
        uint32_t n_dims;
        enum hf_value value;
        uint64_t element;
        float bad;
        const char *message;
    } rows[] = {
        {HF_EXPERTS, SLOT_EXPERT_DOWN, {3, 32, 4}, 3, HF_AS_IS, 128 + 9, NAN, "[1, 2, 1] is NaN"},
        {HF_EXPERTS_TURNED,
         SLOT_EXPERT_DOWN,
         {3, 4, 32},
         3,
         HF_AS_IS,
         128 + 33,
         INFINITY,
         "[1, 1, 1] is infinite"},
        {HF_EXPERTS_ODD_TURNED,
         SLOT_EXPERT_UP,
         {3, 32, 8},
         3,
         HF_AS_IS,
         256 + 8 * 31 + 7,
         -INFINITY,
         "[1, 31, 7] is infinite"},
        /* not the neighbour in turn */
        {HF_EXPERTS_ODD_TURNED, SLOT_EXPERT_UP, {3, 32, 8}, 3, HF_AS_IS, 256 + 6, NAN, NULL},
        {HF_PLAIN, SLOT_ATTN_NORM, {32}, 1, HF_PLUS_ONE, 7, NAN, "[7] is NaN"},
        {HF_PLAIN, SLOT_ATTN_NORM, {32}, 1, HF_EXP, 5, 1000, "[5] is infinite"},
        {HF_PLAIN, SLOT_ATTN_NORM, {32}, 1, HF_EXP, 5, -INFINITY, "[5] is infinite"},
        {HF_PLAIN, SLOT_ATTN_NORM, {32}, 1, HF_EXP, 5, -1000, NULL},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct st_tensor t = numbered(rows[i].n_dims, rows[i].shape);
        ((float *)(uintptr_t)t.data)[rows[i].element] = rows[i].bad;
        err = (struct err){0};
        lay(&m, &a, rows[i].slot, 0, 1, rows[i].layout, rows[i].value, &t, &err);
        assert_no_err(&err);
        assert_int_equal(hf_matrix_rows(&m, 0, m.rows, x, &err), rows[i].message ? -1 : 0);
        if (rows[i].message) {
            assert_err(&err, "a.st: tensor \"numbers\": weight ", rows[i].message);
        }
        free_data(&t);
    }
    arch_free(&a);
}

/* ---- scales ---- */

/* FP8 in blocks of the tensor as it lies, whatever the matrix picks of it: each number is the one
 * that stands at its element. */
static void scaled(void **state) {
    (void)state;
    struct arch a = small_arch();
    const struct hf_blocks blocks = {.rows = 3, .cols = 5};
    for (size_t i = 0; i < TEST_COUNT(layouts); i++) {
        const struct layout_row *y = &layouts[i];
        struct tensors t = {0};
        struct hf_matrix m;
        struct hf_numbers numbers;
        struct err err = {0};
        if (y->n_dims == 1) {
            continue;
        }
        uint64_t matrices = y->n_dims == 3 ? y->shape[0] : 1, rows = y->shape[y->n_dims - 2];
        uint64_t cols = y->shape[y->n_dims - 1], grid = (rows + 2) / 3 * ((cols + 4) / 5);
        uint8_t codes[3 * 64 * 64];
        float scales[3 * 64 * 64];
        for (uint64_t k = 0; k < matrices * rows * cols; k++) {
            codes[k] = (uint8_t)(k * 37 % 127);
        }
        for (uint64_t k = 0; k < matrices * grid; k++) {
            scales[k] = 0.5f + (float)k;
        }
        char *shape = y->n_dims == 3 ? mem_printf("[%u,%u,%u]", (uint32_t)matrices, (uint32_t)rows,
                                                  (uint32_t)cols)
                                     : mem_printf("[%u,%u]", (uint32_t)rows, (uint32_t)cols);
        char *of_scales =
            y->n_dims == 3
                ? mem_printf("[%u,%u,%u]", (uint32_t)matrices, (uint32_t)((rows + 2) / 3),
                             (uint32_t)((cols + 4) / 5))
                : mem_printf("[%u,%u]", (uint32_t)((rows + 2) / 3), (uint32_t)((cols + 4) / 5));
        tensors_add(&t, "w", "F8_E4M3", shape, codes, matrices * rows * cols);
        tensors_add(&t, "w_scale_inv", "F32", of_scales, scales, 4 * matrices * grid);
        hf_numbers_find(&numbers, tensors_open(&t), "w", blocks, &err);
        hf_matrix_lay(&m, &a, y->slot, y->layer, y->expert, y->layout, HF_AS_IS, &numbers, &err);
        assert_no_err(&err);
        float *x = mem_calloc((size_t)m.rows * m.cols, sizeof *x), want;
        assert_int_equal(hf_matrix_rows(&m, 0, m.rows, x, &err), 0);
        for (uint32_t k = 0; k < m.rows * m.cols; k++) {
            uint64_t at = y->element(k / m.cols, k % m.cols, y->expert, m.rows, m.cols);
            uint64_t row = at / cols,
                     block = row / rows * grid + row % rows / 3 * ((cols + 4) / 5) + at % cols / 5;
            int exponent = codes[at] >> 3, fraction = codes[at] & 7;
            want = exponent ? ldexpf((float)(8 + fraction), exponent - 10)
                            : ldexpf((float)fraction, -9);
            assert_true(x[k] == want * scales[block]);
        }
        struct weight w = hf_matrix_view(&m);
        assert_int_equal(w.codec->id, CODEC_F32);
        assert_null(w.data);
        free(x);
        free(shape);
        free(of_scales);
        tensors_close(&t);
    }
    arch_free(&a);
}

/* A number of MXFP4 that is beyond f32 is refused by its name. */
static void beyond(void **state) {
    (void)state;
    struct arch a = small_arch();
    struct tensors t = {0};
    struct hf_matrix m;
    struct hf_numbers numbers;
    struct err err = {0};
    uint8_t codes[12 * 16] = {0}, scales[12] = {0};
    float x[12 * 32];
    codes[3 * 16 + 2] = 0x07; /* 6 */
    scales[3] = 254;
    tensors_add(&t, "w_packed", "U8", "[12,16]", codes, sizeof codes);
    tensors_add(&t, "w_scale", "U8", "[12,1]", scales, sizeof scales);
    hf_numbers_find(&numbers, tensors_open(&t), "w", (struct hf_blocks){0}, &err);
    hf_matrix_lay(&m, &a, SLOT_K, 0, 0, HF_PLAIN, HF_AS_IS, &numbers, &err);
    assert_no_err(&err);
    assert_int_equal(hf_matrix_rows(&m, 0, 3, x, &err), 0);
    assert_int_equal(hf_matrix_rows(&m, 3, 1, x, &err), -1);
    assert_err(&err, "a.st: tensor \"w_packed\": weight [3, 2] is infinite");
    tensors_close(&t);
    arch_free(&a);
}

/* ---- advice ---- */

static struct {
    uint64_t first, end;
    uint32_t calls;
} advised;

static void advise(const struct st_tensor *t, uint64_t first, uint64_t bytes) {
    assert_true(first + bytes <= t->bytes);
    advised.first = first < advised.first ? first : advised.first;
    advised.end = first + bytes > advised.end ? first + bytes : advised.end;
    advised.calls++;
}

/* Advice names what rows lie in, and nothing outside the tensor. */
static void advice(void **state) {
    (void)state;
    struct arch a = small_arch();
    static const struct {
        const struct layout_row *row;
        uint32_t first, n;
        uint64_t from, end; /* elements */
        uint32_t calls;
    } rows[] = {
        {&layouts[0], 2, 3, 2 * 32, 5 * 32, 1},
        {&layouts[8], 0, 4, 16 * 32, 23 * 32, 1},
        {&layouts[10], 0, 32, 128, 256, 1},
        {&layouts[17], 0, 32, 0, 42 * 32, 3}, /* q, k and v of all groups; z behind them is not */
        {&layouts[17], 4, 4, 3 * 32, 29 * 32, 2}, /* two of q in the second group, two of k */
        {&layouts[21], 2, 3, 0, 6 * 32, 1},       /* heads are whole */
        {&layouts[21], 5, 2, 0, 12 * 32, 1},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct layout_row *y = rows[i].row;
        struct st_tensor t = numbered(y->n_dims, y->shape);
        struct hf_matrix m;
        struct err err = {0};
        lay(&m, &a, y->slot, y->layer, y->expert, y->layout, HF_AS_IS, &t, &err);
        advised.first = UINT64_MAX;
        advised.end = advised.calls = 0;
        hf_matrix_advise(&m, rows[i].first, rows[i].n, advise);
        assert_int_equal(advised.calls, rows[i].calls);
        assert_int_equal(advised.first, 4 * rows[i].from);
        assert_int_equal(advised.end, 4 * rows[i].end);
        free_data(&t);
    }
    arch_free(&a);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout),    cmocka_unit_test(large_turned), cmocka_unit_test(values),
        cmocka_unit_test(refuses_numbers), cmocka_unit_test(scaled),       cmocka_unit_test(beyond),
        cmocka_unit_test(advice),
    };
    return cmocka_run_group_tests_name("hf_matrix", tests, NULL, NULL);
}
