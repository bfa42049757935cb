/* matmul.c - y = x W^T, plain and grouped. Tasks are runs of output rows of all matrices of the call; the inputs are
 * quantised once for each form that the matrices need. */
#include "ops/cpu/cpu.h"

#define DOT_TASK_BYTES 262144u /* weight bytes of a task that takes dots: eight streams of 32 KiB */
#define TASKS_A_THREAD 4u      /* at least, so that threads end together */
#define PANELS_FROM 24u        /* fewer inputs are not worth a copy, nor a pass over the weights of their own */

/* One pass over some of the rows, and how the tasks are numbered. */
struct pass {
    const struct matmul_args *args;
    struct input_set inputs; /* [n_rows][n_groups] */
    uint32_t row_first, n_rows;
    uint32_t task_rows[OPS_MATMUL_OUTPUTS_MAX];  /* output rows a task */
    uint32_t group_tasks[OPS_MATMUL_OUTPUTS_MAX]; /* tasks a group */
};

static uint32_t rows_of_a_task(const struct backend_cpu *cpu, const struct op_weight *w, uint32_t n_cols)
{
    const struct format_kernels *format = format_of(cpu, w);
    if (!takes_dots(format, n_cols)) return tile_rows_of(format);
    uint64_t n = DOT_TASK_BYTES / (w->row_bytes ? w->row_bytes : 1);
    uint64_t share = w->n_out / (TASKS_A_THREAD * cpu->n_threads);
    n = (n < share ? n : share) / 8 * 8;
    return n < 8 ? 8 : (uint32_t)n;
}

static void multiply_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct pass *pass = job->args;
    const struct matmul_args *args = pass->args;
    uint32_t i = 0;
    while (task_i >= pass->group_tasks[i] * args->n_groups) task_i -= pass->group_tasks[i++] * args->n_groups;
    const struct op_weight *w = &args->out[i].w;
    const struct format_kernels *format = format_of(job->cpu, w);
    enum input_form form = form_of(format);
    uint32_t group = task_i / pass->group_tasks[i], group_rows = w->n_out / args->n_groups;
    uint32_t in_group = task_i % pass->group_tasks[i] * pass->task_rows[i];
    uint32_t row = group * group_rows + in_group, n = min_u32(pass->task_rows[i], group_rows - in_group);
    struct gemm_col *cols = worker_scratch(job->cpu, worker_i);
    for (uint32_t c = 0; c < pass->n_rows; c += COLS_MAX) {
        uint32_t n_cols = min_u32(COLS_MAX, pass->n_rows - c);
        bool panels = form == INPUT_FLOAT && pass->inputs.panels && !takes_dots(format, n_cols);
        for (uint32_t j = 0; j < n_cols; j++) {
            uint32_t input = (c + j) * args->n_groups + group;
            cols[j].x = panels ? input_in_panel(&pass->inputs, input) : input_of(&pass->inputs, form, input);
            cols[j].y = args->out[i].y + (size_t)(pass->row_first + c + j) * w->n_out + row;
        }
        multiply_rows(job->cpu, w, 0, row, n, n_cols, cols);
    }
}

/* Rows [row_first, row_first + n_rows). */
static void run_pass(struct backend_cpu *cpu, const struct matmul_args *args, uint32_t forms, bool panels,
                     uint32_t row_first, uint32_t n_rows)
{
    struct pass pass = {.args = args, .row_first = row_first, .n_rows = n_rows};
    uint32_t n_in = args->out[0].w.n_in, n_tasks = 0;
    const float *x = args->x + (size_t)row_first * args->n_groups * n_in;
    input_set_make(cpu, &pass.inputs, x, n_rows * args->n_groups, n_in, forms);
    if (panels) input_panels_make(cpu, &pass.inputs, args->n_groups);
    for (uint32_t i = 0; i < args->n_outputs; i++) {
        const struct op_weight *w = &args->out[i].w;
        pass.task_rows[i] = rows_of_a_task(cpu, w, n_rows);
        pass.group_tasks[i] = (w->n_out / args->n_groups + pass.task_rows[i] - 1) / pass.task_rows[i];
        n_tasks += pass.group_tasks[i] * args->n_groups;
    }
    cpu_run(cpu, multiply_task, &pass, n_tasks);
}

void cpu_matmul(struct backend *b, const struct matmul_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    ensure(args->n_groups >= 1 && args->n_groups <= CPU_GROUPS_MAX && args->n_outputs <= OPS_MATMUL_OUTPUTS_MAX);
    ensure(args->n_groups == 1 || args->n_outputs == 1);
    if (args->n_outputs == 0 || args->n_rows == 0) return;
    uint32_t forms = 0, n_in = args->out[0].w.n_in;
    bool panels = false;
    for (uint32_t i = 0; i < args->n_outputs; i++) {
        const struct op_weight *w = &args->out[i].w;
        ensure(w->n_in == n_in && w->n_out % args->n_groups == 0 && quant_format(w->type)->decode);
        const struct format_kernels *format = format_of(cpu, w);
        forms |= 1u << form_of(format);
        panels |= form_of(format) == INPUT_FLOAT && !takes_dots(format, args->n_rows);
    }
    size_t row_bytes = input_set_row_bytes(forms, n_in) * args->n_groups;
    uint64_t n_pass = row_bytes ? cpu->input_bytes / row_bytes : args->n_rows;
    ensure(n_pass > 0);
    size_t panel_bytes = INPUT_PANEL * row_bytes + input_panels_bytes(args->n_groups, n_in, args->n_groups);
    uint64_t n_in_panels = cpu->input_bytes / panel_bytes * INPUT_PANEL;
    panels &= cpu->kernels->input_panels && args->n_rows >= PANELS_FROM && n_in_panels >= PANELS_FROM;
    if (panels) n_pass = n_in_panels;
    for (uint32_t row = 0; row < args->n_rows;) {
        uint32_t n = n_pass < args->n_rows - row ? (uint32_t)n_pass : args->n_rows - row;
        run_pass(cpu, args, forms, panels, row, n);
        row += n;
    }
}
