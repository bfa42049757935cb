/* selftest_run.c - see selftest_run.h. */
#include "tools/selftest_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/f16.h"
#include "base/mem.h"
#include "quant/quant.h"

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

struct backend_limits op_shape_limits(const struct op_shape *s)
{
    uint32_t n_groups = max_u32(s->n_groups, 1), n_visible = 0;
    if (s->ratio) n_visible = (s->start + 64 * max_u32(s->n_seqs, 1) + s->n_rows) / s->ratio + 1;
    struct backend_limits limits = {.n_rows = s->n_rows, .n_heads = s->n_heads, .n_experts = s->n_stack,
                                    .n_used = s->n_used, .n_ff = max_u32(s->n_in, s->n_out)};
    limits.n_in = max_u32(s->n_in * n_groups, s->n_hc * s->n_embd);
    if (s->fused) limits.n_in = max_u32(limits.n_in, s->n_heads * s->dim); /* a product follows */
    limits.n_attn_rows = s->window + (s->top_k ? s->top_k : n_visible);
    limits.n_index_rows = n_visible;
    limits.n_index_heads = s->n_heads;
    limits.dim = s->is_index ? 0 : s->dim;
    limits.index_dim = s->is_index ? s->dim : 0;
    return limits;
}

/* Memory that is not filled yet: earlier cases have used it, and what they left must not pass for a result. */
static uint8_t *take(struct op_dev *dev, size_t bytes, size_t skew)
{
    size_t at = (dev->used + 63) / 64 * 64 + skew;
    ensure(at <= dev->cap && bytes <= dev->cap - at);
    dev->used = at + bytes;
    return dev->base + at;
}

static void *take_filled(struct op_dev *dev, size_t bytes, size_t skew, int byte)
{
    uint8_t fill[8192], *there = take(dev, bytes, skew);
    memset(fill, byte, sizeof fill);
    for (size_t i = 0; i < bytes; i += sizeof fill)
        dev->b->ops->write(dev->b, there + i, fill, bytes - i < sizeof fill ? bytes - i : sizeof fill);
    return there;
}

void *op_put_skewed(struct op_dev *dev, const void *from, size_t bytes, size_t skew)
{
    if (!from) return take_filled(dev, bytes, skew, 0);
    uint8_t *there = take(dev, bytes, skew);
    if (bytes) dev->b->ops->write(dev->b, there, from, bytes);
    return there;
}

void *op_put(struct op_dev *dev, const void *from, size_t bytes) { return op_put_skewed(dev, from, bytes, 0); }

void op_get(struct op_dev *dev, void *to, const void *from, size_t bytes)
{
    if (bytes) dev->b->ops->read(dev->b, to, from, bytes);
}

bool op_room_make(struct op_room *room, size_t cap)
{
    *room = (struct op_room){.base = mem_map(cap), .cap = cap};
    return room->base != NULL;
}

void op_room_free(struct op_room *room)
{
    if (room->base) mem_unmap(room->base, room->cap);
    room->base = NULL;
}

static void *host_aligned(struct op_run *run, size_t bytes, size_t align)
{
    struct op_room *room = run->room;
    size_t at = (room->used + 64 + align - 1) / align * align; /* a gap, in which an overrun changes nothing */
    ensure(at <= room->cap && bytes <= room->cap - at);
    room->used = at + bytes;
    return memset(room->base + at, 0, bytes);
}

void *op_host(struct op_run *run, size_t count, size_t size)
{
    uint64_t bytes;
    ensure(mul_ok(count, size, &bytes));
    return host_aligned(run, (size_t)bytes, 64);
}

void op_run_case(struct op_run *run, struct op_dev *dev, struct op_room *room, const char *name, op_case_fn fn,
                 const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks)
{
    *run = (struct op_run){.dev = dev, .room = room, .room_first = room->used, .shape = shape, .chunks = chunks,
                           .n_chunks = n_chunks, .n_repeats = run->n_repeats, .packs = run->packs,
                           .streams = run->streams, .pool = run->pool};
    run->rng.state = fnv1a(name);
    dev->used = 0;
    fn(run, shape);
    if (run->moved_bytes == 0) run->moved_bytes = dev->used;
    for (uint32_t i = 0; i < run->n_mapped; i++)
        dev->b->ops->release(dev->b, run->mapped[i].data, run->mapped[i].bytes);
}

