#include "prep/gguf/gguf_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/arch.h"
#include "format/number.h"
#include "prep/hf/hf_config.h"

enum { KEY_BYTES = 320 };

/* ---- values ---- */

double gguf_shortest(float x) {
    char text[NUMBER_TEXT];
    number_shortest_f32(text, x);
    return number_parse(text, NULL);
}

void gguf_set_integer(struct gguf_reading *r, const char *name, int64_t value) {
    json_object_set_new(r->config, name, json_integer(value));
}

void gguf_set_real(struct gguf_reading *r, const char *name, double value) {
    json_object_set_new(r->config, name, json_real(value));
}

void gguf_set_flag(struct gguf_reading *r, const char *name, bool value) {
    json_object_set_new(r->config, name, json_boolean(value));
}

/* Item i of a value as JSON: integers stay integers. NULL where it is no finite number. */
static json_t *number_json(const struct gguf_value *v, uint64_t i) {
    int64_t integer;
    double real;
    if (gguf_integer(v, i, &integer)) {
        return json_integer(integer);
    }
    if (!gguf_real(v, i, &real) || !isfinite(real)) {
        return NULL;
    }
    return json_real(v->type == GGUF_F32 ? gguf_shortest((float)real) : real);
}

static const struct gguf_value *find(const struct gguf_reading *r, const char *key,
                                     char full[KEY_BYTES]) {
    snprintf(full, KEY_BYTES, "%s.%s", r->family->arch, key);
    return gguf_find(r->g, full);
}

static int refuse(const struct gguf_reading *r, const char *key, const char *expected,
                  struct err *err) {
    return err_set(err, "%s: %s: expected %s", r->g->path, key, expected);
}

/* The number of a key, or the one that a list repeats; NULL where there is none. */
static int number_of(const struct gguf_reading *r, const char *key, json_t **out, struct err *err) {
    char full[KEY_BYTES];
    const struct gguf_value *v = find(r, key, full);
    *out = NULL;
    if (v && v->n > ARCH_MAX_LAYERS) {
        return refuse(r, full, "at most a number for each layer", err);
    }
    *out = v ? number_json(v, 0) : NULL;
    bool same = true;
    for (uint64_t i = 1; v && *out && i < v->n && same; i++) {
        json_t *other = number_json(v, i);
        same = other && json_equal(*out, other);
        json_decref(other);
    }
    if (v && (!*out || !same)) {
        json_decref(*out);
        *out = NULL;
        return refuse(r, full,
                      v->list ? "numbers that are the same in all layers" : "a finite number", err);
    }
    return 0;
}

int gguf_number(const struct gguf_reading *r, const char *key, double fallback, double *out,
                struct err *err) {
    json_t *v;
    if (number_of(r, key, &v, err) < 0) {
        return -1;
    }
    *out = v ? json_number_value(v) : fallback;
    json_decref(v);
    return 0;
}

int gguf_whole(const struct gguf_reading *r, const char *key, int64_t fallback, int64_t *out,
               struct err *err) {
    char full[KEY_BYTES];
    double value;
    if (gguf_number(r, key, (double)fallback, &value, err) < 0) {
        return -1;
    }
    if (value < 0 || value > INT32_MAX || value != floor(value)) {
        snprintf(full, sizeof full, "%s.%s", r->family->arch, key);
        return refuse(r, full, "a whole number of 0 .. 2147483647", err);
    }
    *out = (int64_t)value;
    return 0;
}

bool gguf_has(const struct gguf_reading *r, uint32_t layer, const char *name) {
    char full[KEY_BYTES];
    snprintf(full, sizeof full, "blk.%" PRIu32 ".%s", layer, name);
    return st_find(r->g->st, full) != NULL;
}

/* ---- rows of keys ---- */

static int read_key(struct gguf_reading *r, const struct gguf_key *k, struct err *err) {
    char full[KEY_BYTES], text[96];
    json_t *v = NULL;
    if (k->how == GGUF_LEAVE) {
        return 0;
    }
    snprintf(full, sizeof full, "%s.%s", r->family->arch, k->key);
    if (number_of(r, k->key, &v, err) < 0) {
        return -1;
    }
    int rc = 0;
    if (!v) {
        rc = k->how == GGUF_NEED ? err_set(err, "%s: key \"%s\" is missing", r->g->path, full) : 0;
    } else if (k->how == GGUF_SAME && json_number_value(v) != k->value) {
        number_print(text, sizeof text, "%g, which is all that is computed here, not %g", k->value,
                     json_number_value(v));
        rc = refuse(r, full, text, err);
    } else if (k->how == GGUF_TAKE_FLAG && json_number_value(v) != 0 && json_number_value(v) != 1) {
        rc = refuse(r, full, "true or false", err);
    } else if (k->how == GGUF_TAKE_FLAG) {
        gguf_set_flag(r, k->name, json_number_value(v) != 0);
    } else if (k->how != GGUF_SAME) {
        json_object_set(r->config, k->name, v);
    }
    json_decref(v);
    return rc;
}

