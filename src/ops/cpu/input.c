/* input.c - rows of inputs in the forms that the weights need (kernels.h), quantised once for all of them. */
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
