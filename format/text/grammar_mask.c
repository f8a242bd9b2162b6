/*
 * Masks: the automaton of a grammar walked through the tries of a vocabulary.
 *
 * Two things keep that fast. Masks are kept by state. And where every plain character (see
 * grammar_vocab.h) leads from a state to the same next one, as inside of a string, the plain
 * tokens are not walked: those of at most k characters are allowed where k such steps can be made,
 * which are few, as each state knows its next one. That holds only where the chain of such states
 * goes on for ever or ends in a state from which no plain character leads on (a string that has
 * its greatest length); else all tokens are walked.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_auto.h"
#include "format/text/grammar_vocab.h"

enum {
    USUAL_BUDGET = 64 << 20,
    LEAST_BYTES = 64 << 20,  /* that a single mask may add, whatever the budget */
    MOST_WORK = 20000000,    /* configurations looked at for one mask: a second or so */
    PLAIN_MIXED = 0xfffffffe /* of auto_state.plain: not all plain characters lead to one state */
};

struct kept {
    uint32_t state;   /* whose mask it is; AUTO_UNKNOWN: of none */
    uint32_t longest; /* greatest `shortest` of what an allowed token leads to */
    uint64_t used;
    bool any;
};

struct grammar_state {
    struct grammar_masks *m;
    struct grammar_state *next, **back; /* in the list of all */
    uint32_t state;
    bool ended;
};

struct grammar_masks {
    struct grammar_auto automaton;
    const struct grammar_vocab *v;
    uint32_t *tokens;  /* [g->n_tokens] ids of the named tokens */
    size_t auto_bytes; /* the automaton is swept above */
    struct kept *kept; /* [n_kept] */
    uint64_t *masks;   /* [n_kept][words], taken from the system as they are used */
    size_t n_kept, n_used;
    uint64_t clock, asked, cached;
    uint32_t *path; /* [depth + 1] states of a walk */
    struct grammar_state *states;
};

/* ---- plain characters ---------------------------------------------------------------------- */

/* The plain ones of ASCII, and well-formed UTF-8 beyond, byte by byte (Unicode, table 3-7). */
static const struct {
    uint8_t n, low[4], high[4];
} plain_rows[] = {
    {1, {0x20}, {0x21}},
    {1, {0x23}, {0x5b}},
    {1, {0x5d}, {0x7e}},
    {2, {0xc2, 0x80}, {0xdf, 0xbf}},
    {3, {0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}},
    {3, {0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}},
    {3, {0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}},
    {3, {0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}},
    {4, {0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}},
    {4, {0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}},
    {4, {0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}},
};

/* Whether all of a row's characters lead from `state` to *to, which is set by the first. */
static bool row_leads(struct grammar_auto *a, size_t row, unsigned i, uint32_t state,
                      uint32_t *to) {
    const bool more = i + 1 < 4 && i + 1 < plain_rows[row].n;
    uint32_t last = a->g->class_of[plain_rows[row].high[i]];
    for (uint32_t c = a->g->class_of[plain_rows[row].low[i]]; c <= last; c++) {
        uint32_t next = auto_next(a, state, c);
        if (a->failed) {
            return false;
        }
        if (more && next != AUTO_DEAD) {
            if (!row_leads(a, row, i + 1, next, to)) {
                return false;
            }
        } else if (*to == AUTO_UNKNOWN) {
            *to = next;
        } else if (*to != next) {
            return false;
        }
    }
    return true;
}

/* Where every plain character leads from a state: a state, AUTO_DEAD (nowhere) or PLAIN_MIXED. */
static uint32_t plain_next(struct grammar_auto *a, uint32_t state) {
    uint32_t to = AUTO_UNKNOWN;
    if (a->states[state].plain != AUTO_UNKNOWN) {
        return a->states[state].plain;
    }
    for (size_t row = 0; row < sizeof plain_rows / sizeof plain_rows[0]; row++) {
        if (!row_leads(a, row, 0, state, &to)) {
            to = PLAIN_MIXED;
            break;
        }
    }
    if (!a->failed) {
        a->states[state].plain = to;
    }
    return to;
}

/* How many plain characters may follow whatever they are, at most `most`; -1 where it is not as
 * simple. *longest as in `struct kept`. */
