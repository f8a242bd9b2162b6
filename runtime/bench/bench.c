/*
 * bench: how fast a model runs here.
 *
 * Owns: the command's options, the tokens it feeds, the repetitions, medians, the report. The
 * tokens are the same every time and chosen without the model, so that builds, options and machines
 * do the same work.
 * Leaves to others: all that run.h lists.
 * Threads: the main thread.
 */
#include "runtime/bench/bench.h"
#include "format/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The figures of one kind of work, in each repetition. */
struct series {
    const char *name;
    size_t n, cap;
    struct run_phase *phases;
};

struct bench {
    struct run run;
    struct run_ids tokens; /* prompt_tokens, then decode_tokens; of --minutes, for many reps */
    size_t first;          /* index of the repetition's first token */
    struct series prefill, decode;
    struct corm_stats mid, end; /* of the last repetition: after the prompt, after decoding */
};

enum { MADE_UP_ROUNDS = 64, FILE_ROUNDS = 64 }; /* after which --minutes begins anew */

/* Ids in 0 .. vocab-1 from a linear congruential generator (Knuth's MMIX constants), upper half. */
static void made_up_ids(struct run_ids *out, size_t n, uint32_t vocab) {
    uint64_t state = 1;
    out->n = n;
    out->ids = mem_calloc(n, sizeof *out->ids);
    for (size_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        out->ids[i] = (int32_t)((state >> 32) * vocab >> 32);
    }
}

int bench_tokens(const struct run *r, size_t n, struct run_ids *out, struct err *err) {
    const struct bench_options *o = r->call->values;
    struct run_text text = {.fd = -1};
    struct run_tokens tokens = {0};
    if (!o->file) {
        made_up_ids(out, n, r->info->vocab);
        return 0;
    }
    int status = run_text_open(&text, o->file, err);
    if (status == 0) {
        status = run_tokens_open(&tokens, r, &text, false, true, err);
    }
    if (status == 0) {
        status = run_tokens_want(&tokens, FILE_ROUNDS * n, err);
    }
    if (status == 0 && tokens.n < n) {
        status = err_set(err, "%s: the text has %zu tokens; prompt and decoding need %zu", o->file,
                         tokens.n, n);
    }
    *out = (struct run_ids){tokens.ids, tokens.n};
    tokens.ids = NULL;
    run_tokens_close(&tokens);
    run_text_close(&text);
    return status;
}

/* "100us", "1.5ms" */
static int latency_ns(const char *text, uint64_t *ns, struct err *err) {
    char *end;
    double value = number_parse(text, &end);
    double unit = strcmp(end, "us") == 0 ? 1e3 : strcmp(end, "ms") == 0 ? 1e6 : 0;
    if (end == text || unit == 0 || !(value >= 0 && value * unit <= 1e10)) {
        err_set(err, "--latency: expected a time up to 10 s, such as 100us or 5ms, not '%s'", text);
        return CLI_USAGE;
    }
    *ns = (uint64_t)(value * unit);
    return 0;
}

int bench_measure(const struct bench_options *o, struct corm_mechanisms *m, struct err *err) {
    *m = (struct corm_mechanisms){.cache_share = o->share / 100,
                                  .throttle_bytes_per_s = (double)o->throttle,
                                  .io_threads = (uint32_t)o->io_threads,
                                  .reading = (enum corm_reading)o->run.reading};
    /* A throttle makes a disk out of the page cache: the real one would come on top of it. */
    if ((o->throttle > 0 || o->stall > 0) && o->run.reading == CORM_READ_AUTO) {
        m->reading = CORM_READ_BUFFERED;
    }
    return o->latency ? latency_ns(o->latency, &m->throttle_latency_ns, err) : 0;
}

static void add_phase(struct series *s, struct run_phase phase) {
    s->phases = mem_grow(s->phases, s->n + 1, &s->cap, sizeof *s->phases);
    s->phases[s->n++] = phase;
}

