/*
 * test_util_session: session files with made-up contents, for tests and fuzz seeds. No test
 * framework in here.
 */
#ifndef TESTS_UTIL_TEST_UTIL_SESSION_H
#define TESTS_UTIL_TEST_UTIL_SESSION_H

#include "runtime/session_file.h"

/* Make the checksums of a session file right, as far as it has any. */
void session_file_rehash(uint8_t *data, size_t bytes);
/* A file of `n_tok` tokens for an archive with the arch of archive_arch(seed), as
 * session_file_archive has it. free(). */
uint8_t *session_file_made_up(uint64_t seed, uint32_t n_tok, size_t *bytes);
/* The view of such an archive, as far as the check of a session needs it; arch_free its arch. */
struct corm session_file_archive(uint64_t seed);

#endif
