/* feedback_code.c - codes blocks of a matrix under the full cost of its errors. See feedback.h for the names.
 *
 * A block gets its scales from the ordinary search: twice, weighted by d and by the importance. With each, its codes
 * are chosen from left to right; its d (and dmin) are refitted to these codes by least squares and the codes chosen
 * again; then single codes (IQ2_XXS: runs of 8) are chosen anew given all others, while that gains. The cheaper result
 * stays. */
#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "quant/codecs.h"
#include "quant/encode.h"
#include "quant/feedback.h"
#include "quant/grids.h"
#include "quant/units.h"

#define B FEEDBACK_BLOCK
#define RUN FEEDBACK_RUN
#define ROWS_AT_ONCE 8u
#define SECOND_LOOKS 2
#define SUBS_MAX 16u

struct coder { /* of one block of one row */
    const struct feedback *f;
    struct feedback_ops ops;
    const struct quant_format *format;
    size_t first;         /* its first column */
    const float *w, *t;   /* values; targets, that is values and what earlier blocks did wrong */
    const float *m;
};

struct attempt {
    float d, dmin;                       /* as stored */
    uint8_t s[SUBS_MAX], min[SUBS_MAX];  /* of the sub-blocks; IQ2_XXS: s of the 8 groups */
    uint8_t codes[B];                    /* IQ2_XXS: index and signs of each run in the first 64 */
    float q[B], r[B], g[B];              /* values; column costs d r^2; half the derivative of the cost by E */
    float cost;
};

static size_t sub_of(const struct coder *c) { return c->format->id == QUANT_Q2_K ? 16 : 32; }

/* ---- bytes -------------------------------------------------------------------------------------------------- */

static void unpack(const struct coder *c, const uint8_t *block, struct attempt *a)
{
    *a = (struct attempt){0};
    switch (c->format->id) {
    case QUANT_Q2_K:
        a->d = f16_to_f32(load_u16(block + 80));
        a->dmin = f16_to_f32(load_u16(block + 82));
        for (size_t k = 0; k < 16; k++) {
            a->s[k] = block[k] & 15;
            a->min[k] = block[k] >> 4;
        }
        break;
    case QUANT_Q4_K:
        a->d = f16_to_f32(load_u16(block));
        a->dmin = f16_to_f32(load_u16(block + 2));
        for (size_t k = 0; k < 8; k++) {
            int s, min;
            q4_k_unpack_scale(block + 4, k, &s, &min);
            a->s[k] = (uint8_t)s;
            a->min[k] = (uint8_t)min;
        }
        break;
    default:
        a->d = f16_to_f32(load_u16(block));
        for (size_t g = 0; g < 8; g++) a->s[g] = (uint8_t)(load_u32(block + 2 + 8 * g + 4) >> 28);
    }
}

static void pack_affine(const struct coder *c, const struct attempt *a, uint8_t *block)
{
    if (c->format->id == QUANT_Q2_K) {
        memset(block, 0, 84);
        for (size_t k = 0; k < 16; k++) block[k] = (uint8_t)(a->s[k] | a->min[k] << 4);
        for (size_t i = 0; i < B; i++)
            block[16 + 32 * (i / 128) + i % 32] |= (uint8_t)(a->codes[i] << (i % 128 / 32 * 2));
        store_u16(block + 80, encode_scale(a->d));
        store_u16(block + 82, encode_scale(a->dmin));
        return;
    }
    store_u16(block, encode_scale(a->d)); /* the sub-blocks' scales stay as the search wrote them */
    store_u16(block + 2, encode_scale(a->dmin));
    for (size_t i = 0; i < B / 2; i++) {
        size_t low = i / 32 * 64 + i % 32;
        block[16 + i] = (uint8_t)(a->codes[low] | a->codes[low + 32] << 4);
    }
}

static void pack(const struct coder *c, const struct attempt *a, uint8_t *block)
{
    if (c->format->id != QUANT_IQ2_XXS) {
        pack_affine(c, a, block);
        return;
    }
    store_u16(block, encode_scale(a->d));
    for (size_t g = 0; g < 8; g++) {
        uint32_t bits = (uint32_t)a->s[g] << 28;
        for (size_t l = 0; l < 4; l++) {
            block[2 + 8 * g + l] = a->codes[4 * g + l];
            bits |= (uint32_t)(a->codes[32 + 4 * g + l] & 127u) << (7 * l);
        }
        store_u32(block + 2 + 8 * g + 4, bits);
    }
}

/* ---- codes -------------------------------------------------------------------------------------------------- */

static float step_of(const struct attempt *a, size_t group) { return a->d * (0.5f + (float)a->s[group]) * 0.25f; }

