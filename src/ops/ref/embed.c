/* embed.c - the first state of a token: its embedding, copied into every residual stream. Model spec 4.1(1). */
#include <string.h>

#include "ops/ref/ref.h"
#include "quant/quant.h"

static void embed_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct embed_args *args = job->args;
    const struct quant_format *format = quant_format(args->table.type);
    uint32_t token = (uint32_t)args->tokens[r];
    ensure(format && format->decode && token < args->table.n_out);
    float *x = args->x + (size_t)r * args->n_hc * args->n_embd;
    format->decode(args->table.data + token * args->table.row_bytes, x, args->n_embd);
    for (uint32_t j = 1; j < args->n_hc; j++) memcpy(x + (size_t)j * args->n_embd, x, args->n_embd * sizeof *x);
}

void ref_embed(struct backend *b, const struct embed_args *args)
{
    ensure(args->table.n_in == args->n_embd);
    ref_run(b, embed_row, args, args->n_rows);
}
