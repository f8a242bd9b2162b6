/*
 * hf: tensor names, shapes and values of the golden checkpoints, and checkpoints broken in every
 * way that the importer must name.
 */
#include "tests/util/test.h"

#include "prep/hf/hf.h"

#define MODELS "tests/golden/models/"

/* ---- checkpoints ---- */

static const char *const checkpoints[] = {
    "mixtral-tiny",  "mixtral-fused",  "olmoe-tiny",   "qwen2moe-tiny",
    "qwen3moe-tiny", "qwen3moe-fused", "qwen3moe-f32", "qwen3moe-f16",
};

static struct hf_model open_ok(const char *name) {
    struct hf_model m;
    struct err err = {0};
    char *dir = mem_printf(MODELS "%s", name);
    if (hf_open(&m, dir, &err)) {
        print_error("%s\n", err.msg);
        fail();
    }
    free(dir);
    return m;
}

static void opens_golden(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(checkpoints); i++) {
        struct hf_model m = open_ok(checkpoints[i]);
        const struct arch *a = hf_arch(&m);
        struct err err = {0};
        assert_int_equal(m.warnings.len, 0);
        assert_int_equal(a->dim, 64);
        assert_int_equal(a->vocab, 288);
        float *rows = mem_calloc((size_t)a->vocab * a->dim, sizeof *rows);
        for (struct slot_place at = {0}; slot_next(a, &at);) {
            const struct slot *s = slot_at(at.slot);
            struct weight w = hf_weight(&m, at.slot, at.layer, 0);
            assert_non_null(w.data);
            assert_int_equal(w.rows, s->rows(a, at.layer));
            assert_int_equal(w.cols, s->cols(a, at.layer));
            assert_int_equal(hf_tensor_rows(&m, at.slot, at.layer, 0, 0, w.rows, rows, &err), 0);
            float *row = mem_calloc(w.cols, sizeof *row);
            w.codec->decode_row(weight_row(&w, w.rows - 1), w.cols, row);
            assert_memory_equal(row, rows + (size_t)(w.rows - 1) * w.cols, w.cols * sizeof *row);
            free(row);
        }
        free(rows);
        hf_close(&m);
    }
}

static void flags_of_golden(void **state) {
    (void)state;
    struct hf_model m = open_ok("mixtral-tiny");
    assert_int_equal(arch_kind(hf_arch(&m), 2)->att.window, 12);
    assert_int_equal(hf_arch(&m)->n_experts, 6);
    hf_close(&m);
    m = open_ok("olmoe-tiny");
    assert_true(arch_kind(hf_arch(&m), 0)->att.clip_qkv == 0.75f);
    hf_close(&m);
    m = open_ok("qwen2moe-tiny");
    for (uint32_t l = 0; l < 4; l++) {
        assert_int_equal(arch_is_moe(hf_arch(&m), l), l == 3);
    }
    assert_int_equal(arch_kind(hf_arch(&m), 3)->shared_dim, 96);
    assert_true(arch_rope(hf_arch(&m), 0).scale > 1.13f);
    assert_int_equal(hf_arch(&m)->n_stop, 2);
    hf_close(&m);
    m = open_ok("qwen3moe-tiny");
    assert_int_equal(hf_arch(&m)->tied, 1);
    assert_int_equal(arch_kind(hf_arch(&m), 0)->att.head_dim, 32);
    assert_null(hf_weight(&m, SLOT_HEAD, 0, 0).data);
    hf_close(&m);
    m = open_ok("qwen3moe-f32");
    assert_int_equal(arch_kind(hf_arch(&m), 0)->att.o_bias, 1);
    assert_int_equal(arch_kind(hf_arch(&m), 0)->att.qkv_bias, 1);
    hf_close(&m);
}

/* The fused names hold what the per-expert names hold, and reading neurons in pieces, or down as
 * it is, gives what reading the whole expert gives. */
