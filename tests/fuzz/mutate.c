/*
 * mutate: the main. Makes small valid archives and checkpoints with the programs of a build, then
 * files from them (mutate.h says how), and lets the programs read each.
 *
 *     build/release/mutate -b build/release [-a build/fuzz] [-n FILES | -t SECONDS] [-s SEED]
 *         [-f FIRST] [-k archives|checkpoints] [-j LANES] [-o FOLDER] [-x WORD] [-A] [-v]
 *
 * -b: the build whose memory is judged too; -a: one with sanitizers; at least one of both. -A runs
 * every command on each file, else three that its number draws. -f: number of the first file: with
 * -n 1 a finding again. -k: of these files only archives, or only checkpoints. -x: leaves out files
 * of whose changes a line has the word. -v: tells of every command what came of it. Findings are
 * kept below FOLDER (build/found), with a text each.
 * Prints `ok ...` or `not ok ...`, and findings as comments; exit status 1 with findings.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fuzz/mutate.h"
#include "tests/util/test.h"
#include "tests/util/test_util_family.h"
#include "tests/util/test_util_quantised.h"

enum { MOST_BASES = 32, MOST_LANES = 64 };

/* ---- valid files ---- */

struct base {
    const char *checkpoint, *options; /* of convert */
    const char *archive;
    bool quantised; /* the checkpoint is made anew with quantised weights, */
    enum quantised_how how;
};
#define GOLDEN "tests/golden/models/"
#define FAMILY "tests/golden/families/"
static const struct base bases[] = {
    {GOLDEN "olmoe-tiny", "", "exponents"},
    {GOLDEN "olmoe-tiny", MUTATE_CALIBRATE, "exponents-calib"},
    {GOLDEN "mixtral-tiny", "--codec q8 --trunk q8", "q8"},
    {GOLDEN "qwen2moe-tiny", "--codec q4 --trunk q8", "q4"},
    {GOLDEN "qwen3moe-f16", "--raw-hot", "planes"},
    {GOLDEN "qwen3moe-f32", "", "zstd"},
    {GOLDEN "qwen3moe-tiny", MUTATE_CALIBRATE, "tied-calib"},
    {FAMILY "gemma4-tiny", "", "gemma4"},
    {FAMILY "gemma4-shared", "", "shared"},
    {FAMILY "glm4moe-tiny", "", "glm4"},
    {FAMILY "gptoss-tiny", MUTATE_CALIBRATE, "gptoss-calib"},
    {FAMILY "qwen3next-tiny", "", "delta"},
    {FAMILY "qwen35moe-tiny", MUTATE_CALIBRATE, "delta-calib"},
    {GOLDEN "qwen3moe-tiny", "--codec q8", "blocks", true, QUANTISED_BLOCKS},
    {GOLDEN "qwen3moe-tiny", "--codec q8", "rows", true, QUANTISED_ROWS},
    {GOLDEN "qwen3moe-tiny", "--codec q4 --trunk q8", "nvfp4", true, QUANTISED_NVFP4},
    {FAMILY "minimaxm2-tiny", "--codec q8", "modelopt", true, QUANTISED_MODELOPT},
};

static void run(const char *command) {
    if (system(command) != 0) {
        printf("not ok mutate: %s\n", command);
        exit(1);
    }
}

/* Whether the list has it; else it is added at the end. */
static bool was_there(char **list, const char *path) {
    for (; *list; list++) {
        if (strcmp(*list, path) == 0) {
            return true;
        }
    }
    *list = mem_strdup(path);
    return false;
}

static void make_plain(const char *from, const char *work, const char *dir) {
    if (strncmp(from, FAMILY, strlen(FAMILY)) == 0) {
        free(family_checkpoint(from, work));
        return;
    }
    char *copy =
        mem_printf("cp -R %s %s && rm -f %s/golden.safetensors %s/prompt.txt", from, dir, dir, dir);
    run(copy);
    free(copy);
}

/* Quantised ones lie in a folder of theirs, because their twins are not looked at. */
static void make_checkpoint(const struct base *b, const char *work, const char *dir) {
    if (!b->quantised) {
        make_plain(b->checkpoint, work, dir);
        return;
    }
    char *below = mem_printf("%s/%s-of", work, b->archive);
    char *from = mem_printf("%s%s", below, strrchr(b->checkpoint, '/'));
    assert_int_equal(mkdir(below, 0777), 0);
    make_plain(b->checkpoint, below, from);
    struct quantised q = quantised_checkpoint(from, b->how, below);
    char *move = mem_printf("mv %s %s && rm -rf %s", q.dir, dir, below);
    run(move);
    free(move);
    quantised_free(&q);
    free(from);
    free(below);
}

