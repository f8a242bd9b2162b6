#include "prep/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/cpu/encode.h"
#include "kernels/pool.h"
#include "prep/provenance.h"

enum {
    BLOCK_BYTES = 4 << 20,      /* f32 rows of the trunk in memory at a time */
    BLOCK_NEURONS = 64,         /* neurons that one worker converts at a time */
    MAX_CHUNK_BYTES = 64 << 20, /* of a decoded chunk: what a cache slot must be able to hold */
};

struct pack {
    const struct hf_model *m;
    const struct arch *a;
    const struct pack_options *opt;
    const struct codec *expert_codec;
    const struct encode_isa *encode;
    uint32_t chunk_neurons, hot_neurons;
    struct corm_writer *w;
    struct pool *pool;
    struct progress *progress;
    const volatile sig_atomic_t *stop;
    uint64_t done_bytes; /* of the checkpoint's tensors */
};

/* ---- choices ---- */

/* One codec serves all experts: the one that all of them have, or else f32, which holds any of
 * them. */
static const struct codec *exact_expert_codec(const struct hf_model *m, bool *mixed) {
    const struct arch *a = hf_arch(m);
    const struct codec *common = NULL;
    *mixed = false;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                const struct codec *c = hf_weight(m, s, l, e).codec;
                if (common && c != common) {
                    *mixed = true;
                    return codec_by_id(CODEC_F32);
                }
                common = c;
            }
        }
    }
    return common;
}

bool pack_experts_mixed(const struct hf_model *m) {
    bool mixed;
    exact_expert_codec(m, &mixed);
    return mixed;
}

/* The codec that was asked for a slot of the trunk; NULL: the one that holds it exactly. */
static const struct codec *asked_codec(const struct hf_model *m, const struct pack_options *opt,
                                       enum slot_id slot, uint32_t layer) {
    const struct codec *blocks = opt->trunk_codec ? NULL : opt->trunk_blocks;
    switch (slot_at(slot)->store) {
    case SLOT_STORE_EXACT:
        return codec_by_id(CODEC_F32);
    case SLOT_STORE_TRUNK:
        return blocks && hf_weight_blocks(m, slot, layer, 0) &&
                       codec_fits(blocks, hf_weight(m, slot, layer, 0).cols)
                   ? blocks
                   : opt->trunk_codec;
    case SLOT_STORE_KEEP:
    case SLOT_STORE_EXPERT:
        break;
    }
    return NULL;
}

static const struct codec *trunk_codec(const struct pack *p, enum slot_id slot, uint32_t layer) {
    const struct codec *asked = asked_codec(p->m, p->opt, slot, layer);
    return asked ? asked : hf_weight(p->m, slot, layer, 0).codec;
}

struct pack_grown pack_trunk_grown(const struct hf_model *m, const struct pack_options *opt) {
    struct pack_grown g = {0};
    for (struct slot_place at = {0}; slot_next(hf_arch(m), &at);) {
        const char *numbers = hf_weight_unkept(m, at.slot, at.layer, 0);
        struct weight w = hf_weight(m, at.slot, at.layer, 0);
        if (numbers && !asked_codec(m, opt, at.slot, at.layer)) {
            g.numbers = g.numbers ? g.numbers : numbers;
            g.matrices++;
            g.from_bytes += hf_weight_bytes(m, at.slot, at.layer, 0);
            g.to_bytes += (uint64_t)w.rows * codec_row_bytes(w.codec, w.cols);
        }
    }
    return g;
}

/* Experts whose bits no codec keeps are not made larger without being asked. */
static int check_experts(const struct pack *p, struct err *err) {
    const struct arch *a = p->a;
    for (uint32_t l = 0; !p->opt->expert_codec && l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                const char *numbers = hf_weight_unkept(p->m, s, l, e);
                if (numbers) {
                    return err_set(err,
                                   "%s: experts are in %s, whose bits no codec keeps: choose "
                                   "--codec q8 or q4 (bf16 and f16 round, too; f32 does not, and "
                                   "takes 4 bytes a weight)",
                                   p->m->dir, numbers);
                }
            }
        }
    }
    return 0;
}

static int check_codec(const struct codec *c, uint32_t cols, const char *what, struct err *err) {
    if (!codec_fits(c, cols)) {
        return err_set(
            err, "codec %s needs rows of a multiple of %u columns, %s has %u: choose another codec",
            c->name, c->block_cols, what, cols);
    }
    return 0;
}