static int read_keys(struct gguf_reading *r, const struct gguf_key *keys, struct err *err) {
    for (const struct gguf_key *k = keys; k && k->key; k++) {
        if (read_key(r, k, err) < 0) {
            return -1;
        }
    }
    return 0;
}

static bool is_row(const struct gguf_key *keys, const char *key) {
    while (keys && keys->key && strcmp(keys->key, key) != 0) {
        keys++;
    }
    return keys && keys->key;
}

/* Every key of the architecture has a row: what llama.cpp computes by another is not known here. */
static int check_keys(const struct gguf_reading *r, struct err *err) {
    const size_t n = strlen(r->family->arch);
    for (size_t i = 0; i < r->g->n_values; i++) {
        const char *key = r->g->values[i].key;
        if (strncmp(key, r->family->arch, n) == 0 && key[n] == '.' &&
            !is_row(gguf_keys, key + n + 1) && !is_row(r->family->keys, key + n + 1)) {
            return err_set(err, "%s: key \"%s\" is not known for this architecture", r->g->path,
                           key);
        }
    }
    return 0;
}

/* ---- what tensors say ---- */

static const struct st_tensor *matrix_named(const struct gguf *g, const char *name) {
    const struct st_tensor *t = st_find(g->st, name);
    return t && t->n_dims == 2 ? t : NULL;
}

/* The vocabulary is as large as the embedding; layers without experts are listed. */
static int read_tensors(struct gguf_reading *r, struct err *err) {
    const struct st_tensor *embed = matrix_named(r->g, "token_embd.weight");
    double vocab, layers, dense_first;
    if (!embed) {
        return err_set(err, "%s: tensor \"token_embd.weight\" is missing, or no matrix",
                       r->g->path);
    }
    if (gguf_number(r, "vocab_size", (double)embed->shape[0], &vocab, err) < 0 ||
        gguf_number(r, "block_count", 0, &layers, err) < 0 ||
        gguf_number(r, "leading_dense_block_count", 0, &dense_first, err) < 0) {
        return -1;
    }
    if (vocab != (double)embed->shape[0]) {
        return err_set(err, "%s: vocab_size is %g, but token_embd.weight has %" PRIu64 " rows",
                       r->g->path, vocab, embed->shape[0]);
    }
    gguf_set_integer(r, "vocab_size", (int64_t)embed->shape[0]);
    gguf_set_flag(r, "tie_word_embeddings", !st_find(r->g->st, "output.weight"));
    json_t *dense = json_array();
    for (uint32_t l = 0; l < layers && l < ARCH_MAX_LAYERS; l++) {
        if (gguf_has(r, l, "ffn_gate.weight") && !gguf_has(r, l, "ffn_gate_inp.weight")) {
            json_array_append_new(dense, json_integer(l));
        }
    }
    if (json_array_size(dense) > 0 &&
        is_row(r->family->keys, "leading_dense_block_count") == false) {
        json_object_set(r->config, "mlp_only_layers", dense);
    }
    json_decref(dense);
    return 0;
}

/* ---- RoPE ---- */

static bool is_text(const struct gguf_text *t, const char *word) {
    return t->bytes == strlen(word) && memcmp(t->data, word, t->bytes) == 0;
}

/* Numbers of an object of RoPE, behind "rope.scaling.". */
static const struct gguf_key rope_keys[] = {
    {"rope.scaling.factor", "factor", GGUF_NEED, 0},
    {"rope.scaling.original_context_length", "original_max_position_embeddings", GGUF_TAKE, 0},
    {"rope.scaling.yarn_beta_fast", "beta_fast", GGUF_TAKE, 0},
    {"rope.scaling.yarn_beta_slow", "beta_slow", GGUF_TAKE, 0},
    {.key = NULL},
};

/* The factor on cos and sin: what llama.cpp multiplies YaRN's own by; and what DeepSeek's is made
 * of, of which it has a tenth. */
