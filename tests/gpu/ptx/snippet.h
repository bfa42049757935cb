/* snippet.h - a few lines of PTX run on 32 lanes, for the tests of the interpreter itself. */
#ifndef DS4_TESTS_GPU_PTX_SNIPPET_H
#define DS4_TESTS_GPU_PTX_SNIPPET_H

#include <stdio.h>

#include "gpu/ptx/ptx.h"
#include "lib/test.h"

#define SNIPPET_IN 8  /* words of each thread */
#define SNIPPET_OUT 8

/* The kernel `k` around some lines. Before them %r1 to %r8 and %f1 to %f8 hold the words of the thread in `in` (bits),
 * %rd1 = %r1 + 2^32 %r2 and %rd2 the same of %r3 and %r4, %rd10 and %rd11 the addresses of all of in and out. Behind
 * them %r11 to %r18 are stored to `out`. Declarations come first. */
#define SNIPPET_TEXT \
    ".version 8.0\n.target sm_90\n.address_size 64\n%s\n" \
    ".visible .entry k(.param .u64 k_in, .param .u64 k_out)\n.maxntid 128, 1, 1\n{\n" \
    ".reg .pred %%p<16>;\n.reg .b16 %%rs<32>;\n.reg .b32 %%r<64>;\n.reg .f32 %%f<64>;\n.reg .b64 %%rd<32>;\n" \
    "ld.param.u64 %%rd10, [k_in];\nld.param.u64 %%rd11, [k_out];\nmov.u32 %%r0, %%tid.x;\n" \
    "mul.wide.u32 %%rd12, %%r0, 32;\nadd.s64 %%rd13, %%rd10, %%rd12;\nadd.s64 %%rd14, %%rd11, %%rd12;\n" \
    "ld.global.v4.u32 {%%r1, %%r2, %%r3, %%r4}, [%%rd13];\n" \
    "ld.global.v4.u32 {%%r5, %%r6, %%r7, %%r8}, [%%rd13+16];\n" \
    "mov.b32 %%f1, %%r1;\nmov.b32 %%f2, %%r2;\nmov.b32 %%f3, %%r3;\nmov.b32 %%f4, %%r4;\n" \
    "mov.b32 %%f5, %%r5;\nmov.b32 %%f6, %%r6;\nmov.b32 %%f7, %%r7;\nmov.b32 %%f8, %%r8;\n" \
    "mov.b64 %%rd1, {%%r1, %%r2};\nmov.b64 %%rd2, {%%r3, %%r4};\n" \
    "mov.u32 %%r11, 0;\nmov.u32 %%r12, 0;\nmov.u32 %%r13, 0;\nmov.u32 %%r14, 0;\n" \
    "mov.u32 %%r15, 0;\nmov.u32 %%r16, 0;\nmov.u32 %%r17, 0;\nmov.u32 %%r18, 0;\n" \
    "%s\n" \
    "st.global.v4.u32 [%%rd14], {%%r11, %%r12, %%r13, %%r14};\n" \
    "st.global.v4.u32 [%%rd14+16], {%%r15, %%r16, %%r17, %%r18};\nret;\n}\n"

static inline struct ptx_module *snippet_module(const char *globals, const char *lines, char *error, size_t error_size)
{
    static char text[1 << 16];
    int n = snprintf(text, sizeof text, SNIPPET_TEXT, globals, lines);
    assert_true(n > 0 && (size_t)n < sizeof text);
    return ptx_load(text, (size_t)n, error, error_size);
}

/* Runs the lines in n_groups groups of n_threads threads; groups see the same words. False with the sentence when they
 * are stopped; text that is refused fails the test. */
static inline bool snippet_try(const char *globals, const char *lines, unsigned n_groups, unsigned n_threads,
                               uint32_t in[][SNIPPET_IN], uint32_t out[][SNIPPET_OUT], char *error, size_t error_size)
{
    struct ptx_module *module = snippet_module(globals, lines, error, error_size);
    if (!module) fail_msg("%s", error);
    uint64_t addresses[2] = {(uint64_t)(uintptr_t)in, (uint64_t)(uintptr_t)out};
    void *params[2] = {&addresses[0], &addresses[1]};
    const struct ptx_region regions[2] = {{in, n_threads * SNIPPET_IN * 4ull, false},
                                          {out, n_threads * SNIPPET_OUT * 4ull, true}};
    const struct ptx_memory memory = {regions, 2};
    const unsigned grid[3] = {n_groups, 1, 1};
    bool good = ptx_launch(ptx_kernel(module, "k"), grid, n_threads, params, &memory, error, error_size);
    ptx_free(module);
    return good;
}

/* One group of 32 threads, which must come to its end. */
static inline void snippet_run(const char *lines, uint32_t in[32][SNIPPET_IN], uint32_t out[32][SNIPPET_OUT])
{
    char error[512];
    if (!snippet_try("", lines, 1, 32, in, out, error, sizeof error)) fail_msg("%s", error);
}

#endif
