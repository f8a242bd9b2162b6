#include "prep/hf/hf_names.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_BYTES = 160, NUMBER_BYTES = 12 };

/* ---- names ---- */

/* Tensors of a checkpoint that are no weights: buffers that old exporters wrote along. */
static const char *const ignored_suffixes[] = {
    ".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached",
    ".self_attn.bias",      ".self_attn.masked_bias",
};

/* What names begin with: plain, or inside a model that does more than text. */
static const struct {
    const char *body, *head;
} prefixes[] = {
    {"model.", ""},
    {"model.language_model.", ""},
    {"language_model.model.", "language_model."},
    {"thinker.model.", "thinker."},
    {"thinker.model.language_model.", "thinker."},
};

/* Write a row's name; the pattern's leading "model." stands for the checkpoint's. */
static void expand(const struct hf_names *n, const char *pattern, uint32_t layer, uint32_t expert,
                   char out[NAME_BYTES]) {
    static const char model[] = "model.";
    bool of_body = strncmp(pattern, model, sizeof model - 1) == 0;
    const char *begin = of_body ? n->body : n->head;
    const char *p = pattern + (of_body ? sizeof model - 1 : 0);
    size_t at = strlen(begin);
    memcpy(out, begin, at);
    while (*p && at + NUMBER_BYTES < NAME_BYTES) {
        bool is_layer = strncmp(p, "{L}", 3) == 0;
        if (is_layer || strncmp(p, "{E}", 3) == 0) {
            at += (size_t)snprintf(out + at, NUMBER_BYTES, "%u", is_layer ? layer : expert);
            p += 3;
        } else {
            out[at++] = *p++;
        }
    }
    out[at] = '\0';
}

struct hf_names hf_names_by(const struct hf_config *c, const struct safetensors *st,
                            const char *dir, const struct family_name *own,
                            const struct family_name *common, const char *layers) {
    return (struct hf_names){.family = c->family,
                             .st = st,
                             .dir = dir,
                             .further_layers = c->further_layers,
                             .unit_head = c->unit_head,
                             .quantised = c->quant.name != NULL,
                             .blocks = c->quant.blocks,
                             .body = prefixes[0].body,
                             .head = prefixes[0].head,
                             .own = own,
                             .common = common,
                             .layers = layers};
}

struct hf_names hf_names_of(const struct hf_config *c, const struct safetensors *st,
                            const char *dir) {
    struct hf_names n = hf_names_by(c, st, dir, c->family->names, family_common, "model.layers.");
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        struct hf_names other = n;
        other.body = prefixes[i].body;
        other.head = prefixes[i].head;
        struct hf_numbers embed;
        struct err later = {0}; /* what cannot be read is told when it is bound */
        if (hf_names_find(&other, SLOT_EMBED, 0, &embed, &later) != 0) {
            return other;
        }
    }
    return n;
}

/* The rows of a slot: the own ones, where there are any. */
static const struct family_name *rows_of(const struct hf_names *n, enum slot_id slot) {
    for (const struct family_name *r = n->own; r->pattern; r++) {
        if (r->slot == slot) {
            return n->own;
        }
    }
    return n->common;
}

/* The next row of a slot in a layer from `r` on; NULL past the last. */
static const struct family_name *next_row(const struct family_name *r, enum slot_id slot,
                                          bool moe) {
    while (r->pattern && (r->slot != slot || (r->when == FAMILY_MOE_LAYER && !moe) ||
                          (r->when == FAMILY_DENSE_LAYER && moe))) {
        r++;
    }
    return r->pattern ? r : NULL;
}

int hf_names_find(const struct hf_names *n, enum slot_id slot, uint32_t layer,
                  struct hf_numbers *numbers, struct err *err) {
    const struct family_name *r = rows_of(n, slot);
    int found = 0;
    *numbers = (struct hf_numbers){0};
    for (; found == 0 && (r = next_row(r, slot, true)) != NULL; r++) {
        char name[NAME_BYTES];
        expand(n, r->pattern, layer, 0, name);
        found = hf_numbers_find(numbers, n->st, name, n->blocks, err);
    }
    return found;
}

/* ---- binding ---- */

struct binder {
    const struct hf_names *names;
    const struct arch *a;
    bool *used; /* [st_count] tensors that some slot holds */
};

static void use(struct binder *b, const struct hf_numbers *numbers) {
    const struct st_tensor *tensors[HF_NUMBERS_TENSORS];
    hf_numbers_tensors(numbers, tensors);
    for (size_t i = 0; i < HF_NUMBERS_TENSORS; i++) {
        if (tensors[i]) {
            b->used[tensors[i] - st_at(b->names->st, 0)] = true;
        }
    }
}

