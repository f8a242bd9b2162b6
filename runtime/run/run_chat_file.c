/*
 * run_chat_file: see run_chat.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/fatal.h"
#include "format/text/value.h"
#include "runtime/run/run_chat.h"

int chat_write_private(const char *path, const char *data, size_t bytes, struct err *err) {
    char *name = mem_printf("%s.XXXXXX", path);
    sigset_t before;
    fatal_hold(&before);
    int fd = mkstemp(name); /* which gives it mode 0600 */
    int rc = fd < 0 ? err_errno(err, errno, "%s: cannot write", path) : 0;
    if (fd >= 0) {
        run_remove_at_end(name);
    }
    fatal_release(&before);
    if (fd >= 0) {
        rc = file_write_all(fd, data, bytes, path, err);
        if (rc == 0 && fsync(fd) < 0 && errno != EINVAL && errno != EROFS) {
            rc = err_errno(err, errno, "%s: cannot write", path);
        }
        if (close(fd) < 0 && rc == 0) {
            rc = err_errno(err, errno, "%s: cannot write", path);
        }
        fatal_hold(&before);
        if (rc == 0 && rename(name, path) < 0) {
            rc = err_errno(err, errno, "%s: cannot write", path);
        }
        if (rc < 0) {
            unlink(name);
        }
        run_remove_at_end(NULL);
        fatal_release(&before);
    }
    free(name);
    return rc;
}

/* ---- the history's place --------------------------------------------------------------------- */

/* Makes a folder, and those above it, for the user alone; one that is there is fine. */
static int make_folders(char *path, struct err *err) {
    for (char *end = path + 1;; end++) {
        if (*end != '/' && *end) {
            continue;
        }
        char next = *end;
        *end = 0;
        int failed = mkdir(path, 0700) < 0 && errno != EEXIST ? errno : 0;
        if (failed) {
            return err_errno(err, failed, "%s: cannot make the folder for the history", path);
        }
        *end = next;
        if (!next) {
            return 0;
        }
    }
}

int chat_history_path(struct buf *path, struct err *err) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    size_t before = path->len;
    if (state && state[0] == '/') { /* another one does not count (XDG Base Directory) */
        buf_printf(path, "%s/corm", state);
    } else if (home && home[0] == '/') {
        buf_printf(path, "%s/.local/state/corm", home);
    } else {
        return err_set(err, "no place for the history: HOME is not set; --history FILE names one");
    }
    if (make_folders(path->data + before, err) < 0) {
        return -1;
    }
    buf_append(path, "/history", 8);
    return 0;
}

/* ---- talks ---------------------------------------------------------------------------------- */

int chat_save(const struct talk *t, const char *path, struct err *err) {
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_open(&j, "messages", '[');
    for (size_t i = 0; i < t->n; i++) {
        const struct talk_message *m = &t->messages[i];
        run_json_open(&j, NULL, '{');
        run_json_string(&j, "role", m->role);
        run_json_string(&j, "content", m->content);
        if (m->thinking) {
            run_json_string(&j, "reasoning_content", m->thinking);
        }
        run_json_close(&j, '}');
    }
    run_json_close(&j, ']');
    run_json_close(&j, '}');
    buf_append(&j.text, "\n", 1);
    int rc = chat_write_private(path, j.text.data, j.text.len, err);
    buf_free(&j.text);
    return rc;
}

/* A message's string, which holds no NUL; NULL: it is none. */
static const char *text_of(const struct value *message, const char *key) {
    const struct value *v =
        message->type == VALUE_DICT ? value_dict_get_text(message->dict, key, strlen(key)) : NULL;
    bool good = v && v->type == VALUE_STRING && strlen(v->text->data) == v->text->len;
    return good ? v->text->data : NULL;
}

static int check_messages(const struct value *list, struct err *err) {
    static const char *const roles[] = {"user", "assistant", "system"};
    if (!list || list->type != VALUE_LIST) {
        return err_set(err, "expected a list of messages, or an object with one as messages");
    }
    for (size_t i = 0; i < list->list->n; i++) {
        const struct value *m = &list->list->items[i];
        const char *role = text_of(m, "role");
        size_t known = 0;
        while (role && known < sizeof roles / sizeof *roles && strcmp(role, roles[known]) != 0) {
            known++;
        }
        if (!role || known == sizeof roles / sizeof *roles || (known == 2 && i > 0)) {
            return err_set(
                err, "messages[%zu]: expected the role user or assistant, or system first", i);
        }
        if (!text_of(m, "content")) {
            return err_set(err, "messages[%zu]: expected text as content", i);
        }
    }
    return 0;
}

int chat_load(struct talk *t, const char *path, struct err *err) {
    struct value_arena arena = {.limit_bytes = 256 << 20};
    struct buf text = {0};
    struct value v;
    int rc = run_read(path, &text, err);
    if (rc == 0 &&
        (value_json_read(&arena, text.len ? text.data : "", text.len, &v, err) < 0 ||
         check_messages(v.type == VALUE_DICT ? value_dict_get_text(v.dict, "messages", 8) : &v,
                        err) < 0)) {
        rc = err_prefix(err, "%s", path);
    }
    if (rc == 0) {
        const struct value_list *list =
            (v.type == VALUE_DICT ? value_dict_get_text(v.dict, "messages", 8) : &v)->list;
        talk_cut(t, 0);
        for (size_t i = 0; i < list->n; i++) {
            const struct value *m = &list->items[i];
            talk_add(t, text_of(m, "role"), text_of(m, "content"), text_of(m, "reasoning_content"));
        }
    }
    value_arena_free(&arena);
    buf_free(&text);
    return rc;
}
