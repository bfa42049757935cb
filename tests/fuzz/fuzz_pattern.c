/* fuzz_pattern.c - first byte: place and lengths; then a pattern and, behind a zero byte, a text. A pattern is refused
 * with a reason, or wherever the text leads in its table an end is reached within as many bytes as it has states. */
#include <stdlib.h>
#include <string.h>

#include "session/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise) abort();
}

static void complete(const struct pattern *p, uint32_t state)
{
    uint32_t n = 0;
    for (; !p->ends[state]; n++) {
        check(n <= p->n_states);
        state = pattern_step(p, state, p->way[state]);
        check(state < p->n_states);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pattern *p = NULL;
    const char *why = "";
    uint64_t work = 0;
    if (size < 1) return 0;
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    size_t n = zero ? (size_t)(zero - data) - 1 : size - 1;
    struct pattern_options options = {.source = {span_make((const char *)data + 1, n)},
                                      .place = (enum pattern_place)(data[0] % 3), .min_chars = data[0] / 3 % 4,
                                      .max_chars = data[0] < 128 ? PATTERN_NO_LIMIT : data[0] % 16u};
    if (pattern_compile(&options, &p, &why, &work) != DS4_OK) {
        check(why[0] != 0);
        return 0;
    }
    uint32_t state = 0;
    complete(p, state);
    for (size_t i = n + 2; i < size; i++) {
        state = pattern_step(p, state, data[i]);
        if (state == PATTERN_DEAD) break;
        complete(p, state);
    }
    pattern_destroy(p);
    return 0;
}
