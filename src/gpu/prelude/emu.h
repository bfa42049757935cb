/* emu.h - the kernel dialect for the emulator: plain C++17, gcc or clang. The vocabulary is described in
 * src/gpu/kernels/README.md; every word here has the meaning it has in MSL. */
#ifndef DS4_GPU_PRELUDE_EMU_H
#define DS4_GPU_PRELUDE_EMU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "gpu/emu/emu_kernel.h"

namespace k {
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long ulong;

/* Storage only: there is no conversion that is not written down, so `h * h` does not compile and arithmetic in half,
 * which MSL has, can never give other results than here. */
struct half {
    uint16_t bits;
    half() = default;
    explicit half(float f) : bits(emu_f16_from_f32(f)) {}
    explicit operator float() const { return emu_f16_to_f32(bits); }
};

#define K_DEVFN static inline
#define K_DEVM
#include "gpu/prelude/cxx.h"

K_DEVFN float exp(float x) { return expf(x); }
K_DEVFN float log(float x) { return logf(x); }
namespace precise {
K_DEVFN float exp(float x) { return expf(x); }
K_DEVFN float log(float x) { return logf(x); }
K_DEVFN float sqrt(float x) { return sqrtf(x); }
K_DEVFN float divide(float a, float b) { return a / b; }
}

#define K_SITE int line = __builtin_LINE()
template <typename T> K_DEVFN T simd_shuffle(T v, uint from, K_SITE)
{
    return as_type<T>(emu_shuffle(as_type<uint32_t>(v), from, line));
}
template <typename T> K_DEVFN T simd_shuffle_xor(T v, uint mask, K_SITE)
{
    return as_type<T>(emu_shuffle(as_type<uint32_t>(v), emu_lane() ^ mask, line));
}
template <typename T> K_DEVFN T simd_broadcast(T v, uint from, K_SITE)
{
    return as_type<T>(emu_shuffle(as_type<uint32_t>(v), from, line));
}
K_DEVFN float simd_sum(float v, K_SITE) { return emu_simd_sum(v, line); }
K_DEVFN float simd_max(float v, K_SITE) { return emu_simd_max(v, line); }

K_DEVFN int dot4_i8(uint a, uint b, int sum)
{
    for (uint i = 0; i < 32; i += 8) sum += ((int)(a << (24 - i)) >> 24) * ((int)(b << (24 - i)) >> 24);
    return sum;
}
K_DEVFN uint pack_halves(float a, float b)
{
    return (uint)as_type<ushort>(half(a)) | (uint)as_type<ushort>(half(b)) << 16;
}
K_DEVFN uint halves_of_bytes(uint word, uint i)
{
    return pack_halves(float((int)(word << (24 - 16 * i)) >> 24), float((int)(word << (16 - 16 * i)) >> 24));
}
K_DEVFN uint byte_select(uint a, uint b, uint selector)
{
    uint bytes = 0;
    for (uint i = 0; i < 4; i++) {
        const uint k = selector >> 4 * i & 7;
        bytes |= ((k < 4 ? a : b) >> 8 * (k & 3) & 255u) << 8 * i;
    }
    return bytes;
}

/* Tiles of 16 x 16: a lane holds 8 elements; which ones is asked of the emulator, which has three layouts. */
struct tile_acc {
    float e[8];
};
struct tile_a {
    float e[8];
};
struct tile_b {
    float e[8];
};
K_DEVFN uint tile_row(uint lane, uint i) { return emu_tile_row(lane, i); }
K_DEVFN uint tile_col(uint lane, uint i) { return emu_tile_col(lane, i); }
K_DEVFN void tile_zero(tile_acc &c)
{
    for (int i = 0; i < 8; i++) c.e[i] = 0;
}
K_DEVFN void tile_load_a(tile_a &a, const half *p, uint ld, uint lane, K_SITE)
{
    emu_tile_align(p, ld, line);
    for (uint i = 0; i < 8; i++) a.e[i] = float(p[tile_row(lane, i) * ld + tile_col(lane, i)]);
}
K_DEVFN void tile_load_bt(tile_b &b, const half *p, uint ld, uint lane, K_SITE)
{
    emu_tile_align(p, ld, line);
    for (uint i = 0; i < 8; i++) b.e[i] = float(p[tile_col(lane, i) * ld + tile_row(lane, i)]);
}
K_DEVFN void tile_load_b(tile_b &b, const half *p, uint ld, uint lane, K_SITE)
{
    emu_tile_align(p, ld, line);
    for (uint i = 0; i < 8; i++) b.e[i] = float(p[tile_row(lane, i) * ld + tile_col(lane, i)]);
}
K_DEVFN void tile_mma(tile_acc &c, const tile_a &a, const tile_b &b, K_SITE) { emu_tile_mma(c.e, a.e, b.e, line); }
K_DEVFN void tile_mma_first(tile_acc &c, const tile_a &a, const tile_b &b, K_SITE)
{
    tile_zero(c);
    emu_tile_mma(c.e, a.e, b.e, line);
}
K_DEVFN float tile_get(const tile_acc &c, uint i) { return c.e[i]; }
K_DEVFN void tile_set(tile_acc &c, uint i, float v) { c.e[i] = v; }
}

#define K_EMU 1
#define device
#define threadgroup
#define thread
#define constant const
#define FN static inline
#define KERNEL(name, max_threads) enum { name##_max_threads = max_threads }; static void name
#define ARGS(T, a) const T &a
#define IN(T, p) const T *p
#define OUT(T, p) T *p
#define INOUT(T, p) T *p
#define BUILTINS
#define EXPORT(name) static emu::Registration name##_registration(#name, &name, name##_max_threads);
#define k_group (k::uint3{emu_group(0), emu_group(1), emu_group(2)})
#define k_tid emu_thread()
#define k_lane emu_lane()
#define k_sg (emu_thread() >> 5)
#define SHARED(T, name, n) T *name = (T *)emu_shared(sizeof(T) * (n), #name)
#define TABLE(T, name, n) static const T name[n] __attribute__((section("emu_tables")))
#define UNROLL
#define BARRIER() emu_barrier(__LINE__)
#define SIMD_BARRIER() emu_simd_barrier(__LINE__)

#endif
