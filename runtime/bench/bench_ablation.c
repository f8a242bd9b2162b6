/*
 * bench_ablation: what each mechanism of the engine is worth.
 *
 * Owns: the rows (B0 and one more mechanism in each), their order in time, the choice of a
 * throttle, the arithmetic bound, the table.
 * Leaves to others: all that run.h lists; the switches themselves (struct corm_mechanisms).
 * Threads: the main thread.
 * Rows. B0 reads whole experts on demand and evicts the least recently used one. It reads an expert
 * when its turn to be computed comes, by three reads, as three separate matrices would take, and
 * does nothing meanwhile. "One read an expert" reads all of it in a row, in requests of up to 1
 * MiB. "Read meanwhile" asks for all that a layer misses at once, and computes it as it comes.
 * "Two-level cache" has the engine's own ranking. Rows with guesses one and two layers ahead
 * follow, and one with chunks left out. The last rows are the full engine on --other, with experts
 * kept decoded, then packed. On a device that does not hold all experts there is one row more, in
 * which the CPU computes what the device misses (--missed cpu) and nothing is guessed.
 * A throttled disk is read from a mapping of the file, unless --reading says otherwise, because it
 * stands for a disk that writes to memory by itself (see reader).
 * Every row decodes the same tokens with an engine of its own, so that its caches begin empty, and
 * in the same budget, which is B0's. Some tokens that are not measured come first. Rows run in
 * turn, once in each repetition, so that a machine that is slower for a while is slower for all of
 * them. The repetition of median time is reported.
 * The bound. A row that hid all of its reading behind computing, or all of its computing behind
 * reading, would take max(compute, bytes / device rate) for a token. Here compute is the time with
 * every expert in memory, packed for rows that keep experts packed; where the experts do not fit,
 * it is the row's own time without its stall. B0's time divided by that maximum is the most that
 * the row can win with the bytes that it reads. The device's rate is the throttle's, where there is
 * one. A disk, or what is in front of it, is faster at some times and places than at others, so its
 * rate is measured again in each repetition; the best counts, or what a row got if that is more.
 * Copies to a device go a second way, for which the same holds with the rate measured when the
 * engine was opened.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/corm_read.h"
#include "runtime/bench/bench.h"

struct row {
    const char *name;
    bool resident; /* all experts are in memory: tells what computing alone takes */
    bool other;    /* runs the archive of --other */
    bool lossy;
    bool packed; /* experts are kept packed, else decoded */
    bool by_cpu; /* with a device only: exact, but rounded otherwise than by the device */
    struct corm_mechanisms m;
};

static const struct row ROWS[] = {
    {"resident", .resident = true},
    {"resident, packed", .resident = true, .other = true, .packed = true},
    {"B0", .m = {.whole_lru = true, .split_reads = true, .in_turn = true, .no_guesses = true}},
    {"+ one read an expert", .m = {.whole_lru = true, .in_turn = true, .no_guesses = true}},
    {"+ read meanwhile", .m = {.whole_lru = true, .no_guesses = true}},
    {"+ two-level cache", .m = {.no_guesses = true}},
    {"+ guess l+1", .m = {.ahead = 1}},
    {"+ guess l+2", .m = {.ahead = 2}},
    {"+ CPU for missed", .by_cpu = true},
    {"+ approximate", .lossy = true, .m = {.ahead = 2}},
    {"exact + codec", .other = true, .m = {.ahead = 2}},
    {"approximate + codec", .other = true, .lossy = true, .m = {.ahead = 2}},
    {"exact + kept packed", .other = true, .packed = true, .m = {.ahead = 2}},
    {"approximate + packed", .other = true, .lossy = true, .packed = true, .m = {.ahead = 2}},
};
enum { RESIDENT, RESIDENT_PACKED, B0, APPROXIMATE = 9, N_ROWS = sizeof ROWS / sizeof *ROWS };
static const double LOSS = 1; /* percent, of approximate rows */

/* One run of one row. */
struct sample {
    uint64_t tok, ns;
    struct corm_stats s;
};

