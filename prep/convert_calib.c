#include "prep/convert_calib.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/corm_read.h"
#include "prep/calib/calib_sample.h"
#include "prep/calib/calib_state.h"
#include "prep/calib/loss.h"
#include "prep/claim.h"
#include "prep/report.h"

static char *state_path(const char *output) {
    return mem_printf("%s.calib", output);
}

/* The path of a part of the project's own text, which lies at a fixed place relative to the
 * program, where that was built as well as where it was installed. */
static int own_text(const char *part, const char *option, char **path, struct err *err) {
    static const char *const places[] = {"../../calib-data", "../share/corm/calib-data"};
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *dir = dirname(exe);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        *path = mem_printf("%s/%s%s", dir, places[i], part);
        if (access(*path, R_OK) == 0) {
            return 0;
        }
        free(*path);
    }
    return err_set(
        err, "the project's calibration text is not beside the program: name one with %s", option);
}

/* Add the text at the paths that `option` named, or else the project's own. */
static int read_text(struct corpus *c, const struct tokenizer *tok, const struct cli_list *named,
                     const char *option, const char *const own[], uint32_t seq_tok,
                     struct err *err) {
    for (size_t i = 0; i < named->count; i++) {
        if (corpus_add(c, tok, named->items[i], seq_tok, err) < 0) {
            return err_prefix(err, "%s", option);
        }
    }
    for (size_t i = 0; named->count == 0 && own[i]; i++) {
        char *path;
        if (own_text(own[i], option, &path, err) < 0) {
            return -1;
        }
        int rc = corpus_add(c, tok, path, seq_tok, err);
        free(path);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

/* A sequence is no longer than the model's context, nor than a sixteenth of the text, so that some
 * are held out; and the engine, which measures loss, takes it in one batch. Nor is it so long that
 * the model would turn it in its long form. */
static uint32_t sequence_tok(const struct convert_options *o, const struct arch *a) {
    uint32_t n = (uint32_t)o->calib_seq, most = (uint32_t)o->calib_tok / 16;
    most = a->ctx_max_tok < most ? a->ctx_max_tok : most;
    most = arch_limit_ctx(a, most);
    for (uint32_t i = 0; i < a->n_rope_long; i++) {
        uint32_t tok = a->rope_long_tok[i];
        most = tok > 0 && tok < most ? tok : most;
    }
    n = n < most ? n : most;
    return n < 4096 ? n : 4096;
}

/* A hash that tells one checkpoint from another without reading all of it: of the files' sizes, and
 * of pages all over them. */
static int checkpoint_hash(const struct hf_model *m, uint64_t *hash, struct err *err) {
    enum { PAGE = 4096, PAGES = 256 };
    struct hasher *h = hasher_new();
    int rc = 0;
    for (size_t i = 0; i < st_file_count(m->st) && rc == 0; i++) {
        struct map file;
        rc = map_open(&file, st_file_path(m->st, i), err);
        if (rc < 0) {
            break;
        }
        uint64_t size = file.size_bytes, step = align_up(size / PAGES + 1, PAGE);
        hasher_add(h, &size, sizeof size);
        for (uint64_t at = 0; at < size; at += step) {
            hasher_add(h, file.data + at, size - at < PAGE ? size - at : PAGE);
        }
        map_close(&file);
    }
    *hash = hasher_value(h);
    hasher_free(h);
    return rc;
}

/* Whether `--calib none` was given, which means no text but the model's own. (A file of that name
 * can be given as `./none`.) */
static bool no_text(const struct convert_options *o) {
    for (size_t i = 0; i < o->calib.count; i++) {
        if (strcmp(o->calib.items[i], "none") == 0) {
            return true;
        }
    }
    return false;
}

/* Training and held-out text, thinned to what was asked for. */
static int read_texts(struct calibration *c, const struct convert_options *o,
                      const struct hf_model *m, uint32_t seq_tok, struct corpus *train,
                      struct err *err) {
    static const char *const own_train[] = {"/stories", "/dialogue",  "/questions", "/technical",
                                            "/code",    "/languages", NULL};
    static const char *const own_held[] = {"/heldout", NULL};
    const struct tokenizer *tok = m->tok;
    /* Many more than are wanted, so that thinning has a choice, and all of most texts. */
    enum { LEAST = 4 << 20, FACTOR = 4 };
    uint64_t most = (uint64_t)o->calib_tok * FACTOR;
    most = most > LEAST ? most : LEAST;
    train->stop = c->held.stop = o->stop;
    train->tokenizer_of = c->held.tokenizer_of = m->dir;
    train->most_tok = c->held.most_tok =
        o->calib_tok > 0 && most < CORPUS_MAX_TOK ? (uint32_t)most : 0;
    if (!no_text(o) && read_text(train, tok, &o->calib, "--calib", own_train, seq_tok, err) < 0) {
        return -1;
    }
    if (read_text(&c->held, tok, &o->calib_held, "--calib-held", own_held, seq_tok, err) < 0) {
        return -1;
    }
    corpus_thin(train, (uint32_t)o->calib_tok);
    corpus_thin(&c->held, (uint32_t)o->calib_tok / 4);
    return 0;
}

__attribute__((format(printf, 1, 0))) static void tell_resumed(const char *format, uint32_t n,
                                                               const char *state_dir) {
    char *from = text_cleaned(state_dir);
    fprintf(stderr, format, n);
    fprintf(stderr, ", from %s\n", from);
    free(from);
}

/* Append text that the model itself writes. */
static int generate(struct calibration *c, const struct convert_options *o,
                    const struct hf_model *model, const struct pack_options *pack, uint32_t seq_tok,
                    uint64_t hash, struct progress *progress, struct corpus *train,
                    struct err *err) {
    const struct codec *codec = pack->expert_codec, *trunk = pack->trunk_codec;
    char *key = mem_printf("%s %016" PRIx64 " codec %s trunk %s", CORM_VERSION_TEXT, hash,
                           codec ? codec->name : "keep", trunk ? trunk->name : "keep");
    struct calib_sample_options opt = {
        .n_tok = (uint32_t)o->generate_calib,
        .seq_tok = seq_tok,
        .threads = (uint32_t)o->threads,
        .state_dir = c->state_dir,
        .state_key = key,
    };
    uint32_t before = train->n_tok, resumed = 0;
    int rc = calib_sample(model, pack, &opt, progress, o->stop, train, &resumed, err);
    free(key);
    if (rc == 0 && resumed > 0 && !o->prep.quiet) {
        tell_resumed("sampling went on after %u tokens", resumed, c->state_dir);
    }
    c->generated_tok = train->n_tok - before;
    return rc;
}

static int calibrate(struct calibration *c, const struct convert_options *o,
                     const struct hf_model *model, const struct pack_options *pack, uint64_t hash,
                     const struct corpus *train, struct progress *progress, struct err *err) {
    const struct arch *a = hf_arch(model);
    struct calib_options opt = {
        .chunk_neurons = pack_chunk_neurons(a, (uint32_t)o->chunk_neurons),
        .hot_share = o->hot_share,
        .rank = 64,
        .basis = 256,
        .gates = 128,
        .threads = (uint32_t)o->threads,
        .state_dir = c->state_dir,
        .round_codec = o->rounding != CONVERT_NEAREST && pack->expert_codec &&
                               codec_steps_of(pack->expert_codec)
                           ? pack->expert_codec
                           : NULL,
    };
    char *spill = claim_path(o->output, CLAIM_SPILL);
    opt.spill_path = spill;
    char *key =
        mem_printf("%s %016" PRIx64 " chunk %u share %.17g rank %u basis %u gates %u rounding %s",
                   CORM_VERSION_TEXT, hash, opt.chunk_neurons, opt.hot_share, opt.rank, opt.basis,
                   opt.gates, opt.round_codec ? opt.round_codec->name : "none");
    opt.state_key = key;
    int rc = calib_run(model, train, &c->held, &opt, progress, o->stop, &c->result, err);
    free(key);
    free(spill);
    if (c->result.refused.set && !o->prep.quiet) {
        fprintf(stderr, "%s: computed again\n", c->result.refused.msg);
    }
    if (rc == 0 && c->result.resumed_layers > 0 && !o->prep.quiet) {
        tell_resumed("calibration went on after layer %u", c->result.resumed_layers - 1,
                     c->state_dir);
    }
    return rc;
}

static void hand_over(struct calibration *c, const struct convert_options *o,
                      const struct hf_model *model, struct pack_options *pack) {
    if (no_text(o)) {
        snprintf(c->text, sizeof c->text, "the model's own text");
    } else {
        int n = snprintf(c->text, sizeof c->text, "%s",
                         o->calib.count ? "the user's text" : "calib-data");
        if (c->generated_tok > 0) {
            snprintf(c->text + n, sizeof c->text - (size_t)n, ", %u of them the model's own",
                     c->generated_tok);
        }
    }
    report_add_scores(&c->result.predictors, &c->result);
    if (c->held.n_tok > 0) {
        loss_reserve(&c->result.predictors, hf_arch(model));
    }
    corm_predict_finish(&c->result.predictors, &c->predictors);
    pack->calib = &c->result;
    pack->predictors = &c->predictors;
    pack->calib_text = c->text;
    c->ran = true;
}

int calibration_run(struct calibration *c, const struct convert_options *o,
                    const struct hf_model *model, struct pack_options *pack,
                    struct progress *progress, struct err *err) {
    struct corpus train = {0};
    uint32_t seq_tok = sequence_tok(o, hf_arch(model));
    uint64_t hash;
    int rc = -1;
    *c = (struct calibration){.state_dir = state_path(o->output)};
    if (!o->calibrate && !o->calib.count && !o->generate_calib) {
        return 0;
    }
    if (no_text(o) && o->calib.count > 1) {
        return err_set(err, "--calib none and --calib with a text exclude each other");
    }
    if (no_text(o) && !o->generate_calib) {
        return err_set(err, "--calib none leaves no text: add --generate-calib");
    }
    if (read_texts(c, o, model, seq_tok, &train, err) < 0 ||
        checkpoint_hash(model, &hash, err) < 0 ||
        (o->generate_calib &&
         generate(c, o, model, pack, seq_tok, hash, progress, &train, err) < 0) ||
        calibrate(c, o, model, pack, hash, &train, progress, err) < 0) {
        goto out;
    }
    hand_over(c, o, model, pack);
    rc = 0;
out:
    corpus_free(&train);
    return rc;
}

static void remove_state(const char *state_dir, uint32_t n_layers) {
    calib_sample_remove(state_dir);
    calib_state_remove(state_dir, n_layers);
}

void calibration_done(const struct calibration *c) {
    if (c->ran) {
        remove_state(c->state_dir, c->result.n_layers);
    }
}

/* Whether no file of the directory was written after `time`; also false where that cannot be known.
 * The directory's own time does not count, because it changes whenever a file is removed. */
static bool all_before(const char *dir, struct timespec time) {
    DIR *d = opendir(dir);
    bool before = d != NULL;
    while (before) {
        struct stat info;
        errno = 0;
        const struct dirent *entry = readdir(d);
        if (!entry) {
            before = errno == 0;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        before = fstatat(dirfd(d), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                 (info.st_mtim.tv_sec < time.tv_sec ||
                  (info.st_mtim.tv_sec == time.tv_sec && info.st_mtim.tv_nsec <= time.tv_nsec));
    }
    if (d) {
        closedir(d);
    }
    return before;
}

void calibration_tidy(const char *output) {
    struct stat info;
    struct corm c;
    char *state_dir = state_path(output);
    if (stat(output, &info) == 0 && all_before(state_dir, info.st_mtim) &&
        corm_open(&c, output, CORM_OPEN_SKIP_TRUNK_HASH, NULL) == 0) {
        if (c.predictors.size_bytes > 0) {
            remove_state(state_dir, c.arch.n_layers);
        }
        corm_close(&c);
    }
    free(state_dir);
}

void calibration_free(struct calibration *c) {
    calib_result_free(&c->result);
    corpus_free(&c->held);
    buf_free(&c->predictors);
    free(c->state_dir);
    *c = (struct calibration){0};
}
