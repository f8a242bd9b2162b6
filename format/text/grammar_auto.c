/* The automaton of a grammar; see grammar_auto.h. */
#include "format/text/grammar_auto.h"

#include <stdlib.h>
#include <string.h>

enum {
    SEEN = 8 * GRAMMAR_MAX_CONFIGS, /* a power of two */
    MOST_SEEN = SEEN / 2,
    END = 0, /* the bottom frame */
};
/* The count of a frame that a call leaves: its node, which may begin a loop, comes next. */
#define RETURNS GRAMMAR_NONE

static uint32_t mix(uint32_t a, uint32_t b) {
    uint64_t h = ((uint64_t)a << 32 | b) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32) ^ (uint32_t)(h >> 7);
}

static void fail(struct grammar_auto *a, const char *why) {
    if (!a->failed) {
        a->failed = true;
        a->why = why;
    }
}

/* ---- frames -------------------------------------------------------------------------------- */

static void grow_frames(struct grammar_auto *a) {
    uint32_t n = a->frame_buckets ? 2 * (a->frame_mask + 1) : 1024;
    free(a->frame_buckets);
    a->frame_buckets = mem_alloc(n * sizeof *a->frame_buckets);
    memset(a->frame_buckets, 0xff, n * sizeof *a->frame_buckets);
    a->frame_mask = n - 1;
    for (uint32_t i = 1; i < a->n_frames; i++) {
        struct frame *f = &a->frames[i];
        uint32_t *bucket = &a->frame_buckets[mix(mix(f->at, f->count), f->parent) & a->frame_mask];
        f->hash_next = *bucket;
        *bucket = i;
    }
}

/* What a frame adds to the shortest completion: what is behind it, and the rounds of a loop that
 * are needed besides the one that runs. */
static uint32_t frame_shortest(const struct grammar_auto *a, uint32_t at, uint32_t count,
                               uint32_t parent) {
    const struct node *n = &a->g->nodes[at];
    uint32_t rest = a->frames[parent].shortest;
    if (count == RETURNS) {
        return grammar_plus(n->shortest, rest);
    }
    const struct loop *l = &a->g->loops[n->x];
    uint32_t rounds = l->least > count + 1 ? l->least - count - 1 : 0;
    uint32_t more = grammar_times(rounds, a->g->nodes[l->body].shortest);
    return grammar_plus(grammar_plus(a->g->nodes[n->y].shortest, more), rest);
}

/* The frame with these fields; GRAMMAR_NONE where it would lie too deep. */
static uint32_t frame_find(struct grammar_auto *a, uint32_t at, uint32_t count, uint32_t parent) {
    if (a->frames[parent].depth >= GRAMMAR_MAX_FRAMES) {
        return GRAMMAR_NONE;
    }
    uint32_t h = mix(mix(at, count), parent);
    for (uint32_t i = a->frame_buckets[h & a->frame_mask]; i != GRAMMAR_NONE;
         i = a->frames[i].hash_next) {
        const struct frame *f = &a->frames[i];
        if (f->at == at && f->count == count && f->parent == parent) {
            return i;
        }
    }
    if (a->n_frames > a->frame_mask) {
        grow_frames(a);
    }
    uint32_t *bucket = &a->frame_buckets[h & a->frame_mask];
    a->frames = mem_grow(a->frames, a->n_frames + 1, &a->cap_frames, sizeof *a->frames);
    a->frames[a->n_frames] = (struct frame){.at = at,
                                            .count = count,
                                            .parent = parent,
                                            .shortest = frame_shortest(a, at, count, parent),
                                            .depth = a->frames[parent].depth + 1,
                                            .hash_next = *bucket};
    *bucket = (uint32_t)a->n_frames;
    return (uint32_t)a->n_frames++;
}

/* ---- sets of configurations ---------------------------------------------------------------- */

