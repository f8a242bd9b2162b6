#include "tests/synth/write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "format/base.h"
#include "kernels/pool.h"

enum { BLOCK_BYTES = 1 << 20, NAME_BYTES = 128, MAX_JSON_BYTES = 1 << 20 };

/* ---- the list of tensors ---- */

struct entry {
    struct plant_tensor tensor;
    char name[NAME_BYTES];
    uint32_t shard;
    uint64_t offset, bytes; /* in the shard's data */
};

struct plan {
    struct entry *entries;
    size_t n, cap;
    uint32_t n_shards;
    uint64_t bytes;
};

/* The Hub's names; a second one is Mixtral's. */
static const struct {
    const char *name, *mixtral;
} names[SLOT_COUNT] = {
    [SLOT_EMBED] = {"model.embed_tokens.weight"},
    [SLOT_OUT_NORM] = {"model.norm.weight"},
    [SLOT_HEAD] = {"lm_head.weight"},
    [SLOT_ATTN_NORM] = {"input_layernorm.weight"},
    [SLOT_Q] = {"self_attn.q_proj.weight"},
    [SLOT_K] = {"self_attn.k_proj.weight"},
    [SLOT_V] = {"self_attn.v_proj.weight"},
    [SLOT_O] = {"self_attn.o_proj.weight"},
    [SLOT_Q_BIAS] = {"self_attn.q_proj.bias"},
    [SLOT_K_BIAS] = {"self_attn.k_proj.bias"},
    [SLOT_V_BIAS] = {"self_attn.v_proj.bias"},
    [SLOT_O_BIAS] = {"self_attn.o_proj.bias"},
    [SLOT_Q_NORM] = {"self_attn.q_norm.weight"},
    [SLOT_K_NORM] = {"self_attn.k_norm.weight"},
    [SLOT_FFN_NORM] = {"post_attention_layernorm.weight"},
    [SLOT_ROUTER] = {"mlp.gate.weight", "block_sparse_moe.gate.weight"},
    [SLOT_MLP_GATE] = {"mlp.shared_expert.gate_proj.weight"},
    [SLOT_MLP_UP] = {"mlp.shared_expert.up_proj.weight"},
    [SLOT_MLP_DOWN] = {"mlp.shared_expert.down_proj.weight"},
    [SLOT_MLP_SWITCH] = {"mlp.shared_expert_gate.weight"},
    [SLOT_EXPERT_GATE] = {"mlp.experts.%u.gate_proj.weight",
                          "block_sparse_moe.experts.%u.w1.weight"},
    [SLOT_EXPERT_UP] = {"mlp.experts.%u.up_proj.weight", "block_sparse_moe.experts.%u.w3.weight"},
    [SLOT_EXPERT_DOWN] = {"mlp.experts.%u.down_proj.weight",
                          "block_sparse_moe.experts.%u.w2.weight"},
};

static void add_entry(struct plan *plan, const struct plant *p, enum slot_id slot, uint32_t layer,
                      uint32_t expert) {
    plan->entries = mem_grow(plan->entries, plan->n + 1, &plan->cap, sizeof *plan->entries);
    struct entry *e = &plan->entries[plan->n++];
    bool mixtral = strcmp(p->arch.family, "mixtral") == 0;
    const char *text = mixtral && names[slot].mixtral ? names[slot].mixtral : names[slot].name;
    const char *number = strstr(text, "%u");
    char prefix[32] = "";
    *e = (struct entry){.tensor = plant_tensor(p, slot, layer, expert)};
    e->bytes = (uint64_t)e->tensor.rows * e->tensor.cols * sizeof(uint16_t);
    if (slot_at(slot)->scope != SLOT_OF_MODEL) {
        snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    }
    if (number) {
        snprintf(e->name, sizeof e->name, "%s%.*s%u%s", prefix, (int)(number - text), text, expert,
                 number + 2);
    } else {
        snprintf(e->name, sizeof e->name, "%s%s", prefix, text);
    }
}

