/*
 * docs/FORMAT.md says what the code does: a reader written from it in Python finds the same
 * contents in an archive as corm_read, and its worked example shows the bytes of the committed
 * archive.
 */
#include "tests/util/test.h"

#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

static const char reader[] = "python3 tests/golden/read_corm.py";

/* ---- what corm_read finds, in the reader's words ---- */

static void print_values(struct buf *out, const char *key, const void *values, size_t bytes) {
    buf_printf(out, "metadata %s %016llx\n", key, (unsigned long long)hash64(values, bytes));
}

/* In the order of the alphabet, as the reader prints them. */
static void print_metadata(struct buf *out, const struct arch *a) {
#define SCALAR(name) print_values(out, #name, &a->name, sizeof a->name)
#define ARRAY(name, n) print_values(out, #name, a->name, (n) * sizeof *a->name)
    SCALAR(ctx_limit_tok);
    SCALAR(ctx_max_tok);
    SCALAR(dim);
    SCALAR(embed_scale);
    ARRAY(family, strlen(a->family));
    SCALAR(ffn_dim);
    SCALAR(gen_repeat_penalty);
    SCALAR(gen_temperature);
    SCALAR(gen_top_k);
    SCALAR(gen_top_p);
    SCALAR(head_bias);
    ARRAY(kv_layer, a->n_kv_layer);
    SCALAR(logit_cap);
    SCALAR(logit_scale);
    SCALAR(n_active);
    SCALAR(n_experts);
    SCALAR(n_layers);
    SCALAR(norm);
    SCALAR(norm_eps);
    ARRAY(rope_dim, a->n_ropes);
    ARRAY(rope_inv_freq, a->n_inv_freq);
    ARRAY(rope_long_inv_freq, a->n_long_inv_freq);
    ARRAY(rope_long_scale, a->n_rope_long);
    ARRAY(rope_long_tok, a->n_rope_long);
    ARRAY(rope_scale, a->n_ropes);
    ARRAY(stop_ids, a->n_stop);
    SCALAR(tied);
    SCALAR(vocab);
#undef SCALAR
#undef ARRAY
}

/* A layer's numbers, in the order of the alphabet. */
static void print_layer(struct buf *out, const struct arch *a, uint32_t layer) {
    const struct layer_kind *k = arch_kind(a, layer);
    const struct {
        const char *key;
        double value;
    } rows[] = {
        {"attn_gate", k->att.gate},
        {"attn_scale", (double)k->att.scale},
        {"attn_temper", (double)k->att.temper},
        {"attn_temper_tok", (double)k->att.temper_tok},
        {"branch_scale", (double)k->block.branch_scale},
        {"chunk", k->att.chunk},
        {"clip_qkv", (double)k->att.clip_qkv},
        {"delta_conv", k->delta.conv},
        {"delta_k_dim", k->delta.k_dim},
        {"delta_k_heads", k->delta.n_k_heads},
        {"delta_v_dim", k->delta.v_dim},
        {"delta_v_heads", k->delta.n_v_heads},
        {"dense_beside", k->block.dense_beside},
        {"dense_dim", k->dense_dim},
        {"ffn_act", k->ffn.act},
        {"ffn_alpha", (double)k->ffn.alpha},
        {"ffn_bias", k->ffn.bias},
        {"ffn_limit", (double)k->ffn.limit},
        {"head_dim", k->att.head_dim},
        {"latent_eps", (double)k->latent.norm_eps},
        {"latent_heads", k->latent.n_heads},
        {"latent_nope_dim", k->latent.nope_dim},
        {"latent_q_rank", k->latent.q_rank},
        {"latent_query_beta", (double)k->latent.query_beta},
        {"latent_query_tok", k->latent.query_tok},
        {"latent_rank", k->latent.rank},
        {"latent_rope", k->latent.rope},
        {"latent_rope_dim", k->latent.rope_dim},
        {"latent_scale", (double)k->latent.scale},
        {"latent_v_dim", k->latent.v_dim},
        {"layer_scale", k->block.layer_scale},
        {"mixer", k->mixer},
        {"moe", k->moe},
        {"n_heads", k->att.n_heads},
        {"n_kv_heads", k->att.n_kv_heads},
        {"norm_topk", k->route.renorm},
        {"o_bias", k->att.o_bias},
        {"parallel", k->block.parallel},
        {"post_norm", k->block.post_norm},
        {"qk_norm", k->att.qk_norm},
        {"qk_norm_late", k->att.qk_norm_late},
        {"qkv_bias", k->att.qkv_bias},
        {"rope", k->att.rope},
        {"route_by_logits", k->route.by_logits},
        {"route_eps", (double)k->route.eps},
        {"route_factor", k->route.factor},
        {"route_group_score", k->route.group_score},
        {"route_groups", k->route.groups},
        {"route_input", k->route.input},
        {"route_logit_bias", k->route.logit_bias},
        {"route_logit_cap", (double)k->route.logit_cap},
        {"route_on_input", k->route.on_input},
        {"route_scale", (double)k->route.scale},
        {"route_score", k->route.score},
        {"route_selection_bias", k->route.selection_bias},
        {"route_top_groups", k->route.top_groups},
        {"shared_dim", k->shared_dim},
        {"shared_gate", k->shared_gate},
        {"shared_limit", (double)k->shared_limit},
        {"shared_scale", (double)k->shared_scale},
        {"sinks", k->att.sinks},
        {"v_from_k", k->att.v_from_k},
        {"v_head_dim", k->att.v_dim},
        {"v_norm", k->att.v_norm},
        {"v_scale", (double)k->att.v_scale},
        {"window", k->att.window},
    };
    buf_printf(out, "layer %u", layer);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        buf_printf(out, " %s=%.9g", rows[i].key, rows[i].value);
    }
    buf_printf(out, "\n");
}

