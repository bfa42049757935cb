/* feedback.h - quantising a matrix so that its outputs on calibration rows stay, not its values.
 *
 * With H the sum of x x^T over the rows, an error E of a row of weights costs E H E^T. H is factored as R R^T with R
 * upper triangular, so that the cost is a sum over columns: |E R|^2 = sum_c d_c r_c^2, where d_c = R_cc^2 and r_c =
 * E_c + sum over k < c of E_k t_kc, t_kc = R_kc / R_cc. Columns are coded from left to right, each so that r_c is
 * small: it makes up for what those before it did wrong. (The method is known as GPTQ, Frantar et al. 2022; this is the
 * form that needs no inverse.) */
#ifndef DS4_QUANT_FEEDBACK_H
#define DS4_QUANT_FEEDBACK_H

#include "base/thread_pool.h"
#include "quant/quant.h"

#define FEEDBACK_BLOCK 256u
#define FEEDBACK_RUN 8u

struct feedback {
    size_t n;     /* columns, a multiple of FEEDBACK_BLOCK */
    float *t;     /* [n][n]; below the diagonal nothing of use */
    float *d;     /* [n] */
    float *m;     /* [n / 256][256][256] H within a block, given the columns behind it: T D T^T of its part */
    float *run_d; /* [n] the same factors for each run of 8 alone, out of m */
    float *run_t; /* [n / 8][8][8] */
};

enum ds4_status feedback_create(size_t n, struct feedback *out, struct ds4_error *error) DS4_MUST_CHECK;
void feedback_destroy(struct feedback *f);
/* From m_rows rows [m_rows][n]. The fewer rows, the less their products of different columns are believed; damp: share
 * of the mean square that is added to every column's. False: the rows say nothing (all zero, or no numbers). The same
 * bits for any number of threads. */
bool feedback_prepare(struct feedback *f, const float *rows, size_t m_rows, float damp, struct thread_pool *pool);

bool feedback_supports(const struct quant_format *format); /* IQ2_XXS, Q2_K, Q4_K */
/* Like quant_format.encode for n_rows rows of f->n values. errors: room for as many floats as values. */
void feedback_encode(const struct feedback *f, const struct quant_format *format, const float *values, size_t n_rows,
                     const float *importance, uint8_t *blocks, float *errors);

#endif
