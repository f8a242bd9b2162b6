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

/* Parse at least one id; `from` names the text's place in messages. */
static int parse_ids(const char *text, size_t bytes, const char *from, struct run_ids *out,
                     struct err *err) {
    if (cli_ids_parse(text, bytes, from, &out->ids, &out->n, err) < 0) {
        return -1;
    }
    return out->n ? 0 : err_set(err, "%s: no token ids", from);
}

static int read_ids(const struct logits_options *o, struct run_ids *out, struct err *err) {
    if (!o->ids == !o->ids_file) {
        err_set(err, o->ids ? "--ids and --ids-file exclude each other"
                            : "token ids are missing: --ids 1,2,3 or --ids-file FILE");
        return CLI_USAGE;
    }
    if (o->ids) {
        return parse_ids(o->ids, strlen(o->ids), "--ids", out, err);
    }
    struct buf text = {0};
    int status = run_read(o->ids_file, &text, err);
    if (status == 0 && text.len && memchr(text.data, '\0', text.len)) {
        status = err_set(err, "%s: expected token ids, found binary data", o->ids_file);
    }
    if (status == 0) {
        status = parse_ids(text.len ? text.data : "", text.len, o->ids_file, out, err);
    }
    buf_free(&text);
    return status;
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
        r.loss_in_batches = true;
        r.all_logits = true;
        r.caller_bytes = ids.n * sizeof *ids.ids;
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
        "same for every thread count, batch and budget.",
    .examples = "corm-run logits model.corm --ids 1,15,7 -o out.npy\n"
                "#Then in Python: numpy.load(\"out.npy\").argmax(1)\n"};
