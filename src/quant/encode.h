/* encode.h - what the encoders share, and the searches in their two builds. Private to src/quant. */
#ifndef DS4_QUANT_ENCODE_H
#define DS4_QUANT_ENCODE_H

#include "quant/quant.h"

/* The nearest F16 of v >= 0 that is finite. */
uint16_t encode_scale(float v);
/* A block for which encode_units said false: zeros, or a scale of NaN that every check of scales finds. */
void encode_hopeless(float unit, uint8_t *block, size_t n_bytes, size_t scale_at);

typedef void (*encode_block_fn)(const float *values, const float *importance, uint8_t *block);

/* The same bytes from both. */
void encode_q2_k_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_q2_k_block_avx2(const float *values, const float *importance, uint8_t *block);
void encode_q4_k_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_q4_k_block_avx2(const float *values, const float *importance, uint8_t *block);
void encode_q6_k_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_q6_k_block_avx2(const float *values, const float *importance, uint8_t *block);
void encode_iq2_xxs_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_iq2_xxs_block_avx2(const float *values, const float *importance, uint8_t *block);
void encode_q8_0_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_q8_0_block_avx2(const float *values, const float *importance, uint8_t *block);
void encode_mxfp4_block_plain(const float *values, const float *importance, uint8_t *block);
void encode_mxfp4_block_avx2(const float *values, const float *importance, uint8_t *block);

/* ---- feedback.c ---- */

struct feedback_product {
    float *c;
    size_t c_i;
    const float *a;
    size_t a_k, a_i;
    const float *b;
    size_t b_k;
    size_t n_i, n_k, n_j;
    float sign;
};
struct feedback_run { /* of 8 values of IQ2_XXS */
    const float *w, *t, *d, *tri; /* values; targets when none of the run is coded yet; factors, tri [8][8] */
    float step;                   /* of the grid */
    uint8_t index, signs;
    float q[8];
};
struct feedback_ops {
    void (*product)(const struct feedback_product *p);
    void (*push)(float t[256], float e, const float *row, size_t first);
    float (*dot)(const float *x, const float *y, size_t n);
    void (*code_run)(struct feedback_run *run);
};
void feedback_product_plain(const struct feedback_product *p);
void feedback_product_avx2(const struct feedback_product *p);
void feedback_push_plain(float t[256], float e, const float *row, size_t first);
void feedback_push_avx2(float t[256], float e, const float *row, size_t first);
float feedback_dot_plain(const float *x, const float *y, size_t n);
float feedback_dot_avx2(const float *x, const float *y, size_t n);
void feedback_code_run_plain(struct feedback_run *run);
void feedback_code_run_avx2(struct feedback_run *run);
struct feedback_ops encode_feedback_ops(void); /* for this machine */

#endif
