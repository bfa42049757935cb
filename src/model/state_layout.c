/* state_layout.c - offsets of rings, slots and compressed rows. See state_layout.h. */
#include "model/state_layout.h"

#include "ops/rows.h"

static uint64_t align64(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static struct op_span_rows place_rows(uint64_t *span_bytes, enum op_row_format format, uint32_t row_bytes,
                                      uint32_t ratio)
{
    struct op_span_rows rows = {.offset = *span_bytes, .row_bytes = row_bytes,
                                .rows_per_span = STATE_SPAN_TOKENS / ratio, .format = format};
    *span_bytes = align64(*span_bytes + (uint64_t)rows.rows_per_span * row_bytes);
    return rows;
}

static uint64_t place_slots(uint64_t *tail_bytes, uint32_t n_slots, uint32_t width)
{
    uint64_t offset = *tail_bytes;
    *tail_bytes = align64(*tail_bytes + 2ull * n_slots * width * sizeof(float));
    return offset;
}

static void place_layer(const struct hparams *h, uint32_t ratio, enum op_row_format format, uint32_t chunk_tokens,
                        struct state_layout *out, struct layer_state *layer)
{
    uint32_t kv_bytes = kv_row_bytes(format, h->head_dim, h->n_rope);
    uint32_t ahead = chunk_tokens > h->window ? chunk_tokens : h->window;
    *layer = (struct layer_state){.ratio = ratio};
    layer->ring = (struct op_ring){.offset = out->tail_bytes, .row_bytes = kv_bytes, .n_slots = h->window + ahead + 1,
                                   .format = format}; /* one for a step that may be taken back */
    out->tail_bytes = align64(out->tail_bytes + (uint64_t)layer->ring.n_slots * kv_bytes);
    if (ratio == 0) return;
    layer->width = ratio == 4 ? 2 * h->head_dim : h->head_dim;
    /* Two pooled windows of ratio 4 or one of another, plus the way back of a rewind. The last position of a window is
     * the one that is being written, so that this, too, leaves one for a step that may be taken back. */
    layer->n_slots = (ratio == 4 ? 8 : ratio) + h->window;
    layer->slots_offset = place_slots(&out->tail_bytes, layer->n_slots, layer->width);
    layer->rows = place_rows(&out->span_bytes, format, kv_bytes, ratio);
    if (ratio != 4) return;
    layer->index_width = 2 * h->index_dim;
    layer->index_slots_offset = place_slots(&out->tail_bytes, layer->n_slots, layer->index_width);
    layer->index_rows = place_rows(&out->span_bytes, format, index_row_bytes(format, h->index_dim), ratio);
}

void state_layout_make(const struct hparams *h, bool has_mtp, enum op_row_format format, uint32_t chunk_tokens,
                       struct state_layout *out)
{
    *out = (struct state_layout){.n_layers = h->n_layers + (has_mtp ? 1 : 0), .rewind_max = h->window};
    /* The raw rows of the first layer depend on their tokens alone. Those of each next one depend on a window of the
     * one before, that is on window - 1 earlier positions; and the tail holds a last window and open slots. */
    uint32_t last = h->window;
    for (uint32_t l = 0; l < out->n_layers; l++) {
        uint32_t ratio = l < h->n_layers ? h->ratio[l] : 0, open = ratio == 4 ? 2 * ratio : ratio;
        if (open > last) last = open;
        place_layer(h, ratio, format, chunk_tokens, out, &out->layers[l]);
    }
    out->reach_tokens = last + (h->window - 1) * (out->n_layers - 1);
    if (out->span_bytes == 0) out->span_bytes = 64; /* a model without compression still has spans to count */
    out->bytes_per_token = (out->span_bytes + STATE_SPAN_TOKENS - 1) / STATE_SPAN_TOKENS;
}
