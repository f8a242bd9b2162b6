/*
 * corm: the public C API of the CORM runtime (libcorm). Self-contained: the only header a program
 * needs, but for grammars, which corm_grammar.h beside it has.
 *
 * Two objects. An engine is an opened archive: weights, tokenizer, caches, threads. A session is
 * one sequence of tokens with its KV cache. An engine serves one thread at a time; sessions of one
 * engine may be used in turn, not at once. Functions that take a `const` engine may be called by
 * any thread meanwhile, and so may corm_session_cancel. Pointers that a function returns are
 * borrowed: each contract says for how long.
 *
 * Errors: functions that can fail return 0 or -1 and fill the `struct corm_error` (may be NULL)
 * with one line, and with a code where programs have to tell errors apart. Nothing prints; nothing
 * exits, except that exhausted memory ends the process with a line on standard error and
 * quick_exit(EXIT_FAILURE).
 */
#ifndef CORM_H
#define CORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CORM_API __attribute__((visibility("default")))
#define CORM_API_VERSION 1
#define CORM_KV_LEAST 1

enum corm_error_code {
    CORM_ERROR_OTHER,
    CORM_ERROR_CANCELLED, /* corm_session_cancel */
    CORM_ERROR_CONTEXT,   /* more tokens than the context holds */
    CORM_ERROR_MEMORY,    /* no room for them, as long as other sessions have theirs (kv_bytes) */
};

struct corm_error {
    char message[1024];
    enum corm_error_code code;
};

struct corm_engine;
struct corm_session;

struct corm_model_info;
struct corm_memory_plan;
struct corm_mechanisms; /* for benchmarks, which are not the public's */

enum corm_reading {
    CORM_READ_AUTO,     /* measured when the engine is opened, where the model does not fit */
    CORM_READ_BUFFERED, /* through the page cache, which keeps what it can */
    CORM_READ_DIRECT,   /* past the page cache; an error where the file system refuses */
    CORM_READ_MAPPED,   /* from a mapping of the file, in place where experts are kept as stored */
    CORM_READ_PASSING,  /* through the page cache, which is told to forget it at once */
};

/* How experts are kept in memory. Where they are kept packed, as they are stored, they take about
 * two thirds of the room and are decoded at each use: more of them stay in memory, and fewer are
 * read. No bit of a result depends on it. */
enum corm_keeping {
    /* decoded where all experts fit so; packed where all fit only so; else the way that an estimate
     * at the start finds faster */
    CORM_KEEP_AUTO,
    CORM_KEEP_DECODED, /* ready for use */
    CORM_KEEP_PACKED,  /* as stored; an error where the archive or the device does not allow it */
};

/* With a device, what computes an expert of a token that decodes, where the device does not have
 * it. Prompts are the device's, and so are batches in which 32 sequences or more decode at once. */
enum corm_missed {
    /* The CPU, where all experts fit the host's budget (ram_bytes); else the device. Where that
     * budget is automatic, two engines may choose differently: it hangs on the memory available.
     * Without a device nothing. */
    CORM_MISSED_FIT,
    CORM_MISSED_DEVICE, /* the device, when it has been copied there */
    /* The CPU computes them from host memory, while the device computes the others. Which experts
     * these are depends on the archive, the plan and the tokens that the engine evaluated before,
     * and not on timing; but the CPU rounds in other places than the device. So the same calls give
     * the same bits again, in an engine of the same plan, while a sequence that is split or
     * repeated in another way may differ in the last bits. */
    CORM_MISSED_CPU,
    /* The way that a measurement of some milliseconds finds faster, for the whole life of the
     * engine. That is the CPU only where all experts fit the host's budget. Two engines may choose
     * differently. */
    CORM_MISSED_AUTO,
};