static int plain_steps(struct grammar_auto *a, uint32_t state, int most, uint32_t *longest) {
    for (int k = 0; k < most; k++) {
        uint32_t next = plain_next(a, state);
        if (next == AUTO_DEAD || next == PLAIN_MIXED) {
            return next == AUTO_DEAD ? k : -1;
        }
        if (a->states[next].shortest > *longest) {
            *longest = a->states[next].shortest;
        }
        if (next == state) {
            return most;
        }
        state = next;
    }
    return most;
}

/* ---- one mask ------------------------------------------------------------------------------ */

/* Sets the bits of the tokens of a trie that lead from `state` to one whose shortest completion is
 * at most `limit` bytes. */
static void walk(struct grammar_masks *m, const struct trie *t, uint32_t state, uint32_t limit,
                 uint64_t *mask, uint32_t *longest) {
    struct grammar_auto *a = &m->automaton;
    const uint8_t *class_of = a->g->class_of;
    uint32_t *path = m->path, greatest = *longest;
    path[0] = state;
    for (uint32_t i = 0; i < t->n_nodes;) {
        const struct trie_node *n = &t->nodes[i];
        uint32_t next = auto_next(a, path[n->depth], class_of[n->byte]);
        if (next == AUTO_DEAD) {
            if (a->failed) {
                return;
            }
            i = n->skip;
            continue;
        }
        path[n->depth + 1] = next;
        if (n->ids != n[1].ids && a->states[next].shortest <= limit) {
            if (a->states[next].shortest > greatest) {
                greatest = a->states[next].shortest;
            }
            for (uint32_t k = n->ids; k < n[1].ids; k++) {
                mask[t->ids[k] / 64] |= UINT64_C(1) << t->ids[k] % 64;
            }
        }
        i++;
    }
    *longest = greatest;
}

static void make_mask(struct grammar_masks *m, uint32_t state, uint32_t limit, uint64_t *mask,
                      uint32_t *longest) {
    struct grammar_auto *a = &m->automaton;
    const struct grammar_vocab *v = m->v;
    *longest = 0;
    memset(mask, 0, v->words * sizeof *mask);
    int plain = v->n_plain && limit == GRAMMAR_ENDLESS
                    ? plain_steps(a, state, (int)v->n_plain, longest)
                    : -1;
    if (plain < 0) {
        *longest = 0;
        walk(m, &v->all, state, limit, mask, longest);
    } else {
        memcpy(mask, v->plain + (size_t)plain * v->words, v->words * sizeof *mask);
        walk(m, &v->rest, state, limit, mask, longest);
    }
    for (size_t t = 0; t < a->g->n_tokens && a->states[state].tokens; t++) {
        uint32_t next = auto_token(a, state, (uint32_t)t), id = m->tokens[t];
        if (next != AUTO_DEAD && a->states[next].shortest <= limit) {
            mask[id / 64] |= UINT64_C(1) << id % 64;
            *longest = a->states[next].shortest > *longest ? a->states[next].shortest : *longest;
        }
    }
    for (size_t i = 0; i < v->n_ends && a->states[state].may_end; i++) {
        mask[v->ends[i] / 64] |= UINT64_C(1) << v->ends[i] % 64;
    }
}

static bool any_bit(const uint64_t *mask, size_t words) {
    uint64_t any = 0;
    for (size_t i = 0; i < words; i++) {
        any |= mask[i];
    }
    return any != 0;
}

/* A place for a state's mask: a free one, or that of the mask that was used longest ago. */
static struct kept *take_place(struct grammar_masks *m) {
    if (m->n_used < m->n_kept) {
        return &m->kept[m->n_used++];
    }
    struct kept *oldest = &m->kept[0];
    for (size_t i = 1; i < m->n_kept; i++) {
        oldest = m->kept[i].used < oldest->used ? &m->kept[i] : oldest;
    }
    if (oldest->state >= AUTO_FIRST) {
        m->automaton.states[oldest->state].slot = GRAMMAR_NONE;
    }
    return oldest;
}

static void begin(struct grammar_masks *m) {
    m->automaton.failed = false;
    m->automaton.work = 0;
    m->automaton.most_bytes = 2 * m->auto_bytes + LEAST_BYTES;
}