struct ablation {
    const struct cli_call *call;
    const struct bench_options *o;
    struct corm_mechanisms base; /* what the options ask of every row */
    bool on[N_ROWS];
    struct sample *samples[N_ROWS]; /* [reps] */
    double room;                    /* share of the experts that a cache holds, by B0's plan */
    char ram[24]; /* the budget of B0's plan, which every row gets; "" on a device */
    double device_bytes_per_s, loss_nats;
    bool direct;             /* the disk's rate is that of direct reading */
    bool opened;             /* the engine of the row at hand could be opened */
    bool on_device;          /* the backend has memory of its own, to which ... */
    double link_bytes_per_s; /* ... so much is copied; 0 = not known */
};

static double part(uint64_t a, uint64_t whole) {
    return whole > 0 ? (double)a / (double)whole : 0;
}

/* ---- one run ---- */

static int run_row(struct ablation *a, size_t i, struct sample *out, struct err *err) {
    const struct row *row = &ROWS[i];
    struct bench_options own = *a->o;
    const char *path = row->other ? own.other : a->call->args.items[0];
    struct cli_call call = *a->call;
    call.values = &own;
    call.args.items = &path;
    own.run.quiet = true;
    own.run.loss = row->lossy ? LOSS : 0;
    own.run.keep = row->packed ? CORM_KEEP_PACKED : CORM_KEEP_DECODED;
    own.run.missed = row->by_cpu ? CORM_MISSED_CPU : CORM_MISSED_DEVICE;
    struct corm_mechanisms m = row->m;
    m.cache_share = row->resident ? 0 : a->base.cache_share;
    m.io_threads = a->base.io_threads;
    m.reading = row->resident ? CORM_READ_AUTO : a->base.reading;
    m.throttle_bytes_per_s = row->resident ? 0 : a->base.throttle_bytes_per_s;
    m.throttle_latency_ns = row->resident ? 0 : a->base.throttle_latency_ns;
    if (row->resident) {
        own.run.ram = own.run.vram = NULL;
    } else if (!own.run.ram && a->ram[0]) {
        own.run.ram = a->ram;
    }
    size_t n_prompt = (size_t)own.prompt_tokens, n_decode = (size_t)own.decode_tokens,
           n_warm = n_prompt + n_decode / 8;
    struct run r = {.wish.measure = &m};
    struct run_ids tokens = {0};
    int status = run_open(&r, &call, (uint32_t)(n_warm + n_decode), err);
    a->opened = status == 0;
    const struct corm_memory_plan *plan = status == 0 ? corm_engine_plan(r.engine) : NULL;
    if (plan && row->resident && plan->streams) {
        a->on[i] = false;
        run_close(&r);
        return 0;
    }
    if (plan && i == B0) {
        a->room = part(plan->cache_bytes, plan->cache_need_bytes);
        a->on_device = plan->host_bytes > 0;
        if (!a->on_device) {
            snprintf(a->ram, sizeof a->ram, "%llu", (unsigned long long)plan->budget_bytes);
        }
        a->link_bytes_per_s = plan->link_bytes_per_s;
    }
    if (status == 0) {
        status = bench_tokens(&r, n_warm + n_decode, &tokens, err);
    }
    if (status == 0) {
        status = run_eval(&r, tokens.ids, n_prompt, NULL, err);
    }
    for (size_t t = n_prompt; status == 0 && t < n_warm + n_decode; t++) {
        if (t == n_warm) {
            corm_session_reset_stats(r.session);
        }
        status = run_eval(&r, tokens.ids + t, 1, NULL, err);
    }
    if (status == 0) {
        struct corm_stats s = run_stats(&r);
        *out = (struct sample){s.decode_tok, s.decode_ns, s};
    }
    free(tokens.ids);
    run_close(&r);
    return status;
}

/* ---- figures ---- */

static int by_time(const void *x, const void *y) {
    uint64_t a = ((const struct sample *)x)->ns, b = ((const struct sample *)y)->ns;
    return (a > b) - (a < b);
}

/* The figures of one row. */
struct figures {
    double tok_per_s, s_per_tok, read, guessed, useful, wasted; /* seconds and bytes per token */
    double hits, stall;                                         /* shares */
    double copied, hidden, by_cpu; /* of a device: bytes per token, shares; hidden < 0: not known */
    double over_b0, bound;
};

