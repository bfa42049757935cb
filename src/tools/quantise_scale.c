/* quantise_scale.c - `ds4 quantize --awq`: columns that calibration rows show to matter are made larger before
 * rounding, and what makes them smaller by as much, so that the model computes the same and any reader can use the
 * file.
 *
 *   gate, up     column c times in[c], for a layer; ffn_norm divided by it; the router and the shared expert's gate and
 *                up, which read the same normed row, times in[c]. Exact but for the rounding of F16 and Q8_0.
 *   down         column c times mid[c], for an expert; row c of up divided by it: SwiGLU is linear in up. Exact as long
 *                as the clamp of up at +-limit does not act: on the calibration rows it never does with or without the
 *                factor, or the factor is 1. Rows of other texts may meet the clamp where they did not before.
 *
 * Factors are a power alpha of the root mean square of the column's inputs, geometric mean 1. For each layer and each
 * expert the alpha of least output error on a sample of rows is taken; 0, which changes nothing, is among them. (The
 * method is known as AWQ, Lin et al. 2023.) */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "tools/quantise.h"

#define N_ALPHAS 11 /* 0 to 1 */
#define SAMPLE_ROWS 16u      /* of a matrix */
#define SAMPLE_EXPERTS 4u    /* of a layer, for `in` */
#define SAMPLE_INPUTS 128u   /* calibration rows of an expert */
#define UP_MOST 5.0f         /* that up may reach after its division: half of the architecture's clamp of 10 */

struct trial { /* of one column scaling */
    const struct quantise_source *source;
    struct quantise_calibration *calibration;
    struct quantise_scales *scales;
    struct quantise_buffers b;
    uint8_t *blocks;
    float *x, *s, *importance, *scaled, *back; /* s .. back: one row each */
    struct ds4_error *error;
};

static const struct quantise_tensor *tensor_of(const struct quantise_source *source, int32_t layer, const char *tail)
{
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        size_t n = strlen(t->name), k = strlen(tail);
        if (t->layer == layer && !t->draft && n > k && strcmp(t->name + n - k, tail) == 0) return t;
    }
    return NULL;
}

static bool is(const struct quantise_tensor *t, const char *tail)
{
    size_t n = strlen(t->name), k = strlen(tail);
    return n > k && strcmp(t->name + n - k, tail) == 0;
}

/* ---- use ---------------------------------------------------------------------------------------------------- */

const float *quantise_scale_columns(const struct quantise_scales *s, const struct quantise_tensor *t, uint32_t matrix_i)
{
    if (!s || t->layer < 0 || t->draft || (uint32_t)t->layer >= s->n_layers) return NULL;
    size_t layer = (size_t)t->layer;
    if (t->family == QUANTISE_DOWN) return s->mid + (layer * s->n_experts + matrix_i) * s->n_ff;
    bool reads = t->family == QUANTISE_EXPERTS || is(t, ".ffn_gate_inp.weight") || is(t, ".ffn_gate_shexp.weight") ||
                 is(t, ".ffn_up_shexp.weight");
    return reads ? s->in + layer * s->n_embd : NULL;
}

bool quantise_scale(const struct quantise_scales *s, const struct quantise_piece *p, float *values)
{
    const struct quantise_tensor *t = p->tensor;
    const float *columns = quantise_scale_columns(s, t, p->matrix_i);
    if (s && t->layer >= 0 && !t->draft && is(t, ".ffn_norm.weight")) {
        const float *in = s->in + (size_t)t->layer * s->n_embd;
        for (uint64_t c = 0; c < t->dims[0] && values; c++) values[c] /= in[c];
        return true;
    }
    if (!columns || !values) return columns != NULL;
    bool up = t->family == QUANTISE_EXPERTS && is(t, ".ffn_up_exps.weight");
    const float *rows = s->mid + ((size_t)t->layer * s->n_experts + p->matrix_i) * s->n_ff;
    for (uint64_t r = 0; r < p->n_rows; r++) {
        float divisor = up ? rows[p->row_first + r] : 1;
        for (uint64_t c = 0; c < t->dims[0]; c++) values[r * t->dims[0] + c] *= columns[c] / divisor;
    }
    return true;
}

