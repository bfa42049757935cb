/* kernels.c - the parts of model.py that are no matrix products, each in one pass over its rows, forwards and
 * backwards.
 *
 * kernels.py compiles this for the machine it runs on and calls it; without a compiler the same is computed by PyTorch.
 * Rows are contiguous floats; N is the number of tokens in all. check.py compares values and gradients.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { STREAMS = 4, PAIRS = STREAMS * STREAMS, MIX = STREAMS * 2 + PAIRS, LANES = 8, ROUNDS_MAX = 40 };

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static float dot(const float *a, const float *b, long n)
{
    float sum = 0;
    for (long i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ---- Sinkhorn, for LANES tokens side by side ------------------------------------------------------------------- */

typedef float lanes[LANES];

/* Divides by the sums over `from` (axis 0) or `to` (axis 1); d keeps the divisors. */
static void normalise(lanes x[PAIRS], lanes d[STREAMS], int axis, float eps)
{
    for (int k = 0; k < STREAMS; k++) {
        int first = axis ? k * STREAMS : k, step = axis ? 1 : STREAMS;
        for (int l = 0; l < LANES; l++) {
            d[k][l] = eps;
            for (int i = 0; i < STREAMS; i++)
                d[k][l] += x[first + i * step][l];
            float r = 1.0f / d[k][l];
            for (int i = 0; i < STREAMS; i++)
                x[first + i * step][l] *= r;
        }
    }
}

static void normalise_back(lanes g[PAIRS], lanes y[PAIRS], lanes d[STREAMS], int axis)
{
    for (int k = 0; k < STREAMS; k++) {
        int first = axis ? k * STREAMS : k, step = axis ? 1 : STREAMS;
        for (int l = 0; l < LANES; l++) {
            float sum = 0, r = 1.0f / d[k][l];
            for (int i = 0; i < STREAMS; i++)
                sum += g[first + i * step][l] * y[first + i * step][l];
            for (int i = 0; i < STREAMS; i++) {
                int at = first + i * step;
                g[at][l] = (g[at][l] - sum) * r;
                y[at][l] *= d[k][l];
            }
        }
    }
}

/* logits -> softmax over `to`, + eps, then the rounds; s keeps the softmax. */
static void doubly_stochastic(lanes x[PAIRS], lanes s[PAIRS], lanes d[ROUNDS_MAX][STREAMS], int rounds, float eps)
{
    for (int i = 0; i < STREAMS; i++)
        for (int l = 0; l < LANES; l++) {
            float top = x[i * STREAMS][l], sum = 0;
            for (int j = 1; j < STREAMS; j++)
                top = x[i * STREAMS + j][l] > top ? x[i * STREAMS + j][l] : top;
            for (int j = 0; j < STREAMS; j++) {
                s[i * STREAMS + j][l] = expf(x[i * STREAMS + j][l] - top);
                sum += s[i * STREAMS + j][l];
            }
            for (int j = 0; j < STREAMS; j++) {
                s[i * STREAMS + j][l] /= sum;
                x[i * STREAMS + j][l] = s[i * STREAMS + j][l] + eps;
            }
        }
    for (int k = 0; k < 2 * rounds - 1; k++)
        normalise(x, d[k], k % 2, eps);
}

/* ---- hyper-connections ----------------------------------------------------------------------------------------- */

/* x [N, 4, dim], m = x . fn [N, 24] -> y [N, dim], post [N, 4], comb [N, from, to], r [N], pre [N, 4] */
void hyper_read(long n, long dim, int rounds, float eps, const float *x, const float *m, const float *scale,
                const float *base, float *y, float *post, float *comb, float *r, float *pre)
{
    for (long begin = 0; begin < n; begin += LANES) {
        long count = n - begin < LANES ? n - begin : LANES;
        lanes c[PAIRS] = {{0}}, s[PAIRS], d[ROUNDS_MAX][STREAMS];
        for (long l = 0; l < count; l++) {
            long t = begin + l;
            const float *row = x + t * STREAMS * dim, *mix = m + t * MIX;
            r[t] = 1.0f / sqrtf(dot(row, row, STREAMS * dim) / (float)(STREAMS * dim) + eps);
            for (int i = 0; i < STREAMS; i++) {
                pre[t * STREAMS + i] = sigmoid(mix[i] * r[t] * scale[0] + base[i]) + eps;
                post[t * STREAMS + i] = 2 * sigmoid(mix[STREAMS + i] * r[t] * scale[1] + base[STREAMS + i]);
            }
            for (int i = 0; i < PAIRS; i++)
                c[i][l] = mix[2 * STREAMS + i] * r[t] * scale[2] + base[2 * STREAMS + i];
            const float *p = pre + t * STREAMS;
            for (long k = 0; k < dim; k++)
                y[t * dim + k] = p[0] * row[k] + p[1] * row[dim + k] + p[2] * row[2 * dim + k]
                                 + p[3] * row[3 * dim + k];
        }
        doubly_stochastic(c, s, d, rounds, eps);
        for (long l = 0; l < count; l++)
            for (int i = 0; i < PAIRS; i++)
                comb[(begin + l) * PAIRS + i] = c[i][l];
    }
}

