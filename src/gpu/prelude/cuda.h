/* cuda.h - the kernel dialect for CUDA. The vocabulary is described in src/gpu/kernels/README.md. */
#ifndef DS4_GPU_PRELUDE_CUDA_H
#define DS4_GPU_PRELUDE_CUDA_H

#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

namespace k {
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long ulong;
using ::half;

#define K_DEVFN static __device__ __forceinline__
#define K_DEVM __device__ __forceinline__
#include "gpu/prelude/cxx.h"

K_DEVFN float exp(float x) { return __expf(x); }
K_DEVFN float log(float x) { return __logf(x); }
namespace precise {
K_DEVFN float exp(float x) { return expf(x); }
K_DEVFN float log(float x) { return logf(x); }
K_DEVFN float sqrt(float x) { return sqrtf(x); }
K_DEVFN float divide(float a, float b) { return __fdiv_rn(a, b); }
}

#define K_ALL_LANES 0xffffffffu
template <typename T> K_DEVFN T simd_shuffle(T v, uint from) { return __shfl_sync(K_ALL_LANES, v, from); }
template <typename T> K_DEVFN T simd_shuffle_xor(T v, uint mask) { return __shfl_xor_sync(K_ALL_LANES, v, mask); }
template <typename T> K_DEVFN T simd_broadcast(T v, uint from) { return __shfl_sync(K_ALL_LANES, v, from); }
K_DEVFN float simd_sum(float v)
{
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(K_ALL_LANES, v, o);
    return v;
}
K_DEVFN float simd_max(float v)
{
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(K_ALL_LANES, v, o));
    return v;
}

K_DEVFN int dot4_i8(uint a, uint b, int sum) { return __dp4a((int)a, (int)b, sum); }
/* Not __byte_perm, which masks the selector first. */
K_DEVFN uint byte_select(uint a, uint b, uint selector)
{
    uint bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
}

K_DEVFN uint pack_halves(float a, float b)
{
    uint pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}
/* 1024 + 128 + byte is a half whose low byte is the byte with its sign turned. */
K_DEVFN uint halves_of_bytes(uint word, uint i)
{
    uint pair;
    asm("prmt.b32 %0, %1, %2, %3;"
        : "=r"(pair) : "r"(word ^ 0x80808080u), "r"(0x64646464u), "r"(i ? 0x4342u : 0x4140u));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0x64806480u));
    return pair;
}

/* A tile of 16 x 16 is two mma.m16n8k16. The lane layouts are those of the PTX manual. */
struct tile_acc {
    float e[8];
};
struct tile_a {
    uint r[4];
};
struct tile_b {
    uint r[4];
};
K_DEVFN void tile_zero(tile_acc &c)
{
    for (int i = 0; i < 8; i++) c.e[i] = 0.0f;
}
K_DEVFN void k_load_four(uint (&r)[4], const half *p)
{
    uint at = (uint)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
K_DEVFN void tile_load_a(tile_a &a, const half *p, uint ld, uint lane)
{
    k_load_four(a.r, p + (lane & 15) * ld + (lane >> 4) * 8);
}
/* Four 8 x 8 blocks: (n 0, k 0), (n 0, k 8), (n 8, k 0), (n 8, k 8). */
K_DEVFN void tile_load_bt(tile_b &b, const half *p, uint ld, uint lane)
{
    k_load_four(b.r, p + ((lane & 7) + (lane >> 4) * 8) * ld + ((lane >> 3) & 1) * 8);
}
K_DEVFN void tile_load_b(tile_b &b, const half *p, uint ld, uint lane)
{
    uint at = (uint)__cvta_generic_to_shared(p + (lane & 15) * ld + (lane >> 4) * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b.r[0]), "=r"(b.r[1]), "=r"(b.r[2]), "=r"(b.r[3]) : "r"(at) : "memory");
}
K_DEVFN void k_mma(float *d, const uint *a, uint b0, uint b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
K_DEVFN void tile_mma(tile_acc &c, const tile_a &a, const tile_b &b)
{
    k_mma(c.e, a.r, b.r[0], b.r[1]);
    k_mma(c.e + 4, a.r, b.r[2], b.r[3]);
}
K_DEVFN void k_mma_first(float *d, const uint *a, uint b0, uint b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%10,%10,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}
K_DEVFN void tile_mma_first(tile_acc &c, const tile_a &a, const tile_b &b)
{
    k_mma_first(c.e, a.r, b.r[0], b.r[1]);
    k_mma_first(c.e + 4, a.r, b.r[2], b.r[3]);
}
K_DEVFN uint tile_row(uint lane, uint i) { return (lane >> 2) + ((i >> 1) & 1) * 8; }
K_DEVFN uint tile_col(uint lane, uint i) { return (i >> 2) * 8 + (lane & 3) * 2 + (i & 1); }
K_DEVFN float tile_get(const tile_acc &c, uint i) { return c.e[i]; }
K_DEVFN void tile_set(tile_acc &c, uint i, float v) { c.e[i] = v; }

/* A kernel that is launched early (host_cuda.c) begins while the one before it runs, and waits here until that one has
 * ended and its memory can be seen. What comes after it may be launched as soon as all its groups have begun, which
 * takes nothing from them. Every thread waits before it ends, because whoever waits for this kernel takes those before
 * it for done, too. No memory may be touched ahead of the wait, nor read as memory that nobody writes while the kernel
 * is there: buffers are not __restrict__, of which compilers make ld.global.nc. Launched plainly, both do nothing. */
K_DEVFN void k_begin()
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
}

#define K_CUDA 1
/* The CUDA headers spell __device__ as __attribute__((device)), which the keyword macro below would blank; kernels
 * use the attribute's other spelling. */
#undef __device__
#define K_DEVICE __attribute__((__device__))
#define device
#define threadgroup
#define thread
#define constant const
#define FN static K_DEVICE __forceinline__
/* The word after KERNEL(...) is its parameter list, with which it becomes a function that begins with k_begin and holds
 * the kernel's own block; EXPORT ends it. */
#define KERNEL(name, max_threads) \
    enum { name##_max_threads = max_threads }; \
    extern "C" __global__ void __launch_bounds__(max_threads) name K_PARAMETERS
#define K_PARAMETERS(...) (__VA_ARGS__) { k_begin();
#ifndef K_EXPORTED
#define K_EXPORTED(name)
#endif
#define EXPORT(name) } K_EXPORTED(name)
#define ARGS(T, a) const __grid_constant__ T a
#define IN(T, p) const T *p
#define OUT(T, p) T *p
#define INOUT(T, p) T *p
#define BUILTINS
#define k_group blockIdx
#define k_tid threadIdx.x
#define k_lane (threadIdx.x & 31u)
#define k_sg (threadIdx.x >> 5)
#define SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define TABLE(T, name, n) static K_DEVICE const T name[n]
#define UNROLL _Pragma("unroll")
#define BARRIER() __syncthreads()
#define SIMD_BARRIER() __syncwarp()

#endif
