#include "prep/hf/hf_matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    RUN_BUFFER = 256,
    TILE_OUTER = 16,
    TILE_INNER = 64,
};

/* ---- layouts ---- */

/* What a layout's function knows, and the shape that it asks for. */
struct lay {
    const struct arch *a;
    uint32_t layer, expert;
    uint64_t shape[3];
    uint32_t n_dims;
};

struct layout {
    bool experts;  /* the tensor has a matrix for each expert */
    bool turned;   /* rows and columns are exchanged */
    uint32_t of;   /* matrices whose rows are fused, */
    uint32_t pick; /* and which of them it is */
    bool in_turn;  /* their rows alternate */
    void (*fill)(const struct layout *y, struct lay *l,
                 struct hf_matrix *m); /* NULL: by the above */
};

static void set_shape(struct lay *l, uint32_t n_dims, uint64_t s0, uint64_t s1, uint64_t s2) {
    l->n_dims = n_dims;
    l->shape[0] = s0;
    l->shape[1] = s1;
    l->shape[2] = s2;
}

/* One part in one group; its rows lie `row_step` apart. */
static void set_part(struct hf_matrix *m, uint64_t first, uint64_t row_step, uint64_t col_step) {
    m->row_step = row_step;
    m->col_step = col_step;
    m->n_parts = 1;
    m->parts[0] = (struct hf_part){.rows = m->rows, .group_rows = m->rows, .first = first};
}

static void fill_regular(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    uint64_t rows = (uint64_t)y->of * m->rows, cols = m->cols;
    uint64_t unit = y->turned ? 1 : cols; /* elements from a row of the tensor to the next */
    uint64_t first = l->expert * (y->experts ? rows * cols : 0) +
                     y->pick * (y->in_turn ? 1 : (uint64_t)m->rows) * unit;
    set_part(m, first, (y->in_turn ? y->of : 1) * unit, y->turned ? rows : 1);
    if (y->experts) {
        set_shape(l, 3, l->a->n_experts, y->turned ? cols : rows, y->turned ? rows : cols);
    } else {
        set_shape(l, 2, rows, cols, 0);
    }
}

static void fill_conv(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    (void)y;
    set_part(m, 0, m->cols, 1);
    set_shape(l, 3, m->rows, 1, m->cols);
}

static void fill_flat(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const uint64_t first = (uint64_t)l->expert * m->rows * m->cols;
    const uint64_t below = (uint64_t)l->a->n_experts * (y->turned ? m->cols : m->rows);
    set_part(m, first, y->turned ? 1 : m->cols, y->turned ? m->rows : 1);
    set_shape(l, 2, below, y->turned ? m->rows : m->cols, 0);
}

static void fill_cols(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    set_part(m, y->pick, 2 * (uint64_t)m->cols, 2);
    set_shape(l, 2, m->rows, 2 * (uint64_t)m->cols, 0);
}

/* A part for each of `sizes` from `pick` on, of blocks that hold sum(sizes) rows each. */
static void set_groups(struct lay *l, struct hf_matrix *m, uint32_t groups, const uint32_t sizes[4],
                       uint32_t pick, uint32_t n_parts) {
    uint64_t block = 0, at = 0, cols = m->cols;
    for (uint32_t i = 0; i < 4; i++) {
        at += i < pick ? sizes[i] : 0;
        block += sizes[i];
    }
    m->row_step = cols;
    m->col_step = 1;
    m->n_parts = n_parts;
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t n = sizes[pick + i];
        m->parts[i] = (struct hf_part){groups * n, n, at * cols, block * cols};
        at += n;
    }
    set_shape(l, 2, groups * block, cols, 0);
}

static void fill_heads(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct attention_rule *r = &arch_kind(l->a, l->layer)->att;
    set_groups(l, m, r->n_heads, (const uint32_t[4]){r->head_dim, r->head_dim}, y->pick, 1);
}

static void fill_pairs(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct attention_rule *r = &arch_kind(l->a, l->layer)->att;
    fill_regular(y, l, m);
    m->head_rows = r->head_dim;
    m->pairs = arch_rope(l->a, r->rope).dim / 2;
}