/* ---- search ------------------------------------------------------------------------------------------------- */

/* Output error on n_x rows x of the first rows of a matrix when its columns are multiplied by s. */
static double measure(struct trial *t, const struct quantise_tensor *tensor, const float *w, uint64_t n_rows,
                      const float *x, uint32_t n_x, const float *s)
{
    size_t n = (size_t)tensor->dims[0];
    double sum = 0;
    for (size_t c = 0; c < n; c++) {
        double square = 0;
        for (uint32_t i = 0; i < n_x; i++) square += (double)x[i * n + c] * (double)x[i * n + c];
        t->importance[c] = (float)(square / n_x) / (s[c] * s[c]);
    }
    for (uint64_t r = 0; r < n_rows; r++) {
        for (size_t c = 0; c < n; c++) t->scaled[c] = w[r * n + c] * s[c];
        tensor->to->encode(t->scaled, t->importance, t->blocks, n);
        tensor->to->decode(t->blocks, t->back, n);
        for (size_t c = 0; c < n; c++) t->back[c] = w[r * n + c] - t->back[c] / s[c];
        for (uint32_t i = 0; i < n_x; i++) {
            float y = 0;
            for (size_t c = 0; c < n; c++) y += t->back[c] * x[i * n + c];
            sum += (double)y * (double)y;
        }
    }
    return sum;
}

/* Factors with geometric mean 1 from root mean squares. */
static void powers(const float *rms, size_t n, float alpha, float *s)
{
    double sum = 0;
    for (size_t c = 0; c < n; c++) sum += log((double)rms[c] + 1e-9);
    for (size_t c = 0; c < n; c++) s[c] = (float)exp((double)alpha * (log((double)rms[c] + 1e-9) - sum / (double)n));
    for (size_t c = 0; c < n; c++) s[c] = fminf(fmaxf(s[c], 1.0f / 16), 16);
}

static void root_mean_squares(const float *x, uint32_t n_x, size_t n, double *sums, uint64_t *n_sums)
{
    for (uint32_t i = 0; i < n_x; i++)
        for (size_t c = 0; c < n; c++) sums[c] += (double)x[i * n + c] * (double)x[i * n + c];
    *n_sums += n_x;
}

/* The calibration rows of an expert into calibration->values; how many of them are used. */
static enum ds4_status load_rows(struct trial *t, enum rows_part part, int32_t layer, uint32_t expert, uint32_t *n)
{
    *n = rows_count(&t->calibration->rows, (uint32_t)layer, expert);
    TRY(rows_read(&t->calibration->rows, part, (uint32_t)layer, expert, t->calibration->values, t->error));
    if (*n > SAMPLE_INPUTS) *n = SAMPLE_INPUTS;
    return DS4_OK;
}

static enum ds4_status load_weights(struct trial *t, const struct quantise_tensor *tensor, uint32_t expert,
                                    uint64_t first, uint64_t *n_rows)
{
    uint64_t left = tensor->dims[1] - first;
    if (*n_rows > left) *n_rows = left;
    struct quantise_piece p = {tensor, expert, first, *n_rows};
    return quantise_read_values(t->source, &p, &t->b, t->error);
}

/* Adds the errors of every alpha for gate and up of one expert. */
static enum ds4_status try_inputs(struct trial *t, int32_t layer, uint32_t expert, const float *rms, uint32_t n_x,
                                  double errors[N_ALPHAS])
{
    static const char *const tails[] = {".ffn_gate_exps.weight", ".ffn_up_exps.weight"};
    for (int k = 0; k < 2; k++) {
        const struct quantise_tensor *tensor = tensor_of(t->source, layer, tails[k]);
        uint64_t n_rows = SAMPLE_ROWS;
        if (!tensor) return DS4_OK;
        TRY(load_weights(t, tensor, expert, 0, &n_rows));
        for (int a = 0; a < N_ALPHAS; a++) {
            powers(rms, (size_t)tensor->dims[0], (float)a / (N_ALPHAS - 1), t->s);
            errors[a] += measure(t, tensor, t->b.values, n_rows, t->calibration->values, n_x, t->s);
        }
    }
    return DS4_OK;
}

