/* lanes_impl.h - what each lane does by itself: the list of lanes.def as functions over 32 lanes, and the matrix
 * product. Included by lanes.c and lanes_avx2.c, which say what the table is called.
 *
 * A result is made for all lanes, then kept for those that run. Floats are IEEE's, with a fused multiply-add only where
 * the instruction is one. */
#ifndef DS4_TESTS_GPU_PTX_LANES_IMPL_H
#define DS4_TESTS_GPU_PTX_LANES_IMPL_H

#include <math.h>
#include <string.h>

#include "gpu/ptx/impl.h"

typedef uint32_t __attribute__((may_alias)) lane32;
typedef uint64_t __attribute__((may_alias)) lane64;
__extension__ typedef unsigned __int128 wide_u128;

static inline float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline double double_of_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline bool is_nan(float x) { return (bits_of_float(x) & 0x7fffffffu) > 0x7f800000u; }

static inline uint64_t high_product(uint64_t a, uint64_t b) { return (uint64_t)((wide_u128)a * b >> 64); }
static inline uint64_t funnel(uint32_t low, uint32_t high) { return (uint64_t)high << 32 | low; }

/* Four bytes chosen among the eight of b and a; a selector's highest bit spreads the byte's sign. */
static inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selectors)
{
    uint64_t bytes = funnel(a, b);
    uint32_t out = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t selector = selectors >> (4 * i) & 15, byte = (uint32_t)(bytes >> (8 * (selector & 7))) & 0xff;
        if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << (8 * i);
    }
    return out;
}

/* n bits from bit `at` on; position and number are the low bytes, what lies past the value is zero or its sign. */
static inline uint32_t field_u32(uint32_t value, uint32_t at, uint32_t n)
{
    at &= 255;
    n &= 255;
    uint32_t shifted = at > 31 ? 0 : value >> at;
    return n > 31 ? shifted : shifted & ((1u << n) - 1);
}
static inline uint32_t field_s32(uint32_t value, uint32_t at, uint32_t n)
{
    at &= 255;
    n &= 255;
    if (n == 0) return 0;
    uint32_t last = at + n - 1 > 31 ? 31 : at + n - 1, sign = value >> last & 1;
    uint32_t field = field_u32(value, at, n), kept = at > 31 ? 0 : last - at + 1;
    return sign && kept < 32 ? field | ~0u << kept : field;
}
static inline uint64_t insert_field(uint64_t field, uint64_t into, uint32_t at, uint32_t n, uint32_t width)
{
    at &= 255;
    n &= 255;
    if (at >= width || n == 0) return into;
    uint64_t mask = (n >= 64 ? ~0ull : (1ull << n) - 1) << at;
    return (field << at & mask) | (into & ~mask);
}
static inline uint32_t dot_four(uint32_t a, uint32_t b, uint32_t c)
{
    for (unsigned i = 0; i < 4; i++) c += (uint32_t)((int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i)));
    return c;
}

static inline float float_of_half(uint16_t half)
{
    uint32_t bits = (half & 0x7fffu) << 13;
    float scaled = float_of_bits(bits) * 0x1p112f;
    uint32_t special = bits >= 0x7c00u << 13 ? bits | 0x7f800000u : bits_of_float(scaled);
    return float_of_bits(special | (half & 0x8000u) << 16);
}
static inline uint16_t half_of_float(float x)
{
    uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    uint32_t above = bits > 0x7f800000u ? 0x7fffu : sign | 0x7c00u;
    uint32_t normal = (bits + 0xfffu + (bits >> 13 & 1) - (112u << 23)) >> 13;
    uint32_t below = bits_of_float(float_of_bits(bits) + 0.5f) - 0x3f000000u; /* the last place of 0.5 is 2^-24 */
    return (uint16_t)(bits >= 0x477ff000u ? above : sign | (bits < 0x38800000u ? below : normal));
}

