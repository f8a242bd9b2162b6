/*
 * corm_run: the main of corm-run, the lean program that runs archives.
 *
 * Owns: the tables of commands and options, and what Ctrl-C sets. The commands are in run_<name>.c
 * and runtime/bench.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/bench/bench.h"
#include "runtime/run/run.h"

/* -- Ctrl-C --------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

void run_catch_interrupt(void) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND | SA_RESTART};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
        sigaction(SIGINT, &action, NULL); /* else it runs in the background: not for us */
    }
}

bool run_interrupted(void) {
    return interrupted;
}

/* The archive is used where it is mapped: what can no longer be read of it arrives as a signal,
 * which leaves nothing to be done but to say so. Several threads may meet such a page at once: the
 * first one speaks, and the others wait for the end. */
static void on_lost_page(int signal_number) {
    static atomic_flag told = ATOMIC_FLAG_INIT;
    static const char text[] = "corm-run: the archive can no longer be read: it was truncated or "
                               "replaced while in use, or its disk fails\n";
    (void)signal_number;
    while (atomic_flag_test_and_set(&told)) {
        pause();
    }
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(EXIT_FAILURE);
}

static void catch_lost_pages(void) {
    struct sigaction action = {.sa_handler = on_lost_page};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

/* -- options -------------------------------------------------------------------------------- */

#define FIELD(member) CLI_FIELD(struct run_options, member)

static const char *const missed_words[] = {
    [CORM_MISSED_DEVICE] = "device", [CORM_MISSED_CPU] = "cpu", [CORM_MISSED_AUTO] = "auto", NULL};
static const char *const kv_words[] = {[RUN_KV_F16] = "f16", [RUN_KV_F32] = "f32", NULL};

static const char *const keep_words[] = {[CORM_KEEP_AUTO] = "auto",
                                         [CORM_KEEP_DECODED] = "decoded",
                                         [CORM_KEEP_PACKED] = "packed",
                                         NULL};
static const char *const reading_words[] = {
    [CORM_READ_AUTO] = "auto",     [CORM_READ_BUFFERED] = "buffered", [CORM_READ_DIRECT] = "direct",
    [CORM_READ_MAPPED] = "mapped", [CORM_READ_PASSING] = "passing",   NULL};

static const struct cli_option machine_rows[] = {
    {"ram", 0, CLI_STRING, FIELD(ram), "SIZE",
     "Memory for weights, caches and scratch: a size (300M, 4G), a part of the memory that is "
     "available (50%), or auto. A model that does not fit reads its experts from the archive as "
     "they are needed. A budget too small to work is refused with the one that would do.",
     .fallback = "auto, 7/8 of what is available"},
    {"device", 0, CLI_STRING, FIELD(device), "NAME",
     "What computes: cpu; cuda, or cuda:1 for the second NVIDIA device; auto, which is the CPU "
     "until devices have been measured. Another device may change the last bits.",
     .fallback = "auto"},
    {"vram", 0, CLI_STRING, FIELD(vram), "SIZE",
     "With --device cuda, in place of --ram: the device's memory for weights, caches and scratch, "
     "a size (6G) or auto. The driver takes some hundred megabytes for itself beside it.",
     .fallback = "auto, 15/16 of what is free"},
    {"missed", 0, CLI_ENUM, FIELD(missed), "WHO",
     "With --device cuda, who computes an expert that the device does not hold, for a single "
     "token: "
     "device, which waits for a copy; cpu, from memory within --ram and while the device computes "
     "its share; or auto, the faster one of both by a measurement at the start, which the memory "
     "plan tells. With device, memory and timing change no bit of the result. With cpu, experts "
     "that are used most are the device's, as many as its memory holds, and the last bits hang on "
     "which they are: a command gives the same result every time where --vram is a size, with "
     "another --vram perhaps not. With auto two runs may choose differently.",
     .words = missed_words},
    {"threads", 't', CLI_INT, FIELD(threads), "N",
     "Threads that compute. The result does not depend on it.", .min = 1, .max = 1024,
     .fallback = "all processors"},
    {"isa", 0, CLI_STRING, FIELD(isa), "NAME",
     "Instruction set of the kernels: scalar, avx2, ... (another set may change the last bits).",
     .fallback = "the best here"},
    {"batch", 'b', CLI_INT, FIELD(batch), "N",
     "Most tokens computed at once while reading a prompt. More is faster and takes more scratch; "
     "the result does not depend on it.",
     .min = 1, .max = 4096},
    {"loss", 0, CLI_DOUBLE, FIELD(loss), "PERCENT",
     "Leave out neurons that are predicted to add little, so that perplexity rises by at most this "
     "much: one of the levels that the archive was calibrated for (0.5, 1, 2). 0: exact.",
     .min = 0, .max = 100},
    {"reading", 0, CLI_ENUM, FIELD(reading), "WAY",
     "How the experts of a model that does not fit are read: direct (past the page cache), "
     "buffered (through it: it keeps what it can, outside of --ram), passing (through it, and "
     "forgotten at once), mapped (from a mapping of the file), or auto: direct or through the page "
     "cache, as measured in a moment at the start. The result does not depend on it.",
     .words = reading_words},
    {"keep", 0, CLI_ENUM, FIELD(keep), "HOW",
     "How the experts of a compressed bf16 model stay in memory: decoded, packed (as they are in "
     "the archive, a third smaller, so that more of them stay; they are decoded at each use), or "
     "auto: decoded where all fit so, packed where all fit only so, else what an estimate from the "
     "speed of the disk, of decoding and of computing finds faster. The result does not depend on "
     "it.",
     .words = keep_words},
    {"kv", 0, CLI_ENUM, FIELD(kv), "TYPE", "Type of the KV cache: f16 or f32.", .words = kv_words},
    {0},
};

static const struct cli_option prompt_rows[] = {
    {"prompt", 'p', CLI_STRING, FIELD(prompt), "TEXT",
     .help = "The text to continue; - reads standard input."},
    {"file", 'f', CLI_STRING, FIELD(file), "FILE",
     .help = "Take the prompt from a file. One newline at its end does not count."},
    {"no-bos", 0, CLI_FLAG, FIELD(no_bos),
     .help = "Do not put around the prompt what the tokenizer would (mostly BOS, the token that "
             "begins a text)."},
    {"no-special", 0, CLI_FLAG, FIELD(no_special),
     .help = "Special tokens that are written out in the prompt, such as <|im_end|>, are plain "
             "text: for text of unknown origin."},
    {"ctx", 'c', CLI_INT, FIELD(ctx), "N",
     "Context: prompt and generated tokens together. Its KV cache is part of the memory plan.",
     .min = 1, .max = 1 << 20, .fallback = "the model's own, at most 4096"},
    {0},
};

static const struct cli_option generate_rows[] = {
    {"max-tokens", 'n', CLI_INT, FIELD(max_tokens), "N",
     "Most tokens to generate; 0 only reads the prompt, -1 goes on until the model stops or the "
     "context is full.",
     .min = -1, .max = 1 << 30},
    {"temp", 0, CLI_DOUBLE, FIELD(temp), "X",
     "Temperature: below 1 keeps to likely tokens, above 1 wanders; 0 always takes the likeliest.",
     .min = 0, .max = 100, .fallback = "the model's own, else 0.8"},
    {"top-k", 0, CLI_INT, FIELD(top_k), "N", "Draw from the N likeliest tokens only; 0 = from all.",
     .min = 0, .max = 1 << 30, .fallback = "the model's own, else 40"},
    {"top-p", 0, CLI_DOUBLE, FIELD(top_p), "X",
     "Draw from the fewest tokens that hold this much of the probability; 1 = from all.", .min = 0,
     .max = 1, .fallback = "the model's own, else 0.95"},
    {"min-p", 0, CLI_DOUBLE, FIELD(min_p), "X",
     "Draw from tokens with at least this part of the likeliest one's probability; 0 = from all.",
     .min = 0, .max = 1, .fallback = "0.05"},
    {"repeat-penalty", 0, CLI_DOUBLE, FIELD(repeat_penalty), "X",
     "Make tokens that occurred lately less likely: above 1; 1 = no penalty.", .min = 0.01,
     .max = 100, .fallback = "the model's own, else 1"},
    {"repeat-last", 0, CLI_INT, FIELD(repeat_last), "N", "How far back lately reaches, in tokens.",
     .min = 0, .max = 1 << 30, .fallback = "64"},
    {"seed", 's', CLI_U64, FIELD(seed), "N",
     "The same seed, prompt and options give the same text. --stats tells the seed of a run.",
     .fallback = "a fresh one every time"},
    {"ignore-eos", 0, CLI_FLAG, FIELD(ignore_eos), .help = "Go on after a token that ends a text."},
    {0},
};

static const struct cli_option text_rows[] = {
    {"echo", 0, CLI_FLAG, FIELD(echo), .help = "Print the prompt before its continuation."},
    {"show-special", 0, CLI_FLAG, FIELD(show_special), .help = "Print special tokens too."},
    {0},
};

static const struct cli_option perplexity_rows[] = {
    {"file", 'f', CLI_STRING, FIELD(file), "FILE",
     .help = "The text, UTF-8; - reads standard input."},
    {"ctx", 'c', CLI_INT, FIELD(window), "N", "Tokens of a window.", .min = 2, .max = 1 << 20},
    {"stride", 0, CLI_INT, FIELD(stride), "N",
     "How far a window lies after the one before, in tokens.", .min = 1, .max = 1 << 20,
     .fallback = "the window: side by side"},
    {"tokens", 'n', CLI_INT, FIELD(first_tokens), "N", "Use the first N tokens of the text only.",
     .min = 2, .max = 1 << 30, .fallback = "all"},
    {"bos", 0, CLI_FLAG, FIELD(bos),
     .help = "Put around the text what the tokenizer would (mostly BOS in front)."},
    {"no-special", 0, CLI_FLAG, FIELD(no_special),
     .help = "Special tokens that are written out in the text are plain text."},
    {0},
};

static const struct cli_option bench_rows[] = {
    {"prompt-tokens", 0, CLI_INT, FIELD(prompt_tokens), "N", "Tokens read in batches.", .min = 0,
     .max = 1 << 19},
    {"decode-tokens", 0, CLI_INT, FIELD(decode_tokens), "N",
     "Tokens computed one by one after them.", .min = 0, .max = 1 << 19},
    {"reps", 'r', CLI_INT, FIELD(reps), "N", "Repetitions; the median is reported.", .min = 1,
     .max = 1000},
    {"minutes", 0, CLI_DOUBLE, FIELD(minutes), "N",
     "Repeat for so long in place of --reps, each time with tokens further on, so that experts "
     "change: an endurance run.",
     .min = 0, .max = 10000, .fallback = "as --reps says"},
    {"file", 'f', CLI_STRING, FIELD(file), "FILE",
     "Take the tokens from a text. Real text keeps experts longer than made-up ids do.",
     .fallback = "made-up ids, the same every time"},
    {0},
};

static const struct cli_option measure_rows[] = {
    {"ablation", 0, CLI_FLAG, FIELD(ablation),
     .help = "Turn the engine's mechanisms on one after the other, from whole experts on demand in "
             "an LRU cache (B0) to all of them, and compare: interleaved runs, each with a fresh "
             "engine. Needs --share or --ram."},
    {"io", 0, CLI_FLAG, FIELD(io),
     .help = "Read the archive in each way, with several block sizes and threads; with "
             "--reading, --block or --io-threads in those only."},
    {"block", 0, CLI_SIZE, FIELD(block_bytes), "SIZE", "With --io: the block size.",
     .fallback = "64K to 4M"},
    {"trace", 0, CLI_FLAG, FIELD(trace),
     .help = "Record which experts are used and which were guessed, and replay that through caches "
             "of several sizes: least recently used, the engine's own without and with its "
             "guesses, and Belady's, which knows the future. Each with its hits, and the experts "
             "that it reads for a token."},
    {"kernels", 0, CLI_FLAG, FIELD(kernels),
     .help = "Without a model: for each codec and instruction set, on weights larger than the "
             "caches, a token's work as GB/s of weights, with its share of what plain reading of "
             "memory gives to as many threads, and a prompt's as operations a second (two for each "
             "weight and row). Best of many passes. Takes a minute and 2 GB of memory. --threads "
             "and --isa choose; else 1 and all processors, and all instruction sets."},
    {"share", 0, CLI_DOUBLE, FIELD(share), "PERCENT",
     "Room for this part of all experts, in place of --ram.", .min = 0, .max = 100,
     .fallback = "as --ram says"},
    {"throttle", 0, CLI_SIZE, FIELD(throttle), "SIZE",
     "Make a slower disk of this one: so many bytes a second.", .fallback = "none"},
    {"latency", 0, CLI_STRING, FIELD(latency), "TIME",
     "With --throttle: so much longer for each read, 100us or 5ms.", .fallback = "none"},
    {"stall", 0, CLI_DOUBLE, FIELD(stall), "PERCENT",
     "With --ablation: choose the throttle so that B0 waits this part of its time.", .min = 1,
     .max = 99, .fallback = "the throttle given"},
    {"other", 0, CLI_STRING, FIELD(other), "FILE.corm",
     "With --ablation: the same model compressed, where MODEL.corm was converted with "
     "--no-compress: to see what the codec brings.",
     .fallback = "none"},
    {"io-threads", 0, CLI_INT, FIELD(io_threads), "N", "Threads that read and decode.", .min = 0,
     .max = 64, .fallback = "the engine's own number"},
    {0},
};

static const struct cli_option logits_rows[] = {
    {"ids", 0, CLI_STRING, FIELD(ids), "LIST", .help = "Token ids, parted by commas."},
    {"ids-file", 0, CLI_STRING, FIELD(ids_file), "FILE",
     .help =
         "Token ids from a file, parted by commas, blanks or newlines; - reads standard input."},
    {"output", 'o', CLI_STRING, FIELD(output), "FILE.npy",
     .help = "Where to write the logits: NumPy format, float32 [ids, vocabulary]."},
    {0},
};

static const struct cli_option figure_rows[] = {
    {"stats", 0, CLI_FLAG, FIELD(stats),
     .help = "Print figures at the end: speed, bytes read by tier, cache hits, stall, hash of the "
             "last logits."},
    {"json", 0, CLI_FLAG, FIELD(json),
     .help =
         "Print one line with one JSON object, with the result and all figures, in place of text."},
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "No memory plan, progress or remarks."},
    {0},
};

