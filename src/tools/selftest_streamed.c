/* selftest_streamed.c - experts that come one by one, from disk in a conversation and here from memory, against the
 * same experts on the device: the same bits. streamed: they are copied to the device, into a room that is too small
 * for all of them. shared: the device uses them where they lie, in slots of a pool. */
#include "base/clock.h"
#include "base/mem.h"
#include "ops/args.h"
#include "quant/quant.h"
#include "tools/selftest_parts.h"

#include <stdio.h>

#define REGION_BYTES ((size_t)512 << 20)
#define SMALL_REGION_BYTES ((size_t)32 << 20)
#define PAGE ((uint64_t)16384)

#define GATE_UP(...) {"moe_gate_up", op_case_moe_gate_up, {__VA_ARGS__}}
#define DOWN(...) {"moe_down", op_case_moe_down, {__VA_ARGS__}}
#define ALL_TYPES .type = OP_ALL_TYPES

/* Few rows take their experts together, 16 and more a group of experts at a time. */
static const struct op_case_row rows[] = {
    GATE_UP(.n_rows = 4, .n_in = 256, .n_out = 16, .n_stack = 9, .n_used = 2, ALL_TYPES, .quick = true),
    GATE_UP(.n_rows = 16, .n_in = 256, .n_out = 24, .n_stack = 5, .n_used = 2, ALL_TYPES, .quick = true),
    GATE_UP(.n_rows = 16, .n_in = 256, .n_out = 8, .n_stack = 256, .n_used = 6, .type = QUANT_Q8_0,
            .type2 = QUANT_Q8_0, .fill = FILL_SPIKES, .quick = true),
    GATE_UP(.n_rows = 2, .n_in = 256, .n_out = 8, .n_stack = 256, .n_used = 6, .type = QUANT_IQ2_XXS,
            .type2 = QUANT_IQ2_XXS, .fill = FILL_HUGE),
    GATE_UP(.n_rows = 20, .n_in = 256, .n_out = 65, .n_stack = 3, .n_used = 3, .type = QUANT_IQ2_XXS,
            .type2 = QUANT_Q2_K, .fill = FILL_TINY),
    GATE_UP(.n_rows = 8, .n_in = 4096, .n_out = 2048, .n_stack = 64, .n_used = 6, .type = QUANT_IQ2_XXS,
            .type2 = QUANT_IQ2_XXS, .large = true, .timed = true),
    GATE_UP(.n_rows = 64, .n_in = 4096, .n_out = 2048, .n_stack = 64, .n_used = 6, .type = QUANT_IQ2_XXS,
            .type2 = QUANT_IQ2_XXS, .large = true, .timed = true),
    DOWN(.n_rows = 4, .n_in = 256, .n_out = 16, .n_stack = 9, .n_used = 2, ALL_TYPES, .quick = true),
    DOWN(.n_rows = 16, .n_in = 256, .n_out = 24, .n_stack = 5, .n_used = 2, ALL_TYPES, .quick = true),
    DOWN(.n_rows = 16, .n_in = 256, .n_out = 8, .n_stack = 256, .n_used = 6, .type = QUANT_Q2_K,
         .fill = FILL_STAIRS, .quick = true),
    DOWN(.n_rows = 2, .n_in = 256, .n_out = 8, .n_stack = 256, .n_used = 6, .type = QUANT_Q2_K, .fill = FILL_ZERO),
    DOWN(.n_rows = 8, .n_in = 2048, .n_out = 4096, .n_stack = 64, .n_used = 6, .type = QUANT_Q2_K, .large = true,
         .timed = true),
    DOWN(.n_rows = 64, .n_in = 2048, .n_out = 4096, .n_stack = 64, .n_used = 6, .type = QUANT_Q2_K, .large = true,
         .timed = true),
};
#define N_ROWS (sizeof rows / sizeof *rows)

/* What the cases of one device need together. */
struct needs {
    struct backend_limits limits;
    uint64_t expert_bytes, row_bytes, slot_bytes; /* of an expert; of those of one row; of one in whole pages */
};

