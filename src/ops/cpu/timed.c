/* timed.c - how long each operation of the CPU backend takes: a second table of operations, which look at the clock
 * around those of the first. Products are told apart by the type of their weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ops/cpu/cpu.h"

#define NO_TYPE UINT32_MAX

static uint32_t no_type(const void *args)
{
    (void)args;
    return NO_TYPE;
}
static uint32_t matmul_type(const void *args) { return ((const struct matmul_args *)args)->out[0].w.type; }
static uint32_t gate_up_type(const void *args) { return ((const struct moe_gate_up_args *)args)->gate.type; }
static uint32_t down_type(const void *args) { return ((const struct moe_down_args *)args)->down.type; }
#define TYPE_OF(args) \
    _Generic((args), const struct matmul_args *: matmul_type, const struct moe_gate_up_args *: gate_up_type, \
             const struct moe_down_args *: down_type, default: no_type)(args)

static void add_time(struct backend *b, const char *op, uint32_t type, uint64_t start_ns)
{
    struct cpu_times *t = &cpu_of(b)->times;
    uint32_t i = 0;
    while (i < t->n && (strcmp(t->all[i].op, op) != 0 || t->all[i].type != type)) i++;
    if (i == CPU_TIMES_MAX) return;
    if (i == t->n) t->all[t->n++] = (struct cpu_time){.op = op, .type = type};
    t->all[i].n++;
    t->all[i].ns += clock_ns() - start_ns;
}

#define OP(op_name) \
    static void timed_##op_name(struct backend *b, const struct op_name##_args *args) \
    { \
        uint64_t start_ns = clock_ns(); \
        cpu_##op_name(b, args); \
        add_time(b, #op_name, TYPE_OF(args), start_ns); \
    }
#include "ops/ops.def"
#undef OP

void backend_cpu_time(struct backend *b, bool on)
{
    struct backend_cpu *cpu = cpu_of(b);
    cpu->times.n = 0;
    cpu->timed_ops = backend_cpu_ops;
#define OP(op_name) cpu->timed_ops.op_name = timed_##op_name;
#include "ops/ops.def"
#undef OP
    b->ops = on ? &cpu->timed_ops : &backend_cpu_ops;
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const struct ds4_kernel_time *)a)->seconds, y = ((const struct ds4_kernel_time *)b)->seconds;
    return (x < y) - (x > y);
}

size_t backend_cpu_times(struct backend *b, struct ds4_kernel_time *out, size_t max)
{
    const struct cpu_times *t = &cpu_of(b)->times;
    size_t n = t->n < max ? t->n : max;
    for (size_t i = 0; i < n; i++) {
        const struct quant_format *format = t->all[i].type == NO_TYPE ? NULL : quant_format(t->all[i].type);
        out[i].n = t->all[i].n;
        out[i].seconds = (double)t->all[i].ns * 1e-9;
        (void)snprintf(out[i].name, sizeof out[i].name, "%s%s%s", t->all[i].op, format ? " " : "",
                       format ? format->name : "");
    }
    if (n) qsort(out, n, sizeof *out, by_seconds);
    return n;
}