/* Drop the states that nobody holds, and all masks with them. */
static void drop_kept(struct grammar_masks *m) {
    struct grammar_auto *a = &m->automaton;
    uint32_t **held = NULL;
    size_t n = 0, cap = 0;
    for (struct grammar_state *s = m->states; s; s = s->next) {
        held = mem_grow(held, n + 1, &cap, sizeof *held);
        held[n++] = &s->state;
    }
    auto_sweep(a, held, n);
    free(held);
    m->n_used = 0;
}

/* Where states take too much. */
static void sweep(struct grammar_masks *m) {
    struct grammar_auto *a = &m->automaton;
    if (auto_bytes(a) <= m->auto_bytes) {
        return;
    }
    drop_kept(m);
    /* What the open states need alone may be near the limit: then it is to be reached later, so
     * that not every call sweeps. */
    size_t least = 2 * auto_bytes(a);
    m->auto_bytes = m->auto_bytes > least ? m->auto_bytes : least;
}

int grammar_mask(struct grammar_state *s, size_t left, uint64_t *mask, struct err *err) {
    struct grammar_masks *m = s->m;
    struct grammar_auto *a = &m->automaton;
    const size_t words = m->v->words;
    m->asked++;
    if (s->ended) {
        return err_set(err, "the text has ended already");
    }
    sweep(m);
    begin(m);
    struct kept *k =
        a->states[s->state].slot == GRAMMAR_NONE ? NULL : &m->kept[a->states[s->state].slot];
    if (k) {
        m->cached++;
    } else {
        k = take_place(m);
        size_t at = (size_t)(k - m->kept);
        k->state = AUTO_UNKNOWN;
        make_mask(m, s->state, GRAMMAR_ENDLESS, m->masks + at * words, &k->longest);
        if (a->failed) {
            k->used = 0;
            return err_set(err, "%s", a->why);
        }
        k->any = any_bit(m->masks + at * words, words);
        k->state = s->state;
        a->states[s->state].slot = (uint32_t)at;
    }
    k->used = ++m->clock;
    if (!k->any) {
        return err_set(
            err, a->states[s->state].may_end
                     ? "the text is complete, and no token of the vocabulary ends it"
                     : "no token of the vocabulary goes on with the text as the grammar asks");
    }
    memcpy(mask, m->masks + (size_t)(k - m->kept) * words, words * sizeof *mask);
    if (left && k->longest > left - 1) {
        uint32_t longest;
        uint64_t *near = mem_alloc(words * sizeof *near);
        make_mask(m, s->state, (uint32_t)(left - 1), near, &longest);
        if (!a->failed && any_bit(near, words)) {
            memcpy(mask, near, words * sizeof *mask);
        }
        free(near);
    }
    return a->failed ? err_set(err, "%s", a->why) : 0;
}

/* ---- accepting ----------------------------------------------------------------------------- */

static uint32_t after_text(struct grammar_auto *a, uint32_t state, const char *text, size_t n) {
    for (size_t i = 0; i < n && state != AUTO_DEAD; i++) {
        state = auto_next(a, state, a->g->class_of[(uint8_t)text[i]]);
    }
    return state;
}

int grammar_accept(struct grammar_state *s, uint32_t id, struct err *err) {
    struct grammar_masks *m = s->m;
    struct grammar_auto *a = &m->automaton;
    const struct grammar_vocab *v = m->v;
    if (s->ended) {
        return err_set(err, "the text has ended already");
    }
    if (id >= v->n) {
        return err_set(err, "there is no token %u", id);
    }
    sweep(m);
    begin(m);
    if (vocab_is_end(v, id) && a->states[s->state].may_end) {
        s->ended = true;
        return 0;
    }
    uint32_t next = AUTO_DEAD, bytes = v->first[id + 1] - v->first[id];
    for (size_t t = 0; t < a->g->n_tokens && next == AUTO_DEAD; t++) {
        if (m->tokens[t] == id) {
            next = auto_token(a, s->state, (uint32_t)t);
        }
    }
    if (next == AUTO_DEAD && !v->added[id] && bytes && !vocab_is_end(v, id)) {
        next = after_text(a, s->state, v->bytes + v->first[id], bytes);
    }
    if (next == AUTO_DEAD) {
        return a->failed ? err_set(err, "%s", a->why)
                         : err_set(err, "the grammar does not allow token %u here", id);
    }
    s->state = next;
    return 0;
}

