/* selftest_weights.c - weights as a device makes or moves them, byte by byte against the host: blocks that it makes up,
 * matrices that it lays out anew, and the table by which experts of a pool are found. */
#include <math.h>
#include <string.h>

#include "gpu/backend_impl.h"
#include "quant/quant.h"
#include "tools/selftest_parts.h"
#include "tools/selftest_raw.h"

#define REAL_N_IN 4096u
#define REAL_BYTES_MOST ((size_t)64 << 20)

/* One byte of a made-up block is the byte of a mixed number, but where the rule says otherwise. */
static uint32_t mixed(uint32_t v)
{
    v = (v ^ v >> 16) * 0x7FEB352Du;
    v = (v ^ v >> 15) * 0x846CA68Bu;
    return v ^ v >> 16;
}

static void make_up_here(const struct generate_record *rule, uint8_t *blocks)
{
    for (uint32_t b = 0; b < rule->n_blocks; b++) {
        uint8_t *block = blocks + (size_t)b * rule->block_bytes;
        uint32_t start = mixed(b ^ mixed(rule->seed));
        for (uint32_t i = 0; i < rule->block_bytes; i++)
            block[i] = (uint8_t)(mixed(start + (i & ~3u)) >> 8 * (i & 3u));
        for (uint32_t i = 0; i < rule->n_ruled; i++) {
            uint8_t *ruled = &block[rule->first + i * rule->step];
            *ruled = (uint8_t)((*ruled & rule->keep) | rule->set);
        }
        const uint32_t at[2] = {rule->half_at0, rule->half_at1}, halves[2] = {rule->half0, rule->half1};
        for (uint32_t i = 0; i < rule->n_halves; i++) {
            block[at[i]] = (uint8_t)halves[i];
            block[at[i] + 1] = (uint8_t)(halves[i] >> 8);
        }
    }
}

static bool same_bytes(struct part *p, const char *what, const uint8_t *got, const uint8_t *want, size_t n)
{
    size_t k = 0;
    if (memcmp(got, want, n) == 0) return true;
    while (got[k] == want[k]) k++;
    return part_differs(p, "%s byte %zu is %02x, wanted %02x", what, k, got[k], want[k]);
}

/* Values of about n_in^-1/2, all of them numbers. */
static bool sane_values(struct part *p, const struct quant_format *format, const uint8_t *blocks, size_t bytes,
                        uint32_t n_in)
{
    size_t n_blocks = bytes / format->block_bytes, n = 0;
    double squares = 0, wanted = 1 / sqrt(n_in);
    float values[256];
    if (n_blocks > 4000) n_blocks = 4000;
    for (size_t b = 0; b < n_blocks; b++) {
        format->decode(blocks + b * format->block_bytes, values, format->block_elems);
        for (uint32_t i = 0; i < format->block_elems; i++, n++) squares += (double)values[i] * (double)values[i];
    }
    double rms = sqrt(squares / (double)n);
    if (rms > wanted / 2.5 && rms < wanted * 2.5) return true;
    return part_differs(p, "values[0] to [%zu] are of size %.3g, wanted %.3g", n, rms, wanted);
}

static void make_up(struct part *p, uint32_t type, uint32_t n_in, uint32_t n_out)
{
    const struct quant_format *format = quant_format(type);
    struct op_room *room = &p->t->room;
    struct ds4_error error = {0};
    struct generate_record rule;
    uint64_t row_bytes = 0;
    part_case(p, "rows %u, in %u, %s", n_out, n_in, format->name);
    ensure(quant_row_bytes(format, n_in, &row_bytes));
    size_t bytes = (size_t)row_bytes * n_out;
    uint8_t *want = room->base, *got = room->base + bytes, *there = op_put(&p->dev, NULL, bytes);
    ensure(2 * bytes <= room->cap);
    if (gpu_generate_rule(bytes, type, n_in, n_out, &rule, &error) != DS4_OK || !part_watch(p) ||
        backend_gpu_generate(p->dev.b, there, bytes, type, n_in, n_out, &error) != DS4_OK) {
        (void)part_differs(p, "%s", error.message);
    } else {
        double seconds = part_seen(p, 1);
        make_up_here(&rule, want);
        op_get(&p->dev, got, there, bytes);
        if (part_finished(p) && same_bytes(p, "blocks", got, want, bytes) &&
            sane_values(p, format, got, bytes, n_in) && n_in == REAL_N_IN && !p->t->small) {
            p->c.seconds = seconds;
            p->c.moved_bytes = bytes;
        }
    }
    part_report(p);
}

void part_made_up(struct ops_test *t, const char *name)
{
    const struct backend_limits limits = {.n_rows = 1, .n_in = 32};
    const bool real = !t->small && !t->quick;
    struct part p;
    bool there = part_open(&p, t, name, &limits, real ? REAL_BYTES_MOST : (size_t)1 << 20);
    for (size_t i = 0; there && i < OP_WEIGHT_TYPES; i++) {
        if (!p.lost) make_up(&p, op_weight_types[i], 512, 33);
        if (!p.lost && !t->quick) make_up(&p, op_weight_types[i], 256, 1);
        if (!p.lost && real) make_up(&p, op_weight_types[i], REAL_N_IN, 2048);
    }
    part_close(&p);
}

