/*
 * corm_serve: the main of corm-serve, which answers over HTTP.
 *
 * Owns: options, opening the model, the order in which all is started and stopped, the log.
 * Leaves to others: all that is done in between (serve.h).
 * Threads: the main thread looks after connections each second and waits for a signal.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/fatal.h"
#include "runtime/run/run.h"
#include "runtime/serve/serve.h"
#include "runtime/serve/toolbox.h"

struct serve_options {
    struct run_options run;
    const char *alias, *chat_template, *snapshots, *kv_size;
    int ctx, parallel, sessions, queue, reuse, notice, grace;
    const char *host, *allowed_hosts, *api_key_file;
    int port;
    bool without_key;
    uint64_t body_bytes;
};

static const uint64_t second_ns = 1000000000;

static const char *const reuse_words[] = {
    [REUSE_ALL] = "all", [REUSE_PROMPTS] = "prompts", [REUSE_NONE] = "none", NULL};

#define FIELD(member) CLI_FIELD(struct serve_options, member)

static const struct cli_option model_rows[] = {
    {"alias", 'a', CLI_STRING, FIELD(alias), "NAME", "What the model is called in answers.",
     .fallback = "the file's name"},
    {"chat-template", 0, CLI_STRING, FIELD(chat_template), "FILE",
     .help = "A Jinja template to use instead of the archive's."},
    {"ctx-size", 'c', CLI_INT, FIELD(ctx), "N", .also = "ctx n-ctx max-model-len",
     .help = "Context of each sequence: prompt and answer together.", .min = 1, .max = 1 << 20,
     .fallback = "the model's own, as far as --kv-size has room for one such sequence"},
    {"kv-size", 0, CLI_STRING, FIELD(kv_size), "SIZE",
     "Memory for the KV caches of all sequences, kept ones too, part of the memory plan. Each "
     "takes "
     "of it by its length. Where it is full, kept sequences are forgotten, and then the answer "
     "that was begun last waits. At least what one sequence of --ctx-size takes; not with --device "
     "cuda, where each session has room for its whole context.",
     .fallback = "a quarter of the budget beside the weights of all tokens, or enough for 32768 "
                 "tokens, but no more than all sessions can use"},
    {"parallel", 0, CLI_INT, FIELD(parallel), "N",
     "Most answers that are generated at the same time. An expert that several of them need is "
     "read once.",
     .min = 1, .max = 64},
    {"sessions", 0, CLI_INT, FIELD(sessions), "N",
     "Sequences in memory: those that are being computed and those that were finished and are "
     "kept. "
     "A request that begins like one of them computes only what differs.",
     .min = 1, .max = 256, .fallback = "1 more than --parallel"},
    {"snapshots", 0, CLI_STRING, FIELD(snapshots), "SIZE",
     "Memory for snapshots, from which a session can go back to an earlier length. Plain attention "
     "hardly needs any; a model with sliding windows or recurrent layers computes the whole prompt "
     "again where it has none.",
     .fallback = "4M, and an eighth of the budget for such models"},
    {"reuse", 0, CLI_ENUM, FIELD(reuse), "WHAT",
     "What of kept sessions is used again: all; prompts, which computes generated tokens again as "
     "part of the prompt (with --loss the result differs); or none.",
     .words = reuse_words},
    {0},
};

static const struct cli_option server_rows[] = {
    {"host", 0, CLI_STRING, FIELD(host), "ADDRESS",
     "The address to listen on. One that others can reach is refused without --api-key-file."},
    {"port", 0, CLI_INT, FIELD(port), "N",
     "The port to listen on; 0: any free one, which the first line tells.", .min = 0, .max = 65535},
    {"api-key-file", 0, CLI_STRING, FIELD(api_key_file), "FILE",
     "Keys, one a line; requests need one of them, as `Authorization: Bearer KEY` or `x-api-key: "
     "KEY`. The file should be readable by its owner only.",
     .fallback = "no key is needed"},
    {"without-key", 0, CLI_FLAG, FIELD(without_key),
     .help = "Listen on an address that others can reach without asking for a key: anybody there "
             "may use the model."},
    {"allowed-hosts", 0, CLI_STRING, FIELD(allowed_hosts), "NAMES",
     "Host names, separated by commas, that the Host and Origin of a request may have besides "
     "localhost and --host.",
     .fallback = "none"},
    {"queue", 0, CLI_INT, FIELD(queue), "N",
     "Most requests that may wait; further ones get status 429, to try again later.", .min = 1,
     .max = 4096},
    {"max-body", 0, CLI_SIZE, FIELD(body_bytes), "SIZE",
     "Longest body of a request; a longer one gets status 413. Four times as much may be there at "
     "once; of further ones the client is told to come again (429). 24 times as much is part of "
     "the memory plan, for bodies and what is made of them.",
     .min = 1024, .max = 1 << 30},
    {"notice", 0, CLI_INT, FIELD(notice), "SECONDS",
     "How long after Ctrl-C, SIGTERM or SIGHUP requests are still taken, while /health says 503: a "
     "balancer in front of several servers sees it and sends no more.",
     .min = 0, .max = 3600},
    {"grace", 0, CLI_INT, FIELD(grace), "SECONDS",
     "How long answers may go on after that; a second signal ends them at once.", .min = 0,
     .max = 86400},
    {0},
};

static const struct cli_option figure_rows[] = {
    {"quiet", 'q', CLI_FLAG, CLI_FIELD(struct serve_options, run.quiet),
     .help = "No memory plan, remarks, or line for each request."},
    {0},
};

static const struct cli_group model_group = {"Model", model_rows};
static const struct cli_group server_group = {"Server", server_rows};
static const struct cli_group figures_group = {"Figures", figure_rows};

static void set_defaults(void *values) {
    struct serve_options *o = values;
    run_defaults(values);
    o->host = "127.0.0.1";
    o->port = 8080;
    o->parallel = 2;
    o->queue = 64;
    o->grace = 30;
    o->body_bytes = 4 << 20;
}

/* ---- the log ---- */