static int repeat(struct bench *b, struct err *err) {
    struct run *r = &b->run;
    const struct bench_options *o = r->call->values;
    const int32_t *ids = b->tokens.ids + b->first;
    size_t n_prompt = (size_t)o->prompt_tokens, n_decode = (size_t)o->decode_tokens;
    corm_session_truncate(r->session, 0);
    corm_session_reset_stats(r->session);
    struct corm_stats begin = run_stats(r);
    int status = run_eval(r, ids, n_prompt, NULL, err);
    b->mid = run_stats(r);
    for (size_t i = 0; status == 0 && i < n_decode; i++) {
        status = run_eval(r, ids + n_prompt + i, 1, NULL, err);
    }
    b->end = run_stats(r);
    if (status == 0) {
        add_phase(&b->prefill, run_phase(&begin, &b->mid));
        add_phase(&b->decode, run_phase(&b->mid, &b->end));
    }
    return status;
}

/* Repeat as often as --reps says, or for as long as --minutes says. */
static int repeat_all(struct bench *b, struct err *err) {
    const struct bench_options *o = b->run.call->values;
    size_t step = (size_t)o->prompt_tokens + (size_t)o->decode_tokens;
    uint64_t start = clock_ns(), length_ns = (uint64_t)(o->minutes * 60e9), done = 0;
    uint64_t total = length_ns ? 1 + length_ns / 1000000000 : (uint64_t)o->reps;
    int status = 0;
    run_catch_interrupt();
    progress_start(b->run.progress, length_ns ? "bench, seconds" : "bench", total, PROGRESS_ITEMS);
    while (status == 0 && done < total) {
        status = repeat(b, err);
        done = length_ns ? (clock_ns() - start) / 1000000000 : done + 1;
        progress_update(b->run.progress, done < total ? done : total);
        if (length_ns) {
            b->first += step;
            b->first = b->first + step > b->tokens.n ? 0 : b->first;
        }
    }
    progress_finish(b->run.progress);
    return status;
}

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const struct run_phase *)a)->ns, y = ((const struct run_phase *)b)->ns;
    return (x > y) - (x < y);
}

/* The repetition of median time (the slower middle one of an even number). Sorts. */
static const struct run_phase *median(struct series *s) {
    qsort(s->phases, s->n, sizeof *s->phases, by_time);
    return &s->phases[s->n / 2];
}

static void print_series(struct series *s) {
    const struct run_phase *p = median(s);
    if (p->tok == 0) {
        return;
    }
    char weights[CLI_SIZE_TEXT], archive[CLI_SIZE_TEXT];
    printf("%-8s %8ju %10.1f %10.1f %10.1f %9.2f %12s %12s\n", s->name, (uintmax_t)p->tok,
           p->tok_per_s, s->phases[s->n - 1].tok_per_s, s->phases[0].tok_per_s, p->weight_gb_per_s,
           cli_size_text(weights, (uint64_t)p->weight_per_tok),
           cli_size_text(archive, (uint64_t)p->read_per_tok));
}

/* Print what the median phase says of a device's expert cache. */
static void print_device_series(struct series *s) {
    const struct run_phase *p = median(s);
    if (p->tok == 0) {
        return;
    }
    char demanded[CLI_SIZE_TEXT], guessed[CLI_SIZE_TEXT], hidden[16] = "-";
    if (p->hidden_share >= 0) {
        snprintf(hidden, sizeof hidden, "%.1f %%", 100 * p->hidden_share);
    }
    printf("%-8s %6.1f %% %12s %12s %10.1f %10.1f %6.1f %% %8s %6.1f %%\n", s->name,
           100 * p->hit_share, cli_size_text(demanded, (uint64_t)p->demanded_per_tok),
           cli_size_text(guessed, (uint64_t)p->guessed_per_tok), p->chunks_per_tok,
           p->copies_per_tok, 100 * p->cpu_share, hidden, 100 * p->stall_share);
}

