/*
 * run: see run.h.
 */
#include "runtime/run/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int run_fail(struct err *err, const struct corm_error *error) {
    return err_set(err, "%s", error->message);
}

/* -- options -------------------------------------------------------------------------------- */

#define FIELD(member) CLI_FIELD(struct run_options, member)

static const char *const missed_words[] = {
    [CORM_MISSED_DEVICE] = "device", [CORM_MISSED_CPU] = "cpu", [CORM_MISSED_AUTO] = "auto", NULL};
static const char *const kv_words[] = {[RUN_KV_F16] = "f16", [RUN_KV_F32] = "f32", NULL};

static const char *const keep_words[] = {[CORM_KEEP_AUTO] = "auto",
                                         [CORM_KEEP_DECODED] = "decoded",
                                         [CORM_KEEP_PACKED] = "packed",
                                         NULL};
static const char *const reading_words[] = {
    [CORM_READ_AUTO] = "auto",     [CORM_READ_BUFFERED] = "buffered", [CORM_READ_DIRECT] = "direct",
    [CORM_READ_MAPPED] = "mapped", [CORM_READ_PASSING] = "passing",   NULL};

static const struct cli_option machine_rows[] = {
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
     "With --device cuda, who computes an expert that the device does not hold, for a single "
     "token: device, which waits for a copy; cpu, from memory within --ram and while the device "
     "computes "
     "its share; or auto, the faster one of both by a measurement at the start, which the memory "
     "plan tells. With device, memory and timing change no bit of the result. With cpu, experts "
     "that are used most are the device's, as many as its memory holds, and the last bits hang on "
     "which they are: a command gives the same result every time where --vram is a size, with "
     "another --vram perhaps not. With auto two runs may choose differently.",
     .words = missed_words},
    {"threads", 't', CLI_INT, FIELD(threads), "N",
     "Threads that compute. The result does not depend on it.", .min = 1, .max = 1024,
     .fallback = "all processors"},
    {"isa", 0, CLI_STRING, FIELD(isa), "NAME",
     "Instruction set of the kernels: scalar, avx2, ... (another set may change the last bits).",
     .fallback = "the best here"},
    {"batch", 'b', CLI_INT, FIELD(batch), "N",
     "Most tokens computed at once while reading a prompt. More is faster and takes more scratch; "
     "the result does not depend on it.",
     .min = 1, .max = 4096},
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
     "Type of the KV cache: f16, which halves it, or f32. A key or value that f16 cannot hold "
     "(above "
     "65504) is an error.",
     .words = kv_words},
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
        fprintf(stderr, ", CPU %.1f GB/s", p->cpu_bytes_per_s / 1e9);
    }
    fprintf(stderr, ")%s%s%s\n", cpu ? ", with " : "",
            cpu ? cli_size_text(size, p->host_cache_bytes) : "",
            cpu ? " of the host for them" : "");
}

