/*
 * cpu_shapes: what benchmarks see of the shapes that loops over weights choose among.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>

static struct shape_trial *trial_of(const struct backend *b, enum backend_loop loop,
                                    const struct codec *codec) {
    struct cpu_shapes *s = &((struct cpu *)b->self)->shapes;
    assert(b->ops == &cpu_ops);
    return loop == BACKEND_LOOP_MATMUL ? &s->matmul[codec->id] : &s->experts[codec->id];
}

struct backend_shapes backend_cpu_shapes(const struct backend *b, enum backend_loop loop,
                                         const struct codec *codec) {
    const struct shape_trial *t = trial_of(b, loop, codec);
    return (struct backend_shapes){t->n, t->best, shape_chosen(t)};
}

const char *backend_cpu_shape_name(enum backend_loop loop, const struct codec *codec,
                                   uint32_t shape) {
    return loop == BACKEND_LOOP_MATMUL ? cpu_matmul_shape_name(shape)
                                       : cpu_expert_shape_name(codec->id, shape);
}

void backend_cpu_force_shape(struct backend *b, enum backend_loop loop, const struct codec *codec,
                             uint32_t shape) {
    shape_force(trial_of(b, loop, codec), shape);
}
