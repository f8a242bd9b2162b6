/*
 * mutate_case: one file, made in a process of its own (so that its memory is not counted as that of
 * the programs, and a broken change breaks nothing else), and the commands that read it.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/corm_read.h"
#include "tests/fuzz/mutate.h"
#include "tests/util/test_util_archive.h"

enum {
    MOST_ARGUMENTS = 40,
    DRAWN = 3,
    JSON_GROWS = 16, /* a tree in memory, beside its text */
};

#define TEXT "tests/golden/heldout.txt"
#define PROMPT "Once  upon\na time, 12 \xc3\xa9t\xc3\xa9s don't <s> \xf0\x9f\x98\x80"

/* A case while its commands run. */
struct run_case {
    const struct mutate_setup *s;
    struct mutate_rng r;
    uint64_t index;
    enum mutate_kind kind;
    char *folder; /* of the lane */
    char *file;   /* what is read: an archive, or a checkpoint's folder */
    char *made;   /* the archive that convert makes of a checkpoint */
    char *log;    /* what was changed */
    const char *base;
    uint32_t findings;
    uint64_t commands, accepted;
};

/* ---- commands ---- */

/* Words of a command: @ the file, %o a file to write, %p a prompt, %t a text, %m options of the
 * machine that are drawn; --loss is among them where the archive has predictors. */
struct command {
    const char *program, *words;
    bool twice; /* again with other options of the machine: the last line must be the same */
    const char *instead; /* what a message may name in place of the file: an argument */
};

static const struct command of_archives[] = {
    {"corm-run", "@ -p %p -n 4 --seed 1 --stats %m", false, "the prompt has"},
    {"corm-prep", "verify -q @", false, NULL},
    {"corm-run", "logits @ --ids 1,2,3,0 %m", true, "is too great"},
    {"corm-run", "perplexity @ -f %t -n 64 -c 24 --stats %m", false, NULL},
    {"corm-run", "bench @ --reps 1 --prompt-tokens 20 --decode-tokens 4 --trace %m", false, NULL},
    {"corm-prep", "inspect @", false, NULL},
    {"corm-prep", "tokenize @ -p %p", false, NULL},
    {"corm-prep", "tokenize @ --decode -p 0,1,2,3,100,279", false, NULL},
    {"corm-prep", "report @", false, NULL},
    {"corm-run", "bench @ --reps 1 --prompt-tokens 9 --decode-tokens 3 --json --kv f32 %m", false,
     NULL},
};
static const struct command of_checkpoints[] = {
    {"corm-prep", "inspect @", false, NULL},
};
static const struct command of_made[] = {
    {"corm-run", "@ -p %p -n 4 --seed 1 --stats %m", false, "the prompt has"},
    {"corm-prep", "tokenize @ -p %p", false, NULL},
    {"corm-run", "logits @ --ids 1,2,3,0 %m", true, NULL},
};

