/* op_run.c - see op_run.h. */
#include "lib/op_run.h"

#include <math.h>

#include "base/f16.h"
#include "base/mem.h"
#include "lib/test.h"
#include "quant/quant.h"

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* As tight as the interface allows, so that a backend that needs more than it was told is caught. */
static struct backend_limits limits_of(const struct op_shape *s)
{
    uint32_t n_groups = max_u32(s->n_groups, 1), n_visible = 0;
    if (s->ratio) n_visible = (s->start + 64 * max_u32(s->n_seqs, 1) + s->n_rows) / s->ratio + 1;
    struct backend_limits limits = {.n_rows = s->n_rows, .n_heads = s->n_heads, .n_experts = s->n_stack,
                                    .n_used = s->n_used, .n_ff = max_u32(s->n_in, s->n_out)};
    limits.n_in = max_u32(s->n_in * n_groups, s->n_hc * s->n_embd);
    limits.n_attn_rows = s->window + (s->top_k ? s->top_k : n_visible);
    limits.n_index_rows = n_visible;
    limits.n_index_heads = s->n_heads;
    limits.dim = s->is_index ? 0 : s->dim;
    limits.index_dim = s->is_index ? s->dim : 0;
    return limits;
}

void op_run_case(struct op_run *run, const struct op_backend_entry *entry, uint32_t n_threads, const char *name,
                 op_case_fn fn, const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks)
{
    struct backend_limits limits = limits_of(shape);
    memset(run, 0, sizeof *run);
    run->rng.state = fnv1a(name);
    run->shape = shape;
    run->chunks = chunks;
    run->n_chunks = n_chunks;
    op_dev_open(&run->dev, entry, &limits, n_threads, shape->large ? 512u << 20 : 32u << 20);
    fn(run, shape);
    op_dev_close(&run->dev);
}

struct op_host_block {
    struct op_host_block *next;
    char pad[64 - sizeof(void *)]; /* keeps what follows aligned */
};

void op_run_free(struct op_run *run)
{
    while (run->hosts) {
        struct op_host_block *next = run->hosts->next;
        mem_free(run->hosts);
        run->hosts = next;
    }
}

bool op_next(struct op_run *run)
{
    uint32_t left = run->shape->n_rows - (run->first + run->n);
    run->first += run->n;
    run->n = run->n_chunks ? run->chunks[run->chunk_i++ % run->n_chunks] : left;
    if (run->n > left) run->n = left;
    return left > 0;
}

void *op_host(struct op_run *run, size_t count, size_t size)
{
    struct op_host_block *block = mem_zalloc(1, sizeof *block + count * size);
    assert_non_null(block);
    block->next = run->hosts;
    run->hosts = block;
    return block + 1;
}

/* The sum of four uniform numbers, scaled to unit variance: near enough to a bell. */
static float bell(struct rng *rng)
{
    uint64_t z = rng_next(rng);
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (uint32_t)(z >> 16 * i) & 0xFFFF;
    return ((float)sum * 0x1p-16f - 2) * 1.7320508f;
}

void op_fill(struct op_run *run, float *x, size_t n, enum op_fill fill)
{
    for (size_t i = 0; i < n; i++) {
        float g = bell(&run->rng);
        switch (fill) {
        case FILL_ZERO: x[i] = 0; break;
        case FILL_HUGE: x[i] = g * 0x1p40f; break;
        case FILL_TINY: x[i] = g * 0x1p-40f; break;
        case FILL_INTEGERS: x[i] = rintf(g); break;
        case FILL_SPIKES: x[i] = i % 37 == 5 ? g * 30 : g * 0.03f; break;
        case FILL_STAIRS: x[i] = ldexpf(g, (int)(i / 64 * 7 % 25) - 12); break;
        case FILL_NORMAL: x[i] = g; break;
        }
    }
}

float *op_input(struct op_run *run, size_t n, const float **host)
{
    float *x = op_host(run, n, sizeof *x);
    op_fill(run, x, n, run->shape->fill);
    if (host) *host = x;
    return op_put_skewed(&run->dev, x, n * sizeof *x, run->shape->skew);
}

float *op_parameters(struct op_run *run, size_t n, float scale, float offset)
{
    float *x = op_host(run, n, sizeof *x);
    op_fill(run, x, n, FILL_NORMAL);
    for (size_t i = 0; i < n; i++) x[i] = x[i] * scale + offset;
    return op_put(&run->dev, x, n * sizeof *x);
}

float *op_result(struct op_run *run, size_t n)
{
    float *there = op_put_skewed(&run->dev, NULL, n * sizeof(float), run->shape->skew);
    return there;
}