/* Gradients of y, post, comb -> gx [N, 4, dim] without its part through m, gm [N, 24], gscale [3], gbase [24]. */
void hyper_read_back(long n, long dim, int rounds, float eps, const float *x, const float *m, const float *scale,
                     const float *base, const float *post, const float *r, const float *pre, const float *gy,
                     const float *gpost, const float *gcomb, float *gx, float *gm, float *gscale, float *gbase)
{
    memset(gscale, 0, 3 * sizeof *gscale);
    memset(gbase, 0, MIX * sizeof *gbase);
    for (long begin = 0; begin < n; begin += LANES) {
        long count = n - begin < LANES ? n - begin : LANES;
        lanes c[PAIRS] = {{0}}, g[PAIRS] = {{0}}, s[PAIRS], d[ROUNDS_MAX][STREAMS];
        for (long l = 0; l < count; l++)
            for (int i = 0; i < PAIRS; i++) {
                long t = begin + l;
                c[i][l] = m[t * MIX + 2 * STREAMS + i] * r[t] * scale[2] + base[2 * STREAMS + i];
                g[i][l] = gcomb[t * PAIRS + i];
            }
        doubly_stochastic(c, s, d, rounds, eps);
        for (int k = 2 * rounds - 2; k >= 0; k--)
            normalise_back(g, c, d[k], k % 2);
        for (int i = 0; i < STREAMS; i++)
            for (int l = 0; l < LANES; l++) {
                float sum = 0;
                for (int j = 0; j < STREAMS; j++)
                    sum += g[i * STREAMS + j][l] * s[i * STREAMS + j][l];
                for (int j = 0; j < STREAMS; j++)
                    g[i * STREAMS + j][l] = (g[i * STREAMS + j][l] - sum) * s[i * STREAMS + j][l];
            }
        for (long l = 0; l < count; l++) {
            long t = begin + l;
            const float *row = x + t * STREAMS * dim, *mix = m + t * MIX, *up = gy + t * dim, *p = pre + t * STREAMS;
            float z[MIX], gr = 0;
            for (int i = 0; i < STREAMS; i++) {
                float a = p[i] - eps, b = post[t * STREAMS + i] * 0.5f;
                z[i] = dot(up, row + i * dim, dim) * a * (1 - a);
                z[STREAMS + i] = gpost[t * STREAMS + i] * 2 * b * (1 - b);
            }
            for (int i = 0; i < PAIRS; i++)
                z[2 * STREAMS + i] = g[i][l];
            for (int i = 0; i < MIX; i++) {
                int part = i < STREAMS ? 0 : i < 2 * STREAMS ? 1 : 2;
                gbase[i] += z[i];
                gscale[part] += z[i] * mix[i] * r[t];
                gm[t * MIX + i] = z[i] * scale[part] * r[t];
                gr += z[i] * scale[part] * mix[i];
            }
            float through = -gr * r[t] * r[t] * r[t] / (float)(STREAMS * dim);
            for (int i = 0; i < STREAMS; i++)
                for (long k = 0; k < dim; k++)
                    gx[(t * STREAMS + i) * dim + k] = p[i] * up[k] + through * row[i * dim + k];
        }
    }
}

