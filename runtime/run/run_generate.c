/*
 * run_generate: corm-run's main command. A prompt goes in, its continuation comes out as it is
 * made.
 *
 * Owns: the command's options, the prompt, how tokens are sampled, the loop, where it ends, and
 * what is printed.
 * Leaves to others: all that run.h lists; choosing a token (the session).
 * Threads: the main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/run/run.h"

struct generate_options {
    struct run_writing writing;
    struct run_prompt_options prompt;
    const char *session; /* file; NULL = none */
    /* generation */
    bool ignore_eos;
    /* text */
    bool echo, show_special, raw;
    bool json_events;
};

enum end { END_NONE, END_STOP_TOKEN, END_GRAMMAR, END_MAX_TOKENS, END_CONTEXT, END_INTERRUPT };
static const char *const end_names[] = {"none",       "stop_token", "grammar",
                                        "max_tokens", "context",    "interrupt"};

struct generation {
    struct run run;
    const struct generate_options *o;
    struct run_prompt prompt; /* of this call: behind what a session file has */
    bool goes_on;             /* there is a session file */
    struct corm_sampling sampling;
    struct run_form form;
    struct buf text; /* what was generated, for --json */
    bool shows;      /* standard output is a terminal, which the text must not drive */
    struct buf shown;
    char last;       /* last byte printed, 0 = none */
    uint64_t tokens; /* generated */
    int32_t pending; /* the last of them where it was not evaluated, else -1 */
    enum end end;
    struct corm_stats after_prompt;
};

/* -- input ---------------------------------------------------------------------------------- */

/* Whether there is a session to go on with, to *goes_on. */
static int find_session(const struct cli_call *call, bool *goes_on, struct err *err) {
    const struct generate_options *o = call->values;
    if (!o->session) {
        return 0;
    }
    if (o->prompt.chat) {
        err_set(err, "--session and --chat exclude each other");
        return CLI_USAGE;
    }
    int exists = file_exists(o->session, err);
    *goes_on = exists > 0;
    return exists < 0 ? -1 : 0;
}

static int read_form(const struct cli_call *call, struct run_form *form, struct err *err) {
    const struct generate_options *o = call->values;
    int status = run_form_read(form, &o->writing.form, err);
    if (status == 0 && form->given && o->ignore_eos) {
        err_set(err, "--ignore-eos is not for a text with a grammar or schema, which has its end");
        return CLI_USAGE;
    }
    return status;
}

/* -- the session's file --------------------------------------------------------------------- */

/* The session as the file has it. Its tokens go through the text stream, because how a token reads
 * may depend on the one before. Where it has no logits, its last token is evaluated again. */
static int load_session(struct generation *g, struct err *err) {
    struct run *r = &g->run;
    struct corm_error error;
    const char *text;
    size_t n, bytes;
    if (!g->goes_on) {
        return 0;
    }
    if (corm_session_load(r->session, g->o->session, &error) < 0) {
        return run_fail(err, &error);
    }
    const int32_t *ids = corm_session_ids(r->session, &n);
    for (size_t i = 0; i < n; i++) {
        if (corm_session_text(r->session, ids[i], !g->o->show_special, &text, &bytes, &error) < 0) {
            return run_fail(err, &error);
        }
    }
    if (corm_session_held(r->session) < n && !r->o->quiet) {
        char *name = text_cleaned(g->o->session);
        fprintf(stderr, "corm-run: %s was computed in another way: its %zu tokens are read again\n",
                name, n);
        free(name);
    }
    if (n > 0 && !corm_session_logits(r->session)) {
        const int32_t last = ids[n - 1];
        corm_session_truncate(r->session, (uint32_t)n - 1);
        if (corm_session_eval(r->session, &last, 1, false, NULL, &error) < 0) {
            return run_fail(err, &error);
        }
    }
    return 0;
}

/* What was said last may not have been evaluated: a file has all of it, as far as the context
 * holds it. */
static int save_session(struct generation *g, struct err *err) {
    struct run *r = &g->run;
    struct corm_error error;
    if (!g->o->session || (g->end == END_INTERRUPT && g->tokens == 0)) {
        return 0;
    }
    if (g->pending >= 0 && corm_session_length(r->session) < r->info->ctx_tok &&
        corm_session_eval(r->session, &g->pending, 1, false, NULL, &error) < 0) {
        return run_fail(err, &error);
    }
    return corm_session_save(r->session, g->o->session, &error) < 0 ? run_fail(err, &error) : 0;
}

/* -- output --------------------------------------------------------------------------------- */

