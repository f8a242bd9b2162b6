/*
 * corpus: calibration text -> token sequences.
 *
 * Owns: reading text from files, directories and archives (plain, .gz, .zst, .xz, .tar, .zip,
 * through libarchive), cutting it into documents and sequences.
 * Leaves to others: the tokenizer, what the tokens are for (calib).
 * Threads: called by one thread.
 *
 * A line that is `<|endoftext|>` ends a document. Each document is tokenized by itself, as a prompt
 * is (BOS where the model has one), and cut into sequences of at most `seq_tok` tokens; a sequence
 * of fewer than CORPUS_MIN_SEQ_TOK is dropped. Files of a directory come in the order of their
 * names. Text is read and tokenized piece by piece, so that only its tokens take memory; and where
 * few of them are wanted, the corpus need not hold many more (most_tok).
 */
#ifndef PREP_CORPUS_H
#define PREP_CORPUS_H

#include "format/text/tokenizer.h"
#include "prep/stop.h"

enum { CORPUS_MIN_SEQ_TOK = 8, CORPUS_MAX_TOK = 1 << 30 };

struct corpus_seq {
    uint32_t first, n; /* tokens ids[first .. first + n) */
};

struct corpus {
    int32_t *ids;
    uint32_t n_tok;
    size_t cap_tok;
    struct corpus_seq *seqs;
    uint32_t n_seqs;
    size_t cap_seqs;
    uint64_t text_bytes;
    const volatile sig_atomic_t *stop; /* looked at between blocks of text; NULL: never */
    const char *tokenizer_of; /* what the tokenizer belongs to, for messages about it, or NULL */
    /* 0, or: as soon as there are more tokens, every second sequence is dropped, and of those that
     * follow only as many come in, so that the corpus stays evenly spread over the text. */
    uint32_t most_tok;
    uint32_t every;     /* one of so many sequences is kept; 0: all */
    uint64_t seen_seqs; /* kept or not */
};

/* Append the text at `path`; of a directory, that of all files in it. A file that holds zero
 * bytes is refused by its name, and so is one that cannot be read, or that unpacks to more than
 * 16 MiB and 64 times its size. More than CORPUS_MAX_TOK tokens in all are refused. -1 with
 * "interrupted" when c->stop says so. */
int corpus_add(struct corpus *c, const struct tokenizer *tok, const char *path, uint32_t seq_tok,
               struct err *err);
/* Append one sequence of tokens, n >= CORPUS_MIN_SEQ_TOK. */
void corpus_add_ids(struct corpus *c, const int32_t *ids, uint32_t n);
/* Keep at most max_tok tokens (0 = all): whole sequences that are evenly spread over the text, or,
 * where none of them can be kept, the beginning of the first one. */
void corpus_thin(struct corpus *c, uint32_t max_tok);
void corpus_copy(struct corpus *c, const struct corpus *from);
void corpus_free(struct corpus *c);

#endif
