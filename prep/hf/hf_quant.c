#include "prep/hf/hf_quant.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "prep/hf/hf_keys.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

static const char what_to_do[] =
    "convert the checkpoint that they were made from (--codec q4 or q8 makes it small, too)";

/* ---- keys of quantised weights ---- */

/* A method's object of config.json on its way into struct hf_quant. */
struct reading {
    struct hf_quant *q;
    const json_t *object;
    const char *path, *name; /* of the file, and of the object in it, for messages */
    bool mxfp4;
};

static int refuse_key(const struct reading *r, const char *key, const json_t *v,
                      const char *expected, struct err *err) {
    char text[64];
    return err_set(err, "%s: %s: %s is %s, expected %s", r->path, r->name, key,
                   v ? hf_keys_text(v, text) : "missing", expected);
}

/* A key that must hold one of these words, or null, or not be there. */
static int check_word(const struct reading *r, const char *key, const char *const *words, size_t n,
                      struct err *err) {
    const json_t *v = json_object_get(r->object, key);
    const char *word = json_string_value(v);
    struct buf list = {0};
    size_t i = 0;
    while (word && i < n && strcasecmp(words[i], word) != 0) {
        i++;
    }
    int rc = 0;
    if (v && !json_is_null(v) && (!word || i == n)) {
        for (i = 0; i < n; i++) {
            buf_printf(&list, "%s\"%s\"", i ? ", " : "", words[i]);
        }
        rc = refuse_key(r, key, v, list.data, err);
    }
    buf_free(&list);
    return rc;
}

/* An object, or null, or nothing: then *object is NULL. */
static int read_child(const struct reading *r, const json_t *parent, const char *key,
                      const json_t **object, struct err *err) {
    const json_t *v = json_object_get(parent, key);
    bool empty = !v || json_is_null(v);
    *object = empty ? NULL : v;
    return empty || json_is_object(v) ? 0 : refuse_key(r, key, v, "an object", err);
}

/* Two positive numbers, which are the blocks that share a scale; null says nothing. Blocks that
 * were read before must be the same. */
static int read_blocks(const struct reading *r, const json_t *object, const char *key,
                       struct err *err) {
    const json_t *v = json_object_get(object, key);
    json_int_t rows = json_integer_value(json_array_get(v, 0)),
               cols = json_integer_value(json_array_get(v, 1));
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (json_array_size(v) != 2 || rows <= 0 || cols <= 0 || rows > INT32_MAX || cols > INT32_MAX) {
        return refuse_key(r, key, v, "two positive integers, or null", err);
    }
    struct hf_blocks blocks = {.rows = (uint32_t)rows, .cols = (uint32_t)cols},
                     *known = &r->q->blocks;
    if (known->rows && (known->rows != blocks.rows || known->cols != blocks.cols)) {
        return refuse_key(r, key, v, "the same blocks in all groups", err);
    }
    *known = blocks;
    return 0;
}

/* ---- methods ---- */

static const char *const schemes[] = {"dynamic", "static"};
static const char *const fmts[] = {"e4m3", "e4m3fn", "float8_e4m3fn"};
static const char *const scale_fmts[] = {"float", "ue8m0"};
static const char *const expert_dtypes[] = {"fp8"};

/* Blocks of 128 are its default, null is one scale for all. */
static int read_fp8(const struct reading *r, struct err *err) {
    if (!json_object_get(r->object, "weight_block_size")) {
        r->q->blocks = (struct hf_blocks){.rows = 128, .cols = 128};
    }
    return check_word(r, "fmt", fmts, COUNT(fmts), err) < 0 ||
                   check_word(r, "activation_scheme", schemes, COUNT(schemes), err) < 0 ||
                   check_word(r, "scale_fmt", scale_fmts, COUNT(scale_fmts), err) < 0 ||
                   check_word(r, "expert_dtype", expert_dtypes, COUNT(expert_dtypes), err) < 0
               ? -1
               : read_blocks(r, r->object, "weight_block_size", err);
}