static struct figures figures_of(const struct ablation *a, size_t i, size_t rep) {
    const struct sample *x = &a->samples[i][rep];
    double tok = (double)x->tok;
    const struct corm_stats zero = {0};
    const struct run_phase phase = run_phase(&zero, &x->s);
    struct figures f = {
        .s_per_tok = (double)x->ns / 1e9 / tok,
        .tok_per_s = tok / (double)x->ns * 1e9,
        .read = (double)x->s.read_bytes / tok,
        .guessed = (double)x->s.guessed_bytes / tok,
        .useful = (double)x->s.useful_bytes / tok,
        .wasted = (double)x->s.wasted_bytes / tok,
        .hits = phase.hit_share,
        .stall = part(x->s.stall_ns, x->ns),
        .copied = phase.demanded_per_tok + phase.guessed_per_tok,
        .hidden = phase.hidden_share,
        .by_cpu = phase.cpu_share,
    };
    return f;
}

/* A disk is at least as fast as any row could read from it. Resident rows do not count, because
 * what they read came out of the page cache. */
static void meet_rows(struct ablation *a, const struct figures *f) {
    for (size_t i = B0; i < N_ROWS; i++) {
        if (a->on[i]) {
            a->device_bytes_per_s = fmax(a->device_bytes_per_s, f[i].read / f[i].s_per_tok);
        }
    }
}

/* Sorts the samples of every row by time and returns the medians' figures in f[N_ROWS]. */
static void compute_figures(struct ablation *a, struct figures *f) {
    size_t middle = (size_t)a->o->reps / 2;
    for (size_t i = 0; i < N_ROWS; i++) {
        if (a->on[i]) {
            qsort(a->samples[i], (size_t)a->o->reps, sizeof **a->samples, by_time);
            f[i] = figures_of(a, i, middle);
        }
    }
    if (a->base.throttle_bytes_per_s <= 0) {
        meet_rows(a, f);
    }
    for (size_t i = B0; i < N_ROWS; i++) {
        if (!a->on[i]) {
            continue;
        }
        size_t resident = ROWS[i].packed ? RESIDENT_PACKED : RESIDENT;
        double compute =
            a->on[resident] ? f[resident].s_per_tok : f[i].s_per_tok * (1 - f[i].stall);
        double most = fmax(compute, f[i].read / a->device_bytes_per_s);
        if (a->link_bytes_per_s > 0) {
            most = fmax(most, f[i].copied / a->link_bytes_per_s);
        }
        f[i].over_b0 = f[B0].s_per_tok / f[i].s_per_tok;
        f[i].bound = f[B0].s_per_tok / most;
    }
}

static void print_device(const struct figures *f) {
    char size[CLI_SIZE_TEXT], hidden[16] = "-";
    if (f->hidden >= 0) {
        snprintf(hidden, sizeof hidden, "%.0f %%", 100 * f->hidden);
    }
    printf(" %12s %7s %5.0f %%", cli_size_text(size, (uint64_t)f->copied), hidden, 100 * f->by_cpu);
}

static void print_table(const struct ablation *a, const struct figures *f) {
    char size[CLI_SIZE_TEXT];
    printf("device %.0f MB/s%s; room for %.0f %% of the experts; %d tokens, median of %d\n",
           a->device_bytes_per_s / 1e6, a->base.throttle_bytes_per_s > 0 ? " (throttled)" : "",
           a->room * 100, a->o->decode_tokens, a->o->reps);
    if (a->on_device) {
        printf("copies to the device %.1f GB/s; MB/s above are the file's\n",
               a->link_bytes_per_s / 1e9);
    }
    if (!a->on[RESIDENT]) {
        printf("the whole model does not fit%s: rows' own time without stall stands for "
               "computing\n",
               a->on[RESIDENT_PACKED] ? " but packed" : "");
    }
    printf("%-20s %9s %7s %7s %8s %12s %6s %12s %8s %8s %7s", "", "tok/s", "x B0", "bound",
           "of bound", "read/tok", "hits", "guessed/tok", "useful", "wasted", "stall");
    if (a->on_device) {
        printf(" %12s %7s %7s", "copied/tok", "hidden", "by CPU");
    }
    printf(" %9s\n", "perplexity");
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!a->on[i]) {
            continue;
        }
        printf("%-20s %9.*f", ROWS[i].name, f[i].tok_per_s < 10 ? 2 : 1, f[i].tok_per_s);
        if (ROWS[i].resident) {
            printf("\n");
            continue;
        }
        printf(" %7.2f %7.2f %6.0f %%", f[i].over_b0, f[i].bound, 100 * f[i].over_b0 / f[i].bound);
        printf(" %12s %4.0f %%", cli_size_text(size, (uint64_t)f[i].read), 100 * f[i].hits);
        printf(" %12s", cli_size_text(size, (uint64_t)f[i].guessed));
        double guessed = f[i].guessed > 0 ? f[i].guessed : 1;
        printf(" %6.0f %% %6.0f %% %5.0f %%", 100 * f[i].useful / guessed,
               100 * f[i].wasted / guessed, 100 * f[i].stall);
        if (a->on_device) {
            print_device(&f[i]);
        }
        if (ROWS[i].lossy && a->o->file) {
            printf(" %+7.2f %%", 100 * (exp(a->loss_nats) - 1));
        }
        printf("\n");
    }
}

