/*
 * mutate_metadata: changes of the numbers that describe the model. Where what comes out is a model
 * that the format allows, mutate_model writes all of the archive anew for it, so that it opens and
 * runs: with made-up weights in any mixture of encodings where it is small, else with tensors and
 * chunks that are holes of the file.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/arch_fields.h"
#include "tests/fuzz/mutate.h"
#include "tests/util/test_util_archive.h"

enum {
    MOST_ENTRIES = 300,
    MOST_WRITTEN = 1 << 20, /* parameters */
    MOST_CHUNKS = 1 << 17,
};

/* ---- entries ---- */

enum { TYPE_U32 = 1, TYPE_F32 = 2, TYPE_STRING = 3 };

struct entry {
    char key[80];
    uint32_t type, count;
    struct buf value;
};
struct entries {
    struct entry e[MOST_ENTRIES];
    uint32_t n;
};

static void parse(struct entries *x, const struct buf *b) {
    struct cursor c;
    cursor_init(&c, b->data, b->len);
    x->n = 0;
    for (uint32_t n = cursor_u32(&c); n > 0 && !c.failed && x->n < MOST_ENTRIES - 8; n--) {
        struct entry *e = &x->e[x->n];
        *e = (struct entry){0};
        uint32_t key_bytes = cursor_u16(&c);
        e->type = cursor_u16(&c);
        e->count = cursor_u32(&c);
        const uint8_t *key = cursor_bytes(&c, key_bytes);
        size_t bytes = e->type == TYPE_STRING ? e->count : (size_t)e->count * 4;
        const uint8_t *value = cursor_bytes(&c, bytes);
        if (!key || !value || key_bytes >= sizeof e->key) {
            return;
        }
        memcpy(e->key, key, key_bytes);
        buf_append(&e->value, value, bytes);
        x->n++;
    }
}

static void append_number(struct buf *b, uint32_t n, size_t bytes) {
    buf_append(b, &n, bytes); /* little-endian, as the archive is */
}

static struct buf encode(const struct entries *x) {
    struct buf b = {0};
    append_number(&b, x->n, 4);
    for (uint32_t i = 0; i < x->n; i++) {
        const struct entry *e = &x->e[i];
        append_number(&b, (uint32_t)strlen(e->key), 2);
        append_number(&b, e->type, 2);
        append_number(&b, e->count, 4);
        buf_append(&b, e->key, strlen(e->key));
        buf_append(&b, e->value.data ? e->value.data : "", e->value.len);
    }
    return b;
}

static void drop(struct entries *x) {
    for (uint32_t i = 0; i < x->n; i++) {
        buf_free(&x->e[i].value);
    }
    free(x);
}

static struct entry *find(struct entries *x, const char *key) {
    for (uint32_t i = 0; i < x->n; i++) {
        if (strcmp(x->e[i].key, key) == 0) {
            return &x->e[i];
        }
    }
    return NULL;
}

static const struct arch_field *field_of(const char *key) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        if (strcmp(arch_fields[i].key, key) == 0) {
            return &arch_fields[i];
        }
    }
    return NULL;
}

static uint32_t get(const struct entry *e, uint32_t i) {
    uint32_t v = 0;
    if (e && (i + 1) * sizeof v <= e->value.len) {
        memcpy(&v, e->value.data + i * sizeof v, sizeof v);
    }
    return v;
}

static void set(struct entry *e, uint32_t i, uint32_t v) {
    if ((i + 1) * sizeof v <= e->value.len) {
        memcpy(e->value.data + i * sizeof v, &v, sizeof v);
    }
}

/* Another number of values: the last one again, or fewer. */
static void resize(struct entry *e, uint32_t count) {
    uint32_t last = e->count ? get(e, e->count - 1) : 0;
    while (e->count < count) {
        append_number(&e->value, last, 4);
        e->count++;
    }
    e->value.len = (size_t)count * 4;
    e->count = count;
}

/* ---- changes ---- */

