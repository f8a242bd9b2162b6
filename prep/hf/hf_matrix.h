/*
 * hf_matrix: where the numbers of a slot's matrix lie in a checkpoint's tensors, and reading them.
 *
 * Owns: the layouts in which families store a matrix (plain, fused with others, transposed, rows in
 * turn, in pairs or grouped by heads), the shape that each asks of a tensor, what is done to the
 * numbers once they are read, the check that none is NaN or infinite.
 * Leaves to others: which tensor it is (hf_names), what its numbers are stored as (hf_numbers).
 * Threads: a laid-out matrix is immutable and may be read from any number of threads.
 */
#ifndef PREP_HF_HF_MATRIX_H
#define PREP_HF_HF_MATRIX_H

#include "format/arch.h"
#include "prep/hf/hf_numbers.h"

/* The tensor that a matrix [rows, cols] is part of. "In turn": the tensor's rows belong to this
 * matrix and to another one alternately, this one's first (EVEN) or second (ODD). */
enum hf_layout {
    HF_PLAIN,                 /* [rows, cols]; a vector: [cols] or [1, cols] */
    HF_FIRST,                 /* [2 rows, cols], the first half of the rows */
    HF_SECOND,                /* the second half */
    HF_CONV,                  /* [rows, 1, cols] */
    HF_EXPERTS,               /* [n_experts, rows, cols] */
    HF_EXPERTS_FIRST,         /* [n_experts, 2 rows, cols], the first half of the rows */
    HF_EXPERTS_SECOND,        /* the second half */
    HF_EXPERTS_EVEN,          /* [n_experts, 2 rows, cols], in turn */
    HF_EXPERTS_ODD,           /* the same shape, the other rows */
    HF_EXPERTS_TURNED,        /* [n_experts, cols, rows] */
    HF_EXPERTS_FIRST_TURNED,  /* [n_experts, cols, 2 rows], the first half of the rows */
    HF_EXPERTS_SECOND_TURNED, /* the second half */
    HF_EXPERTS_EVEN_TURNED,   /* the same shape, in turn */
    HF_EXPERTS_ODD_TURNED,    /* the same shape, the others */
    HF_FLAT,                  /* [n_experts rows, cols], one expert below the other */
    HF_FLAT_TURNED,           /* [n_experts cols, rows], the same */
    HF_COLS_EVEN,             /* [rows, 2 cols], columns in turn */
    HF_COLS_ODD,              /* the same shape, the other columns */
    HF_HEADS_FIRST,  /* [2 rows, cols], by attention head: its head_dim rows, then the other's */
    HF_HEADS_SECOND, /* the other's, of that shape */
    HF_PAIRS, /* [rows, cols], queries or keys of heads whose components 2i and 2i + 1 are turned
                 together: they become i and i + rope_dim / 2, as they are here */
    HF_QKV_Q, /* [q + 2 kv rows, cols]: queries, then keys, then values; the queries */
    HF_QKV_K, /* the keys of that shape */
    HF_QKV_V, /* the values */
    HF_DELTA_QKV,      /* [., cols], by key head: q, k, its value heads' v, their z */
    HF_DELTA_Z,        /* the z of that shape */
    HF_DELTA_B,        /* [2 rows, cols], by key head: its value heads' b, their a */
    HF_DELTA_A,        /* the a of that shape */
    HF_LATENT_Q_NOPE,  /* [., cols], by head of latent attention: q_nope, q_rope; the first */
    HF_LATENT_Q_ROPE,  /* the second of that shape, as HF_PAIRS */
    HF_LATENT_KV,      /* [rank + rope_dim, cols]: the latent, k_rope; the first */
    HF_LATENT_K_ROPE,  /* the second of that shape, as HF_PAIRS */
    HF_LATENT_K_UP,    /* [., rank], by head: its keys' nope_dim rows, its values' v_dim rows; the
                         first, each head's rows and columns exchanged */
    HF_LATENT_V_UP,    /* the second of that shape */
    HF_LATENT_K_HEADS, /* [n_heads, rank, nope_dim]: that first one by itself, exchanged already */
    HF_LATENT_V_HEADS, /* [n_heads, v_dim, rank]: the second by itself */
    HF_LAYOUT_COUNT,
};