static void fill_qkv(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct attention_rule *r = &arch_kind(l->a, l->layer)->att;
    const uint32_t q = attention_q_dim(r), k = attention_k_dim(r), v = attention_v_dim(r);
    set_groups(l, m, 1, (const uint32_t[4]){q, k, v}, y->pick, 1);
}

static void fill_delta_qkvz(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct delta_rule *r = &arch_kind(l->a, l->layer)->delta;
    uint32_t values = r->n_v_heads / r->n_k_heads * r->v_dim;
    set_groups(l, m, r->n_k_heads, (const uint32_t[4]){r->k_dim, r->k_dim, values, values}, y->pick,
               y->pick == 0 ? 3 : 1);
}

static void fill_delta_ba(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct delta_rule *r = &arch_kind(l->a, l->layer)->delta;
    uint32_t values = r->n_v_heads / r->n_k_heads;
    set_groups(l, m, r->n_k_heads, (const uint32_t[4]){values, values}, y->pick, 1);
}

/* What turns is in pairs. */
static void fill_latent(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct latent_rule *r = &arch_kind(l->a, l->layer)->latent;
    const bool query = y->of > 1;
    set_groups(l, m, query ? r->n_heads : 1,
               (const uint32_t[4]){query ? r->nope_dim : r->rank, r->rope_dim}, y->pick, 1);
    if (y->pick == 1) {
        m->head_rows = r->rope_dim;
        m->pairs = arch_rope(l->a, r->rope).dim / 2;
    }
}

static void fill_latent_up(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct latent_rule *r = &arch_kind(l->a, l->layer)->latent;
    const uint64_t block = r->nope_dim + r->v_dim, rank = r->rank;
    if (y->turned) {
        m->row_step = 1;
        m->col_step = rank;
        m->n_parts = 1;
        m->parts[0] = (struct hf_part){m->rows, r->rank, 0, block * rank};
        set_shape(l, 2, r->n_heads * block, rank, 0);
    } else {
        set_groups(l, m, r->n_heads, (const uint32_t[4]){r->nope_dim, r->v_dim}, y->pick, 1);
    }
}

static void fill_latent_heads(const struct layout *y, struct lay *l, struct hf_matrix *m) {
    const struct latent_rule *r = &arch_kind(l->a, l->layer)->latent;
    (void)y;
    set_part(m, 0, m->cols, 1);
    set_shape(l, 3, r->n_heads, m->rows / r->n_heads, m->cols);
}

static const struct layout layouts[HF_LAYOUT_COUNT] = {
    [HF_PLAIN] = {.of = 1},
    [HF_FIRST] = {.of = 2},
    [HF_SECOND] = {.of = 2, .pick = 1},
    [HF_CONV] = {.fill = fill_conv},
    [HF_EXPERTS] = {.experts = true, .of = 1},
    [HF_EXPERTS_FIRST] = {.experts = true, .of = 2},
    [HF_EXPERTS_SECOND] = {.experts = true, .of = 2, .pick = 1},
    [HF_EXPERTS_EVEN] = {.experts = true, .of = 2, .in_turn = true},
    [HF_EXPERTS_ODD] = {.experts = true, .of = 2, .pick = 1, .in_turn = true},
    [HF_EXPERTS_TURNED] = {.experts = true, .turned = true, .of = 1},
    [HF_EXPERTS_FIRST_TURNED] = {.experts = true, .turned = true, .of = 2},
    [HF_EXPERTS_SECOND_TURNED] = {.experts = true, .turned = true, .of = 2, .pick = 1},
    [HF_EXPERTS_EVEN_TURNED] = {.experts = true, .turned = true, .of = 2, .in_turn = true},
    [HF_EXPERTS_ODD_TURNED] =
        {.experts = true, .turned = true, .of = 2, .pick = 1, .in_turn = true},
    [HF_FLAT] = {.fill = fill_flat},
    [HF_FLAT_TURNED] = {.turned = true, .fill = fill_flat},
    [HF_COLS_EVEN] = {.fill = fill_cols},
    [HF_COLS_ODD] = {.pick = 1, .fill = fill_cols},
    [HF_HEADS_FIRST] = {.fill = fill_heads},
    [HF_HEADS_SECOND] = {.pick = 1, .fill = fill_heads},
    [HF_PAIRS] = {.of = 1, .fill = fill_pairs},
    [HF_QKV_Q] = {.fill = fill_qkv},
    [HF_QKV_K] = {.pick = 1, .fill = fill_qkv},
    [HF_QKV_V] = {.pick = 2, .fill = fill_qkv},
    [HF_DELTA_QKV] = {.fill = fill_delta_qkvz},
    [HF_DELTA_Z] = {.pick = 3, .fill = fill_delta_qkvz},
    [HF_DELTA_B] = {.fill = fill_delta_ba},
    [HF_DELTA_A] = {.pick = 1, .fill = fill_delta_ba},
    [HF_LATENT_Q_NOPE] = {.of = 2, .fill = fill_latent},
    [HF_LATENT_Q_ROPE] = {.of = 2, .pick = 1, .fill = fill_latent},
    [HF_LATENT_KV] = {.of = 1, .fill = fill_latent},
    [HF_LATENT_K_ROPE] = {.of = 1, .pick = 1, .fill = fill_latent},
    [HF_LATENT_K_UP] = {.turned = true, .fill = fill_latent_up},
    [HF_LATENT_V_UP] = {.pick = 1, .fill = fill_latent_up},
    [HF_LATENT_K_HEADS] = {.fill = fill_latent_heads},
    [HF_LATENT_V_HEADS] = {.fill = fill_latent_heads},
};

