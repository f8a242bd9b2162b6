#include "tests/synth/plant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"

const char *const plant_families[PLANT_FAMILIES + 1] = {"mixtral", "olmoe", "qwen2_moe",
                                                        "qwen3_moe", NULL};
enum { MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE };

const char *const plant_presets[] = {"tiny", "olmoe-7b", "qwen3-30b-small", "mixtral-small", NULL};

/* Standard deviations: of a norm's weights around 1, of unplanted head logits, of biases. */
static const float NORM_SIGMA = 0.1f, HEAD_NOISE = 0.3f, BIAS_SIGMA = 0.1f;
/* Part of the FFN's energy that a shared expert has. */
static const double SHARED_PART = 0.4;
/* Energy of a token's own part that is left in attention's average over the context. */
static const double CONTEXT_OWN = 0.15;
/* Of normal z: E[sigmoid(z)^2], E[silu(z)^2]. */
static const double SIGMOID_ENERGY = 0.293, SILU_ENERGY = 0.356;
/* Mean rate at which a delta net forgets: a tenth of its state with each token. */
static const float DELTA_RATE = 0.125f;

struct plant_shape plant_preset(int preset) {
    struct plant_shape s = {.family = OLMOE,
                            .layers = 4,
                            .dim = 128,
                            .heads = 4,
                            .kv_heads = 4,
                            .head_dim = 32,
                            .experts = 16,
                            .active = 4,
                            .ffn = 96,
                            .vocab = 1024,
                            .ctx = 4096,
                            .topics = 8,
                            .stay = 0.97,
                            .zipf = 1.0,
                            .common = 0.1,
                            .topic = 0.4,
                            .drift = 0.03,
                            .attention = 0.35,
                            .router = 1.5,
                            .gate_sigma = 0.2,
                            .up_sigma = 0.35,
                            .down_sigma = 0.35,
                            .alike = 0.5,
                            .seed = 1};
    switch (preset) {
    case 1:
        s.layers = 16, s.dim = 2048, s.heads = s.kv_heads = 16, s.head_dim = 128;
        s.experts = 64, s.active = 8, s.ffn = 1024, s.vocab = 50304, s.topics = 32;
        s.common = 0.02, s.topic = 0.17, s.stay = 0.9, s.drift = 0.027;
        break;
    case 2:
        s.family = QWEN3_MOE;
        s.layers = 8, s.dim = 1024, s.heads = 16, s.kv_heads = 4, s.head_dim = 64;
        s.experts = 128, s.active = 8, s.ffn = 384, s.vocab = 32768, s.topics = 32;
        s.common = 0.03, s.topic = 0.71, s.stay = 0.95, s.drift = 0.02, s.ctx = 32768;
        s.gate_sigma = 0.1, s.up_sigma = s.down_sigma = 0.15;
        break;
    case 3:
        s.family = MIXTRAL;
        s.layers = 8, s.dim = 1024, s.heads = 16, s.kv_heads = 4, s.head_dim = 64;
        s.experts = 8, s.active = 2, s.ffn = 3584, s.vocab = 32000, s.topics = 32;
        s.common = 0.05, s.topic = 0.1, s.drift = 0.027, s.ctx = 32768;
        break;
    default:
        break;
    }
    return s;
}

/* ---- keys and vectors ---- */

enum part { PART_NOISE, PART_GATE_SCALE, PART_UP_SCALE, PART_DOWN_SCALE };

static uint64_t tensor_key(const struct plant *p, enum slot_id slot, uint32_t layer,
                           uint32_t expert, enum part part) {
    uint64_t place = ((uint64_t)layer << 32 | expert) * 64 + (uint64_t)slot;
    return random_u64(random_u64(p->shape.seed, place), (uint64_t)part);
}

static void unit_vector(const struct plant *p, uint64_t stream, float *v) {
    uint32_t dim = p->arch.dim;
    gauss_row(&p->gauss, random_u64(p->shape.seed ^ UINT64_C(0x766563), stream), 0, dim, v);
    double squares = 0;
    for (uint32_t j = 0; j < dim; j++) {
        squares += (double)v[j] * v[j];
    }
    float scale = (float)sqrt(dim / squares);
    for (uint32_t j = 0; j < dim; j++) {
        v[j] *= scale;
    }
}

/* ---- gains, so that a layer adds what `drift` says ---- */

static double at_most(double z, double limit) {
    return z < limit ? z : limit;
}