/* What a group of config_groups says of its weights: floats of 8 bits, or of 4 in groups. */
static int read_group(const struct reading *r, const json_t *groups, const char *key,
                      struct err *err) {
    const json_t *group, *w;
    if (read_child(r, groups, key, &group, err) < 0 ||
        read_child(r, group, "weights", &w, err) < 0) {
        return -1;
    }
    const json_t *bits = json_object_get(w, "num_bits"),
                 *symmetric = json_object_get(w, "symmetric");
    const char *type = json_string_value(json_object_get(w, "type"));
    json_int_t n = json_integer_value(bits);
    char text[64];
    if (!w) {
        return 0; /* activations alone */
    }
    if (!type || strcasecmp(type, "float") != 0 || (n != 8 && n != 4) ||
        (symmetric && !json_is_true(symmetric))) {
        return err_set(err,
                       "%s: %s: weights of group %.40s are %s of type %.20s, which are not "
                       "read: floats of 8 and 4 bits are; %s",
                       r->path, r->name, key, hf_keys_text(bits, text), type ? type : "int",
                       what_to_do);
    }
    return read_blocks(r, w, "block_structure", err);
}

static int read_groups(const struct reading *r, struct err *err) {
    const char *key;
    json_t *group;
    const json_t *groups;
    int rc = read_child(r, r->object, "config_groups", &groups, err);
    json_object_foreach((json_t *)(uintptr_t)groups, key, group) {
        rc = rc < 0 ? rc : read_group(r, groups, key, err);
    }
    return rc;
}

static const char *const compressed_formats[] = {"float-quantized", "naive-quantized",
                                                 "nvfp4-pack-quantized", "mxfp4-pack-quantized",
                                                 "mixed-precision"};
static const char *const statuses[] = {"compressed"};

static int read_compressed(const struct reading *r, struct err *err) {
    static const char *const dense[] = {"dense"};
    struct reading sparse = {.path = r->path, .name = "sparsity_config"};
    return check_word(r, "format", compressed_formats, COUNT(compressed_formats), err) < 0 ||
                   check_word(r, "quantization_status", statuses, COUNT(statuses), err) < 0 ||
                   read_child(r, r->object, sparse.name, &sparse.object, err) < 0 ||
                   check_word(&sparse, "format", dense, COUNT(dense), err) < 0
               ? -1
               : read_groups(r, err);
}

static const char *const algorithms[] = {"FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "W4A16_NVFP4",
                                         "MIXED_PRECISION"};

