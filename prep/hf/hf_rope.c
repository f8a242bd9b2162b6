#include "prep/hf/hf_rope.h"

#include <math.h>
#include <string.h>

/* The RoPE object's numbers. A key that the file lacks, or holds null under, is `given` false. */
struct rope_value {
    double value;
    bool given;
};

struct rope {
    struct rope_value theta, factor, original_tok, attention_factor, beta_fast, beta_slow, mscale,
        mscale_all_dim, low_freq_factor, high_freq_factor, partial_rotary_factor;
    bool truncate;
    const char *type;
};

/* Keys of the object that are numbers. */
static const struct rope_key {
    const char *key;
    size_t at;
} rope_keys[] = {
    {"rope_theta", offsetof(struct rope, theta)},
    {"factor", offsetof(struct rope, factor)},
    {"original_max_position_embeddings", offsetof(struct rope, original_tok)},
    {"attention_factor", offsetof(struct rope, attention_factor)},
    {"beta_fast", offsetof(struct rope, beta_fast)},
    {"beta_slow", offsetof(struct rope, beta_slow)},
    {"mscale", offsetof(struct rope, mscale)},
    {"mscale_all_dim", offsetof(struct rope, mscale_all_dim)},
    {"low_freq_factor", offsetof(struct rope, low_freq_factor)},
    {"high_freq_factor", offsetof(struct rope, high_freq_factor)},
    {"partial_rotary_factor", offsetof(struct rope, partial_rotary_factor)},
};

static int parse_value(struct rope_value *out, const json_t *v, const char *key, const char *path,
                       struct err *err) {
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_number(v) || !isfinite(json_number_value(v))) {
        return err_set(err, "%s: RoPE key %s must be a number", path, key);
    }
    out->value = json_number_value(v);
    out->given = true;
    return 0;
}

static int parse_object_key(struct rope *r, const char *key, const json_t *v, const char *path,
                            struct err *err) {
    for (size_t i = 0; i < sizeof rope_keys / sizeof *rope_keys; i++) {
        if (strcmp(rope_keys[i].key, key) == 0) {
            return parse_value((struct rope_value *)(void *)((char *)r + rope_keys[i].at), v, key,
                               path, err);
        }
    }
    if (strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0) {
        if (json_is_null(v)) {
            return 0;
        }
        if (!json_is_string(v)) {
            return err_set(err, "%s: RoPE key %s must be a string", path, key);
        }
        if (!r->type ||
            strcmp(key, "rope_type") == 0) { /* rope_type wins over the older spelling */
            r->type = json_string_value(v);
        }
        return 0;
    }
    if (strcmp(key, "truncate") == 0) {
        if (!json_is_boolean(v)) {
            return err_set(err, "%s: RoPE key truncate must be true or false", path);
        }
        r->truncate = json_is_true(v);
        return 0;
    }
    if (strcmp(key, "finetuned") == 0 || json_is_null(v)) { /* a note by some exporters */
        return 0;
    }
    return err_set(err, "%s: unknown RoPE key %s", path, key);
}

/* Which object rules, and what the keys beside it add: rope_scaling, where it says something,
 * replaces rope_parameters; rope_theta and partial_rotary_factor beside the object count where
 * it lacks them, and original_max_position_embeddings beside it counts before it. */
static int parse_rope(struct rope *r, const json_t *root, double default_theta, const char *path,
                      struct err *err) {
    const json_t *object = json_object_get(root, "rope_scaling");
    if (!object || json_is_null(object) ||
        (json_is_object(object) && json_object_size(object) == 0)) {
        object = json_object_get(root, "rope_parameters");
    }
    r->truncate = true;
    if (object && !json_is_null(object)) {
        if (!json_is_object(object)) {
            return err_set(err, "%s: rope_scaling or rope_parameters must be an object or null",
                           path);
        }
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)object, key, v) {
            if (parse_object_key(r, key, v, path, err)) {
                return -1;
            }
        }
    }
    struct rope_value theta = {0}, partial = {0}, original = {0};
    if (parse_value(&theta, json_object_get(root, "rope_theta"), "rope_theta", path, err) ||
        parse_value(&partial, json_object_get(root, "partial_rotary_factor"),
                    "partial_rotary_factor", path, err) ||
        parse_value(&original, json_object_get(root, "original_max_position_embeddings"),
                    "original_max_position_embeddings", path, err)) {
        return -1;
    }
    r->theta = r->theta.given ? r->theta
               : theta.given  ? theta
                              : (struct rope_value){default_theta, true};
    r->partial_rotary_factor = r->partial_rotary_factor.given ? r->partial_rotary_factor : partial;
    r->original_tok = original.given ? original : r->original_tok;
    r->type = r->type ? r->type : "default";
    return 0;
}

/* base^(2i / dim) for the i-th pair. */
static float pair_period(const struct rope *r, uint32_t i, uint32_t dim) {
    return (float)pow((double)(float)r->theta.value, (double)((float)(2 * i) / (float)dim));
}

static int fill_default(struct arch *a, const struct rope *r, const char *path, struct err *err) {
    (void)path;
    (void)err;
    for (uint32_t i = 0; i < a->rope_dim[0] / 2; i++) {
        a->rope_inv_freq[i] = 1.0f / pair_period(r, i, a->rope_dim[0]);
    }
    return 0;
}

static int need(const struct rope_value *v, const char *key, double min, const struct rope *r,
                const char *path, struct err *err) {
    if (!v->given || !(v->value >= min)) {
        return err_set(err, "%s: rope_type %s needs a number >= %g under %s", path, r->type, min,
                       key);
    }
    return 0;
}

