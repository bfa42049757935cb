/* test_base_numbers.c - small float formats against plain double arithmetic: every code is decoded, and every place
 * where the rounding changes (each code's value, each middle between neighbours, and the floats beside them) is
 * encoded. Also the seeded generators, against published outputs. */
#include "lib/test.h"

#include <math.h>

#include "base/f16.h"
#include "base/rng.h"

/* A format: bits of mantissa, smallest exponent, largest value. */
struct format {
    int mantissa_bits, exponent_min;
    double max;
    bool clamps; /* else what rounds past max becomes infinite */
};
static const struct format f16_format = {10, -14, 65504, false}, bf16_format = {7, -126, 0x1.FEp127, false};
static const struct format e4m3_format = {3, -6, 448, true}, e2m1_format = {1, 0, 6, true};

/* x rounded to the format, ties to even: exact in double. */
static double nearest(const struct format *f, double x)
{
    double a = fabs(x);
    if (a == 0 || isinf(a)) return isinf(a) && f->clamps ? copysign(f->max, x) : x;
    int exponent = ilogb(a) < f->exponent_min ? f->exponent_min : ilogb(a);
    double step = ldexp(1, exponent - f->mantissa_bits), rounded = nearbyint(a / step) * step;
    if (rounded > f->max) rounded = f->clamps ? f->max : INFINITY;
    return copysign(rounded, x);
}

/* The value of a code with the given widths; the highest exponent is ordinary here. */
static double value_of(uint32_t code, int mantissa_bits, int exponent_bits)
{
    uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    int exponent = (int)(code >> mantissa_bits & ((1u << exponent_bits) - 1)), bias = (1 << (exponent_bits - 1)) - 1;
    double value = exponent ? ldexp(1 + ldexp(mantissa, -mantissa_bits), exponent - bias)
                            : ldexp(mantissa, 1 - bias - mantissa_bits);
    return code >> (mantissa_bits + exponent_bits) & 1 ? -value : value;
}

static double f16_round(float x) { return (double)f16_to_f32(f16_from_f32(x)); }
static double bf16_round(float x) { return (double)bf16_to_f32(bf16_from_f32(x)); }
static double e4m3_round(float x) { return (double)e4m3_to_f32(e4m3_from_f32(x)); }
static double e2m1_round(float x) { return (double)e2m1_to_f32(e2m1_from_f32(x)); }

static void check_near(const struct format *f, double (*round)(float), float x)
{
    const float xs[] = {nextafterf(x, -INFINITY), x, nextafterf(x, INFINITY)};
    for (int i = 0; i < 3; i++) {
        double wanted = nearest(f, (double)xs[i]), got = round(xs[i]);
        if (wanted != got) fail_msg("%a became %a instead of %a", (double)xs[i], got, wanted);
    }
}

/* Around every value of the format and every middle of two neighbours, both signs. */
static void check_all(const struct format *f, double (*round)(float), const double *values, int n)
{
    for (int i = 0; i + 1 < n; i++) {
        double middle = (values[i] + values[i + 1]) / 2;
        assert_true((double)(float)middle == middle);
        check_near(f, round, (float)values[i]);
        check_near(f, round, (float)middle);
        check_near(f, round, (float)-values[i]);
        check_near(f, round, (float)-middle);
    }
    check_near(f, round, (float)values[n - 1]);
    check_near(f, round, (float)-values[n - 1]);
}

static void check_random(const struct format *f, double (*round)(float))
{
    struct rng r = {test_seed()};
    for (int i = 0; i < 2000000; i++) {
        float x = f32_from_bits((uint32_t)rng_next(&r));
        if (isnan(x)) continue;
        double wanted = nearest(f, (double)x), got = round(x);
        if (wanted != got) fail_msg("%a became %a instead of %a", (double)x, got, wanted);
    }
}

TEST(f16_decodes_every_code_exactly)
{
    for (uint32_t code = 0; code < 65536; code++) {
        float got = f16_to_f32((uint16_t)code);
        if ((code & 0x7C00) == 0x7C00) {
            assert_true(code & 0x3FF ? isnan(got) : isinf(got) && (got < 0) == (code >> 15));
        } else {
            assert_true((double)got == value_of(code, 10, 5));
            assert_int_equal(signbit(got) != 0, code >> 15);
        }
    }
}

TEST(f16_encodes_to_the_nearest_with_ties_to_even)
{
    static double values[0x7C00];
    for (uint32_t code = 0; code < 0x7C00; code++) values[code] = value_of(code, 10, 5);
    check_all(&f16_format, f16_round, values, 0x7C00);
    check_near(&f16_format, f16_round, 65520); /* where infinity begins */
    check_random(&f16_format, f16_round);
    for (uint32_t code = 0; code < 65536; code++) {
        if ((code & 0x7FFF) > 0x7C00) assert_true(isnan(f16_to_f32(f16_from_f32(f16_to_f32((uint16_t)code)))));
        else assert_int_equal(f16_from_f32(f16_to_f32((uint16_t)code)), code);
    }
}

