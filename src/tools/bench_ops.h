/* bench_ops.h - `ds4 bench ops`: speed of matrix products in each weight format. */
#ifndef DS4_TOOLS_BENCH_OPS_H
#define DS4_TOOLS_BENCH_OPS_H

/* argv[0] is "ops". Returns enum exit_code. */
int cmd_bench_ops(int argc, char **argv);

#endif
