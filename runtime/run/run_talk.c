#include "runtime/run/run_talk.h"

#include <stdlib.h>
#include <string.h>

#include "format/text/thinking.h"

/* ---- messages ------------------------------------------------------------------------------- */

void talk_open(struct talk *t, struct run *run, const char *template_text, const char *name) {
    *t = (struct talk){.run = run, .max_tokens = -1};
    t->how.chat_template = template_text;
    t->how.template_name = name;
}

static void free_message(struct talk_message *m) {
    free(m->role);
    free(m->content);
    free(m->thinking);
}

void talk_close(struct talk *t) {
    talk_cut(t, 0);
    free(t->messages);
    *t = (struct talk){0};
}

void talk_add(struct talk *t, const char *role, const char *content, const char *thinking) {
    t->messages = mem_grow(t->messages, t->n + 1, &t->cap, sizeof *t->messages);
    t->messages[t->n++] = (struct talk_message){mem_strdup(role), mem_strdup(content),
                                                thinking ? mem_strdup(thinking) : NULL};
}

void talk_cut(struct talk *t, size_t n) {
    while (t->n > n) {
        free_message(&t->messages[--t->n]);
    }
    /* Where all that is left was hidden, there is room to show it. */
    size_t left = t->n - talk_has_system(t);
    t->hidden = t->hidden < left ? t->hidden : 0;
    t->told &= left > 0;
}

struct talk_tail talk_take(struct talk *t, size_t n) {
    struct talk_tail tail = {.n = n, .count = t->n - n};
    tail.messages = mem_alloc(tail.count * sizeof *tail.messages);
    if (tail.count > 0) {
        memcpy(tail.messages, t->messages + n, tail.count * sizeof *tail.messages);
    }
    t->n = n;
    return tail;
}

void talk_put_back(struct talk *t, struct talk_tail *tail) {
    talk_cut(t, tail->n);
    t->messages = mem_grow(t->messages, t->n + tail->count, &t->cap, sizeof *t->messages);
    if (tail->count > 0) {
        memcpy(t->messages + t->n, tail->messages, tail->count * sizeof *tail->messages);
    }
    t->n += tail->count;
    free(tail->messages);
    *tail = (struct talk_tail){0};
}

void talk_drop(struct talk_tail *tail) {
    for (size_t i = 0; i < tail->count; i++) {
        free_message(&tail->messages[i]);
    }
    free(tail->messages);
    *tail = (struct talk_tail){0};
}

bool talk_has_system(const struct talk *t) {
    return t->n > 0 && strcmp(t->messages[0].role, "system") == 0;
}

void talk_set_system(struct talk *t, const char *content) {
    if (talk_has_system(t)) {
        free_message(&t->messages[0]);
        memmove(t->messages, t->messages + 1, --t->n * sizeof *t->messages);
    }
    if (content[0]) {
        talk_add(t, "system", content, NULL);
        struct talk_message system = t->messages[t->n - 1];
        memmove(t->messages + 1, t->messages, (t->n - 1) * sizeof *t->messages);
        t->messages[0] = system;
    }
}

size_t talk_last_question(const struct talk *t) {
    for (size_t i = t->n; i-- > 0;) {
        if (strcmp(t->messages[i].role, "user") == 0) {
            return i;
        }
    }
    return t->n;
}

/* ---- the prompt ----------------------------------------------------------------------------- */

struct prompt {
    int32_t *ids;
    size_t n;
    char *text;
    size_t bytes;
};

static void free_prompt(struct prompt *p) {
    free(p->ids);
    free(p->text);
    *p = (struct prompt){0};
}

/* What the model sees: all but the hidden messages. */
static int render(struct talk *t, struct prompt *p, struct err *err) {
    struct corm_message *shown = mem_calloc(t->n, sizeof *shown);
    struct corm_error error;
    size_t n = 0, system = talk_has_system(t);
    for (size_t i = 0; i < t->n; i++) {
        const struct talk_message *m = &t->messages[i];
        if (i < system || i >= system + t->hidden) {
            shown[n++] = (struct corm_message){m->role, m->content, m->thinking};
        }
    }
    free_prompt(p);
    t->how.messages = shown;
    t->how.n_messages = n;
    int rc = corm_chat_ids(t->run->engine, &t->how, &p->ids, &p->n, &p->text, &p->bytes, &error);
    t->how.messages = NULL;
    free(shown);
    return rc ? run_fail(err, &error) : 0;
}

/* Up to where the prompt of the next turn will be that of this one: what a made-up turn behind it
 * has in common with it. 0 where the template refuses that. */