struct serving {
    struct server server; /* first: what is called with it finds the rest */
    const struct serve_options *o;
    struct guard guard;
    struct toolbox_ways ways;
    char *name;
};

/* Paths come from strangers, so they are cleaned; prompts and answers are never written. */
static void log_done(void *ctx, struct http_exchange *x) {
    const struct serving *v = ctx;
    if (v->o->run.quiet) {
        return;
    }
    char *path = text_cleaned(http_path(x)), *method = text_cleaned(http_method(x));
    char when[40];
    reply_time(when);
    fprintf(stderr, "%s %.16s %.200s %u %.1f ms\n", when, method, path, http_status(x),
            (double)(clock_ns() - http_started_ns(x)) / 1e6);
    free(path);
    free(method);
}

static void note(const char *line) {
    fprintf(stderr, "corm-serve: %s\n", line);
}

/* ---- opening ---- */

/* Memory of requests, in bodies: those that are there; the values of the one that is prepared, with
 * what reading them takes, or its conversation as JSON; ids of prompts; rendering, which the engine
 * does. */
enum { FLIGHT_BODIES = 4, VALUE_BODIES = 8, PROMPT_BODIES = 4, RENDER_BODIES = 8 };

/* What a form keeps for its masks, and an index of the vocabulary for an id (corm_grammar_open). */
enum { FORM_BYTES = 16 << 20, WORD_BYTES = 56 };

/* Memory that requests take outside of the engine. */
static uint64_t requests_bytes(const struct serving *v, const struct corm_model_info *m) {
    const struct server *s = &v->server;
    uint64_t bytes = 2 * SERVE_LEAST_VALUES +
                     (FLIGHT_BODIES + VALUE_BODIES + PROMPT_BODIES) * v->o->body_bytes +
                     (uint64_t)s->parallel * FORM_BYTES;
    if (m) {
        bytes += (uint64_t)m->vocab * WORD_BYTES;
        bytes += (uint64_t)s->sessions * m->ctx_tok * sizeof(int32_t); /* what each remembers */
    }
    return bytes;
}

/* The context that is wished for by default where `most_bytes` may be taken for it, at `tok_bytes`
 * a token. */
static uint32_t wished_context(const struct corm_model_info *m, uint64_t most_bytes,
                               uint64_t tok_bytes) {
    uint64_t want = most_bytes / tok_bytes;
    want = want < m->ctx_max_tok ? want : m->ctx_max_tok;
    return want > m->ctx_tok ? (uint32_t)want : m->ctx_tok;
}

