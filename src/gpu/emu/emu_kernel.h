/* emu_kernel.h - what kernels see of the emulator, through prelude/emu.h: where a thread is, how it meets the others,
 * and how a kernel makes itself known. C, plus the templates that unpack a kernel's parameters in C++. */
#ifndef DS4_GPU_EMU_KERNEL_H
#define DS4_GPU_EMU_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EMU_PARAMS_MAX 31 /* Metal's number of buffers */

#ifdef __cplusplus
extern "C" {
#endif

/* A kernel as the emulator calls it. run unpacks args: [0] the record, then the buffers in the order of parameters. */
struct emu_kernel {
    const char *name;
    void (*fn)(void);
    void (*run)(void (*fn)(void), void *const *args);
    int n_params, max_threads;
    size_t record_bytes;
    const bool *read_only; /* [n_params] */
    struct emu_kernel *next;
    uint64_t n_launches;
};
void emu_register(struct emu_kernel *kernel);

unsigned emu_thread(void);        /* in its threadgroup */
unsigned emu_lane(void);          /* in its simdgroup */
unsigned emu_group(int axis);     /* place of the threadgroup in the grid */
void *emu_shared(size_t bytes, const char *name);
void emu_barrier(int line);
void emu_simd_barrier(int line);
uint32_t emu_shuffle(uint32_t v, unsigned from, int line);
float emu_simd_sum(float v, int line);
float emu_simd_max(float v, int line);
unsigned emu_tile_row(unsigned lane, unsigned i);
unsigned emu_tile_col(unsigned lane, unsigned i);
void emu_tile_mma(float *c, const float *a, const float *b, int line);
void emu_tile_align(const void *p, unsigned ld, int line);
uint16_t emu_f16_from_f32(float f);
float emu_f16_to_f32(uint16_t h);

#ifdef __cplusplus
}

#include <utility>

namespace emu {
/* A parameter is a pointer or a reference to a record; const means read-only. */
template <typename P> struct Parameter {
    static P get(void *p) { return (P)p; }
    static constexpr bool read_only = false;
    static constexpr size_t bytes = 0;
};
template <typename T> struct Parameter<const T *> {
    static const T *get(void *p) { return (const T *)p; }
    static constexpr bool read_only = true;
    static constexpr size_t bytes = 0;
};
template <typename T> struct Parameter<const T &> {
    static const T &get(void *p) { return *(const T *)p; }
    static constexpr bool read_only = true;
    static constexpr size_t bytes = sizeof(T);
};
template <typename... P, size_t... I> void call(void (*f)(P...), void *const *args, std::index_sequence<I...>)
{
    f(Parameter<P>::get(args[I])...);
}
template <typename... P> void run(void (*fn)(), void *const *args)
{
    call((void (*)(P...))fn, args, std::index_sequence_for<P...>());
}
template <typename First, typename...> struct Record {
    static constexpr size_t bytes = Parameter<First>::bytes;
};
struct Registration {
    emu_kernel kernel;
    template <typename... P> Registration(const char *name, void (*fn)(P...), int max_threads)
    {
        static const bool read_only[] = {Parameter<P>::read_only...};
        kernel = emu_kernel{name, (void (*)())fn, &run<P...>, (int)sizeof...(P), max_threads, Record<P...>::bytes,
                            read_only, nullptr, 0};
        emu_register(&kernel);
    }
};
}
#endif

#endif
