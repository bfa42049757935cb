/* fixture_file.h - model files with generated weights, made by the program under test when a test needs one. */
#ifndef DS4_TESTS_FIXTURE_FILE_H
#define DS4_TESTS_FIXTURE_FILE_H

/* Path of a file made by `ds4 fixture ARGUMENTS -o PATH` in the test's own directory (test_dir); made once for each
 * arguments. Fails the test when the program does. */
const char *fixture_file(const char *arguments);

/* The arguments of a model of all layer kinds that is made and run in a moment: small rows, few experts. */
#define FIXTURE_SMALL \
    "random --layers 4 --ratios 0,4,128,4 --dim 64 --heads 2 --head-dim 128 --q-rank 32 --o-groups 1 --o-rank 32 " \
    "--window 16 --index-heads 2 --index-dim 128 --index-topk 8 --experts 4 --used 2 --inner 32 --hash-layers 1 " \
    "--vocab 512 --hc 2 --context 4096"

#endif