static void make_bases(const char *build, const char *work, char **archives, char **checkpoints) {
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        const struct base *b = &bases[i];
        char *dir = b->quantised ? mem_printf("%s/%s", work, b->archive)
                                 : mem_printf("%s%s", work, strrchr(b->checkpoint, '/'));
        if (!was_there(checkpoints, dir)) {
            make_checkpoint(b, work, dir);
        }
        archives[i] = mem_printf("%s/%s.corm", work, b->archive);
        char *convert =
            mem_printf("%s/corm-prep convert -q %s -o %s %s", build, dir, archives[i], b->options);
        run(convert);
        free(convert);
        free(dir);
    }
}

/* ---- lanes ---- */

struct counts {
    uint64_t files, archives, commands, accepted, findings;
};

struct plan {
    uint64_t first, n;
    uint32_t seconds, lanes;
    unsigned kinds;
};

static void lane(const struct mutate_setup *s, const struct plan *p, uint32_t number,
                 struct counts *c) {
    uint64_t end = clock_ns() + p->seconds * UINT64_C(1000000000);
    for (uint64_t i = p->first + number; p->seconds ? clock_ns() < end : i < p->first + p->n;
         i += p->lanes) {
        if (mutate_kind(i) & p->kinds) {
            c->findings += mutate_case(s, i, number, &c->commands, &c->accepted);
            c->archives += mutate_kind(i) == MUTATE_ARCHIVES;
            c->files++;
        }
    }
}

static bool run_lanes(const struct mutate_setup *s, const struct plan *p) {
    struct counts *c = mmap(NULL, MOST_LANES * sizeof *c, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                  sum = {0};
    uint32_t lost = 0;
    fflush(stdout);
    for (uint32_t i = 0; i < p->lanes; i++) {
        if (fork() == 0) {
            lane(s, p, i, &c[i]);
            fflush(stdout);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < p->lanes; i++) {
        int status = 0;
        wait(&status);
        lost += status != 0;
    }
    for (uint32_t i = 0; i < p->lanes; i++) {
        sum.files += c[i].files;
        sum.archives += c[i].archives;
        sum.commands += c[i].commands;
        sum.accepted += c[i].accepted;
        sum.findings += c[i].findings;
    }
    bool ok = sum.findings == 0 && lost == 0 && sum.files > 0;
    printf("%s mutate: %llu archives, %llu checkpoints; %llu of %llu commands accepted theirs; "
           "%llu findings%s\n",
           ok ? "ok" : "not ok", (unsigned long long)sum.archives,
           (unsigned long long)(sum.files - sum.archives), (unsigned long long)sum.accepted,
           (unsigned long long)sum.commands, (unsigned long long)sum.findings,
           lost ? "; a lane ended early" : "");
    fflush(stdout);
    munmap(c, MOST_LANES * sizeof *c);
    return ok;
}

int main(int argc, char **argv) {
    struct mutate_setup s = {.seed = 1, .found = "build/found"};
    struct plan p = {.n = 100, .lanes = 1, .kinds = MUTATE_ARCHIVES | MUTATE_CHECKPOINTS};
    for (int option; (option = getopt(argc, argv, "b:a:n:t:s:f:k:j:o:x:Av")) != -1;) {
        switch (option) {
        case 'b':
            s.programs.release = optarg;
            break;
        case 'a':
            s.programs.sanitized = optarg;
            break;
        case 'n':
            p.n = strtoull(optarg, NULL, 10);
            break;
        case 't':
            p.seconds = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 's':
            s.seed = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            p.first = strtoull(optarg, NULL, 10);
            break;
        case 'k':
            p.kinds = optarg[0] == 'a' ? MUTATE_ARCHIVES : MUTATE_CHECKPOINTS;
            break;
        case 'j':
            p.lanes = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'o':
            s.found = optarg;
            break;
        case 'x':
            s.without = optarg;
            break;
        case 'A':
            s.all_commands = true;
            break;
        case 'v':
            s.keep = true;
            break;
        default:
            return 2;
        }
    }
    const char *build = s.programs.release ? s.programs.release : s.programs.sanitized;
    if (!build || p.lanes == 0 || p.lanes > MOST_LANES || optind != argc) {
        fprintf(stderr, "mutate: -b or -a is needed, and from 1 to %d lanes\n", MOST_LANES);
        return 2;
    }
    char *archives[MOST_BASES] = {0}, *checkpoints[MOST_BASES] = {0};
    mkdir(s.found, 0777);
    s.work = test_dir(); /* goes when the program ends */
    s.archives = archives;
    s.checkpoints = checkpoints;
    make_bases(build, s.work, archives, checkpoints);
    bool ok = run_lanes(&s, &p);
    for (size_t i = 0; i < MOST_BASES; i++) {
        free(archives[i]);
        free(checkpoints[i]);
    }
    return ok ? 0 : 1;
}