/* Zero-initialise for the defaults. */
struct corm_engine_options {
    uint32_t threads; /* 0 = all cores of the process's CPU set */
    const char *isa;  /* NULL = best; else "scalar", "avx2", ... */
    /* Budget for weights, caches and scratch; 0 = automatic (from the memory available). */
    uint64_t ram_bytes;
    /* What computes: NULL or "cpu"; "cuda" or "cuda:1" (an NVIDIA device, counted from 0); "auto",
     * which is the CPU until devices have been measured. */
    const char *device;
    /* With a device: its memory for weights, caches and scratch; 0 = automatic (from what is free).
     * What the driver itself takes of it comes on top. ram_bytes counts for `missed` alone then,
     * and what the driver takes of the host's memory is part of it. */
    uint64_t vram_bytes;
    enum corm_missed missed;
    enum corm_keeping keeping;
    /* Greatest context of a session, part of the memory plan; 0 = the model's own, at most 4096. It
     * may exceed the positions that the model was trained for (ctx_max_tok of the model's info), at
     * a cost in quality that only a measurement tells; but not those up to which an indexer chooses
     * all, in a model that has one. At most 2^20. */
    uint32_t ctx_tok;
    /* Sessions that may be open at once, all of them part of the memory plan; 0 = 1. */
    uint32_t max_sessions;
    uint32_t batch_rows; /* greatest rows of one forward call in prefill; 0 = 256 */
    /* Passes (corm_pass_open) that may be open at once, each with hidden rows of its own in the
     * memory plan; 0 = none. */
    uint32_t max_passes;
    /* Memory for what all sessions leave behind in the layers. A session takes as much as it has
     * tokens (corm_session_bytes); where an evaluation needs more than is free, it is refused with
     * CORM_ERROR_MEMORY before anything has changed. At least what one session of ctx_tok takes;
     * not with a device. 0 = enough for max_sessions of ctx_tok; CORM_KV_LEAST = enough for one of
     * ctx_tok and the others empty (with a device as 0). */
    uint64_t kv_bytes;
    /* Memory for snapshots of all sessions, part of the plan; 0 = none. See struct corm_span. */
    uint64_t snapshot_bytes;
    /* Most tokens of one corm_session_eval with all_logits: their logits are part of the memory
     * plan. 0 = batch_rows. */
    uint32_t logits_rows;
    /* Sessions whose last logits are in memory at once, and most sessions of one evaluation: the
     * one that was evaluated least recently loses its own to another. 0 = max_sessions. */
    uint32_t max_running;
    /* The longest text, in bytes, that is to be tokenized: what that takes beside the text and its
     * ids is part of the memory plan. 0: short texts, up to 64 KiB; UINT64_MAX: any. */
    uint64_t text_bytes;
    /* Memory for making the prompt of a conversation (corm_chat_ids, corm_chat_prompt) beside the
     * text and its ids: one that takes more is refused. 0 = 8 MiB, within the allowance for what is
     * not counted one by one; more is part of the memory plan. One call at a time has it. */
    uint64_t chat_bytes;
    /* What the caller itself holds in memory, such as texts and ids: part of the memory plan. */
    uint64_t caller_bytes;
    /* Type of the KV cache. CORM_KV_Q8, 8.5 bits a number, is for models whose heads have a
     * multiple of 32 numbers, on the CPU. */
    enum corm_kv { CORM_KV_F16, CORM_KV_F32, CORM_KV_Q8 } kv_type;
    /* 0 = exact; else a loss in percent of perplexity that the archive was calibrated for: neurons
     * that are predicted to add little are left out when decoding. A level that it does not have is
     * an error. */
    float loss_percent;
    bool loss_in_batches; /* leave them out in batches too: to measure what decoding loses */
    /* Called once by corm_engine_open, when the memory is planned and all of the archive is checked
     * but its weights, which are checked as they are loaded; may be NULL. Both structs are borrowed
     * until corm_engine_close. */
    void (*on_plan)(void *ctx, const struct corm_model_info *info,
                    const struct corm_memory_plan *plan);
    void *on_plan_ctx;
    /* Called by corm_session_save with the name of a file that it has made, and with NULL once that
     * has its last name or is gone: between the two a program that ends has to remove it. Signals
     * do not come in between what is told and the call; may be NULL. */
    void (*on_part)(const char *path);
    /* Stop when the memory is planned: the engine can be asked for info and plan, and closed. */
    bool only_plan;
    const struct corm_mechanisms *measure; /* NULL but in benchmarks; used while opening only */
};