/* Print what the host handed to a device for the operations of the median phase. */
static void print_work_series(struct series *s, uint32_t n_layers) {
    const struct run_phase *p = median(s);
    char bytes[CLI_SIZE_TEXT];
    if (p->tok > 0) {
        printf("%-8s %12.1f %14.2f %10.1f %12.2f %10.1f %12s\n", s->name, p->launches_per_tok,
               p->launches_per_tok / n_layers, p->waits_per_tok, p->waits_per_tok / n_layers,
               p->small_copies_per_tok, cli_size_text(bytes, (uint64_t)p->small_bytes_per_tok));
    }
}

static void print_device(struct bench *b) {
    printf("%-8s %8s %12s %12s %10s %10s %8s %8s %8s\n", "", "hits", "demanded/tok", "guessed/tok",
           "chunks/tok", "copies/tok", "by CPU", "hidden", "stall");
    print_device_series(&b->prefill);
    print_device_series(&b->decode);
    const uint32_t n_layers = b->run.info->n_layers;
    printf("%-8s %12s %14s %10s %12s %10s %12s\n", "", "launches/tok", "launches/layer",
           "waits/tok", "waits/layer", "small/tok", "bytes/tok");
    print_work_series(&b->prefill, n_layers);
    print_work_series(&b->decode, n_layers);
}

static void series_json(struct run_json *j, struct series *s, bool device) {
    const struct run_phase *p = median(s);
    run_json_open(j, s->name, '{');
    run_phase_json(j, p);
    run_json_f64(j, "tok_per_s_min", s->phases[s->n - 1].tok_per_s);
    run_json_f64(j, "tok_per_s_max", s->phases[0].tok_per_s);
    run_json_f64(j, "hit_share", p->hit_share);
    run_json_f64(j, "stall_share", p->stall_share);
    if (device) {
        run_json_f64(j, "copied_demanded_bytes_per_tok", p->demanded_per_tok);
        run_json_f64(j, "copied_guessed_bytes_per_tok", p->guessed_per_tok);
        run_json_f64(j, "copied_chunks_per_tok", p->chunks_per_tok);
        run_json_f64(j, "copies_per_tok", p->copies_per_tok);
        run_json_f64(j, "cpu_share", p->cpu_share);
        run_json_f64(j, "launches_per_tok", p->launches_per_tok);
        run_json_f64(j, "waits_per_tok", p->waits_per_tok);
        run_json_f64(j, "small_copies_per_tok", p->small_copies_per_tok);
        run_json_f64(j, "small_copy_bytes_per_tok", p->small_bytes_per_tok);
        if (p->hidden_share >= 0) {
            run_json_f64(j, "copy_hidden_share", p->hidden_share);
        }
    }
    run_json_close(j, '}');
}

static void report(struct bench *b) {
    const struct run *r = &b->run;
    const struct bench_options *o = r->call->values;
    bool device = corm_engine_plan(r->engine)->host_bytes > 0;
    struct run_json j;
    if (run_report_begin(r, &b->mid, &b->end, &j)) {
        run_json_string(&j, "tokens_from", o->file ? o->file : "generator");
        run_json_u64(&j, "reps", b->prefill.n);
        series_json(&j, &b->prefill, device);
        series_json(&j, &b->decode, device);
        run_json_print(&j);
        return;
    }
    printf("%s, %s, %u threads, context %u; median of %zu\n", r->info->expert_codec, r->info->isa,
           r->info->threads, r->info->ctx_tok, b->prefill.n);
    printf("%-8s %8s %10s %10s %10s %9s %12s %12s\n", "", "tokens", "tok/s", "slowest", "fastest",
           "GB/s", "weights/tok", "archive/tok");
    print_series(&b->prefill);
    print_series(&b->decode);
    if (device) {
        print_device(b);
    }
}

