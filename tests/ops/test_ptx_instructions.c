/* test_ptx_instructions.c - the interpreter of PTX (tests/gpu/ptx), instruction by instruction, against definitions
 * written another way: loops over bits and bytes, wide integers, the C library's rounding modes, plain products of
 * matrices by the layouts that NVIDIA's manual draws. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "gpu/ptx/snippet.h"

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint32_t in[32][SNIPPET_IN], out[32][SNIPPET_OUT];

/* Corner values often, else any bits, or few of them. */
static uint32_t drawn(struct rng *rng)
{
    static const uint32_t corners[] = {0, 1, 2, 31, 32, 33, 127, 128, 255, 256, 0x7fffffff, 0x80000000, 0xffffffff,
                                       0xfffffffe, 0x8000, 0x7fff, 0xff80, 0x00ff00ff};
    uint64_t bits = rng_next(rng);
    if (bits % 3 == 0) return corners[(bits >> 8) % (sizeof corners / sizeof *corners)];
    return (uint32_t)(bits >> 32) >> (bits % 3 == 1 ? (bits >> 8) % 32 : 0);
}

typedef uint64_t (*integer_fn)(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
struct integer_case {
    const char *lines; /* result in %r11, and %r12 when it has 64 bits */
    integer_fn fn;     /* of %r1, %r2, %r3, %r4, or of %rd1, %rd2 and %r5, %r6 */
    bool wide;         /* 64-bit operands */
};

#define INTEGER(name, value) \
    static uint64_t name(uint64_t a, uint64_t b, uint64_t c, uint64_t d) \
    { \
        (void)a, (void)b, (void)c, (void)d; \
        return (uint64_t)(value); \
    }
__extension__ typedef unsigned __int128 u128;
#define S32(x) ((int64_t)(int32_t)(uint32_t)(x))
#define LOW(x) ((uint64_t)(x) & 0xffffffffu)

INTEGER(add, LOW(a + b))
INTEGER(sub, LOW(a - b))
INTEGER(mul, LOW(a * b))
INTEGER(mul_high, a * b >> 32)
INTEGER(mul_wide_u, a * b)
INTEGER(mul_wide_s, S32(a) * S32(b))
INTEGER(mad, LOW(a * b + c))
INTEGER(divide, b ? a / b : 0xffffffffu)
INTEGER(rest, b ? a - a / b * b : a)
INTEGER(negative, LOW(0 - a))
INTEGER(least_u, a < b ? a : b)
INTEGER(most_s, LOW(S32(a) > S32(b) ? a : b))
INTEGER(least_s, LOW(S32(a) > S32(b) ? b : a))
INTEGER(bit_and, a & b)
INTEGER(bit_or, a | b)
INTEGER(bit_xor, a ^ b)
INTEGER(bit_not, LOW(~a))
INTEGER(add_64, a + b)
INTEGER(sub_64, a - b)
INTEGER(mul_64, a * b)
INTEGER(mul_high_64, (u128)a * b >> 64)
INTEGER(most_64, a > b ? a : b)
INTEGER(widened_s, S32(a))
INTEGER(byte_s, LOW((a & 0x80) ? (a & 0xff) - 256 : a & 0xff))
INTEGER(half_u, a & 0xffff)
INTEGER(half_plus, (a + b) & 0xffff)
INTEGER(chosen, S32(a) < S32(b) ? c : d)
INTEGER(packed, (a & 0xffff) | (b & 0xffff) << 16)
INTEGER(high_half, a >> 16 & 0xffff)
INTEGER(differ, a != b)

static uint64_t shift_left(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < b && a; i++) a = LOW(a * 2);
    return a;
}
static uint64_t shift_right(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < b && a; i++) a /= 2;
    return a;
}
static uint64_t shift_right_s(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < b && i < 40; i++) a = a / 2 | (a & 0x80000000u);
    return a;
}
/* 64-bit shifts by %r3 = the low half of the second operand. */
static uint64_t shift_left_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < LOW(b) && a; i++) a += a;
    return a;
}
static uint64_t shift_right_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < LOW(b) && a; i++) a /= 2;
    return a;
}
static uint64_t shift_right_s_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    for (uint64_t i = 0; i < LOW(b) && i < 70; i++) a = a / 2 | (a & 1ull << 63);
    return a;
}
/* Bit by bit, as the manual has it: field d bits at c of a put into b, or cut out of a. */
static uint64_t insert(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    for (uint64_t i = 0; i < (d & 255) && (c & 255) + i < 32; i++) {
        uint64_t bit = 1ull << ((c & 255) + i);
        b = a >> i & 1 ? b | bit : b & ~bit;
    }
    return b;
}
static uint64_t insert_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    for (uint64_t i = 0; i < (d & 255) && (c & 255) + i < 64; i++) {
        uint64_t bit = 1ull << ((c & 255) + i);
        b = i < 64 && a >> i & 1 ? b | bit : b & ~bit;
    }
    return b;
}
static uint64_t extract(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t field = 0;
    (void)d;
    for (uint64_t i = 0; i < (c & 255) && i < 32 && (b & 255) + i < 32; i++) field |= (a >> ((b & 255) + i) & 1) << i;
    return field;
}
static uint64_t extract_s(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t at = b & 255, n = c & 255, field = 0, last = at + n - 1 < 31 ? at + n - 1 : 31;
    (void)d;
    for (uint64_t i = 0; n > 0 && i < 32; i++) field |= (a >> (i < n && at + i < 32 ? at + i : last) & 1) << i;
    return field;
}
static uint64_t permute(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint8_t bytes[8], picked[4];
    uint32_t both[2] = {(uint32_t)a, (uint32_t)b}, result;
    (void)d;
    memcpy(bytes, both, 8);
    for (int i = 0; i < 4; i++) {
        uint8_t byte = bytes[c >> (4 * i) & 7];
        picked[i] = c >> (4 * i) & 8 ? (byte > 127 ? 255 : 0) : byte;
    }
    memcpy(&result, picked, 4);
    return result;
}
static uint64_t dot4(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    int8_t x[4], y[4];
    uint32_t wa = (uint32_t)a, wb = (uint32_t)b;
    int64_t sum = S32(c);
    (void)d;
    memcpy(x, &wa, 4);
    memcpy(y, &wb, 4);
    for (int i = 0; i < 4; i++) sum += x[i] * y[i];
    return LOW(sum);
}
static uint64_t bits_set(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t n = 0;
    (void)b, (void)c, (void)d;
    for (; a; a /= 2) n += a & 1;
    return n;
}
static uint64_t leading_zeros(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t n = 32;
    (void)b, (void)c, (void)d;
    for (; a; a /= 2) n--;
    return n;
}
static uint64_t funnel_left(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)d;
    for (uint64_t i = 0; i < (c & 31); i++) b = LOW(b * 2 + (a >> 31)), a = LOW(a * 2);
    return b;
}
static uint64_t funnel_right_clamped(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)d;
    for (uint64_t i = 0; i < c && i < 32; i++) a = a / 2 | b << 31, a = LOW(a), b /= 2;
    return a;
}