static void fused_equals_single(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"mixtral-tiny", "mixtral-fused"},
                                           {"qwen3moe-tiny", "qwen3moe-fused"}};
    for (size_t p = 0; p < TEST_COUNT(pairs); p++) {
        struct hf_model m[2] = {open_ok(pairs[p][0]), open_ok(pairs[p][1])};
        const struct arch *a = hf_arch(&m[0]);
        struct err err = {0};
        size_t n = (size_t)a->ffn_dim * a->dim;
        float *x = mem_calloc(3 * n, sizeof *x), *y = mem_calloc(3 * n, sizeof *y);
        for (uint32_t l = 0; l < a->n_layers; l++) {
            for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
                assert_int_equal(hf_expert(&m[0], l, e, x, x + n, x + 2 * n, &err), 0);
                assert_int_equal(hf_expert(&m[1], l, e, y, y + n, y + 2 * n, &err), 0);
                assert_memory_equal(x, y, 3 * n * sizeof *x);
                hf_expert_want(&m[1], l, e);
                hf_expert_done(&m[1], l, e);
                assert_int_equal(hf_tensor_rows(&m[1], SLOT_EXPERT_DOWN, l, e, 0, a->dim, y, &err),
                                 0);
                for (uint32_t d = 0; d < a->dim; d++) {
                    for (uint32_t j = 0; j < a->ffn_dim; j++) {
                        assert_true(y[(size_t)d * a->ffn_dim + j] ==
                                    x[2 * n + (size_t)j * a->dim + d]);
                    }
                }
                assert_int_equal(hf_expert_neurons(&m[0], l, e, 5, 17, y, y + n, y + 2 * n, &err),
                                 0);
                for (size_t k = 0; k < 3; k++) {
                    assert_memory_equal(y + k * n, x + k * n + 5 * a->dim, 17 * a->dim * sizeof *x);
                }
            }
        }
        free(x);
        free(y);
        hf_close(&m[0]);
        hf_close(&m[1]);
    }
}

/* ---- broken checkpoints ---- */

/* A copy of a tiny checkpoint whose header or data the test may change in place. Replacements
 * keep their length, so that nothing else moves. */
struct broken {
    char *dir;
    uint8_t *data;
    size_t bytes;
};

static void run_in(const char *dir, const char *commands) {
    char *line = mem_printf("cd '%s' && %s", dir, commands);
    assert_int_equal(system(line), 0);
    free(line);
}

static struct broken break_open(const char *name) {
    struct err err = {0};
    struct broken b = {.dir = test_mkdir()};
    char *command = mem_printf("cp " MODELS "%s/*.json '%s'", name, b.dir);
    assert_int_equal(system(command), 0);
    free(command);
    char *path = mem_printf(MODELS "%s/model.safetensors", name);
    assert_int_equal(file_read(path, 1 << 24, &b.data, &b.bytes, &err), 0);
    free(path);
    return b;
}

static char *find_text(struct broken *b, const char *text) {
    char *at = memmem(b->data, b->bytes, text, strlen(text));
    assert_non_null(at);
    return at;
}

static void break_text(struct broken *b, const char *from, const char *to) {
    assert_int_equal(strlen(from), strlen(to));
    memcpy(find_text(b, from), to, strlen(to));
}

/* Open what has been made; the caller frees `m` and looks at `err`. */
static int break_try(struct broken *b, struct hf_model *m, struct err *err) {
    free(test_write(b->dir, "model.safetensors", b->data, b->bytes));
    *err = (struct err){0};
    return hf_open(m, b->dir, err);
}

static void break_close(struct broken *b) {
    test_rmdir(b->dir);
    free(b->data);
}

static void refuses_tensors(void **state) {
    (void)state;
    static const struct {
        const char *model, *from, *to, *say[3];
    } bad[] = {
        {"olmoe-tiny",
         "model.layers.1.mlp.experts.3.up_proj.weight",
         "model.layers.1.mlp.experts.3.up_prxj.weight",
         {"tensor \"model.layers.1.mlp.experts.3.up_proj.weight\"",
          "or \"model.layers.1.mlp.experts.gate_up_proj\"", "is missing"}},
        {"olmoe-tiny",
         "model.layers.0.self_attn.q_norm.weight",
         "model.layers.9.self_attn.q_norm.weight",
         {"model.layers.0.self_attn.q_norm.weight", "is missing", ""}},
        {"mixtral-fused",
         "model.layers.2.mlp.experts.down_proj",
         "model.layers.2.mlp.experts.dawn_proj",
         {"\"model.layers.2.block_sparse_moe.experts.0.w2.weight\" or",
          "\"model.layers.2.mlp.experts.down_proj\"", "is missing"}},
        {"olmoe-tiny", "lm_head.weight", "lm_heed.weight", {"lm_head.weight", "is missing", ""}},
        /* what a name lets guess, and what failed */
        {"olmoe-tiny",
         "model.layers.0.self_attn.q_norm.weight",
         "model.layers.0.self_attn.q_norm.scales",
         {"\"model.layers.0.self_attn.q_norm.scales\": weights quantised by MLX",
          "what failed: ", "tensor \"model.layers.0.self_attn.q_norm.weight\" is missing"}},
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct broken b = break_open(bad[i].model);
        struct hf_model m;
        struct err err;
        break_text(&b, bad[i].from, bad[i].to);
        assert_int_equal(break_try(&b, &m, &err), -1);
        assert_err(&err, bad[i].say[0], bad[i].say[1], bad[i].say[2], b.dir);
        hf_close(&m);
        break_close(&b);
    }
}

