/*
 * cuda_route: which experts a row uses. kernels/route.h is the definition, whose functions run here
 * as they are: a warp has a row, and shares out what its experts do not need of one another. What
 * is summed in order is summed by each lane; the best are found one after the other, each the first
 * of those that go after the one before it.
 */
#include "kernels/cuda/cuda_rows.inc"

/* No product and sum become one operation, so that all bits are the host's. Quotients and roots are
 * rounded as IEEE 754 says, if nvcc is not told otherwise. */
#define ROUTE_FUNCTION static __device__ __forceinline__
#define ROUTE_MUL(a, b) __fmul_rn((a), (b))
#define ROUTE_ADD(a, b) __fadd_rn((a), (b))
#include "kernels/route.h"

struct route {
    struct route_rule rule;
    const float *select, *factor, *logits;
    uint32_t n_experts, n;
    int32_t *ids;
    float *weights;
};

/* Some of what may be chosen: [0, n) in groups of `size`, those whose group's bit in `groups` is
 * `wanted`. Groups of n are one group. */
struct among {
    const float *rank;
    uint32_t n, size;
    uint64_t groups;
    bool wanted;
};

static __device__ __forceinline__ bool goes_before(const float *rank, uint32_t i, uint32_t j) {
    return route_better(rank[i], rank[j]) || (i < j && !route_better(rank[j], rank[i]));
}

/* The first of them that goes after `last` (a->n: the first of all), which is one of them; a->n
 * where there is none. By a warp, the same in every lane. */
static __device__ uint32_t next_best(const struct among *a, uint32_t last) {
    uint32_t best = a->n;
    for (uint32_t i = threadIdx.x; i < a->n; i += CUDA_WARP) {
        const uint32_t group = a->size < a->n ? i / a->size : 0;
        const bool there = (a->groups >> group & 1) == a->wanted;
        if (there && (last == a->n || goes_before(a->rank, last, i)) &&
            (best == a->n || goes_before(a->rank, i, best))) {
            best = i;
        }
    }
    for (int step = CUDA_WARP / 2; step > 0; step /= 2) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, best, step);
        if (other < a->n && (best == a->n || goes_before(a->rank, other, best))) {
            best = other;
        }
    }
    return best;
}

/* As route_choose of route.h, by a warp; group_rank [groups] is scratch. */
static __device__ void choose(const struct route_rule *rule, const float *rank, uint32_t n_experts,
                              uint32_t n, float *group_rank, int32_t *ids) {
    const uint32_t groups = rule->groups > 1 ? rule->groups : 1;
    struct among a = {rank, n_experts, n_experts / groups, 1, true};
    if (groups > 1) {
        struct among g = {group_rank, groups, groups, 1, true};
        for (uint32_t i = threadIdx.x; i < groups; i += CUDA_WARP) {
            group_rank[i] = route_group_rank(rule, rank, i, a.size);
        }
        __syncthreads();
        a.groups = 0;
        for (uint32_t i = 0, last = groups; i < rule->top_groups; i++) {
            last = next_best(&g, last);
            a.groups |= (uint64_t)1 << last;
        }
    }
    for (uint32_t i = 0, last = n_experts; i < n; i++) {
        last = next_best(&a, last);
        if (last == n_experts && a.wanted) { /* the others come behind */
            a.wanted = false;
            last = next_best(&a, last);
        }
        if (threadIdx.x == 0) {
            ids[i] = (int32_t)last;
        }
    }
}

/* A warp a row, as route_row of route.h. Shared memory: rank [n_experts], ids [n], and the ranks of
 * groups, then the weights [n]. */
__global__ void __launch_bounds__(CUDA_WARP) route_rows(struct route r) {
    const struct route_rule *rule = &r.rule;
    const float *logits = r.logits + (size_t)blockIdx.x * r.n_experts;
    float *rank = (float *)cuda_shared, *scores = rank + r.n_experts + r.n;
    int32_t *ids = (int32_t *)(rank + r.n_experts);
    const bool by_logits = route_by_logits(rule);
    float greatest = -INFINITY, sum = 0.0f;
    if (rule->score == ROUTE_SOFTMAX && (r.weights || !by_logits)) {
        for (uint32_t i = threadIdx.x; i < r.n_experts; i += CUDA_WARP) {
            greatest = logits[i] > greatest ? logits[i] : greatest;
        }
        greatest = cuda_warp_max(greatest);
        for (uint32_t i = threadIdx.x; i < r.n_experts; i += CUDA_WARP) {
            rank[i] = route_term(logits[i], greatest);
        }
        __syncthreads();
        sum = route_sum(rank, r.n_experts);
        __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < r.n_experts; i += CUDA_WARP) {
        float score = by_logits ? logits[i] : route_score_of(rule, logits[i], greatest, sum);
        rank[i] = r.select ? ROUTE_ADD(score, r.select[i]) : score;
    }
    __syncthreads();
    choose(rule, rank, r.n_experts, r.n, scores, ids);
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < r.n; j += CUDA_WARP) {
        r.ids[(size_t)blockIdx.x * r.n + j] = ids[j];
        if (r.weights) {
            scores[j] = rule->score == ROUTE_SPARSE_MIXER
                            ? route_mixer_score(rule, logits, r.n_experts, ids, j)
                            : route_score_of(rule, logits[ids[j]], greatest, sum);
        }
    }
    if (r.weights) {
        __syncthreads();
        if (threadIdx.x == 0) {
            route_weigh(rule, r.factor, ids, r.n, scores);
        }
        __syncthreads();
        for (uint32_t j = threadIdx.x; j < r.n; j += CUDA_WARP) {
            r.weights[(size_t)blockIdx.x * r.n + j] = scores[j];
        }
    }
}

void cuda_route(void *self, const struct route_rule *rule, const struct weight *select,
                const struct weight *factor, const float *logits, uint32_t rows, uint32_t n_experts,
                uint32_t n, int32_t *ids, float *weights) {
    struct cuda *c = (struct cuda *)self;
    const struct route r = {
        *rule, weight_floats(select), weight_floats(factor), logits, n_experts, n, ids, weights};
    const uint32_t scores = n > ARCH_MAX_GROUPS ? n : ARCH_MAX_GROUPS;
    CUDA_LAUNCH(c, route_rows, rows, CUDA_WARP, (n_experts + n + scores) * sizeof(float), r);
}