/* Two halves of two signed bytes, and of two integers of 12 bits. */
static uint64_t half_of_integer(int64_t i)
{
    uint64_t sign = i < 0 ? 0x8000 : 0, n = (uint64_t)(i < 0 ? -i : i), exponent = 25;
    if (n == 0) return 0;
    for (; n < 1024; n *= 2) exponent--;
    return sign | exponent << 10 | (n & 1023);
}
static uint64_t bytes_in_halves(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)b, (void)c, (void)d;
    return half_of_integer((int8_t)a) | half_of_integer((int8_t)(a >> 8)) << 16;
}
static uint64_t integers_in_halves(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)c, (void)d;
    return half_of_integer((int64_t)(a & 2047) - 1024) | half_of_integer((int64_t)(b & 1023)) << 16;
}

#define OUT_64 "\nmov.b64 {%r11, %r12}, %rd3;"
static const struct integer_case integer_cases[] = {
    {"add.s32 %r11, %r1, %r2;", add, false},
    {"sub.s32 %r11, %r1, %r2;", sub, false},
    {"mul.lo.s32 %r11, %r1, %r2;", mul, false},
    {"mul.hi.u32 %r11, %r1, %r2;", mul_high, false},
    {"mul.wide.u32 %rd3, %r1, %r2;" OUT_64, mul_wide_u, false},
    {"mul.wide.s32 %rd3, %r1, %r2;" OUT_64, mul_wide_s, false},
    {"mad.lo.s32 %r11, %r1, %r2, %r3;", mad, false},
    {"div.u32 %r11, %r1, %r2;", divide, false},
    {"rem.u32 %r11, %r1, %r2;", rest, false},
    {"neg.s32 %r11, %r1;", negative, false},
    {"min.u32 %r11, %r1, %r2;", least_u, false},
    {"max.s32 %r11, %r1, %r2;", most_s, false},
    {"min.s32 %r11, %r1, %r2;", least_s, false},
    {"and.b32 %r11, %r1, %r2;", bit_and, false},
    {"or.b32 %r11, %r1, %r2;", bit_or, false},
    {"xor.b32 %r11, %r1, %r2;", bit_xor, false},
    {"not.b32 %r11, %r1;", bit_not, false},
    {"shl.b32 %r11, %r1, %r2;", shift_left, false},
    {"shr.u32 %r11, %r1, %r2;", shift_right, false},
    {"shr.s32 %r11, %r1, %r2;", shift_right_s, false},
    {"bfi.b32 %r11, %r1, %r2, %r3, %r4;", insert, false},
    {"bfe.u32 %r11, %r1, %r2, %r3;", extract, false},
    {"bfe.s32 %r11, %r1, %r2, %r3;", extract_s, false},
    {"prmt.b32 %r11, %r1, %r2, %r3;", permute, false},
    {"dp4a.s32.s32 %r11, %r1, %r2, %r3;", dot4, false},
    {"xor.b32 %r20, %r1, -2139062144;\nmov.u32 %r21, 1684300900;\nprmt.b32 %r11, %r20, %r21, 16704;\n"
     "mov.u32 %r21, 1686135936;\nsub.f16x2 %r11, %r11, %r21;", bytes_in_halves, false},
    {"and.b32 %r20, %r1, 2047;\nsub.s32 %r20, %r20, 1024;\nand.b32 %r21, %r2, 1023;\ncvt.rn.f32.s32 %f1, %r20;\n"
     "cvt.rn.f32.s32 %f2, %r21;\ncvt.rn.f16x2.f32 %r11, %f2, %f1;", integers_in_halves, false},
    {"popc.b32 %r11, %r1;", bits_set, false},
    {"clz.b32 %r11, %r1;", leading_zeros, false},
    {"shf.l.wrap.b32 %r11, %r1, %r2, %r3;", funnel_left, false},
    {"shf.r.clamp.b32 %r11, %r1, %r2, %r3;", funnel_right_clamped, false},
    {"cvt.s64.s32 %rd3, %r1;" OUT_64, widened_s, false},
    {"cvt.s32.s8 %r11, %r1;", byte_s, false},
    {"cvt.u16.u32 %rs1, %r1;\ncvt.u32.u16 %r11, %rs1;", half_u, false},
    {"cvt.u16.u32 %rs1, %r1;\ncvt.u16.u32 %rs2, %r2;\nadd.s16 %rs3, %rs1, %rs2;\ncvt.u32.u16 %r11, %rs3;", half_plus,
     false},
    {"setp.lt.s32 %p1, %r1, %r2;\nselp.b32 %r11, %r3, %r4, %p1;", chosen, false},
    {"setp.ne.s32 %p1, %r1, %r2;\nselp.u32 %r11, 1, 0, %p1;", differ, false},
    {"setp.eq.b32 %p1, %r1, %r2;\nnot.pred %p2, %p1;\n@%p2 mov.u32 %r11, 1;", differ, false},
    {"cvt.u16.u32 %rs1, %r1;\ncvt.u16.u32 %rs2, %r2;\nmov.b32 %r11, {%rs1, %rs2};", packed, false},
    {"mov.b32 {_, %rs2}, %r1;\ncvt.u32.u16 %r11, %rs2;", high_half, false},
    {"add.s64 %rd3, %rd1, %rd2;" OUT_64, add_64, true},
    {"sub.s64 %rd3, %rd1, %rd2;" OUT_64, sub_64, true},
    {"mul.lo.s64 %rd3, %rd1, %rd2;" OUT_64, mul_64, true},
    {"mul.hi.u64 %rd3, %rd1, %rd2;" OUT_64, mul_high_64, true},
    {"max.u64 %rd3, %rd1, %rd2;" OUT_64, most_64, true},
    {"xor.b64 %rd3, %rd1, %rd2;" OUT_64, bit_xor, true},
    {"shl.b64 %rd3, %rd1, %r3;" OUT_64, shift_left_64, true},
    {"shr.u64 %rd3, %rd1, %r3;" OUT_64, shift_right_64, true},
    {"shr.s64 %rd3, %rd1, %r3;" OUT_64, shift_right_s_64, true},
    {"bfi.b64 %rd3, %rd1, %rd2, %r5, %r6;" OUT_64, insert_64, true},
};