TEST(bf16_decodes_and_encodes_every_code)
{
    static double values[0x7F80];
    for (uint32_t code = 0; code < 65536; code++) {
        float got = bf16_to_f32((uint16_t)code);
        if ((code & 0x7FFF) > 0x7F80) {
            assert_true(isnan(got));
            assert_true(isnan(bf16_to_f32(bf16_from_f32(got))));
            continue;
        }
        if ((code & 0x7FFF) < 0x7F80) assert_true((double)got == value_of(code, 7, 8));
        assert_int_equal(bf16_from_f32(got), code);
        if (code < 0x7F80) values[code] = value_of(code, 7, 8);
    }
    check_all(&bf16_format, bf16_round, values, 0x7F80);
    check_random(&bf16_format, bf16_round);
}

TEST(e4m3_decodes_and_encodes_every_code)
{
    double values[0x7F];
    for (uint32_t code = 0; code < 256; code++) {
        float got = e4m3_to_f32((uint8_t)code);
        if ((code & 0x7F) == 0x7F) {
            assert_true(isnan(got));
            continue;
        }
        assert_true((double)got == value_of(code, 3, 4));
        assert_int_equal(e4m3_from_f32(got), code);
        if (code < 0x7F) values[code] = value_of(code, 3, 4);
    }
    check_all(&e4m3_format, e4m3_round, values, 0x7F);
    check_random(&e4m3_format, e4m3_round);
}

TEST(e2m1_decodes_and_encodes_every_code)
{
    double values[8];
    for (uint32_t code = 0; code < 16; code++) {
        assert_true((double)e2m1_to_f32((uint8_t)code) == value_of(code, 1, 2));
        if (code < 8) values[code] = value_of(code, 1, 2);
        if (code != 8) assert_int_equal(e2m1_from_f32(e2m1_to_f32((uint8_t)code)), code);
    }
    assert_int_equal(e2m1_from_f32(-0.0f), 0);
    assert_int_equal(e2m1_from_f32(-0.25f), 0);
    assert_int_equal(signbit(e2m1_to_f32(8)), 0);
    check_all(&e2m1_format, e2m1_round, values, 8);
    check_random(&e2m1_format, e2m1_round);
}

TEST(e8m0_is_the_power_of_two_of_every_exponent)
{
    for (int e = 0; e < 255; e++) assert_true((double)e8m0_to_f32((uint8_t)e) == ldexp(1, e - 127));
}

TEST(power_of_two_scale_is_the_smallest_not_below)
{
    struct rng r = {test_seed()};
    for (int i = 0; i < 2000000; i++) {
        float p = f32_from_bits((uint32_t)rng_next(&r) & 0x7FFFFFFF);
        if (!isnormal(p) || p > 0x1p126f) continue;
        double scale = (double)e8m0_to_f32(pow2_ceil_e8m0(p));
        assert_true(scale >= (double)p && scale / 2 < (double)p);
    }
    for (int e = -126; e <= 126; e++) assert_int_equal(pow2_ceil_e8m0(ldexpf(1, e)), e + 127);
}

/* First outputs of splitmix64 from seed 1234567, and FNV-1a of three strings, as published with the algorithms. */
TEST(generators_give_their_published_outputs)
{
    static const uint64_t outputs[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                       4593380528125082431u, 16408922859458223821u};
    struct rng r = {1234567};
    for (size_t i = 0; i < 5; i++) assert_true(rng_next(&r) == outputs[i]);
    assert_true(fnv1a("") == 0xCBF29CE484222325u);
    assert_true(fnv1a("a") == 0xAF63DC4C8601EC8Cu);
    assert_true(fnv1a("foobar") == 0x85944171F73967E8u);
}

TEST(generators_stay_within_their_bounds)
{
    struct rng r = {test_seed()};
    for (int i = 0; i < 100000; i++) {
        float f = rng_float(&r);
        double d = rng_double(&r);
        assert_true(f >= 0 && f < 1 && d >= 0 && d < 1);
        assert_true(rng_below(&r, 7) < 7);
    }
    assert_true(rng_below(&r, 0) == 0);
}

int main(void)
{
    return RUN_TESTS(T(f16_decodes_every_code_exactly), T(f16_encodes_to_the_nearest_with_ties_to_even),
                     T(bf16_decodes_and_encodes_every_code), T(e4m3_decodes_and_encodes_every_code),
                     T(e2m1_decodes_and_encodes_every_code), T(e8m0_is_the_power_of_two_of_every_exponent),
                     T(power_of_two_scale_is_the_smallest_not_below), T(generators_give_their_published_outputs),
                     T(generators_stay_within_their_bounds));
}
