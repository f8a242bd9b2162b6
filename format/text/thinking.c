#include "format/text/thinking.h"

#include <string.h>

struct thinking_tags {
    const char *open, *close;
};

/* A row for each way to write it. */
static const struct thinking_tags tags[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<|channel|>analysis<|message|>", "<|end|>"},
    {"<|channel>thought", "<channel|>"},
};
/* What comes before an answer and says nothing. */
static const char *const dropped[] = {
    "<|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>commentary<|message|>",
    "<|start|>assistant",
};
static const char *const tokens[] = {
    "<think>",     "</think>", "[THINK]",   "[/THINK]",   "<|channel|>",
    "<|message|>", "<|end|>",  "<|start|>", "<|channel>", "<channel|>",
};
enum { N_TAGS = sizeof tags / sizeof *tags, N_DROPPED = sizeof dropped / sizeof *dropped };

void thinking_begin(struct thinking *t, const char *prompt, size_t bytes) {
    thinking_free(t);
    while (bytes && strchr(" \n", prompt[bytes - 1])) {
        bytes--;
    }
    for (size_t i = 0; i < N_TAGS; i++) {
        size_t n = strlen(tags[i].open);
        if (bytes >= n && !memcmp(prompt + bytes - n, tags[i].open, n)) {
            t->tags = &tags[i];
            t->skips_newlines = true;
        }
    }
}

bool thinking_goes_on(struct thinking *t, const char *text, size_t bytes) {
    struct buf thought = {0}, answer = {0};
    thinking_push(t, text, bytes, &thought, &answer);
    buf_free(&thought);
    buf_free(&answer);
    return t->tags != NULL;
}

bool thinking_tag(size_t i, const char **open, const char **close) {
    if (i >= N_TAGS) {
        return false;
    }
    *open = tags[i].open;
    *close = tags[i].close;
    return true;
}

const char *thinking_token(size_t i) {
    return i < sizeof tokens / sizeof *tokens ? tokens[i] : NULL;
}

void thinking_free(struct thinking *t) {
    buf_free(&t->pending);
    buf_free(&t->white);
    *t = (struct thinking){0};
}

/* Text that is no tag. White space waits: where a tag follows, it is dropped. */
static void put(struct thinking *t, const char *text, size_t bytes, struct buf *thought,
                struct buf *answer) {
    struct buf *out = t->tags ? thought : answer;
    for (size_t i = 0; i < bytes; i++) {
        bool newline = text[i] == '\n';
        if (newline && t->skips_newlines) {
            continue;
        }
        t->skips_newlines = false;
        if ((newline || text[i] == ' ') && (t->tags || !t->answered)) {
            buf_append(&t->white, text + i, 1);
            continue;
        }
        buf_append(out, t->white.data, t->white.len);
        t->white.len = 0;
        t->answered |= !t->tags;
        buf_append(out, text + i, 1);
    }
}

/* The tags that count now: 1 and the row behind `*row` whose tag a text begins with; 0; or -1 where
 * more of the text has to be seen. */
static int match(const struct thinking *t, const char *text, size_t bytes, size_t *tag_bytes,
                 const struct thinking_tags **row) {
    const char *candidates[N_TAGS + N_DROPPED];
    size_t n = 0;
    bool unclear = false;
    if (t->tags) {
        candidates[n++] = t->tags->close;
    } else if (!t->answered) {
        for (size_t i = 0; i < N_TAGS; i++) {
            candidates[n++] = tags[i].open;
        }
        for (size_t i = 0; i < N_DROPPED; i++) {
            candidates[n++] = dropped[i];
        }
    }
    *tag_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = strlen(candidates[i]);
        if (bytes < k) {
            unclear |= !memcmp(candidates[i], text, bytes);
        } else if (k > *tag_bytes && !memcmp(candidates[i], text, k)) {
            *tag_bytes = k;
            *row = !t->tags && i < N_TAGS ? &tags[i] : NULL;
        }
    }
    return unclear ? -1 : *tag_bytes > 0;
}

/* Takes what is pending as far as it is certain, or all of it. */
static void take(struct thinking *t, bool all, struct buf *thought, struct buf *answer) {
    const char *text = t->pending.data;
    size_t i = 0, tag_bytes;
    while (i < t->pending.len) {
        const struct thinking_tags *row = NULL;
        int found = match(t, text + i, t->pending.len - i, &tag_bytes, &row);
        if (found < 0 && !all) {
            break;
        }
        if (tag_bytes) {
            t->tags = row;
            t->answered = false;
            t->skips_newlines = true;
            t->white.len = 0;
            i += tag_bytes;
        } else {
            put(t, text + i++, 1, thought, answer);
        }
    }
    memmove(t->pending.data, text + i, t->pending.len - i);
    t->pending.len -= i;
}

void thinking_push(struct thinking *t, const char *text, size_t bytes, struct buf *thought,
                   struct buf *answer) {
    if (bytes) {
        buf_append(&t->pending, text, bytes);
        take(t, false, thought, answer);
    }
}

void thinking_end(struct thinking *t, struct buf *thought, struct buf *answer) {
    if (t->pending.len) {
        take(t, true, thought, answer);
    }
    if (!t->tags) {
        buf_append(answer, t->white.data, t->white.len);
    }
    thinking_free(t);
}