static void check_integers(const struct integer_case *c, struct rng *rng)
{
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < SNIPPET_IN; i++) in[lane][i] = drawn(rng);
    snippet_run(c->lines, in, out);
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t *x = in[lane];
        uint64_t a = x[0] | (uint64_t)x[1] << 32, b = x[2] | (uint64_t)x[3] << 32;
        uint64_t wanted = c->wide ? c->fn(a, b, x[4], x[5]) : c->fn(x[0], x[1], x[2], x[3]);
        uint64_t got = out[lane][0] | (uint64_t)out[lane][1] << 32;
        if (got != wanted)
            fail_msg("%s of %x %x %x %x %x %x gives %llx, not %llx", c->lines, x[0], x[1], x[2], x[3], x[4], x[5],
                     (unsigned long long)got, (unsigned long long)wanted);
    }
}

TEST(integers_are_computed_as_loops_over_their_bits_say)
{
    struct rng rng = {test_seed()};
    for (int turn = 0; turn < 40; turn++)
        for (size_t i = 0; i < sizeof integer_cases / sizeof *integer_cases; i++)
            check_integers(&integer_cases[i], &rng);
}

/* A float of any kind: zeros, subnormals, infinities, NaN, near neighbours, any bits. */
static uint32_t drawn_float(struct rng *rng)
{
    static const uint32_t corners[] = {0, 0x80000000, 1, 0x807fffff, 0x00800000, 0x7f800000, 0xff800000, 0x7fc00000,
                                       0x3f800000, 0xbf800001, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x5f800000};
    uint64_t bits = rng_next(rng);
    if (bits % 4 == 0) return corners[(bits >> 8) % (sizeof corners / sizeof *corners)];
    if (bits % 4 == 1) return (uint32_t)(bits >> 32);
    return (uint32_t)(bits >> 32 & 0x87ffffff) + 0x3c000000; /* about 2^-8 to 2^8 */
}

