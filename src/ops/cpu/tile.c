/* tile.c - a run of weight rows times some input rows: by dot when they are few, else unpacked once and multiplied. */
#include <string.h>

#include "ops/cpu/cpu.h"

#define SUMS (TILE_ROWS * COLS_MAX * 8)
#define COLS_BYTES (COLS_MAX * sizeof(struct gemm_col))

uint32_t tile_rows_of(const struct format_kernels *format)
{
    return format && format->lanes ? format->lanes->rows : TILE_ROWS;
}

/* Scratch: struct gemm_col [COLS_MAX], which the caller fills, sums, tile. */
uint64_t multiply_bytes(void)
{
    return COLS_BYTES + (uint64_t)(SUMS + TILE_ROWS * TILE_PIECE) * sizeof(float);
}

/* Rows that fill the last two panels up are zero. */
static void clear_rest(const struct format_kernels *format, const struct tile *tile, uint32_t n_padded)
{
    for (uint32_t i = tile->n_rows; i < n_padded; i++) {
        if (!format || !format->group) {
            for (uint32_t k = 0; k < (tile->n_in + 7) / 8; k++) memset(tile_f32(tile, i) + k * TILE_F32_STEP, 0, 32);
            continue;
        }
        for (uint32_t k = 0; k < tile->n_in / 16; k++) memset(tile_q16(tile, i) + k * TILE_Q16_STEP, 0, 32);
        for (uint32_t k = 0; k < tile->n_groups; k++) tile_d(tile, i)[k * PANEL] = 0;
        if (format->min_group == 16)
            for (uint32_t k = 0; k < tile->n_groups; k++) tile->d_min[tile_d(tile, i) - tile->d + k * PANEL] = 0;
        if (format->min_group == 16) memset(tile->mins16 + i * tile->mins_stride, 0, tile->mins_stride * 2);
        else memset(tile->mins + i * tile->mins_stride, 0, tile->mins_stride * sizeof *tile->mins);
    }
}

#define CHUNK 256u /* elements decoded at a time: a multiple of every block */

/* A row of a format without kernels of its own. */
static void decode_row(const struct quant_format *format, const uint8_t *row, const struct tile *tile, uint32_t row_i)
{
    float values[CHUNK], *to = tile_f32(tile, row_i);
    for (uint32_t at = 0; at < tile->n_in; at += CHUNK) {
        uint32_t n = min_u32(CHUNK, tile->n_in - at);
        format->decode(row, values, n);
        row += (size_t)(n / format->block_elems) * format->block_bytes;
        for (uint32_t i = n; i % 8; i++) values[i] = 0;
        for (uint32_t i = 0; i < n; i += 8) memcpy(to + (at + i) / 8 * TILE_F32_STEP, values + i, 32);
    }
}

/* Unpacks the tile's piece of the rows that begin at `row`. */
static void unpack_tile(const struct format_kernels *format, const struct op_weight *w, const uint8_t *row,
                        struct tile *tile)
{
    uint32_t n_rows = tile->n_rows, n_padded = (uint32_t)round_up(n_rows, 2 * PANEL);
    const struct quant_format *layout = quant_format(w->type);
    float *at = tile->sums + SUMS;
    if (!format || !format->group) {
        tile->f32 = at;
    } else {
        tile->q16 = (int16_t *)(void *)at;
        tile->n_groups = tile->n_in / format->group;
        tile->mins_stride = format->min_group ? tile->n_in / format->min_group : 0;
        tile->d = (float *)(void *)(tile->q16 + (size_t)n_padded * tile->n_in);
        tile->d_min = tile->d + (size_t)n_padded * tile->n_groups;
        tile->mins = tile->d_min + (format->min_group == 16 ? (size_t)n_padded * tile->n_groups : 0);
        tile->mins16 = (int16_t *)(void *)tile->mins;
    }
    size_t piece_bytes = tile->n_in / layout->block_elems * layout->block_bytes;
    row += (size_t)(tile->from / layout->block_elems) * layout->block_bytes;
    for (uint32_t i = 0; i < n_rows; i++, row += w->row_bytes) {
        /* Two rows ahead; the last two rows fetch the first two of the next piece. */
        const uint8_t *ahead = row + 2 * w->row_bytes;
        if (i + 2 >= n_rows && n_rows > 2) ahead = ahead - (size_t)n_rows * w->row_bytes + piece_bytes;
        for (size_t line = 0; line < piece_bytes; line += 64) __builtin_prefetch(ahead + line);
        if (format) format->unpack(row, tile, i);
        else decode_row(layout, row, tile, i);
    }
    clear_rest(format, tile, n_padded);
}

