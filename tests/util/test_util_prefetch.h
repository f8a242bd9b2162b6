/*
 * test_util_prefetch: an archive of a few experts with prefetch on it, and the steps that its tests
 * take.
 *
 * For test programs; whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_PREFETCH_H
#define TESTS_UTIL_TEST_UTIL_PREFETCH_H

#include "runtime/prefetch.h"
#include "tests/util/test.h"

enum { LAYERS = 2, EXPERTS = 6, CHUNKS = 8, HOT = 2, CHUNK_NEURONS = 4, N = LAYERS * EXPERTS };

struct rig {
    struct corm archive;
    struct cache cache;
    struct prefetch *prefetch;
    enum reader_way way;
};

/* Writes the archive prefetch.corm, whose hot chunks are raw; returns its path, to free(). */
char *rig_archive(const char *dir);
/* The same as large.corm, with experts of more than one request. */
char *rig_large_archive(const char *dir);
/* Writes packed.corm (with `raw_hot` mixed.corm), whose chunks can be kept packed: all of
 * exponents, but for the hot ones with `raw_hot`. */
char *rig_packed_archive(const char *dir, bool raw_hot);
static const struct prefetch_options RIG_PLAIN = {.io_threads = 2};
/* `how`: enum cache_how. */
void rig_open(struct rig *r, const char *file, uint32_t n_slots, unsigned how,
              struct prefetch_options opt);
void rig_close(struct rig *r);

/* All chunks of a record. */
struct prefetch_need rig_need(uint32_t record);
bool rig_is_ready(struct prefetch *p, const struct prefetch_need *need);
void rig_guess(struct prefetch *p, const struct prefetch_need *need, uint32_t ahead, float prob);
void rig_wait(struct rig *r, const struct prefetch_need *need);
/* A leased chunk lies where it should, and has the neurons of the archive's definition, whatever is
 * in the file; where it is kept packed, its stored bytes, which become them. */
void rig_check_bytes(struct rig *r, uint32_t chunk);
/* Demands a record, checks its bytes, gives it back. */
void rig_use(struct rig *r, uint32_t record);
uint8_t rig_state(struct rig *r, uint32_t chunk);

void rig_sleep_ms(uint64_t ms);

/* Until the condition holds, at most some seconds. */
#define WAIT_UNTIL(condition)                                                                      \
    do {                                                                                           \
        for (int ms_ = 0; !(condition) && ms_ < 10000; ms_++)                                      \
            rig_sleep_ms(1);                                                                       \
        assert_true(condition);                                                                    \
    } while (0)

#endif
