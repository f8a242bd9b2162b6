/*
 * run_perplexity: how well the model foresees a text.
 *
 * Owns: the command's options, the windows, which tokens are scored, the negative log-likelihood
 * (in double), the report. The definition is in the command's --help.
 * Leaves to others: all that run.h lists.
 * Threads: the main thread.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/logits.h"
#include "runtime/run/run.h"

struct perplexity_options {
    struct run_options run;
    const char *file;
    int window, stride, first_tokens; /* --ctx-size, --stride, --tokens */
    bool bos, no_special;
};

/* Tokens [start, end) are in the context, of which [first, end) are scored. */
struct window {
    size_t start, first, end;
};

struct perplexity {
    struct run run;
    const struct perplexity_options *o;
    struct run_text text;
    struct run_tokens tokens; /* of the text, from the window's first on */
    uint64_t text_tok;        /* of the text, so far */
    size_t ctx, stride;
    uint64_t scored;
    double sum, sum_of_squares; /* of the negative log-likelihoods, in nats */
};

/* How many tokens of the text, at most `n`, count. */
static uint64_t capped(const struct perplexity *p, uint64_t n) {
    const uint64_t most = p->o->first_tokens > 0 ? (uint64_t)p->o->first_tokens : UINT64_MAX;
    return n < most ? n : most;
}

/* The window after `w` (all zero: the first). Returns 1; 0 where the text is used up;
 * RUN_INTERRUPTED; or -1. */
static int next_window(struct perplexity *p, struct window *w, struct err *err) {
    struct run_tokens *k = &p->tokens;
    size_t scored = w->end, start = scored ? w->start + p->stride : 0;
    /* A window that is not full is the last one. */
    if (scored && (scored < w->start + p->ctx || scored == capped(p, UINT64_MAX))) {
        return 0;
    }
    run_tokens_drop(k, start - k->dropped);
    size_t wanted = (size_t)(capped(p, start + p->ctx) - start);
    int status = run_tokens_want(k, wanted, err);
    if (status != 0) {
        return status;
    }
    w->start = start;
    w->end = start + (k->n < wanted ? k->n : wanted);
    p->text_tok = w->end;
    if (w->end <= scored) {
        return 0;
    }
    /* The first token of a window has nothing before it that could foresee it. */
    w->first = w->start + 1 > scored ? w->start + 1 : scored;
    return 1;
}

/* Evaluate one window in an empty session and add its scores up. The window's last token is scored
 * but not evaluated: nothing is foreseen from it. */
static int score_window(struct perplexity *p, const struct window *w, struct err *err) {
    struct run *r = &p->run;
    const int32_t *ids = p->tokens.ids; /* of the window */
    const size_t first = w->first - w->start, end = w->end - w->start;
    corm_session_truncate(r->session, 0);
    int status = run_eval(r, ids, first - 1, NULL, err);
    for (size_t at = first - 1; status == 0 && at + 1 < end;) {
        if (run_interrupted()) {
            return RUN_INTERRUPTED;
        }
        size_t left = end - 1 - at, rows = left < r->info->batch_rows ? left : r->info->batch_rows;
        const float *logits;
        struct corm_error error;
        if (corm_session_eval(r->session, ids + at, rows, true, &logits, &error) < 0) {
            return run_fail(err, &error);
        }
        for (size_t i = 0; i < rows; i++, at++) {
            const float *row = logits + i * r->info->vocab;
            double nll = logits_log_sum_exp(row, r->info->vocab) - row[ids[at + 1]];
            if (!isfinite(nll)) {
                return err_set(err, "%s: token %zu of the text: the logits are not finite",
                               r->model, w->start + at + 1);
            }
            p->sum += nll;
            p->sum_of_squares += nll * nll;
            p->scored++;
        }
        progress_update(r->progress, p->scored);
    }
    return status;
}

/* How many tokens will be scored: where the text has not been read to its end, by its length. 0
 * where that is not known either. */
static uint64_t expected(const struct perplexity *p) {
    const struct run_tokens *k = &p->tokens;
    double tok = (double)k->n;
    if (!k->ended && p->text.bytes == UINT64_MAX) {
        return 0;
    }
    if (!k->ended && p->text.read_bytes > 0) {
        tok *= (double)p->text.bytes / (double)p->text.read_bytes;
    }
    uint64_t n = capped(p, (uint64_t)tok);
    return p->stride < p->ctx ? n - 1 : n - (n + p->ctx - 1) / p->ctx;
}

static int score(struct perplexity *p, struct err *err) {
    struct window w = {0};
    run_catch_interrupt();
    int status = run_tokens_open(&p->tokens, &p->run, &p->text, p->o->bos, !p->o->no_special, err);
    int more = status < 0 ? -1 : next_window(p, &w, err);
    if (more == 0 || (more == 1 && w.end < 2)) {
        return err_set(err, "%s: the text has %zu token%s; at least 2 are needed", p->o->file,
                       w.end, w.end == 1 ? "" : "s");
    }
    progress_start(p->run.progress, "perplexity", more == 1 ? expected(p) : 0, PROGRESS_TOKENS);
    while (more == 1) {
        int rc = score_window(p, &w, err);
        more = rc ? rc : next_window(p, &w, err);
    }
    progress_finish(p->run.progress);
    return more;
}

