/*
 * run_logits: the model's logits for given ids, as a .npy file, for comparing with other programs.
 *
 * Owns: the command's options, where the ids come from, the report. The file format is npy's.
 * Leaves to others: all that run.h lists.
 * Threads: the main thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/logits.h"
#include "runtime/run/npy.h"
#include "runtime/run/run.h"

struct logits_options {
    struct run_options run;
    const char *ids, *ids_file, *output;
};

enum { ID_BYTES = 64 }; /* an id's digits are fewer */

/* Parse `bytes` of text, with room for a NUL behind. Unless they are the last ones, an id at the
 * end may go on: it goes to the front, and its length to *begun. */
static int take_piece(const char *path, char *text, size_t bytes, bool last, size_t *begun,
                      struct run_ids *out, size_t *cap, struct err *err) {
    static const char parting[] = ", \t\r\n[]";
    size_t whole = bytes;
    while (!last && whole > 0 && !memchr(parting, text[whole - 1], sizeof parting - 1)) {
        whole--;
    }
    const char next = text[whole];
    text[whole] = '\0';
    if (cli_ids_append(text, whole, path, &out->ids, &out->n, cap, err) < 0) {
        return -1;
    }
    text[whole] = next;
    *begun = bytes - whole;
    memmove(text, text + whole, *begun);
    if (*begun > ID_BYTES) {
        return err_set(err, "%s: '%.40s' at position %zu is no token id", path, text, out->n);
    }
    return out->n <= RUN_MOST_TOK
               ? 0
               : err_set(err, "%s: more than %d token ids: no context holds them", path,
                         RUN_MOST_TOK);
}

/* The ids of a file, piece by piece: a file of any length takes no more memory than a context. */
static int read_file(const char *path, struct run_ids *out, struct err *err) {
    struct run_text file;
    size_t begun = 0, cap = 0;
    char *text = mem_alloc(ID_BYTES + RUN_PIECE_BYTES + 1);
    ssize_t n = 1;
    int rc = run_text_open(&file, path, err);
    while (rc == 0 && n > 0) {
        n = run_text_read(&file, text + begun, err);
        if (n > 0 && memchr(text + begun, '\0', (size_t)n)) {
            n = err_set(err, "%s: expected token ids, found binary data", path);
        }
        rc = n < 0 ? -1 : take_piece(path, text, begun + (size_t)n, n == 0, &begun, out, &cap, err);
    }
    free(text);
    run_text_close(&file);
    return rc;
}

static int read_ids(const struct logits_options *o, struct run_ids *out, struct err *err) {
    const char *from = o->ids ? "--ids" : o->ids_file;
    if (!o->ids == !o->ids_file) {
        err_set(err, o->ids ? "--ids and --ids-file exclude each other"
                            : "token ids are missing: --ids 1,2,3 or --ids-file FILE");
        return CLI_USAGE;
    }
    if (o->ids ? cli_ids_parse(o->ids, strlen(o->ids), from, &out->ids, &out->n, err)
               : read_file(o->ids_file, out, err)) {
        return -1;
    }
    return out->n ? 0 : err_set(err, "%s: no token ids", from);
}

static int check_ids(const struct run *r, const struct run_ids *ids, struct err *err) {
    const struct logits_options *o = r->call->values;
    for (size_t i = 0; i < ids->n; i++) {
        if ((uint32_t)ids->ids[i] >= r->info->vocab) {
            return err_set(err,
                           "%s: id %" PRId32 " at position %zu is too great: the vocabulary has %u",
                           o->ids ? "--ids" : o->ids_file, ids->ids[i], i, r->info->vocab);
        }
    }
    return 0;
}