/* Towards minus infinity: the product is exact in double, the sum with its error, and rounding to nearest is at most
 * one step too high. */
static inline float fma_down(float a, float b, float c)
{
    double product = (double)a * b, sum = product + c;
    double part = sum - product, error = (product - (sum - part)) + (c - part);
    float near = (float)sum;
    if (isnan(near) || isinf(sum)) return near;
    if (sum == 0 && error == 0) /* an exact zero is negative unless both terms are positive zeros */
        return product == 0 && c == 0 && !signbit(product) && !signbit(c) ? 0.0f : -0.0f;
    return near > sum || (near == sum && error < 0) ? nextafterf(near, -INFINITY) : near;
}

/* NaN loses; minus zero is less than zero. */
static inline float least(float a, float b)
{
    float x = a < b ? a : b < a ? b : float_of_bits(bits_of_float(a) | bits_of_float(b));
    return is_nan(a) ? (is_nan(b) ? float_of_bits(0x7fffffffu) : b) : is_nan(b) ? a : x;
}
static inline float most(float a, float b)
{
    float x = a > b ? a : b > a ? b : float_of_bits(bits_of_float(a) & bits_of_float(b));
    return is_nan(a) ? (is_nan(b) ? float_of_bits(0x7fffffffu) : b) : is_nan(b) ? a : x;
}
static inline float flushed(float x)
{
    uint32_t bits = bits_of_float(x);
    return (bits & 0x7f800000u) ? x : float_of_bits(bits & 0x80000000u);
}

/* What does not fit goes to the nearest that does; NaN to zero, and to 2^63 in 64 bits. */
static inline int32_t to_s32(float x)
{
    if (!(x >= -0x1p31f)) return is_nan(x) ? 0 : INT32_MIN;
    return x >= 0x1p31f ? INT32_MAX : (int32_t)x;
}
static inline uint32_t to_u32(float x)
{
    if (!(x > 0)) return 0;
    return x >= 0x1p32f ? UINT32_MAX : (uint32_t)x;
}
static inline uint64_t to_u64(float x)
{
    if (!(x > 0)) return is_nan(x) ? 1ull << 63 : 0;
    return x >= 0x1p64f ? UINT64_MAX : (uint64_t)x;
}

#define LANE_u8 lane32
#define LANE_s8 lane32
#define LANE_u16 lane32
#define LANE_s16 lane32
#define LANE_h16 lane32
#define LANE_u32 lane32
#define LANE_s32 lane32
#define LANE_f32 lane32
#define LANE_u64 lane64
#define LANE_s64 lane64
#define LANE_f64 lane64
#define VALUE_u8(x) ((uint8_t)(x))
#define VALUE_s8(x) ((int8_t)(x))
#define VALUE_u16(x) ((uint16_t)(x))
#define VALUE_s16(x) ((int16_t)(x))
#define VALUE_h16(x) ((uint16_t)(x))
#define VALUE_u32(x) (x)
#define VALUE_s32(x) ((int32_t)(x))
#define VALUE_f32(x) float_of_bits(x)
#define VALUE_u64(x) (x)
#define VALUE_s64(x) ((int64_t)(x))
#define VALUE_f64(x) double_of_bits(x)
#define KEPT_u16(x) ((uint32_t)(uint16_t)(x))
#define KEPT_s16(x) ((uint32_t)(uint16_t)(x))
#define KEPT_h16(x) ((uint32_t)(uint16_t)(x))
#define KEPT_u32(x) ((uint32_t)(x))
#define KEPT_s32(x) ((uint32_t)(int32_t)(x))
#define KEPT_f32(x) bits_of_float((float)(x))
#define KEPT_u64(x) ((uint64_t)(x))
#define KEPT_s64(x) ((uint64_t)(int64_t)(x))