static uint64_t least_of(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t greatest_of(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* What is wished for by default, and by --kv-size, for the model that the plan is of: that of one
 * session with a short context. */
static void fit(const struct serving *v, const struct corm_engine *engine, struct run_wish *wish) {
    enum { FEW_SNAPSHOTS = 16, DECENT_TOK = 32768 };
    const struct corm_memory_plan *p = corm_engine_plan(engine);
    const struct corm_model_info *m = corm_engine_info(engine);
    const uint64_t n = v->server.sessions, asked = wish->kv_bytes;
    const bool by_length = p->host_bytes == 0; /* the CPU computes */
    wish->caller_bytes = requests_bytes(v, m);
    /* What KV caches and snapshots could take together, at most. */
    const uint64_t used = p->floor_bytes - p->kv_bytes + wish->caller_bytes - p->caller_bytes;
    uint64_t room = p->budget_bytes > used ? p->budget_bytes - used : 0;
    if (!v->o->snapshots && p->n_snapshots < FEW_SNAPSHOTS) {
        wish->snapshot_bytes = least_of(p->budget_bytes / 8, room / 2);
        room -= wish->snapshot_bytes;
    }
    const uint64_t least = by_length ? p->session_least_bytes : 0, empty = n * least;
    uint64_t tok_bytes = (p->session_bytes - least) / m->ctx_tok + 1;
    const uint64_t rest = p->budget_bytes > p->trunk_bytes ? p->budget_bytes - p->trunk_bytes : 0;
    uint64_t pool =
        asked > CORM_KV_LEAST ? asked : greatest_of(rest / 4, empty + DECENT_TOK * tok_bytes);
    pool = asked > CORM_KV_LEAST ? pool : least_of(pool, room);
    if (!by_length) {
        tok_bytes *= n;
    }
    if (!v->o->ctx) {
        wish->ctx_tok = wished_context(m, pool > empty ? pool - empty : 0, tok_bytes);
    }
    if (by_length && asked <= CORM_KV_LEAST) {
        const uint64_t ctx = wish->ctx_tok ? wish->ctx_tok : m->ctx_tok;
        const uint64_t all = n * (least + ctx * tok_bytes), one = empty + ctx * tok_bytes;
        wish->kv_bytes = pool >= all ? 0 : greatest_of(pool, one);
    }
}

static int read_size(const char *option, const char *text, uint64_t *bytes, struct err *err) {
    if (text && cli_size_parse(text, bytes, err) < 0) {
        err_prefix(err, "%s", option);
        return CLI_USAGE;
    }
    return 0;
}

/* Print what the plan has for requests, and for sequences. */
static void print_requests(const struct serving *v, uint64_t bytes) {
    const struct corm_memory_plan *p = corm_engine_plan(v->server.engine);
    char all[CLI_SIZE_TEXT], body[CLI_SIZE_TEXT], one[CLI_SIZE_TEXT], kv[CLI_SIZE_TEXT];
    fprintf(stderr,
            "requests %s of that, bodies up to %s; %u sequences share a KV cache of %s, a whole "
            "context takes %s\n",
            cli_size_text(all, bytes), cli_size_text(body, v->o->body_bytes), v->server.sessions,
            cli_size_text(kv, p->kv_bytes), cli_size_text(one, p->session_bytes));
}

/* First only the plan of the least, to see what the model needs. */
static int open_model(struct serving *v, const char *model, struct err *err) {
    const struct serve_options *o = v->o;
    struct server *s = &v->server;
    struct run_wish wish = {.ctx_tok = (uint32_t)o->ctx,
                            .max_sessions = s->sessions,
                            .max_running = s->parallel,
                            .max_passes = 1,
                            .snapshot_bytes = 4 << 20,
                            .kv_bytes = CORM_KV_LEAST,
                            .chat_bytes = greatest_of(RENDER_BODIES * o->body_bytes, 8 << 20),
                            .caller_bytes = requests_bytes(v, NULL),
                            .only_plan = true,
                            .program = "corm-serve"};
    uint64_t kv_bytes = CORM_KV_LEAST;
    int status = read_size("--snapshots", o->snapshots, &wish.snapshot_bytes, err);
    status = status ? status : read_size("--kv-size", o->kv_size, &kv_bytes, err);
    status = status ? status : run_engine_open(&s->engine, &o->run, model, &wish, err);
    if (status != 0) {
        return status;
    }
    const struct corm_memory_plan *p = corm_engine_plan(s->engine);
    if (o->kv_size && (p->host_bytes > 0 || kv_bytes < p->kv_bytes)) {
        return p->host_bytes > 0
                   ? err_set(err, "--kv-size: with a device each session has its whole context")
                   : err_set(err,
                             "--kv-size %s: one sequence of %u tokens and %u that are empty take "
                             "%.1f MiB",
                             o->kv_size, corm_engine_info(s->engine)->ctx_tok, s->sessions - 1,
                             (double)p->kv_bytes / (1 << 20));
    }
    wish.kv_bytes = kv_bytes;
    fit(v, s->engine, &wish);
    corm_engine_close(s->engine);
    s->engine = NULL;
    wish.only_plan = false;
    status = run_engine_open(&s->engine, &o->run, model, &wish, err);
    if (status == 0 && !o->run.quiet) {
        print_requests(v, wish.caller_bytes + wish.chat_bytes);
    }
    return status;
}

static int read_template(struct server *s, const char *path, struct err *err) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    if (!path) {
        return 0;
    }
    if (file_read(path, 1 << 20, &data, &bytes, err) < 0) {
        return -1;
    }
    s->chat_template = (char *)data;
    s->template_name = path;
    return memchr(data, 0, bytes) ? err_set(err, "%s: a chat template with a NUL in it", path) : 0;
}

static int check_options(const struct cli_call *call, const char **model, struct err *err) {
    const struct serve_options *o = call->values;
    if (call->args.count == 0) {
        err_set(err, "an archive is missing: corm-serve MODEL.corm");
        return CLI_USAGE;
    }
    *model = call->args.items[0];
    if (!guard_is_loopback(o->host) && !o->api_key_file && !o->without_key) {
        err_set(err,
                "--host %s: others may reach it, expected --api-key-file (or --without-key, where "
                "anybody may use the model)",
                o->host);
        return CLI_USAGE;
    }
    if (o->sessions && o->sessions < o->parallel) {
        err_set(err, "--sessions %d: fewer than --parallel %d", o->sessions, o->parallel);
        return CLI_USAGE;
    }
    return 0;
}

static char *model_name(const char *path) {
    const char *slash = strrchr(path, '/');
    char *name = text_cleaned(slash ? slash + 1 : path);
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".corm") == 0) {
        name[n - 5] = 0;
    }
    return name;
}

