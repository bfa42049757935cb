/* same_state.c - see same_state.h. */
#include "lib/same_state.h"

#include <stdlib.h>
#include <string.h>

#include "lib/test.h"

static uint8_t *span_of(const struct ds4_session *s, size_t i)
{
    struct ds4_error error = {0};
    uint8_t *span = malloc((size_t)s->host->layout->span_bytes);
    assert_non_null(span);
    assert_ok(ds4_session_span_save(s, i, span, &error), error);
    return span;
}

static void assert_same_rows(const struct op_span_rows *rows, uint32_t ratio, const struct ds4_session *a,
                             const struct ds4_session *b)
{
    size_t n = a->tokens.n / ratio, each = rows->rows_per_span;
    for (size_t i = 0; i * each < n; i++) {
        uint8_t *x = span_of(a, i), *y = span_of(b, i);
        size_t here = n - i * each < each ? n - i * each : each;
        assert_memory_equal(x + rows->offset, y + rows->offset, here * rows->row_bytes);
        free(x);
        free(y);
    }
}

void assert_same_snapshot(const struct ds4_session *a, const struct ds4_session *b)
{
    size_t cap = a->host->tip_bytes_max, len[2];
    uint8_t *tips[2] = {calloc(cap, 1), calloc(cap, 1)};
    struct ds4_error error = {0};
    assert_int_equal(a->tokens.n, b->tokens.n);
    assert_memory_equal(a->tokens.ids, b->tokens.ids, a->tokens.n * sizeof *a->tokens.ids);
    assert_ok(ds4_session_tip_save(a, tips[0], cap, &len[0], &error), error);
    assert_ok(ds4_session_tip_save(b, tips[1], cap, &len[1], &error), error);
    assert_int_equal(len[0], len[1]);
    assert_memory_equal(tips[0], tips[1], len[0]);
    assert_int_equal(ds4_session_spans(a), ds4_session_spans(b));
    for (uint32_t l = 0; l < a->host->layout->n_layers; l++) {
        const struct layer_state *layer = &a->host->layout->layers[l];
        if (layer->ratio) assert_same_rows(&layer->rows, layer->ratio, a, b);
        if (layer->ratio == 4) assert_same_rows(&layer->index_rows, 4, a, b);
    }
    free(tips[0]);
    free(tips[1]);
}

void assert_same_state(const struct ds4_session *a, const struct ds4_session *b)
{
    assert_same_snapshot(a, b);
    assert_int_equal(ds4_session_rewind_min(a), ds4_session_rewind_min(b));
}