static void same_float(const char *what, uint32_t got, float wanted)
{
    if (isnan(wanted) ? !isnan(float_of(got)) : got != bits_of(wanted))
        fail_msg("%s gives %08x (%g), not %08x (%g)", what, got, (double)float_of(got), bits_of(wanted),
                 (double)wanted);
}

static float floor_of_fma(float a, float b, float c)
{
    volatile float x = a, y = b, z = c, result;
    assert_int_equal(fesetround(FE_DOWNWARD), 0);
    result = fmaf(x, y, z);
    assert_int_equal(fesetround(FE_TONEAREST), 0);
    return result;
}

/* By long double, whose 64 bits hold every sum, product and quotient of floats exactly enough to be rounded once more,
 * or by the C library. */
TEST(floats_are_rounded_once_in_the_direction_that_the_name_says)
{
    struct rng rng = {test_seed()};
    for (int turn = 0; turn < 200; turn++) {
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 3; i++) in[lane][i] = drawn_float(&rng);
        if (turn % 3 == 0) /* results near zero, where sums cancel */
            for (int lane = 0; lane < 32; lane++)
                in[lane][2] = bits_of(-float_of(in[lane][0]) * float_of(in[lane][1]));
        snippet_run("fma.rn.f32 %f11, %f1, %f2, %f3;\nfma.rm.f32 %f12, %f1, %f2, %f3;\nadd.f32 %f13, %f1, %f2;\n"
                    "mul.f32 %f14, %f1, %f2;\ndiv.rn.f32 %f15, %f1, %f2;\nabs.f32 %f16, %f1;\n"
                    "sqrt.rn.f32 %f16, %f16;\nrcp.rn.f32 %f17, %f1;\nneg.f32 %f18, %f1;\n"
                    "mov.b32 %r11, %f11;\nmov.b32 %r12, %f12;\nmov.b32 %r13, %f13;\nmov.b32 %r14, %f14;\n"
                    "mov.b32 %r15, %f15;\nmov.b32 %r16, %f16;\nmov.b32 %r17, %f17;\nmov.b32 %r18, %f18;", in, out);
        for (int lane = 0; lane < 32; lane++) {
            float a = float_of(in[lane][0]), b = float_of(in[lane][1]), c = float_of(in[lane][2]);
            same_float("fma.rn", out[lane][0], fmaf(a, b, c));
            same_float("fma.rm", out[lane][1], floor_of_fma(a, b, c));
            same_float("add", out[lane][2], (float)((long double)a + (long double)b));
            same_float("mul", out[lane][3], (float)((long double)a * (long double)b));
            same_float("div.rn", out[lane][4], a / b);
            same_float("sqrt.rn", out[lane][5], sqrtf(fabsf(a)));
            same_float("rcp.rn", out[lane][6], 1.0f / a);
            assert_int_equal(out[lane][7], in[lane][0] ^ 0x80000000u);
        }
    }
}