void op_run_free(struct op_run *run) { run->room->used = run->room_first; }

bool op_next(struct op_run *run)
{
    if (run->n_repeats) { /* all rows, again and again */
        struct ds4_error error;
        bool ready = run->n_repeated == 0 && run->dev->b->ops->finish(run->dev->b, &error) == DS4_OK;
        if (ready) run->started_ns = clock_ns();
        run->n = run->shape->n_rows;
        return run->n_repeated++ < run->n_repeats;
    }
    uint32_t left = run->shape->n_rows - (run->first + run->n);
    run->first += run->n;
    run->n = run->n_chunks ? run->chunks[run->chunk_i++ % run->n_chunks] : left;
    if (run->n > left) run->n = left;
    return left > 0;
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
    return op_put_skewed(run->dev, x, n * sizeof *x, run->shape->skew);
}

float *op_parameters(struct op_run *run, size_t n, float scale, float offset)
{
    float *x = op_host(run, n, sizeof *x);
    op_fill(run, x, n, FILL_NORMAL);
    for (size_t i = 0; i < n; i++) x[i] = x[i] * scale + offset;
    return op_put(run->dev, x, n * sizeof *x);
}

float *op_result(struct op_run *run, size_t n)
{
    return take_filled(run->dev, n * sizeof(float), run->shape->skew, 0xFF); /* not a number */
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

/* Uploads a matrix; when the backend is to lay it out anew, it is mapped as a model's weights are. */
static const uint8_t *give(struct op_run *run, uint8_t *blocks, size_t bytes, struct op_weight *w)
{
    struct backend *b = run->dev->b;
    struct ds4_error error;
    if (!b->ops->map || !b->ops->pack) return op_put(run->dev, blocks, bytes);
    ensure(run->n_mapped < sizeof run->mapped / sizeof *run->mapped);
    if (b->ops->map(b, blocks, bytes, true, &error) != DS4_OK) return blocks; /* finish will say why */
    run->mapped[run->n_mapped].data = blocks;
    run->mapped[run->n_mapped++].bytes = bytes;
    w->data = blocks;
    b->ops->pack(b, w);
    return blocks;
}

#define PAGE ((size_t)16384) /* that memory must begin at to be used by devices where it lies */
#define RANDOM_BLOCKS 65537u /* a prime, so that rows differ; larger matrices repeat them */

static const uint8_t *wait_for(const struct op_stacks *stacks, uint32_t i)
{
    return ((const uint8_t *const *)stacks->owner)[i];
}

/* Every third matrix comes when it is waited for. In a pool they lie in no order. */
static void stream(struct op_run *run, const uint8_t *blocks, struct op_weight *w)
{
    const uint8_t **all = op_host(run, w->n_stack, sizeof *all), **at = op_host(run, w->n_stack, sizeof *at);
    struct op_stacks *stacks = op_host(run, 1, sizeof *stacks);
    struct op_pool *pool = run->pool;
    size_t offset = pool ? run->pool_used : 0;
    ensure(!pool || (w->n_stack < pool->n_slots && offset + w->stack_bytes <= pool->slot_bytes));
    for (uint32_t e = 0; e < w->n_stack; e++) {
        all[e] = pool ? pool->base + (pool->n_slots - 2 - e) * pool->slot_bytes : blocks + e * w->stack_bytes;
        if (pool) memcpy(pool->base + (all[e] - pool->base) + offset, blocks + e * w->stack_bytes, w->stack_bytes);
        at[e] = e % 3 == 1 ? NULL : all[e];
    }
    *stacks = (struct op_stacks){.at = at, .wait = wait_for, .owner = all, .offset = offset};
    run->pool_used += (w->stack_bytes + PAGE - 1) / PAGE * PAGE;
    w->stacks = stacks;
}

static struct op_weight make_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                                    double *rms, bool packs)
{
    const struct quant_format *format = quant_format(type);
    struct op_weight w = {.type = type, .n_in = n_in, .n_out = n_out, .n_stack = n_stack};
    ensure(format && quant_row_bytes(format, n_in, &w.row_bytes));
    w.stack_bytes = w.row_bytes * n_out;
    size_t bytes = (size_t)w.stack_bytes * n_stack, n_blocks = bytes / format->block_bytes;
    uint8_t *blocks = host_aligned(run, (bytes + PAGE - 1) / PAGE * PAGE, PAGE);
    double squares = 0;
    size_t step = n_blocks > 1024 ? 16 : 1; /* a sample of many; few may have very different scales */
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = blocks + i * format->block_bytes;
        if (i < RANDOM_BLOCKS) random_block(run, format, block);
        else memcpy(block, block - RANDOM_BLOCKS * format->block_bytes, format->block_bytes);
        if (rms && i % step == 0) squares += block_squares(format, block);
    }
    size_t n_sampled = (n_blocks + step - 1) / step * format->block_elems;
    if (rms) *rms = sqrt(squares / (double)n_sampled);
    if (run->streams && n_stack > 1) stream(run, blocks, &w);
    else w.data = packs ? give(run, blocks, bytes, &w) : op_put(run->dev, blocks, bytes);
    return w;
}

