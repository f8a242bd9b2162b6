#include "prep/corpus.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "prep/archive_input.h"

static const char SEPARATOR[] = "<|endoftext|>";
enum {
    MAX_TEXT_BYTES = 1 << 30,
    READ_BYTES = 1 << 16,
    /* No text packs better than this: what unpacks to more is not worth its memory. */
    UNPACKED_BASE = 16 << 20,
    UNPACKED_FACTOR = 64
};

void corpus_free(struct corpus *c) {
    free(c->ids);
    free(c->seqs);
    *c = (struct corpus){0};
}

void corpus_copy(struct corpus *c, const struct corpus *from) {
    *c = *from;
    c->ids = mem_alloc(from->n_tok * sizeof *c->ids);
    c->seqs = mem_alloc(from->n_seqs * sizeof *c->seqs);
    c->cap_tok = from->n_tok;
    c->cap_seqs = from->n_seqs;
    if (from->n_seqs > 0) {
        memcpy(c->ids, from->ids, from->n_tok * sizeof *c->ids);
        memcpy(c->seqs, from->seqs, from->n_seqs * sizeof *c->seqs);
    }
}

void corpus_add_ids(struct corpus *c, const int32_t *ids, uint32_t n) {
    c->ids = mem_grow(c->ids, (size_t)c->n_tok + n, &c->cap_tok, sizeof *c->ids);
    c->seqs = mem_grow(c->seqs, (size_t)c->n_seqs + 1, &c->cap_seqs, sizeof *c->seqs);
    memcpy(c->ids + c->n_tok, ids, n * sizeof *c->ids);
    c->seqs[c->n_seqs++] = (struct corpus_seq){c->n_tok, n};
    c->n_tok += n;
}

static int add_document(struct corpus *c, const struct tokenizer *tok, const char *text,
                        size_t bytes, uint32_t seq_tok, struct err *err) {
    struct token_list list = {0};
    if (tokenizer_encode(tok, text, bytes, TOKENIZER_ADD_SPECIAL, &list, err) < 0) {
        token_list_free(&list);
        return c->tokenizer_of ? err_prefix(err, "the tokenizer of %s", c->tokenizer_of) : -1;
    }
    for (size_t first = 0; first < list.n; first += seq_tok) {
        size_t n = list.n - first < seq_tok ? list.n - first : seq_tok;
        if (n >= CORPUS_MIN_SEQ_TOK && n <= CORPUS_MAX_TOK - c->n_tok) {
            corpus_add_ids(c, (const int32_t *)list.ids + first, (uint32_t)n);
        } else if (n >= CORPUS_MIN_SEQ_TOK) {
            token_list_free(&list);
            return err_set(err, "more than %d tokens of text", CORPUS_MAX_TOK);
        }
    }
    token_list_free(&list);
    return 0;
}

/* Append the whole text of one file, which is cut into documents at separator lines. */
static int add_text(struct corpus *c, const struct tokenizer *tok, const char *name,
                    const char *text, size_t bytes, uint32_t seq_tok, struct err *err) {
    if (memchr(text, 0, bytes)) {
        return err_set(err, "%s: not a text file: it holds a zero byte", name);
    }
    c->text_bytes += bytes;
    size_t start = 0, sep = strlen(SEPARATOR);
    while (start < bytes) {
        if (stop_check(c->stop, err) < 0) {
            return -1;
        }
        size_t end = start, next = bytes;
        for (; end < bytes; end++) {
            bool line_start = end == start || text[end - 1] == '\n';
            if (line_start && bytes - end >= sep && memcmp(text + end, SEPARATOR, sep) == 0 &&
                (end + sep == bytes || text[end + sep] == '\n' || text[end + sep] == '\r')) {
                next = end + sep;
                while (next < bytes && (text[next] == '\n' || text[next] == '\r')) {
                    next++;
                }
                break;
            }
        }
        if (end > start && add_document(c, tok, text + start, end - start, seq_tok, err) < 0) {
            return err_prefix(err, "%s", name);
        }
        start = next;
    }
    return 0;
}

/* ---- files and archives ---- */

/* *unpacked counts the bytes of all entries so far. */
static int read_entry(const struct corpus *c, struct archive *a, const struct archive_input *in,
                      const char *name, uint64_t *unpacked, struct buf *out, struct err *err) {
    char *block = mem_alloc(READ_BYTES);
    la_ssize_t n = 0;
    out->len = 0;
    bool bomb = false, stopped = false;
    while (!bomb && !(stopped = stop_check(c->stop, err) < 0) &&
           (n = archive_read_data(a, block, READ_BYTES)) > 0 && out->len <= MAX_TEXT_BYTES) {
        int64_t packed = archive_filter_bytes(a, -1);
        *unpacked += (uint64_t)n;
        bomb = *unpacked > UNPACKED_BASE + UNPACKED_FACTOR * (uint64_t)(packed > 0 ? packed : 0);
        buf_append(out, block, (size_t)n);
    }
    free(block);
    if (stopped) {
        return -1;
    }
    if (bomb) {
        return err_set(err, "%s: unpacks to more than %d times its size: that is no text", name,
                       UNPACKED_FACTOR);
    }
    if (n < 0) {
        return archive_input_check(in, err) < 0
                   ? -1
                   : err_set(err, "%s: %s", name, archive_error_string(a));
    }
    if (out->len > MAX_TEXT_BYTES) {
        return err_set(err, "%s: more than %d bytes of text", name, MAX_TEXT_BYTES);
    }
    return 0;
}

