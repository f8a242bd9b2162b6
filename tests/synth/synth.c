/* synth: checkpoints and archives with planted structure, texts of their language, and how local
 * their routing is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/cli.h"
#include "tests/synth/measure.h"
#include "tests/synth/plant.h"
#include "tests/synth/shapes.h"
#include "tests/synth/straight.h"
#include "tests/synth/write.h"

struct options {
    int preset, threads, seqs, seq_tok;
    int published, routing, trunk, layers, chunk_neurons;
    struct plant_shape shape;
    uint64_t shard_bytes, n_tok, stream;
    const char *output, *text;
    bool generate, quiet;
};

#define FIELD(member) CLI_FIELD(struct options, member)
#define INT(option, member, text)                                                                  \
    {                                                                                              \
        option, 0, CLI_INT, FIELD(shape.member), "N", text, .min = 0, .max = 1 << 20,              \
                                                            .fallback = "the preset's"             \
    }
#define REAL(option, member, text)                                                                 \
    {                                                                                              \
        option, 0, CLI_DOUBLE, FIELD(shape.member), "X", text, .min = 0, .max = 10,                \
                                                               .fallback = "the preset's"          \
    }

static const struct cli_option shape_rows[] = {
    {"preset", 'p', CLI_ENUM, FIELD(preset), "NAME", "Where the numbers not given come from.",
     .words = plant_presets},
    {"family", 0, CLI_ENUM, FIELD(shape.family), "NAME", "The model's type.",
     .words = plant_families, .fallback = "the preset's"},
    INT("layers", layers, "Layers."),
    INT("dim", dim, "Width of the residual stream."),
    INT("heads", heads, "Query heads."),
    INT("kv-heads", kv_heads, "Key and value heads."),
    INT("head-dim", head_dim, "Width of a head; where only dim or heads is given, their quotient."),
    INT("experts", experts, "Experts of a layer."),
    INT("active", active, "Experts that a token uses."),
    INT("ffn", ffn, "Neurons of an expert."),
    INT("shared", shared, "Neurons of the shared expert (qwen2_moe)."),
    INT("vocab", vocab, "Tokens: 256 bytes, words, two specials."),
    INT("context", ctx, "Positions that config.json names."),
    {"seed", 's', CLI_U64, FIELD(shape.seed), "N", "The same seed and shape give the same bytes."},
    {0}};
static const struct cli_group shape_group = {"Shape", shape_rows};

static const struct cli_option plant_option_rows[] = {
    INT("topics", topics, "Topics of the language."),
    REAL("stay", stay, "Chance that a token keeps the topic."),
    REAL("zipf", zipf, "Exponent of word frequencies."),
    REAL("common", common, "Part of an embedding that all tokens share: uneven load."),
    REAL("topic", topic, "Part that a topic's tokens share: experts kept from token to token."),
    REAL("drift", drift, "Energy that a layer adds: how fast the stale gate loses recall."),
    REAL("attention", attention, "Attention's part of it."),
    REAL("router", router, "Standard deviation of router logits."),
    REAL("gate-sigma", gate_sigma, "Lognormal spread of gate rows."),
    REAL("up-sigma", up_sigma, "Of up rows."),
    REAL("down-sigma", down_sigma, "Of down columns."),
    REAL("alike", alike, "Part of an up row that is its gate row: experts' mean outputs."),
    {0}};
static const struct cli_group plant_group = {"Planted structure", plant_option_rows};

static const struct cli_option write_rows[] = {
    {"shard", 0, CLI_SIZE, FIELD(shard_bytes), "SIZE", "Most weights in a file."},
    {"threads", 't', CLI_INT, FIELD(threads), "N", "Threads.", .min = 1, .max = 256},
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "Print nothing but errors."},
    {0}};
static const struct cli_group write_group = {"Work", write_rows};

static const char *const trunk_words[] = {"q8", "bf16", NULL};
static const struct cli_option straight_rows[] = {
    {"shape", 0, CLI_ENUM, FIELD(published), "NAME", "Whose numbers.", .words = shapes_names},
    {"routing", 0, CLI_ENUM, FIELD(routing), "HOW",
     "planted: experts are kept from token to token; uniform: the past tells nothing of them.",
     .words = shapes_routings},
    {"layers", 0, CLI_INT, FIELD(layers), "N", "Only the first N layers.", .min = 0,
     .max = ARCH_MAX_LAYERS, .fallback = "all"},
    {"trunk", 0, CLI_ENUM, FIELD(trunk), "CODEC", "Of the matrices that are no experts.",
     .words = trunk_words},
    {"chunk-neurons", 0, CLI_INT, FIELD(chunk_neurons), "N", "Neurons of a chunk.", .min = 32,
     .max = 4096},
    {"seed", 's', CLI_U64, FIELD(shape.seed), "N", "The same seed and shape give the same bytes."},
    {0}};
static const struct cli_group straight_group = {"Archive", straight_rows};

static const struct cli_option straight_text_rows[] = {
    {"text", 0, CLI_STRING, FIELD(text), "FILE", .help = "Write a text of its language, too."},
    {"tokens", 'n', CLI_U64, FIELD(n_tok), "N", "Tokens of it."},
    {"stream", 0, CLI_U64, FIELD(stream), "N", "Which text: others do not overlap it."},
    {0}};
static const struct cli_group straight_text_group = {"Text", straight_text_rows};

static const struct cli_option straight_work_rows[] = {
    {"threads", 't', CLI_INT, FIELD(threads), "N", "Threads.", .min = 1, .max = 256},
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "Print nothing but errors."},
    {0}};
static const struct cli_group straight_work_group = {"Work", straight_work_rows};

static const struct cli_option text_rows[] = {
    {"tokens", 'n', CLI_U64, FIELD(n_tok), "N", "Tokens."},
    {"stream", 0, CLI_U64, FIELD(stream), "N", "Which text: others do not overlap it."},
    {"output", 'o', CLI_STRING, FIELD(output), "FILE", .help = "Where to; else standard output."},
    {0}};
static const struct cli_group text_group = {"Text", text_rows};

static const struct cli_option measure_rows[] = {
    {"generate", 'g', CLI_FLAG, FIELD(generate), .help = "Let the model sample the text."},
    {"seqs", 0, CLI_INT, FIELD(seqs), "N", "Sequences.", .min = 1, .max = 1024},
    {"length", 'n', CLI_INT, FIELD(seq_tok), "N", "Tokens of each.", .min = 2, .max = 65536},
    {"stream", 0, CLI_U64, FIELD(stream), "N", "Which text."},
    {"threads", 't', CLI_INT, FIELD(threads), "N", "Threads.", .min = 1, .max = 256},
    {"quiet", 'q', CLI_FLAG, FIELD(quiet), .help = "Show no progress."},
    {0}};
static const struct cli_group measure_group = {"Measuring", measure_rows};

/* The preset's numbers, with those that were given in their place. */
static struct plant_shape chosen_shape(const struct cli_call *call) {
    const struct options *o = call->values;
    struct plant_shape shape = plant_preset(o->preset);
    const struct cli_option *tables[] = {shape_rows, plant_option_rows};
    for (int t = 0; t < 2; t++) {
        for (const struct cli_option *row = tables[t]; row->name; row++) {
            size_t base = offsetof(struct options, shape);
            if (row->offset >= base && row->offset < base + sizeof shape &&
                cli_given(call, row->name)) {
                memcpy((char *)&shape + (row->offset - base), (const char *)o + row->offset,
                       row->size);
            }
        }
    }
    if (!cli_given(call, "head-dim") && (cli_given(call, "dim") || cli_given(call, "heads")) &&
        shape.heads > 0) {
        shape.head_dim = shape.dim / shape.heads;
    }
    if (cli_given(call, "heads") && !cli_given(call, "kv-heads")) {
        shape.kv_heads = shape.heads;
    }
    return shape;
}