/* What the engine will hold, in bytes; printed by corm-run before loading. */
struct corm_memory_plan {
    uint64_t trunk_bytes;      /* mapped, used by every token */
    uint64_t expert_bytes;     /* all expert records, decoded */
    uint64_t cache_bytes;      /* granted to the expert cache */
    uint64_t cache_need_bytes; /* what the cache would take with every expert in it */
    uint64_t kv_bytes;         /* what all sessions may leave behind in the layers */
    uint64_t session_bytes;    /* of that, what one of ctx_tok tokens takes, and an empty one */
    uint64_t session_least_bytes;
    uint64_t snapshot_bytes; /* of snapshots, for which there is room: */
    uint32_t n_snapshots;
    uint64_t scratch_bytes;
    uint64_t text_bytes;               /* of that, or of host_bytes: for tokenizing long texts */
    uint64_t chat_bytes, caller_bytes; /* and for conversations and the caller, as asked for */
    uint64_t total_bytes;
    uint64_t budget_bytes;
    uint64_t floor_bytes; /* the least budget that works */
    /* With a device all of the above is memory of the device, and host_bytes is what the host takes
     * in addition; host_cache_bytes is the part of it for experts that the CPU computes, and
     * driver_bytes what the device's driver was seen to take when the device was opened, by the
     * first engine of a process that opens it. Without a device all three are 0. */
    uint64_t host_bytes, host_cache_bytes, driver_bytes;
    enum corm_missed missed; /* as decided: DEVICE or CPU; FIT without a device */
    /* Measured rates in decoded bytes of experts a second, 0 = not measured: of copies to a device
     * that does not hold all experts; and, for CORM_MISSED_AUTO, of bringing experts there (read,
     * checked, decoded, copied), and of computing by the CPU. */
    double link_bytes_per_s, upload_bytes_per_s, cpu_bytes_per_s;
    bool packed;  /* experts are kept as they are stored */
    bool no_code; /* they could not be: no chunk has the exponents code (not told of a device) */
    bool streams; /* experts come and go; else all stay in memory */
    /* How experts come from the archive. CORM_READ_BUFFERED with `streams` set: the page cache
     * grows outside of the budget, where no limit forbids it. */
    enum corm_reading reading;
    /* Where that was chosen by measuring: bytes a second that came directly, and through the page
     * cache (CORM_READ_BUFFERED or CORM_READ_PASSING). 0 = not measured. */
    double direct_bytes_per_s, cached_bytes_per_s;
    /* Why one of these ways cannot be used, as one line; empty where it can, or where it was not
     * tried. */
    char direct_error[256], cached_error[256];
};

struct corm_model_info {
    const char *family;
    uint64_t params, params_active;
    uint32_t n_layers, dim, vocab, n_experts, n_active, ctx_max_tok;
    const char *expert_codec;
    const char *compression; /* of the experts: "none", "zstd", "exponents", "zstd and exponents" */
    uint64_t file_bytes;
    const char *device; /* "cpu", "cuda" */
    const char *isa;    /* instruction set, or the device's name */
    uint32_t threads;
    uint32_t ctx_tok;    /* as planned */
    uint32_t batch_rows; /* as planned */
    uint32_t max_sessions;
    /* A session can be cut back to any length as it is: no layer has a window or a recurrence, and
     * snapshots save no more than one token's work. */
    bool cuts_back;
    /* The publisher's sampling suggestions; negative = none. */
    float temperature, top_p, top_k, repeat_penalty;
};

/* Open and check an archive, plan the memory, start threads. A budget under the floor is refused
 * with the number that would do. */
CORM_API int corm_engine_open(struct corm_engine **engine, const char *path,
                              const struct corm_engine_options *options, struct corm_error *error);
/* Sessions must be closed before. NULL is allowed. */
CORM_API void corm_engine_close(struct corm_engine *engine);
/* Borrowed until corm_engine_close. */
CORM_API const struct corm_model_info *corm_engine_info(const struct corm_engine *engine);
CORM_API const struct corm_memory_plan *corm_engine_plan(const struct corm_engine *engine);
/* Memory in bytes that this process could take now without paging, limits of its cgroups included:
 * what an automatic budget is derived from. */
CORM_API uint64_t corm_memory_available(void);
/* The most memory in bytes that was resident for this process at once, mapped files included; 0
 * where the system does not tell. */
CORM_API uint64_t corm_memory_peak(void);

/* Text to ids. `add_special` adds what the model expects around a text (BOS); `parse_special`
 * recognises special tokens written out in the text. *ids is the caller's (free()). */
CORM_API int corm_tokenize(const struct corm_engine *engine, const char *text, size_t text_bytes,
                           bool add_special, bool parse_special, int32_t **ids, size_t *n_ids,
                           struct corm_error *error);