/* Look at a configuration, once. What can never end is passed over. */
static void reach(struct grammar_auto *a, uint32_t node, uint32_t frame) {
    if (frame == GRAMMAR_NONE ||
        (node != GRAMMAR_NONE &&
         grammar_plus(a->g->nodes[node].shortest, a->frames[frame].shortest) == GRAMMAR_ENDLESS)) {
        return;
    }
    uint32_t at = mix(node, frame) & (SEEN - 1);
    for (; a->seen[at].stamp == a->stamp; at = (at + 1) & (SEEN - 1)) {
        if (a->seen[at].config.node == node && a->seen[at].config.frame == frame) {
            return;
        }
    }
    if (++a->n_seen > MOST_SEEN) {
        fail(a, "one text may be read in too many ways at the same time");
        return;
    }
    a->seen[at].config = (struct config){node, frame};
    a->seen[at].stamp = a->stamp;
    a->todo = mem_grow(a->todo, a->n_todo + 1, &a->cap_todo, sizeof *a->todo);
    a->todo[a->n_todo++] = (struct config){node, frame};
}

static bool is_seen(const struct grammar_auto *a, uint32_t node, uint32_t frame) {
    uint32_t at = mix(node, frame) & (SEEN - 1);
    while (a->seen[at].stamp == a->stamp &&
           (a->seen[at].config.node != node || a->seen[at].config.frame != frame)) {
        at = (at + 1) & (SEEN - 1);
    }
    return a->seen[at].stamp == a->stamp;
}

/* How often a loop has to go round: not at all where its body may be empty. */
static uint32_t least_rounds(const struct grammar_auto *a, const struct loop *l) {
    return a->g->nodes[l->body].shortest ? l->least : 0;
}

/* Behind a loop's body: out of it, round again, or both. A round that took no byte is none: without
 * that, an empty body would go round as often as it may. (Where the same frame was also entered
 * afresh, that allows all that one more round would.) */
static void again(struct grammar_auto *a, uint32_t frame) {
    const struct frame f = a->frames[frame];
    const struct node *n = &a->g->nodes[f.at];
    const struct loop *l = &a->g->loops[n->x];
    uint32_t count = f.count + 1, least = least_rounds(a, l);
    if (count >= least) {
        reach(a, n->y, f.parent);
    }
    if (a->g->nodes[l->body].shortest == 0 && is_seen(a, l->body, frame)) {
        return;
    }
    if (l->most == GRAMMAR_ENDLESS) {
        count = count < least ? count : least; /* more is the same */
    }
    if (count < l->most) {
        reach(a, l->body, frame_find(a, f.at, count, f.parent));
    }
}

/* Follow all that takes no byte from what is to be done. */
static void close_set(struct grammar_auto *a) {
    while (a->n_todo && !a->failed) {
        const struct config c = a->todo[--a->n_todo];
        const struct node *n = c.node == GRAMMAR_NONE ? NULL : &a->g->nodes[c.node];
        a->work++;
        switch (n ? n->op : NODE_BYTE) {
        case NODE_BYTE:
        case NODE_TOKEN:
            a->made = mem_grow(a->made, a->n_made + 1, &a->cap_made, sizeof *a->made);
            a->made[a->n_made++] = c;
            break;
        case NODE_SPLIT:
            reach(a, n->y, c.frame);
            reach(a, n->x, c.frame);
            break;
        case NODE_CALL: /* a call at a rule's end leaves no frame: lists written as recursion */
            reach(a, n->x,
                  a->g->nodes[n->y].op == NODE_RETURN ? c.frame
                                                      : frame_find(a, n->y, RETURNS, c.frame));
            break;
        case NODE_RETURN:
            if (c.frame == END) {
                reach(a, GRAMMAR_NONE, END);
            } else {
                reach(a, a->frames[c.frame].at, a->frames[c.frame].parent);
            }
            break;
        case NODE_LOOP:
            if (least_rounds(a, &a->g->loops[n->x]) == 0) {
                reach(a, n->y, c.frame);
            }
            reach(a, a->g->loops[n->x].body, frame_find(a, c.node, 0, c.frame));
            break;
        case NODE_AGAIN:
            again(a, c.frame);
            break;
        default:
            break;
        }
    }
    a->n_todo = 0;
}

static void begin_set(struct grammar_auto *a) {
    a->n_made = a->n_todo = a->n_seen = 0;
    if (++a->stamp == 0) {
        memset(a->seen, 0, SEEN * sizeof *a->seen);
        a->stamp = 1;
    }
}

static int by_config(const void *x, const void *y) {
    const struct config *a = x, *b = y;
    int order = (a->node > b->node) - (a->node < b->node);
    return order ? order : (a->frame > b->frame) - (a->frame < b->frame);
}