/* Both of its places must name the same algorithm. */
static int read_modelopt(const struct reading *r, struct err *err) {
    const json_t *algorithm = json_object_get(r->object, "quant_algo"), *layers;
    const char *key, *name = json_string_value(algorithm), *known = r->q->algorithm;
    json_t *layer;
    if (!name) {
        return refuse_key(r, "quant_algo", algorithm, "a string", err);
    }
    if (check_word(r, "quant_algo", algorithms, COUNT(algorithms), err) < 0 ||
        read_child(r, r->object, "quantized_layers", &layers, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < COUNT(algorithms); i++) {
        r->q->algorithm = strcasecmp(name, algorithms[i]) == 0 ? algorithms[i] : r->q->algorithm;
    }
    if (known && known != r->q->algorithm) {
        char text[64];
        snprintf(text, sizeof text, "\"%s\", as config.json says", known);
        return refuse_key(r, "quant_algo", algorithm, text, err);
    }
    json_object_foreach((json_t *)(uintptr_t)layers, key, layer) {
        struct reading of = {.path = r->path, .name = key};
        if (read_child(r, layers, key, &of.object, err) < 0 ||
            check_word(&of, "quant_algo", algorithms, COUNT(algorithms), err) < 0) {
            return -1;
        }
    }
    return read_groups(r, err);
}

/* Its experts are stored (in, out), and their scales are those of outputs. */
static int read_fbgemm(const struct reading *r, struct err *err) {
    (void)err;
    r->q->blocks = (struct hf_blocks){.by_output = true};
    return 0;
}

/* Of the families that have names of its tensors. */
static int read_mxfp4(const struct reading *r, struct err *err) {
    return r->mxfp4 ? 0
                    : err_set(err,
                              "%s: %s: weights quantised by MXFP4, which are not read of this "
                              "family: %s",
                              r->path, r->name, what_to_do);
}

/* Keys of a method that are read, or change nothing. Which weights are quantised, their tensors
 * say; activations, keys and values are computed as they are, whatever they were to be rounded to.
 */
static const char *const fp8_keys[] = {"quant_method",
                                       "weight_block_size",
                                       "fmt",
                                       "activation_scheme",
                                       "scale_fmt",
                                       "expert_dtype",
                                       "modules_to_not_convert",
                                       "modules_to_convert",
                                       "ignored_layers",
                                       "dequantize",
                                       "kv_cache_scheme",
                                       NULL};
static const char *const fbgemm_keys[] = {"quant_method", "activation_scale_ub",
                                          "modules_to_not_convert", NULL};
static const char *const compressed_keys[] = {"quant_method",
                                              "config_groups",
                                              "format",
                                              "quantization_status",
                                              "sparsity_config",
                                              "global_compression_ratio",
                                              "kv_cache_scheme",
                                              "ignore",
                                              "version",
                                              "run_compressed",
                                              NULL};
static const char *const modelopt_keys[] = {
    "quant_method",    "quant_algo",       "kv_cache_quant_algo",
    "kv_cache_scheme", "quantized_layers", "group_size",
    "exclude_modules", "ignore",           "producer",
    "config_groups",   "version",          NULL};
static const char *const mxfp4_keys[] = {"quant_method", "modules_to_not_convert", "dequantize",
                                         "use_optimized_inference", NULL};

/* quant_method, what people call it, how it is read, and its keys; NULL: not at all. */
static const struct method {
    const char *method, *name;
    int (*read)(const struct reading *r, struct err *err);
    const char *const *keys;
} methods[] = {
    {"fp8", "FP8", read_fp8, fp8_keys},
    {"fbgemm_fp8", "FBGEMM (FP8)", read_fbgemm, fbgemm_keys},
    {"compressed-tensors", "compressed-tensors", read_compressed, compressed_keys},
    {"modelopt", "NVIDIA's ModelOpt", read_modelopt, modelopt_keys},
    {"mxfp4", "MXFP4", read_mxfp4, mxfp4_keys},
    {"gptq", "GPTQ", .read = NULL},
    {"awq", "AWQ", .read = NULL},
    {"bitsandbytes", "bitsandbytes", .read = NULL},
    {"bitsandbytes_4bit", "bitsandbytes", .read = NULL},
    {"bitsandbytes_8bit", "bitsandbytes", .read = NULL},
    {"quark", "AMD's Quark", .read = NULL},
    {"auto-round", "AutoRound", .read = NULL},
    {"torchao", "torchao", .read = NULL},
    {"hqq", "HQQ", .read = NULL},
    {"quanto", "Quanto", .read = NULL},
    {"eetq", "EETQ", .read = NULL},
    {"aqlm", "AQLM", .read = NULL},
    {"vptq", "VPTQ", .read = NULL},
    {"spqr", "SpQR", .read = NULL},
    {"higgs", "HIGGS", .read = NULL},
    {"bitnet", "BitNet", .read = NULL},
};

/* Objects that hold a quant_method, what one without it is, and whether methods are read there. */
static const struct {
    const char *key, *without;
    bool read;
} objects[] = {
    {"quantization_config", NULL, true},
    {"compression_config", "compressed-tensors", false},
    {"quantization", "MLX", false},
};

static bool is_true(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

/* What an object of config.json without a method that is known calls the way in which the weights
 * are quantised. */
static const char *unknown_name(const json_t *object, const char *without) {
    const char *method = json_string_value(json_object_get(object, "quant_method"));
    if (method || without) {
        return method ? method : without;
    }
    return is_true(object, "load_in_4bit") || is_true(object, "load_in_8bit") ? "bitsandbytes"
           : json_object_get(object, "group_size") && json_object_get(object, "bits")
               ? "MLX"
               : "a method without a name";
}

static const struct method *find_method(const char *name) {
    for (size_t i = 0; name && i < COUNT(methods); i++) {
        if (strcasecmp(name, methods[i].method) == 0) {
            return &methods[i];
        }
    }
    return NULL;
}

static int read_object(const struct reading *r, const struct method *m, struct err *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)r->object, key, v) {
        if (!hf_keys_among(key, m->keys, SIZE_MAX) && !hf_keys_neutral(v, 0)) {
            char text[64];
            return err_set(err,
                           "%s: %s: unknown key %.64s is %s: it may change what weights mean; %s",
                           r->path, r->name, key, hf_keys_text(v, text), what_to_do);
        }
    }
    r->q->name = m->name;
    return m->read(r, err);
}

