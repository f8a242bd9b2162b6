/*
 * peer: llama.cpp, fed with token ids. Developer-only; compiled by tests/llama/bench.sh against the
 * llama.h and libllama that it found.
 *
 *   peer version
 *   peer bench  MODEL.gguf IDS PROMPT DECODE REPS THREADS WAY
 *   peer logits MODEL.gguf IDS OUT.f32 THREADS WAY
 *   peer quantise MODEL.gguf OUT.gguf          llama.cpp's own Q4_K_M of a model in bf16
 *
 * bench evaluates the first PROMPT ids of the file IDS in batches, then DECODE ids one by one, REPS
 * times, and prints one JSON line: seconds, and the bytes that the process had read from storage
 * (/proc/self/io). Ways: plain, weights stay in the map of the file; default, llama.cpp copies
 * what it likes into memory in another order; repack, experts alone are so copied (Q4_0 here: other
 * types end the program). logits writes float32 [ids, vocabulary].
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ggml-backend.h>
#include <llama.h>

enum { BATCH = 512 };

static void fail(const char *what, const char *about) {
    fprintf(stderr, "peer: %s: %s\n", about, what);
    exit(1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t read_bytes(void) {
    FILE *f = fopen("/proc/self/io", "r");
    char line[128];
    unsigned long long bytes = 0;
    while (f && fgets(line, sizeof line, f)) {
        sscanf(line, "read_bytes: %llu", &bytes);
    }
    if (f) {
        fclose(f);
    }
    return bytes;
}

static llama_token *read_ids(const char *path, int *n) {
    FILE *f = fopen(path, "r");
    int cap = 0, id;
    llama_token *ids = NULL;
    *n = 0;
    while (f && fscanf(f, "%d", &id) == 1) {
        if (*n == cap) {
            cap = cap ? 2 * cap : 1024;
            ids = realloc(ids, (size_t)cap * sizeof *ids);
        }
        ids[(*n)++] = id;
    }
    if (!f || *n == 0) {
        fail("no token ids", path);
    }
    fclose(f);
    return ids;
}

static void quiet(enum ggml_log_level level, const char *text, void *unused) {
    (void)unused;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

/* llama.cpp's own buffer type of that name, NULL where this machine or build has none. */
static ggml_backend_buffer_type_t extra_buffer_type(const char *name) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(cpu);
    ggml_backend_dev_get_extra_bufts_t list =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            registry, "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t *t = list ? list(cpu) : NULL; t && *t; t++) {
        if (strcmp(ggml_backend_buft_name(*t), name) == 0) {
            return *t;
        }
    }
    return NULL;
}

static bool no_dots(float progress, void *unused) {
    (void)progress, (void)unused;
    return true;
}

static struct llama_model *load(const char *path, const char *way) {
    struct llama_model_params p = llama_model_default_params();
    struct llama_model_tensor_buft_override overrides[] = {
        {"ffn_.*_exps", extra_buffer_type("CPU_REPACK")}, {0}};
    p.n_gpu_layers = 0;
    p.progress_callback = no_dots;
    if (strcmp(way, "plain") == 0) {
        p.use_extra_bufts = false;
    } else if (strcmp(way, "repack") == 0) {
        if (!overrides[0].buft) {
            fail("this build has no CPU_REPACK", "llama.cpp");
        }
        p.tensor_buft_overrides = overrides;
        p.use_extra_bufts = false;
    } else if (strcmp(way, "default") != 0) {
        fail("expected plain, repack or default", way);
    }
    struct llama_model *m = llama_model_load_from_file(path, p);
    if (!m) {
        fail("llama.cpp does not load it", path);
    }
    return m;
}

static struct llama_context *context(struct llama_model *m, int n_ctx, int threads) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)n_ctx;
    p.n_batch = p.n_ubatch = BATCH;
    p.n_threads = p.n_threads_batch = threads;
    struct llama_context *c = llama_init_from_model(m, p);
    if (!c) {
        fail("no context", "llama.cpp");
    }
    return c;
}

