/* check.cpp - what the conformance check compiles: the Metal prelude, all kernels, the sample that NEGATIVE names. */
#define K_CHECK 1
#include "gpu/prelude/metal.h"
#include "gpu/kernels/all.k"
#ifdef NEGATIVE
#include NEGATIVE
#endif
