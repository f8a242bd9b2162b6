/*
 * test_util_config: a config.json out of a string or a folder.
 */
#ifndef TESTS_UTIL_TEST_UTIL_CONFIG_H
#define TESTS_UTIL_TEST_UTIL_CONFIG_H

#include "prep/hf/hf_config.h"

/* Of the text `config`, without a generation_config.json. hf_config_free afterwards, whatever it
 * returns. */
int config_parse(struct hf_config *c, const char *config, struct err *err);
/* The same, and that of a folder, where an error fails the test. */
struct hf_config config_parse_ok(const char *config);
struct hf_config config_read_ok(const char *dir);

struct config_refusal {
    const char *config, *say, *say_too; /* both are in the message, as "config.json" is */
};
/* All n are refused so. */
void config_refused(const struct config_refusal *rows, size_t n);

#endif
