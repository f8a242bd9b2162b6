/*
 * run_generate: corm-run's main command. A prompt goes in, its continuation comes out as it is
 * made.
 *
 * Owns: the prompt, the sampling options, the loop, where it ends, and what is printed.
 * Leaves to others: all that run.h lists; choosing a token (the session).
 * Threads: the main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "runtime/run/run.h"

enum end { END_NONE, END_STOP_TOKEN, END_MAX_TOKENS, END_CONTEXT, END_INTERRUPT };
static const char *const end_names[] = {"none", "stop_token", "max_tokens", "context", "interrupt"};

struct generation {
    struct run run;
    struct run_ids prompt;
    struct corm_sampling sampling;
    struct buf text; /* what was generated, for --json */
    char last;       /* last byte printed, 0 = none */
    uint64_t tokens; /* generated */
    enum end end;
    struct corm_stats after_prompt;
};

/* -- input ---------------------------------------------------------------------------------- */

static int read_prompt(const struct cli_call *call, struct buf *text, struct err *err) {
    const struct run_options *o = call->values;
    bool given = cli_given(call, "prompt");
    if (given == cli_given(call, "file")) {
        err_set(err,
                given ? "-p and -f exclude each other" : "a prompt is missing: -p TEXT or -f FILE");
        return CLI_USAGE;
    }
    if (given && strcmp(o->prompt, "-") != 0) {
        buf_append(text, o->prompt, strlen(o->prompt));
        return 0;
    }
    if (run_read(given ? "-" : o->file, text, err) < 0) {
        return -1;
    }
    if (text->len > 0 && text->data[text->len - 1] == '\n') {
        text->len--; /* the newline that ends a file, not the prompt */
    }
    return 0;
}

/* What to do about a context that is too small. */
static const char *larger_ctx(const struct corm_model_info *info) {
    return info->ctx_max_tok == 0 || info->ctx_tok < info->ctx_max_tok
               ? "; --ctx N makes it larger"
               : ", the most that the model was made for";
}

static int take_prompt(struct generation *g, const struct buf *text, struct err *err) {
    const struct run *r = &g->run;
    if (run_tokenize(r, text, !r->o->no_bos, &g->prompt, err) < 0) {
        return -1;
    }
    if (g->prompt.n == 0) {
        return err_set(err,
                       "the prompt is empty, and the model's tokenizer begins no text by itself");
    }
    if (g->prompt.n > r->info->ctx_tok) {
        return err_set(err, "the prompt has %zu tokens, the context holds %u%s", g->prompt.n,
                       r->info->ctx_tok, larger_ctx(r->info));
    }
    return 0;
}

/* The publisher's suggestions, and over them what the user said. */
static int set_sampling(struct generation *g, struct err *err) {
    const struct cli_call *call = g->run.call;
    const struct run_options *o = g->run.o;
    struct corm_sampling *s = &g->sampling;
    *s = corm_sampling_defaults(g->run.engine);
    if (cli_given(call, "temp")) {
        s->temperature = (float)o->temp;
    }
    if (cli_given(call, "top-k")) {
        s->top_k = (uint32_t)o->top_k;
    }
    if (cli_given(call, "top-p")) {
        s->top_p = (float)o->top_p;
    }
    if (cli_given(call, "min-p")) {
        s->min_p = (float)o->min_p;
    }
    if (cli_given(call, "repeat-penalty")) {
        s->repeat_penalty = (float)o->repeat_penalty;
    }
    if (cli_given(call, "repeat-last")) {
        s->repeat_last_tok = (uint32_t)o->repeat_last;
    }
    s->seed = o->seed;
    if (!cli_given(call, "seed")) {
        uint32_t fresh; /* short enough to be typed again */
        if (getrandom(&fresh, sizeof fresh, 0) != sizeof fresh) {
            return err_errno(err, errno, "no random seed to be had; give one with --seed");
        }
        s->seed = fresh;
    }
    return 0;
}

/* -- output --------------------------------------------------------------------------------- */

static int put_text(struct generation *g, const char *text, size_t bytes, struct err *err) {
    if (bytes == 0) {
        return 0;
    }
    g->last = text[bytes - 1];
    if (g->run.o->json) {
        buf_append(&g->text, text, bytes);
        return 0;
    }
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0) {
        return err_errno(err, errno, "cannot write to standard output");
    }
    return 0;
}

/* The text that `id` makes certain; printed where `print`. */
static int put_token(struct generation *g, int32_t id, bool print, struct err *err) {
    const char *text;
    size_t bytes;
    if (corm_session_text(g->run.session, id, !g->run.o->show_special, &text, &bytes) < 0) {
        return err_set(err, "token %" PRId32 " cannot be turned into text", id);
    }
    return print ? put_text(g, text, bytes, err) : 0;
}

static int put_end(struct generation *g, struct err *err) {
    const char *text;
    size_t bytes;
    if (corm_session_text_end(g->run.session, &text, &bytes) < 0) {
        return err_set(err, "the last tokens cannot be turned into text");
    }
    if (put_text(g, text, bytes, err) < 0) {
        return -1;
    }
    bool newline = !g->run.o->json && (g->end == END_INTERRUPT || (g->last && g->last != '\n'));
    return newline ? put_text(g, "\n", 1, err) : 0;
}