/* What the gate and up projections of a neuron make, as the rule has it. */
static double activation(const struct ffn_rule *r, double gate, double up) {
    if (r->act == FFN_SWIGLU_OAI) {
        gate = at_most(gate, (double)r->limit);
        up = -at_most(-at_most(up, (double)r->limit), (double)r->limit) + 1;
        return gate / (1 + exp(-(double)r->alpha * gate)) * up;
    }
    return gate / (1 + exp(-gate)) * up;
}

/* Mean of (activation * down's scale)^2 over neurons and inputs. */
static double neuron_energy(const struct plant *p, const struct ffn_rule *rule) {
    const struct plant_shape *s = &p->shape;
    uint64_t key = random_u64(s->seed, UINT64_C(0x656e6572));
    double sum = 0, own = sqrt(1 - s->alike * s->alike);
    enum { DRAWS = 65536 };
    for (uint64_t i = 0; i < DRAWS; i++) {
        float z[5];
        for (uint64_t j = 0; j < 5; j++) {
            z[j] = gauss_at(&p->gauss, key, 8 * i + j);
        }
        double gate = exp(s->gate_sigma * z[0]) * z[3];
        double up = exp(s->up_sigma * z[1]) * (s->alike * z[3] + own * z[4]);
        double c = activation(rule, gate, up) * exp(s->down_sigma * z[2]);
        sum += c * c;
    }
    return sum / DRAWS;
}

/* Mean of the sum of the chosen experts' squared weights. */
static double weight_energy(const struct plant *p, const struct route_rule *rule) {
    const struct arch *a = &p->arch;
    uint64_t key = random_u64(p->shape.seed, UINT64_C(0x77656967));
    float *z = mem_calloc(a->n_experts, sizeof *z);
    double total = 0;
    enum { DRAWS = 1024 };
    for (uint64_t i = 0; i < DRAWS; i++) {
        double all = 0, chosen = 0, squares = 0;
        gauss_row(&p->gauss, random_u64(key, i), 0, a->n_experts, z);
        for (uint32_t e = 0; e < a->n_experts; e++) {
            z[e] = expf((float)p->shape.router * z[e]);
            all += z[e];
        }
        for (uint32_t k = 0; k < a->n_active; k++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < a->n_experts; e++) {
                best = z[e] > z[best] ? e : best;
            }
            chosen += z[best];
            squares += (double)z[best] * z[best];
            z[best] = 0;
        }
        double norm = rule->renorm ? chosen : all;
        total += squares / (norm * norm);
    }
    free(z);
    return total / DRAWS;
}

/* Energy of one number of what the mixer's output projection reads, and how many there are. */
static double mixer_energy(const struct plant *p, const struct layer_kind *k) {
    const struct plant_shape *s = &p->shape;
    if (k->mixer == MIXER_DELTA_NET) { /* normed heads, gated by silu */
        return delta_v_dim(&k->delta) * SILU_ENERGY;
    }
    double context = s->common + s->topic + CONTEXT_OWN;
    return attention_out_dim(&k->att) * context * (k->att.gate ? SIGMOID_ENERGY : 1);
}

static struct plant_gains gains_of(const struct plant *p, const struct layer_kind *k) {
    const struct plant_shape *s = &p->shape;
    struct plant_gains g = {0};
    double ffn = s->drift * (1 - s->attention), energy = neuron_energy(p, &k->ffn);
    double routed = k->shared_dim ? ffn * (1 - SHARED_PART) : ffn;
    g.mixer = (float)sqrt(s->drift * s->attention / mixer_energy(p, k));
    g.expert = (float)sqrt(routed / (p->arch.ffn_dim * energy * weight_energy(p, &k->route)));
    if (k->shared_dim) {
        double switched = k->shared_gate ? SIGMOID_ENERGY : 1;
        g.shared = (float)sqrt(ffn * SHARED_PART / (k->shared_dim * energy * switched));
    }
    return g;
}

static const struct plant_gains *gains_at(const struct plant *p, uint32_t layer) {
    return &p->gains[p->arch.kind[layer]];
}

/* Factor on amplitudes: how much the stream has grown before `layer`. */
static double growth(const struct plant *p, uint32_t layer) {
    return pow(1 + p->shape.drift, 0.5 * layer);
}

/* ---- opening ---- */

