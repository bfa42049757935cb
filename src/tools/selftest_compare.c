/* selftest_compare.c - whether the outputs of two runs of a case agree, and if not, where. See selftest_run.h.
 *
 * What a backend gave is not trusted: ids and counts index nothing before they were looked at. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/selftest_run.h"

#define ROW_SLACK 1.5 /* the tolerance is for the root mean square over rows; of many rows the worst is further off */
#define STEP 1e-4     /* of a value: further off is another step of a rounded value */

/* Where the sentence goes. */
struct place {
    char *text;
    size_t size;
};

static bool differ(const struct place *place, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool differ(const struct place *place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(place->text, place->size, format, args);
    va_end(args);
    return false;
}

/* Errors of the rows of an output, seen one after the other. */
struct errors {
    double largest, squares; /* relative to the norms of rows */
    size_t n_steps;
};

static bool compare_row(const struct op_output *got, const struct op_output *want, size_t r, struct errors *errors,
                        const struct place *place)
{
    const float *a = (const float *)got->data + r * got->row_n, *b = (const float *)want->data + r * got->row_n;
    double difference = 0, square = 0, floor = want->floors ? want->floors[r] * want->floors[r] : 0, furthest = -1;
    size_t at = 0;
    for (size_t i = 0; i < got->row_n; i++) {
        double d = (double)a[i] - (double)b[i];
        if (!isfinite(a[i]) || !isfinite(b[i]))
            return differ(place, "%s[%zu][%zu] = %g, wanted %g", got->name, r, i, (double)a[i], (double)b[i]);
        difference += d * d;
        square += (double)b[i] * (double)b[i];
        errors->n_steps += fabs(d) > STEP * fabs((double)b[i]);
        if (fabs(d) > furthest) furthest = fabs(d), at = i;
    }
    double norm = fmax(floor, square), error = difference == 0 ? 0 : sqrt(difference / norm);
    if (!(error <= ROW_SLACK * want->tolerance))
        return differ(place, "%s[%zu][%zu] = %.9g, wanted %.9g; the row is off by %.2e of its norm %.3g, tolerance "
                      "%.1e", got->name, r, at, (double)a[at], (double)b[at], error, sqrt(norm), want->tolerance);
    errors->largest = fmax(errors->largest, error);
    errors->squares += error * error;
    return true;
}

static bool compare_floats(const struct op_output *got, const struct op_output *want, struct op_distance *distance,
                           const struct place *place)
{
    struct errors errors = {0};
    size_t n_all = got->n_rows * got->row_n;
    for (size_t r = 0; r < got->n_rows; r++)
        if (!compare_row(got, want, r, &errors, place)) return false;
    double rms = sqrt(errors.squares / (double)got->n_rows);
    if (!(rms <= want->tolerance))
        return differ(place, "rows of %s are off by %.2e of their norms, tolerance %.1e", got->name, rms,
                      want->tolerance);
    if (want->kind == OUTPUT_ROUNDED && errors.n_steps > n_all / 50 + 1)
        return differ(place, "%s has %zu of %zu values a step away", got->name, errors.n_steps, n_all);
    double fraction = rms > 0 ? fmax(rms, errors.largest / ROW_SLACK) / want->tolerance : 0;
    distance->fraction = fmax(distance->fraction, fraction);
    distance->error = fmax(distance->error, errors.largest);
    return true;
}

/* The ids of a row are distinct candidates, in the order promised. */
static bool check_order(const struct op_output *o, size_t r, double slack, const struct place *place)
{
    const int32_t *ids = (const int32_t *)o->data + r * o->row_n;
    const double *scores = o->scores + r * o->n_scores;
    for (int32_t i = 0; i < o->counts[r]; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= o->n_items[r])
            return differ(place, "%s[%zu][%d] = %d of %u candidates", o->name, r, i, ids[i], o->n_items[r]);
        for (int32_t j = 0; j < i; j++)
            if (ids[i] == ids[j]) return differ(place, "%s[%zu][%d] = %d, as [%d]", o->name, r, i, ids[i], j);
        if (i > 0 && o->ascending && ids[i] <= ids[i - 1])
            return differ(place, "%s[%zu][%d] = %d after %d", o->name, r, i, ids[i], ids[i - 1]);
        if (i > 0 && !o->ascending && scores[ids[i]] > scores[ids[i - 1]] + slack)
            return differ(place, "%s[%zu][%d] = %d is better than %d before it", o->name, r, i, ids[i], ids[i - 1]);
        if (i > 0 && !o->ascending && scores[ids[i]] == scores[ids[i - 1]] && ids[i] < ids[i - 1])
            return differ(place, "%s[%zu][%d] = %d is as good as %d before it", o->name, r, i, ids[i], ids[i - 1]);
    }
    return true;
}

