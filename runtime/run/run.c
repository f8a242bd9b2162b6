/*
 * run: see run.h.
 */
#include "runtime/run/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- opening -------------------------------------------------------------------------------- */

uint64_t run_chat_bytes(uint64_t text_bytes) {
    const uint64_t few = 64 << 10, least = 8 << 20, most = 256 << 20;
    const uint64_t bytes = text_bytes < most ? least + 24 * text_bytes : most;
    return text_bytes <= few ? 0 : bytes < most ? bytes : most;
}

int run_open(struct run *r, const struct cli_call *call, uint32_t ctx_tok, struct err *err) {
    const struct run_options *o = call->values;
    *r = (struct run){.call = call, .o = o, .model = call->args.items[0], .wish = r->wish};
    r->wish.ctx_tok = ctx_tok;
    r->wish.loss_in_batches &= o->loss > 0;
    struct corm_error error;
    r->progress = progress_terminal_init(&r->terminal, stderr, o->quiet);
    int status = run_engine_open(&r->engine, o, r->model, &r->wish, err);
    if (status != 0) {
        return status;
    }
    r->info = corm_engine_info(r->engine);
    if (corm_session_open(&r->session, r->engine, &error) < 0) {
        return run_fail(err, &error);
    }
    return 0;
}

void run_close(struct run *r) {
    if (r->session) {
        corm_session_close(r->session);
    }
    corm_engine_close(r->engine);
    *r = (struct run){0};
}

/* -- input ---------------------------------------------------------------------------------- */

int run_read_template(const struct run *r, const char *name, struct buf *source,
                      struct corm_chat *chat, struct err *err) {
    size_t bytes;
    if (!name) {
        return 0;
    }
    const char *text = corm_chat_template_named(r->engine, name, &bytes);
    buf_append(source, text ? text : "", bytes); /* an empty file is an empty template */
    if (!text && run_read(name, source, err) < 0) {
        return err_prefix(err, "--chat-template: the archive has no template of that name");
    }
    if (source->len != strlen(source->data)) {
        return err_set(err, "%s: a chat template has no NUL in it", name);
    }
    chat->chat_template = source->data;
    chat->template_name = name;
    return 0;
}

/* -- evaluation ----------------------------------------------------------------------------- */

int run_eval(struct run *r, const int32_t *ids, size_t n, struct progress *progress,
             struct err *err) {
    for (size_t done = 0; done < n;) {
        if (run_interrupted()) {
            return RUN_INTERRUPTED;
        }
        size_t rows = n - done < r->info->batch_rows ? n - done : r->info->batch_rows;
        if (n - done - rows == 1 && rows > 1) {
            rows--; /* a call of one token would count as decoding */
        }
        bool last = done + rows == n; /* only there the logits are wanted */
        const float *logits;
        struct corm_error error;
        if (corm_session_eval(r->session, ids + done, rows, false, last ? &logits : NULL, &error) <
            0) {
            return run_fail(err, &error);
        }
        done += rows;
        progress_update(progress, done);
    }
    return 0;
}

int run_sample(struct run *r, const struct corm_sampling *how, int32_t *id, struct err *err) {
    *id = corm_session_sample(r->session, how);
    if (*id < 0 && how->allowed) {
        return err_set(err, "%s: no token that the grammar allows can be chosen", r->model);
    }
    if (*id < 0) {
        return err_set(err,
                       "%s: no token to choose: the logits of token %" PRIu32 " are not finite",
                       r->model, corm_session_length(r->session));
    }
    return 0;
}

/* -- figures -------------------------------------------------------------------------------- */

struct corm_stats run_stats(const struct run *r) {
    struct corm_stats stats;
    corm_session_stats(r->session, &stats);
    return stats;
}

static double part(uint64_t a, uint64_t whole) {
    return whole > 0 ? (double)a / (double)whole : 0;
}

