/*
 * Corpus: the same text from a file, compressed, in archives and directories gives the same tokens;
 * documents, sequences, thinning; what is refused.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <sys/stat.h>

#include "prep/corpus.h"
#include "prep/hf/hf_tokenizer.h"
#include "prep/source.h"

static char *dir;
static struct buf section;
static struct tokenizer *tok;

static int set_up(void **state) {
    (void)state;
    struct err err = {0};
    dir = test_mkdir();
    hf_tokenizer_read("tests/golden/models/mixtral-tiny", 0, &section, NULL, NULL, &err);
    assert_no_err(&err);
    tokenizer_open(section.data, section.len, &tok, &err);
    assert_no_err(&err);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_close(tok);
    buf_free(&section);
    test_rmdir(dir);
    return 0;
}

static const char FIRST[] = "Once there was a fox who kept all its books in a hollow tree.\n";
static const char SECOND[] = "The river rose in spring, and the miller's wheel sang for a week.\n";

static void put(const char *name, const char *text) {
    free(test_write(dir, name, text, strlen(text)));
}

static void run(const char *command) {
    char *line = mem_printf("cd '%s' && %s", dir, command);
    assert_int_equal(system(line), 0);
    free(line);
}

static int add(struct corpus *c, const char *name, uint32_t seq_tok, struct err *err) {
    char *path = mem_printf("%s/%s", dir, name);
    int status = corpus_add(c, tok, path, seq_tok, err);
    free(path);
    return status;
}

static struct corpus read_of(const char *name, uint32_t seq_tok) {
    struct corpus c = {0};
    struct err err = {0};
    add(&c, name, seq_tok, &err);
    assert_no_err(&err);
    return c;
}

static void same(const struct corpus *a, const struct corpus *b) {
    assert_int_equal(a->n_tok, b->n_tok);
    assert_int_equal(a->n_seqs, b->n_seqs);
    assert_memory_equal(a->ids, b->ids, a->n_tok * sizeof *a->ids);
    assert_memory_equal(a->seqs, b->seqs, a->n_seqs * sizeof *a->seqs);
}

/* Documents of the two texts as the tokenizer gives them. */
static void check_is_both(const struct corpus *c) {
    const char *const texts[] = {FIRST, SECOND};
    struct err err = {0};
    assert_int_equal(c->n_seqs, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct token_list list = {0};
        tokenizer_encode(tok, texts[i], strlen(texts[i]), TOKENIZER_ADD_SPECIAL, &list, &err);
        assert_no_err(&err);
        assert_int_equal(c->seqs[i].n, list.n);
        for (uint32_t j = 0; j < list.n; j++) {
            assert_int_equal(c->ids[c->seqs[i].first + j], list.ids[j]);
        }
        token_list_free(&list);
    }
    assert_int_equal(c->seqs[1].first, c->seqs[0].n);
    assert_int_equal(c->n_tok, c->seqs[0].n + c->seqs[1].n);
}

static void put_both(const char *name, const char *separator) {
    char *text = mem_printf("%s%s%s", FIRST, separator, SECOND);
    put(name, text);
    free(text);
}

/* ---- documents ---- */

static void separator_lines_end_documents(void **state) {
    (void)state;
    static const char *const separators[] = {
        "<|endoftext|>\n",
        "<|endoftext|>\r\n",
        "<|endoftext|>\n\n\n",
        "<|endoftext|>\n<|endoftext|>\n",
    };
    for (size_t i = 0; i < TEST_COUNT(separators); i++) {
        put_both("both.txt", separators[i]);
        struct corpus c = read_of("both.txt", 512);
        check_is_both(&c);
        corpus_free(&c);
    }
    /* At the ends of a file there is nothing to separate. */
    char *text = mem_printf("<|endoftext|>\n%s<|endoftext|>\n%s<|endoftext|>", FIRST, SECOND);
    put("both.txt", text);
    struct corpus c = read_of("both.txt", 512);
    check_is_both(&c);
    assert_int_equal(c.text_bytes, strlen(text));
    corpus_free(&c);
    free(text);
}

/* Wherever the blocks end in which a file is read: a separator is found, and what only begins like
 * one stays text. */
