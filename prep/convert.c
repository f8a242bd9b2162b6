#include "prep/convert.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "format/fatal.h"
#include "format/text/chat.h"
#include "format/text/tokenizer.h"
#include "kernels/processor.h"
#include "prep/calib/loss.h"
#include "prep/claim.h"
#include "prep/convert_calib.h"
#include "prep/gguf/gguf_model.h"
#include "prep/hf/hf.h"
#include "prep/hf/remark.h"
#include "prep/json_out.h"
#include "prep/pack_cost.h"
#include "prep/source.h"

static const char *const codec_words[] = {"keep", "bf16", "f16", "f32", "q8", "q4", NULL};
static const char *const trunk_words[] = {"keep", "bf16", "f16", "f32", "q8", NULL};

static const char *const rounding_words[] = {"auto", "nearest", "gptq", NULL};

static uint64_t peak_rss_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss << 10;
}

static bool same_file(const struct stat *a, const char *path) {
    struct stat b;
    return stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* The output must not be the input, and must not replace a file unless the user allowed it.
 * `*taken` tells whether the latter is what was wrong. */
static int check_output(const struct convert_options *o, const char *input, bool *taken,
                        struct err *err) {
    struct stat out;
    *taken = false;
    if (stat(o->output, &out) != 0) {
        return errno == ENOENT ? 0 : err_errno(err, errno, "%s", o->output);
    }
    if (same_file(&out, input)) {
        return err_set(err, "%s: is input and output at once", o->output);
    }
    if (!S_ISREG(out.st_mode)) {
        return err_set(err, "%s: exists and is not a regular file", o->output);
    }
    if (!o->force) {
        *taken = true;
        return err_set(err, "%s: exists already (--force replaces it)", o->output);
    }
    return 0;
}

/* Check the output and take its lock. Call claim_close in any case. Where the output is there
 * already, what a killed run left beside it is removed, because a run may be killed after it gave
 * the archive its name and before it cleaned up. */
static int claim_output(struct claim *claim, const struct convert_options *o, const char *input,
                        struct err *err) {
    bool taken;
    *claim = (struct claim){.fd = -1};
    int rc = check_output(o, input, &taken, err);
    if (rc < 0 && !(taken && claim_left(o->output))) {
        return rc;
    }
    if (claim_open(claim, o->output, err) < 0) { /* `err` keeps its first error */
        return -1;
    }
    /* Check again: whoever held the lock until now may have written the output meanwhile. */
    *err = (struct err){0};
    rc = check_output(o, input, &taken, err);
    if (taken) {
        calibration_tidy(o->output);
    }
    return rc;
}

/* The output must not be a file of the checkpoint either, nor a shard in a folder of it. */
static int check_output_in(const char *output, const struct hf_model *m, struct err *err) {
    struct stat out;
    char **names;
    size_t n;
    if (stat(output, &out) != 0) {
        return 0;
    }
    bool same = false;
    if (m->single) {
        n = 0;
        names = NULL;
    } else if (source_names(m->dir, &names, &n, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        char *path = mem_printf("%s/%s", m->dir, names[i]);
        same = same || same_file(&out, path);
        free(path);
    }
    for (size_t i = 0; i < st_file_count(m->st); i++) {
        same = same || same_file(&out, st_file_path(m->st, i));
    }
    source_names_free(names, n);
    return same ? err_set(err, "%s: is a file of the checkpoint", output) : 0;
}

/* The result of a conversion. */
struct outcome {
    struct pack_result pack;
    struct calibration calib;
    bool measured; /* `points` are */
    struct loss_point points[LOSS_LEVELS];
    double seconds;
};

static json_t *loss_json(const struct loss_point *points) {
    json_t *list = json_array();
    for (int i = 0; i < LOSS_LEVELS; i++) {
        json_array_append_new(list, json_pack("{s:f, s:f, s:f, s:f}", "percent",
                                              (double)points[i].percent, "perplexity_percent",
                                              points[i].perplexity, "divergence",
                                              points[i].divergence, "skipped", points[i].skipped));
    }
    return list;
}

static void print_json(const struct convert_options *o, const struct arch *a,
                       const struct outcome *out) {
    const struct pack_result *r = &out->pack;
    const struct corm_write_stats *s = &r->stats;
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:f, s:I}",
        "output", o->output, "family", a->family, "parameters", (json_int_t)arch_params(a),
        "parameters_active", (json_int_t)arch_params_active(a), "source_bytes",
        (json_int_t)r->source_bytes, "file_bytes", (json_int_t)s->file_bytes, "ratio",
        (double)s->file_bytes / (double)r->source_bytes, "trunk_bytes", (json_int_t)s->trunk_bytes,
        "experts_raw_bytes", (json_int_t)s->record_raw_bytes, "experts_stored_bytes",
        (json_int_t)s->record_stored_bytes, "codec", r->expert_codec->name, "compress",
        corm_compress_words[o->compress], "chunks", (json_int_t)s->n_chunks, "raw_chunks",
        (json_int_t)s->n_chunks_raw, "unshrunk_chunks", (json_int_t)s->n_chunks_unshrunk,
        "chunk_neurons", (json_int_t)r->chunk_neurons, "neurons", (json_int_t)s->n_neurons,
        "hot_neurons", (json_int_t)s->n_neurons_hot, "seconds", out->seconds, "peak_rss_bytes",
        (json_int_t)peak_rss_bytes());
    if (out->calib.ran) {
        const struct calib_result *c = &out->calib.result;
        json_object_set_new(
            root, "calibration",
            json_pack("{s:I, s:I, s:I, s:s}", "tokens", (json_int_t)c->train_tok,
                      "generated_tokens", (json_int_t)out->calib.generated_tok, "held_out_tokens",
                      (json_int_t)c->held_tok, "rounding",
                      rounding_words[c->rounded.codec ? CONVERT_GPTQ : CONVERT_NEAREST]));
    }
    if (out->measured) {
        json_object_set_new(root, "loss", loss_json(out->points));
    }
    json_out_print(root, JSON_INDENT(2));
}

