/* state_layout.h - where the state of a session lies.
 *
 * A session's state has two parts. The *tail* is small and of constant size: per layer a ring of raw key-value rows
 * and the slots of the compressors. *Spans* are append-only: span i holds, for all layers, the compressed rows that
 * tokens [i*span_tokens, (i+1)*span_tokens) complete. A full span never changes, so sessions share it and a store
 * writes it once.
 *
 *   tail:  layer 0 [ring | slots k,g | index slots k,g]  layer 1 ...  (draft block: ring)
 *   span:  layer 0 [span_tokens/ratio rows | span_tokens/4 index rows]  layer 1 ...
 *
 * Rings hold window + max(chunk, window) + 1 rows: a chunk sees the rows before it, and the session can be rewound by
 * up to `window` tokens, also while a step is computed ahead of its end. Compressor slots reach back as far for the
 * same reasons. */
#ifndef DS4_MODEL_STATE_LAYOUT_H
#define DS4_MODEL_STATE_LAYOUT_H

#include "model/hparams.h"

#define STATE_LAYOUT_VERSION 1u
/* Tokens of a span: a multiple of every ratio. 256 tokens of Flash are 0.9 MB. */
#ifdef DS4_SMALL_LIMITS
#define STATE_SPAN_TOKENS 128u
#else
#define STATE_SPAN_TOKENS 256u
#endif

struct layer_state {
    struct op_ring ring;
    uint32_t ratio;
    uint64_t slots_offset;       /* bytes in the tail: k [n_slots][width], then g */
    uint32_t n_slots, width;
    struct op_span_rows rows;
    uint64_t index_slots_offset; /* ratio 4 only; n_slots as above */
    uint32_t index_width;
    struct op_span_rows index_rows;
};

struct state_layout {
    uint32_t n_layers;           /* trunk, plus one when there is a draft block */
    uint32_t rewind_max;         /* tokens */
    uint32_t reach_tokens;       /* how far before a position its tail can depend on raw rows: a window a layer */
    uint64_t tail_bytes, span_bytes;
    uint64_t bytes_per_token;    /* growth, rounded up */
    struct layer_state layers[HPARAMS_LAYERS_MAX + 1];
};

/* format: PACKED (the engine's) or F32 (reference and ideal mode). chunk_tokens: most rows of one batch. */
void state_layout_make(const struct hparams *h, bool has_mtp, enum op_row_format format, uint32_t chunk_tokens,
                       struct state_layout *out);

#endif