static void separators_lie_across_blocks(void **state) {
    (void)state;
    enum { BLOCK = 1 << 16 };
    struct err err = {0};
    for (int before = 0; before < 20; before++) {
        struct buf text = {0};
        while (text.len < BLOCK - 200) {
            buf_append(&text, FIRST, strlen(FIRST));
        }
        while (text.len < (size_t)(BLOCK - before - 1)) {
            buf_append(&text, "x", 1);
        }
        buf_append(&text, "\n", 1);
        const size_t first = text.len;
        buf_printf(&text, "%s%s", before % 2 ? "<|endoftext|>\n" : "<|endoftexx|>\n", SECOND);
        free(test_write(dir, "across.txt", text.data, text.len));
        struct corpus c = read_of("across.txt", 1 << 20);
        struct token_list ids = {0};
        const size_t parts[2] = {before % 2 ? first : text.len, text.len - strlen(SECOND)};
        tokenizer_encode(tok, text.data, parts[0], TOKENIZER_ADD_SPECIAL, &ids, &err);
        assert_int_equal(c.n_seqs, before % 2 ? 2 : 1);
        assert_int_equal(c.seqs[0].n, ids.n);
        assert_memory_equal(c.ids, ids.ids, ids.n * sizeof *ids.ids);
        if (before % 2) {
            ids.n = 0;
            tokenizer_encode(tok, text.data + parts[1], strlen(SECOND), TOKENIZER_ADD_SPECIAL, &ids,
                             &err);
            assert_int_equal(c.seqs[1].n, ids.n);
            assert_memory_equal(c.ids + c.seqs[1].first, ids.ids, ids.n * sizeof *ids.ids);
        }
        token_list_free(&ids);
        corpus_free(&c);
        buf_free(&text);
    }
}

/* Where few tokens are wanted not all are kept, and what is kept is spread over the text. */
static void no_more_is_held_than_is_wanted(void **state) {
    (void)state;
    struct buf text = {0};
    while (text.len < 400000) {
        buf_append(&text, FIRST, strlen(FIRST));
    }
    free(test_write(dir, "long.txt", text.data, text.len));
    struct corpus all = read_of("long.txt", 64), some = {.most_tok = 10000};
    struct err err = {0};
    assert_int_equal(add(&some, "long.txt", 64, &err), 0);
    assert_true(all.n_tok > 100000);
    assert_in_range(some.n_tok, 4900, 10000);
    assert_true(some.cap_tok <= 20000);
    const uint32_t every = some.every;
    assert_true(every >= 8 && some.n_seqs == (all.n_seqs + every - 1) / every);
    for (uint32_t i = 0; i < some.n_seqs; i++) {
        const struct corpus_seq *a = &all.seqs[i * every], *b = &some.seqs[i];
        assert_int_equal(a->n, b->n);
        assert_memory_equal(all.ids + a->first, some.ids + b->first, a->n * sizeof *all.ids);
    }
    corpus_free(&all);
    corpus_free(&some);
    buf_free(&text);
}

/* A text that the tokenizer cannot encode is told with whose tokenizer it is. */
static void whose_tokenizer_fails_is_told(void **state) {
    (void)state;
    struct corpus c = {.tokenizer_of = "checkpoint"};
    struct err err = {0};
    struct tokenizer *usual = tok;
    struct buf own = {0};
    static const char json[] =
        "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,"
        "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\",\"unk_token\":"
        "\"<unk>\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    const struct hf_tokenizer_files files = {.tokenizer = {"t", json, sizeof json - 1}};
    hf_tokenizer_compile(&files, &own, &err);
    assert_no_err(&err);
    assert_int_equal(tokenizer_open(own.data, own.len, &tok, &err), 0);
    put("b.txt", "aaab");
    assert_int_equal(add(&c, "b.txt", 64, &err), -1);
    assert_err(&err, "b.txt: the tokenizer of checkpoint: cannot encode");
    tokenizer_close(tok);
    tok = usual;
    corpus_free(&c);
    buf_free(&own);
}

static void a_separator_inside_a_line_is_text(void **state) {
    (void)state;
    put("inside.txt", "The word <|endoftext|> in a line is only text, and so is\n"
                      "<|endoftext|> at its start with more behind.\n");
    struct corpus c = read_of("inside.txt", 512);
    assert_int_equal(c.n_seqs, 1);
    corpus_free(&c);
}