static int start(struct serving *v, const char *model, struct err *err) {
    const struct serve_options *o = v->o;
    struct server *s = &v->server;
    s->parallel = (uint32_t)o->parallel;
    s->sessions = (uint32_t)(o->sessions ? o->sessions : o->parallel + 1);
    s->approximate = o->run.loss > 0;
    s->body_bytes = o->body_bytes;
    s->prompts_limit = PROMPT_BODIES * o->body_bytes;
    s->created = reply_now();
    s->started_ns = clock_ns();
    v->name = o->alias ? text_cleaned(o->alias) : model_name(model);
    s->name = v->name;
    if (guard_open(&v->guard, o->host, o->allowed_hosts, o->api_key_file, err) < 0 ||
        read_template(s, o->chat_template, err) < 0) {
        return -1;
    }
    int status = open_model(v, model, err);
    if (status != 0) {
        return status;
    }
    s->info = corm_engine_info(s->engine);
    s->sampling = corm_sampling_defaults(s->engine);
    s->note = o->run.quiet ? NULL : note;
    toolbox_try(s, &v->ways);
    s->ways = &v->ways;
    const struct scheduler_options scheduling = {.engine = s->engine,
                                                 .parallel = s->parallel,
                                                 .sessions = s->sessions,
                                                 .queue = (uint32_t)o->queue,
                                                 .reuse = (enum reuse)o->reuse};
    const struct http_options serving = {.host = o->host,
                                         .port = (unsigned)o->port,
                                         .guard = &v->guard,
                                         .body_bytes = o->body_bytes,
                                         .flight_bytes = FLIGHT_BODIES * o->body_bytes,
                                         .behind_bytes = 1 << 20,
                                         .alive_ns = 10 * second_ns,
                                         .slow_ns = 60 * second_ns,
                                         .request_ns = 120 * second_ns,
                                         .handle = routes_handle,
                                         .refuse = routes_refuse,
                                         .is_open = routes_is_open,
                                         .done = log_done,
                                         .ctx = v};
    if (scheduler_start(&s->scheduler, &scheduling, err) < 0 || desk_start(s, err) < 0 ||
        http_start(&s->http, &serving, err) < 0) {
        return -1;
    }
    fprintf(stderr, "corm-serve: %s listens on http://%s%s%s:%u\n", s->name,
            strchr(o->host, ':') ? "[" : "", o->host, strchr(o->host, ':') ? "]" : "",
            http_port(s->http));
    return 0;
}

