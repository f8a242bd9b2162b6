#include "prep/hf/hf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/text/tokenizer.h"
#include "prep/foreign.h"
#include "prep/hf/hf_generation.h"
#include "prep/hf/hf_names.h"
#include "prep/hf/hf_quant.h"
#include "prep/hf/hf_tokenizer.h"
#include "prep/hf/remark.h"

/* ---- opening ---- */

/* Compare slice by slice, so that no more than a slice counts as used memory. */
static bool same_bytes(const struct st_tensor *a, const struct st_tensor *b) {
    enum { SLICE = 16 << 20 };
    bool same = a->bytes == b->bytes;
    for (uint64_t at = 0; same && at < a->bytes; at += SLICE) {
        uint64_t n = a->bytes - at < SLICE ? a->bytes - at : SLICE;
        same = memcmp(a->data + at, b->data + at, n) == 0;
        st_drop_range(a, at, n);
        st_drop_range(b, at, n);
    }
    return same;
}

/* Whether two matrices are stored as the same numbers with the same scales. */
static bool same_numbers(const struct hf_numbers *a, const struct hf_numbers *b) {
    const struct st_tensor *of_a[HF_NUMBERS_TENSORS], *of_b[HF_NUMBERS_TENSORS];
    hf_numbers_tensors(a, of_a);
    hf_numbers_tensors(b, of_b);
    bool same = a->format == b->format;
    for (size_t i = 0; same && i < HF_NUMBERS_TENSORS && of_a[i]; i++) {
        const struct st_tensor *x = of_a[i], *y = of_b[i];
        same = x->dtype == y->dtype && x->n_dims == y->n_dims &&
               memcmp(x->shape, y->shape, x->n_dims * sizeof *x->shape) == 0 && same_bytes(x, y);
    }
    return same;
}

/* Whether output head and embedding are one matrix. As transformers does it: a tied model may
 * still store the head, which counts where it differs. A file that does not say ties where it
 * has no head. */
static int settle_tied(struct hf_model *m, const struct hf_names *names, struct err *err) {
    struct arch *a = &m->config.arch;
    struct hf_numbers head, embed;
    int has_head = hf_names_find(names, SLOT_HEAD, 0, &head, err);
    int has_embed = has_head < 0 ? 0 : hf_names_find(names, SLOT_EMBED, 0, &embed, err);
    if (has_head < 0 || has_embed < 0) {
        return -1;
    }
    if (!has_head && !m->config.tied_given && !a->tied) {
        a->tied = 1;
        remark_add(&m->warnings, "%s: no lm_head.weight: the embedding is used as output head",
                   m->dir);
    } else if (has_head && has_embed && a->tied && !same_numbers(&head, &embed)) {
        a->tied = 0;
        remark_add(&m->warnings,
                   "%s: tie_word_embeddings is true, but lm_head.weight differs from the "
                   "embedding: both are kept",
                   m->dir);
    }
    return 0;
}

/* A bias on what experts are chosen by that the files of the family may lack is 0 where no layer
 * has it. */
static int settle_unbiased(struct hf_model *m, const struct hf_names *names, struct err *err) {
    struct arch *a = &m->config.arch;
    int found = m->config.family->unbiased ? 0 : 1;
    for (uint32_t l = 0; l < a->n_layers && found == 0; l++) {
        struct hf_numbers bias;
        found = arch_is_moe(a, l) ? hf_names_find(names, SLOT_ROUTER_SELECT, l, &bias, err) : 0;
    }
    for (uint32_t i = 0; i < a->n_kinds && found == 0; i++) {
        a->kinds[i].route.selection_bias = 0;
    }
    return found < 0 ? -1 : 0;
}

/* All of the tokenizer's ids have rows, or else it is refused. Its end token ends a text, too;
 * where the configurations name none, it alone. */
