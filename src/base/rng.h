/* rng.h - small seeded generators. splitmix64 is the stream that the fixtures' weights are defined by. */
#ifndef DS4_BASE_RNG_H
#define DS4_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

/* Next output of splitmix64 whose state starts at the seed. */
static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
/* Uniform in [0, 1) with 24 bits. */
static inline float rng_float(struct rng *r) { return (float)(rng_next(r) >> 40) * 0x1p-24f; }
/* Uniform in [0, 1) with 53 bits. */
static inline double rng_double(struct rng *r) { return (double)(rng_next(r) >> 11) * 0x1p-53; }
/* Uniform in [0, n), n >= 1 (bias below 2^-32 for n < 2^32). */
static inline uint64_t rng_below(struct rng *r, uint64_t n) { return n ? rng_next(r) % n : 0; }

/* FNV-1a 64 of a NUL-terminated name: the seeds of generated tensors. */
static inline uint64_t fnv1a(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

#endif
