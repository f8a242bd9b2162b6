/*
 * run_machine: the options that say on what and in how much memory a model runs, and opening it so.
 *
 * Owns: the table of these options, the memory plan on the terminal, run_engine_open.
 * Leaves to others: what is done with the engine (run, runtime/serve). Nothing here knows a session
 * or a signal, so that both programs link it.
 */
#include "runtime/mechanisms.h"
#include "runtime/run/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int run_fail(struct err *err, const struct corm_error *error) {
    return err_set(err, "%s", error->message);
}

/* -- options -------------------------------------------------------------------------------- */

#define FIELD(member) CLI_FIELD(struct run_options, member)

static const char *const missed_words[] = {[CORM_MISSED_FIT] = "fit",
                                           [CORM_MISSED_DEVICE] = "device",
                                           [CORM_MISSED_CPU] = "cpu",
                                           [CORM_MISSED_AUTO] = "auto",
                                           NULL};
const char *const run_kv_words[] = {
    [CORM_KV_F16] = "f16", [CORM_KV_F32] = "f32", [CORM_KV_Q8] = "q8", NULL};

static const char *const keep_words[] = {[CORM_KEEP_AUTO] = "auto",
                                         [CORM_KEEP_DECODED] = "decoded",
                                         [CORM_KEEP_PACKED] = "packed",
                                         NULL};
static const char *const reading_words[] = {
    [CORM_READ_AUTO] = "auto",     [CORM_READ_BUFFERED] = "buffered", [CORM_READ_DIRECT] = "direct",
    [CORM_READ_MAPPED] = "mapped", [CORM_READ_PASSING] = "passing",   NULL};

static const struct cli_option machine_rows[] = {
    {"model", 'm', CLI_ARGUMENT, 0, 0, "FILE", "The archive, in place of the argument MODEL.corm."},
    {"ram", 0, CLI_STRING, FIELD(ram), "SIZE",
     "Memory for weights, caches and scratch: a size (300M, 4G), a part of the memory that is "
     "available (50%), or auto. A model that does not fit reads its experts from the archive as "
     "they are needed. A budget too small to work is refused with the one that would do.",
     .fallback = "auto, 7/8 of what is available"},
    {"device", 0, CLI_STRING, FIELD(device), "NAME",
     "What computes: cpu; cuda, or cuda:1 for the second NVIDIA device; auto, which is the CPU "
     "until devices have been measured. Another device may change the last bits.",
     .fallback = "auto"},
    {"vram", 0, CLI_STRING, FIELD(vram), "SIZE",
     "With --device cuda, in place of --ram: the device's memory for weights, caches and scratch, "
     "a size (6G) or auto. The driver takes some hundred megabytes for itself beside it.",
     .fallback = "auto, 15/16 of what is free"},
    {"missed", 0, CLI_ENUM, FIELD(missed), "WHO",
     "With --device cuda, who computes an expert that the device does not hold, for tokens that "
     "decode, of fewer than 32 sequences at once: device, which waits for a copy; cpu, from memory "
     "within --ram and while the device computes its share; fit, the CPU where all experts fit "
     "into --ram, else the device; or auto, the faster one of both by a measurement at the start, "
     "which the memory plan tells. Prompts and larger batches are copied. With "
     "device, memory and timing change no bit of the result. With cpu, experts "
     "that are used most are the device's, as many as its memory holds, and the last bits hang on "
     "which they are: a command gives the same result every time where --vram is a size, with "
     "another --vram perhaps not. With auto two runs may choose differently, and with fit where "
     "--ram is auto, since that hangs on the memory available.",
     .words = missed_words},
    {"threads", 't', CLI_INT, FIELD(threads), "N",
     "Threads that compute. The result does not depend on it.", .min = 1, .max = 1024,
     .fallback = "all processors"},
    {"isa", 0, CLI_STRING, FIELD(isa), "NAME",
     "Instruction set of the kernels: scalar, avx2, ... (another set may change the last bits).",
     .fallback = "the best here"},
    {"batch", 'b', CLI_INT, FIELD(batch), "N",
     "Most tokens computed at once while reading a prompt. More is faster and takes more scratch; "
     "on the CPU the result does not depend on it, on a device its last bits may, above 8.",
     .min = 1, .max = 4096, .also = "batch-size"},
    {"loss", 0, CLI_DOUBLE, FIELD(loss), "PERCENT",
     "Leave out neurons that are predicted to add little, so that perplexity rises by at most this "
     "much: one of the levels that the archive was calibrated for (0.5, 1, 2). 0: exact.",
     .min = 0, .max = 100},
    {"reading", 0, CLI_ENUM, FIELD(reading), "WAY",
     "How the experts of a model that does not fit are read: direct (past the page cache), "
     "buffered (through it: it keeps what it can, outside of --ram), passing (through it, and "
     "forgotten at once), mapped (from a mapping of the file), or auto: direct or through the page "
     "cache, as measured in a moment at the start. The result does not depend on it.",
     .words = reading_words},
    {"keep", 0, CLI_ENUM, FIELD(keep), "HOW",
     "How the experts of a bf16 model with the exponents code (corm-prep convert --compress) stay "
     "in memory: decoded, packed (as they are in the archive, a third smaller, so that more of "
     "them stay; they are decoded at each use), or "
     "auto: decoded where all fit so, packed where all fit only so, else what an estimate from the "
     "speed of the disk, of decoding and of computing finds faster. The result does not depend on "
     "it.",
     .words = keep_words},
    {"kv", 0, CLI_ENUM, FIELD(kv), "TYPE",
     "Type of the KV cache: f16; f32, which takes twice as much; or q8, about half, which rounds "
     "keys and values to 8 bits, for models whose heads have a multiple of 32 numbers. A key or "
     "value that the type cannot hold (for f16 above 65504) is an error.",
     .words = run_kv_words},
    {0},
};