/* A random block with sane scales. Scale bytes inside the blocks of the K and IQ formats are random as they are. */
static void random_block(struct op_run *run, const struct quant_format *format, uint8_t *block)
{
    for (uint32_t i = 0; i < format->block_bytes; i += 8) {
        uint64_t z = rng_next(&run->rng);
        memcpy(block + i, &z, format->block_bytes - i < 8 ? format->block_bytes - i : 8);
    }
    if (format->id == QUANT_F32) store_f32(block, bell(&run->rng));
    if (format->id == QUANT_BF16) store_u16(block, bf16_from_f32(bell(&run->rng)));
    if (format->id == QUANT_MXFP4) block[0] = (uint8_t)(122 + block[0] % 8);
    if (format->id == QUANT_NVFP4)
        for (int i = 0; i < 4; i++) block[i] = (uint8_t)(0x20 + block[i] % 0x30);
    for (uint32_t i = 0; i < format->n_scales; i++) {
        float scale = (0.01f + 0.02f * rng_float(&run->rng)) / (float)(i + 1);
        if (format->id == QUANT_F16) scale = bell(&run->rng);
        if (i == 0 && rng_next(&run->rng) & 1) scale = -scale;
        store_u16(block + format->scales_at + 2 * i, f16_from_f32(scale));
    }
}

static double block_squares(const struct quant_format *format, const uint8_t *block)
{
    float values[256];
    double squares = 0;
    format->decode(block, values, format->block_elems);
    for (uint32_t j = 0; j < format->block_elems; j++) squares += (double)values[j] * (double)values[j];
    return squares;
}

struct op_weight op_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                           double *rms)
{
    const struct quant_format *format = quant_format(type);
    struct op_weight w = {.type = type, .n_in = n_in, .n_out = n_out, .n_stack = n_stack};
    if (!format || !quant_row_bytes(format, n_in, &w.row_bytes)) fail_msg("no rows of %u of type %u", n_in, type);
    w.stack_bytes = w.row_bytes * n_out;
    size_t bytes = (size_t)w.stack_bytes * n_stack, n_blocks = bytes / format->block_bytes;
    uint8_t *blocks = op_host(run, bytes, 1);
    double squares = 0;
    for (size_t i = 0; i < n_blocks; i++) {
        random_block(run, format, blocks + i * format->block_bytes);
        if (rms && i % 16 == 0) squares += block_squares(format, blocks + i * format->block_bytes); /* a sample */
    }
    size_t n_sampled = (n_blocks + 15) / 16 * format->block_elems;
    if (rms) *rms = sqrt(squares / (double)n_sampled);
    w.data = op_put(&run->dev, blocks, bytes);
    return w;
}

struct op_output *op_output_add(struct op_run *run, const char *name, enum op_output_kind kind, void *data,
                                size_t n_rows, size_t row_n)
{
    assert_true(run->n_outputs < sizeof run->outputs / sizeof *run->outputs);
    struct op_output *output = &run->outputs[run->n_outputs++];
    *output = (struct op_output){.name = name, .kind = kind, .n_rows = n_rows, .row_n = row_n, .data = data};
    return output;
}

struct op_output *op_output_floats(struct op_run *run, const char *name, const float *there, size_t n_rows,
                                   size_t row_n, double tolerance)
{
    float *here = op_host(run, n_rows * row_n, sizeof *here);
    op_get(&run->dev, here, there, n_rows * row_n * sizeof *here);
    struct op_output *output = op_output_add(run, name, OUTPUT_FLOAT, here, n_rows, row_n);
    output->tolerance = tolerance;
    return output;
}

#define ROW_SLACK 1.5 /* the tolerance is for the root mean square over rows; of many rows the worst is further off */

static void compare_floats(const struct op_output *got, const struct op_output *want, const char *what, double *worst)
{
    const float *a = got->data, *b = want->data;
    size_t n_steps = 0, n_all = got->n_rows * got->row_n;
    double squares = 0;
    for (size_t r = 0; r < got->n_rows; r++) {
        double difference = 0, norm = want->floors ? want->floors[r] * want->floors[r] : 0, square = 0;
        for (size_t i = r * got->row_n; i < (r + 1) * got->row_n; i++) {
            double d = (double)a[i] - (double)b[i];
            if (!isfinite(a[i]) || !isfinite(b[i])) fail_msg("%s: %s[%zu] = %g, wanted %g", what, got->name, i,
                                                             (double)a[i], (double)b[i]);
            difference += d * d;
            square += (double)b[i] * (double)b[i];
            n_steps += fabs(d) > 1e-4 * fabs((double)b[i]);
        }
        norm = fmax(norm, square);
        double error = difference == 0 ? 0 : sqrt(difference / norm);
        if (!(error <= ROW_SLACK * want->tolerance))
            fail_msg("%s: %s row %zu is off by %.2e of its norm %.3g, tolerance %.1e", what, got->name, r, error,
                     sqrt(norm), want->tolerance);
        if (error > 0 && error / want->tolerance > *worst) *worst = error / want->tolerance;
        squares += error * error;
    }
    double rms = sqrt(squares / (double)got->n_rows);
    if (!(rms <= want->tolerance))
        fail_msg("%s: rows of %s are off by %.2e of their norms, tolerance %.1e", what, got->name, rms,
                 want->tolerance);
    if (want->kind == OUTPUT_ROUNDED && n_steps > n_all / 50 + 1)
        fail_msg("%s: %s has %zu of %zu values a step away", what, got->name, n_steps, n_all);
}

