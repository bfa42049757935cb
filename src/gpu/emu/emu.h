/* emu.h - the emulator of a GPU: runs a grid of threadgroups, each thread a fiber, with barriers and simd operations as
 * on a GPU of 32 lanes, and looks at every access to memory.
 *
 * The kernels are compiled with -fsanitize=thread, for which compilers call a function around each access; the
 * sanitizer itself is not linked, the functions are ours (memory.c). What is reported, whatever order threads ran in:
 * accesses outside of what was bound or declared, or misaligned; writes to read-only bindings; threadgroup memory that
 * is read before it was written, or exceeds 32 KB; two threads at one byte without a barrier between, one of them
 * writing; a byte that one threadgroup writes and another touches; simd operations and barriers that not all reach;
 * grids that CUDA refuses.
 *
 * One launch at a time in a process; a lock sees to it. */
#ifndef DS4_GPU_EMU_H
#define DS4_GPU_EMU_H

#include "gpu/emu/emu_kernel.h"

#define EMU_GRID_X_MAX 2147483647u
#define EMU_GRID_YZ_MAX 65535u

enum emu_order { EMU_FORWARD, EMU_REVERSE, EMU_RANDOM };         /* in which threads run */
enum emu_layout { EMU_LAYOUT_APPLE, EMU_LAYOUT_NVIDIA, EMU_LAYOUT_SCRAMBLED }; /* elements of a tile over lanes */

struct emu_options {
    enum emu_order order;
    enum emu_layout layout;
    uint32_t seed;
};
void emu_set_options(const struct emu_options *options);

struct emu_binding {
    void *ptr;
    size_t bytes;
};
struct emu_report {
    uint64_t n_errors, n_barriers, n_simd, n_loads, n_stores; /* of one launch */
    char first[256];                                            /* the first error, as a sentence */
};

const struct emu_kernel *emu_find(const char *name); /* NULL when there is none */
/* All kernels, one after the other: begins with NULL, and ends so. */
const struct emu_kernel *emu_next(const struct emu_kernel *before);
/* Runs a grid of groups; bindings[0] is the record. False when anything was reported. */
bool emu_launch(const struct emu_kernel *kernel, const unsigned grid[3], unsigned n_threads,
                const struct emu_binding *bindings, int n_bindings, struct emu_report *report);
/* Between on and off, launches count as one: what one writes another must not touch, until a barrier. */
void emu_overlap(bool on);
void emu_device_barrier(void);
/* Of the kernels, records, buffers and grids that the host file (host_emu.c) was given since the last call: equal for
 * lists that a device could replay. */
uint64_t emu_dispatch_digest(void);
/* Lists that the host file was given since the last call, and how many of them a device could not have replayed,
 * because they were not among those before (gpu/replay.h). */
void emu_lists(unsigned *n, unsigned *n_new);
/* Wrapped memory is copied from now on, as by a device with memory of its own. */
void emu_copy_weights(bool on);
/* Times since the last call that a device would have come to rest: waits, reads and writes. */
uint64_t emu_n_rests(void);
uint64_t emu_n_sent(void);   /* copies beside the dispatches since the last call */
unsigned emu_n_opened(void); /* devices of the host file since the last call */
/* Gives back stacks and records. */
void emu_release(void);

#endif
