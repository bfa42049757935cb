/* tools.h - the commands of this folder that look into models: one file each. */
#ifndef DS4_TOOLS_TOOLS_H
#define DS4_TOOLS_TOOLS_H

int cmd_tokenize(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_kv(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_imatrix(int argc, char **argv);
int cmd_selftest(int argc, char **argv);

#endif