static uint32_t next_common(struct talk *t, const struct prompt *p) {
    struct prompt next = {0};
    struct err ignored = {0};
    uint32_t same = 0;
    talk_add(t, "assistant", "x", NULL);
    talk_add(t, "user", "x", NULL);
    if (render(t, &next, &ignored) == 0) {
        while (same < p->n && same < next.n && p->ids[same] == next.ids[same]) {
            same++;
        }
    }
    free_prompt(&next);
    struct talk_tail made_up = talk_take(t, t->n - 2);
    talk_drop(&made_up);
    return same;
}

/* One turn more that is hidden; false where only the last one is left. */
static bool hide_turn(struct talk *t) {
    size_t system = talk_has_system(t), last = talk_last_question(t);
    for (size_t i = system + t->hidden + 1; i <= last && i < t->n; i++) {
        if (strcmp(t->messages[i].role, "user") == 0) {
            t->hidden = i - system;
            return true;
        }
    }
    return false;
}

/* The prompt, made to fit by the rule in the header. */
static int make_prompt(struct talk *t, struct prompt *p, struct talk_turn *turn, struct err *err) {
    const size_t ctx = t->run->info->ctx_tok, hidden = t->hidden;
    if (render(t, p, err)) {
        return -1;
    }
    if (p->n + ctx / 8 > ctx) {
        while (p->n > ctx / 2 && hide_turn(t)) {
            if (render(t, p, err)) {
                return -1;
            }
        }
    }
    turn->left_out = t->hidden - hidden;
    t->told &= turn->left_out == 0;
    if (p->n >= ctx) {
        return err_set(
            err,
            "the message makes a prompt of %zu tokens, the context holds %zu; --ctx-size N "
            "makes it larger",
            p->n, ctx);
    }
    return p->n ? 0 : err_set(err, "the chat template made no text of the conversation");
}

/* ---- the answer ----------------------------------------------------------------------------- */

struct answer {
    struct talk *t;
    const struct talk_sink *sink;
    struct thinking thinking;
    struct buf thought, said; /* all of both */
};

/* What has become certain of the text goes out, and is kept. NUL, which messages cannot hold, is
 * left out. */
static int put(struct answer *a, const char *text, size_t bytes, bool end, struct err *err) {
    size_t thought = a->thought.len, said = a->said.len;
    for (size_t i = 0, n; i < bytes; i += n + 1) {
        n = strnlen(text + i, bytes - i);
        thinking_push(&a->thinking, text + i, n, &a->thought, &a->said);
    }
    if (end) {
        thinking_end(&a->thinking, &a->thought, &a->said);
    }
    if (a->thought.len > thought && a->sink->put(a->sink->ctx, true, a->thought.data + thought,
                                                 a->thought.len - thought, err)) {
        return -1;
    }
    return a->said.len > said &&
                   a->sink->put(a->sink->ctx, false, a->said.data + said, a->said.len - said, err)
               ? -1
               : 0;
}

/* Push a token of the prompt into the stream of text: how one reads may depend on those before. */
static int pass_token(struct talk *t, int32_t id, const char **text, size_t *bytes,
                      struct err *err) {
    struct corm_error error;
    /* Tags around thoughts may be special tokens, so these are shown. */
    return corm_session_text(t->run->session, id, false, text, bytes, &error) < 0
               ? run_fail(err, &error)
               : 0;
}

/* The same for one of the answer. *over: the form lets nothing follow. */
static int put_token(struct answer *a, int32_t id, bool *over, struct err *err) {
    const char *text;
    size_t bytes;
    *over = false;
    if (pass_token(a->t, id, &text, &bytes, err) < 0 ||
        (a->t->form && run_form_accept(a->t->form, id, text, bytes, over, err) < 0)) {
        return -1;
    }
    return put(a, text, bytes, false, err);
}

static int put_end(struct answer *a, struct err *err) {
    struct corm_error error;
    const char *text;
    size_t bytes;
    if (corm_session_text_end(a->t->run->session, &text, &bytes, &error) < 0) {
        return run_fail(err, &error);
    }
    return put(a, text, bytes, true, err);
}

/* Evaluate ids, with a snapshot at the length `mark` (0: none), a layer at a time, so that Ctrl-C
 * need not wait for a piece of a prompt. 0; -1; or RUN_INTERRUPTED: then whole pieces are kept. */
static int evaluate(struct run *r, const int32_t *ids, size_t n, uint32_t mark, struct err *err) {
    const struct corm_span span = {
        .session = r->session, .ids = ids, .n = n, .snapshots = &mark, .n_snapshots = mark > 0};
    const size_t before = corm_session_length(r->session);
    struct progress *progress = n > r->info->batch_rows ? r->progress : NULL;
    struct corm_error error;
    struct corm_pass *pass;
    bool more = true;
    int rc = corm_pass_open(&pass, &span, 1, &error);
    if (rc < 0) {
        return run_fail(err, &error);
    }
    progress_start(progress, "reading the prompt", n, PROGRESS_TOKENS);
    while (rc == 0 && more && !run_interrupted()) {
        rc = corm_pass_step(pass, &more, &error);
        progress_update(progress, corm_session_length(r->session) - before);
    }
    progress_finish(progress);
    corm_pass_close(pass);
    return rc < 0 ? run_fail(err, &error) : more ? RUN_INTERRUPTED : 0;
}