TEST(comparisons_know_which_of_them_are_true_of_nan_and_extremes_lose_it)
{
    struct rng rng = {test_seed()};
    uint32_t n_nan = 0;
    for (int turn = 0; turn < 100; turn++) {
        for (int lane = 0; lane < 32; lane++) {
            in[lane][0] = drawn_float(&rng);
            in[lane][1] = lane % 3 ? drawn_float(&rng) : in[lane][0];
        }
        snippet_run("setp.eq.f32 %p1, %f1, %f2;\nsetp.ne.f32 %p2, %f1, %f2;\nsetp.lt.f32 %p3, %f1, %f2;\n"
                    "setp.ge.f32 %p4, %f1, %f2;\nsetp.leu.f32 %p5, %f1, %f2;\nsetp.geu.f32 %p6, %f1, %f2;\n"
                    "selp.u32 %r11, 1, 0, %p1;\nselp.u32 %r12, 1, 0, %p2;\nselp.u32 %r13, 1, 0, %p3;\n"
                    "selp.u32 %r14, 1, 0, %p4;\nselp.u32 %r15, 1, 0, %p5;\nselp.u32 %r16, 1, 0, %p6;\n"
                    "min.f32 %f17, %f1, %f2;\nmax.f32 %f18, %f1, %f2;\nmov.b32 %r17, %f17;\nmov.b32 %r18, %f18;", in,
                    out);
        for (int lane = 0; lane < 32; lane++) {
            float a = float_of(in[lane][0]), b = float_of(in[lane][1]);
            bool nan = isnan(a) || isnan(b);
            n_nan += nan;
            assert_int_equal(out[lane][0], !nan && a == b);
            assert_int_equal(out[lane][1], !nan && a != b);
            assert_int_equal(out[lane][2], !nan && a < b);
            assert_int_equal(out[lane][3], !nan && a >= b);
            assert_int_equal(out[lane][4], nan || a <= b);
            assert_int_equal(out[lane][5], nan || a >= b);
            if (a == 0 && b == 0) { /* minus zero is the smaller one */
                assert_int_equal(out[lane][6], in[lane][0] | in[lane][1]);
                assert_int_equal(out[lane][7], in[lane][0] & in[lane][1]);
            } else {
                same_float("min", out[lane][6], isnan(a) ? b : isnan(b) || a < b ? a : b);
                same_float("max", out[lane][7], isnan(a) ? b : isnan(b) || a > b ? a : b);
            }
        }
    }
    assert_true(n_nan > 50);
}

