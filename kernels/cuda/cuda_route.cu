/*
 * cuda_route: which experts a row uses; cuda_route.inc has how. A block of one warp has a row.
 */
#include "kernels/cuda/cuda_route.inc"

__global__ void __launch_bounds__(CUDA_WARP) route_rows(const struct cuda_route r) {
    cuda_route_row(r, blockIdx.x);
}

void cuda_queue_routes(struct cuda *c, const struct cuda_route *r, uint32_t rows) {
    CUDA_QUEUE(c, route_rows, rows, CUDA_WARP, cuda_route_bytes(r), *r);
}

void cuda_route(void *self, const struct route_rule *rule, const struct weight *select,
                const struct weight *factor, const float *logits, uint32_t rows, uint32_t n_experts,
                uint32_t n, int32_t *ids, float *weights) {
    struct cuda *c = (struct cuda *)self;
    const struct cuda_route r = {
        *rule,  weight_floats(select), weight_floats(factor), logits, n_experts, n, ids, NULL,
        weights};
    if (!cuda_fuse_route(c, &r, rows)) {
        cuda_settle(c);
        cuda_queue_routes(c, &r, rows);
    }
}