static uint64_t set_hash(const struct config *c, size_t n) {
    return n == 1 ? mix(c->node, c->frame) : hash64(c, n * sizeof *c);
}

static void grow_states(struct grammar_auto *a) {
    uint32_t n = a->state_index ? 2 * (a->state_mask + 1) : 1024;
    free(a->state_index);
    a->state_index = mem_calloc(n, sizeof *a->state_index);
    a->state_mask = n - 1;
    for (uint32_t i = AUTO_FIRST; i < a->n_states; i++) {
        uint64_t h = set_hash(a->configs + a->states[i].first, a->states[i].n);
        while (a->state_index[h & a->state_mask]) {
            h++;
        }
        a->state_index[h & a->state_mask] = i;
    }
}

static uint32_t add_state(struct grammar_auto *a) {
    const size_t classes = a->g->n_classes;
    a->states = mem_grow(a->states, a->n_states + 1, &a->cap_states, sizeof *a->states);
    a->next = mem_grow(a->next, (a->n_states + 1) * classes, &a->cap_next, sizeof *a->next);
    memset(a->next + a->n_states * classes, 0, classes * sizeof *a->next);
    a->states[a->n_states] = (struct auto_state){.shortest = GRAMMAR_ENDLESS, .slot = GRAMMAR_NONE};
    return (uint32_t)a->n_states++;
}

/* The state of the set that was made. */
static uint32_t end_set(struct grammar_auto *a) {
    size_t n = a->n_made;
    if (n > GRAMMAR_MAX_CONFIGS) {
        fail(a, "one text may be read in too many ways at the same time");
    }
    if (a->work > a->most_work) {
        fail(a, "the grammar takes too many steps");
    }
    if (auto_bytes(a) > a->most_bytes) {
        fail(a, "the grammar takes too many states");
    }
    if (n == 0 || a->failed) {
        return AUTO_DEAD;
    }
    qsort(a->made, n, sizeof *a->made, by_config);
    uint64_t h = set_hash(a->made, n);
    uint32_t i;
    for (; (i = a->state_index[h & a->state_mask]); h++) {
        if (a->states[i].n == n &&
            memcmp(a->configs + a->states[i].first, a->made, n * sizeof *a->made) == 0) {
            return i;
        }
    }
    i = add_state(a);
    a->state_index[h & a->state_mask] = i;
    struct auto_state *s = &a->states[i];
    s->first = (uint32_t)a->n_configs;
    s->n = (uint32_t)n;
    a->configs = mem_grow(a->configs, a->n_configs + n, &a->cap_configs, sizeof *a->configs);
    memcpy(a->configs + a->n_configs, a->made, n * sizeof *a->made);
    a->n_configs += n;
    for (size_t k = 0; k < n; k++) {
        const struct config c = a->made[k];
        bool end = c.node == GRAMMAR_NONE;
        uint32_t length =
            end ? 0 : grammar_plus(a->g->nodes[c.node].shortest, a->frames[c.frame].shortest);
        s->shortest = length < s->shortest ? length : s->shortest;
        s->may_end = s->may_end || end;
        s->tokens = s->tokens || (!end && a->g->nodes[c.node].op == NODE_TOKEN);
    }
    if (2 * a->n_states > a->state_mask) {
        grow_states(a);
    }
    return i;
}

/* ---- steps --------------------------------------------------------------------------------- */

uint32_t auto_step(struct grammar_auto *a, uint32_t state, uint32_t class) {
    const struct auto_state s = a->states[state];
    begin_set(a);
    a->transitions++;
    a->work += s.n;
    for (uint32_t i = 0; i < s.n; i++) {
        const struct config c = a->configs[s.first + i];
        const struct node *n = c.node == GRAMMAR_NONE ? NULL : &a->g->nodes[c.node];
        if (n && n->op == NODE_BYTE && n->low <= class && class <= n->high) {
            reach(a, n->x, c.frame);
        }
    }
    close_set(a);
    uint32_t next = end_set(a);
    if (!a->failed) {
        a->next[(size_t)state * a->g->n_classes + class] = next;
    }
    return next;
}