struct run_phase run_phase(const struct corm_stats *from, const struct corm_stats *to) {
    struct run_phase p = {
        .tok = to->prefill_tok + to->decode_tok - from->prefill_tok - from->decode_tok,
        .ns = to->prefill_ns + to->decode_ns - from->prefill_ns - from->decode_ns,
        .weight_bytes = to->weight_bytes - from->weight_bytes,
        .read_bytes = to->read_bytes - from->read_bytes,
    };
    if (p.tok > 0 && p.ns > 0) {
        double ns = (double)p.ns, tok = (double)p.tok;
        p.ms_per_tok = ns / tok / 1e6;
        p.tok_per_s = tok / ns * 1e9;
        p.weight_per_tok = (double)p.weight_bytes / tok;
        p.read_per_tok = (double)p.read_bytes / tok;
        p.weight_gb_per_s = (double)p.weight_bytes / ns; /* bytes per ns */
        p.demanded_per_tok =
            (double)(to->copied_demanded_bytes - from->copied_demanded_bytes) / tok;
        p.guessed_per_tok = (double)(to->copied_guessed_bytes - from->copied_guessed_bytes) / tok;
        p.chunks_per_tok = (double)(to->copied_chunks - from->copied_chunks) / tok;
        p.copies_per_tok = (double)(to->copies - from->copies) / tok;
        p.launches_per_tok = (double)(to->launches - from->launches) / tok;
        p.waits_per_tok = (double)(to->waits - from->waits) / tok;
        p.small_copies_per_tok = (double)(to->small_copies - from->small_copies) / tok;
        p.small_bytes_per_tok = (double)(to->small_copy_bytes - from->small_copy_bytes) / tok;
    }
    uint64_t hits = to->cache_hits - from->cache_hits, copy_ns = to->copy_ns - from->copy_ns;
    p.hit_share = part(hits, hits + to->cache_misses - from->cache_misses);
    p.stall_share = part(to->stall_ns - from->stall_ns, p.ns);
    p.cpu_share = part(to->cpu_bytes - from->cpu_bytes, to->expert_bytes - from->expert_bytes);
    p.hidden_share = copy_ns == 0 ? -1 : part(to->copy_hidden_ns - from->copy_hidden_ns, copy_ns);
    return p;
}

static void print_phase(const char *name, const struct run_phase *p) {
    if (p->tok == 0) {
        return;
    }
    char weights[CLI_SIZE_TEXT], archive[CLI_SIZE_TEXT];
    fprintf(stderr,
            "%-8s %" PRIu64
            " tokens, %.2f ms/tok, %.1f tok/s; weights %s/tok (%.2f GB/s), from the "
            "archive %s/tok\n",
            name, p->tok, p->ms_per_tok, p->tok_per_s,
            cli_size_text(weights, (uint64_t)p->weight_per_tok), p->weight_gb_per_s,
            cli_size_text(archive, (uint64_t)p->read_per_tok));
}

void run_stats_print(const struct corm_stats *mid, const struct corm_stats *end) {
    struct corm_stats zero = {0};
    const struct corm_stats *parted = mid ? mid : end;
    struct run_phase prefill = run_phase(&zero, parted), decode = run_phase(parted, end);
    print_phase(!mid && end->decode_tok > 0 ? "all" : "prefill", &prefill);
    print_phase("decode", &decode);
    uint64_t chunks = end->cache_hits + end->cache_misses;
    char stored[CLI_SIZE_TEXT], decoded[CLI_SIZE_TEXT];
    fprintf(stderr,
            "cache    %.1f %% hits (%" PRIu64 " of %" PRIu64
            " chunks); %s from the archive, %s in memory\n",
            100 * part(end->cache_hits, chunks), end->cache_hits, chunks,
            cli_size_text(stored, end->read_bytes), cli_size_text(decoded, end->decoded_bytes));
    if (end->guessed_bytes > 0) {
        fprintf(stderr, "guesses  %s of the archive; %.1f %% used, %.1f %% evicted unused\n",
                cli_size_text(stored, end->guessed_bytes),
                100 * part(end->useful_bytes, end->guessed_bytes),
                100 * part(end->wasted_bytes, end->guessed_bytes));
    }
    if (end->unguessed_tok > 0) {
        fprintf(stderr, "guesses  left out for %" PRIu64 " tokens, to see whether they pay%s\n",
                end->unguessed_tok, end->guesses_off ? ": they do not" : "");
    }
    if (end->skipped_bytes > 0) {
        fprintf(stderr, "skipped  %.1f %% of the experts' weights (--loss)\n",
                100 * part(end->skipped_bytes, end->skipped_bytes + end->expert_bytes));
    }
    fprintf(stderr, "stall    %.2f ms, %.1f %% of the time\n", (double)end->stall_ns / 1e6,
            100 * part(end->stall_ns, end->prefill_ns + end->decode_ns));
    fprintf(stderr, "peak     %s of memory\n", cli_size_text(stored, corm_memory_peak()));
    fprintf(stderr, "logits   hash %016" PRIx64 "\n", end->logits_hash);
}

