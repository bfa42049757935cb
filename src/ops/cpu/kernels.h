/* kernels.h - the leaf functions of the CPU backend, one table an instruction set; cpu_kernels_best picks at run time.
 *
 * A matrix product has two ways: `dot` reads packed weights and one input row; `tile` unpacks weight rows once and
 * `gemm` multiplies them with many input rows. Both give the same bits: every output is a sum of exact integers for
 * each group of weights, converted lane by lane (8 lanes) and added to one 8-lane float chain in ascending order,
 * whose lanes are added at the end in one fixed order. For float weights it is one chain of 8-lane multiply-adds, for
 * rows in lanes (struct lanes_kernels) a chain of single floats.
 *
 * Forms of input rows (a row is a record of input_record_bytes):
 *   FLOAT   the float32 values themselves, not copied; for products of many rows, where the table asks for it, copied
 *           into panels: eight values of each of INPUT_PANEL rows in turn.
 *   FINE    16-bit integers with one scale a row: x = d q. Error: at most max|x| / 65534 a value.
 *   COARSE  8-bit integers with a multiplier for 16 values and a scale for the row: x = d t q, 1 <= t <= 255,
 *           |q| <= 127. Error: at most (max|x of the 16| + max|x| / 255) / 254 a value. For 2-bit experts.
 *   LANES   COARSE for rows in lanes: t and t_sums in natural order, q8 within each 32 its two 16s, a and b, in turns:
 *           a0 a1 b0 b1 a2 a3 b2 b3 ..., so that each 32 bits hold as much of one multiplier as of the other.
 *           VNNI adds fours: with it q8 is in natural order, and q16 holds what q8 is otherwise, for dot.
 *   OFFSET  LANES for IQ2_XXS: 16 products with a 16 add up to less than 2^15, and all of a 256 to less than 2^31. As
 *           16 weights have a norm of at most sqrt(2 * 6989), the |q| of a 16 have one of at most 277, and t times
 *           those norms add up to at most 585929 in a 256. Error as before, with 0.462 times the norm of a 16 instead
 *           of its max|x| where that is more, and d accordingly: 1% more for normally distributed values.
 * Order of values: q8 natural; q16 within each 32: the 16 even ones, then the 16 odd ones, so that both ways put the
 * same products into the same 32-bit lane (lane i: values 4i .. 4i+3). NEON has its own way with rows (neon.h) and
 * tiles (products_neon_impl.h). */
#ifndef DS4_OPS_CPU_KERNELS_H
#define DS4_OPS_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS 24u         /* weight rows unpacked at a time */
#define TILE_ROWS_MAX 48u     /* the same, if a format's lanes_kernels have their own number */
#define TILE_PIECE 2048u      /* inner elements unpacked at a time: a multiple of every block; 96 KiB as integers */
#define FLOAT_PIECE 512u      /* the same of weights that are unpacked to floats: 48 KiB */
#define PANELS_PIECE 256u     /* and with inputs in panels: half of a first-level cache */
#define PANEL 4u              /* rows of a tile that lie interleaved */
#define INPUT_PANEL 6u        /* float inputs that may lie so */
#define LANES 8u              /* rows that lie in the lanes of one vector */
#define LANES_PIECE 512u      /* inner elements unpacked at a time of TILE_ROWS rows in lanes: 12 or 24 KiB */
#define COLS_MAX 512u         /* inputs handed to one gemm call: a whole chunk, for which weights are unpacked once */
#define INPUT_MULT_BLOCK 16u  /* values that share a multiplier t */
#define INPUT_BLOCK 256u      /* coarse rows are a multiple of this */

enum input_form { INPUT_FLOAT, INPUT_FINE, INPUT_COARSE, INPUT_LANES, INPUT_OFFSET, INPUT_FORMS };
#define OFFSET_MOST 43 /* the largest magnitude of weights, which is added to make them unsigned */

