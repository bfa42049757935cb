/* fixture_values.c - the rules that fill tensors of generated models.
 *
 * Two families. The uniform rule gives multiples of scale / 128 from the splitmix64 stream of the tensor's checkpoint
 * name, exact in every plain format and in Q8_0: the definition that the test vectors are made from. The bell-shaped
 * rule draws from a table of quantiles, row by row, fast enough for a file of 87 GB. Formats with coarse codes get
 * random valid blocks of the wanted deviation instead of an encoding. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tools/fixture_plan.h"

#define STREAM_STEP 0x9E3779B97F4A7C15u /* splitmix64: distance of two states of the stream */
#define UNIFORM_RMS 0.5751f             /* of q / 128 with q even over -127..127, one of 32 at an end */
#define N_QUANTILES 65536u
#define N_FORMATS 64u                   /* GGUF type numbers below this have a measured deviation */
#define SAMPLE_BLOCKS 64u

struct fixture_maker {
    float quantiles[N_QUANTILES];  /* of the normal distribution, mean 0, rms 1 */
    int8_t codes[256];             /* the same as Q8_0 codes, extremes +-127 */
    float code_rms;
    float block_rms[N_FORMATS];    /* of a random block with unit scale; 0: no random blocks */
};

/* ---- random valid blocks ------------------------------------------------------------------------------------ */

static void random_bytes(struct rng *rng, uint8_t *out, size_t n)
{
    for (; n >= 8; n -= 8, out += 8) store_u64(out, rng_next(rng));
    if (n) {
        uint64_t z = rng_next(rng);
        memcpy(out, &z, n);
    }
}

static void put_f16(uint8_t *at, float v) { store_u16(at, f16_from_f32(v)); }

/* Upper half of the range of scales, each minimum near its scale: looks like encoded weights, mean near 0. */
static void random_q2_k(struct rng *rng, uint8_t *block, float d)
{
    random_bytes(rng, block, 80);
    for (size_t k = 0; k < 16; k++) {
        uint32_t bits = block[k], scale = 8 + (bits & 7u), min = scale + ((bits >> 3) & 1u) - ((bits >> 4) & 1u);
        block[k] = (uint8_t)(scale | (min > 15 ? 15 : min) << 4);
    }
    put_f16(block + 80, d);
    put_f16(block + 82, 1.5f * d);
}

/* One block with scale d (the super-block's factor; MXFP4: rounded to a power of two). */
static void random_block(const struct quant_format *format, struct rng *rng, uint8_t *block, float d)
{
    if (format->id == QUANT_Q2_K) {
        random_q2_k(rng, block, d);
        return;
    }
    random_bytes(rng, block, format->block_bytes);
    switch (format->id) {
    case QUANT_IQ2_XXS:
        for (size_t g = 0; g < 8; g++) block[2 + 8 * g + 7] |= 0x80u; /* group scales 8..15 of 0..15 */
        put_f16(block, d);
        break;
    case QUANT_IQ2_XS:
        for (size_t g = 0; g < 8; g++) block[66 + g] |= 0x88u;
        put_f16(block, d);
        break;
    case QUANT_IQ3_XXS:
        for (size_t g = 0; g < 8; g++) block[66 + 4 * g + 3] |= 0x80u;
        put_f16(block, d);
        break;
    case QUANT_Q3_K: put_f16(block + 108, d); break;
    case QUANT_Q4_K:
    case QUANT_Q5_K:
        put_f16(block, d);
        put_f16(block + 2, (format->id == QUANT_Q4_K ? 7.5f : 15.5f) * d);
        break;
    case QUANT_Q6_K: put_f16(block + 208, d); break;
    case QUANT_Q4_0: put_f16(block, d); break;
    case QUANT_MXFP4: block[0] = (uint8_t)(126 + lrintf(log2f(d)) + block[0] % 3); break;
    default: ensure(false); /* a format without random blocks */
    }
}

static bool has_random_blocks(uint32_t id)
{
    switch (id) {
    case QUANT_IQ2_XXS: case QUANT_IQ2_XS: case QUANT_IQ3_XXS: case QUANT_Q2_K: case QUANT_Q3_K: case QUANT_Q4_K:
    case QUANT_Q5_K: case QUANT_Q6_K: case QUANT_Q4_0: case QUANT_MXFP4: return true;
    default: return false;
    }
}

static bool is_plain(uint32_t id)
{
    return id == QUANT_F32 || id == QUANT_F16 || id == QUANT_BF16 || id == QUANT_Q8_0;
}

bool fixture_can_make(const struct quant_format *format)
{
    return is_plain(format->id) ? format->encode != NULL : has_random_blocks(format->id) && format->decode != NULL;
}

/* ---- the tables --------------------------------------------------------------------------------------------- */

/* x with normal distribution function p, by bisection of erf. */
static double normal_quantile(double p)
{
    double low = -9, high = 9;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (0.5 * (1 + erf(middle * 0.70710678118654752)) < p) low = middle;
        else high = middle;
    }
    return (low + high) / 2;
}