/* A copy of a tensor that does not count because the index does not list it there; or NULL. */
static const struct st_tensor *skipped_copy(const struct safetensors *st, const char *name) {
    for (size_t i = 0; i < st_skipped_count(st); i++) {
        if (strcmp(st_skipped(st, i)->name, name) == 0) {
            return st_skipped(st, i);
        }
    }
    return NULL;
}

/* Nothing has the slot's tensor: name all spellings. */
static int missing(const struct binder *b, enum slot_id slot, uint32_t layer, uint32_t expert,
                   bool moe, struct err *err) {
    struct buf text = {0};
    const struct st_tensor *skipped = NULL;
    const struct family_name *r = rows_of(b->names, slot);
    for (; (r = next_row(r, slot, moe)) != NULL; r++) {
        char name[NAME_BYTES];
        expand(b->names, r->pattern, layer, expert, name);
        buf_printf(&text, "%s\"%s\"", text.len ? " or " : "", name);
        skipped = skipped ? skipped : skipped_copy(b->names->st, name);
    }
    if (skipped) {
        err_set(err, "%s: tensor \"%s\" is missing: %s has it, but the index does not list it",
                b->names->dir, skipped->name, skipped->file);
    } else if (text.len) {
        err_set(err, "%s: tensor %s is missing", b->names->dir, text.data);
    } else {
        err_set(err, "%s: the %s family has no tensor for %s of layer %u", b->names->dir,
                b->names->family->name, slot_at(slot)->name, layer);
    }
    buf_free(&text);
    return -1;
}

/* What the columns of the output head are divided by goes to the norm before it. */
static int bind_unit_head(const struct binder *b, struct hf_matrix *m, struct err *err) {
    struct hf_numbers head;
    int found = hf_names_find(b->names, b->a->tied ? SLOT_EMBED : SLOT_HEAD, 0, &head, err);
    if (found == 0) {
        return missing(b, SLOT_HEAD, 0, 0, true, err);
    }
    return found < 0 ? -1 : hf_matrix_over(m, b->a->vocab, &head, err);
}

/* Find and lay out the matrix of a slot that the model has. */
static int bind(struct binder *b, enum slot_id slot, uint32_t layer, uint32_t expert,
                struct hf_matrix *m, struct err *err) {
    const struct hf_names *n = b->names;
    bool moe = slot_at(slot)->scope == SLOT_OF_MODEL || arch_is_moe(b->a, layer);
    const struct family_name *r = rows_of(n, slot);
    for (; (r = next_row(r, slot, moe)) != NULL; r++) {
        char name[NAME_BYTES];
        expand(n, r->pattern, layer, expert, name);
        struct hf_numbers numbers;
        int found = hf_numbers_find(&numbers, n->st, name, n->blocks, err);
        if (found != 0) {
            use(b, &numbers);
            if (found < 0 || hf_matrix_lay(m, b->a, slot, layer, expert, r->layout, r->value,
                                           &numbers, err) < 0) {
                return -1;
            }
            return slot == SLOT_OUT_NORM && n->unit_head ? bind_unit_head(b, m, err) : 0;
        }
    }
    return missing(b, slot, layer, expert, moe, err);
}

