#include "runtime/model/router.h"

static const struct route_rule *rule_of(const struct forward_site *at) {
    return &arch_kind(at->arch, at->layer)->route;
}

const float *router_input(const struct forward_site *at, const float *residual, uint32_t rows,
                          float *out) {
    const uint32_t input = rule_of(at)->input;
    const enum slot_id norm = input == ROUTE_OWN_NORM      ? SLOT_ROUTER_NORM
                              : input == ROUTE_LAYER_INPUT ? SLOT_COUNT
                                                           : forward_ffn_norm(at->arch, at->layer);
    return forward_norm(at, norm, residual, rows, out);
}

void router_logits(const struct forward_site *at, const float *in, uint32_t rows, float *logits) {
    at->be->ops->matmul(at->be->self, &at->lw->w[SLOT_ROUTER], &at->lw->w[SLOT_ROUTER_BIAS], in,
                        rows, logits);
    if (rule_of(at)->logit_cap > 0) {
        at->be->ops->softcap(at->be->self, logits, (size_t)rows * at->arch->n_experts,
                             rule_of(at)->logit_cap);
    }
}

static void route(const struct forward_site *at, const float *logits, uint32_t rows, uint32_t n,
                  int32_t *ids, float *weights) {
    at->be->ops->route(at->be->self, rule_of(at), &at->lw->w[SLOT_ROUTER_SELECT],
                       &at->lw->w[SLOT_ROUTER_FACTOR], logits, rows, at->arch->n_experts, n, ids,
                       weights);
}

void router_rank(const struct forward_site *at, const float *logits, uint32_t rows, uint32_t width,
                 int32_t *ids) {
    route(at, logits, rows, width, ids, NULL);
}

void router_choose(const struct forward_site *at, const float *logits, uint32_t rows, int32_t *ids,
                   float *weights) {
    route(at, logits, rows, at->arch->n_active, ids, weights);
}