static void make_quantiles(struct fixture_maker *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < N_QUANTILES; i++) {
        double x = normal_quantile((i + 0.5) / N_QUANTILES);
        m->quantiles[i] = (float)x;
        sum += x * x;
    }
    float norm = (float)(1 / sqrt(sum / N_QUANTILES));
    for (uint32_t i = 0; i < N_QUANTILES; i++) m->quantiles[i] *= norm;
    double end = normal_quantile(255.5 / 256);
    sum = 0;
    for (uint32_t i = 0; i < 256; i++) {
        double code = rint(normal_quantile((i + 0.5) / 256) * 127 / end);
        m->codes[i] = (int8_t)code;
        sum += code * code;
    }
    m->code_rms = (float)sqrt(sum / 256);
}

static void measure_blocks(struct fixture_maker *m)
{
    uint8_t block[512];
    float values[256];
    for (uint32_t id = 0; id < N_FORMATS; id++) {
        const struct quant_format *format = has_random_blocks(id) ? quant_format(id) : NULL;
        if (!format || !format->decode) continue;
        ensure(format->block_bytes <= sizeof block && format->block_elems <= 256);
        struct rng rng = {id};
        double sum = 0;
        for (uint32_t b = 0; b < SAMPLE_BLOCKS; b++) {
            random_block(format, &rng, block, 1.0f);
            format->decode(block, values, format->block_elems);
            for (uint32_t i = 0; i < format->block_elems; i++) sum += (double)values[i] * values[i];
        }
        m->block_rms[id] = (float)sqrt(sum / (SAMPLE_BLOCKS * format->block_elems));
    }
}

enum ds4_status fixture_maker_create(struct fixture_maker **out, struct ds4_error *error)
{
    struct fixture_maker *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(error, DS4_ERR_NOMEM, "out of memory for tables of %zu bytes", sizeof *m);
    make_quantiles(m);
    measure_blocks(m);
    *out = m;
    return DS4_OK;
}

void fixture_maker_destroy(struct fixture_maker *m) { mem_free(m); }

/* ---- experts with data -------------------------------------------------------------------------------------- */

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = load_u32(a), y = load_u32(b);
    return (x > y) - (x < y);
}

uint32_t fixture_filled(const struct fixture_config *c, uint32_t layer, uint32_t *experts)
{
    for (uint32_t e = 0; e < c->n_experts; e++) experts[e] = e;
    if (!c->flash_values || c->n_filled >= c->n_experts) return c->n_experts;
    /* The first and the last expert always, the others by lot. */
    struct rng rng = {c->seed * STREAM_STEP ^ (fnv1a("filled") + layer)};
    experts[1] = c->n_experts - 1;
    experts[c->n_experts - 1] = 1;
    for (uint32_t i = 2; i < c->n_filled; i++) {
        uint32_t j = i + (uint32_t)rng_below(&rng, c->n_experts - i), swap = experts[i];
        experts[i] = experts[j];
        experts[j] = swap;
    }
    qsort(experts, c->n_filled, sizeof *experts, compare_u32);
    return c->n_filled;
}

/* ---- the rules ---------------------------------------------------------------------------------------------- */