static void print_json(const struct ablation *a, const struct figures *f) {
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "command", "bench --ablation");
    run_json_string(&j, "version", corm_version());
    run_json_string(&j, "model", a->call->args.items[0]);
    run_json_f64(&j, "device_bytes_per_s", a->device_bytes_per_s);
    run_json_bool(&j, "throttled", a->base.throttle_bytes_per_s > 0);
    run_json_f64(&j, "cache_share", a->room);
    if (a->on_device) {
        run_json_f64(&j, "link_bytes_per_s", a->link_bytes_per_s);
    }
    run_json_bool(&j, "resident", a->on[RESIDENT]);
    run_json_u64(&j, "tokens", (uint64_t)a->o->decode_tokens);
    run_json_u64(&j, "reps", (uint64_t)a->o->reps);
    run_json_open(&j, "rows", '[');
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!a->on[i]) {
            continue;
        }
        run_json_open(&j, NULL, '{');
        run_json_string(&j, "name", ROWS[i].name);
        run_json_f64(&j, "tok_per_s", f[i].tok_per_s);
        if (!ROWS[i].resident) {
            run_json_f64(&j, "over_b0", f[i].over_b0);
            run_json_f64(&j, "bound", f[i].bound);
            run_json_f64(&j, "read_bytes_per_tok", f[i].read);
            run_json_f64(&j, "hit_rate", f[i].hits);
            run_json_f64(&j, "guessed_bytes_per_tok", f[i].guessed);
            run_json_f64(&j, "useful_bytes_per_tok", f[i].useful);
            run_json_f64(&j, "wasted_bytes_per_tok", f[i].wasted);
            run_json_f64(&j, "stall_share", f[i].stall);
        }
        if (!ROWS[i].resident && a->on_device) {
            run_json_f64(&j, "copied_bytes_per_tok", f[i].copied);
            run_json_f64(&j, "cpu_share", f[i].by_cpu);
            if (f[i].hidden >= 0) {
                run_json_f64(&j, "copy_hidden_share", f[i].hidden);
            }
        }
        if (ROWS[i].lossy && a->o->file) {
            run_json_f64(&j, "perplexity_change", exp(a->loss_nats) - 1);
        }
        run_json_close(&j, '}');
    }
    run_json_close(&j, ']');
    run_json_print(&j);
}

/* ---- the whole ---- */

/* Measure B0's time and its stall, over several runs where one is short, because a short one tells
 * little. */
static int sample_b0(struct ablation *a, uint64_t *ns, uint64_t *stall_ns, struct err *err) {
    enum { MOST = 5, ENOUGH_NS = 500000000 };
    *ns = *stall_ns = 0;
    for (int i = 0; i < MOST && *ns < ENOUGH_NS; i++) {
        struct sample s;
        int status = run_row(a, B0, &s, err);
        if (status != 0) {
            return status;
        }
        *ns += s.ns;
        *stall_ns += s.s.stall_ns;
    }
    return 0;
}

