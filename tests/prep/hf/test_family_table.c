/*
 * family_table: docs/MODELS.md and README.md beside the table of families.
 */
#include "tests/util/test.h"

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

enum { CELLS = 5, MODELS = 1, TYPES = 2, CLASSES = 3 };

/* A file's text behind the line `heading`, or from its beginning. To free(). */
static char *read_text(const char *path, const char *heading) {
    uint8_t *data;
    size_t bytes;
    struct err err = {0};
    file_read(path, 1 << 20, &data, &bytes, &err);
    assert_no_err(&err);
    char *text = mem_printf("\n%.*s", (int)bytes, (char *)data);
    free(data);
    char *at = heading ? strstr(text, heading) : text;
    assert_non_null(at);
    memmove(text, at, strlen(at) + 1);
    return text;
}

/* The next row of a table from *at on whose first cell is in backticks, cut into its cells, which
 * are written over the text; false where there is none before the next heading. */
static bool next_row(char **at, char *cells[CELLS], uint32_t *n) {
    char *row = strstr(*at, "\n| `"), *heading = strstr(*at, "\n## ");
    if (!row || (heading && heading < row)) {
        return false;
    }
    char *end = strchr(row + 1, '\n');
    *at = end;
    assert_true(end && end > row + 6 && end[-1] == '|');
    end[-1] = '\0';
    *n = 0;
    for (char *cell = row + 3; cell && *n < CELLS; *n += 1) {
        char *next = strstr(cell, " | ");
        cells[*n] = cell;
        if (next) {
            *next = '\0';
        }
        cell = next ? next + 3 : NULL;
    }
    char *last = cells[*n - 1];
    size_t len = strlen(last);
    last[len - (len > 0 && last[len - 1] == ' ')] = '\0';
    *end = '\n';
    return true;
}

/* "`a`, `b`" of the names. */
static char *quoted(const char *const names[FAMILY_MAX_NAMES]) {
    struct buf text = {0};
    for (size_t i = 0; i < FAMILY_MAX_NAMES && names[i]; i++) {
        buf_printf(&text, "%s`%s`", i ? ", " : "", names[i]);
    }
    return text.data;
}

static void check_cell(const char *family, const char *got, const char *want) {
    if (strcmp(got, want) != 0) {
        fail_msg("docs/MODELS.md, %s: \"%s\", the table has \"%s\"", family, got, want);
    }
}

/* A row for each family, in order; README.md has the names of the models one after the other. */
static void families(void **state) {
    (void)state;
    char *page = read_text("docs/MODELS.md", "\n## Families\n"), *at = page + 1, *cells[CELLS];
    char *readme = read_text("README.md", NULL);
    struct buf models = {0};
    const struct family *f;
    uint32_t n;
    size_t i = 0;
    for (; (f = family_at(i)) != NULL; i++) {
        if (!next_row(&at, cells, &n)) {
            fail_msg("docs/MODELS.md has no row for %s", f->name);
        }
        assert_int_equal(n, CELLS);
        char *name = mem_printf("`%s`", f->name);
        char *types = quoted(f->types), *classes = quoted(f->architectures);
        check_cell(f->name, cells[0], name);
        check_cell(f->name, cells[TYPES], types);
        check_cell(f->name, cells[CLASSES], classes);
        buf_printf(&models, "%s%s", i ? ", " : "", cells[MODELS]);
        free(name);
        free(types);
        free(classes);
    }
    if (next_row(&at, cells, &n)) {
        fail_msg("docs/MODELS.md has a row for %s, the table has none", cells[0]);
    }
    char *row =
        mem_printf("\n| model families | %s; anything else is refused by name |\n", models.data);
    if (!strstr(readme, row)) {
        fail_msg("README.md must have the row%s", row);
    }
    free(row);
    buf_free(&models);
    free(readme);
    free(page);
}

/* "`ending`", or what stands there where it has none. To free(). */
static char *ending(const char *text, const char *none) {
    return text && *text ? mem_printf("`%s`", text) : mem_strdup(none);
}

/* A row for each format of numbers, in order. */
static void numbers(void **state) {
    (void)state;
    char *page = read_text("docs/MODELS.md", "\n## Numbers\n"), *at = page + 1, *cells[CELLS];
    struct hf_numbers_row row;
    uint32_t n;
    for (size_t i = 0; hf_numbers_row(i, &row); i++) {
        char *want[CELLS] = {ending(row.name, ""), ending(row.dtype, ""), ending(row.tensor, "any"),
                             ending(row.scales, "none"), ending(row.global, "none")};
        if (!next_row(&at, cells, &n)) {
            fail_msg("docs/MODELS.md has no row for numbers in %s", row.name);
        }
        assert_int_equal(n, CELLS);
        for (uint32_t k = 0; k < CELLS; k++) {
            check_cell(row.name, cells[k], want[k]);
            free(want[k]);
        }
    }
    if (next_row(&at, cells, &n)) {
        fail_msg("docs/MODELS.md has a row for numbers in %s, the table has none", cells[0]);
    }
    free(page);
}

/* What the page says is not run is refused. */
static void not_run(void **state) {
    (void)state;
    char *page = read_text("docs/MODELS.md", "\n## Not run\n"), *at = page + 1, *cells[CELLS];
    uint32_t n, types = 0;
    while (next_row(&at, cells, &n)) {
        for (char *type = strtok_r(cells[0], "`, ", &cells[1]); type;
             type = strtok_r(NULL, "`, ", &cells[1])) {
            struct hf_config c;
            struct err err = {0};
            char *config = mem_printf("{\"model_type\":\"%s\"}", type);
            assert_int_equal(config_parse(&c, config, &err), -1);
            assert_err(&err, type, "is not supported; supported families");
            hf_config_free(&c);
            free(config);
            types++;
        }
    }
    assert_true(types > 0);
    free(page);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(families),
        cmocka_unit_test(numbers),
        cmocka_unit_test(not_run),
    };
    return cmocka_run_group_tests_name("family_table", tests, NULL, NULL);
}