static uint32_t float_bits(double v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* A value that the field's range allows, mostly; small ones most of all, and its two ends. */
static uint32_t allowed(struct mutate_rng *r, const struct arch_field *f, uint32_t old) {
    bool is_float = f && f->type == FIELD_F32;
    if (!f || mutate_one_in(r, 5)) {
        return is_float ? mutate_float(r, old) : (uint32_t)mutate_number(r, old, 32);
    }
    double min = f->min, max = f->max;
    if (is_float) {
        double steps[] = {min, max, 0, 1, 0.5, 0x1p-20, max / 2, min + (max - min) * 0x1p-10};
        return float_bits(steps[mutate_below(r, sizeof steps / sizeof *steps)]);
    }
    uint64_t most = max > 0 ? (uint64_t)max : 1;
    switch (mutate_below(r, 8)) {
    case 0:
        return (uint32_t)most;
    case 1:
        return (uint32_t)min;
    case 2: /* a power of two of any size */
        return (uint32_t)((UINT64_C(1) << mutate_below(r, 20)) % (most + 1));
    case 3:
        return old + 1;
    case 4:
        return old - 1;
    case 5:
        return old * 2;
    default:
        return (uint32_t)(mutate_below(r, 17) % (most + 1));
    }
}

static void change_value(struct entries *x, struct mutate_rng *r, struct buf *log) {
    struct entry *e = &x->e[mutate_below(r, x->n)];
    if (e->type == TYPE_STRING) {
        mutate_bytes(r, (uint8_t *)e->value.data, e->value.len);
        buf_printf(log, "metadata %s: other bytes\n", e->key);
        return;
    }
    uint32_t i = mutate_below(r, e->count), old = get(e, i);
    uint32_t v = allowed(r, field_of(e->key), old);
    bool all = e->count > 1 && mutate_one_in(r, 3);
    for (uint32_t k = 0; k < e->count; k++) {
        if (all || k == i) {
            set(e, k, v);
        }
    }
    buf_printf(log, "metadata %s[%s%u] = %u (0x%x), was %u\n", e->key, all ? "all, as " : "", i, v,
               v, old);
}

static void change_count(struct entries *x, struct mutate_rng *r, struct buf *log) {
    struct entry *e = &x->e[mutate_below(r, x->n)];
    uint32_t old = e->count, count = (uint32_t)mutate_number(r, old, 11);
    if (mutate_one_in(r, 4)) { /* a lie */
        e->count = (uint32_t)mutate_number(r, old, 32);
    } else if (e->type != TYPE_STRING) {
        resize(e, count);
    }
    buf_printf(log, "metadata %s: %u values, was %u\n", e->key, e->count, old);
}

/* A field that archives leave out where it has its default. */
static void add_field(struct entries *x, struct mutate_rng *r, struct buf *log) {
    const struct arch_field *f = &arch_fields[mutate_below(r, arch_n_fields)];
    for (int tries = 0; (!f->optional || find(x, f->key)) && tries < 50; tries++) {
        f = &arch_fields[mutate_below(r, arch_n_fields)];
    }
    if (find(x, f->key) || f->type == FIELD_STRING) {
        return;
    }
    uint32_t count = 1, v = 0;
    if (f->of == FIELD_ARRAY) {
        count = mutate_one_in(r, 4) ? mutate_below(r, 8) : get(find(x, "n_layers"), 0);
    }
    struct entry *e = &x->e[x->n++];
    *e = (struct entry){.type = f->type == FIELD_F32 ? TYPE_F32 : TYPE_U32};
    memcpy(e->key, f->key, strlen(f->key));
    for (uint32_t i = 0; i < count && i < 4096; i++) {
        v = allowed(r, f, 1);
        append_number(&e->value, v, 4);
        e->count++;
    }
    buf_printf(log, "metadata %s added: %u values, the last one %u (0x%x)\n", e->key, e->count, v,
               v);
}

static void break_entry(struct entries *x, struct mutate_rng *r, struct buf *log) {
    uint32_t i = mutate_below(r, x->n);
    struct entry *e = &x->e[i];
    switch (mutate_below(r, 5)) {
    case 0:
        buf_printf(log, "metadata %s: removed\n", e->key);
        buf_free(&e->value);
        *e = x->e[--x->n];
        return;
    case 1:
        buf_printf(log, "metadata %s: twice\n", e->key);
        x->e[x->n] = *e;
        x->e[x->n].value = (struct buf){0};
        buf_append(&x->e[x->n].value, e->value.data, e->value.len);
        x->n++;
        return;
    case 2:
        e->type = (uint32_t)mutate_number(r, e->type, 16);
        buf_printf(log, "metadata %s: type %u\n", e->key, e->type);
        return;
    case 3:
        memmove(e->key + 5, e->key, 65);
        memcpy(e->key, "info.", 5);
        buf_printf(log, "metadata %s: a note\n", e->key);
        return;
    default:
        e->key[mutate_below(r, strlen(e->key))] ^= (char)(1 + mutate_below(r, 127));
        buf_printf(log, "metadata: a key that is unknown\n");
        return;
    }
}

/* More or fewer layers, or all of one kind, with everything that is given by layer. */
static void change_layers(struct entries *x, struct mutate_rng *r, struct buf *log) {
    static const char *const by_layer[] = {"window", "moe", "kind", "kv_layer"};
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 8, 17, 64, 1024};
    struct entry *layers = find(x, "n_layers");
    if (!layers) {
        return;
    }
    uint32_t n = counts[mutate_below(r, sizeof counts / sizeof *counts)];
    set(layers, 0, n);
    for (size_t i = 0; i < sizeof by_layer / sizeof *by_layer; i++) {
        struct entry *e = find(x, by_layer[i]);
        if (e) {
            resize(e, n);
        }
    }
    buf_printf(log, "metadata n_layers = %u, with all that goes by layer\n", n);
}