static void report(const struct perplexity *p) {
    const struct run *r = &p->run;
    double n = (double)p->scored, mean = p->sum / n;
    double variance = p->sum_of_squares / n - mean * mean;
    double error = sqrt((variance > 0 ? variance : 0) / n);
    struct corm_stats stats = run_stats(r);
    struct run_json j;
    if (run_report_begin(r, NULL, &stats, &j)) {
        run_json_f64(&j, "perplexity", exp(mean));
        run_json_u64(&j, "tokens", p->scored);
        run_json_f64(&j, "nats_per_token", mean);
        run_json_f64(&j, "nats_per_token_standard_error", error);
        run_json_u64(&j, "text_tokens", p->text_tok);
        run_json_u64(&j, "window", p->ctx);
        run_json_u64(&j, "stride", p->stride);
        run_json_bool(&j, "bos", p->o->bos);
        run_stats_json(&j, NULL, &stats);
        run_json_print(&j);
        return;
    }
    printf("%.5f +- %.5f nats per token; windows of %zu tokens, stride %zu\n", mean, error, p->ctx,
           p->stride);
    printf("perplexity %.5f over %" PRIu64 " tokens\n", exp(mean), p->scored);
}

/* Open the model and score the text; `finish` follows in every case. */
static int measure(struct perplexity *p, const struct cli_call *call, struct err *err) {
    p->o = call->values;
    int status = run_text_open(&p->text, p->o->file, err);
    if (status == 0) {
        p->run.wish.loss_in_batches = true;
        p->run.wish.all_logits = true;
        p->run.wish.text_bytes = p->text.bytes;
        status = run_open(&p->run, call, (uint32_t)p->ctx, err);
    }
    return status == 0 ? score(p, err) : status;
}

static void finish(struct perplexity *p) {
    run_tokens_close(&p->tokens);
    run_text_close(&p->text);
    run_close(&p->run);
}

static int run(const struct cli_call *call, struct err *err) {
    const struct perplexity_options *o = call->values;
    struct perplexity p = {.text.fd = -1, .ctx = (size_t)o->window, .stride = (size_t)o->window};
    if (cli_given(call, "stride")) {
        p.stride = (size_t)o->stride;
    }
    if (!o->file || p.stride > p.ctx) {
        if (!o->file) {
            err_set(err, "a text is missing: -f FILE");
        } else {
            err_set(err, "--stride %zu would leave tokens out: at most the window, %zu", p.stride,
                    p.ctx);
        }
        return CLI_USAGE;
    }
    int status = measure(&p, call, err);
    if (status == 0) {
        report(&p);
    }
    finish(&p);
    return status;
}

static void set_defaults(void *values) {
    run_defaults(values);
    ((struct perplexity_options *)values)->window = 256;
}

int run_score(const struct cli_call *call, const char *file, double *nats_per_tok,
              struct err *err) {
    struct perplexity_options o = {0};
    set_defaults(&o);
    o.run = *(const struct run_options *)call->values;
    o.file = file;
    struct cli_call own = *call;
    own.values = &o;
    struct perplexity p = {.text.fd = -1, .ctx = (size_t)o.window, .stride = (size_t)o.window};
    int status = measure(&p, &own, err);
    *nats_per_tok = status == 0 ? p.sum / (double)p.scored : 0;
    finish(&p);
    return status;
}

#define FIELD(member) CLI_FIELD(struct perplexity_options, member)

static const struct cli_option perplexity_rows[] = {
    {"file", 'f', CLI_STRING, FIELD(file), "FILE",
     .help = "The text, UTF-8; - reads standard input."},
    {"ctx-size", 'c', CLI_INT, FIELD(window), "N", "Tokens of a window.", .min = 2, .max = 1 << 20,
     .also = "ctx"},
    {"stride", 0, CLI_INT, FIELD(stride), "N",
     "How far a window lies after the one before, in tokens.", .min = 1, .max = 1 << 20,
     .fallback = "the window: side by side"},
    {"tokens", 'n', CLI_INT, FIELD(first_tokens), "N", "Use the first N tokens of the text only.",
     .min = 2, .max = 1 << 30, .fallback = "all"},
    {"bos", 0, CLI_FLAG, FIELD(bos),
     .help =
         "Add the tokens that the tokenizer puts around a text (mostly BOS, at its beginning)."},
    {"no-special", 0, CLI_FLAG, FIELD(no_special),
     .help = "Special tokens that are written out in the text are plain text."},
    {0},
};

static const struct cli_group text = {"Text", perplexity_rows};

const struct cli_command run_perplexity_command = {
    "perplexity",
    "measure how well the model predicts a text",
    run,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&text, &run_machine_group, &run_figures_group},
    .values_bytes = sizeof(struct perplexity_options),
    .defaults = set_defaults,
    .description =
        "The text is tokenized as one, without BOS unless --bos, and read in windows of --ctx-size "
        "tokens; each window begins --stride tokens after the one before, with an empty KV cache. "
        "In each window the tokens are scored that no window before had scored, except a window's "
        "first, before which there is nothing: with windows side by side all tokens but the first "
        "of each; with a smaller stride the last --stride ones, each with at least ctx - stride "
        "tokens before it. The last window may be shorter.\n"
        "A token's score is -ln softmax(logits)[token]; perplexity is exp of the mean. The last "
        "line is 'perplexity P over N tokens'. Perplexities compare only with the same tokenizer, "
        "text, window and stride.",
    .examples = "corm-run perplexity model.corm -f text.txt\n"
                "#Slower, with more before each token:\n"
                "corm-run perplexity model.corm -f text.txt --ctx-size 1024 --stride 256\n"};
