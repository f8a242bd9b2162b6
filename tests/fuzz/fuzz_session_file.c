/*
 * Fuzz target: any bytes as a session of a small model. Checksums are recomputed before, so that
 * the search gets to the checks behind them. What passes is taken into a state: it fills it to the
 * last byte. The archive's hash says which
 * model. Seeds:
 * `test_session_file --write-seeds tests/fuzz/seeds/fuzz_session_file`.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/model/forward.h"
#include "runtime/model/state.h"
#include "tests/util/test_util_session.h"

enum { CTX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) {
    if (!ok) {
        abort();
    }
}

struct taker {
    struct backend *be;
    const struct session_file *file;
    size_t taken;
};

static int take(void *ctx, void *piece, size_t bytes) {
    struct taker *t = ctx;
    check(bytes <= t->file->state_bytes - t->taken);
    t->be->ops->write(t->be->self, piece, t->file->state + t->taken, bytes);
    t->taken += bytes;
    return 0;
}

/* Fill a state from the file, as corm_session_load does. */
static void use(const struct session_file *f, const struct arch *a, uint32_t batch_rows) {
    struct err err = {0};
    struct backend be;
    struct state s;
    const struct backend_limits limits = forward_limits(a, batch_rows, CTX);
    const struct state_size size = {CTX, batch_rows, (enum kv_type)f->header.kv_type};
    check(backend_cpu_open(&be, "scalar", 1, &limits, &err) == 0);
    check(state_open(&s, a, &be, &size, NULL, &err) == 0);
    struct taker t = {&be, f, 0};
    check(state_walk(&s, f->header.n_held, take, &t) == 0);
    check(t.taken == f->state_bytes);
    state_restored(&s, f->header.n_held);
    check(s.end == f->header.n_held);
    check(state_cut(&s, s.end) == s.end); /* it is all there */
    state_close(&s);
    backend_close(&be);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct session_header h;
    uint64_t model = 0;
    if (size >= sizeof h) {
        memcpy(&h, data, sizeof h);
        model = (h.archive - 0x5e55) % 8;
    }
    struct corm c = session_file_archive(model);
    uint8_t *file = mem_alloc(size);
    struct session_file f;
    struct err err = {0};
    memcpy(file, data, size);
    session_file_rehash(file, size);
    if (session_file_check(&f, file, size, "fuzz.session", &c, &err) < 0) {
        check(err.set && !strchr(err.msg, '\n'));
    } else {
        check(f.state + f.state_bytes == file + size);
        for (uint32_t i = 0; i < f.header.n_tok; i++) {
            check(f.ids[i] >= 0 && (uint32_t)f.ids[i] < c.arch.vocab);
        }
        for (uint32_t batch_rows = 1; batch_rows < 10 && f.header.n_tok <= CTX; batch_rows += 8) {
            use(&f, &c.arch, batch_rows);
        }
        session_file_free(&f);
    }
    arch_free(&c.arch);
    free(file);
    return 0;
}