/* Evaluate in batches. The logits of each batch go to the file, where one is wanted. */
static int write_logits(struct run *r, const struct run_ids *ids, struct npy *file,
                        struct err *err) {
    for (size_t done = 0, rows; done < ids->n; done += rows) {
        if (run_interrupted()) {
            return RUN_INTERRUPTED;
        }
        rows = ids->n - done < r->info->batch_rows ? ids->n - done : r->info->batch_rows;
        const float *logits;
        struct corm_error error;
        if (corm_session_eval(r->session, ids->ids + done, rows, true, &logits, &error) < 0) {
            return run_fail(err, &error);
        }
        for (size_t i = 0; i < rows; i++) {
            if (!logits_finite(logits + i * r->info->vocab, r->info->vocab)) {
                return err_set(err, "%s: the logits of the id at position %zu are not finite",
                               r->model, done + i);
            }
        }
        if (file->open && npy_append(file, logits, rows, err) < 0) {
            return -1;
        }
        progress_update(r->progress, done + rows);
    }
    return file->open ? npy_finish(file, err) : 0;
}

static void report(const struct run *r, const struct run_ids *ids) {
    const char *output = ((const struct logits_options *)r->call->values)->output;
    struct corm_stats stats = run_stats(r);
    struct run_json j;
    if (run_report_begin(r, NULL, &stats, &j)) {
        run_json_u64(&j, "tokens", ids->n);
        run_json_u64(&j, "vocab", r->info->vocab);
        if (output) {
            run_json_string(&j, "output", output);
        }
        run_stats_json(&j, NULL, &stats);
        run_json_print(&j);
        return;
    }
    if (output) {
        char *name = text_cleaned(output);
        printf("%s: float32 [%zu, %u]\n", name, ids->n, r->info->vocab);
        free(name);
    }
    printf("logits hash %016" PRIx64 "\n", stats.logits_hash);
}

static int run(const struct cli_call *call, struct err *err) {
    const struct logits_options *o = call->values;
    struct run r = {0};
    struct run_ids ids = {0};
    struct npy file = {0};
    int status = read_ids(o, &ids, err);
    if (status == 0) {
        r.wish.loss_in_batches = true;
        r.wish.all_logits = true;
        r.wish.caller_bytes = ids.n * sizeof *ids.ids;
        status = run_open(&r, call, ids.n < UINT32_MAX ? (uint32_t)ids.n : UINT32_MAX, err);
    }
    if (status == 0) {
        status = check_ids(&r, &ids, err);
    }
    run_catch_interrupt();
    if (status == 0 && o->output) {
        status = npy_create(&file, o->output, ids.n, r.info->vocab, run_remove_at_end, err);
    }
    if (status == 0) {
        progress_start(r.progress, "logits", ids.n, PROGRESS_TOKENS);
        status = write_logits(&r, &ids, &file, err);
        progress_finish(r.progress);
    }
    if (status == 0) {
        report(&r, &ids);
    }
    npy_close(&file);
    run_close(&r);
    free(ids.ids);
    return status;
}

#define FIELD(member) CLI_FIELD(struct logits_options, member)

static const struct cli_option logits_rows[] = {
    {"ids", 0, CLI_STRING, FIELD(ids), "LIST", .help = "Token ids, parted by commas."},
    {"ids-file", 0, CLI_STRING, FIELD(ids_file), "FILE",
     .help =
         "Token ids from a file, parted by commas, blanks or newlines; - reads standard input."},
    {"output", 'o', CLI_STRING, FIELD(output), "FILE.npy",
     .help = "Where to write the logits: NumPy format, float32 [ids, vocabulary]."},
    {0},
};

static const struct cli_group ids_and_result = {"Ids and result", logits_rows};

const struct cli_command run_logits_command = {
    "logits",
    "write logits for given token ids",
    run,
    .args = "MODEL.corm",
    .min_args = 1,
    .max_args = 1,
    .groups = {&ids_and_result, &run_machine_group, &run_figures_group},
    .values_bytes = sizeof(struct logits_options),
    .defaults = run_defaults,
    .description =
        "For comparing with other programs: row i of the result has the logits of "
        "the token that comes after ids 0 to i. The hash is XXH3-64 of the last row; it is the "
        "same for every thread count, batch and budget; on a device, whose batches of more than 8 "
        "tokens sum in another order, for every budget with --missed device. With --missed cpu, "
        "and with fit where all experts fit into --ram, another budget may change its last bits.",
    .examples = "corm-run logits model.corm --ids 1,15,7 -o out.npy\n"
                "#Then in Python: numpy.load(\"out.npy\").argmax(1)\n"};