static int read_rope_scale(struct gguf_reading *r, json_t *rope, struct err *err) {
    double more, tenth;
    if (gguf_number(r, "rope.scaling.attn_factor", 1, &more, err) < 0 ||
        gguf_number(r, "rope.scaling.yarn_attn_factor", more, &more, err) < 0 ||
        gguf_number(r, "rope.scaling.yarn_log_multiplier", 0, &tenth, err) < 0) {
        return -1;
    }
    if (more != 1) {
        return err_set(err, "%s: %s.rope.scaling.attn_factor is %g, expected 1", r->g->path,
                       r->family->arch, more);
    }
    if (tenth != 0) {
        double all = gguf_shortest((float)(10 * tenth));
        json_object_set_new(rope, "mscale", json_real(all));
        json_object_set_new(rope, "mscale_all_dim", json_real(all));
    }
    return 0;
}

/* A factor without a type is that of "linear", as llama.cpp has it; "linear" without one turns as
 * none. */
static int read_rope_type(struct gguf_reading *r, struct gguf_text *type, struct err *err) {
    static const struct gguf_text none = {"none", 4}, linear = {"linear", 6};
    char full[KEY_BYTES];
    const bool scaled = find(r, "rope.scaling.factor", full) != NULL;
    const struct gguf_value *v = find(r, "rope.scaling.type", full);
    *type = linear;
    if (v && !gguf_string(v, type)) {
        return refuse(r, full, "a text", err);
    }
    if (is_text(type, "linear") && !scaled) {
        *type = none;
    }
    return 0;
}

/* Keys that only a type of scaling reads, which is none of this file's: `neutral` changes nothing,
 * NaN is no number's equal. */
static int refuse_unread(const struct gguf_reading *r, const struct gguf_text *type,
                         struct err *err) {
    static const struct {
        const char *key;
        double neutral;
        bool linear; /* which "linear" reads too */
    } rows[] = {
        {"rope.scaling.factor", 1, true},
        {"rope.scaling.attn_factor", 1, false},
        {"rope.scaling.yarn_attn_factor", 1, false},
        {"rope.scaling.yarn_log_multiplier", 0, false},
        {"rope.scaling.yarn_beta_fast", NAN, false},
        {"rope.scaling.yarn_beta_slow", NAN, false},
        {"rope.scaling.original_context_length", NAN, false},
    };
    const bool linear = is_text(type, "linear");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char full[KEY_BYTES];
        double value;
        if (!find(r, rows[i].key, full) || (linear && rows[i].linear)) {
            continue;
        }
        if (gguf_number(r, rows[i].key, 0, &value, err) < 0) {
            return -1;
        }
        if (value != rows[i].neutral) {
            return err_set(err, "%s: %s: is not read where rope.scaling.type is %s", r->g->path,
                           full, linear ? "linear" : "none");
        }
    }
    return 0;
}

static int read_rope(struct gguf_reading *r, struct err *err) {
    struct gguf_text type;
    double theta, turned, width, dim, heads;
    if (read_rope_type(r, &type, err) < 0 ||
        gguf_number(r, "rope.freq_base", 10000, &theta, err) < 0 ||
        gguf_number(r, "embedding_length", 0, &dim, err) < 0 ||
        gguf_number(r, "attention.head_count", 1, &heads, err) < 0 ||
        gguf_number(r, "attention.key_length", heads > 0 ? dim / heads : 0, &width, err) < 0 ||
        gguf_number(r, "rope.dimension_count", width, &turned, err) < 0) {
        return -1;
    }
    struct gguf_reading inner = {.g = r->g, .family = r->family, .config = json_object()};
    json_t *rope = inner.config;
    int rc = 0;
    if (is_text(&type, "linear")) {
        json_object_set_new(rope, "rope_type", json_string("linear"));
        rc = read_key(&inner, &rope_keys[0], err) < 0 ? -1 : refuse_unread(r, &type, err);
    } else if (is_text(&type, "yarn")) {
        json_object_set_new(rope, "rope_type", json_string("yarn"));
        rc = read_keys(&inner, rope_keys, err) < 0 || read_rope_scale(r, rope, err) < 0 ? -1 : 0;
    } else if (is_text(&type, "none")) {
        json_object_set_new(rope, "rope_type", json_string("default"));
        rc = refuse_unread(r, &type, err);
    } else {
        rc = err_set(err,
                     "%s: %s.rope.scaling.type \"%.*s\" is not read: expected none, linear or yarn",
                     r->g->path, r->family->arch, (int)type.bytes, type.data);
    }
    json_object_set_new(rope, "rope_theta", json_real(theta));
    json_object_set(r->config, "rope_parameters", rope);
    json_decref(rope);
    /* Said where it is 1 too: families have parts of their own where it is not said. */
    if (rc == 0 && !json_object_get(r->config, "kv_lora_rank")) {
        gguf_set_real(r, "partial_rotary_factor", turned / width);
    }
    return rc;
}