static int least(const double errors[N_ALPHAS])
{
    int best = 0;
    for (int a = 1; a < N_ALPHAS; a++)
        if (errors[a] < errors[best] * 0.995) best = a; /* not for nothing */
    return best;
}

static enum ds4_status find_inputs(struct trial *t, int32_t layer, float *rms, double *sums)
{
    struct quantise_scales *s = t->scales;
    uint32_t n_x, step = s->n_experts > SAMPLE_EXPERTS ? s->n_experts / SAMPLE_EXPERTS : 1;
    double errors[N_ALPHAS] = {0};
    uint64_t n_sums = 0;
    memset(sums, 0, s->n_embd * sizeof *sums);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        TRY(load_rows(t, ROWS_IN, layer, e, &n_x));
        root_mean_squares(t->calibration->values, n_x, s->n_embd, sums, &n_sums);
    }
    float *in = s->in + (size_t)layer * s->n_embd;
    for (uint32_t c = 0; c < s->n_embd; c++) {
        rms[c] = n_sums ? (float)sqrt(sums[c] / (double)n_sums) : 1;
        in[c] = 1;
    }
    if (!n_sums) return DS4_OK;
    for (uint32_t e = 0; e < s->n_experts; e += step) {
        TRY(load_rows(t, ROWS_IN, layer, e, &n_x));
        if (n_x) TRY(try_inputs(t, layer, e, rms, n_x, errors));
    }
    int a = least(errors);
    powers(rms, s->n_embd, (float)a / (N_ALPHAS - 1), in);
    s->alpha_in += (double)a / (N_ALPHAS - 1);
    return DS4_OK;
}

/* reach[c] = the largest |up| of channel c on the expert's calibration rows. */
static enum ds4_status find_reach(struct trial *t, const struct quantise_tensor *up, uint32_t expert, uint32_t n_x,
                                  float *reach)
{
    size_t n = (size_t)up->dims[0];
    for (uint64_t first = 0, n_rows = SAMPLE_ROWS; first < up->dims[1]; first += n_rows) {
        TRY(load_weights(t, up, expert, first, &n_rows));
        for (uint64_t r = 0; r < n_rows; r++) {
            reach[first + r] = 0;
            for (uint32_t i = 0; i < n_x; i++) {
                float y = 0;
                for (size_t c = 0; c < n; c++) y += t->b.values[r * n + c] * t->calibration->values[i * n + c];
                reach[first + r] = fmaxf(reach[first + r], fabsf(y));
            }
        }
    }
    return DS4_OK;
}

/* Factors that keep up away from the clamp. */
static void guard(const float *reach, size_t n, float *s)
{
    for (size_t c = 0; c < n; c++) {
        float lowest = reach[c] / UP_MOST;
        s[c] = lowest > 1 ? 1 : fmaxf(s[c], lowest);
    }
}

