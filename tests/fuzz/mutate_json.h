/*
 * mutate_json: changes of JSON, as a tree and as text.
 *
 * For mutate_checkpoint. Words, which become values and keys, come from the dictionaries of the
 * fuzz targets.
 */
#ifndef TESTS_FUZZ_MUTATE_JSON_H
#define TESTS_FUZZ_MUTATE_JSON_H

#include <jansson.h>

#include "tests/fuzz/mutate.h"

struct mutate_words {
    char *word[1024];
    uint32_t n;
};
/* Add the lines "\"word\"" of a dictionary; mutate_drop_words frees them. */
void mutate_read_words(struct mutate_words *w, const char *path);
void mutate_drop_words(struct mutate_words *w);

/* A place in a tree. */
struct mutate_place {
    json_t *parent;  /* an object or an array; NULL: the root */
    const char *key; /* in an object */
    size_t index;
    json_t *value;
};
/* To a child of the place's value; false where it has none. */
bool mutate_go_down(struct mutate_place *p, struct mutate_rng *r);

/* A new number in place of an old one. */
json_t *mutate_any_number(struct mutate_rng *r, const json_t *old);
/* `v`, which it takes over, inside an array, an object, or a Sequence of a tokenizer's; once or
 * many times. */
json_t *mutate_wrapped(struct mutate_rng *r, json_t *v);
/* Change something below `root`. `name` stands in front of its path in the log. */
void mutate_tree(json_t *root, struct mutate_rng *r, const struct mutate_words *w, const char *name,
                 struct buf *log);
/* Change JSON so that it is JSON no more, mostly. */
void mutate_text(struct buf *b, struct mutate_rng *r, struct buf *log);

bool mutate_parse(const char *text, size_t bytes, json_t **root);
/* Drops `root`. */
void mutate_unparse(json_t *root, struct buf *out);

#endif