/* Numbers that belong together, at the ends of what is allowed. */
static void change_shape(struct entries *x, struct mutate_rng *r, struct buf *log) {
    static const struct shape {
        const char *what;
        struct {
            const char *key;
            uint32_t value;
        } of[7];
    } shapes[] = {
        {"many experts", {{"n_experts", 4096}, {"n_active", 64}, {"ffn_dim", 1}, {"dim", 4}}},
        {"many active", {{"n_experts", 64}, {"n_active", 64}, {"ffn_dim", 8}}},
        {"one expert", {{"n_experts", 1}, {"n_active", 1}}},
        {"wide experts", {{"ffn_dim", 1 << 20}, {"dim", 1}, {"n_experts", 2}, {"n_active", 1}}},
        {"no experts",
         {{"n_experts", 0}, {"n_active", 0}, {"ffn_dim", 0}, {"moe", 0}, {"dense_dim", 8}}},
        {"many heads", {{"n_heads", 4096}, {"n_kv_heads", 1}, {"head_dim", 2}, {"rope_dim", 2}}},
        {"wide heads", {{"n_heads", 1}, {"n_kv_heads", 1}, {"head_dim", 4096}}},
        {"heads", {{"n_heads", 64}, {"n_kv_heads", 64}, {"head_dim", 64}, {"rope_dim", 0}}},
        {"much of both", {{"n_heads", 4096}, {"n_kv_heads", 4096}, {"head_dim", 4096}, {"dim", 1}}},
        {"wide", {{"dim", 131072}, {"n_experts", 2}, {"n_active", 1}, {"ffn_dim", 1}}},
        {"narrow", {{"dim", 1}}},
        {"many tokens", {{"vocab", 1 << 24}, {"dim", 1}}},
        {"one token", {{"vocab", 1}}},
        {"delta",
         {{"mixer", 1},
          {"delta_k_heads", 1},
          {"delta_v_heads", 4},
          {"delta_k_dim", 3},
          {"delta_v_dim", 5},
          {"delta_conv", 16}}},
        {"wide delta",
         {{"mixer", 1},
          {"delta_k_heads", 1},
          {"delta_v_heads", 1},
          {"delta_k_dim", 4096},
          {"delta_v_dim", 4096},
          {"delta_conv", 1}}},
        {"many delta heads",
         {{"mixer", 1},
          {"delta_k_heads", 4096},
          {"delta_v_heads", 4096},
          {"delta_k_dim", 1},
          {"delta_v_dim", 1},
          {"delta_conv", 2}}},
        {"latent",
         {{"mixer", 2},
          {"latent_heads", 3},
          {"latent_q_rank", 7},
          {"latent_rank", 5},
          {"latent_nope_dim", 3},
          {"latent_rope_dim", 16},
          {"latent_v_dim", 6}}},
        {"wide latents",
         {{"mixer", 2},
          {"latent_heads", 1},
          {"latent_rank", 4096},
          {"latent_nope_dim", 4096},
          {"latent_rope_dim", 4096},
          {"latent_v_dim", 4096}}},
        {"many latent heads",
         {{"mixer", 2},
          {"latent_heads", 4096},
          {"latent_rank", 64},
          {"latent_nope_dim", 1},
          {"latent_rope_dim", 16},
          {"latent_v_dim", 1}}},
        {"groups",
         {{"route_groups", 2},
          {"route_top_groups", 1},
          {"route_group_score", 1},
          {"n_experts", 8},
          {"n_active", 8}}},
        {"wide always-on", {{"shared_dim", 1 << 16}, {"dense_dim", 1 << 16}, {"dim", 4}}},
        {"long", {{"ctx_max_tok", INT32_MAX}}},
        {"short", {{"ctx_max_tok", 1}}},
    };
    const struct shape *s = &shapes[mutate_below(r, sizeof shapes / sizeof *shapes)];
    for (size_t i = 0; i < sizeof s->of / sizeof *s->of && s->of[i].key; i++) {
        struct entry *e = find(x, s->of[i].key);
        if (!e && x->n < MOST_ENTRIES) {
            e = &x->e[x->n++];
            *e = (struct entry){.type = TYPE_U32, .count = 1};
            memcpy(e->key, s->of[i].key, strlen(s->of[i].key));
            append_number(&e->value, 0, 4);
        }
        for (uint32_t k = 0; e && k < e->count; k++) {
            set(e, k, s->of[i].value);
        }
    }
    buf_printf(log, "metadata: %s\n", s->what);
}