static int bind_scope(struct binder *b, enum slot_scope scope, uint32_t layer,
                      struct hf_matrix *trunk, struct err *err) {
    for (uint32_t s = 0; s < SLOT_COUNT; s++) {
        const struct slot *slot = slot_at(s);
        if (slot->scope == scope && slot_present(slot, b->a, layer) &&
            bind(b, s, layer, 0, &trunk[s], err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A head that is the embedding once more has its place there. */
static int use_tied_head(struct binder *b, struct err *err) {
    struct hf_numbers head;
    int found = b->a->tied ? hf_names_find(b->names, SLOT_HEAD, 0, &head, err) : 0;
    if (found > 0) {
        use(b, &head);
    }
    return found < 0 ? -1 : 0;
}

static int bind_experts(struct binder *b, uint32_t layer, struct hf_matrix *experts,
                        struct err *err) {
    const struct arch *a = b->a;
    for (uint32_t e = 0; arch_is_moe(a, layer) && e < a->n_experts; e++) {
        for (uint32_t i = 0; i < HF_EXPERT_PARTS; i++) {
            if (bind(b, SLOT_EXPERT_GATE + i, layer, e, &experts[e * HF_EXPERT_PARTS + i], err) <
                0) {
                return -1;
            }
        }
    }
    return 0;
}

/* ---- what is left over ---- */

/* Whether a tensor is the one of this name, or holds scales of it. */
static bool is_part_of(const char *tensor, const char *name) {
    size_t n = strlen(name);
    return strncmp(tensor, name, n) == 0 && (tensor[n] == '\0' || tensor[n] == '_');
}

/* Whether a tensor is one of keys and values of a layer that reads those of another: files have
 * such, and nobody uses them. */
static bool is_unread(const struct binder *b, const char *tensor) {
    static const enum slot_id slots[] = {SLOT_K, SLOT_V, SLOT_K_BIAS, SLOT_V_BIAS, SLOT_K_NORM};
    for (uint32_t l = 0; l < b->a->n_layers; l++) {
        for (size_t i = 0; arch_kv_layer(b->a, l) != l && i < sizeof slots / sizeof *slots; i++) {
            const struct family_name *r = rows_of(b->names, slots[i]);
            for (; (r = next_row(r, slots[i], arch_is_moe(b->a, l))) != NULL; r++) {
                char name[NAME_BYTES];
                expand(b->names, r->pattern, l, 0, name);
                if (is_part_of(tensor, name)) {
                    return true;
                }
            }
        }
    }
    return false;
}

/* Whether a tensor is of one of the layers behind the model's. */
static bool is_further(const struct binder *b, const char *tensor) {
    char layers[NAME_BYTES], *end;
    expand(b->names, b->names->layers, 0, 0, layers);
    size_t n = strlen(layers);
    if (strncmp(tensor, layers, n) != 0 || tensor[n] < '0' || tensor[n] > '9') {
        return false;
    }
    unsigned long layer = strtoul(tensor + n, &end, 10), n_layers = b->a->n_layers;
    return *end == '.' && layer >= n_layers && layer - n_layers < b->names->further_layers;
}

static bool is_head(const struct binder *b, const char *tensor) {
    char name[NAME_BYTES];
    const struct family_name *r = next_row(rows_of(b->names, SLOT_HEAD), SLOT_HEAD, true);
    expand(b->names, r->pattern, 0, 0, name);
    return is_part_of(tensor, name);
}

/* Whether nobody misses a tensor of this name, and nobody minds it. */
static bool is_ignored(const struct binder *b, const char *tensor) {
    if (is_further(b, tensor) || (b->names->quantised && hf_numbers_of_activations(tensor))) {
        return true;
    }
    size_t n = strlen(tensor);
    for (size_t i = 0; i < sizeof ignored_suffixes / sizeof *ignored_suffixes; i++) {
        size_t k = strlen(ignored_suffixes[i]);
        if (n > k && strcmp(tensor + n - k, ignored_suffixes[i]) == 0) {
            return true;
        }
    }
    const char *const *p = b->names->family->skipped;
    while (p && *p && fnmatch(*p, tensor, 0) != 0) {
        p++;
    }
    return (p && *p) || is_unread(b, tensor);
}

static int check_left_over(const struct binder *b, struct err *err) {
    for (size_t i = 0; i < st_count(b->names->st); i++) {
        const struct st_tensor *t = st_at(b->names->st, i);
        if (!b->used[i] && !is_ignored(b, t->name)) {
            return err_set(err, "%s: tensor \"%s\" has no place in a %s model with %u layers",
                           t->file, t->name, b->a->family, b->a->n_layers);
        }
    }
    return 0;
}

/* Where the index lists a tensor that is not in its shard, something is missing, unless it is a
 * tensor that is not the model's. */
static int check_absent(const struct binder *b, struct err *err) {
    const struct safetensors *st = b->names->st;
    for (size_t i = 0; i < st_absent_count(st); i++) {
        const struct st_tensor *t = st_absent(st, i);
        if (is_ignored(b, t->name) || (b->a->tied && is_head(b, t->name))) {
            continue;
        }
        if (access(t->file, F_OK) != 0) {
            return err_set(err,
                           "%s: the shard is missing: the index says that tensor \"%s\" is in it",
                           t->file, t->name);
        }
        const struct st_tensor *other = skipped_copy(st, t->name);
        return err_set(err, "%s: has no tensor \"%s\", which the index says is in it%s%s", t->file,
                       t->name, other ? "; it is in " : "", other ? other->file : "");
    }
    return 0;
}

int hf_names_bind(const struct hf_names *n, const struct arch *a, struct hf_matrix *trunk,
                  struct hf_matrix *experts, struct err *err) {
    struct binder b = {n, a, mem_calloc(st_count(n->st), sizeof *b.used)};
    int rc = check_absent(&b, err) < 0 || use_tied_head(&b, err) < 0
                 ? -1
                 : bind_scope(&b, SLOT_OF_MODEL, 0, trunk, err);
    for (uint32_t l = 0; rc == 0 && l < a->n_layers; l++) {
        rc = bind_scope(&b, SLOT_OF_LAYER, l, trunk + (1 + (size_t)l) * SLOT_COUNT, err);
        if (rc == 0) {
            rc = bind_experts(&b, l, experts + (size_t)l * a->n_experts * HF_EXPERT_PARTS, err);
        }
    }
    if (rc == 0) {
        rc = check_left_over(&b, err);
    }
    free(b.used);
    return rc;
}
