/*
 * safetensors_internal: what the parts of safetensors share: safetensors.c reads one file's header
 * and looks tensors up, safetensors_open.c finds the files of a checkpoint. For these two alone.
 */
#ifndef FORMAT_SAFETENSORS_INTERNAL_H
#define FORMAT_SAFETENSORS_INTERNAL_H

#include "format/safetensors.h"

struct safetensors {
    struct map *maps; /* [n_maps] the shards */
    size_t n_maps, cap_maps;
    char **paths; /* [n_paths] files for provenance: index first, then shards */
    size_t n_paths, cap_paths;
    struct st_tensor *tensors; /* [n_tensors], sorted by name after st_index */
    size_t n_tensors, cap_tensors;
    /* What the index and its shards do not agree on; of `absent` only name and file are set. */
    struct st_tensor *absent, *skipped;
    size_t n_absent, cap_absent, n_skipped, cap_skipped;
    uint32_t *slots; /* [n_slots] open addressing over names: tensor + 1, 0 = free */
    size_t n_slots;  /* power of two */
    struct arena names;
};

#endif