static void change(struct entries *x, struct mutate_rng *r, struct buf *log) {
    static void (*const changes[])(struct entries *, struct mutate_rng *, struct buf *) = {
        change_value, change_value, change_value, change_value, change_count,
        add_field,    add_field,    add_field,    break_entry,  change_layers,
        change_shape, change_shape, change_shape,
    };
    for (uint32_t n = 1 + mutate_below(r, 3); n > 0; n--) {
        if (x->n > 0 && x->n < MOST_ENTRIES - 8) {
            changes[mutate_below(r, sizeof changes / sizeof *changes)](x, r, log);
        }
    }
}

/* As many angles as the rope sets have components. */
static void follow_ropes(struct entries *x) {
    struct entry *dims = find(x, "rope_dim"), *angles = find(x, "rope_inv_freq"),
                 *scales = find(x, "rope_scale");
    uint64_t sum = 0;
    for (uint32_t i = 0; dims && i < dims->count; i++) {
        sum += get(dims, i) / 2;
    }
    if (dims && angles && scales && sum <= 1 << 15 && dims->count <= 16) {
        resize(angles, (uint32_t)sum);
        resize(scales, dims->count);
    }
}

static struct buf changed(struct image *m, struct mutate_rng *r, struct buf *log) {
    struct entries *x = mem_calloc(1, sizeof *x);
    parse(x, &image_part(m, CORM_SECTION_METADATA)->bytes);
    change(x, r, log);
    if (!mutate_one_in(r, 4)) {
        follow_ropes(x);
    }
    struct buf b = encode(x);
    drop(x);
    return b;
}