/* 10 bits behind the point, exponents to 15: the value of a half. */
static double value_of_half(uint32_t half)
{
    uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    double value = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                   : exponent     ? ldexp(1024.0 + fraction, (int)exponent - 25)
                                  : ldexp((double)fraction, -24);
    return half & 0x8000 ? -value : value;
}

TEST(every_half_becomes_its_float_and_comes_back)
{
    for (uint32_t first = 0; first < 65536; first += 32) {
        for (uint32_t lane = 0; lane < 32; lane++) in[lane][0] = first + lane;
        snippet_run("cvt.u16.u32 %rs1, %r1;\ncvt.f32.f16 %f11, %rs1;\nmov.b32 %r11, %f11;\n"
                    "cvt.rn.f16.f32 %rs2, %f11;\ncvt.u32.u16 %r12, %rs2;", in, out);
        for (uint32_t lane = 0; lane < 32; lane++) {
            double wanted = value_of_half(first + lane);
            same_float("cvt.f32.f16", out[lane][0], (float)wanted);
            if (isnan(wanted)) assert_true(isnan(value_of_half(out[lane][1])));
            else assert_int_equal(out[lane][1], first + lane);
        }
    }
}

/* The nearest of the two halves around a float; of equally near ones the even one; past 65520 infinity. */
TEST(a_float_becomes_the_nearest_half)
{
    struct rng rng = {test_seed()};
    for (int turn = 0; turn < 200; turn++) {
        for (int lane = 0; lane < 32; lane++) {
            uint32_t half = (uint32_t)rng_next(&rng) % 0x7c00;
            double between = (value_of_half(half) + (half == 0x7bff ? 65536 : value_of_half(half + 1))) / 2;
            float x = (float)between;
            if (lane % 4 == 1) x = nextafterf(x, INFINITY);
            if (lane % 4 == 2) x = nextafterf(x, 0);
            if (lane % 4 == 3) x = float_of(0x33000000 + (uint32_t)rng_next(&rng) % 0x14800000);
            in[lane][0] = bits_of(lane % 8 < 4 ? x : -x);
        }
        snippet_run("cvt.rn.f16.f32 %rs2, %f1;\ncvt.u32.u16 %r11, %rs2;", in, out);
        for (int lane = 0; lane < 32; lane++) {
            double x = fabs((double)float_of(in[lane][0]));
            uint32_t low = 0;
            for (uint32_t step = 0x4000; step; step /= 2)
                if (low + step <= 0x7bff && value_of_half(low + step) <= x) low += step;
            double next_up = low == 0x7bff ? 65536 : value_of_half(low + 1);
            double middle = (value_of_half(low) + next_up) / 2;
            uint32_t wanted = x < middle || (x == middle && low % 2 == 0) ? low : low + 1;
            assert_int_equal(out[lane][0], wanted | (in[lane][0] >> 16 & 0x8000));
        }
    }
}

