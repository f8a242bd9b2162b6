#include "format/corm_exponents.h"

#include <assert.h>

enum { BLOCK = CORM_EXPONENTS_BLOCK, LISTS = CORM_EXPONENTS_LISTS, COMMON = CORM_EXPONENTS_COMMON };

/* The header that stored bytes begin with. */
struct header {
    uint32_t n_second, n_third, n_literals; /* codes of lists 2 and 3, bytes behind them */
    uint8_t exponents[COMMON];              /* the commonest first; 0 where there are fewer */
    uint8_t reserved[BLOCK - 12 - COMMON];
};
static_assert(sizeof(struct header) == BLOCK, "header");

/* Of weights and of codes; a pair of words for each 64. */
static size_t pairs_bytes(uint64_t n) {
    return align_up(n, 64) / 4;
}

/* Where the low plane starts. At most 4 * 2^32 / 4 + 2^32 and a bit. */
static uint64_t low_offset(uint64_t n, const struct header *h) {
    uint64_t lists = pairs_bytes(n) + pairs_bytes(h->n_second) + pairs_bytes(h->n_third);
    return align_up(sizeof *h + lists + h->n_literals, BLOCK);
}

static uint16_t load(const uint8_t *weights, size_t i) {
    uint16_t v;
    memcpy(&v, weights + i * 2, sizeof v);
    return v;
}

static uint8_t exponent_of(uint16_t v) {
    return (uint8_t)(v >> 7);
}

/* Fraction and sign: the weight rotated left by one has them in its low byte. */
static uint8_t low_of(uint16_t v) {
    return (uint8_t)(v << 1 | v >> 15);
}

/* A copy that stays the same while a mapped file changes: the compiler may not read the original
 * again. */
static struct header read_header(const uint8_t *stored) {
    struct header h;
    memcpy(&h, stored, sizeof h);
    __asm__ volatile("" : "+m"(h));
    return h;
}

/* ---- packing ---- */

static void count(const uint8_t *raw, size_t n, uint32_t counts[256]) {
    uint32_t odd[256] = {0}; /* two tables: the same exponent comes in a row so often */
    memset(counts, 0, 256 * sizeof *counts);
    for (size_t i = 0; i + 1 < n; i += 2) {
        counts[exponent_of(load(raw, i))]++;
        odd[exponent_of(load(raw, i + 1))]++;
    }
    counts[exponent_of(load(raw, n - 1))] += n % 2;
    for (int x = 0; x < 256; x++) {
        counts[x] += odd[x];
    }
}

/* rank[x]: the place of exponent x among the common ones, or COMMON. */
static struct header make_header(const uint32_t counts[256], size_t n, uint8_t rank[256]) {
    struct header h = {0};
    uint32_t *left_after[LISTS] = {&h.n_second, &h.n_third, &h.n_literals};
    uint32_t left = (uint32_t)n;
    memset(rank, COMMON, 256);
    for (uint8_t r = 0; r < COMMON; r++) {
        int best = -1;
        for (int x = 0; x < 256; x++) {
            bool left_out = rank[x] == COMMON && counts[x] > 0;
            best = left_out && (best < 0 || counts[x] > counts[best]) ? x : best;
        }
        if (best >= 0) {
            rank[best] = r;
            h.exponents[r] = (uint8_t)best;
            left -= counts[best];
        }
        *left_after[r / 3] = left;
    }
    return h;
}

size_t corm_exponents_bound(size_t n) {
    struct header most = {.n_second = (uint32_t)n, (uint32_t)n, (uint32_t)n};
    return low_offset(n, &most) + align_up(n, BLOCK);
}

/* A list that is being written. */
struct list {
    uint8_t *to;
    uint64_t words[2];
    unsigned n; /* codes in the words */
};

static void flush(struct list *l) {
    memcpy(l->to, l->words, sizeof l->words);
    *l = (struct list){.to = l->to + sizeof l->words};
}

/* Append a code; or nothing, where `n` is 0 and so is the code. */
static inline void append(struct list *l, unsigned code, unsigned n) {
    l->words[0] |= (uint64_t)(code & 1) << l->n;
    l->words[1] |= (uint64_t)(code >> 1) << l->n;
    l->n += n;
    if (l->n == 64) {
        flush(l);
    }
}