static int run(const struct cli_call *call, struct err *err) {
    const struct bench_options *o = call->values;
    struct bench b = {.prefill.name = "prefill", .decode.name = "decode"};
    struct corm_mechanisms measure;
    if (o->ablation + o->io + o->trace + o->token + o->kernels + o->probe > 1) {
        err_set(err, "--ablation, --io, --trace, --token, --kernels and --probe are measurements "
                     "of their own: one at a time");
        return CLI_USAGE;
    }
    if (o->kernels != (call->args.count == 0)) {
        err_set(err, o->kernels ? "--kernels measures without a model"
                                : "an argument is missing: expected MODEL.corm");
        return CLI_USAGE;
    }
    if (o->kernels) {
        return bench_kernels(call, err);
    }
    if (o->ablation || o->io || o->trace || o->token || o->probe) {
        return o->ablation ? bench_ablation(call, err)
               : o->io     ? bench_io(call, err)
               : o->token  ? bench_token(call, err)
               : o->probe  ? bench_probe(call, err)
                           : bench_trace(call, err);
    }
    if (o->prompt_tokens + o->decode_tokens == 0) {
        err_set(err, "nothing to do: --prompt-tokens and --decode-tokens are both 0");
        return CLI_USAGE;
    }
    int status = bench_measure(o, &measure, err);
    if (status == 0) {
        b.run.wish.measure = &measure;
        status = run_open(&b.run, call, (uint32_t)(o->prompt_tokens + o->decode_tokens), err);
    }
    if (status == 0) {
        size_t rounds = o->minutes > 0 && !o->file ? MADE_UP_ROUNDS : 1;
        status = bench_tokens(
            &b.run, rounds * ((size_t)o->prompt_tokens + (size_t)o->decode_tokens), &b.tokens, err);
    }
    if (status == 0) {
        status = repeat_all(&b, err);
    }
    if (status == 0) {
        report(&b);
    }
    run_close(&b.run);
    free(b.prefill.phases);
    free(b.decode.phases);
    free(b.tokens.ids);
    return status;
}

/* -- the command ---------------------------------------------------------------------------- */

#define FIELD(member) CLI_FIELD(struct bench_options, member)

static const struct cli_option bench_rows[] = {
    {"prompt-tokens", 0, CLI_INT, FIELD(prompt_tokens), "N", "Tokens read in batches.", .min = 0,
     .max = 1 << 19},
    {"decode-tokens", 0, CLI_INT, FIELD(decode_tokens), "N",
     "Tokens computed one by one after them.", .min = 0, .max = 1 << 19},
    {"reps", 'r', CLI_INT, FIELD(reps), "N", "Repetitions; the median is reported.", .min = 1,
     .max = 1000},
    {"minutes", 0, CLI_DOUBLE, FIELD(minutes), "N",
     "Repeat for so long in place of --reps, each time with tokens further on, so that experts "
     "change: an endurance run.",
     .min = 0, .max = 10000, .fallback = "as --reps says"},
    {"file", 'f', CLI_STRING, FIELD(file), "FILE",
     "Take the tokens from a text. Real text keeps experts longer than made-up ids do.",
     .fallback = "made-up ids, the same every time"},
    {0},
};

