#include "kernels/cpu/shape.h"

#include <stdlib.h>

/* A change has to save this share of the time; less may be noise. */
static const float WORTH = 0.1f;

void shape_open(struct shape_trial *t, uint32_t n) {
    *t = (struct shape_trial){.n = n, .waiting = SHAPE_FIRST_CALLS, .draw = 1};
}

bool shape_tries(const struct shape_trial *t) {
    return t->n > 1 && t->calls >= t->waiting;
}

/* A new order of the shapes: Fisher and Yates's shuffle, by a linear congruential generator. */
static void draw_order(struct shape_trial *t) {
    for (uint32_t i = 0; i < t->n; i++) {
        t->draw = t->draw * 1664525 + 1013904223;
        uint32_t j = (t->draw >> 16) % (i + 1);
        t->order[i] = t->order[j];
        t->order[j] = (uint8_t)i;
    }
}

uint32_t shape_next(struct shape_trial *t, uint64_t bytes) {
    if (bytes < SHAPE_LEAST_BYTES || t->n < 2) {
        return t->best;
    }
    if (!shape_tries(t)) {
        t->calls += t->waiting < UINT32_MAX;
        return t->best;
    }
    uint32_t place = (t->calls - t->waiting) % t->n;
    if (place == 0) {
        draw_order(t);
    }
    return t->order[place];
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void give_verdict(struct shape_trial *t) {
    const uint32_t before = t->best;
    float medians[SHAPE_MOST];
    for (uint32_t i = 0; i < t->n; i++) {
        qsort(t->cost[i], SHAPE_ROUNDS, sizeof t->cost[i][0], by_size);
        medians[i] = t->cost[i][SHAPE_ROUNDS / 2];
    }
    for (uint32_t i = 0; i < t->n; i++) {
        bool clear = medians[i] < medians[before] * (1 - WORTH);
        t->best = clear && medians[i] < medians[t->best] ? i : t->best;
    }
    uint32_t rarer = t->waiting * 4 < SHAPE_MOST_CALLS ? t->waiting * 4 : SHAPE_MOST_CALLS;
    t->waiting = t->best != before || rarer < SHAPE_NEXT_CALLS ? (uint32_t)SHAPE_NEXT_CALLS : rarer;
    t->calls = 0;
}

void shape_took(struct shape_trial *t, uint64_t bytes, uint64_t ns) {
    if (bytes < SHAPE_LEAST_BYTES || !shape_tries(t)) {
        return;
    }
    uint32_t call = t->calls++ - t->waiting;
    t->cost[t->order[call % t->n]][call / t->n] = (float)ns / (float)bytes;
    if (call + 1 == t->n * SHAPE_ROUNDS) {
        give_verdict(t);
    }
}

bool shape_chosen(const struct shape_trial *t) {
    return t->n > 1 && t->waiting != SHAPE_FIRST_CALLS;
}

void shape_force(struct shape_trial *t, uint32_t shape) {
    t->best = shape;
    t->calls = 0;
    t->waiting = UINT32_MAX;
}
