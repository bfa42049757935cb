/* fixture_weights.h - any tensor of the generated test model `ds4-tiny`, by its official name: weights come from the
 * splitmix64 stream seeded by the FNV-1a of the name, so nothing is shipped. Source: model spec section 8. Written from
 * the specification apart from the program's own fixture command, so that one checks the other. */
#ifndef DS4_TESTS_FIXTURE_WEIGHTS_H
#define DS4_TESTS_FIXTURE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TINY_VOCAB = 512, TINY_EMBD = 256, TINY_LAYERS = 8, TINY_HEADS = 8, TINY_DIM = 192, TINY_ROPE = 64,
    TINY_Q_RANK = 64, TINY_GROUPS = 2, TINY_O_RANK = 64, TINY_WINDOW = 32, TINY_INDEX_HEADS = 4, TINY_INDEX_DIM = 128,
    TINY_TOP_K = 8, TINY_EXPERTS = 16, TINY_USED = 4, TINY_FF = 256, TINY_HC = 4, TINY_MIX = 24
};

/* Shape ([rows][cols], rows 1 for vectors) and scale of a tensor. */
struct tiny_tensor {
    uint32_t rows, cols;
    float scale, offset;
};
/* false: ds4-tiny has no such tensor. */
bool tiny_tensor_find(const char *name, struct tiny_tensor *out);
/* Values of a tensor. Owns: mem_free. Fails the test for an unknown name. */
float *tiny_tensor_values(const char *name);
/* Table [vocab][used] of a hash-routed layer. Owns: mem_free. */
int32_t *tiny_hash_table(uint32_t layer);
/* offset + q scale / 128 for the first n entries of the stream of `name`. */
void tiny_uniform(const char *name, size_t n, float scale, float offset, float *values);

#endif