/* The same of rows in lanes: always a whole tile, the last row stands for those beyond it. */
static void unpack_lanes(const struct format_kernels *format, const struct op_weight *w, const uint8_t *row,
                         struct tile *tile)
{
    const struct quant_format *layout = quant_format(w->type);
    uint32_t n_rows = tile->n_rows, stride = format->lanes->rows;
    size_t n = (size_t)stride * tile->n_in, bytes = format->form >= INPUT_LANES ? n : 2 * n;
    size_t piece_bytes = tile->n_in / layout->block_elems * layout->block_bytes;
    tile->n_groups = tile->n_in / format->group;
    tile->q8 = (uint8_t *)(tile->sums + SUMS);
    tile->q16 = (int16_t *)(void *)tile->q8;
    tile->d = (float *)(void *)(tile->q8 + bytes);
    tile->d_min = tile->d + stride * tile->n_groups;
    tile->scales16 = (int16_t *)(void *)(tile->d_min + stride * tile->n_groups);
    tile->mins16 = tile->scales16 + n / 16;
    row += (size_t)(tile->from / layout->block_elems) * layout->block_bytes;
    for (uint32_t i = 0; i < stride; i += LANES) {
        const uint8_t *rows[LANES];
        for (uint32_t j = 0; j < LANES; j++) {
            rows[j] = row + min_u32(i + j, n_rows - 1) * w->row_bytes;
            /* Eight rows ahead; the last ones fetch the first of the next piece. */
            const uint8_t *ahead = row + (i + j + LANES) * w->row_bytes;
            if (i + j + LANES >= n_rows) ahead = ahead - (size_t)n_rows * w->row_bytes + piece_bytes;
            for (size_t line = 0; line < piece_bytes && i + j < n_rows; line += 64) __builtin_prefetch(ahead + line);
        }
        format->lanes->unpack(rows, tile, i);
    }
}

/* Inner elements that are unpacked at a time. */
static uint32_t piece_of(const struct cpu_kernels *kernels, const struct format_kernels *format)
{
    if (format && format->group) return format->lanes ? format->lanes->piece : TILE_PIECE;
    return kernels->input_panels ? PANELS_PIECE : FLOAT_PIECE;
}

static void multiply_tile(const struct backend_cpu *cpu, const struct op_weight *w, const uint8_t *rows,
                          uint32_t n_rows, uint32_t n_cols, void *memory)
{
    const struct format_kernels *format = format_of(cpu, w);
    const struct gemm_col *cols = memory;
    float *sums = (float *)(void *)((uint8_t *)memory + COLS_BYTES);
    uint32_t piece = piece_of(cpu->kernels, format);
    for (uint32_t from = 0; from < w->n_in; from += piece) {
        struct tile tile = {.n_rows = n_rows, .from = from, .n_in = min_u32(piece, w->n_in - from), .sums = sums};
        bool in_lanes = format && format->lanes, last = from + tile.n_in == w->n_in;
        (in_lanes ? unpack_lanes : unpack_tile)(format, w, rows, &tile);
        if (in_lanes) format->lanes->gemm(&tile, cols, n_cols, last);
        else cpu->kernels->gemm(format, &tile, cols, n_cols, last);
    }
}

void multiply_rows(const struct backend_cpu *cpu, const struct op_weight *w, uint32_t stack_i, uint32_t row_first,
                   uint32_t n_rows, uint32_t n_cols, void *memory)
{
    struct gemm_col *cols = memory;
    const struct format_kernels *format = format_of(cpu, w);
    const uint8_t *rows = op_weight_stack(w, stack_i) + row_first * w->row_bytes;
    if (takes_dots(format, n_cols)) {
        if (format->dots && n_cols > 1) format->dots(rows, w->row_bytes, n_rows, w->n_in, cols, n_cols);
        else
            for (uint32_t c = 0; c < n_cols; c++)
                format->dot(rows, w->row_bytes, n_rows, w->n_in, &cols[c].x, cols[c].y);
        return;
    }
    ensure(n_cols <= COLS_MAX);
    for (uint32_t n; n_rows > 0; n_rows -= n, rows += n * w->row_bytes) {
        n = min_u32(n_rows, tile_rows_of(format));
        multiply_tile(cpu, w, rows, n, n_cols, memory);
        for (uint32_t c = 0; c < n_cols; c++) cols[c].y += n;
    }
}
