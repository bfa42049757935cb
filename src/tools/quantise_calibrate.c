/* quantise_calibrate.c - calibration rows (ds4 imatrix --rows) behind `ds4 quantize --gptq`: for each matrix of an
 * expert the factors of src/quant/feedback.h, one matrix at a time in memory. */
#include <stdio.h>

#include "base/mem.h"
#include "tools/quantise.h"

#define ROWS_MIN_SHARE 8u /* of the columns: with fewer rows their products are chance */
#define DAMP 0.02f

void quantise_calibration_close(struct quantise_calibration *c)
{
    feedback_destroy(&c->feedback);
    mem_free(c->values);
    rows_close(&c->rows);
}

enum ds4_status quantise_calibration_open(const char *path, struct quantise_calibration *out, struct ds4_error *error)
{
    *out = (struct quantise_calibration){.rows = {.fd = -1}};
    TRY(rows_open(path, &out->rows, error));
    const struct rows_shape *s = &out->rows.shape;
    uint32_t n = s->n_embd > s->n_ff ? s->n_embd : s->n_ff, count = 0;
    for (uint32_t i = 0; i < s->n_layers; i++)
        for (uint32_t e = 0; e < s->n_experts; e++)
            if (rows_count(&out->rows, i, e) > count) count = rows_count(&out->rows, i, e);
    out->values = mem_alloc(count, (size_t)n * sizeof(float));
    return out->values ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory for %u calibration rows", count);
}

static bool is_calibrated(const struct quantise_tensor *t)
{
    return (t->family == QUANTISE_EXPERTS || t->family == QUANTISE_DOWN) && t->layer >= 0 && !t->draft;
}

enum ds4_status quantise_calibration_check(const struct quantise_calibration *c, const struct quantise_source *source,
                                           struct ds4_error *error)
{
    const struct rows_shape *s = &c->rows.shape;
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        uint32_t n = t->family == QUANTISE_DOWN ? s->n_ff : s->n_embd;
        if (is_calibrated(t) &&
            (t->dims[0] != n || t->dims[2] != s->n_experts || (uint32_t)t->layer >= s->n_layers))
            return err_set(error, DS4_ERR_FORMAT, "%s: rows of another model than tensor \"%s\"", c->rows.path,
                           t->name);
    }
    return DS4_OK;
}

enum ds4_status quantise_feedback(struct quantise_calibration *c, const struct quantise_source *source,
                                  const struct quantise_tensor *t, uint32_t matrix_i, struct thread_pool *pool,
                                  const struct feedback **out, struct ds4_error *error)
{
    const float *scales = quantise_scale_columns(source->scales, t, matrix_i);
    *out = NULL;
    if (!is_calibrated(t) || !feedback_supports(t->to) || t->dims[0] % FEEDBACK_BLOCK != 0) return DS4_OK;
    if (t->kind == QUANTISE_BLOCKS && t->from == t->to) return DS4_OK; /* copied */
    uint32_t n_rows = rows_count(&c->rows, (uint32_t)t->layer, matrix_i);
    c->n_matrices++;
    if (n_rows < t->dims[0] / ROWS_MIN_SHARE) {
        c->n_few++;
        return DS4_OK;
    }
    if (c->feedback.n != t->dims[0]) {
        feedback_destroy(&c->feedback);
        TRY(feedback_create((size_t)t->dims[0], &c->feedback, error));
    }
    TRY(rows_read(&c->rows, t->family == QUANTISE_DOWN ? ROWS_MID : ROWS_IN, (uint32_t)t->layer, matrix_i, c->values,
                  error));
    for (size_t i = 0; scales && i < n_rows * (size_t)t->dims[0]; i++) c->values[i] /= scales[i % t->dims[0]];
    if (feedback_prepare(&c->feedback, c->values, n_rows, DAMP, pool)) *out = &c->feedback;
    else c->n_few++;
    return DS4_OK;
}

void quantise_calibration_report(const struct quantise_calibration *c)
{
    if (c->n_few)
        (void)fprintf(stderr, "warning: %u of %u matrices had too few calibration rows: quantised without\n",
                      c->n_few, c->n_matrices);
}
