/*
 * prep: see prep.h.
 */
#include "prep/prep.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/corm_predict.h"
#include "format/corm_read.h"
#include "format/text/chat_book.h"
#include "format/text/tokenizer.h"
#include "prep/compare.h"
#include "prep/foreign.h"
#include "prep/gguf/gguf_model.h"
#include "prep/hf/hf.h"
#include "prep/inspect.h"
#include "prep/pack_cost.h"
#include "prep/report.h"

/* ---- options ---- */

#define FIELD(member) CLI_FIELD(struct prep_options, member)

static const struct cli_option report_rows[] = {
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "Print nothing but errors."},
    {"json", 0, CLI_FLAG, FIELD(json), .help = "Print the result as JSON."},
    {0}};
const struct cli_group prep_report_group = {"Report", report_rows};

static const struct cli_option json_rows[] = {
    {"json", 0, CLI_FLAG, FIELD(json), .help = "Print the result as JSON."}, {0}};
const struct cli_group prep_json_group = {"Report", json_rows};

/* A field belongs to the option of its name. */
struct inspect_options {
    struct prep_options prep;
    bool compare_compression;
};
static const struct cli_option compare_rows[] = {
    {"compare-compression", 0, CLI_FLAG, CLI_FIELD(struct inspect_options, compare_compression),
     .help = "Instead: compress a sample of the archive's cold chunks in each way that convert's "
             "--compress has, see that they come back, and show what each way saves and how fast "
             "it decodes here."},
    {0}};
static const struct cli_group compare_group = {"Measuring", compare_rows};

struct report_options {
    struct prep_options prep;
    bool brief;
};
static const struct cli_option brief_rows[] = {{"brief", 0, CLI_FLAG,
                                                CLI_FIELD(struct report_options, brief),
                                                .help = "Three lines for all layers together."},
                                               {0}};
static const struct cli_group brief_group = {"Length", brief_rows};

/* ---- texts ---- */

void prep_print_text(const char *text, size_t bytes, bool raw) {
    struct buf shown = {0};
    if (!raw && isatty(STDOUT_FILENO)) {
        buf_show(&shown, text, bytes);
        text = shown.data;
        bytes = shown.len;
    }
    if (bytes) {
        fwrite(text, 1, bytes, stdout);
    }
    buf_free(&shown);
}

/* ---- inspect, report and verify ---- */

/* Print what `describe` appends about an archive. */
static int print_archive(const struct cli_call *call,
                         int (*describe)(const struct corm *c, const char *path, bool json,
                                         struct buf *out, struct err *err),
                         struct err *err) {
    const struct prep_options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct buf out = {0};
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    int rc = describe(&c, path, o->json, &out, err);
    if (rc == 0) {
        fwrite(out.data, 1, out.len, stdout);
    } else {
        err_prefix(err, "%s", path);
    }
    buf_free(&out);
    corm_close(&c);
    return rc;
}

static int describe_calibration(const struct corm *c, const char *path, bool json, struct buf *out,
                                struct err *err) {
    (void)path;
    return report_print(c, json, out, err);
}

static int describe_briefly(const struct corm *c, const char *path, bool json, struct buf *out,
                            struct err *err) {
    (void)path;
    return report_brief(c, json, out, err);
}

static int report(const struct cli_call *call, struct err *err) {
    const struct report_options *o = call->values;
    return print_archive(call, o->brief ? describe_briefly : describe_calibration, err);
}

static int describe_all(const struct corm *c, const char *path, bool json, struct buf *out,
                        struct err *err) {
    return json ? inspect_json(c, path, out, err) : inspect_text(c, path, out, err);
}

static int inspect_checkpoint(const char *dir, bool json, struct err *err) {
    struct hf_config config = {0};
    struct buf out = {0};
    int rc = foreign_check_dir(dir, false, err) < 0 ? -1 : hf_config_read(&config, dir, err);
    if (rc == 0) {
        inspect_config(&config.arch, config.quant.name, dir, json, &out);
        fwrite(out.data, 1, out.len, stdout);
    }
    buf_free(&out);
    hf_config_free(&config);
    return rc;
}

/* A model in GGUF, and what its weights are stored as. Of weights only matrices in F32 are read, to
 * see whether all of their numbers are of a narrower type. */
static int inspect_gguf(const char *path, bool json, struct err *err) {
    struct hf_model m;
    struct pack_cost cost = {0};
    struct buf out = {0};
    int rc = gguf_model_open(&m, path, err);
    if (rc == 0) {
        pack_cost_read(&cost, &m);
        inspect_config(hf_arch(&m), cost.numbers.len ? cost.numbers.data : NULL, path, json, &out);
        fwrite(out.data, 1, out.len, stdout);
    }
    buf_free(&cost.numbers);
    buf_free(&out);
    hf_close(&m);
    return rc;
}

