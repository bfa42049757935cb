/* kernels.h - the leaf functions of the CPU backend, one table an instruction set; cpu_kernels_best picks at run time.
 *
 * A matrix product has two ways: `dot` reads packed weights and one input row; `tile` unpacks weight rows once and
 * `gemm` multiplies them with many input rows. Both give the same bits: every output is a sum of exact integers for
 * each group of weights, converted lane by lane (8 lanes) and added to one 8-lane float chain in ascending order,
 * whose lanes are added at the end in one fixed order (or, for float weights, one chain of 8-lane multiply-adds).
 *
 * Forms of input rows (a row is a record of input_record_bytes):
 *   FLOAT   the float32 values themselves, not copied.
 *   FINE    16-bit integers with one scale a row: x = d q. Error: at most max|x| / 65534 a value.
 *   COARSE  8-bit integers with a multiplier for 16 values and a scale for 256: x = d t q, 1 <= t <= 255, |q| <= 127.
 *           Error: at most max|x of the 16| / 254 + 0.002 max|x of the 256| / 254 a value. For 2-bit experts.
 * Order of values: q8 natural; q16 within each 32: the 16 even ones, then the 16 odd ones, so that both ways put the
 * same products into the same 32-bit lane (lane i: values 4i .. 4i+3). */
#ifndef DS4_OPS_CPU_KERNELS_H
#define DS4_OPS_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS_MAX 48u     /* weight rows unpacked at a time */
#define TILE_BYTES 196608u    /* aimed at: stays in a second-level cache of 512 KiB beside the inputs */
#define INPUT_MULT_BLOCK 16u  /* values that share a multiplier t */
#define INPUT_BLOCK 256u      /* values that share a scale d of the coarse form */

enum input_form { INPUT_FLOAT, INPUT_FINE, INPUT_COARSE, INPUT_FORMS };

/* One input row. For FINE, d[] repeats the row's scale for every 256 and sums[i] = d * sum of q16 of the i-th 32. For
 * COARSE, sums[] = d t * sum of q8 of each 16; t and sums of a 256 are stored even sixteenths first, then odd ones. */
struct input {
    const float *f32;
    const int16_t *q16;
    const int8_t *q8;
    const int16_t *t;
    const float *d;
    const float *sums;
};
struct gemm_col {
    struct input x;
    float *y; /* [rows of the tile] */
};

/* Weight rows unpacked: value = d[group] q - mins. Strides are in elements from one row to the next. */
struct tile {
    uint32_t n_rows, n_in;
    int16_t *q16;     /* [n_rows][n_in], values ordered as the input's */
    float *d;         /* [n_rows][n_in / group] */
    float *mins;      /* [n_rows][n_in / min_group], multiplied by the input's sums */
    float *f32;       /* [n_rows][f32_stride], zero-padded to a multiple of 8 */
    size_t d_stride, mins_stride, f32_stride;
};

struct format_kernels {
    enum input_form form;
    uint32_t group;     /* weights that share a float scale: 32, 128 or 256; 0: float */
    uint32_t min_group; /* weights that share a minimum: 16, 32; 0: none */
    uint32_t dot_cols;  /* up to this many input rows go through dot */
    /* y[i] = row i . x for rows at w, w + row_bytes ... */
    void (*dot)(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, float *y);
    /* Unpacks one row into row row_i of the tile. */
    void (*unpack)(const uint8_t *w, const struct tile *tile, uint32_t row_i);
};

/* Rows of state of one block of an attention and what is known so far of one head. */
struct attention_head {
    const float *q;
    float *o;   /* [dim] sum of p row, relative to max */
    float max, total;
};

struct cpu_kernels {
    const char *name;
    bool (*supported)(void);
    /* NULL: unpacked by quant_format()->decode to float. */
    const struct format_kernels *(*format)(uint32_t type);
    void (*quantise)(enum input_form form, const float *x, uint32_t n_in, uint8_t *record);
    void (*gemm)(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols);

    float (*sum_squares)(const float *x, uint32_t n);
    void (*scale)(const float *x, const float *weight, float factor, uint32_t n, float *y); /* weight may be NULL */
    void (*swiglu)(const float *a, const float *b, float limit, float weight, size_t n, float *m);
    /* u[d] = sum_j w[j] x[j][d] */
    void (*mix)(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u);
    /* x[k][d] = post[k] y[d] + sum_j comb[j][k] x[j][d] */
    void (*expand)(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd);
    void (*kv_unpack)(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row);
    /* Adds n rows to every head: scores[h][i] (stride) are unscaled products. Clobbers scores. */
    void (*attend)(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                   float scale, float *scores, size_t stride);
    /* out[d] = sum_i softmax_i(g[i][d]) k[i][d] */
    void (*pool)(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out);
    void (*hadamard)(float *x, uint32_t n);
    /* scores[i] = sum_h w[h] max(0, q[h] . row_i) * scale for packed index rows i; q as made by index_prepare, which
     * returns false when the queries are not E2M1 numbers (then the caller uses floats). */
    bool (*index_prepare)(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared);
    void (*index_scores)(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows,
                         size_t row_bytes, uint32_t n, float scale, float *scores);
    uint32_t index_heads_step; /* heads are padded to a multiple of this */
};

extern const struct cpu_kernels cpu_kernels_scalar;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
#endif
const struct cpu_kernels *cpu_kernels_best(void);

/* Layout of a record: q16 [n], d [n/256 + 1], sums [n/16], then COARSE: t [n/16], q8 [n]. n is a multiple of 32. */
static inline size_t input_record_bytes(enum input_form form, uint32_t n_in)
{
    size_t n = n_in, bytes = 2 * n + 4 * (n / INPUT_BLOCK + 1) + 4 * (n / INPUT_MULT_BLOCK);
    if (form == INPUT_COARSE) bytes += 2 * (n / INPUT_MULT_BLOCK) + n;
    return (bytes + 63) / 64 * 64;
}
static inline struct input input_at(const uint8_t *record, uint32_t n_in)
{
    struct input x = {0};
    x.q16 = (const int16_t *)(const void *)record;
    x.d = (const float *)(const void *)(x.q16 + n_in);
    x.sums = x.d + n_in / INPUT_BLOCK + 1;
    x.t = (const int16_t *)(const void *)(x.sums + n_in / INPUT_MULT_BLOCK);
    x.q8 = (const int8_t *)(const void *)(x.t + n_in / INPUT_MULT_BLOCK);
    return x;
}
/* Bytes of one unpacked row; the tile of n_rows takes n_rows times this. */
static inline size_t tile_row_bytes(const struct format_kernels *format, uint32_t n_in)
{
    if (!format || !format->group) return ((size_t)n_in + 7) / 8 * 8 * sizeof(float);
    size_t bytes = 2 * (size_t)n_in + 4 * ((size_t)n_in / format->group);
    if (format->min_group) bytes += 4 * ((size_t)n_in / format->min_group);
    return (bytes + 63) / 64 * 64;
}

#endif