static int fill_linear(struct arch *a, const struct rope *r, const char *path, struct err *err) {
    if (need(&r->factor, "factor", 0x1p-20, r, path, err)) {
        return -1;
    }
    fill_default(a, r, path, err);
    for (uint32_t i = 0; i < a->rope_dim[0] / 2; i++) {
        a->rope_inv_freq[i] /= (float)r->factor.value;
    }
    return 0;
}

/* Llama 3: long waves are stretched by the factor, short ones kept, those between blended. */
static int fill_llama3(struct arch *a, const struct rope *r, const char *path, struct err *err) {
    if (need(&r->factor, "factor", 0x1p-20, r, path, err) ||
        need(&r->low_freq_factor, "low_freq_factor", 0x1p-20, r, path, err) ||
        need(&r->high_freq_factor, "high_freq_factor", 0x1p-20, r, path, err)) {
        return -1;
    }
    float low = (float)r->low_freq_factor.value, high = (float)r->high_freq_factor.value;
    if (!(high > low)) {
        return err_set(err, "%s: RoPE high_freq_factor %g must be above low_freq_factor %g", path,
                       r->high_freq_factor.value, r->low_freq_factor.value);
    }
    float original = r->original_tok.given ? (float)r->original_tok.value : (float)a->ctx_max_tok;
    float factor = (float)r->factor.value;
    fill_default(a, r, path, err);
    for (uint32_t i = 0; i < a->rope_dim[0] / 2; i++) {
        float freq = a->rope_inv_freq[i];
        float wave = (float)(2 * M_PI) / freq;
        if (wave > original / low) {
            a->rope_inv_freq[i] = freq / factor;
        } else if (!(wave < original / high)) {
            float smooth = (original / wave - low) / (high - low);
            a->rope_inv_freq[i] = (1 - smooth) * freq / factor + smooth * freq;
        }
    }
    return 0;
}

/* YaRN (https://arxiv.org/abs/2309.00071): the dimension at which a wave turns `rotations` times
 * in the original context. */
static double yarn_dim(const struct rope *r, double rotations, double original, uint32_t dim) {
    return dim * log(original / (rotations * 2 * M_PI)) / (2 * log(r->theta.value));
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static double or_default(const struct rope_value *v, double value) {
    return v->given && v->value != 0 ? v->value : value;
}

static int fill_yarn(struct arch *a, const struct rope *r, const char *path, struct err *err) {
    double original = r->original_tok.given ? r->original_tok.value : a->ctx_max_tok;
    if (!(original >= 1)) {
        return err_set(err, "%s: RoPE original_max_position_embeddings must be at least 1", path);
    }
    double factor = r->factor.given ? r->factor.value : a->ctx_max_tok / original;
    if (!(factor >= 0x1p-20) || !(r->theta.value > 1)) {
        return err_set(err, "%s: rope_type yarn needs factor > 0 and rope_theta > 1, got %g and %g",
                       path, factor, r->theta.value);
    }
    uint32_t dim = a->rope_dim[0];
    double low = yarn_dim(r, or_default(&r->beta_fast, 32), original, dim);
    double high = yarn_dim(r, or_default(&r->beta_slow, 1), original, dim);
    low = fmax(r->truncate ? floor(low) : low, 0);
    high = fmin(r->truncate ? ceil(high) : high, (double)dim - 1);
    if (high == low) {
        high += 0.001;
    }
    for (uint32_t i = 0; i < dim / 2; i++) {
        float period = pair_period(r, i, dim);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0), 1);
        a->rope_inv_freq[i] =
            1.0f / ((float)factor * period) * (1.0f - keep) + 1.0f / period * keep;
    }
    double scale = yarn_mscale(factor, 1);
    if (r->attention_factor.given) {
        scale = r->attention_factor.value;
    } else if (or_default(&r->mscale, 0) != 0 && or_default(&r->mscale_all_dim, 0) != 0) {
        scale = yarn_mscale(factor, r->mscale.value) / yarn_mscale(factor, r->mscale_all_dim.value);
    }
    a->rope_scale[0] = (float)scale;
    return 0;
}

static const struct rope_type {
    const char *name;
    int (*fill)(struct arch *a, const struct rope *r, const char *path, struct err *err);
} rope_types[] = {
    {"default", fill_default},
    {"linear", fill_linear},
    {"llama3", fill_llama3},
    {"yarn", fill_yarn},
};

int hf_rope_parse(struct arch *a, uint32_t head_dim, const json_t *root, double default_theta,
                  const char *path, struct err *err) {
    struct rope r = {0};
    if (parse_rope(&r, root, default_theta, path, err)) {
        return -1;
    }
    if (!(r.theta.value > 0) || !isfinite((float)r.theta.value)) {
        return err_set(err, "%s: rope_theta must be a positive number, got %g", path,
                       r.theta.value);
    }
    if (r.partial_rotary_factor.given && r.partial_rotary_factor.value != 1) {
        return err_set(err, "%s: partial_rotary_factor %g is not supported for this family, only 1",
                       path, r.partial_rotary_factor.value);
    }
    for (size_t i = 0; i < sizeof rope_types / sizeof *rope_types; i++) {
        if (strcmp(rope_types[i].name, r.type) == 0) {
            float *none = mem_calloc(head_dim / 2 + 1, sizeof *none);
            arch_add_rope(a, head_dim, none, 1);
            free(none);
            return rope_types[i].fill(a, &r, path, err);
        }
    }
    return err_set(
        err, "%s: rope_type \"%s\" is not supported; supported: default, linear, llama3, yarn",
        path, r.type);
}