/* With --json-events: a line of its own. `id` is negative for text that is no token's. */
static int put_event(const struct generation *g, int32_t id, const char *text, size_t bytes,
                     struct err *err) {
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "event", id < 0 ? "text" : "token");
    if (id >= 0) {
        run_json_u64(&j, "index", g->tokens - 1);
        run_json_u64(&j, "id", (uint64_t)id);
    }
    run_json_text(&j, "text", text, bytes);
    run_json_close(&j, '}');
    int rc = printf("%s\n", j.text.data) < 0 || fflush(stdout) != 0
                 ? err_errno(err, errno, "cannot write to standard output")
                 : 0;
    buf_free(&j.text);
    return rc;
}

static int put_text(struct generation *g, const char *text, size_t bytes, struct err *err) {
    if (bytes == 0) {
        return 0;
    }
    g->last = text[bytes - 1];
    if (g->run.o->json) {
        buf_append(&g->text, text, bytes);
        return 0;
    }
    if (g->shows) {
        g->shown.len = 0;
        buf_show(&g->shown, text, bytes);
        text = g->shown.data;
        bytes = g->shown.len;
    }
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0) {
        return err_errno(err, errno, "cannot write to standard output");
    }
    return 0;
}

/* Push `id` into the stream of text, and print the text that it makes certain where `print` says
 * so. *over: it was generated, and nothing may follow. */
static int put_token(struct generation *g, int32_t id, bool print, bool *over, struct err *err) {
    const char *text;
    size_t bytes;
    struct corm_error error;
    if (corm_session_text(g->run.session, id, !g->o->show_special, &text, &bytes, &error) < 0) {
        run_fail(err, &error);
        return err_prefix(err, "token %" PRId32 " cannot be turned into text", id);
    }
    if (g->tokens > 0 && run_form_accept(&g->form, id, text, bytes, over, err) < 0) {
        return -1;
    }
    if (print && g->o->json_events && put_event(g, g->tokens > 0 ? id : -1, text, bytes, err) < 0) {
        return -1;
    }
    return print ? put_text(g, text, bytes, err) : 0;
}

static int put_end(struct generation *g, struct err *err) {
    const char *text;
    size_t bytes;
    struct corm_error error;
    if (corm_session_text_end(g->run.session, &text, &bytes, &error) < 0) {
        run_fail(err, &error);
        return err_prefix(err, "the last tokens cannot be turned into text");
    }
    if ((bytes > 0 && g->o->json_events && put_event(g, -1, text, bytes, err) < 0) ||
        put_text(g, text, bytes, err) < 0) {
        return -1;
    }
    bool newline = !g->run.o->json && (g->end == END_INTERRUPT || (g->last && g->last != '\n'));
    return newline ? put_text(g, "\n", 1, err) : 0;
}

