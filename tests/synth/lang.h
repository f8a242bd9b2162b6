/*
 * lang: the synthetic language that a synthetic model speaks.
 *
 * Owns: which token is what (bytes, words, two specials), how a word is spelled, to which topic it
 * belongs and how often it occurs; a source of text: a Markov chain over topics, and inside a topic
 * words that are drawn independently by Zipf's law.
 * Leaves to others: files (write), the model's side of it (plant).
 * Threads: a struct lang is immutable after lang_open; a struct lang_text belongs to one thread.
 *
 * Ids: 0-255 the bytes, then words, then <|endoftext|> (vocab - 2) and <|pad|> (vocab - 1). Word w
 * belongs to topic w % n_topics and has rank w / n_topics in it.
 */
#ifndef TESTS_SYNTH_LANG_H
#define TESTS_SYNTH_LANG_H

#include <stdbool.h>
#include <stdint.h>

enum { LANG_BYTES = 256, LANG_SPECIALS = 2, LANG_WORD_BYTES = 24, LANG_NO_TOPIC = -1 };

struct lang {
    uint64_t seed;
    uint32_t vocab, n_topics;
    double stay; /* chance that the next token is of the same topic */
    double zipf; /* a word of rank r has frequency (r + 2)^-zipf in its topic */
    uint32_t n_ranks;
    double entropy; /* of a word given its topic, nats */
    double *cdf;    /* [n_ranks], owned */
};

/* `l` holds seed, vocab, n_topics, stay and zipf; vocab holds a word for every topic. */
void lang_open(struct lang *l);
void lang_close(struct lang *l);

/* Topic of a token; LANG_NO_TOPIC for specials. Bytes have topics too, though text has none. */
int lang_topic(const struct lang *l, uint32_t id);
/* Log probability inside its topic plus the entropy, so that its mean over text is 0; -8 for what
 * text does not hold. */
double lang_log_weight(const struct lang *l, uint32_t id);
/* The word's letters, without the blank before it: distinct for every word. */
void lang_word(const struct lang *l, uint32_t id, char out[LANG_WORD_BYTES]);

/* A text; `stream` tells texts of one language apart. */
struct lang_text {
    const struct lang *lang;
    uint64_t key, counter;
    uint32_t topic;
};
void lang_begin(struct lang_text *t, const struct lang *l, uint64_t stream);
uint32_t lang_next(struct lang_text *t);

#endif
