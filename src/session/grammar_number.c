/* grammar_number.c - bounds of numbers, exactly, and which beginnings of a number can still become one within them. */
#include "session/grammar_number.h"

#define LIMIT 999999999999999999 /* 18 digits: whole values of 64 bits */

/* text * 10^scale, rounded towards minus infinity; *exact = nothing was rounded off. Values beyond LIMIT become
 * LIMIT + 1. text is a JSON number. */
static int64_t scaled_floor(struct ds4_span text, int scale, bool *exact)
{
    __int128 value = 0;
    long exponent = scale, written = 0;
    bool negative = text.len && text.ptr[0] == '-', fraction = false, negative_exponent = false;
    size_t at = negative ? 1 : 0;
    *exact = true;
    for (; at < text.len && (text.ptr[at] | 32) != 'e'; at++) {
        if (text.ptr[at] == '.') {
            fraction = true;
            continue;
        }
        bool fits = value < (__int128)1 << 100;
        if (fits) value = value * 10 + (text.ptr[at] - '0');
        else if (text.ptr[at] != '0') *exact = false;
        exponent += (fits ? 0 : 1) - (fraction ? 1 : 0);
    }
    for (at++; at < text.len; at++) {
        if (text.ptr[at] == '-') negative_exponent = true;
        else if (text.ptr[at] != '+' && written < 100000) written = written * 10 + (text.ptr[at] - '0');
    }
    exponent += negative_exponent ? -written : written;
    for (; exponent > 0 && value != 0 && value <= LIMIT; exponent--) value *= 10;
    for (; exponent < 0 && value != 0; exponent++) {
        if (value % 10 != 0) *exact = false;
        value /= 10;
    }
    if (value > LIMIT) value = LIMIT + 1;
    if (negative) value = -value - (*exact ? 0 : 1);
    return (int64_t)value;
}

bool number_bounds(struct gnode *n, bool integer, const struct ds4_span text[N_BOUNDS])
{
    int64_t lo = -LIMIT, hi = LIMIT;
    bool exact, known = true;
    n->integer = integer;
    n->multiple = 0;
    for (int i = 0; i < N_BOUNDS; i++) {
        n->bounded |= text[i].len > 0;
        if (text[i].len == 0) continue;
        int64_t floor = scaled_floor(text[i], integer ? 0 : NUMBER_SCALE_DIGITS, &exact);
        if (i == BOUND_MIN && floor + !exact > lo) lo = floor + !exact;
        if (i == BOUND_ABOVE && floor + 1 > lo) lo = floor + 1;
        if (i == BOUND_MAX && floor < hi) hi = floor;
        if (i == BOUND_BELOW && floor - exact < hi) hi = floor - exact;
        if (i == BOUND_MULTIPLE) n->multiple = floor;
        if (i == BOUND_MULTIPLE) known = exact && floor > 0;
    }
    n->lo = lo;
    n->hi = hi;
    return known;
}

static bool meets(const struct gnode *n, bool negative, __int128 low, __int128 high)
{
    __int128 a = negative ? -high : low, b = negative ? -low : high;
    a = a < n->lo ? n->lo : a;
    b = b > n->hi ? n->hi : b;
    if (!n->multiple || a > b) return a <= b;
    __int128 rest = b % n->multiple; /* the greatest multiple up to b */
    return b - rest - (rest < 0 ? n->multiple : 0) >= a;
}

bool number_has_none(const struct gnode *n)
{
    return n->bounded && !meets(n, false, 0, LIMIT) && !meets(n, true, n->integer ? 1 : 0, LIMIT);
}

static __int128 power(int digits)
{
    __int128 p = 1;
    while (digits-- > 0) p *= 10;
    return p;
}

