/* kernels.cpp - all kernels for the emulator. Compiled with -fsanitize=thread, whose functions are in memory.c. */
#include "gpu/prelude/emu.h"

extern "C" const int emu_kernels_linked;

namespace k {
#include "gpu/kernels/all.k"
}

/* Named by host_emu.c, so that the linker takes this file from an archive. */
extern "C" const int emu_kernels_linked = 1;