static void make_plan(struct plan *plan, const struct plant *p, uint64_t shard_bytes) {
    const struct arch *a = &p->arch;
    uint32_t layer =
        SLOT_LAYER_NONE; /* the layer whose experts come when its other slots are done */
    struct slot_place place = {0};
    bool more;
    do {
        more = slot_next(a, &place);
        if (layer != SLOT_LAYER_NONE && (!more || place.layer != layer)) {
            for (uint32_t e = 0; e < a->n_experts; e++) {
                for (int s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                    add_entry(plan, p, (enum slot_id)s, layer, e);
                }
            }
        }
        layer = place.layer;
        if (more) {
            add_entry(plan, p, place.slot, layer == SLOT_LAYER_NONE ? 0 : layer, 0);
        }
    } while (more);

    uint64_t used = 0;
    for (size_t i = 0; i < plan->n; i++) {
        struct entry *e = &plan->entries[i];
        if (used && used + e->bytes > shard_bytes) {
            plan->n_shards++;
            used = 0;
        }
        e->shard = plan->n_shards;
        e->offset = used;
        used += e->bytes;
        plan->bytes += e->bytes;
    }
    plan->n_shards++;
}

/* ---- shards ---- */

static char *shard_name(const struct plan *plan, uint32_t shard) {
    return plan->n_shards == 1
               ? mem_strdup("model.safetensors")
               : mem_printf("model-%05u-of-%05u.safetensors", shard + 1, plan->n_shards);
}

struct worker {
    float *rows, *scratch;
    uint16_t *bytes;
    struct err err;
};

struct writer {
    const struct plant *p;
    struct pool *pool;
    struct worker *workers;
    const struct entry *entry;
    uint32_t block_rows;
    int fd;
    uint64_t data_at;
    const char *path;
};

static uint32_t rows_of_block(uint32_t cols) {
    uint32_t rows = BLOCK_BYTES / (cols * (uint32_t)sizeof(uint16_t));
    return rows ? rows : 1;
}

static void write_block(void *ctx, uint32_t item, uint32_t worker) {
    struct writer *w = ctx;
    struct worker *own = &w->workers[worker];
    const struct plant_tensor *t = &w->entry->tensor;
    uint32_t first = item * w->block_rows;
    uint32_t n = t->rows - first < w->block_rows ? t->rows - first : w->block_rows;
    size_t count = (size_t)n * t->cols, bytes = count * sizeof(uint16_t);
    uint64_t at = w->data_at + w->entry->offset + (uint64_t)first * t->cols * sizeof(uint16_t);
    plant_rows(w->p, t, first, n, own->rows, own->scratch);
    codec_by_id(CODEC_BF16)->encode_row(own->rows, (uint32_t)count, (uint8_t *)own->bytes);
    for (size_t done = 0; done < bytes;) {
        ssize_t got =
            pwrite(w->fd, (const char *)own->bytes + done, bytes - done, (off_t)(at + done));
        if (got < 0 && errno != EINTR) {
            err_errno(&own->err, errno, "%s: cannot write", w->path);
            return;
        }
        done += got > 0 ? (size_t)got : 0;
    }
}

static void shard_header(const struct plan *plan, uint32_t shard, struct buf *out) {
    uint64_t size = 0;
    buf_append(out, &size, sizeof size);
    buf_printf(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < plan->n; i++) {
        const struct entry *e = &plan->entries[i];
        if (e->shard != shard) {
            continue;
        }
        buf_printf(out, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", e->name);
        bool vector = e->tensor.rows == 1 && e->tensor.slot != SLOT_MLP_SWITCH &&
                      slot_at(e->tensor.slot)->store == SLOT_STORE_EXACT;
        if (!vector) {
            buf_printf(out, "%u,", e->tensor.rows);
        }
        buf_printf(out, "%u],\"data_offsets\":[%llu,%llu]}", e->tensor.cols,
                   (unsigned long long)e->offset, (unsigned long long)(e->offset + e->bytes));
    }
    buf_append(out, "}", 1);
    while (out->len % 8) {
        buf_append(out, " ", 1);
    }
    size = out->len - sizeof size;
    memcpy(out->data, &size, sizeof size);
}

static int write_shard(struct writer *w, const struct plan *plan, uint32_t shard, const char *dir,
                       uint64_t *done, struct progress *progress, struct err *err) {
    char *name = shard_name(plan, shard), *path = mem_printf("%s/%s", dir, name);
    struct buf header = {0};
    int rc = -1;
    shard_header(plan, shard, &header);
    w->path = path;
    w->data_at = header.len;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        err_errno(err, errno, "%s: cannot create", path);
        goto out;
    }
    if (file_write_all(w->fd, header.data, header.len, path, err) < 0) {
        goto out;
    }
    for (size_t i = 0; i < plan->n; i++) {
        w->entry = &plan->entries[i];
        if (w->entry->shard != shard) {
            continue;
        }
        w->block_rows = rows_of_block(w->entry->tensor.cols);
        uint32_t blocks = (w->entry->tensor.rows + w->block_rows - 1) / w->block_rows;
        pool_run(w->pool, write_block, w, blocks);
        for (uint32_t t = 0; t < pool_threads(w->pool); t++) {
            if (w->workers[t].err.set) {
                err_set(err, "%s", w->workers[t].err.msg);
                goto out;
            }
        }
        *done += w->entry->bytes;
        progress_update(progress, *done);
    }
    rc = 0;
out:
    if (w->fd >= 0 && close(w->fd) < 0 && rc == 0) {
        rc = err_errno(err, errno, "%s: cannot write", path);
    }
    buf_free(&header);
    free(path);
    free(name);
    return rc;
}

