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
    SEPARATOR_BYTES = sizeof SEPARATOR - 1,
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

/* Drop every second sequence, until few enough tokens are left. */
static void thin_out(struct corpus *c) {
    while (c->most_tok && c->n_tok > c->most_tok && c->n_seqs > 1) {
        uint32_t n_tok = 0, n_seqs = 0;
        for (uint32_t i = 0; i < c->n_seqs; i += 2) {
            struct corpus_seq s = c->seqs[i];
            memmove(c->ids + n_tok, c->ids + s.first, s.n * sizeof *c->ids);
            c->seqs[n_seqs++] = (struct corpus_seq){n_tok, s.n};
            n_tok += s.n;
        }
        c->n_tok = n_tok;
        c->n_seqs = n_seqs;
        c->every = 2 * (c->every ? c->every : 1);
    }
}

/* ---- text as it comes ---- */

/* A text between two reads. Its documents end at separator lines. */
struct reading {
    struct corpus *corpus;
    const char *name; /* of the text, for messages */
    uint32_t seq_tok;
    struct token_encoder *encoder;
    struct token_list ids;   /* of the document, which are in no sequence yet */
    uint64_t document_bytes; /* of the document, so far */
    enum { IN_LINE, LINE_BEGINS, BEHIND_SEPARATOR } at;
    size_t matched; /* LINE_BEGINS: bytes of SEPARATOR that the line begins with */
};

/* Take whole sequences of the ids that have come. `last`: the rest too. */
static int take_sequences(struct reading *r, bool last, struct err *err) {
    struct corpus *c = r->corpus;
    size_t first = 0;
    while (first < r->ids.n && (last || r->ids.n - first >= r->seq_tok)) {
        size_t n = r->ids.n - first < r->seq_tok ? r->ids.n - first : r->seq_tok;
        if (n >= CORPUS_MIN_SEQ_TOK && n > CORPUS_MAX_TOK - c->n_tok) {
            return err_set(err, "%s: more than %d tokens of text", r->name, CORPUS_MAX_TOK);
        }
        if (n >= CORPUS_MIN_SEQ_TOK && c->seen_seqs++ % (c->every ? c->every : 1) == 0) {
            corpus_add_ids(c, (const int32_t *)r->ids.ids + first, (uint32_t)n);
            thin_out(c);
        }
        first += n;
    }
    r->ids.n -= first;
    if (r->ids.n && first) {
        memmove(r->ids.ids, r->ids.ids + first, r->ids.n * sizeof *r->ids.ids);
    }
    return 0;
}

/* What the tokenizer cannot do is told with whose it is. */
static int encode_error(const struct reading *r, struct err *err) {
    const char *from = r->corpus->tokenizer_of;
    if (from) {
        err_prefix(err, "the tokenizer of %s", from);
    }
    return err_prefix(err, "%s", r->name);
}

static int put_text(struct reading *r, const char *text, size_t bytes, struct err *err) {
    if (bytes == 0) {
        return 0;
    }
    r->document_bytes += bytes;
    if (token_encoder_push(r->encoder, text, bytes, &r->ids, err) < 0) {
        return encode_error(r, err);
    }
    return take_sequences(r, false, err);
}

static int end_document(struct reading *r, struct err *err) {
    if (r->document_bytes == 0) {
        return 0;
    }
    r->document_bytes = 0;
    if (token_encoder_finish(r->encoder, &r->ids, err) < 0) {
        return encode_error(r, err);
    }
    return take_sequences(r, true, err);
}

/* The bytes of the line that begins, as far as they may be a separator. Returns how many of `text`
 * it took. */
