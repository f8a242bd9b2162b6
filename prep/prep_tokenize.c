/*
 * prep_tokenize: the command `corm-prep tokenize`, from text to token ids or back.
 *
 * Owns: its options, where the text or the ids come from, what is printed.
 * Leaves to others: all that prep.h lists; the tokenizer.
 * Threads: the main thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "format/corm_read.h"
#include "format/text/tokenizer.h"
#include "prep/json_out.h"
#include "prep/prep.h"

enum { MAX_INPUT_BYTES = 1 << 30 };

struct tokenize_options {
    struct prep_options prep;
    const char *prompt;
    bool decode, no_special, raw;
};

/* Up to `bytes` of standard input, 0 at its end; -1 on an error. */
static ssize_t read_some(char *block, size_t bytes, struct err *err) {
    size_t n = fread(block, 1, bytes, stdin);
    return n == 0 && ferror(stdin) ? err_errno(err, errno, "standard input") : (ssize_t)n;
}

static int read_input(const struct tokenize_options *o, struct buf *in, struct err *err) {
    char block[65536];
    ssize_t n;
    if (o->prompt) {
        buf_append(in, o->prompt, strlen(o->prompt));
        return 0;
    }
    while ((n = read_some(block, sizeof block, err)) > 0) {
        buf_append(in, block, (size_t)n);
        if (in->len > MAX_INPUT_BYTES) {
            return err_set(err, "standard input: more than %d bytes", MAX_INPUT_BYTES);
        }
    }
    buf_append(in, "", 0);
    return n < 0 ? -1 : 0;
}

/* The text's ids, piece by piece. */
static int encode_input(const struct tokenize_options *o, const struct tokenizer *tok,
                        const char *path, struct token_list *ids, struct err *err) {
    unsigned flags = TOKENIZER_PARSE_SPECIAL | (o->no_special ? 0 : TOKENIZER_ADD_SPECIAL);
    struct token_encoder *e = token_encoder_new(tok, flags, 0);
    char block[65536];
    ssize_t n = 0;
    int rc = o->prompt ? token_encoder_push(e, o->prompt, strlen(o->prompt), ids, err) : 0;
    while (!o->prompt && rc == 0 && (n = read_some(block, sizeof block, err)) > 0) {
        rc = token_encoder_push(e, block, (size_t)n, ids, err);
    }
    if (rc == 0 && n == 0) {
        rc = token_encoder_finish(e, ids, err);
    }
    token_encoder_free(e);
    if (n < 0) {
        return -1;
    }
    return rc < 0 ? err_prefix(err, "%s", path) : 0;
}

static int parse_ids(const struct tokenize_options *o, const struct buf *in, struct token_list *ids,
                     struct err *err) {
    int32_t *parsed = NULL;
    size_t n = 0;
    int rc = cli_ids_parse(in->data ? in->data : "", in->len,
                           o->prompt ? "--prompt" : "standard input", &parsed, &n, err);
    for (size_t i = 0; i < n; i++) {
        token_list_add(ids, (uint32_t)parsed[i]);
    }
    free(parsed);
    return rc;
}

static void print_ids(const struct tokenize_options *o, const struct tokenizer *tok,
                      const struct token_list *ids) {
    if (!o->prep.json) {
        for (size_t i = 0; i < ids->n; i++) {
            printf("%s%u", i ? " " : "", ids->ids[i]);
        }
        printf("\n");
        return;
    }
    json_t *list = json_array(), *pieces = json_array();
    for (size_t i = 0; i < ids->n; i++) {
        size_t n = 0;
        const char *piece = tokenizer_piece(tok, ids->ids[i], &n);
        json_t *text = piece ? json_stringn(piece, n) : NULL;
        json_array_append_new(list, json_integer(ids->ids[i]));
        json_array_append_new(pieces, text ? text : json_null());
    }
    json_t *root = json_pack("{s:o, s:o}", "ids", list, "pieces", pieces);
    json_out_print(root, JSON_COMPACT);
}

static int print_text(const struct tokenize_options *o, const char *path,
                      const struct tokenizer *tok, const struct token_list *ids, struct err *err) {
    struct buf out = {0};
    int rc = tokenizer_decode(tok, ids->ids, ids->n, o->no_special ? TOKENIZER_SKIP_SPECIAL : 0,
                              &out, err);
    if (rc < 0) {
        err_prefix(err, "%s", path);
    }
    if (rc == 0 && o->prep.json) {
        json_out_print(json_pack("{s:s%}", "text", out.data ? out.data : "", out.len),
                       JSON_COMPACT);
    } else if (rc == 0) {
        prep_print_text(out.data, out.len, o->raw);
    }
    buf_free(&out);
    return rc;
}

static int tokenize(const struct cli_call *call, struct err *err) {
    const struct tokenize_options *o = call->values;
    const char *path = call->args.items[0];
    struct corm c;
    struct tokenizer *tok = NULL;
    struct buf in = {0};
    struct token_list ids = {0};
    int rc = -1;
    if (corm_open(&c, path, CORM_OPEN_SKIP_TRUNK_HASH, err) < 0) {
        return -1;
    }
    if (tokenizer_open_for(c.tokenizer.data, c.tokenizer.size_bytes, c.arch.vocab, &tok, err) < 0) {
        err_prefix(err, "%s: tokenizer", path);
        goto out;
    }
    if (o->decode) {
        rc = read_input(o, &in, err) < 0 || parse_ids(o, &in, &ids, err) < 0
                 ? -1
                 : print_text(o, path, tok, &ids, err);
        goto out;
    }
    rc = encode_input(o, tok, path, &ids, err);
    if (rc == 0) {
        size_t bytes = 0;
        const char *twice = o->no_special ? NULL : tokenizer_doubled(tok, ids.ids, ids.n, &bytes);
        if (twice) {
            char token[64];
            snprintf(token, sizeof token, "%.*s", (int)(bytes < 63 ? bytes : 63), twice);
            text_clean(token, strlen(token));
            fprintf(stderr,
                    "corm-prep: the text has %s where the tokenizer adds one: it stands there "
                    "twice\n",
                    token);
        }
        print_ids(o, tok, &ids);
    }
out:
    token_list_free(&ids);
    buf_free(&in);
    tokenizer_close(tok);
    corm_close(&c);
    return rc;
}

#define FIELD(member) CLI_FIELD(struct tokenize_options, member)

static const struct cli_option token_rows[] = {
    {"prompt", 'p', CLI_STRING, FIELD(prompt), "TEXT",
     .help = "The text (or ids); without it, standard input."},
    {"decode", 'd', CLI_FLAG, FIELD(decode), .help = "From ids to text."},
    {"no-special", 0, CLI_FLAG, FIELD(no_special),
     .help = "Add no BOS or EOS token; with --decode, leave special tokens out."},
    {"raw", 0, CLI_FLAG, FIELD(raw),
     .help = "With --decode: send control characters to a terminal as they are, and do not show "
             "them as ^[ and the like."},
    {0}};
static const struct cli_group token_group = {"Tokenizing", token_rows};

const struct cli_command prep_tokenize_command = {
    "tokenize",
    "turn text into token ids, or back",
    tokenize,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&token_group, &prep_json_group},
    .values_bytes = sizeof(struct tokenize_options),
    .examples = "corm-prep tokenize model.corm -p 'Once upon a time'\n"
                "corm-prep tokenize model.corm --decode -p '12 845 77'"};
