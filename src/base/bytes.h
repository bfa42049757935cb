/* bytes.h - little-endian loads and stores at any alignment. */
#ifndef DS4_BASE_BYTES_H
#define DS4_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ds4 runs on little-endian machines only");

static inline uint16_t load_u16(const void *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint32_t load_u32(const void *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint64_t load_u64(const void *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }
static inline float load_f32(const void *p) { float v; memcpy(&v, p, sizeof v); return v; }
static inline double load_f64(const void *p) { double v; memcpy(&v, p, sizeof v); return v; }
static inline void store_u16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void store_u32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void store_u64(void *p, uint64_t v) { memcpy(p, &v, sizeof v); }
static inline void store_f32(void *p, float v) { memcpy(p, &v, sizeof v); }

static inline uint32_t f32_bits(float f) { uint32_t u; memcpy(&u, &f, sizeof u); return u; }
static inline float f32_from_bits(uint32_t u) { float f; memcpy(&f, &u, sizeof f); return f; }

#endif
