/*
 * keep: see keep.h.
 */
#include "runtime/serve/keep.h"

uint32_t keep_common(const struct kept *k, const int32_t *ids, size_t n, bool prompts_only) {
    uint32_t most = prompts_only && k->exact < k->n ? k->exact : k->n, same = 0;
    while (same < most && same < n && k->ids[same] == ids[same]) {
        same++;
    }
    return same;
}

/* The session that is not busy, other than `but`, and was used least lately; -1 = none. */
static int oldest(const struct kept *kept, size_t n_kept, int but) {
    int found = -1;
    for (size_t i = 0; i < n_kept; i++) {
        if (!kept[i].busy && (int)i != but && (found < 0 || kept[i].used < kept[found].used)) {
            found = (int)i;
        }
    }
    return found;
}

struct keep_choice keep_choose(const struct kept *kept, size_t n_kept, const int32_t *ids, size_t n,
                               bool prompts_only, keep_reach *reach, const void *ctx) {
    struct keep_choice c = {.source = -1};
    for (size_t i = 0; i < n_kept; i++) {
        uint32_t common = kept[i].locked ? 0 : keep_common(&kept[i], ids, n, prompts_only);
        common = common > 0 ? reach(ctx, i, common) : 0;
        /* Of equals the one that can be taken as it is. */
        bool better = common > c.common ||
                      (common > 0 && common == c.common && kept[c.source].busy && !kept[i].busy);
        if (better && (uint64_t)common * 10 >= n) {
            c.source = (int)i;
            c.common = common;
        }
    }
    c.target = oldest(kept, n_kept, c.source);
    if (c.source >= 0 && !kept[c.source].busy) {
        const struct kept *k = &kept[c.source];
        bool loses_little = (uint64_t)(k->n - c.common) * 4 <= k->n;
        if (loses_little || c.target < 0) {
            c.target = c.source;
        }
    }
    return c;
}