int hf_quant_read(struct hf_quant *q, const json_t *root, const char *path, bool mxfp4,
                  struct err *err) {
    for (size_t i = 0; i < COUNT(objects); i++) {
        const json_t *object = json_object_get(root, objects[i].key);
        if (!object || hf_keys_neutral(object, 0)) {
            continue;
        }
        const struct method *m =
            find_method(json_string_value(json_object_get(object, "quant_method")));
        if (objects[i].read && m && m->read) {
            const struct reading r = {q, object, path, objects[i].key, mxfp4};
            *q = (struct hf_quant){0};
            if (read_object(&r, m, err) < 0) {
                return -1;
            }
            continue;
        }
        return err_set(err, "%s: %s: weights quantised by %.40s, which are not read: %s", path,
                       objects[i].key, m ? m->name : unknown_name(object, objects[i].without),
                       what_to_do);
    }
    return 0;
}

int hf_quant_read_modelopt(struct hf_quant *q, const char *text, size_t bytes, const char *path,
                           struct err *err) {
    json_error_t why;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    const json_t *object = json_object_get(root, "quantization");
    const struct reading r = {q, object, path, "quantization", false};
    const struct method *m = find_method("modelopt");
    int rc = -1;
    if (!json_is_object(object)) {
        err_set(err, "%s: expected a JSON object with an object \"quantization\"", path);
    } else if (q->name && q->name != m->name) {
        err_set(err, "%s: weights quantised by %s, but config.json says by %s", path, m->name,
                q->name);
    } else {
        rc = read_object(&r, m, err);
    }
    json_decref(root);
    return rc;
}

/* ---- tensors ---- */

/* The first row that any tensor matches counts; `dtype` NULL: of any. */
static const struct {
    const char *pattern, *name, *dtype;
} tensors[] = {
    {"*.g_idx", "GPTQ", NULL},
    {"*.qzeros", "GPTQ or AWQ", NULL},
    {"*.qweight", "GPTQ or AWQ", NULL},
    {"*.quant_state.bitsandbytes__*", "bitsandbytes, 4 bits", NULL},
    {"*.SCB", "bitsandbytes, 8 bits", NULL},
    {"*.absmax", "bitsandbytes", NULL},
    {"*.weight_packed", "compressed-tensors (integers)", "I32"},
    {"*.pre_quant_scale", "NVIDIA's ModelOpt with factors on inputs (AWQ)", NULL},
    {"*.scales", "MLX", NULL},
    {"*_blocks", "MXFP4", NULL},
};
static const char *const adapters[] = {"*.lora_A.*", "*.lora_B.*", "*.lora_magnitude_vector*",
                                       "*.lora_embedding_*"};

static const struct st_tensor *find_match(const struct safetensors *st, const char *pattern,
                                          const char *dtype) {
    for (size_t i = 0; i < st_count(st); i++) {
        if (fnmatch(pattern, st_at(st, i)->name, 0) == 0 &&
            (!dtype || strcmp(st_at(st, i)->dtype_name, dtype) == 0)) {
            return st_at(st, i);
        }
    }
    return NULL;
}

int hf_quant_check_tensors(const struct safetensors *st, bool mxfp4, struct err *err) {
    for (size_t i = 0; i < COUNT(adapters); i++) {
        const struct st_tensor *t = find_match(st, adapters[i], NULL);
        if (t) {
            return err_set(err,
                           "%s: tensor \"%s\": an adapter (LoRA), not a model: merge it into its "
                           "base model (merge_and_unload of peft), and convert what comes out",
                           t->file, t->name);
        }
    }
    for (size_t i = 0; i < COUNT(tensors); i++) {
        const struct st_tensor *t = find_match(st, tensors[i].pattern, tensors[i].dtype);
        if (t && !(mxfp4 && strcmp(tensors[i].name, "MXFP4") == 0)) {
            return err_set(err,
                           "%s: tensor \"%s\": weights quantised by %s, which are not read: %s",
                           t->file, t->name, tensors[i].name, what_to_do);
        }
    }
    return 0;
}
