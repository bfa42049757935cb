/* encode_plain.c - the searches of the encoders, built for any machine. */
#define VARIANT(name) name##_plain
#include "quant/affine_impl.h"
#include "quant/block32_impl.h"
#include "quant/feedback_impl.h"
#include "quant/iq2_xxs_impl.h"
#include "quant/q6_k_impl.h"