/* The same for a text that comes in pieces of any length: all ids that the pushes give are,
 * together, those of the whole text. Each push gives the ids that have become certain, borrowed
 * until the next call; `text` NULL ends the text. Encoding takes no more memory than was planned
 * (text_bytes): a text with a long stretch that cannot be cut in two is refused, with the budget
 * that would do. After an error it can only be closed: with corm_encoder_close, before the engine
 * is. */
struct corm_encoder;
CORM_API int corm_encoder_open(struct corm_encoder **encoder, const struct corm_engine *engine,
                               bool add_special, bool parse_special, struct corm_error *error);
CORM_API int corm_encoder_push(struct corm_encoder *encoder, const char *text, size_t text_bytes,
                               const int32_t **ids, size_t *n_ids, struct corm_error *error);
CORM_API void corm_encoder_close(struct corm_encoder *encoder); /* NULL is allowed */
/* Ids to text, which is valid UTF-8: bytes that form no character come out as U+FFFD. Ids that the
 * tokenizer does not have give nothing; `skip_special` drops special tokens. *text is the caller's
 * (free()) and NUL-terminated. */
CORM_API int corm_detokenize(const struct corm_engine *engine, const int32_t *ids, size_t n_ids,
                             bool skip_special, char **text, size_t *text_bytes,
                             struct corm_error *error);
/* Of ids that corm_tokenize made with `add_special`: whether the text itself begins (or ends) with
 * the token that was added there, so that the model reads it twice. That token's text,
 * NUL-terminated and cut to 63 bytes, goes to `token`. */
CORM_API bool corm_special_doubled(const struct corm_engine *engine, const int32_t *ids,
                                   size_t n_ids, char token[64]);
/* True for a token that ends a generation. */
CORM_API bool corm_is_stop(const struct corm_engine *engine, int32_t id);
/* All of them, [*n], borrowed until corm_engine_close. */
CORM_API const int32_t *corm_stop_ids(const struct corm_engine *engine, size_t *n);
/* The chat template (Jinja text) or NULL; borrowed until corm_engine_close. */
CORM_API const char *corm_chat_template(const struct corm_engine *engine);
/* Another of the archive's chat templates, by its name; NULL: there is no such one. [*bytes] of
 * text, not NUL-terminated, borrowed until corm_engine_close. "default" is the one above. */
CORM_API const char *corm_chat_template_named(const struct corm_engine *engine, const char *name,
                                              size_t *bytes);
/* What somebody says in a conversation: `role` is "system", "user" or "assistant". `thinking` is
 * what an assistant thought before, or NULL; whether the model sees it again is its template's
 * choice. All are UTF-8 and NUL-terminated. */
struct corm_message {
    const char *role, *content, *thinking;
};
/* The text that a model continues with its answer: the messages as a chat template has them, byte
 * for byte as transformers' apply_chat_template with add_generation_prompt. `chat_template` is
 * Jinja text and `template_name` what errors in it begin with, such as its path; NULL and NULL: the
 * archive's. *text is the caller's (free()); its ids are those of
 * corm_tokenize without add_special and with parse_special, which takes special tokens that are
 * written out in a message for such. An error where the template refuses, with line and column. */
CORM_API int corm_chat_prompt(const struct corm_engine *engine, const char *chat_template,
                              const char *template_name, const struct corm_message *messages,
                              size_t n_messages, char **text, size_t *text_bytes,
                              struct corm_error *error);
/* Where the first `messages` messages end, as what a session is cut back to when the conversation
 * goes on otherwise from there: `n_tok` becomes how many of the ids are theirs. 0 where no such
 * place is found. */
struct corm_chat_end {
    uint32_t messages, n_tok;
};
/* A conversation and how it is put. Zero-initialise. */
struct corm_chat {
    /* What was said: messages, or (`json` not NULL) JSON text, which is a list of messages, or an
     * object that has one under `messages` and besides what else the template is to see: `tools`,
     * `documents`, `enable_thinking`. Arguments of tool calls that are JSON text themselves are
     * parsed. */
    const struct corm_message *messages;
    size_t n_messages;
    const char *json;
    size_t json_bytes;
    bool keep_arguments; /* they are not parsed: some templates take them as text */
    /* As for corm_chat_prompt; but of the archive's, it is that with the name tool_use where there
     * is one and the object has `tools`. */
    const char *chat_template, *template_name;
    /* For corm_chat_ids, [n_ends]: which ends are wanted, in the order in which they are looked
     * for. Each takes about the time that the ids take; together they are bounded. */
    struct corm_chat_end *ends;
    size_t n_ends;
};
/* The ids that a model continues with its answer, and their text (`text` may be NULL). As
 * corm_chat_prompt and corm_tokenize together, but for control tokens that are written out in what
 * is said, such as <|im_end|>: they are text to the model and end nothing. The ids are those of
 * transformers' apply_chat_template with sanitize_control_tokens. *ids and *text are the caller's
 * (free()). A longer conversation mostly begins with the ids of a shorter one: what a session has
 * of them need not be evaluated again. */