/* The mean error of a part of the experts, over layers that have any. */
static double rounding_error(const struct calib_result *c, uint32_t part) {
    double sum = 0, n = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (c->scores[l].rounding[part] >= 0) {
            sum += (double)c->scores[l].rounding[part];
            n++;
        }
    }
    return n > 0 ? sum / n : 1;
}

static void print_loss(const struct outcome *out) {
    bool idle = false;
    for (int i = 0; i < LOSS_LEVELS; i++) {
        const struct loss_point *p = &out->points[i];
        printf(
            "  --loss %-3g %5.1f %% of the experts' bytes left out, perplexity %+.2f %%, KL %.4f\n",
            (double)p->percent, 100 * p->skipped, p->perplexity, p->divergence);
        idle |= p->skipped < 0.001;
    }
    if (idle) {
        printf("  (a level that leaves out nothing: %u tokens of calibration, %u held out; more "
               "--calib-tokens tell smaller losses apart)\n",
               out->calib.result.train_tok, out->calib.result.held_tok);
    }
}

static void print_text(const struct convert_options *o, const struct arch *a,
                       const struct outcome *out) {
    const struct pack_result *r = &out->pack;
    const struct corm_write_stats *s = &r->stats;
    char file[CLI_SIZE_TEXT], source[CLI_SIZE_TEXT], trunk[CLI_SIZE_TEXT], stored[CLI_SIZE_TEXT];
    char raw[CLI_SIZE_TEXT], peak[CLI_SIZE_TEXT];
    char *name = text_cleaned(o->output);
    printf("%s: %s, %.3f of the checkpoint's %s\n", name, cli_size_text(file, s->file_bytes),
           (double)s->file_bytes / (double)r->source_bytes, cli_size_text(source, r->source_bytes));
    free(name);
    printf("  model    %s, %u layers, %.4g M parameters, %.4g M used by a token\n", a->family,
           a->n_layers, (double)arch_params(a) / 1e6, (double)arch_params_active(a) / 1e6);
    printf("  trunk    %s\n", cli_size_text(trunk, s->trunk_bytes));
    printf("  experts  %s of %s in %s, %.1f %% of the neurons hot, %" PRIu64
           " chunks of %u neurons (%" PRIu64 " raw), --compress %s\n",
           cli_size_text(stored, s->record_stored_bytes), cli_size_text(raw, s->record_raw_bytes),
           r->expert_codec->name,
           100.0 * (double)s->n_neurons_hot / (double)(s->n_neurons ? s->n_neurons : 1),
           s->n_chunks, r->chunk_neurons, s->n_chunks_raw, corm_compress_words[o->compress]);
    if (o->compress != CORM_COMPRESS_AUTO && s->n_chunks_unshrunk > 0) {
        printf("           %" PRIu64 " chunks stay raw, because %s does not make them smaller\n",
               s->n_chunks_unshrunk, corm_compress_words[o->compress]);
    }
    if (out->calib.result.rounded.codec) {
        const struct calib_result *c = &out->calib.result;
        printf(
            "  rounding gptq: the error of gate %.2f, up %.2f, down %.2f of nearest rounding's\n",
            rounding_error(c, 0), rounding_error(c, 1), rounding_error(c, 2));
    }
    printf("  took     %.1f s, peak memory %s\n", out->seconds,
           cli_size_text(peak, peak_rss_bytes()));
    if (out->measured) {
        print_loss(out);
    }
}

