/*
 * fuzz_config: any bytes as config.json, and what follows a NUL byte as generation_config.json. An
 * arch that is accepted survives the archive's metadata.
 */
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct arch *a) {
    struct err err = {0};
    struct arch again = {0};
    struct buf one = {0}, other = {0};
    arch_encode(a, &one);
    if (arch_decode(&again, one.data, one.len, &err) < 0) {
        abort();
    }
    arch_encode(&again, &other);
    if (one.len != other.len || memcmp(one.data, other.data, one.len) != 0) {
        abort();
    }
    arch_free(&again);
    buf_free(&one);
    buf_free(&other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct hf_config c = {0};
    struct err err = {0};
    const char *text = size ? (const char *)data : "";
    const char *nul = memchr(text, 0, size);
    struct hf_json config = {"config.json", text, nul ? (size_t)(nul - text) : size};
    struct hf_json generation = {"generation_config.json", NULL, 0};
    if (nul) {
        generation.text = nul + 1;
        generation.size_bytes = size - config.size_bytes - 1;
    }
    if (hf_config_parse(&c, config, generation, &err) == 0) {
        round_trip(&c.arch);
    } else if (!err.set) {
        abort(); /* a refusal says why */
    }
    hf_config_free(&c);
    return 0;
}