TEST(floats_become_integers_that_stay_in_their_range)
{
    static const struct {
        float x;
        int32_t s32, nearest;
        uint32_t u32;
        uint64_t u64;
    } cases[] = {
        {1.75f, 1, 2, 1, 1}, {-1.75f, -1, -2, 0, 0}, {2.5f, 2, 2, 2, 2}, {3.5f, 3, 4, 3, 3}, {-0.5f, 0, 0, 0, 0},
        {0x1p31f, INT32_MAX, INT32_MAX, 0x80000000u, 0x80000000u}, {-0x1p31f, INT32_MIN, INT32_MIN, 0, 0},
        {0x1p32f, INT32_MAX, INT32_MAX, UINT32_MAX, 1ull << 32},
        {0x1p63f, INT32_MAX, INT32_MAX, UINT32_MAX, 1ull << 63},
        {0x1p65f, INT32_MAX, INT32_MAX, UINT32_MAX, UINT64_MAX}, {-INFINITY, INT32_MIN, INT32_MIN, 0, 0},
        {NAN, 0, 0, 0, 1ull << 63}, {0x1.fffffep23f, 0xffffff, 0xffffff, 0xffffff, 0xffffff},
    };
    size_t n = sizeof cases / sizeof *cases;
    for (size_t lane = 0; lane < 32; lane++) in[lane][0] = bits_of(cases[lane % n].x);
    snippet_run("cvt.rzi.s32.f32 %r11, %f1;\ncvt.rni.s32.f32 %r12, %f1;\ncvt.rzi.u32.f32 %r13, %f1;\n"
                "cvt.rzi.u64.f32 %rd3, %f1;\nmov.b64 {%r14, %r15}, %rd3;\ncvt.sat.f32.f32 %f16, %f1;\n"
                "mov.b32 %r16, %f16;\ncvt.rni.f32.f32 %f17, %f1;\nmov.b32 %r17, %f17;\ncvt.rn.f32.u32 %f18, %r13;\n"
                "mov.b32 %r18, %f18;", in, out);
    for (size_t lane = 0; lane < 32; lane++) {
        const uint32_t *got = out[lane];
        float x = cases[lane % n].x;
        assert_int_equal((int32_t)got[0], cases[lane % n].s32);
        assert_int_equal((int32_t)got[1], cases[lane % n].nearest);
        assert_int_equal(got[2], cases[lane % n].u32);
        assert_int_equal(got[3] | (uint64_t)got[4] << 32, cases[lane % n].u64);
        same_float("cvt.sat", got[5], isnan(x) || x <= 0 ? 0.0f : x >= 1 ? 1.0f : x);
        same_float("cvt.rni", got[6], nearbyintf(x));
        same_float("cvt.rn.f32.u32", got[7], (float)cases[lane % n].u32);
    }
}

/* Where the results are exact. */
TEST(approximations_are_those_of_the_c_library)
{
    for (int lane = 0; lane < 32; lane++) {
        in[lane][0] = bits_of((float)(lane - 16));
        in[lane][1] = bits_of((float)((lane + 1) * (lane + 1)));
        in[lane][2] = bits_of(ldexpf(1, 4 * lane - 60));
        in[lane][3] = bits_of(ldexpf(1, lane - 149)); /* subnormal up to the 23rd */
    }
    snippet_run("ex2.approx.ftz.f32 %f11, %f1;\nsqrt.approx.f32 %f12, %f2;\nrsqrt.approx.f32 %f13, %f3;\n"
                "lg2.approx.f32 %f14, %f3;\nrcp.approx.f32 %f15, %f3;\nlg2.approx.ftz.f32 %f16, %f4;\n"
                "rcp.approx.ftz.f32 %f17, %f4;\nmov.b32 %r11, %f11;\nmov.b32 %r12, %f12;\nmov.b32 %r13, %f13;\n"
                "mov.b32 %r14, %f14;\nmov.b32 %r15, %f15;\nmov.b32 %r16, %f16;\nmov.b32 %r17, %f17;", in, out);
    for (int lane = 0; lane < 32; lane++) {
        same_float("ex2", out[lane][0], ldexpf(1, lane - 16));
        same_float("sqrt", out[lane][1], (float)(lane + 1));
        same_float("rsqrt", out[lane][2], ldexpf(1, 30 - 2 * lane));
        same_float("lg2", out[lane][3], (float)(4 * lane - 60));
        same_float("rcp", out[lane][4], ldexpf(1, 60 - 4 * lane));
        same_float("lg2.ftz", out[lane][5], lane < 23 ? -INFINITY : (float)(lane - 149));
        same_float("rcp.ftz", out[lane][6], lane < 23 ? INFINITY : ldexpf(1, 149 - lane));
    }
}

/* Twice: as this processor runs them, and as any does. */
static int run_all(bool plain)
{
    ptx_set_options(&(struct ptx_options){.plain = plain});
    return RUN_TESTS(T(integers_are_computed_as_loops_over_their_bits_say),
                     T(floats_are_rounded_once_in_the_direction_that_the_name_says),
                     T(comparisons_know_which_of_them_are_true_of_nan_and_extremes_lose_it),
                     T(every_half_becomes_its_float_and_comes_back), T(a_float_becomes_the_nearest_half),
                     T(floats_become_integers_that_stay_in_their_range),
                     T(approximations_are_those_of_the_c_library));
}

int main(void)
{
    int failed = run_all(false);
    return run_all(true) + failed;
}
