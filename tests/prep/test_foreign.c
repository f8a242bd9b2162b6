/*
 * foreign: what is not a checkpoint is refused by its name, with what to do; what lies in a
 * checkpoint beside what is read says nothing.
 */
#include "tests/util/test.h"

#include <sys/stat.h>

#include "prep/foreign.h"

#define POINTER "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976698672\n"
#define PAGE "<!DocType HTML>\n<html><body>Entry not found"
#define INDEX                                                                                      \
    "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","                                 \
    "\"b\":\"model-00002-of-00002.safetensors\"}}"

struct file {
    const char *name, *text; /* text NULL: a link to what is not there */
};

static char *make_dir(const struct file *files, size_t n) {
    char *dir = test_mkdir();
    for (size_t i = 0; i < n && files[i].name; i++) {
        if (files[i].text) {
            free(test_write(dir, files[i].name, files[i].text, strlen(files[i].text)));
            continue;
        }
        char *path = mem_printf("%s/%s", dir, files[i].name);
        assert_int_equal(symlink("../../blobs/0123.incomplete", path), 0);
        free(path);
    }
    return dir;
}

/* Names of what lies in a whole checkpoint, to which a row adds. */
#define WHOLE                                                                                      \
    {"config.json", "{}"}, {"model.safetensors", "x"}, {                                           \
        "tokenizer.json", "{}"                                                                     \
    }
#define SHARDS                                                                                     \
    {"config.json", "{}"}, {"model.safetensors.index.json", INDEX}, {                              \
        "model-00001-of-00002.safetensors", "x"                                                    \
    }