/* out_j = post_j y + sum over i of comb_ij x_i */
void hyper_write(long n, long dim, const float *y, const float *x, const float *post, const float *comb, float *out)
{
    for (long t = 0; t < n; t++, y += dim, x += STREAMS * dim, out += STREAMS * dim)
        for (int j = 0; j < STREAMS; j++) {
            const float p = post[t * STREAMS + j], *c = comb + t * PAIRS + j;
            float *o = out + j * dim;
            for (long k = 0; k < dim; k++)
                o[k] = p * y[k] + c[0] * x[k] + c[4] * x[dim + k] + c[8] * x[2 * dim + k] + c[12] * x[3 * dim + k];
        }
}

void hyper_write_back(long n, long dim, const float *y, const float *x, const float *post, const float *comb,
                      const float *go, float *gy, float *gx, float *gpost, float *gcomb)
{
    for (long t = 0; t < n; t++, y += dim, x += STREAMS * dim, go += STREAMS * dim, gy += dim, gx += STREAMS * dim) {
        const float *p = post + t * STREAMS, *o1 = go + dim, *o2 = go + 2 * dim, *o3 = go + 3 * dim;
        for (long k = 0; k < dim; k++)
            gy[k] = p[0] * go[k] + p[1] * o1[k] + p[2] * o2[k] + p[3] * o3[k];
        for (int i = 0; i < STREAMS; i++) {
            const float *c = comb + t * PAIRS + i * STREAMS, *in = x + i * dim;
            float *g = gx + i * dim;
            for (long k = 0; k < dim; k++)
                g[k] = c[0] * go[k] + c[1] * o1[k] + c[2] * o2[k] + c[3] * o3[k];
            for (int j = 0; j < STREAMS; j++)
                gcomb[t * PAIRS + i * STREAMS + j] = dot(in, go + j * dim, dim);
        }
        for (int j = 0; j < STREAMS; j++)
            gpost[t * STREAMS + j] = dot(y, go + j * dim, dim);
    }
}

/* ---- norms and rotation ---------------------------------------------------------------------------------------- */

/* y = x / rms(x) * weight; weight may be missing. r keeps 1 / rms. */
void rms_norm(long n, long dim, float eps, const float *x, const float *weight, float *y, float *r)
{
    for (long t = 0; t < n; t++, x += dim, y += dim) {
        r[t] = 1.0f / sqrtf(dot(x, x, dim) / (float)dim + eps);
        for (long k = 0; k < dim; k++)
            y[k] = weight ? x[k] * r[t] * weight[k] : x[k] * r[t];
    }
}

void rms_norm_back(long n, long dim, const float *x, const float *weight, const float *r, const float *gy, float *gx,
                   float *gweight)
{
    if (weight)
        memset(gweight, 0, (size_t)dim * sizeof *gweight);
    for (long t = 0; t < n; t++, x += dim, gy += dim, gx += dim) {
        float sum = 0;
        for (long k = 0; k < dim; k++)
            sum += gy[k] * (weight ? weight[k] : 1.0f) * x[k];
        float back = sum * r[t] * r[t] * r[t] / (float)dim;
        for (long k = 0; k < dim; k++) {
            gx[k] = gy[k] * (weight ? weight[k] : 1.0f) * r[t] - back * x[k];
            if (weight)
                gweight[k] += gy[k] * x[k] * r[t];
        }
    }
}

/* x [batch, T, heads, dim]: neighbouring pairs of the last 2 * half values turn; y = turned x * factor. */
void turn(long batch, long n, long heads, long dim, long half, const float *x, const float *cosine, const float *sine,
          float sign, float factor, float *y)
{
    long still = dim - 2 * half;
    for (long row = 0; row < batch * n * heads; row++, x += dim, y += dim) {
        const float *c = cosine + row / heads % n * half, *s = sine + row / heads % n * half;
        for (long k = 0; k < still; k++)
            y[k] = x[k] * factor;
        for (long k = 0; k < half; k++) {
            float a = x[still + 2 * k] * factor, b = x[still + 2 * k + 1] * factor;
            y[still + 2 * k] = a * c[k] - sign * b * s[k];
            y[still + 2 * k + 1] = sign * a * s[k] + b * c[k];
        }
    }
}

/* ---- experts --------------------------------------------------------------------------------------------------- */