static void print_plan(void *ctx, const struct corm_model_info *m,
                       const struct corm_memory_plan *p) {
    const struct run *r = ctx;
    char a[CLI_SIZE_TEXT], b[CLI_SIZE_TEXT], c[CLI_SIZE_TEXT], d[CLI_SIZE_TEXT];
    char all[16], active[16], *name = text_cleaned(r->model), *family = text_cleaned(m->family);
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
    fprintf(stderr, "%s%s%s\n", p->packed ? ", packed" : "",
            !p->streams                      ? "; the whole model fits"
            : p->reading == CORM_READ_DIRECT ? "; experts are read directly"
            : p->reading == CORM_READ_MAPPED ? "; experts are read from a mapping of the file"
            : p->reading == CORM_READ_PASSING
                ? "; experts are read through the page cache, which forgets them"
                : "; experts are read through the page cache, which grows outside of the budget",
            p->no_code ? "; experts are never packed, the archive has no exponents code" : "");
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

int run_open(struct run *r, const struct cli_call *call, uint32_t ctx_tok, struct err *err) {
    const struct run_options *o = call->values;
    *r = (struct run){.call = call,
                      .o = o,
                      .model = call->args.items[0],
                      .loss_in_batches = r->loss_in_batches && o->loss > 0,
                      .max_passes = r->max_passes,
                      .all_logits = r->all_logits,
                      .text_bytes = r->text_bytes,
                      .caller_bytes = r->caller_bytes,
                      .measure = r->measure};
    r->progress = progress_terminal_init(&r->terminal, stderr, o->quiet);
    struct corm_mechanisms asked = {.reading = (enum corm_reading)o->reading};
    struct corm_engine_options options = {
        .threads = (uint32_t)o->threads,
        .isa = o->isa,
        .device = o->device,
        .missed = (enum corm_missed)o->missed,
        .keeping = (enum corm_keeping)o->keep,
        .ctx_tok = ctx_tok,
        .batch_rows = (uint32_t)o->batch,
        .max_passes = r->max_passes,
        .logits_rows = r->all_logits ? 0 : 1,
        .text_bytes = r->text_bytes,
        .caller_bytes = r->caller_bytes,
        .kv_f32 = o->kv == RUN_KV_F32,
        .loss_percent = (float)o->loss,
        .loss_in_batches = r->loss_in_batches,
        .on_plan = o->quiet ? NULL : print_plan,
        .on_plan_ctx = r,
        .measure = r->measure ? r->measure : &asked,
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
    struct corm_error error;
    if (corm_engine_open(&r->engine, r->model, &options, &error) < 0) {
        return run_fail(err, &error);
    }
    r->info = corm_engine_info(r->engine);
    if (r->info->ctx_max_tok > 0 && r->info->ctx_tok > r->info->ctx_max_tok && !o->quiet) {
        fprintf(stderr,
                "corm-run: a context of %u tokens, the model was trained for %u: what it makes of "
                "those beyond may be poor\n",
                r->info->ctx_tok, r->info->ctx_max_tok);
    }
    if (corm_session_open(&r->session, r->engine, &error) < 0) {
        return run_fail(err, &error);
    }
    return 0;
}

void run_close(struct run *r) {
    if (r->session) {
        corm_session_close(r->session);
    }
    corm_engine_close(r->engine);
    *r = (struct run){0};
}

/* -- input ---------------------------------------------------------------------------------- */

int run_read_template(const struct run *r, const char *name, struct buf *source,
                      struct corm_chat *chat, struct err *err) {
    size_t bytes;
    if (!name) {
        return 0;
    }
    const char *text = corm_chat_template_named(r->engine, name, &bytes);
    buf_append(source, text ? text : "", bytes); /* an empty file is an empty template */
    if (!text && run_read(name, source, err) < 0) {
        return err_prefix(err, "--chat-template: the archive has no template of that name");
    }
    if (source->len != strlen(source->data)) {
        return err_set(err, "%s: a chat template has no NUL in it", name);
    }
    chat->chat_template = source->data;
    chat->template_name = name;
    return 0;
}

/* -- evaluation ----------------------------------------------------------------------------- */

int run_eval(struct run *r, const int32_t *ids, size_t n, struct progress *progress,
             struct err *err) {
    for (size_t done = 0; done < n;) {
        if (run_interrupted()) {
            return RUN_INTERRUPTED;
        }
        size_t rows = n - done < r->info->batch_rows ? n - done : r->info->batch_rows;
        if (n - done - rows == 1 && rows > 1) {
            rows--; /* a call of one token would count as decoding */
        }
        bool last = done + rows == n; /* only there the logits are wanted */
        const float *logits;
        struct corm_error error;
        if (corm_session_eval(r->session, ids + done, rows, false, last ? &logits : NULL, &error) <
            0) {
            return run_fail(err, &error);
        }
        done += rows;
        progress_update(progress, done);
    }
    return 0;
}

int run_sample(struct run *r, const struct corm_sampling *how, int32_t *id, struct err *err) {
    *id = corm_session_sample(r->session, how);
    if (*id < 0) {
        return err_set(err,
                       "%s: no token to choose: the logits of token %" PRIu32 " are not finite",
                       r->model, corm_session_length(r->session));
    }
    return 0;
}

/* -- figures -------------------------------------------------------------------------------- */

struct corm_stats run_stats(const struct run *r) {
    struct corm_stats stats;
    corm_session_stats(r->session, &stats);
    return stats;
}

static double part(uint64_t a, uint64_t whole) {
    return whole > 0 ? (double)a / (double)whole : 0;
}

struct run_phase run_phase(const struct corm_stats *from, const struct corm_stats *to) {
    struct run_phase p = {
        .tok = to->prefill_tok + to->decode_tok - from->prefill_tok - from->decode_tok,
        .ns = to->prefill_ns + to->decode_ns - from->prefill_ns - from->decode_ns,
        .weight_bytes = to->weight_bytes - from->weight_bytes,
        .read_bytes = to->read_bytes - from->read_bytes,
    };
    if (p.tok > 0 && p.ns > 0) {
        double ns = (double)p.ns, tok = (double)p.tok;
        p.ms_per_tok = ns / tok / 1e6;
        p.tok_per_s = tok / ns * 1e9;
        p.weight_per_tok = (double)p.weight_bytes / tok;
        p.read_per_tok = (double)p.read_bytes / tok;
        p.weight_gb_per_s = (double)p.weight_bytes / ns; /* bytes per ns */
        p.demanded_per_tok =
            (double)(to->copied_demanded_bytes - from->copied_demanded_bytes) / tok;
        p.guessed_per_tok = (double)(to->copied_guessed_bytes - from->copied_guessed_bytes) / tok;
        p.chunks_per_tok = (double)(to->copied_chunks - from->copied_chunks) / tok;
        p.copies_per_tok = (double)(to->copies - from->copies) / tok;
    }
    uint64_t hits = to->cache_hits - from->cache_hits, copy_ns = to->copy_ns - from->copy_ns;
    p.hit_share = part(hits, hits + to->cache_misses - from->cache_misses);
    p.stall_share = part(to->stall_ns - from->stall_ns, p.ns);
    p.cpu_share = part(to->cpu_bytes - from->cpu_bytes, to->expert_bytes - from->expert_bytes);
    p.hidden_share = copy_ns == 0 ? -1 : part(to->copy_hidden_ns - from->copy_hidden_ns, copy_ns);
    return p;
}

static void print_phase(const char *name, const struct run_phase *p) {
    if (p->tok == 0) {
        return;
    }
    char weights[CLI_SIZE_TEXT], archive[CLI_SIZE_TEXT];
    fprintf(stderr,
            "%-8s %" PRIu64
            " tokens, %.2f ms/tok, %.1f tok/s; weights %s/tok (%.2f GB/s), from the "
            "archive %s/tok\n",
            name, p->tok, p->ms_per_tok, p->tok_per_s,
            cli_size_text(weights, (uint64_t)p->weight_per_tok), p->weight_gb_per_s,
            cli_size_text(archive, (uint64_t)p->read_per_tok));
}

void run_stats_print(const struct corm_stats *mid, const struct corm_stats *end) {
    struct corm_stats zero = {0};
    const struct corm_stats *parted = mid ? mid : end;
    struct run_phase prefill = run_phase(&zero, parted), decode = run_phase(parted, end);
    print_phase("prefill", &prefill);
    print_phase("decode", &decode);
    uint64_t chunks = end->cache_hits + end->cache_misses;
    char stored[CLI_SIZE_TEXT], decoded[CLI_SIZE_TEXT];
    fprintf(stderr,
            "cache    %.1f %% hits (%" PRIu64 " of %" PRIu64
            " chunks); %s from the archive, %s in memory\n",
            100 * part(end->cache_hits, chunks), end->cache_hits, chunks,
            cli_size_text(stored, end->read_bytes), cli_size_text(decoded, end->decoded_bytes));
    if (end->guessed_bytes > 0) {
        fprintf(stderr, "guesses  %s of the archive; %.1f %% used, %.1f %% evicted unused\n",
                cli_size_text(stored, end->guessed_bytes),
                100 * part(end->useful_bytes, end->guessed_bytes),
                100 * part(end->wasted_bytes, end->guessed_bytes));
    }
    if (end->unguessed_tok > 0) {
        fprintf(stderr, "guesses  left out for %" PRIu64 " tokens, to see whether they pay%s\n",
                end->unguessed_tok, end->guesses_off ? ": they do not" : "");
    }
    if (end->skipped_bytes > 0) {
        fprintf(stderr, "skipped  %.1f %% of the experts' weights (--loss)\n",
                100 * part(end->skipped_bytes, end->skipped_bytes + end->expert_bytes));
    }
    fprintf(stderr, "stall    %.2f ms, %.1f %% of the time\n", (double)end->stall_ns / 1e6,
            100 * part(end->stall_ns, end->prefill_ns + end->decode_ns));
    fprintf(stderr, "peak     %s of memory\n", cli_size_text(stored, corm_memory_peak()));
    fprintf(stderr, "logits   hash %016" PRIx64 "\n", end->logits_hash);
}

void run_phase_json(struct run_json *j, const struct run_phase *p) {
    run_json_u64(j, "tokens", p->tok);
    run_json_f64(j, "tok_per_s", p->tok_per_s);
    run_json_f64(j, "ms_per_tok", p->ms_per_tok);
    run_json_f64(j, "weight_bytes_per_tok", p->weight_per_tok);
    run_json_f64(j, "weight_gb_per_s", p->weight_gb_per_s);
    run_json_f64(j, "archive_bytes_per_tok", p->read_per_tok);
    run_json_f64(j, "seconds", (double)p->ns / 1e9);
}

void run_stats_json(struct run_json *j, const struct corm_stats *mid,
                    const struct corm_stats *end) {
    struct corm_stats zero = {0};
    const struct corm_stats *parted = mid ? mid : end;
    struct run_phase prefill = run_phase(&zero, parted), decode = run_phase(parted, end);
    run_json_open(j, "prefill", '{');
    run_phase_json(j, &prefill);
    run_json_close(j, '}');
    run_json_open(j, "decode", '{');
    run_phase_json(j, &decode);
    run_json_close(j, '}');
    run_json_u64(j, "cache_hits", end->cache_hits);
    run_json_u64(j, "cache_misses", end->cache_misses);
    run_json_u64(j, "archive_bytes", end->read_bytes);
    run_json_u64(j, "decoded_bytes", end->decoded_bytes);
    run_json_u64(j, "guessed_bytes", end->guessed_bytes);
    run_json_u64(j, "guessed_useful_bytes", end->useful_bytes);
    run_json_u64(j, "guessed_wasted_bytes", end->wasted_bytes);
    run_json_u64(j, "skipped_bytes", end->skipped_bytes);
    run_json_f64(j, "stall_seconds", (double)end->stall_ns / 1e9);
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, end->logits_hash);
    run_json_string(j, "logits_hash", hash);
}

void run_json_begin(struct run_json *j, const struct run *r) {
    *j = (struct run_json){0};
    run_json_open(j, NULL, '{');
    run_json_string(j, "command", r->call->command->name);
    run_json_string(j, "version", corm_version());
    run_json_string(j, "model", r->model);
    run_json_string(j, "family", r->info->family);
    run_json_string(j, "expert_codec", r->info->expert_codec);
    run_json_string(j, "compression", r->info->compression);
    run_json_string(j, "isa", r->info->isa);
    run_json_u64(j, "threads", r->info->threads);
    run_json_u64(j, "ctx", r->info->ctx_tok);
    run_json_u64(j, "batch", r->info->batch_rows);
    run_json_string(j, "kv", r->o->kv == RUN_KV_F32 ? "f32" : "f16");
    run_json_string(j, "keeps", corm_engine_plan(r->engine)->packed ? "packed" : "decoded");
    run_json_u64(j, "memory_bytes", corm_engine_plan(r->engine)->total_bytes);
    run_json_u64(j, "budget_bytes", corm_engine_plan(r->engine)->budget_bytes);
}

void run_json_print(struct run_json *j) {
    run_json_u64(j, "peak_memory_bytes", corm_memory_peak());
    run_json_close(j, '}');
    printf("%s\n", j->text.data);
    buf_free(&j->text);
}

bool run_report_begin(const struct run *r, const struct corm_stats *mid,
                      const struct corm_stats *end, struct run_json *j) {
    if (r->o->stats) {
        run_stats_print(mid, end);
    }
    if (r->o->json) {
        run_json_begin(j, r);
    }
    return r->o->json;
}

void run_json_end_rows(struct run_json *j, int status) {
    run_json_close(j, ']');
    if (status == 0) {
        run_json_print(j);
    } else {
        buf_free(&j->text);
    }
}