uint32_t pack_chunk_neurons(const struct arch *a, uint32_t wanted) {
    return wanted < a->ffn_dim ? wanted : a->ffn_dim;
}

/* Choose the size of chunks and of the hot prefix, both in neurons. */
static int choose_chunks(struct pack *p, struct err *err) {
    uint32_t ffn = p->a->ffn_dim, chunk = p->opt->chunk_neurons;
    if (chunk == 0 || chunk % 32 != 0) {
        return err_set(err, "--chunk-neurons %u: expected a multiple of 32", chunk);
    }
    chunk = pack_chunk_neurons(p->a, chunk);
    uint64_t neuron_bytes = 3 * (uint64_t)codec_row_bytes(p->expert_codec, p->a->dim);
    if (chunk * neuron_bytes > MAX_CHUNK_BYTES) {
        return err_set(err,
                       "a chunk of %u neurons has %" PRIu64
                       " bytes, at most %d are allowed: choose "
                       "fewer neurons",
                       chunk, chunk * neuron_bytes, MAX_CHUNK_BYTES);
    }
    double wanted = p->opt->hot_fraction * ffn;
    uint32_t hot = (uint32_t)(wanted / chunk + 0.5) * chunk;
    if (wanted > 0 && hot < chunk) {
        hot = chunk;
    }
    if (hot > ffn || wanted >= ffn) {
        hot = ffn;
    }
    p->chunk_neurons = chunk;
    p->hot_neurons = hot;
    return 0;
}

static int check_tokenizer(const struct hf_model *m, struct err *err) {
    return m->tokenizer.len
               ? 0
               : err_set(
                     err,
                     m->single
                         ? "%s: no tokenizer in it (tokenizer.ggml.model): only a file with one "
                           "can be "
                           "converted"
                         : "%s: no tokenizer.json: only checkpoints with one, or with the tiktoken "
                           "file of a known class, can be converted",
                     m->dir);
}

/* All that can be told before anything is written. */
static int check_choices(struct pack *p, struct err *err) {
    if (check_tokenizer(p->m, err) || check_experts(p, err) ||
        check_codec(p->expert_codec, p->a->dim, "an expert", err) ||
        corm_compress_check(p->opt->compress, p->expert_codec, err) || choose_chunks(p, err)) {
        return -1;
    }
    for (struct slot_place at = {0}; slot_next(p->a, &at);) {
        const struct slot *s = slot_at(at.slot);
        if (check_codec(trunk_codec(p, at.slot, at.layer), s->cols(p->a, at.layer), s->name, err)) {
            return -1;
        }
    }
    return 0;
}

/* ---- ranges ---- */

/* Where a weight was read from. */
struct origin {
    enum slot_id slot;
    uint32_t layer, expert;
    uint32_t first; /* row of the matrix, or column where it is `turned`, of the first n numbers */
    bool turned;
};

/* Whether the codec can hold [n, cols] numbers: one that is beyond its range would become another
 * one. */
static int check_range(const struct pack *p, const struct codec *codec, const struct origin *from,
                       const float *x, uint32_t n, uint32_t cols, struct err *err) {
    const size_t count = (size_t)n * cols;
    int32_t greatest = 0; /* magnitudes are ordered as their bits are, which needs no branches */
    for (size_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= INT32_MAX;
        greatest = bits > greatest ? bits : greatest;
    }
    float magnitude;
    memcpy(&magnitude, &greatest, sizeof magnitude);
    for (size_t i = 0; magnitude > codec->max_abs && i < count; i++) {
        if (fabsf(x[i]) > codec->max_abs) {
            bool expert = slot_at(from->slot)->scope == SLOT_OF_EXPERT;
            uint32_t along = from->first + (uint32_t)(i / cols), across = (uint32_t)(i % cols);
            char what[128];
            snprintf(what, sizeof what,
                     "is %.9g, which codec %s cannot hold: choose keep, bf16 or f32 for --%s",
                     (double)x[i], codec->name, expert ? "codec" : "trunk");
            return hf_refuse_weight(p->m, from->slot, from->layer, from->expert,
                                    from->turned ? across : along, from->turned ? along : across,
                                    what, err);
        }
    }
    return 0;
}