static int check_shape(const struct plant_shape *s, struct err *err) {
    const struct {
        const char *name;
        int value, min, max;
    } ints[] = {
        {"layers", s->layers, 1, ARCH_MAX_LAYERS},
        {"dim", s->dim, 8, 65536},
        {"heads", s->heads, 1, 1024},
        {"kv-heads", s->kv_heads, 1, s->heads},
        {"head-dim", s->head_dim, 2, 1024},
        {"experts", s->experts, 1, ARCH_MAX_EXPERTS},
        {"active", s->active, 1, s->experts},
        {"ffn", s->ffn, 1, 1 << 20},
        {"shared", s->shared, 0, 1 << 20},
        {"topics", s->topics, 1, 4096},
        {"vocab", s->vocab, LANG_BYTES + LANG_SPECIALS + s->topics, 1 << 20},
    };
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        if (ints[i].value < ints[i].min || ints[i].value > ints[i].max) {
            return err_set(err, "--%s %d: expected %d to %d here", ints[i].name, ints[i].value,
                           ints[i].min, ints[i].max);
        }
    }
    if (s->common <= 0 || s->topic <= 0 || s->common + s->topic >= 1) {
        return err_set(err, "--common %g, --topic %g: expected shares over 0 with a sum below 1",
                       s->common, s->topic);
    }
    if ((s->family == QWEN2_MOE) != (s->shared > 0)) {
        return err_set(err, "--shared %d: expected %s for family %s", s->shared,
                       s->family == QWEN2_MOE ? "a size" : "0", plant_families[s->family]);
    }
    if (s->family != QWEN3_MOE && s->head_dim * s->heads != s->dim) {
        return err_set(err, "--head-dim %d: expected dim / heads for family %s", s->head_dim,
                       plant_families[s->family]);
    }
    return 0;
}

static void fill_arch(struct arch *a, const struct plant_shape *s) {
    static const enum arch_qk_norm qk_norm[PLANT_FAMILIES] = {ARCH_QK_NORM_NONE, ARCH_QK_NORM_FULL,
                                                              ARCH_QK_NORM_NONE, ARCH_QK_NORM_HEAD};
    uint32_t half = (uint32_t)s->head_dim / 2;
    float *inv_freq = mem_calloc(half + 1, sizeof *inv_freq);
    struct layer_kind *kinds = mem_calloc((size_t)s->layers, sizeof *kinds);
    struct layer_kind kind = arch_plain_kind();
    a->family = mem_strdup(plant_families[s->family]);
    a->n_layers = (uint32_t)s->layers;
    a->dim = (uint32_t)s->dim;
    a->vocab = (uint32_t)s->vocab;
    a->ctx_max_tok = (uint32_t)s->ctx;
    a->norm_eps = s->family < QWEN2_MOE ? 1e-5f : 1e-6f;
    a->embed_scale = 1;
    a->n_experts = (uint32_t)s->experts;
    a->n_active = (uint32_t)s->active;
    a->ffn_dim = (uint32_t)s->ffn;
    a->gen_temperature = a->gen_top_p = a->gen_top_k = a->gen_repeat_penalty = -1;
    for (uint32_t i = 0; i < half; i++) {
        inv_freq[i] = powf(10000, -(float)i / (float)half);
    }
    kind.att.n_heads = (uint32_t)s->heads;
    kind.att.n_kv_heads = (uint32_t)s->kv_heads;
    kind.att.head_dim = (uint32_t)s->head_dim;
    kind.att.qkv_bias = s->family == QWEN2_MOE;
    kind.att.qk_norm = qk_norm[s->family];
    kind.att.rope = arch_add_rope(a, 2 * half, inv_freq, 1);
    kind.moe = 1;
    kind.route.renorm = s->family == MIXTRAL || s->family == QWEN3_MOE;
    kind.shared_dim = (uint32_t)s->shared;
    kind.shared_gate = s->shared > 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = kind;
    }
    arch_set_kinds(a, kinds);
    free(kinds);
    free(inv_freq);
}

int plant_open_arch(struct plant *p, const struct plant_shape *shape, struct arch *arch,
                    struct err *err) {
    *p = (struct plant){.shape = *shape, .arch = *arch};
    *arch = (struct arch){0};
    if (arch_check(&p->arch, err) < 0) {
        return -1;
    }
    p->lang = (struct lang){.seed = shape->seed,
                            .vocab = p->arch.vocab,
                            .n_topics = (uint32_t)shape->topics,
                            .stay = shape->stay,
                            .zipf = shape->zipf};
    lang_open(&p->lang);
    gauss_open(&p->gauss);
    size_t dim = p->arch.dim;
    p->common = mem_calloc(dim, sizeof *p->common);
    p->topics = mem_calloc(dim * p->lang.n_topics, sizeof *p->topics);
    unit_vector(p, 0, p->common);
    for (uint32_t t = 0; t < p->lang.n_topics; t++) {
        unit_vector(p, 1 + t, p->topics + t * dim);
    }
    p->gains = mem_calloc(p->arch.n_kinds, sizeof *p->gains);
    for (uint32_t i = 0; i < p->arch.n_kinds; i++) {
        p->gains[i] = gains_of(p, &p->arch.kinds[i]);
    }
    return 0;
}