static int run_write(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    struct plant_shape shape = chosen_shape(call);
    struct progress_terminal terminal;
    struct plant plant = {0};
    int rc = -1;
    if (plant_open(&plant, &shape, err) == 0) {
        struct progress *progress = progress_terminal_init(&terminal, stderr, o->quiet);
        rc = write_checkpoint(&plant, call->args.items[0], o->shard_bytes, (uint32_t)o->threads,
                              progress, err);
    }
    plant_close(&plant);
    return rc;
}

/* A text of the language, to a file, or standard output where `path` is NULL. */
static int put_text(const struct lang *l, const struct options *o, const char *path,
                    struct err *err) {
    struct buf text = {0};
    int rc = 0;
    write_text(l, o->stream, o->n_tok, &text);
    FILE *f = path ? fopen(path, "wb") : stdout;
    if (!f || fwrite(text.data, 1, text.len, f) != text.len || (path && fclose(f) != 0)) {
        rc = err_set(err, "%s: cannot write", path ? path : "standard output");
    }
    buf_free(&text);
    return rc;
}

static int run_straight(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    struct progress_terminal terminal;
    struct plant plant = {0};
    struct corm_write_stats stats;
    char *origin =
        mem_printf("synth straight --shape %s --routing %s --trunk %s --chunk-neurons %d",
                   shapes_names[o->published], shapes_routings[o->routing], trunk_words[o->trunk],
                   o->chunk_neurons);
    const struct straight_options how = {.trunk_codec = codec_by_name(trunk_words[o->trunk]),
                                         .chunk_neurons = (uint32_t)o->chunk_neurons / 32 * 32,
                                         .threads = (uint32_t)o->threads,
                                         .origin = origin};
    int rc = shapes_open(&plant, o->published, (enum shapes_routing)o->routing, (uint32_t)o->layers,
                         o->shape.seed, err);
    if (rc == 0) {
        rc = straight_write(&plant, call->args.items[0], &how,
                            progress_terminal_init(&terminal, stderr, o->quiet), &stats, err);
    }
    if (rc == 0 && o->text) {
        rc = put_text(&plant.lang, o, o->text, err);
    }
    plant_close(&plant);
    free(origin);
    return rc;
}