/* ---- trunk ---- */

/* Put the biases of experts [first, first + n) into the order in which their records have the
 * neurons. */
static void order_neurons(const struct pack *p, uint32_t layer, uint32_t first, uint32_t n,
                          float *values) {
    uint32_t ffn = p->a->ffn_dim;
    if (!p->opt->calib) {
        return;
    }
    float *old = mem_alloc(ffn * sizeof *old);
    for (uint32_t e = 0; e < n; e++) {
        const uint32_t *order =
            p->opt->calib->order + ((size_t)layer * p->a->n_experts + first + e) * ffn;
        float *row = values + (size_t)e * ffn;
        memcpy(old, row, ffn * sizeof *old);
        for (uint32_t i = 0; i < ffn; i++) {
            row[i] = old[order[i]];
        }
    }
    free(old);
}

static int write_tensor(struct pack *p, enum slot_id slot, uint32_t layer, struct err *err) {
    const struct slot *s = slot_at(slot);
    uint32_t rows = s->rows(p->a, layer), cols = s->cols(p->a, layer);
    const struct codec *codec = trunk_codec(p, slot, layer);
    size_t row_bytes = codec_row_bytes(codec, cols);
    uint32_t block = BLOCK_BYTES / (4 * cols) ? BLOCK_BYTES / (4 * cols) : 1;
    float *values = mem_alloc((size_t)block * cols * sizeof *values);
    uint8_t *encoded = mem_alloc(block * row_bytes);
    uint64_t source_row = hf_weight_bytes(p->m, slot, layer, 0) / rows;
    int rc = corm_write_tensor_begin(p->w, slot, layer, codec, rows, cols, err);
    for (uint32_t first = 0; rc == 0 && first < rows; first += block) {
        uint32_t n = rows - first < block ? rows - first : block;
        if (stop_check(p->stop, err) ||
            hf_tensor_rows(p->m, slot, layer, 0, first, n, values, err)) {
            rc = -1;
            break;
        }
        hf_rows_done(p->m, slot, layer, 0, first, n);
        const struct origin from = {.slot = slot, .layer = layer, .first = first};
        if (check_range(p, codec, &from, values, n, cols, err) < 0) {
            rc = -1;
            break;
        }
        if (slot == SLOT_EXPERT_GATE_BIAS || slot == SLOT_EXPERT_UP_BIAS) {
            order_neurons(p, layer, first, n, values);
        }
        for (uint32_t r = 0; r < n; r++) {
            encode_row(p->encode, codec, values + (size_t)r * cols, cols, encoded + r * row_bytes);
        }
        rc = corm_write_tensor_rows(p->w, encoded, n, err);
        p->done_bytes += n * source_row;
        progress_update(p->progress, p->done_bytes);
    }
    if (rc == 0) {
        rc = corm_write_tensor_end(p->w, err);
    }
    free(values);
    free(encoded);
    return rc;
}

/* ---- experts ---- */

/* One expert's conversion, shared by the workers: item i is neurons [i * BLOCK_NEURONS, ...). */
struct convert {
    const struct pack *p;
    uint32_t layer, expert;
    const struct codec **codecs; /* [chunks] */
    size_t *places;              /* [chunks] where each begins in: */
    uint8_t *neurons;            /* chunks one after the other, encoded */
    uint32_t *place;             /* [ffn_dim] where each neuron goes */
    float **scratch;             /* [threads] of [3, BLOCK_NEURONS, dim] */
    /* [threads] of the first item that each worker failed at: the first of all is told, so that a
     * message does not depend on who came first. */
    struct err *errors;
    uint32_t *failed;
};

/* Whether the chunks' codecs can hold the numbers [n, dim] of neurons from `from->first` on. */
static int check_neurons(const struct convert *c, const struct origin *from, const float *x,
                         uint32_t n, struct err *err) {
    const uint32_t dim = c->p->a->dim;
    if (!c->p->opt->chunk_codec) {
        return check_range(c->p, c->p->expert_codec, from, x, n, dim, err);
    }
    struct origin one = *from;
    for (uint32_t i = 0; i < n; i++, one.first++) {
        const struct codec *codec = c->codecs[c->place[one.first] / c->p->chunk_neurons];
        if (check_range(c->p, codec, &one, x + (size_t)i * dim, 1, dim, err) < 0) {
            return -1;
        }
    }
    return 0;
}

