/* lanes.c - see lanes_impl.h: for any processor. */
#define LANES_TABLE ptx_lanes_base
#include "gpu/ptx/lanes_impl.h"
