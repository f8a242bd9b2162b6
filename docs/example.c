/*
 * The least program that writes text with libcorm: example MODEL.corm PROMPT N_TOKENS
 *
 *     cc example.c $(pkg-config --cflags --libs libcorm) -o example
 */
#include <corm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL.corm PROMPT N_TOKENS\n", argv[0]);
        return 2;
    }
    struct corm_error error = {0};
    struct corm_engine_options options = {0}; /* all threads, automatic memory budget */
    struct corm_engine *engine = NULL;
    struct corm_session *session = NULL;
    int32_t *ids = NULL;
    size_t n = 0, bytes;
    const char *text;
    int status = 1;

    if (corm_engine_open(&engine, argv[1], &options, &error) < 0 ||
        corm_session_open(&session, engine, &error) < 0 ||
        corm_tokenize(engine, argv[2], strlen(argv[2]), true, false, &ids, &n, &error) < 0 ||
        corm_session_eval(session, ids, n, false, NULL, &error) < 0) {
        goto out;
    }
    struct corm_sampling greedy = {.top_p = 1, .repeat_penalty = 1}; /* temperature 0 */
    for (int left = atoi(argv[3]); left > 0; left--) {
        int32_t id = corm_session_sample(session, &greedy);
        if (id < 0 || corm_is_stop(engine, id)) {
            break;
        }
        if (corm_session_text(session, id, true, &text, &bytes, &error) < 0) {
            goto out;
        }
        fwrite(text, 1, bytes, stdout);
        if (corm_session_eval(session, &id, 1, false, NULL, &error) < 0) {
            goto out;
        }
    }
    if (corm_session_text_end(session, &text, &bytes, &error) < 0) {
        goto out;
    }
    fwrite(text, 1, bytes, stdout);
    putchar('\n');
    status = 0;
out:
    if (status) {
        fprintf(stderr, "%s: %s\n", argv[0], error.message);
    }
    free(ids);
    corm_session_close(session);
    corm_engine_close(engine);
    return status;
}
