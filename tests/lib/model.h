/* model.h - generated model files for tests: made once per build folder by the program's own generator. */
#ifndef DS4_TESTS_MODEL_H
#define DS4_TESTS_MODEL_H

#include "ds4.h"

/* Path of build/fixtures/NAME.gguf, made with `ds4 fixture ARGS... -o PATH` when it is not there (args: one string,
 * words separated by single spaces). Aborts the test program when that fails. */
const char *model_file(const char *name, const char *args);
/* `ds4 fixture ARGS... -o PATH`; aborts the test program when that fails. */
void model_generate(const char *path, const char *args);
/* The random-weight model of the test vectors. */
const char *model_tiny(void);
/* An odd one: nothing of it is a multiple of what Flash has. */
const char *model_odd(void);

/* Opens with the given options (model_path is filled in) and fails the test on an error. */
struct ds4_engine *model_open(const char *path, struct ds4_engine_options options);
/* Token i of the test stream: splitmix64 of "tokens", modulo n_vocab. */
int32_t model_token(size_t i, uint32_t n_vocab);

#endif
