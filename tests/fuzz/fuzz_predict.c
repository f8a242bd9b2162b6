/*
 * libFuzzer: any bytes as the predictors section of a small model. What opens is evaluated whole:
 * every guess is a guess of experts, and chunks are left out only where they may be. Seeds:
 * `test_corm_predict --write-seeds tests/fuzz/seeds/fuzz_predict`.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/util/test_util_predict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) {
    if (!ok) {
        abort();
    }
}

struct model {
    struct arch arch;
    struct backend be;
    struct layer_weights layers[LAYERS];
    float norm[D], router[E * D], x[D], feature[D], weights[K];
};

static void open_model(struct model *m) {
    struct err err = {0};
    predictors_arch(&m->arch);
    struct backend_limits limits = forward_limits(&m->arch, 1, 8);
    check(backend_cpu_open(&m->be, "scalar", 1, &limits, &err) == 0);
    const struct codec *f32 = codec_by_id(CODEC_F32);
    for (int i = 0; i < E * D; i++) {
        m->router[i] = (float)(i * 37 % 101) / 101 - 0.5f;
        m->norm[i % D] = 1;
        m->x[i % D] = m->feature[i % D] = (float)(i % D) / D;
    }
    m->weights[0] = m->weights[1] = 0.5f;
    for (uint32_t l = 0; l < LAYERS; l++) {
        m->layers[l].w[SLOT_FFN_NORM] =
            (struct weight){f32, 1, D, D * sizeof(float), (const uint8_t *)m->norm};
        m->layers[l].w[SLOT_ROUTER] =
            (struct weight){f32, E, D, D * sizeof(float), (const uint8_t *)m->router};
    }
}

static void guess_experts(struct predict *p, const struct model *m) {
    static const int32_t ids[K] = {4, 1};
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD && arch_is_moe(&m->arch, l); ahead++) {
            if (!predict_has_target(p, l, ahead)) {
                continue;
            }
            predict_experts(p, l, ahead, m->x, m->feature, ahead ? ids : NULL, m->weights, 1,
                            PREDICT_USE_ALL);
            uint32_t seen = 0;
            for (uint32_t i = 0; i < p->width; i++) {
                check(p->host_ids[i] >= 0 && p->host_ids[i] < E);
                check(!(seen & 1u << p->host_ids[i]));
                seen |= 1u << p->host_ids[i];
                predict_rank_p(p, l, ahead, i);
            }
        }
    }
}

static void leave_out_chunks(struct predict *p, const struct model *m) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        if (!predict_has_chunks(p, l)) {
            continue;
        }
        for (int32_t e = 0; e < E; e++) {
            uint8_t skip[CHUNKS];
            const int32_t ids[K] = {e, (e + 1) % E};
            predict_chunk_energies(p, l, m->feature, ids, 1);
            for (uint32_t hot = 0; hot <= CHUNKS; hot++) {
                uint32_t n = predict_choose_skip(p->host_scores, CHUNKS, hot, 0.5f, skip);
                check(n < CHUNKS && n <= CHUNKS - hot);
                check(hot == 0 || !memchr(skip, 1, hot));
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct model m;
    if (!m.be.ops) {
        open_model(&m);
    }
    /* In a block of its own size, so that a read past the end is seen. */
    uint8_t *section = NULL;
    check(posix_memalign((void **)&section, 64, size ? size : 1) == 0);
    memcpy(section, data, size);
    struct corm_predict view;
    struct err err = {0};
    if (corm_predict_open(&view, section, size, &m.arch, CHUNKS, &err) == 0) {
        struct predict p;
        check(predict_open(&p, &view, &m.arch, &m.be, m.layers, CHUNKS, 1, &err) == 0);
        guess_experts(&p, &m);
        leave_out_chunks(&p, &m);
        predict_close(&p);
    } else {
        check(err.set && !strchr(err.msg, '\n') && !view.header);
    }
    free(section);
    return 0;
}