/* Write the archive. Where the model was calibrated, it has another name until its loss levels are
 * measured. */
static int write_archive(const struct convert_options *o, const struct hf_model *model,
                         const struct pack_options *pack, struct progress *progress,
                         struct outcome *out, struct err *err) {
    const struct corpus *held = &out->calib.held;
    if (!out->calib.ran || held->n_tok == 0) {
        return pack_model(model, o->output, pack, progress, o->stop, &out->pack, err);
    }
    char *unmeasured = claim_path(o->output, CLAIM_UNMEASURED);
    int rc = pack_model(model, unmeasured, pack, progress, o->stop, &out->pack, err);
    if (rc == 0) {
        rc = loss_fit(unmeasured, held, (uint32_t)o->threads, progress, o->stop, out->points, err);
        if (rc == 0 && rename(unmeasured, o->output) < 0) {
            rc = err_errno(err, errno, "%s", o->output);
        }
        if (rc < 0) {
            unlink(unmeasured);
        }
    }
    out->measured = rc == 0;
    free(unmeasured);
    return rc;
}

/* A chat template that does not work is stored all the same, as it may work elsewhere: a remark. */
static void try_chat_template(struct hf_model *model) {
    struct err why = {0};
    struct chat_book book;
    size_t n = 0;
    const char *text = model->tok ? tokenizer_chat_template(model->tok, &n) : NULL;
    if (chat_book_open(&book, model->book.data, model->book.len, &why) < 0) {
        die("%s", why.msg); /* made here */
    }
    if (text && chat_try(text, n, model->tok, &book, false, &why) < 0) {
        remark_add(&model->warnings,
                   "%s: the chat template is stored, but does not render here: %s", model->dir,
                   why.msg);
    }
    for (size_t i = 0; i < book.n; i++) {
        const struct chat_entry *e = &book.entries[i];
        bool tools = e->name_bytes == 8 && !memcmp(e->name, "tool_use", 8);
        why = (struct err){0};
        if (e->kind == CHAT_ENTRY_TEMPLATE &&
            chat_try(e->text, e->bytes, model->tok, &book, tools, &why)) {
            remark_add(&model->warnings,
                       "%s: the chat template %.*s is stored, but does not render here: %s",
                       model->dir, (int)e->name_bytes, e->name, why.msg);
        }
    }
    chat_book_close(&book);
}

/* Open the checkpoint. That takes seconds where its files are large, in libraries that know of no
 * end; nothing is lost when it ends at once. */
static int open_checkpoint(const struct convert_options *o, const char *dir, struct hf_model *model,
                           struct err *err) {
    char *line = mem_printf("corm-prep: interrupted: %s has not been written\n", o->output);
    text_clean(line, strlen(line) - 1);
    prep_stop_at_once(line);
    int rc = *o->stop             ? err_set(err, "interrupted")
             : gguf_model_is(dir) ? gguf_model_open(model, dir, err)
                                  : hf_open(model, dir, err);
    prep_stop_at_once(NULL);
    free(line);
    return rc;
}