/* Cases of a device: of real size, or the others. */
struct stage {
    struct part part;
    bool large, shares;
    struct needs needs;
    struct op_pool pool;
};

static bool is_wanted(const struct stage *s, const struct op_shape *shape)
{
    return shape->large == s->large && (!s->part.t->quick || shape->quick);
}

/* Of the formats of a row. A pool shows every format to the same kernels; an emulator is slow. */
static bool next_shape(const struct stage *s, const struct op_case_row *row, size_t *i, struct op_shape *shape)
{
    const bool few = s->shares || s->part.t->quick || s->part.t->small;
    while (op_row_variant(row, (*i)++, shape)) {
        bool usual = shape->type == QUANT_F16 || shape->type == QUANT_Q8_0 || shape->type == QUANT_IQ2_XXS;
        if (is_wanted(s, shape) && (!few || usual || row->shape.type != OP_ALL_TYPES)) return true;
    }
    return false;
}

static uint64_t matrix_bytes(uint32_t type, const struct op_shape *shape, uint64_t unit)
{
    uint64_t bytes = 0;
    ensure(quant_row_bytes(quant_format(type), shape->n_in, &bytes));
    return (bytes * shape->n_out + unit - 1) / unit * unit;
}

static uint64_t expert_bytes(const struct op_case_row *row, const struct op_shape *shape, uint64_t unit)
{
    uint64_t bytes = matrix_bytes(shape->type, shape, unit);
    return row->fn == op_case_moe_gate_up ? bytes + matrix_bytes(shape->type2, shape, unit) : bytes;
}

static void most(uint64_t *all, uint64_t one)
{
    if (one > *all) *all = one;
}

static void find_needs(struct stage *s)
{
    struct op_shape shape;
    s->needs = (struct needs){0};
    for (size_t r = 0; r < N_ROWS; r++) {
        for (size_t i = 0; next_shape(s, &rows[r], &i, &shape);) {
            ops_test_widen(&s->needs.limits, &shape);
            most(&s->needs.expert_bytes, expert_bytes(&rows[r], &shape, 16));
            most(&s->needs.row_bytes, shape.n_used * expert_bytes(&rows[r], &shape, 16));
            most(&s->needs.slot_bytes, expert_bytes(&rows[r], &shape, PAGE));
        }
    }
}

/* In real size a room as the engine makes it; else one that hardly holds the experts of a row, so that they come in
 * many groups. */
static bool make_room(struct stage *s, struct ds4_error *error)
{
    const struct backend_limits *limits = &s->needs.limits;
    uint64_t bytes = s->needs.expert_bytes;
    uint32_t n_ids = limits->n_rows * limits->n_used, n_room = n_ids < 32 ? n_ids : 32; /* as stage.c has it at most */
    if (n_room > limits->n_experts) n_room = limits->n_experts;
    if (!s->large) bytes = s->needs.row_bytes / n_room;
    if (!s->part.t->choice) return true; /* the CPU uses them where they are */
    if (!s->shares)
        return backend_gpu_stage(s->part.dev.b, limits->n_experts, limits->n_used, limits->n_rows, bytes, error) ==
               DS4_OK;
    s->pool.slot_bytes = (size_t)s->needs.slot_bytes;
    s->pool.n_slots = limits->n_experts + 1;
    s->pool.base = mem_map(s->pool.slot_bytes * s->pool.n_slots);
    if (!s->pool.base) return err_set(error, DS4_ERR_NOMEM, "no memory for a pool of experts") == DS4_OK;
    return backend_gpu_share(s->part.dev.b, limits->n_experts, n_ids, s->pool.base, s->pool.slot_bytes,
                             s->pool.n_slots, error) == DS4_OK;
}

struct trial {
    struct stage *s;
    const struct op_case_row *row;
    const struct op_shape *shape;
    const char *name;
};

