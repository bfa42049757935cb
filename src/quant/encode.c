/* encode.c - the encoders of 256-value blocks as formats.def names them: pick the build that this machine can run and
 * walk the blocks. The searches: affine_impl.h (Q2_K, Q4_K), q6_k_impl.h, iq2_xxs_impl.h. */
#include "quant/encode.h"

#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 256

uint16_t encode_scale(float v) { return f16_from_f32(v < 65504 ? v : 65504); }

void encode_hopeless(float unit, uint8_t *block, size_t n_bytes, size_t scale_at)
{
    memset(block, 0, n_bytes);
    if (unit != 0) store_u16(block + scale_at, 0x7E00);
}

static void encode_blocks(encode_block_fn encode, const float *values, const float *importance, uint8_t *blocks,
                          size_t n_elems, size_t block_elems, size_t block_bytes)
{
    for (size_t at = 0; at < n_elems; at += block_elems, blocks += block_bytes)
        encode(values + at, importance ? importance + at : NULL, blocks);
}

/* What mk/flags.mk builds *_avx2.c for. */
#if defined(__x86_64__)
#define PICK(name) \
    (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") ? name##_avx2 \
                                                                                                       : name##_plain)
#else
#define PICK(name) name##_plain
#endif

void encode_q2_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_q2_k_block), values, importance, blocks, n_elems, BLOCK, 84);
}

void encode_q4_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_q4_k_block), values, importance, blocks, n_elems, BLOCK, 144);
}

void encode_q6_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_q6_k_block), values, importance, blocks, n_elems, BLOCK, 210);
}

void encode_iq2_xxs(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_iq2_xxs_block), values, importance, blocks, n_elems, BLOCK, 66);
}

void encode_q8_0(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_q8_0_block), values, importance, blocks, n_elems, 32, 34);
}

void encode_mxfp4(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    encode_blocks(PICK(encode_mxfp4_block), values, importance, blocks, n_elems, 32, 17);
}

struct feedback_ops encode_feedback_ops(void)
{
    return (struct feedback_ops){PICK(feedback_product), PICK(feedback_push), PICK(feedback_dot),
                                 PICK(feedback_code_run)};
}