static void decode_rows(const struct codec *codec, const uint8_t *data, uint32_t rows,
                        uint32_t cols, float *x) {
    for (uint32_t r = 0; r < rows; r++) {
        codec->decode_row(data + r * codec_row_bytes(codec, cols), cols, x + (size_t)r * cols);
    }
}

static uint64_t hash_weights(const struct codec *codec, const uint8_t *data, uint32_t rows,
                             uint32_t cols) {
    float *x = mem_alloc((size_t)rows * cols * sizeof *x);
    decode_rows(codec, data, rows, cols, x);
    uint64_t h = hash64(x, (size_t)rows * cols * sizeof *x);
    free(x);
    return h;
}

static void print_trunk(struct buf *out, const struct corm *c) {
    struct slot_place p = {0};
    while (slot_next(&c->arch, &p)) {
        struct weight w = corm_tensor_get(c, p.slot, p.layer);
        char layer[16] = "-";
        if (p.layer != SLOT_LAYER_NONE) {
            snprintf(layer, sizeof layer, "%u", p.layer);
        }
        buf_printf(out, "tensor %s %s %s %u %u %016llx\n", layer, slot_at(p.slot)->name,
                   w.codec->name, w.rows, w.cols,
                   (unsigned long long)hash_weights(w.codec, w.data, w.rows, w.cols));
    }
}

enum { ENCODINGS = 4 };

/* Counts its chunks in `seen`, by encoding. */
static void print_record(struct buf *out, const struct corm *c, struct corm_decoder *d,
                         uint32_t layer, uint32_t expert, uint32_t seen[ENCODINGS]) {
    const struct corm_record *r = corm_record_of(c, layer, expert);
    uint8_t *raw = mem_alloc_aligned(c->arch.ffn_dim * c->neuron_bytes);
    const uint32_t dim = c->arch.dim;
    float *x = mem_alloc((size_t)3 * c->arch.ffn_dim * dim * sizeof *x), *to = x;
    size_t at = 0;
    struct buf names = {0};
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[r->first_chunk + i];
        const struct codec *codec = corm_chunk_codec(c, k);
        struct err err = {0};
        corm_chunk_decode(d, c, k, c->map.data + k->offset, raw + at, &err);
        assert_no_err(&err);
        decode_rows(codec, raw + at, 3 * k->n_neurons, dim, to);
        to += (size_t)3 * k->n_neurons * dim;
        at += corm_chunk_raw_bytes(c, k);
        buf_printf(&names, "%s%s", i ? "+" : "", codec->name);
        seen[k->encoding]++;
    }
    uint64_t weights = hash64(x, (size_t)3 * c->arch.ffn_dim * dim * sizeof *x);
    buf_printf(out, "record %u %u %s hot %u of %u %016llx %016llx\n", layer, expert,
               c->mixed ? names.data : c->expert_codec->name, r->n_hot, r->n_chunks,
               (unsigned long long)hash64(raw, at), (unsigned long long)weights);
    buf_free(&names);
    free(x);
    free(raw);
}

static void print_section(struct buf *out, const char *name, struct corm_bytes b) {
    if (b.data) {
        buf_printf(out, "section %s %zu %016llx\n", name, b.size_bytes,
                   (unsigned long long)hash64(b.data, b.size_bytes));
    }
}

static void print_archive(struct buf *out, const char *path, uint32_t seen[ENCODINGS]) {
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    print_metadata(out, &c.arch);
    for (uint32_t l = 0; l < c.arch.n_layers; l++) {
        print_layer(out, &c.arch, l);
    }
    print_trunk(out, &c);
    struct corm_decoder *d = corm_decoder_new(&c);
    for (uint32_t l = 0; l < c.arch.n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(&c.arch, l) && e < c.arch.n_experts; e++) {
            print_record(out, &c, d, l, e, seen);
        }
    }
    corm_decoder_free(d);
    print_section(out, "tokenizer", c.tokenizer);
    print_section(out, "provenance", c.provenance);
    print_section(out, "license", c.license);
    print_section(out, "predictors", c.predictors);
    print_section(out, "conversations", c.conversations);
    corm_close(&c);
}

/* ---- what the reader finds ---- */