/* The ids of a row are distinct candidates, in the order promised; none that was left out has a better score (by more
 * than the tolerance, relative to the largest magnitude), and of equal scores the lower ids were taken. */
static void check_top_row(const struct op_output *o, size_t r, const char *what)
{
    const int32_t *ids = (const int32_t *)o->data + r * o->row_n;
    const double *scores = o->scores + r * o->n_scores;
    double largest = 0;
    for (size_t i = 0; i < o->n_items[r]; i++) largest = fmax(largest, fabs(scores[i]));
    double slack = o->tolerance * largest;
    for (int32_t i = 0; i < o->counts[r]; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= o->n_items[r])
            fail_msg("%s: %s row %zu chose %d of %u", what, o->name, r, ids[i], o->n_items[r]);
        if (i > 0 && o->ascending && ids[i] <= ids[i - 1])
            fail_msg("%s: %s row %zu: %d after %d", what, o->name, r, ids[i], ids[i - 1]);
        if (i > 0 && !o->ascending && scores[ids[i]] > scores[ids[i - 1]] + slack)
            fail_msg("%s: %s row %zu: a better choice comes later", what, o->name, r);
        if (i > 0 && !o->ascending && scores[ids[i]] == scores[ids[i - 1]] && ids[i] < ids[i - 1])
            fail_msg("%s: %s row %zu: equals are not in the order of their ids", what, o->name, r);
        for (int32_t j = 0; j < i; j++) assert_int_not_equal(ids[i], ids[j]);
    }
    for (uint32_t c = 0; c < o->n_items[r]; c++) {
        bool chosen = false;
        for (int32_t i = 0; i < o->counts[r]; i++) chosen |= ids[i] == (int32_t)c;
        for (int32_t i = 0; !chosen && i < o->counts[r]; i++) {
            double taken = scores[ids[i]];
            if (scores[c] > taken + slack || (scores[c] == taken && (int32_t)c < ids[i]))
                fail_msg("%s: %s row %zu took %d (%.9g) and left %u (%.9g)", what, o->name, r, ids[i], taken, c,
                         scores[c]);
        }
    }
}

void op_compare(const struct op_run *run, const struct op_run *ref, const char *what, double *worst)
{
    assert_int_equal(run->n_outputs, ref->n_outputs);
    for (size_t i = 0; i < run->n_outputs; i++) {
        const struct op_output *got = &run->outputs[i], *want = &ref->outputs[i];
        assert_int_equal(got->n_rows * got->row_n, want->n_rows * want->row_n);
        if (got->kind == OUTPUT_BYTES) {
            const uint8_t *a = got->data, *b = want->data;
            for (size_t k = 0; k < got->n_rows * got->row_n; k++)
                if (a[k] != b[k]) fail_msg("%s: %s byte %zu is %02x, wanted %02x", what, got->name, k, a[k], b[k]);
        } else if (got->kind == OUTPUT_TOP) {
            for (size_t r = 0; r < got->n_rows; r++) {
                assert_int_equal(got->counts[r], want->counts[r]);
                check_top_row(got, r, what);
            }
        } else {
            compare_floats(got, want, what, worst);
        }
    }
}

void op_compare_bits(const struct op_run *run, const struct op_run *ref, const char *what)
{
    assert_int_equal(run->n_outputs, ref->n_outputs);
    for (size_t i = 0; i < run->n_outputs; i++) {
        const struct op_output *got = &run->outputs[i], *want = &ref->outputs[i];
        size_t size = got->kind == OUTPUT_BYTES ? 1 : 4, n = got->n_rows * got->row_n * size;
        const uint8_t *a = got->data, *b = want->data;
        for (size_t k = 0; k < n; k++)
            if (a[k] != b[k])
                fail_msg("%s: %s differs at row %zu element %zu", what, got->name, k / size / got->row_n,
                         k / size % got->row_n);
    }
}