CORM_API int corm_chat_ids(const struct corm_engine *engine, const struct corm_chat *chat,
                           int32_t **ids, size_t *n_ids, char **text, size_t *text_bytes,
                           struct corm_error *error);

/* An empty sequence. An error where the engine's max_sessions are open. */
CORM_API int corm_session_open(struct corm_session **session, struct corm_engine *engine,
                               struct corm_error *error);
CORM_API void corm_session_close(struct corm_session *session);
/* Forget all tokens (0), or all past the first `n_tok`. What the layers hold of a sequence cannot
 * always be cut back: windows hold the last tokens only, a recurrence its last moment. They then go
 * back to the nearest snapshot (struct corm_span), or to none, and the next evaluation computes
 * what is missing again: to the same bits as far as corm_session_eval promises them. Where a
 * snapshot was taken at just n_tok tokens, corm_session_logits has their last logits again. */
CORM_API void corm_session_truncate(struct corm_session *session, uint32_t n_tok);
/* How many of its first `n_tok` tokens the layers would hold after corm_session_truncate to these:
 * what a program saves that goes on from there. */
CORM_API uint32_t corm_session_reach(const struct corm_session *session, uint32_t n_tok);
CORM_API uint32_t corm_session_length(const struct corm_session *session);

/* Append `n` tokens and compute. *logits (may be NULL) becomes the logits of the last token
 * [vocab], or with `all_logits` of every token [n, vocab] (then n <= logits_rows); host memory,
 * borrowed until the next call on the session; with `all_logits`, until the next evaluation of any.
 *
 * A call of one token decodes: experts of later layers are guessed, and with loss_percent neurons
 * are left out. Any other call is a prompt, computed exactly. On the CPU, with loss_percent 0,
 * splitting a sequence over calls differently changes no bit of the result; on a device the last
 * bits of calls of more than 8 tokens may differ from those of shorter ones. */
CORM_API int corm_session_eval(struct corm_session *session, const int32_t *ids, size_t n,
                               bool all_logits, const float **logits, struct corm_error *error);

/* Append one token to each of `n` different sessions of one engine, ids[i] to sessions[i], and
 * compute them together: an expert that several of them use is brought once. Each session gets the
 * bits that it would get alone (on a device: where n <= 8), in corm_session_logits. On an error no
 * session has moved on. */
CORM_API int corm_sessions_decode(struct corm_session *const *sessions, const int32_t *ids,
                                  size_t n, struct corm_error *error);

/* Tokens that are appended to one of several sessions. */
struct corm_span {
    struct corm_session *session;
    const int32_t *ids; /* [n], borrowed until the call returns */
    size_t n;
    /* Called with the logits of each of the tokens, in order: [vocab], host memory, borrowed during
     * the call; `position` is the token's place in the sequence. Rows are made one after the other,
     * so that a long prompt takes no more memory than a short one. Of this engine it may call
     * functions that take a `const` engine only, such as corm_logprobs. May be NULL. */
    void (*on_logits)(void *ctx, uint32_t position, const float *logits);
    void *ctx;
    /* Filled in where this session's tokens were not all evaluated, and why; may be NULL. */
    struct corm_error *error;
    /* Snapshots of what the layers hold, where corm_session_truncate may go back to later: at these
     * lengths of the session, ascending, [n_snapshots], borrowed as long as `error`; lengths that
     * it does not come to, or is past, are passed over. At most 64 in one piece are taken. Besides,
     * for models with windows or recurrences, each piece of a prompt ends with one. Where
     * snapshot_bytes has no room, those that were not asked for go first, of these the one that
     * follows another most closely; then those of the session that was evaluated least recently. */
    const uint32_t *snapshots;
    size_t n_snapshots;
};
/* Evaluate spans of different sessions of one engine together: prompts of any length, single tokens
 * that decode, and both beside each other. Each session gets the bits that it would get alone (not
 * on a device, where calls of more than 8 rows may differ in the last ones). The spans go through
 * the layers in pieces of at most batch_rows rows. With loss_percent, or on a device, tokens that
 * decode are a piece of their own, behind the prompts.
 *
 * An error ends the spans that it concerns, and not the others. (An archive that cannot be read
 * ends all of them, and all later ones.) Whole pieces that were finished are kept, so that
 * corm_session_length tells how far each session has come. Returns -1 where any span has failed,
 * with the first error. What is wrong with the spans themselves (ids, the context, a session twice)
 * is refused before anything is evaluated. */