int plant_open(struct plant *p, const struct plant_shape *shape, struct err *err) {
    struct arch arch = {0};
    *p = (struct plant){0};
    if (check_shape(shape, err) < 0) {
        return -1;
    }
    fill_arch(&arch, shape);
    return plant_open_arch(p, shape, &arch, err);
}

void plant_close(struct plant *p) {
    arch_free(&p->arch);
    lang_close(&p->lang);
    free(p->common);
    free(p->topics);
    free(p->gains);
    *p = (struct plant){0};
}

/* ---- rows ---- */

struct plant_tensor plant_tensor(const struct plant *p, enum slot_id slot, uint32_t layer,
                                 uint32_t expert) {
    const struct slot *s = slot_at(slot);
    return (struct plant_tensor){slot, layer, expert, s->rows(&p->arch, layer),
                                 s->cols(&p->arch, layer)};
}

static void noise(const struct plant *p, const struct plant_tensor *t, enum slot_id slot,
                  uint32_t row, float *dst) {
    uint64_t first = (uint64_t)row * align_up(t->cols, 4);
    gauss_row(&p->gauss, tensor_key(p, slot, t->layer, t->expert, PART_NOISE), first, t->cols, dst);
}

static void scale_row(float *row, uint32_t n, double factor) {
    for (uint32_t j = 0; j < n; j++) {
        row[j] *= (float)factor;
    }
}

static void add_scaled(float *row, uint32_t n, const float *v, double factor) {
    for (uint32_t j = 0; j < n; j++) {
        row[j] += v[j] * (float)factor;
    }
}

static void embed_row(const struct plant *p, uint32_t id, float *row) {
    const struct plant_shape *s = &p->shape;
    uint32_t dim = p->arch.dim;
    int topic = lang_topic(&p->lang, id);
    double own = 1 - s->common - (topic == LANG_NO_TOPIC ? 0 : s->topic);
    scale_row(row, dim, sqrt(own));
    add_scaled(row, dim, p->common, sqrt(s->common));
    if (topic != LANG_NO_TOPIC) {
        add_scaled(row, dim, p->topics + (size_t)topic * dim, sqrt(s->topic));
    }
}

/* The logit of a word of the present topic exceeds that of one of another by what makes the model
 * stay in its topic as the language does. */
static void head_row(const struct plant *p, uint32_t id, float *row) {
    const struct plant_shape *s = &p->shape;
    uint32_t dim = p->arch.dim;
    int topic = lang_topic(&p->lang, id);
    double grown = growth(p, p->arch.n_layers) / dim;
    double stay = s->stay + (1 - s->stay) / s->topics;
    double lift = s->topics > 1 ? log(stay / (1 - stay) * (s->topics - 1)) : 0;
    double weight = topic == LANG_NO_TOPIC ? -20 : lang_log_weight(&p->lang, id);
    scale_row(row, dim, HEAD_NOISE / sqrt(dim));
    add_scaled(row, dim, p->common, weight * grown / sqrt(s->common));
    if (topic != LANG_NO_TOPIC) {
        add_scaled(row, dim, p->topics + (size_t)topic * dim, lift * grown / sqrt(s->topic));
    }
}

/* Scale of neuron i in one of its three rows; the shared expert's neurons have them too. */
static double neuron_scale(const struct plant *p, const struct plant_tensor *t, enum part part,
                           uint32_t i) {
    static const enum slot_id first_slot[2] = {SLOT_EXPERT_GATE, SLOT_MLP_GATE};
    bool shared = slot_at(t->slot)->scope != SLOT_OF_EXPERT;
    const double sigma[] = {[PART_GATE_SCALE] = p->shape.gate_sigma,
                            [PART_UP_SCALE] = p->shape.up_sigma,
                            [PART_DOWN_SCALE] = p->shape.down_sigma};
    uint64_t key = tensor_key(p, first_slot[shared], t->layer, t->expert, part);
    return exp(sigma[part] * gauss_at(&p->gauss, key, i));
}

