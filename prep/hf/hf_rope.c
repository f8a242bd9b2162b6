#include "prep/hf/hf_rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_config.h"

/* The RoPE object's numbers. A key that the file lacks, or holds null under, is `given` false. */
struct rope_value {
    double value;
    bool given;
};

struct rope {
    struct rope_value theta, factor, original_tok, attention_factor, beta_fast, beta_slow, mscale,
        mscale_all_dim, low_freq_factor, high_freq_factor, partial_rotary_factor;
    struct rope_value alpha, short_mscale, long_mscale, query_beta;
    bool truncate;
    const char *type;
    const json_t *short_factor, *long_factor; /* lists, or NULL; borrowed */
    uint32_t head_dim, ctx_max_tok;
    /* What comes of it. */
    uint32_t dim;    /* of a head's components that are turned */
    float *inv_freq; /* [dim / 2] */
    float scale;
    /* The same for contexts of more than long_tok tokens; 0: there is no such form. */
    uint32_t long_tok;
    float *long_inv_freq; /* [dim / 2] */
    float long_scale;
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
    {"alpha", offsetof(struct rope, alpha)},
    {"short_mscale", offsetof(struct rope, short_mscale)},
    {"long_mscale", offsetof(struct rope, long_mscale)},
    {"llama_4_scaling_beta", offsetof(struct rope, query_beta)},
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

static int parse_object_key(struct rope *r, const struct settle *s, const char *key,
                            const json_t *v, struct err *err) {
    const char *path = s->path;
    const bool mscale = strcmp(key, "short_mscale") == 0 || strcmp(key, "long_mscale") == 0;
    const bool queries = strcmp(key, "llama_4_scaling_beta") == 0;
    if (((mscale && !s->family->rope.mscaled) || (queries && !s->family->rope.query_scaled)) &&
        !json_is_null(v)) {
        return err_set(err, "%s: unknown RoPE key %s", path, key);
    }
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
    if (strcmp(key, "short_factor") == 0 || strcmp(key, "long_factor") == 0) {
        if (!json_is_array(v) && !json_is_null(v)) {
            return err_set(err, "%s: RoPE key %s must be a list of numbers", path, key);
        }
        *(key[0] == 's' ? &r->short_factor : &r->long_factor) = json_is_array(v) ? v : NULL;
        return 0;
    }
    if (strcmp(key, "truncate") == 0) {
        if (!json_is_boolean(v) && !json_is_null(v)) { /* null is no truth to transformers */
            return err_set(err, "%s: RoPE key truncate must be true or false", path);
        }
        r->truncate = json_is_true(v);
        return 0;
    }
    /* Positions in pictures have three axes; in text all three are the same. */
    bool picture = strcmp(key, "mrope_section") == 0 || strcmp(key, "mrope_interleaved") == 0 ||
                   strcmp(key, "interleaved") == 0;
    /* The first is a note by some exporters, the second says again what stands beside. */
    if (strcmp(key, "finetuned") == 0 || strcmp(key, "max_position_embeddings") == 0 ||
        json_is_null(v) || (picture && s->family->rope.mrope)) {
        return 0;
    }
    return err_set(err, "%s: unknown RoPE key %s", path, key);
}

static bool says_nothing(const json_t *v) {
    return !v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0);
}

/* Which object rules: rope_scaling, where it says something, replaces rope_parameters; without both
 * it is the family's. Of a map by layer types, the type's. A new reference. */
