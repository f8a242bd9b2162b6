/*
 * trace: the token ids of a text, and the experts that a model chooses for them. Developer-only;
 * compiled by tests/llama/bench.sh against libcorm.
 *
 *   trace MODEL.corm TEXT|- IDS SKIP N [ROUTES]
 *
 * Writes N ids of the text to the file IDS, as `corm-run bench -f TEXT` would feed them ("-": ids
 * of a fixed generator, as it feeds without -f), and where ROUTES is given to that file a line
 * `layer expert expert ...` for each layer of each id, in the order in which a decoder would need
 * them; ids before SKIP are left out there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mechanisms.h"

struct routes {
    FILE *file;
    uint32_t n_active;
};

static void fail(const char *what, const char *about) {
    fprintf(stderr, "trace: %s: %s\n", about, what);
    exit(1);
}

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    const struct routes *r = ctx;
    if (decode && rows == 1 && r->file) {
        fprintf(r->file, "%u", layer);
        for (uint32_t i = 0; i < r->n_active; i++) {
            fprintf(r->file, " %d", ids[i]);
        }
        fputc('\n', r->file);
    }
}

static char *read_text(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    size_t cap = 1 << 20;
    char *text = malloc(cap);
    *bytes = f && text ? fread(text, 1, cap, f) : 0;
    if (*bytes == 0) {
        fail("no text", path);
    }
    fclose(f);
    return text;
}

/* The generator of corm-run bench: upper half of a linear congruential one, scaled to the ids. */
static int32_t *made_up_ids(size_t n, uint32_t vocab) {
    uint64_t state = 1;
    int32_t *ids = calloc(n, sizeof *ids);
    for (size_t i = 0; ids && i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ids[i] = (int32_t)((state >> 32) * vocab >> 32);
    }
    return ids;
}

int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) {
        fail("usage is at the top of tests/llama/trace.c", "arguments");
    }
    size_t skip = strtoul(argv[4], NULL, 10), n = strtoul(argv[5], NULL, 10), n_ids = n, bytes;
    struct routes routes = {0};
    struct corm_mechanisms measure = {.on_route = on_route, .on_route_ctx = &routes};
    struct corm_engine_options options = {.ctx_tok = (uint32_t)n, .measure = &measure};
    struct corm_engine *engine;
    struct corm_session *session;
    struct corm_error error;
    if (corm_engine_open(&engine, argv[1], &options, &error) < 0 ||
        corm_session_open(&session, engine, &error) < 0) {
        fail(error.message, argv[1]);
    }
    routes.n_active = corm_engine_info(engine)->n_active;
    int32_t *ids;
    if (strcmp(argv[2], "-") == 0) {
        ids = made_up_ids(n, corm_engine_info(engine)->vocab);
    } else {
        char *text = read_text(argv[2], &bytes);
        if (corm_tokenize(engine, text, bytes, false, true, &ids, &n_ids, &error) < 0) {
            fail(error.message, argv[2]);
        }
        free(text);
    }
    if (n_ids < n || skip >= n) {
        fail("the text has fewer tokens", argv[2]);
    }
    FILE *out = fopen(argv[3], "w");
    for (size_t i = 0; out && i < n; i++) {
        fprintf(out, "%d\n", ids[i]);
    }
    if (!out || fclose(out) != 0) {
        fail("cannot write", argv[3]);
    }
    if (argc == 7) {
        FILE *file = fopen(argv[6], "w");
        if (!file || corm_session_eval(session, ids, skip, false, NULL, &error) < 0) {
            fail(file ? error.message : "cannot write", argv[6]);
        }
        routes.file = file;
        for (size_t i = skip; i < n; i++) {
            if (corm_session_eval(session, ids + i, 1, false, NULL, &error) < 0) {
                fail(error.message, argv[1]);
            }
        }
        if (fclose(file) != 0) {
            fail("cannot write", argv[6]);
        }
    }
    free(ids);
    corm_session_close(session);
    corm_engine_close(engine);
    return 0;
}