static int convert_neurons(struct convert *c, uint32_t item, float *values, struct err *err) {
    const struct arch *a = c->p->a;
    uint32_t first = item * BLOCK_NEURONS;
    uint32_t n = a->ffn_dim - first < BLOCK_NEURONS ? a->ffn_dim - first : BLOCK_NEURONS;
    size_t part = (size_t)BLOCK_NEURONS * a->dim;
    if (hf_expert_neurons(c->p->m, c->layer, c->expert, first, n, values, values + part,
                          values + 2 * part, err)) {
        return -1;
    }
    for (uint32_t k = 0; k < 3; k++) {
        const struct origin from = {.slot = SLOT_EXPERT_GATE + k,
                                    .layer = c->layer,
                                    .expert = c->expert,
                                    .first = first,
                                    .turned = k == 2};
        if (check_neurons(c, &from, values + k * part, n, err) < 0) {
            return -1;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = c->place[first + i], chunk = at / c->p->chunk_neurons;
        const size_t row_bytes = codec_row_bytes(c->codecs[chunk], a->dim);
        uint8_t *to = c->neurons + c->places[chunk] + 3 * (at % c->p->chunk_neurons) * row_bytes;
        for (uint32_t k = 0; k < 3; k++) {
            encode_row(c->p->encode, c->codecs[chunk], values + k * part + (size_t)i * a->dim,
                       a->dim, to + k * row_bytes);
        }
    }
    return 0;
}

static void convert_block(void *ctx, uint32_t item, uint32_t worker) {
    struct convert *c = ctx;
    struct err err = {0};
    if (convert_neurons(c, item, c->scratch[worker], &err) < 0 &&
        (!c->errors[worker].set || item < c->failed[worker])) {
        c->errors[worker] = err;
        c->failed[worker] = item;
    }
}

/* Decide where each neuron of the expert goes. Returns how many of them are the hot prefix. */
static uint32_t place_neurons(const struct pack *p, struct convert *c) {
    uint32_t ffn = p->a->ffn_dim;
    size_t expert = (size_t)c->layer * p->a->n_experts + c->expert;
    const struct calib_result *calib = p->opt->calib;
    for (uint32_t i = 0; i < ffn; i++) {
        c->place[calib ? calib->order[expert * ffn + i] : i] = i;
    }
    return calib ? calib->hot[expert] : p->hot_neurons;
}

static uint32_t chunks_of(const struct pack *p) {
    return (p->a->ffn_dim + p->chunk_neurons - 1) / p->chunk_neurons;
}

/* Decide which codec each chunk of the expert has. */
static void choose_codecs(const struct pack *p, struct convert *c, uint32_t hot) {
    const struct pack_options *o = p->opt;
    const uint32_t n_hot = (hot + p->chunk_neurons - 1) / p->chunk_neurons;
    size_t at = 0;
    for (uint32_t i = 0; i < chunks_of(p); i++) {
        c->codecs[i] = o->chunk_codec
                           ? o->chunk_codec(o->chunk_codec_ctx, c->layer, c->expert, i, n_hot)
                           : p->expert_codec;
        c->places[i] = at;
        at += 3 * codec_row_bytes(c->codecs[i], p->a->dim) * p->chunk_neurons;
    }
}

/* Whether calibration has rounded the experts. */
static bool are_rounded(const struct pack *p) {
    const bool rounded = p->opt->calib && p->opt->calib->rounded.codec != NULL;
    if (rounded && p->opt->chunk_codec) {
        die("experts that are rounded into one codec cannot be packed in several");
    }
    return rounded;
}

/* Fill c->neurons from the checkpoint. */
static int convert_expert(const struct pack *p, struct convert *c, struct err *err) {
    uint32_t threads = pool_threads(p->pool);
    uint32_t items = (p->a->ffn_dim + BLOCK_NEURONS - 1) / BLOCK_NEURONS;
    pool_run(p->pool, convert_block, c, items);
    const struct err *first = NULL;
    for (uint32_t t = 0, item = items; t < threads; t++) {
        if (c->errors[t].set && c->failed[t] < item) {
            first = &c->errors[t];
            item = c->failed[t];
        }
    }
    if (first) {
        return err_set(err, "%s", first->msg);
    }
    hf_expert_done(p->m, c->layer, c->expert);
    return 0;
}

static int write_expert(struct pack *p, struct convert *c, struct err *err) {
    uint32_t hot = place_neurons(p, c);
    choose_codecs(p, c, hot);
    int rc = are_rounded(p)
                 ? rounded_read(&p->opt->calib->rounded, c->layer, c->expert, c->neurons, err)
                 : convert_expert(p, c, err);
    return rc < 0 ? -1
                  : corm_write_record_mixed(p->w, c->layer, c->expert, c->codecs, c->neurons, hot,
                                            err);
}

static int write_experts(struct pack *p, struct err *err) {
    const struct arch *a = p->a;
    uint32_t threads = pool_threads(p->pool);
    struct convert c = {.p = p};
    c.neurons = mem_alloc_aligned(3 * codec_row_bytes(p->expert_codec, a->dim) * a->ffn_dim);
    c.codecs = mem_calloc(chunks_of(p), sizeof *c.codecs);
    c.places = mem_calloc(chunks_of(p), sizeof *c.places);
    c.place = mem_calloc(a->ffn_dim, sizeof *c.place);
    c.scratch = mem_calloc(threads, sizeof *c.scratch);
    c.errors = mem_calloc(threads, sizeof *c.errors);
    c.failed = mem_calloc(threads, sizeof *c.failed);
    for (uint32_t t = 0; t < threads; t++) {
        c.scratch[t] = mem_alloc_aligned(3 * (size_t)BLOCK_NEURONS * a->dim * sizeof(float));
    }
    int rc = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; rc == 0 && arch_is_moe(a, l) && e < a->n_experts; e++) {
            if (e + 1 < a->n_experts && !are_rounded(p)) {
                hf_expert_want(p->m, l, e + 1);
            }
            c.layer = l;
            c.expert = e;
            rc = stop_check(p->stop, err) || write_expert(p, &c, err) ? -1 : 0;
            for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                p->done_bytes += hf_weight_bytes(p->m, s, l, e);
            }
            progress_update(p->progress, p->done_bytes);
        }
    }
    for (uint32_t t = 0; t < threads; t++) {
        free(c.scratch[t]);
    }
    free(c.scratch);
    free(c.errors);
    free(c.failed);
    free(c.neurons);
    free(c.codecs);
    free(c.places);
    free(c.place);
    return rc;
}