static const struct cli_option figure_rows[] = {
    {"stats", 0, CLI_FLAG, FIELD(stats),
     .help = "Print figures at the end: speed, bytes read by tier, cache hits, stall, hash of the "
             "last logits."},
    {"json", 0, CLI_FLAG, FIELD(json),
     .help =
         "Print one line with one JSON object, with the result and all figures, in place of text."},
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "No memory plan, progress or remarks."},
    {0},
};

const struct cli_group run_machine_group = {"Machine", machine_rows};
const struct cli_group run_figures_group = {"Figures", figure_rows};

void run_defaults(void *values) {
    ((struct run_options *)values)->batch = 256;
}

/* -- opening -------------------------------------------------------------------------------- */

/* "6.1 M", "30.5 B" */
static const char *count_text(char out[16], uint64_t n) {
    static const char *const units[] = {"", " K", " M", " B", " T"};
    double value = (double)n;
    size_t u = 0;
    for (; value >= 999.5 && u + 1 < sizeof units / sizeof units[0]; u++) {
        value /= 1000;
    }
    snprintf(out, 16, "%.*f%s", u > 0 && value < 99.95 ? 1 : 0, value, units[u]);
    return out;
}

/* How fast a way of reading was found to be, or why it cannot be taken. */
static const char *rate_text(char out[32], double bytes_per_s, const char *error) {
    snprintf(out, 32, "%.0f MB/s", bytes_per_s / 1e6);
    return error[0] ? error : bytes_per_s > 0 ? out : "not measured";
}

static void print_choice(const struct corm_memory_plan *p) {
    char direct[32], cached[32];
    if (p->direct_bytes_per_s > 0 || p->cached_bytes_per_s > 0 || p->direct_error[0] ||
        p->cached_error[0]) {
        fprintf(stderr, "reading  %s (direct %s, page cache %s)\n",
                p->reading == CORM_READ_DIRECT ? "direct" : "page cache",
                rate_text(direct, p->direct_bytes_per_s, p->direct_error),
                rate_text(cached, p->cached_bytes_per_s, p->cached_error));
    }
}

/* Print who computes the experts that the device misses; nothing where it misses none. */
static void print_missed(const struct corm_memory_plan *p) {
    bool cpu = p->missed == CORM_MISSED_CPU;
    char size[CLI_SIZE_TEXT];
    if (p->link_bytes_per_s <= 0) {
        return;
    }
    fprintf(stderr, "missed   experts are %s (link %.1f GB/s",
            cpu ? "computed by the CPU" : "copied to the device", p->link_bytes_per_s / 1e9);
    if (p->cpu_bytes_per_s > 0) {
        fprintf(stderr, ", uploads %.1f GB/s, CPU %.1f GB/s", p->upload_bytes_per_s / 1e9,
                p->cpu_bytes_per_s / 1e9);
    }
    fprintf(stderr, ")%s%s%s\n", cpu ? ", with " : "",
            cpu ? cli_size_text(size, p->host_cache_bytes) : "",
            cpu ? " of the host for them" : "");
}

static void print_plan(void *ctx, const struct corm_model_info *m,
                       const struct corm_memory_plan *p) {
    char a[CLI_SIZE_TEXT], b[CLI_SIZE_TEXT], c[CLI_SIZE_TEXT], d[CLI_SIZE_TEXT];
    char all[16], active[16], *name = text_cleaned(ctx), *family = text_cleaned(m->family);
    fprintf(stderr,
            "model    %s: %s, %s parameters, %s active, %u layers, experts %u of %u in %s, "
            "compression %s, file %s\n",
            name, family, count_text(all, m->params), count_text(active, m->params_active),
            m->n_layers, m->n_active, m->n_experts, m->expert_codec, m->compression,
            cli_size_text(a, m->file_bytes));
    free(name);
    free(family);
    fprintf(stderr, "memory   trunk %s, experts %s of %s, KV cache %s, scratch %s",
            cli_size_text(a, p->trunk_bytes), cli_size_text(b, p->cache_bytes),
            cli_size_text(c, p->cache_need_bytes), cli_size_text(d, p->kv_bytes),
            cli_size_text((char[CLI_SIZE_TEXT]){0}, p->scratch_bytes));
    fprintf(stderr, ": %s of %s", cli_size_text(a, p->total_bytes),
            cli_size_text(b, p->budget_bytes));
    if (p->host_bytes > 0) {
        fprintf(stderr, " of the device, and %s of the host", cli_size_text(c, p->host_bytes));
    }
    /* Of other codecs nobody can make an archive with the code. */
    const bool could_pack = strcmp(m->expert_codec, "bf16") == 0;
    fprintf(stderr, "%s%s%s\n", p->packed ? ", packed" : "",
            !p->streams                      ? "; the whole model fits"
            : p->reading == CORM_READ_DIRECT ? "; experts are read directly"
            : p->reading == CORM_READ_MAPPED ? "; experts are read from a mapping of the file"
            : p->reading == CORM_READ_PASSING
                ? "; experts are read through the page cache, which forgets them"
                : "; experts are read through the page cache, which grows outside of the budget",
            could_pack && p->no_code
                ? "; experts are never packed, the archive has no exponents code"
                : "");
    print_choice(p);
    fprintf(stderr, "compute  %s%s%s, %u thread%s, context %u tokens, batch %u\n",
            p->host_bytes > 0 ? m->device : "", p->host_bytes > 0 ? ": " : "", m->isa, m->threads,
            m->threads == 1 ? "" : "s", m->ctx_tok, m->batch_rows);
    print_missed(p);
}