/* ---- laying out ---- */

int hf_matrix_lay(struct hf_matrix *m, const struct arch *a, enum slot_id slot, uint32_t layer,
                  uint32_t expert, enum hf_layout layout, enum hf_value value,
                  const struct hf_numbers *numbers, struct err *err) {
    const struct layout *y = &layouts[layout];
    struct lay l = {.a = a, .layer = layer, .expert = expert};
    *m = (struct hf_matrix){.numbers = *numbers,
                            .rows = slot_at(slot)->rows(a, layer),
                            .cols = slot_at(slot)->cols(a, layer),
                            .value = value,
                            .factor = 1};
    if (value == HF_PER_ROOT_DIM) {
        m->factor = (float)(1 / sqrt((double)a->dim));
    }
    (y->fill ? y->fill : fill_regular)(y, &l, m);
    return hf_numbers_lay(&m->numbers, l.shape, l.n_dims, layout == HF_PLAIN && m->rows == 1, err);
}

int hf_matrix_over(struct hf_matrix *m, uint32_t rows, const struct hf_numbers *over,
                   struct err *err) {
    const uint64_t shape[2] = {rows, m->cols};
    m->over = *over;
    return hf_numbers_lay(&m->over, shape, 2, false, err);
}

/* ---- reading ---- */

/* The part that holds row *row, which becomes its row. */
static const struct hf_part *find_part(const struct hf_matrix *m, uint32_t *row) {
    const struct hf_part *p = m->parts;
    while (*row >= p->rows) {
        *row -= p->rows;
        p++;
    }
    return p;
}

/* The row of the tensor that is row `row` of a matrix in pairs. */
static uint32_t unpair(const struct hf_matrix *m, uint32_t row) {
    uint32_t i = row % m->head_rows;
    return i >= 2 * m->pairs ? row : row - i + (i < m->pairs ? 2 * i : 2 * (i - m->pairs) + 1);
}

static uint64_t element_of(const struct hf_matrix *m, uint32_t row, uint32_t col) {
    const struct hf_part *p = find_part(m, &row);
    row = m->pairs > 0 ? unpair(m, row) : row;
    return p->first + row / p->group_rows * p->group_step + row % p->group_rows * m->row_step +
           col * m->col_step;
}

int hf_matrix_refuse(const struct hf_matrix *m, uint32_t row, uint32_t col, const char *what,
                     struct err *err) {
    return hf_numbers_refuse(&m->numbers, element_of(m, row, col), what, err);
}