/* ---- the whole file ---- */

/* The bytes of the checkpoint that go into the archive. */
static uint64_t tensor_bytes(const struct hf_model *m) {
    const struct arch *a = hf_arch(m);
    uint64_t bytes = 0;
    for (struct slot_place at = {0}; slot_next(a, &at);) {
        bytes += hf_weight_bytes(m, at.slot, at.layer, 0);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                bytes += hf_weight_bytes(m, s, l, e);
            }
        }
    }
    return bytes;
}

static int write_weights(struct pack *p, struct err *err) {
    progress_start(p->progress, "converting", tensor_bytes(p->m), PROGRESS_BYTES);
    int rc = 0;
    for (struct slot_place at = {0}; rc == 0 && slot_next(p->a, &at);) {
        rc = write_tensor(p, at.slot, at.layer, err);
    }
    if (rc == 0) {
        rc = write_experts(p, err);
    }
    progress_finish(p->progress);
    return rc;
}

static int write_texts(struct pack *p, const struct buf *provenance, struct err *err) {
    const struct buf *tokenizer = &p->m->tokenizer;
    struct buf license = {0};
    int rc = -1;
    if (corm_write_blob(p->w, CORM_SECTION_TOKENIZER, tokenizer->data, tokenizer->len, err) ||
        corm_write_blob(p->w, CORM_SECTION_PROVENANCE, provenance->data, provenance->len, err) ||
        (p->opt->predictors &&
         corm_write_blob(p->w, CORM_SECTION_PREDICTORS, p->opt->predictors->data,
                         p->opt->predictors->len, err)) ||
        (p->m->book.len &&
         corm_write_blob(p->w, CORM_SECTION_CONVERSATIONS, p->m->book.data, p->m->book.len, err)) ||
        (!p->m->single && provenance_license(p->m->dir, &license, err))) {
        goto out;
    }
    buf_append(&license, p->m->license.data ? p->m->license.data : "", p->m->license.len);
    rc = license.len ? corm_write_blob(p->w, CORM_SECTION_LICENSE, license.data, license.len, err)
                     : 0;
out:
    buf_free(&license);
    return rc;
}