static const char *draw(struct mutate_rng *r, const char *const *of, size_t n) {
    return of[mutate_below(r, n)];
}
#define DRAW(r, ...)                                                                               \
    draw(r, (const char *const[]){__VA_ARGS__},                                                    \
         sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

/* Appends the options that say what machine there is. None of them changes a result. */
static size_t machine(struct mutate_rng *r, const char **argv) {
    size_t n = 0;
    argv[n++] = "--device";
    argv[n++] = "cpu";
    argv[n++] = "--ram";
    argv[n++] = DRAW(r, "24M", "32M", "64M", "64M", "160M");
    argv[n++] = "-t";
    argv[n++] = DRAW(r, "1", "2", "3");
    if (mutate_one_in(r, 2)) {
        argv[n++] = "--batch";
        argv[n++] = DRAW(r, "1", "2", "8", "64");
    }
    if (mutate_one_in(r, 2)) {
        argv[n++] = "--reading";
        argv[n++] = DRAW(r, "buffered", "direct", "mapped", "passing");
    }
    if (mutate_one_in(r, 2)) {
        argv[n++] = "--keep";
        argv[n++] = DRAW(r, "decoded", "packed");
    }
    return n;
}

/* The words of a command as arguments; *kept holds their text. */
static void arguments(struct run_case *c, const struct command *k, const char *build, bool loss,
                      struct mutate_rng *r, char **kept, const char **argv) {
    size_t n = 0;
    size_t program = strlen(build) + strlen(k->program) + 2;
    *kept = mem_alloc(program + strlen(k->words) + 1);
    snprintf(*kept, program, "%s/%s", build, k->program);
    memcpy(*kept + program, k->words, strlen(k->words) + 1);
    argv[n++] = *kept;
    char *rest = *kept + program;
    for (char *word; (word = strsep(&rest, " ")) != NULL;) {
        if (strcmp(word, "%m") == 0) {
            n += machine(r, argv + n);
            if (loss) {
                argv[n++] = "--loss";
                argv[n++] = DRAW(r, "0.5", "1", "2");
            }
            continue;
        }
        argv[n++] = strcmp(word, "@") == 0    ? c->file
                    : strcmp(word, "%o") == 0 ? c->made
                    : strcmp(word, "%p") == 0 ? PROMPT
                    : strcmp(word, "%t") == 0 ? TEXT
                                              : word;
    }
    argv[n] = NULL;
}

/* ---- findings ---- */

static void copy(const char *from, const char *to) {
    pid_t child = fork();
    if (child == 0) {
        execlp("cp", "cp", "-R", "--sparse=always", "-T", from, to, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

static void print_quoted(FILE *f, const char *const *argv) {
    for (; *argv; argv++) {
        fprintf(f, strpbrk(*argv, " \n<'") ? " $'" : " ");
        for (const char *p = *argv; *p; p++) {
            fprintf(f, *p == '\n' ? "\\n" : *p == '\'' ? "\\'" : "%c", *p);
        }
        fprintf(f, strpbrk(*argv, " \n<'") ? "'" : "");
    }
}

static void describe(const struct run_case *c, FILE *f, const char *prefix, const char *const *argv,
                     const char *why) {
    fprintf(f, "%sfile %llu of seed %llu, from %s\n", prefix, (unsigned long long)c->index,
            (unsigned long long)c->s->seed, c->base);
    for (const char *p = c->log; *p; p += strcspn(p, "\n"), p += *p == '\n') {
        fprintf(f, "%s  %.*s\n", prefix, (int)strcspn(p, "\n"), p);
    }
    fprintf(f, "%scommand:", prefix);
    print_quoted(f, argv);
    fprintf(f, "\n%soutcome: %s\n", prefix, why);
}

static void keep(struct run_case *c, const char *const *argv, const char *why,
                 const struct mutate_outcome *o) {
    char *name = mem_printf("%s/%s-%llu-%llu%s", c->s->found,
                            c->kind == MUTATE_ARCHIVES ? "archive" : "checkpoint",
                            (unsigned long long)c->s->seed, (unsigned long long)c->index,
                            c->kind == MUTATE_ARCHIVES ? ".corm" : "");
    char *from = mem_printf("%s/%s", c->folder, c->kind == MUTATE_ARCHIVES ? "file.corm" : "file");
    char *text = mem_printf("%s.txt", name);
    copy(from, name);
    FILE *f = fopen(text, "a");
    if (f) {
        describe(c, f, "", argv, why);
        if (o) {
            fprintf(f, "it said:\n%.*s\n", 4000, o->said.data ? o->said.data : "");
        }
        fclose(f);
    }
    free(name);
    free(from);
    free(text);
}

static void finding(struct run_case *c, const char *const *argv, const char *why,
                    const struct mutate_outcome *o) {
    c->findings++;
    describe(c, stdout, "# ", argv, why);
    fflush(stdout);
    keep(c, argv, why, o);
}

/* ---- running ---- */

/* What of the file a program may have in memory before it has a plan: the sections that are copied,
 * as far as their limits allow. */
static uint64_t copied_bytes(const char *file) {
    static const uint64_t most[] = {
        [CORM_SECTION_METADATA] = CORM_MAX_METADATA_BYTES,
        [CORM_SECTION_TOKENIZER] = CORM_MAX_TOKENIZER_BYTES,
        [CORM_SECTION_TENSORS] = CORM_MAX_METADATA_BYTES,
        [CORM_SECTION_INDEX] = CORM_MAX_INDEX_BYTES,
        [CORM_SECTION_PROVENANCE] = CORM_MAX_TEXT_BYTES,
        [CORM_SECTION_LICENSE] = CORM_MAX_TEXT_BYTES,
        [CORM_SECTION_PREDICTORS] = CORM_MIN_PREDICTORS_BYTES,
    };
    struct corm_section s[CORM_MAX_SECTIONS];
    struct corm_header h;
    struct err err = {0};
    struct map m = {0};
    uint64_t sum = 0;
    if (map_open(&m, file, &err) < 0) {
        return 0;
    }
    uint32_t n = archive_table(m.data, m.size_bytes, &h, s);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t limit = s[i].type < sizeof most / sizeof *most ? most[s[i].type] : 0;
        sum += s[i].bytes < limit ? s[i].bytes : limit;
    }
    map_close(&m);
    return sum;
}

static uint64_t file_bytes(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

/* Of the files in a folder; 0 of a file. */
static uint64_t folder_bytes(const char *path) {
    uint64_t sum = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char *file = mem_printf("%s/%s", path, e->d_name);
        sum += file_bytes(file);
        free(file);
    }
    if (d) {
        closedir(d);
    }
    return sum;
}

static struct mutate_limits limits_of(const struct run_case *c, const struct command *k,
                                      bool sanitized) {
    struct mutate_limits l = {.cpu_s = sanitized ? 60 : 10, .wall_s = sanitized ? 400 : 200};
    if (!sanitized) {
        bool prep = strcmp(k->program, "corm-prep") == 0;
        l.beside_plan = 64 << 20;
        l.without_plan = (prep ? 12 : 6) << 20; /* what it takes for any file */
        l.without_plan += copied_bytes(c->file) + (prep ? file_bytes(c->file) : 0) +
                          JSON_GROWS * folder_bytes(c->file);
    }
    return l;
}

static const char *last_line(const struct buf *b) {
    const char *text = b->data ? b->data : "", *last = text;
    for (const char *p = text; (p = strchr(p, '\n')) != NULL && p[1]; p++) {
        last = p + 1;
    }
    return last;
}

/* Run one command with one build. Returns its exit status; *line, where wanted, becomes its last
 * line on standard output, to free(). */
static int run_one(struct run_case *c, const struct command *k, bool sanitized, bool loss,
                   struct mutate_rng *r, char **line) {
    const char *argv[MOST_ARGUMENTS];
    const char *build = sanitized ? c->s->programs.sanitized : c->s->programs.release;
    char *kept;
    struct mutate_outcome o;
    struct mutate_limits l = limits_of(c, k, sanitized);
    arguments(c, k, build, loss, r, &kept, argv);
    mutate_run((char *const *)argv, c->folder, &l, &o);
    if (!o.ok && o.status == 1 && k->instead && strstr(o.why, "does not name") &&
        strstr(o.why, k->instead)) {
        o.ok = true;
    }
    c->commands++;
    c->accepted += o.status == 0;
    if (!o.ok) {
        finding(c, argv, o.why, &o);
    } else if (c->s->keep) {
        describe(c, stdout, "# ", argv, o.status == 0 ? "accepted" : o.why);
    }
    if (line) {
        *line = mem_strdup(last_line(&o.out));
    }
    int status = o.ok ? o.status : -1;
    buf_free(&o.out);
    buf_free(&o.said);
    free(kept);
    return status;
}

/* One command with each build. */
static void run_command(struct run_case *c, const struct command *k, bool loss) {
    struct mutate_rng from = c->r;
    char *first = NULL, *second = NULL;
    if (c->s->programs.release) {
        int status = run_one(c, k, false, loss, &c->r, &first);
        if (k->twice && status == 0 && !loss && run_one(c, k, false, loss, &c->r, &second) == 0 &&
            strcmp(first, second) != 0) {
            const char *const argv[] = {k->program, k->words, NULL};
            char *why = mem_printf("another machine gives another result: %.80s, then %.80s", first,
                                   second);
            finding(c, argv, why, NULL);
            free(why);
        }
    }
    if (c->s->programs.sanitized) {
        c->r = from;
        run_one(c, k, true, loss, &c->r, NULL);
    }
    free(first);
    free(second);
}

static void run_commands(struct run_case *c, const struct command *list, size_t n, bool loss) {
    bool taken[16] = {false};
    for (size_t i = 0; i < n && (c->s->all_commands || i < DRAWN); i++) {
        size_t k = c->s->all_commands ? i : mutate_below(&c->r, n);
        while (taken[k]) { /* never where all are run */
            k = mutate_below(&c->r, n);
        }
        taken[k] = true;
        run_command(c, &list[k], loss && mutate_one_in(&c->r, 3));
    }
}

/* ---- files ---- */

static void make_archive(const struct run_case *c, struct mutate_rng *r, struct buf *log) {
    struct image m;
    struct flat f = {0};
    image_open(&m, c->base);
    mutate_archive(&m, r, log);
    if (image_assemble(&m, &f)) {
        if (mutate_one_in(r, 12)) {
            mutate_places(&f, r, log);
        }
        flat_write(&f, c->file);
    }
}

/* In a process of its own: the file, and beside it a log of what was changed. */
static bool make(struct run_case *c) {
    char *log_path = mem_printf("%s/log", c->folder);
    pid_t child = fork();
    if (child == 0) {
        struct buf log = {0};
        FILE *f = fopen(log_path, "w");
        if (c->kind == MUTATE_ARCHIVES) {
            make_archive(c, &c->r, &log);
        } else {
            copy(c->base, c->file);
            mutate_checkpoint(c->file, &c->r, &log);
        }
        bool ok = f && fwrite(log.data ? log.data : "", 1, log.len, f) == log.len && !fclose(f);
        _exit(ok ? 0 : 1);
    }
    int status = -1;
    struct err err = {0};
    size_t bytes;
    waitpid(child, &status, 0);
    bool ok = status == 0 && access(c->file, R_OK) == 0 &&
              file_read(log_path, 1 << 20, (uint8_t **)&c->log, &bytes, &err) == 0;
    if (status != 0) {
        printf("# file %llu of seed %llu was not made (status %d)\n", (unsigned long long)c->index,
               (unsigned long long)c->s->seed, status);
        fflush(stdout);
        c->findings++;
    }
    free(log_path);
    return ok;
}

static void remove_tree(const char *path) {
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", path, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

/* Convert, and where that worked read the outcome, which has to be a valid archive. */
static void run_checkpoint(struct run_case *c) {
    const char *codec = DRAW(&c->r, "keep", "keep", "q8", "q4");
    char *words = mem_printf("convert -q @ -o %%o -t 2 --codec %s --trunk %s%s", codec,
                             DRAW(&c->r, "keep", "keep", "q8"),
                             mutate_one_in(&c->r, 16) ? " " MUTATE_CALIBRATE : "");
    struct command convert = {"corm-prep", words, false, NULL};
    bool sanitized = !c->s->programs.release;
    int status = run_one(c, &convert, sanitized, false, &c->r, NULL);
    if (status == 0 && !sanitized && c->s->programs.sanitized) {
        unlink(c->made);
        run_one(c, &convert, true, false, &c->r, NULL);
    }
    char *checkpoint = c->file;
    if (status == 0) {
        struct command verify = {"corm-prep", "verify -q @", false, NULL};
        c->file = c->made;
        if (run_one(c, &verify, sanitized, false, &c->r, NULL) == 1) {
            const char *const argv[] = {"corm-prep", words, NULL};
            finding(c, argv, "what convert made does not verify", NULL);
        }
        run_commands(c, of_made, sizeof of_made / sizeof *of_made, false);
        c->file = checkpoint;
    } else {
        run_commands(c, of_checkpoints, sizeof of_checkpoints / sizeof *of_checkpoints, false);
    }
    free(words);
}

enum mutate_kind mutate_kind(uint64_t index) {
    return index % 3 == 2 ? MUTATE_CHECKPOINTS : MUTATE_ARCHIVES;
}

uint32_t mutate_case(const struct mutate_setup *s, uint64_t index, uint32_t lane,
                     uint64_t *n_commands, uint64_t *n_accepted) {
    enum mutate_kind kind = mutate_kind(index);
    struct run_case c = {.s = s, .index = index, .kind = kind, .r = mutate_rng(s->seed, index)};
    char **bases = kind == MUTATE_ARCHIVES ? s->archives : s->checkpoints;
    uint32_t n_bases = 0;
    while (bases[n_bases]) {
        n_bases++;
    }
    c.base = bases[mutate_below(&c.r, n_bases)];
    c.folder = mem_printf("%s/lane-%u", s->work, lane);
    c.file = mem_printf("%s/%s", c.folder, kind == MUTATE_ARCHIVES ? "file.corm" : "file");
    c.made = mem_printf("%s/made.corm", c.folder);
    remove_tree(c.folder);
    mkdir(c.folder, 0777);
    bool made = make(&c);
    c.r = mutate_rng(~s->seed, index); /* what runs is drawn apart from what was changed */
    if (made && !(s->without && strstr(c.log, s->without))) {
        if (kind == MUTATE_ARCHIVES) {
            bool loss = strstr(c.base, "calib") != NULL;
            run_commands(&c, of_archives, sizeof of_archives / sizeof *of_archives, loss);
        } else {
            run_checkpoint(&c);
        }
    }
    *n_commands += c.commands;
    *n_accepted += c.accepted;
    free(c.folder);
    free(c.file);
    free(c.made);
    free(c.log);
    return c.findings;
}