/* Tell what keeping the trunk costs where no codec keeps its bits. */
static void note_grown(struct hf_model *model, const struct pack_options *pack) {
    struct pack_grown g = pack_trunk_grown(model, pack);
    char from[CLI_SIZE_TEXT], to[CLI_SIZE_TEXT];
    if (g.numbers) {
        remark_add(&model->warnings,
                   "%s: %u matrices that every token uses are in %s, whose bits no codec keeps: as "
                   "f32, number times scale, they take %s instead of %s%s",
                   model->dir, g.matrices, g.numbers, cli_size_text(to, g.to_bytes),
                   cli_size_text(from, g.from_bytes),
                   pack->trunk_codec ? "" : " (--trunk q8 is about as large as FP8)");
    }
}

/* Weights in blocks of GGUF become codes of the archive's own, whether or not someone chose which:
 * tell what that costs. */
static int choose_codecs(const struct convert_options *o, struct hf_model *model,
                         struct pack_options *pack, struct err *err) {
    struct pack_cost cost;
    int rc = 0;
    pack_cost_read(&cost, model);
    if (model->single && !o->trunk_given) {
        pack->trunk_blocks = codec_by_id(CODEC_Q8);
    }
    if (cost.numbers.len && !o->codec_given) {
        pack->expert_codec = pack_cost_codec(&cost);
    }
    if (cost.numbers.len && pack->expert_codec &&
        codec_fits(pack->expert_codec, hf_arch(model)->dim)) {
        rc = pack_cost_measure(&cost, model, pack->expert_codec, err);
        if (rc == 0) {
            remark_add(
                &model->warnings,
                "%s: experts are in %s, %.2f bits a weight: as %s%s they differ from that by "
                "%.2f %% (root mean square of a sample)",
                model->dir, cost.numbers.data, cost.bits, pack->expert_codec->name,
                o->codec_given ? "" : " (--codec chooses)", 100 * cost.error);
        }
    }
    buf_free(&cost.numbers);
    return rc;
}

static int convert_dir(const struct convert_options *o, const char *dir, struct progress *progress,
                       uint64_t start_ns, struct err *err) {
    struct hf_model model = {0};
    struct outcome out = {0};
    struct pack_options pack = {
        .expert_codec = codec_by_name(codec_words[o->codec]),
        .trunk_codec = codec_by_name(trunk_words[o->trunk]),
        .hot_fraction = o->hot,
        .chunk_neurons = (uint32_t)o->chunk_neurons,
        .compress = (enum corm_compress)o->compress,
        .raw_hot = o->raw_hot,
        .threads = (uint32_t)o->threads,
        .version = CORM_VERSION_TEXT,
    };
    int rc = open_checkpoint(o, dir, &model, err);
    if (rc == 0) {
        rc = choose_codecs(o, &model, &pack, err);
    }
    if (rc == 0) { /* before hours of calibration, and before remarks on what then is not done */
        rc = pack_check(&model, &pack, err);
    }
    if (rc == 0) {
        try_chat_template(&model);
    }
    if (rc == 0 && !pack.expert_codec && pack_experts_mixed(&model)) {
        remark_add(
            &model.warnings,
            "%s: experts are of several types (BF16, F16, F32): they are kept as f32, which "
            "holds all of them exactly and takes more space; --codec bf16 or f16 rounds them",
            dir);
    }
    if (rc == 0) {
        note_grown(&model, &pack);
    }
    if (rc == 0 && model.warnings.len && !o->prep.quiet) {
        fputs(model.warnings.data, stderr);
    }
    if (rc == 0) {
        rc = check_output_in(o->output, &model, err);
    }
    if (rc == 0) {
        rc = calibration_run(&out.calib, o, &model, &pack, progress, err);
    }
    if (rc == 0) {
        rc = write_archive(o, &model, &pack, progress, &out, err);
    }
    out.seconds = (double)(clock_ns() - start_ns) / 1e9;
    if (rc == 0 && o->prep.json) {
        print_json(o, hf_arch(&model), &out);
    } else if (rc == 0 && !o->prep.quiet) {
        print_text(o, hf_arch(&model), &out);
    }
    if (rc == 0) {
        calibration_done(&out.calib);
    }
    calibration_free(&out.calib);
    hf_close(&model);
    return rc;
}