static json_t *find_object(const struct settle *s, const struct hf_rope_ask *ask, struct err *err) {
    json_t *object = json_object_get(s->root, "rope_scaling");
    object = says_nothing(object) ? json_object_get(s->root, "rope_parameters") : object;
    if (object && !json_is_null(object) && !json_is_object(object)) {
        err_set(err, "%s: rope_scaling or rope_parameters must be an object or null", s->path);
        return NULL;
    }
    const char *fallback = s->family->rope.fallback;
    if (object && !json_is_null(object)) {
        json_incref(object);
    } else {
        object = fallback ? json_loads(fallback, 0, NULL) : json_object();
    }
    if (!s->family->rope.by_type) {
        return object;
    }
    json_t *of_type = json_object_get(object, ask->layer_type);
    if (!json_is_object(of_type)) {
        err_set(err, "%s: rope_parameters has no object for %s", s->path, ask->layer_type);
        json_decref(object);
        return NULL;
    }
    json_incref(of_type);
    json_decref(object);
    return of_type;
}

/* Where objects are by type, a key beside them says nothing to transformers; where an object lacks
 * it, the publisher may have meant that it does. */
static int check_beside(const struct settle *s, const char *key, struct rope_value beside,
                        struct rope_value inside, struct err *err) {
    if (beside.given && !inside.given) {
        return err_set(err, "%s: %s is %g beside rope_parameters, where an object has none",
                       s->path, key, beside.value);
    }
    return 0;
}

/* What the keys beside the object add: rope_theta and partial_rotary_factor count where it lacks
 * them, original_max_position_embeddings counts before it; of objects by type only the first. */
static int parse_rope(struct rope *r, const struct settle *s, const json_t *object,
                      struct err *err) {
    const char *key;
    json_t *v;
    r->truncate = true;
    json_object_foreach((json_t *)object, key, v) {
        if (parse_object_key(r, s, key, v, err) < 0) {
            return -1;
        }
    }
    struct rope_value theta = {0}, partial = {0}, original = {0};
    const json_t *root = s->root;
    if (parse_value(&theta, json_object_get(root, "rope_theta"), "rope_theta", s->path, err) < 0 ||
        parse_value(&partial, json_object_get(root, "partial_rotary_factor"),
                    "partial_rotary_factor", s->path, err) < 0 ||
        parse_value(&original, json_object_get(root, "original_max_position_embeddings"),
                    "original_max_position_embeddings", s->path, err) < 0) {
        return -1;
    }
    const struct family_rope *f = &s->family->rope;
    r->theta = r->theta.given ? r->theta
               : theta.given  ? theta
                              : (struct rope_value){f->theta, true};
    r->type = r->type ? r->type : "default";
    if (f->by_type) {
        const bool plain = strcmp(r->type, "default") == 0; /* it asks for no original length */
        return check_beside(s, "partial_rotary_factor", partial, r->partial_rotary_factor, err) <
                           0 ||
                       (!plain && check_beside(s, "original_max_position_embeddings", original,
                                               r->original_tok, err) < 0)
                   ? -1
                   : 0;
    }
    r->partial_rotary_factor = r->partial_rotary_factor.given ? r->partial_rotary_factor : partial;
    if (!r->partial_rotary_factor.given && s->value[KEY_ROTARY_DIM] > 0) {
        r->partial_rotary_factor =
            (struct rope_value){s->value[KEY_ROTARY_DIM] / r->head_dim, true};
    }
    r->original_tok = original.given ? original : r->original_tok;
    return 0;
}

/* base^(2i / dim) for the i-th pair. */
static float pair_period(const struct rope *r, uint32_t i, uint32_t dim) {
    return (float)pow((double)(float)r->theta.value, (double)((float)(2 * i) / (float)dim));
}

static int fill_default(struct rope *r, const char *path, struct err *err) {
    (void)path;
    (void)err;
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        r->inv_freq[i] = 1.0f / pair_period(r, i, r->dim);
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

static int fill_linear(struct rope *r, const char *path, struct err *err) {
    if (need(&r->factor, "factor", 0x1p-20, r, path, err)) {
        return -1;
    }
    fill_default(r, path, err);
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        r->inv_freq[i] /= (float)r->factor.value;
    }
    return 0;
}

