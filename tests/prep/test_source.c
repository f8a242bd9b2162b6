/* source: the names of a checkpoint's files. What archives hold is tested in e2e_prep. */
#include "tests/util/test.h"

#include "prep/source.h"

/* All of them, however many, in order, and nothing else. */
static void names_of_many_files(void **state) {
    (void)state;
    enum { MANY = 5000 };
    struct err err = {0};
    char *dir = test_mkdir(), **names;
    size_t n;
    for (int i = MANY; i > 0; i--) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i, MANY);
        free(test_write(dir, name, "x", 1));
    }
    free(test_write(dir, "notes.txt", "x", 1));
    free(test_write(dir, "config.json", "{}", 2));
    assert_int_equal(source_names(dir, &names, &n, &err), 0);
    assert_int_equal(n, MANY + 1);
    assert_string_equal(names[0], "config.json");
    assert_string_equal(names[1], "model-00001-of-05000.safetensors");
    assert_string_equal(names[MANY], "model-05000-of-05000.safetensors");
    source_names_free(names, n);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_of_many_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