static const struct cli_option measure_rows[] = {
    {"ablation", 0, CLI_FLAG, FIELD(ablation),
     .help = "Turn the engine's mechanisms on one after the other, from whole experts on demand in "
             "an LRU cache (B0) to all of them, and compare: interleaved runs, each with a fresh "
             "engine. Needs --share or --ram."},
    {"io", 0, CLI_FLAG, FIELD(io),
     .help = "Read the archive in each way, with several block sizes and threads; with "
             "--reading, --block or --io-threads in those only."},
    {"block", 0, CLI_SIZE, FIELD(block_bytes), "SIZE", "With --io: the block size.",
     .fallback = "64K to 4M"},
    {"trace", 0, CLI_FLAG, FIELD(trace),
     .help = "Record which experts are used and which were guessed, and replay that through caches "
             "of several sizes: least recently used, the engine's own without and with its "
             "guesses, and Belady's, which knows the future. Each with its hits, and the experts "
             "that it reads for a token."},
    {"token", 0, CLI_FLAG, FIELD(token),
     .help =
         "Where the time of one token goes: milliseconds, bytes and GB/s of each operation, with "
         "512 and 4096 tokens of context; with 1 and all processors, or --threads. Medians of "
         "32 tokens, on the CPU."},
    {"probe", 0, CLI_FLAG, FIELD(probe),
     .help = "With --device cuda: what its parts cost: a kernel, a round trip, copies from "
             "page-locked memory by pieces, experts from the page cache by I/O threads, and a "
             "demanded megabyte behind guesses."},
    {"kernels", 0, CLI_FLAG, FIELD(kernels),
     .help = "Without a model: for each codec and instruction set, on weights larger than the "
             "caches, a token's work as GB/s of weights, with its share of what plain reading of "
             "memory gives to as many threads, and a prompt's as operations a second (two for each "
             "weight and row). Best of many passes. Loops over a token's weights choose their "
             "shape by measuring: which one, after how many calls, and the GB/s of all. Takes "
             "two minutes and 2 GB of memory. --threads and --isa choose; else 1 and all "
             "processors, and all instruction sets."},
    {"share", 0, CLI_DOUBLE, FIELD(share), "PERCENT",
     "Room for this part of all experts, in place of --ram.", .min = 0, .max = 100,
     .fallback = "as --ram says"},
    {"throttle", 0, CLI_SIZE, FIELD(throttle), "SIZE",
     "Make a slower disk of this one: so many bytes a second.", .fallback = "none"},
    {"latency", 0, CLI_STRING, FIELD(latency), "TIME",
     "With --throttle: so much longer for each read, 100us or 5ms.", .fallback = "none"},
    {"stall", 0, CLI_DOUBLE, FIELD(stall), "PERCENT",
     "With --ablation: choose the throttle so that B0 waits this part of its time.", .min = 1,
     .max = 99, .fallback = "the throttle given"},
    {"other", 0, CLI_STRING, FIELD(other), "FILE.corm",
     "With --ablation: the same model compressed, where MODEL.corm was converted with "
     "--compress none: to see what the codec brings.",
     .fallback = "none"},
    {"io-threads", 0, CLI_INT, FIELD(io_threads), "N", "Threads that read and decode.", .min = 0,
     .max = 64, .fallback = "the engine's own number"},
    {0},
};

static const struct cli_group work = {"Work", bench_rows};
static const struct cli_group measurement = {"Measurement", measure_rows};

static void set_defaults(void *values) {
    struct bench_options *o = values;
    run_defaults(values);
    o->prompt_tokens = 512;
    o->decode_tokens = 128;
    o->reps = 3;
}

const struct cli_command bench_command = {
    "bench",
    "measure speed",
    run,
    .args = "[MODEL.corm]",
    .max_args = 1,
    .groups = {&work, &measurement, &run_machine_group, &run_figures_group},
    .values_bytes = sizeof(struct bench_options),
    .defaults = set_defaults,
    .description =
        "Computes a prompt in batches (prefill), then tokens one by one (decode), and repeats "
        "that. The tokens are fixed, not the model's own, so that different builds and options do "
        "the same work.\n"
        "GB/s is the bytes of weights, decoded, that the math used by the time it took (1 GB = "
        "1e9 bytes); archive/tok is what came from the file. The first repetition also fills the "
        "cache.\n"
        "With a device, a second table tells of its expert cache: hits, the chunks in its memory "
        "when demanded; what was copied to it, because it was demanded or guessed; in how many "
        "chunks, and in how many copies, as neighbours go together; by CPU, the share of the "
        "experts' weights that the CPU computed with (--missed); hidden, the share of the time of "
        "copying in which the device computed, - where nothing was copied; and stall, the share "
        "of the time in which computing waited for experts. A third table tells what the host "
        "handed to the device for operations, a token and a layer: kernels launched, waits until "
        "all was done, and small copies of tables and results.",
    .examples =
        "corm-run bench model.corm\n"
        "corm-run bench model.corm --ram 25% --reps 5 --json\n"
        "corm-run bench --kernels --isa avx2\n"
        "#What each mechanism brings on a SATA disk, with room for a quarter of the experts:\n"
        "corm-run bench model.corm --ablation --share 25 --throttle 500MB --latency 100us\n"};
