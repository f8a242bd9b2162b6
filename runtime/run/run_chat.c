#include "runtime/run/run_chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/run/run_chat_line.h"

/* ---- what is shown -------------------------------------------------------------------------- */

static int show_bytes(struct chat *c, const char *text, size_t bytes, struct err *err) {
    if (bytes && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)) {
        return err_errno(err, errno, "cannot write to standard output");
    }
    c->last = bytes ? text[bytes - 1] : c->last;
    return 0;
}

static int show_text(struct chat *c, const char *text, size_t bytes, struct err *err) {
    if (c->shows) {
        c->shown.len = 0;
        buf_show(&c->shown, text, bytes);
        text = c->shown.data;
        bytes = c->shown.len;
    }
    return show_bytes(c, text, bytes, err);
}

static int show_mark(struct chat *c, const char *terminal, const char *pipe, struct err *err) {
    const char *mark = c->shows ? terminal : pipe;
    return show_bytes(c, mark, strlen(mark), err);
}

/* Thoughts are dim on a terminal, and else between two lines that say so. */
static int dim(struct chat *c, bool on, struct err *err) {
    if (on == c->dimmed) {
        return 0;
    }
    c->dimmed = on;
    if (on) {
        return show_mark(c, "\x1b[2m", "[thinking]\n", err);
    }
    return show_mark(c, "\x1b[22m\n\n", "\n[/thinking]\n", err);
}

/* A struct talk_sink. */
static int put(void *ctx, bool thought, const char *text, size_t bytes, struct err *err) {
    struct chat *c = ctx;
    c->thought = thought;
    if (thought && !c->shows_thinking) {
        return 0;
    }
    return dim(c, thought, err) || show_text(c, text, bytes, err) ? -1 : 0;
}

static void remark(const struct chat *c, const char *text) {
    if (!c->o->run.quiet) {
        fprintf(stderr, "corm-run: %s\n", text);
    }
}

/* What happened to the context, and why an answer ends. */
static void tell(const struct chat *c, const struct talk_turn *turn) {
    char text[256];
    if (turn->left_out) {
        snprintf(
            text, sizeof text,
            "the context of %u tokens is full: the model no longer sees the oldest %zu messages",
            c->run.info->ctx_tok, c->talk.hidden);
        remark(c, text);
    }
    if (turn->end == TALK_CONTEXT) {
        snprintf(
            text, sizeof text,
            "the answer ends here, the context of %u tokens is full; --ctx-size N makes it larger",
            c->run.info->ctx_tok);
        remark(c, text);
    } else if (turn->end == TALK_MAX_TOKENS) {
        remark(c, "the answer ends here, --max-tokens allows no more");
    }
    if (turn->nearly_full && turn->end != TALK_CONTEXT) {
        snprintf(text, sizeof text,
                 "the context is nearly full (%u of %u tokens): soon the model will no longer see "
                 "the oldest messages",
                 corm_session_length(c->run.session), c->run.info->ctx_tok);
        remark(c, text);
    }
}

static void print_figures(const struct talk_turn *turn) {
    struct run_phase prompt = run_phase(&turn->before, &turn->after_prompt);
    struct run_phase answer = run_phase(&turn->after_prompt, &turn->after);
    struct run_phase all = run_phase(&turn->before, &turn->after);
    fprintf(stderr,
            "prompt   %zu tokens, %zu kept, %zu evaluated in %.2f s (%.1f tok/s); answer %zu "
            "tokens, %.1f tok/s; cache %.1f %% hits\n",
            turn->prompt_tok, turn->kept_tok, turn->prompt_tok - turn->kept_tok,
            (double)prompt.ns / 1e9, prompt.tok_per_s, turn->answer_tok, answer.tok_per_s,
            100 * all.hit_share);
}

/* ---- asking --------------------------------------------------------------------------------- */

int chat_answer(struct chat *c, struct err *err) {
    const struct talk_sink sink = {put, c};
    struct talk_turn turn;
    c->last = 0;
    c->dimmed = c->thought = false;
    int rc = talk_answer(&c->talk, &sink, &turn, err);
    if (c->dimmed) { /* the answer ended within a thought */
        dim(c, false, err);
    }
    if (c->last && c->last != '\n') {
        show_bytes(c, "\n", 1, err);
    }
    if (rc < 0) {
        return -1;
    }
    if (c->thought && c->last == 0) {
        remark(c, "the model only thought; --thinking show prints that");
    }
    tell(c, &turn);
    if (c->o->run.stats) {
        print_figures(&turn);
    }
    return 0;
}

