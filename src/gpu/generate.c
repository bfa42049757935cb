/* generate.c - which rule of generate.k makes valid blocks of a format, and of what size the values become. */
#include <math.h>

#include "base/f16.h"
#include "gpu/backend_impl.h"
#include "quant/quant.h"

#define PLAIN_VALUES 8u /* of a block of a format without blocks */

/* rms: of the values of a made-up block whose factor is 1: products of independent parts, each uniform. Scales are made
 * from the upper half of their range. Minima come from the same range, times half the largest integer: means near 0. */
static const struct recipe {
    uint32_t type, n_ruled, first, step, keep, set, n_halves, half_at[2];
    float rms, minimum; /* minimum: the second half value, in units of the first */
} recipes[] = {
    {QUANT_Q8_0, 0, 0, 0, 0, 0, 1, {0, 0}, 73.9f, 0},              /* bytes from -128 to 127 */
    {QUANT_IQ2_XXS, 8, 9, 8, 0xFF, 0x80, 1, {0, 0}, 86.0f, 0},     /* scale 8..15, of the code book 8, 25 and 43 */
    {QUANT_Q2_K, 16, 0, 1, 0x77, 0x88, 2, {80, 82}, 14.0f, 1.5f},  /* scale 8..15 times 0..3 */
    {QUANT_Q4_K, 0, 0, 0, 0, 0, 2, {0, 2}, 255.0f, 7.5f},          /* scale 0..63 times 0..15 */
    {QUANT_Q6_K, 0, 0, 0, 0, 0, 1, {208, 0}, 1366.0f, 0},          /* scale -128..127 times -32..31 */
    {QUANT_MXFP4, 1, 0, 1, 0x00, 0, 0, {0, 0}, 2.93f, 0},          /* the first byte is the exponent */
    {QUANT_F16, PLAIN_VALUES, 1, 2, 0x87, 0, 0, {0, 0}, 2.42f, 0}, /* sign, one bit of exponent and fraction are free */
    {QUANT_BF16, PLAIN_VALUES, 1, 2, 0x80, 0, 0, {0, 0}, 2.42f, 0},
    {QUANT_F32, PLAIN_VALUES, 3, 4, 0x80, 0, 0, {0, 0}, 2.42f, 0},
};

static uint32_t near_power(double v, int bias) { return (uint32_t)(bias + (int)lround(log2(v))); }

/* The exponent of values: the lower of two that differ in the bit that is free. */
static uint32_t exponent_rule(const struct recipe *r, double factor)
{
    if (r->type == QUANT_MXFP4) return near_power(factor, 127);
    if (r->type == QUANT_F16) return (near_power(factor, 15) & ~1u) << 2;
    return near_power(factor, 127) >> 1;
}

void backend_gpu_generates(struct backend *b) { gpu_of(b)->generates = true; }

enum ds4_status gpu_generate_rule(uint64_t bytes, uint32_t type, uint64_t n_in, uint32_t seed,
                                  struct generate_record *rule, struct ds4_error *error)
{
    const struct quant_format *format = quant_format(type);
    const struct recipe *r = NULL;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (recipes[i].type == type) r = &recipes[i];
    uint64_t block_bytes = !r ? 1 : format->block_elems == 1 ? PLAIN_VALUES * format->block_bytes : format->block_bytes;
    uint64_t n_blocks = bytes / block_bytes;
    if (!r || bytes % block_bytes || n_blocks > INT32_MAX)
        return err_set(error, DS4_ERR_UNSUPPORTED, "no weights can be made up for %llu bytes of format %u",
                       (unsigned long long)bytes, type);
    double factor = 1 / sqrt((double)n_in) / (double)r->rms;
    *rule = (struct generate_record){.n_blocks = (uint32_t)n_blocks, .block_bytes = (uint32_t)block_bytes, .seed = seed,
                                     .n_ruled = r->n_ruled, .first = r->first, .step = r->step, .keep = r->keep,
                                     .set = r->keep == 0xFF || r->keep == 0x77 ? r->set : exponent_rule(r, factor),
                                     .n_halves = r->n_halves, .half_at0 = r->half_at[0], .half_at1 = r->half_at[1],
                                     .half0 = f16_from_f32((float)factor),
                                     .half1 = f16_from_f32((float)factor * r->minimum)};
    return DS4_OK;
}

enum ds4_status backend_gpu_generate(struct backend *b, const void *data, uint64_t bytes, uint32_t type, uint64_t n_in,
                                     uint32_t seed, struct ds4_error *error)
{
    struct generate_record record;
    TRY(gpu_generate_rule(bytes, type, n_in, seed, &record, error));
    struct gpu_call c = gpu_call_begin(b);
    gpu_bind(&c, data, bytes);
    gpu_run(&c, c.b->plain[PIPE_generate], &record, sizeof record, gpu_groups(record.n_blocks, 256), 1, 1, 256);
    return b->ops->finish(b, error);
}