static bool run(const struct trial *trial, struct op_run *run, const uint32_t *batches, size_t n_batches)
{
    struct part *p = &trial->s->part;
    run->streams = true;
    run->pool = trial->s->shares ? &trial->s->pool : NULL;
    op_run_case(run, &p->dev, &p->t->room, trial->name, trial->row->fn, trial->shape, batches, n_batches);
    return part_finished(p);
}

static bool agrees(const struct trial *trial)
{
    static const uint32_t some[] = {1, UINT32_MAX};
    struct part *p = &trial->s->part;
    struct op_run resident = {0}, whole = {0}, parts = {0};
    op_run_case(&resident, &p->dev, &p->t->room, trial->name, trial->row->fn, trial->shape, NULL, 0);
    if (!part_finished(p) || !run(trial, &whole, NULL, 0)) return false;
    if (!op_agree(&whole, &resident, &p->c.distance, p->c.why, sizeof p->c.why) ||
        !op_same_bits(&whole, &resident, p->c.why, sizeof p->c.why))
        return p->c.good = false;
    if (!part_watch(p) || !run(trial, &parts, some, 2)) return false;
    (void)part_seen(p, 1);
    p->c.n_kernels = 0;
    return op_same_bits(&parts, &whole, p->c.why, sizeof p->c.why) || (p->c.good = false);
}

/* Copies and all, by the host's clock: kernels wait for what they compute with. */
static void measure(const struct trial *trial)
{
    struct part *p = &trial->s->part;
    struct op_run timed = {.n_repeats = PART_REPEATS};
    if (!run(trial, &timed, NULL, 0)) return;
    p->c.seconds = clock_seconds_since(timed.started_ns) / PART_REPEATS;
    p->c.moved_bytes = timed.moved_bytes;
}

static void try_case(struct stage *s, const struct op_case_row *row, size_t row_i, const struct op_shape *shape)
{
    struct part *p = &s->part;
    char name[64], text[128];
    (void)snprintf(name, sizeof name, "streamed, case %zu, %u", row_i, shape->type);
    op_shape_text(shape, text, sizeof text);
    part_case(p, "%s, %s", text, row->fn == op_case_moe_gate_up ? "gate and up" : "down");
    struct trial trial = {s, row, shape, name};
    if (agrees(&trial) && shape->timed && !p->t->quick) measure(&trial);
    part_report(p);
    if (s->large) mem_discard(p->t->room.base, p->t->room.cap);
}

static void run_cases(struct stage *s)
{
    struct op_shape shape;
    for (size_t r = 0; r < N_ROWS; r++)
        for (size_t i = 0; !s->part.lost && next_shape(s, &rows[r], &i, &shape);)
            try_case(s, &rows[r], r, &shape);
}

static void run_stage(struct ops_test *t, const char *name, bool large, bool shares)
{
    struct stage s = {.part = {.t = t}, .large = large, .shares = shares};
    struct ds4_error error = {0};
    find_needs(&s);
    struct needs needs = s.needs;
    if (part_open(&s.part, t, name, &needs.limits, large ? REGION_BYTES : SMALL_REGION_BYTES)) {
        if (make_room(&s, &error)) {
            run_cases(&s);
        } else {
            part_case(&s.part, "room for experts");
            (void)part_differs(&s.part, "%s", error.message);
            part_report(&s.part);
        }
    }
    part_close(&s.part);
    if (s.pool.base) mem_unmap(s.pool.base, s.pool.slot_bytes * s.pool.n_slots);
}

/* In real size as the device would use them. */
void part_streamed(struct ops_test *t, const char *name)
{
    run_stage(t, name, false, false);
    if (!t->small && !t->quick && (!t->choice || t->info.own_memory)) run_stage(t, name, true, false);
}

void part_shared(struct ops_test *t, const char *name)
{
    if (t->info.own_memory) return; /* it would read them over its bus: experts are copied there */
    run_stage(t, name, false, true);
    if (!t->small && !t->quick) run_stage(t, name, true, true);
}
