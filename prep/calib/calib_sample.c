#include "prep/calib/calib_sample.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prep/calib/calib.h"
#include "runtime/engine.h"
#include "runtime/sample.h"

/* Names in the state directory. */
static const char MODEL[] = "model.corm", TEXTS[] = "texts";

struct sampler {
    const struct calib_sample_options *opt;
    const volatile sig_atomic_t *stop;
    struct progress *progress;
    char *model_path, *texts_path;
    int fd;       /* of the saved texts */
    uint64_t key; /* what they depend on */
    const struct corpus *openings;
    uint32_t n_openings; /* sequences of `openings`, before anything was sampled */
    int32_t first;       /* the token that begins a text */
    struct corm_engine *engine;
    struct corm_session *session;
    struct sample draw;
    float *logits; /* [vocab] */
    int32_t *ids;  /* [seq_tok] */
};

/* ---- saved texts: key, then for each text its length, its tokens, a checksum of both ---- */

static uint64_t key_of(const struct sampler *s) {
    struct hasher *h = hasher_new();
    uint32_t numbers[2] = {s->opt->n_tok, s->opt->seq_tok};
    hasher_add(h, s->opt->state_key, strlen(s->opt->state_key));
    hasher_add(h, numbers, sizeof numbers);
    for (uint32_t i = 0; i < s->n_openings; i++) {
        hasher_add(h, s->openings->ids + s->openings->seqs[i].first,
                   CALIB_SAMPLE_OPENING_TOK * sizeof *s->openings->ids);
    }
    uint64_t key = hasher_value(h);
    hasher_free(h);
    return key;
}

static int save_text(struct sampler *s, uint32_t n, struct err *err) {
    struct buf record = {0};
    buf_append(&record, &n, sizeof n);
    buf_append(&record, s->ids, n * sizeof *s->ids);
    uint64_t sum = hash64(record.data, record.len);
    buf_append(&record, &sum, sizeof sum);
    int status = file_write_all(s->fd, record.data, record.len, s->texts_path, err);
    if (status == 0 && fdatasync(s->fd) < 0) {
        status = err_errno(err, errno, "%s", s->texts_path);
    }
    buf_free(&record);
    return status;
}

/* Read the saved text at `pos` into s->ids; 0 where there is no whole one, or not one that a model
 * with `vocab` rows can have written within the `left` tokens that are wanted: the file may be
 * anybody's. */
static uint32_t saved_text(struct sampler *s, const struct map *m, uint64_t pos, uint32_t vocab,
                           uint32_t left) {
    uint32_t n;
    uint64_t sum;
    if (m->size_bytes - pos < sizeof n) {
        return 0;
    }
    memcpy(&n, m->data + pos, sizeof n);
    size_t bytes = sizeof n + (size_t)n * sizeof *s->ids;
    if (n < CORPUS_MIN_SEQ_TOK || n > s->opt->seq_tok || n > left ||
        m->size_bytes - pos < bytes + sizeof sum) {
        return 0;
    }
    memcpy(&sum, m->data + pos + bytes, sizeof sum);
    if (hash64(m->data + pos, bytes) != sum) {
        return 0;
    }
    memcpy(s->ids, m->data + pos + sizeof n, n * sizeof *s->ids);
    for (uint32_t i = 0; i < n; i++) {
        if ((uint32_t)s->ids[i] >= vocab) {
            return 0;
        }
    }
    return n;
}