static const struct cli_group machine = {"Machine", machine_rows};
static const struct cli_group prompt = {"Prompt", prompt_rows};
static const struct cli_group generation = {"Generation", generate_rows};
static const struct cli_group text = {"Text", text_rows};
static const struct cli_group perplexity = {"Text", perplexity_rows};
static const struct cli_group bench = {"Work", bench_rows};
static const struct cli_group measure = {"Measurement", measure_rows};
static const struct cli_group logits = {"Ids and result", logits_rows};
static const struct cli_group figures = {"Figures", figure_rows};

/* -- commands ------------------------------------------------------------------------------- */

static const struct cli_command commands[] = {
    {"generate", "continue a text; runs where no command is named", run_generate,
     .args = "MODEL.corm", .min_args = 1, .max_args = 1,
     .groups = {&prompt, &generation, &text, &machine, &figures},
     .description = "Reads the prompt, then prints the continuation as it is made. It ends when "
                    "the model ends the text, after -n tokens, or when the context is full. Ctrl-C "
                    "ends it after the token in work; a second Ctrl-C kills.\n"
                    "Tokens are chosen so: repeat penalty, then the filters top-k, top-p and min-p "
                    "(at temperature 1), then one is drawn at the temperature. What is not given "
                    "is as the model's publisher suggests.\n"
                    "Text goes to standard output, all else to standard error.",
     .examples = "corm-run model.corm -p \"Once upon a time\" -n 200\n"
                 "#The likeliest text, always the same:\n"
                 "corm-run model.corm -p \"Once upon a time\" --temp 0\n"
                 "#In 4 GiB, with figures at the end:\n"
                 "corm-run model.corm -f prompt.txt --ram 4G --stats\n"
                 "#From another program:\n"
                 "echo \"Dear\" | corm-run model.corm -p - --json --quiet\n"},
    {"perplexity", "measure how well a text is foreseen", run_perplexity, .args = "MODEL.corm",
     .min_args = 1, .max_args = 1, .groups = {&perplexity, &machine, &figures},
     .description =
         "The text is tokenized as a whole, without BOS unless --bos, and read in windows of --ctx "
         "tokens; each window begins --stride tokens after the one before, with an empty KV cache. "
         "In each window the tokens are scored that no window before had scored, except a window's "
         "first, before which there is nothing: with windows side by side all tokens but the first "
         "of each; with a smaller stride the last --stride ones, each with at least ctx - stride "
         "tokens before it. The last window may be shorter.\n"
         "A token's score is -ln softmax(logits)[token]; perplexity is exp of the mean. The last "
         "line is 'perplexity P over N tokens'. Perplexities compare only with the same tokenizer, "
         "text, window and stride.",
     .examples = "corm-run perplexity model.corm -f text.txt\n"
                 "#Slower, with more before each token:\n"
                 "corm-run perplexity model.corm -f text.txt --ctx 1024 --stride 256\n"},
    {"bench", "measure speed", bench_run, .args = "[MODEL.corm]", .max_args = 1,
     .groups = {&bench, &measure, &machine, &figures},
     .description =
         "Computes a prompt in batches (prefill), then tokens one by one (decode), and repeats "
         "that. The tokens are fixed, not the model's own, so that different builds and options do "
         "the same work.\n"
         "GB/s is the bytes of weights, decoded, that the math used by the time it took (1 GB = "
         "1e9 bytes); "
         "archive/tok is what came from the file. The first repetition also fills the cache.\n"
         "With a device, a second table tells of its expert cache: hits, the chunks in its memory "
         "when demanded; what was copied to it, because it was demanded or guessed; in how many "
         "chunks, and in how many copies, as neighbours go together; by CPU, the share of the "
         "experts' weights that the CPU computed with (--missed); hidden, the share of the time of "
         "copying in which the device computed, - where nothing was copied; and stall, the share "
         "of the time in which computing waited for experts.",
     .examples =
         "corm-run bench model.corm\n"
         "corm-run bench model.corm --ram 25% --reps 5 --json\n"
         "corm-run bench --kernels --isa avx2\n"
         "#What each mechanism brings on a SATA disk, with room for a quarter of the experts:\n"
         "corm-run bench model.corm --ablation --share 25 --throttle 500MB --latency 100us\n"},
    {"logits", "write logits for given token ids", run_logits, .args = "MODEL.corm", .min_args = 1,
     .max_args = 1, .groups = {&logits, &machine, &figures},
     .description = "For comparing with other programs: row i of the result is what the model "
                    "foresees after ids 0 to i. The hash is XXH3-64 of the last row; it is the "
                    "same for every thread count, batch and budget.",
     .examples = "corm-run logits model.corm --ids 1,15,7 -o out.npy\n"
                 "#Then in Python: numpy.load(\"out.npy\").argmax(1)\n"},
    {0},
};