static void refuses_left_over(void **state) {
    (void)state;
    struct broken b = break_open("qwen3moe-f16");
    struct hf_model m;
    struct err err;
    /* a config with fewer layers leaves tensors over */
    run_in(b.dir, "sed -i 's/\"num_hidden_layers\": 2/\"num_hidden_layers\": 1/' config.json");
    assert_int_equal(break_try(&b, &m, &err), -1);
    assert_err(&err, "tensor \"model.layers.1.", "has no place in a qwen3_moe model with 1 layers");
    hf_close(&m);
    break_close(&b);
}

static void refuses_shape_and_dtype(void **state) {
    (void)state;
    struct broken b = break_open("olmoe-tiny");
    struct hf_model m;
    struct err err;
    break_text(&b, "[288,64]", "[64,288]");
    assert_int_equal(break_try(&b, &m, &err), -1);
    assert_err(&err, "shape is [64, 288], the configuration implies [288, 64]", "tensor \"");
    hf_close(&m);
    break_close(&b);

    b = break_open("olmoe-tiny");
    char *entry = find_text(&b, "\"model.layers.1.mlp.experts.7.down_proj.weight\"");
    char *dtype = strstr(entry, "\"BF16\"");
    assert_non_null(dtype);
    memcpy(dtype, "\"I16\" ", 6);
    assert_int_equal(break_try(&b, &m, &err), -1);
    assert_err(&err, "tensor \"model.layers.1.mlp.experts.7.down_proj.weight\"",
               "dtype I16 is not supported", "BF16, F16, F32");
    hf_close(&m);
    memcpy(dtype, "\"BX16\"", 6);
    assert_int_equal(break_try(&b, &m, &err), -1);
    assert_err(&err, "tensor \"model.layers.1.mlp.experts.7.down_proj.weight\"",
               "unknown dtype \"BX16\"");
    hf_close(&m);
    break_close(&b);
}

/* A weight that is no number is found where it is read, in plain and transposed reading. */
static void finds_nan(void **state) {
    (void)state;
    struct broken b = break_open("olmoe-tiny");
    struct hf_model m;
    struct err err;
    assert_int_equal(break_try(&b, &m, &err), 0);
    const uint8_t *begin = hf_weight(&m, SLOT_EXPERT_DOWN, 1, 4).data;
    /* the map is the file as written: offsets there are offsets in our copy */
    const struct st_tensor *first = st_at(m.st, 0);
    for (size_t i = 0; i < st_count(m.st); i++) {
        first = st_at(m.st, i)->data < first->data ? st_at(m.st, i) : first;
    }
    uint64_t header;
    memcpy(&header, b.data, 8);
    size_t down = (size_t)(begin - first->data) + 8 + header;
    size_t gate = (size_t)(hf_weight(&m, SLOT_EXPERT_GATE, 2, 0).data - first->data) + 8 + header;
    hf_close(&m);
    const uint16_t nan = 0x7fc1, inf = 0xff80;
    memcpy(b.data + down + 2 * (40 * 32 + 9), &nan, 2);  /* [64, 32] */
    memcpy(b.data + gate + 2 * (31 * 64 + 63), &inf, 2); /* [32, 64] */
    assert_int_equal(break_try(&b, &m, &err), 0);
    float *x = mem_calloc(3 * 32 * 64, sizeof *x);
    assert_int_equal(hf_expert(&m, 1, 4, x, x + 2048, x + 4096, &err), -1);
    assert_err(&err, "tensor \"model.layers.1.mlp.experts.4.down_proj.weight\"",
               "weight [40, 9] is NaN");
    err = (struct err){0};
    assert_int_equal(hf_expert(&m, 2, 0, x, x + 2048, x + 4096, &err), -1);
    assert_err(&err, "tensor \"model.layers.2.mlp.experts.0.gate_proj.weight\"",
               "weight [31, 63] is infinite");
    err = (struct err){0};
    assert_int_equal(hf_expert(&m, 1, 5, x, x + 2048, x + 4096, &err), 0);
    free(x);
    hf_close(&m);
    break_close(&b);
}