void run_phase_json(struct run_json *j, const struct run_phase *p) {
    run_json_u64(j, "tokens", p->tok);
    run_json_f64(j, "tok_per_s", p->tok_per_s);
    run_json_f64(j, "ms_per_tok", p->ms_per_tok);
    run_json_f64(j, "weight_bytes_per_tok", p->weight_per_tok);
    run_json_f64(j, "weight_gb_per_s", p->weight_gb_per_s);
    run_json_f64(j, "archive_bytes_per_tok", p->read_per_tok);
    run_json_f64(j, "seconds", (double)p->ns / 1e9);
}

void run_stats_json(struct run_json *j, const struct corm_stats *mid,
                    const struct corm_stats *end) {
    struct corm_stats zero = {0};
    const struct corm_stats *parted = mid ? mid : end;
    struct run_phase prefill = run_phase(&zero, parted), decode = run_phase(parted, end);
    run_json_open(j, "prefill", '{');
    run_phase_json(j, &prefill);
    run_json_close(j, '}');
    run_json_open(j, "decode", '{');
    run_phase_json(j, &decode);
    run_json_close(j, '}');
    run_json_u64(j, "cache_hits", end->cache_hits);
    run_json_u64(j, "cache_misses", end->cache_misses);
    run_json_u64(j, "archive_bytes", end->read_bytes);
    run_json_u64(j, "decoded_bytes", end->decoded_bytes);
    run_json_u64(j, "guessed_bytes", end->guessed_bytes);
    run_json_u64(j, "guessed_useful_bytes", end->useful_bytes);
    run_json_u64(j, "guessed_wasted_bytes", end->wasted_bytes);
    run_json_u64(j, "skipped_bytes", end->skipped_bytes);
    run_json_f64(j, "stall_seconds", (double)end->stall_ns / 1e9);
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, end->logits_hash);
    run_json_string(j, "logits_hash", hash);
}

void run_json_begin(struct run_json *j, const struct run *r) {
    *j = (struct run_json){0};
    run_json_open(j, NULL, '{');
    run_json_string(j, "command", r->call->command->name);
    run_json_string(j, "version", corm_version());
    run_json_string(j, "model", r->model);
    run_json_string(j, "family", r->info->family);
    run_json_string(j, "expert_codec", r->info->expert_codec);
    run_json_string(j, "compression", r->info->compression);
    run_json_string(j, "isa", r->info->isa);
    run_json_u64(j, "threads", r->info->threads);
    run_json_u64(j, "ctx", r->info->ctx_tok);
    run_json_u64(j, "batch", r->info->batch_rows);
    run_json_string(j, "kv", run_kv_words[r->o->kv]);
    run_json_string(j, "keeps", corm_engine_plan(r->engine)->packed ? "packed" : "decoded");
    run_json_u64(j, "memory_bytes", corm_engine_plan(r->engine)->total_bytes);
    run_json_u64(j, "budget_bytes", corm_engine_plan(r->engine)->budget_bytes);
}

void run_json_print(struct run_json *j) {
    run_json_u64(j, "peak_memory_bytes", corm_memory_peak());
    run_json_close(j, '}');
    printf("%s\n", j->text.data);
    buf_free(&j->text);
}

bool run_report_begin(const struct run *r, const struct corm_stats *mid,
                      const struct corm_stats *end, struct run_json *j) {
    if (r->o->stats) {
        run_stats_print(mid, end);
    }
    if (r->o->json) {
        run_json_begin(j, r);
    }
    return r->o->json;
}

void run_json_end_rows(struct run_json *j, int status) {
    run_json_close(j, ']');
    if (status == 0) {
        run_json_print(j);
    } else {
        buf_free(&j->text);
    }
}