int hf_settle_stops(struct hf_model *m, struct err *err) {
    struct arch *a = &m->config.arch;
    if (m->tokenizer.len == 0) {
        return 0;
    }
    if (tokenizer_open_for(m->tokenizer.data, m->tokenizer.len, a->vocab, &m->tok, err) < 0) {
        return err_prefix(err, "%s", m->dir);
    }
    size_t bytes = 0;
    uint32_t eos = tokenizer_eos(m->tok);
    const char *text = tokenizer_piece(m->tok, eos, &bytes);
    bool chosen = eos < a->vocab; /* else none, or none of the model's: it is never chosen */
    a->n_stop = m->config.stops_named || !chosen ? a->n_stop : 0;
    uint32_t others = a->n_stop;
    if (chosen && hf_generation_add_stop(a, eos)) {
        remark_add(&m->warnings,
                   others ? "%s: texts end with the tokenizer's end token, too, which eos_token_id "
                            "does not name: %u, '%.*s'"
                          : "%s: no eos_token_id: texts end with the tokenizer's end token, %u, "
                            "'%.*s'",
                   m->dir, eos, (int)bytes, text);
    }
    return 0;
}

/* Tell which tensors of the files do not count. */
static void note_skipped(struct hf_model *m) {
    const struct st_tensor *first[2] = {NULL, NULL}; /* unlisted; in another shard */
    size_t n[2] = {0, 0};
    for (size_t i = 0; i < st_skipped_count(m->st); i++) {
        const struct st_tensor *t = st_skipped(m->st, i);
        int other = st_find(m->st, t->name) != NULL;
        first[other] = n[other]++ ? first[other] : t;
    }
    if (n[0]) {
        remark_add(
            &m->warnings,
            "%s: %zu tensors that the index does not list are skipped, the first is \"%s\" of %s",
            m->dir, n[0], first[0]->name, first[0]->file);
    }
    if (n[1]) {
        remark_add(&m->warnings,
                   "%s: of %zu tensors in several shards the copy counts that the index names: "
                   "\"%s\" is read from %s",
                   m->dir, n[1], first[1]->name, st_find(m->st, first[1]->name)->file);
    }
    char *index = mem_printf("%s/model.safetensors.index.json", m->dir);
    if (access(index, F_OK) == 0 && strcmp(st_file_path(m->st, 0), index) != 0) {
        remark_add(&m->warnings, "%s: not read, because there is a model.safetensors", index);
    }
    free(index);
}

/* Tell of tensors by which a quantised model rounds what it computes. */
static void note_activations(struct hf_model *m) {
    const struct st_tensor *first = NULL;
    size_t n = 0;
    for (size_t i = 0; m->config.quant.name && i < st_count(m->st); i++) {
        if (hf_numbers_of_activations(st_at(m->st, i)->name)) {
            first = n++ ? first : st_at(m->st, i);
        }
    }
    if (n) {
        remark_add(&m->warnings,
                   "%s: %zu tensors that say how activations are rounded are left out, the first "
                   "is \"%s\": here they are not, as in transformers where it decodes the weights",
                   m->dir, n, first->name);
    }
}

int hf_assemble(struct hf_model *m, const struct hf_names *names, struct err *err) {
    const struct arch *a = hf_arch(m);
    m->trunk = mem_calloc((1 + (size_t)a->n_layers) * SLOT_COUNT, sizeof *m->trunk);
    m->experts =
        mem_calloc((size_t)a->n_layers * a->n_experts * HF_EXPERT_PARTS, sizeof *m->experts);
    return settle_tied(m, names, err) < 0 || settle_unbiased(m, names, err) < 0 ||
                   hf_names_bind(names, a, m->trunk, m->experts, err) < 0
               ? -1
               : 0;
}

int hf_open(struct hf_model *m, const char *dir, struct err *err) {
    memset(m, 0, sizeof *m);
    m->dir = mem_strdup(dir);
    if (foreign_check_dir(dir, true, err) < 0 || hf_config_read(&m->config, dir, err) < 0 ||
        st_open(&m->st, dir, err) < 0) {
        return -1;
    }
    buf_append(&m->warnings, m->config.remarks.data, m->config.remarks.len);
    const struct hf_names names = hf_names_of(&m->config, m->st, m->dir);
    note_skipped(m);
    note_activations(m);
    if (hf_assemble(m, &names, err) < 0) {
        struct err guess = {0}; /* names alone prove nothing: what failed is told beside it */
        if (hf_quant_check_tensors(m->st, m->config.family->mxfp4, &guess) < 0) {
            struct err failed = *err;
            *err = (struct err){0};
            err_set(err, "%.600s (what failed: %.300s)", guess.msg, failed.msg);
        }
        return -1;
    }
    if (hf_tokenizer_read(dir, hf_arch(m)->vocab, &m->tokenizer, &m->book, &m->warnings, err) < 0) {
        return -1;
    }
    return hf_settle_stops(m, err);
}