size_t corm_exponents_pack(const uint8_t *raw, size_t n, uint8_t *out) {
    uint32_t counts[256];
    uint8_t rank[256], codes[256][LISTS];
    count(raw, n, counts);
    struct header h = make_header(counts, n, rank);
    for (int x = 0; x < 256; x++) {
        for (int l = 0; l < LISTS; l++) {
            int first = 3 * l;
            codes[x][l] = (uint8_t)(rank[x] < first       ? 0
                                    : rank[x] < first + 3 ? rank[x] - first
                                                          : 3);
        }
    }
    size_t low = low_offset(n, &h), bytes = low + align_up(n, BLOCK);
    memset(out, 0, bytes);
    memcpy(out, &h, sizeof h);
    struct list lists[LISTS] = {{.to = out + sizeof h}};
    lists[1].to = lists[0].to + pairs_bytes(n);
    lists[2].to = lists[1].to + pairs_bytes(h.n_second);
    uint8_t *literal = lists[2].to + pairs_bytes(h.n_third);
    for (size_t i = 0; i < n; i++) {
        uint16_t v = load(raw, i);
        const uint8_t *code = codes[exponent_of(v)];
        append(&lists[0], code[0], 1);
        append(&lists[1], code[1], code[0] == 3);
        append(&lists[2], code[2], code[1] == 3);
        if (code[2] == 3) {
            *literal++ = exponent_of(v);
        }
        out[low + i] = low_of(v);
    }
    for (int l = 0; l < LISTS; l++) {
        if (lists[l].n > 0) {
            flush(&lists[l]);
        }
    }
    return bytes;
}

/* ---- the check ---- */

/* The number of codes 3 in some pairs. Ones are counted by bytes, over several words before these
 * are added up, because a processor's own instruction is not available everywhere, and what
 * compilers call in its place takes three times as long. */
static uint64_t pairs_threes(const uint8_t *list, uint64_t pairs) {
    enum { AT_ONCE = 31 }; /* of at most 8 ones a byte */
    uint64_t threes = 0;
    while (pairs > 0) {
        uint64_t some = pairs < AT_ONCE ? pairs : AT_ONCE, bytes = 0;
        pairs -= some;
        for (; some > 0; some--, list += 16) {
            uint64_t v = corm_exponents_word(list) & corm_exponents_word(list + 8);
            v -= v >> 1 & UINT64_C(0x5555555555555555);
            v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
            bytes += (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
        }
        bytes =
            (bytes & UINT64_C(0x00ff00ff00ff00ff)) + (bytes >> 8 & UINT64_C(0x00ff00ff00ff00ff));
        threes += bytes * UINT64_C(0x0001000100010001) >> 48;
    }
    return threes;
}

/* The number of codes 3 in a list of n codes. Codes past n, which fill up the last pair, have to be
 * 0. */
static int count_threes(const uint8_t *list, uint64_t n, uint64_t *threes) {
    const uint8_t *last = list + n / 64 * 16;
    *threes = pairs_threes(list, (n + 63) / 64);
    if (n % 64 == 0) {
        return 0;
    }
    uint64_t codes = corm_exponents_word(last) | corm_exponents_word(last + 8);
    return codes >> n % 64 == 0 ? 0 : -1;
}

static bool all_zero(const uint8_t *p, const uint8_t *end) {
    while (p < end && *p == 0) {
        p++;
    }
    return p == end;
}

int corm_exponents_check(const uint8_t *stored, size_t bytes, size_t n, struct err *err) {
    if (bytes < sizeof(struct header) || n == 0 || n > UINT32_MAX) {
        return err_set(err, "exponents: %zu bytes for %zu weights, the header alone has %zu", bytes,
                       n, sizeof(struct header));
    }
    struct header h = read_header(stored);
    uint64_t low = low_offset(n, &h), want = low + align_up(n, BLOCK);
    if (bytes != want) {
        return err_set(err, "exponents: %zu bytes, expected %llu for %zu weights", bytes,
                       (unsigned long long)want, n);
    }
    const uint32_t wanted[LISTS] = {h.n_second, h.n_third, h.n_literals};
    const uint8_t *at = stored + sizeof h;
    uint64_t codes = n, threes;
    for (int l = 0; l < LISTS; l++) {
        if (count_threes(at, codes, &threes) < 0) {
            return err_set(err, "exponents: list %d goes on behind its %llu codes", l + 1,
                           (unsigned long long)codes);
        }
        if (threes != wanted[l]) {
            return err_set(err, "exponents: list %d of %llu codes goes on for %llu, expected %u",
                           l + 1, (unsigned long long)codes, (unsigned long long)threes, wanted[l]);
        }
        at += pairs_bytes(codes);
        codes = threes;
    }
    if (!all_zero(h.reserved, h.reserved + sizeof h.reserved) ||
        !all_zero(at + h.n_literals, stored + low) || !all_zero(stored + low + n, stored + bytes)) {
        return err_set(err, "exponents: padding is not zero");
    }
    return 0;
}

/* ---- decoding ---- */

size_t corm_exponents_least(size_t n) {
    const struct header none_left = {0};
    return low_offset(n, &none_left) + align_up(n, BLOCK);
}

static size_t at_most(size_t n, size_t most) {
    return n < most ? n : most;
}

/*
 * Why decoders stay inside the stored bytes, whatever these say and even if they change meanwhile:
 *
 * Let N be n, rounded up to whole blocks, and `low` the bytes before the last N. The low plane and
 * list 1 have places that follow from n alone: the last N bytes, and N / 4 behind the header; that
 * they fit is what corm_exponents_least says. Lists 2 and 3 and the literals start at `low` or
 * before, which changes nothing in checked bytes. Of each of the three, a block uses at most 64,
 * for it has 64 weights; so at most N - 64 are used where the last block begins. What it reads of a
 * list ends with the pair behind the one that the next code is in, N / 4 + 16 bytes behind the
 * list's start, and of literals, at most 64 being read, N bytes behind theirs. N / 4 + 16 <= N, and
 * `low` + N is where the stored bytes end.
 *
 * A decoder that goes through lists 2 and 3 first, 64 codes at a time and no more of them than
 * `said`, or than it counted in the list before, stays inside for the same reasons: that is N codes
 * at most, and each has at most one literal.
 */
struct corm_exponents corm_exponents_open(const uint8_t *stored, size_t bytes, size_t n) {
    assert(n > 0 && bytes >= corm_exponents_least(n));
    struct header h = read_header(stored);
    size_t low = bytes - align_up(n, BLOCK), second = sizeof h + pairs_bytes(n);
    size_t third = at_most(second + pairs_bytes(h.n_second), low);
    size_t literals = at_most(third + pairs_bytes(h.n_third), low);
    struct corm_exponents e = {
        .lists = {stored + sizeof h, stored + second, stored + third},
        .literals = stored + literals,
        .low = stored + low,
        .n = n,
        .said = {at_most(h.n_second, n), at_most(h.n_third, n)},
    };
    for (int r = 0; r < COMMON; r++) {
        e.exponents[r / 3 * 4 + r % 3] = h.exponents[r];
    }
    return e;
}

static const uint64_t ones = UINT64_C(0x0101010101010101);

/* Eight bytes, 0xff for each bit of the lowest byte of `bits` that is set. */
static inline uint64_t spread(uint64_t bits) {
    uint64_t each = (bits & 0xff) * ones & UINT64_C(0x8040201008040201);
    return ((each + 0x7f * ones) >> 7 & ones) * 0xff;
}

/* Exponents of the weights at places[n], which are the next in list `l`, 1 or 2. Leaves in `places`
 * those whose code is 3 and returns their number. */
static unsigned decode_list(struct corm_exponents *e, int l, uint8_t places[BLOCK], unsigned n,
                            uint8_t exponents[BLOCK]) {
    uint64_t low = corm_exponents_bits(e->lists[l], e->used[l - 1], 0);
    uint64_t high = corm_exponents_bits(e->lists[l], e->used[l - 1], 1);
    unsigned left = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned code = (low >> i & 1) | (high >> i & 1) << 1;
        uint8_t place = places[i];
        exponents[place] = e->exponents[4 * l + code];
        places[left] = place;
        left += code == 3;
    }
    e->used[l - 1] += n;
    return left;
}