int chat_ask_model(struct chat *c, const char *text, struct err *err) {
    size_t before = c->talk.n;
    struct buf message = {0};
    buf_append(&message, c->attached.len ? c->attached.data : "", c->attached.len);
    buf_append(&message, text, strlen(text));
    talk_add(&c->talk, "user", message.data, NULL);
    buf_free(&message);
    if (chat_answer(c, err) < 0) {
        talk_cut(&c->talk, before); /* as if nothing was said */
        return -1;
    }
    c->attached.len = 0;
    return 0;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* One message or command. On a terminal an error is told and the talk goes on. */
static int obey(struct chat *c, const struct buf *line, struct err *err) {
    const char *text = line->len ? line->data : "";
    struct err mine = {0};
    int rc = 0;
    if (strlen(text) != line->len) {
        rc = err_set(&mine, "a message has no NUL in it");
    } else if (text[0] == '/' && text[1] != '/' && !strchr(text, '\n')) {
        rc = chat_command(c, text, &mine);
    } else if (text[strspn(text, " \t\n")]) {
        rc = chat_ask_model(c, text + (text[0] == '/' && text[1] == '/'), &mine);
    }
    if (rc < 0 && c->edits) {
        fprintf(stderr, "corm-run: %s\n", mine.msg);
        return 0;
    }
    return rc < 0 ? err_set(err, "%s", mine.msg) : 0;
}

static int loop(struct chat *c, struct err *err) {
    while (!c->quits) {
        struct buf line = {0};
        run_take_signals(RUN_SIGNAL_STOP); /* it was for an answer */
        int end = chat_line_read(c->line, &line, err), rc = 0;
        if (end == CHAT_LINE) {
            rc = obey(c, &line, err);
        }
        buf_free(&line);
        if (end < 0 || rc < 0) {
            return -1;
        }
        if (end == CHAT_LINE_KILL || (!c->edits && (end == CHAT_LINE_STOP || run_interrupted()))) {
            return RUN_INTERRUPTED;
        }
        if (end == CHAT_LINE_LAST) {
            return 0;
        }
        if (end == CHAT_LINE_STOP) {
            fprintf(stderr, "(/quit or Ctrl-D ends)\n");
        }
    }
    return 0;
}

static void greet(const struct chat *c) {
    if (c->edits && !c->o->run.quiet) {
        fprintf(stderr,
                "\nEnter sends, Alt-Enter begins a line; Ctrl-C stops, Ctrl-D ends; /help for "
                "more\n");
    }
}

/* Where the history goes: `path` is empty where none is kept. */
static void place_history(const struct chat *c, const struct chat_options *own, struct buf *path) {
    struct err err = {0};
    if (!c->edits || (own && own->no_history)) {
        return;
    }
    if (own && own->history) {
        buf_append(path, own->history, strlen(own->history));
    } else if (chat_history_path(path, &err) < 0) {
        path->len = 0;
        fprintf(stderr, "corm-run: no history is kept: %s\n", err.msg);
    }
}

static int open_once(struct chat *c, const struct cli_call *call, uint64_t snapshot_bytes,
                     struct err *err) {
    enum { TOKEN_BYTES = 6 }; /* of a text, mostly fewer */
    c->run = (struct run){.wish = {.max_passes = 1,
                                   .snapshot_bytes = snapshot_bytes,
                                   .chat_bytes = run_chat_bytes((uint64_t)c->o->ctx * TOKEN_BYTES),
                                   .caller_bytes = c->form.given ? RUN_FORM_BYTES : 0}};
    return run_open(&c->run, call, (uint32_t)c->o->ctx, err);
}

/* How large a snapshot is only an open model tells. Where the usual memory holds too few, it is
 * opened again with more, as far as that fits its budget. */
static int open_model(struct chat *c, const struct cli_call *call, const struct chat_options *own,
                      struct err *err) {
    enum { FEW_SNAPSHOTS = 4, PART_OF_BUDGET = 16 };
    const bool given = own && cli_given(call, "snapshots");
    int status = open_once(c, call, given ? own->snapshot_bytes : CHAT_SNAPSHOT_BYTES, err);
    if (status != 0 || given) {
        return status;
    }
    const struct corm_memory_plan *plan = corm_engine_plan(c->run.engine);
    const uint64_t more = plan->budget_bytes / PART_OF_BUDGET;
    if (plan->n_snapshots >= FEW_SNAPSHOTS || more <= CHAT_SNAPSHOT_BYTES ||
        plan->floor_bytes + more > plan->budget_bytes) {
        return 0;
    }
    remark(c, "opens again, with more memory for snapshots (--snapshots)");
    run_close(&c->run);
    return open_once(c, call, more, err);
}

static int talk(struct chat *c, const struct cli_call *call, const struct chat_options *own,
                struct err *err) {
    struct buf source = {0}, history = {0};
    struct corm_chat how = {0};
    struct err late = {0};
    int status = run_form_read(&c->form, &c->o->form, err);
    if (status == 0) {
        status = open_model(c, call, own, err);
    }
    if (status == 0) {
        status = run_form_open(&c->form, c->run.engine, err);
    }
    if (status == 0) {
        status = run_read_template(&c->run, c->o->chat_template, &source, &how, err);
    }
    if (status == 0 && !how.chat_template && !corm_chat_template(c->run.engine)) {
        status =
            err_set(err,
                    "%s: holds no default chat template: give one with --chat-template, or a text "
                    "to continue with -p",
                    c->run.model);
    }
    if (status == 0) {
        talk_open(&c->talk, &c->run, how.chat_template, how.template_name);
        c->talk.form = c->form.given ? &c->form : NULL;
        c->talk.max_tokens = own || cli_given(call, "max-tokens") ? c->o->max_tokens : -1;
        talk_set_system(&c->talk, c->o->system ? c->o->system : "");
        status = run_sampling_set(call, c->run.engine, &c->talk.sampling, err);
    }
    if (status == 0) {
        place_history(c, own, &history);
        greet(c);
        run_catch_talk();
        c->line =
            chat_line_open(c->edits, history.len ? history.data : NULL, chat_commands_complete);
        status = loop(c, err);
        if (chat_line_close(c->line, &late) < 0) {
            fprintf(stderr, "corm-run: the history is not saved: %s\n", late.msg);
        }
    }
    talk_close(&c->talk);
    run_form_close(&c->form);
    run_close(&c->run);
    buf_free(&c->attached);
    buf_free(&c->shown);
    buf_free(&source);
    buf_free(&history);
    return status;
}

/* ---- the command ---------------------------------------------------------------------------- */

int run_chat_instead(const struct cli_call *call, struct err *err) {
    struct chat c = {.o = call->values, .edits = true, .shows = true, .shows_thinking = true};
    return talk(&c, call, NULL, err);
}

static int run(const struct cli_call *call, struct err *err) {
    const struct chat_options *o = call->values;
    struct chat c = {.o = &o->writing, .shows = isatty(STDOUT_FILENO)};
    c.edits = c.shows && isatty(STDIN_FILENO);
    c.shows_thinking =
        o->thinking == CHAT_THINKING_AUTO ? c.shows : o->thinking == CHAT_THINKING_SHOW;
    return talk(&c, call, o, err);
}

#define FIELD(member) CLI_FIELD(struct chat_options, member)

static const char *const thinking_words[] = {[CHAT_THINKING_AUTO] = "auto",
                                             [CHAT_THINKING_SHOW] = "show",
                                             [CHAT_THINKING_HIDE] = "hide",
                                             NULL};

static const struct cli_option talk_rows[] = {
    {"system", 0, CLI_STRING, FIELD(writing.system), "TEXT",
     .help = "The system message, which stands before all others.", .also = "system-prompt"},
    {"chat-template", 0, CLI_STRING, FIELD(writing.chat_template), "NAME",
     .help = "Another of the archive's chat templates by its name, else a file with a Jinja "
             "template.",
     .also = "chat-template-file"},
    {"ctx-size", 'c', CLI_INT, FIELD(writing.ctx), "N",
     "Context: the conversation and the next answer, in tokens. Its KV cache is part of the memory "
     "plan.",
     .min = 1, .max = 1 << 20, .fallback = "the model's own, at most 4096",
     .also = "ctx n-ctx max-model-len"},
    {"snapshots", 0, CLI_SIZE, FIELD(snapshot_bytes), "SIZE",
     "Memory for snapshots, from which the model goes on where a turn differs from what it has "
     "computed: after /undo and /regenerate, and where the template leaves earlier thoughts out. "
     "Plain attention needs none; a model with sliding windows or recurrent layers reads the whole "
     "conversation again where it has none.",
     .fallback = "4M, and a sixteenth of the budget for models of which that holds fewer than 4"},
    {"max-tokens", 'n', CLI_INT, FIELD(writing.max_tokens), "N",
     "Most tokens of an answer; -1 goes on until the model ends it or the context is full.",
     .min = -1, .max = 1 << 30, .also = "predict n-predict max-new-tokens"},
    {"thinking", 0, CLI_ENUM, FIELD(thinking), "HOW",
     "What the model thinks before it answers: show it (dimmed on a terminal), hide it, or auto: "
     "show it on a terminal only.",
     .words = thinking_words},
    {"history", 0, CLI_STRING, FIELD(history), "FILE",
     .help = "Where to keep what was typed on a terminal, with mode 0600.",
     .fallback = "corm/history in $XDG_STATE_HOME, else in ~/.local/state"},
    {"no-history", 0, CLI_FLAG, FIELD(no_history), .help = "Keep no history, and read none."},
    {0},
};

static const struct cli_option figure_rows[] = {
    {"stats", 0, CLI_FLAG, FIELD(writing.run.stats),
     .help = "Print figures after each answer: tokens of the prompt that were kept from the turns "
             "before and that were evaluated, speed, cache hits."},
    {"quiet", 'q', CLI_FLAG, FIELD(writing.run.quiet),
     .help = "No memory plan, progress or remarks."},
    {0},
};

static const struct cli_group talking = {"Chat", talk_rows}, figures = {"Figures", figure_rows};

static void set_defaults(void *values) {
    run_defaults(values);
    ((struct chat_options *)values)->writing.max_tokens = -1;
}

const struct cli_command run_chat_command = {
    "chat",
    "chat with a model that was trained to answer",
    run,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&talking, &run_sampling_group, &run_form_group, &run_machine_group, &figures},
    .values_bytes = sizeof(struct chat_options),
    .defaults = set_defaults,
    .description =
        "Each line is a message, and the model answers it. On a terminal, Enter sends, Alt-Enter "
        "begins a new line, a pasted text is part of one message, Tab completes commands, and the "
        "arrow keys bring back what was typed before. After a backslash at the end of a line the "
        "message goes on in the "
        "next line. Ctrl-C stops an answer and keeps what has come of it; Ctrl-D ends the program. "
        "From a pipe, each line is a message as well, standard output has only the answers, and "
        "the first error ends the program.\n"
        "A line that begins with / is a command:\n"
        "  /help              the list of commands\n"
        "  /system TEXT       the system message from now on\n"
        "  /clear /undo       forget all, or the last question and its answer\n"
        "  /regenerate        another answer to the last question\n"
        "  /save /load PATH   the conversation as JSON, with mode 0600\n"
        "  /set temp 0.7      change how tokens are chosen; /set alone lists it\n"
        "  /file PATH         send the text of a file with the next message\n"
        "  /stats /quit       figures; the end\n"
        "A turn computes only the tokens that are new in it. A remark says when three quarters of "
        "the context are used. When less than an eighth would be left for an answer, the oldest "
        "questions and answers are no longer shown to the model, until the rest takes at most half "
        "of the context. The system message and the last question always stay, and a saved "
        "conversation has everything.\n"
        "Special tokens that are written out in a message are text to the model.",
    .examples = "corm-run chat model.corm\n"
                "corm-run chat model.corm --system \"Answer in one sentence.\" --stats\n"
                "#Each answer in JSON of a form:\n"
                "corm-run chat model.corm --json-schema-file answer.json\n"
                "#From another program:\n"
                "echo \"What is an expert?\" | corm-run chat model.corm -q\n"};
