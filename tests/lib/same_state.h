/* same_state.h - two sessions of one engine hold the same, bit by bit. */
#ifndef DS4_TESTS_SAME_STATE_H
#define DS4_TESTS_SAME_STATE_H

#include "session/session.h"

/* All that a snapshot of either has: tokens, tip with logits, compressed rows. */
void assert_same_snapshot(const struct ds4_session *a, const struct ds4_session *b);
/* And how far they go back. */
void assert_same_state(const struct ds4_session *a, const struct ds4_session *b);

/* Few enough parameters for the emulator of GPUs, with every kind of layer. */
#define MODEL_EMULATED \
    "random --seed 3 --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 4 --used 2 " \
    "--inner 32 --hash-layers 1 --vocab 300 --hc 2 --context 1024 --type q8_0 --experts-type mxfp4 --small f16"

#endif