static void long_documents_are_cut_and_short_ends_dropped(void **state) {
    (void)state;
    put("first.txt", FIRST);
    struct corpus whole = read_of("first.txt", 512);
    uint32_t n = whole.n_tok;
    assert_in_range(n, 20, 60);
    for (uint32_t seq = 8; seq < n; seq++) {
        struct corpus c = read_of("first.txt", seq);
        uint32_t rest = n % seq, dropped = rest < CORPUS_MIN_SEQ_TOK ? rest : 0;
        assert_int_equal(c.n_tok, n - dropped);
        assert_int_equal(c.n_seqs, n / seq + (rest > 0 && dropped == 0));
        assert_memory_equal(c.ids, whole.ids, c.n_tok * sizeof *c.ids);
        corpus_free(&c);
    }
    corpus_free(&whole);
}

static void nothing_comes_of_nothing(void **state) {
    (void)state;
    put("empty.txt", "");
    put("short.txt", "Hi.");
    struct corpus c = read_of("empty.txt", 512);
    assert_int_equal(c.n_seqs, 0);
    corpus_thin(&c, 100);
    corpus_free(&c);
    c = read_of("short.txt", 512);
    assert_int_equal(c.n_seqs, 0);
    corpus_free(&c);
}

/* ---- where text comes from ---- */

static void every_packing_gives_the_same(void **state) {
    (void)state;
    put_both("both.txt", "<|endoftext|>\n");
    run("mkdir -p in/deeper && cp both.txt in/deeper/ && gzip -kf both.txt && tar cf both.tar in "
        "&& "
        "gzip -kf both.tar");
    static const struct {
        const char *name, *program, *command;
    } more[] = {
        {"both.txt.zst", "zstd", "zstd -qf both.txt"},
        {"both.txt.xz", "xz", "xz -kf both.txt"},
        {"both.txt.bz2", "bzip2", "bzip2 -kf both.txt"},
        {"both.tar.zst", "zstd", "zstd -qf both.tar"},
        {"both.zip", "zip", "zip -qr both.zip in"},
    };
    static const char *const always[] = {"both.txt.gz", "both.tar", "both.tar.gz", "in"};
    struct corpus want = read_of("both.txt", 512);
    check_is_both(&want);
    for (size_t i = 0; i < TEST_COUNT(always); i++) {
        struct corpus c = read_of(always[i], 512);
        same(&c, &want);
        corpus_free(&c);
    }
    for (size_t i = 0; i < TEST_COUNT(more); i++) {
        char *have = mem_printf("command -v %s >/dev/null", more[i].program);
        if (system(have) == 0) {
            run(more[i].command);
            struct corpus c = read_of(more[i].name, 512);
            same(&c, &want);
            corpus_free(&c);
        }
        free(have);
    }
    corpus_free(&want);
}

static void files_of_a_directory_come_by_name(void **state) {
    (void)state;
    run("mkdir -p named/10");
    put("named/2.txt", SECOND);
    put("named/10/x.txt", FIRST); /* "10" before "2.txt" */
    put("named/.hidden", "This must not be read, whatever is in it, and it is long enough.\n");
    struct corpus c = read_of("named", 512);
    check_is_both(&c);
    corpus_free(&c);
}

static void names_of_other_languages_are_read(void **state) {
    (void)state;
    run("mkdir -p foreign");
    put("foreign/\xe6\x96\x87\xe7\xab\xa0.txt", FIRST);
    run("tar --format=pax -cf foreign.tar foreign");
    struct corpus c = read_of("foreign.tar", 512), want = read_of("foreign", 512);
    same(&c, &want);
    corpus_free(&c);
    corpus_free(&want);
}

static void text_that_looks_encoded_is_text(void **state) {
    (void)state;
    put("begin.txt", "begin 644 the story, she said, and he began it with a sigh and a smile.\n"
                     "#0V%T\n`\nend\n");
    struct corpus c = read_of("begin.txt", 512);
    struct token_list list = {0};
    struct err err = {0};
    tokenizer_encode(tok, "begin", 5, TOKENIZER_ADD_SPECIAL, &list, &err);
    assert_int_equal(c.n_seqs, 1);
    for (size_t i = 0; i < list.n && i < 2; i++) {
        assert_int_equal(c.ids[i], list.ids[i]);
    }
    token_list_free(&list);
    corpus_free(&c);
}