/* One input row. FINE: sums[i] = sum of q16 of the i-th 32, exactly. COARSE, for each 256: t and t sum(q8) / SUM_UNIT,
 * rounded, of its sixteen 16s in the order of coarse_order. OFFSET: -OFFSET_MOST sum(q8) modulo 2^16 as t_sums. */
#define SUM_UNIT 32 /* 16 * 127 * 255 / 32 fits 16 bits; the rounding is a tenth of the noise of the 16 values */
struct input {
    const float *f32;
    const int16_t *q16;
    const int8_t *q8;
    const int16_t *t, *t_sums;
    const float *sums;
    float d;
    uint32_t f32_gap; /* floats of other rows after every eight: inputs in panels */
};
/* Place of the k-th 16 of a 256: even ones before odd ones, and their pairs in the order 0 1 4 5 2 3 6 7, which is how
 * the words of two vector registers come together. */
static inline uint32_t coarse_order(uint32_t k)
{
    static const uint8_t place[8] = {0, 1, 4, 5, 2, 3, 6, 7};
    return place[k / 2] + 8 * (k % 2);
}
struct gemm_col {
    struct input x;
    float *y; /* [rows of the tile] */
};

/* Weight rows unpacked: value = d[group] q - mins. Rows lie in panels of four (the last one padded with zeros), so that
 * a register block of four rows reads one stream. */
struct tile {
    uint32_t n_rows;
    uint32_t from, n_in; /* which inner elements */
    uint32_t n_groups; /* n_in / group */
    int16_t *q16;      /* [panel][n_in / 16][PANEL][16], values ordered as the input's */
    float *d;          /* [panel][n_groups][PANEL] */
    float *mins;       /* [row][mins_stride], multiplied by the input's sums */
    int16_t *mins16;   /* with groups of 16 instead: [row][mins_stride], multiplied by the input's t_sums and d_min */
    float *d_min;      /* [panel][n_groups][PANEL], SUM_UNIT included */
    uint8_t *q8;       /* in R lanes: [n_in / 4][R][4], values ordered as the input's */
    int16_t *scales16; /* in R lanes: [n_in / 32][R][2], times d; mins16 likewise, times d_min */
    float *f32;        /* [panel][n_in / 8, rounded up][PANEL][8], zero-padded */
    float *sums;       /* [TILE_ROWS][COLS_MAX][8] sums over the pieces so far */
    size_t mins_stride;
};
#define TILE_Q16_STEP (16u * PANEL) /* elements from one 16 of a row to the next */
#define TILE_F32_STEP (8u * PANEL)
static inline size_t tile_f32_panel(uint32_t n_in) { return ((size_t)n_in + 7) / 8 * TILE_F32_STEP; }
static inline int16_t *tile_q16(const struct tile *tile, uint32_t row)
{
    return tile->q16 + (size_t)(row / PANEL) * PANEL * tile->n_in + row % PANEL * 16;
}
static inline float *tile_f32(const struct tile *tile, uint32_t row)
{
    return tile->f32 + row / PANEL * tile_f32_panel(tile->n_in) + row % PANEL * 8;
}
/* The first scale of a row; the next ones are PANEL apart. Those of minima lie at the same places of d_min. */
static inline float *tile_d(const struct tile *tile, uint32_t row)
{
    return tile->d + (size_t)(row / PANEL) * PANEL * tile->n_groups + row % PANEL;
}

/* In R lanes d and d_min are [n_groups][R], and 16-bit numbers follow each other as inputs do, pairs of even values and
 * of odd ones in turns: [n_in / 4][2][R][2]. */
static inline int16_t *tile_q16_lanes(const struct tile *tile, uint32_t n_lanes, uint32_t at, uint32_t odd,
                                      uint32_t row)
{
    return tile->q16 + (((size_t)at / 4 * 2 + odd) * n_lanes + row) * 2;
}
static inline uint8_t *tile_q8(const struct tile *tile, uint32_t n_lanes, uint32_t at, uint32_t row)
{
    return tile->q8 + ((size_t)at / 4 * n_lanes + row) * 4;
}

