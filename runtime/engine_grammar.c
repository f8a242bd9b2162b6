/*
 * engine_grammar: texts that have to have a form, as masks for whoever samples.
 *
 * Owns: the public grammars and their states, and the index of the engine's vocabulary.
 * Leaves to others: what is allowed (format/text/grammar.h), drawing.
 * Threads: corm_grammar.h says it. What an engine shares is made once, under a lock.
 */
#include "runtime/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar.h"
#include "format/text/value.h"
#include "runtime/corm_grammar.h"

enum { MASKS_BYTES = 16 << 20, SCHEMA_BYTES = 1 << 20, SCHEMA_TIMES = 32 };

struct engine_words {
    pthread_mutex_t lock;
    struct grammar_vocab *vocab; /* NULL: not made yet */
};

struct corm_grammar {
    atomic_uint users; /* who opened it, and its states */
    struct grammar *grammar;
    struct grammar_masks *masks;
    uint64_t *allowed; /* of the last mask; rows that are no token's stay 0 */
};

struct corm_grammar_state {
    struct corm_grammar *grammar;
    struct grammar_state *state;
};

/* ---- the vocabulary ---- */

struct engine_words *engine_words_new(void) {
    struct engine_words *w = mem_calloc(1, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    return w;
}

void engine_words_free(struct engine_words *w) {
    if (w) {
        grammar_vocab_free(w->vocab);
        pthread_mutex_destroy(&w->lock);
        free(w);
    }
}

/* NULL and `err` where it cannot be made. */
static const struct grammar_vocab *get_vocab(const struct corm_engine *e, struct err *err) {
    struct engine_words *w = e->words;
    const struct arch *a = &e->archive.arch;
    pthread_mutex_lock(&w->lock);
    if (!w->vocab) {
        struct grammar_vocab *made = NULL;
        if (grammar_vocab_open(&made, e->tokenizer, a->stop_ids, a->n_stop, err) == 0) {
            w->vocab = made;
        }
    }
    const struct grammar_vocab *vocab = w->vocab;
    pthread_mutex_unlock(&w->lock);
    return vocab;
}

/* ---- grammars ---- */

static int compile(struct grammar **g, enum corm_grammar_form form, const char *text, size_t bytes,
                   struct err *err) {
    /* Values take some times the bytes of their text, as each has a head. */
    struct value_arena arena = {.limit_bytes = SCHEMA_BYTES + SCHEMA_TIMES * bytes};
    struct value schema;
    if (form == CORM_GRAMMAR_GBNF) {
        return grammar_parse(g, text, bytes, err);
    }
    if (form == CORM_GRAMMAR_JSON_OBJECT) {
        return grammar_json(g, NULL, 0, NULL, err);
    }
    if (bytes > GRAMMAR_MAX_BYTES) {
        return err_set(err, "%zu bytes, expected at most %d", bytes, GRAMMAR_MAX_BYTES);
    }
    int rc = value_json_read(&arena, text, bytes, &schema, err);
    rc = rc ? rc : grammar_json(g, &schema, 0, NULL, err);
    value_arena_free(&arena);
    return rc;
}

/* The schemas' texts as values, in `arena`, each tried alone: so it is known whose it is that is
 * not supported. */
static int read_schemas(const struct corm_grammar_schema *schemas, size_t n,
                        struct value_arena *arena, struct value *values,
                        struct grammar_schema *named, struct buf *remarks, struct err *err) {
    for (size_t i = 0; i < n; i++) {
        struct grammar *alone = NULL;
        int rc =
            value_json_read(arena, schemas[i].schema, schemas[i].schema_bytes, &values[i], err);
        rc = rc ? rc
                : grammar_json(&alone, &values[i], schemas[i].strict ? 0 : GRAMMAR_LENIENT, remarks,
                               err);
        grammar_free(alone);
        if (rc) {
            return err_prefix(err, "%s", schemas[i].name);
        }
        named[i] = (struct grammar_schema){schemas[i].name, &values[i]};
    }
    return 0;
}

static int compile_with(struct grammar **g, const char *text, size_t bytes,
                        const struct corm_grammar_schema *schemas, size_t n, struct buf *remarks,
                        struct err *err) {
    size_t all = 0;
    for (size_t i = 0; i < n; i++) {
        all += schemas[i].schema_bytes;
    }
    if (all > GRAMMAR_MAX_BYTES) {
        return err_set(err, "the schemas have %zu bytes, expected at most %d", all,
                       GRAMMAR_MAX_BYTES);
    }
    struct value_arena arena = {.limit_bytes = SCHEMA_BYTES + SCHEMA_TIMES * all};
    struct value *values = mem_calloc(n, sizeof *values);
    struct grammar_schema *named = mem_calloc(n, sizeof *named);
    int rc = read_schemas(schemas, n, &arena, values, named, remarks, err);
    rc = rc ? rc : grammar_parse_with(g, text, bytes, named, n, GRAMMAR_LENIENT, NULL, err);
    value_arena_free(&arena);
    free(values);
    free(named);
    return rc;
}

static void release(struct corm_grammar *g) {
    if (g && atomic_fetch_sub(&g->users, 1) == 1) {
        grammar_masks_close(g->masks);
        grammar_free(g->grammar);
        free(g->allowed);
        free(g);
    }
}

/* Takes `compiled`, NULL where that failed, with `err`. */
static int open_masks(struct corm_grammar **grammar, const struct corm_engine *engine,
                      struct grammar *compiled, const char *what, struct err *err,
                      struct corm_error *error) {
    struct corm_grammar *g = mem_calloc(1, sizeof *g);
    const struct grammar_vocab *vocab = NULL;
    int rc = compiled ? 0 : -1;
    atomic_init(&g->users, 1);
    g->grammar = compiled;
    *grammar = NULL;
    if (rc == 0) {
        vocab = get_vocab(engine, err);
        rc = vocab ? grammar_masks_open(&g->masks, g->grammar, vocab, MASKS_BYTES, err) : -1;
    }
    if (rc < 0) {
        release(g);
        err_prefix(err, "%s", what);
        return engine_fail(error, err);
    }
    size_t words = (engine->info.vocab + 63) / 64, own = grammar_mask_words(vocab);
    g->allowed = mem_calloc(words > own ? words : own, sizeof *g->allowed);
    *grammar = g;
    return 0;
}

int corm_grammar_open(struct corm_grammar **grammar, const struct corm_engine *engine,
                      enum corm_grammar_form form, const char *text, size_t text_bytes,
                      struct corm_error *error) {
    struct err err = {0};
    struct grammar *g = NULL;
    g = compile(&g, form, text, text_bytes, &err) < 0 ? NULL : g;
    return open_masks(grammar, engine, g, form == CORM_GRAMMAR_GBNF ? "grammar" : "JSON schema",
                      &err, error);
}

int corm_grammar_open_with(struct corm_grammar **grammar, const struct corm_engine *engine,
                           const char *text, size_t text_bytes,
                           const struct corm_grammar_schema *schemas, size_t n_schemas,
                           char **remarks, struct corm_error *error) {
    struct err err = {0};
    struct grammar *g = NULL;
    struct buf lines = {0};
    g = compile_with(&g, text, text_bytes, schemas, n_schemas, &lines, &err) < 0 ? NULL : g;
    if (remarks) {
        *remarks = lines.data;
    } else {
        buf_free(&lines);
    }
    return open_masks(grammar, engine, g, "grammar", &err, error);
}

int32_t corm_added_token(const struct corm_engine *engine, const char *text, size_t text_bytes) {
    uint32_t id;
    bool special;
    for (uint32_t i = 0; (id = tokenizer_added(engine->tokenizer, i, &special)) != TOKEN_NONE;
         i++) {
        size_t bytes;
        const char *piece = tokenizer_piece(engine->tokenizer, id, &bytes);
        if (piece && bytes == text_bytes && !memcmp(piece, text, bytes)) {
            return (int32_t)id;
        }
    }
    return -1;
}

void corm_grammar_close(struct corm_grammar *grammar) {
    release(grammar);
}

/* ---- states ---- */

struct corm_grammar_state *corm_grammar_begin(struct corm_grammar *grammar) {
    struct corm_grammar_state *s = mem_calloc(1, sizeof *s);
    atomic_fetch_add(&grammar->users, 1);
    s->grammar = grammar;
    s->state = grammar_state_new(grammar->masks);
    return s;
}

void corm_grammar_end(struct corm_grammar_state *state) {
    if (state) {
        grammar_state_free(state->state);
        release(state->grammar);
        free(state);
    }
}

int corm_grammar_allowed(struct corm_grammar_state *state, size_t left_tok,
                         const uint64_t **allowed, struct corm_error *error) {
    struct err err = {0};
    *allowed = state->grammar->allowed;
    if (grammar_mask(state->state, left_tok, state->grammar->allowed, &err) < 0) {
        err_prefix(&err, "grammar");
        return engine_fail(error, &err);
    }
    return 0;
}

int corm_grammar_accept(struct corm_grammar_state *state, int32_t id, struct corm_error *error) {
    struct err err = {0};
    if (grammar_accept(state->state, (uint32_t)id, &err) < 0) {
        err_prefix(&err, "grammar");
        return engine_fail(error, &err);
    }
    return 0;
}

void corm_grammar_rest(struct corm_grammar *grammar) {
    grammar_masks_rest(grammar->masks);
}

int corm_grammar_accept_text(struct corm_grammar_state *state, const char *text, size_t text_bytes,
                             struct corm_error *error) {
    struct err err = {0};
    if (grammar_accept_text(state->state, text, text_bytes, &err) < 0) {
        err_prefix(&err, "grammar");
        return engine_fail(error, &err);
    }
    return 0;
}

bool corm_grammar_is_over(const struct corm_grammar_state *state) {
    return grammar_is_over(state->state);
}