/* ---- refused ---- */

static void what_is_not_text_is_named(void **state) {
    (void)state;
    struct corpus c = {0};
    struct err err = {0};
    free(test_write(dir, "binary.bin", "text, and then\0more", 19));
    assert_int_equal(add(&c, "binary.bin", 512, &err), -1);
    assert_err(&err, "binary.bin", "zero byte");

    run("mkdir -p mixed && cp binary.bin mixed/b.bin && tar cf mixed.tar mixed");
    err = (struct err){0};
    assert_int_equal(add(&c, "mixed.tar", 512, &err), -1);
    assert_err(&err, "mixed.tar:mixed/b.bin", "zero byte");

    err = (struct err){0};
    assert_int_equal(add(&c, "absent.txt", 512, &err), -1);
    assert_err(&err, "absent.txt", "No such file");

    /* Text that packs a thousandfold is none: from a file, and in an archive of many entries. */
    run("head -c 40000000 /dev/zero | tr '\\0' a | gzip -1 >bomb.gz");
    err = (struct err){0};
    assert_int_equal(add(&c, "bomb.gz", 512, &err), -1);
    assert_err(&err, "bomb.gz", "unpacks to more than 64 times");
    run("mkdir -p many && head -c 9000000 /dev/zero | tr '\\0' a >many/b && echo hello >many/a && "
        "cat many/b many/b >many/c && rm many/b && tar czf many.tar.gz many && rm -r many");
    err = (struct err){0};
    assert_int_equal(add(&c, "many.tar.gz", 512, &err), -1);
    assert_err(&err, "many.tar.gz:many/c", "unpacks to more than 64 times");

    put_both("cut.txt", "<|endoftext|>\n");
    run("gzip -f cut.txt && head -c 60 cut.txt.gz >half.gz");
    err = (struct err){0};
    assert_int_equal(add(&c, "half.gz", 512, &err), -1);
    assert_err(&err, "half.gz");
    corpus_free(&c);
}

/* ---- thinning ---- */

static struct corpus made_up(uint32_t n_seqs, struct test_rng *rng) {
    struct corpus c = {0};
    c.seqs = mem_calloc(n_seqs, sizeof *c.seqs);
    for (uint32_t i = 0; i < n_seqs; i++) {
        c.seqs[i] = (struct corpus_seq){c.n_tok, 8 + (uint32_t)(test_u64(rng) % 57)};
        c.n_tok += c.seqs[i].n;
    }
    c.n_seqs = n_seqs;
    c.ids = mem_calloc(c.n_tok, sizeof *c.ids);
    for (uint32_t i = 0; i < c.n_tok; i++) {
        c.ids[i] = (int32_t)i;
    }
    return c;
}

static void thinning_keeps_whole_sequences_all_over(void **state) {
    (void)state;
    struct test_rng rng = {3};
    for (int round = 0; round < 50; round++) {
        struct corpus c = made_up(200, &rng), before;
        corpus_copy(&before, &c);
        uint32_t most = 1000 + (uint32_t)(test_u64(&rng) % 5000), pos = 0, third = 0;
        corpus_thin(&c, most);
        assert_in_range(c.n_tok, most < before.n_tok ? most - 128 : before.n_tok, most);
        for (uint32_t i = 0; i < c.n_seqs; i++) {
            assert_int_equal(c.seqs[i].first, pos);
            for (uint32_t j = 1; j < c.seqs[i].n; j++) { /* one piece of the text */
                assert_int_equal(c.ids[pos + j], c.ids[pos] + (int32_t)j);
            }
            third += c.ids[pos] < (int32_t)before.n_tok / 3 ? c.seqs[i].n : 0;
            pos += c.seqs[i].n;
        }
        assert_int_equal(pos, c.n_tok);
        /* A third of what is kept comes from the first third. */
        assert_in_range(third, c.n_tok / 3 - 150, c.n_tok / 3 + 150);
        corpus_free(&before);
        corpus_free(&c);
    }
}