static void describe_options(const struct pack *p, struct buf *out) {
    const struct codec *trunk = p->opt->trunk_codec;
    buf_printf(out, "corm: %s\n", p->opt->version);
    buf_printf(out, "options: --codec %s", p->opt->chunk_codec ? "mixed" : p->expert_codec->name);
    if (trunk || !p->opt->trunk_blocks) {
        buf_printf(out, " --trunk %s", trunk ? trunk->name : "keep");
    }
    if (!p->opt->calib) { /* calibration decides on hot prefixes by itself */
        buf_printf(out, " --hot %g", p->opt->hot_fraction);
    }
    buf_printf(out, " --chunk-neurons %u", p->chunk_neurons);
    if (p->opt->compress == CORM_COMPRESS_NONE) { /* one spelling for both */
        buf_printf(out, " --no-compress");
    } else if (p->opt->compress != CORM_COMPRESS_AUTO) {
        buf_printf(out, " --compress %s", corm_compress_words[p->opt->compress]);
    }
    buf_printf(out, "%s\n", p->opt->compress && p->opt->raw_hot ? " --raw-hot" : "");
    if (are_rounded(p)) {
        buf_printf(out, "rounding: gptq\n");
    }
    if (p->opt->calib) {
        buf_printf(out, "calibration: %u tokens of %s, %u held out\n", p->opt->calib->train_tok,
                   p->opt->calib_text, p->opt->calib->held_tok);
    }
    buf_printf(out, "family: %s\n", p->a->family);
    buf_printf(out, "parameters: %" PRIu64 "\n", arch_params(p->a));
}

static void run_on_pool(void *ctx, void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg,
                        uint32_t n_items) {
    pool_run(ctx, fn, arg, n_items);
}

/* What is known before anything is written. */
static struct pack begin(const struct hf_model *m, const struct pack_options *opt) {
    bool mixed;
    return (struct pack){.m = m,
                         .a = hf_arch(m),
                         .opt = opt,
                         .expert_codec =
                             opt->expert_codec ? opt->expert_codec : exact_expert_codec(m, &mixed)};
}

int pack_check(const struct hf_model *m, const struct pack_options *opt, struct err *err) {
    struct pack p = begin(m, opt);
    return check_choices(&p, err);
}

int pack_model(const struct hf_model *m, const char *out_path, const struct pack_options *opt,
               struct progress *progress, const volatile sig_atomic_t *stop,
               struct pack_result *result, struct err *err) {
    struct pack p = begin(m, opt);
    struct buf provenance = {0};
    int rc = -1;
    p.progress = progress;
    p.stop = stop;
    if (check_choices(&p, err)) {
        goto out;
    }
    p.encode = encode_isa_best(NULL);
    p.pool = pool_new(opt->threads, err);
    if (!p.pool) {
        goto out;
    }
    struct corm_write_options write = {
        .expert_codec = p.expert_codec,
        .chunk_neurons = p.chunk_neurons,
        .compress = opt->compress,
        .compress_hot = !opt->raw_hot,
        .raw_above_ratio = PACK_RAW_ABOVE,
        .workers = {pool_threads(p.pool), p.pool, run_on_pool},
    };
    describe_options(&p, &provenance);
    if (provenance_files(m, &provenance, progress, stop, err) ||
        corm_write_open(&p.w, out_path, p.a, &write, err)) {
        goto out;
    }
    if (write_weights(&p, err) || write_texts(&p, &provenance, err)) {
        corm_write_abort(p.w);
        goto out;
    }
    rc = corm_write_finish(p.w, &result->stats, err);
    result->source_bytes = 0;
    for (size_t i = 0; i < st_file_count(m->st); i++) {
        struct stat info;
        result->source_bytes +=
            stat(st_file_path(m->st, i), &info) == 0 ? (uint64_t)info.st_size : 0;
    }
    result->expert_codec = p.expert_codec;
    result->chunk_neurons = p.chunk_neurons;
out:
    pool_free(p.pool);
    buf_free(&provenance);
    return rc;
}
