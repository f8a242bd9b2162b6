/*
 * What an archive loses against another one: perplexity and mean KL divergence of the next token's
 * distribution, on texts, in windows of 256 tokens that begin empty.
 *
 *     divergence REFERENCE.corm TEXT[:TEXT...] MODEL.corm[@LOSS]...
 *
 * Prints `MODEL PERPLEXITY_PERCENT KL KL_STANDARD_ERROR` for each, after a line `reference NATS
 * TOKENS`. LOSS is a level of --loss, whose neurons are left out in all rows, as if each token were
 * decoded by itself. The reference's log-probabilities are kept in memory, 4 bytes x vocabulary for
 * each token.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/corm.h"

enum { WINDOW = 256 };

struct text {
    int32_t *ids;
    size_t n; /* whole windows */
};

static struct corm_error error;

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "divergence: %s: %s\n", what, error.message);
    exit(1);
}

static struct corm_engine *open_engine(const char *path, float loss) {
    struct corm_engine *e = NULL;
    const struct corm_engine_options o = {
        .ctx_tok = WINDOW, .batch_rows = WINDOW, .loss_percent = loss, .loss_in_batches = loss > 0};
    if (corm_engine_open(&e, path, &o, &error) < 0) {
        fail(path);
    }
    return e;
}

/* The windows of all texts; what is left over at the end of each is not used. */
static void read_texts(struct text *t, const struct corm_engine *e, char *paths) {
    for (char *next = NULL, *path = strtok_r(paths, ":", &next); path;
         path = strtok_r(NULL, ":", &next)) {
        enum { MOST = 16 << 20 };
        char *bytes = malloc(MOST);
        FILE *f = fopen(path, "rb");
        if (!f || !bytes) {
            snprintf(error.message, sizeof error.message, "cannot be read");
            fail(path);
        }
        size_t n = fread(bytes, 1, MOST, f), some;
        int32_t *ids;
        fclose(f);
        if (corm_tokenize(e, bytes, n, false, false, &ids, &some, &error) < 0) {
            fail(path);
        }
        some -= some % WINDOW;
        t->ids = realloc(t->ids, (t->n + some + 1) * sizeof *ids);
        memcpy(t->ids + t->n, ids, some * sizeof *ids);
        t->n += some;
        free(ids);
        free(bytes);
    }
}

/* Log-probabilities in place of logits. */
static void normalise(float *row, uint32_t n) {
    double most = (double)row[0], sum = 0;
    for (uint32_t i = 1; i < n; i++) {
        most = (double)row[i] > most ? (double)row[i] : most;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)row[i] - most);
    }
    for (uint32_t i = 0; i < n; i++) {
        row[i] -= (float)(most + log(sum));
    }
}

/* Sums over all tokens that something precedes in their window. */
struct sums {
    double nll, kl, kl_squares, n;
};

/* Evaluate all windows; where `fill`, into `reference` [n, vocab], else against it. */
static struct sums evaluate(const char *path, float loss, const struct text *t, float *reference,
                            bool fill) {
    struct corm_engine *e = open_engine(path, loss);
    struct corm_session *s = NULL;
    const uint32_t vocab = corm_engine_info(e)->vocab;
    float *row = malloc(vocab * sizeof *row);
    struct sums sums = {0};
    if (!row || corm_session_open(&s, e, &error) < 0) {
        fail(path);
    }
    for (size_t at = 0; at < t->n; at += WINDOW) {
        const float *logits;
        corm_session_truncate(s, 0);
        if (corm_session_eval(s, t->ids + at, WINDOW, true, &logits, &error) < 0) {
            fail(path);
        }
        for (size_t i = 0; i + 1 < WINDOW; i++) {
            float *want = reference + (at + i) * vocab;
            double kl = 0;
            memcpy(row, logits + i * vocab, vocab * sizeof *row);
            normalise(row, vocab);
            if (fill) {
                memcpy(want, row, vocab * sizeof *row);
            }
            for (uint32_t k = 0; k < vocab; k++) {
                kl += exp((double)want[k]) * ((double)want[k] - (double)row[k]);
            }
            sums.nll -= (double)row[t->ids[at + i + 1]];
            sums.kl += kl;
            sums.kl_squares += kl * kl;
            sums.n++;
        }
    }
    free(row);
    corm_session_close(s);
    corm_engine_close(e);
    return sums;
}

int main(int argc, char **argv) {
    struct text t = {0};
    if (argc < 4) {
        fprintf(stderr, "usage: divergence REFERENCE.corm TEXT[:TEXT...] MODEL.corm[@LOSS]...\n");
        return 2;
    }
    struct corm_engine *e = open_engine(argv[1], 0);
    const uint32_t vocab = corm_engine_info(e)->vocab;
    read_texts(&t, e, argv[2]);
    corm_engine_close(e);
    float *reference = malloc((t.n + 1) * vocab * sizeof *reference);
    if (!reference) {
        fail("memory");
    }
    struct sums exact = evaluate(argv[1], 0, &t, reference, true);
    printf("reference %.5f %.0f\n", exact.nll / exact.n, exact.n);
    for (int i = 3; i < argc; i++) {
        char *loss = strchr(argv[i], '@');
        if (loss) {
            *loss++ = '\0';
        }
        struct sums s = evaluate(argv[i], loss ? strtof(loss, NULL) : 0, &t, reference, false);
        double kl = s.kl / s.n;
        printf("%s%s%s %+.3f %.5f %.5f\n", argv[i], loss ? "@" : "", loss ? loss : "",
               100 * (exp((s.nll - exact.nll) / s.n) - 1), kl,
               sqrt((s.kl_squares / s.n - kl * kl) / s.n));
        fflush(stdout);
    }
    free(reference);
    free(t.ids);
    return 0;
}
