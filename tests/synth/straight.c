#include "tests/synth/straight.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "format/base.h"
#include "format/cli.h"
#include "kernels/pool.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/synth/write.h"

enum {
    BLOCK_BYTES = 1 << 20, /* of f32 rows that a worker encodes at a time */
    BLOCKS = 8,            /* between two writes, for each thread */
    BLOCK_NEURONS = 64,
    TOKEN_BYTES = 64, /* about what the tokenizer section takes for a token */
    HOT_PARTS = 4,    /* the hot prefix is a quarter, as without calibration */
    LEAST_SCALE = 160 /* of a group's, in 255ths of the greatest one's */
};

/* Of the codes 0 .. 15. */
static const float CODE_MEAN = 7.5f, CODE_SIGMA = 4.609772f;

struct straight {
    const struct plant *p;
    const struct straight_options *o;
    struct corm_writer *w;
    struct pool *pool;
    struct progress *progress;
    uint64_t done_bytes;
};

/* ---- room ---- */

static const struct codec *codec_of(enum slot_id slot, const struct straight_options *o) {
    switch (slot_at(slot)->store) {
    case SLOT_STORE_EXACT:
        return codec_by_id(CODEC_F32);
    case SLOT_STORE_KEEP:
        return codec_by_id(CODEC_BF16);
    case SLOT_STORE_TRUNK:
        return o->trunk_codec;
    case SLOT_STORE_EXPERT:
        break;
    }
    return codec_by_id(CODEC_Q4);
}

/* Tensors and records: what the progress counts. */
static uint64_t weight_bytes(const struct plant *p, const struct straight_options *o) {
    const struct arch *a = &p->arch;
    uint64_t bytes = 0;
    for (struct slot_place at = {0}; slot_next(a, &at);) {
        const struct slot *s = slot_at(at.slot);
        bytes += (uint64_t)s->rows(a, at.layer) *
                 codec_row_bytes(codec_of(at.slot, o), s->cols(a, at.layer));
    }
    return bytes + (uint64_t)arch_moe_layers(a) * a->n_experts * a->ffn_dim * 3 *
                       codec_row_bytes(codec_by_id(CODEC_Q4), a->dim);
}

uint64_t straight_bytes(const struct plant *p, const struct straight_options *o) {
    uint64_t records = (uint64_t)arch_moe_layers(&p->arch) * p->arch.n_experts;
    return weight_bytes(p, o) + records * CORM_RECORD_ALIGN + (uint64_t)p->arch.vocab * TOKEN_BYTES;
}

int straight_check_room(const char *path, uint64_t bytes, uint64_t free_bytes, struct err *err) {
    char need[CLI_SIZE_TEXT], have[CLI_SIZE_TEXT];
    if (bytes <= free_bytes) {
        return 0;
    }
    return err_set(err, "%s: the archive takes %s, and the disk has %s free", path,
                   cli_size_text(need, bytes), cli_size_text(have, free_bytes));
}

static int check_disk(const struct straight *s, const char *path, struct err *err) {
    struct statvfs fs;
    const char *slash = strrchr(path, '/');
    char *dir = slash ? mem_printf("%.*s/", (int)(slash - path), path) : mem_strdup(".");
    int rc = statvfs(dir, &fs) != 0 ? err_errno(err, errno, "%s", dir)
                                    : straight_check_room(path, straight_bytes(s->p, s->o),
                                                          (uint64_t)fs.f_bavail * fs.f_frsize, err);
    free(dir);
    return rc;
}

/* ---- trunk ---- */

/* A run of rows, shared by the workers: item i is rows [i * block, ...). */
struct rows {
    const struct plant *p;
    const struct plant_tensor *tensor;
    const struct codec *codec;
    uint32_t first, n, block;
    size_t row_bytes;
    uint8_t *out;   /* [n, row_bytes] */
    float **values; /* [threads] of [block + 1, cols]: rows, and what making them takes */
};

static void encode_block(void *ctx, uint32_t item, uint32_t worker) {
    const struct rows *r = ctx;
    uint32_t from = item * r->block, cols = r->tensor->cols;
    uint32_t n = r->n - from < r->block ? r->n - from : r->block;
    float *values = r->values[worker];
    plant_rows(r->p, r->tensor, r->first + from, n, values, values + (size_t)r->block * cols);
    for (uint32_t i = 0; i < n; i++) {
        r->codec->encode_row(values + (size_t)i * cols, cols, r->out + (from + i) * r->row_bytes);
    }
}