static int write_shards(const struct plant *p, const struct plan *plan, const char *dir,
                        uint32_t threads, struct progress *progress, struct err *err) {
    struct writer w = {.p = p, .pool = pool_new(threads, NULL)};
    uint32_t cols = 0;
    for (size_t i = 0; i < plan->n; i++) {
        cols = plan->entries[i].tensor.cols > cols ? plan->entries[i].tensor.cols : cols;
    }
    size_t count = cols > BLOCK_BYTES / 2 ? cols : BLOCK_BYTES / 2;
    w.workers = mem_calloc(threads, sizeof *w.workers);
    for (uint32_t t = 0; t < threads; t++) {
        w.workers[t].rows = mem_calloc(count, sizeof(float));
        w.workers[t].scratch = mem_calloc(cols, sizeof(float));
        w.workers[t].bytes = mem_calloc(count, sizeof(uint16_t));
    }
    int rc = 0;
    uint64_t done = 0;
    progress_start(progress, "writing weights", plan->bytes, PROGRESS_BYTES);
    for (uint32_t s = 0; s < plan->n_shards && rc == 0; s++) {
        rc = write_shard(&w, plan, s, dir, &done, progress, err);
    }
    progress_finish(progress);
    for (uint32_t t = 0; t < threads; t++) {
        free(w.workers[t].rows);
        free(w.workers[t].scratch);
        free(w.workers[t].bytes);
    }
    free(w.workers);
    pool_free(w.pool);
    return rc;
}

/* ---- the other files ---- */