/* Positions go on where the context stands. `all`: logits of every id, else of the last one. */
static void eval(struct llama_context *c, llama_token *ids, int n, int pos, bool all) {
    static struct llama_batch batch;
    if (!batch.token) {
        batch = llama_batch_init(BATCH, 0, 1);
    }
    batch.n_tokens = n;
    for (int i = 0; i < n; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = pos + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = all || i == n - 1;
    }
    if (llama_decode(c, batch) != 0) {
        fail("llama_decode failed", "llama.cpp");
    }
    llama_synchronize(c);
}

static void bench(char **a) {
    int n_ids, n_prompt = atoi(a[2]), n_decode = atoi(a[3]), reps = atoi(a[4]);
    llama_token *ids = read_ids(a[1], &n_ids);
    if (n_ids < n_prompt + n_decode) {
        fail("fewer ids than prompt and decoding need", a[1]);
    }
    double start = seconds();
    struct llama_model *m = load(a[0], a[6]);
    struct llama_context *c = context(m, n_prompt + n_decode, atoi(a[5]));
    double *prefill = calloc((size_t)reps, sizeof *prefill);
    double *decode = calloc((size_t)reps, sizeof *decode);
    double load_s = seconds() - start;
    uint64_t load_bytes = read_bytes(), decode_bytes = 0;
    for (int r = 0; r < reps; r++) {
        llama_memory_clear(llama_get_memory(c), true);
        double t = seconds();
        for (int i = 0; i < n_prompt; i += BATCH) {
            eval(c, ids + i, n_prompt - i < BATCH ? n_prompt - i : BATCH, i, false);
        }
        prefill[r] = seconds() - t;
        uint64_t before = read_bytes();
        t = seconds();
        for (int i = 0; i < n_decode; i++) {
            eval(c, ids + n_prompt + i, 1, n_prompt + i, false);
        }
        decode[r] = seconds() - t;
        decode_bytes = read_bytes() - before;
    }
    printf("{\"load_s\": %.4f, \"load_bytes\": %llu, \"decode_bytes\": %llu, \"prefill_s\": [",
           load_s, (unsigned long long)load_bytes, (unsigned long long)decode_bytes);
    for (int r = 0; r < reps; r++) {
        printf("%s%.6f", r ? ", " : "", prefill[r]);
    }
    printf("], \"decode_s\": [");
    for (int r = 0; r < reps; r++) {
        printf("%s%.6f", r ? ", " : "", decode[r]);
    }
    printf("]}\n");
}

static void logits(char **a) {
    int n;
    llama_token *ids = read_ids(a[1], &n);
    struct llama_model *m = load(a[0], a[4]);
    struct llama_context *c = context(m, n, atoi(a[3]));
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(m));
    FILE *f = fopen(a[2], "wb");
    for (int i = 0; f && i < n; i += BATCH) {
        int rows = n - i < BATCH ? n - i : BATCH;
        eval(c, ids + i, rows, i, true);
        if (fwrite(llama_get_logits(c), sizeof(float), (size_t)rows * (size_t)vocab, f) !=
            (size_t)rows * (size_t)vocab) {
            fail("cannot write", a[2]);
        }
    }
    if (!f || fclose(f) != 0) {
        fail("cannot write", a[2]);
    }
}

static void quantise(const char *from, const char *to) {
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = LLAMA_FTYPE_MOSTLY_Q4_K_M;
    if (llama_model_quantize(from, to, &p) != 0) {
        fail("llama.cpp cannot make Q4_K_M of it", from);
    }
}

int main(int argc, char **argv) {
    llama_log_set(quiet, NULL);
    llama_backend_init();
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        printf("%s\n", llama_print_system_info());
    } else if (argc == 9 && strcmp(argv[1], "bench") == 0) {
        bench(argv + 2);
    } else if (argc == 7 && strcmp(argv[1], "logits") == 0) {
        logits(argv + 2);
    } else if (argc == 4 && strcmp(argv[1], "quantise") == 0) {
        quantise(argv[2], argv[3]);
    } else {
        fail("usage is at the top of tests/llama/peer.c", "arguments");
    }
    return 0;
}