CORM_API int corm_sessions_eval(const struct corm_span *spans, size_t n, struct corm_error *error);

/* The same, a layer at a time: in between, the thread may evaluate other sessions, so that these
 * decode while a long prompt is read; a larger batch_rows then costs them no time. Sessions of an
 * open pass are not to be evaluated, cut back, copied or closed elsewhere: an error where the
 * function can tell of one, else the end of the process. */
struct corm_pass;
/* Nothing is evaluated yet. An error where the engine's max_passes are open, and for spans that
 * corm_sessions_eval refuses. `ctx` and `error` of the spans are borrowed until corm_pass_close. */
CORM_API int corm_pass_open(struct corm_pass **pass, const struct corm_span *spans, size_t n,
                            struct corm_error *error);
/* One layer of one piece; with the last layer of a piece, its logits, but for on_logits, which is
 * called for some tokens a step. *more becomes whether there
 * is anything left to do. Errors are those of corm_sessions_eval, returned by the last step. */
CORM_API int corm_pass_step(struct corm_pass *pass, bool *more, struct corm_error *error);
/* What is not finished is broken off: whole pieces are kept. NULL is allowed. */
CORM_API void corm_pass_close(struct corm_pass *pass);

/* Any thread: end the session's evaluation (`cancelled` true), at the latest before the next layer,
 * or, where others are evaluated in the same piece, after that piece. It fails with
 * CORM_ERROR_CANCELLED, and so does every later one, until `cancelled` is false again. A session
 * that was evaluated by corm_sessions_eval keeps whole pieces that were finished; by the other
 * functions it is as long as it was before. corm_sessions_decode ends only where all of its
 * sessions are cancelled. The session must not be closed meanwhile. */
CORM_API void corm_session_cancel(struct corm_session *session, bool cancelled);

/* Make `to` the same sequence as `from`, of the same engine: tokens, what the layers hold, and the
 * last logits; exact. What `to` held is forgotten; its text stream and statistics are not. */
CORM_API int corm_session_copy(struct corm_session *to, const struct corm_session *from,
                               struct corm_error *error);

/* Logits of the session's last token [vocab]; NULL where they were not made, as before the first
 * evaluation and after corm_session_truncate, or lost to another session (max_running). Host
 * memory, borrowed until the next call that evaluates, cuts back or closes the session; where
 * max_running is less than max_sessions, until the next one that gives another session logits:
 * that evaluates, copies or loads it, or asks for logits that a snapshot has. */
CORM_API const float *corm_session_logits(const struct corm_session *session);

/* Write the session to a file, which is replaced: its tokens, what the layers hold of them, and the
 * last logits. `path` is only ever a whole file: it is written as <path>.tmp (readable by its
 * owner only), synced and renamed. docs/FORMAT-session.md has the format. */
CORM_API int corm_session_save(struct corm_session *session, const char *path,
                               struct corm_error *error);
/* Make the session what a file holds: exact, in an engine of the same archive, as if its tokens had
 * been evaluated there. What layers hold is taken where it was computed in the same way: by the
 * same version of the program, device, instruction set, type of the KV cache, loss and rotary
 * factors. Else the tokens alone are taken, the next evaluation computes them again, and there are
 * no last logits; corm_session_held tells. A file of another archive, a damaged one, or one of
 * more tokens than the context holds is refused in one line, and the session stays as it was. */
CORM_API int corm_session_load(struct corm_session *session, const char *path,
                               struct corm_error *error);
/* How many of its tokens the layers hold: those past these are computed again by the next
 * evaluation. */
CORM_API uint32_t corm_session_held(const struct corm_session *session);
/* Memory that it takes in the layers, as it counts for kv_bytes: by its length, in whole pages.
 * Cutting it back gives memory back, but for what windows and recurrences hold. */
