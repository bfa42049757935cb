/* cxx.h - what CUDA and the emulator share of the kernel dialect: MSL's vector types, conversions and maths in plain
 * C++. Included inside namespace k by cuda.h and emu.h, which define K_DEVFN and K_DEVM first. */
#ifndef DS4_GPU_PRELUDE_CXX_H
#define DS4_GPU_PRELUDE_CXX_H
#ifndef K_DEVFN
#error "K_DEVFN must be defined by the including prelude"
#endif

struct alignas(16) float4 {
    float x, y, z, w;
    float4() = default;
    K_DEVM float4(float a, float b, float c, float d) : x(a), y(b), z(c), w(d) {}
    K_DEVM explicit float4(float a) : x(a), y(a), z(a), w(a) {}
};
struct alignas(16) uint4 {
    uint x, y, z, w;
};
struct uint3 {
    uint x, y, z;
};
struct alignas(8) half4 {
    half x, y, z, w;
};
K_DEVFN float4 operator+(float4 a, float4 b) { return float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
K_DEVFN float4 operator-(float4 a, float4 b) { return float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w); }
K_DEVFN float4 operator*(float4 a, float4 b) { return float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
K_DEVFN float4 operator*(float4 a, float s) { return float4(a.x * s, a.y * s, a.z * s, a.w * s); }
K_DEVFN float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
K_DEVFN float4 to_float4(half4 h) { return float4(float(h.x), float(h.y), float(h.z), float(h.w)); }

template <typename D, typename S> K_DEVFN D as_type(S s)
{
    static_assert(sizeof(D) == sizeof(S), "as_type needs types of one size");
    D d;
    memcpy(&d, &s, sizeof d);
    return d;
}

K_DEVFN float min(float a, float b) { return fminf(a, b); }
K_DEVFN float max(float a, float b) { return fmaxf(a, b); }
K_DEVFN int min(int a, int b) { return a < b ? a : b; }
K_DEVFN int max(int a, int b) { return a > b ? a : b; }
K_DEVFN uint min(uint a, uint b) { return a < b ? a : b; }
K_DEVFN uint max(uint a, uint b) { return a > b ? a : b; }
K_DEVFN float clamp(float x, float lo, float hi) { return fminf(fmaxf(x, lo), hi); }
K_DEVFN float fabs(float x) { return fabsf(x); }
K_DEVFN float rint(float x) { return rintf(x); }
K_DEVFN float fma(float a, float b, float c) { return fmaf(a, b, c); }

#endif
