/*
 * corm_prep: main of corm-prep, which turns Hugging Face checkpoints into .corm archives and looks
 * at them.
 *
 * Owns: the command and option tables, the commands that look at archives, what they print.
 * Leaves to others: convert, and everything else.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "format/cli.h"
#include "format/corm_predict.h"
#include "format/corm_read.h"
#include "format/text/tokenizer.h"
#include "kernels/processor.h"
#include "prep/convert.h"
#include "prep/hf/hf.h"
#include "prep/inspect.h"
#include "prep/report.h"

enum { MAX_INPUT_BYTES = 1 << 30 };

/* Set by SIGINT and SIGTERM; long work looks at it. */
static volatile sig_atomic_t stop_flag;

static void on_signal(int number) {
    (void)number;
    stop_flag = 1;
}

static int run_convert(const struct cli_call *call, struct err *err) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit then is an error of write(2) */
    return convert_run(call, err);
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

static int run_report(const struct cli_call *call, struct err *err) {
    return print_archive(call, describe_calibration, err);
}

static int describe_all(const struct corm *c, const char *path, bool json, struct buf *out,
                        struct err *err) {
    return json ? inspect_json(c, path, out, err) : inspect_text(c, path, out, err);
}

static int inspect_checkpoint(const char *dir, bool json, struct err *err) {
    struct hf_config config = {0};
    struct buf out = {0};
    int rc = hf_config_read(&config, dir, err);
    if (rc == 0) {
        inspect_config(&config.arch, dir, json, &out);
        fwrite(out.data, 1, out.len, stdout);
    }
    buf_free(&out);
    hf_config_free(&config);
    return rc;
}

static int run_inspect(const struct cli_call *call, struct err *err) {
    const struct prep_options *o = call->values;
    const char *path = call->args.items[0];
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        return inspect_checkpoint(path, o->json, err);
    }
    return print_archive(call, describe_all, err);
}

static void verify_progress(void *ctx, uint64_t done, uint64_t total) {
    (void)total;
    progress_update(ctx, done);
}

/* Also what no checksum can tell: that the tokenizer and predictors sections are such. */
static int verify_archive(const char *path, struct corm *c, struct progress *progress,
                          struct err *err) {
    struct tokenizer *tok;
    if (tokenizer_open(c->tokenizer.data, c->tokenizer.size_bytes, &tok, err) < 0) {
        return err_prefix(err, "%s: tokenizer", path);
    }
    tokenizer_close(tok);
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

static int run_verify(const struct cli_call *call, struct err *err) {
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
        printf("%s: ok: %s, %u sections, %u tensors, %u chunks\n", path,
               cli_size_text(size, c.header.file_bytes), c.header.section_count, c.n_tensors,
               c.n_chunks);
    }
    corm_close(&c);
    return rc;
}

/* ---- tokenize ---- */

