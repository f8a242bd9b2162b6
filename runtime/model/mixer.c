#include "runtime/model/mixer.h"

static const struct mixer_ops *const mixers[MIXER_COUNT] = {
    [MIXER_ATTENTION] = &mixer_attention,
    [MIXER_DELTA_NET] = &mixer_delta_net,
    [MIXER_LATENT] = &mixer_latent,
};

const struct mixer_ops *mixer_at(uint32_t id) {
    return mixers[id];
}