static void decode_block(struct corm_exponents *e, uint8_t dst[2 * BLOCK]) {
    const uint8_t *low = e->low + e->at, *pair = e->lists[0] + e->at / 64 * 16;
    uint64_t bits[2] = {corm_exponents_word(pair), corm_exponents_word(pair + 8)};
    const uint8_t *common = e->exponents;
    uint64_t zero = common[0] * ones, one = zero ^ common[1] * ones, two = zero ^ common[2] * ones;
    uint8_t exponents[BLOCK], places[BLOCK];
    for (int i = 0; i < BLOCK; i += 8) {
        uint64_t eight = zero ^ (spread(bits[0] >> i) & one) ^ (spread(bits[1] >> i) & two);
        memcpy(exponents + i, &eight, sizeof eight);
    }
    unsigned n = 0;
    for (uint64_t m = bits[0] & bits[1]; m; m &= m - 1) {
        places[n++] = (uint8_t)__builtin_ctzll(m);
    }
    n = decode_list(e, 1, places, n, exponents);
    n = decode_list(e, 2, places, n, exponents);
    for (unsigned i = 0; i < n; i++) {
        exponents[places[i]] = e->literals[e->used[2]++];
    }
    for (int i = 0; i < BLOCK; i++) {
        unsigned v = low[i] | (unsigned)exponents[i] << 8;
        uint16_t weight = (uint16_t)(v >> 1 | v << 15);
        memcpy(dst + 2 * i, &weight, sizeof weight);
    }
    e->at += BLOCK;
}

void corm_exponents_decode(struct corm_exponents *e, size_t n, uint8_t *dst) {
    size_t whole = n / BLOCK * BLOCK;
    for (size_t i = 0; i < whole; i += BLOCK) {
        decode_block(e, dst + 2 * i);
    }
    if (n > whole) {
        uint8_t last[2 * BLOCK];
        decode_block(e, last);
        memcpy(dst + 2 * whole, last, 2 * (n - whole));
    }
}
