/* model.h - generated model files for tests: made once per build folder by the program's own generator. */
#ifndef DS4_TESTS_MODEL_H
#define DS4_TESTS_MODEL_H

#include "ds4.h"

/* Writes path as `ds4 fixture ARGS... -o PATH` does (args: one string, words separated by single spaces). Aborts the
 * test program when that fails. */
void model_generate(const char *path, const char *args);
/* Path of a file in build/fixtures, named by NAME and a digest of the arguments, written when it is not there or older
 * than the program. */
const char *model_file(const char *name, const char *args);
/* The random-weight model of the test vectors. */
const char *model_tiny(void);
/* The same weights as Q8_0 (they are exact in it), a tenth of the bytes: for tests that evaluate many tokens. */
const char *model_tiny_q8(void);
/* The smallest with every kind of layer: for tests that are not about the model. */
const char *model_micro(void);
/* An odd one: nothing of it is a multiple of what Flash has. */
const char *model_odd(void);
/* All kinds of layers in 2 MB: made, opened and run in a moment. */
const char *model_small(void);
#define MODEL_SMALL_ARGS \
    "random --layers 4 --ratios 0,4,128,4 --dim 64 --heads 2 --head-dim 128 --q-rank 32 --o-groups 1 --o-rank 32 " \
    "--window 16 --index-heads 2 --index-dim 128 --index-topk 8 --experts 4 --used 2 --inner 32 --hash-layers 1 " \
    "--vocab 512 --hc 2 --context 4096"

/* Opens with the given options (model_path is filled in) and fails the test on an error. */
/* Tests that try every position try every MODEL_STRIDE-th one where the build is slow. Odd, so that all residues mod a
 * power of two still come up. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MODEL_STRIDE 7u
#else
#define MODEL_STRIDE 1u
#endif

struct ds4_engine *model_open(const char *path, struct ds4_engine_options options);
/* A copy of a session's span, for free(). */
uint8_t *model_span(const struct ds4_engine *engine, const struct ds4_session *session, size_t i);
/* Token i of the test stream: splitmix64 of "tokens", modulo n_vocab. */
int32_t model_token(size_t i, uint32_t n_vocab);

#endif