/* The nearest value to x in sub-block k and its code; the arithmetic is the decoder's. */
static float nearest(const struct coder *c, const struct attempt *a, size_t k, float x, uint8_t *code)
{
    float scale = a->d * (float)a->s[k], min = a->dmin * (float)a->min[k];
    float top = c->format->id == QUANT_Q2_K ? 3 : 15;
    float v = scale > 0 ? floorf((x + min) / scale + 0.5f) : 0;
    *code = (uint8_t)(v < 0 ? 0 : v > top ? top : v);
    return scale * (float)*code - min;
}

static void take_run(struct attempt *a, const struct feedback_run *run, size_t at)
{
    a->codes[at / RUN] = run->index;
    a->codes[32 + at / RUN] = run->signs;
    memcpy(a->q + at, run->q, sizeof run->q);
}

static void code_run(const struct coder *c, struct attempt *a, const float *t, size_t at)
{
    float tri[RUN * RUN];
    for (size_t i = 0; i < RUN; i++)
        memcpy(tri + RUN * i, c->f->t + (c->first + at + i) * c->f->n + c->first + at, RUN * sizeof(float));
    struct feedback_run run = {.w = c->w + at, .t = t + at, .d = c->f->d + c->first + at, .tri = tri,
                               .step = step_of(a, at / 32)};
    c->ops.code_run(&run);
    take_run(a, &run, at);
}

/* Codes from left to right; fills q, r, cost, g. */
static void code_all(const struct coder *c, struct attempt *a)
{
    const struct feedback *f = c->f;
    bool runs = c->format->id == QUANT_IQ2_XXS;
    size_t sub = sub_of(c);
    float t[B], weighted[B];
    memcpy(t, c->t, sizeof t);
    a->cost = 0;
    for (size_t i = 0; i < B; i++) {
        if (runs && i % RUN == 0) code_run(c, a, t, i);
        if (!runs) a->q[i] = nearest(c, a, i / sub, t[i], &a->codes[i]);
        a->r[i] = t[i] - a->q[i];
        weighted[i] = f->d[c->first + i] * a->r[i];
        a->cost += weighted[i] * a->r[i];
        c->ops.push(t, c->w[i] - a->q[i], f->t + (c->first + i) * f->n + c->first, i + 1);
    }
    for (size_t i = 0; i < B; i++) {
        const float *row = f->t + (c->first + i) * f->n + c->first;
        size_t from = i / RUN * RUN, j = i;
        a->g[i] = 0;
        for (; j < from + RUN; j++) a->g[i] += weighted[j] * row[j];
        if (j < B) a->g[i] += c->ops.dot(weighted + j, row + j, B - j);
    }
}

/* The least-squares change of d (and dmin) for the codes as they are. False: none. */
static bool refit(const struct coder *c, struct attempt *a)
{
    float u[B], v[B], uu = 0, uv = 0, vv = 0, ug = 0, vg = 0;
    bool runs = c->format->id == QUANT_IQ2_XXS;
    size_t sub = sub_of(c);
    for (size_t i = 0; i < B; i++) {
        u[i] = runs ? (a->d > 0 ? a->q[i] / a->d : 0) : (float)a->s[i / sub] * (float)a->codes[i];
        v[i] = runs ? 0 : -(float)a->min[i / sub];
        ug += u[i] * a->g[i];
        vg += v[i] * a->g[i];
    }
    for (size_t i = 0; i < B; i++) {
        float mu = c->ops.dot(c->m + i * B, u, B);
        uu += u[i] * mu;
        uv += v[i] * mu;
        if (!runs) vv += v[i] * c->ops.dot(c->m + i * B, v, B);
    }
    float det = uu * vv - uv * uv, d = a->d, dmin = a->dmin;
    if (!runs && dmin > 0 && det > 1e-4f * uu * vv) {
        d += (ug * vv - vg * uv) / det;
        dmin += (vg * uu - ug * uv) / det;
    } else if (uu > 0) {
        d += ug / uu;
    }
    if (!(d > 0) || !(dmin >= 0)) return false;
    d = f16_to_f32(encode_scale(d));
    dmin = f16_to_f32(encode_scale(dmin));
    if (d == a->d && dmin == a->dmin) return false;
    a->d = d;
    a->dmin = dmin;
    return true;
}

/* ---- second looks ------------------------------------------------------------------------------------------- */

/* E changes by delta in column i. */
static void apply(const struct coder *c, struct attempt *a, size_t i, float delta)
{
    if (delta != 0) c->ops.push(a->g, delta, c->m + i * B, 0);
}

static bool look_at_codes(const struct coder *c, struct attempt *a)
{
    bool gained = false;
    size_t sub = sub_of(c);
    for (size_t i = 0; i < B; i++) {
        float mii = c->m[i * B + i];
        uint8_t code;
        float q = nearest(c, a, i / sub, a->q[i] + a->g[i] / mii, &code), delta = a->q[i] - q;
        float change = delta * (2 * a->g[i] + delta * mii);
        if (code == a->codes[i] || !(change < 0)) continue;
        a->cost += change;
        a->codes[i] = code;
        a->q[i] = q;
        apply(c, a, i, delta);
        gained = true;
    }
    return gained;
}