bool number_reaches(const struct gnode *n, const struct number_prefix *x)
{
    __int128 unit = n->integer ? 1 : power(NUMBER_SCALE_DIGITS), value = (__int128)x->digits;
    int most = n->integer ? NUMBER_INTEGER_DIGITS : NUMBER_INTEGER_DIGITS - NUMBER_SCALE_DIGITS;
    if (!n->bounded) return true;
    switch (x->state) {
    case NUMBER_SIGN:
        return meets(n, true, n->integer ? 1 : 0, LIMIT);
    case NUMBER_ZERO:
    case NUMBER_DOT:
        return meets(n, x->negative, value * unit, value * unit + unit - 1);
    case NUMBER_INT:
        for (int k = 0; x->n_digits + k <= most; k++)
            if (meets(n, x->negative, value * power(k) * unit, (value + 1) * power(k) * unit - 1)) return true;
        return false;
    case NUMBER_FRACTION:
        unit = power(NUMBER_SCALE_DIGITS - x->n_digits);
        return meets(n, x->negative, value * unit, value * unit + unit - 1);
    default:
        return false;
    }
}

bool number_is_whole(const struct gnode *n, const struct number_prefix *x)
{
    __int128 unit = n->integer ? 1 : power(NUMBER_SCALE_DIGITS), value = (__int128)x->digits;
    switch (x->state) {
    case NUMBER_ZERO:
    case NUMBER_INT:
        return !n->bounded || meets(n, x->negative, value * unit, value * unit);
    case NUMBER_FRACTION:
        if (!n->bounded) return true;
        unit = power(NUMBER_SCALE_DIGITS - x->n_digits);
        return meets(n, x->negative, value * unit, value * unit);
    case NUMBER_EXP_DIGIT:
        return true;
    default:
        return false;
    }
}

static bool add_digit(const struct gnode *n, struct number_prefix *x, unsigned digit, int most)
{
    if (x->n_digits >= most) return false;
    if (n->bounded) x->digits = x->digits * 10 + digit;
    x->n_digits++;
    return true;
}

/* The state that follows, without regard to bounds. */
static bool advance(const struct gnode *n, struct number_prefix *x, char c)
{
    bool digit = c >= '0' && c <= '9';
    int most = n->integer || !n->bounded ? NUMBER_INTEGER_DIGITS : NUMBER_INTEGER_DIGITS - NUMBER_SCALE_DIGITS;
    switch (x->state) {
    case NUMBER_START:
        if (c == '-') {
            x->negative = true;
            x->state = NUMBER_SIGN;
            return true;
        } /* fall through */
    case NUMBER_SIGN:
        if (!digit || (c == '0' && x->negative && n->integer)) return false;
        x->state = c == '0' ? NUMBER_ZERO : NUMBER_INT;
        return add_digit(n, x, (unsigned)(c - '0'), most);
    case NUMBER_INT:
        if (digit) return add_digit(n, x, (unsigned)(c - '0'), most); /* fall through */
    case NUMBER_ZERO:
        if (n->integer) return false;
        x->n_digits = 0;
        if (c == '.') x->state = NUMBER_DOT;
        else if ((c | 32) == 'e' && !n->bounded) x->state = NUMBER_EXP;
        else return false;
        return true;
    case NUMBER_DOT:
    case NUMBER_FRACTION:
        if (digit) {
            x->state = NUMBER_FRACTION;
            return add_digit(n, x, (unsigned)(c - '0'), n->bounded ? NUMBER_SCALE_DIGITS : NUMBER_INTEGER_DIGITS);
        }
        if (x->state == NUMBER_DOT || (c | 32) != 'e' || n->bounded) return false;
        x->n_digits = 0;
        x->state = NUMBER_EXP;
        return true;
    case NUMBER_EXP:
        if (c == '+' || c == '-') {
            x->state = NUMBER_EXP_SIGN;
            return true;
        } /* fall through */
    case NUMBER_EXP_SIGN:
    case NUMBER_EXP_DIGIT:
        if (!digit) return false;
        x->state = NUMBER_EXP_DIGIT;
        return add_digit(n, x, (unsigned)(c - '0'), NUMBER_EXPONENT_DIGITS);
    default:
        return false;
    }
}

bool number_step(const struct gnode *n, struct number_prefix *x, char c)
{
    return advance(n, x, c) && number_reaches(n, x);
}