static void report(struct generation *g) {
    const struct run *r = &g->run;
    struct corm_stats end = run_stats(r);
    if (g->end == END_CONTEXT && !r->o->quiet) {
        fprintf(stderr,
                "corm-run: the context of %u tokens is full; --ctx-size N makes it larger\n",
                r->info->ctx_tok);
    }
    if (g->end == END_MAX_TOKENS && g->tokens > 0 && !r->o->quiet) {
        fprintf(stderr, "corm-run: cut after %" PRIu64 " tokens; -n N is for more, -n -1 for all\n",
                g->tokens);
    }
    struct run_json j;
    bool json = run_report_begin(r, &g->after_prompt, &end, &j);
    if (r->o->stats) {
        run_sampling_print(&g->sampling);
    }
    if (json) {
        run_json_text(&j, "text", g->text.len ? g->text.data : "", g->text.len);
        run_json_string(&j, "ended_by", end_names[g->end]);
        run_json_u64(&j, "prompt_tokens", g->prompt.ids.n);
        run_json_u64(&j, "generated_tokens", g->tokens);
        run_json_u64(&j, "session_tokens", corm_session_length(r->session));
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
    bool over;
    for (size_t i = 0; i < g->prompt.ids.n; i++) {
        if (put_token(g, g->prompt.ids.ids[i], g->o->echo, &over, err) < 0) {
            return -1;
        }
    }
    bool lengthy = g->prompt.ids.n > r->info->batch_rows;
    struct progress *progress = lengthy ? r->progress : NULL;
    progress_start(progress, "reading the prompt", g->prompt.ids.n, PROGRESS_TOKENS);
    int status = run_eval(r, g->prompt.ids.ids, g->prompt.ids.n, progress, err);
    progress_finish(progress);
    if (status == RUN_INTERRUPTED) {
        g->end = END_INTERRUPT;
        status = 0;
    }
    g->after_prompt = run_stats(r);
    return status;
}

static enum end next_end(const struct generation *g) {
    if (g->o->writing.max_tokens >= 0 && g->tokens >= (uint64_t)g->o->writing.max_tokens) {
        return END_MAX_TOKENS;
    }
    return run_interrupted() ? END_INTERRUPT : END_NONE;
}

/* Tokens that may still be made; that which fills the context is not evaluated. */
static uint64_t tokens_left(const struct generation *g) {
    const struct run *r = &g->run;
    const int most = g->o->writing.max_tokens;
    uint64_t room = r->info->ctx_tok - corm_session_length(r->session) + 1;
    return most >= 0 && (uint64_t)most - g->tokens < room ? (uint64_t)most - g->tokens : room;
}

static int generate(struct generation *g, struct err *err) {
    struct run *r = &g->run;
    for (;;) {
        if ((g->end = next_end(g)) != END_NONE) {
            return 0;
        }
        int32_t id;
        bool over = false;
        if (run_form_allow(&g->form, tokens_left(g), &g->sampling, err) < 0 ||
            run_sample(r, &g->sampling, &id, err) < 0) {
            return -1;
        }
        if (corm_is_stop(r->engine, id) && !g->o->ignore_eos) {
            g->end = END_STOP_TOKEN;
            return 0;
        }
        g->tokens++;
        g->pending = id;
        if (put_token(g, id, true, &over, err) < 0) {
            return -1;
        }
        if (over) {
            g->end = END_GRAMMAR;
            return 0;
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
        g->pending = status == RUN_INTERRUPTED ? id : -1;
    }
}

/* On a terminal, without anything to continue. */
static bool wants_talk(const struct cli_call *call) {
    const struct generate_options *o = call->values;
    return call->args.count == 1 && !cli_given(call, "prompt") && !cli_given(call, "file") &&
           !o->session && !o->writing.run.json && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

static int run(const struct cli_call *call, struct err *err) {
    struct generation g = {.o = call->values, .pending = -1};
    if (g.o->json_events) {
        ((struct generate_options *)call->values)->writing.run.json = true; /* its object is last */
    }
    if (wants_talk(call)) {
        return run_chat_instead(call, err);
    }
    g.shows = isatty(STDOUT_FILENO) && !g.o->raw;
    int status = find_session(call, &g.goes_on, err);
    if (status == 0) {
        status = read_form(call, &g.form, err);
    }
    if (status == 0) {
        status = run_prompt_open(&g.prompt, &g.o->prompt, call, g.goes_on, err);
    }
    if (status == 0) {
        run_prompt_plan(&g.prompt, &g.run);
        g.run.wish.on_part = run_remove_at_end;
        g.run.wish.caller_bytes += g.form.given ? RUN_FORM_BYTES : 0;
        status = run_open(&g.run, call, (uint32_t)g.o->writing.ctx, err);
    }
    if (status == 0) {
        status = run_form_open(&g.form, g.run.engine, err);
    }
    if (status == 0) {
        status = load_session(&g, err);
    }
    if (status == 0) {
        status = run_prompt_take(&g.prompt, &g.run, &g.form, err);
    }
    if (status == 0) {
        status = run_sampling_set(call, g.run.engine, &g.sampling, err);
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
        status = save_session(&g, err);
    }
    if (status == 0) {
        report(&g);
        status = g.end == END_INTERRUPT ? RUN_INTERRUPTED : 0;
    }
    run_form_close(&g.form);
    run_close(&g.run);
    run_prompt_close(&g.prompt);
    buf_free(&g.text);
    buf_free(&g.shown);
    return status;
}

/* -- the command ---------------------------------------------------------------------------- */

#define FIELD(member) CLI_FIELD(struct generate_options, member)

static const struct cli_option prompt_rows[] = {
    {"prompt", 'p', CLI_STRING, FIELD(prompt.prompt), "TEXT",
     .help = "The text to continue, in place of the argument TEXT; - reads standard input."},
    {"file", 'f', CLI_STRING, FIELD(prompt.file), "FILE",
     .help = "Take the prompt from a file. One newline at its end does not count."},
    {"no-bos", 0, CLI_FLAG, FIELD(prompt.no_bos),
     .help = "Do not add the tokens that the tokenizer puts around a text (mostly BOS, at its "
             "beginning)."},
    {"no-special", 0, CLI_FLAG, FIELD(prompt.no_special),
     .help = "Special tokens that are written out in the prompt, such as <|im_end|>, are plain "
             "text: for text of unknown origin."},
    {"chat", 0, CLI_FLAG, FIELD(prompt.chat),
     .help = "The prompt is a user's message to a model that was trained to answer: the chat "
             "template is applied to it. Special tokens that are written out in it are text."},
    {"system", 0, CLI_STRING, FIELD(writing.system), "TEXT",
     .help = "With --chat: the system message, before the user's.", .also = "system-prompt"},
    {"chat-template", 0, CLI_STRING, FIELD(writing.chat_template), "NAME",
     .help = "With --chat: another of the archive's chat templates by its name, else a file with a "
             "Jinja template.",
     .also = "chat-template-file"},
    {"session", 0, CLI_STRING, FIELD(session), "FILE",
     .help =
         "Keep the sequence in a file: where it exists, the prompt goes on behind what it holds, "
         "without computing that again (and may be left out); at the end it is replaced. It "
         "belongs to one archive. The same text as in one go, where the seed is the same."},
    {"ctx-size", 'c', CLI_INT, FIELD(writing.ctx), "N",
     "Context: prompt and generated tokens together. Its KV cache is part of the memory plan. More "
     "than the model was trained for is allowed, with a remark. A model with rotary factors for "
     "short and for long contexts (LongRoPE) uses those that N asks for.",
     .min = 1, .max = 1 << 20, .fallback = "the model's own, at most 4096",
     .also = "ctx n-ctx max-model-len"},
    {0},
};

static const struct cli_option generate_rows[] = {
    {"max-tokens", 'n', CLI_INT, FIELD(writing.max_tokens), "N",
     "Most tokens to generate; 0 only reads the prompt, -1 goes on until the model stops or the "
     "context is full.",
     .min = -1, .max = 1 << 30, .also = "predict n-predict max-new-tokens"},
    {"ignore-eos", 0, CLI_FLAG, FIELD(ignore_eos), .help = "Go on after a token that ends a text."},
    {0},
};

static const struct cli_option text_rows[] = {
    {"echo", 0, CLI_FLAG, FIELD(echo), .help = "Print the prompt before its continuation."},
    {"show-special", 0, CLI_FLAG, FIELD(show_special), .help = "Print special tokens too.",
     .also = "special"},
    {"json-events", 0, CLI_FLAG, FIELD(json_events),
     .help =
         "Print a line with a JSON object for each token, as it is made: its index, its id, and "
         "the text that became certain with it (perhaps none). The object of --json is the last "
         "line. Lines with the event text have text that is no token's: an echoed prompt, or "
         "what was held back till the end."},
    {"raw", 0, CLI_FLAG, FIELD(raw),
     .help = "Send control characters of the text to a terminal as they are: it may obey them. "
             "Without --raw it shows them (^[ for ESC). Pipes and files always get the text as it "
             "is."},
    {0},
};

static const struct cli_group prompt = {"Prompt", prompt_rows};
static const struct cli_group generation = {"Generation", generate_rows};
static const struct cli_group text = {"Text", text_rows};

static void set_defaults(void *values) {
    run_defaults(values);
    ((struct generate_options *)values)->writing.max_tokens = 128;
}

const struct cli_command run_generate_command = {
    "generate",
    "continue a text; runs where no command is named",
    run,
    .args = "MODEL.corm [TEXT]",
    .min_args = 1,
    .max_args = 2,
    .groups = {&prompt, &generation, &run_sampling_group, &run_form_group, &text,
               &run_machine_group, &run_figures_group},
    .values_bytes = sizeof(struct generate_options),
    .defaults = set_defaults,
    .description = "Reads the prompt, then prints the continuation as it is made. It ends when "
                   "the model ends the text, after -n tokens, or when the context is full. Ctrl-C "
                   "ends it after the token in work; a second Ctrl-C kills. Without a prompt it "
                   "reads one from standard input; on a terminal it is corm-run chat.\n"
                   "Tokens are chosen so: repeat penalty, then the filters top-k, top-p and min-p "
                   "(at temperature 1), then one is drawn at the temperature. What is not given "
                   "is as the model's publisher suggests.\n"
                   "Text goes to standard output, all else to standard error.",
    .examples = "corm-run model.corm \"Once upon a time\"\n"
                "corm-run model.corm -p \"Once upon a time\" -n 200\n"
                "#The likeliest text, always the same:\n"
                "corm-run model.corm -p \"Once upon a time\" --temp 0\n"
                "#In 4 GiB, with figures at the end:\n"
                "corm-run model.corm -f prompt.txt --ram 4G --stats\n"
                "#In two parts, the second where the first one ended:\n"
                "corm-run model.corm -p \"Once upon a time\" -n 50 --session tale.session\n"
                "corm-run model.corm -n 50 --session tale.session\n"
                "#JSON of a form:\n"
                "corm-run model.corm -p \"Tim is\" --json-schema '{\"type\": \"object\", "
                "\"properties\": {\"age\": {\"type\": \"integer\"}}}'\n"
                "#From another program:\n"
                "echo \"Dear\" | corm-run model.corm -p - --json --quiet\n"};
