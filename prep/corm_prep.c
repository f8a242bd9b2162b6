/*
 * corm_prep: main of corm-prep, which turns Hugging Face checkpoints into .corm archives and looks
 * at them.
 *
 * Owns: the command table, options, what is printed.
 * Leaves to others: everything else.
 */
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

#include "format/cli.h"
#include "format/corm_read.h"
#include "format/tokenizer.h"
#include "prep/calib_state.h"
#include "prep/hf.h"
#include "prep/inspect.h"
#include "prep/pack.h"
#include "prep/report.h"
#include "prep/source.h"

enum { EXIT_INTERRUPTED = 130, MAX_INPUT_BYTES = 1 << 30 };

struct options {
    const char *output, *prompt;
    int codec, trunk; /* words below */
    double hot;
    int chunk_neurons, threads;
    bool no_compress, compress_hot, force;
    bool calibrate;
    struct cli_list calib, calib_held;
    int calib_tok, calib_seq;
    double hot_share;
    bool decode, no_special;
    bool quiet, json;
};

/* The first word means: as the checkpoint has it. */
static const char *const codec_words[] = {"keep", "bf16", "f16", "f32", "q8", "q4", NULL};
static const char *const trunk_words[] = {"keep", "bf16", "f16", "f32", "q8", NULL};

/* Set by SIGINT and SIGTERM; long work looks at it. */
static volatile sig_atomic_t stop_flag;

static void on_signal(int number) {
    (void)number;
    stop_flag = 1;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit then is an error of write(2) */
}

/* ---- convert ---- */

static uint64_t peak_rss_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss << 10;
}