/* And none that was left out has a better score (by more than the tolerance, relative to the largest magnitude); of
 * equal scores the lower ids were taken. */
static bool check_top_row(const struct op_output *o, size_t r, const struct place *place)
{
    const int32_t *ids = (const int32_t *)o->data + r * o->row_n;
    const double *scores = o->scores + r * o->n_scores;
    int32_t n = o->ascending && o->n_items[r] <= o->row_n ? -1 : (int32_t)o->row_n; /* -1: there is nothing to choose */
    double largest = 0;
    if (o->counts[r] != n) return differ(place, "%s[%zu] has %d ids, wanted %d", o->name, r, o->counts[r], n);
    for (size_t i = 0; i < o->n_items[r]; i++) largest = fmax(largest, fabs(scores[i]));
    double slack = o->tolerance * largest;
    if (!check_order(o, r, slack, place)) return false;
    for (uint32_t c = 0; c < o->n_items[r]; c++) {
        bool chosen = false;
        for (int32_t i = 0; i < n; i++) chosen |= ids[i] == (int32_t)c;
        for (int32_t i = 0; !chosen && i < n; i++)
            if (scores[c] > scores[ids[i]] + slack || (scores[c] == scores[ids[i]] && (int32_t)c < ids[i]))
                return differ(place, "%s[%zu][%d] = %d (score %.9g), wanted %u (%.9g)", o->name, r, i, ids[i],
                              scores[ids[i]], c, scores[c]);
    }
    return true;
}

static bool compare_bytes(const struct op_output *got, const struct op_output *want, size_t size,
                          const struct place *place)
{
    const uint8_t *a = got->data, *b = want->data;
    size_t n = got->n_rows * got->row_n * size, k = 0;
    if (n == 0 || memcmp(a, b, n) == 0) return true;
    while (a[k] == b[k]) k++;
    if (size == 1) return differ(place, "%s byte %zu is %02x, wanted %02x", got->name, k, a[k], b[k]);
    k /= size;
    return differ(place, "%s[%zu][%zu] = %.9g, wanted the bits of %.9g", got->name, k / got->row_n, k % got->row_n,
                  (double)((const float *)got->data)[k], (double)((const float *)want->data)[k]);
}

bool op_agree(const struct op_run *run, const struct op_run *ref, struct op_distance *distance, char *text,
              size_t size)
{
    struct place place = {text, size};
    bool good = run->n_outputs == ref->n_outputs;
    for (size_t i = 0; good && i < run->n_outputs; i++) {
        const struct op_output *got = &run->outputs[i], *want = &ref->outputs[i];
        if (got->kind == OUTPUT_BYTES) good = compare_bytes(got, want, 1, &place);
        else if (got->kind != OUTPUT_TOP) good = compare_floats(got, want, distance, &place);
        for (size_t r = 0; good && got->kind == OUTPUT_TOP && r < got->n_rows; r++)
            good = check_top_row(got, r, &place);
    }
    return good;
}

bool op_same_bits(const struct op_run *run, const struct op_run *ref, char *text, size_t size)
{
    struct place place = {text, size};
    bool good = run->n_outputs == ref->n_outputs;
    for (size_t i = 0; good && i < run->n_outputs; i++)
        good = compare_bytes(&run->outputs[i], &ref->outputs[i], run->outputs[i].kind == OUTPUT_BYTES ? 1 : 4, &place);
    return good;
}