/* Options that do not go together. */
static int check_options(const struct cli_call *call, struct err *err) {
    struct convert_options *o = call->values;
    const struct codec *codec = codec_by_name(codec_words[o->codec]);
    o->codec_given = cli_given(call, "codec");
    o->trunk_given = cli_given(call, "trunk");
    if (!o->output) {
        err_set(err, "convert needs -o MODEL.corm");
        return CLI_USAGE;
    }
    if (o->no_compress && cli_given(call, "compress") && o->compress != CORM_COMPRESS_NONE) {
        err_set(err, "--no-compress and --compress %s exclude each other",
                corm_compress_words[o->compress]);
        return CLI_USAGE;
    }
    if (o->rounding == CONVERT_GPTQ && (!codec || !codec_steps_of(codec))) {
        err_set(err, "--rounding gptq is for --codec q4, not for %s", codec_words[o->codec]);
        return CLI_USAGE;
    }
    if (o->rounding == CONVERT_GPTQ && !o->calibrate && !o->calib.count && !o->generate_calib) {
        err_set(err, "--rounding gptq needs --calibrate");
        return CLI_USAGE;
    }
    if (o->no_compress) {
        o->compress = CORM_COMPRESS_NONE;
    }
    return codec && corm_compress_check((enum corm_compress)o->compress, codec, err) < 0 ? CLI_USAGE
                                                                                         : 0;
}

static int run(const struct cli_call *call, struct err *err) {
    struct convert_options *o = call->values;
    const char *input = call->args.items[0];
    uint64_t start_ns = clock_ns();
    o->stop = prep_catch_stop();
    int usage = check_options(call, err);
    if (usage != 0) {
        return usage;
    }
    struct claim claim;
    sigset_t before;
    fatal_hold(&before);
    int claims = claim_output(&claim, o, input, err);
    if (claims < 0) {
        claim_close(&claim);
    } else {
        prep_clean_at_end(&claim);
    }
    fatal_release(&before);
    if (claims < 0) {
        return -1;
    }
    struct progress_terminal terminal;
    struct progress *progress = progress_terminal_init(&terminal, stderr, o->prep.quiet);
    struct source source = {0};
    char *unpacked = claim_path(o->output, CLAIM_UNPACKED);
    int rc = source_open(&source, input, unpacked, progress, o->stop, err);
    if (rc == 0) {
        rc = convert_dir(o, source.dir, progress, start_ns, err);
    }
    source_close(&source);
    fatal_hold(&before);
    prep_clean_at_end(NULL);
    claim_close(&claim);
    fatal_release(&before);
    free(unpacked);
    if (rc != 0 && *o->stop) {
        *err = (struct err){0};
        err_set(err, "interrupted: %s has not been written", o->output);
        return PREP_INTERRUPTED;
    }
    return rc;
}

/* ---- the command ---- */

#define FIELD(member) CLI_FIELD(struct convert_options, member)

static const struct cli_option output_rows[] = {
    {"output", 'o', CLI_STRING, FIELD(output), "MODEL.corm", .help = "The archive to write.",
     .also = "outfile"},
    {"force", 'f', CLI_FLAG, FIELD(force), .help = "Replace the archive where it exists."},
    {0}};
static const struct cli_group output_group = {"Output", output_rows};

static const struct cli_option weight_rows[] = {
    {"codec", 'c', CLI_ENUM, FIELD(codec), "CODEC",
     "How expert weights are stored. keep: as the checkpoint has them, without loss (of FP8 and "
     "NVFP4 that is not possible, nor of GGUF's types of blocks); q8: 8.5 bits a weight; q4: 4.5 "
     "bits. Default for types of blocks: q8 above 5 bits a weight, q4 below.",
     .words = codec_words},
    {"trunk", 0, CLI_ENUM, FIELD(trunk), "CODEC",
     "How the matrices that every token uses are stored; keep makes f32 of FP8 and NVFP4, and of "
     "GGUF's types of blocks, which become q8 by default. Norms "
     "and biases are f32 always, routers as the checkpoint has them.",
     .words = trunk_words},
    {"hot", 0, CLI_DOUBLE, FIELD(hot), "FRACTION",
     "Part of each expert's neurons in its hot prefix, rounded to whole chunks (at least one, "
     "unless 0).",
     .min = 0, .max = 1},
    {"chunk-neurons", 0, CLI_INT, FIELD(chunk_neurons), "N",
     "Neurons of a chunk: a multiple of 32.", .min = 32, .max = 1 << 20},
    {"compress", 0, CLI_ENUM, FIELD(compress), "HOW",
     "How experts are compressed, without loss. auto: each chunk that shrinks below 0.9 of its "
     "size, bf16 by the exponents code, all else by zstd; those of bf16 and f16 do shrink so (to "
     "about 0.7 and 0.8), those of q8 and q4 do not. zstd: every chunk is a zstd frame (of bf16 "
     "and f16, the plane that has the exponents). exponents: every chunk has the exponents code, "
     "which only bf16 has; it decodes several times as fast as zstd, and experts can be kept in "
     "memory as they are in it (corm-run --keep). none: all chunks stay raw. A chunk that would "
     "not get smaller stays raw anyway. `corm-prep inspect --compare-compression` measures all "
     "of them on an archive.",
     .words = corm_compress_words},
    {"raw-hot", 0, CLI_FLAG, FIELD(raw_hot),
     .help = "Store hot prefixes raw, whatever --compress says. Raw chunks are used where they lie "
             "in the file where the model fits into memory; compressed ones are decoded once."},
    {"no-compress", 0, CLI_FLAG, FIELD(no_compress), .help = "The same as --compress none."},
    {0}};