/* The output may not be the input, nor lie where a file is that the user did not offer. */
static int check_output(const struct options *o, const char *input, struct err *err) {
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

static void print_summary(const struct options *o, const struct hf_model *m,
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

/* Text for calibration: what the user names, else the project's own, from beside the program: where it
 * was built, or where it was installed. */
static int own_text(const char *part, char **path, struct err *err) {
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
        err, "the project's calibration text is not beside the program: name one with --calib");
}

static int read_text(struct corpus *c, const struct tokenizer *tok, const struct cli_list *named,
                     const char *const own[], const struct options *o, struct err *err) {
    for (size_t i = 0; i < named->count; i++) {
        if (corpus_add(c, tok, named->items[i], (uint32_t)o->calib_seq, err) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; named->count == 0 && own[i]; i++) {
        char *path;
        if (own_text(own[i], &path, err) < 0) {
            return -1;
        }
        int rc = corpus_add(c, tok, path, (uint32_t)o->calib_seq, err);
        free(path);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

/* Run calibration and put what it found into `pack`. */
static int calibrate(const struct options *o, const struct hf_model *model,
                     struct progress *progress, struct pack_options *pack,
                     struct calib_result *result, struct buf *predictors, struct err *err) {
    static const char *const own_train[] = {"/stories", "/dialogue",  "/questions", "/technical",
                                            "/code",    "/languages", NULL};
    static const char *const own_held[] = {"/heldout", NULL};
    struct corpus train = {0}, held = {0};
    struct buf section = {0};
    struct tokenizer *tok = NULL;
    char *state = mem_printf("%s.calib", o->output), *key = NULL;
    int rc = -1;
    /* The tokenizer uses its section in place: it must outlive it and be aligned, as a heap block is. */
    if (pack_tokenizer(model->dir, &section, err) < 0 ||
        tokenizer_open(section.data, section.len, &tok, err) < 0 ||
        read_text(&train, tok, &o->calib, own_train, o, err) < 0 ||
        read_text(&held, tok, &o->calib_held, own_held, o, err) < 0) {
        goto out;
    }
    corpus_thin(&train, (uint32_t)o->calib_tok);
    corpus_thin(&held, (uint32_t)o->calib_tok / 4);
    key = mem_printf("%s %s chunk %d share %g threads %d bytes %zu", CORM_VERSION_TEXT,
                     hf_arch(model)->family, o->chunk_neurons, o->hot_share, o->threads,
                     (size_t)arch_params(hf_arch(model)));
    struct calib_options opt = {
        .chunk_neurons = pack_chunk_neurons(hf_arch(model), (uint32_t)o->chunk_neurons),
        .hot_share = o->hot_share,
        .rank = 64,
        .basis = 64,
        .threads = (uint32_t)o->threads,
        .state_dir = state,
        .state_key = key,
    };
    if (calib_run(model, &train, &held, &opt, progress, &stop_flag, result, err) < 0) {
        goto out;
    }
    if (result->resumed_layers > 0 && !o->quiet) {
        fprintf(stderr, "calibration went on after layer %u, from %s\n", result->resumed_layers - 1,
                state);
    }
    report_add_scores(&result->predictors, result);
    corm_predict_finish(&result->predictors, predictors);
    pack->calib = result;
    pack->predictors = predictors;
    pack->calib_text = o->calib.count ? "the user's text" : "calib-data";
    rc = 0;
out:
    tokenizer_close(tok);
    corpus_free(&train);
    corpus_free(&held);
    buf_free(&section);
    free(state);
    free(key);
    return rc;
}

static int convert_dir(const struct options *o, const char *dir, struct progress *progress,
                       uint64_t start_ns, struct err *err) {
    struct hf_model model;
    struct pack_result result = {0};
    struct calib_result calib = {0};
    struct buf predictors = {0};
    struct pack_options pack = {
        .expert_codec = codec_by_name(codec_words[o->codec]),
        .trunk_codec = codec_by_name(trunk_words[o->trunk]),
        .hot_fraction = o->hot,
        .chunk_neurons = (uint32_t)o->chunk_neurons,
        .compress = !o->no_compress,
        .compress_hot = o->compress_hot,
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
        rc = calibrate(o, &model, progress, &pack, &calib, &predictors, err);
    }
    if (rc == 0) {
        rc = pack_model(&model, o->output, &pack, progress, &stop_flag, &result, err);
    }
    if (rc == 0 && (!o->quiet || o->json)) {
        print_summary(o, &model, &result, (double)(clock_ns() - start_ns) / 1e9);
    }
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

static int run_convert(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    const char *input = call->args.items[0];
    uint64_t start_ns = clock_ns();
    if (!o->output) {
        err_set(err, "convert needs -o MODEL.corm");
        return CLI_USAGE;
    }
    catch_signals();
    if (check_output(o, input, err)) {
        return -1;
    }
    struct progress_terminal terminal;
    struct progress *progress = progress_terminal_init(&terminal, stderr, o->quiet);
    struct source source;
    char *parent = mem_strdup(o->output);
    int rc = source_open(&source, input, dirname(parent), progress, &stop_flag, err);
    if (rc == 0) {
        rc = convert_dir(o, source.dir, progress, start_ns, err);
    }
    source_close(&source);
    free(parent);
    if (rc && stop_flag) {
        *err = (struct err){0};
        err_set(err, "interrupted: %s has not been written", o->output);
        return EXIT_INTERRUPTED;
    }
    return rc;
}

/* ---- inspect, report and verify ---- */

static int run_report(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct buf out = {0};
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err)) {
        return -1;
    }
    int rc = report_print(&c, o->json, &out, err);
    if (rc == 0) {
        fwrite(out.data, 1, out.len, stdout);
    } else {
        err_prefix(err, "%s", path);
    }
    buf_free(&out);
    corm_close(&c);
    return rc;
}

static int run_inspect(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct buf out = {0};
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err)) {
        return -1;
    }
    int rc = o->json ? inspect_json(&c, path, &out, err) : inspect_text(&c, path, &out, err);
    if (rc == 0) {
        fwrite(out.data, 1, out.len, stdout);
    } else {
        err_prefix(err, "%s", path);
    }
    buf_free(&out);
    corm_close(&c);
    return rc;
}

static void verify_progress(void *ctx, uint64_t done, uint64_t total) {
    (void)total;
    progress_update(ctx, done);
}

/* Also what no checksum can tell: that the tokenizer section is one. */
static int verify_archive(const char *path, struct corm *c, struct progress *progress,
                          struct err *err) {
    struct tokenizer *tok;
    if (tokenizer_open(c->tokenizer.data, c->tokenizer.size_bytes, &tok, err)) {
        return err_prefix(err, "%s: tokenizer", path);
    }
    tokenizer_close(tok);
    progress_start(progress, "verifying", c->header.file_bytes, PROGRESS_BYTES);
    int rc = corm_verify(c, progress ? verify_progress : NULL, progress, err);
    progress_finish(progress);
    return rc;
}

static int run_verify(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    const char *path = call->args.items[0];
    struct progress_terminal terminal;
    struct corm c;
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err)) {
        return -1;
    }
    int rc = verify_archive(path, &c, progress_terminal_init(&terminal, stderr, o->quiet), err);
    if (rc == 0 && o->json) {
        printf("{\"ok\": true, \"file_bytes\": %" PRIu64 ", \"sections\": %u, \"tensors\": %u, "
               "\"chunks\": %u}\n",
               c.header.file_bytes, c.header.section_count, c.n_tensors, c.n_chunks);
    } else if (rc == 0 && !o->quiet) {
        char size[CLI_SIZE_TEXT];
        printf("%s: ok: %s, %u sections, %u tensors, %u chunks\n", path,
               cli_size_text(size, c.header.file_bytes), c.header.section_count, c.n_tensors,
               c.n_chunks);
    }
    corm_close(&c);
    return rc;
}

