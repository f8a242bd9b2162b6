#include "prep/hf/hf_quant.h"

#include <fnmatch.h>
#include <string.h>
#include <strings.h>

#include "prep/hf/hf_keys.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

static const char what_to_do[] =
    "convert the checkpoint that they were made from (--codec q4 or q8 makes it small, too)";

/* ---- config.json ---- */

/* quant_method, and what people call it. */
static const struct {
    const char *method, *name;
} methods[] = {
    {"gptq", "GPTQ"},
    {"awq", "AWQ"},
    {"bitsandbytes", "bitsandbytes"},
    {"bitsandbytes_4bit", "bitsandbytes"},
    {"bitsandbytes_8bit", "bitsandbytes"},
    {"compressed-tensors", "compressed-tensors"},
    {"fp8", "FP8 with scales by block"},
    {"fbgemm_fp8", "FBGEMM (FP8)"},
    {"modelopt", "NVIDIA's ModelOpt"},
    {"mxfp4", "MXFP4"},
    {"quark", "AMD's Quark"},
    {"auto-round", "AutoRound"},
    {"torchao", "torchao"},
    {"hqq", "HQQ"},
    {"quanto", "Quanto"},
    {"eetq", "EETQ"},
    {"aqlm", "AQLM"},
    {"vptq", "VPTQ"},
    {"spqr", "SpQR"},
    {"higgs", "HIGGS"},
    {"bitnet", "BitNet"},
};

/* Objects that hold a quant_method, and what one without it is. */
static const struct {
    const char *key, *without;
} objects[] = {
    {"quantization_config", NULL},
    {"compression_config", "compressed-tensors"},
    {"quantization", "MLX"},
};

static bool is_true(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

/* What an object of config.json calls the way in which the weights are quantised. */
static const char *method_name(const json_t *object, const char *without) {
    const char *method = json_string_value(json_object_get(object, "quant_method"));
    for (size_t i = 0; method && i < COUNT(methods); i++) {
        if (strcasecmp(method, methods[i].method) == 0) {
            return methods[i].name;
        }
    }
    if (method || without) {
        return method ? method : without;
    }
    return is_true(object, "load_in_4bit") || is_true(object, "load_in_8bit") ? "bitsandbytes"
           : json_object_get(object, "group_size") && json_object_get(object, "bits")
               ? "MLX"
               : "a method without a name";
}

int hf_quant_check_config(const json_t *root, const char *path, bool mxfp4, struct err *err) {
    for (size_t i = 0; i < COUNT(objects); i++) {
        const json_t *object = json_object_get(root, objects[i].key);
        if (!object || hf_keys_neutral(object, 0)) {
            continue;
        }
        const char *method = json_string_value(json_object_get(object, "quant_method"));
        if (i == 0 && mxfp4 && method && strcmp(method, "mxfp4") == 0) {
            continue;
        }
        return err_set(err, "%s: %s: weights quantised by %.40s, which are not read%s: %s", path,
                       objects[i].key, method_name(object, objects[i].without),
                       mxfp4 ? "; of this family those by MXFP4 are" : "", what_to_do);
    }
    return 0;
}

/* ---- tensors ---- */

/* The first row that any tensor matches counts. */
static const struct {
    const char *pattern, *name;
} tensors[] = {
    {"*.g_idx", "GPTQ"},
    {"*.qzeros", "GPTQ or AWQ"},
    {"*.qweight", "GPTQ or AWQ"},
    {"*.quant_state.bitsandbytes__*", "bitsandbytes, 4 bits"},
    {"*.SCB", "bitsandbytes, 8 bits"},
    {"*.absmax", "bitsandbytes"},
    {"*.weight_packed", "compressed-tensors"},
    {"*.weight_scale_inv", "FP8 with scales by block"},
    {"*.weight_scale_2", "NVIDIA's ModelOpt (FP4)"},
    {"*.weight_scale", "a method that stores scales (compressed-tensors, ModelOpt, FBGEMM)"},
    {"*.scales", "MLX"},
    {"*_blocks", "MXFP4"},
};
static const char *const adapters[] = {"*.lora_A.*", "*.lora_B.*", "*.lora_magnitude_vector*",
                                       "*.lora_embedding_*"};

static const struct st_tensor *find_match(const struct safetensors *st, const char *pattern) {
    for (size_t i = 0; i < st_count(st); i++) {
        if (fnmatch(pattern, st_at(st, i)->name, 0) == 0) {
            return st_at(st, i);
        }
    }
    return NULL;
}

int hf_quant_check_tensors(const struct safetensors *st, bool mxfp4, struct err *err) {
    for (size_t i = 0; i < COUNT(adapters); i++) {
        const struct st_tensor *t = find_match(st, adapters[i]);
        if (t) {
            return err_set(err,
                           "%s: tensor \"%s\": an adapter (LoRA), not a model: merge it into its "
                           "base model (merge_and_unload of peft), and convert what comes out",
                           t->file, t->name);
        }
    }
    for (size_t i = 0; i < COUNT(tensors); i++) {
        const struct st_tensor *t = find_match(st, tensors[i].pattern);
        if (t && !(mxfp4 && strcmp(tensors[i].name, "MXFP4") == 0)) {
            return err_set(err,
                           "%s: tensor \"%s\": weights quantised by %s, which are not read: %s",
                           t->file, t->name, tensors[i].name, what_to_do);
        }
    }
    return 0;
}