void mutate_metadata(struct image *m, struct mutate_rng *r, struct buf *log) {
    if (image_part(m, CORM_SECTION_METADATA)) {
        struct buf b = changed(m, r, log);
        image_replace(m, CORM_SECTION_METADATA, &b);
    }
}

/* ---- archives of another model ---- */

/* Take over from `built` all that follows from the model. */
static void take(struct image *m, struct image *built) {
    m->incompat = built->incompat;
    static const uint32_t types[] = {CORM_SECTION_METADATA, CORM_SECTION_TENSORS,
                                     CORM_SECTION_TRUNK, CORM_SECTION_RECORDS, CORM_SECTION_INDEX};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct image_part *from = image_part(built, types[i]);
        uint64_t hole = from->hole;
        image_replace(m, types[i], &from->bytes);
        image_part(m, types[i])->hole = hole;
    }
}

/* With made-up weights, by the project's own writer. */
static bool write_small(struct image *m, const struct arch *a, struct mutate_rng *r,
                        struct buf *log) {
    const struct codec *trunk = codec_at(mutate_below(r, 5)),
                       *expert = codec_at(mutate_below(r, 5));
    expert = codec_fits(expert, a->dim) ? expert : codec_by_id(CODEC_BF16);
    struct archive_options o = {.trunk = trunk, .expert = expert};
    o.chunk_neurons = 1 + mutate_below(r, 40);
    o.hot_neurons = o.chunk_neurons * mutate_below(r, 4);
    o.compress = (enum corm_compress)mutate_below(r, CORM_COMPRESS_WAYS);
    if (corm_compress_check(o.compress, o.expert, NULL) < 0) {
        o.compress = CORM_COMPRESS_AUTO;
    }
    const struct codec *cold = codec_at(mutate_below(r, 5));
    if (mutate_one_in(r, 3) && codec_fits(cold, a->dim) &&
        codec_row_bytes(cold, a->dim) <= codec_row_bytes(expert, a->dim) &&
        corm_compress_check(o.compress, cold, NULL) == 0) {
        o.cold = cold;
    }
    o.compress_hot = mutate_one_in(r, 2);
    o.raw_above_ratio = mutate_one_in(r, 2) ? 0.93f : 1.0f;
    bool memory = access("/dev/shm", W_OK) == 0; /* spares an fsync */
    char *path = mem_printf("%s/mutate-%ld.corm", memory ? "/dev/shm" : ".", (long)getpid());
    struct corm_write_stats stats;
    struct err err = {0};
    bool ok = archive_write(path, a, &o, &stats, &err) == 0;
    if (ok) {
        struct image built;
        image_open(&built, path);
        take(m, &built);
        image_free(&built);
        unlink(path);
        buf_printf(log, "model: weights made anew, trunk %s, experts %s in chunks of %u\n",
                   trunk->name, expert->name, o.chunk_neurons);
    } else {
        buf_printf(log, "model: not written: %s\n", err.msg);
    }
    free(path);
    return ok;
}