CORM_API uint64_t corm_session_bytes(const struct corm_session *session);
/* The session's tokens [*n], borrowed until the next call that changes them. */
CORM_API const int32_t *corm_session_ids(const struct corm_session *session, size_t *n);

/* Streaming text of the ids pushed so far: never ends inside a UTF-8 character. *text is borrowed
 * until the next call on the session's stream; corm_session_text_end gives what was held back, and
 * the stream is as new. `skip_special` drops special tokens. The stream and the KV cache know
 * nothing of each other. Fails only where the archive's decoders multiply a token's text without
 * end; `error` names the step. */
CORM_API int corm_session_text(struct corm_session *session, int32_t id, bool skip_special,
                               const char **text, size_t *text_bytes, struct corm_error *error);
CORM_API int corm_session_text_end(struct corm_session *session, const char **text,
                                   size_t *text_bytes, struct corm_error *error);

/* A number that is added to the logit of an id; -INFINITY: never drawn. */
struct corm_logit_bias {
    int32_t id;
    float bias;
};

/* How to choose a token. corm_sampling_defaults gives the publisher's suggestions, else temperature
 * 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalty. temperature 0 = greedy (lowest id among
 * equals). What changes logits comes first, in the order: bias; repeat penalty (each id among the
 * session's last `repeat_last_tok` tokens, once); presence and frequency penalties, which are
 * subtracted: presence once for an id that was generated, frequency as often as it was. Filters
 * follow in the order: the ids that are allowed, top-k, top-p, min-p, temperature; so top-p and
 * min-p see the probabilities of temperature 1. */
struct corm_sampling {
    float temperature;
    uint32_t top_k;       /* 0 = off */
    float top_p;          /* 1 = off */
    float min_p;          /* 0 = off */
    float repeat_penalty; /* 1 = off */
    uint32_t repeat_last_tok;
    uint64_t seed;
    /* Which of several answers to one prompt this is: each draws numbers of its own. */
    uint32_t choice;
    float presence_penalty, frequency_penalty; /* 0 = off */
    /* The session's first so many tokens were not generated: they do not count for these two. */
    uint32_t prompt_tok;
    /* [n_bias], borrowed during a draw. Ids outside of the vocabulary are passed over; of an id
     * that stands there more than once the numbers add up. */
    const struct corm_logit_bias *bias;
    size_t n_bias;
    /* Bit id % 64 of word id / 64 is set for the ids that may be drawn: [(vocab + 63) / 64],
     * borrowed during a draw. NULL = all. corm_grammar.h makes such masks. */
    const uint64_t *allowed;
};
CORM_API struct corm_sampling corm_sampling_defaults(const struct corm_engine *engine);
/* Draw from the logits of the last eval. The random number is a function of the seed, the choice
 * and the session's length, so the same tokens and options give the same draw, also after a
 * truncate. Rows of the vocabulary that the tokenizer does not know, NaN and -inf are never drawn.
 * -1 where that leaves nothing, or nothing was evaluated. */
CORM_API int32_t corm_session_sample(struct corm_session *session,
                                     const struct corm_sampling *sampling);

/* The natural logarithm of a token's probability. */
struct corm_logprob {
    int32_t id;
    float logprob;
};
/* Probabilities of a row of logits [vocab], such as corm_session_logits gives, as they are: before
 * any bias, penalty or filter, at temperature 1, over all rows of the vocabulary. `chosen` (may be
 * NULL) is filled in for the id that it holds: -INFINITY where the vocabulary has no such id. The
 * likeliest go to `top` [n_top], the likeliest first, the lowest id among equals; where an id is
 * both, both numbers are the same. Returns how many went there: at most as many as the tokenizer
 * has ids, and none where logits are NaN or +inf, when `chosen` is NaN. */
CORM_API size_t corm_logprobs(const struct corm_engine *engine, const float *logits,
                              struct corm_logprob *chosen, struct corm_logprob *top, size_t n_top);

/* Texts that end a generation, looked for in text that comes in pieces. What may be the beginning
 * of one is held back, so that no part of it is ever shown. The one whose last byte comes first
 * counts, of those that end together the longest: however the text was cut into pieces. An object
 * of its own, of one thread at a time; it knows no session. */
struct corm_stops;
/* strings [n], each NUL-terminated, are copied; an empty one is an error. */
CORM_API int corm_stops_open(struct corm_stops **stops, const char *const *strings, size_t n,
                             struct corm_error *error);