struct op_weight op_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                           double *rms)
{
    return make_matrix(run, type, n_in, n_out, n_stack, rms, false);
}

struct op_weight op_product_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                                   double *rms)
{
    return make_matrix(run, type, n_in, n_out, n_stack, rms, run->packs);
}

struct op_output *op_output_add(struct op_run *run, const char *name, enum op_output_kind kind, void *data,
                                size_t n_rows, size_t row_n)
{
    ensure(run->n_outputs < sizeof run->outputs / sizeof *run->outputs);
    struct op_output *output = &run->outputs[run->n_outputs++];
    *output = (struct op_output){.name = name, .kind = kind, .n_rows = n_rows, .row_n = row_n, .data = data};
    return output;
}

struct op_output *op_output_floats(struct op_run *run, const char *name, const float *there, size_t n_rows,
                                   size_t row_n, double tolerance)
{
    float *here = op_host(run, n_rows * row_n, sizeof *here);
    op_get(run->dev, here, there, n_rows * row_n * sizeof *here);
    struct op_output *output = op_output_add(run, name, OUTPUT_FLOAT, here, n_rows, row_n);
    output->tolerance = tolerance;
    return output;
}

static size_t put_word(char *text, size_t size, size_t at, const char *word, uint32_t n, bool with_number)
{
    if (at >= size || (with_number && n == 0)) return at;
    const char *comma = at ? ", " : "";
    int n_put = with_number ? snprintf(text + at, size - at, "%s%s %u", comma, word, n)
                            : snprintf(text + at, size - at, "%s%s", comma, word);
    return n_put > 0 ? at + (size_t)n_put : at;
}

void op_shape_text(const struct op_shape *s, char *text, size_t size)
{
    static const char *const fills[] = {"", "zeros", "huge", "tiny", "integers", "spikes", "stairs"};
    const struct {
        const char *word;
        uint32_t n;
    } numbers[] = {
        {"rows", s->n_rows}, {"streams", s->n_hc}, {"width", s->n_embd}, {"heads", s->n_heads}, {"dim", s->dim},
        {"rotated", s->n_rope}, {"in", s->n_in}, {"out", s->n_out}, {"groups", s->n_groups > 1 ? s->n_groups : 0},
        {"matrices", s->n_outputs > 1 ? s->n_outputs : 0}, {"experts", s->n_stack}, {"used", s->n_used},
        {"sessions", s->n_seqs}, {"from", s->start}, {"window", s->window}, {"ratio", s->ratio}, {"best", s->top_k},
        {"off by bytes", s->skew},
    };
    size_t at = 0;
    text[0] = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        at = put_word(text, size, at, numbers[i].word, numbers[i].n, true);
    const struct quant_format *format = quant_format(s->type);
    bool has_weights = (s->n_in && s->n_out) || (s->n_hc && s->type != QUANT_F32);
    if (format && has_weights) at = put_word(text, size, at, format->name, 0, false);
    if (has_weights && s->n_stack && s->type2 && s->type2 != s->type)
        at = put_word(text, size, at, quant_format(s->type2)->name, 0, false);
    if (s->n_seqs) at = put_word(text, size, at, s->format == OP_ROW_PACKED ? "packed" : "floats", 0, false);
    if (s->fill != FILL_NORMAL) at = put_word(text, size, at, fills[s->fill], 0, false);
    if (s->inverse) at = put_word(text, size, at, "inverse", 0, false);
    if (s->fused) (void)put_word(text, size, at, "fused", 0, false);
}
