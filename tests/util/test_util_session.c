/*
 * test_util_session: see test_util_session.h.
 */
#include "tests/util/test_util_session.h"

#include <stddef.h>
#include <string.h>

#include "runtime/model/state.h"
#include "tests/util/test_util_archive.h"

void session_file_rehash(uint8_t *data, size_t bytes) {
    struct session_header h;
    if (bytes < sizeof h) {
        return;
    }
    memcpy(&h, data, sizeof h);
    h.body_hash = hash64(data + sizeof h, bytes - sizeof h);
    h.header_hash = hash64(&h, offsetof(struct session_header, body_hash) + sizeof h.body_hash);
    memcpy(data, &h, sizeof h);
}

struct corm session_file_archive(uint64_t seed) {
    struct corm c = {.map.path = "made-up.corm", .header.header_hash = 0x5e55 + seed};
    archive_arch(&c.arch, seed);
    return c;
}

uint8_t *session_file_made_up(uint64_t seed, uint32_t n_tok, size_t *bytes) {
    struct corm c = session_file_archive(seed);
    struct session_header h = {.version = SESSION_VERSION,
                               .kv_type =
                                   seed % 2 ? KV_F32 : KV_F16, /* q8 wants wider heads than these */
                               .archive = c.header.header_hash,
                               .n_tok = n_tok,
                               .n_held = n_tok - (uint32_t)(seed % 3),
                               .n_logits = seed % 3 ? 0 : c.arch.vocab};
    memcpy(h.magic, SESSION_MAGIC, sizeof h.magic);
    h.file_bytes = sizeof h + session_ids_bytes(n_tok) + h.n_logits * sizeof(float) +
                   state_walk_bytes(&c.arch, (enum kv_type)h.kv_type, h.n_held);
    *bytes = (size_t)h.file_bytes;
    uint8_t *data = mem_calloc(1, *bytes);
    memcpy(data, &h, sizeof h);
    for (uint32_t i = 0; i < n_tok; i++) {
        data[sizeof h + (size_t)i * sizeof(int32_t)] = (uint8_t)(i % 16);
    }
    session_file_rehash(data, *bytes);
    arch_free(&c.arch);
    return data;
}
