/* metal.h - the kernel dialect for Metal. The dialect is a subset of MSL; this file only supplies the words in which
 * CUDA and the emulator must differ. It is also what the conformance check compiles, with K_CHECK. */
#ifndef DS4_GPU_PRELUDE_METAL_H
#define DS4_GPU_PRELUDE_METAL_H

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#define K_METAL 1
#define FN static inline
#define KERNEL(name, max_threads) [[kernel, max_total_threads_per_threadgroup(max_threads)]] void name
#define ARGS(T, a) constant T &a
#define IN(T, p) device const T *p
#define OUT(T, p) device T *p
#define INOUT(T, p) device T *p
#define BUILTINS \
    , uint3 k_group [[threadgroup_position_in_grid]] \
    , uint k_tid [[thread_index_in_threadgroup]] \
    , uint k_lane [[thread_index_in_simdgroup]] \
    , uint k_sg [[simdgroup_index_in_threadgroup]] K_SCOPE
#define EXPORT(name)
#ifndef K_CHECK
#define SHARED(T, name, n) threadgroup T name[n]
#define K_SCOPE
#else
#define K_SCOPE , k_in_kernel k_kernel_scope
#endif
#define TABLE(T, name, n) constant T name[n]
#define UNROLL _Pragma("clang loop unroll(full)")
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define SIMD_BARRIER() simdgroup_barrier(mem_flags::mem_threadgroup)

FN float4 to_float4(half4 h) { return float4(h); }

FN int dot4_i8(uint a, uint b, int sum)
{
    UNROLL for (uint i = 0; i < 32; i += 8) sum += ((int)(a << (24 - i)) >> 24) * ((int)(b << (24 - i)) >> 24);
    return sum;
}
FN uint pack_halves(float a, float b)
{
    return (uint)as_type<ushort>(half(a)) | (uint)as_type<ushort>(half(b)) << 16;
}
FN uint halves_of_bytes(uint word, uint i)
{
    return pack_halves(float((int)(word << (24 - 16 * i)) >> 24), float((int)(word << (16 - 16 * i)) >> 24));
}
FN uint byte_select(uint a, uint b, uint selector)
{
    uint bytes = 0;
    UNROLL for (uint i = 0; i < 4; i++) {
        const uint k = selector >> 4 * i & 7;
        bytes |= ((k < 4 ? a : b) >> 8 * (k & 3) & 255u) << 8 * i;
    }
    return bytes;
}

/* A tile of 16 x 16 is 2 x 2 of the 8 x 8 matrices of a simdgroup. */
struct tile_acc {
    simdgroup_float8x8 m[4];
};
struct tile_a {
    simdgroup_half8x8 m[4];
};
struct tile_b {
    simdgroup_half8x8 m[4];
};
FN void tile_zero(thread tile_acc &c)
{
    UNROLL for (int i = 0; i < 4; i++) c.m[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}
/* Stored [m][k]. */
FN void tile_load_a(thread tile_a &a, threadgroup const half *p, uint ld, uint lane)
{
    (void)lane;
    UNROLL for (int i = 0; i < 4; i++) simdgroup_load(a.m[i], p + (i >> 1) * 8 * ld + (i & 1) * 8, ld);
}
/* Stored [n][k], the order of weights: loaded transposed, so that m is [k][n]. i = 2 (k / 8) + n / 8. */
FN void tile_load_bt(thread tile_b &b, threadgroup const half *p, uint ld, uint lane)
{
    (void)lane;
    UNROLL for (int i = 0; i < 4; i++)
        simdgroup_load(b.m[i], p + (i & 1) * 8 * ld + (i >> 1) * 8, ld, ulong2(0, 0), true);
}
/* Stored [k][n]. */
FN void tile_load_b(thread tile_b &b, threadgroup const half *p, uint ld, uint lane)
{
    (void)lane;
    UNROLL for (int i = 0; i < 4; i++) simdgroup_load(b.m[i], p + (i >> 1) * 8 * ld + (i & 1) * 8, ld);
}
FN void tile_mma(thread tile_acc &c, thread tile_a &a, thread tile_b &b)
{
    UNROLL for (int r = 0; r < 2; r++)
        UNROLL for (int n = 0; n < 2; n++)
            UNROLL for (int k = 0; k < 2; k++)
                simdgroup_multiply_accumulate(c.m[r * 2 + n], a.m[r * 2 + k], b.m[k * 2 + n], c.m[r * 2 + n]);
}
FN void tile_mma_first(thread tile_acc &c, thread tile_a &a, thread tile_b &b)
{
    tile_zero(c);
    tile_mma(c, a, b);
}
/* A lane holds two neighbours of each 8 x 8 matrix: the layout that published kernels rely on. */
FN uint tile_row(uint lane, uint i) { return (i >> 2) * 8 + ((lane >> 2) & 4) + ((lane >> 1) & 3); }
FN uint tile_col(uint lane, uint i)
{
    return ((i >> 1) & 1) * 8 + ((lane >> 2) & 2) * 2 + (lane & 1) * 2 + (i & 1);
}
FN float tile_get(thread tile_acc &c, uint i) { return c.m[i >> 1].thread_elements()[i & 1]; }
FN void tile_set(thread tile_acc &c, uint i, float v) { c.m[i >> 1].thread_elements()[i & 1] = v; }

#endif