/* Llama 3: long waves are stretched by the factor, short ones kept, those between blended. */
static int fill_llama3(struct rope *r, const char *path, struct err *err) {
    if (need(&r->factor, "factor", 0x1p-20, r, path, err) ||
        need(&r->low_freq_factor, "low_freq_factor", 0x1p-20, r, path, err) ||
        need(&r->high_freq_factor, "high_freq_factor", 0x1p-20, r, path, err)) {
        return -1;
    }
    float low = (float)r->low_freq_factor.value, high = (float)r->high_freq_factor.value;
    if (!(high >= low)) {
        return err_set(err, "%s: RoPE high_freq_factor %g must be at least low_freq_factor %g",
                       path, r->high_freq_factor.value, r->low_freq_factor.value);
    }
    float original = r->original_tok.given ? (float)r->original_tok.value : (float)r->ctx_max_tok;
    float factor = (float)r->factor.value;
    fill_default(r, path, err);
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        float freq = r->inv_freq[i];
        float wave = (float)(2 * M_PI) / freq;
        if (wave > original / low) {
            r->inv_freq[i] = freq / factor;
        } else if (high > low && !(wave < original / high)) {
            float smooth = (original / wave - low) / (high - low);
            r->inv_freq[i] = (1 - smooth) * freq / factor + smooth * freq;
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

static int fill_yarn(struct rope *r, const char *path, struct err *err) {
    double original = r->original_tok.given ? r->original_tok.value : r->ctx_max_tok;
    if (!(original >= 1)) {
        return err_set(err, "%s: RoPE original_max_position_embeddings must be at least 1", path);
    }
    double factor = r->factor.given ? r->factor.value : r->ctx_max_tok / original;
    if (!(factor >= 0x1p-20) || !(r->theta.value > 1)) {
        return err_set(err, "%s: rope_type yarn needs factor > 0 and rope_theta > 1, got %g and %g",
                       path, factor, r->theta.value);
    }
    uint32_t dim = r->dim;
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
        r->inv_freq[i] = 1.0f / ((float)factor * period) * (1.0f - keep) + 1.0f / period * keep;
    }
    double scale = yarn_mscale(factor, 1);
    if (r->attention_factor.given) {
        scale = r->attention_factor.value;
    } else if (or_default(&r->mscale, 0) != 0 && or_default(&r->mscale_all_dim, 0) != 0) {
        scale = yarn_mscale(factor, r->mscale.value) / yarn_mscale(factor, r->mscale_all_dim.value);
    }
    r->scale = (float)scale;
    return 0;
}

/* The first components of the whole head turn as in the default type, the others not at all. */
static int fill_proportional(struct rope *r, const char *path, struct err *err) {
    double part = r->partial_rotary_factor.value, factor = r->factor.given ? r->factor.value : 1;
    uint32_t turned = (uint32_t)(part * r->head_dim / 2);
    if (!(factor >= 0x1p-20)) {
        return err_set(err, "%s: rope_type proportional needs factor > 0, got %g", path, factor);
    }
    for (uint32_t i = 0; i < turned; i++) {
        r->inv_freq[i] = 1.0f / pair_period(r, i, r->dim) / (float)factor;
    }
    return 0;
}

/* Frequencies of the default type, each divided by its factor of a list. */
static int fill_by_factors(const struct rope *r, const json_t *list, const char *key,
                           float *inv_freq, const char *path, struct err *err) {
    uint32_t half = r->dim / 2;
    if (!list || json_array_size(list) != half) {
        return err_set(err,
                       "%s: rope_type %s needs a list of %u numbers under %s, one for each pair "
                       "of components that is turned",
                       path, r->type, half, key);
    }
    for (uint32_t i = 0; i < half; i++) {
        const json_t *v = json_array_get(list, i);
        float factor = (float)json_number_value(v);
        if (!json_is_number(v) || !(factor >= 0x1p-20f) || !isfinite(factor)) {
            return err_set(err, "%s: entry %u of RoPE key %s must be a positive number", path, i,
                           key);
        }
        inv_freq[i] = 1.0f / (factor * pair_period(r, i, r->dim));
    }
    return 0;
}

/* LongRoPE (https://arxiv.org/abs/2402.13753): factors for contexts up to those that the model was
 * first trained for, and others beyond. */
static int fill_longrope(struct rope *r, const char *path, struct err *err) {
    double original = r->original_tok.given ? r->original_tok.value : r->ctx_max_tok;
    if (!(original >= 2) || !(original <= INT32_MAX)) {
        return err_set(err, "%s: RoPE original_max_position_embeddings must be at least 2", path);
    }
    double factor = r->factor.given ? r->factor.value : r->ctx_max_tok / original;
    double scale = r->attention_factor.given ? r->attention_factor.value
                   : factor <= 1             ? 1
                                             : sqrt(1 + log(factor) / log(original));
    r->long_inv_freq = mem_calloc(r->dim / 2 + 1, sizeof *r->long_inv_freq);
    if (fill_by_factors(r, r->short_factor, "short_factor", r->inv_freq, path, err) < 0 ||
        fill_by_factors(r, r->long_factor, "long_factor", r->long_inv_freq, path, err) < 0) {
        return -1;
    }
    r->long_tok = (uint32_t)original;
    r->scale = (float)(r->short_mscale.given ? r->short_mscale.value : scale);
    r->long_scale = (float)(r->long_mscale.given ? r->long_mscale.value : scale);
    return 0;
}

/* NTK with a constant factor on the base, as Hunyuan models have it under this name. What others
 * mean by it is a base that grows while the text does. */
static int fill_dynamic(struct rope *r, const char *path, struct err *err) {
    if (or_default(&r->alpha, 0) == 0) {
        return err_set(err,
                       "%s: rope_type dynamic without alpha is not supported: its base grows with "
                       "the length of the text, so that keys that are stored would have to be "
                       "turned again",
                       path);
    }
    if (need(&r->alpha, "alpha", 0x1p-20, r, path, err)) {
        return -1;
    }
    if (r->dim <= 2) {
        return err_set(err, "%s: rope_type dynamic needs more than 2 components that are turned",
                       path);
    }
    r->theta.value *= pow(r->alpha.value, r->dim / (r->dim - 2.0));
    return fill_default(r, path, err);
}

static const struct rope_type {
    const char *name;
    int (*fill)(struct rope *r, const char *path, struct err *err);
    bool whole; /* it turns the whole head, whatever its partial_rotary_factor */
} rope_types[] = {
    {"default", fill_default},    {"linear", fill_linear},
    {"llama3", fill_llama3},      {"yarn", fill_yarn},
    {"deepseek_yarn", fill_yarn}, {"longrope", fill_longrope},
    {"dynamic", fill_dynamic},    {"proportional", fill_proportional, true},
};

/* The part of each head that is turned. */
static int check_part(struct rope *r, const struct settle *s, struct err *err) {
    double known = s->family->rope.partial, *part = &r->partial_rotary_factor.value;
    if (!r->partial_rotary_factor.given) {
        *part = known > 0 ? known : 1;
    }
    if (known > 0 ? !(*part > 0 && *part <= 1) : *part != 1) {
        return err_set(err,
                       "%s: partial_rotary_factor %g is not supported for this family, only %s",
                       s->path, *part, known > 0 ? "above 0 and up to 1" : "1");
    }
    return 0;
}

/* Of a family whose LongRoPE names its factors: both, and no other type beside the default one. */
static int check_mscales(const struct rope *r, const struct settle *s, struct err *err) {
    const bool is_long = strcmp(r->type, "longrope") == 0;
    if (!s->family->rope.mscaled) {
        return 0;
    }
    if (!is_long && strcmp(r->type, "default") != 0) {
        return err_set(err,
                       "%s: rope_type \"%s\" is not supported in the %s family, only default and "
                       "longrope",
                       s->path, r->type, s->family->name);
    }
    if (r->short_mscale.given != is_long || r->long_mscale.given != is_long) {
        return err_set(err,
                       "%s: RoPE keys short_mscale and long_mscale: expected both with "
                       "rope_type longrope, none without",
                       s->path);
    }
    return 0;
}

static int fill_rope(struct rope *r, struct settle *s, struct err *err) {
    if (!(r->theta.value > 0) || !isfinite((float)r->theta.value)) {
        return err_set(err, "%s: rope_theta must be a positive number, got %g", s->path,
                       r->theta.value);
    }
    if (check_mscales(r, s, err) < 0 || check_part(r, s, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof rope_types / sizeof *rope_types; i++) {
        if (strcmp(rope_types[i].name, r->type) == 0) {
            double part = rope_types[i].whole ? 1 : r->partial_rotary_factor.value;
            r->dim = (uint32_t)(r->head_dim * part);
            r->inv_freq = mem_calloc(r->dim / 2 + 1, sizeof *r->inv_freq);
            r->scale = 1;
            return rope_types[i].fill(r, s->path, err);
        }
    }
    return err_set(err,
                   "%s: rope_type \"%s\" is not supported; supported: default, linear, llama3, "
                   "yarn, longrope, dynamic with alpha, proportional",
                   s->path, r->type);
}

/* Factors on the scores of latent attention. */
static int fill_scores(const struct rope *r, struct latent_rule *latent, const char *path,
                       struct err *err) {
    const double all = or_default(&r->mscale_all_dim, 0);
    if (!latent) {
        return 0;
    }
    latent->scale = 0;
    if (strcmp(r->type, "default") != 0 && all != 0) {
        if (need(&r->factor, "factor", 0x1p-20, r, path, err) < 0) {
            return -1;
        }
        const double m = yarn_mscale(r->factor.value, all);
        latent->scale = (float)(m * m / sqrt((double)latent->nope_dim + latent->rope_dim));
    }
    if (r->query_beta.given && r->query_beta.value != 0) {
        if (need(&r->original_tok, "original_max_position_embeddings", 1, r, path, err) < 0) {
            return -1;
        }
        latent->query_beta = (float)r->query_beta.value;
        latent->query_tok = (uint32_t)fmin(r->original_tok.value, INT32_MAX);
    }
    return 0;
}

int hf_rope_add(struct settle *s, const struct hf_rope_ask *ask, uint32_t *index, struct err *err) {
    struct rope r = {.head_dim = ask->head_dim, .ctx_max_tok = s->arch->ctx_max_tok};
    if (ask->head_dim > ARCH_MAX_HEAD_DIM) {
        return err_set(err, "%s: %s is %u, expected at most %d", s->path, hf_config_key(ask->key),
                       ask->head_dim, ARCH_MAX_HEAD_DIM);
    }
    json_t *object = find_object(s, ask, err);
    int rc = object ? parse_rope(&r, s, object, err) : -1;
    if (rc == 0) {
        r.theta.value = ask->theta > 0 ? ask->theta : r.theta.value;
        const struct latent_rule *l = ask->latent;
        if (l && r.partial_rotary_factor.value * (l->nope_dim + l->rope_dim) == l->rope_dim) {
            r.partial_rotary_factor.value = 1;
        }
        rc = fill_rope(&r, s, err);
    }
    if (rc == 0) {
        rc = fill_scores(&r, ask->latent, s->path, err);
    }
    if (rc == 0) {
        *index = arch_add_rope(s->arch, r.dim, r.inv_freq, r.scale);
        if (r.long_tok > 0) {
            arch_add_long_rope(s->arch, *index, r.long_tok, r.long_inv_freq, r.long_scale);
        }
    }
    free(r.inv_freq);
    free(r.long_inv_freq);
    json_decref(object);
    return rc;
}
