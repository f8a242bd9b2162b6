/*
 * bench_shapes: which shape a loop over weights chooses here, and how fast each of them is.
 *
 * The loop first runs as it does in an engine, until it has chosen. Then all shapes are set in
 * turn, a pass each, so that what else the machine does meets all of them; the best pass counts, as
 * it does for all figures of the kernels.
 */
#include <assert.h>
#include <stdio.h>

#include "runtime/bench/bench.h"

enum { MOST_CALLS = 400, MIN_ROUNDS = 3 };
static const uint64_t MOST_CHOOSING_NS = 4000000000, SHAPES_NS = 1200000000;

void bench_loop(struct backend *be, enum backend_loop loop, const struct codec *codec,
                double amount, void (*pass)(void *ctx), void *ctx, struct bench_loop *out) {
    const uint64_t start = clock_ns();
    struct backend_shapes s = backend_cpu_shapes(be, loop, codec);
    assert(s.n <= BENCH_MOST_SHAPES);
    *out = (struct bench_loop){.loop = loop, .codec = codec, .n = s.n};
    while (!s.chosen && out->calls < MOST_CALLS && clock_ns() - start < MOST_CHOOSING_NS &&
           !run_interrupted()) {
        pass(ctx);
        out->calls++;
        s = backend_cpu_shapes(be, loop, codec);
    }
    out->chosen = s.chosen;
    out->shape = s.present;
    const uint64_t end = clock_ns() + SHAPES_NS;
    for (int round = 0; (round < MIN_ROUNDS || clock_ns() < end) && !run_interrupted(); round++) {
        for (uint32_t i = 0; i < s.n; i++) {
            backend_cpu_force_shape(be, loop, codec, i);
            uint64_t before = clock_ns();
            pass(ctx);
            double rate = amount / (double)(clock_ns() - before);
            out->rates[i] = rate > out->rates[i] ? rate : out->rates[i];
        }
    }
    for (uint32_t i = 0; i < s.n; i++) {
        out->best = out->rates[i] > out->rates[out->best] ? i : out->best;
    }
    backend_cpu_force_shape(be, loop, codec, s.present);
}

static const char *name_of(const struct bench_loop *l, uint32_t shape) {
    return backend_cpu_shape_name(l->loop, l->codec, shape);
}

void bench_loop_report(const struct bench_loop *l, struct run_json *json) {
    const char *what = l->loop == BACKEND_LOOP_MATMUL ? "matmul" : "experts";
    if (l->rates[l->best] == 0) {
        return; /* interrupted */
    }
    const double share = l->rates[l->shape] / l->rates[l->best];
    if (json) {
        run_json_open(json, what, '{');
        run_json_string(json, "shape", name_of(l, l->shape));
        run_json_bool(json, "chosen", l->chosen);
        run_json_u64(json, "calls", l->calls);
        run_json_open(json, "gb_per_s", '{');
        for (uint32_t i = 0; i < l->n; i++) {
            run_json_f64(json, name_of(l, i), l->rates[i]);
        }
        run_json_close(json, '}');
        run_json_close(json, '}');
        return;
    }
    printf("  %-7s %s %s after %u calls, %.0f %% of %s;", what,
           l->chosen ? "chose" : "had not chosen, but used", name_of(l, l->shape), l->calls,
           100 * share, name_of(l, l->best));
    for (uint32_t i = 0; i < l->n; i++) {
        printf(" %s %.1f", name_of(l, i), l->rates[i]);
    }
    printf("\n");
}
