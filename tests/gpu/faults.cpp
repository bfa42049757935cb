/* faults.cpp - the kernels of faults.k for the emulator. */
#include "gpu/prelude/emu.h"

namespace k {
#include "gpu/kernels/records.h"
#include "../tests/gpu/faults.k"
}