static void directories(void **state) {
    static const struct {
        struct file files[6];
        const char *name, *say, *to_do; /* name NULL: nothing is refused */
    } rows[] = {
        /* pointers of Git LFS, in place of any file that is read */
        {{WHOLE}, NULL, "", ""},
        {{{"config.json", "{}"}, {"model.safetensors", POINTER}},
         "model.safetensors",
         "Git LFS",
         "git lfs pull"},
        {{WHOLE, {"tokenizer.json", POINTER}}, "tokenizer.json", "Git LFS", "huggingface-cli"},
        {{{"config.json", POINTER}, {"model.safetensors", "x"}}, "config.json", "Git LFS", ""},
        {{WHOLE, {"LICENSE", POINTER}}, "LICENSE", "Git LFS", ""},
        {{WHOLE, {"chat_template.jinja", POINTER}}, "chat_template.jinja", "Git LFS", ""},
        {{{"config.json", "{}"}, {"model.safetensors.index.json", POINTER}},
         "model.safetensors.index.json",
         "Git LFS",
         ""},
        {{SHARDS, {"model-00002-of-00002.safetensors", POINTER}},
         "model-00002-of-00002.safetensors",
         "Git LFS",
         ""},
        /* of weights only those that are read */
        {{WHOLE, {"other.safetensors", POINTER}}, NULL, "", ""},
        {{WHOLE, {"model-00002-of-00002.safetensors", POINTER}}, NULL, "", ""},
        {{SHARDS, {"model-00002-of-00002.safetensors", "x"}, {"other.safetensors", POINTER}},
         NULL,
         "",
         ""},
        {{WHOLE, {"consolidated.safetensors", POINTER}}, NULL, "", ""},
        {{WHOLE, {"picture.png", POINTER}}, NULL, "", ""},
        /* web pages */
        {{{"config.json", PAGE}, {"model.safetensors", "x"}},
         "config.json",
         "a web page",
         "huggingface-cli"},
        {{{"config.json", "{}"}, {"model.safetensors", "<html>"}},
         "model.safetensors",
         "a web page",
         ""},
        {{WHOLE, {"README.md", "<html>"}}, NULL, "", ""},
        /* what a server answers in place of a file */
        {{{"config.json", "{}"}, {"model.safetensors", "Entry not found"}},
         "model.safetensors",
         "an error message of the server",
         "download it again"},
        {{{"config.json", "{\"error\":\"Repository not found\"}"}, {"model.safetensors", "x"}},
         "config.json",
         "an error message of the server",
         "token"},
        {{WHOLE, {"tokenizer.json", "<?xml version=\"1.0\"?><Error>"}},
         "tokenizer.json",
         "an error message of the server",
         ""},
        {{SHARDS, {"model-00002-of-00002.safetensors", "Access to model x/y is restricted"}},
         "model-00002-of-00002.safetensors",
         "an error message of the server",
         "token"},
        {{WHOLE, {"README.md", "Entry not found"}}, NULL, "", ""},
        /* downloads under way, and what is packed */
        {{{"config.json", "{}"}, {"model.safetensors.part", "x"}},
         "model.safetensors.part",
         "not finished",
         "goes on where it stopped"},
        {{{"config.json", "{}"}, {"model.safetensors.crdownload", "x"}},
         "model.safetensors.crdownload",
         "not finished",
         ""},
        {{WHOLE, {"model.safetensors.aria2", "x"}}, "model.safetensors.aria2", "not finished", ""},
        {{WHOLE, {"model.safetensors.part", "x"}}, NULL, "", ""},
        {{{"config.json", "{}"}, {"model.safetensors.gz", "x"}},
         "model.safetensors.gz",
         "packed weights",
         "unpack"},
        /* links to nothing */
        {{{"config.json", "{}"}, {"model.safetensors", NULL}},
         "model.safetensors",
         "0123.incomplete, which is not there",
         "download again"},
        {{{"config.json", NULL}, {"model.safetensors", "x"}}, "config.json", "a link to", ""},
        {{SHARDS, {"model-00002-of-00002.safetensors", NULL}},
         "model-00002-of-00002.safetensors",
         "a link to",
         ""},
        {{WHOLE, {"onnx", NULL}}, NULL, "", ""},
        /* adapters, whatever lies beside them */
        {{{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "x"}},
         "adapter_config.json",
         "an adapter (LoRA)",
         "merge_and_unload"},
        {{WHOLE, {"adapter_config.json", "{}"}},
         "adapter_config.json",
         "an adapter (LoRA)",
         "remove this file"},
        {{{"adapter_model.safetensors", "x"}}, "adapter_model.safetensors", "an adapter", ""},
        {{WHOLE, {"adapter_model.safetensors", "x"}}, NULL, "", ""},
        /* quantisation told by a file of its own */
        {{WHOLE, {"quantize_config.json", "{}"}}, "quantize_config.json", "GPTQ", "made from"},
        {{WHOLE, {"quant_config.json", "{}"}}, "quant_config.json", "AWQ", "made from"},
        {{WHOLE, {"hf_quant_config.json", "{}"}}, NULL, "", ""}, /* it is read */
        /* weights of other programs, where those that are read are missing */
        {{{"config.json", "{}"}, {"pytorch_model.bin", "PK"}},
         "pytorch_model.bin",
         "PyTorch",
         "save_pretrained"},
        {{{"config.json", "{}"}, {"pytorch_model-00001-of-00002.bin", "PK"}},
         "pytorch_model-00001-of-00002.bin",
         "PyTorch",
         ""},
        {{WHOLE, {"pytorch_model.bin", "PK"}}, NULL, "", ""},
        {{{"model-Q4_K_M.gguf", "GGUF"}}, "model-Q4_K_M.gguf", "GGUF", "give the file itself"},
        {{WHOLE, {"model-Q4_K_M.gguf", "GGUF"}}, NULL, "", ""},
        {{{"params.json", "{}"}, {"consolidated.00.pth", "PK"}},
         "consolidated.00.pth",
         "publisher's own names",
         "download"},
        {{{"config.json", "{}"}, {"model-00001-of-00002.safetensors", "x"}},
         "model-00001-of-00002.safetensors",
         "without their index",
         "index.json"},
        {{{"config.json", "{}"}, {"weights.safetensors", "x"}},
         "weights.safetensors",
         "a name that is not read",
         "model.safetensors"},
        {{{"config.json", "{}"}, {"weights.npz", "x"}}, "weights.npz", "MLX", ""},
        {{{"config.json", "{}"}, {"tf_model.h5", "x"}}, "tf_model.h5", "TensorFlow", ""},
        {{{"refs", "x"}, {"snapshots", "x"}}, "snapshots", "cache", "config.json"},
        /* nothing that is known: whoever reads it will tell */
        {{{"notes.txt", "x"}}, NULL, "", ""},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *dir = make_dir(rows[i].files, TEST_COUNT(rows[i].files));
        struct err err = {0};
        int rc = foreign_check_dir(dir, true, &err);
        if (!rows[i].name) {
            assert_no_err(&err);
            assert_int_equal(rc, 0);
        } else {
            char *path = mem_printf("%s/%s: ", dir, rows[i].name);
            assert_int_equal(rc, -1);
            assert_err(&err, path, rows[i].say, rows[i].to_do);
            free(path);
        }
        test_rmdir(dir);
    }
}

