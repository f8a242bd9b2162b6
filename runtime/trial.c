#include "runtime/trial.h"

#include <stdlib.h>

/* A switch has to save this share of the time; less may be noise. */
static const double WORTH = 0.03;

void trial_open(struct trial *t) {
    *t = (struct trial){.interval_tok = TRIAL_FIRST_TOK};
}

/* Which way token `tok` since the last verdict goes: 0 done, 1 left out. */
static int way_of(const struct trial *t, uint32_t tok) {
    if (tok < t->interval_tok) {
        return t->off;
    }
    uint32_t block = (tok - t->interval_tok) / TRIAL_BLOCK_TOK;
    return block == 1 || block == 2;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median(uint64_t *ns, uint32_t n) {
    qsort(ns, n, sizeof *ns, by_size);
    return (double)ns[n / 2];
}

static void give_verdict(struct trial *t) {
    bool before = t->off;
    if (t->n[0] > 0 && t->n[1] > 0) {
        double done = median(t->ns[0], t->n[0]), left_out = median(t->ns[1], t->n[1]);
        t->off = t->off ? done > left_out * (1 - WORTH) : left_out < done * (1 - WORTH);
    }
    uint32_t rarer = t->interval_tok * 4 < TRIAL_MOST_TOK ? t->interval_tok * 4 : TRIAL_MOST_TOK;
    t->interval_tok = t->off == before ? rarer : TRIAL_FIRST_TOK;
    t->tok = t->n[0] = t->n[1] = 0;
}

bool trial_token(struct trial *t, uint64_t now_ns) {
    uint32_t end = t->interval_tok + TRIAL_BLOCKS * TRIAL_BLOCK_TOK;
    if (t->tok > t->interval_tok && t->started_ns > 0) {
        uint32_t tok = t->tok - 1;
        int way = way_of(t, tok);
        if ((tok - t->interval_tok) % TRIAL_BLOCK_TOK >= TRIAL_SETTLE_TOK) {
            t->ns[way][t->n[way]++] = now_ns - t->started_ns;
        }
    }
    if (t->tok == end) {
        give_verdict(t);
    }
    t->started_ns = now_ns;
    int way = way_of(t, t->tok++);
    t->tok_off += (uint64_t)way;
    return way == 0;
}

void trial_interrupt(struct trial *t) {
    t->started_ns = 0;
}