static int inspect(const struct cli_call *call, struct err *err) {
    const struct inspect_options *o = call->values;
    const char *path = call->args.items[0];
    struct stat info;
    bool there = stat(path, &info) == 0;
    if (!there && foreign_check_path(path, err) < 0) {
        return -1;
    }
    if (there && S_ISDIR(info.st_mode)) {
        if (o->compare_compression) {
            err_set(err, "%s: --compare-compression expected an archive, not a directory", path);
            return CLI_USAGE;
        }
        return inspect_checkpoint(path, o->prep.json, err);
    }
    if (!o->compare_compression && gguf_model_is(path)) {
        return inspect_gguf(path, o->prep.json, err);
    }
    return print_archive(call, o->compare_compression ? compare_print : describe_all, err);
}

static void verify_progress(void *ctx, uint64_t done, uint64_t total) {
    (void)total;
    progress_update(ctx, done);
}

/* Also what no checksum can tell: that the sections tokenizer, conversations and predictors are
 * such. */
static int verify_archive(const char *path, struct corm *c, struct progress *progress,
                          struct err *err) {
    struct tokenizer *tok;
    if (tokenizer_open_for(c->tokenizer.data, c->tokenizer.size_bytes, c->arch.vocab, &tok, err) <
        0) {
        return err_prefix(err, "%s: tokenizer", path);
    }
    tokenizer_close(tok);
    struct chat_book book;
    if (chat_book_open(&book, c->conversations.data, c->conversations.size_bytes, err) < 0) {
        return err_prefix(err, "%s", path);
    }
    chat_book_close(&book);
    struct corm_predict predictors;
    if (corm_predict_open(&predictors, c->predictors.data, c->predictors.size_bytes, &c->arch,
                          corm_chunks_per_expert(c), err) < 0) {
        return err_prefix(err, "%s", path);
    }
    progress_start(progress, "verifying", c->header.file_bytes, PROGRESS_BYTES);
    int rc = corm_verify(c, progress ? verify_progress : NULL, progress, err);
    progress_finish(progress);
    return rc;
}

static int verify(const struct cli_call *call, struct err *err) {
    const struct prep_options *o = call->values;
    const char *path = call->args.items[0];
    struct progress_terminal terminal;
    struct corm c;
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    int rc = verify_archive(path, &c, progress_terminal_init(&terminal, stderr, o->quiet), err);
    if (rc == 0 && o->json) {
        printf("{\"ok\": true, \"file_bytes\": %" PRIu64 ", \"sections\": %u, \"tensors\": %u, "
               "\"chunks\": %u}\n",
               c.header.file_bytes, c.header.section_count, c.n_tensors, c.n_chunks);
    } else if (rc == 0 && !o->quiet) {
        char size[CLI_SIZE_TEXT];
        char *name = text_cleaned(path);
        printf("%s: ok: %s, %u sections, %u tensors, %u chunks\n", name,
               cli_size_text(size, c.header.file_bytes), c.header.section_count, c.n_tensors,
               c.n_chunks);
        free(name);
    }
    corm_close(&c);
    return rc;
}

const struct cli_command prep_inspect_command = {
    "inspect",
    "show what an archive holds",
    inspect,
    .args = "MODEL.corm|CHECKPOINT",
    .min_args = 1,
    .max_args = 1,
    .groups = {&compare_group, &prep_json_group},
    .values_bytes = sizeof(struct inspect_options),
    .description = "CHECKPOINT is a directory with a config.json, or a file in GGUF: its "
                   "parameters and its architecture are shown. "
                   "Parameters used by a token are all but those of the routed experts "
                   "that it does not use."};

const struct cli_command prep_report_command = {
    "report",
    "show what calibration measured",
    report,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&brief_group, &prep_json_group},
    .values_bytes = sizeof(struct report_options),
    .description =
        "By layer: how many of a token's experts each predictor finds one, two and three "
        "layers ahead, and how much of the cold neurons' energy is found by reading part of "
        "them; on held-out text, beside the free baselines.\n"
        "Load of fair: uses of the least and the most used expert, over those of all alike. "
        "Previous: the experts of the token before. Stale gate: a later layer's router, applied "
        "to the present hidden state; mean outputs: to that with what the experts of the layers "
        "between add on average; learned: with a correction of low rank, which is the one in use "
        "where it is stored (*). At 1.5 k: of half as many guesses again as experts are used.\n"
        "Hot energy: the part of an expert's energy that its hot prefix has, in one use. "
        "Static order: the chunks that add most on average first; oracle: those that add most to "
        "the token at hand."};

const struct cli_command prep_verify_command = {
    "verify",
    "check every checksum in an archive",
    verify,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&prep_report_group},
    .values_bytes = sizeof(struct prep_options),
    .description =
        "Exit status 0 where everything is right; else 1, and one line that names the first "
        "damaged part."};