CORM_API void corm_stops_close(struct corm_stops *stops); /* NULL is allowed */
/* The text went on by `piece`. *text becomes what is certain to stand before any stop string,
 * borrowed until the next call on `stops`; it ends inside no UTF-8 character where pieces and
 * strings do not. Returns the index of the string that was met, else -1. Once one was met, all
 * further text is swallowed. */
CORM_API int corm_stops_push(struct corm_stops *stops, const char *piece, size_t piece_bytes,
                             const char **text, size_t *text_bytes);
/* The text has ended: what was held back. Then `stops` is as new. */
CORM_API void corm_stops_end(struct corm_stops *stops, const char **text, size_t *text_bytes);

/* Counters of the session's own evaluations since it was opened (or last corm_session_reset_stats).
 * What is read between two evaluations counts for the later one, whichever session that belongs to.
 * What a batch of several sessions costs is divided among them evenly. */
struct corm_stats {
    uint64_t prefill_tok, decode_tok; /* decode: calls of one token a session */
    uint64_t prefill_ns, decode_ns;
    uint64_t weight_bytes;             /* of weights that the math used, decoded */
    uint64_t cache_hits, cache_misses; /* expert chunks found in memory / brought on demand */
    uint64_t read_bytes;               /* stored bytes taken from the archive for experts */
    uint64_t decoded_bytes;            /* bytes that they take in memory */
    uint64_t expert_bytes;             /* of weight_bytes, those of experts */
    uint64_t skipped_bytes;            /* expert weights left out (loss_percent) */
    uint64_t guessed_bytes;            /* of read_bytes, those brought by guesses, of which: */
    uint64_t useful_bytes;             /* used before they were evicted */
    uint64_t wasted_bytes;             /* evicted unused; the rest is still in the cache */
    uint64_t unguessed_tok;            /* decoded without guesses, to see whether these pay ... */
    bool guesses_off;                  /* ... and they do not, as it stands */
    uint64_t cpu_bytes; /* of expert_bytes, those that the CPU computed for a device */
    /* Bytes copied to a device's expert cache because they were demanded, and because they were
     * guessed; the number of expert chunks in them; and the number of copies, which is smaller,
     * because chunks that lie side by side are copied together. Then the time in which the device
     * copied, and the part of it in which the device computed at the same time. */
    uint64_t copied_demanded_bytes, copied_guessed_bytes;
    uint64_t copied_chunks, copies;
    uint64_t copy_ns, copy_hidden_ns;
    /* What the host handed to a device for operations: kernels; waits until it was done with all
     * before; small copies, of tables to it and of results from it, and their bytes. */
    uint64_t launches, waits, small_copies, small_copy_bytes;
    uint64_t stall_ns;    /* time the math waited for experts */
    uint64_t logits_hash; /* XXH3-64 of the last logits row; 0 where it is not in memory */
    uint64_t again_tok;   /* tokens that were evaluated again, after corm_session_truncate */
};
CORM_API void corm_session_stats(const struct corm_session *session, struct corm_stats *stats);
CORM_API void corm_session_reset_stats(struct corm_session *session);

/* What an engine has done since it was opened, for all its sessions: as in corm_stats. */
struct corm_look {
    uint64_t cache_hits, cache_misses, read_bytes;
    uint64_t guessed_bytes, useful_bytes, wasted_bytes;
    uint64_t evictions; /* of chunks */
    uint64_t stall_ns;
};
/* How it stands with an expert. */
struct corm_look_expert {
    uint8_t held; /* how much of it is in memory (with a device: the device's), in 255ths */
    /* How many tokens ago it was used: 0 by the last one that came to its layer; 254 so many or
     * more, or never; 255 there is no such expert, as the layer has none. */
    uint8_t age;
};
/* Any thread, while the engine is open, also while it evaluates. Nothing is locked, so that nobody
 * waits: each number is true by itself, that of an expert at this moment and a counter at most a
 * layer ago, but together they need not be of one moment. `experts` (may be NULL) gets [n_layers,
 * n_experts]. */
CORM_API void corm_engine_look(const struct corm_engine *engine, struct corm_look *look,
                               struct corm_look_expert *experts);

/* "0.1.0" */
CORM_API const char *corm_version(void);

#ifdef __cplusplus
}
#endif
#endif