/* Without the key and without the tensor the head is tied; with the key false that is an error. */
static void ties_what_has_no_head(void **state) {
    (void)state;
    struct broken b = break_open("qwen3moe-tiny");
    struct hf_model m;
    struct err err;
    run_in(b.dir, "sed -i 's/\"tie_word_embeddings\": true/\"use_cache\": true/;"
                  "0,/\"use_cache\"/s/\"use_cache\"/\"return_dict\"/' config.json");
    assert_int_equal(break_try(&b, &m, &err), 0);
    assert_int_equal(hf_arch(&m)->tied, 1);
    assert_non_null(strstr(m.warnings.data, "no lm_head.weight"));
    hf_close(&m);
    break_close(&b);

    b = break_open("qwen3moe-tiny");
    run_in(b.dir,
           "sed -i 's/\"tie_word_embeddings\": true/\"tie_word_embeddings\": false/' config.json");
    assert_int_equal(break_try(&b, &m, &err), -1);
    assert_err(&err, "tensor \"lm_head.weight\" is missing");
    hf_close(&m);
    break_close(&b);

    /* a tied model that stores a head of its own keeps it, as transformers does */
    b = break_open("olmoe-tiny");
    run_in(b.dir,
           "sed -i 's/\"tie_word_embeddings\": false/\"tie_word_embeddings\": true/' config.json");
    assert_int_equal(break_try(&b, &m, &err), 0);
    assert_int_equal(hf_arch(&m)->tied, 0);
    assert_non_null(strstr(m.warnings.data, "differs from the embedding"));
    assert_non_null(hf_weight(&m, SLOT_HEAD, 0, 0).data);
    hf_close(&m);
    break_close(&b);
}

/* ---- what several files say ---- */

/* A copy of mixtral-tiny, which has an index and two shards, and of one shard's copy of a tensor a
 * second one, of zeros, in a shard in a folder. */
#define NORM "model.norm.weight"
#define OVERLAY "overlay/new.safetensors"

static char *copy_sharded(void) {
    char *dir = test_mkdir();
    run_in(dir, "mkdir overlay && cd - >/dev/null && cp " MODELS "mixtral-tiny/*.json " MODELS
                "mixtral-tiny/model-* \"$OLDPWD\"");
    static const char header[] = "{\"" NORM "\":{\"dtype\":\"BF16\",\"shape\":[64],"
                                 "\"data_offsets\":[0,128]},\"left_over\":{\"dtype\":\"F8_E4M3\","
                                 "\"shape\":[4],\"data_offsets\":[128,132]}}";
    struct buf file = {0};
    uint64_t n = sizeof header - 1;
    char zeros[132] = {0};
    buf_append(&file, &n, sizeof n);
    buf_append(&file, header, n);
    buf_append(&file, zeros, sizeof zeros);
    free(test_write(dir, OVERLAY, file.data, file.len));
    buf_free(&file);
    return dir;
}

/* Put `to` in place of `from` in a file of the directory. */
static void replace(const char *dir, const char *name, const char *from, const char *to) {
    struct err err = {0};
    struct buf out = {0};
    uint8_t *text;
    size_t bytes;
    char *path = mem_printf("%s/%s", dir, name);
    file_read(path, 1 << 20, &text, &bytes, &err);
    assert_no_err(&err);
    char *at = strstr((char *)text, from);
    assert_non_null(at);
    buf_append(&out, text, (size_t)(at - (char *)text));
    buf_append(&out, to, strlen(to));
    buf_append(&out, at + strlen(from), strlen(at + strlen(from)));
    free(test_write(dir, name, out.data, out.len));
    buf_free(&out);
    free(text);
    free(path);
}