int main(int argc, char **argv) {
    /* A reader that goes away (head) ends the program quietly, whatever the parent had set. */
    signal(SIGPIPE, SIG_DFL);
    catch_lost_pages();
    struct run_options options = {
        .batch = 256,
        .max_tokens = 128,
        .window = 256,
        .prompt_tokens = 512,
        .decode_tokens = 128,
        .reps = 3,
    };
    const struct cli_program program = {
        .name = "corm-run",
        .summary = "run sparse mixture-of-experts models, also those larger than memory",
        .version = corm_version(),
        .description =
            "Runs a .corm archive, which corm-prep makes from a Hugging Face checkpoint. The "
            "archive holds all that is needed: weights, tokenizer, licence.\n"
            "Before weights are loaded, the memory plan is printed; it is kept. With less memory "
            "than the model takes, experts come from the archive as they are needed, and the text "
            "stays the same, only later.",
        .examples = "corm-run model.corm -p \"Once upon a time\" -n 200\n"
                    "corm-run model.corm -p \"Once upon a time\" --ram 4G --stats\n"
                    "corm-run perplexity model.corm -f text.txt\n"
                    "#All options of a command:\n"
                    "corm-run generate --help\n",
        .commands = commands,
        .default_command = 0,
        .exit_status = "130 ended by Ctrl-C\n",
    };
    return cli_main(&program, argc, argv, &options);
}