/* Its output; the exit status in `status`. */
static struct buf run_reader(const char *path, int *status) {
    char *command = mem_printf("%s '%s' 2>&1", reader, path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    struct buf out = {0};
    char line[4096];
    for (size_t n; (n = fread(line, 1, sizeof line, f)) > 0;) {
        buf_append(&out, line, n);
    }
    *status = pclose(f);
    free(command);
    return out;
}

static void compare(const char *path, uint32_t seen[ENCODINGS]) {
    int status;
    struct buf got = run_reader(path, &status), want = {0};
    print_archive(&want, path, seen);
    if (status != 0 || got.len != want.len || memcmp(got.data, want.data, want.len) != 0) {
        print_error("%s: the reader says\n%s\ncorm_read says\n%s\n", path, got.data ? got.data : "",
                    want.data);
        fail();
    }
    buf_free(&got);
    buf_free(&want);
}

static void test_same_contents(void **state) {
    (void)state;
    size_t codecs = 0;
    while (codec_at(codecs)) {
        codecs++;
    }
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    uint32_t seen[ENCODINGS] = {0}, golden[ENCODINGS] = {0};
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct arch a;
        archive_arch(&a, seed);
        struct archive_options o = {
            .trunk = codec_at((seed + 3) % codecs),
            .expert = codec_at(seed % codecs),
            .chunk_neurons = 3,
            .hot_neurons = 6,
            .compress = CORM_COMPRESS_AUTO,
            .compress_hot = seed % 2,
            .blobs = seed % 4 != 1,
            .raw_above_ratio = 1.0f,
        };
        if (seed % 2) { /* chunks behind the hot prefix in a codec of shorter rows */
            o.cold = codec_at(seed % codecs + seed % 3 < codecs ? seed % codecs + seed % 3 : 4);
            o.hot_neurons = 3;
        }
        struct err err = {0};
        archive_write(path, &a, &o, NULL, &err);
        assert_no_err(&err);
        compare(path, seen);
        arch_free(&a);
    }
    for (int encoding = 0; encoding < ENCODINGS; encoding++) {
        print_message("%s: %u chunks\n", corm_encoding_name((uint32_t)encoding), seen[encoding]);
        assert_true(seen[encoding] > 0);
    }
    compare("tests/golden/tiny-v1.corm", golden);
    assert_int_equal(golden[CORM_ENCODING_EXPONENTS], 0);
    compare("tests/golden/tiny-v1-exponents.corm", golden);
    assert_int_equal(golden[CORM_ENCODING_EXPONENTS], 2);
    free(path);
    test_rmdir(dir);
}

/* The reader is no yes-man: it notices a flipped bit in every kind of place. */
static void test_reader_notices(void **state) {
    (void)state;
    struct err err = {0};
    uint8_t *data;
    size_t bytes;
    file_read("tests/golden/tiny-v1.corm", 1 << 20, &data, &bytes, &err);
    assert_no_err(&err);
    char *dir = test_mkdir();
    static const size_t places[] = {20,     200,    0x1000, 0x2003, 0x20f0, 0x3001,
                                    0x4fff, 0x5010, 0x6024, 0x7001, 0xa005};
    for (size_t i = 0; i < TEST_COUNT(places); i++) {
        data[places[i]] ^= 4;
        char *path = test_write(dir, "bad.corm", data, bytes);
        int status;
        struct buf out = run_reader(path, &status);
        if (status == 0 || !out.data || !strstr(out.data, "read_corm.py: ")) {
            print_error("a flipped bit at %zu was not noticed\n", places[i]);
            fail();
        }
        buf_free(&out);
        free(path);
        data[places[i]] ^= 4;
    }
    free(data);
    test_rmdir(dir);
}

/* ---- the worked example ---- */

static void test_hexdump(void **state) {
    (void)state;
    struct err err = {0};
    uint8_t *data, *text;
    size_t bytes, text_bytes;
    file_read("tests/golden/tiny-v1.corm", 1 << 20, &data, &bytes, &err);
    file_read("docs/FORMAT.md", 1 << 20, &text, &text_bytes, &err);
    assert_no_err(&err);
    int lines = 0;
    for (char *line = strtok((char *)text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned offset, pair[8];
        if (sscanf(line, "%8x: %4x %4x %4x %4x %4x %4x %4x %4x", &offset, &pair[0], &pair[1],
                   &pair[2], &pair[3], &pair[4], &pair[5], &pair[6], &pair[7]) != 9) {
            continue;
        }
        lines++;
        for (size_t i = 0; i < 8; i++) {
            assert_true(offset + 2 * i + 1 < bytes);
            assert_int_equal(pair[i], data[offset + 2 * i] << 8 | data[offset + 2 * i + 1]);
        }
    }
    assert_true(lines > 40);
    free(data);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_contents),
        cmocka_unit_test(test_reader_notices),
        cmocka_unit_test(test_hexdump),
    };
    return cmocka_run_group_tests_name("second_reader", tests, NULL, NULL);
}