/* Take up what is saved for this key; else begin a new file. Fills *n_texts, appends to `train`. */
static int open_texts(struct sampler *s, uint32_t vocab, struct corpus *train, uint32_t *n_texts,
                      struct err *err) {
    struct map m = {0};
    uint64_t pos = 0, found;
    uint32_t left = s->opt->n_tok;
    *n_texts = 0;
    if (access(s->texts_path, F_OK) == 0 && map_open(&m, s->texts_path, NULL) == 0) {
        bool ours = m.size_bytes >= sizeof found;
        if (ours) {
            memcpy(&found, m.data, sizeof found);
        }
        if (ours && found == s->key) {
            pos = sizeof found;
            for (uint32_t n; (n = saved_text(s, &m, pos, vocab, left)) > 0; (*n_texts)++) {
                corpus_add_ids(train, s->ids, n);
                left -= n;
                pos += sizeof n + (size_t)n * sizeof *s->ids + sizeof found;
            }
        }
        map_close(&m);
    }
    if (pos == 0 && unlink(s->model_path) < 0 && errno != ENOENT) { /* of another run */
        return err_errno(err, errno, "%s", s->model_path);
    }
    /* A link is not followed: what it points to is not ours to cut. */
    s->fd = open(s->texts_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (s->fd < 0 || ftruncate(s->fd, (off_t)pos) < 0 || lseek(s->fd, (off_t)pos, SEEK_SET) < 0) {
        return err_errno(err, errno, "%s", s->texts_path);
    }
    return pos == 0 ? file_write_all(s->fd, &s->key, sizeof s->key, s->texts_path, err) : 0;
}

/* ---- the model ---- */

/* Whether two descriptions of a model are the same. */
static bool same_arch(const struct arch *a, const struct arch *b) {
    struct buf x = {0}, y = {0};
    arch_encode(a, &x);
    arch_encode(b, &y);
    bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    buf_free(&x);
    buf_free(&y);
    return same;
}

/* Open the archive that an earlier run left. What is there may be anybody's: an archive of another
 * model, whose numbers this one's memory is not made for, or of none. */
static bool open_left(struct sampler *s, const struct hf_model *m,
                      const struct corm_engine_options *opt) {
    struct corm_error error;
    if (access(s->model_path, F_OK) < 0 ||
        corm_engine_open(&s->engine, s->model_path, opt, &error) < 0) {
        return false;
    }
    if (same_arch(&s->engine->archive.arch, hf_arch(m))) {
        return true;
    }
    corm_engine_close(s->engine);
    s->engine = NULL;
    return false;
}

static int open_model(struct sampler *s, const struct hf_model *m, const struct pack_options *pack,
                      struct err *err) {
    struct pack_options plain = *pack;
    struct pack_result result = {0};
    struct corm_error error;
    plain.calib = NULL;
    plain.predictors = NULL;
    struct corm_engine_options opt = {
        .threads = s->opt->threads, .ctx_tok = s->opt->seq_tok, .batch_rows = 16};
    if (!open_left(s, m, &opt)) {
        if (pack_model(m, s->model_path, &plain, s->progress, s->stop, &result, err) < 0) {
            return -1;
        }
        if (corm_engine_open(&s->engine, s->model_path, &opt, &error) < 0) {
            return err_set(err, "%s", error.message);
        }
    }
    s->engine->kv_advice = CALIB_KV_ADVICE;
    if (corm_session_open(&s->session, s->engine, &error) < 0) {
        return err_set(err, "%s", error.message);
    }
    uint32_t vocab = hf_arch(m)->vocab;
    sample_open(&s->draw, vocab);
    s->logits = mem_alloc(vocab * sizeof *s->logits);
    return 0;
}

/* The token that any text begins with. */
static int find_first(struct sampler *s, const struct arch *a, struct err *err) {
    struct token_list list = {0};
    int status = tokenizer_encode(s->engine->tokenizer, "", 0, TOKENIZER_ADD_SPECIAL, &list, err);
    if (status == 0 && (list.n > 0 || a->n_stop > 0)) {
        s->first = list.n > 0 ? (int32_t)list.ids[0] : (int32_t)a->stop_ids[0];
    } else if (status == 0 && s->n_openings == 0) {
        status = err_set(err, "--generate-calib: the model has no token that begins or ends a "
                              "text: name text to begin from with --calib");
    }
    token_list_free(&list);
    return status;
}

/* Put the beginning of text i into s->ids. */
static uint32_t begin_text(struct sampler *s, uint32_t i) {
    if (s->n_openings == 0 || (s->first >= 0 && i % 2 == 0)) {
        s->ids[0] = s->first;
        return 1;
    }
    /* Steps of the golden section visit all parts of the text, whatever the number of texts. */
    double place = (i / 2 + 1) * 0.6180339887498949;
    uint32_t seq = (uint32_t)((place - floor(place)) * s->n_openings);
    memcpy(s->ids, s->openings->ids + s->openings->seqs[seq].first,
           CALIB_SAMPLE_OPENING_TOK * sizeof *s->ids);
    return CALIB_SAMPLE_OPENING_TOK;
}

/* Draw text i, of at most `most` tokens, into s->ids. */
static int draw_text(struct sampler *s, uint32_t i, uint32_t most, uint32_t *n, struct err *err) {
    const struct corm_sampling how = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = i};
    uint32_t vocab = s->engine->archive.arch.vocab, done = 0;
    uint32_t known = tokenizer_vocab_size(s->engine->tokenizer);
    known = known < vocab ? known : vocab;
    *n = begin_text(s, i);
    corm_session_truncate(s->session, 0);
    while (*n < most) {
        struct corm_error error;
        const float *logits;
        if (stop_check(s->stop, err) < 0) {
            return -1;
        }
        if (corm_session_eval(s->session, s->ids + done, *n - done, false, &logits, &error) < 0) {
            return err_set(err, "%s", error.message);
        }
        done = *n;
        memcpy(s->logits, logits, vocab * sizeof *s->logits);
        /* No text may be shorter than the shortest one that calibration takes. */
        for (uint32_t v = 0; *n < CORPUS_MIN_SEQ_TOK && v < vocab; v++) {
            if (corm_is_stop(s->engine, (int32_t)v)) {
                s->logits[v] = -INFINITY;
            }
        }
        int32_t id = sample_draw(&s->draw, &how, s->logits, known, s->ids, *n, *n);
        if (id < 0) {
            return err_set(err, "%s: the model's logits are not numbers", s->model_path);
        }
        if (corm_is_stop(s->engine, id)) {
            break;
        }
        s->ids[(*n)++] = id;
    }
    return 0;
}