static int write_tensor(struct straight *s, enum slot_id slot, uint32_t layer, struct err *err) {
    uint32_t threads = pool_threads(s->pool);
    const struct plant_tensor t = plant_tensor(s->p, slot, layer == SLOT_LAYER_NONE ? 0 : layer, 0);
    struct rows r = {.p = s->p, .tensor = &t, .codec = codec_of(slot, s->o)};
    size_t values = BLOCK_BYTES / sizeof(float);
    r.block = values / t.cols ? (uint32_t)(values / t.cols) : 1;
    r.row_bytes = codec_row_bytes(r.codec, t.cols);
    uint32_t most = r.block * BLOCKS * threads;
    r.out = mem_alloc((t.rows < most ? t.rows : most) * r.row_bytes);
    r.values = mem_calloc(threads, sizeof *r.values);
    for (uint32_t i = 0; i < threads; i++) {
        r.values[i] = mem_alloc(((size_t)r.block + 1) * t.cols * sizeof(float));
    }
    int rc = corm_write_tensor_begin(s->w, slot, layer, r.codec, t.rows, t.cols, err);
    for (; rc == 0 && r.first < t.rows; r.first += r.n) {
        r.n = t.rows - r.first < most ? t.rows - r.first : most;
        pool_run(s->pool, encode_block, &r, (r.n + r.block - 1) / r.block);
        rc = corm_write_tensor_rows(s->w, r.out, r.n, err);
        s->done_bytes += r.n * r.row_bytes;
        progress_update(s->progress, s->done_bytes);
    }
    for (uint32_t i = 0; i < threads; i++) {
        free(r.values[i]);
    }
    free(r.values);
    free(r.out);
    return rc == 0 ? corm_write_tensor_end(s->w, err) : -1;
}

/* ---- experts ---- */

struct expert {
    const struct plant *p;
    uint32_t layer, expert;
    size_t row_bytes;
    uint8_t *neurons; /* [ffn_dim, 3, row_bytes] */
};

/* A row of mean 0 and standard deviation `sigma`: codes that are drawn evenly, and groups whose
 * scales differ. */
static void random_q4_row(uint64_t key, uint32_t cols, float sigma, uint8_t *dst) {
    uint32_t groups = cols / CODEC_GROUP, half = cols / 2;
    uint8_t *scales = dst + half, *minimums = scales + groups;
    float squares = 0;
    for (uint32_t i = 0; i < half; i += 8) {
        uint64_t codes = random_u64(key, i / 8);
        memcpy(dst + i, &codes, sizeof codes);
    }
    for (uint32_t g = 0; g < groups; g++) {
        uint64_t z = random_u64(~key, g) % (256 - LEAST_SCALE);
        scales[g] = minimums[g] = (uint8_t)(LEAST_SCALE + z);
        squares += (float)scales[g] * (float)scales[g];
    }
    float units[2];
    units[0] = sigma / (CODE_SIGMA * sqrtf(squares / (float)groups));
    units[1] = units[0] * CODE_MEAN;
    memcpy(minimums + groups, units, sizeof units);
}

static void make_neurons(void *ctx, uint32_t item, uint32_t worker) {
    const struct expert *e = ctx;
    const struct arch *a = &e->p->arch;
    uint32_t first = item * BLOCK_NEURONS;
    uint32_t end = a->ffn_dim - first < BLOCK_NEURONS ? a->ffn_dim : first + BLOCK_NEURONS;
    uint64_t seed = random_u64(e->p->shape.seed, UINT64_C(0x7134));
    uint64_t place = (uint64_t)e->layer * a->n_experts + e->expert;
    (void)worker;
    for (uint32_t k = 0; k < 3; k++) {
        enum slot_id slot = (enum slot_id)(SLOT_EXPERT_GATE + k);
        const struct plant_tensor t = plant_tensor(e->p, slot, e->layer, e->expert);
        uint64_t key = random_u64(seed, 3 * place + k);
        for (uint32_t i = first; i < end; i++) {
            random_q4_row(random_u64(key, i), a->dim, plant_neuron_sigma(e->p, &t, i),
                          e->neurons + (3 * (size_t)i + k) * e->row_bytes);
        }
    }
}