static inline void keep_32(uint8_t *to, const uint32_t *from, uint32_t lanes)
{
    lane32 *d = (lane32 *)(void *)to;
    if (lanes == PTX_ALL)
        for (int i = 0; i < PTX_LANES; i++) d[i] = from[i];
    else
        for (int i = 0; i < PTX_LANES; i++) d[i] = lanes >> i & 1 ? from[i] : d[i];
}
static inline void keep_64(uint8_t *to, const uint64_t *from, uint32_t lanes)
{
    lane64 *d = (lane64 *)(void *)to;
    if (lanes == PTX_ALL)
        for (int i = 0; i < PTX_LANES; i++) d[i] = from[i];
    else
        for (int i = 0; i < PTX_LANES; i++) d[i] = lanes >> i & 1 ? from[i] : d[i];
}
#define KEEP_u16 keep_32
#define KEEP_s16 keep_32
#define KEEP_h16 keep_32
#define KEEP_u32 keep_32
#define KEEP_s32 keep_32
#define KEEP_f32 keep_32
#define KEEP_u64 keep_64
#define KEEP_s64 keep_64

static inline void keep_pred(uint8_t *to, uint32_t value, uint32_t lanes)
{
    lane32 *d = (lane32 *)(void *)to;
    *d = (*d & ~lanes) | (value & lanes);
}

#define FUNCTION(id) \
    static void lanes_##id(const struct ptx_op *op, uint8_t *regs, const uint8_t *constants, uint32_t lanes)
#define SOURCE(T, name, ref) const LANE_##T *name = (const LANE_##T *)(const void *)ptx_place(ref, regs, constants)

