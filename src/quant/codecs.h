/* codecs.h - the decoders and encoders that formats.def names; one file per family. Private to src/quant; everybody
 * else goes through struct quant_format. */
#ifndef DS4_QUANT_CODECS_H
#define DS4_QUANT_CODECS_H

#include "quant/quant.h"

void decode_f32(const uint8_t *blocks, float *values, size_t n_elems);
void decode_f16(const uint8_t *blocks, float *values, size_t n_elems);
void decode_bf16(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q4_0(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q8_0(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q2_k(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q3_k(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q4_k(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q5_k(const uint8_t *blocks, float *values, size_t n_elems);
void decode_q6_k(const uint8_t *blocks, float *values, size_t n_elems);
void decode_iq2_xxs(const uint8_t *blocks, float *values, size_t n_elems);
void decode_iq2_xs(const uint8_t *blocks, float *values, size_t n_elems);
void decode_iq3_xxs(const uint8_t *blocks, float *values, size_t n_elems);
void decode_mxfp4(const uint8_t *blocks, float *values, size_t n_elems);
void decode_nvfp4(const uint8_t *blocks, float *values, size_t n_elems);

void encode_f32(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_f16(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_bf16(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_q8_0(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_q2_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_q4_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_q6_k(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_iq2_xxs(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
void encode_mxfp4(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);

/* Scale and minimum of sub-block j out of the twelve bytes sc of Q4_K. */
void q4_k_unpack_scale(const uint8_t *sc, size_t j, int *scale, int *min);

#endif
