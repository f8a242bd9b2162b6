/*
 * What one encode, or one token on its way through the decoders, may take: a number of bytes that
 * steps write and a number of steps. A chain of steps can multiply where each of them alone is
 * harmless, so the budget is one for the whole chain. It counts and never measures time: the same
 * text gives the same answer on every machine. One budget belongs to one thread.
 */
#include "format/text/tokenizer_internal.h"

enum {
    /* The longest honest growth is a normal form's (11 times), and each of a few steps writes the
     * text once more. */
    BYTES_BASE = 256 << 10,
    BYTES_PER_BYTE = 256,
    /* A piece costs a step, a search that is counted 16 and more: enough for each character to be
     * a piece of its own in every step, and a fraction of a second for a short text. */
    ENCODE_STEPS_BASE = 4 << 20,
    DECODE_STEPS_BASE = 256 << 10,
    LOOKS_PER_STEP = 4,   /* bytes of an added token that are compared at one place of the text */
    STEPS_PER_BYTE = 256, /* and as many for each pattern that is counted */
};

static uint64_t counted(const struct tokenizer *tok) {
    return 1 + (uint64_t)tok->n_counted;
}

void budget_encode(struct tok_budget *b, const struct tokenizer *tok) {
    *b = (struct tok_budget){.tok = tok, .bytes = BYTES_BASE, .steps = ENCODE_STEPS_BASE};
}

void budget_decode(struct tok_budget *b, const struct tokenizer *tok, size_t bytes) {
    *b = (struct tok_budget){.tok = tok, .bytes = BYTES_BASE, .steps = DECODE_STEPS_BASE};
    budget_more(b, bytes);
}

void budget_more(struct tok_budget *b, size_t bytes) {
    b->bytes += (uint64_t)BYTES_PER_BYTE * bytes;
    b->steps += counted(b->tok) * STEPS_PER_BYTE * bytes;
}

/* Take n of what is left; where less is, all of it, and false. */
static bool take(uint64_t *left, uint64_t n) {
    bool enough = n <= *left;
    *left = enough ? *left - n : 0;
    return enough;
}

int budget_bytes(struct tok_budget *b, uint32_t step, uint64_t bytes, struct err *err) {
    if (take(&b->bytes, bytes)) {
        return 0;
    }
    err_set(err, "the steps up to this one write more than %d KiB and %d times the text",
            BYTES_BASE >> 10, BYTES_PER_BYTE);
    return tokenizer_step_error(b->tok, step, err);
}

int budget_steps(struct tok_budget *b, uint32_t step, uint64_t steps, struct err *err) {
    if (take(&b->steps, steps)) {
        return 0;
    }
    err_set(err, "the steps up to this one cut the text into too many pieces, again and again");
    return tokenizer_step_error(b->tok, step, err);
}

int budget_look(struct tok_budget *b, size_t looked, struct err *err) {
    return take(&b->steps, looked / LOOKS_PER_STEP)
               ? 0
               : err_set(err, "added tokens: the text nearly holds long ones too many times");
}
