/*
 * grammar_vocab: the bytes of all tokens, as tries that a mask is walked through.
 *
 * A token of plain characters is one of whole UTF-8 characters that may stand in a JSON string as
 * they are and in most other texts too: none of the controls, DEL, quote or backslash. The plain
 * tokens of at most k characters are one bit set, `plain[k]`. There are two tries: of all text
 * tokens, and of those that are not in the bit sets.
 */
#ifndef FORMAT_TEXT_GRAMMAR_VOCAB_H
#define FORMAT_TEXT_GRAMMAR_VOCAB_H

#include "format/text/grammar.h"

enum { GRAMMAR_PLAIN = 48, GRAMMAR_TOKEN_BYTES = 1 << 12 /* longer tokens are never allowed */ };

/* In the order of a walk: a node's first child follows it, `skip` is behind its last descendant. */
struct trie_node {
    uint32_t skip;
    uint32_t ids; /* in `ids`: those of this node are ids .. the next node's ids */
    uint16_t depth;
    uint8_t byte;
};
struct trie {
    struct trie_node *nodes; /* [n_nodes + 1], the last one only ends the ids */
    uint32_t n_nodes;
    uint32_t *ids;
    uint32_t n_ids;
    uint32_t depth; /* greatest */
};

struct grammar_vocab {
    uint32_t n; /* ids */
    size_t words;
    char *bytes;
    uint32_t *first; /* [n + 1] places in `bytes` */
    uint8_t *added;  /* [n] */
    uint32_t *ends;
    size_t n_ends;
    struct trie all, rest;
    uint32_t n_plain; /* greatest length in characters of a plain token */
    uint64_t *plain;  /* [n_plain + 1][words] */
};

static inline bool vocab_is_end(const struct grammar_vocab *v, uint32_t id) {
    for (size_t i = 0; i < v->n_ends; i++) {
        if (v->ends[i] == id) {
            return true;
        }
    }
    return false;
}
/* The id of a named token, "<think>" or "<[12]>"; GRAMMAR_NONE-like ~0 where there is none. */
uint32_t vocab_named(const struct grammar_vocab *v, const char *name);

#endif