static int write_experts(struct straight *s, struct err *err) {
    const struct arch *a = &s->p->arch;
    struct expert e = {.p = s->p, .row_bytes = codec_row_bytes(codec_by_id(CODEC_Q4), a->dim)};
    size_t record = 3 * e.row_bytes * a->ffn_dim;
    uint32_t chunk = s->o->chunk_neurons < a->ffn_dim ? s->o->chunk_neurons : a->ffn_dim;
    uint32_t hot = a->ffn_dim / HOT_PARTS / chunk * chunk;
    e.neurons = mem_alloc_aligned(record);
    int rc = 0;
    for (uint32_t l = 0; rc == 0 && l < a->n_layers; l++) {
        for (uint32_t i = 0; rc == 0 && arch_is_moe(a, l) && i < a->n_experts; i++) {
            e.layer = l;
            e.expert = i;
            pool_run(s->pool, make_neurons, &e, (a->ffn_dim + BLOCK_NEURONS - 1) / BLOCK_NEURONS);
            rc = corm_write_record(s->w, l, i, e.neurons, hot ? hot : chunk, err);
            s->done_bytes += record;
            progress_update(s->progress, s->done_bytes);
        }
    }
    free(e.neurons);
    return rc;
}

/* ---- the whole file ---- */

static int write_texts(struct straight *s, struct err *err) {
    struct buf json = {0}, config = {0}, section = {0}, origin = {0};
    write_tokenizer_texts(s->p, &json, &config);
    const struct hf_tokenizer_files files = {
        .tokenizer = {"tokenizer.json", (const char *)json.data, json.len},
        .config = {"tokenizer_config.json", (const char *)config.data, config.len}};
    buf_printf(&origin, "corm: %s\noptions: %s\nfamily: %s\nseed: %llu\n", CORM_VERSION_TEXT,
               s->o->origin, s->p->arch.family, (unsigned long long)s->p->shape.seed);
    int rc = -1;
    if (hf_tokenizer_compile(&files, &section, err) == 0 &&
        corm_write_blob(s->w, CORM_SECTION_TOKENIZER, section.data, section.len, err) == 0) {
        rc = corm_write_blob(s->w, CORM_SECTION_PROVENANCE, origin.data, origin.len, err);
    }
    buf_free(&json);
    buf_free(&config);
    buf_free(&section);
    buf_free(&origin);
    return rc;
}

static int write_weights(struct straight *s, struct err *err) {
    int rc = 0;
    progress_start(s->progress, "writing", weight_bytes(s->p, s->o), PROGRESS_BYTES);
    for (struct slot_place at = {0}; rc == 0 && slot_next(&s->p->arch, &at);) {
        rc = write_tensor(s, at.slot, at.layer, err);
    }
    rc = rc == 0 ? write_experts(s, err) : rc;
    progress_finish(s->progress);
    return rc;
}

static void run_on_pool(void *ctx, void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg,
                        uint32_t n_items) {
    pool_run(ctx, fn, arg, n_items);
}

int straight_write(const struct plant *p, const char *path, const struct straight_options *o,
                   struct progress *progress, struct corm_write_stats *stats, struct err *err) {
    struct straight s = {.p = p, .o = o, .progress = progress};
    if (check_disk(&s, path, err) < 0) {
        return -1;
    }
    s.pool = pool_new(o->threads, NULL);
    const struct corm_write_options write = {
        .expert_codec = codec_by_id(CODEC_Q4),
        .chunk_neurons = o->chunk_neurons,
        .workers = {o->threads, s.pool, run_on_pool},
    };
    int rc = corm_write_open(&s.w, path, &p->arch, &write, err);
    if (rc == 0 && (write_weights(&s, err) < 0 || write_texts(&s, err) < 0)) {
        corm_write_abort(s.w);
        rc = -1;
    } else if (rc == 0) {
        rc = corm_write_finish(s.w, stats, err);
    }
    pool_free(s.pool);
    return rc;
}
