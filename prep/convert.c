#include "prep/convert.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "prep/calib_state.h"
#include "prep/hf.h"
#include "prep/loss.h"
#include "prep/pack.h"
#include "prep/report.h"
#include "prep/source.h"

enum { EXIT_INTERRUPTED = 130 };

const char *const convert_codec_words[] = {"keep", "bf16", "f16", "f32", "q8", "q4", NULL};
const char *const convert_trunk_words[] = {"keep", "bf16", "f16", "f32", "q8", NULL};

static uint64_t peak_rss_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss << 10;
}

/* The output may not be the input, nor lie where a file is that the user did not offer. */
static int check_output(const struct prep_options *o, const char *input, struct err *err) {
    struct stat in, out;
    if (stat(o->output, &out) != 0) {
        return errno == ENOENT ? 0 : err_errno(err, errno, "%s", o->output);
    }
    if (stat(input, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
        return err_set(err, "%s: is input and output at once", o->output);
    }
    if (!S_ISREG(out.st_mode)) {
        return err_set(err, "%s: exists and is not a regular file", o->output);
    }
    if (!o->force) {
        return err_set(err, "%s: exists already (--force replaces it)", o->output);
    }
    return 0;
}

/* No file of the checkpoint may be the output either. */
static int check_output_in(const char *output, const char *dir, struct err *err) {
    struct stat out, in;
    char **names;
    size_t n;
    if (stat(output, &out) != 0) {
        return 0;
    }
    if (source_names(dir, &names, &n, err)) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        char *path = mem_printf("%s/%s", dir, names[i]);
        if (stat(path, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
            rc = err_set(err, "%s: is a file of the checkpoint", output);
        }
        free(path);
    }
    source_names_free(names, n);
    return rc;
}

static void print_summary(const struct prep_options *o, const struct hf_model *m,
                          const struct pack_result *r, double seconds) {
    const struct corm_write_stats *s = &r->stats;
    const struct arch *a = hf_arch(m);
    double ratio = (double)s->file_bytes / (double)r->source_bytes;
    if (o->json) {
        json_t *root = json_pack(
            "{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:f, s:I}",
            "output", o->output, "family", a->family, "parameters", (json_int_t)arch_params(a),
            "parameters_active", (json_int_t)arch_params_active(a), "source_bytes",
            (json_int_t)r->source_bytes, "file_bytes", (json_int_t)s->file_bytes, "ratio", ratio,
            "trunk_bytes", (json_int_t)s->trunk_bytes, "experts_raw_bytes",
            (json_int_t)s->record_raw_bytes, "experts_stored_bytes",
            (json_int_t)s->record_stored_bytes, "codec", r->expert_codec->name, "chunks",
            (json_int_t)s->n_chunks, "raw_chunks", (json_int_t)s->n_chunks_raw, "chunk_neurons",
            (json_int_t)r->chunk_neurons, "hot_neurons", (json_int_t)r->hot_neurons, "seconds",
            seconds, "peak_rss_bytes", (json_int_t)peak_rss_bytes());
        char *text = json_dumps(root, JSON_INDENT(2));
        printf("%s\n", text ? text : "{}");
        free(text);
        json_decref(root);
        return;
    }
    char file[CLI_SIZE_TEXT], source[CLI_SIZE_TEXT], trunk[CLI_SIZE_TEXT], stored[CLI_SIZE_TEXT];
    char raw[CLI_SIZE_TEXT], peak[CLI_SIZE_TEXT];
    printf("%s: %s, %.3f of the checkpoint's %s\n", o->output, cli_size_text(file, s->file_bytes),
           ratio, cli_size_text(source, r->source_bytes));
    printf("  model    %s, %u layers, %.4g M parameters, %.4g M used by a token\n", a->family,
           a->n_layers, (double)arch_params(a) / 1e6, (double)arch_params_active(a) / 1e6);
    printf("  trunk    %s\n", cli_size_text(trunk, s->trunk_bytes));
    printf("  experts  %s of %s in %s, %u of %u neurons hot, %" PRIu64
           " chunks of %u neurons (%" PRIu64 " raw)\n",
           cli_size_text(stored, s->record_stored_bytes), cli_size_text(raw, s->record_raw_bytes),
           r->expert_codec->name, r->hot_neurons, a->ffn_dim, s->n_chunks, r->chunk_neurons,
           s->n_chunks_raw);
    printf("  took     %.1f s, peak memory %s\n", seconds, cli_size_text(peak, peak_rss_bytes()));
}

/* Text for calibration: what the user names, else the project's own, from beside the program: where
 * it was built, or where it was installed. */
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

/* Text at the paths that `option` named, else the project's own. */
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
 * are held out; and the engine, which measures loss, takes it in one batch. */
static uint32_t sequence_tok(const struct prep_options *o, const struct arch *a) {
    uint32_t n = (uint32_t)o->calib_seq, most = (uint32_t)o->calib_tok / 16;
    most = a->ctx_max_tok < most ? a->ctx_max_tok : most;
    n = n < most ? n : most;
    return n < 4096 ? n : 4096;
}

/* What tells one checkpoint from another without reading all of it: sizes, and pages all over. */
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

/* Run calibration and put what it found into `pack`. */
static int calibrate(const struct prep_options *o, const struct hf_model *model,
                     struct progress *progress, struct pack_options *pack,
                     struct calib_result *result, struct corpus *held, struct buf *predictors,
                     struct err *err) {
    static const char *const own_train[] = {"/stories", "/dialogue",  "/questions", "/technical",
                                            "/code",    "/languages", NULL};
    static const char *const own_held[] = {"/heldout", NULL};
    struct corpus train = {0};
    struct buf section = {0};
    struct tokenizer *tok = NULL;
    char *state = mem_printf("%s.calib", o->output), *key = NULL;
    uint32_t seq_tok = sequence_tok(o, hf_arch(model));
    uint64_t hash;
    int rc = -1;
    /* The tokenizer uses its section in place: it must outlive it and be aligned, as a heap block
     * is. */
    if (pack_tokenizer(model->dir, &section, err) < 0 ||
        tokenizer_open(section.data, section.len, &tok, err) < 0 ||
        read_text(&train, tok, &o->calib, "--calib", own_train, seq_tok, err) < 0 ||
        read_text(held, tok, &o->calib_held, "--calib-held", own_held, seq_tok, err) < 0 ||
        checkpoint_hash(model, &hash, err) < 0) {
        goto out;
    }
    corpus_thin(&train, (uint32_t)o->calib_tok);
    corpus_thin(held, (uint32_t)o->calib_tok / 4);
    struct calib_options opt = {
        .chunk_neurons = pack_chunk_neurons(hf_arch(model), (uint32_t)o->chunk_neurons),
        .hot_share = o->hot_share,
        .rank = 64,
        .basis = 128,
        .threads = (uint32_t)o->threads,
        .state_dir = state,
    };
    key = mem_printf("%s %016" PRIx64 " chunk %u share %.17g rank %u basis %u threads %u",
                     CORM_VERSION_TEXT, hash, opt.chunk_neurons, opt.hot_share, opt.rank, opt.basis,
                     opt.threads);
    opt.state_key = key;
    if (calib_run(model, &train, held, &opt, progress, o->stop, result, err) < 0) {
        goto out;
    }
    if (result->resumed_layers > 0 && !o->quiet) {
        fprintf(stderr, "calibration went on after layer %u, from %s\n", result->resumed_layers - 1,
                state);
    }
    report_add_scores(&result->predictors, result);
    if (held->n_tok > 0) {
        loss_reserve(&result->predictors, hf_arch(model));
    }
    corm_predict_finish(&result->predictors, predictors);
    pack->calib = result;
    pack->predictors = predictors;
    pack->calib_text = o->calib.count ? "the user's text" : "calib-data";
    rc = 0;
out:
    tokenizer_close(tok);
    corpus_free(&train);
    buf_free(&section);
    free(state);
    free(key);
    return rc;
}

/* Write the archive; where it was calibrated, under another name until its loss levels are
 * measured. */
static int write_archive(const struct prep_options *o, const struct hf_model *model,
                         struct pack_options *pack, const struct corpus *held,
                         struct progress *progress, struct pack_result *result,
                         struct loss_point *points, struct err *err) {
    if (!pack->calib || held->n_tok == 0) {
        return pack_model(model, o->output, pack, progress, o->stop, result, err);
    }
    char *unmeasured = mem_printf("%s.unmeasured", o->output);
    int rc = pack_model(model, unmeasured, pack, progress, o->stop, result, err);
    if (rc == 0) {
        rc = loss_fit(unmeasured, held, (uint32_t)o->threads, progress, o->stop, points, err);
        if (rc == 0 && rename(unmeasured, o->output) < 0) {
            rc = err_errno(err, errno, "%s", o->output);
        }
        if (rc < 0) {
            unlink(unmeasured);
        }
    }
    free(unmeasured);
    return rc;
}

static void print_loss(const struct loss_point points[LOSS_LEVELS]) {
    for (int i = 0; i < LOSS_LEVELS; i++) {
        printf(
            "  --loss %-3g %5.1f %% of the experts' bytes left out, perplexity %+.2f %%, KL %.4f\n",
            (double)points[i].percent, 100 * points[i].skipped, points[i].perplexity,
            points[i].divergence);
    }
}

static int convert_dir(const struct prep_options *o, const char *dir, struct progress *progress,
                       uint64_t start_ns, struct err *err) {
    struct hf_model model;
    struct pack_result result = {0};
    struct calib_result calib = {0};
    struct buf predictors = {0};
    struct corpus held = {0};
    struct loss_point points[LOSS_LEVELS] = {{0}};
    struct pack_options pack = {
        .expert_codec = codec_by_name(convert_codec_words[o->codec]),
        .trunk_codec = codec_by_name(convert_trunk_words[o->trunk]),
        .hot_fraction = o->hot,
        .chunk_neurons = (uint32_t)o->chunk_neurons,
        .compress = !o->no_compress,
        .raw_hot = o->raw_hot,
        .threads = (uint32_t)o->threads,
        .version = CORM_VERSION_TEXT,
    };
    int rc = hf_open(&model, dir, err);
    if (rc == 0 && model.config.warnings.len && !o->quiet) {
        fprintf(stderr, "%s", model.config.warnings.data);
    }
    if (rc == 0) {
        rc = check_output_in(o->output, dir, err);
    }
    if (rc == 0 && (o->calibrate || o->calib.count)) {
        rc = calibrate(o, &model, progress, &pack, &calib, &held, &predictors, err);
    }
    if (rc == 0) {
        rc = write_archive(o, &model, &pack, &held, progress, &result, points, err);
    }
    if (rc == 0 && (!o->quiet || o->json)) {
        print_summary(o, &model, &result, (double)(clock_ns() - start_ns) / 1e9);
    }
    if (rc == 0 && pack.calib && held.n_tok > 0 && !o->quiet && !o->json) {
        print_loss(points);
    }
    corpus_free(&held);
    if (rc == 0 && pack.calib) {
        char *state = mem_printf("%s.calib", o->output);
        calib_state_remove(state, calib.n_layers);
        free(state);
    }
    calib_result_free(&calib);
    buf_free(&predictors);
    hf_close(&model);
    return rc;
}

int convert_run(const struct cli_call *call, struct err *err) {
    const struct prep_options *o = call->values;
    const char *input = call->args.items[0];
    uint64_t start_ns = clock_ns();
    if (!o->output) {
        err_set(err, "convert needs -o MODEL.corm");
        return CLI_USAGE;
    }
    if (check_output(o, input, err)) {
        return -1;
    }
    struct progress_terminal terminal;
    struct progress *progress = progress_terminal_init(&terminal, stderr, o->quiet);
    struct source source;
    char *parent = mem_strdup(o->output);
    int rc = source_open(&source, input, dirname(parent), progress, o->stop, err);
    if (rc == 0) {
        rc = convert_dir(o, source.dir, progress, start_ns, err);
    }
    source_close(&source);
    free(parent);
    if (rc && *o->stop) {
        *err = (struct err){0};
        err_set(err, "interrupted: %s has not been written", o->output);
        return EXIT_INTERRUPTED;
    }
    return rc;
}