/* The layouts of packed.k, as it describes them: groups of blocks, of which each part lies together. */
static const struct layout {
    uint32_t type;
    struct repack_record record;
} layouts[] = {
    {QUANT_Q8_0, {.block_bytes = 34, .n_blocks = 8, .from = {2, 0}, .bytes = {32, 2}}},
    {QUANT_Q2_K, {.block_bytes = 84, .n_blocks = 4, .from = {16, 0, 80}, .bytes = {64, 16, 4}}},
    {QUANT_Q6_K, {.block_bytes = 210, .n_blocks = 8, .from = {0, 128, 192, 208}, .bytes = {128, 64, 16, 2}}},
    {QUANT_IQ2_XXS, {.block_bytes = 66, .n_blocks = 8, .from = {2, 0}, .bytes = {64, 2}}},
    {QUANT_MXFP4, {.block_bytes = 17, .n_blocks = 16, .from = {1, 0}, .bytes = {16, 1}}},
};

static void lay_out_here(const struct repack_record *r, const uint8_t *from, uint8_t *to, size_t n_groups)
{
    const size_t group_bytes = (size_t)r->block_bytes * r->n_blocks;
    for (size_t g = 0; g < n_groups; g++)
        for (uint32_t part = 0; part < 4; part++)
            for (uint32_t b = 0; b < r->n_blocks; b++, to += r->bytes[part])
                memcpy(to, from + g * group_bytes + b * r->block_bytes + r->from[part], r->bytes[part]);
}

static void lay_out(struct part *p, struct raw_device *d, const struct layout *layout, uint32_t n_groups)
{
    const struct repack_record *r = &layout->record;
    const size_t bytes = (size_t)n_groups * r->block_bytes * r->n_blocks;
    uint8_t *blocks = p->t->room.base, *want = blocks + bytes, *got = want + bytes;
    struct rng rng = {n_groups + 1};
    ensure(3 * bytes <= p->t->room.cap);
    part_case(p, "rows 1, in %u, %s", n_groups * r->n_blocks * quant_format(layout->type)->block_elems,
              quant_format(layout->type)->name);
    for (size_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)rng_next(&rng);
    lay_out_here(r, blocks, want, n_groups);
    struct gpu_ref there = raw_alloc(d, bytes);
    if (raw_write(d, there, blocks)) (void)raw_run(d, "repack", r, sizeof *r, &there, 1, n_groups, 128);
    double seconds = raw_wait(d);
    if (raw_read(d, got, there)) raw_free_all(d);
    if (d->failed) (void)part_differs(p, "%s", d->why);
    else if (same_bytes(p, "blocks", got, want, bytes) && n_groups > 1000) {
        p->c.seconds = seconds;
        p->c.moved_bytes = 2 * bytes;
    }
    part_report(p);
}

void part_repack(struct ops_test *t, const char *name)
{
    struct part p = {.t = t, .c = {.op = name}};
    struct raw_device d;
    (void)raw_open(&d, t);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        const struct quant_format *format = quant_format(layouts[i].type);
        uint32_t group = format->block_elems * layouts[i].record.n_blocks;
        lay_out(&p, &d, &layouts[i], 5);
        if (!t->small && !t->quick) lay_out(&p, &d, &layouts[i], 4096 * 2048 / group);
    }
    raw_close(&d);
}

#define N_TILES 300u
#define N_EXPERTS 256u

/* Tiles name an expert, the first of their choices and how many they are; a tile of none stays. */
void part_places(struct ops_test *t, const char *name)
{
    struct part p = {.t = t, .c = {.op = name}};
    const struct sort_record record = {.n_experts = N_EXPERTS, .n_tiles = N_TILES};
    int32_t where[N_EXPERTS];
    uint32_t tiles[N_TILES][3], got[N_TILES][3];
    struct raw_device d;
    part_case(&p, "rows %u, experts %u", N_TILES, N_EXPERTS);
    for (uint32_t e = 0; e < N_EXPERTS; e++) where[e] = (int32_t)(e * 7 % N_EXPERTS + 1000);
    for (uint32_t i = 0; i < N_TILES; i++) {
        tiles[i][0] = i % 5 == 4 ? 0xFFFFFFFFu : i * 11 % N_EXPERTS;
        tiles[i][1] = i * 64;
        tiles[i][2] = i % 5 == 4 ? 0 : 1 + i % 64;
    }
    if (raw_open(&d, t)) {
        struct gpu_ref refs[2] = {raw_alloc(&d, sizeof where), raw_alloc(&d, sizeof tiles)};
        if (raw_write(&d, refs[0], where) && raw_write(&d, refs[1], tiles))
            (void)raw_run(&d, "moe_places", &record, sizeof record, refs, 2, (N_TILES + 255) / 256, 256);
        (void)raw_read(&d, got, refs[1]);
    }
    raw_close(&d);
    if (d.failed) (void)part_differs(&p, "%s", d.why);
    for (uint32_t i = 0; p.c.good && i < N_TILES; i++) {
        uint32_t want = tiles[i][2] ? (uint32_t)where[tiles[i][0]] : tiles[i][0];
        if (got[i][0] != want || got[i][1] != tiles[i][1] || got[i][2] != tiles[i][2])
            (void)part_differs(&p, "tiles[%u] = %u, wanted %u", i, got[i][0], want);
    }
    part_report(&p);
}
