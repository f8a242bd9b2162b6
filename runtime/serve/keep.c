/*
 * keep: see keep.h.
 */
#include "runtime/serve/keep.h"

uint32_t keep_common(const struct kept *k, const int32_t *ids, size_t n, bool prompts_only) {
    uint32_t most = prompts_only && k->exact < k->n ? k->exact : k->n, same = 0;
    while (same < most && same < n && k->ids[same] == ids[same]) {
        same++;
    }
    if (n >= 2 && same + 2 > n) {
        return (uint32_t)(n - 2);
    }
    return n >= 2 ? same : 0;
}

int keep_choose(const struct kept *kept, size_t n_kept, const int32_t *ids, size_t n,
                bool prompts_only) {
    int best = -1, oldest = -1;
    uint32_t best_common = 0;
    for (size_t i = 0; i < n_kept; i++) {
        if (kept[i].busy) {
            continue;
        }
        uint32_t common = keep_common(&kept[i], ids, n, prompts_only);
        if (common > 0 && (uint64_t)common * 10 >= n && common > best_common) {
            best = (int)i;
            best_common = common;
        }
        if (oldest < 0 || kept[i].used < kept[oldest].used) {
            oldest = (int)i;
        }
    }
    return best >= 0 ? best : oldest;
}