/* Tensors and chunks of zeros, which are a hole. */
static bool write_large(struct image *m, const struct arch *a, struct mutate_rng *r,
                        struct buf *log) {
    struct image built = {.n = 5};
    struct buf *tensors = &built.part[0].bytes, *index = &built.part[1].bytes;
    const struct codec *codec = codec_by_id(mutate_one_in(r, 2) ? CODEC_F32 : CODEC_BF16);
    struct slot_place place = {0};
    uint64_t end = 0;
    while (slot_next(a, &place)) {
        const struct slot *s = slot_at(place.slot);
        struct corm_tensor t = {.slot = (uint32_t)place.slot, .layer = place.layer};
        t.codec = s->store == SLOT_STORE_EXACT ? CODEC_F32 : codec->id;
        t.rows = s->rows(a, place.layer);
        t.cols = s->cols(a, place.layer);
        t.offset = align_up(end, CORM_CHUNK_ALIGN);
        t.bytes = (uint64_t)t.rows * codec_row_bytes(codec_by_id(t.codec), t.cols);
        end = t.offset + t.bytes;
        buf_append(tensors, &t, sizeof t);
    }
    built.part[2].hole = end;
    uint64_t neuron = 3 * codec_row_bytes(codec, a->dim), step = CORM_MAX_CHUNK_BYTES / neuron;
    uint32_t wanted = 1 + mutate_below(r, 64);
    step = step > a->ffn_dim || mutate_one_in(r, 2) ? a->ffn_dim : step;
    step = mutate_one_in(r, 2) && wanted < step ? wanted : step;
    step = step * neuron > CORM_MAX_CHUNK_BYTES ? CORM_MAX_CHUNK_BYTES / neuron : step;
    step = step ? step : 1;
    uint64_t each = (a->ffn_dim + step - 1) / step;
    struct corm_index_header h = {.codec = codec->id, .chunk_neurons = (uint32_t)step};
    h.n_records = arch_moe_layers(a) * a->n_experts;
    uint64_t n_chunks = h.n_records * each;
    bool fits = end < UINT64_C(1) << 30 && n_chunks < MOST_CHUNKS && each <= UINT16_MAX &&
                arch_params(a) * codec->block_bytes < UINT64_C(1) << 30;
    if (fits) {
        h.n_chunks = (uint32_t)n_chunks;
        buf_append(index, &h, sizeof h);
        for (uint32_t i = 0; i < h.n_records; i++) {
            struct corm_record one = {.first_chunk = (uint32_t)(i * each),
                                      .n_chunks = (uint16_t)each,
                                      .n_hot = (uint16_t)mutate_below(r, each + 1)};
            buf_append(index, &one, sizeof one);
        }
        end = 0;
        for (uint32_t i = 0; i < n_chunks; i++) {
            uint64_t left = a->ffn_dim - i % each * step;
            struct corm_chunk k = {.n_neurons = (uint32_t)(left < step ? left : step)};
            k.offset = align_up(end, i % each ? CORM_CHUNK_ALIGN : CORM_RECORD_ALIGN);
            k.stored_bytes = (uint32_t)(k.n_neurons * neuron);
            end = k.offset + k.stored_bytes;
            buf_append(index, &k, sizeof k);
        }
        built.part[3].hole = end;
        arch_encode(a, &built.part[4].bytes);
        built.part[0].type = CORM_SECTION_TENSORS;
        built.part[1].type = CORM_SECTION_INDEX;
        built.part[2].type = CORM_SECTION_TRUNK;
        built.part[3].type = CORM_SECTION_RECORDS;
        built.part[4].type = CORM_SECTION_METADATA;
        take(m, &built);
        buf_printf(log, "model: %llu parameters, all zero, %s, chunks of %llu\n",
                   (unsigned long long)arch_params(a), codec->name, (unsigned long long)step);
    }
    image_free(&built);
    return fits;
}

void mutate_model(struct image *m, struct mutate_rng *r, struct buf *log) {
    if (!image_part(m, CORM_SECTION_METADATA)) {
        return;
    }
    for (int tries = 0; tries < 20; tries++) {
        struct arch a = {0};
        struct err err = {0};
        struct buf said = {0}, b = changed(m, r, &said);
        bool done = false;
        if (arch_decode(&a, b.data, b.len, &err) == 0) {
            buf_append(log, said.data ? said.data : "", said.len);
            done = arch_params(&a) <= MOST_WRITTEN ? write_small(m, &a, r, log)
                                                   : write_large(m, &a, r, log);
        }
        arch_free(&a);
        buf_free(&b);
        buf_free(&said);
        if (done) {
            return;
        }
    }
    buf_printf(log, "model: no valid one found\n");
}
