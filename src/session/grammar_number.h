/* grammar_number.h - JSON numbers digit by digit, within bounds.
 *
 * Without bounds: up to 18 digits, 18 behind the point and two in the exponent, so that every reader finds a finite
 * value. With bounds: no exponent and 6 digits behind the point; only beginnings that can still become a number within
 * the bounds are taken. */
#ifndef DS4_SESSION_GRAMMAR_NUMBER_H
#define DS4_SESSION_GRAMMAR_NUMBER_H

#include "session/grammar_nodes.h"

#define NUMBER_INTEGER_DIGITS 18
#define NUMBER_SCALE_DIGITS 6
#define NUMBER_EXPONENT_DIGITS 2

enum number_state {
    NUMBER_START, NUMBER_SIGN, NUMBER_ZERO, NUMBER_INT, NUMBER_DOT, NUMBER_FRACTION, NUMBER_EXP, NUMBER_EXP_SIGN,
    NUMBER_EXP_DIGIT
};
struct number_prefix {
    enum number_state state;
    bool negative;
    int n_digits;      /* of the part at hand */
    uint64_t digits;   /* read so far, the point left out; with bounds only */
};

/* minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf */
enum { BOUND_MIN, BOUND_MAX, BOUND_ABOVE, BOUND_BELOW, BOUND_MULTIPLE, N_BOUNDS };
/* Sets the bounds of a NUMBER node from JSON numbers; empty = no such bound. False: multipleOf is not above 0, or finer
 * than numbers are written. */
bool number_bounds(struct gnode *n, bool integer, const struct ds4_span text[N_BOUNDS]);
/* No number is within the bounds. */
bool number_has_none(const struct gnode *n);

/* Takes the next character; false when no number of the node goes on with it. */
bool number_step(const struct gnode *n, struct number_prefix *x, char c);
bool number_reaches(const struct gnode *n, const struct number_prefix *x);
/* Whether it may end here. */
bool number_is_whole(const struct gnode *n, const struct number_prefix *x);

#endif
