#include "prep/hf/hf_generation.h"

#include <math.h>
#include <string.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/remark.h"

enum { MAX_STOPS = 1024 };

/* ---- stop tokens ---- */

bool hf_generation_add_stop(struct arch *a, uint32_t id) {
    for (uint32_t i = 0; i < a->n_stop; i++) {
        if (a->stop_ids[i] == id) {
            return false;
        }
    }
    a->stop_ids = mem_realloc(a->stop_ids, (a->n_stop + 1) * sizeof *a->stop_ids);
    a->stop_ids[a->n_stop++] = id;
    return true;
}

static int add_stop(struct arch *a, const json_t *v, const char *path, struct buf *remarks,
                    struct err *err) {
    char text[64];
    if (json_is_integer(v) && json_integer_value(v) == -1) { /* how some files write "none" */
        remark_add(remarks, "%s: eos_token_id: -1 is no token: left out", path);
        return 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= a->vocab) {
        return err_set(err, "%s: eos_token_id: %s is not a token id below vocab_size %u", path,
                       hf_keys_text(v, text), a->vocab);
    }
    hf_generation_add_stop(a, (uint32_t)json_integer_value(v));
    return 0;
}

/* The stop tokens that a file names: an integer, a list, null. */
static int add_stops(struct arch *a, const json_t *file, const char *path, struct buf *remarks,
                     struct err *err) {
    const json_t *eos = json_object_get(file, "eos_token_id");
    if (!eos || json_is_null(eos)) {
        return 0;
    }
    if (!json_is_array(eos)) {
        return add_stop(a, eos, path, remarks, err);
    }
    if (json_array_size(eos) > MAX_STOPS) {
        return err_set(err, "%s: eos_token_id: lists more than %d tokens", path, MAX_STOPS);
    }
    for (size_t i = 0; i < json_array_size(eos); i++) {
        if (add_stop(a, json_array_get(eos, i), path, remarks, err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* What generation_config.json names counts alone; config.json is asked where that names none. */
static int fill_stops(const struct settle *s, const json_t *gen, const char *gen_path, bool *named,
                      struct buf *remarks, struct err *err) {
    struct arch *a = s->arch;
    if (add_stops(a, gen, gen_path, remarks, err) < 0 ||
        (a->n_stop == 0 && add_stops(a, s->root, s->path, remarks, err) < 0)) {
        return -1;
    }
    *named = a->n_stop > 0;
    if (!*named && !json_object_get(s->root, "eos_token_id") && s->family->eos >= 0 &&
        s->family->eos < a->vocab) {
        hf_generation_add_stop(a, (uint32_t)s->family->eos);
    }
    return 0;
}

/* ---- sampling ---- */

static void leave_out(const char *path, const char *key, const json_t *v, const char *why,
                      struct buf *remarks) {
    char text[64];
    remark_add(remarks, "%s: %s: %s %s: left out", path, key, hf_keys_text(v, text), why);
}

static void fill_hints(struct arch *a, const json_t *gen, const char *path, struct buf *remarks) {
    const struct {
        const char *key;
        float *out;
        double above, most; /* usable: above < value <= most */
        bool whole;
        const char *expected;
    } hints[] = {
        {"temperature", &a->gen_temperature, -1, 1024, false, "is not a number of 0 to 1024"},
        {"top_p", &a->gen_top_p, -1, 1, false, "is not a number of 0 to 1"},
        {"top_k", &a->gen_top_k, -1, 1 << 24, true, "is not an integer of 0 to 16777216"},
        {"repetition_penalty", &a->gen_repeat_penalty, 0, 1024, false,
         "is not a number above 0 and up to 1024"},
    };
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        const json_t *v = json_object_get(gen, hints[i].key);
        double value = json_number_value(v);
        *hints[i].out = -1;
        if (!v || json_is_null(v)) {
            continue;
        }
        if (json_is_number(v) && value == -1 && hints[i].out == &a->gen_top_k) {
            a->gen_top_k = 0;
            remark_add(remarks, "%s: top_k: -1 is taken as 0: no limit", path);
        } else if (json_is_number(v) && value >= 0 && value > hints[i].above &&
                   value <= hints[i].most && (!hints[i].whole || value == floor(value))) {
            *hints[i].out = (float)value;
        } else {
            leave_out(path, hints[i].key, v, hints[i].expected, remarks);
        }
    }
    const json_t *sample = json_object_get(gen, "do_sample");
    if (json_is_false(sample)) { /* the publisher decodes greedily */
        a->gen_temperature = 0;
    } else if (sample && !json_is_boolean(sample) && !json_is_null(sample)) {
        leave_out(path, "do_sample", sample, "is neither true nor false", remarks);
    }
}

/* Advice that an archive has no place for, with the value that changes nothing. */
static void note_unkept(const json_t *gen, const char *path, struct buf *remarks) {
    static const struct {
        const char *key;
        double neutral;
    } unkept[] = {
        {"min_p", 0},
        {"typical_p", 1},
        {"epsilon_cutoff", 0},
        {"eta_cutoff", 0},
        {"top_h", HF_NO_NUMBER},
        {"presence_penalty", 0},
        {"frequency_penalty", 0},
        {"no_repeat_ngram_size", 0},
        {"bad_words_ids", HF_NO_NUMBER},
        {"sequence_bias", HF_NO_NUMBER},
        {"suppress_tokens", HF_NO_NUMBER},
        {"begin_suppress_tokens", HF_NO_NUMBER},
        {"forced_bos_token_id", HF_NO_NUMBER},
        {"forced_eos_token_id", HF_NO_NUMBER},
        {"stop_strings", HF_NO_NUMBER},
        {"min_length", 0},
        {"min_new_tokens", 0},
        {"num_beams", 1},
        {"penalty_alpha", 0},
        {"guidance_scale", 1},
        {"exponential_decay_length_penalty", HF_NO_NUMBER},
    };
    for (size_t i = 0; i < sizeof unkept / sizeof *unkept; i++) {
        const json_t *v = json_object_get(gen, unkept[i].key);
        if (v && !hf_keys_neutral(v, unkept[i].neutral)) {
            leave_out(path, unkept[i].key, v, "has no place in an archive", remarks);
        }
    }
}

int hf_generation_fill(const struct settle *s, const json_t *gen, const char *path, bool *named,
                       struct buf *remarks, struct err *err) {
    fill_hints(s->arch, gen, path, remarks);
    note_unkept(gen, path, remarks);
    return fill_stops(s, gen, path, named, remarks, err);
}