static bool look_at_runs(const struct coder *c, struct attempt *a)
{
    bool gained = false;
    for (size_t at = 0; at < B; at += RUN) {
        const float *d = c->f->run_d + c->first + at, *tri = c->f->run_t + (c->first + at) * RUN;
        float t[RUN], dr[RUN], delta[RUN], change = 0;
        /* With all else as it is, the cost is one of this run alone: its targets follow from g. */
        for (size_t i = RUN; i-- > 0;) {
            dr[i] = a->g[at + i];
            for (size_t k = i + 1; k < RUN; k++) dr[i] -= tri[i * RUN + k] * dr[k];
        }
        for (size_t i = 0; i < RUN; i++) {
            t[i] = c->w[at + i] + dr[i] / d[i];
            for (size_t k = 0; k <= i; k++) t[i] -= (c->w[at + k] - a->q[at + k]) * tri[k * RUN + i];
        }
        struct feedback_run run = {.w = c->w + at, .t = t, .d = d, .tri = tri, .step = step_of(a, at / 32)};
        c->ops.code_run(&run);
        for (size_t i = 0; i < RUN; i++) delta[i] = a->q[at + i] - run.q[i];
        for (size_t i = 0; i < RUN; i++) {
            float half = a->g[at + i] * 2;
            for (size_t k = 0; k < RUN; k++) half += c->m[(at + i) * B + at + k] * delta[k];
            change += delta[i] * half;
        }
        if (!(change < -1e-6f * a->cost)) continue;
        a->cost += change;
        take_run(a, &run, at);
        for (size_t i = 0; i < RUN; i++) apply(c, a, at + i, delta[i]);
        gained = true;
    }
    return gained;
}

/* The best result from the scales of `block`, as one. */
static void improve(const struct coder *c, const uint8_t *block, struct attempt *best)
{
    struct attempt a;
    unpack(c, block, best);
    code_all(c, best);
    a = *best;
    if (refit(c, &a)) {
        code_all(c, &a);
        if (a.cost < best->cost) *best = a;
    }
    for (int i = 0; i < SECOND_LOOKS; i++)
        if (!(c->format->id == QUANT_IQ2_XXS ? look_at_runs(c, best) : look_at_codes(c, best))) break;
}

/* One block of one row into `out`; e: its errors. */
static void code_block(const struct coder *c, const float *importance, uint8_t *out, float *e)
{
    uint8_t block[144];
    struct attempt best, other;
    float unit, w_unit;
    c->format->encode(c->t, c->f->d + c->first, out, B);
    if (!encode_units(c->t, NULL, B, &unit, &w_unit)) { /* zeros, or no numbers: the search has said so */
        memcpy(e, c->w, B * sizeof *e);
        return;
    }
    improve(c, out, &best);
    if (importance) {
        c->format->encode(c->t, importance + c->first, block, B);
        improve(c, block, &other);
        if (other.cost < best.cost) {
            best = other;
            memcpy(out, block, c->format->block_bytes);
        }
    }
    pack(c, &best, out);
    for (size_t i = 0; i < B; i++) e[i] = c->w[i] - best.q[i];
}

/* ---- rows --------------------------------------------------------------------------------------------------- */

bool feedback_supports(const struct quant_format *format)
{
    return format->id == QUANT_IQ2_XXS || format->id == QUANT_Q2_K || format->id == QUANT_Q4_K;
}

void feedback_encode(const struct feedback *f, const struct quant_format *format, const float *values, size_t n_rows,
                     const float *importance, uint8_t *blocks, float *errors)
{
    struct coder c = {.f = f, .ops = encode_feedback_ops(), .format = format};
    size_t row_bytes = f->n / B * format->block_bytes;
    float targets[ROWS_AT_ONCE * B];
    for (size_t row = 0; row < n_rows; row += ROWS_AT_ONCE) {
        size_t n = n_rows - row < ROWS_AT_ONCE ? n_rows - row : ROWS_AT_ONCE;
        const float *w = values + row * f->n;
        float *e = errors + row * f->n;
        for (c.first = 0; c.first < f->n; c.first += B) {
            for (size_t i = 0; i < n; i++) memcpy(targets + i * B, w + i * f->n + c.first, B * sizeof(float));
            struct feedback_product p = {.c = targets, .c_i = B, .a = e, .a_k = 1, .a_i = f->n, .b = f->t + c.first,
                                         .b_k = f->n, .n_i = n, .n_k = c.first, .n_j = B, .sign = 1};
            c.ops.product(&p);
            c.m = f->m + c.first * B;
            for (size_t i = 0; i < n; i++) {
                c.w = w + i * f->n + c.first;
                c.t = targets + i * B;
                code_block(&c, importance, blocks + (row + i) * row_bytes + c.first / B * format->block_bytes,
                           e + i * f->n + c.first);
            }
        }
    }
}
