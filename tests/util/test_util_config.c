#include "tests/util/test_util_config.h"

#include "tests/util/test.h"

int config_parse(struct hf_config *c, const char *config, struct err *err) {
    memset(c, 0, sizeof *c);
    return hf_config_parse(c, (struct hf_json){"config.json", config, strlen(config)},
                           (struct hf_json){"generation_config.json", NULL, 0}, err);
}

struct hf_config config_parse_ok(const char *config) {
    struct hf_config c;
    struct err err = {0};
    config_parse(&c, config, &err);
    assert_no_err(&err);
    return c;
}

struct hf_config config_read_ok(const char *dir) {
    struct hf_config c = {0};
    struct err err = {0};
    hf_config_read(&c, dir, &err);
    assert_no_err(&err);
    return c;
}

void config_refused(const struct config_refusal *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct hf_config c;
        struct err err = {0};
        if (config_parse(&c, rows[i].config, &err) == 0) {
            fail_msg("accepted: %s", rows[i].config);
        }
        assert_err(&err, rows[i].say, rows[i].say_too, "config.json");
        hf_config_free(&c);
    }
}
