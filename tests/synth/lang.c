#include "tests/synth/lang.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"
#include "tests/synth/random.h"

static const double UNSPOKEN = -8;

static uint32_t n_words(const struct lang *l) {
    return l->vocab - LANG_BYTES - LANG_SPECIALS;
}

static double rank_probability(const struct lang *l, uint32_t rank) {
    return l->cdf[rank] - (rank ? l->cdf[rank - 1] : 0);
}

void lang_open(struct lang *l) {
    l->n_ranks = n_words(l) / l->n_topics;
    l->cdf = mem_calloc(l->n_ranks, sizeof *l->cdf);
    double sum = 0;
    for (uint32_t r = 0; r < l->n_ranks; r++) {
        sum += pow(r + 2, -l->zipf);
        l->cdf[r] = sum;
    }
    for (uint32_t r = 0; r < l->n_ranks; r++) {
        l->cdf[r] /= sum;
    }
    l->entropy = 0;
    for (uint32_t r = 0; r < l->n_ranks; r++) {
        double p = rank_probability(l, r);
        l->entropy -= p > 0 ? p * log(p) : 0;
    }
}

void lang_close(struct lang *l) {
    free(l->cdf);
    l->cdf = NULL;
}

int lang_topic(const struct lang *l, uint32_t id) {
    if (id >= l->vocab - LANG_SPECIALS) {
        return LANG_NO_TOPIC;
    }
    return (int)(id < LANG_BYTES ? id % l->n_topics : (id - LANG_BYTES) % l->n_topics);
}

double lang_log_weight(const struct lang *l, uint32_t id) {
    if (id < LANG_BYTES || id >= LANG_BYTES + l->n_ranks * l->n_topics) {
        return UNSPOKEN;
    }
    return log(rank_probability(l, (id - LANG_BYTES) / l->n_topics)) + l->entropy;
}

void lang_word(const struct lang *l, uint32_t id, char out[LANG_WORD_BYTES]) {
    static const char consonants[] = "bcdfghjklmnprstvwxyz", vowels[] = "aeiou";
    uint32_t n = id - LANG_BYTES, limit = 100, n_syllables = 1, i = 0;
    (void)l;
    for (uint32_t rest = n; rest >= limit; rest -= limit, n -= limit, limit *= 100) {
        n_syllables++;
    }
    for (; n_syllables > 0; n_syllables--, n /= 100) {
        out[i++] = consonants[n % 20];
        out[i++] = vowels[n / 20 % 5];
    }
    out[i] = '\0';
}

void lang_begin(struct lang_text *t, const struct lang *l, uint64_t stream) {
    *t = (struct lang_text){.lang = l, .key = random_u64(l->seed ^ UINT64_C(0x6c616e67), stream)};
    t->topic = (uint32_t)(random_u64(t->key, t->counter++) % l->n_topics);
}

uint32_t lang_next(struct lang_text *t) {
    const struct lang *l = t->lang;
    if (random_unit(t->key, t->counter++) >= l->stay) {
        t->topic = (uint32_t)(random_u64(t->key, t->counter++) % l->n_topics);
    }
    double p = random_unit(t->key, t->counter++);
    uint32_t low = 0, high = l->n_ranks - 1;
    while (low < high) { /* the first rank whose cumulative probability exceeds p */
        uint32_t middle = low + (high - low) / 2;
        if (l->cdf[middle] > p) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return LANG_BYTES + low * l->n_topics + t->topic;
}