/* The gemm of tiles in lanes, and what unpacks the tile's part of eight rows, which begin at rows[0], rows[1] ..., into
 * rows row_i ... of the tile. */
typedef void unpack_lanes_fn(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i);
typedef void gemm_lanes_fn(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, bool last);
/* Rows in the lanes of vectors: as many bytes of each of a tile's rows in turn as inputs are broadcast together. Every
 * output is one float chain: the exact sum of each group, converted, times its scale, in ascending order. */
struct lanes_kernels {
    uint32_t rows, piece; /* of a tile: rows (a multiple of LANES) and inner elements */
    unpack_lanes_fn *unpack;
    gemm_lanes_fn *gemm;
};

struct format_kernels {
    enum input_form form;
    uint32_t group;     /* weights that share a float scale: 32, 128 or 256; 0: float */
    uint32_t min_group; /* weights that share a minimum: 16, 32; 0: none */
    uint32_t dot_cols;  /* up to this many input rows go through dot or dots */
    /* y[i] = row i . x for rows at w, w + row_bytes ... */
    void (*dot)(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, float *y);
    /* The same for several inputs; NULL: one after the other. */
    void (*dots)(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct gemm_col *cols,
                 uint32_t n_cols);
    /* Unpacks the tile's part of a row, which begins at w, into row row_i of the tile. */
    void (*unpack)(const uint8_t *w, const struct tile *tile, uint32_t row_i);
    const struct lanes_kernels *lanes; /* instead of unpack and the table's gemm */
};

/* dots_name and dot_name of a format: many and one of inlined functions for several inputs, which take what the format
 * fixes before the weights. */
#define DOT_FUNCTIONS(name, many, one, ...) \
    static void dots_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, \
                            const struct gemm_col *cols, uint32_t n_cols) \
    { \
        many(__VA_ARGS__, w, row_bytes, n_rows, n_in, cols, n_cols); \
    } \
    static void dot_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, \
                           float *y) \
    { \
        struct gemm_col col = {*x, y}; \
        one(__VA_ARGS__, w, row_bytes, n_rows, n_in, &col, 1); \
    }

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
    bool input_panels; /* gemm is faster with floats in panels */
    /* Adds the tile's piece of the inner dimension to its sums; the last piece stores the results. */
    void (*gemm)(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols, bool last);

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
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512vnni;
#elif defined(__aarch64__)
extern const struct cpu_kernels cpu_kernels_neon, cpu_kernels_neondot, cpu_kernels_neoni8mm;
#endif
const struct cpu_kernels *cpu_kernels_best(void);

/* Layout of a record: d and 60 bytes, q16 [n], sums [n/16], then from COARSE on: t [n/16], t_sums [n/16], q8 [n]. n is
 * a multiple of 32. LANES and OFFSET have no sums, and q16 with VNNI only. */
static inline size_t input_record_bytes(enum input_form form, uint32_t n_in)
{
    size_t n = n_in, bytes = 64 + 2 * n + 4 * (n / INPUT_MULT_BLOCK);
    if (form >= INPUT_COARSE) bytes += 4 * (n / INPUT_MULT_BLOCK) + n;
    return (bytes + 63) / 64 * 64;
}
struct input_record {
    int16_t *q16;
    float *sums, *d;
    int16_t *t, *t_sums;
    int8_t *q8;
};
static inline struct input_record input_record_at(uint8_t *record, uint32_t n_in)
{
    struct input_record r;
    r.d = (float *)(void *)record;
    r.q16 = (int16_t *)(void *)(record + 64);
    r.sums = (float *)(void *)(r.q16 + n_in);
    r.t = (int16_t *)(void *)(r.sums + n_in / INPUT_MULT_BLOCK);
    r.t_sums = r.t + n_in / INPUT_MULT_BLOCK;
    r.q8 = (int8_t *)(r.t_sums + n_in / INPUT_MULT_BLOCK);
    return r;
}

#endif