int grammar_accept_text(struct grammar_state *s, const char *text, size_t n, struct err *err) {
    struct grammar_auto *a = &s->m->automaton;
    if (s->ended && n) {
        return err_set(err, "the text has ended already");
    }
    sweep(s->m);
    begin(s->m);
    for (size_t i = 0, done = 0; i < n; i = done) {
        /* Long texts are taken in pieces, so that the bound on steps is of each. */
        done = n - i < 1024 ? n : i + 1024;
        a->work = 0;
        uint32_t next = after_text(a, s->state, text + i, done - i);
        if (next == AUTO_DEAD) {
            return a->failed ? err_set(err, "%s", a->why)
                             : err_set(err, "the grammar does not allow this text");
        }
        s->state = next;
    }
    return 0;
}

bool grammar_may_end(const struct grammar_state *s) {
    return s->ended || s->m->automaton.states[s->state].may_end;
}

bool grammar_is_over(const struct grammar_state *s) {
    const struct auto_state *state = &s->m->automaton.states[s->state];
    return s->ended || (state->may_end && state->n == 1);
}

size_t grammar_shortest(const struct grammar_state *s) {
    return s->ended ? 0 : s->m->automaton.states[s->state].shortest;
}

/* ---- lifetime ------------------------------------------------------------------------------ */

int grammar_masks_open(struct grammar_masks **out, const struct grammar *g,
                       const struct grammar_vocab *v, size_t budget_bytes, struct err *err) {
    *out = NULL;
    budget_bytes = budget_bytes ? budget_bytes : USUAL_BUDGET;
    uint32_t *tokens = mem_calloc(g->n_tokens, sizeof *tokens);
    for (size_t i = 0; i < g->n_tokens; i++) {
        tokens[i] = vocab_named(v, g->tokens[i]);
        if (tokens[i] == GRAMMAR_NONE) {
            free(tokens);
            return err_set(err, "the grammar names the token %s, which the model does not have",
                           g->tokens[i]);
        }
    }
    struct grammar_masks *m = mem_calloc(1, sizeof *m);
    size_t mask_bytes = v->words * sizeof *m->masks;
    m->v = v;
    m->tokens = tokens;
    m->auto_bytes = budget_bytes / 2;
    m->n_kept = budget_bytes / 2 / mask_bytes + 1;
    m->kept = mem_calloc(m->n_kept, sizeof *m->kept);
    m->masks = mem_alloc(m->n_kept * mask_bytes);
    m->path = mem_calloc(v->all.depth + 1, sizeof *m->path);
    auto_open(&m->automaton, g);
    m->automaton.most_work = MOST_WORK;
    if (m->automaton.failed) {
        err_set(err, "%s", m->automaton.why);
        grammar_masks_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

void grammar_masks_rest(struct grammar_masks *m) {
    drop_kept(m);
    free(m->masks);
    m->masks = mem_alloc(m->n_kept * m->v->words * sizeof *m->masks);
}

void grammar_masks_close(struct grammar_masks *m) {
    if (!m) {
        return;
    }
    auto_close(&m->automaton);
    free(m->tokens);
    free(m->kept);
    free(m->masks);
    free(m->path);
    free(m);
}

static struct grammar_state *new_state(struct grammar_masks *m, uint32_t state) {
    struct grammar_state *s = mem_calloc(1, sizeof *s);
    s->m = m;
    s->state = state;
    s->next = m->states;
    s->back = &m->states;
    if (m->states) {
        m->states->back = &s->next;
    }
    m->states = s;
    return s;
}

struct grammar_state *grammar_state_new(struct grammar_masks *m) {
    return new_state(m, m->automaton.start);
}

struct grammar_state *grammar_state_copy(const struct grammar_state *s) {
    struct grammar_state *copy = new_state(s->m, s->state);
    copy->ended = s->ended;
    return copy;
}

void grammar_state_free(struct grammar_state *s) {
    if (!s) {
        return;
    }
    *s->back = s->next;
    if (s->next) {
        s->next->back = s->back;
    }
    free(s);
}

struct grammar_figures grammar_masks_figures(const struct grammar_masks *m) {
    const struct grammar_auto *a = &m->automaton;
    return (struct grammar_figures){
        .masks = m->asked,
        .cached = m->cached,
        .transitions = a->transitions,
        .swept = a->sweeps,
        .states = a->n_states - AUTO_FIRST,
        .frames = a->n_frames,
        .bytes = auto_bytes(a) + m->n_used * m->v->words * sizeof *m->masks,
    };
}
