/* quant.c - the table of block formats and what can be said of any of them. See quant.h and formats.def. */
#include "quant/quant.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/span.h"
#include "quant/codecs.h"

static const struct quant_format formats[] = {
#define FORMAT(name, id, elems, bytes, scales_at, n_scales, decode, encode, weight) \
    {id, #name, elems, bytes, scales_at, n_scales, decode, encode, weight},
#include "quant/formats.def"
#undef FORMAT
};
#define N_FORMATS (sizeof formats / sizeof formats[0])

const struct quant_format *quant_format(uint32_t id)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (formats[i].id == id) return &formats[i];
    return NULL;
}

const struct quant_format *quant_format_at(size_t i) { return i < N_FORMATS ? &formats[i] : NULL; }

static char upper(char c) { return (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); }

const struct quant_format *quant_format_named(struct ds4_span name)
{
    for (size_t i = 0; i < N_FORMATS; i++) {
        size_t k = 0;
        while (k < name.len && formats[i].name[k] && upper(name.ptr[k]) == formats[i].name[k]) k++;
        if (k == name.len && formats[i].name[k] == 0) return &formats[i];
    }
    return NULL;
}

bool quant_row_bytes(const struct quant_format *format, uint64_t n_elems, uint64_t *bytes)
{
    return n_elems % format->block_elems == 0 && mul_ok(n_elems / format->block_elems, format->block_bytes, bytes);
}

static bool block_finite(const struct quant_format *format, const uint8_t *block)
{
    switch (format->id) {
    case QUANT_F32:
    case QUANT_Q8_K: return isfinite(load_f32(block));
    case QUANT_F64: return isfinite(load_f64(block));
    case QUANT_BF16: return isfinite(bf16_to_f32(load_u16(block)));
    case QUANT_MXFP4: return block[0] != 255;
    default: break;
    }
    for (uint32_t i = 0; i < format->n_scales; i++)
        if ((load_u16(block + format->scales_at + 2 * i) & 0x7C00u) == 0x7C00u) return false;
    return true;
}

bool quant_scales_finite(const struct quant_format *format, const uint8_t *blocks, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += format->block_elems, blocks += format->block_bytes)
        if (!block_finite(format, blocks)) return false;
    return true;
}