/* Read the value of an option: "auto" (0 bytes), a size, or, for the host's memory, a part of what
 * is available. */
static int budget_bytes(const char *option, const char *text, bool of_host, uint64_t *bytes,
                        struct err *err) {
    struct cli_budget budget;
    *bytes = 0;
    if (!text || strcmp(text, "auto") == 0) {
        return 0;
    }
    if (cli_budget_parse(text, &budget, err) < 0) {
        err_prefix(err, "%s", option);
        return CLI_USAGE;
    }
    if (budget.percent <= 0) {
        *bytes = budget.bytes;
    } else if (of_host) {
        *bytes = (uint64_t)((double)corm_memory_available() * (budget.percent / 100));
    }
    if (*bytes == 0) {
        err_set(err, "%s: expected a size over 0, or auto", option);
        return CLI_USAGE;
    }
    return 0;
}

/* Whether it is what corm-prep convert reads. */
static bool is_checkpoint(const char *path) {
    char *config = mem_printf("%s/config.json", path);
    bool is = access(config, F_OK) == 0;
    free(config);
    return is;
}

int run_engine_open(struct corm_engine **engine, const struct run_options *o, const char *model,
                    const struct run_wish *wish, struct err *err) {
    struct corm_mechanisms asked = {.reading = (enum corm_reading)o->reading};
    struct corm_engine_options options = {
        .threads = (uint32_t)o->threads,
        .isa = o->isa,
        .device = o->device,
        .missed = (enum corm_missed)o->missed,
        .keeping = (enum corm_keeping)o->keep,
        .ctx_tok = wish->ctx_tok,
        .max_sessions = wish->max_sessions,
        .max_running = wish->max_running,
        .max_passes = wish->max_passes,
        .snapshot_bytes = wish->snapshot_bytes,
        .kv_bytes = wish->kv_bytes,
        .chat_bytes = wish->chat_bytes,
        .only_plan = wish->only_plan,
        .batch_rows = (uint32_t)o->batch,
        .logits_rows = wish->all_logits ? 0 : 1,
        .text_bytes = wish->text_bytes,
        .caller_bytes = wish->caller_bytes,
        .kv_type = (enum corm_kv)o->kv,
        .loss_percent = (float)o->loss,
        .loss_in_batches = wish->loss_in_batches,
        .on_plan = o->quiet || wish->only_plan ? NULL : print_plan,
        .on_plan_ctx = (void *)model,
        .on_part = wish->on_part,
        .measure = wish->measure ? wish->measure : &asked,
    };
    int status = budget_bytes("--ram", o->ram, true, &options.ram_bytes, err);
    if (status == 0) {
        status = budget_bytes("--vram", o->vram, false, &options.vram_bytes, err);
    }
    if (status == 0 && o->vram && (!o->device || strncmp(o->device, "cuda", 4) != 0)) {
        err_set(err, "--vram %s: expected --device cuda with it", o->vram);
        status = CLI_USAGE;
    }
    if (status != 0) {
        return status;
    }
    if (is_checkpoint(model)) {
        return err_set(err,
                       "%s: a checkpoint, not a .corm archive; make one of it with 'corm-prep "
                       "convert %s -o MODEL.corm'",
                       model, model);
    }
    struct corm_error error;
    if (corm_engine_open(engine, model, &options, &error) < 0) {
        return run_fail(err, &error);
    }
    const struct corm_model_info *info = corm_engine_info(*engine);
    if (info->ctx_max_tok > 0 && info->ctx_tok > info->ctx_max_tok && !o->quiet &&
        !wish->only_plan) {
        fprintf(stderr,
                "%s: a context of %u tokens, the model was trained for %u: what it makes of "
                "those beyond may be poor\n",
                wish->program ? wish->program : "corm-run", info->ctx_tok, info->ctx_max_tok);
    }
    return 0;
}