/* Shards in a folder below, as an index may have them. */
static void shards_below(void **state) {
    static const struct file files[] = {{"config.json", "{}"},
                                        {"model.safetensors.index.json",
                                         "{\"weight_map\":{\"a\":\"w/1.safetensors\",\"b\":"
                                         "\"w/2.safetensors\",\"c\":\"w/2.safetensors\"}}"}};
    struct err err = {0};
    (void)state;
    char *dir = make_dir(files, TEST_COUNT(files)), *below = mem_printf("%s/w", dir);
    assert_int_equal(mkdir(below, 0700), 0);
    free(test_write(below, "1.safetensors", "x", 1));
    free(test_write(below, "2.safetensors", "x", 1));
    assert_int_equal(foreign_check_dir(dir, true, &err), 0);
    free(test_write(below, "2.safetensors", POINTER, strlen(POINTER)));
    assert_int_equal(foreign_check_dir(dir, true, &err), -1);
    assert_err(&err, "/w/2.safetensors: ", "Git LFS");
    free(below);
    test_rmdir(dir);
}

/* Without weights, which are not asked for, a configuration alone is fine. */
static void configurations(void **state) {
    static const struct file files[] = {{"config.json", "{}"}, {"pytorch_model.bin", "PK"}};
    struct err err = {0};
    (void)state;
    char *dir = make_dir(files, TEST_COUNT(files));
    assert_int_equal(foreign_check_dir(dir, false, &err), 0);
    assert_int_equal(foreign_check_dir(dir, true, &err), -1);
    test_rmdir(dir);
}

static void paths(void **state) {
    static const struct {
        const char *path, *text; /* text NULL: it does not exist */
        const char *say, *say_too;
    } rows[] = {
        {"Qwen/Qwen3-30B-A3B", NULL, "If it is a name on the Hugging Face Hub",
         "huggingface-cli download Qwen/Qwen3-30B-A3B --local-dir Qwen3-30B-A3B"},
        {"https://huggingface.co/allenai/OLMoE-1B-7B-0924", NULL,
         "huggingface-cli download allenai/OLMoE-1B-7B-0924 --local-dir OLMoE-1B-7B-0924", ""},
        {"hf:mistralai/Mixtral-8x7B-v0.1", NULL, "download mistralai/Mixtral-8x7B-v0.1 ", ""},
        {"./absent/folder", NULL, "No such file", ""},
        {"absent", NULL, "No such file", ""},
        {"a/b/c", NULL, "No such file", ""},
        {"../absent", NULL, "No such file", ""},
        {"a b/c", NULL, "No such file", ""},
        {"m.corm", "CORM\r\n\x1a\n", "a .corm archive already", "corm-run"},
        {"model.safetensors", "xxxxxxxxx", "a file of a checkpoint", "the folder"},
        {"config.json", "{}", "a file of a checkpoint", "the folder"},
        {"pytorch_model.bin", "PK\3\4", "PyTorch", "save_pretrained"},
        {"old.bin", "\x80\2", "PyTorch", ""},
        {"model.pth", "", "PyTorch", ""},
        {"m.tar", POINTER, "Git LFS", "git lfs pull"},
    };
    char *dir = test_mkdir(), *home = getcwd(NULL, 0);
    (void)state;
    assert_int_equal(chdir(dir), 0);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        if (rows[i].text) {
            free(test_write(dir, rows[i].path, rows[i].text, strlen(rows[i].text)));
        }
        assert_int_equal(foreign_check_path(rows[i].path, &err), -1);
        assert_err(&err, rows[i].path, rows[i].say, rows[i].say_too);
        assert_true(strstr(rows[i].say, "Hub") || !strstr(rows[i].say, "No such") ||
                    !strstr(err.msg, "Hub"));
    }
    /* What exists is what it is, whatever it is called. */
    struct err err = {0};
    assert_int_equal(mkdir("Qwen", 0700) + mkdir("Qwen/Qwen3", 0700), 0);
    assert_int_equal(foreign_check_path("Qwen/Qwen3", &err), 0);
    free(test_write(dir, "model.tar", "ustar", 5));
    free(test_write(dir, "noise.bin", "noise", 5));
    assert_int_equal(foreign_check_path("model.tar", &err), 0);
    assert_int_equal(foreign_check_path("noise.bin", &err), 0);
    assert_int_equal(chdir(home), 0);
    free(home);
    test_rmdir(dir);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories),
        cmocka_unit_test(shards_below),
        cmocka_unit_test(configurations),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests_name("foreign", tests, NULL, NULL);
}