#define INDEX "model.safetensors.index.json"
#define FIRST "model-00001-of-00002.safetensors"
#define SECOND "model-00002-of-00002.safetensors"
#define LISTED(tensor, shard) "\"" tensor "\": \"" shard "\""

static void index_decides(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *remove; /* in the index; a file */
        const char *say[2];             /* remark or error */
        int rc;
        bool zeros; /* the norm is the overlay's */
    } rows[] = {
        {LISTED(NORM, SECOND),
         LISTED(NORM, OVERLAY),
         NULL,
         {"1 tensors that the index does not list are skipped, the first is \"left_over\"",
          "\"" NORM "\" is read from"},
         0,
         true},
        {LISTED(NORM, SECOND),
         LISTED("x.rotary_emb.inv_freq", OVERLAY) ", " LISTED(NORM, SECOND),
         NULL,
         {"\"left_over\" of", NORM},
         0,
         false},
        /* nobody misses a buffer, nor its shard */
        {LISTED(NORM, SECOND),
         LISTED("x.rotary_emb.inv_freq", FIRST) ", " LISTED(NORM, SECOND),
         NULL,
         {NULL},
         0,
         false},
        {LISTED(NORM, SECOND),
         LISTED("x.rotary_emb.inv_freq", OVERLAY) ", " LISTED(NORM, SECOND),
         OVERLAY,
         {NULL},
         0,
         false},
        {LISTED(NORM, SECOND),
         LISTED(NORM, OVERLAY),
         OVERLAY,
         {OVERLAY ": the shard is missing", NORM},
         -1,
         false},
        {LISTED(NORM, SECOND),
         LISTED(NORM, FIRST),
         NULL,
         {FIRST ": has no tensor \"" NORM "\"", "it is in"},
         -1,
         false},
        {LISTED(NORM, SECOND),
         LISTED("x.weight", SECOND) ", " LISTED(NORM, SECOND),
         NULL,
         {SECOND ": has no tensor \"x.weight\", which the index says", ""},
         -1,
         false},
        {LISTED(NORM, SECOND),
         LISTED("x.rotary_emb.inv_freq", SECOND),
         NULL,
         {"tensor \"" NORM "\" is missing: ", SECOND " has it, but the index does not list it"},
         -1,
         false},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *dir = copy_sharded();
        struct hf_model m;
        struct err err = {0};
        replace(dir, INDEX, rows[i].from, rows[i].to);
        if (rows[i].remove) {
            char *path = mem_printf("%s/%s", dir, rows[i].remove);
            assert_int_equal(unlink(path), 0);
            free(path);
        }
        assert_int_equal(hf_open(&m, dir, &err), rows[i].rc);
        if (rows[i].rc) {
            assert_err(&err, rows[i].say[0], rows[i].say[1]);
        } else if (rows[i].say[0]) {
            assert_non_null(strstr(m.warnings.data, rows[i].say[0]));
            assert_non_null(strstr(m.warnings.data, rows[i].say[1]));
        } else {
            assert_int_equal(m.warnings.len, 0);
        }
        if (rows[i].rc == 0) {
            float norm[64];
            assert_int_equal(hf_tensor_rows(&m, SLOT_OUT_NORM, 0, 0, 0, 1, norm, &err), 0);
            assert_int_equal(norm[3] == 0 && norm[63] == 0, rows[i].zeros);
        }
        hf_close(&m);
        test_rmdir(dir);
    }
}