/* ---- tokenize ---- */

static int read_input(const struct options *o, struct buf *in, struct err *err) {
    char block[65536];
    size_t n;
    if (o->prompt) {
        buf_append(in, o->prompt, strlen(o->prompt));
        return 0;
    }
    while ((n = fread(block, 1, sizeof block, stdin)) > 0) {
        buf_append(in, block, n);
        if (in->len > MAX_INPUT_BYTES) {
            return err_set(err, "standard input: more than %d bytes", MAX_INPUT_BYTES);
        }
    }
    if (ferror(stdin)) {
        return err_errno(err, errno, "standard input");
    }
    buf_append(in, "", 0);
    return 0;
}

/* Ids parted by blanks, commas or brackets: what this command prints, in both forms. */
static int parse_ids(const struct buf *in, struct token_list *ids, struct err *err) {
    const char *p = in->data ? in->data : "", *end = p + in->len;
    while (p < end) {
        if (strchr(" \t\r\n,[]", *p) && *p) {
            p++;
            continue;
        }
        char *stop;
        errno = 0;
        unsigned long long id = *p >= '0' && *p <= '9' ? strtoull(p, &stop, 10) : UINT64_MAX;
        if (id > UINT32_MAX || errno) {
            return err_set(err, "\"%.20s\" is not a token id", p);
        }
        token_list_add(ids, (uint32_t)id);
        p = stop;
    }
    return 0;
}

static void print_ids(const struct options *o, const struct tokenizer *tok,
                      const struct token_list *ids) {
    if (!o->json) {
        for (size_t i = 0; i < ids->n; i++) {
            printf("%s%u", i ? " " : "", ids->ids[i]);
        }
        printf("\n");
        return;
    }
    json_t *list = json_array(), *pieces = json_array();
    for (size_t i = 0; i < ids->n; i++) {
        size_t n = 0;
        const char *piece = tokenizer_piece(tok, ids->ids[i], &n);
        json_t *text = piece ? json_stringn(piece, n) : NULL;
        json_array_append_new(list, json_integer(ids->ids[i]));
        json_array_append_new(pieces, text ? text : json_null());
    }
    json_t *root = json_pack("{s:o, s:o}", "ids", list, "pieces", pieces);
    char *text = json_dumps(root, JSON_COMPACT);
    printf("%s\n", text ? text : "{}");
    free(text);
    json_decref(root);
}

static int print_text(const struct options *o, const struct tokenizer *tok,
                      const struct token_list *ids, struct err *err) {
    struct buf out = {0};
    int rc = tokenizer_decode(tok, ids->ids, ids->n, o->no_special ? TOKENIZER_SKIP_SPECIAL : 0,
                              &out, err);
    if (rc == 0 && o->json) {
        json_t *root = json_pack("{s:s%}", "text", out.data ? out.data : "", out.len);
        char *text = json_dumps(root, JSON_COMPACT);
        printf("%s\n", text ? text : "{}");
        free(text);
        json_decref(root);
    } else if (rc == 0) {
        fwrite(out.data ? out.data : "", 1, out.len, stdout);
    }
    buf_free(&out);
    return rc;
}

