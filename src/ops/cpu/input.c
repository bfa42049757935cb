/* input.c - rows of inputs in the forms that the weights need (kernels.h), quantised once for all of them. */
#include <string.h>

#include "ops/cpu/cpu.h"

#define PARALLEL_FROM 16384u /* values: below, waking threads costs more than the work */

size_t input_set_row_bytes(uint32_t forms, uint32_t n_in)
{
    size_t bytes = 0;
    for (int form = INPUT_FINE; form < INPUT_FORMS; form++)
        if (forms >> form & 1) bytes += input_record_bytes((enum input_form)form, n_in);
    return bytes;
}

static void quantise_row(void *arg, uint32_t row, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct input_set *set = job->args;
    for (int form = INPUT_FINE; form < INPUT_FORMS; form++) {
        if (!set->records[form]) continue;
        uint8_t *record = set->records[form] + row * set->record_bytes[form];
        job->cpu->kernels->quantise((enum input_form)form, set->x + (size_t)row * set->n_in, set->n_in, record);
    }
}

void input_set_make(struct backend_cpu *cpu, struct input_set *set, const float *x, uint32_t n_rows, uint32_t n_in,
                    uint32_t forms)
{
    uint8_t *at = cpu->inputs;
    *set = (struct input_set){.x = x, .n_rows = n_rows, .n_in = n_in};
    forms &= ~(1u << INPUT_FLOAT);
    if (!forms) return;
    ensure(n_in % 32 == 0 && input_set_row_bytes(forms, n_in) * n_rows <= cpu->input_bytes);
    for (int form = INPUT_FINE; form < INPUT_FORMS; form++) {
        if (!(forms >> form & 1)) continue;
        set->record_bytes[form] = input_record_bytes((enum input_form)form, n_in);
        set->records[form] = at;
        at += set->record_bytes[form] * n_rows;
    }
    if ((uint64_t)n_rows * n_in >= PARALLEL_FROM) {
        cpu_run(cpu, quantise_row, set, n_rows);
        return;
    }
    struct cpu_job job = {cpu, set};
    for (uint32_t row = 0; row < n_rows; row++) quantise_row(&job, row, 0);
}

struct input input_of(const struct input_set *set, enum input_form form, uint32_t row)
{
    if (form == INPUT_FLOAT) return (struct input){.f32 = set->x + (size_t)row * set->n_in};
    struct input_record r = input_record_at(set->records[form] + row * set->record_bytes[form], set->n_in);
    return (struct input){.q16 = r.q16, .q8 = r.q8, .t = r.t, .t_sums = r.t_sums, .sums = r.sums, .d = *r.d};
}

/* ---- panels of floats ---- */

static uint32_t panels_of(uint32_t n_rows, uint32_t n_groups)
{
    return (n_rows / n_groups + INPUT_PANEL - 1) / INPUT_PANEL;
}
static size_t panel_floats(uint32_t n_in) { return ((size_t)n_in + 7) / 8 * 8 * INPUT_PANEL; }

size_t input_panels_bytes(uint32_t n_rows, uint32_t n_in, uint32_t n_groups)
{
    return panels_of(n_rows, n_groups) * n_groups * panel_floats(n_in) * sizeof(float);
}

/* Where a row's first eight values lie. */
static float *in_panel(const struct input_set *set, uint32_t row)
{
    uint32_t group = row % set->n_groups, i = row / set->n_groups;
    size_t panel = (size_t)group * panels_of(set->n_rows, set->n_groups) + i / INPUT_PANEL;
    return set->panels + panel * panel_floats(set->n_in) + i % INPUT_PANEL * 8;
}

static void put_row(void *arg, uint32_t row, uint32_t worker_i)
{
    (void)worker_i;
    const struct input_set *set = ((const struct cpu_job *)arg)->args;
    const float *x = set->x + (size_t)row * set->n_in;
    float *to = in_panel(set, row);
    uint32_t rest = set->n_in % 8;
    for (uint32_t i = 0; i < set->n_in - rest; i += 8) memcpy(to + (size_t)i * INPUT_PANEL, x + i, 8 * sizeof *x);
    memcpy(to + (size_t)(set->n_in - rest) * INPUT_PANEL, x + set->n_in - rest, rest * sizeof *x);
}

void input_panels_make(struct backend_cpu *cpu, struct input_set *set, uint32_t n_groups)
{
    uint8_t *at = cpu->inputs;
    for (int form = INPUT_FINE; form < INPUT_FORMS; form++)
        if (set->records[form]) at = set->records[form] + set->record_bytes[form] * set->n_rows;
    set->panels = (float *)(void *)at;
    set->n_groups = n_groups;
    ensure((size_t)(at - cpu->inputs) + input_panels_bytes(set->n_rows, set->n_in, n_groups) <= cpu->input_bytes);
    cpu_run(cpu, put_row, set, set->n_rows);
}

struct input input_in_panel(const struct input_set *set, uint32_t row)
{
    return (struct input){.f32 = in_panel(set, row), .f32_gap = 8 * (INPUT_PANEL - 1)};
}