/* Reading the memory of a process at address 0 gives EIO: a regular file, of size 0, on a disk that
 * fails. It is neither an empty text nor an archive of nothing. */
static void a_disk_that_fails_is_no_empty_file(void **state) {
    (void)state;
    static const char *const names[] = {"broken.txt", "broken.txt.gz", "broken.tar", "broken.zip"};
    struct source s;
    char *unpacked = mem_printf("%s/unpacked", dir);
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        struct corpus c = {0};
        struct err err = {0}, refused = {0};
        char *path = mem_printf("%s/%s", dir, names[i]);
        assert_int_equal(symlink("/proc/self/mem", path), 0);
        assert_int_equal(add(&c, names[i], 512, &err), -1);
        assert_err(&err, names[i], "cannot read at byte 0", strerror(EIO));
        assert_int_equal(source_open(&s, path, unpacked, NULL, NULL, &refused), -1);
        assert_err(&refused, names[i], "cannot read at byte 0", strerror(EIO));
        source_close(&s);
        corpus_free(&c);
        unlink(path);
        free(path);
    }
    /* In a directory it is not left out either. */
    struct corpus c = {0};
    struct err err = {0};
    run("mkdir -p fails && cp both.txt fails/a.txt && ln -sf /proc/self/mem fails/b.txt");
    assert_int_equal(add(&c, "fails", 512, &err), -1);
    assert_err(&err, "fails/b.txt", strerror(EIO));
    corpus_free(&c);
    free(unpacked);
}

static void thinning_leaves_something(void **state) {
    (void)state;
    struct test_rng rng = {4};
    struct corpus c = made_up(1, &rng);
    uint32_t n = c.n_tok;
    corpus_thin(&c, 0);
    assert_int_equal(c.n_tok, n); /* 0 = all */
    corpus_thin(&c, n);
    assert_int_equal(c.n_tok, n);
    corpus_thin(&c, 8); /* less than the only sequence */
    assert_int_equal(c.n_seqs, 1);
    assert_int_equal(c.n_tok, 8);
    assert_int_equal(c.ids[7], 7);
    corpus_free(&c);
}

static void a_pipe_is_read(void **state) {
    (void)state;
    put("piped.txt", FIRST);
    run("mkfifo pipe && (cat piped.txt >pipe &)");
    struct corpus file = read_of("piped.txt", 64), pipe = read_of("pipe", 64);
    same(&file, &pipe);
    corpus_free(&file);
    corpus_free(&pipe);
}

static void stops(void **state) {
    (void)state;
    static const volatile sig_atomic_t now = 1;
    put("stops.txt", FIRST);
    run("gzip -k stops.txt && mkdir stops && cp stops.txt stops");
    static const char *const names[] = {"stops.txt", "stops.txt.gz", "stops"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        struct corpus c = {.stop = &now};
        struct err err = {0};
        assert_int_equal(add(&c, names[i], 64, &err), -1);
        assert_non_null(strstr(err.msg, "interrupted"));
        assert_int_equal(c.n_tok, 0);
        corpus_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(separator_lines_end_documents),
        cmocka_unit_test(separators_lie_across_blocks),
        cmocka_unit_test(no_more_is_held_than_is_wanted),
        cmocka_unit_test(whose_tokenizer_fails_is_told),
        cmocka_unit_test(a_separator_inside_a_line_is_text),
        cmocka_unit_test(long_documents_are_cut_and_short_ends_dropped),
        cmocka_unit_test(nothing_comes_of_nothing),
        cmocka_unit_test(every_packing_gives_the_same),
        cmocka_unit_test(files_of_a_directory_come_by_name),
        cmocka_unit_test(names_of_other_languages_are_read),
        cmocka_unit_test(text_that_looks_encoded_is_text),
        cmocka_unit_test(what_is_not_text_is_named),
        cmocka_unit_test(thinning_keeps_whole_sequences_all_over),
        cmocka_unit_test(thinning_leaves_something),
        cmocka_unit_test(a_disk_that_fails_is_no_empty_file),
        cmocka_unit_test(a_pipe_is_read),
        cmocka_unit_test(stops),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