/* Search the rate at which B0 waits the share of its time that --stall asks for. Of the rates
 * tried, the one that came nearest stays. Stall divided by computing is A + B / rate, where A is
 * the waiting that does not depend on the rate. Two tries give A and B, and so a guess; where that
 * lies outside of the interval that is left, the interval is halved. */
static int choose_throttle(struct ablation *a, struct err *err) {
    enum { STEPS = 8 };
    const double want = a->o->stall / 100, want_ratio = want / (1 - want);
    double slow = 1e7, fast = 1e11, rate = sqrt(slow * fast), last_rate = 0, last_ratio = 0;
    double nearest = rate, nearest_off = 1;
    for (int i = 0; i < STEPS && nearest_off >= 0.02; i++) {
        uint64_t ns, stall_ns;
        a->base.throttle_bytes_per_s = rate;
        int status = sample_b0(a, &ns, &stall_ns, err);
        if (status != 0) {
            return status;
        }
        double stall = part(stall_ns, ns), ratio = stall / (1 - stall);
        if (fabs(stall - want) < nearest_off) {
            nearest_off = fabs(stall - want);
            nearest = rate;
        }
        *(stall > want ? &slow : &fast) = rate;
        double guess = rate * ratio / want_ratio; /* as if all waiting were for the link */
        if (last_rate > 0) {
            double per_rate = (ratio - last_ratio) / (1 / rate - 1 / last_rate);
            guess = per_rate / (want_ratio - (ratio - per_rate / rate));
        }
        last_rate = rate;
        last_ratio = ratio;
        rate = guess > slow && guess < fast ? guess : sqrt(slow * fast);
    }
    a->base.throttle_bytes_per_s = nearest;
    return 0;
}

/* Measure what lossy rows lose, in nats per token of the text. */
static int measure_loss(struct ablation *a, struct err *err) {
    double nats[2];
    for (int lossy = 0; lossy < 2; lossy++) {
        struct bench_options own = *a->o;
        struct cli_call call = *a->call;
        call.values = &own;
        own.run.loss = lossy ? LOSS : 0;
        own.run.quiet = true;
        own.run.ram = NULL;
        int status = run_score(&call, own.file, &nats[lossy], err);
        if (status != 0) {
            return status;
        }
    }
    a->loss_nats = nats[1] - nats[0];
    return 0;
}

/* Check that exact rows of one archive give the same bits: else the switches change more than
 * speed. */
static int check_same(const struct ablation *a, struct err *err) {
    uint64_t first[2] = {0}; /* by archive; hashes are not 0 */
    for (size_t i = 0; i < N_ROWS; i++) {
        bool exact = !ROWS[i].lossy && !ROWS[i].by_cpu;
        for (int rep = 0; a->on[i] && exact && rep < a->o->reps; rep++) {
            uint64_t hash = a->samples[i][rep].s.logits_hash, *want = &first[ROWS[i].other];
            *want = *want ? *want : hash;
            if (hash != *want) {
                return err_set(err, "row '%s' computes other logits than the rows before it",
                               ROWS[i].name);
            }
        }
    }
    return 0;
}

/* Measure the rate of the disk, read in one way, with as many threads as the engine has for that,
 * but at least as many as a disk likes. */
static int read_disk(const struct ablation *a, bool direct, double *bytes_per_s, struct err *err) {
    uint32_t threads = a->base.io_threads > 4 ? a->base.io_threads : 4;
    return bench_io_rate(a->call->args.items[0], direct, 1 << 20, threads, 0.5, bytes_per_s, err);
}

/* Choose the way in which all rows read the disk, and measure its rate. */
static int device_rate(struct ablation *a, struct err *err) {
    if (a->base.throttle_bytes_per_s > 0) {
        a->device_bytes_per_s = a->base.throttle_bytes_per_s;
        return 0;
    }
    struct err refused = {0};
    a->direct = read_disk(a, true, &a->device_bytes_per_s, &refused) == 0;
    if (a->base.reading == CORM_READ_AUTO) {
        a->base.reading = a->direct ? CORM_READ_DIRECT : CORM_READ_PASSING;
    }
    return a->direct ? 0 : read_disk(a, false, &a->device_bytes_per_s, err);
}