/* What is done to each number. */
enum hf_value {
    HF_AS_IS,
    HF_PLUS_ONE,     /* 1 + w: norms of Gemma's kind */
    HF_EXP,          /* exp(w) */
    HF_PER_ROOT_DIM, /* w / sqrt(dim) */
};

enum { HF_MAX_PARTS = 3 };

/* Rows of a matrix that lie in groups: row r of the part begins at element
 * first + (r / group_rows) group_step + (r % group_rows) row_step. */
struct hf_part {
    uint32_t rows, group_rows;
    uint64_t first, group_step;
};

struct hf_matrix {
    struct hf_numbers numbers; /* its tensor is NULL where the model has no such matrix */
    struct hf_numbers over;    /* its tensor is not NULL: hf_matrix_over */
    uint32_t rows, cols;
    uint64_t row_step, col_step; /* elements from one to the next */
    uint32_t n_parts;            /* one behind the other, down the matrix */
    uint32_t head_rows, pairs; /* not 0: of each head_rows rows of the one part, i and i + pairs for
                                  i < pairs are 2i and 2i + 1 of the tensor */
    struct hf_part parts[HF_MAX_PARTS];
    enum hf_value value;
    float factor; /* 1, or that of HF_PER_ROOT_DIM */
};

/* Lay out slot `slot` of layer `layer` (and `expert`, for layouts of experts) in what
 * hf_numbers_find found, whose shapes are checked. */
int hf_matrix_lay(struct hf_matrix *m, const struct arch *a, enum slot_id slot, uint32_t layer,
                  uint32_t expert, enum hf_layout layout, enum hf_value value,
                  const struct hf_numbers *numbers, struct err *err);

/* Divide the numbers of a vector [1, cols], which is laid out, by the lengths of the columns of
 * `over` [rows, cols] (and 1e-7 more) as they are read: so that a product with that matrix is one
 * with columns of length one. The matrix is read whole each time. */
int hf_matrix_over(struct hf_matrix *m, uint32_t rows, const struct hf_numbers *over,
                   struct err *err);

/* Rows [first, first + n) as f32: `dst` [n, cols]. An element that is not finite is an error that
 * names tensor and element. */
int hf_matrix_rows(const struct hf_matrix *m, uint32_t first, uint32_t n, float *dst,
                   struct err *err);
/* Columns [first, first + n) as rows: `dst` [n, rows]. Errors as above. */
int hf_matrix_columns(const struct hf_matrix *m, uint32_t first, uint32_t n, float *dst,
                      struct err *err);

/* "FILE: tensor NAME: weight [INDEX] " and `what`, of the element in this row and column. Returns
 * -1. */
int hf_matrix_refuse(const struct hf_matrix *m, uint32_t row, uint32_t col, const char *what,
                     struct err *err);

/* The codec that holds the matrix exactly, and a view of it where its bytes can be used as they lie
 * (at any alignment); else data is NULL. */
struct weight hf_matrix_view(const struct hf_matrix *m);
/* What its numbers are stored as, where that codec takes more bytes (hf_numbers_unkept). */
const char *hf_matrix_unkept(const struct hf_matrix *m);
/* The same where it is blocks of GGUF (hf_numbers_blocks). */
const char *hf_matrix_blocks(const struct hf_matrix *m);
/* Bytes of the checkpoint that the matrix takes. */
uint64_t hf_matrix_bytes(const struct hf_matrix *m);
/* Call `advise` for what rows [first, first + n) lie in. */
void hf_matrix_advise(const struct hf_matrix *m, uint32_t first, uint32_t n,
                      void (*advise)(const struct st_tensor *t, uint64_t first, uint64_t bytes));

#endif