static int write_file(const char *dir, const char *name, struct buf *text, struct err *err) {
    char *path = mem_printf("%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = fd < 0 ? err_errno(err, errno, "%s: cannot create", path)
                    : file_write_all(fd, text->data, text->len, path, err);
    if (fd >= 0 && close(fd) < 0 && rc == 0) {
        rc = err_errno(err, errno, "%s: cannot write", path);
    }
    free(path);
    buf_free(text);
    return rc;
}

static int write_index(const struct plan *plan, const char *dir, struct err *err) {
    struct buf b = {0};
    if (plan->n_shards == 1) {
        return 0;
    }
    buf_printf(&b, "{\n\"metadata\": {\"total_size\": %llu},\n\"weight_map\": {\n",
               (unsigned long long)plan->bytes);
    for (size_t i = 0; i < plan->n; i++) {
        char *name = shard_name(plan, plan->entries[i].shard);
        buf_printf(&b, "\"%s\": \"%s\"%s\n", plan->entries[i].name, name,
                   i + 1 < plan->n ? "," : "");
        free(name);
    }
    buf_printf(&b, "}\n}\n");
    return write_file(dir, "model.safetensors.index.json", &b, err);
}

static int write_config(const struct plant *p, const char *dir, struct err *err) {
    static const char *const classes[PLANT_FAMILIES] = {
        "MixtralForCausalLM", "OlmoeForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"};
    const struct plant_shape *s = &p->shape;
    const char *type = plant_families[s->family];
    bool mixtral = strcmp(type, "mixtral") == 0, qwen = strncmp(type, "qwen", 4) == 0;
    struct buf b = {0};
    buf_printf(&b, "{\n\"architectures\": [\"%s\"],\n\"model_type\": \"%s\",\n", classes[s->family],
               type);
    buf_printf(&b, "\"hidden_size\": %d,\n\"num_hidden_layers\": %d,\n", s->dim, s->layers);
    buf_printf(&b, "\"num_attention_heads\": %d,\n\"num_key_value_heads\": %d,\n", s->heads,
               s->kv_heads);
    buf_printf(&b, "\"%s\": %d,\n\"num_experts_per_tok\": %d,\n",
               mixtral ? "num_local_experts" : "num_experts", s->experts, s->active);
    buf_printf(&b, "\"intermediate_size\": %d,\n", s->ffn);
    if (qwen) {
        buf_printf(&b, "\"moe_intermediate_size\": %d,\n\"decoder_sparse_step\": 1,\n", s->ffn);
    }
    if (s->shared) {
        buf_printf(&b, "\"shared_expert_intermediate_size\": %d,\n\"qkv_bias\": true,\n",
                   s->shared);
    }
    if (strcmp(type, "qwen3_moe") == 0) {
        buf_printf(&b, "\"head_dim\": %d,\n\"attention_bias\": false,\n", s->head_dim);
    }
    if (!mixtral) {
        buf_printf(&b, "\"norm_topk_prob\": %s,\n",
                   p->arch.kinds[0].route.renorm ? "true" : "false");
    }
    buf_printf(&b, "\"vocab_size\": %d,\n\"max_position_embeddings\": %d,\n", s->vocab, s->ctx);
    buf_printf(&b, "\"rms_norm_eps\": %g,\n\"rope_theta\": 10000.0,\n", (double)p->arch.norm_eps);
    buf_printf(&b, "\"hidden_act\": \"silu\",\n\"tie_word_embeddings\": false,\n");
    buf_printf(&b, "\"eos_token_id\": %d,\n\"torch_dtype\": \"bfloat16\"\n}\n",
               s->vocab - LANG_SPECIALS);
    return write_file(dir, "config.json", &b, err);
}

/* The printable character that byte-level BPE writes for byte number `id` of the vocabulary, which
 * lists the bytes in order: bytes that print stand for themselves, the others for U+0100 and on. */
static void append_byte(struct buf *b, int id) {
    int code = id, next = 256;
    for (int i = 0; i <= id; i++) {
        bool prints = (i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        code = prints ? i : next++;
    }
    if (code == '"' || code == '\\') {
        buf_printf(b, "\\%c", code);
    } else if (code < 128) {
        buf_printf(b, "%c", code);
    } else {
        buf_printf(b, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
    }
}

static void tokenizer_json(const struct plant *p, struct buf *b) {
    uint32_t end = p->arch.vocab - LANG_SPECIALS;
    char word[LANG_WORD_BYTES];
    buf_printf(b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int i = 0; i < LANG_SPECIALS; i++) {
        buf_printf(b,
                   "%s{\"id\":%u,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                   "\"rstrip\":false,\"normalized\":false,\"special\":true}",
                   i ? "," : "", end + (uint32_t)i, i ? "<|pad|>" : "<|endoftext|>");
    }
    buf_printf(b, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
                  "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                  "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                  "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                  "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":true,\"vocab\":{");
    for (int i = 0; i < LANG_BYTES; i++) {
        buf_printf(b, "%s\"", i ? "," : "");
        append_byte(b, i);
        buf_printf(b, "\":%d", i);
    }
    for (uint32_t id = LANG_BYTES; id < end; id++) {
        lang_word(&p->lang, id, word);
        buf_printf(b, ",\"\xc4\xa0%s\":%u", word, id);
    }
    buf_printf(b, "},\"merges\":[]}}\n");
}

void write_tokenizer_texts(const struct plant *p, struct buf *tokenizer, struct buf *config) {
    tokenizer_json(p, tokenizer);
    buf_printf(config,
               "{\n\"tokenizer_class\": \"PreTrainedTokenizerFast\",\n\"eos_token\": "
               "\"<|endoftext|>\",\n\"pad_token\": \"<|pad|>\",\n\"add_bos_token\": false,\n"
               "\"model_max_length\": %u,\n\"clean_up_tokenization_spaces\": false\n}\n",
               p->arch.ctx_max_tok);
}

static int write_tokenizer(const struct plant *p, const char *dir, struct err *err) {
    struct buf tokenizer = {0}, config = {0}, generation = {0};
    write_tokenizer_texts(p, &tokenizer, &config);
    buf_printf(&generation,
               "{\n\"eos_token_id\": %u,\n\"do_sample\": true,\n\"temperature\": 1.0\n}\n",
               p->arch.vocab - LANG_SPECIALS);
    int rc = write_file(dir, "tokenizer.json", &tokenizer, err);
    rc = rc == 0 ? write_file(dir, "tokenizer_config.json", &config, err) : rc;
    rc = rc == 0 ? write_file(dir, "generation_config.json", &generation, err) : rc;
    buf_free(&tokenizer);
    buf_free(&config);
    buf_free(&generation);
    return rc;
}

static int write_origin(const struct plant *p, const char *dir, struct err *err) {
    const struct plant_shape *s = &p->shape;
    struct buf b = {0};
    buf_printf(&b,
               "{\n\"seed\": \"%llu\",\n\"vocab\": %d,\n\"topics\": %d,\n\"stay\": %.17g,\n"
               "\"zipf\": %.17g,\n",
               (unsigned long long)s->seed, s->vocab, s->topics, s->stay, s->zipf);
    buf_printf(&b,
               "\"common\": %g,\n\"topic\": %g,\n\"drift\": %g,\n\"attention\": %g,\n"
               "\"router\": %g,\n\"gate_sigma\": %g,\n\"up_sigma\": %g,\n\"down_sigma\": %g,\n"
               "\"alike\": %g\n}\n",
               s->common, s->topic, s->drift, s->attention, s->router, s->gate_sigma, s->up_sigma,
               s->down_sigma, s->alike);
    return write_file(dir, "synth.json", &b, err);
}

int write_checkpoint(const struct plant *p, const char *dir, uint64_t shard_bytes, uint32_t threads,
                     struct progress *progress, struct err *err) {
    struct plan plan = {0};
    char *config = mem_printf("%s/config.json", dir);
    int rc = -1;
    if (mkdir(dir, 0777) < 0 && errno != EEXIST) {
        err_errno(err, errno, "%s: cannot make the directory", dir);
        goto out;
    }
    if (access(config, F_OK) == 0) {
        err_set(err, "%s: exists; expected a new directory", config);
        goto out;
    }
    make_plan(&plan, p, shard_bytes);
    if (write_shards(p, &plan, dir, threads, progress, err) < 0 ||
        write_index(&plan, dir, err) < 0 || write_tokenizer(p, dir, err) < 0 ||
        write_origin(p, dir, err) < 0 || write_config(p, dir, err) < 0) {
        goto out;
    }
    rc = 0;
out:
    free(plan.entries);
    free(config);
    return rc;
}

/* ---- texts ---- */

int write_read_lang(const char *dir, struct lang *out, struct err *err) {
    char *path = mem_printf("%s/synth.json", dir);
    const char *seed = NULL;
    json_int_t vocab = 0, topics = 0;
    double stay = -1, zipf = -1;
    json_t *root = NULL;
    uint8_t *data = NULL;
    size_t bytes;
    int rc = -1;
    if (file_read(path, MAX_JSON_BYTES, &data, &bytes, err) < 0) {
        goto out;
    }
    root = json_loadb((const char *)data, bytes, 0, NULL);
    if (json_unpack(root, "{s:s,s:I,s:I,s:F,s:F}", "seed", &seed, "vocab", &vocab, "topics",
                    &topics, "stay", &stay, "zipf", &zipf) != 0 ||
        topics < 1 || topics > 4096 || vocab > 1 << 20 ||
        vocab < LANG_BYTES + LANG_SPECIALS + topics || !(stay >= 0 && stay <= 1) ||
        !(zipf >= 0 && zipf < 10)) {
        err_set(err, "%s: expected seed, vocab, topics, stay and zipf as synth writes them", path);
        goto out;
    }
    *out = (struct lang){.seed = strtoull(seed, NULL, 10),
                         .vocab = (uint32_t)vocab,
                         .n_topics = (uint32_t)topics,
                         .stay = stay,
                         .zipf = zipf};
    lang_open(out);
    rc = 0;
out:
    json_decref(root);
    free(data);
    free(path);
    return rc;
}

void write_text(const struct lang *l, uint64_t stream, uint64_t n_tok, struct buf *out) {
    struct lang_text t;
    char word[LANG_WORD_BYTES];
    lang_begin(&t, l, stream);
    for (uint64_t i = 0; i < n_tok; i++) {
        lang_word(l, lang_next(&t), word);
        buf_printf(out, " %s", word);
    }
}