static int begin_line(struct reading *r, const char *text, size_t bytes, size_t *taken,
                      struct err *err) {
    size_t n = 0;
    while (n < bytes && r->matched < SEPARATOR_BYTES && text[n] == SEPARATOR[r->matched]) {
        n++;
        r->matched++;
    }
    *taken = n;
    if (n == bytes) {
        return 0;
    }
    bool separates = r->matched == SEPARATOR_BYTES && (text[n] == '\n' || text[n] == '\r');
    size_t held = r->matched;
    r->at = separates ? BEHIND_SEPARATOR : IN_LINE;
    r->matched = 0;
    return separates ? end_document(r, err) : put_text(r, SEPARATOR, held, err);
}

static int read_block(struct reading *r, const char *text, size_t bytes, struct err *err) {
    if (memchr(text, 0, bytes)) {
        return err_set(err, "%s: not a text file: it holds a zero byte", r->name);
    }
    r->corpus->text_bytes += bytes;
    for (size_t i = 0, n; i < bytes; i += n) {
        if (r->at == LINE_BEGINS) {
            if (begin_line(r, text + i, bytes - i, &n, err) < 0) {
                return -1;
            }
        } else if (r->at == BEHIND_SEPARATOR) {
            n = text[i] == '\n' || text[i] == '\r';
            r->at = n ? BEHIND_SEPARATOR : LINE_BEGINS;
        } else {
            /* Whole lines, up to one that may be a separator. */
            const char *line = text + i, *end = text + bytes;
            while (line < end && (line == text + i || *line != SEPARATOR[0])) {
                const char *newline = memchr(line, '\n', (size_t)(end - line));
                line = newline ? newline + 1 : end;
                r->at = newline ? LINE_BEGINS : IN_LINE;
            }
            n = (size_t)(line - text) - i;
            if (put_text(r, text + i, n, err) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int end_text(struct reading *r, struct err *err) {
    bool separates = r->at == LINE_BEGINS && r->matched == SEPARATOR_BYTES;
    size_t held = r->at == LINE_BEGINS && !separates ? r->matched : 0;
    return put_text(r, SEPARATOR, held, err) < 0 ? -1 : end_document(r, err);
}

/* ---- files and archives ---- */

/* *unpacked counts the bytes of all entries so far. */
static int read_entry(struct reading *r, struct archive *a, const struct archive_input *in,
                      uint64_t *unpacked, struct err *err) {
    char *block = mem_alloc(READ_BYTES);
    int rc = 0;
    while (rc == 0) {
        if (stop_check(r->corpus->stop, err) < 0) {
            rc = -1;
            break;
        }
        la_ssize_t n = archive_read_data(a, block, READ_BYTES);
        int64_t packed = archive_filter_bytes(a, -1);
        /* Before what was read is used: it may be only the part before the error. */
        if (archive_input_check(in, err) < 0) {
            rc = -1;
        } else if (n < 0) {
            rc = err_set(err, "%s: %s", r->name, archive_error_string(a));
        } else if (n == 0) {
            break;
        } else if ((*unpacked += (uint64_t)n) >
                   UNPACKED_BASE + UNPACKED_FACTOR * (uint64_t)(packed > 0 ? packed : 0)) {
            rc = err_set(err, "%s: unpacks to more than %d times its size: that is no text",
                         r->name, UNPACKED_FACTOR);
        } else {
            rc = read_block(r, block, (size_t)n, err);
        }
    }
    free(block);
    return rc < 0 ? -1 : end_text(r, err);
}

/* Append a file, or every regular file of an archive; libarchive tells which of both it is. */
static int add_file(struct corpus *c, const struct tokenizer *tok, const char *path,
                    uint32_t seq_tok, struct err *err) {
    struct archive *a = archive_read_new();
    struct archive_input in = {.fd = -1};
    struct archive_entry *entry;
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
        struct reading reading = {.corpus = c,
                                  .name = name,
                                  .seq_tok = seq_tok,
                                  .encoder = token_encoder_new(tok, TOKENIZER_ADD_SPECIAL, 0),
                                  .at = LINE_BEGINS};
        int e = read_entry(&reading, a, &in, &unpacked, err);
        token_encoder_free(reading.encoder);
        token_list_free(&reading.ids);
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