float plant_neuron_sigma(const struct plant *p, const struct plant_tensor *t, uint32_t i) {
    const struct plant_gains *gains = gains_at(p, t->layer);
    double from_dim = 1 / sqrt(p->arch.dim), grown = growth(p, t->layer);
    switch (t->slot) {
    case SLOT_EXPERT_GATE:
    case SLOT_MLP_GATE:
        return (float)(neuron_scale(p, t, PART_GATE_SCALE, i) * from_dim);
    case SLOT_EXPERT_UP:
    case SLOT_MLP_UP:
        return (float)(neuron_scale(p, t, PART_UP_SCALE, i) * from_dim);
    case SLOT_EXPERT_DOWN:
        return (float)(neuron_scale(p, t, PART_DOWN_SCALE, i) * gains->expert * grown);
    case SLOT_MLP_DOWN:
        return (float)(neuron_scale(p, t, PART_DOWN_SCALE, i) * gains->shared * grown);
    default:
        die("slot %d is no part of a neuron", (int)t->slot);
    }
}

static void up_row(const struct plant *p, const struct plant_tensor *t, uint32_t i, float *row,
                   float *scratch) {
    double alike = p->shape.alike;
    enum slot_id gate = t->slot == SLOT_EXPERT_UP ? SLOT_EXPERT_GATE : SLOT_MLP_GATE;
    noise(p, t, gate, i, scratch);
    scale_row(row, t->cols, sqrt(1 - alike * alike));
    add_scaled(row, t->cols, scratch, alike);
    scale_row(row, t->cols, (double)plant_neuron_sigma(p, t, i));
}

static void finish_row(const struct plant *p, const struct plant_tensor *t, uint32_t i, float *row,
                       float *scratch) {
    double grown = growth(p, t->layer), gain;
    switch (t->slot) {
    case SLOT_EMBED:
        embed_row(p, i, row);
        return;
    case SLOT_HEAD:
        head_row(p, i, row);
        return;
    case SLOT_OUT_NORM:
    case SLOT_ATTN_NORM:
    case SLOT_FFN_NORM:
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
    case SLOT_DELTA_NORM:
        for (uint32_t j = 0; j < t->cols; j++) {
            row[j] = 1 + NORM_SIGMA * row[j];
        }
        return;
    case SLOT_DELTA_RATE:
        for (uint32_t j = 0; j < t->cols; j++) {
            row[j] = DELTA_RATE * expf(row[j]);
        }
        return;
    case SLOT_EXPERT_GATE:
    case SLOT_MLP_GATE:
        gain = (double)plant_neuron_sigma(p, t, i);
        break;
    case SLOT_EXPERT_UP:
    case SLOT_MLP_UP:
        up_row(p, t, i, row, scratch);
        return;
    case SLOT_EXPERT_DOWN: /* plant_rows has the gain of each column */
    case SLOT_MLP_DOWN:
        return;
    case SLOT_Q_BIAS:
    case SLOT_K_BIAS:
    case SLOT_V_BIAS:
    case SLOT_ROUTER_BIAS:
    case SLOT_EXPERT_GATE_BIAS:
    case SLOT_EXPERT_UP_BIAS:
    case SLOT_DELTA_DT_BIAS:
        gain = BIAS_SIGMA;
        break;
    case SLOT_O_BIAS: /* a part of what the branch adds */
    case SLOT_EXPERT_DOWN_BIAS:
        gain = BIAS_SIGMA * sqrt(p->shape.drift) * grown;
        break;
    case SLOT_O:
    case SLOT_DELTA_OUT:
        gain = gains_at(p, t->layer)->mixer * grown;
        break;
    case SLOT_SINKS:
        gain = 1;
        break;
    case SLOT_ROUTER:
        gain = p->shape.router / sqrt(t->cols);
        break;
    default:
        gain = 1 / sqrt(t->cols);
        break;
    }
    scale_row(row, t->cols, gain);
}

void plant_rows(const struct plant *p, const struct plant_tensor *t, uint32_t first, uint32_t n,
                float *dst, float *scratch) {
    for (uint32_t i = 0; i < n; i++) {
        float *row = dst + (size_t)i * t->cols;
        noise(p, t, t->slot, first + i, row);
        finish_row(p, t, first + i, row, scratch);
    }
    if (t->slot == SLOT_EXPERT_DOWN || t->slot == SLOT_MLP_DOWN) { /* a column is a neuron */
        for (uint32_t j = 0; j < t->cols; j++) {
            scratch[j] = plant_neuron_sigma(p, t, j);
        }
        for (uint32_t i = 0; i < n; i++) {
            float *row = dst + (size_t)i * t->cols;
            for (uint32_t j = 0; j < t->cols; j++) {
                row[j] *= scratch[j];
            }
        }
    }
}