static int run_text(const struct cli_call *call, struct err *err) {
    struct lang lang = {0};
    const struct options *o = call->values;
    int rc = write_read_lang(call->args.items[0], &lang, err);
    if (rc == 0) {
        rc = put_text(&lang, o, o->output, err);
    }
    lang_close(&lang);
    return rc;
}

static int run_measure(const struct cli_call *call, struct err *err) {
    const struct options *o = call->values;
    struct progress_terminal terminal;
    struct measure m;
    struct measure_options how = {(uint32_t)o->seqs, (uint32_t)o->seq_tok, o->generate, o->stream,
                                  (uint32_t)o->threads};
    struct progress *progress = progress_terminal_init(&terminal, stderr, o->quiet);
    if (measure_run(call->args.items[0], &how, &m, progress, err) < 0) {
        return -1;
    }
    printf("LRU of half the experts    %5.1f %% hits\n", 100 * m.lru_half);
    printf("previous token's experts   %5.1f %%\n", 100 * m.previous);
    printf("stale gate, 1 2 3 ahead    %5.1f %5.1f %5.1f %%\n", 100 * m.stale[0], 100 * m.stale[1],
           100 * m.stale[2]);
    printf("load over mean             %5.2f to %.2f\n", m.load_min, m.load_max);
    printf("next token in topic        %5.1f %%\n", 100 * m.in_topic);
    if (!o->generate) {
        printf("energy of 25 %%, 50 %%       %5.1f %5.1f %%\n", 100 * m.energy_quarter,
               100 * m.energy_half);
        printf("nats a token               %5.3f (the language: %.3f)\n", m.nll, m.text);
    }
    return 0;
}

static void set_defaults(void *values) {
    *(struct options *)values = (struct options){.threads = 2,
                                                 .chunk_neurons = 32,
                                                 .seqs = 8,
                                                 .seq_tok = 128,
                                                 .shape = {.seed = 1},
                                                 .shard_bytes = UINT64_C(4000000000),
                                                 .n_tok = 4096,
                                                 .stream = 1};
}

/* All commands fill the same struct, each the fields that it has options for. */
#define VALUES .values_bytes = sizeof(struct options), .defaults = set_defaults
static const struct cli_command all[] = {
    {"write", "write a checkpoint", run_write, .args = "DIR", .min_args = 1, .max_args = 1,
     .groups = {&shape_group, &plant_group, &write_group}, VALUES,
     .examples = "synth write /tmp/m --preset olmoe-7b --layers 2\n"},
    {"straight", "write an archive of a published model's shape, without a checkpoint",
     run_straight, .args = "FILE.corm", .min_args = 1, .max_args = 1,
     .groups = {&straight_group, &straight_text_group, &straight_work_group}, VALUES,
     .examples = "synth straight /tmp/m.corm --shape gpt-oss-20b --routing uniform\n"},
    {"text", "write text of a checkpoint's language", run_text, .args = "DIR", .min_args = 1,
     .max_args = 1, .groups = {&text_group}, VALUES},
    {"measure", "measure how local a checkpoint's routing is", run_measure, .args = "DIR",
     .min_args = 1, .max_args = 1, .groups = {&measure_group}, VALUES},
};
static const struct cli_command *const commands[] = {&all[0], &all[1], &all[2], &all[3], NULL};

int main(int argc, char **argv) {
    static const struct cli_program program = {
        .name = "synth",
        .summary = "make mixture-of-experts checkpoints with planted structure",
        .version = CORM_VERSION_TEXT,
        .commands = commands,
        .default_command = -1,
    };
    return cli_main(&program, argc, argv);
}
