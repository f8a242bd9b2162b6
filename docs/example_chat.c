/*
 * A small program that chats with libcorm: example_chat MODEL.corm [MAX_TOKENS]
 *
 *     cc example_chat.c $(pkg-config --cflags --libs libcorm) -o example_chat
 *
 * Each line of standard input is a message; the answer goes to standard output as it is made. The
 * whole talk is put as the model's chat template has it, each time anew; what the session has of
 * that already is not computed again.
 */
#include <corm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGES = 1000 };

struct chat {
    struct corm_engine *engine;
    struct corm_session *session;
    struct corm_message messages[MAX_MESSAGES];
    size_t n;
    int max_tokens;
    struct corm_error error;
};

static int say(struct chat *c, const char *role, const char *content) {
    char *copy = strdup(content);
    if (!copy || c->n == MAX_MESSAGES) {
        snprintf(c->error.message, sizeof c->error.message, "the talk is too long");
        free(copy);
        return -1;
    }
    c->messages[c->n++] = (struct corm_message){role, copy, NULL};
    return 0;
}

/* Computes the prompt, but for what it has in common with what the session holds. */
static int read_prompt(struct chat *c) {
    const struct corm_chat chat = {.messages = c->messages, .n_messages = c->n};
    size_t n, n_held, same = 0;
    int32_t *ids;
    if (corm_chat_ids(c->engine, &chat, &ids, &n, NULL, NULL, &c->error) < 0) {
        return -1;
    }
    const int32_t *held = corm_session_ids(c->session, &n_held);
    while (same + 1 < n && same < n_held && ids[same] == held[same]) {
        same++; /* but not the last one, which gives the logits */
    }
    corm_session_truncate(c->session, (uint32_t)same);
    int rc = corm_session_eval(c->session, ids + same, n - same, false, NULL, &c->error);
    free(ids);
    return rc;
}

/* Prints text that has become certain, and keeps it in `answer`, which grows. */
static int put(char **answer, const char *text, size_t bytes) {
    size_t before = *answer ? strlen(*answer) : 0;
    char *longer = realloc(*answer, before + bytes + 1);
    if (!longer) {
        return -1;
    }
    memcpy(longer + before, text, bytes);
    longer[before + bytes] = 0;
    *answer = longer;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
    return 0;
}

static int answer(struct chat *c) {
    struct corm_sampling how = corm_sampling_defaults(c->engine);
    char *text = NULL;
    const char *piece;
    size_t bytes;
    how.temperature = 0; /* always the likeliest token */
    int rc = read_prompt(c);
    for (int left = c->max_tokens; rc == 0 && left > 0; left--) {
        int32_t id = corm_session_sample(c->session, &how);
        if (id < 0 || corm_is_stop(c->engine, id)) {
            break;
        }
        if (corm_session_text(c->session, id, true, &piece, &bytes, &c->error) < 0 ||
            put(&text, piece, bytes) < 0 ||
            corm_session_eval(c->session, &id, 1, false, NULL, &c->error) < 0) {
            rc = -1;
        }
    }
    if (rc == 0 && (corm_session_text_end(c->session, &piece, &bytes, &c->error) < 0 ||
                    put(&text, piece, bytes) < 0 || say(c, "assistant", text) < 0)) {
        rc = -1;
    }
    putchar('\n');
    free(text);
    return rc;
}

int main(int argc, char **argv) {
    static struct chat c;
    const struct corm_engine_options options = {0}; /* all threads, automatic memory budget */
    char line[4096];
    int status = 1;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s MODEL.corm [MAX_TOKENS]\n", argv[0]);
        return 2;
    }
    c.max_tokens = argc > 2 ? atoi(argv[2]) : 256;
    if (corm_engine_open(&c.engine, argv[1], &options, &c.error) < 0 ||
        corm_session_open(&c.session, c.engine, &c.error) < 0) {
        goto out;
    }
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (say(&c, "user", line) < 0 || answer(&c) < 0) {
            goto out;
        }
    }
    status = 0;
out:
    if (status) {
        fprintf(stderr, "%s: %s\n", argv[0], c.error.message);
    }
    while (c.n > 0) {
        free((char *)c.messages[--c.n].content);
    }
    corm_session_close(c.session);
    corm_engine_close(c.engine);
    return status;
}