static void report(struct generation *g) {
    const struct run *r = &g->run;
    struct corm_stats end = run_stats(r);
    if (g->end == END_CONTEXT && !r->o->quiet) {
        fprintf(stderr, "corm-run: the context of %u tokens is full%s\n", r->info->ctx_tok,
                larger_ctx(r->info));
    }
    struct run_json j;
    bool json = run_report_begin(r, &g->after_prompt, &end, &j);
    if (r->o->stats) {
        fprintf(stderr, "sampling --seed %" PRIu64 " --temp %g --top-k %u --top-p %g --min-p %g",
                g->sampling.seed, g->sampling.temperature, g->sampling.top_k, g->sampling.top_p,
                g->sampling.min_p);
        fprintf(stderr, " --repeat-penalty %g --repeat-last %u\n", g->sampling.repeat_penalty,
                g->sampling.repeat_last_tok);
    }
    if (json) {
        run_json_text(&j, "text", g->text.len ? g->text.data : "", g->text.len);
        run_json_string(&j, "ended_by", end_names[g->end]);
        run_json_u64(&j, "prompt_tokens", g->prompt.n);
        run_json_u64(&j, "generated_tokens", g->tokens);
        run_json_u64(&j, "seed", g->sampling.seed);
        run_json_f32(&j, "temperature", g->sampling.temperature);
        run_json_u64(&j, "top_k", g->sampling.top_k);
        run_json_f32(&j, "top_p", g->sampling.top_p);
        run_json_f32(&j, "min_p", g->sampling.min_p);
        run_json_f32(&j, "repeat_penalty", g->sampling.repeat_penalty);
        run_json_u64(&j, "repeat_last", g->sampling.repeat_last_tok);
        run_stats_json(&j, &g->after_prompt, &end);
        run_json_print(&j);
    }
}

/* -- the loop ------------------------------------------------------------------------------- */

/* The prompt goes through the text stream too, printed or not: how a token reads may depend on the
 * one before (a leading blank, an unfinished character). */
static int eval_prompt(struct generation *g, struct err *err) {
    struct run *r = &g->run;
    for (size_t i = 0; i < g->prompt.n; i++) {
        if (put_token(g, g->prompt.ids[i], r->o->echo, err) < 0) {
            return -1;
        }
    }
    bool lengthy = g->prompt.n > r->info->batch_rows;
    struct progress *progress = lengthy ? r->progress : NULL;
    progress_start(progress, "reading the prompt", g->prompt.n, PROGRESS_TOKENS);
    int status = run_eval(r, g->prompt.ids, g->prompt.n, progress, err);
    progress_finish(progress);
    if (status == RUN_INTERRUPTED) {
        g->end = END_INTERRUPT;
        status = 0;
    }
    g->after_prompt = run_stats(r);
    return status;
}

static enum end next_end(const struct generation *g) {
    const struct run_options *o = g->run.o;
    if (o->max_tokens >= 0 && g->tokens >= (uint64_t)o->max_tokens) {
        return END_MAX_TOKENS;
    }
    return run_interrupted() ? END_INTERRUPT : END_NONE;
}

static int generate(struct generation *g, struct err *err) {
    struct run *r = &g->run;
    for (;;) {
        if ((g->end = next_end(g)) != END_NONE) {
            return 0;
        }
        int32_t id = corm_session_sample(r->session, &g->sampling);
        if (id < 0) {
            return err_set(err,
                           "no token to choose: the logits of token %" PRIu32 " are not finite",
                           corm_session_length(r->session));
        }
        if (corm_is_stop(r->engine, id) && !r->o->ignore_eos) {
            g->end = END_STOP_TOKEN;
            return 0;
        }
        g->tokens++;
        if (put_token(g, id, true, err) < 0) {
            return -1;
        }
        if ((g->end = next_end(g)) != END_NONE) {
            return 0; /* the last token need not be evaluated */
        }
        if (corm_session_length(r->session) == r->info->ctx_tok) {
            g->end = END_CONTEXT;
            return 0;
        }
        int status = run_eval(r, &id, 1, NULL, err);
        if (status < 0) {
            return -1;
        }
    }
}

int run_generate(const struct cli_call *call, struct err *err) {
    const struct run_options *o = call->values;
    struct generation g = {0};
    struct buf text = {0};
    int status = read_prompt(call, &text, err);
    if (status == 0) {
        status = run_open(&g.run, call, (uint32_t)o->ctx, err);
    }
    if (status == 0) {
        status = take_prompt(&g, &text, err);
    }
    if (status == 0) {
        status = set_sampling(&g, err);
    }
    if (status == 0) {
        run_catch_interrupt();
        status = eval_prompt(&g, err);
    }
    if (status == 0 && g.end == END_NONE) {
        status = generate(&g, err);
    }
    if (status == 0) {
        status = put_end(&g, err);
    }
    if (status == 0) {
        report(&g);
        status = g.end == END_INTERRUPT ? RUN_INTERRUPTED : 0;
    }
    run_close(&g.run);
    free(g.prompt.ids);
    buf_free(&g.text);
    buf_free(&text);
    return status;
}
