/* units.h - the largest value and the mean importance of a block, for the searches of the encoders. */
#ifndef DS4_QUANT_UNITS_H
#define DS4_QUANT_UNITS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "quant/lanes.h"

/* *unit = the largest magnitude of n values (a multiple of N_LANES), *w_unit = the mean importance, 0 when there is
 * none to speak of. False when all values are zero (*unit 0) or one is not finite (*unit NaN). */
LANE_FN bool encode_units(const float *values, const float *importance, size_t n, float *unit, float *w_unit)
{
    lanes most = lanes_of(0);
    lane_mask finite = most == most;
    for (size_t i = 0; i < n; i += N_LANES) {
        lanes v = lanes_load(values + i), size = lanes_max(v, -v);
        finite &= lanes_less(size, lanes_of(INFINITY));
        most = lanes_max(most, size);
    }
    float max = 0;
    int32_t all = -1;
    for (int j = 0; j < N_LANES; j++) {
        max = most[j] > max ? most[j] : max;
        all &= finite[j];
    }
    double sum = 0;
    for (size_t i = 0; i < n && importance; i++) sum += (double)importance[i];
    sum /= (double)n;
    *unit = all ? max : NAN;
    *w_unit = sum >= (double)0x1p-120f && sum <= (double)0x1p120f ? (float)sum : 0;
    return all && max > 0;
}

/* Importance of value i in units of the mean, never below 1e-4: no value is free. 1 when w_unit is 0. */
LANE_FN float encode_weight(const float *importance, size_t i, float w_unit)
{
    if (w_unit <= 0) return 1;
    float w = importance[i] / w_unit;
    return w > 1e-4f ? w : 1e-4f;
}

#endif