static int read_input(const struct prep_options *o, struct buf *in, struct err *err) {
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

static int parse_ids(const struct prep_options *o, const struct buf *in, struct token_list *ids,
                     struct err *err) {
    int32_t *parsed = NULL;
    size_t n = 0;
    int rc = cli_ids_parse(in->data ? in->data : "", in->len,
                           o->prompt ? "--prompt" : "standard input", &parsed, &n, err);
    for (size_t i = 0; i < n; i++) {
        token_list_add(ids, (uint32_t)parsed[i]);
    }
    free(parsed);
    return rc;
}

static void print_ids(const struct prep_options *o, const struct tokenizer *tok,
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

static int print_text(const struct prep_options *o, const struct tokenizer *tok,
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
    const struct prep_options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct tokenizer *tok = NULL;
    struct buf in = {0};
    struct token_list ids = {0};
    int rc = -1;
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    if (tokenizer_open(c.tokenizer.data, c.tokenizer.size_bytes, &tok, err) < 0) {
        err_prefix(err, "%s: tokenizer", path);
        goto out;
    }
    if (read_input(o, &in, err) < 0) {
        goto out;
    }
    if (o->decode) {
        rc = parse_ids(o, &in, &ids, err) < 0 ? -1 : print_text(o, tok, &ids, err);
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

#define FIELD(member) CLI_FIELD(struct prep_options, member)

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
     .words = convert_codec_words},
    {"trunk", 0, CLI_ENUM, FIELD(trunk), "CODEC",
     "How the matrices that every token uses are stored. Norms and biases are f32 always, routers "
     "as the "
     "checkpoint has them.",
     .words = convert_trunk_words},
    {"hot", 0, CLI_DOUBLE, FIELD(hot), "FRACTION",
     "Part of each expert's neurons in its hot prefix, rounded to whole chunks (at least one, "
     "unless 0).",
     .min = 0, .max = 1},
    {"chunk-neurons", 0, CLI_INT, FIELD(chunk_neurons), "N",
     "Neurons of a chunk: a multiple of 32.", .min = 32, .max = 1 << 20},
    {"raw-hot", 0, CLI_FLAG, FIELD(raw_hot),
     .help = "Store hot prefixes raw. Else every chunk is compressed that shrinks below 0.9 of "
             "its size: those of bf16 and f16 do (to about two thirds), those of q8 and q4 do "
             "not. Raw chunks are used where they lie in the file where the model fits into "
             "memory; compressed ones are decoded once."},
    {"no-compress", 0, CLI_FLAG, FIELD(no_compress), .help = "Store all chunks raw."},
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
             "archive of text (.gz, .zst, .tar, .zip); \"none\" for no text but what "
             "--generate-calib makes. Implies --calibrate."},
    {"generate-calib", 0, CLI_INT, FIELD(generate_calib), "N",
     "Add N tokens of text that the model itself writes at temperature 1, the same ones every "
     "time: half of the texts from nothing, half from the first words of a calibration text. The "
     "model is run from an archive beside the output, within the memory that is available, and "
     "as fast as corm-run runs it. 0: none. Implies --calibrate.",
     .min = 0, .max = 1 << 26},
    {"calib-held", 0, CLI_LIST, FIELD(calib_held), "PATH",
     .help = "Text to score what was learned on; default: the project's own."},
    {"calib-tokens", 0, CLI_INT, FIELD(calib_tok), "N",
     "Tokens of text to use, spread over all of it; a quarter as many to score.", .min = 256,
     .max = 1 << 26},
    {"calib-seq", 0, CLI_INT, FIELD(calib_seq), "N",
     "Tokens of a sequence, at most; never more than the model's context.", .min = 16, .max = 4096},
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
         "output first. Supported model families: gemma4, gpt_oss, mixtral, olmoe, qwen2_moe, "
         "qwen3_5_moe, qwen3_moe, qwen3_next.\n"
         "The archive is written under a temporary name and renamed when it is complete. Memory "
         "stays "
         "small whatever the size of the model. The same checkpoint and options give the same "
         "file, byte "
         "for byte.",
     .examples = "corm-prep convert OLMoE-1B-7B -o olmoe.corm\n"
                 "# experts in a quarter of the space\n"
                 "corm-prep convert Mixtral-8x7B -o mixtral.corm --codec q4 --trunk q8"},
    {"inspect", "show what an archive holds", run_inspect, .args = "MODEL.corm", .min_args = 1,
     .max_args = 1, .groups = {&json_group},
     .description =
         "In place of an archive, a directory with a checkpoint's config.json: its parameters and "
         "its architecture. Parameters used by a token are all but those of the routed experts "
         "that it does not use."},
    {"report", "show what calibration measured", run_report, .args = "MODEL.corm", .min_args = 1,
     .max_args = 1, .groups = {&json_group},
     .description =
         "By layer: how many of a token's experts each predictor finds one, two and three "
         "layers ahead, and how much of the cold neurons' energy is found by reading part of "
         "them; on held-out text, beside the free baselines.\n"
         "Load of fair: uses of the least and the most used expert, over those of all alike. "
         "Previous: the experts of the token before. Stale gate: a later layer's router, applied "
         "to the present hidden state; mean outputs: to that with what the experts of the layers "
         "between add on average; learned: with a correction of low rank, which is the one in use "
         "where it is stored (*). At 1.5 k: of half as many guesses again as experts are used.\n"
         "Static order: the chunks that add most on average first; oracle: those that add most to "
         "the token at hand."},
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
    uint32_t cpus = processor_count();
    struct prep_options o = {
        .hot = 0.25,
        .stop = &stop_flag,
        .chunk_neurons = 32,
        .calib_tok = 32768,
        .calib_seq = 512,
        .hot_share = 0.75,
        .threads = cpus > 256 ? 256 : (int)cpus,
    };
    static const struct cli_program program = {
        .name = "corm-prep",
        .summary = "prepare sparse mixture-of-experts models for machines smaller than they are",
        .version = CORM_VERSION_TEXT,
        .commands = commands,
        .default_command = -1,
        .exit_status = "130 convert was ended by Ctrl-C or SIGTERM\n",
    };
    return cli_main(&program, argc, argv, &o);
}
