/* tile.c - a run of weight rows times some input rows: by dot when they are few, else unpacked once and multiplied. */
#include "ops/cpu/cpu.h"

uint32_t tile_rows(const struct format_kernels *format, uint32_t n_in)
{
    uint32_t n = (uint32_t)(TILE_BYTES / tile_row_bytes(format, n_in)) / 12 * 12;
    if (n == 0) n = (uint32_t)(TILE_BYTES / tile_row_bytes(format, n_in)) / 3 * 3;
    return n < 3 ? 3 : min_u32(n, TILE_ROWS_MAX);
}

uint64_t tile_bytes_max(uint32_t n_in)
{
    uint64_t three = 3 * round_up((uint64_t)n_in * sizeof(float) + 64, 64) + 192;
    return three > TILE_BYTES ? three : TILE_BYTES + 192;
}

struct tile tile_unpack(const struct format_kernels *format, const struct op_weight *w, uint32_t stack_i,
                        uint32_t row_first, uint32_t n_rows, uint8_t *memory)
{
    const uint8_t *row = w->data + stack_i * w->stack_bytes + row_first * w->row_bytes;
    struct tile tile = {.n_rows = n_rows, .n_in = w->n_in};
    if (!format || !format->group) {
        tile.f32 = (float *)(void *)memory;
        tile.f32_stride = ((size_t)w->n_in + 7) / 8 * 8;
    } else {
        tile.d_stride = w->n_in / format->group;
        tile.mins_stride = format->min_group ? w->n_in / format->min_group : 0;
        tile.mins = (float *)(void *)memory;
        tile.d = tile.mins + n_rows * tile.mins_stride;
        tile.q16 = (int16_t *)(void *)(memory + round_up((uint64_t)(n_rows * (tile.d_stride + tile.mins_stride)) * 4, 32));
    }
    for (uint32_t i = 0; i < n_rows; i++, row += w->row_bytes) {
        if (format) {
            format->unpack(row, &tile, i);
            continue;
        }
        float *to = tile.f32 + i * tile.f32_stride;
        quant_format(w->type)->decode(row, to, w->n_in);
        for (size_t j = w->n_in; j < tile.f32_stride; j++) to[j] = 0;
    }
    return tile;
}

void multiply_rows(const struct backend_cpu *cpu, const struct op_weight *w, uint32_t stack_i, uint32_t row_first,
                   uint32_t n_rows, const struct gemm_col *cols, uint32_t n_cols, uint8_t *memory)
{
    const struct format_kernels *format = format_of(cpu, w);
    if (format && n_cols <= format->dot_cols) {
        const uint8_t *rows = w->data + stack_i * w->stack_bytes + row_first * w->row_bytes;
        for (uint32_t c = 0; c < n_cols; c++) format->dot(rows, w->row_bytes, n_rows, w->n_in, &cols[c].x, cols[c].y);
        return;
    }
    struct tile tile = tile_unpack(format, w, stack_i, row_first, n_rows, memory);
    cpu->kernels->gemm(format, &tile, cols, n_cols);
}
