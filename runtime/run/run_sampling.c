/*
 * run_sampling: the options of commands that write text, and what they come to. See run.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "runtime/run/run.h"

#define FIELD(member) CLI_FIELD(struct run_writing, member)

static const struct cli_option sampling_rows[] = {
    {"temp", 0, CLI_DOUBLE, FIELD(temp), "X",
     "Temperature: below 1 keeps to likely tokens, above 1 wanders; 0 always takes the likeliest.",
     .min = 0, .max = 100, .fallback = "the model's own, else 0.8", .also = "temperature"},
    {"top-k", 0, CLI_INT, FIELD(top_k), "N", "Draw from the N likeliest tokens only; 0 = from all.",
     .min = 0, .max = 1 << 30, .fallback = "the model's own, else 40"},
    {"top-p", 0, CLI_DOUBLE, FIELD(top_p), "X",
     "Draw from the fewest tokens that hold this much of the probability; 1 = from all.", .min = 0,
     .max = 1, .fallback = "the model's own, else 0.95"},
    {"min-p", 0, CLI_DOUBLE, FIELD(min_p), "X",
     "Draw from tokens with at least this part of the likeliest one's probability; 0 = from all.",
     .min = 0, .max = 1, .fallback = "0.05"},
    {"repeat-penalty", 0, CLI_DOUBLE, FIELD(repeat_penalty), "X",
     "Make tokens that occurred lately less likely: above 1; 1 = no penalty.", .min = 0.01,
     .max = 100, .fallback = "the model's own, else 1", .also = "repetition-penalty"},
    {"repeat-last", 0, CLI_INT, FIELD(repeat_last), "N", "How far back lately reaches, in tokens.",
     .min = 0, .max = 1 << 30, .fallback = "64", .also = "repeat-last-n"},
    {"seed", 's', CLI_U64, FIELD(seed), "N",
     "The same seed, prompt and options give the same text. --stats tells the seed of a run.",
     .fallback = "a fresh one every time"},
    {0},
};

const struct cli_group run_sampling_group = {"Sampling", sampling_rows};

int run_sampling_set(const struct cli_call *call, const struct corm_engine *engine,
                     struct corm_sampling *s, struct err *err) {
    const struct run_writing *o = call->values;
    *s = corm_sampling_defaults(engine);
    if (cli_given(call, "temp")) {
        s->temperature = (float)o->temp;
    }
    if (cli_given(call, "top-k")) {
        s->top_k = (uint32_t)o->top_k;
    }
    if (cli_given(call, "top-p")) {
        s->top_p = (float)o->top_p;
    }
    if (cli_given(call, "min-p")) {
        s->min_p = (float)o->min_p;
    }
    if (cli_given(call, "repeat-penalty")) {
        s->repeat_penalty = (float)o->repeat_penalty;
    }
    if (cli_given(call, "repeat-last")) {
        s->repeat_last_tok = (uint32_t)o->repeat_last;
    }
    s->seed = o->seed;
    if (!cli_given(call, "seed")) {
        uint32_t fresh; /* short enough to be typed again */
        if (getrandom(&fresh, sizeof fresh, 0) != sizeof fresh) {
            return err_errno(err, errno, "no random seed to be had; give one with --seed");
        }
        s->seed = fresh;
    }
    return 0;
}

void run_sampling_print(const struct corm_sampling *s) {
    fprintf(stderr, "sampling --seed %" PRIu64 " --temp %g --top-k %u --top-p %g --min-p %g",
            s->seed, s->temperature, s->top_k, s->top_p, s->min_p);
    fprintf(stderr, " --repeat-penalty %g --repeat-last %u\n", s->repeat_penalty,
            s->repeat_last_tok);
}