static int run_tokenize(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct tokenizer *tok = NULL;
    struct buf in = {0};
    struct token_list ids = {0};
    int rc = -1;
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err)) {
        return -1;
    }
    if (tokenizer_open(c.tokenizer.data, c.tokenizer.size_bytes, &tok, err)) {
        err_prefix(err, "%s: tokenizer", path);
        goto out;
    }
    if (read_input(o, &in, err)) {
        goto out;
    }
    if (o->decode) {
        rc = parse_ids(&in, &ids, err) ? -1 : print_text(o, tok, &ids, err);
        goto out;
    }
    unsigned flags = TOKENIZER_PARSE_SPECIAL | (o->no_special ? 0 : TOKENIZER_ADD_SPECIAL);
    rc = tokenizer_encode(tok, in.data ? in.data : "", in.len, flags, &ids, err);
    if (rc == 0) {
        print_ids(o, tok, &ids);
    }
out:
    token_list_free(&ids);
    buf_free(&in);
    tokenizer_close(tok);
    corm_close(&c);
    return rc;
}

/* ---- tables ---- */

#define FIELD(member) CLI_FIELD(struct options, member)

static const struct cli_option output_rows[] = {
    {"output", 'o', CLI_STRING, FIELD(output), "MODEL.corm", .help = "The archive to write."},
    {"force", 'f', CLI_FLAG, FIELD(force), .help = "Replace the archive where it exists."},
    {0}};
static const struct cli_group output_group = {"Output", output_rows};

static const struct cli_option weight_rows[] = {
    {"codec", 'c', CLI_ENUM, FIELD(codec), "CODEC",
     "How expert weights are stored. keep: as the checkpoint has them, without loss; q8: 8.5 bits "
     "a weight; "
     "q4: 4.5 bits.",
     .words = codec_words},
    {"trunk", 0, CLI_ENUM, FIELD(trunk), "CODEC",
     "How the matrices that every token uses are stored. Norms and biases are f32 always, routers "
     "as the "
     "checkpoint has them.",
     .words = trunk_words},
    {"hot", 0, CLI_DOUBLE, FIELD(hot), "FRACTION",
     "Part of each expert's neurons in its hot prefix, rounded to whole chunks (at least one, "
     "unless 0).",
     .min = 0, .max = 1},
    {"chunk-neurons", 0, CLI_INT, FIELD(chunk_neurons), "N",
     "Neurons of a chunk: a multiple of 32.", .min = 32, .max = 1 << 20},
    {"no-compress", 0, CLI_FLAG, FIELD(no_compress), .help = "Store all chunks raw."},
    {"compress-hot", 0, CLI_FLAG, FIELD(compress_hot),
     .help = "Compress hot prefixes too: a smaller file, but they cannot be used in place."},
    {0}};
static const struct cli_group weight_group = {"Weights", weight_rows};

static const struct cli_option calib_rows[] = {
    {"calibrate", 0, CLI_FLAG, FIELD(calibrate),
     .help =
         "Run text through the model first: order neurons by what they add, and learn to predict "
         "experts and neurons. Progress is kept in MODEL.corm.calib, so that an interrupted "
         "calibration goes on where it was."},
    {"calib", 0, CLI_LIST, FIELD(calib), "PATH",
     .help = "Text to calibrate on, in place of the project's own: a file, a directory, or an "
             "archive of "
             "text (.gz, .zst, .tar, .zip). Implies --calibrate. May be given again."},
    {"calib-held", 0, CLI_LIST, FIELD(calib_held), "PATH",
     .help = "Text to score what was learned on; default: the project's own."},
    {"calib-tokens", 0, CLI_INT, FIELD(calib_tok), "N",
     "Tokens of text to use, spread over all of it; a quarter as many to score.", .min = 256,
     .max = 1 << 26},
    {"calib-seq", 0, CLI_INT, FIELD(calib_seq), "N", "Tokens of a sequence.", .min = 16,
     .max = 8192},
    {"hot-share", 0, CLI_DOUBLE, FIELD(hot_share), "SHARE",
     "Part of an expert's energy that its hot prefix holds, when calibrating (then --hot does not "
     "count).",
     .min = 0.05, .max = 1},
    {0}};