/* Seed 0 leaves the stream of the name alone. */
static uint64_t stream_seed(const struct fixture_piece *p)
{
    const struct fixture_tensor *t = p->tensor;
    uint64_t h = fnv1a(t->official);
    if (t->official_tail[0]) {
        char digits[12];
        (void)snprintf(digits, sizeof digits, "%u", p->expert);
        for (const char *c = digits; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001B3u;
        for (const char *c = t->official_tail; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001B3u;
    }
    struct rng salt = {p->config->seed};
    return p->config->seed ? h ^ rng_next(&salt) : h;
}

static struct rng row_rng(uint64_t seed, uint64_t row)
{
    struct rng outer = {seed + row * STREAM_STEP};
    struct rng inner = {rng_next(&outer)};
    return inner;
}

static void make_uniform(const struct fixture_piece *p, float *values)
{
    const struct fixture_tensor *t = p->tensor;
    uint64_t first = p->first_row * t->dims[0], n = p->n_rows * t->dims[0];
    struct rng rng = {stream_seed(p) + first * STREAM_STEP};
    float step = t->scale / 128;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t z = rng_next(&rng);
        int32_t q = (int32_t)((z >> 40) % 255) - 127;
        if ((first + i) % 32 == 0) q = z >> 63 ? -127 : 127;
        values[i] = t->offset + (float)q * step;
    }
}

static void make_normal(const struct fixture_maker *m, const struct fixture_piece *p, float *values)
{
    const struct fixture_tensor *t = p->tensor;
    uint64_t seed = stream_seed(p);
    for (uint64_t r = 0; r < p->n_rows; r++) {
        struct rng rng = row_rng(seed, p->first_row + r);
        float *row = values + r * t->dims[0];
        uint64_t z = 0;
        for (uint64_t i = 0; i < t->dims[0]; i++) {
            z = i % 4 ? z >> 16 : rng_next(&rng);
            row[i] = t->offset + t->scale * m->quantiles[z & 0xFFFFu];
        }
    }
}

/* Blocks of Q8_0 straight from the table of codes: half of the real file is made of them. */
static void make_q8_0(const struct fixture_maker *m, const struct fixture_piece *p, uint8_t *blocks)
{
    const struct fixture_tensor *t = p->tensor;
    uint64_t seed = stream_seed(p), n_blocks = t->dims[0] / 32;
    float d = t->scale / m->code_rms;
    for (uint64_t r = 0; r < p->n_rows; r++) {
        struct rng rng = row_rng(seed, p->first_row + r);
        for (uint64_t b = 0; b < n_blocks; b++, blocks += 34) {
            put_f16(blocks, d * (0.75f + 0.5f * rng_float(&rng)));
            random_bytes(&rng, blocks + 2, 32);
            for (size_t i = 2; i < 34; i++) blocks[i] = (uint8_t)m->codes[blocks[i]];
        }
    }
}

static void make_blocks(const struct fixture_maker *m, const struct fixture_piece *p, float deviation, uint8_t *blocks)
{
    const struct fixture_tensor *t = p->tensor;
    const struct quant_format *format = t->format;
    uint64_t seed = stream_seed(p), n_blocks = t->dims[0] / format->block_elems;
    float d = deviation / m->block_rms[format->id];
    for (uint64_t r = 0; r < p->n_rows; r++) {
        struct rng rng = row_rng(seed, p->first_row + r);
        for (uint64_t b = 0; b < n_blocks; b++, blocks += format->block_bytes) {
            float spread = 0.8f + 0.4f * rng_float(&rng);
            random_block(format, &rng, blocks, d * spread);
        }
    }
}

/* Each number of a row comes from the stream of the table; a repeat moves on to the next free one. */
static void make_hash(const struct fixture_piece *p, uint8_t *out)
{
    const struct fixture_tensor *t = p->tensor;
    uint32_t experts[FIXTURE_EXPERTS_MAX], chosen[FIXTURE_USED_MAX];
    uint32_t n_experts = fixture_filled(p->config, t->layer, experts);
    size_t n_used = (size_t)t->dims[0];
    struct rng rng = {stream_seed(p) + p->first_row * n_used * STREAM_STEP};
    for (uint64_t r = 0; r < p->n_rows; r++)
        for (size_t j = 0; j < n_used; j++) {
            uint32_t e = (uint32_t)rng_below(&rng, n_experts);
            for (size_t k = 0; k < j; k++)
                if (chosen[k] == e) {
                    e = (e + 1) % n_experts;
                    k = (size_t)-1; /* look at all of them again */
                }
            chosen[j] = e;
            store_u32(out, experts[e]);
            out += 4;
        }
}

/* Reading weights (the first n_hc) that sum to about 1, then writing weights about 1, then a mix near the identity. */
static void make_hc_base(const struct fixture_maker *m, const struct fixture_piece *p, float *values)
{
    struct rng rng = {stream_seed(p)};
    uint32_t n_hc = p->config->n_hc;
    for (uint32_t i = 0; i < p->tensor->dims[0]; i++) {
        float x = m->quantiles[rng_next(&rng) & 0xFFFFu];
        if (i < n_hc) values[i] = -1.1f + 0.15f * x;
        else if (i < 2 * n_hc) values[i] = 0.15f * x;
        else values[i] = 0.4f * x + ((i - 2 * n_hc) % (n_hc + 1) == 0 ? 3.0f : 0.0f);
    }
}

static void make_bias(const struct fixture_maker *m, const struct fixture_piece *p, float *values)
{
    uint32_t experts[FIXTURE_EXPERTS_MAX];
    uint32_t n = fixture_filled(p->config, p->tensor->layer, experts);
    struct rng rng = {stream_seed(p)};
    for (uint32_t e = 0; e < p->config->n_experts; e++) values[e] = -100.0f;
    for (uint32_t i = 0; i < n; i++)
        values[experts[i]] = p->tensor->scale * m->quantiles[rng_next(&rng) & 0xFFFFu];
}

void fixture_make(const struct fixture_maker *m, const struct fixture_piece *p, float *values, uint8_t *blocks)
{
    const struct fixture_tensor *t = p->tensor;
    float deviation = t->rule == FIXTURE_UNIFORM ? t->scale * UNIFORM_RMS : t->scale;
    if (t->rule == FIXTURE_HASH) {
        make_hash(p, blocks);
        return;
    }
    if (!is_plain(t->format->id)) {
        make_blocks(m, p, deviation, blocks);
        return;
    }
    if (t->rule == FIXTURE_NORMAL && t->format->id == QUANT_Q8_0) {
        make_q8_0(m, p, blocks);
        return;
    }
    switch (t->rule) {
    case FIXTURE_UNIFORM: make_uniform(p, values); break;
    case FIXTURE_NORMAL: make_normal(m, p, values); break;
    case FIXTURE_HC_BASE: make_hc_base(m, p, values); break;
    case FIXTURE_BIAS: make_bias(m, p, values); break;
    case FIXTURE_HASH: break;
    }
    t->format->encode(values, NULL, blocks, (size_t)(p->n_rows * t->dims[0]));
}
