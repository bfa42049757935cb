/* encode.c - speed and error of the encoders on one core, turn by turn with another quantiser's where a library of it
 * is named: encode [ggml=libggml-base.so]. Gaussian rows of 4096, importance log-normal; error relative and weighted
 * with the importance. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "quant/quant.h"

#define N_ROWS 16
#define N_COLS 4096
#define N (N_ROWS * N_COLS)
#define ROUNDS 7

typedef size_t (*peer_fn)(int type, const float *from, void *to, int64_t start, int64_t n_rows, int64_t n_cols,
                          const float *importance);

static float values[N], importance[N_COLS], back[N];
static uint8_t blocks[N * 4];

static double gauss(struct rng *r)
{
    double u = 1 - rng_double(r), v = rng_double(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static double error_of(const struct quant_format *format)
{
    double difference = 0, norm = 0;
    format->decode(blocks, back, N);
    for (size_t i = 0; i < N; i++) {
        double w = (double)importance[i % N_COLS], d = (double)values[i] - (double)back[i];
        difference += w * d * d;
        norm += w * (double)values[i] * (double)values[i];
    }
    return sqrt(difference / norm);
}

static double time_own(const struct quant_format *format)
{
    uint64_t start = clock_ns(), row_bytes = 0;
    (void)quant_row_bytes(format, N_COLS, &row_bytes);
    for (size_t r = 0; r < N_ROWS; r++)
        format->encode(values + r * N_COLS, importance, blocks + r * row_bytes, N_COLS);
    return clock_seconds_since(start);
}

static double time_peer(peer_fn peer, const struct quant_format *format)
{
    uint64_t start = clock_ns();
    (void)peer((int)format->id, values, blocks, 0, N_ROWS, N_COLS, importance);
    return clock_seconds_since(start);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const struct quant_format *format, peer_fn peer)
{
    double own[ROUNDS], other[ROUNDS], own_error = 0, other_error = 0;
    for (int i = 0; i < ROUNDS; i++) {
        own[i] = time_own(format);
        if (i == 0) own_error = error_of(format);
        other[i] = peer ? time_peer(peer, format) : 0;
        if (i == 0 && peer) other_error = error_of(format);
    }
    qsort(own, ROUNDS, sizeof *own, ascending);
    qsort(other, ROUNDS, sizeof *other, ascending);
    (void)printf("%-8s %7.2f million weights/s, weighted error %.4f", format->name, N / own[ROUNDS / 2] / 1e6,
                 own_error);
    if (peer)
        (void)printf("; the other %7.2f, %.4f: %.2f times as fast", N / other[ROUNDS / 2] / 1e6, other_error,
                     other[ROUNDS / 2] / own[ROUNDS / 2]);
    (void)printf("\n");
}

int main(int argc, char **argv)
{
    static const enum quant_id ids[] = {QUANT_IQ2_XXS, QUANT_Q2_K, QUANT_Q4_K, QUANT_Q6_K, QUANT_Q8_0, QUANT_MXFP4};
    const char *library = argc > 1 && strncmp(argv[1], "ggml=", 5) == 0 && argv[1][5] ? argv[1] + 5 : NULL;
    void *handle = library ? dlopen(library, RTLD_NOW) : NULL, *symbol = handle ? dlsym(handle, "ggml_quantize_chunk")
                                                                               : NULL;
    peer_fn peer = NULL;
    struct rng r = {.state = 7};
    if (library && !symbol) {
        (void)fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    if (symbol) memcpy(&peer, &symbol, sizeof peer);
    for (size_t i = 0; i < N; i++) values[i] = (float)gauss(&r);
    for (size_t i = 0; i < N_COLS; i++) importance[i] = (float)exp(gauss(&r));
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) measure(quant_format(ids[i]), peer);
    return 0;
}