/* Append a file, or every regular file of an archive; libarchive tells which of both it is. */
static int add_file(struct corpus *c, const struct tokenizer *tok, const char *path,
                    uint32_t seq_tok, struct err *err) {
    struct archive *a = archive_read_new();
    struct archive_input in = {.fd = -1};
    struct archive_entry *entry;
    struct buf text = {0};
    uint64_t unpacked = 0;
    int status = -1, r;
    /* By name, not "all": some of all are found in plain text (uuencode). */
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_zstd(a);
    archive_read_support_filter_xz(a);
    archive_read_support_filter_bzip2(a);
    archive_read_support_format_tar(a);
    archive_read_support_format_zip(a);
    archive_read_support_format_raw(a);
    archive_read_support_format_empty(a);
    if (archive_input_open(&in, a, path, READ_BYTES, "not a text", err) < 0) {
        goto out;
    }
    /* A warning is about the entry's name, which is for messages only. */
    while ((r = archive_read_next_header(a, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
        const char *inside = archive_entry_pathname(entry);
        bool raw = archive_format(a) == ARCHIVE_FORMAT_RAW;
        if (!raw && archive_entry_filetype(entry) != AE_IFREG) {
            continue;
        }
        char *name = raw ? mem_strdup(path) : mem_printf("%s:%s", path, inside ? inside : "?");
        int e = read_entry(c, a, &in, name, &unpacked, &text, err);
        /* Before what was read is used: it may be only the part before the error. */
        e = archive_input_check(&in, err) < 0 ? -1 : e;
        if (e == 0 && text.len > 0) {
            e = add_text(c, tok, name, text.data, text.len, seq_tok, err);
        }
        free(name);
        if (e < 0) {
            goto out;
        }
    }
    if (archive_input_check(&in, err) < 0) {
        goto out;
    }
    if (r != ARCHIVE_EOF) {
        err_set(err, "%s: %s", path, archive_error_string(a));
        goto out;
    }
    status = 0;
out:
    archive_read_free(a);
    archive_input_close(&in);
    buf_free(&text);
    return status;
}

static int skip_hidden(const struct dirent *d) {
    return d->d_name[0] != '.';
}

int corpus_add(struct corpus *c, const struct tokenizer *tok, const char *path, uint32_t seq_tok,
               struct err *err) {
    struct stat st;
    if (stat(path, &st) < 0) {
        return err_errno(err, errno, "%s", path);
    }
    if (!S_ISDIR(st.st_mode)) {
        return add_file(c, tok, path, seq_tok, err);
    }
    struct dirent **names;
    int n = scandir(path, &names, skip_hidden, alphasort), status = 0;
    if (n < 0) {
        return err_errno(err, errno, "%s", path);
    }
    for (int i = 0; i < n; i++) {
        char *inside = mem_printf("%s/%s", path, names[i]->d_name);
        if (status == 0) {
            status = corpus_add(c, tok, inside, seq_tok, err);
        }
        free(inside);
        free(names[i]);
    }
    free(names);
    return status;
}

void corpus_thin(struct corpus *c, uint32_t max_tok) {
    if (max_tok == 0 || c->n_tok <= max_tok) {
        return;
    }
    /* Keep a sequence whenever the kept share would fall behind the wanted one. */
    uint64_t seen = 0, all = c->n_tok;
    uint32_t kept_tok = 0, n_kept = 0;
    for (uint32_t i = 0; i < c->n_seqs; i++) {
        struct corpus_seq s = c->seqs[i];
        seen += s.n;
        uint64_t due = seen * max_tok / all;
        if (kept_tok + s.n > due + s.n / 2 || kept_tok + s.n > max_tok) {
            continue;
        }
        memmove(c->ids + kept_tok, c->ids + s.first, s.n * sizeof *c->ids);
        c->seqs[n_kept++] = (struct corpus_seq){kept_tok, s.n};
        kept_tok += s.n;
    }
    if (n_kept == 0 && max_tok >= CORPUS_MIN_SEQ_TOK) {
        kept_tok = c->seqs[0].n < max_tok ? c->seqs[0].n : max_tok;
        c->seqs[n_kept++] = (struct corpus_seq){0, kept_tok};
    }
    c->n_seqs = n_kept;
    c->n_tok = kept_tok;
}