/* ---- tokens that end a text, sampling ---- */

static const char *const stop_keys[] = {
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};

static int read_stops(struct gguf_reading *r, struct err *err) {
    json_t *stops = json_array();
    const struct gguf_value *tokens = gguf_find(r->g, "tokenizer.ggml.tokens");
    const uint64_t n = tokens && tokens->list ? tokens->n : INT32_MAX;
    int rc = 0;
    for (size_t i = 0; i < sizeof stop_keys / sizeof *stop_keys; i++) {
        const struct gguf_value *v = gguf_find(r->g, stop_keys[i]);
        int64_t id;
        if (v && (v->list || !gguf_integer(v, 0, &id))) {
            rc = refuse(r, stop_keys[i], "a token's id", err);
        } else if (v && id >= 0 && (uint64_t)id < n) { /* others are how some files write "none" */
            json_array_append_new(stops, json_integer(id));
        }
    }
    if (json_array_size(stops) > 0) {
        json_object_set(r->config, "eos_token_id", stops);
    }
    json_decref(stops);
    return rc;
}

static const struct {
    const char *key, *name;
} sampling[] = {
    {"general.sampling.temp", "temperature"},
    {"general.sampling.top_p", "top_p"},
    {"general.sampling.top_k", "top_k"},
    {"general.sampling.min_p", "min_p"},
    {"general.sampling.penalty_repeat", "repetition_penalty"},
};

static int read_sampling(const struct gguf *g, json_t **generation, struct err *err) {
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
        const struct gguf_value *v = gguf_find(g, sampling[i].key);
        json_t *number = v && !v->list ? number_json(v, 0) : NULL;
        if (v && !number) {
            return err_set(err, "%s: %s: expected a finite number", g->path, sampling[i].key);
        }
        if (number) {
            *generation = *generation ? *generation : json_pack("{s:b}", "do_sample", 1);
            json_object_set_new(*generation, sampling[i].name, number);
        }
    }
    return 0;
}

/* ---- all of it ---- */

static int find_family(const struct gguf *g, const struct gguf_family **family, struct err *err) {
    const struct gguf_value *v = gguf_find(g, "general.architecture");
    struct gguf_text arch;
    if (!v || !gguf_string(v, &arch)) {
        return err_set(err, "%s: general.architecture does not say what the model is", g->path);
    }
    *family = gguf_family_find(&arch);
    if (*family) {
        return 0;
    }
    if (is_text(&arch, "clip")) {
        return err_set(err,
                       "%s: a projector of pictures or sound (mmproj), no text model: convert "
                       "the file that it belongs to",
                       g->path);
    }
    char *list = gguf_family_list();
    err_set(err, "%s: general.architecture \"%.*s\" is not read; read are: %s", g->path,
            (int)(arch.bytes < 80 ? arch.bytes : 80), arch.data, list);
    free(list);
    return -1;
}

int gguf_config(const struct gguf *g, const struct gguf_family **family, json_t **config,
                json_t **generation, struct err *err) {
    *config = *generation = NULL;
    if (find_family(g, family, err) < 0) {
        return -1;
    }
    const struct gguf_family *f = *family;
    json_error_t why;
    struct gguf_reading r = {.g = g, .family = f};
    r.config = f->always ? json_loads(f->always, 0, &why) : json_object();
    if (!r.config) {
        die("%s: %s", f->arch, why.text);
    }
    json_object_set_new(r.config, "model_type", json_string(f->model_type));
    json_object_set_new(r.config, "architectures", json_pack("[s]", f->architecture));
    *config = r.config;
    return read_keys(&r, gguf_keys, err) < 0 || read_keys(&r, f->keys, err) < 0 ||
                   read_tensors(&r, err) < 0 || read_rope(&r, err) < 0 ||
                   (f->settle && f->settle(&r, err) < 0) || check_keys(&r, err) < 0 ||
                   read_stops(&r, err) < 0 || read_sampling(g, generation, err) < 0
               ? -1
               : 0;
}