uint32_t auto_token(struct grammar_auto *a, uint32_t state, uint32_t token) {
    const struct auto_state s = a->states[state];
    begin_set(a);
    for (uint32_t i = 0; i < s.n; i++) {
        const struct config c = a->configs[s.first + i];
        const struct node *n = c.node == GRAMMAR_NONE ? NULL : &a->g->nodes[c.node];
        if (n && n->op == NODE_TOKEN && n->x == token) {
            reach(a, n->y, c.frame);
        }
    }
    close_set(a);
    return end_set(a);
}

/* ---- lifetime ------------------------------------------------------------------------------ */

static void auto_begin(struct grammar_auto *a) {
    a->frames = mem_grow(NULL, 1, &a->cap_frames, sizeof *a->frames);
    a->frames[0] = (struct frame){0};
    a->n_frames = 1;
    grow_frames(a);
    while (a->n_states < AUTO_FIRST) {
        add_state(a);
    }
    memset(a->next + AUTO_DEAD * a->g->n_classes, 0, a->g->n_classes * sizeof *a->next);
    for (uint32_t c = 0; c < a->g->n_classes; c++) {
        a->next[AUTO_DEAD * a->g->n_classes + c] = AUTO_DEAD;
    }
    grow_states(a);
}

void auto_open(struct grammar_auto *a, const struct grammar *g) {
    *a = (struct grammar_auto){.g = g, .most_work = UINT64_MAX, .most_bytes = SIZE_MAX};
    a->seen = mem_calloc(SEEN, sizeof *a->seen);
    auto_begin(a);
    begin_set(a);
    reach(a, g->start, END);
    close_set(a);
    a->start = end_set(a);
}

static void auto_drop(struct grammar_auto *a) {
    free(a->configs);
    free(a->frames);
    free(a->frame_buckets);
    free(a->states);
    free(a->state_index);
    free(a->next);
}

void auto_close(struct grammar_auto *a) {
    auto_drop(a);
    free(a->made);
    free(a->todo);
    free(a->seen);
    *a = (struct grammar_auto){0};
}

size_t auto_bytes(const struct grammar_auto *a) {
    return a->n_configs * sizeof *a->configs +
           a->n_frames * (sizeof *a->frames + sizeof *a->frame_buckets) +
           a->n_states *
               (sizeof *a->states + 2 * sizeof *a->state_index + a->g->n_classes * sizeof *a->next);
}

/* The frame of the old automaton in the new one; `moved` remembers. */
static uint32_t move_frame(struct grammar_auto *to, const struct grammar_auto *from, uint32_t frame,
                           uint32_t *moved) {
    uint32_t chain[GRAMMAR_MAX_FRAMES + 1];
    size_t n = 0;
    while (frame != END && moved[frame] == 0) {
        chain[n++] = frame;
        frame = from->frames[frame].parent;
    }
    uint32_t at = moved[frame];
    while (n-- > 0) {
        const struct frame *f = &from->frames[chain[n]];
        at = frame_find(to, f->at, f->count, at);
        moved[chain[n]] = at;
    }
    return at;
}

void auto_sweep(struct grammar_auto *a, uint32_t **held, size_t n) {
    struct grammar_auto old = *a;
    a->failed = false;
    a->work = 0;
    a->most_bytes = SIZE_MAX;
    uint32_t *moved = mem_calloc(old.n_frames, sizeof *moved);
    a->configs = NULL;
    a->frames = NULL;
    a->frame_buckets = NULL;
    a->states = NULL;
    a->state_index = NULL;
    a->next = NULL;
    a->n_configs = a->cap_configs = a->cap_frames = a->n_states = a->cap_states = a->cap_next = 0;
    auto_begin(a);
    for (size_t i = 0; i <= n; i++) {
        uint32_t *state = i < n ? held[i] : &a->start;
        if (*state < AUTO_FIRST) {
            continue;
        }
        const struct auto_state s = old.states[*state];
        begin_set(a);
        for (uint32_t k = 0; k < s.n; k++) {
            const struct config c = old.configs[s.first + k];
            a->made = mem_grow(a->made, a->n_made + 1, &a->cap_made, sizeof *a->made);
            a->made[a->n_made++] = (struct config){c.node, move_frame(a, &old, c.frame, moved)};
        }
        *state = end_set(a);
    }
    a->sweeps++;
    free(moved);
    auto_drop(&old);
}