/* The tokenizer's end token (0 here) ends texts, whatever the configurations say. */
static void stops_of_the_tokenizer(void **state) {
    (void)state;
    static const struct {
        const char *config, *generation, *tokenizer; /* what stands there for eos */
        uint32_t stops[3];
        int n;
        const char *told;
    } rows[] = {
        {"\"eos_token_id\": 0",
         "\"eos_token_id\": 0",
         "\"eos_token\": \"<|endoftext|>\"",
         {0},
         1,
         NULL},
        {"\"x\": null",
         "\"x\": 0",
         "\"eos_token\": \"<|endoftext|>\"",
         {0},
         1,
         "no eos_token_id: texts end with the tokenizer's end token, 0, '<|endoftext|>'"},
        {"\"eos_token_id\": null",
         "\"x\": 0",
         "\"eos_token\": \"<|endoftext|>\"",
         {0},
         1,
         "no eos_token_id"},
        {"\"eos_token_id\": 0",
         "\"eos_token_id\": [5, 6]",
         "\"eos_token\": \"<|endoftext|>\"",
         {5, 6, 0},
         3,
         "too, which eos_token_id does not name: 0, '<|endoftext|>'"},
        {"\"eos_token_id\": 5",
         "\"x\": 0",
         "\"eos_token\": {\"content\": \"<|user|>\"}",
         {5, 1},
         2,
         "too, which eos_token_id does not name: 1, '<|user|>'"},
        {"\"eos_token_id\": 5", "\"x\": 0", "\"eos_token\": null", {5}, 1, NULL},
        {"\"x\": null", "\"x\": 0", "\"eos_token\": null", {2}, 1, NULL}, /* the family's */
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *dir = copy_sharded();
        struct hf_model m;
        struct err err = {0};
        replace(dir, "config.json", "\"eos_token_id\": 0", rows[i].config);
        char *generation = mem_printf("{%s}", rows[i].generation);
        char *tokenizer = mem_printf("{%s}", rows[i].tokenizer);
        free(test_write(dir, "generation_config.json", generation, strlen(generation)));
        free(test_write(dir, "tokenizer_config.json", tokenizer, strlen(tokenizer)));
        hf_open(&m, dir, &err);
        assert_no_err(&err);
        assert_int_equal(hf_arch(&m)->n_stop, rows[i].n);
        assert_memory_equal(hf_arch(&m)->stop_ids, rows[i].stops,
                            (size_t)rows[i].n * sizeof rows[i].stops[0]);
        assert_true(rows[i].told ? strstr(m.warnings.data, rows[i].told) != NULL
                                 : m.warnings.len == 0);
        hf_close(&m);
        free(generation);
        free(tokenizer);
        test_rmdir(dir);
    }
}

/* Remarks name the file; of templates in a folder, which are kept, there is none. */
static void remarks(void **state) {
    (void)state;
    char *dir = copy_sharded();
    struct hf_model m;
    struct err err = {0};
    run_in(dir, "mkdir additional_chat_templates && cd additional_chat_templates && "
                "touch tool_use.jinja b.txt rag.jinja zebra.jinja a.jinja .jinja");
    replace(dir, "generation_config.json", "{", "{\"top_p\": 7, ");
    replace(dir, "tokenizer_config.json", "{", "{\"pad_token\": \"[PAD]\", ");
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    char *want =
        mem_printf("%s/generation_config.json: top_p: 7 is not a number of 0 to 1: left out\n"
                   "%s/tokenizer_config.json: pad_token: '[PAD]' is in no vocabulary: it gets "
                   "the next free id, 280\n",
                   dir, dir);
    assert_string_equal(m.warnings.data, want);
    free(want);
    hf_close(&m);
    /* A folder that cannot be listed is no folder without templates. */
    run_in(dir, "rm -r additional_chat_templates && "
                "ln -s additional_chat_templates additional_chat_templates");
    assert_int_equal(hf_open(&m, dir, &err), -1);
    assert_err(&err, dir, "/additional_chat_templates: cannot be listed");
    hf_close(&m);
    test_rmdir(dir);
}

static void refuses_directories(void **state) {
    (void)state;
    struct hf_model m;
    struct err err = {0};
    char *dir = test_mkdir();
    assert_int_equal(hf_open(&m, dir, &err), -1);
    assert_err(&err, "no config.json", dir);
    hf_close(&m);
    free(test_write(dir, "config.json", "{\"model_type\":\"mixtral\"}", 24));
    err = (struct err){0};
    assert_int_equal(hf_open(&m, dir, &err), -1);
    assert_err(&err, "neither model.safetensors nor", dir);
    hf_close(&m);
    test_rmdir(dir);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_golden),
        cmocka_unit_test(flags_of_golden),
        cmocka_unit_test(fused_equals_single),
        cmocka_unit_test(refuses_tensors),
        cmocka_unit_test(refuses_left_over),
        cmocka_unit_test(refuses_shape_and_dtype),
        cmocka_unit_test(finds_nan),
        cmocka_unit_test(ties_what_has_no_head),
        cmocka_unit_test(index_decides),
        cmocka_unit_test(stops_of_the_tokenizer),
        cmocka_unit_test(remarks),
        cmocka_unit_test(refuses_directories),
    };
    return cmocka_run_group_tests_name("hf", tests, NULL, NULL);
}