/* ---- the end ---- */

/* Wait up to a second for a signal, and look after connections. True where one came. */
static bool second(struct server *s, const sigset_t *signals) {
    const struct timespec one = {.tv_sec = 1};
    bool told = sigtimedwait(signals, NULL, &one) > 0;
    http_tick(s->http);
    return told;
}

static void serve(struct serving *v, const sigset_t *signals) {
    struct server *s = &v->server;
    while (!second(s, signals)) {
    }
    atomic_store(&s->leaves, true);
    bool again = false;
    for (int left = v->o->notice; left > 0 && !again; left--) {
        again = second(s, signals);
    }
    http_quiesce(s->http);
    bool now = again || v->o->grace == 0;
    for (int left = v->o->grace; scheduler_drain(s->scheduler, now) > 0; left--) {
        now |= left <= 0;
        now |= second(s, signals);
    }
    /* What was answered is still to be read by the clients. */
    for (int left = 5; left > 0 && http_busy(s->http) > 0; left--) {
        second(s, signals);
    }
}

/* Nobody may hold an exchange when http stops, and what http calls must be there until then. */
static void stop(struct serving *v) {
    struct server *s = &v->server;
    desk_stop(s);
    while (s->scheduler && scheduler_drain(s->scheduler, true) > 0) {
        clock_sleep_until(clock_ns() + 1000000);
    }
    if (s->http) {
        http_stop(s->http);
    }
    if (s->scheduler) {
        scheduler_stop(s->scheduler);
    }
    desk_free(s);
    corm_engine_close(s->engine);
    guard_free(&v->guard);
    toolbox_ways_free(&v->ways);
    free(s->chat_template);
    free(v->name);
}

static int run(const struct cli_call *call, struct err *err) {
    struct serving v = {.o = call->values};
    const char *model;
    sigset_t signals;
    int status = check_options(call, &model, err);
    if (status != 0) {
        return status;
    }
    /* Before there are threads, so that none of them gets these. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    status = start(&v, model, err);
    if (status == 0) {
        serve(&v, &signals);
    }
    stop(&v);
    return status;
}

static const struct cli_command command = {
    "serve",
    "answer over HTTP",
    run,
    .args = "[MODEL.corm]",
    .min_args = 0,
    .max_args = 1,
    .groups = {&model_group, &server_group, &run_machine_group, &figures_group},
    .values_bytes = sizeof(struct serve_options),
    .defaults = set_defaults,
    .description =
        "It answers requests as clients of OpenAI (chat/completions, completions, responses, "
        "models), Anthropic (messages) and Ollama (/api) send them. docs/SERVER.md says which "
        "parts "
        "of each API there are and which are not.\n"
        "Up to --parallel sequences are computed together. What earlier requests computed is kept "
        "in --sessions sessions and used again where a request begins alike; on the CPU, without "
        "--loss, answers have the same bits either way.",
    .examples =
        "corm-serve model.corm\n"
        "corm-serve model.corm --port 8000 --parallel 4 --ram 8G\n"
        "#For others in the network:\n"
        "corm-serve model.corm --host 0.0.0.0 --api-key-file keys --allowed-hosts box.lan\n"
        "#Ask it:\n"
        "curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' "
        "-d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n",
};

static const struct cli_command *const commands[] = {&command, NULL};

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    fatal_catch(NULL);
    const struct cli_program program = {
        .name = "corm-serve",
        .summary =
            "serve sparse mixture-of-experts models over HTTP, also those larger than memory",
        .version = corm_version(),
        .description = "Serves a .corm archive, which corm-prep makes from a Hugging Face "
                       "checkpoint. `corm-run serve` starts this program.",
        .commands = commands,
        .default_command = 0,
        .familiar = run_familiar,
        .exit_status = "",
    };
    return cli_main(&program, argc, argv);
}