static float clamped(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* h = silu(min(gate, limit)) * clamp(up) * weight of the row (or 1) */
void gated(long n, long dim, float limit, const float *gate, const float *up, const float *weight, float *h)
{
    for (long t = 0; t < n; t++, gate += dim, up += dim, h += dim) {
        float w = weight ? weight[t] : 1.0f;
        for (long k = 0; k < dim; k++) {
            float g = gate[k] > limit ? limit : gate[k];
            h[k] = g / (1.0f + expf(-g)) * clamped(up[k], -limit, limit) * w;
        }
    }
}

void gated_back(long n, long dim, float limit, const float *gate, const float *up, const float *weight,
                const float *gh, float *ggate, float *gup, float *gweight)
{
    for (long t = 0; t < n; t++, gate += dim, up += dim, gh += dim, ggate += dim, gup += dim) {
        float w = weight ? weight[t] : 1.0f, sum = 0;
        for (long k = 0; k < dim; k++) {
            float g = gate[k] > limit ? limit : gate[k], u = clamped(up[k], -limit, limit);
            float s = 1.0f / (1.0f + expf(-g)), silu = g * s;
            sum += gh[k] * silu * u;
            ggate[k] = gate[k] > limit ? 0 : gh[k] * w * u * (s + silu * (1 - s));
            gup[k] = up[k] < -limit || up[k] > limit ? 0 : gh[k] * w * silu;
        }
        if (weight)
            gweight[t] = sum;
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------- */

/* Softmax over three parts of a row: near [B, blocks, H, width, keys] by the window's rule, far [B, blocks, H, width,
 * J] where keep [B, blocks * width, J] is not 0, and the sink of its head. In place; hidden entries become 0. */
void attend(long batch, long blocks, long heads, long width, long keys, long n_far, const uint8_t *keep,
            const float *sink, float *near, float *far)
{
    for (long row = 0; row < batch * blocks * heads * width; row++, near += keys, far += n_far) {
        long q = row % width, h = row / width % heads, block = row / (width * heads) % blocks;
        long last = keys - width + q, first = last - width + 1;     /* keys first..last are in the window */
        if (block == 0 && first < keys - width)
            first = keys - width;
        first = first < 0 ? 0 : first;
        const uint8_t *k = keep ? keep + ((row / (width * heads)) * width + q) * n_far : 0;
        float top = sink[h], sum = 0;
        for (long i = first; i <= last; i++)
            top = near[i] > top ? near[i] : top;
        for (long j = 0; j < n_far; j++)
            top = k[j] && far[j] > top ? far[j] : top;
        for (long i = 0; i < first; i++)
            near[i] = 0;
        for (long i = last + 1; i < keys; i++)
            near[i] = 0;
        for (long i = first; i <= last; i++)
            sum += near[i] = expf(near[i] - top);
        for (long j = 0; j < n_far; j++) {
            float e = expf((k[j] ? far[j] : top) - top);
            far[j] = k[j] ? e : 0;
            sum += far[j];
        }
        sum = 1.0f / (sum + expf(sink[h] - top));
        for (long i = first; i <= last; i++)
            near[i] *= sum;
        for (long j = 0; j < n_far; j++)
            far[j] *= sum;
    }
}

/* Gradients of the weights become those of the logits, in place; gsink [H] is summed up. */
void attend_back(long batch, long blocks, long heads, long width, long keys, long n_far, const float *near,
                 const float *far, float *gnear, float *gfar, float *gsink)
{
    memset(gsink, 0, (size_t)heads * sizeof *gsink);
    for (long row = 0; row < batch * blocks * heads * width; row++) {
        float rest = 1, sum = 0;
        for (long i = 0; i < keys; i++) {
            sum += near[i] * gnear[i];
            rest -= near[i];
        }
        for (long j = 0; j < n_far; j++) {
            sum += far[j] * gfar[j];
            rest -= far[j];
        }
        for (long i = 0; i < keys; i++)
            gnear[i] = near[i] * (gnear[i] - sum);
        for (long j = 0; j < n_far; j++)
            gfar[j] = far[j] * (gfar[j] - sum);
        gsink[row / width % heads] -= rest * sum;
        near += keys, far += n_far, gnear += keys, gfar += n_far;
    }
}

/* score = sum over heads of relu(dots [rows, heads, J]) * weight [rows, heads] */
void index_scores(long rows, long heads, long n_far, const float *dots, const float *weight, float *scores)
{
    for (long t = 0; t < rows; t++, scores += n_far) {
        memset(scores, 0, (size_t)n_far * sizeof *scores);
        for (long h = 0; h < heads; h++, dots += n_far) {
            float w = weight[t * heads + h];
            for (long j = 0; j < n_far; j++)
                scores[j] += (dots[j] > 0 ? dots[j] : 0) * w;
        }
    }
}

/* dots become their gradients, in place */
void index_scores_back(long rows, long heads, long n_far, float *dots, const float *weight, const float *gscores,
                       float *gweight)
{
    for (long t = 0; t < rows; t++, gscores += n_far)
        for (long h = 0; h < heads; h++, dots += n_far) {
            float w = weight[t * heads + h], sum = 0;
            for (long j = 0; j < n_far; j++) {
                float d = dots[j] > 0 ? dots[j] : 0;
                sum += d * gscores[j];
                dots[j] = dots[j] > 0 ? gscores[j] * w : 0;
            }
            gweight[t * heads + h] = sum;
        }
}

/* ---- compressors ----------------------------------------------------------------------------------------------- */

/* kv, gate [B, T, parts * d] -> rows [B, n, d]: for each channel a softmax-gated sum over its block's ratio tokens and,
 * with two parts, first half of the channels, over the block before. p [B, n, parts * ratio, d] keeps the shares. */
void compress(long batch, long n, long tokens, long ratio, long d, int parts, const float *kv, const float *gate,
              const float *ape, float *rows, float *p)
{
    long wide = parts * d, members = parts * ratio;
    for (long b = 0; b < batch; b++)
        for (long i = 0; i < n; i++, rows += d, p += members * d) {
            long skip = parts == 2 && i == 0 ? ratio : 0;       /* the first row has no block before */
            memset(p, 0, (size_t)(members * d) * sizeof *p);
            for (long c = 0; c < d; c++)
                rows[c] = -1e30f;
            for (long m = skip; m < members; m++) {
                long before = parts == 2 && m < ratio, at = before ? m : m - (parts - 1) * ratio;
                const float *g = gate + (b * tokens + (i - before) * ratio + at) * wide + (parts == 2 && !before) * d;
                const float *a = ape + at * wide + (parts == 2 && !before) * d;
                for (long c = 0; c < d; c++) {
                    p[m * d + c] = g[c] + a[c];
                    rows[c] = p[m * d + c] > rows[c] ? p[m * d + c] : rows[c];
                }
            }
            float sum[512] = {0};
            for (long m = skip; m < members; m++)
                for (long c = 0; c < d; c++)
                    sum[c] += p[m * d + c] = expf(p[m * d + c] - rows[c]);
            memset(rows, 0, (size_t)d * sizeof *rows);
            for (long m = skip; m < members; m++) {
                long before = parts == 2 && m < ratio, at = before ? m : m - (parts - 1) * ratio;
                const float *v = kv + (b * tokens + (i - before) * ratio + at) * wide + (parts == 2 && !before) * d;
                for (long c = 0; c < d; c++) {
                    p[m * d + c] /= sum[c];
                    rows[c] += p[m * d + c] * v[c];
                }
            }
        }
}

/* gkv, ggate [B, T, parts * d] come zeroed. */
void compress_back(long batch, long n, long tokens, long ratio, long d, int parts, const float *kv, const float *p,
                   const float *rows, const float *grows, float *gkv, float *ggate, float *gape)
{
    long wide = parts * d, members = parts * ratio;
    for (long b = 0; b < batch; b++)
        for (long i = 0; i < n; i++, rows += d, grows += d, p += members * d)
            for (long m = parts == 2 && i == 0 ? ratio : 0; m < members; m++) {
                long before = parts == 2 && m < ratio, at = before ? m : m - (parts - 1) * ratio;
                long half = (parts == 2 && !before) * d, from = (b * tokens + (i - before) * ratio + at) * wide + half;
                for (long c = 0; c < d; c++) {
                    float share = p[m * d + c] * grows[c], g = share * (kv[from + c] - rows[c]);
                    gkv[from + c] = share;
                    ggate[from + c] = g;
                    gape[at * wide + half + c] += g;
                }
            }
}
