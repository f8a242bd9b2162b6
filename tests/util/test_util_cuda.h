/*
 * test_util_cuda: every operation of a device's backend against the scalar CPU one (products:
 * against double precision), and against itself. test_cuda.c runs these tests on the emulated
 * device, cuda/device.c on a real one.
 */
#ifndef TESTS_UTIL_TEST_UTIL_CUDA_H
#define TESTS_UTIL_TEST_UTIL_CUDA_H

#include "tests/util/test_util_cuda_rig.h"

/* *state is a struct cuda_rig. */
void cuda_test_memory(void **state);
void cuda_test_elements(void **state);
void cuda_test_embed(void **state);
void cuda_test_rope(void **state);
void cuda_test_route(void **state);
void cuda_test_route_ties(void **state);
void cuda_test_matmul(void **state);
void cuda_test_experts(void **state);
void cuda_test_experts_empty(void **state);
void cuda_test_experts_tables(void **state);
void cuda_test_attention(void **state);
void cuda_test_beyond_f16(void **state);
void cuda_test_delta_conv(void **state);
void cuda_test_delta_net(void **state);
void cuda_test_upload(void **state);
void cuda_test_upload_many(void **state);
void cuda_test_put_rows(void **state);
void cuda_test_fuse_products(void **state);
void cuda_test_fuse_route(void **state);
void cuda_test_fuse_heads(void **state);
void cuda_test_fuse_experts(void **state);

#define CUDA_TESTS                                                                                 \
    cmocka_unit_test(cuda_test_memory), cmocka_unit_test(cuda_test_elements),                      \
        cmocka_unit_test(cuda_test_embed), cmocka_unit_test(cuda_test_rope),                       \
        cmocka_unit_test(cuda_test_route), cmocka_unit_test(cuda_test_route_ties),                 \
        cmocka_unit_test(cuda_test_matmul), cmocka_unit_test(cuda_test_experts),                   \
        cmocka_unit_test(cuda_test_experts_empty), cmocka_unit_test(cuda_test_experts_tables),     \
        cmocka_unit_test(cuda_test_attention), cmocka_unit_test(cuda_test_beyond_f16),             \
        cmocka_unit_test(cuda_test_delta_conv), cmocka_unit_test(cuda_test_delta_net),             \
        cmocka_unit_test(cuda_test_upload), cmocka_unit_test(cuda_test_upload_many),               \
        cmocka_unit_test(cuda_test_put_rows), cmocka_unit_test(cuda_test_fuse_products),           \
        cmocka_unit_test(cuda_test_fuse_route), cmocka_unit_test(cuda_test_fuse_heads),            \
        cmocka_unit_test(cuda_test_fuse_experts)

#endif