static int draw_texts(struct sampler *s, struct corpus *train, uint32_t before, uint32_t n_texts,
                      struct err *err) {
    progress_start(s->progress, "sampling", s->opt->n_tok, PROGRESS_TOKENS);
    int status = 0;
    for (uint32_t i = n_texts; status == 0; i++) {
        uint32_t left = s->opt->n_tok - (train->n_tok - before), n = 0;
        progress_update(s->progress, train->n_tok - before);
        if (left < CORPUS_MIN_SEQ_TOK) {
            break;
        }
        status = draw_text(s, i, left < s->opt->seq_tok ? left : s->opt->seq_tok, &n, err);
        if (status == 0) {
            status = save_text(s, n, err);
        }
        if (status == 0) {
            corpus_add_ids(train, s->ids, n);
        }
    }
    progress_finish(s->progress);
    return status;
}

int calib_sample(const struct hf_model *m, const struct pack_options *pack,
                 const struct calib_sample_options *opt, struct progress *progress,
                 const volatile sig_atomic_t *stop, struct corpus *train, uint32_t *resumed_tok,
                 struct err *err) {
    struct corpus openings;
    struct sampler s = {.opt = opt, .stop = stop, .progress = progress, .fd = -1, .first = -1};
    uint32_t before = train->n_tok, n_texts = 0;
    int status = -1;
    corpus_copy(&openings, train);
    s.openings = &openings;
    s.n_openings = openings.n_seqs;
    s.model_path = mem_printf("%s/%s", opt->state_dir, MODEL);
    s.texts_path = mem_printf("%s/%s", opt->state_dir, TEXTS);
    s.ids = mem_alloc(opt->seq_tok * sizeof *s.ids);
    s.key = key_of(&s);
    *resumed_tok = 0;
    if (mkdir(opt->state_dir, 0777) < 0 && errno != EEXIST) {
        err_errno(err, errno, "%s", opt->state_dir);
        goto out;
    }
    if (open_texts(&s, hf_arch(m)->vocab, train, &n_texts, err) < 0) {
        goto out;
    }
    *resumed_tok = train->n_tok - before;
    if (opt->n_tok - *resumed_tok < CORPUS_MIN_SEQ_TOK) {
        status = 0;
        goto out;
    }
    if (open_model(&s, m, pack, err) < 0 || find_first(&s, hf_arch(m), err) < 0) {
        goto out;
    }
    status = draw_texts(&s, train, before, n_texts, err);
out:
    corm_session_close(s.session);
    corm_engine_close(s.engine);
    if (s.logits) {
        sample_close(&s.draw);
    }
    if (s.fd >= 0) {
        close(s.fd);
    }
    if (status == 0) {
        unlink(s.model_path); /* large, and no longer needed */
    }
    free(s.logits);
    free(s.ids);
    free(s.model_path);
    free(s.texts_path);
    corpus_free(&openings);
    return status;
}

void calib_sample_remove(const char *state_dir) {
    static const char *const names[] = {MODEL, TEXTS};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = mem_printf("%s/%s", state_dir, names[i]), *temp = mem_printf("%s.tmp", path);
        unlink(path);
        unlink(temp);
        free(path);
        free(temp);
    }
}