#define UNARY(id, text, D, A, value) \
    FUNCTION(id) \
    { \
        SOURCE(A, a_, op->a); \
        __typeof__(KEPT_##D(0)) out[PTX_LANES]; \
        for (int i = 0; i < PTX_LANES; i++) { \
            __auto_type a = VALUE_##A(a_[i]); \
            out[i] = KEPT_##D(value); \
        } \
        KEEP_##D(regs + op->d, out, lanes); \
    }
#define BINARY(id, text, D, A, B, value) \
    FUNCTION(id) \
    { \
        SOURCE(A, a_, op->a); \
        SOURCE(B, b_, op->b); \
        __typeof__(KEPT_##D(0)) out[PTX_LANES]; \
        for (int i = 0; i < PTX_LANES; i++) { \
            __auto_type a = VALUE_##A(a_[i]); \
            __auto_type b = VALUE_##B(b_[i]); \
            out[i] = KEPT_##D(value); \
        } \
        KEEP_##D(regs + op->d, out, lanes); \
    }
#define TERNARY(id, text, D, A, B, C, value) \
    FUNCTION(id) \
    { \
        SOURCE(A, a_, op->a); \
        SOURCE(B, b_, op->b); \
        SOURCE(C, c_, op->c); \
        __typeof__(KEPT_##D(0)) out[PTX_LANES]; \
        for (int i = 0; i < PTX_LANES; i++) { \
            __auto_type a = VALUE_##A(a_[i]); \
            __auto_type b = VALUE_##B(b_[i]); \
            __auto_type c = VALUE_##C(c_[i]); \
            out[i] = KEPT_##D(value); \
        } \
        KEEP_##D(regs + op->d, out, lanes); \
    }
#define COMPARE(id, text, A, value) \
    FUNCTION(id) \
    { \
        SOURCE(A, a_, op->a); \
        SOURCE(A, b_, op->b); \
        uint32_t out = 0; \
        for (int i = 0; i < PTX_LANES; i++) { \
            __auto_type a = VALUE_##A(a_[i]); \
            __auto_type b = VALUE_##A(b_[i]); \
            out |= (uint32_t)(value) << i; \
        } \
        keep_pred(regs + op->d, out, lanes); \
    }
#define COMPARES_OF_BITS(T, type) \
    COMPARE(setp_eq_##T, , type, a == b) \
    COMPARE(setp_ne_##T, , type, a != b)
#define COMPARES(T, type) \
    COMPARES_OF_BITS(T, type) \
    COMPARE(setp_lt_##T, , type, a < b) \
    COMPARE(setp_le_##T, , type, a <= b) \
    COMPARE(setp_gt_##T, , type, a > b) \
    COMPARE(setp_ge_##T, , type, a >= b)
#include "gpu/ptx/lanes.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef COMPARE
#undef COMPARES
#undef COMPARES_OF_BITS

static uint32_t predicate(ptx_ref ref, const uint8_t *regs, const uint8_t *constants)
{
    return *(const lane32 *)(const void *)ptx_place(ref, regs, constants);
}

FUNCTION(select_32)
{
    SOURCE(u32, a, op->a);
    SOURCE(u32, b, op->b);
    uint32_t chosen = predicate(op->c, regs, constants);
    uint32_t out[PTX_LANES];
    for (int i = 0; i < PTX_LANES; i++) out[i] = chosen >> i & 1 ? a[i] : b[i];
    keep_32(regs + op->d, out, lanes);
}
FUNCTION(select_64)
{
    SOURCE(u64, a, op->a);
    SOURCE(u64, b, op->b);
    uint32_t chosen = predicate(op->c, regs, constants);
    uint64_t out[PTX_LANES];
    for (int i = 0; i < PTX_LANES; i++) out[i] = chosen >> i & 1 ? a[i] : b[i];
    keep_64(regs + op->d, out, lanes);
}

/* Elements of a vector side by side in one register, the first lowest. */
FUNCTION(pack)
{
    uint64_t out[PTX_LANES] = {0};
    unsigned element = op->bytes * 8u;
    for (unsigned k = 0; k < op->n; k++) {
        SOURCE(u32, from, op->v[k]);
        for (int i = 0; i < PTX_LANES; i++) out[i] |= (uint64_t)from[i] << (k * element);
    }
    if (op->n * op->bytes == 8) {
        keep_64(regs + op->d, out, lanes);
    } else {
        uint32_t low[PTX_LANES];
        for (int i = 0; i < PTX_LANES; i++) low[i] = (uint32_t)out[i];
        keep_32(regs + op->d, low, lanes);
    }
}
FUNCTION(unpack)
{
    uint64_t from[PTX_LANES];
    uint32_t out[PTX_LANES];
    unsigned element = op->bytes * 8u;
    const uint8_t *a = ptx_place(op->a, regs, constants);
    for (int i = 0; i < PTX_LANES; i++)
        from[i] = op->n * op->bytes == 8 ? ((const lane64 *)(const void *)a)[i] : ((const lane32 *)(const void *)a)[i];
    for (unsigned k = 0; k < op->n; k++) {
        if (op->v[k] == PTX_NONE) continue;
        for (int i = 0; i < PTX_LANES; i++)
            out[i] = (uint32_t)(from[i] >> (k * element) & ((1ull << element) - 1));
        keep_32(regs + op->v[k], out, lanes);
    }
}

FUNCTION(field_32)
{
    SOURCE(u32, field, op->a);
    SOURCE(u32, into, op->b);
    SOURCE(u32, at, op->c);
    SOURCE(u32, n, op->e);
    uint32_t out[PTX_LANES];
    for (int i = 0; i < PTX_LANES; i++) out[i] = (uint32_t)insert_field(field[i], into[i], at[i], n[i], 32);
    keep_32(regs + op->d, out, lanes);
}
FUNCTION(field_64)
{
    SOURCE(u64, field, op->a);
    SOURCE(u64, into, op->b);
    SOURCE(u32, at, op->c);
    SOURCE(u32, n, op->e);
    uint64_t out[PTX_LANES];
    for (int i = 0; i < PTX_LANES; i++) out[i] = insert_field(field[i], into[i], at[i], n[i], 64);
    keep_64(regs + op->d, out, lanes);
}

#define PREDICATES(id, value) \
    FUNCTION(id) \
    { \
        uint32_t a = predicate(op->a, regs, constants); \
        uint32_t b = op->b == PTX_NONE ? 0 : predicate(op->b, regs, constants); \
        (void)b; \
        keep_pred(regs + op->d, value, lanes); \
    }
PREDICATES(pred_mov, a)
PREDICATES(pred_not, ~a)
PREDICATES(pred_and, a & b)
PREDICATES(pred_or, a | b)
PREDICATES(pred_xor, a ^ b)

/* x without what lies below `unit`, towards zero. */
static double cut(double x, double unit) { return unit > 0 ? trunc(x / unit) * unit : x; }

/* The last of 24 bits of a number. */
static double last_place(double x)
{
    int exponent = 0;
    (void)frexp(x, &exponent);
    return x != 0 && isfinite(x) ? ldexp(1, exponent - 24) : 0;
}

static float chopped_sum(const double *terms, int n)
{
    double most_ = 0, sum = 0;
    for (int i = 0; i < n; i++) most_ = fabs(terms[i]) > most_ ? fabs(terms[i]) : most_;
    double unit = last_place(most_);
    for (int i = 0; i < n; i++) sum += cut(terms[i], unit);
    return (float)cut(sum, last_place(sum));
}

static void mma(float d[128], const uint16_t a[256], const uint16_t b[128], const float c[128], enum ptx_sums sums)
{
    double fa[256], fb[128], out[8];
    for (int i = 0; i < 256; i++) fa[i] = (double)float_of_half(a[i]);
    for (int i = 0; i < 128; i++) fb[i] = (double)float_of_half(b[i]);
    for (int row = 0; row < 16; row++) {
        if (sums == PTX_SUMS_CHOPPED) {
            for (int col = 0; col < 8; col++) {
                double terms[17] = {(double)c[row * 8 + col]};
                for (int k = 0; k < 16; k++) terms[k + 1] = fa[row * 16 + k] * fb[k * 8 + col];
                d[row * 8 + col] = chopped_sum(terms, 17);
            }
            continue;
        }
        for (int col = 0; col < 8; col++) out[col] = (double)c[row * 8 + col];
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) out[col] += fa[row * 16 + k] * fb[k * 8 + col];
        for (int col = 0; col < 8; col++) d[row * 8 + col] = (float)out[col];
    }
}

#define ENTRY(id) [KIND_##id - KIND_LANES] = lanes_##id,
#define UNARY(id, ...) ENTRY(id)
#define BINARY(id, ...) ENTRY(id)
#define TERNARY(id, ...) ENTRY(id)
#define COMPARE(id, ...) ENTRY(id)
#define COMPARES_OF_BITS(T, type) ENTRY(setp_eq_##T) ENTRY(setp_ne_##T)
#define COMPARES(T, type) COMPARES_OF_BITS(T, type) ENTRY(setp_lt_##T) ENTRY(setp_le_##T) ENTRY(setp_gt_##T) \
    ENTRY(setp_ge_##T)
const struct ptx_lanes LANES_TABLE = {
    .fn = {
#include "gpu/ptx/lanes.def"
        [KIND_SELECT_32 - KIND_LANES] = lanes_select_32, [KIND_SELECT_64 - KIND_LANES] = lanes_select_64,
        [KIND_PACK - KIND_LANES] = lanes_pack, [KIND_UNPACK - KIND_LANES] = lanes_unpack,
        [KIND_FIELD_32 - KIND_LANES] = lanes_field_32, [KIND_FIELD_64 - KIND_LANES] = lanes_field_64,
        [KIND_PRED_MOV - KIND_LANES] = lanes_pred_mov, [KIND_PRED_NOT - KIND_LANES] = lanes_pred_not,
        [KIND_PRED_AND - KIND_LANES] = lanes_pred_and, [KIND_PRED_OR - KIND_LANES] = lanes_pred_or,
        [KIND_PRED_XOR - KIND_LANES] = lanes_pred_xor,
    },
    .mma = mma,
};

#endif
