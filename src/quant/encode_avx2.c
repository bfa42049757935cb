/* encode_avx2.c - the searches of the encoders, built for AVX2; encode.c decides at run time. */
#include "quant/encode.h"

#ifdef __AVX2__
#define VARIANT(name) name##_avx2
#include "quant/affine_impl.h"
#include "quant/block32_impl.h"
#include "quant/feedback_impl.h"
#include "quant/iq2_xxs_impl.h"
#include "quant/q6_k_impl.h"
#endif