static const struct cli_group weight_group = {"Weights", weight_rows};

static const struct cli_option calib_rows[] = {
    {"calibrate", 0, CLI_FLAG, FIELD(calibrate),
     .help =
         "Run text through the model first: order neurons by what they add, and learn to predict "
         "experts and neurons. Progress is kept in MODEL.corm.calib, so that an interrupted "
         "calibration goes on where it was; but for models whose layers share keys, which begin "
         "again."},
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
    {"rounding", 0, CLI_ENUM, FIELD(rounding), "HOW",
     "How weights of experts become codes of few bits. gptq: by error feedback, so that what a "
     "layer "
     "gives for the calibration text stays closest; the archive is as large and as fast. nearest: "
     "each to the nearest code. auto: gptq where calibrating with --codec q4, else nearest.",
     .words = rounding_words},
    {"hot-share", 0, CLI_DOUBLE, FIELD(hot_share), "SHARE",
     "Part of an expert's energy that its hot prefix holds, when calibrating (then --hot does not "
     "count).",
     .min = 0.05, .max = 1},
    {0}};
static const struct cli_group calib_group = {"Calibration", calib_rows};

static const struct cli_option thread_rows[] = {{"threads", 't', CLI_INT, FIELD(threads), "N",
                                                 "Threads that convert weights.", .min = 1,
                                                 .max = 256, .fallback = "all processors"},
                                                {0}};
static const struct cli_group thread_group = {"Work", thread_rows};

static void set_defaults(void *values) {
    struct convert_options *o = values;
    uint32_t cpus = processor_count();
    o->hot = 0.25;
    o->chunk_neurons = 32;
    o->compress = CORM_COMPRESS_AUTO;
    o->calib_tok = 32768;
    o->calib_seq = 512;
    o->hot_share = 0.75;
    o->threads = cpus > 256 ? 256 : (int)cpus;
}

const struct cli_command convert_command = {
    "convert",
    "write a checkpoint as a .corm archive",
    run,
    .args = "CHECKPOINT",
    .min_args = 1,
    .max_args = 1,
    .groups = {&output_group, &weight_group, &calib_group, &thread_group, &prep_report_group},
    .values_bytes = sizeof(struct convert_options),
    .defaults = set_defaults,
    .description =
        "CHECKPOINT is a directory as the Hugging Face Hub publishes it (config.json, "
        "*.safetensors, tokenizer.json, ...), or a .tar, .tar.gz, .tar.zst or .zip of one, which "
        "is unpacked next to the output first; or a model in GGUF, llama.cpp's format: one file, "
        "or "
        "the first of its parts. What is F16 or BF16 there is kept; smaller types become q8 or q4. "
        "A model of a family that is not supported is "
        "refused with a list of those that are. What of the checkpoint is left out, and what "
        "counts "
        "where its files differ, is told on standard error, unless --quiet.\n"
        "The archive is written under a temporary name and renamed when it is complete. Memory "
        "stays small whatever the size of the model. The same checkpoint and options give the "
        "same file, byte for byte.",
    .examples = "corm-prep convert OLMoE-1B-7B -o olmoe.corm\n"
                "# experts in a quarter of the space\n"
                "corm-prep convert Mixtral-8x7B -o mixtral.corm --codec q4 --trunk q8"};