static const struct cli_group calib_group = {"Calibration", calib_rows};

static const struct cli_option thread_rows[] = {{"threads", 't', CLI_INT, FIELD(threads), "N",
                                                 "Threads that convert weights.", .min = 1,
                                                 .max = 256},
                                                {0}};
static const struct cli_group thread_group = {"Work", thread_rows};

static const struct cli_option report_rows[] = {
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "Print nothing but errors."},
    {"json", 0, CLI_FLAG, FIELD(json), .help = "Print the result as JSON."},
    {0}};
static const struct cli_group report_group = {"Report", report_rows};

static const struct cli_option json_rows[] = {
    {"json", 0, CLI_FLAG, FIELD(json), .help = "Print the result as JSON."}, {0}};
static const struct cli_group json_group = {"Report", json_rows};

static const struct cli_option token_rows[] = {
    {"prompt", 'p', CLI_STRING, FIELD(prompt), "TEXT",
     .help = "The text (or ids); without it, standard input."},
    {"decode", 'd', CLI_FLAG, FIELD(decode), .help = "From ids to text."},
    {"no-special", 0, CLI_FLAG, FIELD(no_special),
     .help = "Add no BOS or EOS token; with --decode, leave special tokens out."},
    {0}};
static const struct cli_group token_group = {"Tokenizing", token_rows};

static const struct cli_command commands[] = {
    {"convert", "write a checkpoint as a .corm archive", run_convert, .args = "CHECKPOINT",
     .min_args = 1, .max_args = 1,
     .groups = {&output_group, &weight_group, &calib_group, &thread_group, &report_group},
     .description =
         "CHECKPOINT is a directory as the Hugging Face Hub publishes it (config.json, "
         "*.safetensors, "
         "tokenizer.json, ...), or a .tar, .tar.gz, .tar.zst or .zip of one, which is unpacked "
         "next to the "
         "output first. Supported model families: mixtral, olmoe, qwen2_moe, qwen3_moe.\n"
         "The archive is written under a temporary name and renamed when it is complete. Memory "
         "stays "
         "small whatever the size of the model. The same checkpoint and options give the same "
         "file, byte "
         "for byte.",
     .examples = "corm-prep convert OLMoE-1B-7B -o olmoe.corm\n"
                 "# experts in a quarter of the space\n"
                 "corm-prep convert Mixtral-8x7B -o mixtral.corm --codec q4 --trunk q8"},
    {"inspect", "show what an archive holds", run_inspect, .args = "MODEL.corm", .min_args = 1,
     .max_args = 1, .groups = {&json_group}},
    {"report", "show what calibration measured", run_report, .args = "MODEL.corm", .min_args = 1,
     .max_args = 1, .groups = {&json_group},
     .description =
         "By layer: how many of a token's experts each predictor finds one, two and three "
         "layers ahead, and how much of the cold neurons' energy is found by reading part of "
         "them; on held-out text, beside the free baselines."},
    {"verify", "check every checksum in an archive", run_verify, .args = "MODEL.corm",
     .min_args = 1, .max_args = 1, .groups = {&report_group},
     .description =
         "Exit status 0 where everything is right; else 1, and one line that names the first "
         "damaged part."},
    {"tokenize", "turn text into token ids, or back", run_tokenize, .args = "MODEL.corm",
     .min_args = 1, .max_args = 1, .groups = {&token_group, &json_group},
     .examples = "corm-prep tokenize model.corm -p 'Once upon a time'\n"
                 "corm-prep tokenize model.corm --decode -p '12 845 77'"},
    {0}};

int main(int argc, char **argv) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct options o = {
        .hot = 0.25,
        .chunk_neurons = 32,
        .calib_tok = 32768,
        .calib_seq = 512,
        .hot_share = 0.75,
        .threads = cpus < 1     ? 1
                   : cpus > 256 ? 256
                                : (int)cpus,
    };
    static const struct cli_program program = {
        .name = "corm-prep",
        .summary = "prepare sparse mixture-of-experts models for machines smaller than they are",
        .version = CORM_VERSION_TEXT,
        .commands = commands,
        .default_command = -1,
    };
    return cli_main(&program, argc, argv, &o);
}