void hf_close(struct hf_model *m) {
    free(m->dir);
    free(m->trunk);
    free(m->experts);
    st_close(m->st);
    hf_config_free(&m->config);
    buf_free(&m->warnings);
    buf_free(&m->license);
    tokenizer_close(m->tok);
    buf_free(&m->tokenizer);
    buf_free(&m->book);
    memset(m, 0, sizeof *m);
}

/* ---- reading ---- */

static const struct hf_matrix *matrix_of(const struct hf_model *m, enum slot_id slot,
                                         uint32_t layer, uint32_t expert) {
    if (slot_at(slot)->scope == SLOT_OF_EXPERT) {
        size_t at = (size_t)layer * hf_arch(m)->n_experts + expert;
        return &m->experts[at * HF_EXPERT_PARTS + (slot - SLOT_EXPERT_GATE)];
    }
    size_t row = slot_at(slot)->scope == SLOT_OF_MODEL ? 0 : 1 + (size_t)layer;
    return &m->trunk[row * SLOT_COUNT + slot];
}

struct weight hf_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                        uint32_t expert) {
    return hf_matrix_view(matrix_of(m, slot, layer, expert));
}

const char *hf_weight_unkept(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                             uint32_t expert) {
    return hf_matrix_unkept(matrix_of(m, slot, layer, expert));
}

const char *hf_weight_blocks(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                             uint32_t expert) {
    return hf_matrix_blocks(matrix_of(m, slot, layer, expert));
}

uint64_t hf_weight_bytes(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                         uint32_t expert) {
    return hf_matrix_bytes(matrix_of(m, slot, layer, expert));
}

int hf_tensor_rows(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                   uint32_t first_row, uint32_t n_rows, float *dst, struct err *err) {
    return hf_matrix_rows(matrix_of(m, slot, layer, expert), first_row, n_rows, dst, err);
}

int hf_refuse_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                     uint32_t row, uint32_t col, const char *what, struct err *err) {
    return hf_matrix_refuse(matrix_of(m, slot, layer, expert), row, col, what, err);
}

int hf_expert_neurons(const struct hf_model *m, uint32_t layer, uint32_t expert, uint32_t first,
                      uint32_t n, float *gate, float *up, float *down_t, struct err *err) {
    if (hf_tensor_rows(m, SLOT_EXPERT_GATE, layer, expert, first, n, gate, err) < 0 ||
        hf_tensor_rows(m, SLOT_EXPERT_UP, layer, expert, first, n, up, err) < 0) {
        return -1;
    }
    return hf_matrix_columns(matrix_of(m, SLOT_EXPERT_DOWN, layer, expert), first, n, down_t, err);
}

int hf_expert(const struct hf_model *m, uint32_t layer, uint32_t expert, float *gate, float *up,
              float *down_t, struct err *err) {
    return hf_expert_neurons(m, layer, expert, 0, hf_arch(m)->ffn_dim, gate, up, down_t, err);
}

/* ---- advice ---- */

static void advise_expert(const struct hf_model *m, uint32_t layer, uint32_t expert,
                          void (*advise)(const struct st_tensor *t, uint64_t first,
                                         uint64_t bytes)) {
    for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
        const struct hf_matrix *x = matrix_of(m, s, layer, expert);
        hf_matrix_advise(x, 0, x->rows, advise);
    }
}

void hf_rows_done(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                  uint32_t first_row, uint32_t n_rows) {
    hf_matrix_advise(matrix_of(m, slot, layer, expert), first_row, n_rows, st_drop_range);
}

void hf_expert_want(const struct hf_model *m, uint32_t layer, uint32_t expert) {
    advise_expert(m, layer, expert, st_want_range);
}

void hf_expert_done(const struct hf_model *m, uint32_t layer, uint32_t expert) {
    advise_expert(m, layer, expert, st_drop_range);
}