/* `x` holds n weights that lie `step` apart from element `first`: all finite? */
static int check_finite(const struct hf_matrix *m, uint64_t first, uint64_t step, const float *x,
                        uint32_t n, struct err *err) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    for (uint32_t i = 0; bad && i < n; i++) {
        if (!isfinite(x[i])) {
            return hf_numbers_refuse(&m->numbers, first + i * step,
                                     isnan(x[i]) ? "is NaN" : "is infinite", err);
        }
    }
    return 0;
}

static void change_values(const struct hf_matrix *m, float *x, uint32_t n) {
    for (uint32_t i = 0; m->value != HF_AS_IS && i < n; i++) {
        x[i] = m->value == HF_PLUS_ONE ? 1 + x[i]
               : m->value == HF_EXP    ? (float)exp((double)x[i])
                                       : x[i] * m->factor;
    }
}

/* n numbers that lie `step` elements apart. */
static int read_run(const struct hf_matrix *m, uint64_t first, uint64_t step, uint32_t n,
                    float *dst, struct err *err) {
    if (step == 1) {
        if (hf_numbers_read(&m->numbers, first, n, dst, err) < 0) {
            return -1;
        }
    } else {
        float span[RUN_BUFFER];
        uint32_t at_once = step < RUN_BUFFER ? (uint32_t)(RUN_BUFFER / step) : 1;
        for (uint32_t i = 0; i < n; i += at_once) {
            uint32_t some = n - i < at_once ? n - i : at_once;
            if (hf_numbers_read(&m->numbers, first + i * step, (some - 1) * step + 1, span, err) <
                0) {
                return -1;
            }
            for (uint32_t k = 0; k < some; k++) {
                dst[i + k] = span[k * step];
            }
        }
    }
    if (check_finite(m, first, step, dst, n, err) < 0) {
        return -1;
    }
    change_values(m, dst, n);
    return m->value == HF_EXP ? check_finite(m, first, step, dst, n, err) : 0;
}

/* Of n rows from `row` on, those that lie row_step apart. */
static uint32_t rows_in_group(const struct hf_matrix *m, uint32_t row, uint32_t n) {
    const struct hf_part *p = find_part(m, &row);
    uint32_t left = p->group_rows - row % p->group_rows;
    return left < n ? left : n;
}

/* Element (r, c) of a rectangle goes to dst[r row_gap + c col_gap]. It is read along the axis on
 * which elements lie closer. Where that is not the axis along which they are written, this goes
 * tile by tile: a tile reads whole cache lines of the one and writes whole lines of the other. */
static int read_rectangle(const struct hf_matrix *m, uint32_t row, uint32_t n_rows, uint32_t col,
                          uint32_t n_cols, float *dst, size_t row_gap, size_t col_gap,
                          struct err *err) {
    bool along_rows = m->col_step <= m->row_step;
    uint32_t n_outer = along_rows ? n_rows : n_cols, n_inner = along_rows ? n_cols : n_rows;
    size_t outer_gap = along_rows ? row_gap : col_gap, inner_gap = along_rows ? col_gap : row_gap;
    uint64_t step = along_rows ? m->col_step : m->row_step;
    bool straight = inner_gap == 1;
    uint32_t wide = straight ? n_inner : TILE_INNER;
    float tile[TILE_OUTER][TILE_INNER];
    for (uint32_t o0 = 0; o0 < n_outer; o0 += TILE_OUTER) {
        uint32_t outer = n_outer - o0 < TILE_OUTER ? n_outer - o0 : TILE_OUTER;
        for (uint32_t i0 = 0, inner; i0 < n_inner; i0 += inner) {
            inner = n_inner - i0 < wide ? n_inner - i0 : wide;
            inner = along_rows ? inner : rows_in_group(m, row + i0, inner);
            for (uint32_t o = 0; o < outer; o++) {
                uint32_t r = row + (along_rows ? o0 + o : i0), c = col + (along_rows ? i0 : o0 + o);
                float *to = straight ? dst + (o0 + o) * outer_gap + i0 : tile[o];
                if (read_run(m, element_of(m, r, c), step, inner, to, err) < 0) {
                    return -1;
                }
            }
            for (uint32_t i = 0; !straight && i < inner; i++) {
                for (uint32_t o = 0; o < outer; o++) {
                    dst[(i0 + i) * inner_gap + (o0 + o) * outer_gap] = tile[o][i];
                }
            }
        }
    }
    return 0;
}