/* Measure the rate once more and keep the best, where measuring leaves the page cache alone, from
 * which resident rows run. */
static int device_rate_again(struct ablation *a, struct err *err) {
    double rate = 0;
    if (!a->direct) {
        return 0;
    }
    int status = read_disk(a, true, &rate, err);
    a->device_bytes_per_s = fmax(a->device_bytes_per_s, rate);
    return status;
}

static int run_rows(struct ablation *a, struct progress *progress, struct err *err) {
    uint64_t done = 0;
    int status = 0;
    for (int rep = 0; rep < a->o->reps; rep++) {
        for (size_t i = 0; i < N_ROWS && status == 0; i++) {
            if (!a->on[i]) {
                continue;
            }
            status = run_row(a, i, &a->samples[i][rep], err);
            /* The archive lacks the loss level, or cannot be kept packed: do without the row. */
            if (status == -1 && !a->opened && (ROWS[i].lossy || ROWS[i].packed) && rep == 0) {
                if (!a->o->run.quiet) {
                    fprintf(stderr, "without the row '%s': %s\n", ROWS[i].name, err->msg);
                }
                a->on[i] = false;
                status = 0;
                *err = (struct err){0};
            }
            progress_update(progress, ++done);
        }
        if (status == 0) {
            status = device_rate_again(a, err);
        }
    }
    return status;
}

/* Refuse a model without experts. */
static int check_experts(const char *path, struct err *err) {
    struct corm archive;
    if (corm_open(&archive, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    uint32_t n = archive.n_records;
    corm_close(&archive);
    return n > 0 ? 0
                 : err_set(err, "%s: has no experts, so that there is nothing to compare", path);
}

static bool on_a_device(const struct bench_options *o) {
    return o->run.device && strcmp(o->run.device, "cpu") != 0 && strcmp(o->run.device, "auto") != 0;
}

int bench_ablation(const struct cli_call *call, struct err *err) {
    struct ablation a = {.call = call, .o = call->values};
    const struct bench_options *o = a.o;
    struct progress_terminal terminal;
    struct progress *progress = progress_terminal_init(&terminal, stderr, o->run.quiet);
    int status = bench_measure(o, &a.base, err);
    /* The disk that a throttle stands for writes to memory by itself. */
    if (status == 0 && (o->throttle > 0 || o->stall > 0) && o->run.reading == CORM_READ_AUTO) {
        a.base.reading = CORM_READ_MAPPED;
    }
    if (status == 0 && o->decode_tokens == 0) {
        err_set(err, "nothing to do: --decode-tokens is 0");
        status = CLI_USAGE;
    }
    if (status == 0 && (o->run.keep != CORM_KEEP_AUTO || o->run.missed != CORM_MISSED_FIT)) {
        err_set(err, "--keep and --missed do not go with --ablation: its rows choose");
        status = CLI_USAGE;
    }
    if (status == 0) {
        status = check_experts(call->args.items[0], err);
    }
    uint64_t n_on = 0;
    for (size_t i = 0; i < N_ROWS; i++) {
        a.on[i] = (!ROWS[i].other || o->other) && (!ROWS[i].by_cpu || on_a_device(o)) &&
                  !(ROWS[i].packed && on_a_device(o));
        n_on += a.on[i];
        a.samples[i] = mem_calloc((size_t)o->reps, sizeof *a.samples[i]);
    }
    run_catch_interrupt();
    if (status == 0 && o->stall > 0) {
        status = choose_throttle(&a, err);
    }
    if (status == 0) {
        status = device_rate(&a, err);
    }
    if (status == 0) {
        progress_start(progress, "ablation", n_on * (uint64_t)o->reps, PROGRESS_ITEMS);
        status = run_rows(&a, progress, err);
        progress_finish(progress);
    }
    if (status == 0) {
        status = check_same(&a, err);
    }
    if (status == 0 && o->file && a.on[APPROXIMATE]) {
        status = measure_loss(&a, err);
    }
    if (status == 0) {
        struct figures f[N_ROWS] = {0};
        compute_figures(&a, f);
        (o->run.json ? print_json : print_table)(&a, f);
    }
    for (size_t i = 0; i < N_ROWS; i++) {
        free(a.samples[i]);
    }
    return status;
}