static enum ds4_status find_mid(struct trial *t, int32_t layer, uint32_t expert, float *rms, double *sums, float *reach)
{
    struct quantise_scales *s = t->scales;
    const struct quantise_tensor *up = tensor_of(t->source, layer, ".ffn_up_exps.weight");
    const struct quantise_tensor *down = tensor_of(t->source, layer, ".ffn_down_exps.weight");
    float *mid = s->mid + ((size_t)layer * s->n_experts + expert) * s->n_ff;
    double errors[N_ALPHAS] = {0};
    uint64_t n_sums = 0, n_rows = SAMPLE_ROWS;
    uint32_t n_x;
    for (uint32_t c = 0; c < s->n_ff; c++) mid[c] = 1;
    if (!up || !down) return DS4_OK;
    TRY(load_rows(t, ROWS_IN, layer, expert, &n_x));
    if (n_x < SAMPLE_ROWS) return DS4_OK;
    TRY(find_reach(t, up, expert, n_x, reach));
    TRY(load_rows(t, ROWS_MID, layer, expert, &n_x));
    memset(sums, 0, s->n_ff * sizeof *sums);
    root_mean_squares(t->calibration->values, n_x, s->n_ff, sums, &n_sums);
    for (uint32_t c = 0; c < s->n_ff; c++) rms[c] = (float)sqrt(sums[c] / (double)n_sums);
    TRY(load_weights(t, down, expert, 0, &n_rows));
    for (int a = 0; a < N_ALPHAS; a++) {
        powers(rms, s->n_ff, (float)a / (N_ALPHAS - 1), t->s);
        guard(reach, s->n_ff, t->s);
        errors[a] = measure(t, down, t->b.values, n_rows, t->calibration->values, n_x, t->s);
    }
    int a = least(errors);
    s->alpha_mid += (double)a / (N_ALPHAS - 1);
    if (a == 0) return DS4_OK;
    powers(rms, s->n_ff, (float)a / (N_ALPHAS - 1), mid);
    guard(reach, s->n_ff, mid);
    return DS4_OK;
}

void quantise_scales_free(struct quantise_scales *s)
{
    mem_free(s->in);
    mem_free(s->mid);
    *s = (struct quantise_scales){0};
}

static enum ds4_status find_all(struct trial *t)
{
    struct quantise_scales *s = t->scales;
    size_t n = s->n_embd > s->n_ff ? s->n_embd : s->n_ff;
    float *rms = mem_alloc(n, sizeof *rms), *reach = mem_alloc(n, sizeof *reach);
    double *sums = mem_alloc(n, sizeof *sums);
    enum ds4_status status = rms && reach && sums ? DS4_OK
                                                  : err_set(t->error, DS4_ERR_NOMEM, "no memory to scale columns");
    for (uint32_t i = 0; i < s->n_layers && status == DS4_OK; i++) {
        status = find_inputs(t, (int32_t)i, rms, sums);
        for (uint32_t e = 0; e < s->n_experts && status == DS4_OK; e++)
            status = find_mid(t, (int32_t)i, e, rms, sums, reach);
    }
    s->alpha_in /= s->n_layers;
    s->alpha_mid /= (double)s->n_layers * s->n_experts;
    mem_free(rms);
    mem_free(reach);
    mem_free(sums);
    return status;
}

enum ds4_status quantise_scales_find(const struct quantise_source *source, struct quantise_calibration *calibration,
                                     struct quantise_scales *out, struct ds4_error *error)
{
    const struct rows_shape *r = &calibration->rows.shape;
    size_t n = r->n_embd > r->n_ff ? r->n_embd : r->n_ff, many = n * SAMPLE_ROWS;
    *out = (struct quantise_scales){.n_layers = r->n_layers, .n_experts = r->n_experts, .n_embd = r->n_embd,
                                    .n_ff = r->n_ff};
    out->in = mem_alloc((size_t)r->n_layers * r->n_embd, sizeof(float));
    out->mid = mem_alloc((size_t)r->n_layers * r->n_experts, r->n_ff * sizeof(float));
    struct trial t = {.source = source, .calibration = calibration, .scales = out, .error = error};
    t.b = (struct quantise_buffers){.raw = mem_alloc(many, 8), .scales = mem_alloc(many, 1),
                                    .values = mem_alloc(many, 4), .n_values = many};
    t.blocks = mem_alloc(n, 8);
    t.s = mem_alloc(n, 4 * sizeof(float));
    enum ds4_status status = DS4_OK;
    if (!out->in || !out->mid || !t.b.raw || !t.b.scales || !t.b.values || !t.blocks || !t.s)
        status = err_set(error, DS4_ERR_NOMEM, "no memory to scale columns");
    if (status == DS4_OK) {
        t.importance = t.s + n;
        t.scaled = t.s + 2 * n;
        t.back = t.s + 3 * n;
        status = find_all(&t);
    }
    mem_free(t.b.raw);
    mem_free(t.b.scales);
    mem_free(t.b.values);
    mem_free(t.blocks);
    mem_free(t.s);
    return status;
}