/* dst [cols] over the lengths of the columns of m->over. */
static int divide_by_lengths(const struct hf_matrix *m, float *dst, struct err *err) {
    const struct hf_matrix of = {.numbers = m->over, .cols = m->cols, .factor = 1};
    const uint32_t rows = (uint32_t)m->over.tensor->shape[0];
    double *squares = mem_calloc(m->cols, sizeof *squares);
    float *row = mem_calloc(m->cols, sizeof *row);
    int rc = 0;
    for (uint32_t r = 0; rc == 0 && r < rows; r++) {
        rc = read_run(&of, (uint64_t)r * m->cols, 1, m->cols, row, err);
        for (uint32_t c = 0; rc == 0 && c < m->cols; c++) {
            squares[c] += (double)row[c] * (double)row[c];
        }
    }
    for (uint32_t c = 0; rc == 0 && c < m->cols; c++) {
        dst[c] = (float)(dst[c] / (sqrt(squares[c]) + 1e-7));
    }
    free(squares);
    free(row);
    return rc;
}

int hf_matrix_rows(const struct hf_matrix *m, uint32_t first, uint32_t n, float *dst,
                   struct err *err) {
    return read_rectangle(m, first, n, 0, m->cols, dst, m->cols, 1, err) < 0 ? -1
           : m->over.tensor ? divide_by_lengths(m, dst, err)
                            : 0;
}

int hf_matrix_columns(const struct hf_matrix *m, uint32_t first, uint32_t n, float *dst,
                      struct err *err) {
    if (m->over.tensor) {
        die("columns of a matrix over lengths");
    }
    return read_rectangle(m, 0, m->rows, first, n, dst, 1, m->rows, err);
}

/* ---- as it lies ---- */

struct weight hf_matrix_view(const struct hf_matrix *m) {
    struct weight w = {0};
    const struct st_tensor *t = m->numbers.tensor;
    if (!t) {
        return w;
    }
    bool as_is = m->value == HF_AS_IS && !m->over.tensor;
    w.codec = codec_by_id(as_is ? hf_numbers_codec(&m->numbers) : CODEC_F32);
    w.rows = m->rows;
    w.cols = m->cols;
    w.stride_bytes = codec_row_bytes(w.codec, w.cols);
    const struct hf_part *p = &m->parts[0];
    if (as_is && hf_numbers_as_they_lie(&m->numbers) && m->n_parts == 1 &&
        p->group_rows == p->rows && m->pairs == 0 && m->col_step == 1) {
        uint32_t size = st_element_bytes(t->dtype);
        w.stride_bytes = m->row_step * size;
        w.data = t->data + p->first * size;
    }
    return w;
}

const char *hf_matrix_unkept(const struct hf_matrix *m) {
    return m->numbers.tensor ? hf_numbers_unkept(&m->numbers) : NULL;
}

const char *hf_matrix_blocks(const struct hf_matrix *m) {
    return m->numbers.tensor ? hf_numbers_blocks(&m->numbers) : NULL;
}

uint64_t hf_matrix_bytes(const struct hf_matrix *m) {
    return m->numbers.tensor ? hf_numbers_bytes(&m->numbers, (uint64_t)m->rows * m->cols) : 0;
}

void hf_matrix_advise(const struct hf_matrix *m, uint32_t first, uint32_t n,
                      void (*advise)(const struct st_tensor *t, uint64_t first, uint64_t bytes)) {
    while (n > 0) {
        uint32_t row = first, some;
        const struct hf_part *p = find_part(m, &row);
        some = p->rows - row < n ? p->rows - row : n;
        uint32_t last = first + some - 1, head = m->pairs > 0 ? m->head_rows : 1; /* whole ones */
        uint64_t from = element_of(m, first - first % head, 0);
        uint64_t end = element_of(m, last - last % head + head - 1, m->cols - 1) + 1;
        hf_numbers_advise(&m->numbers, from, end, advise);
        first += some;
        n -= some;
    }
}