static int read_prompt(struct talk *t, const struct prompt *p, struct talk_turn *turn,
                       struct err *err) {
    struct run *r = t->run;
    size_t same = 0, n_held;
    const int32_t *held = corm_session_ids(r->session, &n_held);
    while (same < p->n && same < n_held && p->ids[same] == held[same]) {
        same++;
    }
    same -= same == p->n; /* the last one gives the logits */
    corm_session_truncate(r->session, (uint32_t)same);
    turn->prompt_tok = p->n;
    turn->kept_tok = corm_session_held(r->session);
    const bool snapshots = corm_engine_plan(r->engine)->n_snapshots > 0;
    return evaluate(r, p->ids + same, p->n - same, snapshots ? next_common(t, p) : 0, err);
}

/* Tokens that the answer may still have. */
static uint64_t tokens_left(const struct talk *t, const struct talk_turn *turn) {
    const uint64_t room = t->run->info->ctx_tok - corm_session_length(t->run->session);
    const uint64_t most = t->max_tokens >= 0 ? (uint64_t)t->max_tokens - turn->answer_tok : room;
    return most < room ? most : room;
}

static int generate(struct answer *a, struct talk_turn *turn, struct err *err) {
    struct talk *t = a->t;
    struct corm_sampling sampling = t->sampling;
    sampling.seed += t->answers++;
    for (;;) {
        int32_t id;
        bool over;
        if (run_interrupted()) {
            turn->end = TALK_INTERRUPT;
            return 0;
        }
        if (t->max_tokens >= 0 && turn->answer_tok >= (size_t)t->max_tokens) {
            turn->end = TALK_MAX_TOKENS;
            return 0;
        }
        if (corm_session_length(t->run->session) == t->run->info->ctx_tok) {
            turn->end = TALK_CONTEXT;
            return 0;
        }
        if ((t->form && run_form_allow(t->form, tokens_left(t, turn), &sampling, err) < 0) ||
            run_sample(t->run, &sampling, &id, err) < 0) {
            return -1;
        }
        if (corm_is_stop(t->run->engine, id)) {
            turn->end = TALK_STOP_TOKEN;
            return 0;
        }
        turn->answer_tok++;
        if (put_token(a, id, &over, err) < 0) {
            return -1;
        }
        if (over) {
            turn->end = TALK_STOP_TOKEN;
            return 0;
        }
        if (run_eval(t->run, &id, 1, NULL, err) < 0) {
            return -1;
        }
    }
}

int talk_answer(struct talk *t, const struct talk_sink *sink, struct talk_turn *turn,
                struct err *err) {
    enum { SEEN_TOK = 64 }; /* a token's text depends on no more before it */
    struct answer a = {.t = t, .sink = sink};
    struct prompt p = {0};
    const char *rest;
    size_t rest_bytes;
    const size_t hidden = t->hidden;
    const bool told = t->told;
    int status = -1;
    corm_session_text_end(t->run->session, &rest, &rest_bytes, NULL); /* an answer that failed */
    *turn = (struct talk_turn){.before = run_stats(t->run)};
    if (make_prompt(t, &p, turn, err) < 0) {
        goto out;
    }
    status = read_prompt(t, &p, turn, err);
    turn->after_prompt = run_stats(t->run);
    if (status < 0) {
        goto out;
    }
    thinking_begin(&a.thinking, p.text, p.bytes);
    if (t->form) {
        run_form_begin(t->form, p.text, p.bytes);
    }
    for (size_t i = p.n > SEEN_TOK ? p.n - SEEN_TOK : 0; i < p.n; i++) {
        if (pass_token(t, p.ids[i], &rest, &rest_bytes, err) < 0) {
            status = -1;
            goto out;
        }
    }
    turn->end = TALK_INTERRUPT;
    if ((status == 0 && generate(&a, turn, err) < 0) || put_end(&a, err) < 0) {
        status = -1;
        goto out;
    }
    status = 0;
    talk_add(t, "assistant", a.said.len ? a.said.data : "", a.thought.len ? a.thought.data : NULL);
    turn->nearly_full =
        !t->told && corm_session_length(t->run->session) > t->run->info->ctx_tok / 4 * 3;
    t->told |= turn->nearly_full;
    turn->after = run_stats(t->run);
out:
    if (status < 0) {
        t->hidden = hidden;
        t->told = told;
    }
    thinking_free(&a.thinking);
    buf_free(&a.thought);
    buf_free(&a.said);
    free_prompt(&p);
    return status;
}
